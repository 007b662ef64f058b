"""CIFAR-100 and CIFAR-10 from any of their usual layouts, in one canonical order, as one uint8 tensor in memory.

A result must not depend on where the images came from, so every source ends in the same bits: the images
are sorted by label and, within a class, by a hash of their pixels. The sorted tensor is cached for the next
start. Where the copies are looked for says :mod:`siamese_utils.data.sources`.

Data: Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import os
import pickle
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from siamese_utils.data import sources
from siamese_utils.data.image_files import is_litter, opened
from siamese_utils.data.images import PARTS, ImageSet, Part, canonical_order, check_part
from siamese_utils.data.sources import checksum
from siamese_utils.errors import DataError
from siamese_utils.system.text import listed

Layout = Literal["torchvision", "parquet", "folders"]
_SIZE = 32
_CACHE_VERSION = 1


# --- the two data sets ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Cifar:
    """What a whole copy of one of the data sets holds, and how its files are called.

    Attributes:
        title: its name for people.
        name: its name in file names, and that of the sub-folder it may lie in.
        superclasses: in the order of their numbers, each with its classes.
        per_class: images of a class, by part.
        checksum: of the sorted images and labels, by part.
        folder: that of torchvision's files.
        archive: that torchvision downloads.
        files: torchvision's, in a fixed order.
        columns: of the labels in Parquet files; the second, if there is one, has the superclasses.
    """

    title: str
    name: str
    superclasses: Mapping[str, tuple[str, ...]]
    per_class: Mapping[str, int]
    checksum: Mapping[str, str]
    folder: str
    archive: str
    files: tuple[str, ...]
    columns: tuple[str, ...]

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """A class's number is the position of its name in alphabetical order, as in torchvision."""
        return tuple(sorted(name for classes in self.superclasses.values() for name in classes))

    @cached_property
    def superclass_of(self) -> tuple[int, ...]:
        """For every class, the number of its superclass."""
        of_name = {name: number for number, group in enumerate(self.superclasses.values()) for name in group}
        return tuple(of_name[name] for name in self.classes)

    @property
    def torchvision(self) -> Any:
        """The class that downloads and reads torchvision's files."""
        import torchvision.datasets

        return getattr(torchvision.datasets, self.title.replace("-", ""))

    @property
    def mirror(self) -> str:
        """Where its Parquet files are published."""
        return f"huggingface.co/datasets/uoft-cs/{self.name}"


# The twenty superclasses in the order of their official numbers, each with its five classes.
CIFAR100_SUPERCLASSES: dict[str, tuple[str, ...]] = {
    "aquatic_mammals": ("beaver", "dolphin", "otter", "seal", "whale"),
    "fish": ("aquarium_fish", "flatfish", "ray", "shark", "trout"),
    "flowers": ("orchid", "poppy", "rose", "sunflower", "tulip"),
    "food_containers": ("bottle", "bowl", "can", "cup", "plate"),
    "fruit_and_vegetables": ("apple", "mushroom", "orange", "pear", "sweet_pepper"),
    "household_electrical_devices": ("clock", "keyboard", "lamp", "telephone", "television"),
    "household_furniture": ("bed", "chair", "couch", "table", "wardrobe"),
    "insects": ("bee", "beetle", "butterfly", "caterpillar", "cockroach"),
    "large_carnivores": ("bear", "leopard", "lion", "tiger", "wolf"),
    "large_man-made_outdoor_things": ("bridge", "castle", "house", "road", "skyscraper"),
    "large_natural_outdoor_scenes": ("cloud", "forest", "mountain", "plain", "sea"),
    "large_omnivores_and_herbivores": ("camel", "cattle", "chimpanzee", "elephant", "kangaroo"),
    "medium_mammals": ("fox", "porcupine", "possum", "raccoon", "skunk"),
    "non-insect_invertebrates": ("crab", "lobster", "snail", "spider", "worm"),
    "people": ("baby", "boy", "girl", "man", "woman"),
    "reptiles": ("crocodile", "dinosaur", "lizard", "snake", "turtle"),
    "small_mammals": ("hamster", "mouse", "rabbit", "shrew", "squirrel"),
    "trees": ("maple_tree", "oak_tree", "palm_tree", "pine_tree", "willow_tree"),
    "vehicles_1": ("bicycle", "bus", "motorcycle", "pickup_truck", "train"),
    "vehicles_2": ("lawn_mower", "rocket", "streetcar", "tank", "tractor"),
}

_CIFAR100 = Cifar(
    title="CIFAR-100",
    name="cifar100",
    superclasses=CIFAR100_SUPERCLASSES,
    per_class={"train": 500, "test": 100},
    checksum={"train": "baab1867e998f14ec496a7eea4590138", "test": "2b5af2b2ec63fa3789c6ceaadd8aadb8"},
    folder="cifar-100-python",
    archive="cifar-100-python.tar.gz",
    files=("train", "test", "meta"),
    columns=("fine_label", "coarse_label"),
)
_CIFAR10 = Cifar(
    title="CIFAR-10",
    name="cifar10",
    superclasses={
        "animals": ("bird", "cat", "deer", "dog", "frog", "horse"),
        "vehicles": ("airplane", "automobile", "ship", "truck"),
    },
    per_class={"train": 5_000, "test": 1_000},
    checksum={"train": "461941de170e774629e84cf20e514627", "test": "84731cde77f0111cd991fa43bdce1da7"},
    folder="cifar-10-batches-py",
    archive="cifar-10-python.tar.gz",
    files=(*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"),
    columns=("label",),
)
CIFAR100_CLASSES: tuple[str, ...] = _CIFAR100.classes
CIFAR100_SUPERCLASS_OF: tuple[int, ...] = _CIFAR100.superclass_of
CIFAR10_CLASSES: tuple[str, ...] = _CIFAR10.classes


@dataclass(frozen=True)
class DataSource:
    """A copy found on this machine.

    Attributes:
        layout: ``"torchvision"``, ``"parquet"`` or ``"folders"``.
        path: the folder that holds torchvision's folder, the Parquet files, or ``train/`` and ``test/``.
        label: the folder's name for people; the same on every machine, hence fit for a stored notebook.
    """

    layout: Layout
    path: Path
    label: str

    def __str__(self) -> str:
        """Say what it is and where, for example ``Parquet files in ./data/cifar100``."""
        kinds = {"torchvision": "torchvision's files", "parquet": "Parquet files", "folders": "image folders"}
        return f"{kinds[self.layout]} in {self.label}"


# --- loading --------------------------------------------------------------------------------------


def load_cifar100(part: Part, *, root: Path | str | None = None, download: bool = True, cache: bool = True) -> ImageSet:
    """Load one part of CIFAR-100: 50,000 training or 10,000 test images, 32x32 RGB, 100 classes.

    Args:
        part: ``"train"`` or ``"test"``.
        root: the only folder to look in (and to download to) instead of the usual ones.
        download: whether torchvision may download the data when no folder has them.
        cache: whether to read and write the cache of sorted images.

    Returns:
        The part in canonical order: bit for bit the same set from every source.

    Raises:
        DataError: no copy can be reached, or the copy is damaged or incomplete; the sentence says what to do.
        UnknownNameError: ``part`` is neither of the two.
    """
    return _load(_CIFAR100, part, root, download, cache)


def load_cifar10(part: Part, *, root: Path | str | None = None, download: bool = True, cache: bool = True) -> ImageSet:
    """Load one part of CIFAR-10, of 10 classes; all else, errors as well, as for :func:`load_cifar100`.

    Its superclasses, animals and vehicles, are this project's own.
    """
    return _load(_CIFAR10, part, root, download, cache)


def find_cifar100(root: Path | str | None = None) -> DataSource | None:
    """Return the first CIFAR-100 in the usual folders (or in ``root`` alone), or None; reads no image.

    Each folder is searched itself and in its sub-folder ``cifar100/``, for torchvision's layout
    (``cifar-100-python/``), the Parquet files of the Hugging Face mirror ``uoft-cs/cifar100``
    (``train-*.parquet``, ``test-*.parquet``) and a tree of images (``train/<class>/*.png``).

    Raises:
        DataError: ``SIAMESE_DATA`` (or ``root``) names something that is not a folder.
    """
    return _find(_CIFAR100, root)


def find_cifar10(root: Path | str | None = None) -> DataSource | None:
    """Return the first CIFAR-10, as :func:`find_cifar100` does; its sub-folder is ``cifar10/``."""
    return _find(_CIFAR10, root)


def _load(cifar: Cifar, part: Part, root: Path | str | None, download: bool, cache: bool) -> ImageSet:
    check_part(part)
    source = _find(cifar, root)
    if source is None:
        _refuse_the_other(cifar, root)
        place = sources.fetch(cifar.title, partial(_download, cifar), root, download, "name its folder in SIAMESE_DATA")
        source = DataSource("torchvision", *place)
    if cache:
        form = f"{_CACHE_VERSION} {source.layout} {part} {cifar.per_class[part]}"
        fingerprint = sources.fingerprint(form, source.path, _source_files(cifar, source, part))
        name = sources.at_place(f"{cifar.name}-{part}", source.path)
        tensors = sources.cached(name, fingerprint, lambda: _read_source(cifar, source, part))
    else:
        tensors = _read_source(cifar, source, part)
    return ImageSet(
        **tensors,
        class_names=cifar.classes,
        superclass_names=tuple(cifar.superclasses),
        superclass_of=cifar.superclass_of,
        name=cifar.name,
        part=part,
        source=str(source),
    )


def _download(cifar: Cifar, folder: Path) -> None:
    cifar.torchvision(folder, download=True)
    (folder / cifar.archive).unlink(missing_ok=True)


# --- finding --------------------------------------------------------------------------------------


def _find(cifar: Cifar, root: Path | str | None) -> DataSource | None:
    found = sources.find(lambda folder: bool(_layout(cifar, folder) or _layout(cifar, folder / cifar.name)), root)
    if found is None:
        return None
    folder, label = found
    layout = _layout(cifar, folder)
    if layout is not None:
        return DataSource(layout, folder, label)
    return DataSource(_layout(cifar, folder / cifar.name), folder / cifar.name, f"{label}/{cifar.name}")


def _layout(cifar: Cifar, path: Path) -> Layout | None:
    """In which layout a folder holds the data set, whole or damaged, judged by names; no image is read."""
    if (path / cifar.folder).exists() or (path / cifar.archive).exists():
        return "torchvision"
    if _holds_parquet(cifar, path):
        return "parquet"
    if any(_holds_classes(cifar, path / part) for part in PARTS):
        return "folders"
    return None


def _holds_parquet(cifar: Cifar, path: Path) -> bool:
    """Whether a folder's Parquet files have the data set's columns; where none can be opened, their names must do."""
    files = sorted(file for part in PARTS for file in path.glob(f"{part}-*.parquet*"))
    columns = [names for file in files if (names := _columns_of(file)) is not None]
    return any({"img", *cifar.columns} <= names for names in columns) if columns else bool(files)


def _columns_of(file: Path) -> set[str] | None:
    """The names of a Parquet file's columns; None where it cannot be opened."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        return None
    try:
        with file.open("rb") as content:
            return set(parquet.read_schema(content).names)
    except (pyarrow.ArrowException, OSError):
        return None


def _holds_classes(cifar: Cifar, folder: Path) -> bool:
    """Whether a folder's sub-folders are the data set's classes; a few of its names are anybody's."""
    found = [
        _class_of_folder(cifar, entry.name) is not None for entry in _subfolders(folder) if not is_litter(entry.name)
    ]
    known = sum(found)
    return 2 * known >= len(cifar.classes) and 2 * known > len(found)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _class_of_folder(cifar: Cifar, name: str) -> int | None:
    """Return the class that a folder's name stands for; spaces and capitals do not matter."""
    tidy = re.sub(r"[\s-]+", "_", name.strip().lower())
    return cifar.classes.index(tidy) if tidy in cifar.classes else None


def _refuse_the_other(cifar: Cifar, root: Path | str | None) -> None:
    """Where a data set's own sub-folder holds the other one, say so, and do not ask for a download."""
    other = _the_other(cifar)
    for folder, _ in sources.search_folders(root):
        if _layout(other, folder / cifar.name):
            raise _mistaken(cifar, folder / cifar.name)


def _the_other(cifar: Cifar) -> Cifar:
    return _CIFAR10 if cifar.name == "cifar100" else _CIFAR100


def _mistaken(cifar: Cifar, place: Path) -> DataError:
    return DataError(
        f"{place} holds {_the_other(cifar).title}, not {cifar.title}: move it elsewhere and start again to download "
        f"{cifar.title}."
    )


# --- reading --------------------------------------------------------------------------------------


def _source_files(cifar: Cifar, source: DataSource, part: Part) -> list[Path]:
    """Return the files that a part is read from, in a fixed order."""
    if source.layout == "torchvision":
        return [p for name in cifar.files if (p := source.path / cifar.folder / name).exists()]
    if source.layout == "parquet":
        return _parquet_files(cifar, source.path, part)
    return [file for file, _ in _image_files(cifar, source.path, part)]


def _read_source(cifar: Cifar, source: DataSource, part: Part) -> dict[str, torch.Tensor]:
    """Read, check and sort one part: images uint8 (N, 32, 32, 3) and labels int64 (N,)."""
    readers = {"torchvision": _read_torchvision, "parquet": _read_parquet, "folders": _read_folders}
    images, labels = readers[source.layout](cifar, source.path, part)
    _check_counts(cifar, labels, part, source.path)
    order = canonical_order(images, labels)
    images, labels = images[order], labels[order]
    # Needless for torchvision's files, which passed their md5.
    if source.layout != "torchvision" and checksum(images, labels) != cifar.checksum[part]:
        raise DataError(
            f"The {part} part in {source.path} is complete, but its pixels or labels are not {cifar.title}'s "
            "(perhaps it was saved again with loss): delete it and download the original."
        )
    return {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}


def _check_counts(cifar: Cifar, labels: np.ndarray, part: Part, path: Path) -> None:
    per_class = cifar.per_class[part]
    counts = np.bincount(labels, minlength=len(cifar.classes))
    wrong = np.flatnonzero(counts != per_class)
    if len(wrong):
        name, total = cifar.classes[wrong[0]], per_class * len(cifar.classes)
        in_all = f", {len(labels):,} in all instead of {total:,}" if len(labels) != total else ""
        raise DataError(
            f"The {part} part in {path} has {counts[wrong[0]]} images of class {name!r} "
            f"instead of {per_class}{in_all}: delete it and download it again."
        )


def _check_labels(cifar: Cifar, path: Path, fine: np.ndarray, coarse: np.ndarray | None = None) -> np.ndarray:
    """Return the labels as int64, checked against the table of superclasses where the file has these."""
    outside = np.flatnonzero((fine < 0) | (fine >= len(cifar.classes)))
    if len(outside):
        raise DataError(
            f"Image {outside[0]} in {path} has label {fine[outside[0]]}, but {cifar.title} has labels "
            f"0..{len(cifar.classes) - 1}: delete the file and download it again."
        )
    expected = np.asarray(cifar.superclass_of)[fine]
    differs = np.flatnonzero(expected != coarse) if coarse is not None else ()
    if len(differs):
        row = differs[0]
        raise DataError(
            f"Image {row} in {path} has label {fine[row]} ({cifar.classes[fine[row]]}) with superclass {coarse[row]} "
            f"instead of {expected[row]}: delete the file and download it again."
        )
    return fine.astype(np.int64)


def _read_torchvision(cifar: Cifar, path: Path, part: Part) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets.utils import check_integrity

    reader, folder, archive = cifar.torchvision, path / cifar.folder, path / cifar.archive
    if not folder.exists():
        if not check_integrity(archive, reader.tgz_md5):
            raise DataError(f"{archive} is damaged or half downloaded: delete it and start again.")
        reader(path, download=True)  # the archive is whole, so this only unpacks it
    meta = [reader.meta["filename"], reader.meta["md5"]]
    for name, md5 in [*reader.train_list, *reader.test_list, meta]:
        if not check_integrity(folder / name, md5):
            if all((folder / other).exists() for other in _the_other(cifar).files):
                raise _mistaken(cifar, folder)
            state = "damaged or half downloaded" if (folder / name).exists() else "missing"
            raise DataError(f"{folder / name} is {state}: delete {folder} and start again to download it.")
    dataset = reader(path, train=part == "train")
    if tuple(dataset.classes) != cifar.classes:
        raise DataError(f"{folder / meta[0]} names other classes: delete {folder} and start again.")
    labels = [np.asarray(dataset.targets)]
    if len(cifar.columns) > 1:  # torchvision keeps no coarse labels; its md5 has just vouched for the pickle
        with open(folder / part, "rb") as file:
            labels.append(np.asarray(pickle.load(file, encoding="latin1")["coarse_labels"]))
    return np.ascontiguousarray(dataset.data), _check_labels(cifar, folder / part, *labels)


def _parquet_files(cifar: Cifar, path: Path, part: Part) -> list[Path]:
    """Return the shards of a part, whose names may end in ``-00000-of-00002``: all of them must be there."""
    files = sorted(path.glob(f"{part}-*.parquet"))
    partial = sorted(p.name for p in path.glob(f"{part}-*.parquet?*"))
    numbers = [re.fullmatch(rf"{part}-(\d+)-of-(\d+)\.parquet", file.name) for file in files]
    wanted = max((int(match[2]) for match in numbers if match), default=0)
    missing = sorted(set(range(wanted)) - {int(match[1]) for match in numbers if match})
    if not files or missing:
        lost = f"{part}-{missing[0]:05d}-of-{wanted:05d}.parquet" if missing else f"{part}-*.parquet"
        hint = f" ({partial[0]} looks half downloaded)" if partial else ""
        raise DataError(f"{path} has no {lost}{hint}: download it from {cifar.mirror}.")
    return files


def _read_parquet(cifar: Cifar, path: Path, part: Part) -> tuple[np.ndarray, np.ndarray]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"The Parquet files in {path} need pyarrow: run 'pip install pyarrow'.") from error

    images, labels = [], []
    for file in _parquet_files(cifar, path, part):
        try:
            with file.open("rb") as content:  # pyarrow opens no path that is not UTF-8
                table = parquet.read_table(content)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f"{file} is damaged or half downloaded: delete it and download it again from {cifar.mirror}."
            ) from error
        try:
            encoded = table["img"].combine_chunks().field("bytes").to_pylist()
            columns = [table[name].to_numpy() for name in cifar.columns]
        except (KeyError, AttributeError, NotImplementedError) as error:
            if {"img", *_the_other(cifar).columns} <= set(table.column_names):
                raise _mistaken(cifar, path) from error
            raise DataError(
                f"{file} lacks the columns {listed(('img (bytes)', *cifar.columns))} of {cifar.title}: "
                f"download it again from {cifar.mirror}."
            ) from error
        labels.append(_check_labels(cifar, file, *columns))
        named = ((content, f"image {row} of {file}") for row, content in enumerate(encoded))
        images.append(_decode_all(cifar, named, len(encoded)))
    return np.concatenate(images), np.concatenate(labels)


def _image_files(cifar: Cifar, path: Path, part: Part) -> list[tuple[Path, int]]:
    """Return (file, label) for every image below ``path/part``, in alphabetical order."""
    root = path / part
    labels = {p: _class_of_folder(cifar, p.name) for p in _subfolders(root) if not is_litter(p.name)}
    strange = sorted(folder.name for folder, label in labels.items() if label is None)
    missing = sorted(set(cifar.classes) - {cifar.classes[n] for n in labels.values() if n is not None})
    if missing or strange:
        faults = [f"lacks folders for {_some(missing)}"] if missing else []
        faults += [f"has folders that are no class: {_some(strange)}"] if strange else []
        count = len(cifar.classes)
        raise DataError(f"{root} {' and '.join(faults)}: give it one folder for each of the {count} class names.")
    return [
        (folder / name, label)
        for folder, label in sorted(labels.items())
        if label is not None
        for name in sorted(os.listdir(folder))
        if not is_litter(name)
    ]


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_folders(cifar: Cifar, path: Path, part: Part) -> tuple[np.ndarray, np.ndarray]:
    files = _image_files(cifar, path, part)
    images = _decode_all(cifar, ((file, str(file)) for file, _ in files), len(files))
    return images, np.asarray([label for _, label in files], dtype=np.int64)


def _decode_all(cifar: Cifar, encoded: Iterable[tuple[bytes | Path, str]], count: int) -> np.ndarray:
    """Decode encoded images or image files, given with their names: uint8 (count, 32, 32, 3).

    Measured on CIFAR-100: one thread takes 0.1 to 0.2 ms an image, several together longer, because
    decoding so small an image is mostly work under Python's global lock. (torchvision's decoders are hardly
    faster, and its PNG decoder crashes the whole process on a damaged file.)
    """
    images = np.empty((count, _SIZE, _SIZE, 3), dtype=np.uint8)
    for position, (data, name) in enumerate(encoded):
        images[position] = _decode(cifar, data, f"{name[0].upper()}{name[1:]}")
    return images


def _decode(cifar: Cifar, data: bytes | Path, name: str) -> np.ndarray:
    """Decode one image by its content, whatever its file name says: uint8 (32, 32, 3)."""
    with opened(data, name, "delete it and download it again") as image:
        mode, size = image.mode, image.size
        pixels = image.tobytes()
    if mode != "RGB" or size != (_SIZE, _SIZE):
        kind = {"L": "grey", "RGB": "RGB"}.get(mode, f"of mode {mode}")
        raise DataError(
            f"{name} is {kind} {size[0]}x{size[1]}, but {cifar.title} is RGB 32x32: replace it by the original."
        )
    return np.frombuffer(pixels, dtype=np.uint8).reshape(_SIZE, _SIZE, 3)
