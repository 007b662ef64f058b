"""Encoders: the twin networks of a Siamese pair, each mapping an image to an embedding."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.pixels import check_images, to_float
from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.errors import ConfigError, ShapeError, unknown


class Encoder(nn.Module):
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

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor
    centre: torch.Tensor

    def __init__(self, name: str, embedding_dim: int | None = None, image_size: int = 32, mirror: bool = True) -> None:
        super().__init__()
        if name not in ENCODERS:
            raise unknown("encoder", name, ENCODERS)
        if embedding_dim is not None and embedding_dim < 1:
            raise ConfigError(f"An embedding needs at least one dimension, not {embedding_dim}.")
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
            raise ConfigError(f"The side of an encoder's images is a whole number of pixels, not {image_size!r}.")
        self.name = name
        self.image_size = image_size
        self.mirror = mirror
        self.body, features = ENCODERS[name]()
        self.projection: nn.Module = nn.Identity() if embedding_dim is None else nn.Linear(features, embedding_dim)
        self.projected = embedding_dim is not None
        self.embedding_dim = embedding_dim or features
        self.register_buffer("pixel_mean", torch.full((3,), 127.5))
        self.register_buffer("pixel_std", torch.full((3,), 64.0))
        self.register_buffer("centre", torch.zeros(self.embedding_dim))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of normalised images: float (N, 3, H, W) to float (N, D), not of unit length."""
        return self.projection(self.body(pixels))

    @torch.no_grad()
    def embed(self, images: np.ndarray | torch.Tensor, batch_size: int = 100) -> torch.Tensor:
        """Embed raw images.

        The direction of an image and of its mirror image are averaged, unless ``mirror`` is off; the mean direction of
        the training classes (``centre``) is taken away, which spreads out what all classes share; the result
        is scaled to unit length, so that a dot product of two rows is their cosine similarity.

        Args:
            images: uint8 (N, H, W, 3) with H = W = ``image_size``.
            batch_size: images a forward pass; it does not change the result beyond rounding.

        Returns:
            float32 (N, D) on the CPU, rows of unit length.

        Raises:
            ShapeError: the images have another shape or type, or a batch is to hold none.
        """
        if batch_size < 1:
            raise ShapeError(f"A batch holds one image or more, not {batch_size}.")
        images = _as_images(images)
        if tuple(images.shape[1:3]) != (self.image_size, self.image_size):
            raise ShapeError(
                f"This encoder takes images of {self.image_size}x{self.image_size} pixels, got "
                f"{images.shape[1]}x{images.shape[2]}; resize them, for example with siamese_utils.load_image."
            )
        directions = self._directions(images, batch_size)
        return F.normalize(directions - self.centre.cpu(), dim=1)

    @torch.no_grad()
    def features(self, images: np.ndarray | torch.Tensor, batch_size: int = 100) -> torch.Tensor:
        """Features of raw images as the network gives them: not mirrored, centred or scaled, unlike in ``embed``.

        Args:
            images: uint8 (N, H, W, 3).
            batch_size: images a forward pass.

        Returns:
            float32 (N, D) on the CPU.

        Raises:
            ShapeError: the images have another shape or type.
        """
        images = _as_images(images)
        was_training, device = self.training, self.pixel_mean.device
        self.eval()
        try:
            batches = images.split(batch_size)
            rows = [self(to_float(b.to(device), self.pixel_mean, self.pixel_std)).float().cpu() for b in batches]
        finally:
            self.train(was_training)
        return torch.cat(rows)

    def _directions(self, images: torch.Tensor, batch_size: int) -> torch.Tensor:
        """Unit-length features of each image, averaged with those of its mirror image, before centring."""
        was_training, device = self.training, self.pixel_mean.device
        self.eval()
        try:
            rows = []
            for batch in images.split(batch_size):
                pixels = to_float(batch.to(device), self.pixel_mean, self.pixel_std)
                direction = F.normalize(self(pixels).float(), dim=1)
                if self.mirror:
                    direction = F.normalize(direction + F.normalize(self(pixels.flip(3)).float(), dim=1), dim=1)
                rows.append(direction.cpu())
        finally:
            self.train(was_training)
        return torch.cat(rows) if rows else torch.empty(0, self.embedding_dim)

    @torch.no_grad()
    def set_pixel_statistics(self, images: torch.Tensor) -> None:
        """Take mean and standard deviation of each colour channel from training images, uint8 (N, H, W, 3)."""
        check_images(images)
        # Whole-number sums are exact and independent of the order of the images.
        counts = torch.stack([torch.bincount(images[..., c].reshape(-1), minlength=256) for c in range(3)])
        levels = torch.arange(256, dtype=torch.float64)
        total = counts.sum(dim=1).to(torch.float64)
        mean = (counts * levels).sum(dim=1) / total
        variance = (counts * levels**2).sum(dim=1) / total - mean**2
        self.pixel_mean.copy_(mean)
        self.pixel_std.copy_(variance.clamp(min=1.0).sqrt())

    @torch.no_grad()
    def set_centre(self, images: torch.Tensor, batch_size: int = 100) -> None:
        """Store the mean direction of training images (uint8 (N, H, W, 3)) as the centre that ``embed`` removes."""
        self.centre.copy_(self._directions(images, batch_size).mean(dim=0))


class Ensemble:
    """Several encoders as one: the similarity of two images is the mean of the members' cosine similarities.

    Args:
        members: one encoder or more, made for images of the same size.

    Raises:
        ConfigError: no members, or of different image sizes.
    """

    def __init__(self, members: Sequence[Encoder]) -> None:
        if not members:
            raise ConfigError("An ensemble needs at least one encoder.")
        if len({member.image_size for member in members}) > 1:
            raise ConfigError("The encoders of an ensemble must take images of the same size.")
        self.members = tuple(members)
        self.image_size = members[0].image_size
        self.embedding_dim = sum(member.embedding_dim for member in members)

    def embed(self, images: np.ndarray | torch.Tensor, batch_size: int = 100) -> torch.Tensor:
        """Embed raw images; see ``Encoder.embed``.

        Args:
            images: uint8 (N, H, W, 3) with H = W = ``image_size``.
            batch_size: images a forward pass.

        Returns:
            float32 (N, D), the members' embeddings side by side, rows of unit length.

        Raises:
            ShapeError: the images have another shape or type.
        """
        return joined([member.embed(images, batch_size) for member in self.members])


def joined(embeddings: Sequence[torch.Tensor]) -> torch.Tensor:
    """Embeddings by several encoders as one, whose dot products are the means of theirs.

    Args:
        embeddings: each float32 (N, D_i), rows of unit length.

    Returns:
        float32 (N, sum of D_i), rows of unit length.

    Raises:
        ShapeError: none, or of different numbers of images.
    """
    if len({len(z) for z in embeddings}) != 1:
        raise ShapeError("Embeddings to be joined must be of the same images, by at least one encoder.")
    return torch.cat(tuple(embeddings), dim=1) / math.sqrt(len(embeddings))


def _as_images(images: np.ndarray | torch.Tensor) -> torch.Tensor:
    """Uint8 images (N, H, W, 3) as a tensor; anything else raises ``ShapeError``."""
    try:
        if isinstance(images, np.ndarray):  # read-only and reversed arrays are copied, torch cannot share them
            images = np.require(images, requirements=["C", "W"])
        images = torch.as_tensor(images)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # no numbers, or rows of different lengths
        kind = f"an array of {images.dtype}" if isinstance(images, np.ndarray) else f"a {type(images).__name__}"
        raise ShapeError(f"Expected uint8 images of shape (N, H, W, 3), got {kind}; make one array of them.") from error
    check_images(images)
    return images


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
