"""Fine-tuning of an encoder together with its cosine classifier, when a class was added from a few shots.

After imprinting, Qi, Brown & Lowe (*Low-shot learning with imprinted weights*, CVPR 2018, section 3.3) train the whole
network further. Here its last stage moves, which in a ResNet-9 holds three quarters of all weights; what lies before it
stays, so its maps are computed once, and a run takes seconds. Statistics of batch normalisation stay as well: a few
dozen batches are too few to measure them anew.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.pixels import to_float
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.imprinting import Whitening, imprinted
from siamese_utils.errors import ConfigError, SamplingError, ShapeError
from siamese_utils.system.config import Config, Count, Natural, NotNegative, Positive, Share


class TuningConfig(Config):
    """How the last stage and the classifier are tuned together.

    Attributes:
        steps: steps of AdamW without decay.
        rate: its learning rate for the stage, falling along a cosine to zero.
        weight_rate: the same for the classifier's weights.
        batch: images of old classes a step, every class as often; each seen as it is or mirrored, at random.
        views: shots and mirrored shots a step, at most; drawn at random where there are more.
        frozen_share: share of the steps, at the beginning, in which the old classes' weights are frozen.
        adapt: see ``FineTuneConfig``.
        largest_weight: see ``FineTuneConfig``.
        seed: seeds the draws.
    """

    steps: Count = 30
    rate: NotNegative = 1e-4
    weight_rate: Positive = 0.003
    batch: Count = 80
    views: Count = 32
    frozen_share: Share = 0.0
    adapt: NotNegative = 0.0
    largest_weight: Annotated[float, Field(ge=1)] = 10.0
    seed: Natural = 0


def split_stages(encoder: Encoder) -> tuple[nn.Sequential, nn.Sequential]:
    """The encoder's layers up to its last max-pooling, and those behind it: its last stage.

    Of an airbench, whose blocks pool behind their first convolution, that is the second half of the last block.

    Raises:
        ConfigError: the encoder is no chain of layers with a max-pooling among them.
    """
    layers = _chain(encoder.body) if isinstance(encoder.body, nn.Sequential) else []
    pools = [number for number, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)]
    if not pools or not isinstance(encoder.projection, nn.Identity):
        raise ConfigError(
            "Only the last stage of an encoder that pools between stages can be tuned, as of a resnet9 or an airbench."
        )
    return nn.Sequential(*layers[: pools[-1] + 1]), nn.Sequential(*layers[pools[-1] + 1 :])


def _chain(layer: nn.Module) -> list[nn.Module]:
    """The layers of a chain, and of the chains in it, in the order in which they are passed through."""
    return [inner for each in layer for inner in _chain(each)] if isinstance(layer, nn.Sequential) else [layer]


@torch.no_grad()
def stage_inputs(encoder: Encoder, images: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """What the last stage is given for images and for their mirror images.

    Args:
        encoder: in evaluation mode afterwards.
        images: uint8 (N, H, W, 3).
        batch_size: images a forward pass.

    Returns:
        float32 (N, 2, C, h, w).

    Raises:
        ConfigError: see ``split_stages``.
    """
    first, _ = split_stages(encoder.eval())
    parts = []
    for batch in images.split(batch_size):
        pixels = to_float(batch, encoder.pixel_mean, encoder.pixel_std)
        parts.append(torch.stack([first(pixels), first(pixels.flip(3))], dim=1))
    return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Stage:
    """The last stage of an encoder, and the linear map of the space in which its classifier works.

    Attributes:
        layers: from maps to features.
        centre: float32 (D,), taken away from directions, as ``Encoder.embed`` does.
        matrix: float32 (D, D), of a ``Whitening``.
    """

    layers: nn.Module
    centre: torch.Tensor
    matrix: torch.Tensor

    @classmethod
    def of(cls, encoder: Encoder, whitening: Whitening | None = None) -> Stage:
        """The last stage of an encoder, its layers shared with it; without a whitening the space is the encoder's.

        Raises:
            ConfigError: see ``split_stages``.
        """
        matrix = torch.eye(encoder.embedding_dim) if whitening is None else whitening.matrix
        return cls(split_stages(encoder)[1], encoder.centre, matrix)

    def directions(self, maps: torch.Tensor) -> torch.Tensor:
        """Features at unit length: float32 (N, C, h, w) to (N, D)."""
        return F.normalize(self.layers(maps.contiguous(memory_format=torch.channels_last)), dim=1)

    def mapped(self, directions: torch.Tensor) -> torch.Tensor:
        """Centred and whitened directions at unit length: float32 (N, D) to (N, D)."""
        return F.normalize(F.normalize(directions - self.centre, dim=1) @ self.matrix, dim=1)

    @torch.no_grad()
    def embed(self, maps: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Embeddings, the same as ``Encoder.embed`` followed by the whitening.

        Args:
            maps: float32 (N, 2, C, h, w), from ``stage_inputs``.
            batch_size: images a forward pass.

        Returns:
            float32 (N, D), rows of unit length.
        """
        rows = []
        for batch in maps.split(batch_size):
            both = self.directions(batch.flatten(0, 1)).view(len(batch), 2, -1)
            rows.append(self.mapped(F.normalize(both.sum(dim=1), dim=1)))
        return torch.cat(rows) if rows else torch.empty(0, len(self.centre))


def tune_encoder(
    stage: Stage,
    old: torch.Tensor,
    old_images: tuple[torch.Tensor, torch.Tensor],
    shots: torch.Tensor | None,
    config: TuningConfig | None = None,
    *,
    scale: float = 16.0,
) -> tuple[Stage, torch.Tensor]:
    """Imprint one class, then tune the last stage and all weights of the classifier together.

    The loss is that of ``imprinting.fine_tune``: every class counts once, the added one as much as it needs.

    Args:
        stage: of the trained encoder; it stays as it is.
        old: float32 (C, D), weights of the old classes.
        old_images: maps float32 (M, 2, ...) and class numbers int64 (M,) below C, of images of the old classes.
        shots: maps float32 (K, 2, ...) of the added class; ``None`` adds no class and tunes for the old ones alone.
        config: see ``TuningConfig``.
        scale: inverse temperature of the softmax.

    Returns:
        The tuned stage, and the weights float32 (C + 1, D) at unit length, the added class last; (C, D) without one.

    Raises:
        ShapeError: maps and class numbers do not fit.
        SamplingError: a class has no image.
    """
    config = config or TuningConfig()
    maps, numbers = old_images
    classes = len(old)
    added = shots is not None
    shots = maps[:0] if shots is None else shots
    if maps.ndim != 5 or shots.ndim != 5 or maps.shape[1:] != shots.shape[1:] or numbers.shape != maps.shape[:1]:
        raise ShapeError(
            f"Tuning takes maps (N, 2, C, h, w) with a class each, not {tuple(maps.shape)}, {tuple(shots.shape)}."
        )
    counts = torch.bincount(numbers, minlength=classes)
    if len(shots) < added or len(counts) > classes or bool((counts == 0).any()):
        raise SamplingError("Tuning needs a shot, and an image of every class of the classifier, of no other class.")
    order, starts = numbers.argsort(stable=True), counts.cumsum(0) - counts
    rng = np.random.default_rng([config.seed, 0x57A6E])
    tuned = Stage(copy.deepcopy(stage.layers).eval(), stage.centre, stage.matrix)
    tuned.layers.to(memory_format=torch.channels_last).requires_grad_(True)
    start = F.normalize(old, dim=1)
    if added:
        start = torch.cat([start, imprinted(stage.embed(shots))[None]])
    old_weights, new_weight = start[:classes].clone().requires_grad_(), start[classes:].clone().requires_grad_()
    optimizer = torch.optim.AdamW(
        [
            {"params": list(tuned.layers.parameters()), "lr": config.rate},
            {"params": [old_weights, new_weight], "lr": config.weight_rate},
        ],
        weight_decay=0.0,
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    views, need = shots.flatten(0, 1), 1.0
    for step in range(config.steps):
        frozen = step < round(config.frozen_share * config.steps)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        targets = torch.from_numpy(_even_classes(rng, classes, config.batch))
        drawn = torch.from_numpy(rng.integers(0, counts[targets].numpy()))
        sides = torch.from_numpy(rng.integers(0, 2, len(targets)))
        chosen = torch.from_numpy(rng.permutation(len(views))[: config.views])
        batch = torch.cat([maps[order[starts[targets] + drawn], sides], views[chosen]])
        weights = F.normalize(torch.cat([old_weights.detach() if frozen else old_weights, new_weight]), dim=1)
        log = (scale * tuned.mapped(tuned.directions(batch)) @ weights.T).log_softmax(dim=1)
        right_old = log[torch.arange(len(targets)), targets]
        right_new = log[len(targets) :, classes] if added else log.new_zeros(1)  # surely right, so nothing to learn
        loss = -(classes * right_old.mean() + need * right_new.mean()) / (classes + need)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        gap = float(right_old.detach().exp().mean() - right_new.detach().exp().mean())
        need = min(max(need * math.exp(config.adapt * gap), 1 / config.largest_weight), config.largest_weight)
    tuned.layers.requires_grad_(False)
    return tuned, F.normalize(torch.cat([old_weights, new_weight]).detach(), dim=1)


def _even_classes(rng: np.random.Generator, classes: int, count: int) -> np.ndarray:
    """``count`` class numbers in which each class stands equally often, up to one; int64 (count,)."""
    rounds = [rng.permutation(classes) for _ in range(-(-count // classes))]
    return np.concatenate(rounds)[:count]
