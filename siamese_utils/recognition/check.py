"""How well will a folder of examples work? Judged on the examples themselves, each compared with all others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from siamese_utils.data.arrays import as_flag
from siamese_utils.encoders.checkpoints import as_encoder
from siamese_utils.encoders.named import best_encoder, called
from siamese_utils.errors import ImageError, SamplingError, printable
from siamese_utils.recognition.doubles import Double, find_doubles
from siamese_utils.recognition.embedding import embed_files
from siamese_utils.recognition.folder_report import FolderReport
from siamese_utils.recognition.heads import left_out_in_turn, prototype_left_out
from siamese_utils.recognition.support import Support, read_support

if TYPE_CHECKING:
    from siamese_utils.evaluation.estimates import Estimate

CLEARLY = 0.5
"""An example looks mislabelled if it is nearer to another class by more than this share of the median lead of those
that are named right; chosen on photographs, some of whose classes are among those reported on."""
FEW = 3
"""Examples below which a class is said to have few."""
_OUTLYING = 3  # robust standard deviations below the median likeness, of a class that is too varied
_CLASSES = 5  # needed for that
_WORK = 2e8  # similarities at most for the accuracy with one example each


def check_folder(folder: str | Path, encoder: Any = None, skip_unreadable: bool = False) -> FolderReport:
    """Judge a support folder by its own images, before it is trusted.

    Each image is classified by the others, without one image of every class at a time (``left_out_in_turn``). Images
    that double another of their class are left out of this, since their double would give them away.

    Args:
        folder: one sub-folder a class, one image or more in each.
        encoder: see ``load_encoder``; the best that is installed if left out.
        skip_unreadable: leave out images that cannot be read; the report lists them.

    Raises:
        DataError: the folder is missing or cannot be read, or images are unreadable; all of them are named.
        SamplingError: fewer than two classes, or no class with a second image.
        CheckpointError, ConfigError: see ``load_encoder``.
    """
    skip_unreadable = as_flag("skip_unreadable", skip_unreadable)
    support = read_support(folder, check_doubles=False)
    encoder = as_encoder(best_encoder() if encoder is None else encoder)
    embedded = embed_files(encoder, support.files, skip_unreadable=skip_unreadable, progress="support images")
    contents = [support.contents[row] for row in embedded.kept]
    doubles = find_doubles([support.files[row] for row in embedded.kept], contents, embedded.z)
    return judge(support, embedded.z, embedded.kept, embedded.faults, Path(folder), encoder, doubles)


def judge(
    support: Support,
    z: torch.Tensor,
    kept: Sequence[int],
    faults: dict[int, ImageError],
    folder: Path,
    encoder: Any,
    doubles: Sequence[Double] = (),
) -> FolderReport:
    """The report of embeddings that are at hand; see ``check_folder``.

    Args:
        support: the folder's files and classes.
        z: float32 (M, D), embeddings of those that can be read.
        kept: their positions in ``support.files``.
        faults: of the others, by their positions.
        folder: where they lie.
        encoder: what has embedded them.
        doubles: pairs among those that can be read.
    """
    from siamese_utils.evaluation.estimates import wilson  # brings scipy.stats, slow to import

    rows = list(kept)
    labels, files = support.labels[rows], [support.files[row] for row in rows]
    once = _once(labels, doubles)
    if len(labels.unique()) < 2:
        raise SamplingError(
            f"Only one class in {printable(folder)} has an image that can be read, and judging takes two; mend the "
            "others."
        )
    left = _left_out(z[once], labels[once])
    if not left.judged.any():
        raise SamplingError(
            f"Each class in {printable(folder)} has one image, and judging leaves one out; add a second image to some "
            "of them."
        )
    judged = int(left.judged.sum())
    right = int(left.right.sum())
    names = np.array(support.class_names, dtype=object)
    kept_once = [file for file, one in zip(files, once.tolist()) if one]
    return FolderReport(
        folder,
        called(encoder),
        getattr(encoder, "note", ""),
        100 * right / judged,
        wilson(right, judged),
        judged,
        _one_shot(z[once], labels[once]),
        _class_table(names, z[once], labels[once], left, torch.bincount(labels[~once], minlength=len(names)).numpy()),
        _mixed_table(names, labels[once], left),
        _mistake_table(names, kept_once, z[once], labels[once], left),
        _double_table(names, files, labels, doubles),
        pd.DataFrame(
            [(printable(support.files[row]), error.fault) for row, error in faults.items()], columns=["file", "fault"]
        ),
        int((~once).sum()),
    )


def _once(labels: torch.Tensor, doubles: Sequence[Double]) -> torch.Tensor:
    """Whether each image is the first of its class among those that are one image; bool (M,).

    Args:
        labels: int64 (M,).
        doubles: see ``find_doubles``; the one that an image doubles may lie in another class, as a third one may.
    """
    image = list(range(len(labels)))
    for one in sorted(doubles, key=lambda one: one.second):
        image[one.second] = image[one.first]
    doubled = pd.DataFrame({"image": image, "label": labels.numpy()}).duplicated()
    return torch.tensor(~doubled.to_numpy())


@dataclass(frozen=True, eq=False)
class _LeftOut:
    """Each image against the others.

    Attributes:
        labels: its class.
        predicted: the class that it is given to, by as many of every class; -1 where it is alone in its class.
        own: cosine similarity to the prototype of its own class without itself; not a number where it is alone.
        other: similarity to the prototype of the nearest other class.
        nearest: that class.
    """

    labels: torch.Tensor
    predicted: torch.Tensor
    own: torch.Tensor
    other: torch.Tensor
    nearest: torch.Tensor

    @property
    def judged(self) -> torch.Tensor:
        return self.predicted >= 0

    @property
    def right(self) -> torch.Tensor:
        return self.predicted == self.labels

    @property
    def wrong(self) -> torch.Tensor:
        return self.judged & ~self.right

    @property
    def margin(self) -> torch.Tensor:
        """How much nearer an image is to another class than to its own."""
        return self.other - self.own


def _left_out(z: torch.Tensor, labels: torch.Tensor) -> _LeftOut:
    present, compact = labels.unique(return_inverse=True)
    predicted = left_out_in_turn(z, compact)  # by the head that a classifier would choose
    predicted = torch.where(predicted < 0, -1, present[predicted])
    similarity, row = prototype_left_out(z, compact), torch.arange(len(z))
    own = similarity[row, compact]
    similarity[row, compact] = -2
    other = similarity.max(dim=1)
    return _LeftOut(labels, predicted, own, other.values, present[other.indices])


def _one_shot(z: torch.Tensor, labels: torch.Tensor) -> Estimate:
    from siamese_utils.evaluation.episodes import all_way_accuracy

    supports = int(_WORK / (len(z) * len(labels.unique())))
    return all_way_accuracy(z, labels, 0, min(200, max(10, supports)))


def _class_table(
    names: np.ndarray, z: torch.Tensor, labels: torch.Tensor, left: _LeftOut, doubles: np.ndarray
) -> pd.DataFrame:
    """A row a class; ``doubles``, int (C,), are those left out of each."""
    count = len(names)
    sums = torch.zeros(count, z.shape[1]).index_add_(0, labels, z)
    images, judged, right = (
        torch.bincount(labels, flags.double(), count).long().numpy()
        for flags in (torch.ones(len(z)), left.judged, left.right)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        likeness = ((sums.square().sum(1).numpy() - images) / (images * (images - 1))).astype(float)
    table = pd.DataFrame(
        {
            "class": names,
            "images": images,
            "judged": judged,
            "right": right,
            "likeness": np.where(images > 1, likeness, np.nan),
        }
    )
    return table.assign(remark=_remarks(table, doubles))


def _remarks(table: pd.DataFrame, doubles: np.ndarray) -> list[str]:
    """What is to be said of each class, or nothing."""
    from siamese_utils.evaluation.estimates import wilson

    several = table.likeness[table.images >= FEW]
    middle = several.median()
    spread = 1.4826 * (several - middle).abs().median()  # a standard deviation, if they were normal
    lowest = middle - _OUTLYING * spread if len(several) >= _CLASSES else -np.inf
    overall = 100 * table.right.sum() / table.judged.sum()
    remarks = []
    for row in table.itertuples():
        said = []
        if row.images == 0:
            said.append("no image that can be read")
        elif row.images == 1:
            beside = ("", " besides its double", " besides its doubles")[min(doubles[row.Index], 2)]
            said.append(f"one example{beside}: cannot be judged")
        elif row.images < FEW:
            said.append("few examples")
        if row.images >= FEW and row.likeness < lowest:
            said.append("varied examples")
        if row.judged and wilson(row.right, row.judged)[1] < overall:
            said.append("often taken for another")
        remarks.append(", ".join(said))
    return remarks


def _mixed_table(names: np.ndarray, labels: torch.Tensor, left: _LeftOut) -> pd.DataFrame:
    pairs = zip(labels[left.wrong].tolist(), left.predicted[left.wrong].tolist())
    times = Counter(tuple(sorted(pair)) for pair in pairs)
    judged = torch.bincount(labels[left.judged], minlength=len(names))
    rows = [(names[a], names[b], count, int(judged[a] + judged[b])) for (a, b), count in times.most_common()]
    return pd.DataFrame(rows, columns=["class", "other", "times", "of"])


def _mistake_table(
    names: np.ndarray, files: Sequence[Path], z: torch.Tensor, labels: torch.Tensor, left: _LeftOut
) -> pd.DataFrame:
    leads = -left.margin[left.judged]
    leads = leads[leads > 0]
    clear = CLEARLY * float(leads.median()) if len(leads) else 0.0

    def nearest(row: int, label: int) -> tuple[str, float]:
        of_class = torch.nonzero(labels == label).flatten()
        of_class = of_class[of_class != row]
        similarity, place = (z[of_class] @ z[row]).max(dim=0)
        return printable(files[of_class[place]]), float(similarity)

    rows = []
    found = torch.nonzero(left.wrong | (left.margin > clear)).flatten()
    for row in found[left.margin[found].argsort(descending=True, stable=True)].tolist():
        own, lead = int(labels[row]), float(left.margin[row])
        other = int((left.predicted if left.wrong[row] else left.nearest)[row])
        shown = (*nearest(row, other), *nearest(row, own))
        rows.append((printable(files[row]), names[own], names[other], lead, *shown, lead > clear))
    columns = [
        "file",
        "class",
        "looks_like",
        "lead",
        "nearest",
        "similarity",
        "nearest_own",
        "own_similarity",
        "mislabelled",
    ]
    return pd.DataFrame(rows, columns=columns).astype({"mislabelled": bool})


def _double_table(
    names: np.ndarray, files: Sequence[Path], labels: torch.Tensor, doubles: Sequence[Double]
) -> pd.DataFrame:
    rows = [
        (
            printable(files[one.second]),
            printable(files[one.first]),
            names[labels[one.second]],
            names[labels[one.first]],
            one.kind,
            one.similarity,
        )
        for one in doubles
    ]
    return pd.DataFrame(rows, columns=["file", "other", "class", "other_class", "kind", "similarity"])
