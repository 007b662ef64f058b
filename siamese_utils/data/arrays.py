"""What a user hands over, as tensors and numbers: each kind of argument is turned into the right form in one place.

Tensors, NumPy arrays, columns of a table and lists are all taken. What cannot be meant otherwise is converted; the rest
is refused in one sentence that names the argument.
"""

from __future__ import annotations

import operator
import os
from typing import Any

import numpy as np
import torch

from siamese_utils.errors import ConfigError, SamplingError, ShapeError, SiameseError, shown

MOST = 100_000_000  # of anything that is counted: more would not fit into memory


def as_tensor(what: str, given: Any) -> torch.Tensor:
    """Numbers in any form as a tensor; one that is a tensor already stays as it is, with device and gradient.

    Args:
        what: name of the argument in an error, such as ``"Embeddings"``.
        given: tensor, NumPy array, column of a table, or list of numbers or of arrays of one shape.

    Raises:
        ShapeError: no numbers, or rows of different lengths.
    """
    if isinstance(given, torch.Tensor):
        if given.is_meta or given.is_quantized:
            raise ShapeError(f"{what} must hold numbers, but this is a tensor without any; make a plain one.")
        return given if given.layout == torch.strided else given.to_dense()
    try:
        if isinstance(given, (list, tuple)) and given and all(isinstance(part, torch.Tensor) for part in given):
            return torch.stack(tuple(given))
        array = np.asarray(given)
        # Torch cannot share read-only or reversed arrays, nor those of the other byte order.
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ShapeError(f"{what} must be one array of numbers, not {_kind(given)}; make one of them.") from error


def as_list(given: Any) -> list[Any]:
    """What is in a list or another collection; anything else, and a name, alone."""
    if isinstance(given, (str, bytes, os.PathLike)):
        return [given]
    try:
        return list(given)
    except TypeError:
        return [given]


def as_labels(given: Any, count: int | None = None, error: type[SiameseError] = ShapeError) -> torch.Tensor:
    """Labels as int64 (N,), on the device where they are.

    Args:
        given: whole numbers in any form, see ``as_tensor``.
        count: how many there must be, N; any number if None.
        error: what is raised.

    Raises:
        ShapeError: other numbers, another shape, or another count.
    """
    try:
        labels = as_tensor("Labels", given)
    except ShapeError as wrong:
        if any(isinstance(one, str) for one in as_list(given)):
            raise error(
                f"Labels must be whole numbers, not {_kind(given)}; numpy.unique(names, return_inverse=True)[1] makes "
                "them of names."
            ) from wrong
        raise error(str(wrong)) from wrong
    if not labels.numel() and labels.ndim == 1 and not count:
        return labels.long()
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim != 1 or not whole or count not in (None, len(labels)):
        wanted = "one row of whole numbers" if count is None else f"{count} whole numbers, one for each embedding"
        raise error(f"Labels must be {wanted}, but got shape {tuple(labels.shape)} and type {labels.dtype}.")
    return labels.long()


def as_label(given: Any, error: type[SiameseError] = ShapeError) -> int:
    """One label.

    Raises:
        ShapeError: no whole number.
    """
    return int(as_labels([given], error=error))


def as_classes(given: Any, error: type[SiameseError]) -> tuple[int, ...]:
    """Class labels, none of them twice, ascending.

    Args:
        given: whole numbers in any order: an array, a list, a set, a range.
        error: what is raised for anything else.
    """
    numbers = given if hasattr(given, "__array__") else as_list(given)
    classes = sorted(as_labels(numbers, error=error).tolist())
    if len(set(classes)) != len(classes):
        raise error("The list of classes names a class twice; name each class once.")
    return tuple(classes)


def as_embeddings(
    given: Any, what: str = "Embeddings", columns: int | None = None, finite: bool = True
) -> torch.Tensor:
    """Embeddings as a float tensor (N, D), on the device where they are and with their gradient.

    Args:
        given: floating-point numbers in any form, see ``as_tensor``.
        what: their name in an error.
        columns: D; any number if None.
        finite: whether all must be finite.

    Raises:
        ShapeError: other numbers, another shape, or numbers that are not finite.
    """
    z = as_tensor(what, given)
    if z.ndim != 2 or not z.is_floating_point() or columns not in (None, z.shape[1]) or not z.shape[1]:
        raise ShapeError(
            f"{what} must be a table of floating-point numbers, one row an image"
            + (f" and {columns} columns" if columns else "")
            + f", but got shape {tuple(z.shape)} and type {z.dtype}."
        )
    if finite and not bool(z.isfinite().all()):
        raise ShapeError(f"{what} hold numbers that are not finite; look for what made them so.")
    return z


def labelled(
    taker: str, z: Any, labels: Any, columns: int | None = None, finite: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (N, D) and their labels, int64 (N,), of which there is at least one; see ``as_embeddings``.

    Args:
        taker: who takes them, for an error.
        z, labels: what was given.
        columns, finite: see ``as_embeddings``.

    Raises:
        ShapeError: they are not of the right kind, or do not fit each other.
        SamplingError: there are none.
    """
    try:
        z = as_embeddings(z, columns=columns, finite=finite)
        labels = as_labels(labels, len(z)).to(z.device)
    except ShapeError as error:
        raise ShapeError(f"{taker} takes embeddings (N, D) with one label each. {error}") from error
    if not len(z):
        raise SamplingError(f"{taker} takes one embedding or more, but there is none.")
    return z, labels


def as_count(what: str, given: Any, least: int = 1, error: type[SiameseError] = ConfigError) -> int:
    """A whole number between ``least`` and ``MOST``.

    Args:
        what: what is counted, as the beginning of a sentence.
        given: an int of Python, NumPy or torch.
        least: the smallest that is taken.
        error: what is raised.

    Raises:
        ConfigError: something else.
    """
    try:
        number = operator.index(given)
    except TypeError:
        number = least - 1
    if isinstance(given, (bool, np.bool_)) or not least <= number <= MOST:
        most = f" and at most {MOST:,}" if number > MOST else ""
        raise error(f"{what} must be a whole number, {least} or more{most}, but got {shown(given)}.")
    return number


def as_row(what: str, given: Any) -> torch.Tensor:
    """Finite numbers or flags as a tensor (N,).

    Raises:
        ShapeError: another shape, or numbers that are not finite.
    """
    row = as_tensor(what, given).detach().cpu()
    row = row.float() if row.dtype == torch.bfloat16 else row  # which NumPy does not know
    if row.ndim != 1 or row.is_complex() or not bool(row.isfinite().all()):
        raise ShapeError(f"{what} must be one row of finite numbers, but got shape {tuple(row.shape)} of {row.dtype}.")
    return row


def as_flag(what: str, given: Any, error: type[SiameseError] = ConfigError) -> bool:
    """True or false.

    Raises:
        ConfigError: something else.
    """
    if not isinstance(given, (bool, np.bool_)):
        raise error(f"{what} must be True or False, but got {shown(given)}.")
    return bool(given)


def as_number(what: str, given: Any, error: type[SiameseError] = ConfigError) -> float:
    """A finite number.

    Raises:
        ConfigError: something else.
    """
    try:
        number = float("nan") if isinstance(given, str) else float(given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        number = float("nan")
    if not np.isfinite(number):
        raise error(f"{what} must be a finite number, but got {shown(given)}.")
    return number


def as_positive(what: str, given: Any, error: type[SiameseError] = ConfigError) -> float:
    """A finite number above zero.

    Raises:
        ConfigError: something else.
    """
    number = as_number(what, given, error)
    if not number > 0:
        raise error(f"{what} must be positive, but got {shown(given)}.")
    return number


def as_rng(given: Any) -> np.random.Generator:
    """A random generator; a seed is made into one.

    Raises:
        SamplingError: neither of them.
    """
    if isinstance(given, np.random.Generator):
        return given
    if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 0:
        raise SamplingError(
            f"A random generator is needed, or a whole number as its seed, not {type(given).__name__}; make one with "
            "numpy.random.default_rng(0)."
        )
    return np.random.default_rng(int(given))


def _kind(given: object) -> str:
    if isinstance(given, np.ndarray):
        return f"an array of {given.dtype}"
    inside = f" of {type(given[0]).__name__}" if isinstance(given, (list, tuple)) and given else ""
    return f"a {type(given).__name__}{inside}"
