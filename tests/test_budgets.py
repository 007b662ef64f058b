"""Time and images: each budget is a whole training of seen classes, judged on classes that none learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import tiny

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split
from siamese_utils.errors import ResultsError, SplitError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench, Outcome, Run, keep
from siamese_utils.studies.budgets import figures, findings
from siamese_utils.studies.budgets.study import CLASSES_OR_IMAGES, TRAINING_TIME, thinned
from siamese_utils.studies.splits.study import SPLIT_SWEEP
from siamese_utils.training.recipes import DEFAULT_RECIPE, QUICK_RECIPE

TINY = dataclasses.replace(
    tiny.TINY, batch_size=20, images_per_class=2, held_out_images=4, least_images=60, most_images=60
)


def carried_out(run: Run, sets: tuple[ImageSet, ImageSet]) -> Outcome:
    study = TRAINING_TIME if "images" in run.key else CLASSES_OR_IMAGES
    return study.carry_out(run, Bench.of(*sets, device="cpu", progress=False))


def test_a_budget_is_a_whole_training(hundred: tuple[ImageSet, ImageSet], one_thread: None) -> None:
    run = Run({"images": 60, "seed": 0, "recipe": "tiny"}, {"config": TINY})
    outcome = carried_out(run, hundred)
    assert set(outcome.metrics) == set(TRAINING_TIME.metrics)
    history = outcome.record["history"]
    assert sum(row["images_per_second"] * row["seconds"] for row in history) == pytest.approx(60)
    assert history[-1]["learning_rate"] == pytest.approx(0, abs=1e-9)  # the schedule ran to its end
    assert outcome.metrics["seconds"].value == pytest.approx(sum(row["seconds"] for row in history))


def test_budgets_double_and_are_all_planned() -> None:
    runs = TRAINING_TIME.runs()
    for run in runs:
        assert run.config.most_images == run.config.least_images == run.images == run.key["images"]
    images = sorted({run.images for run in runs})
    assert [2 * few for few in images[:-1]] == images[1:]
    assert {run.key["seed"] for run in runs} == {0, 1, 2} and len(runs) == 2 * 3 * len(images)
    assert {run.key["recipe"]: run.config.fixed_norms for run in runs} == {DEFAULT_RECIPE: False, QUICK_RECIPE: True}
    assert len({TRAINING_TIME.record_path(run) for run in runs}) == len(runs)


def class_run(count: int, per_class: int, seed: int = 1) -> Run:
    key = {"classes": count, "images_per_class": per_class, "seed": seed, "recipe": "tiny"}
    return Run(key, {"config": dataclasses.replace(TINY, held_out_images=0, seed=seed)})


def test_equally_many_images_of_more_classes(hundred: tuple[ImageSet, ImageSet], one_thread: None) -> None:
    outcome = carried_out(class_run(10, 4), hundred)
    assert set(outcome.metrics) == set(CLASSES_OR_IMAGES.metrics)
    train_set, test_set = hundred
    images = test_set.images.clone()
    learned = test_set.indices_of(class_split("90-10", 0).seen)
    images[learned] = 255 - images[learned]  # only images of classes that no split learns are looked at
    again = carried_out(class_run(10, 4), (train_set, dataclasses.replace(test_set, images=images)))
    assert again.metrics == outcome.metrics
    with pytest.raises(SplitError, match="leave none to judge on"):
        carried_out(class_run(100, 4), hundred)


def test_thinning_takes_as_many_of_each_class(synthetic_train: ImageSet) -> None:
    few = thinned(synthetic_train, (2, 5), 7, seed=3)
    assert few.labels.bincount().tolist()[2::3] == [7, 7] and len(few) == 14
    assert (few.images == thinned(synthetic_train, (2, 5), 7, seed=3).images).all()
    assert (few.images != thinned(synthetic_train, (2, 5), 7, seed=4).images).any()
    with pytest.raises(SplitError, match="has 30 images, not the 31"):
        thinned(synthetic_train, (2, 5), 31, seed=3)
    assert all(int(run.key["images_per_class"]) * int(run.key["classes"]) <= 5_000 for run in CLASSES_OR_IMAGES.runs())


def test_sentence_wants_every_seed_past_the_reference(project: Path) -> None:
    (project / "results" / "seed_reference.csv").write_text(
        "split,metric,value,ci95,source\n90-10,acc_5w1s,62.2,0.4,measured\n90-10,training_hours,45,,measured\n"
    )
    where = {"processor": "one", "threads": 2, "precision": "float32"}
    for place in (0, -15):
        run = TRAINING_TIME.runs()[place]
        store.write_record(TRAINING_TIME.record_path(run), {"provenance": where | {"threads": 2 + place}})

    def put(images: int, seed: int, accuracy: float, seconds: float, recipe: str = DEFAULT_RECIPE) -> None:
        key = {"images": images, "seed": seed, "recipe": recipe}
        metrics = {"acc_5w1s": Estimate(accuracy, 0.5, 9), "seconds": Estimate(seconds, 0, 1)}
        store.store_rows(TRAINING_TIME.path, key, metrics, columns=TRAINING_TIME.all_columns)

    with pytest.raises(ResultsError, match="no results table"):
        findings.time_sentence()
    put(100, 0, 60.0, 10)
    assert "None of these trainings passes the 62.2" in findings.time_sentence()
    assert "reaches 60.0 after 10 seconds (one, 2 threads, float32)" in findings.time_sentence()
    for seed, accuracy in ((0, 64.0), (1, 62.5)):  # past it, but not beyond its interval
        put(200, seed, accuracy, 20)
    assert "None" in findings.time_sentence()
    put(400, 0, 66.0, 40)
    assert "With 400 images, that is after **40 seconds**" in findings.time_sentence()
    assert "its one seed" in findings.time_sentence()
    put(400, 1, 68.0, 50)
    told = findings.time_sentence()
    assert "**45 seconds**" in told and "each of its 2 seeds" in told and "67.0 ± 0.5" in told
    assert "45 hours" in told and "**3,600** times less" in told
    with pytest.raises(ResultsError, match=QUICK_RECIPE):
        findings.quick_time_sentence()
    put(200, 0, 62.5, 18, QUICK_RECIPE)
    assert "none of its trainings is past them with every seed" in findings.quick_time_sentence()
    put(400, 0, 70.0, 42, QUICK_RECIPE)
    told = findings.quick_time_sentence()
    assert "with 400 images, after **42 seconds** (one, -13 threads, float32): 70.0 ± 0.5, the lowest of its" in told
    assert told.endswith("by images shown: -0.8 with 200, +3.0 with 400.")
    shown = figures.time_figure()
    texts = [text.get_text() for text in shown.figure.axes[0].texts]
    assert texts[-3:] == ["62.5\n18 s", "70.0\n42 s", "the quick recipe"]
    assert "by the quick recipe 62.5 percent with 200 images in 18 seconds, 70.0" in shown.alt
    plt.close(shown.figure)


# ------------------------------------------------------------------------------------- classes or images


def put_classes(classes: int, seed: int, accuracy: float) -> None:
    key = {"classes": classes, "images_per_class": 5_000 // classes, "seed": seed, "recipe": "r"}
    metrics = {"acc_5w1s": Estimate(accuracy, 0.3, 9)}
    store.store_rows(CLASSES_OR_IMAGES.path, key, metrics, columns=CLASSES_OR_IMAGES.all_columns)


def put_sweep(split: str, draw: int, accuracy: float) -> None:
    run = Run({"split": split, "draw": draw, "seed": 0, "recipe": DEFAULT_RECIPE}, {})
    growth = {"acc_5w1s_common": Estimate(accuracy, 0.2, 9)}
    keep(SPLIT_SWEEP, run, Outcome({"acc_5w1s": Estimate(50, 1, 9)}, tables={"growth": growth}), {})


@pytest.fixture
def spread(project: Path) -> Path:
    """Two seeds over 10 and 50 classes, and the sweep's networks of 10, 50 and 90; another draw is no part of it."""
    for classes, accuracies in ((50, (58.0, 60.0)), (10, (40.0, 42.0))):
        for seed, accuracy in enumerate(accuracies):
            put_classes(classes, seed, accuracy)
    for split, accuracy in (("90-10", 76.0), ("10-90", 45.0), ("50-50", 70.0)):
        put_sweep(split, 0, accuracy)
        put_sweep(split, 1, 1.0)
    return project


def test_classes_are_drawn_beside_all_images(spread: Path) -> None:
    shown = figures.classes_figure()
    (axis,) = shown.figure.axes
    few, full = (np.asarray(line.get_xydata(), float).tolist() for line in axis.get_lines())
    assert few == [[10, 41], [50, 59]] and full == [[10, 45], [50, 70], [90, 76]]
    low, high = axis.collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == (40, 60)
    assert [text.get_text() for text in axis.texts] == [
        "41.0\n500 images each",
        "59.0\n100 images each",
        "all 500 images of each class",
    ]
    assert shown.alt.endswith(
        "when 5,000 training images are spread over 10 and 50 classes: 41.0 percent with 10, 59.0 percent with 50."
    )
    plt.close(shown.figure)


def test_classes_are_told_beside_all_images(spread: Path) -> None:
    table = findings.classes_table()
    assert table.frame.to_numpy().tolist() == [[10, 500, 41, 40, 42, 2], [50, 100, 59, 58, 60, 2]]
    assert table.caption.startswith("CIFAR-100: 5,000 training") and table.caption.endswith("(seeds stored: 2 of 3)")
    assert findings.classes_sentence() == (
        "With the same 5,000 images, 50 classes instead of 10 change accuracy by **+18.0** points; in the sweep, which "
        "has all images of each class and shows them for longer, it is +25.0, and what of the rest is the images and "
        "what the longer training is not told here. The interval of one run over its episodes is ± 0.3."
    )
    put_classes(20, 0, 50.0)
    put_classes(100, 0, 62.0)  # the sweep has no network of 100 classes that could be asked the same
    assert "100 classes instead of 10 change accuracy by **+21.0** points. The interval" in findings.classes_sentence()


def test_nothing_stored_of_classes_is_said(project: Path) -> None:
    for finding in (findings.classes_table, findings.classes_sentence, figures.classes_figure):
        with pytest.raises(ResultsError, match="no results table"):
            finding()
    put_classes(10, 0, 40.0)
    for finding in (findings.classes_sentence, figures.classes_figure):
        with pytest.raises(ResultsError, match="split_sweep"):
            finding()
