"""The split sweep: what is planned, what a run stores, and that each checkpoint gives its rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import SPLIT_NAMES
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CollapseError, ConfigError, SplitError, TrainingError, UnknownNameError
from siamese_utils.evaluation.protocol import METRICS
from siamese_utils.experiments import plan as planning
from siamese_utils.experiments import store
from siamese_utils.experiments import study as experiments
from siamese_utils.experiments.plan import plan
from siamese_utils.experiments.study import Bench, Run, run_study, stored
from siamese_utils.studies.splits.findings import stored_evaluation
from siamese_utils.studies.splits.study import (
    SPLIT_SWEEP,
    carry_out,
    checkpoint_path,
    judge_again,
    reevaluate,
    split_run,
    sweep_runs,
)
from siamese_utils.training import rate as rates
from siamese_utils.training import recipes
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.recipes import FewClasses

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = dataclasses.replace(tiny.TINY, epochs=2, batch_size=24, images_per_class=2, held_out_images=4)
Parts = tuple[ImageSet, ImageSet]


def synthetic_parts() -> Parts:
    return make_synthetic("train", num_classes=12, per_class=16), make_synthetic("test", num_classes=12, per_class=20)


def tiny_run(split: str = "7-5", draw: int = 0, recipe: str = "tiny") -> Run:
    """A run of twelve classes; the recipe must be among those that are known."""
    return split_run(split, draw, recipe=recipe, num_classes=12, images_of_a_class=16)


def bench_of(parts: Parts) -> Bench:
    return Bench.of(*parts, device="cpu", progress=False)


@pytest.fixture(scope="module")
def parts() -> Parts:
    return synthetic_parts()


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    return project


def sweep(runs: list[Run], parts: Parts) -> None:
    for _ in run_study(SPLIT_SWEEP, runs, bench_of(parts), patience=0.1):
        pass


def check_complete(runs: list[Run], parts: Parts) -> None:
    """Every run once, every metric once, and every checkpoint gives its rows."""
    table = SPLIT_SWEEP.table()
    for beside in SPLIT_SWEEP.tables:
        rows = store.read_table(store.results_dir() / f"{beside}.csv", SPLIT_SWEEP.all_columns)
        assert not rows.duplicated(["split", "draw", "seed", "recipe", "metric"]).any()
        assert set(rows.checkpoint) == set(table.checkpoint)
    assert not table.duplicated(["split", "draw", "seed", "recipe", "metric"]).any()
    assert set(zip(table.split, table.draw, strict=True)) == {(run.key["split"], run.key["draw"]) for run in runs}
    for run in runs:
        rows = table[(table.split == run.key["split"]) & (table.draw == run.key["draw"])]
        assert set(rows.metric) == set(METRICS)
        path = Path(rows.checkpoint.iloc[0])
        again = reevaluate(path, Bench.of(*parts))
        assert judge_again(path, bench_of(parts))["split_sweep"] == again.metrics
        for row in rows.itertuples():
            assert row.value == pytest.approx(again.metrics[row.metric].value, abs=1e-3)
        record = SPLIT_SWEEP.read_record(run)
        assert record["draw"] == run.key["draw"] and record["data"] == parts[0].name
        evaluation = stored_evaluation(run)
        assert evaluation.threshold == record["threshold"] == pytest.approx(again.threshold)
        assert evaluation.metrics.keys() == again.metrics.keys()


def test_plan_has_every_split_of_every_draw() -> None:
    runs = sweep_runs()
    assert len({run.label for run in runs}) == len(runs) == 30
    assert [run.key["draw"] for run in runs] == [0] * 10 + [1] * 10 + [2] * 10
    assert [run.key["split"] for run in runs] == list(SPLIT_NAMES) * 3
    assert [run.key["split"] for run in sweep_runs(splits="10-90, 50-50", draws="1")] == ["10-90", "50-50"]
    with pytest.raises(SplitError, match="91-9"):
        sweep_runs(splits="91-9x")
    with pytest.raises(SplitError):
        split_run("90-10", -1)
    with pytest.raises(UnknownNameError, match="smoke"):
        sweep_runs(recipe="smoek")
    with pytest.raises(ConfigError, match="--draws takes whole numbers"):
        sweep_runs(draws="zero")


def test_a_recipe_may_treat_few_classes_otherwise(project: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(recipes.FEW_CLASSES, "tiny", FewClasses(6, {"turned_classes": True, "epochs": 1}))
    many, few = tiny_run("7-5"), tiny_run("6-6")
    assert many.config == TINY and few.config == dataclasses.replace(TINY, turned_classes=True, epochs=1)
    assert recipes.recipe("tiny") == recipes.recipe("tiny", 7) == TINY
    sweep([few], parts)
    assert SPLIT_SWEEP.read_record(few)["config"]["turned_classes"]
    assert few.images == 4 * 72  # six classes of 12 images, in four turns


def test_a_rate_is_measured_by_a_few_steps_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "set_centre", lambda *_: pytest.fail("nobody asked for a finished encoder"))
    taken: list[int] = []
    real = rates.step
    monkeypatch.setattr(
        rates,
        "step",
        lambda learner, images, *rest, **named: (taken.append(len(images)), real(learner, images, *rest, **named)),
    )
    sides = ((0.0, 8), (0.5, 16))
    before = torch.get_rng_state()
    planning.measured_rate(dataclasses.replace(TINY, resolutions=sides), least_seconds=0)
    assert taken == [TINY.batch_size] * 4  # one to warm up and one to time, at each side
    assert torch.equal(torch.get_rng_state(), before)


def test_plan_counts_the_images_that_training_shows(project: Path, parts: Parts) -> None:
    runs = [tiny_run(split, draw) for draw in (0, 1) for split in ("7-5", "6-6")]
    table = plan(SPLIT_SWEEP, runs, rate=100)
    assert set(table.stored) == {"no"}
    sweep(runs[:1], parts)
    record = SPLIT_SWEEP.read_record(runs[0])
    shown = sum(row["images_per_second"] * row["seconds"] for row in record["history"])
    assert runs[0].images == table.images[0] == pytest.approx(shown)
    assert table.minutes[0] == pytest.approx(shown / 6000)
    assert plan(SPLIT_SWEEP, runs, rate=100).stored.tolist() == ["yes", "no", "no", "no"]
    rate = planning.rate(SPLIT_SWEEP, runs)
    assert rate == pytest.approx(shown / record["seconds"], rel=0.9)
    for key in ("processor", "precision", "device"):  # of a machine that computes otherwise
        other = {**record, "provenance": {**record["provenance"], key: "another"}}
        store.write_record(SPLIT_SWEEP.record_path(runs[0]), other)
        assert planning.stored_rate(SPLIT_SWEEP, runs) is None
    assert planning.measured_rate(dataclasses.replace(TINY, resolutions=((0.0, 16), (0.5, 32)))) > 0
    told: list[str] = []
    assert planning.rate(SPLIT_SWEEP, runs, told.append) > 0  # type: ignore[operator]
    assert len(told) == 1 and "measuring" in told[0]
    assert planning.rate(SPLIT_SWEEP, []) is None


def test_runs_are_stored_and_reproduced_from_their_checkpoints(
    project: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run collapses, which does not stop the others."""
    runs, real = [tiny_run(split, draw) for draw in (0, 1) for split in ("7-5", "6-6")], experiments.train

    def failing(config: TrainConfig, train_set: ImageSet, classes: tuple[int, ...], **more: object) -> object:
        if len(tuple(classes)) == 7:
            raise CollapseError("all the same")
        return real(config, train_set, classes, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(experiments, "train", failing)
    with pytest.raises(TrainingError, match=r"2 of 4 runs failed.*7-5-draw1-seed0-tiny: all the same"):
        sweep(runs, parts)
    done = [run for run in runs if run.key["split"] == "6-6"]
    check_complete(done, parts)
    # Another recipe has a place of its own; the same name with other settings does not take that of what is stored.
    monkeypatch.setitem(recipes.RECIPES, "other", dataclasses.replace(TINY, recipe="other"))
    assert stored(SPLIT_SWEEP, done[0]) == "yes"
    other = tiny_run("6-6", recipe="other")
    assert stored(SPLIT_SWEEP, other) == "no"
    assert SPLIT_SWEEP.checkpoint_path(other).name == "cifar100-6-6-draw0-seed0-other.safetensors"
    monkeypatch.setitem(recipes.RECIPES, "tiny", dataclasses.replace(TINY, epochs=1))
    assert stored(SPLIT_SWEEP, tiny_run("6-6")) == "other"


def test_stored_weights_are_those_of_an_undisturbed_training(
    project: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a training was interrupted after an epoch and went on from its folder."""
    run, real = tiny_run("6-6"), experiments.train
    halted: Callable[..., object] = lambda *given, **more: real(*given, stop_after=1, **more)  # noqa: E731
    monkeypatch.setattr(experiments, "train", halted)
    with pytest.raises(TrainingError, match="Stopped after 1"):
        carry_out(run, bench_of(parts).at(SPLIT_SWEEP.folder(run)))
    monkeypatch.setattr(experiments, "train", real)
    sweep([run], parts)
    content = carry_out(run, bench_of(parts)).checkpoint
    assert content is not None
    again = project / "again.safetensors"
    again.write_bytes(content)
    one, other = (load_encoder(path).state_dict() for path in (again, checkpoint_path("6-6", 0, recipe="tiny")))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert not SPLIT_SWEEP.folder(run).exists()
