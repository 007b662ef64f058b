"""Figures of the study of own images."""

from __future__ import annotations

import matplotlib.pyplot as plt

from siamese_utils.encoders.named import PHOTOS
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.own_images.findings import reliability, value
from siamese_utils.studies.own_images.study import SHOTS

_LINES = {
    "report": ("the report's 90-10 network", plotting.SEED),
    "photos": (f"{PHOTOS}, an hour, two depths", plotting.GREEN),
    "plain": ("efficientnet-lite0, plain", plotting.SEEN),
    "head": ("efficientnet-lite0, all steps", plotting.UNSEEN),
}


def shots_figure() -> Illustration:
    """Accuracy on classes of photographs by examples a class, for the encoders.

    Raises:
        ResultsError: nothing is stored.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), sharey=True)
    for axis, ways, title in zip(axes, (5, 0), ("five classes at a time", "fifteen classes at once")):
        for step, (label, colour) in _LINES.items():
            rows = [value(step, "acc", ways, shots) for shots in SHOTS]
            heights, bars = [row.value for row in rows], [row.ci95 for row in rows]
            axis.errorbar(SHOTS, heights, bars, fmt="o-", color=colour, capsize=3, label=label)
        axis.set(xscale="log", xlabel="examples a class", title=title)
        axis.set_xticks(SHOTS, [str(shots) for shots in SHOTS])
        axis.minorticks_off()
    axes[0].set_ylabel("accuracy (%)")
    axes[0].legend(loc="lower right")
    figure.tight_layout()
    told = "; ".join(
        f"{label} {value(step, 'acc').value:.1f} percent with one example and {value(step, 'acc', shots=5).value:.1f} "
        "with five"
        for step, (label, _) in _LINES.items()
    )
    return Illustration(
        figure,
        "10_shots",
        f"Accuracy on classes of photographs by the number of examples a class. Five classes at a time: {told}.",
    )


def reliability_figure() -> Illustration:
    """Share of answers that are right by their probability, for one and for five examples a class.

    Raises:
        ResultsError: nothing is stored.
    """
    figure, axis = plt.subplots(figsize=(5, 4.4))
    axis.plot([0, 100], [0, 100], color="0.6", ls="--", lw=1, label="as sure as right")
    for shots, colour in ((1, plotting.SEEN), (5, plotting.UNSEEN)):
        table = reliability(shots)
        table = table[table["count"] >= 20]
        label = f"{shots} example{'s' * (shots > 1)} a class"
        axis.plot(table.probability, table.right, "o-", color=colour, label=label)
    axis.set(xlabel="probability of the answer (%)", ylabel="share that is right (%)", title="Reliability")
    axis.set(xlim=(20, 102), ylim=(20, 102))
    axis.legend(loc="upper left")
    figure.tight_layout()
    one, five = (value("head", "ece", shots=shots).value for shots in (1, 5))
    return Illustration(
        figure,
        "10_reliability",
        "Share of answers that are right by the probability that was given, five classes of photographs at a time: "
        f"on average they differ by {one:.1f} points with one example a class and by {five:.1f} with five.",
    )


def unknown_figure() -> Illustration:
    """How well unknown images are told from known ones by examples a class, and what the threshold gets wrong.

    Raises:
        ResultsError: nothing is stored.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 4.5))
    for step, (label, colour) in _LINES.items():
        rows = [value(step, "auroc", shots=shots) for shots in SHOTS]
        heights, bars = [row.value for row in rows], [row.ci95 for row in rows]
        axes[0].errorbar(SHOTS, heights, bars, fmt="o-", color=colour, capsize=3, label=label)
    lines = {"refused": ("known, called unknown", "s--"), "accepted": ("unknown, taken for a class", "^:")}
    for metric, (label, look) in lines.items():
        rows = [value("head", metric, shots=shots) for shots in SHOTS]
        heights, bars = [row.value for row in rows], [row.ci95 for row in rows]
        axes[1].errorbar(SHOTS, heights, bars, fmt=look, color=plotting.UNSEEN, capsize=3, label=label)
    axes[0].set(ylabel="AUROC (%)", title="known against unknown")
    axes[1].set(ylabel="errors (%)", title="at the threshold from the support")
    for axis in axes:
        axis.set(xscale="log", xlabel="examples a class")
        axis.set_xticks(SHOTS, [str(shots) for shots in SHOTS])
        axis.minorticks_off()
    axes[1].legend()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=2)  # there is no room among the lines
    figure.tight_layout(rect=(0, 0.16, 1, 1))
    told = ", ".join(f"{label} {value(step, 'auroc', shots=5).value:.1f}" for step, (label, _) in _LINES.items())
    return Illustration(
        figure,
        "10_unknown",
        "How well photographs of none of the classes are told from those of five classes, by examples a class. AUROC "
        f"with five examples: {told}. Beside it the errors of both kinds at the threshold found in the support, by "
        f"{_LINES['head'][0]}.",
    )
