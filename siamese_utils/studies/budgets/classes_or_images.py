"""Classes or images? The same number of training images and steps, spread over few classes or over many.

With each split of the sweep both grow together: 90 classes bring nine times the images of 10. Here the images are
held fixed, so that what is left is the number of classes. Every encoder is judged on the same ten classes, which none
of them learns.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import class_split
from siamese_utils.errors import SplitError
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.evaluation.pairs import pair_auc
from siamese_utils.experiments import store as results
from siamese_utils.studies.splits.growth import common_classes
from siamese_utils.system import project, provenance
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import train
from siamese_utils.training.recipes import DEFAULT_RECIPE, recipe

CLASS_COUNTS = (10, 20, 50, 90)
SEEDS = (0, 1, 2)
TOTAL_IMAGES = 5_000  # all that ten classes have
IMAGES_SHOWN = 65_000
BUDGET_COLUMNS = ("classes", "images_per_class", "seed", "recipe", "metric", "value", "ci95", "n")


def table_path() -> Path:
    """Where the results of this study are stored."""
    return project.results_dir() / "classes_or_images.csv"


def budget_config(recipe_name: str, seed: int) -> TrainConfig:
    """The recipe for many classes, whatever their number, shown the same number of images, with none held out."""
    return dataclasses.replace(
        recipe(recipe_name), seed=seed, epochs=1, least_images=IMAGES_SHOWN, most_images=0, held_out_images=0
    )


def thinned(train_set: ImageSet, classes: tuple[int, ...], total: int, seed: int) -> ImageSet:
    """As even a share of each class as ``total`` images allow, drawn at random.

    Raises:
        SplitError: a class has too few images.
    """
    per_class = total // len(classes)
    chosen = []
    for label in classes:
        rows = train_set.indices_of([label])
        if len(rows) < per_class:
            raise SplitError(
                f"Class {train_set.class_names[label]!r} has {len(rows)} images, not the {per_class} that {total} "
                f"images of {len(classes)} classes take; ask for fewer images."
            )
        order = named_rng(seed, f"thinned {label}").permutation(len(rows))[:per_class]
        chosen.append(rows[torch.from_numpy(order).sort().values])
    kept = torch.cat(chosen)
    return dataclasses.replace(train_set, images=train_set.images[kept], labels=train_set.labels[kept])


def run_class_budget(
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    draw: int = 0,
    recipe_name: str = DEFAULT_RECIPE,
    total: int = TOTAL_IMAGES,
    counts: tuple[int, ...] = CLASS_COUNTS,
    seeds: tuple[int, ...] = SEEDS,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Train and judge every number of classes with every seed that is not stored yet, and store each as it ends.

    The classes are those of the split that learns so many, so each set of classes holds the smaller ones. The seed
    draws the images too.

    Args:
        train_set: training images.
        test_set: test images; those of the classes that no split learns are judged on.
        draw: class draw.
        recipe_name: a name in ``RECIPES``; its number of epochs is set aside.
        total: training images in all.
        counts: numbers of classes.
        seeds: seeds of images, weights and batches.
        device: see ``train``.
        progress: show a progress bar.

    Returns:
        the table as stored.

    Raises:
        SplitError: a class has too few images, or is both learned and judged on.
        ResultsError: the stored table is damaged.
    """
    number = train_set.num_classes
    judged = common_classes(draw, number)
    positions = test_set.indices_of(judged)
    for seed in seeds:
        for count in counts:
            learned = class_split(f"{count}-{number - count}", draw, number).seen
            if set(learned) & set(judged):
                raise SplitError(f"{count} of {number} classes leave none to judge on; learn at most 90%.")
            key = {"classes": count, "images_per_class": total // count, "seed": seed, "recipe": recipe_name}
            if results.is_stored(key, table_path(), BUDGET_COLUMNS):
                continue
            config = budget_config(recipe_name, seed)
            name = f"classes-or-images-{count}-seed{seed}"
            computed_with = provenance.provenance(device, config.precision)
            trained = train(
                config, thinned(train_set, learned, total, seed), learned, device=device, progress=progress,
                run_dir=project.project_root() / "runs" / name,
            )  # fmt: skip
            z, labels = trained.encoder.embed(test_set.images[positions]), test_set.labels[positions]
            ways = min(5, len(judged))
            metrics = {
                "acc_5w1s": few_shot_accuracy(z, labels, named_rng(0, "acc_5w1s"), ways=ways),
                "acc_5w5s": few_shot_accuracy(z, labels, named_rng(0, "acc_5w5s"), ways=ways, shots=5),
                "pair_auc": pair_auc(z, labels, named_rng(0, "pair_auc")),
            }
            record = {
                **key, "config": config.to_json(), "seconds": trained.seconds, "provenance": computed_with,
                "history": trained.history.to_dict(orient="records"),
            }  # fmt: skip
            results.store_json(name, record)
            results.store_run(key, metrics, "", table=table_path(), columns=BUDGET_COLUMNS)
    return stored_class_budget()


def stored_class_budget() -> pd.DataFrame:
    """The stored rows, with the columns ``BUDGET_COLUMNS``.

    Raises:
        ResultsError: nothing is stored, or the table is damaged.
    """
    return results.read_table(table_path(), BUDGET_COLUMNS)


def over_seeds(metric: str = "acc_5w1s") -> pd.DataFrame:
    """One row a number of classes: ``classes``, ``images_per_class``, ``mean``, ``low``, ``high`` and ``seeds``.

    Raises:
        ResultsError: nothing is stored.
    """
    table = stored_class_budget()
    grouped = table[table.metric == metric].groupby(["classes", "images_per_class"])["value"]
    return grouped.agg(mean="mean", low="min", high="max", seeds="count").reset_index()
