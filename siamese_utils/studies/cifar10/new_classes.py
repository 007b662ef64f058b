"""Pairs of classes that a network has never learned: it learns eight of CIFAR-10's, and is asked about the other two.

Whoever compares predicted classes can only name one of the eight, whatever is shown. Half of these pairs are of one
class, so that always giving one answer is right for half of them.
"""

from __future__ import annotations

from itertools import combinations

import pandas as pd

from siamese_utils.data.cifar import CIFAR10_CLASSES, load_cifar10
from siamese_utils.data.sampling import named_rng
from siamese_utils.experiments.study import Bench, Outcome, Run, Study
from siamese_utils.studies.cifar10.data import labelled_by, share_of
from siamese_utils.studies.cifar10.fit import FitConfig
from siamese_utils.studies.cifar10.study import PAIR_SYSTEMS, judged_pairs, pair_updates, train_system

BUDGET = 4_900  # batches of 64 images, or half as many of pairs
SYSTEMS_ASKED = ("plain", "siamese", *PAIR_SYSTEMS)
CHOICES = 5  # of the 45 pairs of classes


def left_out_pairs() -> list[tuple[int, int]]:
    """The pairs of classes that are left out, drawn beforehand: one a seed."""
    everything = list(combinations(range(len(CIFAR10_CLASSES)), 2))
    order = named_rng(0, "classes never learned").permutation(len(everything))
    return [everything[i] for i in order[:CHOICES]]


def _runs() -> list[Run]:
    runs = []
    for seed, pair in enumerate(left_out_pairs()):
        for name in SYSTEMS_ASKED:
            config = FitConfig((pair_updates(name, BUDGET),))
            key = {"system": name, "left_out": "-".join(CIFAR10_CLASSES[label] for label in pair), "seed": seed}
            images = BUDGET * config.batch
            runs.append(Run(key, {"config": config, "classes": list(pair)}, _EXPECTED[name], images=images))
    return runs


_EXPECTED = {
    "plain": "Its classes tell nothing of what it never learned; its embeddings tell a little.",
    "siamese": "As one tower.",
    "pair-head": "Better than predicted classes, but not by much: it has learned what differs between eight classes.",
    "contrastive": "The best of the five, with triplet: nothing in it belongs to a class.",
    "triplet": "As contrastive.",
}


def _carry_out(run: Run, bench: Bench) -> Outcome:
    name, seed, pair = str(run.key["system"]), int(run.key["seed"]), tuple(run.settings["classes"])
    train, test = bench.load(load_cifar10, "train"), bench.load(load_cifar10, "test")
    known = tuple(label for label in range(train.num_classes) if label not in pair)
    learned, held = share_of(train, 100, seed, known)
    network, fitted = train_system(name, learned, run.config, seed, bench, len(known))
    weights = fitted.weights[run.config.judged[-1]]
    frames = [
        judged_pairs(name, network, weights, held, labelled_by(test, classes)).assign(classes=kind)
        for kind, classes in (("learned", known), ("new", pair))
    ]
    shown = [{"seconds": fitted.seconds, "images_per_second": run.images / fitted.seconds}]
    return Outcome(pd.concat(frames, ignore_index=True), record={"seconds": fitted.seconds, "history": shown})


KEY = ("system", "left_out", "seed")
CIFAR10_NEW_CLASSES = Study(
    "cifar10_new_classes",
    "Who tells apart two classes that were never learned?",
    _runs,
    _carry_out,
    key=KEY,
    columns=(*KEY, "classes", "by", "metric", "value", "ci95", "n"),
    metrics={"balanced_accuracy": "same or different, both counted by half", "auc": "area under the ROC curve"},
)
