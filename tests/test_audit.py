"""The audit finds what does not hold: wrong values, wrong counts, rows too many and too few, damaged checkpoints."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest
import torch
from fake_study import FAKE
from joblib.externals.loky import get_reusable_executor
from typer.testing import CliRunner

from siamese_utils import cli
from siamese_utils.errors import CheckpointError, UnknownNameError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store
from siamese_utils.experiments.audit import AUDIT_COLUMNS, THRESHOLD_SLACK, audit
from siamese_utils.experiments.study import Bench, complete
from siamese_utils.system.project import results_dir

QUIET = Bench("cpu", progress=False)
CHECKPOINTS = [f"results/checkpoints/side{side}-seed{seed}.bin" for side in (1, 2) for seed in (0, 1)]
HALF = 0.5  # of the interval around each area


def again(path: Path, bench: Bench) -> Mapping[str, Mapping[str, Estimate] | pd.DataFrame]:
    """The numbers of a checkpoint: two metrics and a threshold, and as a table of several columns its edges."""
    try:
        area = float(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"There is no checkpoint {path}.") from error
    edges = [{"edge": name, "metric": "length", "value": area**0.5, "ci95": 0.0, "n": 1} for name in ("left", "top")]
    metrics = {"area": Estimate(area, HALF, 9), "threshold": Estimate(area / 10, 0, 9), "seconds": Estimate(7, 0, 1)}
    return {"fake": metrics, "edges": pd.DataFrame(edges)}


STUDY = dataclasses.replace(FAKE, again=again, once=("seconds",))


@pytest.fixture(autouse=True)
def stored(project: Path) -> Path:
    """A project in which four runs of the fake study are stored, with the numbers that ``again`` gives."""
    (project / "results" / "ground.txt").write_text("firm")
    complete(FAKE, QUIET)
    (project / "results" / "edges.csv").unlink()
    for run, checkpoint in zip(FAKE.runs(), CHECKPOINTS, strict=True):
        numbers = again(project / checkpoint, QUIET)
        trained = {**numbers["fake"], "seconds": Estimate(0.5, 0, 1)}
        store.store_rows(FAKE.path, run.key, trained, checkpoint, FAKE.all_columns)
        store.store_rows(
            results_dir() / "edges.csv",
            run.key,
            numbers["edges"],
            checkpoint,
            ("side", "seed", "edge", "metric", "value", "ci95", "n", "checkpoint"),
        )
    return project


def change(table: str, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    path = results_dir() / f"{table}.csv"
    rows = pd.read_csv(io.StringIO(path.read_text()), keep_default_na=False)
    path.write_text(edit(rows).to_csv(index=False, lineterminator="\n"))


def shifted(by: float, metric: str, checkpoint: str = CHECKPOINTS[2]) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Another value of one metric of one checkpoint."""
    return lambda t: t.assign(value=t.value + by * ((t.metric == metric) & (t.checkpoint == checkpoint)))


def wrong() -> list[tuple[str, ...]]:
    """Table, checkpoint, metric and verdict of all that does not hold."""
    found = audit([STUDY], QUIET)
    columns = ["table", "checkpoint", "metric", "verdict"]
    return list(found.loc[found.verdict != "holds", columns].itertuples(index=False, name=None))


def test_what_is_stored_holds() -> None:
    found = audit([STUDY], QUIET)
    assert list(found.columns) == list(AUDIT_COLUMNS) and set(found.verdict) == {"holds"}
    assert found.checkpoint.drop_duplicates().tolist() == CHECKPOINTS
    # Every stored row but the seconds, which no checkpoint gives.
    assert len(found) == 4 * (2 + 2) and "seconds" not in set(found.metric)
    assert {"left, length", "top, length"} < set(found.metric)


def test_a_number_beyond_its_interval_is_found() -> None:
    change("fake", shifted(0.9 * HALF, "area"))
    assert wrong() == []
    change("fake", shifted(0.2 * HALF, "area"))
    assert wrong() == [("fake", CHECKPOINTS[2], "area", "the checkpoint gives another value")]


def test_a_number_without_an_interval_may_be_rounded_otherwise() -> None:
    change("edges", lambda t: t.assign(value=t.value + 0.01))
    assert wrong() == []
    change("edges", lambda t: t.assign(value=t.value + 0.02 * ((t.edge == "top") & (t.checkpoint == CHECKPOINTS[0]))))
    assert wrong() == [("edges", CHECKPOINTS[0], "top, length", "the checkpoint gives another value")]


def test_a_wrong_row_does_not_hide_behind_its_double() -> None:
    change("fake", lambda t: pd.concat([t[t.metric == "area"].assign(value=99.0), t]))
    assert [row[-1] for row in wrong()] == ["the checkpoint gives another value"] * 4


def test_a_threshold_is_held_to_its_own_scale() -> None:
    change("fake", shifted(1.5 * THRESHOLD_SLACK, "threshold"))
    assert wrong() == [("fake", CHECKPOINTS[2], "threshold", "the checkpoint gives another value")]


def test_rows_too_many_too_few_and_of_another_count_are_found() -> None:
    change("fake", lambda t: t[(t.metric != "area") | (t.checkpoint != CHECKPOINTS[1])])
    assert wrong() == [("fake", CHECKPOINTS[1], "area", "is not in the table")]
    change("fake", lambda t: t.assign(metric=t.metric.where(t.checkpoint != CHECKPOINTS[2], t.metric + " of wood")))
    found = [(metric, verdict) for _, checkpoint, metric, verdict in wrong() if checkpoint == CHECKPOINTS[2]]
    assert ("area of wood", "the checkpoint does not give this metric") in found
    assert ("area", "is not in the table") in found
    change("fake", lambda t: t.assign(n=t.n + (t.checkpoint == CHECKPOINTS[0])))
    assert ("fake", CHECKPOINTS[0], "area", "rests on 9, not on 10") in wrong()


def test_a_checkpoint_that_cannot_be_read_fails_all_its_rows(stored: Path) -> None:
    (stored / CHECKPOINTS[0]).write_bytes(b"nothing")
    (stored / CHECKPOINTS[1]).unlink()
    found = audit([STUDY], QUIET).set_index("checkpoint").verdict
    for lost in CHECKPOINTS[:2]:
        assert len(found[lost]) == 4 and found[lost].str.startswith("cannot be computed: There is no checkpoint").all()
    assert set(found[CHECKPOINTS[2:]]) == {"holds"}


def test_only_some_tables_or_checkpoints() -> None:
    assert set(audit([STUDY], QUIET, ["edges"]).table) == {"edges"}
    assert set(audit([STUDY], QUIET, checkpoints=CHECKPOINTS[:1]).checkpoint) == {CHECKPOINTS[0]}
    assert audit([STUDY], QUIET, checkpoints=["another"]).empty
    with pytest.raises(UnknownNameError, match="egdes"):
        audit([STUDY], QUIET, ["egdes"])


def test_what_has_no_checkpoint_is_passed_over(stored: Path) -> None:
    change("fake", lambda t: t.assign(checkpoint=""))
    (stored / "results" / "edges.csv").unlink()
    assert list(audit([STUDY], QUIET).columns) == list(AUDIT_COLUMNS) and audit([STUDY], QUIET).empty
    assert audit([dataclasses.replace(STUDY, again=None)], QUIET).empty


def threads_and_loads(path: Path, bench: Bench) -> dict[str, dict[str, Estimate]]:
    loads = Estimate(bench.load(number_of_load), 0, 1)
    return {"fake": {"area": Estimate(torch.get_num_threads(), 0, 9), "loads": loads}}


def number_of_load() -> int:
    """How often this was asked for in all processes, this time included."""
    with open(results_dir() / "loads.txt", "a") as log:
        log.write("1")
    return (results_dir() / "loads.txt").stat().st_size


def test_processes_share_the_checkpoints_with_a_thread_each() -> None:
    get_reusable_executor().shutdown(wait=True, kill_workers=True)  # those of another test are in another folder
    counting = dataclasses.replace(STUDY, again=threads_and_loads, tables=())
    found = audit([counting], QUIET, processes=2)
    assert found.checkpoint.drop_duplicates().tolist() == CHECKPOINTS  # in order, whoever is done first
    assert set(found[found.metric == "area"].again) == {1}
    assert (results_dir() / "loads.txt").stat().st_size <= 2


def test_the_command_fails_where_a_number_does_not_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "all_studies", lambda: [STUDY])
    monkeypatch.setenv("TQDM_DISABLE", "1")
    good = CliRunner().invoke(cli.app, ["audit", "--only", "fake"])
    assert good.exit_code == 0 and "8 of 8 stored numbers of 4 checkpoints hold" in good.output
    change("fake", shifted(5, "area"))
    bad = CliRunner().invoke(cli.app, ["audit", "--only", "fake"])
    assert bad.exit_code == 1 and "7 of 8 stored numbers" in bad.output
    assert f"fake, {CHECKPOINTS[2]}, area: 9.0 stored, 4.0 now: the checkpoint gives another value" in bad.output
