"""What was found on telling pairs of images apart, of classes that were learned and of others."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import Paired, cell
from siamese_utils.studies.cifar10.judging import RECALLS, of_rates
from siamese_utils.studies.cifar10.new_classes import CIFAR10_NEW_CLASSES
from siamese_utils.studies.cifar10.study import CIFAR10, LONG_UPDATES, pair_updates
from siamese_utils.system.project import results_dir
from siamese_utils.system.text import listed

SLIDES_PAIRS: Mapping[str, tuple[float, float]] = {
    "one tower, classes compared": (92.81, 65.24),
    "two towers, classes compared": (93.47, 68.77),
    "a network for pairs": (93.00, 65.10),
}
"""Accuracy and F1 in the slides, percent."""
TEST_IMAGES, TEST_CLASS = 10_000, 1_000
SAME_SHARE = (TEST_CLASS - 1) / (TEST_IMAGES - 1)  # of two different test images
WAYS: Mapping[tuple[str, str], str] = {
    ("plain", "classes"): "one tower, classes compared",
    ("siamese", "classes"): "two towers, classes compared",
    ("plain", "cosine"): "one tower, embeddings compared",
    ("siamese", "cosine"): "two towers, embeddings compared",
    ("pair-head", "head"): "a network for pairs",
    ("contrastive", "cosine"): "contrastive loss",
    ("triplet", "cosine"): "triplet loss",
}


def blind() -> dict[str, float]:
    """What always answering *different* scores on all pairs of test images, percent."""
    rates = of_rates(0.0, 0.0, SAME_SHARE)
    return {"accuracy": 100 * rates["accuracy"], "f1": 0.0, "balanced_accuracy": 50.0, "auc": 50.0}


def stored_pairs(training: str = "short") -> pd.DataFrame:
    """Rows of pairs: ``way`` (in ``WAYS``), ``seed``, ``metric``, ``value``, ``ci95``.

    Args:
        training: ``short``, where all were shown as many images, or ``long``, with as many updates for all.

    Raises:
        ResultsError: nothing is stored.
    """
    path = results_dir() / "cifar10_pairs.csv"
    if not store.has_table(path):
        raise ResultsError("No pairs are stored yet; run `python -m siamese_utils study cifar10`.")
    table = store.read_table(path, key=CIFAR10.key)
    judged = LONG_UPDATES[-1] if training == "long" else table.system.map(pair_updates)
    table = table[(table.training == training) & (table.updates == judged)]
    way = [WAYS.get(key) for key in zip(table.system, table.by, strict=True)]
    return table.assign(way=way).dropna(subset="way")


def _values(table: pd.DataFrame, way: str, metric: str) -> pd.Series:
    return table[(table.way == way) & (table.metric == metric)].set_index("seed").value


def _cell(values: pd.Series) -> str:
    if values.empty:
        return "–"
    found = Paired.of(values)
    return cell(found.mean, found.half)


def pairs_table() -> Table:
    """Every way to tell pairs apart, beside the blind answer and the slides' numbers."""
    table, told = stored_pairs(), blind()
    metrics = ("accuracy", "f1", "balanced_accuracy", "auc")
    headings = dict(zip(metrics, ("accuracy", "F1", "balanced accuracy", "AUC"), strict=True))
    rows: list[dict[str, object]] = [
        {"way": "always “different”", **{headings[m]: f"{told[m]:.1f}" for m in metrics}, "slides": "–", "seeds": "–"}
    ]
    for way in WAYS.values():
        accuracy = _values(table, way, "accuracy")
        if accuracy.empty:
            continue
        slides = "{:.1f} / {:.1f}".format(*SLIDES_PAIRS[way]) if way in SLIDES_PAIRS else "–"
        shown = {headings[metric]: _cell(_values(table, way, metric)) for metric in metrics}
        rows.append({"way": way, **shown, "slides": slides, "seeds": len(accuracy)})
    spread = table[table.metric == "accuracy"].ci95.max()
    return Table(
        pd.DataFrame(rows),
        "Are two test images of one class? Percent, over 20 random orders of the test images; one pair in ten is the "
        "same; means over seeds ± 95% interval where there are two or more. One order alone may be off by "
        f"{spread:.1f} points of accuracy. Accuracy and F1 at the threshold of the best F1 on held-out images, "
        "balanced accuracy at its own. The slides’ column has their accuracy and F1.",
    )


def pairs_sentence() -> str:
    """Which way is best, and how far beyond the blind answer; Markdown."""
    table = stored_pairs()
    f1 = {way: _values(table, way, "f1").mean() for way in WAYS.values() if not _values(table, way, "f1").empty}
    accuracy = {way: _values(table, way, "accuracy").mean() for way in f1}
    best = max(f1, key=lambda way: f1[way])
    below = [way for way in f1 if accuracy[way] <= blind()["accuracy"]]
    told = (
        f"The best F1 has **{best}**, {f1[best]:.1f}, with an accuracy of {accuracy[best]:.1f}; always answering "
        f"“different” has {blind()['accuracy']:.1f}"
    )
    return f"{told}, which {_some(below)} not surpass at the threshold of the best F1." if below else f"{told}."


def long_pairs_sentence() -> str:
    """How comparing predicted classes fares where each network has the slides' largest number of updates; Markdown.

    Raises:
        ResultsError: these runs are not stored.
    """
    table = stored_pairs("long")
    told = []
    for way in ("one tower, classes compared", "two towers, classes compared"):
        accuracy, f1 = (_values(table, way, metric) for metric in ("accuracy", "f1"))
        if accuracy.empty:
            raise ResultsError("The long runs are not stored yet; run `python -m siamese_utils study cifar10`.")
        slides = "{:.1f} and {:.1f}".format(*SLIDES_PAIRS[way])
        told.append(f"{way}, accuracy {_cell(accuracy)} and F1 {_cell(f1)} (in the slides {slides})")
    seeds = Paired.of(accuracy).seeds_told
    return f"After {LONG_UPDATES[-1]:,} updates of each ({seeds}): {'; '.join(told)}."


def _some(ways: list[str]) -> str:
    return listed(f"*{way}*" for way in ways) + (" does" if len(ways) == 1 else " do")


def exactness_sentence() -> str:
    """How near the permutations come to all pairs of test images; Markdown."""
    table = stored_pairs()
    wide = table.pivot_table(index=["way", "seed"], columns="metric", values="value")
    gap = (wide["accuracy"] - wide["all_pairs_accuracy"]).abs().max()
    gap_f1 = (wide["f1"] - wide["all_pairs_f1"]).abs().max()
    return (
        f"Counted over all {TEST_IMAGES * (TEST_IMAGES - 1) // 2:,} pairs of test images instead, no accuracy changes "
        f"by more than {gap:.2f} points and no F1 by more than {gap_f1:.2f}."
    )


def curves() -> pd.DataFrame:
    """Precision by recall, one column a way, mean over seeds, percent; compared classes have one point and no curve."""
    table = stored_pairs()
    rows = {}
    for (_, by), way in WAYS.items():
        found = [_values(table, way, f"precision_at_{recall}").mean() for recall in RECALLS]
        if by != "classes" and not pd.isna(found).any():
            rows[way] = found
    return pd.DataFrame(rows, index=list(RECALLS))


def points() -> pd.DataFrame:
    """``way``, ``precision`` and ``recall`` of compared classes, mean over seeds, percent."""
    table = stored_pairs()
    rows = []
    for (_, by), way in WAYS.items():
        f1, accuracy = _values(table, way, "all_pairs_f1").mean(), _values(table, way, "all_pairs_accuracy").mean()
        if by == "classes" and not pd.isna(f1):
            hit, precision = _operating_point(accuracy / 100, f1 / 100)
            rows.append({"way": way, "recall": 100 * hit, "precision": 100 * precision})
    return pd.DataFrame(rows, columns=["way", "recall", "precision"])


def _operating_point(accuracy: float, f1: float) -> tuple[float, float]:
    """Recall and precision from accuracy and F1: wrong = missed + alarms, and F1 = 2 hits / (2 hits + wrong)."""
    wrong = 1 - accuracy
    hits = f1 * wrong / (2 * (1 - f1))
    missed = SAME_SHARE - hits
    return hits / SAME_SHARE, hits / (hits + wrong - missed)


# ------------------------------------------------------------------------------------- classes never learned


def new_classes() -> pd.DataFrame:
    """One row a way and a choice of classes: ``way``, ``left_out``, ``metric``, ``learned``, ``new`` (percent).

    Raises:
        ResultsError: nothing is stored.
    """
    table = CIFAR10_NEW_CLASSES.table()
    table = table[table.metric.isin(["balanced_accuracy", "auc"])]
    way = [WAYS.get(key) for key in zip(table.system, table.by, strict=True)]
    table = table.assign(way=way).dropna(subset="way")
    wide = table.pivot_table(index=["way", "left_out", "metric"], columns="classes", values="value")
    return wide.reset_index()


def new_classes_table() -> Table:
    """Balanced accuracy and AUC for pairs of learned classes and of the two that were left out."""
    table = new_classes()
    rows: list[dict[str, object]] = [
        {
            "way": "always one answer",
            "learned": "50.0",
            "never learned": "50.0",
            "AUC, never learned": "50.0",
            "choices": "–",
        }
    ]
    for way in WAYS.values():
        some = table[table.way == way].set_index("metric")
        if some.empty:
            continue
        balanced, auc = some.loc[["balanced_accuracy"]], some.loc[["auc"]]
        rows.append(
            {
                "way": way,
                "learned": _cell(balanced.learned),
                "never learned": _cell(balanced.new),
                "AUC, never learned": _cell(auc.new),
                "choices": len(balanced),
            }
        )
    left_out = ", ".join(sorted(table.left_out.unique()))
    return Table(
        pd.DataFrame(rows),
        "Same or different? Balanced accuracy in percent, where eight classes were learned and two left out "
        f"({left_out}), ± 95% interval over these choices where there are two "
        "or more; thresholds come from learned classes",
    )


def new_classes_sentence() -> str:
    """How comparing predicted classes fares on classes never learned, beside all other ways; Markdown.

    An answer without a score has a balanced accuracy and an area under the curve that are one number, so both are told.
    """
    table = new_classes()
    auc, balanced = (
        table[table.metric == metric].pivot_table(index="left_out", columns="way", values="new")
        for metric in ("auc", "balanced_accuracy")
    )
    by_class = [way for way in auc if way.endswith("classes compared")]
    means = auc.mean()
    if not by_class or len(by_class) == len(means):
        raise ResultsError("These runs are not stored yet; run `python -m siamese_utils study cifar10_new_classes`.")
    others = means.drop(by_class)
    named, worst, best = means[by_class].idxmax(), others.idxmin(), others.idxmax()
    told = (
        f"For two classes never learned, compared classes have a balanced accuracy of **{means[named]:.1f}%** at best, "
        "and an area under the curve that is the same, where blind guessing has 50. The area of the other ways goes "
        f"from {means[worst]:.1f}% ({worst}) to **{means[best]:.1f}%** ({best}; "
        f"{'one choice' if len(auc) == 1 else f'{len(auc)} choices'} of classes)."
    )
    area, hits = ((scores[best] - scores[named]).dropna() for scores in (auc, balanced))
    if len(area) < 2:
        return told
    return (
        f"{told} The best of them is ahead in {(area > 0).sum()} of {len(area)} choices by its area, on average by "
        f"**{Paired.of(area)}** points, and in {(hits > 0).sum()} by balanced accuracy, which needs a threshold, by "
        f"**{Paired.of(hits)}**. Its area is {auc[best].min():.0f}% for {_pair(auc[best].idxmin())} and "
        f"{auc[best].max():.0f}% for {_pair(auc[best].idxmax())}."
    )


def _pair(left_out: str) -> str:
    return left_out.replace("-", " and ")
