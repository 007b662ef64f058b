"""Embeddings of image files, kept on disk by content and encoder, so that no image is embedded twice.

One SQLite database in ``embeddings/`` of the cache folder (``SIAMESE_CACHE``, see ``data.sources``). A file that has
not changed since it was read last (path, size, both times of change, inode) is not read again; any other is known by
the digest of its content, wherever it lies. Each batch is a transaction, so whoever is killed leaves what was finished,
and several processes may use it at once. A row whose checksum is wrong is not used, a database that cannot be read is
made anew, and one that has grown too large loses its oldest rows. Its folder may be removed at any time.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import PIL
import torch
from PIL import features

from siamese_utils.data.sources import cache_folder
from siamese_utils.errors import printable, reason

T = TypeVar("T")
MOST_BYTES = 4 * 2**30
"""Size at which the oldest quarter of the rows is removed: 800,000 embeddings of 1,280 numbers."""

_FORM = 1  # to be raised when files are decoded otherwise or the tables change
DATABASE = f"embeddings-{_FORM}.sqlite"
_SETTLED = 2.0  # seconds; times of change are too coarse to tell two changes in the same moment apart
_WAIT = 30.0  # seconds for another process to finish its transaction
_CHUNK = 2**20  # bytes of a file that are read at once
_TABLES = """
CREATE TABLE IF NOT EXISTS files (path BLOB PRIMARY KEY, stamp TEXT NOT NULL, digest BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS embeddings (
    number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, z BLOB NOT NULL, checksum INTEGER NOT NULL
);
"""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Content:
    """What a file held when it was looked at.

    Attributes:
        path: of the file.
        stamp: its size, times of change and inode.
        digest: of its bytes.
        remembered: whether the cache knows this already.
    """

    path: Path
    stamp: str
    digest: bytes
    remembered: bool = False

    @classmethod
    def of(cls, path: Path) -> Content:
        """Read a file.

        Raises:
            OSError: it cannot be read.
        """
        stamp, digest = stamp_of(path), hashlib.blake2b(digest_size=16)
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        return cls(path, stamp, digest.digest())

    def still_holds(self) -> bool:
        """Whether the file has not changed since."""
        with suppress(OSError):
            return stamp_of(self.path) == self.stamp
        return False


def stamp_of(path: Path) -> str:
    """Size, times of change and inode of a file.

    Raises:
        OSError: it cannot be looked at.
    """
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


class EmbeddingCache:
    """Embeddings by one encoder, on disk.

    What cannot be read or written costs time and no more: one line in the log says so, and images are embedded anew.

    Args:
        encoder: fingerprint of all that decides an embedding.
        dim: size of an embedding.
        folder: of the database; ``embeddings`` in the cache folder if left out.
    """

    def __init__(self, encoder: str, dim: int, folder: Path | None = None) -> None:
        home = cache_folder()
        self._folder = folder or (home and home / "embeddings")
        decoder = f"{_FORM} {PIL.__version__} {features.version('jpg')} {torch.__version__}"
        self._encoder = hashlib.blake2b(f"{decoder} {encoder} {dim}".encode(), digest_size=16).digest()
        self._dim = dim
        self._lock = threading.Lock()  # the connection is used by the threads that decode
        self._database: sqlite3.Connection | None = None
        with self._lock:
            self._ask(lambda database: None)

    def content(self, path: Path) -> Content:
        """What a file holds; it is read only if it has changed since it was read last.

        Raises:
            OSError: it cannot be read.
        """
        stamp = stamp_of(path)
        asked = "SELECT digest FROM files WHERE path = ? AND stamp = ?"
        with self._lock:
            found = self._ask(
                lambda database: database.execute(asked, (os.fsencode(_absolute(path)), stamp)).fetchone()
            )
        return Content(path, stamp, found[0], True) if found else Content.of(path)

    def find(self, digest: bytes) -> np.ndarray | None:
        """The embedding of a content, float32 (D,), or ``None`` if it is not there."""
        key = self._encoder + digest
        asked = "SELECT z, checksum FROM embeddings WHERE key = ?"
        with self._lock:
            found = self._ask(lambda database: database.execute(asked, (key,)).fetchone())
        if found is None or len(found[0]) != 4 * self._dim or zlib.crc32(key + found[0]) != found[1]:
            return None
        return np.frombuffer(found[0], "<f4").astype(np.float32)

    def keep(self, contents: Iterable[Content], z: np.ndarray) -> None:
        """Store embeddings, float32 (N, D), of the contents of as many files, in one step."""
        rows = []
        for content, row in zip(contents, z, strict=True):
            key, blob = self._encoder + content.digest, row.astype("<f4").tobytes()
            rows.append((key, blob, zlib.crc32(key + blob)))
        self._write("INSERT OR REPLACE INTO embeddings (key, z, checksum) VALUES (?, ?, ?)", rows)

    def remember(self, contents: Iterable[Content]) -> None:
        """Store that files hold these contents, save those that changed a moment ago."""
        before = (time.time() - _SETTLED) * 1e9
        rows = [
            (os.fsencode(_absolute(content.path)), content.stamp, content.digest)
            for content in contents
            if not content.remembered and max(map(int, content.stamp.split()[1:3])) < before
        ]
        self._write("INSERT OR REPLACE INTO files (path, stamp, digest) VALUES (?, ?, ?)", rows)

    def close(self) -> None:
        """Give the database back; it loses its oldest rows if it has grown too large."""
        with self._lock:
            if self._database is not None:
                self._ask(_shorten)
            if self._database is not None:
                self._database.close()
            self._folder = self._database = None

    def _write(self, statement: str, rows: list[tuple[Any, ...]]) -> None:
        def write(database: sqlite3.Connection) -> None:
            with database:
                database.executemany(statement, rows)

        if rows:
            with self._lock:
                self._ask(write)

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T | None:
        """Ask the database, which is opened first if need be; ``None`` if that is not possible."""
        for _ in range(2):
            if self._folder is None:
                return None
            try:
                self._database = self._database or _opened(self._folder)
                return question(self._database)
            except (sqlite3.OperationalError, OSError) as error:  # locked, full, or not to be written
                _log.warning("Embeddings are not kept in %s (%s).", printable(self._folder), reason(error))
                self._give_up()
            except sqlite3.DatabaseError as error:
                _log.warning(
                    "The cache of embeddings in %s is damaged (%s) and is made anew.",
                    printable(self._folder),
                    reason(error),
                )
                self._start_anew()
        return None

    def _give_up(self) -> None:
        with suppress(sqlite3.Error):
            if self._database is not None:
                self._database.close()
        self._folder = self._database = None

    def _start_anew(self) -> None:
        folder = self._folder
        self._give_up()
        if folder is not None:
            for ending in ("", "-journal"):
                with suppress(OSError):
                    _path(folder).with_name(_path(folder).name + ending).unlink(missing_ok=True)
            self._folder = folder


def _path(folder: Path) -> Path:
    return folder / DATABASE


def _absolute(path: Path) -> str:
    return os.path.abspath(path)


def _opened(folder: Path) -> sqlite3.Connection:
    folder.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(_path(folder), timeout=_WAIT, check_same_thread=False)
    try:
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        # A lost machine may damage it, which is noticed; a killed process may not.
        database.execute("PRAGMA synchronous = OFF")
        database.executescript(_TABLES)
    except BaseException:
        database.close()
        raise
    return database


def _shorten(database: sqlite3.Connection) -> None:
    (pages,), (size,) = (database.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size"))
    if pages * size <= MOST_BYTES:
        return
    with database:
        (rows,) = database.execute("SELECT COUNT(*) FROM embeddings").fetchone()
        oldest = "SELECT number FROM embeddings ORDER BY number LIMIT ?"
        database.execute(f"DELETE FROM embeddings WHERE number IN ({oldest})", (rows // 4 + 1,))
        database.execute("DELETE FROM files")
    database.execute("PRAGMA incremental_vacuum").fetchall()
