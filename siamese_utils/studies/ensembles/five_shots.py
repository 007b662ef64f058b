"""What half an hour of one core could learn otherwise, so that five examples tell more than they do.

At one shot the long networks are level with the field's, at five they are points behind: their classes lie in tight
heaps, and a mean of five examples finds little in them that one does not. Each trial changes one thing of the recipe
for half an hour towards what the field does.
"""

from __future__ import annotations

import dataclasses

from siamese_utils.experiments.study import Run, Study
from siamese_utils.studies.ensembles import half_hour
from siamese_utils.studies.ensembles.half_hour import Trial
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term
from siamese_utils.training.recipes import HALF_HOUR_RECIPE, JITTER, recipe

TRIALS: dict[str, Trial] = {
    "softmax": Trial(
        "a plain softmax in place of cosines and triplets, without smoothing",
        {"terms": (Term("linear", smoothing=0.0),)},
        "A point behind at one shot and a point ahead at five: what classes share and how their images differ stays in "
        "the features, since nothing pulls the images of a class into a point.",
    ),
    "head": Trial(
        "a head between features and objectives, thrown away",
        {"head_width": 512},
        "A point behind at one shot and half a point ahead at five: in a short training it lost less at five than at "
        "one.",
    ),
    "crops": Trial(
        "crops of at least 40% of the area",
        {"augment": dataclasses.replace(JITTER, smallest_crop=0.4)},
        "Level at one shot and half a point ahead at five: others train with crops, in longer trainings.",
    ),
    "proxies": Trial(
        "cosines alone, without triplets",
        {"terms": recipe(HALF_HOUR_RECIPE).terms[:1]},
        "Level at both: half of the steps mix images, and these do without triplets already.",
    ),
}


def config_of(trial: str, seed: int) -> TrainConfig:
    """The recipe for half an hour of one core with the changes of a trial."""
    return half_hour.trial_config(trial, seed, TRIALS[trial].changes)


def _runs() -> list[Run]:
    return half_hour.compared_runs(TRIALS, config_of)


FIVE_SHOTS = Study(
    "five_shots",
    "What would let five examples tell more?",
    _runs,
    half_hour.carry_out,
    key=("trial", "seed"),
    metrics=half_hour.METRICS,
    once=("core_minutes", "images"),
)
