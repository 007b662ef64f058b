"""Two depths of the networks that are trained: on CIFAR-FS and on every class draw of 90-10, alone and together.

Which maps, which means of them and the share of each were chosen on CIFAR-FS's validation classes, with the four long
networks; the other classes are looked at with that choice alone. The network's own features are judged in the same
episodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng, sample_episodes
from siamese_utils.data.splits import class_split, fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.depths import SHARE, TwoDepths
from siamese_utils.encoders.encoder import joined
from siamese_utils.evaluation.episodes import episode_accuracies
from siamese_utils.evaluation.estimates import Estimate, mean_estimate
from siamese_utils.evaluation.protocol import EVALUATION_SEED
from siamese_utils.experiments.store import metric_rows
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, complete
from siamese_utils.studies.ensembles import cifar_fs
from siamese_utils.studies.ensembles.draws import DRAWS, SPLIT
from siamese_utils.studies.ensembles.test_time import LONG, LONG_SEEDS, Members
from siamese_utils.studies.splits.study import SPLIT_SWEEP, split_run
from siamese_utils.studies.splits.study import checkpoint_path as split_path
from siamese_utils.system.project import results_dir
from siamese_utils.training.recipes import HALF_HOUR_RECIPE, LONG_RECIPES
from siamese_utils.training.task import first_of_each_class

OWN, DEEP = "its own", "two depths"
FEATURES = (OWN, DEEP)
TOGETHER = "the long ones together"
PARTS = ("validation", "test")
OF_A_CLASS = 50  # training images of each learned class that the parts are centred by
EXPECTATION = (
    "On the test classes and on every draw of 90-10 about what one network gains on the validation classes, half a "
    "point at one shot and three quarters at five; half as much for networks together, which know more already."
)


def _members(task: str) -> Members:
    """The networks of a task, each as its recipe and seed."""
    if task in PARTS:
        return *((HALF_HOUR_RECIPE, seed) for seed in LONG_SEEDS), *LONG
    return tuple((recipe, 0) for recipe in LONG_RECIPES)


def _groups(members: Sequence[tuple[str, int]]) -> dict[str, Members]:
    """What is judged together, by its name: each network, and all of the long ones."""
    alone: dict[str, Members] = {f"{recipe}, seed {seed}": ((recipe, seed),) for recipe, seed in members}
    together = tuple(one for one in members if one[0] in LONG_RECIPES)
    return {**alone, TOGETHER: together}


def _draw_of(task: str) -> int:
    return int(task.rsplit(" ", 1)[1])


TASKS = (*PARTS, *(f"{SPLIT}, draw {draw}" for draw in DRAWS))


def _runs() -> list[Run]:
    runs = []
    for task in TASKS:
        members = _members(task)
        settings = {
            "networks": {name: [list(one) for one in some] for name, some in _groups(members).items()},
            "share": SHARE,
            "images": OF_A_CLASS,
        }
        runs.append(Run({"task": task}, settings, EXPECTATION, built_on=tuple(_path(task, one) for one in members)))
    return runs


def _path(task: str, member: tuple[str, int]) -> Path:
    recipe, seed = member
    if task in PARTS:
        return cifar_fs.checkpoint_path(seed, recipe)
    return split_path(SPLIT, _draw_of(task), recipe=recipe)


def _carry_out(run: Run, bench: Bench) -> Outcome:
    """The networks are trained first where they are not stored."""
    task, learned, judged = str(run.key["task"]), bench.train_set, bench.test_set
    members = _members(task)
    if task in PARTS:
        complete(cifar_fs.CIFAR_FS, bench, [cifar_fs.cifar_fs_run(seed, recipe) for recipe, seed in members])
        learned = judged = cifar_fs.whole_set(bench.train_set, bench.test_set)
        split = fewshot_split_cifar_fs(learned.class_names)
        seen, unseen = split.train, split.val if task == PARTS[0] else split.test
    else:
        draw = _draw_of(task)
        complete(SPLIT_SWEEP, bench, [split_run(SPLIT, draw, recipe=recipe) for recipe, _ in members])
        classes = class_split(SPLIT, draw, learned.num_classes)
        seen, unseen = classes.seen, classes.unseen
    examples = _examples(learned, seen, run.settings["images"])
    positions = judged.indices_of(unseen)
    images, labels = judged.images[positions], judged.labels[positions]
    found: dict[str, dict[tuple[str, int], torch.Tensor]] = {OWN: {}, DEEP: {}}
    for member, path in zip(members, run.built_on, strict=True):
        deep = TwoDepths(load_encoder(path), examples)
        found[DEEP][member] = deep.embed(images)
        found[OWN][member] = deep.own(found[DEEP][member])
    rows = []
    for name, some in run.settings["networks"].items():
        own, deep_ones = (joined([found[features][tuple(one)] for one in some]) for features in FEATURES)
        metrics = judge(own, deep_ones, labels, task)
        for features in FEATURES:
            rows.append(metric_rows(metrics[features]).assign(task=task, networks=name, features=features))
    return Outcome(pd.concat(rows, ignore_index=True)[[*_COLUMNS]])


def _examples(learned: ImageSet, seen: Sequence[int], most: int) -> torch.Tensor:
    positions = learned.indices_of(seen)
    return learned.images[positions[first_of_each_class(learned.labels[positions], most)]]


def judge(own: torch.Tensor, deep: torch.Tensor, labels: torch.Tensor, task: str) -> dict[str, dict[str, Estimate]]:
    """5-way accuracies of both kinds of embeddings in the same 10,000 episodes, and the second's gain over the first.

    Args:
        own: float32 (M, D), rows of unit length.
        deep: float32 (M, E), likewise.
        labels: int64 (M,).
        task: a name in ``TASKS``; its episodes are those of the studies that judge it otherwise.
    """
    found: dict[str, dict[str, Estimate]] = {OWN: {}, DEEP: {}}
    for shots in (1, 5):
        of_task = (0, f"cifar-fs {shots}") if task in PARTS else (EVALUATION_SEED, f"acc_5w{shots}s")
        episodes = sample_episodes(labels, 5, shots, 15, 10_000, named_rng(*of_task))
        plain, both = (episode_accuracies(z, episodes) for z in (own, deep))
        found[OWN][f"acc_5w{shots}s"] = mean_estimate(plain)
        found[DEEP][f"acc_5w{shots}s"] = mean_estimate(both)
        found[DEEP][f"gain_5w{shots}s"] = mean_estimate(both - plain)
    return found


_COLUMNS = ("task", "networks", "features", "metric", "value", "ci95", "n")
METRICS = {
    **{f"acc_5w{shots}s": f"5-way {shots}-shot accuracy" for shots in (1, 5)},
    **{
        f"gain_5w{shots}s": f"points by which two depths are ahead of the own features, {shots} shot, same episodes"
        for shots in (1, 5)
    },
}
TWO_DEPTHS = Study(
    "two_depths",
    "What does the stage before the last one know of new classes that the last one has let go?",
    _runs,
    _carry_out,
    key=("task",),
    metrics=METRICS,
    columns=_COLUMNS,
    record=lambda run: results_dir() / "studies" / "two_depths" / f"{run.key['task'].replace(', draw ', '-draw')}.json",
)
