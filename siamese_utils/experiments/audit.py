"""The stored numbers against the stored checkpoints: every row that names a checkpoint is computed anew from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
from joblib import Parallel, delayed, parallel_config
from tqdm.auto import tqdm

from siamese_utils.errors import SiameseError, unknown
from siamese_utils.experiments.store import metric_rows, read_table
from siamese_utils.experiments.study import Bench, Rows, Study
from siamese_utils.system.memory import freed_memory_kept
from siamese_utils.system.project import project_root, results_dir

SLACK = 0.02
"""Percentage points by which a number may differ whatever its interval: another processor rounds otherwise."""
THRESHOLD_SLACK = 0.002
"""The same for thresholds, which are cosines."""
AUDIT_COLUMNS = ("table", "checkpoint", "metric", "stored", "again", "allowed", "verdict")
_NUMBERS = ("value", "ci95", "n", "checkpoint")


def audit(
    studies: Sequence[Study],
    bench: Bench,
    only: Sequence[str] = (),
    *,
    checkpoints: Sequence[str] = (),
    processes: int = 1,
) -> pd.DataFrame:
    """Compute every stored row that names a checkpoint anew.

    A row holds when the new value lies within its 95% interval, or within ``SLACK`` where that is smaller, and rests on
    as many episodes, pairs or images.

    Args:
        studies: those that are asked; each says by ``again`` what its checkpoints give.
        bench: where the data are.
        only: names of tables; all if empty. Tables that are not stored are passed over.
        checkpoints: as the tables name them; all if empty.
        processes: how many compute side by side, with one thread each; each loads the data that it needs once.

    Returns:
        One row a stored row, with the columns ``AUDIT_COLUMNS``; ``verdict`` is ``"holds"``, or says what is wrong.

    Raises:
        UnknownNameError: ``only`` names no table.
        ResultsError: a table is damaged.
    """
    studies = [study for study in studies if study.again is not None]
    tables = [name for study in studies for name in (study.name, *study.tables)]
    if strange := set(only) - set(tables):
        raise unknown("table", min(strange), tables)
    jobs = [
        (checkpoint, study, rows)
        for study in studies
        for checkpoint, rows in _rows_by_checkpoint(study, only).items()
        if not checkpoints or checkpoint in checkpoints
    ]
    jobs.sort(key=lambda job: -sum(map(len, job[2].values())))  # the longest first, so that no process ends alone
    quiet = bench.at(None, progress=False)
    calls = [
        delayed(_judged)(study, project_root() / checkpoint, checkpoint, rows, quiet)
        for checkpoint, study, rows in jobs
    ]
    with parallel_config("loky", n_jobs=min(processes, max(1, len(jobs))), inner_max_num_threads=1):
        judged = Parallel(return_as="generator_unordered", batch_size=1)(calls)
        shown = tqdm(judged, total=len(jobs), unit="checkpoint", desc="audit", disable=not bench.progress)
        # As people look for them.
        found = sorted(shown, key=lambda rows: (rows[0][1], rows[0][0]) if rows else ("", ""))
    return pd.DataFrame([row for rows in found for row in rows], columns=list(AUDIT_COLUMNS))


def _rows_by_checkpoint(study: Study, only: Sequence[str]) -> dict[str, dict[str, pd.DataFrame]]:
    """The stored rows of each checkpoint, by table."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for name in (study.name, *study.tables):
        path = results_dir() / f"{name}.csv"
        if (only and name not in only) or not path.is_file():
            continue
        table = read_table(path)
        if "checkpoint" not in table.columns:
            continue
        for checkpoint, rows in table.groupby("checkpoint"):
            if checkpoint:
                found.setdefault(str(checkpoint), {})[name] = rows[~rows.metric.isin(study.once)]
    return found


def _judged(
    study: Study, path: Path, checkpoint: str, tables: Mapping[str, pd.DataFrame], bench: Bench
) -> list[tuple[object, ...]]:
    """Rows of ``AUDIT_COLUMNS`` for one checkpoint."""
    assert study.again is not None
    try:
        with freed_memory_kept():
            again: Mapping[str, Rows] = study.again(path, bench)
    except SiameseError as error:
        missing, reason = float("nan"), f"cannot be computed: {error}"
        return [
            (name, checkpoint, row["metric"], row["value"], missing, missing, reason)
            for name, rows in tables.items()
            for row in rows.to_dict("records")
        ]
    found: list[tuple[object, ...]] = []
    for name, rows in tables.items():
        fresh = again[name] if isinstance(again[name], pd.DataFrame) else metric_rows(again[name])
        found += [(name, checkpoint, *verdict) for verdict in _compared(rows, fresh, study)]
    return found


def _compared(rows: pd.DataFrame, fresh: pd.DataFrame, study: Study) -> Iterator[tuple[object, ...]]:
    """Metric, stored and new value, allowed difference and verdict of each row."""
    # What tells the rows of one checkpoint apart: all columns that both have, but for the numbers themselves.
    shared = [column for column in fresh.columns if column in rows.columns and column not in _NUMBERS]
    missing = float("nan")
    new = {_name(row, shared): row for row in fresh[~fresh.metric.isin(study.once)].to_dict("records")}
    # A list: of two rows of one name, each must hold.
    stored = [(_name(row, shared), row) for row in rows.to_dict("records")]
    for name, row in stored:
        if name not in new:
            yield name, row["value"], missing, missing, "the checkpoint does not give this metric"
            continue
        now = new[name]
        allowed = THRESHOLD_SLACK if name.startswith("threshold") else max(row["ci95"], SLACK)
        if not abs(now["value"] - row["value"]) <= allowed:
            verdict = "the checkpoint gives another value"
        elif now["n"] != row["n"]:
            verdict = f"rests on {now['n']}, not on {row['n']}"
        else:
            verdict = "holds"
        yield name, row["value"], now["value"], allowed, verdict
    for name in sorted(set(new) - {name for name, _ in stored}):
        yield name, missing, new[name]["value"], missing, "is not in the table"


def _name(row: Mapping[str, object], columns: Sequence[str]) -> str:
    return ", ".join(str(row[column]) for column in columns)
