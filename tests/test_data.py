"""CIFAR-100 and CIFAR-10 as small fakes in their three layouts, and the real ones."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import shutil
import tarfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR100

from siamese_utils.data import cifar as data
from siamese_utils.data import load as data_load
from siamese_utils.data import sources
from siamese_utils.data.cifar import (
    _CIFAR10,
    _CIFAR100,
    CIFAR10_CLASSES,
    CIFAR100_CLASSES,
    CIFAR100_SUPERCLASS_OF,
    CIFAR100_SUPERCLASSES,
    Cifar,
    DataSource,
    find_cifar10,
    find_cifar100,
    load_cifar10,
    load_cifar100,
)
from siamese_utils.data.images import PARTS, ImageSet, canonical_order
from siamese_utils.data.load import SyntheticDataWarning, load_images
from siamese_utils.data.sources import MissingDataError
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.errors import DataError, ShapeError, UnknownNameError

PER_CLASS = {"train": 3, "test": 2}
LAYOUTS = ("torchvision", "parquet", "folders")
BOTH = (_CIFAR100, _CIFAR10)
Raw = tuple[np.ndarray, np.ndarray]


# --- small fakes --------------------------------------------------------------------------------------


def _fake_part(part: str, classes: int) -> Raw:
    rng = np.random.default_rng(PARTS.index(part))
    labels = rng.permutation(np.repeat(np.arange(classes), PER_CLASS[part]))
    images = rng.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    first, second = np.flatnonzero(labels == 7)[:2]
    images[second] = images[first]  # real CIFAR-100 has copies within a class ...
    images[np.flatnonzero(labels == 8)[0]] = images[first]  # ... and across classes
    return images, labels


def _slow_canonical(images: np.ndarray, labels: np.ndarray) -> Raw:
    rows = [
        (int(n), hashlib.blake2b(i.tobytes(), digest_size=16).digest(), i) for i, n in zip(images, labels, strict=True)
    ]
    rows.sort(key=lambda row: row[:2])
    return np.stack([row[2] for row in rows]), np.asarray([row[0] for row in rows])


RAW = {cifar.name: {part: _fake_part(part, len(cifar.classes)) for part in PARTS} for cifar in BOTH}
SORTED = {name: {part: _slow_canonical(*raw) for part, raw in parts.items()} for name, parts in RAW.items()}


def _encode(image: np.ndarray, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format, lossless=True)
    return buffer.getvalue()


def _write_torchvision(folder: Path, cifar: Cifar) -> None:
    target = folder / cifar.folder
    target.mkdir(parents=True)
    reader = cifar.torchvision
    for part, files in (("train", cifar.files[: len(reader.train_list)]), ("test", cifar.files[-2:-1])):
        images, labels = RAW[cifar.name][part]
        for rows, name in zip(np.array_split(np.arange(len(labels)), len(files)), files, strict=True):
            entry = {"data": images[rows].transpose(0, 3, 1, 2).reshape(len(rows), -1)}
            if cifar is _CIFAR100:
                entry["fine_labels"] = labels[rows].tolist()
                entry["coarse_labels"] = [cifar.superclass_of[n] for n in labels[rows]]
            else:
                entry["labels"] = labels[rows].tolist()
            (target / name).write_bytes(pickle.dumps(entry))
    (target / cifar.files[-1]).write_bytes(pickle.dumps({reader.meta["key"]: list(cifar.classes)}))


def _write_shard(path: Path, encoded: list[bytes], *labels: np.ndarray) -> None:
    img = [{"bytes": content, "path": f"{row}.png"} for row, content in enumerate(encoded)]
    names = ("fine_label", "coarse_label") if len(labels) > 1 else ("label",)
    pq.write_table(pa.table({"img": img, **dict(zip(names, labels, strict=True))}), path)


def _write_parquet(folder: Path, cifar: Cifar) -> None:
    folder.mkdir(parents=True)
    for part, (images, labels) in RAW[cifar.name].items():
        order = np.random.default_rng(9).permutation(len(labels))  # another order than torchvision's
        shards = np.array_split(order, 2)
        for number, (rows, format) in enumerate(zip(shards, ("PNG", "WEBP"), strict=True)):
            coarse = [np.asarray(CIFAR100_SUPERCLASS_OF)[labels[rows]]] if cifar is _CIFAR100 else []
            encoded = [_encode(images[row], format) for row in rows]
            _write_shard(folder / f"{part}-{number:05d}-of-00002.parquet", encoded, labels[rows], *coarse)


def _write_folders(folder: Path, cifar: Cifar) -> None:
    for part, (images, labels) in RAW[cifar.name].items():
        for name in cifar.classes:
            (folder / part / name).mkdir(parents=True)
        for row, (image, label) in enumerate(zip(images, labels, strict=True)):
            (folder / part / cifar.classes[label] / f"{997 * row % 1000:03d}.png").write_bytes(_encode(image))


WRITERS = {"torchvision": _write_torchvision, "parquet": _write_parquet, "folders": _write_folders}


def _written(root: Path, cifar: Cifar) -> dict[str, Path]:
    for layout, write in WRITERS.items():
        write(root / layout, cifar)
    return {layout: root / layout for layout in LAYOUTS}


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return one folder a layout of CIFAR-100, to be copied by tests that damage it."""
    return _written(tmp_path_factory.mktemp("fake"), _CIFAR100)


@pytest.fixture(scope="module")
def pristine_10(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same for CIFAR-10."""
    return _written(tmp_path_factory.mktemp("fake10"), _CIFAR10)


def expect_small(patch: pytest.MonkeyPatch, torchvision_copy: Path, cifar: Cifar = _CIFAR100) -> None:
    """Expect the fake data instead of the real ones."""
    sums = {part: _checksum(*SORTED[cifar.name][part]) for part in PARTS}
    patch.setattr(data, f"_{cifar.name.upper()}", replace(cifar, per_class=PER_CLASS, checksum=sums))
    files, reader = torchvision_copy / cifar.folder, cifar.torchvision
    md5 = [[name, hashlib.md5((files / name).read_bytes()).hexdigest()] for name in cifar.files]
    patch.setattr(reader, "train_list", md5[:-2])
    patch.setattr(reader, "test_list", md5[-2:-1])
    patch.setattr(reader, "meta", {**reader.meta, "md5": md5[-1][1]})


@pytest.fixture(autouse=True)
def small_expectations(
    request: pytest.FixtureRequest, pristine: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Expect the fake data, start in an empty folder, draw few synthetic images."""
    if request.node.get_closest_marker("real_data"):
        return
    small = {part: make_synthetic(part, num_classes=2, per_class=1) for part in PARTS}
    monkeypatch.setattr(data_load, "make_synthetic", small.__getitem__)
    expect_small(monkeypatch, pristine["torchvision"])
    monkeypatch.setattr(sources, "_failed_downloads", {})
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")
    monkeypatch.delenv("SIAMESE_DATA", raising=False)


@pytest.fixture
def copy(pristine: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Return a maker of copies of a layout that a test may damage."""

    def make(layout: str, to: Path = tmp_path / "copy") -> Path:
        shutil.copytree(pristine[layout], to)
        return to

    return make


def _checksum(images: np.ndarray, labels: np.ndarray) -> str:
    return hashlib.blake2b(images.tobytes() + labels.astype("<i8").tobytes(), digest_size=16).hexdigest()


def _assert_part(loaded: ImageSet, part: str) -> None:
    images, labels = SORTED[loaded.name][part]
    assert loaded.images.dtype == torch.uint8 and loaded.labels.dtype == torch.int64
    assert loaded.images.is_contiguous()
    assert np.array_equal(loaded.images.numpy(), images)
    assert np.array_equal(loaded.labels.numpy(), labels)


def _one_sentence(error: BaseException, *contains: object) -> None:
    text = str(error)
    assert text[0].isupper() or text[0] in "/$", text
    assert text.endswith(".") and "\n" not in text and ". " not in text, text
    for piece in contains:
        assert str(piece) in text, text


def _fails(part: str, root: Path, *contains: object) -> None:
    """Check that a damaged copy is an error with one sentence, and never a reason for the synthetic set."""
    for load in (load_cifar100, load_images):
        with warnings.catch_warnings(), pytest.raises(DataError) as caught:
            warnings.simplefilter("error")
            load(part, root=root)
        _one_sentence(caught.value, *contains)


# --- facts about the classes -------------------------------------------------------------------------


def test_class_table() -> None:
    assert len(set(CIFAR100_CLASSES)) == 100 and list(CIFAR100_CLASSES) == sorted(CIFAR100_CLASSES)
    assert (CIFAR100_CLASSES[0], CIFAR100_CLASSES[47], CIFAR100_CLASSES[99]) == ("apple", "maple_tree", "worm")
    assert len(CIFAR100_SUPERCLASSES) == 20 and list(CIFAR100_SUPERCLASSES) == sorted(CIFAR100_SUPERCLASSES)
    assert np.bincount(CIFAR100_SUPERCLASS_OF).tolist() == [5] * 20
    for name, number in (("beaver", 0), ("apple", 4), ("crab", 13), ("woman", 14), ("tractor", 19)):
        assert CIFAR100_SUPERCLASS_OF[CIFAR100_CLASSES.index(name)] == number


@pytest.mark.real_data
def test_table_agrees_with_the_real_coarse_labels(real_data: Callable[[str], ImageSet]) -> None:
    real_data("test")  # raises for the Parquet and torchvision layouts if a coarse label differs
    found = real_data("test").source
    if "Parquet" in found:
        folder = Path(found.removeprefix("Parquet files in "))
        table = pa.concat_tables(
            pq.read_table(file, columns=["fine_label", "coarse_label"]) for file in folder.glob("*.parquet")
        )
        fine, coarse = table["fine_label"].to_numpy(), table["coarse_label"].to_numpy()
        assert np.array_equal(np.asarray(CIFAR100_SUPERCLASS_OF)[fine], coarse)
        assert len(fine) == 60_000


@pytest.mark.real_data
def test_real_test_part_is_cifar100(real_data: Callable[[str], ImageSet]) -> None:
    real = real_data("test")
    assert real.images.shape == (10_000, 32, 32, 3) and real.name == "cifar100" and not real.is_synthetic
    assert torch.bincount(real.labels).tolist() == [100] * 100
    assert bool((real.labels.diff() >= 0).all())


@pytest.mark.real_data
def test_real_training_part_has_the_published_statistics(real_data: Callable[[str], ImageSet]) -> None:
    pixels = real_data("train").images.reshape(-1, 3)
    total = pixels.sum(dim=0, dtype=torch.int64)
    # The channel means that CIFAR-100 code has carried about for years, to all printed digits.
    published = (0.5070751592371323, 0.4865488733149509, 0.44091784336703427)
    assert [int(t) / 255 / len(pixels) for t in total] == pytest.approx(published, abs=1e-14)


# --- one set from every source -----------------------------------------------------------------------


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_bits(layout: str, part: str, pristine: dict[str, Path]) -> None:
    loaded = load_cifar100(part, root=pristine[layout])
    _assert_part(loaded, part)
    assert loaded.class_names == CIFAR100_CLASSES and loaded.superclass_of == CIFAR100_SUPERCLASS_OF
    assert loaded.superclass_names == tuple(CIFAR100_SUPERCLASSES)
    assert (loaded.name, loaded.part, loaded.is_synthetic) == ("cifar100", part, False)
    kind = {"torchvision": "torchvision's files", "parquet": "Parquet files", "folders": "image folders"}
    assert loaded.source == f"{kind[layout]} in {pristine[layout]}"
    assert repr(loaded) == f"ImageSet(cifar100 {part}: {len(loaded)} images 32x32x3, from {loaded.source})"


@given(seed=st.integers(0, 2**32 - 1), count=st.integers(0, 12))
def test_canonical_order_ignores_the_order_given(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 2, (count, 1, 1, 3), dtype=np.uint8)  # few colours, so that copies occur
    labels = rng.integers(0, 3, count)
    shuffle = rng.permutation(count)
    one, two = canonical_order(images, labels), canonical_order(images[shuffle], labels[shuffle])
    assert sorted(one.tolist()) == list(range(count))
    assert np.array_equal(images[one], images[shuffle][two])
    assert np.array_equal(labels[one], np.sort(labels)) and np.array_equal(labels[shuffle][two], np.sort(labels))


def test_images_of_other_lossless_formats_and_folder_spellings_are_read(copy: Callable[[str], Path]) -> None:
    root = copy("folders")
    (root / "test" / "maple_tree").rename(root / "test" / "Maple tree")
    for file in (root / "test" / "worm").iterdir():
        Image.open(file).save(file.with_suffix(".bmp"))
        file.unlink()
    (root / "test" / "worm" / ".DS_Store").write_bytes(b"hidden")
    (root / "test" / ".thumbnails").mkdir()
    _assert_part(load_cifar100("test", root=root), "test")


# --- where it is looked for --------------------------------------------------------------------------


def test_search_order(copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_cifar100() is None
    copy("parquet", tmp_path / "work" / "shared" / "data" / "cifar100")
    assert str(find_cifar100()) == "Parquet files in ../shared/data/cifar100"
    copy("torchvision", Path.cwd() / "data")
    assert str(find_cifar100()) == "torchvision's files in ./data"
    monkeypatch.setenv("SIAMESE_DATA", str(tmp_path / "named"))
    assert str(find_cifar100()) == "torchvision's files in ./data"
    copy("folders", tmp_path / "named")
    found = find_cifar100()
    assert found == DataSource("folders", tmp_path / "named", "$SIAMESE_DATA")
    assert load_cifar100("test").source == "image folders in $SIAMESE_DATA"
    assert find_cifar100(tmp_path / "work" / "shared" / "data").layout == "parquet"


def test_other_peoples_train_folder_is_not_taken_for_cifar100(tmp_path: Path) -> None:
    (tmp_path / "data" / "train" / "cats").mkdir(parents=True)
    assert find_cifar100(tmp_path / "data") is None


def _foreign(folder: Path, layout: str) -> None:
    """Another data set under names that CIFAR-100 has too."""
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "parquet":
        for part in PARTS:
            pq.write_table(pa.table({"image": ["a"], "label": [1]}), folder / f"{part}-00000-of-00001.parquet")
    for name in ("apple", "orange", "pear", "kiwi") if layout == "folders" else ():
        (folder / "train" / name).mkdir(parents=True)


@pytest.mark.parametrize("layout", ["parquet", "folders"])
def test_another_data_set_in_the_usual_folder_is_passed_over(
    layout: str, copy: Callable[..., Path], tmp_path: Path
) -> None:
    _foreign(Path.cwd() / "data", layout)
    assert find_cifar100() is None
    with pytest.raises(MissingDataError, match=r"CIFAR-100 is not in \./data"):
        load_cifar100("train")
    copy("parquet", tmp_path / "work" / "shared" / "data")
    assert load_cifar100("test").source == "Parquet files in ../shared/data"
    copy("torchvision", Path.cwd() / "data" / "cifar100")
    assert load_cifar100("test").source == "torchvision's files in ./data/cifar100"


@pytest.mark.usefixtures("small_10")
def test_cifar10_beside_does_not_hide_cifar100(
    copy: Callable[..., Path], pristine_10: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(pristine_10["parquet"], Path.cwd() / "data")
    copy("parquet", tmp_path / "work" / "shared" / "data")
    assert load_cifar100("test").source == "Parquet files in ../shared/data"


def test_unknown_part() -> None:
    for load in (load_cifar100, load_images):
        with pytest.raises(UnknownNameError, match=r"'validation'.*train, test"):
            load("validation")


# --- nothing there -----------------------------------------------------------------------------------


def test_missing_data_say_where_they_were_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SIAMESE_DATA", str(tmp_path / "nowhere"))
    places = (f"$SIAMESE_DATA ({tmp_path / 'nowhere'})", "./data", "../shared/data")
    remedies = ("downloading is switched off", "SIAMESE_DATA")
    with pytest.raises(DataError) as caught:
        load_cifar100("train")
    _one_sentence(caught.value, *places, *remedies)
    assert "SIAMESE_SYNTHETIC" not in str(caught.value)  # which would do nothing here
    with pytest.raises(MissingDataError) as caught:
        load_images("train", fallback=False)
    _one_sentence(caught.value, *places, *remedies, "SIAMESE_SYNTHETIC=1")
    monkeypatch.delenv("SIAMESE_OFFLINE")
    with pytest.raises(DataError, match="switched off"):
        load_cifar100("train", download=False)


def test_the_synthetic_set_stands_in_with_one_notice() -> None:
    with pytest.warns(SyntheticDataWarning) as caught:
        stand_in = load_images("test")
    assert len(caught) == 1 and caught[0].filename == __file__
    _one_sentence(caught[0].message, "The synthetic set stands in for CIFAR-100: CIFAR-100 is not in ./data")
    assert stand_in.is_synthetic and stand_in.part == "test"


def test_the_synthetic_set_on_demand(copy: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    copy("parquet", Path.cwd() / "data")
    monkeypatch.setenv("SIAMESE_SYNTHETIC", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_images("test").is_synthetic
    assert not load_cifar100("test").is_synthetic
    monkeypatch.setenv("SIAMESE_SYNTHETIC", "0")
    assert not load_images("test").is_synthetic


# --- download ----------------------------------------------------------------------------------------


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch, pristine: dict[str, Path]) -> list[str]:
    """Replace torchvision's download by a copy of the fake data; returns the log of downloads."""
    log: list[str] = []

    def fetch(url: str, root: str | Path, filename: str, md5: str) -> None:
        log.append(str(root))
        shutil.copytree(pristine["torchvision"], root, dirs_exist_ok=True)

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    monkeypatch.delenv("SIAMESE_OFFLINE")
    return log


def test_download(network: list[str]) -> None:
    for part in PARTS:
        loaded = load_cifar100(part)
        _assert_part(loaded, part)
        assert loaded.source == "torchvision's files in ./data"
    assert len(network) == 1  # the second part finds what the first one fetched
    assert [p.name for p in Path("data").iterdir()] == ["cifar-100-python"]


def test_no_network(network: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, root: str | Path, filename: str, md5: str) -> None:
        (Path(root) / filename).write_bytes(b"half of it")
        raise TimeoutError("timed out")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    with pytest.raises(DataError) as caught:
        load_cifar100("train")
    _one_sentence(caught.value, "could not be downloaded (timed out)", "SIAMESE_DATA")
    with pytest.warns(SyntheticDataWarning, match="could not be downloaded"):
        assert load_images("test").is_synthetic
    assert list(Path("data").iterdir()) == []


# --- cache -------------------------------------------------------------------------------------------


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the log of parts that were read from their source and not from the cache."""
    log: list[str] = []
    read = data._read_source

    def logged(cifar: Cifar, source: DataSource, part: str) -> dict[str, torch.Tensor]:
        log.append(part)
        return read(cifar, source, part)

    monkeypatch.setattr(data, "_read_source", logged)
    return log


def _cache_files() -> list[Path]:
    return sorted(sources.cache_folder().iterdir())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_second_start_reads_the_cache(layout: str, pristine: dict[str, Path], reads: list[str]) -> None:
    first = load_cifar100("test", root=pristine[layout])
    second = load_cifar100("test", root=pristine[layout])
    assert reads == ["test"] and second.source == first.source
    _assert_part(second, "test")
    assert len(_cache_files()) == 1  # and no temporary file beside it
    load_cifar100("train", root=pristine[layout])
    assert reads == ["test", "train"] and len(_cache_files()) == 2


def test_without_cache(pristine: dict[str, Path], reads: list[str]) -> None:
    for _ in range(2):
        load_cifar100("test", root=pristine["folders"], cache=False)
    assert reads == ["test", "test"] and not sources.cache_folder().exists()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_changed_source_is_read_again(layout: str, copy: Callable[[str], Path], reads: list[str]) -> None:
    root = copy(layout)
    load_cifar100("test", root=root)
    file = next(p for p in sorted(root.rglob("*test*")) + sorted(root.rglob("test/*/*.png")) if p.is_file())
    os.utime(file, ns=(1, 1))
    load_cifar100("test", root=root)
    assert reads == ["test", "test"]
    assert len(_cache_files()) == 1  # the new cache took the old one's place
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(DataError):
        load_cifar100("test", root=root)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


# --- damaged torchvision files -----------------------------------------------------------------------


def test_truncated_torchvision_file(copy: Callable[[str], Path]) -> None:
    root = copy("torchvision")
    _truncate(root / "cifar-100-python" / "train")
    for part in PARTS:
        _fails(part, root, root / "cifar-100-python" / "train", "damaged or half downloaded", "delete")


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_missing_torchvision_file(name: str, copy: Callable[[str], Path]) -> None:
    root = copy("torchvision")
    (root / "cifar-100-python" / name).unlink()
    _fails("test", root, root / "cifar-100-python" / name, "is missing", "delete", "start again")


def test_half_an_archive(tmp_path: Path) -> None:
    (tmp_path / "cifar-100-python.tar.gz").write_bytes(b"half of it")
    _fails("train", tmp_path, tmp_path / "cifar-100-python.tar.gz", "half downloaded", "delete it")


def test_a_whole_archive_is_unpacked(
    pristine: dict[str, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    archive = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(pristine["torchvision"] / "cifar-100-python", "cifar-100-python")
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    _assert_part(load_cifar100("test", root=tmp_path), "test")


def _rewrite_torchvision(root: Path, monkeypatch: pytest.MonkeyPatch, part: str, **changes: object) -> None:
    file = root / "cifar-100-python" / part
    file.write_bytes(pickle.dumps({**pickle.loads(file.read_bytes()), **changes}))
    md5 = hashlib.md5(file.read_bytes()).hexdigest()
    if part == "meta":
        monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": md5})
    else:
        monkeypatch.setattr(CIFAR100, f"{part}_list", [[part, md5]])


def test_torchvision_files_of_another_data_set(copy: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    root = copy("torchvision")
    _rewrite_torchvision(root, monkeypatch, "test", coarse_labels=[0] * 200)
    _fails("test", root, root / "cifar-100-python" / "test", "superclass 0 instead of")
    _rewrite_torchvision(root, monkeypatch, "meta", fine_label_names=["cat", "dog"])
    _fails("train", root, root / "cifar-100-python" / "meta", "names other classes")


# --- damaged Parquet files ---------------------------------------------------------------------------


def _edit_shard(root: Path, edit: Callable[[list[bytes], np.ndarray, np.ndarray], None]) -> Path:
    path = root / "test-00001-of-00002.parquet"
    table = pq.read_table(path)
    encoded = [row["bytes"] for row in table["img"].to_pylist()]
    fine, coarse = (table[name].to_numpy().copy() for name in ("fine_label", "coarse_label"))
    edit(encoded, fine, coarse)
    _write_shard(path, encoded, fine, coarse)
    return path


def test_parquet_files_in_a_folder_whose_name_is_not_utf8(copy: Callable[[str], Path], tmp_path: Path) -> None:
    try:
        folder = copy("parquet").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes no such names")
    assert len(load_cifar100("test", root=folder).labels) > 0


def test_truncated_parquet_file(copy: Callable[[str], Path]) -> None:
    root = copy("parquet")
    _truncate(root / "train-00001-of-00002.parquet")
    _fails("train", root, root / "train-00001-of-00002.parquet", "half downloaded", "huggingface.co")
    _assert_part(load_cifar100("test", root=root), "test")


def test_a_pointer_in_place_of_the_parquet_file(copy: Callable[[str], Path]) -> None:
    root = copy("parquet")
    (root / "test-00000-of-00002.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    _fails("test", root, root / "test-00000-of-00002.parquet", "download it again")


def test_missing_shard(copy: Callable[[str], Path]) -> None:
    root = copy("parquet")
    shard = root / "train-00001-of-00002.parquet"
    shard.rename(shard.with_suffix(".parquet.incomplete"))
    _fails("train", root, f"{root} has no {shard.name} ({shard.name}.incomplete looks half downloaded)")
    _assert_part(load_cifar100("test", root=root), "test")


def test_missing_part(copy: Callable[[str], Path]) -> None:
    root = copy("parquet")
    for file in root.glob("test-*"):
        file.unlink()
    _fails("test", root, f"{root} has no test-*.parquet")


def test_parquet_file_of_another_data_set(copy: Callable[[str], Path]) -> None:
    root = copy("parquet")
    file = root / "test-00000-of-00002.parquet"
    pq.write_table(pa.table({"image": ["a"], "label": [1]}), file)
    _fails("test", root, file, "lacks the columns img (bytes), fine_label and coarse_label")
    pq.write_table(pa.table({"img": ["a"], "fine_label": [1], "coarse_label": [1]}), file)
    _fails("test", root, file, "lacks the columns")


def test_unreadable_image_in_a_parquet_file(copy: Callable[[str], Path]) -> None:
    def truncate(encoded: list[bytes], fine: np.ndarray, coarse: np.ndarray) -> None:
        encoded[3] = encoded[3][:200]

    root = copy("parquet")
    file = _edit_shard(root, truncate)
    _fails("test", root, f"Image 3 of {file} is not a readable image", "download it again")


def test_empty_image_in_a_parquet_file(copy: Callable[[str], Path]) -> None:
    root = copy("parquet")
    file = _edit_shard(root, lambda encoded, fine, coarse: encoded.__setitem__(5, None))
    _fails("test", root, f"Image 5 of {file} is not a readable image")


@pytest.mark.parametrize("value", [-1, 100])
def test_label_out_of_range(value: int, copy: Callable[[str], Path]) -> None:
    root = copy("parquet")
    file = _edit_shard(root, lambda encoded, fine, coarse: fine.__setitem__(4, value))
    _fails("test", root, f"Image 4 in {file} has label {value}", "0..99", "download it again")


def test_wrong_label(copy: Callable[[str], Path]) -> None:
    def relabel(encoded: list[bytes], fine: np.ndarray, coarse: np.ndarray) -> None:
        fine[2], coarse[2] = CIFAR100_CLASSES.index("worm"), CIFAR100_SUPERCLASS_OF[0]

    root = copy("parquet")
    file = _edit_shard(root, relabel)
    _fails("test", root, f"Image 2 in {file} has label 99 (worm) with superclass 4 instead of 13")


def test_swapped_labels(copy: Callable[[str], Path]) -> None:
    def swap(encoded: list[bytes], fine: np.ndarray, coarse: np.ndarray) -> None:
        encoded[0], encoded[1] = encoded[1], encoded[0]

    root = copy("parquet")
    _edit_shard(root, swap)
    _fails("test", root, f"The test part in {root} is complete", "not CIFAR-100's", "download the original")


def test_wrong_count(copy: Callable[[str], Path]) -> None:
    def drop(encoded: list[bytes], fine: np.ndarray, coarse: np.ndarray) -> None:
        fine[fine == fine[0]] = 50
        coarse[:] = np.asarray(CIFAR100_SUPERCLASS_OF)[fine]

    root = copy("parquet")
    _edit_shard(root, drop)
    _fails("test", root, f"The test part in {root} has ", "images of class", "instead of 2: delete")


# --- damaged image folders ---------------------------------------------------------------------------


def test_missing_class_folders(copy: Callable[[str], Path]) -> None:
    root = copy("folders")
    for name in CIFAR100_CLASSES[90:]:
        shutil.rmtree(root / "test" / name)
    named = ", ".join(CIFAR100_CLASSES[90:95])
    _fails("test", root, f"{root / 'test'} lacks folders for {named} and 5 more", "100 class names")
    shutil.rmtree(root / "test")
    _fails("test", root, "lacks folders for apple, aquarium_fish")


def test_strange_class_folder(copy: Callable[[str], Path]) -> None:
    root = copy("folders")
    (root / "train" / "crab").rename(root / "train" / "cra")
    _fails("train", root, root / "train", "lacks folders for crab and has folders that are no class: cra:")


def test_missing_and_empty_image_files(copy: Callable[[str], Path]) -> None:
    root = copy("folders")
    file = sorted((root / "train" / "bear").iterdir())[0]
    content = file.read_bytes()
    file.write_bytes(b"")
    _fails("train", root, f"{file} is not a readable image", "delete it")
    file.write_bytes(content[: len(content) // 2])
    _fails("train", root, f"{file} is not a readable image")
    file.unlink()
    _fails("train", root, f"{root} has 2 images of class 'bear' instead of 3, 299 in all instead of 300:")


def test_a_file_that_is_no_image(copy: Callable[[str], Path]) -> None:
    root = copy("folders")
    (root / "train" / "bear" / "notes.txt").write_text("not an image")
    _fails("train", root, f"{root / 'train' / 'bear' / 'notes.txt'} is not a readable image")


@pytest.mark.parametrize(
    ("mode", "size", "found"),
    [("L", (32, 32), "grey 32x32"), ("RGBA", (32, 32), "mode RGBA"), ("RGB", (64, 48), "RGB 64x48")],
)
def test_images_that_are_not_32x32_rgb(
    mode: str, size: tuple[int, int], found: str, copy: Callable[[str], Path]
) -> None:
    root = copy("folders")
    file = sorted((root / "train" / "bear").iterdir())[1]
    Image.new(mode, size).save(file)
    _fails("train", root, file, found, "CIFAR-100 is RGB 32x32", "replace it")


@pytest.mark.parametrize("name", ["apple", "worm"])
def test_a_test_image_among_the_training_images(name: str, copy: Callable[[str], Path]) -> None:
    """Counts and labels stay right, but the pixels are not those of the training part."""
    folder = copy("folders")
    shutil.copyfile(min((folder / "test" / name).iterdir()), min((folder / "train" / "apple").iterdir()))
    _fails("train", folder, folder, "pixels or labels are not CIFAR-100's")


def test_images_saved_again_with_loss(copy: Callable[[str], Path]) -> None:
    root = copy("folders")
    file = sorted((root / "train" / "bear").iterdir())[1]
    Image.open(file).save(file, "JPEG")
    _fails("train", root, f"The train part in {root} is complete", "saved again with loss", "download the original")


# --- CIFAR-10 ----------------------------------------------------------------------------------------


@pytest.fixture
def small_10(pristine_10: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    expect_small(monkeypatch, pristine_10["torchvision"], _CIFAR10)


@pytest.mark.usefixtures("small_10")
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_cifar10(layout: str, part: str, pristine_10: dict[str, Path], reads: list[str]) -> None:
    for _ in range(2):
        loaded = load_cifar10(part, root=pristine_10[layout])
        _assert_part(loaded, part)
    assert reads == [part]
    assert (loaded.name, loaded.class_names) == ("cifar10", tuple(CIFAR10_CLASSES)) and not loaded.is_synthetic
    assert loaded.superclass_names == ("animals", "vehicles")
    assert [loaded.class_names[n] for n, of in enumerate(loaded.superclass_of) if of] == [
        "airplane",
        "automobile",
        "ship",
        "truck",
    ]


@pytest.mark.usefixtures("small_10")
def test_both_data_sets_lie_in_one_folder(
    pristine: dict[str, Path], pristine_10: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(pristine["parquet"], tmp_path / "cifar100")
    shutil.copytree(pristine_10["parquet"], tmp_path / "cifar10")
    assert load_cifar10("test", root=tmp_path).source == f"Parquet files in {tmp_path}/cifar10"
    for name in (_CIFAR100.name, _CIFAR10.name):
        shutil.rmtree(tmp_path / name)
    shutil.copytree(pristine["torchvision"], tmp_path, dirs_exist_ok=True)
    assert find_cifar10(tmp_path) is None
    shutil.copytree(pristine_10["torchvision"], tmp_path, dirs_exist_ok=True)
    _assert_part(load_cifar10("test", root=tmp_path), "test")
    _assert_part(load_cifar100("test", root=tmp_path), "test")


@pytest.mark.usefixtures("small_10")
def test_cifar10_is_downloaded(
    network: list[str], pristine_10: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(url: str, root: str | Path, filename: str, md5: str) -> None:
        shutil.copytree(pristine_10["torchvision"], root, dirs_exist_ok=True)
        (Path(root) / filename).write_bytes(b"an archive that nobody needs now")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", fetch)
    _assert_part(load_cifar10("test"), "test")
    assert [p.name for p in Path("data").iterdir()] == ["cifar-10-batches-py"]


def test_without_cifar10() -> None:
    with pytest.raises(MissingDataError) as caught:
        load_cifar10("test")
    _one_sentence(caught.value, "CIFAR-10 is not in ./data", "switched off: name its folder in SIAMESE_DATA.")


@pytest.mark.usefixtures("small_10")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_data_set_in_the_others_place(
    layout: str, pristine: dict[str, Path], pristine_10: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(pristine[layout], tmp_path / "cifar10")
    shutil.copytree(pristine_10[layout], tmp_path / "cifar100")
    for load, holds in ((load_cifar10, "CIFAR-100, not CIFAR-10"), (load_cifar100, "CIFAR-10, not CIFAR-100")):
        with pytest.raises(DataError) as caught:
            load("train", root=tmp_path)
        place = tmp_path / load.__name__.removeprefix("load_")
        _one_sentence(caught.value, f"{place} holds {holds}: move it elsewhere and start again")


@pytest.mark.usefixtures("small_10")
def test_torchvision_files_in_the_others_folder(
    pristine: dict[str, Path], pristine_10: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(pristine["torchvision"] / "cifar-100-python", tmp_path / "cifar-10-batches-py")
    with pytest.raises(DataError, match=r"cifar-10-batches-py holds CIFAR-100, not CIFAR-10: move"):
        load_cifar10("train", root=tmp_path)


@pytest.mark.usefixtures("small_10")
def test_damaged_cifar10(pristine_10: dict[str, Path], tmp_path: Path) -> None:
    def fails(*contains: object) -> None:
        with pytest.raises(DataError) as caught:
            load_cifar10("test", root=tmp_path)
        _one_sentence(caught.value, *contains)

    shutil.copytree(pristine_10["torchvision"], tmp_path, dirs_exist_ok=True)
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").unlink()
    fails("data_batch_3 is missing", "delete")
    shutil.rmtree(tmp_path / "cifar-10-batches-py")
    shutil.copytree(pristine_10["parquet"], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "test-00000-of-00002.parquet"
    _write_shard(file, [_encode(RAW["cifar10"]["test"][0][0])], np.array([10]))
    fails(f"Image 0 in {file} has label 10, but CIFAR-10 has labels 0..9")
    pq.write_table(pa.table({"label": [1]}), file)
    fails(f"{file} lacks the columns img (bytes) and label of CIFAR-10", "huggingface.co/datasets/uoft-cs/cifar10")


@pytest.mark.usefixtures("small_10")
@pytest.mark.parametrize(
    ("layout", "name", "says"),
    [
        ("torchvision", "cifar-10-batches-py/test_batch", "test_batch is damaged or half downloaded: delete"),
        ("parquet", "test-00000-of-00002.parquet", "is damaged or half downloaded: delete it and download it again"),
        ("folders", "test/frog/*.png", "delete it and download it again"),
    ],
)
def test_half_downloaded_cifar10(
    layout: str, name: str, says: str, pristine_10: dict[str, Path], tmp_path: Path
) -> None:
    root = shutil.copytree(pristine_10[layout], tmp_path / "cifar10")
    file = next(iter(sorted(root.glob(name))))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(DataError) as caught:
        load_cifar10("test", root=tmp_path)
    _one_sentence(caught.value, file.name, says)
    file.unlink()
    with pytest.raises(DataError) as caught:
        load_cifar10("test", root=tmp_path)
    _one_sentence(caught.value, "download")


@pytest.mark.real_data
@pytest.mark.usefixtures("users_cache")
@pytest.mark.skipif(find_cifar10() is None, reason="CIFAR-10 is not on this machine")
def test_real_cifar10_has_the_published_statistics() -> None:
    source = find_cifar10()
    assert source is not None
    train, test = (load_cifar10(part, root=source.path) for part in PARTS)
    assert torch.bincount(train.labels).tolist() == [5_000] * 10
    assert torch.bincount(test.labels).tolist() == [1_000] * 10
    # The channel means that CIFAR-10 code has carried about for years.
    mean = train.images.view(-1, 3).sum(0, dtype=torch.int64).double() / (255 * train.images.numel() / 3)
    assert mean.tolist() == pytest.approx([0.49139968, 0.48215841, 0.44653091], abs=1e-8)


# --- ImageSet ----------------------------------------------------------------------------------------


def _set(**changes: object) -> ImageSet:
    fields = {
        "images": torch.arange(6 * 3, dtype=torch.uint8).reshape(6, 1, 1, 3),
        "labels": torch.tensor([2, 0, 1, 1, 2, 0]),
        "class_names": ("a", "b", "c"),
        "superclass_names": ("x",),
        "superclass_of": (0, 0, 0),
        "name": "cifar100",
        "part": "train",
        "source": "a test",
    }
    return ImageSet(**{**fields, **changes})


def test_indices_and_subset() -> None:
    full = _set()
    assert full.indices_of([2, 1]).tolist() == [0, 2, 3, 4] and full.indices_of([]).tolist() == []
    some = full.subset(full.indices_of([2]))
    assert some.labels.tolist() == [2, 2] and some.images.flatten().tolist() == [0, 1, 2, 12, 13, 14]
    assert len(some) == 2 and some.num_classes == 3 and some.images.is_contiguous()
    assert full.subset([5, 0]).labels.tolist() == [0, 2] and len(full.subset([])) == 0
    assert len(full.subset([]).subset([])) == 0
    with pytest.raises(DataError, match=r"no class 3; the classes are 0\.\.2"):
        full.indices_of([0, 3])
    with pytest.raises(ShapeError, match="Position 6 is outside the set, which has 6 images"):
        full.subset([6])
    for mask in (full.labels == 2, [0.0], torch.zeros(1, 1, dtype=torch.int64)):
        with pytest.raises(ShapeError, match="whole-number positions"):
            full.subset(mask)


@pytest.mark.parametrize(
    "changes",
    [
        {"images": torch.zeros(6, 1, 1, 3)},
        {"images": torch.zeros(6, 3, dtype=torch.uint8)},
        {"images": torch.zeros(6, 3, 1, 2, dtype=torch.uint8).permute(0, 2, 3, 1)},
        {"labels": torch.zeros(5, dtype=torch.int64)},
        {"labels": torch.zeros(6, dtype=torch.int32)},
        {"labels": torch.full((6,), 3)},
        {"labels": torch.full((6,), -1)},
    ],
)
def test_fields_that_do_not_fit(changes: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ShapeError) as caught:
        _set(**changes)
    _one_sentence(caught.value)
