"""The training loop: that it learns, what it may look at, and that a killed run ends as an unbroken one."""

from __future__ import annotations

import copy
import dataclasses
import errno
import json
import math
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import MIXED as TINY

from siamese_utils.data.images import ImageSet
from siamese_utils.data.pixels import to_float
from siamese_utils.data.splits import hold_out_images
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import (
    CheckpointError,
    CollapseError,
    ConfigError,
    SamplingError,
    SplitError,
    TrainingError,
    UnknownNameError,
)
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.system import devices
from siamese_utils.system.devices import autocast_dtype, pick_device
from siamese_utils.training import loop as training
from siamese_utils.training import state as training_state
from siamese_utils.training import task
from siamese_utils.training.augment import AugmentConfig, augment_batch
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import TrainResult, learning_rate_at, train
from siamese_utils.training.losses import ObjectiveOutput, Term
from siamese_utils.training.recipes import DEFAULT_RECIPE, RECIPES, recipe

# Six batches an epoch in well under a second.
pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = (0, 1, 2, 4, 5, 7)


@pytest.fixture(scope="module")
def small_set() -> ImageSet:
    return make_synthetic("train", num_classes=8, per_class=10)


@pytest.fixture(scope="module")
def larger_set() -> ImageSet:
    """Enough images a class for the validation's episodes: one support image, 15 queries."""
    return make_synthetic("train", num_classes=8, per_class=18)


@pytest.fixture(scope="module")
def reference(small_set: ImageSet) -> TrainResult:
    """The unbroken run that others are compared with."""
    return run(TINY, small_set)


EVERY_AUGMENTATION = AugmentConfig(
    translate=4,
    flip=True,
    smallest_crop=0.6,
    cutout=8,
    brightness=0.3,
    contrast=0.3,
    saturation=0.3,
    rotate=15.0,
    zoom=0.1,
    shear=0.1,
    elastic=1.0,
)


def with_threads(threads: int, work: Callable[[], TrainResult]) -> TrainResult:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return work()
    finally:
        torch.set_num_threads(before)


def run(config: TrainConfig, train_set: ImageSet, run_dir: Path | None = None, **more: Any) -> TrainResult:
    return train(config, train_set, CLASSES, run_dir=run_dir, device="cpu", progress=False, **more)


def same_weights(one: TrainResult, other: TrainResult) -> bool:
    first, second = one.encoder.state_dict(), other.encoder.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def without_time(result: TrainResult) -> list[dict[str, float]]:
    return result.history.drop(columns=["seconds", "cpu_seconds", "images_per_second"]).to_dict(orient="records")


def poisoned(train_set: ImageSet, positions: torch.Tensor) -> ImageSet:
    """Copy a set with other pixels at some positions."""
    images = train_set.images.clone()
    images[positions] = 255 - images[positions].roll(5, dims=1)
    return dataclasses.replace(train_set, images=images)


# -------------------------------------------------------------------------------------- it learns


@pytest.fixture(scope="module")
def learned() -> TrainResult:
    """A small encoder trained on 25 synthetic classes for some seconds."""
    train_set = make_synthetic("train", num_classes=30, per_class=40)
    config = dataclasses.replace(recipe("smoke"), encoder="conv3", epochs=4, batch_size=64, held_out_images=4)
    return train(config, train_set, range(25), device="cpu", progress=False)


def test_loss_falls(learned: TrainResult) -> None:
    assert learned.history["loss"].iloc[-1] < 0.8 * learned.history["loss"].iloc[0]
    assert learned.history["proxy_accuracy"].iloc[-1] > 3 / 25


def test_unseen_classes_are_recognised(learned: TrainResult) -> None:
    test_set = make_synthetic("test", num_classes=30, per_class=20)
    unseen = test_set.indices_of(range(25, 30))
    z, labels = learned.encoder.embed(test_set.images[unseen]), test_set.labels[unseen]
    estimate = few_shot_accuracy(z, labels, np.random.default_rng(0), ways=5, shots=1, queries=10, episodes=2_000)
    assert estimate.value > 45  # chance is 20, untrained weights reach 25


def test_result_describes_the_run(reference: TrainResult, small_set: ImageSet) -> None:
    used, held_out = hold_out_images(small_set.labels, CLASSES, 2, seed=0)
    assert reference.config == TINY and reference.classes == CLASSES and reference.validation_classes == ()
    assert torch.equal(reference.held_out, held_out)
    history = reference.history
    assert history["epoch"].tolist() == [1, 2, 3]
    assert {"loss", "learning_rate", "seconds", "images_per_second", "proxy_loss", "triplet_loss"} <= set(history)
    assert np.isfinite(history.to_numpy()).all()
    assert reference.seconds == pytest.approx(history["seconds"].sum()) and reference.seconds > 0
    encoder = reference.encoder
    assert not encoder.training and encoder.embedding_dim == 8
    pixels = small_set.images[used].double()
    torch.testing.assert_close(encoder.pixel_mean.double(), pixels.mean(dim=(0, 1, 2)), atol=1e-3, rtol=0)
    assert encoder.centre.norm() > 0


def test_history_is_the_mean_of_the_steps(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    forward = training.WeightedSum.forward

    def recording(self: Any, *arguments: Any) -> ObjectiveOutput:
        output = forward(self, *arguments)
        seen.append(float(output.loss.detach()))
        return output

    monkeypatch.setattr(training.WeightedSum, "forward", recording)
    history = run(dataclasses.replace(TINY, epochs=2), small_set).history
    steps = len(seen) // 2
    assert history["loss"].tolist() == pytest.approx([np.mean(seen[:steps]), np.mean(seen[steps:])])


def test_terms_join_and_leave_on_time(small_set: ImageSet) -> None:
    terms = (Term("proxy", end=1 / 3), Term("triplet", begin=1 / 3))
    history = run(dataclasses.replace(TINY, terms=terms), small_set).history
    assert history["proxy_loss"].notna().tolist() == [True, False, False]
    assert history["triplet_loss"].notna().tolist() == [False, True, True]


# --------------------------------------------------------------------------------- what it may see


def test_images_of_other_classes_are_never_touched(small_set: ImageSet, reference: TrainResult) -> None:
    others = [label for label in range(8) if label not in CLASSES]
    assert same_weights(run(TINY, poisoned(small_set, small_set.indices_of(others))), reference)


def test_held_out_images_are_never_touched(small_set: ImageSet, reference: TrainResult) -> None:
    _, held_out = hold_out_images(small_set.labels, CLASSES, 2, seed=0)
    assert same_weights(run(TINY, poisoned(small_set, held_out)), reference)


def test_training_images_are_touched(small_set: ImageSet, reference: TrainResult) -> None:
    # Else the two tests above would prove nothing.
    used, _ = hold_out_images(small_set.labels, CLASSES, 2, seed=0)
    assert not same_weights(run(TINY, poisoned(small_set, used[:1])), reference)


def test_validation_classes_are_judged_but_not_trained_on(larger_set: ImageSet) -> None:
    config = dataclasses.replace(TINY, validation_classes=2, epochs=1)
    result = run(config, larger_set)
    assert len(result.validation_classes) == 2
    assert sorted(result.classes + result.validation_classes) == list(CLASSES)
    assert set(larger_set.labels[result.held_out].tolist()) == set(result.classes)
    assert 0 <= result.history["validation_acc_5w1s"].iloc[0] <= 100
    changed = run(config, poisoned(larger_set, larger_set.indices_of(result.validation_classes)[::2]))
    assert same_weights(result, changed)


def test_order_and_repetition_of_the_classes_do_not_matter(small_set: ImageSet, reference: TrainResult) -> None:
    shuffled = train(TINY, small_set, [7, 0, 5, 1, 4, 2, 7], device="cpu", progress=False)
    assert same_weights(shuffled, reference)


# ------------------------------------------------------------------------------------ determinism


def test_same_seed_same_weights(small_set: ImageSet, reference: TrainResult) -> None:
    torch.manual_seed(12345)  # the state of the program around it must not matter
    np.random.seed(1)
    again = run(TINY, small_set)
    assert same_weights(again, reference) and without_time(again) == without_time(reference)


def test_other_seed_other_weights(small_set: ImageSet, reference: TrainResult) -> None:
    other = run(dataclasses.replace(TINY, seed=1), small_set)
    for key, tensor in reference.encoder.named_parameters():
        if tensor.ndim > 1:
            assert not torch.equal(tensor, other.encoder.state_dict()[key]), key
    assert not torch.equal(other.held_out, reference.held_out)


@pytest.mark.parametrize("threads", [2, 3])
def test_same_threads_same_weights(threads: int, small_set: ImageSet) -> None:
    """Sums are split among the threads, so their number may show in the last bits, but not which one was faster."""
    config = dataclasses.replace(TINY, encoder="resnet9-16", batch_size=32, images_per_class=8, epochs=2)
    one, two = (with_threads(threads, lambda: run(config, small_set)) for _ in range(2))
    assert same_weights(one, two) and without_time(one) == without_time(two)


@pytest.mark.parametrize("threads", [2, 5])
def test_what_is_learned_from_does_not_depend_on_the_threads(
    threads: int, small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Classes, images held out, batches, and every pixel after every kind of augmentation."""
    config = dataclasses.replace(TINY, augment=EVERY_AUGMENTATION, batch_size=48, images_per_class=8, epochs=2)
    shown: list[torch.Tensor] = []

    def watched(*args: Any) -> torch.Tensor:
        pixels = augment_batch(*args)
        shown.append(pixels.clone())
        return pixels

    monkeypatch.setattr(training, "augment_batch", watched)
    one = run(config, small_set)
    alone, shown = shown, []
    several = with_threads(threads, lambda: run(config, small_set))
    assert len(alone) == len(shown) > 0
    assert alone[0].numel() > 2 * 32_768, "too little for PyTorch to share among threads"
    assert all(torch.equal(a, b) for a, b in zip(alone, shown))
    assert one.classes == several.classes and torch.equal(one.held_out, several.held_out)


def test_random_state_of_the_caller_is_left_alone(small_set: ImageSet) -> None:
    torch.manual_seed(7)
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    run(dataclasses.replace(TINY, epochs=1), small_set)
    assert torch.equal(torch.get_rng_state(), before)
    assert (np.random.get_state()[1] == numpy_before).all()


def test_training_set_is_left_alone(small_set: ImageSet) -> None:
    images, labels = small_set.images.clone(), small_set.labels.clone()
    run(dataclasses.replace(TINY, epochs=1, augment=AugmentConfig(cutout=8, contrast=0.3)), small_set)
    assert torch.equal(small_set.images, images) and torch.equal(small_set.labels, labels)


# ----------------------------------------------------------------------------------------- resume


def test_stopped_run_resumes_bit_for_bit(small_set: ImageSet, reference: TrainResult, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(TrainingError, match="Stopped after 1 epochs"):
            run(TINY, small_set, tmp_path, stop_after=1)
    torch.manual_seed(99)
    resumed = run(TINY, small_set, tmp_path)
    assert same_weights(resumed, reference) and without_time(resumed) == without_time(reference)
    assert resumed.seconds == pytest.approx(resumed.history["seconds"].sum())


def test_finished_run_is_not_trained_again(
    small_set: ImageSet, reference: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(TINY, small_set, tmp_path)
    monkeypatch.setattr(training, "_train_epoch", lambda *_: pytest.fail("trained again"))
    assert same_weights(run(TINY, small_set, tmp_path), reference)


def test_validation_survives_a_resume(larger_set: ImageSet, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, validation_classes=2, epochs=2)
    unbroken = run(config, larger_set)
    with pytest.raises(TrainingError):
        run(config, larger_set, tmp_path, stop_after=1)
    resumed = run(config, larger_set, tmp_path)
    assert same_weights(resumed, unbroken) and without_time(resumed) == without_time(unbroken)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "sgd"},
        {"optimizer": "muon"},
        {"optimizer": "muon", "muon_momentum": 0.6, "fixed_norms": True, "warmup": 0.0},
        {"average_decay": 0.8},
        {"optimizer": "muon", "average_decay": 0.5},
        {"head_width": 12},
        {"turned_classes": True},
        {"rotation_weight": 0.5},
        {"mixing": "cutmix"},
        {"mixing": "manifold", "rotation_weight": 0.5},
        {"augment": AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.3)},
        {"average_decay": 0.8, "fresh_statistics": True},
        {"rotation_weight": 0.5, "average_decay": 0.8, "fresh_statistics": True, "optimizer": "muon"},
    ],
    ids=str,
)
def test_every_engine_resumes_bit_for_bit(change: dict[str, Any], small_set: ImageSet, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, learning_rate=0.01, **change)
    unbroken = run(config, small_set)
    with pytest.raises(TrainingError, match="Stopped"):
        run(config, small_set, tmp_path, stop_after=1)
    resumed = run(config, small_set, tmp_path)
    assert same_weights(resumed, unbroken) and without_time(resumed) == without_time(unbroken)
    assert all(p.requires_grad for p in resumed.encoder.parameters())


def test_each_epoch_draws_anew() -> None:
    seeds = {training._seed_of(epoch, dataclasses.replace(TINY, seed=seed)) for epoch in range(20) for seed in range(5)}
    assert len(seeds) == 100


def test_each_epoch_varies_its_images_otherwise(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    states: list[bytes] = []

    def watched(images: torch.Tensor, config: AugmentConfig, mean: Any, std: Any, generator: Any, side: int) -> Any:
        states.append(generator.get_state().numpy().tobytes())
        return augment_batch(images, config, mean, std, generator, side)

    monkeypatch.setattr(training, "augment_batch", watched)
    run(TINY, small_set)
    assert len(set(states)) == len(states) == 18


def test_steps_are_taken_at_the_rate_of_the_moment_and_clipped(small_set: ImageSet) -> None:
    config = dataclasses.replace(TINY, head_width=4, clip_norm=1e-3, warmup=0.1)
    made = task.prepare(config, small_set, CLASSES)
    torch.manual_seed(0)
    learner = training.Learner(config, made.images, made.num_labels)
    learner.begin(0)
    done = training.step(learner, *made.batch(made.batches.epoch(0)[0]), 0.6)
    rate = config.learning_rate * (1 + math.cos(math.pi * 0.5 / 0.9)) / 2
    rates = [group["lr"] for optimizer in learner.optimizer.optimizers for group in optimizer.param_groups]
    assert rates == pytest.approx([rate] * len(rates))
    gradients = [parameter.grad for parameter in learner.parameters() if parameter.grad is not None]
    norm = math.sqrt(sum(float(each.double().square().sum()) for each in gradients))
    assert done.gradient_norm > 1 and norm == pytest.approx(1e-3, rel=1e-3)
    heads = [*learner.head.parameters(), *learner.objective.parameters()]
    assert heads and all(parameter.grad is not None for parameter in heads)


def test_the_average_counts_the_steps_of_the_whole_training(
    small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[int] = []
    monkeypatch.setattr(training.WeightAverage, "update", lambda average, encoder, step: counted.append(step))
    run(dataclasses.replace(TINY, average_decay=0.9), small_set)
    assert counted == list(range(1, 19))


def test_head_is_trained_but_thrown_away(small_set: ImageSet, reference: TrainResult, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, head_width=12)
    result = run(config, small_set, tmp_path)
    assert result.encoder.state_dict().keys() == reference.encoder.state_dict().keys()
    head = torch.load(tmp_path / "state.pt", weights_only=True)["head"]
    assert head["0.weight"].shape == (12, 8) and head["3.weight"].shape == (8, 12)
    torch.manual_seed(config.seed)
    fresh = training.Learner(config, small_set.images[:4], 6).head.state_dict()
    assert all(not torch.equal(fresh[key], head[key]) for key in ("0.weight", "3.weight", "1.running_mean"))


def test_averaged_weights_are_kept(small_set: ImageSet, reference: TrainResult, tmp_path: Path) -> None:
    """The average is another encoder than the last weights, and follows the same training."""
    averaged = run(dataclasses.replace(TINY, average_decay=0.9), small_set, tmp_path)
    assert not same_weights(averaged, reference) and without_time(averaged) == without_time(reference)
    last = torch.load(tmp_path / "state.pt", weights_only=True)["encoder"]
    expected = reference.encoder.state_dict()
    assert all(torch.equal(last[key], expected[key]) for key in last if key != "centre")


def test_fresh_statistics_are_those_of_the_averaged_weights(small_set: ImageSet) -> None:
    """The first layer's mean over all images, each shown once; the weights are those of the average."""
    still = AugmentConfig(translate=0, flip=False)
    config = dataclasses.replace(TINY, average_decay=0.9, augment=still, precision="float32")
    plain, fresh = (run(dataclasses.replace(config, fresh_statistics=on), small_set).encoder for on in (False, True))
    for (name, one), other in zip(plain.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(one, other), name
    used, _ = hold_out_images(small_set.labels, CLASSES, config.held_out_images, config.seed)
    convolution, norm = fresh.body[0][0], fresh.body[0][1]
    with torch.no_grad():
        maps = convolution(to_float(small_set.images[used], fresh.pixel_mean, fresh.pixel_std))
    torch.testing.assert_close(norm.running_mean, maps.mean(dim=(0, 2, 3)), atol=1e-3, rtol=1e-3)
    assert not torch.allclose(norm.running_mean, plain.body[0][1].running_mean, atol=1e-2)
    assert not torch.equal(plain.centre, fresh.centre)  # the centre is of the network as it is kept


def test_rotation_head_is_told_how_each_image_was_turned(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network sees what the augmentation gave, mirrored already, turned by what the head is told."""
    upright: list[torch.Tensor] = []
    seen: list[torch.Tensor] = []
    told: list[torch.Tensor] = []
    augment, embed, judge = training.augment_batch, training.Learner.embed, training.RotationObjective.forward

    def vary(*arguments: Any) -> torch.Tensor:
        upright.append(augment(*arguments))
        return upright[-1]

    def look(learner: training.Learner, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(pixels)
        return embed(learner, pixels)

    def listen(self: Any, embeddings: torch.Tensor, turns: torch.Tensor) -> ObjectiveOutput:
        told.append(turns)
        return judge(self, embeddings, turns)

    monkeypatch.setattr(training, "augment_batch", vary)
    monkeypatch.setattr(training.Learner, "embed", look)
    monkeypatch.setattr(training.RotationObjective, "forward", listen)
    config = dataclasses.replace(TINY, rotation_weight=0.5, rotation_share=0.25, epochs=1)
    run(config, small_set)
    assert len(upright) == len(seen) == len(told) == 6
    for before, after, turns in zip(upright, seen, told, strict=True):
        assert after.is_contiguous(memory_format=torch.channels_last) and (turns > 0).sum() == 2
        for image, turned, quarter in zip(before, after, turns.tolist(), strict=True):
            assert torch.equal(turned, image.rot90(quarter, (1, 2)))


def test_rotation_head_is_trained_but_thrown_away(small_set: ImageSet, reference: TrainResult, tmp_path: Path) -> None:
    config = dataclasses.replace(TINY, rotation_weight=0.5)
    result = run(config, small_set, tmp_path)
    assert {"rotation_loss", "rotation_accuracy"} <= set(result.history)
    assert result.history["loss"].iloc[0] == pytest.approx(
        result.history["proxy_loss"].iloc[0]
        + 0.5 * result.history["triplet_loss"].iloc[0]
        + 0.5 * result.history["rotation_loss"].iloc[0]
    )
    assert result.encoder.state_dict().keys() == reference.encoder.state_dict().keys()
    assert not same_weights(result, reference)
    torch.manual_seed(config.seed)
    fresh = training.Learner(config, small_set.images[:4], 6)
    assert not torch.equal(
        torch.load(tmp_path / "state.pt", weights_only=True)["rotation"]["head.weight"], fresh.rotation.head.weight
    )
    torch.manual_seed(config.seed)
    plain = training.Learner(TINY, small_set.images[:4], 6)
    for one, other in zip(plain.encoder.parameters(), fresh.encoder.parameters(), strict=True):
        assert torch.equal(one, other)  # both start from the same weights


def test_short_epochs_are_repeated(small_set: ImageSet) -> None:
    # 48 images an epoch.
    assert len(run(dataclasses.replace(TINY, least_images=200), small_set).history) == 5
    assert len(run(dataclasses.replace(TINY, least_images=100), small_set).history) == TINY.epochs


def test_budget_of_images_ends_the_training_in_mid_epoch(
    small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    forward = Encoder.forward

    def recording(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen.append(len(pixels))
        return forward(self, pixels)

    monkeypatch.setattr(Encoder, "forward", recording)
    config = dataclasses.replace(TINY, epochs=5, most_images=70)
    result = run(config, small_set)
    assert sum(seen) == 64 and len(result.history) == 2  # six batches of eight, then two
    assert result.history["learning_rate"].iloc[-1] == 0  # the schedule ends with the budget
    with pytest.raises(TrainingError, match="Stopped"):
        run(config, small_set, tmp_path, stop_after=1)
    assert same_weights(run(config, small_set, tmp_path), result)


def test_turned_classes_are_learned_apart(small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image is shown once in each turn, and an image and its label always turn together."""
    config = dataclasses.replace(TINY, turned_classes=True, epochs=1, augment=AugmentConfig(translate=0, flip=False))
    used, _ = hold_out_images(small_set.labels, CLASSES, config.held_out_images, config.seed)
    turned = {
        small_set.images[row].rot90(quarter, (0, 1)).numpy().tobytes(): quarter * len(CLASSES) + CLASSES.index(label)
        for row, label in zip(used.tolist(), small_set.labels[used].tolist(), strict=True)
        for quarter in range(4)
    }
    assert len(turned) == 4 * len(used)
    shown: list[bytes] = []
    told: list[int] = []
    augment, forward = training.augment_batch, training.WeightedSum.forward

    def look(images: torch.Tensor, *args: Any) -> torch.Tensor:
        shown.extend(image.tobytes() for image in images.numpy())
        return augment(images, *args)

    def listen(self: Any, embeddings: torch.Tensor, labels: torch.Tensor, *args: Any) -> ObjectiveOutput:
        told.extend(labels.tolist())
        return forward(self, embeddings, labels, *args)

    monkeypatch.setattr(training, "augment_batch", look)
    monkeypatch.setattr(training.WeightedSum, "forward", listen)
    run(config, small_set, tmp_path)
    assert [turned[image] for image in shown] == told
    assert len(set(shown)) == len(shown) == task.images_shown(config, [8] * 6) == 4 * 48
    proxies = torch.load(tmp_path / "state.pt", weights_only=True)["objective"]["objectives.0.proxies"]
    assert len(proxies) == 4 * len(CLASSES)


def scripted_validation(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> list[Encoder]:
    """Let the validation report these accuracies, epoch by epoch, and collect the encoders it saw."""
    judged: list[Encoder] = []

    def report(encoder: Encoder, *_: Any) -> float:
        judged.append(copy.deepcopy(encoder))
        return accuracies[len(judged) - 1]

    monkeypatch.setattr(training, "validation_accuracy", report)
    return judged


def test_epochs_since_the_best() -> None:
    def since(*scores: float) -> int:
        return training_state.since_best(scores, 0.1)

    assert [since(), since(3), since(3, 3.05), since(3, 3.05, 3.09), since(3, 3.05, 3.2)] == [0, 0, 1, 2, 0]


@pytest.mark.parametrize("average_decay", [0.0, 0.5])
def test_training_stops_when_the_validation_no_longer_rises(
    average_decay: float, small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = scripted_validation(monkeypatch, [30, 40, 40.4, 39, 41, 42])
    config = dataclasses.replace(
        TINY, epochs=6, validation_classes=2, patience=2, min_delta=0.5, average_decay=average_decay
    )
    result = run(config, small_set)
    assert list(result.history["validation_acc_5w1s"]) == [30, 40, 40.4, 39]
    best = judged[1].state_dict()
    assert all(torch.equal(best[key], value) for key, value in result.encoder.state_dict().items() if key != "centre")


def test_early_stop_survives_a_resume(small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = dataclasses.replace(TINY, epochs=6, validation_classes=2, patience=2)
    scripted_validation(monkeypatch, [50, 40, 30])
    unbroken = run(config, small_set)
    scripted_validation(monkeypatch, [50, 40])
    with pytest.raises(TrainingError, match="Stopped"):
        run(config, small_set, tmp_path, stop_after=2)
    scripted_validation(monkeypatch, [30])
    resumed = run(config, small_set, tmp_path)
    assert len(resumed.history) == 3 and same_weights(resumed, unbroken)
    scripted_validation(monkeypatch, [])
    assert same_weights(run(config, small_set, tmp_path), unbroken)  # a finished run is not trained on


def test_validation_classes_of_one_image_are_refused_before_an_epoch(
    larger_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_train_epoch", None)  # is never called
    first = larger_set.indices_of([3])[0]
    kept = (larger_set.labels != 3) | (torch.arange(len(larger_set)) == first)
    fewer = dataclasses.replace(larger_set, images=larger_set.images[kept], labels=larger_set.labels[kept])
    with pytest.raises(SplitError, match="Class 3 has fewer than two training images"):
        train(TINY, fewer, CLASSES, validation=(3, 6), progress=False)


def test_validation_accuracy_is_that_of_the_embeddings(larger_set: ImageSet) -> None:
    """One who parts the classes is always right, one who sees the same in all no more often than chance."""

    class Eyes:
        def __init__(self, sees: Callable[[torch.Tensor], torch.Tensor]) -> None:
            self.sees = sees

        def embed(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.one_hot(self.sees(images), len(larger_set.class_names)).float()

    def labels_of(images: torch.Tensor) -> torch.Tensor:
        same = (images[:, None] == larger_set.images[None]).flatten(2).all(dim=2)
        return larger_set.labels[same.int().argmax(dim=1)]

    judged = (0, 2, 3, 6, 7)
    right, wrong = Eyes(labels_of), Eyes(lambda images: torch.zeros(len(images), dtype=torch.int64))
    assert training.validation_accuracy(right, larger_set, judged, episodes=50) == 100
    assert training.validation_accuracy(wrong, larger_set, judged, episodes=50) == pytest.approx(20, abs=1)
    half = Eyes(lambda images: torch.where(labels_of(images) == 7, 6, labels_of(images)))
    # One class in five is never told from another: either takes the other's queries, or both share them.
    assert training.validation_accuracy(half, larger_set, judged, episodes=50) == pytest.approx(80, abs=1)


def test_validation_classes_can_be_named(larger_set: ImageSet) -> None:
    named = train(TINY, larger_set, CLASSES, validation=(3, 6), device="cpu", progress=False)
    assert named.classes == CLASSES and named.validation_classes == (3, 6)
    assert named.history["validation_acc_5w1s"].between(0, 100).all()
    plain = run(TINY, larger_set)
    assert same_weights(named, plain)
    with pytest.raises(SplitError, match=r"\[5\]"):
        train(TINY, larger_set, CLASSES, validation=(3, 5), device="cpu", progress=False)
    with pytest.raises(SplitError, match="two classes"):
        train(TINY, larger_set, CLASSES, validation=(3,), device="cpu", progress=False)
    with pytest.raises(ConfigError, match="validation_classes"):
        run(dataclasses.replace(TINY, patience=1), larger_set)


def check_compiled_training_learns_the_same(small_set: ImageSet) -> None:
    compiled = run(dataclasses.replace(TINY, compile=True, epochs=1), small_set)
    plain = run(dataclasses.replace(TINY, epochs=1), small_set)
    assert compiled.history["loss"][0] == pytest.approx(plain.history["loss"][0], rel=1e-3)
    assert set(compiled.encoder.state_dict()) == set(plain.encoder.state_dict())


def test_compiled_training_learns_the_same(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a backend that generates no code; tests/long has the real one."""
    compile_with, compiled = torch.compile, []

    def quickly(module: torch.nn.Module) -> Callable[..., Any]:
        compiled.append(module)
        return compile_with(module, backend="aot_eager")

    monkeypatch.setattr(training.torch, "compile", quickly)
    check_compiled_training_learns_the_same(small_set)
    assert len(compiled) == 1


KILLED = """
    import json, os, signal, sys
    import torch
    from siamese_utils.data.synthetic import make_synthetic
    from siamese_utils.training import loop as training
    from siamese_utils.training.config import TrainConfig
    torch.set_num_threads(1)
    augment_batch, calls = training.augment_batch, 0

    def killing(*arguments):
        global calls
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
        return augment_batch(*arguments)

    training.augment_batch = killing
    config = TrainConfig.from_json(json.loads(sys.argv[1]))
    train_set = make_synthetic("train", num_classes=8, per_class=10)
    training.train(config, train_set, {classes}, run_dir=sys.argv[2], device="cpu", progress=False)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows knows no SIGKILL")
def test_killed_run_resumes_bit_for_bit(small_set: ImageSet, reference: TrainResult, tmp_path: Path) -> None:
    # Six batches an epoch: the ninth lies in the middle of the second.
    program = textwrap.dedent(KILLED).format(classes=CLASSES)
    child = subprocess.run(
        [sys.executable, "-c", program, json.dumps(TINY.to_json()), str(tmp_path), "9"],
        cwd=Path(training.__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    assert len(json.loads(saved["history"])) == 1
    resumed = run(TINY, small_set, tmp_path)
    assert same_weights(resumed, reference) and without_time(resumed) == without_time(reference)


def test_failing_save_keeps_the_last_state(
    small_set: ImageSet, reference: TrainResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TrainingError):
        run(TINY, small_set, tmp_path, stop_after=1)
    before = (tmp_path / "state.pt").read_bytes()

    def half_a_state(_: Any, path: Path) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(training_state.torch, "save", half_a_state)
        with pytest.raises(CheckpointError, match=r"No space left.*make room"):
            run(TINY, small_set, tmp_path)
    assert (tmp_path / "state.pt").read_bytes() == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["history.csv", "state.pt"]
    assert same_weights(run(TINY, small_set, tmp_path), reference)


@pytest.fixture(scope="module")
def state(small_set: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The state after the first epoch, as it lies on disk."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.raises(TrainingError):
        run(TINY, small_set, folder, stop_after=1)
    return (folder / "state.pt").read_bytes()


@pytest.mark.parametrize("damage", ["empty", "half", "text", "bit", "other data", "no history", "other weights"])
def test_damaged_state_is_an_error(damage: str, state: bytes, small_set: ImageSet, tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    path.write_bytes(state)
    content = torch.load(path, weights_only=True)
    if damage in ("empty", "half", "text", "bit"):
        middle = len(state) // 2
        one_bit = state[:middle] + bytes([state[middle] ^ 1]) + state[middle + 1 :]  # among the numbers of the weights
        path.write_bytes({"empty": b"", "half": state[:middle], "text": b"hello", "bit": one_bit}[damage])
    elif damage == "other data":
        torch.save({"model": torch.zeros(3)}, path)
    elif damage == "no history":
        torch.save({key: value for key, value in content.items() if key != "history"}, path)
    else:  # as after a change of the architecture under the same name
        torch.save({**content, "encoder": Encoder("conv3", 9).state_dict()}, path)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="delete it") as error:
        run(TINY, small_set, tmp_path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert path.read_bytes() == before


class Intruder:
    """Unpickling this makes a folder."""

    def __init__(self, victim: Path) -> None:
        self.victim = str(victim)

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.mkdir, (self.victim,)


def test_code_in_a_state_is_never_run(small_set: ImageSet, tmp_path: Path) -> None:
    torch.save(Intruder(tmp_path / "victim"), tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        run(TINY, small_set, tmp_path)
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("change", [{"seed": 1}, {"learning_rate": 1e-3}, {"recipe": "other"}, {"epochs": 4}])
def test_state_of_another_configuration_is_an_error(
    change: dict[str, Any], state: bytes, small_set: ImageSet, tmp_path: Path
) -> None:
    (tmp_path / "state.pt").write_bytes(state)
    with pytest.raises(CheckpointError, match="another configuration, other classes"):
        run(dataclasses.replace(TINY, **change), small_set, tmp_path)


def test_state_of_other_classes_is_an_error(state: bytes, small_set: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(state)
    with pytest.raises(CheckpointError, match="another configuration, other classes"):
        train(TINY, small_set, range(6), run_dir=tmp_path, device="cpu", progress=False)


def test_state_of_other_images_or_labels_is_an_error(small_set: ImageSet, tmp_path: Path) -> None:
    """Half of the weights would be of images that no record names."""
    with pytest.raises(TrainingError, match="Stopped"):
        run(TINY, small_set, tmp_path, stop_after=1)
    darker = dataclasses.replace(small_set, images=small_set.images // 2)
    first, second = (small_set.indices_of([label])[0] for label in CLASSES[:2])
    swapped = small_set.labels.clone()
    swapped[first], swapped[second] = CLASSES[1], CLASSES[0]
    for other in (darker, dataclasses.replace(small_set, labels=swapped)):
        with pytest.raises(CheckpointError, match="other classes, images or teachers"):
            run(TINY, other, tmp_path)
    run(TINY, small_set, tmp_path, stop_after=3)  # and the state was kept


def test_state_that_was_judged_on_other_images_is_an_error(larger_set: ImageSet, tmp_path: Path) -> None:
    judged = poisoned(larger_set, larger_set.indices_of((3, 6)))
    with pytest.raises(TrainingError, match="Stopped"):
        run(TINY, larger_set, tmp_path, validation=(3, 6), stop_after=1)
    with pytest.raises(CheckpointError, match="images or teachers"):
        run(TINY, judged, tmp_path, validation=(3, 6))
    run(TINY, larger_set, tmp_path, validation=(3, 6))


def test_a_state_from_before_contents_were_kept_is_gone_on_from(
    small_set: ImageSet, reference: TrainResult, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="Stopped"):
        run(TINY, small_set, tmp_path, stop_after=1)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    del state["content"]
    torch.save(state, tmp_path / "state.pt")
    assert same_weights(run(TINY, small_set, tmp_path), reference)


def test_run_folder_that_cannot_be_made(small_set: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(CheckpointError, match="another run folder"):
        run(TINY, small_set, tmp_path / "file" / "run")


def test_a_run_can_be_watched(small_set: ImageSet, reference: TrainResult, tmp_path: Path) -> None:
    with pytest.raises(TrainingError):
        run(TINY, small_set, tmp_path, stop_after=2)
    watched = pd.read_csv(tmp_path / "history.csv")
    assert watched.epoch.tolist() == [1, 2]
    result = run(TINY, small_set, tmp_path)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), result.history, rtol=1e-12)


def test_without_a_run_folder_nothing_is_written(
    small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(dataclasses.replace(TINY, epochs=1), small_set)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------ runs that go wrong


def test_loss_that_is_not_a_number(small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError):
        run(TINY, small_set, tmp_path, stop_after=1)
    before = (tmp_path / "state.pt").read_bytes()
    forward = Encoder.forward

    def diverged(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        return forward(self, pixels) * torch.nan

    monkeypatch.setattr(Encoder, "forward", diverged)
    with pytest.raises(TrainingError, match="loss became nan in epoch 2, step 1") as error:
        run(TINY, small_set, tmp_path)
    assert not isinstance(error.value, CollapseError)
    assert (tmp_path / "state.pt").read_bytes() == before


def collapse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every image have nearly the same embedding."""
    forward = Encoder.forward

    def collapsed(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        return 1e-3 * forward(self, pixels) + 1

    monkeypatch.setattr(Encoder, "forward", collapsed)


TRIPLETS_ONLY = dataclasses.replace(TINY, terms=(Term("triplet", mining="batch_hard"),))


def test_collapse_is_detected(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    collapse(monkeypatch)
    monkeypatch.setattr(training, "COLLAPSE_PATIENCE", 3)
    with pytest.raises(CollapseError, match=r"collapsed in epoch 1.*learning rate") as error:
        run(TRIPLETS_ONLY, small_set)
    assert "\n" not in str(error.value)


def test_collapse_is_detected_when_an_epoch_is_shorter_than_the_patience(
    small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As with few classes: an epoch of the 10-90 split has 20 batches.
    collapse(monkeypatch)
    monkeypatch.setattr(training, "COLLAPSE_PATIENCE", 10)
    with pytest.raises(CollapseError, match="collapsed in epoch 2"):
        run(TRIPLETS_ONLY, small_set)


def test_a_collapse_is_found_at_the_same_step_after_a_kill(
    small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collapse(monkeypatch)
    monkeypatch.setattr(training, "COLLAPSE_PATIENCE", 10)
    with pytest.raises(TrainingError, match="Stopped after 1 epoch"):
        run(TRIPLETS_ONLY, small_set, tmp_path, stop_after=1)
    with pytest.raises(CollapseError, match="collapsed in epoch 2"):
        run(TRIPLETS_ONLY, small_set, tmp_path)


def test_collapse_needs_consecutive_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "COLLAPSE_PATIENCE", 3)
    watch = training._CollapseWatch()
    spread_out, flat = torch.eye(4), torch.ones(4, 4)
    for _ in range(3):
        watch.check(flat, 0)
        watch.check(flat, 0)
        watch.check(spread_out, 0)
    watch.check(flat, 0)
    watch.check(flat, 0)
    with pytest.raises(CollapseError):
        watch.check(flat, 0)


def test_healthy_run_is_no_collapse(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "COLLAPSE_PATIENCE", 1)
    run(dataclasses.replace(TINY, epochs=1), small_set)


@pytest.mark.parametrize(
    "change, error, words",
    [
        ({"encoder": "resnet21"}, UnknownNameError, "resnet20"),
        ({"terms": ()}, ConfigError, "no active objective"),
        ({"held_out_images": 10}, SplitError, "hold out fewer"),
        ({"validation_classes": 6}, SplitError, "validation classes"),
        ({"batch_size": 4096}, SamplingError, "smaller batch|fewer images"),
        ({"augment": AugmentConfig(translate=32)}, ValueError, "translate"),
    ],
)
def test_configuration_that_does_not_fit_the_data(
    change: dict[str, Any], error: type[Exception], words: str, small_set: ImageSet
) -> None:
    with pytest.raises(error, match=words):
        run(dataclasses.replace(TINY, **change), small_set)


@pytest.mark.parametrize("classes", [(), (0, 99), (-1, 2), (3,)])
def test_classes_that_cannot_be_trained_on(classes: tuple[int, ...], small_set: ImageSet) -> None:
    with pytest.raises((SplitError, SamplingError)):
        train(TINY, small_set, classes, device="cpu", progress=False)


def test_unknown_device(small_set: ImageSet) -> None:
    with pytest.raises(ConfigError, match="abacus"):
        train(TINY, small_set, CLASSES, device="abacus", progress=False)


def test_processors_of_one_name_are_told_apart_by_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert devices.processor_and_precision() == f"{devices.processor_name()} with bfloat16"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert devices.processor_and_precision() == devices.processor_name()


@pytest.mark.parametrize(
    ("hip", "capability", "native"), [(None, (7, 5), False), (None, (8, 0), True), ("6.0", (0, 0), True)]
)
def test_graphics_cards_with_bfloat16(
    hip: str | None, capability: tuple[int, int], native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)  # as in torch 2.2, which counts emulation too
    assert (autocast_dtype(torch.device("cuda")) is torch.bfloat16) is native


def test_devices() -> None:
    assert pick_device("cpu").type == "cpu"
    assert pick_device().type in ("cpu", "cuda", "mps")
    assert autocast_dtype(torch.device("cpu")) in (None, torch.bfloat16)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="cannot be used"):
            pick_device("cuda")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_is_that_of_the_configuration(
    precision: str, small_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed_in = set()
    forward = Encoder.forward

    def recording(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        if self.training:
            computed_in.add(torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32)
        return forward(self, pixels)

    monkeypatch.setattr(Encoder, "forward", recording)
    result = run(dataclasses.replace(TINY, epochs=1, precision=precision), small_set)
    assert computed_in == {getattr(torch, precision)}
    assert np.isfinite(result.history["loss"]).all()
    assert {weight.dtype for weight in result.encoder.parameters()} == {torch.float32}


def test_bfloat16_changes_little(small_set: ImageSet) -> None:
    losses = {
        precision: run(dataclasses.replace(TINY, epochs=1, precision=precision), small_set).history.loss[0]
        for precision in ("float32", "bfloat16")
    }
    assert losses["float32"] != losses["bfloat16"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)


def test_precision_by_name() -> None:
    assert autocast_dtype(torch.device("cpu"), "float32") is None
    assert autocast_dtype(torch.device("cpu"), "bfloat16") is torch.bfloat16
    with pytest.raises(UnknownNameError, match=r"'half'.*bfloat16"):
        autocast_dtype(torch.device("cpu"), "half")


# --------------------------------------------------------------------------------------- schedules


@pytest.mark.parametrize("warmup", [0.0, 0.2, 0.5])
def test_learning_rate_rises_and_falls(warmup: float) -> None:
    config = dataclasses.replace(TINY, warmup=warmup)
    rates = [learning_rate_at(p, config) for p in np.linspace(0, 1, 201)]
    peak = int(np.argmax(rates))
    assert peak == round(200 * warmup) and rates[peak] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert all(np.diff(rates[: peak + 1]) > 0) and all(np.diff(rates[peak:]) < 0)
    assert np.abs(np.diff(rates)).max() < 0.1  # no jump
    if warmup:
        assert rates[0] == pytest.approx(0.05)
        assert learning_rate_at(warmup / 2, config) == pytest.approx(0.525)
    assert learning_rate_at((1 + warmup) / 2, config) == pytest.approx(0.5)


def test_resolution_schedule(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    sides: list[tuple[int, ...]] = []
    forward = Encoder.forward

    def recording(self: Encoder, pixels: torch.Tensor) -> torch.Tensor:
        if self.training:
            sides.append(tuple(pixels.shape[1:]))
        return forward(self, pixels)

    monkeypatch.setattr(Encoder, "forward", recording)
    run(dataclasses.replace(TINY, resolutions=((0.0, 16), (1 / 3, 24), (0.6, 32))), small_set)
    progress = [step / len(sides) for step in range(len(sides))]
    assert sides == [(3, s, s) for s in (16 if p < 1 / 3 else 24 if p < 0.6 else 32 for p in progress)]


@given(classes=st.integers(2, 100), batch_size=st.integers(4, 64), per_class=st.integers(2, 8))
def test_batches_have_the_configured_size(classes: int, batch_size: int, per_class: int) -> None:
    labels = torch.arange(classes).repeat_interleave(40)
    config = dataclasses.replace(TINY, batch_size=batch_size, images_per_class=per_class)
    batches = task.make_batches(labels, config)
    assert batches.images_per_class >= per_class
    assert batches.batch_size <= max(batch_size, 2 * batches.images_per_class)
    if per_class * 2 <= batch_size:
        assert batches.batch_size > batch_size / 2


# ----------------------------------------------------------------------------------------- recipes


@pytest.mark.parametrize("name", RECIPES)
def test_recipes(name: str) -> None:
    config = recipe(name)
    assert config.recipe == name
    assert TrainConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    training.WeightedSum(config.terms, 10, Encoder(config.encoder, config.embedding_dim).embedding_dim)


def test_unknown_recipe() -> None:
    assert DEFAULT_RECIPE in RECIPES
    with pytest.raises(UnknownNameError, match="'smoke'"):
        recipe("smok")


def test_gradient_that_is_not_finite_stops_before_the_state_is_spoilt(
    small_set: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(TrainingError, match="gradient's norm became nan in epoch 1, step 1"):
        run(TINY, small_set, tmp_path)
    assert not (tmp_path / "state.pt").exists()
