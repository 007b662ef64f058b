"""Checkpoints: what comes back, and that no damaged, foreign or hostile file gets further than one sentence."""

from __future__ import annotations

import errno
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from siamese_utils.encoders import checkpoints
from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, ConfigError
from siamese_utils.system import files


def make_encoder(name: str = "conv3", embedding_dim: int | None = 8, seed: int = 0) -> Encoder:
    """A small encoder whose every buffer differs from its initial value."""
    torch.manual_seed(seed)
    encoder = Encoder(name, embedding_dim)
    encoder.train()
    with torch.no_grad():
        encoder(torch.randn(8, 3, 32, 32))  # moves the running statistics
    encoder.set_pixel_statistics(some_images(16))
    encoder.set_centre(some_images(16))
    return encoder.eval()


def some_images(count: int, seed: int = 0) -> torch.Tensor:
    """Smooth and thus different images; noise would look all the same to a convolution."""
    coarse = torch.rand(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear")
    return (255 * smooth).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return make_encoder()


@pytest.fixture
def saved(encoder: Encoder, tmp_path: Path) -> Path:
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, path, {"split": "90-10", "history": [{"loss": 0.5}]})
    return path


def rewrite(path: Path, metadata: dict[str, str] | None = None, **tensors: torch.Tensor) -> None:
    """Change metadata or tensors of a checkpoint with the plain library, as another program would."""
    with safe_open(path, framework="pt") as file:
        old = dict(file.metadata())
    save_file({**load_file(path), **tensors}, path, metadata=old if metadata is None else metadata)


def check_one_sentence(error: pytest.ExceptionInfo[BaseException], path: Path) -> None:
    text = str(error.value)
    assert str(path) in text and "\n" not in text and text.endswith("."), text


def leftovers(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# ---------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("embedding_dim", [None, 8])
@pytest.mark.parametrize("name", ["conv3", "resnet9-16", "resnet20"])
def test_round_trip(name: str, embedding_dim: int | None, tmp_path: Path) -> None:
    encoder = make_encoder(name, embedding_dim)
    path = tmp_path / "new" / "folder" / "encoder.safetensors"
    save_encoder(encoder, path)
    loaded = load_encoder(path)
    assert not loaded.training and loaded.pixel_mean.device.type == "cpu"
    assert (loaded.name, loaded.embedding_dim, loaded.image_size) == (name, encoder.embedding_dim, 32)
    old, new = encoder.state_dict(), loaded.state_dict()
    assert list(old) == list(new)
    for key in old:
        assert old[key].dtype == new[key].dtype
        if old[key].ndim > 1:
            assert torch.equal(new[key], old[key].half().float()), key
        else:
            assert torch.equal(new[key], old[key]), key
    images = some_images(32, seed=1)
    cosine = (encoder.embed(images) * loaded.embed(images)).sum(dim=1)
    assert cosine.min() > 0.9999


def test_image_size_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_encoder(Encoder("conv3", image_size=24), path)
    assert load_encoder(path).image_size == 24


@pytest.mark.parametrize("mirror", [True, False])
def test_mirror_comes_back(mirror: bool, tmp_path: Path) -> None:
    save_encoder(Encoder("conv3", 8, mirror=mirror), tmp_path / "e.safetensors")
    assert load_encoder(tmp_path / "e.safetensors").mirror is mirror


def test_checkpoints_from_before_the_choice_average_over_mirror_images(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = dict(file.metadata())
    design = json.loads(metadata["encoder"])
    del design["mirror"], metadata["checksum"]
    rewrite(saved, {**metadata, "encoder": json.dumps(design)})
    assert load_encoder(saved).mirror is True


def test_info_comes_back(saved: Path) -> None:
    assert checkpoint_info(saved) == {"split": "90-10", "history": [{"loss": 0.5}]}


def test_without_info(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "e.safetensors")
    assert checkpoint_info(tmp_path / "e.safetensors") == {}


def test_saving_does_not_change_the_encoder(encoder: Encoder, tmp_path: Path) -> None:
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    save_encoder(encoder, tmp_path / "e.safetensors")
    assert all(torch.equal(tensor, before[key]) for key, tensor in encoder.state_dict().items())


def test_saving_what_was_loaded_changes_nothing(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    save_encoder(load_encoder(saved), again, checkpoint_info(saved))
    first, second = load_file(saved), load_file(again)
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert checkpoint_info(again) == checkpoint_info(saved)


@pytest.mark.parametrize("bits", [16, 8])
def test_file_is_small(bits: int, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    encoder = Encoder("resnet9-32")
    save_encoder(encoder, path, bits=bits)
    weights = sum(p.numel() for p in encoder.parameters())
    assert path.stat().st_size < 1.05 * bits / 8 * weights + 50_000
    assert path.stat().st_size <= bits / 2 * 2**20


@pytest.mark.parametrize("name", ["conv3", "resnet9-16", "resnet20"])
def test_codes_of_8_bits_lie_within_half_a_step(name: str, tmp_path: Path) -> None:
    encoder, path = make_encoder(name), tmp_path / "e.safetensors"
    save_encoder(encoder, path, bits=8)
    loaded = load_encoder(path)
    old, new = encoder.state_dict(), loaded.state_dict()
    assert list(old) == list(new)
    for key in old:
        assert new[key].dtype == old[key].dtype
        if old[key].ndim > 1:
            for channel, kept in zip(old[key], new[key], strict=True):
                assert (channel - kept).abs().max() <= channel.abs().max() / 127 * 0.5001, key
        else:
            assert torch.equal(new[key], old[key]), key
    images = some_images(32, seed=1)
    assert (encoder.embed(images) * loaded.embed(images)).sum(dim=1).min() > 0.99
    again = tmp_path / "again.safetensors"
    save_encoder(loaded, again, bits=8)
    first, second = load_file(path), load_file(again)
    assert all(torch.equal(first[key], second[key]) for key in first if first[key].dtype == torch.int8)


def test_channels_of_nothing_but_zeros_stay_zero(tmp_path: Path) -> None:
    encoder = make_encoder()
    with torch.no_grad():
        encoder.projection.weight[3] = 0
    save_encoder(encoder, tmp_path / "e.safetensors", bits=8)
    weight = load_encoder(tmp_path / "e.safetensors").projection.weight
    assert not weight[3].any() and weight[2].any()


@pytest.mark.parametrize("bits", [4, 32, "8", None])
def test_other_numbers_of_bits_are_refused(bits: Any, encoder: Encoder, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="8 or 16 bits"):
        save_encoder(encoder, tmp_path / "e.safetensors", bits=bits)


@pytest.mark.parametrize("change", ["short", "no codes", "codes of 16 bits"])
def test_codes_and_scales_belong_together(change: str, encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "e.safetensors"
    save_encoder(encoder, path, bits=8)
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    del metadata["checksum"]
    scales = "projection.weight.scale_of_codes"
    changed: dict[str, dict[str, torch.Tensor]] = {
        "short": {scales: torch.ones(7)},
        "no codes": {"centre.scale_of_nothing.scale_of_codes": torch.ones(8)},
        "codes of 16 bits": {"projection.weight": load_file(path)["projection.weight"].half()},
    }
    rewrite(path, metadata, **changed[change])
    with pytest.raises(CheckpointError, match="do not fit") as error:
        load_encoder(path)
    check_one_sentence(error, path)


def test_loading_leaves_the_random_state_usable_and_the_weights_trainable(saved: Path) -> None:
    loaded = load_encoder(saved)
    loaded(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.dtype == torch.float32 and p.grad is not None for p in loaded.parameters())


# --------------------------------------------------------------------------------- damaged or foreign


def test_missing_file(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="no checkpoint") as error:
            load_encoder(path)
        check_one_sentence(error, path)
        with pytest.raises(CheckpointError, match="no checkpoint"):
            checkpoint_info(path)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.3, 0.9, -1])
def test_truncated_file(saved: Path, keep: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    for read in (load_encoder, checkpoint_info):
        with pytest.raises(CheckpointError, match="damaged") as error:
            read(saved)
        check_one_sentence(error, saved)


def test_text_file(tmp_path: Path) -> None:
    path = tmp_path / "page.safetensors"
    path.write_text("<html>404: Not Found</html>" * 50)
    with pytest.raises(CheckpointError, match="damaged"):
        load_encoder(path)


def test_pickled_checkpoint_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    torch.save(encoder.state_dict(), path)
    with pytest.raises(CheckpointError, match="pickled checkpoints are refused") as error:
        load_encoder(path)
    check_one_sentence(error, path)


class Intruder:
    """Unpickling this makes a folder."""

    def __init__(self, victim: Path) -> None:
        self.victim = str(victim)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.victim,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_code_in_a_checkpoint_is_never_run(how: str, tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "trap.safetensors"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Intruder(victim)))
    else:
        torch.save(Intruder(victim), path)
    pickle.loads(pickle.dumps(Intruder(victim)))
    assert victim.exists()  # the trap works
    victim.rmdir()
    for read in (load_encoder, checkpoint_info):
        with pytest.raises(CheckpointError):
            read(path)
        assert not victim.exists()


@pytest.mark.parametrize("metadata", [{}, {"format": "pt"}, {"format": "siamese_utils.encoder/999"}])
def test_foreign_safetensors(saved: Path, metadata: dict[str, str]) -> None:
    rewrite(saved, metadata)
    for read in (load_encoder, checkpoint_info):
        with pytest.raises(CheckpointError, match="not written by siamese_utils") as error:
            read(saved)
        check_one_sentence(error, saved)


@pytest.mark.parametrize(
    "design",
    [
        None,
        "",
        "{",
        "[]",
        "7",
        "null",
        "{}",
        '{"name": "conv3"}',
        '{"name": ["conv3"], "embedding_dim": 8, "image_size": 32}',
        '{"name": "conv3", "embedding_dim": "8", "image_size": 32}',
        '{"name": "conv3", "embedding_dim": -8, "image_size": 32}',
    ],
)
def test_unreadable_metadata(saved: Path, design: str | None) -> None:
    metadata = {"format": checkpoints.FORMAT, "info": "{}"}
    rewrite(saved, metadata if design is None else {**metadata, "encoder": design})
    with pytest.raises(CheckpointError, match="metadata") as error:
        load_encoder(saved)
    check_one_sentence(error, saved)


def test_encoder_of_a_later_version(saved: Path) -> None:
    design = {"name": "vit-9000", "embedding_dim": 8, "image_size": 32}
    rewrite(saved, {"format": checkpoints.FORMAT, "encoder": json.dumps(design)})
    with pytest.raises(CheckpointError, match=r"'vit-9000'.*update") as error:
        load_encoder(saved)
    check_one_sentence(error, saved)


@pytest.mark.parametrize("change", ["another size", "another encoder", "wrong shape", "extra", "missing"])
def test_weights_that_do_not_fit(saved: Path, change: str) -> None:
    design = {"name": "conv3", "embedding_dim": 8, "image_size": 32}
    tensors: dict[str, torch.Tensor] = {}
    if change == "another size":
        design["embedding_dim"] = 9
    elif change == "another encoder":
        design["name"] = "resnet20"
    elif change == "wrong shape":
        tensors["centre"] = torch.zeros(9)
    elif change == "extra":
        tensors["surplus"] = torch.zeros(1)
    metadata = {"format": checkpoints.FORMAT, "encoder": json.dumps(design)}
    if change == "missing":
        kept = load_file(saved)
        del kept["centre"]
        save_file(kept, saved, metadata=metadata)
    else:
        rewrite(saved, metadata, **tensors)
    with pytest.raises(CheckpointError, match="do not fit") as error:
        load_encoder(saved)
    check_one_sentence(error, saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["projection.weight", "centre", "pixel_std"])
def test_weights_that_are_not_numbers_are_not_loaded(saved: Path, key: str, value: float) -> None:
    tensor = load_file(saved)[key].clone()
    tensor.view(-1)[0] = value
    rewrite(saved, None, **{key: tensor})
    with pytest.raises(CheckpointError, match="not finite") as error:
        load_encoder(saved)
    check_one_sentence(error, saved)


# 1e6 is finite, but not in the half precision of the file.
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e6])
def test_weights_that_would_not_load_are_not_saved(saved: Path, value: float) -> None:
    before = saved.read_bytes()
    broken = make_encoder()
    with torch.no_grad():
        broken.projection.weight[0, 0] = value
    with pytest.raises(CheckpointError, match=r"projection\.weight"):
        save_encoder(broken, saved)
    assert saved.read_bytes() == before and leftovers(saved.parent) == [saved.name]


@pytest.mark.parametrize("info", ["{", "[1]", "7"])
def test_unreadable_info(saved: Path, info: str) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
    rewrite(saved, {**metadata, "info": info})
    with pytest.raises(CheckpointError, match="metadata") as error:
        checkpoint_info(saved)
    check_one_sentence(error, saved)


def test_size_that_nobody_has_memory_for(saved: Path) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = dict(file.metadata())
    design = {**json.loads(metadata["encoder"]), "embedding_dim": 10**12}
    rewrite(saved, {**metadata, "encoder": json.dumps(design)})
    with pytest.raises(CheckpointError, match="do not fit") as error:
        load_encoder(saved)
    check_one_sentence(error, saved)


@pytest.mark.parametrize("part", ["weights", "info", "name of the checksum"])
def test_single_wrong_bit_is_found(part: str, saved: Path) -> None:
    """The damaged file is a possible checkpoint still, but its checksum is another."""
    content = bytearray(saved.read_bytes())
    places = {"weights": len(content) - 1, "info": content.find(b"90-10"), "name": content.find(b"checksum")}
    content[places[part.split()[0]]] ^= 1
    saved.write_bytes(bytes(content))
    with pytest.raises(CheckpointError, match="its checksum is another") as error:
        load_encoder(saved)
    check_one_sentence(error, saved)


def test_unknown_device(saved: Path) -> None:
    with pytest.raises(ConfigError, match="'abacus'"):
        load_encoder(saved, device="abacus")


def test_every_single_damaged_header_byte_is_caught_or_harmless(saved: Path) -> None:
    content = saved.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for position in range(0, header, 37):
        for flip in (0x01, 0x80):
            damaged = bytearray(content)
            damaged[position] ^= flip
            saved.write_bytes(damaged)
            try:
                load_encoder(saved)
            except CheckpointError as error:
                assert "\n" not in str(error)


# --------------------------------------------------------------------------------------- writing


def test_parent_that_is_a_file(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / "e.safetensors"
    with pytest.raises(CheckpointError, match="Cannot write"):
        save_encoder(encoder, path)
    assert (tmp_path / "file").read_text() == "not a folder"


def test_target_that_is_a_folder(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(CheckpointError, match="Cannot write"):
        save_encoder(encoder, tmp_path / "taken")
    assert leftovers(tmp_path) == ["taken"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(encoder: Encoder, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CheckpointError, match="write access"):
            save_encoder(encoder, tmp_path / "e.safetensors")
    finally:
        tmp_path.chmod(0o700)


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure, error", [(full_disk, CheckpointError), (interrupted, KeyboardInterrupt)])
def test_failing_save_leaves_the_old_file(
    step: str, failure: Any, error: type[BaseException], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()
    monkeypatch.setattr(files.os, step, failure)
    with pytest.raises(error) as raised:
        save_encoder(make_encoder(seed=1), saved)
    assert error is KeyboardInterrupt or "No space left" in str(raised.value)
    assert saved.read_bytes() == before and leftovers(saved.parent) == [saved.name]


def test_saving_leaves_nothing_but_the_file(saved: Path) -> None:
    save_encoder(make_encoder(seed=1), saved)
    assert leftovers(saved.parent) == [saved.name]


def test_registry_entries_make_what_they_promise() -> None:
    for name in ENCODERS:
        assert Encoder(name).name == name


@pytest.mark.skipif(sys.platform == "win32", reason="file modes are a matter of Unix")
def test_others_may_read_a_checkpoint(saved: Path) -> None:
    assert saved.stat().st_mode & 0o444 == 0o444  # safetensors itself makes files that only their owner can read
