"""The drawing study: what is learned from which images, what is judged on which, and what is stored."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import siamese_utils
from siamese_utils import cli
from siamese_utils.data.images import ImageSet
from siamese_utils.data.sources import search_folders
from siamese_utils.data.symbols import OneShotRun, load_omniglot_background, synthetic_symbols
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, DataError, ResultsError, SamplingError, UnknownNameError
from siamese_utils.evaluation.estimates import Estimate, wilson
from siamese_utils.experiments import store as results
from siamese_utils.report import page
from siamese_utils.studies.drawing import study
from siamese_utils.studies.drawing.study import (
    RUNS,
    DrawingRun,
    SymbolData,
    accuracy_on_alphabets,
    accuracy_on_runs,
    characters_of,
    in_four_turns,
    is_stored,
    joined,
    run_drawing,
    stored_drawing,
    training_images,
    validation_alphabets,
)
from siamese_utils.training.config import TrainConfig

ROOT = Path(siamese_utils.__file__).resolve().parents[1]
HAS_OMNIGLOT = any((folder / "omniglot" / "all_runs.zip").is_file() for folder, _ in search_folders())


@pytest.fixture(scope="module")
def data() -> SymbolData:
    """Ten made-up digits, and three alphabets of 21, 21 and 5 characters by four people."""
    characters = synthetic_symbols(47, 4, seed=5)
    characters = dataclasses.replace(
        characters, superclass_names=("A", "B", "C"), superclass_of=(0,) * 21 + (1,) * 21 + (2,) * 5
    )
    return SymbolData(synthetic_symbols(10, 16), synthetic_symbols(10, 16, part="test"), characters)


@pytest.fixture(scope="module")
def runs(data: SymbolData) -> list[OneShotRun]:
    """Two runs of twenty characters, their queries in another order than their supports."""
    order = torch.from_numpy(np.random.default_rng(0).permutation(20))
    images = data.characters.images.view(47, 4, 28, 28, 3)
    return [OneShotRun(images[:20, i].contiguous(), images[order, i + 2].contiguous(), order) for i in range(2)]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "results").mkdir()
    (tmp_path / "siamese_utils").mkdir()
    monkeypatch.chdir(tmp_path)
    tiny = {"encoder": "conv3", "embedding_dim": 8, "batch_size": 32, "held_out_images": 3, "most_images": 64}
    for name in ("DIGITS", "SOME_DIGITS"):
        monkeypatch.setattr(study, name, dataclasses.replace(getattr(study, name), **tiny))
    few = dataclasses.replace(study.CHARACTERS, encoder="conv3", embedding_dim=8, batch_size=32)
    monkeypatch.setattr(study, "CHARACTERS", few)
    monkeypatch.setattr(study, "MNIST_SAMPLE", 5)
    return tmp_path


class FlatPixels:
    """Stands in for an encoder: an image's embedding is its pixels."""

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        return F.normalize(images[..., 0].flatten(1).float(), dim=1)


# --- what is learned ------------------------------------------------------------------------------


def test_turned_classes_are_classes_of_their_own(data: SymbolData) -> None:
    turned = in_four_turns(data.characters)
    count, classes = len(data.characters), data.characters.num_classes
    assert len(turned) == 4 * count and turned.num_classes == 4 * classes
    assert torch.equal(turned.images[:count], data.characters.images)
    for quarter in range(4):
        rows = slice(quarter * count, (quarter + 1) * count)
        back = torch.rot90(turned.images[rows], -quarter, (1, 2))
        assert torch.equal(back, data.characters.images)
        assert torch.equal(turned.labels[rows] - quarter * classes, data.characters.labels)
    assert turned.class_names[classes] == f"{turned.class_names[0]} turned 90"


def test_joined_keeps_every_name(data: SymbolData) -> None:
    both = joined(data.characters, data.digits)
    for part, first, shift in ((data.characters, 0, 0), (data.digits, len(data.characters), 47)):
        names = [both.class_names[label] for label in both.labels[first : first + len(part)]]
        assert names == [part.class_names[label] for label in part.labels]
        assert both.superclass_names[both.superclass_of[shift]] == part.superclass_names[0]


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("train_on", ["omniglot", "both"])
def test_held_out_alphabets_are_never_learned(
    data: SymbolData, train_on: str, turns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "MNIST_SAMPLE", 5)
    without = validation_alphabets(data.characters, 1)
    images, classes = training_images(data, train_on, without=without, turns=turns)
    hidden = characters_of(data.characters, without).tolist()
    hidden_names = {data.characters.class_names[label] for label in hidden}
    assert set(images.labels.tolist()) == set(classes)
    assert not {images.class_names[label].split(" turned")[0] for label in classes} & hidden_names - {
        name for name in data.digits.class_names if train_on == "both"
    }
    hidden_pixels = {image.numpy().tobytes() for image in data.characters.images[data.characters.indices_of(hidden)]}
    assert not {image.numpy().tobytes() for image in images.images} & hidden_pixels
    assert len(classes) == (47 - len(hidden)) * (4 if turns else 1) + (10 if train_on == "both" else 0)
    assert len(images) == (47 - len(hidden)) * 4 * (4 if turns else 1) + (50 if train_on == "both" else 0)


def test_digits_are_never_turned(data: SymbolData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "MNIST_SAMPLE", 5)
    images, _ = training_images(data, "both")
    known = {image.numpy().tobytes() for image in data.digits.images}
    digits = [i for i in range(len(images)) if images.class_names[images.labels[i]] in data.digits.class_names
              and int(images.labels[i]) >= 4 * 47]  # fmt: skip
    assert len(digits) == 50 and all(images.images[i].numpy().tobytes() in known for i in digits)
    assert training_images(data, "mnist")[0] is data.digits
    with pytest.raises(DataError, match="mnist, omniglot, both"):
        training_images(data, "emnist")


def test_validation_alphabets_can_hold_a_run(data: SymbolData) -> None:
    assert validation_alphabets(data.characters) == (0, 1)  # the third has five characters
    assert validation_alphabets(data.characters, 1) == validation_alphabets(data.characters, 1)


def test_symbols_are_not_mirrored() -> None:
    for run in RUNS:
        assert not run.config.augment.flip
    assert len({run.name for run in RUNS}) == len(RUNS)
    assert [run.train_on for run in RUNS].index("validation") < [run.train_on for run in RUNS].index("both")


def test_the_official_runs_are_opened_in_one_place() -> None:
    """Only the evaluation of a finished encoder may read them."""
    places = []
    for path in sorted(Path(siamese_utils.__file__).parent.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                used = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
                used |= {node.attr for node in ast.walk(function) if isinstance(node, ast.Attribute)}
                if "load_omniglot_runs" in used:
                    places.append((f"{path.parent.name}/{path.stem}", function.name))
    assert places == [("drawing/study", "accuracy_on_runs")]


# --- judging --------------------------------------------------------------------------------------


def test_runs_are_judged_by_the_nearest_example(runs: list[OneShotRun]) -> None:
    answers = accuracy_on_runs(FlatPixels(), runs)  # type: ignore[arg-type]
    z = FlatPixels()
    hits = [
        int((z.embed(run.query[i : i + 1]) @ z.embed(run.support).T).argmax()) == int(run.true[i])
        for run in runs for i in range(20)
    ]  # fmt: skip
    assert answers.hits.flatten().tolist() == hits and 0 < sum(hits) < 40
    low, high = wilson(sum(hits), 40)
    by_trial = answers.metrics["acc_20w1s_runs"]
    assert by_trial.value == pytest.approx(100 * sum(hits) / 40) and by_trial.n == 40
    assert by_trial.ci95 == pytest.approx((high - low) / 2)
    assert answers.metrics["acc_20w1s_by_run"].n == 2


def test_tasks_within_alphabets(data: SymbolData) -> None:
    class Oracle:
        """Knows every drawing's class, and nothing else."""

        def __init__(self, flaw: float) -> None:
            self.flaw = flaw
            self.known = {i.numpy().tobytes(): int(y) for i, y in zip(data.characters.images, data.characters.labels)}

        def embed(self, images: torch.Tensor) -> torch.Tensor:
            labels = torch.tensor([self.known[image.numpy().tobytes()] for image in images])
            wrong = torch.rand(len(labels), generator=torch.Generator().manual_seed(0)) < self.flaw
            return F.one_hot(torch.where(wrong, 99, labels), 100).float()

    perfect = accuracy_on_alphabets(Oracle(0), data.characters, (0, 1), episodes=20)  # type: ignore[arg-type]
    assert (perfect.value, perfect.n) == (100, 40)
    lost = accuracy_on_alphabets(Oracle(1), data.characters, (0, 1), episodes=20)  # type: ignore[arg-type]
    assert lost.value == pytest.approx(5)
    with pytest.raises(SamplingError, match="alphabet C"):
        accuracy_on_alphabets(Oracle(0), data.characters, (2,))  # type: ignore[arg-type]


def test_support_and_query_are_by_different_people(data: SymbolData) -> None:
    class Photographic:
        """Recognises a drawing that it has seen, and nothing else."""

        def embed(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(len(images))

    accuracy = accuracy_on_alphabets(Photographic(), data.characters, (0, 1), episodes=20)  # type: ignore[arg-type]
    assert accuracy.value < 10


# --- storing --------------------------------------------------------------------------------------


def test_study_is_stored_and_reproduced(data: SymbolData, runs: list[OneShotRun], project: Path) -> None:
    validation, both = (DrawingRun(name, images=64) for name in ("validation", "both"))
    plan = [DrawingRun("mnist"), validation, both, DrawingRun("5-5", 1)]
    for run in plan:
        assert not is_stored(run)
        run_drawing(run, data, runs=runs, device="cpu", progress=False)
        assert is_stored(run)
    assert not is_stored(DrawingRun("both", images=96))  # another configuration
    table = stored_drawing()
    assert set(table.metric) <= set(study.METRICS)
    assert set(table[table.train_on == "both"].checkpoint) == {"results/checkpoints/drawing.safetensors"}
    path = project / "results" / "checkpoints" / "drawing.safetensors"
    info, encoder = checkpoint_info(path), load_encoder(path)
    assert not encoder.mirror and encoder.image_size == 28
    assert set(info["calibration"]) == {"slope", "intercept"} and isinstance(info["threshold"], float)
    again = accuracy_on_runs(encoder, runs).metrics
    stored = table.query("train_on == 'both'").set_index("metric").value
    assert stored["acc_20w1s_runs"] == pytest.approx(again["acc_20w1s_runs"].value, abs=1e-3)
    # Only the digits that a division names are learned, and the validation run says how to read similarities.
    record = results.load_json("drawing-5-5-draw1")
    assert sorted(record["learned"]) == sorted(np.random.default_rng(1).permutation(10)[:5].tolist())
    assert results.load_json("drawing-validation")["verdict"]["threshold"] == info["threshold"]
    assert results.load_json("drawing-validation")["held_out"] == ["A", "B"]
    assert not (project / "runs" / "drawing-both").exists()


def test_a_source_waits_for_the_validation_run(data: SymbolData, project: Path) -> None:
    with pytest.raises(ResultsError):
        run_drawing(DrawingRun("omniglot", images=64), data, runs=[], device="cpu", progress=False)


def test_trials_change_what_they_say(data: SymbolData, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TRIAL_IMAGES", 256)
    monkeypatch.setattr(study, "validation_alphabets", lambda characters: (0,))
    first = study.TRIALS[0]
    estimate = study.run_trial(first, data, device="cpu", progress=False)
    log = study.trial_log()
    assert log.trial.tolist() == [first.name] and log.result[0] == f"{estimate.value:.1f} ± {estimate.ci95:.1f}"
    for trial in study.TRIALS:
        for name, value in trial.changes:
            assert getattr(trial.config, name) == value != getattr(study.CHARACTERS, name)


# --- the stored encoder ---------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_OMNIGLOT, reason="Omniglot is not on this machine")
@pytest.mark.parametrize("train_on", study.SOURCES)
def test_stored_accuracy_on_the_runs_is_reproduced(train_on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path = study.checkpoint_path(train_on)
    if not path.is_file() or not study.table_path().is_file():
        pytest.skip("no stored encoder")
    rows = stored_drawing().query("checkpoint == @path.relative_to(@ROOT).as_posix() and metric == 'acc_20w1s_runs'")
    if rows.empty:
        pytest.skip("no stored number")
    again = accuracy_on_runs(load_encoder(path)).metrics["acc_20w1s_runs"]
    assert again.value == pytest.approx(rows.value.iloc[0], abs=0.5)  # two of 400 trials: rounding may decide a tie
    assert TrainConfig.from_json(checkpoint_info(path)["config"]).augment.flip is False


@pytest.mark.usefixtures("users_cache")
@pytest.mark.skipif(not HAS_OMNIGLOT, reason="Omniglot is not on this machine")
def test_encoder_that_is_taught_nothing_is_far_from_perfect(tmp_path: Path) -> None:
    """A leak between support and query would show here."""
    torch.manual_seed(0)
    encoder = Encoder("conv3", image_size=28, mirror=False)
    encoder.set_pixel_statistics(load_omniglot_background().images[:500])
    save_encoder(encoder, tmp_path / "untrained.safetensors")
    accuracy = accuracy_on_runs(load_encoder(tmp_path / "untrained.safetensors")).metrics["acc_20w1s_runs"]
    assert 5 < accuracy.value < 60


def test_synthetic_set_has_no_alphabets(data: SymbolData) -> None:
    images: ImageSet = synthetic_symbols(3, 2)
    assert characters_of(images, [0]).tolist() == [0, 1, 2] and characters_of(images, [1]).tolist() == []


# --- what the notebook shows ----------------------------------------------------------------------


def test_demo_encoder_of_made_up_symbols_knows_them() -> None:
    made_up = study.synthetic_symbol_data()
    encoder, verdict = study.demo_encoder(made_up.characters)
    metrics = accuracy_on_runs(encoder, study.runs_from(made_up.characters, (0, 1))).metrics
    assert metrics["acc_20w1s_runs"].value > 60 and -1 < verdict.threshold < 1 and verdict.slope > 0


def test_demo_encoder_needs_its_verdict(data: SymbolData, project: Path) -> None:
    real = dataclasses.replace(data.characters, name="omniglot")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        study.demo_encoder(real)
    save_encoder(Encoder("conv3", 8, image_size=28, mirror=False), study.checkpoint_path(), {"threshold": 0.5})
    with pytest.raises(CheckpointError, match="similarities"):
        study.demo_encoder(real)


def test_run_all_goes_on_where_it_was(data: SymbolData, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "load_symbol_data", lambda: data)
    first = [(run.name, bool(metrics)) for run, metrics in study.run_all(only=["4-6"], device="cpu", progress=False)]
    assert first == [(f"drawing-4-6-draw{draw}", True) for draw in range(3)]
    monkeypatch.setattr(study, "load_symbol_data", None)  # nothing is loaded when all is stored
    assert [bool(metrics) for _, metrics in study.run_all(only=["4-6"])] == [False] * 3
    with pytest.raises(UnknownNameError, match="known are: mnist"):
        list(study.run_all(only=["mnits"]))


def test_command_line_prints_every_metric(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: dict[str, object] = {}

    def pretend(**how: object) -> list[tuple[DrawingRun, dict[str, Estimate]]]:
        asked.update(how)
        return [(RUNS[0], {"pair_acc_digits": Estimate(99.123, 0.05, 10)}), (RUNS[1], {})]

    monkeypatch.setattr(study, "run_all", pretend)
    monkeypatch.setattr("sys.argv", ["siamese_utils", "drawing", "--only", "mnist", "--images", "500"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out = capsys.readouterr().out
    assert not stop.value.code and "99.12 ± 0.05" in out and "drawing-validation: stored" in out
    assert asked == {"only": ["mnist"], "images": 500, "device": "auto"}


@pytest.mark.parametrize("profile", ["smoke", "report"])
def test_notebook_starts_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    shown: list[object] = []
    small = SymbolData(synthetic_symbols(10, 2), synthetic_symbols(10, 2, part="test"), synthetic_symbols(3, 2))
    monkeypatch.setattr(study, "synthetic_symbol_data", lambda: small)
    monkeypatch.setattr(page, "display", shown.append)
    monkeypatch.setenv("SIAMESE_PROFILE", profile)
    monkeypatch.setenv("SIAMESE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setattr("siamese_utils.data.sources.search_folders", lambda root=None: [(tmp_path, "./data")])
    started = page.start_symbols()
    assert started.is_synthetic and started.train_set is small.characters and started.test_set is small.test_digits
    assert 'data-siamese-source="synthetic"' in shown[0].data  # type: ignore[attr-defined]
    monkeypatch.setenv("SIAMESE_PROFILE", "fast")
    with pytest.raises(UnknownNameError, match="smoke, report, full"):
        page.start_symbols()
