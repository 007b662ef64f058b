"""How a network on CIFAR-10 is judged: naming classes, and telling whether two images show the same class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, confusion_matrix, precision_recall_curve, roc_auc_score, roc_curve

from siamese_utils.data.sampling import named_rng
from siamese_utils.errors import SamplingError, ShapeError
from siamese_utils.evaluation.estimates import RESAMPLES, Estimate

PERMUTATIONS = 20  # of the test images, in each of which every image is in two pairs
RECALLS = (10, 20, 30, 40, 50, 60, 70, 80, 90)  # percent, at which the precision-recall curve is stored
_BLOCK = 1_000  # images whose similarities to all others are held at a time


# ------------------------------------------------------------------------------------------ naming classes


def named(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> dict[str, Estimate]:
    """Accuracy, and F1 averaged over classes: evenly, and weighed by how often each class was answered.

    The second is what scikit-learn's weighted F1 gives with its arguments in the slides' order; weighed by how many
    images of each class there are, it would be the first, for the test set has as many of each.
    Intervals are those of a bootstrap over test images.

    Args:
        predicted: int64 (N,).
        labels: int64 (N,).
        classes: how many there are.

    Raises:
        ShapeError: there are not as many answers as labels, or none.
    """
    if predicted.shape != labels.shape or not len(labels):
        raise ShapeError(f"Judging needs one answer for each label, not {len(predicted)} for {len(labels)}.")
    counts = confusion_matrix(labels, predicted, labels=range(classes))
    drawn = named_rng(0, "test images").multinomial(len(labels), counts.ravel() / len(labels), RESAMPLES)
    all_counts = np.concatenate([counts[None], drawn.reshape(-1, classes, classes)]).astype(np.float64)
    hits = np.einsum("ncc->nc", all_counts)
    shown, answered = all_counts.sum(2), all_counts.sum(1)
    f1 = 2 * hits / np.maximum(shown + answered, 1)
    metrics = {
        "accuracy": hits.sum(1) / len(labels),
        "f1_macro": f1.mean(1),
        "f1_weighted": (f1 * answered).sum(1) / len(labels),
    }
    return {
        name: Estimate(100 * float(values[0]), 196 * float(values[1:].std()), len(labels))
        for name, values in metrics.items()
    }


# ---------------------------------------------------------------------------------------------------- pairs


@dataclass(frozen=True, eq=False)
class TestPairs:
    """Every image beside another one, in several random orders: the slides' test of pairs, drawn more than once.

    Attributes:
        first: int64 (P, N), positions.
        second: int64 (P, N), positions, never that of ``first``.
        same: bool (P, N), whether both show one class.
    """

    __test__ = False  # no test case

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


def pairs_of(labels: NDArray[np.int64], permutations: int = PERMUTATIONS, seed: int = 0) -> TestPairs:
    """Draw them: in each order, an image's partner is the next one.

    Raises:
        SamplingError: fewer than two images, or all of one class or each of its own.
    """
    if len(labels) < 2:
        raise SamplingError(f"{len(labels)} images make no pair; two are needed at least.")
    rng = named_rng(seed, "pairs of images")
    first = np.stack([rng.permutation(len(labels)) for _ in range(permutations)])
    second = np.roll(first, -1, axis=1)
    same = labels[first] == labels[second]
    if same.all() or not same.any():
        raise SamplingError("Pairs need images of one class and of two, but these have one kind alone.")
    return TestPairs(first, second, same)


@dataclass(frozen=True)
class Thresholds:
    """From which score on a pair counts as *same*: for the best F1, and for the best balanced accuracy."""

    f1: float
    balanced: float


def thresholds(score: NDArray[np.float64], same: NDArray[np.bool_]) -> Thresholds:
    """Choose both, on pairs of held-out training images: scores and flags of one shape."""
    score, same = score.ravel(), same.ravel()
    precision, recall, at = precision_recall_curve(same, score)
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    alarm, hit, where = roc_curve(same, score)
    return Thresholds(float(at[f1[:-1].argmax()]), float(where[1:][(hit - alarm)[1:].argmax()]))


def told_apart(score: NDArray[np.float64], same: NDArray[np.bool_], at: Thresholds) -> dict[str, Estimate]:
    """Every metric of scored pairs, over all permutations together.

    The interval is 1.96 standard deviations over the permutations: by how much one drawing of the pairs, such as the
    slides', may differ from the mean of many.

    Args:
        score: float64 (P, N), higher where *same* is likelier.
        same: bool (P, N).
        at: thresholds, chosen on other images.
    """

    def all_metrics(score: NDArray[np.float64], same: NDArray[np.bool_]) -> dict[str, float]:
        precision, recall, _ = precision_recall_curve(same, score)
        curve = {f"precision_at_{r}": precision[recall >= r / 100].max() for r in RECALLS}
        return {
            **of_rates((score >= at.f1)[same].mean(), (score >= at.f1)[~same].mean(), same.mean()),
            "balanced_accuracy": ((score >= at.balanced)[same].mean() + (score < at.balanced)[~same].mean()) / 2,
            "auc": roc_auc_score(same, score),
            "average_precision": average_precision_score(same, score),
            **curve,
        }

    whole = all_metrics(score.ravel(), same.ravel())
    single = [all_metrics(*each) for each in zip(score, same, strict=True)]
    spread = {name: float(np.std([one[name] for one in single], ddof=1)) if len(single) > 1 else 0.0 for name in whole}
    return {name: Estimate(100 * float(value), 196 * spread[name], score.size) for name, value in whole.items()}


def of_rates(hit: float, alarm: float, share: float) -> dict[str, float]:
    """Accuracy and F1 of *same*, from how often same and different pairs are called so and the share of same ones."""
    called = share * hit + (1 - share) * alarm
    return {
        "accuracy": share * hit + (1 - share) * (1 - alarm),
        "f1": 2 * share * hit / (share + called) if share + called else 0.0,
    }


def over_all_pairs(z: NDArray[np.float32], labels: NDArray[np.int64], threshold: float) -> dict[str, Estimate]:
    """Accuracy and F1 over every pair of two images, by the cosine of their embeddings: what permutations estimate.

    Args:
        z: float32 (N, D), of unit length.
        labels: int64 (N,).
        threshold: from which cosine on a pair counts as *same*.
    """
    counts = np.zeros((2, 2))  # different and same, called different and same
    for begin in range(0, len(z), _BLOCK):
        called = z[begin : begin + _BLOCK] @ z.T >= threshold
        same = labels[begin : begin + _BLOCK, None] == labels
        itself = called[np.arange(len(called)), begin + np.arange(len(called))].sum()
        hits = np.count_nonzero(called & same) - itself
        alarms = np.count_nonzero(called) - itself - hits
        pairs_same = np.count_nonzero(same) - len(same)
        pairs_different = same.size - len(same) - pairs_same
        counts += [[pairs_different - alarms, alarms], [pairs_same - hits, hits]]
    return _exactly(counts)


def over_all_pairs_of_classes(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> dict[str, Estimate]:
    """The same where a pair counts as *same* if both images are given one class."""

    def together(*given: NDArray[np.int64]) -> float:
        _, sizes = np.unique(np.stack(given), axis=1, return_counts=True)
        return float((sizes * (sizes - 1.0)).sum())

    same, called, hits = together(labels), together(predicted), together(labels, predicted)
    different = len(labels) * (len(labels) - 1.0) - same
    return _exactly(np.array([[different - called + hits, called - hits], [same - hits, hits]]))


def _exactly(counts: NDArray[np.float64]) -> dict[str, Estimate]:
    different, same = counts.sum(1)
    rates = of_rates(counts[1, 1] / same, counts[0, 1] / different, same / counts.sum())
    return {f"all_pairs_{name}": Estimate(100 * value, 0.0, int(counts.sum())) for name, value in rates.items()}


def blind(same: NDArray[np.bool_]) -> Mapping[str, float]:
    """What always answering *different* scores on pairs with these flags, in percent."""
    return {"accuracy": 100 * float((~same).mean()), "f1": 0.0, "balanced_accuracy": 50.0, "auc": 50.0}
