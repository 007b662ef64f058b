"""The protocol: every metric of one encoder on one split, each from a generator of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from siamese_utils.data.arrays import as_list
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import ClassSplit
from siamese_utils.errors import ShapeError, SplitError, look_up
from siamese_utils.evaluation.embeddings import checked
from siamese_utils.evaluation.episodes import (
    MAX_GRAM,
    all_way_accuracy,
    few_shot_accuracy,
    legacy_always_different,
    legacy_few_shot,
)
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.pairs import pair_accuracy, pair_auc, threshold_over_all_pairs, triplet_accuracy

EVALUATION_SEED = 0  # fixed beforehand: the episodes, pairs and triplets that every encoder is judged on
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
    if not isinstance(split, ClassSplit):
        raise SplitError(f"A split comes from class_split, not as a {type(split).__name__}.")
    names = _metric_names(metrics, split)
    if not isinstance(held_out, (tuple, list)) or len(held_out) != 2:
        raise ShapeError("The held-out images are given as a pair: their embeddings, and their labels.")
    held_z, held_labels = checked(*held_out)
    test_z, test_labels = checked(test_z, test_labels)
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

    threshold = threshold_over_all_pairs(held_z, held_labels, named_rng(seed, "threshold"))
    parts = {"seen": _part(test_z, test_labels, split.seen), "unseen": _part(test_z, test_labels, split.unseen)}
    gram = None
    if len(parts["unseen"][0]) <= MAX_GRAM and {"acc_5w1s", "acc_5w5s", "acc_allway_1s"} & set(names):
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
    names = as_list(metrics)
    for name in names:
        look_up("metric", name, METRICS)
        if name not in of_split:
            raise SplitError(f"Split {split.name} has no unseen classes, so {name} has no value; leave it out.")
    return names


def _part(z: torch.Tensor, labels: torch.Tensor, classes: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    inside = torch.isin(labels, torch.tensor(classes, dtype=torch.int64))
    return z[inside], labels[inside]
