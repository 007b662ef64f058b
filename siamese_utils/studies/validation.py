"""What is judged on CIFAR-FS's validation classes: lists of trials, each a short training with one thing changed.

Every trial learns the 64 training classes of CIFAR-FS, or some of them, and is judged on its 16 validation classes,
never on a test class. What such a study shows can therefore be used to choose a recipe.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial

import pandas as pd
import torch
from torch.nn import functional as F

from siamese_utils.data.cifar import CIFAR100_CLASSES
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.encoders.backbones import count_macs
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import SplitError
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.evaluation.pairs import pair_auc
from siamese_utils.experiments.seeds import cell, describe_change
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, training_record
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import euclidean_distance
from siamese_utils.training.task import images_shown

JUDGED_IMAGES = 300  # of each validation class
_ALL = len(fewshot_split_cifar_fs(CIFAR100_CLASSES).train)
_IMAGES_OF_A_CLASS = 500
METRICS = {
    "acc_5w1s": "validation classes: 5-way 1-shot accuracy",
    "acc_5w5s": "validation classes: 5-way 5-shot accuracy",
    "pair_auc": "validation classes: area under the ROC curve of the similarity, over all pairs",
    "acc_5w1s_plain_cosine": "5-way 1-shot accuracy by the cosine of the features as they are",
    "acc_5w1s_plain_euclidean": "the same by their Euclidean distance",
    "parameters": "of the encoder",
    "macs": "multiplications of a forward pass",
    "images": "shown in training",
    "operations": "of the training: multiplications of a forward pass at the sides shown, times images, times 3",
    "seconds": "of training",
    "core_minutes": "of training: processor time of all threads",
    "images_per_second": "over the whole training",
    "failed": "the training collapsed or diverged",
}


@dataclass(frozen=True)
class Trial:
    """One training of a study, with every seed that is run.

    Attributes:
        name: short and unique within the study.
        config: what to train; its ``recipe`` and ``seed`` are set by the study.
        expectation: what was expected before the run, in a sentence.
        seeds: every seed that is run.
        classes: how many of the training classes are learned, the same ones in every trial; 0 for all.
        judged_by_epoch: judge after each epoch too, on a few images. Where a training is short and a network slow,
            this takes longer than it tells.
        plain_distances: judge the features as they are too, neither centred nor mirrored nor scaled, by cosine and by
            Euclidean distance.
    """

    name: str
    config: TrainConfig
    expectation: str = ""
    seeds: tuple[int, ...] = (0,)
    classes: int = 0
    judged_by_epoch: bool = True
    plain_distances: bool = False


def validation_study(name: str, question: str, trials: Sequence[Trial]) -> Study:
    """Make a study of trials, whose rows are those of ``METRICS`` by trial and seed; a collapse is a result too."""
    by_name = {trial.name: trial for trial in trials}
    return Study(
        name,
        question,
        partial(_runs, name, tuple(trials)),
        partial(_carry_out, by_name),
        key=("trial", "seed"),
        metrics=METRICS,
        files_failures=True,
    )


def _runs(study: str, trials: Sequence[Trial]) -> list[Run]:
    """Every trial with the first seed before any with the second."""
    runs = []
    for seed in sorted({seed for trial in trials for seed in trial.seeds}):
        for trial in trials:
            if seed in trial.seeds:
                config = dataclasses.replace(trial.config, recipe=f"{study}/{trial.name}", seed=seed)
                settings = {"config": config, "classes": trial.classes or _ALL}
                shown = _shown(trial.config, trial.classes or _ALL)
                runs.append(Run({"trial": trial.name, "seed": seed}, settings, trial.expectation, shown))
    return runs


@cache  # the batches of a training are laid out for it, and runs are asked for often
def _shown(config: TrainConfig, classes: int) -> int:
    return images_shown(config, [_IMAGES_OF_A_CLASS - config.held_out_images] * classes)


def _carry_out(trials: Mapping[str, Trial], run: Run, bench: Bench) -> Outcome:
    trial, train_set = trials[str(run.key["trial"])], bench.train_set
    classes = fewshot_split_cifar_fs(train_set.class_names)
    learned = learned_classes(run.settings["classes"], classes.train)
    trained = bench.train(run.config, train_set, learned, classes.val if trial.judged_by_epoch else ())
    positions = torch.cat([train_set.indices_of([label])[:JUDGED_IMAGES] for label in classes.val])
    judged = trained.encoder, train_set.images[positions], train_set.labels[positions]
    history = trained.history
    shown = float((history.images_per_second * history.seconds).sum())
    return Outcome(
        {
            **judge(*judged),
            **(judge_distances(*judged) if trial.plain_distances else {}),
            "parameters": exact(count_parameters(trained.encoder)),
            "macs": exact(count_macs(trained.encoder.body, train_set.images.shape[1])),
            "images": exact(round(shown)),
            "operations": exact(round(shown) * operations(run.config, trained.encoder)),
            "seconds": exact(trained.seconds),
            "core_minutes": exact(trained.core_minutes),
            "images_per_second": exact(shown / trained.seconds),
        },
        record=training_record(trained),
    )


def operations(config: TrainConfig, encoder: Encoder) -> float:
    """Multiplications for an image of a training: a forward pass at the sides that it shows, and twice that back."""
    stages = config.stages(encoder.image_size)
    return 3 * sum(share * count_macs(encoder.body, side) for share, side in stages)


def learned_classes(count: int, classes: Sequence[int]) -> tuple[int, ...]:
    """So many of the classes that may be learned: always the same few, and more hold the fewer.

    Raises:
        SplitError: there are not so many.
    """
    if count > len(classes):
        raise SplitError(f"A trial learns {count} classes, but there are only {len(classes)}.")
    if count == len(classes):
        return tuple(classes)
    chosen = named_rng(0, "classes of a study").permutation(len(classes))[:count]
    return tuple(sorted(classes[number] for number in chosen))


def judge(encoder: Encoder, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Estimate]:
    """Few-shot accuracies and pair AUC on classes that the encoder has not learned.

    Args:
        encoder: trained on other classes.
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
    """
    z = encoder.embed(images)
    return {
        "acc_5w1s": few_shot_accuracy(z, labels, named_rng(0, "acc_5w1s"), ways=5, shots=1),
        "acc_5w5s": few_shot_accuracy(z, labels, named_rng(0, "acc_5w5s"), ways=5, shots=5),
        "pair_auc": pair_auc(z, labels, named_rng(0, "pair_auc")),
    }


def judge_distances(encoder: Encoder, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Estimate]:
    """5-way 1-shot accuracy by cosine and by Euclidean distance between the features as the network gives them.

    ``embed`` scales to unit length, where the two distances put everything in the same order.

    Args:
        encoder: trained on other classes.
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
    """
    features = encoder.features(images)
    direction = F.normalize(features, dim=1)
    # With a single support a class only the order of the similarities counts, so one that falls with the distance and
    # is 1 at distance 0 makes the nearest neighbour by that distance the answer.
    falling = 1 / (1 + euclidean_distance(features))
    rng = "acc_5w1s"  # the episodes of ``judge``
    return {
        "acc_5w1s_plain_cosine": few_shot_accuracy(direction, labels, named_rng(0, rng), ways=5, shots=1),
        "acc_5w1s_plain_euclidean": few_shot_accuracy(
            direction, labels, named_rng(0, rng), ways=5, shots=1, gram=falling
        ),
    }


def trial_runs(study: Study) -> dict[str, Run]:
    """The first run of each trial of a study, by the trial's name and in the study's order."""
    found: dict[str, Run] = {}
    for run in study.runs():
        found.setdefault(str(run.key["trial"]), run)
    return found


def study_log(study: Study, runs: Sequence[Run] = ()) -> pd.DataFrame:
    """One row a stored run: what was changed, what was expected, and what came out.

    Args:
        study: of trials on validation classes.
        runs: those of the study that are told of; empty for all.

    Columns: trial, change (against the first of the runs), expected, 5-way 1-shot and 5-way 5-shot (percent, with
    95% intervals over episodes), images (k, thousands), minutes, images/s.

    Raises:
        ResultsError: nothing is stored.
    """
    table, runs, rows = study.table(), runs or study.runs(), []
    for run in runs:
        stored = table[(table.trial == run.key["trial"]) & (table.seed == run.key["seed"])].set_index("metric")
        if stored.empty:
            continue
        row = {"trial": run.key["trial"], "change": _change(run, runs[0]), "expected": run.expectation}
        if "failed" in stored.index:
            rows.append({**row, "5-way 1-shot": "failed"})
            continue
        value, half = stored.value, stored.ci95
        rows.append(
            {
                **row,
                "5-way 1-shot": cell(value.acc_5w1s, half.acc_5w1s),
                "5-way 5-shot": cell(value.acc_5w5s, half.acc_5w5s),
                "images (k)": round(value.images / 1000),
                "minutes": round(value.seconds / 60, 1),
                "images/s": round(value.images_per_second),
            }
        )
    return pd.DataFrame(rows)


def _change(run: Run, base: Run) -> str:
    change = describe_change(dataclasses.replace(run.config, seed=base.config.seed), base.config)
    classes = run.settings["classes"]
    if classes == base.settings["classes"]:
        return change
    return f"{'all' if classes == _ALL else classes} classes" + ("" if change == "–" else f"; {change}")
