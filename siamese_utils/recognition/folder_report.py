"""What was found in a folder of examples: as text, as a table, and as a page of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from siamese_utils.errors import printable
from siamese_utils.recognition.answers import write_either
from siamese_utils.recognition.pages import Card, Near, Page, PageTable

if TYPE_CHECKING:
    from siamese_utils.evaluation.estimates import Estimate

_SHOWN = 10  # rows of each kind on a terminal
_SMALL = 5  # examples of a class up to which one fewer makes a difference
_WEAK = 80  # percent right below which the encoder is no judge of labels
_MISLABELLED, _DOUBLED, _TAKEN = "looks mislabelled", "doubled", "taken for another"


@dataclass(frozen=True, eq=False)
class FolderReport:
    """What was found in a folder of examples; ``print`` shows it, ``save`` writes it.

    Attributes:
        folder: it.
        encoder, note: name of the encoder, and a sentence about it or nothing.
        accuracy: percent of the judged images that are named right by the others, when as many are left out of every
            class.
        interval: 95% by Wilson's method, percent.
        judged: how many have another image of their class; doubled ones are counted once.
        one_shot: percent right with one random example of each class; the interval covers the choice of examples.
        classes: a row a class: ``class``, ``images`` (doubled ones are counted once), ``judged``, ``right``,
            ``likeness`` (mean cosine similarity among its images), ``remark``.
        mixed: pairs of classes that get mixed up, the most frequent first: ``class``, ``other``, ``times``, ``of``.
        mistakes: judged images that are given to another class, the clearest first: ``file``, ``class``,
            ``looks_like``, ``lead`` (of the nearest other prototype), ``nearest`` and ``similarity`` (of the other
            class), ``nearest_own`` and ``own_similarity``, and ``mislabelled``, whether the lead is so clear that the
            label may be wrong.
        doubles: ``file``, ``other``, ``class``, ``other_class``, ``kind``, ``similarity``.
        unreadable: ``file``, ``fault``.
        doubled: how many images are left out since another of their class is the same.
    """

    folder: Path
    encoder: str
    note: str
    accuracy: float
    interval: tuple[float, float]
    judged: int
    one_shot: Estimate
    classes: pd.DataFrame
    mixed: pd.DataFrame
    mistakes: pd.DataFrame
    doubles: pd.DataFrame
    unreadable: pd.DataFrame
    doubled: int = 0

    @property
    def suspects(self) -> pd.DataFrame:
        """The mistakes that look mislabelled."""
        return self.mistakes[self.mistakes.mislabelled]

    def __str__(self) -> str:
        parts = ["\n".join(self.sentences())]
        for title, rows in self._listed():
            more = [f"  and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else []
            parts.append("\n".join([title, *(f"  {row}" for row in rows[:_SHOWN]), *more]))
        return "\n\n".join(parts)

    def sentences(self) -> list[str]:
        """How well it works, in sentences."""
        low, high = self.interval
        images = int(self.classes.images.sum()) + self.doubled
        once = "doubles another of its class and counts"
        if self.doubled > 1:
            once = "double another of their class and count"
        said = [
            f"{images:,} images of {len(self.classes):,} classes"
            + f" ({self.doubled:,} {once} once)" * bool(self.doubled)
            + (f", compared by the encoder {self.encoder}." if self.encoder else "."),
            f"Named right by the other examples: {self.accuracy:.1f}% (95% interval {low:.1f} to {high:.1f}) of "
            f"{self.judged:,} images; with one example of each class it would be "
            f"{self.one_shot.value:.1f} ± {self.one_shot.ci95:.1f}%.",
        ]
        if self.classes.images.median() <= _SMALL:
            said.append("Each is named by one example fewer than new images will be, so these may do somewhat better.")
        if self.accuracy < _WEAK and len(self.suspects):
            said.append("With so many mistakes, an example that looks mislabelled may well be right.")
        return [*said, self.note] if self.note else said

    def _listed(self) -> Iterator[tuple[str, list[str]]]:
        """Headings with what stands below each, as lines."""
        remarked = self.classes[self.classes.remark != ""]
        for title, rows in (
            ("Classes to look at:", [f"{row[1]}: {row.remark}" for row in remarked.itertuples()]),
            (
                "Classes that get mixed up:",
                [f"{row[1]} and {row.other}: {row.times} of {row.of}" for row in self.mixed.itertuples()],
            ),
            (
                "Examples that look mislabelled:",
                [
                    f"{row.file}: looks like {row.looks_like} (lead {row.lead:.2f})"
                    for row in self.suspects.itertuples()
                ],
            ),
            ("Doubled:", [f"{row.file} and {row.other}: {_told(row)}" for row in self.doubles.itertuples()]),
            ("Unreadable:", list(self.unreadable.fault)),
        ):
            if rows:
                yield title, rows

    def table(self) -> pd.DataFrame:
        """Everything in one table.

        Returns:
            ``finding``, ``class``, ``file``, ``other_class``, ``other_file``, ``value``, ``remark``.
        """
        one = self.one_shot
        rows: list[tuple[object, ...]] = [
            ("accuracy", "", "", "", "", self.accuracy, f"of {self.judged} images"),
            ("accuracy, low end", "", "", "", "", self.interval[0], "95%"),
            ("accuracy, high end", "", "", "", "", self.interval[1], "95%"),
            ("accuracy with one example", "", "", "", "", one.value, f"± {one.ci95:.2f}"),
        ]
        for row in self.classes.itertuples():
            share = 100 * row.right / row.judged if row.judged else None
            rows.append(
                ("class", row[1], "", "", "", share, "; ".join(filter(None, [f"of {row.judged} images", row.remark])))
            )
        rows += [
            ("mixed up", row[1], "", row.other, "", row.times, f"of {row.of} images") for row in self.mixed.itertuples()
        ]
        for row in self.mistakes.itertuples():
            finding = _MISLABELLED if row.mislabelled else _TAKEN
            rows.append((finding, row[2], row.file, row.looks_like, row.nearest, row.lead, ""))
        for row in self.doubles.itertuples():
            rows.append((_DOUBLED, row[3], row.file, row.other_class, row.other, row.similarity, row.kind))
        rows += [("unreadable", "", row.file, "", "", None, row.fault) for row in self.unreadable.itertuples()]
        columns = ["finding", "class", "file", "other_class", "other_file", "value", "remark"]
        return pd.DataFrame(rows, columns=columns)

    def save(self, target: str | Path) -> Path:
        """Write the report: a table, or a page of pictures.

        Args:
            target: ends in ``.csv``, ``.json``, ``.parquet`` or ``.html``.

        Returns:
            the file.

        Raises:
            ConfigError: another ending.
            StorageError: it cannot be written; what was there before stays.
        """
        return write_either(target, self.table, self.page)

    def page(self) -> Page:
        """The page of pictures."""
        classes = self.classes.assign(
            right=[f"{row.right} of {row.judged}" if row.judged else "–" for row in self.classes.itertuples()]
        )
        tables = [PageTable("Classes", classes[["class", "right", "likeness", "remark"]])]
        if len(self.mixed):
            tables.append(PageTable("Classes that get mixed up", self.mixed))
        if len(self.unreadable):
            tables.append(PageTable("Unreadable", self.unreadable[["fault"]]))
        cards = sorted([*self._mistaken(), *self._doubled()], key=lambda card: card.order[0])
        return Page(
            f"How well will {printable(self.folder.name or self.folder)} work?",
            (*self.sentences(), "Likeness is the mean cosine similarity among the images of a class, at most 1."),
            tuple(tables),
            "Images to look at",
            cards,
            "images",
            (("clearest first", 1), ("by class", 1), ("by file name", 1)),
        )

    def _mistaken(self) -> Iterator[Card]:
        for row in self.mistakes.itertuples():
            own = row[2]
            kind = _MISLABELLED if row.mislabelled else _TAKEN
            yield Card(
                row.file,
                f"{own}? It looks like {row.looks_like}" if row.mislabelled else f"{own}, taken for {row.looks_like}",
                f"Nearer to {row.looks_like} by {row.lead:.2f}." if row.lead > 0 else "",
                kind if row.mislabelled else "",
                (own, row.looks_like),
                (kind,),
                (-row.lead - 10 * row.mislabelled, own, row.file),
                near=(
                    Near(row.nearest, row.looks_like, row.similarity),
                    Near(row.nearest_own, f"{own}, its own", row.own_similarity),
                ),
                what="example",
            )

    def _doubled(self) -> Iterator[Card]:
        for row in self.doubles.itertuples():
            own, apart = row[3], row[3] != row.other_class
            yield Card(
                row.file,
                f"{own}: {row.kind}",
                "",
                "in two classes" if apart else "",
                (own, row.other_class) if apart else (own,),
                (_DOUBLED,),
                (-8.0 if apart else -6.0, own, row.file),
                near=(Near(row.other, row.other_class, row.similarity),),
                what="example",
                near_are="the image it doubles",
            )


def _told(row: object) -> str:
    """What two images have in common, and whether that can be meant."""
    one: str = row.kind  # type: ignore[attr-defined]
    return one if row[3] == row.other_class else f"{one}, in two classes"  # type: ignore[attr-defined,index]
