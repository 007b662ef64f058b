"""Is it worth training on a folder of one's own? Photographs of thirty classes, as ``train --images`` treats them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from siamese_utils.data.photos import Photos, find_photos
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.named import NamedEncoder
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.experiments.study import Bench, Outcome, Run, Study
from siamese_utils.recognition.support import Support
from siamese_utils.training.own_images import train_support
from siamese_utils.training.own_settings import OwnSettings

OTHER = "efficientnet-lite0"
METRICS = {"acc_1s": "1-shot accuracy", "acc_5s": "5-shot accuracy"}
"""On classes that were neither learned nor chosen by, five at a time; each also as it is before any training."""


def _runs() -> list[Run]:
    """From random weights at the usual settings, and from the weights that it is compared with."""
    tuned = OwnSettings(size=128, pretrained=f"imagenet-{OTHER}", epochs=20)
    return [
        Run(
            {"start": "random", "seed": 0},
            {"config": OwnSettings(size=64)},
            "Some thirty points below the published weights: 18 classes of 16 photographs are few to learn from.",
        ),
        Run(
            {"start": OTHER, "seed": 0},
            {"config": tuned},
            "Within the interval of the published weights: what it learns of few classes it loses of what was general.",
        ),
    ]


def carry_out(run: Run, bench: Bench) -> Outcome:
    """Train on the photographs and compare on those of classes that were set aside."""
    photos = bench.load(find_photos)
    with tempfile.TemporaryDirectory() as folder:
        done = train_support(
            as_support(photos),
            "photos",
            Path(folder) / "encoder.safetensors",
            run.config,
            runs=bench.folder or folder,
            other=bench.load(as_published),
            other_name=OTHER,
            device=bench.device,
            progress=bench.progress,
        )
    metrics: dict[str, Estimate] = {}
    for name, each in zip(METRICS, done.results):
        metrics |= {name: each.trained, f"{name}_before": each.other, f"{name}_gain": each.difference}
    metrics |= {"seconds": exact(done.info["seconds"]), "learned": exact(len(done.info["learned_classes"]))}
    return Outcome(metrics, record=_record(done.info))


def as_published() -> NamedEncoder:
    """The published network with plain means over positions and no centre, as features of it are usually taken."""
    encoder = load_encoder(OTHER)
    encoder.body.power = 1
    encoder.centre.zero_()
    return encoder


def as_support(photos: Photos) -> Support:
    """The photographs as if their classes were a user's."""
    return Support(photos.class_names, photos.files, photos.labels, ("",) * len(photos.files))


def _record(info: Any) -> dict[str, Any]:
    kept = ("learned_classes", "validation_classes", "report_classes", "images", "epochs", "sentence")
    return {"trained": info["config"], **{name: info[name] for name in kept}}


OWN_TRAINING = Study(
    "own_training",
    "Is it worth training on a folder of one's own photographs?",
    _runs,
    carry_out,
    key=("start", "seed"),
    metrics={
        **{name: f"{what} after the training" for name, what in METRICS.items()},
        **{f"{name}_before": f"{what} of {OTHER} as published" for name, what in METRICS.items()},
        **{f"{name}_gain": f"{what}, points gained over {OTHER} as published" for name, what in METRICS.items()},
        "seconds": "of training",
        "learned": "classes that were learned",
    },
)
