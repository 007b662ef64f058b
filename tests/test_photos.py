"""Photographs by class: where they are found, and which classes settings are chosen on."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_utils.data.photos import UNKNOWN, find_photos
from siamese_utils.data.sources import MissingDataError
from siamese_utils.errors import SamplingError, UnknownNameError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Seven classes of three images, one of two, and two images of none; nothing is decoded."""
    for name, count in [*((f"kind {n}", 3) for n in range(7)), ("kind 7", 2), (UNKNOWN, 2), ("nothing", 0)]:
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "photos" / name / f"{number}.jpg").write_bytes(b"")
    return tmp_path


def test_classes_and_images_of_none(root: Path) -> None:
    photos = find_photos(root)
    assert photos.class_names == tuple(f"kind {n}" for n in range(8)) and len(photos.files) == 23
    assert [file.parent.name for file in photos.files] == [photos.class_names[n] for n in photos.labels.tolist()]
    assert [file.name for file in photos.unknown] == ["0.jpg", "1.jpg"]


def test_halves_share_no_class_and_lose_none(root: Path) -> None:
    photos = find_photos(root)
    choosing, reporting = photos.half("choosing"), photos.half("reporting")
    assert len(choosing.class_names) == len(reporting.class_names) == 4
    assert {*choosing.class_names, *reporting.class_names} == set(photos.class_names)
    assert {*choosing.files, *reporting.files} == set(photos.files)
    for half in (choosing, reporting):
        assert [file.parent.name for file in half.files] == [half.class_names[n] for n in half.labels.tolist()]
        assert half.unknown == photos.unknown
    assert find_photos(root).half("choosing").class_names == choosing.class_names
    with pytest.raises(UnknownNameError, match="choosing"):
        photos.half("test")


def test_photographs_that_are_not_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="Caltech-101"):
        find_photos(tmp_path / "photos")
    for number in range(1, 8):
        for file in (root / "photos" / f"kind {number}").iterdir():
            file.unlink()
    with pytest.raises(SamplingError, match="no two classes"):
        find_photos(root)
