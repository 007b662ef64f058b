"""Progress bars of work that is over in a moment for a few files, and takes long for many."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

PATIENCE = 1  # seconds before a bar is shown


def patient_bar(items: Iterable[Any] | None, name: str, unit: str, total: int | None = None) -> tqdm:
    """A bar that is shown after ``PATIENCE``, on a terminal alone, and leaves nothing behind.

    Args:
        items: what is gone through; ``None`` where the caller tells the progress.
        name: shown in front.
        unit: what is counted.
        total: how many there are, where ``items`` does not tell.
    """
    return tqdm(items, name, total, unit=unit, delay=PATIENCE, leave=False, disable=None)
