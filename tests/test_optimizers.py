"""Optimisers against torch's own, the singular value decomposition and a plain loop."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from siamese_utils.errors import ConfigError, UnknownNameError
from siamese_utils.training.optimizers import (
    OPTIMIZERS,
    Muon,
    OptimizerSet,
    WeightAverage,
    make_optimizer,
    orthogonalise,
)


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(2, 40), columns=st.integers(2, 40), seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_orthogonalised_matrix_has_singular_values_near_one(rows: int, columns: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Singular values within a factor of 30: smaller ones need more than five steps.
    u = torch.linalg.qr(torch.randn(rows, rows, generator=generator, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(columns, columns, generator=generator, dtype=torch.float64))[0]
    rank = min(rows, columns)
    s = torch.linspace(1, 1 / 30, rank, dtype=torch.float64)
    matrix = scale * (u[:, :rank] * s) @ v[:rank]
    result = orthogonalise(matrix)
    assert result.shape == matrix.shape
    values = torch.linalg.svdvals(result)
    assert values.min() > 0.3 and values.max() < 1.3
    # The same singular directions: u' R v is diagonal.
    inside = u[:, :rank].T @ result @ v[:rank].T
    assert (inside - torch.diag(inside.diagonal())).abs().max() < 1e-8


@pytest.mark.parametrize("shape", [(24, 90), (90, 24)])
def test_orthogonalised_in_bfloat16_is_nearly_the_same(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    exact, low = orthogonalise(matrix), orthogonalise(matrix, dtype=torch.bfloat16)
    assert low.dtype == torch.float32 and not torch.equal(low, exact)
    assert (low - exact).norm() < 0.02 * exact.norm()


def test_zero_gradient_stays_zero() -> None:
    for dtype in (None, torch.bfloat16):
        assert torch.equal(orthogonalise(torch.zeros(3, 5), dtype=dtype), torch.zeros(3, 5))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="older torch has no Muon")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_muon_agrees_with_torch_on_matrices(shape: tuple[int, int], dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.randn(shape)), nn.Parameter(torch.zeros(shape))
    theirs.data.copy_(ours.data)
    start = ours.detach().clone()
    one = Muon([ours], lr=0.05, weight_decay=0.1, dtype=dtype)
    other = torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1, momentum=0.95, nesterov=True)
    for _ in range(4):
        gradient = torch.randn(shape)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        one.step()
        other.step()
    # torch iterates in bfloat16, which has three digits.
    moved = (ours - start).norm()
    assert (ours - theirs).norm() < (0.03 if dtype is None else 0.02) * moved


def test_muon_treats_a_kernel_as_a_matrix() -> None:
    torch.manual_seed(0)
    kernel, matrix = nn.Parameter(torch.randn(4, 3, 2, 2)), nn.Parameter(torch.empty(4, 12))
    matrix.data.copy_(kernel.data.flatten(1))
    optimizers = Muon([kernel], lr=0.1), Muon([matrix], lr=0.1)
    for _ in range(3):
        gradient = torch.randn(4, 3, 2, 2)
        kernel.grad, matrix.grad = gradient, gradient.flatten(1)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(kernel.detach().flatten(1), matrix.detach())


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_with_fixed_norms_a_step_turns_a_kernel_alike_whatever_its_scale(scale: float) -> None:
    torch.manual_seed(0)
    begun, gradient = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    kernel = nn.Parameter(scale * begun)
    kernel.grad = gradient.clone()
    Muon([kernel], lr=0.1, momentum=0.6, fixed_norms=True).step()
    moved = orthogonalise((gradient * 0.4 * 0.6 + gradient * 0.4).flatten(1)).view_as(begun)
    torch.testing.assert_close(kernel.detach(), 2 * begun / begun.norm() - 0.1 * moved, atol=1e-5, rtol=1e-5)


def test_muon_is_made_with_its_momentum_and_norms() -> None:
    muon = make_optimizer("muon", network(), [], 0.01, 0.3, 0.02, muon_momentum=0.6, fixed_norms=True).optimizers[0]
    assert muon.param_groups[0]["momentum"] == 0.6 and muon.fixed_norms
    assert not make_optimizer("muon", network(), [], 0.01, 0.3, 0.02).optimizers[0].fixed_norms


def test_muon_refuses_biases() -> None:
    with pytest.raises(ConfigError, match="matrices"):
        Muon([nn.Parameter(torch.zeros(3))])


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.Flatten(), nn.Linear(80, 6)
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_updated_once_and_decayed_where_it_should_be(name: str) -> None:
    body, head = network(), nn.Linear(6, 2)
    optimizer = make_optimizer(name, body, [head], 0.01, 0.3, 0.02)
    groups = [group for one in optimizer.optimizers for group in one.param_groups]
    found = [p for group in groups for p in group["params"]]
    assert sorted(map(id, found)) == sorted(map(id, [*body.parameters(), *head.parameters()]))
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] == 0.3) for p in group["params"])
    if name == "muon":
        assert [p.shape for p in optimizer.optimizers[0].param_groups[0]["params"]] == [(5, 4, 3, 3)]
        assert optimizer.optimizers[0].param_groups[0]["lr"] == 0.02
    before = [p.detach().clone() for p in found]
    optimizer.zero_grad()
    head(body(torch.randn(8, 3, 8, 8))).square().mean().backward()
    optimizer.step()
    # The bias before a normalisation has a gradient of zero up to rounding.
    assert sum(not torch.equal(a, b) for a, b in zip(before, found, strict=True)) >= len(found) - 1


def test_rates_follow_one_schedule() -> None:
    optimizer = make_optimizer("muon", network(), [], 0.004, 0.0, 0.02)
    for share in (1.0, 0.5, 0.0, 1.0):
        optimizer.set_rate(share)
        rates = [group["lr"] for one in optimizer.optimizers for group in one.param_groups]
        assert rates == pytest.approx([0.02 * share, 0.004 * share, 0.004 * share])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_is_restored(name: str) -> None:
    def steps(body: nn.Module, optimizer: OptimizerSet, count: int, seed: int) -> None:
        torch.manual_seed(seed)
        for _ in range(count):
            optimizer.zero_grad()
            body(torch.randn(4, 3, 8, 8)).square().mean().backward()
            optimizer.step()

    body = network()
    optimizer = make_optimizer(name, body, [], 0.01, 0.1, 0.02)
    steps(body, optimizer, 2, 0)
    copied = copy.deepcopy(body)
    restored = make_optimizer(name, copied, [], 0.01, 0.1, 0.02)
    restored.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    steps(body, optimizer, 2, 5)
    steps(copied, restored, 2, 5)
    assert all(torch.equal(a, b) for a, b in zip(body.parameters(), copied.parameters(), strict=True))
    with pytest.raises(ValueError, match="optimisers"):
        restored.load_state_dict([])


def test_unknown_optimizer() -> None:
    with pytest.raises(UnknownNameError, match="adamw"):
        make_optimizer("adam", network(), [], 0.01, 0.1, 0.02)


def test_average_is_the_weighted_mean_of_all_steps() -> None:
    module = nn.BatchNorm1d(2)
    average = WeightAverage(module, 0.6)
    expected = module.weight.detach().clone().double()
    for step in range(1, 12):
        with torch.no_grad():
            module.weight.copy_(torch.randn(2))
            module.num_batches_tracked += 1
        average.update(module, step)
        decay = min(0.6, step / (step + 10))
        expected = decay * expected + (1 - decay) * module.weight.detach().double()
    torch.testing.assert_close(average.module.weight.double(), expected)
    assert average.module.num_batches_tracked == 11
    assert not average.module.weight.requires_grad and module.weight.requires_grad
