"""What time and images buy: whole trainings of growing length, and equally many images of more and more classes.

*Training time.* Each training is whole: rates and image sides run through their schedule within its budget, so that a
short one is the best that the recipe does in that time, not the beginning of a long one. The budgets double from one to
the next and all are reported; none was chosen by its result.

*Classes or images.* With each split of the sweep both grow together: 90 classes bring nine times the images of 10. Here
the images are held fixed, so that what is left is the number of classes. Every encoder is judged on the same ten
classes, which none of them learns; each set of classes holds the smaller ones.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import class_split
from siamese_utils.errors import SplitError
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.evaluation.estimates import exact
from siamese_utils.evaluation.pairs import pair_auc
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, training_record
from siamese_utils.studies.splits.growth import common_classes
from siamese_utils.system.project import results_dir
from siamese_utils.training.recipes import DEFAULT_RECIPE, QUICK_RECIPE, recipe

SPLIT, DRAW, SEEDS = "90-10", 0, (0, 1, 2)  # the split of which the seed project's training time is known
BUDGETS = (10_240, 20_480, 40_960, 81_920, 163_840)  # images shown, whole batches
CLASS_COUNTS = (10, 20, 50, 90)
TOTAL_IMAGES = 5_000  # all that ten classes have
IMAGES_SHOWN = 65_000


def _time_runs() -> list[Run]:
    """The recipe, and the quick one, shown so many images and no more."""
    return [
        Run(
            {"images": images, "seed": seed, "recipe": name},
            {"config": dataclasses.replace(recipe(name), epochs=1, seed=seed, least_images=images, most_images=images)},
            images=images,
        )
        for name in (DEFAULT_RECIPE, QUICK_RECIPE)
        for seed in SEEDS
        for images in BUDGETS
    ]


def _time_one(run: Run, bench: Bench) -> Outcome:
    split = class_split(SPLIT, DRAW)
    trained = bench.train(run.config, bench.train_set, split.seen)
    positions = bench.test_set.indices_of(split.unseen)
    z, labels = trained.encoder.embed(bench.test_set.images[positions]), bench.test_set.labels[positions]
    accuracy = few_shot_accuracy(z, labels, named_rng(0, "acc_5w1s"))
    return Outcome(
        {"acc_5w1s": accuracy, "seconds": exact(trained.seconds)},
        record={**training_record(trained), "split": SPLIT, "draw": DRAW},
    )


def _runs_record(name: str) -> Path:
    return results_dir() / "runs" / f"{name}.json"


TRAINING_TIME = Study(
    "training_time",
    "How soon does a training pass the seed project's weights?",
    _time_runs,
    _time_one,
    key=("images", "seed", "recipe"),
    metrics={"acc_5w1s": "90-10, unseen classes: 5-way 1-shot accuracy", "seconds": "of training"},
    record=lambda run: _runs_record(
        f"training-time-{run.key['images']}-seed{run.key['seed']}"
        + (f"-{run.key['recipe']}" if run.key["recipe"] == QUICK_RECIPE else "")
    ),
)


def _class_runs() -> list[Run]:
    """The recipe for many classes, whatever their number, shown the same number of images, with none held out."""
    base = dataclasses.replace(
        recipe(DEFAULT_RECIPE), epochs=1, least_images=IMAGES_SHOWN, most_images=0, held_out_images=0
    )
    return [
        Run(
            {"classes": count, "images_per_class": TOTAL_IMAGES // count, "seed": seed, "recipe": base.recipe},
            {"config": dataclasses.replace(base, seed=seed)},
            images=IMAGES_SHOWN,
        )
        for seed in SEEDS
        for count in CLASS_COUNTS
    ]


def _classes_one(run: Run, bench: Bench) -> Outcome:
    count, train_set, test_set = int(run.key["classes"]), bench.train_set, bench.test_set
    judged = common_classes(DRAW, train_set.num_classes)
    learned = class_split(f"{count}-{train_set.num_classes - count}", DRAW, train_set.num_classes).seen
    if set(learned) & set(judged):
        raise SplitError(f"{count} of {train_set.num_classes} classes leave none to judge on; learn at most 90%.")
    images = thinned(train_set, learned, int(run.key["images_per_class"]), int(run.key["seed"]))
    trained = bench.train(run.config, images, learned)
    positions = test_set.indices_of(judged)
    z, labels = trained.encoder.embed(test_set.images[positions]), test_set.labels[positions]
    return Outcome(
        {
            "acc_5w1s": few_shot_accuracy(z, labels, named_rng(0, "acc_5w1s")),
            "acc_5w5s": few_shot_accuracy(z, labels, named_rng(0, "acc_5w5s"), shots=5),
            "pair_auc": pair_auc(z, labels, named_rng(0, "pair_auc")),
        },
        record=training_record(trained),
    )


def thinned(train_set: ImageSet, classes: tuple[int, ...], per_class: int, seed: int) -> ImageSet:
    """So many images of each class, drawn at random.

    Raises:
        SplitError: a class has too few images.
    """
    chosen = []
    for label in classes:
        rows = train_set.indices_of([label])
        if len(rows) < per_class:
            raise SplitError(
                f"Class {train_set.class_names[label]!r} has {len(rows)} images, not the {per_class} that each of "
                f"{len(classes)} classes is to have; ask for fewer images."
            )
        order = named_rng(seed, f"thinned {label}").permutation(len(rows))[:per_class]
        chosen.append(rows[torch.from_numpy(order).sort().values])
    kept = torch.cat(chosen)
    return dataclasses.replace(train_set, images=train_set.images[kept], labels=train_set.labels[kept])


CLASSES_OR_IMAGES = Study(
    "classes_or_images",
    "Is it the classes or the images that teach a network to recognise what it never saw?",
    _class_runs,
    _classes_one,
    key=("classes", "images_per_class", "seed", "recipe"),
    metrics={
        "acc_5w1s": "ten unseen classes: 5-way 1-shot accuracy",
        "acc_5w5s": "ten unseen classes: 5-way 5-shot accuracy",
        "pair_auc": "ten unseen classes: area under the ROC curve of the similarity, over all pairs",
    },
    record=lambda run: _runs_record(f"classes-or-images-{run.key['classes']}-seed{run.key['seed']}"),
)
