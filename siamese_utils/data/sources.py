"""Where data lie on this machine, and where they may be put: search folders, cache, time-outs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

DOWNLOAD_TIMEOUT = 30.0  # seconds of silence; a firewall that drops packets must not look like a hang


@dataclass(frozen=True)
class DataSource:
    """A copy of CIFAR-100 found on this machine.

    Attributes:
        layout: ``"torchvision"``, ``"parquet"`` or ``"folders"``.
        path: the folder that holds ``cifar-100-python/``, the Parquet files, or ``train/`` and ``test/``.
        label: the folder's name for people; the same on every machine, hence fit for a stored notebook.
    """

    layout: Literal["torchvision", "parquet", "folders"]
    path: Path
    label: str

    def __str__(self) -> str:
        """Say what it is and where, for example ``Parquet files in ./data/cifar100``."""
        kinds = {"torchvision": "torchvision's files", "parquet": "Parquet files", "folders": "image folders"}
        return f"{kinds[self.layout]} in {self.label}"


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


def search_folders(root: Path | str | None) -> list[tuple[Path, str]]:
    """Return (folder, name for people) in search order, each folder once."""
    if root is not None:
        return [(Path(root), str(root))]
    folders = []
    if os.environ.get("SIAMESE_DATA"):
        folders.append((Path(os.environ["SIAMESE_DATA"]).expanduser(), "$SIAMESE_DATA"))
    for label in ("./data", "../shared/data"):
        folders += [(base / label, label) for base in _bases()]
    seen: set[Path] = set()
    return [(f, label) for f, label in folders if not (f.resolve() in seen or seen.add(f.resolve()))]


def download_folder(root: Path | str | None) -> tuple[Path, str]:
    """Where a download goes, and its name for people."""
    folders = search_folders(root)
    if root is not None or os.environ.get("SIAMESE_DATA"):
        return folders[0]
    return _bases()[-1] / "data", "./data"


# --- cache ----------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return ``SIAMESE_CACHE`` or, where it is not set, ``siamese_utils`` in the user's cache folder."""
    if os.environ.get("SIAMESE_CACHE"):
        return Path(os.environ["SIAMESE_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siamese_utils"
