"""Does a better recipe raise the curve or make it steeper? A longer training beside the report's, split by split.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, signed
from siamese_utils.studies.splits.findings import rows_of
from siamese_utils.training.recipes import DEFAULT_RECIPE, HALF_HOUR_RECIPE

LONGER = HALF_HOUR_RECIPE
SPLITS = "10-90,50-50,90-10"  # of class draw 0: both ends and the middle, as planned beforehand
CURVES = {"acc_5w1s": "each split's own unseen classes", "acc_5w1s_common": "the same ten classes for every split"}
"""What the unseen classes of each metric are."""


def both_recipes(metric: str) -> pd.DataFrame:
    """A metric by both recipes, one row a split and class draw that is stored of both.

    Columns: ``split``, ``learned``, ``draw``, ``report`` and ``longer`` (percent), ``report_ci95`` and
    ``longer_ci95``, ``gain`` and ``gain_ci95`` (points; of the two measurements, taken as independent).
    """
    table = _of_both(metric)
    table["gain"] = table.longer - table.report
    table["gain_ci95"] = (table.longer_ci95**2 + table.report_ci95**2) ** 0.5
    return table


def _of_both(metric: str) -> pd.DataFrame:
    of = {}
    for name, recipe in (("report", DEFAULT_RECIPE), ("longer", LONGER)):
        rows = rows_of(metric, recipe)[["split", "learned", "draw", "value", "ci95"]]
        of[name] = rows.rename(columns={"value": name, "ci95": f"{name}_ci95"})
    table = of["report"].merge(of["longer"], on=["split", "learned", "draw"])
    if table.empty:
        raise ResultsError(
            f"No split is stored by both recipes; run `python -m siamese_utils sweep --recipe {LONGER}`."
        )
    return table.sort_values(["draw", "learned"], ignore_index=True)


def level_or_slope_table() -> Table:
    """One row a split and class draw: both recipes on its own unseen classes and on the ten that no split learns."""
    rows = None
    for metric, classes in CURVES.items():
        words = classes.removesuffix(" for every split").removeprefix("each split's ")
        found = both_recipes(metric)
        shown = found[["split", "draw"]].copy()
        for name, of in (("report", DEFAULT_RECIPE), ("longer", LONGER)):
            shown[f"{words}, {of}"] = list(map(cell, found[name], found[f"{name}_ci95"]))
        shown[f"{words}, gain"] = [
            f"{signed(gain)} ± {half:.1f}" for gain, half in zip(found.gain, found.gain_ci95, strict=True)
        ]
        rows = shown if rows is None else rows.merge(shown, on=["split", "draw"])
    caption = "5-way 1-shot accuracy in percent, 95% intervals over episodes; those of a gain as if episodes differed"
    return Table(rows, caption)


def level_or_slope_sentence() -> str:
    """How much each recipe gains from the fewest classes learned to the most, draw by draw; Markdown."""
    told = []
    for metric, classes in CURVES.items():
        for draw, part in both_recipes(metric).groupby("draw"):
            if len(part) < 2:
                continue
            first, last = part.iloc[0], part.iloc[-1]
            change = last.gain - first.gain
            half = (first.gain_ci95**2 + last.gain_ci95**2) ** 0.5
            told.append(
                f"on {classes} the report's training gains {last.report - first.report:.1f} points from "
                f"{first.learned} to {last.learned} classes (draw {draw}) and the longer one "
                f"{last.longer - first.longer:.1f}, which is **{signed(change)} ± {half:.1f}**"
            )
    if not told:
        raise ResultsError(f"A slope takes two splits; run `python -m siamese_utils sweep --recipe {LONGER}`.")
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}."
