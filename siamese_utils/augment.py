"""Batch augmentation on uint8 images in memory: one gather a batch instead of a transform an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from siamese_utils.errors import ConfigError, ShapeError


@dataclass(frozen=True)
class AugmentConfig:
    """How training images are varied.

    Attributes:
        translate: largest shift in pixels in each direction; the border is filled by reflection.
        flip: mirror left-right with probability one half.
        cutout: side in pixels of a square set to the mean colour, 0 for none (DeVries & Taylor, 2017).
        brightness: largest relative change of brightness, for example 0.2.
        contrast: largest relative change of contrast around the image's own mean.
        saturation: largest relative change of saturation around the image's own grey values.
    """

    translate: int = 4
    flip: bool = True
    cutout: int = 0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        if self.translate < 0 or self.cutout < 0:
            raise ConfigError("Augmentation: translate and cutout are counted in pixels and cannot be negative.")
        for name in ("brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"Augmentation: {name} is a relative change and must lie in [0, 1).")


def check_images(images: torch.Tensor) -> None:
    """Raise ``ShapeError`` unless ``images`` is a uint8 tensor of shape (N, H, W, 3)."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[-1] != 3:
        raise ShapeError(
            f"Expected uint8 images of shape (N, H, W, 3), got {images.dtype} of shape {tuple(images.shape)}; "
            "convert to RGB with values 0 to 255 first."
        )


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
    return images.to(torch.float32).sub_(mean).div_(std).permute(0, 3, 1, 2)


def _shift_and_flip(images: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """Crop and mirror by a single gather: the source row and column of every output pixel."""
    count, height, width, _ = images.shape

    def source(size: int) -> torch.Tensor:
        shift = torch.randint(-config.translate, config.translate + 1, (count, 1), generator=generator)
        position = torch.arange(size) + shift
        position = position.abs()  # reflect at the near edge ...
        return torch.where(position >= size, 2 * (size - 1) - position, position)  # ... and at the far one

    rows, columns = source(height), source(width)
    if config.flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    flat = (rows[:, :, None] * width + columns[:, None, :]).reshape(count, height * width)
    flat += torch.arange(count)[:, None] * (height * width)
    pixels = images.reshape(-1, 3)
    return pixels.index_select(0, flat.reshape(-1).to(pixels.device)).reshape(images.shape)


def _cut_out(pixels: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """Zero a random square of each normalised image (N, H, W, 3), in place; zero is the mean colour."""
    count, height, width, _ = pixels.shape
    top = torch.randint(0, height, (count, 1), generator=generator) - side // 2
    left = torch.randint(0, width, (count, 1), generator=generator) - side // 2
    rows, columns = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top) & (rows < top + side)
    in_columns = (columns >= left) & (columns < left + side)
    hole = (in_rows[:, :, None] & in_columns[:, None, :]).unsqueeze(3)
    return pixels.masked_fill_(hole.to(pixels.device), 0.0)


def _jitter_colour(pixels: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """Random brightness, contrast and saturation of float images (N, H, W, 3) on the 0-255 scale."""

    def factor(strength: float) -> torch.Tensor:
        uniform = torch.rand(len(pixels), 1, 1, 1, generator=generator)
        return (1 + strength * (2 * uniform - 1)).to(pixels.device)

    if config.brightness:
        pixels = pixels * factor(config.brightness)
    if config.contrast:
        centre = pixels.mean(dim=(1, 2, 3), keepdim=True)
        pixels = torch.lerp(centre, pixels, factor(config.contrast))
    if config.saturation:
        grey = pixels.mean(dim=3, keepdim=True)
        pixels = torch.lerp(grey, pixels, factor(config.saturation))
    return pixels.clamp(0, 255)


def augment_batch(
    images: torch.Tensor,
    config: AugmentConfig,
    mean: torch.Tensor,
    std: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Augment and normalise one batch.

    Args:
        images: uint8 (N, H, W, 3), on any device.
        config: what to vary.
        mean: float (3,) on the images' device, 0-255 scale.
        std: float (3,) likewise.
        generator: CPU generator; the same state gives the same batch on every device.

    Returns:
        float32 (N, 3, H, W), channels_last.

    Raises:
        ShapeError: the images are not uint8 (N, H, W, 3), or smaller than the shift.
    """
    check_images(images)
    if config.translate >= min(images.shape[1:3]):
        raise ShapeError(
            f"Images of {images.shape[1]}x{images.shape[2]} pixels cannot be shifted by {config.translate}; "
            "lower AugmentConfig.translate."
        )
    if config.translate or config.flip:
        images = _shift_and_flip(images, config, generator)
    pixels = images.to(torch.float32)
    if config.brightness or config.contrast or config.saturation:
        pixels = _jitter_colour(pixels, config, generator)
    pixels = pixels.sub_(mean).div_(std)
    if config.cutout:
        pixels = _cut_out(pixels, config.cutout, generator)
    return pixels.permute(0, 3, 1, 2)
