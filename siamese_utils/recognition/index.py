"""The most similar among many embeddings, exactly: blocked products, and 8-bit codes that leave few rows to compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from siamese_utils.data.arrays import as_count, as_embeddings, as_list
from siamese_utils.data.image_files import images_below, images_here
from siamese_utils.encoders.checkpoints import as_encoder, read_tensors
from siamese_utils.errors import ConfigError, DataError, StorageError, printable, reason
from siamese_utils.recognition.embedding import embed_files
from siamese_utils.system.devices import multiplies_bytes
from siamese_utils.system.files import as_path, atomic_path

_CELLS = 8_000_000  # similarities that are held at once
_CODED = 50_000  # rows from which on codes are worth their memory
_AT_ONCE = 100_000  # rows of codes in one product; all in one take longer
_TOGETHER = 16  # queries that are compared with the codes at once
_FORM = "siamese_utils.index/1"


def nearest(z: Any, table: Any, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k most similar rows of a table for each query, in blocks, so that not all similarities are held at once.

    Args:
        z: queries, float (Q, D).
        table: what is searched, float (N, D), such as prototypes; with rows of unit length similarities are cosines.
        k: answers a query; no more than N are given.

    Returns:
        similarities, float32 (Q, min(k, N)), descending, and their positions in the table, int64 of the same shape.

    Raises:
        ShapeError: they are no embeddings, or of different sizes.
        ConfigError: ``k`` is no whole number above zero.
    """
    table = _checked(table, "The table that is searched")
    return _nearest(_queries(z, table), table, as_count("The number of answers", k))


def _checked(given: Any, what: str, columns: int | None = None) -> torch.Tensor:
    """Embeddings as float32 (N, D) on the CPU; whether all are finite is asked in parts, as it takes much memory."""
    table = as_embeddings(given, what, columns, finite=False).detach().cpu()
    for part in table.split(_AT_ONCE):
        as_embeddings(part, what)
    return table.float()


def _queries(given: Any, table: torch.Tensor) -> torch.Tensor:
    """Queries for a table (N, D), float32 (Q, D) on the CPU."""
    return as_embeddings(given, "Queries", table.shape[1]).detach().cpu().float()


def _nearest(z: torch.Tensor, table: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    k = min(k, len(table))
    best, at = torch.empty(len(z), 0), torch.empty(len(z), 0, dtype=torch.int64)
    step = max(k, _CELLS // max(1, len(z)))
    for start in range(0, len(table), step):
        rows = table[start : start + step]
        # A product of a single row with a matrix that lies crosswise is ten times slower.
        found = ((rows @ z[0])[None] if len(z) == 1 else z @ rows.T).topk(min(k, len(rows)))
        best, at = torch.cat([best, found.values], 1), torch.cat([at, found.indices + start], 1)
        best, kept = best.topk(min(k, best.shape[1]))
        at = at.gather(1, kept)
    return best, at


class EmbeddingIndex:
    """Embeddings of image files, searched for those most similar to a query.

    Answers are those of a whole comparison in float32. Of many rows, codes of 8 bits a number are compared first: what
    they cannot decide, within the greatest error that they can have, is compared in float32.

    Args:
        z: float (N, D), rows of unit length, on any device; a copy on the CPU is kept.
        names: of the N images, such as their paths; their numbers if left out.
        encoder: fingerprint of the encoder, so that others are refused; not checked if left out.
        encoder_name: what to call it then.

    Raises:
        ShapeError: no embeddings.
        DataError: another number of names.
    """

    def __init__(
        self, z: Any, names: Sequence[str | Path] | None = None, encoder: str = "", encoder_name: str = ""
    ) -> None:
        # What is done later to the array that was given must not change the answers.
        self.z = _checked(z, "Embeddings").clone(memory_format=torch.contiguous_format)
        self.names = [str(name) for name in (range(len(self.z)) if names is None else names)]
        self.encoder, self.encoder_name = encoder, encoder_name
        self._codes: _Codes | None = None
        if len(self.names) != len(self.z):
            raise DataError(f"An index of {len(self.z):,} embeddings needs as many names, not {len(self.names):,}.")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def build(cls, encoder: Any, files: Any, **options: Any) -> EmbeddingIndex:
        """Embed image files, or those in folders at any depth, and index them.

        Args:
            encoder: see ``load_encoder``, or the path of a checkpoint.
            files: image files and folders of image files.
            options: see ``embed_files``.

        Raises:
            DataError: there is no image, or some cannot be read; see ``embed_files``.
        """
        paths = files_of(files, deep=True)
        encoder = as_encoder(encoder)
        embedded = embed_files(encoder, paths, **options)
        kept = [paths[position] for position in embedded.kept]
        name = getattr(encoder, "source", "") or getattr(encoder, "name", "")
        z = _checked(embedded.z, "Embeddings")
        return cls._of(z, [str(path) for path in kept], getattr(encoder, "fingerprint", ""), name)

    @classmethod
    def _of(
        cls, z: torch.Tensor, names: list[str], encoder: str, encoder_name: str, codes: _Codes | None = None
    ) -> EmbeddingIndex:
        """An index of embeddings that nobody else changes, float32 (N, D), which are therefore not copied."""
        index = cls.__new__(cls)
        index.z, index.names, index.encoder, index.encoder_name, index._codes = z, names, encoder, encoder_name, codes
        return index

    def add(self, z: Any, names: Sequence[str | Path]) -> EmbeddingIndex:
        """Add embeddings, float (M, D), with their names.

        Returns:
            the index itself.

        Raises:
            ShapeError: embeddings of another size.
            DataError: another number of names.
        """
        more = EmbeddingIndex(_checked(z, "Embeddings", self.z.shape[1]), names)
        self.z, self.names, self._codes = torch.cat([self.z, more.z]), self.names + more.names, None
        return self

    def search(self, z: Any, k: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
        """The most similar embeddings for each query.

        Args:
            z: float (Q, D).
            k: answers a query; no more than there are embeddings are given.

        Returns:
            similarities, float32 (Q, min(k, N)), descending, and their positions, int64; ``names`` has the files.

        Raises:
            ShapeError: embeddings of another size.
            ConfigError: ``k`` is no whole number above zero.
        """
        z, k = _queries(z, self.z), as_count("The number of answers", k)
        if len(self) < _CODED or k > len(self) // 100 or not multiplies_bytes():
            return _nearest(z, self.z, k)
        self._codes = self._codes or _Codes.of(self.z)
        answers = [self._codes.search(some, self.z, k) for some in z.split(_TOGETHER)] or [_nearest(z, self.z, k)]
        return torch.cat([best for best, _ in answers]), torch.cat([at for _, at in answers])

    def save(self, path: str | Path) -> None:
        """Store the index in a safetensors file, whole or not at all.

        Raises:
            StorageError: it cannot be written, or something else than an index has that name.
        """
        path = free_path(path)
        names = torch.from_numpy(np.frombuffer("\n".join(map(printable, self.names)).encode(), np.uint8).copy())
        tensors, metadata = (
            {"z": self.z, "names": names},
            {"form": _FORM, "encoder": self.encoder, "encoder_name": self.encoder_name},
        )
        if len(self) >= _CODED:
            self._codes = self._codes or _Codes.of(self.z)
            tensors |= {"codes": self._codes.codes, "scales": self._codes.scales, "errors": self._codes.errors}
            metadata |= {"longest": str(self._codes.longest)}
        with atomic_path(path) as temporary:
            try:
                save_file(tensors, temporary, metadata=metadata)
            except SafetensorError as error:
                raise StorageError(
                    f"Cannot write {printable(path)} ({reason(error)}); choose a folder with room."
                ) from error

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingIndex:
        """Read an index; what is searched stays in the file and is read as it is needed.

        So a number that a faulty disk has changed is not noticed.

        Raises:
            DataError: the file is missing, cut off, or no index.
        """
        path = as_path(path)
        if not path.is_file():
            raise DataError(f"There is no index {printable(path)}; make one first.")
        try:
            metadata, tensors = read_tensors(path)
            if metadata.get("form") != _FORM:
                raise KeyError("form")
            names = tensors["names"].numpy().tobytes().decode()
            coded = [tensors[name] for name in ("codes", "scales", "errors") if name in tensors]
            index = cls._of(
                tensors["z"],
                names.split("\n") if len(tensors["z"]) else [],
                metadata["encoder"],
                metadata.get("encoder_name", ""),
                _Codes(*coded, float(metadata["longest"])) if coded else None,
            )
        except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{printable(path)} is no index, or a damaged one; make it again.") from error
        if index.z.ndim != 2 or len(index.z) != len(index.names):
            raise DataError(f"{printable(path)} is a damaged index; make it again.")
        return index

    def check(self, encoder: Any) -> None:
        """See that queries are embedded as the index was.

        Raises:
            ConfigError: another encoder made it.
        """
        if self.encoder and self.encoder != getattr(encoder, "fingerprint", self.encoder):
            name = printable(self.encoder_name) if self.encoder_name else "another encoder"
            raise ConfigError(f"The index was made with {name}; name that encoder, or make the index again.")


class _Codes:
    """Embeddings as whole numbers from -127 to 127 times a scale for each row."""

    def __init__(self, codes: torch.Tensor, scales: torch.Tensor, errors: torch.Tensor, longest: float) -> None:
        self.codes, self.scales, self.errors, self.longest = codes, scales, errors, longest
        self.worst = float(errors.max())

    @classmethod
    def of(cls, z: torch.Tensor) -> _Codes:
        parts = [_coded(some) for some in z.split(max(1, _CELLS // z.shape[1]))]
        longest = max(float(some.norm(dim=1).max()) for some in z.split(_CODED))
        return cls(*(torch.cat(column) for column in zip(*parts)), longest)

    def search(self, z: torch.Tensor, table: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See ``EmbeddingIndex.search``; a few queries at a time."""
        codes, scales, errors = _coded(z)
        parts = [torch._int_mm(codes, rows.T) for rows in self.codes.split(_AT_ONCE)]  # whole numbers, exact
        products = torch.cat(parts, dim=1)
        answers = []
        for query, row, scale, error in zip(z, products, scales.tolist(), errors.tolist()):
            close = (row * self.scales).mul_(scale)
            # <q, z> = <q', z'> + <q - q', z'> + <q, z - z'> for codes q', z', and z' is no longer than z and its error.
            length, reach = float(query.norm()), self.longest + self.worst
            slack = error * reach + length * self.worst + 1e-5 * length * reach
            least = close.topk(k).values[-1] - 2 * slack
            candidates = (close >= least).nonzero()[:, 0]
            if len(candidates) > len(table) // 20:
                answers.append(_nearest(query[None], table, k))
                continue
            best, at = _nearest(query[None], table[candidates], k)
            answers.append((best, candidates[at]))
        return torch.cat([best for best, _ in answers]), torch.cat([at for _, at in answers])


def _coded(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes int8 (N, D), their scales and the lengths of what they leave out, float32 (N,)."""
    scales = z.abs().amax(dim=1).clamp(min=1e-30) / 127
    codes = (z / scales[:, None]).round_()
    errors = torch.addcmul(z, codes, scales[:, None], value=-1).norm(dim=1)
    return codes.to(torch.int8), scales, errors


def free_path(path: str | Path) -> Path:
    """A path where an index may be stored: a new name, or that of an older index.

    Raises:
        StorageError: something else has that name.
    """
    path = as_path(path, StorageError)
    if path.is_file():
        try:
            known = read_tensors(path, with_tensors=False)[0].get("form") == _FORM
        except (SafetensorError, OSError, TypeError):
            known = False
        if not known:
            raise StorageError(f"{printable(path)} is there already and is no index; choose another name.")
    return path


def search_files(
    index: EmbeddingIndex, encoder: Any, queries: Any, k: int = 5, skip_unreadable: bool = False
) -> pd.DataFrame:
    """Find the indexed images that are most like others.

    Args:
        index: what is searched.
        encoder: the one that made the index; see ``load_encoder`` for names.
        queries: image files, or folders of image files; one may stand alone.
        k: answers a query.
        skip_unreadable: leave out queries that cannot be read, and list them in a warning.

    Returns:
        one row an answer, the nearest first: ``query``, ``rank`` (from 1), ``image`` and ``similarity`` (cosine).

    Raises:
        ConfigError: another encoder made the index, or ``k`` is no whole number above zero.
        DataError: a file is missing or unreadable, or no image was given.
    """
    encoder = as_encoder(encoder)
    index.check(encoder)
    files = files_of(queries)
    embedded = embed_files(encoder, files, skip_unreadable=skip_unreadable, progress="queries")
    similarities, positions = index.search(embedded.z, k)
    count = positions.shape[1]
    return pd.DataFrame(
        {
            "query": [printable(files[position]) for position in embedded.kept for _ in range(count)],
            "rank": list(range(1, count + 1)) * len(positions),
            "image": [printable(index.names[position]) for position in positions.flatten().tolist()],
            "similarity": similarities.flatten().numpy(),
        }
    )


def files_of(given: Any, deep: bool = False) -> list[Path]:
    """Image files, and those in folders, of which there is at least one; each path once, as it was first named.

    Args:
        given: files and folders; one may stand alone.
        deep: whether folders within folders are looked into, at any depth.

    Raises:
        DataError: there is none, or a folder cannot be read.
    """
    paths = [as_path(path) for path in as_list(given)]
    within = images_below if deep else images_here
    files = list(dict.fromkeys(file for path in paths for file in (within(path) if path.is_dir() else [path])))
    if not files:
        raise DataError("There is no image; name image files, or folders that hold some.")
    return files
