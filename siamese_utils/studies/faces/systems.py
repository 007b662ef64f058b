"""The three systems that are compared, what each is trained with, and how.

They are the assignment's network, which learns pairs; a smaller one, which learns people; and one with ImageNet
weights, which learns no face.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

from pydantic import Field

from siamese_utils.data.faces import FaceSet, grey, squares, training_images
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.pretrained import PRETRAINED, load_pretrained
from siamese_utils.experiments.study import Bench
from siamese_utils.studies.faces.koch import KochConfig, KochResult, train_koch
from siamese_utils.system.config import Config, Count, Counts
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import TrainResult
from siamese_utils.training.losses import Term

SYSTEMS = {
    "koch": "the assignment's network, on the training pairs",
    "embedding": "a small ResNet that learned the training people",
    "pretrained": "ImageNet weights, no face learned (outside data)",
}
NAMES = {"embedding": "learned people", "koch": "the assignment's network", "pretrained": "ImageNet (outside data)"}
EMBEDDING_IMAGES = 150_000  # shown in a final training: some 12 minutes on two cores


class FaceConfig(Config):
    """How the embedding network is trained and how it looks at a photograph.

    Attributes:
        train: the training.
        crop: side in pixels of the square that is cut out of a training photograph.
        size: side it is scaled to.
        least: photographs that every person has in training.
        repeat: repeat the photographs of people with fewer; off leaves these people out.
        judged_crops: squares of a photograph whose embeddings are averaged when pairs are judged.
    """

    train: TrainConfig
    crop: Count = 128
    size: Count = 64
    least: Annotated[int, Field(ge=2)] = 2
    repeat: bool = True
    judged_crops: Counts = (128,)


KOCH = KochConfig()
EMBEDDING = FaceConfig(
    TrainConfig(
        recipe="faces",
        terms=(Term("supcon"),),
        encoder="resnet9-16",
        embedding_dim=128,
        epochs=1,
        least_images=EMBEDDING_IMAGES,
        most_images=EMBEDDING_IMAGES,
        batch_size=128,
        images_per_class=2,
        optimizer="muon",
        muon_rate=0.05,
        resolutions=((0.0, 48), (0.5, 64)),
        augment=AugmentConfig(
            translate=4, rotate=8, zoom=0.12, brightness=0.25, contrast=0.25, saturation=0.25, cutout=20
        ),
        held_out_images=0,
    ),
    repeat=False,
    judged_crops=(128, 112),
)
WEIGHTS, WEIGHTS_SIZE = "imagenet-efficientnet-lite0", 128


def train_embedding(config: FaceConfig, faces: FaceSet, bench: Bench) -> TrainResult:
    """Train an encoder on people as classes, by the project's own engine; errors as ``train``."""
    images = training_images(faces, config.crop, config.size, config.least, config.repeat)
    return bench.train(config.train, images, range(images.num_classes))


def train_pairs(config: KochConfig, training: FaceSet, validation: FaceSet, bench: Bench) -> KochResult:
    """Train the assignment's network on the training pairs; errors as ``train_koch``."""
    images = [grey(part.images, config.side, config.framing) for part in (training, validation)]
    return train_koch(
        config,
        images[0],
        training.pairs,
        images[1],
        validation.pairs,
        run_dir=bench.folder,
        device=bench.device,
        progress=bench.progress,
    )


def pretrained_encoder(training: FaceSet) -> Encoder:
    """An encoder with ImageNet weights, centred on the training people; it has learned no face.

    Raises:
        MissingPackageError: the package that ships the weights is not installed.
    """
    encoder = Encoder(PRETRAINED[WEIGHTS].backbone, image_size=WEIGHTS_SIZE)
    load_pretrained(encoder, WEIGHTS)
    encoder.eval()
    encoder.set_centre(squares(training.images, EMBEDDING.crop, WEIGHTS_SIZE))
    return encoder


def with_seed(config: FaceConfig, seed: int) -> FaceConfig:
    """The same with another seed of weights, order and augmentation."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
