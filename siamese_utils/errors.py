"""Errors a user can act on: each message is one clear sentence that says what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

Entry = TypeVar("Entry")


_NOT_PRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(name: object) -> str:
    r"""A name as text that every file and table can hold: what cannot be shown becomes an escape, such as ``\xe9``.

    Names of files need not be text: bytes that are not UTF-8 come as lone surrogates (PEP 383), which no encoder
    takes, and control signs, a line break among them, would break a line of output. All other signs stay.

    Args:
        name: a name, a path, or a message with one in it.
    """
    return _NOT_PRINTABLE.sub(lambda found: escaped(found[0]), str(name))


def escaped(sign: str) -> str:
    """The escape of one sign; of a byte that is not UTF-8 that byte's."""
    if "\udc80" <= sign <= "\udcff":
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode("ascii")


class SiameseError(Exception):
    """Base of every error this package raises on purpose; the command line prints its text alone."""

    def __str__(self) -> str:
        return printable(super().__str__())


class DataError(SiameseError, ValueError):
    """A data set, image file or image folder is missing, damaged or not what it should be."""


class ImageError(DataError):
    """An image file that cannot be read.

    Args:
        fault: which file, and what is wrong with it.
        advice: what to do.
    """

    def __init__(self, fault: str, advice: str) -> None:
        super().__init__(fault, advice)
        self.fault = fault
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.fault}; {self.advice}."


class SplitError(SiameseError, ValueError):
    """A class split that does not exist or cannot be made."""


class SamplingError(SiameseError, ValueError):
    """Pairs, triplets, batches or episodes that the given images cannot supply."""


class ShapeError(SiameseError, ValueError):
    """An array of the wrong shape, type or range."""


class ConfigError(SiameseError, ValueError):
    """A configuration value that makes no sense."""


class CheckpointError(SiameseError, ValueError):
    """A checkpoint that is missing, damaged or foreign."""


class ResultsError(SiameseError, ValueError):
    """A results table that is missing a row or damaged."""


class StorageError(SiameseError, OSError):
    """A file that cannot be written: the disk is full, or the folder is read-only; what was there before is kept."""


class UnknownNameError(SiameseError, ValueError):
    """A name that no registry knows."""


class MissingPackageError(SiameseError, ImportError):
    """An optional package is not installed; not a ValueError, since nothing that was given is wrong."""


class TrainingError(SiameseError, RuntimeError):
    """Training cannot go on, for example because the loss is not a number."""


class DivergedError(TrainingError):
    """What the encoder computes is no longer finite."""


class CollapseError(TrainingError):
    """The encoder maps every image to nearly the same embedding."""


def unknown(kind: str, name: object, known: Iterable[str]) -> UnknownNameError:
    """Make the error for a name that is not in a registry, with the nearest known name as a hint.

    Args:
        kind: what was looked up, for example ``"encoder"``.
        name: what the caller asked for.
        known: the names that exist.
    """
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1) if isinstance(name, str) else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return UnknownNameError(f"Unknown {kind} {shown(name)}; known are: {', '.join(names)}.{hint}")


def look_up(kind: str, name: object, registry: Mapping[str, Entry]) -> Entry:
    """The entry of a registry by its name.

    Raises:
        UnknownNameError: no such name, or something that is no name.
    """
    if not isinstance(name, str) or name not in registry:
        raise unknown(kind, name, registry)
    return registry[name]


def shown(given: object) -> str:
    """A value as a sentence can hold it: a name or a number as it is, anything else by its kind."""
    plain = given is None or isinstance(given, (str, bytes, int, float, complex))
    return repr(given)[:60] if plain else f"a {type(given).__name__}"


def reason(error: BaseException) -> str:
    """What the system's or another library's error says, in one line without a full stop, to be quoted in a sentence.

    Of an error of this package that has such a cause, it is the cause that tells.
    """
    error = error.__cause__ or error if isinstance(error, SiameseError) else error
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
