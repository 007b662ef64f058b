"""What does a better base network bring a class that is added to it? The same classes and shots on two bases.

The first base network of the study was trained to compare images, as the report's others are; the present one to name
them. A class is added to each as in the study, whitened, one at a time, for the same points of old accuracy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import pandas as pd
import torch

from siamese_utils.encoders.views import FIVE_SHIFTS, embed_shifted
from siamese_utils.errors import ConfigError
from siamese_utils.evaluation.estimates import mean_estimate, share_estimate
from siamese_utils.experiments.study import Bench, Outcome, Run, Study
from siamese_utils.studies.imprinting import methods
from siamese_utils.studies.imprinting.base import BASE, Parts, base_checkpoint, base_network, parts_of
from siamese_utils.studies.imprinting.settings import FIRST_BASE, WHOLE, BaseConfig, ImprintingConfig

FIRST = "imprinting-base-first"
WAYS = {
    "plain": "accuracy on the old classes before any is added",
    "whitened": "the same in whitened space",
    "shifted": "the same in whitened space, over shifted views of the test images",
}
PRICES = (1.0, 4.0)
"""Points of old accuracy."""


def whole_run(study: ImprintingConfig, first: BaseConfig = FIRST_BASE) -> Run:
    """The one run that fills the table, of a study's base network beside the first one.

    Raises:
        ConfigError: they have not learned the same classes, or other shots would be drawn for them.
    """
    if any(getattr(first, name) != getattr(study.base, name) for name in ("split", "draw", "seed")):
        raise ConfigError("Only base networks of one split, draw and seed can be compared; change `base` or `first`.")
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
    right: dict[str, dict[str, torch.Tensor]] = {}  # test images of old classes, by base and by how they are judged
    curves: dict[str, dict[int, torch.Tensor]] = {}  # novel accuracy by base and shots, float64 (classes, losses)
    for name, base in bases.items():
        config = dataclasses.replace(study, base=base)
        images, embed = parts_of(base, bench.train_set, bench.test_set), base_network(base, bench, name).embed
        data = images.mapped(embed)
        spaces = methods.spaces_of(data, study.shrinkage)
        right[name] = {space: known.right() for space, known in spaces.items()}
        right[name]["shifted"] = _shifted(images, data, embed, study)
        curves[name] = {}
        for shots in study.shots:
            _, found = methods.in_turn("whitened", spaces, 1, shots, config)
            curves[name][shots] = torch.stack([one.curve.mean(dim=0) for one in found])
    return Outcome(pd.DataFrame([*_old_rows(right), *_novel_rows(curves)]))


def _old_rows(right: Mapping[str, Mapping[str, torch.Tensor]]) -> Iterator[dict[str, object]]:
    for name, by_way in right.items():
        for way, named in by_way.items():
            yield methods.row(_key(name), f"old_acc_{way}", share_estimate(named))
    for way, named in right[BASE].items():
        gain = named.double() - right[FIRST][way].double()
        yield methods.row(_key(BASE), f"gain_old_acc_{way}", mean_estimate(gain))


def _novel_rows(curves: Mapping[str, Mapping[int, torch.Tensor]]) -> Iterator[dict[str, object]]:
    """Means over classes at each price, and of the differences class by class."""
    gains = {shots: own - curves[FIRST][shots] for shots, own in curves[BASE].items()}
    parts = [(name, "novel_acc", by_shots) for name, by_shots in curves.items()]
    for name, metric, by_shots in (*parts, (BASE, "gain_novel_acc", gains)):
        for shots, by_class in by_shots.items():
            for price in PRICES:
                values = by_class[:, methods.LOSSES.index(price)]
                found = methods.over_clusters(values, torch.arange(len(values)))
                yield methods.row(_key(name, shots, price), metric, found)


def _key(name: str, shots: int = 0, price: float = 0.0) -> dict[str, object]:
    return {"base": name, "shots": shots, "loss": price}


def _shifted(
    images: Parts, data: Parts, embed: Callable[[torch.Tensor], torch.Tensor], study: ImprintingConfig
) -> torch.Tensor:
    """Which test images of old classes are named right over shifted views, in whitened space; bool (N,)."""
    pixels, labels = images.test
    old = torch.isin(labels, torch.tensor(images.old))
    test = embed_shifted(embed, pixels[old], FIVE_SHIFTS), labels[old]
    return methods.spaces_of(dataclasses.replace(data, test=test), study.shrinkage)["whitened"].right()


IMPRINTING_BASES = Study(
    "imprinting_bases",
    "What does a better base network bring a class that is added to it?",
    _runs,
    carry_out,
    key=(),
    metrics={
        **{f"old_acc_{way}": what for way, what in WAYS.items()},
        **{f"gain_old_acc_{way}": f"{what}: less that of the first base, in points" for way, what in WAYS.items()},
        "novel_acc": "accuracy on the added class where old accuracy is `loss` points below the base's, whitened",
        "gain_novel_acc": "the same less that on the first base, class by class, in points",
    },
    columns=("base", "shots", "loss", "metric", "value", "ci95", "n"),
)
