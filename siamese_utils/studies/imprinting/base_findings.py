"""What the trials of the base network found, and what it is now; what is not stored yet raises ResultsError."""

from __future__ import annotations

import dataclasses

import pandas as pd

from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, describe_change
from siamese_utils.experiments.store import load_json, result
from siamese_utils.experiments.study import Run, recorded_core_minutes
from siamese_utils.studies.imprinting.base import BASE
from siamese_utils.studies.imprinting.base_trials import IMPRINTING_BASE_TRIALS
from siamese_utils.studies.imprinting.bases import FIRST, IMPRINTING_BASES, PRICES
from siamese_utils.studies.imprinting.findings import SHOTS, Numbers, heading
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.recipes import recipe


def base_trials_table() -> Table:
    """Every trial of the base network that is stored: what was changed, expected and found."""
    table, runs = IMPRINTING_BASE_TRIALS.table(), IMPRINTING_BASE_TRIALS.runs()
    rows = []
    for run in _stored_runs():
        right, minutes = (result(table, **run.key, metric=metric) for metric in ("acc_held_out", "core_minutes"))
        change = describe_change(run.config, dataclasses.replace(runs[0].config, seed=run.config.seed))
        rows.append(
            {
                **run.key,
                "change": change,
                "expected": run.expectation,
                "named right (%)": cell(right.value, right.ci95),
                "core-minutes": f"{minutes.value:.0f}",
            }
        )
    caption = "Trainings of the base network: training images of the 40 classes that were held out, nearest class mean"
    return Table(pd.DataFrame(rows), caption)


def base_sentence() -> str:
    """What the base network was trained with, for how long, and how well it names its classes."""
    record, planned = load_json("imprinting-base"), len(IMPRINTING_BASE_TRIALS.runs())
    right, plain = Numbers.stored().base("plain").value, recipe(record["recipe"])
    change = describe_change(TrainConfig.from_json(record["config"]), dataclasses.replace(plain, seed=record["seed"]))
    changed = "" if change == "–" else f" ({change})"
    return (
        f"The base network is trained by the recipe `{plain.recipe}`{changed} in {recorded_core_minutes(record):.0f} "
        f"core-minutes and names {right:.1f}% of the test images of its 40 classes right. Stored of the trials so far: "
        f"{len(_stored_runs())} of {planned}."
    )


_HOW = {
    "plain": "its 40 classes",
    "whitened": "its 40 classes, whitened",
    "shifted": "its 40 classes, whitened, over shifted views too",
}


def bases_table() -> Table:
    """The first base network and the present one: what they took, name right, and have room for."""
    table, columns = IMPRINTING_BASES.table(), {FIRST: "first base", BASE: "present base"}
    records = {name: load_json(name) for name in columns}
    rows: list[dict[str, str]] = [
        {"": "encoder", **{columns[name]: record["config"]["encoder"] for name, record in records.items()}},
        {
            "": "core-minutes of training",
            **{columns[name]: f"{recorded_core_minutes(record):.0f}" for name, record in records.items()},
        },
    ]

    def row(what: str, gain: str = "", **key: object) -> dict[str, str]:
        found = {called: result(table, base=name, **key) for name, called in columns.items()}
        return {"": what, **{called: cell(one.value, one.ci95) for called, one in found.items()}, "gain": gain}

    rows += [row(what, metric=f"old_acc_{how}") for how, what in _HOW.items()]
    rows += [
        row(
            f"new class, {heading(k)}, for {price:g} point{'s' * (price > 1)}",
            _gain(table, k, price),
            metric="novel_acc",
            shots=k,
            loss=price,
        )
        for price in PRICES
        for k in SHOTS
    ]
    caption = (
        "Two base networks: test images of their 40 classes that are named right, and of a class that is added, "
        "whitened, for points of old accuracy; percent, 95% intervals over images and over classes. Gains are class by "
        "class"
    )
    return Table(pd.DataFrame(rows).fillna(""), caption)


def _gain(table: pd.DataFrame, shots: int, price: float) -> str:
    found = result(table, metric="gain", shots=shots, loss=price)
    return f"{found.value:+.1f} ± {found.ci95:.1f}"


def bases_sentence() -> str:
    """What the present base network brings a new class beyond the first, class by class."""
    table = IMPRINTING_BASES.table()
    gains = [", ".join(f"{_gain(table, k, price)} with {k}" for k in SHOTS) for price in PRICES]
    first, now = (result(table, base=name, metric="old_acc_plain").value for name in (FIRST, BASE))
    return (
        f"Named right of the old classes: {now:.1f}%, where the first base had {first:.1f}%. What that brings a new "
        f"class, in points, class by class: for one point of old accuracy {gains[0]}; for four {gains[1]}."
    )


def _stored_runs() -> list[Run]:
    table = IMPRINTING_BASE_TRIALS.table()
    there = set(zip(table.trial, table.seed, strict=True))
    return [run for run in IMPRINTING_BASE_TRIALS.runs() if (run.key["trial"], run.key["seed"]) in there]
