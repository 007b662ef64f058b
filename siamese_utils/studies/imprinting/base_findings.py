"""What the trials of the base network found, and what it is now; what is not stored yet raises ResultsError."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pandas as pd

from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, describe_change
from siamese_utils.experiments.store import load_json, result
from siamese_utils.experiments.study import Run, recorded_core_minutes
from siamese_utils.studies.imprinting.base import BASE
from siamese_utils.studies.imprinting.base_trials import IMPRINTING_BASE_TRIALS, STRONG
from siamese_utils.studies.imprinting.bases import FIRST, IMPRINTING_BASES, PRICES
from siamese_utils.studies.imprinting.findings import SHOTS, Numbers, heading
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.recipes import recipe


def base_trials_table() -> Sequence[Table | str]:
    """Every trial of the base network that is stored: what was changed, expected and found; and what is common."""
    table, runs = IMPRINTING_BASE_TRIALS.table(), IMPRINTING_BASE_TRIALS.runs()
    configs = {run.key["trial"]: run.config for run in runs}
    first, strong = configs["base"], configs[STRONG]
    rows = []
    for run in _stored_runs():
        right, minutes = (result(table, **run.key, metric=metric) for metric in ("acc_held_out", "core_minutes"))
        known = run.key["trial"].startswith(f"{STRONG}-")
        change = describe_change(run.config, dataclasses.replace(strong if known else first, seed=run.config.seed))
        rows.append(
            {
                **run.key,
                "change": f"{STRONG}; {change}" if known else change,
                "expected": run.expectation,
                "named right (%)": cell(right.value, right.ci95),
                "core-minutes": f"{minutes.value:.0f}",
            }
        )
    caption = "Trainings of the base network: training images of the 40 classes that were held out, nearest class mean"
    told = f"Changes are to the training of the first base; *{STRONG}* stands for {describe_change(strong, first)}."
    return Table(pd.DataFrame(rows), caption), told


def base_sentence() -> str:
    """What the base network was trained with, for how long, and how well it names its classes."""
    record, planned = load_json(BASE), len(IMPRINTING_BASE_TRIALS.runs())
    right, plain = Numbers.stored().base("plain").value, recipe(record["recipe"])
    change = describe_change(TrainConfig.from_json(record["config"]), dataclasses.replace(plain, seed=record["seed"]))
    changed = "" if change == "–" else f" ({change})"
    return (
        f"The base network is trained by the recipe `{plain.recipe}`{changed} in {recorded_core_minutes(record):.0f} "
        f"core-minutes and names {right:.1f}% of the test images of its 40 classes right. Of {planned} trials "
        f"that were planned {len(_stored_runs())} are stored."
    )


_WAYS = {
    "plain": "its 40 classes",
    "whitened": "its 40 classes, whitened",
    "shifted": "its 40 classes, whitened, over shifted views too",
}


def bases_table() -> Table:
    """The first base network and the present one: what they took, name right, and have room for."""
    table, columns = IMPRINTING_BASES.table(), {FIRST: "first base", BASE: "present base"}
    records = {called: load_json(name) for name, called in columns.items()}

    def row(what: str, metric: str, shots: int = 0, price: float = 0.0) -> dict[str, str]:
        key = {"shots": shots, "loss": price}
        found = {called: result(table, base=name, metric=metric, **key) for name, called in columns.items()}
        cells = {called: cell(one.value, one.ci95) for called, one in found.items()}
        return {"": what, **cells, "gain": _gain(table, metric, **key)}

    rows = [
        {"": "encoder", **{called: record["config"]["encoder"] for called, record in records.items()}},
        {"": "core-minutes", **{called: f"{recorded_core_minutes(each):.0f}" for called, each in records.items()}},
        *(row(what, f"old_acc_{way}") for way, what in _WAYS.items()),
        *(
            row(f"new class, {heading(k)}, for {price:g} point{'s' * (price > 1)}", "novel_acc", k, price)
            for price in PRICES
            for k in SHOTS
        ),
    ]
    caption = (
        "Two base networks, one training each: test images of their 40 classes that are named right, and of a class "
        "that is added, whitened, for so many points below the base's own old accuracy; percent, 95% intervals over "
        "images and over classes. Gains in points, image by image and class by class"
    )
    return Table(pd.DataFrame(rows).fillna(""), caption)


def _gain(table: pd.DataFrame, metric: str, **key: object) -> str:
    found = result(table, base=BASE, metric=f"gain_{metric}", **key)
    return f"{found.value:+.1f} ± {found.ci95:.1f}"


def bases_sentence() -> str:
    """How far the present base network is ahead of the first, on its own classes and on one that is added."""
    table = IMPRINTING_BASES.table()
    gains = [", ".join(f"{_gain(table, 'novel_acc', shots=k, loss=price)} with {k}" for k in SHOTS) for price in PRICES]
    best = result(table, base=BASE, metric="old_acc_shifted")
    return (
        f"On its own classes the present base is ahead of the first by {_gain(table, 'old_acc_plain')} points; over "
        f"shifted views it names {cell(best.value, best.ci95)}% of their test images right. On a class that is added "
        f"it is ahead, in points: for one point of old accuracy {gains[0]}; for four {gains[1]}."
    )


def _stored_runs() -> list[Run]:
    table = IMPRINTING_BASE_TRIALS.table()
    there = set(zip(table.trial, table.seed, strict=True))
    return [run for run in IMPRINTING_BASE_TRIALS.runs() if (run.key["trial"], run.key["seed"]) in there]
