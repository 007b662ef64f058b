"""Probabilities that are as sure as they are right, and thresholds for unknown found without an unknown image."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn import functional as F

from siamese_utils.errors import ConfigError
from siamese_utils.recognition import heads, unknown
from siamese_utils.recognition.classifier import OneShotClassifier
from siamese_utils.recognition.heads import HEADS, fit_head, leave_one_out_scores
from siamese_utils.recognition.unknown import Reading, fit_reading

WAYS = 6


def cluster(labels: torch.Tensor, spread: float, seed: int, columns: int = 32) -> torch.Tensor:
    means = torch.randn(2 * WAYS, columns, generator=torch.Generator().manual_seed(7))
    noise = torch.randn(len(labels), columns, generator=torch.Generator().manual_seed(seed))
    return F.normalize(means[labels] + spread * noise, dim=1)


def labels_of(shots: int) -> torch.Tensor:
    return torch.arange(WAYS).repeat_interleave(shots)


@pytest.mark.parametrize("spread", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("head", HEADS)
def test_answers_are_as_sure_as_they_are_right(head: str, spread: float) -> None:
    support, queries = labels_of(10), labels_of(200)
    z = cluster(support, spread, 0)
    fitted = fit_head(z, support, head)
    sure, said = fit_reading(fitted, z, support).probabilities(fitted.scores(cluster(queries, spread, 1))).max(dim=1)
    right = (said == queries).float()
    assert float(sure.mean()) == pytest.approx(float(right.mean()), abs=0.08)


def test_one_image_a_class_takes_the_default(caplog: pytest.LogCaptureFixture) -> None:
    support = labels_of(1)
    z = cluster(support, 1, 0)
    gram = (z @ z.T)[~torch.eye(WAYS, dtype=torch.bool)]
    variance = (15 * gram.double().var(correction=0) + 3 * unknown.SPREAD**2) / 18
    nearest = (z @ z.T - 2 * torch.eye(WAYS)).amax(dim=1).median()
    with caplog.at_level(logging.WARNING):
        reading = fit_reading(fit_head(z, support), z, support, 0.05)
    assert reading.temperature == pytest.approx(float(unknown.TEMPERATURE * variance**0.5), rel=1e-5)
    assert nearest < reading.threshold < 1
    assert "one image a class" in caplog.text


def test_unknown_images_are_told_by_a_threshold_that_has_not_seen_them() -> None:
    support, queries = labels_of(6), labels_of(100)
    z = cluster(support, 1.2, 0)
    head = fit_head(z, support, "prototype")
    known = head.scores(cluster(queries, 1.2, 1)).amax(dim=1)
    strange = head.scores(cluster(queries + WAYS, 1.2, 2)).amax(dim=1)
    reading = fit_reading(head, z, support)
    assert reading.is_unknown(known).float().mean() < 0.15 < 0.85 < reading.is_unknown(strange).float().mean()


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_the_rate_that_is_named_is_kept(rate: float) -> None:
    support = labels_of(40)
    z = cluster(support, 1.5, 0)
    head = fit_head(z, support, "prototype")
    known = head.scores(cluster(labels_of(300), 1.5, 1)).amax(dim=1)
    assert float(fit_reading(head, z, support, rate).is_unknown(known).float().mean()) == pytest.approx(rate, abs=0.05)


def test_a_large_support_is_read_from_a_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    support = labels_of(40)
    z = cluster(support, 1.5, 0)
    head = fit_head(z, support, "prototype")
    whole = fit_reading(head, z, support)
    monkeypatch.setattr(unknown, "_ROWS", 100)
    part = fit_reading(head, z, support)
    assert part.temperature != whole.temperature
    assert part.temperature == pytest.approx(whole.temperature, rel=0.5)
    assert part.threshold == pytest.approx(whole.threshold, abs=0.1)
    assert leave_one_out_scores(z, support)[::3].shape == (80, WAYS)


def test_probabilities_add_up_and_rates_are_checked() -> None:
    p = Reading(0.05, 0.5).probabilities(torch.tensor([[0.9, 0.1, 0.2], [-1.0, 1.0, 1.0]]))
    torch.testing.assert_close(p.sum(dim=1), torch.ones(2))
    assert p.argmax(dim=1).tolist()[0] == 0 and p[1, 1] == p[1, 2]
    z = cluster(labels_of(2), 1, 0)
    for rate in (0, 1, -0.1, 5, "5%", float("nan")):
        with pytest.raises(ConfigError, match="share"):
            fit_reading(fit_head(z, labels_of(2)), z, labels_of(2), rate)


@pytest.mark.parametrize("shots", [1, 2, 5])
def test_copies_of_the_examples_change_no_threshold(shots: int) -> None:
    """Each example twice, as whoever wants two of a class may have it; a copy would be found at similarity 1."""
    labels = labels_of(shots)
    z = cluster(labels, 1.0, 3)
    once = OneShotClassifier().fit(z, labels.tolist())
    twice = OneShotClassifier().fit(torch.cat([z, z]), [*labels.tolist()] * 2)
    assert twice.reading_.threshold == pytest.approx(once.reading_.threshold, abs=1e-6)
    assert twice.reading_.temperature == pytest.approx(once.reading_.temperature, rel=1e-4)
    more = cluster(labels_of(50), 1.0, 4)
    assert float(twice.reading_.is_unknown(twice.compare(more).amax(dim=1)).double().mean()) < 0.5


def test_copies_are_found_in_whatever_block(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = torch.tensor([0, 1, 0, 0, 1, 0, 1, 0])
    z = cluster(torch.arange(8), 0.5, 1)
    z[4], z[5], z[7] = z[1] + 1e-8, z[0], z[1]  # the last is of another class than the one that it is like
    copies = [any(labels[row] == labels[o] and z[row] @ z[o] > 1 - 1e-5 for o in range(row)) for row in range(8)]
    slow = [row for row, copy in enumerate(copies) if not copy]
    for block in (1, 2, 3, 1_024):
        monkeypatch.setattr(heads, "_BLOCK", block)
        assert heads.without_doubles(z, labels).tolist() == slow == [0, 1, 2, 3, 6, 7]
