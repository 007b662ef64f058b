"""Outputs in a form that gives small diffs and names no machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

from nbformat import NotebookNode

_PROGRESS_BAR = re.compile(r"\d+%\|.*\||\d+it \[\d+:\d\d")


def tidy_notebook(notebook: NotebookNode, root: Path) -> None:
    """Remove, in place, what differs between runs and machines or only works in a live kernel.

    That is: timings, editor settings, widget state, progress bars, scripts, and absolute paths (those below
    ``root`` become relative, the home folder becomes ``~``).
    """
    kept = {"accelerator"} & notebook.metadata.keys()
    notebook.metadata = NotebookNode(
        {
            **{key: notebook.metadata[key] for key in kept},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        kept = {"tags", "alt", "jupyter"} & cell.metadata.keys()
        cell.metadata = NotebookNode({key: cell.metadata[key] for key in sorted(kept)})
        if cell.cell_type == "code":
            tidied = (_tidy_output(output, root) for output in cell.outputs)
            cell.outputs = [output for output in tidied if output is not None]


def _tidy_output(output: NotebookNode, root: Path) -> NotebookNode | None:
    """Return the output without progress bars, widgets and private paths; None when nothing is left."""
    if output.output_type == "stream":
        lines = re.split(r"(?<=\n)|\r", output.text)
        text = "".join(line for line in lines if not _PROGRESS_BAR.search(line))
        if not text.strip():
            return None
        output.text = _without_paths(text, root)
    elif output.output_type == "error":
        output.traceback = [_without_paths(line, root) for line in output.traceback]
    else:
        live_only = ("application/vnd.jupyter.widget-view+json", "application/javascript")
        if any(kind in output.data for kind in live_only):
            if "text/html" not in output.data:
                return None
            for kind in live_only:
                output.data.pop(kind, None)
        for kind, content in output.data.items():
            if kind.startswith("text/") and isinstance(content, str):
                output.data[kind] = _without_paths(content, root)
    return output


def _without_paths(text: str, root: Path) -> str:
    text = re.sub(r"[^\s'\"<>]*ipykernel_\d+[/\\]\d+\.py", "<cell>", text)
    for folder, short in ((root.resolve(), "."), (Path(os.path.expanduser("~")), "~")):
        if len(folder.parts) > 1:
            text = re.sub(rf"(?<![\w.]){re.escape(str(folder))}(?![\w.-])", short, text)
    return text
