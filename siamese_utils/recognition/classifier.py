"""One-shot recognition of a user's own classes: a folder of examples in, predictions with similarities out."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError

from siamese_utils.data.arrays import as_count, as_embeddings, as_flag, as_list
from siamese_utils.data.image_files import images_here
from siamese_utils.encoders.checkpoints import as_encoder
from siamese_utils.encoders.named import best_encoder
from siamese_utils.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    SamplingError,
    ShapeError,
    UnknownNameError,
    look_up,
)
from siamese_utils.recognition import saved
from siamese_utils.recognition.embedding import embed_files
from siamese_utils.recognition.examples import (
    Examples,
    are_embeddings,
    are_files,
    as_class_name,
    class_numbers,
    embed_classes,
    embed_images,
    named_classes,
    unit_rows,
    without_frame,
)
from siamese_utils.recognition.heads import HEADS, fit_head, prototypes, without_doubles
from siamese_utils.recognition.support import content_digest, read_support
from siamese_utils.recognition.table import add_nearest, answer_table, similarity_table
from siamese_utils.recognition.unknown import Reading, fit_reading
from siamese_utils.system.files import as_path

_LISTED = 5  # queries that a warning names
_log = logging.getLogger(__name__)


class UnfittedError(SamplingError, NotFittedError):
    """A classifier was asked before it has learned any class."""


class OneShotClassifier(ClassifierMixin, BaseEstimator):
    """Nearest prototype by cosine similarity over one or more support images a class; an estimator of scikit-learn.

    The prototype of a class is the mean of its support embeddings, scaled to unit length (Snell et al., 2017; with one
    image it is that image's embedding). No training takes place. From two images a class on, another head takes the
    place of prototypes if leave-one-out on the support finds it clearly better; see ``recognition.heads``.

    Args:
        encoder: see ``load_encoder``, its name, or the path of a checkpoint; several at once as an ``Ensemble``. The
            best for photographs that is installed if left out, see ``best_encoder``.
        head: ``"auto"``, ``"prototype"``, ``"centred"`` or ``"ridge"``.
        unknown_rate: share of images of the known classes that may be called unknown, such as 0.05; see
            ``fit_reading``.
        views: of each image, see ``embed`` of the encoder; its own if left out.

    Attributes:
        classes_: array (C,), the names of the classes, or the labels that ``fit`` was given.
        examples_: the support embeddings.

    Raises:
        CheckpointError, ConfigError: on first use, see ``load_encoder``, or something else was given as an encoder.
    """

    def __init__(
        self, encoder: Any = None, head: str = "auto", unknown_rate: float | None = None, views: str | None = None
    ) -> None:
        self.encoder = encoder
        self.head = head
        self.unknown_rate = unknown_rate
        self.views = views

    # --- learning ---------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any = None) -> OneShotClassifier:
        """Learn the classes from their support sets.

        Args:
            X: images: uint8 (N, H, W, 3), a list of images of any sizes, or a list of files; or embeddings of them,
                float (N, D), also as a DataFrame. Without ``y``: by class name, images (K, H, W, 3), K >= 1, or files.
            y: the class of each image, names or whole numbers.

        Returns:
            the classifier itself.

        Raises:
            SamplingError: no mapping and no ``y``, fewer than two classes, or a class without an image.
            ShapeError: images of another shape or type than the encoder takes, or labels that do not fit them.
            DataError: files that cannot be read.
        """
        if y is None:
            support = named_classes(X)
            parts = embed_classes(self._eyes(), support, self.views)
            return self._learn(Examples.of_parts(tuple(support), parts))
        names, labels = class_numbers(y)
        z = self._embed(X, "support images", None)
        if len(z) != len(labels):
            raise ShapeError(f"Each image has one class, but there are {len(z)} images and {len(labels)} classes.")
        self._learn(Examples(names, z, labels))
        self.n_features_in_ = z.shape[1]
        return self

    def fit_embeddings(self, support: Mapping[str, np.ndarray | torch.Tensor]) -> OneShotClassifier:
        """Learn the classes from embeddings of their support sets.

        Args:
            support: by class name, float (K, D), K >= 1; brought to unit length.

        Returns:
            the classifier itself.

        Raises:
            SamplingError: no mapping, fewer than two classes, or a class without an embedding.
            ShapeError: embeddings of another size or type than the encoder gives.
        """
        classes, columns = named_classes(support), self._eyes().embedding_dim
        parts = [unit_rows(given, columns, f"Embeddings of {name!r}") for name, given in classes.items()]
        return self._learn(Examples.of_parts(tuple(classes), parts))

    def fit_folder(self, folder: str | Path, skip_unreadable: bool = False) -> OneShotClassifier:
        """Learn the classes from a folder with one sub-folder a class, one image or more in each.

        Args:
            folder: with the examples.
            skip_unreadable: leave out what cannot be read, and list it in a warning.

        Raises:
            DataError: see ``read_support``; or images are unreadable, and all of them are named.
            SamplingError: see ``read_support``; or none of a class's images can be read.
        """
        skip_unreadable = as_flag("skip_unreadable", skip_unreadable)
        eyes = self._eyes()  # a folder in its place is told before another one is read
        support = read_support(folder)
        embedded = embed_files(
            eyes, support.files, skip_unreadable=skip_unreadable, progress="support images", views=self.views
        )
        kept = list(embedded.kept)
        labels = support.labels[kept]
        for label, name in enumerate(support.class_names):
            if not bool((labels == label).any()):
                raise SamplingError(f"No image of the class {name!r} can be read; replace them or remove the class.")
        names, files = np.array(support.class_names, dtype=object), tuple(str(support.files[row]) for row in kept)
        contents = tuple(support.contents[row] for row in kept)
        return self._learn(Examples(names, embedded.z, labels, files, contents))

    def add_class(self, name: Any, images: Any) -> OneShotClassifier:
        """Learn one more class beside the others, as if all had been learned at once.

        The examples of the others are not needed again, as their embeddings are kept. The new class is the last one of
        ``classes_``; where ``fit`` was given ``y``, all are sorted again, as ``fit`` sorts them.

        Args:
            name: of the class, a word or a whole number.
            images: its examples, one or more; see ``X`` of ``fit``. A folder stands for the images in it.

        Returns:
            the classifier itself; after an error it is as it was.

        Raises:
            SamplingError: ``fit`` has not been called, the name is taken, or there is no image.
            ShapeError: images of another shape or type than the encoder takes, or another name than ``y`` could have.
            DataError: files that cannot be read, or that are images of another class too.
        """
        self._check_fitted()
        if isinstance(images, (str, bytes, os.PathLike)) and os.path.isdir(images):
            images = images_here(Path(os.fsdecode(images)))
        listed = not hasattr(self, "n_features_in_")
        name = as_class_name(name, None if listed else self.classes_)
        if name in self.class_names:
            raise SamplingError(f"The class {name!r} is there already; choose another name, or fit all classes anew.")
        columns = self.prototypes_.shape[1]
        z = as_embeddings(self._embed(images, "support images", columns), columns=columns)
        if not len(z):
            raise SamplingError(f"The class {name!r} has no support image; add one.")
        examples = self.examples_.with_class(name, z, images if are_files(images) else None)
        if listed:
            return self._learn(examples)
        names, labels = class_numbers(examples.names[examples.labels.numpy()])
        self._learn(replace(examples, names=names, labels=labels))
        self.n_features_in_ = z.shape[1]
        return self

    def _learn(self, examples: Examples) -> OneShotClassifier:
        if self.head != "auto":
            look_up("head", self.head, HEADS)
        # An image that has a copy beside it is found by the copy, so leaving it out would say nothing.
        kept = without_doubles(examples.z, examples.labels)
        z, labels = examples.z[kept], examples.labels[kept]
        head = fit_head(z, labels, self.head)
        return self._know(examples, head.name, fit_reading(head, z, labels, self.unknown_rate))

    def _know(self, examples: Examples, head: str, reading: Reading) -> OneShotClassifier:
        vars(self).pop("n_features_in_", None)  # of a fit before this one
        self.examples_, self.classes_, self.reading_ = examples, examples.names, reading
        self.head_ = fit_head(examples.z, examples.labels, head)
        self.prototypes_ = prototypes(examples.z, examples.labels)
        return self

    # --- what it knows ----------------------------------------------------------------------------

    @property
    def class_names(self) -> tuple[Any, ...]:
        """The names of the classes; none before ``fit``."""
        return tuple(self.classes_.tolist()) if hasattr(self, "classes_") else ()

    @property
    def prototypes(self) -> torch.Tensor:
        """The prototypes, float32 (C, D).

        Raises:
            SamplingError: ``fit`` has not been called.
        """
        self._check_fitted()
        return self.prototypes_

    def _check_fitted(self) -> None:
        if not hasattr(self, "examples_"):
            raise UnfittedError("The classifier knows no classes yet; call fit or fit_folder first.")

    def _eyes(self) -> Any:
        """The encoder, loaded once for each value of the parameter."""
        held = getattr(self, "_loaded", None)
        if held is None or held[0] is not self.encoder:
            if self.encoder is None:
                _log.info("Using the encoder %s, the best for photographs that is installed.", best_encoder())
            held = self._loaded = (self.encoder, _loaded(best_encoder() if self.encoder is None else self.encoder))
        return held[1]

    def _embed(self, X: Any, what: str, columns: int | None) -> torch.Tensor:
        """Embeddings of images, or those that were given, float32 (N, D)."""
        X = without_frame(X)
        return unit_rows(X, columns) if are_embeddings(X) else embed_images(self._eyes(), X, self.views, what)

    # --- answering --------------------------------------------------------------------------------

    def similarities(self, images: Any) -> torch.Tensor:
        """Cosine similarity of every image to every class's prototype.

        Args:
            images: see ``fit``.

        Returns:
            float32 (N, number of classes), columns in the order of ``class_names``.

        Raises:
            SamplingError: ``fit`` has not been called.
            ShapeError: images of another shape or type than the encoder takes.
        """
        self._check_fitted()
        return self.compare(self._embed(images, "queries", self.prototypes_.shape[1]))

    def compare(self, z: np.ndarray | torch.Tensor) -> torch.Tensor:
        """The same for embeddings that are at hand, of any length: float (N, D) to float32 (N, number of classes).

        Raises:
            SamplingError: no classes have been learned.
            ShapeError: embeddings of another size or type than the encoder gives.
        """
        self._check_fitted()
        z = unit_rows(z, self.prototypes_.shape[1])
        return (z @ self.prototypes_.T).clamp(-1, 1)  # rounding would put some a little above one

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probability of each class for every image, if it is of one of them; see ``recognition.unknown``.

        Args:
            X: see ``fit``.

        Returns:
            float64 (N, C), rows of sum 1, columns in the order of ``classes_``.

        Raises:
            SamplingError, ShapeError, DataError: see ``similarities``.
        """
        self._check_fitted()
        return self._probabilities(self._embed(X, "queries", self.prototypes_.shape[1])).numpy()

    def _probabilities(self, z: torch.Tensor) -> torch.Tensor:
        z = as_embeddings(z, columns=self.prototypes_.shape[1])
        return self.reading_.probabilities(self.head_.scores(z).double())

    def is_unknown(self, X: Any) -> np.ndarray:
        """Whether every image is of none of the classes, as ``unknown`` of ``predict_files`` says.

        Args:
            X: see ``fit``.

        Returns:
            bool (N,).

        Raises:
            SamplingError, ShapeError, DataError: see ``similarities``.
        """
        return self.reading_.is_unknown(self.similarities(X).amax(dim=1)).numpy()

    def predict(self, X: Any) -> Any:
        """The likeliest class of every image; see ``fit`` for what images may be.

        Returns:
            array (N,) of what ``fit`` was given as ``y``; a list of names if it was given classes by name.

        Raises:
            SamplingError, ShapeError, DataError: see ``similarities``.
        """
        said = self.classes_[self.predict_proba(X).argmax(axis=1)] if self.class_names else self._check_fitted()
        return said if hasattr(self, "n_features_in_") else said.tolist()

    def predict_files(
        self, paths: str | Path | Iterable[str | Path], skip_unreadable: bool = False, top: int | None = None
    ) -> pd.DataFrame:
        """Classify image files; a query that is in the support, by its content, is named in a warning.

        Args:
            paths: image files, or folders of image files; one may stand alone.
            skip_unreadable: leave out what cannot be read, and list it in a warning.
            top: how many classes are listed for each image; if left out, there is a column a class.

        Returns:
            one row an image: ``query`` (its path), ``prediction``, ``similarity`` (cosine, -1 to 1), ``margin``
            (lead over the next class), ``probability`` (of the prediction, if the image is of one of the classes) and
            ``unknown`` (whether it is of none), then one column a class with its similarity. With ``top``, instead of
            these, ``class_1``, ``similarity_1`` and so on; and where the support lies in files, ``in_support``,
            ``nearest_1``, ``nearest_1_similarity`` and so on, to 3.

        Raises:
            DataError: a file is missing or unreadable, or no image was given.
        """
        skip_unreadable = as_flag("skip_unreadable", skip_unreadable)
        top = None if top is None else as_count("The number of classes that are listed", top)
        files: list[Path] = []
        for path in map(as_path, as_list(paths)):
            files += images_here(path) if os.path.isdir(path) else [path]
        if not files:
            raise DataError("There is no query image; name image files, or folders that hold some.")
        self._check_fitted()
        embedded = embed_files(
            self._eyes(), files, skip_unreadable=skip_unreadable, progress="queries", views=self.views
        )
        files, z = [files[position] for position in embedded.kept], embedded.z
        doubles = self._doubles(files, embedded.digests)
        similarity, probability = self.compare(z), self._probabilities(z)
        unknown = self.reading_.is_unknown(similarity.amax(dim=1))
        if top is None:
            return similarity_table(files, self.class_names, similarity, probability, unknown)
        table = answer_table(files, self.class_names, similarity, probability, unknown, top)
        if self.examples_.files:
            table["in_support"] = doubles
            add_nearest(table, z, self.examples_.z, self.examples_.files)
        return table

    def _doubles(self, files: list[Path], digests: Sequence[str]) -> list[bool]:
        """Whether the content of each file stands in the support, which is worth a warning.

        Args:
            files: the queries.
            digests: of their contents, as far as they are known.
        """
        places = {content: file for content, file in zip(self.examples_.contents, self.examples_.files) if content}
        found = [
            places.get(digest or content_digest(file)) if places else None
            for file, digest in zip(files, digests, strict=True)
        ]
        pairs = list(dict.fromkeys(f"{file} is {place}" for file, place in zip(files, found) if place))
        if pairs:
            more = f"; and {len(pairs) - _LISTED:,} more" if len(pairs) > _LISTED else ""
            _log.warning("Queries that stand in the support prove nothing: %s%s.", "; ".join(pairs[:_LISTED]), more)
        return [place is not None for place in found]

    # --- keeping ----------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write what has been learned as one safetensors file, without the encoder's weights; see ``load``.

        Raises:
            SamplingError: ``fit`` has not been called.
            CheckpointError, StorageError: it cannot be written.
        """
        self._check_fitted()
        eyes = self._eyes() if self.encoder is not None or hasattr(self, "_loaded") else None
        listed = not hasattr(self, "n_features_in_")
        saved.save(path, self.examples_, self.get_params(deep=False), listed, self.head_.name, self.reading_, eyes)

    @classmethod
    def load(cls, path: str | Path, encoder: Any = None) -> OneShotClassifier:
        """Read a classifier that ``save`` has written, with the encoder that it was made with.

        Args:
            path: the file.
            encoder: that encoder; loaded by its name or its checkpoint's path if left out.

        Raises:
            CheckpointError: the file is missing, damaged, foreign or of a newer version, or the encoder is not to be
                had or another one.
            ConfigError: see ``load_encoder``.
        """
        examples, known = saved.load(path)
        if strange := sorted(known["settings"].keys() - cls._get_param_names()):
            raise CheckpointError(
                f"{path} was saved by a newer version, with a setting {strange[0]!r} that this one lacks; update "
                "siamese_utils."
            )
        eyes = saved.encoder_of(path, known["encoder"], encoder)
        classifier = cls(eyes, **known["settings"])
        if eyes is not None:
            classifier._loaded = (eyes, eyes)
        classifier._know(examples, known["head"], known["reading"])
        if not known["listed"]:
            classifier.n_features_in_ = examples.z.shape[1]
        return classifier


def _loaded(given: Any) -> Any:
    """See ``as_encoder``; a folder in its place is told."""
    try:
        return as_encoder(given)
    except (CheckpointError, UnknownNameError) as error:  # not before, as a folder may be named like an encoder
        if isinstance(given, (str, bytes, os.PathLike)) and os.path.isdir(given):
            name = repr(os.fsdecode(given))
            raise ConfigError(
                f"{name} is a folder, but the encoder comes first: write classify_folder(None, {name}, ...) or "
                f"OneShotClassifier().fit_folder({name})."
            ) from error
        raise


def classify_folder(
    encoder: Any = None,
    support: str | Path = "",
    queries: str | Path | Iterable[str | Path] = (),
    skip_unreadable: bool = False,
    top: int | None = None,
) -> pd.DataFrame:
    """Support folder in, predictions with similarities for the query images out.

    Args:
        encoder: see ``OneShotClassifier``.
        support: folder with one sub-folder a class, one image or more in each.
        queries: image files, or folders of image files; one may stand alone.
        skip_unreadable: leave out images that cannot be read, and list them in a warning.
        top: how many classes are listed for each image; if left out, there is a column a class.

    Returns:
        see ``OneShotClassifier.predict_files``.

    Raises:
        CheckpointError, ConfigError: see ``OneShotClassifier``.
        DataError, SamplingError: see ``fit_folder`` and ``predict_files``.
    """
    return OneShotClassifier(encoder).fit_folder(support, skip_unreadable).predict_files(queries, skip_unreadable, top)
