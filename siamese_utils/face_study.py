"""Face verification on LFW: the assignment's network, a smaller one that learns people, and what is stored of them.

All settings are judged on validation people (``TRIALS`` in ``results/face_trials.csv``, ``GRID`` in
``results/face_grid.csv``), and so are thresholds and calibrations. The test pairs are read in one place alone,
:func:`answers_on_test`, once for each finished network. In LFW's terms this is the image-unrestricted setting without
outside data: the people's names are used to form pairs. View 1, which is used here, is LFW's view for development;
published results on view 2 are averages over ten other folds, so compare them with care.
"""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from siamese_utils import results, studies
from siamese_utils.augment import AugmentConfig
from siamese_utils.calibration import Verdict
from siamese_utils.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.data import ImageSet
from siamese_utils.encoders import Encoder, count_parameters
from siamese_utils.errors import CheckpointError, ConfigError, ResultsError, ShapeError, SplitError, unknown
from siamese_utils.evaluation import Estimate, threshold_for_balanced_accuracy, wilson
from siamese_utils.faces import (
    FaceSet,
    grey,
    load_test_faces,
    load_training_faces,
    shared_people,
    split_by_person,
    squares,
    training_images,
)
from siamese_utils.files import locked, write_text_atomically
from siamese_utils.koch import KochConfig, KochResult, keras_counts, penalty, train_koch
from siamese_utils.losses import Term
from siamese_utils.pretrained import PRETRAINED, load_pretrained
from siamese_utils.training import TrainConfig, TrainResult, train
from siamese_utils.verification import (
    Score,
    TestAnswers,
    accuracy_estimate,
    checkpoint_path,
    cosine_score,
    judge_embeddings,
    judge_validation,
    koch_score,
    read_verifier,
)

FACE_COLUMNS = ("system", "seed", "metric", "value", "ci95", "n", "checkpoint")
PAIR_COLUMNS = ("system", "seed", "pair", "same", "probability")
# Percent, but for losses and seconds. Intervals (95%) are over pairs: Wilson's, as a half width, for shares of them,
# and by the bootstrap for areas.
METRICS = {
    "acc_test": "test pairs called right, threshold from validation people",
    "acc_test_half": "test pairs called right, at a probability of 0.5",
    "auc_test": "area under the ROC curve over the test pairs",
    "eer_test": "equal error rate on the test pairs",
    "loss_test": "loss on the test pairs, with the penalty",
    "acc_validation": "validation pairs called right, threshold from the nine other tenths of them",
    "acc_validation_half": "validation pairs called right, at a probability of 0.5",
    "auc_validation": "area under the ROC curve over the validation pairs",
    "auc_validation_all": "area under the ROC curve over all pairs of validation photographs",
    "loss_validation": "last loss on the validation pairs, with the penalty",
    "loss_train": "last loss in training",
    "acc_train": "training pairs called right in the last epoch",
    "seconds": "seconds of training",
}
SYSTEMS = {
    "koch": "the assignment's network, on the training pairs",
    "embedding": "a small ResNet that learned the training people",
    "pretrained": "ImageNet weights, no face learned (outside data)",
}
NAMES = {"embedding": "learned people", "koch": "the assignment's network", "pretrained": "ImageNet weights"}
SEEDS = (0, 1, 2, 3, 4)
VALIDATION_SHARE = 0.2
TRIAL_STUDY, GRID_STUDY = "face_trials", "face_grid"
TRIAL_IMAGES = 50_000  # shown in a trial: some four minutes on two cores
EMBEDDING_IMAGES = 150_000  # shown in a final training: some 12 minutes on two cores
GRID_EPOCHS = 5  # of the sensitivity runs; the assignment's own curves are flat from the second epoch on


# --- configurations -------------------------------------------------------------------------------


@dataclass(frozen=True)
class FaceConfig:
    """How the embedding network is trained and how it looks at a photograph.

    Attributes:
        train: the training.
        crop: side in pixels of the square that is cut out of a training photograph.
        size: side it is scaled to.
        least: photographs that every person has in training.
        repeat: repeat the photographs of people with fewer; off leaves these people out.
        judged_crops: squares of a photograph whose embeddings are averaged when pairs are judged.
    """

    train: TrainConfig
    crop: int = 128
    size: int = 64
    least: int = 2
    repeat: bool = True
    judged_crops: tuple[int, ...] = (128,)

    def __post_init__(self) -> None:
        if not self.judged_crops or self.least < 2:
            raise ConfigError("Judging needs a crop at least, and training two photographs of each person.")

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON can hold; ``from_json`` reads it back."""
        return {**json.loads(json.dumps(dataclasses.asdict(self))), "train": self.train.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> FaceConfig:
        """Rebuild a configuration.

        Raises:
            ConfigError: the data hold an unknown or missing field.
        """
        try:
            fields = {**data, "train": TrainConfig.from_json(data["train"])}
            return cls(**{**fields, "judged_crops": tuple(data["judged_crops"])})
        except (KeyError, TypeError) as error:
            raise ConfigError(f"This is not a configuration of the face study ({error}).") from error


KOCH = KochConfig()
_SUPCON = (Term("supcon"),)
_VARIED = AugmentConfig(
    translate=4, rotate=8, zoom=0.12, brightness=0.25, contrast=0.25, saturation=0.25, cutout=20,
)  # fmt: skip
EMBEDDING = FaceConfig(
    TrainConfig(
        recipe="faces",
        terms=_SUPCON,
        encoder="resnet9-16",
        embedding_dim=128,
        epochs=1,
        least_images=EMBEDDING_IMAGES,
        most_images=EMBEDDING_IMAGES,
        batch_size=128,
        images_per_class=2,
        optimizer="muon",
        muon_rate=0.05,
        resolutions=((0.0, 48), (0.5, 64)),
        augment=_VARIED,
        held_out_images=0,
    ),
    repeat=False,
    judged_crops=(128, 112),
)


@dataclass(frozen=True)
class FaceTrial:
    """A short training with one change, judged on the validation people.

    Attributes:
        name: short and unique.
        expectation: what was expected before the run.
        changes: fields of ``EMBEDDING.train`` that are different.
        looks: fields of ``EMBEDDING`` that are different; the trials began with all people.
    """

    name: str
    expectation: str
    changes: tuple[tuple[str, object], ...] = ()
    looks: tuple[tuple[str, object], ...] = ()

    @property
    def config(self) -> FaceConfig:
        """What is trained: a fraction of the images that ``EMBEDDING`` shows."""
        short = {"least_images": TRIAL_IMAGES, "most_images": TRIAL_IMAGES, **dict(self.changes)}
        config = dataclasses.replace(EMBEDDING.train, recipe=f"{TRIAL_STUDY}/{self.name}", **short)  # type: ignore[arg-type]
        return dataclasses.replace(EMBEDDING, train=config, **{"repeat": True, **dict(self.looks)})  # type: ignore[arg-type]


# Three rounds of one change each: the objective; all else from the best of them, ``supcon``; and what is left from the
# best of these, ``supcon-no-singles``. Each is judged with one crop and with two.
_PROXY_AND_TRIPLET = (Term("proxy"), Term("triplet", weight=0.5, mining="batch_all", temperature=0.1))
TRIALS: tuple[FaceTrial, ...] = (
    FaceTrial("base", "What the next four are compared with: proxies and triplets, strong augmentation, all people.",
              changes=(("terms", _PROXY_AND_TRIPLET),)),
    FaceTrial("proxy", "About the same: with two photographs a person there are few triplets.",
              changes=(("terms", (Term("proxy"),)),)),
    FaceTrial("triplet", "Worse: without proxies a step sees 64 of some 1,700 people.",
              changes=(("terms", (Term("triplet", mining="batch_all", temperature=0.1),)),)),
    FaceTrial("supcon", "Better than triplets alone, as all strangers of a batch count at once.",
              changes=(("terms", _SUPCON),)),
    FaceTrial("pair-bce", "Worse: the assignment's loss, on all pairs of a batch.",
              changes=(("terms", (Term("pair_bce"),)),)),
    FaceTrial("supcon-grid", "Better: faces are aligned, so it matters in which part of the image a feature lies.",
              changes=(("terms", _SUPCON), ("encoder", "resnet9-16-grid4"))),
    FaceTrial("supcon-batch-256", "Better: more strangers a step, and with them more that look alike.",
              changes=(("terms", _SUPCON), ("batch_size", 256))),
    FaceTrial("supcon-sharp", "A little better: a lower temperature counts the strangers that look most alike.",
              changes=(("terms", (Term("supcon", temperature=0.05),)),)),
    FaceTrial("supcon-no-singles", "A little worse: half of the people are left out, but every pair is a real one.",
              changes=(("terms", _SUPCON),), looks=(("repeat", False),)),
    FaceTrial("pairs-wide", "Better for each image, but four times as slow: half the images take twice as long.",
              changes=(("terms", _SUPCON), ("encoder", "resnet9-32"), ("least_images", TRIAL_IMAGES // 2),
                       ("most_images", TRIAL_IMAGES // 2)), looks=(("repeat", False),)),
    FaceTrial("pairs-tight", "A little worse: hair and outline of the head, which tell people apart, are cut off.",
              changes=(("terms", _SUPCON),),
              looks=(("repeat", False), ("crop", 104), ("judged_crops", (104, 92)))),
    FaceTrial("pairs-unvaried", "Clearly worse: two photographs of a person do not show all that may change.",
              changes=(("terms", _SUPCON), ("augment", AugmentConfig(translate=2))), looks=(("repeat", False),)),
)  # fmt: skip


@dataclass(frozen=True)
class GridRun:
    """A run of the assignment's network with one setting changed, judged on the validation pairs alone.

    Attributes:
        parameter: what is changed: a field of ``KochConfig``.
        value: its value.
    """

    parameter: str
    value: float | str

    @property
    def name(self) -> str:
        """Name of the run in the study's table."""
        return f"{self.parameter}={self.value}"

    @property
    def config(self) -> KochConfig:
        """What is trained; a run over more epochs never stops early, for its history is read at each of them."""
        if self.parameter == "epochs":
            return dataclasses.replace(KOCH, epochs=int(self.value), patience=0)
        return dataclasses.replace(KOCH, epochs=GRID_EPOCHS, patience=0, **{self.parameter: self.value})  # type: ignore[arg-type]


READ_EPOCHS = (1, 2, 3, 5, 10, 15, 20, 30)
# The assignment's own setting stands in every curve, from the history of its run of 30 epochs.
GRID: tuple[GridRun, ...] = (
    GridRun("epochs", READ_EPOCHS[-1]),
    *(GridRun("learning_rate", rate) for rate in (5e-6, 1e-5, 3e-5, 7e-5, 1e-4, 1e-3)),
    *(GridRun("batch_size", size) for size in (8, 16, 48, 64)),
    GridRun("framing", "window"),
    GridRun("pixel_scale", round(1 / 255, 6)),
)


@dataclass(frozen=True)
class FaceRun:
    """One final network.

    Attributes:
        system: a name in ``SYSTEMS``.
        seed: of weights, order and augmentation; the cut into training and validation people is always the same.
    """

    system: str
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the run's record."""
        return f"faces-{self.system}-seed{self.seed}"

    @property
    def config(self) -> dict[str, Any]:
        """What the run trains with, as JSON."""
        if self.system == "koch":
            return dataclasses.replace(KOCH, seed=self.seed).to_json()
        if self.system == "embedding":
            return self.embedding.to_json()
        return {"weights": PRETRAINED_NAME, "size": PRETRAINED_SIZE, "judged_crops": list(EMBEDDING.judged_crops)}

    @property
    def embedding(self) -> FaceConfig:
        """The configuration of an embedding network with this seed."""
        return dataclasses.replace(EMBEDDING, train=dataclasses.replace(EMBEDDING.train, seed=self.seed))


PRETRAINED_NAME, PRETRAINED_SIZE = "imagenet-efficientnet-lite0", 128
RUNS: tuple[FaceRun, ...] = (
    *(FaceRun("embedding", seed) for seed in SEEDS),
    *(FaceRun("koch", seed) for seed in SEEDS),
    FaceRun("pretrained"),
)


# --- the test pairs -------------------------------------------------------------------------------


def answers_on_test(score: Score, learned: Iterable[FaceSet], faces: FaceSet | None = None) -> TestAnswers:
    """Let a finished network answer the test pairs; nothing else in the package reads them.

    Args:
        score: of a network whose threshold and settings are final.
        learned: the sets that it learned from and was chosen by.
        faces: other faces that take the place of LFW's test set, for tests and synthetic data.

    Raises:
        SplitError: a person of the test pairs is in one of those sets.
    """
    faces = load_test_faces() if faces is None else faces
    for part in learned:
        if common := shared_people(part, faces):
            raise SplitError(f"{common[0]} is both learned and tested on; keep the two apart.")
    return TestAnswers(score(faces), faces.pairs.same)


# --- training -------------------------------------------------------------------------------------


def train_embedding(
    config: FaceConfig, faces: FaceSet, *, run_dir: Path | None = None, device: str = "auto", progress: bool = True
) -> TrainResult:
    """Train an encoder on people as classes, by the project's own engine; errors as ``train``."""
    images = training_images(faces, config.crop, config.size, config.least, config.repeat)
    people = range(images.num_classes)
    return train(config.train, images, people, run_dir=run_dir, device=device, progress=progress)


def train_pairs(
    config: KochConfig,
    training: FaceSet,
    validation: FaceSet,
    *,
    run_dir: Path | None = None,
    device: str = "auto",
    progress: bool = True,
) -> KochResult:
    """Train the assignment's network on the training pairs; errors as ``train_koch``."""
    images = [grey(part.images, config.side, config.framing) for part in (training, validation)]
    return train_koch(
        config, images[0], training.pairs, images[1], validation.pairs, run_dir=run_dir, device=device,
        progress=progress,
    )  # fmt: skip


def pretrained_encoder(training: FaceSet) -> Encoder:
    """An encoder with ImageNet weights, centred on the training people; it has learned no face.

    Raises:
        MissingPackageError: the package that ships the weights is not installed.
    """
    encoder = Encoder(PRETRAINED[PRETRAINED_NAME].backbone, image_size=PRETRAINED_SIZE)
    load_pretrained(encoder, PRETRAINED_NAME)
    encoder.eval()
    encoder.set_centre(squares(training.images, EMBEDDING.crop, PRETRAINED_SIZE))
    return encoder


# --- storing --------------------------------------------------------------------------------------


def table_path() -> Path:
    """Where the study's numbers are stored."""
    return results.results_dir() / "faces.csv"


def pairs_path() -> Path:
    """Where every final network's probabilities of the test pairs are stored."""
    return results.results_dir() / "face_pairs.csv"


def stored_faces() -> pd.DataFrame:
    """The stored rows of ``results/faces.csv``.

    Raises:
        ResultsError: nothing is stored, or the table is damaged.
    """
    return results.read_table(table_path(), FACE_COLUMNS)


def stored_pairs() -> pd.DataFrame:
    """The stored rows of ``results/face_pairs.csv``: probability of "same" by system, seed and test pair.

    Raises:
        ResultsError: nothing is stored, or the table is damaged.
    """
    return results.read_table(pairs_path(), PAIR_COLUMNS)


def store_pairs(run: FaceRun, same: torch.Tensor, probability: torch.Tensor) -> pd.DataFrame:
    """Put the probabilities of one run's test pairs into the table, replacing those of the same run.

    Returns:
        the whole table as stored.
    """
    new = pd.DataFrame(
        {
            "system": run.system,
            "seed": run.seed,
            "pair": np.arange(len(same)),
            "same": same.int().numpy(),
            "probability": [float(f"{value:.4g}") for value in probability.tolist()],
        }
    )
    path = pairs_path()
    with locked(path.with_name(f".{path.name}.lock")):
        if path.exists():
            old = stored_pairs()
            new = pd.concat([old[(old.system != run.system) | (old.seed != run.seed)], new], ignore_index=True)
        buffer = io.StringIO()
        new.to_csv(buffer, index=False, lineterminator="\n")
        write_text_atomically(path, buffer.getvalue())
    return new


def is_stored(run: FaceRun) -> bool:
    """Whether a run's numbers, record, probabilities and checkpoint are there and are those of its configuration."""
    try:
        table, pairs, record = stored_faces(), stored_pairs(), results.load_json(run.name)
        same = record["config"] == run.config
        if run == FaceRun("embedding"):
            same &= checkpoint_info(checkpoint_path()).get("config") == run.config
    except (ResultsError, CheckpointError, KeyError):
        return False
    return same and all(bool(((t.system == run.system) & (t.seed == run.seed)).any()) for t in (table, pairs))


def run_faces(
    run: FaceRun, faces: FaceSet, *, test: FaceSet | None = None, device: str = "auto", progress: bool = True
) -> dict[str, Estimate]:
    """Train one network, choose its threshold on validation people, judge it on the test pairs, and store it all.

    Args:
        run: which one.
        faces: LFW's development training set.
        test: faces that take the place of the test set, for tests.
        device: see ``train``.
        progress: show a progress bar.

    Raises:
        UnknownNameError: no such system.
        DataError: the test pairs cannot be reached or are damaged.
        MissingPackageError: the pretrained weights are not installed.
    """
    if run.system not in SYSTEMS:
        raise unknown("system", run.system, SYSTEMS)
    computed_with = results.provenance(device)
    run_dir = results.project_root() / "runs" / run.name
    training, validation = split_by_person(faces, VALIDATION_SHARE)
    record = {"config": run.config, "alignment": faces.alignment, "faces": _counts(training, validation)}
    checkpoint = ""
    if run.system == "koch":
        config = KochConfig.from_json(run.config)
        result = train_pairs(config, training, validation, run_dir=run_dir, device=device, progress=progress)
        score = koch_score(result)
        logits, same = score(validation), validation.pairs.same
        metrics = _judge_koch(logits, same)
        # Probabilities stay those of the network's own sigmoid.
        verdict = Verdict(threshold_for_balanced_accuracy(logits, same), 1.0, 0.0)
        last = result.history.iloc[-1]
        columns = {"loss_train": "loss", "loss_validation": "validation_loss", "acc_train": "accuracy"}
        metrics |= {metric: studies.exact(last[column]) for metric, column in columns.items()}
        seconds, history = result.seconds, result.history
        record["parameters"] = keras_counts(result.network)
        with torch.no_grad():
            record["penalty"] = float(penalty(result.network, config))
    else:
        if run.system == "embedding":
            crops = run.embedding.judged_crops
            trained = train_embedding(run.embedding, training, run_dir=run_dir, device=device, progress=progress)
            encoder, history, seconds = trained.encoder, trained.history, trained.seconds
        else:
            crops, seconds, history = EMBEDDING.judged_crops, 0.0, pd.DataFrame()
            encoder = pretrained_encoder(training)
            record["note"] = PRETRAINED[PRETRAINED_NAME].trained_on
        metrics, verdict = judge_embeddings(encoder, crops, validation)
        if run == FaceRun("embedding"):
            path = checkpoint_path()
            info = {"system": run.system, "config": run.config, "crops": list(crops), "alignment": faces.alignment}
            save_encoder(encoder, path, {**info, **verdict.info})
            encoder = load_encoder(path)  # the numbers are those of the file
            checkpoint = path.relative_to(results.project_root()).as_posix()
        if len(history):
            metrics["loss_train"] = studies.exact(history.iloc[-1]["loss"])
        score = cosine_score(encoder, crops)
        record["parameters"] = count_parameters(encoder)
    answers = answers_on_test(score, (training, validation), test)
    metrics = {**answers.metrics(verdict), **metrics}
    if run.system == "koch":
        cross_entropy = F.binary_cross_entropy_with_logits(answers.score, answers.same.float())
        metrics["loss_test"] = studies.exact(float(cross_entropy) + record["penalty"])
    metrics["seconds"] = studies.exact(seconds)
    record |= {
        "seconds": seconds,
        "history": history.to_dict(orient="records"),
        "verdict": dataclasses.asdict(verdict),
        "provenance": computed_with,
    }
    results.store_json(run.name, record)
    store_pairs(run, answers.same, answers.probability(verdict))
    key = {"system": run.system, "seed": run.seed}
    results.store_run(key, metrics, checkpoint, table=table_path(), columns=FACE_COLUMNS)
    shutil.rmtree(run_dir, ignore_errors=True)
    return metrics


OF_THE_TRAINING = ("loss_train", "loss_validation", "acc_train", "seconds")  # which no checkpoint gives


def reevaluate_faces(path: Path, faces: FaceSet | None = None, test: FaceSet | None = None) -> dict[str, Estimate]:
    """Compute what is stored of an embedding network anew from its checkpoint.

    Args:
        path: of the checkpoint.
        faces: LFW's development training set; loaded if left out.
        test: faces that take the place of the test set, for tests.

    Returns:
        all metrics but those of the training.

    Raises:
        CheckpointError: the checkpoint is missing or damaged, or is no encoder of faces.
        DataError: the data cannot be reached or are damaged.
    """
    encoder, verdict, crops = read_verifier(path)
    training, validation = split_by_person(faces or load_training_faces(), VALIDATION_SHARE)
    metrics, _ = judge_embeddings(encoder, crops, validation)
    return {**answers_on_test(cosine_score(encoder, crops), (training, validation), test).metrics(verdict), **metrics}


def ensemble(system: str, pairs: pd.DataFrame | None = None) -> dict[str, Estimate]:
    """What the networks of all seeds say together: the mean of their calibrated log odds, from the stored answers.

    Each network's calibration comes from validation people, so nothing is fitted here.

    Args:
        system: a name in ``SYSTEMS``.
        pairs: see ``stored_pairs``, which is read if it is left out.

    Returns:
        ``acc_test_half``, ``auc_test`` and ``eer_test``.

    Raises:
        ResultsError: no answers of the system are stored, or those of a seed are incomplete.
    """
    table = stored_pairs() if pairs is None else pairs
    table = table[table.system == system].pivot(index="pair", columns="seed", values=["probability", "same"])
    if table.empty or table.isna().to_numpy().any():
        raise ResultsError(f"The answers of {system!r} are missing or incomplete; run 'python -m siamese_utils faces'.")
    score = torch.logit(torch.tensor(table.probability.to_numpy(float)), eps=1e-6).mean(dim=1)
    answers = TestAnswers(score, torch.tensor(table.same.to_numpy()[:, 0] == 1))
    metrics = answers.metrics(Verdict(0.0, 1.0, 0.0))
    return {name: metrics[name] for name in ("acc_test_half", "auc_test", "eer_test")}


def _counts(training: FaceSet, validation: FaceSet) -> dict[str, int]:
    parts = {"training": training, "validation": validation}
    counts = {f"{name} people": len(part.people) for name, part in parts.items()}
    return counts | {f"{name} pairs": len(part.pairs.same) for name, part in parts.items()}


def _judge_koch(logits: torch.Tensor, same: torch.Tensor) -> dict[str, Estimate]:
    return {**judge_validation(logits, same), "acc_validation_half": accuracy_estimate((logits > 0) == same)}


def run_all(
    *, only: Iterable[str] = (), device: str = "auto", progress: bool = True
) -> Iterator[tuple[FaceRun, dict[str, Estimate]]]:
    """Do every run that is not stored yet; started again after a kill, it goes on.

    Args:
        only: systems, or names of runs such as ``"faces-koch-seed0"``; all if empty.
        device: see ``train``.
        progress: show a progress bar.

    Yields:
        each run and its metrics, which are empty where it was stored already.

    Raises:
        UnknownNameError: ``only`` names no run.
        DataError: the data cannot be reached or are damaged.
    """
    wanted = set(only)
    if strange := wanted - set(SYSTEMS) - {run.name for run in RUNS}:
        raise unknown("run", min(strange), [*SYSTEMS, *(run.name for run in RUNS)])
    faces = None
    for run in RUNS:
        if wanted and not wanted & {run.system, run.name}:
            continue
        if is_stored(run):
            yield run, {}
            continue
        faces = faces or load_training_faces()
        yield run, run_faces(run, faces, device=device, progress=progress)


def over_seeds(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Mean and spread over seeds: one row a system and metric, with ``seeds, mean, sd, lowest, highest``.

    The deviation is that between training runs; the interval of each single run, over pairs, is in the table itself.

    Raises:
        ResultsError: nothing is stored.
    """
    table = stored_faces() if table is None else table
    grouped = table.groupby(["system", "metric"], sort=False).value
    return grouped.agg(seeds="count", mean="mean", sd="std", lowest="min", highest="max").reset_index()


def seeds_table(metrics: Sequence[str], systems: Sequence[str], table: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row a metric, in words, and one column a system: mean over its seeds, lowest and highest of them.

    A metric that a system does not have is left out of its column.

    Raises:
        ResultsError: nothing is stored.
        UnknownNameError: there is no such metric or system.
    """
    for kind, names, known in (("metric", metrics, METRICS), ("system", systems, SYSTEMS)):
        for name in names:
            if name not in known:
                raise unknown(kind, name, known)
    spread = over_seeds(table).set_index(["system", "metric"])

    def cell(system: str, metric: str) -> str:
        if (system, metric) not in spread.index:
            return "–"
        row = spread.loc[(system, metric)]
        decimals = 2 if metric.startswith("loss") else 0 if metric == "seconds" else 1
        several = f", {row.lowest:.{decimals}f} to {row.highest:.{decimals}f}" if row.seeds > 1 else ""
        return f"{row['mean']:.{decimals}f}{several}"

    return pd.DataFrame(
        [{"measure": METRICS[metric], **{NAMES[s]: cell(s, metric) for s in systems}} for metric in metrics]
    )


# --- trials and sensitivity -----------------------------------------------------------------------


def _select(names: Sequence[str], only: Iterable[str], kind: str) -> set[str]:
    wanted = set(only)
    if strange := wanted - set(names):
        raise unknown(kind, min(strange), names)
    return wanted or set(names)


def _study_has(study: str, trial: str, config: dict[str, Any]) -> bool:
    try:
        record, table = studies.read_record(study, trial), studies.read_study(study)
    except ResultsError:
        return False
    return record.get("config") == config and bool((table.trial == trial).any())


def _store_trial(study: str, trial: str, seed: int, record: dict[str, Any], metrics: dict[str, Estimate]) -> None:
    results.write_record(studies.record_path(study, trial, seed), record)
    results.store_run(
        {"trial": trial, "seed": seed}, metrics, "", table=studies.study_path(study), columns=studies.STUDY_COLUMNS
    )


def run_trials(
    faces: FaceSet | None = None, *, only: Iterable[str] = (), device: str = "auto", progress: bool = True
) -> Iterator[tuple[FaceTrial, dict[str, Estimate]]]:
    """Run the trials that are not stored yet; each is judged on validation people, never on test pairs.

    Args:
        faces: LFW's development training set; loaded if left out.
        only: names of trials; all if empty.
        device: see ``train``.
        progress: show a progress bar.

    Yields:
        each trial and its metrics, which are empty where it was stored already.

    Raises:
        UnknownNameError: ``only`` names no trial.
    """
    wanted = _select([trial.name for trial in TRIALS], only, "trial")
    for trial in TRIALS:
        if trial.name not in wanted:
            continue
        config = trial.config
        if _study_has(TRIAL_STUDY, trial.name, config.to_json()):
            yield trial, {}
            continue
        faces = faces or load_training_faces()
        training, validation = split_by_person(faces, VALIDATION_SHARE)
        computed_with = results.provenance(device)
        trained = train_embedding(config, training, device=device, progress=progress)
        metrics, _ = judge_embeddings(trained.encoder, config.judged_crops, validation)
        alone, _ = judge_embeddings(trained.encoder, config.judged_crops[:1], validation)
        metrics |= {f"{name}_one_crop": estimate for name, estimate in alone.items()}
        metrics["seconds"] = studies.exact(trained.seconds)
        record = {
            "expectation": trial.expectation,
            "config": config.to_json(),
            "parameters": count_parameters(trained.encoder),
            "history": trained.history.to_dict(orient="records"),
            "provenance": computed_with,
        }
        _store_trial(TRIAL_STUDY, trial.name, 0, record, metrics)
        yield trial, metrics


def trial_log() -> pd.DataFrame:
    """The stored trials: percent on validation people with 95% intervals, and what was expected.

    The area under the curve is over all pairs of photographs, the accuracy over the pairs of LFW's list alone.

    Raises:
        ResultsError: no trial is stored.
    """
    table = studies.read_study(TRIAL_STUDY)
    rows = []
    for trial in TRIALS:
        run = table[table.trial == trial.name].set_index("metric")
        if run.empty:
            continue
        row = {"trial": trial.name}
        for metric, heading in (
            ("auc_validation_all", "AUC"),
            ("auc_validation_all_one_crop", "AUC, one crop"),
            ("acc_validation", "accuracy"),
        ):
            row[heading] = f"{run.value[metric]:.1f} ± {run.ci95[metric]:.1f}"
        rows.append({**row, "expected beforehand": trial.expectation})
    return pd.DataFrame(rows)


def run_grid(
    faces: FaceSet | None = None, *, only: Iterable[str] = (), device: str = "auto", progress: bool = True
) -> Iterator[tuple[GridRun, dict[str, Estimate]]]:
    """Run the sensitivity runs of the assignment's network that are not stored yet; arguments as ``run_trials``.

    Yields:
        each run and its metrics, which are empty where it was stored already.

    Raises:
        UnknownNameError: ``only`` names no run.
    """
    wanted = _select([run.name for run in GRID], only, "sensitivity run")
    for run in GRID:
        if run.name not in wanted:
            continue
        config = run.config
        if _study_has(GRID_STUDY, run.name, config.to_json()):
            yield run, {}
            continue
        faces = faces or load_training_faces()
        training, validation = split_by_person(faces, VALIDATION_SHARE)
        computed_with = results.provenance(device)
        run_dir = results.project_root() / "runs" / f"{GRID_STUDY}-{run.name}"
        result = train_pairs(config, training, validation, run_dir=run_dir, device=device, progress=progress)
        metrics = {
            **_judge_koch(koch_score(result)(validation), validation.pairs.same),
            "loss_validation": studies.exact(result.history.validation_loss.iloc[-1]),
            "loss_train": studies.exact(result.history.loss.iloc[-1]),
            "seconds": studies.exact(result.seconds),
        }
        history = result.history.to_dict(orient="records")
        record = {
            "config": config.to_json(),
            "history": history,
            "validation_pairs": len(validation.pairs.same),
            "provenance": computed_with,
        }
        _store_trial(GRID_STUDY, run.name, config.seed, record, metrics)
        shutil.rmtree(run_dir, ignore_errors=True)
        yield run, metrics


def sensitivity_table() -> pd.DataFrame:
    """Validation accuracy and loss by setting: ``parameter, value, epochs, accuracy, ci95, loss``, sorted.

    The assignment's setting is the run over 30 epochs, read after as many epochs as the others take.

    Raises:
        ResultsError: the run over 30 epochs is not stored.
    """
    long = studies.read_record(GRID_STUDY, GRID[0].name)
    history, pairs = long["history"], long["validation_pairs"]

    def row(parameter: str, value: object, epochs: int, entry: dict[str, float]) -> dict[str, object]:
        share = entry["validation_accuracy"]
        low, high = wilson(round(share * pairs / 100), pairs)
        return {
            "parameter": parameter, "value": value, "epochs": epochs, "accuracy": share,
            "ci95": (high - low) / 2, "loss": entry["validation_loss"],
        }  # fmt: skip

    rows = [row("epochs", epochs, epochs, history[epochs - 1]) for epochs in READ_EPOCHS if epochs <= len(history)]
    for parameter in dict.fromkeys(run.parameter for run in GRID[1:]):
        own = [row(parameter, getattr(KOCH, parameter), GRID_EPOCHS, history[GRID_EPOCHS - 1])]
        for run in GRID[1:]:
            if run.parameter == parameter and _study_has(GRID_STUDY, run.name, run.config.to_json()):
                entries = studies.read_record(GRID_STUDY, run.name)["history"]
                own.append(row(parameter, run.value, len(entries), entries[-1]))
        rows += sorted(own, key=lambda one: one["value"])
    return pd.DataFrame(rows)


# --- made-up faces --------------------------------------------------------------------------------


def demo_answers(faces: FaceSet, test: FaceSet) -> tuple[Encoder, TestAnswers, Verdict]:
    """A small encoder that learns made-up faces within seconds, and its answers to made-up test pairs.

    Raises:
        ShapeError: the faces are real, for which there are stored results.
    """
    if not (faces.is_synthetic and test.is_synthetic):
        raise ShapeError("The demonstration is for made-up faces; read the stored results of real ones.")
    quick = dataclasses.replace(
        EMBEDDING.train, encoder="conv3", embedding_dim=32, batch_size=32, least_images=1_600, most_images=1_600,
        resolutions=(),
    )  # fmt: skip
    config = dataclasses.replace(EMBEDDING, train=quick, size=32)
    training, validation = split_by_person(faces, VALIDATION_SHARE)
    encoder = train_embedding(config, training, device="cpu", progress=False).encoder
    _, verdict = judge_embeddings(encoder, config.judged_crops, validation)
    score = cosine_score(encoder, config.judged_crops)
    return encoder, answers_on_test(score, (training, validation), test), verdict


def people_as_classes(faces: FaceSet) -> ImageSet:
    """The photographs as an image set, for the notebook's frame: (N, 64, 64, 3), one class a person."""
    return training_images(faces, EMBEDDING.crop, EMBEDDING.size, least=1)
