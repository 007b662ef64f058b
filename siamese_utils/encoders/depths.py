"""Two depths of one network as one embedding: what its last stage has kept, and what the stage before still knew.

The last features are made for telling the learned classes apart, and let go of what these do without. A new class may
need some of it. The maps of both stages are there when an image has gone through the network, so they cost nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.pixels import as_images
from siamese_utils.encoders.base import ImageEncoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import ConfigError, ShapeError

SHARE = 0.5  # of the length of each further part, against that of the network's own features


class TwoDepths(ImageEncoder):
    """An encoder that is asked for the maps of its last two stages too, each by its mean and its largest values.

    Its embedding has four parts: the network's own features, which are the mean or the maximum of the last map, the
    other of these two, and both of the map before it was last halved. Each part is centred and scaled by itself,
    as ``Encoder.embed`` does with the whole; the similarity of two images is the mean of their cosine similarities in
    the parts, in which the first one weighs four times as much as each of the others.

    Args:
        encoder: whose body is a sequence of stages that ends with a pooling, such as ``resnet9-32`` or ``airbench``;
            it is used as it is, not copied.
        images: uint8 (M, H, W, 3), some of each class that it has learned: the means of the further parts are taken
            from them. No image of a class to be recognised belongs here.

    Raises:
        ConfigError: the body is no such sequence.
        ShapeError: the images have another shape or type, or there is none.
    """

    lengths: torch.Tensor

    def __init__(self, encoder: Encoder, images: np.ndarray | torch.Tensor) -> None:
        images = as_images(images)
        if not len(images):
            raise ShapeError("Two depths are centred by images of the classes that were learned, but there is none.")
        self._ask(encoder)
        with torch.no_grad():
            self.centre.copy_(self._directions(images).mean(dim=0))
            self.centre[: self.sizes[0]] = self.lengths[0] * encoder.centre  # the own part stays as it was

    @classmethod
    def of_parts(cls, encoder: Encoder, centre: torch.Tensor, lengths: torch.Tensor) -> TwoDepths:
        """The same with what was found before, so that no images are needed.

        Args:
            encoder: see above.
            centre: float (D,).
            lengths: float (4,), of the parts.

        Raises:
            ConfigError: see above.
            ShapeError: they are those of another network.
        """
        deep = cls.__new__(cls)
        deep._ask(encoder)
        if (centre.shape, lengths.shape) != (deep.centre.shape, deep.lengths.shape):
            raise ShapeError(
                f"{deep.name} has a centre of {deep.embedding_dim} numbers and {len(deep.sizes)} parts, not "
                f"{tuple(centre.shape)} and {tuple(lengths.shape)}."
            )
        deep.centre.copy_(centre)
        deep.lengths.copy_(lengths)
        return deep

    def _ask(self, encoder: Encoder) -> None:
        """Take the encoder and find the sizes of its parts; their centre is left at zero."""
        pool, halving = _pool_and_halving(encoder)
        training, side = encoder.training, encoder.image_size
        encoder.eval()
        with torch.no_grad():
            black = torch.zeros(1, 3, side, side, device=encoder.pixel_mean.device)
            parts = [features.shape[1] for features in _parts(encoder, black, pool, halving)]
        encoder.train(training)
        super().__init__(f"{encoder.name} at two depths", sum(parts), side, encoder.mirror, encoder.note)
        self.encoder, self.sizes = encoder, tuple(parts)
        self._stages = (pool, halving)
        self.pixel_mean.copy_(encoder.pixel_mean)
        self.pixel_std.copy_(encoder.pixel_std)
        lengths = torch.tensor([1.0, *[SHARE] * (len(parts) - 1)])
        self.register_buffer("lengths", lengths / lengths.norm())
        self.train(training).to(encoder.pixel_mean.device)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The four parts side by side: float (N, 3, H, W) to float (N, D), each of any length."""
        return torch.cat([part.float() for part in _parts(self.encoder, pixels, *self._stages)], dim=1)

    def own(self, z: torch.Tensor) -> torch.Tensor:
        """Of embeddings float (N, D) the network's own part, rows of unit length: what ``encoder.embed`` gives."""
        return F.normalize(z[:, : self.sizes[0]], dim=1)

    def unit(self, features: torch.Tensor) -> torch.Tensor:
        """Each part at its own length, so that all together have length one."""
        parts = zip(self.lengths.to(features.device), features.split(self.sizes, dim=1), strict=True)
        return torch.cat([length * F.normalize(part, dim=1) for length, part in parts], dim=1)


def _parts(encoder: Encoder, pixels: torch.Tensor, pool: int, halving: int) -> tuple[torch.Tensor, ...]:
    """Features of an encoder, the other pooling of its last map, and both of the map that its last halving gets."""
    last = before = pixels
    for place, stage in enumerate(encoder.body):
        if place == pool:
            last = pixels
        elif place == halving:
            before = pixels
        pixels = stage(pixels)
    other = _largest if isinstance(encoder.body[pool], nn.AdaptiveAvgPool2d) else _mean
    return encoder.projection(pixels), other(last.float()), _mean(before.float()), _largest(before.float())


def _mean(maps: torch.Tensor) -> torch.Tensor:
    return maps.mean(dim=(2, 3))


def _largest(maps: torch.Tensor) -> torch.Tensor:
    return maps.amax(dim=(2, 3))


def _pool_and_halving(encoder: Encoder) -> tuple[int, int]:
    """Which stages of a body are the pooling at its end, and the last of those before it that halves its map."""
    stages = list(encoder.body.children()) if isinstance(encoder.body, nn.Sequential) else []
    pool = next((n for n, stage in enumerate(stages) if isinstance(stage, _POOLINGS)), 0)
    halvings = [n for n in range(1, pool) if any(isinstance(part, nn.MaxPool2d) for part in stages[n].modules())]
    if not halvings:
        raise ConfigError(
            f"Two depths need a network that is a sequence of stages with poolings between, such as resnet9-32 or "
            f"airbench, not {encoder.name}."
        )
    return pool, halvings[-1]


_POOLINGS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)
