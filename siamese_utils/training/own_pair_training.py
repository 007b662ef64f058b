"""Train an encoder on pairs of one's own images that are called the same or different, and test it on others."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from siamese_utils.data.sampling import named_rng
from siamese_utils.encoders.checkpoints import save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.evaluation.calibration import Verdict, fit_verdict
from siamese_utils.evaluation.estimates import Estimate, bootstrap_estimate
from siamese_utils.evaluation.pairs import auc
from siamese_utils.recognition.embedding import embed_files
from siamese_utils.system.files import as_path
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import Judge, train_task
from siamese_utils.training.losses import ObjectiveOutput, Term, checked_batch, contrastive, cosine_distance
from siamese_utils.training.own_pairs import PairList, PairParts, part_pairs, read_pairs
from siamese_utils.training.own_run import (
    Compared,
    OwnTraining,
    Tell,
    as_stored,
    beside,
    checked_out,
    content_of,
    planned,
    read_images,
    workplace,
    worth,
)
from siamese_utils.training.own_settings import MOST_PASSES, OwnSettings, lasting, scaled
from siamese_utils.training.recipes import recipe
from siamese_utils.training.task import Task


class StatedPairs(nn.Module):
    """Contrastive loss over the pairs of a batch of which it is known whether they are the same.

    Of two images of which no line says anything, nor follows from others, nothing is learned.

    Args:
        groups: int64 (P, 2), pairs of groups that are called different.
        count: number of groups.
        margin: see ``ContrastiveObjective``.
    """

    different: torch.Tensor

    def __init__(self, groups: NDArray[np.int64], count: int, margin: float = 0.5) -> None:
        super().__init__()
        self.count, self.margin = count, margin
        keys = np.concatenate([groups @ (count, 1), groups @ (1, count)])
        self.register_buffer("different", torch.from_numpy(np.unique(keys)), persistent=False)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, progress: float = 0.0) -> ObjectiveOutput:
        """Loss of a batch: embeddings float (B, D), groups int64 (B,).

        Raises:
            ShapeError: embeddings or groups of another shape or type.
            DivergedError: an embedding is not finite.
            SamplingError: the batch has no same or no different pairs.
        """
        embeddings, labels = checked_batch(embeddings, labels)
        same = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        different = torch.isin(labels[:, None] * self.count + labels, self.different)
        return contrastive(cosine_distance(embeddings), same, different, self.margin)


class PairBatches:
    """Batches of pairs of images, as many same as different ones; an epoch depends on its number and the arguments.

    Args:
        pairs: int64 (P, 2), positions of images.
        same: bool (P,).
        batch_size: images at most.
        seed: of their order.
        least: images of an epoch at least, by as many passes over the pairs as it takes.

    Attributes:
        batch_size: images.
        steps: batches an epoch.
    """

    def __init__(
        self, pairs: NDArray[np.int64], same: NDArray[np.bool_], batch_size: int, seed: int, least: int = 0
    ) -> None:
        self._kinds, self._seed = (pairs[same], pairs[~same]), seed
        most = max(map(len, self._kinds))
        self._half = min(batch_size // 4, most)
        self.batch_size = 4 * self._half
        self.steps = max(math.ceil(most / self._half), math.ceil(least / self.batch_size))

    def epoch(self, epoch: int) -> torch.Tensor:
        """Positions of images, int64 (steps, batch_size); the rarer kind of pair comes again as often as needed."""
        rng = named_rng(self._seed, f"pairs of epoch {epoch}")
        needed = self.steps * self._half
        chosen = []
        for kind in self._kinds:
            rounds = [rng.permutation(len(kind)) for _ in range(math.ceil(needed / len(kind)))]
            chosen.append(kind[np.concatenate(rounds)[:needed]].reshape(self.steps, 2 * self._half))
        return torch.from_numpy(np.concatenate(chosen, axis=1))


def train_pairs(
    table: str | Path,
    out: str | Path,
    settings: OwnSettings | None = None,
    *,
    runs: str | Path,
    other: Encoder,
    other_name: str,
    skip_unreadable: bool = False,
    again: bool = False,
    device: str = "auto",
    progress: bool = True,
    tell: Tell = lambda _: None,
    stop_after: int | None = None,
) -> OwnTraining:
    """Train an encoder on the pairs of a CSV (see ``read_pairs``).

    Images are set aside for validation, by which the best epoch and the threshold of "same" are chosen, and for the
    report (see ``part_pairs``). Arguments, resumption and errors are those of ``train_images``.

    Raises:
        DataError: see ``read_pairs`` and ``read_images``.
        SplitError: too few pairs.
        ConfigError, TrainingError, CheckpointError: settings, place or training of the wrong kind.
    """
    settings, path, listed = settings or OwnSettings(), checked_out(out, again), as_path(table)
    pairs = read_pairs(listed)
    images, faults = read_images(pairs.files, settings.size, skip_unreadable=skip_unreadable)
    row_of = np.cumsum(~np.isin(np.arange(len(pairs.files)), list(faults))) - 1
    pairs = pairs.without(list(faults))
    parts = part_pairs(pairs, settings.seed)
    learned = _Learned(pairs, parts, images, row_of)
    held = _Held(pairs, parts, images, row_of)
    identity = {
        "settings": settings.to_json(),
        "contents": content_of(images),
        "pairs": [*map(np.ndarray.tolist, (pairs.first, pairs.second, pairs.same))],
    }
    with workplace(Path(runs), listed.stem, identity) as place:
        what = f"{len(parts.learned):,} pairs of {len(learned.images):,} images"
        config = planned(place, settings, learned.config(settings), 2, device, tell, what)
        trained = train_task(
            config,
            learned.task(config),
            Judge("validation_pair_auc", held.validation_auc),
            objective=learned.objective(),
            run_dir=place,
            device=device,
            progress=progress,
            stop_after=stop_after,
        )
        encoder = as_stored(trained.encoder, place)
        results, verdict = held.compare(encoder, other)
        sentence = _sentence(results, parts, path, other_name)
        sentence += f" Of {other_name}: {note}" if (note := getattr(other, "note", "")) else ""
        info = {
            "recipe": config.recipe,
            "config": config.to_json(),
            "settings": settings.to_json(),
            "pairs": {"learned": len(parts.learned), "validation": len(parts.validation), "report": len(parts.report)},
            "seconds": trained.seconds,
            "epochs": len(trained.history),
            **verdict.info,
            "results": [each.plain for each in results],
            "compared_with": other_name,
            "sentence": sentence,
        }
        save_encoder(encoder, path, info)
    return OwnTraining(path, encoder, results, sentence, info)


class _Learned:
    """The pairs that are learned, with images and groups numbered from 0."""

    def __init__(self, pairs: PairList, parts: PairParts, images: torch.Tensor, row_of: NDArray[np.int64]) -> None:
        ends = np.stack([pairs.first, pairs.second], axis=1)[parts.learned]
        used, position = np.unique(ends, return_inverse=True)
        self.groups = np.unique(pairs.groups[used], return_inverse=True)[1].astype(np.int64)
        self.pairs, self.same = position.reshape(ends.shape), pairs.same[parts.learned]
        self.images = images[torch.from_numpy(row_of[used])]

    def config(self, settings: OwnSettings) -> TrainConfig:
        """The recipe for pairs, with its usual length."""
        base = recipe(settings.recipe)
        terms, name = (Term("contrastive"),), f"{base.recipe}-pairs"
        # Pairs know of no image that is half of one group and half of another.
        config = dataclasses.replace(scaled(base, settings), terms=terms, mixing="", recipe=name)
        batches = PairBatches(self.pairs, self.same, config.batch_size, settings.seed)
        a_pass = batches.steps * batches.batch_size
        usual = max(base.epochs * a_pass, min(base.least_images, MOST_PASSES * len(self.images)))
        config = dataclasses.replace(config, batch_size=batches.batch_size)
        return lasting(config, settings.epochs * a_pass if settings.epochs else usual)

    def task(self, config: TrainConfig) -> Task:
        """For the loop."""
        count = len(self.images)
        batches = PairBatches(self.pairs, self.same, config.batch_size, config.seed, config.epoch_images)
        return Task(
            images=self.images,
            rows=torch.arange(count),
            turns=torch.zeros(count, dtype=torch.int64),
            labels=torch.from_numpy(self.groups),
            classes=tuple(range(int(self.groups.max()) + 1)),
            validation_classes=(),
            held_out=torch.empty(0, dtype=torch.int64),
            batches=batches,
            steps=config.most_images // batches.batch_size,
        )

    def objective(self) -> StatedPairs:
        """Of these pairs."""
        return StatedPairs(self.groups[self.pairs[~self.same]], int(self.groups.max()) + 1)


class _Held:
    """The pairs that are not learned."""

    def __init__(self, pairs: PairList, parts: PairParts, images: torch.Tensor, row_of: NDArray[np.int64]) -> None:
        self.pairs, self.parts, self.images, self.row_of = pairs, parts, images, row_of
        held = np.concatenate([parts.validation, parts.report])
        self.used = np.unique(np.concatenate([pairs.first[held], pairs.second[held]]))

    def validation_auc(self, encoder: Encoder) -> float:
        """Area under the ROC curve on the validation pairs, percent."""
        return auc(*self._scored(self._embed(encoder), self.parts.validation))

    def compare(self, encoder: Encoder, other: Encoder) -> tuple[tuple[Compared, ...], Verdict]:
        """Accuracy and AUC of both encoders, each at its own threshold, and the verdict of the first."""
        files = [self.pairs.files[position] for position in self.used]
        tables = [self._embed(encoder), embed_files(other, files, progress="images to compare on").z]
        verdicts = [_verdict(*self._scored(z, self.parts.validation)) for z in tables]
        scores = [self._scored(z, self.parts.report)[0] for z in tables]
        same = torch.from_numpy(self.pairs.same[self.parts.report])
        right = [score > verdict.threshold for score, verdict in zip(scores, verdicts)]
        found = (
            _compared("accuracy", _balanced_accuracy, right, same),
            _compared("area under the ROC curve", auc, scores, same),
        )
        return found, verdicts[0]

    def _embed(self, encoder: Encoder) -> torch.Tensor:
        return encoder.embed(self.images[torch.from_numpy(self.row_of[self.used])])

    def _scored(self, z: torch.Tensor, part: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        a, b = (np.searchsorted(self.used, ends[part]) for ends in (self.pairs.first, self.pairs.second))
        return (z[a] * z[b]).sum(dim=1).numpy(), self.pairs.same[part]


def _verdict(score: NDArray[np.float32], same: NDArray[np.bool_]) -> Verdict:
    return fit_verdict(torch.from_numpy(score[same]), torch.from_numpy(score[~same]))


def _balanced_accuracy(called_same: NDArray[Any], same: NDArray[np.bool_]) -> float:
    """Mean of the shares called right among same and among different pairs, in percent."""
    return 50 * float(called_same[same].mean() + 1 - called_same[~same].mean())


def _compared(
    name: str, statistic: Callable[..., float], values: Sequence[NDArray[Any]], same: torch.Tensor
) -> Compared:
    """A statistic of both encoders and its difference, resampled by the same pairs."""
    rows = torch.arange(len(same), dtype=torch.float64)
    first, second = (np.asarray(each, dtype=np.float64) for each in values)

    def estimate(of: Callable[..., float]) -> Estimate:
        return bootstrap_estimate(lambda at, flags: of(at.astype(int), flags), rows, same)

    return Compared(
        name,
        estimate(lambda at, flags: statistic(first[at], flags)),
        estimate(lambda at, flags: statistic(second[at], flags)),
        estimate(lambda at, flags: statistic(first[at], flags) - statistic(second[at], flags)),
    )


def _sentence(results: Sequence[Compared], parts: PairParts, path: Path, name: str) -> str:
    """Whether it was worth it, on which pairs, and what the numbers cannot say."""
    which = f"{len(parts.report):,} pairs of images that it has not learned"
    if not parts.independent:
        which += (
            " (its best epoch and threshold were chosen by these same pairs, since there are few, which flatters it)"
        )
    across = f" {parts.across:,} pairs were left out, whose images are in two parts." if parts.across else ""
    return f"On {which}: {beside(results, name)}; {worth(name, path, results[1])}.{across}"
