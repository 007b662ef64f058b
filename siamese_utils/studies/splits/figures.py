"""What the split sweep draws."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.experiments.seeds import signed
from siamese_utils.studies.splits.classes import stored_class_accuracies
from siamese_utils.studies.splits.findings import beside_seed, legacy_table, over_draws, rows_of
from siamese_utils.studies.splits.two_recipes import CURVES, LONGER, both_recipes, of_one_curve
from siamese_utils.training.recipes import DEFAULT_RECIPE

CHANCE = 20  # percent, five ways
_MARKERS = ("o", "s", "^")  # by class draw
_ABOVE = {"textcoords": "offset points", "ha": "center"}


def accuracy_figure() -> Illustration:
    """Bars of draw 0 beside those of the seed project's weights, by number of classes learned.

    Raises:
        ResultsError: nothing is stored.
    """
    both = beside_seed()
    figure, axis = plt.subplots(figsize=(10, 4.6))
    grey = {"color": "#B9B9B9", "ecolor": plotting.GREY, "capsize": 2}
    axis.bar(both.learned + 1.9, both.value_seed, 3.6, yerr=both.ci95_seed, **grey)
    axis.bar(both.learned - 1.9, both.value, 3.6, yerr=both.ci95, color=plotting.UNSEEN, capsize=2)
    ours = {"fontweight": "bold", "color": plotting.UNSEEN}
    for row in both.itertuples():
        axis.annotate(f"{row.value:.1f}", (row.learned - 1.9, row.value), (0, 5), **_ABOVE, **ours)
    seed = {"fontsize": 9, "color": plotting.GREY}
    for row in both.itertuples():
        axis.annotate(f"{row.value_seed:.1f}", (row.learned + 1.9, row.value_seed), (0, 4), **_ABOVE, **seed)
    _chance(axis, 98.6, 3, ha="right")
    bold = {"transform": axis.transAxes, "fontweight": "bold"}
    axis.text(0.02, 0.93, "this project", color=plotting.UNSEEN, **bold)
    axis.text(0.02, 0.86, "seed project's weights, same protocol", color=plotting.GREY, **bold)
    axis.set(
        xlabel="classes learned (the rest of the 100 are unseen)",
        ylabel="5-way 1-shot accuracy (%)",
        xticks=range(10, 100, 10),
        ylim=(0, 95),
        xlim=(4, 99),
        title="Few-shot accuracy on unseen classes, by number of classes learned (draw 0)",
    )
    axis.grid(axis="x", visible=False)
    figure.tight_layout()
    first, last = both.iloc[0], both.iloc[-1]
    told = "; ".join(f"{row.learned} classes {row.value:.1f} percent" for row in both.itertuples())
    alt = (
        "Bars of five-way one-shot accuracy on unseen classes for each split stored, beside the seed project's "
        f"weights: {told}; the seed from {first.value_seed:.1f} percent at {first.learned} classes to "
        f"{last.value_seed:.1f} at {last.learned}; chance is {CHANCE}."
    )
    return Illustration(figure, "04_accuracy_by_split", alt)


def _chance(axis: Axes, x: float, above: float, **look: str) -> None:
    """A dashed line at chance, with its name at ``x``."""
    axis.axhline(CHANCE, color="black", lw=1, ls="--")
    axis.annotate("chance", (x, CHANCE), (0, above), textcoords="offset points", fontsize=9, **look)


def growth_figure() -> Illustration:
    """Accuracy on each split's own unseen classes beside that on the same ten: draws, their mean and range.

    Raises:
        ResultsError: nothing is stored.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.3), sharey=True)
    _draws_and_mean(left, "acc_5w1s", plotting.UNSEEN, "Each split's own unseen classes")
    _draws_and_mean(right, "acc_5w1s_common", plotting.PURPLE, "The same ten classes for every split")
    _chance(left, 10, 4)
    right.axhline(CHANCE, color="black", lw=1, ls="--")
    left.set_ylabel("5-way 1-shot accuracy (%)")
    told = "○ draw 0   □ draw 1   △ draw 2   line: their mean"
    left.text(0.03, 0.93, told, transform=left.transAxes, fontsize=10, color=plotting.GREY)
    figure.tight_layout()
    alt = (
        "Left: five-way one-shot accuracy on each split's own unseen classes, one marker a class draw, with their mean "
        "and range. Right: the same networks on the ten classes that none of a draw's splits learns. Both rise with "
        "the number of classes learned."
    )
    return Illustration(figure, "04_growth", alt)


def _draws_and_mean(axis: Axes, metric: str, colour: str, title: str) -> None:
    look = {"color": colour, "alpha": 0.6, "ms": 6, "mfc": "none", "mew": 1.6}
    for draw, part in rows_of(metric).sort_values("learned").groupby("draw"):
        axis.plot(part.learned, part.value, _MARKERS[int(draw) % len(_MARKERS)], **look)
    table = over_draws(metric)
    axis.plot(table.learned, table["mean"], "-", color=colour, lw=2)
    axis.fill_between(table.learned, table.low, table.high, color=colour, alpha=0.15, lw=0)
    axis.set(title=title, xlabel="classes learned", xticks=range(10, 100, 10), ylim=(15, 90))


def two_recipes_figure() -> Illustration:
    """The report's curve and a longer training's, on each split's own unseen classes and on the same ten; draw means.

    Raises:
        ResultsError: nothing is stored, or no split of the longer training.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.3), sharey=True)
    told = []
    for axis, (metric, classes) in zip(axes, CURVES.items(), strict=True):
        both = of_one_curve(both_recipes(metric))
        curve = of_one_curve(rows_of(metric).query("draw in @both.draw")).groupby("learned").value.mean()
        axis.plot(curve.index, curve, "o-", color=plotting.UNSEEN, ms=4, lw=2)
        means = both.groupby("learned")[["longer", "gain"]].mean()
        # No full line over splits that are not stored.
        axis.plot(means.index, means.longer, ":", color=plotting.GREEN, lw=1.2)
        every_split = means.longer.reindex(range(10, 100, 10))
        axis.plot(every_split.index, every_split, "D-", color=plotting.GREEN, ms=7, lw=2)
        for learned, row in means.iterrows():
            look = {"color": plotting.GREEN, "fontweight": "bold", "fontsize": 10}
            over = (0, 9 if row.gain >= 0 else -19)
            axis.annotate(signed(row.gain), (learned, row.longer), over, **_ABOVE, **look)
        axis.set(
            title=f"{classes[0].upper()}{classes[1:]}",
            xlabel="classes learned",
            xticks=range(10, 100, 10),
            ylim=(15, 92),
        )
        axis.set_xlim(0, 101)
        _chance(axis, 10, 4)
        points = ", ".join(f"{signed(row.gain)} at {learned}" for learned, row in means.iterrows())
        draws = ", ".join(map(str, sorted(both.draw.unique())))
        told.append(f"on {classes} (class draw {draws}) {points}")
    axes[0].set_ylabel("5-way 1-shot accuracy (%)")
    bold = {"transform": axes[0].transAxes, "fontweight": "bold"}
    axes[0].text(0.03, 0.93, f"{LONGER}, and points gained", color=plotting.GREEN, **bold)
    axes[0].text(0.03, 0.86, f"the report's, {DEFAULT_RECIPE}", color=plotting.UNSEEN, **bold)
    figure.tight_layout()
    alt = (
        f"Five-way one-shot accuracy by number of classes learned, by the report's recipe and by {LONGER}. Points that "
        f"the longer training gains: {'; '.join(told)} classes learned."
    )
    return Illustration(figure, "04_two_recipes", alt)


def legacy_figure() -> Illustration:
    """The seed's few-shot metric by number of classes learned, beside the blind answer and a sound metric.

    Raises:
        ResultsError: nothing is stored.
    """
    table = legacy_table().frame
    learned = table.split.str.split("-").str[0].astype(int)
    lines = (
        ("always “different”", "always answering “different”", "--", "black"),
        ("seed, published", "seed's metric, as published", "s-", plotting.SEED),
        ("ours", "seed's metric, our network", "o-", plotting.ORANGE),
        ("ours, 5-way 1-shot", "5-way 1-shot, our network", "o-", plotting.UNSEEN),
    )
    figure, axis = plt.subplots(figsize=(9.5, 4.2))
    for column, _, style, colour in lines:
        known = table[column].notna()
        axis.plot(learned[known], table[column][known], style, color=colour, lw=1.5 if style == "--" else None)
    ends = sorted((table[column].dropna().iloc[-1], name, colour) for column, name, _, colour in lines)
    heights: list[float] = []
    look = {"textcoords": "offset points", "va": "center", "fontweight": "bold"}
    for value, name, colour in ends:
        heights.append(max([value, *(height + 6 for height in heights[-1:])]))
        axis.annotate(name, (learned.iloc[-1], heights[-1]), (9, 0), color=colour, **look)
    axis.set(
        xlabel="classes learned",
        ylabel="percent",
        ylim=(30, 104),
        xlim=(6, 127),
        xticks=learned,
        title="The seed's metric rises towards a blind answer that falls",
    )
    figure.tight_layout()
    first, last = table.iloc[0], table.iloc[-1]
    alt = (
        f"Over the splits the seed's published metric rises from {first['seed, published']:.0f} to "
        f"{last['seed, published']:.0f} percent while the score of always answering different falls from "
        f"{first['always “different”']:.0f} to {last['always “different”']:.0f} and stays above it throughout. "
        "Five-way one-shot accuracy of our networks starts level with it and ends below it."
    )
    return Illustration(figure, "04_legacy_metric", alt)


def relatives_figure() -> Illustration:
    """Single unseen classes against the number of classes of their superclass that were learned.

    Raises:
        ResultsError: nothing is stored.
    """
    by_class = stored_class_accuracies()
    relative = by_class.value - by_class.groupby(["draw", "split"]).value.transform("mean")
    groups = relative.groupby(by_class.relatives).agg(["mean", "std", "count"])
    half = 1.96 * groups["std"] / groups["count"] ** 0.5
    figure, axis = plt.subplots(figsize=(8.5, 3.8))
    jitter = np.random.default_rng(0).uniform(-0.18, 0.18, len(by_class))
    axis.scatter(by_class.relatives + jitter, relative, s=9, color=plotting.SKY, alpha=0.5, lw=0)
    axis.errorbar(groups.index, groups["mean"], half, fmt="o", color=plotting.BLUE, capsize=4, ms=7, lw=2)
    look = {"textcoords": "offset points", "color": plotting.BLUE, "fontweight": "bold"}
    look["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}
    for row in groups.itertuples():
        axis.annotate(f"{row.mean:+.1f}", (row.Index, row.mean), (15, -4), **look)
    axis.axhline(0, color="black", lw=1, zorder=0)
    axis.set(
        xlim=(-0.5, 4.6),
        xlabel="relatives learned (classes of the same superclass)",
        ylabel="accuracy minus the\nsplit's mean (points)",
        xticks=range(5),
        title="One unseen class in one split: a dot",
    )
    figure.tight_layout()
    told = ", ".join(
        f"{row.mean:+.1f} points with {row.Index} relative{'s' * (row.Index != 1)}" for row in groups.itertuples()
    )
    alt = (
        "Accuracy of single unseen classes against the number of classes of their superclass that were learned, as "
        f"difference from the mean of their split: {told}."
    )
    return Illustration(figure, "04_relatives", alt)


def threshold_figure() -> Illustration:
    """Same and different pairs called right at the threshold from learned classes, of seen and of unseen classes.

    Raises:
        ResultsError: nothing is stored.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 4.2), sharey=True)
    for axis, part in zip(axes, ("seen", "unseen"), strict=True):
        for kind, colour, height in (("different", plotting.RED, 0.12), ("same", plotting.BLUE, 0.04)):
            values = over_draws(f"{kind}_right_{part}")
            axis.plot(values.learned, values["mean"], "o-", color=colour)
            axis.fill_between(values.learned, values.low, values.high, color=colour, alpha=0.15, lw=0)
            look = {"transform": axis.transAxes, "ha": "right", "color": colour, "fontweight": "bold"}
            axis.text(0.97, height, f"{kind} pairs", **look)
        axis.set(
            title=f"Test images of {part} classes",
            xlabel="classes learned",
            ylim=(45, 102),
            xticks=range(10, 101, 10),
            xlim=(5, 105),
        )
    axes[0].set_ylabel("pairs called right (%)")
    figure.tight_layout()
    alt = (
        "Share of same pairs and of different pairs called right at the threshold chosen on seen classes, for seen and "
        "for unseen test classes, against the number of classes learned; lines are means over class draws, bands their "
        "range."
    )
    return Illustration(figure, "04_threshold", alt)
