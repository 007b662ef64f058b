"""What longer trainings reach on 90-10, draw by draw: a table, a sentence, and a row of the headline.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, signed
from siamese_utils.experiments.study import recorded_core_minutes
from siamese_utils.studies.ensembles.draws import CLASS_DRAWS, DRAWS, NETWORKS, SPLIT
from siamese_utils.studies.ensembles.test_time import SHIFTS
from siamese_utils.studies.splits.study import SPLIT_SWEEP, split_run

AS_IT_IS, SHIFTED = SHIFTS
BASIS, *_LONG, _TOGETHER = NETWORKS
WAYS = ((BASIS, AS_IT_IS), *((networks, AS_IT_IS) for networks in _LONG), (_TOGETHER, SHIFTED))
"""Groups of networks and their views that are told in a figure and a sentence; the table has all."""
_SHOWN = {BASIS: "the report's", _TOGETHER: "one of each"}


@dataclass(frozen=True)
class OverDraws:
    """One metric of one way to judge, on the class draws that are stored.

    Attributes:
        of: the estimate of each draw, percent.
        mean: over all draws, its interval over their episodes alone; ``None`` where a draw is missing.
    """

    of: dict[int, Estimate]
    mean: Estimate | None

    @classmethod
    def read(cls, networks: str, views: str, metric: str) -> OverDraws:
        """From the stored table; no draw where none is stored."""
        table = CLASS_DRAWS.table()
        rows = table[(table.networks == networks) & (table.views == views) & (table.metric == metric)]
        of = {int(row.draw): Estimate(row.value, row.ci95, row.n) for row in rows.sort_values("draw").itertuples()}
        return cls(of, mean_of(list(of.values())) if set(of) == set(DRAWS) else None)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of independent estimates: half its interval is the root of the summed squares, through their number."""
    half = math.sqrt(sum(one.ci95**2 for one in estimates)) / len(estimates)
    return Estimate(sum(one.value for one in estimates) / len(estimates), half, sum(one.n for one in estimates))


def draws_table() -> Table:
    """One row a way to judge: accuracy on each draw and on average, and the core-minutes of one draw's networks."""
    rows = []
    for networks in NETWORKS:
        for views in SHIFTS:
            one, five = (OverDraws.read(networks, views, f"acc_5w{shots}s") for shots in (1, 5))
            if not one.of:
                continue
            draws = {
                f"draw {draw}": cell(one.of[draw].value, one.of[draw].ci95) if draw in one.of else "–" for draw in DRAWS
            }
            means = {"mean": _cell(one.mean), "mean, 5-shot": _cell(five.mean)}
            took = {"core-minutes": f"{core_minutes(networks):.0f}"}
            rows.append({"networks": _SHOWN.get(networks, networks), **took, "views": views, **draws, **means})
    caption = (
        f"{SPLIT}: 5-way 1-shot accuracy on the ten unseen classes of each draw, and the means of the draws; percent, "
        "95% intervals over episodes. Core-minutes are those of one draw's networks, on average"
    )
    return Table(pd.DataFrame(rows), caption)


def _cell(estimate: Estimate | None) -> str:
    return "–" if estimate is None else cell(estimate.value, estimate.ci95)


def core_minutes(networks: str) -> float:
    """Processor minutes of the networks of one draw, on average over the draws that are stored."""
    stored = sorted(CLASS_DRAWS.table().query("networks == @networks").draw.unique())
    return sum(_minutes(int(draw), recipe) for draw in stored for recipe in NETWORKS[networks]) / len(stored)


def _minutes(draw: int, recipe: str) -> float:
    return recorded_core_minutes(SPLIT_SWEEP.read_record(split_run(SPLIT, draw, recipe=recipe)))


def way_name(networks: str, views: str) -> str:
    """What a figure calls a way to judge."""
    name = _SHOWN.get(networks, networks)
    return name if views == AS_IT_IS else f"{name}, {views}"


def draws_sentence() -> str:
    """What each long training gains on every draw over the report's, and what they reach together; Markdown."""
    basis, told = OverDraws.read(*WAYS[0], "acc_5w1s"), []
    for networks, views in WAYS[1:]:
        reached = OverDraws.read(networks, views, "acc_5w1s")
        gains = [
            f"{signed(reached.of[draw].value - basis.of[draw].value)} on draw {draw}"
            for draw in reached.of
            if draw in basis.of
        ]
        if not gains:
            continue
        line = f"*{way_name(networks, views)}* {', '.join(gains)}"
        if reached.mean is not None and basis.mean is not None:
            line += f", on average **{_cell(reached.mean)}** (the report's {_cell(basis.mean)})"
        told.append(line)
    if not told:
        raise ResultsError("No longer training is stored yet; run `python -m siamese_utils study class_draws`.")
    return f"Points gained over the report's training, 5-way 1-shot on {SPLIT}: {'; '.join(told)}."
