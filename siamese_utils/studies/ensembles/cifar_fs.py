"""CIFAR-FS, the field's standard benchmark: learn 64 classes, be judged on 20 others (Bertinetto et al., 2019)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import Episodes, named_rng, sample_episodes
from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, DataError
from siamese_utils.evaluation.episodes import episode_accuracies
from siamese_utils.evaluation.estimates import Estimate, mean_estimate
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, as_stored, training_record
from siamese_utils.system.project import results_dir
from siamese_utils.training import recipes
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.task import images_shown

SEEDS = (0, 1, 2)
CLASSES_LEARNED, IMAGES_OF_A_CLASS = 64, 600


def checkpoint_path(seed: int, recipe: str = recipes.DEFAULT_RECIPE) -> Path:
    """Where the encoder of a training on CIFAR-FS is stored."""
    return results_dir() / "checkpoints" / f"{record_name(seed, recipe)}.safetensors"


def paths(members: Iterable[Sequence[Any]]) -> tuple[Path, ...]:
    """The same of several networks, each given as its recipe and seed."""
    return tuple(checkpoint_path(seed, name) for name, seed in members)


def record_name(seed: int, recipe: str = recipes.DEFAULT_RECIPE) -> str:
    """Under which name ``store.load_json`` finds what a training came from."""
    return f"cifar-fs-seed{seed}" + ("" if recipe == recipes.DEFAULT_RECIPE else f"-{recipe}")


def cifar_fs_run(seed: int, recipe: str = recipes.DEFAULT_RECIPE) -> Run:
    """One training: the recipe with every image of the training classes, since no threshold is chosen here."""
    config = dataclasses.replace(recipes.recipe(recipe), seed=seed, held_out_images=0)
    return Run({"recipe": recipe, "seed": seed}, {"config": config}, images=cifar_fs_images(config))


def images_missing(members: Iterable[Sequence[Any]]) -> int:
    """How many images are shown to train those networks, each given as its recipe and seed, that are not stored."""
    missing = [(name, seed) for name, seed in members if not checkpoint_path(seed, name).is_file()]
    return sum(cifar_fs_run(seed, name).images for name, seed in missing)


def cifar_fs_images(config: TrainConfig) -> int:
    """How many images a training on CIFAR-FS shows."""
    return images_shown(config, [IMAGES_OF_A_CLASS] * CLASSES_LEARNED)


def _runs(
    recipe: Annotated[
        str, typer.Option(help="A name in siamese_utils.training.recipes.", show_default="all of the report's")
    ] = "",
) -> list[Run]:
    names = [recipe] if recipe else [recipes.DEFAULT_RECIPE, recipes.HALF_HOUR_RECIPE, *recipes.LONG_RECIPES]
    return [cifar_fs_run(seed, name) for name in names for seed in SEEDS]


def whole_set(train_set: ImageSet, test_set: ImageSet) -> ImageSet:
    """Both parts of CIFAR-100 as one set: CIFAR-FS divides classes, not images, so each class has all its 600.

    Raises:
        DataError: the parts are not of one data set.
    """
    if (train_set.name, train_set.class_names) != (test_set.name, test_set.class_names):
        raise DataError(f"Parts of one data set are needed, not of {train_set.name} and {test_set.name}.")
    return dataclasses.replace(
        train_set,
        images=torch.cat([train_set.images, test_set.images]),
        labels=torch.cat([train_set.labels, test_set.labels]),
        part="train and test",
    )


def evaluate_cifar_fs(encoder: Encoder, whole: ImageSet) -> dict[str, Estimate]:
    """5-way accuracies with 1 and 5 shots over 10,000 episodes of the 20 test classes, 15 queries a class."""
    positions = whole.indices_of(fewshot_split_cifar_fs(whole.class_names).test)
    return judge(encoder.embed(whole.images[positions]), whole.labels[positions])


def judge(z: torch.Tensor, labels: torch.Tensor) -> dict[str, Estimate]:
    """The same of embeddings, float32 (M, D) with rows of unit length, and their labels, int64 (M,)."""
    return {f"acc_5w{shots}s": mean_estimate(episode_accuracies(z, episodes_of(labels, shots))) for shots in (1, 5)}


def episodes_of(labels: torch.Tensor, shots: int, count: int = 10_000, seed: int = 0) -> Episodes:
    """The episodes that classes of CIFAR-FS are judged by: 5 ways, 15 queries a class.

    Args:
        labels: int64 (M,).
        shots: support images a class.
        count: how many.
        seed: of others than these, where these have been looked at.
    """
    return sample_episodes(labels, 5, shots, 15, count, named_rng(seed, f"cifar-fs {shots}"))


def _carry_out(run: Run, bench: Bench) -> Outcome:
    """The validation classes are not learned: the recipe was chosen on them."""
    whole = whole_set(bench.train_set, bench.test_set)
    trained = bench.train(run.config, whole, fewshot_split_cifar_fs(whole.class_names).train)
    source = {"split": "cifar-fs", "data": whole.name}
    info = {**run.key, **source, "config": trained.config.to_json(), "classes": list(trained.classes)}
    encoder, checkpoint = as_stored(trained.encoder, info)
    return Outcome(evaluate_cifar_fs(encoder, whole), checkpoint, {**training_record(trained), **source})


def _again(path: Path, bench: Bench) -> dict[str, dict[str, Estimate]]:
    """Compute the metrics of a stored encoder of CIFAR-FS anew.

    Raises:
        CheckpointError: the encoder was not trained on CIFAR-FS.
    """
    if checkpoint_info(path).get("split") != "cifar-fs":
        raise CheckpointError(f"{path} was not trained on CIFAR-FS; its test classes may be among those it learned.")
    return {"cifar_fs": evaluate_cifar_fs(load_encoder(path), whole_set(bench.train_set, bench.test_set))}


CIFAR_FS = Study(
    "cifar_fs",
    "How good is the recipe on the field's standard benchmark?",
    _runs,
    _carry_out,
    key=("recipe", "seed"),
    metrics={f"acc_5w{shots}s": f"CIFAR-FS, test classes: 5-way {shots}-shot accuracy" for shots in (1, 5)},
    checkpoint=lambda run: checkpoint_path(run.key["seed"], run.key["recipe"]),
    record=lambda run: results_dir() / "runs" / f"{record_name(run.key['seed'], run.key['recipe'])}.json",
    again=_again,
)
