"""Text that any terminal, pipe and file can take: what it has no sign for becomes visible instead of an error."""

from __future__ import annotations

import codecs
import io
import re
import sys
from typing import TextIO

_NOT_PRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PLAIN = {"±": "+-", "×": "x", "…": "...", "–": "-", "—": "-", "‘": "'", "’": "'", "“": '"', "”": '"'}
_HANDLER = "siamese_utils.visible"


def printable(name: object) -> str:
    r"""A name as text that every file and table can hold: what cannot be shown becomes an escape, such as ``\xe9``.

    Names of files need not be text: bytes that are not UTF-8 come as lone surrogates (PEP 383), which no encoder
    takes, and control signs, a line break among them, would break a line of output. All other signs stay.

    Args:
        name: a name, a path, or a message with one in it.
    """
    return _NOT_PRINTABLE.sub(lambda found: _escaped(found[0]), str(name))


def _escaped(sign: str) -> str:
    if "\udc80" <= sign <= "\udcff":  # a byte that is not UTF-8, as it is
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode("ascii")


def _visible(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(sign) or _escaped(sign) for sign in error.object[error.start : error.end]), error.end


codecs.register_error(_HANDLER, _visible)


def never_refuse(*streams: TextIO) -> None:
    """Let text streams write every sign: those that their encoding lacks in plain letters, or as an escape.

    So an answer that took a minute to compute is not lost because a pipe takes ASCII or Windows' code pages alone.
    """
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def say(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print in the stream's own encoding, where ``typer.echo`` would write UTF-8 to one that takes ASCII.

    Args:
        text: what to print.
        err: to the error stream.
        nl: whether a line ends after it.
    """
    print(text, file=sys.stderr if err else sys.stdout, end="\n" if nl else "", flush=True)
