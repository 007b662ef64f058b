"""Figures on disk and the small drawing helpers."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from siamese_utils.errors import ConfigError
from siamese_utils.experiments.plotting import (
    PALETTE,
    SEED,
    SEEN,
    UNSEEN,
    image_grid,
    save_figure,
    set_style,
    show_images,
)

ALT = "A line that rises from one to three,\n   as a figure for a test."


@pytest.fixture(autouse=True)
def style() -> None:
    set_style()


def make_figure() -> plt.Figure:
    figure, axis = plt.subplots(figsize=(3, 2))
    axis.plot([1, 2, 3])
    axis.set(title="A title", xlabel="time (s)")
    return figure


def test_figure_is_saved_as_svg_png_and_text(tmp_path: Path) -> None:
    figure = make_figure()
    shown = save_figure(figure, "line", ALT, tmp_path / "new")
    files = sorted(entry.name for entry in (tmp_path / "new").iterdir())
    assert files == ["line.alt.txt", "line.png", "line.svg"]
    assert (tmp_path / "new" / "line.svg").read_text(encoding="utf-8").rstrip().endswith("</svg>")
    alt = (tmp_path / "new" / "line.alt.txt").read_text()
    assert alt == "A line that rises from one to three, as a figure for a test.\n"
    for source in (tmp_path / "new" / "line.png", io.BytesIO(shown)):
        with Image.open(source) as picture:
            picture.load()
            assert picture.format == "PNG" and picture.width > 200
    assert not plt.fignum_exists(figure.number)


def test_unchanged_figure_gives_the_same_files(tmp_path: Path) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        shown = save_figure(make_figure(), "line", ALT, folder)
        contents.append((shown, *(path.read_bytes() for path in sorted(folder.iterdir()))))
    assert contents[0] == contents[1]


def test_changed_figure_replaces_the_files(tmp_path: Path) -> None:
    save_figure(make_figure(), "line", ALT, tmp_path)
    before = (tmp_path / "line.png").read_bytes()
    figure = make_figure()
    figure.axes[0].plot([3, 1, 2])
    save_figure(figure, "line", ALT, tmp_path)
    assert (tmp_path / "line.png").read_bytes() != before and len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("alt", ["", "  \n ", "figure", "a b c d"])
def test_alternative_text_is_required(alt: str, tmp_path: Path) -> None:
    figure = make_figure()
    with pytest.raises(ConfigError, match="'line' needs an alternative text"):
        save_figure(figure, "line", alt, tmp_path)
    assert list(tmp_path.iterdir()) == []
    plt.close(figure)


@given(count=st.integers(1, 9), columns=st.integers(1, 4), gap=st.integers(0, 3))
def test_grid_holds_every_image_in_its_place(count: int, columns: int, gap: int) -> None:
    images = np.random.default_rng(count).integers(0, 255, (count, 3, 5, 3), dtype=np.uint8)
    grid = image_grid(torch.from_numpy(images), columns, gap)
    rows = -(-count // columns)
    assert grid.dtype == np.uint8 and grid.shape == (rows * (3 + gap) - gap, columns * (5 + gap) - gap, 3)
    for number, image in enumerate(images):
        top, left = number // columns * (3 + gap), number % columns * (5 + gap)
        assert (grid[top : top + 3, left : left + 5] == image).all()
        grid[top : top + 3, left : left + 5] = 255
    assert (grid == 255).all()  # everything else is white


def test_images_are_drawn_with_titles_and_frames() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    figure, axes = plt.subplots(1, 3)
    show_images(torch.from_numpy(images), axes, titles=["a", "b", "c"], colours=[SEEN, UNSEEN, SEED])
    for image, axis, title, colour in zip(images, axes, "abc", (SEEN, UNSEEN, SEED), strict=True):
        assert np.array_equal(axis.images[0].get_array(), image)
        assert axis.get_title() == title and not len(axis.get_xticks())
        spine = axis.spines["left"]
        assert spine.get_visible() and to_rgb(spine.get_edgecolor()) == to_rgb(colour)
    plt.close(figure)


def test_images_without_colours_have_no_frame() -> None:
    figure, axes = plt.subplots(1, 2)
    show_images(np.zeros((2, 4, 4, 3), np.uint8), axes)
    assert not any(spine.get_visible() for axis in axes for spine in axis.spines.values())
    plt.close(figure)


def test_colours_can_be_told_apart() -> None:
    assert len({SEEN, UNSEEN, SEED}) == 3 and len(set(PALETTE)) == len(PALETTE)

    def luminance(colour: str) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in to_rgb(colour)]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    for colour in (SEEN, UNSEEN, SEED):  # WCAG asks 3:1 for graphics on white
        assert 1.05 / (luminance(colour) + 0.05) >= 3


def test_style_uses_the_font_that_every_machine_has() -> None:
    assert matplotlib.rcParams["font.family"] == ["DejaVu Sans"]  # it comes with matplotlib
    cycle = [to_rgb(entry["color"]) for entry in matplotlib.rcParams["axes.prop_cycle"]]
    assert cycle == [to_rgb(colour) for colour in PALETTE]
