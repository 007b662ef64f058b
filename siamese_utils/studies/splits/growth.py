"""What the split sweep is for: how recognition of unseen classes grows with the number of classes learned.

The metrics of the protocol change two things at once from split to split: what the network has learned, and which
classes it is asked about. Here are the measurements that take the two apart, made for every stored encoder beside its
protocol metrics, and the tables that put splits and class draws side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from siamese_utils.data.sampling import ClassIndex, named_rng
from siamese_utils.data.splits import SPLIT_NAMES, ClassSplit, class_split
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.evaluation.estimates import Estimate, mean_estimate, share_estimate
from siamese_utils.evaluation.pairs import sample_similarities, threshold_for_balanced_accuracy
from siamese_utils.experiments import store
from siamese_utils.experiments import store as results
from siamese_utils.studies import reference
from siamese_utils.studies.splits import stored
from siamese_utils.system import project

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


# ------------------------------------------------------------------------------------- stored tables


def growth_path() -> Path:
    """Where the measurements beside the protocol are stored."""
    return project.results_dir() / "growth.csv"


def class_path() -> Path:
    """Where the accuracies of single unseen classes are stored; the column ``metric`` holds the class's name."""
    return project.results_dir() / "class_accuracy.csv"


def store_growth(
    key: Mapping[str, object], measured: Mapping[str, Estimate], by_class: Mapping[str, Estimate], checkpoint: str
) -> None:
    """Store the measurements of one encoder and the accuracies of its unseen classes, if it has any."""
    results.store_run(key, measured, checkpoint, table=growth_path())
    if by_class:
        results.store_run(key, by_class, checkpoint, table=class_path())


def sweep_with_growth() -> pd.DataFrame:
    """The rows of the split sweep and of the measurements beside it, with a column ``learned``, the classes learned.

    Raises:
        ResultsError: nothing is stored.
    """
    tables = [stored.split_sweep()]
    if growth_path().exists():
        tables.append(results.read_table(growth_path(), store.SPLIT_SWEEP_COLUMNS))
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
    ours, seed = stored.split_sweep(), reference.seed_reference()
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
    table = results.read_table(class_path(), store.SPLIT_SWEEP_COLUMNS)
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
