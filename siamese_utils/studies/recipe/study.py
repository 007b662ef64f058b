"""The search for the recipe: what helped, what helps where there are few classes, and whether the precision matters.

Trials change one thing each against the first; most see each image twice, which takes minutes.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from siamese_utils.studies.networks.study import EQUAL_IMAGES, compared, showing
from siamese_utils.studies.validation import Trial, validation_study
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term
from siamese_utils.training.recipes import DEFAULT_RECIPE, JITTER, ROTATION, TURNING_STEPS, recipe

_PROXY_AND_TRIPLETS = (Term("proxy"), Term("triplet", weight=0.5, mining="batch_all", temperature=0.1))
# Two passes over the training classes: a few minutes a trial on two cores.
_SHORT = TrainConfig(
    recipe="", terms=_PROXY_AND_TRIPLETS, epochs=2, optimizer="muon", resolutions=((0.0, 24), (0.6, 32))
)
# Shown 130,000 images, which is what the recipe gives a split of few classes.
_FEW = dataclasses.replace(
    _SHORT, epochs=1, least_images=130_000, muon_rate=0.05, resolutions=((0.0, 16), (0.3, 24), (0.75, 32))
)
# Half an hour of one core: what the recipe's network is shown in so much processor time (850 images a second on the
# processor on which these trials began). Whoever trains as long learns more than the recipe does, so the plain
# recipe is the first of them.
_HALF_HOUR = dataclasses.replace(
    recipe(DEFAULT_RECIPE), recipe="", epochs=1, least_images=5_900 * 256, most_images=5_900 * 256
)
_CROPS = AugmentConfig(smallest_crop=0.4)


def _but(base: TrainConfig = _SHORT, **changes: Any) -> TrainConfig:
    return dataclasses.replace(base, **changes)


def _images(part: int) -> dict[str, int]:
    """A part of the images, for networks that take as many times longer for each."""
    return dict.fromkeys(("least_images", "most_images"), _HALF_HOUR.most_images // part)


def _half_hour(name: str, expectation: str, **changes: Any) -> Trial:
    return Trial(name, _but(_HALF_HOUR, **changes), expectation, seeds=(0, 1), judged_by_epoch=False)


RECIPE_SEARCH = validation_study(
    "recipe_search",
    "Which recipe learns most in a few minutes?",
    [
        Trial("muon", _SHORT, "The starting point of the comparisons below."),
        Trial("adamw", _but(optimizer="adamw"), "A few points less: orthogonalised updates learn faster on CIFAR-10."),
        Trial("muon-rate-0.05", _but(muon_rate=0.05), "About the same; Muon is said to forgive its rate."),
        Trial("batch-128", _but(batch_size=128), "Better in so short a run, with twice the updates."),
        Trial(
            "start-at-16px",
            _but(resolutions=((0.0, 16), (0.3, 24), (0.75, 32)), epochs=3),
            "Half as many images again in about the same time, so better for the time spent.",
        ),
        Trial(
            "crops",
            _but(augment=AugmentConfig(smallest_crop=0.4)),
            "Worse after two epochs, as any harder augmentation is in a short run; may turn in a long one.",
        ),
        Trial("cutout", _but(augment=AugmentConfig(cutout=8)), "Slightly worse, for the same reason."),
        Trial("average", _but(average_decay=0.98), "Slightly better: the average smooths the last steps."),
        Trial("proxy-only", _but(terms=(Term("proxy"),)), "One or two points less than with triplets beside it."),
        Trial(
            "triplet-only",
            _but(terms=(Term("triplet", mining="batch_all", temperature=0.1),)),
            "Several points less: it sees the classes of a batch only, a proxy all of them.",
        ),
        Trial("supcon", _but(terms=(Term("supcon"),)), "Between the triplets alone and the proxies."),
        # Longer, since what helps a short run need not help a long one.
        Trial("long", _but(epochs=5), "Several points more than two epochs."),
        Trial(
            "long-head",
            _but(epochs=5, head_width=512),
            "Better: the head takes up what only the training classes need, the features below it stay general.",
        ),
        Trial(
            "long-crops",
            _but(epochs=5, augment=AugmentConfig(smallest_crop=0.4)),
            "Nearer to the plain long run than after two epochs.",
        ),
        Trial(
            "long-no-smoothing",
            _but(epochs=5, terms=(Term("proxy", smoothing=0.0), _PROXY_AND_TRIPLETS[1])),
            "Slightly better: smoothing draws classes together into points, which transfers worse.",
        ),
        _half_hour(
            "half-hour",
            "A point above the recipe itself, which is shown a quarter of the images: the task is nearly used up.",
        ),
        _half_hour(
            "half-hour-rotation",
            "A point better, at one shot more than at five: turns are still to be learned when the classes are known.",
            **ROTATION,
        ),
        _half_hour(
            "half-hour-jitter",
            "Half a point better: colours are learned by heart first, and a long training has time for harder images.",
            augment=JITTER,
        ),
        _half_hour(
            "half-hour-rotation-jitter",
            "The best of the five, by a little less than the sum of both.",
            **ROTATION,
            augment=JITTER,
        ),
        _half_hour(
            "half-hour-average",
            "Level: the rate has fallen to nothing by the end, so there is little noise to average away.",
            average_decay=0.998,
            fresh_statistics=True,
        ),
        _half_hour(
            "half-hour-manifold",
            "Two points better: the plain recipe knows its images by heart, and mixed features cannot be known so.",
            mixing="manifold",
        ),
        _half_hour(
            "half-hour-cutmix",
            "A point better, for the same reason; less than mixed features, which leave no edges that give them away.",
            mixing="cutmix",
        ),
        _half_hour(
            "half-hour-crops",
            "Better, after losing in all short trainings: there is time for harder images now.",
            augment=_CROPS,
        ),
        _half_hour(
            "half-hour-wide",
            "Level at one shot and a point better at five: from a quarter of the images, which is what as many "
            "multiplications allow a network twice as wide.",
            encoder="resnet9-64",
            **_images(4),
        ),
        _half_hour(
            "half-hour-turning-steps",
            "Half a point better: on CIFAR-10 such steps gain one, and what they gain there is for new images of known "
            "classes.",
            **TURNING_STEPS,
            muon_rate=0.09,
        ),
        _half_hour(
            "half-hour-rotation-jitter-turning-steps",
            "The sum of both: large steps keep images from being known by heart, turns give more to learn.",
            **ROTATION,
            augment=JITTER,
            **TURNING_STEPS,
            muon_rate=0.09,
        ),
        _half_hour(
            "half-hour-rotation-cutmix",
            "Little more than the rotation head alone: both keep images from being known by heart, and once is enough.",
            **ROTATION,
            mixing="cutmix",
        ),
        _half_hour(
            "half-hour-rotation-manifold",
            "The same with mixed features, which leave the turn of an image as it is.",
            **ROTATION,
            mixing="manifold",
        ),
        _half_hour(
            "half-hour-rotation-jitter-48",
            "Level at one shot and better at five with half as many images: with turns to learn, width has a use.",
            **ROTATION,
            augment=JITTER,
            encoder="resnet9-48",
            **_images(2),
        ),
        _half_hour(
            "half-hour-rotation-jitter-airbench",
            "A point better: the network that is quickest on CIFAR-10 makes more multiplications a second, so it has "
            "half as many again an image, and its steps keep images from being known by heart.",
            **ROTATION,
            augment=JITTER,
            **TURNING_STEPS,
            encoder="airbench",
            muon_rate=0.09,
        ),
        _half_hour(
            "half-hour-taught",
            "A point better at five shots: three networks together are a point better than one, and a long training "
            "has time to learn from all of them.",
            **ROTATION,
            augment=JITTER,
            teachers=("cifar-fs-seed0", "cifar-fs-seed1", "cifar-fs-seed2"),
            teaching_weight=2.0,
        ),
    ],
)

FEW_CLASSES = validation_study(
    "few_classes",
    "What helps where there are few classes, and does it hurt with many?",
    [
        Trial(
            "ten", _FEW, "Fits its ten classes in the first third of the training and then gains nothing.", classes=10
        ),
        Trial(
            "ten-turned",
            _but(_FEW, turned_classes=True),
            "A few points more: forty classes to tell apart instead of ten.",
            classes=10,
        ),
        Trial(
            "ten-turned-crops",
            _but(_FEW, turned_classes=True, augment=_CROPS),
            "Better still: ten classes are learned by heart, and crops are harder to learn by heart.",
            classes=10,
        ),
        Trial(
            "ten-turned-twice",
            _but(_FEW, turned_classes=True, least_images=260_000),
            "A point more, now that the task is not used up so soon.",
            classes=10,
        ),
        Trial("all", _but(_FEW, least_images=153_600), "As the trial `long` of the recipe's search, in less time."),
        Trial(
            "all-turned",
            _but(_FEW, least_images=153_600, turned_classes=True),
            "Slightly worse: with 64 classes so short a training has no room for the harder task.",
        ),
        Trial("twenty", _but(_FEW, least_images=125_000), "As many passes over twenty classes.", classes=20),
        Trial(
            "twenty-turned",
            _but(_FEW, least_images=125_000, turned_classes=True),
            "One or two points more: with ten classes it is more, with thirty it is nothing.",
            classes=20,
        ),
        Trial(
            "thirty",
            _but(_FEW, least_images=187_000),
            "Thirteen passes over thirty classes, as in the recipe.",
            classes=30,
        ),
        Trial(
            "thirty-turned",
            _but(_FEW, least_images=187_000, turned_classes=True),
            "Level with the plain training: between ten classes, where turning helps, and 64, where it hurts.",
            classes=30,
        ),
    ],
)

# On the recipe's own network, in four passes.
_LONGER = showing(4 * EQUAL_IMAGES)
PRECISION = validation_study(
    "precision",
    "Does the precision in which a processor multiplies change the result?",
    [
        compared("float32", _but(_LONGER, precision="float32"), "The measure."),
        compared(
            "bfloat16",
            _but(_LONGER, precision="bfloat16"),
            "Level: the gradient's noise is far larger than the rounding, and weights stay float32.",
        ),
    ],
)
