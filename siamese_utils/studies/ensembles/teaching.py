"""Several networks in one: what the four long networks of CIFAR-FS teach another in half an hour of one core.

Half of each batch is turned for the rotation head. A lesson is about the images as they are: it says that an image
looks like others whichever way it was turned, unless turned images are left out of it.
"""

from __future__ import annotations

from siamese_utils.experiments.study import Bench, Outcome, Run, Study
from siamese_utils.studies.ensembles import cifar_fs, half_hour
from siamese_utils.studies.ensembles.half_hour import Trial
from siamese_utils.studies.ensembles.test_time import LONG
from siamese_utils.training.config import TrainConfig

TEACHERS = "teachers"
_OF_ALL = (
    "A point better at one shot and a point and a half at five: the four together are four points ahead of a network "
    "of half an hour, and one network cannot hold all of that. The larger weight brings more."
)
_OF_UPRIGHT = (
    "Level with a network that is not taught at one shot, half a point ahead at five: half of what was lost with all "
    "images came from lessons that the rotation head contradicts, and the rest of the lesson is worth something."
)
TRIALS: dict[str, Trial] = {
    "taught-2": Trial("taught with weight 2", {"teaching_weight": 2.0}, _OF_ALL),
    "taught-8": Trial("taught with weight 8", {"teaching_weight": 8.0}, _OF_ALL),
    "upright-2": Trial(
        "taught with weight 2, of upright images alone", {"teaching_weight": 2.0, "teach_upright": True}, _OF_UPRIGHT
    ),
    "upright-8": Trial(
        "taught with weight 8, of upright images alone", {"teaching_weight": 8.0, "teach_upright": True}, _OF_UPRIGHT
    ),
}
"""Lessons by the name of the trial; at weight 2 they are a small part of the loss, at 8 the larger one."""


def config_of(trial: str, seed: int) -> TrainConfig:
    """The recipe for half an hour of one core, with the four long networks as teachers."""
    teachers = tuple(cifar_fs.record_name(member_seed, name) for name, member_seed in LONG)
    return half_hour.trial_config("taught", seed, {"teachers": teachers, **TRIALS[trial].changes})


def _runs() -> list[Run]:
    """The teachers together; then, seed by seed, a network that is not taught and those that are."""
    return [half_hour.stored_run(TEACHERS, 0, LONG), *half_hour.compared_runs(TRIALS, config_of, LONG)]


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
