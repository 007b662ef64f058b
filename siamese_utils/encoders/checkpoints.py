"""Encoders on disk: weights as safetensors, and in the file's metadata all that is needed to rebuild them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.encoders.base import ImageEncoder
from siamese_utils.encoders.depths import TwoDepths
from siamese_utils.encoders.encoder import Encoder, checked_encoder
from siamese_utils.encoders.named import PHOTOS, PHOTOS_NOTE, is_name, named_encoder, stored_checkpoint
from siamese_utils.errors import CheckpointError, ConfigError, reason
from siamese_utils.system.devices import pick_device
from siamese_utils.system.files import as_path, atomic_path

FORMAT = "siamese_utils.encoder/1"
_FORMAT_OF_CODES = "siamese_utils.encoder/2"  # which versions that know whole numbers for no weights refuse by name
_BITS = (8, 16)
_SCALE = ".scale_of_codes"  # stands behind the name of the weights that it is for
_FORMAT_OF_DEPTHS = "siamese_utils.encoder/3"  # the same of versions that know no depths
_DEPTHS = {name: f"{name}.of_two_depths" for name in ("centre", "lengths")}  # beside the weights of their encoder
_KEYS = {"format", "encoder", "info", "checksum"}


def save_encoder(
    encoder: Encoder | TwoDepths, path: str | Path, info: Mapping[str, Any] | None = None, bits: int = 16
) -> None:
    """Write an encoder as one safetensors file.

    Matrices and kernels are stored in half precision, which halves the file and moves no published metric
    beyond its interval; statistics, biases and scales stay float32.

    Args:
        encoder: what to save; of two depths of an encoder, this one and the centre of its parts.
        path: ends in ``.safetensors``; missing folders are made.
        info: anything that JSON can hold, for example the training configuration; see ``checkpoint_info``.
        bits: of each number of a matrix or kernel: 16, or 8 for whole numbers from -127 to 127 and one scale an output
            channel, which halves the file once more. Judge the encoder as it is loaded again.

    Raises:
        CheckpointError: the weights are not finite, or the file cannot be written.
        ConfigError: another number of bits.
    """
    path = as_path(path, CheckpointError)
    if not isinstance(encoder, Encoder | TwoDepths):
        raise CheckpointError(f"An Encoder can be saved, but not a {type(encoder).__name__}.")
    deep, encoder = (encoder, encoder.encoder) if isinstance(encoder, TwoDepths) else (None, encoder)
    if bits not in _BITS:
        raise ConfigError(f"Weights are stored in 8 or 16 bits, not in {bits!r}.")
    tensors: dict[str, torch.Tensor] = {}
    weights = encoder.state_dict() | {key: getattr(deep, name) for name, key in _DEPTHS.items() if deep is not None}
    for key, tensor in weights.items():
        tensor = tensor.detach().cpu()
        large = tensor.is_floating_point() and tensor.ndim > 1
        if tensor.is_floating_point() and not (tensor.half() if large else tensor).isfinite().all():
            raise CheckpointError(
                f"The encoder's {key} holds numbers that are not finite or beyond half precision, so it is not saved; "
                "train it again."
            )
        if large and bits == 8:
            tensors[key], tensors[key + _SCALE] = _coded(tensor)
        else:
            tensors[key] = (tensor.half() if large else tensor).contiguous()
    design = {
        "name": encoder.name,
        "embedding_dim": encoder.embedding_dim if encoder.projected else None,
        "image_size": encoder.image_size,
        "mirror": encoder.mirror,
    }
    try:
        plain = json.dumps({} if info is None else dict(info))
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"The info for {path} is more than JSON can hold ({reason(error)}).") from error
    plainest = FORMAT if bits == 16 else _FORMAT_OF_CODES
    form = plainest if deep is None else _FORMAT_OF_DEPTHS
    metadata = {"format": form, "encoder": json.dumps(design), "info": plain}
    metadata["checksum"] = _checksum(metadata, tensors)
    try:
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"Cannot write {path} ({reason(error)}); choose a folder with room and write access."
        ) from error


def _coded(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights float (C, …) as codes int8 of the same shape and their scales float32 (C,)."""
    rows = weights.float().flatten(1)
    scales = rows.abs().amax(dim=1) / 127
    codes = (rows / scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]).round().to(torch.int8)
    return codes.view(weights.shape), scales


def _decoded(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights of a file as float32, whatever they are stored in.

    Raises:
        ValueError: codes without scales for each of their channels, or scales without codes.
    """
    decoded = {}
    for key, tensor in tensors.items():
        if key.endswith(_SCALE):
            if key.removesuffix(_SCALE) not in tensors:
                raise ValueError(key)
        elif (scales := tensors.get(key + _SCALE)) is not None:
            if tensor.dtype != torch.int8 or scales.shape != tensor.shape[:1]:
                raise ValueError(key)
            decoded[key] = tensor.float() * scales.float().view(-1, *[1] * (tensor.ndim - 1))
        else:
            decoded[key] = tensor.float() if tensor.is_floating_point() else tensor
    return decoded


def load_encoder(path: str | Path, device: str = "cpu") -> ImageEncoder:
    """Load an encoder by its name, or one written by ``save_encoder``.

    Args:
        path: a ``.safetensors`` file; or a name: ``"efficientnet-lite0"``, with weights that a package brings;
            ``"torchvision:resnet50"`` or another network of torchvision or of timm (``"timm:..."``), with their
            published weights; ``"siamese-photos"``, the report's own for images of one's own; ``"90-10"``
            (``"90-10:draw1"``, ``"90-10:muon-manifold"``) for a checkpoint of the report, of the recipe or of another.
            ``best_encoder()`` gives the best name for photographs that needs no download.
        device: where to put it: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``.

    Returns:
        the encoder in evaluation mode; ``encoder.embed(images)`` gives embeddings, and ``encoder.note`` says whether
        it may have learned the classes already.

    Raises:
        UnknownNameError: no such name.
        CheckpointError: the file is missing, damaged, not safetensors, or of another program or architecture, or
            published weights cannot be had.
        MissingPackageError: the package that has the network is not installed.
        ConfigError: no such device.
    """
    encoder = _of_name(path) if is_name(path) else _of_file(as_path(path, CheckpointError))
    encoder.source = os.fsdecode(path)
    return encoder.to(pick_device(device), memory_format=torch.channels_last).eval()


def _of_name(name: str) -> ImageEncoder:
    path = stored_checkpoint(name)
    encoder = named_encoder(name) if path is None else _of_file(path)
    if name == PHOTOS:
        encoder.note = PHOTOS_NOTE
    return encoder


def _of_file(path: Path) -> Encoder | TwoDepths:
    metadata, tensors = _read(path)
    try:
        design = json.loads(metadata["encoder"])
        if design["name"] not in ENCODERS:
            raise CheckpointError(
                f"{path} holds an encoder named {design['name']!r}, which this version does not know; "
                "update siamese_utils."
            )
        dim, projection = design["embedding_dim"], tensors.get("projection.weight")
        if dim is not None and (projection is None or dim != len(projection)):  # before so much memory is asked for
            raise _misfit(path, design["name"])
        mirror = bool(design.get("mirror", True))  # checkpoints from before there was a choice average over both
        encoder = Encoder(design["name"], design["embedding_dim"], design["image_size"], mirror)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{path} has unreadable encoder metadata; fetch or train the checkpoint again."
        ) from error
    loaded: Encoder | TwoDepths = encoder
    try:
        weights = _decoded(tensors)
        depths = {name: weights.pop(key) for name, key in _DEPTHS.items() if metadata["format"] == _FORMAT_OF_DEPTHS}
        encoder.load_state_dict(weights)
        if depths:
            loaded = TwoDepths.of_parts(encoder.eval(), **depths)
    except (KeyError, RuntimeError, ValueError) as error:
        raise _misfit(path, design["name"]) from error
    if not all(tensor.isfinite().all() for tensor in loaded.state_dict().values() if tensor.is_floating_point()):
        raise CheckpointError(f"{path} holds weights that are not finite numbers; fetch or train it again.")
    # A disk error would otherwise become a wrong answer. Older checkpoints carry no checksum, but a key that is not
    # known may be the damaged name of one.
    if set(metadata) - _KEYS or metadata.get("checksum") not in (None, _checksum(metadata, tensors)):
        raise CheckpointError(f"{path} is damaged (its checksum is another); fetch or train the checkpoint again.")
    return loaded


def as_encoder(given: Any) -> Any:
    """What embeds images: an encoder or an ensemble as it is, or the encoder of a name or a checkpoint's path.

    Raises:
        CheckpointError, ConfigError: see ``load_encoder``, or it embeds nothing.
    """
    return load_encoder(given) if isinstance(given, (str, bytes, os.PathLike)) else checked_encoder(given)


def checkpoint_info(path: str | Path) -> dict[str, Any]:
    """What ``save_encoder`` was given as ``info``.

    Raises:
        CheckpointError: the file is missing, damaged or foreign.
    """
    metadata, _ = _read(as_path(path, CheckpointError), with_tensors=False)
    try:
        info = json.loads(metadata.get("info", "{}"))
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise CheckpointError(f"{path} has unreadable metadata; fetch or train the checkpoint again.")
    return info


def _misfit(path: Path, name: str) -> CheckpointError:
    return CheckpointError(f"The weights in {path} do not fit the encoder {name!r} it names; fetch or train it again.")


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.blake2b(f"{metadata.get('encoder')}\n{metadata.get('info')}\n".encode(), digest_size=16)
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_tensors(path: Path, with_tensors: bool = True) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """Metadata of a safetensors file, and its tensors by name.

    Raises:
        SafetensorError, OSError, TypeError: it is damaged, or something else.
    """
    try:
        str(path).encode()
        framework = "pt"
    except UnicodeEncodeError:  # a file of such a name is opened for NumPy alone
        framework = "np"
    with safe_open(path, framework=framework) as file:
        names = list(file.keys()) if with_tensors else []
        return file.metadata() or {}, {name: torch.as_tensor(file.get_tensor(name)) for name in names}


def _read(path: Path, with_tensors: bool = True) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}; train one or check the path.")
    try:
        metadata, tensors = read_tensors(path, with_tensors)
    except (SafetensorError, OSError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a safetensors file (pickled checkpoints are refused, since opening one can "
            "run code); fetch it again."
        ) from error
    if metadata.get("format") not in (FORMAT, _FORMAT_OF_CODES, _FORMAT_OF_DEPTHS):
        raise CheckpointError(f"{path} was not written by siamese_utils.save_encoder; use one of its checkpoints.")
    return metadata, tensors
