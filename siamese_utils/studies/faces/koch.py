"""The verification network after Koch, Zemel and Salakhutdinov, as a course assignment built it in Keras.

Source: G. Koch, R. Zemel, R. Salakhutdinov, *Siamese Neural Networks for One-shot Image Recognition*, 2015, in the
version of T. Shahar and N. Itzhak for Labeled Faces in the Wild
(https://github.com/nevoit/Siamese-Neural-Networks-for-One-shot-Image-Recognition). Their text leaves three things
open, and their published program decides them:

- The text has no bias in the first convolution. The 38,954,049 parameters that it counts include one: what was left
  out is its random start, so it begins at zero. In front of a batch normalisation no bias has an effect.
- Dropout acts on the distances between the twins, not on the input of the wide layer.
- Pixels enter as 0 to 255. The first normalisation takes the scale away, all but its epsilon.

The rest follows Keras' defaults: batch normalisation with epsilon 0.001 and momentum 0.99, a last layer that starts as
Glorot and Bengio (2010) propose, Adam with epsilon 1e-7, penalties as sums of squares that are not halved. The twins
are two calls of one network, so that each normalises by its own half of the batch and both update the running
statistics.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from siamese_utils.data.faces import FRAMINGS
from siamese_utils.data.sampling import Pairs, named_rng
from siamese_utils.errors import SamplingError, ShapeError, TrainingError
from siamese_utils.studies.faces.fourier import FourierConv2d
from siamese_utils.system.config import Config, Count, Natural, NotNegative, Positive, ShareBelowOne, one_of
from siamese_utils.system.devices import pick_device
from siamese_utils.system.memory import freed_memory_kept
from siamese_utils.training.state import load_state, save_state, since_best

KERNELS = (10, 7, 4, 4)
SMALLEST_SIDE = 65  # pixels, of which one position is left after the last convolution
PUBLISHED_PARAMETERS = {"total": 38_954_049, "trainable": 38_952_897, "not trainable": 1_152}
# Percent on the assignment's holdout, which shares people with its training pairs, and on the test pairs.
PUBLISHED_ACCURACY = {"holdout": 73.4, "test": 73.2}


class KochConfig(Config):
    """Everything that decides a training run, apart from the photographs.

    Attributes:
        side: of the grey images in pixels.
        framing: see ``faces.grey``.
        pixel_scale: factor of the pixels, which are 0 to 255.
        channels: of the four convolutions.
        features: of the wide layer.
        dropout: share of the distances that are dropped in training.
        conv_penalty: factor of the sum of squares of the convolutions' kernels, added to the loss.
        dense_penalty: the same of the wide layer's matrix.
        learning_rate: of Adam.
        batch_size: pairs a step.
        epochs: passes over the training pairs, at most.
        patience: stop after so many epochs without a better validation loss; 0 never stops early.
        min_delta: what counts as better.
        seed: of weights, order and dropout.
    """

    side: Annotated[int, Field(ge=SMALLEST_SIDE)] = 105
    framing: Annotated[str, one_of("framing", FRAMINGS)] = "photo"
    pixel_scale: Positive = 1.0
    channels: tuple[Count, Count, Count, Count] = (64, 128, 128, 256)
    features: Count = 4096
    dropout: ShareBelowOne = 0.4
    conv_penalty: NotNegative = 2e-4
    dense_penalty: NotNegative = 2e-3
    learning_rate: Positive = 5e-5
    batch_size: Annotated[int, Field(ge=2)] = 32
    epochs: Count = 10
    patience: Natural = 5
    min_delta: NotNegative = 0.1
    seed: Natural = 0


class KochNetwork(nn.Module):
    """Two images in, the log odds that they are of one class out.

    Args:
        config: sizes, dropout and the scale of the pixels.
    """

    def __init__(self, config: KochConfig) -> None:
        super().__init__()
        self.side, self.pixel_scale = config.side, config.pixel_scale
        layers: list[nn.Module] = []
        inputs, side = 1, config.side
        for number, (outputs, kernel) in enumerate(zip(config.channels, KERNELS), start=1):
            layers += [
                FourierConv2d(inputs, outputs, kernel),
                nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01),  # torch's momentum is one minus Keras'
            ]
            side -= kernel - 1
            if number < len(KERNELS):
                layers.append(nn.MaxPool2d(2))
                side //= 2
            # The assignment has it before the pooling; the two commute, and behind it a quarter of the values is left.
            layers.append(nn.ReLU(inplace=True))
            inputs = outputs
        self.twin = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * side * side, config.features), nn.Sigmoid())
        self.dropout = nn.Dropout(config.dropout)
        self.output = nn.Linear(config.features, 1)
        if not self.output.weight.is_meta:  # as in layer_table, which looks at shapes alone
            self._initialise()

    def _initialise(self) -> None:
        for module in self.twin:
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.normal_(module.weight, 0.0, 0.01)
                nn.init.normal_(module.bias, 0.5, 0.01)
        nn.init.zeros_(self.twin[0].bias)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.normal_(self.output.bias, 0.5, 0.01)

    def forward(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Log odds of "same": two float (N, 1, side, side) to float (N,)."""
        first, second = self.twins(first, second)
        return self.output(self.dropout((first - second).abs())).squeeze(1)

    def twins(self, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``twin`` of each, two float (N, 1, side, side) to (N, features), with every weight read once for both.

        Batch normalisation sees the two apart, as it does in the assignment, where each passes on its own. The first
        convolution does as well: its maps are so large that putting their gradients together costs more than it saves.
        """
        for number, module in enumerate(self.twin):
            if number and isinstance(module, (nn.Conv2d, nn.Linear)):
                first, second = module(torch.cat([first, second])).chunk(2)
            else:
                first, second = module(first), module(second)
        return first, second

    def pixels(self, images: torch.Tensor) -> torch.Tensor:
        """Grey images, uint8 (N, side, side), as the network takes them: float32 (N, 1, side, side)."""
        return (images.to(torch.float32) * self.pixel_scale).unsqueeze(1)


def _penalised(network: KochNetwork, config: KochConfig) -> list[tuple[torch.Tensor, float]]:
    """Kernels and the wide layer's matrix, each with the factor of its squares in the loss."""
    layers = [module for module in network.twin if isinstance(module, (nn.Conv2d, nn.Linear))]
    return [
        (layer.weight, config.conv_penalty if isinstance(layer, nn.Conv2d) else config.dense_penalty)
        for layer in layers
    ]


def penalty(network: KochNetwork, config: KochConfig) -> torch.Tensor:
    """What the loss adds for large weights: factors times sums of squares, of kernels and the wide layer's matrix."""
    norms = [(factor, torch.linalg.vector_norm(weight)) for weight, factor in _penalised(network, config)]
    return torch.stack([factor * norm.square() for factor, norm in norms]).sum()


def koch_optimizer(network: KochNetwork, config: KochConfig) -> torch.optim.Adam:
    """Adam that takes the gradient of the penalty along, as a weight decay of twice the factor.

    Adam's decay is added to the gradient before its moments are formed (unlike AdamW's), so a step is the same as with
    ``penalty`` in the loss, without the passes over 38 million weights that its own gradient would take.
    """
    penalised = _penalised(network, config)
    decayed = {id(weight) for weight, _ in penalised}
    rest = [parameter for parameter in network.parameters() if id(parameter) not in decayed]
    parts = [{"params": [weight], "weight_decay": 2 * factor} for weight, factor in penalised]
    fused = next(network.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.Adam([*parts, {"params": rest}], lr=config.learning_rate, eps=1e-7, fused=fused)


def keras_counts(network: nn.Module) -> dict[str, int]:
    """Parameters as Keras counts them, which includes the running statistics of batch normalisation.

    Keys: ``total``, ``trainable``, ``not trainable``.
    """
    trainable = sum(parameter.numel() for parameter in network.parameters())
    fixed = sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
    return {"total": trainable + fixed, "trainable": trainable, "not trainable": fixed}


def layer_table(config: KochConfig | None = None) -> pd.DataFrame:
    """One row a layer of a twin and of the head: layer, output (channels x height x width), parameters in Keras' count.

    Nothing is computed: the network is made without memory for its weights.
    """
    config = config or KochConfig()
    with torch.device("meta"):
        network = KochNetwork(config)
    channels, side = 1, config.side
    rows = []
    for module in network.twin:
        if isinstance(module, nn.Conv2d):
            channels, side = module.out_channels, side - module.kernel_size[0] + 1
            layer = f"convolution {module.kernel_size[0]}×{module.kernel_size[1]}, {channels} channels"
        elif isinstance(module, nn.MaxPool2d):
            side //= 2
            layer = "max pooling 2×2"
        elif isinstance(module, nn.Flatten):
            channels, side, layer = channels * side * side, 0, "flatten"
        elif isinstance(module, nn.Linear):
            channels, layer = module.out_features, f"fully connected, {module.out_features:,} features"
        else:
            layer = _PLAIN_LAYERS[type(module)]
        shape = f"{channels} × {side} × {side}" if side else str(channels)
        rows.append((layer, shape, keras_counts(module)["total"]))
    rows.append(("|twin 1 − twin 2|", str(config.features), 0))
    rows.append((f"dropout {config.dropout:g}", str(config.features), 0))
    rows.append(("fully connected, sigmoid", "1", keras_counts(network.output)["total"]))
    return pd.DataFrame(rows, columns=["layer", "output", "parameters"])


_PLAIN_LAYERS = {nn.BatchNorm2d: "batch normalisation", nn.ReLU: "ReLU", nn.Sigmoid: "sigmoid"}


@dataclass(frozen=True, eq=False)
class KochResult:
    """A finished run.

    Attributes:
        network: trained, in evaluation mode, on the CPU.
        config: what it was trained with.
        history: one row an epoch: ``epoch, loss, accuracy, validation_loss, validation_accuracy, seconds``; losses
            with the penalty, accuracies in percent at probability 0.5. Those of the training are means over the epoch,
            as Keras gives them, while the weights still change and distances are dropped.
        seconds: time spent training, over all resumptions.
    """

    network: KochNetwork
    config: KochConfig
    history: pd.DataFrame
    seconds: float


def train_koch(
    config: KochConfig,
    images: torch.Tensor,
    pairs: Pairs,
    validation_images: torch.Tensor,
    validation_pairs: Pairs,
    *,
    run_dir: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    stop_after: int | None = None,
) -> KochResult:
    """Train the network on pairs, by the assignment's recipe.

    The order of the pairs and the dropout come from the seed and the epoch's number, so a run that is killed and
    started again with the same ``run_dir`` ends with the same weights.

    Args:
        config: the recipe.
        images: uint8 (N, side, side), grey.
        pairs: of them, to learn from.
        validation_images, validation_pairs: to stop early by.
        run_dir: folder for the state after each epoch (half a gigabyte) and ``history.csv``; ``None`` keeps nothing.
        device: see ``train``.
        progress: show a progress bar.
        stop_after: stop after so many epochs of this call, as a kill would.

    Raises:
        ShapeError: images of another shape or type.
        SamplingError: no pair.
        TrainingError: the loss is not finite, or ``stop_after`` was reached.
        CheckpointError: ``run_dir`` holds a damaged state or that of another run.
    """
    for some in (images, validation_images):
        if some.dtype != torch.uint8 or tuple(some.shape[1:]) != (config.side, config.side):
            raise ShapeError(
                f"The network takes grey images uint8 (N, {config.side}, {config.side}), not {some.dtype} "
                f"{tuple(some.shape)}; see siamese_utils.data.faces.grey."
            )
    if not len(pairs.same) or not len(validation_pairs.same):
        raise SamplingError("Training on pairs needs a training and a validation pair at least; give more people.")
    where = pick_device(device)
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(config.seed)
        network = KochNetwork(config).to(where, memory_format=torch.channels_last)
        optimizer = koch_optimizer(network, config)

        def put_back(state: Mapping[str, Any]) -> None:
            network.load_state_dict(state["network"])
            optimizer.load_state_dict(state["optimizer"])

        belongs_to = {"config": json.dumps(config.to_json())}
        history = load_state(run_dir, belongs_to, put_back)
        begun, images = len(history), images.to(where)
        bar = tqdm(total=config.epochs, initial=begun, unit="epoch", desc="faces, pairs", disable=not progress)
        with bar, freed_memory_kept():
            for epoch in range(begun, config.epochs):
                if since_best((-row["validation_loss"] for row in history), config.min_delta) >= config.patience > 0:
                    break
                if stop_after is not None and epoch - begun >= stop_after:
                    raise TrainingError(f"Stopped after {stop_after} epochs as asked; start again to go on.")
                row = _train_epoch(epoch, config, network, optimizer, images, pairs)
                logits = pair_logits(network, validation_images, validation_pairs)
                same = validation_pairs.same.to(torch.float32)
                with torch.no_grad():
                    penalised = float(F.binary_cross_entropy_with_logits(logits, same) + penalty(network, config).cpu())
                row["validation_loss"] = penalised
                row["validation_accuracy"] = 100 * float(((logits > 0) == validation_pairs.same).double().mean())
                history.append(row)
                bar.update()
                bar.set_postfix(loss=f"{row['loss']:.3f}", validation=f"{row['validation_accuracy']:.1f}%")
                state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
                save_state(run_dir, belongs_to, state, history)
    return KochResult(network.cpu().eval(), config, pd.DataFrame(history), sum(row["seconds"] for row in history))


def _batches(pairs: Pairs, size: int, order: NDArray[np.int64]) -> Iterator[Pairs]:
    for begin in range(0, len(order), size):
        rows = torch.from_numpy(order[begin : begin + size])
        yield Pairs(pairs.first[rows], pairs.second[rows], pairs.same[rows])


def _train_epoch(
    epoch: int,
    config: KochConfig,
    network: KochNetwork,
    optimizer: torch.optim.Optimizer,
    images: torch.Tensor,
    pairs: Pairs,
) -> dict[str, float]:
    start = time.perf_counter()
    rng = named_rng(config.seed, f"pairs of epoch {epoch}")
    torch.manual_seed(int(rng.integers(2**31)))  # for dropout
    network.train()
    losses = right = 0.0
    for batch in _batches(pairs, config.batch_size, rng.permutation(len(pairs.same))):
        twins = [network.pixels(images[end.to(images.device)]) for end in (batch.first, batch.second)]
        same = batch.same.to(images.device)
        logits = network(*twins)
        loss = F.binary_cross_entropy_with_logits(logits, same.to(logits.dtype))
        with torch.no_grad():  # the optimizer knows its gradient
            value = float(loss + penalty(network, config))
        if not math.isfinite(value):
            raise TrainingError(f"The loss became {value} in epoch {epoch + 1}; lower the learning rate.")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += value * len(same)
        right += float(((logits > 0) == same).sum())
    count = len(pairs.same)
    return {
        "epoch": epoch + 1,
        "loss": losses / count,
        "accuracy": 100 * right / count,
        "seconds": time.perf_counter() - start,
    }


@torch.no_grad()
def pair_logits(network: KochNetwork, images: torch.Tensor, pairs: Pairs, batch_size: int = 64) -> torch.Tensor:
    """Log odds that pairs are of one class.

    Args:
        network: on any device; normalises by its running statistics here.
        images: uint8 (N, side, side), grey; each passes through the network once.
        pairs: P of them.
        batch_size: images a forward pass.

    Returns:
        float32 (P,) on the CPU.
    """
    was_training, device = network.training, network.output.weight.device
    network.eval()
    try:
        features = torch.cat([network.twin(network.pixels(chunk.to(device))) for chunk in images.split(batch_size)])
        distance = (features[pairs.first.to(device)] - features[pairs.second.to(device)]).abs()
        return network.output(distance).squeeze(1).float().cpu()
    finally:
        network.train(was_training)
