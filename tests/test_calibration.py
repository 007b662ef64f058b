"""The threshold and the probability of "same", fitted to pairs whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siamese_utils.errors import SamplingError
from siamese_utils.evaluation.calibration import fit_verdict


def test_verdict_recovers_the_curve_that_made_the_pairs() -> None:
    rng = np.random.default_rng(0)
    cosine = rng.uniform(-0.5, 1, 40_000)
    same = rng.random(len(cosine)) < 1 / (1 + np.exp(-(8 * cosine - 3)))
    # Balanced classes shift the intercept by the log odds of the sample.
    shift = np.log(same.mean() / (1 - same.mean()))
    tensor = torch.from_numpy(cosine.astype(np.float32))
    verdict = fit_verdict(tensor[torch.from_numpy(same)], tensor[torch.from_numpy(~same)])
    assert verdict.slope == pytest.approx(8, abs=0.3)
    assert verdict.intercept == pytest.approx(-3 - shift, abs=0.2)
    assert verdict.threshold == pytest.approx((3 + shift) / 8, abs=0.08)
    info = verdict.info
    assert set(info) == {"threshold", "calibration"} and set(info["calibration"]) == {"slope", "intercept"}  # type: ignore[call-overload]


def test_verdict_needs_both_kinds() -> None:
    with pytest.raises(SamplingError):
        fit_verdict(torch.tensor([0.5]), torch.empty(0))
