"""Which classes (and which images) a run may learn from, and which it is judged on.

A *split* ``K-(100-K)`` names K seen (training) classes and 100-K unseen ones. A *draw* says which classes
those are: draw 0 takes the first K labels (alphabetical order in CIFAR-100), draw d >= 1 the first K of a
random permutation seeded with d. So the seen classes of one draw are nested: those of 10-90 are among those
of 20-80, and so on.

Choices (a threshold, early stopping, hyper-parameters) are made on images or classes held out of the *seen*
classes,
never on unseen classes: `hold_out_images` and `hold_out_classes` make those.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from siamese_utils.data.arrays import as_classes, as_count, as_labels
from siamese_utils.errors import SplitError, shown, unknown

SPLIT_NAMES: tuple[str, ...] = tuple(f"{seen}-{100 - seen}" for seen in range(10, 101, 10))
"""The ten splits of 100 classes: 10-90, 20-80, ..., 90-10, 100-0."""

CIFAR_FS_VALIDATION: tuple[str, ...] = (
    "otter",
    "motorcycle",
    "television",
    "lamp",
    "crocodile",
    "shark",
    "butterfly",
    "sea",
    "beaver",
    "beetle",
    "tractor",
    "flatfish",
    "maple_tree",
    "camel",
    "crab",
    "cattle",
)
CIFAR_FS_TEST: tuple[str, ...] = (
    "baby",
    "bed",
    "bicycle",
    "chimpanzee",
    "fox",
    "leopard",
    "man",
    "pickup_truck",
    "plain",
    "poppy",
    "rocket",
    "rose",
    "snail",
    "sweet_pepper",
    "table",
    "telephone",
    "wardrobe",
    "whale",
    "woman",
    "worm",
)


@dataclass(frozen=True)
class ClassSplit:
    """Seen and unseen classes: disjoint, and together all classes.

    Attributes:
        name: for example ``"90-10"``.
        draw: 0 for the alphabetical split, 1, 2, ... for random ones.
        seen: class labels to learn from, ascending.
        unseen: class labels never shown in training, ascending; empty for ``"100-0"``.

    Raises:
        SplitError: a class is both seen and unseen, or named twice, or no whole number.
    """

    name: str
    draw: int
    seen: tuple[int, ...]
    unseen: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that nothing leaks."""
        for part in ("seen", "unseen"):
            object.__setattr__(self, part, as_classes(getattr(self, part), SplitError))
        if common := sorted(set(self.seen) & set(self.unseen)):
            raise SplitError(
                f"Class {common[0]} is both seen and unseen in split {self.name} (draw {self.draw}); keep the two "
                "apart."
            )


@dataclass(frozen=True)
class CifarFSSplit:
    """The 64 training, 16 validation and 20 test classes of CIFAR-FS, as ascending class labels."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]


def class_split(name: str, draw: int = 0, num_classes: int = 100) -> ClassSplit:
    """Look up a split by name.

    Args:
        name: one of `SPLIT_NAMES`; with another number of classes, ``"K-U"`` with K + U = ``num_classes``.
        draw: 0 for labels 0..K-1, d >= 1 for ``numpy.random.default_rng(d).permutation(num_classes)[:K]``.
        num_classes: how many classes there are.

    Raises:
        SplitError: no such split, or a draw that is not a whole number >= 0.
    """
    seen_count = _seen_count(name, num_classes)
    if isinstance(draw, bool) or not isinstance(draw, (int, np.integer)) or draw < 0:
        raise SplitError(
            f"A class draw is a whole number, 0 or more, but got {shown(draw)}; draw 0 is the alphabetical one."
        )
    order = np.arange(num_classes) if draw == 0 else np.random.default_rng(int(draw)).permutation(num_classes)
    return ClassSplit(
        name=name,
        draw=int(draw),
        seen=tuple(sorted(order[:seen_count].tolist())),
        unseen=tuple(sorted(order[seen_count:].tolist())),
    )


def _seen_count(name: str, num_classes: int) -> int:
    num_classes = as_count("The number of classes", num_classes, error=SplitError)
    if num_classes == 100:
        if not isinstance(name, str) or name not in SPLIT_NAMES:
            raise SplitError(str(unknown("split", name, SPLIT_NAMES)))
        return int(name.split("-")[0])
    seen, _, unseen = (name if isinstance(name, str) else "").partition("-")
    if not (seen.isdecimal() and unseen.isdecimal() and int(seen) > 0 and int(seen) + int(unseen) == num_classes):
        raise SplitError(
            f"Split {shown(name)} does not fit {num_classes} classes; write it as SEEN-UNSEEN, two numbers that "
            f"add up to {num_classes}, at least one class seen."
        )
    return int(seen)


def fewshot_split_cifar_fs(class_names: Sequence[str]) -> CifarFSSplit:
    """Make the class split of CIFAR-FS (Bertinetto et al. 2019, https://arxiv.org/abs/1805.08136).

    Args:
        class_names: the 100 class names of CIFAR-100, in label order.

    Raises:
        SplitError: the names are not those of CIFAR-100 (the synthetic set has no CIFAR-FS split).
    """
    names = class_names if isinstance(class_names, (list, tuple)) else []
    label_of = {name: label for label, name in enumerate(names) if isinstance(name, str)}
    missing = [name for name in CIFAR_FS_VALIDATION + CIFAR_FS_TEST if name not in label_of]
    if missing or len(label_of) != 100:
        what = f"has no class {missing[0]!r}" if missing else f"has {len(label_of)} classes instead of 100"
        raise SplitError(
            f"The CIFAR-FS split needs the classes of CIFAR-100, but this data set {what}; load CIFAR-100."
        )
    val = tuple(sorted(label_of[name] for name in CIFAR_FS_VALIDATION))
    test = tuple(sorted(label_of[name] for name in CIFAR_FS_TEST))
    train = tuple(sorted(set(label_of.values()).difference(val, test)))
    return CifarFSSplit(train=train, val=val, test=test)


def hold_out_images(
    labels: torch.Tensor | np.ndarray, classes: Iterable[int], per_class: int, seed: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Set some training images of each class aside, for choosing thresholds and stopping times.

    Which images of a class are held out depends only on the seed and the class, not on the other classes: a
    class has the same held-out images in every split.

    Args:
        labels: int64 (N,), class of every image.
        classes: labels of the seen classes; images of other classes are in neither result.
        per_class: how many images to hold out of each class.
        seed: whole number >= 0.

    Returns:
        ``(train, held_out)``, two int64 tensors of image positions, ascending and disjoint.

    Raises:
        SplitError: a class has no image left to train on.
    """
    labels_np = as_labels(labels, error=SplitError).cpu().numpy()
    per_class = as_count("The number of images to hold out of each class", per_class, least=0, error=SplitError)
    _check_seed(seed)
    train, held_out = [], []
    for label in _distinct(classes):
        positions = np.flatnonzero(labels_np == label)
        if len(positions) <= per_class:
            raise SplitError(
                f"Class {label} has {len(positions)} images, so {per_class} cannot be held out with any left "
                f"to train on; hold out fewer."
            )
        rng = np.random.default_rng([seed, zlib.crc32(b"held-out images"), label])
        shuffled = rng.permutation(positions)
        held_out.append(shuffled[:per_class])
        train.append(shuffled[per_class:])
    return _ascending(train), _ascending(held_out)


def hold_out_classes(classes: Iterable[int], count: int, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Set some seen classes aside as validation classes, for choosing hyper-parameters.

    Args:
        classes: labels of the seen classes.
        count: how many of them to hold out.
        seed: whole number >= 0.

    Returns:
        ``(train_classes, validation_classes)``, ascending and disjoint.

    Raises:
        SplitError: no class would be left to train on.
    """
    labels = _distinct(classes)
    whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
    if not whole or not 0 <= count < len(labels):
        raise SplitError(
            f"{shown(count)} validation classes cannot be held out of {len(labels)} seen classes; "
            f"choose between 0 and {max(len(labels) - 1, 0)}."
        )
    _check_seed(seed)
    rng = np.random.default_rng([seed, zlib.crc32(b"held-out classes")])
    shuffled = rng.permutation(labels).tolist()
    return tuple(sorted(shuffled[count:])), tuple(sorted(shuffled[:count]))


def _distinct(classes: Iterable[int]) -> list[int]:
    labels = list(as_classes(classes, SplitError))
    if not labels:
        raise SplitError("The list of classes is empty; name at least one class.")
    if labels[0] < 0:
        raise SplitError(f"Classes are numbered from 0, but one is {labels[0]}.")
    return labels


def _ascending(parts: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.sort(np.concatenate(parts)).astype(np.int64))


def _check_seed(seed: int) -> None:
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise SplitError(f"A seed is a whole number, 0 or more, but got {shown(seed)}.")
