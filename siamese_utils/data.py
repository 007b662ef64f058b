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
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from siamese_utils.errors import DataError, ShapeError, unknown
from siamese_utils.files import atomic_path

Part = Literal["train", "test"]
PARTS: tuple[Part, ...] = ("train", "test")

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
DOWNLOAD_TIMEOUT = 30.0  # seconds of silence; a firewall that drops packets must not look like a hang


class SyntheticDataWarning(UserWarning):
    """CIFAR-100 could not be reached, so the synthetic set stands in for it."""


class _MissingDataError(DataError):
    """No source at all, as opposed to a damaged one: only then the synthetic set may stand in."""


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one part of a data set, held in memory.

    Attributes:
        images: uint8 (N, H, W, C), C-contiguous, in canonical order (see :func:`canonical_order`).
        labels: int64 (N,), class numbers (positions in ``class_names``).
        class_names: one name a class.
        superclass_names: one name a superclass.
        superclass_of: for every class, the number of its superclass.
        name: ``"cifar100"`` or ``"synthetic"``.
        part: ``"train"`` or ``"test"``.
        source: where the images came from, for people to read.

    Raises:
        ShapeError: images or labels of the wrong shape or type, or labels that name no class.
    """

    images: torch.Tensor
    labels: torch.Tensor
    class_names: tuple[str, ...]
    superclass_names: tuple[str, ...]
    superclass_of: tuple[int, ...]
    name: str
    part: str
    source: str

    def __post_init__(self) -> None:
        """Check that the fields fit each other."""
        if self.images.dtype != torch.uint8 or self.images.dim() != 4 or not self.images.is_contiguous():
            raise ShapeError(
                "The images of an ImageSet must be one contiguous uint8 tensor (N, H, W, C), "
                f"not {self.images.dtype} {tuple(self.images.shape)}."
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ShapeError(
                f"The labels of {len(self.images)} images must be an int64 tensor ({len(self.images)},), "
                f"not {self.labels.dtype} {tuple(self.labels.shape)}."
            )
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.num_classes:
            raise ShapeError(
                f"Labels must lie in 0..{self.num_classes - 1}, one number for each class name; "
                f"found {int(self.labels.min())}..{int(self.labels.max())}."
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Describe the set in one line, without its pixels."""
        shape = "x".join(str(n) for n in self.images.shape[1:])
        return f"ImageSet({self.name} {self.part}: {len(self):,} images {shape}, from {self.source})"

    @property
    def is_synthetic(self) -> bool:
        """Whether these are the procedurally drawn images and not CIFAR-100."""
        return self.name == "synthetic"

    @property
    def num_classes(self) -> int:
        """Number of classes that have a name, with or without images here."""
        return len(self.class_names)

    def indices_of(self, classes: Iterable[int]) -> torch.Tensor:
        """Return the positions of all images whose label is in ``classes``: int64, ascending.

        Raises:
            DataError: a number that is no class.
        """
        wanted = torch.as_tensor([int(c) for c in classes], dtype=torch.int64)
        strange = wanted[(wanted < 0) | (wanted >= self.num_classes)]
        if len(strange):
            raise DataError(
                f"There is no class {int(strange[0])}; the classes are 0..{self.num_classes - 1}."
            )
        return torch.isin(self.labels, wanted).nonzero().flatten()

    def subset(self, indices: torch.Tensor | Sequence[int]) -> ImageSet:
        """Return the images at ``indices`` (int64 positions) as a set; labels keep their global numbers.

        Raises:
            ShapeError: ``indices`` are not positions in this set.
        """
        positions = torch.as_tensor(indices)
        if positions.numel() == 0:
            positions = positions.to(torch.int64)
        if positions.dim() != 1 or positions.dtype == torch.bool or positions.dtype.is_floating_point:
            raise ShapeError(
                "A subset needs a list of whole-number positions (of a mask, its nonzero()), "
                f"not {positions.dtype} {tuple(positions.shape)}."
            )
        outside = positions[(positions < 0) | (positions >= len(self))]
        if len(outside):
            raise ShapeError(
                f"Position {int(outside[0])} is outside the set, which has {len(self):,} images."
            )
        positions = positions.to(torch.int64)
        return replace(self, images=self.images[positions].contiguous(), labels=self.labels[positions])


@dataclass(frozen=True)
class DataSource:
    """A copy of CIFAR-100 found on this machine.

    Attributes:
        layout: ``"torchvision"``, ``"parquet"`` or ``"folders"``.
        path: the folder that holds ``cifar-100-python/``, the Parquet files, or ``train/`` and ``test/``.
        label: the folder's name for people; the same on every machine, hence fit for a stored notebook.
    """

    layout: Literal["torchvision", "parquet", "folders"]
    path: Path
    label: str

    def __str__(self) -> str:
        """Say what it is and where, for example ``Parquet files in ./data/cifar100``."""
        kinds = {"torchvision": "torchvision's files", "parquet": "Parquet files", "folders": "image folders"}
        return f"{kinds[self.layout]} in {self.label}"


def load_images(
    part: Part,
    *,
    fallback: bool = True,
    root: Path | str | None = None,
    download: bool = True,
    cache: bool = True,
) -> ImageSet:
    """Load CIFAR-100 or, where it cannot be reached, the synthetic set that stands in for it.

    Args:
        part: ``"train"`` or ``"test"``.
        fallback: whether the synthetic set may stand in; it never does for a *damaged* copy of CIFAR-100.
        root, download, cache: as for :func:`load_cifar100`.

    Returns:
        The set; ask its ``is_synthetic`` before showing numbers.

    Raises:
        DataError: the copy of CIFAR-100 is damaged, or there is none and ``fallback`` is off.
        UnknownNameError: ``part`` is neither of the two.

    Warns:
        SyntheticDataWarning: one sentence that says why the synthetic set stands in.
    """
    _check_part(part)
    if flag("SIAMESE_SYNTHETIC"):
        return _load_synthetic(part)
    try:
        return load_cifar100(part, root=root, download=download, cache=cache)
    except _MissingDataError as error:
        if not fallback:
            raise
        notice = f"The synthetic set stands in for CIFAR-100: {error}"
        warnings.warn(notice, SyntheticDataWarning, stacklevel=2)
        return _load_synthetic(part)


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
    _check_part(part)
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


def canonical_order(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the order that makes a set independent of its source.

    Args:
        images: uint8 (N, H, W, C).
        labels: int64 (N,).

    Returns:
        int64 (N,): positions sorted by label, then by the 128-bit BLAKE2b hash of the image's pixel bytes.
    """
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images)
    halves = np.frombuffer(digests, dtype=">u8").reshape(len(images), 2)
    return np.lexsort((halves[:, 1], halves[:, 0], labels))


def _load_synthetic(part: Part) -> ImageSet:
    # Imported here because the synthetic set is made of ImageSets itself.
    from siamese_utils.synthetic import make_synthetic

    return make_synthetic(part)


def _check_part(part: str) -> None:
    if part not in PARTS:
        raise unknown("part of the data", part, PARTS)


def flag(name: str) -> bool:
    """Whether an environment variable is set to anything but a word for no."""
    return os.environ.get(name, "").strip().lower() not in ("", "0", "false", "no", "off")


# --- where to look --------------------------------------------------------------------------------


def _bases() -> list[Path]:
    """Return the working folder and, from inside a checkout of the project, the project's root."""
    here = Path.cwd()
    checkout = Path(__file__).resolve().parents[1]
    inside = checkout in here.resolve().parents
    return [here, checkout] if inside else [here]


def search_folders(root: Path | str | None) -> list[tuple[Path, str]]:
    """Return (folder, name for people) in search order, each folder once."""
    if root is not None:
        return [(Path(root), str(root))]
    folders = []
    if os.environ.get("SIAMESE_DATA"):
        folders.append((Path(os.environ["SIAMESE_DATA"]).expanduser(), "$SIAMESE_DATA"))
    for label in ("./data", "../shared/data"):
        folders += [(base / label, label) for base in _bases()]
    seen: set[Path] = set()
    return [(f, label) for f, label in folders if not (f.resolve() in seen or seen.add(f.resolve()))]


def _download_folder(root: Path | str | None) -> tuple[Path, str]:
    folders = search_folders(root)
    if root is not None or os.environ.get("SIAMESE_DATA"):
        return folders[0]
    return _bases()[-1] / "data", "./data"


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

    folder, label = _download_folder(root)
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


def _missing(root: Path | str | None, why: str) -> _MissingDataError:
    folders = search_folders(root)
    places = ", ".join(f"{label} ({folder})" if label[0] == "$" else label for folder, label in folders)
    return _MissingDataError(
        f"CIFAR-100 is not in {places} and {why}: "
        "name its folder in SIAMESE_DATA, or set SIAMESE_SYNTHETIC=1 to use the synthetic set."
    )


# --- cache ----------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """Return ``SIAMESE_CACHE`` or, where it is not set, ``siamese_utils`` in the user's cache folder."""
    if os.environ.get("SIAMESE_CACHE"):
        return Path(os.environ["SIAMESE_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "siamese_utils"


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
