"""Symbols to start from in the drawing app: small sets, drawn by hand as lists of points.

A stroke is a list of points ``(x, y)`` on a canvas of 400 by 400 units, x to the right, y downwards; a symbol is a list
of strokes. :func:`redrawn` draws a symbol once more with a less steady hand, so that every set comes with queries.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

CANVAS = 400  # units along each side of the canvas
Strokes = list[list[tuple[float, float]]]


def _arc(x: float, y: float, across: float, down: float, start: float, stop: float) -> list[tuple[float, float]]:
    """Part of an ellipse around (x, y), in degrees from the right, clockwise as seen on the screen."""
    steps = max(4, round(abs(stop - start) / 8))
    angles = (math.radians(start + (stop - start) * step / steps) for step in range(steps + 1))
    return [(x + across * math.cos(angle), y + down * math.sin(angle)) for angle in angles]


def _rays(x: float, y: float, inner: float, outer: float, count: int) -> Strokes:
    """Short lines that point away from (x, y)."""
    angles = [2 * math.pi * number / count for number in range(count)]
    return [[(x + r * math.cos(a), y + r * math.sin(a)) for r in (inner, outer)] for a in angles]


EXAMPLE_SETS: Mapping[str, Mapping[str, Strokes]] = {
    "Three arrows": {
        "up": [[(200, 340), (200, 60)], [(120, 150), (200, 60), (280, 150)]],
        "right": [[(60, 200), (340, 200)], [(250, 120), (340, 200), (250, 280)]],
        "turn back": [
            [(290, 340), (290, 180), *_arc(205, 180, 85, 90, 0, -180), (120, 290)],
            [(60, 230), (120, 300), (180, 230)],
        ],
    },
    "Runes": {
        "fehu": [[(140, 350), (140, 50)], [(140, 180), (280, 70)], [(140, 260), (280, 150)]],
        "raidho": [[(130, 350), (130, 50), (260, 130), (130, 210), (270, 350)]],
        "gebo": [[(90, 70), (310, 330)], [(310, 70), (90, 330)]],
        "hagalaz": [[(110, 50), (110, 350)], [(290, 50), (290, 350)], [(110, 150), (290, 250)]],
        "algiz": [[(200, 350), (200, 50)], [(90, 60), (200, 190), (310, 60)]],
        "sowilo": [[(260, 50), (140, 160), (260, 230), (140, 350)]],
        "tiwaz": [[(200, 350), (200, 50)], [(100, 140), (200, 50), (300, 140)]],
        "othala": [[(90, 350), (290, 160), (200, 50), (110, 160), (310, 350)]],
    },
    "Greek letters": {
        "alpha": [[(320, 90), (270, 210), *_arc(180, 210, 95, 100, 20, 340), (265, 190), (290, 290), (330, 310)]],
        "gamma": [[(90, 90), (150, 100), (200, 230), (205, 340)], [(310, 80), (200, 230), (190, 340), (210, 350)]],
        "lambda": [[(110, 60), (150, 70), (300, 340)], [(205, 185), (90, 340)]],
        "xi": [[(100, 70), (300, 70)], [(130, 200), (270, 200)], [(100, 330), (300, 330)]],
        "phi": [_arc(200, 200, 110, 85, 0, 360), [(200, 40), (200, 360)]],
        "psi": [[(80, 80), (90, 190), *_arc(200, 185, 110, 75, 180, 0), (320, 80)], [(200, 50), (200, 360)]],
        "omega": [[(70, 340), (150, 340), *_arc(200, 180, 110, 120, 110, 430), (250, 340), (330, 340)]],
    },
    "Weather icons": {
        "sun": [_arc(200, 200, 75, 75, 0, 360), *_rays(200, 200, 110, 165, 8)],
        "cloud": [
            [
                (95, 290),
                *_arc(105, 230, 60, 60, 100, 270),
                *_arc(185, 165, 75, 70, 200, 330),
                *_arc(290, 225, 65, 65, 270, 450),
                (95, 290),
            ]
        ],
        "rain": [
            [*_arc(200, 180, 130, 110, 180, 360), (70, 180)],
            [(130, 230), (100, 330)],
            [(205, 230), (175, 330)],
            [(280, 230), (250, 330)],
        ],
        "lightning": [[(240, 40), (120, 220), (220, 220), (150, 360)]],
        "snow": [
            [(200, 50), (200, 350)],
            [(70, 125), (330, 275)],
            [(330, 125), (70, 275)],
            [(165, 75), (200, 110), (235, 75)],
            [(165, 325), (200, 290), (235, 325)],
        ],
        "moon": [[*_arc(180, 200, 140, 145, -70, -290), *_arc(270, 200, 130, 140, 110, 250)]],
    },
}

# Pairs for the first mode: title, then set and symbol on the left and on the right.
EXAMPLE_PAIRS: Sequence[tuple[str, tuple[str, str], tuple[str, str]]] = (
    ("One rune, drawn twice", ("Runes", "raidho"), ("Runes", "raidho")),
    ("Two runes", ("Runes", "fehu"), ("Runes", "othala")),
    ("One letter, drawn twice", ("Greek letters", "omega"), ("Greek letters", "omega")),
    ("Two near relations", ("Greek letters", "phi"), ("Greek letters", "psi")),
)


def redrawn(strokes: Strokes, seed: int) -> Strokes:
    """Draw a symbol again by an unsteadier hand: a little turned, stretched, slanted and wavy.

    Args:
        strokes: the symbol; it stays as it is.
        seed: the same seed gives the same drawing.

    Returns:
        Strokes of closely spaced points, rounded to a tenth of a unit, inside the canvas.
    """
    hand = np.random.default_rng(seed)
    turn, slant = math.radians(hand.uniform(-7, 7)), hand.uniform(-0.12, 0.12)
    stretch = hand.uniform(0.82, 1.0, 2)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    matrix = matrix @ np.array([[stretch[0], slant], [0, stretch[1]]])
    frequency, phase = hand.uniform(0.6, 1.3, (2, 2)), hand.uniform(0, 2 * math.pi, (2, 2))
    drawn: Strokes = []
    for stroke in strokes:
        points = _dense(np.asarray(stroke, dtype=float)) + hand.normal(0, 4, 2) - CANVAS / 2
        waves = np.sin(points @ (frequency * 2 * math.pi / CANVAS) + phase[0]) * 7
        moved = points @ matrix.T + waves + CANVAS / 2
        drawn.append([(round(float(x), 1), round(float(y), 1)) for x, y in np.clip(moved, 12, CANVAS - 12)])
    return drawn


def _dense(points: np.ndarray, step: float = 12) -> np.ndarray:
    """The same line with a point at least every ``step`` units, so that it can be bent."""
    pieces = [points[:1]]
    for begin, end in pairwise(points):
        count = max(1, math.ceil(float(np.hypot(*(end - begin))) / step))
        pieces.append(begin + (end - begin) * (np.arange(1, count + 1) / count)[:, None])
    return np.concatenate(pieces)
