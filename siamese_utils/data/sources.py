"""Where data lie, how they are fetched, whole or not at all, and how what was made of them is kept for the next start.

Where data are looked for, in this order: the folder named by the environment variable ``SIAMESE_DATA``, ``./data``,
``../shared/data``, then a download. In a sub-folder of a checkout of the project (such as ``notebooks/``) the project's
root counts as ``.`` too. ``SIAMESE_OFFLINE=1`` forbids the download, and ``SIAMESE_CACHE`` names the cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from siamese_utils.errors import DataError, StorageError, reason
from siamese_utils.system.files import as_path, atomic_path

_SILENCE = 30.0  # seconds; a firewall that drops packets must not look like a hang


class MissingDataError(DataError):
    """No source at all, as opposed to a damaged one: only then may made-up data stand in."""


def flag(name: str) -> bool:
    """Whether an environment variable is set to anything but a word for no."""
    return os.environ.get(name, "").strip().lower() not in ("", "0", "false", "no", "off")


# --- where to look --------------------------------------------------------------------------------


def _bases() -> list[Path]:
    """Return the working folder and, from inside a checkout of the project, the project's root."""
    here = Path.cwd()
    checkout = Path(__file__).resolve().parents[2]
    inside = checkout in here.resolve().parents
    return [here, checkout] if inside else [here]


def search_folders(root: Path | str | None = None) -> list[tuple[Path, str]]:
    """Return (folder, name for people) in search order, each folder once; ``root`` alone where it is given."""
    if root is not None:
        folder = as_path(root)
        return [(folder, str(folder))]
    folders = []
    if os.environ.get("SIAMESE_DATA"):
        folders.append((_named("SIAMESE_DATA"), "$SIAMESE_DATA"))
    for label in ("./data", "../shared/data"):
        folders += [(base / label, label) for base in _bases()]
    seen: set[Path] = set()
    return [(f, label) for f, label in folders if not (f.resolve() in seen or seen.add(f.resolve()))]


def _named(variable: str) -> Path:
    """The folder that an environment variable names.

    Raises:
        DataError: it begins with ``~``, and this user has no home folder.
    """
    try:
        return Path(os.environ[variable]).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"{variable} is {os.environ[variable]}, but this user has no home folder; give the whole path."
        ) from error


def find(holds: Callable[[Path], bool], root: Path | str | None = None) -> tuple[Path, str] | None:
    """Return the first folder that holds what is looked for, and its name for people, or None.

    Raises:
        DataError: ``SIAMESE_DATA`` (or ``root``) names something that is not a folder.
    """
    for folder, label in search_folders(root):
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is not a folder; name the folder that holds the data set instead.")
        if holds(folder):
            return folder, label
    return None


# --- download -------------------------------------------------------------------------------------

_failed_downloads: dict[tuple[str, Path], str] = {}


def fetch(
    title: str,
    get: Callable[[Path], object],
    root: Path | str | None = None,
    download: bool = True,
    remedy: str = "name the folder that holds it in SIAMESE_DATA",
) -> tuple[Path, str]:
    """Download a data set, whole or not at all, into the first of the usual folders, or into ``root``.

    Args:
        title: the data set's name for people.
        get: puts it into an empty folder, in the layout in which it is looked for.
        root: the only folder to look in, where one was given.
        download: whether a download is allowed.
        remedy: what the user can do without one; ends the sentence of the error.

    Returns:
        The folder, and its name for people.

    Raises:
        MissingDataError: downloads are forbidden, or this one failed.
    """
    folders, cause, why = search_folders(root), None, "downloading is switched off"
    if download and not flag("SIAMESE_OFFLINE"):
        given = root is not None or os.environ.get("SIAMESE_DATA")
        folder, label = folders[0] if given else (_bases()[-1] / "data", "./data")
        try:
            _download(title, get, folder)
            return folder, label
        except Exception as error:  # network, archive and disk errors of many types
            _failed_downloads[title, folder.resolve()] = reason(error)
            cause, why = error, f"could not be downloaded ({reason(error)})"
    places = ", ".join(f"{label} ({folder})" if label[0] == "$" else label for folder, label in folders)
    raise MissingDataError(f"{title} is not in {places} and {why}: {remedy}.") from cause


def _download(title: str, get: Callable[[Path], object], folder: Path) -> None:
    if (title, folder.resolve()) in _failed_downloads:  # do not wait for the same dead network twice in one process
        raise OSError(_failed_downloads[title, folder.resolve()])
    folder.mkdir(parents=True, exist_ok=True)
    # An interrupted download must not leave half a data set that the next start takes for a whole one.
    with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary, download_timeout():
        get(Path(temporary))
        for entry in Path(temporary).iterdir():
            _move(entry, folder / entry.name)


def _move(entry: Path, target: Path) -> None:
    """Move a file or folder; a folder that is there, perhaps from a process that was faster, takes what is in it."""
    try:
        os.replace(entry, target)
    except OSError:
        if not (entry.is_dir() and target.is_dir()):
            raise
        for inner in entry.iterdir():
            _move(inner, target / inner.name)


@contextlib.contextmanager
def download_timeout() -> Iterator[None]:
    """While this lasts, a connection that stays silent for half a minute is an OSError."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# --- cache ----------------------------------------------------------------------------------------


def cache_folder() -> Path | None:
    """``SIAMESE_CACHE`` or, where it is not set, ``siamese_utils`` in the user's cache folder; None without a home."""
    if os.environ.get("SIAMESE_CACHE"):
        return _named("SIAMESE_CACHE")
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]) / "siamese_utils"
    # A service or a container may run as a user whom the system does not know.
    with contextlib.suppress(RuntimeError):
        return Path.home() / ".cache" / "siamese_utils"
    return None


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what is needed for a moment: in the cache, or in the system's own where that cannot be written.

    Raises:
        StorageError: neither can be.
    """
    cache = cache_folder()
    with contextlib.ExitStack() as stack:
        folder = None
        if cache is not None:
            with contextlib.suppress(OSError):
                cache.mkdir(parents=True, exist_ok=True)
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix=".scratch-", dir=cache))
        try:
            folder = folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="siamese-"))
        except OSError as error:
            raise StorageError(
                f"Neither the cache {cache} nor the folder for temporary files can be written ({reason(error)}); name "
                "one that can in SIAMESE_CACHE."
            ) from error
        yield Path(folder)


def checksum(*arrays: ArrayLike) -> str:
    """BLAKE2b of the arrays' bytes, one array after the other, without their shapes: 32 hexadecimal digits."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def fingerprint(form: str, folder: Path, files: Iterable[Path]) -> str:
    """What changes with the form in which a folder's files are read, and with their names, sizes and times of change.

    Raises:
        FileNotFoundError: a file is missing; its ``filename`` says which.
    """
    digest = hashlib.blake2b(f"{form}\n".encode(), digest_size=16)
    for file in files:
        status = os.stat(file)
        name = str(file).removeprefix(str(folder))  # one folder may be reached by several paths
        digest.update(os.fsencode(f"{name} {status.st_size} {status.st_mtime_ns}\n"))  # names need not be UTF-8
    return digest.hexdigest()


def at_place(name: str, place: Path) -> str:
    """Name what is made of the files in one folder, so that copies in two folders do not take turns in the cache."""
    return f"{name}-{hashlib.blake2b(os.fsencode(place.resolve()), digest_size=6).hexdigest()}"


def cached(name: str, fingerprint: str, make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Read tensors from the cache or, where it has none of this fingerprint or is damaged, make and keep them.

    Args:
        name: of the cache's file, which holds one fingerprint: a changed source replaces its file, adding none.
        fingerprint: of all that decides the tensors.
        make: the tensors by name.
    """
    folder = cache_folder()
    if folder is None:
        return dict(sorted(make().items()))
    path = folder / f"{name}.safetensors"
    with contextlib.suppress(SafetensorError, OSError), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("fingerprint") == fingerprint:
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
            # A disk error in the cache would otherwise become a wrong number in a table.
            if checksum(*tensors.values()) == metadata.get("checksum"):
                return tensors
    tensors = dict(sorted(make().items()))
    metadata = {"fingerprint": fingerprint, "checksum": checksum(*tensors.values())}
    # A full or read-only disk only costs time at the next start.
    with contextlib.suppress(SafetensorError, OSError), atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)
    return tensors
