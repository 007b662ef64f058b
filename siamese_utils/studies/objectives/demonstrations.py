"""Small computations behind the explanatory figures: what a triplet loss does, and what mining picks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from sklearn.manifold import TSNE

from siamese_utils.data.sampling import PKBatches
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import unknown
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import Learner, step
from siamese_utils.training.losses import MINERS, Term, TripletObjective, cosine_distance, embedding_spread


def toy_triplet_descent(steps: int = 150) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Let a triplet loss move free points of three classes in the plane; no network, the points are the embeddings.

    Returns:
        positions float32 (steps+1, N, 2), labels int64 (N,), and the loss before each step.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(12)
    points = torch.randn(len(labels), 2, generator=generator).requires_grad_()
    objective = TripletObjective("euclidean", "batch_all", margin=1.0)
    path, losses = [points.detach().clone()], []
    for _ in range(steps):
        loss = objective(points, labels).loss
        (gradient,) = torch.autograd.grad(loss, points)
        with torch.no_grad():
            points -= 0.8 * gradient
        losses.append(float(loss.detach()))
        path.append(points.detach().clone())
    return torch.stack(path).numpy(), labels.numpy(), losses


def mined_gaps(z: torch.Tensor, labels: torch.Tensor, mining: str, batches: int = 8) -> np.ndarray:
    """How much farther than the positive the negative is, in the triplets that a miner picks.

    Args:
        z: float32 (M, D), embeddings.
        labels: int64 (M,).
        mining: a name in ``losses.MINERS``.
        batches: number of P x K batches to mine, P = up to 64 classes, K = 4.

    Returns:
        d(a, n) - d(a, p) of every chosen triplet, float32; negative where the triplet is violated.

    Raises:
        UnknownNameError: no such miner.
    """
    if mining not in MINERS:
        raise unknown("mining", mining, MINERS)
    classes = min(64, len(labels.unique()))
    sampler = PKBatches(labels, classes, 4, seed=0)
    gaps = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for positions in sampler.epoch(0)[:batches]:
            mined = MINERS[mining](cosine_distance(z[positions]), labels[positions])
            gap = (mined.to_negative - mined.to_positive).expand(mined.chosen.shape)
            gaps.append(gap[mined.chosen])
    return torch.cat(gaps).numpy()


def collapse_traces(
    images: torch.Tensor, labels: torch.Tensor, objectives: Mapping[str, Term], steps: int = 60
) -> pd.DataFrame:
    """Train a network of three convolutions from the same start, by several triplet losses, and watch it closely.

    Start, batches and augmentation are the same for each objective.

    Args:
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
        objectives: by name.
        steps: of Adam at a rate of 0.001, on batches of up to 32 classes x 4 images.

    Returns:
        one row a step and objective: ``objective, step, loss, margin, spread`` (``losses.embedding_spread`` of the
        batch, before the step).
    """
    sampler = PKBatches(labels, min(32, len(labels.unique())), 4, seed=0)
    rows = []
    for name, term in objectives.items():
        config = dataclasses.replace(_WATCHED, terms=(term,))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            learner = Learner(config, images, len(labels.unique()))
            learner.begin(0)
            batches = itertools.chain.from_iterable(sampler.epoch(number) for number in itertools.count())
            for number, positions in enumerate(itertools.islice(batches, steps)):
                made = step(learner, images[positions], labels[positions], progress=0)
                rows.append((name, number, made.loss, term.margin, float(embedding_spread(made.embeddings))))
    return pd.DataFrame(rows, columns=["objective", "step", "loss", "margin", "spread"])


# On images of 16 pixels by plain Adam: no decay, no schedule, and a gradient that is never clipped.
_WATCHED = TrainConfig(
    "watched",
    (),
    encoder="conv3",
    learning_rate=1e-3,
    weight_decay=0.0,
    warmup=0.0,
    clip_norm=1e9,
    precision="float32",
    resolutions=((0.0, 16),),
)


def untrained_encoder(config: TrainConfig, images: torch.Tensor, image_size: int) -> Encoder:
    """An encoder as its training began: random weights, with the statistics of these images, uint8 (N, H, W, 3)."""
    torch.manual_seed(0)
    encoder = Encoder(config.encoder, config.embedding_dim, image_size)
    encoder.set_pixel_statistics(images)
    encoder.set_centre(images[::4])
    return encoder


def flat_map(z: torch.Tensor) -> np.ndarray:
    """Lay unit-length embeddings (M, D) out in the plane by t-SNE on cosine distance; float32 (M, 2).

    Neighbours stay neighbours; distances between far groups mean nothing (van der Maaten & Hinton, 2008).
    """
    perplexity = min(30, (len(z) - 1) / 3)
    return TSNE(metric="cosine", init="pca", perplexity=perplexity, random_state=0).fit_transform(z.numpy())
