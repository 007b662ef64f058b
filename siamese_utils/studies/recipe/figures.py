"""The figure of the search for the recipe. What is not stored yet raises ResultsError."""

from __future__ import annotations

import matplotlib.pyplot as plt

from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.recipe.findings import search_gains


def search_figure() -> Illustration:
    """What every trial of the search gains or loses against the one that it was changed from, largest gain first."""
    gains = search_gains()
    figure, axis = plt.subplots(figsize=(9, 0.8 + 0.36 * len(gains)))
    for place, row in enumerate(gains.itertuples()):
        clear = abs(row.gain) > row.ci95
        colour = (plotting.GREEN if row.gain > 0 else plotting.RED) if clear else plotting.GREY
        axis.errorbar(row.gain, place, xerr=row.ci95, fmt="o", color=colour, capsize=3)
        side = 1 if row.gain > 0 else -1
        axis.annotate(
            f"{row.gain:+.1f}",
            (row.gain + side * row.ci95, place),
            (7 * side, 0),
            textcoords="offset points",
            ha="left" if side > 0 else "right",
            va="center",
            color=colour,
            fontweight="bold",
        )
    axis.axvline(0, color=plotting.GREY, lw=1)
    axis.set(
        yticks=range(len(gains)),
        yticklabels=[f"{row.trial}, from {row.base}" for row in gains.itertuples()],
        xlabel="points of 5-way 1-shot accuracy on validation classes",
        title="What each change brought",
    )
    axis.margins(x=0.12)
    axis.invert_yaxis()
    figure.tight_layout()
    told = ", ".join(f"{row.trial} {row.gain:+.1f}" for row in gains.itertuples())
    alt = f"Points of five-way one-shot accuracy that each trial gains or loses against another: {told}."
    return Illustration(figure, "03_search", alt)
