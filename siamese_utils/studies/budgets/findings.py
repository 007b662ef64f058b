"""What the studies of time and of images found. What is not stored yet raises ResultsError."""

from __future__ import annotations

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import over_seeds
from siamese_utils.studies.budgets.study import CLASSES_OR_IMAGES, DRAW, SEEDS, SPLIT, TOTAL_IMAGES, TRAINING_TIME
from siamese_utils.studies.reference import seed_reference
from siamese_utils.studies.splits.findings import rows_of
from siamese_utils.training.recipes import DEFAULT_RECIPE, QUICK_RECIPE


def accuracy_by_time(recipe: str = DEFAULT_RECIPE) -> pd.DataFrame:
    """One row a budget: ``images``, ``seconds`` (mean), and the columns of ``over_seeds`` for the accuracy.

    Args:
        recipe: whose trainings these are.

    Raises:
        ResultsError: none of them is stored.
    """
    table = TRAINING_TIME.table()
    table = table[table.recipe == recipe]
    if table.empty:
        raise ResultsError(f"No training by {recipe} is stored; run `python -m siamese_utils study training_time`.")
    found = over_seeds(table, "acc_5w1s", ["images"])
    return found.assign(seconds=over_seeds(table, "seconds", ["images"])["mean"]).sort_values("images")


def accuracy_by_classes(metric: str = "acc_5w1s") -> pd.DataFrame:
    """One row a number of classes: ``classes``, ``images_per_class``, and the columns of ``over_seeds``."""
    return over_seeds(CLASSES_OR_IMAGES.table(), metric, ["classes", "images_per_class"]).sort_values("classes")


def time_sentence() -> str:
    """After which time every seed is better than the seed project's weights, and how many times faster that is."""
    table, aim, where = accuracy_by_time(), _aim(), _where(DEFAULT_RECIPE)
    hours = store.result(seed_reference(), split=SPLIT, metric="training_hours").value
    past = _past(table)
    if past.empty:
        best = table.loc[table["mean"].idxmax()]
        return (
            f"None of these trainings passes the {aim.value:.1f} percent of the seed project's weights yet; the best "
            f"reaches {best['mean']:.1f} after {best.seconds:.0f} seconds ({where})."
        )
    row = past.iloc[0]
    runs = "its one seed" if row.seeds == 1 else f"each of its {row.seeds:.0f} seeds"
    return (
        f"With {row.images:,.0f} images, that is after **{row.seconds:.0f} seconds** ({where}), {runs} is past the "
        f"{aim.value:.1f} percent of the seed project's weights: {row['mean']:.1f} ± {row.ci95:.1f}. Those take "
        f"some {hours:.0f} hours on two cores of another processor, by the speed of the seed project's loop there, so "
        f"this is some **{float(f'{hours * 3600 / row.seconds:.2g}'):,.0f}** times less."
    )


def quick_time_sentence() -> str:
    """After which time every seed of the quick recipe is past the seed project's weights, and what equal images give.

    Raises:
        ResultsError: none of its trainings is stored.
    """
    table = accuracy_by_time(QUICK_RECIPE)
    usual = accuracy_by_time().set_index("images")["mean"]
    gained = ", ".join(
        f"{row.mean - usual[row.images]:+.1f} with {row.images:,}" for row in table.itertuples() if row.images in usual
    )
    past = _past(table)
    if past.empty:
        told = "none of its trainings is past them with every seed"
    else:
        row = past.iloc[0]
        told = (
            f"it is past them with {row.images:,.0f} images, after **{row.seconds:.0f} seconds** "
            f"({_where(QUICK_RECIPE)}): {row['mean']:.1f} ± {row.ci95:.1f}, the lowest of its seeds ({row.seeds:.0f}) "
            f"{row.low:.1f}"
        )
    return f"With the quick recipe, `{QUICK_RECIPE}`, {told}. Points beside the recipe, by images shown: {gained}."


def _aim() -> Estimate:
    return store.result(seed_reference(), split=SPLIT, metric="acc_5w1s", source="measured")


def _past(table: pd.DataFrame) -> pd.DataFrame:
    """The budgets with which every seed is past the seed project's weights, by more than its interval."""
    return table[table.low - table.ci95 > _aim().value]


def _where(recipe: str) -> str:
    run = next(run for run in TRAINING_TIME.runs() if run.key["recipe"] == recipe)
    record = TRAINING_TIME.read_record(run)["provenance"]
    return f"{record['processor']}, {record['threads']} threads, {record['precision']}"


def all_images() -> pd.DataFrame:
    """The networks of the sweep, with all images of each class, on the same ten classes: ``learned``, ``value``."""
    table = rows_of("acc_5w1s_common")
    return table.loc[table.draw == DRAW, ["learned", "value"]].sort_values("learned")


def classes_table() -> Table:
    """``accuracy_by_classes`` with its caption; errors as there."""
    table = accuracy_by_classes()
    headings = {
        "classes": "classes",
        "images_per_class": "images a class",
        "mean": "5-way 1-shot, mean",
        "low": "lowest seed",
        "high": "highest seed",
        "seeds": "seeds",
    }
    return Table(
        table[list(headings)].rename(columns=headings),
        f"CIFAR-100: {TOTAL_IMAGES:,} training images in all, spread over more and more classes "
        f"(seeds stored: {table.seeds.min()} of {len(SEEDS)})",
        1,
    )


def classes_sentence() -> str:
    """What more classes bring with the same images, beside the growth with all images; Markdown."""
    table, full = accuracy_by_classes(), all_images().set_index("learned").value
    first, last = table.iloc[0], table.iloc[-1]
    gained = last["mean"] - first["mean"]
    told = (
        f"With the same {TOTAL_IMAGES:,} images, {last.classes:.0f} classes instead of {first.classes:.0f} change "
        f"accuracy by **{gained:+.1f}** points"
    )
    if {first.classes, last.classes} <= set(full.index):
        whole = full[last.classes] - full[first.classes]
        told += (
            f"; in the sweep, which has all images of each class and shows them for longer, it is {whole:+.1f}, and "
            "what of the rest is the images and what the longer training is not told here"
        )
    interval = CLASSES_OR_IMAGES.table().query("metric == 'acc_5w1s'").ci95.max()
    return f"{told}. The interval of one run over its episodes is ± {interval:.1f}."
