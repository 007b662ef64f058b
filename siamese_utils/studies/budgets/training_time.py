"""How long must one train? Accuracy on unseen classes after complete trainings of different lengths.

Each training is whole: rates and image sides run through their schedule within its budget, so that a short one is the
best that the recipe does in that time, not the beginning of a long one. The budgets double from one to the next and all
are reported; none was chosen by its result.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import class_split
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store as results
from siamese_utils.studies import reference as studies_reference
from siamese_utils.system import project, provenance
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import train
from siamese_utils.training.recipes import DEFAULT_RECIPE, recipe

SPLIT, DRAW = "90-10", 0  # the split of which the seed project's training time is known
BUDGETS = (10_240, 20_480, 40_960, 81_920, 163_840)  # images shown, whole batches
SEEDS = (0, 1, 2)
TIME_COLUMNS = ("images", "seed", "recipe", "metric", "value", "ci95", "n")


def table_path() -> Path:
    """Where the results of this study are stored."""
    return project.results_dir() / "training_time.csv"


def time_config(recipe_name: str, images: int, seed: int) -> TrainConfig:
    """The recipe, shown so many images and no more."""
    return dataclasses.replace(recipe(recipe_name), seed=seed, epochs=1, least_images=images, most_images=images)


def run_training_time(
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    split: str = SPLIT,
    recipe_name: str = DEFAULT_RECIPE,
    budgets: tuple[int, ...] = BUDGETS,
    seeds: tuple[int, ...] = SEEDS,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Train with every budget and seed that is not stored yet, and store each as it ends; started again, it goes on.

    Each run has rows for ``acc_5w1s`` (unseen classes, percent; the protocol's episodes) and ``seconds`` (of training,
    without loading data and judging). Run it on a machine that does nothing else, or the seconds mean little.

    Args:
        train_set: training images.
        test_set: test images; those of the unseen classes are judged on.
        split: class split of draw 0.
        recipe_name: a name in ``RECIPES``; its numbers of epochs and images are set aside.
        budgets: images shown.
        seeds: seeds of weights, batches and augmentation.
        device: see ``train``.
        progress: show a progress bar.

    Returns:
        the table as stored.

    Raises:
        ConfigError: a budget is less than a batch.
        ResultsError: the stored table is damaged.
    """
    classes = class_split(split, DRAW, train_set.num_classes)
    positions = test_set.indices_of(classes.unseen)
    for seed in seeds:
        for images in budgets:
            key = {"images": images, "seed": seed, "recipe": recipe_name}
            if results.is_stored(key, table_path(), TIME_COLUMNS):
                continue
            config = time_config(recipe_name, images, seed)
            computed_with = provenance.provenance(device, config.precision)
            trained = train(config, train_set, classes.seen, device=device, progress=progress)
            z = trained.encoder.embed(test_set.images[positions])
            rng, ways = named_rng(0, "acc_5w1s"), min(5, len(classes.unseen))
            metrics = {
                "acc_5w1s": few_shot_accuracy(z, test_set.labels[positions], rng, ways=ways),
                "seconds": Estimate(trained.seconds, 0.0, 1),
            }
            record = {
                **key, "split": split, "draw": DRAW, "config": config.to_json(), "provenance": computed_with,
                "history": trained.history.to_dict(orient="records"),
            }  # fmt: skip
            results.store_json(f"training-time-{images}-seed{seed}", record)
            results.store_run(key, metrics, "", table=table_path(), columns=TIME_COLUMNS)
    return stored_training_time()


def stored_training_time() -> pd.DataFrame:
    """The stored rows, with the columns ``TIME_COLUMNS``.

    Raises:
        ResultsError: nothing is stored, or the table is damaged.
    """
    return results.read_table(table_path(), TIME_COLUMNS)


def over_seeds() -> pd.DataFrame:
    """One row a budget: ``images``, ``seconds`` (mean), ``mean``, ``low``, ``high`` and ``ci95`` (accuracy), ``seeds``.

    ``ci95`` is that of a run over its episodes, the mean over seeds.

    Raises:
        ResultsError: nothing is stored.
    """
    table = stored_training_time()
    accuracy = table[table.metric == "acc_5w1s"].groupby("images")
    found = accuracy["value"].agg(mean="mean", low="min", high="max", seeds="count")
    found["ci95"] = accuracy["ci95"].mean()
    found["seconds"] = table[table.metric == "seconds"].groupby("images")["value"].mean()
    return found.reset_index()


def time_sentence() -> str:
    """After which time every seed is better than the seed project's weights, and how many times faster that is.

    Raises:
        ResultsError: nothing is stored.
    """
    table = over_seeds()
    reference = studies_reference.seed_reference()
    aim = results.result(reference, split=SPLIT, metric="acc_5w1s", source="measured")
    hours = results.result(reference, split=SPLIT, metric="training_hours").value
    first = stored_training_time().images.min()
    record = results.load_json(f"training-time-{first}-seed{stored_training_time().seed.min()}")["provenance"]
    where = f"{record['processor']}, {record['threads']} threads, {record['precision']}"
    past = table[table.low - table.ci95 > aim.value]
    if past.empty:
        best = table.loc[table["mean"].idxmax()]
        return (
            f"None of these trainings passes the {aim.value:.1f} percent of the seed project's weights yet; the best "
            f"reaches {best['mean']:.1f} after {best.seconds:.0f} seconds ({where})."
        )
    row = past.iloc[0]
    runs = "its one seed" if row.seeds == 1 else f"each of its {row.seeds:.0f} seeds"
    return (
        f"With {row.images:,.0f} images, that is after **{row.seconds:.0f} seconds** ({where}), {runs} is past the "
        f"{aim.value:.1f} percent of the seed project's weights: {row['mean']:.1f} ± {row.ci95:.1f}. Those took "
        f"{hours:.0f} hours on two cores of another processor, so this is some **{hours * 3600 / row.seconds:,.0f}** "
        "times less."
    )
