"""Networks of torchvision and timm as encoders: without their classifiers, with their own weights and preprocessing.

A file of weights is looked for in the sub-folder ``pretrained/`` of the folders where data are looked for (see
``siamese_utils.data.sources``), then in the library's own cache, and is downloaded to the latter otherwise, unless
``SIAMESE_OFFLINE=1``. No file is opened that could run code.
"""

from __future__ import annotations

import difflib
import logging
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from siamese_utils.data.sources import flag, search_folders
from siamese_utils.encoders.base import ImageEncoder
from siamese_utils.encoders.pretrained import PretrainedSource, find_weights, read_weights
from siamese_utils.errors import CheckpointError, MissingPackageError, UnknownNameError, reason, shown

_NOTE = "Its published weights were learned from very many kinds of object, and yours may be among them."
# Old names of DenseNet's layers, as torchvision's own loader turns them into the present ones.
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.(?:weight|bias|running_mean|running_var))$")


class NamedEncoder(ImageEncoder):
    """A published network without its classifier.

    Args:
        name: as ``load_encoder`` takes it.
        body: gives features, float (N, D), of normalised images, float (N, 3, H, W).
        image_size: side in pixels of the images that it was trained on.
        pixel_mean, pixel_std: the input normalisation it expects, one number a colour, on the scale 0-255.
        note: one sentence on the classes that it has seen.
    """

    batch_size = 16  # at such sizes a larger batch is no faster on a processor and takes much memory

    def __init__(
        self,
        name: str,
        body: nn.Module,
        image_size: int,
        pixel_mean: Iterable[float],
        pixel_std: Iterable[float],
        note: str = _NOTE,
    ) -> None:
        with torch.no_grad():
            features = body.eval()(torch.zeros(1, 3, image_size, image_size))
        super().__init__(name, features.shape[1], image_size, note=note)
        self.body = body
        self.pixel_mean.copy_(torch.tensor(tuple(pixel_mean)))
        self.pixel_std.copy_(torch.tensor(tuple(pixel_std)))

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Features of normalised images: float (N, 3, H, W) to float (N, D), not of unit length."""
        return self.body(pixels)


def _scaled(numbers: Iterable[float]) -> list[float]:
    """Colour statistics on the scale 0-255 from those on the scale 0-1."""
    return [255 * number for number in numbers]


def _no_model(library: str, name: str, known: Iterable[str]) -> UnknownNameError:
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else "; look for one in its documentation."
    return UnknownNameError(f"{library} has no image classification model {shown(name)} with weights{hint}")


# --- torchvision ------------------------------------------------------------------------------------------------------


def torchvision_encoder(name: str) -> NamedEncoder:
    """A classification network of torchvision with its default weights; its features are what its last layer takes.

    Args:
        name: as torchvision has it, such as ``"resnet50"``.

    Raises:
        UnknownNameError: no such network.
        CheckpointError: the weights cannot be had, are damaged or do not fit.
    """
    import torchvision  # takes a second, and few encoders need it

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise _no_model("torchvision", name, known)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    preprocessing = weights.transforms()
    mean, std = _scaled(preprocessing.mean), _scaled(preprocessing.std)
    whole = f"torchvision:{name}"
    source = PretrainedSource(
        whole, whole, str(weights), _NOTE, weights.url.rsplit("/", 1)[1], weights.url, str, tuple(mean), tuple(std)
    )
    path = find_weights(source)
    side = preprocessing.crop_size[0]
    network = torchvision.models.get_model(name, weights=None, **_options(name, side))
    _fill(network, read_weights(path), path, whole)
    return NamedEncoder(whole, without_classifier(network), side, mean, std)


def _options(name: str, side: int) -> dict[str, Any]:
    """What torchvision sets itself where it loads weights."""
    if name in ("googlenet", "inception_v3"):
        return {"transform_input": True, "init_weights": False}
    return {"image_size": side} if name.startswith("vit_") else {}


def _fill(network: nn.Module, weights: dict[str, torch.Tensor], path: Path, name: str) -> None:
    for key in list(weights):
        if old := _OLD_DENSENET.match(key):
            weights[old[1] + old[2]] = weights.pop(key)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise _misfit(path, name) from error
    _check_finite(network, path)


def _misfit(path: Path, name: str) -> CheckpointError:
    return CheckpointError(f"The weights {path} do not fit the encoder {name!r}; delete the file and fetch it again.")


def _check_finite(network: nn.Module, path: Path) -> None:
    if not all(value.isfinite().all() for value in network.state_dict().values() if value.is_floating_point()):
        raise CheckpointError(f"The weights {path} hold numbers that are not finite; fetch the file again.")


def without_classifier(network: nn.Module) -> nn.Module:
    """The network, whose last layer, linear or else (in SqueezeNet) a convolution, now hands on what it is given."""
    layers = dict(network.named_modules())
    last = [name for name, layer in layers.items() if isinstance(layer, nn.Linear)] or [
        name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)
    ]
    parent, _, child = last[-1].rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return network


# --- timm -------------------------------------------------------------------------------------------------------------


def timm_encoder(name: str) -> NamedEncoder:
    """A network of timm, such as DINOv2's and CLIP's towers, with its published weights.

    Args:
        name: as timm has it, with or without the weights' tag: ``"vit_base_patch16_clip_224.openai"``.

    Raises:
        MissingPackageError: timm is not installed.
        UnknownNameError: no such network.
        CheckpointError: the weights cannot be had, are damaged or do not fit.
    """
    timm = _timm()
    config = _config(timm, name)
    path = _timm_file(config)
    whole = f"timm:{name}"
    # With a file of its own, timm must neither fetch another one nor take this one for another format.
    overlay = {"file": str(path), "custom_load": False}
    try:
        # Whole at first: without its classifier timm would also take a file of which nothing fits.
        network = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (RuntimeError, SafetensorError, KeyError, ValueError, OSError) as error:
        raise _misfit(path, whole) from error
    _check_finite(network, path)
    network.reset_classifier(0)
    data = timm.data.resolve_model_data_config(network)
    return NamedEncoder(whole, network, data["input_size"][-1], _scaled(data["mean"]), _scaled(data["std"]))


def _timm() -> ModuleType:
    try:
        import timm
    except ImportError as error:
        raise MissingPackageError(
            "Encoders of timm need a package that is not installed: run 'pip install timm'."
        ) from error
    return timm


def _config(timm: ModuleType, name: str) -> Any:
    """What timm knows of the weights of a name."""
    try:
        config = timm.models.get_pretrained_cfg(name) if timm.is_model(name.split(".")[0]) else None
    except RuntimeError:  # no such tag
        config = None
    if config is None or not config.hf_hub_id:
        raise _no_model("timm", name, timm.list_pretrained())
    return config


def _timm_file(config: Any) -> Path:
    """The file of weights, downloaded if need be."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    published = config.hf_hub_filename or "model.safetensors"
    ours = f"{config.architecture}.{config.tag}.safetensors" if config.tag else f"{config.architecture}.safetensors"
    place = f"put it as {ours} into the folder pretrained/ of your data folder (the one that SIAMESE_DATA names)"
    remedy = f"download {published} of https://huggingface.co/{config.hf_hub_id} by other means and {place}"
    for folder, _ in search_folders():
        if (folder / "pretrained" / ours).is_file():
            return folder / "pretrained" / ours
    if not published.endswith(".safetensors"):
        raise CheckpointError(f"The weights {ours} are published in a form that could run code; choose other ones.")
    cached = try_to_load_from_cache(config.hf_hub_id, published)
    if isinstance(cached, str):
        return Path(cached)
    if flag("SIAMESE_OFFLINE"):
        raise CheckpointError(
            f"The weights {ours} are not on this machine and SIAMESE_OFFLINE forbids a download; {remedy}."
        )
    try:
        with _quiet("huggingface_hub"):
            return Path(hf_hub_download(config.hf_hub_id, published))
    except (OSError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"The weights {ours} could not be downloaded ({reason(error)}); {remedy}.") from error


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Without a library's remarks on what it tries again: the error will say it."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
