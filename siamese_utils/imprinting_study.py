"""The study of imprinted weights: a base network that knows some classes, and what it takes to add others.

All that decides a run stands in one YAML file, which is stored with the results.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from siamese_utils import results
from siamese_utils.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.data import ImageSet
from siamese_utils.encoders import Encoder, count_parameters
from siamese_utils.errors import CheckpointError, ConfigError
from siamese_utils.recipes import DEFAULT_RECIPE, recipe
from siamese_utils.splits import class_split
from siamese_utils.training import TrainConfig, train

# --- configuration --------------------------------------------------------------------------------


@dataclass(frozen=True)
class BaseConfig:
    """The network that is there before a class is added.

    Attributes:
        split: classes that it learns, and novel ones, for example ``"40-60"``.
        draw: class draw.
        seed: seeds its weights, batches, augmentation, and which training images are held out.
        recipe: a name in ``RECIPES``.
        changes: fields of ``TrainConfig`` in which its training differs from the recipe.
    """

    split: str = "40-60"
    draw: int = 0
    seed: int = 0
    recipe: str = DEFAULT_RECIPE
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def training(self) -> TrainConfig:
        """What it is trained with.

        Raises:
            UnknownNameError: no such recipe.
            ConfigError: a change names no field of a training configuration, or has no possible value.
        """
        plain = {**recipe(self.recipe).to_json(), "recipe": "imprinting-base", "seed": self.seed}
        changes = dict(self.changes)
        if isinstance(changes.get("augment"), Mapping):
            changes["augment"] = {**plain["augment"], **changes["augment"]}
        if strange := [name for name in ("recipe", "seed") if name in changes]:
            raise ConfigError(f"The base's {strange[0]} stands beside `changes`, not among them.")
        return TrainConfig.from_json({**plain, **changes})


@dataclass(frozen=True)
class ImprintingConfig:
    """Everything that decides the study, apart from the data.

    Attributes:
        base: the network that is there before a class is added.
    """

    base: BaseConfig = field(default_factory=BaseConfig)

    def to_json(self) -> dict[str, Any]:
        """Plain data that YAML and JSON can hold."""
        return dataclasses.asdict(self)


def read_config(path: str | Path) -> ImprintingConfig:
    """Read a configuration.

    Raises:
        ConfigError: the file is missing, no YAML, or has a key or value that is not known.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path} cannot be read as YAML ({reason}); see configs/imprinting.yaml.") from error
    config = _build(ImprintingConfig, content, path.name)
    config.base.training  # noqa: B018 - a wrong change is reported now, not after an hour
    return config


def _build(kind: type, content: Any, where: str) -> Any:
    """A configuration dataclass from plain data; nested ones, and lists as tuples, along with it."""
    if not isinstance(content, Mapping):
        raise ConfigError(f"{where} must hold keys with values, not {content!r}.")
    known = {f.name: f for f in dataclasses.fields(kind)}
    if strange := [str(key) for key in content if key not in known]:
        raise ConfigError(f"{where} has a key {strange[0]!r} that is not known; choose from {', '.join(known)}.")
    values = {}
    for key, value in content.items():
        default = known[key].default_factory
        if dataclasses.is_dataclass(default):
            value = _build(default, value, f"{where}, {key},")
        values[key] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where} has a value that does not fit ({error}).") from error


# --- the base network -----------------------------------------------------------------------------


def base_checkpoint() -> Path:
    """Where the base network is stored."""
    return results.results_dir() / "checkpoints" / "imprinting-base.safetensors"


def train_base(
    config: BaseConfig, train_set: ImageSet, *, device: str = "auto", progress: bool = True
) -> Encoder:
    """The base network as it is stored, trained first if it is missing or was trained otherwise.

    Started again after a kill, the training goes on.

    Args:
        config: what to train.
        train_set: training images of all classes; only those of the seen classes are used.
        device: see ``train``.
        progress: show a progress bar.

    Raises:
        ConfigError: see ``BaseConfig.training``.
        SplitError: no such split.
    """
    training, path = config.training, base_checkpoint()
    key = {"split": config.split, "draw": config.draw, "seed": config.seed, "recipe": config.recipe}
    source = {**key, "data": train_set.name, "config": training.to_json()}
    try:
        if checkpoint_info(path) == source:
            return load_encoder(path)
    except CheckpointError:
        pass  # missing or damaged: it is made
    seen = class_split(config.split, config.draw, train_set.num_classes).seen
    computed_with = results.provenance(device)
    run_dir = results.project_root() / "runs" / "imprinting-base"
    trained = train(training, train_set, seen, run_dir=run_dir, device=device, progress=progress)
    record = {
        **source,
        "parameters": count_parameters(trained.encoder),
        "seconds": trained.seconds,
        "history": trained.history.to_dict(orient="records"),
        "provenance": computed_with,
    }
    save_encoder(trained.encoder, path, source)
    results.store_json("imprinting-base", record)
    shutil.rmtree(run_dir, ignore_errors=True)
    return load_encoder(path)
