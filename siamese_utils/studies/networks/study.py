"""Encoders compared: for an equal time, from equally many images, and by the size and distance of the embedding.

All share one recipe, with fewer and smaller images than the whole trainings of the report, and differ in what is
compared alone. Every network runs with the first seed before any runs with the second.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from siamese_utils.studies.validation import Trial, validation_study
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term
from siamese_utils.training.recipes import DEFAULT_RECIPE, recipe

SEEDS = (0, 1, 2)
# The frozen recipe, chosen on resnet9-32 and so a home game for it, but with fewer images: with its thirteen passes
# some of these encoders would take hours. More of the training happens at small sides, for the same reason.
_COMPARED = dataclasses.replace(
    recipe(DEFAULT_RECIPE), recipe="", epochs=1, resolutions=((0.0, 16), (0.6, 24), (0.9, 32))
)
EQUAL_IMAGES = 30_720  # one pass over the training images
EQUAL_MINUTES = 2.0  # of one core
# What ``speed.images_learned`` gives for so many minutes and the stored speeds. Written down here, so that a run
# stays what it was when speeds are measured again; a test compares the two.
IMAGES_IN_TIME: dict[str, int] = {
    "conv3": 439_040,
    "resnet9-16": 291_584,
    "resnet9-32": 94_976,
    "resnet9-48": 41_472,
    "resnet9-64": 23_296,
    "resnet20": 127_488,
    "resnet32": 81_664,
    "resnet44": 60_416,
    "resnet56": 46_336,
    "resnet12": 11_776,
    "resnet18": 12_288,
    "vgg19bn": 12_288,
    "efficientnet-lite0": 2_304,
}


def showing(images: int, **changes: Any) -> TrainConfig:
    """The compared configuration, shown so many images."""
    return dataclasses.replace(_COMPARED, least_images=images, most_images=images, **changes)


# On the narrow ResNet-9, whose features are 128, in two passes.
NARROW = showing(2 * EQUAL_IMAGES, encoder="resnet9-16")


def narrow(*terms: Term) -> TrainConfig:
    """The narrow ResNet-9, trained by other objectives."""
    return dataclasses.replace(NARROW, terms=terms)


def compared(name: str, config: TrainConfig, expectation: str, plain_distances: bool = False) -> Trial:
    """A trial with all seeds, judged when it has ended."""
    return Trial(name, config, expectation, SEEDS, judged_by_epoch=False, plain_distances=plain_distances)


# Cheapest first.
_EQUAL_IMAGES: dict[str, str] = {
    "conv3": "Last by far: three convolutions see little of an image's structure.",
    "resnet9-16": "Ten points above the three convolutions, behind the wider ones.",
    "resnet20": "Level with the narrow ResNet-9: fewer weights, but twice its multiplications.",
    "resnet9-32": "A few points above its narrow brother; the recipe was tuned on it.",
    "resnet32": "A point above ResNet-20: depth pays late, and this is a short training.",
    "resnet44": "No better than ResNet-32, for the same reason.",
    "resnet56": "No better than ResNet-32; the deepest of the thin networks starts slowest.",
    "resnet9-48": "A point or two above the width of 32.",
    "resnet9-64": "Another point; the best of all, together with ResNet-12.",
    "vgg19bn": "Far behind the residual networks: sixteen convolutions without shortcuts start slowly.",
    "resnet12": "Among the best: few-shot papers take it because it is wide.",
    "resnet18": "Near ResNet-12, slightly below, having only 512 features.",
}
_EQUAL_TIME: dict[str, str] = {
    "conv3": "Ahead of what gets a few dozen steps, behind all small residual networks.",
    "resnet9-16": "One of the two best: it sees three times the images of the width of 32 and more.",
    "resnet20": "Between conv3 and the narrow ResNet-9, being slow for its size at full resolution.",
    "resnet9-32": "Level with the width of 16: better for each image, with a third of them.",
    "resnet32": "Below ResNet-20, having two thirds of its images.",
    "resnet44": "Below ResNet-32.",
    "resnet56": "Below ResNet-44, several points behind ResNet-9 of either small width.",
    "resnet9-48": "A few points below the width of 32, which sees twice the images.",
    "resnet9-64": "Several points below the width of 48.",
    "vgg19bn": "Hardly above colour: some fifty steps.",
    "resnet12": "Near ResNet-18, a dozen points below the best: some fifty steps.",
    "resnet18": "A dozen points below the best: some fifty steps.",
}
# Their weights exist already and are to be kept, so they get a fifth of the recipe's rates.
_GENTLE = {"muon_rate": 0.01, "learning_rate": 4e-4}
_STARTED: dict[str, tuple[str, str, str]] = {
    "resnet20-from-cifar10": (
        "resnet20",
        "cifar10-resnet20",
        "Ten points above ResNet-20 from scratch: it knows ten classes of such pictures.",
    ),
    "resnet56-from-cifar10": (
        "resnet56",
        "cifar10-resnet56",
        "Above ResNet-20 from CIFAR-10, since depth pays once it is trained.",
    ),
    "efficientnet-lite0-from-imagenet": (
        "efficientnet-lite0",
        "imagenet-efficientnet-lite0",
        "The best of all, because ImageNet has shown it these classes.",
    ),
}

ENCODERS_EQUAL_IMAGES = validation_study(
    "encoders_equal_images",
    "Which network learns most from the same images?",
    [compared(name, showing(EQUAL_IMAGES, encoder=name), text) for name, text in _EQUAL_IMAGES.items()],
)
ENCODERS_EQUAL_TIME = validation_study(
    "encoders_equal_time",
    "Which network learns most in the same time?",
    [
        *(compared(name, showing(IMAGES_IN_TIME[name], encoder=name), text) for name, text in _EQUAL_TIME.items()),
        *(
            compared(name, showing(IMAGES_IN_TIME[encoder], encoder=encoder, pretrained=source, **_GENTLE), text)
            for name, (encoder, source, text) in _STARTED.items()
        ),
    ],
)
EMBEDDING_SIZE = validation_study(
    "embedding_size",
    "How large must an embedding be?",
    [
        compared("features", NARROW, "The 128 features as they are; a projection adds nothing to them."),
        compared(
            "16",
            dataclasses.replace(NARROW, embedding_dim=16),
            "Two or three points less: 64 classes crowd in 16 dimensions.",
        ),
        compared("32", dataclasses.replace(NARROW, embedding_dim=32), "A point less."),
        compared("64", dataclasses.replace(NARROW, embedding_dim=64), "Level with the features themselves."),
        compared("128", dataclasses.replace(NARROW, embedding_dim=128), "Level with the features themselves."),
        compared(
            "256",
            dataclasses.replace(NARROW, embedding_dim=256),
            "Level again: more dimensions than features hold nothing more.",
        ),
    ],
)

# The triplet term alone, in which the distance stands; a proxy is a direction and would decide for the cosine.
ALL_TRIPLETS = Term("triplet", mining="batch_all", temperature=0.1)
DISTANCES = validation_study(
    "distances",
    "Should the cosine or the Euclidean distance compare two embeddings?",
    [
        compared(
            "cosine",
            narrow(ALL_TRIPLETS),
            "The better of the two; judged by Euclidean distance it loses a few points, as lengths were free.",
            plain_distances=True,
        ),
        compared(
            "euclidean",
            narrow(dataclasses.replace(ALL_TRIPLETS, distance="euclidean", temperature=1.0)),
            "A few points less by either distance: it can grow instead of turn.",
            plain_distances=True,
        ),
        compared(
            "cosine-margin",
            narrow(Term("triplet", mining="semi_hard", margin=0.2)),
            "A point less than the soft margin, which uses all triplets.",
            plain_distances=True,
        ),
        compared(
            "euclidean-margin",
            narrow(Term("triplet", distance="euclidean", mining="semi_hard", margin=1.0)),
            "Near the cosine with a margin: the margin sets a scale that the soft one has to find.",
            plain_distances=True,
        ),
        compared("recipe", NARROW, "Above all four: proxies show every class at every step.", plain_distances=True),
    ],
)
