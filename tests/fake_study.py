"""A study of microseconds: what every study shares is tested on it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siamese_utils.errors import ConfigError, TrainingError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.study import Bench, Outcome, Run, Study
from siamese_utils.system.project import project_root, results_dir


@dataclass(frozen=True)
class Size:
    """A configuration that knows JSON, as the real ones do; ``shape`` is younger than some records."""

    side: int = 1
    shape: str = "square"

    def to_json(self) -> dict[str, Any]:
        return {"side": self.side, **({} if self.shape == "square" else {"shape": self.shape})}

    @classmethod
    def from_json(cls, data: Any) -> Size:
        try:
            return cls(**data)
        except TypeError as error:
            raise ConfigError("no size") from error


def runs(sides: str = "1,2", draws: str = "0,1", collapse: str = "", shape: str = "square") -> list[Run]:
    """Every side with every seed, side by side: the mechanism puts them into order."""
    return [
        Run(
            {"side": int(side), "seed": int(seed)},
            {"config": Size(int(side), shape), "collapse": side in collapse.split(",")},
            expectation="A larger square is larger.",
            images=100 * int(side),
            built_on=(results_dir() / "ground.txt",),
        )
        for side in sides.split(",")
        for seed in draws.split(",")
    ]


def carry_out(run: Run, bench: Bench) -> Outcome:
    """Note that it was done, leave something in the run's folder, and perhaps wait, collapse or die."""
    assert bench.folder is not None
    bench.folder.mkdir(parents=True, exist_ok=True)
    resumed = (bench.folder / "state").exists()
    (bench.folder / "state").write_text("begun")
    with open(project_root() / "log.txt", "a") as log:
        log.write(f"{run.label}{' resumed' if resumed else ''}\n")
    time.sleep(float(os.environ.get("FAKE_SECONDS", 0)))
    if os.environ.get("FAKE_DEATH") == run.label:
        os.kill(os.getpid(), signal.SIGKILL)
    if run.settings["collapse"]:
        raise TrainingError(f"{run.label} collapsed.")
    area = float(run.config.side) ** 2
    metrics = {"area": Estimate(area, 0.0, 1), "seconds": Estimate(0.5, 0.0, 1)}
    history = [{"images_per_second": 200.0, "seconds": 0.5}]
    return Outcome(
        metrics,
        checkpoint=str(area).encode(),
        record={"seconds": 0.5, "history": history},
        tables={"edges": {"edge": Estimate(4 * run.config.side, 0.0, 4)}},
        files={"notes/last.txt": run.label.encode()},
    )


def checkpoint(run: Run) -> Path:
    return results_dir() / "checkpoints" / f"{run.label}.bin"


def again(path: Path, bench: Bench) -> dict[str, dict[str, Estimate]]:
    area = float(path.read_bytes())
    return {"fake": {"area": Estimate(area, 0.0, 1)}, "edges": {"edge": Estimate(4 * area**0.5, 0.0, 4)}}


FAKE = Study(
    "fake",
    "How large is a square?",
    runs,
    carry_out,
    key=("side", "seed"),
    metrics={"area": "of the square"},
    tables=("edges",),
    checkpoint=checkpoint,
    again=again,
    once=("seconds",),
)


def log() -> list[str]:
    """What was carried out so far, in order."""
    path = project_root() / "log.txt"
    return path.read_text().splitlines() if path.exists() else []
