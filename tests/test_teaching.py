"""Several networks in one: what CIFAR-FS's long networks teach, and what is told of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
import pytest
from tiny import TINY

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.encoder import joined
from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench, complete, recorded_core_minutes, select, stored
from siamese_utils.studies.ensembles import cifar_fs, half_hour, teaching, teaching_findings
from siamese_utils.studies.ensembles.teaching import TEACHING
from siamese_utils.training import recipes


def test_a_network_is_taught_and_judged_on_the_validation_classes(
    hundred: tuple[ImageSet, ImageSet], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", dataclasses.replace(TINY, **recipes.ROTATION))
    monkeypatch.setitem(recipes.RECIPES, "tiny-long", dataclasses.replace(TINY, recipe="tiny-long"))
    monkeypatch.setattr(half_hour, "HALF_HOUR_RECIPE", "tiny")
    members = (("tiny-long", 0), ("tiny-long", 1))
    monkeypatch.setattr(teaching, "LONG", members)
    bench, runs = Bench.of(*hundred, device="cpu", progress=False), select(TEACHING, seeds=[0])
    trials = ["teachers", "alone", "taught-2", "taught-8", "upright-2", "upright-8"]
    assert [run.label for run in runs] == [f"{trial}-seed0" for trial in trials]
    each = cifar_fs.cifar_fs_run(0, "tiny").images
    assert [run.images for run in runs] == [2 * each, *[each] * 5]
    assert runs[3].config.teachers == ("cifar-fs-seed0-tiny-long", "cifar-fs-seed1-tiny-long")
    lessons = [(run.config.teaching_weight, run.config.teach_upright) for run in runs[2:]]
    assert lessons == [(2, False), (8, False), (2, True), (8, True)]

    runs = runs[:5]
    table = complete(TEACHING, bench, runs)
    assert all(stored(TEACHING, run) == "yes" for run in runs)
    values = table.set_index(["trial", "seed", "metric"]).value
    assert len(values) == 5 * 4 and set(table.metric) == set(TEACHING.metrics)
    # By hand: what is stored, on the sixteen validation classes.
    whole = cifar_fs.whole_set(*hundred)
    positions = whole.indices_of(fewshot_split_cifar_fs(whole.class_names).val)
    images, labels = whole.images[positions], whole.labels[positions]
    alone = load_encoder(cifar_fs.checkpoint_path(0, "tiny")).embed(images)
    both = joined([load_encoder(cifar_fs.checkpoint_path(seed, name)).embed(images) for name, seed in members])
    for trial, z in (("alone", alone), ("teachers", both)):
        for metric, estimate in cifar_fs.judge(z, labels).items():
            assert values[trial, 0, metric] == pytest.approx(estimate.value, abs=2e-3)
    spent = [recorded_core_minutes(store.load_json(cifar_fs.record_name(seed, name))) for name, seed in members]
    assert values["teachers", 0, "core_minutes"] == pytest.approx(sum(spent), abs=1e-3)
    assert values["teachers", 0, "images"] == 2 * each == 2 * values["taught-8", 0, "images"]
    assert len({values[trial, 0, "acc_5w5s"] for trial in trials[1:5]}) == 4
    assert "distillation_loss" in TEACHING.read_record(runs[2])["history"][-1]


def put(rows: dict[tuple[str, int], tuple[float, float]]) -> None:
    found = [
        (trial, seed, metric, value, half, 100)
        for (trial, seed), (one, five) in rows.items()
        for metric, value, half in (
            ("acc_5w1s", one, 0.25),
            ("acc_5w5s", five, 0.2),
            ("core_minutes", 30.4, 0),
            ("images", 950_000, 0),
        )
    ]
    pd.DataFrame(found, columns=TEACHING.all_columns).to_csv(TEACHING.path, index=False)


def test_gains_are_over_the_network_of_the_same_seed(project: Path) -> None:
    with pytest.raises(ResultsError, match="study teaching"):
        teaching_findings.teaching_sentence()
    put({("alone", 0): (60, 75)})
    with pytest.raises(ResultsError, match="Nothing to compare with"):
        teaching_findings.teaching_sentence()
    rows = {("teachers", 0): (65.0, 79.0), ("alone", 0): (60.0, 75.0), ("alone", 1): (62.0, 75.0)}
    put(rows)
    lead = "The teachers are 4.0 points ahead of the network that is not taught at one shot and 4.0 at five."
    assert teaching_findings.teaching_sentence() == lead
    put({**rows, ("taught-2", 0): (61.0, 77.0), ("taught-8", 0): (63.0, 78.0), ("taught-8", 1): (64.0, 77.0)})
    assert teaching_findings.teaching_sentence() == (
        f"{lead} Points that the lesson brings: **with weight 2: +1.0 and +2.0 (one seed); "
        "with weight 8: +2.5 ± 6.4 and +2.5 ± 6.4 (2 seeds)**."
    )
    with pytest.raises(
        ResultsError, match=r"(alone|muon-manifold-short).*json"
    ):  # there are rows, and no record of a training
        teaching_findings.teaching_table()
    for run in TEACHING.runs():
        epochs = [{"rotation_accuracy": 0.3}, {"rotation_accuracy": 0.5 + run.key["seed"] / 10, "proxy_accuracy": 0.4}]
        store.write_record(TEACHING.record_path(run), {"history": epochs})
        if run.key["trial"] == "alone":
            name = cifar_fs.record_name(run.key["seed"], recipes.HALF_HOUR_RECIPE)
            store.store_json(
                name, {"history": [{"rotation_accuracy": 0.75 + run.key["seed"] / 10, "proxy_accuracy": 0.6}]}
            )
    shown = teaching_findings.teaching_table().frame
    right = ["–", "60 / 75", "40 / 50", "40 / 50", "60 / 85", "40 / 60"]
    assert shown["classes / turns told right"].tolist() == right
    assert shown.seed.tolist() == ["–", "0", "0", "0", "1", "1"]
    assert shown.network.tolist()[1:4] == [
        "half an hour of one core, not taught",
        "the same, taught with weight 2",
        "the same, taught with weight 8",
    ]
    assert shown["core-minutes"][0] == "30" and shown.images[0] == "0.95"
    assert shown["5-way 1-shot"].tolist()[-1] == "64.0 ± 0.2" and shown["5-way 5-shot"].tolist()[0] == "79.0 ± 0.2"
