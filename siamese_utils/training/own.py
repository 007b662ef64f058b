"""Training on somebody's own images, from a folder of classes or from a CSV of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.named import best_encoder
from siamese_utils.training.own_images import train_images
from siamese_utils.training.own_pair_training import train_pairs
from siamese_utils.training.own_run import OwnTraining
from siamese_utils.training.own_settings import OwnSettings


def train_own(
    images: Path | None,
    pairs: Path | None,
    out: Path,
    settings: OwnSettings,
    runs: Path,
    *,
    against: str = "",
    **options: Any,
) -> OwnTraining:
    """Train on a folder of images or on a table of pairs, and compare with an encoder that was trained before.

    Args:
        images: see ``train_images``.
        pairs: see ``train_pairs``; one of the two is given.
        out: the checkpoint.
        settings: of the training.
        runs: folder for what an interrupted training goes on from.
        against: the encoder to compare with, see ``load_encoder``; the best that is installed if empty.
        options: further ones of ``train_images``.

    Raises:
        SiameseError: see ``train_images`` and ``train_pairs``.
    """
    name = against or best_encoder()
    given = {"runs": runs, "other": load_encoder(name), "other_name": name, **options}
    if images is not None:
        return train_images(images, out, settings, **given)
    assert pairs is not None
    return train_pairs(pairs, out, settings, **given)
