"""Splits: nothing of the unseen classes may leak into training or choosing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_utils.data.splits import (
    CIFAR_FS_TEST,
    CIFAR_FS_VALIDATION,
    SPLIT_NAMES,
    class_split,
    fewshot_split_cifar_fs,
    hold_out_classes,
    hold_out_images,
)
from siamese_utils.errors import SplitError

CIFAR100_NAMES = [
    "apple",
    "aquarium_fish",
    "baby",
    "bear",
    "beaver",
    "bed",
    "bee",
    "beetle",
    "bicycle",
    "bottle",
    "bowl",
    "boy",
    "bridge",
    "bus",
    "butterfly",
    "camel",
    "can",
    "castle",
    "caterpillar",
    "cattle",
    "chair",
    "chimpanzee",
    "clock",
    "cloud",
    "cockroach",
    "couch",
    "crab",
    "crocodile",
    "cup",
    "dinosaur",
    "dolphin",
    "elephant",
    "flatfish",
    "forest",
    "fox",
    "girl",
    "hamster",
    "house",
    "kangaroo",
    "keyboard",
    "lamp",
    "lawn_mower",
    "leopard",
    "lion",
    "lizard",
    "lobster",
    "man",
    "maple_tree",
    "motorcycle",
    "mountain",
    "mouse",
    "mushroom",
    "oak_tree",
    "orange",
    "orchid",
    "otter",
    "palm_tree",
    "pear",
    "pickup_truck",
    "pine_tree",
    "plain",
    "plate",
    "poppy",
    "porcupine",
    "possum",
    "rabbit",
    "raccoon",
    "ray",
    "road",
    "rocket",
    "rose",
    "sea",
    "seal",
    "shark",
    "shrew",
    "skunk",
    "skyscraper",
    "snail",
    "snake",
    "spider",
    "squirrel",
    "streetcar",
    "sunflower",
    "sweet_pepper",
    "table",
    "tank",
    "telephone",
    "television",
    "tiger",
    "tractor",
    "train",
    "trout",
    "tulip",
    "turtle",
    "wardrobe",
    "whale",
    "willow_tree",
    "wolf",
    "woman",
    "worm",
]

relaxed = settings(deadline=None)  # a busy machine is not a failure

names = st.sampled_from(SPLIT_NAMES)
draws = st.integers(0, 200)


def test_split_names_are_those_of_the_protocol() -> None:
    assert SPLIT_NAMES == ("10-90", "20-80", "30-70", "40-60", "50-50", "60-40", "70-30", "80-20", "90-10", "100-0")


@relaxed
@given(names, draws)
def test_seen_and_unseen_are_disjoint_and_complete(name: str, draw: int) -> None:
    split = class_split(name, draw)
    assert set(split.seen).isdisjoint(split.unseen)
    assert sorted(split.seen + split.unseen) == list(range(100))
    assert f"{len(split.seen)}-{len(split.unseen)}" == name == split.name
    assert split.draw == draw
    assert list(split.seen) == sorted(split.seen) and list(split.unseen) == sorted(split.unseen)


@relaxed
@given(draws)
def test_splits_of_one_draw_are_nested(draw: int) -> None:
    splits = [class_split(name, draw) for name in SPLIT_NAMES]
    for smaller, larger in pairwise(splits):
        assert set(smaller.seen) < set(larger.seen)
        assert set(larger.unseen) < set(smaller.unseen)


@relaxed
@given(names)
def test_draw_0_is_alphabetical(name: str) -> None:
    split = class_split(name, 0)
    assert split.seen == tuple(range(len(split.seen)))


@relaxed
@given(names, st.integers(1, 200))
def test_other_draws_follow_the_protocol(name: str, draw: int) -> None:
    count = int(name.split("-")[0])
    assert set(class_split(name, draw).seen) == set(np.random.default_rng(draw).permutation(100)[:count])


def test_draws_are_pinned() -> None:
    """Published numbers belong to these classes: a change of NumPy's generator must not pass unnoticed."""
    assert class_split("10-90", 1).seen == (5, 6, 8, 16, 34, 38, 48, 55, 81, 99)
    assert class_split("10-90", 2).seen == (7, 10, 14, 47, 52, 56, 84, 90, 91, 92)


def test_other_numbers_of_classes() -> None:
    split = class_split("15-5", draw=3, num_classes=20)
    assert len(split.seen) == 15 and sorted(split.seen + split.unseen) == list(range(20))


@pytest.mark.parametrize("name", ["90-11", "95-5", "90_10", "", "0-100", "all", "90-10 ", None])
def test_unknown_split_names_the_known_ones(name: str) -> None:
    with pytest.raises(SplitError, match="known are: 10-90, 20-80"):
        class_split(name)


@pytest.mark.parametrize("name", ["15-6", "0-20", "20", "15-5-0", "-15-5", "a-b"])
def test_split_that_does_not_fit_the_number_of_classes(name: str) -> None:
    with pytest.raises(SplitError, match="add up to 20"):
        class_split(name, num_classes=20)


@pytest.mark.parametrize("draw", [-1, 0.5, "1", None, True])
def test_bad_draw(draw: object) -> None:
    with pytest.raises(SplitError, match="class draw"):
        class_split("90-10", draw)  # type: ignore[arg-type]


def test_cifar_fs_classes() -> None:
    split = fewshot_split_cifar_fs(CIFAR100_NAMES)
    assert (len(split.train), len(split.val), len(split.test)) == (64, 16, 20)
    assert sorted(split.train + split.val + split.test) == list(range(100))  # so disjoint and complete
    assert {CIFAR100_NAMES[label] for label in split.val} == set(CIFAR_FS_VALIDATION)
    assert {CIFAR100_NAMES[label] for label in split.test} == set(CIFAR_FS_TEST)
    assert "maple_tree" in CIFAR_FS_VALIDATION and "sweet_pepper" in CIFAR_FS_TEST


def test_cifar_fs_needs_cifar100() -> None:
    with pytest.raises(SplitError, match="no class 'otter'"):
        fewshot_split_cifar_fs([f"class_{i}" for i in range(100)])
    with pytest.raises(SplitError, match="36 classes instead of 100"):
        fewshot_split_cifar_fs(CIFAR_FS_VALIDATION + CIFAR_FS_TEST)


@relaxed
@given(
    sizes=st.lists(st.integers(3, 9), min_size=1, max_size=8),
    per_class=st.integers(0, 2),
    seed=st.integers(0, 5),
    data=st.data(),
)
def test_held_out_images_are_disjoint_from_training_images(
    sizes: list[int], per_class: int, seed: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.permutation(np.repeat(np.arange(len(sizes)), sizes)))
    classes = data.draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, unique=True))
    train, held_out = hold_out_images(labels, classes, per_class, seed)
    assert train.dtype == held_out.dtype == torch.int64
    assert set(train.tolist()).isdisjoint(held_out.tolist())
    of_classes = torch.nonzero(torch.isin(labels, torch.tensor(classes))).squeeze(1)
    assert torch.equal(torch.cat([train, held_out]).sort().values, of_classes)
    assert torch.equal(train, train.sort().values) and torch.equal(held_out, held_out.sort().values)
    assert all((labels[held_out] == label).sum() == per_class for label in classes)


def test_no_image_of_an_unseen_class_reaches_training_or_choosing() -> None:
    labels = torch.arange(100).repeat_interleave(6)
    for name in SPLIT_NAMES[:-1]:
        split = class_split(name, draw=1)
        train, held_out = hold_out_images(labels, split.seen, per_class=2, seed=0)
        assert not set(labels[torch.cat([train, held_out])].tolist()) & set(split.unseen)


def test_held_out_images_of_a_class_do_not_depend_on_the_others() -> None:
    labels = torch.arange(10).repeat_interleave(20)
    _, few = hold_out_images(labels, [3, 7], 5, seed=1)
    _, many = hold_out_images(labels, range(10), 5, seed=1)
    assert torch.equal(few, many[torch.isin(labels[many], torch.tensor([3, 7]))])
    _, other_seed = hold_out_images(labels, [3, 7], 5, seed=2)
    assert not torch.equal(few, other_seed)
    assert not torch.equal(few[:5] % 20, few[5:] % 20)  # each class has its own shuffle


def test_hold_out_images_bad_input() -> None:
    labels = torch.arange(4).repeat_interleave(5)
    with pytest.raises(SplitError, match="Class 2 has 5 images, so 5 cannot be held out"):
        hold_out_images(labels, [2], 5, seed=0)
    with pytest.raises(SplitError, match="Class 9 has 0 images"):
        hold_out_images(labels, [9], 1, seed=0)
    with pytest.raises(SplitError, match="0 or more"):
        hold_out_images(labels, [2], -1, seed=0)
    with pytest.raises(SplitError, match="twice"):
        hold_out_images(labels, [2, 2], 1, seed=0)
    with pytest.raises(SplitError, match="empty"):
        hold_out_images(labels, [], 1, seed=0)
    with pytest.raises(SplitError, match="seed"):
        hold_out_images(labels, [2], 1, seed=-1)


@relaxed
@given(st.sets(st.integers(0, 99), min_size=2), st.integers(0, 50), st.data())
def test_hold_out_classes(classes: set[int], seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(classes) - 1))
    train, validation = hold_out_classes(classes, count, seed)
    assert len(validation) == count and set(train).isdisjoint(validation)
    assert set(train) | set(validation) == classes
    assert (train, validation) == hold_out_classes(sorted(classes, reverse=True), count, seed)


def test_hold_out_classes_bad_input() -> None:
    for count in (-1, 3, 4):
        with pytest.raises(SplitError, match="between 0 and 2"):
            hold_out_classes([1, 2, 3], count, seed=0)
    with pytest.raises(SplitError, match="seed"):
        hold_out_classes([1, 2, 3], 1, seed=-1)
