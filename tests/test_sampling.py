"""Sampling: what is drawn is valid, unbiased, reproducible and fast."""

from __future__ import annotations

import time
from collections import Counter
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from siamese_utils.data.sampling import (
    PKBatches,
    _choose,
    _most_steps,
    named_rng,
    sample_episodes,
    sample_pairs,
    sample_triplets,
)
from siamese_utils.errors import SamplingError

relaxed = settings(deadline=None)  # a busy machine is not a failure

seeds = st.integers(0, 1000)


@st.composite
def label_rows(draw: st.DrawFn, min_classes: int = 2, min_size: int = 1, max_size: int = 12) -> torch.Tensor:
    """Labels in random order, of classes of unequal size whose numbers have gaps."""
    sizes = draw(st.lists(st.integers(min_size, max_size), min_size=min_classes, max_size=9))
    names = draw(st.permutations(range(10, 10 + 3 * len(sizes), 3)))
    row = np.repeat(names, sizes)
    return torch.from_numpy(np.random.default_rng(draw(seeds)).permutation(row))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def shares(rows: list[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
    return {row: count / len(rows) for row, count in Counter(rows).items()}


# --- generators -----------------------------------------------------------------------------------


def test_named_generators_are_reproducible_and_separate() -> None:
    def draw(seed: int, name: str) -> float:
        return named_rng(seed, name).random()

    assert draw(0, "acc_5w1s") == draw(0, "acc_5w1s")
    assert len({draw(0, "acc_5w1s"), draw(1, "acc_5w1s"), draw(0, "acc_5w5s")}) == 3
    assert draw(7, "acc_5w1s") == pytest.approx(
        0.010296765847607081, abs=1e-15
    )  # the same in every process and version
    for bad in (-1, 0.5, "1", None):
        with pytest.raises(SamplingError, match="seed"):
            named_rng(bad, "x")  # type: ignore[arg-type]


# --- pairs and triplets ---------------------------------------------------------------------------


@relaxed
@given(label_rows(min_size=2), st.integers(1, 60), seeds)
def test_pairs_are_valid_and_balanced(labels: torch.Tensor, count: int, seed: int) -> None:
    pairs = sample_pairs(labels, count, rng(seed))
    assert pairs.first.dtype == pairs.second.dtype == torch.int64 and pairs.same.dtype == torch.bool
    assert len(pairs.first) == len(pairs.second) == len(pairs.same) == count
    assert (pairs.first != pairs.second).all()
    assert torch.equal(labels[pairs.first] == labels[pairs.second], pairs.same)
    assert int(pairs.same.sum()) == (count + 1) // 2
    again = sample_pairs(labels, count, rng(seed))
    assert torch.equal(pairs.first, again.first) and torch.equal(pairs.second, again.second)


@relaxed
@given(label_rows(min_size=2), st.integers(1, 60), seeds)
def test_triplets_are_valid(labels: torch.Tensor, count: int, seed: int) -> None:
    triplets = sample_triplets(labels, count, rng(seed))
    assert triplets.dtype == torch.int64 and triplets.shape == (count, 3)
    anchor, positive, negative = triplets.unbind(1)
    assert (anchor != positive).all()
    assert (labels[anchor] == labels[positive]).all() and (labels[anchor] != labels[negative]).all()
    assert torch.equal(triplets, sample_triplets(labels, count, rng(seed)))


def test_triplets_and_pairs_are_drawn_evenly() -> None:
    """Every triplet and pair turns up as often as counting says, also with classes of unequal size."""
    labels = torch.tensor([5, 8, 5, 2, 8, 5])  # class 2 has a single image: never an anchor, still a negative
    expected = {}
    anchors = [a for a in range(6) if labels[a] != 2]
    for a in anchors:
        positives = [p for p in range(6) if p != a and labels[p] == labels[a]]
        negatives = [n for n in range(6) if labels[n] != labels[a]]
        for p in positives:
            for n in negatives:
                expected[a, p, n] = 1 / (len(anchors) * len(positives) * len(negatives))
    drawn = shares([tuple(row) for row in sample_triplets(labels, 60_000, rng()).tolist()])
    assert drawn.keys() == expected.keys()
    assert all(drawn[key] == pytest.approx(expected[key], abs=0.004) for key in expected)

    pairs = sample_pairs(labels, 60_000, rng())
    rows = list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    drawn = shares([row for row, same in zip(rows, pairs.same.tolist(), strict=True) if not same])
    for (first, second), share in drawn.items():
        others = int((labels != labels[first]).sum())
        assert labels[first] != labels[second] and share == pytest.approx(1 / (6 * others), abs=0.008)
    assert len(drawn) == 2 * (3 * 2 + 3 * 1 + 2 * 1)


@pytest.mark.parametrize("draw", [sample_pairs, sample_triplets])
def test_pairs_and_triplets_that_cannot_be_drawn(draw) -> None:
    with pytest.raises(SamplingError, match="at least 2 classes"):
        draw(torch.tensor([3, 3, 3]), 5, rng())
    with pytest.raises(SamplingError, match="at least 2 images"):
        draw(torch.tensor([1, 2, 3]), 5, rng())
    with pytest.raises(SamplingError, match="1 or more"):
        draw(torch.tensor([1, 1, 2]), 0, rng())
    for labels in (torch.tensor([]), torch.tensor([[1, 1], [2, 2]]), torch.tensor([0.5, 1.0])):
        with pytest.raises(SamplingError, match="whole numbers"):
            draw(labels, 5, rng())


# --- episodes -------------------------------------------------------------------------------------


@relaxed
@given(label_rows(min_size=3), st.data(), seeds)
def test_episodes_are_valid(labels: torch.Tensor, data: st.DataObject, seed: int) -> None:
    classes, sizes = labels.unique(return_counts=True)
    ways = data.draw(st.integers(1, len(classes)))
    shots = data.draw(st.integers(1, int(sizes.min()) - 1))
    queries = data.draw(st.integers(1, int(sizes.min()) - shots))
    episodes = sample_episodes(labels, ways, shots, queries, 7, rng(seed))
    assert len(episodes) == 7
    assert episodes.classes.shape == (7, ways)
    assert episodes.support.shape == (7, ways, shots) and episodes.query.shape == (7, ways, queries)
    for part in (episodes.classes, episodes.support, episodes.query):
        assert part.dtype == torch.int64 and part.is_contiguous()
    assert (labels[episodes.support] == episodes.classes[:, :, None]).all()
    assert (labels[episodes.query] == episodes.classes[:, :, None]).all()
    for e in range(7):
        assert len(episodes.classes[e].unique()) == ways
        images = torch.cat([episodes.support[e].flatten(), episodes.query[e].flatten()])
        assert len(images.unique()) == ways * (shots + queries)
    again = sample_episodes(labels, ways, shots, queries, 7, rng(seed))
    assert torch.equal(episodes.support, again.support) and torch.equal(episodes.query, again.query)


@relaxed
@given(st.integers(1, 4))
def test_choosing_is_even_over_all_ordered_choices(count: int) -> None:
    rows = [tuple(row) for row in _choose(np.full(24_000, 4), count, rng()).tolist()]
    drawn = shares(rows)
    assert drawn.keys() == set(permutations(range(4), count))
    assert all(share == pytest.approx(1 / len(drawn), abs=0.012) for share in drawn.values())


def test_choosing_respects_unequal_sizes_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_utils.data.sampling._CELLS_AT_ONCE", 50)
    sizes = rng().integers(3, 40, size=500)
    chosen = _choose(sizes, 3, rng(1))
    assert chosen.shape == (500, 3) and (chosen >= 0).all() and (chosen < sizes[:, None]).all()
    assert all(len(set(row)) == 3 for row in chosen.tolist())
    assert ((chosen / sizes[:, None]).mean(axis=0) > 0.42).all()  # the whole range is used, in every column


def test_ten_thousand_episodes_take_no_python_loop() -> None:
    labels = torch.arange(90).repeat_interleave(100)
    start = time.process_time()
    sample_episodes(labels, 5, 1, 15, 10_000, rng())
    assert time.process_time() - start < 1  # measured: 0.05 s


def test_episodes_that_cannot_be_drawn() -> None:
    labels = torch.tensor([4] * 20 + [6] * 16 + [9] * 30)
    with pytest.raises(SamplingError, match="4-way episodes need 4 classes, but there are 3"):
        sample_episodes(labels, 4, 1, 5, 10, rng())
    with pytest.raises(SamplingError, match=r"5 shots and 15 queries .* need 20 images, but class 6 has 16"):
        sample_episodes(labels, 2, 5, 15, 10, rng())
    for ways, shots, queries, count in ((0, 1, 1, 1), (2, 0, 1, 1), (2, 1, 0, 1), (2, 1, 1, 0), (2, 1.5, 1, 1)):
        with pytest.raises(SamplingError, match="whole number, 1 or more"):
            sample_episodes(labels, ways, shots, queries, count, rng())  # type: ignore[arg-type]


# --- P x K batches --------------------------------------------------------------------------------


@relaxed
@given(label_rows(min_classes=1), st.data(), seeds)
def test_batches_hold_p_classes_of_k_images(labels: torch.Tensor, data: st.DataObject, seed: int) -> None:
    sizes = labels.unique(return_counts=True)[1]
    k = data.draw(st.integers(1, int(sizes.max())))
    p = data.draw(st.integers(1, int((sizes >= k).sum())))
    batches = PKBatches(labels, p, k, seed)
    assert batches.batch_size == p * k and len(batches) == batches.steps >= 1
    for epoch in range(3):
        drawn = batches.epoch(epoch)
        assert drawn.dtype == torch.int64 and drawn.shape == (batches.steps, p * k)
        assert len(drawn.unique()) == drawn.numel()  # no image twice in an epoch
        classes = labels[drawn].view(batches.steps, p, k)
        assert (classes == classes[:, :, :1]).all()
        assert all(len(row.unique()) == p for row in classes[:, :, 0])


@relaxed
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.integers(1, 9))
def test_number_of_steps_is_the_largest_possible(stacks: list[int], p: int) -> None:
    """Taking from the p largest stacks each time is known to give the most rounds."""
    left, rounds = sorted(stacks, reverse=True), 0
    while len(left) >= p and left[p - 1] > 0:
        left = sorted([n - 1 for n in left[:p]] + left[p:], reverse=True)
        rounds += 1
    assert _most_steps(np.array(stacks), p) == rounds


def test_nearly_every_image_is_used_and_the_left_over_ones_change() -> None:
    labels = torch.arange(90).repeat_interleave(50)
    batches = PKBatches(labels, 64, 4, seed=0)
    used = [set(batches.epoch(epoch).flatten().tolist()) for epoch in range(4)]
    fillable = 90 * 12 * 4  # 50 images make 12 groups of 4
    assert all(fillable - len(one) < 64 * 4 for one in used)
    assert len(used[0] | used[1] | used[2] | used[3]) > 0.99 * len(labels)
    assert used[0] != used[1]


def test_classes_meet_at_random() -> None:
    """Any two classes share batches about equally often: a class has no fixed company."""
    labels = torch.arange(12).repeat_interleave(40)
    batches = PKBatches(labels, 4, 2, seed=0)
    together = torch.zeros(12, 12)
    for epoch in range(20):
        present = torch.zeros(batches.steps, 12)
        present.scatter_(1, labels[batches.epoch(epoch)], 1.0)
        together += present.T @ present
    pairs = together[~torch.eye(12, dtype=torch.bool)] / together.diagonal().mean()
    assert pairs.min() > 3 / 11 - 0.06 and pairs.max() < 3 / 11 + 0.06


def test_epochs_depend_on_seed_and_number_alone() -> None:
    labels = torch.arange(10).repeat_interleave(30)
    one, resumed = PKBatches(labels, 5, 4, seed=3), PKBatches(labels, 5, 4, seed=3)
    one.epoch(0)
    assert torch.equal(one.epoch(7), resumed.epoch(7))
    assert not torch.equal(one.epoch(7), one.epoch(8))
    assert not torch.equal(one.epoch(7), PKBatches(labels, 5, 4, seed=4).epoch(7))


def test_too_few_classes_raise_or_share_a_batch() -> None:
    labels = torch.arange(10).repeat_interleave(100)
    with pytest.raises(SamplingError, match=r"64 classes .* there are 10; .* 10 x 26.*allow_fewer_classes=True"):
        PKBatches(labels, 64, 4, seed=0)
    batches = PKBatches(labels, 64, 4, seed=0, allow_fewer_classes=True)
    drawn = batches.epoch(0)
    assert batches.steps == 3 and drawn.shape == (3, 256) and len(drawn.unique()) == drawn.numel()
    for batch in labels[drawn]:
        assert (batch.view(64, 4) == batch.view(64, 4)[:, :1]).all()
        counts = torch.bincount(batch, minlength=10)
        assert counts.min() >= 4 and counts.max() <= 7 * 4  # 64 groups over 10 classes: at most 7 of one
    few = PKBatches(labels, 5, 4, seed=0, allow_fewer_classes=True)
    assert torch.equal(few.epoch(2), PKBatches(labels, 5, 4, seed=0).epoch(2))  # no difference where not needed


def test_batches_that_cannot_be_made() -> None:
    labels = torch.tensor([0] * 10 + [1] * 10 + [2] * 3)
    with pytest.raises(SamplingError, match="3 classes with 4 images, but there are 2"):
        PKBatches(labels, 3, 4, seed=0)
    with pytest.raises(SamplingError, match="No class has 11 images"):
        PKBatches(labels, 1, 11, seed=0)
    with pytest.raises(SamplingError, match="do not fill one batch"):
        PKBatches(labels, 8, 4, seed=0, allow_fewer_classes=True)
    with pytest.raises(SamplingError, match="1 or more"):
        PKBatches(labels, 0, 4, seed=0)
    with pytest.raises(SamplingError, match="seed"):
        PKBatches(labels, 2, 4, seed=-1)
    with pytest.raises(SamplingError, match="0 or more"):
        PKBatches(labels, 2, 4, seed=0).epoch(-1)


def test_an_epoch_of_45000_images_is_quick() -> None:
    batches = PKBatches(torch.arange(90).repeat_interleave(500), 64, 4, seed=0)
    start = time.process_time()
    drawn = batches.epoch(0)
    assert time.process_time() - start < 0.3  # measured: 0.01 s
    assert drawn.shape == (175, 256)


def test_an_epoch_of_several_passes_holds_the_epochs_that_single_passes_are() -> None:
    labels = torch.arange(40) % 5
    single, several = PKBatches(labels, 3, 2, 1), PKBatches(labels, 3, 2, 1, passes=3)
    assert several.steps == 3 * single.steps and several.images == 3 * single.images
    parts = [single.epoch(number) for number in (3, 4, 5)]
    assert torch.equal(several.epoch(1), torch.cat(parts))
