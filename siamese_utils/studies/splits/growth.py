"""What the split sweep is for: how recognition of unseen classes grows with the number of classes learned.

The metrics of the protocol change two things at once from split to split: what the network has learned, and which
classes it is asked about. Here are the measurements that take the two apart, made for every stored encoder beside its
protocol metrics.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from siamese_utils.data.sampling import ClassIndex, named_rng
from siamese_utils.data.splits import ClassSplit, class_split
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.evaluation.estimates import Estimate, mean_estimate, share_estimate
from siamese_utils.evaluation.pairs import sample_similarities, threshold_for_balanced_accuracy

GROWTH_METRICS: dict[str, str] = {
    "acc_5w1s_common": "5-way 1-shot accuracy on the tenth of the classes that no split of the draw learns",
    "threshold_seen": "cosine similarity above which a pair is called same, from held-out images (not a percentage)",
    "threshold_best_unseen": "the threshold that would have been best for unseen classes (not a percentage)",
    "same_right_seen": "seen classes: same pairs called same",
    "different_right_seen": "seen classes: different pairs called different",
    "same_right_unseen": "unseen classes: same pairs called same, threshold from seen classes",
    "different_right_unseen": "unseen classes: different pairs called different, threshold from seen classes",
    "pair_acc_unseen_best": "unseen classes: pair accuracy at the threshold that is best for them",
}
"""Measurements beside the protocol, each with one line of explanation. Percentages unless said otherwise."""

_PAIRS = 50_000
_CLASS_EPISODES = 1_000


def common_classes(draw: int, num_classes: int = 100) -> tuple[int, ...]:
    """The last tenth of the classes of a draw: unseen in every split of it that leaves so many unseen."""
    learned = num_classes - max(2, num_classes // 10)
    return class_split(f"{learned}-{num_classes - learned}", draw, num_classes).unseen


def measure_growth(
    z: torch.Tensor, labels: torch.Tensor, split: ClassSplit, threshold: float, seed: int = 0
) -> dict[str, Estimate]:
    """The measurements of ``GROWTH_METRICS`` that a split has.

    Args:
        z: float32 (M, D), embeddings of the test images, rows of unit length.
        labels: int64 (M,), their classes, seen and unseen.
        split: which classes are seen and unseen.
        threshold: cosine similarity above which a pair is called same, chosen on seen classes.
        seed: whole number >= 0.

    Raises:
        ShapeError: embeddings or labels of the wrong shape, type or range.
        SamplingError: too few classes or images.
    """
    measured = {"threshold_seen": Estimate(threshold, 0.0, 1)}
    for part, classes in (("seen", split.seen), ("unseen", split.unseen)):
        if not classes:
            continue
        inside = torch.isin(labels, torch.tensor(classes))
        same, different = sample_similarities(z[inside], labels[inside], named_rng(seed, f"growth {part}"), _PAIRS)
        measured[f"same_right_{part}"] = share_estimate(same > threshold)
        measured[f"different_right_{part}"] = share_estimate(different <= threshold)
        if part == "unseen":
            similarity = torch.cat([same, different])
            is_same = torch.arange(len(similarity)) < len(same)
            best = threshold_for_balanced_accuracy(similarity, is_same)
            measured["threshold_best_unseen"] = Estimate(best, 0.0, 1)
            measured["pair_acc_unseen_best"] = share_estimate((similarity > best) == is_same)
    common = common_classes(split.draw, len(split.seen) + len(split.unseen))
    if set(common) <= set(split.unseen):
        inside = torch.isin(labels, torch.tensor(common))
        rng, ways = named_rng(seed, "acc_5w1s_common"), min(5, len(common))
        measured["acc_5w1s_common"] = few_shot_accuracy(z[inside], labels[inside], rng, ways=ways)
    return measured


def class_accuracies(
    z: torch.Tensor,
    labels: torch.Tensor,
    classes: Sequence[int],
    superclass_of: Sequence[int],
    rng: np.random.Generator,
    *,
    episodes: int = _CLASS_EPISODES,
    queries: int = 15,
) -> dict[int, Estimate]:
    """How often each class's images are named right in 5-way 1-shot tasks, among classes of *other* superclasses.

    With fewer classes learned a class meets more unseen siblings in its tasks, which makes them harder whatever the
    network knows. Leaving siblings out of the choice keeps the tasks of one class comparable between splits.

    Args:
        z: float32 (M, D), rows of unit length.
        labels: int64 (M,).
        classes: the unseen classes.
        superclass_of: number of the superclass of every class.
        rng: random generator.
        episodes: tasks a class, each with one support image of five classes.
        queries: query images of the class a task.

    Returns:
        an estimate for every class that meets at least one class of another superclass; its interval covers the
        choice of tasks.
    """
    index = ClassIndex(labels)
    rows_of = {
        int(label): index.order[start : start + size]
        for label, start, size in zip(index.classes, index.starts, index.sizes, strict=True)
    }
    found = {}
    for label in classes:
        rivals = [other for other in classes if superclass_of[other] != superclass_of[label]]
        if not rivals:
            continue
        ways = min(4, len(rivals))
        own = rows_of[label][_some_of(len(rows_of[label]), queries + 1, episodes, rng)]
        chosen = np.asarray(rivals)[_some_of(len(rivals), ways, episodes, rng)]
        number = np.searchsorted(index.classes, chosen)
        rival_rows = index.order[index.starts[number] + rng.integers(0, index.sizes[number])]
        query = z[torch.from_numpy(own[:, 1:])]  # (E, Q, D)
        to_own = (query @ z[torch.from_numpy(own[:, :1])].transpose(1, 2)).squeeze(2)
        to_rivals = (query @ z[torch.from_numpy(rival_rows)].transpose(1, 2)).amax(dim=2)
        found[label] = mean_estimate((to_own > to_rivals).double().mean(dim=1))
    return found


def _some_of(total: int, count: int, rows: int, rng: np.random.Generator) -> np.ndarray:
    """In each row ``count`` different random numbers below ``total``; int64 (rows, count)."""
    return rng.random((rows, total)).argsort(axis=1)[:, :count]
