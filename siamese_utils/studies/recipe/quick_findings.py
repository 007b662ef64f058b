"""What the search for a quick recipe found. What is not stored yet raises ResultsError."""

from __future__ import annotations

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import Paired, describe_change, over_seeds
from siamese_utils.studies.networks.study import SEEDS
from siamese_utils.studies.recipe.quick import BASE, IMAGES, QUICK_SEARCH
from siamese_utils.studies.validation import trial_runs

MEASURE = "quick"


def gains() -> dict[str, Paired]:
    """By trial, points of 5-way 1-shot accuracy more than the recipe has from the same seeds.

    Raises:
        ResultsError: the recipe's own training is not stored.
    """
    table = QUICK_SEARCH.table()
    values = table[table.metric == "acc_5w1s"].pivot(index="seed", columns="trial", values="value")
    if MEASURE not in values:
        raise ResultsError(f"The trial {MEASURE} is not stored; run `python -m siamese_utils study quick_search`.")
    differences = values.drop(columns=MEASURE).sub(values[MEASURE], axis=0)
    return {str(name): Paired.of(some.dropna()) for name, some in differences.items() if some.notna().any()}


def quick_table() -> Table:
    """One row a trial: what was changed and expected, its accuracy over the seeds, and what it gains."""
    table, gained, rows = QUICK_SEARCH.table(), gains(), []
    one, five, minutes = (
        over_seeds(table, metric, ["trial"]).set_index("trial") for metric in ("acc_5w1s", "acc_5w5s", "core_minutes")
    )
    for name, run in trial_runs(QUICK_SEARCH).items():
        if name not in one.index:
            continue
        rows.append(
            {
                "trial": name,
                "change": describe_change(run.config, BASE),
                "expected": run.expectation,
                "5-way 1-shot": f"{one['mean'][name]:.1f}",
                "5-way 5-shot": f"{five['mean'][name]:.1f}",
                "gain": str(gained.get(name, "")),
                "core-minutes": f"{minutes['mean'][name]:.2f}",
            }
        )
    seeds = table.seed.nunique()
    caption = (
        f"{IMAGES:,} images each: percent on CIFAR-FS's validation classes, mean of {seeds} seeds of "
        f"{len(SEEDS)}; gain at one shot over the recipe from the same seeds, 95% intervals over seeds"
    )
    return Table(pd.DataFrame(rows), caption)


def quick_sentence() -> str:
    """Which trial learns most from so few images, and what it gains over the recipe; Markdown."""
    gained, table = gains(), QUICK_SEARCH.table()
    best = max(gained, key=lambda name: gained[name].mean)
    mean = over_seeds(table, "acc_5w1s", ["trial"]).set_index("trial")["mean"]
    clear = ", ".join(f"*{name}*" for name, gain in gained.items() if gain.mean > 0 and gain.is_clear)
    told = f" Gains that are larger than their intervals: {clear}." if clear else ""
    return (
        f"From {IMAGES:,} images the recipe as it is reaches {mean[MEASURE]:.1f} percent at one shot, and the best, "
        f"*{best}*, **{mean[best]:.1f}**, a difference of {gained[best]} ({gained[best].seeds_told}).{told}"
    )
