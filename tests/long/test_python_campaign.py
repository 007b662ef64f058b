"""A clean install and all tests on other Pythons: `make test-pythons PYTHONS="python3.10 python3.13"`.

Each gets a fresh clone of the last commit, `make venv` there, the tests, and every notebook on synthetic data. No data
lie beside that clone: name their folder in SIAMESE_DATA, or the tests that need them are skipped.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from alone import ROOT, is_working_copy

pytestmark = [pytest.mark.long, pytest.mark.skipif(not is_working_copy(), reason="not a working copy of Git")]
PYTHONS = os.environ.get("SIAMESE_PYTHONS", "").split()
NOTEBOOKS = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900", "notebooks")


@pytest.mark.skipif(not PYTHONS, reason="SIAMESE_PYTHONS names no interpreter")
@pytest.mark.parametrize("python", PYTHONS)
def test_everything_on_another_python(python: str, tmp_path: Path, campaign: Callable) -> None:
    clone = tmp_path / "project"
    ours = ("SIAMESE_RECORD", "SIAMESE_PYTHONS", "PYTEST_")  # what the campaign itself was started with
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    version = subprocess.run(
        [python, "-c", "import platform; print(platform.python_version())"], check=True, capture_output=True, text=True
    ).stdout.strip()
    with campaign(f"tests and notebooks on Python {version}", 1000) as counted:
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        subprocess.run(["make", "venv", f"PYTHON={python}"], cwd=clone, check=True, env=environment)
        for what, more, profile in (("tests", ("tests",), {}), ("notebooks", NOTEBOOKS, {"SIAMESE_PROFILE": "smoke"})):
            report = tmp_path / f"{what}.xml"
            subprocess.run(
                [clone / ".venv" / "bin" / "python", "-m", "pytest", "--quiet", f"--junitxml={report}", *more],
                cwd=clone,
                check=False,
                env={**environment, **profile},
            )
            for case in ElementTree.parse(report).iter("testcase"):
                if case.find("skipped") is None:
                    counted.trials += 1
                problem = next((child for child in case if child.tag in ("failure", "error")), None)
                if problem is not None:
                    counted.failures.append(f"{case.get('classname')}::{case.get('name')}: {problem.get('message')}")
