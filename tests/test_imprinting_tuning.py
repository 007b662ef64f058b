"""Tuning an encoder's last stage with its classifier: the same embeddings before, a better class after."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.imprinting import Whitening, class_means, imprinted
from siamese_utils.errors import ConfigError, SamplingError, ShapeError
from siamese_utils.studies.imprinting.tuning import Stage, TuningConfig, split_stages, stage_inputs, tune_encoder


@pytest.fixture(scope="module")
def encoder(synthetic_train: ImageSet) -> Encoder:
    return made("resnet9-16", synthetic_train)


def made(name: str, synthetic_train: ImageSet) -> Encoder:
    torch.manual_seed(0)
    encoder = Encoder(name, image_size=32).train()
    encoder.set_pixel_statistics(synthetic_train.images)
    with torch.no_grad():  # statistics of batch normalisation that are not those of a start
        encoder(torch.randn(64, 3, 32, 32))
    encoder.eval().set_centre(synthetic_train.images)
    return encoder


def test_a_stage_embeds_as_the_encoder_does(encoder: Encoder, synthetic_train: ImageSet) -> None:
    images, labels = synthetic_train.images[:90], synthetic_train.labels[:90]
    maps = stage_inputs(encoder, images, batch_size=40)
    z = encoder.embed(images)
    torch.testing.assert_close(Stage.of(encoder).embed(maps, batch_size=7), z, atol=2e-5, rtol=1e-4)
    whitening = Whitening.fit(z, labels)
    torch.testing.assert_close(Stage.of(encoder, whitening).embed(maps), whitening(z), atol=5e-5, rtol=1e-3)
    first, last = split_stages(encoder)
    held = sum(p.numel() for p in last.parameters())
    assert 0.7 < held / (held + sum(p.numel() for p in first.parameters())) < 0.8


def test_a_stage_that_begins_inside_a_block_embeds_as_the_encoder_does(synthetic_train: ImageSet) -> None:
    encoder, images = made("airbench", synthetic_train), synthetic_train.images[:40]
    maps = stage_inputs(encoder, images)
    assert maps.shape == (40, 2, 256, 3, 3)
    torch.testing.assert_close(Stage.of(encoder).embed(maps, batch_size=7), encoder.embed(images), atol=2e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def problem(encoder: Encoder, synthetic_train: ImageSet) -> dict[str, torch.Tensor]:
    """Eight old classes and a ninth: maps and class numbers."""
    rows = (synthetic_train.labels < 9).nonzero().flatten()
    maps, labels = stage_inputs(encoder, synthetic_train.images[rows]), synthetic_train.labels[rows]
    z = Stage.of(encoder).embed(maps)
    return {
        "maps": maps[labels < 8],
        "rows": labels[labels < 8],
        "novel": maps[labels == 8],
        "old": class_means(z[labels < 8], labels[labels < 8], 8),
    }


def tune(encoder: Encoder, problem: dict[str, torch.Tensor], **how: object) -> tuple[Stage, torch.Tensor]:
    config = TuningConfig(**{"steps": 12, "batch": 16, "rate": 1e-3, **how})  # type: ignore[arg-type]
    old_images, shots = (problem["maps"], problem["rows"]), problem["novel"][:5]
    return tune_encoder(Stage.of(encoder), problem["old"], old_images, shots, config)


def balanced_loss(stage: Stage, weights: torch.Tensor, problem: dict[str, torch.Tensor]) -> float:
    """Cross-entropy over all images at hand, each class counting once."""
    maps = torch.cat([problem["maps"], problem["novel"][:5]])
    rows = torch.cat([problem["rows"], torch.full((5,), 8)])
    losses = F.cross_entropy(16 * stage.embed(maps) @ weights.T, rows, reduction="none")
    return float(torch.stack([losses[rows == number].mean() for number in range(9)]).mean())


def test_a_step_by_hand(encoder: Encoder, problem: dict[str, torch.Tensor]) -> None:
    """One step of a plain loop over images, with gradients by autograd and AdamW's first step written out."""
    _, weights = tune(encoder, problem, steps=1, batch=8, rate=0.0, views=10, weight_rate=0.01)
    rng = np.random.default_rng([0, 0x57A6E])
    targets = rng.permutation(8)
    counts = np.bincount(problem["rows"].numpy())
    drawn, sides = rng.integers(0, counts[targets]), rng.integers(0, 2, 8)
    stage = Stage.of(encoder)
    shots = problem["novel"][:5]
    start = torch.cat([F.normalize(problem["old"], dim=1), imprinted(stage.embed(shots))[None]])
    free = start.clone().requires_grad_()
    unit = F.normalize(free, dim=1)
    losses = []
    for target, number, side in zip(targets, drawn, sides, strict=True):
        image = problem["maps"][(problem["rows"] == int(target)).nonzero().flatten()[number], side]
        z = stage.mapped(stage.directions(image[None]))
        losses.append(F.cross_entropy(16 * z @ unit.T, torch.tensor([int(target)])))
    new = [
        F.cross_entropy(16 * stage.mapped(stage.directions(view[None])) @ unit.T, torch.tensor([8]))
        for view in shots.flatten(0, 1)
    ]
    loss = (8 * torch.stack(losses).mean() + torch.stack(new).mean()) / 9
    (gradient,) = torch.autograd.grad(loss, free)
    expected = F.normalize(start - 0.01 * gradient / (gradient.abs() + 1e-8), dim=1)  # Adam's first step
    torch.testing.assert_close(weights, expected, atol=2e-3, rtol=0)
    assert float((weights - start).abs().max()) > 5e-3


def test_tuning_learns_the_class_and_leaves_the_encoder(encoder: Encoder, problem: dict[str, torch.Tensor]) -> None:
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    stage, weights = tune(encoder, problem, steps=30)
    again, same_weights = tune(encoder, problem, steps=30)
    assert torch.equal(weights, same_weights)
    for one, other in zip(stage.layers.parameters(), again.layers.parameters(), strict=True):
        assert torch.equal(one, other) and not one.requires_grad
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    imprint = imprinted(Stage.of(encoder).embed(problem["novel"][:5]))
    begun = balanced_loss(Stage.of(encoder), torch.cat([problem["old"], imprint[None]]), problem)
    assert balanced_loss(stage, weights, problem) < begun - 0.2
    torch.testing.assert_close(weights.norm(dim=1), torch.ones(9))


def test_frozen_weights_and_a_still_stage(encoder: Encoder, problem: dict[str, torch.Tensor]) -> None:
    stage, weights = tune(encoder, problem, frozen_share=1.0, rate=0.0)
    torch.testing.assert_close(weights[:8], F.normalize(problem["old"], dim=1))
    for one, other in zip(stage.layers.parameters(), Stage.of(encoder).layers.parameters(), strict=True):
        assert torch.equal(one, other)
    half, _ = tune(encoder, problem, frozen_share=0.5), None
    assert not torch.allclose(half[1][:8], F.normalize(problem["old"], dim=1), atol=1e-4)


def test_a_class_that_needs_less_counts_for_less(encoder: Encoder, problem: dict[str, torch.Tensor]) -> None:
    """An untrained encoder is surer of five shots that made a weight than of whole classes; their weight falls."""
    shots = problem["novel"][:5]
    sure = []
    for adapt in (0.0, 1.0):
        stage, weights = tune(encoder, problem, steps=6, adapt=adapt)
        sure.append(float((stage.embed(shots) @ weights.T * 16).softmax(dim=1)[:, 8].mean()))
    assert sure[1] < sure[0] - 0.02


def test_without_a_class_to_add_the_old_ones_are_tuned_alone(
    encoder: Encoder, problem: dict[str, torch.Tensor]
) -> None:
    config = TuningConfig(steps=8, batch=16, rate=1e-3)
    old_images = problem["maps"], problem["rows"]
    stage, weights = tune_encoder(Stage.of(encoder), problem["old"], old_images, None, config)
    assert weights.shape == problem["old"].shape
    z, rows = stage.embed(problem["maps"]), problem["rows"]
    begun = F.cross_entropy(16 * Stage.of(encoder).embed(problem["maps"]) @ problem["old"].T, rows)
    assert F.cross_entropy(16 * z @ weights.T, rows) < begun - 0.1


def test_bad_input_is_named(encoder: Encoder, problem: dict[str, torch.Tensor]) -> None:
    with pytest.raises(SamplingError, match="needs a shot"):
        tune(encoder, {**problem, "novel": problem["novel"][:0]})
    with pytest.raises(SamplingError, match="every class"):
        tune(encoder, {**problem, "rows": problem["rows"].clamp(max=6)})
    with pytest.raises(ShapeError, match="takes maps"):
        tune(encoder, {**problem, "novel": problem["novel"][:, 0]})
    with pytest.raises(ConfigError, match="last stage"):
        split_stages(Encoder("resnet20"))
