"""The sweep: what is planned, that nothing is lost or doubled, one machine or a cluster."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import SPLIT_NAMES
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.errors import CollapseError, ConfigError, SplitError, UnknownNameError
from siamese_utils.evaluation.protocol import METRICS
from siamese_utils.experiments import store
from siamese_utils.experiments import store as results
from siamese_utils.studies.splits import growth, stored
from siamese_utils.studies.splits import study as sweep
from siamese_utils.studies.splits.study import (
    SplitRun,
    is_stored,
    plan,
    plan_table,
    planned_images,
    reevaluate,
    run_sweep,
    train_run,
)
from siamese_utils.training import recipes
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term
from siamese_utils.training.recipes import FewClasses

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[1]
TINY = TrainConfig(
    recipe="tiny", terms=(Term("proxy"),), encoder="conv3", embedding_dim=8, epochs=2, batch_size=24,
    images_per_class=2, held_out_images=4, resolutions=((0.0, 16),),
)  # fmt: skip
RUNS = [SplitRun(split, draw, 0, "tiny") for draw in (0, 1) for split in ("7-5", "6-6")]


def synthetic_parts() -> tuple[ImageSet, ImageSet]:
    return make_synthetic("train", num_classes=12, per_class=16), make_synthetic("test", num_classes=12, per_class=20)


@pytest.fixture(scope="module")
def parts() -> tuple[ImageSet, ImageSet]:
    return synthetic_parts()


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    return project


def local(runs: list[SplitRun], parts: tuple[ImageSet, ImageSet]) -> None:
    run_sweep(runs, data=parts, device="cpu", progress=False, patience=0.1)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return load_encoder(path).state_dict()


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def check_complete(runs: list[SplitRun], parts: tuple[ImageSet, ImageSet]) -> None:
    """Every run once, every metric once, and every checkpoint gives its rows."""
    table = stored.split_sweep()
    for beside in (growth.growth_path(), growth.class_path()):
        rows = results.read_table(beside, store.SPLIT_SWEEP_COLUMNS)
        assert not rows.duplicated(["split", "draw", "seed", "recipe", "metric"]).any()
        assert set(rows.checkpoint) == set(table.checkpoint)
    assert not table.duplicated(["split", "draw", "seed", "recipe", "metric"]).any()
    assert set(zip(table.split, table.draw, strict=True)) == {(run.split, run.draw) for run in runs}
    for run in runs:
        rows = table[(table.split == run.split) & (table.draw == run.draw)]
        assert set(rows.metric) == set(METRICS)
        again = reevaluate(Path(rows.checkpoint.iloc[0]), *parts)
        for row in rows.itertuples():
            assert row.value == pytest.approx(again.metrics[row.metric].value, abs=1e-3)
        assert results.load_json(run.name)["draw"] == run.draw


# -------------------------------------------------------------------------------------------- plan


def test_plan_has_every_split_of_every_draw() -> None:
    runs = plan(SPLIT_NAMES, (0, 1, 2))
    assert len(runs) == len(set(runs)) == 30
    assert [run.draw for run in runs] == [0] * 10 + [1] * 10 + [2] * 10
    with pytest.raises(SplitError, match="91-9"):
        plan(["91-9x"], (0,))
    with pytest.raises(SplitError):
        plan(["90-10"], (-1,))
    with pytest.raises(UnknownNameError, match="smoke"):
        plan(["90-10"], (0,), recipe_name="smoek")


def test_a_recipe_may_treat_few_classes_otherwise(
    project: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.FEW_CLASSES, "tiny", FewClasses(6, {"turned_classes": True, "epochs": 1}))
    many, few = RUNS[:2]
    assert (many.split, few.split) == ("7-5", "6-6")
    assert many.config == TINY and few.config == dataclasses.replace(TINY, turned_classes=True, epochs=1)
    assert recipes.recipe("tiny") == recipes.recipe("tiny", 7) == TINY
    record = train_run(few, *parts, device="cpu", progress=False).record
    assert record["config"]["turned_classes"]
    assert planned_images(few, parts[0]) == 4 * 72  # six classes of 12 images, in four turns


def test_plan_counts_the_images_that_training_shows(
    project: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = plan_table(RUNS, parts[0], rate=100)
    assert not table.stored.any()
    record = train_run(RUNS[0], *parts, device="cpu", progress=False).record
    shown = sum(row["images_per_second"] * row["seconds"] for row in record["history"])
    assert planned_images(RUNS[0], parts[0]) == table.images[0] == pytest.approx(shown)
    assert table.minutes[0] == pytest.approx(shown / 6000)
    local(RUNS[:1], parts)
    assert plan_table(RUNS, parts[0], rate=100).stored.tolist() == [True, False, False, False]
    rate = sweep.stored_rate("tiny")
    assert rate == pytest.approx(shown / results.load_json(RUNS[0].name)["seconds"], rel=0.9)
    assert sweep.stored_rate("smoke") is None
    record = results.load_json(RUNS[0].name)
    for key in ("processor", "precision", "device"):  # of a machine that computes otherwise
        results.store_json(RUNS[0].name, {**record, "provenance": {**record["provenance"], key: "another"}})
        assert sweep.stored_rate("tiny") is None
    results.store_json(RUNS[0].name, record)
    assert sweep.measured_rate(dataclasses.replace(TINY, resolutions=((0.0, 16), (0.5, 32))), parts[0]) > 0


# ------------------------------------------------------------------------------------ one machine


def test_sweep_stores_every_run_once(
    project: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    local(RUNS, parts)
    check_complete(RUNS, parts)
    before = (project / "results" / "split_sweep.csv").read_bytes()
    monkeypatch.setattr(sweep, "train", lambda *_, **__: pytest.fail("trained again"))
    local(RUNS, parts)
    assert (project / "results" / "split_sweep.csv").read_bytes() == before
    assert not any(run.folder.exists() for run in RUNS)


def test_changed_recipe_is_trained_again(
    project: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    local(RUNS[:1], parts)
    monkeypatch.setitem(recipes.RECIPES, "tiny", dataclasses.replace(TINY, epochs=1))
    assert not is_stored(RUNS[0])
    local(RUNS[:1], parts)
    assert is_stored(RUNS[0]) and len(results.load_json(RUNS[0].name)["history"]) == 1


def test_missing_checkpoint_is_made_again(project: Path, parts: tuple[ImageSet, ImageSet]) -> None:
    local(RUNS[:1], parts)
    path = stored.checkpoint_path(RUNS[0].split, RUNS[0].draw)
    content = tensors(path)
    path.unlink()
    assert not is_stored(RUNS[0])
    local(RUNS[:1], parts)
    assert_same(tensors(path), content)


def test_failed_run_does_not_stop_the_others(
    project: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sweep.train

    def failing(config: TrainConfig, train_set: ImageSet, classes: tuple[int, ...], **more: object) -> object:
        if len(tuple(classes)) == 7:
            raise CollapseError("all the same")
        return real(config, train_set, classes, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sweep, "train", failing)
    with pytest.raises(sweep.TrainingError, match=r"2 of 4 runs failed.*7-5 draw 1: all the same"):
        local(RUNS, parts)
    check_complete([run for run in RUNS if run.split == "6-6"], parts)


def sweep_in_a_process(folder: str) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    recipes.RECIPES["tiny"] = TINY
    local(RUNS, synthetic_parts())


@pytest.mark.slow
def test_two_sweeps_on_one_folder(project: Path, parts: tuple[ImageSet, ImageSet]) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=sweep_in_a_process, args=(str(project),)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=300)
        assert process.exitcode == 0
    check_complete(RUNS, parts)


def test_run_that_another_process_is_at_is_left_to_it(
    project: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are done first; the one that was taken is looked at again until it is stored or free."""
    order: list[str] = []
    real_store = sweep.store
    monkeypatch.setattr(sweep, "store", lambda finished: (order.append(finished.run.split), real_store(finished)))
    RUNS[0].folder.mkdir(parents=True)
    lock = FileLock(RUNS[0].folder.with_suffix(".lock"), thread_local=False)
    lock.acquire()
    threading.Timer(1.0, lock.release).start()
    local(RUNS[:2], parts)
    assert order == ["6-6", "7-5"]
    check_complete(RUNS[:2], parts)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows knows no SIGKILL")
def test_killed_sweep_goes_on_where_it_was(project: Path, parts: tuple[ImageSet, ImageSet]) -> None:
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=sweep_in_a_process, args=(str(project),))
    process.start()
    table = project / "results" / "split_sweep.csv"
    deadline = time.monotonic() + 120
    while not table.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    first = table.read_text().splitlines()
    assert len(first) > len(METRICS)
    local(RUNS, parts)
    assert table.read_text().splitlines()[: len(first)] == first
    check_complete(RUNS, parts)


# ---------------------------------------------------------------------------------------- cluster

WORKER = """
import os, sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, {tests!r})
import test_sweep
from siamese_utils.training import recipes
recipes.RECIPES["tiny"] = test_sweep.TINY
from distributed.cli.dask_worker import main
main([sys.argv[1], "--nthreads", "1", "--no-dashboard", "--no-nanny", "--host", "127.0.0.1"])
"""


@pytest.fixture
def scheduler(project: Path) -> Iterator[str]:
    """A Dask scheduler on the loopback interface."""
    pytest.importorskip("distributed")
    file = project / "scheduler.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
         "--no-dashboard", "--scheduler-file", str(file)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.2)
        yield json.loads(file.read_text())["address"]
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows knows no SIGKILL")
def test_cluster_of_two_workers_one_of_them_killed(
    project: Path, parts: tuple[ImageSet, ImageSet], scheduler: str
) -> None:
    code = WORKER.format(tests=str(ROOT / "tests"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", code, scheduler], cwd=project, env=environment,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]  # fmt: skip
    killed = threading.Event()

    def kill_one() -> None:
        """As soon as the first run is in training."""
        deadline = time.monotonic() + 120
        while not any((run.folder / "state.pt").exists() for run in RUNS) and time.monotonic() < deadline:
            time.sleep(0.02)
        workers[0].kill()
        killed.set()

    threading.Thread(target=kill_one, daemon=True).start()
    try:
        run_sweep(RUNS, scheduler=scheduler, data=parts, device="cpu", progress=False, patience=0.1)
        assert killed.is_set() and workers[0].wait(timeout=30) != 0
        check_complete(RUNS, parts)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


def test_scheduler_without_workers(
    project: Path, parts: tuple[ImageSet, ImageSet], scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_WORKER_SECONDS", 1)
    with pytest.raises(ConfigError, match="No worker has joined"):
        run_sweep(RUNS, scheduler=scheduler, data=parts, progress=False)


def test_no_scheduler_at_the_address(project: Path, parts: tuple[ImageSet, ImageSet]) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(ConfigError, match="No Dask scheduler"):
        run_sweep(RUNS, scheduler="tcp://127.0.0.1:9", data=parts, progress=False)


def test_stored_weights_are_those_of_an_undisturbed_training(project: Path, parts: tuple[ImageSet, ImageSet]) -> None:
    run = RUNS[1]
    local([run], parts)
    again = train_run(run, *parts, device="cpu", progress=False)
    path = project / "again.safetensors"
    path.write_bytes(again.checkpoint)
    assert_same(tensors(path), tensors(stored.checkpoint_path(run.split, run.draw)))
