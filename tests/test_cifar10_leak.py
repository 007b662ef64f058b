"""The leak adds what it must on made-up answers, runs end in all metrics, and ImageNet's weights are asked for."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pytest
import torch

from siamese_utils.data.cifar import load_cifar10
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders import backbones, pretrained
from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.errors import CheckpointError, ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.store import store_rows
from siamese_utils.experiments.study import Bench
from siamese_utils.studies.cifar10 import leak, strong_findings
from siamese_utils.studies.cifar10.fit import FitConfig


def images(per_class: int, part: str, seed: int) -> ImageSet:
    """Four classes, each a colour, with noise."""
    labels = torch.arange(4).repeat_interleave(per_class)
    colours = torch.tensor([[200, 40, 40], [40, 200, 40], [40, 40, 200], [120, 120, 40]], dtype=torch.float32)
    noise = 50 * torch.rand(len(labels), 32, 32, 3, generator=torch.Generator().manual_seed(seed))
    names = ("red", "green", "blue", "olive")
    made = (colours[labels][:, None, None] + noise).to(torch.uint8)
    return ImageSet(made, labels, names, ("all",), (0,) * 4, "synthetic", part, "made up")


@pytest.fixture(scope="module")
def bench() -> Bench:
    parts = {(load_cifar10, part): images(12, part, seed) for seed, part in enumerate(("train", "test"))}
    return Bench("cpu", False, parts)


def with_answers(towers: int) -> tuple[leak.Towers, list[torch.Tensor], torch.Tensor]:
    """A network whose features are its answers, of which some say the wrong class or hesitate."""
    labels = torch.arange(10).repeat_interleave(200)
    clue = torch.randn(towers, len(labels), 10, generator=torch.Generator().manual_seed(0))
    features = [1.5 * torch.nn.functional.one_hot(labels, 10) + side for side in clue]
    network = leak.Towers(0, 10)
    network.out = torch.nn.Linear(10 * towers, 10, bias=False)
    with torch.no_grad():
        network.out.weight.copy_(torch.eye(10).repeat(1, towers))
    return network, features, labels


@pytest.mark.parametrize("towers", [1, 2])
def test_a_second_image_of_the_true_class_is_worth_points(towers: int) -> None:
    network, features, labels = with_answers(towers)
    if towers == 2:
        features[1] = features[0]  # both towers know the same
    found = leak.answers(network, features, labels)
    alone = (features[0].argmax(dim=1) == labels).float().mean().item()
    assert found["accuracy_same_image"].value == pytest.approx(100 * alone)
    assert found["accuracy_same_class"].value > found["accuracy_same_image"].value + 8
    assert found["accuracy_any_image"].value < found["accuracy_same_image"].value
    assert all(each.n == len(labels) and 0 < each.ci95 < 3 for each in found.values())


def test_towers_see_an_image_each_and_share_nothing() -> None:
    network = leak.Towers(2, 4).eval()
    images = torch.rand(3, 2, 3, 32, 32)
    whole = network(images[0], images[1])
    assert whole.shape == (2, 4)
    assert not torch.allclose(whole, network(images[2], images[1]))
    assert not torch.allclose(whole, network(images[0], images[2]))
    sizes = [sum(p.numel() for p in leak.Towers(count, 4).towers.parameters()) for count in (1, 2)]
    assert sizes[1] == 2 * sizes[0]


@pytest.mark.parametrize("system", ["plain", "two-towers"])
def test_a_run_ends_in_all_metrics(system: str, bench: Bench) -> None:
    run = next(run for run in leak.CIFAR10_LEAK.runs() if run.key["system"] == system)
    short = {**run.settings, "config": FitConfig(judged=(12,), batch=16)}
    outcome = leak.CIFAR10_LEAK.carry_out(dataclasses.replace(run, settings=short), bench)
    assert set(outcome.metrics) == set(leak.CIFAR10_LEAK.metrics)
    assert outcome.metrics["accuracy_same_image"].n == 48


def test_runs_are_paired_by_seed() -> None:
    keys = [(run.key["seed"], run.key["system"]) for run in leak.CIFAR10_LEAK.runs()]
    assert keys == [(seed, system) for seed in (0, 1, 2) for system in ("plain", "two-towers")]
    assert len(leak.CIFAR10_LEAK.runs(pretrained=True)) == 9


# --- from ImageNet's weights ----------------------------------------------------------------------


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A VGG-19 an eighth as wide, so that its file is small."""
    monkeypatch.setitem(ENCODERS, "vgg19bn", lambda: backbones._vgg19bn(8))


def quick_run() -> leak.Run:
    run = next(run for run in leak.CIFAR10_LEAK.runs(pretrained=True) if run.key["system"] == "imagenet")
    config = dataclasses.replace(run.config, epochs=2, batch_size=16)
    return dataclasses.replace(run, settings={"config": config})


@pytest.mark.usefixtures("narrow")
def test_published_weights_are_fine_tuned(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = pretrained.PRETRAINED[leak.WEIGHTS]
    body = ENCODERS["vgg19bn"]()[0]
    made = tmp_path / "made.pth"
    torch.save({**body.state_dict(), "classifier.0.weight": torch.zeros(1)}, made)
    name = f"vgg19_bn-{hashlib.sha256(made.read_bytes()).hexdigest()[:8]}.pth"
    (tmp_path / "pretrained").mkdir()
    made.rename(tmp_path / "pretrained" / name)
    monkeypatch.setenv("SIAMESE_DATA", str(tmp_path))
    monkeypatch.setitem(pretrained.PRETRAINED, leak.WEIGHTS, dataclasses.replace(source, filename=name))
    outcome = leak.CIFAR10_LEAK.carry_out(quick_run(), bench)
    assert set(outcome.metrics) == {"accuracy_same_image", "seconds"} and "ImageNet" in outcome.record["weights"]


@pytest.mark.usefixtures("narrow")
def test_weights_that_cannot_be_had_are_one_sentence(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIAMESE_DATA", str(tmp_path))
    monkeypatch.setenv("SIAMESE_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"vgg19_bn-c79401a0\.pth are not on this machine .*; download https://"):
        leak.CIFAR10_LEAK.carry_out(quick_run(), bench)


# --- what is told ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("project")
def test_the_leak_is_told_from_the_stored_rows() -> None:
    def store(system: str, *values: float) -> None:
        names = [name for name in leak.CIFAR10_LEAK.metrics if name != "seconds"]
        rows = {name: Estimate(value, 0.9, 10_000) for name, value in zip(names, values, strict=True)}
        store_rows(leak.CIFAR10_LEAK.path, {"system": system, "seed": 0}, rows, "", leak.CIFAR10_LEAK.all_columns)

    store("two-towers", 69.0, 48.0, 78.5)
    with pytest.raises(ResultsError, match="study cifar10_leak"):
        strong_findings.leak_table()
    store("plain", 70.0, 50.0, 80.0)
    text = " ".join(strong_findings.leak_sentences())
    assert "names **+10.0** points more right" in text and "lead of 3.3 points (84.9 to 88.2)" in text
    assert "worth **+9.5** points. Asked honestly, they trail one tower by 1.0 points" in text
    assert strong_findings.leak_table().frame["itself"].tolist() == ["70.0 ± 0.9", "69.0 ± 0.9"]
