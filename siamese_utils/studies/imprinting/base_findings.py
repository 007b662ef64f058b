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
    return (
        f"The base network is trained by the recipe `{plain.recipe}` ({change}) in {recorded_core_minutes(record):.0f} "
        f"core-minutes and names {right:.1f}% of the test images of its 40 classes right. Stored of the trials so far: "
        f"{len(_stored_runs())} of {planned}."
    )


_HOW = {"plain": "its 40 classes", "whitened": "whitened", "shifted": "shifted views too"}


def bases_table() -> Table:
    """The first base network and the present one: what they took, name right, and have room for."""
    table, rows = IMPRINTING_BASES.table(), []
    for name, called in ((FIRST, "the first"), (BASE, "the present one")):
        record, own = load_json(name), table[table.base == name]
        config = TrainConfig.from_json(record["config"])
        right = {how: result(own, metric=f"old_acc_{how}") for how in ("plain", "whitened", "shifted")}
        novel = {(k, price): result(own, metric="novel_acc", shots=k, loss=price) for price in PRICES for k in SHOTS}
        shown = {
            f"{heading(k)}, {price:g} point{'s' * (price > 1)}": cell(found.value, found.ci95)
            for (k, price), found in novel.items()
        }
        told = {"base network": called, "encoder": config.encoder, "core-minutes": recorded_core_minutes(record)}
        known = {_HOW[how]: cell(found.value, found.ci95) for how, found in right.items()}
        rows.append({**told, **known, **shown})
    frame = pd.DataFrame(rows)
    frame["core-minutes"] = frame["core-minutes"].round().astype(int)
    caption = (
        "Two base networks: test images of their 40 classes that are named right, and of a class that is added, for so "
        "many points of old accuracy, whitened; percent, 95% intervals over images and over classes"
    )
    return Table(frame, caption)


def bases_sentence() -> str:
    """What the present base network brings a new class beyond the first, class by class."""
    table = IMPRINTING_BASES.table()

    def gain(shots: int, price: float) -> str:
        found = result(table, metric="gain", shots=shots, loss=price)
        return f"{found.value:+.1f} ± {found.ci95:.1f} with {shots}"

    gains = [", ".join(gain(k, price) for k in SHOTS) for price in PRICES]
    first, now = (result(table, base=name, metric="old_acc_plain").value for name in (FIRST, BASE))
    return (
        f"Named right of the old classes: {now:.1f}%, where the first base had {first:.1f}%. What that brings a new "
        f"class, in points, class by class: for one point of old accuracy {gains[0]}; for four {gains[1]}."
    )


def _stored_runs() -> list[Run]:
    table = IMPRINTING_BASE_TRIALS.table()
    there = set(zip(table.trial, table.seed, strict=True))
    return [run for run in IMPRINTING_BASE_TRIALS.runs() if (run.key["trial"], run.key["seed"]) in there]
