"""Named, frozen training configurations. A number in ``results/`` always names the recipe it came from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from siamese_utils.errors import unknown
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

TURNING_STEPS: Mapping[str, Any] = {"fixed_norms": True, "muon_momentum": 0.6, "warmup": 0.0}
"""Changes to a recipe with Muon: steps that turn the kernels by a share of their length that falls from the first step
on; after K. Jordan, github.com/KellerJordan/cifar10-airbench, whose rate is 0.24 for batches of 2,000 images."""

ROTATION: Mapping[str, Any] = {"rotation_weight": 0.5, "rotation_share": 0.5}
"""Changes that give a training turns to tell apart beside its classes."""

JITTER = AugmentConfig(brightness=0.3, contrast=0.3, saturation=0.3)

# Chosen by the trials of the study ``recipe_search``.
_CHOSEN = TrainConfig(
    recipe="muon-proxy-triplet",
    terms=(Term("proxy"), Term("triplet", weight=0.5, mining="batch_all", temperature=0.1)),
    optimizer="muon",
    muon_rate=0.05,
    epochs=13,
    least_images=130_000,
    resolutions=((0.0, 16), (0.3, 24), (0.75, 32)),
)
_TRIPLETS = Term("triplet", mining="batch_all", temperature=0.1)


def _shown(images: int) -> Mapping[str, int]:
    """As many images for any number of classes."""
    return {"epochs": 1, "least_images": images, "most_images": images}


_MANIFOLD = dataclasses.replace(
    _CHOSEN,
    recipe="muon-manifold",
    encoder="resnet9-44",
    **_shown(1_900_000),
    **ROTATION,
    augment=JITTER,
    mixing="manifold",
)

RECIPES: dict[str, TrainConfig] = {
    config.recipe: config
    for config in (
        _CHOSEN,
        # The same without proxies, and with proxies for a warm start only: what triplets do by themselves. The terms
        # are those of the study ``objectives``; nothing else is changed.
        dataclasses.replace(_CHOSEN, recipe="muon-triplet", terms=(_TRIPLETS,)),
        dataclasses.replace(
            _CHOSEN,
            recipe="muon-proxy-then-triplet",
            terms=(Term("proxy", end=0.6), dataclasses.replace(_TRIPLETS, begin=0.6)),
        ),
        # Chosen by the trials of the study ``quick_search``, for trainings of a minute.
        dataclasses.replace(_CHOSEN, recipe="muon-turning", **TURNING_STEPS, muon_rate=0.25),
        # Put together from what helped in the long trials of the study ``recipe_search``, for an hour of one processor
        # core: the network that came out best in half an hour, and a wide one with more against knowing by heart.
        dataclasses.replace(
            _CHOSEN,
            recipe="muon-rotation",
            encoder="airbench",
            **_shown(2_900_000),
            **ROTATION,
            augment=JITTER,
            **TURNING_STEPS,
            muon_rate=0.09,
        ),
        _MANIFOLD,
        # The same in half an hour of one core.
        dataclasses.replace(_MANIFOLD, recipe="muon-manifold-short", **_shown(950_000)),
        # For naming known classes: of the study ``imprinting_base_trials`` the trial in which every step mixes its
        # images, level there with the one in which half of them do; wider and longer than was tried.
        dataclasses.replace(
            _CHOSEN,
            recipe="muon-classifier",
            encoder="airbench-wide",
            terms=(Term("linear", scale=1 / 9, smoothing=0.2),),
            epochs=110,
            least_images=0,
            batch_size=2000,
            resolutions=(),
            augment=AugmentConfig(cutout=8),
            mixing="cutmix",
            mixing_share=1.0,
            learning_rate=1e-2,
            **TURNING_STEPS,
            muon_rate=0.24,
        ),
        # For machines without data and for quick checks: seconds on the synthetic set.
        TrainConfig(
            recipe="smoke",
            encoder="resnet9-16",
            terms=_CHOSEN.terms,
            epochs=3,
            batch_size=128,
            learning_rate=4e-3,
            resolutions=((0.0, 24),),
            held_out_images=10,
        ),
    )
}
DEFAULT_RECIPE = "muon-proxy-triplet"
HALF_HOUR_RECIPE = "muon-manifold-short"
LONG_RECIPES = ("muon-rotation", "muon-manifold")
QUICK_RECIPE = "muon-turning"


@dataclass(frozen=True)
class FewClasses:
    """What a recipe does otherwise where few classes are learned.

    Attributes:
        most: the largest number of classes that counts as few.
        changes: fields of ``TrainConfig`` and their values.
    """

    most: int
    changes: Mapping[str, Any]


FEW_CLASSES: dict[str, FewClasses] = {
    # A few thousand images are soon known by heart; the study ``few_classes`` shows what helps against it, that with
    # thirty classes it gains next to nothing for more of the time, and that it hurts with many. An epoch of turned
    # classes shows each image four times.
    "muon-proxy-triplet": FewClasses(20, {"turned_classes": True, "epochs": 4})
}


def recipe(name: str, classes: int | None = None) -> TrainConfig:
    """Look up a recipe.

    Args:
        name: a name in ``RECIPES``.
        classes: how many classes are to be learned; ``None`` for many.

    Raises:
        UnknownNameError: no such recipe.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    few = FEW_CLASSES.get(name)
    if classes is None or few is None or classes > few.most:
        return RECIPES[name]
    return dataclasses.replace(RECIPES[name], **few.changes)
