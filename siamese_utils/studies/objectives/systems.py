"""Trained by triplets to the end: 90-10 by triplets alone, and by triplets after a warm start with proxies.

The recipe of the sweep shows triplets and proxies side by side. Here everything else is as there (the network, the
images shown, the rates), so that the difference is what the objective makes, on unseen test classes and after a
whole training instead of the short ones of the study ``objectives``.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd

from siamese_utils.evaluation.protocol import METRICS as PROTOCOL
from siamese_utils.experiments.study import Bench, Outcome, Run, Study
from siamese_utils.studies.reference import seed_reference
from siamese_utils.studies.splits.study import KEY, SPLIT_SWEEP, carry_out, judge_again, run_name, split_run
from siamese_utils.system.project import results_dir
from siamese_utils.training.recipes import DEFAULT_RECIPE

SPLIT, DRAW, SEED = "90-10", 0, 0
SYSTEMS: dict[str, str] = {
    "muon-triplet": "triplets alone, all of a batch, soft margin",
    "muon-proxy-then-triplet": "proxies for 60% of the training, then triplets alone",
    DEFAULT_RECIPE: "the recipe: proxies and triplets side by side",
}
METRICS = ("acc_5w1s", "acc_5w5s", "acc_allway_1s", "pair_auc_unseen", "triplet_acc_unseen")


def record_name(recipe: str) -> str:
    """Name of a system's checkpoint and record; the recipe's are the sweep's own."""
    name = run_name(SPLIT, DRAW)
    return name if recipe == DEFAULT_RECIPE else f"{name}-{recipe}"


def _runs() -> list[Run]:
    return [split_run(SPLIT, DRAW, SEED, recipe) for recipe in SYSTEMS if recipe != DEFAULT_RECIPE]


def _carry_out(run: Run, bench: Bench) -> Outcome:
    return dataclasses.replace(carry_out(run, bench), tables={})


def _again(path: Path, bench: Bench) -> dict:
    return {"triplet_systems": judge_again(path, bench)[SPLIT_SWEEP.name]}


TRIPLET_SYSTEMS = Study(
    "triplet_systems",
    "How far do triplets alone come, after a whole training?",
    _runs,
    _carry_out,
    key=KEY,
    metrics=PROTOCOL,
    checkpoint=lambda run: results_dir() / "checkpoints" / f"{record_name(run.key['recipe'])}.safetensors",
    record=lambda run: results_dir() / "runs" / f"{record_name(run.key['recipe'])}.json",
    again=_again,
)


def stored_systems() -> pd.DataFrame:
    """The stored rows of all systems, the sweep's own among them, with the columns of the sweep's table."""
    others, swept = TRIPLET_SYSTEMS.table(), SPLIT_SWEEP.table()
    own = swept[(swept.split == SPLIT) & (swept.draw == DRAW) & (swept.seed == SEED) & (swept.recipe == DEFAULT_RECIPE)]
    return pd.concat([others, own], ignore_index=True)


def systems_table() -> pd.DataFrame:
    """One row a system: what it is, and its metrics on unseen classes with 95% intervals; percent.

    The last row is the seed project's weights, a triplet-trained system as well.
    """
    table, reference = stored_systems(), seed_reference()
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
