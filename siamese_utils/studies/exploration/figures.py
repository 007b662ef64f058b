"""Figures of notebook 01: what the images look like, which of them occur twice, how they are divided and drawn."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import SubFigure

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import Episodes, Pairs, named_rng
from siamese_utils.data.splits import SPLIT_NAMES
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.exploration.findings import (
    NEAR_DUPLICATE,
    ChannelStatistics,
    Twins,
    classes_of,
    mean_images,
    plain,
    seen_matrix,
    superclass_labels,
)

CHANNELS = {"red": plotting.RED, "green": plotting.GREEN, "blue": plotting.BLUE}
COPIES = 0.995  # similarity from which on two images are equal but for rounding: nothing to see


# --- what there is ------------------------------------------------------------------------------------------


def samples(images: ImageSet) -> Illustration:
    """Three images of each class, a row a superclass."""
    rng = named_rng(0, "sample grid")
    figure, axes = plt.subplots(len(images.superclass_names), 1, figsize=(7.4, 17.4))
    for superclass, axis in enumerate(np.ravel(axes)):
        _sample_row(axis, images, superclass, rng)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1, hspace=0.5)
    alt = (
        "Three small images of each of the hundred classes with the class's name, a row for each of the twenty "
        "superclasses: animals, plants, food, household things, outdoor scenes, people and vehicles. Images of one "
        "class differ in pose, colour and background."
    )
    return Illustration(figure, "01_samples", alt)


def _sample_row(axis: Axes, images: ImageSet, superclass: int, rng: np.random.Generator) -> None:
    strips, left = [], 0
    for label in classes_of(images, superclass):
        chosen = rng.choice(images.indices_of([label]).numpy(), 3, replace=False)
        strip = plotting.image_grid(images.images[chosen], columns=3)
        axis.text(
            left + strip.shape[1] // 2,
            -3,
            plain(images.class_names[label]),
            ha="center",
            va="bottom",
            fontsize=6 if images.is_synthetic else 10,
        )
        strips += [strip, np.full((len(strip), 8, 3), 255, np.uint8)]
        left += strip.shape[1] + 8
    plotting.show_images(np.concatenate(strips[:-1], axis=1)[None], [axis])
    axis.annotate(
        plain(images.superclass_names[superclass]),
        (0, 1),
        (0, 17),
        xycoords="axes fraction",
        textcoords="offset points",
        fontsize=11,
        fontweight="bold",
        color=plotting.BLUE,
    )


def colour(images: ImageSet, statistics: ChannelStatistics) -> Illustration:
    """How often each value of each channel occurs, and the mean image of each superclass."""
    figure = plt.figure(figsize=(7.4, 11))
    above, below = figure.subfigures(2, 1, height_ratios=[1, 2])
    _channel_curves(above, statistics)
    _mean_images(below, images)
    alt = (
        "Above: the distributions of red, green and blue pixel values, broad and much alike, blue darkest on average. "
        "Below: the mean image of each of the twenty superclasses, soft blurs that differ mostly in brightness and a "
        "tint."
    )
    return Illustration(figure, "01_colour", alt)


def _channel_curves(figure: SubFigure, statistics: ChannelStatistics) -> None:
    axis = figure.subplots()
    for channel, (name, shade) in enumerate(CHANNELS.items()):
        share = 100 * statistics.histogram[channel] / statistics.histogram[channel].sum()
        axis.plot(np.arange(1, 255), share[1:255], color=shade)
        axis.annotate(
            f"{name}: {statistics.mean[channel]:.0f} ± {statistics.std[channel]:.0f}",
            (0.04, 0.9 - 0.1 * channel),
            xycoords="axes fraction",
            color=shade,
            fontweight="bold",
        )
    axis.set(
        title="Pixel values 1 to 254 (mean ± deviation)", xlabel="value", ylabel="share of pixels (%)", ylim=(0, None)
    )
    figure.subplots_adjust(top=0.94, bottom=0.14)


def _mean_images(figure: SubFigure, images: ImageSet) -> None:
    means = mean_images(images.images, superclass_labels(images), len(images.superclass_names))
    axes = figure.subplots(4, 5)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.96, bottom=0.01, wspace=0.1, hspace=0.38)
    titles = [textwrap.fill(plain(name), 17) for name in images.superclass_names]
    plotting.show_images(means.round().to(torch.uint8), axes, titles=titles)
    for axis in axes.ravel():
        axis.title.set_fontsize(9)


# --- images that occur twice --------------------------------------------------------------------------------


def similarity(train: ImageSet, test: ImageSet, twins: Twins) -> Illustration:
    """How similar test images are to their nearest training images, and how many of these pairs share their label.

    Args:
        train: training images.
        test: test images.
        twins: the training image most similar to each test image.
    """
    edges = np.arange(0.2, 1.001, 0.05)
    found, same = twins.similarity.clamp(0.2, 1).numpy(), (test.labels == train.labels[twins.position]).numpy()
    counts, agreeing = np.histogram(found, edges)[0], np.histogram(found[same], edges)[0]
    figure, (above, below) = plt.subplots(2, 1, figsize=(7.4, 5.6), sharex=True)
    above.bar(edges[:-1], counts, 0.046, align="edge", color=plotting.GREY)
    above.set(yscale="log", title="Test images, by similarity to the nearest training image", ylabel="test images")
    below.bar(edges[:-1], 100 * agreeing / np.maximum(counts, 1), 0.046, align="edge", color=plotting.BLUE)
    below.axhline(100 / train.num_classes, color="black", linestyle=":", linewidth=1.5)
    below.annotate("dotted: labels at random", (0.2, 0.85), xycoords=("data", "axes fraction"), fontsize=11)
    below.set(
        title="Pairs that share their label",
        ylabel="share (%)",
        ylim=(0, 104),
        xlabel="similarity (cosine of the edges; the first bar holds all below 0.25)",
    )
    for axis in (above, below):
        axis.axvline(NEAR_DUPLICATE, color=plotting.RED)
    above.annotate(
        "near-duplicates →",
        (NEAR_DUPLICATE, 0.88),
        (6, 0),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        color=plotting.RED,
        fontweight="bold",
        fontsize=12,
    )
    figure.tight_layout()
    alt = (
        "Above: most test images are only faintly similar to their nearest training image, with a long tail up to "
        "one. Below: the share of those pairs with the same label rises with the similarity and is almost complete "
        "above the threshold, a vertical line."
    )
    return Illustration(figure, "01_similarity", alt)


def twin_bands(train: ImageSet, test: ImageSet, twins: Twins) -> Illustration:
    """Test images above their most similar training images: clear copies, and pairs on both sides of the threshold.

    Args:
        train: training images.
        test: test images.
        twins: the training image most similar to each test image.
    """
    bands = _bands(twins.similarity)
    figure = plt.figure(figsize=(7.6, 3.2 * len(bands)))
    for part, (title, shown) in zip(np.atleast_1d(figure.subfigures(len(bands), 1)), bands.items()):
        lowest, highest = twins.similarity[shown].min(), twins.similarity[shown].max()
        part.suptitle(
            f"{title}: similarity {lowest:.3f} to {highest:.3f}",
            x=0.05,
            ha="left",
            fontsize=12,
            fontweight="bold",
            color=plotting.RED if title == "just below" else plotting.BLUE,
        )
        _twin_rows(part, train, test, twins, shown)
    alt = (
        "Test images above their most similar training images in three bands: clear near-duplicates, which are the "
        "same photograph cut, tinted or marked differently; pairs just above the threshold; and pairs just below it."
    )
    return Illustration(figure, "01_near_duplicates", alt)


def _bands(found: torch.Tensor) -> dict[str, torch.Tensor]:
    """Positions of up to six images a band, the most similar first; drawn images have no copies, so no such bands."""
    order = found.argsort(descending=True, stable=True)
    sure = order[(found[order] < COPIES) & (found[order] >= NEAR_DUPLICATE)]
    spread = np.linspace(0, max(len(sure) * 2 // 3 - 1, 0), min(len(sure), 6)).astype(int)
    bands = {"clear": sure[spread], "just above": sure[-6:], "just below": order[found[order] < NEAR_DUPLICATE][:6]}
    return {title: shown for title, shown in bands.items() if len(shown)}


def _twin_rows(figure: SubFigure, train: ImageSet, test: ImageSet, twins: Twins, shown: torch.Tensor) -> None:
    axes = figure.subplots(2, 6)
    figure.subplots_adjust(left=0.05, right=1, bottom=0.01, top=0.82, wspace=0.08, hspace=0.26)
    twin, mirrored = twins.position[shown], twins.mirrored[shown][:, None, None, None]
    there = torch.where(mirrored, train.images[twin].flip(2), train.images[twin])
    rows = {"test": (test.images[shown], test.labels[shown]), "training": (there, train.labels[twin])}
    for axis in axes.ravel():
        axis.axis("off")
    for row, (part, (images, labels)) in zip(axes, rows.items()):
        plotting.show_images(images, row, titles=[plain(test.class_names[label]) for label in labels.tolist()])
        row[0].annotate(
            part,
            (0, 0.5),
            (-6, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="center",
            fontsize=11,
        )
        for axis in row:
            axis.title.set_fontsize(5 if test.is_synthetic else 10)


# --- splits, and what is drawn from them --------------------------------------------------------------------


def splits(num_classes: int = 100) -> Illustration:
    """Which classes each split learns, in three class draws."""
    figure, axes = plt.subplots(3, 1, figsize=(7.4, 5.6), sharex=True)
    shades = ListedColormap([plotting.UNSEEN, plotting.SEEN])
    for draw, axis in enumerate(axes):
        seen = seen_matrix(draw, SPLIT_NAMES, num_classes)
        axis.imshow(seen, aspect="auto", cmap=shades, alpha=0.85, interpolation="nearest")
        axis.set_yticks(range(0, len(SPLIT_NAMES), 3), SPLIT_NAMES[::3])
        axis.set_title(f"draw {draw}" + (": alphabetical" if draw == 0 else ": random"), fontsize=11)
        axis.grid(False)
    axes[-1].set_xlabel("class number")
    axes[0].text(3, 8.6, "seen", color="white", fontweight="bold")
    axes[0].text(80, 1.8, "unseen", color="white", fontweight="bold")
    figure.tight_layout()
    alt = (
        "Three panels, one a class draw; a row a split from 10-90 to 100-0, a column a class, blue where seen. In "
        "draw 0 the seen classes grow from the left like a staircase, in draws 1 and 2 they are scattered; each row "
        "contains the one above."
    )
    return Illustration(figure, "01_splits", alt)


def pairs_and_triplets(images: ImageSet, pairs: Pairs, triplets: torch.Tensor) -> Illustration:
    """Pairs in two rows, triplets in three.

    Args:
        images: what they were drawn from.
        pairs: six of them.
        triplets: int64 (6, 3), positions of anchor, positive and negative.
    """
    figure, axes = plt.subplots(5, 6, figsize=(8, 7.4))
    answers = ["same class" if same else "different" for same in pairs.same.tolist()]
    frames = [plotting.BLUE if same else plotting.RED for same in pairs.same.tolist()]
    plotting.show_images(images.images[pairs.first], axes[0], titles=answers, colours=frames)
    plotting.show_images(images.images[pairs.second], axes[1], colours=frames)
    axes[0, 0].set_ylabel("pair", fontsize=11, fontweight="bold")
    parts = {"anchor": plotting.GREY, "positive": plotting.BLUE, "negative": plotting.RED}
    for row, chosen, (part, frame) in zip(axes[2:], triplets.T, parts.items()):
        names = ["" if images.is_synthetic else plain(images.class_names[i]) for i in images.labels[chosen].tolist()]
        row[0].set_ylabel(part, fontsize=11, fontweight="bold")
        plotting.show_images(images.images[chosen], row, titles=names, colours=[frame] * len(chosen))
    for axis in axes.ravel():
        axis.title.set_fontsize(10)
    figure.tight_layout(h_pad=0.6, w_pad=0.4)
    alt = (
        "Top: six pairs of images, alternately of the same class and of different classes. Bottom: six triplets, an "
        "anchor, a positive of its class and a negative of another class below one another."
    )
    return Illustration(figure, "01_pairs_triplets", alt)


def batch(images: ImageSet, positions: torch.Tensor, varied: torch.Tensor) -> Illustration:
    """Four classes of a training batch, as stored and as the network sees them.

    Args:
        images: what the batch was drawn from.
        positions: int64 (16,), four images of each of four classes.
        varied: float32 (16, 3, H, W), the same images augmented, 0 to 255.
    """
    seen = varied.permute(0, 2, 3, 1).to(torch.uint8)
    figure, axes = plt.subplots(4, 8, figsize=(7.6, 5.2))
    for half, (stored_row, varied_row) in enumerate(axes.reshape(2, 2, 8)):
        part = slice(8 * half, 8 * half + 8)
        plotting.show_images(images.images[positions[part]], stored_row)
        plotting.show_images(seen[part], varied_row)
        for k in (0, 4):
            label = int(images.labels[positions[part][k]])
            stored_row[k].set_title(plain(images.class_names[label]), loc="left", fontsize=11)
        stored_row[0].set_ylabel("stored", fontsize=11)
        varied_row[0].set_ylabel("varied", fontsize=11)
    figure.tight_layout(w_pad=0.1, h_pad=0.2)
    alt = (
        "Sixteen images of a training batch, four of each of four classes, and below each the same image shifted by a "
        "few pixels and sometimes mirrored."
    )
    return Illustration(figure, "01_batch", alt)


def episode(images: ImageSet, drawn: Episodes) -> Illustration:
    """One episode of five ways, one shot and six queries: the question, without an answer.

    Args:
        images: what the episode was drawn from.
        drawn: holds that one.
    """
    figure, axes = plt.subplots(5, 7, figsize=(7.6, 5.9))
    for row, label, support, query in zip(axes, drawn.classes[0].tolist(), drawn.support[0], drawn.query[0]):
        names = [plain(images.class_names[label])]
        plotting.show_images(images.images[support], row[:1], titles=names, colours=[plotting.BLUE])
        plotting.show_images(images.images[query], row[1:])
        row[0].title.set(fontsize=7 if images.is_synthetic else 10, fontweight="bold")
    style = {"ha": "center", "va": "top", "fontweight": "bold"}
    figure.text(0.085, 0.995, "support", color=plotting.BLUE, **style)
    figure.text(0.58, 0.995, "queries: which support image shows the same kind of thing?", **style)
    figure.tight_layout(rect=(0, 0, 1, 0.97))
    alt = (
        "A five-way one-shot episode: five rows, in each the support image of an unseen class in a blue frame and six "
        "query images of the same class."
    )
    return Illustration(figure, "01_episode", alt)
