"""Every public function called wrongly, many times: no bare error, no number that is none, no hang."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from calls import attack, make_calls

pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]
INPUTS = 200  # of each function


def test_wrong_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, campaign: Callable) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    with campaign("public functions called wrongly", 10_000) as counted:
        tried = 0

        def count() -> None:
            nonlocal tried
            tried += 1

        for name, call in make_calls(tmp_path).items():
            with counted.trial(name):
                attack(name, call, INPUTS, count)
        counted.trials = tried
