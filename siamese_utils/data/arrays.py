"""What a user hands over, as tensors and numbers: each kind of argument is turned into the right form in one place.

Tensors, NumPy arrays, columns of a table and lists are all taken. What cannot be meant otherwise is converted; the rest
is refused in one sentence that names the argument.
"""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch

from siamese_utils.errors import ConfigError, SamplingError, ShapeError, SiameseError

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
        return given
    try:
        if isinstance(given, (list, tuple)) and given and all(isinstance(part, torch.Tensor) for part in given):
            return torch.stack(tuple(given))
        array = np.asarray(given)
        # Torch cannot share read-only or reversed arrays, nor those of the other byte order.
        return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        kind = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else f"a {type(given).__name__}"
        raise ShapeError(
            f"{what} must be one array of numbers, not {kind}; make a tensor or an array of them."
        ) from error


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
        raise error(str(wrong)) from wrong
    if not labels.numel() and labels.ndim == 1 and not count:
        return labels.long()
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if labels.ndim != 1 or not whole or count not in (None, len(labels)):
        wanted = "one row of whole numbers" if count is None else f"{count} whole numbers, one for each row"
        raise error(f"Labels must be {wanted}, but got shape {tuple(labels.shape)} and type {labels.dtype}.")
    return labels.long()


def as_embeddings(given: Any, what: str = "Embeddings", columns: int | None = None) -> torch.Tensor:
    """Embeddings as a float tensor (N, D), on the device where they are and with their gradient.

    Args:
        given: floating-point numbers in any form, see ``as_tensor``.
        what: their name in an error.
        columns: D; any number if None.

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
    if not bool(z.isfinite().all()):
        raise ShapeError(f"{what} hold numbers that are not finite; look for what made them so.")
    return z


def labelled(z: Any, labels: Any, columns: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (N, D) and their labels, int64 (N,), of which there is at least one; see ``as_embeddings``.

    Raises:
        ShapeError: they are not of the right kind, or do not fit each other.
        SamplingError: there are none.
    """
    z = as_embeddings(z, columns=columns)
    labels = as_labels(labels, len(z))
    if not len(z):
        raise SamplingError("There are no embeddings; give one image or more.")
    return z, labels.to(z.device)


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
        raise error(f"{what} must be a whole number, {least} or more{most}, but got {_shown(given)}.")
    return number


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
        raise error(f"{what} must be a finite number, but got {_shown(given)}.")
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


def _shown(given: object) -> str:
    """A short value as it is, anything else by its kind."""
    plain = given is None or isinstance(given, (str, int, float, complex, np.generic))
    return f"{given!r:.60}" if plain else f"a {type(given).__name__}"
