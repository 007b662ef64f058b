"""From splits to stored numbers: train, keep the checkpoint, evaluate what was kept, store the rows.

A run is done where the data is (this machine, or a worker of a Dask cluster) and stored where the results are. It
counts as stored once its rows are in the table, which are written last; so whatever is killed, a sweep that is
started again repeats nothing that was stored and loses nothing that was.
"""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import Timeout
from joblib import Parallel, delayed, parallel_config
from tqdm.auto import tqdm

from siamese_utils.data.cifar import load_cifar100
from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import ClassSplit, class_split, hold_out_images
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import CheckpointError, ConfigError, DataError, SplitError, TrainingError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.protocol import EVALUATION_SEED, SplitEvaluation, evaluate_split
from siamese_utils.experiments import store as results
from siamese_utils.experiments.store import SPLIT_SWEEP_COLUMNS
from siamese_utils.studies.splits import growth
from siamese_utils.studies.splits.stored import checkpoint_path, split_sweep
from siamese_utils.system import project, provenance
from siamese_utils.system.files import atomic_path, locked
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import train
from siamese_utils.training.recipes import DEFAULT_RECIPE, recipe
from siamese_utils.training.task import images_shown

_WORKER_SECONDS = 120


def evaluate_encoder(
    encoder: Encoder, config: TrainConfig, train_set: ImageSet, test_set: ImageSet, split: str, draw: int
) -> SplitEvaluation:
    """All metrics of the protocol for an encoder trained on a split.

    The threshold comes from the training images that the run held out, all else from test images.

    Args:
        encoder: trained with ``config`` on the seen classes of the split.
        config: names how many images were held out, and by which seed.
        train_set: where the held-out images are.
        test_set: what the encoder is judged on.
        split: for example ``"90-10"``.
        draw: class draw.
    """
    known, z, classes = _embed(encoder, config, train_set, test_set, split, draw)
    return evaluate_split(known, z, test_set.labels, classes, seed=EVALUATION_SEED)


def _embed(
    encoder: Encoder, config: TrainConfig, train_set: ImageSet, test_set: ImageSet, split: str, draw: int
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, ClassSplit]:
    """Embeddings and labels of the held-out training images, embeddings of the test images, and the split."""
    if (train_set.part, test_set.part) != ("train", "test"):
        raise DataError(
            f"The threshold is chosen on training images and all else computed on test images, not on the parts "
            f"{train_set.part!r} and {test_set.part!r}; give both parts in this order."
        )
    classes = class_split(split, draw, test_set.num_classes)
    _, held_out = hold_out_images(train_set.labels, classes.seen, config.held_out_images, config.seed)
    known = encoder.embed(train_set.images[held_out]), train_set.labels[held_out]
    return known, encoder.embed(test_set.images), classes


@dataclass(frozen=True)
class SplitRun:
    """One training run of a sweep.

    Attributes:
        split: for example ``"90-10"``.
        draw: class draw.
        seed: seeds weights, batches and augmentation.
        recipe: a name in ``RECIPES``.
    """

    split: str
    draw: int = 0
    seed: int = 0
    recipe: str = DEFAULT_RECIPE

    @property
    def name(self) -> str:
        """Name of the run's checkpoint and record."""
        return f"cifar100-{self.split}-draw{self.draw}"

    @property
    def key(self) -> dict[str, Any]:
        """The identifying columns of the run's rows."""
        return dataclasses.asdict(self)

    @property
    def config(self) -> TrainConfig:
        """The recipe as it is for so many classes, with this run's seed."""
        classes = int(self.split.split("-")[0])
        return dataclasses.replace(recipe(self.recipe, classes), seed=self.seed)

    @property
    def folder(self) -> Path:
        """Where the state of the training lies until the run is stored."""
        return project.project_root() / "runs" / f"{self.name}-{self.recipe}-seed{self.seed}"


@dataclass(frozen=True)
class FinishedRun:
    """What a run gives, in a form that can travel from a worker to where the results are.

    Attributes:
        run: which run.
        checkpoint: content of the checkpoint's file.
        metrics: every metric of the protocol, computed from that checkpoint.
        growth: the measurements of ``growth.GROWTH_METRICS``, likewise.
        by_class: accuracy of each unseen class, likewise.
        record: configuration, threshold, seconds, history and provenance.
    """

    run: SplitRun
    checkpoint: bytes
    metrics: dict[str, Estimate]
    growth: dict[str, Estimate]
    by_class: dict[str, Estimate]
    record: dict[str, Any]


def plan(
    splits: Iterable[str],
    draws: Iterable[int],
    seed: int = 0,
    recipe_name: str = DEFAULT_RECIPE,
    num_classes: int = 100,
) -> list[SplitRun]:
    """The runs of a sweep, draw by draw.

    Raises:
        UnknownNameError: no such recipe or split.
        SplitError: no such draw.
    """
    recipe(recipe_name)
    splits, draws = list(splits), list(draws)
    for split in splits:
        for draw in draws:
            class_split(split, draw, num_classes)
    return [SplitRun(split, draw, seed, recipe_name) for draw in draws for split in splits]


def is_stored(run: SplitRun) -> bool:
    """Whether the rows of a run are in ``results/split_sweep.csv``, with its checkpoint and the recipe as it is now."""
    stored = results.is_stored(run.key, project.results_dir() / "split_sweep.csv", SPLIT_SWEEP_COLUMNS)
    path = checkpoint_path(run.split, run.draw)
    if not stored or not path.is_file():
        return False
    return TrainConfig.from_json(checkpoint_info(path)["config"]) == run.config


def train_run(
    run: SplitRun,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    device: str = "auto",
    progress: bool = True,
) -> FinishedRun:
    """Train and evaluate one run; resumes where an earlier attempt left off.

    The metrics are those of the checkpoint, loaded again through the public call, so that anyone who loads the file
    gets the numbers of the table.
    """
    seen = class_split(run.split, run.draw, train_set.num_classes).seen
    # Asked now: it is to tell the code that trains, not what that becomes meanwhile.
    computed_with = provenance.provenance(device, run.config.precision)
    trained = train(run.config, train_set, seen, run_dir=run.folder, device=device, progress=progress)
    source = {**run.key, "data": train_set.name}
    config = trained.config.to_json()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{run.name}.safetensors"
        save_encoder(trained.encoder, path, {**source, "config": config, "classes": list(trained.classes)})
        judged = judge_checkpoint(path, train_set, test_set)
        checkpoint = path.read_bytes()
    record = {
        **source,
        "config": config,
        "parameters": count_parameters(trained.encoder),
        "threshold": judged.evaluation.threshold,
        "seconds": trained.seconds,
        "history": trained.history.to_dict(orient="records"),
        "provenance": computed_with,
    }
    return FinishedRun(run, checkpoint, judged.evaluation.metrics, judged.growth, judged.by_class, record)


def store(finished: FinishedRun) -> None:
    """Write checkpoint, record and, last, the rows of a run."""
    run = finished.run
    path = checkpoint_path(run.split, run.draw)
    store_files(finished, path, run.name)
    checkpoint = path.relative_to(project.project_root()).as_posix()
    growth.store_growth(run.key, finished.growth, finished.by_class, checkpoint)
    results.store_run(run.key, finished.metrics, checkpoint)


def store_files(finished: FinishedRun, path: Path, record: str) -> None:
    """Write a run's checkpoint to ``path``, and what it came from as ``results/runs/<record>.json``."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(finished.checkpoint)
    results.store_json(record, finished.record)


def run_split(
    run: SplitRun,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    device: str = "auto",
    progress: bool = True,
) -> SplitEvaluation:
    """Train on a split and store checkpoint, metrics, configuration, history and provenance."""
    finished = train_run(run, train_set, test_set, device=device, progress=progress)
    store(finished)
    return SplitEvaluation(finished.record["threshold"], finished.metrics)


# ----------------------------------------------------------------------------------------- the sweep


def planned_images(run: SplitRun, train_set: ImageSet) -> int:
    """How many images the training of a run shows to the network."""
    seen = class_split(run.split, run.draw, train_set.num_classes).seen
    counts = torch.bincount(train_set.labels, minlength=train_set.num_classes)[list(seen)]
    return images_shown(run.config, (counts - run.config.held_out_images).tolist())


def stored_rate(recipe_name: str) -> float | None:
    """Images a second of the stored runs of a recipe on a processor such as this one, or ``None`` if there are none.

    Processors of one name may differ in what they compute with, and by far in speed, so the precision must be the same.
    """
    here = provenance.provenance()
    alike = ("processor", "precision", "device")
    images = seconds = 0.0
    for path in sorted((project.results_dir() / "runs").glob("cifar100-*.json")):
        record = results.load_json(path.stem)
        if record["recipe"] == recipe_name and all(record["provenance"][key] == here[key] for key in alike):
            images += sum(row["images_per_second"] * row["seconds"] for row in record["history"])
            seconds += record["seconds"]
    return images / seconds if seconds else None


def measured_rate(config: TrainConfig, train_set: ImageSet) -> float:
    """Images a second of a few steps at each resolution of a recipe, weighed by how long each lasts."""
    sides = config.resolutions or ((0.0, train_set.images.shape[1]),)
    ends = [begin for begin, _ in sides[1:]] + [1.0]
    seconds_per_image = 0.0
    for (begin, side), end in zip(sides, ends, strict=True):
        brief = dataclasses.replace(
            config, resolutions=((0.0, side),), most_images=4 * config.batch_size, least_images=0, compile=False
        )
        result = train(brief, train_set, train_set.labels.unique().tolist(), progress=False)
        seconds_per_image += (end - begin) / float(result.history["images_per_second"].iloc[0])
    return 1 / seconds_per_image


def plan_table(runs: Sequence[SplitRun], train_set: ImageSet, rate: float) -> pd.DataFrame:
    """One row a run: what it is, images to show, minutes at ``rate`` images a second, and whether it is stored."""
    rows = []
    for run in runs:
        images = planned_images(run, train_set)
        rows.append({**run.key, "images": images, "minutes": images / rate / 60, "stored": is_stored(run)})
    return pd.DataFrame(rows)


@lru_cache(maxsize=1)
def _data() -> tuple[ImageSet, ImageSet]:
    """CIFAR-100 where the run is done, loaded once a process."""
    return load_cifar100("train"), load_cifar100("test")


@dataclass(frozen=True)
class _NotFinished:
    """A run that another process is at (no reason), or that failed."""

    run: SplitRun
    reason: str = ""


def _try_run(
    run: SplitRun, device: str, progress: bool, data: tuple[ImageSet, ImageSet] | None
) -> FinishedRun | _NotFinished:
    """Train a run, unless another process on this machine is at it."""
    try:
        with locked(run.folder.with_suffix(".lock"), timeout=0):
            return train_run(run, *(data or _data()), device=device, progress=progress)
    except Timeout:
        return _NotFinished(run)
    except TrainingError as error:
        return _NotFinished(run, str(error))


def run_sweep(
    runs: Sequence[SplitRun],
    *,
    scheduler: str | None = None,
    device: str = "auto",
    progress: bool = True,
    data: tuple[ImageSet, ImageSet] | None = None,
    patience: float = 10.0,
) -> pd.DataFrame:
    """Do every run that is not stored yet and store each as it ends.

    Several sweeps may work on the same folder: each takes runs that no other is at. With Dask, a run whose worker is
    killed is given to another one.

    Args:
        runs: what to do, in order.
        scheduler: address of a Dask scheduler, ``tcp://…``; its workers need this package and the data. ``None`` does
            one run after the other here.
        device: see ``train``.
        progress: show the progress of the grid and, for local runs, of each training.
        data: training and test images, sent to the workers if there are any; ``None`` loads CIFAR-100 where each run
            is done.
        patience: seconds to wait when other sweeps are at all the runs that are left.

    Returns:
        the table as stored.

    Raises:
        ConfigError: no scheduler answers at the address, or Dask is not installed.
        TrainingError: some runs collapsed or diverged; all others are stored.
    """
    failed: dict[SplitRun, str] = {}
    with tqdm(total=len(runs), unit="run", desc="sweep", disable=not progress) as grid:
        while left := [run for run in runs if run not in failed and not is_stored(run)]:
            grid.update(len(runs) - len(left) - grid.n)
            idle = True
            for outcome in _outcomes(left, scheduler, device, progress, data):
                if isinstance(outcome, FinishedRun):
                    store(outcome)
                    shutil.rmtree(outcome.run.folder, ignore_errors=True)
                    grid.update(1)
                elif outcome.reason:
                    failed[outcome.run] = outcome.reason
                else:
                    continue
                idle = False
            if idle:
                time.sleep(patience)
        grid.update(len(runs) - len(failed) - grid.n)
    if failed:
        reasons = "; ".join(f"{run.split} draw {run.draw}: {reason}" for run, reason in failed.items())
        raise TrainingError(f"{len(failed)} of {len(runs)} runs failed, all others are stored. {reasons}")
    return split_sweep()


def _outcomes(
    runs: Sequence[SplitRun],
    scheduler: str | None,
    device: str,
    progress: bool,
    data: tuple[ImageSet, ImageSet] | None,
) -> Iterator[FinishedRun | _NotFinished]:
    """Do runs here one by one, or on a cluster all at once, and give each outcome when it is there."""
    if scheduler is None:
        # A run that another sweep has stored since the list was made is not done again.
        for run in runs:
            if not is_stored(run):
                yield _try_run(run, device, progress, data)
        return
    with _cluster(scheduler) as client:
        _wait_for_a_worker(client, scheduler)
        with parallel_config(backend="dask"):
            jobs = (delayed(_try_run)(run, device, False, data) for run in runs)
            yield from Parallel(n_jobs=-1, batch_size=1, return_as="generator_unordered")(jobs)


def _wait_for_a_worker(client: Any, address: str) -> None:
    """Joblib itself gives up after ten seconds, less than a busy machine takes to start a worker."""
    try:
        client.wait_for_workers(1, timeout=_WORKER_SECONDS)
    except (TimeoutError, asyncio.TimeoutError) as error:  # two types before Python 3.11
        raise ConfigError(
            f"No worker has joined the scheduler at {address} within {_WORKER_SECONDS} seconds; start some with `dask "
            f"worker {address} --nthreads 1`."
        ) from error


def _cluster(address: str) -> Any:
    try:
        from distributed import Client  # optional: only clusters need it
    except ImportError as error:
        raise ConfigError('A scheduler needs Dask; install it with: pip install "dask[distributed]"') from error
    try:
        return Client(address, timeout="10s", set_as_default=True)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"No Dask scheduler answers at {address}; start one with `dask scheduler` and workers with `dask worker "
            f"{address} --nthreads 1`."
        ) from error


@dataclass(frozen=True)
class Judgement:
    """What a stored encoder is found to do.

    Attributes:
        evaluation: threshold and every metric of the protocol.
        growth: the measurements of ``growth.GROWTH_METRICS``.
        by_class: accuracy of each unseen class, by its name.
    """

    evaluation: SplitEvaluation
    growth: dict[str, Estimate]
    by_class: dict[str, Estimate]


def judge_checkpoint(path: Path, train_set: ImageSet, test_set: ImageSet) -> Judgement:
    """Compute everything that is stored about a checkpoint, from the file alone.

    Raises:
        CheckpointError: the file does not say which split and configuration it was trained with.
        SplitError: it says that it learned a class that it would be judged on as unseen.
        DataError: ``train_set`` and ``test_set`` are not what their names say.
    """
    split, draw, config = _origin(path)
    known, z, classes = _embed(load_encoder(path), config, train_set, test_set, split, draw)
    # Checkpoints from before the classes were noted name their split alone.
    if learned := sorted(set(checkpoint_info(path).get("classes", ())) & set(classes.unseen)):
        raise SplitError(
            f"{path} learned class {learned[0]}, which is unseen in split {split} (draw {draw}); train it again."
        )
    evaluation = evaluate_split(known, z, test_set.labels, classes, seed=EVALUATION_SEED)
    by_class = growth.class_accuracies(
        z, test_set.labels, classes.unseen, test_set.superclass_of, named_rng(EVALUATION_SEED, "class accuracies")
    )
    return Judgement(
        evaluation,
        growth.measure_growth(z, test_set.labels, classes, evaluation.threshold, EVALUATION_SEED),
        {test_set.class_names[label]: estimate for label, estimate in by_class.items()},
    )


def reevaluate(path: Path, train_set: ImageSet, test_set: ImageSet) -> SplitEvaluation:
    """Compute the protocol's metrics of a stored checkpoint anew.

    Raises:
        CheckpointError: the file does not say which split and configuration it was trained with.
    """
    split, draw, config = _origin(path)
    return evaluate_encoder(load_encoder(path), config, train_set, test_set, split, draw)


def _origin(path: Path) -> tuple[str, int, TrainConfig]:
    """Split, draw and configuration that a checkpoint names."""
    info = checkpoint_info(path)
    try:
        return info["split"], info["draw"], TrainConfig.from_json(info["config"])
    except KeyError as error:
        raise CheckpointError(
            f"{path} does not say which split it was trained on; use a checkpoint of a sweep."
        ) from error
