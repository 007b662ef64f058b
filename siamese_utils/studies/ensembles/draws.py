"""Longer trainings on 90-10, on every draw of the classes: alone, together, and over shifted views.

Nothing is chosen here: recipes and views are those of the study ``cifar_fs_test_time``, and all are told. Of single
networks and pairs, one would choose by the validation classes of CIFAR-FS both recipes together over shifted views.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from siamese_utils.data.splits import class_split
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.encoder import joined
from siamese_utils.encoders.views import embed_by_views
from siamese_utils.experiments.store import metric_rows
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, complete
from siamese_utils.studies.ensembles.study import METRICS, unseen_metrics
from siamese_utils.studies.ensembles.test_time import SHIFTS
from siamese_utils.studies.splits.study import SPLIT_SWEEP, checkpoint_path, split_run
from siamese_utils.training.recipes import DEFAULT_RECIPE, LONG_RECIPES

SPLIT, DRAWS = "90-10", (0, 1, 2)
NETWORKS: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in (DEFAULT_RECIPE, *LONG_RECIPES)},
    "both-long": LONG_RECIPES,
}
"""Recipes whose networks are judged together, by the name of the group."""
EXPECTATION = (
    "An hour of one core brings each draw about the three points that it brings on CIFAR-FS, draws 1 and 2 rather more "
    "than draw 0: 72 on average. The two long ones together, over shifted views, are two points ahead of either."
)


def _runs() -> list[Run]:
    return [_run(draw, name) for draw in DRAWS for name in NETWORKS]


def _run(draw: int, name: str) -> Run:
    members = NETWORKS[name]
    settings = {"recipes": list(members), "views": {view: [list(one) for one in SHIFTS[view]] for view in SHIFTS}}
    # Of two networks that have runs of their own, each is planned there.
    missing = images_missing(draw, members) if len(members) == 1 else 0
    return Run({"draw": draw, "networks": name}, settings, EXPECTATION, missing, paths(draw, members))


def paths(draw: int, recipes: Iterable[str]) -> tuple[Path, ...]:
    """Where the networks of a draw are stored, by their recipes."""
    return tuple(checkpoint_path(SPLIT, draw, recipe=recipe) for recipe in recipes)


def images_missing(draw: int, recipes: Sequence[str]) -> int:
    """How many images are shown to train those networks of a draw that are not stored."""
    missing = [name for name, path in zip(recipes, paths(draw, recipes), strict=True) if not path.is_file()]
    return sum(split_run(SPLIT, draw, recipe=name).images for name in missing)


def _carry_out(run: Run, bench: Bench) -> Outcome:
    """The networks are trained first where they are not stored."""
    draw, test_set, rows = run.key["draw"], bench.test_set, []
    complete(SPLIT_SWEEP, bench, [split_run(SPLIT, draw, recipe=recipe) for recipe in run.settings["recipes"]])
    positions = test_set.indices_of(class_split(SPLIT, draw, test_set.num_classes).unseen)
    images, labels = test_set.images[positions], test_set.labels[positions]
    views = run.settings["views"]
    embedded = [embed_by_views(load_encoder(path).embed, images, views) for path in run.built_on]
    for view in views:
        z = joined([one[view] for one in embedded])
        rows.append(metric_rows(unseen_metrics(z, labels)).assign(**run.key, views=view))
    return Outcome(pd.concat(rows, ignore_index=True)[[*_COLUMNS]])


_COLUMNS = ("draw", "networks", "views", "metric", "value", "ci95", "n")
CLASS_DRAWS = Study(
    "class_draws",
    "How far do longer trainings reach on 90-10, whichever classes are left unseen?",
    _runs,
    _carry_out,
    key=("draw", "networks"),
    metrics=METRICS,
    columns=_COLUMNS,
)
