"""LFW's pairs: the lists, the cut by person, what networks see, and loading that trusts nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siamese_utils.data import faces as lfw
from siamese_utils.data.faces import (
    COLUMNS,
    PHOTO,
    ROWS,
    FaceSet,
    face_window,
    grey,
    load_pair_lists,
    load_test_faces,
    load_training_faces,
    part_table,
    photos_per_person,
    read_pair_list,
    shared_people,
    split_by_person,
    squares,
    synthetic_faces,
    training_images,
)
from siamese_utils.data.sources import MissingDataError, cache_folder, search_folders
from siamese_utils.errors import ConfigError, DataError, SamplingError, ShapeError, SplitError, UnknownNameError

HAS_LFW = any((folder / "lfw_home" / "pairsDevTrain.txt").is_file() for folder, _ in search_folders())
TRAIN = ["Ann", "1", "2"], ["Bo", "1", "3"], ["Ann", "1", "Cy", "1"], ["Bo", "3", "Ann", "3"]
TEST = ["Di", "2", "3"], ["Di", "1", "Ed", "1"]


@pytest.fixture(scope="module")
def people() -> FaceSet:
    return synthetic_faces(40, 60)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small LFW on disk: five people, three photographs each, black outside the window."""
    home = tmp_path / "data" / "lfw_home"
    rng = np.random.default_rng(0)
    for name in ("Ann", "Bo", "Cy", "Di", "Ed"):
        (home / "lfw_funneled" / name).mkdir(parents=True)
        for number in (1, 2, 3):
            photo = np.zeros((PHOTO, PHOTO, 3), np.uint8)
            photo[slice(*ROWS), slice(*COLUMNS)] = np.kron(rng.integers(40, 255, (15, 13, 3)), np.ones((10, 10, 1)))
            Image.fromarray(photo).save(home / "lfw_funneled" / name / f"{name}_{number:04d}.jpg", quality=90)
    for file, lines in (("pairsDevTrain.txt", TRAIN), ("pairsDevTest.txt", TEST), ("pairs.txt", TRAIN)):
        (home / file).write_text("2\n" + "\n".join("\t".join(line) for line in lines) + "\n")
    monkeypatch.setenv("SIAMESE_DATA", str(home.parent))
    return home


def photo_of(home: Path, name: str, number: int) -> np.ndarray:
    with Image.open(home / "lfw_funneled" / name / f"{name}_{number:04d}.jpg") as image:
        return np.asarray(image)


# --- lists ----------------------------------------------------------------------------------------


def test_list_is_read_in_its_own_order(home: Path) -> None:
    pairs = read_pair_list(home / "pairsDevTrain.txt", "train")
    assert pairs.names == ("Ann", "Bo", "Cy") and len(pairs) == 6
    told = [(pairs.title(int(a)), pairs.title(int(b))) for a, b in zip(pairs.pairs.first, pairs.pairs.second)]
    assert told == [("Ann 1", "Ann 2"), ("Bo 1", "Bo 3"), ("Ann 1", "Cy 1"), ("Bo 3", "Ann 3")]
    assert pairs.pairs.same.tolist() == [True, True, False, False]


@pytest.mark.parametrize("text", ["", "2\n", "2\nAnn\t1\n", "2\nAnn\tone\t2\n", "2\nAnn\t1\tBo\t2\t3\n"])
def test_damaged_list_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match="fetch LFW again"):
        read_pair_list(tmp_path / "list.txt", "train")
    with pytest.raises(DataError, match="cannot be read"):
        read_pair_list(tmp_path / "none.txt", "train")


def test_analysis_counts(home: Path) -> None:
    lists = load_pair_lists()
    table = part_table(lists).set_index("part")
    assert table.loc["train", ["people", "photographs", "pairs", "same", "different"]].tolist() == [3, 6, 4, 2, 2]
    assert table.loc["train", "people with a same pair"] == 2 and table.loc["test", "same, %"] == 50
    per_person = photos_per_person(lists)
    assert per_person.to_dict("list") == {"photographs": [1, 2, 3], "train": [1, 1, 1], "test": [1, 0, 1]}
    assert shared_people(lists["train"], lists["test"]) == ()
    assert shared_people(lists["train"], lists["train"]) == ("Ann", "Bo", "Cy")


# --- the cut by person ----------------------------------------------------------------------------


@given(people=st.integers(12, 60), pairs=st.integers(20, 80), seed=st.integers(0, 1000), share=st.floats(0.1, 0.5))
def test_no_person_is_on_both_sides_and_no_pair_is_lost(people: int, pairs: int, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    person = torch.from_numpy(np.repeat(np.arange(people), 2))
    one = rng.integers(0, people, pairs // 2)
    # Strangers meet within groups of four people, so that the graph falls into parts.
    members = np.stack([rng.permutation(4)[:2] for _ in range(pairs // 2)])
    strangers = 4 * rng.integers(0, people // 4, pairs // 2)[:, None] + members
    first = torch.from_numpy(np.concatenate([2 * one, 2 * strangers[:, 0]]))
    second = torch.from_numpy(np.concatenate([2 * one + 1, 2 * strangers[:, 1]]))
    whole = FaceSet(
        names=tuple(f"P{n:03d}" for n in range(people)),
        person=person,
        number=torch.arange(2 * people) % 2 + 1,
        pairs=lfw.Pairs(first, second, person[first] == person[second]),
        part="train",
        images=torch.zeros(2 * people, *lfw.WINDOW, 3, dtype=torch.uint8),
        alignment="synthetic",
        source="",
    )
    try:
        training, validation = split_by_person(whole, share, seed)
    except SplitError:
        return
    assert not set(training.people) & set(validation.people) and not shared_people(training, validation)
    assert len(training) + len(validation) == 2 * people
    assert len(training.pairs.same) + len(validation.pairs.same) == len(first)
    for part in (training, validation):
        assert torch.equal(part.person[part.pairs.first] == part.person[part.pairs.second], part.pairs.same)
    for kind in (True, False):
        have = int((validation.pairs.same == kind).sum())
        assert have <= round(share * (whole.pairs.same == kind).sum().item())


def test_cut_keeps_photographs_with_their_people(people: FaceSet) -> None:
    known = {people.title(i): people.images[i].numpy().tobytes() for i in range(len(people))}
    parts = split_by_person(people)
    shown = Counter(part.title(i) for part in parts for i in range(len(part)))
    assert set(shown.values()) == {1} and set(shown) == set(known)
    assert all(part.images[i].numpy().tobytes() == known[part.title(i)] for part in parts for i in range(len(part)))
    again = split_by_person(people)
    assert torch.equal(parts[1].person, again[1].person)
    assert split_by_person(people, seed=1)[1].people != parts[1].people


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 0.001])
def test_impossible_cut_is_refused(people: FaceSet, share: float) -> None:
    with pytest.raises(SplitError):
        split_by_person(people, share)


def test_of_people_rejects_strangers(people: FaceSet) -> None:
    with pytest.raises(DataError, match="no person 40"):
        people.of_people([0, 40])


# --- what networks see ----------------------------------------------------------------------------


def test_squares_lie_around_the_middle() -> None:
    photo = np.zeros((PHOTO, PHOTO, 3), np.uint8)
    photo[lfw.MIDDLE[0] - 16 : lfw.MIDDLE[0] + 16, lfw.MIDDLE[1] - 16 : lfw.MIDDLE[1] + 16] = 200
    window = face_window(photo)
    assert torch.equal(squares(window, 32, 32), torch.full((1, 32, 32, 3), 200, dtype=torch.uint8))
    halved = squares(window, 64, 32)
    assert int(halved[0, 16, 16, 0]) == 200 and int(halved[0, 2, 2, 0]) == 0
    assert squares(window, lfw.LARGEST_SQUARE, 64).shape == (1, 64, 64, 3)
    for crop, size in ((lfw.LARGEST_SQUARE + 1, 64), (0, 64), (64, 0)):
        with pytest.raises(ConfigError):
            squares(window, crop, size)


def test_squares_agree_with_pillow(people: FaceSet) -> None:
    ours = squares(people.images[:3], 128, 64).numpy().astype(int)
    top, left = lfw.MIDDLE[0] - ROWS[0] - 64, lfw.MIDDLE[1] - COLUMNS[0] - 64
    for image, small in zip(people.images[:3].numpy(), ours):
        crop = Image.fromarray(image).crop((left, top, left + 128, top + 128))
        theirs = np.asarray(crop.resize((64, 64), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(theirs - small).max() <= 2


def test_grey_keeps_the_scale_of_the_photograph(people: FaceSet) -> None:
    whole = grey(people.images[:4], 125, "photo")
    assert whole.shape == (4, 125, 125) and whole.dtype == torch.uint8
    assert int(whole[:, :26].max()) == int(whole[:, :, :29].max()) == 0  # rows 0-54 and columns 0-59, halved
    assert grey(people.images[:4], 105, "window")[:, 0].float().mean() > 5
    image = Image.fromarray(people.images[0].numpy()).convert("L").resize((65, 75), Image.Resampling.BILINEAR)
    middle = whole[0, 30:100, 32:92].numpy().astype(int)
    assert np.abs(np.asarray(image).astype(int)[2:72, 2:62] - middle).mean() < 6  # windows begin between two pixels
    with pytest.raises(UnknownNameError):
        grey(people.images[:1], 105, "whole")


def test_people_with_one_photograph_stand_twice(people: FaceSet) -> None:
    everyone = training_images(people, 128, 32)
    counts = torch.bincount(everyone.labels)
    assert everyone.num_classes == len(people.people) and int(counts.min()) == 2
    assert len(everyone) == sum(max(2, int((people.person == one).sum())) for one in people.people)
    several = training_images(people, 128, 32, repeat=False)
    assert several.num_classes == sum(int((people.person == one).sum()) >= 2 for one in people.people)
    for images in (everyone, several):
        assert images.labels.tolist() == sorted(images.labels.tolist())
        for label in (0, images.num_classes - 1):
            person = people.names.index(images.class_names[label])
            theirs = {image.numpy().tobytes() for image in squares(people.images[people.person == person], 128, 32)}
            ours = {image.numpy().tobytes() for image in images.images[images.labels == label]}
            assert ours == theirs
    with pytest.raises(SamplingError, match="50 photographs"):
        training_images(people, 128, 32, least=50, repeat=False)


def test_face_window_wants_a_photograph() -> None:
    with pytest.raises(ShapeError):
        face_window(np.zeros((200, 200, 3), np.uint8))


# --- the set itself -------------------------------------------------------------------------------


def test_face_set_checks_itself(people: FaceSet) -> None:
    for changes in (
        {"images": people.images.float()},
        {"images": people.images[:, :100]},
        {"person": people.person[1:]},
        {"images": people.images[:5], "person": people.person[:5], "number": people.number[:5]},
    ):
        with pytest.raises(ShapeError):
            dataclasses.replace(people, **changes)


def test_synthetic_faces_are_made_like_lfw() -> None:
    one, again, other = synthetic_faces(20, 20), synthetic_faces(20, 20), synthetic_faces(20, 20, part="test")
    assert torch.equal(one.images, again.images) and one.is_synthetic and one.name == "synthetic"
    assert not shared_people(one, other) and not torch.equal(one.images[:10], other.images[:10])
    assert torch.equal(one.person[one.pairs.first] == one.person[one.pairs.second], one.pairs.same)
    assert int(one.pairs.same.sum()) == 10 and bool((one.pairs.first != one.pairs.second).all())
    assert "20 people" in repr(one)
    with pytest.raises(SamplingError):
        synthetic_faces(3, 20)


# --- loading --------------------------------------------------------------------------------------


def test_photographs_are_those_of_the_list(home: Path) -> None:
    before = sorted(path.name for path in home.iterdir())
    faces = load_training_faces()
    assert faces.alignment == "deep-funneled" and faces.name == "lfw-deep-funneled" and len(faces) == 6
    for photo in range(len(faces)):
        name, number = faces.names[int(faces.person[photo])], int(faces.number[photo])
        assert np.array_equal(faces.images[photo], photo_of(home, name, number)[slice(*ROWS), slice(*COLUMNS)])
    assert load_test_faces().names == ("Di", "Ed")
    assert sorted(path.name for path in home.iterdir()) == before  # nothing is written beside the data
    assert not list(cache_folder().glob(".*"))


def test_without_a_cache_that_can_be_written(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SIAMESE_CACHE", str(tmp_path / "file" / "cache"))
    assert len(load_training_faces()) == 6


def test_second_start_reads_the_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_training_faces()
    monkeypatch.setattr(lfw, "_read_windows", None)
    again = load_training_faces()
    assert torch.equal(first.images, again.images) and again.alignment == first.alignment


def test_changed_photograph_is_read_again(home: Path) -> None:
    first = load_training_faces()
    path = home / "lfw_funneled" / "Ann" / "Ann_0001.jpg"
    photo = photo_of(home, "Ann", 1).copy()
    photo[100:150, 100:150] = 255
    Image.fromarray(photo).save(path, quality=95)
    assert not torch.equal(load_training_faces().images, first.images)


def test_funneled_photographs_are_told_apart(home: Path) -> None:
    for path in home.glob("lfw_funneled/*/*.jpg"):
        with Image.open(path) as image:
            photo = np.asarray(image).copy()
        photo[:40, 50:200] = 90
        Image.fromarray(photo).save(path, quality=90)
    faces = load_training_faces()
    assert faces.alignment == "funneled" and faces.name == "lfw-funneled"


def test_photographs_out_of_step_with_the_list_are_found(home: Path) -> None:
    """scikit-learn counts the files of a folder; a gap in the numbers would give it other photographs."""
    (home / "lfw_funneled" / "Bo" / "Bo_0002.jpg").rename(home / "lfw_funneled" / "Bo" / "Bo_0004.jpg")
    with pytest.raises(DataError, match="does not show Bo 3"):
        load_training_faces()


@pytest.mark.parametrize("fault", ["missing", "garbled", "black", "small"])
def test_damaged_photograph_is_named(home: Path, fault: str) -> None:
    path = home / "lfw_funneled" / "Cy" / "Cy_0001.jpg"
    if fault == "missing":
        path.unlink()
    elif fault == "garbled":
        path.write_bytes(b"no image")
    else:
        side = 100 if fault == "small" else PHOTO
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(path)
    with pytest.raises(DataError, match="Cy_0001"):
        load_training_faces()


def test_missing_data_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("siamese_utils.data.sources.search_folders", lambda root=None: [(tmp_path, "./data")])
    with pytest.raises(MissingDataError, match=r"lfw_home in SIAMESE_DATA\.$"):
        load_training_faces()


# --- the real thing -------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("users_cache")
@pytest.mark.skipif(not HAS_LFW, reason="LFW is not on this machine")
def test_lfw_is_what_its_authors_say() -> None:
    faces, lists = load_training_faces(), load_pair_lists()
    assert (len(faces.people), len(faces), len(faces.pairs.same)) == (2132, 3443, 2200)
    assert int(faces.pairs.same.sum()) == 1100 and shared_people(faces, lists["test"]) == ()
    assert (len(lists["test"].people), len(lists["test"]), len(lists["test"].pairs.same)) == (963, 1549, 1000)
    training, validation = split_by_person(faces)
    assert validation.pairs.same.int().bincount().tolist() == [220, 220] and len(training.pairs.same) == 1760
    assert not shared_people(training, validation) and not shared_people(training, lists["test"])
    # The authors' photographs are in colour and their middle is a face: brighter and redder than blue.
    mean = squares(faces.images[::20], 64, 16).float().mean(dim=(0, 1, 2))
    assert mean[0] > mean[1] > mean[2] > 40
