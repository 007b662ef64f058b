"""The training loop: one forward pass a batch, pairs and triplets found inside it, exact resume after a kill."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import nn
from tqdm.auto import tqdm

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import PKBatches, named_rng
from siamese_utils.data.splits import hold_out_classes, hold_out_images
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.pretrained import load_pretrained
from siamese_utils.errors import CheckpointError, CollapseError, ConfigError, DataError, SplitError, TrainingError
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.system.devices import autocast_dtype, pick_device
from siamese_utils.system.files import atomic_path, is_whole_archive, reason
from siamese_utils.system.memory import freed_memory_kept
from siamese_utils.training.augment import TURNS, augment_batch, turn
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import WeightedSum, embedding_spread
from siamese_utils.training.optimizers import WeightAverage, make_optimizer

COLLAPSE_SPREAD = 0.002  # below this share of spread, all embeddings point the same way
COLLAPSE_PATIENCE = 30  # consecutive steps, so that one odd batch does not stop a run


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A finished run.

    Attributes:
        encoder: trained, in evaluation mode, on the CPU.
        config: what it was trained with.
        history: one row an epoch: loss, learning rate, statistics of the objectives, seconds, images/s.
        classes: labels trained on.
        validation_classes: labels held out for choices.
        held_out: positions, in the training set, of the images held out for the threshold; int64 (M,).
        seconds: time spent training, over all resumptions.
    """

    encoder: Encoder
    config: TrainConfig
    history: pd.DataFrame
    classes: tuple[int, ...]
    validation_classes: tuple[int, ...]
    held_out: torch.Tensor
    seconds: float


def learning_rate_at(progress: float, config: TrainConfig) -> float:
    """Share of the peak rate at a share of the training: linear warm-up to 1, then a cosine to 0."""
    if progress < config.warmup:
        return 0.05 + 0.95 * progress / config.warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


def _side_at(progress: float, config: TrainConfig, full: int) -> int:
    sides = [side for begin, side in config.resolutions if begin <= progress]
    return sides[-1] if sides else full


def _in_all_turns(labels: torch.Tensor) -> torch.Tensor:
    """Labels (M,) of M images in each of the four turns, (4 M,): no two turns share a label."""
    return (labels + torch.arange(TURNS, device=labels.device)[:, None] * (labels.max() + 1)).reshape(-1)


def _make_batches(labels: torch.Tensor, config: TrainConfig) -> PKBatches:
    """P x K batches of the configured size; with few classes, more images of each."""
    classes = int(labels.max()) + 1
    per_class = max(config.images_per_class, math.ceil(config.batch_size / classes))
    return PKBatches(labels, max(2, config.batch_size // per_class), per_class, config.seed)


class _CollapseWatch:
    """Stops a run whose embeddings have shrunk to a point, instead of letting it run on for hours."""

    def __init__(self) -> None:
        self.flat_steps = 0

    def check(self, embeddings: torch.Tensor, epoch: int) -> None:
        spread = embedding_spread(embeddings)
        self.flat_steps = self.flat_steps + 1 if spread < COLLAPSE_SPREAD else 0
        if self.flat_steps >= COLLAPSE_PATIENCE:
            raise CollapseError(
                f"The encoder collapsed in epoch {epoch + 1}: every image gets nearly the same embedding (spread "
                f"{spread:.1e}), so a triplet loss can only stay at its margin; lower the learning rate, lengthen the "
                "warm-up, mine 'semi_hard' instead of 'batch_hard', use a soft margin (temperature), or start with a "
                "proxy term."
            )


class _Learner:
    """All that training changes: encoder, objectives, optimiser, averaged and best weights, and the history."""

    def __init__(self, config: TrainConfig, train_set: ImageSet, used: torch.Tensor, num_classes: int) -> None:
        self.encoder = Encoder(
            config.encoder, config.embedding_dim, image_size=train_set.images.shape[1], mirror=config.augment.flip
        )
        dim = self.encoder.embedding_dim
        self.head = _head(dim, config.head_width)
        self.objective = WeightedSum(config.terms, num_classes, dim)
        self.encoder.set_pixel_statistics(train_set.images[used])
        if config.pretrained:
            load_pretrained(self.encoder, config.pretrained)
        self.history: list[dict[str, float]] = []
        self.best: dict[str, torch.Tensor] = {}
        self.config = config

    def to(self, device: torch.device) -> _Learner:
        """Move everything and make what depends on the device."""
        config = self.config
        self.encoder.to(device, memory_format=torch.channels_last)
        self.head.to(device)
        self.objective.to(device)
        self.optimizer = make_optimizer(
            config.optimizer, self.encoder, [self.head, self.objective], config.learning_rate, config.weight_decay,
            config.muon_rate, autocast_dtype(device, config.precision),
        )  # fmt: skip
        self.average = WeightAverage(self.encoder, config.average_decay) if config.average_decay else None
        self.forward = torch.compile(self.encoder) if config.compile else self.encoder
        return self

    @property
    def kept(self) -> Encoder:
        """The encoder that would be the result now."""
        return self.encoder if self.average is None else self.average.module

    def record(self, row: dict[str, float]) -> None:
        """Add an epoch to the history and remember the weights if they are the best so far."""
        self.history.append(row)
        if self.config.patience and _epochs_without_rise(self.history, self.config.min_delta) == 0:
            self.best = {key: value.clone() for key, value in self.kept.state_dict().items()}

    def finished(self) -> bool:
        """Whether the validation accuracy has stopped rising."""
        patience = self.config.patience
        return patience > 0 and _epochs_without_rise(self.history, self.config.min_delta) >= patience

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors, for ``torch.load(weights_only=True)``."""
        return {
            "encoder": self.encoder.state_dict(),
            "head": self.head.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.module.state_dict() if self.average else {},
            "best": self.best,
            "history": json.dumps(self.history),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave; raises KeyError, RuntimeError, ValueError or TypeError for other data."""
        self.encoder.load_state_dict(state["encoder"])
        self.head.load_state_dict(state["head"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.module.load_state_dict(state["average"])
        self.best = state["best"]
        self.history = json.loads(state["history"])


def _head(dim: int, width: int) -> nn.Module:
    """Two layers with normalisation between, from D features to D; nothing for width 0."""
    if width == 0:
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, dim)
    )


def _epochs_without_rise(history: list[dict[str, float]], min_delta: float) -> int:
    """Epochs since the validation accuracy last rose by more than ``min_delta`` over its best."""
    best, since = -math.inf, 0
    for row in history:
        accuracy = row["validation_acc_5w1s"]
        best, since = (accuracy, 0) if accuracy > best + min_delta else (best, since + 1)
    return since


def _state_path(run_dir: Path) -> Path:
    return run_dir / "state.pt"


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(f"The training state {path} is damaged or of another version; delete it to start again.")


def _unwritable(run_dir: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"Cannot write to the run folder {run_dir} ({reason(error)}); make room there or choose another run folder. "
        "What was written before is kept."
    )


def _load_state(run_dir: Path, config: TrainConfig, classes: tuple[int, ...]) -> dict[str, Any] | None:
    path = _state_path(run_dir)
    if not path.exists():
        return None
    try:
        if not is_whole_archive(path):
            raise _damaged(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        same = json.loads(state["config"]) == config.to_json() and tuple(state["classes"]) == classes
    except Exception as error:  # torch.load raises many types for a damaged file
        raise _damaged(path) from error
    if not same:
        raise CheckpointError(
            f"{path} belongs to a run with another configuration or other classes; choose another run folder or "
            "delete it."
        )
    return state


def _save_state(run_dir: Path, config: TrainConfig, classes: tuple[int, ...], learner: _Learner) -> None:
    state = {"config": json.dumps(config.to_json()), "classes": list(classes), **learner.state_dict()}
    try:
        with atomic_path(_state_path(run_dir)) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:
        raise _unwritable(run_dir, error) from error


class _Log:
    """TensorBoard log of one start, written epoch by epoch.

    TensorBoard's own writer works in a thread, whose errors nobody can catch, and loses what it holds at a kill.
    """

    def __init__(self, run_dir: Path) -> None:
        self._run_dir = run_dir
        self._path = run_dir / "tensorboard" / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        except OSError as error:
            raise _unwritable(run_dir, error) from error

    def add(self, epoch: int, row: dict[str, float]) -> None:
        """Add an epoch's row of the history, epochs counted from 1."""
        values = [Summary.Value(tag=key, simple_value=value) for key, value in row.items()]
        try:
            self._write(Event(wall_time=time.time(), step=epoch, summary=Summary(value=values)))
        except OSError as error:
            raise _unwritable(self._run_dir, error) from error

    def _write(self, event: Event) -> None:
        with open(self._path, "ab") as file:
            RecordWriter(file).write(event.SerializeToString())


def train(
    config: TrainConfig,
    train_set: ImageSet,
    classes: Iterable[int],
    *,
    validation: Iterable[int] = (),
    run_dir: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    stop_after: int | None = None,
) -> TrainResult:
    """Train an encoder on some classes.

    Everything random is derived from the seed and the epoch's number, so a run that is killed and started
    again with the same ``run_dir`` repeats the interrupted epoch and ends with the same weights. On the CPU they
    are the same to the last bit for the same number of threads; images, batches and augmentation are the same for
    any number. CUDA and MPS promise no bits: their sums are not taken in a fixed order.

    Args:
        config: the recipe.
        train_set: training images; only those of ``classes`` (and ``validation``) are touched.
        classes: labels of the seen classes.
        validation: labels to judge by after each epoch, none of them in ``classes``; empty takes
            ``config.validation_classes`` of ``classes`` away for it.
        run_dir: folder for the state after each epoch and the TensorBoard log; ``None`` keeps nothing.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        progress: show a progress bar.
        stop_after: stop after so many epochs of this call, as a kill would (the state is on disk).

    Returns:
        the encoder and how it got there.

    Raises:
        CollapseError: all embeddings have become the same.
        TrainingError: the loss is not finite, or ``stop_after`` was reached.
        CheckpointError: ``run_dir`` holds a damaged state or that of another run.
        DataError: ``train_set`` holds test images.
        SplitError, SamplingError, ConfigError, UnknownNameError: the configuration does not fit the data.
    """
    seen = tuple(sorted(set(classes)))
    training_classes, validation_classes = _training_and_validation(seen, tuple(sorted(set(validation))), config)
    used, held_out = hold_out_images(train_set.labels, training_classes, config.held_out_images, config.seed)
    number_of = torch.full((train_set.num_classes,), -1, dtype=torch.int64)
    number_of[list(training_classes)] = torch.arange(len(training_classes))
    labels = number_of[train_set.labels[used]]
    _check_nothing_leaks(train_set, labels, used)
    where = pick_device(device)
    images = train_set.images[used].to(where)
    centred_on = used[_some_of_each_class(labels, 50)]
    if config.turned_classes:
        labels = _in_all_turns(labels)
    batches = _make_batches(labels, config)
    steps = _number_of_steps(config, batches)
    epochs = math.ceil(steps / batches.steps)
    labels = labels.to(where)

    # The allocator would otherwise give each batch's memory back and take it again.
    with freed_memory_kept(), torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(config.seed)
        learner = _Learner(config, train_set, used, int(labels.max()) + 1).to(where)
        run_path = Path(run_dir) if run_dir is not None else None
        if run_path is not None and (state := _load_state(run_path, config, seen)):
            try:
                learner.load_state_dict(state)
            except (KeyError, RuntimeError, ValueError, TypeError) as error:
                raise _damaged(_state_path(run_path)) from error
        first_epoch = len(learner.history)
        log = _Log(run_path) if run_path is not None else None
        watch = _CollapseWatch()
        bar = tqdm(
            total=steps * batches.batch_size,
            initial=first_epoch * batches.steps * batches.batch_size,
            unit="img", unit_scale=True, desc=config.recipe, disable=not progress, smoothing=0.05,
        )  # fmt: skip
        try:
            for epoch in range(first_epoch, epochs):
                if learner.finished():
                    break
                if stop_after is not None and epoch - first_epoch >= stop_after:
                    raise TrainingError(f"Stopped after {stop_after} epochs as asked; start again to go on.")
                row = _train_epoch(epoch, steps, learner, images, labels, batches, bar, watch)
                if validation_classes:
                    row["validation_acc_5w1s"] = validation_accuracy(learner.kept, train_set, validation_classes)
                learner.record(row)
                bar.set_postfix({key: f"{row[key]:.3g}" for key in row if key in ("loss", "validation_acc_5w1s")})
                if run_path is not None and log is not None:
                    _save_state(run_path, config, seen, learner)
                    log.add(epoch + 1, row)
        finally:
            bar.close()

    encoder = learner.kept
    if learner.best:
        encoder.load_state_dict(learner.best)
    encoder.requires_grad_(True)
    encoder.set_centre(train_set.images[centred_on])
    return TrainResult(
        encoder=encoder.cpu().eval(),
        config=config,
        history=pd.DataFrame(learner.history),
        classes=training_classes,
        validation_classes=validation_classes,
        held_out=held_out,
        seconds=sum(row["seconds"] for row in learner.history),
    )


def images_shown(config: TrainConfig, images_of_class: Sequence[int]) -> int:
    """How many images a training shows to the network, given the number of training images of each class."""
    labels = torch.repeat_interleave(torch.arange(len(images_of_class)), torch.as_tensor(images_of_class))
    batches = _make_batches(_in_all_turns(labels) if config.turned_classes else labels, config)
    return _number_of_steps(config, batches) * batches.batch_size


def _number_of_steps(config: TrainConfig, batches: PKBatches) -> int:
    steps = max(config.epochs * batches.steps, math.ceil(config.least_images / batches.batch_size))
    if config.most_images:
        steps = min(steps, max(1, config.most_images // batches.batch_size))
    return steps


def _training_and_validation(
    seen: tuple[int, ...], validation: tuple[int, ...], config: TrainConfig
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The classes to learn from and those to judge by, never the same."""
    if not validation:
        if config.patience and not config.validation_classes:
            raise ConfigError("Stopping early is judged on validation classes; name some or set validation_classes.")
        return hold_out_classes(seen, config.validation_classes, config.seed)
    if common := sorted(set(seen) & set(validation)):
        raise SplitError(f"Classes {common} are both learned and validated on; keep the two apart.")
    if len(validation) < 2:
        raise SplitError("Validation needs two classes or more to tell apart.")
    return seen, validation


def _check_nothing_leaks(train_set: ImageSet, labels: torch.Tensor, used: torch.Tensor) -> None:
    """Refuse test images, and images of classes that are not learned (numbered -1 in ``labels``)."""
    if train_set.part == "test":
        raise DataError(f"{train_set!r} holds test images; train on the training part.")
    if len(strange := used[labels < 0]):
        raise SplitError(
            f"An image of class {int(train_set.labels[strange[0]])}, which is not to be learned, is among the training "
            "images; train on images of the seen classes alone."
        )


def _diverged(what: str, epoch: int, step: int) -> TrainingError:
    return TrainingError(
        f"The {what} in epoch {epoch + 1}, step {step + 1}; lower the learning rate or lengthen the warm-up. The state "
        "after the last whole epoch is kept."
    )


def _train_epoch(
    epoch: int,
    all_steps: int,
    learner: _Learner,
    images: torch.Tensor,
    labels: torch.Tensor,
    batches: PKBatches,
    bar: tqdm,
    watch: _CollapseWatch,
) -> dict[str, float]:
    """One pass over the training images, the last one up to ``all_steps``; returns the epoch's row of the history."""
    start = time.perf_counter()
    config, encoder, objective = learner.config, learner.encoder, learner.objective
    seed = zlib.crc32(f"{config.seed}/{epoch}".encode())
    torch.manual_seed(seed)  # for random mining
    generator = torch.Generator().manual_seed(seed)
    low_precision = autocast_dtype(images.device, config.precision)
    parameters = [*encoder.parameters(), *learner.head.parameters(), *objective.parameters()]
    totals: dict[str, float] = {}
    counts: dict[str, int] = {}
    encoder.train()
    learner.head.train()
    done = epoch * batches.steps
    todo = batches.epoch(epoch)[: all_steps - done].to(images.device)
    for step, positions in enumerate(todo):
        progress = (done + step) / all_steps
        learner.optimizer.set_rate(learning_rate_at(progress, config))
        side = _side_at(progress, config, images.shape[1])
        turns, rows = positions // len(images), positions % len(images)  # see _in_all_turns
        turned = turn(images.index_select(0, rows), turns)
        pixels = augment_batch(
            turned, config.augment, encoder.pixel_mean, encoder.pixel_std, generator, side
        )
        with torch.autocast(images.device.type, dtype=low_precision, enabled=low_precision is not None):
            embeddings = learner.forward(pixels)
        output = objective(learner.head(embeddings.float()), labels[positions], progress)
        loss = float(output.loss.detach())
        if not math.isfinite(loss):
            raise _diverged(f"loss became {loss}", epoch, step)
        watch.check(embeddings, epoch)
        learner.optimizer.zero_grad()
        output.loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, config.clip_norm)
        if not math.isfinite(norm):  # a step with it would spoil the weights, and then the stored state
            raise _diverged(f"gradient's norm became {float(norm)}", epoch, step)
        learner.optimizer.step()
        if learner.average:
            learner.average.update(encoder, done + step + 1)
        for key, value in {"loss": loss, **{k: float(v) for k, v in output.stats.items()}}.items():
            totals[key] = totals.get(key, 0.0) + value
            counts[key] = counts.get(key, 0) + 1
        bar.update(len(positions))
    seconds = time.perf_counter() - start
    means = {key: totals[key] / counts[key] for key in totals}
    return {
        "epoch": epoch + 1,
        **means,
        "learning_rate": config.learning_rate * learning_rate_at((done + len(todo)) / all_steps, config),
        "seconds": seconds,
        "images_per_second": todo.numel() / seconds,
    }


def validation_accuracy(
    encoder: Encoder, train_set: ImageSet, classes: tuple[int, ...], episodes: int = 2_000
) -> float:
    """5-way 1-shot accuracy (percent) on held-out training classes, from their first 100 training images each.

    This, not a test class, is what recipes are chosen by.
    """
    positions = train_set.indices_of(classes)
    positions = positions[_some_of_each_class(train_set.labels[positions], 100)]
    embeddings = encoder.embed(train_set.images[positions])
    ways = min(5, len(classes))
    rng = named_rng(0, "validation")
    labels = train_set.labels[positions]
    return few_shot_accuracy(embeddings, labels, rng, ways=ways, shots=1, episodes=episodes).value


def _some_of_each_class(labels: torch.Tensor, most: int) -> torch.Tensor:
    """Positions of the first ``most`` images of every class."""
    return torch.cat([(labels == label).nonzero().squeeze(1)[:most] for label in labels.unique()])
