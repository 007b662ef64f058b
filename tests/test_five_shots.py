"""Trials that may let five examples tell more: what they change, what they are compared with and what is told."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from tiny import TINY

from siamese_utils.data.images import ImageSet
from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench, complete, select, stored
from siamese_utils.studies.ensembles import cifar_fs, five_shots, five_shots_findings, half_hour
from siamese_utils.studies.ensembles.five_shots import FIVE_SHOTS, TRIALS
from siamese_utils.training import recipes


def test_a_trial_changes_what_it_names_and_nothing_else() -> None:
    base = cifar_fs.cifar_fs_run(1, recipes.HALF_HOUR_RECIPE).config.to_json()
    changed = {}
    for trial in TRIALS:
        config = five_shots.config_of(trial, 1).to_json()
        assert config["recipe"] == f"muon-manifold-short-{trial}"
        names = config.keys() | base.keys()
        changed[trial] = {name for name in names if config.get(name) != base.get(name)} - {"recipe"}
    assert changed == {"softmax": {"terms"}, "head": {"head_width"}, "crops": {"augment"}, "proxies": {"terms"}}
    softmax, proxies = (five_shots.config_of(trial, 0).terms for trial in ("softmax", "proxies"))
    assert [(term.objective, term.smoothing) for term in softmax] == [("linear", 0)]
    assert [term.objective for term in proxies] == ["proxy"]
    assert five_shots.config_of("crops", 0).augment == dataclasses.replace(recipes.JITTER, smallest_crop=0.4)


def test_trials_are_trained_and_judged_beside_the_recipe(
    hundred: tuple[ImageSet, ImageSet], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    terms = recipes.recipe(recipes.HALF_HOUR_RECIPE).terms
    monkeypatch.setitem(recipes.RECIPES, "tiny", dataclasses.replace(TINY, terms=terms, **recipes.ROTATION))
    monkeypatch.setattr(half_hour, "HALF_HOUR_RECIPE", "tiny")
    bench = Bench.of(*hundred, device="cpu", progress=False)
    runs = select(FIVE_SHOTS, only=["alone", "softmax", "proxies"], seeds=[0])
    assert [run.label for run in runs] == ["alone-seed0", "softmax-seed0", "proxies-seed0"]
    assert not any(run.built_on for run in runs[1:])
    table = complete(FIVE_SHOTS, bench, runs)
    assert all(stored(FIVE_SHOTS, run) == "yes" for run in runs)
    assert cifar_fs.checkpoint_path(0, "tiny").is_file()  # trained where it was missing
    values = table.set_index(["trial", "seed", "metric"]).value
    assert len(values) == 3 * 4 and len({values[trial, 0, "acc_5w5s"] for trial in values.index.unique("trial")}) == 3
    assert values["alone", 0, "images"] == values["softmax", 0, "images"] == runs[1].images
    assert "linear_accuracy" in FIVE_SHOTS.read_record(runs[1])["history"][-1]

    shown = five_shots_findings.five_shots_table().frame
    names = ["muon-manifold-short", TRIALS["softmax"].what, TRIALS["proxies"].what]
    assert shown.network.tolist() == names
    last = FIVE_SHOTS.read_record(runs[1])["history"][-1]
    right = f"{100 * last['linear_accuracy']:.0f} / {100 * last['rotation_accuracy']:.0f}"
    assert shown["classes / turns told right"][1] == right
    last = store.load_json(cifar_fs.record_name(0, "tiny"))["history"][-1]
    right = f"{100 * last['proxy_accuracy']:.0f} / {100 * last['rotation_accuracy']:.0f}"
    assert shown["classes / turns told right"][0] == right


def test_gains_are_over_the_recipe_with_the_same_seed(project: Path) -> None:
    def put(rows: dict[tuple[str, int], tuple[float, float]]) -> None:
        found = [
            (trial, seed, metric, value, 0.2, 100)
            for (trial, seed), reached in rows.items()
            for metric, value in zip(("acc_5w1s", "acc_5w5s"), reached, strict=True)
        ]
        pd.DataFrame(found, columns=FIVE_SHOTS.all_columns).to_csv(FIVE_SHOTS.path, index=False)

    with pytest.raises(ResultsError, match="study five_shots"):
        five_shots_findings.five_shots_sentence()
    put({("softmax", 0): (60, 75)})
    with pytest.raises(ResultsError, match="Nothing to compare"):
        five_shots_findings.five_shots_sentence()
    put({("alone", 0): (60, 75)})
    with pytest.raises(ResultsError, match="Nothing to compare"):
        five_shots_findings.five_shots_sentence()
    put({("alone", 0): (60, 75), ("alone", 1): (62, 75), ("softmax", 0): (59, 77), ("crops", 1): (62.5, 76)})
    assert five_shots_findings.five_shots_sentence() == (
        f"Points at one shot and at five: **{TRIALS['softmax'].what}: -1.0 and +2.0 (one seed); "
        f"{TRIALS['crops'].what}: +0.5 and +1.0 (one seed)**."
    )
