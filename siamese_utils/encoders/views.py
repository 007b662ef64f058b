"""Views of an image: mirrored and shifted, so that the mean of their embeddings depends less on how it was taken."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain

import torch
from torch.nn import functional as F

from siamese_utils.errors import look_up

_MARGIN = 8 / 7  # an image is scaled to so many times the side, as 256 to 224, before the crops are taken
# Where the crops lie: parts of the margin, (down, right).
_SHIFTS = ((0.5, 0.5), (0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))

FIVE_SHIFTS = ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2))
"""Pixels down and right of the views of a small image, for ``embed_shifted``."""

VIEWS = {
    "none": "the image as it is",
    "mirror": "the image and its mirror image",
    "shifts": "the middle and four corners of a slightly larger image, and their mirror images",
}


def side_for(side: int, views: str) -> int:
    """Side in pixels of the squares that views of ``side`` pixels are cut from.

    Raises:
        UnknownNameError: no such views.
    """
    look_up("kind of views", views, VIEWS)
    return round(side * _MARGIN) if views == "shifts" else side


def views_of(pixels: torch.Tensor, side: int, views: str) -> Iterator[torch.Tensor]:
    """The views of a batch, one after the other.

    Args:
        pixels: float (N, 3, S, S), with S = ``side_for(side, views)``.
        side: of each view.
        views: a name in ``VIEWS``.

    Yields:
        float (N, 3, side, side).
    """
    for crop in _crops(pixels, side) if views == "shifts" else (pixels,):
        yield crop
        if views != "none":
            yield crop.flip(3)


def _crops(pixels: torch.Tensor, side: int) -> Iterator[torch.Tensor]:
    room = pixels.shape[-1] - side
    for down, right in _SHIFTS:
        top, left = round(down * room), round(right * room)
        yield pixels[..., top : top + side, left : left + side]


def embed_shifted(
    embed: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, shifts: Iterable[tuple[int, int]]
) -> torch.Tensor:
    """Embeddings, averaged over images that are moved by some pixels.

    Args:
        embed: uint8 (N, H, W, C) to float32 (N, D), rows of unit length.
        images: uint8 (N, H, W, C).
        shifts: pixels down and right of each view; (0, 0) is the image as it is.

    Returns:
        float32 (N, D), rows of unit length.
    """
    return embed_by_views(embed, images, {"": shifts})[""]


def embed_by_views(
    embed: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, views: Mapping[str, Iterable[tuple[int, int]]]
) -> dict[str, torch.Tensor]:
    """The same for several kinds of views, by their names; a shift that some of them share is embedded once."""
    wanted = {name: [(down, right) for down, right in shifts] for name, shifts in views.items()}
    moved = {shift: embed(shifted(images, *shift)) for shift in dict.fromkeys(chain(*wanted.values()))}
    return {
        name: F.normalize(torch.stack([moved[shift] for shift in shifts]).sum(dim=0), dim=1)
        for name, shifts in wanted.items()
    }


def shifted(images: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """Images (N, H, W, C) moved by some pixels; what comes in at the border is reflected."""

    def places(side: int, shift: int) -> torch.Tensor:
        return (side - 1) - ((side - 1) - (torch.arange(side) - shift).abs()).abs()

    return images[:, places(images.shape[1], down)][:, :, places(images.shape[2], right)]
