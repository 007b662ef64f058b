"""Augmentation against a slow image-by-image version that re-derives the same random numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage
from torchvision.transforms.v2 import functional

from siamese_utils.data.pixels import check_images, to_float
from siamese_utils.errors import ShapeError
from siamese_utils.training.augment import AugmentConfig, augment_batch, draw_turns, turn

MEAN, STD = torch.tensor([100.0, 120.0, 140.0]), torch.tensor([50.0, 60.0, 70.0])
OFF = AugmentConfig(translate=0, flip=False)
NO_CHANGE = (torch.zeros(3), torch.ones(3))  # mean and deviation that leave the 0-255 scale as it is


def random_images(count: int = 6, height: int = 12, width: int = 12, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator).to(torch.uint8)


def run(images: torch.Tensor, config: AugmentConfig, seed: int = 0, mean: Any = MEAN, std: Any = STD) -> torch.Tensor:
    return augment_batch(images, config, mean, std, torch.Generator().manual_seed(seed))


def shift_and_flip_slowly(images: torch.Tensor, config: AugmentConfig, seed: int) -> np.ndarray:
    """Float64 (N, H, W, 3): pad every image by reflection, cut a window out, mirror it."""
    generator = torch.Generator().manual_seed(seed)
    count, (height, width) = len(images), images.shape[1:3]
    t = config.translate
    down = torch.randint(-t, t + 1, (count, 1), generator=generator).flatten().tolist()
    right = torch.randint(-t, t + 1, (count, 1), generator=generator).flatten().tolist()
    mirrored = (torch.rand(count, 1, generator=generator) < 0.5).flatten().tolist() if config.flip else [False] * count
    result = []
    for image, dy, dx, mirror in zip(images.numpy(), down, right, mirrored, strict=True):
        padded = np.pad(image, ((t, t), (t, t), (0, 0)), mode="reflect")
        window = padded[t + dy : t + dy + height, t + dx : t + dx + width]
        result.append(window[:, ::-1] if mirror else window)
    return np.stack(result).astype(np.float64)


def channels_last(pixels: np.ndarray) -> np.ndarray:
    return pixels.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("translate", [0, 1, 4, 11])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("size", [(12, 12), (12, 17), (15, 12)])
def test_shift_and_flip_agree_with_numpy(translate: int, flip: bool, size: tuple[int, int]) -> None:
    config = AugmentConfig(translate=translate, flip=flip)
    images = random_images(40, *size)
    for seed in range(3):
        expected = (shift_and_flip_slowly(images, config, seed) - MEAN.numpy()) / STD.numpy()
        np.testing.assert_allclose(run(images, config, seed), channels_last(expected), atol=1e-5)


def test_every_shift_and_both_sides_occur() -> None:
    config = AugmentConfig(translate=2, flip=True)
    image = random_images(1)
    seen = {tuple(window.flatten().tolist()) for window in run(image.repeat(1000, 1, 1, 1), config)}
    assert len(seen) == 5 * 5 * 2


def test_border_is_filled_by_reflection() -> None:
    ramp = torch.arange(8, dtype=torch.uint8)[None, None, :, None].expand(1, 8, 8, 3).contiguous()
    out = run(ramp.repeat(200, 1, 1, 1), AugmentConfig(translate=3, flip=False), 0, *NO_CHANGE)
    rows = {tuple(int(v) for v in image[0, 0]) for image in out}
    positions = [3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 6, 5, 4]
    assert rows == {tuple(positions[start : start + 8]) for start in range(7)}


def test_all_off_is_only_normalisation() -> None:
    images = random_images()
    expected = (images.numpy().astype(np.float64) - MEAN.numpy()) / STD.numpy()
    np.testing.assert_allclose(run(images, OFF), channels_last(expected), atol=1e-6)
    torch.testing.assert_close(run(images, OFF), to_float(images, MEAN, STD))


def test_to_float_standardises() -> None:
    images = random_images(50)
    flat = images.reshape(-1, 3).double()
    out = to_float(images, flat.mean(0).float(), flat.std(0).float())
    assert out.shape == (50, 3, 12, 12) and out.dtype == torch.float32
    torch.testing.assert_close(out.mean(dim=(0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(out.std(dim=(0, 2, 3)), torch.ones(3), atol=1e-3, rtol=0)


EVERYTHING = AugmentConfig(translate=3, flip=True, cutout=5, brightness=0.3, contrast=0.3, saturation=0.3)


@pytest.mark.parametrize("config", [OFF, AugmentConfig(), EVERYTHING])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_form_of_the_result(config: AugmentConfig, count: int) -> None:
    out = run(random_images(count, 16, 20), config)
    assert out.shape == (count, 3, 16, 20) and out.dtype == torch.float32
    assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("config", [OFF, AugmentConfig(), EVERYTHING])
def test_images_are_left_alone(config: AugmentConfig) -> None:
    images = random_images()
    before, mean, std = images.clone(), MEAN.clone(), STD.clone()
    run(images, config)
    assert torch.equal(images, before) and torch.equal(mean, MEAN) and torch.equal(std, STD)


def test_same_generator_same_batch() -> None:
    images = random_images()
    assert torch.equal(run(images, EVERYTHING, 1), run(images, EVERYTHING, 1))
    assert not torch.equal(run(images, EVERYTHING, 1), run(images, EVERYTHING, 2))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    run(images, EVERYTHING)
    assert torch.equal(torch.get_rng_state(), before)  # draws from its own generator only


@pytest.mark.parametrize("side", [1, 4, 5, 12, 30])
def test_cutout_agrees_with_a_loop(side: int) -> None:
    images = random_images(60)
    config = AugmentConfig(translate=0, flip=False, cutout=side)
    generator = torch.Generator().manual_seed(3)
    tops = torch.randint(0, 12, (60, 1), generator=generator).flatten().tolist()
    lefts = torch.randint(0, 12, (60, 1), generator=generator).flatten().tolist()
    expected = run(images, OFF).clone()
    areas = []
    for image, top, left in zip(expected, tops, lefts, strict=True):
        hole = np.zeros((12, 12), bool)
        for y in range(12):
            for x in range(12):
                hole[y, x] = 0 <= y - (top - side // 2) < side and 0 <= x - (left - side // 2) < side
        image[:, torch.from_numpy(hole)] = 0
        areas.append(int(hole.sum()))
    assert torch.equal(run(images, config, 3), expected)
    if side <= 5:  # a whole square, cut off only at the border
        assert max(areas) == side**2 and min(areas) >= (side // 2) ** 2


def test_cutout_shows_the_mean_colour() -> None:
    out = run(random_images(), AugmentConfig(translate=0, flip=False, cutout=50))
    assert (out == 0).all()


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_colour_agrees_with_a_loop(name: str) -> None:
    images = random_images(30)
    out = run(images, AugmentConfig(translate=0, flip=False, **{name: 0.4}), 5, *NO_CHANGE).numpy()
    factors = 1 + 0.4 * (2 * torch.rand(30, 1, 1, 1, generator=torch.Generator().manual_seed(5)) - 1).flatten()
    assert factors.min() < 0.8 and factors.max() > 1.2
    for image, changed, factor in zip(images.numpy().astype(np.float64), out, factors.tolist(), strict=True):
        around = {"brightness": 0.0, "contrast": image.mean(), "saturation": image.mean(axis=2, keepdims=True)}[name]
        expected = np.clip(around + factor * (image - around), 0, 255)
        np.testing.assert_allclose(changed.transpose(1, 2, 0), expected, atol=1e-3)


def test_colour_agrees_with_torchvision() -> None:
    """On colours whose weighted grey, which torchvision takes, is the mean of the channels, which is taken here."""
    red, green = random_images(2, 12, 12).float()[:, ..., 0] / 4 + 96
    blue = ((1 / 3 - 0.2989) * red + (1 / 3 - 0.587) * green) / (0.114 - 1 / 3)
    image = torch.stack([red, green, blue], dim=2).round().to(torch.uint8)
    adjust = {
        "brightness": functional.adjust_brightness,
        "contrast": functional.adjust_contrast,
        "saturation": functional.adjust_saturation,
    }
    for name, by_torchvision in adjust.items():
        config = AugmentConfig(translate=0, flip=False, **{name: 0.3})
        factors = 0.7 + 0.6 * torch.rand(20, generator=torch.Generator().manual_seed(4))
        for changed, factor in zip(
            run(image.repeat(20, 1, 1, 1), config, 4, *NO_CHANGE), factors.tolist(), strict=True
        ):
            expected = 255 * by_torchvision(image.permute(2, 0, 1) / 255, factor)
            torch.testing.assert_close(changed, expected, atol=0.1, rtol=0)


@given(
    brightness=st.floats(0, 0.99),
    contrast=st.floats(0, 0.99),
    saturation=st.floats(0, 0.99),
    translate=st.integers(0, 11),
    flip=st.booleans(),
    seed=st.integers(0, 100),
)
def test_values_stay_in_the_range_of_pixels(**values: Any) -> None:
    seed = values.pop("seed")
    out = run(random_images(), AugmentConfig(**values), seed, *NO_CHANGE)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 255


@given(translate=st.integers(0, 7), flip=st.booleans(), seed=st.integers(0, 1000), count=st.integers(0, 5))
def test_shifting_invents_no_colours(translate: int, flip: bool, seed: int, count: int) -> None:
    images = random_images(count, 8, 8, seed)
    out = run(images, AugmentConfig(translate=translate, flip=flip), seed, *NO_CHANGE).permute(0, 2, 3, 1)
    for image, changed in zip(images, out, strict=True):
        colours = {tuple(c) for c in image.reshape(-1, 3).tolist()}
        assert {tuple(int(v) for v in c) for c in changed.reshape(-1, 3).tolist()} <= colours


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(2, 8, 8, 3),
        torch.zeros(2, 8, 8, 3, dtype=torch.int64),
        torch.zeros(2, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 8, 8, 1, dtype=torch.uint8),
        torch.zeros(2, 8, 8, 4, dtype=torch.uint8),
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
        torch.zeros(0, dtype=torch.uint8),
    ],
    ids=lambda images: f"{str(images.dtype)[6:]} {tuple(images.shape)}",
)
def test_other_shapes_and_types_are_an_error(images: torch.Tensor) -> None:
    for check in (check_images, lambda x: run(x, AugmentConfig())):
        with pytest.raises(ShapeError, match=r"Expected uint8 images of shape \(N, H, W, 3\)") as error:
            check(images)
        assert str(tuple(images.shape)) in str(error.value)


@pytest.mark.parametrize("size", [(4, 8), (8, 4), (4, 4)])
def test_shift_beyond_the_image_is_an_error(size: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match=f"{size[0]}x{size[1]} pixels cannot be shifted by 4"):
        run(random_images(1, *size), AugmentConfig(translate=4))
    run(random_images(1, *size), AugmentConfig(translate=3))


# ------------------------------------------------------------------------------------------- crops


def crop_slowly(pixels: np.ndarray, smallest: float, side: int, generator: torch.Generator) -> np.ndarray:
    """Float64 (N, 3, side, side): cut a random square out of each image and enlarge it, point by point."""
    count, _, height, width = pixels.shape
    area = smallest + (1 - smallest) * torch.rand(count, generator=generator).double().numpy()
    where = 2 * torch.rand(count, 2, generator=generator).double().numpy() - 1
    result = np.empty((count, 3, side, side))
    for n in range(count):
        share = np.sqrt(area[n])
        # Middles of the output pixels, in input pixels from the left and upper edge of the crop.
        middles = (np.arange(side) + 0.5) / side
        left = (1 + where[n, 0] * (1 - share) - share) / 2 * width
        top = (1 + where[n, 1] * (1 - share) - share) / 2 * height
        columns, rows = left + middles * share * width - 0.5, top + middles * share * height - 0.5
        grid = np.meshgrid(rows, columns, indexing="ij")
        for channel in range(3):
            result[n, channel] = ndimage.map_coordinates(pixels[n, channel], grid, order=1, mode="nearest")
    return result


@pytest.mark.parametrize("smallest", [0.1, 0.4, 0.99])
@pytest.mark.parametrize("side", [12, 8, 20])
def test_random_crops_agree_with_point_by_point_sampling(smallest: float, side: int) -> None:
    images = random_images(30)
    config = AugmentConfig(translate=0, flip=False, smallest_crop=smallest)
    generator = torch.Generator().manual_seed(3)
    result = augment_batch(images, config, *NO_CHANGE, torch.Generator().manual_seed(3), side)
    expected = crop_slowly(images.permute(0, 3, 1, 2).double().numpy(), smallest, side, generator)
    assert result.shape == (30, 3, side, side) and result.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(result, expected, atol=2e-3)


@pytest.mark.parametrize("side", [None, 12, 8])
def test_scaling_without_crops_is_plain_interpolation(side: int | None) -> None:
    images = random_images(4)
    result = augment_batch(images, OFF, *NO_CHANGE, torch.Generator(), side)
    plain = images.permute(0, 3, 1, 2).float()
    if side == 8:
        plain = torch.nn.functional.interpolate(plain, size=(8, 8), mode="bilinear", align_corners=False)
    torch.testing.assert_close(result, plain)


@given(smallest=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_crops_lie_inside_the_image(smallest: float, seed: int) -> None:
    """On a ramp every value stays between the ends, the crop keeps its order, and its width is that asked for."""
    ramp = torch.arange(0, 240, 10, dtype=torch.uint8)[None, None, :, None].expand(8, 24, 24, 3).contiguous()
    config = AugmentConfig(translate=0, flip=False, smallest_crop=smallest)
    result = augment_batch(ramp, config, *NO_CHANGE, torch.Generator().manual_seed(seed), 24)
    assert result.min() >= 0 and result.max() <= 230 + 1e-3
    steps = result[:, 0, 0].diff(dim=1)
    assert (steps >= -1e-3).all()
    assert (steps[:, 2:-2].amax(1) >= 10 * smallest**0.5 - 0.05).all() and (steps <= 10.05).all()


def test_turn_agrees_with_numpy() -> None:
    images, quarters = random_images(40), torch.arange(40) % 4
    before = images.clone()
    for image, quarter, turned in zip(images, quarters, turn(images, quarters), strict=True):
        np.testing.assert_array_equal(turned.numpy(), np.rot90(image.numpy(), int(quarter)))
    assert torch.equal(images, before)
    assert turn(images, torch.zeros(40, dtype=torch.int64)) is images


@pytest.mark.parametrize("share, turned", [(0.0, 0), (0.5, 20), (0.33, 13), (1.0, 40)])
def test_a_share_of_a_batch_is_turned_at_random(share: float, turned: int) -> None:
    drawn = [draw_turns(40, share, torch.Generator().manual_seed(seed)) for seed in range(60)]
    assert all(int((turns > 0).sum()) == turned for turns in drawn)
    together = torch.stack(drawn)
    assert together.max() < 4 and (not turned or (together > 0).any(dim=0).all())  # whichever its place in the batch
    assert all((together == quarter).sum() >= 0.8 * 60 * turned / 3 for quarter in (1, 2, 3))


def test_oblong_images_cannot_be_turned() -> None:
    oblong = random_images(3, 12, 15)
    assert turn(oblong, torch.zeros(3, dtype=torch.int64)) is oblong
    with pytest.raises(ShapeError, match=r"12x15.*crop them square"):
        turn(oblong, torch.tensor([0, 1, 0]))


# ------------------------------------------------------------------------------------------- warps


def warp_slowly(images: torch.Tensor, config: AugmentConfig, seed: int) -> np.ndarray:
    """Float64 (N, H, W, 3): turn, slant, stretch and bend every image, point by point."""
    generator = torch.Generator().manual_seed(seed)
    count, (height, width) = len(images), images.shape[1:3]
    drawn = [(2 * torch.rand(count, generator=generator) - 1).double().numpy() for _ in range(4)]
    knots = torch.randn(count, 2, 5, 5, generator=generator) if config.elastic else None
    result = np.empty((count, height, width, 3))
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    for n in range(count):
        angle, slant = np.deg2rad(config.rotate * drawn[0][n]), config.shear * drawn[1][n]
        y = (rows - (height - 1) / 2) * (1 + config.zoom * drawn[2][n])
        x = (columns - (width - 1) / 2) * (1 + config.zoom * drawn[3][n]) + slant * y
        source_x = np.cos(angle) * x - np.sin(angle) * y + (width - 1) / 2
        source_y = np.sin(angle) * x + np.cos(angle) * y + (height - 1) / 2
        if knots is not None:
            field = torch.nn.functional.interpolate(
                knots[n : n + 1], size=(height, width), mode="bicubic", align_corners=True
            )[0]
            source_x = source_x + config.elastic * field[0].double().numpy()
            source_y = source_y + config.elastic * field[1].double().numpy()
        for channel in range(3):
            plane = images[n, ..., channel].double().numpy()
            result[n, ..., channel] = ndimage.map_coordinates(plane, [source_y, source_x], order=1, mode="nearest")
    return result


@pytest.mark.parametrize("size", [(12, 12), (12, 17)])
@pytest.mark.parametrize(
    "values",
    [
        {"rotate": 30},
        {"zoom": 0.3},
        {"shear": 0.5},
        {"elastic": 1.5},
        {"rotate": 15, "zoom": 0.2, "shear": 0.3, "elastic": 0.7},
    ],
)
def test_warps_agree_with_point_by_point_sampling(values: dict[str, float], size: tuple[int, int]) -> None:
    images = random_images(10, *size)
    config = AugmentConfig(translate=0, flip=False, **values)
    expected = warp_slowly(images, config, seed=7)
    result = run(images, config, 7, *NO_CHANGE)
    assert result.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(result, channels_last(expected), atol=5e-3)


@pytest.mark.parametrize("values", [{"rotate": 20}, {"zoom": 0.2}, {"shear": 0.3}, {"elastic": 1.0}])
def test_a_plain_image_stays_plain_when_warped(values: dict[str, float]) -> None:
    plain = torch.full((4, 12, 12, 3), 77, dtype=torch.uint8)
    result = run(plain, AugmentConfig(translate=2, flip=False, **values), 1, *NO_CHANGE)
    torch.testing.assert_close(result, torch.full_like(result, 77.0))


def test_warps_are_off_unless_asked_for() -> None:
    assert not AugmentConfig().warps and AugmentConfig(shear=0.1).warps
