"""Mixed examples: two images of a batch made into one, in pixels or in the features of a layer, with both labels.

What is learned from them is by how much an example belongs to either class, so only objectives that compare it with
all classes can take them (see ``WeightedSum.mixed``); triplets and pairs know no half of a class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from siamese_utils.errors import ConfigError

MIXINGS = ("cutmix", "manifold")


@dataclass(frozen=True, eq=False)
class Mixture:
    """Which image each image of a batch is mixed with, and how much of its own is left.

    Attributes:
        partner: int64 (B,), positions in the batch.
        share: of the own image, 0 to 1.
    """

    partner: torch.Tensor
    share: float


def draw_mixture(count: int, generator: torch.Generator, concentration: float = 1.0) -> Mixture:
    """Partners by a permutation of the batch, and a share from the symmetric beta distribution.

    Args:
        count: B.
        generator: on the CPU.
        concentration: both parameters of the distribution, a whole number; 1 takes all shares alike.
    """
    partner = torch.randperm(count, generator=generator)
    # The k-th smallest of 2k - 1 uniform numbers has the beta distribution of k and k.
    whole = int(concentration)
    share = torch.rand(2 * whole - 1, generator=generator).sort().values[whole - 1]
    return Mixture(partner, float(share))


def cut_mix(pixels: torch.Tensor, mixture: Mixture, generator: torch.Generator) -> tuple[torch.Tensor, Mixture]:
    """Put a rectangle of each image's partner into it, at the same place in the whole batch.

    Yun et al., *CutMix: regularization strategy to train strong classifiers with localizable features* (2019), section
    3.1: the rectangle has the image's proportions, its middle lies anywhere, and what lies outside is cut off.

    Args:
        pixels: float (B, C, H, W); stays as it is.
        mixture: of the batch.
        generator: on the CPU.

    Returns:
        float (B, C, H, W), and the mixture with the share of the pixels that are left, which is what counts.
    """
    height, width = pixels.shape[-2:]
    part = math.sqrt(1 - mixture.share)
    (top, bottom), (left, right) = (_stretch(side, part, generator) for side in (height, width))
    mixed = pixels.clone()
    mixed[..., top:bottom, left:right] = pixels[mixture.partner.to(pixels.device), :, top:bottom, left:right]
    left_over = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, Mixture(mixture.partner, left_over)


def _stretch(side: int, part: float, generator: torch.Generator) -> tuple[int, int]:
    """Begin and end of a part of a side around a random middle, as far as it lies inside."""
    middle, half = int(torch.randint(0, side, (), generator=generator)), round(part * side / 2)
    return max(0, middle - half), min(side, middle + half)


def mixable_layers(body: nn.Module) -> list[nn.Module]:
    """The stages of a body after which features can be mixed: all whose result still has positions.

    Raises:
        ConfigError: the body is no sequence of stages.
    """
    stages = list(body.children()) if isinstance(body, nn.Sequential) else []
    last = next((at for at, stage in enumerate(stages) if isinstance(stage, nn.AdaptiveAvgPool2d)), 0)
    if not last:
        raise ConfigError(
            "TrainConfig: mixing 'manifold' needs an encoder that is a sequence of stages, such as resnet9-32; choose "
            "another encoder or 'cutmix'."
        )
    return stages[:last]


@contextmanager
def mixed_features(layer: nn.Module, mixture: Mixture) -> Iterator[None]:
    """While it lasts, a layer's result is mixed with that of each image's partner.

    Verma et al., *Manifold mixup: better representations by interpolating hidden states* (2019), section 2; used for
    few-shot features by Mangla et al., *Charting the right manifold* (2020).
    """

    def mix(_: nn.Module, __: tuple[torch.Tensor, ...], features: torch.Tensor) -> torch.Tensor:
        return torch.lerp(features[mixture.partner.to(features.device)], features, mixture.share)

    handle = layer.register_forward_hook(mix)
    try:
        yield
    finally:
        handle.remove()
