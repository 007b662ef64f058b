"""What decides a training run: one frozen configuration, saved with every result."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated

from pydantic import AfterValidator, Field

from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.encoders.pretrained import PRETRAINED
from siamese_utils.errors import ConfigError
from siamese_utils.system.config import (
    Config,
    Count,
    Natural,
    NotNegative,
    Positive,
    Share,
    ShareBelowOne,
    one_of,
    younger,
)
from siamese_utils.system.devices import PRECISIONS
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.losses import Term
from siamese_utils.training.mixing import MIXINGS
from siamese_utils.training.optimizers import OPTIMIZERS


def _rising_shares(resolutions: tuple[tuple[float, int], ...]) -> tuple[tuple[float, int], ...]:
    begins = [begin for begin, _ in resolutions]
    if begins != sorted(set(begins)):
        raise ConfigError(f"TrainConfig: resolutions must begin at rising shares of the training, not {begins}.")
    return resolutions


def _none_or_two(count: int) -> int:
    if count == 1:
        raise ConfigError("TrainConfig: validation_classes must be two or more to tell apart, or 0 for none.")
    return count


class TrainConfig(Config):
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
        epoch_images: where there are few images, several passes over them are joined to an epoch that shows at least so
            many; 0 makes each pass an epoch. The state is saved, and the encoder judged, after each epoch.
        batch_size: images a step, P classes x K images.
        images_per_class: K; raised where a split has too few classes to fill a batch.
        optimizer: ``"adamw"``, ``"sgd"`` or ``"muon"`` (see ``optimizers.make_optimizer``).
        learning_rate: peak rate of AdamW or SGD.
        muon_rate: peak rate of Muon for the kernels.
        muon_momentum: share of the average gradient that stays at each step of Muon.
        fixed_norms: whether Muon keeps the kernels' norms, so that its rate says by how much a step turns them (see
            ``optimizers.Muon``); their weight decay then makes steps larger, by a percent or so.
        weight_decay: decay of matrices and kernels (not of biases and normalisation).
        warmup: share of the training in which the rate rises linearly; afterwards it falls along a cosine.
        clip_norm: largest norm of the gradient.
        average_decay: decay a step of the running average of the weights that is kept as the result; 0 keeps
            the last weights.
        fresh_statistics: in the end, compute the batch statistics of the averaged weights anew from training images,
            in place of an average of those of the training (Izmailov et al., *Averaging weights leads to wider optima
            and better generalization*, 2018, section 3.2).
        resolutions: ``(begin, side)`` pairs: from that share of the training on, images are scaled to that
            side. Small images first cost little and teach the coarse features.
        augment: how images are varied.
        turned_classes: learn every class in four turns (0, 90, 180 and 270 degrees), each as a class of its own: four
            times as many classes to tell apart, and features that must keep the way up (Liu et al., *Task
            augmentation by rotating for meta-learning*, 2020). An epoch then shows each image four times.
        rotation_weight: weight of a rotation head's loss beside the terms, 0 for none. The head, a linear layer thrown
            away after the training, tells from the embedding by which quarter turn the image was turned (Gidaris et
            al., *Unsupervised representation learning by predicting image rotations*, 2018). The terms see turned
            images under their own class, so the features are to know the class whatever the turn, and the turn too
            (Rizve et al., *Exploring complementary strengths of invariant and equivariant representations for few-shot
            learning*, 2021).
        rotation_share: share of each batch that is turned for it, by 90, 180 or 270 degrees; the rest stays upright.
        mixing: mix the images of some batches in pairs, ``"cutmix"`` or ``"manifold"`` (see ``mixing``); their loss is
            that of the terms that know all classes, so one of these must be there. Empty for none.
        mixing_share: share of the steps that mix.
        teachers: names of checkpoints of the report whose likeness of images is learned beside the terms (see
            ``distillation``); they must have learned no other classes.
        teaching_weight: weight of that loss.
        teach_upright: whether a rotation head's turned images are left out of the lesson. Teachers have seen each image
            upright, and that one looks the same however it is turned is not what the head is told.
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
    encoder: Annotated[str, one_of("encoder", ENCODERS)] = "resnet9-32"
    embedding_dim: Count | None = None
    pretrained: Annotated[str, one_of("pretrained source", PRETRAINED, or_empty=True)] = younger("")
    head_width: Natural = 0
    epochs: Count = 10
    least_images: Natural = 0
    most_images: Natural = 0
    epoch_images: Natural = younger(0)
    batch_size: Annotated[int, Field(ge=4)] = 256
    images_per_class: Annotated[int, Field(ge=2)] = 4
    optimizer: Annotated[str, one_of("optimizer", OPTIMIZERS)] = "adamw"
    learning_rate: Positive = 2e-3
    muon_rate: Positive = 0.02
    muon_momentum: ShareBelowOne = younger(0.95)
    fixed_norms: bool = younger(False)
    weight_decay: NotNegative = 0.05
    warmup: ShareBelowOne = 0.2
    clip_norm: Positive = 1.0
    average_decay: ShareBelowOne = 0.0
    fresh_statistics: bool = younger(False)
    resolutions: Annotated[
        tuple[tuple[ShareBelowOne, Annotated[int, Field(ge=8)]], ...], AfterValidator(_rising_shares)
    ] = ()
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    turned_classes: bool = False
    rotation_weight: NotNegative = younger(0.0)
    rotation_share: Share = younger(0.5)
    mixing: Annotated[str, one_of("mixing", MIXINGS, or_empty=True)] = younger("")
    mixing_share: Share = younger(0.5)
    teachers: tuple[str, ...] = younger(())
    teaching_weight: Positive = younger(1.0)
    teach_upright: bool = younger(False)
    held_out_images: Natural = 20
    validation_classes: Annotated[Natural, AfterValidator(_none_or_two)] = 0
    patience: Natural = 0
    min_delta: NotNegative = 0.1
    precision: Annotated[str, one_of("precision", PRECISIONS)] = younger("auto")
    compile: bool = False
    seed: Natural = 0

    def __post_init__(self) -> None:
        if 0 < self.most_images < max(self.batch_size, self.least_images):
            raise ConfigError("TrainConfig: most_images must allow one batch and least_images, or be 0 for no limit.")
        if self.fresh_statistics and not self.average_decay:
            raise ConfigError("TrainConfig: fresh_statistics are those of averaged weights; set average_decay too.")
        if self.rotation_weight and self.turned_classes:
            raise ConfigError("TrainConfig: turned_classes are told apart by their turn; leave rotation_weight at 0.")
        if self.teachers and self.turned_classes:
            raise ConfigError("TrainConfig: teachers know no turned classes; leave turned_classes off.")
        turned = round(self.rotation_share * self.batch_size) if self.rotation_weight else 0
        if self.teach_upright and not (self.teachers and turned and self.batch_size - turned >= 3):
            raise ConfigError(
                "TrainConfig: teach_upright leaves turned images out of a lesson; it needs teachers, a rotation_weight "
                "and a rotation_share above 0, and a batch_size of which three images or more stay upright."
            )
        if self.mixing and not any(term.mixes and (term.begin, term.end) == (0, 1) for term in self.terms):
            raise ConfigError(
                "TrainConfig: mixed images are learned from by proxies alone; add a proxy term that lasts the whole "
                "training."
            )
        if self.mixing == "manifold" and self.compile:
            raise ConfigError("TrainConfig: mixing 'manifold' reaches into the encoder; leave compile off.")

    def stages(self, side: int) -> list[tuple[float, int]]:
        """Share of the training that is spent at each side of the images, which have ``side`` pixels at first."""
        begun = [(0.0, side), *self.resolutions]
        ends = [*(begin for begin, _ in self.resolutions), 1.0]
        return [(end - begin, each) for (begin, each), end in zip(begun, ends, strict=True) if end > begin]
