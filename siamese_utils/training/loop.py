"""The training loop: one forward pass a batch, pairs and triplets found inside it, exact resume after a kill."""

from __future__ import annotations

import dataclasses
import json
import math
import time
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn
from torch.optim.swa_utils import update_bn
from tqdm.auto import tqdm

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.encoders.base import digest
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.pretrained import load_pretrained
from siamese_utils.errors import CollapseError, ConfigError, DivergedError, TrainingError
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.system.devices import autocast_dtype, pick_device
from siamese_utils.system.memory import freed_memory_kept
from siamese_utils.training.augment import augment_batch, draw_turns, turn
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.distillation import DistillationObjective, taught_embeddings, teachers_digest
from siamese_utils.training.losses import ObjectiveOutput, RotationObjective, WeightedSum, embedding_spread
from siamese_utils.training.mixing import cut_mix, draw_mixture, mixable_layers, mixed_features
from siamese_utils.training.optimizers import WeightAverage, make_optimizer
from siamese_utils.training.state import History, load_state, save_state, since_best
from siamese_utils.training.task import Task, first_of_each_class, prepare

COLLAPSE_SPREAD = 0.002  # below this share of spread, all embeddings point the same way
COLLAPSE_PATIENCE = 30  # consecutive steps, so that one odd batch does not stop a run
STATISTICS_IMAGES = 10_000  # to compute batch statistics anew from
_MANIFOLD_CONCENTRATION = 2.0  # of the shares, as by the authors of manifold mixup


@dataclass(frozen=True, eq=False)
class TrainResult:
    """A finished run.

    Attributes:
        encoder: trained, in evaluation mode, on the CPU.
        config: what it was trained with.
        history: one row an epoch: loss, learning rate, statistics of the objectives, seconds, seconds of processor time
            (of all threads), images/s.
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

    @property
    def core_minutes(self) -> float:
        """Minutes of processor time that the training took, over all threads and resumptions."""
        return float(self.history.cpu_seconds.sum()) / 60


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
        run_dir: folder for the state after each epoch and ``history.csv``, by which the run can be watched; ``None``
            keeps nothing.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        progress: show a progress bar.
        stop_after: stop after so many epochs of this call, as a kill would (the state is on disk).

    Returns:
        the encoder and how it got there.

    Raises:
        CollapseError: all embeddings have become the same.
        TrainingError: the loss is not finite, or ``stop_after`` was reached.
        CheckpointError: ``run_dir`` holds a damaged state or that of another run, such as one with other images or
            teachers; or a teacher cannot teach.
        DataError: ``train_set`` holds test images.
        SplitError, SamplingError, ConfigError, UnknownNameError: the configuration does not fit the data.
    """
    task = prepare(config, train_set, classes, validation)
    if config.teachers:
        where = pick_device(device)
        taught = taught_embeddings(config.teachers, task.images, task.classes, train_set.name, where, progress)
        task = dataclasses.replace(task, taught=taught)
    judged = train_set.indices_of(task.validation_classes)
    shown = {"images": train_set.images[judged], "labels": train_set.labels[judged]}
    task = dataclasses.replace(task, beside=digest(teachers_digest(config.teachers), shown))

    def score(encoder: Encoder) -> float:
        return validation_accuracy(encoder, train_set, task.validation_classes)

    return train_task(
        config,
        task,
        Judge("validation_acc_5w1s", score) if task.validation_classes else None,
        run_dir=run_dir,
        device=device,
        progress=progress,
        stop_after=stop_after,
    )


class Judge(NamedTuple):
    """How an encoder is judged after each epoch.

    Attributes:
        name: of the score in the history; begins with ``validation_``.
        score: of an encoder, the higher the better, on data that are not learned from.
    """

    name: str
    score: Callable[[Encoder], float]


def train_task(
    config: TrainConfig,
    task: Task,
    judge: Judge | None = None,
    *,
    objective: nn.Module | None = None,
    run_dir: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    stop_after: int | None = None,
) -> TrainResult:
    """Train an encoder on what was prepared.

    Args:
        config: the recipe.
        task: what is learned from, with what the recipe's teachers make of it, if it has any.
        judge: scores the encoder after each epoch; needed to stop early.
        objective: takes the place of the recipe's terms: called like ``WeightedSum``.
        run_dir, device, progress, stop_after: see ``train``, as for errors.
    """
    if bool(config.teachers) != (task.taught is not None):
        raise ConfigError("Teachers and what they make of the images belong together; `train` sees to both.")
    belongs_to = {
        "config": json.dumps(config.to_json()),
        "classes": list(task.classes),
        "validation_classes": list(task.validation_classes),
        "content": task.content,
    }
    where = pick_device(device)
    # The allocator would otherwise give each batch's memory back and take it again.
    with freed_memory_kept(), torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(config.seed)
        learner = Learner(config, task.images, task.num_labels, where, objective)
        task = task.to(where)
        watch = _CollapseWatch()

        def put_back(state: Mapping[str, Any]) -> None:
            learner.load_state_dict(state)
            watch.flat_steps = int(state.get("flat_steps", 0))

        history = load_state(run_dir, belongs_to, put_back)
        with _progress_bar(config, task, len(history), progress) as bar:
            for epoch in _epochs_to_do(config, task, history, stop_after):
                row = _train_epoch(epoch, learner, task, watch, bar)
                if judge:
                    row[judge.name] = judge.score(learner.kept)
                history.append(row)
                if config.patience and since_best(_scores(history), config.min_delta) == 0:
                    learner.remember_as_best()
                shown = ("loss", judge.name) if judge else ("loss",)
                bar.set_postfix({key: f"{row[key]:.3g}" for key in row if key in shown})
                state = {**learner.state_dict(), "flat_steps": watch.flat_steps}
                save_state(run_dir, belongs_to, state, history)
        encoder = learner.result()
        if config.fresh_statistics:
            learner.refresh_statistics(encoder, task)
    encoder.set_centre(task.some_of_each_class(50))
    return TrainResult(
        encoder=encoder.cpu().eval(),
        config=config,
        history=pd.DataFrame(history),
        classes=task.classes,
        validation_classes=task.validation_classes,
        held_out=task.held_out,
        seconds=sum(row["seconds"] for row in history),
    )


# ------------------------------------------------------------------------------------------- the step


class Step(NamedTuple):
    """What a step came to.

    Attributes:
        loss: before the step.
        stats: of the objectives, by name.
        embeddings: float (B, D), of the batch before the step, detached.
        gradient_norm: before it was clipped.
    """

    loss: float
    stats: dict[str, torch.Tensor]
    embeddings: torch.Tensor
    gradient_norm: float


def step(
    learner: Learner, images: torch.Tensor, labels: torch.Tensor, progress: float, taught: torch.Tensor | None = None
) -> Step:
    """One step of the training.

    Args:
        learner: what is trained.
        images: uint8 (B, H, W, 3).
        labels: int64 (B,).
        progress: share of the training that is done, in [0, 1).
        taught: float (B, E), what the teachers make of the images; mixed images have no teacher.
    """
    learner.optimizer.set_rate(learning_rate_at(progress, learner.config))
    pixels = learner.augment(images, progress)
    if learner.mixes():
        embeddings, output = learner.learn_mixed(pixels, labels, progress)
    else:
        embeddings, output = learner.learn(pixels, labels, progress, taught)
    learner.optimizer.zero_grad()
    output.loss.backward()
    norm = nn.utils.clip_grad_norm_(learner.parameters(), learner.config.clip_norm)
    learner.optimizer.step()
    return Step(float(output.loss.detach()), output.stats, embeddings.detach(), float(norm))


def learning_rate_at(progress: float, config: TrainConfig) -> float:
    """Share of the peak rate at a share of the training: linear warm-up to 1, then a cosine to 0."""
    if progress < config.warmup:
        return 0.05 + 0.95 * progress / config.warmup
    return 0.5 * (1 + math.cos(math.pi * (progress - config.warmup) / (1 - config.warmup)))


class Learner:
    """All that training changes: encoder, head, objectives, optimiser, averaged and best weights.

    Its random weights come from torch's state.

    Args:
        config: the recipe.
        images: uint8 (M, H, W, 3) to take the pixel statistics from.
        num_labels: how many labels the objectives tell apart.
        device: where it is trained; the random weights are the same on every device.
        objective: in place of the recipe's terms.

    Attributes:
        encoder: what is trained.
        head: between the embeddings and the objectives, thrown away after the training.
        objective: the terms of the recipe.
        rotation: tells by which quarter turn an image was turned, thrown away after the training; or ``None``.
        distillation: compares with what the teachers make of the images, or ``None``.
        optimizer: of encoder, head, objective and rotation.
        average: running average of the encoder's weights, or ``None``.
        generator: of the augmentation, on the CPU.
    """

    def __init__(
        self,
        config: TrainConfig,
        images: torch.Tensor,
        num_labels: int,
        device: torch.device | str = "cpu",
        objective: nn.Module | None = None,
    ) -> None:
        self.config, self.generator = config, torch.Generator()
        self.encoder = Encoder(
            config.encoder, config.embedding_dim, image_size=images.shape[1], mirror=config.augment.flip
        )
        self.head = _head(self.encoder.embedding_dim, config.head_width)
        self.objective = objective or WeightedSum(config.terms, num_labels, self.encoder.embedding_dim)
        weight = config.rotation_weight
        self.rotation = RotationObjective(self.encoder.embedding_dim, weight) if weight else None
        self.distillation = DistillationObjective(config.teaching_weight) if config.teachers else None
        self._heads = [head for head in (self.head, self.objective, self.rotation) if head is not None]
        if config.mixing == "manifold":
            mixable_layers(self.encoder.body)  # refused now, not after the first steps
        self.encoder.set_pixel_statistics(images)
        if config.pretrained:
            load_pretrained(self.encoder, config.pretrained)
        self._best: dict[str, torch.Tensor] = {}
        self._lower = autocast_dtype(torch.device(device), config.precision)
        self.encoder.to(device, memory_format=torch.channels_last)
        for head in self._heads:
            head.to(device)
        self.optimizer = make_optimizer(
            config.optimizer,
            self.encoder,
            self._heads,
            config.learning_rate,
            config.weight_decay,
            config.muon_rate,
            self._lower,
            config.muon_momentum,
            config.fixed_norms,
        )
        self.average = WeightAverage(self.encoder, config.average_decay) if config.average_decay else None
        self._forward = torch.compile(self.encoder) if config.compile else self.encoder

    def begin(self, seed: int) -> None:
        """Begin an epoch: whatever is random in it, mining and augmentation, comes from the seed."""
        torch.manual_seed(seed)
        self.generator.manual_seed(seed)
        self.encoder.train()
        self.head.train()

    def augment(self, images: torch.Tensor, progress: float) -> torch.Tensor:
        """Images uint8 (B, H, W, 3) varied, normalised and scaled to the side of the moment: float (B, 3, S, S)."""
        sides = [side for begin, side in self.config.resolutions if begin <= progress]
        side = sides[-1] if sides else images.shape[1]
        mean, std = self.encoder.pixel_mean, self.encoder.pixel_std
        return augment_batch(images, self.config.augment, mean, std, self.generator, side)

    def turn(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images float (B, 3, S, S), a share turned if there is a rotation head, and quarter turns, int64 (B,)."""
        if not self.rotation:
            return pixels, torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
        turns = draw_turns(len(pixels), self.config.rotation_share, self.generator).to(pixels.device)
        # Mirrored already, else an image on its left side and one on its right would change places.
        return turn(pixels.permute(0, 2, 3, 1), turns).permute(0, 3, 1, 2), turns

    def learn(
        self, pixels: torch.Tensor, labels: torch.Tensor, progress: float, taught: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ObjectiveOutput]:
        """Embeddings of a batch, float32 (B, D), and the loss."""
        pixels, turns = self.turn(pixels)
        embeddings = self.embed(pixels)
        output = self.objective(self.head(embeddings), labels, progress)
        if self.rotation:
            output += self.rotation(embeddings, turns)
        if self.distillation and taught is not None:
            upright = turns == 0 if self.config.teach_upright else slice(None)
            output += self.distillation(embeddings[upright], taught[upright])
        return embeddings, output

    def mixes(self) -> bool:
        """Whether the next step is to mix its images; drawn anew for each."""
        config = self.config
        return bool(config.mixing) and float(torch.rand((), generator=self.generator)) < config.mixing_share

    def learn_mixed(
        self, pixels: torch.Tensor, labels: torch.Tensor, progress: float
    ) -> tuple[torch.Tensor, ObjectiveOutput]:
        """The same for images mixed in pairs; none is turned."""
        if self.config.mixing == "cutmix":
            mixture = draw_mixture(len(pixels), self.generator)
            pixels, mixture = cut_mix(pixels, mixture, self.generator)
            embeddings = self.embed(pixels)
        else:
            mixture = draw_mixture(len(pixels), self.generator, _MANIFOLD_CONCENTRATION)
            layers = mixable_layers(self.encoder.body)
            layer = layers[int(torch.randint(0, len(layers), (), generator=self.generator))]
            with mixed_features(layer, mixture):
                embeddings = self.embed(pixels)
        others = labels[mixture.partner.to(labels.device)]
        return embeddings, self.objective.mixed(self.head(embeddings), labels, others, mixture.share, progress)

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings float32 (B, D) of normalised images, multiplied in the configured precision."""
        with self._autocast(pixels.device):
            return self._forward(pixels).float()

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=self._lower, enabled=self._lower is not None)

    def parameters(self) -> Iterator[nn.Parameter]:
        """All that follows the gradient."""
        for module in (self.encoder, *self._heads):
            yield from module.parameters()

    @property
    def kept(self) -> Encoder:
        """The encoder that would be the result now."""
        return self.encoder if self.average is None else self.average.module

    def remember_as_best(self) -> None:
        """Keep the present weights as the result, whatever comes after."""
        self._best = {key: value.clone() for key, value in self.kept.state_dict().items()}

    def result(self) -> Encoder:
        """The trained encoder: the best, if one was remembered."""
        encoder = self.kept
        if self._best:
            encoder.load_state_dict(self._best)
        return encoder.requires_grad_(True)

    @torch.no_grad()
    def refresh_statistics(self, encoder: Encoder, task: Task) -> None:
        """Compute the batch statistics of an encoder anew, from images varied as at the end of a training."""
        self.begin(_seed_of(task.epochs, self.config))
        examples = task.batches.epoch(task.epochs)[: math.ceil(STATISTICS_IMAGES / task.batches.batch_size)]
        images = (task.batch(batch.to(task.images.device))[0] for batch in examples)
        with self._autocast(task.images.device):
            update_bn((self.augment(batch, 1.0) for batch in images), encoder)

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors, for ``torch.load(weights_only=True)``."""
        return {
            "encoder": self.encoder.state_dict(),
            "head": self.head.state_dict(),
            "objective": self.objective.state_dict(),
            "rotation": self.rotation.state_dict() if self.rotation else {},
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.module.state_dict() if self.average else {},
            "best": self._best,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave; raises KeyError, RuntimeError, ValueError or TypeError for other data."""
        self.encoder.load_state_dict(state["encoder"])
        self.head.load_state_dict(state["head"])
        self.objective.load_state_dict(state["objective"])
        if self.rotation:
            self.rotation.load_state_dict(state["rotation"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.module.load_state_dict(state["average"])
        self._best = state["best"]


def _head(dim: int, width: int) -> nn.Module:
    """Two layers with normalisation between, from D features to D; nothing for width 0."""
    if width == 0:
        return nn.Identity()
    return nn.Sequential(
        nn.Linear(dim, width, bias=False), nn.BatchNorm1d(width), nn.ReLU(inplace=True), nn.Linear(width, dim)
    )


# ---------------------------------------------------------------------------------------- the epochs


def _epochs_to_do(config: TrainConfig, task: Task, history: History, stop_after: int | None) -> Iterator[int]:
    """Numbers of the epochs that are left, until the validation accuracy has stopped rising."""
    begun = len(history)
    for epoch in range(begun, task.epochs):
        if since_best(_scores(history), config.min_delta) >= config.patience > 0:
            return
        if stop_after is not None and epoch - begun >= stop_after:
            raise TrainingError(f"Stopped after {stop_after} epochs as asked; start again to go on.")
        yield epoch


def _scores(history: History) -> list[float]:
    return [value for row in history for name, value in row.items() if name.startswith("validation_")]


def _train_epoch(epoch: int, learner: Learner, task: Task, watch: _CollapseWatch, bar: tqdm) -> dict[str, float]:
    """One pass over the examples, the last one up to the task's steps; returns the epoch's row of the history."""
    start, busy = time.perf_counter(), time.process_time()
    learner.begin(_seed_of(epoch, learner.config))
    done = epoch * task.batches.steps
    todo = task.batches.epoch(epoch)[: task.steps - done].to(task.images.device)
    values: dict[str, list[float]] = defaultdict(list)
    for number, examples in enumerate(todo):
        try:
            progress = (done + number) / task.steps
            made = step(learner, *task.batch(examples), progress, task.lesson(examples))
        except DivergedError as error:
            raise _diverged("loss", math.nan, epoch, number) from error
        _check_finite(made, epoch, number)
        watch.check(made.embeddings, epoch)
        if learner.average:
            learner.average.update(learner.encoder, done + number + 1)
        for name, value in {"loss": made.loss, **made.stats}.items():
            values[name].append(float(value))
        bar.update(len(examples))
    seconds = time.perf_counter() - start
    return {
        "epoch": epoch + 1,
        **{name: sum(each) / len(each) for name, each in values.items()},
        "learning_rate": learner.config.learning_rate
        * learning_rate_at((done + len(todo)) / task.steps, learner.config),
        "seconds": seconds,
        "cpu_seconds": time.process_time() - busy,
        "images_per_second": todo.numel() / seconds,
    }


def _seed_of(epoch: int, config: TrainConfig) -> int:
    return zlib.crc32(f"{config.seed}/{epoch}".encode())


def _check_finite(made: Step, epoch: int, number: int) -> None:
    """Stop before weights that such a step has spoilt are saved."""
    for what, value in (("loss", made.loss), ("gradient's norm", made.gradient_norm)):
        if not math.isfinite(value):
            raise _diverged(what, value, epoch, number)


def _diverged(what: str, value: float, epoch: int, number: int) -> DivergedError:
    return DivergedError(
        f"The {what} became {value} in epoch {epoch + 1}, step {number + 1}; lower the learning rate or lengthen the "
        "warm-up. The state after the last whole epoch is kept."
    )


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


def _progress_bar(config: TrainConfig, task: Task, epochs_done: int, shown: bool) -> tqdm:
    size = task.batches.batch_size
    return tqdm(
        total=task.steps * size,
        initial=epochs_done * task.batches.steps * size,
        unit="img",
        unit_scale=True,
        desc=config.recipe,
        disable=not shown,
        smoothing=0.05,
    )


def validation_accuracy(
    encoder: Encoder, train_set: ImageSet, classes: tuple[int, ...], episodes: int = 2_000
) -> float:
    """5-way 1-shot accuracy (percent) on held-out training classes, from their first 100 training images each.

    Among all of them where there are fewer than five, so that chance is higher; compare within one training. This, not
    a test class, is what recipes are chosen by.
    """
    positions = train_set.indices_of(classes)
    positions = positions[first_of_each_class(train_set.labels[positions], 100)]
    embeddings = encoder.embed(train_set.images[positions])
    ways = min(5, len(classes))
    rng = named_rng(0, "validation")
    labels = train_set.labels[positions]
    queries = min(15, int(labels.unique(return_counts=True)[1].min()) - 1)
    return few_shot_accuracy(embeddings, labels, rng, ways=ways, shots=1, queries=queries, episodes=episodes).value
