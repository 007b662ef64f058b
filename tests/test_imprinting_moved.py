"""The part of the study in which the encoder moves: what it runs and stores, and what it is compared with."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tiny_imprinting import STUDY
from typer.testing import CliRunner

from siamese_utils import cli
from siamese_utils.data.cifar import CIFAR100_CLASSES
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.checkpoints import load_encoder, save_encoder
from siamese_utils.errors import ConfigError
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench, Run, Study, complete, run_study, stored
from siamese_utils.studies import commands
from siamese_utils.studies.imprinting import base, findings, methods, moved, settings, study
from siamese_utils.studies.imprinting.settings import ImprintingConfig, MovedConfig
from siamese_utils.studies.imprinting.study import IMPRINTING_MOVED, IMPRINTING_MOVED_TRIALS
from siamese_utils.studies.imprinting.tuning import TuningConfig

QUICK = TuningConfig(steps=3, batch=12, rate=1e-5)
SMALL = MovedConfig(classes=2, shot_sets=2, few=QUICK, joint=QUICK)
TWO = dataclasses.replace(STUDY, shot_sets=2, at_once=(1,), novel_classes=2)


def planned(part: MovedConfig, images: ImageSet, whole: ImprintingConfig = STUDY) -> list[Run]:
    chosen = base.chosen_classes(range(12, 20), part.classes, whole.base.seed)
    return study.planned_runs(whole, part, [images.class_names[label] for label in chosen], images_a_class=30)


@pytest.fixture(scope="module")
def bench(synthetic_train: ImageSet, synthetic_test: ImageSet) -> Bench:
    return Bench.of(synthetic_train, synthetic_test, device="cpu", progress=False)


@pytest.fixture(scope="module")
def done(tiny_imprinting: Path, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the small study is stored."""
    folder = tmp_path_factory.mktemp("moved") / "project"
    shutil.copytree(tiny_imprinting, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        list(run_study(IMPRINTING_MOVED, planned(SMALL, bench.test_set), bench))
    return folder


@pytest.fixture
def stored_table(project: Path, done: Path) -> pd.DataFrame:
    shutil.copytree(done, project, dirs_exist_ok=True)
    return IMPRINTING_MOVED.table()


def test_the_stored_configuration_is_that_of_the_published_numbers() -> None:
    config = MovedConfig.from_yaml(settings.MOVED)
    assert config.few != config.joint
    assert config.classes >= 20
    if IMPRINTING_MOVED.path.exists():
        for run in IMPRINTING_MOVED.runs():
            record = IMPRINTING_MOVED.read_record(run)
            assert record["tuning"] == {"few": config.few.to_json(), "joint": config.joint.to_json()}
            assert record["study"] == ImprintingConfig.from_yaml(settings.WHOLE).to_json()


def test_a_class_that_is_added_anew_does_not_pass_the_others_off_as_done(
    project: Path, done: Path, bench: Bench
) -> None:
    shutil.copytree(done, project, dirs_exist_ok=True)
    steps = dataclasses.replace(QUICK, steps=4)
    first, *others = planned(dataclasses.replace(SMALL, few=steps, joint=steps), bench.test_set)
    list(run_study(IMPRINTING_MOVED, [first], bench, again=True))
    assert stored(IMPRINTING_MOVED, first) == "yes"
    assert {stored(IMPRINTING_MOVED, run) for run in others} == {"other"}


def test_every_class_is_added_by_each_method(stored_table: pd.DataFrame, bench: Bench) -> None:
    # Two classes x two numbers of shots x two sets and the joint runs, by each of three methods.
    assert len(stored_table) == 3 * (2 * 2 * 2 + 2)
    assert set(stored_table.shots) == {1, 3, 30}
    numbers = stored_table.drop(columns=["method", "novel", "shots", "shot_set", "seconds"])
    assert numbers.stack().between(0, 100).all()
    runs = planned(SMALL, bench.test_set)
    assert {stored(IMPRINTING_MOVED, run) for run in runs} == {"yes"}
    assert [run.key["shot_set"] for run in runs] == [0] * 6 + [1] * 4  # every class once before any a second time
    other = dataclasses.replace(SMALL, few=dataclasses.replace(QUICK, steps=4))
    assert {stored(IMPRINTING_MOVED, run) for run in planned(other, bench.test_set)} == {"other"}
    again = study.carry_out_moved(runs[5], bench).metrics
    assert isinstance(again, pd.DataFrame)
    before = stored_table[(stored_table.novel == runs[5].key["novel"]) & (stored_table.shots == runs[5].key["shots"])]
    same = before.drop(columns="seconds").reset_index(drop=True)
    assert again[list(same.columns)].equals(same)


def test_the_frozen_side_is_that_of_the_study(stored_table: pd.DataFrame, bench: Bench) -> None:
    """Same classes, same shots: the rows of ``whitened`` are those that the whole study stores."""
    encoder = load_encoder(base.base_checkpoint())
    data = base.parts_of(TWO.base, bench.train_set, bench.test_set).mapped(encoder.embed)
    whole = methods.tables_of(methods.spaces_of(data, TWO.shrinkage), TWO, bench.test_set.class_names)["imprinting"]
    summary = findings.moved_summary(stored_table, old_classes=12)
    for metric in ("novel_acc", "old_acc", "overall_acc"):
        for bias, end in (("none", ""), ("budget", "_budget")):
            key = {"method": "whitened", "shots": 3}
            one = store.result(summary, metric=metric + end, **key)
            other = store.result(whole, metric=metric, bias=bias, added=1, **key)
            assert one.value == pytest.approx(other.value, abs=1e-3)
            assert one.ci95 == pytest.approx(other.ci95, abs=1e-3)


def test_a_still_encoder_is_the_frozen_one(stored_table: pd.DataFrame, bench: Bench) -> None:
    """With rates of next to nothing all methods answer alike."""
    still = dataclasses.replace(QUICK, rate=0.0, weight_rate=1e-9)
    config = dataclasses.replace(SMALL, few=still, joint=still, shot_sets=1)
    table = pd.concat([study.carry_out_moved(run, bench).metrics for run in planned(config, bench.test_set)])
    summary = findings.moved_summary(table, old_classes=12)
    assert summary[summary.method.str.startswith("moved - ")].value.abs().max() < 1.5  # a test image or so


def test_differences_are_taken_run_by_run() -> None:
    rows = []
    for novel, gain in (("a", 1.0), ("b", 3.0)):
        for number in range(2):
            level = dict.fromkeys(moved.METRICS, 10.0 * number)
            key = {"novel": novel, "shots": 1, "shot_set": number}
            rows.append({"method": "whitened", **key, **level})
            rows.append({"method": "old only", **key, **{name: value + 5 for name, value in level.items()}})
            rows.append({"method": "moved", **key, **{name: value + gain for name, value in level.items()}})
    summary = findings.moved_summary(pd.DataFrame(rows), old_classes=3)
    row = store.result(summary, method="moved - whitened", shots=1, metric="novel_acc")
    assert store.result(summary, method="moved - old only", shots=1, metric="novel_acc").value == -3.0
    assert (row.value, row.n) == (2.0, 4)
    assert row.ci95 == pytest.approx(12.7062, rel=1e-4)  # two classes: t with one degree of freedom
    assert store.result(summary, method="moved", shots=1, metric="overall_acc").value == pytest.approx(7.0)


def test_the_settings_are_among_those_tried() -> None:
    assert len({trial.name for trial in study.MOVED_TRIALS}) == len(study.MOVED_TRIALS)
    assert all(trial.expectation.endswith(".") for trial in study.MOVED_TRIALS)
    config = MovedConfig.from_yaml(settings.MOVED)
    tried = {trial.tuning for trial in study.MOVED_TRIALS}
    assert config.few in tried and config.joint in tried


def test_settings_are_tried_on_stand_ins_alone(
    stored_table: pd.DataFrame, synthetic_train: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "TRIAL_SPLIT", "8-12")
    source = {"seed": 0, "config": STUDY.base.training.to_json()}
    save_encoder(load_encoder(base.base_checkpoint()), base.trial_checkpoint(), source)
    read, real = [], moved.add_class

    def watched(method: str, label: int, shots: object, prepared: moved.Prepared, *rest: object) -> dict[str, float]:
        read.append(label)
        assert prepared.test[1].max() < 8 and set(prepared.images.novel) == {8, 10}
        return real(method, label, shots, prepared, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(moved, "add_class", watched)
    chosen = (
        study.Trial("frozen", "Base.", "whitened", shots=(2, 5)),
        study.Trial("few", "Better.", "moved", shots=(2,), tuning=QUICK),
    )
    runs = [study.trial_run(trial, STUDY) for trial in chosen]
    trials = dataclasses.replace(IMPRINTING_MOVED_TRIALS, runs=lambda: runs)
    table = complete(trials, Bench.of(synthetic_train, None, device="cpu", progress=False))
    assert set(read) == {8, 10}  # the base network of the study learns 0 to 11
    assert list(zip(table.trial, table.shots)) == [("frozen", 2), ("frozen", 5), ("few", 2)]
    assert set(table.n) == {2}
    log = findings.trial_log(trials)
    assert list(log.columns) == ["trial", "expectation", "2 shots", "5 shots"]
    assert log["5 shots"].tolist()[1] == ""


def test_the_command_runs_what_the_files_say(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def note(study: Study, options: dict[str, Any], **rest: object) -> None:
        asked.append((study.name, study.runs(**options)))

    monkeypatch.setattr(commands, "_run", note)
    commands.add_commands(cli.app, "imprint")
    small = {"classes": 2, "shot_sets": 1, "few": dataclasses.asdict(QUICK), "joint": dataclasses.asdict(QUICK)}
    other = dataclasses.replace(TWO, base=settings.BaseConfig(seed=1))
    for name, content in (("whole", other.to_json()), ("part", small)):
        (project / f"{name}.yaml").write_text(yaml.safe_dump(content))
    whole, part = ["--config", str(project / "whole.yaml")], ["--moved-config", str(project / "part.yaml")]
    for words in (["--moved", "--only-shots", "3", *part], ["--moved", *part], ["--moved", "--trials"], ["--trials"]):
        answer = CliRunner().invoke(cli.app, ["imprint", *words, *whole])
        assert answer.exit_code == 0, answer.exception
    names, runs = zip(*asked, strict=True)
    assert names == ("imprinting_moved", "imprinting_moved", "imprinting_moved_trials", "imprinting_trials")
    assert [run.key["shots"] for run in runs[0]] == [3, 3]
    assert [run.key["shots"] for run in runs[1]] == [1, 1, 3, 3, 500, 500]
    assert all(run.key["novel"] in CIFAR100_CLASSES[40:] and run.settings["study"] == other for run in runs[1])
    assert [run.key["trial"] for run in runs[3]] == [trial.name for trial in study.TRIALS]


def test_a_number_of_shots_that_the_study_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--only-shots takes 1, 5, 10, 20 or 500, not 0\."):
        study.moved_runs(only_shots=[5, 0])
    assert {run.key["shots"] for run in study.moved_runs(only_shots=[500])} == {500}
