"""Convolution through the Fourier transform against torch's direct one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from siamese_utils.studies.faces import fourier
from siamese_utils.studies.faces.fourier import FourierConv2d, convolve


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 7), st.integers(0, 5), st.integers(0, 5))
def test_values_and_gradients_are_those_of_the_direct_one(
    batch: int, inputs: int, outputs: int, kernel: int, more_rows: int, more_columns: int
) -> None:
    generator = torch.Generator().manual_seed(batch + 10 * kernel + 100 * more_rows)
    shape = (batch, inputs, kernel + more_rows, kernel + more_columns)
    images = torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(outputs, inputs, kernel, kernel, generator=generator, dtype=torch.float64, requires_grad=True)
    ours, direct = convolve(images, kernels), F.conv2d(images, kernels)
    given_back = torch.randn(direct.shape, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(ours, direct)
    for one, other in zip(
        torch.autograd.grad(ours, (images, kernels), given_back),
        torch.autograd.grad(direct, (images, kernels), given_back),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_gradient_by_differences() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 2, 7, 8, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(3, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(convolve, (images, kernels))


@pytest.mark.parametrize("bias", [True, False])
def test_layer_takes_the_place_of_torchs(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 and channels last, as the network uses it, with the weights of a plain layer."""
    torch.manual_seed(0)
    direct, ours = nn.Conv2d(16, 24, 7, bias=bias), FourierConv2d(16, 24, 7, bias=bias)
    ours.load_state_dict(direct.state_dict())
    ours, direct = ours.to(memory_format=torch.channels_last), direct.to(memory_format=torch.channels_last)
    images = torch.randn(4, 16, 20, 20).to(memory_format=torch.channels_last)
    calls = []
    monkeypatch.setattr(fourier, "convolve", lambda *args: calls.append(1) or convolve(*args))
    torch.testing.assert_close(ours(images), direct(images), rtol=1e-4, atol=1e-4)
    assert calls == [1]
    ours(images).square().mean().backward()
    direct(images).square().mean().backward()
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, direct.get_parameter(name).grad, rtol=1e-3, atol=1e-5)


def test_gradient_of_the_kernels_alone() -> None:
    images, kernels = torch.randn(1, 2, 8, 8), torch.randn(3, 2, 7, 7, requires_grad=True)
    convolve(images, kernels).sum().backward()
    windows = images.unfold(2, 7, 1).unfold(3, 7, 1).sum((0, 2, 3))
    torch.testing.assert_close(kernels.grad, windows.expand(3, -1, -1, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "kernel"), [(1, 10), (8, 4)])
def test_where_it_would_gain_nothing_it_is_direct(inputs: int, kernel: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fourier, "convolve", lambda *args: pytest.fail("went through the transform"))
    layer = FourierConv2d(inputs, 3, kernel)
    images = torch.randn(2, inputs, 12, 12)
    assert torch.equal(layer(images), F.conv2d(images, layer.weight, layer.bias))
