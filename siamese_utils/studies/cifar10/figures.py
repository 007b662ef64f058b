"""Figures of one tower and two on CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes

from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.experiments.seeds import Paired
from siamese_utils.studies.cifar10 import findings, pair_findings
from siamese_utils.studies.cifar10.findings import NAMES, SLIDES
from siamese_utils.studies.cifar10.study import OWN

_WAY_COLOURS = {"own ratio": plotting.RED, "equal updates": plotting.BLUE, "equal images": plotting.GREEN}


def gains_figure() -> Illustration:
    """The lead of two towers by share of the data, under three meanings of *equal*.

    Raises:
        ResultsError: nothing is stored.
    """
    table = findings.gains()
    table = table[table.training == "short"]
    shares = list(dict.fromkeys(table.share))
    figure, axis = plt.subplots(figsize=(9, 4.2))
    axis.axhline(0, color=plotting.GREY, lw=1)
    for offset, (way, colour) in zip((-0.22, 0, 0.22), _WAY_COLOURS.items(), strict=True):
        some = table[table.way == way].set_index("share")
        for place, share in enumerate(shares):
            if share in some.index:
                _points(axis, place + offset, some.single[share], some.lead[share], colour, findings.WAYS[way])
    for place, share in enumerate(shares):
        if share in SLIDES:
            lead = SLIDES[share].siamese - SLIDES[share].plain
            axis.plot(place - 0.22, lead, "D", color=plotting.SEED, ms=7, zorder=1, label="the slides (one run each)")
    axis.set_xticks(range(len(shares)), [f"{share}% of the images" for share in shares])
    axis.set(ylabel="points of accuracy", title="By how much two towers lead one, with …")
    handles = dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
    axis.legend(handles.values(), handles.keys(), loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=2)
    axis.margins(y=0.18)
    axis.set_xlim(-0.6, len(shares) - 0.4)
    figure.tight_layout()
    told = "; ".join(
        f"{share}% of the images: "
        + ", ".join(f"{row.lead} with {findings.WAYS[row.way]}" for row in table[table.share == share].itertuples())
        for share in shares
    )
    return Illustration(
        figure,
        "09_gain",
        f"By how many points of accuracy on CIFAR-10 a network of two towers leads one tower. {told}.",
    )


def _points(axis: Axes, x: float, single: Sequence[float], lead: Paired, colour: str, label: str) -> None:
    axis.plot([x] * len(single), single, "o", color=colour, alpha=0.35, ms=5, mew=0)
    axis.errorbar(x, lead.mean, lead.drawn, fmt="o", color=colour, ms=9, capsize=3, label=label)
    top = max(lead.mean + (lead.drawn or 0), *single)
    text = f"{lead.mean:+.1f}"
    axis.annotate(text, (x, top), (0, 7), textcoords="offset points", ha="center", fontsize=9, color=colour)


def parts_figure() -> Illustration:
    """What each control gains over one tower, with all images.

    Raises:
        ResultsError: the two networks of the question are not stored.
    """
    table = findings.parts()
    figure, axis = plt.subplots(figsize=(9, 0.55 * len(table) + 1.4))
    last = OWN[100][1]
    labels = []
    for place, row in enumerate(table.itertuples()):
        colour = plotting.RED if row.system == "siamese" else plotting.BLUE
        half = row.gain.drawn
        axis.barh(place, row.gain.mean, color=colour, alpha=0.75, height=0.6, xerr=half, capsize=3)
        axis.plot(row.single, [place] * len(row.single), "o", color="black", ms=4, alpha=0.6)
        axis.annotate(
            f"{row.accuracy.mean:.1f}%",
            (max(row.gain.mean + (half or 0), *row.single, 0), place),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontweight="bold",
            color=colour,
        )
        labels.append(f"{NAMES[row.system]}\n{row.parameters:,} parameters, {row.updates:,} updates")
    axis.set_yticks(range(len(table)), labels, fontsize=9)
    axis.invert_yaxis()
    axis.axvline(table.gain.iloc[-1].mean, color=plotting.RED, lw=1, ls="--")
    axis.set(xlabel="points over one tower with half the updates", title="What of the lead is left, control by control")
    axis.margins(x=0.14)
    figure.tight_layout()
    told = ", ".join(
        f"{NAMES[row.system]} with {row.updates:,} updates {row.accuracy.mean:.1f} percent"
        for row in table.itertuples()
    )
    return Illustration(
        figure,
        "09_parts",
        f"Accuracy on CIFAR-10's test images after up to {last:,} updates with all training images: {told}.",
    )


def confusion_figure() -> Illustration:
    """Which class is taken for which, by one tower and by two.

    Raises:
        ResultsError: one of them is not stored.
    """
    figure, axes = plt.subplots(1, 2, figsize=(11, 5.4), sharey=True)
    told = []
    for axis, name in zip(axes, ("plain", "siamese"), strict=True):
        counts = findings.confusion(name)
        percent = 100 * counts.div(counts.sum(axis=1), axis=0)
        sns.heatmap(percent, ax=axis, cmap="Blues", vmin=0, vmax=100, square=True, cbar=False, annot=True, fmt=".0f")
        axis.set(title=NAMES[name], xlabel="named (% of a row)", ylabel="true class" if axis is axes[0] else "")
        plt.setp(axis.get_xticklabels(), rotation=45, ha="right")
        wrong = percent.where(~np.eye(len(percent), dtype=bool)).stack()
        shown, taken = wrong.idxmax()
        told.append(f"{NAMES[name]} most often takes a {shown} for a {taken}, {wrong.max():.0f} percent")
    figure.tight_layout()
    return Illustration(
        figure,
        "09_confusion",
        f"Percent of the test images of each class that are given each name, after {OWN[100][1]:,} updates, over all "
        f"stored seeds: {'; '.join(told)}.",
    )


def pairs_figure() -> Illustration:
    """Precision by recall for pairs of which one in ten is of one class.

    Raises:
        ResultsError: nothing is stored.
    """
    table, points = pair_findings.curves(), pair_findings.points()
    figure, axis = plt.subplots(figsize=(9, 4.6))
    colours = (plotting.BLUE, plotting.RED, plotting.PURPLE, plotting.GREEN, plotting.ORANGE)
    for colour, way in zip(colours, table.columns, strict=False):
        axis.plot(table.index, table[way], "-", color=colour, label=way)
    for row in points.itertuples():
        colour = plotting.RED if row.way.startswith("two") else plotting.BLUE
        axis.plot(row.recall, row.precision, "*", ms=14, color=colour, mec="white", label=row.way)
    axis.axhline(100 * pair_findings.SAME_SHARE, color=plotting.GREY, ls="--", lw=1.5)
    axis.annotate("guessing", (table.index[0], 100 * pair_findings.SAME_SHARE), (0, 4), textcoords="offset points")
    axis.set(
        xlabel="pairs of one class that are found (recall, %)",
        ylabel="pairs found that are right (precision, %)",
        ylim=(0, 100),
        title="Are two images of one class? One pair in ten is",
    )
    axis.legend(fontsize=9)
    figure.tight_layout()
    half = table.index[len(table) // 2]
    told = ", ".join(f"{way} {table.loc[half, way]:.0f} percent" for way in table.columns)
    return Illustration(
        figure,
        "09_pairs",
        f"Precision against recall for pairs of CIFAR-10's test images, one in ten of one class. Precision at {half} "
        f"percent recall: {told}; guessing has {100 * pair_findings.SAME_SHARE:.0f}.",
    )


def new_classes_figure() -> Illustration:
    """Area under the curve for pairs of learned classes and of classes never learned.

    Raises:
        ResultsError: nothing is stored.
    """
    table = pair_findings.new_classes()
    table = table[table.metric == "auc"]
    ways = [way for way in pair_findings.WAYS.values() if way in set(table.way)]
    figure, axis = plt.subplots(figsize=(9, 0.5 * len(ways) + 1.6))
    for place, way in enumerate(ways):
        some = table[table.way == way]
        for values, colour, label in (
            (some.learned, plotting.SEEN, "classes that were learned"),
            (some.new, plotting.UNSEEN, "classes never learned"),
        ):
            axis.plot(values, [place] * len(values), "o", color=colour, alpha=0.35, ms=5, mew=0)
            axis.plot(values.mean(), place, "o", color=colour, ms=9, label=label if not place else None)
            look = {"textcoords": "offset points", "ha": "center", "fontsize": 9, "color": colour}
            axis.annotate(f"{values.mean():.0f}", (values.mean(), place), (0, 7), **look)
    axis.axvline(50, color=plotting.GREY, ls="--", lw=1.5)
    axis.set_yticks(range(len(ways)), ways)
    axis.set_ylim(len(ways) - 0.4, -0.7)
    axis.set(
        xlabel="area under the ROC curve (%), 50 is guessing", title="Same or different, for classes learned and not"
    )
    axis.legend(loc="upper center", bbox_to_anchor=(0.4, -0.6 / (0.5 * len(ways) + 0.5)), ncols=2)
    figure.tight_layout()
    means = table.groupby("way")[["learned", "new"]].mean()
    told = ", ".join(f"{way} {means.learned[way]:.0f} and {means.new[way]:.0f}" for way in ways)
    return Illustration(
        figure,
        "09_new_classes",
        f"Area under the ROC curve for pairs of classes that were learned and of two that were not, percent: {told}.",
    )
