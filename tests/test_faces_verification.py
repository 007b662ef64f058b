"""Comparing faces: areas, errors and thresholds against their definitions, and one's own photographs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score, roc_curve
from tiny_faces import people
from torch.nn import functional as F

from siamese_utils.data.faces import PHOTO, split_by_person, squares
from siamese_utils.data.sampling import Pairs
from siamese_utils.encoders.checkpoints import load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, DataError, SamplingError
from siamese_utils.evaluation import estimates
from siamese_utils.evaluation.estimates import bootstrap_estimate
from siamese_utils.evaluation.pairs import pair_auc
from siamese_utils.studies.faces import verification
from siamese_utils.studies.faces.verification import (
    TestAnswers,
    accuracy_at_own_threshold,
    accuracy_estimate,
    auc,
    cosine_score,
    embed_faces,
    equal_error_rate,
    judge_embeddings,
    verify_photos,
)

# --- judging --------------------------------------------------------------------------------------


def delong(score: np.ndarray, same: np.ndarray) -> tuple[float, float]:
    """AUC and its standard error (DeLong, DeLong and Clarke-Pearson, 1988), in percent."""
    wins = (score[same][:, None] > score[~same]) + 0.5 * (score[same][:, None] == score[~same])
    error = wins.mean(1).var(ddof=1) / wins.shape[0] + wins.mean(0).var(ddof=1) / wins.shape[1]
    return 100 * wins.mean(), 100 * error**0.5


def test_auc_and_its_interval_agree_with_delong() -> None:
    rng = np.random.default_rng(0)
    same = np.arange(600) < 250
    score = np.round(rng.normal(same * 1.0, 1), 2)  # with ties
    estimate = bootstrap_estimate(auc, torch.from_numpy(score), torch.from_numpy(same))
    value, error = delong(score, same)
    assert estimate.value == pytest.approx(value) and estimate.ci95 == pytest.approx(1.96 * error, rel=0.08)
    assert estimate.n == 600
    with pytest.raises(SamplingError):
        bootstrap_estimate(auc, torch.ones(4), torch.ones(4, dtype=torch.bool))


@given(seed=st.integers(0, 10_000), apart=st.floats(0, 3), count=st.integers(5, 60))
def test_equal_error_rate_is_where_both_errors_meet(seed: int, apart: float, count: int) -> None:
    rng = np.random.default_rng(seed)
    same = np.arange(2 * count) < count
    score = rng.normal(apart * same, 1)
    error = equal_error_rate(score, same) / 100
    thresholds = np.sort(np.append(score, [-99, 99]))
    rejected = np.array([(score[same] <= t).mean() for t in thresholds])
    accepted = np.array([(score[~same] > t).mean() for t in thresholds])
    gap = rejected - accepted  # rises
    cut = int(np.searchsorted(gap, 0))
    around = np.concatenate([rejected[max(0, cut - 1) : cut + 1], accepted[max(0, cut - 1) : cut + 1]])
    assert around.min() - 1e-9 <= error <= around.max() + 1e-9
    assert equal_error_rate(np.exp(score), same) == pytest.approx(100 * error)
    assert equal_error_rate(-score, same) == pytest.approx(100 - 100 * error, abs=1e-6)


@given(seed=st.integers(0, 10_000), digits=st.integers(0, 3))
def test_curves_agree_with_sklearn(seed: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    same = rng.permutation(np.arange(40) < 15)
    score = np.round(rng.normal(same, 1), digits)  # with ties
    wrong, right, _ = roc_curve(same, score, drop_intermediate=False)
    assert auc(score, same) == pytest.approx(100 * roc_auc_score(same, score))
    assert equal_error_rate(score, same) == pytest.approx(100 * np.interp(0, wrong - (1 - right), wrong))


def test_equal_error_rate_of_known_cases() -> None:
    same = np.array([True, True, False, False])
    assert equal_error_rate(np.array([4.0, 3, 2, 1]), same) == 0
    assert equal_error_rate(np.array([4.0, 2, 3, 1]), same) == 50
    assert equal_error_rate(np.array([1.0, 2, 3, 4]), same) == 100


def test_accuracy_at_own_threshold_is_honest() -> None:
    """On scores that say nothing the best threshold on the pairs themselves would be above one half."""
    rng = np.random.default_rng(0)
    values = []
    for _ in range(20):
        score = torch.from_numpy(rng.normal(size=60).astype(np.float32))
        values.append(accuracy_at_own_threshold(score, torch.arange(60) % 2 == 0).value)
    assert np.mean(values) < 53
    same = torch.arange(60) < 30
    assert accuracy_at_own_threshold(same.float() + torch.linspace(0, 0.1, 60), same).value == 100
    with pytest.raises(SamplingError):
        accuracy_at_own_threshold(torch.zeros(8), torch.arange(8) < 4)


def test_accuracy_estimate_is_wilsons() -> None:
    estimate = accuracy_estimate(torch.arange(1000) < 820)
    interval = binomtest(820, 1000).proportion_ci(method="wilson")
    assert estimate.value == 82 and estimate.ci95 == pytest.approx(50 * (interval.high - interval.low), abs=1e-2)


def test_test_answers() -> None:
    answers = TestAnswers(torch.tensor([0.9, 0.2, 0.6, -0.5]), torch.tensor([True, True, False, False]))
    verdict = verification.Verdict(0.1, 2.0, -1.0)
    metrics = answers.metrics(verdict)
    assert metrics["acc_test"].value == 75 and metrics["acc_test_half"].value == 50 and metrics["auc_test"].value == 75
    torch.testing.assert_close(answers.probability(verdict), torch.sigmoid(torch.tensor([0.8, -0.6, 0.2, -2.0])))


class Pixels:
    """Stands in for an encoder: the embedding of an image is its pixels."""

    image_size = 16

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        z = images.float().flatten(1)
        return F.normalize(z - z.mean(dim=1, keepdim=True), dim=1)


def test_crops_are_averaged() -> None:
    alone = [embed_faces(Pixels(), people().images[:5], (crop,)) for crop in (128, 96)]  # type: ignore[arg-type]
    both = embed_faces(Pixels(), people().images[:5], (128, 96))  # type: ignore[arg-type]
    torch.testing.assert_close(both, F.normalize(alone[0] + alone[1], dim=1))
    torch.testing.assert_close(alone[0], Pixels().embed(squares(people().images[:5], 128, 16)))


def test_validation_is_judged_on_its_own_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 20)
    _, validation = split_by_person(people())
    metrics, verdict = judge_embeddings(Pixels(), (128,), validation)  # type: ignore[arg-type]
    z = Pixels().embed(squares(validation.images, 128, 16))
    score = cosine_score(Pixels(), (128,))(validation)  # type: ignore[arg-type]
    torch.testing.assert_close(score, (z[validation.pairs.first] * z[validation.pairs.second]).sum(1))
    assert metrics["auc_validation"].value == pytest.approx(auc(score.numpy(), validation.pairs.same.numpy()))
    assert metrics["auc_validation_all"] == pair_auc(z, validation.person)
    pairs = [(i, j) for i in range(len(z)) for j in range(i)]
    same = np.array([bool(validation.person[i] == validation.person[j]) for i, j in pairs])
    cosine = np.array([float(z[i] @ z[j]) for i, j in pairs])
    balanced = [((cosine > t)[same].mean() + (cosine <= t)[~same].mean()) / 2 for t in (verdict.threshold, *cosine)]
    assert balanced[0] == pytest.approx(max(balanced), abs=1e-6)


# --- verifying one's own photographs --------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Two photographs of one person and one of another, as LFW frames them."""
    order = [int(people().pairs.first[0]), int(people().pairs.second[0]), int(people().pairs.second[-1])]
    paths = []
    for number, photo in enumerate(order):
        whole = np.full((PHOTO, PHOTO, 3), 90, np.uint8)
        whole[55:205, 60:190] = people().images[photo].numpy()
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(whole).save(paths[-1])
    return paths


@pytest.fixture
def verifier(project: Path) -> Path:
    torch.manual_seed(0)
    info = {"threshold": 0.4, "calibration": {"slope": 3.0, "intercept": -1.0}, "crops": [128, 112]}
    save_encoder(Encoder("conv3", 8, image_size=16), verification.checkpoint_path(), info)
    return verification.checkpoint_path()


def test_verifying_photographs_is_comparing_pairs(verifier: Path, photos: list[Path]) -> None:
    answer = verify_photos(photos[0], photos[1])
    first = Pairs(people().pairs.first[:1], people().pairs.second[:1], people().pairs.same[:1])
    pair = dataclasses.replace(people(), pairs=first)
    expected = cosine_score(load_encoder(verifier), (128, 112))(pair)
    assert answer.similarity == pytest.approx(float(expected[0]), abs=1e-5)
    assert answer.same == (answer.similarity > 0.4)
    assert answer.probability == pytest.approx(1 / (1 + np.exp(-(3 * answer.similarity - 1))))
    assert verify_photos(photos[1], photos[0]).similarity == pytest.approx(answer.similarity, abs=1e-6)
    assert verify_photos(photos[0], photos[0]).similarity == pytest.approx(1, abs=1e-5)


def test_no_cosine_of_faces_is_beyond_one(verifier: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "embed_faces", lambda *_: torch.full((2, 4), 0.5 + 1e-6))  # as rounding can be
    assert verify_photos(photos[0], photos[0]).similarity == 1


def test_any_size_and_format_is_taken(verifier: Path, photos: list[Path], tmp_path: Path) -> None:
    with Image.open(photos[0]) as image:
        large = Image.new("RGB", (900, 500))
        large.paste(image.resize((500, 500), Image.Resampling.LANCZOS), (200, 0))
        large.save(tmp_path / "large.jpg", quality=95)
    assert verify_photos(photos[0], tmp_path / "large.jpg").similarity > 0.95


Run = Callable[..., tuple[int, str, str]]


def test_verify_on_the_command_line(command_line: Run, verifier: Path, photos: list[Path]) -> None:
    for first, second in ((0, 1), (0, 2)):
        answer = verify_photos(photos[first], photos[second])
        code, out, err = command_line("verify", photos[first], photos[second])
        word = "same" if answer.same else "different"
        assert (code, err) == (0, "") and out.startswith(f"{word} (probability of the same person")
        assert f"{answer.probability:.2f}" in out and out.count("\n") == 1


@pytest.mark.parametrize("fault", ["missing photo", "broken photo", "no checkpoint", "other checkpoint"])
def test_verify_says_what_is_wrong(
    command_line: Run, verifier: Path, photos: list[Path], tmp_path: Path, fault: str
) -> None:
    second = photos[1]
    if fault == "missing photo":
        second = tmp_path / "nobody.jpg"
    elif fault == "broken photo":
        second.write_bytes(b"not an image")
    elif fault == "no checkpoint":
        verifier.unlink()
    else:
        save_encoder(Encoder("conv3", 8), verifier)
    code, out, err = command_line("verify", photos[0], second)
    assert (code, out) == (1, "") and err.startswith("Error: ") and err.count("\n") == 1 and err.endswith(".\n")
    expected = {"missing photo": DataError, "broken photo": DataError}.get(fault, CheckpointError)
    with pytest.raises(expected):
        verify_photos(photos[0], second)
