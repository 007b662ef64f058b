"""Writing files so that a reader never sees half of one, and so that whoever cannot write says so in one sentence."""

from __future__ import annotations

import os
import secrets
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from siamese_utils.errors import DataError, SiameseError, StorageError, shown


def as_path(given: str | bytes | os.PathLike[str], error: type[SiameseError] = DataError) -> Path:
    """A path, also from bytes that are not UTF-8.

    Args:
        given: what names a file or a folder.
        error: what is raised.

    Raises:
        DataError: it is no path.
    """
    try:
        path = Path(os.fsdecode(given))
        if "\0" in str(path):
            raise ValueError("a null byte")
        with suppress(PermissionError):  # as whoever opens it will say
            path.exists()  # a name can be one that no system takes
    except (TypeError, ValueError, OSError) as wrong:
        raise error(f"A path of a file or a folder is needed, not {shown(given)}.") from wrong
    return path


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Give a temporary path beside ``target``; on success it takes the target's place in one step.

    Whoever is killed in between leaves the old file as it was. The data reach the disk before the name does. Where the
    target is a link, the file that it leads to is replaced; permissions are those of the old file, or of any new one.
    Of several who write it at once, the last one's stays.

    Raises:
        StorageError: the folder cannot be written to, or the disk is full; the old file stays.
    """
    # Whoever is killed leaves this file behind; its ending keeps it out of version control.
    if not target.name:
        raise StorageError(f"Cannot write {target}, which names no file; choose a name in it.")
    with _storing(target):
        place = Path(os.path.realpath(target))
        # Threads, and machines that share the folder, may write one file at once; and a long name stays a legal one.
        temporary = place.with_name(f".{secrets.token_hex(8)}.tmp")
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch()
            mode = stat.S_IMODE((place if place.is_file() else temporary).stat().st_mode)
            temporary.unlink()  # who writes nothing must not leave an empty file
            yield temporary
            with open(temporary, "rb+") as file:  # Windows flushes only what may be written to
                os.fsync(file.fileno())
            temporary.chmod(mode)  # some writers make files that only their owner can read
            os.replace(temporary, place)
        finally:
            temporary.unlink(missing_ok=True)


def write_text_atomically(target: Path, text: str) -> None:
    """Write a UTF-8 text file in one step; see ``atomic_path``."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes_atomically(target: Path, content: bytes) -> None:
    """Write a file in one step; see ``atomic_path``."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)


@contextmanager
def locked(lock: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file, which is made if need be, so that no other process does the same work.

    Args:
        lock: the file; it stays when the lock is given back.
        timeout: seconds to wait for another process; below 0 waits for ever.

    Raises:
        Timeout: another process still holds it.
        StorageError: the folder cannot be written to.
    """
    held = FileLock(lock, timeout=timeout)
    with _storing(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    try:
        yield
    finally:
        held.release()


def is_whole_archive(path: Path) -> bool:
    """Whether all in a zip file, such as ``torch.save`` writes, has the right checksum; ``torch.load`` does not look.

    Raises:
        OSError, zipfile.BadZipFile: it is no zip file, or damaged beyond that.
    """
    with zipfile.ZipFile(path) as archive:
        return archive.testzip() is None


@contextmanager
def _storing(target: Path) -> Iterator[None]:
    """Name what could not be written and what to do about it."""
    try:
        yield
    except (StorageError, Timeout):
        raise
    except OSError as error:
        raise StorageError(
            f"Cannot write {target} ({error}); make room or choose a folder with write access. What was there before "
            "is kept."
        ) from error
