"""Judging a folder of examples by itself: images left out in turn, wrong labels, doubles, and what cannot be judged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from folders import KINDS, Eyes, class_folders, picture, save
from PIL import Image

from siamese_utils.errors import ConfigError, DataError, ImageError, SamplingError
from siamese_utils.evaluation.estimates import wilson
from siamese_utils.recognition.check import check_folder
from siamese_utils.recognition.folder_report import FolderReport


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "examples", dict.fromkeys(KINDS, 6))


def check(folder: Path, **options: bool) -> FolderReport:
    return check_folder(folder, Eyes(), **options)


def names(files: pd.Series) -> list[str]:
    return ["/".join(Path(file).parts[-2:]) for file in files]


def test_a_sound_folder(folder: Path) -> None:
    report = check(folder)
    assert (report.accuracy, report.judged, report.encoder) == (100, 24, "eyes")
    assert report.interval == wilson(24, 24)
    assert report.one_shot.value > 95
    assert report.classes["class"].tolist() == sorted(KINDS)
    assert (report.classes.right == 6).all() and (report.classes.remark == "").all()
    assert not any(map(len, (report.mixed, report.mistakes, report.doubles, report.unreadable)))
    assert str(report).splitlines()[0] == "24 images of 4 classes, compared by the encoder eyes."
    assert "100.0% (95% interval 86.2 to 100.0) of 24 images" in str(report)


def test_few_examples_are_said_to_do_better_than_by_one_fewer(folder: Path, tmp_path: Path) -> None:
    assert "one example fewer" not in str(check(folder))
    assert "one example fewer" in str(check(class_folders(tmp_path / "few", dict.fromkeys(KINDS, 3))))


def test_accuracy_is_that_of_images_left_out_in_turn(folder: Path) -> None:
    """Against the definition, an image at a time: the n-th of a class is judged without the n-th of each."""
    for number in range(6):  # a fifth class that is half of one colour and half of another
        save(folder / "mud" / f"{number}.png", picture("moss" if number % 2 else "rust", 20 + number))
    report = check(folder)
    files = sorted(folder.glob("*/*.png"))
    z, own = Eyes().embed(files), [file.parent.name for file in files]
    classes, right = sorted(set(own)), 0
    for row, name in enumerate(own):
        rest = [[z[i] for i, other in enumerate(own) if other == one and i % 6 != row % 6] for one in classes]
        prototypes = torch.stack([torch.stack(some).mean(0) for some in rest])
        right += classes[int(torch.cosine_similarity(prototypes, z[row][None]).argmax())] == name
    assert right < len(files) and report.accuracy == pytest.approx(100 * right / len(files))
    assert len(report.mistakes) == len(files) - right == report.mixed.times.sum()


def test_a_wrong_label_is_found_and_shown_beside_what_it_looks_like(folder: Path) -> None:
    shutil.move(folder / "rust" / "3.png", folder / "sky" / "9.png")
    report = check(folder)
    assert names(report.suspects.file) == ["sky/9.png"]
    (row,) = report.suspects.itertuples()
    assert (row[2], row.looks_like, Path(row.nearest).parent.name) == ("sky", "rust", "rust")
    assert Path(row.nearest_own).parent.name == "sky" and row.similarity > row.own_similarity
    assert report.mixed.values.tolist() == [["rust", "sky", 1, 12]]
    assert "sky/9.png: looks like rust" in str(report)


CHANGES: dict[str, tuple[str, Callable[[Path, Path], object]]] = {
    "same file": ("copy.png", shutil.copy),
    "same pixels": ("copy.bmp", lambda old, new: Image.open(old).save(new)),
    "nearly the same": ("copy.jpg", lambda old, new: Image.open(old).resize((40, 40)).save(new, quality=60)),
    "mirrored": ("copy.webp", lambda old, new: save(new, np.asarray(Image.open(old))[:, ::-1], lossless=True)),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_doubles_are_found_and_counted_once(kind: str, folder: Path) -> None:
    name, change = CHANGES[kind]
    change(folder / "moss" / "2.png", folder / "moss" / name)
    report = check(folder)
    (row,) = report.doubles.itertuples()
    assert {*names([row.file, row.other])} == {"moss/2.png", f"moss/{name}"}
    assert row.kind == kind and row[3] == row.other_class == "moss"
    assert report.judged == 24, "the double would give its image away"
    assert str(report).startswith("25 images of 4 classes (1 doubles another of its class and counts once), compared")


def test_a_class_of_one_image_and_its_doubles(folder: Path) -> None:
    for number in range(1, 6):
        for kind in ("sand", "sky"):
            (folder / kind / f"{number}.png").unlink()
    for kind, copy in (("sand", "a"), ("sky", "a"), ("sky", "b")):
        shutil.copy(folder / kind / "0.png", folder / kind / f"{copy}.png")
    report = check(folder)
    remarks = dict(zip(report.classes["class"], report.classes.remark))
    assert remarks["sand"] == "one example besides its double: cannot be judged"
    assert remarks["sky"] == "one example besides its doubles: cannot be judged"
    assert str(report).startswith("17 images of 4 classes (3 double another of their class and count once), compared")
    assert str(report).count("cannot be judged") == 2 and report.classes.images.tolist() == [6, 6, 1, 1]


def test_copies_of_an_image_of_another_class_count_once(folder: Path) -> None:
    for copy in "ab":
        shutil.copy(folder / "moss" / "2.png", folder / "sky" / f"{copy}.png")
    report = check(folder)
    assert report.doubled == 1 and report.classes.set_index("class").images["sky"] == 7
    assert str(report).startswith("26 images of 4 classes (1 doubles another of its class and counts once), compared")


def test_an_encoder_is_called_as_it_was_asked_for(folder: Path) -> None:
    eyes = Eyes()
    eyes.source = "my-eyes"
    assert check_folder(folder, eyes).encoder == "my-eyes"
    eyes.source = str(folder / "eyes.safetensors")
    assert check_folder(folder, eyes).encoder == "eyes"


def test_an_image_in_two_classes_is_told_and_judged_in_both(folder: Path) -> None:
    shutil.copy(folder / "moss" / "2.png", folder / "sky" / "copy.png")
    report = check(folder)
    (row,) = report.doubles.itertuples()
    assert {row[3], row.other_class} == {"moss", "sky"} and report.judged == 25
    assert "same file, in two classes" in str(report)
    assert names(report.suspects.file) == ["sky/copy.png"]


def test_no_doubles_where_images_are_merely_alike(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, {"moss": 30, "sky": 30})
    assert len(check(folder).doubles) == 0


def test_classes_that_cannot_be_judged_or_hardly(folder: Path) -> None:
    for number in range(1, 6):
        (folder / "sand" / f"{number}.png").unlink()
    for number in range(2, 6):
        (folder / "rust" / f"{number}.png").unlink()
    report = check(folder)
    remarks = dict(zip(report.classes["class"], report.classes.remark))
    assert remarks == {"moss": "", "rust": "few examples", "sand": "one example: cannot be judged", "sky": ""}
    assert report.judged == 14
    with pytest.raises(SamplingError, match=r"has one image, and judging leaves one out; add a second"):
        check(class_folders(folder.parent / "ones", dict.fromkeys(KINDS, 1)))


def test_varied_classes_and_those_often_taken_for_another(tmp_path: Path) -> None:
    folder = class_folders(tmp_path, dict.fromkeys(KINDS, 8))
    for number, kind in enumerate([*KINDS] * 2):
        save(folder / "mixture" / f"{number}.png", picture(kind, 30 + number))
    report = check(folder)
    remarks = dict(zip(report.classes["class"], report.classes.remark))
    assert remarks.pop("mixture") == "varied examples, often taken for another"
    assert set(remarks.values()) == {""}


def test_unreadable_files_are_named_or_left_out_and_listed(folder: Path) -> None:
    (folder / "sky" / "a.png").write_bytes(b"no image")
    (folder / "sky" / "b.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"2 of 26 .*sky/a\.png .*sky/b\.png .*--skip-unreadable"):
        check(folder)
    report = check(folder, skip_unreadable=True)
    assert names(report.unreadable.file) == ["sky/a.png", "sky/b.png"] and report.judged == 24
    assert "sky/a.png is not a readable image" in str(report)


def test_what_is_left_is_judged_under_its_own_names(folder: Path) -> None:
    """The first file of the first class is damaged, so that every other moves up; and one is mislabelled."""
    first = sorted(KINDS)[0]
    (folder / first / "0.png").write_bytes(b"no image")
    shutil.move(folder / "rust" / "3.png", folder / "sky" / "9.png")
    damaged = check(folder, skip_unreadable=True)
    (folder / first / "0.png").unlink()
    sound = check(folder)
    assert names(damaged.mistakes.file) == ["sky/9.png"]
    pd.testing.assert_frame_equal(damaged.mistakes, sound.mistakes)
    pd.testing.assert_frame_equal(damaged.classes, sound.classes)
    assert (damaged.accuracy, damaged.judged) == (sound.accuracy, sound.judged)


def test_what_is_no_support_folder(folder: Path) -> None:
    with pytest.raises(DataError, match="no support folder"):
        check(folder / "none")
    with pytest.raises(SamplingError, match="at least two classes"):
        check(class_folders(folder.parent / "one", {"moss": 3}))


@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_the_table_holds_every_finding(ending: str, folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "rust" / "3.png", folder / "sky" / "9.png")
    shutil.copy(folder / "moss" / "2.png", folder / "moss" / "copy.png")
    report = check(folder)
    path = report.save(tmp_path / f"found.{ending}")
    read = {"csv": pd.read_csv, "json": pd.read_json, "parquet": pd.read_parquet}[ending]
    table = read(path)
    assert table.columns.tolist() == ["finding", "class", "file", "other_class", "other_file", "value", "remark"]
    assert len(table) == 4 + 4 + 1 + 1 + 1
    value = table.set_index("finding").value
    assert value["accuracy"] == pytest.approx(report.accuracy, abs=1e-3)
    assert value["accuracy, low end"] < value["accuracy"] < value["accuracy, high end"]
    assert names(table[table.finding == "looks mislabelled"].file) == ["sky/9.png"]
    assert names(table[table.finding == "doubled"].other_file) == ["moss/2.png"]


def test_another_ending_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found\.xls has the ending '\.xls', which names no format; choose \.csv"):
        check(folder).save(tmp_path / "found.xls")
    assert not (tmp_path / "found.xls").exists()


def test_the_page_shows_what_is_to_be_looked_at(folder: Path, tmp_path: Path) -> None:
    shutil.move(folder / "rust" / "3.png", folder / "sky" / "9.png")
    shutil.copy(folder / "moss" / "2.png", folder / "moss" / "copy.png")
    report = check(folder)
    page = report.page()
    assert [card.kinds for card in page.cards] == [("looks mislabelled",), ("doubled",)]
    assert page.cards[0].heading == "sky? It looks like rust" and page.cards[0].classes == ("sky", "rust")
    assert page.lead[-1].startswith("Likeness is the mean cosine similarity")
    likeness = [row[2][0] for row in page.tables[0].rows]
    assert len(likeness) == 4 and all(len(cell.partition(".")[2]) == 2 for cell in likeness)
    text = report.save(tmp_path / "found.html").read_text()
    assert text.startswith("<!doctype html>") and "http:" not in text and "https:" not in text
