"""Trials of the base network: what they learn, and what they are judged on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split, hold_out_images
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.checkpoints import checkpoint_info
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench
from siamese_utils.studies.imprinting import base_findings, base_trials
from siamese_utils.studies.imprinting.bases import FIRST
from siamese_utils.studies.imprinting.settings import FIRST_BASE

QUICK = {"encoder": "conv3", "epochs": 8, "least_images": 0, "batch_size": 80, "images_per_class": 2}
QUICK |= {"held_out_images": 4, "resolutions": ((0.0, 16),)}


@pytest.fixture(scope="module")
def train_set() -> ImageSet:
    return make_synthetic("train", num_classes=100, per_class=10)


def test_the_first_base_is_trained_as_the_first_trial() -> None:
    runs, first = base_trials.runs(), FIRST_BASE.training
    stored = Path(__file__).resolve().parents[1] / "results" / "checkpoints" / f"{FIRST}.safetensors"
    if stored.is_file():
        key = {name: getattr(FIRST_BASE, name) for name in ("split", "draw", "seed", "recipe")}
        assert checkpoint_info(stored) == {**key, "data": "cifar100", "config": first.to_json()}
    assert runs[0].key["trial"] == "base"
    assert dataclasses.replace(runs[0].config, recipe=first.recipe, held_out_images=first.held_out_images) == first
    assert len({run.label for run in runs}) == len(runs)
    assert all(run.config.held_out_images == 100 and run.expectation for run in runs)


def test_no_novel_class_is_seen_and_no_judged_image_is_learned(
    train_set: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = class_split("40-60", 0, 100).seen
    learned, held_out = hold_out_images(train_set.labels, seen, 4, 0)
    asked: list[torch.Tensor] = []
    embed = Encoder.embed

    def watched(self: Encoder, images: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
        asked.append(images)
        return embed(self, images, *args, **kwargs)

    monkeypatch.setattr(Encoder, "embed", watched)
    run = base_trials.runs()[0]
    run = dataclasses.replace(run, settings={"config": dataclasses.replace(run.config, **QUICK)})
    bench = Bench("cpu", False, {})
    monkeypatch.setattr(Bench, "train_set", train_set)
    outcome = base_trials.IMPRINTING_BASE_TRIALS.carry_out(run, bench)
    assert torch.equal(asked[-2], train_set.images[learned]) and torch.equal(asked[-1], train_set.images[held_out])
    found = outcome.metrics["acc_held_out"]
    assert found.n == 4 * 40 and found.value > 8  # guessing gives 2.5 ± 2.4
    assert set(outcome.metrics) == set(base_trials.IMPRINTING_BASE_TRIALS.metrics)


def test_trials_are_told_as_far_as_they_are_stored(project: Path) -> None:
    trials = base_trials.IMPRINTING_BASE_TRIALS
    for found in (base_findings.base_trials_table, base_findings.base_sentence):
        with pytest.raises(ResultsError):
            found()
    for trial, value, minutes in (("base", 76.0, 9.6), ("cutmix", 79.5, 30.2), ("strong-cutmix", 80.6, 29.4)):
        metrics = {"acc_held_out": Estimate(value, 1.3, 4000), "core_minutes": exact(minutes)}
        store.store_rows(trials.path, {"trial": trial, "seed": 0}, metrics, columns=trials.all_columns)
    shown, told = base_findings.base_trials_table()
    table = shown.frame.set_index("trial")
    assert list(table.index) == ["base", "cutmix", "strong-cutmix"] and table.seed.to_list() == [0, 0, 0]
    assert table["named right (%)"].to_list() == ["76.0 ± 1.3", "79.5 ± 1.3", "80.6 ± 1.3"]
    assert table["core-minutes"].to_list() == ["10", "30", "29"]
    assert table.change.to_list() == ["–", "epochs = 60; mixing = cutmix", "strong; mixing = cutmix"]
    assert "stands for linear" in told and "encoder = airbench" in told and "cutmix" not in told
