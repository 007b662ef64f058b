"""One-shot recognition of a user's own classes: a folder of examples in, predictions with similarities out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional as F
from tqdm import tqdm

from siamese_utils.data.arrays import as_embeddings
from siamese_utils.data.pixels import as_images
from siamese_utils.encoders.checkpoints import as_encoder
from siamese_utils.encoders.encoder import Encoder, Ensemble
from siamese_utils.errors import DataError, SamplingError
from siamese_utils.system.text import printable

Item = TypeVar("Item")
_AT_ONCE = 100  # images in memory
_PATIENCE = 1  # seconds before a bar is shown

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def load_image(path: str | Path, size: int = 32) -> np.ndarray:
    """Read an image file the way the encoders want it.

    The image is turned upright (EXIF), transparent parts become white, grey becomes RGB, the middle square
    is cut out and scaled down.

    Args:
        path: any format that Pillow reads.
        size: side of the result in pixels.

    Returns:
        uint8 (size, size, 3).

    Raises:
        DataError: the file is missing, no image, or damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"There is no image file {path}; check the path.")
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            image = upright.convert("RGBA")
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is not a readable image ({type(error).__name__}); replace or remove it.") from error
    paper = Image.new("RGBA", image.size, "white")
    paper.alpha_composite(image)
    return np.asarray(ImageOps.fit(paper.convert("RGB"), (size, size), Image.Resampling.LANCZOS))


def images_in(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name; hidden files and other types are passed over."""
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")
    )


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The same in lists of as many as an encoder takes at once."""
    left = iter(items)
    while some := list(islice(left, _AT_ONCE)):
        yield some


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
        embeddings = (self.encoder.embed(torch.stack(some)) for some in _batches(ones))
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

    def _embed_files(self, files: Sequence[Path], what: str) -> Iterator[torch.Tensor]:
        """Embeddings of image files, float32, a batch at a time; a bar on a terminal shows how far it is."""
        side = self.encoder.image_size
        with tqdm(total=len(files), desc=what, unit="image", delay=_PATIENCE, leave=False, disable=None) as bar:
            for some in _batches(files):
                yield self.encoder.embed(np.stack([load_image(file, side) for file in some]))
                bar.update(len(some))

    def fit_folder(self, folder: str | Path) -> OneShotClassifier:
        """Learn the classes from a folder with one sub-folder a class, one image or more in each.

        Raises:
            DataError: the folder is missing, or an image is unreadable.
            SamplingError: fewer than two sub-folders, or one without images.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise DataError(f"There is no support folder {folder}; make it, with one sub-folder of images a class.")
        classes = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        for entry in classes:
            if not images_in(entry):
                raise SamplingError(f"The class folder {entry} holds no image; add one or remove the folder.")
        files = list(_classes({entry: images_in(entry) for entry in classes}).values())
        embeddings = self._embed_files([file for of_class in files for file in of_class], "support")
        return self._learn([printable(entry.name) for entry in classes], map(len, files), embeddings)

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

    def predict_files(self, paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
        """Classify image files.

        Args:
            paths: image files, or folders of image files; one may stand alone.

        Returns:
            one row an image: ``query`` (its path), ``prediction``, ``similarity`` (cosine, -1 to 1), ``margin``
            (lead over the second class), then one column a class with its similarity.

        Raises:
            DataError: a file is missing or unreadable, or no image was given.
        """
        if isinstance(paths, (str, Path)):
            paths = [paths]
        files: list[Path] = []
        for path in map(Path, paths):
            files += images_in(path) if path.is_dir() else [path]
        if not files:
            raise DataError("There is no query image; name image files, or folders that hold some.")
        self._check_fitted()
        similarity = torch.cat([self.compare(z) for z in self._embed_files(files, "queries")])
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
    encoder: Encoder | Ensemble | str | Path, support: str | Path, queries: str | Path | Iterable[str | Path]
) -> pd.DataFrame:
    """Support folder in, predictions with similarities for the query images out.

    Args:
        encoder: see ``load_encoder``, or the path of a checkpoint.
        support: folder with one sub-folder a class, one image or more in each.
        queries: image files, or folders of image files; one may stand alone.

    Returns:
        see ``OneShotClassifier.predict_files``.

    Raises:
        CheckpointError, ConfigError: see ``OneShotClassifier``.
        DataError, SamplingError: see ``fit_folder`` and ``predict_files``.
    """
    return OneShotClassifier(encoder).fit_folder(support).predict_files(queries)
