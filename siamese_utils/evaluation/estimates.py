"""Numbers with their uncertainty: percentages and 95% confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest, bootstrap

from siamese_utils.data.arrays import as_count, as_number, as_row
from siamese_utils.data.sampling import named_rng
from siamese_utils.errors import SamplingError, ShapeError

RESAMPLES = 1_000  # of a bootstrap


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


def exact(value: float) -> Estimate:
    """A number that is no sample, such as a count or a time, in the form in which tables take it.

    Raises:
        ShapeError: it is no finite number.
    """
    return Estimate(as_number("A number of a table", value, ShapeError), 0.0, 1)


def mean_estimate(shares: torch.Tensor) -> Estimate:
    """Mean of independent shares (for example accuracies of episodes), as a percentage.

    Args:
        shares: float (n,), values between 0 and 1.

    Returns:
        The mean with half width 1.96 sd / sqrt(n). It covers the random choice of episodes or supports only.
        With a single value there is no spread to judge by, and the half width is infinite.

    Raises:
        ShapeError: no row of finite numbers.
        SamplingError: there is none.
    """
    values = _some("Shares", shares).double()
    n = len(values)
    half = 1.96 * values.std().item() / n**0.5 if n > 1 else float("inf")
    return Estimate(100 * values.mean().item(), 100 * half, n)


def share_estimate(hits: torch.Tensor) -> Estimate:
    """Share of true values among independent draws, bool (n,), as a percentage with the normal binomial interval.

    Raises:
        ShapeError: no row of flags.
        SamplingError: there is none.
    """
    hits = _some("Hits", hits)
    if bool(((hits != 0) & (hits != 1)).any()):
        raise ShapeError("Hits are true or false, or 1 and 0, but others are among them.")
    n = len(hits)
    share = hits.double().mean().item()
    return Estimate(100 * share, 196 * (share * (1 - share) / n) ** 0.5, n)


def wilson(hits: int, trials: int) -> tuple[float, float]:
    """The 95% interval of a share by Wilson's score method (1927), in percent: (low, high).

    Raises:
        SamplingError: no trial, or more hits than trials.
    """
    hits, trials = (
        as_count(f"The number of {what}", n, 0, SamplingError) for what, n in (("hits", hits), ("trials", trials))
    )
    if hits > trials or trials < 1:
        raise SamplingError(f"{hits} hits in {trials} trials have no share; count at least one trial.")
    interval = binomtest(hits, trials).proportion_ci(method="wilson")
    return 100 * interval.low, 100 * interval.high


def difference_of_shares(hits: int, trials: int, other_hits: int, other_trials: int) -> tuple[float, float]:
    """The 95% interval of the difference of two independent shares, in points: (low, high).

    From Wilson's intervals of either (Newcombe, 1998, Statistics in Medicine 17, pages 873 to 890, method 10).

    Raises:
        SamplingError: see ``wilson``.
    """
    (low, high), (other_low, other_high) = wilson(hits, trials), wilson(other_hits, other_trials)
    share, other = 100 * hits / trials, 100 * other_hits / other_trials
    difference = share - other
    return (
        difference - math.hypot(share - low, other_high - other),
        difference + math.hypot(high - share, other - other_low),
    )


def bootstrap_estimate(
    statistic: Callable[[NDArray[np.float64], NDArray[np.bool_]], float], score: torch.Tensor, same: torch.Tensor
) -> Estimate:
    """A statistic of scored pairs with a 95% interval by the bootstrap over pairs of each kind (Efron, 1979).

    The interval covers the choice of pairs, as if they were independent; some share a photograph or a person.

    Args:
        statistic: of scores (n,) and flags (n,).
        score: float32 (n,).
        same: bool (n,).

    Raises:
        ShapeError: scores and flags that do not fit each other.
        SamplingError: fewer than two same or two different pairs.
    """
    scored, flagged = as_row("Scores", score), as_row("Flags", same)
    if flagged.dtype != torch.bool or len(flagged) != len(scored):
        raise ShapeError("Judging needs one flag, true or false, for each score.")
    values, flags = scored.double().numpy(), flagged.numpy()
    kinds = values[flags], values[~flags]
    if min(map(len, kinds)) < 2:
        raise SamplingError("Judging needs both same and different pairs; give two pairs or more of each kind.")
    of_kind = np.repeat([True, False], [len(kind) for kind in kinds])
    error = bootstrap(
        kinds,
        lambda same, different: statistic(np.concatenate([same, different]), of_kind),
        n_resamples=RESAMPLES,
        vectorized=False,
        method="basic",
        random_state=named_rng(0, "bootstrap over pairs"),
    ).standard_error
    return Estimate(statistic(values, flags), 1.96 * float(error), len(values))


def _some(what: str, given: torch.Tensor) -> torch.Tensor:
    """A row of one number or more."""
    row = as_row(what, given)
    if not len(row):
        raise SamplingError(f"{what} are needed for an estimate, one or more, but there is none.")
    return row
