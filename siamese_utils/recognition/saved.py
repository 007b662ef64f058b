"""Classifiers on disk: support embeddings as safetensors, and all else as JSON in the metadata; nothing is pickled."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from siamese_utils.data.sources import checksum
from siamese_utils.encoders.checkpoints import as_encoder, read_tensors
from siamese_utils.errors import CheckpointError, SiameseError, StorageError, reason
from siamese_utils.recognition.examples import Examples
from siamese_utils.recognition.unknown import Reading
from siamese_utils.system.files import as_path, atomic_path

FORMAT = "siamese_utils.classifier/1"


def save(
    path: str | Path, examples: Examples, settings: dict[str, Any], listed: bool, head: str, reading: Reading, eyes: Any
) -> None:
    """Write what a classifier has learned as one file, in one step.

    Args:
        path: the file.
        examples: what it has learned from.
        settings: its parameters, ``encoder`` among them.
        listed: whether it answers with lists.
        head: name of the head that is used.
        reading: how scores are read.
        eyes: the encoder itself; ``None`` if embeddings were given.

    Raises:
        CheckpointError: it holds what JSON cannot.
        StorageError: the file cannot be written; what was there before stays.
    """
    path, given = as_path(path, CheckpointError), settings["encoder"]
    name = os.fsdecode(given) if isinstance(given, (str, bytes, os.PathLike)) else getattr(eyes, "source", "")
    if not all(one is None or isinstance(one, (str, int, float)) for one in examples.names.tolist()):
        raise CheckpointError(
            "The classifier cannot be saved, since JSON has no names such as its classes have; name them by words or "
            "numbers."
        )
    content = {
        "settings": {key: _plain(value) for key, value in settings.items() if key != "encoder"},
        "encoder": None if eyes is None else {"name": name or None, "fingerprint": getattr(eyes, "fingerprint", "")},
        "classes": {"type": examples.names.dtype.str, "names": examples.names.tolist()},
        "files": examples.files,
        "contents": examples.contents,
        "listed": listed,
        "head": head,
        "reading": asdict(reading),
    }
    try:
        text = json.dumps(content)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"The classifier cannot be saved, since it holds more than JSON can ({reason(error)}); name its classes by "
            "words or numbers."
        ) from error
    tensors = {"z": examples.z.contiguous(), "labels": examples.labels.contiguous()}
    metadata = {"format": FORMAT, "content": text, "checksum": _checksum(text, tensors)}
    with atomic_path(path) as temporary:
        try:
            save_file(tensors, temporary, metadata=metadata)
        except SafetensorError as error:
            raise StorageError(f"Cannot write {path} ({reason(error)}); choose a folder with room.") from error


def load(path: str | Path) -> tuple[Examples, dict[str, Any]]:
    """Examples, and the rest as ``save`` was given it: ``settings``, ``encoder``, ``listed``, ``head``, ``reading``.

    Raises:
        CheckpointError: the file is missing, damaged or foreign.
    """
    path = as_path(path, CheckpointError)
    if not path.is_file():
        raise CheckpointError(f"There is no saved classifier {path}; save one or check the path.")
    try:
        metadata, tensors = read_tensors(path)
        if metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} was not written by OneShotClassifier.save; use a file that was.")
        if {"labels", "scale"} <= metadata.keys():
            raise CheckpointError(f"{path} was written by save_classifier; read it with load_classifier.")
        if metadata["checksum"] != _checksum(metadata["content"], tensors):
            raise CheckpointError(f"{path} is damaged (its checksum is another); save the classifier again.")
        content = json.loads(metadata["content"])
        names = np.array(content["classes"]["names"], dtype=content["classes"]["type"])
        examples = Examples(names, tensors["z"], tensors["labels"], tuple(content["files"]), tuple(content["contents"]))
        content["reading"] = Reading(**content["reading"])
    except SiameseError:
        raise
    except (SafetensorError, OSError, TypeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged or not a saved classifier ({reason(error)}); save it again."
        ) from error
    return examples, content


def encoder_of(path: str | Path, known: dict[str, Any] | None, given: Any) -> Any:
    """The encoder that a saved classifier was made with.

    Args:
        path: of the classifier.
        known: its ``encoder``.
        given: an encoder, or ``None`` to load it by its name.

    Raises:
        CheckpointError: it cannot be had, or has other weights now.
        ConfigError: see ``as_encoder``.
    """
    if known is None:
        return given
    if given is None and not known["name"]:
        raise CheckpointError(f"The encoder of {path} has no name to find it by; give it: load(path, encoder=...).")
    try:
        eyes = as_encoder(known["name"] if given is None else given)
    except SiameseError as error:
        raise CheckpointError(
            f"The encoder {known['name']!r} of {path} cannot be loaded ({reason(error)}); give it: "
            "load(path, encoder=...)."
        ) from error
    if getattr(eyes, "fingerprint", "") != known["fingerprint"]:
        raise CheckpointError(
            f"{path} was saved with another encoder than {known['name'] or 'this'} is now; give the one of "
            "that time, or fit the classifier anew."
        )
    return eyes


def _plain(value: Any) -> Any:
    """A setting as JSON has it: a number of NumPy's as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _checksum(text: str, tensors: dict[str, torch.Tensor]) -> str:
    return checksum(np.frombuffer(text.encode(), dtype=np.uint8), *(tensors[key].numpy() for key in sorted(tensors)))
