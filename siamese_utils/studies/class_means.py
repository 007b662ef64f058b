"""Encoders that are judged as classifiers: an image is of the class whose mean it is nearest to."""

from __future__ import annotations

import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.imprinting import CosineClassifier
from siamese_utils.evaluation.estimates import Estimate, exact, share_estimate
from siamese_utils.training.loop import TrainResult
from siamese_utils.training.task import first_of_each_class

EXAMPLES = 500  # training images of each class that its mean is taken of


def means_of_classes(
    encoder: Encoder, train_set: ImageSet, classes: tuple[int, ...], held_out: torch.Tensor
) -> CosineClassifier:
    """The means of some classes, from training images that were learned.

    Args:
        encoder: trained.
        train_set: what it learned from.
        classes: that it learned.
        held_out: int64, positions of the images that it did not learn.
    """
    learned = torch.zeros(len(train_set), dtype=torch.bool)
    learned[train_set.indices_of(classes)] = True
    learned[held_out] = False
    rows = learned.nonzero().flatten()
    rows = rows[first_of_each_class(train_set.labels[rows], EXAMPLES)]
    return CosineClassifier.from_means(encoder.embed(train_set.images[rows]), train_set.labels[rows])


def held_out_metrics(trained: TrainResult, train_set: ImageSet) -> dict[str, Estimate]:
    """Of the training images that were held out, the share (percent) that is named right; and what it took to learn."""
    held_out, encoder = trained.held_out, trained.encoder
    nearest = means_of_classes(encoder, train_set, trained.classes, held_out).predict(
        encoder.embed(train_set.images[held_out])
    )
    return {
        "acc_held_out": share_estimate(nearest == train_set.labels[held_out]),
        "core_minutes": exact(trained.core_minutes),
    }
