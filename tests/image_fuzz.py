"""Image files gone bad or odd, over every format that Pillow writes and the package reads, and what must come of each.

A file with odd metadata or another ending must give the very pixels of its undamaged twin. One that was cut off or has
something behind its end must give these, or one sentence that names it, and so must a PNG whatever was done to it. One
that was damaged otherwise must give this sentence, or an image of the right kind.
"""

from __future__ import annotations

import io
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from fuzz import SECONDS, check_sentence, in_time
from PIL import Image

from siamese_utils.app.drawing import read_upload
from siamese_utils.data.image_files import image_suffixes, load_image
from siamese_utils.errors import DataError, ImageError

MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16", "I", "F")
HOW = ("cut", "flip", "flip", "zeros", "hole", "metadata", "tail", "ending")


@dataclass(frozen=True)
class Whole:
    """A file as Pillow writes it, and the pixels that the package reads from it."""

    kind: str
    mode: str
    size: tuple[int, int]
    content: bytes
    pixels: np.ndarray


def picture(mode: str, width: int, height: int) -> Image.Image:
    """A smooth picture of any mode."""
    coarse = np.random.default_rng(width + height).integers(0, 256, (5, 5, 4), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(smooth.convert("L")).astype(np.uint16) * 257)
    return smooth.convert(mode)


def kinds() -> list[str]:
    """Formats that Pillow writes and the package reads."""
    readable = {Image.registered_extensions()[ending] for ending in image_suffixes()}
    return sorted(readable & set(Image.SAVE))


@lru_cache
def whole_files() -> list[Whole]:
    """Every format in every mode that it takes, in two sizes."""
    found = []
    for kind in kinds():
        for mode in MODES:
            for size in ((23, 17), (61, 40)):
                buffer = io.BytesIO()
                try:
                    picture(mode, *size).save(buffer, kind)
                except (OSError, KeyError, ValueError, TypeError):  # not every format takes every mode
                    continue
                with TemporaryDirectory() as folder:
                    path = Path(folder) / "whole"
                    path.write_bytes(buffer.getvalue())
                    found.append(Whole(kind, mode, size, buffer.getvalue(), load_image(path)))
    return found


def damage(content: bytes, how: str, rng: np.random.Generator) -> bytes:
    """The content of a file after a damage."""
    at = int(rng.integers(len(content)))
    if rng.integers(2):  # as often in the header, where the structure is
        at = int(rng.integers(min(len(content), 200)))
    length = int(rng.integers(1, 200))
    if how == "cut":
        return content[:at]
    if how == "hole":
        return content[:at] + content[at + length :]
    broken = bytearray(content)
    if how == "zeros":
        broken[at : at + length] = bytes(len(broken[at : at + length]))
    for _ in range(int(rng.integers(1, 4)) if how == "flip" else 0):
        broken[at] ^= 1 << int(rng.integers(8))
        at = int(rng.integers(len(content)))
    return bytes(broken)


def odd_exif(rng: np.random.Generator) -> bytes:
    """An upright EXIF block with entries of any kind, or what is left of one."""
    order = ("<", ">")[int(rng.integers(2))]
    entries = [(0x0112, 3, 1, 1 if order == "<" else 1 << 16)]
    for _ in range(int(rng.integers(1, 5))):
        tag = int(
            rng.choice([0x010F, 0x0110, 0x011A, 0x0128, 0x0132, 0x8769, 0x8825, 0xA005, 0x927C, rng.integers(65536)])
        )
        if tag != 0x0112:
            values = (
                rng.integers(0, 14),
                rng.choice([0, 1, 2, 100, 2**32 - 1]),
                rng.choice([0, 1, 8, 70_000, 2**32 - 1]),
            )
            entries.append((tag, *map(int, values)))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "LH", 8, len(entries))
    block = head + b"".join(struct.pack(order + "HHLL", *entry) for entry in sorted(entries)) + bytes(4)
    return block + rng.bytes(int(rng.integers(0, 30))) if rng.integers(4) else block[: int(rng.integers(len(block)))]


def with_metadata(whole: Whole, rng: np.random.Generator) -> bytes | None:
    """The same pixels with odd metadata; ``None`` for a format that takes none."""
    exif = odd_exif(rng)
    if whole.kind in ("JPEG", "MPO"):
        name, data = [(0xE1, b"Exif\0\0" + exif), (0xE2, b"MPF\0" + exif), (0xFE, rng.bytes(20))][int(rng.integers(3))]
        at = 20 if b"JFIF" in whole.content[:20] and rng.integers(2) else 2  # behind JFIF, or before it
        return whole.content[:at] + struct.pack(">BBH", 0xFF, name, 2 + len(data)) + data + whole.content[at:]
    if whole.kind == "PNG":
        kind, data = [(b"eXIf", exif), (b"juNk", rng.bytes(20)), (b"tEXt", b"Title\0" + rng.bytes(9))][
            int(rng.integers(3))
        ]
        chunk = struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))
        return whole.content[:33] + chunk + whole.content[33:]
    if whole.kind in ("WEBP", "AVIF"):
        buffer = io.BytesIO()
        with suppress(Exception), warnings.catch_warnings():  # the writer of AVIF reads it first
            warnings.simplefilter("ignore")
            picture(whole.mode, *whole.size).save(buffer, whole.kind, exif=exif)
            return buffer.getvalue()
    return None


def spoil(whole: Whole, how: str, rng: np.random.Generator) -> tuple[bytes, str]:
    """The content of the file gone bad or odd, and what has become of it in truth."""
    if how == "metadata":
        content = with_metadata(whole, rng)
        return (content, how) if content is not None else (whole.content, "ending")
    if how == "tail":
        return whole.content + rng.bytes(int(rng.integers(1, 50))), how
    return whole.content if how == "ending" else damage(whole.content, how, rng), how


def check(folder: Path, whole: Whole, how: str, rng: np.random.Generator) -> None:
    """Write the file and read it, and raise unless what comes of it is right."""
    content, how = spoil(whole, how, rng)
    path = folder / f"photo{rng.choice(['.jpg', '.png', '.tif', '.gif', '.dds', ''])}"
    path.write_bytes(content)
    begin = time.monotonic()
    try:
        with in_time():
            with suppress(DataError):  # damaged, or nothing stands out
                read_upload(content)
            pixels = load_image(path)
    except ImageError as error:
        check_sentence(error, path)
        assert how not in ("metadata", "ending"), f"refused though its pixels are whole: {error}"
    else:
        assert pixels.shape == (32, 32, 3) and pixels.dtype == np.uint8
        at_the_end = whole.kind == "PCX" and whole.mode in "PL"  # its palette
        told = how in ("metadata", "ending", "tail", "cut") or whole.kind == "PNG"  # which has checksums
        if told and not at_the_end:
            assert np.array_equal(pixels, whole.pixels), "other pixels without a word"
    assert time.monotonic() - begin < SECONDS, "it took too long"  # the guard makes a sentence of this, too


def trials(folder: Path, count: int, seed: int = 0) -> Iterator[tuple[str, Callable[[], None]]]:
    """So many files, each with its name and a check that raises where something is wrong."""
    rng = np.random.default_rng(seed)
    files = whole_files()
    for number in range(count):
        whole, how = files[int(rng.integers(len(files)))], HOW[int(rng.integers(len(HOW)))]
        yield f"file {number}, {whole.kind} {whole.mode} {how}", partial(check, folder, whole, how, rng)
