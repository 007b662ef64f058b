"""Memory that is freed stays with the process while it trains, instead of going back to the system each step.

A training step asks for the same large blocks as the step before. The allocator of glibc hands blocks of more than
32 MiB straight back to the system when they are freed, and the system clears every page before it gives it out again:
for networks with large maps that is a third of the step. Elsewhere (macOS, Windows, musl) this module does nothing.

Source: mallopt(3), parameters ``M_TRIM_THRESHOLD``, ``M_MMAP_THRESHOLD`` and ``M_MMAP_MAX``.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

# Numbers of the parameters in malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
# Setting a parameter ends glibc's own adjustment of the thresholds, so afterwards they are put where it ends for a
# process that has freed large blocks before.
_LARGEST_THRESHOLD, _USUAL_MMAP_MAX = 32 * 2**20, 65_536

_lock = threading.Lock()
_users = 0


@cache
def _allocator() -> ctypes.CDLL | None:
    """The C library if its allocator is glibc's, else ``None``."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version, library.mallopt, library.malloc_trim  # noqa: B018  (missing ones raise)
    except (AttributeError, OSError, TypeError):
        return None
    return library


def free_memory() -> int | None:
    """Bytes that a process can still take without any going to disk, or ``None`` where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


@contextmanager
def freed_memory_kept() -> Iterator[bool]:
    """While this lasts, memory that is freed is kept and used again; afterwards it goes back to the system.

    The setting is the whole process's. Uses may be nested and overlap; the last to end gives the memory back. The
    process takes no more than its peak, but at times when it would have needed less.

    Yields:
        whether the system's allocator can do it.
    """
    global _users
    allocator = _allocator()
    if allocator is None:
        yield False
        return
    with _lock:
        _users += 1
        if _users == 1:
            allocator.mallopt(_MMAP_MAX, 0)
            allocator.mallopt(_TRIM_THRESHOLD, -1)  # the largest there is
    try:
        yield True
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                allocator.mallopt(_MMAP_MAX, _USUAL_MMAP_MAX)
                allocator.mallopt(_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
                allocator.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_THRESHOLD)
                allocator.malloc_trim(0)
