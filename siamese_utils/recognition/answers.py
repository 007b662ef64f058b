"""Answers as files: tables for programs, and a page of pictures for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from siamese_utils.errors import ConfigError, printable
from siamese_utils.recognition.pages import Card, Near, Page, write_page
from siamese_utils.system.files import as_path, atomic_path
from siamese_utils.system.text import listed

DOUBTFUL = 0.8
"""Answers of a lower probability than this are marked as doubtful."""
TABLES = (".csv", ".json", ".parquet")
_BARS = 5  # classes that an answer's similarities are drawn to
_NEAREST = 3


def output_path(target: str | Path, suffixes: tuple[str, ...] = (*TABLES, ".html")) -> Path:
    """A path whose ending names a format that can be written.

    Raises:
        ConfigError: it has another ending, or is a folder.
    """
    path = as_path(target, ConfigError)
    if path.suffix.lower() not in suffixes:
        ending = f"the ending {printable(path.suffix)!r}" if path.suffix else "no ending"
        raise ConfigError(f"{printable(path)} has {ending}, which names no format; choose {listed(suffixes, 'or')}.")
    if path.is_dir():
        raise ConfigError(f"{printable(path)} is a folder; name a file in it.")
    return path


def write_table(table: pd.DataFrame, target: str | Path) -> Path:
    """Write a table in one step, as CSV, JSON (a list with an object a row) or Parquet by the file's ending.

    Returns:
        the file.

    Raises:
        ConfigError: another ending.
        StorageError: it cannot be written; what was there before stays.
    """
    path = output_path(target, TABLES)
    with atomic_path(path) as temporary:
        if path.suffix.lower() == ".csv":
            table.to_csv(temporary, index=False, float_format="%.6g", lineterminator="\n", encoding="utf-8")
        elif path.suffix.lower() == ".json":
            table.to_json(temporary, orient="records", force_ascii=False, indent=1, double_precision=6)
        else:
            table.to_parquet(temporary, index=False)
    return path


def write_either(target: str | Path, table: Callable[[], pd.DataFrame], page: Callable[[], Page]) -> Path:
    """Write a table or a page of pictures, as the file's ending says; only that one is made.

    Returns:
        the file.

    Raises:
        ConfigError: another ending.
        StorageError: it cannot be written; what was there before stays.
    """
    path = output_path(target)
    if path.suffix.lower() != ".html":
        return write_table(table(), path)
    write_page(path, page())
    return path


def write_answers(table: pd.DataFrame, target: str | Path, encoder: str = "", note: str = "") -> Path:
    """Write answers into one file, a table or a page of pictures by its ending.

    Args:
        table: see ``classify_folder``.
        target: ends in ``.csv``, ``.json``, ``.parquet`` or ``.html``.
        encoder: its name, for the page.
        note: a sentence about it, for the page.

    Returns:
        the file.

    Raises:
        ConfigError: another ending.
        StorageError: it cannot be written; what was there before stays.
    """
    return write_either(target, lambda: table, lambda: answers_page(table, encoder, note))


def answers_page(table: pd.DataFrame, encoder: str = "", note: str = "") -> Page:
    """The page of answers, doubtful ones first.

    Args:
        table: see ``classify_folder``.
        encoder: its name.
        note: a sentence about it.
    """
    cards = sorted((_card(row) for row in table.to_dict("records")), key=lambda card: card.order[0])
    marks = [card.mark for card in cards]
    found = f"{len(cards):,} image{'s' * (len(cards) != 1)}"
    found += "".join(f", {marks.count(mark):,} {mark}" for mark in ("unknown", "doubtful") if mark in marks)
    lead = [f"{found}." + (f" Compared by the encoder {encoder}." if encoder else "")]
    if "probability" in table:
        lead.append(
            f"Doubtful are those with a probability below {DOUBTFUL}. The probability is that of the answer, if the "
            "image is of one of the classes; similarity is the cosine to the mean of the class's examples, at most 1; "
            "lead is how much higher it is than for the next class."
        )
    return Page(
        "Which of your classes is it?",
        tuple([*lead, note] if note else lead),
        heading="Answers",
        cards=cards,
        sorts=(("doubtful first", 1), ("surest first", -1), ("by class", 1), ("by file name", 1)),
    )


def write_found(table: pd.DataFrame, target: str | Path, encoder: str = "") -> Path:
    """Write what a search has found into one file, a table or a page of pictures by its ending.

    Args:
        table: see ``search_files``.
        target: ends in ``.csv``, ``.json``, ``.parquet`` or ``.html``.
        encoder: its name, for the page.

    Returns:
        the file.

    Raises:
        ConfigError: another ending.
        StorageError: it cannot be written; what was there before stays.
    """
    return write_either(target, lambda: table, lambda: _found_page(table, encoder))


def _found_page(table: pd.DataFrame, encoder: str) -> Page:
    cards = []
    for number, (query, found) in enumerate(table.groupby("query", sort=False)):
        near = tuple(Near(row.image, Path(row.image).parent.name, row.similarity) for row in found.itertuples())
        best, name = float(found.similarity.max()), str(query)
        order = (number, name, -best)
        said = f"The most similar image: {best:.2f}."
        cards.append(Card(name, Path(name).name, said, order=order, near=near, near_are="nearest images"))
    sorts = (("as asked", 1), ("by file name", 1), ("most alike first", 1))
    lead = f"Compared by the encoder {encoder}; similarities are cosines." if encoder else "Similarities are cosines."
    return Page("Which images are most like it?", (lead,), (), "Found", cards, "queries", sorts)


def _card(row: Mapping[str, Any]) -> Card:
    probability, unknown = _number(row.get("probability")), bool(row.get("unknown", False))
    sure = row["margin"] if probability is None else probability
    doubtful = probability is not None and probability < DOUBTFUL
    mark = "unknown" if unknown else "doubtful" if doubtful else ""
    shown = None if unknown else probability  # of one that is of none of the classes it would read as the opposite
    measured = {"probability": shown, "similarity": row["similarity"], "lead": row["margin"]}
    prediction, file = str(row["prediction"]), str(row["query"])
    return Card(
        file,
        "none of these" if unknown else prediction,
        f"most like {prediction}: " * unknown
        + ", ".join(f"{name} {value:.2f}" for name, value in measured.items() if value is not None)
        + "; it stands among the examples" * bool(row.get("in_support", False)),
        mark,
        (prediction,),
        (mark or "sure",),
        (sure - 2 * unknown, sure - 2 * unknown, prediction, file),
        tuple(_similarities(row)),
        tuple(_nearest(row)),
    )


def _similarities(row: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for place in range(1, _BARS + 1):
        value = _number(row.get(f"similarity_{place}"))
        if value is not None:
            yield str(row[f"class_{place}"]), value


def _nearest(row: Mapping[str, Any]) -> Iterator[Near]:
    for place in range(1, _NEAREST + 1):
        file = row.get(f"nearest_{place}")
        if isinstance(file, str) and file:
            yield Near(file, Path(file).parent.name, _number(row.get(f"nearest_{place}_similarity")))


def _number(value: Any) -> float | None:
    """A number, or none where a table has a gap."""
    return None if value is None or pd.isna(value) else float(value)
