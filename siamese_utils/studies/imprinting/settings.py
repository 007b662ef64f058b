"""What decides the study of imprinted weights: one YAML file for the whole, one for the encoder that moves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from siamese_utils.encoders.imprinting import FineTuneConfig
from siamese_utils.errors import ConfigError
from siamese_utils.studies.imprinting.tuning import TuningConfig
from siamese_utils.system.config import Config, Count, Counts, Natural, Positive
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.recipes import DEFAULT_RECIPE, recipe

WHOLE = Path(__file__).with_name("imprinting.yaml")
MOVED = Path(__file__).with_name("imprinting_moved.yaml")


class BaseConfig(Config):
    """The network that is there before a class is added.

    Attributes:
        split: classes that it learns, and novel ones, for example ``"40-60"``.
        draw: class draw.
        seed: seeds its weights, batches, augmentation, and which training images are held out.
        recipe: a name in ``RECIPES``.
        changes: fields of ``TrainConfig`` in which its training differs from the recipe.
    """

    split: str = "40-60"
    draw: Natural = 0
    seed: Natural = 0
    recipe: str = DEFAULT_RECIPE
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.training  # noqa: B018 - a wrong change is reported now, not after an hour

    def __hash__(self) -> int:  # a mapping has none of its own
        return hash(json.dumps(self.to_json(), sort_keys=True))

    @property
    def training(self) -> TrainConfig:
        """What it is trained with.

        Raises:
            UnknownNameError: no such recipe.
            ConfigError: a change names no field of a training configuration, or has no possible value.
        """
        # Every base network's training has this name, whatever its checkpoint is called.
        plain = {**recipe(self.recipe).to_json(), "recipe": "imprinting-base", "seed": self.seed}
        changes = dict(self.changes)
        if isinstance(changes.get("augment"), Mapping):
            changes["augment"] = {**plain["augment"], **changes["augment"]}
        if strange := [name for name in ("recipe", "seed") if name in changes]:
            raise ConfigError(f"The base's {strange[0]} stands beside `changes`, not among them.")
        return TrainConfig.from_json({**plain, **changes})


FIRST_BASE = BaseConfig(
    split="40-60", draw=0, seed=0, recipe="muon-proxy-triplet", changes={"epochs": 30, "augment": {"cutout": 8}}
)
"""The study's first base network, trained as the report's others are, to compare images."""


class ImprintingConfig(Config):
    """Everything that decides the study, apart from the data.

    Attributes:
        base: the network that is there before a class is added.
        shots: numbers of images a class is learned from.
        shot_sets: how often they are drawn.
        novel_classes: how many novel classes are added one at a time; drawn at random if there are more.
        at_once: how many classes are added together.
        scale: inverse temperature of the cosine classifier.
        shrinkage: of the whitening, see ``Whitening.fit``.
        budget: percentage points of accuracy on held-out images of old classes that the added ones may cost.
        fine_tuning: see ``FineTuneConfig``.
    """

    base: BaseConfig = field(default_factory=BaseConfig)
    shots: Counts = (1, 5, 10, 20)
    shot_sets: Count = 20
    novel_classes: Count = 60
    at_once: Counts = (1, 10, 60)
    scale: Positive = 16.0
    shrinkage: Positive = 0.3
    budget: Annotated[float, Field(ge=0, lt=100)] = 0.5
    fine_tuning: FineTuneConfig = field(default_factory=FineTuneConfig)


class MovedConfig(Config):
    """What decides the part in which the encoder moves, beside the ``ImprintingConfig`` of the whole.

    Attributes:
        classes: how many of the study's novel classes are added, one at a time.
        shot_sets: how often shots are drawn for each.
        few: the tuning with few shots.
        joint: the tuning with all images of the class.
    """

    classes: Count = 20
    shot_sets: Count = 20
    few: TuningConfig = field(default_factory=TuningConfig)
    joint: TuningConfig = field(default_factory=TuningConfig)
