"""Figures of triplet training, from live demonstrations, and of objectives side by side, from stored runs.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import ClassSplit
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.evaluation import pairs
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.objectives.demonstrations import flat_map, mined_gaps, toy_triplet_descent
from siamese_utils.studies.objectives.findings import (
    BATCH_HARD,
    MARGIN,
    PAIRS,
    PROXIES,
    SEMI_HARD,
    TRIPLETS,
    objective_results,
    sensitivity_results,
)

MINING_NAMES = {
    "random": "random",
    "batch_all": "all in the batch",
    "semi_hard": "semi-hard",
    "batch_hard": "batch-hard",
}
COLOURS = {PROXIES: plotting.ORANGE, TRIPLETS: plotting.BLUE, PAIRS: plotting.GREEN}
MINING_COLOURS = {SEMI_HARD: plotting.BLUE, BATCH_HARD: plotting.RED}
CHANCE = 20.0  # percent, five ways


def toy_figure() -> Illustration:
    """What a triplet loss does to free points in the plane."""
    path, labels, losses = toy_triplet_descent()
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), width_ratios=[1, 1, 1, 1.1])
    limit = np.abs(path).max() * 1.05
    shown = (0, 50, len(path) - 1)
    for axis, step in zip(axes, shown):
        for label, colour in enumerate((plotting.BLUE, plotting.ORANGE, plotting.GREEN)):
            axis.scatter(*path[step][labels == label].T, s=22, color=colour)
        axis.set(title=f"after {step} steps", xlim=(-limit, limit), ylim=(-limit, limit), xticks=[], yticks=[])
        axis.set_aspect("equal")
    axes[3].plot(losses, color=plotting.GREY)
    axes[3].set(title="mean loss of the\nviolating triplets", xlabel="step", ylim=(0, None))
    figure.tight_layout()
    return Illustration(
        figure,
        "03_toy_triplets",
        f"Four panels. {len(labels)} points of three colours lie mixed at first; after {shown[1]} steps of the triplet "
        "loss the colours have begun to part, at the end they form three separate clumps, and the loss has fallen.",
    )


def mining_figure(z: torch.Tensor, labels: torch.Tensor) -> tuple[Illustration, str]:
    """How hard the triplets are that each miner picks, with a sentence.

    Args:
        z: float32 (N, D), embeddings.
        labels: int64 (N,).
    """
    gaps = {kind: mined_gaps(z, labels, kind, batches=4) for kind in MINING_NAMES}
    figure, axes = plt.subplots(len(gaps), 1, figsize=(9, 5.2), sharex=True)
    wrong = {kind: 100 * (gap < 0).mean() for kind, gap in gaps.items()}
    for axis, (kind, title), colour in zip(axes, MINING_NAMES.items(), plotting.PALETTE):
        axis.hist(gaps[kind], bins=np.linspace(-1.1, 1.6, 109), density=True, color=colour)
        axis.axvspan(0, MARGIN, color=plotting.YELLOW, alpha=0.35, lw=0)
        axis.axvline(0, color="black", lw=1)
        axis.set(yticks=[], ylabel="")
        axis.grid(False)
        axis.set_title(f"{title}: {wrong[kind]:.0f}% in the wrong order", fontsize=11, color=colour)
    axes[-1].set_xlabel(
        f"d(anchor, negative) − d(anchor, positive)    (cosine distance; yellow: inside a margin of {MARGIN})"
    )
    figure.tight_layout()
    shown = Illustration(
        figure,
        "03_mining",
        "Four histograms of how much farther the negative is than the positive. Random triplets and all triplets of "
        "the batch are mostly well right of zero, that is easy; semi-hard triplets crowd just right of zero; "
        "batch-hard triplets lie mostly left of zero, that is in the wrong order.",
    )
    return shown, (
        f"The trained encoder has **{wrong['random']:.0f}%** of random triplets in the wrong order, and "
        f"**{wrong['batch_hard']:.0f}%** of batch-hard ones; of the others, those in the yellow band violate the "
        "margin. "
        "Drawing triplets at random therefore spends most of its forward passes on images that teach nothing any more; "
        "one batch with mining inside uses them all."
    )


def curves_figure(history: pd.DataFrame) -> tuple[Illustration, str]:
    """Loss, distances and violated triplets by epoch, with a sentence.

    Args:
        history: of a training by triplets, one row an epoch.
    """
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4))
    axes[0].plot(history.epoch, history.loss, "o-", color=plotting.BLUE)
    axes[0].set(title="Loss", xlabel="epoch")
    for name, column, colour, below in (
        ("other class", "distance_negative", plotting.RED, -16),
        ("same class", "distance_positive", plotting.BLUE, -20),
    ):
        axes[1].plot(history.epoch, history[column], "o-", color=colour)
        end = (history.epoch.iloc[-1], history[column].iloc[-1])
        look = {"ha": "right", "color": colour, "fontweight": "bold"}
        axes[1].annotate(name, end, (-4, below), textcoords="offset points", **look)
    axes[1].set(title="Mean cosine distance in the batch", xlabel="epoch", ylim=(0, None))
    axes[2].plot(history.epoch, 100 * history.active_share, "o-", color=plotting.GREEN)
    axes[2].set(title="Violated triplets (%)", xlabel="epoch", ylim=(0, None))
    figure.tight_layout()
    shown = Illustration(
        figure,
        "03_training_curves",
        "Three curves over the epochs: the loss falls; the mean distance to images of the same class falls below that "
        "to images of other classes; the share of violated triplets shrinks.",
    )
    seconds, passes = history.seconds.sum(), (history.seconds * history.images_per_second).sum()
    share = 100 * history.active_share
    return shown, (
        f"The run made **{passes:,.0f}** forward and backward passes in **{seconds / 60:.1f} minutes** "
        f"({passes / seconds:.0f} images a second). In the last epoch **{share.iloc[-1]:.1f}%** of the triplets were "
        f"still violated, in the first **{share.iloc[0]:.1f}%**."
    )


def similarity_figure(
    untrained: Encoder, trained: Encoder, test_set: ImageSet, split: ClassSplit
) -> tuple[Illustration, str]:
    """Cosine similarities of pairs before and after training, of seen and unseen classes, with a sentence."""
    parts = {"seen classes": test_set.indices_of(split.seen)[::3], "unseen classes": test_set.indices_of(split.unseen)}
    figure, axes = plt.subplots(2, 2, figsize=(11, 5.4), sharex=True)
    auc = {}
    for row, (title, encoder) in zip(axes, (("before training", untrained), ("after training", trained))):
        for axis, (part, positions) in zip(row, parts.items()):
            z, y = encoder.embed(test_set.images[positions]), test_set.labels[positions]
            same, different = pairs.sample_similarities(z, y, named_rng(0, "similarities"), 40_000)
            auc[title, part] = pairs.pair_auc(z, y, named_rng(0, "auc"))
            bins = np.linspace(-1, 1, 101)
            axis.hist(different, bins, density=True, color=plotting.RED, alpha=0.55)
            axis.hist(same, bins, density=True, color=plotting.BLUE, alpha=0.55)
            axis.set(yticks=[], title=f"{part}, {title}: AUC {auc[title, part]}")
            axis.title.set_fontsize(11)
    for axis in axes[1]:
        axis.set_xlabel("cosine similarity")
    height = axes[1, 0].get_ylim()[1] * 0.72
    axes[1, 0].text(-0.97, height, "different class", color=plotting.RED, fontweight="bold")
    axes[1, 0].text(0.42, height, "same class", color=plotting.BLUE, fontweight="bold")
    figure.tight_layout()
    shown = Illustration(
        figure,
        "03_similarities",
        "Four pairs of histograms of the cosine similarity of same-class and different-class pairs. Before training "
        "they overlap almost completely; after training they are clearly apart for seen classes and partly apart for "
        "unseen ones.",
    )
    before, after = auc["before training", "unseen classes"], auc["after training", "unseen classes"]
    seen = auc["after training", "seen classes"]
    return shown, (
        f"For unseen classes the area under the ROC curve rises from **{before}** to **{after}**; for seen classes it "
        f"ends at **{seen}** (percent, 95% interval over the test images; of seen classes every third). What was "
        f"learned on {len(split.seen)} "
        f"classes carries over: the gap to seen classes is {seen.value - after.value:.1f} points, and "
        f"{after.value - before.value:.1f} points were gained."
    )


def map_figure(encoder: Encoder, test_set: ImageSet, classes: Sequence[int]) -> Illustration:
    """Test images of up to ten classes, embedded and laid out in the plane."""
    positions = test_set.indices_of(classes)
    flat, labels = flat_map(encoder.embed(test_set.images[positions])), test_set.labels[positions]
    figure, axis = plt.subplots(figsize=(9, 7))
    for label, colour in zip(classes[:10], sns.color_palette("colorblind", 10)):
        points = flat[(labels == label).numpy()]
        axis.scatter(*points.T, s=14, color=colour, alpha=0.75)
        box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": colour, "lw": 2, "alpha": 0.9}
        look = {"ha": "center", "va": "center", "fontweight": "bold", "fontsize": 11, "color": "black", "bbox": box}
        axis.annotate(test_set.class_names[label].replace("_", " "), np.median(points, axis=0), **look)
    axis.set(xticks=[], yticks=[])
    axis.set_title("Test images of unseen classes, embedded and laid out in the plane")
    return Illustration(
        figure,
        "03_unseen_map",
        "A map of the embeddings of ten unseen classes, one colour each with its name at its middle. Most classes form "
        "a group of their own; related classes overlap.",
    )


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
        # Two digits: the third moves with the order in which a processor adds.
        told.append(f"{name}: spread from {rows.spread.iloc[0]:#.2g} to {rows.spread.iloc[-1]:#.2g}")
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
    """Accuracy of each stored objective, best at the top; objectives whose runs all collapsed stand at chance."""
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
    """Accuracy against the learning rate and against the margin; a cross at chance where every run collapsed."""
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
