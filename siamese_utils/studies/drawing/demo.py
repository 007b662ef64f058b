"""The encoder behind the drawing demo."""

from __future__ import annotations

import dataclasses

import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError
from siamese_utils.evaluation.calibration import Verdict
from siamese_utils.studies.drawing.judging import verdict_on
from siamese_utils.studies.drawing.study import CHARACTERS, checkpoint_path
from siamese_utils.training.loop import train


def demo_encoder(characters: ImageSet) -> tuple[Encoder, Verdict]:
    """The encoder behind the drawing demo, and how to read its similarities.

    For made-up characters it is a small one that learns them within seconds.

    Raises:
        CheckpointError: the stored encoder is missing, damaged or lacks its verdict.
    """
    if characters.is_synthetic:
        config = dataclasses.replace(CHARACTERS, least_images=2_000, most_images=2_000, batch_size=80)
        encoder = train(config, characters, range(characters.num_classes), device="cpu", progress=False).encoder
        return encoder, verdict_on(encoder, characters, torch.arange(len(characters)))
    path = checkpoint_path()
    info = checkpoint_info(path)
    try:
        verdict = Verdict(float(info["threshold"]), **info["calibration"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not say how to read its similarities; fetch or train it again.") from error
    return load_encoder(path), verdict
