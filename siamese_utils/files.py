"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target``; on success it takes the target's place in one step.

    Whoever is killed in between leaves the old file as it was. The data reach the disk before the name does.

    Raises:
        OSError: the folder cannot be written to, or the disk is full; the old file stays.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)  # some writers make files that only their owner can read
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomically(target: Path, text: str) -> None:
    """Write a UTF-8 text file in one step; see ``atomic_path``."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")
