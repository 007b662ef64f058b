"""A drawn stand-in for CIFAR-100: 100 classes of 32x32 RGB images, made in seconds from a seed.

A class is a combination of a shape, a texture and a palette, such as ``violet_ringed_gear``. The twenty
shapes are the superclasses; every texture and every palette occurs with many shapes, so that what is learned
from seen classes helps to recognise unseen ones. Within a class vary: place, size, rotation, mirror image,
proportions, hue, light, the texture's phase and pitch, the background with its clutter, a thing in front, and
noise.

The images are the same bits on every machine: random numbers are raw output of NumPy's PCG64 (a stream that
NumPy promises not to change), and the drawing uses only operations that IEEE 754 rounds exactly (+, -, *, /,
square root, floor, comparison), never a sine or a power. Hence triangular waves and cos(n t) as polynomial.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

from siamese_utils.data.images import PARTS, ImageSet, Part, canonical_order
from siamese_utils.errors import ConfigError, unknown

IMAGES_PER_CLASS: dict[str, int] = {"train": 100, "test": 40}
_SIZE = 32
_MAX_CLASSES = 100
_MEMBERS = 5  # classes of one superclass

Array = np.ndarray


def make_synthetic(part: Part, *, num_classes: int = 100, per_class: int | None = None, seed: int = 0) -> ImageSet:
    """Draw the synthetic set.

    Class ``c`` has shape ``c % 20``, so the last classes, unseen in a draw-0 split, have many shapes.

    Args:
        part: ``"train"`` or ``"test"``: same classes, other images.
        num_classes: draw the first so many of the 100 classes.
        per_class: images a class; 100 for training and 40 for testing unless given.
        seed: another seed draws other images of the same classes.

    Returns:
        The set in canonical order: images uint8 (num_classes * per_class, 32, 32, 3), labels int64. A class's
        images depend on the seed, the part and ``per_class`` only; more of them contain the fewer.

    Raises:
        ConfigError: a number out of range.
        UnknownNameError: ``part`` is neither of the two.
    """
    if part not in PARTS:
        raise unknown("part of the data", part, PARTS)
    count = IMAGES_PER_CLASS[part] if per_class is None else per_class
    if not 1 <= num_classes <= _MAX_CLASSES:
        raise ConfigError(f"The synthetic set has 1 to {_MAX_CLASSES} classes, not {num_classes}.")
    if count < 1:
        raise ConfigError(f"The synthetic set needs at least 1 image a class, not {count}.")
    if seed < 0:
        raise ConfigError(f"The seed of the synthetic set must not be negative, as {seed} is.")
    drawn = [_draw_class(c, count, seed, PARTS.index(part)) for c in range(num_classes)]
    images = np.ascontiguousarray(np.concatenate(drawn).transpose(0, 2, 3, 1))
    labels = np.repeat(np.arange(num_classes, dtype=np.int64), count)
    order = canonical_order(images, labels)
    return ImageSet(
        images=torch.from_numpy(images[order]),
        labels=torch.from_numpy(labels[order]),
        class_names=tuple(_class_name(c) for c in range(num_classes)),
        superclass_names=tuple(SHAPES),
        superclass_of=tuple(c % len(SHAPES) for c in range(num_classes)),
        name="synthetic",
        part=part,
        source=f"drawn by siamese_utils.data.synthetic with seed {seed}",
    )


def class_attributes(label: int) -> tuple[str, str, str]:
    """Return the (shape, texture, palette) that make class ``label``.

    The strides give the five classes of a shape five textures and five palettes, use all of both evenly, and
    let (almost) every texture meet every palette.
    """
    member, shape = divmod(label, len(SHAPES))
    texture = (shape + 3 * member) % len(TEXTURES)
    palette = (7 * shape + 3 * member + shape // len(PALETTES)) % len(PALETTES)
    return tuple(SHAPES)[shape], tuple(TEXTURES)[texture], tuple(PALETTES)[palette]


def _class_name(label: int) -> str:
    shape, texture, palette = class_attributes(label)
    return f"{palette}_{texture}_{shape}"


# --- shapes: masks over object coordinates, u to the right, v up, the edge about 1 from the centre ---


def _star(u: Array, v: Array) -> Array:
    # A point is in the five-pointed star if it is on the inner side of at least four of its five lines.
    a, b, c, d = 0.951057, 0.309017, 0.587785, 0.809017  # sine and cosine of 72 degrees, of 36 degrees
    normals = ((0.0, -1.0), (a, -b), (c, d), (-c, d), (-a, -b))
    return sum(((x * u + y * v) < 0.305).astype(np.int8) for x, y in normals) >= 4


def _heart(u: Array, v: Array) -> Array:
    x, y = 1.22 * u, 1.22 * v + 0.1
    ball = x * x + y * y - 1.0
    return ball * ball * ball < x * x * y * y * y


def _drop(u: Array, v: Array) -> Array:
    return (u * u + (v + 0.35) * (v + 0.35) < 0.36) | ((v > -0.2) & (_abs(u) < (0.98 - v) * 0.5))


def _flower(u: Array, v: Array) -> Array:
    r = _radius(u, v)
    c = u / r
    cos5 = c * (c * c * (16.0 * c * c - 20.0) + 5.0)
    return r < 0.64 + 0.32 * cos5


def _gear(u: Array, v: Array) -> Array:
    r = _radius(u, v)
    cos2 = 2.0 * (u / r) * (u / r) - 1.0
    cos4 = 2.0 * cos2 * cos2 - 1.0
    cos8 = 2.0 * cos4 * cos4 - 1.0
    return (r > 0.32) & (r < np.where(cos8 > 0.0, np.float32(0.98), np.float32(0.7)))


def _crescent(u: Array, v: Array) -> Array:
    return (u * u + v * v < 0.9) & ((u - 0.42) * (u - 0.42) + (v - 0.12) * (v - 0.12) > 0.5)


def _dumbbell(u: Array, v: Array) -> Array:
    ends = _abs(v) - 0.6
    return (u * u + ends * ends < 0.15) | ((_abs(u) < 0.16) & (_abs(v) < 0.6))


def _fork(u: Array, v: Array) -> Array:
    tines = (_abs(u) < 0.18) | (_abs(_abs(u) - 0.68) < 0.18)
    return (_abs(u) < 0.86) & (_abs(v) < 0.86) & (tines | (v < -0.35))


def _abs(x: Array) -> Array:
    return np.abs(x)


def _radius(u: Array, v: Array) -> Array:
    return np.sqrt(u * u + v * v + np.float32(1e-6))


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "disc": lambda u, v: u * u + v * v < 0.72,
    "star": _star,
    "frame": lambda u, v: _abs(np.maximum(_abs(u), _abs(v)) - 0.64) < 0.2,
    "arrow": lambda u, v: ((_abs(u) < 0.24) & (v > -0.95) & (v < 0.2)) | ((v > 0.1) & (_abs(u) < (0.98 - v) * 0.9)),
    "flower": _flower,
    "bar": lambda u, v: (_abs(u) < 0.3) & (_abs(v) < 0.98),
    "crescent": _crescent,
    "triangle": lambda u, v: (v > -0.62) & (_abs(u) < (0.98 - v) * 0.58),
    "gear": _gear,
    "hourglass": lambda u, v: (_abs(v) < 0.9) & (_abs(u) < 0.1 + 0.72 * _abs(v)),
    "heart": _heart,
    "ring": lambda u, v: _abs(u * u + v * v - 0.62) < 0.3,
    "chevron": lambda u, v: (_abs(u) < 0.95) & (_abs(v + 0.95 * _abs(u) - 0.42) < 0.36),
    "square": lambda u, v: np.maximum(_abs(u), _abs(v)) < 0.74,
    "drop": _drop,
    "cross": lambda u, v: (np.minimum(_abs(u), _abs(v)) < 0.27) & (np.maximum(_abs(u), _abs(v)) < 0.92),
    "wedge": lambda u, v: (u * u + v * v < 0.82) & ((u < 0.0) | (_abs(v) > 0.75 * u)),
    "dumbbell": _dumbbell,
    "zigzag": lambda u, v: (_abs(v) < 0.95) & (_abs(u - 1.3 * _wave(0.8 * v + 0.05) + 0.65) < 0.3),
    "fork": _fork,
}


# --- textures: share of the second colour, 0..1, over object coordinates times pitch plus phase -----


def _wave(x: Array) -> Array:
    """Triangle wave of period 1 between 0 and 1; it is 1 at whole numbers."""
    return np.abs(2.0 * (x - np.floor(x)) - 1.0)


def _soft(x: Array, sharpness: float = 5.0) -> Array:
    """Step from 0 to 1 around x = 0 with an edge about a pixel wide."""
    return np.clip(x * np.float32(sharpness) + 0.5, 0.0, 1.0)


TEXTURES: dict[str, Callable[[Array, Array, Array], Array]] = {
    "plain": lambda x, y, blotches: np.zeros_like(x),
    "striped": lambda x, y, blotches: _soft(_wave(1.5 * y) - 0.5, 3.0),
    "dotted": lambda x, y, blotches: _soft(_wave(1.5 * x) + _wave(1.5 * y) - 1.2, 3.0),
    "checked": lambda x, y, blotches: _soft((_wave(x) - 0.5) * (_wave(y) - 0.5), 16.0),
    "ringed": lambda x, y, blotches: _soft(_wave(1.4 * _radius(x, y)) - 0.5, 3.0),
    "halved": lambda x, y, blotches: _soft(x - 0.3 * y - 0.3, 3.0),
    "netted": lambda x, y, blotches: _soft(np.maximum(_wave(1.2 * x), _wave(1.2 * y)) - 0.7),
    "marbled": lambda x, y, blotches: _soft(blotches - 0.5, 9.0),
}

# Two colours each: hue (turns), saturation, value.
PALETTES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "crimson": ((0.98, 0.85, 0.85), (0.12, 0.20, 0.98)),
    "amber": ((0.09, 0.90, 0.98), (0.03, 0.75, 0.40)),
    "lemon": ((0.16, 0.80, 0.98), (0.36, 0.70, 0.50)),
    "lime": ((0.26, 0.75, 0.80), (0.75, 0.60, 0.45)),
    "emerald": ((0.38, 0.85, 0.60), (0.14, 0.45, 0.98)),
    "teal": ((0.48, 0.80, 0.70), (0.04, 0.70, 0.95)),
    "azure": ((0.57, 0.75, 0.95), (0.60, 0.10, 0.98)),
    "indigo": ((0.66, 0.80, 0.60), (0.52, 0.55, 0.95)),
    "violet": ((0.77, 0.65, 0.80), (0.90, 0.30, 0.98)),
    "rose": ((0.90, 0.60, 0.95), (0.93, 0.85, 0.45)),
}


# --- drawing --------------------------------------------------------------------------------------


def _draw_class(label: int, count: int, seed: int, part_number: int) -> Array:
    """Draw ``count`` images of one class: uint8 (count, 3, 32, 32)."""
    shape, texture, palette = class_attributes(label)
    draws = _Draws(count, (seed, part_number, label))
    fine_u, fine_v = _object_coordinates(draws)
    mask = _mean_of_four(SHAPES[shape](fine_u, fine_v).astype(np.float32))
    u, v = _mean_of_four(fine_u), _mean_of_four(fine_v)

    images = _background(draws)
    shadow = np.zeros_like(mask)
    shadow[:, 2:, 1:] = np.float32(0.45) * mask[:, :-2, :-1]
    images *= (1.0 - shadow)[:, None]

    pitch = draws.between(1.1, 1.9)
    phase_x, phase_y = draws.between(-0.5, 0.5), draws.between(-0.5, 0.5)
    if texture == "ringed":  # rings are seen as rings only about the middle
        phase_x, phase_y = 0.3 * phase_x, 0.3 * phase_y
    amount = TEXTURES[texture](pitch * u + phase_x, pitch * v + phase_y, _blotches(draws, 8))
    first, second = _object_colours(draws, palette)
    shading = 1.0 + draws.between(0.05, 0.3) * (0.6 * v - 0.3 * u)
    _paste(images, (first + (second - first) * amount[:, None]) * shading[:, None], mask)

    _occlude(draws, images)
    light_colour = draws.between(0.65, 1.2)[:, None] * draws.between(0.75, 1.1, 3, 1, 1)
    images *= light_colour
    images += draws.between(0.01, 0.05)[:, None] * draws.noise()
    return (np.clip(images, 0.0, 1.0) * np.float32(255.0) + np.float32(0.5)).astype(np.uint8)


def _mean_of_four(fine: Array) -> Array:
    """Halve the resolution: float32 (count, 64, 64) to (count, 32, 32)."""
    rows = fine[:, ::2] + fine[:, 1::2]
    return np.float32(0.25) * (rows[:, :, ::2] + rows[:, :, 1::2])


class _Draws:
    """Random numbers for the images of one class; image i gets the same ones however many there are.

    Every use has a stream of its own.
    """

    def __init__(self, count: int, key: tuple[int, ...]) -> None:
        self.count = count
        self._key = key
        self._uses = 0

    def _raw(self, number: int) -> Array:
        self._uses += 1
        return np.random.PCG64([*self._key, self._uses]).random_raw(self.count * number)

    def between(self, low: float, high: float, *size: int) -> Array:
        """Return float32 (count, *size), or (count, 1, 1) where no size is given."""
        size = size or (1, 1)
        raw = self._raw(math.prod(size))
        unit = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
        return (np.float32(low) + np.float32(high - low) * unit).reshape(self.count, *size)

    def noise(self) -> Array:
        """Return float32 (count, 3, 32, 32) of mean 0 and variance 1 with a triangular density."""
        number = _SIZE * _SIZE * 3
        octets = self._raw(number * 2 // 8).astype("<u8").view(np.uint8).reshape(self.count, 2, number)
        total = octets[:, 0].astype(np.float32) + octets[:, 1].astype(np.float32)
        return ((total - 255.0) * np.float32(1 / 104.5)).reshape(self.count, 3, _SIZE, _SIZE)


def _grid(supersample: int = 1) -> tuple[Array, Array]:
    """Return the x and y of every sample, in image units: the image spans -1..1, y up, each (1, S, S)."""
    steps = (np.arange(_SIZE * supersample, dtype=np.float32) + np.float32(0.5)) / (_SIZE * supersample)
    axis = 2.0 * steps - 1.0
    return axis[None, None, :], -axis[None, :, None]


def _object_coordinates(draws: _Draws) -> tuple[Array, Array]:
    """Return object coordinates u and v of four samples a pixel, float32 (count, 64, 64)."""
    x, y = _grid(supersample=2)
    x, y = x - draws.between(-0.4, 0.4), y - draws.between(-0.4, 0.4)
    half = draws.between(-0.5, 0.5)  # tangent of half the rotation: about +-53 degrees
    cos, sin = (1.0 - half * half) / (1.0 + half * half), 2.0 * half / (1.0 + half * half)
    size = draws.between(0.36, 0.76)
    stretch = draws.between(0.78, 1.28)
    mirror = np.where(draws.between(0.0, 1.0) < 0.5, np.float32(-1.0), np.float32(1.0))
    u = (cos * x + sin * y) * (mirror / (size * stretch))
    v = (cos * y - sin * x) * (stretch / size)
    return u, v


def _colours(hue: Array, saturation: Array, value: Array) -> Array:
    """Turn hue (turns, any range), saturation and value (count, 1, 1) into RGB (count, 3, 1, 1)."""
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = offset + 6.0 * (hue - np.floor(hue))
        k = k - 6.0 * np.floor(k / 6.0)
        channels.append(value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0))
    return np.stack(channels, axis=1)


def _object_colours(draws: _Draws, palette: str) -> tuple[Array, Array]:
    """Return the two colours of a palette, each shifted in hue, saturation and value."""
    first, second = (
        _colours(
            hue + draws.between(-0.09, 0.09),
            np.clip(saturation + draws.between(-0.4, 0.15), 0.0, 1.0),
            np.clip(value + draws.between(-0.25, 0.15), 0.0, 1.0),
        )
        for hue, saturation, value in PALETTES[palette]
    )
    return first, second


def _any_colour(draws: _Draws, saturation: float) -> Array:
    return _colours(draws.between(0.0, 1.0), draws.between(0.0, saturation), draws.between(0.25, 0.95))


def _blotches(draws: _Draws, cells: int) -> Array:
    """Return smooth noise, float32 (count, 32, 32) in 0..1: random values on a grid, interpolated."""
    knots = draws.between(0.0, 1.0, cells + 1, cells + 1)
    position = (np.arange(_SIZE, dtype=np.float32) + np.float32(0.5)) * np.float32(cells / _SIZE)
    left = position.astype(np.int64)
    weight = position - left.astype(np.float32)
    weight = weight * weight * (3.0 - 2.0 * weight)  # no creases along the grid
    rows = knots[:, left] * (1.0 - weight)[:, None] + knots[:, left + 1] * weight[:, None]
    return rows[:, :, left] * (1.0 - weight) + rows[:, :, left + 1] * weight


def _background(draws: _Draws) -> Array:
    """Return a blotchy colour gradient with three things that are no object: float32 (count, 3, 32, 32)."""
    x, y = _grid()
    slope_x, slope_y = draws.between(-0.5, 0.5), draws.between(-0.5, 0.5)
    mix = 0.5 + slope_x * x + slope_y * y + draws.between(0.0, 0.9) * (_blotches(draws, 5) - 0.5)
    first, second = _any_colour(draws, 0.5), _any_colour(draws, 0.5)
    images = first + (second - first) * np.clip(mix, 0.0, 1.0)[:, None]
    for _ in range(3):
        _paste(images, _any_colour(draws, 0.8), _thing(draws, reach=1.0))
    return images


def _occlude(draws: _Draws, images: Array) -> None:
    """Put one or two things in front of the object in most of the images, in place."""
    for _ in range(2):
        there = (draws.between(0.0, 1.0) < 0.5).astype(np.float32)
        _paste(images, _any_colour(draws, 0.8), there * _thing(draws, reach=0.6))


def _thing(draws: _Draws, reach: float) -> Array:
    """Return the mask of a bar or an ellipse within ``reach`` of the middle: float32 (count, 32, 32)."""
    x, y = _grid()
    x, y = x - draws.between(-reach, reach), y - draws.between(-reach, reach)
    half = draws.between(-1.0, 1.0)
    cos, sin = (1.0 - half * half) / (1.0 + half * half), 2.0 * half / (1.0 + half * half)
    a = np.abs(cos * x + sin * y) / draws.between(0.1, 0.5)
    b = np.abs(cos * y - sin * x) / draws.between(0.06, 0.22)
    distance = np.where(draws.between(0.0, 1.0) < 0.5, np.maximum(a, b), _radius(a, b))
    return _soft(1.0 - distance, 3.0)


def _paste(images: Array, colours: Array, mask: Array) -> None:
    """Lay ``colours`` over ``images`` (count, 3, 32, 32) in place where ``mask`` (count, 32, 32) is 1."""
    images += mask[:, None] * (colours - images)
