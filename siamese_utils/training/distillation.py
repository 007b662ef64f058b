"""Distillation: a network learns how alike its teachers find the images of a batch.

Teachers are stored encoders of the same classes, several for an ensemble in one network, or one of the own kind (born
again: Furlanello et al., *Born again neural networks*, 2018). What they make of the images is computed once, so that a
lesson costs no more than a comparison of the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from siamese_utils.data.arrays import as_embeddings, as_positive
from siamese_utils.encoders.base import ImageEncoder
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.errors import CheckpointError, DivergedError, SamplingError, ShapeError
from siamese_utils.system import project
from siamese_utils.training.losses import ObjectiveOutput

TEMPERATURE = 0.1  # of cosines; that of the soft triplets, so that near images count most and far ones still count


class DistillationObjective(nn.Module):
    """Which other images of the batch is an image like? The divergence from what the teachers answer.

    For each image, the similarities to all others make a distribution, and the loss is the mean Kullback-Leibler
    divergence of the network's from the teachers' (Passalis & Tefas, *Learning deep representations with probabilistic
    knowledge transfer*, 2018, with the softmax of cosines as kernel). The network's embeddings are centred at the
    batch's mean, as those of a finished encoder are at the mean of all.

    Args:
        weight: factor of the loss.
        temperature: of the softmax over cosines.

    Raises:
        ConfigError: a number that is not positive.
    """

    def __init__(self, weight: float = 1.0, temperature: float = TEMPERATURE) -> None:
        super().__init__()
        self.weight = as_positive("The weight", weight)
        self.temperature = as_positive("The temperature", temperature)

    def forward(self, embeddings: torch.Tensor, taught: torch.Tensor) -> ObjectiveOutput:
        """Weighted loss of a batch: embeddings float (B, D), and the teachers' float (B, E), rows of unit length.

        Raises:
            ShapeError: no tables of as many rows.
            SamplingError: fewer than three images, which leave nothing to choose from.
            DivergedError: an embedding is not finite.
        """
        z = as_embeddings(embeddings, "Embeddings", finite=False).float()
        taught = as_embeddings(taught, "The teachers' embeddings").float()
        if len(z) != len(taught):
            raise ShapeError(f"{len(z)} images cannot be learned from the teachers' {len(taught)}.")
        if len(z) < 3:
            raise SamplingError(f"Likeness within a batch needs three images or more, not {len(z)}.")
        if not bool(z.isfinite().all()):
            raise DivergedError("The embeddings of a batch are not finite; lower the learning rate.")
        own = self._log_shares(F.normalize(z - z.mean(dim=0), dim=1))
        loss = F.kl_div(own, self._log_shares(taught), reduction="none", log_target=True).sum(dim=1).mean()
        return ObjectiveOutput(self.weight * loss, {"distillation_loss": loss.detach()})

    def _log_shares(self, z: torch.Tensor) -> torch.Tensor:
        """Of each image's likeness, the logarithm of the share of each other: float (B, B - 1)."""
        count = len(z)
        others = ~torch.eye(count, dtype=torch.bool, device=z.device)
        return ((z @ z.T / self.temperature)[others].view(count, count - 1)).log_softmax(dim=1)


def taught_embeddings(
    teachers: Sequence[str],
    images: torch.Tensor,
    classes: Iterable[int],
    data: str,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> torch.Tensor:
    """What teachers make of images: float32 (M, E), side by side and of unit length, so that cosines are their mean.

    Args:
        teachers: names of checkpoints of the report, such as ``"cifar-fs-seed0"``; at least one.
        images: uint8 (M, H, W, 3).
        classes: that may be known: a teacher of others would pass on what is not to be learned.
        data: name of the data set.
        device: where they are embedded.
        progress: whether a progress bar is shown: for several teachers this takes minutes.

    Raises:
        CheckpointError: a teacher is missing or damaged, has learned other classes, or does not say which.
    """
    found: list[torch.Tensor] = []
    learned = set(classes)
    with tqdm(total=len(teachers) * len(images), desc="teachers", unit="img", disable=not progress) as bar:
        for name in teachers:
            teacher = _teacher(name, learned, data, device)
            rows = []
            for part in images.split(teacher.batch_size):  # as ``embed`` itself would
                rows.append(teacher.embed(part))
                bar.update(len(part))
            found.append(torch.cat(rows))
    return F.normalize(torch.cat(found, dim=1), dim=1).cpu()


def teachers_digest(teachers: Iterable[str]) -> str:
    """Hexadecimal digest of the checkpoints of teachers that have taught already."""
    content = hashlib.blake2b(digest_size=16)
    for name in teachers:
        content.update(_path(name).read_bytes())
    return content.hexdigest()


def _path(teacher: str) -> Path:
    return project.results_dir() / "checkpoints" / f"{teacher}.safetensors"


def _teacher(name: str, classes: set[int], data: str, device: torch.device | str) -> ImageEncoder:
    path = _path(name)
    project.bring(path)
    info = checkpoint_info(path)
    known = info.get("classes")
    if not isinstance(known, list) or info.get("data") != data:
        raise CheckpointError(f"{path} does not say which classes of {data} it has learned, so it cannot teach.")
    if strange := sorted(set(known) - classes):
        raise CheckpointError(
            f"{path} has learned {len(strange)} classes that are not to be learned, such as {strange[0]}; choose "
            "teachers of the same classes."
        )
    return load_encoder(path, str(device))
