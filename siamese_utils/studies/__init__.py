"""What was asked, one folder a study; by name here, and none is imported before it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from siamese_utils.errors import unknown
from siamese_utils.experiments.study import Study

STUDIES: dict[str, str] = {
    "encoders_equal_time": "networks.study:ENCODERS_EQUAL_TIME",
    "encoders_equal_images": "networks.study:ENCODERS_EQUAL_IMAGES",
    "embedding_size": "networks.study:EMBEDDING_SIZE",
    "distances": "networks.study:DISTANCES",
    "objectives": "objectives.study:OBJECTIVES",
    "triplet_sensitivity": "objectives.study:TRIPLET_SENSITIVITY",
    "recipe_search": "recipe.study:RECIPE_SEARCH",
    "few_classes": "recipe.study:FEW_CLASSES",
    "quick_search": "recipe.quick:QUICK_SEARCH",
    "precision": "recipe.study:PRECISION",
    "split_sweep": "splits.study:SPLIT_SWEEP",
    "cifar_fs": "ensembles.cifar_fs:CIFAR_FS",
    "cifar_fs_test_time": "ensembles.test_time:CIFAR_FS_TEST_TIME",
    "class_draws": "ensembles.draws:CLASS_DRAWS",
    "teaching": "ensembles.teaching:TEACHING",
    "five_shots": "ensembles.five_shots:FIVE_SHOTS",
    "two_depths": "ensembles.depths:TWO_DEPTHS",
    "ensembles": "ensembles.study:ENSEMBLES",
    "triplet_systems": "objectives.systems:TRIPLET_SYSTEMS",
    "training_time": "budgets.study:TRAINING_TIME",
    "classes_or_images": "budgets.study:CLASSES_OR_IMAGES",
    "drawing": "drawing.study:DRAWING",
    "drawing_trials": "drawing.study:DRAWING_TRIALS",
    "letters": "drawing.letters:LETTERS",
    "faces": "faces.study:FACES",
    "face_trials": "faces.trials:FACE_TRIALS",
    "face_grid": "faces.trials:FACE_GRID",
    "imprinting": "imprinting.study:IMPRINTING",
    "imprinting_bases": "imprinting.bases:IMPRINTING_BASES",
    "imprinting_base_trials": "imprinting.base_trials:IMPRINTING_BASE_TRIALS",
    "imprinting_trials": "imprinting.study:IMPRINTING_TRIALS",
    "imprinting_moved": "imprinting.study:IMPRINTING_MOVED",
    "imprinting_moved_trials": "imprinting.study:IMPRINTING_MOVED_TRIALS",
    "folder_checks": "own_images.checks:FOLDER_CHECKS",
    "cifar10": "cifar10.study:CIFAR10",
    "cifar10_new_classes": "cifar10.new_classes:CIFAR10_NEW_CLASSES",
    "cifar10_leak": "cifar10.leak:CIFAR10_LEAK",
    "cifar10_strong": "cifar10.strong:CIFAR10_STRONG",
    "cifar10_strong_trials": "cifar10.strong:CIFAR10_STRONG_TRIALS",
    "own_images": "own_images.study:OWN_IMAGES",
    "own_training": "own_images.training:OWN_TRAINING",
}
"""Where each study is defined: module below this package, and name. The study's name is that of its table."""


def study(name: str) -> Study:
    """Look up a study.

    Raises:
        UnknownNameError: no such study.
    """
    if name not in STUDIES:
        raise unknown("study", name, STUDIES)
    return load(STUDIES[name])


def load(place: str) -> Any:
    """What ``module:name`` below this package names."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"{__name__}.{module}"), name)


def all_studies() -> list[Study]:
    """Every study."""
    return [study(name) for name in STUDIES]
