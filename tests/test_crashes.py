"""Kills in the middle of writing, full disks and read-only folders; ``make test-long`` has many more of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashes import (
    SPLITS,
    WRITES_OF_A_RUN,
    Death,
    die,
    fill,
    finish,
    make_read_only,
    needs_sigkill,
    readable,
    small_disk,
    sweep,
    sweep_in,
    sweep_outcome,
    training,
    training_outcome,
)
from filelock import Timeout

from siamese_utils.encoders.checkpoints import save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, SiameseError, StorageError
from siamese_utils.experiments import store as results
from siamese_utils.system.files import atomic_path, locked, write_text_atomically

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed sweep of two runs."""
    folder = tmp_path_factory.mktemp("whole")
    sweep_in(folder)
    return folder


@needs_sigkill
def test_training_killed_while_it_writes_its_state(tmp_path: Path) -> None:
    finish(training, tmp_path / "whole")
    die(training, tmp_path / "killed", Death(write=2, moment="torn"))
    assert len(list((tmp_path / "killed" / "run").glob(".*.tmp"))) == 1
    finish(training, tmp_path / "killed")
    assert training_outcome(tmp_path / "killed") == training_outcome(tmp_path / "whole")


@needs_sigkill
@pytest.mark.parametrize(("write", "moment"), [(4, "torn"), (2 * WRITES_OF_A_RUN, "torn")])
def test_sweep_killed_while_it_stores(write: int, moment: str, swept: Path, tmp_path: Path) -> None:
    """In the middle of the first checkpoint, and of the last rows."""
    die(sweep, tmp_path, Death(write, moment))
    readable(tmp_path)
    finish(sweep, tmp_path)
    assert sweep_outcome(tmp_path) == sweep_outcome(swept)


@needs_sigkill
def test_writes_of_a_run_are_counted_right(tmp_path: Path) -> None:
    """After the last of them nothing is left to do, so the campaign leaves no write out."""
    die(sweep, tmp_path, Death(2 * WRITES_OF_A_RUN, "after"))
    assert len(results.read_table(tmp_path / "results" / "split_sweep.csv").checkpoint.unique()) == len(SPLITS)


# ------------------------------------------------------------------------------ no room, no permission


@pytest.mark.parametrize("leave", [0, 60_000, 200_000, 300_000, 500_000])
def test_sweep_on_a_disk_that_fills_up(leave: int, swept: Path, tmp_path: Path) -> None:
    """One sentence, the first run's files as they were; with more room the sweep goes on."""
    with small_disk(tmp_path / "disk", 4096) as disk:
        sweep_in(disk, SPLITS[:1])
        before = sweep_outcome(disk)
        fill(disk, leave)
        with pytest.raises(SiameseError, match="make room") as error:
            sweep_in(disk)
        assert "\n" not in str(error.value) and str(disk) in str(error.value)
        assert str(error.value).count("make room") == 1
        readable(disk)
        after = sweep_outcome(disk)
        assert all(after[name] == content for name, content in before.items() if not name.endswith(".csv"))
        (disk / "ballast").unlink()
        sweep_in(disk)
        assert sweep_outcome(disk) == sweep_outcome(swept)


def test_sweep_in_a_read_only_folder(swept: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 4096) as disk:
        sweep_in(disk, SPLITS[:1])
        before = sweep_outcome(disk)
        make_read_only(disk)
        with pytest.raises(SiameseError, match="Read-only") as error:
            sweep_in(disk)
        assert "\n" not in str(error.value) and str(disk) in str(error.value)
        assert sweep_outcome(disk) == before


def store_table(disk: Path) -> None:
    estimate = results.Estimate(50.0, 1.0, 10)
    key = {"split": "7-5", "draw": 0, "seed": 0, "recipe": "swept"}
    results.store_rows(disk / "old" / "table.csv", key, {"acc_5w1s": estimate})


WRITERS: dict[str, Callable[[Path], Any]] = {
    "text": lambda disk: write_text_atomically(disk / "old" / "text.txt", "new " * 2000),
    "record": lambda disk: results.write_record(disk / "old" / "record.json", {"new": list(range(2000))}),
    "table": store_table,
    "checkpoint": lambda disk: save_encoder(Encoder("conv3", 8), disk / "old" / "encoder.safetensors"),
    "folder": lambda disk: write_text_atomically(disk / "new" / "text.txt", "new"),
}


@pytest.mark.parametrize("fault", ["full", "read-only"])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_cannot_be_written_is_named_and_old_files_stay(writer: str, fault: str, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 1024) as disk:
        store_table(disk)
        for path in ("text.txt", "record.json", "encoder.safetensors"):
            (disk / "old" / path).write_text("old")
        before = {path.name: path.read_bytes() for path in (disk / "old").iterdir()}
        if fault == "full":
            fill(disk, 0)
            if writer == "folder":
                pytest.skip("a folder may take no room")
        else:
            make_read_only(disk)
        with pytest.raises((StorageError, CheckpointError), match=r"Cannot write .*\b(with|make) room") as error:
            WRITERS[writer](disk)
        assert "\n" not in str(error.value) and str(disk) in str(error.value)
        assert {path.name: path.read_bytes() for path in (disk / "old").iterdir()} == before


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    for guard in (atomic_path, locked):
        with pytest.raises(ZeroDivisionError), guard(tmp_path / "file"):
            _ = 1 / 0


def test_lock_keeps_others_out_and_is_given_back(tmp_path: Path) -> None:
    with locked(tmp_path / "new" / "lock"), pytest.raises(Timeout), locked(tmp_path / "new" / "lock", timeout=0):
        pytest.fail("held twice")
    with locked(tmp_path / "new" / "lock", timeout=0):
        pass
