"""The long campaigns: many trials each, all of them made even if one fails, and recorded by ``make test-long``."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pandas as pd
import pytest

from siamese_utils.experiments.store import read_table
from siamese_utils.system.devices import processor_name
from siamese_utils.system.files import locked, write_text_atomically
from siamese_utils.system.provenance import git_commit, package_version

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "results" / "reliability.csv"
COLUMNS = ("campaign", "trials", "failures", "seconds", "date", "commit", "processor", "python", "torch")


class Campaign:
    """Counts trials, and keeps what went wrong in them.

    Attributes:
        trials: how many there were.
        failures: a sentence each.
    """

    def __init__(self) -> None:
        self.trials = 0
        self.failures: list[str] = []

    @contextmanager
    def trial(self, name: str) -> Iterator[None]:
        """One trial; whatever it raises is a failure, and the campaign goes on."""
        self.trials += 1
        try:
            yield
        except Exception as error:
            self.failures.append(f"{name}: {type(error).__name__}: {error}")


@pytest.fixture
def campaign() -> Callable[[str, int], Iterator[Campaign]]:
    """Open a campaign by its name and the least number of trials; it fails at the end if any trial did."""

    @contextmanager
    def run(name: str, least: int) -> Iterator[Campaign]:
        counted, begin = Campaign(), time.monotonic()
        yield counted
        if os.environ.get("SIAMESE_RECORD"):
            record(name, counted, time.monotonic() - begin)
        assert not counted.failures, "\n".join(counted.failures)
        assert counted.trials >= least, f"only {counted.trials} trials instead of {least}"

    return run


def record(name: str, counted: Campaign, seconds: float, table: Path = TABLE) -> None:
    """Put a campaign into the table, in place of its last row."""
    row = {
        "campaign": name,
        "trials": counted.trials,
        "failures": len(counted.failures),
        "seconds": round(seconds),
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": git_commit(ROOT, "siamese_utils"),
        "processor": processor_name(),
        "python": sys.version.split()[0],
        "torch": package_version("torch"),
    }
    with locked(table.with_name(f".{table.name}.lock")):
        rows = pd.DataFrame([row])
        if table.exists():
            old = read_table(table, COLUMNS)
            rows = pd.concat([old[old.campaign != name], rows], ignore_index=True)
        text = io.StringIO()
        rows.sort_values("campaign").to_csv(text, index=False, lineterminator="\n")
        write_text_atomically(table, text.getvalue())
