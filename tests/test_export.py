"""ONNX files: what onnxruntime computes from raw pixels is what the encoder does, and nothing wrong is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from siamese_utils.encoders import export
from siamese_utils.encoders.checkpoints import load_encoder, save_encoder
from siamese_utils.encoders.depths import TwoDepths
from siamese_utils.encoders.encoder import Encoder, Ensemble
from siamese_utils.encoders.export import export_onnx
from siamese_utils.errors import CheckpointError, ConfigError, MissingPackageError, UnknownNameError

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def some_images(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def tiny(seed: int = 0) -> Encoder:
    """An encoder all of whose statistics, of pixels and of embeddings, are other than those it starts with."""
    torch.manual_seed(seed)
    encoder = Encoder("conv3", 8, image_size=14)
    encoder.set_pixel_statistics(some_images(20, 14))
    encoder.set_centre(some_images(20, 14))
    return encoder.eval()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    made = tiny()
    made.source = "own-eyes"  # as if it had been asked for by this name
    return made


@pytest.fixture(scope="module", params=[None, "shifts"])
def written(request: pytest.FixtureRequest, encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(encoder, tmp_path_factory.mktemp("onnx") / "new" / "encoder.onnx", request.param)


def test_onnxruntime_embeds_as_the_encoder_does(written: Path, encoder: Encoder) -> None:
    session = onnxruntime.InferenceSession(written)
    facts = session.get_modelmeta().custom_metadata_map
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    side = encoder.input_side(facts["views"])
    assert (given.name, given.type, given.shape[1:]) == ("images", "tensor(uint8)", [side, side, 3])
    assert (found.name, found.type, found.shape[1:]) == ("embeddings", "tensor(float)", [8])
    assert facts["encoder"] == "own-eyes" and facts["fingerprint"] == encoder.fingerprint
    for count in (1, 2, 7):
        images = some_images(count, side)
        (z,) = session.run(None, {"images": images})
        np.testing.assert_allclose(z, encoder.embed(images, views=facts["views"]), atol=1e-4)
    assert [file.name for file in written.parent.iterdir()] == ["encoder.onnx"]


@pytest.mark.parametrize("views", ["none", "shifts"])
def test_two_depths_are_exported_with_their_parts(views: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = Encoder("resnet9-16", image_size=16)
    encoder.set_pixel_statistics(some_images(20, 16))
    encoder.set_centre(some_images(20, 16))
    deep = TwoDepths(encoder.eval(), some_images(20, 16))
    session = onnxruntime.InferenceSession(export_onnx(deep, tmp_path / "deep.onnx", views))
    images = some_images(5, deep.input_side(views))
    (z,) = session.run(None, {"images": images})
    np.testing.assert_allclose(z, deep.embed(images, views=views), atol=1e-4)


def test_the_encoder_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny().train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    monkeypatch.setattr(export, "_graph", lambda network, images: (_ for _ in ()).throw(CheckpointError("no")))
    with pytest.raises(CheckpointError):
        export_onnx(encoder, tmp_path / "encoder.onnx")
    assert encoder.training and all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_what_is_expected_is_computed_on_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, asked = tiny(), []
    monkeypatch.setattr(type(encoder), "embed", lambda self, images, views: asked.append(self))
    monkeypatch.setattr(export, "_graph", lambda network, images: (_ for _ in ()).throw(CheckpointError("no")))
    with pytest.raises(CheckpointError):
        export_onnx(encoder, tmp_path / "encoder.onnx")
    assert len(asked) == 1 and asked[0] is not encoder and asked[0].pixel_mean.device.type == "cpu"


class Other:
    """Stands in for a graph that was written wrongly: that of another encoder."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def save(self, path: str) -> None:
        Path(path).write_bytes(self.content)


def test_a_file_that_embeds_otherwise_is_not_left_behind(
    tmp_path: Path, encoder: Encoder, written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = onnxruntime.InferenceSession(written).get_modelmeta().custom_metadata_map["views"]
    monkeypatch.setattr(export, "_graph", lambda network, images: Other(written.read_bytes()))
    path = tmp_path / "encoder.onnx"
    export_onnx(encoder, path, views)
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match="differ from torch's by"):
        export_onnx(tiny(seed=1), path, views)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


class Unwritable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:  # depends on the data
            return x.mean(dim=(2, 3)).repeat(1, 8)[:, :8]
        return x.amax(dim=(2, 3)).repeat(1, 8)[:, :8]


def test_a_network_that_onnx_cannot_hold(tmp_path: Path) -> None:
    encoder = tiny()
    encoder.body, encoder.projection = Unwritable(), nn.Identity()
    with pytest.raises(CheckpointError, match="'conv3' cannot be written as ONNX") as error:
        export_onnx(encoder, tmp_path / "encoder.onnx")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


def test_what_cannot_be_exported(tmp_path: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="not a Ensemble"):
        export_onnx(Ensemble([encoder]), tmp_path / "encoder.onnx")
    with pytest.raises(ConfigError, match=r"ends in .onnx, unlike 'encoder.pt'"):
        export_onnx(encoder, tmp_path / "encoder.pt")
    with pytest.raises(UnknownNameError, match="mirror"):
        export_onnx(encoder, tmp_path / "encoder.onnx", views="miror")
    monkeypatch.setattr(export, "_LARGEST", 1000)
    with pytest.raises(CheckpointError, match="too large"):
        export_onnx(encoder, tmp_path / "encoder.onnx")
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match="pip install onnx"):
        export_onnx(encoder, tmp_path / "encoder.onnx")
    assert not list(tmp_path.iterdir())


def test_unchecked_where_onnxruntime_is_missing(
    tmp_path: Path, encoder: Encoder, written: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(export, "_graph", lambda network, images: Other(b"anything"))
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    path = export_onnx(encoder, tmp_path / "encoder.onnx")
    assert path.read_bytes() == b"anything" and "unchecked; install onnxruntime" in caplog.text


def test_the_command_writes_the_file_and_says_what_goes_in(
    tmp_path: Path, encoder: Encoder, command_line: Callable[..., tuple[int, str, str]]
) -> None:
    stored = tmp_path / "own.safetensors"
    save_encoder(encoder, stored)
    code, out, _ = command_line("export", str(tmp_path / "own.onnx"), "--encoder", str(stored), "--views", "shifts")
    side = encoder.input_side("shifts")
    assert code == 0 and f"uint8 (N, {side}, {side}, 3), to embeddings, (N, 8)" in out
    session, images = onnxruntime.InferenceSession(tmp_path / "own.onnx"), some_images(3, side)
    assert session.get_modelmeta().custom_metadata_map["encoder"] == "conv3"  # of a file the network's own name
    kept = load_encoder(stored).embed(images, views="shifts")
    np.testing.assert_allclose(session.run(None, {"images": images})[0], kept, atol=1e-4)
    code, _, err = command_line("export", str(tmp_path / "own.onxx"), "--encoder", str(stored))
    assert code == 1 and ".onnx" in err and not (tmp_path / "own.onxx").exists()
