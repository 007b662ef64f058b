"""What the split sweep found: the growth with the classes learned, splits and draws side by side, and its costs.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import pandas as pd

from siamese_utils.data.splits import SPLIT_NAMES
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.episodes import legacy_always_different
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.protocol import SplitEvaluation
from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Shown, Table
from siamese_utils.experiments.seeds import cell
from siamese_utils.experiments.study import Run
from siamese_utils.studies.reference import seed_reference
from siamese_utils.studies.splits.classes import class_effects, relative_effect, stored_class_accuracies
from siamese_utils.studies.splits.growth import common_classes
from siamese_utils.studies.splits.study import SPLIT_SWEEP, of_the_sweep, split_run
from siamese_utils.system.project import results_dir
from siamese_utils.training.recipes import DEFAULT_RECIPE

# ------------------------------------------------------------------------------------------- stored rows


def swept(recipe_name: str = DEFAULT_RECIPE) -> pd.DataFrame:
    """The rows of the split sweep by one recipe."""
    return of_the_sweep(SPLIT_SWEEP.table(), recipe_name, SPLIT_SWEEP.path)


def stored_evaluation(run: Run) -> SplitEvaluation:
    """Threshold and metrics of a stored run."""
    table = SPLIT_SWEEP.table()
    rows = table[(table[list(run.key)] == pd.Series(run.key)).all(axis=1)]
    metrics = {row.metric: Estimate(row.value, row.ci95, row.n) for row in rows.itertuples()}
    return SplitEvaluation(SPLIT_SWEEP.read_record(run)["threshold"], metrics)


def sweep_with_growth(recipe_name: str = DEFAULT_RECIPE) -> pd.DataFrame:
    """Rows of the sweep and of the measurements beside it, with a column ``learned``, the number of classes learned."""
    tables, beside = [swept(recipe_name)], results_dir() / "growth.csv"
    if store.has_table(beside):
        measured = store.read_table(beside, SPLIT_SWEEP.all_columns, SPLIT_SWEEP.key)
        tables.append(of_the_sweep(measured, recipe_name, beside))
    table = pd.concat(tables, ignore_index=True)
    return table.assign(learned=table.split.str.split("-").str[0].astype(int))


def rows_of(metric: str, recipe_name: str = DEFAULT_RECIPE) -> pd.DataFrame:
    """The rows of one metric by one recipe, a row a split and class draw, with a column ``learned``."""
    table = sweep_with_growth(recipe_name)
    table = table[table.metric == metric]
    if table.empty:
        by = "" if recipe_name == DEFAULT_RECIPE else f" --recipe {recipe_name}"
        raise ResultsError(f"No {metric!r} is stored; run `python -m siamese_utils sweep{by}`.")
    return table


def whole_draws(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the class draws that have every split of the table; along a curve a change of draws looks like growth."""
    return table[table.groupby("draw")["split"].transform("nunique") == table["split"].nunique()]


def over_draws(metric: str) -> pd.DataFrame:
    """A metric against the classes learned: one row a split, over the class draws that are stored with every split.

    A draw that lacks splits is left out, for along the curve a change of draws would look like growth; where no draw
    is whole, all count.

    Columns: ``split``, ``learned``, ``draws`` (how many), ``mean``, ``low`` and ``high`` (smallest and largest draw),
    ``sd`` (between draws; NaN for one draw).
    """
    table = rows_of(metric)
    if len(whole := whole_draws(table)):
        table = whole
    grouped = table.groupby(["learned", "split"], sort=True)["value"]
    return grouped.agg(draws="count", mean="mean", low="min", high="max", sd="std").reset_index()


def progress() -> list[Shown]:
    """Which splits of each class draw are stored by the report's recipe, and how many are missing."""
    runs, planned = swept()[["split", "draw"]].drop_duplicates(), SPLIT_SWEEP.runs()
    done = runs.groupby("draw").split.apply(lambda splits: ", ".join(s for s in SPLIT_NAMES if s in set(splits)))
    stored = set(zip(runs.split, runs.draw, strict=True))
    missing = sum((run.key["split"], run.key["draw"]) not in stored for run in planned)
    left = f"**{missing} of {len(planned)} runs are not done yet**; tables and curves below leave them out."
    return [
        Table(done.rename("splits stored").reset_index(), "What is stored so far"),
        f"Recipe: `{DEFAULT_RECIPE}`. {left if missing else 'All runs are done.'}",
    ]


# ----------------------------------------------------------------------------- splits and draws side by side


def comparison_table(split: str, draw: int = 0) -> pd.DataFrame:
    """One row a metric: ours with its 95% interval, the seed's, and the difference; percent.

    Args:
        split: for example ``"90-10"``.
        draw: class draw; the seed's numbers belong to draw 0 and are left out for others.
    """
    ours = swept()
    ours = ours[(ours.split == split) & (ours.draw == draw)]
    if ours.empty:
        raise ResultsError(f"No results are stored for split {split}, draw {draw}; train it first.")
    seed = seed_reference().set_index(["split", "metric"])
    rows = []
    for row in ours.itertuples():
        line = {"metric": row.metric, "ours": cell(row.value, row.ci95, 2), "seed": "–", "difference": "–"}
        if draw == 0 and (split, row.metric) in seed.index:
            reference = seed.loc[(split, row.metric)]
            line["seed"] = f"{cell(reference.value, reference.ci95, 2)} ({reference.source})"
            line["difference"] = f"{row.value - reference.value:+.2f}"
        rows.append(line)
    return pd.DataFrame(rows)


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
    ours, seed = swept(), seed_reference()
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
    return cell(*table.loc[key, ["value", "ci95"]], 2)


def table_over_draws(metrics: Mapping[str, str]) -> pd.DataFrame:
    """Mean over the class draws and, in brackets, the smallest and the largest draw: one row a split, percent.

    Args:
        metrics: name of each metric in the results files, and the heading to give it.

    Returns:
        Columns ``split``, ``draws`` and the headings; splits that lack a metric have a dash there.
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


def metric_tables() -> list[Shown]:
    """The metrics of every split: of draw 0 beside the seed project's, and over the class draws."""
    episodes = {"acc_5w1s": "5-way 1-shot", "acc_5w5s": "5-way 5-shot", "acc_allway_1s": "all-way 1-shot"}
    pairs = {"pair_auc": "AUC", "pair_acc": "pairs", "triplet_acc": "triplets"}
    unseen = {f"{metric}_unseen": f"{name} unseen" for metric, name in pairs.items()}
    seen = {f"{metric}_seen": f"{name} seen" for metric, name in reversed(pairs.items())}
    of_draws = table_over_draws({**episodes, "pair_auc_unseen": "AUC unseen", "pair_acc_seen": "pairs seen"})
    draws = f"{of_draws.draws.max()} class draws: mean, and in brackets the lowest and the highest (percent)"
    own = "Unseen classes, draw 0: percent with 95% intervals over episodes or supports"
    return [
        Table(side_by_side(episodes), own),
        Table(side_by_side(unseen), "Unseen classes, draw 0, continued: pairs and triplets"),
        Table(side_by_side(seen), "Seen classes, draw 0: new images of the classes learned"),
        Table(of_draws.drop(columns="draws"), draws),
    ]


# --------------------------------------------------------------------------------------------- the growth


def beside_seed() -> pd.DataFrame:
    """5-way 1-shot accuracy of draw 0 beside that of the seed project's weights: one row a split that both have.

    Columns: ``split``, ``learned``, ``value``, ``ci95``, ``value_seed`` and ``ci95_seed``; sorted by ``learned``.

    Raises:
        ResultsError: there is no such split.
    """
    seed = seed_reference().query("metric == 'acc_5w1s' and source == 'measured'")[["split", "value", "ci95"]]
    ours = rows_of("acc_5w1s").query("draw == 0")[["split", "learned", "value", "ci95"]]
    both = ours.merge(seed, on="split", suffixes=("", "_seed")).sort_values("learned", ignore_index=True)
    if both.empty:
        raise ResultsError("No split of draw 0 is stored; run `python -m siamese_utils sweep --draws 0`.")
    return both


def lead_sentence() -> str:
    """From where to where accuracy goes in draw 0, its lead over the seed project's weights, its steps; Markdown."""
    both = beside_seed()
    lead, first, last = both.value - both.value_seed, both.iloc[0], both.iloc[-1]
    return (
        f"From {first.learned} to {last.learned} classes learned, accuracy goes from **{first.value:.1f}** to "
        f"**{last.value:.1f}** percent. The lead over the seed's weights lies between {lead.min():.1f} and "
        f"{lead.max():.1f} points. {growth_sentence('acc_5w1s')}"
    )


def steps(metric: str) -> pd.DataFrame:
    """From each stored split of a draw to the next: what the metric gains.

    Columns: ``draw``, ``learned`` (before), ``next`` (after), ``change`` and ``ci95`` (percentage points; of the two
    measurements, taken as independent).
    """
    table = rows_of(metric)
    rows = []
    for draw, part in table.groupby("draw"):
        ordered = list(part.sort_values("learned").itertuples())
        for before, after in pairwise(ordered):
            change, half = after.value - before.value, (before.ci95**2 + after.ci95**2) ** 0.5
            rows.append((draw, before.learned, after.learned, change, half))
    return pd.DataFrame(rows, columns=["draw", "learned", "next", "change", "ci95"])


def growth_sentence(metric: str) -> str:
    """Whether a metric rises with every step of every draw, in a sentence."""
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


def growth_sentences() -> list[Shown]:
    """What of the growth is knowledge, how far draws lie apart, and the first and the last step; Markdown."""
    own, common = over_draws("acc_5w1s"), over_draws("acc_5w1s_common")
    both = own.merge(common, on=["learned", "split"], suffixes=("", "_common"))
    if len(both) < 2:
        raise ResultsError("A growth takes two splits of a class draw; run `python -m siamese_utils sweep`.")
    first, second, before, last = (both.iloc[place] for place in (0, 1, -2, -1))
    known = last.mean_common - first.mean_common
    asked = (last["mean"] - first["mean"]) - known
    width, width_common = own.high - own.low, common.high - common.low
    widest, told = own.loc[width.idxmax()], growth_sentence("acc_5w1s_common")
    return [
        f"On its own unseen classes the network goes from {first['mean']:.1f} to {last['mean']:.1f} percent between "
        f"{first.learned} and {last.learned} classes; on the same ten classes from {first.mean_common:.1f} to "
        f"{last.mean_common:.1f}. So **{known:.1f} points of the growth are knowledge**, and the rest, {asked:+.1f} "
        "points, comes from the questions that each split is asked.",
        f"Between class draws the splits differ by {width.min():.1f} to {width.max():.1f} points, most at "
        f"{widest.split} ({widest.low:.1f} to {widest.high:.1f}); on the ten classes that stay unseen by "
        f"{width_common.min():.1f} to {width_common.max():.1f}. On the same ten classes, {told[0].lower()}{told[1:]}",
        f"The last {last.learned - before.learned} classes, from {before.learned} to {last.learned}, bring "
        f"{last['mean'] - before['mean']:+.1f} points on each split's own unseen classes and "
        f"{last.mean_common - before.mean_common:+.1f} on the same ten; the first {second.learned - first.learned}, "
        f"from {first.learned} to {second.learned}, bring {second['mean'] - first['mean']:+.1f} and "
        f"{second.mean_common - first.mean_common:+.1f}.",
    ]


def ease_sentence() -> str:
    """How easy the ten classes are that a draw never learns, against the average class; Markdown."""
    by_class = stored_class_accuracies()
    effects = class_effects(by_class)
    easier = {draw: effects.reindex(common_classes(draw)).mean() for draw in sorted(map(int, by_class.draw.unique()))}
    told = (
        f"{abs(value):.1f} points {'easier' if value > 0 else 'harder'} (draw {draw})" for draw, value in easier.items()
    )
    return (
        "How easy are the ten classes that a draw never learns? Against the average class, judged over all splits "
        f"(see [notebook 05](05_one_shot_evaluation.ipynb)), they are {', '.join(told)}. That is beside classes "
        "of other superclasses; where two of the ten are of one, they are harder to tell apart than this says."
    )


# ------------------------------------------------------------------- the seed's metric, relatives, thresholds


def legacy_table() -> Table:
    """The seed's few-shot metric beside the blind answer, and beside a sound metric: one row a split of draw 0."""
    reference = seed_reference().query("metric == 'legacy_few_shot' and source == 'published'")
    ours = swept().query("draw == 0").pivot_table(index="split", columns="metric", values="value")
    splits = pd.Index(SPLIT_NAMES[:-1], name="split")
    ours = ours.reindex(index=splits, columns=["legacy_few_shot", "acc_5w1s"])
    columns = {
        "seed, published": reference.set_index("split").value.reindex(splits),
        "ours": ours.legacy_few_shot,
        "always “different”": [legacy_always_different(int(split.split("-")[1])) for split in splits],
        "ours, 5-way 1-shot": ours.acc_5w1s,
    }
    caption = "The seed's few-shot metric beside the blind answer, and beside a sound metric (percent, draw 0)"
    return Table(pd.DataFrame(columns, index=splits).reset_index(), caption, 1)


def relatives_sentence() -> str:
    """What a known relative is worth, all else equal; Markdown."""
    effect = relative_effect(stored_class_accuracies())
    return (
        f"Compared with itself and with its split, a class gains **{effect.value:+.2f} ± {effect.ci95:.2f}** points "
        f"for each relative that was learned (95% interval over superclasses; {effect.n} class-split pairs)."
    )


def _thresholds() -> pd.DataFrame:
    """A row a run that leaves classes unseen, by ``draw`` and ``learned``; a column a metric."""
    rows_of("same_right_unseen")  # raises where there are none
    wide = sweep_with_growth().pivot_table(index=["draw", "learned"], columns="metric", values="value")
    return wide.dropna(subset=["same_right_unseen"])


def threshold_table() -> Table:
    """The threshold of each split of draw 0, moved to unseen classes."""
    headings = {
        "learned": "classes learned",
        "threshold_seen": "threshold from seen classes",
        "threshold_best_unseen": "best for unseen classes",
        "pair_acc_unseen": "pair accuracy, unseen (%)",
        "pair_acc_unseen_best": "with the best threshold (%)",
    }
    table = _thresholds().query("draw == 0").reset_index().rename_axis(columns=None)
    return Table(
        table[list(headings)].rename(columns=headings), "CIFAR-100, draw 0: the threshold moved to unseen classes"
    )


def threshold_sentence() -> str:
    """What choosing the threshold on learned classes costs; Markdown."""
    measured = _thresholds()
    cost = measured.pair_acc_unseen_best - measured.pair_acc_unseen
    return (
        f"Choosing the threshold on learned classes costs between **{cost.min():.1f}** and **{cost.max():.1f}** points "
        f"of pair accuracy on unseen ones, in {len(cost)} runs of {cost.index.unique('draw').size} class draws."
    )


# ------------------------------------------------------------------------------------------ what it took


def costs() -> pd.DataFrame:
    """What the stored runs took: one row a class draw and kind of machine.

    Columns: ``draw``, ``runs``, ``processor``, ``precision``, ``threads`` and ``minutes`` (of training, in all).
    """
    runs = swept()[["split", "draw"]].drop_duplicates()
    rows = []
    for run in runs.itertuples():
        record = SPLIT_SWEEP.read_record(split_run(run.split, run.draw))
        where = record["provenance"]
        machine = {key: where[key] for key in ("processor", "precision", "threads")}
        rows.append({"draw": run.draw, "split": run.split, **machine, "minutes": record["seconds"] / 60})
    grouped = pd.DataFrame(rows).groupby(["draw", "processor", "precision", "threads"], sort=True)
    table = grouped.agg(runs=("split", "count"), minutes=("minutes", "sum")).reset_index()
    return table[["draw", "runs", "processor", "precision", "threads", "minutes"]]


def costs_table() -> Table:
    """``costs`` with its caption, in whole minutes; errors as there."""
    table = costs()
    minutes = table.minutes.round().astype(int)
    return Table(table.assign(minutes=minutes), "The stored runs: minutes of training, all runs of a row together")


def machine_sentence() -> str:
    """What the runs reach that learn all classes, and so differ in nothing but the machine; Markdown."""
    whole = rows_of("pair_auc_seen").query("split == '100-0'").sort_values("draw")
    told = (
        f"{row.value:.2f} (draw {row.draw}, "
        f"{SPLIT_SWEEP.read_record(split_run(row.split, row.draw))['provenance']['precision']})"
        for row in whole.itertuples()
    )
    return (
        "Split 100-0 learns all classes in every draw, so that its runs differ in nothing but the machine. Their pair "
        f"AUC: {', '.join(told)}."
    )
