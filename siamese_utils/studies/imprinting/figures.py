"""Drawings of what the study of imprinted weights found."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes

from siamese_utils.data.images import ImageSet
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.exploration.findings import plain
from siamese_utils.studies.imprinting.findings import (
    AT_ONCE,
    ONE_POINT,
    SHOTS,
    ByClass,
    Numbers,
    for_points,
    heading,
    moved_summary,
    price_of,
    seed_imprinting,
    stored_curves,
)
from siamese_utils.studies.imprinting.study import IMPRINTING_MOVED


def one_class(
    test_set: ImageSet, label: int, shots: torch.Tensor, before: torch.Tensor, after: torch.Tensor, lost: float
) -> Sequence[Illustration | str]:
    """Shots of a class, and its test images with their names before and after it was added; and a sentence on these.

    Args:
        test_set: test images of all classes.
        label: the class.
        shots: uint8 (5, H, W, 3).
        before: int64 (N,), the class that each test image of the class was taken for.
        after: the same afterwards.
        lost: points of accuracy on test images of the old classes.
    """
    names, queries = [plain(name) for name in test_set.class_names], test_set.images[test_set.indices_of([label])]
    figure, axes = plt.subplots(3, 8, figsize=(11, 5.4))
    plotting.show_images(shots, axes[0, :5], [f"shot {number + 1}" for number in range(5)])
    for axis in axes[0, 5:]:
        axis.axis("off")
    right = after == label
    titles = [f"{names[b]}\n→ {names[a]}" for b, a in zip(before.tolist(), after.tolist(), strict=True)]
    colours = [plotting.GREEN if r else plotting.RED for r in right[:16]]
    plotting.show_images(queries[:16], axes[1:].ravel(), titles[:16], colours)
    title = f"Five shots of “{names[label]}”, and its first 16 test images: the name before → after"
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    figure.tight_layout()
    alt = (
        f"Five training images of the class {names[label]}, and below its first sixteen test images with the name that "
        "the classifier gave them before and after the class was imprinted; "
        f"{int(right[:16].sum())} of 16 are named {names[label]} afterwards."
    )
    first, second, third = (names[k] for k in torch.bincount(before, minlength=3).argsort(descending=True)[:3].tolist())
    return Illustration(figure, "06_one_class", alt), (
        f"Before, its {len(queries)} test images were taken mostly for *{first}*, *{second}* and *{third}*. "
        f"After five shots {100 * float(right.float().mean()):.0f}% of them are named right, for {lost:.1f} points of "
        "accuracy on the old classes' test images."
    )


_LINES = (
    ("whitened", "budget", "whitened, within budget", plotting.BLUE, "-"),
    ("fine-tuned", "budget", "fine-tuned, within budget", plotting.GREEN, "-"),
    ("random", "budget", "random start, within budget", plotting.RED, "-"),
    ("imprinted", "budget", "imprinted, within budget", plotting.PURPLE, "-"),
    ("imprinted", "none", "imprinted, as it is", plotting.PURPLE, ":"),
)


def by_shots() -> Illustration:
    """Accuracy on one added class against the number of shots."""
    numbers, seed = Numbers.stored(), seed_imprinting().set_index(["method", "shots"])
    figure, axis = plt.subplots(figsize=(9.5, 5))
    x, ends = np.arange(len(SHOTS)), []
    for method, bias, name, colour, style in _LINES:
        rows = [numbers.row(method, k, bias=bias) for k in SHOTS]
        values, half = [row.value for row in rows], [row.ci95 for row in rows]
        axis.errorbar(x, values, half, fmt=style, marker="o", color=colour, capsize=3)
        ends.append((values[-1], name, colour))
    axis.plot(x, [seed.value["imprinted", k] for k in SHOTS], "s--", color=plotting.GREY, lw=1.2)
    ends.append((seed.value["imprinted", SHOTS[-1]], "seed project, imprinted", plotting.GREY))
    bound = numbers.value("joint", numbers.everything, bias="budget")
    axis.hlines(bound, -0.2, x[-1], color="black", lw=1, ls="--")
    text = f"all {numbers.everything} images of the class: {bound:.1f}"
    axis.annotate(text, (0, bound), (0, 4), textcoords="offset points", fontsize=10)
    _name_ends(axis, x[-1], ends)
    axis.set(
        xticks=x,
        xticklabels=SHOTS,
        xlabel="shots of the new class",
        ylabel="accuracy on the new class (%)",
        ylim=(0, 100),
        xlim=(-0.2, len(x) + 0.35),
        title="One class added to 40: how often its test images are named right",
    )
    figure.tight_layout()
    within = ", ".join(f"{numbers.value('whitened', k, bias='budget'):.0f} percent at {k}" for k in SHOTS)
    as_it_is = ", ".join(f"{numbers.value('imprinted', k):.0f}" for k in SHOTS)
    return Illustration(
        figure,
        "06_shots",
        (
            f"Accuracy on a class added to forty against the number of shots: whitened within budget {within}; "
            f"imprinted as it is {as_it_is}."
        ),
    )


def _name_ends(axis: Axes, x: float, ends: Sequence[tuple[float, str, str]]) -> None:
    """Write names beside the ends of lines, moved up where they would overlap."""
    last = -np.inf
    for height, name, colour in sorted(ends):
        last = max(height, last + 4.2)
        axis.annotate(
            name, (x, last), (10, 0), textcoords="offset points", va="center", color=colour, fontweight="bold"
        )


def bargain() -> Illustration:
    """Accuracy on the new class against old accuracy given up, one panel for each number of shots.

    Where the seed project's accuracy after fine-tuning lies, a ring on the curve tells what it would cost.
    """
    curves, seed = stored_curves(), seed_imprinting().set_index(["method", "shots"]).value
    figure, axes = plt.subplots(1, len(SHOTS), figsize=(12.5, 4), sharey=True)
    colours = {"whitened": plotting.BLUE, "fine-tuned": plotting.GREEN, "imprinted": plotting.PURPLE}
    ringed = []
    for axis, k in zip(axes, SHOTS, strict=True):
        of_one = curves[(curves.added == 1) & (curves.shots == k) & (curves.loss <= 8)]
        for method in ("imprinted", "fine-tuned", "whitened"):
            part = of_one[of_one.method == method]
            axis.plot(part.loss, part.value, "-", color=colours[method])
            low, high = part.value - part.ci95, part.value + part.ci95
            axis.fill_between(part.loss, low, high, color=colours[method], alpha=0.12, lw=0)
        asked = seed["fine-tuned", k]
        price = price_of(asked, k)
        if price <= 8:
            axis.plot([0, price], [asked, asked], ":", color=plotting.GREY)
            axis.plot(price, asked, "o", color=plotting.GREY, mfc="white", zorder=5)
            ringed.append(f"{asked:.0f} percent with {k} for {price:.1f} points")
            text = f"{asked:.0f}% for\n{price:.1f} points"
            axis.annotate(text, (price, asked), (5, -8), textcoords="offset points", color=plotting.GREY, va="top")
        axis.set(title=heading(k), xlabel="old accuracy lost (points)", ylim=(0, 100), xlim=(0, 8))
    axes[0].set_ylabel("accuracy on the new class (%)")
    for height, (name, colour) in zip((0.93, 0.86, 0.79), colours.items(), strict=True):
        axes[0].text(0.04, height, name, transform=axes[0].transAxes, color=colour, fontweight="bold")
    figure.tight_layout()
    prices = ", ".join(f"{for_points(1.0, k):.0f} percent with {k}" for k in SHOTS)
    return Illustration(
        figure,
        "06_bargain",
        (
            "Accuracy on the new class against points of old accuracy given up, one panel for each number of shots. "
            f"Whitened, at one point lost: {prices}. Rings mark where the seed project's accuracy after fine-tuning "
            f"lies on the curves: {', '.join(ringed) or 'nowhere within them'}."
        ),
    )


def many() -> Illustration:
    """The same curves for several classes at once."""
    curves, numbers = stored_curves(), Numbers.stored()
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True)
    for axis, added in zip(axes, AT_ONCE, strict=True):
        for k, colour in zip(SHOTS, (plotting.SKY, plotting.BLUE, plotting.ORANGE, plotting.RED), strict=True):
            part = curves[(curves.method == "whitened") & (curves.added == added) & (curves.shots == k)]
            part = part[part.value > 0]
            axis.plot(part.loss, part.value, "-", color=colour)
            axis.annotate(
                f"{k}",
                (part.loss.iloc[-1], part.value.iloc[-1]),
                (5, {10: -3, 20: 4}.get(k, 0)),
                textcoords="offset points",
                color=colour,
                fontweight="bold",
                va="center",
            )
            lost = numbers.base().value - numbers.value("whitened", k, "old_acc", added)
            axis.plot(lost, numbers.value("whitened", k, added=added), "o", color=colour)
        title = f"{added} classes added to 40"
        axis.set(title=title, xlabel="old accuracy lost (points)", xlim=(0, 44), ylim=(0, 80))
    axes[0].set_ylabel("accuracy on the new classes (%)")
    text = "number of shots at the end of each line;\ndot: scores as they are"
    axes[1].text(0.03, 0.92, text, transform=axes[1].transAxes, fontsize=10, color=plotting.GREY, va="top")
    figure.tight_layout()
    return Illustration(
        figure,
        "06_many",
        (
            "Accuracy on ten and on sixty classes added at once against old accuracy lost, one line for each number of "
            "shots; a dot marks scores as they are. More shots lift the whole line; sixty classes lie far below ten."
        ),
    )


def classes() -> Illustration:
    """Accuracy of every novel class, and against the cosine to the nearest old one."""
    found = ByClass.stored()
    part, closest = found.rows, found.cosine
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 9.5), width_ratios=(1.55, 1))
    y = np.arange(len(part))
    left.errorbar(part.value, y, xerr=part.ci95, fmt="o", color=plotting.BLUE, ms=4, lw=1.2)
    left.set(
        yticks=y,
        ylim=(-1, len(part)),
        xlim=(0, 103),
        xlabel="accuracy on the class, 5 shots, within budget (%)",
        title="Sixty classes, and the old class nearest to each",
    )
    left.set_yticklabels([plain(name) for name in part.index], fontsize=8)
    for row, name in enumerate(part.index):
        left.annotate(
            plain(found.nearest[name]),
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=7.5,
            va="center",
            color=plotting.GREY,
        )
    right.scatter(closest, part.value, s=22, color=plotting.BLUE)
    for name in dict.fromkeys([*part.index[-3:], *closest.sort_values().index[-5:]]):
        where = (closest[name], part.value[name])
        at, side = ((2, -12), "right") if where[0] > 0.9 else ((5, 3), "left")  # or the name would leave the axes
        right.annotate(plain(name), where, at, textcoords="offset points", fontsize=8, ha=side)
    right.set(
        xlim=(None, 1.03),
        xlabel="cosine to the nearest old class",
        ylabel="accuracy on the class (%)",
        ylim=(0, 103),
        title="The nearer, the harder?",
    )
    figure.tight_layout(w_pad=5)
    return Illustration(
        figure,
        "06_classes",
        (
            f"Left: accuracy of each of sixty novel classes with five shots, from {plain(part.index[0])} with "
            f"{part.value.iloc[0]:.0f} percent to {plain(part.index[-1])} with {part.value.iloc[-1]:.0f}. Right: "
            f"accuracy against the cosine to the nearest old class, correlation {found.correlation:.2f}."
        ),
    )


def moving() -> Illustration:
    """Accuracy for one point of old accuracy with an encoder that moves and one that stays, and the difference."""
    summary = moved_summary(IMPRINTING_MOVED.table())
    one_point, counts = summary[summary.metric == ONE_POINT], sorted(summary.shots.unique())
    by_method = {method: part.set_index("shots").loc[counts] for method, part in one_point.groupby("method")}
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6), width_ratios=(1.5, 1))
    _draw_moved(left, by_method)
    _draw_gain(right, by_method)
    for axis in (left, right):
        ticks = [*map(str, counts[:-1]), f"all {counts[-1]}"]
        axis.set(xticks=np.arange(len(counts)), xticklabels=ticks, xlabel="shots of the new class")
    figure.tight_layout()
    moved, stays, gain = (
        [f"{round(by_method[method].value[k]):{sign}d}" for k in counts]  # a whole number has no "-0"
        for method, sign in (("moved", ""), ("whitened", ""), ("moved - whitened", "+"))
    )
    return Illustration(
        figure,
        "06_moved",
        (
            "Left: accuracy on the new class for one point of old accuracy against the number of shots, with the last "
            "stage moved "
            + ", ".join(f"{value} percent with {k}" for value, k in zip(moved, counts, strict=True))
            + "; with the encoder as it is "
            + ", ".join(stays)
            + ". Right: the difference, "
            + ", ".join(f"{value} points with {k}" for value, k in zip(gain, counts, strict=True))
            + "."
        ),
    )


def _draw_moved(axis: Axes, by_method: dict[str, pd.DataFrame]) -> None:
    styles = (("moved", "the last stage moves", plotting.ORANGE), ("whitened", "the encoder stays", plotting.BLUE))
    bold = {"textcoords": "offset points", "fontweight": "bold"}
    for method, name, colour in styles:
        part = by_method[method]
        x = np.arange(len(part))
        axis.errorbar(x, part.value, part.ci95, fmt="-o", color=colour, capsize=3)
        axis.annotate(name, (x[-1], part.value.iloc[-1]), (10, 0), va="center", color=colour, **bold)
    seed = seed_imprinting().set_index(["method", "shots"]).value["fine-tuned"]
    axis.plot(x[: len(SHOTS)], [seed[k] for k in SHOTS], "s--", color=plotting.GREY, lw=1.2)
    axis.annotate("seed project, fine-tuned", (x[1], seed[SHOTS[1]]), (-4, 9), color=plotting.GREY, **bold)
    axis.set(
        ylabel="accuracy on the new class (%)",
        ylim=(0, 100),
        xlim=(-0.2, len(x) + 1.0),
        title="New class, for one point of old accuracy",
    )


def _draw_gain(axis: Axes, by_method: dict[str, pd.DataFrame]) -> None:
    styles = (
        ("moved - whitened", "over one that stays", plotting.BLUE, -0.08, 0.92),
        ("moved - old only", "over one tuned for old classes alone", plotting.PURPLE, 0.08, 0.85),
    )
    for method, name, colour, shift, height in styles:
        part = by_method[method]
        axis.errorbar(np.arange(len(part)) + shift, part.value, part.ci95, fmt="o", color=colour, capsize=3)
        axis.text(0.04, height, name, transform=axis.transAxes, color=colour, fontweight="bold")
    axis.axhline(0, color="black", lw=0.8)
    axis.set_ylim(top=26)
    axis.set(ylabel="points gained", title="What moving adds, run by run")
