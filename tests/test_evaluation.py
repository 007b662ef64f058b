"""Metrics against slow, obvious float64 loops, scikit-learn and easyfsl; intervals against the bootstrap."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import NearestCentroid

from siamese_utils.data.sampling import ClassIndex, named_rng, sample_episodes, sample_pairs, sample_triplets
from siamese_utils.data.splits import class_split
from siamese_utils.errors import SamplingError, ShapeError, SplitError, UnknownNameError
from siamese_utils.evaluation import episodes as evaluation_episodes
from siamese_utils.evaluation.episodes import (
    all_way_accuracy,
    all_way_confusion,
    all_way_recalls,
    episode_accuracies,
    estimate_over_images,
    few_shot_accuracy,
    few_shot_predictions,
    legacy_always_different,
    legacy_few_shot,
)
from siamese_utils.evaluation.estimates import Estimate, difference_of_shares, mean_estimate, wilson
from siamese_utils.evaluation.pairs import (
    auc,
    pair_accuracy,
    pair_auc,
    sample_similarities,
    threshold_for_balanced_accuracy,
    triplet_accuracy,
)
from siamese_utils.evaluation.protocol import METRICS, evaluate_split

relaxed = settings(deadline=None)  # a busy machine is not a failure


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def embeddings(sizes: list[int], dim: int = 8, noise: float = 1.0, seed: int = 0):
    """Unit vectors around one random centre a class, in random order; labels with gaps."""
    random = rng(seed)
    number = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    centres = random.normal(size=(len(sizes), dim))
    z = centres[number] + noise * random.normal(size=(len(number), dim))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    return torch.from_numpy(z).float(), torch.from_numpy(3 * number + 5)


def few_directions(sizes: list[int], seed: int = 0):
    """Unit vectors with coordinates 0, 1/2 or 1 and their negatives: many similarities are exactly equal."""
    random = rng(seed)
    number = random.permutation(np.repeat(np.arange(len(sizes)), sizes))
    corners = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0.5, 0.5, 0.5, 0.5], [0.5, -0.5, 0.5, -0.5], [-1, 0, 0, 0]])
    z = corners[random.integers(0, 5, size=len(number))]
    return torch.from_numpy(z).float(), torch.from_numpy(number)


def all_pairs(z: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Similarity (float32, as computed), 'same' flag and both positions of every pair."""
    first, second = np.triu_indices(len(z), 1)
    return (z @ z.T).numpy()[first, second], (labels[first] == labels[second]).numpy(), first, second


# --- intervals -------------------------------------------------------------------------------------


def test_mean_estimate_is_the_textbook_interval() -> None:
    values = rng().random(50)
    estimate = mean_estimate(torch.from_numpy(values))
    assert estimate.value == pytest.approx(100 * values.mean())
    assert estimate.ci95 == pytest.approx(100 * 1.96 * np.std(values, ddof=1) / math.sqrt(50))
    assert estimate.n == 50
    assert math.isinf(mean_estimate(torch.tensor([0.5])).ci95)
    assert str(Estimate(62.183, 0.4, 10)) == "62.18 ± 0.40"


def test_intervals_of_means_cover_the_truth_about_19_times_in_20() -> None:
    z, labels = embeddings([30] * 6, noise=1.5)
    truth = few_shot_accuracy(z, labels, rng(99), ways=3, episodes=40_000).value
    hits = 0
    for seed in range(100):
        estimate = few_shot_accuracy(z, labels, rng(seed), ways=3, episodes=100)
        hits += abs(estimate.value - truth) < estimate.ci95
    assert 88 <= hits <= 100


@pytest.mark.parametrize("hits, trials", [(0, 10), (10, 10), (7, 20), (368, 400), (1, 1)])
def test_wilson_agrees_with_scipy(hits: int, trials: int) -> None:
    interval = binomtest(hits, trials).proportion_ci(method="wilson")
    assert wilson(hits, trials) == pytest.approx((100 * interval.low, 100 * interval.high), abs=1e-2)


def test_differences_of_shares_are_those_of_newcombe() -> None:
    """His table II, method 10."""
    for first, second, low, high in (
        ((56, 70), (48, 80), 5.24, 33.39),
        ((9, 10), (3, 10), 17.05, 80.90),
        ((10, 10), (0, 10), 60.75, 100.0),
    ):
        assert difference_of_shares(*first, *second) == pytest.approx((low, high), abs=0.011)
        assert difference_of_shares(*second, *first) == pytest.approx((-high, -low), abs=0.011)


@pytest.mark.parametrize("first, second", [((3, 20), (5, 20)), ((19, 20), (150, 165))])
def test_an_interval_of_a_difference_holds_it_as_often_as_it_says(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    rng, held = np.random.default_rng(0), 0
    shares, sizes = [hits / trials for hits, trials in (first, second)], [first[1], second[1]]
    for hits in rng.binomial(sizes, shares, (400, 2)).tolist():
        low, high = difference_of_shares(hits[0], sizes[0], hits[1], sizes[1])
        held += low <= 100 * (shares[0] - shares[1]) <= high
    assert 0.92 <= held / 400 <= 0.99


@pytest.mark.parametrize("hits, trials", [(1, 0), (3, 2), (-1, 5)])
def test_wilson_refuses_nonsense(hits: int, trials: int) -> None:
    with pytest.raises(SamplingError):
        wilson(hits, trials)


# --- pairs and triplets ----------------------------------------------------------------------------


def test_triplet_accuracy_equals_the_slow_loop() -> None:
    z, labels = embeddings([20, 7, 12])
    triplets = sample_triplets(labels, 400, rng(1)).tolist()
    exact = z.double().numpy()
    right = [np.linalg.norm(exact[a] - exact[p]) < np.linalg.norm(exact[a] - exact[n]) for a, p, n in triplets]
    estimate = triplet_accuracy(z, labels, rng(1), count=400)
    share = np.mean(right)
    assert estimate.value == pytest.approx(100 * share)
    assert estimate.ci95 == pytest.approx(196 * math.sqrt(share * (1 - share) / 400))
    assert estimate.n == 400


def test_pair_accuracy_equals_the_slow_loop() -> None:
    z, labels = embeddings([20, 7, 12])
    pairs = sample_pairs(labels, 401, rng(1))
    exact = z.double().numpy()
    right = [
        (float(exact[a] @ exact[b]) > 0.3) == (labels[a] == labels[b]).item()
        for a, b in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)
    ]
    estimate = pair_accuracy(z, labels, 0.3, rng(1), count=401)
    assert estimate.value == pytest.approx(100 * np.mean(right)) and estimate.n == 401


def test_parts_do_not_change_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    z, labels = embeddings([40] * 5)

    def numbers() -> list[float]:
        return [
            triplet_accuracy(z, labels, rng(), 500).value,
            pair_accuracy(z, labels, 0.2, rng(), 500).value,
            few_shot_accuracy(z, labels, rng(), shots=3, episodes=50).value,
            legacy_few_shot(z, labels, rng(), supports=20).value,
        ]

    whole = numbers()
    monkeypatch.setattr(evaluation_episodes, "CELLS_AT_ONCE", 100)
    assert numbers() == pytest.approx(whole, abs=1e-9)


def test_sampled_similarities_are_those_of_the_pairs() -> None:
    z, labels = embeddings([10, 10, 10])
    same, different = sample_similarities(z, labels, rng(), count=3_000)
    assert len(same) == len(different) == 1_500 and same.dtype == torch.float32
    similarity, is_same, *_ = all_pairs(z, labels)
    assert same.mean().item() == pytest.approx(similarity[is_same].mean(), abs=0.03)
    assert different.mean().item() == pytest.approx(similarity[~is_same].mean(), abs=0.05)


@relaxed
@given(st.lists(st.tuples(st.integers(-8, 8), st.booleans()), min_size=2, max_size=40))
def test_threshold_is_the_best_there_is(pairs: list[tuple[int, bool]]) -> None:
    similarity = np.array([value / 8 for value, _ in pairs], dtype=np.float32)
    same = np.array([flag for _, flag in pairs])
    assume(same.any() and not same.all())
    threshold = threshold_for_balanced_accuracy(similarity, same)

    def balanced(t: float) -> float:
        return ((similarity[same] > t).mean() + (similarity[~same] <= t).mean()) / 2

    best = max(balanced(t) for t in np.arange(-17, 18) / 16)  # all values and all midpoints
    assert balanced(threshold) == pytest.approx(best)
    assert balanced_accuracy_score(same, torch.from_numpy(similarity) > threshold) == pytest.approx(best)


def test_threshold_lies_midway_and_survives_rounding() -> None:
    assert threshold_for_balanced_accuracy(torch.tensor([0.9, 0.5, 0.1]), torch.tensor([True, True, False])) == (
        pytest.approx(0.3)
    )
    near = np.array([0.5, np.nextafter(np.float32(0.5), np.float32(0))], dtype=np.float32)
    threshold = threshold_for_balanced_accuracy(near, np.array([True, False]))
    assert (torch.from_numpy(near) > threshold).tolist() == [True, False]


def test_threshold_bad_input() -> None:
    with pytest.raises(SamplingError, match="both same and different"):
        threshold_for_balanced_accuracy(torch.ones(3), torch.ones(3, dtype=torch.bool))
    with pytest.raises(ShapeError, match="equal length"):
        threshold_for_balanced_accuracy(torch.ones(3), torch.ones(2, dtype=torch.bool))
    with pytest.raises(ShapeError, match="true or false"):
        threshold_for_balanced_accuracy(torch.ones(3), torch.ones(3))


# --- AUC -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [embeddings, few_directions])
@pytest.mark.parametrize("sizes", [[2, 1], [9, 9, 9, 9], [1, 30, 5, 1, 12]])
def test_pair_auc_equals_scikit_learn(make, sizes: list[int]) -> None:
    z, labels = make(sizes)
    similarity, same, *_ = all_pairs(z, labels)
    estimate = pair_auc(z, labels)
    # Products summed in another order differ in the last digit, so near-ties may be ordered differently.
    assert estimate.value == pytest.approx(100 * roc_auc_score(same, similarity), abs=1e-3)
    if make is few_directions:
        assert estimate.value == pytest.approx(100 * roc_auc_score(same, similarity), abs=1e-10)
    assert estimate.n == len(similarity)


def slow_auc_interval(z: torch.Tensor, labels: torch.Tensor) -> float:
    """Derivative of the AUC by the weight of each image, by finite differences in float64."""
    similarity, same, first, second = all_pairs(z.double(), labels)

    def auc(weights: np.ndarray) -> float:
        return roc_auc_score(same, similarity, sample_weight=weights[first] * weights[second])

    derivatives = np.empty(len(z))
    for i in range(len(z)):
        up, down = np.ones(len(z)), np.ones(len(z))
        up[i], down[i] = 1 + 1e-4, 1 - 1e-4
        derivatives[i] = (auc(up) - auc(down)) / 2e-4
    variance = 0.0
    for label in labels.unique():
        own = derivatives[(labels == label).numpy()]
        variance += ((own - own.mean()) ** 2).sum()
    return 196 * math.sqrt(variance)


@pytest.mark.parametrize("make", [embeddings, few_directions])
def test_interval_of_the_auc_is_the_infinitesimal_jackknife(make) -> None:
    z, labels = make([6, 12, 1, 9])
    assert pair_auc(z, labels).ci95 == pytest.approx(slow_auc_interval(z, labels), rel=2e-3)


def test_interval_of_the_auc_agrees_with_the_bootstrap_over_images() -> None:
    z, labels = embeddings([25] * 6, noise=1.3)
    similarity, same, first, second = all_pairs(z, labels)
    random = rng(1)
    members = [np.flatnonzero(labels.numpy() == label) for label in labels.unique().tolist()]
    aucs = []
    for _ in range(400):
        # An image drawn twice weighs twice; a pair of an image with itself is not a pair.
        weights = np.zeros(len(z))
        for own in members:
            weights[own] = random.multinomial(len(own), np.full(len(own), 1 / len(own)))
        pair_weights = weights[first] * weights[second]
        kept = pair_weights > 0
        aucs.append(roc_auc_score(same[kept], similarity[kept], sample_weight=pair_weights[kept]))
    assert pair_auc(z, labels).ci95 == pytest.approx(196 * np.std(aucs), rel=0.12)


def test_auc_of_too_many_pairs_uses_a_subset_of_each_class() -> None:
    z, labels = embeddings([60] * 8, noise=1.2)
    whole = pair_auc(z, labels)
    part = pair_auc(z, labels, rng(0), max_pairs=20_000)
    assert 18_000 < part.n <= 20_000 < whole.n
    assert abs(part.value - whole.value) < 2 * part.ci95
    assert part.ci95 > whole.ci95
    assert part == pair_auc(z, labels, rng(0), max_pairs=20_000)
    assert part != pair_auc(z, labels, rng(1), max_pairs=20_000)


def test_many_classes_of_two_images_are_kept_within_bounds() -> None:
    z, labels = embeddings([2] * 400 + [1] * 200, noise=1.2)
    whole, part = pair_auc(z, labels), pair_auc(z, labels, rng(0), max_pairs=20_000)
    assert 15_000 < part.n <= 20_000 < whole.n
    assert part.value == pytest.approx(whole.value, abs=2)  # of other classes, which the interval does not cover


def test_auc_at_its_ends() -> None:
    labels = torch.arange(4).repeat_interleave(10)
    perfect = pair_auc(torch.eye(4)[labels], labels)
    assert (perfect.value, perfect.ci95) == (100.0, 0.0)
    collapsed = pair_auc(torch.eye(4)[torch.zeros(40, dtype=torch.int64)], labels)
    assert (collapsed.value, collapsed.ci95) == (50.0, pytest.approx(0.0, abs=1e-6))


# --- few-shot --------------------------------------------------------------------------------------


def slow_episode(z: torch.Tensor, support: torch.Tensor, query: torch.Tensor) -> float:
    """Accuracy of one episode, in float64; the right class among t equally near ones counts 1/t."""
    exact = z.double().numpy()
    prototypes = []
    for images in support.tolist():
        mean = sum(exact[image] for image in images) / len(images)
        prototypes.append(mean / np.linalg.norm(mean))
    credit = []
    for way, images in enumerate(query.tolist()):
        for image in images:
            similarity = np.array([prototype @ exact[image] for prototype in prototypes])
            best = np.flatnonzero(similarity > similarity.max() - 1e-9)
            credit.append(1 / len(best) if way in best else 0)
    return float(np.mean(credit))


@pytest.mark.parametrize("with_gram", [True, False])
@pytest.mark.parametrize(("ways", "shots", "queries"), [(2, 1, 1), (5, 1, 4), (5, 5, 3), (7, 3, 2)])
def test_episodes_equal_the_slow_loop(
    ways: int, shots: int, queries: int, with_gram: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluation_episodes, "MAX_GRAM", 0)  # no table but the one that is given
    z, labels = embeddings([8, 9, 10, 11, 12, 13, 14])
    episodes = sample_episodes(labels, ways, shots, queries, 40, rng())
    fast = episode_accuracies(z, episodes, z @ z.T if with_gram else None)
    slow = [slow_episode(z, episodes.support[e], episodes.query[e]) for e in range(40)]
    assert fast.dtype == torch.float64
    assert fast.tolist() == pytest.approx(slow, abs=1e-6)


def test_looking_up_and_computing_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    z, labels = embeddings([30] * 8, dim=16, noise=2.0)
    by_lookup = few_shot_accuracy(z, labels, rng(), shots=5, episodes=500)
    all_way_by_lookup = all_way_accuracy(z, labels, rng(), supports=40)
    monkeypatch.setattr(evaluation_episodes, "MAX_GRAM", 0)
    computed = few_shot_accuracy(z, labels, rng(), shots=5, episodes=500)
    assert computed.value == pytest.approx(by_lookup.value, abs=0.01)
    assert all_way_accuracy(z, labels, rng(), 40).value == pytest.approx(all_way_by_lookup.value, abs=0.02)


def test_ties_share_the_credit() -> None:
    z, labels = few_directions([9, 10, 11, 12])
    episodes = sample_episodes(labels, 4, 1, 6, 30, rng())
    slow = [slow_episode(z, episodes.support[e], episodes.query[e]) for e in range(30)]
    assert episode_accuracies(z, episodes).tolist() == pytest.approx(slow, abs=1e-6)


@pytest.mark.parametrize("shots", [1, 5])
def test_episodes_equal_scikit_learn(shots: int) -> None:
    z, labels = embeddings([25] * 6, dim=12)
    episodes = sample_episodes(labels, 5, shots, 10, 30, rng())
    fast = episode_accuracies(z, episodes)
    for e in range(30):
        prototypes = F.normalize(z[episodes.support[e]].double().mean(1), dim=1)
        spread = 0.01 * rng(e).normal(size=prototypes.shape)  # a class of one point makes scikit-learn warn
        points = np.concatenate([prototypes.numpy() + spread, prototypes.numpy() - spread])
        model = NearestCentroid().fit(points, np.tile(np.arange(5), 2))
        predicted = model.predict(z[episodes.query[e].flatten()].double().numpy())
        assert fast[e].item() == pytest.approx(np.mean(predicted == np.repeat(np.arange(5), 10)))


def test_one_shot_episodes_equal_easyfsl() -> None:
    methods = pytest.importorskip("easyfsl.methods")
    z, labels = embeddings([25] * 6, dim=12)
    episodes = sample_episodes(labels, 5, 1, 15, 40, rng())
    model = methods.PrototypicalNetworks(torch.nn.Identity())
    theirs = []
    for e in range(40):
        model.process_support_set(z[episodes.support[e].flatten()], torch.arange(5))
        predicted = model(z[episodes.query[e].flatten()]).argmax(1).view(5, 15)
        theirs.append((predicted == torch.arange(5)[:, None]).double().mean().item())
    assert episode_accuracies(z, episodes).tolist() == pytest.approx(theirs)


def test_ten_thousand_episodes_are_quick() -> None:
    z, labels = embeddings([100] * 10, dim=64)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # waiting threads would count as processor time on a busy machine
    try:
        start = time.process_time()
        estimate = few_shot_accuracy(z, labels, rng())
        assert time.process_time() - start < 1  # measured: 0.1 s
    finally:
        torch.set_num_threads(threads)
    assert estimate.n == 10_000


def test_collapsed_embeddings_score_chance_and_perfect_ones_everything() -> None:
    labels = torch.arange(8).repeat_interleave(20)
    collapsed = F.normalize(torch.ones(160, 4), dim=1)
    perfect = torch.eye(8)[labels]
    assert few_shot_accuracy(collapsed, labels, rng(), episodes=50).value == pytest.approx(20)
    assert few_shot_accuracy(collapsed, labels, rng(), shots=5, episodes=50).value == pytest.approx(20)
    assert all_way_accuracy(collapsed, labels, rng(), 5).value == pytest.approx(100 / 8)
    assert few_shot_accuracy(perfect, labels, rng(), shots=2, episodes=50).value == 100
    assert all_way_accuracy(perfect, labels, rng(), 5).value == 100


# --- all-way and legacy ----------------------------------------------------------------------------


def supports_of(labels: torch.Tensor, count: int, seed: int) -> list[list[int]]:
    return evaluation_episodes._random_supports(ClassIndex(labels), rng(seed), count).tolist()


@pytest.mark.parametrize("make", [embeddings, few_directions])
def test_all_way_accuracy_equals_the_slow_loop(make) -> None:
    z, labels = make([6, 9, 4, 7])
    classes = labels.unique().tolist()
    exact = z.double().numpy()
    accuracies = []
    for support in supports_of(labels, 30, seed=2):
        assert labels[support].tolist() == classes
        credit = []
        for image in set(range(len(z))) - set(support):
            similarity = exact[support] @ exact[image]
            best = np.flatnonzero(similarity > similarity.max() - 1e-9)
            credit.append(1 / len(best) if classes.index(labels[image]) in best else 0)
        accuracies.append(np.mean(credit))
    estimate = all_way_accuracy(z, labels, rng(2), supports=30)
    assert estimate.value == pytest.approx(100 * np.mean(accuracies), abs=1e-4)
    assert estimate.ci95 == pytest.approx(196 * np.std(accuracies, ddof=1) / math.sqrt(30), abs=1e-4)


def test_supports_are_drawn_evenly() -> None:
    labels = torch.tensor([0] * 4 + [7] * 2)
    supports = torch.tensor(supports_of(labels, 8_000, seed=0))
    share = torch.bincount(supports.flatten(), minlength=6) / 8_000
    assert share.tolist() == pytest.approx([0.25] * 4 + [0.5] * 2, abs=0.02)


def test_confusion_adds_up_to_the_all_way_accuracy() -> None:
    z, labels = embeddings([12] * 5, noise=1.5)
    classes, confusion = all_way_confusion(z, labels, rng(3), supports=25)
    assert torch.equal(classes, labels.unique())
    assert confusion.sum(1).tolist() == pytest.approx([1.0] * 5)
    assert 100 * confusion.diagonal().mean().item() == pytest.approx(
        all_way_accuracy(z, labels, rng(3), supports=25).value
    )
    with pytest.raises(SamplingError, match="second image"):
        all_way_confusion(z[:3], torch.tensor([1, 1, 2]), rng())


def test_recalls_of_single_supports() -> None:
    z, labels = embeddings([9, 12, 7, 12], noise=1.5)
    classes, recalls = all_way_recalls(z, labels, rng(3), supports=25)
    assert torch.equal(classes, labels.unique()) and recalls.shape == (25, 4)
    _, confusion = all_way_confusion(z, labels, rng(3), supports=25)
    assert recalls.mean(0).tolist() == pytest.approx(confusion.diagonal().tolist())
    similarity = z.double() @ z.double().T
    for row, support in zip(recalls.tolist(), supports_of(labels, 25, seed=3), strict=True):
        for number, label in enumerate(classes.tolist()):
            queries = [q for q in (labels == label).nonzero().flatten().tolist() if q not in support]
            right = [int(similarity[support, q].argmax()) == number for q in queries]
            assert row[number] == pytest.approx(np.mean(right))
    with pytest.raises(SamplingError, match="second image"):
        all_way_recalls(z[:3], torch.tensor([1, 1, 2]), rng())


@pytest.mark.parametrize("make", [embeddings, few_directions])
def test_legacy_metric_equals_the_slow_loop(make) -> None:
    z, labels = make([6, 9, 4, 7])
    similarity = z.double() @ z.double().T
    shares = []
    for support in supports_of(labels, 20, seed=4):
        queries = sorted(set(range(len(z))) - set(support))
        answers = [(similarity[s, q] > 0.2) == (labels[s] == labels[q]) for s in support for q in queries]
        shares.append(np.mean([bool(answer) for answer in answers]))
    estimate = legacy_few_shot(z, labels, rng(4), supports=20)
    assert estimate.value == pytest.approx(100 * np.mean(shares))
    assert estimate.n == 20


def test_always_answering_different_scores_what_is_said() -> None:
    for sizes in ([10, 10, 10], [5, 12, 7, 30]):
        z, labels = embeddings(sizes)
        always = legacy_few_shot(z, labels, rng(), threshold=1.1, supports=5)
        assert always.value == pytest.approx(legacy_always_different(len(sizes)))
        assert always.ci95 == pytest.approx(0, abs=1e-9)
    assert legacy_always_different(10) == 90
    assert legacy_always_different(90) == pytest.approx(98.89, abs=0.01)
    with pytest.raises(SamplingError, match="1 or more"):
        legacy_always_different(0)


# --- single tasks ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("ways", "shots"), [(None, 1), (None, 4), (3, 2)])
def test_predictions_hold_every_answer(ways: int | None, shots: int) -> None:
    z, labels = embeddings([8, 9, 10, 11, 12])
    task = few_shot_predictions(z, labels, rng(1), ways=ways, shots=shots)
    count = ways or 5
    assert task.support.shape == (count, shots)
    assert torch.equal(labels[task.support], task.classes[:, None].expand(-1, shots))
    assert torch.equal(task.true, labels[task.query])
    of_classes = torch.nonzero(torch.isin(labels, task.classes)).squeeze(1)
    assert torch.equal(torch.cat([task.query, task.support.flatten()]).sort().values, of_classes)
    exact = z.double()
    for row, image in enumerate(task.query.tolist()):
        expected = [F.cosine_similarity(exact[own].mean(0), exact[image], dim=0).item() for own in task.support]
        assert task.similarity[row].tolist() == pytest.approx(expected, abs=1e-5)
        assert task.predicted[row] == task.classes[int(np.argmax(expected))]
        best, second = sorted(expected, reverse=True)[:2]
        assert task.margin[row].item() == pytest.approx(best - second, abs=1e-5)
    assert torch.equal(task.correct, task.predicted == task.true)


# --- evaluate_split --------------------------------------------------------------------------------

QUICK = {"samples": 500, "episodes": 100, "supports": 20}


@pytest.fixture(scope="module")
def thirty_classes() -> tuple[torch.Tensor, torch.Tensor]:
    random = rng(5)
    labels = np.repeat(np.arange(30), 22)
    z = random.normal(size=(30, 16))[labels] + 1.2 * random.normal(size=(len(labels), 16))
    return F.normalize(torch.from_numpy(z).float(), dim=1), torch.from_numpy(labels)


def test_evaluation_has_every_metric(thirty_classes: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, labels = thirty_classes
    split = class_split("20-10", draw=1, num_classes=30)
    seen = torch.isin(labels, torch.tensor(split.seen))
    result = evaluate_split((z[seen], labels[seen]), z, labels, split, seed=3, **QUICK)
    assert list(result.metrics) == list(METRICS)
    assert result.metrics["legacy_always_different"] == Estimate(90.0, 0.0, 20)
    for name, estimate in result.metrics.items():
        assert 0 <= estimate.value <= 100 and 0 <= estimate.ci95 < 30 and estimate.n > 0, name

    similarity, same, *_ = all_pairs(z[seen], labels[seen])
    assert result.threshold == pytest.approx(threshold_for_balanced_accuracy(similarity, same), abs=1e-4)
    unseen_z, unseen = z[~seen], labels[~seen]
    direct = {
        "triplet_acc_unseen": triplet_accuracy(unseen_z, unseen, named_rng(3, "triplet_acc_unseen"), 500),
        "pair_acc_seen": pair_accuracy(z[seen], labels[seen], result.threshold, named_rng(3, "pair_acc_seen"), 500),
        "pair_auc_unseen": pair_auc(unseen_z, unseen),
        "acc_5w5s": few_shot_accuracy(unseen_z, unseen, named_rng(3, "acc_5w5s"), shots=5, episodes=100),
        "acc_allway_1s": all_way_accuracy(unseen_z, unseen, named_rng(3, "acc_allway_1s"), 20),
        "legacy_few_shot": legacy_few_shot(unseen_z, unseen, named_rng(3, "legacy_few_shot"), supports=20),
    }
    for name, estimate in direct.items():
        assert result.metrics[name].value == pytest.approx(estimate.value, abs=1e-3), name


def test_metrics_do_not_influence_each_other(thirty_classes: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, labels = thirty_classes
    split = class_split("20-10", num_classes=30)
    held_out = (z[:440], labels[:440])
    whole = evaluate_split(held_out, z, labels, split, **QUICK)
    some = evaluate_split(held_out, z, labels, split, metrics=["acc_5w5s", "pair_acc_unseen"], **QUICK)
    assert list(some.metrics) == ["acc_5w5s", "pair_acc_unseen"]
    assert all(some.metrics[name] == whole.metrics[name] for name in some.metrics)
    assert whole == evaluate_split(held_out, z, labels, split, **QUICK)
    assert whole != evaluate_split(held_out, z, labels, split, seed=1, **QUICK)


def test_numbers_of_seen_classes_do_not_depend_on_unseen_images(
    thirty_classes: tuple[torch.Tensor, torch.Tensor],
) -> None:
    z, labels = thirty_classes
    split = class_split("20-10", num_classes=30)
    held_out = (z[:440], labels[:440])
    whole = evaluate_split(held_out, z, labels, split, **QUICK)
    noise = z.clone()
    noise[labels >= 20] = F.normalize(torch.randn(220, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    changed = evaluate_split(held_out, noise, labels, split, **QUICK)
    assert changed.threshold == whole.threshold
    for name in METRICS:
        if name.endswith("_seen"):
            assert changed.metrics[name] == whole.metrics[name]
    assert changed.metrics["acc_5w1s"].value < whole.metrics["acc_5w1s"].value - 5


def test_split_without_unseen_classes(thirty_classes: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, labels = thirty_classes
    split = class_split("30-0", num_classes=30)
    result = evaluate_split((z, labels), z, labels, split, **QUICK)
    assert list(result.metrics) == ["triplet_acc_seen", "pair_acc_seen", "pair_auc_seen"]
    with pytest.raises(SplitError, match="no unseen classes, so acc_5w1s has no value"):
        evaluate_split((z, labels), z, labels, split, metrics=["acc_5w1s"])


def test_nothing_may_be_chosen_on_unseen_classes(thirty_classes: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, labels = thirty_classes
    split = class_split("20-10", num_classes=30)
    with pytest.raises(SplitError, match=r"class 20, which split 20-10 .* does not train on"):
        evaluate_split((z, labels), z, labels, split)


def test_evaluation_bad_input(thirty_classes: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, labels = thirty_classes
    split = class_split("20-10", num_classes=30)
    held_out = (z[:440], labels[:440])
    with pytest.raises(UnknownNameError, match=r"Unknown metric 'acc_5w1'.*Did you mean 'acc_5w1s'"):
        evaluate_split(held_out, z, labels, split, metrics=["acc_5w1"])
    with pytest.raises(SplitError, match="none of class 29"):
        evaluate_split(held_out, z[labels < 29], labels[labels < 29], split)
    with pytest.raises(SamplingError, match="need 20 images, but class"):
        few = torch.arange(len(z)) % 22 < 18
        evaluate_split(held_out, z[few], labels[few], split, **QUICK)


@pytest.mark.parametrize(
    "metric",
    [
        lambda z, y: triplet_accuracy(z, y, rng(), 10),
        lambda z, y: pair_accuracy(z, y, 0.2, rng(), 10),
        lambda z, y: pair_auc(z, y),
        lambda z, y: few_shot_accuracy(z, y, rng(), ways=2, queries=2, episodes=5),
        lambda z, y: all_way_accuracy(z, y, rng(), 3),
        lambda z, y: all_way_confusion(z, y, rng(), 3),
        lambda z, y: legacy_few_shot(z, y, rng(), supports=3),
        lambda z, y: few_shot_predictions(z, y, rng()),
        lambda z, y: sample_similarities(z, y, rng(), 10),
    ],
)
def test_embeddings_are_checked(metric) -> None:
    z, labels = embeddings([6, 6, 6])
    metric(z, labels)
    metric(z.numpy().astype(np.float64), labels.numpy().astype(np.int32))  # arrays and other types will do
    with pytest.raises(ShapeError, match="row 4 has length 2"):
        longer = z.clone()
        longer[4] *= 2
        metric(longer, labels)
    with pytest.raises(ShapeError, match="row 4 has length nan"):
        broken = z.clone()
        broken[4, 0] = torch.nan
        metric(broken, labels)
    with pytest.raises(ShapeError, match="shape \\(18,\\)"):
        metric(z[:, 0], labels)
    with pytest.raises(ShapeError, match=r"type torch.int64"):
        metric(z.long(), labels)
    with pytest.raises(ShapeError, match="18 whole numbers, one for each embedding"):
        metric(z, labels[:-1])
    with pytest.raises(ShapeError, match="18 whole numbers"):
        metric(z, labels.float())
    with pytest.raises(SamplingError):
        metric(z, torch.zeros(18, dtype=torch.int64))  # one class


def test_more_ways_than_classes_and_more_shots_than_images() -> None:
    z, labels = embeddings([20, 20, 18])
    with pytest.raises(SamplingError, match="4-way episodes need 4 classes, but there are 3"):
        few_shot_accuracy(z, labels, rng(), ways=4)
    with pytest.raises(SamplingError, match=r"need 20 images, but class .* has 18"):
        few_shot_accuracy(z, labels, rng(), ways=2, shots=5)
    with pytest.raises(SamplingError, match="has 18; use fewer shots"):
        few_shot_predictions(z, labels, rng(), shots=18)
    with pytest.raises(SamplingError, match="2 classes or more to choose between"):
        few_shot_predictions(z, labels, rng(), ways=1)
    with pytest.raises(SamplingError, match="1 or more"):
        all_way_accuracy(z, labels, rng(), supports=0)


# --------------------------------------------------------------------------- intervals over images, not episodes


@pytest.mark.parametrize(("of_class", "shots"), [(16, 1), (16, 5), (6, 1)])
def test_an_interval_over_images_is_as_wide_as_other_images_make_it(of_class: int, shots: int) -> None:
    """Other images of the same classes give other accuracies, whose spread one set of images is to foretell."""
    generator = torch.Generator().manual_seed(0)
    centres, labels = 0.6 * torch.randn(6, 16, generator=generator), torch.arange(6).repeat_interleave(of_class)
    values, halves = [], []
    for number in range(40):
        z = centres[labels] + torch.randn(len(labels), 16, generator=generator)
        drawn = sample_episodes(labels, 5, shots, 1, 3_000, number)
        found = estimate_over_images(episode_accuracies(F.normalize(z, dim=1), drawn), drawn, labels)
        assert found.n == len(labels)
        values.append(found.value)
        halves.append(found.ci95)
    spread = 1.96 * np.std(values)
    assert 0.9 * spread < np.sqrt(np.mean(np.square(halves))) < 1.6 * spread
    narrow = few_shot_accuracy(F.normalize(z, dim=1), labels, 0, shots=shots, queries=1, episodes=3_000)
    assert narrow.ci95 < halves[-1] / 3  # the interval over episodes says nothing of images


def test_an_interval_over_images_is_not_known_where_none_is_ever_left_out() -> None:
    labels = torch.arange(8) // 2
    drawn = sample_episodes(labels, 2, 1, 1, 50, 0)
    assert estimate_over_images(torch.rand(50), drawn, labels).ci95 == math.inf
    with pytest.raises(ShapeError, match="50 episodes need"):
        estimate_over_images(torch.rand(49), drawn, labels)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30), st.integers(0, 2**31 - 1))
def test_the_area_under_the_curve_is_that_of_scikit_learn(scores: list[int], seed: int) -> None:
    same = np.random.default_rng(seed).random(len(scores)) < 0.5
    assume(0 < same.sum() < len(same))
    assert auc(np.array(scores, dtype=float), same) == pytest.approx(100 * roc_auc_score(same, scores))
