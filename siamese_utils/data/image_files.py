"""Image files as people have them: found in folders, decoded under one guard, upright, 8 bits a channel, not too large.

Decoders raise errors of every type for damaged files, so all image files of the package are opened here, by
:func:`opened`: whatever goes wrong becomes an :class:`~siamese_utils.errors.ImageError` that names the file.
"""

from __future__ import annotations

import io
import logging
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, JpegImagePlugin

from siamese_utils.data.arrays import as_count
from siamese_utils.errors import DataError, ImageError, SiameseError, printable
from siamese_utils.system.files import as_path

MAX_PIXELS = 500_000_000
"""Pixels of an image at most. A baseline JPEG is reduced while it is decoded; others take up to 4 bytes a pixel."""

_HUGE = 50_000_000  # pixels from which on one image is decoded at a time, so that memory does not grow with the threads
_SMALL = 2**21  # pixels up to which an image is decoded as it is
_KEPT = 4  # times the side asked for stay of a larger image; the answer differs by a few grey levels at most
_STRIP = 256  # rows of a large image that are converted at once
_NO_CONTRAST = 40  # grey levels below which nothing stands out

_log = logging.getLogger(__name__)
logging.getLogger("PIL").addHandler(logging.NullHandler())  # the error says it; Python would print Pillow's remarks too


# --- which files ----------------------------------------------------------------------------------

# Of these Pillow knows the ending alone or needs another program. EPS is a program that Ghostscript would run.
_NOT_DECODED = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}
_HEIF = {".heic", ".heics", ".heif", ".heifs", ".hif"}
_LITTER = {
    *("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found"),
    *("thumbs.db", "desktop.ini"),
}


@lru_cache
def _formats() -> tuple[str, ...]:
    """Formats that can be decoded, the usual ones first, since Pillow tries them in this order."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        pass
    else:
        register_heif_opener()
    Image.init()
    usual = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
    return (*usual, *sorted(set(Image.OPEN) - _NOT_DECODED - set(usual)))


@lru_cache
def image_suffixes() -> frozenset[str]:
    """Endings of image files that can be decoded here, such as ``".png"``: what Pillow knows, HEIC with pillow-heif."""
    known = {*_formats(), "MPO"}  # several JPEGs in one
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in known)


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name was put there by a system and not by its user."""
    return name.startswith(".") or name.casefold() in _LITTER


def folders_in(folder: Path) -> list[Path]:
    """The folders directly in a folder, by name, without hidden ones and those of a system.

    Raises:
        DataError: the folder cannot be read.
    """
    return _folders(_kinds(folder))


def images_in(*folders: Path) -> list[Path]:
    """The image files directly in folders, by name; one warning counts the others that were passed over, by ending.

    Hidden files and those of a system are passed over without a word.

    Raises:
        DataError: a folder cannot be read.
    """
    return _images_of(_kinds(*folders))


def _images_of(kinds: dict[Path, str]) -> list[Path]:
    """See :func:`images_in`."""
    images = _images(kinds)
    known = {*images, *_folders(kinds)}
    if others := {path: kind for path, kind in kinds.items() if path not in known}:
        counts = Counter(kind or file.suffix.lower() or "without an ending" for file, kind in others.items())
        places = list(dict.fromkeys(file.parent for file in others))
        _log.warning(
            "Passed over %d file%s in %s%s: %s%s.",
            len(others),
            "s" * (len(others) > 1),
            printable(places[0]),
            f" and {len(places) - 1} more" if len(places) > 1 else "",
            ", ".join(f"{count} {ending}" for ending, count in counts.most_common()),
            "; install pillow-heif to read HEIC" if counts.keys() & _HEIF else "",
        )
    return images


def loose_images(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name, without a word on others.

    Raises:
        DataError: the folder cannot be read.
    """
    return _images(_kinds(folder))


def images_here(folder: Path) -> list[Path]:
    """As :func:`images_in`; a warning counts the folders within, which are not looked into.

    Raises:
        DataError: the folder cannot be read.
    """
    kinds = _kinds(folder)
    if within := _folders(kinds):
        _log.warning("Not looked into: %s; name them to have their images too.", counted("folder", within))
    return _images_of(kinds)


def counted(what: str, paths: Sequence[Path]) -> str:
    """How many there are in their folder, and one of them: ``2 folders in photos, such as 2024``."""
    plural = "s" * (len(paths) > 1)
    return f"{len(paths)} {what}{plural} in {printable(paths[0].parent)}, such as {printable(paths[0].name)}"


def _kinds(*folders: Path) -> dict[Path, str]:
    """All that lies directly in folders, by name, and what it is; each is looked at once."""
    return {path: _kind(path) for folder in folders for path in _listed(folder)}


def _folders(kinds: dict[Path, str]) -> list[Path]:
    return [path for path, kind in kinds.items() if kind == "folder"]


def _images(kinds: dict[Path, str]) -> list[Path]:
    return [path for path, kind in kinds.items() if not kind and path.suffix.lower() in image_suffixes()]


def images_below(folder: Path, skip_unreadable: bool = False) -> list[Path]:
    """The image files in a folder and in those within it, at any depth; each folder once, also if links lead back.

    Args:
        folder: where to begin.
        skip_unreadable: leave out folders within it that cannot be read, and tell each in a warning.

    Raises:
        DataError: a folder cannot be read.
    """
    places, left, seen = [], [folder], set()
    while left:
        place = left.pop()
        if place.resolve() in seen:
            continue
        seen.add(place.resolve())
        try:
            left += reversed(folders_in(place))
        except DataError as error:
            if not skip_unreadable or place == folder:
                raise
            _log.warning("Left out: %s", error)
        else:
            places.append(place)
    return images_in(*places)


def _kind(path: Path) -> str:
    """``"folder"``, nothing for a file, or what else it is.

    Raises:
        DataError: a link leads where one may not look.
    """
    try:
        mode = path.stat().st_mode
    except PermissionError as error:
        raise DataError(
            f"{printable(path)} leads where one may not look ({error.strerror}); allow it, or remove the link."
        ) from error
    except OSError:
        return "broken link"
    return "folder" if stat.S_ISDIR(mode) else "" if stat.S_ISREG(mode) else "no file"


def _listed(folder: Path) -> list[Path]:
    try:
        found = [folder / entry.name for entry in os.scandir(folder) if not is_litter(entry.name)]
        os.stat(os.path.join(folder, "."))  # one that may be listed but not entered holds nothing to be read
    except OSError as error:
        raise DataError(
            f"The folder {printable(folder)} cannot be read ({error.strerror}); allow it, or leave the folder out."
        ) from error
    return sorted(found)


# --- one guard ------------------------------------------------------------------------------------


@contextmanager
def opened(
    source: Path | bytes,
    name: str,
    advice: str = "replace or remove it",
    *,
    says: str = "",
    formats: Sequence[str] | None = None,
    limit: int = MAX_PIXELS,
) -> Iterator[Image.Image]:
    """Open an image file to be decoded in the body of a ``with`` statement.

    Threads decode at the same time, save images of more than 50 million pixels and those with odd metadata, of which
    one is decoded at a time. Pillow's warnings, of damaged metadata and of attacks by size, are not shown.

    Args:
        source: a file, or its content.
        name: what to call it in an error.
        advice: what to do where it cannot be read.
        says: what is wrong with it then; that it is not a readable image if left out.
        formats: names of Pillow's formats; all that can be decoded if left out.
        limit: pixels at most.

    Raises:
        ImageError: it cannot be opened, or its decoder raised anything in the body.
    """
    try:
        with ExitStack() as stack:
            image = _open(source, formats or _formats(), limit, stack)
            if check := _CHECKS.get(image.format or ""):
                check(source if isinstance(source, bytes) else source.read_bytes())
            yield image
    except SiameseError:
        raise
    except Image.DecompressionBombError as error:
        many = f"more than {limit / 1e6:g} million pixels"
        raise ImageError(f"{name} has {_size(source)}{many}", "make it smaller") from error
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is", "make it smaller") from error
    except PermissionError as error:
        raise ImageError(f"{name} may not be read", "change its permissions, or leave it out") from error
    except Exception as error:
        if _is_heif(source):
            raise ImageError(f"{name} is a HEIC image", "install pillow-heif to read it, or save it as JPEG") from error
        raise ImageError(f"{name} {says or f'is not a readable image ({type(error).__name__})'}", advice) from error


def _check_png(content: bytes) -> None:
    """Compare the checksums of the pixels, which Pillow passes over."""
    start = 8
    while start + 12 <= len(content):
        (length,), kind = struct.unpack_from(">L", content, start), content[start + 4 : start + 8]
        end = start + 8 + length
        if kind == b"IDAT" and content[end : end + 4] != struct.pack(">L", zlib.crc32(content[start + 4 : end])):
            raise OSError("a checksum is wrong")
        if kind == b"IEND":
            return
        start = end + 4


def _check_jpeg2000(content: bytes) -> None:
    """Look for the end, since the decoder does not see everywhere that the rest is missing."""
    if b"\xff\xd9" not in content:
        raise OSError("image file is truncated")


_CHECKS: dict[str, Callable[[bytes], None]] = {"PNG": _check_png, "JPEG2000": _check_jpeg2000}


def _size(source: Path | bytes) -> str:
    """Width and height of an image that is too large, where they are to be had without decoding an image within it."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    formats = [kind for kind in _formats() if kind != "ICO"]  # which decodes as it opens
    with suppress(Exception), _SETTINGS.held(None, alone=True), Image.open(file, formats=formats) as image:
        return f"{image.width} × {image.height} pixels, "
    return ""


@contextmanager
def _pillow(**changed: Any) -> Iterator[None]:
    """Names of Pillow's module with other values for a while."""
    before = {name: getattr(Image, name) for name in changed}
    try:
        for name, value in changed.items():
            setattr(Image, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(Image, name, value)


class _Settings:
    """Pillow's limit and Python's warning filters, which belong to the whole process, as decoding needs them.

    Any number of threads may hold those with the usual limit; with another one, a single thread holds them alone. A
    thread that holds them may ask again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holders: Counter[int] = Counter()
        self._alone = 0  # the thread that holds them alone or waits for it; 0 if there is none
        self._usual = ExitStack()

    @contextmanager
    def held(self, limit: int | None, alone: bool = False) -> Iterator[None]:
        """Hold them for a while.

        Args:
            limit: pixels of an image at most; ``None`` for any number.
            alone: whether no other thread may decode meanwhile.
        """
        me, alone = threading.get_ident(), alone or limit != MAX_PIXELS
        with self._changed:
            self._changed.wait_for(lambda: self._alone in (0, me) or (me in self._holders and not alone))
            before = self._alone
            if alone:
                self._alone = me
                try:
                    self._changed.wait_for(lambda: set(self._holders) <= {me})
                except BaseException:  # an interrupt must not keep the others waiting
                    self._alone = before
                    raise
            if not self._holders:
                self._usual.enter_context(_decoding(MAX_PIXELS))
            self._holders[me] += 1
        try:
            with _decoding(limit) if alone else nullcontext():
                yield
        finally:
            with self._changed:
                self._holders[me] -= 1
                self._holders += Counter()  # without those that hold nothing
                if not self._holders:
                    self._usual.close()
                if alone:
                    self._alone = before
                self._changed.notify_all()


@contextmanager
def _decoding(limit: int | None) -> Iterator[None]:
    # Pillow refuses twice as many pixels as its limit, also of an image within a file.
    with warnings.catch_warnings(), _pillow(MAX_IMAGE_PIXELS=limit and limit // 2):
        warnings.simplefilter("ignore")
        yield


_SETTINGS = _Settings()
_ONE_AT_A_TIME = threading.RLock()


def _open(source: Path | bytes, formats: Sequence[str], limit: int, stack: ExitStack) -> Image.Image:
    """Open an image; the stack closes it and gives back what decoding it needs."""
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    stack.enter_context(_SETTINGS.held(limit))
    try:
        image = Image.open(file, formats=formats)
    except Exception:
        # Some decoders read resolutions or lists of further images in the metadata, and fail where these are odd.
        stack.close()
        stack.enter_context(_SETTINGS.held(limit, alone=True))
        jpeg = (JpegImagePlugin.JpegImageFile, Image.OPEN["JPEG"][1])
        with _pillow(Exif=_OnlyOrientation, OPEN={**Image.OPEN, "JPEG": jpeg}):
            image = Image.open(file, formats=formats)
    if image.width * image.height > _HUGE:
        stack.enter_context(_ONE_AT_A_TIME)
    stack.enter_context(image)
    orientation = _orientation(image)
    image._exif = Image.Exif()  # type: ignore[attr-defined]  # some decoders turn by it; they must not read another tag
    image._exif._loaded = True
    image._exif[_ORIENTATION] = orientation
    return image


def _is_heif(source: Path | bytes) -> bool:
    start = source[:40] if isinstance(source, bytes) else b""
    if isinstance(source, Path):
        with suppress(OSError), source.open("rb") as file:
            start = file.read(40)
    return "HEIF" not in Image.OPEN and start[4:8] == b"ftyp" and bool(re.search(rb"he[iv][cmsx]", start[8:]))


# --- orientation ----------------------------------------------------------------------------------

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _orientation(image: Image.Image) -> int:
    """How a camera was held, 1 to 8 as in EXIF; 1 is upright, as is whatever cannot be read."""
    info = image.info
    try:
        if "exif" in info:
            found = _orientation_tag(info["exif"])
        elif "Raw profile type exif" in info:  # ImageMagick's, in PNG
            found = _orientation_tag(bytes.fromhex("".join(info["Raw profile type exif"].split("\n")[3:])))
        else:
            found = getattr(image, "tag_v2", {}).get(_ORIENTATION)  # TIFF
        if found is None:
            xmp = info.get("XML:com.adobe.xmp") or info.get("xmp") or ""
            xmp = xmp.decode("latin-1") if isinstance(xmp, bytes) else xmp
            found = int(match[1]) if (match := re.search(r'tiff:Orientation(?:="|>)([1-8])', xmp)) else 1
        return int(found) if found in _TURNS else 1
    except Exception:  # no metadata are worth an image
        return 1


def _orientation_tag(exif: bytes) -> int | None:
    """The one tag of an EXIF block that is wanted, whatever the others hold; ``None`` if it is not there."""
    exif = re.sub(rb"^(Exif\0\0){1,2}", b"", exif)
    order = {b"II": "<", b"MM": ">"}[exif[:2]]
    (first,) = struct.unpack_from(order + "L", exif, 4)
    (count,) = struct.unpack_from(order + "H", exif, first)
    for start in range(first + 2, first + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", exif, start)
        if tag == _ORIENTATION:
            return struct.unpack_from(order + {1: "B", 3: "H", 4: "L"}[kind], exif, start + 8)[0]
    return None


class _OnlyOrientation(Image.Exif):
    def load(self, data: bytes) -> None:
        with suppress(Exception):
            self[_ORIENTATION] = _orientation_tag(data) or 1


# --- photographs and drawings ---------------------------------------------------------------------


def load_image(path: str | Path, size: int = 32) -> NDArray[np.uint8]:
    """Read an image file the way the encoders want it.

    The image is turned upright (EXIF), grey becomes RGB, transparent parts become white (see :func:`on_paper`), the
    middle square is cut out and scaled down. Depth and large images are as in :func:`read_image`.

    Args:
        path: any format that Pillow decodes, and HEIC where pillow-heif is installed.
        size: side of the result in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        ImageError: the file is missing, no image, damaged, too large, or of a depth that cannot be told.
        ConfigError: the size is no number of pixels.
    """
    path, size = as_path(path), as_count("The side of an image in pixels", size)
    try:
        missing = not path.is_file()
        folder = missing and path.is_dir()
    except OSError as error:
        raise ImageError(f"{printable(path)} may not be read", "change its permissions, or leave it out") from error
    if folder:
        raise ImageError(
            f"{printable(path)} is a folder", "name the images in it, or ask predict_files, which takes folders"
        )
    if missing:
        raise ImageError(f"There is no image file {printable(path)}", "check the path")
    return fitted(on_paper(read_image(path, printable(path), size)), size)


def fitted(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """Cut out the middle square of an image of mode RGB and scale it: uint8 (size, size, 3)."""
    return np.array(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))


def read_image(
    source: Path | bytes,
    name: str,
    side: int,
    advice: str = "replace or remove it",
    *,
    grey: bool = False,
    says: str = "",
    limit: int = MAX_PIXELS,
) -> Image.Image:
    """Decode an image file to 8 bits a channel, upright.

    An image of more than two million pixels is reduced to no less than four times ``side``, a JPEG while it is decoded.

    Grey levels deeper than 8 bits are scaled to 0 to 255 from the range that the file declares (PGM its highest value,
    TIFF perhaps the lowest and highest, or fewer bits than 16). Where it declares none, they are scaled from the
    smallest range of 8, 10, 12, 14 or 16 bits that holds the brightest pixel, beyond 16 of any number of bits. Floats
    are taken as 0 to 1, as 0 to 255 if the brightest is above 127, or as whole numbers if they are such. All others are
    refused. So are colours of 16 bits whose upper two are empty: the decoder keeps the upper eight alone.

    Args:
        source: see :func:`opened`, as are ``name``, ``advice``, ``says`` and ``limit``.
        side: pixels of the shorter side that are needed.
        grey: whether the colours of a JPEG are not needed.

    Returns:
        an image of mode RGBA.

    Raises:
        ImageError: see :func:`opened`; or its grey levels are of a range that cannot be told.
    """
    least = _KEPT * side
    with opened(source, name, advice, says=says, limit=limit) as image:
        large = image.width * image.height > _SMALL
        drafted = image.draft("L" if grey else None, (least, least) if large else None) if grey or large else None
        tiles = image.tile or []  # None of images that were decoded as they were opened
        halved = image.mode not in _DEEP and any(";16" in str(tile[3]) for tile in tiles)
        scaled = any(tile[0] == "ppm" for tile in tiles)
        image.load()
        if halved:
            _check_halved(image, name)
        levels = _Levels.of(image, scaled, name) if image.mode in _DEEP else None
        extent = drafted[1][2:] if drafted else image.size
        reduced = _reduced(image, extent, least, levels) if large and min(extent) >= least else None
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
        eight = reduced or _rgba(image, levels)
        return eight if turn is None else eight.transpose(turn)


def upright(image: Image.Image, name: str) -> Image.Image:
    """An image of Pillow as :func:`read_image` gives a file's: 8 bits a channel, turned as its metadata say; mode RGBA.

    Args:
        image: of any mode.
        name: what to call it in an error.

    Raises:
        ImageError: it cannot be decoded, or its grey levels are of a range that cannot be told.
    """
    try:
        scaled = any(tile[0] == "ppm" for tile in getattr(image, "tile", None) or [])
        image.load()
        turn = _TURNS.get(_orientation(image))
        eight = _rgba(image, _Levels.of(image, scaled, name) if image.mode in _DEEP else None)
        return eight if turn is None else eight.transpose(turn)
    except SiameseError:
        raise
    except Exception as error:
        raise ImageError(f"{name} cannot be converted to RGB", "open it anew") from error


def _rgba(image: Image.Image, levels: _Levels | None) -> Image.Image:
    return (Image.fromarray(levels.scaled(np.asarray(image))) if levels else image).convert("RGBA")


def _reduced(image: Image.Image, extent: tuple[float, float], least: int, levels: _Levels | None) -> Image.Image:
    """Reduce to ``least`` pixels a side or more; ``extent`` is what the image shows, to fractions of its pixels."""
    factor = max(1, int(min(extent)) // least)
    width, height = (side / factor for side in extent)
    # What the last row or column shows in part would shift all others, and so would rounding to other proportions.
    sizes = (
        (width * n / min(width, height), height * n / min(width, height))
        for n in range(int(min(width, height)), 2 * least)
    )
    size = min(sizes, key=lambda size: abs(size[0] - round(size[0])) + abs(size[1] - round(size[1])))
    whole = (round(size[0]), round(size[1]))
    return _in_strips(image, factor, levels).resize(whole, Image.Resampling.BICUBIC, box=(0, 0, width, height))


def _in_strips(image: Image.Image, factor: int, levels: _Levels | None) -> Image.Image:
    """Average over squares of pixels; converted afterwards or strip by strip, no copy is as large as the image."""
    if image.mode in ("L", "RGB", "CMYK") and "transparency" not in image.info:
        return image.reduce(factor).convert("RGBA")
    rows = factor * max(1, _STRIP // factor)
    whole = Image.new("RGBA", (-(-image.width // factor), -(-image.height // factor)))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        whole.paste(_rgba(strip, levels).reduce(factor), (0, top // factor))
    return whole


def on_paper(image: Image.Image) -> Image.Image:
    """Lay an image of mode RGBA on white, or on black if nothing but white is to be seen in it; mode RGB."""
    if image.getextrema()[3] == (255, 255):
        return image.convert("RGB")
    white, black = (Image.new("RGBA", image.size, colour) for colour in ("white", "black"))
    white.alpha_composite(image)
    black.alpha_composite(image)
    lowest, highest = white.convert("L").getextrema()[0], black.convert("L").getextrema()
    blank = lowest > 255 - _NO_CONTRAST and highest[1] - highest[0] >= _NO_CONTRAST
    return (black if blank else white).convert("RGB")


# --- grey deeper than 8 bits ----------------------------------------------------------------------

_DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_INVERTED, _BITS, _KIND = 262, 258, 339  # tags of TIFF: photometric interpretation, bits per sample, sample format
_DECLARED = ((340, 341), (280, 281))  # lowest and highest sample value; of any kind, and of whole numbers


@dataclass(frozen=True)
class _Levels:
    """How deep grey levels become 8 bits: from ``low`` to ``high``, and perhaps white for black."""

    low: float
    high: float
    whole: bool
    unsigned: bool
    inverted: bool

    @classmethod
    def of(cls, image: Image.Image, scaled: bool, name: str) -> _Levels:
        """Tell the range from the file, as :func:`read_image` says; ``scaled`` if the decoder has scaled to 16 bits."""
        tags = getattr(image, "tag_v2", {})
        unsigned = image.mode == "I" and tags.get(_KIND, (1,)) == (1,) and tags.get(_BITS) == (32,)
        values = np.asarray(image).view(np.uint32) if unsigned else np.asarray(image)
        lowest, highest = values.min().item(), values.max().item()
        whole = image.mode != "F" or 127 < highest < 256 or (1 < highest < 2**32 and bool((values % 1 == 0).all()))
        ranges = (_declared_range(scaled, tags), (0, _full_range(highest) if whole else 1))
        fitting = [found for found in ranges if found and found[0] <= lowest <= highest <= found[1]]
        if not fitting:  # nor does what is not a number
            raise ImageError(
                f"{name} holds grey levels from {lowest:g} to {highest:g}, of a range that it does not declare",
                "save it with 8 bits a pixel",
            )
        return cls(*fitting[0], whole, unsigned, tags.get(_INVERTED) == 0)

    def scaled(self, values: NDArray[Any]) -> NDArray[np.uint8]:
        """The levels as uint8, of the same shape."""
        values = (values.view(np.uint32) if self.unsigned else values).astype(np.float64) - self.low
        span = self.high - self.low
        # Whole numbers lose their lower bits, as in every converter.
        eight = np.floor(values * 256 / (span + 1)) if self.whole else np.rint(255 * values / span)
        return (255 - eight if self.inverted else eight).astype(np.uint8)


def _full_range(highest: float) -> int:
    bits = int(highest).bit_length()
    return 2 ** next((known for known in (8, 10, 12, 14, 16) if bits <= known), bits) - 1


def _declared_range(scaled: bool, tags: Any) -> tuple[float, float] | None:
    """The range that a file declares, unless it is but all that its sample type can hold."""
    if scaled:
        return 0, 2**16 - 1
    with suppress(Exception):  # odd tags declare nothing
        bits = tags[_BITS][0]
        for lowest, highest in _DECLARED:
            if highest in tags:
                low, high = (one[0] if isinstance(one, tuple) else one for one in (tags.get(lowest, 0), tags[highest]))
                if 0 < high - low < 2**bits - 1:
                    return float(low), float(high)
        if 8 < bits < 16:
            return 0, 2**bits - 1
    return None


def _check_halved(image: Image.Image, name: str) -> None:
    """Refuse colours of which nothing or little is left once the lower eight of 16 bits are gone."""
    extrema = image.getextrema()
    extrema = extrema if isinstance(extrema[0], tuple) else (extrema,)
    if max(high for band, (_, high) in zip(image.getbands(), extrema) if band not in "AX") < 64:
        raise ImageError(f"{name} has 16 bits a channel but uses the lower 14 alone", "save it with 8 bits a channel")
