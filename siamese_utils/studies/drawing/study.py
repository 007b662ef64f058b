"""Training and judging the encoders behind the drawing demo: MNIST, digits never seen, and Omniglot's one-shot runs.

Settings are judged on two alphabets held out of Omniglot's background set (``TRIALS``, stored in
``results/drawing_trials.csv``). The official runs are read in one place alone, :func:`accuracy_on_runs`, once for each
finished encoder.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import class_split, hold_out_images
from siamese_utils.data.symbols import (
    OneShotRun,
    load_mnist,
    load_omniglot_background,
    load_omniglot_runs,
    synthetic_symbols,
)
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import CheckpointError, ConfigError, DataError, ResultsError, SamplingError, unknown
from siamese_utils.evaluation.calibration import Verdict, fit_verdict
from siamese_utils.evaluation.episodes import all_way_accuracy, few_shot_accuracy
from siamese_utils.evaluation.estimates import Estimate, mean_estimate, wilson
from siamese_utils.evaluation.pairs import pair_accuracy, pair_auc, sample_similarities
from siamese_utils.experiments import store as results
from siamese_utils.studies import validation as studies
from siamese_utils.system import project, provenance
from siamese_utils.training.augment import TURNS, AugmentConfig, turn
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import TrainResult, train
from siamese_utils.training.losses import Term

DRAWING_COLUMNS = ("train_on", "draw", "seed", "metric", "value", "ci95", "n", "checkpoint")
METRICS = {
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
}
SOURCES = ("mnist", "omniglot", "both")
WAYS = 20  # characters of one alphabet in an official run
IMAGES_SHOWN = 100_000  # in the training on characters: some four minutes on two cores
TRIAL_IMAGES = 100_000  # in a trial
TRIAL_STUDY = "drawing_trials"
MNIST_SAMPLE = 400  # images a digit that join Omniglot's characters, each of which has 20 drawings in 4 turns


# --- data -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SymbolData:
    """What the study learns from and is judged on, apart from Omniglot's official runs.

    Attributes:
        digits: MNIST's training images, redrawn.
        test_digits: its test images.
        characters: Omniglot's background set; its superclasses are alphabets.
    """

    digits: ImageSet
    test_digits: ImageSet
    characters: ImageSet


def load_symbol_data() -> SymbolData:
    """Load MNIST and Omniglot's background set.

    Raises:
        DataError: one of them cannot be reached or is damaged.
    """
    return SymbolData(load_mnist("train"), load_mnist("test"), load_omniglot_background())


def synthetic_symbol_data() -> SymbolData:
    """Made-up symbols in place of all of it, for machines without data: ten "digits" and two alphabets."""
    characters = synthetic_symbols(2 * WAYS, 6, seed=2)
    characters = dataclasses.replace(
        characters, superclass_names=("one", "two"), superclass_of=(0,) * WAYS + (1,) * WAYS
    )
    return SymbolData(synthetic_symbols(10, 30), synthetic_symbols(10, 20, part="test"), characters)


def characters_of(characters: ImageSet, alphabets: Iterable[int]) -> torch.Tensor:
    """Classes of some alphabets: int64, ascending."""
    alphabet_of = torch.tensor(characters.superclass_of)
    return torch.isin(alphabet_of, torch.tensor(list(alphabets), dtype=torch.int64)).nonzero().flatten()


def validation_alphabets(characters: ImageSet, count: int = 2) -> tuple[int, ...]:
    """Alphabets held out for choices, drawn once and for all among those with enough characters for a run."""
    sizes = np.bincount(characters.superclass_of)
    large = np.flatnonzero(sizes >= WAYS)
    return tuple(sorted(int(a) for a in named_rng(0, "validation alphabets").permutation(large)[:count]))


def in_four_turns(characters: ImageSet) -> ImageSet:
    """Every class in four turns, each a class of its own (Santoro et al., *Memory-augmented networks*, 2016).

    Only characters are turned: a six upside down is a nine.
    """
    images = [turn(characters.images, torch.full((len(characters),), q)) for q in range(TURNS)]
    labels = [characters.labels + q * characters.num_classes for q in range(TURNS)]
    names = [f"{name} turned {90 * q}" if q else name for q in range(TURNS) for name in characters.class_names]
    return dataclasses.replace(
        characters,
        images=torch.cat(images),
        labels=torch.cat(labels),
        class_names=tuple(names),
        superclass_of=characters.superclass_of * TURNS,
    )


def joined(first: ImageSet, second: ImageSet) -> ImageSet:
    """Both sets as one: the classes of the second are numbered after those of the first."""
    shift = len(first.superclass_names)
    return ImageSet(
        images=torch.cat([first.images, second.images]),
        labels=torch.cat([first.labels, second.labels + first.num_classes]),
        class_names=first.class_names + second.class_names,
        superclass_names=first.superclass_names + second.superclass_names,
        superclass_of=first.superclass_of + tuple(number + shift for number in second.superclass_of),
        name=f"{first.name}+{second.name}",
        part="train",
        source=f"{first.source}, {second.source}",
    )


def training_images(
    data: SymbolData, train_on: str, *, without: Sequence[int] = (), turns: bool = True
) -> tuple[ImageSet, tuple[int, ...]]:
    """The images of a source to learn from, and their classes.

    Args:
        data: all there is.
        train_on: ``"mnist"``, ``"omniglot"`` or ``"both"``.
        without: alphabets to leave out, for validation.
        turns: learn every character in four turns.

    Raises:
        DataError: no such source.
    """
    if train_on not in SOURCES:
        raise DataError(f"There is nothing called {train_on!r} to learn from; choose {', '.join(SOURCES)}.")
    if train_on == "mnist":
        return data.digits, tuple(range(data.digits.num_classes))
    characters = data.characters
    kept = characters_of(characters, set(range(len(characters.superclass_names))) - set(without))
    characters = characters.subset(characters.indices_of(kept.tolist()))
    if turns:
        characters = in_four_turns(characters)
    if train_on == "both":
        _, sample = hold_out_images(data.digits.labels, range(data.digits.num_classes), MNIST_SAMPLE, seed=0)
        characters = joined(characters, data.digits.subset(sample))
    return characters, tuple(characters.labels.unique().tolist())


@dataclass(frozen=True)
class Published:
    """A published accuracy on the official runs, in percent.

    Attributes:
        name: of the model, or people.
        accuracy: percent of 400 trials.
        alphabets: learned from; 0 for people.
    """

    name: str
    accuracy: float
    alphabets: int


# B. Lake, R. Salakhutdinov, J. Tenenbaum, "The Omniglot challenge: a 3-year progress report", 2019, table 1; Koch et
# al. 2015 for the Siamese network. Thirty alphabets are the whole background set, five one of its two small parts.
PUBLISHED: tuple[Published, ...] = (
    Published("people", 95.5, 0),
    Published("Bayesian program learning", 96.7, 30),
    Published("Siamese network (Koch)", 92.0, 30),
    Published("simple convolutional network", 76.8, 5),
    Published("prototypical network", 69.9, 5),
)


# --- judging --------------------------------------------------------------------------------------


def accuracy_on_alphabets(
    encoder: Encoder, characters: ImageSet, alphabets: Iterable[int], episodes: int = 500, seed: int = 0
) -> Estimate:
    """One-shot accuracy in tasks made like the official runs, from alphabets of the background set.

    A task takes twenty characters of one alphabet, drawn by one person as the support set and by another as queries.
    The interval covers the random choice of tasks from these alphabets.

    Args:
        encoder: to judge.
        characters: all drawings of a class stand together, in one order of people for all classes of an alphabet.
        alphabets: each with twenty characters or more.
        episodes: tasks from each alphabet.
        seed: of the tasks.

    Raises:
        SamplingError: an alphabet is too small, or its characters were not drawn by the same number of people.
    """
    rng = named_rng(seed, "tasks within alphabets")
    shares = []
    for alphabet in alphabets:
        classes = characters_of(characters, [alphabet])
        positions = characters.indices_of(classes.tolist())
        people = len(positions) // max(1, len(classes))
        if len(classes) < WAYS or people < 2 or len(positions) != people * len(classes):
            raise SamplingError(
                f"The alphabet {characters.superclass_names[alphabet]} needs {WAYS} characters by the same two or more "
                "people; choose another."
            )
        z = encoder.embed(characters.images[positions]).view(len(classes), people, -1)
        for _ in range(episodes):
            chosen = torch.from_numpy(rng.permutation(len(classes))[:WAYS])
            one, other = rng.permutation(people)[:2].tolist()
            best = (z[chosen, other] @ z[chosen, one].T).argmax(dim=1)
            shares.append((best == torch.arange(WAYS)).double().mean())
    return mean_estimate(torch.stack(shares))


@dataclass(frozen=True, eq=False)
class RunAnswers:
    """An encoder's answers in Omniglot's official runs.

    Attributes:
        runs: the runs, with their images.
        similarity: float32 (runs, queries, supports), cosine.
        hits: bool (runs, queries), whether the most similar support is the right one.
    """

    runs: tuple[OneShotRun, ...]
    similarity: torch.Tensor
    hits: torch.Tensor

    @property
    def metrics(self) -> dict[str, Estimate]:
        """The share of right answers, with an interval over trials and one over runs."""
        low, high = wilson(int(self.hits.sum()), self.hits.numel())
        by_run = mean_estimate(self.hits.double().mean(dim=1))
        return {
            "acc_20w1s_runs": Estimate(by_run.value, (high - low) / 2, self.hits.numel()),
            "acc_20w1s_by_run": by_run,
        }


def accuracy_on_runs(encoder: Encoder, runs: Sequence[OneShotRun] | None = None) -> RunAnswers:
    """Judge a finished encoder on the twenty official runs; nothing else in the package opens them.

    Args:
        encoder: to judge.
        runs: other runs that take their place, for tests and synthetic data.
    """
    runs = load_omniglot_runs() if runs is None else tuple(runs)
    tables, hits = [], []
    for run in runs:
        similarity = encoder.embed(run.query) @ encoder.embed(run.support).T
        tables.append(similarity)
        hits.append(similarity.argmax(dim=1) == run.true)
    return RunAnswers(runs, torch.stack(tables), torch.stack(hits))


def runs_from(characters: ImageSet, alphabets: Iterable[int]) -> tuple[OneShotRun, ...]:
    """One run made like the official ones from each alphabet of a set, for synthetic data."""
    runs = []
    for alphabet in alphabets:
        classes = characters_of(characters, [alphabet])[:WAYS].tolist()
        support = [int(characters.indices_of([label])[0]) for label in classes]
        query = [int(characters.indices_of([label])[1]) for label in classes]
        runs.append(OneShotRun(characters.images[support], characters.images[query], torch.arange(len(classes))))
    return tuple(runs)


def digit_metrics(
    encoder: Encoder, test_digits: ImageSet, learned: Sequence[int], threshold: float
) -> dict[str, Estimate]:
    """Metrics on MNIST's test images, of digits learned and of the others.

    Args:
        encoder: to judge.
        test_digits: MNIST's test images.
        learned: digits that were learned; none at all if the encoder has never seen MNIST.
        threshold: cosine above which a pair is called the same.
    """
    z, labels = encoder.embed(test_digits.images), test_digits.labels
    unseen = [digit for digit in range(test_digits.num_classes) if digit not in learned]
    metrics = {}
    for kind, digits in (("digits", list(learned)), ("unseen_digits", unseen)):
        if len(digits) < 2:
            continue
        rows = test_digits.indices_of(digits)
        part, of = z[rows], labels[rows]
        metrics[f"pair_acc_{kind}"] = pair_accuracy(part, of, threshold, named_rng(0, f"pair_acc_{kind}"))
        metrics[f"pair_auc_{kind}"] = pair_auc(part, of, named_rng(0, f"pair_auc_{kind}"), max_pairs=2_000_000)
        if len(digits) >= 5:
            metrics[f"acc_5w1s_{kind}"] = few_shot_accuracy(part, of, named_rng(0, f"acc_5w1s_{kind}"))
        if kind == "unseen_digits":
            metrics[f"acc_allway_1s_{kind}"] = all_way_accuracy(part, of, named_rng(0, f"acc_allway_1s_{kind}"), 200)
    return metrics


# --- configurations -------------------------------------------------------------------------------

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


@dataclass(frozen=True)
class DrawingTrial:
    """A short training with one change, judged on the validation alphabets.

    Attributes:
        name: short and unique.
        expectation: what was expected before the run.
        train_on: ``"omniglot"`` or ``"both"``, without the validation alphabets.
        turns: whether characters are learned in four turns.
        changes: fields of ``CHARACTERS`` that are different.
    """

    name: str
    expectation: str
    train_on: str = "omniglot"
    turns: bool = True
    changes: tuple[tuple[str, object], ...] = ()

    @property
    def config(self) -> TrainConfig:
        """What is trained: a fraction of the images that ``CHARACTERS`` shows."""
        short = {"least_images": TRIAL_IMAGES, "most_images": TRIAL_IMAGES, **dict(self.changes)}
        return dataclasses.replace(CHARACTERS, recipe=f"drawing-trials/{self.name}", **short)  # type: ignore[arg-type]


TRIALS: tuple[DrawingTrial, ...] = (
    DrawingTrial("base", "What the others are compared with: turned and bent letters in small batches."),
    DrawingTrial("large-batches", "Worse: as many images make fewer steps.",
                 changes=(("batch_size", 256), ("learning_rate", 2e-3))),
    DrawingTrial("upright", "Quicker to learn, worse in the long run: a quarter of the classes.", turns=False),
    DrawingTrial("unbent", "Worse: two people's hands differ by more than a shift.",
                 changes=(("augment", AugmentConfig(translate=2, flip=False)),)),
    DrawingTrial("mnist-too", "About the same: ten more classes among many.", train_on="both"),
)  # fmt: skip


def run_trial(trial: DrawingTrial, data: SymbolData, *, device: str = "auto", progress: bool = True) -> Estimate:
    """Run one trial and store it in ``results/drawing_trials.csv``, its record in ``results/studies/``."""
    held_out = validation_alphabets(data.characters)
    images, classes = training_images(data, trial.train_on, without=held_out, turns=trial.turns)
    computed_with = provenance.provenance(device)
    trained = train(trial.config, images, classes, device=device, progress=progress)
    accuracy = accuracy_on_alphabets(trained.encoder, data.characters, held_out)
    seconds = Estimate(trained.seconds, 0.0, 1)
    record = {
        "expectation": trial.expectation,
        "config": trial.config.to_json(),
        "train_on": trial.train_on,
        "turns": trial.turns,
        "history": trained.history.to_dict(orient="records"),
        "provenance": computed_with,
    }
    results.write_record(studies.record_path(TRIAL_STUDY, trial.name, trial.config.seed), record)
    results.store_run(
        {"trial": trial.name, "seed": trial.config.seed}, {"acc_20w1s_validation": accuracy, "seconds": seconds}, "",
        table=studies.study_path(TRIAL_STUDY), columns=studies.STUDY_COLUMNS,
    )  # fmt: skip
    return accuracy


def trial_scores() -> pd.Series:
    """Percent on the validation alphabets by the name of the trial, of those that are stored; empty if none is."""
    if not studies.study_path(TRIAL_STUDY).exists():
        return pd.Series(dtype=float)
    table = studies.read_study(TRIAL_STUDY).query("metric == 'acc_20w1s_validation'")
    return table.set_index("trial").value


def trial_log() -> pd.DataFrame:
    """The trials that are stored: what was expected and what came out, percent on the validation alphabets.

    Raises:
        ResultsError: no trial is stored.
    """
    table = studies.read_study(TRIAL_STUDY).query("metric == 'acc_20w1s_validation'").set_index("trial")
    rows = []
    for trial in TRIALS:
        if trial.name in table.index:
            row = table.loc[trial.name]
            result = f"{row.value:.1f} ± {row.ci95:.1f}"
            rows.append({"trial": trial.name, "expectation": trial.expectation, "result": result})
    return pd.DataFrame(rows)


# --- running --------------------------------------------------------------------------------------


def table_path() -> Path:
    """Where the study's numbers are stored."""
    return project.results_dir() / "drawing.csv"


def checkpoint_path(train_on: str = "both") -> Path:
    """Where an encoder is stored; the drawing demo uses the one that learned from both sources."""
    name = "drawing" if train_on == "both" else f"drawing-{train_on}"
    return project.results_dir() / "checkpoints" / f"{name}.safetensors"


def stored_drawing() -> pd.DataFrame:
    """The stored rows of ``results/drawing.csv``.

    Raises:
        ResultsError: nothing is stored, or the table is damaged.
    """
    return results.read_table(table_path(), DRAWING_COLUMNS)


@dataclass(frozen=True)
class DrawingRun:
    """One training run of the study.

    Attributes:
        train_on: a name in ``SOURCES``; ``"validation"``, both sources without the validation alphabets; or a division
            of the digits such as ``"5-5"``.
        draw: of the digits.
        images: shown in the training on characters.
    """

    train_on: str
    draw: int = 0
    images: int = IMAGES_SHOWN

    @property
    def name(self) -> str:
        """Name of the run's record."""
        return f"drawing-{self.train_on}" + (f"-draw{self.draw}" if "-" in self.train_on else "")

    @property
    def config(self) -> TrainConfig:
        """What the run trains with; the draw is the seed too."""
        if self.train_on == "mnist":
            return dataclasses.replace(DIGITS, seed=self.draw)
        if "-" in self.train_on:
            return dataclasses.replace(SOME_DIGITS, seed=self.draw)
        return dataclasses.replace(CHARACTERS, seed=self.draw, least_images=self.images, most_images=self.images)


# In this order: the validation run says how the similarities of the encoders after it are to be read.
RUNS: tuple[DrawingRun, ...] = (
    DrawingRun("mnist"),
    DrawingRun("validation"),
    DrawingRun("omniglot"),
    DrawingRun("both"),
    *(DrawingRun(f"{learned}-{10 - learned}", draw) for learned, draw in DIGIT_SPLITS),
)


def is_stored(run: DrawingRun) -> bool:
    """Whether a run's numbers, record and checkpoint are there and are those of its configuration."""
    try:
        table, record = stored_drawing(), results.load_json(run.name)
        same = TrainConfig.from_json(record["config"]) == run.config
        if run.train_on in SOURCES:
            same &= checkpoint_info(checkpoint_path(run.train_on)).get("train_on") == run.train_on
    except (ResultsError, CheckpointError, ConfigError, KeyError):
        return False
    return same and bool(((table.train_on == run.train_on) & (table.draw == run.draw)).any())


def run_drawing(
    run: DrawingRun,
    data: SymbolData,
    *,
    runs: Sequence[OneShotRun] | None = None,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, Estimate]:
    """Train one encoder, judge it, and store numbers, record and (for a whole source) checkpoint.

    Args:
        run: which one.
        data: see ``load_symbol_data``.
        runs: one-shot runs that take the place of Omniglot's official ones, for tests.
        device: see ``train``.
        progress: show a progress bar.

    Raises:
        ResultsError: the validation run, which this one needs, is not stored.
        DataError: the data cannot be reached or are damaged.
    """
    computed_with = provenance.provenance(device)
    run_dir = project.project_root() / "runs" / run.name
    if run.train_on in SOURCES or run.train_on == "validation":
        held_out = validation_alphabets(data.characters) if run.train_on == "validation" else ()
        source = "both" if run.train_on == "validation" else run.train_on
        images, classes = training_images(data, source, without=held_out)
    else:
        images, classes = data.digits, class_split(run.train_on, run.draw, data.digits.num_classes).seen
    trained = train(run.config, images, classes, run_dir=run_dir, device=device, progress=progress)
    record = {
        "train_on": run.train_on,
        "draw": run.draw,
        "config": run.config.to_json(),
        "classes": len(classes),
        "images": len(images),
        "parameters": count_parameters(trained.encoder),
        "seconds": trained.seconds,
        "history": trained.history.to_dict(orient="records"),
        "provenance": computed_with,
    }
    checkpoint = ""
    if run.train_on == "validation":
        metrics, verdict = _judge_validation(trained.encoder, data, held_out)
        record["verdict"] = dataclasses.asdict(verdict)
        record["held_out"] = [data.characters.superclass_names[alphabet] for alphabet in held_out]
    elif run.train_on in SOURCES:
        verdict = _verdict_on_held_out_images(trained, images) if run.train_on == "mnist" else stored_verdict()
        path = checkpoint_path(run.train_on)
        save_encoder(trained.encoder, path, {"train_on": run.train_on, "config": run.config.to_json(), **verdict.info})
        metrics = reevaluate_drawing(path, data, runs)  # the numbers are those of the file
        checkpoint = path.relative_to(project.project_root()).as_posix()
        record["verdict"] = dataclasses.asdict(verdict)
    else:
        record["learned"] = list(classes)
        verdict = _verdict_on_held_out_images(trained, images)
        metrics = digit_metrics(trained.encoder, data.test_digits, classes, verdict.threshold)
    key = {"train_on": run.train_on, "draw": run.draw, "seed": run.config.seed}
    results.store_json(run.name, record)
    results.store_run(key, metrics, checkpoint, table=table_path(), columns=DRAWING_COLUMNS)
    shutil.rmtree(run_dir, ignore_errors=True)
    return metrics


def reevaluate_drawing(
    path: Path, data: SymbolData, runs: Sequence[OneShotRun] | None = None
) -> dict[str, Estimate]:
    """Compute the metrics of a stored encoder anew.

    Args:
        path: a checkpoint of ``run_drawing``.
        data: see ``load_symbol_data``.
        runs: one-shot runs that take the place of Omniglot's official ones, for tests.

    Raises:
        CheckpointError: the file is missing, damaged, or does not say what it has learned.
    """
    info = checkpoint_info(path)
    try:
        train_on, threshold = info["train_on"], float(info["threshold"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no encoder of the drawing study; use one of its checkpoints.") from error
    encoder = load_encoder(path)
    learned = () if train_on == "omniglot" else range(data.digits.num_classes)
    return {
        **digit_metrics(encoder, data.test_digits, learned, threshold),
        **accuracy_on_runs(encoder, runs).metrics,
    }


def stored_verdict() -> Verdict:
    """How to read similarities of drawings, from the encoder that never saw the validation alphabets.

    Raises:
        ResultsError: the validation run is not stored.
    """
    return Verdict(**results.load_json("drawing-validation")["verdict"])


def _judge_validation(
    encoder: Encoder, data: SymbolData, held_out: Sequence[int]
) -> tuple[dict[str, Estimate], Verdict]:
    """One-shot accuracy on the validation alphabets, and the verdict on pairs of their characters.

    Half of the pairs show the same character; the other half show two, of the same alphabet or not.
    """
    characters = data.characters
    positions = characters.indices_of(characters_of(characters, held_out).tolist())
    z, labels = encoder.embed(characters.images[positions]), characters.labels[positions]
    verdict = fit_verdict(*sample_similarities(z, labels, named_rng(0, "pairs for the verdict")))
    return {"acc_20w1s_validation": accuracy_on_alphabets(encoder, characters, held_out)}, verdict


def _verdict_on_held_out_images(trained: TrainResult, images: ImageSet) -> Verdict:
    """The verdict on pairs of training images that were held out."""
    z, labels = trained.encoder.embed(images.images[trained.held_out]), images.labels[trained.held_out]
    return fit_verdict(*sample_similarities(z, labels, named_rng(0, "pairs for the verdict")))


def run_all(
    *, only: Iterable[str] = (), images: int | None = None, device: str = "auto", progress: bool = True
) -> Iterator[tuple[DrawingRun, dict[str, Estimate]]]:
    """Do every run that is not stored yet; started again after a kill, it goes on.

    Args:
        only: ``train_on`` of the runs to do; all if empty.
        images: shown in the training on characters, instead of ``IMAGES_SHOWN``.
        device: see ``train``.
        progress: show a progress bar.

    Yields:
        each run and its metrics, which are empty where it was stored already.

    Raises:
        UnknownNameError: ``only`` names no run.
        DataError: the data cannot be reached or are damaged.
    """
    wanted, known = set(only), dict.fromkeys(run.train_on for run in RUNS)
    if strange := wanted - set(known):
        raise unknown("run", min(strange), known)
    data = None
    for run in RUNS:
        if wanted and run.train_on not in wanted:
            continue
        run = dataclasses.replace(run, images=images or run.images)
        if is_stored(run):
            yield run, {}
            continue
        data = data or load_symbol_data()
        yield run, run_drawing(run, data, device=device, progress=progress)


def demo_encoder(characters: ImageSet) -> tuple[Encoder, Verdict]:
    """The encoder behind the drawing demo, and how to read its similarities.

    For made-up characters it is a small one that learns them within seconds.

    Raises:
        CheckpointError: the stored encoder is missing, damaged or lacks its verdict.
    """
    if characters.is_synthetic:
        config = dataclasses.replace(CHARACTERS, least_images=2_000, most_images=2_000, batch_size=80)
        encoder = train(config, characters, range(characters.num_classes), device="cpu", progress=False).encoder
        z = encoder.embed(characters.images)
        return encoder, fit_verdict(*sample_similarities(z, characters.labels, named_rng(0, "pairs for the verdict")))
    path = checkpoint_path()
    info = checkpoint_info(path)
    try:
        verdict = Verdict(float(info["threshold"]), **info["calibration"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} does not say how to read its similarities; fetch or train it again.") from error
    return load_encoder(path), verdict
