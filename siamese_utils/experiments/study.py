"""How any study is run: named runs, carried out where the data are, stored where the results are, each once.

A study says which runs there are and how one of them is carried out and judged. All else is here: which runs are
stored, resumption after a kill, several processes or a Dask cluster at one study, what a number was computed with,
and the order in which files are written. The rows of the table come last, so a run counts as stored once they are
there; whatever is killed, a study that is started again repeats nothing that was stored and loses nothing.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

import pandas as pd
from filelock import Timeout
from tqdm.auto import tqdm

from siamese_utils.data.cifar import load_cifar100
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.checkpoints import load_encoder, save_encoder
from siamese_utils.encoders.depths import TwoDepths
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import ConfigError, ResultsError, TrainingError, unknown
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.experiments import store
from siamese_utils.system import cluster, project
from siamese_utils.system.files import locked, write_bytes_atomically
from siamese_utils.system.project import project_root, results_dir
from siamese_utils.system.provenance import provenance
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import TrainResult, train

Rows = Mapping[str, Estimate] | pd.DataFrame
"""What a table holds of a run: estimates by metric, or rows of the table's own columns."""
T = TypeVar("T")
LARGEST_CHECKPOINT = 4_000_000  # bytes of a file with 16 bits a weight; whoever clones the project gets all of them


@dataclass(frozen=True, eq=False)
class Run:
    """One training or measurement, before it has a result.

    Attributes:
        key: values of the identifying columns, for example ``{"trial": "cosine", "seed": 0}``; empty where one run
            fills the whole table.
        settings: whatever decides the run: configurations, or plain JSON data, by the name under which the record
            holds them. They are compared when the run is asked for again.
        expectation: what was expected beforehand, in a sentence.
        images: shown in training, for the plan; 0 where nothing is trained.
        built_on: stored files that it uses, such as a base network. Where one of them has changed since, the run is
            another one.
    """

    key: Mapping[str, str | int | float]
    settings: Mapping[str, Any]
    expectation: str = ""
    images: int = 0
    built_on: tuple[Path, ...] = ()

    @property
    def config(self) -> Any:
        """The configuration, where there is one."""
        return self.settings["config"]

    @property
    def label(self) -> str:
        """The key in one word, for file names and progress bars: ``cosine-seed0``."""
        parts = [value if isinstance(value, str) else f"{name}{value}" for name, value in self.key.items()]
        return "-".join(parts) or "whole"

    def plain(self) -> dict[str, Any]:
        """The settings as JSON data."""
        return {name: value.to_json() if hasattr(value, "to_json") else value for name, value in self.settings.items()}


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a run gives, in a form that can travel from a worker to where the results are.

    Attributes:
        metrics: what the study's table holds of it.
        checkpoint: content of the checkpoint's file, see ``as_stored``.
        record: what is kept beside key, settings and provenance: history, threshold, parameters.
        tables: the same as ``metrics`` for further tables, by their names.
        files: content of further files, by their paths below ``results/``.
    """

    metrics: Rows
    checkpoint: bytes | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, Rows] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def as_stored(encoder: Encoder | TwoDepths, info: Mapping[str, Any]) -> tuple[Any, bytes]:
    """An encoder as its checkpoint gives it back, and that file's content: published numbers are those of the file.

    One that would not fit into ``LARGEST_CHECKPOINT`` is stored with 8 bits a weight.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "encoder.safetensors"
        save_encoder(encoder, path, dict(info))
        if path.stat().st_size > LARGEST_CHECKPOINT:
            save_encoder(encoder, path, dict(info), bits=8)
        return load_encoder(path), path.read_bytes()


def training_record(trained: TrainResult) -> dict[str, Any]:
    """What a record keeps of a training: size of the encoder, seconds, and the history, one entry an epoch."""
    return {
        "parameters": count_parameters(trained.encoder),
        "seconds": trained.seconds,
        "history": trained.history.to_dict(orient="records"),
    }


def recorded_core_minutes(record: Mapping[str, Any]) -> float:
    """Processor minutes of a training by the record stored of it; of an older record, minutes times threads."""
    history = record.get("history", ())
    if history and all("cpu_seconds" in epoch for epoch in history):
        return float(sum(epoch["cpu_seconds"] for epoch in history) / 60)
    return float(record["seconds"] * record["provenance"]["threads"] / 60)


class Bench:
    """Where a run is carried out: the device, the data, and the folder of an interrupted training.

    Attributes:
        device: see ``pick_device``.
        progress: whether progress bars are shown.
        folder: where a training keeps its state until the run is stored; ``None`` keeps nothing.
        made: files that the run is built on and has made itself, since they were missing or of other settings.
    """

    def __init__(
        self, device: str = "auto", progress: bool = True, given: Mapping[tuple[Any, ...], Any] | None = None
    ) -> None:
        """Take data that stand in for loaded ones: ``given[loader, *arguments]``."""
        self.device, self.progress, self.folder = device, progress, None
        self.made: set[Path] = set()
        self._given = dict(given or {})

    @classmethod
    def of(cls, train_set: ImageSet, test_set: ImageSet, **options: Any) -> Bench:
        """A bench on which these images stand for CIFAR-100's two parts."""
        return cls(given={(load_cifar100, "train"): train_set, (load_cifar100, "test"): test_set}, **options)

    def load(self, loader: Callable[..., T], *arguments: Any) -> T:
        """The data that a loader gives, loaded once a process and only where a run asks for them."""
        key = (loader, *arguments)
        return self._given[key] if key in self._given else _loaded(loader, *arguments)

    @property
    def train_set(self) -> ImageSet:
        """CIFAR-100's training images."""
        return self.load(load_cifar100, "train")

    @property
    def test_set(self) -> ImageSet:
        """CIFAR-100's test images."""
        return self.load(load_cifar100, "test")

    def train(
        self, config: TrainConfig, images: ImageSet, classes: Iterable[int], validation: Iterable[int] = ()
    ) -> TrainResult:
        """Train an encoder, going on where an interrupted run stopped; see ``training.loop.train``."""
        return train(
            config,
            images,
            classes,
            validation=validation,
            run_dir=self.folder,
            device=self.device,
            progress=self.progress,
        )

    def at(self, folder: Path | None, **changes: Any) -> Bench:
        """The same bench with another folder."""
        bench = Bench(changes.get("device", self.device), changes.get("progress", self.progress), self._given)
        bench.folder = folder
        return bench


@lru_cache(maxsize=8)
def _loaded(loader: Callable[..., Any], *arguments: Any) -> Any:
    return loader(*arguments)


@dataclass(frozen=True, eq=False)
class Study:
    """A question, the runs that answer it, and how one of them is carried out.

    Attributes:
        name: of its table, ``results/<name>.csv``.
        question: in one sentence.
        runs: gives the runs in order; its parameters, which all have defaults, become options of its own command,
            where it has one.
        carry_out: does one run.
        key: the identifying columns of the table.
        metrics: what each metric is, in a few words.
        columns: of the table; empty for the usual ones: key, metric, value, ci95, n and, if checkpoints are kept,
            checkpoint.
        tables: names of the further tables that its outcomes fill.
        checkpoint: where the encoder of a run is stored; ``None`` where none is.
        record: where settings, history and provenance of a run are stored; ``None`` for
            ``results/studies/<name>/<label>.json``.
        again: computes the numbers of a checkpoint anew, by table, for the audit.
        once: metrics that no checkpoint gives again, such as a training's seconds.
        files_failures: a training that collapses or diverges is a result too, with the single metric ``failed``.
    """

    name: str
    question: str
    runs: Callable[..., Sequence[Run]]
    carry_out: Callable[[Run, Bench], Outcome]
    key: tuple[str, ...]
    metrics: Mapping[str, str] = field(default_factory=dict)
    columns: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    checkpoint: Callable[[Run], Path | None] | None = None
    record: Callable[[Run], Path] | None = None
    again: Callable[[Path, Bench], Mapping[str, Rows]] | None = None
    once: tuple[str, ...] = ()
    files_failures: bool = False

    @property
    def path(self) -> Path:
        """Where the table is stored."""
        return results_dir() / f"{self.name}.csv"

    @property
    def all_columns(self) -> tuple[str, ...]:
        """What the table holds."""
        kept = ("checkpoint",) if self.checkpoint is not None else ()
        return self.columns or (*self.key, "metric", "value", "ci95", "n", *kept)

    def checkpoint_path(self, run: Run) -> Path | None:
        """Where the encoder of a run is stored, if it is."""
        return self.checkpoint(run) if self.checkpoint is not None else None

    def record_path(self, run: Run) -> Path:
        """Where settings, history and provenance of a run are stored."""
        if self.record is not None:
            return self.record(run)
        return results_dir() / "studies" / self.name / f"{run.label}.json"

    def folder(self, run: Run) -> Path:
        """Where the state of an interrupted run lies."""
        return project_root() / "runs" / self.name / run.label

    def table(self) -> pd.DataFrame:
        """The stored rows.

        Raises:
            ResultsError: nothing is stored, or the table is damaged.
        """
        if not store.has_table(self.path):
            raise ResultsError(
                f"There is no results table of {self.name} yet; run `python -m siamese_utils study {self.name}`."
            )
        return store.read_table(self.path, self.all_columns, self.key)

    def shows(self, run: Run) -> bool:
        """Whether ``table`` has rows of a run."""
        return store.has_table(self.path) and store.has_rows_of(self.table(), run.key)

    def read_record(self, run: Run) -> dict[str, Any]:
        """What is stored beside a run's rows.

        Raises:
            ResultsError: it is missing or damaged.
        """
        return store.read_record(self.record_path(run))


def select(study: Study, only: Iterable[str] = (), seeds: Iterable[int] = (), **options: Any) -> list[Run]:
    """The runs of a study, or some of them: every run with the first seed before any with the second.

    So a study that is cut short has treated all alike.

    Args:
        study: which one.
        only: labels, or values of the key such as ``"cosine"`` or ``"90-10"``; all if empty.
        seeds: seeds; all if empty.
        options: parameters of ``study.runs``.

    Raises:
        UnknownNameError: ``only`` names nothing of the study.
        ConfigError: a seed is asked for that no run has, or no run fits both.
    """
    runs = sorted(study.runs(**options), key=lambda run: run.key.get("seed", 0))
    named = {run.label: {run.label, *(str(value) for name, value in run.key.items() if name != "seed")} for run in runs}
    known = dict.fromkeys(str(run.key[study.key[0]]) if study.key else run.label for run in runs)
    for name in only:
        if not any(name in names for names in named.values()):
            raise unknown(f"run of {study.name}", name, known)
    planned = sorted({int(run.key["seed"]) for run in runs if "seed" in run.key})
    if strange := sorted(set(seeds) - set(planned)):
        raise ConfigError(
            f"No run of {study.name} has the seed {strange[0]}; "
            + (f"the seeds fixed beforehand are {planned}." if planned else "leave it out.")
        )
    wanted, some = set(only), set(seeds)
    chosen = [
        run for run in runs if (not wanted or named[run.label] & wanted) and (not some or run.key.get("seed") in some)
    ]
    if runs and not chosen:
        raise ConfigError(f"No run of {study.name} fits --only and --seed together; leave one of them out.")
    return chosen


# ------------------------------------------------------------------------------------------ what is stored


def stored(study: Study, run: Run) -> Literal["yes", "no", "other"]:
    """Whether the rows, the checkpoint, the further tables and the record of a run are there and of its settings.

    ``"other"`` says that something of this name is stored that other settings, or other files below it, have made.
    """
    checkpoint = study.checkpoint_path(run)
    if not store.has_rows(study.path, run.key, study.all_columns):
        # Another run's checkpoint, of another recipe for example, must not be replaced without a word either.
        told = checkpoint is not None and "checkpoint" in study.all_columns
        return "other" if told and store.has_rows(study.path, {"checkpoint": _relative(checkpoint)}) else "no"
    if not study.record_path(run).is_file():  # one that is merely shown as published tells nothing of these rows
        return "other"
    try:
        record = study.read_record(run)
    except ResultsError:
        return "other"
    if "error" not in record and not (_has_tables(study, run, record) and (not checkpoint or checkpoint.is_file())):
        return "no"
    return "yes" if _same_settings(run, record) and _same_ground(run, record) else "other"


def _has_tables(study: Study, run: Run, record: Mapping[str, Any]) -> bool:
    """Whether the further tables hold what the record says; one that does not say is asked for the files alone."""
    if "tables" not in record:
        return all(_table_path(name).is_file() for name in study.tables)
    return all(store.has_rows(_table_path(name), run.key) for name in record["tables"])


def _table_path(name: str) -> Path:
    return results_dir() / f"{name}.csv"


def _same_settings(run: Run, record: Mapping[str, Any]) -> bool:
    """Compare what was stored with what is asked for; fields that are younger than the record have their defaults."""
    for name, value in run.settings.items():
        if name not in record:
            return False
        old = record[name]
        if hasattr(value, "from_json"):
            try:
                old = type(value).from_json(old)
            except ConfigError:
                return False
        if old != value:
            return False
    return True


def _same_ground(run: Run, record: Mapping[str, Any]) -> bool:
    return record.get("built_on", {}) == ground(run.built_on)


def ground(files: Iterable[Path]) -> dict[str, str]:
    """Checksums of files by their paths below the project's root; empty texts for those that are missing."""
    return {_relative(file): _digest(file, file.stat().st_mtime_ns) if file.is_file() else "" for file in files}


@lru_cache(maxsize=256)
def _digest(file: Path, changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _relative(path: Path) -> str:
    return path.relative_to(project_root()).as_posix()


def keep(
    study: Study,
    run: Run,
    outcome: Outcome,
    computed_with: Mapping[str, Any],
    built_on: Mapping[str, str] | None = None,
) -> None:
    """Write a run's checkpoint, further files and tables, record and, last, its rows.

    Rows of the same key that are there already go first: beside a new record, they would look like the new run's.
    ``built_on`` has the checksums of the files it used; without it, they are taken as they are now.
    """
    store.remove_rows(study.path, run.key)
    path, checkpoint = study.checkpoint_path(run), ""
    if path is not None and "error" not in outcome.record:  # what failed leaves no encoder
        checkpoint = _relative(path)
        if outcome.checkpoint is not None:
            write_bytes_atomically(path, outcome.checkpoint)
    for name, content in outcome.files.items():
        write_bytes_atomically(results_dir() / name, content)
    for name, rows in outcome.tables.items():
        store.store_rows(_table_path(name), run.key, rows, checkpoint)
    record = {**run.key, **run.plain(), "provenance": dict(computed_with), **outcome.record}
    if run.expectation:
        record["expectation"] = run.expectation
    if filled := [name for name, rows in outcome.tables.items() if len(rows)]:
        record["tables"] = filled
    if run.built_on:
        record["built_on"] = dict(ground(run.built_on) if built_on is None else built_on)
    store.write_record(study.record_path(run), record)
    store.store_rows(study.path, run.key, outcome.metrics, checkpoint, study.all_columns)


# ------------------------------------------------------------------------------------------------- running


@dataclass(frozen=True, eq=False)
class _Done:
    """A run that was carried out, or (without an outcome) one that another process is at, or that failed."""

    run: Run
    outcome: Outcome | None = None
    computed_with: Mapping[str, Any] = field(default_factory=dict)
    built_on: Mapping[str, str] = field(default_factory=dict)
    failure: str = ""


def precision_of(run: Run) -> str:
    """What the configuration asks for; what is not trained by the project's loop multiplies in float32."""
    config = run.settings.get("config")
    return getattr(config, "precision", None) or getattr(getattr(config, "train", None), "precision", None) or "float32"


def _carry_out(study: Study, run: Run, bench: Bench) -> _Done:
    if not project.is_anew():
        for file in run.built_on:
            project.bring(file)
    # Asked now: they are to tell the code that computes and the files it reads, not what those become meanwhile.
    computed_with, built_on = provenance(bench.device, precision_of(run)), ground(run.built_on)
    bench = bench.at(study.folder(run))
    try:
        outcome = study.carry_out(run, bench)
    except TrainingError as error:
        if not study.files_failures:
            return _Done(run, failure=str(error))
        outcome = Outcome({"failed": exact(1)}, record={"error": str(error)})
    # A file that was not there, or was of other settings, is made by the run itself, where it needs it first.
    made = [file for file in run.built_on if file in bench.made or not built_on[_relative(file)]]
    return _Done(run, outcome, computed_with, {**built_on, **ground(made)})


def _carry_out_alone(study: Study, run: Run, bench: Bench, home: Path | None = None, anew: bool = False) -> _Done:
    """Carry out a run on a worker, unless another process on that machine is at it."""
    try:
        with project.at(home, anew), _lock(study, run):
            return _carry_out(study, run, bench)
    except Timeout:
        return _Done(run)


def _lock(study: Study, run: Run) -> AbstractContextManager[None]:
    folder = study.folder(run)
    return locked(folder.with_name(f"{folder.name}.lock"), timeout=0)


def run_study(
    study: Study,
    runs: Sequence[Run] | None = None,
    bench: Bench | None = None,
    *,
    again: bool = False,
    scheduler: str | None = None,
    patience: float = 10.0,
) -> Iterator[tuple[Run, Rows]]:
    """Carry out every run that is not stored yet and store each as it ends; started again, it goes on.

    Several processes may work on one study: each takes runs that no other is at. With Dask, a run whose worker is
    killed is given to another one.

    Args:
        study: which one.
        runs: what to do, in order; ``None`` for all.
        bench: where; ``None`` for this machine and the real data.
        again: do those anew that other settings have made; otherwise they are refused.
        scheduler: address of a Dask scheduler, ``tcp://…``, whose workers have this package and the data; ``None`` does
            one run after the other here.
        patience: seconds to wait while other processes are at all the runs that are left.

    Yields:
        each run that was carried out, stored, with what its table holds of it.

    Raises:
        ResultsError: something of a run's name is stored that other settings have made, and ``again`` is not set.
        ConfigError: no scheduler answers at the address, or Dask is not installed.
        TrainingError: some runs collapsed or diverged; all others are stored.
    """
    runs = list(study.runs() if runs is None else runs)
    bench = bench or Bench()
    _refuse_others(study, runs, again)
    failed: dict[str, str] = {}
    # A run that is done anew is done once, though what is stored of it is never what it was.
    done: set[str] = set()

    def is_left(run: Run) -> bool:
        return run.label not in failed and run.label not in done and stored(study, run) != "yes"

    with tqdm(total=len(runs), unit="run", desc=study.name, disable=not bench.progress or len(runs) < 2) as bar:
        while left := [run for run in runs if is_left(run)]:
            bar.update(len(runs) - len(left) - bar.n)
            idle = True
            for ended in _attempts(study, _founded(study, left), bench, scheduler, is_left):
                if ended.outcome is not None:
                    keep(study, ended.run, ended.outcome, ended.computed_with, ended.built_on)
                    if (path := study.checkpoint_path(ended.run)) is not None:
                        bench.made.add(path)  # for a run that asks for this one while it is carried out itself
                    shutil.rmtree(study.folder(ended.run), ignore_errors=True)
                    done.add(ended.run.label)
                    bar.update(1)
                    yield ended.run, ended.outcome.metrics
                elif ended.failure:
                    failed[ended.run.label] = ended.failure
                else:
                    continue
                idle = False
            if idle:
                time.sleep(patience)
        bar.update(len(runs) - len(failed) - bar.n)
    if failed:
        reasons = "; ".join(f"{label}: {reason}" for label, reason in failed.items())
        raise TrainingError(f"{len(failed)} of {len(runs)} runs failed, all others are stored. {reasons}")


def _founded(study: Study, left: Sequence[Run]) -> list[Run]:
    """Those of the runs left that are built on none of the others: on a cluster, the others must wait for them."""
    awaited = {run.label: study.checkpoint_path(run) for run in left}

    def waits(run: Run) -> bool:
        own = awaited[run.label]  # what a run makes itself, or shares with the others, is nothing to wait for
        return bool({path for path in awaited.values() if path != own} & set(run.built_on))

    return [run for run in left if not waits(run)]


def _attempts(
    study: Study, runs: Sequence[Run], bench: Bench, scheduler: str | None, is_left: Callable[[Run], bool]
) -> Iterator[_Done]:
    """Carry out runs here one by one, or on a cluster all at once, and give each when it has ended."""
    if scheduler is None:
        for run in runs:
            try:
                with _lock(study, run):  # held until the run is stored
                    if is_left(run):  # which another process may have changed since the list was made
                        yield _carry_out(study, run, bench)
            except Timeout:
                yield _Done(run)
        return
    quiet = bench.at(None, progress=False)
    place = project.elsewhere(), project.is_anew()
    yield from cluster.spread(_carry_out_alone, [(study, run, quiet, *place) for run in runs], scheduler)


def _refuse_others(study: Study, runs: Sequence[Run], again: bool) -> None:
    others = [] if again else [run.label for run in runs if stored(study, run) == "other"]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise ResultsError(
            f"What is stored of {study.name} as {others[0]}{more} was made with other settings than asked for now; add "
            "--again to replace it, or give the new run a name of its own."
        )


def complete(
    study: Study, bench: Bench | None = None, runs: Sequence[Run] | None = None, **options: Any
) -> pd.DataFrame:
    """Carry out every run, or each of some, that is not stored yet and give the table; options as ``run_study``."""
    for _ in run_study(study, runs, bench, **options):
        pass
    return study.table()
