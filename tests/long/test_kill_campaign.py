"""Killed anywhere, a training and a sweep end as if nothing had happened; a disk that is full leaves all as it was."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from crashes import (
    TINY,
    WRITES_OF_A_RUN,
    Death,
    Work,
    die,
    fill,
    finish,
    needs_sigkill,
    random_kills,
    readable,
    small_disk,
    sweep,
    sweep_in,
    sweep_outcome,
    training,
    training_outcome,
)

from siamese_utils.errors import SiameseError

pytestmark = [pytest.mark.long, needs_sigkill]
KILLS = 25
MOMENTS = (("torn", 0.0), ("torn", 0.5), ("torn", 0.999), ("before", 1.0), ("after", 1.0))


@pytest.mark.parametrize(("work", "outcome"), [(training, training_outcome), (sweep, sweep_outcome)])
def test_kills_at_random_moments(work: Work, outcome: Callable, tmp_path: Path, campaign: Callable) -> None:
    """One, two or three kills, then a start that is left alone."""
    rng = random.Random(f"kills of the {work.__name__}")
    finish(work, tmp_path / "warm")  # the first one waits for the imports
    seconds = finish(work, tmp_path / "whole")
    expected = outcome(tmp_path / "whole")
    with campaign(f"{work.__name__} killed at random moments", KILLS) as counted:
        for number in range(KILLS):
            with counted.trial(f"trial {number}"):
                folder = tmp_path / str(number)
                while not random_kills(work, folder, seconds, rng, rng.randint(1, 3)):
                    shutil.rmtree(folder)  # it was faster than each kill
                readable(folder)
                finish(work, folder)
                assert outcome(folder) == expected


def test_training_killed_while_it_writes_its_state(tmp_path: Path, campaign: Callable) -> None:
    finish(training, tmp_path / "whole")
    expected = training_outcome(tmp_path / "whole")
    with campaign("training killed while writing", KILLS) as counted:
        for write in range(1, TINY.epochs + 1):
            for moment, share in MOMENTS:
                with counted.trial(f"{moment} {share} at write {write}"):
                    folder = tmp_path / f"{write}-{moment}-{share}"
                    die(training, folder, Death(write, moment, share))
                    finish(training, folder)
                    assert training_outcome(folder) == expected


def test_sweep_killed_while_it_writes(tmp_path: Path, campaign: Callable) -> None:
    """While the second run is stored: the first one must stay as it was."""
    finish(sweep, tmp_path / "whole")
    expected = sweep_outcome(tmp_path / "whole")
    with campaign("sweep killed while writing", KILLS - 1) as counted:
        for write in range(WRITES_OF_A_RUN + 1, 2 * WRITES_OF_A_RUN + 1):
            for moment in ("torn", "before", "after"):
                with counted.trial(f"{moment} at write {write}"):
                    folder = tmp_path / f"{write}-{moment}"
                    die(sweep, folder, Death(write, moment, random.Random(write).random()))
                    readable(folder)
                    finish(sweep, folder)
                    assert sweep_outcome(folder) == expected


def test_sweep_on_a_disk_that_fills_up(tmp_path: Path, campaign: Callable) -> None:
    """Whatever room there is, a sweep ends with its results or with one sentence, and goes on when there is room."""
    sweep_in(tmp_path / "whole")
    expected = sweep_outcome(tmp_path / "whole")
    rng = random.Random("full disks")
    errors = 0
    with campaign("sweep on a full disk", 10) as counted:
        for number in range(10):
            with counted.trial(f"disk {number}"), small_disk(tmp_path / f"disk{number}", 4096) as disk:
                fill(disk, leave=rng.randrange(0, 1_200_000))
                try:
                    sweep_in(disk)
                except SiameseError as error:
                    errors += 1
                    assert "\n" not in str(error) and str(disk) in str(error) and "make room" in str(error), str(error)
                (disk / "ballast").unlink()
                readable(disk)
                sweep_in(disk)
                assert sweep_outcome(disk) == expected
    assert errors >= 5
