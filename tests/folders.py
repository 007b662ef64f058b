"""Folders of small images whose classes are colours, and an encoder that sees colours: no network is needed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.image_files import load_image

KINDS = {"moss": (40, 140, 60), "rust": (170, 70, 30), "sky": (80, 140, 220), "sand": (220, 200, 140)}
"""Classes, with their colours."""


class Eyes(nn.Module):
    """An encoder that sees 8 × 8 cells of colour, and no difference between an image and its mirror image."""

    name, note, embedding_dim, image_size = "eyes", "", 192, 32
    fingerprint = "e7e5"

    def embed(self, images: Any, batch_size: int | None = None, views: str | None = None) -> torch.Tensor:
        if not isinstance(images, (np.ndarray, torch.Tensor)):
            images = np.stack([load_image(one, 32) if isinstance(one, (str, Path)) else one for one in images])
        cells = torch.as_tensor(images).float().reshape(-1, 8, 4, 8, 4, 3).mean((2, 4)) - 128
        return F.normalize((cells + cells.flip(2)).flatten(1), dim=1)


def picture(kind: str, number: int, side: int = 64) -> NDArray[np.uint8]:
    """One image of a kind, different for every number: its colour, and blots that are in other places each time."""
    rng = np.random.default_rng([sum(map(ord, kind)), number])
    cells = np.clip(np.array(KINDS[kind]) + rng.normal(0, 45, (8, 8, 1)), 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(cells).resize((side, side)))


def save(file: Path, pixels: NDArray[np.uint8], **options: Any) -> Path:
    """Write an image file, with the folders above it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **options)
    return file


def class_folders(folder: Path, sizes: Mapping[str, int]) -> Path:
    """A support folder of so many images of each kind."""
    for kind, count in sizes.items():
        for number in range(count):
            save(folder / kind / f"{number}.png", picture(kind, number))
    return folder
