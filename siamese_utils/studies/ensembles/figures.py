"""The figures of ensembles and of longer trainings. What is not stored yet raises ResultsError."""

from __future__ import annotations

import matplotlib.pyplot as plt

from siamese_utils.errors import ResultsError
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.ensembles.draws import DRAWS, SPLIT
from siamese_utils.studies.ensembles.draws_findings import WAYS, OverDraws, way_name
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


_MARKS = ((plotting.BLUE, "s"), (plotting.ORANGE, "^"), (plotting.GREEN, "D"), (plotting.UNSEEN, "o"))


def draws_figure() -> Illustration:
    """5-way 1-shot accuracy on 90-10: a row a class draw, and one for the mean; a mark a way to judge."""
    found = {way: OverDraws.read(*way, "acc_5w1s") for way in WAYS}
    if not any(reached.of for reached in found.values()):
        raise ResultsError("No class draw is stored yet; run `python -m siamese_utils study class_draws`.")
    rows: dict[int | str, float] = {
        **{draw: float(place) for place, draw in enumerate(DRAWS)},
        "mean": len(DRAWS) + 0.4,
    }
    figure, axis = plt.subplots(figsize=(9, 4.2))
    told, ends = [], {row: [] for row in rows}
    for (way, reached), (colour, mark) in zip(found.items(), _MARKS, strict=True):
        points = {**reached.of, **({} if reached.mean is None else {"mean": reached.mean})}
        for row, one in points.items():
            axis.errorbar(one.value, rows[row], xerr=one.ci95, fmt=mark, color=colour, ms=9, capsize=3)
            ends[row].append(one.value)
        if points:
            axis.plot([], [], mark, color=colour, ms=9, label=way_name(*way))
            numbers = [
                f"{one.value:.1f} {'on average' if row == 'mean' else f'on draw {row}'}" for row, one in points.items()
            ]
            told.append(f"{way_name(*way)}: {', '.join(numbers)}")
    for row, values in ends.items():
        ends_told = ((min(values, default=0), -1, "right"), (max(values, default=0), 1, "left"))
        for value, side, align in ends_told[: len(values)]:
            axis.annotate(
                f"{value:.1f}",
                (value, rows[row]),
                (14 * side, 0),
                textcoords="offset points",
                ha=align,
                va="center",
                fontweight="bold" if row == "mean" else "normal",
            )
    axis.set(
        yticks=list(rows.values()),
        yticklabels=[row if row == "mean" else f"draw {row}" for row in rows],
        ylim=(max(rows.values()) + 0.5, -0.5),
        xlabel="5-way 1-shot accuracy on the ten unseen classes (%)",
    )
    axis.margins(x=0.1)
    axis.grid(axis="y", visible=False)
    figure.suptitle(
        f"{SPLIT}: the report's training and longer ones, by class draw", x=0.01, ha="left", fontweight="bold"
    )
    figure.legend(loc="upper left", bbox_to_anchor=(0.0, 0.95), ncols=len(told), columnspacing=1.2, handletextpad=0.2)
    figure.tight_layout(rect=(0, 0, 1, 0.88))
    alt = f"Five-way one-shot accuracy in percent on the unseen classes of {SPLIT}, by class draw: {'; '.join(told)}."
    return Illustration(figure, "03_class_draws", alt)
