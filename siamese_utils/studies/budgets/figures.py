"""Figures of what time and images buy."""

from __future__ import annotations

import matplotlib.pyplot as plt

from siamese_utils.experiments import plotting, store
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.budgets.findings import accuracy_by_time
from siamese_utils.studies.budgets.study import SPLIT
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
