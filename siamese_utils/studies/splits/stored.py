"""What is stored of the split sweep: its table, and its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.experiments.store import SPLIT_SWEEP_COLUMNS, read_table
from siamese_utils.studies.reference import seed_reference
from siamese_utils.system.project import results_dir


def split_sweep() -> pd.DataFrame:
    """The stored rows of ``results/split_sweep.csv``."""
    return read_table(results_dir() / "split_sweep.csv", SPLIT_SWEEP_COLUMNS)


def comparison_table(split: str, draw: int = 0, recipe: str | None = None) -> pd.DataFrame:
    """One row a metric: ours with its 95% interval, the seed's, and the difference; percent.

    Args:
        split: for example ``"90-10"``.
        draw: class draw; the seed's numbers belong to draw 0 and are left out for others.
        recipe: which of our recipes, where several are stored.

    Raises:
        ResultsError: nothing is stored for this split and draw.
    """
    ours = split_sweep()
    ours = ours[(ours.split == split) & (ours.draw == draw) & (True if recipe is None else ours.recipe == recipe)]
    if ours.empty:
        raise ResultsError(f"No results are stored for split {split}, draw {draw}; train it first.")
    seed = seed_reference().set_index(["split", "metric"])
    rows = []
    for row in ours.itertuples():
        line = {"metric": row.metric, "ours": f"{row.value:.2f} ± {row.ci95:.2f}", "seed": "–", "difference": "–"}
        if draw == 0 and (split, row.metric) in seed.index:
            reference = seed.loc[(split, row.metric)]
            interval = f" ± {reference.ci95:.2f}" if pd.notna(reference.ci95) else ""
            line["seed"] = f"{reference.value:.2f}{interval} ({reference.source})"
            line["difference"] = f"{row.value - reference.value:+.2f}"
        rows.append(line)
    return pd.DataFrame(rows)

_WORKER_SECONDS = 120


def checkpoint_path(split: str, draw: int) -> Path:
    """Where the checkpoint of a CIFAR-100 split is stored."""
    return results_dir() / "checkpoints" / f"cifar100-{split}-draw{draw}.safetensors"
