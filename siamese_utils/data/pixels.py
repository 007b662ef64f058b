"""Checks of image batches, and bytes as floats."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from siamese_utils.data.arrays import as_tensor
from siamese_utils.errors import ShapeError


def as_images(images: Any, side: int | None = None, what: str = "Images") -> torch.Tensor:
    """Images as a uint8 tensor (N, H, W, 3): an array, a tensor, or a list of images of one size.

    Args:
        images: what was given.
        side: H and W; any if None.
        what: their name in an error.

    Raises:
        ShapeError: anything else.
    """
    if isinstance(images, Image.Image):
        raise ShapeError(f"{what} are several, but this is one image of Pillow; put one image into a list: [image].")
    images = as_tensor(f"{what}, expected uint8 of shape (N, H, W, 3),", images)
    check_images(images)
    if side is not None and tuple(images.shape[1:3]) != (side, side):
        raise ShapeError(
            f"This encoder takes images of {side}x{side} pixels, got {images.shape[1]}x{images.shape[2]}; resize them, "
            "for example with siamese_utils.load_image."
        )
    return images


def check_images(images: torch.Tensor) -> None:
    """Raise ``ShapeError`` unless ``images`` is a uint8 tensor of shape (N, H, W, 3)."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ShapeError(
            f"Expected uint8 images of shape (N, H, W, 3), got {images.dtype} of shape {tuple(images.shape)}; "
            f"{advice(images, '(N, H, W, 3)')}."
        )


def advice(pixels: torch.Tensor, wanted: str) -> str:
    """What to do with an array that is not what images are, as the end of a sentence.

    Args:
        pixels: of any type and shape.
        wanted: the shape that was expected, such as ``"(N, H, W, 3)"``.
    """
    shape, said = tuple(pixels.shape), []
    if pixels.is_floating_point():
        said.append(
            "images are uint8 from 0 to 255: for values from 0 to 1 take (255 * images).round(), then astype('uint8') "
            "of an array, to(torch.uint8) of a tensor"
        )
    if len(shape) in (3, 4) and shape[-3] == 3 and shape[-1] != 3:
        alone = len(shape) == 3 and wanted.startswith("(N")  # which several grey images may be as well
        more = "; one image, and each of several grey ones, goes into a list" if alone else ""
        said.append(f"channels come last: transpose to {'(H, W, 3)' if alone else wanted}{more}")
    elif len(shape) == 3 and shape[-1] == 3 and wanted.startswith("(N"):
        said.append("put one image into a list: [image]")
    return ", and ".join(said) or "convert to RGB with values 0 to 255 first"


def to_float(images: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Turn uint8 images into the network's input.

    Args:
        images: uint8 (N, H, W, 3).
        mean: float (3,), mean of each colour channel on the 0-255 scale.
        std: float (3,), standard deviation on the same scale.

    Returns:
        float32 (N, 3, H, W) with zero mean and unit variance, in channels_last memory order, which is
        how the pixels lie already.
    """
    return normalise(images.to(torch.float32), mean, std).permute(0, 3, 1, 2)


def normalise(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """Zero mean and unit variance of float images (N, H, W, 3), overwriting them where they lie in one piece."""
    count, height, width, _ = pixels.shape
    # A whole row of an image against the statistics repeated: the same numbers as broadcasting three of them along
    # the last axis, whose loops of length three take five times as long.
    rows = pixels.reshape(count, height, 3 * width)
    return rows.sub_(mean.repeat(width)).div_(std.repeat(width)).view(count, height, width, 3)
