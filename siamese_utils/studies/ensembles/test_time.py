"""What can still be gained on CIFAR-FS when the networks are trained: other views, other networks beside, another head.

Nothing is chosen here. Every way is judged on the 16 validation classes, by which one would choose, and on the 20 test
classes.
"""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from siamese_utils.data.sampling import Episodes
from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.encoder import joined
from siamese_utils.encoders.views import FIVE_SHIFTS, embed_by_views
from siamese_utils.evaluation.episodes import episode_accuracies
from siamese_utils.evaluation.estimates import Estimate, mean_estimate
from siamese_utils.experiments.store import metric_rows
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, complete
from siamese_utils.studies.ensembles import cifar_fs
from siamese_utils.training.recipes import LONG_RECIPES

Members = tuple[tuple[str, int], ...]
"""Networks that are judged together, each as its recipe and seed."""
LONG_SEEDS = (0, 1)
LONG: Members = tuple((name, seed) for name in LONG_RECIPES for seed in LONG_SEEDS)
ALONE: dict[str, Members] = {f"{name}, seed {seed}": ((name, seed),) for name, seed in LONG}
ONE_RECIPE: dict[str, Members] = {
    f"both of {name}": tuple((name, seed) for seed in LONG_SEEDS) for name in LONG_RECIPES
}
TWO_RECIPES: dict[str, Members] = {
    f"one of each, seed {seed}": tuple((name, seed) for name in LONG_RECIPES) for seed in LONG_SEEDS
}
"""Pairs of the same networks as those of one recipe: each network is in one pair of either kind."""
ALL_LONG: dict[str, Members] = {"the four long ones": LONG}
NETWORKS: dict[str, Members] = {**ALONE, **ONE_RECIPE, **TWO_RECIPES, **ALL_LONG}
"""What is judged together, by its name."""
SHIFTS = {"as it is": ((0, 0),), "shifted": FIVE_SHIFTS}
"""Pixels down and right of each view of an image; every one is mirrored too."""
FITTED = 1_000
"""Episodes in which a regression is fitted; prototypes alone are compared in 10,000, as elsewhere."""


PARTS = ("validation", "test")
EXPECTATION = (
    "Shifts bring a third of a point and a regression nothing that prototypes have not. A second seed of a long recipe "
    "brings a point and a half with one example, a network of the other recipe half a point more than that; the four "
    "long ones reach 68.7 and 81.8 on the validation classes, 75.7 and 86.4 on the test classes."
)


def _runs() -> list[Run]:
    return [_run(part) for part in PARTS]


def _run(part: str) -> Run:
    members = dict.fromkeys(member for some in NETWORKS.values() for member in some)
    settings = {
        "networks": {name: [list(member) for member in some] for name, some in NETWORKS.items()},
        "views": {view: [list(shift) for shift in shifts] for view, shifts in SHIFTS.items()},
        "fitted": FITTED,
    }
    # What is trained for the first part is there for the second.
    missing = cifar_fs.images_missing(members) if part == PARTS[0] else 0
    return Run({"part": part}, settings, EXPECTATION, missing, cifar_fs.paths(members))


def _carry_out(run: Run, bench: Bench) -> Outcome:
    """The networks are trained first where they are not stored."""
    members = dict.fromkeys(tuple(one) for some in run.settings["networks"].values() for one in some)
    complete(cifar_fs.CIFAR_FS, bench, [cifar_fs.cifar_fs_run(seed, recipe) for recipe, seed in members])
    whole = cifar_fs.whole_set(bench.train_set, bench.test_set)
    split, rows = fewshot_split_cifar_fs(whole.class_names), []
    positions = whole.indices_of(split.val if run.key["part"] == "validation" else split.test)
    images, labels = whole.images[positions], whole.labels[positions]
    embedded = {
        member: embed_by_views(load_encoder(path).embed, images, run.settings["views"])
        for member, path in zip(members, run.built_on, strict=True)
    }
    for view in run.settings["views"]:
        for name, some in run.settings["networks"].items():
            z = joined([embedded[tuple(member)][view] for member in some])
            metrics = judge(z, labels, run.settings["fitted"])
            rows.append(metric_rows(metrics).assign(networks=name, **run.key, views=view))
    return Outcome(pd.concat(rows, ignore_index=True)[[*_COLUMNS]])


def judge(z: torch.Tensor, labels: torch.Tensor, fitted: int = FITTED) -> dict[str, Estimate]:
    """5-way accuracies with 1 and 5 shots and 15 queries a class: ``METRICS``.

    Args:
        z: float32 (M, D), rows of unit length.
        labels: int64 (M,).
        fitted: episodes in which prototypes and a regression are compared.
    """
    found, by_means = {}, cifar_fs.judge(z, labels)
    for shots in (1, 5):
        found[f"acc_5w{shots}s"] = by_means[f"acc_5w{shots}s"]
        episodes = cifar_fs.episodes_of(labels, shots, fitted, seed=1)
        by_regression = logistic_accuracies(z, episodes)
        found[f"acc_5w{shots}s_logistic"] = mean_estimate(by_regression)
        found[f"gain_5w{shots}s_logistic"] = mean_estimate(by_regression - episode_accuracies(z, episodes))
    return found


def logistic_accuracies(z: torch.Tensor, episodes: Episodes) -> torch.Tensor:
    """Accuracy of each episode, float64 (E,), by a logistic regression on its supports.

    As in RFS: embeddings of unit length, penalty 1. Its weights are sums of supports, so it is fitted in the space
    that these span, which is the same regression and does not grow with the length of the embeddings.

    Args:
        z: float32 (M, D), rows of unit length.
        episodes: E episodes over these rows.
    """
    _, ways, shots = episodes.support.shape
    labels, truth = (torch.arange(ways).repeat_interleave(n).numpy() for n in (shots, episodes.query.shape[2]))
    shares, rows = [], z.double().numpy()
    for support, query in zip(episodes.support, episodes.query, strict=True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the last digits decide nothing
            spanning, _ = np.linalg.qr(rows[support.flatten()].T)
            head = LogisticRegression(C=1.0, max_iter=200).fit(rows[support.flatten()] @ spanning, labels)
        shares.append(float((head.predict(rows[query.flatten()] @ spanning) == truth).mean()))
    return torch.tensor(shares, dtype=torch.float64)


_COLUMNS = ("networks", "part", "views", "metric", "value", "ci95", "n")
_WHAT = {
    "acc_5w{}s": "accuracy by the nearest mean of the examples of a class",
    "acc_5w{}s_logistic": "accuracy by a logistic regression on the examples (RFS: Tian et al., 2020)",
    "gain_5w{}s_logistic": "points by which the regression is ahead of the means, in the same episodes",
}
METRICS = {name.format(shots): f"5-way {shots}-shot {what}" for shots in (1, 5) for name, what in _WHAT.items()}
CIFAR_FS_TEST_TIME = Study(
    "cifar_fs_test_time",
    "What do other views, other networks and another head bring to networks that are trained?",
    _runs,
    _carry_out,
    key=("part",),
    metrics=METRICS,
    columns=_COLUMNS,
)
