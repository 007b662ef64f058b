"""From a split to its stored numbers: train, keep the checkpoint, evaluate what was kept, store the rows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from siamese_utils import results
from siamese_utils.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.data import ImageSet
from siamese_utils.encoders import Encoder, count_parameters
from siamese_utils.errors import CheckpointError
from siamese_utils.evaluation import SplitEvaluation, evaluate_split
from siamese_utils.recipes import recipe
from siamese_utils.splits import class_split, hold_out_images
from siamese_utils.training import TrainConfig, TrainResult, train

EVALUATION_SEED = 0  # fixed beforehand: the episodes, pairs and triplets that every encoder is judged on


def evaluate_encoder(
    encoder: Encoder, config: TrainConfig, train_set: ImageSet, test_set: ImageSet, split: str, draw: int
) -> SplitEvaluation:
    """All metrics of the protocol for an encoder trained on a split.

    The threshold comes from the training images that the run held out, all else from test images.

    Args:
        encoder: trained with ``config`` on the seen classes of the split.
        config: names how many images were held out, and by which seed.
        train_set: where the held-out images are.
        test_set: what the encoder is judged on.
        split: for example ``"90-10"``.
        draw: class draw.
    """
    classes = class_split(split, draw, test_set.num_classes)
    _, held_out = hold_out_images(train_set.labels, classes.seen, config.held_out_images, config.seed)
    return evaluate_split(
        (encoder.embed(train_set.images[held_out]), train_set.labels[held_out]),
        encoder.embed(test_set.images),
        test_set.labels,
        classes,
        seed=EVALUATION_SEED,
    )


def train_split(
    split: str,
    draw: int,
    seed: int,
    recipe_name: str,
    train_set: ImageSet,
    *,
    run_dir: Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> TrainResult:
    """Train a recipe on the seen classes of a split; resumes where ``run_dir`` left off."""
    config = dataclasses.replace(recipe(recipe_name), seed=seed)
    classes = class_split(split, draw, train_set.num_classes).seen
    return train(config, train_set, classes, run_dir=run_dir, device=device, progress=progress)


def run_split(
    split: str,
    draw: int,
    seed: int,
    recipe_name: str,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    device: str = "auto",
    progress: bool = True,
) -> SplitEvaluation:
    """Train on a split and store checkpoint, metrics, configuration, history and provenance.

    The metrics are those of the stored checkpoint, loaded again through the public call, so that anyone who
    loads the file gets the numbers of the table.
    """
    name = f"cifar100-{split}-draw{draw}"
    run_dir = results.project_root() / "runs" / f"{name}-{recipe_name}-seed{seed}"
    computed_with = results.provenance(device)  # of the code that trains, not of what it becomes meanwhile
    trained = train_split(split, draw, seed, recipe_name, train_set, run_dir=run_dir, device=device, progress=progress)
    path = results.checkpoint_path(split, draw)
    source = {"split": split, "draw": draw, "seed": seed, "recipe": recipe_name, "data": train_set.name}
    save_encoder(trained.encoder, path, {**source, "config": trained.config.to_json()})
    evaluation = reevaluate(path, train_set, test_set)
    relative = path.relative_to(results.project_root()).as_posix()
    key = {"split": split, "draw": draw, "seed": seed, "recipe": recipe_name}
    results.store_run(key, evaluation.metrics, relative)
    results.store_json(
        name,
        {
            **source,
            "config": trained.config.to_json(),
            "parameters": count_parameters(trained.encoder),
            "threshold": evaluation.threshold,
            "seconds": trained.seconds,
            "history": trained.history.to_dict(orient="records"),
            "provenance": computed_with,
        },
    )
    return evaluation


def reevaluate(path: Path, train_set: ImageSet, test_set: ImageSet) -> SplitEvaluation:
    """Compute the metrics of a stored checkpoint anew.

    Raises:
        CheckpointError: the file does not say which split and configuration it was trained with.
    """
    info = checkpoint_info(path)
    try:
        split, draw, config = info["split"], info["draw"], TrainConfig.from_json(info["config"])
    except KeyError as error:
        raise CheckpointError(
            f"{path} does not say which split it was trained on; use a checkpoint of a sweep."
        ) from error
    return evaluate_encoder(load_encoder(path), config, train_set, test_set, split, draw)
