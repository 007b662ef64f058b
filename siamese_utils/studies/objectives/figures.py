"""Figures of triplet training's collapse and of objectives side by side; from stored runs and live demonstrations."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.objectives.findings import (
    BATCH_HARD,
    PAIRS,
    PROXIES,
    SEMI_HARD,
    TRIPLETS,
    objective_results,
    sensitivity_results,
)

COLOURS = {PROXIES: plotting.ORANGE, TRIPLETS: plotting.BLUE, PAIRS: plotting.GREEN}
MINING_COLOURS = {SEMI_HARD: plotting.BLUE, BATCH_HARD: plotting.RED}
CHANCE = 20.0  # percent, five ways


def collapse_figure(traces: pd.DataFrame) -> Illustration:
    """Loss and spread of the embeddings by step, a line an objective.

    Args:
        traces: of ``demonstrations.collapse_traces``.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 3.8))
    widest = traces[traces.step == traces.step.max()].sort_values("spread").objective.iloc[-1]
    told = []
    for (name, rows), colour in zip(traces.groupby("objective", sort=False), plotting.PALETTE):
        left.plot(rows.step, rows.loss / rows.margin, color=colour)
        right.plot(rows.step, rows.spread, color=colour)
        right.annotate(
            str(name),
            (rows.step.iloc[-1], rows.spread.iloc[-1]),
            (5, 0),
            textcoords="offset points",
            color=colour,
            va="bottom" if name == widest else "top",
            fontweight="bold",
        )
        told.append(f"{name}: spread from {rows.spread.iloc[0]:.2f} to {rows.spread.iloc[-1]:.3f}")
    left.axhline(1, color="black", lw=1, ls="--")
    left.annotate("the margin", (traces.step.max(), 1), (0, -24), textcoords="offset points", fontsize=9, ha="right")
    left.set(title="Loss, in margins", xlabel="step", ylim=(0, None))
    right.set(title="Spread of the embeddings", xlabel="step", yscale="log", xlim=(0, traces.step.max() * 1.32))
    right.set_ylim(None, 1)
    figure.tight_layout()
    return Illustration(
        figure,
        "03_collapse",
        "Two panels over the training steps. The loss of batch-hard triplets falls fast to one margin and stays there, "
        f"that of semi-hard ones stays just below it. The spread of the embeddings: {'; '.join(told)}.",
    )


def objectives_figure() -> Illustration:
    """Accuracy of each stored objective, best at the top; objectives whose runs all collapsed stand at chance.

    Raises:
        ResultsError: none is stored.
    """
    table = objective_results()[::-1].reset_index(drop=True)
    figure, axis = plt.subplots(figsize=(9.5, 0.42 * len(table) + 1.5))
    for place, row in table.iterrows():
        colour = COLOURS[row.kind]
        if np.isnan(row["mean"]):
            axis.plot(CHANCE, place, "x", color=colour, ms=8, mew=2)
            axis.annotate("collapsed", (CHANCE, place), (9, 0), textcoords="offset points", va="center", color=colour)
            continue
        reach = [[row["mean"] - row.low + row.ci95], [row.high - row["mean"] + row.ci95]]
        axis.errorbar(row["mean"], place, xerr=reach, fmt="o", color=colour, ms=7, capsize=2, lw=1.4)
        lost = f"  ({row.collapsed} of {row.runs} collapsed)" if row.collapsed else ""
        axis.annotate(
            f"{row['mean']:.1f}{lost}",
            (row.high + row.ci95, place),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )
    axis.axvline(CHANCE, color="black", lw=1, ls="--")
    axis.annotate(
        "chance", (CHANCE, 1), (4, -11), xycoords=("data", "axes fraction"), textcoords="offset points", fontsize=9
    )
    axis.set(
        yticks=range(len(table)),
        yticklabels=table.label,
        ylim=(-0.6, len(table) - 0.2),
        xlabel="5-way 1-shot accuracy on validation classes (%)",
    )
    axis.set_xlim(CHANCE - 1.5, np.nanmax([*(table.high + table.ci95), CHANCE + 5]) + 3)
    for tick, kind in zip(axis.get_yticklabels(), table.kind):
        tick.set_color(COLOURS[kind])
    axis.grid(axis="y", visible=False)
    figure.tight_layout()
    told = ", ".join(
        f"{row.label} {'collapsed' if np.isnan(row.mean) else f'{row.mean:.1f}'}" for row in table[::-1].itertuples()
    )
    alt = f"Five-way one-shot accuracy in percent of networks trained by different objectives: {told}."
    return Illustration(figure, "03_objectives", alt)


def sensitivity_figure() -> Illustration:
    """Accuracy against the learning rate and against the margin; a cross at chance where every run collapsed.

    Raises:
        ResultsError: none is stored.
    """
    table = sensitivity_results()
    panels = [name for name in ("rate", "margin") if (table.parameter == name).any()]
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 3.9), sharey=True, squeeze=False)
    titles = {"rate": "Learning rate, in multiples of the recipe's", "margin": "Margin, in cosine distance"}
    told = []
    for axis, parameter in zip(axes[0], panels):
        for mining, rows in table[table.parameter == parameter].groupby("mining", sort=False):
            colour, ended = MINING_COLOURS[mining], rows[rows["mean"].notna()]
            reach = np.stack([ended["mean"] - ended.low + ended.ci95, ended.high - ended["mean"] + ended.ci95])
            axis.errorbar(ended.value, ended["mean"], reach, fmt="o-", color=colour, capsize=2, lw=1.4)
            lost = rows[rows["mean"].isna()]
            axis.plot(lost.value, np.full(len(lost), CHANCE), "x", color=colour, ms=8, mew=2, ls="none")
            if len(lost):
                axis.annotate(
                    f"{mining} triplets: collapsed",
                    (lost.value.iloc[0], CHANCE),
                    (6, 7),
                    textcoords="offset points",
                    color=colour,
                    fontsize=9,
                )
            if len(ended):
                middle = ended.iloc[len(ended) // 2]
                axis.annotate(
                    f"{mining} triplets",
                    (middle["value"], middle.high + middle.ci95),
                    (0, 5),
                    ha="center",
                    textcoords="offset points",
                    color=colour,
                    fontweight="bold",
                )
            told.append(
                f"{mining} triplets by {parameter}: "
                + ", ".join(
                    f"{row.value:g}: {'collapsed' if np.isnan(row.mean) else f'{row.mean:.1f}'}"
                    for row in rows.itertuples()
                )
            )
        values = sorted(table[table.parameter == parameter].value.unique())
        axis.set(title=titles[parameter], xscale="log")
        axis.xaxis.set_major_locator(FixedLocator(values))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.axhline(CHANCE, color="black", lw=1, ls="--")
        axis.margins(x=0.1, y=0.16)
    axes[0, 0].set_ylabel("5-way 1-shot accuracy (%)")
    figure.tight_layout()
    return Illustration(figure, "03_sensitivity", f"Five-way one-shot accuracy in percent. {'; '.join(told)}.")
