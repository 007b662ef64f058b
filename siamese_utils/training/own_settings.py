"""How a recipe is fitted to somebody's own images: sizes, batches, length of the training, how long it will take."""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated

import torch
from pydantic import Field
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_score
from torch.nn import functional as F

from siamese_utils.data.sampling import named_rng
from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.encoders.pretrained import PRETRAINED
from siamese_utils.errors import ConfigError, SamplingError
from siamese_utils.system.config import Config, Count, Natural, Positive, one_of
from siamese_utils.training.augment import TURNS, turn
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.recipes import DEFAULT_RECIPE, FEW_CLASSES, RECIPES, recipe
from siamese_utils.training.task import make_batches

RECIPE_SIDE = 32  # pixels of the images that the recipes were chosen on
MOST_PASSES = 200  # over a user's images: of a few hundred nothing new is learned by more
EPOCHS = 20  # after which the encoder is judged and the state kept, at most about so many
PATIENCE = 6  # of these epochs without a better one
# Weights that exist already are to be kept, so they get a fifth of the recipe's rates.
_GENTLE = {"muon_rate": 0.01, "learning_rate": 4e-4}
_STANDARD_ERRORS = 3  # by which more than a quarter of the turns must be named right for a turn to be seen


class OwnSettings(Config):
    """What a user decides of a training on his own images.

    Attributes:
        size: side in pixels to which images are brought.
        encoder: a name in ``ENCODERS``; empty for that of the recipe or of ``pretrained``.
        pretrained: weights to start from, a name in ``PRETRAINED``; empty for random ones.
        recipe: a name in ``RECIPES``.
        epochs: passes over the images that are learned; ``None`` for as many as the recipe shows.
        minutes: that the training may take on this machine; ``None`` for no limit.
        mirror: whether an image and its mirror image mean the same, as for photographs and not for writing.
        seed: of classes set aside, weights, batches and augmentation.
    """

    size: Annotated[int, Field(ge=16, le=1024)] = 64
    encoder: Annotated[str, one_of("encoder", ENCODERS, or_empty=True)] = ""
    pretrained: Annotated[str, one_of("pretrained source", PRETRAINED, or_empty=True)] = ""
    recipe: Annotated[str, one_of("recipe", RECIPES)] = DEFAULT_RECIPE
    epochs: Count | None = None
    minutes: Positive | None = None
    mirror: bool = True
    seed: Natural = 0

    def __post_init__(self) -> None:
        if self.epochs and self.minutes:
            raise ConfigError("Epochs and minutes both say how long to train; choose one.")

    @property
    def precision(self) -> str:
        """That of the recipe; see ``TrainConfig``."""
        return RECIPES[self.recipe].precision


def fitted(settings: OwnSettings, images: torch.Tensor, labels: torch.Tensor) -> TrainConfig:
    """The recipe for these images, uint8 (N, S, S, 3), of these classes, int64 (N,), numbered from 0.

    Sides of the images and shifts grow with ``size``. Few classes are learned in four turns, as the recipe says, if a
    turn can be seen. Batches are as large as the images fill. Without ``epochs``, images are shown as often as the
    recipe says, but a few images no more than ``MOST_PASSES`` times.

    Raises:
        SamplingError: the images do not fill the smallest batch.
    """
    sizes = torch.bincount(labels)
    classes = len(sizes)
    few = FEW_CLASSES.get(settings.recipe)
    turned = few is not None and classes <= few.most and turns_are_seen(images)
    config = scaled(recipe(settings.recipe, classes if turned else None), settings)
    config = dataclasses.replace(
        config, images_per_class=max(2, min(config.images_per_class, int(sizes.min()))), epochs=1, least_images=0
    )
    shown = TURNS if config.turned_classes else 1
    config = _with_batches(config, (labels + classes * torch.arange(shown)[:, None]).flatten())
    usual = recipe(settings.recipe, classes if turned else None)
    total = max(usual.epochs * shown * len(labels), min(usual.least_images, MOST_PASSES * len(labels)))
    return lasting(config, settings.epochs * len(labels) if settings.epochs else total)


def scaled(config: TrainConfig, settings: OwnSettings) -> TrainConfig:
    """A recipe for images of another size, with the encoder and the start that were chosen; it holds no images out."""
    by = settings.size / RECIPE_SIDE
    source = PRETRAINED.get(settings.pretrained)
    return dataclasses.replace(
        config,
        encoder=settings.encoder or (source.backbone if source else config.encoder),
        pretrained=settings.pretrained,
        resolutions=tuple((begin, max(8, 4 * round(by * side / 4))) for begin, side in config.resolutions),
        augment=dataclasses.replace(
            config.augment, translate=round(by * config.augment.translate), flip=settings.mirror
        ),
        held_out_images=0,
        seed=settings.seed,
        **(_GENTLE if settings.pretrained else {}),
    )


def lasting(config: TrainConfig, images: int) -> TrainConfig:
    """The same training over so many images shown, at least a batch, in epochs that are worth judging after."""
    images = max(images, config.batch_size)
    return dataclasses.replace(
        config,
        epochs=1,
        least_images=images,
        most_images=images,
        epoch_images=math.ceil(images / EPOCHS),
        patience=PATIENCE,
    )


def _with_batches(config: TrainConfig, labels: torch.Tensor) -> TrainConfig:
    """The recipe with the largest batch of its own size, a half of it, a quarter and so on that the images fill."""
    size = config.batch_size
    while True:
        smaller = dataclasses.replace(config, batch_size=max(4, size))
        try:
            make_batches(labels, smaller)
        except SamplingError:
            if size <= 4:
                raise
            size //= 2
        else:
            return smaller


def turns_are_seen(images: torch.Tensor, most: int = 500) -> bool:
    """Whether images have a way up: whether a linear classifier tells by which quarter turn others were turned.

    Seen from above, as cells or fields are, an image and its turn are of one kind, and learning to tell them apart
    would teach nothing but noise.

    Args:
        images: uint8 (N, S, S, 3).
        most: of the images are looked at, at 8 x 8 pixels.
    """
    chosen = torch.from_numpy(named_rng(0, "turns").permutation(len(images))[:most])
    if len(chosen) < 8:
        return False
    small = F.adaptive_avg_pool2d(images[chosen].permute(0, 3, 1, 2).float(), 8).permute(0, 2, 3, 1)
    turned = torch.cat([turn(small, torch.full((len(small),), by)) for by in range(TURNS)])
    groups = torch.arange(len(small)).repeat(TURNS)  # all turns of an image are learned from, or none
    x = F.normalize((turned - turned.mean(dim=(1, 2), keepdim=True)).flatten(1), dim=1).numpy()
    y = torch.arange(TURNS).repeat_interleave(len(small)).numpy()
    scores = cross_val_score(LogisticRegression(max_iter=200), x, y, groups=groups.numpy(), cv=GroupKFold(4))
    chance = 1 / TURNS
    return float(scores.mean()) > chance + _STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / len(chosen))
