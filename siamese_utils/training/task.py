"""What a training learns from, prepared once: examples with labels, batches of them, and what is kept out."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import PKBatches
from siamese_utils.data.splits import hold_out_classes, hold_out_images
from siamese_utils.encoders.base import digest
from siamese_utils.errors import ConfigError, DataError, SplitError
from siamese_utils.training.augment import TURNS, turn
from siamese_utils.training.config import TrainConfig


class Batches(Protocol):
    """Batches of one size, the same again for the same number of an epoch."""

    steps: int
    batch_size: int

    def epoch(self, epoch: int) -> torch.Tensor:
        """Positions of examples, int64 (steps, batch_size)."""
        ...


@dataclass(frozen=True, eq=False)
class Task:
    """N examples to tell apart, made of M images; N is M unless every class is learned in four turns.

    Attributes:
        images: uint8 (M, H, W, 3), the images that are learned from.
        rows: int64 (N,), the image of each example.
        turns: int64 (N,), the quarter turns by which it is shown.
        labels: int64 (N,), what is to be told apart, numbered from 0; no two turns share a label.
        classes: labels, in the training set, of the classes that are learned.
        validation_classes: those that are judged by.
        held_out: int64, positions in the training set of the images kept out for the threshold.
        batches: of examples, such as ``PKBatches``.
        steps: how many of them are learned from.
        taught: float (M, E), what the teachers make of the images, or ``None``.
        beside: digest of what else decides the result: teachers, and images that are judged by.
    """

    images: torch.Tensor
    rows: torch.Tensor
    turns: torch.Tensor
    labels: torch.Tensor
    classes: tuple[int, ...]
    validation_classes: tuple[int, ...]
    held_out: torch.Tensor
    batches: Batches
    steps: int
    taught: torch.Tensor | None = None
    beside: str = ""

    @property
    def num_labels(self) -> int:
        """How many labels are told apart."""
        return int(self.labels.max()) + 1

    @property
    def epochs(self) -> int:
        """Passes over the examples, the last one perhaps cut short."""
        return math.ceil(self.steps / self.batches.steps)

    def batch(self, examples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images uint8 (B, H, W, 3), turned, and labels int64 (B,) of examples int64 (B,)."""
        images = self.images.index_select(0, self.rows[examples])
        return turn(images, self.turns[examples]), self.labels[examples]

    def lesson(self, examples: torch.Tensor) -> torch.Tensor | None:
        """What the teachers make of the images of examples int64 (B,): float (B, E), or ``None`` without teachers."""
        return None if self.taught is None else self.taught.index_select(0, self.rows[examples])

    @property
    def content(self) -> str:
        """Hexadecimal digest of what decides the result beside the configuration: images, labels, teachers."""
        # Not of what these make of the images, whose last bits hang on the number of threads.
        learned = {"images": self.images, "rows": self.rows, "turns": self.turns, "labels": self.labels}
        return digest(self.beside, learned)

    def some_of_each_class(self, most: int) -> torch.Tensor:
        """The first ``most`` images of every class as they are, uint8."""
        upright = self.turns == 0
        return self.images[self.rows[upright][first_of_each_class(self.labels[upright], most)]]

    def to(self, device: torch.device) -> Task:
        """The same with images, turns, labels and lessons on a device."""
        names = ("images", "rows", "turns", "labels", *(["taught"] if self.taught is not None else []))
        moved = {name: getattr(self, name).to(device) for name in names}
        return dataclasses.replace(self, **moved)


def prepare(config: TrainConfig, train_set: ImageSet, classes: Iterable[int], validation: Iterable[int] = ()) -> Task:
    """Choose what is learned from; arguments and errors as in ``loop.train``."""
    learned, judged = _learned_and_judged(tuple(sorted(set(classes))), tuple(sorted(set(validation))), config)
    _check_judged(train_set.labels, judged)
    used, held_out = hold_out_images(train_set.labels, learned, config.held_out_images, config.seed)
    number_of = torch.full((train_set.num_classes,), -1, dtype=torch.int64)
    number_of[list(learned)] = torch.arange(len(learned))
    numbers = number_of[train_set.labels[used]]
    _check_nothing_leaks(train_set, numbers, used)
    rows, turns, labels = _examples(numbers, config)
    batches = make_batches(labels, config)
    steps = _number_of_steps(config, batches)
    return Task(train_set.images[used], rows, turns, labels, learned, judged, held_out, batches, steps)


def images_shown(config: TrainConfig, images_of_class: Sequence[int]) -> int:
    """How many images a training shows to the network, given the number of training images of each class."""
    numbers = torch.repeat_interleave(torch.arange(len(images_of_class)), torch.as_tensor(images_of_class))
    batches = make_batches(_examples(numbers, config)[2], config)
    return _number_of_steps(config, batches) * batches.batch_size


def make_batches(labels: torch.Tensor, config: TrainConfig) -> PKBatches:
    """P x K batches of the configured size; with few classes, more images of each."""
    per_class = max(config.images_per_class, math.ceil(config.batch_size / (int(labels.max()) + 1)))
    classes, sizes, groups = max(2, config.batch_size // per_class), torch.bincount(labels), False
    usable, most_usable = (int((sizes >= each).sum()) for each in (per_class, config.images_per_class))
    if usable < max(classes, most_usable):  # several small groups of a class, rather than to leave small classes out
        per_class, groups = config.images_per_class, True
        classes = max(2, config.batch_size // per_class)
    passes, least = 1, config.epoch_images
    if least:
        passes = math.ceil(
            least / PKBatches(labels, classes, per_class, config.seed, allow_fewer_classes=groups).images
        )
    return PKBatches(labels, classes, per_class, config.seed, allow_fewer_classes=groups, passes=passes)


def first_of_each_class(labels: torch.Tensor, most: int) -> torch.Tensor:
    """Positions of the first ``most`` images of every class."""
    return torch.cat([(labels == label).nonzero().squeeze(1)[:most] for label in labels.unique()])


def _examples(numbers: torch.Tensor, config: TrainConfig) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows, turns and labels of the examples that images make whose classes are numbered so, int64 (M,)."""
    count = TURNS if config.turned_classes else 1
    rows = torch.arange(len(numbers)).repeat(count)
    turns = torch.arange(count).repeat_interleave(len(numbers))
    return rows, turns, numbers[rows] + turns * (numbers.max() + 1)


def _number_of_steps(config: TrainConfig, batches: PKBatches) -> int:
    steps = max(config.epochs * batches.steps, math.ceil(config.least_images / batches.batch_size))
    if config.most_images:
        steps = min(steps, max(1, config.most_images // batches.batch_size))
    return steps


def _learned_and_judged(
    seen: tuple[int, ...], validation: tuple[int, ...], config: TrainConfig
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The classes to learn from and those to judge by, never the same."""
    if not validation:
        if config.patience and not config.validation_classes:
            raise ConfigError("Stopping early is judged on validation classes; name some or set validation_classes.")
        return hold_out_classes(seen, config.validation_classes, config.seed)
    if common := sorted(set(seen) & set(validation)):
        raise SplitError(f"Classes {common} are both learned and validated on; keep the two apart.")
    if len(validation) < 2:
        raise SplitError("Validation needs two classes or more to tell apart.")
    return seen, validation


def _check_judged(labels: torch.Tensor, judged: tuple[int, ...]) -> None:
    """Refuse validation classes of which no image is left to ask for, before an epoch is trained in vain."""
    if short := [label for label in judged if int((labels == label).sum()) < 2]:
        raise SplitError(
            f"Class {short[0]} has fewer than two training images, so nothing can be validated by it: one is the "
            "example and another is asked for; choose other validation classes."
        )


def _check_nothing_leaks(train_set: ImageSet, numbers: torch.Tensor, used: torch.Tensor) -> None:
    """Refuse test images, and images of classes that are not learned (numbered -1)."""
    if train_set.part == "test":
        raise DataError(f"{train_set!r} holds test images; train on the training part.")
    if len(strange := used[numbers < 0]):
        raise SplitError(
            f"An image of class {int(train_set.labels[strange[0]])}, which is not to be learned, is among the training "
            "images; train on images of the seen classes alone."
        )
