"""From a similarity to an answer: the threshold of "same", and the probability of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from siamese_utils.data.arrays import as_row
from siamese_utils.evaluation.pairs import threshold_for_balanced_accuracy


@dataclass(frozen=True)
class Verdict:
    """How a cosine similarity is read: P(same) = 1 / (1 + exp(-(slope * cosine + intercept))).

    Attributes:
        threshold: cosine above which a pair is called the same, with the best balanced accuracy.
        slope: of the logistic curve.
        intercept: likewise; for pairs of which half are the same.
    """

    threshold: float
    slope: float
    intercept: float

    @property
    def info(self) -> dict[str, object]:
        """What a checkpoint's metadata hold of it."""
        return {"threshold": self.threshold, "calibration": {"slope": self.slope, "intercept": self.intercept}}


def fit_verdict(same: torch.Tensor, different: torch.Tensor) -> Verdict:
    """Threshold and logistic calibration (Platt, 1999) from similarities of held-out pairs, float32 (n,) each.

    Raises:
        ShapeError: no rows of finite numbers.
        SamplingError: no same or no different pair.
    """
    same, different = (as_row("Similarities", given).float() for given in (same, different))
    similarity = torch.cat([same, different]).numpy()
    is_same = np.arange(len(similarity)) < len(same)
    threshold = threshold_for_balanced_accuracy(similarity, is_same)
    fit = LogisticRegression(C=1e6, class_weight="balanced").fit(similarity[:, None].astype(np.float64), is_same)
    return Verdict(threshold, float(fit.coef_[0, 0]), float(fit.intercept_[0]))
