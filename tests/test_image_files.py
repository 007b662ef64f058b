"""Image files as people have them: odd metadata, deep grey, every ending, large photographs, closed folders."""

from __future__ import annotations

import ast
import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import image_fuzz
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageDraw, ImageOps
from PIL.PngImagePlugin import PngInfo

import siamese_utils
from siamese_utils.app.drawing import read_upload
from siamese_utils.data import cifar, faces, image_files
from siamese_utils.data.image_files import (
    folders_in,
    image_suffixes,
    images_below,
    images_in,
    load_image,
    opened,
    read_image,
)
from siamese_utils.data.squares import square_batches
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import DataError, ImageError, SamplingError
from siamese_utils.recognition.classifier import OneShotClassifier, classify_folder

INPUTS = Path(__file__).resolve().parents[2] / "shared" / "inputs"


def given(name: str) -> Path:
    """A file that users have, where it is at hand."""
    path = INPUTS / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


def photo(width: int = 60, height: int = 40) -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def read(content: bytes, size: int = 32) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo"
        path.write_bytes(content)
        return load_image(path, size)


# ---------------------------------------------------------------------------------------- orientation

TURNED = (0x0112, 3, 1, 6)
ODD_ENTRIES = {
    "make is rational": [(0x010F, 5, 1, 38), TURNED],
    "unit too large": [TURNED, (0x0128, 4, 1, 70_000)],
    "resolution without a place": [TURNED, (0x011A, 5, 1, 2**32 - 1), (0x0128, 3, 1, 2)],
    "resolution is text": [TURNED, (0x011A, 2, 9, 0), (0x0128, 3, 1, 2)],
    "resolution is one sign": [TURNED, (0x011A, 2, 2, ord("7")), (0x0128, 3, 1, 2)],
    "unit is text": [TURNED, (0x011A, 5, 1, 8), (0x0128, 2, 4, 0)],
    "unknown type": [(0x0100, 99, 1, 0), TURNED],
    "no type": [(0x010E, 0, 7, 0), TURNED],
    "too many": [(0x010E, 2, 2**32 - 1, 0), TURNED],
    "folder of camera nowhere": [TURNED, (0x8769, 4, 1, 2**32 - 1)],
    "folder of place in itself": [TURNED, (0x8825, 4, 1, 8)],
    "folder is rational": [TURNED, (0x8769, 5, 1, 8)],
    "turn as a long": [(0x0112, 4, 1, 6)],
    "turn as a byte": [(0x0112, 1, 1, 6)],
}


def exif(entries: list[tuple[int, int, int, int]], order: str = "<") -> bytes:
    """An EXIF block of such entries: tag, type, count, value."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "LH", 8, len(entries))
    rows = b""
    for tag, kind, count, value in entries:
        short = {1: "B3x", 3: "H2x"}.get(kind, "L")
        rows += struct.pack(order + "HHL" + short, tag, kind, count, value)
    return b"Exif\0\0" + head + rows + bytes(4) + struct.pack(order + "LL", 1, 2)


def with_exif(kind: str, block: bytes) -> bytes:
    """The photograph, stored on its side, with an EXIF block as a camera might write it."""
    if f".{kind.lower()}" not in image_suffixes():
        pytest.skip(f"this Pillow has no {kind}")
    buffer = io.BytesIO()
    lying = photo().transpose(Image.Transpose.ROTATE_90)
    if kind == "JPEG":
        lying.save(buffer, kind)
        segment = b"\xff\xe1" + struct.pack(">H", 2 + len(block)) + block
        return buffer.getvalue()[:2] + segment + buffer.getvalue()[20:]  # instead of JFIF, as in a camera
    if kind != "AVIF":
        lying.save(buffer, kind, exif=block, **({"lossless": True} if kind == "WEBP" else {}))
        return buffer.getvalue()
    plain = exif([(0x010F, 2, 1, 6)]).ljust(len(block), b"\0")  # Pillow's writer of AVIF reads the block
    lying.save(buffer, kind, exif=plain)
    at = buffer.getvalue().index(plain[6:])
    return buffer.getvalue()[:at] + block[6:].ljust(len(plain) - 6, b"\0") + buffer.getvalue()[at + len(plain) - 6 :]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("entries", ODD_ENTRIES.values(), ids=ODD_ENTRIES)
def test_odd_metadata_neither_hinder_nor_hide_the_orientation(kind: str, entries: list) -> None:
    for order in "<>":
        assert np.array_equal(read(with_exif(kind, exif(entries, order))), read(with_exif(kind, exif([TURNED], order))))
    if kind != "AVIF":  # which has a place of its own for the orientation, and must not heed the other
        turned = read(with_exif(kind, exif([TURNED]))).astype(int)
        assert abs(turned - read(with_exif("PNG", exif([TURNED])))).mean() < 4


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"Exif\0\0",
        b"Exif\0\0II*\0",
        b"Exif\0\0XX*\0" + bytes(30),
        exif([TURNED])[:20],
        exif([(0x0112, 3, 1, 9)]),
        exif([(0x0112, 2, 1, 6)]),
        exif([(0x0112, 99, 1, 6)]),
        exif([(0x010F, 2, 1, 6)]),
        b"Exif\0\0II*\0" + b"\xff" * 20,
    ],
    ids=["none", "empty", "head", "order", "cut", "nine", "text", "type", "other", "far"],
)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_what_cannot_be_read_is_upright(kind: str, block: bytes) -> None:
    if kind == "AVIF" and block[6:8] != b"II":
        pytest.skip("its decoder itself refuses what does not begin as EXIF")
    assert np.array_equal(read(with_exif(kind, block)), read(with_exif(kind, exif([(0x0112, 3, 1, 1)]))))


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_every_orientation_is_that_of_pillow(kind: str, turn: int) -> None:
    block = Image.Exif()
    block[0x0112] = turn
    buffer = io.BytesIO()
    photo(32, 32).save(buffer, kind, exif=block)
    assert np.array_equal(read(buffer.getvalue()), np.asarray(ImageOps.exif_transpose(Image.open(buffer))))


@pytest.mark.parametrize("odd", [(0x8769, "I", 1, 2**32 - 1), (0x0128, "I", 1, 70_000), (0x010F, "2I", 1, (1, 2))])
def test_odd_tags_of_a_tiff_do_not_hinder(odd: tuple) -> None:
    lying = np.asarray(photo(40, 60))
    turned, plain = (274, "H", 1, 6, True), tiff(lying, photometric="rgb")
    content = tiff(lying, photometric="rgb", extratags=[(*odd, True), turned])
    assert np.array_equal(read(content), read(tiff(lying, photometric="rgb", extratags=[turned])))
    assert not np.array_equal(read(content), read(plain))


def test_orientation_stands_in_xmp_where_there_is_no_other() -> None:
    buffer, text = io.BytesIO(), PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<x tiff:Orientation='x' tiff:Orientation=\"3\"/>")
    photo(32, 32).save(buffer, "PNG", pnginfo=text)
    assert np.array_equal(read(buffer.getvalue()), np.asarray(photo(32, 32))[::-1, ::-1])


@pytest.mark.parametrize("name", ["exif_make_is_rational.jpg", "exif_unit_too_large.jpg", "exif_unit_too_large.png"])
def test_turned_photographs_that_users_have(name: str) -> None:
    fine = load_image(given("exif_fine.jpg")).astype(int)
    assert abs(load_image(given(name)) - fine).mean() < (0 if name.endswith("jpg") else 2) + 1e-9
    assert read_upload(given(name).read_bytes())


# ------------------------------------------------------------------------------------------ the guard


@pytest.mark.parametrize(
    "error",
    [
        *(RuntimeError, NotImplementedError, struct.error, SyntaxError, TypeError, AttributeError, OverflowError),
        *(EOFError, MemoryError, RecursionError, zlib.error, AssertionError, KeyError, Image.DecompressionBombError),
    ],
)
@pytest.mark.parametrize("when", ["open", "load"])
def test_whatever_a_decoder_raises_becomes_one_sentence(
    error: type[Exception], when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error("deep inside")

    path = tmp_path / "a.png"
    photo(250, 250).save(path)
    monkeypatch.setattr(*{"open": (Image, "open"), "load": (Image.Image, "load")}[when], fail)
    if when == "load":
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
        monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail, raising=False)
    calls: dict[str, Callable] = {
        str(path): lambda: load_image(path),
        "This file": lambda: read_upload(path.read_bytes()),
        f"{path} ": lambda: faces._read_photo(path),
        "Image 7": lambda: cifar._decode(cifar._CIFAR100, path.read_bytes(), "Image 7"),
    }
    for name, call in calls.items():
        with pytest.raises(ImageError) as caught:
            call()
        assert str(caught.value).startswith(name) and str(caught.value).endswith(".") and "\n" not in str(caught.value)


def test_all_image_files_are_opened_in_one_place() -> None:
    found = set()
    for path in Path(siamese_utils.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr == "open" and ast.unparse(node.value) == "Image":
                found.add(path.name)
    # The report's pages know the figures that they themselves made; a study alters photographs that have been read.
    assert found - {"render.py", "checks.py"} == {"image_files.py"}


def test_an_error_can_be_sent_between_processes() -> None:
    import pickle

    error = pickle.loads(pickle.dumps(ImageError("a.png is black", "replace it")))
    assert str(error) == "a.png is black; replace it." and error.fault == "a.png is black"


def test_pillow_is_left_as_it_was(tmp_path: Path) -> None:
    photo().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"none")
    before = (Image.MAX_IMAGE_PIXELS, Image.Exif, Image.OPEN, list(warnings.filters))
    load_image(tmp_path / "a.png")
    with pytest.raises(ImageError):
        load_image(tmp_path / "b.png")
    assert (Image.MAX_IMAGE_PIXELS, Image.Exif, Image.OPEN, list(warnings.filters)) == before


# ------------------------------------------------------------------------------------------ deep grey

RAMP = np.arange(64) * 4  # as ref_8bit.png
LEVELS = np.tile(RAMP, (64, 1))


def tiff(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, **{"photometric": "minisblack", **options})
    return buffer.getvalue()


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def pgm(values: np.ndarray, highest: int) -> bytes:
    return b"P5 64 64 %d\n" % highest + values.astype(">u2").tobytes()


def scaled(bits: int, dtype: type = np.uint16) -> np.ndarray:
    return (LEVELS.astype(np.float64) * (2**bits - 1) / 255).round().astype(dtype)


DEEP = {
    "16 bits": tiff(scaled(16)),
    "16 bits, big-endian": tiff(scaled(16), byteorder=">"),
    "16 bits, png": png(Image.fromarray(scaled(16))),
    "14 in 16": tiff(scaled(14)),
    "12 in 16": tiff(scaled(12)),
    "12 in 16, big-endian": tiff(scaled(12), byteorder=">"),
    "12 in 16, png": png(Image.fromarray(scaled(12))),
    "12 in 16, signed": tiff(scaled(12, np.int16)),
    "10 in 16": tiff(scaled(10)),
    "8 in 16": tiff(LEVELS.astype(np.uint16)),
    "12 in 32": tiff(scaled(12, np.int32)),
    "16 in 32": tiff(scaled(16, np.int32)),
    "20 in 32": tiff(scaled(20, np.int32)),
    "31 in 32": tiff(scaled(31, np.int32)),
    "32, unsigned": tiff(scaled(32, np.uint32)),
    "white is zero": tiff(65535 - scaled(16), photometric="miniswhite"),
    "declared": tiff((LEVELS * 10).astype(np.uint16), extratags=[(281, "H", 1, 2550, True)]),
    "declared from below zero": tiff(
        (LEVELS - 100).astype(np.int16), extratags=[(340, "h", 1, -100, True), (341, "h", 1, 155, True)]
    ),
    "pgm, 12 bits": pgm(scaled(12), 4095),
    "pgm, 12 in 16": pgm(scaled(12), 65535),
    "floats": tiff((LEVELS / 255).astype(np.float32)),
    "floats, big-endian": tiff((LEVELS / 255).astype(np.float32), byteorder=">"),
    "floats to 255": tiff((LEVELS + 0.25).astype(np.float32)),
    "floats that are whole": tiff(scaled(12, np.float32)),
    "floats, declared": tiff(
        (LEVELS / 51 - 2.5).astype(np.float32), extratags=[(340, "f", 1, -2.5, True), (341, "f", 1, 2.5, True)]
    ),
}


@pytest.mark.parametrize("content", DEEP.values(), ids=DEEP)
def test_deep_grey_is_read_as_its_twin_of_8_bits(content: bytes) -> None:
    twin = read(png(Image.fromarray(LEVELS.astype(np.uint8))), 64)
    assert abs(read(content, 64).astype(int) - twin).max() <= 1


@pytest.mark.parametrize("name", ["float_0_1.tif", "grey16_12bit.tif", "grey16_full.png", "rgb.avif"])
def test_deep_grey_that_users_have(name: str) -> None:
    if Path(name).suffix not in image_suffixes():
        pytest.skip(f"this Pillow reads no {name}")
    twin = load_image(given("ref_8bit.png")).astype(int)
    assert abs(load_image(given(name)) - twin).max() <= 2


HOLLOW = np.zeros((40, 40), np.float32)
HOLLOW[20, 20] = np.nan


@pytest.mark.parametrize(
    "content, words",
    [
        (tiff((LEVELS - 100).astype(np.int16)), "grey levels from -100 to 152"),
        (tiff((LEVELS / 100 - 1).astype(np.float32)), "grey levels from -1 to 1.52"),
        (tiff((LEVELS / 100).astype(np.float32)), "grey levels from 0 to 2.52"),
        (tiff(HOLLOW), "grey levels from nan"),
        (tiff(HOLLOW + np.float32(np.inf)), "grey levels from nan"),
        (tiff(np.stack([scaled(12)] * 3, axis=-1), photometric="rgb"), "16 bits a channel but uses the lower 14"),
        (tiff(np.stack([scaled(8)] * 3, axis=-1), photometric="rgb"), "16 bits a channel but uses the lower 14"),
    ],
)
def test_depth_that_cannot_be_told_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=words) as caught:
        read(content)
    assert "save it with 8 bits" in str(caught.value) and "\n" not in str(caught.value)


def test_colours_of_16_bits_and_dark_pictures() -> None:
    colours = tiff(np.stack([scaled(16)] * 3, axis=-1), photometric="rgb")
    assert abs(read(colours, 64).astype(int) - read(DEEP["16 bits"], 64)).max() <= 1
    for black in (tiff(LEVELS.astype(np.uint16) * 0), tiff(LEVELS.astype(np.float32) * 0)):
        assert not read(black).any()


@pytest.mark.parametrize("bits", [12, 16, 1], ids=["12 bits", "16 bits", "floats"])
def test_drawings_of_deep_grey(bits: int) -> None:
    paper = Image.new("L", (300, 300), 240)
    ImageDraw.Draw(paper).line([(60, 60), (240, 90), (120, 240)], fill=20, width=14)
    levels = np.asarray(paper) / 255
    content = tiff(levels.astype(np.float32)) if bits == 1 else tiff((levels * (2**bits - 1)).astype(np.uint16))
    drawn, twin = (np.asarray(Image.open(io.BytesIO(read_upload(c))).getchannel("A")) for c in (content, png(paper)))
    assert abs(drawn.astype(int) - twin).mean() < 1 and twin.any()


# --------------------------------------------------------------------------------------- transparency


def ink(colour: tuple[int, ...]) -> Image.Image:
    image = Image.new("RGBA", (300, 300), (*colour, 0))
    ImageDraw.Draw(image).line([(60, 60), (240, 90), (120, 240)], fill=(*colour, 255), width=14)
    return image


@pytest.mark.parametrize("colour", [(255, 255, 255), (240, 240, 225)])
def test_white_ink_on_transparent_ground_is_seen(colour: tuple[int, ...], tmp_path: Path) -> None:
    black, white = (np.asarray(Image.open(io.BytesIO(read_upload(png(ink(c)))))) for c in ((0, 0, 0), colour))
    assert abs(black[..., 1].astype(int) - white[..., 1]).mean() < 1
    ink(colour).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").std() > 20


@pytest.mark.parametrize("colour", [(0, 0, 0), (200, 30, 30), (200, 200, 200)])
def test_other_transparent_parts_stay_white(colour: tuple[int, ...], tmp_path: Path) -> None:
    ink(colour).save(tmp_path / "a.png")
    assert (load_image(tmp_path / "a.png")[0, 0] == 255).all()
    Image.new("RGBA", (40, 40), (*colour, 0)).save(tmp_path / "b.png")
    Image.new("RGBA", (40, 40), (255, 255, 255, 255)).save(tmp_path / "c.png")
    assert (load_image(tmp_path / "b.png") == 255).all() and (load_image(tmp_path / "c.png") == 255).all()


# -------------------------------------------------------------------------------------------- endings


def test_every_ending_that_pillow_decodes_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert {".png", ".jpg", ".jfif", ".jpe", ".jp2", ".ppm", ".pgm", ".tga", ".gif", ".webp"} <= image_suffixes()
    assert not {".eps", ".pdf", ".mpg", ".h5", ".txt"} & image_suffixes()
    written = []
    for ending in sorted(image_suffixes()):
        if (kind := Image.registered_extensions()[ending]) in Image.SAVE:
            path = tmp_path / f"photo{ending.upper() if len(written) % 2 else ending}"
            photo(64, 64).convert({"BLP": "P", "MSP": "1", "XBM": "1"}.get(kind, "RGB")).save(path, kind)
            written.append(path)
            assert load_image(path).shape == (32, 32, 3)
    assert images_in(tmp_path) == sorted(written) and len(written) > 30 and not caplog.records


def test_the_rest_is_passed_over_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.heic", "c.HEIC", "d.txt", ".DS_Store", "Thumbs.db", "._a.png", "e"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert images_in(tmp_path) == [tmp_path / "a.png"]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"Passed over 4 files in {tmp_path}: ") and told.count("\n") == 0
    assert all(words in told for words in ("2 .heic", "1 .txt", "1 without an ending", "install pillow-heif"))


@pytest.mark.parametrize("brand", [b"ftypheic", b"ftypmif1\0\0\0\0mif1heic"])
def test_heic_is_told_the_package_that_reads_it(brand: bytes, tmp_path: Path) -> None:
    if "HEIF" in Image.OPEN:
        pytest.skip("pillow-heif is installed")
    (tmp_path / "IMG_1.jpg").write_bytes(struct.pack(">L", 24) + brand + bytes(200))
    with pytest.raises(ImageError, match=r"IMG_1\.jpg is a HEIC image; install pillow-heif"):
        load_image(tmp_path / "IMG_1.jpg")


def test_folders_of_a_system_are_no_classes(tmp_path: Path) -> None:
    for name in ("cat", "__MACOSX", "@eaDir", ".hidden", "dog", "#recycle"):
        (tmp_path / name).mkdir()
    assert [path.name for path in folders_in(tmp_path)] == ["cat", "dog"]


# ------------------------------------------------------------------------------------ large photographs


def decoded_whole(path: Path, size: int = 32) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(2000, 1500), (1403, 2111), (4001, 1003)])
def test_reducing_changes_hardly_anything(size: tuple[int, int], kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    photo(*size).save(path, kind, **({"compress_level": 1} if kind == "PNG" else {}))
    difference = abs(load_image(path).astype(int) - decoded_whole(path))
    assert difference.max() <= 6 and difference.mean() < 1


@pytest.mark.parametrize("mode", ["L", "P", "1", "RGBA", "LA", "I;16", "F"])
def test_large_images_of_any_mode(mode: str, tmp_path: Path) -> None:
    big = Image.fromarray(np.tile(np.linspace(0, 255, 1800).astype(np.uint8), (1500, 1)))
    deep = {"I;16": lambda: Image.fromarray(np.asarray(big).astype(np.uint16) * 257)}
    deep["F"] = lambda: Image.fromarray(np.asarray(big).astype(np.float32) / 255)
    path = tmp_path / "a.tif"
    deep.get(mode, lambda: big.convert(mode))().save(path)
    big.save(tmp_path / "grey.png", compress_level=1)
    assert abs(load_image(path).astype(int) - decoded_whole(tmp_path / "grey.png")).mean() < (3 if mode == "1" else 1)


@pytest.mark.parametrize("turn", range(2, 9))
def test_large_photographs_are_turned(turn: int, tmp_path: Path) -> None:
    block = Image.Exif()
    block[0x0112] = turn
    photo(2000, 1501).save(tmp_path / "a.jpg", exif=block)
    with Image.open(tmp_path / "a.jpg") as image:
        ImageOps.exif_transpose(image).save(tmp_path / "b.bmp")
    assert abs(load_image(tmp_path / "a.jpg").astype(int) - decoded_whole(tmp_path / "b.bmp")).max() <= 6


MEASURE = r"""
import re, sys, warnings
from pathlib import Path
from siamese_utils.data.image_files import images_in, load_image
warnings.simplefilter("error")
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
before = peak()
[path] = images_in(Path(sys.argv[1]))
load_image(path)
print(peak() - before)
"""


def megabytes_for(width: int, height: int, folder: Path) -> float:
    """Memory that reading a JPEG takes at its peak, beyond that of the libraries; nothing is said but what is to be."""
    Image.new("RGB", (width, height), "brown").save(folder / "a.jpg")
    (folder / "a.cr2").write_bytes(b"")
    here = {**os.environ, "PYTHONPATH": str(Path(siamese_utils.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", MEASURE, folder], env=here, capture_output=True, text=True, check=True)
    assert done.stderr == f"Passed over 1 file in {folder}: 1 .cr2.\n"
    return float(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are told otherwise")
def test_a_large_photograph_takes_little_memory(tmp_path: Path) -> None:
    assert megabytes_for(8160, 6120, tmp_path) < 50  # decoded whole: 200


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="peaks are told otherwise")
def test_200_megapixels_take_little_memory(tmp_path: Path) -> None:
    assert megabytes_for(16_320, 12_240, tmp_path) < 100


def one_colour_png(side: int) -> bytes:
    """A PNG of one colour, said to have so many pixels a side; its data are for none."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))

    head = struct.pack(">LLBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_too_large_an_image_is_told_its_size_and_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(one_colour_png(25_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match=r"a\.png has 25000 × 25000 pixels, more than 500 million pixels; make it"):
            load_image(tmp_path / "a.png")


def test_an_image_within_a_file_is_held_to_the_limit() -> None:
    inner = one_colour_png(9000)
    content = struct.pack("<3H4B2H2L", 0, 1, 1, 64, 64, 0, 0, 1, 32, len(inner), 22) + inner  # an icon of 64 pixels
    with pytest.raises(ImageError, match=r"^It has more than 50 million pixels; make it smaller"):
        read_image(content, "It", 32, limit=50_000_000)


# -------------------------------------------------------------------------------------------- folders


@contextmanager
def as_nobody() -> Iterator[None]:
    """As a user who may not read everything; the administrator may."""
    if os.name != "posix":
        pytest.skip("permissions are others here")
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, with two classes of one image and one query."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        for number, path in enumerate((folder / "support" / "a", folder / "support" / "b", folder / "queries")):
            path.mkdir(parents=True)
            photo(40 + number, 40).save(path / "0.png")
        yield folder
        for path in folder.rglob("*"):
            path.chmod(0o755)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder("conv3", 8).eval()


@pytest.mark.parametrize("mode", [0o000, 0o444], ids=["closed", "listed"])
@pytest.mark.parametrize("closed", ["support", "support/a", "queries", "support/a/0.png", "queries/0.png"])
def test_what_may_not_be_read_is_named(closed: str, mode: int, open_folder: Path, encoder: Encoder) -> None:
    if closed.endswith(".png") and mode:
        pytest.skip("a file that may be read")
    (open_folder / closed).chmod(mode)
    with as_nobody(), pytest.raises(DataError, match=r"(cannot|may not) be read") as caught:
        classify_folder(encoder, open_folder / "support", open_folder / "queries")
    assert str(open_folder / closed) in str(caught.value)
    within = open_folder / closed / "0.png"
    with as_nobody(), pytest.raises(DataError, match=r"(cannot|may not) be read|There is no image file"):
        classify_folder(encoder, open_folder / "support", within)


def test_a_link_into_a_closed_folder_is_named(open_folder: Path) -> None:
    closed = open_folder / "closed"
    closed.mkdir()
    photo(1, 40).save(closed / "0.png")
    link = open_folder / "queries" / "link.png"
    link.symlink_to(closed / "0.png")
    closed.chmod(0o000)
    with as_nobody(), pytest.raises(DataError, match=rf"{link} leads where one may not look .*; allow it, or remove"):
        images_in(open_folder / "queries")
    closed.chmod(0o755)
    link.unlink()


def test_a_search_goes_on_without_a_closed_folder_if_asked(open_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, mode in (("closed", 0o000), ("lost+found", 0o000)):
        (open_folder / name).mkdir()
        (open_folder / name).chmod(mode)
    with as_nobody():
        with pytest.raises(DataError, match="closed cannot be read"):
            images_below(open_folder)
        found = images_below(open_folder, skip_unreadable=True)
    assert len(found) == 3 and "closed cannot be read" in caplog.text and "lost+found" not in caplog.text


@pytest.mark.parametrize("turn", [1, 3, 6])
def test_an_image_of_pillow_is_read_as_its_file_is(turn: int, tmp_path: Path) -> None:
    """A photograph from a phone, grey of 16 bits, and grey as numbers from 0 to 1."""
    exif = Image.Exif()
    exif[0x0112] = turn
    photo(3, 64).save(tmp_path / "phone.jpg", exif=exif, quality=95)
    ramp = np.linspace(0, 40_000, 64 * 64).reshape(64, 64)
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / "grey.png")
    Image.fromarray((ramp / 40_000).astype(np.float32)).save(tmp_path / "float.tiff")
    for path in sorted(tmp_path.iterdir()):
        with Image.open(path) as image:
            (batch,) = square_batches([image], 32, 1)
        expected = load_image(path, 32).astype(int)
        assert np.abs(batch[0].numpy().astype(int) - expected).max() <= 2, path.name
    whole = (tmp_path / "grey.png").read_bytes()
    cut = Image.open(io.BytesIO(whole[: len(whole) // 2]))
    with pytest.raises(ImageError, match="Image 0 of the list"):
        next(square_batches([cut], 32, 1))


def test_a_flat_folder_is_told_to_make_one_folder_a_class(open_folder: Path, encoder: Encoder) -> None:
    with pytest.raises(SamplingError, match="make one folder a class") as caught:
        classify_folder(encoder, open_folder / "queries", open_folder / "queries")
    assert str(open_folder / "queries") in str(caught.value)


def test_all_unreadable_queries_are_named_at_once_or_left_out(
    open_folder: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    queries = open_folder / "queries"
    for number in range(1, 6):
        photo(40 + number, 40).save(queries / f"{number}.png")
    bad = [queries / "1.png", queries / "4.png"]
    for path in bad:
        path.write_bytes(b"none")
    asked = [queries, queries / "missing.png"]
    with pytest.raises(ImageError, match=r"3 of 7 queries cannot be read") as caught:
        classify_folder(encoder, open_folder / "support", asked)
    assert all(str(path) in str(caught.value) for path in (*bad, asked[1])) and "--skip-unreadable" in str(caught.value)
    table = classify_folder(encoder, open_folder / "support", asked, skip_unreadable=True)
    assert table["query"].tolist() == [str(queries / f"{number}.png") for number in (0, 2, 3, 5)]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("Left out 3 of 7 queries that cannot be read: ") and all(
        str(path) in told for path in (*bad, asked[1])
    )
    alone = classify_folder(encoder, open_folder / "support", queries / "3.png")
    assert table.iloc[2]["similarity"] == pytest.approx(alone.iloc[0]["similarity"], abs=1e-5)
    with pytest.raises(ImageError, match="2 of 2"):
        classify_folder(encoder, open_folder / "support", bad, skip_unreadable=True)


def test_all_unreadable_support_images_are_named_at_once(open_folder: Path, encoder: Encoder) -> None:
    bad = [open_folder / "support" / name / "1.png" for name in "ab"]
    for path in bad:
        path.write_bytes(f"none {path.parent.name}".encode())
    with pytest.raises(ImageError, match="2 of 4 support images") as caught:
        classify_folder(encoder, open_folder / "support", open_folder / "queries")
    assert all(str(path) in str(caught.value) for path in bad) and "--skip-unreadable" in str(caught.value)
    expected = len(classify_folder(encoder, open_folder / "support", open_folder / "queries", skip_unreadable=True))
    assert expected == len(images_in(open_folder / "queries"))
    # What is left stands under its own name: the first file of the first class is damaged, so that all others move up.
    spoilt = next(path for path in sorted((open_folder / "support" / "a").iterdir()) if path not in bad)
    bad[0].unlink()
    (open_folder / "support" / "a" / "0 first.png").write_bytes(b"none at all")
    shutil.copy(spoilt, open_folder / "queries" / "copy.png")
    table = OneShotClassifier(encoder).fit_folder(open_folder / "support", skip_unreadable=True)
    found = table.predict_files(open_folder / "queries" / "copy.png", top=1).iloc[0]
    assert found["in_support"] and found["nearest_1"] == str(spoilt)
    for path in (open_folder / "support" / "a").iterdir():
        path.write_bytes(f"none {path.name}".encode())
    with pytest.raises(SamplingError, match="No image of the class 'a' can be read"):
        classify_folder(encoder, open_folder / "support", open_folder / "queries", skip_unreadable=True)


# ----------------------------------------------------------------------------------------------- fuzz


def test_damaged_and_odd_files_of_every_format(tmp_path: Path) -> None:
    assert len(image_fuzz.kinds()) > 15
    for name, check in image_fuzz.trials(tmp_path, 400):
        try:
            check()
        except Exception as error:
            raise AssertionError(name) from error


@pytest.mark.parametrize("mode", ["RGB", "LA", "I;16"])
def test_a_png_with_a_wrong_bit_is_refused_or_read_as_it_was(mode: str) -> None:
    content = png(image_fuzz.picture(mode, 23, 17))
    whole = read_image(content, "It", 32)
    for position in range(37, len(content)):
        broken = bytearray(content)
        broken[position] ^= 1 << position % 8
        try:
            found = read_image(bytes(broken), "It", 32)
        except ImageError:
            continue
        assert np.array_equal(np.asarray(found), np.asarray(whole)), position


def test_jpeg_2000_is_read_whole_or_not_at_all() -> None:
    if ".jp2" not in image_suffixes():
        pytest.skip("this Pillow has no JPEG 2000")
    buffer = io.BytesIO()
    photo(23, 17).save(buffer, "JPEG2000")
    for length in range(len(buffer.getvalue())):
        with pytest.raises(ImageError):
            read_image(buffer.getvalue()[:length], "It", 32)
    assert read_image(buffer.getvalue() + bytes(9), "It", 32).size == (23, 17)


def test_the_fuzz_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "_orientation_tag", lambda _: 6)
    with pytest.raises(AssertionError, match="other pixels"):
        for _, check in image_fuzz.trials(tmp_path, 400):
            check()


def test_images_that_threads_decode_are_right(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    paths = [tmp_path / f"{number}.png" for number in range(8)]
    for number, path in enumerate(paths):
        photo(40 + number, 40).save(path)
    expected = [load_image(path) for path in paths]
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(a, b) for a, b in zip(pool.map(load_image, paths), expected, strict=True))
    with opened(paths[0], "It") as outer, opened(paths[1], "It") as inner:  # one within the other
        assert outer.size != inner.size


def test_threads_decode_together_and_another_limit_alone(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    path, limit, filters = tmp_path / "0.png", Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    photo(40, 40).save(path)
    together, inside, counts = threading.Barrier(2, timeout=60), [], []

    def usual() -> None:
        with opened(path, "It"):
            together.wait()  # both are here, or this raises

    def other(number: int) -> None:
        with opened(path, "It", limit=1_000 * (2 + number % 2)) if number % 3 else opened(path, "It"):
            inside.append(number)
            counts.append((number % 3 > 0, len(inside), Image.MAX_IMAGE_PIXELS))
            inside.remove(number)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: usual(), range(2)))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(other, range(200)))
    assert all(count == 1 and most in (1_000, 1_500) for alone, count, most in counts if alone)
    assert {most for alone, _, most in counts if not alone} == {image_files.MAX_PIXELS // 2}
    assert limit == Image.MAX_IMAGE_PIXELS and warnings.filters == filters


def test_images_below_a_folder_at_any_depth_and_once(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.png", "a/deep/d.png", "a/.hidden/e.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "back").symlink_to(tmp_path, target_is_directory=True)
    found = [path.relative_to(tmp_path).as_posix() for path in images_below(tmp_path)]
    assert found == ["b.png", "a/c.png", "a/deep/d.png"]
