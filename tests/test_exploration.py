"""Counts, colour statistics, duplicates and splits, against slow and obvious ways to compute them; and the figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.text import Text

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import PKBatches, named_rng, sample_episodes, sample_pairs, sample_triplets
from siamese_utils.data.splits import SPLIT_NAMES, ClassSplit, class_split
from siamese_utils.errors import ConfigError, ShapeError
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.exploration import figures
from siamese_utils.studies.exploration.findings import (
    NEAR_DUPLICATE,
    Twins,
    channel_statistics,
    classes_of,
    colour_sentence,
    count_table,
    edge_descriptors,
    equal_pairs,
    exact_duplicates,
    floor_sentence,
    mean_images,
    most_similar,
    near_duplicates,
    plain,
    relatives_table,
    seen_matrix,
    sibling_table,
    superclass_labels,
    twins_sentence,
)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    """Images without anything in common."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))


def as_set(images: torch.Tensor, labels: list[int]) -> ImageSet:
    names = tuple(f"class_{number}" for number in range(max(labels) + 1))
    return ImageSet(images, torch.tensor(labels), names, ("all",), (0,) * len(names), "synthetic", "test", "a test")


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


def test_no_cosine_of_edges_is_beyond_one() -> None:
    images = noise(60)
    edges = edge_descriptors(images)
    assert torch.einsum("nd,nd->n", edges, edges).max() > 1  # as rounding has it
    assert most_similar(images, images.clone()).similarity.max() <= 1


def test_most_similar_needs_something_to_compare_with() -> None:
    one = noise(1)
    with pytest.raises(ShapeError, match="no other image"):
        most_similar(one, one)
    assert most_similar(one, one.clone()).position.tolist() == [0]


def test_near_duplicates_lists_them_in_order() -> None:
    among = as_set(noise(8), [0, 0, 0, 0, 1, 1, 1, 1])
    blurred = (among.images[6].to(torch.int16) + 9 * (noise(1, 5)[0].to(torch.int16) // 64)).clamp(0, 255)
    images = as_set(torch.stack([noise(1, 9)[0], blurred.to(torch.uint8), among.images[1].flip(1)]), [0, 0, 0])
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


# --- sentences and tables of the notebook ---


def test_equal_pairs_counts_both_parts_and_differing_labels() -> None:
    images = noise(6)
    train = as_set(torch.stack([images[0], images[1], images[1]]), [0, 0, 1])
    test = as_set(torch.stack([images[0], images[2], images[2]]), [1, 0, 0])
    table = equal_pairs(train, test).frame
    assert table["where"].tolist() == ["training and test", "within test", "within training"]
    assert table["equal pairs"].tolist() == [1, 1, 1]
    assert table["of them with two different labels"].tolist() == [1, 0, 1]


def test_colour_sentence_gives_means_deviations_and_ends() -> None:
    images = torch.tensor([[0, 100, 20], [255, 100, 40]], dtype=torch.uint8)[:, None, None]
    told = colour_sentence(channel_statistics(images.expand(2, 32, 32, 3).contiguous()))
    assert "means are 127.5, 100.0, 30.0 and the deviations 127.5, 0.0, 10.0" in told
    assert "Between 0.0% and 100.0%" in told


def test_twins_sentence_counts_planted_twins() -> None:
    """Classes 0 to 2 are seen, 3 and 4 are not; each kind of twin is planted once, and one within the test part."""
    train, fresh = noise(10, 1), noise(10, 2)
    fresh[0] = train[0]  # seen, its own class
    fresh[2] = train[0]  # seen, another class
    fresh[6] = train[0]  # unseen, a seen class's label
    fresh[7] = train[8]  # unseen, an unseen class's label
    fresh[9] = fresh[8]  # unseen, within its class
    labels = [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    train_set, test_set = as_set(train, labels), as_set(fresh, labels)
    split = ClassSplit("3-2", 0, (0, 1, 2), (3, 4))
    told = twins_sentence(train_set, test_set, split, most_similar(fresh, train))
    assert "**4** of 10 test images (40.0%)" in told and "25.0% of those share its label" in told
    assert "1 of 6 test images (16.7%) have a twin of their own class" in told
    assert "1 of 4 test images have a twin that may have been trained on" in told and "(1 more have one" in told
    assert "2 test images of unseen classes" in told and "about 50.000% of queries" in told


def test_relatives_table_agrees_with_the_siblings(hundred: tuple[ImageSet, ImageSet]) -> None:
    table = relatives_table(hundred[0]).set_index("split")
    assert table.index.tolist() == list(SPLIT_NAMES[:-1])
    siblings = sibling_table(hundred[0], class_split("30-70", 2))["seen siblings"]
    assert table.loc["30-70", "draw 2 (%)"] == pytest.approx(100 * (siblings > 0).mean())


def test_floor_sentence_is_above_chance_on_drawn_shapes(synthetic_train: ImageSet, synthetic_test: ImageSet) -> None:
    told = floor_sentence(synthetic_train, synthetic_test, class_split("10-10", 0, num_classes=20))
    pixels, edges = (float(number) for number in re.findall(r"(?:embeddings gets|used above) ([\d.]+)%", told))
    assert pixels > 20 and edges > 20 and "unseen classes of 10-10" in told


# --- figures ---


def shown_images(axes: Iterable[Axes]) -> list[np.ndarray]:
    """What is drawn into each of the axes."""
    return [np.asarray(axis.get_images()[0].get_array()) for axis in axes]


def texts(shown: Illustration) -> list[str]:
    return [text.get_text() for text in shown.figure.findobj(Text)]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def test_samples_show_three_images_of_every_class(synthetic_train: ImageSet) -> None:
    shown = figures.samples(synthetic_train)
    assert {plain(name) for name in synthetic_train.class_names} <= set(texts(shown))
    for superclass, (axis, row) in enumerate(zip(shown.figure.axes, shown_images(shown.figure.axes))):
        owned = classes_of(synthetic_train, superclass)
        assert row.shape == (32, 108 * len(owned) - 8, 3)
        for place, label in enumerate(owned):
            of_class = synthetic_train.images[synthetic_train.labels == label].numpy()
            for left in range(108 * place, 108 * place + 100, 34):
                assert (of_class == row[:, left : left + 32]).all(axis=(1, 2, 3)).any()
        named = [text.get_text() for text in axis.texts[: len(owned)]]
        assert named == [plain(synthetic_train.class_names[label]) for label in owned]


def test_colour_shows_the_share_of_every_value_and_the_mean_images(synthetic_train: ImageSet) -> None:
    statistics = channel_statistics(synthetic_train.images)
    curves, *means = figures.colour(synthetic_train, statistics).figure.axes
    for channel, line in enumerate(curves.get_lines()):
        share = 100 * statistics.histogram[channel] / statistics.histogram[channel].sum()
        np.testing.assert_allclose(line.get_ydata(), share[1:255])
    of_first = synthetic_train.images[superclass_labels(synthetic_train) == 0].double().mean(0)
    assert np.abs(shown_images(means[:1])[0] - of_first.numpy()).max() <= 0.51


def test_similarity_counts_every_test_image_and_the_share_of_equal_labels() -> None:
    train, test = as_set(noise(4), [0, 0, 1, 1]), as_set(noise(4, 1), [0, 1, 1, 1])
    twins = Twins(torch.tensor([0, 1, 2, 3]), torch.tensor([-0.3, 0.22, 0.97, 0.98]), torch.zeros(4, dtype=torch.bool))
    above, below = figures.similarity(train, test, twins).figure.axes
    counts = [bar.get_height() for bar in above.patches]
    shares = [bar.get_height() for bar in below.patches]
    assert (counts[0], counts[-1], sum(counts)) == (2, 2, 4)
    assert (shares[0], shares[-1], sum(shares)) == (50, 100, 150)
    assert all(NEAR_DUPLICATE in [line.get_xdata()[0] for line in axis.get_lines()] for axis in (above, below))


def test_twin_bands_show_both_sides_of_the_threshold() -> None:
    train, test = as_set(noise(20), [0] * 20), as_set(noise(20, 1), [0] * 20)
    found = torch.cat([torch.linspace(0.999, 0.71, 12), torch.linspace(0.69, 0.3, 8)])
    twins = Twins(torch.arange(20).flip(0), found, torch.arange(20) % 2 == 1)
    shown = figures.twin_bands(train, test, twins)
    heads = [text.split(":")[0] for text in texts(shown) if "similarity" in text]
    assert heads == ["clear", "just above", "just below"]
    below = shown_images(shown.figure.axes[24:])
    for place, number in enumerate(range(12, 18)):
        other = train.images[19 - number]
        np.testing.assert_array_equal(below[place], test.images[number])
        np.testing.assert_array_equal(below[6 + place], other.flip(1) if number % 2 else other)
    lowest = found[6:12]
    assert f"just above: similarity {lowest.min():.3f} to {lowest.max():.3f}" in texts(shown)


def test_twin_bands_without_copies_show_what_is_nearest() -> None:
    train, test = as_set(noise(8), [0] * 8), as_set(noise(8, 1), [0] * 8)
    shown = figures.twin_bands(train, test, most_similar(test.images, train.images))
    assert [text.split(":")[0] for text in texts(shown) if "similarity" in text] == ["just below"]


def test_splits_show_what_each_draw_learns() -> None:
    pictures = shown_images(figures.splits().figure.axes)
    for draw, picture in enumerate(pictures):
        np.testing.assert_array_equal(picture, seen_matrix(draw, SPLIT_NAMES))


def test_pairs_are_framed_by_their_answer_and_triplets_by_their_part(synthetic_train: ImageSet) -> None:
    pairs = sample_pairs(synthetic_train.labels, 6, named_rng(0, "pairs"))
    triplets = sample_triplets(synthetic_train.labels, 6, named_rng(0, "triplets"))
    axes = np.reshape(figures.pairs_and_triplets(synthetic_train, pairs, triplets).figure.axes, (5, 6))
    positions = torch.cat([pairs.first[None], pairs.second[None], triplets.T])
    for row, chosen in zip(axes, positions):
        np.testing.assert_array_equal(shown_images(row), synthetic_train.images[chosen])
    same = [axis.get_title() == "same class" for axis in axes[0]]
    assert same == pairs.same.tolist()
    assert [axis.get_title() for axis in axes[0][~pairs.same.numpy()]] == ["different"] * 3
    assert [axis.get_ylabel() for axis in axes[:, 0]] == ["pair", "", "anchor", "positive", "negative"]


def test_batch_shows_each_image_above_its_variation(synthetic_train: ImageSet) -> None:
    positions = PKBatches(synthetic_train.labels, 4, 4, seed=0).epoch(0)[0]
    stored = synthetic_train.images[positions]
    shown = figures.batch(synthetic_train, positions, stored.flip(2).permute(0, 3, 1, 2).float())
    pictures = np.reshape(shown_images(shown.figure.axes), (2, 2, 8, 32, 32, 3))
    np.testing.assert_array_equal(pictures[:, 0].reshape(16, 32, 32, 3), stored)
    np.testing.assert_array_equal(pictures[:, 1].reshape(16, 32, 32, 3), stored.flip(2))
    named = [axis.get_title(loc="left") for axis in shown.figure.axes if axis.get_title(loc="left")]
    labels = synthetic_train.labels[positions[::4]].tolist()
    assert named == [plain(synthetic_train.class_names[label]) for label in labels]


def test_episode_shows_queries_beside_the_support_of_their_class(synthetic_test: ImageSet) -> None:
    drawn = sample_episodes(synthetic_test.labels, 5, 1, 6, 1, named_rng(0, "episode"))
    axes = np.reshape(figures.episode(synthetic_test, drawn).figure.axes, (5, 7))
    for row, label, support, query in zip(axes, drawn.classes[0], drawn.support[0], drawn.query[0]):
        np.testing.assert_array_equal(shown_images(row), synthetic_test.images[torch.cat([support, query])])
        assert row[0].get_title() == plain(synthetic_test.class_names[int(label)])
