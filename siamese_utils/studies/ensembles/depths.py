"""Two depths of the networks that are trained: on CIFAR-FS and on every class draw of 90-10, alone and together.

Which maps, which means of them and the share of each were chosen on CIFAR-FS's validation classes, with the four long
networks; the other classes are looked at with that choice alone. The network's own features are judged in the same
episodes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import pandas as pd
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import Episodes
from siamese_utils.data.splits import class_split, fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.depths import SHARE, TwoDepths
from siamese_utils.encoders.encoder import joined
from siamese_utils.encoders.views import embed_by_views
from siamese_utils.evaluation.episodes import MAX_GRAM, episode_accuracies
from siamese_utils.evaluation.estimates import Estimate, mean_estimate
from siamese_utils.experiments.store import metric_rows
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, complete
from siamese_utils.studies.ensembles import cifar_fs, draws
from siamese_utils.studies.ensembles.draws import DRAWS, SPLIT
from siamese_utils.studies.ensembles.study import episodes_of_unseen
from siamese_utils.studies.ensembles.test_time import LONG, SHIFTS, Members
from siamese_utils.studies.splits.study import SPLIT_SWEEP, split_run
from siamese_utils.training.recipes import DEFAULT_RECIPE, HALF_HOUR_RECIPE, LONG_RECIPES
from siamese_utils.training.task import first_of_each_class

OWN, DEEP = "its own", "two depths"
FEATURES = (OWN, DEEP)
TOGETHER = "the long ones together"
LONG_AND_SHORT = "long ones and those of half an hour together"
ALL = "all of CIFAR-FS together"
PARTS = ("validation", "test")
DRAW_OF = {f"{SPLIT}-draw{draw}": draw for draw in DRAWS}
"""The class draw of each task of 90-10."""
TASKS = (*PARTS, *DRAW_OF)
SHORTER: Members = tuple((HALF_HOUR_RECIPE, seed) for seed in cifar_fs.SEEDS)
OF_A_CLASS = 50  # training images of each learned class that the parts are centred by
EXPECTATION = (
    "On the test classes and on every draw of 90-10 about what one network gains on the validation classes, half a "
    "point at one shot and three quarters at five; half as much for networks together, which know more already. Over "
    "shifted views as much as without them: these make an image's features steadier, and tell nothing new of it."
)
MORE = (
    "Of more networks than the four long ones, whose trainings fit into a night: those of half an hour bring half a "
    "point at one shot and at five; those of the report's recipe, the weakest, nothing beside these. About 76.0 and "
    "87.0 on the test classes."
)
"""What was expected of these besides; the validation classes said otherwise, so the test classes were not asked."""


def _members(task: str) -> Members:
    """The networks of a task, each as its recipe and seed."""
    if task in DRAW_OF:
        return tuple((recipe, 0) for recipe in LONG_RECIPES)
    shorter = SHORTER[:2] if task == "test" else (*((DEFAULT_RECIPE, seed) for seed in cifar_fs.SEEDS), *SHORTER)
    return *shorter, *LONG


def groups(task: str) -> dict[str, Members]:
    """What is judged together, by its name: each network, all of the long ones, and on validation classes more."""
    members = _members(task)
    found: dict[str, Members] = {f"{recipe}, seed {seed}": ((recipe, seed),) for recipe, seed in members}
    found[TOGETHER] = tuple(one for one in members if one[0] in LONG_RECIPES)
    if task == "validation":
        found[LONG_AND_SHORT] = tuple(one for one in members if one[0] != DEFAULT_RECIPE)
        found[ALL] = members
    return found


def recipes_alone() -> dict[str, str]:
    """The recipe of each network that is judged alone, by the name of the network."""
    return {name: some[0][0] for name, some in groups(PARTS[0]).items() if len(some) == 1}


def _runs() -> list[Run]:
    return [_run(task) for task in TASKS]


def _run(task: str) -> Run:
    members = _members(task)
    settings = {
        "networks": {name: [list(one) for one in some] for name, some in groups(task).items()},
        "views": {view: [list(shift) for shift in shifts] for view, shifts in SHIFTS.items()},
        "share": SHARE,
        "images": OF_A_CLASS,
    }
    if task in DRAW_OF:
        recipes = [recipe for recipe, _ in members]
        missing, stored = draws.images_missing(DRAW_OF[task], recipes), draws.paths(DRAW_OF[task], recipes)
    else:
        # What is trained for the first part is there for the second.
        missing = cifar_fs.images_missing(members) if task == PARTS[0] else 0
        stored = cifar_fs.paths(members)
    expectation = f"{EXPECTATION} {MORE}" if task == "validation" else EXPECTATION
    return Run({"task": task}, settings, expectation, missing, stored)


def _carry_out(run: Run, bench: Bench) -> Outcome:
    """The networks are trained first where they are not stored."""
    task, views = str(run.key["task"]), run.settings["views"]
    members = _members(task)
    examples, judged = _images(task, members, run.settings["images"], bench)
    episodes = _episodes(task, judged.labels)
    found: dict[str, dict[tuple[str, int], dict[str, torch.Tensor]]] = {OWN: {}, DEEP: {}}
    for member, path in zip(members, run.built_on, strict=True):
        deep = TwoDepths(load_encoder(path), examples)
        found[DEEP][member] = embed_by_views(deep.embed, judged.images, views)
        found[OWN][member] = {view: deep.own(z) for view, z in found[DEEP][member].items()}
    rows = []
    for view in views:
        for name, some in run.settings["networks"].items():
            own, both = (joined([found[features][tuple(one)][view] for one in some]) for features in FEATURES)
            for features, metrics in judge(own, both, episodes).items():
                key = {"task": task, "views": view, "networks": name, "features": features}
                rows.append(metric_rows(metrics).assign(**key))
    return Outcome(pd.concat(rows, ignore_index=True)[[*_COLUMNS]])


def _images(task: str, members: Members, of_a_class: int, bench: Bench) -> tuple[torch.Tensor, ImageSet]:
    """Images of the learned classes that the parts are centred by, and all images of the classes to be recognised."""
    learned, judged = bench.train_set, bench.test_set
    if task in DRAW_OF:
        draw = DRAW_OF[task]
        complete(SPLIT_SWEEP, bench, [split_run(SPLIT, draw, recipe=recipe) for recipe, _ in members])
        classes = class_split(SPLIT, draw, learned.num_classes)
        seen, unseen = classes.seen, classes.unseen
    else:
        complete(cifar_fs.CIFAR_FS, bench, [cifar_fs.cifar_fs_run(seed, recipe) for recipe, seed in members])
        learned = judged = cifar_fs.whole_set(learned, judged)
        split = fewshot_split_cifar_fs(learned.class_names)
        seen, unseen = split.train, split.val if task == PARTS[0] else split.test
    new = judged.indices_of(unseen)
    judged = dataclasses.replace(judged, images=judged.images[new], labels=judged.labels[new])
    return examples_of(learned, seen, of_a_class), judged


def examples_of(learned: ImageSet, classes: Iterable[int], of_a_class: int) -> torch.Tensor:
    """The first images of each of some learned classes, by which the parts are centred: uint8 (M, H, W, 3)."""
    known = learned.indices_of(classes)
    return learned.images[known[first_of_each_class(learned.labels[known], of_a_class)]]


def _episodes(task: str, labels: torch.Tensor) -> dict[int, Episodes]:
    """The episodes of the studies that judge the same classes otherwise, by their shots."""
    judged_by = episodes_of_unseen if task in DRAW_OF else cifar_fs.episodes_of
    return {shots: judged_by(labels, shots) for shots in (1, 5)}


def judge(own: torch.Tensor, deep: torch.Tensor, episodes: Mapping[int, Episodes]) -> dict[str, dict[str, Estimate]]:
    """Accuracies of both kinds of embeddings in the same episodes, and the second's gain over the first.

    Args:
        own: float32 (M, D), rows of unit length.
        deep: float32 (M, E), likewise.
        episodes: over these rows, by their shots.

    Returns:
        ``METRICS``, by kind of embeddings; the gain with those that gain.
    """
    found: dict[str, dict[str, Estimate]] = {OWN: {}, DEEP: {}}
    plain, both = _accuracies(own, episodes), _accuracies(deep, episodes)
    for shots in episodes:
        found[OWN][f"acc_5w{shots}s"] = mean_estimate(plain[shots])
        found[DEEP][f"acc_5w{shots}s"] = mean_estimate(both[shots])
        found[DEEP][f"gain_5w{shots}s"] = mean_estimate(both[shots] - plain[shots])
    return found


def _accuracies(z: torch.Tensor, episodes: Mapping[int, Episodes]) -> dict[int, torch.Tensor]:
    """Of each episode, by its shots; the table of all similarities is made once."""
    gram = z @ z.T if len(z) <= MAX_GRAM else None
    return {shots: episode_accuracies(z, some, gram) for shots, some in episodes.items()}


_COLUMNS = ("task", "views", "networks", "features", "metric", "value", "ci95", "n")
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
)
