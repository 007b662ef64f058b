"""Where the project lies: the folder with the stored results."""

from __future__ import annotations

from pathlib import Path


def project_root() -> Path:
    """The folder that holds ``results/``: the working folder or the nearest one above it that has it.

    Falls back to the folder this package lies in, so that notebooks and commands find the stored results
    wherever they are started.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "results").is_dir() and (folder / "siamese_utils").is_dir():
            return folder
    return Path(__file__).resolve().parents[2]


def results_dir() -> Path:
    """The folder of the stored tables, runs and checkpoints."""
    return project_root() / "results"
