"""What a classifier learns from: support embeddings with their classes, made of whatever form images come in."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Sized
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d
from torch.nn import functional as F

from siamese_utils.data.arrays import as_embeddings, as_list
from siamese_utils.data.pixels import as_images
from siamese_utils.errors import DataError, SamplingError, ShapeError, printable, shown
from siamese_utils.recognition.embedding import BATCH, embed_files
from siamese_utils.recognition.support import content_digest


@dataclass(frozen=True, eq=False)
class Examples:
    """Support embeddings of C classes.

    Attributes:
        names: array (C,), of the classes.
        z: float32 (N, D), rows of unit length.
        labels: int64 (N,), positions in ``names``.
        files: where the images lie, if they are files.
        contents: a digest of each file.
    """

    names: np.ndarray
    z: torch.Tensor
    labels: torch.Tensor
    files: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()

    @classmethod
    def of_parts(cls, names: Sequence[Any], parts: Sequence[torch.Tensor]) -> Examples:
        """Those of classes whose embeddings come one class after the other."""
        counts = torch.tensor([len(part) for part in parts])
        labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
        array = np.empty(len(names), dtype=object)
        array[:] = names
        return cls(array, torch.cat([part.float() for part in parts]), labels)

    def with_class(self, name: Any, z: torch.Tensor, files: Any = None) -> Examples:
        """The same and one class more, the last.

        Args:
            name: of the class; see ``as_class_name``.
            z: float32 (K, D), rows of unit length.
            files: paths of its images, if they are files; kept where those of the others are.

        Raises:
            DataError: one of the files is an image of another class too.
        """
        names = np.array([name], dtype=object if self.names.dtype.kind == "O" else None)
        more, contents = [""] * len(z), [""] * len(z)
        if files is not None and self.files:
            more = [os.fsdecode(file) for file in as_list(files)]
            contents = [content_digest(Path(file)) for file in more]
            known = dict(zip(self.contents, self.files))
            for content, file in zip(contents, more):
                if content and content in known:
                    raise DataError(
                        f"{printable(file)} and {printable(known[content])} are the same image in two classes; leave "
                        "one out."
                    )
        return Examples(
            np.concatenate([self.names, names]),
            torch.cat([self.z, z]),
            torch.cat([self.labels, torch.full((len(z),), len(self.names))]),
            (*self.files, *more) if self.files else (),
            (*self.contents, *contents) if self.files else (),
        )


def as_class_name(given: Any, beside: np.ndarray | None = None) -> Any:
    """A name that a class can have.

    Args:
        given: a word or a whole number.
        beside: array (C,), names of other classes that it must be of one type with; of any if None.

    Raises:
        ShapeError: something else, or of another type.
    """
    word = isinstance(given, str)
    if not given if word else isinstance(given, bool) or not isinstance(given, (int, np.integer)):
        raise ShapeError(f"A class is named by a word or a whole number, not by {shown(given)}.")
    if beside is not None:
        mixed = any(isinstance(name, str) != word for name in beside.tolist())
        if mixed or np.append(beside, np.array([given])).dtype.kind != beside.dtype.kind:
            like = ", ".join(map(repr, beside[:3].tolist()))
            raise ShapeError(f"The other classes are named like {like}; name this one likewise, not {shown(given)}.")
    return given.item() if isinstance(given, np.generic) else given  # as it can be saved


def named_classes(support: Any) -> Mapping[Any, Sized]:
    """The same, if it is a mapping of two names or more with something in each.

    Raises:
        SamplingError: it is not.
    """
    if not isinstance(support, Mapping):
        raise SamplingError(
            f"The support is a mapping of class names to images, not a {type(support).__name__}; or give the class of "
            "each image as y."
        )
    if len(support) < 2:
        raise SamplingError("One-shot classification needs at least two classes to choose between; add a class.")
    for name, given in support.items():
        with suppress(TypeError):  # no images at all, as will be said when they are looked at
            if len(given) == 0:
                raise SamplingError(f"The class {name!r} has no support image; add one or remove the class.")
    return support


def class_numbers(y: Any) -> tuple[np.ndarray, torch.Tensor]:
    """The classes in ``y``, sorted, and the position of each entry's: array (C,) and int64 (N,).

    Raises:
        ShapeError: no row of names or whole numbers.
        SamplingError: fewer than two classes.
    """
    try:
        row = column_or_1d(y, warn=True)
        check_classification_targets(row)
        names, numbers = np.unique(row, return_inverse=True)
    except (TypeError, ValueError) as error:
        raise ShapeError(f"Classes are one name or whole number for each image ({error}).") from error
    if len(names) < 2:
        raise SamplingError(f"Two classes are needed to choose between, but y holds {len(names)} class; add another.")
    return names, torch.from_numpy(numbers).long()


def are_files(images: Any) -> bool:
    """Whether images are given by their paths alone: one, or a list or an array of them."""
    if isinstance(images, np.ndarray):
        return images.ndim == 1 and images.dtype.kind in "OU" and are_files(images.tolist())
    if isinstance(images, (str, bytes, os.PathLike)):
        return True
    paths = isinstance(images, Sequence) and all(isinstance(one, (str, bytes, os.PathLike)) for one in images)
    return paths and len(images) > 0


def without_frame(X: Any) -> Any:
    """The array of a two-dimensional table, such as pandas' DataFrame, whose own entries are its columns' names."""
    return X.to_numpy() if hasattr(X, "to_numpy") and len(getattr(X, "shape", ())) == 2 else X


def are_embeddings(images: Any) -> bool:
    """Whether embeddings are given in place of images."""
    kind = getattr(images, "dtype", None)
    floating = kind.is_floating_point if isinstance(kind, torch.dtype) else getattr(kind, "kind", "") == "f"
    return bool(floating) and getattr(images, "ndim", 0) == 2


def unit_rows(z: Any, columns: int | None = None, what: str = "Embeddings") -> torch.Tensor:
    """Embeddings as float32 (N, D) on the CPU, brought to unit length; ``what`` is their name in an error.

    Raises:
        ShapeError: no finite numbers, or of another size.
    """
    return F.normalize(as_embeddings(z, what, columns).detach().cpu().double(), dim=1).float()


def embed_images(encoder: Any, images: Any, views: str | None, what: str) -> torch.Tensor:
    """Embeddings of images or image files, float32 (N, D).

    Args:
        encoder: see ``load_encoder``.
        images: uint8 (N, H, W, 3), a list of images of any sizes and of paths, or one path.
        views: see ``embed`` of the encoder.
        what: their name on a bar.

    Raises:
        ShapeError: images of another shape or type than the encoder takes.
        ImageError: files cannot be read.
    """
    if are_files(images):
        files = [Path(os.fsdecode(path)) for path in as_list(images)]
        return embed_files(encoder, files, skip_unreadable=None, progress=what, views=views).z
    given = {} if views is None else {"views": views}
    return encoder.embed(images, **given)


def embed_classes(encoder: Any, support: Mapping[Any, Any], views: str | None) -> list[torch.Tensor]:
    """Embeddings of the images of each class, in full batches across classes where all are of one size.

    Raises:
        ShapeError: images of another shape or type than the encoder takes.
    """
    if any(isinstance(given, (list, tuple)) or are_files(given) for given in support.values()):
        return [embed_images(encoder, given, views, "support images") for given in support.values()]
    images = [as_images(given, None, f"Images of the class {name!r}").cpu() for name, given in support.items()]
    if len({tuple(one.shape[1:]) for one in images}) > 1:
        return [embed_images(encoder, given, views, "support images") for given in images]
    parts = [embed_images(encoder, some, views, "support images") for some in torch.cat(images).split(BATCH)]
    return list(torch.cat(parts).split([len(one) for one in images]))
