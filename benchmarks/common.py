"""What the benchmarks share: timing several sides in turn, and the table in which they are stored."""

from __future__ import annotations

import io
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from siamese_utils.errors import ConfigError, ResultsError
from siamese_utils.system.devices import processor_and_precision
from siamese_utils.system.files import locked, write_text_atomically
from siamese_utils.system.project import own_folder
from siamese_utils.system.provenance import git_commit

ROOT = Path(__file__).resolve().parents[1]
RESULTS = own_folder() / "results" / "benchmarks.csv"  # those of the report are replaced when told to, by --out
COLUMNS = (
    "benchmark",
    "side",
    "value",
    "unit",
    "ratio",
    "repeats",
    "spread",
    "ratio_spread",
    "threads",
    "processor",
    "torch",
    "date",
    "commit",
)
# The options of every script.
Quick = Annotated[bool, typer.Option("--quick", help="A tiny setting, to see that it runs; not stored.")]
Repeats = Annotated[int, typer.Option(help="Rounds, each side once a round.")]
Threads = Annotated[int, typer.Option(help="Threads of PyTorch; 0 for its own choice.")]
Out = Annotated[Path | None, typer.Option(help="Table to store in, such as results/benchmarks.csv, the report's.")]
_KEY = ["benchmark", "side", "threads", "processor"]  # one row for each; a later run takes its place


@dataclass(frozen=True)
class Side:
    """One of the things compared.

    Attributes:
        name: how it is called in the table.
        run: does the work once and gives its rate, in the benchmark's unit; higher is faster.
    """

    name: str
    run: Callable[[], float]


def rates_in_turn(sides: list[Side], repeats: int) -> dict[str, list[float]]:
    """Run every side once to warm up, then all sides in turn, ``repeats`` times over.

    Whatever else slows the machine down for a while then slows every side, and the ratio within a round stays
    what it is.

    Returns:
        the rates of each side, ``repeats`` of them, in the order of the rounds.

    Raises:
        ConfigError: fewer than 1 repeat, no side, or two sides of one name.
    """
    names = [side.name for side in sides]
    if repeats < 1 or not sides or len(set(names)) != len(names):
        raise ConfigError("A benchmark needs 1 repeat or more, and sides whose names differ.")
    for side in sides:
        side.run()
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(repeats):
        for side in sides:
            rates[side.name].append(side.run())
    return rates


def _half_range(values: list[float]) -> float:
    return (max(values) - min(values)) / 2


def summarise(benchmark: str, unit: str, rates: Mapping[str, list[float]]) -> pd.DataFrame:
    """Make one row a side, the first being what the others are compared with.

    ``value`` is the median rate and ``ratio`` the median over the rounds of the rate divided by that of the
    first side in the same round; ``spread`` and ``ratio_spread`` are half the distance from the lowest to the
    highest round.

    Returns:
        a table with the columns ``COLUMNS``.
    """
    baseline = next(iter(rates.values()))
    rows = []
    for side, values in rates.items():
        ratios = [value / base for value, base in zip(values, baseline, strict=True)]
        rows.append(
            {
                "benchmark": benchmark,
                "side": side,
                "value": statistics.median(values),
                "unit": unit,
                "ratio": statistics.median(ratios),
                "repeats": len(values),
                "spread": _half_range(values),
                "ratio_spread": _half_range(ratios),
                "threads": torch.get_num_threads(),
                "processor": processor_and_precision(),
                "torch": torch.__version__,
                "date": datetime.now(timezone.utc).date().isoformat(),
                "commit": git_commit(ROOT, "siamese_utils"),
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def format_table(table: pd.DataFrame) -> str:
    """The rows as text for the terminal."""
    shown = pd.DataFrame(
        {
            "benchmark": table["benchmark"],
            "side": table["side"],
            "rate": [f"{v:,.1f} ± {s:,.1f} {u}" for v, s, u in zip(table["value"], table["spread"], table["unit"])],
            "ratio": [f"{r:.2f} ± {s:.2f}" for r, s in zip(table["ratio"], table["ratio_spread"])],
        }
    )
    head = table.iloc[0]
    where = f"{head['processor']}, {head['threads']} threads, torch {head['torch']}, {head['repeats']} rounds"
    return f"{where}\n{shown.to_string(index=False)}"


def store(table: pd.DataFrame, path: Path) -> None:
    """Put rows into a results table; a row of the same benchmark, side, processor and threads is replaced.

    Raises:
        ResultsError: the file is there and has other columns.
    """
    with locked(path.with_name(f".{path.name}.lock")):
        if path.exists():
            old = pd.read_csv(path, dtype={"commit": str}, keep_default_na=False)
            if list(old.columns) != list(COLUMNS):
                raise ResultsError(
                    f"{path} does not have the columns of a benchmark table ({', '.join(COLUMNS)}); move it away."
                )
            replaced = old.set_index(_KEY).index.isin(table.set_index(_KEY).index)
            table = pd.concat([old[~replaced], table], ignore_index=True)
        text = io.StringIO()
        table.sort_values(["processor", "threads", "benchmark"], kind="stable").to_csv(
            text, index=False, float_format="%.6g", lineterminator="\n"
        )
        write_text_atomically(path, text.getvalue())


def report(tables: list[pd.DataFrame], out: Path | None) -> None:
    """Print the tables and, if a file is given, store them in it."""
    table = pd.concat(tables, ignore_index=True)
    print(format_table(table))
    if out is not None:
        store(table, out)
        print(f"Stored in {out}.")


def output_path(out: Path | None, quick: bool) -> Path | None:
    """Where to store: where asked, else in the user's own folder, but numbers of a quick run nowhere unasked."""
    return out if out is not None or quick else RESULTS


def use_threads(threads: int) -> None:
    """Set the number of threads of PyTorch; 0 leaves its own choice.

    Raises:
        ConfigError: a negative number.
    """
    if threads < 0:
        raise ConfigError("The number of threads must be 1 or more, or 0 for PyTorch's own choice.")
    if threads:
        torch.set_num_threads(threads)
