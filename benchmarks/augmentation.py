"""Augmentation of 32x32 images: a whole uint8 batch at once against torchvision's transforms image by image.

The same work on every side: shift by up to 4 pixels with reflection at the border, mirror half of the images,
scale to zero mean and unit variance, give float32 batches (N, 3, 32, 32).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch
import typer
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2

from benchmarks import common
from siamese_utils.system.memory import freed_memory_kept
from siamese_utils.training.augment import AugmentConfig, augment_batch

SIDE, SHIFT, BATCH = 32, 4, 256
MEAN, STD = torch.tensor([129.3, 124.1, 112.4]), torch.tensor([68.2, 65.4, 70.4])  # of CIFAR-100, 0-255 scale


def make_images(count: int) -> torch.Tensor:
    """Random uint8 images (count, 32, 32, 3); what they show does not change the time."""
    return torch.randint(0, 256, (count, SIDE, SIDE, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


class _PillowImages(Dataset):
    """Images as PIL images through a chain of transforms, one at a time."""

    def __init__(self, images: torch.Tensor, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images = images.numpy()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.fromarray(self.images[index]))


class _TensorImages(Dataset):
    """The same for tensors (3, 32, 32), which transforms v2 prefers."""

    def __init__(self, images: torch.Tensor, transform: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.images = images.permute(0, 3, 1, 2).contiguous()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(self.images[index])


def pillow_loader(images: torch.Tensor, workers: int) -> DataLoader:
    """torchvision's classic chain on PIL images; batches float32 (N, 3, 32, 32)."""
    chain = transforms.Compose(
        [
            transforms.RandomCrop(SIDE, padding=SHIFT, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((MEAN / 255).tolist(), (STD / 255).tolist()),
        ]
    )
    return _loader(_PillowImages(images, chain), workers)


def tensor_loader(images: torch.Tensor, workers: int) -> DataLoader:
    """torchvision.transforms.v2 on tensors; batches float32 (N, 3, 32, 32)."""
    chain = v2.Compose(
        [
            v2.RandomCrop(SIDE, padding=SHIFT, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((MEAN / 255).tolist(), (STD / 255).tolist()),
        ]
    )
    return _loader(_TensorImages(images, chain), workers)


def _loader(dataset: Dataset, workers: int) -> DataLoader:
    # Workers live on between epochs: their start, a second or more, is paid once by the warm-up.
    return DataLoader(dataset, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)


def our_batches(images: torch.Tensor, config: AugmentConfig | None = None) -> Iterable[torch.Tensor]:
    """Our batches in a random order of the images: float32 (N, 3, 32, 32)."""
    config = config or AugmentConfig(translate=SHIFT)
    generator = torch.Generator().manual_seed(0)
    with freed_memory_kept():  # as the training does
        for positions in torch.randperm(len(images), generator=generator).split(BATCH):
            yield augment_batch(images.index_select(0, positions), config, MEAN, STD, generator)


def _rate(batches: Callable[[], Iterable[torch.Tensor]]) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        done = sum(len(batch) for batch in batches())
        return done / (time.perf_counter() - start)

    return run


def sides(images: torch.Tensor, passes: int, workers: tuple[int, ...]) -> list[common.Side]:
    """All sides; their rate is images a second of wall time.

    Args:
        images: uint8 (N, 32, 32, 3).
        passes: how often ours goes through the images, since one pass would be too short to time.
        workers: numbers of worker processes to try for torchvision.
    """
    result = []
    for count in workers:
        loader = pillow_loader(images, count)
        result.append(common.Side(f"torchvision on PIL images, {count} workers", _rate(lambda loader=loader: loader)))
    for count in workers:
        loader = tensor_loader(images, count)
        result.append(common.Side(f"torchvision v2 on tensors, {count} workers", _rate(lambda loader=loader: loader)))

    def ours() -> Iterable[torch.Tensor]:
        for _ in range(passes):
            yield from our_batches(images)

    return [*result, common.Side("siamese_utils.augment_batch", _rate(ours))]


def fastest_first(rates: dict[str, list[float]], prefix: str) -> dict[str, list[float]]:
    """The rates with the fastest side of a prefix, by its median, moved to the front: it is compared with."""
    best = max((name for name in rates if name.startswith(prefix)), key=lambda name: statistics.median(rates[name]))
    return {best: rates[best], **rates}


def main(
    quick: common.Quick = False, repeats: common.Repeats = 5, threads: common.Threads = 0, out: common.Out = None
) -> None:
    """Augment CIFAR-sized images; ratios are against the faster of torchvision's PIL sides."""
    common.use_threads(threads)
    images = make_images(64 if quick else 10_240)
    workers = (0,) if quick else (0, 2)
    rates = common.rates_in_turn(sides(images, 1 if quick else 10, workers), 1 if quick else repeats)
    rates = fastest_first(rates, "torchvision on PIL")
    common.report([common.summarise("augmentation", "images/s", rates)], common.output_path(out, quick))


if __name__ == "__main__":
    typer.run(main)
