"""One look for all figures: readable at a glance, colour-blind-safe, saved as SVG and PNG with alt text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch

from siamese_utils.errors import ConfigError
from siamese_utils.system.files import atomic_path, write_text_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's palette, distinguishable with every common form of colour blindness.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#6B6B6B",
)
PALETTE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY)
SEEN, UNSEEN, SEED = BLUE, RED, GREY  # one meaning, one colour, in every figure


def set_style() -> None:
    """Make the project's style matplotlib's default."""
    sns.set_theme(style="whitegrid", palette=list(PALETTE), font="DejaVu Sans")
    matplotlib.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 150,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlesize": 12,
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "#E6E6E6",
            "grid.linewidth": 0.8,
            "legend.frameon": False,
            "lines.linewidth": 2,
            "svg.hashsalt": "siamese_utils",
            "svg.fonttype": "path",
        }
    )


def save_figure(figure: Figure, name: str, alt: str, folder: Path) -> bytes:
    """Save a figure as ``name.svg``, ``name.png`` and its alternative text as ``name.alt.txt``.

    Args:
        figure: the figure; it is closed afterwards.
        name: file name without ending.
        alt: what a reader who cannot see the figure should know: what is shown, and the main finding.
        folder: where to put the files.

    Returns:
        the PNG as bytes.

    Raises:
        ConfigError: the alternative text is missing or says next to nothing.
    """
    if len(alt.split()) < 5:
        raise ConfigError(f"Figure {name!r} needs an alternative text of a sentence; say what it shows.")
    for kind in ("svg", "png"):
        with atomic_path(folder / f"{name}.{kind}") as temporary:
            # A fixed date keeps the files the same when nothing has changed.
            metadata = {"Date": None} if kind == "svg" else {"Software": None}
            figure.savefig(temporary, format=kind, bbox_inches="tight", metadata=metadata)
    write_text_atomically(folder / f"{name}.alt.txt", " ".join(alt.split()) + "\n")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", bbox_inches="tight", metadata={"Software": None}, dpi=110)
    plt.close(figure)
    return buffer.getvalue()


def show_images(
    images: np.ndarray | torch.Tensor,
    axes: Sequence[Axes] | np.ndarray,
    titles: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
) -> None:
    """Draw uint8 images (N, H, W, 3) into N axes, with titles and frames in given colours if wanted."""
    for number, (image, axis) in enumerate(zip(np.asarray(images), np.ravel(np.asarray(axes)), strict=False)):
        axis.imshow(image, interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.grid(False)
        for spine in axis.spines.values():
            spine.set_visible(colours is not None)
            if colours is not None:
                spine.set(edgecolor=colours[number], linewidth=3)
        if titles is not None:
            axis.set_title(titles[number], fontsize=8, fontweight="normal", loc="center", pad=3)


def image_grid(images: np.ndarray | torch.Tensor, columns: int, gap: int = 2) -> np.ndarray:
    """Lay uint8 images (N, H, W, 3) out as one picture on white, row by row; uint8 (rows, columns, 3)."""
    tiles = np.asarray(images)
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = (number // columns) * (height + gap), (number % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas
