"""Work that is killed in the middle: small trainings and sweeps in processes of their own, and when they die.

The processes are forked from one that has imported the package already, so that a kill takes a second, not ten.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors import safe_open

from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.experiments.study import Bench, run_study
from siamese_utils.studies.splits.study import SPLIT_SWEEP, split_run
from siamese_utils.training import recipes
from siamese_utils.training.loop import train

TINY = dataclasses.replace(tiny.MIXED, epochs=5, average_decay=0.5)
CLASSES = (0, 1, 2, 4, 5, 7)
SWEPT = dataclasses.replace(tiny.TINY, recipe="swept", epochs=2, batch_size=24, images_per_class=2, held_out_images=4)
SPLITS = ("7-5", "6-6")
WRITES_OF_A_RUN = 8
"""Files that a run of the sweep writes in one step: two training states, the checkpoint that is judged, the one that is
stored, the record and three tables."""
TABLES = ("split_sweep.csv", "growth.csv", "class_accuracy.csv")

needs_sigkill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows knows no SIGKILL")


@dataclass(frozen=True)
class Death:
    """When a process ends itself by SIGKILL.

    Attributes:
        write: at which of the files that it writes in one step, counted from 1.
        moment: ``"torn"``, when a part of the file is on the disk; ``"before"`` it takes its name, or ``"after"``.
        share: how much of a torn file is there.
    """

    write: int
    moment: str
    share: float = 0.5

    def arrange(self) -> None:
        """Let this process die so."""
        real, writes = os.replace, 0

        def replace(source: Any, target: Any, **more: Any) -> None:
            nonlocal writes
            writes += 1
            if writes == self.write:
                if self.moment == "torn":
                    os.truncate(source, int(os.stat(source).st_size * self.share))
                elif self.moment == "after":
                    real(source, target, **more)
                os.kill(os.getpid(), signal.SIGKILL)
            real(source, target, **more)

        os.replace = replace


# ------------------------------------------------------------------------------------- what is killed


def training(folder: Path, death: Death | None = None) -> None:
    """Train for a second and leave ``outcome.pt`` in the folder: weights, and the history without times."""
    torch.set_num_threads(1)
    if death:
        death.arrange()
    train_set = make_synthetic("train", num_classes=8, per_class=10)
    result = train(TINY, train_set, CLASSES, run_dir=folder / "run", device="cpu", progress=False)
    history = result.history.drop(columns=["seconds", "cpu_seconds", "images_per_second"]).to_json()
    torch.save({"weights": result.encoder.state_dict(), "history": history}, folder / "outcome.pt")


def sweep(folder: Path, death: Death | None = None) -> None:
    """Sweep two small splits in a process of its own."""
    torch.set_num_threads(1)
    if death:
        death.arrange()
    sweep_in(folder)


def sweep_in(folder: Path, splits: Sequence[str] = SPLITS) -> None:
    """Sweep small splits in the project that the folder holds."""
    data = make_synthetic("train", num_classes=12, per_class=16), make_synthetic("test", num_classes=12, per_class=20)
    for part in ("results", "siamese_utils"):
        (folder / part).mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, "swept", SWEPT)
        patch.chdir(folder)
        runs = [split_run(split, recipe="swept", num_classes=12, images_of_a_class=16) for split in splits]
        for _ in run_study(SPLIT_SWEEP, runs, Bench.of(*data, device="cpu", progress=False), patience=0.1):
            pass


Work = Callable[[Path, "Death | None"], None]


def start(work: Work, folder: Path, death: Death | None = None) -> BaseProcess:
    """Start work in a process of its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["siamese_utils.studies.splits.study", "siamese_utils.data.synthetic"])
    folder.mkdir(parents=True, exist_ok=True)
    process = context.Process(target=work, args=(folder, death))
    process.start()
    return process


def finish(work: Work, folder: Path) -> float:
    """Do work to its end and give the seconds it took."""
    begin = time.monotonic()
    process = start(work, folder)
    process.join(timeout=600)
    assert process.exitcode == 0, f"{work.__name__} ended with {process.exitcode}"
    return time.monotonic() - begin


def die(work: Work, folder: Path, death: Death) -> None:
    """Start work that kills itself."""
    process = start(work, folder, death)
    process.join(timeout=600)
    assert process.exitcode == -signal.SIGKILL, f"{work.__name__} was to be killed, but ended with {process.exitcode}"


def kill_after(work: Work, folder: Path, seconds: float) -> bool:
    """Start work and kill it after some seconds; says whether it was still at it."""
    process = start(work, folder)
    process.join(timeout=seconds)
    if process.exitcode is None:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return process.exitcode == -signal.SIGKILL


def random_kills(work: Work, folder: Path, seconds: float, rng: random.Random, kills: int) -> int:
    """Kill work so many times, each time at a random moment, starting it again in between; gives the real kills."""
    return sum(kill_after(work, folder, rng.uniform(0.05, 1.0) * seconds) for _ in range(kills))


# ------------------------------------------------------------------------------------- what is left


def training_outcome(folder: Path) -> dict[str, Any]:
    """What a training ended with, in a form that can be compared bit by bit."""
    outcome = torch.load(folder / "outcome.pt", weights_only=True)
    weights = {name: tensor.numpy().tobytes() for name, tensor in outcome["weights"].items()}
    return {"weights": weights, "history": outcome["history"]}


def sweep_outcome(folder: Path) -> dict[str, Any]:
    """Every stored file of a sweep: tables as they are, the bits of the checkpoints, records without times."""
    stored = folder / "results"
    files: dict[str, Any] = {name: (stored / name).read_bytes() for name in TABLES}
    files |= {path.name: content(path) for path in sorted((stored / "checkpoints").glob("[!.]*"))}
    for path in sorted((stored / "runs").glob("[!.]*")):
        record = json.loads(path.read_text(encoding="utf-8"))
        for row in record["history"]:
            del row["seconds"], row["cpu_seconds"], row["images_per_second"]
        files[path.name] = {key: value for key, value in record.items() if key not in ("seconds", "provenance")}
    return files


def content(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds; the order of its header's keys differs from process to process."""
    with safe_open(checkpoint, framework="np") as file:
        tensors = {key: (file.get_tensor(key).dtype, file.get_tensor(key).tobytes()) for key in file.keys()}  # noqa: SIM118
        return {"metadata": file.metadata(), **tensors}


def readable(folder: Path) -> None:
    """Check that whatever lies in a sweep's folder after a kill is whole: no torn row, no torn file."""
    for table in TABLES:
        if (path := folder / "results" / table).exists():
            lines = path.read_text(encoding="utf-8")
            assert lines.endswith("\n"), f"{table} is torn"
            rows = [line.split(",") for line in lines.splitlines()]
            assert len({len(row) for row in rows}) == 1, f"{table} has a torn row"
            assert len({tuple(row[:5]) for row in rows}) == len(rows), f"{table} has a row twice"
    for path in (folder / "results" / "runs").glob("[!.]*"):
        json.loads(path.read_text(encoding="utf-8"))


# ------------------------------------------------------------------------------------- small disks


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A file system of its own in a folder, in memory; skips where none may be mounted."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no file system may be mounted here; run the tests as root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def make_read_only(disk: Path) -> None:
    """Let nobody write to a small disk any more, not even root."""
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


def fill(disk: Path, leave: int) -> None:
    """Fill a small disk up to so many bytes."""
    room = os.statvfs(disk)
    ballast = max(0, room.f_bavail * room.f_frsize - leave)
    (disk / "ballast").write_bytes(bytes(ballast))
