"""A support folder: one sub-folder a class, with one image file or more in each; what cannot be meant is refused."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from siamese_utils.data.image_files import (
    counted,
    folders_in,
    image_suffixes,
    images_in,
    is_litter,
    load_image,
    loose_images,
)
from siamese_utils.errors import DataError, ImageError, SamplingError, printable
from siamese_utils.system.files import as_path

_BLOCK = 2**20  # bytes read at once
_LISTED = 5  # groups of files that are alike in a message
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Support:
    """The image files of a support folder and their classes.

    Attributes:
        class_names: of all classes, by name; fit to be printed.
        files: image files, class after class.
        labels: int64 (N,), the position of each file's class in ``class_names``.
        contents: a digest of each file's bytes; empty for one that cannot be read.
    """

    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: torch.Tensor
    contents: tuple[str, ...]


def read_support(folder: str | Path, check_doubles: bool = True) -> Support:
    """Find the classes of a support folder and their image files, of which none is decoded but those that stand twice.

    Images of the same content within a class are told in a warning; files that are no images never count as such.

    Args:
        folder: one sub-folder a class.
        check_doubles: whether files of the same content are looked at; ``Support.contents`` tells them in any case.

    Raises:
        DataError: the folder is not named, missing or cannot be read, or one file stands in two classes.
        SamplingError: fewer than two classes, two that are named alike, one without images or with folders of images.
    """
    if isinstance(folder, (str, bytes)) and not folder:  # which would be the folder that one is in
        raise DataError("The name of the support folder is empty; name the folder, or '.' for the one you are in.")
    folder = as_path(folder)
    with suppress(PermissionError):  # as listing it will say
        if not folder.is_dir():
            raise DataError(f"There is no support folder {folder}; make it, with one sub-folder of images a class.")
    folders = folders_in(folder)
    if not folders and images_in(folder):
        raise SamplingError(
            f"The images in {folder} are of no class, and at least two classes are needed; make one folder a class "
            "and move its images there."
        )
    if folders and (loose := loose_images(folder)):
        _log.warning(
            "Of no class, and left out: %s; move them into the folder of their class.", counted("image", loose)
        )
    _check_folders(folder, folders)
    files = images_in(*folders)
    of_class: dict[Path, list[Path]] = {place: [] for place in folders}
    for file in files:
        of_class[file.parent].append(file)
    for place, found in of_class.items():
        if not found:
            others = any(file.is_file() and not is_litter(file.name) for file in place.iterdir())
            here = " that can be read here" * others
            raise SamplingError(f"The class folder {place} holds no image{here}; add one or remove the folder.")
    if len(folders) < 2:
        only = f"holds only the class {folders[0].name!r}" if folders else "holds no class"
        raise SamplingError(
            f"The support folder {folder} {only}, and at least two classes are needed to choose between; add a folder "
            "with images of another class."
        )
    contents = tuple(map(content_digest, files))
    if check_doubles:
        _check_doubles(folder, files, contents)
    sizes = torch.tensor([len(found) for found in of_class.values()])
    labels = torch.repeat_interleave(torch.arange(len(folders)), sizes)
    return Support(tuple(printable(place.name) for place in folders), tuple(files), labels, contents)


def content_digest(file: Path) -> str:
    """BLAKE2b of a file's bytes, 32 hexadecimal digits; empty if it cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        if not file.is_file():
            return ""
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK):
                digest.update(block)
    except OSError:
        return ""
    return digest.hexdigest()


def _check_folders(folder: Path, folders: list[Path]) -> None:
    for alike in _alike((_plain(place.name), place) for place in folders):
        raise SamplingError(
            f"The class folders {alike[0].name!r} and {alike[1].name!r} in {folder} differ in no more than upper and "
            "lower case, as if they were one class; put their images into one folder, or rename one."
        )
    for place in folders:
        nested = next(_nested_images(place), None)
        if nested:
            raise SamplingError(
                f"The class folder {place} holds a folder with images ({nested.parent}), and classes cannot be nested; "
                f"move {nested.name} and the others up into {place.name}, or name {place} as the support folder."
            )


def _plain(name: str) -> str:
    """A name without what people do not see or mean: letter case, and how accents are encoded."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _nested_images(folder: Path) -> Iterator[Path]:
    """Image files below the folders in a folder, at any depth."""
    for place, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if not is_litter(name))
        if Path(place) != folder:
            yield from (
                Path(place, name)
                for name in sorted(files)
                if not is_litter(name) and Path(name).suffix.lower() in image_suffixes()
            )


def _check_doubles(folder: Path, files: list[Path], contents: tuple[str, ...]) -> None:
    apart, doubled = [], []
    for alike in _alike(zip(contents, files)):
        if not _is_image(alike[0]):  # empty and damaged files are alike too
            continue
        (apart if len({file.parent for file in alike}) > 1 else doubled).append(alike)
    hint = f"python -m siamese_utils check {shlex.quote(printable(folder))} --out check.html"
    if apart:
        one = len(apart) == 1
        raise DataError(
            f"{len(apart):,} image{' stands' if one else 's stand'} in two classes: {_told(apart)}; remove the wrong "
            f"ones (`{hint}` shows every double)."
        )
    if doubled:
        _log.warning("The same image stands more than once in a class: %s (`%s` shows all).", _told(doubled), hint)


def _is_image(file: Path) -> bool:
    try:
        load_image(file)
    except ImageError:
        return False
    return True


def _told(groups: Sequence[Sequence[Path]]) -> str:
    """Files that are alike, the first groups of them, and how many more there are."""
    said = "; ".join(" = ".join(map(printable, alike)) for alike in groups[:_LISTED])
    return said + (f"; and {len(groups) - _LISTED:,} more" if len(groups) > _LISTED else "")


def _alike(keyed: Iterable[tuple[Hashable, Path]]) -> Iterator[list[Path]]:
    """Those that share a key, two or more at a time; an empty key is like no other."""
    groups = defaultdict(list)
    for key, item in keyed:
        groups[key].append(item)
    return (group for key, group in groups.items() if key and len(group) > 1)
