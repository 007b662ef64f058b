"""Numbers with their uncertainty: percentages and 95% confidence intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from siamese_utils.data.sampling import named_rng
from siamese_utils.errors import SamplingError, ShapeError


def exact(value: float) -> Estimate:
    """A number that is no sample, such as a count or a time, in the form in which tables take it."""
    return Estimate(float(value), 0.0, 1)

RESAMPLES = 1_000


def bootstrap_estimate(
    statistic: Callable[[NDArray[np.float64], NDArray[np.bool_]], float],
    score: torch.Tensor,
    same: torch.Tensor,
    resamples: int | None = None,
) -> Estimate:
    """A statistic of scored pairs with a 95% interval by the bootstrap over pairs of each kind (Efron, 1979).

    The interval covers the choice of pairs, as if they were independent; some share a photograph or a person.

    Args:
        statistic: of scores (n,) and flags (n,).
        score: float32 (n,).
        same: bool (n,).
        resamples: drawn with replacement; ``RESAMPLES`` if left out.

    Raises:
        SamplingError: no same or no different pair.
    """
    values, flags = score.double().numpy(), same.numpy()
    kinds = [np.flatnonzero(flags), np.flatnonzero(~flags)]
    if not all(map(len, kinds)):
        raise SamplingError("Judging needs both same and different pairs; give pairs of both kinds.")
    rng = named_rng(0, "bootstrap over pairs")
    draws = []
    for _ in range(RESAMPLES if resamples is None else resamples):
        rows = np.concatenate([rng.choice(kind, len(kind)) for kind in kinds])
        draws.append(statistic(values[rows], flags[rows]))
    return Estimate(statistic(values, flags), 1.96 * float(np.std(draws, ddof=1)), len(values))


@dataclass(frozen=True)
class Estimate:
    """A percentage with its uncertainty.

    Attributes:
        value: percent.
        ci95: half width of the 95% confidence interval, percent points.
        n: number of episodes, supports, triplets or pairs behind the value.
    """

    value: float
    ci95: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.ci95:.2f}"


# --- intervals
# ------------------------------------------------------------------------------------------------------


def mean_estimate(shares: torch.Tensor) -> Estimate:
    """Mean of independent shares (for example accuracies of episodes), as a percentage.

    Args:
        shares: float (n,), values between 0 and 1.

    Returns:
        The mean with half width 1.96 sd / sqrt(n). It covers the random choice of episodes or supports only.
        With a single value there is no spread to judge by, and the half width is infinite.
    """
    values = shares.double()
    n = len(values)
    half = 1.96 * values.std().item() / n**0.5 if n > 1 else float("inf")
    return Estimate(100 * values.mean().item(), 100 * half, n)


def share_estimate(hits: torch.Tensor) -> Estimate:
    """Share of true values among independent draws, bool (n,), as a percentage with the normal binomial interval."""
    n = len(hits)
    share = hits.double().mean().item()
    return Estimate(100 * share, 196 * (share * (1 - share) / n) ** 0.5, n)


# --- pairs and triplets
# ---------------------------------------------------------------------------------------------


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95% interval of a share by Wilson's score method (1927), in percent: (low, high).

    Raises:
        SamplingError: no trial, or more hits than trials.
    """
    if not 0 <= hits <= trials or trials < 1:
        raise SamplingError(f"{hits} hits in {trials} trials have no share; count at least one trial.")
    z2 = 1.96**2
    middle = (hits + z2 / 2) / (trials + z2)
    half = 1.96 / (trials + z2) * (hits * (trials - hits) / trials + z2 / 4) ** 0.5
    return 100 * max(0.0, middle - half), 100 * min(1.0, middle + half)


def checked(z: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings as contiguous float32 and labels as int64, on the CPU, or a ShapeError."""
    try:
        z, labels = torch.as_tensor(z).detach().cpu(), torch.as_tensor(labels).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:  # no numbers, or rows of different lengths
        raise ShapeError(
            f"Embeddings and labels must be arrays of numbers, not {type(z).__name__} and {type(labels).__name__}; "
            "take them from encoder.embed and an image set."
        ) from error
    if z.ndim != 2 or len(z) == 0 or not z.is_floating_point():
        raise ShapeError(
            f"Embeddings must be a table of floating-point numbers, one row an image, but got shape "
            f"{tuple(z.shape)} and type {z.dtype}."
        )
    if labels.shape != z.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ShapeError(
            f"Labels must be {len(z)} whole numbers, one for each embedding, but got shape "
            f"{tuple(labels.shape)} and type {labels.dtype}."
        )
    z = z.float().contiguous()
    lengths = z.norm(dim=1)
    if not bool(((lengths - 1).abs() < 1e-3).all()):  # also false where an embedding is not a number
        worst = int((lengths - 1).abs().nan_to_num(torch.inf).argmax())
        raise ShapeError(
            f"Embeddings must have unit length, but row {worst} has length {lengths[worst].item():.4g}; "
            f"normalise them (torch.nn.functional.normalize), or take them from encoder.embed."
        )
    return z, labels.long()
