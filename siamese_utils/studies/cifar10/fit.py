"""The training of a small network at a constant rate, as Keras does it by default: Adam, no decay, no schedule.

Without a schedule a training of twice the length begins as the shorter one does. So one training is judged after
several numbers of updates, and every comparison at equal updates or equal images is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn
from tqdm.auto import tqdm

from siamese_utils.data.sampling import named_rng
from siamese_utils.errors import ConfigError, DivergedError
from siamese_utils.system.config import Config, Count, Counts, Positive, one_of
from siamese_utils.system.devices import PRECISIONS, autocast_dtype, pick_device
from siamese_utils.system.files import atomic_path
from siamese_utils.system.memory import freed_memory_kept

State = dict[str, torch.Tensor]
_SAVED_EVERY = 60.0  # seconds


class FitConfig(Config):
    """How long and with what a small network learns.

    Attributes:
        judged: numbers of updates after which its weights are kept, ascending; the last ends the training.
        batch: samples an update.
        rate: Adam's.
        shifts: whether images are shifted by up to four pixels and mirrored.
        precision: see ``devices.autocast_dtype``; weights and their averages are float32 in any case.

    Raises:
        ConfigError: ``judged`` does not ascend.
    """

    judged: Counts
    batch: Count = 64
    rate: Positive = 1e-3
    shifts: bool = False
    precision: Annotated[str, one_of("precision", PRECISIONS)] = "auto"

    def __post_init__(self) -> None:
        """Check the order."""
        if list(self.judged) != sorted(set(self.judged)):
            raise ConfigError(f"The numbers of updates must ascend, but they are {list(self.judged)}.")


@dataclass(frozen=True, eq=False)
class Fitted:
    """A training's outcome: weights by numbers of updates, and the seconds that it took."""

    weights: dict[int, State]
    seconds: float


def batch_rows(samples: int, batch: int, update: int, seed: int) -> torch.Tensor:
    """Which samples an update sees: int64 (batch,), from a new shuffle each time all were seen; all if there are fewer.

    Whole batches alone, so up to ``batch - 1`` of a shuffle are left out. It depends on nothing but the arguments, so
    an interrupted training goes on as if nothing had happened.
    """
    batch = min(batch, samples)
    epoch, number = divmod(update, samples // batch)
    return _shuffle(samples, seed, epoch)[number * batch : (number + 1) * batch]


_last: dict[tuple[int, int, int], torch.Tensor] = {}


def _shuffle(samples: int, seed: int, epoch: int) -> torch.Tensor:
    key = (samples, seed, epoch)
    if key not in _last:
        _last.clear()
        _last[key] = torch.from_numpy(named_rng(seed, f"order of epoch {epoch}").permutation(samples))
    return _last[key]


def fit(
    make: Callable[[], nn.Module],
    loss: Callable[[nn.Module, torch.Tensor], torch.Tensor],
    samples: int,
    config: FitConfig,
    seed: int,
    *,
    device: str = "auto",
    folder: Path | None = None,
    name: str = "",
    images: int = 1,
    progress: bool = True,
) -> Fitted:
    """Train a network.

    Args:
        make: makes it; its weights depend on the seed alone.
        loss: of the network and some samples' numbers, int64 (B,): a scalar.
        samples: how many there are.
        config: how.
        seed: of weights, order, dropout and augmentation.
        device: see ``pick_device``.
        folder: where the state is kept each minute, to go on from after a kill; ``None`` keeps none.
        name: of the state's file, and of the progress bar.
        images: that one sample shows, for the throughput.
        progress: whether a bar shows images a second and the time left.

    Raises:
        DivergedError: the loss is no finite number.
    """
    where = pick_device(device)
    precision = autocast_dtype(where, config.precision)
    with torch.random.fork_rng(devices=[]), freed_memory_kept():
        torch.manual_seed(seed)
        network = make().to(where, memory_format=torch.channels_last).train()
        optimizer = torch.optim.Adam(network.parameters(), config.rate, eps=1e-7, fused=where.type != "mps")
        state = _Kept(folder / f"{name or 'fit'}.pt" if folder is not None else None, network, optimizer)
        bar = tqdm(
            total=config.judged[-1] * config.batch * images,
            initial=state.update * config.batch * images,
            unit="img",
            unit_scale=True,
            desc=name or None,
            disable=not progress,
            mininterval=1.0,
            leave=False,
        )
        with bar:
            for update in range(state.update, config.judged[-1]):
                torch.manual_seed(seed * 1_000_003 + update)
                rows = batch_rows(samples, config.batch, update, seed)
                with torch.autocast(where.type, precision or torch.bfloat16, enabled=precision is not None):
                    value = loss(network, rows)
                value.backward()
                optimizer.step()
                optimizer.zero_grad()
                if update % 100 == 0 and not torch.isfinite(value):
                    raise DivergedError(f"The loss is {value.item()} after {update} updates; lower the rate.")
                state.after(update + 1, update + 1 in config.judged)
                bar.update(config.batch * images)
    return Fitted(state.weights, state.seconds)


class _Kept:
    """Where a training stands, on disk as well, and the weights it was asked for so far."""

    def __init__(self, path: Path | None, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.path, self.network, self.optimizer = path, network, optimizer
        self.update, self.weights, self.before = 0, {}, 0.0
        if path is not None and path.is_file():
            try:
                held: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
                network.load_state_dict(held["network"])
                optimizer.load_state_dict(held["optimizer"])
                self.update, self.weights, self.before = held["update"], held["weights"], held["seconds"]
            except Exception:  # whatever is wrong with what a kill left, the training begins anew
                path.unlink(missing_ok=True)
        self.began = self.saved = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    def after(self, update: int, judged: bool) -> None:
        self.update = update
        if judged:
            self.weights[update] = {
                name: value.detach().cpu().clone() for name, value in self.network.state_dict().items()
            }
        if self.path is not None and time.perf_counter() - self.saved > _SAVED_EVERY:
            self.saved = time.perf_counter()
            content = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
            content |= {"update": update, "weights": self.weights, "seconds": self.seconds}
            with atomic_path(self.path) as temporary:
                torch.save(content, temporary)


@torch.no_grad()
def outputs(
    network: nn.Module, weights: State, call: Callable[[nn.Module, torch.Tensor], Any], count: int, block: int = 500
) -> Any:
    """What a network with these weights gives for all of ``count`` samples, in float32, block after block.

    Args:
        network: of the right shape.
        weights: to judge.
        call: of the network and some samples' numbers: a tensor (B, …).
        count: how many samples there are.
        block: samples at a time.
    """
    network.load_state_dict(weights)
    network.eval()
    with freed_memory_kept():
        return torch.cat([call(network, rows).float() for rows in torch.arange(count).split(block)])
