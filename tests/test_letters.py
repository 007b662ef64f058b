"""EMNIST's readers against small copies and bad ones; letters are counted as they should be, on made-up symbols."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from siamese_utils.data import emnist
from siamese_utils.data.emnist import CHARACTERS, case_pairs, load_characters, load_letters
from siamese_utils.data.images import ImageSet
from siamese_utils.data.sources import MissingDataError
from siamese_utils.encoders.checkpoints import save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import DataError, ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.store import store_rows
from siamese_utils.experiments.study import Bench, Run, Study
from siamese_utils.studies.cifar10.fit import FitConfig
from siamese_utils.studies.drawing import figures, letter_findings, letters
from siamese_utils.studies.drawing.data import load_symbol_data, synthetic_symbol_data

KINDS = len(CHARACTERS)


def made_up(per_class: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """An image whose left half says its class, in an order that is not that of the classes."""
    labels = np.tile(np.arange(KINDS)[::-1], per_class)
    images = np.zeros((len(labels), 28, 28), np.uint8)
    images[:, :, :14] = 4 * labels[:, None, None] + 4
    images[:, 0, 0] = np.arange(len(labels)) % 7
    return images, labels


def write_sample(root: Path, **arrays: np.ndarray) -> Path:
    file = root / "emnist_sample" / "byclass_test_2.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, **arrays)
    return file


def whole_sample(root: Path, per_class: int = 2) -> Path:
    images, labels = made_up(per_class)
    return write_sample(root, images=images, labels=np.asarray(list(CHARACTERS))[labels])


def idx(array: np.ndarray) -> bytes:
    """The IDX format of MNIST's files."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_official(root: Path, division: str, part: str, images: np.ndarray, labels: np.ndarray) -> Path:
    raw = root / "EMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    # The original files show each image transposed.
    (raw / f"emnist-{division}-{part}-images-idx3-ubyte").write_bytes(idx(images.transpose(0, 2, 1).copy()))
    (raw / f"emnist-{division}-{part}-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
    return raw


def test_the_sample_is_read_in_the_order_of_its_classes(tmp_path: Path) -> None:
    whole_sample(tmp_path)
    read = load_characters(canonical=False, root=tmp_path)
    assert read.images.shape == (2 * KINDS, 28, 28, 3) and read.class_names[10] == "A" and read.class_names[36] == "a"
    assert read.labels.tolist() == sorted([*range(KINDS)] * 2)
    assert torch.equal(read.images[:, 5, 5, 0].long(), 4 * read.labels + 4)
    groups = [read.superclass_names[read.superclass_of[label]] for label in (9, 10, 35, 36)]
    assert groups == ["digits", "capitals", "capitals", "small letters"]


def test_characters_are_redrawn_unless_told_otherwise(tmp_path: Path) -> None:
    whole_sample(tmp_path, 1)
    redrawn, raw = load_characters(root=tmp_path), load_characters(canonical=False, root=tmp_path)
    assert redrawn.images.shape == raw.images.shape and not torch.equal(redrawn.images, raw.images)


def test_torchvisions_files_are_turned_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = made_up(3)
    monkeypatch.setattr(emnist, "_COUNTS", {("byclass", "test"): len(labels), ("letters", "test"): 26})
    write_official(tmp_path, "byclass", "test", images, labels)
    read = load_characters(canonical=False, root=tmp_path)
    assert torch.bincount(read.labels).tolist() == [3] * KINDS
    assert (read.images[:, 14, 13, 0] > 0).all() and (read.images[:, 13, 14] == 0).all()  # the left half, not the upper
    write_official(tmp_path, "letters", "test", images[:26], np.arange(1, 27))
    assert load_letters("test", root=tmp_path).labels.tolist() == list(range(26))


def test_the_sample_goes_before_torchvisions_files(tmp_path: Path) -> None:
    whole_sample(tmp_path)
    (tmp_path / "EMNIST" / "raw").mkdir(parents=True)
    assert load_characters(canonical=False, root=tmp_path).source.endswith("emnist_sample")


def test_a_broken_or_strange_sample_is_refused_in_a_sentence(tmp_path: Path) -> None:
    images, labels = made_up()
    names = np.asarray(list(CHARACTERS))[labels]
    file = whole_sample(tmp_path)
    file.write_bytes(file.read_bytes()[:1_000])
    with pytest.raises(DataError, match=r"byclass_test_2\.npz is damaged or half downloaded: delete it"):
        load_characters(root=tmp_path)
    for arrays, told in (
        ({"x_train": images, "y_train": labels}, "holds the arrays x_train, y_train, but a sample of EMNIST holds"),
        ({"images": images[:, :20], "labels": names}, r"holds images uint8 \(124, 20, 28\) and labels \(124,\)"),
        ({"images": images[1:], "labels": names}, r"holds images uint8 \(123, 28, 28\)"),
        ({"images": images[1:], "labels": names[1:]}, "are not the 62 characters 0-9, A-Z and a-z, equally often each"),
        ({"images": images, "labels": labels}, "are not the 62 characters"),
        ({"images": images, "labels": np.where(names == "A", "Ä", names)}, "are not the 62 characters"),
    ):
        write_sample(tmp_path, **arrays)
        with pytest.raises(DataError, match=told):
            load_characters(root=tmp_path)


def test_torchvisions_files_missing_or_half_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = made_up(3)
    raw = write_official(tmp_path, "byclass", "test", images, labels)
    with pytest.raises(DataError, match="EMNIST is damaged or half downloaded: delete it"):  # fewer than EMNIST has
        load_characters(root=tmp_path)
    file = raw / "emnist-byclass-test-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="EMNIST is damaged or half downloaded"):
        load_characters(root=tmp_path)
    file.unlink()
    with pytest.raises(DataError, match="images-idx3-ubyte is missing: delete"):
        load_characters(root=tmp_path)
    monkeypatch.setenv("SIAMESE_OFFLINE", "1")
    with pytest.raises(MissingDataError, match=r"EMNIST is not in .* name the folder that holds emnist_sample/ or"):
        load_letters("train", root=tmp_path / "nowhere")


def test_fifteen_pairs_differ_in_case_alone() -> None:
    pairs = case_pairs()
    assert len(pairs) == 15 and (CHARACTERS.index("C"), CHARACTERS.index("c")) in pairs
    assert all(CHARACTERS[capital].lower() == CHARACTERS[small] for capital, small in pairs)


# --- the study ------------------------------------------------------------------------------------


def characters(per_class: int = 20) -> ImageSet:
    """Patterns in place of the characters; a small letter that looks like its capital has that one's pattern."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(60, 196, (KINDS, 1, 7, 7))
    for capital, small in case_pairs():
        patterns[small] = patterns[capital]
    images = np.clip(patterns + rng.normal(0, 40, (KINDS, per_class, 7, 7)), 0, 255).astype(np.uint8)
    images = images.repeat(4, axis=2).repeat(4, axis=3).reshape(-1, 28, 28, 1).repeat(3, axis=3)
    labels = torch.arange(KINDS).repeat_interleave(per_class)
    names, groups = tuple(CHARACTERS), (0,) * 10 + (1,) * 26 + (2,) * 26
    kinds = ("digits", "capitals", "small letters")
    return ImageSet(torch.from_numpy(images), labels, names, kinds, groups, "synthetic", "test", "made up")


class Pixels(Encoder):
    """An encoder whose embedding is the image, slightly out of focus."""

    def __init__(self) -> None:
        super().__init__("conv3", embedding_dim=49, image_size=28, mirror=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels[:, 0], 4).flatten(1)


def test_what_cannot_be_told_apart_is_counted_apart() -> None:
    found = letters.letter_metrics(Pixels(), characters())
    assert set(found) == set(letters.LETTERS.metrics) - {"acc"}
    assert found["acc_2w1s_cases"].value == pytest.approx(50, abs=4) and found["acc_2w1s_cases"].n == 15
    assert found["acc_20w1s_one_case"].value > found["acc_20w1s"].value + 3 > 40


def test_the_toy_learns_the_first_images_of_each_character(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(letters, "LEARNED_OF_EACH", 15)
    bench = Bench(given={(letters.load_characters_as_written,): characters()}, progress=False)
    learned, judged = letters.toy_sets("toy-26", bench)
    assert torch.bincount(learned.labels).tolist() == [30] * 26 and torch.bincount(judged.labels).tolist() == [10] * 26
    whole = characters()
    capital = whole.images[whole.indices_of([CHARACTERS.index("B")])]
    assert torch.equal(learned.images[learned.indices_of([1])][:15], capital[:15])
    assert torch.equal(judged.images[judged.indices_of([1])][:5], capital[15:])
    run = next(run for run in letters.LETTERS.runs() if run.key["system"] == "toy-26")
    short = dataclasses.replace(run, settings={"config": FitConfig(judged=(60,), batch=32)})
    outcome = letters.LETTERS.carry_out(short, bench)
    assert outcome.metrics["acc"].n == 260 and 50 < outcome.metrics["acc"].value <= 100
    assert outcome.record["parameters"] == 320 + 18_496 + 73_856 + (10_368 + 1) * 512 + 513 * 26


@pytest.mark.parametrize("system", letters.STORED)
def test_encoders_of_the_drawing_page_are_trained_where_they_are_missing(
    system: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = next(run for run in letters.LETTERS.runs() if run.key["system"] == system)
    asked: list[str] = []

    def complete(study: Study, bench: Bench, runs: list[Run]) -> None:
        assert study is letters.DRAWING
        asked.extend(str(run.key["train_on"]) for run in runs)
        save_encoder(Encoder("conv3", image_size=28, mirror=False), run.built_on[0])

    monkeypatch.setattr(letters, "complete", complete)
    outcome = letters.LETTERS.carry_out(run, Bench("cpu", False, {(load_characters,): characters()}))
    assert asked == (["mnist"] if system == "mnist" else ["validation", system])
    assert set(outcome.metrics) == set(letters.LETTERS.metrics) - {"acc"}


def test_an_encoder_learns_without_the_alphabet_withheld(monkeypatch: pytest.MonkeyPatch) -> None:
    data = synthetic_symbol_data()
    monkeypatch.setattr(letters, "WITHHELD", "two")
    monkeypatch.setattr("siamese_utils.studies.drawing.data.MNIST_SAMPLE", 20)
    bench = Bench("cpu", False, {(load_symbol_data,): data, (load_characters,): characters()})
    run = next(run for run in letters.LETTERS.runs() if run.key["system"] == letters.TRAINED)
    config = dataclasses.replace(run.config, encoder="conv3", least_images=500, most_images=500)
    outcome = letters.LETTERS.carry_out(dataclasses.replace(run, settings={**run.settings, "config": config}), bench)
    assert outcome.record["alphabets"] == ["one"] and outcome.record["classes"] == 4 * 20 + 10
    assert outcome.checkpoint and set(outcome.metrics) == set(letters.LETTERS.metrics) - {"acc"}


def test_official_letters_are_planned_where_asked_for() -> None:
    systems = {str(run.key["system"]) for run in letters.LETTERS.runs()}
    assert {str(run.key["system"]) for run in letters.LETTERS.runs(official=True)} - systems == {"toy-official"}
    assert {letters.LETTERS.checkpoint(run) for run in letters.LETTERS.runs()} >= {None, letters._path("mnist")}


# --- what is told ---------------------------------------------------------------------------------


def store(system: str, five: float, twenty: float, seed: int = 0) -> None:
    values = (five, twenty, five + 1, twenty + 5, 55.0)
    named = dict(zip(list(letters.LETTERS.metrics)[:5], (Estimate(value, 0.2, 10) for value in values), strict=True))
    store_rows(letters.LETTERS.path, {"system": system, "seed": seed}, named, "", letters.LETTERS.all_columns)


@pytest.mark.usefixtures("project")
def test_findings_are_those_of_the_stored_rows() -> None:
    with pytest.raises(ResultsError):
        letter_findings.letters_table()
    store("both", 88.0, 70.0)
    with pytest.raises(ResultsError, match="without Latin is not stored"):
        letter_findings.letters_sentences()
    store("without-latin", 86.0, 63.0)
    store("without-latin", 88.0, 66.0, seed=1)
    store("mnist", 70.0, 45.0)
    text = " ".join(letter_findings.letters_sentences())
    assert "**87.0%** right among five and **64.5%** among twenty (mean of 2 trainings)" in text and "is met" in text
    assert "add **+19.5** points to MNIST's digits, and the Latin one **+5.5**" in text and "**+5.0** points" in text
    shown = letter_findings.letters_table().frame
    assert list(shown["20-way"]) == ["45.0 ± 0.2", "64.5 ± 0.2", "70.0 ± 0.2"]
    assert "Among 20 letters: MNIST's ten digits 45.0%" in figures.letters().alt
    with pytest.raises(ResultsError, match="toy"):
        letter_findings.toy_table()
    acc = {"acc": Estimate(89.0, 1.0, 10)}
    store_rows(letters.LETTERS.path, {"system": "toy-26", "seed": 0}, acc, "", letters.LETTERS.all_columns)
    assert list(letter_findings.toy_table().frame["named right (%)"]) == ["89.0 ± 1.0"]
