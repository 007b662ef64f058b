"""Batch augmentation on uint8 images in memory: one gather a batch instead of a transform an image."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch.nn import functional as F

from siamese_utils.data.pixels import check_images, normalise
from siamese_utils.errors import ShapeError
from siamese_utils.system.config import Config, Natural, NotNegative, Share, ShareBelowOne

TURNS = 4  # the quarter turns that bring a square onto itself


class AugmentConfig(Config):
    """How training images are varied.

    Attributes:
        translate: largest shift in pixels in each direction; the border is filled by reflection.
        flip: mirror left-right with probability one half.
        smallest_crop: smallest share of the area that a random square crop keeps before it is enlarged to the
            full side again; 1 crops nothing (Szegedy et al., 2015, section 6, without change of aspect).
        cutout: side in pixels of a square set to the mean colour, 0 for none (DeVries & Taylor, 2017).
        brightness: largest relative change of brightness, for example 0.2. This and the two below are the colour jitter
            of few-shot trainings, which mostly take 0.4 of each (RFS: Tian et al., *Rethinking few-shot image
            classification: a good embedding is all you need?*, 2020).
        contrast: largest relative change of contrast around the image's own mean.
        saturation: largest relative change of saturation around the image's own grey values, the mean of the channels.
        rotate: largest turn in degrees, either way, around the middle; what comes in repeats the border's colour.
        zoom: largest relative change of height and of width, each on its own.
        shear: largest slant, as the sideways shift of a row for each pixel that it lies off the middle.
        elastic: typical shift in pixels of a smooth random displacement field, different everywhere in the image
            (Simard et al., *Best practices for convolutional neural networks*, 2003, section 2).
    """

    translate: Natural = 4
    flip: bool = True
    smallest_crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    cutout: Natural = 0
    brightness: ShareBelowOne = 0.0
    contrast: ShareBelowOne = 0.0
    saturation: ShareBelowOne = 0.0
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    zoom: ShareBelowOne = 0.0
    shear: Share = 0.0
    elastic: NotNegative = 0.0

    @property
    def warps(self) -> bool:
        """Whether images are bent or turned."""
        return max(self.rotate, self.zoom, self.shear, self.elastic) > 0


def _shift_and_flip(images: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """Crop and mirror by a single gather of whole rows.

    Reflection repeats a row x and its mirror image x' in turn: ... x' x x' x ... (without the pixel they share).
    So does the mirrored row, and a shifted row, mirrored or not, is one window of that sequence.
    """
    count, height, width, _ = images.shape
    if not count:
        return images
    most = config.translate
    down, right = (torch.randint(-most, most + 1, (count, 1), generator=generator) for _ in range(2))
    begin = most + right
    if config.flip:
        mirrored = torch.rand(count, 1, generator=generator) < 0.5
        begin = torch.where(mirrored, width - 1 + most - right, begin)
    rows = (height - 1) - ((height - 1) - (torch.arange(height) + down).abs()).abs()  # reflected at both edges

    mirror = images.permute(0, 3, 1, 2).flip(3).permute(0, 2, 3, 1)  # in this order of axes flip has a fast path
    sequence = torch.cat(
        [mirror[:, :, width - 1 - most : width - 1], images, mirror[:, :, 1:], images[:, :, 1 : 1 + most]], dim=2
    ).contiguous()
    length = sequence.shape[2]
    windows = sequence.as_strided((count * height * length - width + 1, 3 * width), (3, 1))
    first = (torch.arange(count)[:, None] * height + rows) * length + begin
    return windows.index_select(0, first.reshape(-1).to(images.device)).reshape(images.shape)


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


def _resize(pixels: torch.Tensor, config: AugmentConfig, side: int, generator: torch.Generator) -> torch.Tensor:
    """Random square crops of float images (N, 3, H, W), scaled to (N, 3, side, side) by bilinear interpolation."""
    if config.smallest_crop == 1:
        if side == pixels.shape[2] == pixels.shape[3]:
            return pixels
        return F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)
    count = len(pixels)
    area = config.smallest_crop + (1 - config.smallest_crop) * torch.rand(count, generator=generator)
    scale = area.sqrt()
    centre = (2 * torch.rand(count, 2, generator=generator) - 1) * (1 - scale)[:, None]
    maps = torch.zeros(count, 2, 3)
    maps[:, 0, 0] = maps[:, 1, 1] = scale
    maps[:, :, 2] = centre
    grid = F.affine_grid(maps.to(pixels.device), [count, 3, side, side], align_corners=False)
    crops = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    return crops.contiguous(memory_format=torch.channels_last)


_ELASTIC_KNOTS = 5  # a side of the coarse grid of random shifts that the displacement field runs smoothly through


def _warp(pixels: torch.Tensor, config: AugmentConfig, generator: torch.Generator) -> torch.Tensor:
    """Random affine maps and smooth displacements of float images (N, H, W, 3), in one bilinear interpolation."""
    count, height, width, _ = pixels.shape

    def uniform(largest: float) -> torch.Tensor:
        return largest * (2 * torch.rand(count, generator=generator) - 1)

    angle, shear = torch.deg2rad(uniform(config.rotate)), uniform(config.shear)
    tall, wide = 1 + uniform(config.zoom), 1 + uniform(config.zoom)
    cosine, sine = angle.cos(), angle.sin()
    # Where each pixel of the result comes from, (x, y) in pixels from the middle: turn times slant times size.
    turned = torch.stack([torch.stack([cosine, -sine], 1), torch.stack([sine, cosine], 1)], 1)
    slanted = torch.stack([torch.stack([wide, shear * tall], 1), torch.stack([torch.zeros(count), tall], 1)], 1)
    # affine_grid counts both axes from -1 to 1, so in oblong images it has two units.
    units = torch.tensor([[1.0, height / width], [width / height, 1.0]])
    maps = torch.cat([turned @ slanted * units, torch.zeros(count, 2, 1)], dim=2)
    grid = F.affine_grid(maps, [count, 3, height, width], align_corners=False)
    if config.elastic:
        knots = torch.randn(count, 2, _ELASTIC_KNOTS, _ELASTIC_KNOTS, generator=generator)
        field = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)
        in_pixels = config.elastic * 2 / torch.tensor([width, height])
        grid = grid + field.permute(0, 2, 3, 1) * in_pixels
    warped = F.grid_sample(
        pixels.permute(0, 3, 1, 2), grid.to(pixels.device), padding_mode="border", align_corners=False
    )
    return warped.permute(0, 2, 3, 1).contiguous()


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
        # The same bits as a mean over the last axis and a broadcast along it, whose loops of three take twice the time.
        red, green, blue = pixels.unbind(3)
        grey = ((red + green + blue) / 3).unsqueeze(3).expand_as(pixels).contiguous()
        pixels = torch.lerp(grey, pixels, factor(config.saturation))
    return pixels.clamp(0, 255)


def draw_turns(count: int, share: float, generator: torch.Generator) -> torch.Tensor:
    """Quarter turns of a batch: a share of it, rounded and drawn at random, is turned by 1, 2 or 3; int64 (count,)."""
    turns = torch.zeros(count, dtype=torch.int64)
    chosen = torch.randperm(count, generator=generator)[: round(share * count)]
    turns[chosen] = torch.randint(1, TURNS, (len(chosen),), generator=generator)
    return turns


def turn(images: torch.Tensor, quarters: torch.Tensor) -> torch.Tensor:
    """Turn each image of a batch by its own number of quarter turns, against the clock.

    Args:
        images: (N, H, W, C); square if any is turned.
        quarters: int64 (N,), 0 to 3, on the images' device.

    Returns:
        (N, H, W, C) of the same type; the images themselves where none is turned.

    Raises:
        ShapeError: an image that is not square would have to be turned.
    """
    if not quarters.any():
        return images
    if images.shape[1] != images.shape[2]:
        raise ShapeError(
            f"Images of {images.shape[1]}x{images.shape[2]} pixels cannot be turned by 90 degrees; crop them square."
        )
    turned = images.clone()
    for quarter in range(1, TURNS):
        which = quarters == quarter
        turned[which] = images[which].rot90(quarter, (1, 2))
    return turned


def augment_batch(
    images: torch.Tensor,
    config: AugmentConfig,
    mean: torch.Tensor,
    std: torch.Tensor,
    generator: torch.Generator,
    side: int | None = None,
) -> torch.Tensor:
    """Augment and normalise one batch.

    Args:
        images: uint8 (N, H, W, 3), on any device.
        config: what to vary.
        mean: float (3,) on the images' device, 0-255 scale.
        std: float (3,) likewise.
        generator: CPU generator; the same state gives the same batch on every device.
        side: height and width to scale to; ``None`` leaves them.

    Returns:
        float32 (N, 3, side, side), channels_last.

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
    if config.warps:
        pixels = _warp(pixels, config, generator)
    if config.brightness or config.contrast or config.saturation:
        pixels = _jitter_colour(pixels, config, generator)
    pixels = normalise(pixels, mean, std)
    if config.cutout:
        pixels = _cut_out(pixels, config.cutout, generator)
    pixels = pixels.permute(0, 3, 1, 2)
    if side is None and config.smallest_crop == 1:
        return pixels
    return _resize(pixels, config, side or pixels.shape[2], generator)
