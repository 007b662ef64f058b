"""What the study of imprinted weights found: numbers, tables and sentences.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from siamese_utils.encoders.imprinting import overall
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell
from siamese_utils.experiments.store import read_table, result
from siamese_utils.experiments.study import Study
from siamese_utils.studies.exploration.findings import plain
from siamese_utils.studies.imprinting import moved
from siamese_utils.studies.imprinting.methods import over_clusters
from siamese_utils.studies.imprinting.settings import WHOLE, ImprintingConfig
from siamese_utils.studies.imprinting.study import (
    IMPRINTING,
    IMPRINTING_MOVED,
    IMPRINTING_MOVED_TRIALS,
    IMPRINTING_TRIALS,
)
from siamese_utils.system.project import results_dir
from siamese_utils.system.text import listed

CLASS_COLUMNS = ("novel", "method", "shots", "bias", "metric", "value", "ci95", "n", "checkpoint")
CURVE_COLUMNS = ("method", "added", "shots", "loss", "metric", "value", "ci95", "n", "checkpoint")
REFERENCE_COLUMNS = ("method", "shots", "metric", "value", "ci95", "source")
SHOTS = ImprintingConfig.from_yaml(WHOLE).shots
AT_ONCE = tuple(added for added in ImprintingConfig.from_yaml(WHOLE).at_once if added > 1)
ONE_POINT = "novel_acc_for_one_point"
DIFFERENCES = {"moved - whitened": "whitened", "moved - old only": "old only"}


# --- an encoder that stays ------------------------------------------------------------------------


@dataclass(frozen=True)
class Numbers:
    """The stored rows of ``results/imprinting.csv``, read once for many look-ups."""

    table: pd.DataFrame

    @classmethod
    def stored(cls) -> Numbers:
        """As stored."""
        return cls(IMPRINTING.table())

    def row(self, method: str, shots: int, metric: str = "novel_acc", added: int = 1, bias: str = "none") -> pd.Series:
        """The row of one number."""
        return result(self.table, method=method, added=added, shots=shots, bias=bias, metric=metric)

    def value(self, method: str, shots: int, metric: str = "novel_acc", added: int = 1, bias: str = "none") -> float:
        """The number alone."""
        return float(self.row(method, shots, metric, added, bias).value)

    def text(self, method: str, shots: int, metric: str = "novel_acc", added: int = 1, bias: str = "none") -> str:
        """The number with its interval."""
        row = self.row(method, shots, metric, added, bias)
        return cell(row.value, row.ci95)

    def base(self, space: str = "whitened") -> pd.Series:
        """Accuracy on the old classes before any is added."""
        return self.row(f"base, {space}", 0, "old_acc", added=0)

    @property
    def everything(self) -> int:
        """How many training images a class has."""
        return int(self.table[self.table.method == "joint"].shots.iloc[0])


def stored_classes() -> pd.DataFrame:
    """Accuracies of single novel classes, as stored."""
    return read_table(results_dir() / "imprinting_classes.csv", CLASS_COLUMNS)


def stored_curves() -> pd.DataFrame:
    """Novel accuracy by the points of old accuracy given up, as stored."""
    return read_table(results_dir() / "imprinting_curves.csv", CURVE_COLUMNS)


def seed_imprinting() -> pd.DataFrame:
    """The numbers that the seed project gives for one class added to 40, from ``results/imprinting_reference.csv``."""
    return read_table(results_dir() / "imprinting_reference.csv", REFERENCE_COLUMNS)


def heading(shots: int) -> str:
    """For example ``5 shots``."""
    return f"{shots} shot" + "s" * (shots > 1)


def one_class_table() -> Sequence[Table | str]:
    """One class added by every method, beside the seed project; and the base, in a sentence."""
    numbers, seed = Numbers.stored(), seed_imprinting().set_index(["method", "shots"])
    rows = [
        {
            "": f"seed project, {method}",
            **{heading(k): cell(seed.value[method, k], seed.ci95[method, k]) for k in SHOTS},
            "old classes": "“around 84” over all",
        }
        for method in ("imprinted", "fine-tuned")
    ]
    biases = (("none", "as it is"), ("budget", "within budget"))
    for method in ("imprinted", "whitened", "fine-tuned", "random"):
        name = "random start, fine-tuned" if method == "random" else method
        for bias, what in biases:
            old = [numbers.value(method, k, "old_acc", bias=bias) for k in SHOTS]
            rows.append(
                {
                    "": f"{name}, {what}",
                    **{heading(k): numbers.text(method, k, bias=bias) for k in SHOTS},
                    "old classes": f"{min(old):.1f} to {max(old):.1f}",
                }
            )
    every = numbers.everything
    for bias, what in biases:
        rows.append(
            {
                "": f"joint, {what}",
                f"all {every} images": numbers.text("joint", every, bias=bias),
                "old classes": f"{numbers.value('joint', every, 'old_acc', bias=bias):.1f}",
            }
        )
    plain_base, whitened = (cell(row.value, row.ci95) for row in map(numbers.base, ("plain", "whitened")))
    caption = (
        "CIFAR-100: accuracy on one added class, percent, 95% intervals over the 60 classes; the seed project's as it "
        "published them"
    )
    columns = ["", *map(heading, SHOTS), f"all {every} images", "old classes"]
    return Table(pd.DataFrame(rows, columns=columns).fillna(""), caption), (
        f"Before anything is added, the 40 old classes are named right {plain_base}% of the time, and {whitened}% "
        "after whitening."
    )


def for_points(loss: float, shots: int, method: str = "whitened") -> float:
    """Accuracy on the new class, by a name in ``methods.METHODS``, for so many points of old accuracy."""
    return float(result(stored_curves(), method=method, added=1, shots=shots, loss=loss).value)


def price_of(accuracy: float, shots: int, deviations: float = 0.0) -> float:
    """Points of old accuracy that such an accuracy on the new class costs, whitened; not a number beyond the curve.

    Args:
        accuracy: on the new class, percent.
        shots: that it is learned from.
        deviations: half widths of its interval by which the curve is taken to lie higher.
    """
    curve = _whitened_curve(shots)
    height = (curve.value + deviations * curve.ci95).cummax()  # a curve's edge need not rise everywhere
    return float(np.interp(accuracy, height, curve.loss, left=0.0, right=np.nan))


def _whitened_curve(shots: int) -> pd.DataFrame:
    """The stored points of one class added, whitened, by the loss."""
    curves = stored_curves()
    return curves[(curves.method == "whitened") & (curves.added == 1) & (curves.shots == shots)].sort_values("loss")


def price_sentence() -> str:
    """What the seed project's accuracies on a new class would cost here, in points of old accuracy."""
    seed = seed_imprinting().set_index(["method", "shots"]).value

    def price(accuracy: float, shots: int) -> str:
        found, low, high = (price_of(accuracy, shots, deviations) for deviations in (0.0, 1.0, -1.0))
        if np.isnan(found):
            return "more than was tried"
        return f"{found:.1f} ({low:.1f} to {'more' if np.isnan(high) else f'{high:.1f}'})"

    asked = {method: listed(f"{seed[method, k]:.0f}" for k in SHOTS) for method in ("imprinted", "fine-tuned")}
    cost = {method: listed(price(seed[method, k], k) for k in SHOTS) for method in asked}
    return (
        f"With {listed(SHOTS)} shots, the seed project's {asked['imprinted']} "
        f"percent after imprinting would cost {cost['imprinted']} points of old accuracy here, and its "
        f"{asked['fine-tuned']} percent after fine-tuning {cost['fine-tuned']}; in brackets, what the curves' "
        "intervals leave open."
    )


def bargain_sentences() -> Sequence[str]:
    """What a price buys, what the seed project's accuracies would cost, and the best point over all 41 classes."""
    base, best = Numbers.stored().base().value, {}
    for k in SHOTS:
        part = _whitened_curve(k)
        over_all = (40 * (base - part.loss) + part.value) / 41
        best[k] = (over_all.max(), part.value[over_all.idxmax()])
    return (
        "Whitened, for **one point** of old accuracy: "
        + ", ".join(f"{for_points(1.0, k):.0f}% with {k}" for k in SHOTS)
        + ". For **four points**: "
        + ", ".join(f"{for_points(4.0, k):.0f}%" for k in SHOTS)
        + ". Weights trained from a random start have for one point "
        + ", ".join(f"{for_points(1.0, k, 'random'):.0f}%" for k in SHOTS)
        + ", and for four "
        + ", ".join(f"{for_points(4.0, k, 'random'):.0f}%" for k in SHOTS)
        + ".",
        price_sentence(),
        f"Over *all 41 classes*, each counting alike, the base would stand at {base:.1f}% if the new class were as "
        "good as the old ones. The best point of each curve reaches "
        + ", ".join(f"{best[k][0]:.1f}% with {k}" for k in SHOTS)
        + " (the new class being at "
        + ", ".join(f"{best[k][1]:.0f}%" for k in SHOTS)
        + " there). A class that is recognised in a third of its images costs a point of that mean by itself, whatever "
        "happens to the others.",
    )


def many_table() -> Table:
    """Several classes added at once."""
    numbers = Numbers.stored()
    columns = {
        "novel classes": "novel_acc",
        "old classes": "old_acc",
        "all classes": "overall_acc",
        "harmonic mean": "harmonic_mean",
    }
    ways = [(method, k) for method in ("imprinted", "whitened", "fine-tuned") for k in SHOTS]
    rows = [
        {
            "added": added,
            "method": method,
            "shots": k,
            **{name: numbers.text(method, k, metric, added) for name, metric in columns.items()},
        }
        for added in AT_ONCE
        for method, k in (*ways, ("joint", numbers.everything))
    ]
    caption = "CIFAR-100: 10 and 60 classes added to 40, scores as they are; percent, 95% intervals over draws"
    return Table(pd.DataFrame(rows), caption)


@dataclass(frozen=True)
class ByClass:
    """Each novel class added alone, whitened, from five shots and within budget; hardest first.

    Attributes:
        rows: of ``imprinting_classes.csv``, by the class.
        nearest: the old class nearest to each.
        cosine: to that, by the novel class.
    """

    rows: pd.DataFrame
    nearest: Mapping[str, str]
    cosine: pd.Series

    @classmethod
    def stored(cls) -> ByClass:
        """As stored."""
        table = stored_classes()
        part = table[(table.method == "whitened") & (table.shots == 5) & (table.bias == "budget")]
        part = part.set_index("novel").sort_values("value")
        neighbours = IMPRINTING.read_record(IMPRINTING.runs()[0])["neighbours"]
        nearest = {name: neighbours[name][0][0] for name in part.index}
        return cls(part, nearest, pd.Series({name: neighbours[name][0][1] for name in part.index}))

    @property
    def correlation(self) -> float:
        """Of the accuracy with the cosine."""
        return float(np.corrcoef(self.cosine, self.rows.value)[0, 1])


def class_findings() -> Sequence[Table | str]:
    """How much classes and shots matter, and which classes are hardest and easiest."""
    numbers, table, found = Numbers.stored(), stored_classes(), ByClass.stored()
    within = table[(table.method == "whitened") & (table.bias == "budget")]
    spread = pd.DataFrame(
        {
            "shots": k,
            "standard deviation of all runs": numbers.value("whitened", k, "novel_sd", bias="budget"),
            "between classes": within[within.shots == k].value.std(),
        }
        for k in SHOTS
    )
    values, names = found.rows.value, list(found.rows.index)
    half = 1.96 / np.sqrt(len(names) - 3)
    low, high = np.tanh(np.arctanh(found.correlation) - half), np.tanh(np.arctanh(found.correlation) + half)
    caption = "CIFAR-100: how much the new class's accuracy varies (points; whitened, within budget)"
    return Table(spread, caption, 1), (
        "Hardest: "
        + ", ".join(f"*{plain(n)}* ({values[n]:.0f}%, near *{plain(found.nearest[n])}*)" for n in names[:5])
        + ". Easiest: "
        + ", ".join(f"*{plain(n)}* ({values[n]:.0f}%)" for n in names[::-1][:5])
        + f". Correlation of accuracy with the cosine to the nearest old class: **{found.correlation:.2f}** "
        f"(95% interval {low:.2f} to {high:.2f}, over classes)."
    )


# --- an encoder that moves ------------------------------------------------------------------------


def moved_summary(table: pd.DataFrame, old_classes: int = 40) -> pd.DataFrame:
    """Means over the runs of each method and number of shots, with 95% intervals over the classes.

    Args:
        table: rows of ``results/imprinting_moved.csv``.
        old_classes: of the base network, for the accuracy over all classes.

    Returns:
        columns ``method, shots, metric, value, ci95, n``; metrics are those of ``moved.METRICS``, ``overall_acc`` and
        ``overall_acc_budget``; the methods in ``DIFFERENCES`` are what moving adds, run by run.
    """
    for end in ("", "_budget"):
        both = overall(table[f"old_acc{end}"], table[f"novel_acc{end}"], old_classes, 1)
        table = table.assign(**{f"overall_acc{end}": both})
    metrics = [*moved.METRICS, "overall_acc", "overall_acc_budget"]
    keyed = table.set_index(["method", "novel", "shots", "shot_set"])[metrics]
    parts = {method: keyed.loc[method] for method in moved.METHODS}
    for name, base in DIFFERENCES.items():
        parts[name] = keyed.loc["moved"] - keyed.loc[base]
    return pd.DataFrame(_means(parts, metrics), columns=["method", "shots", "metric", "value", "ci95", "n"])


def _means(parts: Mapping[str, pd.DataFrame], metrics: Sequence[str]) -> Iterator[tuple[object, ...]]:
    for method, part in parts.items():
        for shots, group in part.groupby(level="shots"):
            clusters = torch.from_numpy(group.index.get_level_values("novel").factorize()[0].astype("int64"))
            for metric in metrics:
                found = over_clusters(torch.tensor(group[metric].to_numpy(), dtype=torch.float64), clusters)
                yield method, shots, metric, found.value, found.ci95, found.n


def moved_cell(summary: pd.DataFrame, method: str, shots: int, metric: str, sign: str = "") -> str:
    """A mean with its interval, with the sign in front if asked for by ``+``."""
    row = result(summary, method=method, shots=shots, metric=metric)
    return f"{row.value:{sign}.1f} ± {row.ci95:.1f}"


def moved_table() -> Table:
    """One class added with an encoder that stays, was tuned for the old classes, or moves."""
    stored = IMPRINTING_MOVED.table()
    summary, sets = moved_summary(stored), stored.groupby("shots").shot_set.nunique().max()
    columns = {
        "new, as it is": "novel_acc",
        "old, as it is": "old_acc",
        "new, budget": "novel_acc_budget",
        "old, budget": "old_acc_budget",
        "all, budget": "overall_acc_budget",
        "new, one point": ONE_POINT,
    }
    rows = [
        {
            "shots": k,
            "encoder": name,
            **{head: moved_cell(summary, method, k, metric) for head, metric in columns.items()},
        }
        for k in sorted(stored.shots.unique())
        for method, name in (("whitened", "stays"), ("old only", "tuned for old"), ("moved", "moves"))
    ]
    what = f"{stored.novel.nunique()} classes in turn, {sets} set{'s' * bool(sets > 1)} of shots"
    return Table(pd.DataFrame(rows), f"CIFAR-100: one class added to 40 ({what}); percent")


def moved_sentence() -> str:
    """What moving adds for one point of old accuracy, and with all images."""
    summary = moved_summary(IMPRINTING_MOVED.table())
    counts = sorted(summary.shots.unique())
    every, gain = counts[-1], "moved - whitened"
    old, new = (moved_cell(summary, "moved", every, metric) for metric in ("old_acc", "novel_acc"))
    return (
        "For one point of old accuracy moving the last stage adds "
        + ", ".join(f"{moved_cell(summary, gain, k, ONE_POINT, '+')} points with {k}" for k in counts)
        + f". With all {every} images the old classes are named right {old}% of the time, with scores as they are "
        f"({moved_cell(summary, gain, every, 'old_acc', '+')} points), and the new one {new}%."
    )


# --- how the settings were chosen -----------------------------------------------------------------


def trial_log(study: Study = IMPRINTING_TRIALS) -> pd.DataFrame:
    """One row a stored trial: what was expected, and accuracy for one point of old accuracy by the number of shots.

    Args:
        study: ``IMPRINTING_TRIALS`` or ``IMPRINTING_MOVED_TRIALS``.
    """
    table, rows = study.table(), []
    for run in study.runs():
        part = table[table.trial == run.key["trial"]].sort_values("shots")
        cells = {f"{one.shots} shots": cell(one.value, one.ci95) for one in part.itertuples()}
        rows += [{**run.key, "expectation": run.expectation, **cells}] if cells else []
    return pd.DataFrame(rows).fillna("")


def moved_trials_table() -> Table:
    """How steps and rates were chosen."""
    caption = "How steps and rates were chosen: accuracy on stand-ins for novel classes, training images only, for one "
    return Table(trial_log(IMPRINTING_MOVED_TRIALS), caption + "point of old accuracy (%)")
