"""Half an hour of one core on CIFAR-FS: what a network that learns so long is compared with, and how it is judged.

Judged on the validation classes alone, by which one would choose. (The network that is compared with is CIFAR-FS's own,
so where it is missing it is trained by that study, which judges it on the test classes too.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.encoder import Ensemble
from siamese_utils.evaluation.estimates import exact
from siamese_utils.experiments import store
from siamese_utils.experiments.study import (
    Bench,
    Outcome,
    Run,
    as_stored,
    complete,
    recorded_core_minutes,
    training_record,
)
from siamese_utils.studies.ensembles import cifar_fs
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.recipes import HALF_HOUR_RECIPE

SEEDS = (0, 1)
ALONE = "alone"
METRICS = {
    **{f"acc_5w{shots}s": f"CIFAR-FS, validation classes: 5-way {shots}-shot accuracy" for shots in (1, 5)},
    "core_minutes": "of training, without the teachers': processor time of all threads",
    "images": "shown in training",
}


class Trial(NamedTuple):
    """One change of the recipe for half an hour.

    Attributes:
        what: is different, in a few words.
        changes: fields of ``TrainConfig`` and their values.
        expectation: what was expected before the run.
    """

    what: str
    changes: Mapping[str, Any]
    expectation: str


def trial_config(name: str, seed: int, changes: Mapping[str, Any]) -> TrainConfig:
    """The recipe for half an hour of one core, changed, under a name that ends as given."""
    base = cifar_fs.cifar_fs_run(seed, HALF_HOUR_RECIPE).config
    return dataclasses.replace(base, recipe=f"{HALF_HOUR_RECIPE}-{name}", **changes)


def compared_runs(
    trials: Mapping[str, Trial], config: Callable[[str, int], TrainConfig], teachers: Sequence[tuple[str, int]] = ()
) -> list[Run]:
    """Seed by seed, the network that learns by the recipe alone and those of the trials.

    Args:
        trials: by their names.
        config: of a trial by its name, with a seed.
        teachers: of every trial, each given as its recipe and seed.
    """
    return [
        run
        for seed in SEEDS
        for run in (
            stored_run(ALONE, seed, ((HALF_HOUR_RECIPE, seed),)),
            *(
                trained_run(name, seed, config(name, seed), trial.expectation, teachers)
                for name, trial in trials.items()
            ),
        )
    ]


def stored_run(trial: str, seed: int, members: Sequence[tuple[str, int]]) -> Run:
    """A run that judges networks of CIFAR-FS as they are, each given as its recipe and seed."""
    settings = {"networks": [list(member) for member in members]}
    missing = cifar_fs.images_missing(members)
    return Run({"trial": trial, "seed": seed}, settings, images=missing, built_on=cifar_fs.paths(members))


def trained_run(
    trial: str, seed: int, config: TrainConfig, expectation: str, teachers: Sequence[tuple[str, int]] = ()
) -> Run:
    """A run that trains a network of its own, from networks of CIFAR-FS if it has teachers."""
    shown = cifar_fs.cifar_fs_images(config)
    return Run({"trial": trial, "seed": seed}, {"config": config}, expectation, shown, cifar_fs.paths(teachers))


def carry_out(run: Run, bench: Bench, teachers: Sequence[tuple[str, int]] = ()) -> Outcome:
    """Train, or take what is stored, and judge. Networks that should be stored and are not are trained first."""
    whole = cifar_fs.whole_set(bench.train_set, bench.test_set)
    split = fewshot_split_cifar_fs(whole.class_names)
    members = run.settings.get("networks", teachers)
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
