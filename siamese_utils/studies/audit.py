"""The stored numbers against the stored checkpoints: every row that names a checkpoint is computed anew from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.errors import SiameseError, unknown
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store
from siamese_utils.experiments import store as results
from siamese_utils.studies.ensembles import cifar_fs as cifarfs
from siamese_utils.studies.ensembles import study as ensembles
from siamese_utils.studies.objectives import systems as triplet_systems
from siamese_utils.studies.splits import growth
from siamese_utils.studies.splits.study import Judgement, judge_checkpoint
from siamese_utils.system import project

SLACK = 0.02
"""Percentage points by which a number may differ whatever its interval: another processor rounds otherwise."""
THRESHOLD_SLACK = 0.002
"""The same for thresholds, which are cosines."""


@dataclass(frozen=True, eq=False)
class Data:
    """What the checkpoints are judged on; what is left out is loaded when it is needed.

    Attributes:
        train_set: CIFAR-100's training images, from which thresholds come.
        test_set: its test images.
    """

    train_set: ImageSet
    test_set: ImageSet


@dataclass(frozen=True)
class Source:
    """One table and how its rows are computed anew.

    Attributes:
        table: where it is stored.
        columns: what it holds.
        again: the numbers of a checkpoint, given the file and the data, by what the columns ``key`` hold, with commas
            between them.
        key: columns that tell the rows of a checkpoint from each other.
        of_the_training: metrics that no checkpoint gives, which are passed over.
    """

    table: Callable[[], Path]
    columns: tuple[str, ...]
    again: Callable[[Path, Data], Mapping[str, Estimate]]
    key: tuple[str, ...] = ("metric",)
    of_the_training: tuple[str, ...] = ()


@lru_cache(maxsize=1)  # three tables ask the same of a checkpoint, one after the other
def _judged(path: Path, data: Data) -> Judgement:
    return judge_checkpoint(path, data.train_set, data.test_set)


def _sweep(path: Path, data: Data) -> Mapping[str, Estimate]:
    return _judged(path, data).evaluation.metrics


def _growth(path: Path, data: Data) -> Mapping[str, Estimate]:
    return _judged(path, data).growth


def _by_class(path: Path, data: Data) -> Mapping[str, Estimate]:
    return _judged(path, data).by_class


def _cifar_fs(path: Path, data: Data) -> Mapping[str, Estimate]:
    return cifarfs.evaluate_cifar_fs(load_encoder(path), cifarfs.all_images(data.train_set, data.test_set))


def _ensemble(path: Path, data: Data) -> Mapping[str, Estimate]:
    return ensembles.reevaluate_member(path, data.train_set, data.test_set)


def _name(row: Mapping[str, object], key: Sequence[str]) -> str:
    return ", ".join(str(row[column]) for column in key)


SOURCES: dict[str, Source] = {
    "split_sweep": Source(lambda: project.results_dir() / "split_sweep.csv", store.SPLIT_SWEEP_COLUMNS, _sweep),
    "triplet_systems": Source(triplet_systems.table_path, store.SPLIT_SWEEP_COLUMNS, _sweep),
    "growth": Source(growth.growth_path, store.SPLIT_SWEEP_COLUMNS, _growth),
    "class_accuracy": Source(growth.class_path, store.SPLIT_SWEEP_COLUMNS, _by_class),
    "cifar_fs": Source(cifarfs.table_path, cifarfs.CIFAR_FS_COLUMNS, _cifar_fs),
    "ensembles": Source(ensembles.table_path, ensembles.ENSEMBLE_COLUMNS, _ensemble),
}
AUDIT_COLUMNS = ("table", "checkpoint", "metric", "stored", "again", "allowed", "verdict")


def audit(
    data: Data, only: Sequence[str] = (), *, checkpoints: Sequence[str] = (), progress: bool = True
) -> pd.DataFrame:
    """Compute every stored row that names a checkpoint anew.

    A row holds when the new value lies within its 95% interval, or within ``SLACK`` where that is smaller, and rests on
    as many episodes, pairs or images.

    Args:
        data: what the checkpoints are judged on.
        only: names in ``SOURCES``; all if empty. Tables that are not stored are passed over.
        checkpoints: as the tables name them; all if empty.
        progress: show a progress bar.

    Returns:
        One row a stored row, with the columns ``AUDIT_COLUMNS``; ``verdict`` is ``"holds"``, or says what is wrong.

    Raises:
        UnknownNameError: ``only`` names no table.
        ResultsError: a table is damaged.
    """
    if strange := set(only) - set(SOURCES):
        raise unknown("table", min(strange), SOURCES)
    jobs: list[tuple[str, str, pd.DataFrame]] = []
    for name, source in SOURCES.items():
        if (only and name not in only) or not source.table().is_file():
            continue
        table = results.read_table(source.table(), source.columns)
        for checkpoint, rows in table.groupby("checkpoint"):
            if checkpoint and (not checkpoints or checkpoint in checkpoints):
                jobs.append((checkpoint, name, rows[~rows.metric.isin(source.of_the_training)]))
    jobs.sort(key=lambda job: job[0])  # what is asked of one checkpoint is asked together
    found: list[tuple] = []
    for checkpoint, name, rows in tqdm(jobs, unit="table", desc="audit", disable=not progress):
        found += [(name, checkpoint, *finding) for finding in _compare(rows, SOURCES[name], checkpoint, data)]
    return pd.DataFrame(found, columns=list(AUDIT_COLUMNS))


def _compare(
    rows: pd.DataFrame, source: Source, checkpoint: str, data: Data
) -> Iterator[tuple[str, float, float, float, str]]:
    """Metric, stored and new value, allowed difference and verdict of each row of one checkpoint."""
    missing = float("nan")
    stored = [(_name(row, source.key), row) for row in rows.to_dict("records")]
    try:
        again = source.again(project.project_root() / checkpoint, data)
    except SiameseError as error:
        for name, row in stored:
            yield name, row["value"], missing, missing, f"cannot be computed: {error}"
        return
    for name, row in stored:
        if name not in again:
            yield name, row["value"], missing, missing, "the checkpoint does not give this metric"
            continue
        new = again[name]
        allowed = THRESHOLD_SLACK if name.startswith("threshold") else max(row["ci95"], SLACK)
        if not abs(new.value - row["value"]) <= allowed:
            verdict = "the checkpoint gives another value"
        elif new.n != row["n"]:
            verdict = f"rests on {new.n}, not on {row['n']}"
        else:
            verdict = "holds"
        yield name, row["value"], new.value, allowed, verdict
    for name in sorted(set(again) - {name for name, _ in stored}):
        yield name, missing, again[name].value, missing, "is not in the table"
