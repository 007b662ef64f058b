"""What a first look at an image set asks: how many, which colours, which images twice, and how it is divided.

Two images are *near-duplicates* here when their edges agree. An image is reduced to 16x16 pixels; the differences
between neighbours (all colours, across and down), each replaced by its square root with the sign kept, become
one vector of unit length; the similarity of two images is the cosine of these vectors, and the mirror image of
one of them counts as well. Differences rather than pixels, because any two pictures of sea and sky have similar
pixels. Square roots, because otherwise one strong edge, such as a frame or the rim of a plate, would decide.
Brightness and contrast cancel out.

Barz & Denzler (2020, "Do we train on test data? Purging CIFAR of near-duplicates",
https://arxiv.org/abs/1902.00423) searched with a trained network and sorted the finds by eye; they find more,
among them other crops and other photographs of one scene. This search needs neither network nor judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from siamese_utils.data.images import ImageSet
from siamese_utils.data.pixels import check_images
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import SPLIT_NAMES, ClassSplit, class_split
from siamese_utils.errors import ConfigError, ShapeError
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.experiments.findings import Table

NEAR_DUPLICATE = 0.7
"""Cosine of two images' edges from which on they count as one photograph. Labels, which the search never looks
at, justify it: among each CIFAR-100 test image's most similar training image, nearly all pairs just above 0.7
share their label, of those just below 0.65 a third do not (notebook 01 shows the curve, and pairs from both
sides of the threshold)."""

_COARSE, _FINE = 8, 16  # sides in pixels of the reduced images that candidates are found, and judged, by
_ROWS_AT_ONCE = 500  # similarities of so many images to all others are in memory together


# --- counts -------------------------------------------------------------------------------------------------


def superclass_labels(images: ImageSet) -> torch.Tensor:
    """Return the number of each image's superclass, int64 (N,)."""
    return torch.tensor(images.superclass_of)[images.labels]


def classes_of(images: ImageSet, superclass: int) -> list[int]:
    """Return the labels of a superclass's classes, ascending."""
    return [label for label, owner in enumerate(images.superclass_of) if owner == superclass]


def count_table(train: ImageSet, test: ImageSet) -> pd.DataFrame:
    """Count images by superclass.

    Returns:
        One row a superclass: ``superclass``, ``classes`` (their names), ``training images``, ``test images``
        and, since a superclass's sum could hide it, ``fewest a class`` and ``most a class`` in training.
    """
    per_class = [torch.bincount(part.labels, minlength=part.num_classes) for part in (train, test)]
    rows = []
    for number, name in enumerate(train.superclass_names):
        members = classes_of(train, number)
        rows.append(
            {
                "superclass": plain(name),
                "classes": ", ".join(plain(train.class_names[label]) for label in members),
                "training images": int(per_class[0][members].sum()),
                "test images": int(per_class[1][members].sum()),
                "fewest a class": int(per_class[0][members].min()) if members else 0,
                "most a class": int(per_class[0][members].max()) if members else 0,
            }
        )
    return pd.DataFrame(rows)


def plain(name: str) -> str:
    """Write a class's name for people: ``maple_tree`` becomes ``maple tree``."""
    return name.replace("_", " ")


# --- colour -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ChannelStatistics:
    """Exact statistics of the pixel values of each colour channel.

    Attributes:
        histogram: int64 (C, 256), how often each value occurs.
        mean: float64 (C,), on the 0-255 scale.
        std: float64 (C,), population standard deviation on the same scale.
    """

    histogram: np.ndarray
    mean: np.ndarray
    std: np.ndarray


def channel_statistics(images: torch.Tensor) -> ChannelStatistics:
    """Count every value of every channel; mean and deviation follow from whole numbers, without rounding.

    Args:
        images: uint8 (N, H, W, 3), N at least 1.

    Raises:
        ShapeError: other images, or none.
    """
    check_images(images)
    if images.numel() == 0:
        raise ShapeError("Statistics of no images do not exist; give at least one image.")
    histogram = np.zeros((images.shape[-1], 256), dtype=np.int64)
    for chunk in images.split(2000):
        for channel in range(images.shape[-1]):
            histogram[channel] += np.bincount(chunk[..., channel].reshape(-1).numpy(), minlength=256)
    values = np.arange(256, dtype=np.int64)
    count = images.numel() // images.shape[-1]
    total, squares = histogram @ values, histogram @ values**2
    # Whole numbers up to here: n * sum(x^2) - sum(x)^2 outgrows 64 bits, so Python's integers take over.
    variance = [(count * int(square) - int(each) ** 2) / count**2 for each, square in zip(total, squares)]
    return ChannelStatistics(histogram, total / count, np.sqrt(variance))


def colour_sentence(statistics: ChannelStatistics) -> str:
    """Mean and deviation of each channel, and how much of it lies at the ends."""
    ends = 100 * statistics.histogram[:, [0, 255]].sum(axis=1) / statistics.histogram.sum(axis=1)
    return (
        f"The channel means are {', '.join(f'{v:.1f}' for v in statistics.mean)} and the deviations "
        f"{', '.join(f'{v:.1f}' for v in statistics.std)} (red, green, blue; 0 to 255). Between {ends.min():.1f}% and "
        f"{ends.max():.1f}% of a channel's values are exactly 0 or 255; they are left out of the curves, which they "
        "would flatten."
    )


def mean_images(images: torch.Tensor, groups: torch.Tensor, count: int) -> torch.Tensor:
    """Average the images of each group.

    Args:
        images: uint8 (N, H, W, 3).
        groups: int64 (N,), number of each image's group, below ``count``.
        count: number of groups, none of them empty.

    Returns:
        float32 (count, H, W, 3) on the 0-255 scale.

    Raises:
        ShapeError: other images, or an empty group.
    """
    check_images(images)
    sizes = torch.bincount(groups, minlength=count)
    if len(sizes) != count or not bool((sizes > 0).all()):
        raise ShapeError(f"Each of the {count} groups needs an image to be averaged.")
    sums = torch.zeros(count, *images.shape[1:], dtype=torch.int32)  # 255 times 8 million images fit
    for chunk, group in zip(images.split(2000), groups.split(2000)):
        sums.index_add_(0, group, chunk.to(torch.int32))
    return sums.to(torch.float32) / sizes[:, None, None, None]


# --- images that occur twice --------------------------------------------------------------------------------


def exact_duplicates(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Find all pairs of images that agree in every pixel.

    Args:
        first: uint8 (M, H, W, 3).
        second: uint8 (N, H, W, 3); the same tensor as ``first`` to look for pairs within it.

    Returns:
        int64 (pairs, 2), positions in ``first`` and ``second``, ascending; within one set each pair once.
    """
    check_images(first)
    check_images(second)
    within = second is first
    where: dict[bytes, list[int]] = {}
    for position, image in enumerate(second.numpy()):
        where.setdefault(image.tobytes(), []).append(position)
    pairs = [
        (position, other)
        for position, image in enumerate(first.numpy())
        for other in where.get(image.tobytes(), ())
        if not within or position < other
    ]
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def equal_pairs(train: ImageSet, test: ImageSet) -> Table:
    """How many pairs of images agree in every pixel, between the two parts and within each."""
    rows = []
    for where, first, second in (
        ("training and test", test, train),
        ("within test", test, test),
        ("within training", train, train),
    ):
        one, other = exact_duplicates(first.images, second.images).T
        differing = int((first.labels[one] != second.labels[other]).sum())
        rows.append({"where": where, "equal pairs": len(one), "of them with two different labels": differing})
    return Table(pd.DataFrame(rows), "Images equal in every pixel")


def edge_descriptors(images: torch.Tensor, side: int = _FINE) -> torch.Tensor:
    """Describe each image by its edges, so that a dot product compares two images.

    Args:
        images: uint8 (N, H, W, 3), H and W multiples of ``side``.
        side: the image is averaged down to ``side`` x ``side`` pixels first.

    Returns:
        float32 (N, 6 * (side - 1)^2), rows of unit length; zeros for an image without any edge.

    Raises:
        ShapeError: other images, or a size that ``side`` does not divide.
    """
    check_images(images)
    height, width = images.shape[1:3]
    if height % side or width % side:
        raise ShapeError(f"Images of {height}x{width} pixels cannot be reduced evenly to {side}x{side}.")
    rows = []
    for chunk in images.split(2000):
        small = F.avg_pool2d(chunk.permute(0, 3, 1, 2).to(torch.float32), (height // side, width // side))
        corner = small[:, :, 1:, 1:]
        edges = torch.cat([corner - small[:, :, 1:, :-1], corner - small[:, :, :-1, 1:]], dim=1)
        rows.append(F.normalize((edges.abs().sqrt() * edges.sign()).flatten(1), dim=1))
    return torch.cat(rows) if rows else torch.zeros(0, 6 * (side - 1) ** 2)


@dataclass(frozen=True, eq=False)
class Twins:
    """For each image its most similar one in another set (or elsewhere in its own).

    Attributes:
        position: int64 (N,), position of the most similar image.
        similarity: float32 (N,), cosine of the two images' edges, between -1 and 1.
        mirrored: bool (N,), whether the mirror image is what fits.
    """

    position: torch.Tensor
    similarity: torch.Tensor
    mirrored: torch.Tensor


def most_similar(images: torch.Tensor, among: torch.Tensor, candidates: int = 5) -> Twins:
    """Find for each image the one in another set whose edges agree best with its own.

    Every pair is compared, at 8x8 pixels by one matrix product; the few best of each image are compared again
    at 16x16, and that decides. 10,000 images against 50,000 take about 20 seconds of one core.

    Args:
        images: uint8 (N, H, W, 3), H and W multiples of 16.
        among: uint8 (M, H, W, 3); the same tensor as ``images`` to search within one set, where an image does
            not count as its own twin.
        candidates: how many images are compared again, for the image and as many for its mirror image.

    Raises:
        ShapeError: other images, or nothing to compare with.
    """
    within = among is images
    if len(among) <= within:
        raise ShapeError("There is no other image to compare with; give at least one more.")
    candidates = min(candidates, len(among) - within)
    coarse, fine = edge_descriptors(among, _COARSE), edge_descriptors(among, _FINE)
    best: list[tuple[torch.Tensor, torch.Tensor]] = []
    for mirrored in (False, True):
        seen = images.flip(2) if mirrored else images
        query_coarse, query_fine = edge_descriptors(seen, _COARSE), edge_descriptors(seen, _FINE)
        positions, similarities = [], []
        for start in range(0, len(images), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            scores = query_coarse[rows] @ coarse.T
            if within:
                own = torch.arange(len(scores))
                scores[own, start + own] = -2.0
            found = scores.topk(candidates, dim=1).indices
            exact = torch.einsum("nd,ncd->nc", query_fine[rows], fine[found])
            similarity, place = exact.max(dim=1)
            positions.append(found.gather(1, place[:, None]).flatten())
            similarities.append(similarity)
        best.append((torch.cat(positions), torch.cat(similarities)))
    (plain_position, plain_score), (mirror_position, mirror_score) = best
    mirrored = mirror_score > plain_score
    return Twins(
        position=torch.where(mirrored, mirror_position, plain_position),
        similarity=torch.where(mirrored, mirror_score, plain_score).clamp(-1, 1),
        mirrored=mirrored,
    )


def near_duplicates(
    images: ImageSet, among: ImageSet, threshold: float = NEAR_DUPLICATE, twins: Twins | None = None
) -> pd.DataFrame:
    """List the images that have a near-duplicate in another set, the most similar first.

    Args:
        images: the set whose images are asked about.
        among: where their twins are looked for; the same object as ``images`` to search within.
        threshold: least cosine of the edges.
        twins: result of :func:`most_similar` for these two sets, where it is known already.

    Returns:
        One row an image: ``image`` and ``twin`` (positions), ``similarity``, ``mirrored``, ``label`` and
        ``twin_label`` (class numbers) and ``same_class``.

    Raises:
        ConfigError: a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"The threshold of similarity must lie above 0 and not above 1, but got {threshold!r}.")
    if twins is None:
        twins = most_similar(images.images, among.images)
    found = (twins.similarity >= threshold).nonzero().flatten()
    found = found[twins.similarity[found].argsort(descending=True, stable=True)]
    label, twin_label = images.labels[found], among.labels[twins.position[found]]
    return pd.DataFrame(
        {
            "image": found.numpy(),
            "twin": twins.position[found].numpy(),
            "similarity": twins.similarity[found].numpy(),
            "mirrored": twins.mirrored[found].numpy(),
            "label": label.numpy(),
            "twin_label": twin_label.numpy(),
            "same_class": (label == twin_label).numpy(),
        }
    )


def twins_sentence(train: ImageSet, test: ImageSet, split: ClassSplit, nearest: Twins) -> str:
    """How many test images have a near-duplicate, and what that means for seen classes, unseen ones and episodes.

    Args:
        train: training images.
        test: test images.
        split: which classes are learned.
        nearest: the training image most similar to each test image.
    """
    twins, within = near_duplicates(test, train, twins=nearest), near_duplicates(test, test)
    of_seen = twins[twins.label.isin(split.seen) & twins.same_class]
    of_unseen = twins[twins.label.isin(split.unseen)]
    foreign = of_unseen[~of_unseen.twin_label.isin(split.unseen)]
    in_episodes = within[within.label.isin(split.unseen) & within.same_class]
    seen, unseen = (len(test.indices_of(classes)) for classes in (split.seen, split.unseen))
    sizes = torch.bincount(test.labels, minlength=test.num_classes)[list(split.unseen)]
    possible = int((sizes * (sizes - 1)).sum())  # ordered pairs of a support image and a query of its class
    return (
        f"**{len(twins):,}** of {len(test):,} test images ({_percent(len(twins), len(test))}) have a near-duplicate "
        f"among the training images (similarity {NEAR_DUPLICATE} or more); "
        f"{_percent(twins.same_class.sum(), len(twins))} of those share its label. "
        f"For the split {split.name}, draw {split.draw}:\n\n"
        f"- **seen classes**: {len(of_seen)} of {seen:,} test images ({_percent(len(of_seen), seen)}) have a twin of "
        "their own class in the training part, and could be recognised from memory;\n"
        f"- **unseen classes**: {len(foreign)} of {unseen:,} test images have a twin that may have been trained on, "
        f"under the label of a seen class ({len(of_unseen) - len(foreign)} more have one among training images that "
        "this split never uses);\n"
        f"- **episodes**: {len(in_episodes)} test images of unseen classes have a twin of their class within the test "
        f"part, so about {100 * len(in_episodes) / max(possible, 1):.3f}% of queries meet their own twin as the "
        "support image of their class."
    )


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / max(whole, 1):.1f}%"


# --- splits -------------------------------------------------------------------------------------------------


def seen_matrix(draw: int, names: Sequence[str], num_classes: int = 100) -> np.ndarray:
    """Tell for each split of one draw which classes are seen; bool (splits, classes)."""
    matrix = np.zeros((len(names), num_classes), dtype=bool)
    for row, name in enumerate(names):
        matrix[row, list(class_split(name, draw, num_classes).seen)] = True
    return matrix


def sibling_table(images: ImageSet, split: ClassSplit) -> pd.DataFrame:
    """List the unseen classes with their seen siblings, classes of the same superclass.

    Returns:
        One row an unseen class: ``unseen class``, ``superclass``, ``seen siblings`` (how many), ``their names``.
    """
    seen = set(split.seen)
    rows = []
    for label in split.unseen:
        superclass = images.superclass_of[label]
        siblings = [other for other in classes_of(images, superclass) if other in seen]
        rows.append(
            {
                "unseen class": plain(images.class_names[label]),
                "superclass": plain(images.superclass_names[superclass]),
                "seen siblings": len(siblings),
                "their names": ", ".join(plain(images.class_names[other]) for other in siblings) or "none",
            }
        )
    return pd.DataFrame(rows, columns=["unseen class", "superclass", "seen siblings", "their names"])


def relatives_table(images: ImageSet) -> pd.DataFrame:
    """Share of unseen classes with at least one seen sibling; one row a split, a column a class draw, percent."""

    def share(split: ClassSplit) -> float:
        return 100 * sibling_table(images, split)["seen siblings"].gt(0).mean()

    return pd.DataFrame(
        {"split": name} | {f"draw {draw} (%)": share(class_split(name, draw, images.num_classes)) for draw in range(3)}
        for name in SPLIT_NAMES[:-1]
    )


def floor_sentence(train: ImageSet, test: ImageSet, split: ClassSplit) -> str:
    """What comparing pixels, or edges, instead of embeddings reaches in 5-way 1-shot episodes of the unseen classes."""
    asked = test.subset(test.indices_of(split.unseen))
    usual = train.images[train.indices_of(split.seen)[::50]].flatten(1).float().mean(0)
    pixels, edges = (
        few_shot_accuracy(F.normalize(z, dim=1), asked.labels, named_rng(0, "floor in 01"))
        for z in (asked.images.flatten(1).float() - usual, edge_descriptors(asked.images))
    )
    return (
        f"Guessing names 20% of the queries right. Comparing raw pixels instead of embeddings gets {pixels.value:.1f}% "
        f"(± {pixels.ci95:.1f}), comparing the edges used above {edges.value:.1f}% (± {edges.ci95:.1f}), over "
        f"{pixels.n:,} episodes of the unseen classes of {split.name}: what a network must beat to have learned "
        "anything."
    )
