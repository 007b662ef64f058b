"""What the split sweep found: the growth with the classes learned, splits and draws side by side, and its costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import SPLIT_NAMES, class_split
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.protocol import SplitEvaluation
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Run
from siamese_utils.studies.reference import seed_reference
from siamese_utils.studies.splits.study import SPLIT_SWEEP, split_run
from siamese_utils.system.project import results_dir


def stored_evaluation(run: Run) -> SplitEvaluation:
    """Threshold and metrics of a stored run.

    Raises:
        ResultsError: it is not stored.
    """
    table = SPLIT_SWEEP.table()
    rows = table[(table[list(run.key)] == pd.Series(run.key)).all(axis=1)]
    metrics = {row.metric: Estimate(row.value, row.ci95, row.n) for row in rows.itertuples()}
    return SplitEvaluation(SPLIT_SWEEP.read_record(run)["threshold"], metrics)


def comparison_table(split: str, draw: int = 0, recipe: str | None = None) -> pd.DataFrame:
    """One row a metric: ours with its 95% interval, the seed's, and the difference; percent.

    Args:
        split: for example ``"90-10"``.
        draw: class draw; the seed's numbers belong to draw 0 and are left out for others.
        recipe: which of our recipes, where several are stored.

    Raises:
        ResultsError: nothing is stored for this split and draw.
    """
    ours = SPLIT_SWEEP.table()
    ours = ours[(ours.split == split) & (ours.draw == draw) & (True if recipe is None else ours.recipe == recipe)]
    if ours.empty:
        raise ResultsError(f"No results are stored for split {split}, draw {draw}; train it first.")
    seed = seed_reference().set_index(["split", "metric"])
    rows = []
    for row in ours.itertuples():
        line = {"metric": row.metric, "ours": f"{row.value:.2f} ± {row.ci95:.2f}", "seed": "–", "difference": "–"}
        if draw == 0 and (split, row.metric) in seed.index:
            reference = seed.loc[(split, row.metric)]
            interval = f" ± {reference.ci95:.2f}" if pd.notna(reference.ci95) else ""
            line["seed"] = f"{reference.value:.2f}{interval} ({reference.source})"
            line["difference"] = f"{row.value - reference.value:+.2f}"
        rows.append(line)
    return pd.DataFrame(rows)


def sweep_with_growth() -> pd.DataFrame:
    """The rows of the split sweep and of the measurements beside it, with a column ``learned``, the classes learned.

    Raises:
        ResultsError: nothing is stored.
    """
    tables, beside = [SPLIT_SWEEP.table()], results_dir() / "growth.csv"
    if beside.exists():
        tables.append(store.read_table(beside, SPLIT_SWEEP.all_columns))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(learned=table.split.str.split("-").str[0].astype(int))


def side_by_side(metrics: Mapping[str, str], draw: int = 0) -> pd.DataFrame:
    """Ours, the seed's published numbers and the seed's weights under our protocol: one row a split, percent.

    Args:
        metrics: name of each metric in the results files, and the heading to give it.
        draw: class draw; the seed's numbers belong to draw 0.

    Returns:
        Columns ``split`` and, for each metric, heading + ``, ours`` / ``, seed published`` / ``, seed measured``, the
        latter two only where the seed has the metric at all. Splits for which we have none of the metrics are left out,
        as 100-0 is where all are of unseen classes.
    """
    ours, seed = SPLIT_SWEEP.table(), seed_reference()
    ours = ours[ours.draw == draw].set_index(["split", "metric"])
    seed = seed.set_index(["source", "split", "metric"])
    rows = []
    for split in SPLIT_NAMES:
        if not any((split, metric) in ours.index for metric in metrics):
            continue
        row = {"split": split}
        for metric, heading in metrics.items():
            row[f"{heading}, ours"] = _cell(ours, (split, metric))
            for source in ("published", "measured"):
                if draw == 0 and any(key[0] == source and key[2] == metric for key in seed.index):
                    row[f"{heading}, seed {source}"] = _cell(seed, (source, split, metric))
        rows.append(row)
    return pd.DataFrame(rows)


def _cell(table: pd.DataFrame, key: tuple[str, ...]) -> str:
    if key not in table.index:
        return "–"
    row = table.loc[key]
    return f"{row.value:.2f}" + (f" ± {row.ci95:.2f}" if pd.notna(row.ci95) and row.ci95 else "")


def _rows_of(metric: str) -> pd.DataFrame:
    """The rows of one metric, by split and class draw; raises ResultsError if there are none."""
    table = sweep_with_growth()
    table = table[table.metric == metric]
    if table.empty:
        raise ResultsError(f"No {metric!r} is stored; run `python -m siamese_utils sweep`.")
    return table


def over_draws(metric: str) -> pd.DataFrame:
    """A metric against the classes learned: one row a split, over the class draws that are stored with every split.

    A draw that lacks splits is left out, for along the curve a change of draws would look like growth; where no draw
    is whole, all count.

    Columns: ``split``, ``learned``, ``draws`` (how many), ``mean``, ``low`` and ``high`` (smallest and largest draw),
    ``sd`` (between draws; NaN for one draw).

    Raises:
        ResultsError: nothing is stored, or not this metric.
    """
    table = _rows_of(metric)
    splits = table.groupby("draw")["split"].transform("nunique")
    if (whole := splits == table["split"].nunique()).any():
        table = table[whole]
    grouped = table.groupby(["learned", "split"], sort=True)["value"]
    return grouped.agg(draws="count", mean="mean", low="min", high="max", sd="std").reset_index()


def table_over_draws(metrics: Mapping[str, str]) -> pd.DataFrame:
    """Mean over the class draws and, in brackets, the smallest and the largest draw: one row a split, percent.

    Args:
        metrics: name of each metric in the results files, and the heading to give it.

    Returns:
        Columns ``split``, ``draws`` and the headings; splits that lack a metric have a dash there.

    Raises:
        ResultsError: a metric is not stored at all.
    """
    tables = {heading: over_draws(metric).set_index("split") for metric, heading in metrics.items()}
    rows = []
    for split in SPLIT_NAMES:
        found = {heading: table.loc[split] for heading, table in tables.items() if split in table.index}
        if not found:
            continue
        told = {heading: f"{of['mean']:.1f} ({of.low:.1f}–{of.high:.1f})" for heading, of in found.items()}
        draws = max(int(of.draws) for of in found.values())
        rows.append({"split": split, "draws": draws, **dict.fromkeys(metrics.values(), "–"), **told})
    return pd.DataFrame(rows)


def steps(metric: str) -> pd.DataFrame:
    """From each stored split of a draw to the next: what the metric gains.

    Columns: ``draw``, ``learned`` (before), ``next`` (after), ``change`` and ``ci95`` (percentage points; of the two
    measurements, taken as independent).

    Raises:
        ResultsError: nothing is stored, or not this metric.
    """
    table = _rows_of(metric)
    rows = []
    for draw, part in table.groupby("draw"):
        ordered = list(part.sort_values("learned").itertuples())
        for before, after in pairwise(ordered):
            change, half = after.value - before.value, (before.ci95**2 + after.ci95**2) ** 0.5
            rows.append((draw, before.learned, after.learned, change, half))
    return pd.DataFrame(rows, columns=["draw", "learned", "next", "change", "ci95"])


def growth_sentence(metric: str) -> str:
    """Whether a metric rises with every step of every draw, in a sentence.

    Raises:
        ResultsError: nothing is stored, or not this metric.
    """
    table = steps(metric)
    draws = table.draw.nunique()
    where = f"the {len(table)} steps of {draws} class draw{'s' if draws > 1 else ''}"
    clear = table[table.change < -table.ci95]
    level = table[table.change.abs() <= table.ci95]
    if not len(clear) and not len(level):
        smallest = table.loc[table.change.idxmin()]
        return (
            f"Of {where}, every one leads up; the smallest, from {smallest.learned:.0f} to {smallest.next:.0f} classes "
            f"of draw {smallest.draw:.0f}, by {smallest.change:.1f} ± {smallest.ci95:.1f} points."
        )
    told = [
        f"{row.learned} to {row.next} in draw {row.draw} ({row.change:+.1f} ± {row.ci95:.1f})"
        for row in pd.concat([clear, level]).itertuples()
    ]
    neither = f" and {len(level)} neither" if len(level) else ""
    return (
        f"Of {where}, {len(table) - len(clear) - len(level)} lead clearly up, {len(clear) or 'none'} clearly "
        f"down{neither}: {', '.join(told)}."
    )


def stored_class_accuracies(class_names: Sequence[str], superclass_of: Sequence[int]) -> pd.DataFrame:
    """The stored accuracies of single classes: one row a class of a split that does not learn it.

    Columns: ``split``, ``draw``, ``learned``, ``label``, ``superclass``, ``relatives`` (classes of its superclass that
    the split learns, 0 to 4), ``value`` and ``ci95`` (percent).

    Raises:
        ResultsError: nothing is stored.
    """
    table = store.read_table(results_dir() / "class_accuracy.csv", SPLIT_SWEEP.all_columns)
    label_of = {name: label for label, name in enumerate(class_names)}
    rows = []
    for (split, draw), part in table.groupby(["split", "draw"], sort=False):
        seen = class_split(split, int(draw), len(class_names)).seen
        known = np.bincount([superclass_of[label] for label in seen], minlength=max(superclass_of) + 1)
        for row in part.itertuples():
            label = label_of[row.metric]
            group = superclass_of[label]
            rows.append((split, draw, len(seen), label, group, int(known[group]), row.value, row.ci95))
    columns = ["split", "draw", "learned", "label", "superclass", "relatives", "value", "ci95"]
    return pd.DataFrame(rows, columns=columns)


def relative_effect(table: pd.DataFrame, resamples: int = 500, seed: int = 0) -> Estimate:
    """Percentage points that one more learned relative adds to a class's accuracy, all else equal.

    Some classes are easier than others, and every class gains when more classes of any kind are learned. So a class is
    compared with itself and a split with itself: accuracy = a(class, draw) + b(split, draw) + effect x relatives,
    fitted by least squares (two-way fixed effects). The interval comes from drawing whole superclasses with
    replacement (a cluster bootstrap: members of a superclass gain and lose relatives together).

    Args:
        table: as ``stored_class_accuracies`` gives it.
        resamples: bootstrap samples.
        seed: seeds the bootstrap.

    Returns:
        The effect in points a relative; ``n`` is the number of rows.

    Raises:
        ResultsError: no class is seen with different numbers of relatives, so that there is nothing to compare.
    """
    products = _products(table)
    value = _slope(products.sum(axis=0))
    if not np.isfinite(value):
        raise ResultsError("The stored splits give no class more relatives in one than in another; store more splits.")
    rng = named_rng(seed, "relative effect")
    numbers = rng.integers(len(products), size=(resamples, len(products)))
    slopes = np.array([_slope(products[drawn].sum(axis=0)) for drawn in numbers])
    low, high = np.percentile(slopes[np.isfinite(slopes)], [2.5, 97.5])
    return Estimate(float(value), float(high - low) / 2, len(table))


def class_effects(table: pd.DataFrame) -> pd.Series:
    """How much easier each class is to recognise than the average one, whatever split it is asked in.

    A class is unseen in some splits of some draws, easy ones or hard ones, so its mean alone would be unfair. Fitted by
    least squares: accuracy = a(class) + b(draw, split), the mean of a over the classes being 0.

    Args:
        table: as ``stored_class_accuracies`` gives it.

    Returns:
        a in percentage points by ``label``, hardest class first.

    Raises:
        ResultsError: there are no rows.
    """
    if table.empty:
        raise ResultsError("No accuracies of classes are stored; run `python -m siamese_utils sweep`.")
    labels, classes = np.unique(table.label, return_inverse=True)
    splits = table.groupby(["draw", "split"], sort=False).ngroup().to_numpy()
    value = table.value.to_numpy(dtype=np.float64)
    of_class = np.zeros(len(labels))
    for _ in range(2000):
        of_split = np.bincount(splits, value - of_class[classes]) / np.bincount(splits)
        new = np.bincount(classes, value - of_split[splits]) / np.bincount(classes)
        new -= new.mean()
        if np.abs(new - of_class).max() < 1e-9:
            break
        of_class = new
    return pd.Series(new, index=pd.Index(labels, name="label"), name="effect").sort_values()


def _products(table: pd.DataFrame) -> NDArray[np.float64]:
    """Sums of products of value, relatives and split dummies, less their means over each class, (G, K, K).

    One table for each superclass in each draw. A superclass that is drawn twice counts twice, as classes of its own;
    their means are the same, so a sample is fitted from the sum of its tables, and its rows need not be gone through.
    """
    splits = pd.get_dummies(table.groupby(["draw", "split"], sort=False).ngroup(), dtype=np.float64)
    columns = pd.concat([table[["value", "relatives"]].astype(np.float64), splits], axis=1)
    columns -= columns.groupby([table.draw, table.label]).transform("mean")
    parts = (part.to_numpy() for _, part in columns.groupby([table.draw, table.superclass]))
    return np.stack([part.T @ part for part in parts])


def _slope(products: NDArray[np.float64]) -> float:
    """Slope of the first column on the second, given all others (Frisch and Waugh, 1933); NaN where they explain it."""
    pair, others = products[:2, :2], products[2:, :2]
    (_, with_value), (_, variation) = pair - others.T @ np.linalg.pinv(products[2:, 2:], 1e-10, hermitian=True) @ others
    return float(with_value / variation) if variation > 1e-9 * max(1.0, pair[1, 1]) else float("nan")


def costs() -> pd.DataFrame:
    """What the stored runs took: one row a class draw and kind of machine.

    Columns: ``draw``, ``runs``, ``processor``, ``precision``, ``threads`` and ``minutes`` (of training, in all).

    Raises:
        ResultsError: nothing is stored, or a run's record is missing.
    """
    runs = SPLIT_SWEEP.table()[["split", "draw"]].drop_duplicates()
    rows = []
    for run in runs.itertuples():
        record = SPLIT_SWEEP.read_record(split_run(run.split, run.draw))
        where = record["provenance"]
        machine = {key: where[key] for key in ("processor", "precision", "threads")}
        rows.append({"draw": run.draw, "split": run.split, **machine, "minutes": record["seconds"] / 60})
    grouped = pd.DataFrame(rows).groupby(["draw", "processor", "precision", "threads"], sort=True)
    table = grouped.agg(runs=("split", "count"), minutes=("minutes", "sum")).reset_index()
    return table[["draw", "runs", "processor", "precision", "threads", "minutes"]]
