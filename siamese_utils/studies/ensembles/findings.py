"""What ensembles found: numbers by members, a sentence, and the comparison with published results on CIFAR-FS.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.studies.ensembles import cifar_fs
from siamese_utils.studies.ensembles.cifar_fs import CIFAR_FS
from siamese_utils.studies.ensembles.study import ENSEMBLES, MEMBERS, TOGETHER, record_name
from siamese_utils.system.project import results_dir
from siamese_utils.training.recipes import DEFAULT_RECIPE

PUBLISHED_COLUMNS = ("method", "encoder", "acc_5w1s", "acc_5w5s", "source")


def by_members(task: str, metric: str = "acc_5w1s", recipe_name: str = DEFAULT_RECIPE) -> pd.DataFrame:
    """One row a number of members: ``members``, ``together``, ``ci95``, ``alone`` (the last) and ``minutes``.

    ``minutes`` are those of all trainings so far, on one thread: a training on two threads counts twice.
    """
    table = ENSEMBLES.table()
    table = table[(table.task == task) & (table.recipe == recipe_name)]
    rows, minutes = [], 0.0
    for seed in sorted(table.seed.unique()):
        record = store.load_json(record_name(task, seed, recipe_name))
        minutes += record["seconds"] * record["provenance"]["threads"] / 60
        together = store.result(table, seed=seed, metric=metric + TOGETHER)
        alone = store.result(table, seed=seed, metric=metric)
        rows.append(
            {
                "members": seed + 1,
                "together": together.value,
                "ci95": together.ci95,
                "alone": alone.value,
                "minutes": minutes,
            }
        )
    return pd.DataFrame(rows)


def published() -> pd.DataFrame:
    """Results of others on CIFAR-FS, 5-way, percent, with the columns ``PUBLISHED_COLUMNS``."""
    return store.read_table(results_dir() / "cifar_fs_published.csv", PUBLISHED_COLUMNS)


def gain_sentence(task: str) -> str:
    """What the ensemble of a task brings over its members alone, and how long they trained."""
    rows = by_members(task)
    if len(rows) < 2:
        raise ResultsError(f"No ensemble of {task} is stored yet; run `python -m siamese_utils ensemble {task}`.")
    last, alone = rows.iloc[-1], rows.alone
    where = "On CIFAR-FS's test classes" if task == "cifar-fs" else f"On the unseen classes of {task} (draw 0)"
    text = (
        f"{where} the members alone reach {alone.min():.1f} to {alone.max():.1f}, on average {alone.mean():.1f}; "
        f"{last.members:.0f} together **{last.together:.1f} ± {last.ci95:.1f}**, {last.together - alone.mean():+.1f} "
        f"points. Their trainings took {last.minutes / 2:.0f} minutes of two processor cores."
    )
    metric, what = ("acc_5w5s", "5-way 5-shot") if task == "cifar-fs" else ("acc_allway_1s", "1-shot among all ten")
    more = by_members(task, metric)
    return (
        f"{text} {what[0].upper()}{what[1:]}: {more.alone.mean():.1f} on average, together "
        f"**{more.together.iloc[-1]:.1f} ± {more.ci95.iloc[-1]:.1f}**."
    )


def field_table() -> Table:
    """CIFAR-FS: this project's networks beside published ones, by 1-shot accuracy; 5-way, percent."""
    ours = store.of_one_recipe(CIFAR_FS.table(), CIFAR_FS.path)
    one, five = (ours[ours.metric == f"acc_5w{shots}s"].sort_values("seed") for shots in (1, 5))
    rows = [
        {
            "method": f"{row.method}, {row.encoder}",
            "5-way 1-shot": f"{row.acc_5w1s:.1f}",
            "5-way 5-shot": f"{row.acc_5w5s:.1f}",
            "source": row.source.split(", arXiv")[0],
            "order": row.acc_5w1s,
        }
        for row in published().itertuples()
    ]
    record = store.load_json(cifar_fs.record_name(int(one.seed.iloc[0]), str(one.recipe.iloc[0])))
    encoder = record["config"]["encoder"]
    singles = f"mean of {len(one)} seeds" if len(one) > 1 else "one seed"
    rows.append(
        _ours(f"one {encoder}, {singles}", one.value.mean(), one.ci95.mean(), five.value.mean(), five.ci95.mean())
    )
    together = [by_members("cifar-fs", f"acc_5w{shots}s") for shots in (1, 5)]
    if len(together[0]) > 1:
        first, second = (rows_.iloc[-1] for rows_ in together)
        rows.append(
            _ours(f"{first.members:.0f} of these together", first.together, first.ci95, second.together, second.ci95)
        )
    table = pd.DataFrame(rows).sort_values("order", kind="stable").drop(columns="order")
    caption = "5-way accuracy on CIFAR-FS's test classes in percent, 95% intervals over episodes; others as published"
    return Table(table.reset_index(drop=True), caption)


def _ours(what: str, one: float, one_ci: float, five: float, five_ci: float) -> dict[str, object]:
    return {
        "method": what,
        "5-way 1-shot": f"{one:.1f} ± {one_ci:.1f}",
        "5-way 5-shot": f"{five:.1f} ± {five_ci:.1f}",
        "source": "this report",
        "order": one,
    }


def gain_sentences() -> str:
    """The sentences of all tasks, one paragraph each.

    Raises:
        ResultsError: see ``gain_sentence``.
    """
    return "\n\n".join(gain_sentence(task) for task in MEMBERS)
