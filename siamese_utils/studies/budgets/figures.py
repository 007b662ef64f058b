"""Figures of what time and images buy."""

from __future__ import annotations

import matplotlib.pyplot as plt

from siamese_utils.experiments import plotting, store
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.budgets.findings import accuracy_by_classes, accuracy_by_time, all_images
from siamese_utils.studies.budgets.study import SPLIT, TOTAL_IMAGES
from siamese_utils.studies.reference import seed_reference


def time_figure() -> Illustration:
    """Accuracy after whole trainings of different lengths, beside the seed project's weights.

    Raises:
        ResultsError: nothing is stored.
    """
    lengths = accuracy_by_time()
    aim = store.result(seed_reference(), split=SPLIT, metric="acc_5w1s", source="measured")
    figure, axis = plt.subplots(figsize=(9, 4))
    axis.axhline(aim.value, color=plotting.SEED, lw=1.5, ls="--")
    bold = {"textcoords": "offset points", "color": plotting.SEED, "fontweight": "bold"}
    axis.annotate("seed project's weights", (lengths.seconds.iloc[0], aim.value), (0, 5), **bold)
    mean = lengths["mean"]
    bars = [mean - lengths.low + lengths.ci95, lengths.high - mean + lengths.ci95]
    axis.errorbar(lengths.seconds, mean, bars, fmt="o-", color=plotting.UNSEEN, capsize=3)
    look = {"textcoords": "offset points", "va": "top", "fontsize": 9, "color": plotting.UNSEEN}
    look["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    for row in lengths.itertuples():
        axis.annotate(f"{row.mean:.1f}\n{row.images:,} images", (row.seconds, row.mean), (9, -3), **look)
    axis.set(
        xscale="log",
        xlabel="seconds of training (two processor cores)",
        ylabel="5-way 1-shot accuracy (%)",
        title="Whole trainings of different lengths: accuracy on unseen classes",
    )
    axis.set_xticks(lengths.seconds, [f"{seconds:.0f}" for seconds in lengths.seconds])
    axis.minorticks_off()
    axis.margins(x=0.18, y=0.2)
    figure.tight_layout()
    told = ", ".join(f"{row.mean:.1f} percent after {row.seconds:.0f} seconds" for row in lengths.itertuples())
    return Illustration(
        figure,
        "03_training_time",
        "Five-way one-shot accuracy on the ten unseen classes after whole trainings of different lengths: "
        f"{told}; the seed project's weights reach {aim.value:.1f}.",
    )


def classes_figure() -> Illustration:
    """Accuracy when the same images are spread over more classes, beside all images of each class.

    Raises:
        ResultsError: nothing is stored.
    """
    table, full = accuracy_by_classes(), all_images()
    figure, axis = plt.subplots(figsize=(9, 4))
    axis.fill_between(table.classes, table.low, table.high, color=plotting.BLUE, alpha=0.2, lw=0)
    axis.plot(table.classes, table["mean"], "o-", color=plotting.BLUE)
    look = {"textcoords": "offset points", "ha": "center", "va": "top", "fontsize": 9, "color": plotting.BLUE}
    for row in table.itertuples():
        axis.annotate(f"{row.mean:.1f}\n{row.images_per_class} images each", (row.classes, row.mean), (0, -9), **look)
    axis.plot(full.learned, full.value, "o-", color=plotting.PURPLE)
    bold = {"textcoords": "offset points", "ha": "right", "color": plotting.PURPLE, "fontweight": "bold"}
    axis.annotate("all 500 images of each class", (full.learned.iloc[-1], full.value.iloc[-1]), (0, 8), **bold)
    axis.set(
        xlabel="classes learned",
        ylabel="5-way 1-shot accuracy (%)",
        xticks=range(10, 100, 10),
        ylim=(min(table.low.min() - 12, 30), 92),
        xlim=(2, 98),
        title="The same images, spread over more classes",
    )
    figure.tight_layout()
    *counts, last = table.classes.astype(str)
    told = ", ".join(f"{row.mean:.1f} percent with {row.classes}" for row in table.itertuples())
    return Illustration(
        figure,
        "04_classes_or_images",
        f"Five-way one-shot accuracy on ten unseen classes when {TOTAL_IMAGES:,} training images are spread over "
        f"{', '.join(counts)} and {last} classes: {told}.",
    )
