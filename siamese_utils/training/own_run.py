"""What trainings on somebody's own images share: images in memory, a place to go on from, the time told first."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import Timeout

from siamese_utils.data.image_files import load_image
from siamese_utils.encoders.checkpoints import load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import ConfigError, DataError, ImageError, TrainingError, printable
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.system.files import as_path, locked, write_text_atomically
from siamese_utils.system.memory import free_memory
from siamese_utils.system.progress import patient_bar
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.own_settings import OwnSettings, lasting
from siamese_utils.training.rate import measured_rate

SUFFIX = ".safetensors"
Tell = Callable[[str], object]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compared:
    """A number of the trained encoder beside that of another on the same images.

    Attributes:
        metric: what it is, such as ``"5-way 1-shot accuracy"``.
        trained: of the encoder that was trained.
        other: of the other.
        difference: trained less other, in points, with the interval of the difference.
    """

    metric: str
    trained: Estimate
    other: Estimate
    difference: Estimate

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON can hold it; an interval that is not known is null."""
        parts = {"trained": self.trained, "other": self.other, "difference": self.difference}
        half = {name: each.ci95 if np.isfinite(each.ci95) else None for name, each in parts.items()}
        return {"metric": self.metric, **{name: [each.value, half[name]] for name, each in parts.items()}}


@dataclass(frozen=True, eq=False)
class OwnTraining:
    """A training on somebody's own images.

    Attributes:
        path: the checkpoint.
        encoder: what it holds.
        results: on images that it has not learned, beside another encoder on the same images.
        sentence: whether the training was worth it.
        info: what the checkpoint says of it.
    """

    path: Path
    encoder: Encoder
    results: tuple[Compared, ...]
    sentence: str
    info: Mapping[str, Any]


def checked_out(out: str | Path, again: bool) -> Path:
    """Where the checkpoint goes, known to be right before anything is trained.

    Raises:
        ConfigError: another ending, a folder, or something is there and is not to be replaced.
    """
    path = as_path(out, ConfigError)
    if path.suffix != SUFFIX:
        raise ConfigError(f"A checkpoint's name ends in {SUFFIX}, unlike {printable(path)}; name it so.")
    if path.is_dir():
        raise ConfigError(f"{printable(path)} is a folder; name a file for the checkpoint.")
    if path.exists() and not again:
        raise ConfigError(
            f"There is a checkpoint {printable(path)} already; choose another name, or replace it (--again)."
        )
    return path


def read_images(
    files: Sequence[Path], size: int, *, skip_unreadable: bool = False, copies: int = 2
) -> tuple[torch.Tensor, dict[int, ImageError]]:
    """Decode image files once, into one tensor.

    Args:
        files: image files.
        size: side in pixels.
        skip_unreadable: leave out files that cannot be read, and list them in a warning.
        copies: of the images that will be held at the same time.

    Returns:
        ``(images, faults)``: uint8 (M, size, size, 3) of the M files that can be read, in order, and what is wrong with
        the others, by position.

    Raises:
        DataError: the images do not fit into memory.
        ImageError: files cannot be read, or none can; all are named.
    """
    images = _room(len(files), size, copies)
    faults: dict[int, ImageError] = {}
    for position, file in enumerate(patient_bar(files, "images", "image")):
        try:
            images[position - len(faults)] = torch.from_numpy(np.array(load_image(file, size)))
        except ImageError as error:
            faults[position] = error
    if faults:
        listed = "; ".join(error.fault for error in faults.values())
        number = f"{len(faults)} of {len(files):,} images cannot be read: {listed}"
        if not skip_unreadable or len(faults) == len(files):
            advice = "replace or remove them, or go on without them (skip_unreadable=True, or --skip-unreadable)"
            raise ImageError(number, advice) from next(iter(faults.values()))
        _log.warning("Left out %s.", number)
    return images[: len(files) - len(faults)], faults


def _room(count: int, size: int, copies: int) -> torch.Tensor:
    needed, free = copies * count * 3 * size**2, free_memory()
    fault = f"{count:,} images of {size} x {size} pixels take {needed / 2**30:.1f} GB of memory in training"
    if free is not None and needed > free:
        raise DataError(f"{fault}, more than the {free / 2**30:.1f} GB that are free; choose a smaller --size.")
    try:
        return torch.empty((count, size, size, 3), dtype=torch.uint8)
    except (RuntimeError, MemoryError) as error:
        raise DataError(f"{fault}, more than there is; choose a smaller --size.") from error


def content_of(images: torch.Tensor) -> str:
    """A digest of images, uint8 (N, H, W, 3)."""
    return hashlib.blake2b(images.numpy().data, digest_size=16).hexdigest()


def as_stored(encoder: Encoder, place: Path) -> Encoder:
    """The encoder as a checkpoint gives it back, in half precision, so that the numbers are those of the file."""
    path = place / f"encoder{SUFFIX}"
    save_encoder(encoder, path)
    return load_encoder(path)


@contextmanager
def workplace(runs: Path, name: str, identity: Mapping[str, Any]) -> Iterator[Path]:
    """A folder for the state of one training, found again by whoever asks for the same; removed once it is done.

    Args:
        runs: folder of such folders.
        name: of what is learned from, for people to know the folder by.
        identity: plain data that decide the training: settings and contents of the images.

    Raises:
        TrainingError: another process is at the same training.
    """
    digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=6).hexdigest()
    folder = runs / f"{re.sub('[^A-Za-z0-9_-]+', '_', name)[:40] or 'own'}-{digest}"
    try:
        with locked(folder.with_name(f".{folder.name}.lock"), timeout=0):
            yield folder
            shutil.rmtree(folder, ignore_errors=True)
    except Timeout as error:
        raise TrainingError(
            f"Another process is at the same training ({folder}); wait until it has ended, or change a setting."
        ) from error


def planned(
    folder: Path, settings: OwnSettings, config: TrainConfig, classes: int, device: str, tell: Tell, what: str
) -> TrainConfig:
    """The configuration with its length, said with the time that it will take; one that was begun stays as it was.

    Args:
        folder: see ``workplace``.
        settings: of the user.
        config: fitted to the images.
        classes: that are told apart.
        device: see ``pick_device``.
        tell: is told.
        what: is learned.
    """
    plan = folder / "plan.json"
    begun = plan.is_file() and (folder / "state.pt").is_file()
    if begun:
        try:
            config = TrainConfig.from_json(json.loads(plan.read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{plan} is damaged; delete the folder {folder} to start again.") from error
    rate = measured_rate(config, classes, 0.5, settings.size, device)
    if settings.minutes and not begun:
        config = lasting(config, int(60 * settings.minutes * rate))
    if not begun:
        write_text_atomically(plan, json.dumps(config.to_json(), indent=1) + "\n")
    left = "less what was done before it was interrupted, or less" if begun else "or less"
    tell(
        f"Learning {what} at {settings.size} x {settings.size} pixels with {config.encoder}: {config.most_images:,} "
        f"images are to be shown, about {_duration(config.most_images / rate)} on this machine, {left} if it stops "
        f"getting better; what is done is kept in {folder}."
    )
    return config


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(2, round(seconds))} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def worth(name: str, path: Path, first: Compared) -> str:
    """Whether a training was worth it, as the end of a sentence."""
    difference, half = first.difference.value, first.difference.ci95
    if difference > half:
        return f"it was worth it, by {difference:.1f} ± {half:.1f} points: use {printable(path.name)}"
    if -difference > half:
        return f"it was not worth it, by {-difference:.1f} ± {half:.1f} points: use {name}"
    return f"these images do not tell which is better (a difference of {_told(first.difference, '+')} points)"


def beside(results: Sequence[Compared], name: str) -> str:
    """All numbers, each with that of the other encoder, for a sentence."""
    parts = [f"{each.metric} {_told(each.trained)} ({name}: {_told(each.other)})" for each in results]
    return f"{', '.join(parts)} on the same images"


def _told(estimate: Estimate, sign: str = "") -> str:
    value = f"{estimate.value:{sign}.1f}"
    return f"{value} ± {estimate.ci95:.1f}" if np.isfinite(estimate.ci95) else f"{value}, of unknown interval"
