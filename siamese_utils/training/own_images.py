"""Train an encoder on a folder of one's own images, and say by classes that it has not seen whether it was worth it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng, sample_episodes
from siamese_utils.data.splits import hold_out_classes
from siamese_utils.encoders.checkpoints import save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import SplitError
from siamese_utils.evaluation.calibration import fit_verdict
from siamese_utils.evaluation.episodes import episode_accuracies, estimate_over_images
from siamese_utils.evaluation.pairs import sample_similarities
from siamese_utils.recognition.embedding import embed_files
from siamese_utils.recognition.support import Support, read_support
from siamese_utils.system.files import as_path
from siamese_utils.training.loop import train
from siamese_utils.training.own_run import (
    Compared,
    OwnTraining,
    Tell,
    as_stored,
    beside,
    checked_out,
    content_of,
    planned,
    read_images,
    workplace,
    worth,
)
from siamese_utils.training.own_settings import OwnSettings, fitted

LEAST_CLASSES = 4  # two to learn and two to judge by
LEAST_FOR_REPORT = 9  # classes with which a third part is held out
EPISODES = 10_000
ENOUGH = 8  # images of a class with which five shots leave some to ask about
_SHARE, _MOST = 0.2, 50  # of the classes for each part that is not learned, and how many at most

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassParts:
    """Which classes are learned, chosen by and reported on; labels, ascending.

    Attributes:
        learned: that the encoder learns.
        validation: by which its best epoch is chosen.
        report: that neither it nor any choice has seen; those of ``validation`` where classes are few.
    """

    learned: tuple[int, ...]
    validation: tuple[int, ...]
    report: tuple[int, ...]

    @property
    def independent(self) -> bool:
        """Whether nothing was chosen by what is reported on."""
        return not set(self.validation) & set(self.report)


def part_classes(sizes: Sequence[int], seed: int = 0) -> ClassParts:
    """Set classes aside for validation and for the report, a fifth each, by the seed.

    Classes of one image are left out; those with too few for five shots are learned rather than judged by, where there
    are enough others. With fewer than ``LEAST_FOR_REPORT`` classes, two are set aside for both purposes.

    Args:
        sizes: images of each class.
        seed: decides which.

    Raises:
        SplitError: too few classes with two images.
    """
    usable = [label for label, size in enumerate(sizes) if size >= 2]
    if len(usable) < LEAST_CLASSES:
        single = len(sizes) - len(usable)
        raise SplitError(
            f"Training needs {LEAST_CLASSES} classes with two images or more, two to learn and two to judge by, but "
            f"there {'is' if len(usable) == 1 else 'are'} {len(usable)}"
            + (f" (and {single} with a single image)" if single else "")
            + "; add images, or classify with an encoder as it is, which needs no training."
        )
    third = len(usable) >= LEAST_FOR_REPORT
    count = min(_MOST, max(2, round(_SHARE * len(usable))))
    aside = 2 * count if third else count
    large = [label for label in usable if sizes[label] >= ENOUGH]
    held = hold_out_classes(large if len(large) > aside else usable, aside, seed)[1]
    report, validation = hold_out_classes(held, count, seed) if third else (held, held)
    return ClassParts(tuple(label for label in usable if label not in held), validation, report)


def train_images(
    folder: str | Path,
    out: str | Path,
    settings: OwnSettings | None = None,
    *,
    runs: str | Path,
    other: Encoder,
    other_name: str,
    skip_unreadable: bool = False,
    again: bool = False,
    device: str = "auto",
    progress: bool = True,
    tell: Tell = lambda _: None,
    stop_after: int | None = None,
) -> OwnTraining:
    """Train an encoder on a folder with one sub-folder of images a class.

    Some classes are set aside: by the accuracy on the first the best epoch is chosen, on the second the encoder is
    compared with another (see ``part_classes``). Whoever is killed and starts again with the same arguments goes on
    after the last epoch. The checkpoint is written once, when all is done.

    Args:
        folder: of the images.
        out: the checkpoint, for ``load_encoder``.
        settings: size, length and start of the training.
        runs: folder for what an interrupted training goes on from.
        other: an encoder that is compared on the same images, at its own size.
        other_name: what it is called in the sentence.
        skip_unreadable: leave out images that cannot be read, and list them in a warning.
        again: replace a checkpoint that is there.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        progress: show progress bars.
        tell: is told what is learned and how long it will take.
        stop_after: see ``train``.

    Raises:
        DataError, SamplingError, ImageError: see ``read_support`` and ``read_images``.
        SplitError: too few classes.
        ConfigError, TrainingError, CheckpointError: settings, place or training of the wrong kind.
    """
    path, support = checked_out(out, again), read_support(folder)
    options = {"skip_unreadable": skip_unreadable, "device": device, "progress": progress, "stop_after": stop_after}
    name = as_path(folder).resolve().name
    return train_support(
        support, name, path, settings, runs=runs, other=other, other_name=other_name, tell=tell, **options
    )


def train_support(
    support: Support,
    name: str,
    path: Path,
    settings: OwnSettings | None = None,
    *,
    runs: str | Path,
    other: Encoder,
    other_name: str,
    skip_unreadable: bool = False,
    device: str = "auto",
    progress: bool = True,
    tell: Tell = lambda _: None,
    stop_after: int | None = None,
) -> OwnTraining:
    """The same for image files of some classes, wherever they lie; the place of its state is called by ``name``."""
    settings = settings or OwnSettings()
    own, files = _image_set(support, settings.size, skip_unreadable, name)
    parts = part_classes(torch.bincount(own.labels, minlength=own.num_classes).tolist(), settings.seed)
    _tell_left_out(own, parts)
    rows = own.indices_of(parts.learned)
    numbers = torch.searchsorted(torch.tensor(parts.learned), own.labels[rows])
    config = fitted(settings, own.images[rows], numbers)
    identity = {"settings": settings.to_json(), "contents": content_of(own.images), "classes": support.class_names}
    identity["labels"] = own.labels.tolist()
    with workplace(Path(runs), name, identity) as place:
        what = f"{len(parts.learned)} classes from {len(rows):,} images"
        config = planned(place, settings, config, len(parts.learned), device, tell, what)
        trained = train(
            config,
            own,
            parts.learned,
            validation=parts.validation,
            run_dir=place,
            device=device,
            progress=progress,
            stop_after=stop_after,
        )
        encoder = as_stored(trained.encoder, place)
        results = _compare(encoder, other, own, files, parts)
        sentence = _sentence(results, parts, own, path, other_name)
        sentence += f" Of {other_name}: {note}" if (note := getattr(other, "note", "")) else ""
        info = {
            "recipe": config.recipe,
            "config": config.to_json(),
            "settings": settings.to_json(),
            **{f"{part}_classes": _names(own, getattr(parts, part)) for part in ("learned", "validation", "report")},
            "images": len(rows),
            "seconds": trained.seconds,
            "epochs": len(trained.history),
            **_verdict(encoder, own, parts.validation),
            "results": [each.plain for each in results],
            "compared_with": other_name,
            "sentence": sentence,
        }
        save_encoder(encoder, path, info)
    return OwnTraining(path, encoder, results, sentence, info)


def _image_set(support: Support, size: int, skip: bool, source: str) -> tuple[ImageSet, list[Path]]:
    """The images of a folder as a set, and the file of each."""
    images, faults = read_images(support.files, size, skip_unreadable=skip)
    kept = [position for position in range(len(support.files)) if position not in faults]
    own = ImageSet(images, support.labels[kept], support.class_names, (), (), "own", "train", source)
    return own, [support.files[position] for position in kept]


def _tell_left_out(own: ImageSet, parts: ClassParts) -> None:
    used = {*parts.learned, *parts.validation, *parts.report}
    if left := [name for label, name in enumerate(own.class_names) if label not in used]:
        _log.warning("Left out %d classes of fewer than two images: %s.", len(left), ", ".join(left))


def _names(own: ImageSet, classes: Sequence[int]) -> list[str]:
    return [own.class_names[label] for label in classes]


def _verdict(encoder: Encoder, own: ImageSet, classes: Sequence[int]) -> dict[str, Any]:
    """Threshold and calibration of "same", from pairs of the validation images."""
    rows = own.indices_of(classes)
    z = encoder.embed(own.images[rows])
    return fit_verdict(*sample_similarities(z, own.labels[rows], named_rng(0, "own threshold"))).info


def _compare(
    encoder: Encoder, other: Encoder, own: ImageSet, files: Sequence[Path], parts: ClassParts
) -> tuple[Compared, ...]:
    """1-shot and 5-shot accuracy of both encoders in the same episodes; 5-shot where the classes have enough images."""
    rows = own.indices_of(parts.report)
    labels = own.labels[rows]
    z = encoder.embed(own.images[rows])
    z_other = embed_files(other, [files[row] for row in rows.tolist()], progress="images to compare on").z
    ways, fewest = min(5, len(parts.report)), int(labels.unique(return_counts=True)[1].min())
    found = []
    for shots in (1, 5) if fewest >= ENOUGH else (1,):
        name = f"{ways}-way {shots}-shot accuracy"
        drawn = sample_episodes(labels, ways, shots, 1, EPISODES, named_rng(0, name))
        accuracies = [episode_accuracies(each, drawn) for each in (z, z_other)]
        estimates = [estimate_over_images(each, drawn, labels) for each in (*accuracies, accuracies[0] - accuracies[1])]
        found.append(Compared(name, *estimates))
    return tuple(found)


def _sentence(results: Sequence[Compared], parts: ClassParts, own: ImageSet, path: Path, name: str) -> str:
    """Whether it was worth it, on which classes, and what the numbers cannot say."""
    count = len(own.indices_of(parts.report))
    which = (
        f"{len(parts.report)} classes that it has not learned"
        if parts.independent
        else f"the {len(parts.report)} classes that it has not learned (its best epoch was chosen by these same "
        "classes, since there are few, which flatters it)"
    )
    return f"On {which}, {count:,} images: {beside(results, name)}; {worth(name, path, results[0])}."
