"""Whether training on one's own photographs was worth it. What is not stored yet raises ResultsError."""

from __future__ import annotations

import pandas as pd

from siamese_utils.encoders.named import LITE0_SIDE
from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell
from siamese_utils.experiments.study import Run
from siamese_utils.studies.own_images.training import METRICS, OTHER, OWN_TRAINING

_STARTS = {"random": "random weights", OTHER: f"{OTHER}'s weights"}


def training_table() -> Table:
    """One row a training: 1-shot and 5-shot accuracy with the published encoder's, and how long it took."""
    table = OWN_TRAINING.table()
    rows = []
    for run in OWN_TRAINING.runs():
        if not store.has_rows_of(table, run.key):
            continue
        row: dict[str, object] = {"trained from": _STARTS[str(run.key["start"])], "side": run.config.size}
        for name, what in METRICS.items():
            row[what] = _told(table, run, name)
            row[f"gain, {what.split()[0]}"] = _told(table, run, f"{name}_gain")
        rows.append({**row, "minutes": store.result(table, **run.key, metric="seconds").value / 60})
    before = ", ".join(
        f"{what} {_told(table, OWN_TRAINING.runs()[0], f'{name}_before')}" for name, what in METRICS.items()
    )
    learned = store.result(table, **OWN_TRAINING.runs()[0].key, metric="learned").value
    return Table(
        pd.DataFrame(rows),
        f"Photographs, five classes at a time of those that were not learned, percent, with 95% intervals over images; "
        f"{learned:.0f} classes learned; {OTHER} as published, with a side of "
        f"{LITE0_SIDE}: {before}",
        1,
    )


def _told(table: pd.DataFrame, run: Run, metric: str) -> str:
    row = store.result(table, **run.key, metric=metric)
    return cell(row.value, row.ci95)


def training_sentence() -> str:
    """What either training gained over the published encoder on the same images; Markdown."""
    table = OWN_TRAINING.table()
    told = []
    for run in OWN_TRAINING.runs():
        if store.has_rows_of(table, run.key):
            gain = store.result(table, **run.key, metric="acc_1s_gain")
            told.append(f"from {_STARTS[str(run.key['start'])]} it is **{_judged(gain.value, gain.ci95)}**")
    return (
        f"Against {OTHER} as published, 1-shot accuracy on classes that were not learned changes by training on the "
        f"others: {'; '.join(told)}."
    )


def _judged(gain: float, half: float) -> str:
    verdict = "worth it" if gain > half else "a loss" if -gain > half else "not to be told apart"
    return f"{gain:+.1f} ± {half:.1f} points, {verdict}"
