"""Thousands of damaged and odd image files of every format: no bare error, no hang, no wrong answer without a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from image_fuzz import trials

pytestmark = pytest.mark.long
FILES = 20_000


def test_damaged_and_odd_image_files(tmp_path: Path, campaign: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    with campaign("damaged and odd image files", FILES) as counted:
        for name, check in trials(tmp_path, FILES):
            with counted.trial(name):
                check()
