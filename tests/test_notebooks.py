"""Code cells are a call or a few lines: what draws, and what catches errors, stands in the package."""

from __future__ import annotations

import ast
import statistics
from functools import cache
from pathlib import Path

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
MOST_COLUMNS, MOST_LINES, MOST_DRAWING, MOST_USUAL = 120, 24, 8, 5
CANVAS = {"plt", "sns", "fig", "figure", "ax", "axs", "axes", "axis"}


@cache
def cells(path: Path) -> tuple[str, ...]:
    """Code cells in order, without the frame that every page begins with."""
    found = nbformat.read(path, as_version=4).cells
    return tuple(
        cell.source for cell in found if cell.cell_type == "code" and "frame" not in cell.metadata.get("tags", ())
    )


def lines_of(source: str) -> list[str]:
    """Lines that are neither empty nor a comment."""
    return [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def parsed(source: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(TransformerManager().transform_cell(source))))


def canvases(nodes: list[ast.AST]) -> set[str]:
    """Names of what is drawn on: the usual ones, and those that a call of matplotlib is given to."""
    given = [node for node in nodes if isinstance(node, ast.Assign) and draws(node.value, {"plt"})]
    names = {name.id for node in given for target in node.targets for name in ast.walk(target) if hasattr(name, "id")}
    return CANVAS | names


def draws(node: ast.AST, names: set[str]) -> bool:
    """Whether this is a call such as ``plt.plot(…)``, ``axes[0].set(…)`` or ``figure.axes[0].title.set(…)``."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
        return False
    inner: ast.AST = node.func
    while isinstance(inner, ast.Attribute | ast.Subscript | ast.Call):
        inner = inner.func if isinstance(inner, ast.Call) else inner.value
    return isinstance(inner, ast.Name) and inner.id in names


def faults(source: str) -> list[str]:
    """What is too much for a cell of a page."""
    nodes = parsed(source)
    names = canvases(nodes)
    drawing = {
        line
        for node in nodes
        if draws(node, names)
        for line in range(node.lineno, node.end_lineno + 1)  # type: ignore[attr-defined]
    }
    found = {
        "catches errors": any(isinstance(node, ast.Try) for node in nodes),
        f"has a line over {MOST_COLUMNS} columns": max(map(len, source.splitlines()), default=0) > MOST_COLUMNS,
        f"has over {MOST_LINES} lines": len(lines_of(source)) > MOST_LINES,
        f"draws over more than {MOST_DRAWING} lines": len(drawing) > MOST_DRAWING,
    }
    return [fault for fault, there in found.items() if there]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_thin(path: Path) -> None:
    found = [f"{source.splitlines()[0]!r} {fault}" for source in cells(path) for fault in faults(source)]
    assert not found, f"move this of {path.name} to the package's findings and figures:\n" + "\n".join(found)
    assert statistics.median(len(lines_of(source)) for source in cells(path)) <= MOST_USUAL


def test_every_page_has_one_frame_and_the_same() -> None:
    framed = [
        [cell.source for cell in nbformat.read(path, as_version=4).cells if "frame" in cell.metadata.get("tags", ())]
        for path in NOTEBOOKS
    ]
    assert all(len(frames) == 1 and frames == framed[0] for frames in framed)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("try:\n    f()\nexcept ValueError:\n    pass", "catches errors"),
        ("# NBVAL_SKIP\nx = '" + 120 * "y" + "'", "has a line over 120 columns"),
        (25 * "f()\n", "has over 24 lines"),
        (9 * "plt.plot(x)\n", "draws over more than 8 lines"),
        (9 * "axes[0, 1].title.set(color='red')\n", "draws over more than 8 lines"),
        ("figure.axes[0].set(\n" + 8 * "    x=1,\n" + ")", "draws over more than 8 lines"),
        ("_, (left, right) = plt.subplots(1, 2)\n" + 8 * "left.plot(x)\n", "draws over more than 8 lines"),
    ],
)
def test_a_fault_is_found(source: str, fault: str) -> None:
    assert faults(source) == [fault]


def test_what_is_no_fault() -> None:
    assert faults(8 * "plt.plot(x)\n") == faults(24 * "f()\n") == faults("x = '" + 114 * "y" + "'") == []
    assert faults("%time f()\n!ls") == faults("") == faults("# left alone\npage.show(figures.plt_figure)") == []
    assert lines_of("# a comment\n\nf()\n  # another\n") == ["f()"]
