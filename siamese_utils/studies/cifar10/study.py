"""Two towers or one: the systems of a student project on CIFAR-10, with controls for all in which they differ.

The slides compare a network of one tower with one of two (*Siamese*, though the two share no weights) that has twice
the parameters, twice to four times the updates, and two images to look at. Here each of these is varied alone, on the
same training images, and all is repeated with other seeds. A training is judged after several numbers of updates, which
were fixed beforehand; the test images are read once, when it has ended.

What is ours: batches of 64 images where theirs have 512, and for most runs a quarter of their updates (``short``);
``long`` has as many as they have, for the two systems of the question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.cifar import load_cifar10
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.encoder import count_parameters
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.experiments.store import metric_rows
from siamese_utils.experiments.study import Bench, Outcome, Run, Study
from siamese_utils.studies.cifar10.data import Learned, drawn_pairs, pixels, share_of
from siamese_utils.studies.cifar10.fit import FitConfig, Fitted, State, fit, outputs
from siamese_utils.studies.cifar10.judging import (
    Thresholds,
    named,
    over_all_pairs,
    over_all_pairs_of_classes,
    pairs_of,
    thresholds,
    told_apart,
)
from siamese_utils.studies.cifar10.networks import UNITS, PairNetwork, Plain, TwoTowers, wide
from siamese_utils.training.losses import ContrastiveObjective, TripletObjective

SEEDS, LONG_SEEDS = (0, 1, 2, 3, 4), (0, 1, 2)
UPDATES: Mapping[int, tuple[int, ...]] = {
    100: (2_450, 4_900, 9_800),
    50: (1_838, 3_675, 7_350, 11_025),
    10: (500, 1_000, 2_000, 3_675),
    1: (250, 500, 1_000, 1_838),
}
"""By share in percent: half of ours, ours, twice ours, and ours times the slides' ratio of Siamese to plain updates."""
OWN: Mapping[int, tuple[int, int]] = {share: (judged[1], judged[-1]) for share, judged in UPDATES.items()}
"""Updates of a plain network and of a Siamese one, in the slides' ratio."""
LONG_UPDATES = (9_800, 19_600, 39_200)
PAIR_BUDGET = 9_800  # batches of 64 images, or half as many of pairs
SAME_WEIGHT = 2.0  # of pairs of one class, in the slides' cross-entropy


@dataclass(frozen=True, eq=False)
class System:
    """A network and what it is shown.

    Attributes:
        make: makes it, for so many classes.
        pairs: what stands beside an image in training: nothing, itself, another of its class, each of the two, or any.
        objective: ``classes`` for cross-entropy, ``pairs``, or the name of one of the project's losses.
        members: how many are trained, each from weights and in an order of its own.
        told: in a few words.
    """

    make: Callable[[int], nn.Module]
    pairs: tuple[str, ...] = ()
    objective: str = "classes"
    members: int = 1
    told: str = ""


SYSTEMS: dict[str, System] = {
    "plain": System(Plain, members=2, told="one tower"),
    "siamese": System(TwoTowers, ("itself", "another"), told="two towers, as in the slides"),
    "wide": System(wide, told="one tower as large as two"),
    "shared": System(lambda n: TwoTowers(n, shared=True), ("itself", "another"), told="two towers, shared weights"),
    "same-image": System(TwoTowers, ("itself",), told="two towers, pairs (x, x) alone"),
    "other-image": System(TwoTowers, ("another",), told="two towers, pairs (x, another) alone"),
    "pair-head": System(lambda n: PairNetwork(), ("any",) * 30, "pairs", told="a network for pairs"),
    "contrastive": System(lambda n: Plain(UNITS), objective="contrastive", told="contrastive loss"),
    "triplet": System(lambda n: Plain(UNITS), objective="triplet", told="triplet loss"),
}
CLASSIFIERS = tuple(name for name, system in SYSTEMS.items() if system.objective == "classes")
PAIR_SYSTEMS = tuple(name for name in SYSTEMS if name not in CLASSIFIERS)


def judged_after(system: str, training: str, share: int) -> tuple[int, ...]:
    """Numbers of updates after which a system is judged."""
    if system in PAIR_SYSTEMS:
        return (pair_updates(system),)
    return LONG_UPDATES if training == "long" else UPDATES[share]


def pair_updates(system: str, budget: int = PAIR_BUDGET) -> int:
    """Updates in which a system is shown as many images as all others in the comparison of pairs."""
    return budget // 2 if SYSTEMS[system].pairs else budget


def _runs() -> list[Run]:
    """In order of their worth, so that a study that was cut short has answered what it was made for."""
    chosen = [(name, 100, "short") for name in CLASSIFIERS]
    chosen += [(name, 10, "short") for name in CLASSIFIERS]
    chosen += [(name, 100, "short") for name in PAIR_SYSTEMS]
    chosen += [(name, 1, "short") for name in CLASSIFIERS]
    chosen += [(name, 50, "short") for name in ("plain", "siamese")]
    chosen += [(name, 100, training) for training in ("long", "shifted") for name in ("plain", "siamese")]
    runs = []
    for seed in SEEDS:
        for name, share, training in chosen:
            if training == "long" and seed not in LONG_SEEDS:
                continue
            config = FitConfig(judged_after(name, training, share), shifts=training == "shifted")
            shown = config.judged[-1] * config.batch * SYSTEMS[name].members * (2 if SYSTEMS[name].pairs else 1)
            key = {"system": name, "share": share, "training": training, "seed": seed}
            runs.append(Run(key, {"config": config}, _expected(name, share), images=shown))
    return runs


def _expected(name: str, share: int) -> str:
    if share != 100:
        return (
            "The same order as with all images; towers with few images learn them by heart, and two no less than one."
        )
    return {
        "plain": "Behind two towers at the slides' numbers of updates, level with them at equal ones less a point.",
        "siamese": "Two points before one tower at the slides' ratio of updates; half of it is their number.",
        "wide": "Half a point before two towers: as many parameters, and they work together.",
        "shared": "No better than one tower: with the same image twice it is one.",
        "same-image": "As good as with both kinds of pairs: it is two towers voting.",
        "other-image": "Worse: what it is tested on, the same image twice, it has never seen.",
        "pair-head": "Worse than comparing predicted classes: it learns less of each image.",
        "contrastive": "As good as comparing embeddings of the classifier.",
        "triplet": "As good as contrastive.",
    }[name]


# -------------------------------------------------------------------------------------------- carrying out


def train_system(
    name: str, learned: Learned, config: FitConfig, seed: int, bench: Bench, classes: int, member: int = 0
) -> tuple[nn.Module, Fitted]:
    """Train one member of a system on these images; gives a network of its shape and the weights by updates."""
    system = SYSTEMS[name]
    first, second = drawn_pairs(learned.labels, system.pairs, seed)
    objective = {"contrastive": ContrastiveObjective, "triplet": TripletObjective}.get(system.objective)

    def loss(network: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        a = first[rows]
        left, labels = (
            pixels(learned.images[a], config.shifts).to(device(network)),
            learned.labels[a].to(device(network)),
        )
        if objective is not None:
            return objective()(network(left).float(), labels).loss
        if not system.pairs:
            return F.cross_entropy(network(left).float(), labels)
        b = second[rows]
        right = pixels(learned.images[b], config.shifts).to(device(network))
        if system.objective == "classes":
            return F.cross_entropy(network(left, right).float(), labels)
        same = (labels == learned.labels[b].to(labels.device)).float()
        return F.binary_cross_entropy_with_logits(network(left, right).float(), same, 1 + (SAME_WEIGHT - 1) * same)

    own = seed + 1_000 * member
    network = SYSTEMS[name].make(classes)
    fitted = fit(
        lambda: SYSTEMS[name].make(classes),
        loss,
        len(first),
        config,
        own,
        device=bench.device,
        folder=bench.folder,
        name=f"{name}{member or ''}",
        images=2 if system.pairs else 1,
        progress=bench.progress,
    )
    return network, fitted


def device(network: nn.Module) -> torch.device:
    """Where a network's weights are."""
    return next(network.parameters()).device


def probabilities(network: nn.Module, weights: State, images: torch.Tensor) -> NDArray[np.float32]:
    """Of the classes, with the same image on both sides: float32 (N, classes)."""
    given = outputs(network, weights, lambda net, rows: net(*[pixels(images[rows])] * 2).softmax(1), len(images))
    return given.numpy()


def embeddings(network: nn.Module, weights: State, images: torch.Tensor, name: str) -> torch.Tensor:
    """What a system compares: float32 (N, D)."""
    given = (
        (lambda net, x: net(x))
        if SYSTEMS[name].objective in ("contrastive", "triplet")
        else (lambda net, x: net.embed(x))
    )
    return outputs(network, weights, lambda net, rows: given(net, pixels(images[rows])), len(images))


def _carry_out(run: Run, bench: Bench) -> Outcome:
    name, share, seed = str(run.key["system"]), int(run.key["share"]), int(run.key["seed"])
    train, test = bench.load(load_cifar10, "train"), bench.load(load_cifar10, "test")
    learned, held = share_of(train, share, seed)
    trained = [
        train_system(name, learned, run.config, seed, bench, train.num_classes, member)
        for member in range(SYSTEMS[name].members)
    ]
    network, seconds = trained[0][0], sum(fitted.seconds for _, fitted in trained)
    shown = run.images / max(seconds, 1e-9)
    record = {
        "parameters": count_parameters(network),
        "seconds": seconds,
        "history": [{"seconds": seconds, "images_per_second": shown}],
        "learned": len(learned.labels),
        "held_out": len(held.labels),
    }
    rows, tables = [_rows(run.config.judged[-1], {"seconds": exact(seconds)})], {}
    if name in CLASSIFIERS:
        found, confusion = _classified(name, [(net, fitted.weights) for net, fitted in trained], learned, held, test)
        rows += found
        tables["cifar10_confusion"] = confusion
    if share == 100 and run.key["training"] != "shifted":
        at = pair_updates(name) if run.key["training"] == "short" else run.config.judged[-1]
        weights = trained[0][1].weights
        if at in weights:
            tables["cifar10_pairs"] = judged_pairs(name, network, weights[at], held, Learned.of(test)).assign(
                updates=at
            )
    return Outcome(pd.concat(rows, ignore_index=True), record=record, tables=tables)


def _rows(updates: int, metrics: Mapping[str, Estimate], prefix: str = "") -> pd.DataFrame:
    return metric_rows({prefix + name: value for name, value in metrics.items()}).assign(updates=updates)


def _classified(
    name: str, trained: list[tuple[nn.Module, dict[int, State]]], learned: Learned, held: Learned, test: ImageSet
) -> tuple[list[pd.DataFrame], pd.DataFrame]:
    """Every metric of a classifier after each number of updates, and the confusion matrix after the last."""
    rows, labels, classes = [], test.labels.numpy(), test.num_classes
    confusion = pd.DataFrame()
    for updates in trained[0][1]:
        validation, answers = (
            [probabilities(net, weights[updates], images) for net, weights in trained]
            for images in (held.images, test.images)
        )
        predicted = answers[0].argmax(1)
        rows.append(_rows(updates, named(predicted, labels, classes)))
        rows.append(_rows(updates, _validated(validation[0], held)))
        if len(trained) > 1:
            rows.append(_rows(updates, named(np.mean(answers, axis=0).argmax(1), labels, classes), "ensemble_"))
        counts = pd.crosstab(
            pd.Categorical(labels, range(classes)), pd.Categorical(predicted, range(classes)), dropna=False
        )
        confusion = pd.DataFrame(counts.to_numpy(), columns=list(test.class_names))
        confusion = confusion.assign(shown=list(test.class_names), updates=updates)
    if name == "siamese":
        rows.append(_rows(updates, _cut_in_two(trained[0][0], learned, test)))
    return rows, confusion


def _validated(probability: NDArray[np.float32], held: Learned) -> dict[str, Estimate]:
    found = named(probability.argmax(1), held.labels.numpy(), probability.shape[1])
    return {"validation_accuracy": found["accuracy"]}


def _cut_in_two(network: nn.Module, learned: Learned, test: ImageSet) -> dict[str, Estimate]:
    """Each half of a trained network alone, with a new last layer fitted on its outputs, which stay as they are."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weights, metrics = network.state_dict(), {}
    for side, half in enumerate(("left", "right")):

        def features(images: torch.Tensor, side: int = side) -> NDArray[np.float32]:
            tower = network.towers[side]
            return outputs(network, weights, lambda _, rows: tower(pixels(images[rows])), len(images)).numpy()

        fitted = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        fitted.fit(features(learned.images), learned.labels.numpy())
        found = named(fitted.predict(features(test.images)), test.labels.numpy(), test.num_classes)
        metrics[f"{half}_half_accuracy"] = found["accuracy"]
    return metrics


# --------------------------------------------------------------------------------------------------- pairs


def judged_pairs(name: str, network: nn.Module, weights: State, held: Learned, judged: Learned) -> pd.DataFrame:
    """Metrics of *same or different* by every way in which a system can answer: ``by``, metric, value, ci95, n.

    Thresholds are chosen on pairs of the held-out images.
    """
    frames = []
    for by in ("classes", "cosine") if name in CLASSIFIERS else ("head",) if name == "pair-head" else ("cosine",):
        chosen, scored = (_scores(name, by, network, weights, some) for some in (held, judged))
        at = Thresholds(1.0, 1.0) if by == "classes" else thresholds(*chosen[:2])
        metrics = told_apart(scored[0], scored[1], at)
        labels = judged.labels.numpy()
        if by == "classes":
            metrics |= over_all_pairs_of_classes(scored[2], labels)
        elif by == "cosine":
            metrics |= over_all_pairs(scored[2], labels, at.f1)
        frames.append(metric_rows(metrics).assign(by=by))
    return pd.concat(frames, ignore_index=True)


def _scores(
    name: str, by: str, network: nn.Module, weights: State, some: Learned
) -> tuple[NDArray[np.float64], NDArray[np.bool_], Any]:
    """Scores and flags of pairs of images, each (P, N), and what they come from, one row an image."""
    pairs = pairs_of(some.labels.numpy())
    if by == "classes":
        predicted = probabilities(network, weights, some.images).argmax(1)
        return (predicted[pairs.first] == predicted[pairs.second]).astype(np.float64), pairs.same, predicted
    z = embeddings(network, weights, some.images, name)
    if by == "head":
        with torch.no_grad():
            score = [
                network.compare(z[torch.from_numpy(a)], z[torch.from_numpy(b)]).double().numpy()
                for a, b in zip(pairs.first, pairs.second, strict=True)
            ]
        return np.stack(score), pairs.same, z.numpy()
    unit = F.normalize(z, dim=1).numpy()
    return np.einsum("pnd,pnd->pn", unit[pairs.first], unit[pairs.second]).astype(np.float64), pairs.same, unit


KEY = ("system", "share", "training", "seed")
CIFAR10 = Study(
    "cifar10",
    "Do two towers classify CIFAR-10 better than one, and what of the gain is left at equal updates and parameters?",
    _runs,
    _carry_out,
    key=KEY,
    columns=(*KEY, "updates", "metric", "value", "ci95", "n"),
    metrics={"accuracy": "CIFAR-10's test images: share named rightly", "seconds": "of training"},
    tables=("cifar10_confusion", "cifar10_pairs"),
)
