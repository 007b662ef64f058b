"""What the stored runs of the split sweep took, on which machines, and whether the machine's precision matters."""

from __future__ import annotations

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store as results
from siamese_utils.studies.splits import stored
from siamese_utils.studies.splits.study import SplitRun
from siamese_utils.studies.validation import read_study


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


def precision_results() -> pd.DataFrame:
    """The study ``precision``, one row a seed that is stored in both precisions.

    Columns: ``seed``, ``float32`` and ``bfloat16`` (5-way 1-shot accuracy on validation classes, percent) and ``ci95``
    (of a run over its episodes, the larger of the two). Speeds are compared by ``benchmarks.training``, side by side.

    Raises:
        ResultsError: no seed is stored in both.
    """
    table = read_study("precision")
    value = table.pivot_table(index=["seed", "trial"], columns="metric", values="value")
    half = table[table.metric == "acc_5w1s"].groupby("seed").ci95.max()
    rows = []
    for seed, of_seed in value.groupby(level="seed"):
        runs = of_seed.droplevel("seed")
        if not {"float32", "bfloat16"} <= set(runs.index):
            continue
        accuracy = runs.acc_5w1s
        rows.append(
            {"seed": seed, "float32": accuracy.float32, "bfloat16": accuracy.bfloat16, "ci95": half[seed]}
        )
    if not rows:
        raise ResultsError("No training is stored in both precisions; run `python -m siamese_utils study precision`.")
    return pd.DataFrame(rows)


def precision_sentence() -> str:
    """Whether bfloat16 changes the result; Markdown.

    Raises:
        ResultsError: no seed is stored in both precisions.
    """
    table = precision_results()
    change = table.bfloat16 - table.float32
    pairs = ", ".join(f"{row.float32:.1f} and {row.bfloat16:.1f}" for row in table.itertuples())
    return (
        f"The same training with the same seed in float32 and in bfloat16 reaches {pairs} percent on validation "
        f"classes (± {table.ci95.max():.1f} over episodes): bfloat16 changes it by **{change.mean():+.1f}** points on "
        f"average, between {change.min():+.1f} and {change.max():+.1f}."
    )
