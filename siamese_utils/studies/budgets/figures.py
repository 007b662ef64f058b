"""Figures of what time and images buy."""

from __future__ import annotations

from contextlib import suppress

import matplotlib.pyplot as plt

from siamese_utils.errors import ResultsError
from siamese_utils.experiments import plotting, store
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.budgets.findings import accuracy_by_classes, accuracy_by_time, all_images
from siamese_utils.studies.budgets.study import SPLIT, TOTAL_IMAGES
from siamese_utils.studies.reference import seed_reference
from siamese_utils.training.recipes import QUICK_RECIPE


def time_figure() -> Illustration:
    """Accuracy after whole trainings of different lengths by both recipes, beside the seed project's weights.

    Raises:
        ResultsError: nothing of the report's recipe is stored.
    """
    found = {"the recipe": accuracy_by_time()}
    with suppress(ResultsError):
        found["the quick recipe"] = accuracy_by_time(QUICK_RECIPE)
    aim = store.result(seed_reference(), split=SPLIT, metric="acc_5w1s", source="measured")
    figure, axis = plt.subplots(figsize=(9, 4.6))
    axis.axhline(aim.value, color=plotting.SEED, lw=1.5, ls="--")
    bold = {"textcoords": "offset points", "fontweight": "bold"}
    first = found["the recipe"].images.iloc[0]
    axis.annotate("seed project's weights", (first, aim.value), (-30, 5), color=plotting.SEED, **bold)
    for (name, lengths), colour, side in zip(found.items(), (plotting.BLUE, plotting.UNSEEN), (-1, 1), strict=False):
        mean = lengths["mean"]
        bars = [mean - lengths.low + lengths.ci95, lengths.high - mean + lengths.ci95]
        axis.errorbar(lengths.images, mean, bars, fmt="o-", color=colour, capsize=3)
        look = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "color": colour}
        look |= {"va": "top" if side < 0 else "bottom", "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}
        for row in lengths.itertuples():
            axis.annotate(f"{row.mean:.1f}\n{row.seconds:.0f} s", (row.images, row.mean), (0, 10 * side), **look)
        last = lengths.iloc[-1]
        axis.annotate(name, (last.images, last["mean"]), (14, 4 * side), color=colour, va="center", **bold)
    axis.set(
        xscale="log",
        xlabel="images shown in training, and seconds of two processor cores",
        ylabel="5-way 1-shot accuracy (%)",
        title="Whole trainings of different lengths: accuracy on unseen classes",
    )
    lengths = found["the recipe"]
    axis.set_xticks(lengths.images, [f"{images:,}" for images in lengths.images])
    axis.minorticks_off()
    axis.margins(x=0.22, y=0.2)
    figure.tight_layout()
    told = "; ".join(
        f"by {name} "
        + ", ".join(
            f"{row.mean:.1f} percent with {row.images:,} images in {row.seconds:.0f} seconds"
            for row in lengths.itertuples()
        )
        for name, lengths in found.items()
    )
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
