"""Which training makes the best classifier of the old classes? Judged on training images that are held out.

The networks of the report learn to be compared on classes that they have not learned, and so did the first base network
of the study. What an added class can cost depends on how well the old ones are told apart, and for that other things
help. Each trial learns the classes of the base network; no novel class and no test image is touched.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from siamese_utils.data.splits import class_split
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, training_record
from siamese_utils.studies.cifar10.strong import FINAL
from siamese_utils.studies.class_means import held_out_metrics
from siamese_utils.studies.imprinting.settings import FIRST_BASE, WHOLE, ImprintingConfig
from siamese_utils.training.augment import TURNS
from siamese_utils.training.losses import Term
from siamese_utils.training.recipes import ROTATION, TURNING_STEPS
from siamese_utils.training.task import images_shown

HELD_OUT = 100  # training images of each class, in place of the 20 of the study: enough to tell a point apart
_IMAGES = 500 - HELD_OUT  # that are left of each class
_CLASSES = 40
STRONG = "strong"  # the trial of the settings below; the names of those that change them further begin with it
# What names CIFAR-10's images best in the trials of ``cifar10_strong_trials``, over images that vary as in its long
# trainings, and as many passes as take half an hour of one core.
_STRONG: dict[str, Any] = {
    **{name: getattr(FINAL, name) for name in ("encoder", "terms", "resolutions", "augment", *TURNING_STEPS)},
    **{name: getattr(FINAL, name) for name in ("batch_size", "muon_rate", "learning_rate", "least_images")},
    "epochs": 60,
}


# The training of the study's first base network, with more images held out.
_FIRST = dataclasses.replace(FIRST_BASE.training, held_out_images=HELD_OUT)


def _trial(name: str, expectation: str, **changes: Any) -> Run:
    config = dataclasses.replace(_FIRST, recipe=f"imprinting_base_trials/{name}", **changes)
    shown = images_shown(config, [_IMAGES] * _CLASSES)
    return Run({"trial": name, "seed": config.seed}, {"config": config}, expectation, shown)


def runs() -> list[Run]:
    """The trials: the first as the study's first base network was trained, then one change each, then several at once.

    Expectations stand as they were written; "the study's network" is that first one.
    """
    twice = _FIRST.epochs * 2
    return [
        _trial("base", "About 76%: a point below the study's network, which learns a fifth more images."),
        _trial("twice-as-long", "A point better: the images are known by heart by then.", epochs=twice),
        _trial(
            "cutmix",
            "Three points better in twice the time: images that are mixed anew each time are never known by heart.",
            epochs=twice,
            mixing="cutmix",
        ),
        _trial(
            "rotation",
            "A point better in twice the time; it helps new classes more than known ones.",
            epochs=twice,
            **ROTATION,
        ),
        _trial(
            "turning-steps",
            "A point better, as on CIFAR-10: steps that turn the kernels by as much for as long learn less by heart.",
            **TURNING_STEPS,
            muon_rate=0.09,
        ),
        _trial("wide", "Two points better for twice the time.", encoder="resnet9-48"),
        _trial(
            "wide-cutmix",
            "The best: width has a use where nothing is known by heart.",
            epochs=twice,
            encoder="resnet9-48",
            mixing="cutmix",
        ),
        _trial(STRONG, "Four points better: the network and the steps that came farthest on CIFAR-10.", **_STRONG),
        _trial(
            "strong-cutmix",
            "Two points more: with fifty passes over few images they are known by heart, and no size changes that.",
            **_STRONG,
            mixing="cutmix",
        ),
        _trial(
            "strong-cutmix-always",
            "A point more than with half of the steps mixed, which end with nearly all images known by heart.",
            **_STRONG,
            mixing="cutmix",
            mixing_share=1.0,
        ),
        _trial(
            "strong-turned",
            "Two points more from as many images: four times as many classes to tell apart, each turn one of its own.",
            **(_STRONG | {"epochs": _STRONG["epochs"] // TURNS}),
            turned_classes=True,
        ),
        _trial(
            "strong-proxies",
            "A point behind the linear layer, as on CIFAR-10; in exchange for better distances to new classes.",
            **(_STRONG | {"terms": (Term("proxy"),)}),
        ),
    ]


def _carry_out(run: Run, bench: Bench) -> Outcome:
    train_set, base = bench.train_set, ImprintingConfig.from_yaml(WHOLE).base
    seen = class_split(base.split, base.draw, train_set.num_classes).seen
    trained = bench.train(run.config, train_set, seen)
    return Outcome(held_out_metrics(trained, train_set), record=training_record(trained))


IMPRINTING_BASE_TRIALS = Study(
    "imprinting_base_trials",
    "Which training makes the best classifier to add classes to?",
    runs,
    _carry_out,
    key=("trial", "seed"),
    metrics={
        "acc_held_out": "training images held out of the 40 old classes: share that is nearest to the mean of its own",
        "core_minutes": "of training: minutes times the cores that were busy",
    },
)
