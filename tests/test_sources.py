"""Where data lie, how they are fetched and how they are kept, for every data set alike."""

from __future__ import annotations

import os
import socket
import tempfile
import urllib.error
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from siamese_utils.data import sources
from siamese_utils.data.sources import MissingDataError, cached, fetch, find, fingerprint, search_folders
from siamese_utils.errors import DataError, StorageError


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working folder, without settings."""
    monkeypatch.delenv("SIAMESE_DATA", raising=False)
    monkeypatch.delenv("SIAMESE_OFFLINE")
    monkeypatch.setattr(sources, "_failed_downloads", {})
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def one_sentence(error: BaseException, *contains: object) -> None:
    text = str(error)
    assert text.endswith(".") and "\n" not in text and ". " not in text, text
    assert all(str(piece) in text for piece in contains), text


# --- where to look --------------------------------------------------------------------------------


def test_folders_are_searched_in_order(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def holds(folder: Path) -> bool:
        return (folder / "set").exists()

    assert find(holds) is None
    for folder, label in (
        (here.parent / "shared" / "data", "../shared/data"),
        (here / "data", "./data"),
        (here.parent / "named", "$SIAMESE_DATA"),
    ):
        (folder / "set").mkdir(parents=True)
        monkeypatch.setenv("SIAMESE_DATA", str(here.parent / "named"))
        found = find(holds)
        assert found is not None and (found[0].resolve(), found[1]) == (folder, label)
    assert find(holds, here) is None  # the only folder


def test_a_sub_folder_of_the_checkout_finds_the_roots_data(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "notebooks").mkdir()
    (here / "data").mkdir()
    monkeypatch.chdir(here / "notebooks")
    assert find(Path.exists) is None
    monkeypatch.setattr(sources, "__file__", str(here / "siamese_utils" / "data" / "sources.py"))
    assert find(Path.exists) == (here / "data", "./data")


def test_each_folder_is_searched_once(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_DATA", "data")
    assert [label for _, label in search_folders()] == ["$SIAMESE_DATA", "../shared/data"]


def test_a_file_in_place_of_the_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "data.zip").write_bytes(b"")
    monkeypatch.setenv("SIAMESE_DATA", str(here / "data.zip"))
    with pytest.raises(DataError) as caught:
        find(Path.exists)
    one_sentence(caught.value, here / "data.zip", "is not a folder")


# --- download -------------------------------------------------------------------------------------


def get(folder: Path) -> None:
    (folder / "set").mkdir()
    (folder / "set" / "images").write_bytes(b"all of it")


def test_download_goes_where_it_is_looked_for(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert fetch("A set", get) == (here / "data", "./data")
    monkeypatch.setenv("SIAMESE_DATA", str(here / "new" / "place"))
    assert fetch("A set", get) == (here / "new" / "place", "$SIAMESE_DATA")
    assert fetch("A set", get, here / "root") == (here / "root", str(here / "root"))
    for folder in (here / "data", here / "new" / "place", here / "root"):
        assert [path.relative_to(folder).as_posix() for path in folder.rglob("*")] == ["set", "set/images"]


@pytest.mark.parametrize(
    "failure",
    [urllib.error.URLError("Name or\nservice not known."), TimeoutError("timed out"), RuntimeError("hash"), EOFError()],
)
def test_no_network_is_one_sentence_and_tried_once(
    failure: Exception, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def half(folder: Path) -> None:
        tried.append(folder)
        get(folder)
        raise failure

    monkeypatch.setenv("SIAMESE_DATA", str(here / "named"))
    places = f"$SIAMESE_DATA ({here / 'named'}), ./data, ../shared/data"
    for _ in range(2):
        with pytest.raises(MissingDataError) as caught:
            fetch("A set", half, remedy="give up")
        one_sentence(caught.value, f"A set is not in {places} and could not be downloaded (", "): give up.")
    assert len(tried) == 1 and list((here / "named").iterdir()) == []
    fetch("Another set", get)


def test_downloads_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingDataError, match="switched off: name the folder that holds it in SIAMESE_DATA"):
        fetch("A set", pytest.fail, download=False)
    monkeypatch.setenv("SIAMESE_OFFLINE", "1")
    with pytest.raises(MissingDataError, match="switched off"):
        fetch("A set", pytest.fail)
    monkeypatch.setenv("SIAMESE_OFFLINE", "no")
    fetch("A set", get)


def test_an_interrupted_download_leaves_nothing_behind(here: Path) -> None:
    def interrupted(folder: Path) -> None:
        get(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch("A set", interrupted)
    assert list((here / "data").iterdir()) == []
    fetch("A set", get)


def test_what_is_there_already_takes_in_what_is_new(here: Path) -> None:
    """Another process was faster, or other files lie in the folder."""
    (here / "data" / "set").mkdir(parents=True)
    (here / "data" / "set" / "notes").write_bytes(b"kept")
    fetch("A set", get)
    assert sorted(path.name for path in (here / "data" / "set").iterdir()) == ["images", "notes"]


def test_silence_is_limited_for_the_download_alone() -> None:
    before, inside = socket.getdefaulttimeout(), []
    fetch("A set", lambda folder: inside.append(socket.getdefaulttimeout()))
    assert inside == [30] and socket.getdefaulttimeout() == before


# --- cache ----------------------------------------------------------------------------------------


class Maker:
    """Makes tensors and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> dict[str, torch.Tensor]:
        self.calls += 1
        return {"labels": torch.arange(5), "images": torch.arange(20_000, dtype=torch.uint8).view(100, 200)}


def kept(make: Maker, fingerprint: str = "one") -> dict[str, torch.Tensor]:
    tensors = cached("name", fingerprint, make)
    assert {key: value.tolist() for key, value in tensors.items()} == {
        key: value.tolist() for key, value in Maker()().items()
    }
    return tensors


def cache_files() -> list[Path]:
    return sorted(sources.cache_folder().iterdir())


def test_the_second_start_reads_the_cache() -> None:
    make = Maker()
    kept(make)
    kept(make)["images"].zero_()  # what is read may be written to
    kept(make)
    assert make.calls == 1 and len(cache_files()) == 1  # and no temporary file beside it


def test_another_fingerprint_takes_the_old_ones_place() -> None:
    make = Maker()
    kept(make)
    kept(make, "two")
    kept(make, "two")
    assert make.calls == 2 and len(cache_files()) == 1


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-500] ^= 1
    path.write_bytes(content)


def drop_images(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({"labels": load_file(path)["labels"]}, path, metadata=metadata)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        drop_images,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-1000]),
        lambda path: save_file({"weights": torch.zeros(3)}, path),
    ],
)
@pytest.mark.filterwarnings("error")
def test_a_damaged_cache_is_made_anew_silently(damage: Callable[[Path], object]) -> None:
    make = Maker()
    kept(make)
    damage(cache_files()[0])
    kept(make)
    kept(make)
    assert make.calls == 2


def test_a_cache_that_cannot_be_written_does_no_harm(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "file").write_bytes(b"")
    monkeypatch.setenv("SIAMESE_CACHE", str(here / "file" / "cache"))
    kept(Maker())


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sources.cache_folder() == Path(os.environ["SIAMESE_CACHE"])
    monkeypatch.delenv("SIAMESE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sources.cache_folder() == tmp_path / "siamese_utils"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sources.cache_folder() == tmp_path / ".cache" / "siamese_utils"


def test_fingerprint_sees_every_change_of_a_file_but_not_the_path(here: Path) -> None:
    (here / "data").mkdir()
    (here / "link").symlink_to(here / "data")
    for name in ("a", "b"):
        (here / "data" / name).write_bytes(b"1")
        os.utime(here / "data" / name, ns=(1, 1))

    def seen(folder: str = "data", names: str = "ab", form: str = "") -> str:
        return fingerprint(form, here / folder, [here / folder / name for name in names])

    before = seen()
    assert before == seen("link") and sources.at_place("x", here / "data") == sources.at_place("x", here / "link")
    assert len({before, seen(form="other"), seen(names="a"), seen(names="ba")}) == 4
    os.utime(here / "data" / "b", ns=(2, 2))
    later = seen()
    (here / "data" / "b").write_bytes(b"12")
    os.utime(here / "data" / "b", ns=(2, 2))
    assert len({before, later, seen()}) == 3
    (here / "data" / "a").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        seen()
    assert Path(caught.value.filename).name == "a"


def test_names_that_are_not_utf8_have_a_fingerprint_and_a_place(here: Path) -> None:
    file = here / os.fsdecode(b"caf\xe9")
    try:
        file.write_bytes(b"1")
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such names")
    assert fingerprint("", here, [file]) and sources.at_place("x", file).isascii()


# --- no home folder, or nothing that can be written -------------------------------------------------


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whom the system does not know, as in a container."""

    for name in ("SIAMESE_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "expanduser", _raise_no_home)
    monkeypatch.setattr(Path, "home", classmethod(_raise_no_home))


def _raise_no_home(_: object) -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_without_a_home_folder_there_is_no_cache(homeless: None) -> None:
    assert sources.cache_folder() is None
    make = Maker()
    kept(make)
    kept(make)
    assert make.calls == 2
    with sources.scratch_folder() as scratch:
        assert scratch.is_dir()
    assert not scratch.exists()


def test_a_folder_below_an_unknown_home_is_named(homeless: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_DATA", "~/data")
    with pytest.raises(DataError, match=r"SIAMESE_DATA is ~/data, but this user has no home folder; give the whole"):
        search_folders()


def test_scratch_is_found_where_the_cache_cannot_be_written(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "file").write_bytes(b"")
    monkeypatch.setenv("SIAMESE_CACHE", str(here / "file" / "cache"))
    with sources.scratch_folder() as scratch:
        (scratch / "something").write_text("for a moment")
    assert not scratch.exists()
    monkeypatch.setattr(tempfile, "tempdir", str(here / "nowhere"))
    with pytest.raises(StorageError, match="SIAMESE_CACHE"), sources.scratch_folder():
        pass
