"""Trials of the base network: what they learn, and what they are judged on."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split, hold_out_images
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.experiments.study import Bench
from siamese_utils.studies.imprinting import base_trials
from siamese_utils.studies.imprinting.settings import WHOLE, ImprintingConfig

QUICK = {"encoder": "conv3", "epochs": 8, "least_images": 0, "batch_size": 80, "images_per_class": 2}
QUICK |= {"held_out_images": 4, "resolutions": ((0.0, 16),)}


@pytest.fixture(scope="module")
def train_set() -> ImageSet:
    return make_synthetic("train", num_classes=100, per_class=10)


def test_the_first_trial_is_the_training_of_the_study() -> None:
    runs = base_trials.runs()
    study = ImprintingConfig.from_yaml(WHOLE).base.training
    first = dataclasses.replace(runs[0].config, recipe=study.recipe, held_out_images=study.held_out_images)
    assert first == study and len({run.label for run in runs}) == len(runs)
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
