"""Heads: leave-one-out is what fitting N times gives, and prototypes give way only to what is clearly better."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch.nn import functional as F

from siamese_utils.errors import SamplingError, UnknownNameError
from siamese_utils.recognition import heads
from siamese_utils.recognition.heads import (
    HEADS,
    RIDGE,
    choose_head,
    fit_head,
    leave_one_out,
    leave_one_out_scores,
    left_out_in_turn,
)

LABELS = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3, 3])


def clusters(labels: torch.Tensor, spread: float = 0.6, columns: int = 8, seed: int = 0) -> torch.Tensor:
    """Noisy directions around one of each class."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(int(labels.max()) + 1, columns, generator=generator)
    return F.normalize(means[labels] + spread * torch.randn(len(labels), columns, generator=generator), dim=1)


@pytest.mark.parametrize("name", ["prototype", "centred"])
@pytest.mark.parametrize("columns", [8, 64])
def test_leave_one_out_is_what_fitting_without_each_image_gives(name: str, columns: int) -> None:
    z = clusters(LABELS, columns=columns)
    scores = leave_one_out_scores(z, LABELS, name)
    for row in range(len(z)):
        rest = torch.arange(len(z)) != row
        if LABELS[row] == 2:  # alone in its class
            assert scores[row].isnan().tolist() == [False, False, True, False]
            continue
        expected = fit_head(z[rest], LABELS[rest], name).scores(z[row : row + 1])[0]
        torch.testing.assert_close(scores[row], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("columns", [4, 64])
def test_ridge_is_scikit_learns_with_classes_counting_alike(columns: int) -> None:
    z = clusters(LABELS, columns=columns)
    weight = (len(LABELS) / (4 * torch.bincount(LABELS)[LABELS])).numpy()
    y = np.eye(4)[LABELS.numpy()]
    whole = Ridge(RIDGE).fit(z.numpy(), y, weight).predict(z.numpy())
    np.testing.assert_allclose(fit_head(z, LABELS, "ridge").scores(z), whole, atol=1e-4)
    scores = leave_one_out_scores(z, LABELS, "ridge")
    for row in (0, 3, 9):
        rest = np.arange(len(z)) != row
        expected = Ridge(RIDGE).fit(z[rest].numpy(), y[rest], weight[rest]).predict(z[row : row + 1].numpy())[0]
        np.testing.assert_allclose(scores[row], expected, atol=1e-4)


def test_predictions_of_images_left_out() -> None:
    z = clusters(LABELS)
    for name in HEADS:
        predicted, scores = leave_one_out(z, LABELS, name), leave_one_out_scores(z, LABELS, name)
        assert predicted[5] == -1 and predicted.dtype == torch.int64
        assert torch.equal(predicted[:5], scores[:5].argmax(dim=1))
    assert torch.equal(leave_one_out(z, LABELS, "auto"), leave_one_out(z, LABELS, choose_head(z, LABELS)))


@pytest.mark.parametrize("name", HEADS)
def test_in_turn_as_many_are_left_out_of_every_class(name: str) -> None:
    """By hand: LABELS has classes of 2, 3, 1 and 4 images, which stand side by side."""
    z, kept = clusters(LABELS), {0: [0, 1], 1: [2, 3, 4], 3: [6, 7, 8, 9]}
    predicted = left_out_in_turn(z, LABELS, name)
    assert predicted[5] == -1 and predicted.dtype == torch.int64
    for turn in range(4):
        left = {label: rows[turn % len(rows)] for label, rows in kept.items()}
        rest = torch.tensor([row for row in range(10) if row not in left.values()])
        head = fit_head(z[rest], LABELS[rest], name)
        for label, row in left.items():
            if turn < len(kept[label]):
                assert predicted[row] == int(head.scores(z[row][None]).argmax())


def test_turns_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, fitted = torch.randperm(200, generator=torch.Generator().manual_seed(0)) % 4, []
    z = clusters(labels)
    fit = heads.fit_head
    monkeypatch.setattr(heads, "fit_head", lambda z, labels, head: fitted.append(len(z)) or fit(z, labels, head))
    predicted = left_out_in_turn(z, labels, "prototype")
    assert len(fitted) == heads.MOST_TURNS and set(fitted) <= {184, 188, 192, 196}
    assert (predicted >= 0).all() and (predicted == labels).float().mean() > 0.9


def test_classes_known_by_one_image_fewer_are_not_at_a_disadvantage() -> None:
    """Where classes do not differ at all, chance is met, and leaving out one image alone stays behind it."""
    labels = torch.arange(12).repeat_interleave(3)
    shares: dict[str, list[float]] = {"in turn": [], "alone": []}
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        z = F.normalize(torch.randn(36, 256, generator=generator) + 1.0, dim=1)
        shares["in turn"].append(float((left_out_in_turn(z, labels, "prototype") == labels).double().mean()))
        shares["alone"].append(float((leave_one_out(z, labels, "prototype") == labels).double().mean()))
    means = {name: sum(values) / 40 for name, values in shares.items()}
    assert means["in turn"] == pytest.approx(1 / 12, abs=0.025) and means["alone"] < 0.5 * means["in turn"]


def test_nothing_is_left_out_where_every_class_has_one() -> None:
    assert left_out_in_turn(clusters(torch.arange(6)), torch.arange(6)).tolist() == [-1] * 6


def test_scores_of_prototypes_are_cosines() -> None:
    z, queries = clusters(LABELS), clusters(torch.tensor([0, 1, 2, 3]), seed=1)
    means = torch.stack([z[LABELS.eq(label)].mean(dim=0) for label in range(4)])
    expected = F.cosine_similarity(queries[:, None], means[None], dim=2)
    torch.testing.assert_close(fit_head(z, LABELS, "prototype").scores(queries), expected, atol=1e-5, rtol=0)
    centre = means.mean(dim=0)
    expected = F.cosine_similarity((queries - centre)[:, None], (means - centre)[None], dim=2)
    torch.testing.assert_close(fit_head(z, LABELS, "centred").scores(queries), expected, atol=1e-5, rtol=0)


def test_prototypes_stay_unless_another_is_clearly_better() -> None:
    labels = torch.arange(4).repeat_interleave(10)
    assert choose_head(clusters(labels, 0.1), labels) == "prototype"  # nothing to be gained
    assert choose_head(clusters(torch.arange(6)), torch.arange(6)) == "prototype"  # nothing to be left out
    # Two classes of two places each: the means are of no use, a line tells them apart.
    generator = torch.Generator().manual_seed(0)
    strong, weak = torch.randn(80, generator=generator).sign() * 3, torch.arange(80) % 2 * 2.0 - 1
    z = torch.stack([strong, weak, torch.ones(80)], dim=1) + 0.1 * torch.randn(80, 3, generator=generator)
    z, labels = F.normalize(z, dim=1), torch.arange(80) % 2
    assert (leave_one_out(z, labels, "prototype") == labels).float().mean() < 0.9
    name = choose_head(z, labels)
    assert name != "prototype" and (leave_one_out(z, labels, name) == labels).float().mean() > 0.95
    assert fit_head(z, labels).name == name


@pytest.mark.parametrize(("won", "lost", "chosen"), [(5, 2, "prototype"), (9, 1, "ridge"), (4, 0, "prototype")])
def test_another_head_must_win_by_more_than_chance(
    won: int, lost: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9 images won and 1 lost are more than two standard deviations; 5 and 2, or 4 and none, are not."""
    labels = torch.arange(2).repeat_interleave(20)

    def answers(z: torch.Tensor, labels: torch.Tensor, name: str) -> torch.Tensor:
        wrong = slice(0, won) if name != "ridge" else slice(won, won + lost)
        said = labels.clone()
        said[wrong] = 1 - said[wrong]
        return said

    monkeypatch.setattr(heads, "leave_one_out", answers)
    assert choose_head(clusters(labels), labels) == chosen


def test_what_no_head_can_be_fitted_to() -> None:
    z = clusters(LABELS)
    with pytest.raises(UnknownNameError, match="ridge"):
        fit_head(z, LABELS, "rigde")
    for labels in (torch.zeros(10, dtype=torch.int64), LABELS + 1):
        with pytest.raises(SamplingError, match="two classes"):
            fit_head(z, labels)
