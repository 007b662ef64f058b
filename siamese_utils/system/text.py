"""Text that any terminal, pipe and file can take: what it has no sign for becomes visible instead of an error."""

from __future__ import annotations

import codecs
import io
import sys
from collections.abc import Iterable
from typing import TextIO

from siamese_utils.errors import escaped

_PLAIN = {"±": "+-", "×": "x", "…": "...", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"'}
_HANDLER = "siamese_utils.visible"


def _visible(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(sign) or escaped(sign) for sign in error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _visible)


def never_refuse(*streams: TextIO) -> None:
    """Let text streams write every sign: those that their encoding lacks in plain letters, or as an escape.

    So an answer that took a minute to compute is not lost because a pipe takes ASCII or Windows' code pages alone.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def listed(items: Iterable[object], word: str = "and") -> str:
    """Things in a sentence: ``a``, ``a and b``, ``a, b and c``.

    Args:
        items: at least one.
        word: before the last.

    Raises:
        ValueError: there is none.
    """
    if not (texts := [str(item) for item in items]):
        raise ValueError("There is nothing to list.")
    *most, last = texts
    return f"{', '.join(most)} {word} {last}" if most else last


def say(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print in the stream's own encoding, where ``typer.echo`` would write UTF-8 to one that takes ASCII.

    Args:
        text: what to print.
        err: to the error stream.
        nl: whether a line ends after it.
    """
    print(text, file=sys.stderr if err else sys.stdout, end="\n" if nl else "", flush=True)
