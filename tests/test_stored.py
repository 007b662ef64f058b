"""Nothing is lost: every stored run of every study counts as stored, and every run that is stored is still planned."""

from __future__ import annotations

import pytest

from siamese_utils.experiments.study import stored
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
