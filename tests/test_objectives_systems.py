"""Systems trained by triplets to the end: what they are, that they are stored once, and what the table says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tiny import TINY

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split
from siamese_utils.encoders.checkpoints import checkpoint_info
from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.audit import audit
from siamese_utils.experiments.study import Bench, complete, run_study
from siamese_utils.studies.objectives import systems
from siamese_utils.studies.objectives.systems import TRIPLET_SYSTEMS
from siamese_utils.studies.splits.study import SPLIT_SWEEP, split_run
from siamese_utils.training import recipes


def test_systems_differ_from_the_recipe_in_the_objective_alone() -> None:
    base = recipes.recipe(recipes.DEFAULT_RECIPE)
    assert systems.SYSTEMS.keys() >= {recipes.DEFAULT_RECIPE, "muon-triplet", "muon-proxy-then-triplet"}
    for name in systems.SYSTEMS:
        config = recipes.recipe(name)
        assert dataclasses.replace(config, recipe=base.recipe, terms=base.terms) == base
        last = [term.objective for term in config.terms if term.end == 1.0]
        assert "triplet" in last and (name == base.recipe or last == ["triplet"])


def test_systems_are_trained_beside_the_sweep_and_hold_in_the_audit(
    hundred: tuple[ImageSet, ImageSet], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "results" / "seed_reference.csv").write_text(
        "split,metric,value,ci95,source\n90-10,acc_5w1s,62.18,0.4,measured\n90-10,pair_auc_unseen,84.5,,measured\n"
    )
    for name in systems.SYSTEMS:
        monkeypatch.setitem(recipes.RECIPES, name, dataclasses.replace(TINY, recipe=name))
    with pytest.raises(ResultsError):
        systems.systems_table()
    bench = Bench.of(*hundred, device="cpu", progress=False)
    for _ in run_study(SPLIT_SWEEP, [split_run("90-10")], bench):
        pass
    swept = SPLIT_SWEEP.table()
    table = complete(TRIPLET_SYSTEMS, bench)
    assert set(table.recipe) == {"muon-triplet", "muon-proxy-then-triplet"}
    assert SPLIT_SWEEP.table().equals(swept)  # the sweep's rows and checkpoint are its own
    assert set(store.read_table(project / "results" / "growth.csv").recipe) == {recipes.DEFAULT_RECIPE}
    for run in TRIPLET_SYSTEMS.runs():
        path = TRIPLET_SYSTEMS.checkpoint_path(run)
        assert path is not None
        info = checkpoint_info(path)
        assert info["recipe"] == run.key["recipe"] and not set(info["classes"]) & set(class_split("90-10", 0).unseen)
        assert TRIPLET_SYSTEMS.read_record(run)["recipe"] == run.key["recipe"]
    found = audit([TRIPLET_SYSTEMS], bench)
    assert len(found) == len(table) and set(found.verdict) == {"holds"}

    shown = systems.systems_table().set_index("trained by")
    assert len(shown) == 4
    for name, what in systems.SYSTEMS.items():
        row = store.result(systems.stored_systems(), recipe=name, metric="acc_5w1s")
        assert shown.acc_5w1s[what] == f"{row.value:.1f} ± {row.ci95:.1f}"
    assert shown.iloc[-1][["acc_5w1s", "pair_auc_unseen", "acc_5w5s"]].tolist() == ["62.2 ± 0.4", "84.5", "–"]
