"""What the drawing study learns from and is judged on: digits, and characters in four turns."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import hold_out_images
from siamese_utils.data.symbols import OneShotRun, load_mnist, load_omniglot_background, synthetic_symbols
from siamese_utils.errors import DataError
from siamese_utils.training.augment import TURNS, turn

SOURCES = ("mnist", "omniglot", "both")
WAYS = 20  # characters of one alphabet in an official run
MNIST_SAMPLE = 400  # images a digit that join Omniglot's characters, each of which has 20 drawings in 4 turns


@dataclass(frozen=True, eq=False)
class SymbolData:
    """What the study learns from and is judged on, apart from Omniglot's official runs.

    Attributes:
        digits: MNIST's training images, redrawn.
        test_digits: its test images.
        characters: Omniglot's background set; its superclasses are alphabets.
    """

    digits: ImageSet
    test_digits: ImageSet
    characters: ImageSet


def load_symbol_data() -> SymbolData:
    """Load MNIST and Omniglot's background set.

    Raises:
        DataError: one of them cannot be reached or is damaged.
    """
    return SymbolData(load_mnist("train"), load_mnist("test"), load_omniglot_background())


def synthetic_symbol_data() -> SymbolData:
    """Made-up symbols in place of all of it, for machines without data: ten "digits" and two alphabets."""
    characters = synthetic_symbols(2 * WAYS, 6, seed=2)
    characters = dataclasses.replace(
        characters, superclass_names=("one", "two"), superclass_of=(0,) * WAYS + (1,) * WAYS
    )
    return SymbolData(synthetic_symbols(10, 30), synthetic_symbols(10, 20, part="test"), characters)


def characters_of(characters: ImageSet, alphabets: Iterable[int]) -> torch.Tensor:
    """Classes of some alphabets: int64, ascending."""
    alphabet_of = torch.tensor(characters.superclass_of)
    return torch.isin(alphabet_of, torch.tensor(list(alphabets), dtype=torch.int64)).nonzero().flatten()


def validation_alphabets(characters: ImageSet, count: int = 2) -> tuple[int, ...]:
    """Alphabets held out for choices, drawn once and for all among those with enough characters for a run."""
    sizes = np.bincount(characters.superclass_of)
    large = np.flatnonzero(sizes >= WAYS)
    return tuple(sorted(int(a) for a in named_rng(0, "validation alphabets").permutation(large)[:count]))


def in_four_turns(characters: ImageSet) -> ImageSet:
    """Every class in four turns, each a class of its own (Santoro et al., *Memory-augmented networks*, 2016).

    Only characters are turned: a six upside down is a nine.
    """
    images = [turn(characters.images, torch.full((len(characters),), q)) for q in range(TURNS)]
    labels = [characters.labels + q * characters.num_classes for q in range(TURNS)]
    names = [f"{name} turned {90 * q}" if q else name for q in range(TURNS) for name in characters.class_names]
    return dataclasses.replace(
        characters,
        images=torch.cat(images),
        labels=torch.cat(labels),
        class_names=tuple(names),
        superclass_of=characters.superclass_of * TURNS,
    )


def join_sets(first: ImageSet, second: ImageSet) -> ImageSet:
    """Both sets as one: the classes of the second are numbered after those of the first."""
    shift = len(first.superclass_names)
    return ImageSet(
        images=torch.cat([first.images, second.images]),
        labels=torch.cat([first.labels, second.labels + first.num_classes]),
        class_names=first.class_names + second.class_names,
        superclass_names=first.superclass_names + second.superclass_names,
        superclass_of=first.superclass_of + tuple(number + shift for number in second.superclass_of),
        name=f"{first.name}+{second.name}",
        part="train",
        source=f"{first.source}, {second.source}",
    )


def images_to_learn(
    data: SymbolData, train_on: str, *, without: Sequence[int] = (), turns: bool = True
) -> tuple[ImageSet, tuple[int, ...]]:
    """The images of a source to learn from, and their classes.

    Args:
        data: all there is.
        train_on: ``"mnist"``, ``"omniglot"`` or ``"both"``.
        without: alphabets to leave out, for validation.
        turns: learn every character in four turns.

    Raises:
        DataError: no such source.
    """
    if train_on not in SOURCES:
        raise DataError(f"There is nothing called {train_on!r} to learn from; choose {', '.join(SOURCES)}.")
    if train_on == "mnist":
        return data.digits, tuple(range(data.digits.num_classes))
    characters = data.characters
    kept = characters_of(characters, set(range(len(characters.superclass_names))) - set(without))
    characters = characters.subset(characters.indices_of(kept.tolist()))
    if turns:
        characters = in_four_turns(characters)
    if train_on == "both":
        _, sample = hold_out_images(data.digits.labels, range(data.digits.num_classes), MNIST_SAMPLE, seed=0)
        characters = join_sets(characters, data.digits.subset(sample))
    return characters, tuple(characters.labels.unique().tolist())


def runs_from(characters: ImageSet, alphabets: Iterable[int]) -> tuple[OneShotRun, ...]:
    """One run made like the official ones from each alphabet of a set, for synthetic data."""
    runs = []
    for alphabet in alphabets:
        classes = characters_of(characters, [alphabet])[:WAYS].tolist()
        support = [int(characters.indices_of([label])[0]) for label in classes]
        query = [int(characters.indices_of([label])[1]) for label in classes]
        runs.append(OneShotRun(characters.images[support], characters.images[query], torch.arange(len(classes))))
    return tuple(runs)
