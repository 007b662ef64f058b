"""One HTML file with pictures in it, which asks no network for anything; names of files never act as markup."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from siamese_utils.data.image_files import load_image
from siamese_utils.errors import ImageError
from siamese_utils.system.files import write_text_atomically
from siamese_utils.system.progress import patient_bar

SIDE = 96
"""Pixels of a picture's side."""
MOST_CARDS = 5_000
MOST_BYTES = 12_000_000
"""Of all pictures of a page together, as text; those of the first cards are taken."""
_QUALITY = 72


@dataclass(frozen=True)
class Near:
    """An image beside that of a card.

    Attributes:
        file: path of the image.
        said: what is written below it, such as its class.
        similarity: cosine; none is drawn if it is left out.
    """

    file: str
    said: str
    similarity: float | None = None


@dataclass(frozen=True)
class Card:
    """One image and what is said of it.

    Attributes:
        file: path of the image.
        heading: the answer.
        said: one line more.
        mark: a word that makes the card stand out; empty for none.
        classes, kinds: by which it can be chosen.
        order: a value for each of the page's orders.
        bars: labels with similarities.
        near: images beside it.
        what, near_are: what the image and those beside it are, for who does not see them.
    """

    file: str
    heading: str
    said: str = ""
    mark: str = ""
    classes: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    order: tuple[float | str, ...] = ()
    bars: tuple[tuple[str, float], ...] = ()
    near: tuple[Near, ...] = ()
    what: str = "query"
    near_are: str = "nearest examples"


@dataclass(frozen=True)
class PageTable:
    """A table of a page; columns of numbers are set to the right."""

    title: str
    frame: pd.DataFrame

    @property
    def heads(self) -> list[tuple[str, bool]]:
        """Names of the columns, and whether each holds words."""
        return [(name, not pd.api.types.is_numeric_dtype(self.frame[name])) for name in self.frame]

    @property
    def rows(self) -> Iterable[list[tuple[str, bool]]]:
        """Cells as they are shown, and whether each is words."""
        words = [word for _, word in self.heads]
        for row in self.frame.itertuples(index=False):
            yield [(_cell(value), word) for value, word in zip(row, words)]


@dataclass(frozen=True)
class Page:
    """A page: sentences, tables and cards.

    Attributes:
        title: its heading.
        lead: sentences below it.
        tables: between these and the cards.
        heading: above the cards.
        cards: in the first order; of very many the first are shown.
        things: what the cards are, in plural.
        sorts: names of orders with 1 for ascending and -1 for descending; ``Card.order`` has their values.
        left_out: what to do about cards that are left out.
    """

    title: str
    lead: tuple[str, ...] = ()
    tables: tuple[PageTable, ...] = ()
    heading: str = ""
    cards: Sequence[Card] = ()
    things: str = "answers"
    sorts: tuple[tuple[str, int], ...] = ()
    left_out: str = "a table (.csv, .json or .parquet) has them all"


@dataclass
class _Album:
    """Pictures as text, each once, until there are too many bytes of them."""

    room: int
    pictures: list[str] = field(default_factory=list)
    left_out: int = 0
    _known: dict[str, int | None] = field(default_factory=dict)

    def number(self, file: str) -> int | None:
        """Position of an image's picture; none for what cannot be read or is left out."""
        if file not in self._known:
            self._known[file] = self._taken(file)
        return self._known[file]

    def _taken(self, file: str) -> int | None:
        if self.room <= 0:
            self.left_out += 1
            return None
        try:
            text = thumbnail(file)
        except ImageError:
            return None
        self.room -= len(text)
        self.pictures.append(text)
        return len(self.pictures) - 1


def thumbnail(file: str | Path) -> str:
    """The middle square of an image as a small JPEG, in base64.

    Raises:
        ImageError: it cannot be read.
    """
    stream = io.BytesIO()
    Image.fromarray(load_image(file, SIDE)).save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def write_page(target: Path, page: Page) -> None:
    """Write a page with all that it shows into one file, in one step.

    Raises:
        StorageError: it cannot be written.
    """
    write_text_atomically(target, page_html(page))


def page_html(page: Page) -> str:
    """The page as text; its scripts and styles are those of this package and no others, as its policy says."""
    from jinja2 import Environment  # slow to import, needed here alone
    from markupsafe import Markup

    album, cards = _Album(MOST_BYTES), page.cards[:MOST_CARDS]
    shown = [_with_pictures(card, album) for card in patient_bar(cards, "pictures", "card")]
    style, script = _part("page.css"), _part("page.js")
    data = {"pictures": album.pictures, "cards": shown, "sorts": page.sorts, "things": page.things}
    kinds = Counter(kind for card in cards for kind in card.kinds)
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(_part("page.html.j2"))
    return template.render(
        page=page,
        notes=_notes(page, album.left_out),
        classes=sorted({name for card in cards for name in card.classes}),
        kinds=list(kinds.items()),
        style=Markup(style),
        script=Markup(script),
        style_hash=_policy_hash(style),
        script_hash=_policy_hash(script),
        # No tag and no comment can end or begin within it.
        data=Markup(json.dumps(data, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")),
    )


def _notes(page: Page, pictures: int) -> list[str]:
    notes = []
    if len(page.cards) > MOST_CARDS:
        notes.append(
            f"The first {MOST_CARDS:,} of {len(page.cards):,} {page.things} are on this page; {page.left_out}."
        )
    if pictures:
        notes.append(f"{pictures:,} pictures further down are left out, so that the page stays small.")
    if page.cards:
        notes.append("Pictures show the middle square of each image.")
    return notes


def _with_pictures(card: Card, album: _Album) -> dict[str, Any]:
    near = [{**asdict(one), "picture": album.number(one.file)} for one in card.near]
    return {**asdict(card), "picture": album.number(card.file), "near": near}


def _part(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _policy_hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.2f}"
    return str(value)
