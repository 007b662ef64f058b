"""Backbones: sizes and operation counts against the literature and torchvision, small images, a missing package."""

from __future__ import annotations

import importlib.util
import sys

import pytest
import torch
from torch import nn

from siamese_utils.encoders.backbones import ENCODERS, count_macs
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import ConfigError, MissingPackageError, ShapeError, SiameseError

needs_lite = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite_pytorch") is None, reason="efficientnet-lite-pytorch is not installed"
)
NEW = ["resnet12", "resnet18", "vgg19bn", pytest.param("efficientnet-lite0", marks=needs_lite)]


@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("name", NEW)
def test_small_images_are_taken(name: str, side: int) -> None:
    torch.manual_seed(0)
    encoder = Encoder(name, 5, image_size=side)
    images = torch.randint(0, 256, (2, side, side, 3)).to(torch.uint8)
    z = encoder.embed(images)
    assert z.shape == (2, 5)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(2))


# By hand, block by block: 9io + 18oo for the convolutions, io for the shortcut, 8o for four normalisations.
def test_resnet12_has_its_published_size() -> None:
    widths = ((3, 64), (64, 160), (160, 320), (320, 640))
    assert count_parameters(Encoder("resnet12")) == sum(9 * i * o + 18 * o * o + i * o + 8 * o for i, o in widths)
    assert count_parameters(Encoder("resnet12")) == 12_424_320
    body = Encoder("resnet12").body
    blocks = torch.nn.Sequential(*list(body)[:4])
    assert [blocks(torch.randn(1, 3, side, side)).shape[-1] for side in (16, 24, 32)] == [1, 1, 2]


def test_resnet12_refuses_what_would_vanish() -> None:
    with pytest.raises(ShapeError, match="16x16 pixels or more, got 15x15"):
        ENCODERS["resnet12"]()[0](torch.zeros(1, 3, 15, 15))


def test_resnet18_has_its_published_size() -> None:
    assert count_parameters(Encoder("resnet18")) + 512 * 10 + 10 == 11_173_962


def test_vgg_is_torchvisions() -> None:
    from torchvision.models import vgg19_bn

    with torch.device("meta"):
        theirs = vgg19_bn(init_weights=False).features.state_dict()
    body, features = ENCODERS["vgg19bn"]()
    ours = body.features.state_dict()
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    assert count_parameters(body) == 20_035_392 and features == 512
    shadow = body.features.to("meta").eval()
    sides = {side: shadow(torch.empty(1, 3, side, side, device="meta")).shape[-1] for side in (8, 16, 24, 32, 64)}
    assert sides == {8: 1, 16: 1, 24: 1, 32: 1, 64: 2}


@needs_lite
def test_lite_sees_every_image_at_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    body, features = ENCODERS["efficientnet-lite0"]()
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(body.network, "extract_features", lambda x: seen.append(x) or torch.ones(len(x), 1280, 4, 4))
    for side in (16, 32, 128, 150):
        assert body(torch.full((1, 3, side, side), 0.5)).shape == (1, features)
    assert all(x.shape == (1, 3, 128, 128) for x in seen)
    torch.testing.assert_close(torch.cat(seen), torch.full((4, 3, 128, 128), 0.5))


@needs_lite
def test_lite_has_its_published_size() -> None:
    encoder = Encoder("efficientnet-lite0")
    # 4.65 M parameters with the classifier of 1,000 classes (Tan and Le's table for Lite: 4.7 M)
    assert count_parameters(encoder) + 1280 * 1000 + 1000 == 4_652_008


def test_absent_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(MissingPackageError, match="pip install efficientnet-lite-pytorch") as error:
        Encoder("efficientnet-lite0")
    assert isinstance(error.value, SiameseError) and "\n" not in str(error.value)


# ------------------------------------------------------------------------------------------ operations


def test_macs_by_hand() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, 1, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert count_macs(net, 10) == 25 * 8 * 3 * 9 + 25 * 12 * 2 + 12 * 5
    assert net.training and net[0].weight.device.type == "cpu"
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


# Published: 40.6 M, 125.5 M and 0.56 G, with a last layer of 640 or 5,120.
@pytest.mark.parametrize("name, published", [("resnet20", 40.55e6), ("resnet56", 125.49e6), ("resnet18", 0.5556e9)])
def test_macs_agree_with_published_figures(name: str, published: float) -> None:
    assert count_macs(Encoder(name), 32) == pytest.approx(published, rel=1e-3)


def test_macs_count_the_projection_and_reject_bad_sides() -> None:
    assert count_macs(Encoder("conv3", 10)) - count_macs(Encoder("conv3")) == 128 * 10
    with pytest.raises(ConfigError, match="at least one pixel"):
        count_macs(Encoder("conv3"), 0)
    with pytest.raises(ShapeError):
        count_macs(ENCODERS["resnet12"]()[0], 8)
