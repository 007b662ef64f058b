"""The small networks of the question: one tower, two towers side by side, and a head that judges pairs.

Layers, sizes and dropout are those of the slides of Dobrzański & Sroka (*Siamese networks*, AGH Kraków, 2022); the
numbers of parameters are theirs as well, and tested. ReLU comes after the pooling, which gives the same numbers as
before it (the largest of four values is cut at zero) from a quarter of the work.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from siamese_utils.errors import ShapeError

CHANNELS, UNITS = (32, 64, 128), 32
WIDE_CHANNELS, WIDE_UNITS = (48, 96, 192), 37  # one tower of as many parameters as two
DROPOUT = 0.2
_LEVELS = 2**16  # of a random number of 16 bits


class Dropout(nn.Module):
    """Dropout from 16 random bits a value: four values to a draw, so that it costs a fraction of the convolutions."""

    def __init__(self, share: float = DROPOUT) -> None:
        super().__init__()
        self.dropped = round(share * _LEVELS)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Set a random share to zero and scale up the others, while training: float of any shape to the same."""
        if not self.training:
            return x
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = (draws.view(torch.int16)[: x.numel()] >= self.dropped - _LEVELS // 2).to(x.dtype)
        return x * kept.mul_(_LEVELS / (_LEVELS - self.dropped)).as_strided(x.shape, x.stride())


class Tower(nn.Module):
    """Three convolutions, each with pooling, and a dense layer: images to embeddings."""

    def __init__(self, channels: tuple[int, int, int] = CHANNELS, units: int = UNITS) -> None:
        super().__init__()
        widths = (3, *channels)
        self.convolutions = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], size) for i, size in enumerate((3, 2, 2)))
        self.dense = nn.Linear(9 * channels[-1], units)
        self.dropout = Dropout()
        _begin_as_keras(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings, none below zero: float (B, 3, 32, 32) to float (B, units)."""
        for number, convolution in enumerate(self.convolutions):
            x = F.relu(F.max_pool2d(convolution(x), 2))
            x = self.dropout(x) if number else x
        return F.relu(self.dense(x.flatten(1)))


class Plain(nn.Module):
    """One tower and one output a class."""

    def __init__(self, classes: int = 10, channels: tuple[int, int, int] = CHANNELS, units: int = UNITS) -> None:
        super().__init__()
        self.tower, self.dropout, self.out = Tower(channels, units), Dropout(), nn.Linear(units, classes)
        _begin_as_keras(self)

    def forward(self, first: torch.Tensor, second: torch.Tensor | None = None) -> torch.Tensor:
        """Logits float (B, classes) of the first images; whatever stands beside them is not looked at."""
        return self.out(self.dropout(self.tower(first)))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """The tower's output: float (B, units)."""
        return self.tower(images)


def wide(classes: int = 10) -> Plain:
    """A plain network with as many parameters as two towers, to a quarter of a percent."""
    return Plain(classes, WIDE_CHANNELS, WIDE_UNITS)


class TwoTowers(nn.Module):
    """Two towers, each with an image of its own, whose outputs are joined before the last layer.

    Args:
        classes: number of outputs.
        shared: whether both sides have the same weights, as the word Siamese says; the slides' network has not.
    """

    def __init__(self, classes: int = 10, shared: bool = False) -> None:
        super().__init__()
        self.towers = nn.ModuleList([Tower()] if shared else [Tower(), Tower()])
        self.dropout, self.out = Dropout(), nn.Linear(2 * UNITS, classes)
        _begin_as_keras(self)

    def halves(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What each side makes of its images: float (B, 32) twice."""
        return self.towers[0](first), self.towers[-1](second)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Logits float (B, classes) of pairs of images."""
        return self.out(self.dropout(torch.cat(self.halves(first, second), dim=1)))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Both sides' outputs for the same images, side by side: float (B, 64)."""
        return torch.cat(self.halves(images, images), dim=1)


class PairNetwork(nn.Module):
    """One shared tower, and a head that sees both embeddings and their Euclidean distance: log odds of *same*.

    The slides do not say where their tower pools; halving twice and then by four gives their number of parameters.
    """

    def __init__(self) -> None:
        super().__init__()
        widths = (3, *CHANNELS)
        self.convolutions = nn.ModuleList(nn.Conv2d(widths[i], widths[i + 1], 3, padding=1) for i in range(3))
        self.dense = nn.Linear(4 * CHANNELS[-1], UNITS)
        self.hidden, self.out = nn.Linear(2 * UNITS + 1, 64), nn.Linear(64, 1)
        _begin_as_keras(self)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Embeddings of any sign: float (B, 3, 32, 32) to float (B, 32)."""
        for convolution, side in zip(self.convolutions, (2, 2, 4), strict=True):
            x = F.relu(F.max_pool2d(convolution(x), side))
        return self.dense(x.flatten(1))

    def compare(self, z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
        """Log odds of *same*: embeddings float (B, 32) twice to float (B,).

        Raises:
            ShapeError: the two are not of one shape.
        """
        if z1.shape != z2.shape:
            raise ShapeError(f"Pairs need as many first as second embeddings, not {len(z1)} and {len(z2)}.")
        # Keras takes the root of no less than this, for the slope of a root at zero has no end.
        distance = (z1 - z2).square().sum(dim=1, keepdim=True).clamp(min=1e-7).sqrt()
        return self.out(F.relu(self.hidden(torch.cat([distance, z1, z2], dim=1)))).squeeze(1)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Log odds of *same* for pairs of images: float (B,)."""
        return self.compare(self.embed(first), self.embed(second))


def _begin_as_keras(network: nn.Module) -> None:
    """Weights of Glorot & Bengio (2010) and no bias: with what the slides' networks began."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
