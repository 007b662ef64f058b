"""The part of the study of imprinted weights in which the encoder moves with the classifier.

A class is added to the base network from a few shots, and the last stage of the encoder is tuned with all weights;
with all images of the class it is the joint training that the few shots are measured by. Beside every such run stand
two with the same class and shots: one in which only a weight is imprinted, and one whose last stage was tuned as long
for the old classes alone. What is gained beyond that one is owed to the shots.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.imprinting import Whitening, imprinted, leads
from siamese_utils.errors import unknown
from siamese_utils.studies.imprinting.base import Labelled, Parts
from siamese_utils.studies.imprinting.methods import Measured, Space, judged, measure
from siamese_utils.studies.imprinting.settings import ImprintingConfig
from siamese_utils.studies.imprinting.tuning import Stage, TuningConfig, stage_inputs, tune_encoder

METHODS = {
    "whitened": "a weight imprinted in whitened space; the encoder stays",
    "old only": "the encoder's last stage and the old weights tuned for the old classes alone, then imprinted",
    "moved": "imprinted, then the last stage and all weights tuned with the shots",
}
METRICS = {
    "old_acc": "accuracy on the classes learned before",
    "novel_acc": "accuracy on the added class",
    "old_acc_budget": "the same with the bias that costs old classes the budget on held-out images",
    "novel_acc_budget": "the same for the added class",
    "novel_acc_for_one_point": "accuracy on the added class where old accuracy is one point below the base's",
}


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that runs share.

    Attributes:
        encoder: the base network.
        images: of its study.
        space: the whitened space of the frozen encoder.
        stage: the encoder's last stage.
        known, held_out, test: maps (N, 2, C, h, w) of images of old classes and the number of each one's class.
        tuned: what ``tuned_for_old`` has made.
    """

    encoder: Encoder
    images: Parts
    space: Space
    stage: Stage
    known: Labelled
    held_out: Labelled
    test: Labelled
    tuned: dict[TuningConfig, tuple[Stage, torch.Tensor, dict[str, torch.Tensor]]] = field(default_factory=dict)

    @classmethod
    def of(cls, encoder: Encoder, images: Parts, shrinkage: float) -> Prepared:
        """Compute what runs share, given the base network, the images of its study and the whitening's shrinkage."""
        data = images.mapped(encoder.embed)
        whitening = Whitening.fit(*data.known, shrinkage)
        space = Space.of(data.mapped(whitening))
        is_old = torch.isin(images.test[1], torch.tensor(images.old))
        pictures = {"known": images.known[0], "held_out": images.held_out[0], "test": images.test[0][is_old]}
        maps = {part: (stage_inputs(encoder, own), getattr(space, part)[1]) for part, own in pictures.items()}
        return cls(encoder, images, space, Stage.of(encoder, whitening), **maps)

    def tuned_for_old(self, tuning: TuningConfig, scale: float) -> tuple[Stage, torch.Tensor, dict[str, torch.Tensor]]:
        """Stage and weights tuned for the old classes alone, and embeddings of ``held_out`` and ``test``; made once."""
        if tuning not in self.tuned:
            stage, weights = tune_encoder(self.stage, self.space.old, self.known, None, tuning, scale=scale)
            self.tuned[tuning] = stage, weights, self.embedded_by(stage)
        return self.tuned[tuning]

    def embedded_by(self, stage: Stage) -> dict[str, torch.Tensor]:
        """Embeddings float32 (N, D) of ``held_out`` and of ``test``."""
        return {part: stage.embed(getattr(self, part)[0]) for part in ("held_out", "test")}


def add_class(
    method: str, label: int, shots: torch.Tensor, prepared: Prepared, tuning: TuningConfig, study: ImprintingConfig
) -> dict[str, float]:
    """Add one class and judge on the test images.

    Args:
        method: a name in ``METHODS``.
        label: the class.
        shots: int64 (K,), which of the study's ``shots`` are used.
        prepared: what runs share.
        tuning: see ``tune_encoder``.
        study: scale and budget.

    Returns:
        percentages by the names of ``METRICS``.

    Raises:
        UnknownNameError: no such method.
    """
    space, images = prepared.space, prepared.images
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if method == "whitened":
        return _by_metric(measure(method, {method: space}, [(label,)], [shots[None]], study))
    own = stage_inputs(prepared.encoder, images.shots[0][shots])
    if method == "old only":
        stage, old, embedded = prepared.tuned_for_old(tuning, study.scale)
        novel = imprinted(stage.embed(own))[None, None]
    else:
        stage, weights = tune_encoder(prepared.stage, space.old, prepared.known, own, tuning, scale=study.scale)
        old, novel = weights[:-1], weights[None, -1:]
        embedded = prepared.embedded_by(stage)
    new = stage.embed(stage_inputs(prepared.encoder, images.test[0][images.test[1] == label]))
    rows = torch.zeros(len(new), dtype=torch.int64)
    held, found = (
        leads(old, novel, (embedded[part], getattr(prepared, part)[1]), (new, rows), study.scale)
        for part in ("held_out", "test")
    )
    return _by_metric(judged(held, found, space.base, study.budget))


def _by_metric(found: Measured) -> dict[str, float]:
    by_bias = {"": "none", "_budget": "budget"}
    values = {
        f"{side}_acc{end}": float(getattr(found, side)[bias])
        for end, bias in by_bias.items()
        for side in ("old", "novel")
    }
    return {**values, "novel_acc_for_one_point": float(found.for_one_point)}
