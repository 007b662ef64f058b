"""Labeled Faces in the Wild, view 1: pairs of photographs, the people on them, and a cut by person.

The data come through ``sklearn.datasets.fetch_lfw_pairs``, which follows the official lists ``pairsDevTrain.txt`` and
``pairsDevTest.txt``. It gives arrays of pairs without names, in which a photograph stands as often as it is in a pair.
So each photograph is read once, by the name in the list, and the middle of every pair is compared with scikit-learn's
array. Of a photograph a window around the face is kept, rows 55-204 and columns 60-189 of its 250 x 250 pixels, in
colour.

The data are looked for where CIFAR-100 is (see ``siamese_utils.data.sources``), as ``lfw_home/``, and are downloaded by
scikit-learn otherwise: 233 MB. What it downloads are the *funneled* photographs (Huang, Jain, Learned-Miller,
*Unsupervised joint alignment of complex images*, ICCV 2007). A copy that is black outside the window holds the
*deep-funneled* ones (Huang, Mattar, Lee, Learned-Miller, *Learning to align from scratch*, NeurIPS 2012); every set
says which it has. The windows are cached.

Data: G. Huang, M. Ramesh, T. Berg, E. Learned-Miller, *Labeled Faces in the Wild*, University of Massachusetts,
technical report 07-49, 2007.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch.nn import functional as F

from siamese_utils.data import sources
from siamese_utils.data.image_files import opened
from siamese_utils.data.images import PARTS, ImageSet, check_part
from siamese_utils.data.sampling import Pairs, named_rng
from siamese_utils.data.sources import scratch_folder
from siamese_utils.errors import ConfigError, DataError, SamplingError, ShapeError, SplitError, reason, unknown

PHOTO = 250  # pixels, the side of a photograph
ROWS, COLUMNS = (55, 205), (60, 190)  # the window that is kept of it
WINDOW = (ROWS[1] - ROWS[0], COLUMNS[1] - COLUMNS[0])
MIDDLE = (130, 125)  # row and column of a photograph around which squares are cut: between eyes and mouth
LARGEST_SQUARE = 128  # pixels, from the hairline to the chin
LISTS = {"train": "pairsDevTrain.txt", "test": "pairsDevTest.txt"}
ALIGNMENTS = {
    "deep-funneled": "deep-funneled, black outside the window",
    "funneled": "funneled, as scikit-learn downloads it",
    "synthetic": "drawn in place",
}
FRAMINGS = ("photo", "window")
_CACHE_VERSION = 2
_PATCH = 32  # pixels, the side of what is compared with scikit-learn's arrays
_BLACK, _MARGIN = 8, 9  # brightest level that counts as black, and pixels beyond the window that JPEG may smear over


# --- lists of pairs -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs of photographs by name, without their pixels.

    Attributes:
        names: of the people, in alphabetical order.
        person: int64 (N,), person on each photograph, a position in ``names``.
        number: int64 (N,), the photograph's number among the person's, as in its file name.
        pairs: P pairs of photographs, in the order of the list.
        part: ``"train"`` or ``"test"``.
    """

    names: tuple[str, ...]
    person: torch.Tensor
    number: torch.Tensor
    pairs: Pairs
    part: str

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.person)

    @property
    def people(self) -> tuple[int, ...]:
        """Persons of whom there is a photograph here, ascending."""
        return tuple(self.person.unique().tolist())

    def title(self, photo: int) -> str:
        """Name a photograph for people, for example ``"Abdullah Gul 13"``."""
        return f"{self.names[int(self.person[photo])].replace('_', ' ')} {int(self.number[photo])}"


@dataclass(frozen=True, eq=False)
class FaceSet(PairList):
    """Photographs of faces, the people on them, and pairs of them.

    Attributes:
        images: uint8 (N, 150, 130, 3), the window around the face.
        alignment: a name in ``ALIGNMENTS``.
        source: where the photographs came from, for people to read.

    Raises:
        ShapeError: images, people and pairs do not fit each other.
    """

    images: torch.Tensor
    alignment: str
    source: str

    def __post_init__(self) -> None:
        """Check that the fields fit each other."""
        if self.images.dtype != torch.uint8 or tuple(self.images.shape[1:]) != (*WINDOW, 3):
            raise ShapeError(
                f"Faces are uint8 (N, {WINDOW[0]}, {WINDOW[1]}, 3), not {self.images.dtype} "
                f"{tuple(self.images.shape)}; cut the window out first."
            )
        if not len(self.images) == len(self.person) == len(self.number):
            raise ShapeError(
                f"{len(self.images)} faces need as many persons and numbers, not {len(self.person)} and "
                f"{len(self.number)}."
            )
        ends = torch.cat([self.pairs.first, self.pairs.second])
        if len(ends) and not 0 <= int(ends.min()) <= int(ends.max()) < len(self.images):
            raise ShapeError(f"A pair names a photograph that is not among the {len(self.images)}; renumber the pairs.")

    def __repr__(self) -> str:
        """Describe the set in one line, without its pixels."""
        return (
            f"FaceSet({self.name} {self.part}: {len(self):,} photographs of {len(self.people):,} people, "
            f"{len(self.pairs.same):,} pairs, from {self.source})"
        )

    @property
    def name(self) -> str:
        """``"synthetic"``, or ``"lfw"`` with the alignment."""
        return "synthetic" if self.is_synthetic else f"lfw-{self.alignment}"

    @property
    def is_synthetic(self) -> bool:
        """Whether these are drawn faces and not LFW."""
        return self.alignment == "synthetic"

    def of_people(self, people: Iterable[int]) -> FaceSet:
        """The photographs of some people and the pairs among them; persons keep their numbers.

        Raises:
            DataError: a number that is no person.
        """
        wanted = torch.as_tensor(sorted({int(person) for person in people}), dtype=torch.int64)
        strange = wanted[(wanted < 0) | (wanted >= len(self.names))]
        if len(strange):
            raise DataError(f"There is no person {int(strange[0])}; the persons are 0..{len(self.names) - 1}.")
        kept = torch.isin(self.person, wanted)
        place = torch.full((len(self),), -1, dtype=torch.int64)
        place[kept] = torch.arange(int(kept.sum()))
        first, second = place[self.pairs.first], place[self.pairs.second]
        whole = (first >= 0) & (second >= 0)
        return replace(
            self,
            images=self.images[kept],
            person=self.person[kept],
            number=self.number[kept],
            pairs=Pairs(first[whole], second[whole], self.pairs.same[whole]),
        )


def read_pair_list(path: Path, part: str) -> PairList:
    """Read one of LFW's lists of pairs, such as ``pairsDevTrain.txt``.

    A line ``name i j`` is two photographs of one person, ``name i other j`` one each of two people.

    Raises:
        DataError: the file is missing or a line is of another form.
    """
    try:
        lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The list of pairs {path} cannot be read; fetch LFW again.") from error
    specs: list[tuple[tuple[str, int], tuple[str, int]]] = []
    for number, fields in enumerate(lines, start=1):
        if number == 1 and len(fields) == 1:  # how many pairs of each kind
            continue
        try:
            name, i, *rest = fields
            other, j = (name, *rest) if len(fields) == 3 else rest
            specs.append(((name, int(i)), (other, int(j))))
        except ValueError as error:
            raise DataError(f"Line {number} of {path} names no pair of photographs; fetch LFW again.") from error
    if not specs:
        raise DataError(f"The list {path} names no pair; fetch LFW again.")
    photos = sorted({photo for spec in specs for photo in spec})
    names = sorted({name for name, _ in photos})
    place, person_of = {photo: row for row, photo in enumerate(photos)}, {name: row for row, name in enumerate(names)}
    pairs = Pairs(
        torch.tensor([place[first] for first, _ in specs]),
        torch.tensor([place[second] for _, second in specs]),
        torch.tensor([first[0] == second[0] for first, second in specs]),
    )
    person = torch.tensor([person_of[name] for name, _ in photos])
    return PairList(tuple(names), person, torch.tensor([number for _, number in photos]), pairs, part)


# --- analysis -------------------------------------------------------------------------------------


def part_table(parts: dict[str, PairList]) -> pd.DataFrame:
    """One row a part: people, photographs, pairs, share of same pairs, people in same pairs, photographs a person."""
    rows = []
    for name, part in parts.items():
        counts = part.person.unique(return_counts=True)[1]
        same = part.pairs.same
        rows.append(
            {
                "part": name,
                "people": len(part.people),
                "photographs": len(part),
                "pairs": len(same),
                "same": int(same.sum()),
                "different": int((~same).sum()),
                "same, %": 100 * float(same.double().mean()) if len(same) else float("nan"),
                "people with a same pair": len(part.person[part.pairs.first[same]].unique()),
                "photographs a person": len(part) / max(1, len(part.people)),
                "most of one person": int(counts.max()) if len(counts) else 0,
            }
        )
    return pd.DataFrame(rows)


def photos_per_person(parts: dict[str, PairList]) -> pd.DataFrame:
    """How many people have 1, 2, 3 … photographs: one row a number, one column a part."""
    columns = {name: torch.bincount(part.person.unique(return_counts=True)[1]) for name, part in parts.items()}
    most = max(len(column) for column in columns.values())
    table = pd.DataFrame({name: F.pad(column, (0, most - len(column))).numpy() for name, column in columns.items()})
    table.insert(0, "photographs", np.arange(most))
    return table[1:].reset_index(drop=True)


def shared_people(one: PairList, other: PairList) -> tuple[str, ...]:
    """Names of the people of whom both have a photograph, in alphabetical order."""
    names = [{part.names[person] for person in part.people} for part in (one, other)]
    return tuple(sorted(names[0] & names[1]))


# --- the cut by person ----------------------------------------------------------------------------


def split_by_person(faces: FaceSet, share: float = 0.2, seed: int = 0) -> tuple[FaceSet, FaceSet]:
    """Part people, and with them photographs and pairs, into training and validation.

    Two people who meet in a pair go to the same side, and so do those whom they meet: connected components of the
    graph of people are drawn in random order for validation until it has its share of same and of different pairs. So
    no pair is lost, though no person is on both sides.

    Args:
        faces: what to part.
        share: of the pairs of each kind, for validation.
        seed: of the random order.

    Returns:
        ``(training, validation)``; persons keep their numbers.

    Raises:
        SplitError: the share lies not between 0 and 1, or one side would be without pairs of both kinds.
    """
    if not 0 < share < 1:
        raise SplitError(f"The validation share must lie between 0 and 1, not {share}.")
    ends = [faces.person[end].numpy() for end in (faces.pairs.first, faces.pairs.second)]
    size = len(faces.names)
    _, component = connected_components(coo_matrix((np.ones(len(ends[0])), tuple(ends)), (size, size)), directed=False)
    same = faces.pairs.same.numpy()
    of_pair = component[ends[0]]
    counts = np.stack([np.bincount(of_pair[kind], minlength=component.max() + 1) for kind in (same, ~same)])
    wanted = np.round(share * counts.sum(axis=1)).astype(int)
    chosen, have = [], np.zeros(2, dtype=int)
    for number in named_rng(seed, "validation people").permutation(counts.shape[1]).tolist():
        if counts[:, number].any() and (have + counts[:, number] <= wanted).all():
            chosen.append(number)
            have += counts[:, number]
    validation = np.isin(component, chosen)
    parts = faces.of_people(np.flatnonzero(~validation)), faces.of_people(np.flatnonzero(validation))
    if common := shared_people(*parts):
        raise SplitError(f"{common[0]} is in training and in validation; keep the two apart.")
    for part in parts:
        if not 0 < int(part.pairs.same.sum()) < len(part.pairs.same):
            raise SplitError(
                f"With a share of {share} one side has no same or no different pair; give more people or another share."
            )
    return parts


# --- what networks see ----------------------------------------------------------------------------


def squares(images: torch.Tensor, crop: int, size: int) -> torch.Tensor:
    """Square crops around the middle of the face, scaled with antialiasing.

    Args:
        images: uint8 (N, 150, 130, 3), windows.
        crop: side of the square in pixels of the photograph, at most 128.
        size: side of the result.

    Returns:
        uint8 (N, size, size, 3).

    Raises:
        ConfigError: a crop beyond the window, or a size below one pixel.
    """
    if not 1 <= crop <= LARGEST_SQUARE or size < 1:
        raise ConfigError(f"A face is cut to 1 to {LARGEST_SQUARE} pixels and scaled to 1 or more, not {crop}, {size}.")
    top, left = MIDDLE[0] - ROWS[0] - crop // 2, MIDDLE[1] - COLUMNS[0] - crop // 2
    return _scaled(images[:, top : top + crop, left : left + crop], size)


def grey(images: torch.Tensor, size: int = 105, framing: str = "photo") -> torch.Tensor:
    """Grey images as the assignment's network takes them.

    Args:
        images: uint8 (N, 150, 130, 3), windows.
        size: side of the result.
        framing: ``"photo"`` puts the window back into its photograph, black elsewhere, so that the face is as large as
            in a photograph of 250 x 250 scaled down; ``"window"`` scales the window alone, which widens it by 15%.

    Returns:
        uint8 (N, size, size), luma as in ITU-R BT.601.

    Raises:
        UnknownNameError: no such framing.
    """
    if framing not in FRAMINGS:
        raise unknown("framing", framing, FRAMINGS)
    weights = torch.tensor([0.299, 0.587, 0.114])
    rows = []
    for chunk in images.split(500):
        luma = (chunk.to(torch.float32) @ weights)[..., None]
        if framing == "photo":
            luma = F.pad(luma, (0, 0, COLUMNS[0], PHOTO - COLUMNS[1], ROWS[0], PHOTO - ROWS[1]))
        rows.append(_scaled(luma, size)[..., 0])
    return torch.cat(rows) if rows else torch.empty(0, size, size, dtype=torch.uint8)


def _scaled(images: torch.Tensor, size: int) -> torch.Tensor:
    """Images (N, H, W, C) scaled to uint8 (N, size, size, C)."""
    if images.dtype == torch.uint8 and tuple(images.shape[1:3]) == (size, size):
        return images.contiguous()
    scaled = []
    for chunk in images.split(500):
        pixels = chunk.permute(0, 3, 1, 2).to(torch.float32)
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        scaled.append(pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(scaled).contiguous() if scaled else torch.empty(0, size, size, images.shape[3], dtype=torch.uint8)


def training_images(faces: FaceSet, crop: int, size: int, least: int = 2, repeat: bool = True) -> ImageSet:
    """Photographs as classes to learn, one class a person.

    Batches for objectives on triplets and contrasts need two images of a class. Of most people in LFW there is one:
    such a person's photograph can stand there twice, and the two are then varied differently by augmentation.

    Args:
        faces: of the people to learn.
        crop, size: see ``squares``.
        least: photographs that every person has.
        repeat: repeat the photographs of people who have fewer; off leaves those people out.

    Returns:
        the set, sorted by person; labels count the people who are left from 0.

    Raises:
        SamplingError: fewer than two people are left.
    """
    positions: list[int] = []
    people: list[int] = []
    labels: list[int] = []
    for person in faces.people:
        own = (faces.person == person).nonzero().flatten().tolist()
        if len(own) < least:
            if not repeat:
                continue
            own = (own * least)[:least]
        positions += own
        labels += [len(people)] * len(own)
        people.append(person)
    if len(people) < 2:
        raise SamplingError(f"Fewer than two people have {least} photographs; lower `least` or repeat photographs.")
    return ImageSet(
        images=squares(faces.images, crop, size)[positions].contiguous(),
        labels=torch.tensor(labels),
        class_names=tuple(faces.names[person] for person in people),
        superclass_names=("people",),
        superclass_of=(0,) * len(people),
        name=faces.name,
        part=faces.part,
        source=faces.source,
    )


# --- loading --------------------------------------------------------------------------------------


def load_training_faces() -> FaceSet:
    """LFW's development training set: 2,200 pairs of photographs of 2,132 people.

    Raises:
        MissingDataError: it is nowhere and cannot be downloaded.
        DataError: it is damaged.
    """
    return _load("train")


def load_test_faces() -> FaceSet:
    """LFW's development test set: 1,000 pairs of photographs of 963 other people. Errors as above.

    In this package only ``answers_on_test`` of the face study reads it.
    """
    return _load("test")


def load_pair_lists() -> dict[str, PairList]:
    """Both lists of pairs by part, without photographs, for the analysis. Errors as above."""
    home, _ = _home()
    return {part: read_pair_list(home / name, part) for part, name in LISTS.items()}


def _home() -> tuple[Path, str]:
    """The folder ``lfw_home`` and its name for people; downloaded if need be."""

    def holds(folder: Path) -> bool:
        home = folder / "lfw_home"
        return (home / LISTS["train"]).is_file() and (home / "lfw_funneled").is_dir()

    remedy = "name the folder that holds lfw_home in SIAMESE_DATA"
    folder, label = sources.find(holds) or sources.fetch("LFW", _download, remedy=remedy)
    return folder / "lfw_home", f"{label}/lfw_home"


def _download(folder: Path) -> None:
    from sklearn.datasets import fetch_lfw_pairs

    # One pixel of each, since this call is for the files alone.
    fetch_lfw_pairs(subset="train", data_home=str(folder), resize=None, slice_=(slice(0, 1), slice(0, 1)))


def _load(part: str) -> FaceSet:
    check_part(part)
    home, label = _home()
    pairs = read_pair_list(home / LISTS[part], part)
    photos = [_photo_path(home, pairs, photo) for photo in range(len(pairs))]
    try:
        fingerprint = sources.fingerprint(f"{_CACHE_VERSION} {ROWS} {COLUMNS}", home, photos)
    except OSError as error:
        raise DataError(f"{error.filename} is missing: delete {home} and start again to download it.") from error

    def read() -> dict[str, torch.Tensor]:
        images, black_outside = _read_windows(home, photos)
        _check_against_sklearn(home, part, pairs, images)
        return {"images": images, "black_outside": torch.tensor(black_outside)}

    found = sources.cached(sources.at_place(f"lfw-{part}", home), fingerprint, read)
    alignment = "deep-funneled" if found["black_outside"] else "funneled"
    return FaceSet(pairs.names, pairs.person, pairs.number, pairs.pairs, part, found["images"], alignment, label)


def _photo_path(home: Path, pairs: PairList, photo: int) -> Path:
    name = pairs.names[int(pairs.person[photo])]
    return home / "lfw_funneled" / name / f"{name}_{int(pairs.number[photo]):04d}.jpg"


def _read_windows(home: Path, photos: Sequence[Path]) -> tuple[torch.Tensor, bool]:
    """The windows of all photographs, uint8 (N, 150, 130, 3), and whether all is black outside."""
    images = torch.empty(len(photos), *WINDOW, 3, dtype=torch.uint8)
    black_outside = True
    for photo, path in enumerate(photos):
        pixels = _read_photo(path)
        images[photo] = face_window(pixels)[0]
        if int(images[photo].max()) <= _BLACK:
            raise DataError(f"{path} is black, a placeholder; delete {home} and start again to download it.")
        outside = pixels[: ROWS[0] - _MARGIN], pixels[ROWS[1] + _MARGIN :]
        black_outside = black_outside and max(int(strip.max()) for strip in outside) <= _BLACK
    return images, black_outside


def _check_against_sklearn(home: Path, part: str, pairs: PairList, images: torch.Tensor) -> None:
    """Compare the middle of every pair with scikit-learn's array, and its truth with the list.

    scikit-learn stores what it computes beside the lists. Data that are shared or read-only must stay as they are, so
    it works in a folder of links, which is removed.
    """
    from sklearn.datasets import fetch_lfw_pairs

    rows, columns = (slice(middle - _PATCH // 2, middle + _PATCH // 2) for middle in MIDDLE)
    with scratch_folder() as scratch:
        links = scratch / "lfw_home"
        try:
            links.mkdir()
            for entry in home.iterdir():
                if entry.name != "joblib":
                    (links / entry.name).symlink_to(entry.resolve())
        except OSError:  # a system without links: only then beside the data
            links = home
        try:
            bunch = fetch_lfw_pairs(
                subset=part,
                data_home=str(links.parent),
                color=True,
                resize=None,
                slice_=(rows, columns),
                download_if_missing=False,
            )
        except (OSError, ValueError, IndexError, RuntimeError) as error:
            raise DataError(f"{home} is damaged or incomplete ({reason(error)}): delete it and start again.") from error
    if len(bunch.target) != len(pairs.pairs.same) or not np.array_equal(bunch.target == 1, pairs.pairs.same.numpy()):
        raise DataError(f"scikit-learn's pairs are not those of {home / LISTS[part]}; update scikit-learn.")
    top, left = rows.start - ROWS[0], columns.start - COLUMNS[0]
    patches = images[:, top : top + _PATCH, left : left + _PATCH].numpy()
    for side, photos in enumerate((pairs.pairs.first, pairs.pairs.second)):
        theirs = np.rint(255 * bunch.pairs[:, side]).astype(np.uint8)
        differs = (theirs != patches[photos.numpy()]).any(axis=(1, 2, 3))
        if differs.any():
            row = int(np.flatnonzero(differs)[0])
            raise DataError(
                f"scikit-learn's pair {row + 1} does not show {pairs.title(int(photos[row]))}; the photographs of a "
                f"person must be numbered without gaps: delete {home} and start again to download it."
            )


def _read_photo(path: Path) -> NDArray[np.uint8]:
    with opened(path, str(path), "fetch LFW again") as image:
        pixels = np.asarray(image.convert("RGB"))
    if pixels.shape != (PHOTO, PHOTO, 3):
        raise DataError(f"{path} has {pixels.shape[1]}x{pixels.shape[0]} pixels, not {PHOTO}x{PHOTO}; fetch LFW again.")
    return pixels


def face_window(photo: NDArray[np.uint8]) -> torch.Tensor:
    """The window of a photograph that is framed like LFW's: uint8 (250, 250, 3) to uint8 (1, 150, 130, 3).

    Raises:
        ShapeError: another shape or type.
    """
    if photo.dtype != np.uint8 or photo.shape != (PHOTO, PHOTO, 3):
        raise ShapeError(f"A photograph is uint8 ({PHOTO}, {PHOTO}, 3), not {photo.dtype} {photo.shape}; resize it.")
    return torch.from_numpy(np.ascontiguousarray(photo[None, slice(*ROWS), slice(*COLUMNS)]))


# --- synthetic faces ------------------------------------------------------------------------------


def synthetic_faces(people: int = 60, pairs: int = 80, seed: int = 0, part: str = "train") -> FaceSet:
    """Draw made-up faces, for tests and for machines without data.

    A person has colours of skin, hair and eyes and a geometry of the face; every photograph changes light, place,
    expression and background. As in LFW, of most people there are few photographs, and half of the pairs are the same.

    Args:
        people: at least 4.
        pairs: at least 2; an odd number has one more different pair.
        seed: decides all; ``part`` gives other people.
        part: ``"train"`` or ``"test"``.

    Raises:
        SamplingError: too few people or pairs.
    """
    if people < 4 or pairs < 2:
        raise SamplingError("Synthetic faces need at least four people and two pairs.")
    check_part(part)
    rng = np.random.default_rng([seed, PARTS.index(part)])
    looks = [_look(rng) for _ in range(people)]
    photos = np.where(np.arange(people) % 2 == 0, rng.integers(2, 5, people), 1)
    person = np.repeat(np.arange(people), photos)
    images = np.stack([_draw_face(looks[one], rng) for one in person])
    starts = np.cumsum(photos) - photos
    several = np.flatnonzero(photos > 1)
    first, second = [], []
    for _ in range(pairs // 2):
        one = rng.choice(several)
        a, b = starts[one] + rng.permutation(photos[one])[:2]
        first.append(a)
        second.append(b)
    for number in range(pairs - pairs // 2):  # neighbours, so that the graph of people falls into many components
        a, b = (2 * number) % people, (2 * number + 1) % people
        first.append(starts[a] + rng.integers(photos[a]))
        second.append(starts[b] + rng.integers(photos[b]))
    same = torch.arange(pairs) < pairs // 2
    numbers = np.concatenate([np.arange(1, count + 1) for count in photos])
    return FaceSet(
        names=tuple(f"{'Synthetic' if part == 'train' else 'Other'}_Person_{number:03d}" for number in range(people)),
        person=torch.from_numpy(person),
        number=torch.from_numpy(numbers),
        pairs=Pairs(torch.tensor(np.array(first)), torch.tensor(np.array(second)), same),
        part=part,
        images=torch.from_numpy(images),
        alignment="synthetic",
        source="drawn on the spot",
    )


def _look(rng: np.random.Generator) -> dict[str, NDArray[np.float64]]:
    """What stays from photograph to photograph of a person."""
    return {
        "skin": rng.uniform(0.25, 0.95) * np.array([235.0, 190.0, 160.0]),
        "hair": rng.uniform(20, 200, 3),
        "iris": rng.uniform(20, 160, 3),
        "size": rng.uniform([32, 42], [46, 60]),
        "fringe": rng.uniform(0.3, 0.8, 1),
        "eyes": rng.uniform([12, 2], [22, 6]),
        "mouth": rng.uniform([8, 20], [20, 34]),
        "nose": rng.uniform([3, 8], [9, 22]),
    }


def _draw_face(look: dict[str, NDArray[np.float64]], rng: np.random.Generator) -> NDArray[np.uint8]:
    """One photograph of a person: uint8 (150, 130, 3)."""
    height, width = WINDOW
    paper = Image.new("RGB", (width, height), _colour(rng.uniform(0, 255, 3)))
    pen = ImageDraw.Draw(paper)
    x, y = np.array([width / 2, height / 2]) + rng.normal(0, 2.5, 2)
    half_width, half_height = look["size"]
    brow = y - half_height * (1 - look["fringe"][0])

    def disc(cx: float, cy: float, rx: float, ry: float, colour: Sequence[float]) -> None:
        pen.ellipse([cx - rx, cy - ry, cx + rx, cy + ry], fill=_colour(colour))

    disc(x, y - 4, half_width + 6, half_height + 8, look["hair"])
    disc(x, y, half_width, half_height, look["skin"])
    pen.rectangle([x - half_width, y - half_height, x + half_width, brow - 12], fill=_colour(look["hair"]))
    for side in (-1, 1):
        disc(x + side * look["eyes"][0], y - 12, look["eyes"][1] + 3, look["eyes"][1], (245, 245, 245))
        disc(x + side * look["eyes"][0] + rng.normal(0, 1), y - 12, look["eyes"][1], look["eyes"][1], look["iris"])
    disc(x, y + 6, look["nose"][0], look["nose"][1] / 2, 0.8 * look["skin"])
    disc(x, y + look["mouth"][1], look["mouth"][0], rng.uniform(2, 6), (160, 60, 60))
    blurred = np.asarray(paper.filter(ImageFilter.GaussianBlur(1)), dtype=np.float64)
    light = rng.uniform(0.75, 1.2) * blurred + rng.normal(0, 6, blurred.shape)
    return np.clip(light, 0, 255).astype(np.uint8)


def _colour(values: Iterable[float]) -> tuple[int, ...]:
    return tuple(int(min(255, max(0, value))) for value in values)
