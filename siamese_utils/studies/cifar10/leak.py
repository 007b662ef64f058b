"""What it is worth to a network of two towers to be shown, beside each test image, another one of the same true class.

The slides judge their large Siamese network so, and it comes out three points above the plain one. Whoever chooses the
second image must know the class of the first, which is what the network is asked. Here a VGG-19 with batch
normalisation, an eighth as wide as the original, and its two-tower twin learn from scratch, and both are asked three
ways: the same image on both sides, as an honest test must; any other test image beside it; and, as in the slides,
another one of its class. The plain network has no second side, so it is asked about both images, and its answers are
averaged: what is gained then no architecture has earned.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import torch
import typer
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.cifar import load_cifar10
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.encoders.encoder import count_parameters
from siamese_utils.encoders.pretrained import PRETRAINED
from siamese_utils.evaluation.estimates import Estimate, exact, mean_estimate, share_estimate
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, training_record
from siamese_utils.studies.cifar10.data import drawn_pairs, pixels
from siamese_utils.studies.cifar10.fit import FitConfig, fit, outputs
from siamese_utils.studies.class_means import means_of_classes
from siamese_utils.system.devices import pick_device
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

BODY = "vgg19bn-8"
SEEDS = (0, 1, 2)
CONFIG = FitConfig(judged=(2_500,))
TOWERS = {"plain": 1, "two-towers": 2}
PAIRS = {"plain": (), "two-towers": ("itself", "another")}  # what a sample of the training shows, as in the slides
BESIDE = {"same_image": "itself", "any_image": "any", "same_class": "another"}  # a test image
DRAWS = 20  # of the images beside

WEIGHTS = "imagenet-vgg19bn"
FINE_TUNED = TrainConfig(
    recipe="cifar10-vgg19-imagenet",
    terms=(Term("proxy"),),
    encoder=PRETRAINED[WEIGHTS].backbone,
    pretrained=WEIGHTS,
    epochs=10,
    batch_size=250,
    learning_rate=3e-4,
    held_out_images=0,
)


class Towers(nn.Module):
    """One VGG-19 or more, each with an image of its own, and a dense layer over their features side by side.

    Args:
        count: of towers, which share no weights.
        classes: number of outputs.
        body: a name in ``ENCODERS``.
    """

    def __init__(self, count: int, classes: int, body: str = BODY) -> None:
        super().__init__()
        made = [ENCODERS[body]() for _ in range(count)]
        self.towers = nn.ModuleList(tower for tower, _ in made)
        self.out = nn.Linear(sum(features for _, features in made), classes)

    def forward(self, *images: torch.Tensor) -> torch.Tensor:
        """Logits float (B, classes) of images float (B, 3, H, W), one batch a tower."""
        return self.out(torch.cat([tower(x) for tower, x in zip(self.towers, images, strict=True)], dim=1))


def asked(network: Towers, features: list[torch.Tensor], first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Probabilities of the classes of the first images, with the second beside them: float (N, classes).

    Args:
        network: trained.
        features: float (M, D) of all images, by tower.
        first, second: int64 (N,), positions of images.
    """
    if len(features) == 1:
        probabilities = network.out(features[0]).softmax(dim=1)
        return (probabilities[first] + probabilities[second]) / 2
    return network.out(torch.cat([features[0][first], features[1][second]], dim=1)).softmax(dim=1)


@torch.no_grad()
def answers(network: Towers, features: list[torch.Tensor], labels: torch.Tensor) -> dict[str, Estimate]:
    """Accuracy by what stands beside a test image; the intervals are over test images.

    Args:
        network: trained.
        features: float (M, D) of all test images, by tower.
        labels: int64 (M,).
    """
    found = {}
    for name, kind in BESIDE.items():
        shares = torch.zeros(len(labels))
        draws = 1 if kind == "itself" else DRAWS
        for draw in range(draws):
            first, second = drawn_pairs(labels, (kind,), draw)
            shares += (asked(network, features, first, second).argmax(dim=1) == labels).float() / draws
        found[f"accuracy_{name}"] = mean_estimate(shares)
    return found


# -------------------------------------------------------------------------------------------------------- runs


def _runs(
    pretrained: Annotated[
        bool, typer.Option(help="VGG-19 from ImageNet's weights too: a download of 548 MB, and hours without a GPU.")
    ] = False,
) -> list[Run]:
    runs = []
    for seed in SEEDS:
        for name, towers in TOWERS.items():
            settings: dict[str, Any] = {"config": CONFIG, "body": BODY}
            shown = CONFIG.judged[-1] * CONFIG.batch * towers
            runs.append(Run({"system": name, "seed": seed}, settings, _EXPECTED[name], shown))
        if pretrained:
            config = dataclasses.replace(FINE_TUNED, seed=seed)
            runs.append(Run({"system": "imagenet", "seed": seed}, {"config": config}, "", config.epochs * 50_000))
    return runs


_EXPECTED = {
    "plain": "Two images of one true class are named right far more often than one, by the plain network too.",
    "two-towers": "No better than the plain network where it is asked honestly; several points more with the leak.",
}


def _carry_out(run: Run, bench: Bench) -> Outcome:
    if run.key["system"] == "imagenet":
        return _fine_tuned(run, bench)
    train, test = bench.load(load_cifar10, "train"), bench.load(load_cifar10, "test")
    name, seed, where = str(run.key["system"]), int(run.key["seed"]), pick_device(bench.device)
    first, second = drawn_pairs(train.labels, PAIRS[name], seed)

    def shown(images: ImageSet, rows: torch.Tensor) -> torch.Tensor:
        return pixels(images.images[rows]).to(where)

    def loss(network: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        sides = [shown(train, side[rows]) for side in (first, second)[: TOWERS[name]]]
        return F.cross_entropy(network(*sides).float(), train.labels[first[rows]].to(where))

    def make() -> Towers:
        return Towers(TOWERS[name], train.num_classes, run.settings["body"])

    given: dict[str, Any] = {"device": bench.device, "folder": bench.folder, "progress": bench.progress}
    fitted = fit(make, loss, len(first), run.config, seed, name=name, images=TOWERS[name], **given)
    network, weights = make().to(where), fitted.weights[run.config.judged[-1]]
    features = [
        outputs(network, weights, lambda net, rows, side=side: net.towers[side](shown(test, rows)), len(test)).cpu()
        for side in range(TOWERS[name])
    ]
    metrics = answers(network.cpu(), features, test.labels)
    record = {"parameters": count_parameters(network), "seconds": fitted.seconds}
    return Outcome({**metrics, "seconds": exact(fitted.seconds)}, record=record)


def _fine_tuned(run: Run, bench: Bench) -> Outcome:
    """VGG-19 from published weights, by the project's own training: an image is of the class with the nearest mean."""
    train, test = bench.load(load_cifar10, "train"), bench.load(load_cifar10, "test")
    trained = bench.train(run.config, train, range(train.num_classes))
    classifier = means_of_classes(trained.encoder, train, trained.classes, trained.held_out)
    hits = classifier.predict(trained.encoder.embed(test.images)) == test.labels
    metrics = {"accuracy_same_image": share_estimate(hits), "seconds": exact(trained.seconds)}
    return Outcome(
        metrics, record={**training_record(trained), "weights": PRETRAINED[run.config.pretrained].trained_on}
    )


CIFAR10_LEAK = Study(
    "cifar10_leak",
    "How many points is it worth to be shown a second test image of the same true class?",
    _runs,
    _carry_out,
    key=("system", "seed"),
    metrics={
        "accuracy_same_image": "CIFAR-10 test images, each alone or on both sides: share named right",
        "accuracy_any_image": "beside any other test image: share of the first images named right",
        "accuracy_same_class": "beside another test image of the same true class, which only the answer can choose",
        "seconds": "of training",
    },
)
