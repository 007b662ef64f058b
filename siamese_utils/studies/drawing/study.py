"""Encoders behind the drawing demo: MNIST, digits never seen, and Omniglot's one-shot runs.

Settings are judged on two alphabets held out of Omniglot's background set (``DRAWING_TRIALS``). The official runs are
read once for each finished encoder, see ``judging``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from siamese_utils.data.splits import class_split
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, ConfigError
from siamese_utils.evaluation.calibration import Verdict
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, as_stored, training_record
from siamese_utils.studies.drawing.data import (
    SOURCES,
    SymbolData,
    characters_of,
    images_to_learn,
    load_symbol_data,
    validation_alphabets,
)
from siamese_utils.studies.drawing.judging import accuracy_on_alphabets, accuracy_on_runs, digit_metrics, verdict_on
from siamese_utils.system.project import results_dir
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

IMAGES_SHOWN = 100_000  # in the training on characters: some four minutes on two cores
TRIAL_IMAGES = 100_000  # in a trial

_TERMS = (Term("proxy"), Term("triplet", weight=0.5, mining="batch_all", temperature=0.1))
_BENT = AugmentConfig(translate=2, flip=False, rotate=15, zoom=0.2, shear=0.3, elastic=0.7)
DIGITS = TrainConfig(
    recipe="drawing-digits",
    terms=_TERMS,
    encoder="resnet9-16",
    epochs=3,
    batch_size=200,
    optimizer="muon",
    muon_rate=0.05,
    held_out_images=300,
    augment=_BENT,
    resolutions=((0.0, 20), (0.4, 28)),
)
SOME_DIGITS = dataclasses.replace(DIGITS, recipe="drawing-some-digits", epochs=1, most_images=5_000, resolutions=())
CHARACTERS = dataclasses.replace(
    DIGITS,
    recipe="drawing-characters",
    epochs=1,
    least_images=IMAGES_SHOWN,
    most_images=IMAGES_SHOWN,
    batch_size=96,
    learning_rate=6e-3,
    held_out_images=0,
    resolutions=(),
)

# Five learned, five not, in five draws of the digits; every other division from 2 to 8 learned in three. Draw 0 takes
# the digits in order, draw d at random; the draw seeds the training too.
DIGIT_SPLITS: tuple[tuple[int, int], ...] = tuple(
    (learned, draw) for learned in range(2, 9) for draw in range(5 if learned == 5 else 3)
)


def _record(train_on: str, draw: int = 0) -> Path:
    draws = f"-draw{draw}" if "-" in train_on else ""
    return results_dir() / "runs" / f"drawing-{train_on}{draws}.json"


def checkpoint_path(train_on: str = "both") -> Path:
    """Where an encoder is stored; the drawing demo uses the one that learned from both sources."""
    name = "drawing" if train_on == "both" else f"drawing-{train_on}"
    return results_dir() / "checkpoints" / f"{name}.safetensors"


def stored_verdict() -> Verdict:
    """How to read similarities of drawings, from the encoder that never saw the validation alphabets.

    Raises:
        ResultsError: the validation run is not stored.
    """
    return Verdict(**store.read_record(_record("validation"))["verdict"])


def _runs(
    images: Annotated[int, typer.Option(help="Images shown in the training on characters.")] = IMAGES_SHOWN,
) -> list[Run]:
    """The sources, and the divisions of the digits; the validation run comes before those whose verdict it gives.

    Raises:
        ConfigError: too few images for a batch.
    """
    if images < CHARACTERS.batch_size:
        raise ConfigError(f"--images takes {CHARACTERS.batch_size} or more, as many as a batch has, not {images}.")
    shown = dataclasses.replace(CHARACTERS, least_images=images, most_images=images)
    runs = [_run("mnist", DIGITS, DIGITS.epochs * 57_000), _run("validation", shown, images)]
    runs += [_run(source, shown, images, (_record("validation"),)) for source in ("omniglot", "both")]
    for learned, draw in DIGIT_SPLITS:
        config = dataclasses.replace(SOME_DIGITS, seed=draw)
        runs.append(_run(f"{learned}-{10 - learned}", config, config.most_images))
    return runs


def _run(train_on: str, config: TrainConfig, images: int, built_on: tuple[Path, ...] = ()) -> Run:
    key = {"train_on": train_on, "draw": config.seed, "seed": config.seed}
    return Run(key, {"config": config}, images=images, built_on=built_on)


def _carry_out(run: Run, bench: Bench) -> Outcome:
    train_on, data = str(run.key["train_on"]), bench.load(load_symbol_data)
    held_out = validation_alphabets(data.characters) if train_on == "validation" else ()
    if "-" in train_on:
        images, classes = data.digits, class_split(train_on, int(run.key["draw"]), data.digits.num_classes).seen
    else:
        images, classes = images_to_learn(data, "both" if held_out else train_on, without=held_out)
    trained = bench.train(run.config, images, classes)
    encoder = trained.encoder
    record: dict[str, Any] = {**training_record(trained), "classes": len(classes), "images": len(images)}
    if held_out:
        characters = data.characters
        verdict = verdict_on(encoder, characters, characters.indices_of(characters_of(characters, held_out).tolist()))
        record |= {"verdict": dataclasses.asdict(verdict)}
        record |= {"held_out": [characters.superclass_names[alphabet] for alphabet in held_out]}
        return Outcome({"acc_20w1s_validation": accuracy_on_alphabets(encoder, characters, held_out)}, record=record)
    if "-" in train_on:
        threshold = verdict_on(encoder, images, trained.held_out).threshold
        metrics = digit_metrics(encoder, data.test_digits, classes, threshold)
        return Outcome(metrics, record={**record, "learned": list(classes)})
    verdict = verdict_on(encoder, images, trained.held_out) if train_on == "mnist" else stored_verdict()
    info = {"train_on": train_on, "config": run.config.to_json(), **verdict.info}
    encoder, checkpoint = as_stored(encoder, info)
    metrics = _judged(encoder, train_on, verdict.threshold, data)
    return Outcome(metrics, checkpoint, record={**record, "verdict": dataclasses.asdict(verdict)})


def _judged(encoder: Encoder, train_on: str, threshold: float, data: SymbolData) -> dict[str, Estimate]:
    learned = () if train_on == "omniglot" else range(data.digits.num_classes)
    return {**digit_metrics(encoder, data.test_digits, learned, threshold), **accuracy_on_runs(encoder).metrics}


def _again(path: Path, bench: Bench) -> Mapping[str, Mapping[str, Estimate]]:
    info = checkpoint_info(path)
    try:
        train_on, threshold = info["train_on"], float(info["threshold"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no encoder of the drawing study; use one of its checkpoints.") from error
    return {"drawing": _judged(load_encoder(path), train_on, threshold, bench.load(load_symbol_data))}


DRAWING = Study(
    "drawing",
    "Are two hand-drawn symbols the same, even symbols that were never learned?",
    _runs,
    _carry_out,
    key=("train_on", "draw", "seed"),
    metrics={
        "pair_acc_digits": "MNIST test images of digits learned: same/different accuracy on balanced pairs",
        "pair_auc_digits": "MNIST test images of digits learned: area under the ROC curve over pairs",
        "pair_acc_unseen_digits": "MNIST test images of digits never seen: same/different accuracy, balanced pairs",
        "pair_auc_unseen_digits": "MNIST test images of digits never seen: area under the ROC curve over pairs",
        "acc_5w1s_digits": "MNIST test images, all ten digits: 5-way 1-shot accuracy",
        "acc_5w1s_unseen_digits": "MNIST test images of digits never seen: 5-way 1-shot accuracy",
        "acc_allway_1s_unseen_digits": "all digits never seen at once, one example each",
        "acc_20w1s_validation": "tasks like the official runs, from two alphabets of the background set held out",
        "acc_20w1s_runs": "Omniglot's 20 official runs, 400 trials; 95% Wilson interval over trials (half width)",
        "acc_20w1s_by_run": "the same share, with a 95% interval over the 20 runs",
    },
    checkpoint=lambda run: checkpoint_path(str(run.key["train_on"])) if run.key["train_on"] in SOURCES else None,
    record=lambda run: _record(str(run.key["train_on"]), int(run.key["draw"])),
    again=_again,
)


# ------------------------------------------------------------------------------------------------- trials


def _trial(name: str, expectation: str, train_on: str = "omniglot", turns: bool = True, **changes: Any) -> Run:
    """A training with one change to ``CHARACTERS``, without the validation alphabets, by which it is judged."""
    base = dataclasses.replace(CHARACTERS, least_images=TRIAL_IMAGES, most_images=TRIAL_IMAGES)
    config = dataclasses.replace(base, recipe=f"drawing-trials/{name}", **changes)
    settings = {"config": config, "train_on": train_on, "turns": turns}
    return Run({"trial": name, "seed": config.seed}, settings, expectation, config.most_images)


def _trials() -> list[Run]:
    return [
        _trial("base", "What the others are compared with: turned and bent letters in small batches."),
        _trial("large-batches", "Worse: as many images make fewer steps.", batch_size=256, learning_rate=2e-3),
        _trial("upright", "Quicker to learn, worse in the long run: a quarter of the classes.", turns=False),
        _trial(
            "unbent",
            "Worse: two people's hands differ by more than a shift.",
            augment=AugmentConfig(translate=2, flip=False),
        ),
        _trial("mnist-too", "About the same: ten more classes among many.", train_on="both"),
    ]


def _carry_out_trial(run: Run, bench: Bench) -> Outcome:
    data = bench.load(load_symbol_data)
    held_out = validation_alphabets(data.characters)
    source, turns = run.settings["train_on"], run.settings["turns"]
    trained = bench.train(run.config, *images_to_learn(data, source, without=held_out, turns=turns))
    accuracy = accuracy_on_alphabets(trained.encoder, data.characters, held_out)
    metrics = {"acc_20w1s_validation": accuracy, "seconds": exact(trained.seconds)}
    return Outcome(metrics, record=training_record(trained))


DRAWING_TRIALS = Study(
    "drawing_trials",
    "Which part of the training on letters earns its place?",
    _trials,
    _carry_out_trial,
    key=("trial", "seed"),
    metrics={"acc_20w1s_validation": DRAWING.metrics["acc_20w1s_validation"], "seconds": "of training"},
)
