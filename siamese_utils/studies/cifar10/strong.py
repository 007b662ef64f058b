"""How far the project's own training gets on CIFAR-10 in twenty minutes of two cores, and with pairs of its images.

Nothing but embeddings is judged. The encoder learns by proxies, as elsewhere in the project, or by a linear layer that
is thrown away as well; an image is of the class whose mean it is nearest to, and two images are of one class where they
are similar enough. What makes it quick is taken from the quickest trainings known (K. Jordan, *94% on CIFAR-10 in 3.29
seconds on a single GPU*, 2024): a first convolution that is computed and not learned, Muon with steps that turn the
kernels, and several views of an image that is judged.

Settings and thresholds come from training images held out; the test images are read once, by finished encoders.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from siamese_utils.data.cifar import load_cifar10
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.imprinting import CosineClassifier
from siamese_utils.encoders.views import embed_shifted
from siamese_utils.errors import CheckpointError
from siamese_utils.evaluation.estimates import Estimate, exact, share_estimate
from siamese_utils.evaluation.pairs import pair_auc
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, as_stored, training_record
from siamese_utils.studies.cifar10.judging import named
from siamese_utils.studies.class_means import held_out_metrics, means_of_classes
from siamese_utils.system.project import results_dir
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term
from siamese_utils.training.recipes import DEFAULT_RECIPE, TURNING_STEPS, recipe

SEEDS = (0, 1, 2)
SHIFTS = ((0, 0), (1, 1), (-1, -1))  # pixels down and right; the views of an image that is judged, each mirrored too
SCALES = np.geomspace(4, 64, 33)  # of the softmax over classes, from which that of held-out images is chosen

SHORT = dataclasses.replace(
    recipe(DEFAULT_RECIPE),
    recipe="cifar10-strong",
    encoder="airbench",
    epochs=12,
    least_images=0,
    batch_size=500,
    augment=AugmentConfig(translate=2),
    resolutions=((0.0, 24), (0.65, 32)),
    held_out_images=50,
)
# Twelve passes end with 98% of the training images named right, so twice as many need images that vary more. How much
# is that of D. Page, *How to train your ResNet* (2018), whose 24 passes reach 94%.
LONG = dataclasses.replace(SHORT, recipe="cifar10-strong-long", epochs=25, augment=AugmentConfig(translate=4, cutout=8))
_TURNING: dict[str, Any] = {**TURNING_STEPS, "muon_rate": 0.12}  # half the published rate, for a quarter of the batch
_LINEAR = (Term("linear", scale=1 / 9, smoothing=0.2),)  # as published
_PROXIES = tuple(term for term in LONG.terms if term.objective == "proxy")
# As the first of the trials below advise: what they share with the quickest trainings, over images that vary as in
# twice as many passes they must, and as many passes as fit into forty core-minutes.
TURNING = dataclasses.replace(
    LONG, recipe="cifar10-strong-turning", epochs=23, terms=_PROXIES, resolutions=(), learning_rate=1e-2, **_TURNING
)
# As the later ones advise, which came after its test images had been read once.
_LARGE_BATCHES: dict[str, Any] = {"batch_size": 2000, "muon_rate": 0.24}  # as published
FINAL = dataclasses.replace(TURNING, recipe="cifar10-strong-linear", epochs=24, terms=_LINEAR, **_LARGE_BATCHES)
TRIED = dataclasses.replace(LONG, epochs=8, held_out_images=500)  # what the trials change


# ----------------------------------------------------------------------------------------------------- judging


@dataclass(frozen=True, eq=False)
class Judge:
    """What it takes to judge images by their embeddings.

    Attributes:
        classifier: the mean of each class, and the scale that makes probabilities of cosines.
        thresholds: above which a pair is called the same, by what is compared: embeddings or probabilities.
    """

    classifier: CosineClassifier
    thresholds: Mapping[str, float]

    def compared(self, z: torch.Tensor) -> dict[str, tuple[torch.Tensor, float]]:
        """By each way of telling pairs apart: one row an image, and the product above which two are the same."""
        scores = self.classifier.scores(z)
        rows = {
            "classes": F.one_hot(scores.argmax(dim=1), scores.shape[1]).float(),
            "embeddings": z,
            "probabilities": scores.softmax(dim=1),
        }
        return {name: (row, self.thresholds.get(name, 0.5)) for name, row in rows.items()}


def views(encoder: Encoder, images: torch.Tensor) -> torch.Tensor:
    """Embeddings, averaged over the image as it is and shifted by a pixel: uint8 (N, H, W, 3) to float32 (N, D)."""
    return embed_shifted(encoder.embed, images, SHIFTS)


def judge_from(encoder: Encoder, train_set: ImageSet, held_out: torch.Tensor) -> Judge:
    """Means of the classes, and scale and thresholds from images that were not learned.

    Args:
        encoder: trained.
        train_set: what it learned from.
        held_out: int64, positions of the images that it did not learn.
    """
    classifier = _means(encoder, train_set, held_out)
    z, labels = views(encoder, train_set.images[held_out]), train_set.labels[held_out]
    cosine = classifier.scores(z) / classifier.scale
    losses = [float(F.cross_entropy(scale * cosine, labels)) for scale in SCALES]
    classifier = dataclasses.replace(classifier, scale=float(SCALES[int(np.argmin(losses))]))
    probabilities = classifier.scores(z).softmax(dim=1)
    thresholds = {"embeddings": z, "probabilities": probabilities}
    return Judge(classifier, {name: best_threshold(rows, labels) for name, rows in thresholds.items()})


def _means(encoder: Encoder, train_set: ImageSet, held_out: torch.Tensor) -> CosineClassifier:
    return means_of_classes(encoder, train_set, tuple(range(train_set.num_classes)), held_out)


def best_threshold(rows: torch.Tensor, labels: torch.Tensor) -> float:
    """The product of two rows above which calling them the same gives the highest F1, over all pairs.

    Args:
        rows: float (N, D).
        labels: int64 (N,), of equally large classes, so that as many pairs are of one class as in a permutation.
    """
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    score, order = (rows[first] * rows[second]).sum(dim=1).sort(descending=True)
    hits = (labels[first] == labels[second])[order].double().cumsum(0)
    f1 = 2 * hits / (hits[-1] + torch.arange(1, len(hits) + 1))
    best = int(f1.argmax())
    return float(score[best : best + 2].mean())


def pair_metrics(rows: torch.Tensor, threshold: float, labels: torch.Tensor) -> dict[str, Estimate]:
    """Accuracy and F1 of calling two images the same, as expected of a random permutation of the images.

    In such a permutation each image stands beside each other, and beside itself, equally often, so all pairs are
    counted. With ten classes a tenth of the pairs are the same. The interval is that of the infinitesimal jackknife
    over images.

    Args:
        rows: float (N, D); a pair is called the same where the product of its rows is above the threshold.
        threshold: see there.
        labels: int64 (N,).
    """
    counts = torch.cat([_counts(rows[part], rows, threshold, labels[part], labels) for part in _blocks(len(rows))])
    right, hit, wrong = counts.double().div(len(rows)).unbind(dim=1)  # of each image, shares of its pairs
    twice_hit, all_wrong = 2 * hit.mean(), wrong.mean()
    f1 = twice_hit / (twice_hit + all_wrong)
    slope = (2 * hit * all_wrong - wrong * twice_hit) / (twice_hit + all_wrong) ** 2
    return {"accuracy": _over_pairs(right.mean(), right), "f1": _over_pairs(f1, slope)}


def _blocks(count: int) -> tuple[torch.Tensor, ...]:
    return torch.arange(count).split(500)


def _counts(
    some: torch.Tensor, rows: torch.Tensor, threshold: float, labels: torch.Tensor, all_labels: torch.Tensor
) -> torch.Tensor:
    """For each of some images: its pairs called right, those of them that are the same, and those called wrong."""
    called, same = some @ rows.T > threshold, labels[:, None] == all_labels
    right = (called == same).sum(dim=1)
    return torch.stack([right, (called & same).sum(dim=1), len(rows) - right], dim=1)


def _over_pairs(value: torch.Tensor, influence: torch.Tensor) -> Estimate:
    """Both images of a pair are drawn, so an image counts twice."""
    count = len(influence)
    return Estimate(100 * float(value), 100 * 1.96 * 2 * float(influence.std()) / count**0.5, count**2)


def test_metrics(encoder: Encoder, judge: Judge, test_set: ImageSet) -> dict[str, Estimate]:
    """Everything that is told of a finished encoder, from test images."""
    labels, one_view = test_set.labels, encoder.embed(test_set.images)
    z = views(encoder, test_set.images)
    by_class = named(judge.classifier.predict(z).numpy(), labels.numpy(), test_set.num_classes)
    metrics = {
        **{name: each for name, each in by_class.items() if name != "f1_weighted"},
        "accuracy_one_view": share_estimate(judge.classifier.predict(one_view) == labels),
        "pair_auc": pair_auc(z, labels),
    }
    for name, (rows, threshold) in judge.compared(z).items():
        metrics |= {f"pair_{kind}_{name}": each for kind, each in pair_metrics(rows, threshold, labels).items()}
    return metrics


# -------------------------------------------------------------------------------------------------------- runs


def checkpoint_path(config: TrainConfig = FINAL) -> Path:
    """Where the encoder of a recipe is stored; of its trainings the first is kept."""
    return results_dir() / "checkpoints" / f"{config.recipe}-seed{config.seed}.safetensors"


def _runs() -> list[Run]:
    expected = {
        SHORT: "About 94%, as published trainings of as many operations reach.",
        LONG: "A point and a half more than after twelve passes, just below 94%.",
        TURNING: "Half a point more than the 25 passes, so just above 94%: in eight passes these steps gain a point, "
        "and longer trainings catch up with a part of it.",
        FINAL: "Half a point more than 23 passes with proxies, half of what the trials of eight passes gain: 94.3%.",
    }
    configs = [SHORT, LONG, TURNING, *(dataclasses.replace(FINAL, seed=seed) for seed in SEEDS)]
    return [
        Run(
            {"passes": config.epochs, "seed": config.seed},
            {"config": config},
            expected[dataclasses.replace(config, seed=0)],
            config.epochs * 49_500,
        )
        for config in configs
    ]


def _carry_out(run: Run, bench: Bench) -> Outcome:
    train_set = bench.load(load_cifar10, "train")
    trained = bench.train(run.config, train_set, range(train_set.num_classes))
    held_out = trained.held_out
    thresholds = judge_from(trained.encoder, train_set, held_out)
    info = {
        "config": run.config.to_json(),
        "held_out": held_out.tolist(),
        "scale": thresholds.classifier.scale,
        "thresholds": dict(thresholds.thresholds),
    }
    encoder, checkpoint = as_stored(trained.encoder, info)
    metrics = {
        **_judged(encoder, info, bench),
        "seconds": exact(trained.seconds),
        "core_minutes": exact(trained.core_minutes),
    }
    kept = checkpoint if _checkpoint(run) else None
    return Outcome(metrics, kept, {**training_record(trained), **{key: info[key] for key in ("scale", "thresholds")}})


def _judged(encoder: Encoder, info: Mapping[str, Any], bench: Bench) -> dict[str, Estimate]:
    held_out = torch.tensor(info["held_out"])
    means = _means(encoder, bench.load(load_cifar10, "train"), held_out)
    judge = Judge(dataclasses.replace(means, scale=info["scale"]), info["thresholds"])
    return test_metrics(encoder, judge, bench.load(load_cifar10, "test"))


def _checkpoint(run: Run) -> Path | None:
    return checkpoint_path(run.config) if run.key["seed"] == 0 else None


def _again(path: Path, bench: Bench) -> Mapping[str, Mapping[str, Estimate]]:
    info = checkpoint_info(path)
    if not {"held_out", "scale", "thresholds"} <= set(info):
        raise CheckpointError(f"{path} is no encoder of the strong training; use one of its checkpoints.")
    return {"cifar10_strong": _judged(load_encoder(path), info, bench)}


WAYS = {
    "classes": "by whether both are nearest to the same class",
    "embeddings": "by the cosine of their embeddings",
    "probabilities": "by how probable it is that they are of one class",
}
CIFAR10_STRONG = Study(
    "cifar10_strong",
    "How far does the project's own training get on CIFAR-10 in twenty minutes of two cores?",
    _runs,
    _carry_out,
    key=("passes", "seed"),
    metrics={
        "accuracy": "CIFAR-10 test images, three views of each: share that is nearest to the mean of its own class",
        "accuracy_one_view": "the same, each image seen once",
        "f1_macro": "the same answers: mean F1 of the classes",
        "pair_auc": "area under the ROC curve of the similarity, over all pairs of test images",
        **{
            f"pair_accuracy_{name}": f"pairs of test images, a tenth the same: called right {how}"
            for name, how in WAYS.items()
        },
        **{f"pair_f1_{name}": f"F1 of the same calls, {how}" for name, how in WAYS.items()},
        "seconds": "seconds of training",
        "core_minutes": "core-minutes of training: minutes times the cores that were busy",
    },
    checkpoint=_checkpoint,
    again=_again,
    once=("seconds", "core_minutes"),
)


# ------------------------------------------------------------------------------------------------------ trials


def _trial(name: str, expectation: str, **changes: Any) -> Run:
    config = dataclasses.replace(TRIED, recipe=f"cifar10-strong-trials/{name}", **changes)
    return Run({"trial": name, "seed": config.seed}, {"config": config}, expectation, config.epochs * 45_000)


def _full_size(name: str, expectation: str, **changes: Any) -> Run:
    """A trial that begins with what the quick trainings do: steps, variation, size and loss."""
    published = {**_TURNING, "augment": SHORT.augment, "terms": _PROXIES, "resolutions": ()}
    return _trial(name, expectation, **(published | changes))


def _trials() -> list[Run]:
    """One change after the other."""
    varied_less = {**_TURNING, "augment": SHORT.augment}
    return [
        _trial("base", "What the others are compared with: about 90%."),
        _trial(
            "turning-steps",
            "Two points better, for it is what the quick trainings have: steps that turn the kernels at the start as "
            "far as their kernels are long, and ever less. Large steps find what holds for new images too.",
            **_TURNING,
        ),
        _trial(
            "turning-varied-less",
            "Better than with the larger variations, by more than the usual steps gain: large steps learn little by "
            "heart as it is.",
            **varied_less,
        ),
        _trial(
            "turning-proxies-alone",
            "Level: triplets are for distances, and classes are told apart without.",
            **varied_less,
            terms=_PROXIES,
        ),
        _full_size(
            "turning-full-size",
            "The best of all, for half as much time again: nearly what is published, but for proxies in place of a "
            "linear layer.",
        ),
        _full_size("turning-full-size-gelu", "Half a point better: the published network.", encoder="airbench-gelu"),
        _full_size(
            "turning-full-size-quick-biases",
            "A point better: the published trainings have biases learned at a rate of their own, a large one, and save "
            "a quarter of the passes by it.",
            learning_rate=1e-2,
        ),
        # Thought of after the first seed of 23 passes had missed the aim, and after larger steps than published had
        # been worth most for classes that are not learned (``quick_search``).
        _full_size("turning-full-size-larger-steps", "Half a point better.", muon_rate=0.3),
        _full_size(
            "turning-full-size-smaller-steps",
            "Half a point better: larger steps lost, and there are several times as many of them as in the quick "
            "trials that asked for large ones.",
            muon_rate=0.05,
        ),
        # A try of two passes had shown how much sooner a linear layer learns than proxies.
        _full_size(
            "turning-full-size-linear",
            "Two points better: with a linear layer in place of proxies it is nearly the published training.",
            learning_rate=1e-2,
            terms=_LINEAR,
        ),
        # A try outside the study had shown a gain; the last training was fixed by it before this trial was run.
        _full_size(
            "turning-full-size-linear-large-batches",
            "Half a point better: the published batches and rate. Twice the rate for four times the images leaves the "
            "noise of the steps as it was, but there are fewer of them.",
            learning_rate=1e-2,
            terms=_LINEAR,
            **_LARGE_BATCHES,
        ),
        _full_size(
            "turning-full-size-larger-steps-smoother",
            "A little better: the published trainings smooth their targets by as much.",
            muon_rate=0.3,
            terms=tuple(dataclasses.replace(term, smoothing=0.2) for term in _PROXIES),
        ),
    ]


def _carry_out_trial(run: Run, bench: Bench) -> Outcome:
    train_set = bench.load(load_cifar10, "train")
    trained = bench.train(run.config, train_set, range(train_set.num_classes))
    return Outcome(held_out_metrics(trained, train_set), record=training_record(trained))


CIFAR10_STRONG_TRIALS = Study(
    "cifar10_strong_trials",
    "Which setting of the strong training names held-out training images best?",
    _trials,
    _carry_out_trial,
    key=("trial", "seed"),
    metrics={
        "acc_held_out": "training images held out: share that is nearest to the mean of its own class",
        "core_minutes": CIFAR10_STRONG.metrics["core_minutes"],
    },
)
