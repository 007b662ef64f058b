"""The index that the pages are searched with: every part below a heading, with its words, as one script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bs4 import NavigableString, PageElement, Tag

_HEADINGS = ("h1", "h2", "h3", "h4")
_LEFT_OUT = {"code", "highlight", "anchor", "cards", "facts", "turn", "siamese-banner"}
_ASIDE = {"script", "style", "button", "nav", "pre"}
_IN_LINE = {"a", "abbr", "b", "code", "em", "i", "mark", "math", "small", "span", "strong", "sub", "sup"}


@dataclass
class Section:
    """A heading and what stands below it, up to the next one.

    Attributes:
        id: of the heading; empty for the page's first, whose place is the top.
        heading: as plain text.
        parts: texts below it, in order.
    """

    id: str
    heading: str
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that stands below the heading, in one line."""
        return " ".join(" ".join(self.parts).split())


def sections(soup: Tag) -> list[Section]:
    """The parts of a page: prose, sentences, tables and the descriptions of figures, but no code.

    Args:
        soup: the page's text, its headings with their ids.
    """
    found: list[Section] = []
    _collect(soup, found)
    return found


def _collect(tag: Tag, found: list[Section]) -> None:
    for child in tag.children:
        if not isinstance(child, Tag):
            _add(_words(child), found)
        elif child.name in _HEADINGS:
            place = str(child.get("id", "")) if found else ""
            found.append(Section(place, " ".join(_words(child).split())))
        elif not _is_aside(child):
            if child.find(_HEADINGS) is None:
                _add(_words(child), found)
            else:
                _collect(child, found)


def _is_aside(tag: Tag) -> bool:
    return tag.name in _ASIDE or bool(_LEFT_OUT.intersection(tag.get("class", ())))


def _words(node: PageElement) -> str:
    """The text of a node with spaces where a reader sees a gap; figures by their descriptions."""
    if not isinstance(node, Tag):
        return str(node) if type(node) is NavigableString else ""
    if _is_aside(node):
        return ""
    if node.name == "img":
        return f" {node.get('alt', '')} "
    text = "".join(map(_words, node.children))
    return text if node.name in _IN_LINE else f" {text} "


def _add(text: str, found: list[Section]) -> None:
    if text.strip():
        if not found:
            found.append(Section("", ""))
        found[-1].parts.append(text)


def script(pages: Iterable[tuple[str, str, Sequence[Section]]]) -> str:
    """The index as JavaScript: a constant ``SEARCH``, one entry a page.

    Args:
        pages: of each its file, its title and its sections.
    """
    entries = [[file, title, [[one.id, one.heading, one.text] for one in parts]] for file, title, parts in pages]
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
    # Nothing in the text may end the script that holds it.
    return f"const SEARCH = {text.replace('<', chr(92) + 'u003c')};\n"
