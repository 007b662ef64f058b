"""Face verification on LFW: three systems, each with its seeds, judged on pairs of people whom none has learned.

All settings are judged on validation people (``trials``), and so are thresholds and calibrations. The test pairs are
read in one place alone, :func:`answers_on_test`, once for each finished network. In LFW's terms this is the
image-unrestricted setting without outside data: the people's names are used to form pairs. View 1, which is used here,
is LFW's view for development; published results on view 2 are averages over ten other folds, so compare them with care.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch.nn import functional as F

from siamese_utils.data.faces import FaceSet, load_test_faces, load_training_faces, split_by_person
from siamese_utils.encoders.encoder import count_parameters
from siamese_utils.encoders.pretrained import PRETRAINED
from siamese_utils.evaluation.calibration import Verdict
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.evaluation.pairs import threshold_for_balanced_accuracy
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, as_stored, training_record
from siamese_utils.studies.faces.koch import keras_counts, penalty
from siamese_utils.studies.faces.systems import (
    EMBEDDING,
    KOCH,
    WEIGHTS,
    WEIGHTS_SIZE,
    pretrained_encoder,
    train_embedding,
    train_pairs,
    with_seed,
)
from siamese_utils.studies.faces.verification import (
    Score,
    TestAnswers,
    checkpoint_path,
    cosine_score,
    judge_embeddings,
    judge_log_odds,
    koch_score,
    read_verifier,
)
from siamese_utils.system.project import results_dir

SEEDS = (0, 1, 2, 3, 4)
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


def _runs() -> list[Run]:
    """Every system with every seed; the cut into training and validation people is always the same."""
    runs = []
    for seed in SEEDS:
        config = with_seed(EMBEDDING, seed)
        images = config.train.most_images
        runs.append(Run({"system": "embedding", "seed": seed}, {"config": config}, images=images))
        runs.append(Run({"system": "koch", "seed": seed}, {"config": dataclasses.replace(KOCH, seed=seed)}))
    as_it_is = {"weights": WEIGHTS, "size": WEIGHTS_SIZE, "judged_crops": list(EMBEDDING.judged_crops)}
    return [*runs, Run({"system": "pretrained", "seed": 0}, {"config": as_it_is})]


@dataclass(frozen=True, eq=False)
class Finished:
    """A network whose threshold is chosen, and what is known of it before it meets the test pairs.

    Attributes:
        score: how alike it finds the two of every pair.
        verdict: threshold and calibration, from validation people.
        metrics: of the training and on validation people.
        record: for the run's record.
        checkpoint: content of its file, if it is kept.
    """

    score: Score
    verdict: Verdict
    metrics: Mapping[str, Estimate]
    record: Mapping[str, Any]
    checkpoint: bytes | None = None


def _koch(run: Run, training: FaceSet, validation: FaceSet, bench: Bench) -> Finished:
    trained = train_pairs(run.config, training, validation, bench)
    score, same = koch_score(trained), validation.pairs.same
    logits, last = score(validation), trained.history.iloc[-1]
    columns = {"loss_train": "loss", "loss_validation": "validation_loss", "acc_train": "accuracy"}
    metrics = judge_log_odds(logits, same) | {name: exact(last[column]) for name, column in columns.items()}
    record = {
        "parameters": keras_counts(trained.network),
        "penalty": penalty(trained.network, run.config).item(),
        "seconds": trained.seconds,
        "history": trained.history.to_dict(orient="records"),
    }
    # Probabilities stay those of the network's own sigmoid.
    return Finished(score, Verdict(threshold_for_balanced_accuracy(logits, same), 1.0, 0.0), metrics, record)


def _embedding(run: Run, training: FaceSet, validation: FaceSet, bench: Bench) -> Finished:
    crops, trained = run.config.judged_crops, train_embedding(run.config, training, bench)
    metrics, verdict = judge_embeddings(trained.encoder, crops, validation)
    info = {"system": "embedding", "config": run.config.to_json(), "crops": list(crops)}
    encoder, content = as_stored(trained.encoder, {**info, "alignment": training.alignment, **verdict.info})
    metrics["loss_train"] = exact(trained.history.iloc[-1]["loss"])
    return Finished(cosine_score(encoder, crops), verdict, metrics, training_record(trained), content)


def _pretrained(run: Run, training: FaceSet, validation: FaceSet, bench: Bench) -> Finished:
    crops, encoder = run.config["judged_crops"], pretrained_encoder(training)
    metrics, verdict = judge_embeddings(encoder, crops, validation)
    record = {"note": PRETRAINED[WEIGHTS].trained_on, "parameters": count_parameters(encoder), "seconds": 0.0}
    return Finished(cosine_score(encoder, crops), verdict, metrics, {**record, "history": []})


_FINISH: Mapping[object, Callable[..., Finished]] = {"koch": _koch, "embedding": _embedding, "pretrained": _pretrained}


def answers_on_test(score: Score, learned: Iterable[FaceSet], bench: Bench) -> TestAnswers:
    """Let a finished network answer LFW's test pairs; nothing else in the package reads them.

    Args:
        score: of a network whose threshold and settings are final.
        learned: the sets that it learned from and was chosen by.
        bench: where the test set is.

    Raises:
        SplitError: a person of the test pairs is in one of those sets.
        DataError: the test pairs cannot be reached or are damaged.
    """
    return TestAnswers.of(score, learned, bench.load(load_test_faces))


def _carry_out(run: Run, bench: Bench) -> Outcome:
    faces = bench.load(load_training_faces)
    training, validation = split_by_person(faces)
    network = _FINISH[run.key["system"]](run, training, validation, bench)
    answers = answers_on_test(network.score, (training, validation), bench)
    metrics = {**answers.metrics(network.verdict), **network.metrics}
    if "penalty" in network.record:
        cross_entropy = F.binary_cross_entropy_with_logits(answers.score, answers.same.float())
        metrics["loss_test"] = exact(float(cross_entropy) + network.record["penalty"])
    metrics["seconds"] = exact(network.record["seconds"])
    record = {
        "alignment": faces.alignment,
        "faces": _counts(training, validation),
        "verdict": dataclasses.asdict(network.verdict),
        **network.record,
    }
    pairs = _pair_rows(answers, network.verdict)
    return Outcome(metrics, network.checkpoint, record, tables={"face_pairs": pairs})


def _pair_rows(answers: TestAnswers, verdict: Verdict) -> pd.DataFrame:
    """Rows of ``face_pairs``: probability of "same" by test pair, to four digits."""
    probability = [float(f"{value:.4g}") for value in answers.probability(verdict).tolist()]
    return pd.DataFrame(
        {"pair": range(len(probability)), "same": answers.same.int().numpy(), "probability": probability}
    )


def _counts(training: FaceSet, validation: FaceSet) -> dict[str, int]:
    parts = {"training": training, "validation": validation}
    counts = {f"{name} people": len(part.people) for name, part in parts.items()}
    return counts | {f"{name} pairs": len(part.pairs.same) for name, part in parts.items()}


def _again(path: Path, bench: Bench) -> dict[str, dict[str, Estimate]]:
    encoder, verdict, crops = read_verifier(path)
    training, validation = split_by_person(bench.load(load_training_faces))
    metrics, _ = judge_embeddings(encoder, crops, validation)
    answers = answers_on_test(cosine_score(encoder, crops), (training, validation), bench)
    return {"faces": {**answers.metrics(verdict), **metrics}}


def _checkpoint(run: Run) -> Path | None:
    """One encoder is kept, for ``verify``."""
    return checkpoint_path() if dict(run.key) == {"system": "embedding", "seed": 0} else None


FACES = Study(
    "faces",
    "Do two photographs show the same person, whom no network has learned?",
    _runs,
    _carry_out,
    key=("system", "seed"),
    metrics=METRICS,
    tables=("face_pairs",),
    checkpoint=_checkpoint,
    record=lambda run: results_dir() / "runs" / f"faces-{run.label}.json",
    again=_again,
    once=("loss_train", "loss_validation", "acc_train", "seconds"),
)
