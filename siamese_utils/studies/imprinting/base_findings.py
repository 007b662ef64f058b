"""What the trials of the base network found, and what it is now; what is not stored yet raises ResultsError."""

from __future__ import annotations

import pandas as pd

from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, describe_change
from siamese_utils.experiments.store import load_json
from siamese_utils.experiments.study import recorded_core_minutes
from siamese_utils.studies.imprinting.base_trials import IMPRINTING_BASE_TRIALS
from siamese_utils.studies.imprinting.findings import Numbers


def base_trials_table() -> Table:
    """Every trial of the base network that is stored: what was changed, expected and found."""
    stored = _base_trials()
    runs = [run for run in IMPRINTING_BASE_TRIALS.runs() if str(run.key["trial"]) in stored.index]
    first = IMPRINTING_BASE_TRIALS.runs()[0].config
    rows = [
        {
            "trial": name,
            "change": describe_change(run.config, first),
            "expected": run.expectation,
            "named right (%)": cell(float(stored.loc[name, "acc_held_out"]), float(stored.loc[name, "half"])),
            "core-minutes": f"{stored.loc[name, 'core_minutes']:.0f}",
        }
        for run in runs
        if (name := str(run.key["trial"]))
    ]
    caption = "Trainings of the base network: training images of the 40 classes that were held out, nearest class mean"
    return Table(pd.DataFrame(rows), caption)


def base_sentence() -> str:
    """What the base network was trained with, for how long, and how well it names its classes."""
    record, planned = load_json("imprinting-base"), len(IMPRINTING_BASE_TRIALS.runs())
    right = Numbers.stored().base("plain").value
    return (
        f"The base network is trained by the recipe `{record['recipe']}` in {recorded_core_minutes(record):.0f} "
        f"core-minutes and names {right:.1f}% of the test images of its 40 classes right. Stored of the trials so far: "
        f"{len(_base_trials())} of {planned}."
    )


def _base_trials() -> pd.DataFrame:
    """Held-out accuracy with its half interval, and core-minutes, by trial."""
    table = IMPRINTING_BASE_TRIALS.table()
    found = table.pivot_table(index="trial", columns="metric", values="value", aggfunc="mean")
    return found.assign(half=table[table.metric == "acc_held_out"].set_index("trial").ci95)
