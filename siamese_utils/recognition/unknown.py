"""How sure an answer is, and whether an image is of none of the classes; both read from the support alone.

The probability is a softmax of a head's scores over a temperature. The temperature makes the true classes of support
images likely when each is classified by all the others (Guo et al., 2017), drawn towards a default that stands in where
a class has one image alone. An image is unknown if its cosine similarity to the nearest prototype is below a threshold.
To find the threshold, support images are compared with all classes but their own, as unknown ones would be; no image of
none of the classes is ever needed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from siamese_utils.data.arrays import as_number
from siamese_utils.errors import ConfigError
from siamese_utils.evaluation.pairs import threshold_for_balanced_accuracy
from siamese_utils.recognition.heads import Head, leave_one_out_scores, prototype_left_out

TEMPERATURE = 0.65
"""Default temperature, in standard deviations of the scores that images get for other classes than their own. This and
the constants below were chosen on one half of the classes of photographs (``siamese_utils.data.photos``); what they
give on the other half is in ``results/own_images.csv``."""
SPREAD = 0.06
"""The standard deviation that is expected beforehand; it counts as much as three pairs of classes."""
PRIOR = 1.0
"""Weight of the default temperature: log-likelihood that being wrong by a factor of two costs."""
BETWEEN = 0.15
"""Where the threshold lies with one image a class: from the similarity of the nearest other classes (0) to 1."""

_ROWS = 4_000  # support images looked at, of more a part spread evenly
_MOST_SCORES = 20_000_000  # images times classes, likewise
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reading:
    """How scores and similarities are read.

    Attributes:
        temperature: what scores are divided by before the softmax.
        threshold: cosine similarity to the nearest prototype below which an image is unknown.
    """

    temperature: float
    threshold: float

    def probabilities(self, scores: torch.Tensor) -> torch.Tensor:
        """Probability of each class if the image is of one of them: (N, C) scores to float32 (N, C), rows of sum 1."""
        return (scores / self.temperature).softmax(dim=1)

    def is_unknown(self, similarity: torch.Tensor) -> torch.Tensor:
        """Whether images of these similarities to their nearest prototypes are of none of the classes."""
        return similarity < self.threshold


def fit_reading(head: Head, z: torch.Tensor, labels: torch.Tensor, unknown_rate: float | None = None) -> Reading:
    """Learn from a support how to read the scores of its head.

    Args:
        head: fitted to this support.
        z: float32 (N, D), support embeddings of unit length.
        labels: int64 (N,), 0 to C - 1.
        unknown_rate: share of images of the known classes that may be called unknown, such as 0.05; if left out, the
            threshold does equally well by known and by unknown images.

    Raises:
        ConfigError: the rate is not between 0 and 1.
    """
    rate = None if unknown_rate is None else _rate(unknown_rate)
    z, every = z.float(), max(1, -(-len(z) // max(1, min(_ROWS, _MOST_SCORES // len(head.bias)))))
    of = labels[::every]
    similarity = prototype_left_out(z, labels, every)
    known = ~similarity.isnan().any(dim=1)
    scores = similarity if head.name == "prototype" else leave_one_out_scores(z, labels, head.name)[::every]
    if rate is not None and not bool(known.any()):
        _log.warning("With one image a class nobody can tell which share is called unknown; give two or more of some.")
    temperature = _temperature(scores[known], of[known], TEMPERATURE * _spread(scores, of))
    return Reading(temperature, _threshold(similarity, of, known, rate))


def _rate(given: float) -> float:
    rate = as_number("The share of known images that may be called unknown", given)
    if not 0 < rate < 1:
        raise ConfigError(f"The share of known images that may be called unknown lies between 0 and 1, not at {rate}.")
    return rate


def _spread(scores: torch.Tensor, labels: torch.Tensor) -> float:
    """Standard deviation of the scores for other classes, drawn towards the one expected where there are few."""
    others = torch.ones(scores.shape, dtype=torch.bool)
    others[torch.arange(len(labels)), labels] = False
    pairs = scores.shape[1] * (scores.shape[1] - 1) / 2
    variance = float(scores[others].double().var(correction=0))
    return ((pairs * variance + 3 * SPREAD**2) / (pairs + 3)) ** 0.5


def _temperature(scores: torch.Tensor, labels: torch.Tensor, default: float) -> float:
    """The temperature that makes the labels likeliest, a priori near the default; the default without scores."""
    if not len(scores):
        return default
    scores = scores.double()

    def cost(doublings: float) -> float:
        logs = (scores / (default * 2.0**doublings)).log_softmax(dim=1)
        return float(-logs[torch.arange(len(labels)), labels].sum()) + PRIOR * doublings**2

    return default * 2.0 ** float(minimize_scalar(cost, bounds=(-6, 6), method="bounded").x)


def _threshold(similarity: torch.Tensor, labels: torch.Tensor, known: torch.Tensor, rate: float | None) -> float:
    """The threshold for unknown.

    Args:
        similarity: float32 (N, C), of support images to prototypes without them.
        labels: int64 (N,).
        known: bool (N,), whether there is an own prototype without the image.
        rate: share of known images to call unknown, or ``None``.
    """
    others = similarity.clone()
    others[torch.arange(len(labels)), labels] = -torch.inf
    strange = others.amax(dim=1).numpy()
    if not bool(known.any()):
        return float(np.median(strange) + BETWEEN * (1 - np.median(strange)))
    right = similarity[known].amax(dim=1).numpy()
    if rate is not None:
        return float(np.quantile(right, rate))
    return threshold_for_balanced_accuracy(
        np.concatenate([right, strange]), np.arange(len(right) + len(strange)) < len(right)
    )
