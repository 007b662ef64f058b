"""The images a notebook works on: the real ones, or the synthetic stand-in where they are not to be had."""

from __future__ import annotations

import warnings
from pathlib import Path

from siamese_utils.data.cifar import load_cifar100
from siamese_utils.data.images import ImageSet, Part, check_part
from siamese_utils.data.sources import MissingDataError, flag
from siamese_utils.data.synthetic import make_synthetic


class SyntheticDataWarning(UserWarning):
    """CIFAR-100 could not be reached, so the synthetic set stands in for it."""


def load_images(
    part: Part, *, fallback: bool = True, root: Path | str | None = None, download: bool = True, cache: bool = True
) -> ImageSet:
    """Load CIFAR-100 or, where it cannot be reached, the synthetic set that stands in for it.

    Args:
        part: ``"train"`` or ``"test"``.
        fallback: whether the synthetic set may stand in; it never does for a *damaged* copy of CIFAR-100.
        root, download, cache: as for :func:`load_cifar100`.

    Returns:
        The set; ask its ``is_synthetic`` before showing numbers.

    Raises:
        DataError: the copy of CIFAR-100 is damaged, or there is none and ``fallback`` is off.
        UnknownNameError: ``part`` is neither of the two.

    Warns:
        SyntheticDataWarning: one sentence that says why the synthetic set stands in.
    """
    check_part(part)
    if flag("SIAMESE_SYNTHETIC"):
        return make_synthetic(part)
    try:
        return load_cifar100(part, root=root, download=download, cache=cache)
    except MissingDataError as error:
        if not fallback:
            remedy = "or set SIAMESE_SYNTHETIC=1 to use the synthetic set."
            raise MissingDataError(f"{str(error).removesuffix('.')}, {remedy}") from error
        notice = f"The synthetic set stands in for CIFAR-100: {error}"
        warnings.warn(notice, SyntheticDataWarning, stacklevel=2)
    return make_synthetic(part)
