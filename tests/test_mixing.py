"""Mixed examples: what is mixed, by how much, and what is learned from it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from test_training import CLASSES, TINY, run
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.images import ImageSet
from siamese_utils.data.pixels import to_float
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.errors import ConfigError, UnknownNameError
from siamese_utils.training import loop
from siamese_utils.training.losses import ObjectiveOutput, Term, WeightedSum
from siamese_utils.training.mixing import Mixture, cut_mix, draw_mixture, mixable_layers, mixed_features
from siamese_utils.training.task import prepare


@pytest.fixture(scope="module")
def small_set() -> ImageSet:
    return make_synthetic("train", num_classes=8, per_class=10)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("concentration", [1, 2])
def test_shares_have_the_beta_distribution(concentration: int) -> None:
    made = [draw_mixture(6, numbers, concentration) for numbers in [generator()] for _ in range(4_000)]
    shares = torch.tensor([one.share for one in made])
    assert shares.mean().item() == pytest.approx(0.5, abs=0.02)
    assert shares.var().item() == pytest.approx(1 / (4 * (2 * concentration + 1)), rel=0.06)
    assert all(sorted(one.partner.tolist()) == list(range(6)) for one in made[:50])
    assert len({tuple(one.partner.tolist()) for one in made[:50]}) > 20


@pytest.mark.parametrize("share", [0.0, 0.3, 0.75, 1.0])
def test_cut_images_hold_as_much_of_the_partner_as_is_said(share: float) -> None:
    """Each image is of one colour, so that the pixels of each can be counted."""
    pixels = torch.arange(5.0)[:, None, None, None].expand(5, 3, 12, 16)
    partner = torch.tensor([1, 2, 3, 4, 0])
    sizes = set()
    for seed in range(20):
        mixed, mixture = cut_mix(pixels, Mixture(partner, share), generator(seed))
        own = (mixed == pixels).all(dim=1)
        assert torch.equal(own.float().mean(dim=(1, 2)), torch.full((5,), mixture.share).float())
        assert torch.equal(own[0].expand_as(own), own)  # the same rectangle in all
        assert (mixed[~own[:, None].expand_as(mixed)].reshape(5, -1) == partner[:, None]).all()
        sizes.add(mixture.share)
        assert mixture.share >= share - 0.15  # rounded to pixels, and cut off at the border
    assert torch.equal(pixels[:, 0, 0, 0], torch.arange(5.0)) and (len(sizes) > 3) == (share < 1)


def test_features_are_mixed_while_it_lasts() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, partner = torch.randn(3, 3, 6, 6), torch.tensor([2, 0, 1])
    plain = body(x)
    hidden = body[1](body[0](x))
    with mixed_features(body[1], Mixture(partner, 0.25)):
        mixed = body(x)
    expected = (0.25 * hidden + 0.75 * hidden[partner]).mean(dim=(2, 3))
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(body(x), plain)
    assert mixable_layers(body) == [body[0], body[1]]
    for other in (nn.Linear(2, 2), nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten())):
        with pytest.raises(ConfigError, match="sequence of stages"):
            mixable_layers(other)


def test_loss_of_a_mixture_is_that_of_a_target_of_both() -> None:
    torch.manual_seed(0)
    objective = WeightedSum((Term("proxy", weight=2.0), Term("triplet")), 5, 8)
    z, labels, others = torch.randn(6, 8), torch.tensor([0, 1, 2, 3, 4, 0]), torch.tensor([1, 1, 0, 2, 3, 4])
    targets = 0.3 * F.one_hot(labels, 5) + 0.7 * F.one_hot(others, 5)
    logits = objective.objectives[0].logits(z)
    expected = 2 * F.cross_entropy(logits, targets, label_smoothing=0.1)
    output = objective.mixed(z, labels, others, 0.3)
    torch.testing.assert_close(output.loss, expected)
    assert output.stats["mixed_loss"] == output.loss.detach()
    with pytest.raises(ConfigError, match="add a proxy term"):
        WeightedSum((Term("triplet"),), 5, 8).mixed(z, labels, others, 0.3)


@pytest.mark.parametrize("mixing", ["cutmix", "manifold"])
def test_a_share_of_the_steps_is_mixed(mixing: str, small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[bool] = []
    learn, learn_mixed = loop.Learner.learn, loop.Learner.learn_mixed

    def plain(*arguments: object) -> tuple[torch.Tensor, ObjectiveOutput]:
        steps.append(False)
        return learn(*arguments)  # type: ignore[arg-type]

    def mixed(*arguments: object) -> tuple[torch.Tensor, ObjectiveOutput]:
        steps.append(True)
        return learn_mixed(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Learner, "learn", plain)
    monkeypatch.setattr(loop.Learner, "learn_mixed", mixed)
    config = dataclasses.replace(TINY, mixing=mixing, mixing_share=0.4, epochs=8)
    history = run(config, small_set).history
    assert 0.2 < sum(steps) / len(steps) < 0.6 and {"mixed_loss", "proxy_loss", "triplet_loss"} <= set(history)
    assert len(set(steps)) == 2 and len(CLASSES) > 2


@pytest.mark.parametrize("mixing", ["cutmix", "manifold"])
def test_a_mixed_step_learns_both_labels_by_the_share_that_is_left(mixing: str, small_set: ImageSet) -> None:
    """Everything drawn again by hand, and the loss written out as that of a target of both."""
    smoothing, scale = 0.1, 5.0
    config = dataclasses.replace(
        TINY,
        precision="float32",
        mixing=mixing,
        head_width=4,
        terms=(Term("proxy", weight=2.0, smoothing=smoothing, scale=scale),),
    )
    made = prepare(config, small_set, CLASSES)
    torch.manual_seed(0)
    learner = loop.Learner(config, made.images, made.num_labels)
    learner.encoder.eval()  # batch statistics would tell which images stand in the batch, and move
    learner.head.eval()
    images, labels = made.batch(made.batches.epoch(0)[0])
    pixels = to_float(images, learner.encoder.pixel_mean, learner.encoder.pixel_std)
    layers, seen = mixable_layers(learner.encoder.body), set()
    for seed in range(12):
        learner.generator.manual_seed(seed)
        state = learner.generator.get_state()
        _, output = learner.learn_mixed(pixels, labels, 0.5)
        again = generator()
        again.set_state(state)
        if mixing == "cutmix":
            mixture = draw_mixture(len(pixels), again)
            mixed, mixture = cut_mix(pixels, mixture, again)
            z = learner.encoder(mixed)
        else:
            mixture = draw_mixture(len(pixels), again, 2)
            at = int(torch.randint(0, len(layers), (), generator=again))
            seen.add(at)
            x = pixels
            for place, stage in enumerate(learner.encoder.body):
                x = stage(x)
                if place == at:
                    x = mixture.share * x + (1 - mixture.share) * x[mixture.partner]
            z = learner.encoder.projection(x)
        own, other = (F.one_hot(each, made.num_labels).double() for each in (labels, labels[mixture.partner]))
        target = mixture.share * own + (1 - mixture.share) * other
        proxies = F.normalize(next(learner.objective.objectives[0].parameters()), dim=1)
        logits = scale * F.normalize(learner.head(z), dim=1) @ proxies.T
        expected = 2 * F.cross_entropy(logits.double(), target, label_smoothing=smoothing)
        assert output.loss.item() == pytest.approx(expected.item(), rel=1e-4)
        assert set(output.stats) == {"mixed_loss"}
    assert mixing == "cutmix" or len(seen) > 1


def test_settings_that_cannot_be_mixed_are_refused(small_set: ImageSet) -> None:
    for terms in [(Term("triplet"),), (Term("proxy", end=0.5), Term("triplet", begin=0.5))]:
        with pytest.raises(ConfigError, match="add a proxy term that lasts"):
            dataclasses.replace(TINY, terms=terms, mixing="cutmix")
    with pytest.raises(ConfigError, match="leave compile off"):
        dataclasses.replace(TINY, mixing="manifold", compile=True)
    with pytest.raises(UnknownNameError, match="cutmix"):
        dataclasses.replace(TINY, mixing="cutmixx")
    with pytest.raises(ConfigError, match="sequence of stages"):
        run(dataclasses.replace(TINY, mixing="manifold", encoder="resnet18"), small_set)
