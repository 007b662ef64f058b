"""CIFAR-100 from any of its usual layouts, in one canonical order, as one uint8 tensor in memory.

A result must not depend on where the images came from, so every source ends in the same bits: the images
are sorted by label and, within a class, by a hash of their pixels. The sorted tensor is cached for the next
start.

Where the data are looked for, in this order: the folder named by the environment variable ``SIAMESE_DATA``,
``./data``, ``../shared/data``, then a download by torchvision. In a sub-folder of a checkout of the project
(such as ``notebooks/``) the project's root counts as ``.`` too. Three more variables: ``SIAMESE_OFFLINE=1``
forbids the download, ``SIAMESE_SYNTHETIC=1`` makes :func:`load_images` return the synthetic set, and
``SIAMESE_CACHE`` names the cache folder.

Data: Alex Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009,
https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import pickle
import re
import socket
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from siamese_utils.data.images import PARTS, ImageSet, Part, canonical_order, check_part
from siamese_utils.data.sources import DOWNLOAD_TIMEOUT, DataSource, cache_folder, download_folder, flag, search_folders
from siamese_utils.errors import DataError
from siamese_utils.system.files import atomic_path

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
# A class's number is the position of its name in alphabetical order: 0 apple ... 99 worm.
CIFAR100_CLASSES: tuple[str, ...] = tuple(sorted(c for five in CIFAR100_SUPERCLASSES.values() for c in five))
CIFAR100_SUPERCLASS_OF: tuple[int, ...] = tuple(
    next(number for number, five in enumerate(CIFAR100_SUPERCLASSES.values()) if name in five)
    for name in CIFAR100_CLASSES
)


@dataclass(frozen=True)
class _Expected:
    """What a complete CIFAR-100 holds; the tests replace it to work with small copies."""

    per_class: dict[str, int]
    checksum: dict[str, str]  # of the sorted images and labels, see _checksum


_EXPECTED = _Expected(
    per_class={"train": 500, "test": 100},
    checksum={"train": "baab1867e998f14ec496a7eea4590138", "test": "2b5af2b2ec63fa3789c6ceaadd8aadb8"},
)
_SIZE = 32
_MIRROR = "huggingface.co/datasets/uoft-cs/cifar100"
_CACHE_VERSION = 1


class MissingDataError(DataError):
    """No source at all, as opposed to a damaged one: only then the synthetic set may stand in."""


def load_cifar100(
    part: Part, *, root: Path | str | None = None, download: bool = True, cache: bool = True
) -> ImageSet:
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
    check_part(part)
    source = find_cifar100(root)
    if source is None:
        if not download or flag("SIAMESE_OFFLINE"):
            raise _missing(root, "downloading is switched off")
        source = _download(root)
    images, labels = _cached(source, part) if cache else _read_source(source, part)
    return ImageSet(
        images=images,
        labels=labels,
        class_names=CIFAR100_CLASSES,
        superclass_names=tuple(CIFAR100_SUPERCLASSES),
        superclass_of=CIFAR100_SUPERCLASS_OF,
        name="cifar100",
        part=part,
        source=str(source),
    )


def find_cifar100(root: Path | str | None = None) -> DataSource | None:
    """Return the first CIFAR-100 in the usual folders (or in ``root`` alone), or None; reads no image.

    Each folder is searched itself and in its sub-folder ``cifar100/``, for torchvision's layout
    (``cifar-100-python/``), the Parquet files of the Hugging Face mirror ``uoft-cs/cifar100``
    (``train-*.parquet``, ``test-*.parquet``) and a tree of images (``train/<class>/*.png``).

    Raises:
        DataError: ``SIAMESE_DATA`` (or ``root``) names something that is not a folder.
    """
    for folder, label in search_folders(root):
        if folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is not a folder; name the folder that holds the data set instead.")
        for path, name in ((folder, label), (folder / "cifar100", f"{label}/cifar100")):
            if (path / "cifar-100-python").exists() or (path / "cifar-100-python.tar.gz").exists():
                return DataSource("torchvision", path, name)
            if any(True for part in PARTS for _ in path.glob(f"{part}-*.parquet*")):
                return DataSource("parquet", path, name)
            if any(_class_of_folder(p.name) is not None for part in PARTS for p in _subfolders(path / part)):
                return DataSource("folders", path, name)
    return None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []


def _class_of_folder(name: str) -> int | None:
    """Return the class that a folder's name stands for; spaces and capitals do not matter."""
    tidy = re.sub(r"[\s-]+", "_", name.strip().lower())
    return CIFAR100_CLASSES.index(tidy) if tidy in CIFAR100_CLASSES else None


# --- download -------------------------------------------------------------------------------------

_failed_downloads: dict[Path, str] = {}


def _download(root: Path | str | None) -> DataSource:
    """Let torchvision download CIFAR-100 into the download folder, whole or not at all."""
    from torchvision.datasets import CIFAR100

    folder, label = download_folder(root)
    place = folder.resolve()
    timeout = socket.getdefaulttimeout()
    try:
        if place in _failed_downloads:  # do not wait for the same dead network twice in one process
            raise OSError(_failed_downloads[place])
        folder.mkdir(parents=True, exist_ok=True)
        socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
        # An interrupted download must not leave half a data set that the next start takes for a whole one.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as temporary:
            CIFAR100(temporary, download=True)
            target = folder / CIFAR100.base_folder
            try:
                os.replace(Path(temporary) / CIFAR100.base_folder, target)
            except OSError:
                if not target.is_dir():  # unless another process was faster
                    raise
    except Exception as error:  # torchvision lets network, archive and disk errors of many types through
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        _failed_downloads[place] = reason
        raise _missing(root, f"could not be downloaded ({reason})") from error
    finally:
        socket.setdefaulttimeout(timeout)
    return DataSource("torchvision", folder, label)


def _missing(root: Path | str | None, why: str) -> MissingDataError:
    folders = search_folders(root)
    places = ", ".join(f"{label} ({folder})" if label[0] == "$" else label for folder, label in folders)
    return MissingDataError(
        f"CIFAR-100 is not in {places} and {why}: "
        "name its folder in SIAMESE_DATA, or set SIAMESE_SYNTHETIC=1 to use the synthetic set."
    )


def _cached(source: DataSource, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """Read the part from the cache or, if the cache does not fit the source, from the source."""
    files = _source_files(source, part)
    fingerprint = _fingerprint(source, part, files)
    # One file a source, with the fingerprint inside: a changed source replaces its file, adding none.
    place = hashlib.blake2b(str(source.path.resolve()).encode(), digest_size=6).hexdigest()
    path = cache_folder() / f"cifar100-{part}-{place}.safetensors"
    hit = _read_cache(path, fingerprint)
    if hit is not None:
        return hit
    images, labels = _read_source(source, part)
    _write_cache(path, fingerprint, images, labels)
    return images, labels


def _fingerprint(source: DataSource, part: Part, files: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{_CACHE_VERSION} {source.layout} {part} {_EXPECTED.per_class[part]}\n".encode())
    for file in files:
        status = os.stat(file)
        digest.update(f"{file} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read_cache(path: Path, fingerprint: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("fingerprint") != fingerprint:
                return None
            images, labels = file.get_tensor("images"), file.get_tensor("labels")
    except (SafetensorError, OSError):
        return None
    # A disk error in the cache would otherwise become a wrong number in a table.
    return (images, labels) if _checksum(images, labels) == metadata.get("checksum") else None


def _write_cache(path: Path, fingerprint: str, images: torch.Tensor, labels: torch.Tensor) -> None:
    metadata = {"fingerprint": fingerprint, "checksum": _checksum(images, labels)}
    # A full or read-only disk only costs seconds at the next start.
    with contextlib.suppress(SafetensorError, OSError), atomic_path(path) as temporary:
        save_file({"images": images, "labels": labels}, temporary, metadata=metadata)


def _checksum(images: torch.Tensor, labels: torch.Tensor) -> str:
    digest = hashlib.blake2b(images.numpy(), digest_size=16)
    digest.update(labels.numpy())
    return digest.hexdigest()


# --- sources --------------------------------------------------------------------------------------


def _source_files(source: DataSource, part: Part) -> list[Path]:
    """Return the files that a part is read from, in a fixed order."""
    if source.layout == "torchvision":
        folder = source.path / "cifar-100-python"
        return [p for p in (folder / "train", folder / "test", folder / "meta") if p.exists()]
    if source.layout == "parquet":
        return _parquet_files(source.path, part)
    return [file for file, _ in _image_files(source.path, part)]


def _read_source(source: DataSource, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """Read, check and sort one part: images uint8 (N, 32, 32, 3) and labels int64 (N,)."""
    readers: dict[str, Callable[[Path, Part], tuple[np.ndarray, np.ndarray]]] = {
        "torchvision": _read_torchvision,
        "parquet": _read_parquet,
        "folders": _read_folders,
    }
    images, labels = readers[source.layout](source.path, part)
    _check_counts(labels, part, source.path)
    order = canonical_order(images, labels)
    sorted_images, sorted_labels = torch.from_numpy(images[order]), torch.from_numpy(labels[order])
    # Needless for torchvision's files, which passed their md5.
    if source.layout != "torchvision" and _checksum(sorted_images, sorted_labels) != _EXPECTED.checksum[part]:
        raise DataError(
            f"The {part} part in {source.path} is complete, but its pixels or labels are not CIFAR-100's "
            "(perhaps it was saved again with loss): delete it and download the original."
        )
    return sorted_images, sorted_labels


def _check_counts(labels: np.ndarray, part: Part, path: Path) -> None:
    per_class = _EXPECTED.per_class[part]
    counts = np.bincount(labels, minlength=len(CIFAR100_CLASSES))
    wrong = np.flatnonzero(counts != per_class)
    if len(wrong):
        name, total = CIFAR100_CLASSES[wrong[0]], per_class * len(CIFAR100_CLASSES)
        in_all = f", {len(labels):,} in all instead of {total:,}" if len(labels) != total else ""
        raise DataError(
            f"The {part} part in {path} has {counts[wrong[0]]} images of class {name!r} "
            f"instead of {per_class}{in_all}: delete it and download it again."
        )


def _check_labels(fine: np.ndarray, coarse: np.ndarray, path: Path) -> np.ndarray:
    """Return the fine labels as int64 after checking them against the table of superclasses."""
    outside = np.flatnonzero((fine < 0) | (fine >= len(CIFAR100_CLASSES)))
    if len(outside):
        raise DataError(
            f"Image {outside[0]} in {path} has label {fine[outside[0]]}, but CIFAR-100 has labels 0..99: "
            "delete the file and download it again."
        )
    differs = np.flatnonzero(np.asarray(CIFAR100_SUPERCLASS_OF)[fine] != coarse)
    if len(differs):
        row = differs[0]
        name = CIFAR100_CLASSES[fine[row]]
        raise DataError(
            f"Image {row} in {path} has label {fine[row]} ({name}) with superclass {coarse[row]} instead of "
            f"{CIFAR100_SUPERCLASS_OF[fine[row]]}: delete the file and download it again."
        )
    return fine.astype(np.int64)


def _read_torchvision(path: Path, part: Part) -> tuple[np.ndarray, np.ndarray]:
    from torchvision.datasets import CIFAR100
    from torchvision.datasets.utils import check_integrity

    folder = path / CIFAR100.base_folder
    archive = path / CIFAR100.filename
    if not folder.exists():
        if not check_integrity(archive, CIFAR100.tgz_md5):
            raise DataError(f"{archive} is damaged or half downloaded: delete it and start again.")
        CIFAR100(path, download=True)  # the archive is whole, so this only unpacks it
    meta = [CIFAR100.meta["filename"], CIFAR100.meta["md5"]]
    for name, md5 in [*CIFAR100.train_list, *CIFAR100.test_list, meta]:
        if not check_integrity(folder / name, md5):
            state = "damaged or half downloaded" if (folder / name).exists() else "missing"
            raise DataError(f"{folder / name} is {state}: delete {folder} and start again to download it.")
    dataset: Any = CIFAR100(path, train=part == "train")
    if tuple(dataset.classes) != CIFAR100_CLASSES:
        raise DataError(f"{folder / 'meta'} names other classes: delete {folder} and start again.")
    # torchvision keeps no coarse labels; its md5 has just vouched for the pickle.
    with open(folder / part, "rb") as file:
        coarse = pickle.load(file, encoding="latin1")["coarse_labels"]
    labels = _check_labels(np.asarray(dataset.targets), np.asarray(coarse), folder / part)
    return np.ascontiguousarray(dataset.data), labels


def _parquet_files(path: Path, part: Part) -> list[Path]:
    """Return the shards of a part, whose names may end in ``-00000-of-00002``: all of them must be there."""
    files = sorted(path.glob(f"{part}-*.parquet"))
    partial = sorted(p.name for p in path.glob(f"{part}-*.parquet?*"))
    numbers = [re.fullmatch(rf"{part}-(\d+)-of-(\d+)\.parquet", file.name) for file in files]
    wanted = max((int(match[2]) for match in numbers if match), default=0)
    missing = sorted(set(range(wanted)) - {int(match[1]) for match in numbers if match})
    if not files or missing:
        lost = f"{part}-{missing[0]:05d}-of-{wanted:05d}.parquet" if missing else f"{part}-*.parquet"
        hint = f" ({partial[0]} looks half downloaded)" if partial else ""
        raise DataError(f"{path} has no {lost}{hint}: download it from {_MIRROR}.")
    return files


def _read_parquet(path: Path, part: Part) -> tuple[np.ndarray, np.ndarray]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise DataError(f"The Parquet files in {path} need pyarrow: run 'pip install pyarrow'.") from error

    images, labels = [], []
    for file in _parquet_files(path, part):
        try:
            table = parquet.read_table(file)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f"{file} is damaged or half downloaded: delete it and download it again from {_MIRROR}."
            ) from error
        try:
            encoded = table["img"].combine_chunks().field("bytes").to_pylist()
            fine, coarse = table["fine_label"].to_numpy(), table["coarse_label"].to_numpy()
        except (KeyError, AttributeError, NotImplementedError) as error:
            raise DataError(
                f"{file} lacks the columns img (bytes), fine_label and coarse_label of CIFAR-100: "
                f"download it again from {_MIRROR}."
            ) from error
        labels.append(_check_labels(fine, coarse, file))
        named = ((content, f"image {row} of {file}") for row, content in enumerate(encoded))
        images.append(_decode_all(named, len(encoded)))
    return np.concatenate(images), np.concatenate(labels)


def _image_files(path: Path, part: Part) -> list[tuple[Path, int]]:
    """Return (file, label) for every image below ``path/part``, in alphabetical order."""
    root = path / part
    labels = {folder: _class_of_folder(folder.name) for folder in _subfolders(root) if folder.name[0] != "."}
    strange = sorted(folder.name for folder, label in labels.items() if label is None)
    missing = sorted(set(CIFAR100_CLASSES) - {CIFAR100_CLASSES[n] for n in labels.values() if n is not None})
    if missing or strange:
        faults = [f"lacks folders for {_some(missing)}"] if missing else []
        faults += [f"has folders that are no class: {_some(strange)}"] if strange else []
        raise DataError(f"{root} {' and '.join(faults)}: give it one folder for each of the 100 class names.")
    return [
        (folder / name, label)
        for folder, label in sorted(labels.items())
        if label is not None
        for name in sorted(os.listdir(folder))
        if name[0] != "."
    ]


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_folders(path: Path, part: Part) -> tuple[np.ndarray, np.ndarray]:
    files = _image_files(path, part)
    images = _decode_all(((file, str(file)) for file, _ in files), len(files))
    return images, np.asarray([label for _, label in files], dtype=np.int64)


def _decode_all(sources: Iterable[tuple[bytes | Path, str]], count: int) -> np.ndarray:
    """Decode encoded images or image files, given with their names: uint8 (count, 32, 32, 3).

    Measured on CIFAR-100: one thread takes 0.1 to 0.2 ms an image, several together longer, because
    decoding so small an image is mostly work under Python's global lock. (torchvision's decoders are hardly
    faster, and its PNG decoder crashes the whole process on a damaged file.)
    """
    images = np.empty((count, _SIZE, _SIZE, 3), dtype=np.uint8)
    for position, (data, name) in enumerate(sources):
        images[position] = _decode(data, name)
    return images


def _decode(data: bytes | Path, name: str) -> np.ndarray:
    """Decode one image by its content, whatever its file name says: uint8 (32, 32, 3)."""
    try:
        encoded = data.read_bytes() if isinstance(data, Path) else data
        with _open_image(encoded) as image:
            mode, size = image.mode, image.size
            pixels = image.tobytes()
    except Exception as error:  # Pillow raises errors of many types for damaged files
        raise DataError(
            f"{name[0].upper()}{name[1:]} is not a readable image: delete it and download it again."
        ) from error
    if mode != "RGB" or size != (_SIZE, _SIZE):
        kind = {"L": "grey", "RGB": "RGB"}.get(mode, f"of mode {mode}")
        raise DataError(
            f"{name[0].upper()}{name[1:]} is {kind} {size[0]}x{size[1]}, but CIFAR-100 is RGB 32x32: "
            "replace it by the original."
        )
    return np.frombuffer(pixels, dtype=np.uint8).reshape(_SIZE, _SIZE, 3)


def _open_image(encoded: bytes) -> Image.Image:
    try:  # naming the two usual formats spares Pillow from trying some forty, which takes as long as decoding
        return Image.open(io.BytesIO(encoded), formats=("PNG", "WEBP"))
    except UnidentifiedImageError:
        return Image.open(io.BytesIO(encoded))
