"""Several networks in one: what the four long networks of CIFAR-FS teach another in half an hour of one core."""

from __future__ import annotations

import dataclasses

from siamese_utils.experiments.study import Bench, Outcome, Run, Study
from siamese_utils.studies.ensembles import cifar_fs, half_hour
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
        half_hour.stored_run(TEACHERS, 0, LONG),
        *(
            run
            for seed in SEEDS
            for run in (half_hour.stored_run(ALONE, seed, ((HALF_HOUR_RECIPE, seed),)), *_taught(seed))
        ),
    ]


def _taught(seed: int) -> list[Run]:
    return [
        half_hour.trained_run(trial, seed, taught_config(seed, weight), EXPECTATION, LONG)
        for trial, weight in WEIGHTS.items()
    ]


def _carry_out(run: Run, bench: Bench) -> Outcome:
    return half_hour.carry_out(run, bench, LONG)


TEACHING = Study(
    "teaching",
    "What can four networks teach another that learns for half an hour of one core?",
    _runs,
    _carry_out,
    key=("trial", "seed"),
    metrics=half_hour.METRICS,
    once=("core_minutes", "images"),
)
