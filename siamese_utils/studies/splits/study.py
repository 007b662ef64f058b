"""The split sweep: a network for every split of every class draw, and everything that is asked of it.

The numbers of a network are those of its checkpoint, so that anyone who loads the file gets the rows of the tables.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import SPLIT_NAMES, ClassSplit, class_split, hold_out_images
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, ConfigError, DataError, SplitError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.protocol import EVALUATION_SEED, METRICS, SplitEvaluation, evaluate_split
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, as_stored, training_record
from siamese_utils.studies.splits import growth
from siamese_utils.system.project import results_dir
from siamese_utils.training import recipes
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import TrainResult
from siamese_utils.training.task import images_shown

IMAGES_OF_A_CLASS = 500  # in CIFAR-100's training part
KEY = ("split", "draw", "seed", "recipe")


def run_name(split: str, draw: int, seed: int = 0, recipe: str = recipes.DEFAULT_RECIPE) -> str:
    """Name of the checkpoint and of the record of a split; short for the sweep's own runs."""
    name = f"cifar100-{split}-draw{draw}"
    return name if (seed, recipe) == (0, recipes.DEFAULT_RECIPE) else f"{name}-seed{seed}-{recipe}"


def checkpoint_path(split: str, draw: int, seed: int = 0, recipe: str = recipes.DEFAULT_RECIPE) -> Path:
    """Where the checkpoint of a CIFAR-100 split is stored."""
    return results_dir() / "checkpoints" / f"{run_name(split, draw, seed, recipe)}.safetensors"


def _name_of(run: Run) -> str:
    return run_name(**{name: run.key[name] for name in KEY})


def split_run(
    split: str,
    draw: int = 0,
    seed: int = 0,
    recipe: str = recipes.DEFAULT_RECIPE,
    *,
    num_classes: int = 100,
    images_of_a_class: int = IMAGES_OF_A_CLASS,
) -> Run:
    """One training of a split: the recipe as it is for so many classes.

    Raises:
        UnknownNameError: no such recipe.
        SplitError: no such split or draw.
        ConfigError: the seed is no whole number >= 0.
    """
    seen = class_split(split, draw, num_classes).seen
    config = dataclasses.replace(recipes.recipe(recipe, len(seen)), seed=seed)
    images = images_shown(config, [images_of_a_class - config.held_out_images] * len(seen))
    return Run({"split": split, "draw": draw, "seed": seed, "recipe": recipe}, {"config": config}, images=images)


def sweep_runs(
    draws: Annotated[str, typer.Option(help="Class draws, for example 0,1,2.")] = "0,1,2",
    splits: Annotated[str, typer.Option(help="Splits, for example 10-90,50-50; all ten if left out.")] = "",
    seed: Annotated[int, typer.Option(help="Seeds weights, batches and augmentation.")] = 0,
    recipe: Annotated[str, typer.Option(help="A name in siamese_utils.training.recipes.")] = recipes.DEFAULT_RECIPE,
) -> list[Run]:
    """The runs of a sweep, draw by draw.

    Raises:
        ConfigError: ``draws`` are not whole numbers with commas between, or one of the lists names nothing.
        UnknownNameError, SplitError: no such recipe, split or draw.
    """
    try:
        numbers = [int(draw) for draw in _listed(draws)]
    except ValueError as error:
        raise ConfigError(f"--draws takes whole numbers with commas between, not {draws!r}.") from error
    names = _listed(splits) if splits else list(SPLIT_NAMES)
    for option, found, text in (("draws", numbers, draws), ("splits", names, splits)):
        if not found:
            raise ConfigError(f"--{option} names none in {text!r}; leave it out for all.")
    return [split_run(name, draw, seed, recipe) for draw in numbers for name in names]


def _listed(text: str) -> list[str]:
    """What stands between commas, each once; a comma too many does no harm."""
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def train_split(run: Run, bench: Bench) -> tuple[TrainResult, dict[str, Any]]:
    """Train a run: what came of it, and what its checkpoint says of where it comes from."""
    train_set = bench.train_set
    seen = class_split(run.key["split"], run.key["draw"], train_set.num_classes).seen
    trained = bench.train(run.config, train_set, seen)
    source = {name: run.key[name] for name in KEY}
    return trained, {
        **source,
        "data": train_set.name,
        "config": trained.config.to_json(),
        "classes": list(trained.classes),
    }


def carry_out(run: Run, bench: Bench) -> Outcome:
    """Train a split by any recipe and compute everything that is stored about it."""
    trained, origin = train_split(run, bench)
    encoder, checkpoint = as_stored(trained.encoder, origin)
    evaluation, tables = judge(encoder, origin, bench.train_set, bench.test_set)
    record = {**training_record(trained), "data": origin["data"], "threshold": evaluation.threshold}
    return Outcome(evaluation.metrics, checkpoint, record, tables)


# -------------------------------------------------------------------------------------------- judging


def judge(
    encoder: Encoder, origin: Mapping[str, Any], train_set: ImageSet, test_set: ImageSet
) -> tuple[SplitEvaluation, dict[str, dict[str, Estimate]]]:
    """Threshold and every metric of the protocol, and what the tables ``growth`` and ``class_accuracy`` hold.

    Args:
        encoder: trained on the seen classes of a split.
        origin: what its checkpoint says: ``split``, ``draw``, ``config``, and the ``classes`` that it learned.
        train_set: where the held-out images are.
        test_set: what the encoder is judged on.

    Raises:
        SplitError: it learned a class that it would be judged on as unseen.
        DataError: ``train_set`` and ``test_set`` are not what their names say.
    """
    split, draw, config = origin["split"], origin["draw"], TrainConfig.from_json(origin["config"])
    known, z, classes = _embed(encoder, config, train_set, test_set, split, draw)
    # Checkpoints from before the classes were noted name their split alone.
    if learned := sorted(set(origin.get("classes", ())) & set(classes.unseen)):
        raise SplitError(
            f"The encoder learned class {learned[0]}, which is unseen in split {split} (draw {draw}); train it again."
        )
    evaluation = evaluate_split(known, z, test_set.labels, classes, seed=EVALUATION_SEED)
    measured = growth.measure_growth(z, test_set.labels, classes, evaluation.threshold, EVALUATION_SEED)
    accuracies = growth.class_accuracies(
        z, test_set.labels, classes.unseen, test_set.superclass_of, named_rng(EVALUATION_SEED, "class accuracies")
    )
    by_class = {test_set.class_names[label]: estimate for label, estimate in accuracies.items()}
    return evaluation, {"growth": measured, **({"class_accuracy": by_class} if by_class else {})}


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
    known, z, classes = _embed(encoder, config, train_set, test_set, split, draw)
    return evaluate_split(known, z, test_set.labels, classes, seed=EVALUATION_SEED)


def _embed(
    encoder: Encoder, config: TrainConfig, train_set: ImageSet, test_set: ImageSet, split: str, draw: int
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, ClassSplit]:
    """Embeddings and labels of the held-out training images, embeddings of the test images, and the split."""
    if (train_set.part, test_set.part) != ("train", "test"):
        raise DataError(
            f"The threshold is chosen on training images and all else computed on test images, not on the parts "
            f"{train_set.part!r} and {test_set.part!r}; give both parts in this order."
        )
    classes = class_split(split, draw, test_set.num_classes)
    _, held_out = hold_out_images(train_set.labels, classes.seen, config.held_out_images, config.seed)
    known = encoder.embed(train_set.images[held_out]), train_set.labels[held_out]
    return known, encoder.embed(test_set.images), classes


def reevaluate(path: Path, bench: Bench) -> SplitEvaluation:
    """Compute the protocol's metrics of a stored checkpoint anew; data are asked for once it is known to be whole.

    Raises:
        CheckpointError: the file is missing or damaged, or does not say which split and configuration it was trained
            with.
    """
    origin, encoder = _origin(path), load_encoder(path)
    config = TrainConfig.from_json(origin["config"])
    return evaluate_encoder(encoder, config, bench.train_set, bench.test_set, origin["split"], origin["draw"])


def judge_again(path: Path, bench: Bench) -> dict[str, dict[str, Estimate]]:
    """Compute everything that is stored about a checkpoint from the file alone, by table.

    Raises:
        CheckpointError: the file does not say which split and configuration it was trained with.
        SplitError, DataError: see ``judge``.
    """
    evaluation, tables = judge(load_encoder(path), _origin(path), bench.train_set, bench.test_set)
    return {"split_sweep": evaluation.metrics, **tables}


def _origin(path: Path) -> dict[str, Any]:
    info = checkpoint_info(path)
    if not {"split", "draw", "config"} <= info.keys():
        raise CheckpointError(f"{path} does not say which split it was trained on; use a checkpoint of a sweep.")
    return info


SPLIT_SWEEP = Study(
    "split_sweep",
    "How does recognition of unseen classes grow with the number of classes learned?",
    sweep_runs,
    carry_out,
    key=KEY,
    metrics=METRICS,
    tables=("growth", "class_accuracy"),
    checkpoint=lambda run: results_dir() / "checkpoints" / f"{_name_of(run)}.safetensors",
    record=lambda run: results_dir() / "runs" / f"{_name_of(run)}.json",
    again=judge_again,
)


def of_the_sweep(table: pd.DataFrame, recipe_name: str, path: Path) -> pd.DataFrame:
    """Of a table of the sweep, the rows by one recipe; runs of one's own with another seed are none of the sweep's.

    Raises:
        ResultsError: there are none.
    """
    return store.of_recipe(table[table.seed == 0], recipe_name, path)
