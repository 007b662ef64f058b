"""The study of imprinted weights: a base network that knows some classes, and what it takes to add others.

All that decides a run stands in one YAML file, which is stored with the results.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from scipy.stats import t as student_t
from torch.nn import functional as F
from tqdm.auto import tqdm

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import class_split, hold_out_images
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.encoders.imprinting import (
    CosineClassifier,
    FineTuneConfig,
    Leads,
    Whitening,
    bias_for_budget,
    class_means,
    fine_tune,
    harmonic_mean,
    imprinted,
    leads,
    nearest_classes,
    overall,
    save_classifier,
)
from siamese_utils.errors import CheckpointError, ConfigError, SamplingError, SplitError, unknown
from siamese_utils.evaluation.estimates import Estimate, share_estimate
from siamese_utils.experiments import store as results
from siamese_utils.studies.splits import stored
from siamese_utils.system import project, provenance
from siamese_utils.system.config import Config, Count, Counts, Natural, Positive
from siamese_utils.system.files import atomic_path, write_text_atomically
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import train
from siamese_utils.training.recipes import DEFAULT_RECIPE, recipe

# --- configuration --------------------------------------------------------------------------------


class BaseConfig(Config):
    """The network that is there before a class is added.

    Attributes:
        split: classes that it learns, and novel ones, for example ``"40-60"``.
        draw: class draw.
        seed: seeds its weights, batches, augmentation, and which training images are held out.
        recipe: a name in ``RECIPES``.
        changes: fields of ``TrainConfig`` in which its training differs from the recipe.
    """

    split: str = "40-60"
    draw: Natural = 0
    seed: Natural = 0
    recipe: str = DEFAULT_RECIPE
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.training  # noqa: B018 - a wrong change is reported now, not after an hour

    @property
    def training(self) -> TrainConfig:
        """What it is trained with.

        Raises:
            UnknownNameError: no such recipe.
            ConfigError: a change names no field of a training configuration, or has no possible value.
        """
        plain = {**recipe(self.recipe).to_json(), "recipe": "imprinting-base", "seed": self.seed}
        changes = dict(self.changes)
        if isinstance(changes.get("augment"), Mapping):
            changes["augment"] = {**plain["augment"], **changes["augment"]}
        if strange := [name for name in ("recipe", "seed") if name in changes]:
            raise ConfigError(f"The base's {strange[0]} stands beside `changes`, not among them.")
        return TrainConfig.from_json({**plain, **changes})


class ImprintingConfig(Config):
    """Everything that decides the study, apart from the data.

    Attributes:
        base: the network that is there before a class is added.
        shots: numbers of images a class is learned from.
        shot_sets: how often they are drawn.
        novel_classes: how many novel classes are added one at a time; drawn at random if there are more.
        at_once: how many classes are added together.
        scale: inverse temperature of the cosine classifier.
        shrinkage: of the whitening, see ``Whitening.fit``.
        budget: percentage points of accuracy on held-out images of old classes that the added ones may cost.
        fine_tuning: see ``FineTuneConfig``.
    """

    base: BaseConfig = field(default_factory=BaseConfig)
    shots: Counts = (1, 5, 10, 20)
    shot_sets: Count = 20
    novel_classes: Count = 60
    at_once: Counts = (1, 10, 60)
    scale: Positive = 16.0
    shrinkage: Positive = 0.3
    budget: Annotated[float, Field(ge=0, lt=100)] = 0.5
    fine_tuning: FineTuneConfig = field(default_factory=FineTuneConfig)


# --- the base network -----------------------------------------------------------------------------


def base_checkpoint() -> Path:
    """Where the base network is stored."""
    return project.results_dir() / "checkpoints" / "imprinting-base.safetensors"


def base_fingerprint() -> str:
    """Sixteen letters that name what the base network's file holds."""
    return hashlib.sha256(base_checkpoint().read_bytes()).hexdigest()[:16]


def classifier_path() -> Path:
    """Where the classifier of the old classes is stored, which classes are added to."""
    return project.results_dir() / "checkpoints" / "imprinting-classifier.safetensors"


def train_base(
    config: BaseConfig, train_set: ImageSet, *, device: str = "auto", progress: bool = True
) -> Encoder:
    """The base network as it is stored, trained first if it is missing or was trained otherwise.

    Started again after a kill, the training goes on.

    Args:
        config: what to train.
        train_set: training images of all classes; only those of the seen classes are used.
        device: see ``train``.
        progress: show a progress bar.

    Raises:
        ConfigError: see ``BaseConfig.training``.
        SplitError: no such split.
    """
    training, path = config.training, base_checkpoint()
    key = {"split": config.split, "draw": config.draw, "seed": config.seed, "recipe": config.recipe}
    source = {**key, "data": train_set.name, "config": training.to_json()}
    try:
        if checkpoint_info(path) == source:
            return load_encoder(path)
    except CheckpointError:
        pass  # missing or damaged: it is made
    seen = class_split(config.split, config.draw, train_set.num_classes).seen
    computed_with = provenance.provenance(device)
    run_dir = project.project_root() / "runs" / "imprinting-base"
    trained = train(training, train_set, seen, run_dir=run_dir, device=device, progress=progress)
    record = {
        **source,
        "parameters": count_parameters(trained.encoder),
        "seconds": trained.seconds,
        "history": trained.history.to_dict(orient="records"),
        "provenance": computed_with,
    }
    save_encoder(trained.encoder, path, source)
    results.store_json("imprinting-base", record)
    shutil.rmtree(run_dir, ignore_errors=True)
    return load_encoder(path)


# --- what is measured on --------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Embedded:
    """Embeddings of all that the study needs, rows of unit length, with class labels.

    Attributes:
        known: training images of the old classes, without those held out.
        tuning: one half of the training images of the old classes that the base network has not learned from; the
            weights are tuned on them, since of the others the network is surer than of new images.
        held_out: the other half, for the bias.
        shots: training images of the novel classes.
        test: test images of all classes.
        old: labels of the old classes, ascending.
        novel: labels of the novel classes, ascending.
    """

    known: tuple[torch.Tensor, torch.Tensor]
    tuning: tuple[torch.Tensor, torch.Tensor]
    held_out: tuple[torch.Tensor, torch.Tensor]
    shots: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    old: tuple[int, ...]
    novel: tuple[int, ...]

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Embedded:
        """The same with a function applied to all embeddings."""
        parts = {name: (function(z), labels) for name, z, labels in self._parts()}
        return dataclasses.replace(self, **parts)

    def _parts(self) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
        for name in ("known", "tuning", "held_out", "shots", "test"):
            z, labels = getattr(self, name)
            yield name, z, labels


def training_rows(base: BaseConfig, train_set: ImageSet) -> dict[str, torch.Tensor]:
    """Which training images are in each part of ``Embedded`` but the test images: int64 (N,) by name.

    Raises:
        SplitError: no such split.
    """
    classes = class_split(base.split, base.draw, train_set.num_classes)
    known, held_out = hold_out_images(train_set.labels, classes.seen, base.training.held_out_images, base.seed)
    shots = train_set.indices_of(classes.unseen)
    return {"known": known, "tuning": held_out[::2], "held_out": held_out[1::2], "shots": shots}


def embed_all(
    encoder: Encoder, base: BaseConfig, train_set: ImageSet, test_set: ImageSet, cache: Path | None = None
) -> Embedded:
    """Embed what the study needs; takes minutes, so the result can be kept in a file.

    Args:
        encoder: the base network.
        base: what it was trained with.
        train_set: training images.
        test_set: test images.
        cache: a safetensors file to read from or write to.

    Raises:
        CheckpointError: the cache cannot be written.
    """
    classes = class_split(base.split, base.draw, train_set.num_classes)
    rows = training_rows(base, train_set)
    stored: dict[str, torch.Tensor] = {}
    if cache is not None and cache.is_file():
        try:
            stored = load_file(cache)
        except (OSError, SafetensorError):
            stored = {}  # a damaged cache is made again
    if set(stored) != {*rows, "test"}:
        stored = {name: encoder.embed(train_set.images[positions]) for name, positions in rows.items()}
        stored["test"] = encoder.embed(test_set.images)
        if cache is not None:
            with atomic_path(cache) as temporary:
                temporary.write_bytes(save(stored))
    labels = {name: train_set.labels[positions] for name, positions in rows.items()}
    parts = {name: (stored[name], labels.get(name, test_set.labels)) for name in stored}
    return Embedded(**parts, old=classes.seen, novel=classes.unseen)


# --- methods --------------------------------------------------------------------------------------

METHODS: dict[str, str] = {
    "imprinted": "mean of the shots, as in the paper",
    "whitened": "mean of the shots in whitened space",
    "fine-tuned": "whitened and imprinted, then fine-tuned",
    "random": "whitened, random weights, then fine-tuned",
    "joint": "whitened, the mean of all training images of the class",
}
BIASES = {"none": "scores as they are", "budget": "bias that costs old classes the budget on held-out images"}
LOSSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 40.0)
"""Points of old accuracy given up, at which the curve of novel against old accuracy is stored."""


@dataclass(frozen=True, eq=False)
class Space:
    """One space of embeddings with everything in it that does not depend on the novel classes.

    Attributes:
        data: embeddings in this space.
        old: float32 (C, D), weights of the old classes.
        known, tuning, held_out, test: embeddings of images of old classes, and the number of each one's class.
    """

    data: Embedded
    old: torch.Tensor
    known: tuple[torch.Tensor, torch.Tensor]
    tuning: tuple[torch.Tensor, torch.Tensor]
    held_out: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def of(cls, data: Embedded) -> Space:
        """Weights are the mean embeddings of the classes' training images."""
        numbers = torch.tensor(data.old)
        is_old = torch.isin(data.test[1], numbers)
        known, tuning, held_out, test = (
            (z, torch.searchsorted(numbers, labels))
            for z, labels in (data.known, data.tuning, data.held_out, (data.test[0][is_old], data.test[1][is_old]))
        )
        return cls(data, class_means(*known, len(numbers)), known, tuning, held_out, test)

    def accuracy(self, images: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Which of some images of old classes are named right while there are only old classes; bool (N,)."""
        z, rows = images
        return (z @ self.old.T).argmax(dim=1) == rows


@dataclass(frozen=True, eq=False)
class Measured:
    """What one method reaches in R runs that add the same number of classes.

    Attributes:
        old: accuracy on the old classes, percent; float64 (R,), by the name of the bias.
        novel: accuracy on the added classes, likewise.
        curve: novel accuracy where old accuracy is so many points (``LOSSES``) below the base's; float64 (R, losses).
    """

    old: dict[str, torch.Tensor]
    novel: dict[str, torch.Tensor]
    curve: torch.Tensor


def measure(
    method: str,
    spaces: Mapping[str, Space],
    added: Sequence[Sequence[int]],
    shots: Sequence[torch.Tensor],
    config: ImprintingConfig,
) -> Measured:
    """Add classes by one method, in R runs, and judge on test images.

    Args:
        method: a name in ``METHODS``.
        spaces: the space of the embeddings (``"plain"``) and the whitened one (``"whitened"``).
        added: the classes that each of the R runs adds, equally many, in the order of their weights.
        shots: R tensors int64 (N, K), which of ``data.shots`` are the shots of the N added classes.
        config: scale, fine-tuning and budget.

    Raises:
        UnknownNameError: no such method.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    space = spaces["plain" if method == "imprinted" else "whitened"]
    shot_z = space.data.shots[0][torch.stack(list(shots))]  # (R, N, K, D)
    replicas, count, per_class, dim = shot_z.shape
    old, novel, tuning = space.old, imprinted(shot_z), config.fine_tuning
    if method == "random":
        generator = torch.Generator().manual_seed(config.base.seed)
        novel = F.normalize(torch.randn(novel.shape, generator=generator), dim=-1)
        tuning = dataclasses.replace(tuning, anchor=0.0)  # a random start is nothing to be held to
    if method in ("fine-tuned", "random"):
        rows = torch.arange(count).repeat_interleave(per_class)
        flat = shot_z.reshape(replicas, count * per_class, dim)
        old, novel = fine_tune(old, novel, space.tuning, flat, rows, tuning, scale=config.scale)
    z, labels = space.data.test
    positions = torch.stack([torch.cat([(labels == label).nonzero().flatten() for label in run]) for run in added])
    per_test = positions.shape[1] // count
    novel_rows = torch.arange(count).repeat_interleave(per_test)
    measured = {name: ([], []) for name in BIASES}
    curve = []
    base = 100 * float(space.accuracy(space.test).double().mean())
    for run in range(replicas):  # one at a time: scores of all runs at once would fill the memory
        own = old[run] if old.ndim == 3 else old
        weights = novel[run : run + 1]
        held = leads(own, weights, space.held_out, (z[:1], novel_rows[:1]), config.scale)
        found = leads(own, weights, space.test, (z[positions[run]], novel_rows), config.scale)
        for name in BIASES:
            bias = bias_for_budget(held.old, held.old_right, config.budget) if name == "budget" else 0.0
            for values, value in zip(measured[name], found.accuracies(bias), strict=True):
                values.append(value)
        curve.append(novel_at_losses(found, base))
    return Measured(
        {name: torch.cat(values[0]) for name, values in measured.items()},
        {name: torch.cat(values[1]) for name, values in measured.items()},
        torch.stack(curve),
    )


def novel_at_losses(found: Leads, base: float, losses: Sequence[float] = LOSSES) -> torch.Tensor:
    """Novel accuracy at the highest bias that leaves old accuracy at ``base`` minus so many points, for one run.

    Args:
        found: leads of a single run.
        base: accuracy on the old classes before any was added, percent.
        losses: percentage points.

    Returns:
        float64 (losses,), percent; zero where old accuracy is lower without naming any image novel.
    """
    right = found.old[found.old_right].sort().values  # leads that there are to lose, smallest first
    total = found.old.shape[1]
    accuracies = []
    for loss in losses:
        keep = math.ceil((base - loss) / 100 * total - 1e-9)
        if keep > len(right):
            accuracies.append(torch.zeros(1, dtype=torch.float64))
            continue
        bias = right[len(right) - keep] if keep > 0 else torch.tensor(math.inf)
        accuracies.append(found.accuracies(bias)[1])
    return torch.cat(accuracies)


# --- the study ------------------------------------------------------------------------------------


def table_path() -> Path:
    """Where the study's numbers are stored."""
    return project.results_dir() / "imprinting.csv"


def classes_path() -> Path:
    """Where the accuracies of single novel classes are stored."""
    return project.results_dir() / "imprinting_classes.csv"


def curve_path() -> Path:
    """Where the curves of novel against old accuracy are stored."""
    return project.results_dir() / "imprinting_curves.csv"


COLUMNS = ("method", "added", "shots", "bias", "metric", "value", "ci95", "n", "checkpoint")
CLASS_COLUMNS = ("novel", "method", "shots", "bias", "metric", "value", "ci95", "n", "checkpoint")
CURVE_COLUMNS = ("method", "added", "shots", "loss", "metric", "value", "ci95", "n", "checkpoint")
REFERENCE_COLUMNS = ("method", "shots", "metric", "value", "ci95", "source")
METRICS = {
    "novel_acc": "accuracy on the added classes",
    "old_acc": "accuracy on the classes learned before",
    "overall_acc": "accuracy over all classes",
    "harmonic_mean": "harmonic mean of novel and old accuracy",
    "novel_sd": "standard deviation of the novel accuracy between runs",
}


def draw_shots(data: Embedded, label: int, count: int, number: int, seed: int) -> torch.Tensor:
    """Which of ``data.shots`` a run uses for a class: int64 (count,); fewer shots are the first of more.

    Args:
        data: where the shots are.
        label: a novel class.
        count: shots.
        number: number of the shot set.
        seed: of the study.

    Raises:
        SamplingError: the class has fewer images.
    """
    rows = (data.shots[1] == label).nonzero().flatten()
    if len(rows) < count:
        raise SamplingError(f"Class {label} has {len(rows)} training images, not the {count} that are asked for.")
    order = named_rng(seed, f"shots {label} {number}").permutation(len(rows))[:count]
    return rows[torch.from_numpy(order.copy())]


def chosen_classes(data: Embedded, config: ImprintingConfig) -> tuple[int, ...]:
    """The novel classes that are added one at a time: as many as are asked for, at random, or all."""
    order = named_rng(config.base.seed, "novel classes").permutation(len(data.novel))
    return tuple(sorted(data.novel[number] for number in order[: config.novel_classes]))


def groups(data: Embedded, config: ImprintingConfig, added: int) -> list[tuple[int, ...]]:
    """The classes that each run of ``added`` classes at once adds: one random group a shot set.

    Raises:
        SamplingError: there are not so many novel classes.
    """
    if added > len(data.novel):
        raise SamplingError(f"There are {len(data.novel)} novel classes, not {added}; lower at_once.")
    drawn = []
    for number in range(config.shot_sets):
        order = named_rng(config.base.seed, f"group {added} {number}").permutation(len(data.novel))[:added]
        drawn.append(tuple(sorted(data.novel[n] for n in order)))
    return drawn


def run_study(
    config: ImprintingConfig,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Train the base network if need be, add classes to it in every way, and store the numbers.

    Started again after a kill, it goes on: the base network, the embeddings, and what each group of runs has given are
    kept until the tables are written.

    Args:
        config: everything that decides the study.
        train_set: training images.
        test_set: test images.
        device: see ``train``.
        progress: show a progress bar.

    Returns:
        the table as stored.
    """
    encoder = train_base(config.base, train_set, device=device, progress=progress)
    computed_with = provenance.provenance(device)
    folder = project.project_root() / "runs" / "imprinting"
    started = time.perf_counter()
    found = _measure_all(encoder, config, train_set, test_set, folder, progress)
    whitened, names = found.spaces["whitened"], test_set.class_names
    classifier = CosineClassifier(whitened.old, found.data.old, config.scale)
    save_classifier(classifier_path(), classifier, found.whitening)
    for path, table in found.tables.items():
        write_text_atomically(path, table.to_csv(index=False, lineterminator="\n"))
    record = {
        "config": config.to_json(), "provenance": computed_with, "seconds": time.perf_counter() - started,
        "classes": [names[label] for label in chosen_classes(found.data, config)],
        "neighbours": _neighbours(whitened, names),
    }  # fmt: skip
    results.store_json("imprinting", record)
    shutil.rmtree(folder, ignore_errors=True)
    return stored_imprinting()


def reevaluate_imprinting(
    checkpoint: Path, train_set: ImageSet, test_set: ImageSet, *, progress: bool = True
) -> dict[Path, pd.DataFrame]:
    """Compute the three tables anew from the base network's checkpoint and the stored configuration; stores nothing.

    Returns:
        by the path of each table what it should hold.

    Raises:
        CheckpointError: the checkpoint is missing or damaged.
        ResultsError: no configuration is stored beside the results.
        ConfigError: the stored configuration is damaged.
    """
    config = ImprintingConfig.from_json(results.load_json("imprinting").get("config"))
    return _measure_all(load_encoder(checkpoint), config, train_set, test_set, None, progress).tables


@dataclass(frozen=True, eq=False)
class _Found:
    """All that the study finds: embeddings, spaces, and by path what each table is to hold."""

    data: Embedded
    whitening: Whitening
    spaces: dict[str, Space]
    tables: dict[Path, pd.DataFrame]


def _measure_all(
    encoder: Encoder,
    config: ImprintingConfig,
    train_set: ImageSet,
    test_set: ImageSet,
    folder: Path | None,
    progress: bool,
) -> _Found:
    """Embed, add classes in every way, and make the tables; what is done is kept in the folder, if there is one."""
    fingerprint = base_fingerprint()
    cache = folder and folder / f"embeddings-{fingerprint}.safetensors"
    data = embed_all(encoder, config.base, train_set, test_set, cache)
    spaces = {"plain": Space.of(data)}
    whitening = Whitening.fit(*data.known, config.shrinkage)
    spaces["whitened"] = Space.of(data.mapped(whitening))
    jobs = _jobs(data, config)
    done: dict[str, Measured] = {}
    settings = hashlib.sha256(json.dumps([config.to_json(), fingerprint], sort_keys=True).encode()).hexdigest()[:16]
    with tqdm(total=sum(len(job.added) for job in jobs), unit="run", desc="imprinting", disable=not progress) as bar:
        for job in jobs:
            path = folder and folder / settings / f"{job.name}.safetensors"
            found = path and _load_measured(path)
            if found is None:
                found = measure(job.method, spaces, job.added, job.shots, config)
                if path is not None:
                    _save_measured(found, path)
            done[job.name] = found
            bar.update(len(job.added))
    return _Found(data, whitening, spaces, _tables(jobs, done, spaces, data, config, test_set.class_names))


@dataclass(frozen=True, eq=False)
class _Job:
    """Runs that are measured together: one method, one number of shots, one class or one kind of group."""

    method: str
    shot_count: int
    added: list[tuple[int, ...]]
    shots: list[torch.Tensor]
    novel: int | None  # the class that all runs add, if they add a single one

    @property
    def name(self) -> str:
        what = f"class{self.novel}" if self.novel is not None else f"group{len(self.added[0])}"
        return f"{self.method}-{self.shot_count}-{what}"


def _jobs(data: Embedded, config: ImprintingConfig) -> list[_Job]:
    """Every class alone, then the groups; each with every method and number of shots."""
    everything = int(torch.bincount(data.shots[1])[list(data.novel)].min())
    batches: list[tuple[list[tuple[int, ...]], int | None]] = []
    if 1 in config.at_once:
        batches += [([(label,)] * config.shot_sets, label) for label in chosen_classes(data, config)]
    batches += [(groups(data, config, added), None) for added in config.at_once if added > 1]
    jobs = []
    for added, novel in batches:
        for method in METHODS:
            for count in (everything,) if method == "joint" else config.shots:
                # All images of a class are one set of shots: the same classes are not added twice.
                runs = list(dict.fromkeys(added)) if method == "joint" else added
                shots = [
                    torch.stack([draw_shots(data, label, count, number, config.base.seed) for label in run])
                    for number, run in enumerate(runs)
                ]
                jobs.append(_Job(method, count, runs, shots, novel))
    return jobs


def _save_measured(measured: Measured, path: Path) -> None:
    tensors = {f"{part}.{name}": getattr(measured, part)[name] for part in ("old", "novel") for name in BIASES}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save({**tensors, "curve": measured.curve}))


def _load_measured(path: Path) -> Measured | None:
    """What an earlier attempt has measured, or ``None`` if it has not, or its file is damaged."""
    try:
        tensors = load_file(path)
        parts = {part: {name: tensors[f"{part}.{name}"] for name in BIASES} for part in ("old", "novel")}
        return Measured(**parts, curve=tensors["curve"])
    except (OSError, SafetensorError, KeyError):
        return None


def _tables(
    jobs: Sequence[_Job],
    done: Mapping[str, Measured],
    spaces: Mapping[str, Space],
    data: Embedded,
    config: ImprintingConfig,
    names: Sequence[str],
) -> dict[Path, pd.DataFrame]:
    """The three tables, by their paths, from what was measured."""
    checkpoint = base_checkpoint().relative_to(project.project_root()).as_posix()
    rows: list[dict[str, object]] = []
    by_class: list[dict[str, object]] = []
    curves: list[dict[str, object]] = []

    def add(table: list[dict[str, object]], key: Mapping[str, object], metric: str, estimate: Estimate) -> None:
        numbers = {"value": round(estimate.value, 4), "ci95": round(estimate.ci95, 4), "n": estimate.n}
        table.append({**key, "metric": metric, **numbers, "checkpoint": checkpoint})

    for name, space in spaces.items():
        right = space.accuracy(space.test)
        add(rows, {"method": f"base, {name}", "added": 0, "shots": 0, "bias": "none"}, "old_acc", share_estimate(right))
    kinds: dict[tuple[str, int, int], list[_Job]] = {}
    for job in jobs:
        kinds.setdefault((job.method, len(job.added[0]), job.shot_count), []).append(job)
    classes = len(data.old)
    for (method, added, shots), members in kinds.items():
        # With one class a time the classes are the sample, and the shot sets of a class one cluster of it.
        clusters = torch.cat([torch.full((len(job.added),), number) for number, job in enumerate(members)])
        if added > 1:
            clusters = torch.arange(len(clusters))
        for bias in BIASES:
            old = torch.cat([done[job.name].old[bias] for job in members])
            novel = torch.cat([done[job.name].novel[bias] for job in members])
            key = {"method": method, "added": added, "shots": shots, "bias": bias}
            values = {
                "novel_acc": novel, "old_acc": old, "overall_acc": overall(old, novel, classes, added),
                "harmonic_mean": harmonic_mean(old, novel),
            }  # fmt: skip
            for metric, value in values.items():
                add(rows, key, metric, over_clusters(value, clusters))
            if len(novel) > 1:
                add(rows, key, "novel_sd", Estimate(float(novel.std()), 0.0, len(novel)))
            for job in members if added == 1 else ():
                key = {"novel": names[job.novel], "method": method, "shots": shots, "bias": bias}
                own = done[job.name].novel[bias]
                add(by_class, key, "novel_acc", over_clusters(own, torch.arange(len(own))))
        curve = torch.cat([done[job.name].curve for job in members])
        for number, loss in enumerate(LOSSES):
            key = {"method": method, "added": added, "shots": shots, "loss": loss}
            add(curves, key, "novel_acc", over_clusters(curve[:, number], clusters))
    return {  # the table that says whether the study is stored comes last
        classes_path(): pd.DataFrame(by_class)[list(CLASS_COLUMNS)],
        curve_path(): pd.DataFrame(curves)[list(CURVE_COLUMNS)],
        table_path(): pd.DataFrame(rows)[list(COLUMNS)],
    }


def over_clusters(values: torch.Tensor, clusters: torch.Tensor) -> Estimate:
    """Mean of the clusters' means, with a 95% interval from their spread (Student's t); float64 (R,), int64 (R,)."""
    counts = torch.bincount(clusters)
    means = torch.bincount(clusters, values) / counts
    number = len(means)
    half = float(means.std()) / math.sqrt(number) * float(student_t.ppf(0.975, number - 1)) if number > 1 else 0.0
    return Estimate(float(means.mean()), half, len(values))


def _neighbours(space: Space, names: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
    """The three old classes closest to each novel one, by the means of all their images."""
    numbers = torch.tensor(space.data.novel)
    z, labels = space.data.shots
    means = class_means(z, torch.searchsorted(numbers, labels), len(numbers))
    old_names = [names[label] for label in space.data.old]
    return {
        names[label]: nearest_classes(mean, space.old, old_names)
        for label, mean in zip(space.data.novel, means, strict=True)
    }


# --- how the settings were chosen -----------------------------------------------------------------


@dataclass(frozen=True)
class SettingsTrial:
    """One setting that was tried before any novel class was looked at.

    Attributes:
        name: short and unique.
        expectation: what was expected before the run.
        method: a name in ``METHODS``.
        changes: fields of ``ImprintingConfig`` that are different.
    """

    name: str
    expectation: str
    method: str = "fine-tuned"
    changes: tuple[tuple[str, Any], ...] = ()


def _tuned(**changes: Any) -> tuple[tuple[str, Any], ...]:
    return (("fine_tuning", dataclasses.replace(FineTuneConfig(), **changes)),)


TRIALS: tuple[SettingsTrial, ...] = (
    SettingsTrial("imprinted", "The paper's way, what the others are compared with.", "imprinted"),
    SettingsTrial("shrinkage-0.03", "Too little: 256 directions from 20 classes.", "whitened", (("shrinkage", 0.03),)),
    SettingsTrial("shrinkage-0.1", "Better than none.", "whitened", (("shrinkage", 0.1),)),
    SettingsTrial("shrinkage-0.3", "Better than none.", "whitened", (("shrinkage", 0.3),)),
    SettingsTrial("shrinkage-1", "Back towards none.", "whitened", (("shrinkage", 1.0),)),
    SettingsTrial("tuned", "Better than whitened alone with many shots.", "fine-tuned", _tuned()),
    SettingsTrial("tuned-slowly", "Closer to whitened.", "fine-tuned", _tuned(rate=0.001)),
    SettingsTrial("tuned-fast", "Learns the shots by heart.", "fine-tuned", _tuned(rate=0.01)),
    SettingsTrial("tuned-anchored", "Closer to whitened.", "fine-tuned", _tuned(anchor=1.0)),
    SettingsTrial("tuned-not-frozen", "Worse: old weights give way.", "fine-tuned", _tuned(frozen_share=0.0)),
    SettingsTrial("tuned-evenly", "Fewer novel images found.", "fine-tuned", _tuned(adapt=0.0)),
)
TRIAL_COLUMNS = ("trial", "shots", "metric", "value", "ci95", "n")
TRIAL_SPLIT = "20-80"  # the sweep's network that learned fewer classes than the base network


def trials_path() -> Path:
    """Where the trials are stored."""
    return project.results_dir() / "imprinting_trials.csv"


def trial_data(
    encoder: Encoder, seed: int, held_out_images: int, train_set: ImageSet, novel: Sequence[int]
) -> Embedded:
    """A study in miniature, on training images alone: some classes take the novel ones' place.

    Args:
        encoder: it has learned the first classes, and none of ``novel``.
        seed: by which its training held images out.
        held_out_images: how many of each class.
        train_set: training images.
        novel: classes that the base network of the study has learned.

    Returns:
        Half of the held-out images are for the fine-tuning, the other half for judging; of the stand-ins
        for novel classes every other image is for shots.
    """
    old = class_split(TRIAL_SPLIT, 0, train_set.num_classes).seen
    if set(old) & set(novel):
        raise SplitError("A class that the encoder has learned cannot stand in for a novel one.")
    known, held_out = hold_out_images(train_set.labels, old, held_out_images, seed)
    others = train_set.indices_of(novel)
    positions = {"known": known, "tuning": held_out[::2], "held_out": held_out[::2], "shots": others[::2]}
    positions["test"] = torch.cat([held_out[1::2], others[1::2]])
    parts = {name: (encoder.embed(train_set.images[rows]), train_set.labels[rows]) for name, rows in positions.items()}
    return Embedded(**parts, old=old, novel=tuple(novel))


def trial_network(config: ImprintingConfig, train_set: ImageSet) -> tuple[Encoder, dict[str, Any], tuple[int, ...]]:
    """The sweep's network that trials use, what it was trained with, and the classes that stand in for novel ones.

    These are the classes that the base network has learned and this one has not.

    Raises:
        CheckpointError: the sweep's checkpoint is missing.
    """
    path = stored.checkpoint_path(TRIAL_SPLIT, 0)
    old = class_split(TRIAL_SPLIT, 0, train_set.num_classes).seen
    learned = class_split(config.base.split, config.base.draw, train_set.num_classes).seen
    return load_encoder(path), checkpoint_info(path), tuple(label for label in learned if label not in old)


def stored_trials(path: Path) -> set[tuple[str, int]]:
    """Name and number of shots of every trial in a table with ``TRIAL_COLUMNS``; empty if there is no table."""
    table = results.read_table(path, TRIAL_COLUMNS) if path.exists() else pd.DataFrame({"trial": [], "shots": []})
    return set(zip(table.trial, table.shots))


def store_trial(name: str, shots: int, values: torch.Tensor, sets: int, path: Path) -> None:
    """Put the mean of a trial's runs into a table with ``TRIAL_COLUMNS``; errors as ``store_run``.

    Args:
        name: of the trial.
        shots: of each run.
        values: float64 (classes x sets,), novel accuracy for one point of old accuracy, class by class.
        sets: sets of shots of each class.
        path: of the table.
    """
    clusters = torch.arange(len(values) // sets).repeat_interleave(sets)
    metrics = {"novel_acc_for_one_point": over_clusters(values, clusters)}
    results.store_run({"trial": name, "shots": shots}, metrics, "", table=path, columns=TRIAL_COLUMNS)


def run_trials(config: ImprintingConfig, train_set: ImageSet, *, progress: bool = True) -> pd.DataFrame:
    """Try every setting of ``TRIALS`` that is not stored yet, without a novel class or a test image.

    The encoder is the sweep's 20-80 network of draw 0; the classes that the base network has learned and this one has
    not take the place of novel ones. The number that counts is the accuracy on them for one point of old accuracy.

    Args:
        config: shots and shot sets (a quarter of them are used); its other settings are those that are tried.
        train_set: training images.
        progress: show a progress bar.

    Returns:
        the table as stored.

    Raises:
        CheckpointError: the sweep's checkpoint is missing.
    """
    encoder, info, novel = trial_network(config, train_set)
    held_out = info["config"]["held_out_images"]
    data = trial_data(encoder, info["seed"], held_out, train_set, novel)
    stored = stored_trials(trials_path())
    sets = max(2, config.shot_sets // 4)
    for trial in tqdm(TRIALS, unit="trial", desc="settings", disable=not progress):
        counts = [count for count in config.shots if (trial.name, count) not in stored]
        if not counts:
            continue
        settings = dataclasses.replace(config, **dict(trial.changes))
        spaces = {"plain": Space.of(data)}
        spaces["whitened"] = Space.of(data.mapped(Whitening.fit(*data.known, settings.shrinkage)))
        for count in counts:
            found = []
            for label in novel:
                shots = [draw_shots(data, label, count, number, config.base.seed)[None] for number in range(sets)]
                measured = measure(trial.method, spaces, [(label,)] * sets, shots, settings)
                found.append(measured.curve[:, LOSSES.index(1.0)])
            store_trial(trial.name, count, torch.cat(found), sets, trials_path())
    return results.read_table(trials_path(), TRIAL_COLUMNS)


def trial_log() -> pd.DataFrame:
    """The stored trials: what was expected, and accuracy for one point of old accuracy by the number of shots.

    Raises:
        ResultsError: no trial is stored.
    """
    return log_of(TRIALS, trials_path())


def log_of(trials: Sequence[Any], path: Path) -> pd.DataFrame:
    """One row a stored trial, from its ``name`` and ``expectation`` and a table with ``TRIAL_COLUMNS``."""
    table = results.read_table(path, TRIAL_COLUMNS).set_index(["trial", "shots"])
    rows = []
    for trial in trials:
        if trial.name in table.index:
            part = table.loc[trial.name]
            row = {"trial": trial.name, "expectation": trial.expectation}
            for cell in part.sort_index().itertuples():
                row[f"{cell.Index} shots"] = f"{cell.value:.1f} ± {cell.ci95:.1f}"
            rows.append(row)
    return pd.DataFrame(rows)


def seed_imprinting() -> pd.DataFrame:
    """The numbers that the seed project gives for one class added to 40, from ``results/imprinting_reference.csv``.

    Raises:
        ResultsError: the table is missing or damaged.
    """
    return results.read_table(project.results_dir() / "imprinting_reference.csv", REFERENCE_COLUMNS)


def stored_imprinting() -> pd.DataFrame:
    """The stored rows of ``results/imprinting.csv``.

    Raises:
        ResultsError: nothing is stored, or the table is damaged.
    """
    return results.read_table(table_path(), COLUMNS)
