"""Pairs of images called the same or different, as a CSV lists them; what follows from them, and parts of them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components

from siamese_utils.data.sampling import named_rng
from siamese_utils.errors import DataError, SplitError, printable, shown
from siamese_utils.system.files import as_path

COLUMNS = ("image_a", "image_b", "same")
ANSWERS = {"1": True, "same": True, "true": True, "0": False, "different": False, "false": False}
LEAST = 5  # pairs of each kind on which an encoder is judged
_SHARE = 0.15  # of the images for each part that is not learned
_MOST_IN_ONE = 0.4  # of the images in one component; beyond it people, and not components, are kept together


@dataclass(frozen=True, eq=False)
class PairList:
    """Pairs of a CSV.

    Attributes:
        files: image files, each once.
        first: int64 (P,), positions in ``files``.
        second: likewise.
        same: bool (P,).
        lines: int64 (P,), where each pair stands in the CSV; its header is line 1.
        groups: int64 (N,), for each file the number of its group: files connected by same pairs, as of one person.
    """

    files: tuple[Path, ...]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]
    lines: NDArray[np.int64]
    groups: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.same)

    def among(self, groups: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the pairs whose two files are both of these groups."""
        inside = np.isin(self.groups, groups)
        return np.flatnonzero(inside[self.first] & inside[self.second])

    def without(self, left_out: Sequence[int]) -> PairList:
        """The list without pairs of some files, given by position; they stay in ``files``."""
        kept = ~(np.isin(self.first, left_out) | np.isin(self.second, left_out))
        return PairList(self.files, self.first[kept], self.second[kept], self.same[kept], self.lines[kept], self.groups)


def read_pairs(table: str | Path) -> PairList:
    """Read a CSV with the columns ``image_a``, ``image_b`` and ``same``.

    Paths are relative to the CSV. ``same`` is 1, same or true, or else 0, different or false. Other columns and empty
    lines are passed over.

    Raises:
        DataError: the file is missing or no such CSV, or a line of it cannot be meant; the line is named. So is a pair
            that is called different where others make it the same.
    """
    path = as_path(table)
    position: dict[Path, int] = {}
    rows: list[tuple[int, int, bool, int]] = []
    for line, (name_a, name_b, answer) in _lines(path):
        where = f"{printable(path)}, line {line}"
        a, b = (_file(path.parent, name, where) for name in (name_a, name_b))
        if a == b:
            raise DataError(f"{where}, pairs {printable(name_a)} with itself; remove the line.")
        if answer.lower() not in ANSWERS:
            raise DataError(f"{where}, has {shown(answer)} as 'same'; write 1, same or true, or 0, different or false.")
        first, second = (position.setdefault(file, len(position)) for file in (a, b))
        rows.append((first, second, ANSWERS[answer.lower()], line))
    if not rows:
        raise DataError(f"{printable(path)} lists no pair; add lines with {', '.join(COLUMNS)}.")
    first, second, same, lines = (np.array(column) for column in zip(*rows))
    groups = _connected(len(position), first[same], second[same])
    pairs = PairList(tuple(position), first, second, same, lines, groups)
    _check_consistent(pairs, path)
    return pairs


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Number and the three wanted fields of each line."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = [name.strip().lower() for name in next(reader, [])]
            if missing := [name for name in COLUMNS if name not in header]:
                raise DataError(
                    f"{printable(path)} lacks the column {missing[0]!r}; its first line names the columns "
                    f"{', '.join(COLUMNS)}."
                )
            columns = [header.index(name) for name in COLUMNS]
            for fields in reader:
                if not any(field.strip() for field in fields):
                    continue
                if len(fields) <= max(columns):
                    raise DataError(
                        f"{printable(path)}, line {reader.line_num}, has {len(fields)} of {len(header)} fields; "
                        "complete it."
                    )
                yield reader.line_num, [fields[column].strip() for column in columns]
    except FileNotFoundError as error:
        raise DataError(f"There is no table of pairs {printable(path)}; check the path.") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{printable(path)} cannot be read as CSV ({error}); save it as CSV in UTF-8.") from error


def _file(folder: Path, name: str, where: str) -> Path:
    file = as_path(folder / name)
    if not name or not file.is_file():
        raise DataError(f"{where}, names an image {shown(name)} that is not there; paths are relative to the CSV.")
    return file.resolve()


def _connected(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each of so many nodes the number of its component, numbered in the order of their first nodes."""
    return connected_components(_graph(count, first, second), directed=False)[1].astype(np.int64)


def _graph(count: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> coo_array:
    return coo_array((np.ones(len(first)), (first, second)), shape=(count, count))


def _check_consistent(pairs: PairList, path: Path) -> None:
    """Refuse pairs that are called different though same pairs connect them, and name the lines that do."""
    wrong = np.flatnonzero(~pairs.same & (pairs.groups[pairs.first] == pairs.groups[pairs.second]))
    if not len(wrong):
        return
    a, b = int(pairs.first[wrong[0]]), int(pairs.second[wrong[0]])
    chain = ", ".join(str(line) for line in _chain(pairs, a, b))
    more = f" (and {len(wrong) - 1} pairs more are such)" if len(wrong) > 1 else ""
    raise DataError(
        f"{printable(path)}, line {pairs.lines[wrong[0]]}, calls {printable(pairs.files[a].name)} and "
        f"{printable(pairs.files[b].name)} different, but they are the same by line {chain}{more}; correct one of them."
    )


def _chain(pairs: PairList, a: int, b: int) -> list[int]:
    """Lines of the fewest same pairs that lead from one file to another."""
    first, second, lines = (each[pairs.same] for each in (pairs.first, pairs.second, pairs.lines))
    before = breadth_first_order(_graph(len(pairs.files), first, second).tocsr(), a, directed=False)[1]
    line_of = {frozenset((x, y)): line for x, y, line in zip(first.tolist(), second.tolist(), lines.tolist())}
    found = []
    while b != a:
        found.append(line_of[frozenset((b, int(before[b])))])
        b = int(before[b])
    return sorted(found)


# --- parts ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class PairParts:
    """Which pairs are learned, chosen by and reported on, as positions; no image or group is in two of them.

    Attributes:
        learned: that the encoder learns.
        validation: by which epoch and threshold are chosen.
        report: that neither it nor any choice has seen; those of ``validation`` where there are few.
        across: how many pairs are left out since their images are in two parts.
    """

    learned: NDArray[np.int64]
    validation: NDArray[np.int64]
    report: NDArray[np.int64]
    across: int

    @property
    def independent(self) -> bool:
        """Whether nothing was chosen by what is reported on."""
        return not np.array_equal(self.validation, self.report)


def part_pairs(pairs: PairList, seed: int = 0) -> PairParts:
    """Set images aside for validation and for the report, with all pairs among them.

    What any pairs connect stays together, as one writer with his forgers, where there are enough such components. Where
    most images hang together, as people do who were paired at random, groups of same pairs stay together, and pairs
    across the parts are left out. With few pairs one part serves validation and report. Of images that no pairs connect
    it is not known whether they show the same person, so they may stand in two parts.

    Args:
        pairs: see ``read_pairs``.
        seed: decides which.

    Raises:
        SplitError: there are too few pairs of a kind.
    """
    for units in _units(pairs):
        for shares in ((_SHARE, _SHARE), (2 * _SHARE,)):
            held = _held(pairs, units, shares, seed)
            if all(_judges(pairs, part) for part in held):
                return PairParts(held[0], held[1], held[-1], len(pairs) - len(set(np.concatenate(held).tolist())))
    kinds = f"{int(pairs.same.sum())} same and {int((~pairs.same).sum())} different"
    raise SplitError(
        f"{kinds} pairs cannot be parted so that {LEAST} of each kind are learned and {LEAST} others, of other images, "
        "are kept to judge by; add pairs of further images."
    )


def _units(pairs: PairList) -> Iterator[NDArray[np.int64]]:
    """For each group the number of what must stay together: first components of all pairs, then the group alone."""
    a, b = pairs.groups[pairs.first], pairs.groups[pairs.second]
    count = int(pairs.groups.max()) + 1
    components = _connected(count, a, b)
    images = np.bincount(components[pairs.groups])
    if images.max() <= _MOST_IN_ONE * len(pairs.files):
        yield components
    yield np.arange(count)


def _held(pairs: PairList, units: NDArray[np.int64], shares: tuple[float, ...], seed: int) -> list[NDArray[np.int64]]:
    """Pairs of the learned part, then of each part that is not, which gets units up to its share of the images."""
    order = named_rng(seed, "pairs held out").permutation(int(units.max()) + 1)
    images = np.bincount(units[pairs.groups], minlength=len(order))[order].cumsum()
    ends = np.searchsorted(images, np.cumsum(shares) * images[-1]) + 1
    begins = [0, *ends[:-1]]
    parts = [order[ends[-1] :], *(order[begin:end] for begin, end in zip(begins, ends))]
    return [pairs.among(np.flatnonzero(np.isin(units, part))) for part in parts]


def _judges(pairs: PairList, part: NDArray[np.int64]) -> bool:
    """Whether there are enough pairs of both kinds."""
    return min(int(pairs.same[part].sum()), int((~pairs.same[part]).sum())) >= LEAST
