"""Many bad inputs of every family: none gives a bare traceback, a wrong answer without a word, or a hang."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from crashes import TINY
from fuzz import FAMILIES, attack, make_bench, small_cifar100

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]
INPUTS = 60  # of each family


def test_bad_inputs(tmp_path: Path, campaign: Callable) -> None:
    torch.set_num_threads(1)
    bench = make_bench(tmp_path, dataclasses.replace(TINY, epochs=1))
    with campaign("bad inputs", 500) as counted, small_cifar100(bench):
        tried = 0

        def count() -> None:
            nonlocal tried
            tried += 1

        for family in FAMILIES:
            with counted.trial(family.__name__):
                attack(family, bench, INPUTS, count)
        counted.trials = tried
