"""Imports run one way: each module knows only those before it on one line, and the package knows no notebook."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import siamese_utils

PACKAGE = Path(siamese_utils.__file__).parent
MODULES = {path.stem: path for path in sorted(PACKAGE.glob("*.py"))}

# The spine, from what knows nothing to what knows everything.
SPINE = (
    "errors", "data", "splits", "sampling", "augment", "backbones", "encoders", "pretrained", "losses", "optimizers",
    "checkpoints", "evaluation", "growth", "training", "recipes", "sweep", "notebook",
)  # fmt: skip
# What knows no model and no data, so that it can be used (and tested) without either.
ALLOWED = {
    "errors": set(),
    "files": {"errors"},
    "devices": {"errors"},
    "provenance": set(),
    "augment": {"errors", "fields"},
    "fields": {"errors"},
    "splits": {"errors"},
    "sampling": {"errors"},
    "losses": {"errors"},
    "optimizers": {"errors"},
    "data": {"errors", "files", "synthetic"},
    "synthetic": {"errors", "data"},
    "backbones": {"errors"},
    "encoders": {"errors", "augment", "backbones"},
    "pretrained": {"errors", "data", "backbones", "encoders"},
    "checkpoints": {"errors", "files", "devices", "backbones", "encoders"},
    "evaluation": {"errors", "splits", "sampling"},
    "calibration": {"evaluation"},
    "growth": {"errors", "splits", "sampling", "evaluation", "results"},
    "plotting": {"errors", "files"},
    "imprinting": {"errors", "files"},
    "symbols": {"errors", "files", "data"},
    "faces": {"errors", "files", "data", "sampling"},
    "fourier": set(),
    "memory": set(),
    "koch": {"errors", "files", "devices", "fourier", "memory", "sampling"},
}


def imported_modules(path: Path, *, at_start_only: bool = False) -> set[str]:
    """Modules of the package that a file imports; with ``at_start_only`` not those imported inside functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        child
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for child in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if at_start_only and node in inside:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.level or node.module == "siamese_utils"):
            base = node.module if node.level == 0 else ".".join(filter(None, ("siamese_utils", node.module)))
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.ImportFrom):
            names = [str(node.module)]
        else:
            continue
        parts = [name.split(".") for name in names]
        found |= {part[1] for part in parts if part[0] == "siamese_utils" and len(part) > 1 and part[1] in MODULES}
    return found


# The synthetic set is made of ImageSets, and the loader falls back to it: one import, made inside a function.
KNOWN_EXCEPTION = ("data", "synthetic")


@cache
def graph() -> dict[str, set[str]]:
    """What each module imports, without the known exception."""
    imports = {name: imported_modules(path) for name, path in MODULES.items()}
    assert KNOWN_EXCEPTION[1] not in imported_modules(MODULES[KNOWN_EXCEPTION[0]], at_start_only=True)
    imports[KNOWN_EXCEPTION[0]].discard(KNOWN_EXCEPTION[1])
    return imports


def test_the_parser_sees_imports() -> None:
    imports = graph()
    assert {"encoders", "losses", "evaluation", "splits"} <= imports["training"]
    assert "results" in imports["cli"] and "errors" in imports["sampling"]
    assert "report" in imports["cli"] and "report" not in imported_modules(MODULES["cli"], at_start_only=True)
    assert imported_modules(MODULES["data"]) - imports["data"] == {"synthetic"}


def test_no_cycles() -> None:
    order = list(TopologicalSorter(graph()).static_order())  # raises CycleError
    assert set(order) == set(MODULES)


def test_order_follows_the_line() -> None:
    imports = graph()
    reach: dict[str, set[str]] = {}
    for name in TopologicalSorter(imports).static_order():
        reach[name] = imports[name].union(*(reach[other] for other in imports[name]))
    for number, name in enumerate(SPINE):
        later = set(SPINE[number + 1 :])
        assert not reach[name] & later, f"{name} must not know {sorted(reach[name] & later)}"
    for name in SPINE:
        assert not reach[name] & {"cli", "__main__", "report"}, name


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_lower_modules_know_little(name: str) -> None:
    assert imported_modules(MODULES[name]) <= ALLOWED[name]


@pytest.mark.parametrize(
    "name, forbidden",
    [
        ("data", {"training", "encoders", "splits"}),
        ("losses", {"data", "encoders", "training"}),
        ("evaluation", {"data", "encoders", "training"}),
        ("oneshot", {"training", "data", "evaluation", "results"}),
        ("checkpoints", {"training", "data"}),
        ("results", {"training", "data", "encoders"}),
        ("training", {"results", "oneshot", "notebook", "plotting", "cli"}),
        ("report", {"training", "data", "encoders"}),
    ],
)
def test_forbidden_imports(name: str, forbidden: set[str]) -> None:
    assert not graph()[name] & forbidden


def test_nothing_imports_tests_or_notebooks() -> None:
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import)
                else [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            )  # fmt: skip
            assert not {name.split(".")[0] for name in names} & {"notebooks", "tests", "conftest", "pytest"}, path.name
    for name in set(MODULES) - {"cli"}:
        assert "notebook" not in graph()[name], f"{name} must not know the notebooks' module"


def test_every_module_says_what_it_is_and_can_be_documented() -> None:
    for path in MODULES.values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path.name
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path.name}: {node.name}"


def test_public_names_exist() -> None:
    for name in siamese_utils.__all__:
        assert getattr(siamese_utils, name) is not None
    assert {"load_encoder", "classify_folder", "OneShotClassifier"} <= set(siamese_utils.__all__)


def test_using_an_encoder_needs_neither_plots_nor_notebooks() -> None:
    program = (
        "import sys, siamese_utils; "
        "print(*sorted({'matplotlib', 'IPython', 'nbconvert', 'tensorboard', 'torchvision'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    child = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=True)
    assert child.stdout.split() == []
