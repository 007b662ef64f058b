"""Imprinted weights: a classifier on frozen embeddings that learns one more class from a few shots.

A cosine classifier scores an image by the cosines between its embedding and one weight vector a class. The mean
embedding of a class at unit length is a weight vector at once: no training is needed to add a class (Qi, Brown
& Lowe, *Low-shot learning with imprinted weights*, CVPR 2018). What comes after, :func:`fine_tune`, moves the weights
so that the new class is told from its neighbours; the encoder stays as it is.

Classifiers are on the CPU; embeddings that are given to one may lie on any device, and their gradients are not kept.
Many classifiers that start from one are tuned together, as one batch of tensors: R *replicas*, each with its own shots.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch.nn import functional as F

from siamese_utils.data.arrays import (
    as_classes,
    as_embeddings,
    as_label,
    as_labels,
    as_number,
    as_positive,
    as_row,
    as_tensor,
    labelled,
)
from siamese_utils.encoders.checkpoints import read_tensors
from siamese_utils.errors import CheckpointError, ConfigError, SamplingError, ShapeError, reason, shown
from siamese_utils.system.config import Config, Count, Natural, NotNegative, Positive, Share
from siamese_utils.system.files import as_path, atomic_path

# ------------------------------------------------------------------------------------- the embeddings


@dataclass(frozen=True, eq=False)
class Whitening:
    """A linear map after which images of one class scatter alike in all directions.

    Directions in which images of a class differ much say little about the class. After the map a mean at unit length is
    the weight vector of linear discriminant analysis up to its length (Fisher, 1936; shared covariance). The covariance
    comes from classes with many images, so that a class with a single shot profits from it.

    Attributes:
        matrix: float32 (D, D), symmetric.
    """

    matrix: torch.Tensor

    @classmethod
    def fit(cls, z: torch.Tensor, labels: torch.Tensor, shrinkage: float = 0.3) -> Whitening:
        """Fit to embeddings of known classes.

        Args:
            z: float32 (N, D).
            labels: int64 (N,), at least one class with two images.
            shrinkage: variance added in every direction, as a multiple of the mean variance; there are more directions
                than can be measured well.

        Raises:
            ShapeError: embeddings and labels do not fit.
            SamplingError: no class has two images.
            ConfigError: the shrinkage is not positive.
        """
        z, labels = _labelled(z, labels)
        shrinkage = as_positive("Whitening needs a positive shrinkage: it", shrinkage)
        classes, rows, counts = labels.unique(return_inverse=True, return_counts=True)
        if int(counts.max()) < 2:
            raise SamplingError("Whitening needs a class with two images or more, to see how images of a class differ.")
        z = z.double()
        means = torch.zeros(len(classes), z.shape[1], dtype=torch.float64).index_add_(0, rows, z) / counts[:, None]
        residuals = z - means[rows]
        covariance = residuals.T @ residuals / (len(z) - len(classes))
        spread = covariance.trace() / len(covariance)
        if not spread > 0:
            raise SamplingError("All images of each class have the same embedding; whitening has nothing to measure.")
        values, vectors = torch.linalg.eigh(covariance / spread + shrinkage * torch.eye(len(covariance)))
        return cls((vectors @ torch.diag(values.rsqrt()) @ vectors.T).float())

    def __call__(self, z: torch.Tensor) -> torch.Tensor:
        """Whitened embeddings at unit length: float32 (..., D) to (..., D).

        Raises:
            ShapeError: embeddings of another size.
        """
        z = as_tensor("Embeddings", z).detach().cpu()
        if not z.ndim or z.shape[-1] != len(self.matrix) or not z.is_floating_point():
            raise ShapeError(
                f"This whitening takes float embeddings (..., {len(self.matrix)}), not {z.dtype} {tuple(z.shape)}."
            )
        z = z.to(self.matrix.dtype)
        return F.normalize(z @ self.matrix, dim=-1)


# ------------------------------------------------------------------------------------ the classifier


@dataclass(frozen=True, eq=False)
class CosineClassifier:
    """Scores of classes: ``scale * cosine(weight, embedding) + bias``.

    Attributes:
        weights: float32 (C, D), one row of unit length a class.
        labels: the class of each row, C different whole numbers.
        scale: inverse temperature of the softmax; it changes probabilities, and with zero biases no prediction.
        bias: float32 (C,), zero for classes learned from many images.

    Raises:
        ShapeError: parts that do not fit together.
        ConfigError: a scale that is not positive.
    """

    weights: torch.Tensor
    labels: tuple[int, ...]
    scale: float = 16.0
    bias: torch.Tensor | None = None

    def __post_init__(self) -> None:
        weights = as_embeddings(self.weights, "Weights").detach().cpu().float()
        labels = tuple(as_labels(self.labels).tolist())
        if len(weights) != len(labels) or not len(weights):
            raise ShapeError(
                f"A cosine classifier takes one weight row a class, not {tuple(weights.shape)} for {len(labels)}."
            )
        if len(set(labels)) != len(labels):
            raise ShapeError("A class of a cosine classifier is named twice; give every row a class of its own.")
        as_positive("The scale of a cosine classifier", self.scale)
        bias = torch.zeros(len(weights)) if self.bias is None else as_row("Biases", self.bias).float()
        if bias.shape != weights.shape[:1]:
            raise ShapeError(f"A cosine classifier takes one bias a class, not {tuple(bias.shape)}.")
        object.__setattr__(self, "weights", F.normalize(weights, dim=1))
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "bias", bias)

    @classmethod
    def from_means(cls, z: torch.Tensor, labels: torch.Tensor, scale: float = 16.0) -> CosineClassifier:
        """The classifier whose weights are the mean embeddings of the classes: all of them imprinted.

        Args:
            z: float32 (N, D), rows of unit length.
            labels: int64 (N,).
            scale: see the class.

        Raises:
            ShapeError: embeddings and labels do not fit.
        """
        z, labels = _labelled(z, labels)
        z, classes = z.float(), labels.unique()  # ascending
        return cls(class_means(z, torch.searchsorted(classes, labels), len(classes)), tuple(classes.tolist()), scale)

    def scores(self, z: torch.Tensor) -> torch.Tensor:
        """Scores of embeddings, float32 (N, D) with rows of unit length: float32 (N, C).

        The length of a row is not looked at; rows of another length have scores that are no cosines.

        Raises:
            ShapeError: embeddings of another size or type than the weights.
        """
        z = as_embeddings(z, columns=self.weights.shape[1]).detach().cpu().float()
        return self.scale * z @ self.weights.T + self.bias

    def predict(self, z: torch.Tensor) -> torch.Tensor:
        """The class with the highest score: float32 (N, D), rows of unit length, to int64 (N,)."""
        return torch.tensor(self.labels)[self.scores(z).argmax(dim=1)]

    def probabilities(self, z: torch.Tensor) -> torch.Tensor:
        """Softmax of the scores: float32 (N, D), rows of unit length, to (N, C), rows that sum to one."""
        return self.scores(z).softmax(dim=1)

    def imprint(self, shots: torch.Tensor, label: int) -> CosineClassifier:
        """The same classifier with one more class, whose weight is the mean of its shots at unit length.

        Equations 3 and 4 of Qi, Brown & Lowe (2018). To add several classes, imprint one after the other.

        Args:
            shots: float32 (K, D), embeddings of K >= 1 images of the class, rows of unit length.
            label: a class that the classifier does not have yet.

        Raises:
            ShapeError: shots of another shape.
            SamplingError: the class is there already.
        """
        shots, label = (
            as_embeddings(shots, "Shots are the embeddings of images; they", self.weights.shape[1]),
            as_label(label),
        )
        shots = shots.detach().cpu().float()
        if not len(shots):
            raise ShapeError("Shots are the embeddings of one image or more, but there is none.")
        if label in self.labels:
            raise SamplingError(f"The classifier has a class {label} already; give the new one another number.")
        return CosineClassifier(
            torch.cat([self.weights, imprinted(shots)[None]]),
            (*self.labels, label),
            self.scale,
            torch.cat([self.bias, torch.zeros(1)]),
        )

    def fine_tune(
        self,
        old: tuple[torch.Tensor, torch.Tensor],
        shots: tuple[torch.Tensor, torch.Tensor],
        config: FineTuneConfig | None = None,
    ) -> CosineClassifier:
        """Tune the weights after classes were imprinted.

        Args:
            old: embeddings float32 (M, D) and labels int64 (M,) of images of the classes learned before.
            shots: the same of the shots of the classes added last.
            config: see ``FineTuneConfig``.

        Raises:
            ShapeError: embeddings and labels do not fit.
            SamplingError: a class has no image, or a label is not among the classifier's.
        """
        row_of = {label: row for row, label in enumerate(self.labels)}
        parts = []
        if not all(isinstance(part, (tuple, list)) and len(part) == 2 for part in (old, shots)):
            raise ShapeError("Images are given as a pair: their embeddings, and their labels.")
        for z, labels in (old, shots):
            z, labels = _labelled(z, labels, self.weights.shape[1])
            if strange := set(labels.tolist()) - set(row_of):
                raise SamplingError(f"The classifier has no class {min(strange)}; imprint it first.")
            parts.append((z.float(), torch.tensor([row_of[label] for label in labels.tolist()])))
        (old_z, old_rows), (shot_z, shot_rows) = parts
        novel = shot_rows.unique()
        first = len(self.labels) - len(novel)
        if novel.tolist() != list(range(first, len(self.labels))) or first == 0:
            raise SamplingError("Fine-tuning takes shots of the classes added last, all of them, and no others.")
        tuned_old, tuned_novel = fine_tune(
            self.weights[:first],
            self.weights[None, first:],
            (old_z, old_rows),
            shot_z[None],
            shot_rows - first,
            config,
            scale=self.scale,
        )
        return dataclasses.replace(self, weights=torch.cat([tuned_old[0], tuned_novel[0]]))

    def within_budget(
        self, z: torch.Tensor, labels: torch.Tensor, added: Iterable[int], budget: float
    ) -> CosineClassifier:
        """The same classifier, as ready to name the added classes as a given loss of old accuracy allows.

        One bias, shared by the added classes, is raised (or lowered) until it would cost the old classes ``budget``
        percentage points of accuracy on held-out images of theirs. No image of an added class is needed.

        Args:
            z: float32 (N, D), embeddings of held-out images of old classes.
            labels: int64 (N,).
            added: the added classes.
            budget: percentage points.

        Raises:
            ShapeError: embeddings and labels do not fit.
            SamplingError: no class is added, or none is old.
        """
        wanted = set(as_classes(added, SamplingError))
        is_added = torch.tensor([label in wanted for label in self.labels])
        if not is_added.any() or is_added.all():
            raise SamplingError("Name some classes of the classifier as added, and leave some as old.")
        z, labels = _labelled(z, labels, self.weights.shape[1])
        budget = as_number("The budget", budget)
        scores = self.scale * z.float() @ self.weights.T
        best_old, old_rows = scores[:, ~is_added].max(dim=1)
        old_labels = torch.tensor([label for label in self.labels if label not in wanted])
        lead = best_old - scores[:, is_added].amax(dim=1)
        bias = float(bias_for_budget(lead[None], (old_labels[old_rows] == labels)[None], budget))
        return dataclasses.replace(self, bias=torch.where(is_added, bias, 0.0))


CLASSIFIER_FORMAT = "siamese_utils.classifier/1"


def save_classifier(path: str | Path, classifier: CosineClassifier, whitening: Whitening) -> None:
    """Write a classifier and the whitening before it as one safetensors file.

    Args:
        path: ends in ``.safetensors``; missing folders are made.
        classifier: on whitened embeddings.
        whitening: made for the same encoder.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {"weights": classifier.weights, "bias": classifier.bias, "whitening": whitening.matrix}
    metadata = {
        "format": CLASSIFIER_FORMAT,
        "labels": json.dumps(classifier.labels),
        "scale": json.dumps(classifier.scale),
    }
    try:
        with atomic_path(Path(path)) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"Cannot write {path} ({reason(error)}); choose a folder with room and write access."
        ) from error


def load_classifier(path: str | Path) -> tuple[CosineClassifier, Whitening]:
    """Load what ``save_classifier`` wrote.

    Raises:
        CheckpointError: the file is missing, damaged, or holds something else.
    """
    path = as_path(path, CheckpointError)
    if not path.is_file():
        raise CheckpointError(f"There is no classifier {path}; make one or check the path.")
    try:
        metadata, tensors = read_tensors(path)
    except (SafetensorError, OSError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged or not a safetensors file; fetch it again.") from error
    if metadata.get("format") != CLASSIFIER_FORMAT:
        raise CheckpointError(f"{path} was not written by save_classifier; use one of its files.")
    if "content" in metadata:
        raise CheckpointError(f"{path} was written by OneShotClassifier.save; read it with OneShotClassifier.load.")
    try:
        labels, scale = tuple(json.loads(metadata["labels"])), float(json.loads(metadata["scale"]))
        classifier = CosineClassifier(tensors["weights"], labels, scale, tensors["bias"])
        matrix = tensors["whitening"]
        if matrix.shape != (classifier.weights.shape[1],) * 2 or not all(t.isfinite().all() for t in tensors.values()):
            raise ValueError("parts that do not fit")
    except (KeyError, TypeError, ValueError, ShapeError, ConfigError) as error:
        raise CheckpointError(f"{path} does not hold a whole classifier ({error}); fetch it again.") from error
    return classifier, Whitening(matrix.float())


def _labelled(z: Any, labels: Any, columns: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (N, D) and their labels, int64 (N,), on the CPU, where classifiers are; see ``labelled``."""
    z, labels = labelled("A classifier", z, labels, columns)
    return z.detach().cpu(), labels.detach().cpu()


def imprinted(shots: torch.Tensor) -> torch.Tensor:
    """Weight vector of a class: the mean of its shots at unit length; float32 (..., K, D) to (..., D)."""
    return F.normalize(F.normalize(shots, dim=-1).mean(dim=-2), dim=-1)


def class_means(z: torch.Tensor, rows: torch.Tensor, count: int) -> torch.Tensor:
    """Mean embedding of each class at unit length: float32 (N, D) with class numbers int64 (N,) to (count, D)."""
    return F.normalize(torch.zeros(count, z.shape[1]).index_add_(0, rows, z), dim=1)


def bias_for_budget(lead: torch.Tensor, right: torch.Tensor, budget: float) -> torch.Tensor:
    """The highest bias of the added classes that costs the old ones no more than a budget.

    Args:
        lead: float32 (R, N), how far the best old class is ahead of the best added one, on images of old classes.
        right: bool (R, N), whether that best old class is the right one; other images have nothing to lose.
        budget: percentage points of the N images.

    Returns:
        float32 (R,), half-way between the last lead that is given up and the first that is kept.

    Raises:
        ConfigError: a budget below zero, or one that gives up every image.
    """
    allowed = math.floor(min(max(budget, 0), 100) / 100 * lead.shape[1] + 1e-9)
    if budget < 0 or bool((right.sum(dim=1) <= allowed).any()):
        raise ConfigError(
            f"A budget of {budget} percentage points of {lead.shape[1]} images leaves nothing to keep; choose 0 or "
            "more, and less than the accuracy."
        )
    leads = torch.where(right, lead, math.inf).sort(dim=1).values
    kept = leads[:, allowed]
    lost = leads[:, allowed - 1] if allowed else kept - 2e-3  # with nothing to give up, just below the smallest lead
    return (lost + kept) / 2


# --------------------------------------------------------------------------------------- fine-tuning


class FineTuneConfig(Config):
    """How weights are tuned after imprinting.

    Attributes:
        steps: steps of Adam.
        rate: its learning rate, falling along a cosine to zero.
        per_class: images of each old class a step, drawn at random; the shots are all used in every step.
        frozen_share: share of the steps, at the beginning, in which the old classes' weights are frozen.
        adapt: how fast the weight of an added class in the loss follows its need, a factor exp(adapt * gap) a step,
            where the gap is how much surer the classifier is of old images than of the class's shots (mean probability
            of the right class); 0 weighs every class alike.
        largest_weight: that weight stays between 1 / largest_weight and largest_weight.
        anchor: pull of the weights back to where they started, as a factor of their squared distance.
        seed: seeds the draw of old images.
    """

    steps: Count = 100
    rate: Positive = 0.003
    per_class: Count = 6
    frozen_share: Share = 0.5
    adapt: NotNegative = 0.1
    largest_weight: Annotated[float, Field(ge=1)] = 10.0
    anchor: NotNegative = 0.0
    seed: Natural = 0


def fine_tune(
    old: torch.Tensor,
    novel: torch.Tensor,
    old_images: tuple[torch.Tensor, torch.Tensor],
    shots: torch.Tensor,
    shot_rows: torch.Tensor,
    config: FineTuneConfig | None = None,
    *,
    scale: float = 16.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tune the weights of R classifiers at once, each with shots of its own.

    The loss is a class-weighted cross-entropy: every old class counts once, however many images it has, and each added
    class as much as it needs to be as sure of its shots as the old classes are of their images. Without the
    weights the few shots drown among the old images; with constant ones they are learned by heart at the expense of
    the neighbours. In the first part of the steps only the added classes move, which cannot harm the old ones' order.

    Args:
        old: float32 (C, D), weights of the old classes, from which all replicas start.
        novel: float32 (R, N, D), weights of the N added classes of each replica.
        old_images: embeddings float32 (M, D) and class numbers int64 (M,) below C.
        shots: float32 (R, S, D), embeddings of the shots of all N classes.
        shot_rows: int64 (S,) below N, the added class of each shot; every class has a shot.
        config: see ``FineTuneConfig``.
        scale: inverse temperature of the softmax.

    Returns:
        Tuned weights, float32 (R, C, D) and (R, N, D), at unit length.

    Raises:
        SamplingError: a class has no image.
    """
    config = FineTuneConfig() if config is None else config
    if not isinstance(config, FineTuneConfig):
        raise ConfigError(f"Fine-tuning takes a FineTuneConfig, not {shown(config)}.")
    replicas, added, _ = novel.shape
    classes = len(old)
    old_z, old_rows = old_images
    counts = torch.bincount(old_rows, minlength=classes)
    shot_counts = torch.bincount(shot_rows, minlength=added)
    if bool((counts == 0).any()) or len(counts) > classes or bool((shot_counts == 0).any()) or len(shot_counts) > added:
        raise SamplingError("Fine-tuning needs an image of every class of the classifier, and of no other class.")
    order, starts = old_rows.argsort(stable=True), counts.cumsum(0) - counts
    rng = np.random.default_rng([config.seed, 0xF17E])
    targets = torch.arange(classes).repeat_interleave(config.per_class)
    to_class = F.one_hot(shot_rows, added).T / shot_counts[:, None]  # (N, S): mean over the shots of a class
    start_old, start_novel = old.expand(replicas, -1, -1).contiguous(), F.normalize(novel, dim=-1)
    tuned_old, tuned_novel = start_old.clone().requires_grad_(), start_novel.clone().requires_grad_()
    optimizer = torch.optim.Adam([tuned_novel], lr=config.rate)
    need = torch.ones(replicas, added)
    frozen_steps = round(config.frozen_share * config.steps)
    for step in range(config.steps):
        frozen = step < frozen_steps
        if step == frozen_steps:
            optimizer.add_param_group({"params": [tuned_old], "lr": config.rate})
        for group in optimizer.param_groups:
            group["lr"] = config.rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        drawn = torch.from_numpy(rng.integers(0, counts[:, None].numpy(), (classes, config.per_class)))
        batch = old_z[order[(starts[:, None] + drawn).reshape(-1)]]
        weights = F.normalize(torch.cat([tuned_old.detach() if frozen else tuned_old, tuned_novel], dim=1), dim=-1)
        old_log = (scale * weights @ batch.T).log_softmax(dim=1)  # (R, C + N, B)
        shot_log = (scale * shots @ weights.transpose(1, 2)).log_softmax(dim=2)  # (R, S, C + N)
        right_old = old_log.gather(1, targets.expand(replicas, 1, -1)).squeeze(1)  # (R, B)
        right_shot = shot_log.gather(2, (classes + shot_rows).expand(replicas, -1)[..., None]).squeeze(2)  # (R, S)
        by_class = right_shot @ to_class.T  # (R, N)
        likelihood = (classes * right_old.mean(dim=1) + (need * by_class).sum(dim=1)) / (classes + need.sum(dim=1))
        moved = (tuned_novel - start_novel).square().sum() + (0 if frozen else (tuned_old - start_old).square().sum())
        loss = config.anchor * moved - likelihood.sum()  # replicas share no weight, so a sum tunes each on its own
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            gap = right_old.exp().mean(dim=1, keepdim=True) - right_shot.exp() @ to_class.T
            need = (need * (config.adapt * gap).exp()).clamp(1 / config.largest_weight, config.largest_weight)
    return F.normalize(tuned_old.detach(), dim=-1), F.normalize(tuned_novel.detach(), dim=-1)


# --------------------------------------------------------------------------------------- measurement


@dataclass(frozen=True, eq=False)
class Leads:
    """What predictions of R classifiers depend on once only the added classes' shared bias is left to choose.

    Attributes:
        old: float32 (R, N), lead of the best old class over the best added one, on images of old classes.
        old_right: bool (R, N), whether that best old class is the right one.
        novel: float32 (R, M), the same lead on images of added classes.
        novel_right: bool (R, M), whether the best *added* class is the right one.
    """

    old: torch.Tensor
    old_right: torch.Tensor
    novel: torch.Tensor
    novel_right: torch.Tensor

    def accuracies(self, bias: torch.Tensor | float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Accuracy on old and on added classes, float64 (R,) each, percent; bias a number or float32 (R,)."""
        bias = torch.as_tensor(bias, dtype=torch.float32).reshape(-1, 1)
        old = (self.old_right & (self.old >= bias)).double().mean(dim=1)
        novel = (self.novel_right & (self.novel < bias)).double().mean(dim=1)
        return 100 * old, 100 * novel


def leads(
    old: torch.Tensor,
    novel: torch.Tensor,
    old_images: tuple[torch.Tensor, torch.Tensor],
    novel_images: tuple[torch.Tensor, torch.Tensor],
    scale: float = 16.0,
) -> Leads:
    """Leads of R classifiers on images of old and of added classes.

    Args:
        old: float32 (C, D) or (R, C, D), weights of the old classes.
        novel: float32 (R, N, D), weights of the added classes.
        old_images: embeddings float32 (M, D) and class numbers int64 (M,) below C.
        novel_images: embeddings float32 (M', D) and class numbers int64 (M',) below N, or (R, M', D) and (R, M').
        scale: of the scores.
    """
    found = []
    for (z, rows), own in ((old_images, "old"), (novel_images, "novel")):
        to_old, old_row = (scale * z @ old.transpose(-1, -2)).max(dim=-1)
        to_novel, novel_row = (scale * z @ novel.transpose(-1, -2)).max(dim=-1)
        right = (old_row if own == "old" else novel_row) == rows
        found += [to_old - to_novel, right.expand(to_novel.shape)]
    return Leads(*found)


def overall(old: torch.Tensor, novel: torch.Tensor, classes: int, added: int) -> torch.Tensor:
    """Accuracy over all classes, each counting alike: shapes and units as given."""
    return (classes * old + added * novel) / (classes + added)


def harmonic_mean(old: torch.Tensor, novel: torch.Tensor) -> torch.Tensor:
    """2 a b / (a + b), zero where both are: high only if both are."""
    return torch.where(old + novel > 0, 2 * old * novel / (old + novel).clamp(min=1e-12), 0.0)


def nearest_classes(
    weight: torch.Tensor, old: torch.Tensor, names: Sequence[str], count: int = 3
) -> list[tuple[str, float]]:
    """The old classes whose weights are closest to a new one: name and cosine, closest first."""
    cosine = (F.normalize(weight, dim=0) @ F.normalize(old, dim=1).T).clamp(-1, 1)
    best = cosine.topk(min(count, len(old)))
    return [(names[row], float(value)) for value, row in zip(best.values, best.indices.tolist(), strict=True)]
