"""Image files as embeddings, however many there are: memory is bounded by the embeddings and one batch of images."""

from __future__ import annotations

import logging
import pickle
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from siamese_utils.data.arrays import as_count, as_flag, as_list
from siamese_utils.data.image_files import load_image
from siamese_utils.encoders.checkpoints import as_encoder
from siamese_utils.errors import ConfigError, ImageError
from siamese_utils.recognition.cache import Content, EmbeddingCache
from siamese_utils.system.cluster import spread
from siamese_utils.system.devices import processors
from siamese_utils.system.files import as_path
from siamese_utils.system.progress import patient_bar

Item, Result = TypeVar("Item"), TypeVar("Result")
BATCH = 100
"""Images that are held at once, as many as an encoder takes in one pass."""

_PART = 500  # files that a worker of a cluster is given at once

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FileEmbeddings:
    """Embeddings of those image files that can be read.

    Attributes:
        z: float32 (M, D) on the CPU, rows of unit length.
        kept: positions of the M files among those given, ascending.
        faults: by their positions, why the others cannot be read.
        digests: of the M files' contents, BLAKE2b of 32 hexadecimal digits; empty where it was not taken.
    """

    z: torch.Tensor
    kept: tuple[int, ...]
    faults: dict[int, ImageError]
    digests: tuple[str, ...]


def embed_files(
    encoder: Any,
    files: Sequence[str | Path],
    *,
    skip_unreadable: bool | None = False,
    workers: int | None = None,
    cache: bool | None = None,
    progress: str = "images",
    views: str | None = None,
    scheduler: str | None = None,
) -> FileEmbeddings:
    """Embed image files; a bar on a terminal shows images a second and the time that is left.

    Files are decoded by several threads, a little ahead of the encoder, so that memory does not grow with their number.

    Args:
        encoder: see ``load_encoder``.
        files: image files.
        skip_unreadable: leave out files that cannot be read, and list them in a warning; ``None`` like ``False``, for
            callers that do not offer it.
        workers: threads that decode; one a processor if left out.
        cache: whether embeddings are kept on disk and found there the next time (see ``recognition.cache``); if left
            out, where the encoder has a fingerprint.
        progress: what the images are called on the bar and in an error.
        views: of each image, see ``embed`` of the encoder; its own if left out.
        scheduler: address of a Dask scheduler, ``tcp://…``, whose workers are to embed the files, which must lie where
            they can read them; this process if left out.

    Raises:
        ImageError: files cannot be read; all of them are named.
        ConfigError: ``workers`` is no number of threads, an encoder without a fingerprint is to be cached, or the
            cluster cannot be reached.
    """
    encoder = as_encoder(encoder)
    paths = [as_path(file) for file in as_list(files)]
    settings = _Settings.of(encoder, workers, cache, views)
    stop = not skip_unreadable
    with patient_bar(None, progress, "image", len(paths)) as bar:
        if scheduler is None:
            embedded = _embed_here(encoder, paths, settings, stop, bar.update)
        else:
            embedded = _embed_there(encoder, paths, settings, scheduler, bar.update)
    _tell_unreadable(list(embedded.faults.values()), len(paths), progress, skip_unreadable)
    return embedded


@dataclass(frozen=True)
class _Settings:
    """How files are embedded: threads that decode, whether with the cache, and which views."""

    workers: int
    cached: bool
    views: str | None

    @classmethod
    def of(cls, encoder: Any, workers: int | None, cache: bool | None, views: str | None) -> _Settings:
        threads = processors() if workers is None else as_count("The number of threads that decode", workers)
        known = hasattr(encoder, "fingerprint")
        if cache and not known:
            raise ConfigError("This encoder has no fingerprint to find its embeddings by; leave the cache out.")
        return cls(threads, known if cache is None else as_flag("cache", cache), views)

    def key(self, encoder: Any) -> str:
        """What the cache knows the encoder by."""
        kind = type(encoder)
        return f"{kind.__module__}.{kind.__qualname__} {encoder.fingerprint} {self.views or ''}"

    def side(self, encoder: Any) -> int:
        """Side in pixels of the images that the encoder takes as they are."""
        return encoder.input_side(self.views) if hasattr(encoder, "input_side") else encoder.image_size

    def embed(self, encoder: Any, images: np.ndarray) -> torch.Tensor:
        """Embeddings of a batch."""
        return encoder.embed(images) if self.views is None else encoder.embed(images, views=self.views)


@dataclass(frozen=True)
class _Image:
    """An image to be embedded, uint8 (side, side, 3), and the file's content where its embedding is to be kept."""

    pixels: np.ndarray
    content: Content | None


@dataclass(frozen=True)
class _Known:
    """An embedding from the cache, float32 (D,)."""

    z: np.ndarray
    content: Content


def _embed_here(
    encoder: Any, paths: Sequence[Path], settings: _Settings, stop: bool, tell: Callable[[int], object]
) -> FileEmbeddings:
    """Embed files in this process; with ``stop``, one that cannot be read ends it but for the names of the others."""
    cache = EmbeddingCache(settings.key(encoder), encoder.embedding_dim) if settings.cached else None
    table = _Table(encoder, settings, cache, len(paths))
    read = partial(_read, side=settings.side(encoder), cache=cache)
    try:
        for position, found in enumerate(ahead(read, paths, settings.workers)):
            table.take(position, found)
            if max(len(table.waiting), len(table.seen)) >= BATCH or position + 1 == len(paths):
                table.flush(stop)
            tell(1)
    finally:
        if cache is not None:
            cache.close()
    return FileEmbeddings(table.z[: len(table.kept)], tuple(table.kept), table.faults, tuple(table.digests))


class _Table:
    """Embeddings as they come: those that are known, and images that wait until a batch of them is embedded."""

    def __init__(self, encoder: Any, settings: _Settings, cache: EmbeddingCache | None, count: int) -> None:
        self.encoder, self.settings, self.cache = encoder, settings, cache
        self.z = torch.empty(count, encoder.embedding_dim)
        self.kept: list[int] = []
        self.digests: list[str] = []
        self.faults: dict[int, ImageError] = {}
        self.waiting: list[tuple[int, _Image]] = []
        self.seen: list[Content] = []

    def take(self, position: int, found: _Image | _Known | ImageError) -> None:
        if isinstance(found, ImageError):
            self.faults[position] = found
            return
        row = len(self.kept)
        self.kept.append(position)
        self.digests.append(found.content.digest.hex() if found.content else "")
        if isinstance(found, _Image):
            self.waiting.append((row, found))
        else:
            self.z[row] = torch.from_numpy(found.z)
            self.seen += [] if found.content.remembered else [found.content]

    def flush(self, stop: bool) -> None:
        """Embed what waits, and keep it, unless a fault has made an end."""
        if self.waiting and not (stop and self.faults):
            rows, images = zip(*self.waiting)
            z = self.settings.embed(self.encoder, np.stack([image.pixels for image in images]))
            self.z[list(rows)] = z
            fresh = [(image.content, one) for image, one in zip(images, z.numpy()) if image.content]
            if fresh and self.cache is not None:
                contents, ones = zip(*fresh)
                self.cache.keep(contents, ones)
                self.seen += contents
        if self.cache is not None:
            self.cache.remember(self.seen)
        self.waiting, self.seen = [], []


def _read(path: Path, side: int, cache: EmbeddingCache | None) -> _Image | _Known | ImageError:
    """Decode a file, unless its embedding is known."""
    content = None
    if cache is not None:
        with suppress(OSError):  # as decoding it will say
            content = cache.content(path)
            if (z := cache.find(content.digest)) is not None:
                return _Known(z, content)
    try:
        pixels = load_image(path, side)
    except ImageError as error:
        return error
    # What was changed while it was read must not be kept under what it was before.
    return _Image(pixels, content if content and content.still_holds() else None)


def ahead(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Call a function in several threads, a batch ahead of who takes the results, and give these in order."""
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= BATCH + workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _embed_there(
    encoder: Any, paths: Sequence[Path], settings: _Settings, scheduler: str, tell: Callable[[int], object]
) -> FileEmbeddings:
    """Embed files on the workers of a cluster, a part of them at a time."""
    sent = np.frombuffer(pickle.dumps(encoder), np.uint8)  # as an array it is sent to each worker once
    starts = range(0, len(paths), _PART)
    jobs = [(start, sent, [path.absolute() for path in paths[start : start + _PART]], settings) for start in starts]
    z, faults, digests = torch.empty(len(paths), encoder.embedding_dim), {}, [""] * len(paths)
    for start, part in spread(_embed_part, jobs, scheduler):
        z[[start + position for position in part.kept]] = part.z
        for position, digest in zip(part.kept, part.digests, strict=True):
            digests[start + position] = digest
        faults |= {start + position: error for position, error in part.faults.items()}
        tell(len(part.kept) + len(part.faults))
    kept = [position for position in range(len(paths)) if position not in faults]
    known = tuple(digests[position] for position in kept)
    return FileEmbeddings(z[kept] if faults else z, tuple(kept), dict(sorted(faults.items())), known)


def _embed_part(start: int, sent: np.ndarray, paths: Sequence[Path], settings: _Settings) -> tuple[int, FileEmbeddings]:
    """A worker's part; the cache is that of its own machine."""
    return start, _embed_here(pickle.loads(sent.tobytes()), paths, settings, stop=False, tell=lambda _: None)


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
