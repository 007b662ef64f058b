"""What a run learns from: a share of CIFAR-10, with images held out of it, and the pairs drawn of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.errors import SplitError
from siamese_utils.training.augment import AugmentConfig, augment_batch

HELD_OUT = 0.1  # of the images of a share
_SHIFTS = AugmentConfig()


@dataclass(frozen=True, eq=False)
class Learned:
    """Images uint8 (N, H, W, 3) and their labels int64 (N,)."""

    images: torch.Tensor
    labels: torch.Tensor

    @classmethod
    def of(cls, images: ImageSet, rows: torch.Tensor | None = None) -> Learned:
        """Some of a set's images, or all."""
        return cls(images.images, images.labels) if rows is None else cls(images.images[rows], images.labels[rows])


def share_of(train: ImageSet, percent: float, seed: int, classes: tuple[int, ...] = ()) -> tuple[Learned, Learned]:
    """The same share of each class, and a tenth of it held out: what is learned from, and what is chosen on.

    Smaller shares are parts of larger ones of the same seed.

    Args:
        train: training images.
        percent: of each class's images.
        seed: of the choice.
        classes: that are taken, with labels in their order; all if empty.

    Raises:
        SplitError: a class has no image at all, or would be left with none to learn from or none to hold out.
    """
    if not 0 < percent <= 100:
        raise SplitError(f"A share lies above 0 and up to 100 percent, but this one is {percent}.")
    learned, held, numbers = [], [], []
    for number, label in enumerate(classes or range(train.num_classes)):
        rows = train.indices_of([label])
        count = round(len(rows) * percent / 100)
        if count < 2:
            least = f"take {200 / len(rows):.2g}% or more" if len(rows) > 1 else "get a whole copy of the data"
            raise SplitError(
                f"A share of {percent:g}% leaves class {train.class_names[label]!r} with {count} of its {len(rows)} "
                f"images, where one is to be learned from and another held out; {least}."
            )
        order = torch.from_numpy(named_rng(seed, f"share of class {label}").permutation(len(rows))[:count])
        aside = max(1, round(count * HELD_OUT))
        held.append(rows[order[:aside]])
        learned.append(rows[order[aside:]])
        numbers.append(number)
    return _together(train, learned, numbers), _together(train, held, numbers)


def labelled_by(images: ImageSet, classes: tuple[int, ...]) -> Learned:
    """All images of some classes, each labelled by its class's place among these.

    Raises:
        DataError: a number that is no class.
    """
    return _together(images, [images.indices_of([label]) for label in classes], list(range(len(classes))))


def _together(train: ImageSet, rows: list[torch.Tensor], numbers: list[int]) -> Learned:
    labels = torch.cat([torch.full((len(some),), number) for some, number in zip(rows, numbers, strict=True)])
    return Learned(train.images[torch.cat(rows)].contiguous(), labels)


def drawn_pairs(labels: torch.Tensor, kinds: tuple[str, ...], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of first and second images, int64 (N,) each, drawn once: all images with a partner of each kind.

    Args:
        labels: int64 (N,).
        kinds: ``itself``, ``another`` of its class, or ``any`` other image; no kind gives each image once, alone.
        seed: of the draw.
    """
    rng, everyone = named_rng(seed, "training pairs"), np.arange(len(labels))
    seconds = []
    for kind in kinds or ("itself",):
        partner = everyone.copy()
        if kind == "another":
            for label in np.unique(labels.numpy()):
                _partners(partner, np.flatnonzero(labels.numpy() == label), rng)
        elif kind == "any":
            _partners(partner, everyone, rng)
        seconds.append(partner)
    first = np.tile(everyone, len(seconds))
    return torch.from_numpy(first), torch.from_numpy(np.concatenate(seconds))


def _partners(partner: np.ndarray, members: np.ndarray, rng: np.random.Generator) -> None:
    """Give each member another one: the next in a random order, so itself only where it is alone."""
    order = rng.permutation(members)
    partner[order] = np.roll(order, -1)


def pixels(images: torch.Tensor, shifts: bool = False) -> torch.Tensor:
    """Pixels from 0 to 1, float32 (B, 3, H, W), shifted by up to four and mirrored at random if asked."""
    if shifts:
        zero, white = torch.zeros(3), torch.full((3,), 255.0)
        return augment_batch(images, _SHIFTS, zero, white, torch.default_generator)
    return images.permute(0, 3, 1, 2).to(torch.float32).div_(255)
