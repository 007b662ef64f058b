"""Results tables: replacing a run's rows and nothing else, two writers at once, and where numbers came from."""

from __future__ import annotations

import datetime
import json
import multiprocessing
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.protocol import METRICS
from siamese_utils.experiments import store
from siamese_utils.experiments.store import has_rows, load_json, read_table, result, store_json, store_rows
from siamese_utils.system.files import atomic_path, write_bytes_atomically, write_text_atomically
from siamese_utils.system.project import at, is_anew, move_to, project_root, results_dir
from siamese_utils.system.provenance import provenance

KEY = {"split": "90-10", "draw": 0, "seed": 0, "recipe": "proxy-triplet"}
COLUMNS = (*KEY, "metric", "value", "ci95", "n", "checkpoint")
METRIC_VALUES = {"acc_5w1s": Estimate(70.123456, 0.21987, 10_000), "acc_5w5s": Estimate(85.0, 0.1, 10_000)}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, so that no test can touch the real results."""
    root = tmp_path / "project"
    for folder in ("results", "siamese_utils", "notebooks"):
        (root / folder).mkdir(parents=True)
    monkeypatch.chdir(root)
    return root


def put(
    key: dict[str, Any],
    metrics: dict[str, Estimate],
    checkpoint: str = "",
    path: Path | None = None,
    columns: tuple[str, ...] = COLUMNS,
) -> pd.DataFrame:
    """Store rows and give the table as it then is."""
    path = path or results_dir() / "table.csv"
    store_rows(path, key, metrics, checkpoint, columns)
    return read_table(path, columns)


def table_here(*key: str) -> pd.DataFrame:
    return read_table(results_dir() / "table.csv", COLUMNS, key)


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


# --------------------------------------------------------------------------------------------- where


def test_project_is_found_from_below(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert project_root().resolve() == project.resolve()
    monkeypatch.chdir(project / "notebooks")
    assert project_root().resolve() == project.resolve()
    assert results_dir().resolve() == (project / "results").resolve()


def test_outside_a_project_the_packages_own_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_root() == Path(store.__file__).resolve().parents[2]


# -------------------------------------------------------------------------------------------- tables


def test_rows_are_tidy(project: Path) -> None:
    table = put(KEY, METRIC_VALUES, "results/checkpoints/x.safetensors")
    assert lines(project / "results" / "table.csv") == [
        "split,draw,seed,recipe,metric,value,ci95,n,checkpoint",
        "90-10,0,0,proxy-triplet,acc_5w1s,70.1235,0.2199,10000,results/checkpoints/x.safetensors",
        "90-10,0,0,proxy-triplet,acc_5w5s,85.0,0.1,10000,results/checkpoints/x.safetensors",
    ]
    stored = table_here()
    pd.testing.assert_frame_equal(stored, table, check_dtype=False)
    assert tuple(stored.columns) == COLUMNS
    assert result(stored, metric="acc_5w1s", **KEY)["value"] == 70.1235


def test_no_checkpoint_stays_an_empty_text(project: Path) -> None:
    put(KEY, METRIC_VALUES, "")
    assert table_here()["checkpoint"].tolist() == ["", ""]
    put({**KEY, "seed": 1}, METRIC_VALUES, "")
    assert all(line.endswith(",10000,") for line in lines(project / "results" / "table.csv")[1:])


def test_only_rows_of_the_same_key_are_replaced(project: Path) -> None:
    path = project / "results" / "table.csv"
    others = [{**KEY, "split": "80-20"}, {**KEY, "draw": 1}, {**KEY, "seed": 1}, {**KEY, "recipe": "triplet"}]
    rng = np.random.default_rng(0)
    for number, key in enumerate((KEY, *others)):
        metrics = {name: Estimate(*rng.uniform(0, 100, 2), 50_000) for name in METRICS}
        put(key, metrics, f"{number}.safetensors")
    before = lines(path)
    put(KEY, {"acc_5w1s": Estimate(99.0, 0.5, 7)}, "b.safetensors")
    after = lines(path)
    own = before[1 : 1 + len(METRICS)]
    assert all(line.startswith("90-10,0,0,proxy-triplet,") for line in own)
    expected = [before[0], *before[1 + len(METRICS) :], "90-10,0,0,proxy-triplet,acc_5w1s,99.0,0.5,7,b.safetensors"]
    assert after == expected


def test_rows_of_an_overwritten_checkpoint_go(project: Path) -> None:
    put(KEY, METRIC_VALUES, "one.safetensors")
    put({**KEY, "draw": 1}, METRIC_VALUES, "other.safetensors")
    put({**KEY, "draw": 2}, METRIC_VALUES, "")
    put({**KEY, "recipe": "newer"}, METRIC_VALUES, "one.safetensors")
    table = table_here()
    assert set(zip(table.recipe, table.draw, strict=True)) == {("newer", 0), (KEY["recipe"], 1), (KEY["recipe"], 2)}
    put({**KEY, "draw": 3}, METRIC_VALUES, "")  # no checkpoint is nobody's checkpoint
    assert set(table_here().draw) == {0, 1, 2, 3}


def test_storing_again_changes_nothing(project: Path) -> None:
    path = project / "results" / "table.csv"
    put(KEY, METRIC_VALUES, "")
    first = path.read_bytes()
    put(KEY, METRIC_VALUES, "")
    assert path.read_bytes() == first


@given(values=st.lists(st.floats(0, 100), min_size=1, max_size=20))
def test_stored_numbers_survive_rewriting(values: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("t") / "t.csv"
    put(KEY, {f"m{n}": Estimate(v, v / 7, n) for n, v in enumerate(values)}, "", path=path)
    before = lines(path)
    put({**KEY, "draw": 1}, METRIC_VALUES, "", path=path)
    assert lines(path)[: len(before)] == before
    assert read_table(path)["value"][: len(values)].tolist() == [round(v, 4) for v in values]


def test_metric_without_an_interval_leaves_the_others_numbers(project: Path) -> None:
    put(KEY, {"exact": Estimate(90.0, float("nan"), 100), **METRIC_VALUES}, "")
    table = table_here()
    assert result(table, metric="acc_5w1s")["ci95"] == 0.2199
    assert pd.isna(result(table, metric="exact")["ci95"])


def test_recipe_that_looks_like_a_number_is_a_name(project: Path) -> None:
    key = {**KEY, "recipe": "007"}
    put(key, METRIC_VALUES, "")
    put(key, METRIC_VALUES, "")
    table = table_here()
    assert table["recipe"].tolist() == ["007", "007"]
    assert result(table, metric="acc_5w1s", **key)["value"] == 70.1235


def test_other_studies_have_their_own_columns(project: Path) -> None:
    columns = ("shots", "method", "metric", "value", "ci95", "n")
    path = project / "results" / "imprinting.csv"
    put({"shots": 1, "method": "cosine"}, METRIC_VALUES, "", path=path, columns=columns)
    put({"shots": 5, "method": "cosine"}, METRIC_VALUES, "", path=path, columns=columns)
    table = read_table(path, columns)
    assert result(table, shots=5, metric="acc_5w5s")["value"] == 85


def test_rows_of_a_key_are_found(project: Path) -> None:
    path = project / "results" / "study.csv"
    columns = ("trial", "seed", "metric", "value", "ci95", "n")
    assert not has_rows(path, {"trial": "a", "seed": 0}, columns)
    put({"trial": "a", "seed": 0}, {"m": Estimate(1, 0, 1)}, "", path, columns)
    assert has_rows(path, {"trial": "a", "seed": 0}, columns)
    assert not has_rows(path, {"trial": "a", "seed": 1}, columns)
    assert not has_rows(path, {"trial": "b", "seed": 0}, columns)
    with pytest.raises(ResultsError, match="columns"):
        has_rows(path, {"trial": "a"}, ("trial",))


def test_missing_and_ambiguous_rows(project: Path) -> None:
    table = put(KEY, METRIC_VALUES, "")
    with pytest.raises(ResultsError, match="found 0"):
        result(table, split="10-90", metric="acc_5w1s")
    with pytest.raises(ResultsError, match=r"found 2.*name more columns"):
        result(table, split="90-10")


def test_unknown_column(project: Path) -> None:
    with pytest.raises(ResultsError, match="spilt"):
        result(put(KEY, METRIC_VALUES, ""), spilt="90-10")


def test_missing_table(project: Path) -> None:
    with pytest.raises(ResultsError, match=r"no results table .*table\.csv"):
        table_here()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage", b'a,b\n"1,2\n', b"a,b\n1,2,3\n4,5,6,7\n"])
def test_damaged_table(project: Path, content: bytes) -> None:
    (project / "results" / "table.csv").write_bytes(content)
    with pytest.raises(ResultsError, match=r"table\.csv") as error:
        table_here()
    assert "\n" not in str(error.value)


def test_table_with_other_columns_is_left_alone(project: Path) -> None:
    path = project / "results" / "table.csv"
    path.write_text("split,draw,metric,value\n90-10,0,acc_5w1s,62.18\n")
    for action in (table_here, lambda: put(KEY, METRIC_VALUES, "")):
        with pytest.raises(ResultsError, match="has columns"):
            action()
    assert path.read_text() == "split,draw,metric,value\n90-10,0,acc_5w1s,62.18\n"


@pytest.mark.parametrize("key", [{"split": "90-10"}, {**KEY, "colour": "blue"}])
def test_key_that_does_not_fit_the_columns(project: Path, key: dict[str, object]) -> None:
    put(KEY, METRIC_VALUES, "")
    before = (project / "results" / "table.csv").read_bytes()
    with pytest.raises(ResultsError, match="columns"):
        put(key, METRIC_VALUES, "")
    assert (project / "results" / "table.csv").read_bytes() == before


def test_run_without_metrics(project: Path) -> None:
    with pytest.raises(ResultsError, match="nothing to store"):
        put(KEY, {}, "")


def write_ten_runs(path: str, draw: int) -> None:
    for seed in range(10):
        put({**KEY, "draw": draw, "seed": seed}, METRIC_VALUES, f"{draw}-{seed}", path=Path(path))


def test_two_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    # Forked processes start at once and thus really compete; elsewhere they are started afresh.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    writers = [context.Process(target=write_ten_runs, args=(str(path), draw)) for draw in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(timeout=120)
        assert writer.exitcode == 0
    table = read_table(path, COLUMNS)
    assert len(table) == 2 * 10 * len(METRIC_VALUES) and not table.duplicated().any()
    assert set(table["checkpoint"]) == {f"{draw}-{seed}" for draw in (1, 2) for seed in range(10)}


def test_failing_write_leaves_the_old_table(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "results" / "table.csv"
    put(KEY, METRIC_VALUES, "")
    before = path.read_bytes()

    def full_disk(*_: object) -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("siamese_utils.system.files.os.replace", full_disk)
        with pytest.raises(OSError, match="No space"):
            put({**KEY, "seed": 1}, METRIC_VALUES, "")
    assert path.read_bytes() == before
    assert {entry.name for entry in path.parent.iterdir()} <= {path.name, f".{path.name}.lock"}
    put({**KEY, "seed": 1}, METRIC_VALUES, "")  # the lock was given back
    assert len(lines(path)) == 5


# -------------------------------------------------------------------------------------------- files


def test_atomic_write(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    write_text_atomically(target, "é\n")
    assert target.read_bytes() == "é\n".encode()
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        assert temporary.parent == target.parent  # else it could not take the target's place in one step
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text(encoding="utf-8") == "é\n" and list(target.parent.iterdir()) == [target]


def test_threads_that_write_one_file_at_once_leave_it_whole(tmp_path: Path) -> None:
    target, size, left = tmp_path / "file", 100_000, threading.Event()
    write_bytes_atomically(target, b"0" * size)

    def write(sign: bytes) -> None:
        for _ in range(10):
            write_bytes_atomically(target, sign * size)

    def read() -> set[bool]:
        whole = set()
        while not left.is_set():
            content = target.read_bytes()
            whole.add(content == content[:1] * size)
        return whole

    with ThreadPoolExecutor(5) as pool:
        reader = pool.submit(read)
        try:
            for done in [pool.submit(write, sign) for sign in (b"1", b"2", b"3", b"4")]:
                done.result()
        finally:
            left.set()
    assert reader.result() == {True} and list(tmp_path.iterdir()) == [target]


def test_any_name_that_a_file_may_have_can_be_written(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 249)
    write_text_atomically(target, "whole")
    assert target.read_text() == "whole"


def test_what_is_flushed_may_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="Windows itself refuses to flush another one")
    modes = []
    monkeypatch.setattr(os, "fsync", lambda number: modes.append(fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE))
    write_text_atomically(tmp_path / "file", "x")
    assert modes == [os.O_RDWR]


# ---------------------------------------------------------------------------------------------- anew


def test_runs_that_are_made_anew_stand_in_the_places_of_the_published(project: Path) -> None:
    for seed in (0, 1, 2):
        put({**KEY, "seed": seed}, METRIC_VALUES, f"results/checkpoints/{seed}.safetensors")
    published = (project / "results" / "table.csv").read_bytes()
    move_to(project / "own")
    assert table_here(*KEY).seed.tolist() == [0, 0, 1, 1, 2, 2]
    put({**KEY, "seed": 7}, {"acc_5w1s": Estimate(7.0, 0.1, 10)}, "results/checkpoints/7.safetensors")
    put({**KEY, "seed": 1}, {"acc_5w1s": Estimate(1.0, 0.1, 10)}, "results/checkpoints/1.safetensors")
    table = table_here(*KEY)
    assert table.seed.tolist() == [0, 0, 1, 2, 2, 7]
    assert table[table.seed == 1].value.tolist() == [1.0] and table[table.seed == 2].value.tolist() == [70.1235, 85.0]
    # What is published is shown, and yet does not count as stored, nor is it copied.
    own = results_dir() / "table.csv"
    assert [has_rows(own, {**KEY, "seed": seed}) for seed in (0, 1, 7)] == [False, True, True]
    assert len(lines(own)) == 3 and table_here().seed.tolist() == [7, 1]
    store.remove_rows(own, {**KEY, "seed": 1})
    assert table_here(*KEY).seed.tolist() == [0, 0, 1, 1, 2, 2, 7]
    move_to(None)
    assert (project / "results" / "table.csv").read_bytes() == published


def test_a_run_is_replaced_with_all_its_rows_whatever_their_columns(project: Path) -> None:
    path = project / "results" / "points.csv"
    path.write_text("seed,pair,p\n0,0,0.1\n0,1,0.2\n1,0,0.3\n1,1,0.4\n")
    move_to(project / "own")
    own = results_dir() / "points.csv"
    own.parent.mkdir(parents=True)
    own.write_text("seed,pair,p\n0,7,0.9\n")
    found = read_table(own, key=("seed",))
    assert found.values.tolist() == [[0, 7, 0.9], [1, 0, 0.3], [1, 1, 0.4]]
    assert found.dtypes.tolist() == read_table(own).dtypes.tolist()


def test_a_table_that_one_run_fills_is_made_anew_as_a_whole(project: Path) -> None:
    path = project / "results" / "whole.csv"
    path.write_text("shots,metric,value,ci95,n\n1,acc,2,0,1\n5,acc,4,0,1\n")
    move_to(project / "own")
    own = results_dir() / "whole.csv"
    assert store.has_table(own) and read_table(own).value.tolist() == [2, 4]
    own.parent.mkdir(parents=True)
    own.write_text("shots,metric,value,ci95,n\n1,acc,7,0,1\n")
    assert read_table(own).value.tolist() == [7]
    with pytest.raises(ResultsError, match="no results table"):
        read_table(results_dir() / "other.csv")


def test_only_where_all_is_made_anew_the_published_is_shown_too(project: Path) -> None:
    put(KEY, METRIC_VALUES, "")
    store_json("run", {"a": 1})
    with at(project / "own"):
        assert not store.has_table(results_dir() / "table.csv")
        with pytest.raises(ResultsError):
            table_here()
        with pytest.raises(ResultsError):
            load_json("run")
    with at(project / "own", anew=True):
        assert load_json("run") == {"a": 1} and len(table_here()) == 2
        with at(None):
            assert not is_anew()
        assert is_anew()
    move_to(project / "own")
    store_json("run", {"a": 2})
    assert load_json("run") == {"a": 2}
    with at(None):
        assert load_json("run") == {"a": 1}


# ------------------------------------------------------------------------------------------- records


def test_run_record_comes_back(project: Path) -> None:
    content = {"split": "90-10", "history": [{"loss": 0.5}], "seconds": 12.5}
    path = store_json("cifar100-90-10-draw0", content)
    assert path.resolve() == (project / "results" / "runs" / "cifar100-90-10-draw0.json").resolve()
    assert load_json("cifar100-90-10-draw0") == content
    assert path.read_text().endswith("\n")


def test_missing_or_damaged_run_record(project: Path) -> None:
    with pytest.raises(ResultsError, match=r"none\.json is missing or damaged"):
        load_json("none")
    store_json("half", {"a": 1}).write_text('{"a": ')
    with pytest.raises(ResultsError, match=r"half\.json is missing or damaged"):
        load_json("half")


def test_provenance_says_what_a_number_was_computed_with() -> None:
    record = provenance("cpu")
    assert set(record) == {"commit", "versions", "processor", "threads", "device", "precision", "started"}
    assert {"python", "torch", "torchvision", "numpy", "pandas", "scikit-learn"} == set(record["versions"])
    assert record["versions"]["numpy"] == np.__version__
    assert record["device"] == "cpu" and record["precision"] in ("float32", "bfloat16")
    assert provenance("cpu", "float32")["precision"] == "float32"
    assert provenance("cpu", "bfloat16")["precision"] == "bfloat16"
    assert record["processor"] and record["threads"] >= 1
    age = datetime.datetime.now(datetime.timezone.utc) - datetime.datetime.fromisoformat(record["started"])
    assert datetime.timedelta(0) <= age + datetime.timedelta(seconds=1) < datetime.timedelta(minutes=1)
    json.dumps(record)


def test_provenance_outside_git(project: Path) -> None:
    assert provenance("cpu")["commit"] == ""


def test_provenance_names_the_commit_and_changes(project: Path) -> None:
    import subprocess

    def git(*arguments: str) -> str:
        names = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *names, *arguments], check=True, capture_output=True, text=True).stdout.strip()

    try:
        git("init", "-q")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git is not to be had")
    (project / "siamese_utils" / "a.py").write_text("1\n")
    git("add", ".")
    git("commit", "-qm", "first")
    head = git("rev-parse", "HEAD")
    assert provenance("cpu")["commit"] == head[:12]
    (project / "results" / "table.csv").write_text("results are not code\n")
    assert provenance("cpu")["commit"] == head[:12]
    (project / "siamese_utils" / "a.py").write_text("2\n")
    assert provenance("cpu")["commit"] == head[:12] + "+changes"
