"""Drawing pairs, triplets, P x K batches and N-way K-shot episodes from labels.

Everything here works on labels alone and returns *positions*: row numbers into those labels (and into the
images or embeddings beside them). Every function takes its random generator; nothing is drawn from a global
one. There is no Python loop over pairs, triplets or episodes.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch

from siamese_utils.data.arrays import as_count, as_flag, as_labels, as_rng
from siamese_utils.errors import SamplingError, shown

_CELLS_AT_ONCE = 250_000  # the scratch table of a vectorised shuffle should fit into the processor cache


def named_rng(seed: int, name: str) -> np.random.Generator:
    """Make a generator for one purpose: draws for one name never change what another name draws.

    Args:
        seed: whole number >= 0, the seed of the run.
        name: the purpose, for example a metric's name.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise SamplingError(f"A seed is a whole number, 0 or more, but got {shown(seed)}.")
    if not isinstance(name, str):
        raise SamplingError(f"A generator's purpose is a name, not a {type(name).__name__}.")
    return np.random.default_rng([int(seed), zlib.crc32(name.encode("utf-8", "backslashreplace"))])


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of images.

    Attributes:
        first: int64 (count,), positions.
        second: int64 (count,), positions, never equal to ``first`` in the same row.
        same: bool (count,), whether the two images are of one class; true in every other row.
    """

    first: torch.Tensor
    second: torch.Tensor
    same: torch.Tensor


@dataclass(frozen=True, eq=False)
class Episodes:
    """E few-shot tasks of N ways, K shots and Q queries a class.

    Attributes:
        classes: int64 (E, N), the labels of each episode's classes, all different within an episode.
        support: int64 (E, N, K), positions of the support images.
        query: int64 (E, N, Q), positions of the query images, none of them a support image of its episode.
    """

    classes: torch.Tensor
    support: torch.Tensor
    query: torch.Tensor

    def __len__(self) -> int:
        return len(self.classes)


class ClassIndex:
    """Images sorted by class: those of class number c are ``order[starts[c] : starts[c] + sizes[c]]``."""

    def __init__(self, labels: torch.Tensor | np.ndarray) -> None:
        values = as_labels(labels, error=SamplingError).cpu().numpy()
        if not len(values):
            raise SamplingError("Labels must be whole numbers, one an image, but there is none.")
        self.classes, self.class_of, self.sizes = np.unique(values, return_inverse=True, return_counts=True)
        self.order = np.argsort(self.class_of, kind="stable")
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.rank = np.empty(len(values), dtype=np.int64)  # place of each image within its class
        self.rank[self.order] = np.arange(len(values)) - np.repeat(self.starts, self.sizes)

    def relatives(self, anchors: np.ndarray, rng: np.random.Generator | int) -> np.ndarray:
        """For each anchor a random other image of its class.

        Raises:
            SamplingError: an anchor is no position, or alone in its class.
        """
        anchors = self._positions(anchors)
        own = self.class_of[anchors]
        if bool((self.sizes[own] < 2).any()):
            raise SamplingError("An anchor is the only image of its class; take anchors from with_relatives().")
        rng = as_rng(rng)
        draw = rng.integers(0, self.sizes[own] - 1)
        return self.order[self.starts[own] + draw + (draw >= self.rank[anchors])]  # step over the anchor itself

    def strangers(self, anchors: np.ndarray, rng: np.random.Generator | int) -> np.ndarray:
        """For each anchor a random image of another class.

        Raises:
            SamplingError: an anchor is no position, or there is no other class.
        """
        own = self.class_of[self._positions(anchors)]
        if len(self.classes) < 2:
            raise SamplingError("There is one class alone; give images of another.")
        rng = as_rng(rng)
        draw = rng.integers(0, len(self.order) - self.sizes[own])
        return self.order[draw + np.where(draw >= self.starts[own], self.sizes[own], 0)]  # step over the own class

    def _positions(self, anchors: torch.Tensor | np.ndarray) -> np.ndarray:
        """Row numbers as an array, none of them outside the labels."""
        rows = as_labels(anchors, error=SamplingError).cpu().numpy()
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self.order):
            raise SamplingError(f"Anchors must be positions from 0 to {len(self.order) - 1}.")
        return rows

    def with_relatives(self) -> np.ndarray:
        """Positions of the images that are not alone in their class."""
        return np.flatnonzero(self.sizes[self.class_of] >= 2)

    def check_comparable(self, what: str) -> None:
        """Raise a SamplingError unless there are 2 classes and one of them has 2 images."""
        if len(self.classes) < 2:
            raise SamplingError(f"{what} need images of at least 2 classes, but there is 1; add another class.")
        if self.sizes.max() < 2:
            raise SamplingError(f"{what} need a class with at least 2 images, but every class has 1; add images.")


def sample_pairs(labels: torch.Tensor | np.ndarray, count: int, rng: np.random.Generator | int) -> Pairs:
    """Draw balanced pairs, half of one class and half of two, with replacement between pairs.

    Args:
        labels: int64 (N,), class of every image.
        count: number of pairs; an odd one holds one more pair of one class.
        rng: random generator, or a whole number as its seed.

    Raises:
        SamplingError: fewer than 2 classes, no class with 2 images, or a count below 1.
    """
    count, rng = as_count("The number of pairs", count, error=SamplingError), as_rng(rng)
    by_class = ClassIndex(labels)
    by_class.check_comparable("Pairs")
    same = np.arange(count) % 2 == 0
    first = np.empty(count, dtype=np.int64)
    second = np.empty(count, dtype=np.int64)
    first[same] = rng.choice(by_class.with_relatives(), size=int(same.sum()))
    second[same] = by_class.relatives(first[same], rng)
    first[~same] = rng.integers(0, len(by_class.order), size=int((~same).sum()))
    second[~same] = by_class.strangers(first[~same], rng)
    return Pairs(torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(same))


def sample_triplets(labels: torch.Tensor | np.ndarray, count: int, rng: np.random.Generator | int) -> torch.Tensor:
    """Draw triplets (anchor, positive, negative): anchor and positive of one class, negative of another.

    Args:
        labels: int64 (N,), class of every image.
        count: number of triplets, drawn with replacement.
        rng: random generator, or a whole number as its seed.

    Returns:
        int64 (count, 3), positions of anchor, positive and negative.

    Raises:
        SamplingError: fewer than 2 classes, no class with 2 images, or a count below 1.
    """
    count, rng = as_count("The number of triplets", count, error=SamplingError), as_rng(rng)
    by_class = ClassIndex(labels)
    by_class.check_comparable("Triplets")
    anchor = rng.choice(by_class.with_relatives(), size=count)
    triplets = np.stack([anchor, by_class.relatives(anchor, rng), by_class.strangers(anchor, rng)], axis=1)
    return torch.from_numpy(triplets)


def sample_episodes(
    labels: torch.Tensor | np.ndarray, ways: int, shots: int, queries: int, count: int, rng: np.random.Generator | int
) -> Episodes:
    """Draw N-way K-shot episodes from the classes that are present, without replacement within an episode.

    Args:
        labels: int64 (M,), class of every image; classes may differ in size.
        ways: N, classes an episode.
        shots: K, support images a class.
        queries: Q, query images a class.
        count: E, number of episodes.
        rng: random generator, or a whole number as its seed.

    Raises:
        SamplingError: more ways than classes, more shots and queries than the smallest class has images, or a
            number below 1.
    """
    named = (("ways", ways), ("shots", shots), ("queries", queries), ("episodes", count))
    ways, shots, queries, count = (as_count(f"The number of {what}", n, error=SamplingError) for what, n in named)
    rng = as_rng(rng)
    by_class = ClassIndex(labels)
    if ways > len(by_class.classes):
        raise SamplingError(
            f"{ways}-way episodes need {ways} classes, but there are {len(by_class.classes)}; use fewer ways."
        )
    smallest = int(by_class.sizes.min())
    if shots + queries > smallest:
        raise SamplingError(
            f"{shots} shots and {queries} queries a class need {shots + queries} images, but class "
            f"{by_class.classes[by_class.sizes.argmin()]} has {smallest}; use fewer shots or queries."
        )
    chosen = _choose(np.full(count, len(by_class.classes)), ways, rng)  # (E, N) class numbers
    flat = chosen.ravel()
    ranks = _choose(by_class.sizes[flat], shots + queries, rng)
    positions = by_class.order[by_class.starts[flat][:, None] + ranks].reshape(count, ways, shots + queries)
    return Episodes(
        classes=torch.from_numpy(by_class.classes[chosen].astype(np.int64)),
        support=torch.from_numpy(np.ascontiguousarray(positions[:, :, :shots])),
        query=torch.from_numpy(np.ascontiguousarray(positions[:, :, shots:])),
    )


def _choose(sizes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """For each row r, ``count`` different random numbers below ``sizes[r]``; int64 (rows, count).

    The first ``count`` exchanges of a Fisher-Yates shuffle, done in all rows at once.
    """
    widest = int(sizes.max())
    dtype = np.uint16 if widest <= 2**16 else np.uint32
    chunk = max(1, _CELLS_AT_ONCE // widest)
    chosen = np.empty((len(sizes), count), dtype=np.int64)
    for start in range(0, len(sizes), chunk):
        part = sizes[start : start + chunk]
        deck = np.tile(np.arange(widest, dtype=dtype), (len(part), 1))
        cells = deck.reshape(-1)
        row = np.arange(len(part)) * widest
        picks = rng.random((count, len(part)))
        for i in range(count):
            place = row + i + (picks[i] * (part - i)).astype(np.int64)
            taken = cells[place]
            chosen[start : start + chunk, i] = taken
            cells[place] = deck[:, i]  # position i is never read again, so half an exchange is enough
    return chosen


class PKBatches:
    """Batches of P classes x K images, for losses that mine inside the batch.

    Source: Hermans et al. 2017, "In defense of the triplet loss", https://arxiv.org/abs/1703.07737.

    Every epoch the images of each class are shuffled and cut into groups of K, and each batch takes one group
    of P different classes, at random, a class with many groups left more often. So an image is seen at most
    once an epoch. The few images that fill no whole group or batch sit out that epoch; the next one leaves
    out others.

    ``epoch(e)`` depends only on the arguments here and on ``e``: a run that resumes at epoch e sees the same
    batches.

    Attributes:
        steps: batches an epoch (also ``len(batches)``).
        batch_size: P * K.
    """

    def __init__(
        self,
        labels: torch.Tensor | np.ndarray,
        classes_per_batch: int,
        images_per_class: int,
        seed: int,
        *,
        allow_fewer_classes: bool = False,
        passes: int = 1,
    ) -> None:
        """Prepare the batches.

        Args:
            labels: int64 (N,), class of every training image.
            classes_per_batch: P.
            images_per_class: K.
            seed: whole number >= 0.
            allow_fewer_classes: with fewer than P classes, let a batch hold several groups of K images of one
                class (as evenly as possible) instead of raising.
            passes: times that an epoch goes through the images, each as an epoch of its own would.

        Raises:
            SamplingError: fewer than P classes with K images, or not enough images for one batch.
        """
        p = as_count("The number of classes in a batch", classes_per_batch, error=SamplingError)
        k = as_count("The number of images of a class in a batch", images_per_class, error=SamplingError)
        allow_fewer_classes = as_flag("allow_fewer_classes", allow_fewer_classes, SamplingError)
        self._passes = as_count("The number of passes of an epoch", passes, error=SamplingError)
        named_rng(seed, "")  # only to check the seed now rather than at the first epoch
        self._by_class = ClassIndex(labels)
        self._seed = int(seed)
        self.classes_per_batch, self.images_per_class = p, k
        self.batch_size = self.classes_per_batch * self.images_per_class

        groups = self._by_class.sizes // self.images_per_class
        usable = int((groups > 0).sum())
        if usable == 0:
            raise SamplingError(
                f"No class has {images_per_class} images (the largest has {self._by_class.sizes.max()}); "
                f"use fewer images a class in a batch."
            )
        if usable < classes_per_batch and not allow_fewer_classes:
            longer = -(-self.batch_size // usable)
            raise SamplingError(
                f"A batch of {classes_per_batch} classes x {images_per_class} images needs "
                f"{classes_per_batch} classes with {images_per_class} images, but there are {usable}; use "
                f"fewer classes and more images of each (for example {usable} x {longer}), or allow several "
                f"groups of one class in a batch with allow_fewer_classes=True."
            )
        # With fewer than P classes each class is dealt into several stacks that count as classes of their
        # own, so a batch holds at most that many groups of one class.
        stacks = -(-self.classes_per_batch // usable) if usable < classes_per_batch else 1
        self._groups = groups
        self._stack_sizes = (groups[:, None] + np.arange(stacks)[::-1]) // stacks  # (classes, stacks)
        self._steps = _most_steps(self._stack_sizes.ravel(), self.classes_per_batch)
        if self._steps == 0:
            raise SamplingError(
                f"{int(self._by_class.sizes.sum())} images do not fill one batch of "
                f"{classes_per_batch} classes x {images_per_class} images; use a smaller batch."
            )
        self.steps = self._passes * self._steps

    @property
    def images(self) -> int:
        """Images an epoch."""
        return self.steps * self.batch_size

    def __len__(self) -> int:
        return self.steps

    def epoch(self, epoch: int) -> torch.Tensor:
        """Make the batches of one epoch.

        Args:
            epoch: number of the epoch, 0 or more.

        Returns:
            int64 (steps, P * K), positions into the labels; in every batch the K images of a class are
            neighbours, so ``batch.view(P, K)`` has one class a row.
        """
        number = as_count("The number of an epoch", epoch, least=0, error=SamplingError)
        passes = range(number * self._passes, (number + 1) * self._passes)
        return torch.cat([self._pass(one) for one in passes])

    def _pass(self, number: int) -> torch.Tensor:
        """The batches of one pass."""
        rng = np.random.default_rng([self._seed, zlib.crc32(b"P x K batches"), number])
        by_class, k = self._by_class, self.images_per_class

        keys = rng.random(len(by_class.order)) + by_class.class_of  # sorting these shuffles within each class
        shuffled = np.argsort(keys)
        in_group = np.arange(len(shuffled)) - np.repeat(by_class.starts, by_class.sizes) < np.repeat(
            self._groups * k, by_class.sizes
        )
        groups = shuffled[in_group].reshape(-1, k)

        stack_sizes = self._stack_sizes.ravel()
        next_group = np.cumsum(stack_sizes) - stack_sizes
        chosen = np.empty((self._steps, self.classes_per_batch), dtype=np.int64)
        left = stack_sizes.astype(np.float64)
        waits = rng.exponential(size=(self._steps, len(left)))
        with np.errstate(divide="ignore"):
            for step in range(self._steps):
                # The smallest waiting times are a random choice without replacement with weights `left`. A
                # stack with as many groups as there are batches left must be taken now, or its groups would
                # be left over.
                wait = waits[step] / left
                wait[left >= self._steps - step] *= 1e-12
                taken = np.argpartition(wait, self.classes_per_batch - 1)[: self.classes_per_batch]
                chosen[step] = next_group[taken]
                next_group[taken] += 1
                left[taken] -= 1
        return torch.from_numpy(groups[chosen].reshape(self._steps, self.batch_size))


def _most_steps(stack_sizes: np.ndarray, per_step: int) -> int:
    """Count the most steps that can each take one group from ``per_step`` different stacks."""
    steps = np.arange(1, stack_sizes.sum() // per_step + 1)
    # In S steps a stack can give at most S groups; S steps are possible exactly if all stacks together can
    # give S * P of them.
    supply = np.minimum(stack_sizes[None, :], steps[:, None]).sum(axis=1)
    return int((supply >= steps * per_step).sum())
