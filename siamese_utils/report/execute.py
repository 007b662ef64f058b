"""Executes notebooks, each in a fresh kernel of this interpreter, and keeps what was executed.

A notebook is executed again only when something it rests on has changed: its code, the package, ``results/``, the data,
or the versions of what computes. So a second report takes seconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from tqdm import tqdm

from siamese_utils.data.sources import search_folders
from siamese_utils.errors import SiameseError, reason, unknown
from siamese_utils.report import IN_PLACE, PROFILES, RETRAINING
from siamese_utils.system.files import write_text_atomically
from siamese_utils.system.project import own_folder, results_dir
from siamese_utils.system.provenance import package_version

CELL_TIMEOUT = 1800
"""Seconds a cell may take in the profiles that retrain nothing; the others set no limit."""
STARTS = 3
"""How often a kernel is started that ends before its first cell."""
_NUMBERED = re.compile(r"\d+[a-z]?_.+\.ipynb")
NBVAL_MARKER = re.compile(r"^#\s*NBVAL_\w+.*\n?", re.MULTILINE)


class ReportError(SiameseError, RuntimeError):
    """The report cannot be built: no notebooks, a failing cell, or a figure without a description."""


def numbered_notebooks(notebooks_dir: str | Path, only: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks named ``NN_name.ipynb`` in order; ``only`` keeps those whose name begins so.

    Raises:
        ReportError: the folder or the notebooks are missing.
    """
    folder = Path(notebooks_dir)
    if not folder.is_dir():
        raise ReportError(f"There is no folder {folder}; run this in the project's root or name the notebooks' folder.")
    found = sorted(path for path in folder.glob("*.ipynb") if _NUMBERED.fullmatch(path.name))
    if not found:
        raise ReportError(f"The folder {folder} has no numbered notebook such as 01_data_exploration.ipynb.")
    for start in only:
        if not any(path.name.startswith(start) for path in found):
            raise ReportError(f"No notebook in {folder} begins with {start!r}; there are {_listing(found)}.")
    return [path for path in found if not only or path.name.startswith(tuple(only))]


class _ThisPython(KernelSpecManager):
    """Answers every kernel name with the interpreter that runs now, whatever kernels are registered."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        spec = get_kernel_dict()
        spec["argv"][0] = sys.executable
        return KernelSpec(**spec)


class _Client(NotebookClient):
    def create_kernel_manager(self) -> KernelManager:
        self.km = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=_ThisPython(parent=self))
        return self.km


def execute_notebook(path: Path, profile: str, in_place: bool = False) -> tuple[NotebookNode, float]:
    """Execute one notebook in a fresh kernel of this interpreter, in the notebook's folder.

    Its figures go to ``build/figures``, or to ``figures`` where the outputs are to be stored in it.

    Returns:
        The notebook with its outputs, and the seconds that took.

    Raises:
        ReportError: a cell failed, took too long or ended its kernel.
    """
    notebook = read(path)
    cells = notebook.cells
    current, begun = 0, False
    bar = tqdm(total=len(cells), desc=path.stem, unit="cell", leave=False, disable=not sys.stderr.isatty())

    def started(cell: NotebookNode, cell_index: int) -> None:
        nonlocal current, begun
        current, begun = cell_index, True
        bar.update(cell_index - bar.n)

    client = _Client(
        notebook,
        timeout=None if profile in RETRAINING else CELL_TIMEOUT,
        resources={"metadata": {"path": str(path.resolve().parent)}},
        store_widget_state=False,
        record_timing=False,
        # Kernels warn at each start that they talk over the loopback interface; errors still come through.
        extra_arguments=["--IPKernelApp.log_level=40"],
        on_cell_start=started,
    )
    begin = time.perf_counter()
    try:
        with bar:
            _start_and_execute(client, _kernel_environment(profile, in_place), lambda: begun)
    except CellExecutionError as error:
        raise ReportError(_failure(path, cells, current, error.ename, error.evalue)) from None
    except CellTimeoutError:
        limit = f"took longer than {CELL_TIMEOUT} seconds"
        raise ReportError(_failure(path, cells, current, "time-out", limit)) from None
    except (DeadKernelError, RuntimeError) as error:
        lost = f"the kernel ended, perhaps for want of memory ({error})"
        raise ReportError(_failure(path, cells, current, "no answer", lost)) from None
    seconds = time.perf_counter() - begin
    print(f"{path.stem}: {len(cells)} cells, {seconds:.1f} s", flush=True)
    return notebook, seconds


def _start_and_execute(client: NotebookClient, environment: dict[str, str], begun: Callable[[], bool]) -> None:
    """Execute a notebook; a kernel that ends before its first cell is started again.

    Of programs that start kernels at one time, two may pick the same free port, and one of the kernels then ends.
    """
    for left in reversed(range(STARTS)):
        try:
            client.execute(env=environment)
            return
        except RuntimeError:  # a dead kernel is one as well
            if begun() or not left:
                raise
            client.km = None


def _kernel_environment(profile: str, in_place: bool) -> dict[str, str]:
    environment = dict(os.environ)
    environment["SIAMESE_PROFILE"] = profile
    environment[IN_PLACE] = str(int(in_place))
    # Progress bars are for people who wait; stored, they are noise that differs in every run.
    environment["TQDM_DISABLE"] = "1"
    # Kernels that run side by side would otherwise wait for each other's threads.
    if profile not in RETRAINING:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // AT_ONCE)))
    if environment.get("SIAMESE_RUNS"):
        environment["SIAMESE_RUNS"] = str(own_folder())  # the kernel runs in another folder
    environment["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    package_root = Path(__file__).resolve().parents[2]
    if package_root.name not in ("site-packages", "dist-packages"):
        # The notebooks import this copy of the package, also where it has not been installed.
        known = environment.get("PYTHONPATH")
        environment["PYTHONPATH"] = os.pathsep.join([str(package_root), *([known] if known else [])])
    return environment


def _failure(path: Path, cells: list[NotebookNode], index: int, name: str, text: str) -> str:
    def first_line(lines: str) -> str:
        return next((line.strip() for line in lines.splitlines() if line.strip()), "")

    source = first_line(NBVAL_MARKER.sub("", cells[index].source))[:80]
    reason = first_line(_ansi_free(text))[:400].rstrip(".")
    where = f"cell {index + 1} of {len(cells)} (“{source}”)"
    return f"Notebook {path.name} failed in {where} with {name}: {reason}."


def _ansi_free(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def check_profile(profile: str) -> None:
    """Raise UnknownNameError unless there is such a profile."""
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)


def read(path: Path) -> NotebookNode:
    """A notebook from its file; ReportError where it cannot be read."""
    try:
        return nbformat.read(path, as_version=4)
    except (OSError, ValueError, nbformat.ValidationError) as error:
        raise ReportError(f"{path} cannot be read as a notebook ({error}); restore it from git.") from error


def write(path: Path, text: str) -> None:
    """Write a file in one step; ReportError where it cannot be written."""
    try:
        write_text_atomically(path, text)
    except OSError as error:
        raise ReportError(f"{path} cannot be written ({reason(error)}); make room or name another folder.") from error


def _listing(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)


# ------------------------------------------------------------------------------------ several, and what is kept

AT_ONCE = 2
"""Notebooks that are executed side by side, each with its share of the cores."""
_VERSIONS = ("torch", "torchvision", "numpy", "pandas", "scikit-learn", "matplotlib", "seaborn", "ipython")


def execute_notebooks(
    paths: Sequence[Path], profile: str, in_place: bool = False
) -> Iterator[tuple[Path, NotebookNode, float]]:
    """Execute notebooks, some at once, and give them in order: the path, the notebook with outputs, and its seconds.

    Those that were executed before, with the same code, results, data and versions, are given at once, except in the
    profiles that retrain.

    Raises:
        ReportError: a cell failed, or a notebook could not be executed. It is told when its turn comes, and raised when
            the other notebooks have been executed: hours of training are not left undone for it.
    """
    kept = paths[0].resolve().parent.parent / "build" / "executed" if paths else Path()
    ground = _ground(kept.parent.parent, profile) + " in place" * in_place if paths else ""

    def execute(path: Path) -> tuple[Path, NotebookNode, float]:
        digest = hashlib.sha256(ground.encode())
        digest.update(json.dumps([cell.source for cell in read(path).cells]).encode())
        file = kept / f"{path.stem}-{digest.hexdigest()[:16]}.ipynb"
        if file.is_file() and profile not in RETRAINING:
            notebook = read(file)
            return path, notebook, float(notebook.metadata.pop("siamese_seconds"))
        notebook, seconds = execute_notebook(path, profile, in_place)
        if profile in RETRAINING:
            return path, notebook, seconds
        for old in kept.glob(f"{path.stem}-*.ipynb"):
            old.unlink(missing_ok=True)
        notebook.metadata["siamese_seconds"] = round(seconds, 1)
        write(file, nbformat.writes(notebook) + "\n")
        del notebook.metadata["siamese_seconds"]
        return path, notebook, seconds

    # Trainings would take each other's time, by which they are judged too.
    with ThreadPoolExecutor(1 if profile in RETRAINING else AT_ONCE) as pool:
        running = [pool.submit(execute, path) for path in paths]
        failures: list[tuple[str, BaseException]] = []
        try:
            for path, future in zip(paths, running, strict=True):
                if (error := future.exception()) is None:
                    yield future.result()
                    continue
                told = str(error) if isinstance(error, ReportError) else f"Notebook {path.name} failed: {error!r}."
                failures.append((told, error))
                if future is not running[-1]:
                    print(f"{told} The others go on.", file=sys.stderr, flush=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    if failures:
        raise ReportError(" ".join(told for told, _ in failures)) from failures[0][1]


def _ground(root: Path, profile: str) -> str:
    """What the outputs of every notebook rest on, as one text: code, results, data, versions and settings."""
    package = Path(__file__).resolve().parents[1]
    files = [*sorted(package.rglob("*.py")), *sorted(package.rglob("*.yaml"))]
    # Of notebooks that lie elsewhere, the project's own results are what they read.
    for results in dict.fromkeys((root / "results", results_dir().resolve())):
        files += sorted(path for path in results.rglob("*") if path.suffix in (".csv", ".json", ".safetensors"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} ".encode() + hashlib.sha256(file.read_bytes()).digest())
    # A data set is told by what lies in its folder, without reading gigabytes of it.
    data = [
        f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}"
        for folder, _ in search_folders(None)
        for path in sorted([*folder.glob("*"), *folder.glob("*/*")])
        if not path.name.startswith(".")  # such as what a killed run has left
    ]
    figures = sorted(path.name for path in (root / "figures").glob("[!.]*"))
    settings = {name: value for name, value in os.environ.items() if name.startswith("SIAMESE_")}
    versions = [sys.version, *map(package_version, _VERSIONS)]
    return json.dumps([profile, digest.hexdigest(), data, figures, sorted(settings.items()), versions])
