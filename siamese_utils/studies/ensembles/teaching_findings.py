"""What the four long networks of CIFAR-FS teach another: a table and a sentence.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import Paired, cell
from siamese_utils.experiments.study import Run
from siamese_utils.studies.ensembles.cifar_fs import record_name
from siamese_utils.studies.ensembles.teaching import ALONE, TEACHERS, TEACHING, WEIGHTS

_NAMES = {
    TEACHERS: "the four teachers together",
    ALONE: "half an hour of one core, not taught",
    **{trial: f"the same, taught with weight {weight:g}" for trial, weight in WEIGHTS.items()},
}


def teaching_table() -> Table:
    """One row a network that is stored: what its training took and came to, and accuracy on the validation classes."""
    table, rows = TEACHING.table(), []
    for run in TEACHING.runs():
        trial, seed = run.key["trial"], run.key["seed"]
        found = table[(table.trial == trial) & (table.seed == seed)].set_index("metric")
        if found.empty:
            continue
        reached = {
            f"5-way {shots}-shot": cell(found.value[f"acc_5w{shots}s"], found.ci95[f"acc_5w{shots}s"])
            for shots in (1, 5)
        }
        took = {"core-minutes": f"{found.value.core_minutes:.0f}", "images": f"{found.value.images / 1e6:.2f}"}
        told = {"network": _NAMES[trial], "seed": "–" if trial == TEACHERS else str(seed)}
        rows.append({**told, **took, "classes / turns told right": _told_right(run), **reached})
    caption = (
        "CIFAR-FS: accuracy on the validation classes in percent, 95% intervals over episodes. Images in millions; "
        "core-minutes of a taught network are its own, without its teachers', on a processor that is not always as "
        "fast. Told right: percent of the training images as they were shown in the last epoch, by class and by turn"
    )
    return Table(pd.DataFrame(rows), caption)


def _told_right(run: Run) -> str:
    """How well a network came to tell classes and turns of what it learns from, by the record of its training."""
    if run.key["trial"] == TEACHERS:
        return "–"
    if run.key["trial"] == ALONE:
        ((name, seed),) = run.settings["networks"]
        record = store.load_json(record_name(seed, name))
    else:
        record = TEACHING.read_record(run)
    last = record["history"][-1]
    return " / ".join(f"{100 * last[name]:.0f}" for name in ("proxy_accuracy", "rotation_accuracy"))


def teaching_sentence() -> str:
    """What the lesson brings, against the network that is not taught and starts from the same seed; Markdown."""
    values = TEACHING.table().pivot_table(index=["trial", "seed"], columns="metric", values="value")
    stored = values.index.unique("trial")
    if not {TEACHERS, ALONE} <= set(stored):
        raise ResultsError("Nothing to compare with is stored yet; run `python -m siamese_utils study teaching`.")
    values = values[["acc_5w1s", "acc_5w5s"]]
    plain, teachers = values.loc[ALONE], values.loc[TEACHERS].iloc[0]
    told = []
    for trial, weight in WEIGHTS.items():
        if trial in stored and len(gain := (values.loc[trial] - plain).dropna()):
            one, five = (Paired.of(gain[metric]) for metric in ("acc_5w1s", "acc_5w5s"))
            told.append(f"with weight {weight:g} {one} and {five} ({one.seeds_told})")
    ahead = (teachers - plain).mean()
    lead = (
        f"The teachers are {ahead.acc_5w1s:.1f} points ahead of the network that is not taught at one shot and "
        f"{ahead.acc_5w5s:.1f} at five."
    )
    return f"{lead} Points that the lesson brings: **{', '.join(told)}**." if told else lead
