"""Images of any size as the squares that an encoder takes: arrays, images of Pillow, and files, a batch at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image

from siamese_utils.data.arrays import as_count, as_list, as_tensor
from siamese_utils.data.image_files import fitted, load_image, on_paper, upright
from siamese_utils.data.pixels import advice, as_images
from siamese_utils.errors import ShapeError

_WANTED = "arrays, uint8 (H, W, 3) or grey (H, W), or paths of image files"


def square_batches(images: Any, side: int, batch_size: int) -> Iterator[torch.Tensor]:
    """Images as squares of one size, a batch at a time.

    An image of another size is treated as ``load_image`` treats a file: the middle square is cut out and scaled. One of
    Pillow is turned upright and brought to 8 bits as a file is.

    Args:
        images: uint8 (N, H, W, 3), an array or a tensor; or a list of images, each of them uint8 (H, W, 3) or (H, W),
            an image of Pillow, or the path of an image file; or one path.
        side: of the squares, in pixels.
        batch_size: images in a batch; the last may have fewer, and of no images there is no batch.

    Yields:
        uint8 (B, side, side, 3).

    Raises:
        ShapeError: the images have another shape or type, or a batch is to hold none.
        ImageError: a file cannot be read.
    """
    size = as_count("The number of images in a batch", batch_size, error=ShapeError)
    whole = _as_one_array(images)
    if whole is None:
        ones = as_list(images)
        for start in range(0, len(ones), size):
            yield torch.stack([_square(one, side, start + i) for i, one in enumerate(ones[start : start + size])])
    elif len(whole):
        if not whole.numel():
            raise ShapeError(f"Images of {whole.shape[1]}x{whole.shape[2]} pixels show nothing; leave them out.")
        for batch in whole.split(size):
            right = tuple(batch.shape[1:3]) == (side, side)
            yield batch if right else torch.stack([_resized(one.cpu().numpy(), side) for one in batch])


def _as_one_array(images: Any) -> torch.Tensor | None:
    """The images if they are one array, uint8 (N, H, W, 3); ``None`` if they are one by one in a list."""
    if isinstance(images, torch.Tensor):
        return as_images(images)
    if isinstance(images, np.ndarray) and images.dtype.kind not in "OU":
        return as_images(images)
    if isinstance(images, (str, bytes, os.PathLike, list, tuple)):  # also an empty list
        return None
    if not hasattr(images, "__len__") or isinstance(images, Image.Image) or not len(images):
        return as_images(images)
    return None


def _square(one: Any, side: int, position: int) -> torch.Tensor:
    if isinstance(one, (str, bytes, os.PathLike)):
        return torch.from_numpy(load_image(one, side))
    if isinstance(one, Image.Image):
        return torch.from_numpy(fitted(on_paper(upright(one, f"Image {position} of the list")), side))
    pixels = as_tensor(f"Image {position} of the list, expected {_WANTED},", one)
    if pixels.dtype != torch.uint8 or not pixels.numel() or pixels.ndim not in (2, 3) or pixels.shape[2:] not in _DEPTH:
        raise ShapeError(
            f"Expected {_WANTED}, but image {position} of the list is {pixels.dtype} of shape {tuple(pixels.shape)}; "
            f"{advice(pixels, '(H, W, 3)')}."
        )
    pixels = pixels if pixels.ndim == 3 else pixels[..., None].expand(-1, -1, 3)
    return pixels.cpu() if tuple(pixels.shape[:2]) == (side, side) else _resized(pixels.cpu().numpy(), side)


_DEPTH = (torch.Size([]), torch.Size([3]))


def _resized(pixels: np.ndarray, side: int) -> torch.Tensor:
    return torch.from_numpy(fitted(Image.fromarray(np.ascontiguousarray(pixels)), side))
