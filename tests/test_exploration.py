"""Counts, colour statistics, duplicates and split pictures, against slow and obvious ways to compute them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import SPLIT_NAMES, class_split
from siamese_utils.errors import ConfigError, ShapeError
from siamese_utils.studies.exploration.findings import (
    channel_statistics,
    classes_of,
    count_table,
    edge_descriptors,
    exact_duplicates,
    mean_images,
    most_similar,
    near_duplicates,
    seen_matrix,
    sibling_table,
    superclass_labels,
)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    """Images without anything in common."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))


def as_set(images: torch.Tensor, labels: list[int]) -> ImageSet:
    names = tuple(f"class_{number}" for number in range(max(labels) + 1))
    return ImageSet(
        images, torch.tensor(labels), names, ("all",), (0,) * len(names), "synthetic", "test", "a test"
    )


# --- counts ---


def test_count_table_adds_up(synthetic_train: ImageSet, synthetic_test: ImageSet) -> None:
    table = count_table(synthetic_train, synthetic_test)
    assert table["training images"].sum() == len(synthetic_train)
    assert table["test images"].sum() == len(synthetic_test)
    named = {name for row in table["classes"] for name in row.split(", ") if name}
    assert named == {name.replace("_", " ") for name in synthetic_train.class_names}


def test_count_table_shows_an_imbalance_within_a_superclass() -> None:
    images = as_set(noise(5), [0, 0, 0, 1, 1])
    row = count_table(images, images).iloc[0]
    assert (row["fewest a class"], row["most a class"], row["training images"]) == (2, 3, 5)


def test_superclass_labels_agree_with_the_loop(synthetic_train: ImageSet) -> None:
    labels = superclass_labels(synthetic_train)
    assert labels.tolist() == [synthetic_train.superclass_of[c] for c in synthetic_train.labels.tolist()]
    assert all(labels[synthetic_train.labels == c].eq(0).all() for c in classes_of(synthetic_train, 0))


# --- colour ---


@given(st.integers(1, 7), st.integers(0, 10))
def test_channel_statistics_agree_with_numpy(count: int, seed: int) -> None:
    images = noise(count, seed)
    found = channel_statistics(images)
    pixels = images.numpy().reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(found.mean, pixels.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.std, pixels.std(0), rtol=1e-9)
    for channel in range(3):
        expected = np.histogram(pixels[:, channel], bins=np.arange(257))[0]
        np.testing.assert_array_equal(found.histogram[channel], expected)


def test_channel_statistics_of_one_colour() -> None:
    images = torch.tensor([10, 200, 255], dtype=torch.uint8).expand(3, 32, 32, 3).contiguous()
    found = channel_statistics(images)
    assert found.mean.tolist() == [10, 200, 255]
    assert found.std.tolist() == [0, 0, 0]


def test_channel_statistics_of_nothing() -> None:
    with pytest.raises(ShapeError, match="at least one image"):
        channel_statistics(noise(0))


def test_mean_images_agree_with_the_loop() -> None:
    images, groups = noise(30), torch.arange(30) % 4
    found = mean_images(images, groups, 4)
    for group in range(4):
        expected = images[groups == group].to(torch.float64).mean(0)
        torch.testing.assert_close(found[group].to(torch.float64), expected, rtol=0, atol=1e-4)


def test_mean_images_need_members() -> None:
    with pytest.raises(ShapeError, match="needs an image"):
        mean_images(noise(3), torch.tensor([0, 0, 2]), 3)


# --- duplicates ---


def test_exact_duplicates_between_and_within() -> None:
    images = noise(6)
    images[4] = images[1]
    images[5] = images[1]
    other = torch.stack([images[1], images[0], 255 - images[2]])
    assert exact_duplicates(images, other).tolist() == [[0, 1], [1, 0], [4, 0], [5, 0]]
    assert exact_duplicates(images, images).tolist() == [[1, 4], [1, 5], [4, 5]]
    assert exact_duplicates(images[:1], other[:1]).shape == (0, 2)


def test_one_changed_pixel_is_no_exact_duplicate() -> None:
    images = noise(1)
    other = images.clone()
    other[0, 31, 31, 2] ^= 1
    assert len(exact_duplicates(images, other)) == 0


def test_edge_descriptors_ignore_brightness_and_contrast() -> None:
    images = noise(4) // 2
    changed = (images.to(torch.float32) * 1.5 + 20).round().to(torch.uint8)
    cosine = (edge_descriptors(images) * edge_descriptors(changed)).sum(1)
    assert cosine.min() > 0.999
    torch.testing.assert_close(edge_descriptors(images).norm(dim=1), torch.ones(4))


def test_edge_descriptors_of_a_flat_image_are_zero() -> None:
    assert edge_descriptors(torch.full((1, 32, 32, 3), 7, dtype=torch.uint8)).abs().max() == 0


def test_edge_descriptors_agree_with_the_loop() -> None:
    image = noise(1)
    small = image[0].numpy().astype(np.float64).reshape(16, 2, 16, 2, 3).mean((1, 3))
    expected = []
    for step in ((0, 1), (1, 0)):
        for channel in range(3):
            for y in range(1, 16):
                for x in range(1, 16):
                    edge = small[y, x, channel] - small[y - step[0], x - step[1], channel]
                    expected.append(np.sign(edge) * np.sqrt(abs(edge)))
    found = edge_descriptors(image)[0].numpy()
    np.testing.assert_allclose(found, np.array(expected) / np.linalg.norm(expected), atol=1e-6)


def test_most_similar_finds_planted_twins() -> None:
    rng = np.random.default_rng(1)
    among = noise(700, 1)  # more than one chunk
    chosen = torch.from_numpy(rng.permutation(700)[:600])
    images = among[chosen].clone()
    images[::2] = images[::2].flip(2)
    shifted = images.to(torch.int16) + torch.from_numpy(rng.integers(-6, 7, images.shape)).to(torch.int16)
    twins = most_similar(shifted.clamp(0, 255).to(torch.uint8), among)
    assert torch.equal(twins.position, chosen)
    assert torch.equal(twins.mirrored, torch.arange(600) % 2 == 0)
    assert twins.similarity.min() > 0.98


def test_most_similar_agrees_with_comparing_all(synthetic_train: ImageSet, synthetic_test: ImageSet) -> None:
    images, among = synthetic_test.images[:100], synthetic_train.images[:300]
    found = most_similar(images, among, candidates=300)
    straight = edge_descriptors(images) @ edge_descriptors(among).T
    mirrored = edge_descriptors(images.flip(2)) @ edge_descriptors(among).T
    best = torch.maximum(straight, mirrored).max(dim=1).values
    torch.testing.assert_close(found.similarity, best, rtol=0, atol=1e-5)


def test_most_similar_within_a_set_is_not_the_image_itself() -> None:
    images = noise(20)
    images[13] = images[2].flip(1)
    twins = most_similar(images, images)
    assert (twins.position != torch.arange(20)).all()
    assert (twins.position[2], twins.position[13]) == (13, 2)
    assert twins.mirrored[2]
    assert twins.similarity.sort().values[-3] < 0.5


def test_most_similar_needs_something_to_compare_with() -> None:
    one = noise(1)
    with pytest.raises(ShapeError, match="no other image"):
        most_similar(one, one)
    assert most_similar(one, one.clone()).position.tolist() == [0]


def test_near_duplicates_lists_them_in_order() -> None:
    among = as_set(noise(8), [0, 0, 0, 0, 1, 1, 1, 1])
    blurred = (among.images[6].to(torch.int16) + 9 * (noise(1, 5)[0].to(torch.int16) // 64)).clamp(0, 255)
    images = as_set(
        torch.stack([noise(1, 9)[0], blurred.to(torch.uint8), among.images[1].flip(1)]), [0, 0, 0]
    )
    table = near_duplicates(images, among, threshold=0.8)
    assert table["image"].tolist() == [2, 1]
    assert table["twin"].tolist() == [1, 6]
    assert table["mirrored"].tolist() == [True, False]
    assert table["same_class"].tolist() == [True, False]
    assert table["similarity"].is_monotonic_decreasing
    assert len(near_duplicates(images, among, threshold=1e-9)) == 3


@pytest.mark.parametrize("threshold", [0.0, 1.5, float("nan")])
def test_near_duplicates_refuses_a_senseless_threshold(threshold: float) -> None:
    images = as_set(noise(2), [0, 1])
    with pytest.raises(ConfigError, match="threshold"):
        near_duplicates(images, images, threshold=threshold)


# --- splits ---


def test_seen_matrix_is_nested_and_counts_right() -> None:
    for draw in (0, 1):
        matrix = seen_matrix(draw, SPLIT_NAMES)
        assert matrix.sum(1).tolist() == list(range(10, 101, 10))
        assert (np.diff(matrix.astype(int), axis=0) >= 0).all()


def test_sibling_table_agrees_with_the_loop(synthetic_train: ImageSet) -> None:
    split = class_split("15-5", 1, num_classes=20)
    table = sibling_table(synthetic_train, split)
    owner = synthetic_train.superclass_of
    assert table["seen siblings"].tolist() == [
        sum(owner[other] == owner[label] for other in split.seen) for label in split.unseen
    ]
    assert table.loc[table["seen siblings"] == 0, "their names"].eq("none").all()
