"""What decides a training run: one frozen configuration, saved with every result."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from siamese_utils.encoders.pretrained import PRETRAINED
from siamese_utils.errors import ConfigError, unknown
from siamese_utils.system.config import check_fields
from siamese_utils.system.devices import PRECISIONS
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.losses import Term
from siamese_utils.training.optimizers import OPTIMIZERS


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run, apart from data and classes.

    Attributes:
        recipe: name under which results are filed.
        terms: the objectives, added up.
        encoder: a name in ``ENCODERS``.
        embedding_dim: size of a linear projection, or ``None`` for the encoder's own features.
        pretrained: weights to start from, a name in ``pretrained.PRETRAINED``; empty for random ones. What starts from
            them is no one-shot result where their source shows the unseen classes.
        head_width: hidden width of a two-layer network between the embedding and the objectives, thrown away after
            the training (Chen et al., 2020, section 4.2); 0 for none.
        epochs: passes over the training images.
        least_images: as many more epochs as it takes to show the network at least so many images; with few
            classes an epoch is short, and the same number of epochs would leave the network half trained.
        most_images: end the training after so many images, in the middle of an epoch if need be; 0 sets no limit.
        batch_size: images a step, P classes x K images.
        images_per_class: K; raised where a split has too few classes to fill a batch.
        optimizer: ``"adamw"``, ``"sgd"`` or ``"muon"`` (see ``optimizers.make_optimizer``).
        learning_rate: peak rate of AdamW or SGD.
        muon_rate: peak rate of Muon for the kernels.
        weight_decay: decay of matrices and kernels (not of biases and normalisation).
        warmup: share of the training in which the rate rises linearly; afterwards it falls along a cosine.
        clip_norm: largest norm of the gradient.
        average_decay: decay a step of the running average of the weights that is kept as the result; 0 keeps
            the last weights.
        resolutions: ``(begin, side)`` pairs: from that share of the training on, images are scaled to that
            side. Small images first cost little and teach the coarse features.
        augment: how images are varied.
        turned_classes: learn every class in four turns (0, 90, 180 and 270 degrees), each as a class of its own: four
            times as many classes to tell apart, and features that must keep the way up (Liu et al., *Task
            augmentation by rotating for meta-learning*, 2020). An epoch then shows each image four times.
        held_out_images: training images a class kept out of training, for choosing thresholds.
        validation_classes: training classes kept out of training, for choosing recipes; 0 for a final run.
        patience: stop when the validation accuracy has not risen for so many epochs; 0 never stops early.
        min_delta: what counts as a rise, in percentage points.
        precision: ``"auto"`` multiplies in bfloat16 where the device has it in hardware (autocast and Muon; weights,
            sums and objectives stay float32); ``"float32"`` or ``"bfloat16"`` fixes it, see ``autocast_dtype``.
        compile: translate the encoder with ``torch.compile``, which takes a minute before it saves any.
        seed: seeds everything: initial weights, batches, augmentation, what is held out.
    """

    recipe: str
    terms: tuple[Term, ...]
    encoder: str = "resnet9-32"
    embedding_dim: int | None = None
    pretrained: str = ""
    head_width: int = 0
    epochs: int = 10
    least_images: int = 0
    most_images: int = 0
    batch_size: int = 256
    images_per_class: int = 4
    optimizer: str = "adamw"
    learning_rate: float = 2e-3
    muon_rate: float = 0.02
    weight_decay: float = 0.05
    warmup: float = 0.2
    clip_norm: float = 1.0
    average_decay: float = 0.0
    resolutions: tuple[tuple[float, int], ...] = ()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    turned_classes: bool = False
    held_out_images: int = 20
    validation_classes: int = 0
    patience: int = 0
    min_delta: float = 0.1
    precision: str = "auto"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.seed < 0:
            raise ConfigError(f"A seed is a whole number, 0 or more, not {self.seed}.")
        if self.epochs < 1 or self.batch_size < 4 or self.images_per_class < 2:
            raise ConfigError("Training needs at least 1 epoch, batches of 4 images and 2 images a class in a batch.")
        if self.learning_rate <= 0 or not 0 <= self.warmup < 1 or self.clip_norm <= 0:
            raise ConfigError("Training needs a positive learning rate and clip norm, and a warm-up share in [0, 1).")
        if min(self.weight_decay, self.held_out_images, self.least_images, self.most_images) < 0:
            raise ConfigError("Weight decay and the numbers of images cannot be negative.")
        if 0 < self.most_images < max(self.batch_size, self.least_images):
            raise ConfigError("most_images must allow one batch and least_images, or be 0 for no limit.")
        if self.optimizer not in OPTIMIZERS:
            raise unknown("optimizer", self.optimizer, OPTIMIZERS)
        if self.muon_rate <= 0 or not 0 <= self.average_decay < 1:
            raise ConfigError("Training needs a positive rate for Muon and an average's decay in [0, 1).")
        if self.patience < 0 or self.min_delta < 0:
            raise ConfigError("Patience (epochs) and min_delta (percentage points) cannot be negative.")
        if self.validation_classes < 0 or self.validation_classes == 1:
            raise ConfigError("Validation needs two classes or more to tell apart, or 0 for none.")
        if self.embedding_dim is not None and self.embedding_dim < 1:
            raise ConfigError("An embedding needs at least one dimension.")
        if self.pretrained and self.pretrained not in PRETRAINED:
            raise unknown("pretrained source", self.pretrained, PRETRAINED)
        if self.precision not in PRECISIONS:
            raise unknown("precision", self.precision, PRECISIONS)
        if self.head_width < 0:
            raise ConfigError("The width of the head cannot be negative; 0 leaves the head out.")
        begins = [begin for begin, _ in self.resolutions]
        if begins != sorted(set(begins)) or any(not 0 <= b < 1 or side < 8 for b, side in self.resolutions):
            raise ConfigError(
                "Resolutions are (begin, side) pairs with rising shares of the training in [0, 1) and sides of 8 "
                f"pixels or more, not {self.resolutions}."
            )

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold; ``from_json`` reads it back.

        ``pretrained`` and ``precision`` are younger than many stored runs. They are left out where they say nothing, so
        that their configurations, and whatever is derived from these, stay the same.
        """
        data = json.loads(json.dumps(dataclasses.asdict(self)))
        for name, nothing in (("pretrained", ""), ("precision", "auto")):
            if data[name] == nothing:
                del data[name]
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> TrainConfig:
        """Rebuild a configuration.

        Raises:
            ConfigError: the data hold an unknown or missing field.
        """
        try:
            fields = dict(data)
            fields["terms"] = tuple(Term(**term) for term in fields["terms"])
            fields["augment"] = AugmentConfig(**fields["augment"])
            fields["resolutions"] = tuple((float(begin), int(side)) for begin, side in fields["resolutions"])
            return cls(**fields)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"This is not a training configuration of siamese_utils ({error}).") from error
