"""Numbers of others that ours stand beside: the seed project's, published or measured from its weights."""

from __future__ import annotations

import pandas as pd

from siamese_utils.experiments.store import read_table
from siamese_utils.system.project import results_dir

SEED_COLUMNS = ("split", "metric", "value", "ci95", "source")


def seed_reference() -> pd.DataFrame:
    """Numbers of the seed project: ``published`` in its own table, or ``measured`` from its published weights.

    The measured ones use this project's protocol on the same test images.
    """
    return read_table(results_dir() / "seed_reference.csv", SEED_COLUMNS)
