"""Trained by triplets to the end: 90-10 by triplets alone, and by triplets after a warm start with proxies.

The recipe of the sweep shows triplets and proxies side by side. Here everything else is as there (the network, the
images shown, the rates), so that the difference is what the objective makes, on unseen test classes and after a
whole training instead of the short ones of the study ``objectives``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from siamese_utils.data.images import ImageSet
from siamese_utils.experiments import store
from siamese_utils.experiments import store as results
from siamese_utils.studies import reference as studies_reference
from siamese_utils.studies.splits import stored
from siamese_utils.studies.splits.study import SplitRun, store_files, train_run
from siamese_utils.system import project
from siamese_utils.training.recipes import DEFAULT_RECIPE

SPLIT, DRAW, SEED = "90-10", 0, 0
SYSTEMS: dict[str, str] = {
    "muon-triplet": "triplets alone, all of a batch, soft margin",
    "muon-proxy-then-triplet": "proxies for 60% of the training, then triplets alone",
    DEFAULT_RECIPE: "the recipe: proxies and triplets side by side",
}
METRICS = ("acc_5w1s", "acc_5w5s", "acc_allway_1s", "pair_auc_unseen", "triplet_acc_unseen")


def table_path() -> Path:
    """Where the results of the systems other than the sweep's own are stored."""
    return project.results_dir() / "triplet_systems.csv"


def record_name(recipe_name: str) -> str:
    """Under which name ``results.load_json`` finds what a system was trained with."""
    run = SplitRun(SPLIT, DRAW, SEED, recipe_name)
    return run.name if recipe_name == DEFAULT_RECIPE else f"{run.name}-{recipe_name}"


def checkpoint_path(recipe_name: str) -> Path:
    """Where a system's encoder is stored."""
    return project.results_dir() / "checkpoints" / f"{record_name(recipe_name)}.safetensors"


def run_triplet_systems(
    train_set: ImageSet, test_set: ImageSet, *, device: str = "auto", progress: bool = True
) -> pd.DataFrame:
    """Train and judge each system that is not stored, except the sweep's own; started again, it goes on.

    Args:
        train_set: CIFAR-100's training images.
        test_set: CIFAR-100's test images.
        device: see ``train``.
        progress: show a progress bar.

    Returns:
        the table as stored.

    Raises:
        TrainingError: a system collapsed or diverged.
        ResultsError: the stored table is damaged.
    """
    for recipe_name in SYSTEMS:
        run = SplitRun(SPLIT, DRAW, SEED, recipe_name)
        stored = results.is_stored(run.key, table_path(), store.SPLIT_SWEEP_COLUMNS)
        if recipe_name == DEFAULT_RECIPE or (stored and checkpoint_path(recipe_name).is_file()):
            continue
        finished = train_run(run, train_set, test_set, device=device, progress=progress)
        store_files(finished, checkpoint_path(recipe_name), record_name(recipe_name))
        checkpoint = checkpoint_path(recipe_name).relative_to(project.project_root()).as_posix()
        results.store_run(run.key, finished.metrics, checkpoint, table=table_path())
        shutil.rmtree(run.folder, ignore_errors=True)
    return results.read_table(table_path(), store.SPLIT_SWEEP_COLUMNS)


def stored_systems() -> pd.DataFrame:
    """The stored rows of all systems, the sweep's own among them, with the columns ``results.SPLIT_SWEEP_COLUMNS``.

    Raises:
        ResultsError: nothing is stored, or a table is damaged.
    """
    others = results.read_table(table_path(), store.SPLIT_SWEEP_COLUMNS)
    swept = stored.split_sweep()
    own = swept[(swept.split == SPLIT) & (swept.draw == DRAW) & (swept.seed == SEED) & (swept.recipe == DEFAULT_RECIPE)]
    return pd.concat([others, own], ignore_index=True)


def systems_table() -> pd.DataFrame:
    """One row a system: what it is, and its metrics on unseen classes with 95% intervals; percent.

    The last row is the seed project's weights, a triplet-trained system as well.

    Raises:
        ResultsError: nothing is stored.
    """
    table, reference = stored_systems(), studies_reference.seed_reference()
    rows = [
        {"trained by": what, **_cells(table[table.recipe == recipe_name])}
        for recipe_name, what in SYSTEMS.items()
        if (table.recipe == recipe_name).any()
    ]
    seed = reference[(reference.split == SPLIT) & (reference.source == "measured")]
    rows.append({"trained by": "random triplets, ResNet-56 (the seed project's weights)", **_cells(seed)})
    return pd.DataFrame(rows)


def _cells(rows: pd.DataFrame) -> dict[str, str]:
    """Each of ``METRICS`` with its interval, where there is one."""
    found = rows.set_index("metric")
    cells = {}
    for metric in METRICS:
        if metric not in found.index:
            cells[metric] = "–"
            continue
        interval = found.ci95[metric]
        cells[metric] = f"{found.value[metric]:.1f}" + ("" if pd.isna(interval) else f" ± {interval:.1f}")
    return cells
