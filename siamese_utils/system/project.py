"""Where the project lies: the published results, and the folder of a user's own."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from siamese_utils.errors import ConfigError
from siamese_utils.system.files import atomic_path

_PACKAGE = Path(__file__).resolve().parents[1]
_at: Path | None = None
_anew = False


def project_root() -> Path:
    """The folder that holds ``results/``: that of the published results, unless another one is asked for by ``at``."""
    return _at or published_root()


def results_dir() -> Path:
    """The folder of the stored tables, runs and checkpoints."""
    return project_root() / "results"


def published_root() -> Path:
    """The checkout one stands in, or else that of this package, or else the package with what it carries itself.

    So notebooks and commands find the published results wherever they are started.
    """
    here = Path.cwd()
    for folder in (here, *here.parents, _PACKAGE.parent):
        if is_checkout(folder):
            return folder
    return _PACKAGE


def is_checkout(folder: Path | None = None) -> bool:
    """Whether a folder, or that of the published results, is a checkout of the project."""
    folder = folder or published_root()
    return (folder / "results").is_dir() and (folder / "siamese_utils").is_dir()


def checkout(what: str) -> Path:
    """The checkout of the project.

    Args:
        what: needs it, for the error.

    Raises:
        ConfigError: there is none.
    """
    if not is_checkout():
        raise ConfigError(
            f"{what} needs a checkout of the project, with its notebooks and results; clone its repository and start "
            "this in it."
        )
    return published_root()


# --- a user's own -----------------------------------------------------------------------------------------------------


def own_folder() -> Path:
    """Where a user's own runs are stored, as ``results/`` and ``runs/`` are in a checkout.

    The folder that ``SIAMESE_RUNS`` names, or else ``siamese_runs`` in the checkout or, without one, where one stands.
    """
    if os.environ.get("SIAMESE_RUNS"):
        return Path(os.path.expanduser(os.environ["SIAMESE_RUNS"])).resolve()
    return (published_root() if is_checkout() else Path.cwd()) / "siamese_runs"


@contextmanager
def at(folder: Path | None, anew: bool = False) -> Iterator[None]:
    """While this lasts, results are read from and written to another folder.

    Args:
        folder: where; ``None`` stands for the published results.
        anew: all that runs rest on is made anew there too, and what is read to be shown and is not there yet is read
            from the published results.
    """
    before = _at, _anew
    _move_to(folder, anew)
    try:
        yield
    finally:
        _move_to(*before)


def move_to(folder: Path | None) -> None:
    """From now on all is made anew in a folder, as ``at`` does for a while; ``None`` leads back."""
    _move_to(folder, anew=True)


def _move_to(folder: Path | None, anew: bool) -> None:
    global _at, _anew
    _at, _anew = folder, anew and folder is not None


def is_anew() -> bool:
    """Whether all is to be made anew in the folder that ``at`` or ``move_to`` has asked for."""
    return _anew


def published(path: Path) -> Path:
    """The published file in whose place one of the folder that ``at`` has asked for stands."""
    return path if _at is None or not path.is_relative_to(_at) else published_root() / path.relative_to(_at)


def shown(path: Path) -> Path:
    """The file to show: where all is made anew and this has not been made yet, the published one."""
    return published(path) if is_anew() and not path.is_file() else path


def elsewhere() -> Path | None:
    """The folder that ``at`` has asked for, to hand it on to another process."""
    return _at


def bring(path: Path) -> None:
    """Copy a published file to its place in the folder that ``at`` has asked for, unless something is there already.

    Raises:
        StorageError: it cannot be written.
    """
    if _at is None or path.exists() or not path.is_relative_to(_at):
        return
    if published(path).is_file():
        with atomic_path(path) as temporary:
            shutil.copyfile(published(path), temporary)


def is_brought(path: Path) -> bool:
    """Whether a file in the folder that ``at`` has asked for is a copy of the published one."""
    if _at is None or not path.is_file() or not path.is_relative_to(_at):
        return False
    return published(path).is_file() and filecmp.cmp(path, published(path), shallow=False)
