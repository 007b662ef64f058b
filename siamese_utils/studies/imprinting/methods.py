"""Ways to add classes to a network that stays as it is, and what each reaches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from scipy.stats import t as student_t
from torch.nn import functional as F
from tqdm.auto import tqdm

from siamese_utils.encoders.imprinting import (
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
)
from siamese_utils.errors import unknown
from siamese_utils.evaluation.estimates import Estimate, share_estimate
from siamese_utils.studies.imprinting.base import Labelled, Parts, chosen_classes, draw_shots, groups
from siamese_utils.studies.imprinting.settings import ImprintingConfig

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

    data: Parts
    old: torch.Tensor
    known: Labelled
    tuning: Labelled
    held_out: Labelled
    test: Labelled

    @classmethod
    def of(cls, data: Parts) -> Space:
        """Weights are the mean embeddings of the classes' training images."""
        numbers = torch.tensor(data.old)
        is_old = torch.isin(data.test[1], numbers)
        known, tuning, held_out, test = (
            (z, torch.searchsorted(numbers, labels))
            for z, labels in (data.known, data.tuning, data.held_out, (data.test[0][is_old], data.test[1][is_old]))
        )
        return cls(data, class_means(*known, len(numbers)), known, tuning, held_out, test)

    def right(self) -> torch.Tensor:
        """Which test images of old classes are named right while there are only old classes; bool (N,)."""
        z, rows = self.test
        return (z @ self.old.T).argmax(dim=1) == rows

    @property
    def base(self) -> float:
        """Accuracy on the old classes before any is added, percent."""
        return 100 * float(self.right().double().mean())

    def neighbours(self, names: Sequence[str]) -> dict[str, list[tuple[str, float]]]:
        """The three old classes closest to each novel one, by the means of all their images: names and cosines."""
        numbers, (z, labels) = torch.tensor(self.data.novel), self.data.shots
        means = class_means(z, torch.searchsorted(numbers, labels), len(numbers))
        old = [names[label] for label in self.data.old]
        novel = zip(self.data.novel, means, strict=True)
        return {names[label]: nearest_classes(mean, self.old, old) for label, mean in novel}


def spaces_of(data: Parts, shrinkage: float) -> dict[str, Space]:
    """The space of the embeddings, ``"plain"``, and the one that is ``"whitened"`` by images of old classes."""
    return {"plain": Space.of(data), "whitened": Space.of(data.mapped(Whitening.fit(*data.known, shrinkage)))}


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

    @classmethod
    def joined(cls, parts: Sequence[Measured]) -> Measured:
        """The runs of several as one."""
        old, novel = (
            {name: torch.cat([getattr(part, side)[name] for part in parts]) for name in BIASES}
            for side in ("old", "novel")
        )
        return cls(old, novel, torch.cat([part.curve for part in parts]))

    @property
    def for_one_point(self) -> torch.Tensor:
        """Accuracy on the added classes for one point of old accuracy; float64 (R,)."""
        return self.curve[:, LOSSES.index(1.0)]


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
    novel_rows = torch.arange(count).repeat_interleave(positions.shape[1] // count)
    base, measured = space.base, []
    for run in range(replicas):  # one at a time: scores of all runs at once would fill the memory
        own, weights = old[run] if old.ndim == 3 else old, novel[run : run + 1]
        held = leads(own, weights, space.held_out, (z[:1], novel_rows[:1]), config.scale)
        found = leads(own, weights, space.test, (z[positions[run]], novel_rows), config.scale)
        measured.append(judged(held, found, base, config.budget))
    return Measured.joined(measured)


def judged(held_out: Leads, test: Leads, base: float, budget: float) -> Measured:
    """What one run reaches: leads on held-out images give the bias, those on test images the accuracies."""
    biases = {"none": 0.0, "budget": bias_for_budget(held_out.old, held_out.old_right, budget)}
    old, novel = zip(*(test.accuracies(bias) for bias in biases.values()), strict=True)
    curve = novel_at_losses(test, base)[None]
    return Measured(dict(zip(biases, old, strict=True)), dict(zip(biases, novel, strict=True)), curve)


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


# --- tables ---------------------------------------------------------------------------------------


def over_clusters(values: torch.Tensor, clusters: torch.Tensor) -> Estimate:
    """Mean of the clusters' means, with a 95% interval from their spread (Student's t); float64 (R,), int64 (R,)."""
    counts = torch.bincount(clusters)
    means = torch.bincount(clusters, values) / counts
    number = len(means)
    half = float(means.std()) / math.sqrt(number) * float(student_t.ppf(0.975, number - 1)) if number > 1 else 0.0
    return Estimate(float(means.mean()), half, len(values))


def row(key: Mapping[str, object], metric: str, found: Estimate) -> dict[str, object]:
    """A row of a table, rounded as tables are."""
    numbers = {"value": round(found.value, 4), "ci95": round(found.ci95, 4), "n": found.n}
    return {**key, "metric": metric, **numbers}


def tables_of(
    spaces: Mapping[str, Space], config: ImprintingConfig, names: Sequence[str], *, progress: bool = False
) -> dict[str, pd.DataFrame]:
    """Add classes in every way: rows of the three tables, by their names.

    Args:
        spaces: from ``spaces_of``.
        config: of the study.
        names: of all classes.
        progress: show a progress bar.
    """
    tables: dict[str, list] = {"imprinting": [], "imprinting_classes": [], "imprinting_curves": []}
    for name, space in spaces.items():
        key = {"method": f"base, {name}", "added": 0, "shots": 0, "bias": "none"}
        tables["imprinting"].append(row(key, "old_acc", share_estimate(space.right())))
    data = spaces["plain"].data
    ways = [
        (added, method, shots)
        for added in config.at_once
        for method in METHODS
        for shots in ((data.images_a_class,) if method == "joint" else config.shots)
    ]
    for added, method, shots in tqdm(ways, unit="way", desc="imprinting", disable=not progress):
        batches, found = in_turn(method, spaces, added, shots, config)
        key = {"method": method, "added": added, "shots": shots}
        # With one class a time the classes are the sample, and the shot sets of a class one cluster of it.
        sizes = torch.tensor([len(runs) for runs in batches])
        clusters = torch.arange(len(sizes)).repeat_interleave(sizes) if added == 1 else torch.arange(int(sizes.sum()))
        whole = Measured.joined(found)
        tables["imprinting"] += _rows(key, whole, clusters, len(data.old))
        tables["imprinting_curves"] += _curve_rows(key, whole, clusters)
        if added == 1:
            own = {names[runs[0][0]]: part for runs, part in zip(batches, found, strict=True)}
            tables["imprinting_classes"] += _class_rows(method, shots, own)
    return {name: pd.DataFrame(rows) for name, rows in tables.items()}


def in_turn(
    method: str, spaces: Mapping[str, Space], added: int, shots: int, config: ImprintingConfig
) -> tuple[list[list[tuple[int, ...]]], list[Measured]]:
    """Add classes by one method from every set of shots: which ones, and what was reached.

    Args:
        method: a name in ``METHODS``.
        spaces: from ``spaces_of``.
        added: how many classes at once.
        shots: of each.
        config: of the study.

    Returns:
        the classes that each run of each batch of runs adds, and what each batch reaches; with one class at a time the
        runs of a class are a batch.
    """
    data, batches, found = spaces["plain"].data, [], []
    for batch in _batches(data, config, added):
        # All images of a class are one set of shots: the same classes are not added twice.
        runs = list(dict.fromkeys(batch)) if method == "joint" else batch
        drawn = [
            torch.stack([draw_shots(data, label, shots, number, config.base.seed) for label in run])
            for number, run in enumerate(runs)
        ]
        batches.append(runs)
        found.append(measure(method, spaces, runs, drawn, config))
    return batches, found


def _batches(data: Parts, config: ImprintingConfig, added: int) -> list[list[tuple[int, ...]]]:
    """Runs that are measured together: those of one class, or all groups of classes."""
    if added > 1:
        return [groups(data.novel, config, added)]
    chosen = chosen_classes(data.novel, config.novel_classes, config.base.seed)
    return [[(label,)] * config.shot_sets for label in chosen]


def _rows(key: Mapping[str, Any], found: Measured, clusters: torch.Tensor, classes: int) -> Iterator[dict]:
    for bias in BIASES:
        old, novel = found.old[bias], found.novel[bias]
        values = {
            "novel_acc": novel,
            "old_acc": old,
            "overall_acc": overall(old, novel, classes, key["added"]),
            "harmonic_mean": harmonic_mean(old, novel),
        }
        for metric, value in values.items():
            yield row({**key, "bias": bias}, metric, over_clusters(value, clusters))
        if len(novel) > 1:
            yield row({**key, "bias": bias}, "novel_sd", Estimate(float(novel.std()), 0.0, len(novel)))


def _class_rows(method: str, shots: int, by_class: Mapping[str, Measured]) -> Iterator[dict]:
    for bias in BIASES:
        for name, found in by_class.items():
            own = found.novel[bias]
            key = {"novel": name, "method": method, "shots": shots, "bias": bias}
            yield row(key, "novel_acc", over_clusters(own, torch.arange(len(own))))


def _curve_rows(key: Mapping[str, object], found: Measured, clusters: torch.Tensor) -> Iterator[dict]:
    for number, loss in enumerate(LOSSES):
        yield row({**key, "loss": loss}, "novel_acc", over_clusters(found.curve[:, number], clusters))
