"""Every number of the evaluation protocol, from cached embeddings, with 95% confidence intervals.

All functions take embeddings ``z``, float32 (M, D) with rows of unit length (so the dot product of two rows
is their cosine similarity, and ordering by it is ordering by Euclidean distance), and ``labels``, int64 (M,).
Results are in percent.

What an interval covers: only the sampling named in the docstring (episodes, supports, pairs, triplets or
images). All are conditional on the trained network and on the draw of the classes; how much another training
seed or other classes would change a number is seen only by repeating the training.

Where several classes are equally similar to a query (a collapsed network, duplicate images), the prediction
counts as a fair random choice among them, so a network that maps everything to one point scores exactly
chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from .errors import SamplingError, ShapeError, SplitError, unknown
from .sampling import ClassIndex, Episodes, named_rng, sample_episodes, sample_pairs, sample_triplets
from .splits import ClassSplit

METRICS: dict[str, str] = {
    "triplet_acc_seen": "seen classes: how often the anchor is nearer to its positive than its negative",
    "triplet_acc_unseen": "unseen classes: how often the anchor is nearer to its positive than its negative",
    "pair_acc_seen": "seen classes: same/different accuracy, balanced pairs, threshold from held-out images",
    "pair_acc_unseen": "unseen classes: same/different accuracy, balanced pairs, the same threshold",
    "pair_auc_seen": "seen classes: area under the ROC curve of the similarity, over all pairs",
    "pair_auc_unseen": "unseen classes: area under the ROC curve of the similarity, over all pairs",
    "acc_5w1s": "unseen classes: 5-way 1-shot accuracy, nearest prototype by cosine",
    "acc_5w5s": "unseen classes: 5-way 5-shot accuracy, nearest prototype by cosine",
    "acc_allway_1s": "all unseen classes at once, one support image each: accuracy on all other test images",
    "legacy_few_shot": "the seed project's 'mean few-shot accuracy': support-query pairs called right at 0.2",
    "legacy_always_different": "what always answering 'different' scores on those same pairs",
}
"""Metric names of the results files, each with one line of explanation. All are percentages."""

MAX_PAIRS = 50_000_000
_MAX_GRAM = 13_000  # images; the table of all similarities then takes at most 0.7 GB
_CELLS_AT_ONCE = 500_000  # of a gathered table, so that it stays in the processor cache
_AUC_BINS = 2**16


@dataclass(frozen=True)
class Estimate:
    """A percentage with its uncertainty.

    Attributes:
        value: percent.
        ci95: half width of the 95% confidence interval, percent points.
        n: number of episodes, supports, triplets or pairs behind the value.
    """

    value: float
    ci95: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.ci95:.2f}"


@dataclass(frozen=True)
class SplitEvaluation:
    """All metrics of one encoder on one split.

    Attributes:
        threshold: cosine similarity above which a pair is called "same", chosen on held-out images of seen
            classes.
        metrics: one estimate for each name of `METRICS` that the split has (100-0 has no unseen classes).
    """

    threshold: float
    metrics: dict[str, Estimate]


@dataclass(frozen=True, eq=False)
class FewShotPredictions:
    """Every answer of one few-shot task, for figures and confusion tables.

    Attributes:
        classes: int64 (N,), labels of the task's classes.
        support: int64 (N, K), positions of the support images.
        query: int64 (Q,), positions of the query images.
        true: int64 (Q,), label of each query.
        predicted: int64 (Q,), label of the most similar prototype.
        similarity: float32 (Q, N), cosine similarity of each query to each class's prototype.
    """

    classes: torch.Tensor
    support: torch.Tensor
    query: torch.Tensor
    true: torch.Tensor
    predicted: torch.Tensor
    similarity: torch.Tensor

    @property
    def correct(self) -> torch.Tensor:
        """Whether each prediction is right; bool (Q,)."""
        return self.predicted == self.true

    @property
    def margin(self) -> torch.Tensor:
        """How sure each answer is: similarity of the best class minus that of the next; float32 (Q,)."""
        best = self.similarity.topk(2, dim=1).values
        return best[:, 0] - best[:, 1]


# --- intervals
# ------------------------------------------------------------------------------------------------------


def mean_estimate(shares: torch.Tensor) -> Estimate:
    """Mean of independent shares (for example accuracies of episodes), as a percentage.

    Args:
        shares: float (n,), values between 0 and 1.

    Returns:
        The mean with half width 1.96 sd / sqrt(n). It covers the random choice of episodes or supports only.
        With a single value there is no spread to judge by, and the half width is infinite.
    """
    values = shares.double()
    n = len(values)
    half = 1.96 * values.std().item() / n**0.5 if n > 1 else float("inf")
    return Estimate(100 * values.mean().item(), 100 * half, n)


def share_estimate(hits: torch.Tensor) -> Estimate:
    """Share of true values among independent draws, bool (n,), as a percentage with the normal binomial interval."""
    n = len(hits)
    share = hits.double().mean().item()
    return Estimate(100 * share, 196 * (share * (1 - share) / n) ** 0.5, n)


# --- pairs and triplets
# ---------------------------------------------------------------------------------------------


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95% interval of a share by Wilson's score method (1927), in percent: (low, high).

    Raises:
        SamplingError: no trial, or more hits than trials.
    """
    if not 0 <= hits <= trials or trials < 1:
        raise SamplingError(f"{hits} hits in {trials} trials have no share; count at least one trial.")
    z2 = 1.96**2
    middle = (hits + z2 / 2) / (trials + z2)
    half = 1.96 / (trials + z2) * (hits * (trials - hits) / trials + z2 / 4) ** 0.5
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def triplet_accuracy(
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator, count: int = 50_000
) -> Estimate:
    """Share of random triplets with d(anchor, positive) < d(anchor, negative); chance is 50.

    The interval is binomial: it covers the random choice of triplets from these images.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no class with 2 images.
    """
    z, labels = _checked(z, labels)
    anchor, positive, negative = sample_triplets(labels, count, rng).unbind(1)
    return share_estimate(_similarity(z, anchor, positive) > _similarity(z, anchor, negative))


def pair_accuracy(
    z: torch.Tensor, labels: torch.Tensor, threshold: float, rng: np.random.Generator, count: int = 50_000
) -> Estimate:
    """Same/different accuracy on random balanced pairs; chance is 50.

    A pair is called "same" when its similarity is above the threshold.

    The interval is binomial: it covers the random choice of pairs from these images, not that of the
        threshold.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no class with 2 images.
    """
    z, labels = _checked(z, labels)
    pairs = sample_pairs(labels, count, rng)
    return share_estimate((_similarity(z, pairs.first, pairs.second) > threshold) == pairs.same)


def sample_similarities(
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator, count: int = 50_000
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine similarities of random balanced pairs, for histograms.

    Returns:
        ``(same, different)``: two float32 tensors, of half of ``count`` pairs each.
    """
    z, labels = _checked(z, labels)
    pairs = sample_pairs(labels, count, rng)
    similarity = _similarity(z, pairs.first, pairs.second)
    return similarity[pairs.same], similarity[~pairs.same]


def threshold_for_balanced_accuracy(
    similarity: torch.Tensor | np.ndarray, same: torch.Tensor | np.ndarray
) -> float:
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
    values, is_same = np.asarray(similarity), np.asarray(same)
    if values.ndim != 1 or values.shape != is_same.shape or is_same.dtype != bool:
        raise ShapeError(
            f"Similarities and 'same' flags must be two rows of equal length, the flags true or false, but "
            f"got shapes {values.shape} and {is_same.shape}, flags of type {is_same.dtype}."
        )
    return _best_threshold(np.sort(values[is_same]), np.sort(values[~is_same]))


def _best_threshold(same: np.ndarray, different: np.ndarray) -> float:
    """The same for sorted similarities of same and of different pairs."""
    if len(same) == 0 or len(different) == 0:
        raise SamplingError(
            "A threshold needs both same and different pairs; give images of 2 classes or more."
        )
    below_same = np.searchsorted(same, same, side="left")
    below_different = np.searchsorted(different, same, side="left")
    # Cutting just below the i-th same pair; a best cut is always just below some same pair.
    best = int(np.argmax(below_different / len(different) - below_same / len(same)))
    value = same[best]
    lower = [
        part[k - 1] for part, k in ((same, below_same[best]), (different, below_different[best])) if k > 0
    ]
    if not lower:
        return float(np.nextafter(value, value.dtype.type(-np.inf)))
    middle = value.dtype.type((float(max(lower)) + float(value)) / 2)
    return float(middle if middle < value else max(lower))


def pair_auc(
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator | None = None, max_pairs: int = MAX_PAIRS
) -> Estimate:
    """Area under the ROC curve of the similarity, over all pairs of images.

    It is how often a pair of one class is more similar than a pair of two; ties count half. Exact; beyond
    ``max_pairs`` pairs it is exact on a random subset of the images of each class.

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
    z, labels = _checked(z, labels)
    z, labels = _at_most_pairs(z, labels, max_pairs, rng)
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
    z: torch.Tensor, labels: torch.Tensor, max_pairs: int, rng: np.random.Generator | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The images, or where they make too many pairs, the same share of the images of each class at random."""
    total = len(z)
    if total * (total - 1) // 2 <= max_pairs:
        return z, labels
    rng = rng if rng is not None else named_rng(0, "images for pairs")
    keep_share = (2 * max_pairs) ** 0.5 / total
    index = ClassIndex(labels)
    shuffled = np.argsort(rng.random(total) + index.class_of)  # each class stays together, in random order
    place = np.arange(total) - np.repeat(index.starts, index.sizes)
    quota = np.maximum(np.floor(index.sizes * keep_share), np.minimum(index.sizes, 2))
    kept = torch.from_numpy(np.sort(shuffled[place < np.repeat(quota, index.sizes)]))
    return z[kept], labels[kept]


def _similarity(z: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosine similarity of rows, in parts so that the gathered embeddings stay small."""
    step = max(1, 8 * _CELLS_AT_ONCE // z.shape[1])
    parts = [(z[a] * z[b]).sum(1) for a, b in zip(first.split(step), second.split(step), strict=True)]
    return torch.cat(parts)


# --- few-shot
# -------------------------------------------------------------------------------------------------------


def few_shot_accuracy(
    z: torch.Tensor,
    labels: torch.Tensor,
    rng: np.random.Generator,
    *,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 10_000,
    gram: torch.Tensor | None = None,
) -> Estimate:
    """N-way K-shot accuracy: how often the prototype nearest to a query is that of its class.

    A prototype is the mean of a class's support embeddings (Snell et al. 2017,
    https://arxiv.org/abs/1703.05175), compared by cosine similarity. The interval covers the random choice of
    episodes from these images.

    Args:
        z: float32 (M, D), rows of unit length.
        labels: int64 (M,).
        rng: random generator.
        ways: classes an episode.
        shots: support images a class.
        queries: query images a class.
        episodes: number of episodes.
        gram: float32 (M, M), ``z @ z.T``, if it is at hand already.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: more ways than classes, or more shots and queries than images.
    """
    z, labels = _checked(z, labels)
    drawn = sample_episodes(labels, ways, shots, queries, episodes, rng)
    return mean_estimate(episode_accuracies(z, drawn, gram))


def episode_accuracies(z: torch.Tensor, episodes: Episodes, gram: torch.Tensor | None = None) -> torch.Tensor:
    """Accuracy of each episode: share of its queries nearest to the prototype of their own class.

    Args:
        z: float32 (M, D), rows of unit length.
        episodes: E episodes over these rows.
        gram: float32 (M, M), ``z @ z.T``, if it is at hand already.

    Returns:
        float64 (E,), values between 0 and 1.
    """
    count, ways, queries = episodes.query.shape
    # With the table of all similarities an episode only looks numbers up; making the table must be worth it.
    if gram is None and len(z) <= _MAX_GRAM and len(z) ** 2 <= 200 * count * ways * queries:
        gram = z @ z.T
    width = ways * ways * queries if gram is not None else ways * queries * z.shape[1]
    step = max(1, _CELLS_AT_ONCE // width)
    accuracies = torch.empty(count, dtype=torch.float64)
    for start in range(0, count, step):
        support = episodes.support[start : start + step]
        query = episodes.query[start : start + step].flatten(1)
        if gram is not None:
            similarity = _prototype_similarity_by_lookup(gram, support, query)
        else:
            prototypes = F.normalize(z[support].mean(2), dim=-1)
            similarity = prototypes @ z[query].transpose(1, 2)
        credit = _credit(similarity.view(len(support), ways, ways, queries))
        accuracies[start : start + step] = credit.mean(dim=(1, 2), dtype=torch.float64)
    return accuracies


def _prototype_similarity_by_lookup(
    gram: torch.Tensor, support: torch.Tensor, query: torch.Tensor
) -> torch.Tensor:
    """Cosine of prototypes and queries from pairwise similarities alone; float32 (E, N, queries).

    With prototype p = mean of s_k: p . q = mean of s_k . q, and |p|^2 = mean of s_k . s_l.
    """
    dtype = torch.int32 if gram.numel() < 2**31 else torch.int64  # short numbers are looked up twice as fast
    cells = gram.view(-1)
    rows = (support * len(gram)).to(dtype)
    columns = query[:, None, :].to(dtype)

    def look_up(cell: torch.Tensor) -> torch.Tensor:
        return cells.index_select(0, cell.view(-1)).view(cell.shape)

    similarity = look_up(rows[:, :, 0, None] + columns)
    shots = support.shape[2]
    if shots == 1:
        return similarity
    for k in range(1, shots):
        similarity += look_up(rows[:, :, k, None] + columns)
    between = look_up(rows[:, :, :, None] + support[:, :, None, :].to(dtype))
    norm = between.sum(dim=(2, 3)).clamp_min(1e-12).sqrt()
    return similarity / norm[:, :, None]


def _credit(similarity: torch.Tensor) -> torch.Tensor:
    """Credit for each answer: 1 if right, 0 if wrong, 1/t if the right class is one of t tied for best.

    Args:
        similarity: float32 (E, N, N, Q): episode, class of the prototype, class of the query, query. It is
            overwritten.

    Returns:
        float32 (E, N, Q).
    """
    diagonal = similarity.diagonal(dim1=1, dim2=2)
    own = diagonal.transpose(1, 2).clone()
    diagonal.fill_(-torch.inf)
    other = similarity.amax(1)
    credit = (own > other).float()
    tied = own == other
    if tied.any():  # hardly ever, so counting the ties of every answer would be most of the time
        episode, of_class, query = tied.nonzero(as_tuple=True)
        rivals = similarity[episode, :, of_class, query] == own[tied][:, None]
        credit[tied] = 1 / (1 + rivals.sum(1))
    return credit


def all_way_accuracy(
    z: torch.Tensor,
    labels: torch.Tensor,
    rng: np.random.Generator,
    supports: int = 1_000,
    gram: torch.Tensor | None = None,
) -> Estimate:
    """One-shot accuracy among *all* classes present: one support image each, all other images are queries.

    The interval covers the random choice of support images from these images.

    Args:
        z: float32 (M, D), rows of unit length.
        labels: int64 (M,).
        rng: random generator.
        supports: number of random choices of support images to average over.
        gram: float32 (M, M), ``z @ z.T``, if it is at hand already.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no image left to ask about.
    """
    z, labels = _checked(z, labels)
    index = ClassIndex(labels)
    own_class = torch.from_numpy(index.class_of)[None, :]
    accuracies = torch.empty(supports, dtype=torch.float64)
    for i, (support, similarity) in enumerate(_support_similarities(z, index, rng, supports, gram)):
        own = similarity.gather(0, own_class).squeeze(0)
        other = similarity.scatter_(0, own_class, -torch.inf).amax(0)
        credit = (own > other).double()
        tie = torch.nonzero(own == other).squeeze(1)
        if len(tie) > 0:
            credit[tie] = 1 / (1 + (similarity[:, tie] == own[tie]).sum(0).double())
        credit[support] = 0
        accuracies[i] = credit.sum() / (len(z) - len(support))
    return mean_estimate(accuracies)


def all_way_confusion(
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator, supports: int = 200
) -> tuple[torch.Tensor, torch.Tensor]:
    """Confusion between all classes present, one support image each, over many random supports.

    Returns:
        ``(classes, confusion)``: int64 (N,) labels, ascending, and float64 (N, N), row = true class, column =
        predicted class, every row adding up to 1. The diagonal holds the accuracy of each class.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: a class with a single image.
    """
    z, labels = _checked(z, labels)
    index = _index_with_queries(labels)
    own_class = torch.from_numpy(index.class_of)
    ways = len(index.classes)
    counts = torch.zeros(ways * ways, dtype=torch.float64)
    for support, similarity in _support_similarities(z, index, rng, supports, None):
        asked = torch.ones(len(z), dtype=torch.float64)
        asked[support] = 0
        counts += torch.bincount(own_class * ways + similarity.argmax(0), asked, ways * ways)
    confusion = counts.view(ways, ways)
    return torch.from_numpy(index.classes.astype(np.int64)), confusion / confusion.sum(1, keepdim=True)


def all_way_recalls(
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator, supports: int = 200
) -> tuple[torch.Tensor, torch.Tensor]:
    """How well each class is recognised with each of many random supports, one image of every class.

    Returns:
        ``(classes, recalls)``: int64 (N,) labels, ascending, and float64 (supports, N), for each support the share of
        a class's other images that are given to it. The mean over supports is the diagonal of `all_way_confusion`.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: a class with a single image.
    """
    z, labels = _checked(z, labels)
    index = _index_with_queries(labels)
    own_class = torch.from_numpy(index.class_of)
    asked_of = torch.from_numpy(index.sizes - 1).double()
    rows = []
    for support, similarity in _support_similarities(z, index, rng, supports, None):
        right = (similarity.argmax(0) == own_class).double()
        right[support] = 0
        rows.append(torch.bincount(own_class, right, len(index.classes)) / asked_of)
    return torch.from_numpy(index.classes.astype(np.int64)), torch.stack(rows)


def _index_with_queries(labels: torch.Tensor) -> ClassIndex:
    """The images by class, of which each must have one to ask about besides its support image."""
    index = ClassIndex(labels)
    if index.sizes.min() < 2:
        raise SamplingError(
            "Every class needs a second image to ask about; add images or leave the class out."
        )
    return index


def _support_similarities(
    z: torch.Tensor, index: ClassIndex, rng: np.random.Generator, supports: int, gram: torch.Tensor | None
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """For each random support: positions of one image a class (N,), their similarity to all images (N, M).

    The tensor of similarities is overwritten in the next round.
    """
    chosen = _random_supports(index, rng, supports)
    if gram is None and len(z) <= _MAX_GRAM and len(z) <= supports * len(index.classes):
        gram = z @ z.T
    table = torch.empty(len(index.classes), len(z))
    for support in chosen:
        if gram is not None:
            torch.index_select(gram, 0, support, out=table)
        else:
            torch.mm(z[support], z.T, out=table)
        yield support, table


def _random_supports(index: ClassIndex, rng: np.random.Generator, supports: int) -> torch.Tensor:
    """One random image of every class; int64 (supports, N)."""
    if supports < 1:
        raise SamplingError(f"The number of supports must be 1 or more, but got {supports}.")
    if len(index.classes) < 2 or len(index.order) == len(index.classes):
        raise SamplingError(
            f"A one-shot task among all classes needs 2 classes or more and an image besides the support, "
            f"but there are {len(index.classes)} classes with {len(index.order)} images; add images."
        )
    ranks = rng.integers(0, index.sizes, size=(supports, len(index.sizes)))
    return torch.from_numpy(index.order[index.starts + ranks])


def few_shot_predictions(
    z: torch.Tensor,
    labels: torch.Tensor,
    rng: np.random.Generator,
    *,
    ways: int | None = None,
    shots: int = 1,
) -> FewShotPredictions:
    """Answer one random few-shot task and keep every answer: for showing right and wrong ones.

    Args:
        z: float32 (M, D), rows of unit length.
        labels: int64 (M,).
        rng: random generator.
        ways: number of classes, chosen at random; all classes present if None.
        shots: support images a class; all other images of these classes are queries.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, more ways than classes, or a class without an image besides its
            support.
    """
    z, labels = _checked(z, labels)
    ways = len(torch.unique(labels)) if ways is None else ways
    if ways < 2:
        raise SamplingError("A few-shot task needs 2 classes or more to choose between; give more classes.")
    drawn = sample_episodes(labels, ways, shots, 1, 1, rng)
    classes, order = drawn.classes[0].sort()
    support = drawn.support[0][order]
    is_query = torch.isin(labels, classes)
    is_query[support.flatten()] = False
    query = torch.nonzero(is_query).squeeze(1)
    similarity = z[query] @ F.normalize(z[support].mean(1), dim=1).T
    predicted = classes[similarity.argmax(1)]
    return FewShotPredictions(classes, support, query, labels[query], predicted, similarity)


# --- the seed project's own metric
# ----------------------------------------------------------------------------------


def legacy_few_shot(
    z: torch.Tensor,
    labels: torch.Tensor,
    rng: np.random.Generator,
    threshold: float = 0.2,
    supports: int = 1_000,
) -> Estimate:
    """The seed project's "mean few-shot accuracy": share of (support, query) pairs called right.

    One support image for every class, all other images are queries, and every support is paired with every
    query; a pair is called "same" when its similarity is above the threshold. Of N classes only one pair in N
    is a same pair, so
    this number must be read beside `legacy_always_different`: it cannot show that anything was learned.

    The interval covers the random choice of support images from these images.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no image left to ask about.
    """
    z, labels = _checked(z, labels)
    index = ClassIndex(labels)
    ways, total = len(index.classes), len(z)
    chosen = _random_supports(index, rng, supports)

    # Count right answers of each image against all others once; a support then only subtracts the other
    # supports.
    right = torch.empty(total, dtype=torch.int64)
    for start, size in zip(index.starts, index.sizes, strict=True):
        members = torch.from_numpy(index.order[start : start + size])
        above = z[members] @ z.T > threshold
        above_own = above[:, members]
        own = above_own.sum(1) - above_own.diagonal().long()
        others = (total - size) - (above.sum(1) - above_own.sum(1))
        right[members] = own + others
    shares = torch.empty(supports, dtype=torch.float64)
    step = max(1, 8 * _CELLS_AT_ONCE // (ways * z.shape[1]))
    for start in range(0, supports, step):
        support = chosen[start : start + step]
        called_different = z[support] @ z[support].transpose(1, 2) <= threshold
        called_different.diagonal(dim1=1, dim2=2).fill_(False)
        correct = right[support].sum(1) - called_different.sum(dim=(1, 2))
        shares[start : start + step] = correct.double() / (ways * (total - ways))
    return mean_estimate(shares)


def legacy_always_different(num_classes: int) -> float:
    """What always answering "different" scores by `legacy_few_shot`: 100 (N-1)/N percent for N equal classes.

    Raises:
        SamplingError: fewer than 1 class.
    """
    if num_classes < 1:
        raise SamplingError(f"The number of classes must be 1 or more, but got {num_classes}.")
    return 100 * (num_classes - 1) / num_classes


# --- one encoder, one split
# -----------------------------------------------------------------------------------------


def evaluate_split(
    held_out: tuple[torch.Tensor, torch.Tensor],
    test_z: torch.Tensor,
    test_labels: torch.Tensor,
    split: ClassSplit,
    seed: int = 0,
    *,
    metrics: Iterable[str] | None = None,
    samples: int = 50_000,
    episodes: int = 10_000,
    supports: int = 1_000,
) -> SplitEvaluation:
    """Compute every metric of the protocol for one encoder on one split.

    Each metric draws from a generator of its own, made from the seed and its name: asking for fewer metrics
    does not change the others.

    Args:
        held_out: embeddings float32 (H, D) and labels int64 (H,) of *training* images of seen classes that
            the training did not use; the threshold is chosen on all their pairs.
        test_z: float32 (M, D), embeddings of the test images, rows of unit length.
        test_labels: int64 (M,), their class labels, seen and unseen.
        split: which classes are seen and unseen.
        seed: whole number >= 0.
        metrics: names from `METRICS`; all that the split has if None.
        samples: number of triplets and of pairs.
        episodes: number of episodes.
        supports: number of random supports of the all-way metrics.

    Raises:
        UnknownNameError: a metric that does not exist.
        SplitError: held-out images of classes that are not seen, test images lacking a class of the split, or
            an unseen-class metric asked of a split without unseen classes.
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: too few classes or images for a metric.
    """
    names = _metric_names(metrics, split)
    held_z, held_labels = _checked(*held_out)
    test_z, test_labels = _checked(test_z, test_labels)
    foreign = sorted(set(held_labels.tolist()) - set(split.seen))
    if foreign:
        raise SplitError(
            f"The held-out images include class {foreign[0]}, which split {split.name} (draw {split.draw}) "
            f"does not train on; a threshold must be chosen on seen classes only."
        )
    missing = sorted(set(split.seen + split.unseen) - set(test_labels.tolist()))
    if missing:
        raise SplitError(
            f"The test images have none of class {missing[0]} of split {split.name}; give all test images."
        )

    pairs = _AllPairs(*_at_most_pairs(held_z, held_labels, MAX_PAIRS, named_rng(seed, "threshold")))
    threshold = _best_threshold(np.sort(pairs.same), np.sort(pairs.different))
    del pairs
    parts = {
        "seen": _part(test_z, test_labels, split.seen),
        "unseen": _part(test_z, test_labels, split.unseen),
    }
    gram = None
    if len(parts["unseen"][0]) <= _MAX_GRAM and {"acc_5w1s", "acc_5w5s", "acc_allway_1s"} & set(names):
        gram = parts["unseen"][0] @ parts["unseen"][0].T

    def few_shot(z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator, shots: int) -> Estimate:
        return few_shot_accuracy(z, labels, rng, ways=5, shots=shots, episodes=episodes, gram=gram)

    compute: dict[str, Callable[[torch.Tensor, torch.Tensor, np.random.Generator], Estimate]] = {
        "triplet_acc": lambda z, y, rng: triplet_accuracy(z, y, rng, samples),
        "pair_acc": lambda z, y, rng: pair_accuracy(z, y, threshold, rng, samples),
        "pair_auc": lambda z, y, rng: pair_auc(z, y, rng),
        "acc_5w1s": lambda z, y, rng: few_shot(z, y, rng, 1),
        "acc_5w5s": lambda z, y, rng: few_shot(z, y, rng, 5),
        "acc_allway_1s": lambda z, y, rng: all_way_accuracy(z, y, rng, supports, gram),
        "legacy_few_shot": lambda z, y, rng: legacy_few_shot(z, y, rng, supports=supports),
        "legacy_always_different": lambda z, y, rng: Estimate(
            legacy_always_different(len(split.unseen)), 0.0, supports
        ),
    }
    estimates = {}
    for name in names:
        stem = name.removesuffix("_unseen").removesuffix("_seen")
        z, labels = parts["seen" if name.endswith("_seen") else "unseen"]
        estimates[name] = compute[stem](z, labels, named_rng(seed, name))
    return SplitEvaluation(threshold=threshold, metrics=estimates)


def _metric_names(metrics: Iterable[str] | None, split: ClassSplit) -> list[str]:
    of_split = [name for name in METRICS if split.unseen or name.endswith("_seen")]
    if metrics is None:
        return of_split
    names = list(metrics)
    for name in names:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
        if name not in of_split:
            raise SplitError(
                f"Split {split.name} has no unseen classes, so {name} has no value; leave it out."
            )
    return names


def _part(
    z: torch.Tensor, labels: torch.Tensor, classes: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    inside = torch.isin(labels, torch.tensor(classes, dtype=torch.int64))
    return z[inside], labels[inside]


def _checked(z: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings as contiguous float32 and labels as int64, on the CPU, or a ShapeError."""
    try:
        z, labels = torch.as_tensor(z).detach().cpu(), torch.as_tensor(labels).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:  # no numbers, or rows of different lengths
        raise ShapeError(
            f"Embeddings and labels must be arrays of numbers, not {type(z).__name__} and {type(labels).__name__}; "
            "take them from encoder.embed and an image set."
        ) from error
    if z.ndim != 2 or len(z) == 0 or not z.is_floating_point():
        raise ShapeError(
            f"Embeddings must be a table of floating-point numbers, one row an image, but got shape "
            f"{tuple(z.shape)} and type {z.dtype}."
        )
    if labels.shape != z.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ShapeError(
            f"Labels must be {len(z)} whole numbers, one for each embedding, but got shape "
            f"{tuple(labels.shape)} and type {labels.dtype}."
        )
    z = z.float().contiguous()
    lengths = z.norm(dim=1)
    if not bool(((lengths - 1).abs() < 1e-3).all()):  # also false where an embedding is not a number
        worst = int((lengths - 1).abs().nan_to_num(torch.inf).argmax())
        raise ShapeError(
            f"Embeddings must have unit length, but row {worst} has length {lengths[worst].item():.4g}; "
            f"normalise them (torch.nn.functional.normalize), or take them from encoder.embed."
        )
    return z, labels.long()
