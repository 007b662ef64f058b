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
from siamese_utils.data.images import ImageSet
from siamese_utils.data.sources import search_folders
from siamese_utils.data.symbols import OneShotRun, load_omniglot_background, synthetic_symbols
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, ConfigError, DataError, ResultsError, SamplingError, UnknownNameError
from siamese_utils.evaluation.estimates import Estimate, wilson
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench, Run, run_study, select, stored
from siamese_utils.report import page
from siamese_utils.studies.drawing import data as module
from siamese_utils.studies.drawing import figures, findings, judging, study
from siamese_utils.studies.drawing.data import (
    SOURCES,
    SymbolData,
    characters_of,
    images_to_learn,
    in_four_turns,
    join_sets,
    load_symbol_data,
    runs_from,
    synthetic_symbol_data,
    validation_alphabets,
)
from siamese_utils.studies.drawing.demo import demo_encoder
from siamese_utils.studies.drawing.judging import accuracy_on_alphabets, accuracy_on_runs
from siamese_utils.studies.drawing.study import DRAWING, DRAWING_TRIALS
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
def small(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project in which every training takes a second."""
    tiny = {"encoder": "conv3", "embedding_dim": 8, "batch_size": 32}
    for name in ("DIGITS", "SOME_DIGITS"):
        less = dataclasses.replace(getattr(study, name), **tiny, held_out_images=3, most_images=64)
        monkeypatch.setattr(study, name, less)
    monkeypatch.setattr(study, "CHARACTERS", dataclasses.replace(study.CHARACTERS, **tiny))
    monkeypatch.setattr(module, "MNIST_SAMPLE", 5)
    return project


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
    both = join_sets(data.characters, data.digits)
    for part, first, shift in ((data.characters, 0, 0), (data.digits, len(data.characters), 47)):
        names = [both.class_names[label] for label in both.labels[first : first + len(part)]]
        assert names == [part.class_names[label] for label in part.labels]
        assert both.superclass_names[both.superclass_of[shift]] == part.superclass_names[0]


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("train_on", ["omniglot", "both"])
def test_held_out_alphabets_are_never_learned(
    data: SymbolData, train_on: str, turns: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MNIST_SAMPLE", 5)
    without = validation_alphabets(data.characters, 1)
    images, classes = images_to_learn(data, train_on, without=without, turns=turns)
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
    monkeypatch.setattr(module, "MNIST_SAMPLE", 5)
    images, _ = images_to_learn(data, "both")
    known = {image.numpy().tobytes() for image in data.digits.images}
    digits = [
        i
        for i in range(len(images))
        if images.class_names[images.labels[i]] in data.digits.class_names and int(images.labels[i]) >= 4 * 47
    ]
    assert len(digits) == 50 and all(images.images[i].numpy().tobytes() in known for i in digits)
    assert images_to_learn(data, "mnist")[0] is data.digits
    with pytest.raises(DataError, match="mnist, omniglot, both"):
        images_to_learn(data, "emnist")


def test_validation_alphabets_can_hold_a_run(data: SymbolData) -> None:
    assert validation_alphabets(data.characters) == (0, 1)  # the third has five characters
    assert validation_alphabets(data.characters, 1) == validation_alphabets(data.characters, 1)


def test_symbols_are_not_mirrored() -> None:
    for run in (*DRAWING.runs(), *DRAWING_TRIALS.runs()):
        assert not run.config.augment.flip


def test_the_validation_run_comes_before_those_that_use_its_verdict() -> None:
    runs = select(DRAWING)
    assert len({DRAWING.record_path(run) for run in runs}) == len(runs)
    sources = [run.key["train_on"] for run in runs]
    for run in runs:
        for path in run.built_on:
            assert path == DRAWING.record_path(runs[sources.index("validation")])
            assert sources.index("validation") < runs.index(run)
    assert {run.key["train_on"] for run in runs if run.built_on} == {"omniglot", "both"}
    with pytest.raises(UnknownNameError, match="known are: mnist"):
        select(DRAWING, ["mnits"])


@pytest.mark.parametrize("images", [-4, 0, 95])
def test_too_few_images_are_refused_before_anything_is_loaded(images: int) -> None:
    with pytest.raises(ConfigError, match=rf"--images takes 96 or more, .* not {images}\."):
        DRAWING.runs(images=images)


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
    assert places == [("drawing/judging", "accuracy_on_runs")]


# --- judging --------------------------------------------------------------------------------------


def test_runs_are_judged_by_the_nearest_example(runs: list[OneShotRun]) -> None:
    answers = accuracy_on_runs(FlatPixels(), runs)  # type: ignore[arg-type]
    z = FlatPixels()
    hits = [
        int((z.embed(run.query[i : i + 1]) @ z.embed(run.support).T).argmax()) == int(run.true[i])
        for run in runs
        for i in range(20)
    ]
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


def test_study_is_stored_and_reproduced(
    data: SymbolData, runs: list[OneShotRun], small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "load_omniglot_runs", lambda: runs)
    bench = Bench("cpu", progress=False, given={(load_symbol_data,): data})
    plan = select(DRAWING, ["mnist", "validation", "both", "5-5-draw1-seed1"], images=64)
    assert len(list(run_study(DRAWING, plan, bench))) == 4
    table = DRAWING.table()
    assert set(table.metric) <= set(DRAWING.metrics)
    assert set(table[table.train_on == "both"].checkpoint) == {"results/checkpoints/drawing.safetensors"}
    path = small / "results" / "checkpoints" / "drawing.safetensors"
    info, encoder = checkpoint_info(path), load_encoder(path)
    assert not encoder.mirror and encoder.image_size == 28
    assert set(info["calibration"]) == {"slope", "intercept"} and isinstance(info["threshold"], float)
    rows = table[table.train_on == "both"].set_index("metric").value
    assert rows["acc_20w1s_runs"] == pytest.approx(accuracy_on_runs(encoder).metrics["acc_20w1s_runs"].value, abs=1e-3)
    again = DRAWING.again(path, bench)["drawing"]
    assert {name: round(estimate.value, 4) for name, estimate in again.items()} == rows.to_dict()
    # Only the digits that a division names are learned, and the validation run says how to read similarities.
    record = store.load_json("drawing-5-5-draw1")
    assert sorted(record["learned"]) == sorted(np.random.default_rng(1).permutation(10)[:5].tolist())
    assert store.load_json("drawing-validation")["verdict"]["threshold"] == info["threshold"]
    assert store.load_json("drawing-validation")["held_out"] == ["A", "B"]
    # Another validation run has another verdict: what was built on the old one does not count.
    both = select(DRAWING, ["both"], images=64)[0]
    assert stored(DRAWING, both) == "yes"
    store.store_json("drawing-validation", {**store.load_json("drawing-validation"), "verdict": {}})
    assert stored(DRAWING, both) == "other"


def test_a_source_waits_for_the_validation_run(data: SymbolData, small: Path) -> None:
    bench = Bench("cpu", progress=False, given={(load_symbol_data,): data})
    with pytest.raises(ResultsError):
        list(run_study(DRAWING, select(DRAWING, ["omniglot"], images=64), bench))


def test_a_file_of_another_study_is_not_computed_anew(small: Path) -> None:
    save_encoder(Encoder("conv3", 8, image_size=28, mirror=False), small / "another.safetensors", {"split": "90-10"})
    with pytest.raises(CheckpointError, match="no encoder of the drawing study"):
        DRAWING.again(small / "another.safetensors", Bench())


def test_trials_change_what_they_say(data: SymbolData, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "TRIAL_IMAGES", 256)
    monkeypatch.setattr(study, "validation_alphabets", lambda characters: (0,))
    bench = Bench("cpu", progress=False, given={(load_symbol_data,): data})
    base, *others = DRAWING_TRIALS.runs()
    ((_, metrics),) = run_study(DRAWING_TRIALS, [base], bench)
    log, estimate = findings.trials_table().frame, metrics["acc_20w1s_validation"]
    assert log.trial.tolist() == ["base"] and log.result[0] == f"{estimate.value:.1f} ± {estimate.ci95:.1f}"
    assert log.expectation[0] == base.expectation
    assert findings.trials_sentence() == "Not stored yet: large-batches, mnist-too, unbent, upright."
    assert not list(run_study(DRAWING_TRIALS, [base], Bench(given={})))  # no trial is run twice
    for trial in others:
        assert (
            changes(trial, base)
            == {
                "large-batches": {"batch_size", "learning_rate"},
                "upright": {"turns"},
                "unbent": {"augment"},
                "mnist-too": {"train_on"},
            }[trial.key["trial"]]
        )


def changes(trial: Run, base: Run) -> set[str]:
    """The fields, and settings beside the configuration, in which two trials differ."""
    one, other = ({**run.config.to_json(), **run.settings} for run in (trial, base))
    return {name for name in one if one[name] != other[name]} - {"config", "recipe"}


# --- the stored encoder ---------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_OMNIGLOT, reason="Omniglot is not on this machine")
@pytest.mark.parametrize("train_on", SOURCES)
def test_stored_accuracy_on_the_runs_is_reproduced(train_on: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    path = study.checkpoint_path(train_on)
    if not path.is_file() or not DRAWING.path.is_file():
        pytest.skip("no stored encoder")
    rows = DRAWING.table().query("checkpoint == @path.relative_to(@ROOT).as_posix() and metric == 'acc_20w1s_runs'")
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
    made_up = synthetic_symbol_data()
    encoder, verdict = demo_encoder(made_up.characters)
    answers = accuracy_on_runs(encoder, runs_from(made_up.characters, (0, 1)))
    assert answers.metrics["acc_20w1s_runs"].value > 60 and -1 < verdict.threshold < 1 and verdict.slope > 0
    assert f"names **{int(answers.hits.sum())} of 40** queries right" in findings.recomputed_sentence(answers)
    same, different = findings.similarities_of_digits(encoder, made_up.test_digits)
    assert len(same) == len(different) == 10_000 and same.mean() > different.mean()
    assert f"threshold of {verdict.threshold:.2f}" in findings.threshold_sentence(same, different, verdict)


def test_demo_encoder_needs_its_verdict(data: SymbolData, small: Path) -> None:
    real = dataclasses.replace(data.characters, name="omniglot")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        demo_encoder(real)
    save_encoder(Encoder("conv3", 8, image_size=28, mirror=False), study.checkpoint_path(), {"threshold": 0.5})
    with pytest.raises(CheckpointError, match="similarities"):
        demo_encoder(real)


def test_findings_say_what_is_stored(project: Path) -> None:
    def put(train_on: str, draw: int = 0, **metrics: Estimate) -> None:
        key = {"train_on": train_on, "draw": draw, "seed": draw}
        store.store_rows(DRAWING.path, key, metrics, columns=DRAWING.all_columns)

    with pytest.raises(ResultsError, match="study drawing"):
        findings.official_accuracy()
    for draw, value in enumerate((60.0, 70.0)):
        put("2-8", draw, pair_auc_unseen_digits=Estimate(value, 1.0, 9))
        put("5-5", draw, pair_auc_unseen_digits=Estimate(90, 1, 9), acc_5w1s_unseen_digits=Estimate(value, 1, 9))
        store.store_json(f"drawing-5-5-draw{draw}", {"learned": [draw, 2, 4, 6, 8]})
    assert "With 2 digits learned, the AUC on unseen digits is **65.0**" in findings.unseen_sentence()
    assert "with 5 it is **90.0**. The widest range between draws is **10.0**" in findings.unseen_sentence()
    fives = findings.five_digits().frame
    assert fives.learned.tolist() == ["02468", "12468"] and fives["never seen"].tolist() == ["13579", "03579"]
    assert fives["5-way 1-shot (%)"].tolist() == ["60.0 ± 1.0", "70.0 ± 1.0"]
    put(
        "omniglot",
        acc_20w1s_runs=Estimate(91, 3, 400),
        acc_20w1s_by_run=Estimate(91, 2, 20),
        acc_5w1s_unseen_digits=Estimate(88, 0.1, 9),
    )
    assert len(findings.official_runs()) == 1 and findings.official_accuracy().index.tolist() == ["omniglot"]
    for source, value in (("mnist", 50), ("both", 94)):
        put(source, acc_20w1s_runs=Estimate(value, 3, 400), acc_20w1s_by_run=Estimate(value, 2, 20))
    table, gains, letters = findings.official_runs()
    low, high = wilson(376, 400)
    assert table.frame["95%, over trials"].tolist()[-1] == f"{low:.1f} to {high:.1f}"
    assert "**+3.0** points (the intervals overlap), the alphabets beside MNIST by **+44.0**" in gains
    assert "**88.0 ± 0.1%**" in letters and letters.endswith("60.0 to 70.0%.")
    labels = [text.get_text() for text in figures.omniglot().figure.axes[0].get_yticklabels()]
    assert labels.index("this network, MNIST alone") == 0 and labels[-1] == "Bayesian program learning (30 alphabets)"
    assert labels[3:5] == ["this network, 8 alphabets", "Siamese network (Koch) (30 alphabets)"]


@pytest.mark.parametrize("profile", ["smoke", "report"])
def test_notebook_starts_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    shown: list[object] = []
    small = SymbolData(synthetic_symbols(10, 2), synthetic_symbols(10, 2, part="test"), synthetic_symbols(3, 2))
    monkeypatch.setattr(module, "synthetic_symbol_data", lambda: small)
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
