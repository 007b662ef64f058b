"""The canonical form against drawings that must not change it, and the readers against small copies of the data."""

from __future__ import annotations

import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from siamese_utils.data import sources, symbols
from siamese_utils.data.cifar import find_cifar100
from siamese_utils.data.sources import MissingDataError, search_folders
from siamese_utils.data.symbols import (
    SIDE,
    STROKE_WIDTH,
    canonical_symbol,
    load_mnist,
    load_omniglot_background,
    load_omniglot_runs,
    symbol_images,
    synthetic_symbols,
)
from siamese_utils.errors import DataError, SamplingError, ShapeError, UnknownNameError

SHAPES = {
    "zigzag": [(0.0, 0.0), (1.0, 0.1), (0.25, 0.75), (1.0, 1.0)],
    "hook": [(0.0, 0.0), (0.0, 1.0), (0.5, 0.5)],
    "bar": [(0.0, 0.0), (0.1, 1.0)],
    "spiral": [(0.5 + t * np.cos(9 * t) / 2, 0.5 + t * np.sin(9 * t) / 2) for t in np.linspace(0.15, 1, 60)],
}


def draw(shape: str, size: float = 200, width: int = 8, left: float = 60, top: float = 60) -> np.ndarray:
    """A canvas with round-capped strokes of a pen ``width`` pixels wide, antialiased by drawing it larger."""
    side = 400
    paper = Image.new("L", (4 * side, 4 * side))
    pen = ImageDraw.Draw(paper)
    points = [(4 * (left + size * x), 4 * (top + size * y)) for x, y in SHAPES[shape]]
    pen.line(points, fill=255, width=4 * width, joint="curve")
    for x, y in points:
        pen.ellipse((x - 2 * width, y - 2 * width, x + 2 * width, y + 2 * width), fill=255)
    return np.asarray(paper.resize((side, side), Image.Resampling.BOX))


def alike(one: np.ndarray, other: np.ndarray) -> float:
    """Correlation of two symbols seen slightly out of focus: a pixel's shift counts little, another shape much."""
    blurred = [gaussian_filter(image.astype(np.float64), 1.0).ravel() for image in (one, other)]
    return float(np.corrcoef(*blurred)[0, 1])


# --- the canonical form ---------------------------------------------------------------------------


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_form(shape: str) -> None:
    symbol = canonical_symbol(draw(shape))
    assert symbol.shape == (SIDE, SIDE) and symbol.dtype == np.uint8 and symbol.max() == 255
    rows, columns = np.nonzero(symbol > 127)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(symbols.BOX, abs=1)
    grid = np.arange(SIDE) - (SIDE - 1) / 2
    room = (SIDE - symbols.BOX) / 2
    centre = [(symbol.sum(axis=axis) * grid).sum() / symbol.sum() for axis in (1, 0)]
    # In the middle, unless the frame ends first.
    assert np.abs(centre).max() < 0.3 or min(rows.min(), columns.min(), 27 - rows.max(), 27 - columns.max()) <= 1
    assert np.abs(centre).max() < room + 4


def test_stroke_has_its_width() -> None:
    symbol = canonical_symbol(draw("bar", width=30))
    ink_per_row = symbol[8:20].sum(axis=1) / 255
    assert ink_per_row.mean() == pytest.approx(STROKE_WIDTH * np.hypot(1, 0.1), abs=0.1)
    assert np.ptp(ink_per_row) < 0.5


@given(
    shape=st.sampled_from(sorted(SHAPES)),
    width=st.integers(2, 24),
    size=st.floats(120, 250),
    left=st.floats(30, 110),
    top=st.floats(30, 110),
)
@settings(max_examples=30, deadline=None)
def test_pen_place_and_size_hardly_matter(shape: str, width: int, size: float, left: float, top: float) -> None:
    symbol, reference = canonical_symbol(draw(shape, size, width, left, top)), canonical_symbol(draw(shape))
    likeness = alike(symbol, reference)
    assert likeness > 0.85
    others = [alike(symbol, canonical_symbol(draw(other))) for other in SHAPES if other != shape]
    assert likeness > max(others) + 0.2


@pytest.mark.parametrize("side", [28, 60, 105, 1000])
def test_any_resolution(side: int) -> None:
    small = np.asarray(Image.fromarray(draw("hook", width=20)).resize((side, side), Image.Resampling.LANCZOS))
    assert alike(canonical_symbol(small), canonical_symbol(draw("hook"))) > 0.85


def test_brightness_and_type_do_not_matter() -> None:
    ink = draw("zigzag")
    expected = canonical_symbol(ink)
    for other in (ink / 255.0, ink.astype(np.int64) * 7, np.ascontiguousarray(ink[::-1])[::-1], ink.astype(np.float32)):
        np.testing.assert_array_equal(canonical_symbol(other), expected)
    assert alike(canonical_symbol(ink > 127), expected) > 0.98


def test_thin_lines_survive_on_large_paper() -> None:
    paper = np.zeros((1500, 1500), dtype=bool)
    paper[200:1300, 300] = paper[1299, 300:1200] = True
    symbol = canonical_symbol(paper)
    _, parts = label(symbol > 100, structure=np.ones((3, 3)))
    assert parts == 1


def test_a_point_and_a_disc_are_points() -> None:
    point = np.zeros((50, 50))
    point[30, 7] = 1
    yy, xx = np.mgrid[:101, :101]
    disc = np.hypot(yy - 50, xx - 50) < 40
    for ink in (point, disc):
        rows, columns = np.nonzero(canonical_symbol(ink))
        assert max(np.ptp(rows), np.ptp(columns)) <= symbols.BOX


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_any_ink_gives_a_symbol(height: int, width: int, seed: int) -> None:
    ink = np.random.default_rng(seed).random((height, width)) ** 4
    symbol = canonical_symbol(ink)
    assert symbol.shape == (SIDE, SIDE) and symbol.max() > 0


def test_drawing_agrees_with_distances() -> None:
    """A slow second opinion: the distance to a line, measured on a grid sixteen times finer."""
    points = np.stack([np.linspace(-6, 6, 200), np.linspace(-3, 5, 200)], axis=1)
    fine = 16
    grid = np.ones((SIDE * fine, SIDE * fine), dtype=bool)
    cells = np.rint((points + SIDE / 2) * fine - 0.5).astype(int)
    grid[cells[:, 0], cells[:, 1]] = False
    distance = distance_transform_edt(grid) / fine
    middle = distance[fine // 2 :: fine, fine // 2 :: fine]
    expected = np.clip(STROKE_WIDTH / 2 + 0.5 - middle, 0, 1)
    np.testing.assert_allclose(symbols._draw(points), expected, atol=0.08)


@pytest.mark.parametrize(
    "ink, error",
    [
        (np.zeros((20, 20)), DataError),
        (np.zeros((20, 20), dtype=bool), DataError),
        (np.zeros((0, 5)), ShapeError),
        (np.ones((20, 20, 3)), ShapeError),
        (np.ones(20), ShapeError),
        (np.full((5, 5), np.nan), ShapeError),
        (np.full((5, 5), np.inf), ShapeError),
        (np.full((5, 5), -1.0), ShapeError),
        (np.full((5, 5), "x"), ShapeError),
        (np.full((5, 5), 1j), ShapeError),
    ],
)
def test_bad_ink(ink: np.ndarray, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"[.;]"):
        canonical_symbol(ink)


def test_quick_enough_to_be_live() -> None:
    ink = draw("spiral", width=30)
    canonical_symbol(ink)
    start = time.process_time()
    for _ in range(10):
        canonical_symbol(ink)
    assert (time.process_time() - start) / 10 < 0.02  # 2 ms when nothing else runs


# --- readers --------------------------------------------------------------------------------------


def png(ink: np.ndarray) -> bytes:
    """A character as in Omniglot: one bit, black ink on white."""
    buffer = io.BytesIO()
    Image.fromarray(~ink).save(buffer, format="PNG")
    return buffer.getvalue()


def character(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    paper = Image.new("1", (105, 105))
    ImageDraw.Draw(paper).line([tuple(map(float, p)) for p in rng.uniform(20, 80, (4, 2))], fill=1, width=3)
    return np.asarray(paper)


@pytest.fixture
def omniglot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two alphabets in each archive, one of them in both; two characters each by three people; runs of three."""
    folder = tmp_path / "data" / "omniglot"
    folder.mkdir(parents=True)
    for archive, alphabets in (
        ("images_background_small1", ("Greek", "Balinese")),
        ("images_background_small2", ("Tagalog", "Greek")),
    ):
        with zipfile.ZipFile(folder / f"{archive}.zip", "w") as out:
            out.writestr(f"{archive}/../../escaped.png", b"never unpacked")
            for alphabet in alphabets:
                for number in (1, 2):
                    for person in (1, 2, 3):
                        name = f"{archive}/{alphabet}/character{number:02d}/{number:04d}_{person:02d}.png"
                        out.writestr(name, png(character(1000 * len(alphabet) + 10 * number + person)))
    with zipfile.ZipFile(folder / "all_runs.zip", "w") as out:
        for run in range(1, 21):
            base = f"run{run:02d}"
            lines = []
            for i in range(3):
                out.writestr(f"{base}/training/class{i + 1:02d}.png", png(character(90_000 + 10 * run + i)))
                out.writestr(f"{base}/test/item{i + 1:02d}.png", png(character(90_000 + 10 * run + (i + run) % 3)))
                lines.append(f"{base}/test/item{i + 1:02d}.png {base}/training/class{(i + run) % 3 + 1:02d}.png")
            out.writestr(f"{base}/class_labels.txt", "\n".join(lines) + "\n")
    monkeypatch.setenv("SIAMESE_CACHE", str(tmp_path / "cache"))
    accept_archives(folder, monkeypatch)
    return folder


def accept_archives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the archives as they are now for the originals."""
    from torchvision.datasets.utils import calculate_md5

    sums = {name: calculate_md5(folder / name) for name in symbols._OMNIGLOT_MD5}
    monkeypatch.setattr(symbols, "_OMNIGLOT_MD5", sums)


def test_background_counts_an_alphabet_of_both_archives_once(omniglot: Path) -> None:
    images = load_omniglot_background(root=omniglot.parent)
    assert images.superclass_names == ("Balinese", "Greek", "Tagalog")
    assert images.class_names[2:4] == ("Greek/character01", "Greek/character02")
    assert images.superclass_of == (0, 0, 1, 1, 2, 2)
    assert images.labels.tolist() == sorted(list(range(6)) * 3)
    expected = canonical_symbol(character(1000 * len("Tagalog") + 10 * 2 + 3))
    np.testing.assert_array_equal(images.images[-1].numpy(), np.repeat(expected[..., None], 3, axis=-1))
    raw = load_omniglot_background(root=omniglot.parent, canonical=False)
    np.testing.assert_array_equal(raw.images[0, ..., 0].numpy(), 255 * character(1000 * len("Balinese") + 11))
    assert not list(omniglot.parent.parent.rglob("escaped*"))


def test_runs_keep_their_key(omniglot: Path) -> None:
    runs = load_omniglot_runs(root=omniglot.parent)
    assert len(runs) == 20
    for number, run in enumerate(runs, start=1):
        assert run.support.shape == run.query.shape == (3, SIDE, SIDE, 3)
        assert run.true.tolist() == [(i + number) % 3 for i in range(3)]
        assert torch.equal(run.query, run.support[run.true])  # the fixture's queries are copies


def test_cache_is_used_for_one_form(omniglot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_omniglot_background(root=omniglot.parent)
    monkeypatch.setattr(symbols, "_redraw_all", None)  # whoever draws anew fails
    assert torch.equal(load_omniglot_background(root=omniglot.parent).images, first.images)
    monkeypatch.undo()
    monkeypatch.setenv("SIAMESE_CACHE", str(tmp_path / "cache"))
    accept_archives(omniglot, monkeypatch)
    monkeypatch.setattr(symbols, "STROKE_WIDTH", 4.0)  # another form must not find the old one
    assert not torch.equal(load_omniglot_background(root=omniglot.parent).images, first.images)


def test_damaged_archives_are_refused(omniglot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = omniglot / "images_background_small1.zip"
    whole = path.read_bytes()
    path.write_bytes(whole[:-50])
    with pytest.raises(DataError, match="damaged"):
        load_omniglot_background(root=omniglot.parent)
    accept_archives(omniglot, monkeypatch)  # even if the sum fitted
    with pytest.raises(DataError, match="damaged"):
        load_omniglot_background(root=omniglot.parent)
    path.unlink()
    with pytest.raises(DataError, match="delete it"):
        load_omniglot_background(root=omniglot.parent)


@pytest.mark.parametrize("key", [b"", b"a b c\n", b"\xff\xfe", b"run01/test/item01.png run01/training/nothing.png\n"])
def test_damaged_keys_are_refused(omniglot: Path, monkeypatch: pytest.MonkeyPatch, key: bytes) -> None:
    with zipfile.ZipFile(omniglot / "all_runs.zip") as old:
        members = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(omniglot / "all_runs.zip", "w") as new:
        for name, content in members.items():
            new.writestr(name, key if name == "run01/class_labels.txt" else content)
    accept_archives(omniglot, monkeypatch)
    with pytest.raises(DataError, match="damaged"):
        load_omniglot_runs(root=omniglot.parent)


@pytest.fixture
def mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Thirty digits in MNIST's own format."""
    rng = np.random.default_rng(0)
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    sums = {}
    for part, prefix in (("train", "train"), ("test", "t10k")):
        images = np.where(rng.random((30, 28, 28)) < 0.1, 255, 0).astype(np.uint8)
        labels = rng.integers(0, 10, 30).astype(np.uint8)
        header = np.array([0x00000803, 30, 28, 28], dtype=">i4").tobytes()
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(
            np.array([0x00000801, 30], dtype=">i4").tobytes() + labels.tobytes()
        )
        sums[part] = sources.checksum(images, labels.astype(np.int64))
    monkeypatch.setenv("SIAMESE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(symbols, "_MNIST_CHECKSUM", sums)
    return tmp_path / "data"


def test_mnist(mnist: Path) -> None:
    train, test = load_mnist("train", root=mnist), load_mnist("test", root=mnist, canonical=False)
    assert train.class_names == tuple("0123456789") and len(train) == len(test) == 30
    raw = load_mnist("train", root=mnist, canonical=False)
    np.testing.assert_array_equal(train.images[3, ..., 1].numpy(), canonical_symbol(raw.images[3, ..., 0].numpy()))
    assert torch.equal(raw.images[..., 0], raw.images[..., 2]) and not torch.equal(raw.images, test.images)


def test_mnist_damaged_or_unknown(mnist: Path) -> None:
    with pytest.raises(UnknownNameError):
        load_mnist("validation", root=mnist)  # type: ignore[arg-type]
    path = mnist / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content = bytearray(path.read_bytes())
    content[100] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match="delete it"):
        load_mnist("train", root=mnist)
    path.write_bytes(content[:50])
    with pytest.raises(DataError, match="delete it"):
        load_mnist("train", root=mnist)


def test_a_part_of_mnist_needs_no_other(mnist: Path, tmp_path: Path) -> None:
    raw = mnist / "MNIST" / "raw"
    for path in raw.glob("train-*"):
        path.unlink()
    assert len(load_mnist("test", root=mnist, canonical=False)) == 30
    with pytest.raises(MissingDataError, match=r"MNIST's train part is not in"):
        load_mnist("train", root=mnist, canonical=False)
    (raw / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte is missing: delete"):
        load_mnist("test", root=mnist, canonical=False)


def test_the_runs_need_no_background(omniglot: Path) -> None:
    (omniglot / "images_background_small1.zip").unlink()
    assert len(load_omniglot_runs(root=omniglot.parent, download=False)) == 20
    with pytest.raises(DataError, match=r"images_background_small1\.zip is damaged, incomplete"):
        load_omniglot_background(root=omniglot.parent, download=False)


@pytest.mark.parametrize(
    "load",
    [
        lambda root: load_mnist("train", root=root, download=False),
        lambda root: load_omniglot_runs(root=root, download=False),
    ],
)
def test_missing_data(tmp_path: Path, load: object) -> None:
    with pytest.raises(DataError, match="SIAMESE_DATA"):
        load(tmp_path)  # type: ignore[operator]


def test_omniglot_is_downloaded(tmp_path: Path, omniglot: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import utils

    asked = []

    def fetch(url: str, root: Path, filename: str, md5: str) -> None:
        asked.append(url)
        root.mkdir(exist_ok=True)
        (root / filename).write_bytes((omniglot / filename).read_bytes())

    monkeypatch.setattr(utils, "download_url", fetch)
    monkeypatch.delenv("SIAMESE_OFFLINE", raising=False)
    assert len(load_omniglot_runs(root=tmp_path / "new")) == 20
    assert asked[-1].endswith("/python/one-shot-classification/all_runs.zip")


# --- synthetic symbols ----------------------------------------------------------------------------


def test_synthetic_symbols() -> None:
    train, test = synthetic_symbols(4, 5), synthetic_symbols(4, 5, part="test")
    assert train.is_synthetic and train.labels.tolist() == sorted([0, 1, 2, 3] * 5)
    assert torch.equal(train.images, synthetic_symbols(4, 5).images)
    assert not torch.equal(train.images, test.images)
    means = torch.stack([s.images.float().view(4, 5, -1).mean(1) for s in (train, test)])
    nearest = torch.cdist(means[0], means[1]).argmin(dim=1)
    assert nearest.tolist() == [0, 1, 2, 3]  # both parts show the same symbols
    with pytest.raises(SamplingError):
        synthetic_symbols(0, 5)


def test_as_images() -> None:
    images = symbol_images(np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28))
    assert images.shape == (2, 28, 28, 3) and images.is_contiguous()


# --- the real data --------------------------------------------------------------------------------

HAS_OMNIGLOT = any((folder / "omniglot" / "all_runs.zip").is_file() for folder, _ in search_folders())


@pytest.mark.real_data
@pytest.mark.usefixtures("users_cache")
@pytest.mark.skipif(not HAS_OMNIGLOT or find_cifar100() is None, reason="needs Omniglot")
def test_no_image_of_the_runs_is_in_the_background_set() -> None:
    background = load_omniglot_background()
    assert (len(background), background.num_classes, len(background.superclass_names)) == (4_840, 242, 8)
    assert torch.bincount(background.labels).tolist() == [20] * 242
    some = load_omniglot_background(canonical=False).images[::700, ..., 0].numpy()  # is the cache today's form?
    assert np.array_equal(np.stack([canonical_symbol(ink) for ink in some]), background.images[::700, ..., 0])
    runs = load_omniglot_runs()
    assert [len(run.true) for run in runs] == [20] * 20
    assert all(sorted(run.true.tolist()) == list(range(20)) for run in runs)
    learned = {image.numpy().tobytes() for image in background.images}
    tested = {image.numpy().tobytes() for run in runs for image in torch.cat([run.support, run.query])}
    assert len(tested) == 800 and not learned & tested
