"""Systems trained by triplets to the end: what they are, that they are stored once, and what the table says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split
from siamese_utils.encoders.checkpoints import checkpoint_info
from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store as results
from siamese_utils.studies.audit import Data, audit
from siamese_utils.studies.objectives import systems as triplet_systems
from siamese_utils.studies.splits import stored
from siamese_utils.studies.splits import study as sweep
from siamese_utils.training import recipes
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

TINY = TrainConfig(
    recipe="", terms=(Term("proxy"),), encoder="conv3", embedding_dim=8, epochs=1, batch_size=64, held_out_images=3,
    resolutions=((0.0, 16),),
)  # fmt: skip


def test_systems_differ_from_the_recipe_in_the_objective_alone() -> None:
    base = recipes.recipe(recipes.DEFAULT_RECIPE)
    assert triplet_systems.SYSTEMS.keys() >= {recipes.DEFAULT_RECIPE, "muon-triplet", "muon-proxy-then-triplet"}
    for name in triplet_systems.SYSTEMS:
        config = recipes.recipe(name)
        assert dataclasses.replace(config, recipe=base.recipe, terms=base.terms) == base
        last = [term.objective for term in config.terms if term.end == 1.0]
        assert "triplet" in last and (name == base.recipe or last == ["triplet"])


def test_systems_are_trained_once_and_hold_in_the_audit(
    hundred: tuple[ImageSet, ImageSet], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "results" / "seed_reference.csv").write_text(
        "split,metric,value,ci95,source\n90-10,acc_5w1s,62.18,0.4,measured\n90-10,pair_auc_unseen,84.5,,measured\n"
    )
    for name in triplet_systems.SYSTEMS:
        monkeypatch.setitem(recipes.RECIPES, name, dataclasses.replace(TINY, recipe=name))
    with pytest.raises(ResultsError):
        triplet_systems.systems_table()
    sweep.run_split(sweep.SplitRun("90-10"), *hundred, device="cpu", progress=False)
    swept = stored.split_sweep()
    table = triplet_systems.run_triplet_systems(*hundred, device="cpu", progress=False)
    assert set(table.recipe) == {"muon-triplet", "muon-proxy-then-triplet"}
    assert stored.split_sweep().equals(swept)  # the sweep's rows and checkpoint are its own
    for name in ("muon-triplet", "muon-proxy-then-triplet"):
        info = checkpoint_info(triplet_systems.checkpoint_path(name))
        assert info["recipe"] == name and not set(info["classes"]) & set(class_split("90-10", 0).unseen)
        assert results.load_json(triplet_systems.record_name(name))["recipe"] == name
    found = audit(Data(*hundred), ["triplet_systems"], progress=False)
    assert len(found) == len(table) and set(found.verdict) == {"holds"}
    monkeypatch.setattr(triplet_systems, "train_run", lambda *_, **__: pytest.fail("trained again"))
    assert triplet_systems.run_triplet_systems(*hundred, device="cpu", progress=False).equals(table)

    shown = triplet_systems.systems_table().set_index("trained by")
    assert len(shown) == 4
    for name, what in triplet_systems.SYSTEMS.items():
        row = results.result(triplet_systems.stored_systems(), recipe=name, metric="acc_5w1s")
        assert shown.acc_5w1s[what] == f"{row.value:.1f} ± {row.ci95:.1f}"
    assert shown.iloc[-1][["acc_5w1s", "pair_auc_unseen", "acc_5w5s"]].tolist() == ["62.2 ± 0.4", "84.5", "–"]
