"""The smallest training: a network of three convolutions on images of 16 pixels, which files change as they need."""

from __future__ import annotations

from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

TINY = TrainConfig(
    recipe="tiny",
    terms=(Term("proxy"),),
    encoder="conv3",
    embedding_dim=8,
    epochs=1,
    batch_size=64,
    held_out_images=3,
    resolutions=((0.0, 16),),
)
MIXED = TrainConfig(
    recipe="tiny",
    terms=(Term("proxy"), Term("triplet", weight=0.5, mining="random")),
    encoder="conv3",
    embedding_dim=8,
    epochs=3,
    batch_size=8,
    images_per_class=2,
    held_out_images=2,
)
"""By two objectives, of which one draws at random, on whole images."""
