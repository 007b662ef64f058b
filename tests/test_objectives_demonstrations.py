from __future__ import annotations

import numpy as np
import pytest
import torch

from siamese_utils.errors import UnknownNameError
from siamese_utils.studies.objectives import demonstrations
from siamese_utils.training.losses import Term


def test_toy_classes_part() -> None:
    path, labels, losses = demonstrations.toy_triplet_descent(steps=150)
    assert path.shape == (151, len(labels), 2)
    assert len(losses) == 150

    def worst_ratio(points: np.ndarray) -> float:
        distance = np.linalg.norm(points[:, None] - points[None], axis=2)
        same = labels[:, None] == labels[None]
        return distance[same].max() / distance[~same].min()

    assert worst_ratio(path[0]) > 5
    assert worst_ratio(path[-1]) < 1.5
    again, _, _ = demonstrations.toy_triplet_descent(steps=150)
    assert np.array_equal(path, again)


def test_mined_gaps_order_from_easy_to_hard() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20).repeat_interleave(8)
    centres = torch.randn(20, 16, generator=generator)
    z = torch.nn.functional.normalize(centres[labels] + 0.8 * torch.randn(160, 16, generator=generator), dim=1)
    gaps = {
        kind: demonstrations.mined_gaps(z, labels, kind) for kind in ("random", "batch_all", "semi_hard", "batch_hard")
    }
    assert gaps["batch_hard"].mean() < gaps["semi_hard"].mean() < gaps["batch_all"].mean()
    assert abs(gaps["random"].mean() - gaps["batch_all"].mean()) < 0.1
    assert len(gaps["batch_all"]) == 2 * 80 * 3 * 76  # batches x anchors x positives x negatives


def test_mined_gaps_of_an_unknown_miner() -> None:
    with pytest.raises(UnknownNameError, match="semi_hard"):
        demonstrations.mined_gaps(torch.eye(4), torch.tensor([0, 0, 1, 1]), "semihard")


def test_batch_hard_triplets_collapse_and_semi_hard_ones_do_not() -> None:
    # Classes that look alike at first sight: noise, with a weak pattern of each class underneath.
    rng = np.random.default_rng(0)
    labels = torch.arange(16).repeat_interleave(8)
    pattern = rng.normal(0, 12, (16, 16, 16, 3))[labels.numpy()]
    images = torch.from_numpy(np.clip(128 + pattern + rng.normal(0, 50, (128, 16, 16, 3)), 0, 255).astype(np.uint8))
    objectives = {name: Term("triplet", mining=name) for name in ("batch_hard", "semi_hard")}
    traces = demonstrations.collapse_traces(images, labels, objectives, steps=40)
    assert len(traces) == 80 and (traces.margin == 0.2).all()
    hard, semi = (traces[traces.objective == name] for name in objectives)
    assert hard.spread.iloc[0] == semi.spread.iloc[0]  # the same start
    assert hard.spread.iloc[-1] < 0.1 * hard.spread.iloc[0]
    assert hard.loss.iloc[-1] == pytest.approx(0.2, rel=0.1)  # stuck at the margin
    assert semi.spread.iloc[-1] > 0.5 * semi.spread.iloc[0]
    again = demonstrations.collapse_traces(images, labels, objectives, steps=40)
    assert traces.equals(again)


def test_flat_map_keeps_groups_together() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(20)
    z = torch.eye(3, 8)[labels] + 0.05 * torch.randn(60, 8, generator=generator)
    flat = demonstrations.flat_map(torch.nn.functional.normalize(z, dim=1))
    middles = np.stack([flat[labels == k].mean(axis=0) for k in range(3)])
    nearest = np.linalg.norm(flat[:, None] - middles[None], axis=2).argmin(axis=1)
    assert (nearest == labels.numpy()).all()
