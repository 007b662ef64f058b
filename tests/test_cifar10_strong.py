"""The strong training's judgements against counting by hand, its network, and a whole run on made-up images."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn import functional as F

from siamese_utils.data.cifar import load_cifar10
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.backbones import ENCODERS, Whitening, count_macs
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.store import store_rows
from siamese_utils.experiments.study import Bench
from siamese_utils.studies.cifar10 import strong, strong_findings


def images(per_class: int, part: str, seed: int) -> ImageSet:
    """Ten classes, each a colour and a direction of stripes, with noise."""
    made = torch.Generator().manual_seed(seed)
    labels = torch.arange(10).repeat_interleave(per_class)
    pattern = torch.rand(10, 4, 4, 3, generator=torch.Generator().manual_seed(7)).repeat_interleave(8, 1)
    pattern = pattern.repeat_interleave(8, 2)[labels]
    noisy = 160 * pattern + 95 * torch.rand(len(labels), 32, 32, 3, generator=made)
    names = tuple(f"class{number}" for number in range(10))
    return ImageSet(noisy.to(torch.uint8), labels, names, ("all",), (0,) * 10, "synthetic", part, "made up")


# --- the network ----------------------------------------------------------------------------------


def test_whitening_makes_patches_uncorrelated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Whitening, "least", 0.0)
    pixels = torch.randn(200, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels = F.avg_pool2d(pixels, 3, 1, 1) + pixels[:, :1]  # neighbours and colours alike
    layer = Whitening()
    layer.fit(pixels)
    with torch.no_grad():
        out = layer(pixels)[:, :12] - layer.bias[:12, None, None]
    patches = out.permute(0, 2, 3, 1).flatten(0, 2)
    assert torch.allclose(patches.T @ patches / len(patches), torch.eye(12), atol=0.02)
    assert torch.equal(layer.kernels[:12], -layer.kernels[12:])
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


def test_the_encoder_takes_its_kernels_from_the_images_it_learns() -> None:
    encoder = Encoder("airbench")
    before = encoder.body[0].kernels.clone()
    encoder.set_pixel_statistics(images(20, "train", 0).images)
    assert not torch.equal(before, encoder.body[0].kernels)
    again = Encoder("airbench")
    again.set_pixel_statistics(images(20, "train", 0).images)
    assert torch.equal(again.body[0].kernels, encoder.body[0].kernels)


def test_the_network_costs_what_was_reckoned() -> None:
    body, features = ENCODERS["airbench"]()
    assert features == 256 and count_macs(body, 32) == pytest.approx(118e6, rel=0.02)
    assert body(torch.randn(2, 3, 24, 24)).shape == (2, 256)
    narrow, features = ENCODERS["vgg19bn-8"]()
    assert features == 64 and sum(isinstance(layer, torch.nn.Conv2d) for layer in narrow.modules()) == 16


# --- judging --------------------------------------------------------------------------------------


def test_pairs_of_all_permutations_are_counted() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    rows = F.one_hot(torch.tensor([0, 0, 1, 0]), 2).float()  # the last image is taken for one of the other class
    found = strong.pair_metrics(rows, 0.5, labels)
    called = rows @ rows.T > 0.5
    same = labels[:, None] == labels
    assert found["accuracy"].value == pytest.approx(100 * (called == same).double().mean().item())
    hits, wrong = (called & same).sum().item(), (called != same).sum().item()
    assert found["f1"].value == pytest.approx(100 * 2 * hits / (2 * hits + wrong)) and found["f1"].n == 16


def test_intervals_of_pairs_cover_new_images() -> None:
    generator = torch.Generator().manual_seed(0)
    values, halves = [], []
    for _ in range(150):
        labels = torch.randint(0, 10, (400,), generator=generator)
        noise = torch.rand(400, generator=generator) < 0.15
        guessed = torch.where(noise, torch.randint(0, 10, (400,), generator=generator), labels)
        found = strong.pair_metrics(F.one_hot(guessed, 10).float(), 0.5, labels)["f1"]
        values.append(found.value)
        halves.append(found.ci95)
    spread = 1.96 * torch.tensor(values).std().item()
    assert sum(halves) / len(halves) == pytest.approx(spread, rel=0.15)


def test_the_threshold_is_that_of_the_best_f1() -> None:
    rows = F.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(1)), dim=1)
    labels = torch.arange(6).repeat_interleave(10)
    rows = F.normalize(rows + 0.6 * F.one_hot(labels, 8), dim=1)
    best = strong.best_threshold(rows, labels)
    first, second = torch.triu_indices(60, 60, 1)
    score, same = (rows[first] * rows[second]).sum(1), labels[first] == labels[second]

    def f1(threshold: float) -> float:
        called = score > threshold
        return float(2 * (called & same).sum() / (called.sum() + same.sum()))

    assert f1(best) == pytest.approx(max(f1(float(threshold) - 1e-6) for threshold in score))


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bench() -> Bench:
    parts = {(load_cifar10, part): images(30, part, seed) for seed, part in enumerate(("train", "test"))}
    return Bench("cpu", False, parts)


def quick(run: object) -> object:
    changes = {"encoder": "conv3", "epochs": 2, "batch_size": 50, "held_out_images": 6, "resolutions": ()}
    return dataclasses.replace(run, settings={"config": dataclasses.replace(run.config, **changes)})


def test_a_run_is_judged_as_its_checkpoint_is_judged_again(bench: Bench, tmp_path: object) -> None:
    run = quick(strong.CIFAR10_STRONG.runs()[0])
    outcome = strong.CIFAR10_STRONG.carry_out(run, bench)
    assert set(outcome.metrics) == set(strong.CIFAR10_STRONG.metrics)
    assert outcome.metrics["accuracy"].value > 60 and outcome.metrics["accuracy"].n == 300
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(outcome.checkpoint)
    again = strong.CIFAR10_STRONG.again(path, bench)["cifar10_strong"]
    assert {name: outcome.metrics[name] for name in again} == again
    assert set(outcome.metrics) - set(again) == set(strong.CIFAR10_STRONG.once)
    assert load_encoder(path).embed(images(1, "test", 3).images).shape == (10, 128)


def test_thresholds_and_means_come_from_training_images(bench: Bench) -> None:
    run = quick(strong.CIFAR10_STRONG.runs()[0])
    train_set = bench.load(load_cifar10, "train")
    trained = bench.train(run.config, train_set, range(10))
    judge = strong.judge_from(trained.encoder, train_set, trained.held_out)
    spoilt = train_set.images.clone()
    spoilt[trained.held_out] = 0
    spoilt = dataclasses.replace(train_set, images=spoilt)
    other = strong.judge_from(trained.encoder, spoilt, trained.held_out)
    assert torch.equal(judge.classifier.weights, other.classifier.weights)  # means: of learned images alone
    assert judge.thresholds != other.thresholds


def test_other_checkpoints_are_refused(bench: Bench, tmp_path: object) -> None:
    from siamese_utils.encoders.checkpoints import save_encoder

    path = tmp_path / "other.safetensors"
    save_encoder(Encoder("conv3"), path, {})
    with pytest.raises(CheckpointError, match="is no encoder of the strong training"):
        strong.CIFAR10_STRONG.again(path, bench)


def test_trials_are_judged_by_images_held_out(bench: Bench) -> None:
    outcome = strong.CIFAR10_STRONG_TRIALS.carry_out(quick(strong.CIFAR10_STRONG_TRIALS.runs()[0]), bench)
    assert outcome.metrics["acc_held_out"].n == 60 and outcome.metrics["acc_held_out"].value > 50


@pytest.mark.usefixtures("project")
def test_each_change_is_told_beside_the_trial_without_it() -> None:
    study = strong.CIFAR10_STRONG_TRIALS
    with pytest.raises(ResultsError):
        strong_findings.trials_sentence()
    stored = {"base": (90.0, 10.0), "turning-steps": (91.2, 9.98), "turning-full-size-gelu": (92.0, 12.0)}
    for trial, (accuracy, minutes) in stored.items():
        rows = {"acc_held_out": Estimate(accuracy, 0.8, 5_000), "core_minutes": Estimate(minutes, 0.0, 1)}
        store_rows(study.path, {"trial": trial, "seed": 0}, rows, "", study.all_columns)
    told = strong_findings.trials_sentence()
    assert "In 8 passes the best of them, *turning-full-size-gelu*, names **92.0%**" in told and "names 90.0%" in told
    assert told.endswith("Step by step: steps that turn the kernels +1.2 points for +0.0 core-minutes.")
    assert strong_findings.trials_table().frame.trial.tolist() == list(stored)


def test_three_seeds_of_the_final_training_are_planned_and_one_encoder_of_each_is_kept() -> None:
    runs = strong.CIFAR10_STRONG.runs()
    short, long, turning, final = (
        config.epochs for config in (strong.SHORT, strong.LONG, strong.TURNING, strong.FINAL)
    )
    assert [(run.key["passes"], run.key["seed"]) for run in runs] == [
        (short, 0),
        (long, 0),
        (turning, 0),
        *((final, seed) for seed in (0, 1, 2)),
    ]
    assert all((run.config.epochs, run.config.seed) == tuple(run.key.values()) for run in runs)
    kept = [strong.CIFAR10_STRONG.checkpoint(run) for run in runs]
    assert kept[4:] == [None, None] and len(set(kept[:4])) == 4 and None not in kept[:4]


@pytest.mark.usefixtures("project")
def test_aims_are_held_against_the_stored_rows() -> None:
    study = strong.CIFAR10_STRONG
    with pytest.raises(ResultsError):
        strong_findings.strong_table()

    def stored(passes: int, seed: int, shift: float, minutes: float) -> None:
        values = dict.fromkeys(study.metrics, 93.9 + shift) | {"pair_f1_probabilities": 94.0 + shift}
        values |= {"pair_accuracy_probabilities": 98.0 + shift, "core_minutes": minutes}
        rows = {name: Estimate(value, 0.3, 10) for name, value in values.items()}
        store_rows(study.path, {"passes": passes, "seed": seed}, rows, "", study.all_columns)

    short, long, final = (config.epochs for config in (strong.SHORT, strong.LONG, strong.FINAL))
    stored(short, 0, -1.0, 18.0)
    with pytest.raises(ResultsError, match="final"):
        strong_findings.strong_sentences()
    stored(strong.TURNING.epochs, 0, -0.1, 38.0)
    text = " ".join(strong_findings.strong_sentences())
    assert "**93.80%**" in text and "(one seed)" in text and f"of {final} passes, is not stored yet" in text
    stored(final, 0, -0.2, 38.0)
    text = " ".join(strong_findings.strong_sentences())
    assert "**93.70%**" in text and "(mean of one seed of the 3 planned)" in text and "not stored" not in text
    assert "the aim, 94% in at most 40 (20 minutes of both cores, where there are two), is missed" in text
    stored(final, 1, 0.4, 36.0)
    stored(long, 0, -0.4, 39.0)
    text = " ".join(strong_findings.strong_sentences())
    assert "**94.00%**" in text and "**37 core-minutes** (mean of 2 seeds of the 3 planned, 93.70 to 94.30)" in text
    assert "where there are two), is met" in text and "**98.10%** right with an F1 of **94.1**" in text
    assert "98.5 (missed) and 93 (met)" in text
    assert f"**+0.50** points beside {long} passes" in text and "in 37 core-minutes in place of 39." in text
    found = strong_findings.strong_table()
    first, told = found.frame.iloc[0], strong_findings.TRAININGS
    assert [first[told[passes]] for passes in (short, long, final)] == ["92.90 ± 0.30", "93.50 ± 0.30", "94.00 ± 0.30"]
    assert (first[strong_findings._SPREAD], first["aim"]) == ("0.42", "at least 94")
    assert f"{told[short]}: one seed; " in found.caption
