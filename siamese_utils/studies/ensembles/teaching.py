"""Several networks in one: what the four long networks of CIFAR-FS teach another in half an hour of one core.

Judged on the validation classes alone, by which one would choose a weight for the lesson. (The network that is not
taught is CIFAR-FS's own, so where it is missing it is trained by that study, which judges it on the test classes too.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.encoder import Ensemble
from siamese_utils.evaluation.estimates import exact
from siamese_utils.experiments import store
from siamese_utils.experiments.study import (
    Bench,
    Outcome,
    Run,
    Study,
    as_stored,
    complete,
    recorded_core_minutes,
    training_record,
)
from siamese_utils.studies.ensembles import cifar_fs
from siamese_utils.studies.ensembles.test_time import LONG
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.recipes import HALF_HOUR_RECIPE

SEEDS = (0, 1)
ALONE, TEACHERS = "alone", "teachers"
WEIGHTS = {"taught-2": 2.0, "taught-8": 8.0}
"""Weight of what is taught, by the name of the trial: at 2 it is a small part of the loss, at 8 the larger one."""
EXPECTATION = (
    "A point better at one shot and a point and a half at five: the four together are four points ahead of a network "
    "of half an hour, and one network cannot hold all of that. The larger weight brings more."
)


def taught_config(seed: int, weight: float) -> TrainConfig:
    """The recipe for half an hour of one core, with the four long networks as teachers."""
    return dataclasses.replace(
        cifar_fs.cifar_fs_run(seed, HALF_HOUR_RECIPE).config,
        recipe=f"{HALF_HOUR_RECIPE}-taught",
        teachers=tuple(cifar_fs.record_name(member_seed, name) for name, member_seed in LONG),
        teaching_weight=weight,
    )


def _runs() -> list[Run]:
    """The teachers together; then, seed by seed, a network that is not taught and those that are."""
    return [
        _stored(TEACHERS, 0, LONG),
        *(run for seed in SEEDS for run in (_stored(ALONE, seed, ((HALF_HOUR_RECIPE, seed),)), *_taught(seed))),
    ]


def _stored(trial: str, seed: int, members: Sequence[tuple[str, int]]) -> Run:
    """A run that judges networks of CIFAR-FS as they are."""
    settings = {"networks": [list(member) for member in members]}
    missing = cifar_fs.images_missing(members)
    return Run({"trial": trial, "seed": seed}, settings, images=missing, built_on=_paths(members))


def _taught(seed: int) -> list[Run]:
    runs = []
    for trial, weight in WEIGHTS.items():
        config = taught_config(seed, weight)
        shown = cifar_fs.cifar_fs_images(config)
        runs.append(Run({"trial": trial, "seed": seed}, {"config": config}, EXPECTATION, shown, _paths(LONG)))
    return runs


def _paths(members: Sequence[Sequence[Any]]) -> tuple[Path, ...]:
    return tuple(cifar_fs.checkpoint_path(seed, name) for name, seed in members)


def _carry_out(run: Run, bench: Bench) -> Outcome:
    """Networks that are not stored are trained first."""
    whole = cifar_fs.whole_set(bench.train_set, bench.test_set)
    split = fewshot_split_cifar_fs(whole.class_names)
    members = run.settings.get("networks", LONG)
    complete(cifar_fs.CIFAR_FS, bench, [cifar_fs.cifar_fs_run(seed, name) for name, seed in members])
    if "config" in run.settings:
        trained = bench.train(run.config, whole, split.train)
        encoder, _ = as_stored(trained.encoder, {})  # as the others are judged: rounded as in a file
        record = training_record(trained)
        minutes, images = trained.core_minutes, run.images
    else:
        encoder, record = Ensemble([load_encoder(path) for path in run.built_on]), {}
        records = [store.load_json(cifar_fs.record_name(seed, name)) for name, seed in members]
        minutes = sum(recorded_core_minutes(one) for one in records)
        images = sum(cifar_fs.cifar_fs_images(TrainConfig.from_json(one["config"])) for one in records)
    positions = whole.indices_of(split.val)
    metrics = cifar_fs.judge(encoder.embed(whole.images[positions]), whole.labels[positions])
    return Outcome({**metrics, "core_minutes": exact(minutes), "images": exact(images)}, record=record)


METRICS = {
    **{f"acc_5w{shots}s": f"CIFAR-FS, validation classes: 5-way {shots}-shot accuracy" for shots in (1, 5)},
    "core_minutes": "of training, without the teachers': processor time of all threads",
    "images": "shown in training",
}
TEACHING = Study(
    "teaching",
    "What can four networks teach another that learns for half an hour of one core?",
    _runs,
    _carry_out,
    key=("trial", "seed"),
    metrics=METRICS,
    once=("core_minutes", "images"),
)
