"""The first cell of every notebook fetches the project where it is not installed, as on Colab."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from alone import REPOSITORY, ROOT, bare_python, execute, is_working_copy, publish, texts

from siamese_utils.report.execute import numbered_notebooks


def frame(path: Path) -> str:
    """The first code cell, which readers of the report never see."""
    first = next(cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
    assert first.metadata.tags == ["frame"] and first.metadata.jupyter.source_hidden
    return first.source


def test_every_notebook_begins_with_the_same_cell() -> None:
    cells = {frame(path) for path in numbered_notebooks(ROOT / "notebooks")}
    assert len(cells) == 1 and "git" in cells.pop()


@pytest.mark.skipif(not is_working_copy(), reason="the project is not a working copy of Git")
def test_a_notebook_alone_fetches_the_project_once(tmp_path: Path) -> None:
    """Also after a restart of the kernel, when the project is there already; and the imports outlive a `cd`."""
    alone = tmp_path / "content"
    alone.mkdir()
    cells = [
        "import importlib.util; print(importlib.util.find_spec('siamese_utils'))",
        frame(ROOT / "notebooks" / "05_one_shot_evaluation.ipynb"),
        "import os; os.chdir('/')",
        "from siamese_utils.system import project; print(project.project_root())",
    ]
    path = alone / "alone.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells]), path)
    python, hub = bare_python(tmp_path), publish(tmp_path, without="results/checkpoints/")
    for _ in range(2):
        first, *_, last = texts(execute(path, alone, python, hub))
        assert (first.strip(), last.strip()) == ("None", str(alone / REPOSITORY.name))
    assert (alone / REPOSITORY.name / "results" / "split_sweep.csv").exists()
