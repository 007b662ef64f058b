"""How many images a second a recipe learns from on this machine, measured on a few steps of it."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from siamese_utils.system.devices import pick_device
from siamese_utils.system.memory import freed_memory_kept
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import Learner, step


def measured_rate(
    config: TrainConfig, classes: int = 100, least_seconds: float = 1.0, side: int = 32, device: str = "auto"
) -> float:
    """Images a second of training steps at each resolution of a recipe, weighed by how long each lasts.

    Args:
        config: the recipe, trained on random images.
        classes: that it learns to tell apart.
        least_seconds: how long each resolution is timed, at least one step.
        side: of the images in pixels.
        device: see ``pick_device``.
    """
    # What is compiled takes a minute to make, and random weights are as fast as any.
    plain = replace(config, compile=False, pretrained="")
    with torch.random.fork_rng(devices=[]), freed_memory_kept():
        return 1 / sum(
            share * _seconds_an_image(replace(plain, resolutions=((0.0, each),)), classes, least_seconds, side, device)
            for share, each in config.stages(side)
        )


def _seconds_an_image(config: TrainConfig, classes: int, least_seconds: float, side: int, device: str) -> float:
    """Seconds that training steps take for each image: as many steps as fill ``least_seconds``, at least one."""
    where, generator = pick_device(device), torch.Generator().manual_seed(0)
    images = torch.randint(256, (config.batch_size, side, side, 3), generator=generator, dtype=torch.uint8).to(where)
    labels = torch.arange(config.batch_size, device=where) // 2 % classes
    learner = Learner(config, images, classes, where)
    learner.begin(seed=0)
    step(learner, images, labels, progress=0.5)  # the first is slower than all others
    start, images_shown = time.perf_counter(), 0
    while not images_shown or time.perf_counter() - start < least_seconds:
        step(learner, images, labels, progress=0.5)
        images_shown += len(images)
    return (time.perf_counter() - start) / images_shown
