"""Backbones: the convolutional networks that an encoder is built on, in one registry."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

Body = Callable[[], tuple[nn.Module, int]]  # makes a network and says how many features it gives

ENCODERS: dict[str, Body] = {}


def register(name: str) -> Callable[[Body], Body]:
    """Put a body in the registry under ``name``."""

    def add(make: Body) -> Body:
        ENCODERS[name] = make
        return make

    return add


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


@register("conv3")
def _conv3() -> tuple[nn.Module, int]:
    """Three convolutions of 32, 64 and 128 channels with max-pooling between: the classic small baseline."""
    stages = [_conv(3, 32), nn.MaxPool2d(2), _conv(32, 64), nn.MaxPool2d(2), _conv(64, 128)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 128


class _Residual(nn.Module):
    """Two convolutions added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(_conv(channels, channels), _conv(channels, channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.path(x)


def _resnet9(width: int) -> tuple[nn.Module, int]:
    """A ResNet-9 in the manner of fast CIFAR training (Page, "How to train your ResNet", 2018).

    Pooling follows the first convolution at once: on a processor the 32x32 stage is bound by memory and
    takes most of the time for the least of the features.
    """
    body = nn.Sequential(
        _conv(3, width), nn.MaxPool2d(2),
        _conv(width, 2 * width), _Residual(2 * width), nn.MaxPool2d(2),
        _conv(2 * width, 4 * width), _Residual(4 * width), nn.MaxPool2d(2),
        _conv(4 * width, 8 * width), _Residual(8 * width),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    return body, 8 * width


for _width in (16, 32, 48, 64):
    ENCODERS[f"resnet9-{_width}"] = lambda width=_width: _resnet9(width)


class _BasicBlock(nn.Module):
    """ResNet basic block with the parameter-free shortcut (option A of He et al., 2016, section 4.2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)), inplace=True)))
        if self.stride > 1 or self.extra:
            x = F.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2)
            )
        return F.relu(out + x, inplace=True)


def _cifar_resnet(depth: int) -> tuple[nn.Module, int]:
    """ResNet of 6n+2 layers for CIFAR (He et al., 2016, section 4.2); 64 features."""
    blocks = (depth - 2) // 6
    layers: list[nn.Module] = [_conv(3, 16)]
    for inputs, outputs in ((16, 16), (16, 32), (32, 64)):
        layers.append(_BasicBlock(inputs, outputs, stride=1 if outputs == 16 else 2))
        layers += [_BasicBlock(outputs, outputs, stride=1) for _ in range(blocks - 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), 64


for _depth in (20, 32, 44, 56):
    ENCODERS[f"resnet{_depth}"] = lambda depth=_depth: _cifar_resnet(depth)
