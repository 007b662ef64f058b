"""What a study has found, ready for a page: an illustration, a table or a sentence.

A *finding* is a function that returns an :class:`Illustration`, a :class:`Table`, a Markdown string, or several of
them in the order in which they are read. It raises :class:`~siamese_utils.errors.ResultsError` where its numbers are
not stored yet; the message names the command that makes them. ``page.show`` of a notebook displays either.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Illustration:
    """A figure that can be shown and saved.

    Attributes:
        figure: the figure; whoever shows it closes it.
        name: file name without ending, such as ``04_growth``.
        alt: what a reader who cannot see it should know: what is shown, and the main finding.
    """

    figure: Figure
    name: str
    alt: str


@dataclass(frozen=True, eq=False)
class Table:
    """A table with a caption.

    Attributes:
        frame: one row a line, already in the order and with the names that are shown.
        caption: what the numbers are, with their unit and what an interval is over.
        decimals: digits after the point, for every float.
    """

    frame: pd.DataFrame
    caption: str
    decimals: int = 2


Shown: TypeAlias = Illustration | Table | str
Finding: TypeAlias = Callable[..., Shown | Sequence[Shown]]
