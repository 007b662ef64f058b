"""How fast each encoder learns on one processor core, measured once, and how many images that buys in some minutes.

Encoders are compared at an equal time by showing each as many images as its stored speed allows, decided beforehand.
A run can then be repeated, and a busy machine changes nothing but the hour at which it ends. Time here is processor
time of one thread, which other programs hardly touch.
"""

from __future__ import annotations

import dataclasses
import io
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from tqdm.auto import tqdm

from siamese_utils.errors import ConfigError, ResultsError
from siamese_utils.experiments import store as results
from siamese_utils.experiments.own import tell_place
from siamese_utils.studies.networks.study import ENCODERS_EQUAL_TIME, EQUAL_MINUTES, IMAGES_IN_TIME
from siamese_utils.system import project
from siamese_utils.system.devices import processor_and_precision
from siamese_utils.system.files import locked, write_text_atomically
from siamese_utils.system.provenance import code_commit
from siamese_utils.system.text import say
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import Learner, step

SPEED_COLUMNS = (
    "encoder",
    "side",
    "images_per_second",
    "spread",
    "rounds",
    "threads",
    "processor",
    "torch",
    "date",
    "commit",
)
_CLASSES = 64  # as many as the studies learn


def speed_path() -> Path:
    """Where the speeds are stored."""
    return project.results_dir() / "encoder_speed.csv"


def stored_speeds() -> pd.DataFrame:
    """The stored rows, one an encoder and side of the images, with the columns ``SPEED_COLUMNS``.

    Raises:
        ResultsError: nothing is stored, or the table is damaged.
    """
    return results.read_table(speed_path(), SPEED_COLUMNS)


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Steps:
    """Training steps of one encoder on random images of one side."""

    def __init__(self, encoder: str, side: int, config: TrainConfig) -> None:
        torch.manual_seed(0)
        config = dataclasses.replace(config, encoder=encoder, pretrained="", resolutions=((0.0, side),))
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randint(256, (config.batch_size, 32, 32, 3), generator=generator, dtype=torch.uint8)
        self.labels = torch.arange(config.batch_size) % min(_CLASSES, config.batch_size // 2)
        self.learner = Learner(config, self.images, _CLASSES)
        self.learner.begin(seed=0)

    def seconds(self) -> float:
        """Processor time of one step."""
        start = time.process_time()
        step(self.learner, self.images, self.labels, progress=0.5)
        return time.process_time() - start


def measure_speeds(
    encoders: Sequence[str],
    config: TrainConfig,
    *,
    sides: Sequence[int] = (16, 24, 32),
    rounds: int = 3,
    least_seconds: float = 1.0,
    progress: bool = True,
) -> pd.DataFrame:
    """Time whole training steps of every encoder in turn, so that whatever slows the machine slows them all.

    Each round takes one encoder and side after the other: one step to warm up in the first round, then as many as fill
    ``least_seconds``, at least one. One thread is used.

    Args:
        encoders: names in ``ENCODERS``.
        config: objectives, optimiser and batch size; its encoder is set aside.
        sides: sides of the images in pixels.
        rounds: how often everything is timed; the median counts.
        least_seconds: how long each timing takes at least.
        progress: show a progress bar.

    Returns:
        a table with the columns ``SPEED_COLUMNS``; ``spread`` is half the distance from the slowest to the fastest
        round.

    Raises:
        ConfigError: nothing to measure, or no round.
        UnknownNameError: no such encoder.
    """
    if not encoders or not sides or rounds < 1:
        raise ConfigError("Measuring speeds takes at least one encoder, one side and one round.")
    found: dict[tuple[str, int], list[float]] = {(name, side): [] for name in encoders for side in sides}
    with _one_thread(), tqdm(total=rounds * len(found), disable=not progress, desc="speeds") as bar:
        for number in range(rounds):
            for (name, side), rates in found.items():
                steps = _Steps(name, side, config)
                if not number:
                    steps.seconds()
                taken, count = 0.0, 0
                while taken < least_seconds or not count:
                    taken, count = taken + steps.seconds(), count + 1
                rates.append(count * config.batch_size / max(taken, 1e-9))
                bar.update()
    where = {
        "rounds": rounds,
        "threads": 1,
        "processor": processor_and_precision(),
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).date().isoformat(),
        "commit": code_commit(),
    }
    rows = [
        {
            "encoder": name,
            "side": side,
            "images_per_second": round(statistics.median(rates), 2),
            "spread": round((max(rates) - min(rates)) / 2, 2),
            **where,
        }
        for (name, side), rates in found.items()
    ]
    return pd.DataFrame(rows, columns=list(SPEED_COLUMNS))


def store_speeds(table: pd.DataFrame) -> None:
    """Write a measurement as ``results/encoder_speed.csv``, in one step; an older one is replaced whole.

    Speeds of two measurements are not to be mixed, since each compares its encoders under one and the same load.

    Raises:
        ResultsError: the table has other columns.
    """
    if tuple(table.columns) != SPEED_COLUMNS:
        raise ResultsError(f"A table of speeds has the columns {', '.join(SPEED_COLUMNS)}; measure it anew.")
    text = io.StringIO()
    table.to_csv(text, index=False, lineterminator="\n")
    with locked(speed_path().with_name(f".{speed_path().name}.lock")):
        write_text_atomically(speed_path(), text.getvalue())


def training_rate(table: pd.DataFrame, encoder: str, resolutions: Sequence[tuple[float, int]]) -> float:
    """Images a second over a training whose images grow, from the speeds at each side.

    Args:
        table: as ``stored_speeds`` gives it.
        encoder: its name.
        resolutions: ``(begin, side)`` pairs as in ``TrainConfig``, the first from 0.

    Raises:
        ResultsError: the encoder was not measured at one of the sides.
        ConfigError: the first side does not begin at 0.
    """
    if not resolutions or resolutions[0][0] != 0:
        raise ConfigError("The sides of a training must be given from its beginning on.")
    ends = [begin for begin, _ in resolutions[1:]] + [1.0]
    seconds = 0.0
    for (begin, side), end in zip(resolutions, ends, strict=True):
        rows = table[(table.encoder == encoder) & (table.side == side)]
        if len(rows) != 1:
            raise ResultsError(
                f"The speed of {encoder!r} at {side} x {side} pixels is not stored; run "
                "`python -m siamese_utils encoder-speed`."
            )
        seconds += (end - begin) / float(rows.images_per_second.iloc[0])
    return 1 / seconds


def images_learned(table: pd.DataFrame, minutes: float, config: TrainConfig, encoders: Sequence[str]) -> dict[str, int]:
    """How many images each encoder learns from in so many minutes of one core: whole batches, at least one.

    Args:
        table: as ``stored_speeds`` gives it.
        minutes: processor time.
        config: its batch size and resolutions count.
        encoders: names in ``ENCODERS``.

    Raises:
        ResultsError: an encoder was not measured at one of the sides.
        ConfigError: no time.
    """
    if not minutes > 0:
        raise ConfigError(f"A training takes some time, not {minutes} minutes.")
    found: dict[str, int] = {}
    for encoder in encoders:
        batches = int(60 * minutes * training_rate(table, encoder, config.resolutions) // config.batch_size)
        found[encoder] = max(1, batches) * config.batch_size
    return found


def encoder_speed(
    rounds: Annotated[int, typer.Option(help="How often every encoder is timed; the median counts.")] = 3,
    publish: Annotated[bool, typer.Option("--publish", help="Replace the speeds of the report.")] = False,
) -> None:
    """Measure how fast every encoder learns on one core, and what it could learn from in the minutes of the study."""
    home = None if publish and project.checkout("--publish") else project.own_folder()
    config, encoders = ENCODERS_EQUAL_TIME.runs()[0].config, list(IMAGES_IN_TIME)
    speeds = measure_speeds(encoders, config, rounds=rounds)
    with project.at(home):
        store_speeds(speeds)
        tell_place(home, speed_path())
    say(speeds[["encoder", "side", "images_per_second", "spread"]].to_string(index=False))
    images = images_learned(speeds, EQUAL_MINUTES, config, encoders)
    say(f"Images in {EQUAL_MINUTES:g} minutes:")
    for encoder, count in images.items():  # in the form in which ``IMAGES_IN_TIME`` holds them
        say(f'    "{encoder}": {count:_},')
