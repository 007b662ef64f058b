"""Distances, miners and objectives against slow obvious loops and against pytorch-metric-learning."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import distances as pml_distances
from pytorch_metric_learning import losses as pml_losses
from pytorch_metric_learning import miners as pml_miners
from pytorch_metric_learning import reducers as pml_reducers

from siamese_utils.errors import ConfigError, SamplingError, ShapeError, UnknownNameError
from siamese_utils.training.losses import (
    DISTANCES,
    MINERS,
    OBJECTIVE_FIELDS,
    OBJECTIVES,
    ContrastiveObjective,
    LinearObjective,
    ObjectiveOutput,
    PairObjective,
    ProxyObjective,
    RotationObjective,
    SupConObjective,
    Term,
    TripletObjective,
    WeightedSum,
    embedding_spread,
    mine_batch_all,
    mine_batch_hard,
    mine_random,
    mine_semi_hard,
    positive_pairs,
)

MARGIN = 0.2


def batch(classes: int = 5, per_class: int = 3, dim: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random embeddings float32 (B, D) in shuffled order, labels int64 (B,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(classes).repeat_interleave(per_class)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return torch.randn(len(labels), dim, generator=generator), labels


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Batches of any composition that holds at least one triplet."""
    labels = draw(st.lists(st.integers(0, 3), min_size=3, max_size=12))
    labels += [labels[0], (labels[0] + 1) % 4]  # a positive and a negative for the first image
    seed = draw(st.integers(0, 10_000))
    z = torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed))
    return z, torch.tensor(labels)


# ------------------------------------------------------------------------------------ slow references


def slow_distance(name: str, a: np.ndarray, b: np.ndarray) -> float:
    if name == "cosine":
        return 1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))
    return math.sqrt(float(((a - b) ** 2).sum()))


def slow_triplets(z: torch.Tensor, labels: torch.Tensor, distance: str, mining: str) -> list[tuple[float, float]]:
    """(d(a,p), d(a,n)) of every mined triplet, in float64, by loops over the definition."""
    points, classes = z.double().numpy(), labels.tolist()
    everyone = range(len(classes))
    found = []
    for a in everyone:
        to = [slow_distance(distance, points[a], point) for point in points]
        positives = [to[p] for p in everyone if p != a and classes[p] == classes[a]]
        negatives = [to[n] for n in everyone if classes[n] != classes[a]]
        if not positives:
            continue
        if mining == "batch_all":
            found += list(itertools.product(positives, negatives))
        elif mining == "batch_hard":
            found.append((max(positives), min(negatives)))
        elif mining == "semi_hard":
            for positive in positives:
                beyond = [n for n in negatives if n > positive]
                found.append((positive, min(beyond) if beyond else max(negatives)))
    return found


def slow_loss(triplets: list[tuple[float, float]], margin: float, temperature: float | None) -> float:
    if temperature is None:
        violations = [p - n + margin for p, n in triplets if p - n + margin > 0]
        return sum(violations) / len(violations) if violations else 0.0
    return sum(math.log1p(math.exp((p - n) / temperature)) for p, n in triplets) / len(triplets)


def mined_pairs(z: torch.Tensor, labels: torch.Tensor, distance: str, mining: str) -> np.ndarray:
    """The chosen (d(a,p), d(a,n)) of a miner, sorted, float64 (M, 2)."""
    mined = MINERS[mining](DISTANCES[distance](z.double()), labels)
    to_positive, to_negative = torch.broadcast_tensors(mined.to_positive, mined.to_negative)
    assert mined.chosen.shape == to_negative.shape and mined.chosen.dtype == torch.bool
    return as_sorted(torch.stack([to_positive[mined.chosen], to_negative[mined.chosen]], dim=1).tolist())


def as_sorted(triplets: list[tuple[float, float]]) -> np.ndarray:
    pairs = np.asarray(triplets)
    return pairs[np.lexsort(np.round(pairs, 7).T)]  # rounded, so that the last bit does not decide between equals


# ----------------------------------------------------------------------------------------- distances


@pytest.mark.parametrize("name", DISTANCES)
def test_distance_agrees_with_a_loop(name: str) -> None:
    z, _ = batch()
    expected = [[slow_distance(name, a, b) for b in z.double().numpy()] for a in z.double().numpy()]
    np.testing.assert_allclose(DISTANCES[name](z.double()), expected, atol=1e-7)
    np.testing.assert_allclose(DISTANCES[name](z), expected, atol=2e-6)


def test_distances_agree_with_pytorch_metric_learning() -> None:
    z, _ = batch()
    cosine = 1 - pml_distances.CosineSimilarity()(z)
    euclidean = pml_distances.LpDistance(normalize_embeddings=False, p=2)(z)
    torch.testing.assert_close(DISTANCES["cosine"](z), cosine, atol=1e-5, rtol=0)
    # Theirs takes a root of a clamped sum, so its diagonal is not exactly zero.
    torch.testing.assert_close(DISTANCES["euclidean"](z), euclidean, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("name", DISTANCES)
def test_distance_is_symmetric_and_zero_on_the_diagonal(name: str) -> None:
    distance = DISTANCES[name](batch()[0])
    torch.testing.assert_close(distance, distance.T, atol=1e-6, rtol=0)
    torch.testing.assert_close(distance.diagonal(), torch.zeros(len(distance)), atol=1e-6, rtol=0)


def test_cosine_ignores_length_and_euclidean_does_not() -> None:
    z, _ = batch()
    longer = z * torch.linspace(0.5, 7, len(z))[:, None]
    torch.testing.assert_close(DISTANCES["cosine"](longer), DISTANCES["cosine"](z), atol=1e-6, rtol=0)
    assert not torch.allclose(DISTANCES["euclidean"](longer), DISTANCES["euclidean"](z), atol=0.1)


def test_euclidean_keeps_small_distances_of_far_points() -> None:
    # From dot products, float32 would lose this distance entirely.
    z = torch.tensor([[1000.0, 0.0], [1000.001, 0.0]])
    assert DISTANCES["euclidean"](z)[0, 1].item() == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("spread", [1.0, 1e-2])
def test_euclidean_agrees_with_differences_in_double_precision(offset: float, spread: float) -> None:
    """Distances and gradients, also of a batch that lies close together far from zero."""
    z = offset + spread * torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    z[1] = z[0]
    wide, z = z.double().requires_grad_(), z.requires_grad_()
    expected = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist")
    ours = DISTANCES["euclidean"](z)
    torch.testing.assert_close(ours, expected.float(), atol=0, rtol=1e-5)
    weights = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    (expected * weights).sum().backward()
    assert z.grad is not None and wide.grad is not None
    torch.testing.assert_close(z.grad, wide.grad.float(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", DISTANCES)
def test_distance_gradient(name: str) -> None:
    z = batch(classes=3, per_class=2, dim=3)[0].double().requires_grad_()
    apart = ~torch.eye(len(z), dtype=torch.bool)  # at zero distance the Euclidean one has no derivative
    assert torch.autograd.gradcheck(lambda x: DISTANCES[name](x)[apart], z)


@pytest.mark.parametrize("name", DISTANCES)
@pytest.mark.parametrize("mining", MINERS)
def test_gradient_is_finite_when_rows_coincide(name: str, mining: str) -> None:
    z, labels = batch()
    z[1] = z[0]
    z[2:4] = 0  # zero has no direction
    z.requires_grad_()
    TripletObjective(name, mining)(z, labels).loss.backward()
    assert z.grad is not None and z.grad.isfinite().all()


# -------------------------------------------------------------------------------------------- mining


def test_positive_pairs_are_all_ordered_pairs() -> None:
    labels = torch.tensor([0, 1, 0, 2, 0])
    pairs = set(zip(*(t.tolist() for t in positive_pairs(labels)), strict=True))
    assert pairs == {(0, 2), (0, 4), (2, 0), (2, 4), (4, 0), (4, 2)}


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mining", ["batch_all", "batch_hard", "semi_hard"])
@settings(max_examples=15)
@given(data=batches())
def test_miner_agrees_with_a_loop(distance: str, mining: str, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, labels = data
    expected = as_sorted(slow_triplets(z, labels, distance, mining))
    np.testing.assert_allclose(mined_pairs(z, labels, distance, mining), expected, atol=1e-9)


def test_batch_hard_agrees_with_pytorch_metric_learning() -> None:
    z, labels = batch()
    miner = pml_miners.BatchHardMiner(distance=pml_distances.LpDistance(normalize_embeddings=False))
    anchors, positives, negatives = miner(z.double(), labels)
    distance = DISTANCES["euclidean"](z.double())
    expected = as_sorted(torch.stack([distance[anchors, positives], distance[anchors, negatives]], 1).tolist())
    np.testing.assert_allclose(mined_pairs(z, labels, "euclidean", "batch_hard"), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_semi_hard_agrees_with_batch_easy_hard_miner(seed: int) -> None:
    # Theirs mines once an anchor, ours once a positive pair, so the two coincide where a class has two images.
    # Where every negative is nearer than the positive, theirs drops the anchor and ours takes the farthest.
    z, labels = batch(classes=6, per_class=2, dim=3, seed=seed)
    lp = pml_distances.LpDistance(normalize_embeddings=False)
    miner = pml_miners.BatchEasyHardMiner(pos_strategy="hard", neg_strategy="semihard", distance=lp)
    anchors, positives, _, negatives = miner(z.double(), labels)
    distance = DISTANCES["euclidean"](z.double())
    expected = as_sorted(torch.stack([distance[anchors, positives], distance[anchors, negatives]], 1).tolist())
    ours = mined_pairs(z, labels, "euclidean", "semi_hard")
    assert 0 < len(expected) <= len(ours) == len(labels)
    np.testing.assert_allclose(ours[ours[:, 1] > ours[:, 0]], expected, atol=1e-12)


def test_semi_hard_is_the_nearest_of_the_triplet_margin_miner() -> None:
    # Theirs gives every negative beyond the positive by at most the margin, ours the nearest of them. With a
    # margin that no distance exceeds, theirs are all the negatives beyond.
    z, labels = batch(seed=4)
    lp = pml_distances.LpDistance(normalize_embeddings=False)
    miner = pml_miners.TripletMarginMiner(margin=1e6, type_of_triplets="semihard", distance=lp)
    distance = DISTANCES["euclidean"](z.double())
    nearest: dict[tuple[int, int], float] = {}
    for a, p, n in zip(*(index.tolist() for index in miner(z.double(), labels)), strict=True):
        nearest[a, p] = min(nearest.get((a, p), math.inf), float(distance[a, n]))
    expected = as_sorted([(float(distance[pair]), n) for pair, n in nearest.items()])
    ours = mined_pairs(z, labels, "euclidean", "semi_hard")
    np.testing.assert_allclose(ours[ours[:, 1] > ours[:, 0]], expected, atol=1e-12)


def test_random_mining_draws_real_triplets_of_every_anchor() -> None:
    z, labels = batch(classes=3, per_class=3, dim=4)
    labels[0] = 9  # an image without a partner is nobody's anchor
    distance = DISTANCES["euclidean"](z.double())
    same = labels[:, None] == labels[None, :]
    partner = same & ~torch.eye(len(labels), dtype=torch.bool)
    anchors = partner.any(1).nonzero().squeeze(1)
    torch.manual_seed(0)
    used_positive, used_negative = set(), set()
    for _ in range(100):
        mined = mine_random(distance, labels)
        assert mined.to_positive.shape == mined.to_negative.shape == (len(anchors),) and mined.chosen.all()
        for a, p, n in zip(anchors, mined.to_positive, mined.to_negative, strict=True):
            p_index, n_index = (distance[a] == p).nonzero().item(), (distance[a] == n).nonzero().item()
            assert partner[a, p_index] and not same[a, n_index]
            used_positive.add((int(a), p_index))
            used_negative.add((int(a), n_index))
    assert len(used_positive) == int(partner.sum())  # each is drawn sooner or later
    assert len(used_negative) == int((~same)[anchors].sum())


# --------------------------------------------------------------------------------- triplet objective


@pytest.mark.parametrize("temperature", [None, 0.1])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mining", ["batch_all", "batch_hard", "semi_hard"])
@settings(max_examples=15)
@given(data=batches())
def test_triplet_loss_agrees_with_a_loop(
    mining: str, distance: str, temperature: float | None, data: tuple[torch.Tensor, torch.Tensor]
) -> None:
    z, labels = data
    triplets = slow_triplets(z, labels, distance, mining)
    output = TripletObjective(distance, mining, MARGIN, temperature)(z, labels)
    assert float(output.loss) == pytest.approx(slow_loss(triplets, MARGIN, temperature), rel=1e-4, abs=1e-5)
    positive, negative = np.mean(triplets, axis=0)
    assert float(output.stats["distance_positive"]) == pytest.approx(positive, rel=1e-4, abs=1e-5)
    assert float(output.stats["distance_negative"]) == pytest.approx(negative, rel=1e-4, abs=1e-5)
    edge = 0.0 if temperature else -MARGIN
    if min(abs(p - n - edge) for p, n in triplets) > 1e-5:  # else rounding decides
        share = np.mean([p - n > edge for p, n in triplets])
        assert float(output.stats["active_share"]) == pytest.approx(share, abs=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_hinge_agrees_with_pytorch_metric_learning(distance: str) -> None:
    oracle = {
        "cosine": pml_distances.CosineSimilarity(),
        "euclidean": pml_distances.LpDistance(normalize_embeddings=False),
    }[distance]
    theirs = pml_losses.TripletMarginLoss(margin=MARGIN, distance=oracle)  # averages the triplets above zero
    ours = TripletObjective(distance, "batch_all", MARGIN)
    for seed in range(3):
        z, labels = batch(seed=seed)
        a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
        loss, expected = ours(a, labels).loss, theirs(b, labels)
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
        loss.backward()
        expected.backward()
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


def test_soft_margin_agrees_with_pytorch_metric_learning() -> None:
    # Their smooth loss has no temperature; dividing the embeddings by T divides Euclidean distances by T.
    z, labels = batch()
    theirs = pml_losses.TripletMarginLoss(
        margin=0, smooth_loss=True, distance=pml_distances.LpDistance(normalize_embeddings=False)
    )
    ours = TripletObjective("euclidean", "batch_all", temperature=0.5)
    torch.testing.assert_close(ours(z, labels).loss, theirs(z / 0.5, labels), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("mining", ["batch_all", "batch_hard", "semi_hard"])
@pytest.mark.parametrize("distance", DISTANCES)
def test_objective_gradient(distance: str, mining: str) -> None:
    # The objective computes in float32, too coarse for gradcheck; its gradient is that of the mined distances.
    z, labels = batch(classes=3, per_class=2, dim=3, seed=1)

    def soft_margin(x: torch.Tensor) -> torch.Tensor:
        mined = MINERS[mining](DISTANCES[distance](x), labels)
        gap = (mined.to_positive - mined.to_negative).expand(mined.chosen.shape)[mined.chosen]
        return torch.nn.functional.softplus(gap / 0.3).mean()

    exact = z.double().requires_grad_()
    assert torch.autograd.gradcheck(soft_margin, exact)
    soft_margin(exact).backward()
    z.requires_grad_()
    TripletObjective(distance, mining, temperature=0.3)(z, labels).loss.backward()
    torch.testing.assert_close(z.grad.double(), exact.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", [None, 0.1])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mining", ["batch_all", "batch_hard", "semi_hard"])
@settings(max_examples=15)
@given(data=batches(), seed=st.integers(0, 100))
def test_order_of_the_batch_does_not_matter(
    mining: str, distance: str, temperature: float | None, data: tuple[torch.Tensor, torch.Tensor], seed: int
) -> None:
    z, labels = data
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    objective = TripletObjective(distance, mining, MARGIN, temperature)
    loss, shuffled = objective(z, labels).loss, objective(z[order], labels[order]).loss
    torch.testing.assert_close(loss, shuffled, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("mining", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_collapsed_embeddings_leave_the_loss_at_the_margin(distance: str, mining: str) -> None:
    z, labels = torch.ones(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    assert float(TripletObjective(distance, mining, 0.7)(z, labels).loss) == pytest.approx(0.7, abs=1e-5)
    soft = float(TripletObjective(distance, mining, temperature=0.1)(z, labels).loss)
    assert soft == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("mining", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
def test_well_separated_classes_cost_nothing(distance: str, mining: str) -> None:
    z = torch.eye(3).repeat_interleave(2, dim=0)
    output = TripletObjective(distance, mining, MARGIN)(z, torch.tensor([0, 0, 1, 1, 2, 2]))
    assert float(output.loss) == 0 and float(output.stats["active_share"]) == 0


def descent(objective: torch.nn.Module, z: torch.Tensor, labels: torch.Tensor, steps: int) -> list[float]:
    """The losses while embeddings and parameters follow the gradient."""
    optimizer = torch.optim.Adam([z.requires_grad_(), *objective.parameters()], lr=0.05)
    losses = []
    for _ in range(steps):
        loss = objective(z, labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("mining", MINERS)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("temperature", [None, 0.5])
def test_following_the_gradient_lowers_the_loss(distance: str, mining: str, temperature: float | None) -> None:
    z, labels = batch(classes=4, per_class=3, dim=3)
    objective = TripletObjective(distance, mining, MARGIN, temperature)
    torch.manual_seed(0)
    losses = descent(objective, z, labels, 80)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_stats_carry_no_gradient() -> None:
    z, labels = batch()
    output = WeightedSum((Term("triplet"), Term("proxy")), 5, 6)(z.requires_grad_(), labels)
    assert output.loss.requires_grad and output.loss.ndim == 0
    assert output.stats and not any(value.requires_grad for value in output.stats.values())


@pytest.mark.parametrize("mining", MINERS)
def test_batch_of_one_class_is_an_error(mining: str) -> None:
    with pytest.raises(SamplingError, match="no negatives"):
        TripletObjective(mining=mining)(torch.randn(4, 3), torch.zeros(4, dtype=torch.int64))


@pytest.mark.parametrize("mining", MINERS)
def test_batch_without_positives_is_an_error(mining: str) -> None:
    with pytest.raises(SamplingError, match="no positives"):
        TripletObjective(mining=mining)(torch.randn(4, 3), torch.arange(4))


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=10),
    mining=st.sampled_from(sorted(MINERS)),
    distance=st.sampled_from(sorted(DISTANCES)),
)
def test_any_batch_gives_a_number_or_a_clear_error(labels: list[int], mining: str, distance: str) -> None:
    counts = [labels.count(label) for label in set(labels)]
    z = torch.randn(len(labels), 3, generator=torch.Generator().manual_seed(0))
    objective = TripletObjective(distance, mining)
    if len(counts) > 1 and max(counts) > 1:
        loss = objective(z, torch.tensor(labels)).loss
        assert loss.isfinite() and loss >= 0
    else:
        with pytest.raises(SamplingError):
            objective(z, torch.tensor(labels))


def test_unknown_names_and_senseless_values() -> None:
    with pytest.raises(UnknownNameError, match="cosine"):
        TripletObjective(distance="cosin")
    with pytest.raises(UnknownNameError, match="semi_hard"):
        TripletObjective(mining="semihard")
    for margin, temperature in ((0.0, None), (-1.0, None), (0.2, 0.0), (0.2, -1.0)):
        with pytest.raises(ConfigError, match="positive"):
            TripletObjective(margin=margin, temperature=temperature)


# ----------------------------------------------------------------------------------- proxy objective


def test_proxy_loss_agrees_with_a_loop() -> None:
    z, labels = batch()
    objective = ProxyObjective(5, 6, scale=7.0, smoothing=0.2)
    proxies = objective.proxies.detach().double().numpy()
    losses, right = [], []
    for point, label in zip(z.double().numpy(), labels.tolist(), strict=True):
        logits = [7.0 * (1 - slow_distance("cosine", point, proxy)) for proxy in proxies]
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        target = [0.2 / 5 + (0.8 if c == label else 0.0) for c in range(5)]
        losses.append(sum(share * (log_sum - logit) for share, logit in zip(target, logits, strict=True)))
        right.append(int(np.argmax(logits)) == label)
    output = objective(z, labels)
    assert float(output.loss.detach()) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(output.stats["proxy_accuracy"]) == pytest.approx(np.mean(right))


def test_proxy_loss_agrees_with_pytorch_metric_learning() -> None:
    z, labels = batch()
    objective = ProxyObjective(5, 6, scale=8.0, smoothing=0.0)
    ours = objective(z, labels).loss
    softmax = pml_losses.NormalizedSoftmaxLoss(5, 6, temperature=1 / 8)
    softmax.W.data = objective.proxies.detach().T.clone()
    torch.testing.assert_close(ours, softmax(z, labels), atol=1e-5, rtol=1e-5)
    # Proxy-NCA takes squared distances of unit vectors, 2 - 2 cos: the same softmax at half the scale.
    nca = pml_losses.ProxyNCALoss(5, 6, softmax_scale=4)
    nca.proxies.data = objective.proxies.detach().clone()
    torch.testing.assert_close(ours, nca(z, labels), atol=1e-5, rtol=1e-5)


def test_proxy_gradients_agree_with_pytorch_metric_learning() -> None:
    z, labels = batch()
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    objective = ProxyObjective(5, 6, scale=8.0, smoothing=0.0)
    softmax = pml_losses.NormalizedSoftmaxLoss(5, 6, temperature=1 / 8)
    softmax.W.data = objective.proxies.detach().T.clone()
    objective(a, labels).loss.backward()
    softmax(b, labels).backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(objective.proxies.grad, softmax.W.grad.T, atol=1e-6, rtol=1e-4)


def test_linear_loss_agrees_with_a_loop_and_counts_lengths() -> None:
    z, labels = batch()
    objective = LinearObjective(5, 6, scale=0.5, smoothing=0.2)
    weights = objective.proxies.detach().double().numpy()
    losses = []
    for point, label in zip(z.double().numpy(), labels.tolist(), strict=True):
        logits = [0.5 * sum(a * b for a, b in zip(point, row, strict=True)) for row in weights]
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        target = [0.2 / 5 + (0.8 if c == label else 0.0) for c in range(5)]
        losses.append(sum(share * (log_sum - logit) for share, logit in zip(target, logits, strict=True)))
    output = objective(z, labels)
    assert float(output.loss.detach()) == pytest.approx(np.mean(losses), rel=1e-5)
    assert set(output.stats) == {"linear_loss", "linear_accuracy"}
    torch.testing.assert_close(objective.logits(3 * z), 3 * objective.logits(z))
    assert (Term("linear").scale, Term("proxy").scale, Term("linear", scale=0.25).settings()["scale"]) == (1, 16, 0.25)


def test_proxies_start_from_the_seed() -> None:
    torch.manual_seed(3)
    first = ProxyObjective(4, 5).proxies
    torch.manual_seed(3)
    assert torch.equal(first, ProxyObjective(4, 5).proxies)
    assert first.shape == (4, 5) and first.requires_grad


# ------------------------------------------------------------------- supervised contrastive objective


def slow_supcon(z: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    points, classes = z.double().numpy(), labels.tolist()
    everyone = range(len(classes))
    losses = []
    for i in everyone:
        logit = [(1 - slow_distance("cosine", points[i], point)) / temperature for point in points]
        positives = [p for p in everyone if p != i and classes[p] == classes[i]]
        if positives:
            log_sum = math.log(sum(math.exp(logit[a]) for a in everyone if a != i))
            losses.append(-sum(logit[p] - log_sum for p in positives) / len(positives))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@settings(max_examples=15)
@given(data=batches())
def test_supcon_agrees_with_a_loop(temperature: float, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, labels = data
    loss = float(SupConObjective(temperature)(z, labels).loss)
    assert loss == pytest.approx(slow_supcon(z, labels, temperature), rel=1e-4, abs=1e-5)


def test_supcon_agrees_with_pytorch_metric_learning() -> None:
    z, labels = batch()
    labels[0] = 9  # an anchor without a positive
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    loss, expected = SupConObjective(0.2)(a, labels).loss, pml_losses.SupConLoss(0.2)(b, labels)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


def test_supcon_counts_anchors_whose_nearest_is_of_their_class() -> None:
    z = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.2], [0.0, -1.0]])
    labels = torch.tensor([0, 0, 1, 1, 2])  # the nearest are 1, 3, 3, 1; the last has no partner
    assert float(SupConObjective()(z, labels).stats["nearest_same_share"]) == pytest.approx(2 / 4)


# -------------------------------------------------------------------------------- contrastive objective


@pytest.mark.parametrize("distance", DISTANCES)
@settings(max_examples=15)
@given(data=batches())
def test_contrastive_agrees_with_a_loop(distance: str, data: tuple[torch.Tensor, torch.Tensor]) -> None:
    z, labels = data
    points, classes, margin = z.double().numpy(), labels.tolist(), 1.2
    pairs = list(itertools.combinations(range(len(classes)), 2))
    to = {pair: slow_distance(distance, points[pair[0]], points[pair[1]]) for pair in pairs}
    same = [to[i, j] for i, j in pairs if classes[i] == classes[j]]
    different = [to[i, j] for i, j in pairs if classes[i] != classes[j]]
    pull = np.mean([d**2 / 2 for d in same])
    push = np.mean([max(0.0, margin - d) ** 2 / 2 for d in different])
    output = ContrastiveObjective(distance, margin)(z, labels)
    assert float(output.loss) == pytest.approx(pull + push, rel=1e-4, abs=1e-5)
    assert float(output.stats["distance_same"]) == pytest.approx(np.mean(same), rel=1e-4, abs=1e-5)
    assert float(output.stats["distance_different"]) == pytest.approx(np.mean(different), rel=1e-4, abs=1e-5)
    if min(abs(d - margin) for d in different) > 1e-5:  # else rounding decides
        share = np.mean([d < margin for d in different])
        assert float(output.stats["pushed_share"]) == pytest.approx(share, abs=1e-6)


def test_contrastive_agrees_with_pytorch_metric_learning() -> None:
    # Theirs is linear in d and in (margin - d), where Hadsell et al. square and halve both, and averages only the
    # pairs that cost something. Squared and averaged over all pairs of a kind, it is ours.
    class Squared(pml_losses.ContrastiveLoss):
        def get_per_pair_loss(self, pair_dists: torch.Tensor, pos_or_neg: str) -> torch.Tensor:
            return super().get_per_pair_loss(pair_dists, pos_or_neg).square() / 2

    z, labels = batch()
    lp = pml_distances.LpDistance(normalize_embeddings=False)
    theirs = Squared(neg_margin=3.0, distance=lp, reducer=pml_reducers.MeanReducer())
    a, b = z.clone().requires_grad_(), z.clone().requires_grad_()
    output, expected = ContrastiveObjective("euclidean", 3.0)(a, labels), theirs(b, labels)
    assert 0 < float(output.stats["pushed_share"]) < 1  # both sides of the margin are tried
    torch.testing.assert_close(output.loss, expected, atol=1e-5, rtol=1e-5)
    output.loss.backward()
    expected.backward()
    torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


# --------------------------------------------------------------------------------------- pair head


def pair_head(dim: int, seed: int = 0) -> PairObjective:
    """A head in float64 whose weights have both signs, as after some training."""
    objective = PairObjective(dim).double()
    with torch.no_grad():
        objective.head.weight.copy_(torch.randn(1, dim, generator=torch.Generator().manual_seed(seed)))
        objective.head.bias.fill_(0.3)
    return objective


@settings(max_examples=15)
@given(data=batches(), seed=st.integers(0, 100))
def test_pair_loss_agrees_with_a_loop(data: tuple[torch.Tensor, torch.Tensor], seed: int) -> None:
    z, labels = data
    objective = pair_head(z.shape[1], seed)
    weight = objective.head.weight.detach()[0].numpy()
    points = [math.sqrt(len(p)) * p / math.sqrt(float(p @ p)) for p in z.double().numpy()]
    costs: dict[bool, list[float]] = {True: [], False: []}
    right: dict[bool, list[bool]] = {True: [], False: []}
    for i, j in itertools.combinations(range(len(points)), 2):
        same = bool(labels[i] == labels[j])
        p = 1 / (1 + math.exp(-float(weight @ np.abs(points[i] - points[j])) - 0.3))
        costs[same].append(-math.log(p if same else 1 - p))
        right[same].append((p > 0.5) == same)
    output = objective(z.double(), labels)
    assert float(output.loss.detach()) == pytest.approx((np.mean(costs[True]) + np.mean(costs[False])) / 2, rel=1e-9)
    accuracy = (np.mean(right[True]) + np.mean(right[False])) / 2
    assert float(output.stats["pair_accuracy"]) == pytest.approx(accuracy, abs=1e-6)


def test_pair_gradients_agree_with_the_plain_difference_tensor() -> None:
    z, labels = batch()
    objective = pair_head(z.shape[1])
    a = z.double().requires_grad_()
    objective(a, labels).loss.backward()
    b, weight = z.double().requires_grad_(), objective.head.weight.detach()[0].clone().requires_grad_()
    bias = objective.head.bias.detach().clone().requires_grad_()
    unit = b / b.norm(dim=1, keepdim=True) * z.shape[1] ** 0.5
    logits = (unit[:, None] - unit[None, :]).abs() @ weight + bias
    same = labels[:, None] == labels[None, :]
    apart = ~torch.eye(len(labels), dtype=torch.bool)
    costs = torch.where(same, -logits.sigmoid().log(), -(1 - logits.sigmoid()).log())
    ((costs[same & apart].mean() + costs[~same].mean()) / 2).backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(objective.head.weight.grad[0], weight.grad)
    torch.testing.assert_close(objective.head.bias.grad, bias.grad)


def test_pair_probability_is_that_of_the_loss_and_of_unordered_pairs() -> None:
    z, _ = batch()
    objective = pair_head(z.shape[1])
    with torch.no_grad():
        i, j = torch.triu_indices(len(z), len(z), 1)
        probability = objective.probability(z[i], 3 * z[j])  # length does not matter
        torch.testing.assert_close(probability, objective.all_logits(z)[i, j].sigmoid())
        torch.testing.assert_close(probability, objective.probability(z[j], z[i]))
        identical = PairObjective(6).probability(z.bfloat16(), z.bfloat16())
        assert identical.tolist() == pytest.approx([0.8808] * len(z), 1e-3)


def test_rotation_loss_is_the_weighted_cross_entropy_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    objective, z, turns = RotationObjective(6, 0.25), torch.randn(9, 6, requires_grad=True), torch.arange(9) % 4
    output = objective(z, turns)
    logits = z.detach().numpy() @ objective.head.weight.detach().numpy().T + objective.head.bias.detach().numpy()
    expected = -np.mean([row[t] - np.log(np.exp(row).sum()) for row, t in zip(logits, turns.tolist(), strict=True)])
    assert output.loss.item() == pytest.approx(0.25 * expected, rel=1e-5)
    assert output.stats["rotation_loss"].item() == pytest.approx(expected, rel=1e-5)
    assert output.stats["rotation_accuracy"].item() == pytest.approx(np.mean(logits.argmax(1) == turns.numpy()))
    output.loss.backward()
    assert z.grad.abs().sum() > 0 and not any(value.requires_grad for value in output.stats.values())
    both = output + ObjectiveOutput(torch.tensor(2.0), {"other": torch.tensor(1.0)})
    assert both.loss.item() == pytest.approx(output.loss.item() + 2) and set(both.stats) == {*output.stats, "other"}
    with pytest.raises(ShapeError):
        objective(z, turns[:4])


def test_pair_head_starts_as_a_distance() -> None:
    z = torch.randn(400, 256, generator=torch.Generator().manual_seed(0))
    start = PairObjective(256)
    independent = start.probability(z[:200], z[200:])
    assert 0.05 < float(independent.mean()) < 0.12
    near = start.probability(z[:200], z[:200] + 0.3 * z[200:])
    assert bool((near > independent).all())


def test_pair_head_learns_what_a_distance_cannot_say() -> None:
    # The classes differ in the sign of the first feature alone; the other features are noise.
    torch.manual_seed(0)
    labels = torch.arange(2).repeat(20)
    z = torch.cat([(2.0 * labels - 1)[:, None], 0.7 * torch.randn(40, 5)], dim=1)
    objective = PairObjective(6)
    before = float(objective(z, labels).stats["pair_accuracy"])
    optimizer = torch.optim.Adam(objective.parameters(), lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        objective(z, labels).loss.backward()
        optimizer.step()
    assert before < 0.8 and float(objective(z, labels).stats["pair_accuracy"]) > 0.95


@pytest.mark.parametrize("shapes", [((3, 6), (4, 6)), ((3, 5), (3, 5)), ((6,), (6,))])
def test_pair_probability_of_other_shapes_is_an_error(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ShapeError, match=r"\(N, 6\)"):
        PairObjective(6).probability(*(torch.randn(shape) for shape in shapes))


# ------------------------------------------------------------------------- what every objective keeps

EVERY_TERM = [  # of the triplets two: all their distances and miners are tried above
    Term("triplet", mining="batch_all", temperature=0.1),
    Term("triplet", distance="euclidean", temperature=0.5),
    *(Term("contrastive", distance=d, margin=1.2) for d in DISTANCES),
    *(Term(name) for name in OBJECTIVES if name not in ("triplet", "contrastive")),
]


def every_term(*, but: tuple[str, ...] = ()) -> pytest.MarkDecorator:
    terms = [term for term in EVERY_TERM if term.objective not in but]
    return pytest.mark.parametrize(
        "term", terms, ids=lambda t: "-".join(map(str, (t.objective, *t.settings().values())))
    )


def built(term: Term, num_classes: int = 5, dim: int = 6) -> torch.nn.Module:
    torch.manual_seed(0)
    return OBJECTIVES[term.objective](term, num_classes, dim)


@pytest.mark.parametrize(
    "objective",
    [SupConObjective(0.3), ContrastiveObjective("cosine", 1.2), ContrastiveObjective("euclidean", 2.0), pair_head(3)],
    ids=["supcon", "contrastive cosine", "contrastive euclidean", "pair"],
)
def test_gradcheck(objective: torch.nn.Module) -> None:
    z, labels = batch(classes=3, per_class=2, dim=3, seed=1)
    exact = z.double().requires_grad_()
    assert objective(exact, labels).loss.dtype == torch.float64
    assert torch.autograd.gradcheck(lambda x: objective(x, labels).loss, exact)


@every_term()
@settings(max_examples=8)
@given(data=batches(), seed=st.integers(0, 100))
def test_no_objective_depends_on_the_order(term: Term, data: tuple[torch.Tensor, torch.Tensor], seed: int) -> None:
    z, labels = data
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    objective = built(term, 4, 4)
    first, second = objective(z, labels), objective(z[order], labels[order])
    torch.testing.assert_close(first.loss, second.loss, atol=1e-5, rtol=1e-4)


@every_term()
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_collapse_keeps_loss_and_gradients_finite(term: Term, value: float) -> None:
    z, labels = torch.full((6, 4), value, requires_grad=True), torch.tensor([0, 0, 1, 1, 2, 2])
    objective = built(term, 3, 4)
    output = objective(z, labels)
    output.loss.backward()
    assert output.loss.isfinite() and all(stat.isfinite() for stat in output.stats.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (z, *objective.parameters()))


def test_loss_of_a_collapsed_batch() -> None:
    z, labels = torch.ones(6, 4), torch.tensor([0, 0, 1, 1, 2, 2])
    assert float(SupConObjective()(z, labels).loss) == pytest.approx(math.log(5), rel=1e-5)
    assert float(ContrastiveObjective(margin=0.6)(z, labels).loss) == pytest.approx(0.18, rel=1e-4)
    pair = float(PairObjective(4)(z, labels).loss.detach())  # all log odds are 2
    assert pair == pytest.approx((math.log1p(math.exp(-2)) + math.log1p(math.exp(2))) / 2, rel=1e-5)


@every_term()
def test_bfloat16_embeddings_lose_only_their_own_rounding(term: Term) -> None:
    z, labels = batch(seed=3)
    half = z.bfloat16().requires_grad_()
    objective = built(term)
    loss = objective(half, labels).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, objective(half.detach().float(), labels).loss, atol=1e-6, rtol=1e-6)
    loss.backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16 and half.grad.isfinite().all()


@every_term()
def test_following_any_gradient_lowers_the_loss(term: Term) -> None:
    z, labels = batch(classes=4, per_class=3)
    objective = built(term)
    losses = descent(objective, z, labels, 40)
    assert np.mean(losses[-3:]) < 0.85 * losses[0]


@every_term(but=("proxy", "linear"))  # which need no partners in the batch
def test_batches_without_pairs_are_an_error(term: Term) -> None:
    with pytest.raises(SamplingError, match="no negatives"):
        built(term)(torch.randn(4, 6), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(SamplingError, match="no positives"):
        built(term)(torch.randn(4, 6), torch.arange(4))


@every_term()
@pytest.mark.parametrize(
    "embeddings, labels",
    [
        (torch.randn(4, 6), torch.tensor([0, 0, 1])),
        (torch.randn(4, 6), torch.tensor([[0], [0], [1], [1]])),
        (torch.randn(4, 6), torch.tensor([0.0, 0.0, 1.0, 1.0])),
        (torch.randn(4, 6, 1), torch.tensor([0, 0, 1, 1])),
        (torch.ones(4, 6, dtype=torch.int64), torch.tensor([0, 0, 1, 1])),
    ],
)
def test_other_shapes_and_types_are_an_error(term: Term, embeddings: torch.Tensor, labels: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match="An objective takes"):
        built(term)(embeddings, labels)


def test_objectives_refuse_senseless_values() -> None:
    for value in (0.0, -1.0, math.nan):
        with pytest.raises(ConfigError, match="positive temperature"):
            SupConObjective(value)
        with pytest.raises(ConfigError, match="positive margin"):
            ContrastiveObjective(margin=value)
        with pytest.raises(ConfigError, match="positive margin"):
            TripletObjective(margin=value)
    with pytest.raises(UnknownNameError, match="cosine"):
        ContrastiveObjective("cosin")


# ------------------------------------------------------------------------- what a term says and refuses


def test_term_settings_are_the_fields_that_its_objective_reads() -> None:
    assert set(OBJECTIVE_FIELDS) == set(OBJECTIVES)
    term = Term("triplet", distance="euclidean", mining="batch_hard", margin=0.4, temperature=0.3)
    assert term.settings() == {"distance": "euclidean", "mining": "batch_hard", "margin": 0.4, "temperature": 0.3}
    assert Term("proxy", scale=8.0).settings() == {"scale": 8.0, "smoothing": 0.1}
    assert Term("pair_bce").settings() == {}
    with pytest.raises(UnknownNameError, match="'supcon'"):
        Term("supcom").settings()


def test_fields_left_out_take_the_default_of_the_objective() -> None:
    assert Term("supcon").settings() == {"temperature": 0.1}
    assert Term("contrastive").settings() == {"distance": "cosine", "margin": 0.5}
    assert Term("triplet").margin == Term("proxy").margin == 0.2
    assert Term("triplet").temperature is None  # a hinge
    assert Term("contrastive", margin=0.2).margin == 0.2


def test_settings_reach_the_objective() -> None:
    z, labels = batch()
    for term, alone in [
        (Term("supcon", temperature=0.7), SupConObjective(0.7)),
        (Term("contrastive", distance="euclidean", margin=2.5), ContrastiveObjective("euclidean", 2.5)),
        (Term("pair_bce"), PairObjective(6)),
    ]:
        torch.testing.assert_close(WeightedSum((term,), 5, 6)(z, labels).loss, alone(z, labels).loss)


def test_term_stored_before_reads_back() -> None:
    stored = (
        '{"objective": "proxy", "weight": 1.0, "begin": 0.0, "end": 1.0, "distance": "cosine", "mining": "semi_hard", '
        '"margin": 0.2, "temperature": null, "scale": 16.0, "smoothing": 0.1}'
    )
    assert Term(**json.loads(stored)) == Term("proxy")
    assert dataclasses.asdict(Term("proxy")) == json.loads(stored)


def test_statistics_of_two_terms_of_one_kind_are_kept_apart() -> None:
    z, labels = batch()
    easy, hard = Term("triplet", mining="batch_all", end=0.5), Term("triplet", mining="batch_hard", begin=0.2)
    both = WeightedSum((easy, Term("proxy"), hard), 5, 6)
    losses = {
        "triplet_loss": TripletObjective(mining="batch_all")(z, labels).loss,
        "triplet_loss_2": TripletObjective(mining="batch_hard")(z, labels).loss,
    }
    for progress, present in {0.0: {"triplet_loss"}, 0.3: set(losses), 0.7: {"triplet_loss_2"}}.items():
        stats = both(z, labels, progress).stats
        assert {name for name in stats if name.startswith("triplet_loss")} == present and "proxy_loss" in stats
        for name in present:
            torch.testing.assert_close(stats[name], losses[name])


def test_statistics_of_different_objectives_have_different_names() -> None:
    z, labels = batch()
    terms = tuple(Term(name) for name in OBJECTIVES)
    summed = WeightedSum(terms, 5, 6)
    separate = [objective(z, labels).stats for objective in summed.objectives]
    assert summed(z, labels).stats.keys() == set().union(*separate)
    assert len(summed(z, labels).stats) == sum(map(len, separate))
    assert all(stat.ndim == 0 and not stat.requires_grad for stat in summed(z, labels).stats.values())


# ----------------------------------------------------------------------------- terms and their sum


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_can_be_a_term(name: str) -> None:
    z, labels = batch()
    torch.manual_seed(0)
    objective = WeightedSum((Term(name),), 5, 6)
    loss = objective(z.requires_grad_(), labels).loss
    loss.backward()
    assert loss.isfinite() and z.grad is not None and z.grad.abs().sum() > 0


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("mining", MINERS)
def test_every_distance_and_miner_reaches_the_loss(distance: str, mining: str) -> None:
    z, labels = batch()
    term = Term("triplet", weight=3.0, distance=distance, mining=mining, margin=0.4)
    torch.manual_seed(0)
    summed = WeightedSum((term,), 5, 6)(z, labels).loss
    torch.manual_seed(0)
    alone = TripletObjective(distance, mining, 0.4)(z, labels).loss
    torch.testing.assert_close(summed, 3 * alone)


def test_schedule_switches_terms() -> None:
    z, labels = batch()
    early, late = Term("proxy", end=0.5), Term("triplet", weight=0.5, begin=0.25, temperature=0.1)
    objective = WeightedSum((early, late), 5, 6)
    proxy = objective.objectives[0](z, labels).loss
    triplet = TripletObjective(temperature=0.1)(z, labels).loss
    expectations = {0.0: proxy, 0.25: proxy + 0.5 * triplet, 0.5: 0.5 * triplet, 0.99: 0.5 * triplet}
    for progress, expected in expectations.items():
        torch.testing.assert_close(objective(z, labels, progress).loss, expected)
    assert set(objective(z, labels, 0.0).stats) == {"proxy_loss", "proxy_accuracy"}
    assert "triplet_loss" in objective(z, labels, 0.3).stats and "proxy_loss" in objective(z, labels, 0.3).stats


@pytest.mark.parametrize(
    "terms",
    [
        (),
        (Term("proxy", begin=0.1),),
        (Term("proxy", end=0.9),),
        (Term("proxy", end=0.4), Term("triplet", begin=0.5)),
        (Term("proxy", end=0.4), Term("triplet", begin=0.3, end=0.8), Term("proxy", begin=0.9)),
    ],
)
def test_gap_in_the_schedule_is_an_error(terms: tuple[Term, ...]) -> None:
    with pytest.raises(ConfigError, match="no active objective"):
        WeightedSum(terms, 5, 6)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10)).filter(lambda t: t[0] < t[1]), max_size=5))
def test_schedule_check_finds_exactly_the_gaps(spans: list[tuple[int, int]]) -> None:
    terms = tuple(Term("triplet", begin=begin / 10, end=end / 10) for begin, end in spans)
    covered = all(any(begin <= tenth < end for begin, end in spans) for tenth in range(10))
    if covered:
        assert WeightedSum(terms, 5, 6).terms == terms
    else:
        with pytest.raises(ConfigError):
            WeightedSum(terms, 5, 6)


def test_unknown_objective_is_an_error() -> None:
    with pytest.raises(UnknownNameError, match="'triplet'"):
        WeightedSum((Term("tripet"),), 5, 6)


def test_registries_hold_what_is_documented() -> None:
    assert set(DISTANCES) == {"cosine", "euclidean"}
    assert {
        "random": mine_random,
        "batch_all": mine_batch_all,
        "batch_hard": mine_batch_hard,
        "semi_hard": mine_semi_hard,
    } == MINERS
    assert set(OBJECTIVES) == {"triplet", "proxy", "linear", "supcon", "contrastive", "pair_bce"}


# ------------------------------------------------------------------------------------------- spread


def test_spread_is_zero_for_a_point_and_one_for_opposites() -> None:
    z = torch.randn(1, 8)
    assert embedding_spread(z.repeat(10, 1) * torch.arange(1, 11)[:, None]) == pytest.approx(0, abs=1e-6)
    assert embedding_spread(torch.cat([z, -z])) == pytest.approx(1, abs=1e-6)


@given(st.integers(0, 1000), st.integers(2, 20))
def test_spread_agrees_with_the_mean_pairwise_similarity(seed: int, count: int) -> None:
    z = torch.randn(count, 5, generator=torch.Generator().manual_seed(seed)).double()
    unit = z / z.norm(dim=1, keepdim=True)
    similarity = float(np.mean([[float(a @ b) for b in unit] for a in unit]))
    assert embedding_spread(z) == pytest.approx(1 - similarity, abs=1e-5)
