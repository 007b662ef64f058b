"""Face verification on LFW: the assignment's network, a smaller one that learns people, and what is stored of them.

All settings are judged on validation people (``face_trials``), and so are thresholds and calibrations. The test pairs
are read in one place alone, :func:`answers_on_test`, once for each finished network. In LFW's terms this is the
image-unrestricted setting without outside data: the people's names are used to form pairs. View 1, which is used here,
is LFW's view for development; published results on view 2 are averages over ten other folds, so compare them with care.
"""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch.nn import functional as F

from siamese_utils.data.faces import (
    FaceSet,
    grey,
    load_test_faces,
    load_training_faces,
    shared_people,
    split_by_person,
    squares,
    training_images,
)
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.encoders.pretrained import PRETRAINED, load_pretrained
from siamese_utils.errors import CheckpointError, ResultsError, ShapeError, SplitError, unknown
from siamese_utils.evaluation import estimates
from siamese_utils.evaluation.calibration import Verdict
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.pairs import threshold_for_balanced_accuracy
from siamese_utils.experiments import store as results
from siamese_utils.studies.faces.koch import KochConfig, KochResult, keras_counts, penalty, train_koch
from siamese_utils.studies.faces.verification import (
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
from siamese_utils.system import project, provenance
from siamese_utils.system.config import Config, Count, Counts
from siamese_utils.system.files import locked, write_text_atomically
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import TrainResult, train
from siamese_utils.training.losses import Term

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
NAMES = {
    "embedding": "learned people", "koch": "the assignment's network", "pretrained": "ImageNet (outside data)",
}  # fmt: skip
SEEDS = (0, 1, 2, 3, 4)
VALIDATION_SHARE = 0.2
EMBEDDING_IMAGES = 150_000  # shown in a final training: some 12 minutes on two cores


# --- configurations -------------------------------------------------------------------------------


class FaceConfig(Config):
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
    crop: Count = 128
    size: Count = 64
    least: Annotated[int, Field(ge=2)] = 2
    repeat: bool = True
    judged_crops: Counts = (128,)


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
    return project.results_dir() / "faces.csv"


def pairs_path() -> Path:
    """Where every final network's probabilities of the test pairs are stored."""
    return project.results_dir() / "face_pairs.csv"


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
    computed_with = provenance.provenance(device)
    run_dir = project.project_root() / "runs" / run.name
    training, validation = split_by_person(faces, VALIDATION_SHARE)
    record = {"config": run.config, "alignment": faces.alignment, "faces": _counts(training, validation)}
    checkpoint = ""
    if run.system == "koch":
        config = KochConfig.from_json(run.config)
        result = train_pairs(config, training, validation, run_dir=run_dir, device=device, progress=progress)
        score = koch_score(result)
        logits, same = score(validation), validation.pairs.same
        metrics = judge_koch(logits, same)
        # Probabilities stay those of the network's own sigmoid.
        verdict = Verdict(threshold_for_balanced_accuracy(logits, same), 1.0, 0.0)
        last = result.history.iloc[-1]
        columns = {"loss_train": "loss", "loss_validation": "validation_loss", "acc_train": "accuracy"}
        metrics |= {metric: estimates.exact(last[column]) for metric, column in columns.items()}
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
            checkpoint = path.relative_to(project.project_root()).as_posix()
        if len(history):
            metrics["loss_train"] = estimates.exact(history.iloc[-1]["loss"])
        score = cosine_score(encoder, crops)
        record["parameters"] = count_parameters(encoder)
    answers = answers_on_test(score, (training, validation), test)
    metrics = {**answers.metrics(verdict), **metrics}
    if run.system == "koch":
        cross_entropy = F.binary_cross_entropy_with_logits(answers.score, answers.same.float())
        metrics["loss_test"] = estimates.exact(float(cross_entropy) + record["penalty"])
    metrics["seconds"] = estimates.exact(seconds)
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


def judge_koch(logits: torch.Tensor, same: torch.Tensor) -> dict[str, Estimate]:
    """What the assignment's network is judged by on validation pairs: log odds (P,) and bool (P,)."""
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
