"""Training steps of the assignment's network: as PyTorch would have it, and as ``studies.faces.koch`` does it.

The plain side has direct convolutions, ReLU before the pooling, one twin after the other, the penalty in the loss that
is differentiated, and Adam with PyTorch's defaults. Ours takes the large convolution through the Fourier transform,
ReLU behind the pooling, both twins in one call of most layers, the penalty as Adam's decay in its fused form, and keeps
freed memory for the next step. Both take the same steps; the script compares the weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
import typer
from torch import nn
from torch.nn import functional as F

from benchmarks import common
from siamese_utils.studies.faces.koch import KochConfig, KochNetwork, koch_optimizer, penalty
from siamese_utils.system.memory import freed_memory_kept

PLAIN, OURS = "plain PyTorch", "siamese_utils.studies.faces.koch"
TOLERANCE = 5e-2  # of how far the weights move on average: Adam makes full steps of gradients that are rounding alone


def plain_network(config: KochConfig) -> KochNetwork:
    """The same network of PyTorch's own layers, ReLU before the pooling; the same weights for the same seed."""
    torch.manual_seed(config.seed)
    network = KochNetwork(config)
    layers: list[nn.Module] = []
    for module in network.twin:
        if isinstance(module, nn.Conv2d):
            direct = nn.Conv2d(module.in_channels, module.out_channels, module.kernel_size)
            direct.load_state_dict(module.state_dict())
            module = direct
        if isinstance(module, nn.ReLU) and isinstance(layers[-1], nn.MaxPool2d):
            layers.insert(-1, module)
        else:
            layers.append(module)
    network.twin = nn.Sequential(*layers)
    network.twins = lambda first, second: (network.twin(first), network.twin(second))  # type: ignore[method-assign]
    return network.to(memory_format=torch.channels_last)


def our_network(config: KochConfig) -> KochNetwork:
    """The project's network, in the memory order in which ``train_koch`` trains it."""
    torch.manual_seed(config.seed)
    return KochNetwork(config).to(memory_format=torch.channels_last)


Step = Callable[[], None]


def make_steps(config: KochConfig) -> dict[str, tuple[KochNetwork, Step]]:
    """Both networks and a function that takes one step of each, on the same random pairs."""
    generator = torch.Generator().manual_seed(0)
    shape = (2, config.batch_size, 1, config.side, config.side)
    first, second = torch.randint(0, 256, shape, generator=generator).float()
    same = torch.randint(0, 2, (config.batch_size,), generator=generator).float()
    plain, ours = plain_network(config), our_network(config)
    optimizers = {
        PLAIN: torch.optim.Adam(plain.parameters(), lr=config.learning_rate, eps=1e-7),
        OURS: koch_optimizer(ours, config),
    }

    def step(name: str, network: KochNetwork) -> Step:
        def take() -> None:
            network.train()
            loss = F.binary_cross_entropy_with_logits(network(first, second), same)
            if name == PLAIN:
                loss = loss + penalty(network, config)
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()

        return take

    return {name: (network, step(name, network)) for name, network in ((PLAIN, plain), (OURS, ours))}


def check_equal(config: KochConfig, steps: int = 2) -> float:
    """Take the same steps on both sides; returns how far apart they end on average, relative to how far they moved.

    Raises:
        AssertionError: a layer's weights end further apart than rounding explains.
    """
    both = make_steps(config)
    start = [parameter.detach().clone() for parameter in both[OURS][0].parameters()]
    for _, take in both.values():
        torch.manual_seed(1)  # the same distances are dropped
        for _ in range(steps):
            take()
    largest = 0.0
    plain, ours = (network.parameters() for network, _ in both.values())
    for one, other, before in zip(plain, ours, start, strict=True):
        if one.dim() > 1:  # in front of a normalisation a bias has no gradient but rounding's
            apart = float((one - other).detach().abs().mean() / (one - before).detach().abs().mean())
            assert apart <= TOLERANCE, f"Weights of shape {tuple(one.shape)} differ by {apart:.2g} of their way."
            largest = max(largest, apart)
    return largest


def sides(config: KochConfig, steps: int) -> list[common.Side]:
    """Both sides; their rate is pairs a second of wall time."""

    def side(name: str, take: Step) -> common.Side:
        def rate() -> float:
            start = time.perf_counter()
            with nullcontext() if name == PLAIN else freed_memory_kept():
                for _ in range(steps):
                    take()
            return steps * config.batch_size / (time.perf_counter() - start)

        return common.Side(name, rate)

    return [side(name, take) for name, (_, take) in make_steps(config).items()]


def main(
    quick: common.Quick = False, repeats: common.Repeats = 3, threads: common.Threads = 0, out: common.Out = None
) -> None:
    """Train the assignment's network of 39 million parameters for a few steps of 32 pairs on both sides."""
    common.use_threads(threads)
    small = KochConfig(side=65, channels=(4, 4, 4, 4), features=8, batch_size=4, dropout=0.0)
    config = small if quick else KochConfig()
    difference = check_equal(config)
    rates = common.rates_in_turn(sides(config, 1 if quick else 4), 1 if quick else repeats)
    common.report([common.summarise("pair_network_training", "pairs/s", rates)], common.output_path(out, quick))
    print(f"After two steps from the same start the weights differ by at most {difference:.1e} of the way they went.")


if __name__ == "__main__":
    typer.run(main)
