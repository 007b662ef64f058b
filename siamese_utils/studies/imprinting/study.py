"""The study of imprinted weights: a base network that knows some classes, and what it takes to add others.

All that decides a run stands in a YAML file, which is stored with the results. Adding classes to a network that stays
as it is makes one run of some eleven minutes, on embeddings that are made once; what takes an hour is the base network,
and its training goes on after a kill. Where the encoder moves, one class added from one set of shots is a run.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from siamese_utils.data.cifar import CIFAR100_CLASSES
from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.imprinting import CosineClassifier, FineTuneConfig, Whitening, save_classifier
from siamese_utils.errors import ConfigError
from siamese_utils.experiments.store import load_json
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, ground
from siamese_utils.studies.imprinting import methods, moved
from siamese_utils.studies.imprinting.base import (
    Parts,
    base_checkpoint,
    base_network,
    chosen_classes,
    draw_shots,
    parts_of,
    trial_checkpoint,
    trial_parts,
)
from siamese_utils.studies.imprinting.moved import Prepared
from siamese_utils.studies.imprinting.settings import (
    FIRST_BASE,
    MOVED,
    WHOLE,
    BaseConfig,
    ImprintingConfig,
    MovedConfig,
)
from siamese_utils.studies.imprinting.tuning import TuningConfig
from siamese_utils.system import project
from siamese_utils.system.project import results_dir
from siamese_utils.system.text import listed

Whole = Annotated[Path, typer.Option(help="The configuration, YAML.", show_default="the stored one")]

# --- an encoder that stays ------------------------------------------------------------------------


def runs(config: Whole = WHOLE) -> list[Run]:
    """The one run that fills the three tables."""
    return [whole_run(ImprintingConfig.from_yaml(config))]


def whole_run(config: ImprintingConfig) -> Run:
    """The run of a configuration; with an empty key, since it fills the tables alone."""
    return Run({}, {"config": config}, built_on=(base_checkpoint(),))


def carry_out(run: Run, bench: Bench) -> Outcome:
    """Train the base network if need be, and add classes to it in every way."""
    config, names = run.config, bench.test_set.class_names
    encoder = base_network(config.base, bench)
    began = time.perf_counter()
    data = parts_of(config.base, bench.train_set, bench.test_set).mapped(encoder.embed)
    spaces = methods.spaces_of(data, config.shrinkage)
    tables = methods.tables_of(spaces, config, names, progress=bench.progress)
    record = {
        "seconds": time.perf_counter() - began,
        "classes": [names[k] for k in chosen_classes(data.novel, config.novel_classes, config.base.seed)],
        "neighbours": spaces["whitened"].neighbours(names),
    }
    files = {"checkpoints/imprinting-classifier.safetensors": _classifier(spaces["whitened"], data, config)}
    return Outcome(tables.pop("imprinting"), record=record, tables=tables, files=files)


def _classifier(space: methods.Space, data: Parts, config: ImprintingConfig) -> bytes:
    """The file of the classifier of the old classes, which classes are added to."""
    classifier = CosineClassifier(space.old, data.old, config.scale)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "classifier.safetensors"
        save_classifier(path, classifier, Whitening.fit(*data.known, config.shrinkage))
        return path.read_bytes()


def again(checkpoint: Path, bench: Bench) -> Mapping[str, pd.DataFrame]:
    """The three tables from the base network's checkpoint and the stored configuration."""
    config = ImprintingConfig.from_json(load_json("imprinting").get("config"))
    data = parts_of(config.base, bench.train_set, bench.test_set).mapped(load_encoder(checkpoint).embed)
    return methods.tables_of(methods.spaces_of(data, config.shrinkage), config, bench.test_set.class_names)


IMPRINTING = Study(
    "imprinting",
    "Can a trained classifier learn one more class from 1, 5, 10 or 20 images, and what does it cost the old ones?",
    runs,
    carry_out,
    key=(),
    metrics={
        "novel_acc": "accuracy on the added classes",
        "old_acc": "accuracy on the classes learned before",
        "overall_acc": "accuracy over all classes",
        "harmonic_mean": "harmonic mean of novel and old accuracy",
        "novel_sd": "standard deviation of the novel accuracy between runs",
    },
    columns=("method", "added", "shots", "bias", "metric", "value", "ci95", "n", "checkpoint"),
    tables=("imprinting_classes", "imprinting_curves"),
    checkpoint=lambda run: base_checkpoint(),
    record=lambda run: results_dir() / "runs" / "imprinting.json",
    again=again,
)

ALL_IMAGES = 500  # of a class, in CIFAR-100's training part

# --- an encoder that moves ------------------------------------------------------------------------


def moved_runs(
    config: Whole = WHOLE,
    moved_config: Annotated[Path, typer.Option(help="That of --moved alone.", show_default="the stored one")] = MOVED,
    only_shots: Annotated[list[int] | None, typer.Option(help="With --moved: these shots alone; repeat.")] = None,
) -> list[Run]:
    """One class added from one set of shots; with the first set all images of the class as well.

    Raises:
        ConfigError: a file is missing or makes no sense, or the study has no such number of shots.
    """
    study, part = ImprintingConfig.from_yaml(config), MovedConfig.from_yaml(moved_config)
    planned = (*study.shots, ALL_IMAGES)
    if strange := [count for count in only_shots or () if count not in planned]:
        raise ConfigError(f"--only-shots takes {listed(planned, 'or')}, not {strange[0]}.")
    novel = class_split(study.base.split, study.base.draw).unseen
    names = [CIFAR100_CLASSES[label] for label in chosen_classes(novel, part.classes, study.base.seed)]
    return planned_runs(study, part, names, images_a_class=ALL_IMAGES, only_shots=only_shots or ())


def planned_runs(
    study: ImprintingConfig,
    part: MovedConfig,
    names: Sequence[str],
    images_a_class: int,
    only_shots: Sequence[int] = (),
) -> list[Run]:
    """One set of shots for every class and number of shots before the next set.

    Args:
        study: of the whole.
        part: of the part in which the encoder moves.
        names: classes to add.
        images_a_class: all training images of a class.
        only_shots: these numbers of shots alone, so that several processes can share the work; all if empty.
    """
    tuning = {"few": part.few.to_json(), "joint": part.joint.to_json()}
    return [
        Run(
            {"novel": name, "shots": shots, "shot_set": number},
            {"tuning": tuning, "study": study},
            built_on=(base_checkpoint(),),
        )
        for number in range(part.shot_sets)
        for shots in (*study.shots, *([images_a_class] if number == 0 else []))
        for name in names
        if not only_shots or shots in only_shots
    ]


def carry_out_moved(run: Run, bench: Bench) -> Outcome:
    """Add one class by each method."""
    study, shots, number = run.settings["study"], int(run.key["shots"]), int(run.key["shot_set"])
    base_network(study.base, bench)
    prepared = _prepared(study.base, study.shrinkage, _digest(base_checkpoint()), bench.train_set, bench.test_set)
    label = bench.test_set.class_names.index(str(run.key["novel"]))
    chosen = run.settings["tuning"]["few" if shots in study.shots else "joint"]
    tuning = dataclasses.replace(TuningConfig.from_json(chosen), seed=number)
    drawn = draw_shots(prepared.images, label, shots, number, study.base.seed)
    rows = []
    for method in moved.METHODS:
        began = time.perf_counter()
        values = moved.add_class(method, label, drawn, prepared, tuning, study)
        rows.append({"method": method, **run.key, **values, "seconds": time.perf_counter() - began})
    return Outcome(pd.DataFrame(rows).round(4), record={"seconds": sum(row["seconds"] for row in rows)})


@lru_cache(maxsize=1)
def _prepared(base: BaseConfig, shrinkage: float, digest: str, train_set: ImageSet, test_set: ImageSet) -> Prepared:
    """What runs share, made once a process for each content of the base network's file."""
    return Prepared.of(load_encoder(base_checkpoint()), parts_of(base, train_set, test_set), shrinkage)


def _digest(path: Path) -> str:
    """What names the content of a file."""
    return str(ground([path]))


IMPRINTING_MOVED = Study(
    "imprinting_moved",
    "What does a class gain when the encoder's last stage moves with it?",
    moved_runs,
    carry_out_moved,
    key=("novel", "shots", "shot_set"),
    metrics={**moved.METRICS, "seconds": "time of the run"},
    columns=("method", "novel", "shots", "shot_set", *moved.METRICS, "seconds"),
)

# --- how the settings were chosen -----------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One setting that was tried before any novel class was looked at.

    Attributes:
        name: short and unique.
        expectation: what was expected before the run.
        method: a name in the ``METHODS`` of the part.
        changes: fields of ``ImprintingConfig`` that are different.
        shots: numbers of shots it is tried with; those of the study if empty.
        tuning: of an encoder that moves.
    """

    name: str
    expectation: str
    method: str = "fine-tuned"
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shots: tuple[int, ...] = ()
    tuning: TuningConfig = dataclasses.field(default_factory=TuningConfig)


def _tuned(**changes: Any) -> dict[str, Any]:
    return {"fine_tuning": FineTuneConfig(**changes)}


TRIALS = (
    Trial("imprinted", "The paper's way, what the others are compared with.", "imprinted"),
    Trial("shrinkage-0.03", "Too little: 256 directions from 20 classes.", "whitened", {"shrinkage": 0.03}),
    Trial("shrinkage-0.1", "Better than none.", "whitened", {"shrinkage": 0.1}),
    Trial("shrinkage-0.3", "Better than none.", "whitened", {"shrinkage": 0.3}),
    Trial("shrinkage-1", "Back towards none.", "whitened", {"shrinkage": 1.0}),
    Trial("tuned", "Better than whitened alone with many shots.", changes=_tuned()),
    Trial("tuned-slowly", "Closer to whitened.", changes=_tuned(rate=0.001)),
    Trial("tuned-fast", "Learns the shots by heart.", changes=_tuned(rate=0.01)),
    Trial("tuned-anchored", "Closer to whitened.", changes=_tuned(anchor=1.0)),
    Trial("tuned-not-frozen", "Worse: old weights give way.", changes=_tuned(frozen_share=0.0)),
    Trial("tuned-evenly", "Fewer novel images found.", changes=_tuned(adapt=0.0)),
)


def _moved_trial(name: str, expectation: str, shots: tuple[int, ...] = (5, 20), **tuning: Any) -> Trial:
    return Trial(name, expectation, "moved", shots=shots, tuning=TuningConfig(**tuning))


MOVED_TRIALS = (
    Trial("frozen", "What the others are compared with.", "whitened", shots=(5, 20, 250)),
    _moved_trial("few", "Better with twenty shots; five are soon known by heart."),
    _moved_trial("few-slowly", "Between the two.", rate=3e-5),
    _moved_trial("few-longer", "The shots are known by heart.", steps=60),
    _moved_trial("few-longest", "Longer was better; by now the shots are known by heart.", steps=120),
    _moved_trial("few-half-frozen", "The seed's schedule; about the same.", steps=60, frozen_share=0.5),
    _moved_trial("few-adaptive", "The seed's loss: more novel images named, and more by mistake.", steps=60, adapt=0.1),
    _moved_trial(
        "all",
        "Better by far: with 250 images the encoder can learn the class.",
        (250,),
        steps=100,
        rate=3e-4,
        batch=128,
    ),
    _moved_trial("all-fast", "Too fast for the old classes.", (250,), steps=100, rate=1e-3, batch=128),
)


def trial_runs(config: Whole = WHOLE) -> list[Run]:
    """Every setting of ``TRIALS``, with all numbers of shots."""
    return [trial_run(trial, _of_trials(config)) for trial in TRIALS]


def moved_trial_runs(config: Whole = WHOLE) -> list[Run]:
    """Every setting of ``MOVED_TRIALS``, with its numbers of shots."""
    return [trial_run(trial, _of_trials(config)) for trial in MOVED_TRIALS]


def _of_trials(config: Path) -> ImprintingConfig:
    """A study but for its base's training, which has no part in a trial: the first's stands in its place."""
    study = ImprintingConfig.from_yaml(config)
    training = {"recipe": FIRST_BASE.recipe, "changes": FIRST_BASE.changes}
    return dataclasses.replace(study, base=dataclasses.replace(study.base, **training))


def trial_run(trial: Trial, study: ImprintingConfig) -> Run:
    """A setting, tried with the rest of the study's as it is."""
    config = dataclasses.replace(study, **dict(trial.changes), **({"shots": trial.shots} if trial.shots else {}))
    settings = {"config": config, "method": trial.method, **({"tuning": trial.tuning} if trial.shots else {})}
    return Run({"trial": trial.name}, settings, trial.expectation, built_on=(trial_checkpoint(),))


def carry_out_trial(run: Run, bench: Bench) -> Outcome:
    """Add every stand-in for a novel class by one method, from a quarter of the shot sets."""
    config, began = run.config, time.perf_counter()
    project.bring(trial_checkpoint())
    checkpoint_info(trial_checkpoint())  # it is missed before any data are asked for
    data = _trial_data(config.base, _digest(trial_checkpoint()), bench.train_set)
    spaces, sets = methods.spaces_of(data, config.shrinkage), max(2, config.shot_sets // 4)
    values = {}
    for count in config.shots:
        found = []
        for label in data.novel:
            shots = [draw_shots(data, label, count, number, config.base.seed)[None] for number in range(sets)]
            measured = methods.measure(run.settings["method"], spaces, [(label,)] * sets, shots, config)
            found.append(measured.for_one_point)
        values[count] = torch.stack(found)
    return _outcome(values, began)


@lru_cache(maxsize=1)
def _trial_data(base: BaseConfig, digest: str, train_set: ImageSet) -> Parts:
    return trial_parts(base, train_set).mapped(load_encoder(trial_checkpoint()).embed)


def carry_out_moved_trial(run: Run, bench: Bench) -> Outcome:
    """Add every other stand-in for a novel class once, with the encoder moving or not."""
    config, tuning, began = run.config, run.settings["tuning"], time.perf_counter()
    project.bring(trial_checkpoint())
    checkpoint_info(trial_checkpoint())
    prepared = _trial_prepared(config.base, config.shrinkage, _digest(trial_checkpoint()), bench.train_set)
    values = {}
    for count in config.shots:
        found = []
        for label in prepared.images.novel:
            shots = draw_shots(prepared.images, label, count, 0, config.base.seed)
            measured = moved.add_class(run.settings["method"], label, shots, prepared, tuning, config)
            found.append(measured["novel_acc_for_one_point"])
        values[count] = torch.tensor(found, dtype=torch.float64)[:, None]
    return _outcome(values, began)


@lru_cache(maxsize=1)
def _trial_prepared(base: BaseConfig, shrinkage: float, digest: str, train_set: ImageSet) -> Prepared:
    return Prepared.of(load_encoder(trial_checkpoint()), trial_parts(base, train_set, moved=True), shrinkage)


def _outcome(values: Mapping[int, torch.Tensor], began: float) -> Outcome:
    """Means over the classes, given float64 (classes, sets) by the number of shots."""
    rows = []
    for shots, found in values.items():
        clusters = torch.arange(len(found)).repeat_interleave(found.shape[1])
        estimate = methods.over_clusters(found.flatten(), clusters)
        rows.append(methods.row({"shots": shots}, "novel_acc_for_one_point", estimate))
    return Outcome(pd.DataFrame(rows), record={"seconds": time.perf_counter() - began})


_FOR_ONE_POINT = {"novel_acc_for_one_point": "accuracy on stand-ins for novel classes for one point of old accuracy"}
_TRIAL_COLUMNS = ("trial", "shots", "metric", "value", "ci95", "n")

IMPRINTING_TRIALS = Study(
    "imprinting_trials",
    "With which settings are classes added best, on training images alone?",
    trial_runs,
    carry_out_trial,
    key=("trial",),
    metrics=_FOR_ONE_POINT,
    columns=_TRIAL_COLUMNS,
)
IMPRINTING_MOVED_TRIALS = Study(
    "imprinting_moved_trials",
    "At which steps and rates does a moving encoder gain most, on training images alone?",
    moved_trial_runs,
    carry_out_moved_trial,
    key=("trial",),
    metrics=_FOR_ONE_POINT,
    columns=_TRIAL_COLUMNS,
)
