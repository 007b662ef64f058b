"""Imports run one way, from room to room and inside each; the package knows no notebook and no test."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import siamese_utils

PACKAGE = Path(siamese_utils.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on a checkout; the contracts stand in pyproject.toml."""
    program = "import sys; sys.path.insert(0, ''); from importlinter.cli import lint_imports; sys.exit(lint_imports())"
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_every_module_keeps_to_the_order_of_the_rooms() -> None:
    found = linted(PACKAGE.parent)
    assert found.returncode == 0, found.stdout
    assert "0 broken" in found.stdout


@pytest.mark.parametrize(
    "module, line",
    [
        ("data/images.py", "from siamese_utils.training import losses"),
        ("studies/reference.py", "from siamese_utils import cli"),
        ("stray.py", "import torch"),  # a room that the contract does not know
    ],
)
def test_the_order_is_really_checked(tmp_path: Path, module: str, line: str) -> None:
    shutil.copytree(PACKAGE, tmp_path / "siamese_utils", ignore=shutil.ignore_patterns("__pycache__", "static"))
    shutil.copy(PACKAGE.parent / "pyproject.toml", tmp_path)
    with open(tmp_path / "siamese_utils" / module, "a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    assert linted(tmp_path).returncode != 0


def test_a_dozen_entries_at_the_top() -> None:
    entries = {path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert len(entries - {"__init__.py", "__main__.py"}) <= 12, sorted(entries)


def test_nothing_imports_tests_or_notebooks() -> None:
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [str(node.module)]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not {name.split(".")[0] for name in names} & {"notebooks", "tests", "conftest", "pytest"}, path


def test_every_module_says_what_it_is_and_can_be_documented() -> None:
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"


def test_public_names_exist() -> None:
    for name in siamese_utils.__all__:
        assert getattr(siamese_utils, name) is not None
    assert {"load_encoder", "classify_folder", "OneShotClassifier", "CosineClassifier"} <= set(siamese_utils.__all__)


def test_names_of_earlier_versions_are_still_found() -> None:
    from siamese_utils.imprinting import CosineClassifier

    from siamese_utils.encoders import Ensemble

    assert CosineClassifier is siamese_utils.CosineClassifier and Ensemble is siamese_utils.Ensemble
    assert importlib.import_module("siamese_utils.imprinting").Whitening


def test_using_an_encoder_needs_neither_plots_nor_notebooks() -> None:
    program = (
        "import sys, siamese_utils; "
        "print(*sorted({'matplotlib', 'IPython', 'nbconvert', 'torchvision'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    child = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert child.stdout.split() == []
