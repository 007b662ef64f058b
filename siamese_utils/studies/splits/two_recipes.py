"""A longer training for every split: its curve beside the report's, level or slope?

The report's recipe shows as many passes whatever the number of classes, so few images where few classes are learned;
the longer one shows as many images everywhere, and is another recipe too. What is not stored yet raises ResultsError.
"""

from __future__ import annotations

import pandas as pd
from scipy.stats import linregress, t

from siamese_utils.data.splits import SPLIT_NAMES, class_split
from siamese_utils.errors import ResultsError
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, signed
from siamese_utils.studies.splits.findings import rows_of, whole_draws
from siamese_utils.studies.splits.study import split_run
from siamese_utils.training.recipes import DEFAULT_RECIPE, HALF_HOUR_RECIPE

LONGER = HALF_HOUR_RECIPE
SPLITS = ",".join(name for name in SPLIT_NAMES if class_split(name).unseen)
"""Of class draw 0: those that leave classes unseen."""
CURVES = {"acc_5w1s": "each split's own unseen classes", "acc_5w1s_common": "the same ten classes for every split"}
"""What the unseen classes of each metric are."""
_COLUMNS = {"acc_5w1s": "own unseen classes", "acc_5w1s_common": "the same ten classes"}
_COMMAND = f"python -m siamese_utils sweep --draws 0 --splits {SPLITS} --recipe {LONGER}"


def both_recipes(metric: str) -> pd.DataFrame:
    """A metric by both recipes, one row a split and class draw that is stored of both.

    Columns: ``split``, ``learned``, ``draw``; ``report`` and ``longer`` (percent), ``report_ci95`` and ``longer_ci95``
    (over episodes); ``gain`` (points).
    """
    of = {}
    for name, recipe in (("report", DEFAULT_RECIPE), ("longer", LONGER)):
        rows = rows_of(metric, recipe)[["split", "learned", "draw", "value", "ci95"]]
        of[name] = rows.rename(columns={"value": name, "ci95": f"{name}_ci95"})
    table = of["report"].merge(of["longer"], on=["split", "learned", "draw"])
    if table.empty:
        raise ResultsError(f"No split is stored by both recipes; run `{_COMMAND}`.")
    return table.assign(gain=table.longer - table.report).sort_values(["draw", "learned"], ignore_index=True)


def of_one_curve(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of the class draws that have every split of the table; of the first draw, where none has."""
    return whole if len(whole := whole_draws(table)) else table[table.draw == table.draw.min()]


def level_or_slope_table() -> Table:
    """One row a split and class draw: images shown by both recipes, and what they reach on either unseen classes."""
    rows = None
    for metric, words in _COLUMNS.items():
        found = both_recipes(metric)
        shown = found[["split", "draw"]].copy()
        for name, of in (("report", DEFAULT_RECIPE), ("longer", LONGER)):
            shown[f"{words}, {of}"] = list(map(cell, found[name], found[f"{name}_ci95"]))
        shown[f"{words}, gain"] = list(map(signed, found.gain))
        rows = shown if rows is None else rows.merge(shown, on=["split", "draw"])
    images = [
        " / ".join(f"{split_run(row.split, row.draw, recipe=of).images / 1e6:.2f}" for of in (DEFAULT_RECIPE, LONGER))
        for row in rows.itertuples()
    ]
    rows.insert(2, "images, millions", images)
    caption = (
        f"5-way 1-shot accuracy in percent, 95% intervals over episodes; one training each. Images shown by "
        f"{DEFAULT_RECIPE} / {LONGER}"
    )
    return Table(rows, caption)


def level_or_slope_sentence() -> str:
    """How much the longer training gains on average, and how much more with more classes, draw by draw; Markdown."""
    told, single = [], []
    for metric, classes in CURVES.items():
        for draw, part in both_recipes(metric).groupby("draw"):
            if len(part) < 2:
                (row,) = part.itertuples()
                single.append(f"{signed(row.gain)} on {classes} with {row.learned} classes learned (draw {draw})")
                continue
            least, most = part.loc[part.gain.idxmin()], part.loc[part.gain.idxmax()]
            told.append(
                f"on {classes} the longer training gains **{signed(part.gain.mean())} points** on average over "
                f"{len(part)} splits (draw {draw}), least with {least.learned} classes learned "
                f"({signed(least.gain)}) and most with {most.learned} ({signed(most.gain)}); along a straight line "
                f"{steepness(part)} more with every ten classes"
            )
    if not told:
        raise ResultsError(f"A slope takes two splits; run `{_COMMAND}`.")
    text = "; ".join(told)
    alone = f" One split alone is stored of these: {', '.join(single)}." if single else ""
    return f"{text[0].upper()}{text[1:]} (least squares; splits share classes and are no independent draws).{alone}"


def seen_sentence() -> str:
    """How well either network knows the classes that it learned: pairs of their test images; Markdown."""
    found = both_recipes("pair_acc_seen")
    told = []
    for draw, part in found.groupby("draw"):
        of = [f"with {row.learned} classes {row.report:.1f} and {row.longer:.1f}" for row in part.itertuples()]
        told.append(f"{', '.join(of)} (draw {draw})")
    return (
        "Pairs of images of *learned* classes called right by the report's network and by the longer one, percent: "
        f"{'; '.join(told)}."
    )


def steepness(both: pd.DataFrame) -> str:
    """How many points more the longer training gains with every ten classes learned, by least squares.

    Args:
        both: two rows of ``both_recipes`` or more.

    Returns:
        the slope with its 95% interval by Student's t, which takes the splits as independent and needs three of them.
    """
    fit = linregress(both.learned / 10, both.gain)
    if len(both) < 3:
        return f"{fit.slope:+.2f}"
    return f"{fit.slope:+.2f} ± {t.ppf(0.975, len(both) - 2) * fit.stderr:.2f}"
