"""What embeds images: raw images of any size in, unit vectors out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.pixels import to_float
from siamese_utils.data.squares import square_batches
from siamese_utils.encoders.views import side_for, views_of

_EMBEDDING = "siamese_utils.embedding/1"  # to be raised when the same weights embed the same image otherwise


class ImageEncoder(nn.Module):
    """A network with what it takes to embed raw images: ``forward`` is what its subclasses add.

    Args:
        name: what it is called.
        embedding_dim: size of an embedding.
        image_size: side in pixels of the square images that the network takes.
        mirror: whether an image and its mirror image mean the same, as for photographs and not for letters;
            ``embed`` then averages over the two.
        note: one sentence on classes that may not be new to it, or nothing.

    Attributes:
        source: the name or the path that ``load_encoder`` found it by, or nothing.
    """

    batch_size = 100  # images a forward pass unless another number is asked for
    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor
    centre: torch.Tensor

    def __init__(self, name: str, embedding_dim: int, image_size: int, mirror: bool = True, note: str = "") -> None:
        super().__init__()
        self.name, self.embedding_dim, self.image_size = name, embedding_dim, image_size
        self.mirror, self.note, self.source = mirror, note, ""
        self.register_buffer("pixel_mean", torch.full((3,), 127.5))
        self.register_buffer("pixel_std", torch.full((3,), 64.0))
        self.register_buffer("centre", torch.zeros(embedding_dim))

    @property
    def views(self) -> str:
        """The views that ``embed`` takes of an image unless others are asked for."""
        return "mirror" if self.mirror else "none"

    def input_side(self, views: str | None = None) -> int:
        """Side in pixels of images that ``embed`` takes as they are, for those who load files beforehand.

        Args:
            views: as will be given to ``embed``.

        Raises:
            UnknownNameError: no such views.
        """
        return side_for(self.image_size, self.views if views is None else views)

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of all that decides an embedding: weights, statistics, image size and own views.

        It is the same on every machine. Embeddings with other ``views`` need a key of their own.
        """
        settings = [_EMBEDDING, self.name, self.image_size, self.views]
        return digest(json.dumps(settings), self.state_dict())

    @torch.no_grad()
    def embed(self, images: Any, batch_size: int | None = None, views: str | None = None) -> torch.Tensor:
        """Embed raw images.

        The directions of an image and of its mirror image are averaged, unless other views are asked for; the mean
        direction of the training classes (``centre``) is taken away, which spreads out what all classes share; the
        result is scaled to unit length, so that a dot product of two rows is their cosine similarity.

        Args:
            images: uint8 (N, H, W, 3), an array or a tensor; or a list of images of any sizes, each of them uint8
                (H, W, 3) or (H, W), an image of Pillow, or the path of a file; or one path. Where the size is not
                the encoder's, the middle square is cut out and scaled, as by ``load_image``.
            batch_size: images a forward pass, by default as many as suit the encoder; it does not change the result
                beyond rounding.
            views: ``"none"``, ``"mirror"``, or ``"shifts"`` for the mean of ten, five crops of a slightly larger
                image and their mirror images, at five times the cost of two; by default the encoder's own. Crops
                help where objects lie off the middle, and not where they fill the image.

        Returns:
            float32 (N, D) on the CPU, rows of unit length.

        Raises:
            ShapeError: the images have another shape or type, or a batch is to hold none.
            ImageError: a file cannot be read.
            UnknownNameError: no such views.
        """
        return self.unit(self._directions(images, batch_size, views) - self.centre.cpu())

    def _directions(self, images: Any, batch_size: int | None = None, views: str | None = None) -> torch.Tensor:
        """Unit-length features of each image, averaged over its views, before centring."""
        views = self.views if views is None else views

        def direction(batch: torch.Tensor) -> torch.Tensor:
            seen = views_of(to_float(batch, self.pixel_mean, self.pixel_std), self.image_size, views)
            directions = [self.unit(self(view).float()) for view in seen]
            return directions[0] if len(directions) == 1 else self.unit(sum(directions[1:], directions[0]))

        size = self.batch_size if batch_size is None else batch_size
        return self._rows(direction, square_batches(images, self.input_side(views), size))

    def unit(self, features: torch.Tensor) -> torch.Tensor:
        """Features float (N, D) scaled as embeddings are, to unit length."""
        return F.normalize(features, dim=1)

    def _rows(self, compute: Callable[[torch.Tensor], torch.Tensor], batches: Iterable[torch.Tensor]) -> torch.Tensor:
        """What is computed of each batch, in evaluation mode and on the encoder's device; (N, D) on the CPU."""
        # Each by itself, since parts of a network in training may be kept in evaluation mode on purpose.
        training, device = [module for module in self.modules() if module.training], self.pixel_mean.device
        if training:
            self.eval()
        try:
            rows = [compute(batch.to(device)).cpu() for batch in batches]
        finally:
            for module in training:
                module.training = True
        return torch.cat(rows) if rows else torch.empty(0, self.embedding_dim)


def digest(settings: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Hexadecimal digest of settings and of tensors by name, wherever they lie."""
    content = hashlib.blake2b(settings.encode(), digest_size=16)
    for key, tensor in sorted(tensors.items()):
        content.update(f"\n{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        content.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return content.hexdigest()
