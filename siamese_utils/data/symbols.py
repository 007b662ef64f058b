"""Hand-drawn symbols: MNIST, Omniglot and drawings, all brought to one canonical form.

A network that learned from thin pen strokes on 105 x 105 pixels takes a thick line on a canvas for something new,
though a person sees the same letter. So every symbol is redrawn: its strokes are thinned to their middle line, scaled
to one size, and drawn again with a pen of one width.

The data are looked for as ``MNIST/raw/`` and ``omniglot/*.zip`` (where, says ``siamese_utils.data.sources``), and are
downloaded otherwise: 12 MB and 3 MB. The redrawn sets are cached.

Data: Y. LeCun, C. Cortes, C. Burges, *The MNIST database of handwritten digits*, 1998; B. Lake, R. Salakhutdinov,
J. Tenenbaum, *Human-level concept learning through probabilistic program induction*, Science 350, 2015 (Omniglot,
https://github.com/brendenlake/omniglot).
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from joblib import Parallel, delayed
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy.spatial import cKDTree
from skimage.morphology import skeletonize

from siamese_utils.data import sources
from siamese_utils.data.image_files import opened
from siamese_utils.data.images import PARTS, ImageSet, Part, check_part
from siamese_utils.errors import DataError, SamplingError, ShapeError

SIDE = 28  # pixels of a canonical symbol, as in MNIST
# MNIST's own box has 20 pixels and its median stroke 2.4, too coarse for a Balinese letter: its loops fill with ink.
BOX = 24  # pixels; the ink's longer side
STROKE_WIDTH = 1.5  # pixels
_FINEST, _COARSEST = 96, 48  # longer side in cells at which strokes are thinned


# --- the canonical form ---------------------------------------------------------------------------


def canonical_symbol(ink: NDArray[Any]) -> NDArray[np.uint8]:
    """Redraw a symbol in the size, place and stroke width that all symbols share.

    What is brighter than half of the brightest pixel counts as ink. It is thinned to its middle line (Zhang and Suen,
    *A fast parallel algorithm for thinning digital patterns*, 1984), scaled so that the redrawn ink's longer side is 24
    pixels, drawn with a round pen 1.5 pixels wide, and moved so that its centre of mass lies in the middle, as far as
    the frame allows. So neither pen width nor place nor size of a drawing changes the result by much; a filled
    area is reduced to its middle line.

    Args:
        ink: (H, W), bright ink on dark ground, of any size; booleans, whole or floating-point numbers, zero or more.

    Returns:
        uint8 (28, 28), bright ink on dark ground, antialiased.

    Raises:
        DataError: there is no ink.
        ShapeError: not a table of finite numbers of zero or more.
    """
    line = _middle_line(_ink_mask(ink))
    low, high = line.min(axis=0), line.max(axis=0)
    scale = (BOX - STROKE_WIDTH) / max(float((high - low).max()), 1e-9)
    line = (line - (low + high) / 2) * scale
    drawn = _draw(line)
    # As in MNIST: the middle of the mass, not of the box, as far as the frame allows.
    mass = drawn.sum()
    centre = [(drawn * middle).sum() / mass for middle in (_MIDDLES[:, None], _MIDDLES[None, :])]
    room = SIDE / 2 - (np.abs(line).max(axis=0) + STROKE_WIDTH / 2)
    return np.rint(255 * _draw(line - np.clip(centre, -room, room))).astype(np.uint8)


def symbol_images(symbols: NDArray[np.uint8]) -> torch.Tensor:
    """Symbols (N, H, W) as the colour images an encoder takes: uint8 (N, H, W, 3), all three channels alike."""
    return torch.from_numpy(np.repeat(symbols[..., None], 3, axis=-1))


def _ink_mask(ink: NDArray[Any]) -> NDArray[np.bool_]:
    """The ink, cropped to its bounding box and brought to a size at which thinning is quick and exact enough."""
    ink = np.asarray(ink)
    if ink.ndim != 2 or ink.size == 0 or ink.dtype.kind not in "buif":
        raise ShapeError(f"A symbol is a grey image (H, W) of numbers, not {ink.dtype} {ink.shape}; turn it to grey.")
    brightest = float(ink.max())
    if not (np.isfinite(brightest) and float(ink.min()) >= 0):
        raise ShapeError("A symbol's brightness must be finite and zero or more; show ink bright on a ground of zero.")
    if brightest == 0:
        raise DataError("There is no ink in this image; draw a symbol first, bright on a dark ground.")
    mask = ink > brightest / 2
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    mask = mask[box]
    longer = max(mask.shape)
    if longer > _FINEST:  # a cell is ink if any of its pixels is, so that no thin line is lost
        step = -(-longer // _FINEST)
        cells = [-(-side // step) for side in mask.shape]
        padded = np.pad(mask, [(0, count * step - side) for count, side in zip(cells, mask.shape)])
        return padded.reshape(cells[0], step, cells[1], step).any(axis=(1, 3))
    if longer < _COARSEST:  # the grey of the edges says where between two pixels a stroke ends
        grey = np.pad(ink[box].astype(np.float32) / brightest, 2)
        step = max(1, 64 // longer)
        height, width = grey.shape
        return np.asarray(Image.fromarray(grey).resize((width * step, height * step), Image.Resampling.BICUBIC)) > 0.5
    return mask


def _middle_line(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Points (P, 2), row and column, of the middle line of the strokes."""
    return np.argwhere(skeletonize(np.pad(mask, 1))).astype(np.float64)


_MIDDLES = np.arange(SIDE) - (SIDE - 1) / 2  # of the pixels, counted from the middle of the frame
_GRID = np.stack(np.meshgrid(_MIDDLES, _MIDDLES, indexing="ij"), axis=-1).reshape(-1, 2)


def _draw(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ink (28, 28) in [0, 1] of a round pen that dwells on points close to each other, (P, 2) from the middle."""
    reach = STROKE_WIDTH / 2 + 0.5  # a pixel is grey where the pen's edge runs through it
    distance, _ = cKDTree(line).query(_GRID, distance_upper_bound=reach)
    return np.clip(reach - distance, 0, 1).reshape(SIDE, SIDE)


# --- MNIST ----------------------------------------------------------------------------------------


_MNIST_FILES = {
    part: (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    for part, prefix in (("train", "train"), ("test", "t10k"))
}
# BLAKE2b of the images and labels of each part, and md5 of each archive.
_MNIST_CHECKSUM = {"train": "59e50090e5e0f04f663b7c6aaeef52d7", "test": "2143997eefd131325cb280268637e9f4"}
_OMNIGLOT_MD5 = {
    "images_background_small1.zip": "e704a628b5459e08445c13499850abc4",
    "images_background_small2.zip": "b75a71a51d3b13f821f212756fe481fd",
    "all_runs.zip": "e8996daecdf12afeeb4a53a179f06b19",
}
_BACKGROUND = ("images_background_small1.zip", "images_background_small2.zip")
_RUNS = "all_runs.zip"
_OMNIGLOT_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
_FORM_VERSION = 1  # of canonical_symbol: raise it with every change of what it draws, or old caches live on


def load_mnist(
    part: Part, *, canonical: bool = True, root: Path | str | None = None, download: bool = True
) -> ImageSet:
    """Load one part of MNIST: 60,000 training or 10,000 test images of the ten digits.

    Args:
        part: ``"train"`` or ``"test"``.
        canonical: redraw every digit with :func:`canonical_symbol` (some two minutes the first time, then cached).
        root: the only folder to look in (and to download to) instead of the usual ones.
        download: whether torchvision may download the data when no folder has them.

    Returns:
        The part, images uint8 (N, 28, 28, 3) with three equal channels, in the order of the original files.

    Raises:
        DataError: no copy can be reached, or the copy is damaged or incomplete; the sentence says what to do.
        UnknownNameError: ``part`` is neither of the two.
    """
    check_part(part)
    names = _MNIST_FILES[part]

    def holds(folder: Path) -> bool:  # one part may lie where the other does not
        return any((folder / "MNIST" / "raw" / name).exists() for name in names)

    found = sources.find(holds, root)
    folder, label = found or sources.fetch(f"MNIST's {part} part", _download_mnist, root, download)
    images, labels = _read_mnist(folder / "MNIST", part)
    images = redrawn(images, f"mnist-{part}") if canonical else images
    digits = tuple("0123456789")
    return ImageSet(
        symbol_images(images), torch.from_numpy(labels), digits, ("digits",), (0,) * 10, "mnist", part, f"{label}/MNIST"
    )


def _read_mnist(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    # torchvision's data set asks for the files of both parts, though it reads those of one.
    from torchvision.datasets.mnist import read_image_file, read_label_file

    files = [folder / "raw" / name for name in _MNIST_FILES[part]]
    for file in files:
        if not file.exists():
            raise DataError(f"{file} is missing: delete {folder} and start again to download it.")
    try:
        images = np.ascontiguousarray(read_image_file(str(files[0])))
        labels = np.ascontiguousarray(read_label_file(str(files[1])), dtype=np.int64)
    except Exception as error:  # torchvision raises errors of many types for damaged files
        raise _damaged(folder) from error
    if sources.checksum(images, labels) != _MNIST_CHECKSUM[part]:
        raise _damaged(folder)
    return images, labels


def _download_mnist(folder: Path) -> None:
    from torchvision.datasets import MNIST

    MNIST(folder, download=True)


# --- Omniglot -------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class OneShotRun:
    """One of Omniglot's official tests: twenty characters of one alphabet, an example and a query of each.

    Attributes:
        support: uint8 (20, 28, 28, 3), one example a character, by one person.
        query: uint8 (20, 28, 28, 3), by another person.
        true: int64 (20,), for every query the position in ``support`` of the same character.
    """

    support: torch.Tensor
    query: torch.Tensor
    true: torch.Tensor


def load_omniglot_background(
    *, canonical: bool = True, root: Path | str | None = None, download: bool = True
) -> ImageSet:
    """Load the characters of Omniglot's two small background sets: classes are characters, superclasses alphabets.

    Each of the two sets of five alphabets has Greek and Latin, with the same drawings; they count once, so there are
    eight alphabets, 242 characters and 4,840 drawings, by twenty people each.

    Args:
        canonical: redraw every character with :func:`canonical_symbol`; otherwise ink is bright on 105 x 105 pixels.
        root, download: as for :func:`load_mnist`.

    Returns:
        The set, images uint8 (N, 28, 28, 3), sorted by alphabet, character and file name.

    Raises:
        DataError: no copy can be reached, or the copy is damaged.
    """
    folder, label = _omniglot(_BACKGROUND, root, download)
    drawings: dict[str, NDArray[np.uint8]] = {}
    for archive in _BACKGROUND:
        pattern = rf"{archive.removesuffix('.zip')}/([^/]+/character\d+/\d+_\d+\.png)"
        for name, ink in _read_archive(folder / archive, pattern).items():
            if not np.array_equal(drawings.setdefault(name, ink), ink):
                raise _damaged(folder / archive)
    names = sorted(drawings)
    characters = sorted({name.rsplit("/", 1)[0] for name in names})
    alphabets = sorted({character.split("/")[0] for character in characters})
    images = np.stack([drawings[name] for name in names])
    labels = [characters.index(name.rsplit("/", 1)[0]) for name in names]
    return ImageSet(
        symbol_images(redrawn(images, "omniglot") if canonical else images),
        torch.tensor(labels),
        tuple(characters),
        tuple(alphabets),
        tuple(alphabets.index(character.split("/")[0]) for character in characters),
        "omniglot",
        "train",
        f"{label}/omniglot",
    )


def load_omniglot_runs(*, root: Path | str | None = None, download: bool = True) -> tuple[OneShotRun, ...]:
    """Load the twenty official one-shot runs of Omniglot, redrawn: 400 trials in ten alphabets of their own.

    They are the test. Nothing may be learned or chosen by looking at them; only the study's evaluation calls this.

    Raises:
        DataError: no copy can be reached, or the copy is damaged.
    """
    folder, _ = _omniglot((_RUNS,), root, download)
    archive = folder / _RUNS
    drawings = _read_archive(archive, r"(run\d\d/(?:training|test)/\w+\.png)")
    runs = []
    for number in range(1, 21):
        pairs = _read_key(archive, f"run{number:02d}/class_labels.txt")
        support = sorted(name for _, name in pairs)
        try:
            inks = [drawings[name] for name in [*support, *(query for query, _ in pairs)]]
        except KeyError as error:
            raise _damaged(archive) from error
        images = symbol_images(_redraw_all(inks))
        true = torch.tensor([support.index(name) for _, name in pairs])
        runs.append(OneShotRun(images[: len(support)], images[len(support) :], true))
    return tuple(runs)


def _omniglot(archives: Sequence[str], root: Path | str | None, download: bool) -> tuple[Path, str]:
    """The folder of some of Omniglot's archives, each of them whole, and its parent's name for people."""
    from torchvision.datasets.utils import check_integrity

    def holds(folder: Path) -> bool:
        return any((folder / "omniglot" / archive).exists() for archive in archives)

    folder, label = sources.find(holds, root) or sources.fetch("Omniglot", _download_omniglot, root, download)
    for archive in archives:
        if not check_integrity(folder / "omniglot" / archive, _OMNIGLOT_MD5[archive]):
            raise _damaged(folder / "omniglot" / archive)
    return folder / "omniglot", label


def _download_omniglot(folder: Path) -> None:
    from torchvision.datasets.utils import download_url

    for archive, md5 in _OMNIGLOT_MD5.items():
        place = f"one-shot-classification/{archive}" if archive == _RUNS else archive
        download_url(f"{_OMNIGLOT_URL}/{place}", folder / "omniglot", archive, md5)


_LARGEST_MEMBER = 100_000  # bytes; a drawing has some 300


def _read_archive(archive: Path, pattern: str) -> dict[str, NDArray[np.uint8]]:
    """Drawings (105, 105), ink 255 on 0, by what the pattern's group holds of their name; nothing is unpacked."""
    drawings = {}
    try:
        with zipfile.ZipFile(archive) as members:
            for member in members.infolist():
                match = re.fullmatch(pattern, member.filename)
                if match and member.file_size <= _LARGEST_MEMBER:
                    with opened(members.read(member), member.filename, formats=("PNG",)) as image:
                        drawings[match[1]] = np.where(np.asarray(image.convert("L")) < 128, 255, 0).astype(np.uint8)
    except Exception as error:  # zipfile and Pillow raise errors of many types for damaged files
        raise _damaged(archive) from error
    if not drawings:
        raise _damaged(archive)
    return drawings


def _read_key(archive: Path, name: str) -> list[tuple[str, str]]:
    """Lines of ``query support``: which drawings of a run show the same character."""
    try:
        with zipfile.ZipFile(archive) as members:
            lines = members.read(name).decode("ascii").split("\n")
        pairs = [(query, support) for query, support in (line.split() for line in lines if line.strip())]
    except Exception as error:
        raise _damaged(archive) from error
    if not pairs or len({query for query, _ in pairs}) < len(pairs) or len({name for _, name in pairs}) < len(pairs):
        raise _damaged(archive)
    return pairs


# --- keeping --------------------------------------------------------------------------------------


def _damaged(path: Path) -> DataError:
    return DataError(f"{path} is damaged, incomplete or not the original: delete it and start again to download it.")


def _redraw_all(inks: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    return np.stack([canonical_symbol(ink) for ink in inks])


def redrawn(inks: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
    """All symbols redrawn, (N, 28, 28): from the cache, or on all processors."""
    form = f"{_FORM_VERSION} {SIDE} {BOX} {STROKE_WIDTH} {sources.checksum(inks)}"

    def redraw() -> dict[str, torch.Tensor]:
        chunks = [inks[begin : begin + 500] for begin in range(0, len(inks), 500)]
        drawn = Parallel(n_jobs=-1 if len(chunks) > 1 else 1)(delayed(_redraw_all)(chunk) for chunk in chunks)
        return {"images": torch.from_numpy(np.concatenate(drawn))}

    return sources.cached(f"symbols-{name}", form, redraw)["images"].numpy()


# --- synthetic symbols ----------------------------------------------------------------------------


def synthetic_symbols(classes: int, per_class: int, seed: int = 0, part: Part = "train") -> ImageSet:
    """Draw a set of made-up symbols, for tests and for machines without data.

    A class is two to four strokes between random points; every example moves the points and the pen a little.

    Args:
        classes: number of symbols.
        per_class: drawings of each.
        seed: decides the symbols; with ``part`` it decides the drawings.
        part: ``"train"`` and ``"test"`` give other drawings of the same symbols.

    Returns:
        The set, images uint8 (classes x per_class, 28, 28, 3), sorted by class, named ``"synthetic"``.

    Raises:
        SamplingError: there would be no image.
    """
    if classes < 1 or per_class < 1:
        raise SamplingError("Synthetic symbols need at least one class and one drawing of each.")
    shapes, hand = np.random.default_rng(seed), np.random.default_rng([seed, PARTS.index(part)])
    symbols = []
    for _ in range(classes):
        strokes = [shapes.uniform(0, 80, (shapes.integers(2, 5), 2)) for _ in range(shapes.integers(2, 4))]
        for _ in range(per_class):
            paper = Image.new("L", (120, 120))
            pen, width = ImageDraw.Draw(paper), int(hand.integers(2, 7))
            for stroke in strokes:
                points = stroke + 20 + hand.normal(0, 3, stroke.shape)
                pen.line([(float(x), float(y)) for x, y in points], fill=255, width=width, joint="curve")
            symbols.append(canonical_symbol(np.asarray(paper)))
    names = tuple(f"symbol{number:03d}" for number in range(classes))
    labels = torch.arange(classes).repeat_interleave(per_class)
    images = symbol_images(np.stack(symbols))
    return ImageSet(images, labels, names, ("symbols",), (0,) * classes, "synthetic", part, "drawn on the spot")
