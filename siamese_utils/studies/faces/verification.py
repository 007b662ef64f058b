"""Comparing faces: how alike two photographs are, how well a network tells that, and one's own photographs.

Everything here works on scores of pairs. What is learned, and on whose photographs scores are judged, is the matter of
``study``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from torch.nn import functional as F

from siamese_utils.data.faces import PHOTO, FaceSet, face_window, grey, shared_people, squares
from siamese_utils.data.image_files import load_image
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, SamplingError, SplitError
from siamese_utils.evaluation.calibration import Verdict, fit_verdict
from siamese_utils.evaluation.estimates import Estimate, bootstrap_estimate, wilson
from siamese_utils.evaluation.pairs import auc, pair_auc, threshold_for_balanced_accuracy
from siamese_utils.studies.faces.koch import KochResult, pair_logits
from siamese_utils.system import project

# --- scores ---------------------------------------------------------------------------------------

Score = Callable[[FaceSet], torch.Tensor]  # how alike the two of every pair are, float32 (P,)


def embed_faces(encoder: Encoder, images: torch.Tensor, crops: Sequence[int]) -> torch.Tensor:
    """Embed faces, averaged over square crops of several sizes.

    Args:
        encoder: to embed with.
        images: uint8 (N, 150, 130, 3), windows.
        crops: sides of the squares in pixels of the photograph.

    Returns:
        float32 (N, D), rows of unit length.
    """
    total = sum(encoder.embed(squares(images, crop, encoder.image_size)) for crop in crops)
    return F.normalize(torch.as_tensor(total), dim=1)


def cosine_score(encoder: Encoder, crops: Sequence[int]) -> Score:
    """The cosine similarity of the two embeddings of every pair."""

    def score(faces: FaceSet) -> torch.Tensor:
        z = embed_faces(encoder, faces.images, crops)
        return (z[faces.pairs.first] * z[faces.pairs.second]).sum(dim=1)

    return score


def koch_score(result: KochResult) -> Score:
    """The log odds that the assignment's network gives every pair."""

    def score(faces: FaceSet) -> torch.Tensor:
        return pair_logits(result.network, grey(faces.images, result.config.side, result.config.framing), faces.pairs)

    return score


# --- judging --------------------------------------------------------------------------------------


def accuracy_estimate(right: torch.Tensor) -> Estimate:
    """Share of true values, bool (n,), in percent, with half the width of Wilson's 95% interval."""
    hits = int(right.sum())
    low, high = wilson(hits, len(right))
    return Estimate(100 * hits / len(right), (high - low) / 2, len(right))


def equal_error_rate(score: NDArray[np.float64], same: NDArray[np.bool_]) -> float:
    """The error at the threshold where same and different pairs are called wrong equally often, in percent.

    Between two points of the ROC curve it is interpolated.
    """
    # The quick way of sklearn.metrics.roc_curve, whose checks would take most of the time of a bootstrap.
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(same[order])
    cuts = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # behind the last of equal scores
    rejected_wrongly = np.append(1.0, 1 - hits[cuts] / hits[-1])
    accepted_wrongly = np.append(0.0, (cuts + 1 - hits[cuts]) / (len(order) - hits[-1]))
    return 100 * float(np.interp(0.0, accepted_wrongly - rejected_wrongly, accepted_wrongly))


def accuracy_at_own_threshold(score: torch.Tensor, same: torch.Tensor, folds: int = 10) -> Estimate:
    """Accuracy on pairs, each called by a threshold chosen on the other folds; the folds are drawn once and for all.

    Raises:
        SamplingError: fewer pairs of a kind than folds.
    """
    if min(int(same.sum()), int((~same).sum())) < folds:
        raise SamplingError(f"{folds} folds need as many pairs of each kind; give more pairs or fewer folds.")
    right = torch.empty(len(same), dtype=torch.bool)
    for rest, fold in StratifiedKFold(folds, shuffle=True, random_state=0).split(score.numpy(), same.numpy()):
        threshold = threshold_for_balanced_accuracy(score[rest], same[rest])
        right[fold] = (score[fold] > threshold) == same[fold]
    return accuracy_estimate(right)


def judge_validation(score: torch.Tensor, same: torch.Tensor) -> dict[str, Estimate]:
    """Accuracy at the best threshold and AUC on scored validation pairs, float32 (P,) and bool (P,)."""
    folds = min(10, int(same.sum()), int((~same).sum()))
    return {
        "acc_validation": accuracy_at_own_threshold(score, same, folds),
        "auc_validation": bootstrap_estimate(auc, score, same),
    }


def judge_log_odds(logits: torch.Tensor, same: torch.Tensor) -> dict[str, Estimate]:
    """The same for log odds, and the accuracy at a probability of one half: float32 (P,) and bool (P,)."""
    return {**judge_validation(logits, same), "acc_validation_half": accuracy_estimate((logits > 0) == same)}


def judge_embeddings(
    encoder: Encoder, crops: Sequence[int], validation: FaceSet
) -> tuple[dict[str, Estimate], Verdict]:
    """The same, the AUC over all pairs of validation photographs, and the verdict fitted to all of them.

    Same and different pairs weigh one half each in the verdict, as in LFW's lists.
    """
    z = embed_faces(encoder, validation.images, crops)
    pairs = validation.pairs
    metrics = judge_validation((z[pairs.first] * z[pairs.second]).sum(dim=1), pairs.same)
    metrics["auc_validation_all"] = pair_auc(z, validation.person)
    similarity = z @ z.T
    rows, columns = torch.triu_indices(len(z), len(z), 1)
    same = validation.person[rows] == validation.person[columns]
    values = similarity[rows, columns]
    return metrics, fit_verdict(values[same], values[~same])


@dataclass(frozen=True, eq=False)
class TestAnswers:
    """A network's answers to the test pairs.

    Attributes:
        score: float32 (P,), how alike the two are.
        same: bool (P,), the truth.
    """

    __test__ = False  # not a test, whatever pytest makes of its name

    score: torch.Tensor
    same: torch.Tensor

    @classmethod
    def of(cls, score: Score, learned: Iterable[FaceSet], faces: FaceSet) -> TestAnswers:
        """What a network says of pairs whose people are in none of the sets that it learned from and was chosen by.

        Raises:
            SplitError: a person is in one of them.
        """
        for part in learned:
            if common := shared_people(part, faces):
                raise SplitError(f"{common[0]} is both learned and tested on; keep the two apart.")
        return cls(score(faces), faces.pairs.same)

    def probability(self, verdict: Verdict) -> torch.Tensor:
        """P(same) by the calibration, float32 (P,)."""
        return torch.sigmoid(verdict.slope * self.score + verdict.intercept)

    def metrics(self, verdict: Verdict) -> dict[str, Estimate]:
        """Accuracy at the verdict's threshold and at its probability of one half, AUC, and equal error rate."""
        return {
            "acc_test": accuracy_estimate((self.score > verdict.threshold) == self.same),
            "acc_test_half": accuracy_estimate((self.probability(verdict) > 0.5) == self.same),
            "auc_test": bootstrap_estimate(auc, self.score, self.same),
            "eer_test": bootstrap_estimate(equal_error_rate, self.score, self.same),
        }


# --- verifying one's own photographs --------------------------------------------------------------


@dataclass(frozen=True)
class Verification:
    """Whether two photographs show the same person.

    Attributes:
        same: whether the similarity is above the threshold.
        probability: calibrated P(same), for pairs of which half are the same.
        similarity: cosine of the two embeddings, -1 to 1.
        threshold: of the similarity.
    """

    same: bool
    probability: float
    similarity: float
    threshold: float


def checkpoint_path() -> Path:
    """Where the encoder that ``verify`` uses is stored: the embedding network of seed 0."""
    return project.results_dir() / "checkpoints" / "faces.safetensors"


def read_verifier(checkpoint: Path | None = None) -> tuple[Encoder, Verdict, tuple[int, ...]]:
    """A stored encoder of faces, how to read its similarities, and its crops.

    Raises:
        CheckpointError: the file is missing or damaged, or is no encoder of faces.
    """
    path = checkpoint or checkpoint_path()
    info = checkpoint_info(path)
    try:
        verdict = Verdict(float(info["threshold"]), **info["calibration"])
        crops = tuple(int(crop) for crop in info["crops"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} does not say how to compare faces; train it with 'python -m siamese_utils faces'."
        ) from error
    return load_encoder(path), verdict, crops


def verify_photos(first: str | Path, second: str | Path, checkpoint: Path | None = None) -> Verification:
    """Compare two photographs of faces.

    The middle square of each is scaled to 250 x 250 pixels; the face is expected in the middle, upright and as large as
    in LFW, where it fills about the middle third of the width. No face is searched for.

    Args:
        first, second: image files of any format and size.
        checkpoint: the encoder; the stored one if left out.

    Raises:
        DataError: a file is missing or unreadable.
        CheckpointError: see ``read_verifier``.
    """
    encoder, verdict, crops = read_verifier(checkpoint)
    windows = torch.cat([face_window(load_image(path, PHOTO)) for path in (first, second)])
    z = embed_faces(encoder, windows, crops)
    similarity = float((z[0] @ z[1]).clamp(-1, 1))
    probability = float(torch.sigmoid(torch.tensor(verdict.slope * similarity + verdict.intercept)))
    return Verification(similarity > verdict.threshold, probability, similarity, verdict.threshold)
