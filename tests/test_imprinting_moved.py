"""The part of the study in which the encoder moves: what it runs, stores, and that it goes on after a kill."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from siamese_utils import cli
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.imprinting import FineTuneConfig
from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store as results
from siamese_utils.studies.imprinting import moved, study
from siamese_utils.studies.imprinting.tuning import TuningConfig
from siamese_utils.studies.splits import stored

CONFIGS = Path(__file__).resolve().parents[1] / "siamese_utils" / "studies" / "imprinting"
STUDY = study.ImprintingConfig(
    base=study.BaseConfig(split="12-8", recipe="smoke", changes={"epochs": 2, "batch_size": 48, "most_images": 400}),
    shots=(1, 3),
    novel_classes=4,
    budget=2.0,
    fine_tuning=FineTuneConfig(steps=6),
)
QUICK = TuningConfig(steps=3, batch=12, rate=1e-5)
SMALL = moved.MovedConfig(classes=2, shot_sets=2, few=QUICK, joint=QUICK)


def test_the_stored_configuration_is_that_of_the_published_numbers() -> None:
    config = moved.MovedConfig.from_yaml(CONFIGS / "imprinting_moved.yaml")
    assert config.few != config.joint
    assert config.classes >= 20
    if moved.table_path().exists():
        record = results.load_json(moved.RECORD)
        assert record["tuning"] == {"few": dataclasses.asdict(config.few), "joint": dataclasses.asdict(config.joint)}
        assert record["study"] == study.ImprintingConfig.from_yaml(CONFIGS / "imprinting.yaml").to_json()


def test_runs_go_on_after_a_kill_and_give_the_same(
    project: Path, synthetic_train: ImageSet, synthetic_test: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def go() -> pd.DataFrame:
        table = moved.run_moved(SMALL, STUDY, synthetic_train, synthetic_test, device="cpu", progress=False)
        return table.drop(columns="seconds")

    whole = go()
    # Two classes x two numbers of shots x two sets and the joint runs, by each of three methods.
    assert len(whole) == 3 * (2 * 2 * 2 + 2)
    assert set(whole.shots) == {1, 3, 30}
    assert whole.drop(columns=["method", "novel", "shots", "shot_set"]).stack().between(0, 100).all()
    moved.table_path().unlink()
    real, calls = moved.run, []

    def killed(*arguments: object) -> dict[str, float]:
        calls.append(arguments)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(moved, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        go()
    assert len(moved.stored_moved()) == 6  # the third run had two of its methods, and is not stored
    resumed = go()
    assert resumed.equals(whole)
    assert len(calls) == 9 + 3 * 10 - 6
    monkeypatch.setattr(moved, "run", None)
    assert go().equals(whole)  # nothing is left to run
    other = dataclasses.replace(SMALL, few=dataclasses.replace(QUICK, steps=4))
    with pytest.raises(ResultsError, match="other settings"):
        moved.run_moved(other, STUDY, synthetic_train, synthetic_test, device="cpu", progress=False)


def test_the_frozen_side_is_that_of_the_study(
    project: Path, synthetic_train: ImageSet, synthetic_test: ImageSet
) -> None:
    """Same classes, same shots: the rows of ``whitened`` are those that the whole study stores."""
    whole = dataclasses.replace(STUDY, shot_sets=2, at_once=(1,), novel_classes=2)
    both = moved.run_moved(SMALL, whole, synthetic_train, synthetic_test, device="cpu", progress=False)
    stored = study.run_study(whole, synthetic_train, synthetic_test, device="cpu", progress=False)
    summary = moved.moved_summary(both, old_classes=12)
    for metric in ("novel_acc", "old_acc", "overall_acc"):
        for bias, end in (("none", ""), ("budget", "_budget")):
            key = {"method": "whitened", "shots": 3}
            one = results.result(summary, metric=metric + end, **key)
            other = results.result(stored, metric=metric, bias=bias, added=1, **key)
            assert one.value == pytest.approx(other.value, abs=1e-3)
            assert one.ci95 == pytest.approx(other.ci95, abs=1e-3)


def test_a_still_encoder_is_the_frozen_one(
    project: Path, synthetic_train: ImageSet, synthetic_test: ImageSet
) -> None:
    """With rates of next to nothing all methods answer alike."""
    still = dataclasses.replace(QUICK, rate=0.0, weight_rate=1e-9)
    config = dataclasses.replace(SMALL, few=still, joint=still, shot_sets=1)
    table = moved.run_moved(config, STUDY, synthetic_train, synthetic_test, device="cpu", progress=False)
    summary = moved.moved_summary(table, old_classes=12)
    assert summary[summary.method.str.startswith("moved - ")].value.abs().max() < 1.5  # a test image or so


def test_differences_are_taken_run_by_run() -> None:
    rows = []
    for novel, gain in (("a", 1.0), ("b", 3.0)):
        for number in range(2):
            base = dict.fromkeys(moved.METRICS, 10.0 * number)
            key = {"novel": novel, "shots": 1, "shot_set": number}
            rows.append({"method": "whitened", **key, **base})
            rows.append({"method": "old only", **key, **{name: value + 5 for name, value in base.items()}})
            rows.append({"method": "moved", **key, **{name: value + gain for name, value in base.items()}})
    summary = moved.moved_summary(pd.DataFrame(rows), old_classes=3)
    row = results.result(summary, method="moved - whitened", shots=1, metric="novel_acc")
    assert results.result(summary, method="moved - old only", shots=1, metric="novel_acc").value == -3.0
    assert (row.value, row.n) == (2.0, 4)
    assert row.ci95 == pytest.approx(12.7062, rel=1e-4)  # two classes: t with one degree of freedom
    assert results.result(summary, method="moved", shots=1, metric="overall_acc").value == pytest.approx(7.0)


def test_the_settings_are_among_those_tried() -> None:
    assert len({trial.name for trial in moved.TRIALS}) == len(moved.TRIALS)
    assert all(trial.expectation.endswith(".") for trial in moved.TRIALS)
    config = moved.MovedConfig.from_yaml(CONFIGS / "imprinting_moved.yaml")
    tried = {trial.tuning for trial in moved.TRIALS}
    assert config.few in tried and config.joint in tried


def test_settings_are_tried_on_stand_ins_alone(
    project: Path, synthetic_train: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (moved, study):
        monkeypatch.setattr(module, "TRIAL_SPLIT", "8-12")
    smaller = dataclasses.replace(STUDY.base, split="8-12")
    encoder = study.train_base(smaller, synthetic_train, device="cpu", progress=False)
    source = {"seed": 0, "config": smaller.training.to_json()}
    study.save_encoder(encoder, stored.checkpoint_path("8-12", 0), source)
    read, real = [], moved.run

    def watched(method: str, label: int, shots: object, prepared: moved.Prepared, *rest: object) -> dict[str, float]:
        read.append(label)
        assert prepared.test[1].max() < 8 and set(prepared.shots) == set(prepared.novel_test) == {8, 10}
        return real(method, label, shots, prepared, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(moved, "run", watched)
    trials = (moved.MovedTrial("frozen", "Base.", (2, 5)), moved.MovedTrial("few", "Better.", (2,), QUICK))
    monkeypatch.setattr(moved, "TRIALS", trials)
    table = moved.run_moved_trials(STUDY, synthetic_train, progress=False)
    assert set(read) == {8, 10}  # the base network of the study learns 0 to 11
    assert list(zip(table.trial, table.shots)) == [("frozen", 2), ("frozen", 5), ("few", 2)]
    read.clear()
    assert moved.run_moved_trials(STUDY, synthetic_train, progress=False).equals(table)
    assert not read  # stored
    log = moved.moved_trial_log()
    assert list(log.columns) == ["trial", "expectation", "2 shots", "5 shots"]


def test_the_command_runs_what_the_files_say(
    project: Path, synthetic_train: ImageSet, synthetic_test: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "load_cifar100", {"train": synthetic_train, "test": synthetic_test}.__getitem__)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    small = {"classes": 2, "shot_sets": 1, "few": dataclasses.asdict(QUICK), "joint": dataclasses.asdict(QUICK)}
    for name, content in (("whole", STUDY.to_json()), ("part", small)):
        (project / f"{name}.yaml").write_text(yaml.safe_dump(content))
    files = ["--config", str(project / "whole.yaml"), "--moved-config", str(project / "part.yaml")]
    some = CliRunner().invoke(cli.app, ["imprint", "--moved", "--only-shots", "3", *files])
    assert some.exit_code == 0 and set(moved.stored_moved().shots) == {3}
    answer = CliRunner().invoke(cli.app, ["imprint", "--moved", *files])
    assert answer.exit_code == 0, answer.exception
    assert re.search(r"moved - old only +3 +novel_acc_budget", answer.output)
    assert len(moved.stored_moved()) == 3 * (2 * 2 + 2)
