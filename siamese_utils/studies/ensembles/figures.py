"""The figure of ensembles. What is not stored yet raises ResultsError."""

from __future__ import annotations

import matplotlib.pyplot as plt

from siamese_utils.errors import ResultsError
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.ensembles.findings import by_members
from siamese_utils.studies.ensembles.study import MEMBERS, VALIDATION

# Task, beginning of the metrics' names, what the figure calls it, colour
_LINES = (
    ("90-10", "", "90-10, ten unseen classes", plotting.UNSEEN),
    ("cifar-fs", VALIDATION, "CIFAR-FS, validation classes", plotting.GREEN),
    ("cifar-fs", "", "CIFAR-FS, test classes", plotting.BLUE),
)


def members_figure() -> Illustration:
    """5-way 1-shot accuracy against the number of members: ensembles as lines, single members as small marks."""
    figure, axis = plt.subplots(figsize=(9, 4.4))
    told = []
    for task, prefix, label, colour in _LINES:
        rows = by_members(task, f"{prefix}acc_5w1s")
        if rows.empty:
            continue
        axis.errorbar(rows.members, rows.together, rows.ci95, fmt="o-", color=colour, capsize=3)
        axis.plot(rows.members, rows.alone, "_", color=colour, ms=14, mew=2)
        last = rows.iloc[-1]
        axis.annotate(
            label,
            (last.members, last.together),
            (10, 0),
            textcoords="offset points",
            color=colour,
            fontweight="bold",
            va="center",
        )
        for row in rows.itertuples():
            axis.annotate(
                f"{row.together:.1f}",
                (row.members, row.together),
                (0, 7),
                textcoords="offset points",
                ha="center",
                color=colour,
                fontsize=9,
            )
        told.append(
            f"{label}: " + ", ".join(f"{row.together:.1f} percent with {row.members}" for row in rows.itertuples())
        )
    if not told:
        raise ResultsError("No ensemble is stored yet; run `python -m siamese_utils ensemble 90-10`.")
    most = max(MEMBERS.values())
    axis.set(
        xticks=range(1, most + 1),
        xlim=(0.7, most + 1.9),
        xlabel="networks whose similarities are averaged",
        ylabel="5-way 1-shot accuracy (%)",
        title="Ensembles (points) and their members alone (dashes)",
    )
    axis.margins(y=0.15)
    figure.tight_layout()
    alt = "Five-way one-shot accuracy of ensembles by the number of members. " + "; ".join(told) + "."
    return Illustration(figure, "03_ensembles", alt)
