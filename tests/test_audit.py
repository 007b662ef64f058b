"""The audit finds what does not hold: wrong values, wrong counts, rows too many and too few, damaged checkpoints."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from siamese_utils import cli
from siamese_utils.data.images import ImageSet
from siamese_utils.errors import UnknownNameError
from siamese_utils.experiments import store as results
from siamese_utils.studies import audit as module
from siamese_utils.studies.audit import Data, audit
from siamese_utils.studies.splits.study import SplitRun, run_split

CHECKPOINT = "results/checkpoints/cifar100-12-8-draw0.safetensors"


@pytest.fixture
def data(synthetic_train: ImageSet, synthetic_test: ImageSet) -> Data:
    return Data(synthetic_train, synthetic_test)


@pytest.fixture
def stored(project: Path, data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one small run of the sweep, trained once."""
    kept = tmp_path_factory.getbasetemp() / "audited-run"
    if not kept.exists():
        run_split(SplitRun("12-8", recipe="smoke"), data.train_set, data.test_set, device="cpu", progress=False)
        (project / "results").rename(kept)
    shutil.copytree(kept, project / "results", dirs_exist_ok=True)
    return project


def change(path: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = pd.read_csv(io.StringIO(path.read_text()), keep_default_na=False)
    path.write_text(edit(table).to_csv(index=False, lineterminator="\n"))


def verdict(data: Data, metric: str, table: str = "split_sweep") -> str:
    found = audit(data, progress=False)
    row = found[(found.metric == metric) & (found.table == table)]
    assert set(found[(found.metric != metric) | (found.table != table)].verdict) == {"holds"}
    return row.verdict.item()


def test_what_a_run_has_stored_holds(stored: Path, data: Data) -> None:
    found = audit(data, progress=False)
    assert set(found.table) == {"split_sweep", "growth", "class_accuracy"}
    assert set(found.checkpoint) == {CHECKPOINT}
    assert set(found.verdict) == {"holds"}
    assert len(found) == sum(len(pd.read_csv(stored / "results" / f"{name}.csv")) for name in set(found.table))


@pytest.mark.parametrize(("table", "metric"), [("split_sweep", "acc_5w1s"), ("growth", "same_right_unseen")])
def test_a_number_beyond_its_interval_is_found(stored: Path, data: Data, table: str, metric: str) -> None:
    path = stored / "results" / f"{table}.csv"
    rows = pd.read_csv(path)
    half = float(rows[rows.metric == metric].ci95.item())

    def shifted(by: float) -> Callable[[pd.DataFrame], pd.DataFrame]:
        return lambda t: t.assign(value=t.value.astype(float) + by * (t.metric == metric))

    change(path, shifted(0.9 * half))
    assert verdict(data, metric, table) == "holds"
    change(path, shifted(0.2 * half))
    assert "another value" in verdict(data, metric, table)


def test_a_wrong_row_does_not_hide_behind_its_double(stored: Path, data: Data) -> None:
    path = stored / "results" / "split_sweep.csv"
    change(path, lambda t: pd.concat([t[t.metric == "acc_5w1s"].assign(value=99.0), t]))
    found = audit(data, ["split_sweep"], progress=False)
    assert found[found.metric == "acc_5w1s"].verdict.tolist() == ["the checkpoint gives another value", "holds"]


def test_a_threshold_is_held_to_its_own_scale(stored: Path, data: Data) -> None:
    path = stored / "results" / "growth.csv"
    change(path, lambda t: t.assign(value=t.value.astype(float) + 0.003 * (t.metric == "threshold_seen")))
    assert "another value" in verdict(data, "threshold_seen", "growth")


def test_rows_too_many_and_too_few_are_found(stored: Path, data: Data) -> None:
    path = stored / "results" / "split_sweep.csv"
    whole = path.read_text()
    change(path, lambda t: t[t.metric != "pair_auc_seen"])
    assert verdict(data, "pair_auc_seen") == "is not in the table"
    path.write_text(whole)
    change(path, lambda t: t.assign(metric=t.metric.replace("pair_auc_seen", "beauty")))
    found = audit(data, progress=False).set_index("metric")
    assert "does not give this metric" in found.verdict["beauty"]
    path.write_text(whole)
    change(path, lambda t: t.assign(n=t.n.astype(int) + (t.metric == "acc_5w1s")))
    assert verdict(data, "acc_5w1s").startswith("rests on")


def test_a_checkpoint_that_cannot_be_read_fails_all_its_rows(stored: Path, data: Data) -> None:
    (stored / CHECKPOINT).write_bytes(b"nothing")
    found = audit(data, ["growth"], progress=False)
    assert found.verdict.str.startswith("cannot be computed").all()
    (stored / CHECKPOINT).unlink()
    assert audit(data, ["growth"], progress=False).verdict.str.contains("There is no checkpoint").all()


def test_only_some_tables_or_checkpoints(stored: Path, data: Data) -> None:
    assert set(audit(data, ["growth"], progress=False).table) == {"growth"}
    assert audit(data, checkpoints=["another"], progress=False).empty
    with pytest.raises(UnknownNameError, match="grwoth"):
        audit(data, ["grwoth"])


def test_rows_without_a_checkpoint_and_tables_that_are_not_there_are_passed_over(
    project: Path, data: Data
) -> None:
    assert list(audit(data, progress=False).columns) == list(module.AUDIT_COLUMNS)
    key = {"split": "12-8", "draw": 0, "seed": 0, "recipe": "smoke"}
    results.store_run(key, {"acc_5w1s": module.Estimate(50.0, 1.0, 10)}, "")
    assert audit(data, progress=False).empty


def test_the_command_fails_where_a_number_does_not_hold(
    stored: Path, data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "load_cifar100", lambda part: {"train": data.train_set, "test": data.test_set}[part])
    monkeypatch.setenv("TQDM_DISABLE", "1")
    good = CliRunner().invoke(cli.app, ["audit", "--only", "growth"])
    assert good.exit_code == 0
    assert "stored numbers of 1 checkpoints hold" in good.output
    path = stored / "results" / "growth.csv"
    change(path, lambda t: t.assign(value=t.value.astype(float) + 5 * (t.metric == "same_right_seen")))
    bad = CliRunner().invoke(cli.app, ["audit", "--only", "growth"])
    assert bad.exit_code == 1
    assert "same_right_seen" in bad.output
