"""Time and images: each budget is a whole training of seen classes, judged on classes that none learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split
from siamese_utils.errors import ResultsError, SplitError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench, Outcome, Run
from siamese_utils.studies.budgets import findings
from siamese_utils.studies.budgets.study import CLASSES_OR_IMAGES, TRAINING_TIME, thinned
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

TINY = TrainConfig(
    recipe="tiny",
    terms=(Term("proxy"),),
    encoder="conv3",
    embedding_dim=8,
    epochs=1,
    batch_size=20,
    images_per_class=2,
    held_out_images=4,
    least_images=60,
    most_images=60,
    resolutions=((0.0, 16),),
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
    assert {run.key["seed"] for run in runs} == {0, 1, 2} and len(runs) == 3 * len(images)


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
    store.write_record(TRAINING_TIME.record_path(TRAINING_TIME.runs()[0]), {"provenance": where})

    def put(images: int, seed: int, accuracy: float, seconds: float) -> None:
        key = {"images": images, "seed": seed, "recipe": "r"}
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
    assert "45 hours" in told and f"**{45 * 3600 / 45:,.0f}** times less" in told
