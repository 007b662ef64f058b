"""Training on a folder of one's own images: what is set aside, what is fitted, resumption, what is said in the end."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_utils.data.photos import Photos, find_photos
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import (
    ConfigError,
    DataError,
    ImageError,
    ResultsError,
    SamplingError,
    SplitError,
    TrainingError,
)
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.study import Bench, run_study
from siamese_utils.recognition.support import read_support
from siamese_utils.studies.own_images import training as study
from siamese_utils.studies.own_images.training_findings import training_sentence, training_table
from siamese_utils.system.provenance import provenance
from siamese_utils.training import own_images, own_run
from siamese_utils.training import own_settings as fitting
from siamese_utils.training.own_images import part_classes, train_images
from siamese_utils.training.own_run import Compared, OwnTraining, worth
from siamese_utils.training.own_settings import OwnSettings, fitted, turns_are_seen
from siamese_utils.training.task import make_batches

SETTINGS = OwnSettings(size=16, encoder="conv3", epochs=12)


def draw_class(rng: np.random.Generator, folder: Path, count: int) -> None:
    """A pattern of its own, lighter at the top, under noise."""
    folder.mkdir(parents=True)
    pattern = rng.integers(0, 160, (3, 3, 3)) + np.linspace(90, 0, 3)[:, None, None]
    for number in range(count):
        pixels = np.kron(pattern, np.ones((6, 6, 1))) + rng.normal(0, 30, (18, 18, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


def draw_folder(folder: Path, classes: int, count: int = 9) -> Path:
    rng = np.random.default_rng(0)
    for number in range(classes):
        draw_class(rng, folder / f"class {number}", count)
    return folder


@pytest.fixture(scope="module")
def other() -> Encoder:
    torch.manual_seed(0)
    return Encoder("conv3", 4, image_size=24).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_folder(tmp_path_factory.mktemp("own") / "things", 10)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_run, "measured_rate", lambda *_: 50.0)
    monkeypatch.setattr(own_images, "EPISODES", 500)


@pytest.fixture
def train(tmp_path: Path, folder: Path, other: Encoder) -> Callable[..., OwnTraining]:
    def call(images: Path = folder, settings: OwnSettings = SETTINGS, **more: Any) -> OwnTraining:
        given = {"runs": tmp_path / "runs", "other": other, "other_name": "another", "device": "cpu", "progress": False}
        return train_images(images, tmp_path / more.pop("out", "own.safetensors"), settings, **given, **more)

    return call


# ------------------------------------------------------------------------------------------ the whole


def test_a_folder_becomes_a_checkpoint_that_tells_of_itself(train: Callable, tmp_path: Path) -> None:
    told: list[str] = []
    done = train(tell=told.append)
    encoder, info = load_encoder(done.path), checkpoint_info(done.path)
    assert encoder.image_size == 16 and encoder.name == "conv3"
    assert encoder.embed(np.zeros((2, 16, 16, 3), np.uint8)).shape == (2, encoder.embedding_dim)
    parts = [info[f"{part}_classes"] for part in ("learned", "validation", "report")]
    assert sorted(chain(*parts)) == [f"class {number}" for number in range(10)] and len(parts[0]) == 6
    assert info["config"]["encoder"] == "conv3" and 0 < info["threshold"] < 1 and info["seconds"] > 0
    assert [each["metric"] for each in info["results"]] == ["2-way 1-shot accuracy", "2-way 5-shot accuracy"]
    assert "On 2 classes that it has not learned, 18 images" in done.sentence and "(another: " in done.sentence
    assert (
        len(told) == 1 and "6 classes from 54 images" in told[0] and "13 seconds" in told[0]
    )  # 648 images, 50 a second
    assert not list((tmp_path / "runs").glob("things-*"))  # the state is of no use any more


def test_a_killed_training_goes_on_to_the_same_weights(train: Callable, tmp_path: Path) -> None:
    whole = train(out="whole.safetensors")
    assert whole.info["epochs"] > 2
    told: list[str] = []
    with pytest.raises(TrainingError, match="Stopped after 1 epoch"):
        train(out="parts.safetensors", stop_after=1)
    assert not (tmp_path / "parts.safetensors").exists()
    parts = train(out="parts.safetensors", tell=told.append)
    assert "interrupted" in told[0]
    weights = [one.encoder.state_dict() for one in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert whole.results == parts.results


def test_minutes_are_turned_into_images_once(train: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = OwnSettings(size=16, encoder="conv3", minutes=0.2)
    with pytest.raises(TrainingError):
        train(settings=settings, stop_after=1)
    (plan,) = (tmp_path / "runs").glob("*/plan.json")
    assert json.loads(plan.read_text())["most_images"] == 600  # of 12 seconds at 50 a second
    monkeypatch.setattr(own_run, "measured_rate", lambda *_: 500.0)  # a busy machine has become idle
    assert train(settings=settings).info["config"]["most_images"] == 600


def test_other_images_or_settings_do_not_go_on_from_a_state(train: Callable, tmp_path: Path, folder: Path) -> None:
    for settings in (SETTINGS, OwnSettings(size=16, encoder="conv3", epochs=13)):
        with pytest.raises(TrainingError, match="as asked"):
            train(settings=settings, stop_after=1)
    assert len(list((tmp_path / "runs").glob("*/state.pt"))) == 2


def test_an_image_moved_to_another_class_does_not_go_on_from_a_state(train: Callable, tmp_path: Path) -> None:
    """The last of a class, which comes first in the next: images and their order stay as they are."""
    folder = draw_folder(tmp_path / "mine", 10)
    last = sorted((folder / "class 3").iterdir())[-1]
    for target in (last, folder / "class 4" / f"0 {last.name}"):
        last = last.rename(target)
        with pytest.raises(TrainingError, match="as asked"):
            train(images=folder, stop_after=1)
    assert len(list((tmp_path / "runs").glob("*/state.pt"))) == 2


def test_few_classes_are_judged_by_those_that_were_chosen_by(train: Callable, tmp_path: Path) -> None:
    done = train(images=draw_folder(tmp_path / "few", 5, 4))
    assert done.info["validation_classes"] == done.info["report_classes"] and len(done.info["learned_classes"]) == 3
    assert "chosen by these same classes" in done.sentence
    assert [each.metric for each in done.results] == ["2-way 1-shot accuracy"]  # four images leave no five shots


# ------------------------------------------------------------------------------------- classes set aside


@pytest.mark.parametrize("count", [4, 8, 9, 30, 400])
def test_learned_classes_are_never_judged_by(count: int) -> None:
    parts = part_classes([9] * count, seed=1)
    learned, validation, report = map(set, (parts.learned, parts.validation, parts.report))
    assert not learned & (validation | report) and learned | validation | report == set(range(count))
    assert parts.independent == (count >= 9) and (not validation & report) == (count >= 9)
    assert min(map(len, (learned, validation, report))) >= 2
    assert part_classes([9] * count, seed=1) == parts != part_classes([9] * count, seed=2)


def test_classes_of_few_images_are_learned_and_those_of_one_left_out() -> None:
    parts = part_classes([1, 2, 9, 9, 9, 9, 9, 9, 9, 9, 3], seed=0)
    assert {1, 10} <= set(parts.learned) and 0 not in {*parts.learned, *parts.validation, *parts.report}


@pytest.mark.parametrize(
    ("sizes", "words"), [([9, 9, 9], "there are 3"), ([2, 2, 2, 1, 1], r"and 2 with a single image")]
)
def test_too_few_classes_are_refused(sizes: list[int], words: str) -> None:
    with pytest.raises(SplitError, match=words):
        part_classes(sizes)


# ----------------------------------------------------------------------------------- the recipe, fitted


def images_of(classes: int, count: int, *, turned: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise that is lighter at the top, or wherever it was turned to."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (classes * count, 16, 16, 3)) + np.linspace(55, 0, 16)[:, None, None]
    if turned:
        images = np.stack([np.rot90(image, rng.integers(4)) for image in images])
    return torch.from_numpy(images.astype(np.uint8)), torch.arange(classes).repeat_interleave(count)


def test_turned_classes_are_for_few_that_have_a_way_up() -> None:
    upright, turned = images_of(6, 20), images_of(6, 20, turned=True)
    assert turns_are_seen(upright[0]) and not turns_are_seen(turned[0])
    assert fitted(SETTINGS, *upright).turned_classes and not fitted(SETTINGS, *turned).turned_classes
    assert not fitted(SETTINGS, *images_of(21, 6)).turned_classes


def test_sides_and_shifts_grow_with_the_size() -> None:
    small, large = (fitted(OwnSettings(size=size), *images_of(21, 4)) for size in (32, 96))
    assert small.resolutions == ((0.0, 16), (0.3, 24), (0.75, 32)) and small.augment.translate == 4
    assert large.resolutions == ((0.0, 48), (0.3, 72), (0.75, 96)) and large.augment.translate == 12


@pytest.mark.parametrize("sizes", [[2, 2], [2, 3, 40], [100, 100], [5] * 300, [2] * 7])
def test_a_batch_is_no_larger_than_the_images_fill(sizes: list[int]) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    images = torch.zeros(len(labels), 16, 16, 3, dtype=torch.uint8)
    config = fitted(OwnSettings(size=16, encoder="conv3"), images, labels)
    batches = make_batches(labels, config)
    assert 4 <= batches.batch_size <= 256 and batches.steps * batches.batch_size >= config.epoch_images
    assert set(labels[batches.epoch(0).flatten()].tolist()) == set(range(len(sizes)))  # no class is passed over


def test_few_images_are_not_shown_for_ever() -> None:
    shown = [fitted(OwnSettings(size=16), *images_of(21, count)).most_images for count in (2, 4, 1000)]
    assert shown == [42 * fitting.MOST_PASSES, 84 * fitting.MOST_PASSES, 13 * 21_000]


def test_a_start_from_weights_is_gentle_and_brings_its_network() -> None:
    config = fitted(OwnSettings(size=32, pretrained="cifar10-resnet20", mirror=False), *images_of(21, 4))
    assert (config.encoder, config.muon_rate) == ("resnet20", 0.01) and not config.augment.flip


@pytest.mark.parametrize("wrong", [{"size": 4}, {"epochs": 0}, {"minutes": -1.0}, {"epochs": 2, "minutes": 1.0}])
def test_settings_of_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        OwnSettings(**wrong)


# ---------------------------------------------------------------------------------------------- bad input


def test_a_checkpoint_that_is_there_is_kept(train: Callable, tmp_path: Path) -> None:
    (tmp_path / "own.safetensors").write_bytes(b"dear")
    with pytest.raises(ConfigError, match="--again"):
        train()
    with pytest.raises(ConfigError, match=r"ends in \.safetensors"):
        train(out="own.pt")
    assert (tmp_path / "own.safetensors").read_bytes() == b"dear" and not (tmp_path / "runs").exists()


def test_unreadable_images_are_named_or_left_out(
    train: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = draw_folder(tmp_path / "damaged", 5, 4)
    bad = ("class 0/0.png", "class 3/1.png")  # every image behind the first is another one than before
    for name in bad:
        (images / name).write_bytes(name.encode())
    with pytest.raises(ImageError, match=r"2 of 20 images cannot be read.*class 0/0\.png.*class 3/1\.png.*--skip"):
        train(images=images)
    done = train(images=images, skip_unreadable=True)
    assert done.path.is_file() and "class 3/1.png" in caplog.text
    for name in bad:
        (images / name).unlink()
    assert_same(done, train(images=images, out="without.safetensors"))


def assert_same(one: OwnTraining, other: OwnTraining) -> None:
    weights, others = one.encoder.state_dict(), other.encoder.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in others)
    assert one.results == other.results
    assert all(one.info[name] == other.info[name] for name in ("threshold", "calibration", "epochs"))


@pytest.mark.parametrize("part", ["report_classes", "validation_classes"])
def test_classes_of_the_report_decide_nothing_and_those_of_the_validation_are_not_reported(
    part: str, train: Callable, folder: Path, tmp_path: Path
) -> None:
    """Noise takes the place of the images of one part, and all that must not look at them stays as it was."""
    rng = np.random.default_rng(1)
    before = train(out="before.safetensors")
    changed = shutil.copytree(folder, tmp_path / "changed")
    for name in before.info[part]:
        for path in (changed / name).iterdir():
            Image.fromarray(rng.integers(0, 256, (18, 18, 3), dtype=np.uint8)).save(path)
    after = train(images=changed, out="after.safetensors")
    assert all(before.info[name] == after.info[name] for name in ("report_classes", "validation_classes"))
    others = [[(each.other.value, each.other.n) for each in done.results] for done in (before, after)]
    if part == "report_classes":
        weights, same = before.encoder.state_dict(), after.encoder.state_dict()
        assert all(torch.equal(weights[name], same[name]) for name in weights)
        assert all(before.info[name] == after.info[name] for name in ("threshold", "calibration", "epochs"))
        assert others[0] != others[1]
    else:
        assert others[0] == others[1] and before.info["calibration"] != after.info["calibration"]


def test_images_that_do_not_fit_are_refused_before_they_are_read(
    train: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_run, "free_memory", lambda: 1000)
    with pytest.raises(DataError, match=r"90 images of 16 x 16 pixels take .* choose a smaller --size"):
        train()


def test_a_folder_that_is_none_is_refused(train: Callable, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere"):
        train(images=tmp_path / "nowhere")
    (tmp_path / "empty" / "a").mkdir(parents=True)
    with pytest.raises(SamplingError, match="holds no image"):
        train(images=tmp_path / "empty")


def test_two_processes_do_not_train_the_same(tmp_path: Path) -> None:
    with own_run.workplace(tmp_path, "own", {"a": 1}):
        with pytest.raises(TrainingError, match="Another process"), own_run.workplace(tmp_path, "own", {"a": 1}):
            pass
        with own_run.workplace(tmp_path, "own", {"a": 2}):
            pass


# ------------------------------------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("difference", "half", "words"),
    [
        (5.0, 2.0, "it was worth it, by 5.0 ± 2.0 points: use own.safetensors"),
        (-5.0, 2.0, "it was not worth it, by 5.0 ± 2.0 points: use another"),
        (1.0, 2.0, "do not tell which is better (a difference of +1.0 ± 2.0 points)"),
        (5.0, float("inf"), "do not tell which is better"),
    ],
)
def test_the_interval_decides_what_is_said(difference: float, half: float, words: str) -> None:
    any_one = Estimate(50.0, 1.0, 9)
    compared = Compared("accuracy", any_one, any_one, Estimate(difference, half, 9))
    assert words in worth("another", Path("runs/own.safetensors"), compared) and "inf" not in worth(
        "another", Path("own.safetensors"), compared
    )


def test_the_command_line_trains_and_says_whether_it_was_worth_it(
    command_line: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIAMESE_RUNS", str(tmp_path / "mine"))
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    own_run.save_encoder(Encoder("conv3", 4, image_size=24), tmp_path / "before.safetensors")
    words = ("train", "--images", folder, "--size", 16, "--encoder", "conv3", "--epochs", 2, "--device", "cpu")
    code, out, err = command_line(*words, "--against", "before.safetensors")
    assert code == 0 and "my_encoder.safetensors" in out and "(before.safetensors: " in out and "Learning 6" in err
    assert load_encoder(tmp_path / "my_encoder.safetensors").image_size == 16


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--size", "32"), "--size is for a training on your own images"),
        (("--images", "x", "--split", "90-10"), "--split is for a training on a split"),
        (("--images", "x", "--pairs", "y"), "choose one"),
        (("--images", "nowhere"), "nowhere"),
    ],
)
def test_options_that_would_be_passed_over_are_refused(
    command_line: Callable[..., tuple[int, str, str]], words: tuple[str, ...], told: str
) -> None:
    code, out, err = command_line("train", *words)
    assert code == 1 and not out and told in err and err.count("\n") == 1


# --------------------------------------------------------------------------------------------- the study


def test_the_study_of_photographs_stores_both_encoders_and_tells_of_them(
    project: Path, folder: Path, other: Encoder
) -> None:
    support = read_support(folder)
    photos = Photos(support.class_names, support.files, support.labels, ())
    bench = Bench("cpu", progress=False, given={(find_photos,): photos, (study.as_published,): other})
    runs = [dataclasses.replace(run, settings={"config": SETTINGS}) for run in study.OWN_TRAINING.runs()]
    with pytest.raises(ResultsError):
        training_table()
    list(run_study(study.OWN_TRAINING, runs[:1], bench))
    record = study.OWN_TRAINING.read_record(runs[0])
    assert record["provenance"]["precision"] == provenance("cpu", "auto")["precision"]
    assert record["trained"]["encoder"] == "conv3"
    table = study.OWN_TRAINING.table().set_index("metric").value
    assert set(table.index) == set(study.OWN_TRAINING.metrics) and table.learned == 6
    assert table.acc_1s_gain == pytest.approx(table.acc_1s - table.acc_1s_before)
    shown = training_table()
    assert len(shown.frame) == 1 and "6 classes learned" in shown.caption
    assert shown.frame["1-shot accuracy"][0].startswith(f"{table.acc_1s:.1f} ± ")
    assert f"1-shot accuracy {table.acc_1s_before:.1f} ± " in shown.caption
    assert f"{table.acc_1s_gain:+.1f}" in training_sentence()
    list(run_study(study.OWN_TRAINING, runs, bench))
    assert len(training_table().frame) == 2 and training_sentence().count("points") == 2
