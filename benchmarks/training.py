"""Training throughput of one ResNet-56: the engine of this project against the seed project's loop.

The seed's loop is written here anew from the description of its project: batches of 128 random triplets, anchor,
positive and negative passed through the network one after the other, cosine triplet loss, learning rate 0.001,
float32 in PyTorch's default memory order (NCHW), images converted one by one by torchvision in a DataLoader. Where
the description is silent the usual choice that costs least is taken, so that the ratio is not flattered: Adam, and no
random augmentation, although the engine augments.

Both sides count an image once for each forward and backward pass, and take the step of the optimiser into their time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated

import pandas as pd
import torch
import typer
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode
from torchvision import transforms

from benchmarks import common
from siamese_utils.data.images import ImageSet
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.system.devices import autocast_dtype
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import train
from siamese_utils.training.losses import Term

SEED_BATCH, SEED_RATE, MARGIN = 128, 1e-3, 0.2
IMAGES_PER_CLASS = 4
SMALL_SIDE = 24  # the resolution that recipes start with
SEED_LOOP, MATRIX_PRODUCT = "seed loop", "matrix product"

# ------------------------------------------------------------------------------------- the seed's loop


class RandomTriplets(Dataset):
    """Every image once as anchor, with a random positive and a random negative; each float32 (3, 32, 32)."""

    def __init__(self, data: ImageSet) -> None:
        self.images, self.labels = data.images.numpy(), data.labels
        self.of_class = [(data.labels == label).nonzero().flatten() for label in range(data.num_classes)]
        self.transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, anchor: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        label = int(self.labels[anchor])
        others = int(torch.randint(len(self.of_class) - 1, ()))
        negative_label = others + (others >= label)
        positive = anchor
        while positive == anchor:
            positive = self._any_of(label)
        return self._pixels(anchor), self._pixels(positive), self._pixels(self._any_of(negative_label))

    def _any_of(self, label: int) -> int:
        members = self.of_class[label]
        return int(members[torch.randint(len(members), ())])

    def _pixels(self, index: int) -> torch.Tensor:
        return self.transform(Image.fromarray(self.images[index]))


def cosine_triplet_loss(anchor: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """Mean of max(0, d(a, p) - d(a, n) + margin) with d one minus the cosine similarity; three times float (B, D)."""
    to_positive = 1 - F.cosine_similarity(anchor, positive)
    to_negative = 1 - F.cosine_similarity(anchor, negative)
    return F.relu(to_positive - to_negative + MARGIN).mean()


def seed_loop(data: ImageSet, encoder_name: str, batch_size: int = SEED_BATCH) -> float:
    """Train for one epoch of whole batches; returns images a second, three images a triplet."""
    torch.manual_seed(0)
    encoder = Encoder(encoder_name).train()
    optimizer = torch.optim.Adam(encoder.parameters(), lr=SEED_RATE)
    loader = DataLoader(RandomTriplets(data), batch_size, shuffle=True, drop_last=True)
    done, running_loss = 0, 0.0
    start = time.perf_counter()
    for anchor, positive, negative in loader:
        optimizer.zero_grad()
        loss = cosine_triplet_loss(encoder(anchor), encoder(positive), encoder(negative))
        loss.backward()
        optimizer.step()
        running_loss += loss.item()
        done += 3 * len(anchor)
    return done / (time.perf_counter() - start)


# ------------------------------------------------------------------------------------------ our engine


def engine(data: ImageSet, encoder_name: str, batch_size: int, side: int | None = None) -> float:
    """Train for one epoch with ``training.loop.train``; returns images a second.

    Args:
        data: what to train on, all of it.
        encoder_name: a name in ``ENCODERS``.
        batch_size: images a step, mined for triplets inside the batch.
        side: height and width to scale the images to; ``None`` leaves them.
    """
    config = TrainConfig(
        recipe="benchmark",
        terms=(Term("triplet", mining="semi_hard"),),
        encoder=encoder_name,
        epochs=1,
        batch_size=batch_size,
        images_per_class=IMAGES_PER_CLASS,
        learning_rate=SEED_RATE,
        resolutions=() if side is None else ((0.0, side),),
        held_out_images=0,
    )
    result = train(config, data, range(data.num_classes), device="cpu", progress=False)
    return float(result.history["images_per_second"].iloc[-1])


# ------------------------------------------------------------------------- what the arithmetic allows


def flops_per_image(encoder_name: str, side: int = 32) -> float:
    """Floating-point operations of a forward and backward pass, for one image; a multiply-add counts two."""
    encoder = Encoder(encoder_name).train()
    with FlopCounterMode(display=False) as counter:
        encoder(torch.zeros(2, 3, side, side)).sum().backward()
    return counter.get_total_flops() / 2


def matrix_product(size: int) -> float:
    """Rate of a large float32 matrix product, in GFLOP/s: about the most that convolutions can reach."""
    a = torch.ones(size, size)
    start = time.perf_counter()
    for _ in range(3):
        a @ a
    return 3 * 2 * size**3 / (time.perf_counter() - start) / 1e9


# -------------------------------------------------------------------------------- options, one by one


def _step_rate(
    encoder_name: str,
    batch: int,
    *,
    nhwc: bool = True,
    chunk: int = 0,
    compiled: bool = False,
    foreach: bool | None = None,
    precision: str = "float32",
) -> Callable[[], float]:
    """A bare training step (no data, no mining) on fixed pixels, to see what each choice is worth."""
    torch.manual_seed(0)
    order = torch.channels_last if nhwc else torch.contiguous_format
    encoder = Encoder(encoder_name).train().to(memory_format=order)
    forward = torch.compile(encoder) if compiled else encoder
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=SEED_RATE, foreach=foreach)
    pixels = torch.randn(batch, 3, 32, 32).contiguous(memory_format=order)
    low = autocast_dtype(torch.device("cpu"), precision)

    def run() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", low, enabled=low is not None):
            parts = [forward(part) for part in (pixels.split(chunk) if chunk else (pixels,))]
        z = F.normalize(torch.cat(parts).float(), dim=1)
        loss = (z @ z.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return batch / (time.perf_counter() - start)

    return run


def option_sides(encoder_name: str, compiled: bool) -> list[common.Side]:
    """The options tried, each as a bare step; the first is the order and batch size of the seed's loop."""
    sides = [
        common.Side("NCHW, batch 128", _step_rate(encoder_name, 128, nhwc=False)),
        common.Side("NCHW, batch 256", _step_rate(encoder_name, 256, nhwc=False)),
        common.Side("channels_last, batch 32", _step_rate(encoder_name, 32)),
        common.Side("channels_last, batch 64", _step_rate(encoder_name, 64)),
        common.Side("channels_last, batch 128", _step_rate(encoder_name, 128)),
        common.Side("channels_last, batch 256", _step_rate(encoder_name, 256)),
        common.Side("channels_last, batch 256 in chunks of 64", _step_rate(encoder_name, 256, chunk=64)),
        common.Side("channels_last, batch 128, foreach off", _step_rate(encoder_name, 128, foreach=False)),
    ]
    if autocast_dtype(torch.device("cpu")) is not None:  # elsewhere it is emulated, and slower than float32
        sides.append(common.Side("channels_last, batch 256, bfloat16", _step_rate(encoder_name, 256, precision="auto")))
    if compiled:
        sides.append(common.Side("channels_last, batch 128, compiled", _step_rate(encoder_name, 128, compiled=True)))
    return sides


# -------------------------------------------------------------------------------------------- command


def throughput_sides(data: ImageSet, encoder_name: str, batches: tuple[int, ...], size: int) -> list[common.Side]:
    """The seed's loop, the engine with several batch sizes and with small images, and the matrix product."""
    seed_batch = min(SEED_BATCH, len(data) // 2)
    sides = [common.Side(SEED_LOOP, lambda: seed_loop(data, encoder_name, seed_batch))]
    for batch in batches:
        sides.append(common.Side(f"engine, batch {batch}", lambda batch=batch: engine(data, encoder_name, batch)))
    sides.append(common.Side(_small_name(), lambda: engine(data, encoder_name, batches[0], SMALL_SIDE)))
    sides.append(common.Side(MATRIX_PRODUCT, lambda: matrix_product(size)))
    return sides


def _small_name() -> str:
    return f"engine, {SMALL_SIDE} x {SMALL_SIDE} pixels"


def main(
    quick: common.Quick = False,
    repeats: common.Repeats = 5,
    threads: common.Threads = 0,
    options: Annotated[bool, typer.Option("--options", help="Time single options of the step instead.")] = False,
    compiled: Annotated[bool, typer.Option("--compiled", help="Among them torch.compile: minutes more.")] = False,
    out: common.Out = None,
) -> None:
    """Train the same ResNet-56 by the seed's loop and by the engine, in turn."""
    common.use_threads(threads)
    rounds = 1 if quick else repeats
    path = common.output_path(out, quick)
    if options:
        rates = common.rates_in_turn(option_sides("resnet20" if quick else "resnet56", compiled), rounds)
        common.report([common.summarise("training_options", "images/s", rates)], path)
        return
    encoder_name = "resnet20" if quick else "resnet56"
    classes, per_class = (4, 8) if quick else (64, 12)
    data = make_synthetic("train", num_classes=classes, per_class=per_class)
    batches = (16,) if quick else (128, 256)
    rates = common.rates_in_turn(throughput_sides(data, encoder_name, batches, 256 if quick else 2048), rounds)
    small, product = rates.pop(_small_name()), rates.pop(MATRIX_PRODUCT)
    tables = [
        common.summarise("training_throughput", "images/s", rates),
        # Not the same work for an image, hence a benchmark of its own.
        common.summarise("training_throughput_24px", "images/s", {SEED_LOOP: rates[SEED_LOOP], _small_name(): small}),
        common.summarise("float32_arithmetic", "GFLOP/s", {MATRIX_PRODUCT: product}),
    ]
    common.report(tables, path)
    print(arithmetic_bound(encoder_name, tables[0], tables[2]))


def arithmetic_bound(encoder_name: str, throughput: pd.DataFrame, arithmetic: pd.DataFrame) -> str:
    """Say what ratio the arithmetic of float32 would allow if everything else took no time."""
    gflop = flops_per_image(encoder_name) / 1e9
    seed_rate = throughput["value"].iloc[0]
    fastest = throughput["value"].max()
    peak = arithmetic["value"].iloc[0]
    return (
        f"One image takes {gflop:.3f} GFLOP forward and backward. At the {peak:.0f} GFLOP/s of a matrix product that "
        f"would be {peak / gflop:.0f} images/s, {peak / gflop / seed_rate:.2f} times the seed's loop; the fastest side "
        f"reaches {100 * fastest * gflop / peak:.0f}% of it."
    )


if __name__ == "__main__":
    typer.run(main)
