"""Reading a support folder: what is found, and one clear sentence for each folder that cannot be meant."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from folders import Eyes
from PIL import Image

from siamese_utils.errors import DataError, SamplingError
from siamese_utils.recognition.check import check_folder
from siamese_utils.recognition.classifier import classify_folder
from siamese_utils.recognition.support import content_digest, read_support


def draw(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, with two images and one."""
    for seed, name in enumerate(("cat/1.png", "cat/2.png", "dog/1.png")):
        draw(tmp_path / name, seed)
    return tmp_path


def refusal(folder: Path | str | bytes, error: type[Exception] = SamplingError) -> str:
    with pytest.raises(error) as raised:
        read_support(folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("name", ["", b""])
def test_an_empty_name_is_not_the_folder_one_is_in(
    name: str | bytes, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert len(read_support(".").files) == 3
    assert "name of the support folder is empty" in refusal(name, DataError)
    for ask in (check_folder, lambda support: classify_folder(Eyes(), support, ["cat/1.png"])):
        with pytest.raises(DataError, match="name of the support folder is empty"):
            ask(name)


def test_classes_files_and_labels(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "cat" / "empty").mkdir()
    (folder / "cat" / "__MACOSX").mkdir()
    draw(folder / "cat" / "__MACOSX" / "1.png", 9)
    support = read_support(str(folder))
    assert support.class_names == ("cat", "dog") and support.labels.tolist() == [0, 0, 1]
    assert support.files == (folder / "cat/1.png", folder / "cat/2.png", folder / "dog/1.png")
    assert len(set(support.contents)) == 3 and support.contents[2] == content_digest(folder / "dog/1.png")
    assert not caplog.records


def test_folders_of_images_in_a_class(folder: Path) -> None:
    nested = draw(folder / "cat" / "young" / "black" / "3.png", 5)
    said = refusal(folder)
    assert str(nested.parent) in said and "3.png" in said and "nested" in said


@pytest.mark.parametrize("other", ["Cat", "CAT"])
def test_classes_named_alike(other: str, folder: Path) -> None:
    draw(folder / other / "1.png", 5)
    if len(list(folder.iterdir())) == 2:
        pytest.skip("this file system takes the two names for one")
    said = refusal(folder)
    assert repr(other) in said and "'cat'" in said and str(folder) in said


def test_names_with_accents_in_two_encodings(folder: Path) -> None:
    for seed, name in enumerate(("caf\u00e9", "cafe\u0301"), 5):
        draw(folder / name / "1.png", seed)
    if len(list(folder.iterdir())) == 3:
        pytest.skip("this file system takes the two names for one")
    assert "as if they were one class" in refusal(folder)


def test_one_class_and_none(folder: Path) -> None:
    (folder / "dog" / "1.png").unlink()
    assert str(folder / "dog") in refusal(folder) and "holds no image" in refusal(folder)
    (folder / "dog").rmdir()
    assert "'cat'" in refusal(folder) and "two classes" in refusal(folder)
    for name in ("1.png", "2.png"):
        (folder / "cat" / name).rename(folder / name)
    (folder / "cat").rmdir()
    assert "are of no class" in refusal(folder)
    assert "no support folder" in refusal(folder / "none", DataError)


def test_one_file_in_two_classes(folder: Path) -> None:
    copy = folder / "dog" / "renamed.png"
    copy.write_bytes((folder / "cat" / "2.png").read_bytes())
    said = refusal(folder, DataError)
    assert said == (
        f"1 image stands in two classes: {folder / 'cat' / '2.png'} = {copy}; remove the wrong ones "
        f"(`python -m siamese_utils check {folder} --out check.html` shows every double)."
    )


def test_many_files_in_two_classes_are_told_at_once(folder: Path) -> None:
    folder = folder.rename(folder.with_name("my examples"))
    for seed in range(7):
        for name in ("cat", "dog"):
            draw(folder / name / f"both {seed}.png", 20 + seed)
    said = refusal(folder, DataError)
    assert said.startswith("7 images stand in two classes") and "both 4.png" in said and "both 5.png" not in said
    assert "; and 2 more; remove the wrong ones (`python -m siamese_utils check '" in said


def test_files_that_are_no_images_double_none(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cat", "dog"):
        (folder / name / "empty.png").write_bytes(b"")
        (folder / name / "damaged.png").write_bytes(b"no image")
    (folder / "cat" / "empty too.png").write_bytes(b"")
    assert len(read_support(folder).files) == 8 and not caplog.records
    assert len(classify_folder(Eyes(), folder, draw(folder / "q.png", 9), skip_unreadable=True)) == 1


def test_a_class_of_files_that_cannot_be_read_here(folder: Path) -> None:
    draw(folder / "dog" / "1.png", 3).rename(folder / "dog" / "1.unknown")
    assert "dog holds no image that can be read here; add one" in refusal(folder)


def test_one_file_twice_in_a_class(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = folder / "cat" / "renamed.png"
    copy.write_bytes((folder / "cat" / "2.png").read_bytes())
    with caplog.at_level(logging.WARNING):
        assert len(read_support(folder).files) == 4
    assert [record.getMessage() for record in caplog.records] == [
        f"The same image stands more than once in a class: {folder / 'cat' / '2.png'} = {copy} "
        f"(`python -m siamese_utils check {folder} --out check.html` shows all)."
    ]
