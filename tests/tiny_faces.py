"""Made-up faces, and runs of the face studies whose networks are trained on them within a second."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import pytest

from siamese_utils.data.faces import FaceSet, load_test_faces, load_training_faces, synthetic_faces
from siamese_utils.evaluation import estimates
from siamese_utils.experiments.study import Bench, Outcome, Run
from siamese_utils.studies.faces.study import FACES
from siamese_utils.studies.faces.systems import FaceConfig


@lru_cache
def people() -> FaceSet:
    """Who is learned."""
    return synthetic_faces(40, 80)


@lru_cache
def strangers() -> FaceSet:
    """Who is tested on."""
    return synthetic_faces(20, 40, part="test")


def tiny(run: Run) -> Run:
    """The run with a small network, a short training and the same key."""
    config = run.config
    if isinstance(config, FaceConfig):
        train = dataclasses.replace(
            config.train,
            encoder="conv3",
            embedding_dim=8,
            batch_size=16,
            least_images=64,
            most_images=64,
            resolutions=(),
        )
        config = dataclasses.replace(config, train=train, size=16)
    elif not isinstance(config, dict):
        epochs = min(config.epochs, 2)
        config = dataclasses.replace(config, side=65, channels=(2, 3, 4, 5), features=6, epochs=epochs)
    return Run(run.key, {"config": config}, run.expectation)


def face_run(system: str, seed: int = 0) -> Run:
    """A small run of the study."""
    return next(tiny(run) for run in FACES.runs() if dict(run.key) == {"system": system, "seed": seed})


def bench(test: FaceSet | None = None, faces: FaceSet | None = None) -> Bench:
    """Where made-up faces stand for LFW's; without a test set, asking for it is an error."""
    given = {(load_training_faces,): faces or people()} | ({} if test is None else {(load_test_faces,): test})
    return Bench("cpu", progress=False, given=given)


def carried_out(run: Run, test: FaceSet, faces: FaceSet | None = None) -> Outcome:
    """What a run of the study gives, with intervals that are quick to compute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimates, "RESAMPLES", 20)
        return FACES.carry_out(run, bench(test, faces))


@lru_cache
def finished(system: str, seed: int = 0) -> Outcome:
    """What one network gives on the strangers; each is trained once a session."""
    return carried_out(face_run(system, seed), strangers())
