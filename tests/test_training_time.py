"""Accuracy against training time: budgets are kept, nothing is run twice, and the sentence says what is stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.errors import ConfigError, ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store as results
from siamese_utils.studies.budgets import training_time
from siamese_utils.training import recipes
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

TINY = TrainConfig(
    recipe="tiny", terms=(Term("proxy"),), encoder="conv3", embedding_dim=8, epochs=9, batch_size=14,
    images_per_class=2, held_out_images=4, resolutions=((0.0, 16),),
)  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> tuple[ImageSet, ImageSet]:
    return make_synthetic("train", num_classes=12, per_class=16), make_synthetic("test", num_classes=12, per_class=20)


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    (project / "results" / "seed_reference.csv").write_text(
        "split,metric,value,ci95,source\n90-10,acc_5w1s,62.2,0.4,measured\n90-10,training_hours,45,,measured\n"
    )
    return project


def run(parts: tuple[ImageSet, ImageSet], **changes: object) -> None:
    settings = {"split": "7-5", "recipe_name": "tiny", "budgets": (14, 42), "seeds": (0,), **changes}
    training_time.run_training_time(*parts, device="cpu", progress=False, **settings)  # type: ignore[arg-type]


def test_each_budget_is_a_whole_training_of_seen_classes(
    project: Path, parts: tuple[ImageSet, ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []
    train = training_time.train

    def watched(config: TrainConfig, train_set: ImageSet, classes: tuple[int, ...], **more: object) -> object:
        learned.append(tuple(classes))
        return train(config, train_set, classes, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(training_time, "train", watched)
    run(parts)
    table = training_time.stored_training_time()
    assert table.images.tolist() == [14, 14, 42, 42] and set(table.metric) == {"acc_5w1s", "seconds"}
    assert set(learned) == {class_split("7-5", 0, 12).seen}
    for images in (14, 42):
        record = results.load_json(f"training-time-{images}-seed0")
        shown = sum(row["images_per_second"] * row["seconds"] for row in record["history"])
        assert shown == pytest.approx(images)
        assert record["history"][-1]["learning_rate"] == pytest.approx(0, abs=1e-9)  # the schedule ran to its end
        seconds = results.result(table, images=images, metric="seconds").value
        assert seconds == pytest.approx(sum(row["seconds"] for row in record["history"]), abs=1e-3)
    monkeypatch.setattr(training_time, "train", lambda *_, **__: pytest.fail("trained again"))
    run(parts)


def test_budget_below_a_batch_is_refused(project: Path, parts: tuple[ImageSet, ImageSet]) -> None:
    with pytest.raises(ConfigError, match="one batch"):
        run(parts, budgets=(8,))
    assert not training_time.table_path().exists()


def store(images: int, seed: int, accuracy: float, seconds: float) -> None:
    key = {"images": images, "seed": seed, "recipe": "r"}
    metrics = {"acc_5w1s": Estimate(accuracy, 0.5, 9), "seconds": Estimate(seconds, 0, 1)}
    results.store_run(key, metrics, "", table=training_time.table_path(), columns=training_time.TIME_COLUMNS)
    where = {"processor": "one", "threads": 2, "precision": "float32"}
    results.store_json(f"training-time-{images}-seed{seed}", {"provenance": where})


def test_sentence_wants_every_seed_past_the_reference(project: Path) -> None:
    with pytest.raises(ResultsError, match="no results table"):
        training_time.time_sentence()
    store(100, 0, 60.0, 10)
    assert "None of these trainings passes the 62.2" in training_time.time_sentence()
    assert "reaches 60.0 after 10 seconds (one, 2 threads, float32)" in training_time.time_sentence()
    for seed, accuracy in ((0, 64.0), (1, 62.5)):  # past it, but not beyond its interval
        store(200, seed, accuracy, 20)
    assert "None" in training_time.time_sentence()
    store(400, 0, 66.0, 40)
    assert "With 400 images, that is after **40 seconds**" in training_time.time_sentence()
    assert "its one seed" in training_time.time_sentence()
    store(400, 1, 68.0, 50)
    told = training_time.time_sentence()
    assert "**45 seconds**" in told and "each of its 2 seeds" in told and "67.0 ± 0.5" in told
    assert "45 hours" in told and f"**{45 * 3600 / 45:,.0f}** times less" in told
    table = training_time.over_seeds()
    assert table.images.tolist() == [100, 200, 400] and table.seeds.tolist() == [1, 2, 2]
    assert table.low.tolist() == [60, 62.5, 66] and table.high.tolist() == [60, 64, 68]
