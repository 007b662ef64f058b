"""Encoders: the twin networks of a Siamese pair, each mapping an image to an embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from siamese_utils.data.arrays import as_count, as_embeddings, as_flag, as_list
from siamese_utils.data.pixels import as_images, to_float
from siamese_utils.encoders.backbones import ENCODERS, Whitening
from siamese_utils.encoders.base import ImageEncoder, digest
from siamese_utils.errors import ConfigError, ShapeError, look_up

_WHITENING_IMAGES = 5_000


class Encoder(ImageEncoder):
    """A convolutional body, an optional linear projection, and what it takes to embed raw images.

    Besides its weights an encoder carries three buffers, so that a checkpoint is all that is needed to
    embed an image: the colour statistics of its training images, and the centre of its embeddings.

    Args:
        name: a name in ``ENCODERS``.
        embedding_dim: size of the embedding; ``None`` takes the body's features as they are.
        image_size: side in pixels of the square images it is made for.
        mirror: whether an image and its mirror image mean the same, as for photographs and not for letters;
            ``embed`` then averages over the two.

    Raises:
        UnknownNameError: no such encoder.
        ConfigError: the embedding size is not positive, or the image size is no whole number of pixels.
    """

    def __init__(self, name: str, embedding_dim: int | None = None, image_size: int = 32, mirror: bool = True) -> None:
        make_body = look_up("encoder", name, ENCODERS)
        if embedding_dim is not None:
            embedding_dim = as_count("An embedding has at least one dimension: their number", embedding_dim)
        side = as_count("The side of an encoder's images in whole numbers of pixels", image_size)
        mirror = as_flag("mirror", mirror)
        body, features = make_body()
        super().__init__(name, embedding_dim or features, side, mirror)
        self.body = body
        self.projection: nn.Module = nn.Identity() if embedding_dim is None else nn.Linear(features, embedding_dim)
        self.projected = embedding_dim is not None

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of normalised images: float (N, 3, H, W) to float (N, D), not of unit length."""
        return self.projection(self.body(pixels))

    @torch.no_grad()
    def features(self, images: np.ndarray | torch.Tensor, batch_size: int = 100) -> torch.Tensor:
        """Features of raw images as the network gives them: not mirrored, centred or scaled, unlike in ``embed``.

        Args:
            images: uint8 (N, H, W, 3).
            batch_size: images a forward pass.

        Returns:
            float32 (N, D) on the CPU.

        Raises:
            ShapeError: the images have another shape or type, or a batch is to hold none.
        """
        images = as_images(images)

        def features(batch: torch.Tensor) -> torch.Tensor:
            return self(to_float(batch, self.pixel_mean, self.pixel_std)).float()

        return self._rows(features, _batches(images, batch_size))

    @torch.no_grad()
    def set_pixel_statistics(self, images: np.ndarray | torch.Tensor) -> None:
        """Take mean and standard deviation of each colour channel from training images, uint8 (N, H, W, 3).

        A body that begins with a ``Whitening`` takes its kernels from some of them.

        Raises:
            ShapeError: the images have another shape or type, or there is none.
        """
        images = _some(images)
        # Whole-number sums are exact and independent of the order of the images.
        counts = torch.stack([torch.bincount(images[..., c].reshape(-1), minlength=256) for c in range(3)])
        counts = counts.cpu()  # not every device has numbers of 64 bits
        levels = torch.arange(256, dtype=torch.float64)
        total = counts.sum(dim=1).to(torch.float64)
        mean = (counts * levels).sum(dim=1) / total
        variance = (counts * levels**2).sum(dim=1) / total - mean**2
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(variance.clamp(min=1.0).sqrt())
        some = images[:: max(1, len(images) // _WHITENING_IMAGES)]
        for module in self.body.modules():
            if isinstance(module, Whitening):
                module.fit(to_float(some.to(self.pixel_mean.device), self.pixel_mean, self.pixel_std))

    @torch.no_grad()
    def set_centre(self, images: np.ndarray | torch.Tensor, batch_size: int = 100) -> None:
        """Store the mean direction of training images (uint8 (N, H, W, 3)) as the centre that ``embed`` removes.

        Raises:
            ShapeError: the images have another shape or type, there is none, or a batch is to hold none.
        """
        self.centre.copy_(self._directions(_some(images), batch_size).mean(dim=0))


def checked_encoder(given: Any) -> Any:
    """The same, if it embeds images.

    Raises:
        ConfigError: it does not.
    """
    if isinstance(given, type) or not (hasattr(given, "embed") and hasattr(given, "embedding_dim")):
        raise ConfigError(f"An encoder is needed, not a {type(given).__name__}; load one with load_encoder.")
    return given


class Ensemble:
    """Several encoders as one: the similarity of two images is the mean of the members' cosine similarities.

    Args:
        members: one encoder or more, made for images of the same size.

    Raises:
        ConfigError: no members, something else, or of different image sizes.
    """

    def __init__(self, members: Sequence[ImageEncoder]) -> None:
        self.members = tuple(checked_encoder(member) for member in as_list(members))
        if not self.members:
            raise ConfigError("An ensemble needs at least one encoder.")
        if len({member.image_size for member in self.members}) > 1:
            raise ConfigError("The encoders of an ensemble must take images of the same size.")
        self.image_size = self.members[0].image_size
        self.embedding_dim = sum(member.embedding_dim for member in self.members)

    @property
    def name(self) -> str:
        """The members' names."""
        return " + ".join(member.name for member in self.members)

    @property
    def note(self) -> str:
        """What is to be said of the members' training; see ``ImageEncoder``."""
        return " ".join(dict.fromkeys(member.note for member in self.members if member.note))

    @property
    def views(self) -> str:
        """The views that the first member takes unless others are asked for."""
        return self.members[0].views

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of all that decides an embedding; see ``ImageEncoder.fingerprint``."""
        return digest(" ".join(member.fingerprint for member in self.members), {})

    def input_side(self, views: str | None = None) -> int:
        """Side in pixels of images that ``embed`` takes as they are; see ``ImageEncoder.input_side``."""
        return max(member.input_side(views) for member in self.members)

    def embed(self, images: Any, batch_size: int | None = None, views: str | None = None) -> torch.Tensor:
        """Embed raw images; see ``ImageEncoder.embed``.

        Args:
            images: see ``ImageEncoder.embed``.
            batch_size: images a forward pass.
            views: see ``ImageEncoder.embed``.

        Returns:
            float32 (N, D), the members' embeddings side by side, rows of unit length.

        Raises:
            ShapeError: the images have another shape or type.
            ImageError: a file cannot be read.
            UnknownNameError: no such views.
        """
        given = {name: value for name, value in (("batch_size", batch_size), ("views", views)) if value is not None}
        return joined([member.embed(images, **given) for member in self.members])


def joined(embeddings: Sequence[torch.Tensor]) -> torch.Tensor:
    """Embeddings by several encoders as one, whose dot products are the means of theirs.

    Args:
        embeddings: each float32 (N, D_i), rows of unit length.

    Returns:
        float32 (N, sum of D_i), rows of unit length.

    Raises:
        ShapeError: none, or of different numbers of images.
    """
    tables = [as_embeddings(z) for z in as_list(embeddings)]
    if len({len(z) for z in tables}) != 1:
        raise ShapeError("Embeddings to be joined must be of the same images, by at least one encoder.")
    return torch.cat(tables, dim=1) / math.sqrt(len(tables))


def _some(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """One image or more, uint8 (N, H, W, 3)."""
    images = as_images(images)
    if not images.numel():
        raise ShapeError("Statistics need one image or more, but there is none.")
    return images


def _batches(images: torch.Tensor, batch_size: int) -> tuple[torch.Tensor, ...]:
    """The images in batches, the last perhaps smaller; of no images no batch."""
    size = as_count("The number of images in a batch", batch_size, error=ShapeError)
    return images.split(size) if len(images) else ()


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
