"""CIFAR-10 with one tower and two: the slides' networks, what they learn from, how they learn and are judged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score, average_precision_score, balanced_accuracy_score, f1_score, roc_auc_score
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.cifar import CIFAR10_CLASSES, load_cifar10
from siamese_utils.data.images import ImageSet
from siamese_utils.errors import ConfigError, DivergedError, SamplingError, ShapeError, SplitError
from siamese_utils.experiments.study import Bench, Run
from siamese_utils.studies.cifar10 import judging, new_classes, study
from siamese_utils.studies.cifar10.data import Learned, drawn_pairs, labelled_by, pixels, share_of
from siamese_utils.studies.cifar10.fit import FitConfig, batch_rows, fit, outputs
from siamese_utils.studies.cifar10.networks import Dropout, PairNetwork, Plain, TwoTowers, wide


def grey(per_class: int, part: str, seed: int) -> ImageSet:
    """Noise whose brightness tells the class."""
    labels = torch.arange(10).repeat_interleave(per_class)
    noise = torch.randint(0, 60, (len(labels), 32, 32, 3), generator=torch.Generator().manual_seed(seed))
    images = (noise + 19 * labels[:, None, None, None]).to(torch.uint8)
    return ImageSet(images, labels, CIFAR10_CLASSES, ("all",), (0,) * 10, "cifar10", part, "made here")


@pytest.fixture(scope="module")
def bench() -> Bench:
    given = {(load_cifar10, "train"): grey(20, "train", 0), (load_cifar10, "test"): grey(10, "test", 1)}
    return Bench("cpu", progress=False, given=given)


def parameters(network: nn.Module) -> int:
    return sum(weights.numel() for weights in network.parameters())


# ------------------------------------------------------------------------------------------------ networks


def test_networks_have_the_slides_numbers_of_parameters() -> None:
    assert parameters(Plain()) == 79_274 and parameters(TwoTowers()) == 158_538 and parameters(PairNetwork()) == 113_953
    assert abs(parameters(wide()) / 158_538 - 1) < 0.0026
    assert parameters(TwoTowers(shared=True)) == 158_538 - (79_274 - 330)


def test_relu_after_pooling_is_relu_before_it() -> None:
    tower, x = Plain().tower.eval(), torch.rand(4, 3, 32, 32)
    before = x
    for convolution in tower.convolutions:
        before = F.max_pool2d(F.relu(convolution(before)), 2)
    assert torch.allclose(tower(x), F.relu(tower.dense(before.flatten(1))), atol=1e-6)


@pytest.mark.parametrize("shape", [(7, 5), (3, 8, 6, 6)])
def test_dropout_drops_its_share_and_keeps_the_mean(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.ones(500, *shape)
    x = x.flatten(0, 1).contiguous(memory_format=torch.channels_last) if x.dim() == 5 else x
    dropped = Dropout(0.2)(x)
    assert abs((dropped == 0).float().mean().item() - 0.2) < 0.01
    assert torch.equal(dropped[dropped != 0].unique(), torch.tensor([65_536 / (65_536 - 13_107)]))
    assert Dropout(0.2).eval()(x) is x


def test_sides_of_two_towers_share_weights_only_if_asked() -> None:
    x, y = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32)
    same, own = TwoTowers(shared=True).eval(), TwoTowers().eval()
    assert torch.equal(*same.halves(x, x)) and not torch.equal(*own.halves(x, x))
    assert not torch.equal(own(x, x), own(x, y))


def test_the_pair_head_compares_as_many_as_it_is_given() -> None:
    network = PairNetwork()
    assert network(torch.rand(3, 3, 32, 32), torch.rand(3, 3, 32, 32)).shape == (3,)
    with pytest.raises(ShapeError, match="not 3 and 2"):
        network.compare(torch.rand(3, 32), torch.rand(2, 32))


# ---------------------------------------------------------------------------------------------------- data


def test_shares_are_stratified_and_lie_in_each_other() -> None:
    train = grey(40, "train", 0)
    kept: dict[int, set[bytes]] = {}
    for percent in (100, 50, 10):
        learned, held = share_of(train, percent, seed=3)
        assert torch.bincount(torch.cat([learned.labels, held.labels])).tolist() == [40 * percent // 100] * 10
        parts = [{image.numpy().tobytes() for image in part.images} for part in (learned, held)]
        assert not parts[0] & parts[1] and len(held.labels) == max(10, 4 * percent // 10)
        kept[percent] = parts[0] | parts[1]
    assert kept[10] < kept[50] < kept[100]
    again, other = share_of(train, 10, seed=3)[0], share_of(train, 10, seed=4)[0]
    assert torch.equal(again.images, share_of(train, 10, seed=3)[0].images)
    assert not torch.equal(again.images, other.images)


def test_a_share_that_leaves_a_class_out_is_refused() -> None:
    train = grey(40, "train", 0)
    with pytest.raises(
        SplitError, match=r"share of 1% leaves class 'airplane' with 0 of its 40 images.* take 5% or more"
    ):
        share_of(train, 1, seed=0)
    without = train.subset(train.indices_of(range(9)))
    with pytest.raises(SplitError, match=r"class 'truck' with 0 of its 0 images.* get a whole copy"):
        share_of(without, 100, seed=0)
    with pytest.raises(SplitError, match="up to 100 percent, but this one is 120"):
        share_of(train, 120, seed=0)


def test_training_pairs_are_what_they_are_called() -> None:
    labels = torch.arange(5).repeat(8)
    first, second = drawn_pairs(labels, ("itself", "another"), seed=1)
    assert len(first) == 80 and torch.equal(first[:40], second[:40])
    assert torch.equal(labels[first], labels[second]) and not (first[40:] == second[40:]).any()
    assert sorted(second[40:].tolist()) == list(range(40))
    first, second = drawn_pairs(labels, ("any", "any"), seed=1)
    assert not (first == second).any() and not torch.equal(second[:40], second[40:])
    assert torch.equal(drawn_pairs(labels, (), seed=1)[0], torch.arange(40))


def test_classes_left_out_are_not_among_those_learned() -> None:
    train = grey(20, "train", 0)
    learned, held = share_of(train, 100, 0, classes=(0, 1, 2, 4, 5, 7, 8, 9))
    assert learned.labels.max() == 7 and len(learned.labels) == 8 * 18
    new = labelled_by(train, (3, 6))
    assert new.labels.unique().tolist() == [0, 1]
    images = {image.numpy().tobytes() for part in (learned, held) for image in part.images}
    assert not images & {image.numpy().tobytes() for image in new.images}


def test_pixels_lie_between_zero_and_one() -> None:
    images = grey(2, "train", 0).images
    plain, shifted = pixels(images), pixels(images, shifts=True)
    assert torch.equal(plain[0, :, 5, 6], images[0, 5, 6].float() / 255)
    assert shifted.shape == plain.shape and shifted.min() >= 0 and shifted.max() <= 1
    assert not torch.equal(shifted, plain)


# ---------------------------------------------------------------------------------------------------- fit


def small() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))


X = torch.randn(40, 3, 2, 2, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0, 0, 0] > 0).long()


def loss(network: nn.Module, rows: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(network(X[rows]), Y[rows])


def test_batches_go_through_all_samples_before_any_comes_again() -> None:
    epoch = torch.cat([batch_rows(12, 4, update, seed=0) for update in range(3)])
    assert sorted(epoch.tolist()) == list(range(12))
    assert batch_rows(3, 64, 5, seed=0).sort().values.tolist() == [0, 1, 2]
    assert not torch.equal(epoch[:4], batch_rows(12, 4, 3, seed=0))


def test_a_longer_training_begins_as_the_shorter_one() -> None:
    config = FitConfig((10, 20), batch=8, precision="float32", rate=0.05)
    long = fit(small, loss, 40, config, 0, progress=False)
    short = fit(small, loss, 40, dataclasses.replace(config, judged=(10,)), 0, progress=False)
    assert list(long.weights) == [10, 20]
    assert all(torch.equal(long.weights[10][name], value) for name, value in short.weights[10].items())
    assert not torch.equal(long.weights[10]["1.weight"], long.weights[20]["1.weight"])
    answers = outputs(small(), long.weights[20], lambda net, rows: net(X[rows]), 40, block=7)
    assert (answers.argmax(1) == Y).float().mean() > 0.9


def test_an_interrupted_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_utils.studies.cifar10.fit._SAVED_EVERY", 0.0)
    config = FitConfig((10, 30), batch=8, precision="float32")
    whole = fit(small, loss, 40, config, 0, progress=False)
    calls = []

    def killed(network: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        calls.append(rows)
        if len(calls) == 21:
            raise KeyboardInterrupt
        return loss(network, rows)

    with pytest.raises(KeyboardInterrupt):
        fit(small, killed, 40, config, 0, folder=tmp_path, progress=False)
    resumed = fit(small, killed, 40, config, 0, folder=tmp_path, progress=False)
    assert len(calls) == 21 + 10 and list(resumed.weights) == [10, 30]
    assert all(torch.equal(resumed.weights[30][name], value) for name, value in whole.weights[30].items())
    (tmp_path / "fit.pt").write_bytes(b"cut off")
    again = fit(small, loss, 40, config, 0, folder=tmp_path, progress=False)
    assert torch.equal(again.weights[30]["1.weight"], whole.weights[30]["1.weight"])


def test_wrong_trainings_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"must ascend, but they are \[20, 10\]"):
        FitConfig((20, 10))
    with pytest.raises(DivergedError, match="The loss is nan after 0 updates"):
        fit(small, lambda net, rows: loss(net, rows) * float("nan"), 40, FitConfig((3,)), 0, progress=False)


# ------------------------------------------------------------------------------------------------- judging


def test_named_is_what_scikit_learn_says() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 40)
    predicted = np.where(rng.random(200) < 0.6, labels, rng.integers(0, 4, 200))
    found = judging.named(predicted, labels, 5)
    assert found["accuracy"].value == pytest.approx(100 * accuracy_score(labels, predicted))
    assert found["f1_macro"].value == pytest.approx(100 * f1_score(labels, predicted, average="macro"))
    swapped = f1_score(predicted, labels, average="weighted")
    assert found["f1_weighted"].value == pytest.approx(100 * swapped)
    share = found["accuracy"].value / 100
    assert found["accuracy"].ci95 == pytest.approx(196 * (share * (1 - share) / 200) ** 0.5, rel=0.1)
    with pytest.raises(ShapeError, match="one answer for each label"):
        judging.named(predicted[:5], labels, 5)


def test_pairs_never_hold_an_image_twice_and_one_in_ten_is_the_same() -> None:
    pairs = judging.pairs_of(np.repeat(np.arange(10), 100))
    assert pairs.first.shape == (20, 1_000) and not (pairs.first == pairs.second).any()
    assert all(sorted(row) == list(range(1_000)) for row in (*pairs.first, *pairs.second))
    assert abs(pairs.same.mean() - 99 / 999) < 0.01
    told = judging.blind(pairs.same)
    assert told["accuracy"] == pytest.approx(100 * (1 - pairs.same.mean())) and told["f1"] == 0
    for labels, match in ((np.zeros(1), "1 images make no pair"), (np.zeros(9), "one kind alone")):
        with pytest.raises(SamplingError, match=match):
            judging.pairs_of(labels.astype(np.int64))


def test_told_apart_is_what_scikit_learn_says() -> None:
    rng = np.random.default_rng(1)
    same = rng.random((4, 500)) < 0.2
    score = rng.normal(size=same.shape) + 1.5 * same
    at = judging.thresholds(score, same)
    found, flat = judging.told_apart(score, same, at), (same.ravel(), score.ravel())
    called = score.ravel() >= at.f1
    assert found["accuracy"].value == pytest.approx(100 * accuracy_score(flat[0], called))
    assert found["f1"].value == pytest.approx(100 * f1_score(flat[0], called))
    assert found["f1"].value == pytest.approx(max(100 * f1_score(flat[0], flat[1] >= t) for t in flat[1]), abs=1e-9)
    balanced = balanced_accuracy_score(flat[0], flat[1] >= at.balanced)
    assert found["balanced_accuracy"].value == pytest.approx(100 * balanced)
    assert found["auc"].value == pytest.approx(100 * roc_auc_score(*flat))
    assert found["average_precision"].value == pytest.approx(100 * average_precision_score(*flat))
    curve = [found[f"precision_at_{r}"].value for r in judging.RECALLS]
    assert curve == sorted(curve, reverse=True) and found["auc"].ci95 > 0


def test_all_pairs_are_counted_once_for_classes_and_for_cosines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_BLOCK", 7)
    rng = np.random.default_rng(2)
    labels, predicted = rng.integers(0, 3, 30), rng.integers(0, 3, 30)
    z = rng.normal(size=(30, 4)).astype(np.float32)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    one, other = np.triu_indices(30, 1)
    same = labels[one] == labels[other]
    for found, called in (
        (judging.over_all_pairs_of_classes(predicted, labels), predicted[one] == predicted[other]),
        (judging.over_all_pairs(z, labels, 0.1), (z[one] * z[other]).sum(1) >= 0.1),
    ):
        assert found["all_pairs_accuracy"].value == pytest.approx(100 * accuracy_score(same, called))
        assert found["all_pairs_f1"].value == pytest.approx(100 * f1_score(same, called))


# -------------------------------------------------------------------------------------------------- study


def carried_out(name: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> tuple[pd.DataFrame, dict, dict]:
    monkeypatch.setattr(study, "pair_updates", lambda system, budget=0: 12)
    config = FitConfig((6, 12), batch=32)
    key = {"system": name, "share": 100, "training": "short", "seed": 0}
    outcome = study.CIFAR10.carry_out(Run(key, {"config": config}, images=12 * 32), bench)
    return outcome.metrics, outcome.tables, outcome.record


def test_a_run_is_judged_at_each_number_of_updates(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, tables, record = carried_out("siamese", bench, monkeypatch)
    assert record["parameters"] == 158_538 and record["learned"] == 180 and record["held_out"] == 20
    accuracy = rows[rows.metric == "accuracy"].set_index("updates").value
    assert list(accuracy.index) == [6, 12]
    assert {"left_half_accuracy", "right_half_accuracy"} <= set(rows.metric[rows.updates == 12])
    counts = tables["cifar10_confusion"].set_index("shown")[list(CIFAR10_CLASSES)]
    assert counts.to_numpy().sum() == 100 and (counts.sum(axis=1) == 10).all()
    assert np.trace(counts.to_numpy()) == pytest.approx(accuracy[12])
    assert set(tables["cifar10_pairs"].by) == {"classes", "cosine"}


@pytest.mark.parametrize(("name", "by"), [("pair-head", {"head"}), ("triplet", {"cosine"})])
def test_systems_for_pairs_are_judged_on_pairs(
    name: str, by: set[str], bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, tables, _ = carried_out(name, bench, monkeypatch)
    assert set(rows.metric) == {"seconds"} and set(tables) == {"cifar10_pairs"}
    assert set(tables["cifar10_pairs"].by) == by


def test_one_tower_is_trained_twice_for_an_ensemble(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _, record = carried_out("plain", bench, monkeypatch)
    assert record["parameters"] == 79_274
    assert rows.metric.str.startswith("ensemble_").sum() == 6  # three metrics, twice


def test_every_system_sees_the_same_images_and_as_many_in_the_comparison_of_pairs() -> None:
    runs = study.CIFAR10.runs()
    assert len({run.label for run in runs}) == len(runs) and {run.key["seed"] for run in runs} == set(study.SEEDS)
    shown = {name: study.pair_updates(name) * (2 if system.pairs else 1) for name, system in study.SYSTEMS.items()}
    assert set(shown.values()) == {study.PAIR_BUDGET}
    for name in study.CLASSIFIERS:
        assert study.pair_updates(name) in study.judged_after(name, "short", 100)
    assert {share: round(own[1] / own[0], 1) for share, own in study.OWN.items()} == {
        100: 2.0,
        50: 3.0,
        10: 3.7,
        1: 3.7,
    }


def test_of_classes_never_learned_no_image_is_learned(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = new_classes.CIFAR10_NEW_CLASSES.runs()
    assert len({run.key["left_out"] for run in runs}) == 5 and len(runs) == 25
    run = Run(runs[0].key, {"config": FitConfig((4,), batch=32), "classes": [0, 9]}, images=256)
    learned: list[set[int]] = []

    def watched(name: str, given: Learned, *args: object) -> object:
        learned.append({int((image.float().mean() - 20) // 19) for image in given.images})  # brightness tells the class
        return study.train_system(name, given, *args)

    monkeypatch.setattr(new_classes, "train_system", watched)
    rows = new_classes.CIFAR10_NEW_CLASSES.carry_out(run, bench).metrics
    judged = rows[rows.metric == "auc"].set_index("classes")
    assert judged.n["new"].tolist() == [20 * 20] * 2 and judged.n["learned"].tolist() == [20 * 80] * 2
    assert learned == [{1, 2, 3, 4, 5, 6, 7, 8}]
