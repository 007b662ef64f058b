"""Few-shot accuracies: episodes, all classes at once, nearest prototype by cosine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from siamese_utils.data.arrays import as_count, as_number, as_rng, as_row
from siamese_utils.data.sampling import ClassIndex, Episodes, sample_episodes
from siamese_utils.errors import SamplingError, ShapeError
from siamese_utils.evaluation.embeddings import CELLS_AT_ONCE, checked, checked_embeddings, checked_gram
from siamese_utils.evaluation.estimates import Estimate, mean_estimate

MAX_GRAM = 13_000  # images; the table of all similarities then takes at most 0.7 GB


# --- few classes, episode by episode --------------------------------------------------------------


def few_shot_accuracy(
    z: torch.Tensor,
    labels: torch.Tensor,
    rng: np.random.Generator | int,
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
        rng: random generator, or a whole number as its seed.
        ways: classes an episode.
        shots: support images a class.
        queries: query images a class.
        episodes: number of episodes.
        gram: float32 (M, M), ``z @ z.T``, if it is at hand already.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: more ways than classes, or more shots and queries than images.
    """
    z, labels = checked(z, labels)
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

    Raises:
        ShapeError: embeddings of the wrong shape, type or range.
        SamplingError: episodes over other rows.
    """
    z = checked_embeddings(z)
    gram = checked_gram(gram, len(z))
    _check_episodes(episodes, len(z))
    count, ways, queries = episodes.query.shape
    # With the table of all similarities an episode only looks numbers up; making the table must be worth it.
    if gram is None and len(z) <= MAX_GRAM and len(z) ** 2 <= 200 * count * ways * queries:
        gram = z @ z.T
    width = ways * ways * queries if gram is not None else ways * queries * z.shape[1]
    step = max(1, CELLS_AT_ONCE // width)
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


def estimate_over_images(values: torch.Tensor, episodes: Episodes, labels: torch.Tensor) -> Estimate:
    """Mean of a number of each episode, such as its accuracy, with an interval that covers the choice of images.

    The interval of ``few_shot_accuracy`` shrinks with the number of episodes, however few images they are drawn from.
    This one asks how much each image moves the mean: the infinitesimal jackknife for an average over random subsamples
    (Wager, Hastie & Efron 2014, https://jmlr.org/papers/v15/wager14a.html), within each class, without what the
    number of episodes adds to it. It is conditional on the classes. Episodes with one query a class tell most.

    Args:
        values: float (E,), one an episode; differences of two encoders' accuracies give the interval of a difference.
        episodes: drawn from these labels.
        labels: int64 (M,).

    Returns:
        the mean in percent; ``n`` is the number of images. The half width is infinite where a class has no images but
        those that every episode takes.

    Raises:
        ShapeError: numbers or labels of the wrong shape or type.
        SamplingError: episodes over other rows.
    """
    index = ClassIndex(labels)
    _check_episodes(episodes, len(index.order))
    shares = as_row("Numbers of episodes", values).double()
    if len(shares) != len(episodes):
        raise ShapeError(f"{len(episodes)} episodes need as many numbers, but there are {len(shares)}.")
    members = torch.cat([episodes.support.flatten(1), episodes.query.flatten(1)], dim=1)
    of_class = episodes.support.shape[2] + episodes.query.shape[2]
    away = (shares - shares.mean()).repeat_interleave(members.shape[1])
    moved = np.bincount(members.reshape(-1).numpy(), away.numpy(), len(labels)) / len(shares)
    moved -= (np.bincount(index.class_of, moved) / index.sizes)[index.class_of]
    taken = np.bincount(members.reshape(-1).numpy(), minlength=len(labels)) / len(shares)
    left = index.sizes - of_class
    if not left.min() > 0:
        return Estimate(100 * shares.mean().item(), float("inf"), len(labels))
    # Whoever draws from few images without putting any back sees less of a change than other images would bring.
    scale = ((index.sizes - 1) * index.sizes / left**2)[index.class_of]
    by_chance = float(shares.var()) / len(shares) * taken * (1 - of_class / index.sizes)[index.class_of]
    variance = float((scale * (moved**2 - by_chance)).sum())
    return Estimate(100 * shares.mean().item(), 196 * max(variance, 0.0) ** 0.5, len(labels))


def _check_episodes(episodes: Episodes, count: int) -> None:
    """Raise SamplingError unless these are episodes over so many rows."""
    if not isinstance(episodes, Episodes):
        raise SamplingError(f"Episodes come from sample_episodes, not as a {type(episodes).__name__}.")
    support, query = episodes.support, episodes.query
    fit = all(
        isinstance(rows, torch.Tensor) and rows.dtype == torch.int64 and not rows.is_meta for rows in (support, query)
    )
    fit = fit and support.ndim == query.ndim == 3 and support.shape[:2] == query.shape[:2]
    if not fit or not all(rows.numel() and 0 <= rows.min() <= rows.max() < count for rows in (support, query)):
        raise SamplingError(f"These episodes are not over {count} embeddings; draw them from the same labels.")


def _prototype_similarity_by_lookup(gram: torch.Tensor, support: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
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


# --- all classes at once --------------------------------------------------------------------------


def all_way_accuracy(
    z: torch.Tensor,
    labels: torch.Tensor,
    rng: np.random.Generator | int,
    supports: int = 1_000,
    gram: torch.Tensor | None = None,
) -> Estimate:
    """One-shot accuracy among *all* classes present: one support image each, all other images are queries.

    The interval covers the random choice of support images from these images.

    Args:
        z: float32 (M, D), rows of unit length.
        labels: int64 (M,).
        rng: random generator, or a whole number as its seed.
        supports: number of random choices of support images to average over.
        gram: float32 (M, M), ``z @ z.T``, if it is at hand already.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no image left to ask about.
    """
    z, labels = checked(z, labels)
    index = ClassIndex(labels)
    own_class = torch.from_numpy(index.class_of)[None, :]
    accuracies = torch.empty(as_count("The number of supports", supports, error=SamplingError), dtype=torch.float64)
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
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator | int, supports: int = 200
) -> tuple[torch.Tensor, torch.Tensor]:
    """Confusion between all classes present, one support image each, over many random supports.

    Returns:
        ``(classes, confusion)``: int64 (N,) labels, ascending, and float64 (N, N), row = true class, column =
        predicted class, every row adding up to 1. The diagonal holds the accuracy of each class.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: a class with a single image.
    """
    z, labels = checked(z, labels)
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
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator | int, supports: int = 200
) -> tuple[torch.Tensor, torch.Tensor]:
    """How well each class is recognised with each of many random supports, one image of every class.

    Returns:
        ``(classes, recalls)``: int64 (N,) labels, ascending, and float64 (supports, N), for each support the share of
        a class's other images that are given to it. The mean over supports is the diagonal of `all_way_confusion`.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: a class with a single image.
    """
    z, labels = checked(z, labels)
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
        raise SamplingError("Every class needs a second image to ask about; add images or leave the class out.")
    return index


def _support_similarities(
    z: torch.Tensor, index: ClassIndex, rng: np.random.Generator, supports: int, gram: torch.Tensor | None
) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """For each random support: positions of one image a class (N,), their similarity to all images (N, M).

    The tensor of similarities is overwritten in the next round.
    """
    chosen = _random_supports(index, rng, supports)
    gram = checked_gram(gram, len(z))
    if gram is None and len(z) <= MAX_GRAM and len(z) <= supports * len(index.classes):
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
    supports, rng = as_count("The number of supports", supports, error=SamplingError), as_rng(rng)
    if len(index.classes) < 2 or len(index.order) == len(index.classes):
        raise SamplingError(
            f"A one-shot task among all classes needs 2 classes or more and an image besides the support, "
            f"but there are {len(index.classes)} classes with {len(index.order)} images; add images."
        )
    ranks = rng.integers(0, index.sizes, size=(supports, len(index.sizes)))
    return torch.from_numpy(index.order[index.starts + ranks])


# --- one task, with every answer ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class FewShotPredictions:
    """Every answer of one few-shot task, for figures and confusion tables.

    Attributes:
        classes: int64 (N,), labels of the task's classes.
        support: int64 (N, K), positions of the support images.
        query: int64 (Q,), positions of the query images.
        true: int64 (Q,), label of each query.
        predicted: int64 (Q,), label of the most similar prototype.
        similarity: float32 (Q, N), cosine similarity of each query to each class's prototype, -1 to 1.
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


def few_shot_predictions(
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator | int, *, ways: int | None = None, shots: int = 1
) -> FewShotPredictions:
    """Answer one random few-shot task and keep every answer: for showing right and wrong ones.

    Args:
        z: float32 (M, D), rows of unit length.
        labels: int64 (M,).
        rng: random generator, or a whole number as its seed.
        ways: number of classes, chosen at random; all classes present if None.
        shots: support images a class; all other images of these classes are queries.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, more ways than classes, or a class without an image besides its
            support.
    """
    z, labels = checked(z, labels)
    rng = as_rng(rng)
    ways = len(torch.unique(labels)) if ways is None else as_count("The number of ways", ways, error=SamplingError)
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
    return FewShotPredictions(classes, support, query, labels[query], predicted, similarity.clamp(-1, 1))


# --- the seed project's own metric ----------------------------------------------------------------


def legacy_few_shot(
    z: torch.Tensor, labels: torch.Tensor, rng: np.random.Generator | int, threshold: float = 0.2, supports: int = 1_000
) -> Estimate:
    """The seed project's "mean few-shot accuracy": share of (support, query) pairs called right.

    One support image for every class, all other images are queries, and every support is paired with every
    query; a pair is called "same" when its similarity is above the threshold. Of N classes only one pair in N
    is a same pair, so this number must be read beside `legacy_always_different`: it cannot show that anything was
    learned.

    The interval covers the random choice of support images from these images.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: fewer than 2 classes, or no image left to ask about.
    """
    z, labels = checked(z, labels)
    index = ClassIndex(labels)
    ways, total, threshold = len(index.classes), len(z), as_number("The threshold", threshold)
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
    shares = torch.empty(len(chosen), dtype=torch.float64)
    step = max(1, 8 * CELLS_AT_ONCE // (ways * z.shape[1]))
    for start in range(0, len(chosen), step):
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
    num_classes = as_count("The number of classes", num_classes, error=SamplingError)
    return 100 * (num_classes - 1) / num_classes
