"""The assignment's network: its size as Keras counts it, its penalty and start, and a training that can be resumed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.sampling import Pairs
from siamese_utils.errors import CheckpointError, SamplingError, ShapeError, TrainingError
from siamese_utils.studies.faces import koch
from siamese_utils.studies.faces.koch import (
    PUBLISHED_PARAMETERS,
    KochConfig,
    KochNetwork,
    keras_counts,
    koch_optimizer,
    layer_table,
    pair_logits,
    penalty,
    train_koch,
)
from siamese_utils.system import memory

SMALL = KochConfig(side=65, channels=(2, 3, 4, 5), features=6, batch_size=4, epochs=3, learning_rate=1e-3)


@pytest.fixture(scope="module")
def some() -> tuple[torch.Tensor, Pairs]:
    """Twelve images of six classes that differ in brightness, and twelve pairs."""
    rng = np.random.default_rng(0)
    level = np.repeat(np.arange(6) * 40, 2)[:, None, None]
    images = torch.from_numpy((level + rng.integers(0, 30, (12, 65, 65))).astype(np.uint8))
    same = [(2 * i, 2 * i + 1, True) for i in range(6)]
    different = [(2 * i, (2 * i + 3) % 12, False) for i in range(6)]
    first, second, flags = zip(*same, *different)
    return images, Pairs(torch.tensor(first), torch.tensor(second), torch.tensor(flags))


def quick(config: KochConfig, some: tuple[torch.Tensor, Pairs], **how: object) -> koch.KochResult:
    return train_koch(config, *some, *some, device="cpu", progress=False, **how)  # type: ignore[arg-type]


# --- the network ----------------------------------------------------------------------------------


def test_parameters_are_those_that_the_assignment_counts() -> None:
    with torch.device("meta"):
        network = KochNetwork(KochConfig())
    assert keras_counts(network) == PUBLISHED_PARAMETERS
    # By hand: kernels and biases, then two trainable and two running numbers a channel.
    kernels = 100 * 64 + 49 * 64 * 128 + 16 * 128 * 128 + 16 * 128 * 256 + 6 * 6 * 256 * 4096 + 4096
    biases = 64 + 128 + 128 + 256 + 4096 + 1
    assert kernels + biases + 4 * (64 + 128 + 128 + 256) == PUBLISHED_PARAMETERS["total"]
    # Without a bias in the first layer, as the assignment's text has it, 64 would be lacking.
    network.twin[0].bias = None
    assert keras_counts(network)["total"] == PUBLISHED_PARAMETERS["total"] - 64


def test_layers_are_those_of_the_assignment() -> None:
    table = layer_table()
    assert int(table.parameters.sum()) == PUBLISHED_PARAMETERS["total"]
    convolutions = table[table.layer.str.startswith("convolution")]
    assert convolutions.output.tolist() == ["64 × 96 × 96", "128 × 42 × 42", "128 × 18 × 18", "256 × 6 × 6"]
    assert table.layer.str.contains("pooling").sum() == 3 and table.output[table.layer == "flatten"].item() == "9216"


def test_normalisation_follows_keras() -> None:
    for module in KochNetwork(SMALL).twin:
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (0.001, pytest.approx(1 - 0.99))


@torch.no_grad()
def test_start_is_the_one_described() -> None:
    torch.manual_seed(0)
    network = KochNetwork(dataclasses.replace(SMALL, channels=(64, 64, 64, 64), features=512))
    for number, module in enumerate(network.twin):
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            assert float(module.weight.mean()) == pytest.approx(0, abs=5e-4)
            assert float(module.weight.std()) == pytest.approx(0.01, rel=0.05)
            expected = 0 if number == 0 else 0.5
            assert float(module.bias.mean()) == pytest.approx(expected, abs=5e-3)
    assert float(network.output.bias) == pytest.approx(0.5, abs=0.04)


def test_first_bias_changes_nothing() -> None:
    torch.manual_seed(0)
    network = KochNetwork(SMALL).train()
    network.dropout.p = 0.0
    pixels = [network.pixels(torch.randint(0, 256, (4, 65, 65)).to(torch.uint8)) for _ in range(2)]
    before = network(*pixels)
    with torch.no_grad():
        network.twin[0].bias.add_(3.0)
    torch.testing.assert_close(network(*pixels), before, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_penalty_by_hand() -> None:
    torch.manual_seed(0)
    config = dataclasses.replace(SMALL, conv_penalty=0.3, dense_penalty=0.7)
    network = KochNetwork(config)
    convolutions = [m.weight for m in network.twin if isinstance(m, nn.Conv2d)]
    wide = next(m.weight for m in network.twin if isinstance(m, nn.Linear))
    expected = 0.3 * sum(float((w.double() ** 2).sum()) for w in convolutions) + 0.7 * float((wide.double() ** 2).sum())
    assert len(convolutions) == 4 and float(penalty(network, config)) == pytest.approx(expected, rel=1e-5)


def test_decay_is_the_gradient_of_the_penalty(some: tuple[torch.Tensor, Pairs]) -> None:
    """Steps of the optimizer against plain Adam on a loss that holds the penalty."""
    config = dataclasses.replace(SMALL, conv_penalty=0.3, dense_penalty=0.7)
    images, pairs = some
    networks, losses = [], []
    for explicit in (True, False):
        torch.manual_seed(0)
        network = KochNetwork(config).double()
        network.eval()  # no dropout, so that both sides see the same
        optimizer = koch_optimizer(network, config)
        if explicit:
            optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate, eps=1e-7)
        for _ in range(3):
            ends = [network.pixels(images[end]).double() for end in (pairs.first, pairs.second)]
            loss = F.binary_cross_entropy_with_logits(network(*ends), pairs.same.double())
            optimizer.zero_grad()
            (loss + penalty(network, config) if explicit else loss).backward()
            optimizer.step()
        networks.append(network)
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    start = KochNetwork(config)
    for (name, one), other in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-12)
        assert not torch.equal(one.float(), start.get_parameter(name)), name


def test_pooling_before_relu_changes_nothing() -> None:
    torch.manual_seed(0)
    network = KochNetwork(SMALL).double()
    plain: list[nn.Module] = []
    for module in network.twin:
        if isinstance(module, nn.ReLU) and isinstance(plain[-1], nn.MaxPool2d):
            plain.insert(-1, nn.ReLU())
        else:
            plain.append(nn.ReLU() if isinstance(module, nn.ReLU) else module)
    assert [type(m).__name__ for m in plain[:4]] == ["FourierConv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    images = torch.rand(3, 1, 65, 65, dtype=torch.float64)
    gradients = []
    for twin in (network.twin, nn.Sequential(*plain)):
        network.zero_grad()
        out = twin(images)
        out.square().sum().backward()
        gradients.append([out.detach(), *(parameter.grad.clone() for parameter in network.twin.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_twins_together_are_twins_apart() -> None:
    """Outputs, gradients and running statistics are those of one pass after the other."""
    together, apart = KochNetwork(SMALL).double(), KochNetwork(SMALL).double()
    apart.load_state_dict(together.state_dict())
    generator = torch.Generator().manual_seed(0)
    first, second = torch.rand((2, 5, 1, 65, 65), generator=generator, dtype=torch.float64)
    outputs = together.twins(first, second), (apart.twin(first), apart.twin(second))
    for pair in outputs:
        (pair[0] * (pair[1] + 2)).sum().backward()
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(together.twin.parameters(), apart.twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(together.twin.buffers(), apart.twin.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_twins_are_compared_by_distance(some: tuple[torch.Tensor, Pairs]) -> None:
    torch.manual_seed(0)
    network = KochNetwork(SMALL).eval()
    images, pairs = some
    logits = pair_logits(network, images, pairs, batch_size=5)
    swapped = pair_logits(network, images, Pairs(pairs.second, pairs.first, pairs.same))
    torch.testing.assert_close(logits, swapped)
    with torch.no_grad():
        direct = network(network.pixels(images[pairs.first]), network.pixels(images[pairs.second]))
        own = network(network.pixels(images), network.pixels(images))
    torch.testing.assert_close(logits, direct, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(own, network.output.bias.expand(len(images)).detach())


# --- training -------------------------------------------------------------------------------------


def test_first_step_is_keras(some: tuple[torch.Tensor, Pairs], monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the first epoch, by hand: mean of cross-entropy and penalty; both twins update the statistics."""
    config = dataclasses.replace(SMALL, batch_size=12, epochs=1, dropout=0.0)
    images, pairs = some
    result = quick(config, some)
    torch.manual_seed(config.seed)
    network = KochNetwork(config).train()
    twins = [network.twin(network.pixels(images[end])) for end in (pairs.first, pairs.second)]
    probability = torch.sigmoid(network.output((twins[0] - twins[1]).abs()).squeeze(1))
    expected = F.binary_cross_entropy(probability, pairs.same.float()) + penalty(network, config)
    assert result.history.loss[0] == pytest.approx(float(expected.detach()), rel=1e-4)
    assert result.history.accuracy[0] == pytest.approx(100 * float(((probability > 0.5) == pairs.same).float().mean()))
    statistics = [dict(net.twin[1].named_buffers()) for net in (result.network, network)]
    assert int(statistics[0]["num_batches_tracked"]) == 2
    torch.testing.assert_close(statistics[0]["running_mean"], statistics[1]["running_mean"], atol=1e-3, rtol=1e-3)


def test_it_learns(some: tuple[torch.Tensor, Pairs]) -> None:
    free = {"conv_penalty": 0.0, "dense_penalty": 0.0, "dropout": 0.0, "patience": 0}
    # In one batch, since twelve images are too few to normalise by parts of them.
    config = dataclasses.replace(SMALL, **free, batch_size=12, epochs=40, features=64, learning_rate=1e-2)
    result = quick(config, some)
    assert result.history.loss.iloc[-3:].mean() < 0.8 * result.history.loss.iloc[0]
    assert result.history.accuracy.iloc[-3:].mean() > 80


def test_run_is_repeated_and_resumed_exactly(some: tuple[torch.Tensor, Pairs], tmp_path: Path) -> None:
    whole = quick(SMALL, some)
    again = quick(SMALL, some)
    with pytest.raises(TrainingError, match="as asked"):
        quick(SMALL, some, run_dir=tmp_path, stop_after=1)
    resumed = quick(SMALL, some, run_dir=tmp_path)
    for other in (again, resumed):
        for key, value in whole.network.state_dict().items():
            assert torch.equal(value, other.network.state_dict()[key]), key
        columns = [name for name in whole.history.columns if name != "seconds"]
        assert whole.history[columns].equals(other.history[columns])
    other_seed = quick(dataclasses.replace(SMALL, seed=1), some)
    assert not torch.equal(other_seed.network.output.weight, whole.network.output.weight)
    with pytest.raises(CheckpointError, match="another configuration"):
        quick(dataclasses.replace(SMALL, seed=1), some, run_dir=tmp_path)
    (tmp_path / "state.pt").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="damaged"):
        quick(SMALL, some, run_dir=tmp_path)


def test_freed_memory_is_kept_while_it_trains(
    some: tuple[torch.Tensor, Pairs], monkeypatch: pytest.MonkeyPatch
) -> None:
    step, users = koch._train_epoch, []

    def watched(*args: object) -> dict[str, float]:
        users.append(memory._users)
        return step(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(koch, "_train_epoch", watched)
    quick(dataclasses.replace(SMALL, epochs=1), some)
    assert memory._users == 0 and users == [int(memory._allocator() is not None)]


def test_early_stop_ends_the_run(some: tuple[torch.Tensor, Pairs]) -> None:
    stopped = quick(dataclasses.replace(SMALL, epochs=9, patience=2, min_delta=50.0), some)
    assert len(stopped.history) == 3  # the first epoch is better than none
    assert len(quick(dataclasses.replace(SMALL, epochs=5, patience=0, min_delta=50.0), some).history) == 5


# --- bad input ------------------------------------------------------------------------------------


def test_bad_images_and_pairs(some: tuple[torch.Tensor, Pairs]) -> None:
    images, pairs = some
    for bad in (images.float(), images[:, :64], images[..., None]):
        with pytest.raises(ShapeError, match=r"uint8 \(N, 65, 65\)"):
            quick(SMALL, (bad, pairs))
    empty = Pairs(pairs.first[:0], pairs.second[:0], pairs.same[:0])
    with pytest.raises(SamplingError):
        quick(SMALL, (images, empty))


def test_divergence_is_named(some: tuple[torch.Tensor, Pairs]) -> None:
    with pytest.raises(TrainingError, match="lower the learning rate"):
        quick(dataclasses.replace(SMALL, learning_rate=1e30), some)
