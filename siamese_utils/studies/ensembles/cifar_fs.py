"""CIFAR-FS, the field's standard benchmark: learn 64 classes, be judged on 20 others (Bertinetto et al., 2019)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import CheckpointError, DataError
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store as results
from siamese_utils.system import project, provenance
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import train
from siamese_utils.training.recipes import recipe

CIFAR_FS_COLUMNS = ("recipe", "seed", "metric", "value", "ci95", "n", "checkpoint")


def table_path() -> Path:
    """Where the results on CIFAR-FS are stored."""
    return project.results_dir() / "cifar_fs.csv"


def checkpoint_path(seed: int) -> Path:
    """Where the encoder of a training on CIFAR-FS is stored."""
    return project.results_dir() / "checkpoints" / f"{record_name(seed)}.safetensors"


def record_name(seed: int) -> str:
    """Under which name ``results.load_json`` finds what a training came from."""
    return f"cifar-fs-seed{seed}"


def cifar_fs_config(recipe_name: str, seed: int) -> TrainConfig:
    """The recipe with every image of the training classes, since no threshold is chosen here."""
    return dataclasses.replace(recipe(recipe_name), seed=seed, held_out_images=0)


def is_stored(seed: int, recipe_name: str) -> bool:
    """Whether the rows of a training are in the table, with its checkpoint and the recipe as it is now."""
    path = checkpoint_path(seed)
    key = {"recipe": recipe_name, "seed": seed}
    if not path.is_file() or not results.is_stored(key, table_path(), CIFAR_FS_COLUMNS):
        return False
    return checkpoint_info(path).get("config") == cifar_fs_config(recipe_name, seed).to_json()


def all_images(train_set: ImageSet, test_set: ImageSet) -> ImageSet:
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
    return {
        f"acc_5w{shots}s": few_shot_accuracy(z, labels, named_rng(0, f"cifar-fs {shots}"), ways=5, shots=shots)
        for shots in (1, 5)
    }


def run_cifar_fs(
    seed: int,
    recipe_name: str,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Estimate]:
    """Train a recipe on the 64 training classes; store checkpoint, metrics, configuration, history and provenance.

    The validation classes are not learned: the recipe was chosen on them.
    """
    whole = all_images(train_set, test_set)
    config = cifar_fs_config(recipe_name, seed)
    run_dir = project.project_root() / "runs" / f"{record_name(seed)}-{recipe_name}"
    computed_with = provenance.provenance(device, config.precision)
    trained = train(
        config, whole, fewshot_split_cifar_fs(whole.class_names).train, run_dir=run_dir, device=device,
        progress=progress,
    )  # fmt: skip
    source = {"split": "cifar-fs", "seed": seed, "recipe": recipe_name, "data": whole.name}
    path = checkpoint_path(seed)
    save_encoder(
        trained.encoder, path, {**source, "config": config.to_json(), "classes": list(trained.classes)}
    )
    metrics = evaluate_cifar_fs(load_encoder(path), whole)
    relative = path.relative_to(project.project_root()).as_posix()
    results.store_run(
        {"recipe": recipe_name, "seed": seed}, metrics, relative, table=table_path(), columns=CIFAR_FS_COLUMNS
    )
    results.store_json(
        record_name(seed),
        {
            **source,
            "config": config.to_json(),
            "parameters": count_parameters(trained.encoder),
            "seconds": trained.seconds,
            "history": trained.history.to_dict(orient="records"),
            "provenance": computed_with,
        },
    )
    return metrics


def reevaluate_cifar_fs(path: Path, train_set: ImageSet, test_set: ImageSet) -> dict[str, Estimate]:
    """Compute the metrics of a stored encoder of CIFAR-FS anew.

    Raises:
        CheckpointError: the encoder was not trained on CIFAR-FS.
    """
    if checkpoint_info(path).get("split") != "cifar-fs":
        raise CheckpointError(f"{path} was not trained on CIFAR-FS; its test classes may be among those it learned.")
    return evaluate_cifar_fs(load_encoder(path), all_images(train_set, test_set))


def stored_cifar_fs() -> pd.DataFrame:
    """The stored rows of ``results/cifar_fs.csv``.

    Raises:
        ResultsError: nothing is stored, or the table is damaged.
    """
    return results.read_table(table_path(), CIFAR_FS_COLUMNS)
