"""Nothing is lost: every stored run of every study counts as stored, and every run that is stored is still planned."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from siamese_utils.experiments.study import Bench, Run, Study, run_study, stored
from siamese_utils.studies import STUDIES, study


def planned_runs(one: Study) -> list[Run]:
    """The runs of a study, by each of the recipes that its table has where it takes one."""
    options: list[dict[str, str]] = [{}]
    if "recipe" in inspect.signature(one.runs).parameters and one.path.is_file():
        options += [{"recipe": name} for name in one.table().recipe.unique()]
    return [*{run.label: run for some in options for run in one.runs(**some)}.values()]


@pytest.mark.parametrize("name", STUDIES)
def test_every_stored_run_counts_as_stored(name: str) -> None:
    one = study(name)
    assert one.name == name and one.question.endswith("?")
    runs = planned_runs(one)
    labels = {run.label: stored(one, run) for run in runs}
    assert "other" not in labels.values(), labels
    if not one.path.is_file():
        return
    keys = one.table()[list(one.key)].drop_duplicates().itertuples(index=False, name=None)
    planned = {tuple(run.key[column] for column in one.key) for run in runs}
    assert set(keys) <= planned
    assert [label for label, state in labels.items() if state == "yes"]


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_stored_is_not_carried_out_again(name: str) -> None:
    one = dataclasses.replace(study(name), carry_out=None)
    runs = [run for run in planned_runs(one) if stored(one, run) == "yes"]
    assert not list(run_study(one, runs, Bench("cpu", progress=False)))
