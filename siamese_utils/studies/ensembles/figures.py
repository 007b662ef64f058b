"""Ensembles in the report: the figure, the sentences and the comparison with published results on CIFAR-FS."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from siamese_utils.errors import ResultsError
from siamese_utils.experiments import plotting
from siamese_utils.experiments import store as results
from siamese_utils.studies.ensembles import cifar_fs as cifarfs
from siamese_utils.studies.ensembles import study as ensembles
from siamese_utils.system import project

PUBLISHED_COLUMNS = ("method", "encoder", "acc_5w1s", "acc_5w5s", "source")
# Task, beginning of the metrics' names, what the figure calls it, colour
_LINES = (
    ("90-10", "", "90-10, ten unseen classes", plotting.UNSEEN),
    ("cifar-fs", ensembles.VALIDATION, "CIFAR-FS, validation classes", plotting.GREEN),
    ("cifar-fs", "", "CIFAR-FS, test classes", plotting.BLUE),
)


def published() -> pd.DataFrame:
    """Results of others on CIFAR-FS, 5-way, percent, with the columns ``PUBLISHED_COLUMNS``.

    Raises:
        ResultsError: the table is missing or damaged.
    """
    return results.read_table(project.results_dir() / "cifar_fs_published.csv", PUBLISHED_COLUMNS)


def members_figure() -> tuple[Figure, str]:
    """5-way 1-shot accuracy against the number of members: ensembles as lines, single members as small marks.

    Raises:
        ResultsError: nothing is stored.
    """
    figure, axis = plt.subplots(figsize=(9, 4.4))
    told = []
    for task, prefix, label, colour in _LINES:
        rows = ensembles.by_members(task, f"{prefix}acc_5w1s")
        if rows.empty:
            continue
        axis.errorbar(rows.members, rows.together, rows.ci95, fmt="o-", color=colour, capsize=3)
        axis.plot(rows.members, rows.alone, "_", color=colour, ms=14, mew=2)
        last = rows.iloc[-1]
        axis.annotate(label, (last.members, last.together), (10, 0), textcoords="offset points", color=colour,
                      fontweight="bold", va="center")  # fmt: skip
        for row in rows.itertuples():
            axis.annotate(f"{row.together:.1f}", (row.members, row.together), (0, 7), textcoords="offset points",
                          ha="center", color=colour, fontsize=9)  # fmt: skip
        told.append(
            f"{label}: " + ", ".join(f"{row.together:.1f} percent with {row.members}" for row in rows.itertuples())
        )
    if not told:
        raise ResultsError("No ensemble is stored yet; run `python -m siamese_utils ensemble 90-10`.")
    most = max(ensembles.MEMBERS.values())
    axis.set(xticks=range(1, most + 1), xlim=(0.7, most + 1.9), xlabel="networks whose similarities are averaged",
             ylabel="5-way 1-shot accuracy (%)",
             title="Ensembles (points) and their members alone (dashes)")  # fmt: skip
    axis.margins(y=0.15)
    figure.tight_layout()
    return figure, "Five-way one-shot accuracy of ensembles by the number of members. " + "; ".join(told) + "."


def gain_sentence(task: str) -> str:
    """What the ensemble of a task brings over its members alone, and how long they trained.

    Raises:
        ResultsError: nothing is stored, or the first member alone.
    """
    rows = ensembles.by_members(task)
    if len(rows) < 2:
        raise ResultsError(f"No ensemble of {task} is stored yet; run `python -m siamese_utils ensemble {task}`.")
    last, alone = rows.iloc[-1], rows.alone
    where = "On CIFAR-FS's test classes" if task == "cifar-fs" else f"On the unseen classes of {task} (draw 0)"
    text = (
        f"{where} the members alone reach {alone.min():.1f} to {alone.max():.1f}, on average {alone.mean():.1f}; "
        f"{last.members:.0f} together **{last.together:.1f} ± {last.ci95:.1f}**, {last.together - alone.mean():+.1f} "
        f"points. Their trainings took {last.minutes / 2:.0f} minutes of two processor cores."
    )
    metric, what = ("acc_5w5s", "5-way 5-shot") if task == "cifar-fs" else ("acc_allway_1s", "1-shot among all ten")
    more = ensembles.by_members(task, metric)
    return (
        f"{text} {what[0].upper()}{what[1:]}: {more.alone.mean():.1f} on average, together "
        f"**{more.together.iloc[-1]:.1f} ± {more.ci95.iloc[-1]:.1f}**."
    )


def field_table() -> pd.DataFrame:
    """CIFAR-FS: this project's networks beside published ones, by 1-shot accuracy; 5-way, percent.

    Raises:
        ResultsError: nothing is stored.
    """
    ours = cifarfs.stored_cifar_fs()
    one, five = (ours[ours.metric == f"acc_5w{shots}s"].sort_values("seed") for shots in (1, 5))
    rows = [
        {"method": f"{row.method}, {row.encoder}", "5-way 1-shot": f"{row.acc_5w1s:.1f}",
         "5-way 5-shot": f"{row.acc_5w5s:.1f}", "source": row.source.split(", arXiv")[0], "order": row.acc_5w1s}
        for row in published().itertuples()
    ]  # fmt: skip
    record = results.load_json(cifarfs.record_name(int(one.seed.iloc[0])))
    encoder = record["config"]["encoder"]
    singles = f"mean of {len(one)} seeds" if len(one) > 1 else "one seed"
    rows.append(_ours(f"one {encoder}, {singles}", one.value.mean(), one.ci95.mean(), five.value.mean(),
                      five.ci95.mean()))  # fmt: skip
    together = [ensembles.by_members("cifar-fs", f"acc_5w{shots}s") for shots in (1, 5)]
    if len(together[0]) > 1:
        first, second = (rows_.iloc[-1] for rows_ in together)
        rows.append(_ours(f"{first.members:.0f} of these together", first.together, first.ci95, second.together,
                          second.ci95))  # fmt: skip
    table = pd.DataFrame(rows).sort_values("order", kind="stable").drop(columns="order")
    return table.reset_index(drop=True)


def _ours(what: str, one: float, one_ci: float, five: float, five_ci: float) -> dict[str, object]:
    return {
        "method": what, "5-way 1-shot": f"{one:.1f} ± {one_ci:.1f}",
        "5-way 5-shot": f"{five:.1f} ± {five_ci:.1f}", "source": "this report",
        "order": one,
    }  # fmt: skip
