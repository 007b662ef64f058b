"""Encoders as ONNX files, for programs that have no torch: raw images in, unit vectors out."""

from __future__ import annotations

import copy
import importlib.util
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from siamese_utils.encoders.base import ImageEncoder
from siamese_utils.encoders.named import called
from siamese_utils.encoders.views import side_for, views_of
from siamese_utils.errors import CheckpointError, ConfigError, MissingPackageError, reason
from siamese_utils.system.files import as_path, atomic_path

TOLERANCE = 1e-4  # by which a number of an embedding may differ from torch's
_LARGEST = 2**31 - 2**20  # bytes of weights in a single ONNX file
_INPUT, _OUTPUT = "images", "embeddings"

_log = logging.getLogger(__name__)


class _RawEmbedding(nn.Module):
    """What ``embed`` does with a batch, as one graph: uint8 (N, S, S, 3) to float (N, D)."""

    def __init__(self, encoder: ImageEncoder, views: str) -> None:
        super().__init__()
        self.encoder, self.views = encoder, views

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        encoder = self.encoder
        pixels = ((images.float() - encoder.pixel_mean) / encoder.pixel_std).permute(0, 3, 1, 2)
        seen = list(views_of(pixels, encoder.image_size, self.views))
        directions = encoder.unit(encoder(torch.cat(seen)))  # at once, so that the network is written once
        mean = encoder.unit(directions.view(len(seen), -1, encoder.embedding_dim).sum(dim=0))
        return encoder.unit(mean - encoder.centre)


def export_onnx(encoder: ImageEncoder, path: str | Path, views: str | None = None) -> Path:
    """Write an encoder as one ONNX file that does all that ``embed`` does, from raw pixels to unit vectors.

    The graph has one input, ``images``: uint8 (N, S, S, 3), RGB, with S = ``encoder.input_side(views)``; and one
    output, ``embeddings``: float32 (N, D), rows of unit length. N is free. Statistics, views and centre are inside; the
    file's metadata name the encoder. Where onnxruntime is installed, the file is compared with the encoder before it
    takes its place.

    Args:
        encoder: see ``load_encoder``; a single one, not an ensemble.
        path: ends in ``.onnx``; missing folders are made.
        views: see ``ImageEncoder.embed``.

    Returns:
        the path.

    Raises:
        ConfigError: something else than an encoder, or a path with another ending.
        UnknownNameError: no such views.
        MissingPackageError: onnx or onnxscript is not installed.
        CheckpointError: the network cannot be written as ONNX, or what was written computes something else.
        StorageError: the file cannot be written.
    """
    if not isinstance(encoder, ImageEncoder):
        raise ConfigError(f"A single encoder can be exported, not a {type(encoder).__name__}; see load_encoder.")
    path = as_path(path, ConfigError)
    if path.suffix.lower() != ".onnx":
        raise ConfigError(f"The name of an ONNX file ends in .onnx, unlike {path.name!r}; choose another name.")
    views = encoder.views if views is None else views
    images = _examples(side_for(encoder.image_size, views))
    # A copy: the encoder may lie on a device that multiplies less precisely, and be in training.
    encoder = copy.deepcopy(encoder).cpu().eval()
    expected = encoder.embed(images, views=views)
    graph = _graph(_RawEmbedding(encoder, views).eval(), images)
    with atomic_path(path) as temporary:
        graph.save(str(temporary))
        _check(temporary, path, images, expected)
    return path


def _graph(network: _RawEmbedding, images: torch.Tensor) -> torch.onnx.ONNXProgram:
    if not all(map(importlib.util.find_spec, ("onnx", "onnxscript"))):
        raise MissingPackageError(
            "Writing ONNX needs packages that are not installed: run 'pip install onnx onnxscript onnxruntime'."
        )
    encoder = network.encoder
    size = sum(tensor.nbytes for tensor in encoder.state_dict().values())
    if size > _LARGEST:
        raise CheckpointError(f"The encoder {encoder.name!r} is too large for one ONNX file; choose a smaller one.")
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (images,),
                dynamo=True,
                verbose=False,
                input_names=[_INPUT],
                output_names=[_OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("N")},),
            )
    except Exception as error:  # of torch's and of onnxscript's many kinds
        raise CheckpointError(
            f"The encoder {encoder.name!r} cannot be written as ONNX ({reason(error)[:200]}); choose another one."
        ) from error
    finally:
        exporter.setLevel(before)
    program.model.metadata_props.update(
        {"encoder": called(encoder), "fingerprint": encoder.fingerprint, "views": network.views, "note": encoder.note}
    )
    return program


def _check(file: Path, path: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare what a file computes with what the encoder does, also of a single image."""
    if importlib.util.find_spec("onnxruntime") is None:
        _log.warning("Wrote %s unchecked; install onnxruntime to have such files compared with the encoder.", path)
        return
    import onnxruntime

    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    for count in (len(images), 1):
        (z,) = session.run([_OUTPUT], {_INPUT: images[:count].numpy()})
        apart = np.abs(z - expected[:count].numpy()).max()
        if not apart <= TOLERANCE:  # nor is what is not a number
            raise CheckpointError(
                f"{path} is not written, since onnxruntime's embeddings differ from torch's by {apart:.2g}; update "
                "torch and onnxruntime, or choose another encoder."
            )


def _examples(side: int) -> torch.Tensor:
    """Three images of noise of several coarsenesses, so that a swapped axis or colour would show."""
    rng = np.random.default_rng(0)
    coarse = [rng.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (2, 5, 11)]
    where = [np.arange(side) * len(one) // side for one in coarse]
    return torch.from_numpy(np.stack([one[rows][:, rows] for one, rows in zip(coarse, where)]))
