"""What the studies of time and of images found. What is not stored yet raises ResultsError."""

from __future__ import annotations

import pandas as pd

from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import over_seeds
from siamese_utils.studies.budgets.study import CLASSES_OR_IMAGES, DRAW, SEEDS, SPLIT, TOTAL_IMAGES, TRAINING_TIME
from siamese_utils.studies.reference import seed_reference
from siamese_utils.studies.splits.findings import rows_of


def accuracy_by_time() -> pd.DataFrame:
    """One row a budget: ``images``, ``seconds`` (mean), and the columns of ``over_seeds`` for the accuracy."""
    table = TRAINING_TIME.table()
    found = over_seeds(table, "acc_5w1s", ["images"])
    return found.assign(seconds=over_seeds(table, "seconds", ["images"])["mean"]).sort_values("images")


def accuracy_by_classes(metric: str = "acc_5w1s") -> pd.DataFrame:
    """One row a number of classes: ``classes``, ``images_per_class``, and the columns of ``over_seeds``."""
    return over_seeds(CLASSES_OR_IMAGES.table(), metric, ["classes", "images_per_class"]).sort_values("classes")


def time_sentence() -> str:
    """After which time every seed is better than the seed project's weights, and how many times faster that is."""
    table = accuracy_by_time()
    reference = seed_reference()
    aim = store.result(reference, split=SPLIT, metric="acc_5w1s", source="measured")
    hours = store.result(reference, split=SPLIT, metric="training_hours").value
    record = TRAINING_TIME.read_record(TRAINING_TIME.runs()[0])["provenance"]
    where = f"{record['processor']}, {record['threads']} threads, {record['precision']}"
    past = table[table.low - table.ci95 > aim.value]
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
        f"{aim.value:.1f} percent of the seed project's weights: {row['mean']:.1f} ± {row.ci95:.1f}. Those took "
        f"{hours:.0f} hours on two cores of another processor, so this is some **{hours * 3600 / row.seconds:,.0f}** "
        "times less."
    )


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
    """What more classes bring with the same images, and which part of the growth with all images that is; Markdown."""
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
            f"; with all images of each class it is {whole:+.1f}, so the variety of classes alone brings "
            f"{gained / whole:.0%} of the growth"
        )
    interval = CLASSES_OR_IMAGES.table().query("metric == 'acc_5w1s'").ci95.max()
    return f"{told}. The interval of one run over its episodes is ± {interval:.1f}."
