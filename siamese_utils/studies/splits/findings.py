"""What the stored runs of the split sweep took, on which machines."""

from __future__ import annotations

import pandas as pd

from siamese_utils.experiments import store as results
from siamese_utils.studies.splits import stored
from siamese_utils.studies.splits.study import SplitRun


def costs() -> pd.DataFrame:
    """What the stored runs took: one row a class draw and kind of machine.

    Columns: ``draw``, ``runs``, ``processor``, ``precision``, ``threads`` and ``minutes`` (of training, in all).

    Raises:
        ResultsError: nothing is stored, or a run's record is missing.
    """
    runs = stored.split_sweep()[["split", "draw"]].drop_duplicates()
    rows = []
    for run in runs.itertuples():
        record = results.load_json(SplitRun(run.split, run.draw).name)
        where = record["provenance"]
        machine = {key: where[key] for key in ("processor", "precision", "threads")}
        rows.append({"draw": run.draw, "split": run.split, **machine, "minutes": record["seconds"] / 60})
    grouped = pd.DataFrame(rows).groupby(["draw", "processor", "precision", "threads"], sort=True)
    table = grouped.agg(runs=("split", "count"), minutes=("minutes", "sum")).reset_index()
    return table[["draw", "runs", "processor", "precision", "threads", "minutes"]]
