"""One-shot recognition of a user's own classes: a folder of examples in, predictions with similarities out."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sized
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from siamese_utils.data.arrays import as_embeddings, as_flag, as_list
from siamese_utils.data.image_files import images_in
from siamese_utils.data.pixels import as_images
from siamese_utils.encoders.checkpoints import as_encoder
from siamese_utils.encoders.encoder import Encoder, Ensemble
from siamese_utils.errors import DataError, SamplingError, printable
from siamese_utils.recognition.embedding import batches, embed_files
from siamese_utils.recognition.support import read_support
from siamese_utils.system.files import as_path


def _classes(support: Mapping[str, Sized]) -> Mapping[str, Sized]:
    """The same, if it names two classes or more with something in each."""
    if not isinstance(support, Mapping):
        raise SamplingError(f"The support is a mapping of class names to images, not a {type(support).__name__}.")
    if len(support) < 2:
        raise SamplingError("One-shot classification needs at least two classes to choose between; add a class.")
    for name, given in support.items():
        with suppress(TypeError):  # no images at all, as will be said when they are looked at
            if len(given) == 0:
                raise SamplingError(f"The class {name!r} has no support image; add one or remove the class.")
    return support


class OneShotClassifier:
    """Nearest prototype by cosine similarity over one or more support images a class.

    The prototype of a class is the mean of its support embeddings, scaled to unit length (Snell et al., 2017;
    with one image it is that image's embedding). No training takes place.

    Args:
        encoder: see ``load_encoder``, or the path of a checkpoint; several at once as an ``Ensemble``.

    Raises:
        CheckpointError, ConfigError: see ``load_encoder``, or something else was given as an encoder.
    """

    def __init__(self, encoder: Encoder | Ensemble | str | Path) -> None:
        self.encoder = as_encoder(encoder)
        self.class_names: tuple[str, ...] = ()
        self.prototypes = torch.empty(0, self.encoder.embedding_dim)

    def fit(self, support: Mapping[str, np.ndarray | torch.Tensor]) -> OneShotClassifier:
        """Learn the classes from their support sets.

        Args:
            support: by class name, uint8 images (K, H, W, 3), K >= 1.

        Returns:
            the classifier itself.

        Raises:
            SamplingError: no mapping, fewer than two classes, or a class without an image.
            ShapeError: images of another shape or type than the encoder takes.
        """
        classes = _classes(support)
        side = self.encoder.image_size
        images = [as_images(given, side, f"Images of the class {name!r}").cpu() for name, given in classes.items()]
        ones = (image for of_class in images for image in of_class)
        embeddings = (self.encoder.embed(torch.stack(some)) for some in batches(ones))
        return self._learn(classes, map(len, images), embeddings)

    def fit_embeddings(self, support: Mapping[str, np.ndarray | torch.Tensor]) -> OneShotClassifier:
        """Learn the classes from embeddings of their support sets.

        Args:
            support: by class name, float32 (K, D), K >= 1.

        Returns:
            the classifier itself.

        Raises:
            SamplingError: no mapping, fewer than two classes, or a class without an embedding.
            ShapeError: embeddings of another size or type than the encoder gives.
        """
        classes = _classes(support)
        columns = self.encoder.embedding_dim
        z = [as_embeddings(given, f"Embeddings of {name!r}", columns) for name, given in classes.items()]
        return self._learn(classes, map(len, z), z)

    def _learn(
        self, names: Iterable[str], sizes: Iterable[int], embeddings: Iterable[torch.Tensor]
    ) -> OneShotClassifier:
        """Add up the embeddings of each class as they come, so that no more than a batch of images is held.

        Args:
            names: of the classes.
            sizes: how many support images each has.
            embeddings: float32 (M, D) in parts of any length, class after class.
        """
        counts = torch.tensor(list(sizes))
        row_of = torch.repeat_interleave(torch.arange(len(counts)), counts)
        sums, done = torch.zeros(len(counts), self.encoder.embedding_dim), 0
        for z in embeddings:
            sums.index_add_(0, row_of[done : done + len(z)], z.to(sums))
            done += len(z)
        self.class_names, self.prototypes = tuple(names), F.normalize(sums, dim=1)
        return self

    def fit_folder(self, folder: str | Path) -> OneShotClassifier:
        """Learn the classes from a folder with one sub-folder a class, one image or more in each.

        Raises:
            DataError: see ``read_support``; or images are unreadable, and all of them are named.
            SamplingError: see ``read_support``.
        """
        support = read_support(folder)
        embedded = embed_files(self.encoder, support.files, skip_unreadable=None, progress="support images")
        return self._learn(support.class_names, torch.bincount(support.labels).tolist(), [embedded.z])

    def similarities(self, images: np.ndarray | torch.Tensor) -> torch.Tensor:
        """Cosine similarity of every image to every class.

        Args:
            images: uint8 (N, H, W, 3).

        Returns:
            float32 (N, number of classes), columns in the order of ``class_names``.

        Raises:
            SamplingError: ``fit`` has not been called.
            ShapeError: images of another shape or type than the encoder takes.
        """
        self._check_fitted()
        return self.compare(self.encoder.embed(images))

    def compare(self, z: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The same for embeddings that are at hand: float32 (N, D) to (N, number of classes).

        Raises:
            SamplingError: no classes have been learned.
            ShapeError: embeddings of another size or type than the encoder gives.
        """
        self._check_fitted()
        z = as_embeddings(z, columns=self.encoder.embedding_dim)
        return (z.float() @ self.prototypes.T).clamp(-1, 1)  # rounding would put some a little above one

    def _check_fitted(self) -> None:
        if not self.class_names:
            raise SamplingError("The classifier knows no classes yet; call fit or fit_folder first.")

    def predict(self, images: np.ndarray | torch.Tensor) -> list[str]:
        """Name of the most similar class of every image; uint8 (N, H, W, 3)."""
        return [self.class_names[index] for index in self.similarities(images).argmax(dim=1).tolist()]

    def predict_files(self, paths: str | Path | Iterable[str | Path], skip_unreadable: bool = False) -> pd.DataFrame:
        """Classify image files.

        Args:
            paths: image files, or folders of image files; one may stand alone.
            skip_unreadable: leave out what cannot be read, and list it in a warning.

        Returns:
            one row an image: ``query`` (its path), ``prediction``, ``similarity`` (cosine, -1 to 1), ``margin``
            (lead over the second class), then one column a class with its similarity.

        Raises:
            DataError: a file is missing or unreadable, or no image was given.
        """
        skip_unreadable = as_flag("skip_unreadable", skip_unreadable)
        files: list[Path] = []
        for path in map(as_path, as_list(paths)):
            files += images_in(path) if os.path.isdir(path) else [path]
        if not files:
            raise DataError("There is no query image; name image files, or folders that hold some.")
        self._check_fitted()
        embedded = embed_files(self.encoder, files, skip_unreadable=skip_unreadable, progress="queries")
        similarity = self.compare(embedded.z)
        files = [files[position] for position in embedded.kept]
        best = similarity.topk(2, dim=1)
        shown = [printable(name) if isinstance(name, str) else name for name in self.class_names]
        table = pd.DataFrame(
            {
                "query": [printable(file) for file in files],
                "prediction": [shown[index] for index in best.indices[:, 0].tolist()],
                "similarity": best.values[:, 0].numpy(),
                "margin": (best.values[:, 0] - best.values[:, 1]).numpy(),
            }
        )
        names = [f"{name} (class)" if name in table.columns else name for name in shown]
        return pd.concat([table, pd.DataFrame(similarity.numpy(), columns=names)], axis=1)


def classify_folder(
    encoder: Encoder | Ensemble | str | Path,
    support: str | Path,
    queries: str | Path | Iterable[str | Path],
    skip_unreadable: bool = False,
) -> pd.DataFrame:
    """Support folder in, predictions with similarities for the query images out.

    Args:
        encoder: see ``load_encoder``, or the path of a checkpoint.
        support: folder with one sub-folder a class, one image or more in each.
        queries: image files, or folders of image files; one may stand alone.
        skip_unreadable: leave out queries that cannot be read, and list them in a warning.

    Returns:
        see ``OneShotClassifier.predict_files``.

    Raises:
        CheckpointError, ConfigError: see ``OneShotClassifier``.
        DataError, SamplingError: see ``fit_folder`` and ``predict_files``.
    """
    return OneShotClassifier(encoder).fit_folder(support).predict_files(queries, skip_unreadable)
