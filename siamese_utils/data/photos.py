"""Photographs as people have them: some classes of Caltech-101 as folders of image files, and images of none of them.

They are looked for as ``photos/`` (where, says ``siamese_utils.data.sources``): a sub-folder a class, and
``_none_of_them``. What is chosen, is chosen on one half of the classes, and reported on the other.

Data: F.-F. Li, M. Andreeto, M. Ranzato, P. Perona, *Caltech 101*, 2003 (https://data.caltech.edu/records/mzrjq-6wc02,
CC BY 4.0).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from siamese_utils.data.image_files import folders_in, images_in
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.sources import MissingDataError, find, search_folders
from siamese_utils.errors import SamplingError, look_up

UNKNOWN = "_none_of_them"
"""The folder of images that belong to no class."""

Half = Literal["choosing", "reporting"]


@dataclass(frozen=True, eq=False)
class Photos:
    """Image files of some classes, and of none of them.

    Attributes:
        class_names: of all classes, by name.
        files: image files, class after class.
        labels: int64 (N,), positions in ``class_names``.
        unknown: image files of none of the classes.
    """

    class_names: tuple[str, ...]
    files: tuple[Path, ...]
    labels: torch.Tensor
    unknown: tuple[Path, ...]

    def half(self, name: Half) -> Photos:
        """The classes to choose settings on, or those to report on, drawn once by a fixed seed; ``unknown`` stays.

        Raises:
            UnknownNameError: neither ``"choosing"`` nor ``"reporting"``.
        """
        order = named_rng(0, "photos").permutation(len(self.class_names))
        middle = len(order) // 2
        kept = sorted(look_up("half", name, {"choosing": order[:middle], "reporting": order[middle:]}).tolist())
        rows = [row for row, label in enumerate(self.labels.tolist()) if label in kept]
        return Photos(
            tuple(self.class_names[label] for label in kept),
            tuple(self.files[row] for row in rows),
            torch.tensor([kept.index(label) for label in self.labels[rows].tolist()], dtype=torch.int64),
            self.unknown,
        )


def find_photos(root: Path | str | None = None) -> Photos:
    """The photographs.

    Args:
        root: the only folder to look in for ``photos/``.

    Raises:
        MissingDataError: they are nowhere.
        SamplingError: the folder has no two classes with images.
    """
    found = find(lambda folder: (folder / "photos").is_dir(), root)
    if found is None:
        places = ", ".join(label for _, label in search_folders(root))
        raise MissingDataError(
            f"The folder photos/ is not in {places}: put some classes of Caltech-101 there, a sub-folder each, and "
            f"images of none of them in {UNKNOWN}."
        )
    folder = found[0] / "photos"
    by_class = {place.name: images_in(place) for place in folders_in(folder)}
    unknown = by_class.pop(UNKNOWN, [])
    if sum(map(bool, by_class.values())) < 2:
        raise SamplingError(f"The folder {folder} has no two classes with images; put a sub-folder a class there.")
    by_class = {name: files for name, files in by_class.items() if files}
    labels = [label for label, files in enumerate(by_class.values()) for _ in files]
    files = tuple(file for files in by_class.values() for file in files)
    return Photos(tuple(by_class), files, torch.tensor(labels), tuple(unknown))
