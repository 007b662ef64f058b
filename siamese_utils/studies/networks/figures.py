"""Figures of the comparison of encoders.

Where several seeds are stored, a marker is their mean, and its bar reaches from the lowest to the highest of them; the
95% interval within a run is added at both ends, and is all there is with one seed.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Bbox

from siamese_utils.errors import ResultsError
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.experiments.store import has_table
from siamese_utils.experiments.study import Study
from siamese_utils.studies.networks.findings import SOURCES, by_trial, family, rates, side_by_side
from siamese_utils.studies.networks.study import (
    DISTANCES,
    EMBEDDING_SIZE,
    ENCODERS_EQUAL_IMAGES,
    ENCODERS_EQUAL_TIME,
    EQUAL_IMAGES,
    EQUAL_MINUTES,
)

COLOURS = {
    "three convolutions": plotting.GREY,
    "ResNet-9": plotting.BLUE,
    "thin ResNet": plotting.ORANGE,
    "wide and slow": plotting.GREEN,
    "EfficientNet": plotting.RED,
    "other": plotting.GREY,
}
_STARTED = plotting.RED
_JOINED = ("ResNet-9", "thin ResNet")  # kinds whose members differ in one number, and are joined by a line


def _colour(encoder: str, pretrained: str) -> str:
    return _STARTED if pretrained else COLOURS[family(encoder)]


def _short(trial: str) -> str:
    """A trial's name as a label: ``resnet20-from-cifar10`` becomes ``resnet20 (CIFAR-10)``."""
    name, _, source = trial.partition("-from-")
    return f"{name} ({SOURCES[source]})" if source else name


def _single(study: Study) -> pd.DataFrame:
    """The accuracy of each run, without a mean."""
    table = study.table()
    return table[table.metric == "acc_5w1s"]


def _bars(table: pd.DataFrame) -> np.ndarray:
    """Lengths of the bars below and above the means; (2, N)."""
    return np.stack([table["mean"] - table.low + table.ci95, table.high - table["mean"] + table.ci95])


def speed_figure() -> Illustration:
    """Speed against accuracy: one panel for equal time, one for equal images, a marker an encoder."""
    speed = rates()
    panels = []
    for study, title in (
        (ENCODERS_EQUAL_TIME, f"Equal time: {EQUAL_MINUTES:g} minutes of one core"),
        (ENCODERS_EQUAL_IMAGES, f"Equal images: {EQUAL_IMAGES:,} each"),
    ):
        if has_table(study.path):
            panels.append((title, by_trial(study)))
    if not panels:
        raise ResultsError("Neither comparison of encoders is stored; run `python -m siamese_utils study NAME`.")
    figure, axes = plt.subplots(1, len(panels), figsize=(6.5 * len(panels), 5.4), sharey=True, squeeze=False)
    told = []
    for axis, (title, table) in zip(axes[0], panels, strict=True):
        table = table.assign(x=table.encoder.map(speed), kind=table.encoder.map(family)).dropna(subset=["x"])
        scratch = table[table.pretrained == ""]
        for kind in _JOINED:
            line = scratch[scratch.kind == kind].sort_values("x")
            axis.plot(line.x, line["mean"], "-", color=COLOURS[kind], lw=1.2, alpha=0.45, zorder=1)
        for row, bar in zip(table.itertuples(), _bars(table).T, strict=True):
            colour = _colour(row.encoder, row.pretrained)
            marker, inside = ("D", "white") if row.pretrained else ("o", colour)
            axis.errorbar(
                row.x, row.mean, bar[:, None], fmt=marker, ms=7, color=colour, mfc=inside, capsize=2, lw=1.4, zorder=3
            )
        axis.axhline(20, color="black", lw=1, ls="--")
        axis.set(xscale="log", title=title, xlabel="images learned a second, one core (more is faster)")
        axis.set_xlim(speed.min() / 1.7, speed.max() * 2.4)
        axis.xaxis.set_major_locator(FixedLocator([10, 20, 50, 100, 200, 500, 1000, 2000]))
        axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        order = scratch.sort_values("mean", ascending=False)
        told.append(f"{title}: " + ", ".join(f"{row.trial} {row.mean:.1f}" for row in order.itertuples()))
        started = table[table.pretrained != ""]
        if len(started):
            told[-1] += "; started from other data's weights " + ", ".join(
                f"{row.trial} {row.mean:.1f}" for row in started.itertuples()
            )
    values = pd.concat([table for _, table in panels])
    axes[0, 0].set_ylim(17, max(values.high) + 4)
    axes[0, 0].set_ylabel("5-way 1-shot accuracy on validation classes (%)")
    axes[0, 0].annotate(
        "chance",
        (0.99, 20),
        (0, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        fontsize=9,
    )
    if (values.pretrained != "").any():
        axes[0, 0].text(
            0.02,
            0.965,
            "◇ started from published weights: no one-shot result",
            fontsize=9,
            color=_STARTED,
            transform=axes[0, 0].transAxes,
        )
    figure.tight_layout()
    for axis, (_, table) in zip(axes[0], panels, strict=True):
        table = table.assign(x=table.encoder.map(speed)).dropna(subset=["x"])
        _label_points(
            axis,
            table.x.to_numpy(),
            table["mean"].to_numpy(),
            [_short(name) for name in table.trial],
            [_colour(row.encoder, row.pretrained) for row in table.itertuples()],
        )
    alt = "Five-way one-shot accuracy in percent against the speed of training, one marker an encoder. "
    return Illustration(figure, "02_speed_accuracy", alt + ". ".join(told) + ". Chance is 20.")


def _label_points(
    axis: Axes, x: np.ndarray, y: np.ndarray, labels: Sequence[str], colours: Sequence[str], size: float = 9
) -> None:
    """Write a name beside each point, on the side where it hides least of the other names and points."""
    renderer = axis.figure.canvas.get_renderer()  # type: ignore[attr-defined]
    spots = axis.transData.transform(np.stack([x, y], axis=1))
    taken = [Bbox.from_bounds(px - 6, py - 6, 12, 12) for px, py in spots]
    lines = []
    for line in axis.get_lines():
        path = axis.transData.transform(np.asarray(line.get_xydata(), dtype=float))
        if len(path) > 1 and line.get_linestyle() == "-":
            along = np.concatenate([np.linspace(a, b, 12) for a, b in itertools.pairwise(path)])
            lines += [Bbox.from_bounds(px - 2, py - 2, 4, 4) for px, py in along]
    inside = axis.get_window_extent(renderer)
    sides = [
        (8, 0, "left", "center"),
        (-8, 0, "right", "center"),
        (0, 9, "center", "bottom"),
        (0, -9, "center", "top"),
        (7, 7, "left", "bottom"),
        (7, -7, "left", "top"),
        (-7, 7, "right", "bottom"),
        (-7, -7, "right", "top"),
        (10, 16, "left", "bottom"),
        (10, -16, "left", "top"),
        (-10, 16, "right", "bottom"),
        (-10, -16, "right", "top"),
    ]
    for number in np.argsort(-y):
        found = []
        for rank, (dx, dy, ha, va) in enumerate(sides):
            text = axis.annotate(
                labels[number],
                (x[number], y[number]),
                (dx, dy),
                textcoords="offset points",
                ha=ha,
                va=va,
                fontsize=size,
                color=colours[number],
                fontweight="bold",
            )
            box = text.get_window_extent(renderer)
            others = [other for place, other in enumerate(taken) if place != number]
            # A thin line may run behind a name rather than the name stand far from its point.
            hidden = sum(_common_area(box, o) for o in others) + 0.3 * sum(_common_area(box, o) for o in lines)
            outside = box.width * box.height - _common_area(box, inside)
            found.append((hidden + 3 * outside + 0.5 * rank + (20 if rank >= 8 else 0), rank, text, box))
        best = min(found, key=lambda one: one[:2])
        for one in found:
            if one is not best:
                one[2].remove()
        taken.append(best[3])


def _common_area(one: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(one, other)
    return 0.0 if both is None else float(both.width * both.height)


def both_ways_figure() -> Illustration:
    """Equal time beside equal images: a row an encoder, with a dot for every seed."""
    table = side_by_side().sort_values("time").reset_index(drop=True)
    time, images = _single(ENCODERS_EQUAL_TIME), _single(ENCODERS_EQUAL_IMAGES)
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(table) + 1.6))
    for place, row in enumerate(table.itertuples()):
        axis.plot([row.images, row.time], [place, place], "-", color="#BBBBBB", lw=3, zorder=1, solid_capstyle="round")
    for runs, column, colour, offset in ((images, "images", plotting.ORANGE, -0.2), (time, "time", plotting.BLUE, 0.2)):
        axis.plot(table[column], table.index, "o", color=colour, ms=9, zorder=3)
        for place, encoder in enumerate(table.encoder):
            values = runs.value[runs.trial == encoder]
            axis.plot(values, [place + offset] * len(values), "|", color=colour, ms=7, mew=1.6, zorder=2)
    shown = by_trial(ENCODERS_EQUAL_TIME).set_index("trial").images
    for place, row in enumerate(table.itertuples()):
        axis.annotate(
            f"{shown[row.encoder] / 1000:,.0f}k",
            (1.01, place),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=plotting.BLUE,
        )
    axis.annotate(
        "images in\nthe time",
        (1.01, len(table) - 0.4),
        xycoords=("axes fraction", "data"),
        fontsize=9,
        color=plotting.BLUE,
    )
    axis.set(
        yticks=range(len(table)),
        yticklabels=table.encoder,
        ylim=(-0.6, len(table) - 0.4),
        xlabel="5-way 1-shot accuracy on validation classes (%); strokes are single seeds",
    )
    for place, side, text, colour in (
        (0, "left", f"{EQUAL_MINUTES:g} minutes of one core", plotting.BLUE),
        (1, "right", f"{EQUAL_IMAGES:,} images each", plotting.ORANGE),
    ):
        axis.text(place, 1.012, text, color=colour, fontweight="bold", ha=side, va="bottom", transform=axis.transAxes)
    axis.grid(axis="y", visible=False)
    figure.tight_layout()
    told = ", ".join(f"{row.encoder} {row.time:.1f} and {row.images:.1f}" for row in table[::-1].itertuples())
    return Illustration(
        figure,
        "02_time_and_images",
        "A row an encoder, with two dots: five-way one-shot accuracy in percent after equal time, after equal images. "
        f"From the top: {told}.",
    )


def size_figure() -> Illustration:
    """Accuracy against the size of the embedding, beside the features as they are."""
    table, runs = by_trial(EMBEDDING_SIZE), _single(EMBEDDING_SIZE)
    projected = table[table.trial != "features"].assign(size=lambda t: t.trial.astype(int)).sort_values("size")
    figure, axis = plt.subplots(figsize=(8, 4))
    axis.errorbar(
        projected["size"],
        projected["mean"],
        _bars(projected),
        fmt="o-",
        color=plotting.BLUE,
        ms=7,
        capsize=3,
        elinewidth=1.4,
    )
    for trial, values in runs[runs.trial != "features"].groupby("trial").value:
        axis.plot([int(trial) * 1.05] * len(values), values, "_", color=plotting.BLUE, alpha=0.7, ms=9)
    plain = table[table.trial == "features"]
    told = ", ".join(f"{row.size} dimensions {row.mean:.1f}" for row in projected.itertuples())
    if len(plain):
        row = plain.iloc[0]
        low, high = row.low - row.ci95, row.high + row.ci95
        axis.axhspan(low, high, color=plotting.ORANGE, alpha=0.25, lw=0)
        axis.axhline(row["mean"], color=plotting.ORANGE, lw=1.5)
        axis.annotate(
            "no projection: the 128 features",
            (0.01, high),
            (0, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            color=plotting.ORANGE,
            fontweight="bold",
        )
        axis.margins(y=0.14)  # room for the label
        told += f"; the features without a projection {row['mean']:.1f}"
    axis.set(
        xscale="log",
        xlabel="dimensions of the embedding",
        ylabel="5-way 1-shot accuracy (%)",
        title="How large must an embedding be? (resnet9-16)",
    )
    axis.xaxis.set_major_locator(FixedLocator(projected["size"].tolist()))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    figure.tight_layout()
    alt = f"Five-way one-shot accuracy in percent by size of the embedding: {told}."
    return Illustration(figure, "02_embedding_size", alt)


TRAINED_BY: dict[str, str] = {
    "cosine": "cosine, soft margin",
    "euclidean": "Euclidean, soft margin",
    "cosine-margin": "cosine, margin 0.2, semi-hard",
    "euclidean-margin": "Euclidean, margin 1, semi-hard",
    "recipe": "recipe: proxies and cosine triplets",
}
"""The trials of the study of distances in words."""

JUDGED_BY: dict[str, tuple[str, str, str]] = {
    "acc_5w1s_plain_euclidean": ("by Euclidean distance", plotting.RED, "s"),
    "acc_5w1s_plain_cosine": ("by cosine", plotting.BLUE, "o"),
    "acc_5w1s": ("by cosine, centred, mirror images averaged", plotting.GREEN, "D"),
}
"""The ways of judging in that study, with label, colour and marker."""


def distance_figure() -> Illustration:
    """What each distance of the training is worth, by each distance of the judgement."""
    tables = {metric: by_trial(DISTANCES, metric).set_index("trial") for metric in JUDGED_BY}
    trials = [trial for trial in TRAINED_BY if trial in tables["acc_5w1s"].index][::-1]
    figure, axis = plt.subplots(figsize=(9.5, 0.62 * len(trials) + 1.7))
    for number, (metric, (label, colour, marker)) in enumerate(JUDGED_BY.items()):
        rows = tables[metric].loc[trials]
        places = np.arange(len(rows)) + 0.17 * (number - 1)
        axis.errorbar(rows["mean"], places, xerr=_bars(rows), fmt=marker, color=colour, ms=7, capsize=2, lw=1.4)
        axis.annotate(
            f"judged {label}",
            (0, 1),
            (0, 8 + 17 * number),
            xycoords="axes fraction",
            textcoords="offset points",
            color=colour,
            fontweight="bold",
        )
    axis.set(
        yticks=range(len(trials)),
        yticklabels=[TRAINED_BY[trial] for trial in trials],
        ylim=(-0.6, len(trials) - 0.4),
        xlabel="5-way 1-shot accuracy on validation classes (%)",
    )
    axis.set_ylabel("trained by")
    axis.grid(axis="y", visible=False)
    figure.tight_layout()
    told = "; ".join(
        f"trained by {TRAINED_BY[trial]}: "
        + ", ".join(f"{tables[metric]['mean'][trial]:.1f} {label}" for metric, (label, _, _) in JUDGED_BY.items())
        for trial in trials[::-1]
    )
    return Illustration(figure, "02_distances", f"Five-way one-shot accuracy in percent, {told}.")
