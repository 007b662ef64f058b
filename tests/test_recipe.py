"""What the search for the recipe found: the readings beside the tables, and precisions seed by seed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.experiments import plotting, store
from siamese_utils.experiments.study import Study
from siamese_utils.studies.networks.study import SEEDS
from siamese_utils.studies.recipe import figures, findings, quick_findings
from siamese_utils.studies.recipe.quick import BASE, IMAGES, QUICK_SEARCH
from siamese_utils.studies.recipe.study import FEW_CLASSES, PRECISION, RECIPE_SEARCH
from siamese_utils.studies.validation import trial_runs


def put(study: Study, trial: str, seed: int, accuracy: float, **more: Estimate) -> None:
    metrics = {"acc_5w1s": Estimate(accuracy, 0.3, 9), "acc_5w5s": Estimate(accuracy + 10, 0.3, 9)}
    metrics |= {"seconds": exact(90), "images": exact(2_000), "images_per_second": exact(9)}
    store.store_rows(study.path, {"trial": trial, "seed": seed}, metrics | more, columns=study.all_columns)


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
    assert list(table.trial) == [name for name in trial_runs(RECIPE_SEARCH) if "half-hour" not in name]
    assert table.change[1] == "optimizer = adamw"


def test_gains_are_against_the_trial_that_was_changed(project: Path) -> None:
    for trial, accuracy in {"muon": 50.0, "adamw": 47.0, "long": 55.0, "long-crops": 54.9, "half-hour": 70.0}.items():
        put(RECIPE_SEARCH, trial, 0, accuracy)
    found = findings.search_gains()
    assert found[["trial", "base"]].to_numpy().tolist() == [["long", "muon"], ["long-crops", "long"], ["adamw", "muon"]]
    assert found.gain.tolist() == pytest.approx([5.0, -0.1, -3.0]) and found.ci95.tolist() == pytest.approx(
        [0.18**0.5] * 3
    )
    shown = figures.search_figure()
    assert shown.alt.endswith("long +5.0, long-crops -0.1, adamw -3.0.")
    colours = {text.get_text(): text.get_color() for text in shown.figure.axes[0].texts}
    assert colours == {"+5.0": plotting.GREEN, "-0.1": plotting.GREY, "-3.0": plotting.RED}
    plt.close(shown.figure)


def test_half_hours_are_told_as_far_as_they_are_stored(project: Path) -> None:
    put(RECIPE_SEARCH, "muon", 0, 50.0)
    for found in (findings.half_hour_table, findings.half_hour_reading):
        with pytest.raises(ResultsError, match="None of the long trials"):
            found()
    put(FEW_CLASSES, "all", 0, 61.0)
    for trial, seed, accuracy in [
        ("half-hour", 0, 62.0),
        ("half-hour-jitter", 1, 64.0),
        ("half-hour-rotation", 0, 63.5),
    ]:
        put(RECIPE_SEARCH, trial, seed, accuracy, core_minutes=exact(29.6))
    run = next(run for run in RECIPE_SEARCH.runs() if run.label == "half-hour-seed0")
    store.write_record(RECIPE_SEARCH.record_path(run), {"history": [{"proxy_accuracy": 0.4}, {"proxy_accuracy": 0.9}]})
    told = findings.half_hour_reading()
    assert "30 minutes of one core" in told and "reach 62.0 / 72.0 percent at one and five shots (one seed)" in told
    assert "of the same images, has 61.0 / 71.0. In the end 90% of" in told
    planned = sum(run.label.startswith("half-hour") for run in RECIPE_SEARCH.runs())
    # The other seed's jitter has nothing to be compared with yet.
    assert (
        f"a rotation head +1.5 / +1.5 (one seed). Of {planned} such trainings that were planned 3 are stored." in told
    )
    put(RECIPE_SEARCH, "half-hour", 1, 65.0, core_minutes=exact(30.4))
    told = findings.half_hour_reading()
    assert (
        "reach 63.5 / 73.5" in told and "(mean of 2 seeds)" in told and "colour jitter -1.0 / -1.0 (one seed)" in told
    )
    named = {str(run.key["trial"]) for run in RECIPE_SEARCH.runs() if run.label.startswith("half-hour")}
    for trial in named - {"half-hour"}:
        put(RECIPE_SEARCH, trial, 0, 60.0, core_minutes=exact(29.6))
    # Every trial that is stored is told of: as many gains as there are trials.
    gains = findings.half_hour_reading().split("same seeds: ")[1].split(". Of ")[0]
    assert gains.count(" / ") == len(named) - 1


def test_half_hours_are_listed_by_seed(project: Path) -> None:
    for trial, seed in [("half-hour", 0), ("half-hour-jitter", 1), ("half-hour-rotation", 0), ("half-hour", 1)]:
        put(RECIPE_SEARCH, trial, seed, 62.0, core_minutes=exact(29.6))
    table = findings.half_hour_table().frame
    assert table.trial.tolist() == ["half-hour", "half-hour-rotation", "half-hour", "half-hour-jitter"]
    assert table.seed.tolist() == [0, 0, 1, 1] and table["core-minutes"].tolist() == [30, 30, 30, 30]
    assert table.change.tolist() == [
        "–",
        "rotation weight = 0.5",
        "–",
        "brightness = 0.3; contrast = 0.3; saturation = 0.3",
    ]


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


def test_quick_trials_show_equally_many_images_and_gain_over_the_recipe_of_their_seed(project: Path) -> None:
    runs = QUICK_SEARCH.runs()
    assert {run.images for run in runs} == {IMAGES} and {run.key["seed"] for run in runs} == set(SEEDS)
    assert trial_runs(QUICK_SEARCH)["quick"].config == dataclasses.replace(BASE, recipe="quick_search/quick")
    put(QUICK_SEARCH, "turning", 0, 54.0, core_minutes=exact(0.8))
    with pytest.raises(ResultsError, match="The trial quick is not stored"):
        quick_findings.quick_table()
    put(QUICK_SEARCH, "quick", 0, 52.0, core_minutes=exact(0.8))
    assert "the best, *turning*, **54.0**, a difference of +2.0 (one seed)." in quick_findings.quick_sentence()
    put(QUICK_SEARCH, "quick", 1, 52.5, core_minutes=exact(0.8))
    put(QUICK_SEARCH, "turning", 1, 54.3, core_minutes=exact(0.8))
    put(QUICK_SEARCH, "quick-no-warmup", 1, 52.0, core_minutes=exact(0.7))
    told = quick_findings.quick_sentence()
    assert "reaches 52.2 percent" in told and "**54.1**, a difference of +1.9 ± 1.3 (2 seeds)" in told
    assert told.endswith("Gains that are larger than their intervals: *turning*.")
    table = quick_findings.quick_table().frame.set_index("trial")
    assert list(table.index) == ["quick", "quick-no-warmup", "turning"] and table.gain.tolist() == [
        "",
        "-0.5",
        "+1.9 ± 1.3",
    ]
    assert table["5-way 1-shot"]["turning"] == "54.1" and table.change["quick"] == "–"
