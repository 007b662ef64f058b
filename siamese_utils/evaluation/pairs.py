"""Same or different: thresholds, accuracies and ROC curves over pairs and triplets of embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from scipy.stats import rankdata

from siamese_utils.data.arrays import as_count, as_number, as_rng, as_row
from siamese_utils.data.sampling import ClassIndex, named_rng, sample_pairs, sample_triplets
from siamese_utils.errors import SamplingError, ShapeError
from siamese_utils.evaluation.embeddings import CELLS_AT_ONCE, checked
from siamese_utils.evaluation.estimates import Estimate, share_estimate

MAX_PAIRS = 50_000_000  # of which all similarities are kept
_AUC_BINS = 2**16


def triplet_accuracy(
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator | int, count: int = 50_000
) -> Estimate:
    """Share of random triplets with d(anchor, positive) < d(anchor, negative); chance is 50.

    The interval is binomial: it covers the random choice of triplets from these images.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no class with 2 images.
    """
    z, labels = checked(z, labels)
    anchor, positive, negative = sample_triplets(labels, count, rng).unbind(1)
    return share_estimate(_similarity(z, anchor, positive) > _similarity(z, anchor, negative))


def pair_accuracy(
    z: torch.Tensor, labels: torch.Tensor, threshold: float, rng: np.random.Generator | int, count: int = 50_000
) -> Estimate:
    """Same/different accuracy on random balanced pairs; chance is 50.

    A pair is called "same" when its similarity is above the threshold.

    The interval is binomial: it covers the random choice of pairs from these images, not that of the
        threshold.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no class with 2 images.
    """
    z, labels = checked(z, labels)
    threshold = as_number("The threshold", threshold)
    pairs = sample_pairs(labels, count, rng)
    return share_estimate((_similarity(z, pairs.first, pairs.second) > threshold) == pairs.same)


def sample_similarities(
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator | int, count: int = 50_000
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine similarities of random balanced pairs, for histograms.

    Returns:
        ``(same, different)``: two float32 tensors, of half of ``count`` pairs each, values from -1 to 1.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no class with 2 images.
    """
    z, labels = checked(z, labels)
    pairs = sample_pairs(labels, count, rng)
    similarity = _similarity(z, pairs.first, pairs.second).clamp(-1, 1)  # rounding would put some above one
    return similarity[pairs.same], similarity[~pairs.same]


def threshold_for_balanced_accuracy(similarity: torch.Tensor | np.ndarray, same: torch.Tensor | np.ndarray) -> float:
    """Find the threshold t with the best balanced accuracy of the rule "same if similarity > t".

    Balanced accuracy is the mean of the shares called right among same and among different pairs, so the
    pairs need not be balanced. The threshold lies midway between two neighbouring similarities.

    Args:
        similarity: float32 (n,).
        same: bool (n,).

    Raises:
        ShapeError: shapes or types that do not fit.
        SamplingError: no same or no different pair.
    """
    values, is_same = as_row("Similarities", similarity).numpy(), as_row("Flags", same).numpy()
    values = values if values.dtype.kind == "f" else values.astype(np.float64)
    if values.shape != is_same.shape or is_same.dtype != bool:
        raise ShapeError(
            f"Similarities and 'same' flags must be two rows of equal length, the flags true or false, but "
            f"got shapes {values.shape} and {is_same.shape}, flags of type {is_same.dtype}."
        )
    return _best_threshold(np.sort(values[is_same]), np.sort(values[~is_same]))


def threshold_over_all_pairs(z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator | int) -> float:
    """The same over all pairs of images or, where they are too many, over those of a random subset.

    Args:
        z: float32 (M, D), rows of unit length.
        labels: int64 (M,).
        rng: for the subset, where one is needed.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no class with 2 images.
    """
    pairs = _AllPairs(*_at_most_pairs(*checked(z, labels), MAX_PAIRS, rng))
    return _best_threshold(np.sort(pairs.same), np.sort(pairs.different))


def _best_threshold(same: np.ndarray, different: np.ndarray) -> float:
    """The same for sorted similarities of same and of different pairs."""
    if len(same) == 0 or len(different) == 0:
        raise SamplingError("A threshold needs both same and different pairs; give images of 2 classes or more.")
    below_same = np.searchsorted(same, same, side="left")
    below_different = np.searchsorted(different, same, side="left")
    # Cutting just below the i-th same pair; a best cut is always just below some same pair.
    best = int(np.argmax(below_different / len(different) - below_same / len(same)))
    value = same[best]
    lower = [part[k - 1] for part, k in ((same, below_same[best]), (different, below_different[best])) if k > 0]
    if not lower:
        return float(np.nextafter(value, value.dtype.type(-np.inf)))
    middle = value.dtype.type((float(max(lower)) + float(value)) / 2)
    return float(middle if middle < value else max(lower))


def auc(score: torch.Tensor | np.ndarray, same: torch.Tensor | np.ndarray) -> float:
    """Area under the ROC curve of scored pairs, in percent; quick enough for a bootstrap.

    It is how often a same pair scores above a different one, ties counting half.

    Args:
        score: float (n,).
        same: bool (n,).

    Raises:
        ShapeError: scores and flags that do not fit each other.
        SamplingError: no same or no different pair.
    """
    values, flags = as_row("Scores", score), as_row("Flags", same)
    if values.shape != flags.shape or flags.dtype != torch.bool:
        raise ShapeError("An area under the ROC curve needs one flag, true or false, for each score.")
    count = int(flags.sum())
    if not 0 < count < len(flags):
        raise SamplingError("An area under the ROC curve needs both same and different pairs; give some of each kind.")
    above = rankdata(values.numpy())[flags.numpy()].sum() - count * (count + 1) / 2
    return 100 * float(above / (count * (len(flags) - count)))


def pair_auc(
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator | int | None = None, max_pairs: int = MAX_PAIRS
) -> Estimate:
    """Area under the ROC curve of the similarity, over all pairs of images.

    It is how often a pair of one class is more similar than a pair of two; ties count half. Exact; beyond
    ``max_pairs`` pairs it is exact on a random subset of the images of each class, or, where classes are too many for
    two images each, of the classes.

    The interval treats the *images* of each class as the sample (pairs that share an image are not
    independent, so an interval from the number of pairs would be far too narrow). It uses the infinitesimal
    jackknife (Jaeckel 1972; Efron 1982): the variance of the estimate is the sum over images of the squared
    derivative of the AUC by the weight of the image, centred within each class. This is the first-order value
    of the bootstrap over the images of each class. It is conditional on the classes.

    Args:
        z: float32 (M, D), rows of unit length.
        labels: int64 (M,).
        rng: for the subset, where one is needed.
        max_pairs: number of pairs above which a subset is used.

    Returns:
        The AUC in percent; ``n`` is the number of pairs.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no class with 2 images.
    """
    z, labels = checked(z, labels)
    most = as_count("The largest number of pairs", max_pairs, error=SamplingError)
    z, labels = _at_most_pairs(z, labels, most, rng)
    pairs = _AllPairs(z, labels)
    num_same, num_different = len(pairs.same), len(pairs.different)

    # For each different pair the share of same pairs above it, read from a fine table: it enters the interval
    # only.
    bin_of = _bins(pairs.same, _AUC_BINS)
    in_bin = np.bincount(bin_of(torch.from_numpy(pairs.same)).numpy(), minlength=_AUC_BINS + 2)
    above = 1 - (np.cumsum(in_bin) - in_bin / 2) / num_same
    table = torch.from_numpy(above.astype(np.float32))
    influence = np.zeros(len(z))  # d AUC / d weight of each image
    for rows, columns, block in pairs.different_blocks():
        share = table.index_select(0, bin_of(block).view(-1)).view(block.shape)
        influence[rows] += share.sum(1).double().numpy() / num_different
        influence[columns] += share.sum(0).double().numpy() / num_different

    pairs.different.sort()  # in place, for memory: the tables by class are no longer needed
    by_value = np.argsort(pairs.same)  # neighbouring searches are then near each other in memory: far faster
    found = [np.searchsorted(pairs.different, pairs.same[by_value], side) for side in ("left", "right")]
    below = np.empty(num_same, dtype=np.int64)  # different pairs below each same pair, twice; a tie adds one
    below[by_value] = found[0] + found[1]
    auc = int(below.sum()) / (2 * num_same * num_different)
    share = below / (2 * num_different * num_same)
    first, second = pairs.same_members()
    influence += np.bincount(first, share, len(z)) + np.bincount(second, share, len(z))
    sizes = pairs.sizes[pairs.class_of]
    influence -= auc * ((sizes - 1) / num_same + (len(z) - sizes) / num_different)
    centre = np.bincount(pairs.class_of, influence) / pairs.sizes
    variance = np.square(influence - centre[pairs.class_of]).sum()
    return Estimate(100 * auc, 196 * float(variance) ** 0.5, num_same + num_different)


class _AllPairs:
    """Similarities of all pairs of images, each pair once, with the images sorted by class.

    Attributes:
        sizes: int64 (C,), images of each class.
        class_of: int64 (M,), class number of each image, ascending.
        same: float32, similarities of the pairs of one class, class after class.
        different: float32, those of two classes: for each class a table of its images by all images of later
            classes.
    """

    def __init__(self, z: torch.Tensor, labels: torch.Tensor) -> None:
        index = ClassIndex(labels)
        index.check_comparable("Pairs")
        z = z[torch.from_numpy(index.order)]
        self.sizes, self.starts = index.sizes, index.starts
        self.class_of = np.repeat(np.arange(len(self.sizes)), self.sizes)
        total = len(z)
        num_same = int((self.sizes * (self.sizes - 1) // 2).sum())
        self.same = np.empty(num_same, dtype=np.float32)
        self.different = np.empty(total * (total - 1) // 2 - num_same, dtype=np.float32)
        same_done = different_done = 0
        for start, size in zip(self.starts, self.sizes, strict=True):
            block = (z[start : start + size] @ z[start:].T).numpy()
            within = block[:, :size][np.triu_indices(size, 1)]
            self.same[same_done : same_done + len(within)] = within
            same_done += len(within)
            count = size * (total - start - size)
            self.different[different_done : different_done + count].reshape(size, -1)[:] = block[:, size:]
            different_done += count

    def different_blocks(self) -> Iterable[tuple[slice, slice, torch.Tensor]]:
        """For each class but the last: its rows, the columns of all later classes, and their similarities."""
        done, total = 0, len(self.class_of)
        for start, size in zip(self.starts[:-1], self.sizes[:-1], strict=True):
            end = start + size
            block = self.different[done : done + size * (total - end)].reshape(size, total - end)
            yield slice(start, end), slice(end, total), torch.from_numpy(block)
            done += block.size

    def same_members(self) -> tuple[np.ndarray, np.ndarray]:
        """First and second image of each same pair, in the order of ``same``."""
        members = [np.triu_indices(size, 1) for size in self.sizes]
        first = np.concatenate([start + i for start, (i, _) in zip(self.starts, members, strict=True)])
        second = np.concatenate([start + j for start, (_, j) in zip(self.starts, members, strict=True)])
        return first, second


def _bins(values: np.ndarray, count: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Make the function that finds a number's bin among ``count`` equal ones over the range of the values.

    The bins are numbered from 1; 0 is below the range and count + 1 above it.
    """
    low, high = float(values.min()), float(values.max())
    scale = count / max(high - low, 1e-9)

    def bin_of(similarity: torch.Tensor) -> torch.Tensor:
        return ((similarity - low) * scale + 1).clamp_(0, count + 1).to(torch.int32)

    return bin_of


def _at_most_pairs(
    z: torch.Tensor, labels: torch.Tensor, max_pairs: int, rng: np.random.Generator | int | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images, or where they make too many pairs, the same share of the images of each class at random.

    Two of each class stay, so that it has a same pair; where even these are too many, classes are chosen at random.
    """
    total, rng = len(z), named_rng(0, "images for pairs") if rng is None else as_rng(rng)
    if total * (total - 1) // 2 <= max_pairs:
        return z, labels
    keep_share = (2 * max_pairs) ** 0.5 / total
    index = ClassIndex(labels)
    shuffled = np.argsort(rng.random(total) + index.class_of)  # each class stays together, in random order
    place = np.arange(total) - np.repeat(index.starts, index.sizes)
    quota = np.maximum(np.floor(index.sizes * keep_share), np.minimum(index.sizes, 2))
    most = (1 + math.isqrt(1 + 8 * max_pairs)) // 2  # images that make so many pairs
    if quota.sum() > most:
        order = rng.permutation(len(quota))
        quota[order[np.cumsum(quota[order]) > max(most, 4)]] = 0
    kept = torch.from_numpy(np.sort(shuffled[place < np.repeat(quota, index.sizes)]))
    return z[kept], labels[kept]


def _similarity(z: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of rows, in parts so that the gathered embeddings stay small."""
    step = max(1, 8 * CELLS_AT_ONCE // z.shape[1])
    parts = [(z[a] * z[b]).sum(1) for a, b in zip(first.split(step), second.split(step), strict=True)]
    return torch.cat(parts)
