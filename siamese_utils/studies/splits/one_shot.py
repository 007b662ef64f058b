"""Figures, tables and sentences of notebook 05: one encoder's answers about classes that it never saw.

``unseen`` are the test images of these classes and ``z`` their embeddings, float32 (M, D), rows of unit length.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.axes import Axes

from siamese_utils.data.cifar import CIFAR100_CLASSES
from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import Episodes, named_rng
from siamese_utils.evaluation.episodes import (
    FewShotPredictions,
    few_shot_accuracy,
    legacy_always_different,
    legacy_few_shot,
)
from siamese_utils.evaluation.estimates import Estimate, mean_estimate
from siamese_utils.evaluation.pairs import pair_accuracy
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration, Table
from siamese_utils.studies.exploration.findings import plain
from siamese_utils.studies.splits import findings
from siamese_utils.studies.splits.classes import class_effects, stored_class_accuracies
from siamese_utils.studies.splits.growth import common_classes

NEAR_AVERAGE = 10  # percentage points


# --- episodes -----------------------------------------------------------------------------------------------


def episode_answers(unseen: ImageSet, z: torch.Tensor, episode: Episodes) -> tuple[Illustration, str]:
    """One episode of five ways and one shot: every query with its answer, and how many are right."""
    labels, support = episode.classes[0].tolist(), episode.support[0, :, 0]
    names = [plain(unseen.class_names[label]) for label in labels]
    right = 0
    figure, axes = plt.subplots(5, 6, figsize=(8.2, 7.4))
    for own, (row, query) in enumerate(zip(axes, episode.query[0])):
        plotting.show_images(unseen.images[support[own : own + 1]], row[:1], titles=[names[own]])
        row[0].title.set(fontsize=11, fontweight="bold")
        similarity, answers = (part.tolist() for part in (z[query] @ z[support].T).max(dim=1))
        right += answers.count(own)
        titles = [f"{names[answer]} {value:.2f}" for answer, value in zip(answers, similarity)]
        frames = [plotting.GREEN if answer == own else plotting.RED for answer in answers]
        plotting.show_images(unseen.images[query], row[1:], titles=titles, colours=frames)
    head = {"fontweight": "bold", "ha": "center", "va": "top"}
    figure.text(0.13, 0.99, "support", **head)
    figure.text(0.58, 0.99, "queries: answer and similarity (red frame: wrong)", **head)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    alt = (
        "Five rows of images. The first image of each row is the support image of a class; the five others are "
        "queries of the same class with the network's answer and similarity above, framed in green where right and "
        "red where wrong."
    )
    asked = episode.query[0].numel()
    told = (
        f"**{right} of {asked}** queries of this episode are named right; with five classes, chance is "
        f"{asked // 5} of {asked}."
    )
    return Illustration(figure, "05_episode", alt), told


def episode_spread(accuracies: torch.Tensor) -> tuple[Illustration, str]:
    """How different five-way one-shot episodes are.

    Args:
        accuracies: float64 (E,), of each episode, between 0 and 1.
    """
    percent, mean = 100 * accuracies.numpy(), mean_estimate(accuracies)
    figure, axis = plt.subplots(figsize=(9, 3.4))
    edges = np.array([*(np.arange(0, 100, 4) - 0.01), 100.01])  # no accuracy lies on an edge, and none beyond the last
    axis.hist(percent, bins=edges, color=plotting.BLUE, alpha=0.8)
    top, episodes = axis.get_ylim()[1], f"{len(percent):,} five-way one-shot episodes"
    axis.set(
        ylim=(0, 1.12 * top), xlim=(0, 100), xlabel="accuracy of an episode (%)", ylabel="episodes", title=episodes
    )
    for x, y, text, colour in (
        (20, 0.9 * top, "chance", plotting.GREY),
        (mean.value, 1.04 * top, f"mean {mean} %", plotting.RED),
    ):
        axis.axvline(x, color=colour, lw=2)
        axis.annotate(text, (x, y), (6, 0), textcoords="offset points", color=colour, fontweight="bold")
    alt = (
        f"Histogram of the accuracy of {episodes}: a broad hill around the mean, nearly all of it above chance at 20 "
        "percent."
    )
    low, high = np.percentile(percent, [5, 95])
    told = (
        f"Nine in ten episodes lie between **{low:.0f}** and **{high:.0f}** percent; the mean is known to ± "
        f"{mean.ci95:.2f} all the same. **{(percent <= 20).sum()}** of the {len(percent):,} episodes are no better "
        "than chance."
    )
    return Illustration(figure, "05_episode_spread", alt), told


# --- every metric -------------------------------------------------------------------------------------------


def stored_metrics() -> tuple[Table, str]:
    """Every stored metric of 90-10 beside the seed's, and the accuracy with other classes left unseen."""
    draws = findings.swept().query("split == '90-10' and metric == 'acc_5w1s'").sort_values("draw")
    told = (
        "The interval says nothing about the choice of classes. With other classes left unseen, the same training "
        "reaches in 5-way 1-shot: "
        + ", ".join(f"{row.value:.1f} ± {row.ci95:.1f} (draw {row.draw})" for row in draws.itertuples())
        + "."
    )
    table = findings.comparison_table("90-10", 0)
    return Table(table, "CIFAR-100, split 90-10, draw 0: percent with 95% intervals"), told


def stored_values() -> pd.Series:
    """The stored value of each metric of 90-10, draw 0, percent."""
    table = findings.swept().query("split == '90-10' and draw == 0 and seed == 0")
    return table.set_index("metric").value


def metrics_table(metrics: Mapping[str, Estimate]) -> pd.DataFrame:
    """One row a metric: value, interval and size of the sample."""
    return pd.DataFrame(
        {"metric": key, "value (%)": each.value, "± 95%": each.ci95, "n": f"{each.n:,}"}
        for key, each in metrics.items()
    )


def legacy_metric(unseen: ImageSet, z: torch.Tensor) -> tuple[Illustration, str]:
    """The seed's metric and balanced pairs over the threshold, beside a program that always answers *different*."""
    thresholds = np.linspace(-0.4, 1.0, 29)
    legacy = [
        legacy_few_shot(z, unseen.labels, named_rng(0, "legacy"), threshold=t, supports=100).value for t in thresholds
    ]
    balanced = [pair_accuracy(z, unseen.labels, t, named_rng(0, "balanced"), 20_000).value for t in thresholds]
    blind = legacy_always_different(len(unseen.labels.unique()))
    figure, axis = plt.subplots(figsize=(9, 4))
    axis.plot(thresholds, legacy, color=plotting.ORANGE)
    axis.plot(thresholds, balanced, color=plotting.BLUE)
    axis.axhline(blind, color=plotting.GREY, lw=1.5, ls="--")
    axis.axvline(0.2, color=plotting.GREY, lw=1, ls=":")
    style = {"textcoords": "offset points", "fontweight": "bold"}
    axis.annotate(
        f"always answering “different”: {blind:.1f}", (1.0, blind), (0, 15), ha="right", color=plotting.GREY, **style
    )
    axis.annotate("the seed's metric", (thresholds[6], legacy[6]), (10, -8), color=plotting.ORANGE, **style)
    axis.annotate("balanced pairs", (thresholds[22], balanced[22]), (8, 6), color=plotting.BLUE, **style)
    axis.set(
        xlabel="similarity above which a pair is called “same” (dotted: the seed's 0.2)",
        ylabel="pairs called right (%)",
        ylim=(0, 102),
        title="The same network, two ways of counting pairs",
    )
    alt = (
        "Two curves over the threshold. The seed's metric climbs with the threshold to the level of always answering "
        "different, a dashed line, and barely passes it. The accuracy on balanced pairs peaks in the middle and falls "
        "to 50 percent at the right end."
    )
    at_02 = legacy_few_shot(z, unseen.labels, named_rng(0, "legacy_few_shot"), supports=1_000)
    told = (
        f"At the seed's threshold of 0.2 this network scores **{at_02}**; saying *different* blindly scores "
        f"**{blind:.1f}**; the best threshold of all gives the seed's metric {max(legacy):.1f}."
    )
    return Illustration(figure, "05_legacy_metric", alt), told


def ways_and_shots(unseen: ImageSet, z: torch.Tensor) -> tuple[Illustration, str]:
    """Accuracy by the number of classes to choose from, and by the number of examples."""
    labels = unseen.labels
    ways, shots = [n for n in (2, 3, 5, 7, 10) if n <= len(labels.unique())], [1, 2, 3, 5, 10, 20]
    by_ways = [few_shot_accuracy(z, labels, named_rng(0, f"{n} ways"), ways=n, episodes=4_000) for n in ways]
    by_shots = [few_shot_accuracy(z, labels, named_rng(0, f"{k} shots"), shots=k, episodes=4_000) for k in shots]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), sharey=True)
    _accuracies(left, ways, by_ways, "One shot, more ways", "classes to choose from (N)")
    _accuracies(right, shots, by_shots, "Five ways, more shots", "support images a class (K)")
    left.plot(ways, [100 / n for n in ways], "--", color=plotting.GREY)
    left.annotate(
        "chance",
        (ways[-1], 100 / ways[-1]),
        (0, -22),
        textcoords="offset points",
        ha="right",
        color=plotting.GREY,
        fontweight="bold",
    )
    left.set_ylabel("accuracy on unseen classes (%)")
    right.axhline(20, ls="--", color=plotting.GREY)
    figure.tight_layout()
    alt = (
        "Left: one-shot accuracy falls as the number of classes to choose from grows, staying far above chance. "
        "Right: five-way accuracy rises with the number of support images, steeply up to five and slowly after."
    )
    one, five, twenty = (by_shots[shots.index(k)].value for k in (1, 5, 20))
    told = (
        f"From one to five shots accuracy rises by **{five - one:.1f}** points, from five to twenty by only "
        f"**{twenty - five:.1f}**."
    )
    return Illustration(figure, "05_ways_shots", alt), told


def _accuracies(axis: Axes, x: Sequence[int], estimates: Sequence[Estimate], title: str, label: str) -> None:
    values, errors = [each.value for each in estimates], [each.ci95 for each in estimates]
    axis.errorbar(x, values, errors, fmt="o-", color=plotting.RED, capsize=3)
    for at, value in zip(x, values):
        axis.annotate(f"{value:.1f}", (at, value), (0, 8), textcoords="offset points", ha="center", fontsize=10)
    axis.set(title=title, xlabel=label, ylim=(0, 105), xscale="log")
    axis.set_xticks(x, [str(at) for at in x])
    axis.minorticks_off()


# --- all unseen classes at once -----------------------------------------------------------------------------


def surest_answers(unseen: ImageSet, task: FewShotPredictions) -> tuple[Illustration, str]:
    """The six surest right and the six surest wrong answers, each above the support image it was matched to."""
    order = task.margin.argsort(descending=True)
    figure, axes = plt.subplots(4, 6, figsize=(10.5, 8.2))
    for rows, right, colour in ((axes[:2], True, plotting.GREEN), (axes[2:], False, plotting.RED)):
        chosen = order[task.correct[order] == right][:6]
        true, called = _names(unseen, task.true[chosen]), _names(unseen, task.predicted[chosen])
        titles = [f"{name}\nlead {lead:.2f}" for name, lead in zip(true, task.margin[chosen])]
        matched = task.support[torch.searchsorted(task.classes, task.predicted[chosen]), 0]
        plotting.show_images(unseen.images[task.query[chosen]], rows[0], titles=titles, colours=[colour] * 6)
        plotting.show_images(
            unseen.images[matched], rows[1], titles=[f"called {name}:\nits support image" for name in called]
        )
    figure.tight_layout()
    alt = (
        "Four rows of six images: the six surest right answers with the support image each was matched to below it, "
        "then the six surest wrong answers with theirs."
    )
    mistakes = "; ".join(f"{name} called {answer}" for name, answer in zip(true, called))  # of the last rows
    told = (
        f"In this task **{task.correct.float().mean():.1%}** of {len(task.query)} queries are named right. The six "
        f"surest mistakes: {mistakes}."
    )
    return Illustration(figure, "05_surest_answers", alt), told


def _names(unseen: ImageSet, labels: torch.Tensor) -> list[str]:
    return [plain(unseen.class_names[label]) for label in labels.tolist()]


def confusion(unseen: ImageSet, classes: torch.Tensor, shares: torch.Tensor) -> tuple[Illustration, str]:
    """Which class is taken for which, the best recognised first.

    Args:
        unseen: gives the classes' names.
        classes: int64 (N,), labels.
        shares: float64 (N, N), row = true class, column = predicted class, rows adding up to 1.
    """
    order = np.argsort(-np.diag(shares.numpy()))
    names, percent = _names(unseen, classes[order]), 100 * shares.numpy()[np.ix_(order, order)]
    figure, axis = plt.subplots(figsize=(8.6, 7.2))
    axis.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axis.set_xticks(range(len(names)), names, rotation=45, ha="right")
    axis.set_yticks(range(len(names)), names)
    axis.grid(False)
    for (row, column), value in np.ndenumerate(percent):
        if len(names) <= 20:  # more would not be readable
            axis.text(
                column,
                row,
                f"{value:.0f}",
                ha="center",
                va="center",
                fontsize=10,
                color="white" if value > 55 else "black",
            )
    axis.set(xlabel="taken for", ylabel="true class", title="One-shot confusion among all unseen classes (% of a row)")
    figure.tight_layout()
    alt = (
        "Confusion matrix of the unseen classes, sorted by accuracy. The diagonal is strongest; the largest "
        "off-diagonal entries join classes that look alike."
    )
    wrong = percent - np.diag(np.diag(percent))
    true, called = np.unravel_index(wrong.argmax(), wrong.shape)
    told = (
        f"Easiest is **{names[0]}** ({percent[0, 0]:.0f}%), hardest **{names[-1]}** ({percent[-1, -1]:.0f}%). The most "
        f"frequent confusion: **{names[true]}** taken for **{names[called]}** ({wrong[true, called]:.0f}%)."
    )
    return Illustration(figure, "05_confusion", alt), told


def class_difficulty(unseen: ImageSet, classes: torch.Tensor, recalls: torch.Tensor) -> tuple[Illustration, str]:
    """How far apart the same class's results are with different support images.

    Args:
        unseen: gives the classes' names.
        classes: int64 (N,), labels.
        recalls: float64 (supports, N), share of a class's images named right with each support.
    """
    order = np.argsort(np.median(recalls.numpy(), axis=0))
    names, percent = _names(unseen, classes[order]), 100 * recalls.numpy()[:, order]
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(order) + 1.2))
    axis.boxplot(
        percent,
        orientation="horizontal",
        widths=0.6,
        whis=(5, 95),
        showfliers=False,
        patch_artist=True,
        boxprops={"facecolor": "#CFE3F3", "edgecolor": plotting.BLUE},
        medianprops={"color": plotting.RED, "lw": 2.5},
        whiskerprops={"color": plotting.BLUE},
        capprops={"color": plotting.BLUE},
    )
    axis.set_yticks(range(1, len(names) + 1), names)
    axis.axvline(100 / len(names), color=plotting.GREY, ls="--", lw=1)
    axis.annotate(
        "chance", (100 / len(names), 0.55), (4, 0), textcoords="offset points", fontsize=9, color=plotting.GREY
    )
    axis.set(
        xlabel="images of the class named right (%): median (red), middle half (box), 5th to 95th percentile",
        xlim=(0, 100),
        title=f"The same class with {len(percent)} different support images",
    )
    axis.grid(axis="y", visible=False)
    figure.tight_layout()
    alt = (
        f"One box a class: the share of its images named right over {len(percent)} random supports, sorted by median. "
        f"The hardest is {names[0]}, the easiest {names[-1]}."
    )
    told = (
        f"The standard deviation between supports of one class is **{percent.std(axis=0).mean():.1f}** points on "
        f"average, between the classes' means **{percent.mean(axis=0).std():.1f}**."
    )
    return Illustration(figure, "05_class_difficulty", alt), told


def all_classes() -> tuple[Illustration, str]:
    """The easiest and the hardest classes of CIFAR-100, over all splits and draws in which they are unseen."""
    by_class = stored_class_accuracies()
    labelled = class_effects(by_class)
    here = labelled.reindex(common_classes(0)).mean()
    effects = labelled.rename(index=lambda label: plain(CIFAR100_CLASSES[label]))
    ends = [f"{name} {value:+.0f}" for name, value in effects.items()]
    alt = (
        "Bars of the accuracy of single classes against the average class. Easiest: "
        f"{', '.join(ends[:-6:-1])} points; hardest: {', '.join(ends[:5])}."
    )
    (worst, low), (next_worst, next_low) = effects.iloc[:2].items()
    (next_best, next_high), (best, high) = effects.iloc[-2:].items()
    told = (
        f"{len(effects)} classes, {len(by_class):,} measurements. Easiest are **{best}** ({high:+.1f}) and "
        f"**{next_best}** ({next_high:+.1f}), hardest **{worst}** ({low:+.1f}) and **{next_worst}** ({next_low:+.1f}); "
        f"{effects.between(-NEAR_AVERAGE, NEAR_AVERAGE).mean():.0%} lie within {NEAR_AVERAGE} points of the average. "
        f"The unseen classes of this notebook are {here:+.1f} points against the average class."
    )
    figure, axis = plt.subplots(figsize=(9, 6.4))
    _effect_bars(axis, effects)
    figure.tight_layout()
    return Illustration(figure, "05_all_classes", alt), told


def _effect_bars(axis: Axes, effects: pd.Series, count: int = 12) -> None:
    """Bars of the ``count`` easiest and as many hardest classes, with a gap for those between."""
    shown = pd.concat([effects.tail(count)[::-1], effects.head(count)[::-1]])
    places = [*range(count), *range(count + 1, 2 * count + 1)]
    axis.barh(places, shown, color=[plotting.BLUE if value > 0 else plotting.RED for value in shown])
    for place, value in zip(places, shown):
        axis.annotate(
            f"{value:+.0f}",
            (value, place),
            (4 if value > 0 else -4, 0),
            textcoords="offset points",
            va="center",
            ha="left" if value > 0 else "right",
            fontsize=9,
        )
    axis.text(
        0,
        count,
        f"{len(effects) - 2 * count} classes between these",
        ha="center",
        va="center",
        fontsize=10,
        color=plotting.GREY,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
    )
    axis.set_yticks(places, shown.index, fontsize=10)
    axis.invert_yaxis()
    axis.axvline(0, color="black", lw=1)
    axis.set(
        xlabel="accuracy against the average class (percentage points, 5-way 1-shot)",
        title="The easiest and the hardest classes to recognise from one example",
        xlim=(1.18 * effects.min(), 1.18 * effects.max()),
    )
    axis.grid(axis="y", visible=False)


def task_map(unseen: ImageSet, flat: np.ndarray, task: FewShotPredictions) -> tuple[Illustration, str]:
    """Where the images of up to ten classes lie, with the support images of one task and what was named wrong.

    Args:
        unseen: the images.
        flat: float32 (M, 2), a place for each.
        task: a task of one shot over them.
    """
    classes, supports = task.classes[:10], flat[task.support[:10, 0]]
    names, labels = _names(unseen, classes), unseen.labels.numpy()
    wrong = np.isin(np.arange(len(flat)), task.query[~task.correct].numpy())
    middles = np.stack([np.median(flat[labels == label], axis=0) for label in classes.tolist()])
    figure, axis = plt.subplots(figsize=(9.5, 7.4))
    hidden = (np.abs(supports - middles) < np.ptp(flat, axis=0) * (0.07, 0.035)).all(axis=1)
    for number, colour in enumerate(sns.color_palette("colorblind", 10)[: len(names)]):
        of_class = labels == int(classes[number])
        axis.scatter(*flat[of_class & ~wrong].T, s=13, color=colour, alpha=0.75, lw=0)
        axis.scatter(*flat[of_class & wrong].T, s=22, color=colour, marker="x", lw=1.2)
        axis.scatter(*supports[number], s=330, color=colour, marker="*", edgecolor="black", lw=1, zorder=5)
        box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": colour, "lw": 2, "alpha": 0.9}
        axis.annotate(
            names[number],
            middles[number],
            (0, 0 if not hidden[number] else -26 if supports[number][1] > middles[number][1] else 26),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=10.5,
            fontweight="bold",
            zorder=6,
            bbox=box,
        )
    axis.set(xticks=[], yticks=[], title="Unseen classes: support images (stars), wrong answers (crosses)")
    figure.tight_layout()
    alt = (
        "Map of the embeddings of the unseen classes, one colour each with its name at its middle; stars mark the "
        "support images of one task, crosses the images named wrong, which gather between groups and around stars "
        "that lie far from the middle of their group."
    )
    away = np.linalg.norm(supports - middles, axis=1)
    recall = [100 * float(task.correct[task.true == label].float().mean()) for label in classes]
    far, near = int(away.argmax()), int(away.argmin())
    told = (
        f"The support image farthest from the middle of its group is that of **{names[far]}**, of which "
        f"{recall[far]:.0f}% are named right; the nearest is that of **{names[near]}**, with {recall[near]:.0f}%."
    )
    return Illustration(figure, "05_map", alt), told
