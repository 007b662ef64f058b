"""What the search for the recipe found: the readings beside the tables, and precisions seed by seed."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Study
from siamese_utils.studies.recipe import findings
from siamese_utils.studies.recipe.study import FEW_CLASSES, PRECISION, RECIPE_SEARCH
from siamese_utils.studies.validation import trial_runs


def put(study: Study, trial: str, seed: int, accuracy: float) -> None:
    metrics = {"acc_5w1s": Estimate(accuracy, 0.3, 9), "acc_5w5s": Estimate(accuracy + 10, 0.3, 9)}
    metrics |= {"seconds": exact(90), "images": exact(2_000), "images_per_second": exact(9)}
    store.store_rows(study.path, {"trial": trial, "seed": seed}, metrics, columns=study.all_columns)


def test_readings_are_differences_of_the_stored_trials(project: Path) -> None:
    for found in (findings.search_table, findings.search_reading, findings.turning_sentence):
        with pytest.raises(ResultsError, match="no results table"):
            found()
    for number, trial in enumerate(trial_runs(RECIPE_SEARCH)):
        put(RECIPE_SEARCH, trial, 0, 50.0 + number)
    told = findings.search_reading()
    assert "Muon instead of AdamW gained -1.0 points" in told and "another 2.0." in told
    assert "in 1.5 instead of 1.5 minutes: +4.0 points" in told and "over five epochs: +3.0." in told
    table = findings.search_table().frame
    assert list(table.trial) == list(trial_runs(RECIPE_SEARCH)) and table.change[1] == "optimizer = adamw"


def test_turning_is_told_for_the_numbers_of_classes_that_are_stored(project: Path) -> None:
    for trial, accuracy in {"ten": 40.0, "ten-turned": 43.2, "all": 50.0, "all-turned": 46.5, "twenty": 45.0}.items():
        put(FEW_CLASSES, trial, 0, accuracy)
    assert findings.turning_sentence() == "Points gained by turning: ten classes +3.2, all 64 -3.5."
    table = findings.few_classes_table().frame.set_index("trial")
    assert table.change["all"].startswith("all classes; ") and "turned classes = True" in table.change["ten-turned"]


def test_precisions_are_compared_seed_by_seed(project: Path) -> None:
    with pytest.raises(ResultsError, match="no results table"):
        findings.precision_sentence()
    put(PRECISION, "float32", 0, 60.0)
    with pytest.raises(ResultsError, match="study precision"):
        findings.precision_results()
    put(PRECISION, "bfloat16", 0, 60.5)
    put(PRECISION, "bfloat16", 1, 61.0)
    put(PRECISION, "float32", 1, 61.2)
    put(PRECISION, "float32", 2, 80.0)  # alone, so not compared
    table = findings.precision_results()
    assert table.seed.tolist() == [0, 1]
    assert (table.bfloat16 - table.float32).tolist() == pytest.approx([0.5, -0.2])
    told = findings.precision_sentence()
    assert "60.0 and 60.5, 61.2 and 61.0 percent" in told and "± 0.3 over episodes" in told
    assert told.endswith("**+0.1** points on average, between -0.2 and +0.5.")
