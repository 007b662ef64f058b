"""Image files as embeddings, however many there are: memory is bounded by the embeddings and one batch of images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from tqdm import tqdm

from siamese_utils.data.image_files import load_image
from siamese_utils.errors import ImageError
from siamese_utils.system.files import as_path

Item = TypeVar("Item")
BATCH = 100
"""Images that are held at once, as many as an encoder takes in one pass."""

_PATIENCE = 1  # seconds before a bar is shown

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileEmbeddings:
    """Embeddings of those image files that can be read.

    Attributes:
        z: float32 (M, D) on the CPU, rows of unit length.
        kept: positions of the M files among those given, ascending.
        faults: by their positions, why the others cannot be read.
    """

    z: torch.Tensor
    kept: tuple[int, ...]
    faults: dict[int, ImageError]


def embed_files(
    encoder: Any,
    files: Sequence[str | Path],
    *,
    skip_unreadable: bool | None = False,
    workers: int | None = None,
    cache: bool | None = None,
    progress: str = "images",
) -> FileEmbeddings:
    """Embed image files; a bar on a terminal shows how far it is.

    Args:
        encoder: see ``load_encoder``.
        files: image files.
        skip_unreadable: leave out files that cannot be read, and list them in a warning; ``None`` like ``False``, for
            callers that do not offer it.
        workers: that decode files at the same time; one a processor if left out.
        cache: whether embeddings are kept on disk for the next time; if left out, where the encoder has a fingerprint.
        progress: what the images are called on the bar and in an error.

    Raises:
        ImageError: files cannot be read; all of them are named.
    """
    paths, faults, parts = [as_path(file) for file in files], {}, []
    with tqdm(total=len(paths), desc=progress, unit="image", delay=_PATIENCE, leave=False, disable=None) as bar:
        for some in batches(enumerate(paths)):
            images = []
            for position, path in some:
                try:
                    images.append(load_image(path, encoder.image_size))
                except ImageError as error:
                    faults[position] = error
            if images and (skip_unreadable or not faults):
                parts.append(encoder.embed(np.stack(images)))
            bar.update(len(some))
    _tell_unreadable(list(faults.values()), len(paths), progress, skip_unreadable)
    z = torch.cat(parts) if parts else torch.empty(0, encoder.embedding_dim)
    return FileEmbeddings(z, tuple(i for i in range(len(paths)) if i not in faults), faults)


def batches(items: Iterable[Item], size: int = BATCH) -> Iterator[list[Item]]:
    """The same in lists of one size, the last perhaps smaller."""
    left = iter(items)
    while some := list(islice(left, size)):
        yield some


def _tell_unreadable(faults: Sequence[ImageError], count: int, what: str, skip: bool | None) -> None:
    """Raise an error that names all of so many files that cannot be read, or log it where they are to be skipped."""
    if not faults:
        return
    if count == 1:
        raise faults[0]
    number, listed = f"{len(faults)} of {count:,} {what}", "; ".join(error.fault for error in faults)
    if skip and len(faults) < count:
        _log.warning("Left out %s that cannot be read: %s.", number, listed)
        return
    option = ", or go on without them (skip_unreadable=True, or --skip-unreadable)" if skip is False else ""
    raise ImageError(f"{number} cannot be read: {listed}", "replace or remove them" + option) from faults[0]
