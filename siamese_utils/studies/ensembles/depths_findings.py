"""What two depths of a network bring: a table and a sentence.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, signed
from siamese_utils.studies.ensembles.depths import DEEP, OWN, PARTS, TASKS, TOGETHER, TWO_DEPTHS
from siamese_utils.studies.ensembles.draws import DRAWS, SPLIT
from siamese_utils.studies.ensembles.draws_findings import mean_of

_NAMES = {PARTS[0]: "CIFAR-FS, validation", PARTS[1]: "CIFAR-FS, test"}


def _stored() -> pd.DataFrame:
    """Columns value, ci95 and n; rows by task, networks, features and metric."""
    table = TWO_DEPTHS.table()
    if table.empty:
        raise ResultsError("No two depths are stored yet; run `python -m siamese_utils study two_depths`.")
    return table.set_index(["task", "networks", "features", "metric"])[["value", "ci95", "n"]].sort_index()


def _estimate(found: pd.DataFrame, task: str, networks: str, features: str, metric: str) -> Estimate:
    row = found.loc[(task, networks, features, metric)]
    return Estimate(float(row.value), float(row.ci95), int(row.n))


def _asked(found: pd.DataFrame) -> list[tuple[str, str]]:
    """Tasks and networks that are stored, in the study's order."""
    stored = set(found.index.droplevel(["features", "metric"]))
    order = [(str(run.key["task"]), name) for run in TWO_DEPTHS.runs() for name in run.settings["networks"]]
    return [one for one in order if one in stored]


def depths_table() -> Table:
    """One row a task and networks: accuracy by the own features and by two depths, and what the second gains."""
    found, rows = _stored(), []
    for task, networks in _asked(found):
        row = {"classes": _NAMES.get(task, task), "networks": networks}
        for shots in (1, 5):
            for features in (OWN, DEEP):
                one = _estimate(found, task, networks, features, f"acc_5w{shots}s")
                row[f"{features}, {shots}-shot"] = cell(one.value, one.ci95)
            gain = _estimate(found, task, networks, DEEP, f"gain_5w{shots}s")
            row[f"gain, {shots}-shot"] = f"{signed(gain.value)} ± {gain.ci95:.1f}"
        rows.append(row)
    caption = (
        "5-way accuracy on unseen classes, percent, by the networks' own features and by two depths "
        "of them; the gain in the same episodes. 95% intervals over episodes"
    )
    return Table(pd.DataFrame(rows), caption)


def depths_sentence() -> str:
    """What two depths bring one network and several, by task, and what they reach on 90-10; Markdown."""
    found, told = _stored(), []
    asked = _asked(found)
    for of, chosen in (("one network", False), ("the long ones together", True)):
        clauses = []
        for told_as, tasks in (
            ("the validation classes", PARTS[:1]),
            ("the test classes", PARTS[1:]),
            (SPLIT, TASKS[len(PARTS) :]),
        ):
            some = [one for one in asked if one[0] in tasks and (one[1] == TOGETHER) == chosen]
            if some:
                means = [
                    signed(sum(_estimate(found, *one, DEEP, f"gain_5w{shots}s").value for one in some) / len(some))
                    for shots in (1, 5)
                ]
                clauses.append(f"{' and '.join(means)} on {told_as}")
        if clauses:
            told.append(f"{of} {', '.join(clauses)}")
    line = f"Points that two depths bring at one and at five shots, on average: **{'; '.join(told)}**."
    reached = []
    for networks in dict.fromkeys(name for task, name in asked if task not in PARTS):
        tasks = [task for task, name in asked if name == networks and task not in PARTS]
        if len(tasks) == len(DRAWS):
            own, deep = (
                mean_of([_estimate(found, task, networks, features, "acc_5w1s") for task in tasks])
                for features in (OWN, DEEP)
            )
            words = networks.removesuffix(", seed 0")
            reached.append(f"*{words}* {cell(deep.value, deep.ci95)} (its own {cell(own.value, own.ci95)})")
    return f"{line} Means of the draws of {SPLIT} at one shot: {'; '.join(reached)}." if reached else line
