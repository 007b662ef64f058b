"""Orthogonalised updates of an encoder's kernels: ours in float32 and in bfloat16, and torch's own Muon.

Torch's multiplies in bfloat16 on any processor, and takes matrices only, so it is given the kernels as matrices. All
sides start from the same weights and see the same gradients; the script compares where they end.
"""

from __future__ import annotations

import time

import torch
import typer

from benchmarks import common
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.training.optimizers import Muon

TORCH, FLOAT32, BFLOAT16 = "torch.optim.Muon", "siamese_utils, float32", "siamese_utils, bfloat16"
DTYPES = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16}
RATE = 0.05
TOLERANCE = 0.05  # of how far the weights move: bfloat16 has three digits, and the iteration repeats its roundings


def make_optimizers(encoder_name: str) -> dict[str, torch.optim.Optimizer]:
    """An optimiser a side, each with kernels of its own as matrices, of the same values and with the same gradients."""
    torch.manual_seed(0)
    kernels = [p.detach().flatten(1) for p in Encoder(encoder_name).parameters() if p.ndim == 4 and p.shape[1] > 3]
    gradients = [torch.randn_like(kernel) for kernel in kernels]
    made: dict[str, torch.optim.Optimizer] = {}
    for name in (FLOAT32, BFLOAT16, TORCH):
        parameters = [torch.nn.Parameter(kernel.clone()) for kernel in kernels]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
        if name in DTYPES:
            made[name] = Muon(parameters, lr=RATE, dtype=DTYPES[name])
        elif hasattr(torch.optim, "Muon"):  # older torch has none
            made[name] = torch.optim.Muon(parameters, lr=RATE, weight_decay=0.0, momentum=0.95, nesterov=True)
    return made


def _weights(optimizer: torch.optim.Optimizer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for group in optimizer.param_groups for p in group["params"]])


def check_equal(encoder_name: str, steps: int = 2) -> float:
    """Take the same steps on all sides; how far they end from our float32 at most, relative to how far that moved.

    Raises:
        AssertionError: a side ends further away than rounding explains.
    """
    optimizers = make_optimizers(encoder_name)
    start = _weights(optimizers[FLOAT32])
    for optimizer in optimizers.values():
        for _ in range(steps):
            optimizer.step()
    end = _weights(optimizers[FLOAT32])
    apart = {name: float((_weights(one) - end).norm() / (end - start).norm()) for name, one in optimizers.items()}
    worst = max(apart, key=lambda name: apart[name])
    assert apart[worst] <= TOLERANCE, f"{worst} ends {apart[worst]:.2g} of the way from where float32 does."
    return apart[worst]


def sides(encoder_name: str, steps: int) -> list[common.Side]:
    """All sides; their rate is steps a second of wall time."""

    def side(name: str, optimizer: torch.optim.Optimizer) -> common.Side:
        def rate() -> float:
            start = time.perf_counter()
            for _ in range(steps):
                optimizer.step()
            return steps / (time.perf_counter() - start)

        return common.Side(name, rate)

    return [side(name, optimizer) for name, optimizer in make_optimizers(encoder_name).items()]


def main(
    quick: common.Quick = False, repeats: common.Repeats = 5, threads: common.Threads = 0, out: common.Out = None
) -> None:
    """Update the kernels of the recipe's network on every side."""
    common.use_threads(threads)
    name = "conv3" if quick else "resnet9-32"
    difference = check_equal(name)
    rates = common.rates_in_turn(sides(name, 1 if quick else 5), 1 if quick else repeats)
    common.report([common.summarise("orthogonalised_updates", "steps/s", rates)], common.output_path(out, quick))
    print(f"After two steps from the same start the weights differ by at most {difference:.1e} of the way they went.")


if __name__ == "__main__":
    typer.run(main)
