"""A notebook on a machine that has the libraries but not the project, as on Colab: it fetches the project itself.

The address on GitHub is turned by Git's own ``insteadOf`` to a repository made of the working tree, and pip may not ask
an index, so nothing leaves the machine.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import venv
from pathlib import Path

import nbformat

from siamese_utils.report.address import Repository

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = Repository.of(ROOT)


def publish(folder: Path, without: str = "") -> str:
    """Commit what Git follows in the working tree to a new repository; returns the address of its owner.

    Files whose path begins with ``without``, if given, are left out.
    """
    repository = folder / "hub" / REPOSITORY.owner / REPOSITORY.name
    repository.mkdir(parents=True)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org", f"--git-dir={repository / '.git'}"]
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True)
    followed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    names = [os.fsdecode(name) for name in followed.split(b"\0") if name]
    wanted = [name for name in names if (ROOT / name).exists() and not (without and name.startswith(without))]
    there = b"\0".join(map(os.fsencode, wanted))
    subprocess.run(
        [*git, f"--work-tree={ROOT}", "add", "--force", "--pathspec-from-file=-", "--pathspec-file-nul"],
        cwd=ROOT,
        input=there,
        check=True,
    )
    subprocess.run([*git, f"--work-tree={ROOT}", "commit", "--quiet", "--message=All"], cwd=ROOT, check=True)
    return (folder / "hub").as_uri() + "/"


def bare_python(folder: Path) -> Path:
    """An interpreter that finds the libraries installed here, and only those: not the project."""
    venv.create(folder / "python", symlinks=os.name != "nt")
    return folder / "python" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def execute(notebook: Path, folder: Path, python: Path, hub: str, **environment: str) -> nbformat.NotebookNode:
    """Execute a notebook that lies in a folder of its own, and return it with its outputs.

    Raises:
        RuntimeError: a cell failed; with the end of what it said.
    """
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SIAMESE_", "GIT_", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [
            str(python),
            "-m",
            "nbconvert",
            "--to=notebook",
            "--execute",
            "--output=done.ipynb",
            "--ExecutePreprocessor.kernel_name=python3",
            "--ExecutePreprocessor.timeout=900",
            notebook.name,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={
            **inherited,
            # Entries of PYTHONPATH, unlike site-packages, are not searched for the links of editable installations.
            "PYTHONPATH": os.pathsep.join(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": f"url.{hub}.insteadOf",
            "GIT_CONFIG_VALUE_0": "https://github.com/",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "SIAMESE_OFFLINE": "1",
            "SIAMESE_CACHE": str(folder / "cache"),
            "JUPYTER_DATA_DIR": str(folder / "jupyter"),  # a kernel of the user's must not take the place of ours
            "TQDM_DISABLE": "1",
            **environment,
        },
    )
    if done.returncode:
        raise RuntimeError(f"{notebook.name} failed when started alone:\n{done.stderr[-3000:]}")
    return nbformat.read(folder / "done.ipynb", as_version=4)


def texts(notebook: nbformat.NotebookNode) -> list[str]:
    """What the cells printed."""
    return [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]


def is_working_copy() -> bool:
    """Whether Git can tell here which files belong to the project."""
    return (ROOT / ".git").exists()
