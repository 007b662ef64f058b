"""Every notebook, whole, on a machine that has the libraries but not the project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from alone import REPOSITORY, ROOT, bare_python, execute, is_working_copy, publish

from siamese_utils.report.execute import numbered_notebooks

pytestmark = [pytest.mark.long, pytest.mark.skipif(not is_working_copy(), reason="not a working copy of Git")]


def test_every_notebook_alone(tmp_path: Path, campaign: Callable) -> None:
    """On synthetic data; each fetches the project into a folder of its own."""
    python, hub = bare_python(tmp_path), publish(tmp_path)
    notebooks = numbered_notebooks(ROOT / "notebooks")
    with campaign("notebooks started alone", len(notebooks)) as counted:
        for path in notebooks:
            folder = tmp_path / path.stem
            folder.mkdir()
            (folder / path.name).write_bytes(path.read_bytes())
            with counted.trial(path.name):
                execute(folder / path.name, folder, python, hub, SIAMESE_PROFILE="smoke")
                assert (folder / REPOSITORY.name / "results").is_dir()
