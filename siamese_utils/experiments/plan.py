"""What a study would take: images, minutes on a machine such as this, and what is stored already."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pandas as pd
import torch

from siamese_utils.experiments.store import read_record
from siamese_utils.experiments.study import Run, Study, precision_of, stored
from siamese_utils.system.devices import pick_device
from siamese_utils.system.memory import freed_memory_kept
from siamese_utils.system.provenance import provenance
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import Learner, step

_SIDE = 32  # pixels of the images on which a recipe is timed
_ALIKE = ("processor", "precision", "device", "threads")


def plan(study: Study, runs: Sequence[Run], rate: float | None = None) -> pd.DataFrame:
    """One row a run: the key, ``images`` to show, ``minutes``, and ``stored`` (yes, no, or other: by other settings).

    Minutes are those at ``rate`` images a second; without one, or where nothing is trained, those of the study's stored
    runs on a machine such as this, on average, and missing where there are none.
    """
    records = list(_stored_here(study, runs))
    spent = [record["seconds"] for record in records if "seconds" in record]
    usual = sum(spent) / len(spent) / 60 if spent else float("nan")
    rate = rate or stored_rate(study, runs)
    rows = []
    for run in runs:
        minutes = run.images / rate / 60 if rate and run.images else usual
        rows.append({**run.key, "images": run.images, "minutes": minutes, "stored": stored(study, run)})
    return pd.DataFrame(rows)


def stored_rate(study: Study, runs: Iterable[Run]) -> float | None:
    """Images a second of a study's stored trainings on a machine such as this, or ``None`` if there are none.

    Processors of one name may differ in what they compute with, and by far in speed, so the precision must be the same.
    """
    rows = [row for record in _stored_here(study, runs) for row in record.get("history", ())]
    timed = [row for row in rows if "images_per_second" in row]
    seconds = sum(row["seconds"] for row in timed)
    return sum(row["images_per_second"] * row["seconds"] for row in timed) / seconds if seconds else None


def _stored_here(study: Study, runs: Iterable[Run]) -> Iterable[dict]:
    here: dict[str, dict] = {}
    for run in runs:
        if study.record_path(run).is_file():
            record, precision = read_record(study.record_path(run)), precision_of(run)
            if precision not in here:
                here[precision] = provenance(precision=precision)
            if all(record["provenance"].get(key) == here[precision][key] for key in _ALIKE):
                yield record


def rate(study: Study, runs: Sequence[Run], say: Callable[[str], object] = lambda _: None) -> float | None:
    """Images a second: of stored runs, or else measured here; ``None`` where the project's loop trains nothing.

    Args:
        study: which one.
        runs: of which the first is measured.
        say: is told, before a measurement, that it takes some seconds.
    """
    config = runs[0].settings.get("config") if runs else None
    if (stored_before := stored_rate(study, runs)) or not isinstance(config, TrainConfig) or not runs[0].images:
        return stored_before
    say("No stored run comes from a processor such as this: measuring some steps of the training, which takes seconds.")
    return measured_rate(config)


def measured_rate(config: TrainConfig, classes: int = 100, least_seconds: float = 1.0) -> float:
    """Images a second of training steps at each resolution of a recipe, weighed by how long each lasts.

    Args:
        config: the recipe, trained on random images of 32 x 32 pixels.
        classes: that it learns to tell apart.
        least_seconds: how long each resolution is timed, at least one step.
    """
    # What is compiled takes a minute to make, and random weights are as fast as any.
    plain = replace(config, compile=False, pretrained="")
    with torch.random.fork_rng(devices=[]), freed_memory_kept():
        return 1 / sum(
            share * _seconds_an_image(replace(plain, resolutions=((0.0, side),)), classes, least_seconds)
            for share, side in config.stages(_SIDE)
        )


def _seconds_an_image(config: TrainConfig, classes: int, least_seconds: float) -> float:
    """Seconds that training steps take for each image: as many steps as fill ``least_seconds``, at least one."""
    device, generator = pick_device("auto"), torch.Generator().manual_seed(0)
    images = torch.randint(256, (config.batch_size, _SIDE, _SIDE, 3), generator=generator, dtype=torch.uint8).to(device)
    labels = torch.arange(config.batch_size, device=device) // 2 % classes
    learner = Learner(config, images, classes, device)
    learner.begin(seed=0)
    step(learner, images, labels, progress=0.5)  # the first is slower than all others
    start, images_shown = time.perf_counter(), 0
    while not images_shown or time.perf_counter() - start < least_seconds:
        step(learner, images, labels, progress=0.5)
        images_shown += len(images)
    return (time.perf_counter() - start) / images_shown
