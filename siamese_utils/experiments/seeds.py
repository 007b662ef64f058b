"""Several seeds as one number: means and ranges over stored runs, and what a trial changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

from siamese_utils.errors import ResultsError
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term


def over_seeds(table: pd.DataFrame, metric: str, by: Sequence[str]) -> pd.DataFrame:
    """One row a group of runs that differ in their seed alone.

    Args:
        table: stored rows with the columns ``metric``, ``value``, ``ci95``.
        metric: which one.
        by: columns that tell the groups apart, in the table's order.

    Returns:
        the columns ``by``, then ``mean``, ``sd`` (over seeds, missing for one), ``low``, ``high``, ``seeds``, and
        ``ci95`` (a run's, over what it was judged on; the mean over seeds).
    """
    rows = table[table.metric == metric].groupby(list(by), sort=False)
    found = rows["value"].agg(mean="mean", sd="std", low="min", high="max", seeds="count")
    return found.assign(ci95=rows["ci95"].mean()).reset_index()


def signed(value: float) -> str:
    """A difference with its sign and one decimal, and no minus before a zero."""
    return f"{round(value, 1) + 0.0:+.1f}"


def seeds_told(count: int) -> str:
    """``one seed`` or ``5 seeds``."""
    return "one seed" if count == 1 else f"{count} seeds"


@dataclass(frozen=True)
class Paired:
    """A mean over seeds with its 95% interval, NaN for a single seed; of a difference, between runs of one seed."""

    mean: float
    half: float
    seeds: int

    @classmethod
    def of(cls, values: pd.Series) -> Paired:
        """From one value a seed, by Student's t.

        Raises:
            ResultsError: there is none.
        """
        count = len(values)
        if not count:
            raise ResultsError(
                "No seed of these runs is stored yet; `python -m siamese_utils study` lists all studies."
            )
        half = t.ppf(0.975, count - 1) * values.std() / count**0.5 if count > 1 else float("nan")
        return cls(float(values.mean()), float(half), count)

    def __str__(self) -> str:
        return signed(self.mean) + ("" if np.isnan(self.half) else f" ± {self.half:.1f}")

    @property
    def drawn(self) -> float | None:
        """The interval as figures draw it: that of two seeds alone is wider than all that is to be seen."""
        return self.half if self.seeds > 2 else None

    @property
    def seeds_told(self) -> str:
        """``one seed`` or ``5 seeds``."""
        return seeds_told(self.seeds)

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero; never with one seed."""
        return abs(self.mean) > self.half


def cell(value: float, half: float, decimals: int = 1) -> str:
    """A number with its interval as tables show it, ``76.8 ± 0.2``; without one, the number alone."""
    shown = f"{value:.{decimals}f}"
    return shown if pd.isna(half) else f"{shown} ± {half:.{decimals}f}"


def describe_change(config: TrainConfig, base: TrainConfig) -> str:
    """The fields in which a configuration differs from another, as ``field = value``, or a dash."""
    changes = []
    for field in dataclasses.fields(TrainConfig):
        new, old = getattr(config, field.name), getattr(base, field.name)
        if new == old or field.name == "recipe":
            continue
        if field.name == "terms":
            changes.append(" + ".join(_describe_term(term) for term in new))
        elif field.name == "augment":
            parts = dataclasses.asdict(new).items()
            changes += [f"{key} = {value}" for key, value in parts if value != getattr(old, key)]
        elif field.name == "resolutions":
            changes.append("sides " + (", ".join(f"{side} from {begin:.0%}" for begin, side in new) or "as they are"))
        else:
            changes.append(f"{field.name} = {new}")
    return "; ".join(changes).replace("_", " ") or "–"


def _describe_term(term: Term) -> str:
    default = Term(term.objective)
    parts = dataclasses.asdict(term).items()
    settings = [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in parts
        if value != getattr(default, key)
    ]
    return f"{term.objective} ({', '.join(settings)})" if settings else term.objective
