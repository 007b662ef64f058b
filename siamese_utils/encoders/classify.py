"""One-shot recognition of a user's own classes: a folder of examples in, predictions with similarities out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch.nn import functional as F

from siamese_utils.encoders.encoder import Encoder, Ensemble
from siamese_utils.errors import DataError, SamplingError

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


def _is_empty(images: object) -> bool:
    try:
        return len(images) == 0  # type: ignore[arg-type]
    except TypeError:  # no images at all, as the encoder will say
        return False


class OneShotClassifier:
    """Nearest prototype by cosine similarity over one or more support images a class.

    The prototype of a class is the mean of its support embeddings, scaled to unit length (Snell et al., 2017;
    with one image it is that image's embedding). No training takes place.

    Args:
        encoder: see ``load_encoder``; several at once as an ``Ensemble``.
    """

    def __init__(self, encoder: Encoder | Ensemble) -> None:
        self.encoder = encoder
        self.class_names: tuple[str, ...] = ()
        self.prototypes = torch.empty(0, encoder.embedding_dim)

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
        if not isinstance(support, Mapping):
            raise SamplingError(f"The support is a mapping of class names to images, not a {type(support).__name__}.")
        if len(support) < 2:
            raise SamplingError("One-shot classification needs at least two classes to choose between; add a class.")
        prototypes = []
        for name, images in support.items():
            if _is_empty(images):
                raise SamplingError(f"The class {name!r} has no support image; add one or remove the class.")
            prototypes.append(self.encoder.embed(images).mean(dim=0))
        self.class_names = tuple(support)
        self.prototypes = F.normalize(torch.stack(prototypes), dim=1)
        return self

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
        side = self.encoder.image_size
        return self.fit({entry.name: np.stack([load_image(f, side) for f in images_in(entry)]) for entry in classes})

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
        if not self.class_names:
            raise SamplingError("The classifier knows no classes yet; call fit or fit_folder first.")
        return self.encoder.embed(images) @ self.prototypes.T

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
        images = np.stack([load_image(file, self.encoder.image_size) for file in files])
        similarity = self.similarities(images)
        best = similarity.topk(2, dim=1)
        table = pd.DataFrame(
            {
                "query": [str(file) for file in files],
                "prediction": [self.class_names[index] for index in best.indices[:, 0].tolist()],
                "similarity": best.values[:, 0].numpy(),
                "margin": (best.values[:, 0] - best.values[:, 1]).numpy(),
            }
        )
        names = [f"{name} (class)" if name in table.columns else name for name in self.class_names]
        return pd.concat([table, pd.DataFrame(similarity.numpy(), columns=names)], axis=1)


def classify_folder(
    encoder: Encoder | Ensemble, support: str | Path, queries: str | Path | Iterable[str | Path]
) -> pd.DataFrame:
    """Support folder in, predictions with similarities for the query images out.

    Args:
        encoder: see ``load_encoder``.
        support: folder with one sub-folder a class, one image or more in each.
        queries: image files, or folders of image files; one may stand alone.

    Returns:
        see ``OneShotClassifier.predict_files``.

    Raises:
        DataError, SamplingError: see ``fit_folder`` and ``predict_files``.
    """
    return OneShotClassifier(encoder).fit_folder(support).predict_files(queries)
