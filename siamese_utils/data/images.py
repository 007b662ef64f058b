"""Labelled images of one data set as one uint8 tensor, in an order that no file system decides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from siamese_utils.errors import DataError, ShapeError, unknown

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one part of a data set, held in memory.

    Attributes:
        images: uint8 (N, H, W, C), C-contiguous, in canonical order (see :func:`canonical_order`).
        labels: int64 (N,), class numbers (positions in ``class_names``).
        class_names: one name a class.
        superclass_names: one name a superclass.
        superclass_of: for every class, the number of its superclass.
        name: ``"cifar100"`` or ``"synthetic"``.
        part: ``"train"`` or ``"test"``.
        source: where the images came from, for people to read.

    Raises:
        ShapeError: images or labels of the wrong shape or type, or labels that name no class.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    superclass_names: tuple[str, ...]
    superclass_of: tuple[int, ...]
    name: str
    part: str
    source: str

    def __post_init__(self) -> None:
        """Check that the fields fit each other."""
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or not self.images.is_contiguous():
            raise ShapeError(
                "The images of an ImageSet must be one contiguous uint8 tensor (N, H, W, C), "
                f"not {self.images.dtype} {tuple(self.images.shape)}."
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ShapeError(
                f"The labels of {len(self.images)} images must be an int64 tensor ({len(self.images)},), "
                f"not {self.labels.dtype} {tuple(self.labels.shape)}."
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.num_classes:
            raise ShapeError(
                f"Labels must lie in 0..{self.num_classes - 1}, one number for each class name; "
                f"found {int(self.labels.min())}..{int(self.labels.max())}."
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Describe the set in one line, without its pixels."""
        shape = "x".join(str(n) for n in self.images.shape[1:])
        return f"ImageSet({self.name} {self.part}: {len(self):,} images {shape}, from {self.source})"

    @property
    def is_synthetic(self) -> bool:
        """Whether these are the procedurally drawn images and not CIFAR-100."""
        return self.name == "synthetic"

    @property
    def num_classes(self) -> int:
        """Number of classes that have a name, with or without images here."""
        return len(self.class_names)

    def indices_of(self, classes: Iterable[int]) -> torch.Tensor:
        """Return the positions of all images whose label is in ``classes``: int64, ascending.

        Raises:
            DataError: a number that is no class.
        """
        wanted = torch.as_tensor([int(c) for c in classes], dtype=torch.int64)
        strange = wanted[(wanted < 0) | (wanted >= self.num_classes)]
        if len(strange):
            raise DataError(f"There is no class {int(strange[0])}; the classes are 0..{self.num_classes - 1}.")
        return torch.isin(self.labels, wanted).nonzero().flatten()

    def subset(self, indices: torch.Tensor | Sequence[int]) -> ImageSet:
        """Return the images at ``indices`` (int64 positions) as a set; labels keep their global numbers.

        Raises:
            ShapeError: ``indices`` are not positions in this set.
        """
        positions = torch.as_tensor(indices)
        if positions.numel() == 0:
            positions = positions.to(torch.int64)
        if positions.dim() != 1 or positions.dtype == torch.bool or positions.dtype.is_floating_point:
            raise ShapeError(
                "A subset needs a list of whole-number positions (of a mask, its nonzero()), "
                f"not {positions.dtype} {tuple(positions.shape)}."
            )
        outside = positions[(positions < 0) | (positions >= len(self))]
        if len(outside):
            raise ShapeError(f"Position {int(outside[0])} is outside the set, which has {len(self):,} images.")
        positions = positions.to(torch.int64)
        return replace(self, images=self.images[positions].contiguous(), labels=self.labels[positions])


def canonical_order(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the order that makes a set independent of its source.

    Args:
        images: uint8 (N, H, W, C).
        labels: int64 (N,).

    Returns:
        int64 (N,): positions sorted by label, then by the 128-bit BLAKE2b hash of the image's pixel bytes.
    """
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images)
    halves = np.frombuffer(digests, dtype=">u8").reshape(len(images), 2)
    return np.lexsort((halves[:, 1], halves[:, 0], labels))


def check_part(part: str) -> None:
    """Raise UnknownNameError unless a data set has this part."""
    if not isinstance(part, str) or part not in PARTS:
        raise unknown("part of the data", part, PARTS)
