"""Images that stand twice in a folder: the same bytes, the same pixels, or nearly the same picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_utils.data.image_files import load_image

ALIKE = 0.7
"""Cosine similarity from which two images are compared pixel by pixel."""
_SAME_PICTURE = 0.97  # correlation of grey levels: saved again, smaller, brighter, mirrored
_VERY_ALIKE, _SAME_SCENE = 0.95, 0.6  # of embeddings and of grey levels, together: cropped a little
_CANDIDATES = 3  # most similar images that one is compared with
_SIDE, _COARSE = 128, 16  # pixels
_BLOCK = 1_024  # images compared with all others at once


@dataclass(frozen=True)
class Double:
    """Two images that show the same.

    Attributes:
        first, second: their positions, the lower one first.
        kind: ``"same file"``, ``"same pixels"``, ``"mirrored"`` or ``"nearly the same"``.
        similarity: cosine of their embeddings.
    """

    first: int
    second: int
    kind: str
    similarity: float


def find_doubles(files: Sequence[Path], contents: Sequence[str], z: torch.Tensor) -> list[Double]:
    """Find the images that an earlier one doubles; each is named once, with the one before it that is most like it.

    Args:
        files: image files that can be read.
        contents: a digest of each file's bytes.
        z: float32 (N, D), their embeddings, rows of unit length.
    """
    _pixels.cache_clear()  # files may have changed
    first_with: dict[str, int] = {}
    earlier = [first_with.setdefault(content or f"#{row}", row) for row, content in enumerate(contents)]
    found = [
        Double(first, row, "same file", float(z[first] @ z[row])) for row, first in enumerate(earlier) if first != row
    ]
    known = {one.second for one in found}
    for row, others in enumerate(_most_similar(z)):
        if row not in known:
            kinds = (
                (other, similarity, _compared(files[other], files[row], similarity)) for other, similarity in others
            )
            found += [Double(other, row, kind, similarity) for other, similarity, kind in kinds if kind][:1]
    return sorted(found, key=lambda one: (one.first, one.second))


def _most_similar(z: torch.Tensor) -> list[list[tuple[int, float]]]:
    """For each row the most similar of those before it that are alike, with the cosine similarity, best first."""
    found: list[list[tuple[int, float]]] = []
    for start in range(0, len(z), _BLOCK):
        rows = torch.arange(start, min(start + _BLOCK, len(z)))
        similarity = z[rows] @ z[: rows[-1] + 1].T
        similarity[torch.arange(len(similarity.T))[None, :] >= rows[:, None]] = -1
        best = similarity.topk(min(_CANDIDATES, similarity.shape[1]), dim=1)
        found += [
            [(other, value) for value, other in zip(values, others) if value >= ALIKE]
            for values, others in zip(best.values.tolist(), best.indices.tolist())
        ]
    return found


def _compared(first: Path, second: Path, similarity: float) -> str:
    """What two images have in common; empty if it is too little."""
    one, other = _pixels(first), _pixels(second)
    if np.array_equal(one, other):
        return "same pixels"
    least = _SAME_SCENE if similarity >= _VERY_ALIKE else _SAME_PICTURE
    if _correlation(one, other) >= least:
        return "nearly the same"
    return "mirrored" if _correlation(one[:, ::-1], other) >= _SAME_PICTURE else ""


@lru_cache(maxsize=256)
def _pixels(file: Path) -> NDArray[np.uint8]:
    return load_image(file, _SIDE)


def _correlation(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Of coarse grey levels; 0 where one image is of a single one."""
    first, second = (_coarse(image) for image in (one, other))
    return float((first * second).mean())


def _coarse(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    cell = _SIDE // _COARSE
    grey = image.mean(axis=2).reshape(_COARSE, cell, _COARSE, cell).mean(axis=(1, 3))
    spread = grey.std()
    return (grey - grey.mean()) / spread if spread > 0.5 else np.zeros_like(grey)
