"""Convolution with large kernels through the Fourier transform: the same numbers for a fraction of the multiplications.

The convolution theorem turns a convolution of an image of H x W pixels into one small matrix product at each of its
H(W / 2 + 1) frequencies (Mathieu, Henaff and LeCun, *Fast Training of Convolutional Networks through FFTs*, 2014,
equations 1 to 3). Direct convolution multiplies k x k times at each position; for a kernel of 7 x 7 and maps of 48 x 48
pixels that is eighteen times as often. No padding is needed: the places where the periodic result wraps around are the
ones that a convolution without padding leaves out.
"""

from __future__ import annotations

import math

import torch
from torch import nn

SMALLEST_KERNEL = 6  # below it a direct convolution is as fast


def _basis(k: int, height: int, width: int, like: torch.Tensor) -> torch.Tensor:
    """What the k x k first pixels give to each frequency: complex (frequencies, k * k).

    The kernels fill a corner of the map alone, so a matrix product is cheaper for them than a whole transform.
    """
    corner = torch.arange(k, dtype=torch.float64)
    row_phase = torch.arange(height)[:, None] * corner / height
    column_phase = torch.arange(width // 2 + 1)[:, None] * corner / width
    angle = -2 * math.pi * (row_phase[:, None, :, None] + column_phase[None, :, None, :])
    basis = torch.polar(torch.ones_like(angle), angle).reshape(-1, k * k)
    return basis.to(like.device, like.dtype.to_complex())


def _transformed(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Transform of (B, C, h, w), filled up with zeros, frequencies first: complex (frequencies, B, C)."""
    spectrum = torch.fft.rfft2(images.contiguous(), s=(height, width))
    batch, channels = images.shape[:2]
    return spectrum.view(batch * channels, -1).t().contiguous().view(-1, batch, channels)


def _images(spectrum: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The inverse of ``_transformed``: (B, C, height, width)."""
    _, batch, channels = spectrum.shape
    spectrum = spectrum.view(-1, batch * channels).t().contiguous()
    return torch.fft.irfft2(spectrum.view(batch, channels, height, width // 2 + 1), s=(height, width))


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        outputs, inputs, k, _ = kernels.shape
        basis = _basis(k, height, width, kernels)
        flat = kernels.permute(2, 3, 1, 0).reshape(k * k, inputs * outputs)
        # Conjugated, for what is called convolution here is a correlation: the kernel is not turned around.
        kernel_spectrum = (basis.conj() @ flat.to(basis.dtype)).view(-1, inputs, outputs)
        spectrum = _transformed(images, height, width)
        ctx.save_for_backward(spectrum, kernel_spectrum, basis)
        ctx.shape = (height, width, k)
        return _images(spectrum @ kernel_spectrum, height, width)[:, :, : height - k + 1, : width - k + 1]

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        spectrum, kernel_spectrum, basis = ctx.saved_tensors
        height, width, k = ctx.shape
        conjugate = torch.conj_physical(_transformed(gradient, height, width))  # (frequencies, B, outputs)
        of_images = of_kernels = None
        if ctx.needs_input_grad[0]:
            product = conjugate @ kernel_spectrum.transpose(1, 2)
            of_images = _images(torch.conj_physical(product), height, width)
        if ctx.needs_input_grad[1]:
            product = spectrum.transpose(1, 2) @ conjugate  # (frequencies, inputs, outputs)
            _, inputs, outputs = product.shape
            # Half of the frequencies are stored; all but the first and (of even widths) the last column stand for two.
            twice = torch.full((width // 2 + 1,), 2.0, dtype=gradient.dtype)
            twice[:: width // 2 if width % 2 == 0 else width] = 1.0
            weighted = basis * (twice.repeat(height)[:, None] / (height * width))
            flat = (weighted.mH @ product.view(-1, inputs * outputs)).real
            of_kernels = flat.view(k, k, inputs, outputs).permute(3, 2, 0, 1)
        return of_images, of_kernels


def convolve(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
    """The same as ``torch.nn.functional.conv2d`` without padding and stride, through the Fourier transform.

    Args:
        images: float (B, C, H, W) on the CPU.
        kernels: float (O, C, k, k), k no larger than H and W.

    Returns:
        float (B, O, H - k + 1, W - k + 1), a view of a larger map; differentiable once by both.
    """
    return _Convolution.apply(images, kernels)


class FourierConv2d(nn.Conv2d):
    """A convolution without padding, stride, dilation and groups; weights and results are those of ``nn.Conv2d``.

    On the CPU it goes through the Fourier transform; elsewhere, and for smaller kernels, directly.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, kernel, bias=bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Float (B, inputs, H, W) to (B, outputs, H - kernel + 1, W - kernel + 1)."""
        if input.device.type != "cpu" or self.in_channels == 1 or self.kernel_size[0] < SMALLEST_KERNEL:
            return super().forward(input)
        result = convolve(input, self.weight)
        return result if self.bias is None else result + self.bias[:, None, None]
