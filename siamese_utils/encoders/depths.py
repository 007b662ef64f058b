"""Two depths of one network as one embedding: what its last stage has kept, and what the stage before still knew.

The last features are made for telling the learned classes apart, and let go of what these do without. A new class may
need some of it. The maps of both stages are there when an image has gone through the network, so they cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

    def __init__(self, encoder: Encoder, images: np.ndarray | torch.Tensor) -> None:
        images = as_images(images)
        if not len(images):
            raise ShapeError("Two depths are centred by images of the classes that were learned, but there is none.")
        self._ask(encoder)
        with torch.no_grad():
            self.centre.copy_(self._directions(images).mean(dim=0))
            self.centre[: self.sizes[0]] = self.lengths[0] * encoder.centre  # the own part stays as it was

    @classmethod
    def of_centre(cls, encoder: Encoder, centre: torch.Tensor) -> TwoDepths:
        """The same with a centre that was found before, float (D,), so that no images are needed.

        Raises:
            ConfigError: see above.
            ShapeError: the centre is that of another network.
        """
        deep = cls.__new__(cls)
        deep._ask(encoder)
        if centre.shape != deep.centre.shape:
            raise ShapeError(f"{deep.name} has a centre of {deep.embedding_dim} numbers, not of {tuple(centre.shape)}.")
        deep.centre.copy_(centre)
        return deep

    def _ask(self, encoder: Encoder) -> None:
        """Take the encoder and find the sizes of its parts; their centre is left at zero."""
        pool, halving = _pool_and_halving(encoder)
        side = encoder.image_size
        with torch.no_grad(), _inputs_of(pool, halving) as maps:
            encoder.features(torch.zeros(1, side, side, 3, dtype=torch.uint8))
        last, before = (maps[stage].shape[1] for stage in (pool, halving))
        sizes = (encoder.embedding_dim, last, before, before)
        super().__init__(f"{encoder.name} at two depths", sum(sizes), side, encoder.mirror, encoder.note)
        self.encoder, self.sizes = encoder, sizes
        self._stages = (pool, halving)  # in a tuple, so that they do not count as modules twice
        self.pixel_mean.copy_(encoder.pixel_mean)
        self.pixel_std.copy_(encoder.pixel_std)
        lengths = torch.tensor([1.0, *[SHARE] * (len(sizes) - 1)])
        self.lengths = tuple((lengths / lengths.norm()).tolist())
        self.train(encoder.training).to(encoder.pixel_mean.device)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """The four parts side by side: float (N, 3, H, W) to float (N, D), each of any length."""
        pool, halving = self._stages
        with _inputs_of(pool, halving) as maps:
            own = self.encoder(pixels)
        last, before = maps[pool].float(), maps[halving].float()
        other = _largest(last) if isinstance(pool, nn.AdaptiveAvgPool2d) else _mean(last)
        return torch.cat([own.float(), other, _mean(before), _largest(before)], dim=1)

    def own(self, z: torch.Tensor) -> torch.Tensor:
        """Of embeddings float (N, D) the network's own part, rows of unit length: what ``encoder.embed`` gives."""
        return F.normalize(z[:, : self.sizes[0]], dim=1)

    def _unit(self, features: torch.Tensor) -> torch.Tensor:
        """Each part at its own length, so that all together have length one."""
        parts = zip(self.lengths, features.split(self.sizes, dim=1), strict=True)
        return torch.cat([length * F.normalize(part, dim=1) for length, part in parts], dim=1)


def _mean(maps: torch.Tensor) -> torch.Tensor:
    return maps.mean(dim=(2, 3))


def _largest(maps: torch.Tensor) -> torch.Tensor:
    return maps.amax(dim=(2, 3))


def _pool_and_halving(encoder: Encoder) -> tuple[nn.Module, nn.Module]:
    """The pooling at the end of a body, and the last of the stages before it that halves its map."""
    stages = list(encoder.body.children()) if isinstance(encoder.body, nn.Sequential) else []
    at = next((n for n, stage in enumerate(stages) if isinstance(stage, _POOLINGS)), 0)
    halvings = [stage for stage in stages[1:at] if any(isinstance(part, nn.MaxPool2d) for part in stage.modules())]
    if not halvings:
        raise ConfigError(
            f"Two depths need a network that is a sequence of stages with poolings between, such as resnet9-32 or "
            f"airbench, not {encoder.name}."
        )
    return stages[at], halvings[-1]


_POOLINGS = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@contextmanager
def _inputs_of(*stages: nn.Module) -> Iterator[dict[nn.Module, torch.Tensor]]:
    """While it lasts, what goes into stages is kept, by the stage."""
    maps: dict[nn.Module, torch.Tensor] = {}

    def keep(stage: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
        maps[stage] = given[0]

    handles = [stage.register_forward_pre_hook(keep) for stage in stages]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()
