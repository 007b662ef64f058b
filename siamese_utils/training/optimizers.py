"""Optimisers: which parameters are decayed, which are orthogonalised, and how the averaged weights are kept."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from siamese_utils.errors import ConfigError, unknown

# Coefficients of the quintic iteration, chosen by Jordan (2024) for a steep slope at zero: five steps bring every
# singular value to between about 0.7 and 1.2.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: torch.Tensor, steps: int = 5, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Nearly orthogonal matrix of the same singular directions: float (M, N) to float (M, N).

    The Newton-Schulz iteration of Jordan et al. (2024).

    Args:
        matrix: float (M, N).
        steps: of the iteration.
        dtype: what is multiplied in; ``None`` for the argument's own precision. The iteration corrects its own errors,
            so bfloat16 will do, where the hardware has it.
    """
    a, b, c = _NEWTON_SCHULZ
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = (wide / wide.norm().clamp(min=1e-7)).to(dtype or matrix.dtype)  # no singular value is above one
    for _ in range(steps):
        gram = wide @ wide.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)  # one rounding instead of three
        wide = torch.addmm(wide, polynomial, wide, beta=a)
    return (wide.T if matrix.shape[0] > matrix.shape[1] else wide).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for matrices and convolution kernels (Jordan et al., 2024, "Muon").

    A kernel (O, I, H, W) counts as the matrix (O, I*H*W), which ``torch.optim.Muon`` refuses. Rates are those of
    the original: the update is scaled by the square root of rows over columns where there are more rows.

    Args:
        parameters: tensors of two dimensions or more, or groups of them.
        lr: learning rate.
        momentum: share of the old average that stays; the update looks one step ahead (Nesterov).
        weight_decay: decoupled weight decay.
        dtype: what the orthogonalisation multiplies in, see ``orthogonalise``.
        fixed_norms: give each kernel the norm of a matrix of its shape with orthogonal rows before it is updated, the
            square root of O (Jordan, *94% on CIFAR-10 in 3.29 seconds on a single GPU*, in its version with Muon). A
            normalisation behind it undoes the scale, and kernels that grow would be turned less and less by steps of
            one size.

    Raises:
        ConfigError: a parameter has fewer than two dimensions.
    """

    def __init__(
        self,
        parameters: Iterable[torch.Tensor] | Iterable[dict[str, object]],
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype | None = None,
        fixed_norms: bool = False,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype, self.fixed_norms = dtype, fixed_norms
        if any(p.ndim < 2 for group in self.param_groups for p in group["params"]):
            raise ConfigError("Muon updates matrices and kernels only; give biases and scales to another optimiser.")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                average = state["momentum_buffer"].lerp_(parameter.grad, 1 - group["momentum"])
                ahead = parameter.grad.lerp(average, group["momentum"]).flatten(1)
                update = orthogonalise(ahead, dtype=self.dtype)
                rows, columns = ahead.shape
                if self.fixed_norms:
                    parameter.mul_(rows**0.5 / parameter.norm().clamp(min=1e-7))
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update.view_as(parameter), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


class OptimizerSet:
    """Several optimisers stepped together, all following one schedule.

    Attributes:
        optimizers: what is stepped, in order.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        self.optimizers = optimizers
        self._peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]

    def set_rate(self, share: float) -> None:
        """Set every learning rate to a share of its peak."""
        for optimizer, peaks in zip(self.optimizers, self._peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = share * peak

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Update all parameters."""
        for optimizer in self.optimizers:
            optimizer.step()

    def state_dict(self) -> list[dict[str, object]]:
        """States of the optimisers, in order."""
        return [optimizer.state_dict() for optimizer in self.optimizers]

    def load_state_dict(self, states: list[dict[str, object]]) -> None:
        """Restore what ``state_dict`` gave.

        Raises:
            ValueError: another number of optimisers, or other parameters.
        """
        if len(states) != len(self.optimizers):
            raise ValueError(f"expected the states of {len(self.optimizers)} optimisers, found {len(states)}")
        for optimizer, state in zip(self.optimizers, states, strict=True):
            optimizer.load_state_dict(state)


OPTIMIZERS = ("adamw", "sgd", "muon")


def make_optimizer(
    name: str,
    body: nn.Module,
    heads: list[nn.Module],
    learning_rate: float,
    weight_decay: float,
    muon_rate: float,
    dtype: torch.dtype | None = None,
    muon_momentum: float = 0.95,
    fixed_norms: bool = False,
) -> OptimizerSet:
    """The optimiser of a recipe.

    Biases and normalisation are never decayed. With Muon the kernels of the body are orthogonalised, except
    those of three channels or fewer, which see the image itself or one channel at a time; all else follows AdamW.

    Args:
        name: ``"adamw"`` (Loshchilov & Hutter, 2019), ``"sgd"`` with Nesterov momentum 0.9, or ``"muon"``.
        body: the encoder.
        heads: modules that are thrown away after training: proxies, pair head, rotation head.
        learning_rate: peak rate of AdamW or SGD.
        weight_decay: decoupled for AdamW and Muon, added to the gradient for SGD.
        muon_rate: peak rate of Muon.
        dtype: what Muon multiplies in; ``None`` for the parameters' own precision.
        muon_momentum, fixed_norms: see ``Muon``.

    Raises:
        UnknownNameError: no such optimiser.
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    parameters = [*body.parameters(), *(p for head in heads for p in head.parameters())]
    sets: list[torch.optim.Optimizer] = []
    if name == "muon":
        kernels = [p for p in body.parameters() if p.ndim == 4 and p.shape[1] > 3]
        chosen = {id(p) for p in kernels}
        parameters = [p for p in parameters if id(p) not in chosen]
        chosen_kernels = [{"params": kernels, "weight_decay": weight_decay}]
        sets.append(Muon(chosen_kernels, muon_rate, muon_momentum, dtype=dtype, fixed_norms=fixed_norms))
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if name == "sgd":
        sets.append(torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True))
    else:
        sets.append(torch.optim.AdamW(groups, lr=learning_rate))
    return OptimizerSet(sets)


class WeightAverage:
    """Exponential moving average of a module's weights (Polyak & Juditsky, 1992), kept as a second module.

    The average forgets faster at the start, so that the random initial weights leave it soon. Buffers are averaged
    like weights: the batch statistics then fit the averaged weights closely enough (Tarvainen & Valpola, 2017).

    Args:
        module: what to follow.
        decay: share of the old average that stays at each step, 0 < decay < 1.

    Attributes:
        module: the averaged copy.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after a step, counted from 1 at the start of the training."""
        decay = min(self.decay, step / (step + 10))
        for average, value in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if value.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)
