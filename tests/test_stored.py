"""Nothing is lost: every stored run of every study counts as stored, and every run that is stored is still planned."""

from __future__ import annotations

import dataclasses

import pytest

from siamese_utils.experiments.study import Bench, run_study, stored
from siamese_utils.studies import STUDIES, study


@pytest.mark.parametrize("name", STUDIES)
def test_every_stored_run_counts_as_stored(name: str) -> None:
    one = study(name)
    assert one.name == name and one.question.endswith("?")
    labels = {run.label: stored(one, run) for run in one.runs()}
    assert "other" not in labels.values(), labels
    if not one.path.is_file():
        return
    keys = one.table()[list(one.key)].drop_duplicates().itertuples(index=False, name=None)
    planned = {tuple(run.key[column] for column in one.key) for run in one.runs()}
    assert set(keys) <= planned
    assert [label for label, state in labels.items() if state == "yes"]


@pytest.mark.parametrize("name", STUDIES)
def test_what_is_stored_is_not_carried_out_again(name: str) -> None:
    one = dataclasses.replace(study(name), carry_out=None)
    runs = [run for run in one.runs() if stored(one, run) == "yes"]
    assert not list(run_study(one, runs, Bench("cpu", progress=False)))
