"""EMNIST: handwritten digits, capitals and small letters, from a sample in one file or from torchvision's files.

They are looked for as ``emnist_sample/*.npz`` and ``EMNIST/raw/`` (where, says ``siamese_utils.data.sources``), and
are downloaded otherwise: 561 MB for all of EMNIST's divisions at once. torchvision's files show every image transposed;
here all of them stand upright.

Data: G. Cohen, S. Afshar, J. Tapson, A. van Schaik, *EMNIST: an extension of MNIST to handwritten letters*, 2017,
https://arxiv.org/abs/1702.05373.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_utils.data import sources
from siamese_utils.data.images import ImageSet, Part, check_part
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.symbols import redrawn, symbol_images
from siamese_utils.errors import DataError

CHARACTERS = string.digits + string.ascii_uppercase + string.ascii_lowercase
PER_CHARACTER = 317  # of the sample; the rarest character of the test part has no more
# Both cases are written alike, said those who made EMNIST: its ByMerge division makes one class of each pair.
ALIKE_IN_BOTH_CASES = "cijklmopsuvwxyz"
_SIDE = 28
_COUNTS = {("letters", "train"): 124_800, ("letters", "test"): 20_800, ("byclass", "test"): 116_323}
_REMEDY = "name the folder that holds emnist_sample/ or EMNIST/ in SIAMESE_DATA"


def load_characters(*, canonical: bool = True, root: Path | str | None = None, download: bool = True) -> ImageSet:
    """Load 317 images of each of the 62 characters: the sample, or as many drawn from the test part of ByClass.

    The classes are equally large by force, so it is no official division of EMNIST.

    Args:
        canonical: redraw every character with :func:`~siamese_utils.data.symbols.canonical_symbol` (half a minute the
            first time, then cached).
        root: the only folder to look in (and to download to) instead of the usual ones.
        download: whether torchvision may download the data when no folder has them.

    Returns:
        The images uint8 (19,654, 28, 28, 3) with three equal channels; classes are characters, superclasses digits,
        capitals and small letters.

    Raises:
        DataError: no copy can be reached, or the copy is damaged or holds something else; the sentence says what to do.
    """
    sample = sources.find(lambda folder: bool(_samples(folder)), root)
    if sample is not None:
        folder, label = sample
        images, labels = _read_sample(_samples(folder)[0])
        place = f"{label}/emnist_sample"
    else:
        images, labels, place = _official("byclass", "test", root, download)
        images, labels = _balanced(images, labels)
    groups = (string.digits, string.ascii_uppercase, string.ascii_lowercase)
    superclass_of = tuple(number for number, group in enumerate(groups) for _ in group)
    return ImageSet(
        symbol_images(redrawn(images, "emnist") if canonical else images),
        torch.from_numpy(labels),
        tuple(CHARACTERS),
        ("digits", "capitals", "small letters"),
        superclass_of,
        "emnist",
        "test",
        place,
    )


def load_letters(part: Part, *, root: Path | str | None = None, download: bool = True) -> ImageSet:
    """Load one part of EMNIST's official letters, capitals and small letters of one name in one class.

    Args:
        part: ``"train"`` or ``"test"``, 124,800 or 20,800 images.
        root, download: as for :func:`load_characters`.

    Raises:
        DataError: no copy can be reached, or the copy is damaged or incomplete.
        UnknownNameError: ``part`` is neither of the two.
    """
    check_part(part)
    images, labels, place = _official("letters", part, root, download)
    labels = labels - 1  # the file counts from 1
    if len(labels) and not 0 <= labels.min() <= labels.max() < 26:
        raise DataError(f"The letters in {place} have labels beyond 1..26: delete them and download them again.")
    names = tuple(string.ascii_lowercase)
    return ImageSet(
        symbol_images(images), torch.from_numpy(labels), names, ("letters",), (0,) * 26, "emnist", part, place
    )


def case_pairs() -> tuple[tuple[int, int], ...]:
    """Classes of the fifteen capitals that look like their small letter, each with that letter's class."""
    return tuple((CHARACTERS.index(letter.upper()), CHARACTERS.index(letter)) for letter in ALIKE_IN_BOTH_CASES)


# --- the sample -----------------------------------------------------------------------------------


def _samples(folder: Path) -> list[Path]:
    return sorted((folder / "emnist_sample").glob("*.npz"))


def _read_sample(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Images (N, 28, 28) and classes (N,), sorted by class; the file's order is kept inside each."""
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            content: dict[str, NDArray[Any]] = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # zipfile, zlib and numpy raise errors of many types for damaged files
        raise DataError(f"{file} is damaged or half downloaded: delete it and fetch it again.") from error
    images, names = content.get("images"), content.get("labels")
    if images is None or names is None:
        raise DataError(
            f"{file} holds {_listed(sorted(content))}, but a sample of EMNIST holds the arrays images and labels: put "
            "the right file in its place."
        )
    if images.dtype != np.uint8 or images.shape[1:] != (_SIDE, _SIDE) or names.shape != images.shape[:1]:
        raise DataError(
            f"{file} holds images {images.dtype} {images.shape} and labels {names.shape}, but a sample of EMNIST has "
            "uint8 images (N, 28, 28) and one label each: put the right file in its place."
        )
    labels = np.asarray([CHARACTERS.find(name) if len(name) == 1 else -1 for name in names.astype(str).tolist()])
    counts = np.bincount(labels[labels >= 0], minlength=len(CHARACTERS))
    if (labels < 0).any() or counts.min() != counts.max() or not len(labels):
        raise DataError(
            f"The labels in {file} are not the {len(CHARACTERS)} characters 0-9, A-Z and a-z, equally often each: put "
            "the right file in its place."
        )
    order = np.argsort(labels, kind="stable")
    return np.ascontiguousarray(images[order]), labels[order].astype(np.int64)


def _listed(names: list[str]) -> str:
    return f"the arrays {', '.join(names)}" if names else "no array"


# --- torchvision's files --------------------------------------------------------------------------


def _official(
    division: str, part: str, root: Path | str | None, download: bool
) -> tuple[NDArray[np.uint8], NDArray[np.int64], str]:
    """Upright images (N, 28, 28), labels (N,) as in the file, and where they lie."""

    def holds(folder: Path) -> bool:
        return (folder / "EMNIST" / "raw").is_dir()

    folder, label = sources.find(holds, root) or sources.fetch("EMNIST", _download, root, download, _REMEDY)
    from torchvision.datasets.mnist import read_image_file, read_label_file

    raw = folder / "EMNIST" / "raw"
    files = [raw / f"emnist-{division}-{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    for file in files:
        if not file.exists():
            raise DataError(f"{file} is missing: delete {raw.parent} and start again to download it.")
    try:
        images = read_image_file(str(files[0])).transpose(1, 2).contiguous().numpy()
        labels = read_label_file(str(files[1])).to(torch.int64).numpy()
    except Exception as error:  # torchvision raises errors of many types for damaged files
        raise _damaged(raw.parent) from error
    wanted = _COUNTS[division, part]
    if images.shape != (wanted, _SIDE, _SIDE) or labels.shape != (wanted,):
        raise _damaged(raw.parent)
    return images, labels, f"{label}/EMNIST"


def _damaged(folder: Path) -> DataError:
    return DataError(f"{folder} is damaged or half downloaded: delete it and start again to download it.")


def _download(folder: Path) -> None:
    from torchvision.datasets import EMNIST

    EMNIST(folder, split="byclass", download=True)
    (folder / "EMNIST" / "raw" / "gzip.zip").unlink(missing_ok=True)


def _balanced(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Equally many images of each class, drawn once and for all, sorted by class."""
    rng = named_rng(0, "characters of EMNIST")
    by_class = [np.flatnonzero(labels == label) for label in range(len(CHARACTERS))]
    count = min(PER_CHARACTER, *map(len, by_class))
    if not count:
        raise DataError("EMNIST's ByClass lacks a character: delete the folder EMNIST and download it again.")
    rows = np.concatenate([np.sort(rng.permutation(of_class)[:count]) for of_class in by_class])
    return np.ascontiguousarray(images[rows]), labels[rows]
