"""Two base networks beside each other: the same classes, the same shots, and differences class by class."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny_imprinting import STUDY

from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.errors import ConfigError, ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench, run_study, stored
from siamese_utils.studies.imprinting import base as base_module
from siamese_utils.studies.imprinting import base_findings, bases, methods
from siamese_utils.studies.imprinting.base import BASE, base_checkpoint, parts_of
from siamese_utils.studies.imprinting.bases import FIRST, IMPRINTING_BASES, PRICES, whole_run
from siamese_utils.studies.imprinting.settings import WHOLE, ImprintingConfig

SHORT = dataclasses.replace(STUDY.base, changes={**STUDY.base.changes, "epochs": 1, "most_images": 96})
ROOT = Path(__file__).resolve().parents[1]
OLD = ("old_acc_plain", "old_acc_whitened", "old_acc_shifted")
RUN = {"study": STUDY, "first": SHORT}


@pytest.fixture(scope="module")
def bench(synthetic_train: ImageSet, synthetic_test: ImageSet) -> Bench:
    return Bench.of(synthetic_train, synthetic_test, device="cpu", progress=False)


@pytest.fixture
def judged(project: Path, tiny_imprinting: Path, bench: Bench) -> pd.DataFrame:
    shutil.copytree(tiny_imprinting, project, dirs_exist_ok=True)
    for _ in run_study(IMPRINTING_BASES, [whole_run(**RUN)], bench):
        pass
    return IMPRINTING_BASES.table()


def test_the_first_base_is_trained_where_it_is_missing(judged: pd.DataFrame) -> None:
    assert stored(IMPRINTING_BASES, whole_run(**RUN)) == "yes"
    longer = dataclasses.replace(SHORT, changes={**SHORT.changes, "epochs": 3})
    assert stored(IMPRINTING_BASES, whole_run(STUDY, longer)) == "other"
    infos = {name: checkpoint_info(base_checkpoint(name)) for name in (FIRST, BASE)}
    assert infos[FIRST]["config"]["epochs"] == 1 and infos[BASE]["config"]["epochs"] == 2
    assert infos[FIRST]["split"] == infos[BASE]["split"] == "12-8"
    assert store.load_json(FIRST)["config"] == infos[FIRST]["config"]
    assert set(judged.base) == {FIRST, BASE}
    assert judged[~judged.metric.str.startswith("gain")].value.between(0, 100).all()


@pytest.mark.parametrize("other", [{"seed": 1}, {"split": "8-12"}, {"draw": 1}])
def test_bases_of_other_classes_or_other_shots_are_refused(other: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="one split, draw and seed"):
        whole_run(STUDY, dataclasses.replace(SHORT, **other))


def test_numbers_are_those_of_the_study_and_differences_go_class_by_class(judged: pd.DataFrame, bench: Bench) -> None:
    by_class, right, drawn = {}, {}, {}
    for name, base in ((FIRST, SHORT), (BASE, STUDY.base)):
        config = dataclasses.replace(STUDY, base=base)
        data = parts_of(base, bench.train_set, bench.test_set).mapped(load_encoder(base_checkpoint(name)).embed)
        spaces = methods.spaces_of(data, STUDY.shrinkage)
        for metric, space in (("old_acc_plain", "plain"), ("old_acc_whitened", "whitened")):
            found = store.result(judged, base=name, metric=metric)
            right[name, space] = spaces[space].right().double()
            assert found.value == pytest.approx(spaces[space].base, abs=1e-3) and found.n == len(spaces[space].right())
        tables = methods.tables_of(spaces, config, bench.test_set.class_names)
        curves = tables["imprinting_curves"]
        for shots in STUDY.shots:
            for price in PRICES:
                told = store.result(judged, base=name, metric="novel_acc", shots=shots, loss=price)
                key = {"method": "whitened", "added": 1, "shots": shots, "loss": price}
                expected = store.result(curves, **key)
                assert (told.value, told.ci95) == pytest.approx((expected.value, expected.ci95), abs=1e-3)
        runs, found = methods.in_turn("whitened", spaces, 1, 3, config)
        assert [len(batch) for batch in runs] == [STUDY.shot_sets] * STUDY.novel_classes
        by_class[name] = [float(one.for_one_point.mean()) for one in found]
        drawn[name] = runs, [base_module.draw_shots(data, run[0], 3, 0, config.base.seed) for run, *_ in runs]
    gains = pd.Series(by_class[BASE]) - pd.Series(by_class[FIRST])
    assert drawn[FIRST][0] == drawn[BASE][0]
    assert all(torch.equal(one, other) for one, other in zip(drawn[FIRST][1], drawn[BASE][1], strict=True))
    for space in ("plain", "whitened"):
        change = 100 * (right[BASE, space] - right[FIRST, space])
        gain = store.result(judged, metric=f"gain_old_acc_{space}")
        assert gain.value == pytest.approx(float(change.mean()), abs=1e-3) and gain.n == len(change)
        assert gain.ci95 == pytest.approx(1.96 * float(change.std()) / len(change) ** 0.5, rel=1e-3)
    gain = store.result(judged, base=BASE, metric="gain_novel_acc", shots=3, loss=1.0)
    assert gain.value == pytest.approx(gains.mean(), abs=1e-3) and gain.n == STUDY.novel_classes
    assert gain.ci95 == pytest.approx(3.182 * gains.std() / len(gains) ** 0.5, rel=1e-3)  # Student's t of 3 degrees


def test_shifted_views_are_views_of_the_images_of_old_classes(
    judged: pd.DataFrame, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = parts_of(STUDY.base, bench.train_set, bench.test_set)
    embed = load_encoder(base_checkpoint()).embed
    data = images.mapped(embed)
    as_it_is = methods.spaces_of(data, STUDY.shrinkage)["whitened"].right()
    shifted = bases._shifted(images, data, embed, STUDY)
    stored_value = store.result(judged, base=BASE, metric="old_acc_shifted").value
    assert stored_value == pytest.approx(100 * shifted.double().mean().item(), abs=1e-3)
    monkeypatch.setattr(bases, "FIVE_SHIFTS", ((0, 0),))
    assert torch.equal(bases._shifted(images, data, embed, STUDY), as_it_is)
    monkeypatch.setattr(bases, "FIVE_SHIFTS", ((9, 9),))
    assert not torch.equal(bases._shifted(images, data, embed, STUDY), as_it_is)


@pytest.mark.skipif(not (ROOT / "results" / "imprinting_bases.csv").is_file(), reason="not stored")
def test_the_stored_present_base_is_that_of_the_study() -> None:
    told, curves, study = (
        store.read_table(ROOT / "results" / f"{name}.csv")
        for name in ("imprinting_bases", "imprinting_curves", "imprinting")
    )
    for space in ("plain", "whitened"):
        known = store.result(told, base=BASE, metric=f"old_acc_{space}")
        base = store.result(study, method=f"base, {space}", metric="old_acc", added=0)
        assert (known.value, known.n) == (base.value, base.n)
    novel = told[(told.base == BASE) & (told.metric == "novel_acc")]
    assert len(novel) == len(PRICES) * len(ImprintingConfig.from_yaml(WHOLE).shots)
    for one in novel.itertuples():
        found = store.result(curves, method="whitened", added=1, shots=one.shots, loss=one.loss)
        assert (one.value, one.ci95) == pytest.approx((found.value, found.ci95), abs=0.02)  # another machine's rounding


def test_both_are_told_once_they_are_stored(project: Path) -> None:
    for found in (base_findings.bases_table, base_findings.bases_sentence):
        with pytest.raises(ResultsError):
            found()
    study, rows = ImprintingConfig.from_yaml(WHOLE), []
    for name, old, new in ((FIRST, 76.0, 30.0), (BASE, 81.5, 33.0)):
        record = {"config": study.base.training.to_json(), "seconds": 600.0, "provenance": {"threads": 2}}
        store.store_json(name, record)
        rows += [{"base": name, "shots": 0, "loss": 0.0, "value": old, "ci95": 1.2, "metric": metric} for metric in OLD]
        key = [{"base": name, "shots": k, "loss": price} for k in study.shots for price in PRICES]
        rows += [{**one, "metric": "novel_acc", "value": new + one["loss"], "ci95": 2.0} for one in key]
    rows += [{**one, "metric": "gain_novel_acc", "value": 3.0 - one["loss"] * 2, "ci95": 0.5} for one in key]
    own = {"base": BASE, "shots": 0, "loss": 0.0, "value": 5.5, "ci95": 0.9}
    rows += [{**own, "metric": f"gain_{metric}"} for metric in OLD]
    IMPRINTING_BASES.path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).assign(n=60)[list(IMPRINTING_BASES.all_columns)].to_csv(IMPRINTING_BASES.path, index=False)
    table = base_findings.bases_table().frame.set_index("")
    assert list(table.columns) == ["first base", "present base", "gain"]
    assert table.loc["core-minutes"].to_list() == ["20", "20", ""]
    assert table.loc["its 40 classes"].to_list() == ["76.0 ± 1.2", "81.5 ± 1.2", "+5.5 ± 0.9"]
    assert table.loc["new class, 5 shots, for 1 point"].to_list() == ["31.0 ± 2.0", "34.0 ± 2.0", "+1.0 ± 0.5"]
    assert table.loc["new class, 20 shots, for 4 points"].to_list() == ["34.0 ± 2.0", "37.0 ± 2.0", "-5.0 ± 0.5"]
    told = base_findings.bases_sentence()
    assert "ahead of the first by +5.5 ± 0.9 points" in told and "names 81.5 ± 1.2%" in told
    assert "one point of old accuracy +1.0 ± 0.5 with 1, " in told and "for four -5.0 ± 0.5 with 1, " in told
