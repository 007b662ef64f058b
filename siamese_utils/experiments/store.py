"""Results on disk: tidy tables, one number a row, and beside them what each number came from."""

from __future__ import annotations

import io
import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.system.files import locked, write_text_atomically
from siamese_utils.system.project import results_dir

SPLIT_SWEEP_COLUMNS = ("split", "draw", "seed", "recipe", "metric", "value", "ci95", "n", "checkpoint")
_TEXT = ("split", "recipe", "metric", "checkpoint", "trial")  # columns that stay text even if they look like numbers


_NUMBERS = ("draw", "seed", "value", "ci95", "n")  # columns that hold nothing else


def read_table(path: Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a results table.

    Args:
        path: a CSV file.
        columns: what it must hold; extra columns are an error too.

    Raises:
        ResultsError: the file is missing or damaged, or has other columns.
    """
    if not path.is_file():
        raise ResultsError(
            f"There is no results table {path}; run the study that writes it, or fetch the results folder."
        )
    text = dict.fromkeys(_TEXT, str)
    try:
        table = pd.read_csv(path, keep_default_na=False, na_values={"ci95": [""]}, dtype=text)
    except (ValueError, pd.errors.ParserError) as error:
        reason = " ".join(str(error).split())
        raise ResultsError(
            f"The results table {path} is damaged ({reason}); restore it from version control."
        ) from error
    for column in _NUMBERS:
        if column in table.columns and len(table) and table[column].dtype.kind not in "iuf":
            raise ResultsError(
                f"The results table {path} is damaged (its column {column} holds more than numbers); restore it from "
                "version control."
            )
    if columns is not None and tuple(table.columns) != tuple(columns):
        found = reprlib.repr(list(table.columns))  # a damaged header may be long
        raise ResultsError(
            f"The results table {path} has columns {found}, expected {list(columns)}; restore it from version control."
        )
    return table


def result(table: pd.DataFrame, **key: Any) -> pd.Series:
    """The single row of a table with these values, for example ``result(t, split="90-10", metric="acc_5w1s")``.

    Raises:
        ResultsError: no row fits, or several do.
    """
    rows = table
    for column, value in key.items():
        if column not in table.columns:
            raise ResultsError(f"The results table has no column {column!r}; it has {', '.join(table.columns)}.")
        rows = rows[rows[column] == value]
    if len(rows) != 1:
        raise ResultsError(
            f"Expected one results row with {key}, found {len(rows)}; name more columns or run the study."
        )
    return rows.iloc[0]


def is_stored(key: Mapping[str, Any], path: Path, columns: Sequence[str]) -> bool:
    """Whether a table holds rows of this key; no if there is no table yet.

    Args:
        key: values of the identifying columns.
        path: CSV file.
        columns: what it must hold.

    Raises:
        ResultsError: the table is damaged.
    """
    if not path.exists():
        return False
    table = read_table(path, columns)
    for column, value in key.items():
        table = table[table[column] == value]
    return not table.empty


def store_run(
    key: Mapping[str, Any],
    metrics: Mapping[str, Estimate],
    checkpoint: str,
    *,
    table: Path | None = None,
    columns: Sequence[str] = SPLIT_SWEEP_COLUMNS,
) -> pd.DataFrame:
    """Put one run's metrics into a tidy table, replacing rows of the same key or of the same checkpoint.

    A checkpoint is a file that a new run overwrites, so numbers of what it held before must not stay.

    Safe against a kill (the file is replaced in one step) and against a second process (a lock file).

    Args:
        key: the identifying columns, for example split, draw, seed and recipe.
        metrics: estimates by metric name.
        checkpoint: path relative to the project root of the file that the numbers come from, or ``""``.
        table: CSV file; ``None`` for ``results/split_sweep.csv``.
        columns: its columns.

    Returns:
        the whole table as stored.

    Raises:
        ResultsError: nothing to store, or the table is damaged.
        StorageError: the table cannot be written; its old rows stay.
    """
    path = table if table is not None else results_dir() / "split_sweep.csv"
    if {*key, "metric", "value", "ci95", "n"} != set(columns) - {"checkpoint"}:
        raise ResultsError(f"The key {list(key)} does not fit the table's columns {list(columns)}; name each once.")
    if not metrics:
        raise ResultsError(f"There is no metric to store for {dict(key)}; evaluate the run first.")
    rows = []
    for name, estimate in metrics.items():
        numbers = {"value": round(estimate.value, 4), "ci95": round(estimate.ci95, 4), "n": estimate.n}
        rows.append({**key, "metric": name, **numbers, "checkpoint": checkpoint})
    new = pd.DataFrame(rows)[list(columns)]
    with locked(path.with_name(f".{path.name}.lock")):
        if path.exists():
            old = read_table(path, columns)
            same = pd.Series(True, index=old.index)
            for column, value in key.items():
                same &= old[column] == value
            if checkpoint:
                same |= old["checkpoint"] == checkpoint
            new = pd.concat([old[~same], new], ignore_index=True)
        buffer = io.StringIO()
        new.to_csv(buffer, index=False, lineterminator="\n")
        write_text_atomically(path, buffer.getvalue())
    return new


def store_json(name: str, content: Mapping[str, Any]) -> Path:
    """Write ``results/runs/<name>.json``: configuration, history and provenance of one run."""
    path = results_dir() / "runs" / f"{name}.json"
    write_record(path, content)
    return path


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write what a run came from as JSON, in one step."""
    write_text_atomically(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def load_json(name: str) -> dict[str, Any]:
    """Read what ``store_json`` wrote.

    Raises:
        ResultsError: it is missing or damaged.
    """
    return read_record(results_dir() / "runs" / f"{name}.json")


def read_record(path: Path) -> dict[str, Any]:
    """Read what ``write_record`` wrote.

    Raises:
        ResultsError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"The run record {path} is missing or damaged; run the study that writes it.") from error
