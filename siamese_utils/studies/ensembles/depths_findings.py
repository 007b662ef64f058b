"""What two depths of a network bring: a table and a sentence.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, signed
from siamese_utils.studies.ensembles.depths import (
    ALL,
    DEEP,
    DRAW_OF,
    LONG_AND_SHORT,
    OWN,
    PARTS,
    TOGETHER,
    TWO_DEPTHS,
    groups,
    recipes_alone,
)
from siamese_utils.studies.ensembles.draws import DRAWS, SPLIT
from siamese_utils.studies.ensembles.draws_findings import SHIFTED, mean_of
from siamese_utils.training.recipes import DEFAULT_RECIPE, HALF_HOUR_RECIPE, LONG_RECIPES

_CLASSES = (*PARTS, SPLIT)
CALLED = {LONG_AND_SHORT: "these and the short ones", ALL: "all networks of CIFAR-FS"}
"""What tables call those that are more than the long ones."""
_METRICS = {
    f"{what}, {shots}-shot": (features, f"{metric}_5w{shots}s")
    for shots in (1, 5)
    for what, features, metric in ((OWN, OWN, "acc"), (DEEP, DEEP, "acc"), ("gain", DEEP, "gain"))
}
"""Features and metric of each column of the table."""


def _rows() -> pd.DataFrame:
    """The stored rows, with the classes and the recipe that each is about."""
    table = TWO_DEPTHS.table()
    table["classes"] = table.task.where(~table.task.isin(DRAW_OF), SPLIT)
    table["recipe"] = table.networks.map(recipes_alone()).fillna(table.networks)
    return table


def _stored() -> pd.DataFrame:
    """The same, without those of 90-10 where a draw is missing."""
    table = _rows()
    draws = table[table.classes == SPLIT].task.nunique()
    if (found := table[(table.classes != SPLIT) | (draws == len(DRAWS))]).empty:
        raise ResultsError("Two depths are not stored on any classes; run `python -m siamese_utils study two_depths`.")
    return found


def _over_seeds_or_draws(rows: pd.DataFrame) -> Estimate:
    """One metric of one recipe: the mean over seeds, which are judged in the same episodes, or over draws."""
    if (rows.classes == SPLIT).all():
        return mean_of([Estimate(row.value, row.ci95, row.n) for row in rows.itertuples()])
    return Estimate(rows.value.mean(), rows.ci95.mean(), int(rows.n.iloc[0]))


def depths_table() -> Table:
    """One row a recipe, classes and views: accuracy by the own features and by two depths, and the gain."""
    rows = []
    for (classes, recipe, views), found in _stored().groupby(["classes", "recipe", "views"], sort=False):
        many = found.task.nunique() if classes == SPLIT else found.networks.nunique()
        row = {"classes": classes, "networks": CALLED.get(recipe, recipe), "of": str(many), "views": views}
        for column, (features, metric) in _METRICS.items():
            one = _over_seeds_or_draws(found[(found.features == features) & (found.metric == metric)])
            if features == OWN:
                row[column] = f"{one.value:.1f}"
            else:
                row[column] = f"{signed(one.value)} ± {one.ci95:.1f}" if "gain" in metric else cell(one.value, one.ci95)
        rows.append(row)
    caption = (
        "5-way accuracy on unseen classes, percent, by the networks' own features and by two depths of them; the gain "
        f"in the same episodes; means of as many seeds, or draws of {SPLIT}. Validation and test classes are "
        "CIFAR-FS's; 95% intervals over episodes, which are as wide for the own features"
    )
    return Table(pd.DataFrame(rows), caption)


def _gains(table: pd.DataFrame) -> pd.DataFrame:
    return table[(table.views == SHIFTED) & table.metric.str.startswith("gain")]


def depths_sentence() -> str:
    """What two depths bring over shifted views: a long network, all of these, a shorter one of a recipe; Markdown."""
    gains = _gains(_stored())
    of = gains.recipe.map(dict.fromkeys(LONG_RECIPES, "one long network")).fillna(gains.recipe).rename("of")
    means = gains.groupby([of, "classes", "metric"]).value.mean().unstack("metric")
    told = []
    for networks in ("one long network", TOGETHER, HALF_HOUR_RECIPE, DEFAULT_RECIPE):
        clauses = [
            f"{' and '.join(map(signed, means.loc[(networks, classes)]))} on {classes}"
            for classes in _CLASSES
            if (networks, classes) in means.index
        ]
        if clauses:
            told.append(f"{networks} {', '.join(clauses)}")
    return f"Points that two depths bring over shifted views, at one and at five shots: **{'; '.join(told)}**."


def more_sentence() -> str:
    """What more networks beside the four long ones bring on the validation classes, over shifted views; Markdown."""
    table = _rows().query("task == @PARTS[0] and views == @SHIFTED and features == @DEEP")
    told = []
    for networks, called in {TOGETHER: "the long ones", **CALLED}.items():
        rows = table[table.networks == networks].set_index("metric")
        if "acc_5w1s" in rows.index:
            one, five = (cell(row.value, row.ci95) for row in rows.loc[["acc_5w1s", "acc_5w5s"]].itertuples())
            told.append(f"{called} ({len(groups(PARTS[0])[networks])}) **{one}** and **{five}**")
    if len(told) < 2:
        raise ResultsError(f"No more networks are judged; run `python -m siamese_utils study {TWO_DEPTHS.name}`.")
    return (
        "Together on the validation classes, at two depths over shifted views, with one example and with five: "
        f"{', '.join(told)}."
    )


def draw_gains_sentence() -> str:
    """The same on each class draw of 90-10; Markdown."""
    gains = _gains(_rows().query("classes == @SPLIT"))
    if gains.empty:
        raise ResultsError(
            f"Two depths are stored on no draw of {SPLIT}; run `python -m siamese_utils study two_depths`."
        )
    told = []
    for recipe, rows in gains.groupby("recipe", sort=False):
        each = rows.pivot_table(index="task", columns="metric", values="value")
        draws = ", ".join(f"{' and '.join(map(signed, each.loc[task]))} on draw {DRAW_OF[task]}" for task in each.index)
        told.append(f"*{recipe}* {draws}")
    return f"Draw by draw, at one and at five shots: {'; '.join(told)}."
