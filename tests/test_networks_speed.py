"""Speeds of the encoders: whole training steps in turn, by processor time, and the images that they buy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from siamese_utils.errors import ConfigError, ResultsError, UnknownNameError
from siamese_utils.studies.networks import speed
from siamese_utils.studies.networks.speed import (
    SPEED_COLUMNS,
    images_learned,
    measure_speeds,
    store_speeds,
    stored_speeds,
    training_rate,
)
from siamese_utils.studies.networks.study import ENCODERS_EQUAL_TIME, EQUAL_MINUTES, IMAGES_IN_TIME
from siamese_utils.system import project as places
from siamese_utils.training.recipes import recipe

QUICK = dataclasses.replace(recipe("smoke"), batch_size=16)


def speeds(**rates: tuple[float, ...]) -> pd.DataFrame:
    """A table of made-up speeds at 16, 24 and 32 pixels."""
    where = {
        "spread": 0.5,
        "rounds": 3,
        "threads": 1,
        "processor": "any",
        "torch": "2.0.0",
        "date": "2026-01-01",
        "commit": "c",
    }
    rows = [
        {"encoder": encoder, "side": side, "images_per_second": rate, **where}
        for encoder, values in rates.items()
        for side, rate in zip((16, 24, 32), values, strict=True)
    ]
    return pd.DataFrame(rows, columns=list(SPEED_COLUMNS))


def test_every_encoder_is_timed_at_every_side_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds go over all of them, so that a slow spell of the machine slows them all."""
    timed: list[tuple[str, int]] = []

    class Steps:
        def __init__(self, encoder: str, side: int, config: object) -> None:
            self.what = (encoder, side)
            self.rest = iter([9.0, 0.5, 1.0])  # the first step of all warms up and is not counted

        def seconds(self) -> float:
            assert torch.get_num_threads() == 1
            timed.append(self.what)
            return next(self.rest)

    monkeypatch.setattr(speed, "_Steps", Steps)
    threads = torch.get_num_threads()
    table = measure_speeds(["conv3", "resnet9-16"], QUICK, sides=(16, 32), rounds=1, progress=False)
    one_round = [("conv3", 16), ("conv3", 32), ("resnet9-16", 16), ("resnet9-16", 32)]
    assert timed == [what for what in one_round for _ in range(3)]
    assert torch.get_num_threads() == threads
    assert list(zip(table.encoder, table.side, strict=True)) == one_round
    assert table.images_per_second.tolist() == [round(2 * 16 / 1.5, 2)] * 4
    assert (table.threads == 1).all() and (table.rounds == 1).all() and table.processor.ne("").all()


def test_median_of_the_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([1.0, 2.0, 10.0, 1.0])  # a warm-up, then three rounds

    class Steps:
        def __init__(self, *_: object) -> None:
            pass

        def seconds(self) -> float:
            return next(taken)

    monkeypatch.setattr(speed, "_Steps", Steps)
    (row,) = measure_speeds(["conv3"], QUICK, sides=(16,), rounds=3, progress=False).itertuples()
    assert row.images_per_second == 8.0 and row.spread == round((16 - 1.6) / 2, 2)


def test_steps_are_real_and_slower_at_larger_sides() -> None:
    table = measure_speeds(["conv3"], QUICK, sides=(16, 32), rounds=1, least_seconds=0.05, progress=False)
    small, large = table.images_per_second
    assert small > large > 0
    step = speed._Steps("conv3", 16, QUICK)
    before = [parameter.clone() for parameter in step.learner.encoder.parameters()]
    assert step.seconds() > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, step.learner.encoder.parameters(), strict=True))


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_steps_multiply_in_the_precision_of_a_training(precision: str, dtype: torch.dtype) -> None:
    step = speed._Steps("conv3", 16, dataclasses.replace(QUICK, precision=precision))
    made: list[torch.dtype] = []
    convolution = next(m for m in step.learner.encoder.modules() if isinstance(m, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda *given: made.append(given[-1].dtype))
    step.seconds()
    assert made == [dtype]


def test_processor_time_is_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock on the wall, which other programs slow down, is not looked at."""
    monkeypatch.setattr(speed.time, "perf_counter", lambda: pytest.fail("wall time"))
    monkeypatch.setattr(speed.time, "process_time", iter([5.0, 7.0]).__next__)
    assert speed._Steps("conv3", 16, QUICK).seconds() == 2.0


def test_rate_over_a_training_weighs_the_sides_by_their_images() -> None:
    table = speeds(conv3=(100.0, 50.0, 10.0))
    # Of 100 images, 60 at 100/s, 30 at 50/s and 10 at 10/s take 0.6 + 0.6 + 1 seconds.
    assert training_rate(table, "conv3", ((0.0, 16), (0.6, 24), (0.9, 32))) == pytest.approx(100 / 2.2)
    assert training_rate(table, "conv3", ((0.0, 32),)) == pytest.approx(10)


def test_images_are_whole_batches_and_never_none() -> None:
    config = dataclasses.replace(QUICK, resolutions=((0.0, 32),), batch_size=64)
    table = speeds(conv3=(1.0, 1.0, 10.0), vgg19bn=(1.0, 1.0, 0.01))
    assert images_learned(table, 1.0, config, ["conv3", "vgg19bn"]) == {"conv3": 9 * 64, "vgg19bn": 64}
    assert images_learned(table, 2.0, config, ["conv3"]) == {"conv3": 18 * 64}


def test_what_is_missing_or_wrong_says_so(project: Path) -> None:
    with pytest.raises(ResultsError, match="no results table"):
        stored_speeds()
    table = speeds(conv3=(3.0, 2.0, 1.0))
    with pytest.raises(ResultsError, match="'resnet20' at 16 x 16 pixels is not stored"):
        training_rate(table, "resnet20", ((0.0, 16),))
    with pytest.raises(ConfigError, match="from its beginning"):
        training_rate(table, "conv3", ((0.5, 16),))
    with pytest.raises(ConfigError, match="takes some time"):
        images_learned(table, 0, QUICK, ["conv3"])
    with pytest.raises(ConfigError, match="at least one encoder"):
        measure_speeds([], QUICK)
    with pytest.raises(UnknownNameError, match="Did you mean 'conv3'"):
        measure_speeds(["conv4"], QUICK, progress=False)
    with pytest.raises(ResultsError, match="has the columns"):
        store_speeds(table.drop(columns="side"))


def test_stored_speeds_come_back_and_replace_older_ones(project: Path) -> None:
    store_speeds(speeds(conv3=(3.0, 2.0, 1.0), resnet20=(3.0, 2.0, 1.0)))
    table = speeds(conv3=(5.0, 4.5, 4.0))
    store_speeds(table)
    pd.testing.assert_frame_equal(stored_speeds(), table, check_dtype=False)


def test_command_measures_stores_and_prints_what_the_study_takes(
    project: Path, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    asked: list[object] = []

    def measured(encoders: list[str], config: object, *, rounds: int) -> pd.DataFrame:
        asked.append((tuple(encoders), rounds))
        return speeds(**dict.fromkeys(encoders, (1000.0, 1000.0, 1000.0)))

    monkeypatch.setattr(speed, "measure_speeds", measured)
    for words, home in (((), places.own_folder()), (("--publish",), None)):
        assert not (project / "results" / "encoder_speed.csv").exists()  # the report's are replaced when told to
        code, out, _ = command_line("encoder-speed", "--rounds", "2", *words)
        assert code == 0 and asked.pop() == (tuple(IMAGES_IN_TIME), 2)
        with places.at(home):
            assert len(stored_speeds()) == 3 * len(IMAGES_IN_TIME)
    batches = int(60_000 * EQUAL_MINUTES // 256)
    assert f'    "conv3": {256 * batches:_},\n' in out and out.count('": ') == len(IMAGES_IN_TIME)


def test_equal_time_is_what_the_stored_speeds_say() -> None:
    """The numbers written down in the code follow from ``results/encoder_speed.csv``."""
    table = stored_speeds()
    assert (
        images_learned(table, EQUAL_MINUTES, ENCODERS_EQUAL_TIME.runs()[0].config, list(IMAGES_IN_TIME))
        == IMAGES_IN_TIME
    )
    assert (table.threads == 1).all() and table.processor.nunique() == 1 and (table.rounds > 2).all()
