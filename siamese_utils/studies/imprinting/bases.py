"""What does a better base network bring a class that is added to it? The same classes and shots on two bases.

The first base network of the study was trained to compare images, as the report's others are; the present one to name
them. A class is added to each as in the study, whitened, one at a time, for the same points of old accuracy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import pandas as pd
import torch

from siamese_utils.encoders.views import embed_shifted
from siamese_utils.evaluation.estimates import Estimate, share_estimate
from siamese_utils.experiments.study import Bench, Outcome, Run, Study
from siamese_utils.studies.imprinting import methods
from siamese_utils.studies.imprinting.base import BASE, Parts, base_checkpoint, base_network, parts_of
from siamese_utils.studies.imprinting.settings import WHOLE, BaseConfig, ImprintingConfig

FIRST = "imprinting-base-first"
FIRST_BASE = BaseConfig(changes={"epochs": 30, "augment": {"cutout": 8}})
PRICES = (1.0, 4.0)
"""Points of old accuracy."""
SHIFTS = ((0, 0), (2, 0), (-2, 0), (0, 2), (0, -2))
"""Pixels down and right of each view of a test image; every one is mirrored too."""


def whole_run(study: ImprintingConfig, first: BaseConfig = FIRST_BASE) -> Run:
    """The one run that fills the table, of a study's base network beside the first one."""
    expectation = (
        "What tells forty classes apart better leaves more room between them for others: some points more of the new "
        "class for as many of the old ones, with many shots more than with one."
    )
    settings = {"config": study, "first": first}
    return Run({}, settings, expectation, built_on=(base_checkpoint(FIRST), base_checkpoint()))


def _runs() -> list[Run]:
    return [whole_run(ImprintingConfig.from_yaml(WHOLE))]


def carry_out(run: Run, bench: Bench) -> Outcome:
    """Judge both bases; one that is missing is trained first."""
    study: ImprintingConfig = run.settings["config"]
    bases: dict[str, BaseConfig] = {FIRST: run.settings["first"], BASE: study.base}
    rows, curves = [], {}
    for name, base in bases.items():
        config = dataclasses.replace(study, base=base)
        images, embed = parts_of(base, bench.train_set, bench.test_set), base_network(base, bench, name).embed
        data = images.mapped(embed)
        spaces = methods.spaces_of(data, study.shrinkage)
        right = {space: known.right() for space, known in spaces.items()} | {
            "shifted": _shifted(images, data, embed, study)
        }
        key = {"base": name, "shots": 0, "loss": 0.0}
        rows += [methods.row(key, f"old_acc_{how}", share_estimate(named)) for how, named in right.items()]
        for shots in study.shots:
            _, found = methods.in_turn("whitened", spaces, 1, shots, config)
            curves[name, shots] = torch.stack([one.curve.mean(dim=0) for one in found])
    for name in bases:
        for shots in study.shots:
            rows += _rows(name, shots, "novel_acc", curves[name, shots])
    for shots in study.shots:
        rows += _rows(BASE, shots, "gain", curves[BASE, shots] - curves[FIRST, shots])
    return Outcome(pd.DataFrame(rows))


def _shifted(
    images: Parts, data: Parts, embed: Callable[[torch.Tensor], torch.Tensor], study: ImprintingConfig
) -> torch.Tensor:
    """Which test images of old classes are named right over shifted views, in whitened space; bool (N,)."""
    pixels, labels = images.test
    old = torch.isin(labels, torch.tensor(images.old))
    test = embed_shifted(embed, pixels[old], SHIFTS), labels[old]
    return methods.spaces_of(dataclasses.replace(data, test=test), study.shrinkage)["whitened"].right()


def _rows(name: str, shots: int, metric: str, by_class: torch.Tensor) -> list[Mapping[str, object]]:
    """Rows of means over classes, one a price, from float64 (classes, losses)."""
    key, found = {"base": name, "shots": shots}, []
    for price in PRICES:
        values = by_class[:, methods.LOSSES.index(price)]
        estimate: Estimate = methods.over_clusters(values, torch.arange(len(values)))
        found.append(methods.row({**key, "loss": price}, metric, estimate))
    return found


IMPRINTING_BASES = Study(
    "imprinting_bases",
    "What does a better base network bring a class that is added to it?",
    _runs,
    carry_out,
    key=(),
    metrics={
        "old_acc_plain": "accuracy on the old classes before any is added",
        "old_acc_whitened": "the same in whitened space",
        "old_acc_shifted": "the same over shifted views of the test images",
        "novel_acc": "accuracy on the added class where old accuracy is `loss` points below the base's, whitened",
        "gain": "the same less that on the first base, class by class, in points",
    },
    columns=("base", "shots", "loss", "metric", "value", "ci95", "n"),
)
