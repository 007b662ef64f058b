"""The mechanism of all studies: nothing is run twice, nothing is lost, nothing of other settings counts as stored."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from fake_study import FAKE, Size, carry_out, log, runs

from siamese_utils.data.cifar import load_cifar100
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import ConfigError, ResultsError, TrainingError, UnknownNameError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store
from siamese_utils.experiments import study as mechanism
from siamese_utils.experiments.plan import plan
from siamese_utils.experiments.study import (
    Bench,
    Outcome,
    Run,
    Study,
    as_stored,
    complete,
    keep,
    run_study,
    select,
    stored,
)
from siamese_utils.system import project as places
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

QUIET = Bench("cpu", progress=False)
HERE = Path(__file__).parent


@pytest.fixture
def ground(project: Path) -> Path:
    """An empty project with the file that the fake study rests on."""
    path = project / "results" / "ground.txt"
    path.write_text("firm")
    return path


def done(study: Study = FAKE, runs: list[Run] | None = None, **options: object) -> list[str]:
    return [run.label for run, _ in run_study(study, runs, QUIET, patience=0.01, **options)]


def test_every_run_is_carried_out_once_and_all_is_written(ground: Path) -> None:
    assert {stored(FAKE, run) for run in runs()} == {"no"}
    assert done() == log() == ["side1-seed0", "side1-seed1", "side2-seed0", "side2-seed1"]
    assert {stored(FAKE, run) for run in runs()} == {"yes"}
    assert done() == [] and len(log()) == 4
    table = FAKE.table()
    assert list(table.columns) == ["side", "seed", "metric", "value", "ci95", "n", "checkpoint"]
    assert table[table.metric == "area"].value.tolist() == [1, 1, 4, 4]
    assert table.checkpoint[0] == "results/checkpoints/side1-seed0.bin"
    edges = store.read_table(ground.parent / "edges.csv")
    assert edges.value.tolist() == [4, 4, 8, 8] and list(edges.columns) == list(table.columns)
    assert (ground.parent / "notes" / "last.txt").read_text() == "side2-seed1"
    record = json.loads((ground.parent / "studies" / "fake" / "side2-seed1.json").read_text())
    assert record["config"] == {"side": 2} and record["side"] == 2 and record["expectation"].startswith("A larger")
    assert record["provenance"]["precision"] == "float32" and list(record["built_on"]) == ["results/ground.txt"]
    assert not list((ground.parents[1] / "runs" / "fake").glob("side*[0-9]"))  # the folders of finished runs are gone


def test_selected_seed_by_seed(ground: Path) -> None:
    assert [run.label for run in select(FAKE)] == ["side1-seed0", "side2-seed0", "side1-seed1", "side2-seed1"]
    assert [run.label for run in select(FAKE, only=["2"], seeds=[1])] == ["side2-seed1"]
    assert [run.label for run in select(FAKE, only=["side1-seed0"])] == ["side1-seed0"]
    assert [run.label for run in select(FAKE, sides="3")] == ["side3-seed0", "side3-seed1"]
    with pytest.raises(UnknownNameError, match="run of fake 'three'"):
        select(FAKE, only=["three"])
    with pytest.raises(ConfigError, match=r"has the seed 5; the seeds fixed beforehand are \[0, 1\]"):
        select(FAKE, seeds=[0, 5])


def test_a_missing_checkpoint_is_made_again(ground: Path) -> None:
    done()
    (ground.parent / "checkpoints" / "side2-seed0.bin").unlink()
    assert done() == ["side2-seed0"]
    assert len(FAKE.table()) == 8


@pytest.mark.parametrize("change", ["settings", "younger field", "ground", "record", "recipe of the checkpoint"])
def test_what_other_settings_made_is_refused_and_replaced_when_asked(ground: Path, change: str) -> None:
    done()
    before = FAKE.path.read_bytes()
    asked, study = runs(), FAKE
    if change == "settings":
        asked = [dataclasses.replace(run, settings={**run.settings, "collapse": 0.5}) for run in asked]
    elif change == "younger field":
        asked = runs(shape="round")
    elif change == "ground":
        ground.write_text("sand")
    elif change == "record":
        (ground.parent / "studies" / "fake" / "side1-seed0.json").write_text("{")
    else:  # a run of another key whose checkpoint would take the place of a stored one
        asked = [Run({"side": 9, "seed": 0}, {"config": Size(9), "collapse": False})]
        study = dataclasses.replace(FAKE, checkpoint=lambda run: ground.parent / "checkpoints" / "side1-seed0.bin")
    assert stored(study, asked[0]) == "other"
    with pytest.raises(ResultsError, match="was made with other settings than asked for now; add --again"):
        done(study, asked)
    assert FAKE.path.read_bytes() == before and len(log()) == 4
    if change == "settings":
        asked = runs(shape="round")
    again = done(study, asked, again=True)
    assert again and {stored(study, run) for run in asked} == {"yes"}
    assert done(study, asked) == []


def test_records_from_before_a_field_count(ground: Path) -> None:
    done()
    path = FAKE.record_path(runs()[0])
    record = json.loads(path.read_text())
    assert "shape" not in record["config"] and stored(FAKE, runs()[0]) == "yes"
    record["config"]["shape"] = "square"
    path.write_text(json.dumps(record))
    assert stored(FAKE, runs()[0]) == "yes"
    record["config"] = {"corner": 3}
    path.write_text(json.dumps(record))
    assert stored(FAKE, runs()[0]) == "other"


def test_a_collapse_is_a_result_or_a_failure(ground: Path) -> None:
    with pytest.raises(TrainingError, match=r"2 of 4 runs failed, all others are stored\. side1-seed0: side1-"):
        done(runs=runs(collapse="1"))
    assert set(FAKE.table().side) == {2}
    study = dataclasses.replace(FAKE, files_failures=True)
    assert len(done(study, runs(collapse="1"))) == 2
    failed = FAKE.table().query("side == 1")
    assert failed.metric.tolist() == ["failed", "failed"] and failed.value.eq(1).all()
    assert "collapsed" in study.read_record(runs()[0])["error"]
    assert done(study, runs(collapse="1")) == []


def child(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    program = (
        "from fake_study import *; from siamese_utils.experiments.study import Bench, run_study; "
        "[None for _ in run_study(FAKE, None, Bench('cpu', progress=False), patience=0.01)]"
    )
    command = [sys.executable, "-c", program]
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "PYTHONPATH": path, **environment}
    return subprocess.run(command, cwd=project, env=settings, timeout=120, capture_output=True, text=True)


def test_killed_it_goes_on_where_it_was(ground: Path) -> None:
    project = ground.parents[1]
    assert child(project, FAKE_DEATH="side2-seed0").returncode == -9
    assert set(FAKE.table().side) == {1}
    assert done() == ["side2-seed0", "side2-seed1"]
    assert log() == ["side1-seed0", "side1-seed1", "side2-seed0", "side2-seed0 resumed", "side2-seed1"]


def test_killed_between_its_files_nothing_half_counts(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was the last file to be written, the run counts as stored only with its rows, which come last."""
    run, real = runs()[0], os.replace
    outcome = carry_out(run, QUIET.at(FAKE.folder(run)))
    written: list[str] = []

    def dies_at(number: int) -> None:
        def replace(source: str, target: str, **more: object) -> None:
            if len(written) == number:
                raise KeyboardInterrupt
            written.append(Path(target).name)
            real(source, target, **more)

        written.clear()
        monkeypatch.setattr(os, "replace", replace)

    for number in range(5):
        dies_at(number)
        with pytest.raises(KeyboardInterrupt):
            keep(FAKE, run, outcome, {})
        assert stored(FAKE, run) == "no"
    dies_at(5)
    keep(FAKE, run, outcome, {})
    assert written == ["side1-seed0.bin", "last.txt", "edges.csv", "side1-seed0.json", "fake.csv"]
    assert stored(FAKE, run) == "yes"

    # Done anew with other settings: the old rows must not pass for the new run's.
    monkeypatch.setattr(os, "replace", real)
    keep(FAKE, runs()[1], outcome, {})
    other = dataclasses.replace(run, settings={**run.settings, "more": 1})
    assert stored(FAKE, other) == "other"
    for number in range(6):
        monkeypatch.setattr(os, "replace", real)
        keep(FAKE, run, outcome, {})
        dies_at(number)
        with pytest.raises(KeyboardInterrupt):
            keep(FAKE, other, outcome, {})
        assert stored(FAKE, other) == ("other" if number == 0 else "no") and stored(FAKE, runs()[1]) == "yes"
    dies_at(6)
    keep(FAKE, other, outcome, {})
    assert stored(FAKE, other) == "yes" and written[-1] == "fake.csv"


def test_two_processes_share_a_study(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_SECONDS", "0.2")
    other = threading.Thread(target=child, args=(ground.parents[1],))
    other.start()
    done()
    other.join()
    assert sorted(log()) == ["side1-seed0", "side1-seed1", "side2-seed0", "side2-seed1"]
    assert len(FAKE.table()) == 8


def test_a_run_that_another_process_is_at_is_left_to_it(ground: Path) -> None:
    with mechanism._lock(FAKE, runs()[0]):
        waiting = run_study(FAKE, None, QUIET, patience=0.01)
        assert [next(waiting)[0].label for _ in range(3)] == ["side1-seed1", "side2-seed0", "side2-seed1"]
    assert [run.label for run, _ in waiting] == ["side1-seed0"]


def test_runs_whose_names_begin_alike_do_not_wait_for_each_other(ground: Path) -> None:
    first, second = (Run({"rate": rate, "seed": 0}, {}) for rate in (0.05, 0.1))
    assert "." in first.label != second.label
    with mechanism._lock(FAKE, first), mechanism._lock(FAKE, second):
        assert len(list(FAKE.folder(first).parent.glob("*.lock"))) == 2


def test_rows_are_removed_by_their_key_alone(project: Path) -> None:
    path = project / "results" / "some.csv"
    store.remove_rows(path, {"side": 1})  # nothing to remove
    for side in (1, 2):
        store.store_rows(path, {"side": side}, {"area": Estimate(side * 1.25, 0.5, 3)})
    before = path.read_text().splitlines()
    store.remove_rows(path, {"side": 3})
    assert path.read_text().splitlines() == before
    store.remove_rows(path, {"side": 1})
    assert path.read_text().splitlines() == [before[0], before[2]]
    store.remove_rows(path, {"side": 2})
    assert not path.exists()


def test_complete_gives_the_table(ground: Path) -> None:
    pd.testing.assert_frame_equal(complete(FAKE, QUIET), FAKE.table())


def test_anew_what_is_published_is_shown_and_carried_out_again_nonetheless(ground: Path) -> None:
    published = complete(FAKE, QUIET)
    count, path = len(log()), FAKE.path
    before = path.read_bytes()
    with places.at(places.own_folder(), anew=True):
        run, other = select(FAKE)[:2]
        assert all(FAKE.shows(one) and stored(FAKE, one) == "no" for one in (run, other))
        pd.testing.assert_frame_equal(FAKE.table(), published)
        (places.results_dir()).mkdir(parents=True)
        (places.results_dir() / "ground.txt").write_text("another ground")
        complete(FAKE, QUIET, [run])
        assert [stored(FAKE, one) for one in (run, other)] == ["yes", "no"]
        assert log() == [run.label]
        assert len(FAKE.table()) == len(published)
        # Rows without a record of their own are not taken for what the published record tells of.
        FAKE.record_path(run).unlink()
        assert FAKE.read_record(run) and stored(FAKE, run) == "other"
    assert path.read_bytes() == before and len(log()) == count


def test_plan_has_hours_and_what_is_stored(ground: Path) -> None:
    table = plan(FAKE, runs())
    assert table.columns.tolist() == ["side", "seed", "images", "minutes", "stored"]
    assert table.images.tolist() == [100, 100, 200, 200] and set(table.stored) == {"no"}
    assert table.minutes.isna().all()  # nothing to go by yet
    assert plan(FAKE, runs(), rate=100).minutes.tolist() == pytest.approx([1 / 60, 1 / 60, 2 / 60, 2 / 60])
    done()
    record = FAKE.read_record(runs()[0])
    assert plan(FAKE, runs(shape="round")).stored.tolist() == ["other"] * 4
    assert plan(FAKE, runs()).minutes.tolist() == pytest.approx([100 / 200 / 60] * 2 + [200 / 200 / 60] * 2)
    record["provenance"]["processor"] = "another"
    for run in runs():
        FAKE.record_path(run).write_text(json.dumps({**record, **run.plain()}))
    assert plan(FAKE, runs()).minutes.isna().all()


def test_precision_is_what_the_configuration_asks_for(ground: Path) -> None:
    config = TrainConfig(recipe="x", terms=(Term("proxy"),), precision="bfloat16")
    for settings, precision in (({"config": config}, "bfloat16"), ({}, "float32")):
        run = Run({"side": 1, "seed": 0}, settings)
        outcome = Outcome({"area": Estimate(1, 0, 1)})
        study = dataclasses.replace(FAKE, carry_out=lambda run, bench, outcome=outcome: outcome, checkpoint=None)
        assert done(study, [run], again=True) == [run.label]
        assert study.read_record(run)["provenance"]["precision"] == precision
        FAKE.path.unlink()


def test_rows_of_other_shapes(ground: Path) -> None:
    """A wide table, and rows with columns beside the key."""
    rows = pd.DataFrame({"shots": [1, 5], "accuracy": [30.0, 50.0]})
    study = dataclasses.replace(
        FAKE, carry_out=lambda run, bench: Outcome(rows), columns=("side", "seed", "shots", "accuracy"), checkpoint=None
    )
    done(study)
    assert study.table().accuracy.tolist() == [30, 50] * 4
    narrow = dataclasses.replace(study, columns=("side", "seed", "shots"))
    FAKE.path.unlink()
    with pytest.raises(ResultsError, match="do not fit the columns"):
        done(narrow)


def test_data_are_loaded_when_they_are_asked_for() -> None:
    calls = []

    def loader(part: str) -> str:
        calls.append(part)
        return part.upper()

    bench = Bench()
    assert (bench.load(loader, "a"), bench.load(loader, "a")) == ("A", "A") and calls == ["a"]
    given = Bench(given={(loader, "a"): "mine", (load_cifar100, "test"): "images"})
    assert given.at(None).load(loader, "a") == "mine" and given.test_set == "images" and calls == ["a"]


def test_a_run_may_be_built_on_a_file_that_it_makes_itself(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does that trains a network only where it is missing."""
    (run,) = runs("1", "0")
    made = ground.with_name("network.bin")

    def make_and_carry_out(run: Run, bench: Bench) -> Outcome:
        made.write_bytes(b"trained")
        return dataclasses.replace(carry_out(run, bench), checkpoint=None)

    # Its own clock alone: what asks Git for the commit may sleep.
    monkeypatch.setattr(mechanism, "time", SimpleNamespace(sleep=lambda seconds: pytest.fail("waits for itself")))
    resting = dataclasses.replace(run, built_on=(made,))
    for name, checkpoint in (("own", lambda run: made), ("beside", None)):
        making = dataclasses.replace(FAKE, name=name, carry_out=make_and_carry_out, checkpoint=checkpoint)
        made.unlink(missing_ok=True)
        assert done(making, [resting]) == [run.label] and stored(making, resting) == "yes"


def test_the_record_names_the_network_that_a_run_made_again(ground: Path) -> None:
    """In one's own folder a published network is made again before what rests on it, and may get other bits."""
    bits = [b"published"]

    def train(run: Run, bench: Bench) -> Outcome:
        return dataclasses.replace(carry_out(run, bench), checkpoint=bits[0])

    networks = dataclasses.replace(FAKE, carry_out=train)

    def resting_runs() -> list[Run]:
        (network,) = runs("1", "0")
        return [Run({"side": 9, "seed": 0}, {}, built_on=(networks.checkpoint_path(network),))]

    def rest(run: Run, bench: Bench) -> Outcome:
        complete(networks, bench, runs("1", "0"))
        return Outcome({"area": Estimate(1.0, 0.0, 1)})

    resting = Study("resting", "On what?", resting_runs, rest, key=("side", "seed"))
    assert done(resting) == ["side9-seed0"] and stored(resting, resting_runs()[0]) == "yes"
    bits[0] = b"made again"
    with places.at(places.own_folder()):
        assert done(resting) == ["side9-seed0"] and log() == ["side1-seed0"]
        assert networks.checkpoint_path(runs("1", "0")[0]).read_bytes() == b"made again"
        assert stored(resting, resting_runs()[0]) == "yes" and done(resting) == []
    assert networks.checkpoint_path(runs("1", "0")[0]).read_bytes() == b"published"


def test_what_is_built_on_another_run_waits_for_it(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that take the last run first show it."""
    from siamese_utils.system import cluster

    def backwards(function, jobs, scheduler):
        yield from [function(*arguments) for arguments in reversed(jobs)]

    def tower() -> list[Run]:
        first, second, third = runs("1,2,3", "0")
        return [
            first,
            dataclasses.replace(second, built_on=(FAKE.checkpoint_path(first),)),
            dataclasses.replace(third, built_on=(FAKE.checkpoint_path(second),)),
        ]

    monkeypatch.setattr(cluster, "spread", backwards)
    study = dataclasses.replace(FAKE, runs=tower)
    assert done(study, scheduler="tcp://x") == log() == ["side1-seed0", "side2-seed0", "side3-seed0"]
    assert {stored(study, run) for run in tower()} == {"yes"}


def test_a_file_that_changes_while_a_run_uses_it(ground: Path) -> None:
    """The record tells what the run began with, so that what it gave does not pass for what the new file gives."""

    def disturbed(run: Run, bench: Bench) -> Outcome:
        ground.write_text("shifted")
        return carry_out(run, bench)

    run = runs("1", "0")[0]
    done(dataclasses.replace(FAKE, carry_out=disturbed), [run])
    assert stored(FAKE, run) == "other"
    ground.write_text("firm")
    assert stored(FAKE, run) == "yes"


def test_a_further_table_that_was_lost_is_made_again(ground: Path) -> None:
    done()
    edges = FAKE.path.with_name("edges.csv")
    whole = edges.read_text()
    edges.write_text("".join(line for line in whole.splitlines(keepends=True) if not line.startswith("2,1,")))
    assert done() == ["side2-seed1"] and sorted(edges.read_text().split()) == sorted(whole.split())
    edges.unlink()
    assert len(done()) == 4 and edges.read_text() == whole
    for path in map(FAKE.record_path, runs()):  # as records were before they told their tables
        path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "tables"}))
    assert done() == []
    edges.unlink()
    assert {stored(FAKE, run) for run in runs()} == {"no"}


@pytest.mark.slow
def test_cluster_of_two_workers_one_of_them_killed(ground: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("FAKE_SECONDS", "0.5")
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as two:
        ended = run_study(FAKE, None, QUIET, scheduler=two.scheduler_address, patience=0.1)
        first = next(ended)[0].label
        next(iter(two.workers.values())).process.process.kill()
        others = [run.label for run, _ in ended]
    assert sorted([first, *others]) == ["side1-seed0", "side1-seed1", "side2-seed0", "side2-seed1"]
    assert {stored(FAKE, run) for run in runs()} == {"yes"}


def test_a_scheduler_that_is_not_there_or_has_no_workers(ground: Path) -> None:
    from siamese_utils.system import cluster

    distributed = pytest.importorskip("distributed")
    with pytest.raises(ConfigError, match="No Dask scheduler answers at nonsense://x"):
        done(scheduler="nonsense://x")
    with (
        distributed.LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as empty,
        pytest.raises(ConfigError, match="No worker has joined the scheduler"),
    ):
        list(cluster.spread(max, [(1, 2)], empty.scheduler_address, seconds=0.2))


def test_a_large_encoder_is_stored_in_half_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder, images = Encoder("conv3").eval(), torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    same, whole = as_stored(encoder, {"seed": 0})
    monkeypatch.setattr(mechanism, "LARGEST_CHECKPOINT", len(whole) - 1)
    near, half = as_stored(encoder, {"seed": 0})
    assert len(half) < 0.6 * len(whole)
    z = encoder.embed(images)
    off = [float((loaded.embed(images) - z).abs().max()) for loaded in (same, near)]
    assert 0 < off[0] < off[1] < 0.03
