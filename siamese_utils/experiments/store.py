"""Results on disk: tidy tables, one number a row, and beside them what each number came from."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.system import project
from siamese_utils.system.files import locked, write_text_atomically
from siamese_utils.system.project import results_dir

_TEXT = ("split", "recipe", "metric", "checkpoint", "trial")  # columns that stay text even if they look like numbers
_NUMBERS = ("draw", "seed", "value", "ci95", "n")  # columns that hold nothing else


def has_table(path: Path) -> bool:
    """Whether ``read_table`` finds one."""
    return project.shown(path).is_file()


def read_table(path: Path, columns: Sequence[str] | None = None, key: Sequence[str] = ()) -> pd.DataFrame:
    """Read a results table.

    Where all is made anew in a folder of one's own (``project.at``), the published table is read as long as there is
    none of one's own, and runs that are not there yet have their published rows.

    Args:
        path: a CSV file.
        columns: what it must hold; extra columns are an error too.
        key: the columns by which its rows belong to runs; empty where one run fills it.

    Raises:
        ResultsError: the file is missing or damaged, or has other columns.
    """
    if key and project.is_anew() and path.is_file() and (published := project.published(path)).is_file():
        return _replaced(_read_table(published, columns), _read_table(path, columns), list(key))
    return _read_table(project.shown(path), columns)


def _replaced(published: pd.DataFrame, own: pd.DataFrame, key: list[str]) -> pd.DataFrame:
    """Rows of one's own runs in the places of the published ones, and those of other runs at the end."""
    runs = pd.MultiIndex.from_frame(published[key])
    places = {run: place for place, run in enumerate(runs.unique())}
    kept = published[~runs.isin(pd.MultiIndex.from_frame(own[key]))]
    table = pd.concat([kept, own], ignore_index=True)
    order = [places.get(run, len(places)) for run in pd.MultiIndex.from_frame(table[key])]
    return table.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)


def _read_table(path: Path, columns: Sequence[str] | None) -> pd.DataFrame:
    """Read a table as it lies there."""
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


def of_recipe(table: pd.DataFrame, name: str, path: Path) -> pd.DataFrame:
    """The rows of one recipe: numbers of two are not to be told as one's.

    Args:
        table: has a column ``recipe``.
        name: of the recipe.
        path: of the table, for the error.

    Raises:
        ResultsError: there are none.
    """
    rows = table[table.recipe == name]
    if rows.empty:
        others = " and ".join(sorted(table.recipe.unique())) or "none"
        raise ResultsError(
            f"{path} has no rows by the recipe {name} (but by {others}); run the study with it, or restore the table "
            "from version control."
        )
    return rows.reset_index(drop=True)


def has_rows(path: Path, key: Mapping[str, Any], columns: Sequence[str] | None = None) -> bool:
    """Whether a table holds rows of this key; no if there is no table yet.

    Args:
        path: CSV file.
        key: values of the identifying columns; those that the table lacks do not count.
        columns: what it must hold, or ``None`` for any.

    Raises:
        ResultsError: the table is damaged.
    """
    return path.exists() and has_rows_of(_read_table(path, columns), key)


def has_rows_of(table: pd.DataFrame, key: Mapping[str, Any]) -> bool:
    """Whether a table that was read has rows of this key."""
    return bool(_of_key(table, key).any())


def _of_key(table: pd.DataFrame, key: Mapping[str, Any]) -> pd.Series:
    """Which rows of a table have the values of a key."""
    same = pd.Series(True, index=table.index)
    for column in set(key) & set(table.columns):
        same &= table[column] == key[column]
    return same


def metric_rows(metrics: Mapping[str, Estimate]) -> pd.DataFrame:
    """One row a metric with its value, half the interval, and the number behind it, rounded as tables hold them."""
    rows = [(name, round(e.value, 4), round(e.ci95, 4), e.n) for name, e in metrics.items()]
    return pd.DataFrame(rows, columns=["metric", "value", "ci95", "n"])


def store_rows(
    path: Path,
    key: Mapping[str, Any],
    rows: Mapping[str, Estimate] | pd.DataFrame,
    checkpoint: str = "",
    columns: Sequence[str] = (),
) -> None:
    """Put a run's rows into a table, in place of those of the same key or of the same checkpoint.

    A checkpoint is a file that a new run overwrites, so numbers of what it held before must not stay. Safe against a
    kill (the file is replaced in one step) and against a second process (a lock file).

    Args:
        path: CSV file.
        key: the run's identifying columns; those that the table lacks are passed over.
        rows: estimates by metric name, or rows of any columns.
        checkpoint: path, relative to the project's root, of the file that the numbers come from, or ``""``.
        columns: of the table; if empty those it has, or else the key's and the rows' own.

    Raises:
        ResultsError: nothing to store, rows and columns do not fit, or the table is damaged.
        StorageError: the table cannot be written; its old rows stay.
    """
    if not len(rows):
        raise ResultsError(f"There is nothing to store in {path} for {dict(key)}; evaluate the run first.")
    if columns and (strange := set(key) - set(columns)):
        raise ResultsError(f"{path} has no columns {sorted(strange)} for {dict(key)}; it has {list(columns)}.")
    new = rows.copy() if isinstance(rows, pd.DataFrame) else metric_rows(rows)
    with locked(path.with_name(f".{path.name}.lock")):
        old = _read_table(path, columns or None) if path.exists() else None
        if not columns:
            # Without a table to go by, rows of metrics come with the checkpoint that they are of.
            own = [*key, *(name for name in new.columns if name not in key)]
            own += ["checkpoint"] if checkpoint and "metric" in own else []
            columns = list(old.columns) if old is not None else own
        named = {**key, "checkpoint": checkpoint}
        for column in columns:
            if column in named and column not in new.columns:
                new[column] = named[column]
        if set(new.columns) != set(columns):
            raise ResultsError(
                f"Rows of {list(new.columns)} do not fit the columns {list(columns)} of {path}; name each once."
            )
        new = new[list(columns)]
        if old is not None:
            same = _of_key(old, key)
            if checkpoint and "checkpoint" in old.columns:
                same |= old["checkpoint"] == checkpoint
            new = pd.concat([old[~same], new], ignore_index=True)
        write_text_atomically(path, new.to_csv(index=False, lineterminator="\n"))


def remove_rows(path: Path, key: Mapping[str, Any]) -> None:
    """Take the rows of a key out of a table; a table that has no others goes as a whole, and none need be there.

    Raises:
        ResultsError: the table is damaged.
        StorageError: it cannot be written; its rows stay.
    """
    with locked(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            return
        table = _read_table(path, None)
        left = table[~_of_key(table, key)]
        if left.empty:
            path.unlink()
        elif len(left) < len(table):
            write_text_atomically(path, left.to_csv(index=False, lineterminator="\n"))


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
    """Read what ``write_record`` wrote; what is to be made anew and is not there yet, as published.

    Raises:
        ResultsError: it is missing or damaged.
    """
    try:
        return json.loads(project.shown(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResultsError(f"The run record {path} is missing or damaged; run the study that writes it.") from error
