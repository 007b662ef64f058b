"""What ensembles found: numbers by members, a sentence, and the comparison with published results on CIFAR-FS.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import pandas as pd

from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, seeds_told, signed
from siamese_utils.experiments.study import recorded_core_minutes
from siamese_utils.studies.ensembles import cifar_fs
from siamese_utils.studies.ensembles.cifar_fs import CIFAR_FS
from siamese_utils.studies.ensembles.depths import DEEP, OWN, PARTS, TWO_DEPTHS, recipes_alone
from siamese_utils.studies.ensembles.depths import TOGETHER as TOGETHER_LONG
from siamese_utils.studies.ensembles.study import ENSEMBLES, MEMBERS, TOGETHER, record_name
from siamese_utils.studies.ensembles.test_time import (
    ALL_LONG,
    ALONE,
    CIFAR_FS_TEST_TIME,
    ONE_RECIPE,
    SHIFTS,
    TWO_RECIPES,
)
from siamese_utils.studies.validation import operations
from siamese_utils.system.project import results_dir
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.recipes import DEFAULT_RECIPE

_ACCURACIES = ["acc_5w1s", "acc_5w5s"]
PUBLISHED_COLUMNS = ("method", "encoder", "acc_5w1s", "acc_5w5s", "source")


def by_members(task: str, metric: str = "acc_5w1s", recipe_name: str = DEFAULT_RECIPE) -> pd.DataFrame:
    """One row a number of members: ``members``, ``together``, ``ci95``, ``alone`` (the last) and ``minutes``.

    ``minutes`` are those of one core, of all trainings so far.
    """
    table = ENSEMBLES.table()
    table = table[(table.task == task) & (table.recipe == recipe_name)]
    rows, minutes = [], 0.0
    for seed in sorted(table.seed.unique()):
        record = store.load_json(record_name(task, seed, recipe_name))
        minutes += recorded_core_minutes(record)
        together = store.result(table, seed=seed, metric=metric + TOGETHER)
        alone = store.result(table, seed=seed, metric=metric)
        rows.append(
            {
                "members": seed + 1,
                "together": together.value,
                "ci95": together.ci95,
                "alone": alone.value,
                "minutes": minutes,
            }
        )
    return pd.DataFrame(rows)


def published() -> pd.DataFrame:
    """Results of others on CIFAR-FS, 5-way, percent, with the columns ``PUBLISHED_COLUMNS``."""
    return store.read_table(results_dir() / "cifar_fs_published.csv", PUBLISHED_COLUMNS)


def gain_sentence(task: str) -> str:
    """What the ensemble of a task brings over its members alone, and how long they trained."""
    rows = by_members(task)
    if len(rows) < 2:
        raise ResultsError(f"No ensemble of {task} is stored yet; run `python -m siamese_utils ensemble {task}`.")
    last, alone = rows.iloc[-1], rows.alone
    where = "On CIFAR-FS's test classes" if task == "cifar-fs" else f"On the unseen classes of {task} (draw 0)"
    text = (
        f"{where} the members alone reach {alone.min():.1f} to {alone.max():.1f}, on average {alone.mean():.1f}; "
        f"{last.members:.0f} together **{last.together:.1f} ± {last.ci95:.1f}**, {last.together - alone.mean():+.1f} "
        f"points. Their trainings took {last.minutes / 2:.0f} minutes of two processor cores."
    )
    metric, what = ("acc_5w5s", "5-way 5-shot") if task == "cifar-fs" else ("acc_allway_1s", "1-shot among all ten")
    more = by_members(task, metric)
    return (
        f"{text} {what[0].upper()}{what[1:]}: {more.alone.mean():.1f} on average, together "
        f"**{more.together.iloc[-1]:.1f} ± {more.ci95.iloc[-1]:.1f}**."
    )


def field_table() -> Table:
    """CIFAR-FS: this project's networks beside published ones, by 1-shot accuracy; 5-way, percent.

    Of all ways to judge several networks by their own features, and at two depths, the one that is best on the
    validation classes is among them.
    """
    rows = [
        {
            "method": f"{row.method}, {row.encoder}",
            "5-way 1-shot": f"{row.acc_5w1s:.1f}",
            "5-way 5-shot": f"{row.acc_5w5s:.1f}",
            "core-minutes": "–",
            "images": "–",
            "operations": "–",
            "source": row.source.split(", arXiv")[0],
            "order": row.acc_5w1s,
        }
        for row in published().itertuples()
    ]
    for _, ours in CIFAR_FS.table().groupby("recipe", sort=False):
        rows += _ours(ours)
    kinds = _kinds_stored()
    for best in map(Way.best, kinds):
        rows.append(_row(best.name, *best.one_shot, *best.five_shots, best.took))
    if DEEP in kinds:
        rows += _at_two_depths()
    table = pd.DataFrame(rows).sort_values("order", kind="stable").drop(columns="order")
    caption = (
        "5-way accuracy on CIFAR-FS's test classes in percent, 95% intervals over episodes; others as published. "
        "Images shown, in millions; operations are multiplications of a training, in units of 10¹⁵"
    )
    return Table(table.reset_index(drop=True), caption)


def _ours(table: pd.DataFrame) -> list[dict[str, object]]:
    """The networks of one recipe: one of them, as the mean over seeds, and all together where that is stored."""
    one, five = (table[table.metric == f"acc_5w{shots}s"].sort_values("seed") for shots in (1, 5))
    recipe_name, seeds = str(one.recipe.iloc[0]), [int(seed) for seed in one.seed]
    costs = [cost(seed, recipe_name) for seed in seeds]
    encoder = store.load_json(cifar_fs.record_name(seeds[0], recipe_name))["config"]["encoder"]
    named = encoder if recipe_name == DEFAULT_RECIPE else f"{encoder} ({recipe_name})"
    values = one.value.mean(), one.ci95.mean(), five.value.mean(), five.ci95.mean()
    rows = [_row(f"one {named}, {_over(seeds)}", *values, Cost.mean(costs))]
    first, second = (by_members("cifar-fs", f"acc_5w{shots}s", recipe_name) for shots in (1, 5))
    if len(first) > 1:
        one_shot, five_shot = first.iloc[-1], second.iloc[-1]
        together = one_shot.together, one_shot.ci95, five_shot.together, five_shot.ci95
        rows.append(_row(f"{len(first)} {named} together", *together, Cost.total(costs[: len(first)])))
    return rows


def _at_two_depths() -> list[dict[str, object]]:
    """One network of each recipe at two depths, as the mean over seeds, by the views that are better on validation."""
    found, rows = _accuracies_of(DEEP), []
    recipes = found.index.get_level_values("networks").map(recipes_alone())  # none of those that are together
    for recipe_name, of_recipe in found.groupby(recipes, sort=False):
        members = [_members_of(networks, DEEP) for networks in of_recipe.index.unique("networks")]
        seeds = [seed for some in members for _, seed in some]
        means = of_recipe.groupby("views", sort=False).mean()
        view = means["value"]["validation"].mean(axis=1).idxmax()
        name = f"one {recipe_name}, {DEEP}, {view}, {_over(seeds)}"
        values = [means.loc[view, (what, "test", metric)] for metric in _ACCURACIES for what in ("value", "ci95")]
        rows.append(_row(name, *values, Cost.mean([cost(seed, recipe_name) for seed in seeds])))
    return rows


def _over(seeds: Sequence[int]) -> str:
    return f"mean of {seeds_told(len(seeds))}" if len(seeds) > 1 else seeds_told(1)


def _row(what: str, one: float, one_ci: float, five: float, five_ci: float, took: Cost) -> dict[str, object]:
    return {
        "method": what,
        "5-way 1-shot": f"{one:.1f} ± {one_ci:.1f}",
        "5-way 5-shot": f"{five:.1f} ± {five_ci:.1f}",
        "core-minutes": f"{took.core_minutes:.0f}",
        "images": f"{took.images / 1e6:.2f}",
        "operations": f"{took.operations / 1e15:.2f}",
        "source": "this report",
        "order": one,
    }


@dataclass(frozen=True)
class Cost:
    """What trainings took, in terms that another machine can be compared by.

    Attributes:
        core_minutes: processor time of all threads.
        images: that were shown.
        operations: multiplications, forward and back.
    """

    core_minutes: float
    images: float
    operations: float

    @classmethod
    def total(cls, costs: Sequence[Cost]) -> Cost:
        """Of all trainings."""
        return cls(*(sum(values) for values in zip(*map(astuple, costs), strict=True)))

    @classmethod
    def mean(cls, costs: Sequence[Cost]) -> Cost:
        """Of one of them."""
        return cls(*(value / len(costs) for value in astuple(cls.total(costs))))


def cost(seed: int, recipe_name: str = DEFAULT_RECIPE) -> Cost:
    """What a stored training on CIFAR-FS took."""
    record = store.load_json(cifar_fs.record_name(seed, recipe_name))
    config = TrainConfig.from_json(record["config"])
    images = cifar_fs.cifar_fs_images(config)
    each = operations(config, Encoder(config.encoder, config.embedding_dim))
    return Cost(recorded_core_minutes(record), images, images * each)


def gain_sentences() -> str:
    """The sentences of all tasks, one paragraph each.

    Raises:
        ResultsError: see ``gain_sentence``.
    """
    return "\n\n".join(gain_sentence(task) for task in MEMBERS)


# --- what is done with trained networks ------------------------------------------------------------


def ways_table() -> Table:
    """Every way to judge images with the networks that are trained, by one shot on the validation classes."""
    found, rows = _ways(), []
    minutes = {name: _cost_of(_members_of(name)).core_minutes for name in found.index.unique("networks")}
    for name, view in found.value["validation", "acc_5w1s"].sort_values().index:
        values, halves = found.value.loc[name, view], found.ci95.loc[name, view]
        shown = {
            f"{part}, {shots}-shot": cell(values[part, metric], halves[part, metric])
            for part in ("validation", "test")
            for shots in (1, 5)
            if (metric := f"acc_5w{shots}s")
        }
        ahead = [signed(values[part, "gain_5w5s_logistic"]) for part in ("validation", "test")]
        told = {"networks": name, "core-minutes": f"{minutes[name]:.0f}", "views": view, **shown}
        rows.append({**told, "regression ahead, 5-shot": " / ".join(ahead)})
    caption = (
        "CIFAR-FS: networks that are trained, judged in several ways; 5-way accuracy in percent, 95% intervals over "
        "episodes. Last: points by which a logistic regression on the examples is ahead of their means, on either part"
    )
    return Table(pd.DataFrame(rows), caption)


@dataclass(frozen=True)
class Way:
    """The way to judge that is best on the validation classes, by the nearest mean.

    Attributes:
        networks: their name.
        count: how many they are.
        features: their own, or two depths.
        views: of an image.
        one_shot: 5-way 1-shot accuracy on the test classes, and half its interval.
        five_shots: the same with five shots.
        took: all their trainings.
        fastest: core-minutes of these, had each recipe been trained every time as fast as it was once.
    """

    networks: str
    count: int
    features: str
    views: str
    one_shot: tuple[float, float]
    five_shots: tuple[float, float]
    took: Cost
    fastest: float

    @classmethod
    def best(cls, features: str = OWN) -> Way:
        """With one kind of features, by the mean of the accuracies with one shot and with five."""
        found = _accuracies_of(features)
        if found.empty:
            name = _WAYS_OF[features].name
            raise ResultsError(f"{name} lacks a part of CIFAR-FS; run `python -m siamese_utils study {name}`.")
        name, view = found["value"]["validation"].mean(axis=1).idxmax()
        row = found.loc[(name, view)]
        both = [(float(row["value", "test", each]), float(row["ci95", "test", each])) for each in _ACCURACIES]
        members = _members_of(name, features)
        return cls(name, len(members), features, view, *both, _cost_of(members), _fastest_minutes(members))

    @property
    def name(self) -> str:
        """What a table calls it; the four long ones by one name, whichever study asks them."""
        networks = next(iter(ALL_LONG)) if self.networks == TOGETHER_LONG else self.networks
        return ", ".join([networks, *([] if self.features == OWN else [self.features]), self.views])


_WAYS_OF = {OWN: CIFAR_FS_TEST_TIME, DEEP: TWO_DEPTHS}
"""The study that judges each kind of features on both parts of CIFAR-FS."""


def _accuracies_of(features: str) -> pd.DataFrame:
    """5-way accuracies and intervals (columns, by part and metric) by networks and views (rows)."""
    table = _WAYS_OF[features].table()
    if features == DEEP:
        table = table[table.task.isin(PARTS) & (table.features == DEEP)].rename(columns={"task": "part"})
    columns = pd.MultiIndex.from_product([("value", "ci95"), PARTS, _ACCURACIES])
    # A study of which one part is stored chooses nothing yet.
    return _by_part(table).reindex(columns=columns).dropna()


def _kinds_stored() -> list[str]:
    return [kind for kind, study in _WAYS_OF.items() if store.has_table(study.path) and len(_accuracies_of(kind))]


def ways_sentence() -> str:
    """What views and a regression bring on the validation classes, and what the best way by these has on the test."""
    values, best = _ways().value["validation"], Way.best()
    shifted = values.xs("shifted", level="views") - values.xs("as it is", level="views")
    gains = [signed(values[f"gain_5w{shots}s_logistic"].mean()) for shots in (1, 5)]
    return (
        "On the validation classes, at one and five shots and on average over all networks, shifted views bring "
        f"{signed(shifted.acc_5w1s.mean())} and {signed(shifted.acc_5w5s.mean())} points, a regression in place of "
        f"means {' and '.join(gains)}. Highest there, by means, is *{best.networks}*, views *{best.views}*: "
        f"**{cell(*best.one_shot)}** and **{cell(*best.five_shots)}** on the test classes, from trainings of "
        f"{best.took.core_minutes:.0f} core-minutes{_unevenly(best)}."
    )


def _unevenly(best: Way) -> str:
    """What is to be said where one training took much longer than another that shows as many images."""
    if best.took.core_minutes < 1.1 * best.fastest:
        return ""
    return f"; the processor was not always as fast, and had it been, they would have taken {best.fastest:.0f}"


_COMPANY = {
    "alone": ALONE,
    "two of one recipe": ONE_RECIPE,
    "two of different recipes": TWO_RECIPES,
    "all four": ALL_LONG,
}
_AS_IT_IS = next(iter(SHIFTS))


def company_sentence() -> str:
    """What a second network brings to a long one, by whether it is of the same recipe; means, on either part."""
    values = _ways().value.xs(_AS_IT_IS, level="views")
    told = []
    for part in ("validation", "test"):
        reached = values[part][_ACCURACIES]
        means = {kind: reached.loc[[*groups]].mean() for kind, groups in _COMPANY.items()}
        each = ", ".join(f"{kind} {one.acc_5w1s:.1f} and {one.acc_5w5s:.1f}" for kind, one in means.items())
        told.append(f"on the {part} classes {each}")
    return (
        "Accuracy of the long networks with one shot and with five, over the image and its mirror image, on average: "
        f"{'; '.join(told)}. Each of the four is in one pair of either kind."
    )


def _ways() -> pd.DataFrame:
    """Values and intervals (columns, by part and metric) by networks and views (rows)."""
    return _by_part(CIFAR_FS_TEST_TIME.table())


def _by_part(table: pd.DataFrame) -> pd.DataFrame:
    return table.pivot_table(
        index=["networks", "views"], columns=["part", "metric"], values=["value", "ci95"], sort=False
    )


def _members_of(networks: str, features: str = OWN) -> list[tuple[str, int]]:
    study = _WAYS_OF[features]
    record = study.read_record(study.runs()[0])
    return [(name, seed) for name, seed in record["networks"][networks]]


def _cost_of(members: Sequence[tuple[str, int]]) -> Cost:
    return Cost.total([cost(seed, name) for name, seed in members])


def _fastest_minutes(members: Sequence[tuple[str, int]]) -> float:
    """The same, where each training of a recipe takes as long as the shortest of these."""
    shortest = {
        name: min(cost(seed, name).core_minutes for other, seed in members if other == name) for name, _ in members
    }
    return sum(shortest[name] for name, _ in members)
