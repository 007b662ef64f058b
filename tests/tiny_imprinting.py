"""The small configuration on which the studies of imprinted weights are tested; its base network is trained once."""

from __future__ import annotations

from siamese_utils.encoders.imprinting import FineTuneConfig
from siamese_utils.studies.imprinting.settings import BaseConfig, ImprintingConfig

STUDY = ImprintingConfig(
    base=BaseConfig(split="12-8", recipe="smoke", changes={"epochs": 2, "batch_size": 48, "most_images": 400}),
    shots=(1, 3),
    shot_sets=3,
    novel_classes=4,
    at_once=(1, 2, 8),
    budget=2.0,
    fine_tuning=FineTuneConfig(steps=6),
)
