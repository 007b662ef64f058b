"""Training objectives on one batch of embeddings: triplets, pairs, contrast and proxies, under one interface.

An objective sees the embeddings of a whole batch with their labels and finds its pairs or triplets inside
it. One forward pass of B images thus supplies up to B * (K-1) * (B-K) triplets, where drawing anchor,
positive and negative separately would take three passes for B of them.

Every objective is a module ``objective(embeddings, labels) -> ObjectiveOutput`` on embeddings float (B, D) of any
length and labels int64 (B,); arrays, lists and other types of numbers are converted. A ``Term`` names one of
``OBJECTIVES`` and sets it; ``WeightedSum`` adds terms up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from siamese_utils.data.arrays import as_count, as_embeddings, as_labels, as_list, as_number, as_positive, labelled
from siamese_utils.errors import ConfigError, DivergedError, SamplingError, ShapeError, look_up
from siamese_utils.system.config import Config, Positive, Share, ShareBelowOne, one_of
from siamese_utils.training.augment import TURNS


@dataclass
class ObjectiveOutput:
    """What an objective says of a batch.

    Attributes:
        loss: scalar tensor to minimise.
        stats: detached scalar tensors worth logging, by name.
    """

    loss: torch.Tensor
    stats: dict[str, torch.Tensor]

    def __add__(self, other: ObjectiveOutput) -> ObjectiveOutput:
        """The sum of the losses, with the statistics of both."""
        return ObjectiveOutput(self.loss + other.loss, {**self.stats, **other.stats})


def checked_batch(
    embeddings: torch.Tensor, labels: torch.Tensor, columns: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch as objectives take it: embeddings in at least float32, since sums over pairs have no room in 16 bits.

    Args:
        embeddings: float (B, D).
        labels: whole numbers (B,).
        columns: D; any number if None.

    Returns:
        float32 or float64 (B, D), and int64 (B,).

    Raises:
        ShapeError: not a float matrix with one integer label a row.
        SamplingError: the batch is empty.
        DivergedError: an embedding is not finite.
    """
    z, labels = labelled("An objective", embeddings, labels, columns, finite=False)
    if not bool(z.isfinite().all()):
        raise DivergedError("The embeddings of a batch are not finite; lower the learning rate or check the images.")
    return z.to(torch.promote_types(z.dtype, torch.float32)), labels


# ---------------------------------------------------------------------------------------- distances


def cosine_distance(z: torch.Tensor) -> torch.Tensor:
    """One minus the cosine similarity of all pairs: float (B, D) to (B, B), in [0, 2].

    Raises:
        ShapeError: no table of finite numbers.
    """
    z = F.normalize(as_embeddings(z), dim=1)
    return (1 - z @ z.T).clamp(0, 2)


def euclidean_distance(z: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of all pairs: float (B, D) to (B, B), >= 0.

    The gradient at distance zero is zero instead of undefined.

    Raises:
        ShapeError: no table of finite numbers.
    """
    z = as_embeddings(z)
    if z.device.type == "mps":  # it has no double precision
        return torch.cdist(z, z, compute_mode="donot_use_mm_for_euclid_dist")
    return _EuclideanDistance.apply(z)


class _EuclideanDistance(torch.autograd.Function):
    """Distances by a matrix product, which takes a tenth of the time of all differences, each way.

    In single precision the product's rounding would hide small distances; so it is taken in double precision, which
    holds more digits of a distance than float32 embeddings have. The way back needs no more than theirs, once the
    batch is centred.
    """

    @staticmethod
    def forward(ctx: Any, z: torch.Tensor) -> torch.Tensor:
        wide = z.double()
        wide = wide - wide.mean(dim=0)
        squares = wide.square().sum(dim=1)
        sums = squares[:, None] + squares
        distance = torch.addmm(sums, wide, wide.T, alpha=-2)
        # Below this, rows are the same but for rounding, and dividing by their distance would blow it up.
        distance = distance.masked_fill(distance <= 1e-14 * sums, 0).sqrt().to(z.dtype)
        ctx.save_for_backward(wide.to(z.dtype), distance)
        return distance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        z, distance = ctx.saved_tensors
        pull = gradient / distance.masked_fill(distance == 0, torch.inf)
        pull = pull + pull.T
        return pull.sum(dim=1, keepdim=True) * z - pull @ z


DISTANCES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cosine": cosine_distance,
    "euclidean": euclidean_distance,
}

# ------------------------------------------------------------------------------------------- mining


def _pair_masks(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which ordered pairs are of one class, an image never paired with itself, and which of two; bool (B, B) each.

    Raises:
        SamplingError: no image has a partner of its class, or all are of one class.
    """
    same = labels[:, None] == labels[None, :]
    if bool(same.all()):
        raise SamplingError("A batch of a single class has no negatives; draw P classes x K images a batch.")
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if not bool(positive.any()):
        raise SamplingError("No class occurs twice in the batch, so it has no positives; draw K >= 2 images a class.")
    return positive, ~same


def positive_pairs(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All ordered (anchor, positive) pairs of a batch, an image never paired with itself; int64 (M,) each.

    Raises:
        ShapeError: no row of whole numbers.
        SamplingError: no image has a partner of its class, or all are of one class.
    """
    anchors, positives = _pair_masks(as_labels(labels))[0].nonzero(as_tuple=True)
    return anchors, positives


def _distances(distance: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances of all pairs of a batch, float (B, B), and its labels.

    Raises:
        ShapeError: not such a table, or labels that do not fit it.
    """
    distance = as_embeddings(distance, "Distances")
    labels = as_labels(labels, len(distance)).to(distance.device)
    if distance.shape[1] != len(labels):
        raise ShapeError(f"Miners take the distances of all pairs, float (B, B), not {tuple(distance.shape)}.")
    return distance, labels


@dataclass
class Triplets:
    """The chosen triplets of a batch, as distances.

    Attributes:
        to_positive: d(anchor, positive), broadcastable to the shape of ``chosen``.
        to_negative: d(anchor, negative), likewise.
        chosen: bool, which of the triplets count.
    """

    to_positive: torch.Tensor
    to_negative: torch.Tensor
    chosen: torch.Tensor


def _all_chosen(to_positive: torch.Tensor, to_negative: torch.Tensor) -> Triplets:
    return Triplets(to_positive, to_negative, torch.ones_like(to_positive, dtype=torch.bool))


def mine_random(distance: torch.Tensor, labels: torch.Tensor) -> Triplets:
    """One random positive and one random negative for every anchor that has a positive."""
    distance, labels = _distances(distance, labels)
    positive, negative = _pair_masks(labels)
    anchors = positive.any(dim=1).nonzero().squeeze(1)
    chosen_positive = positive[anchors].to(torch.float32).multinomial(1)
    chosen_negative = negative[anchors].to(torch.float32).multinomial(1)
    rows = distance.index_select(0, anchors)
    return _all_chosen(rows.gather(1, chosen_positive).squeeze(1), rows.gather(1, chosen_negative).squeeze(1))


def mine_batch_all(distance: torch.Tensor, labels: torch.Tensor) -> Triplets:
    """Every triplet of the batch: one row for each (anchor, positive), one column for each image."""
    distance, labels = _distances(distance, labels)
    anchors, positives = positive_pairs(labels)
    to_positive = distance[anchors, positives].unsqueeze(1)
    return Triplets(to_positive, distance.index_select(0, anchors), labels[anchors][:, None] != labels[None, :])


def mine_batch_hard(distance: torch.Tensor, labels: torch.Tensor) -> Triplets:
    """Farthest positive and nearest negative of every anchor (Hermans et al., 2017, equation 5)."""
    distance, labels = _distances(distance, labels)
    positive, negative = _pair_masks(labels)
    has_positive = positive.any(dim=1)
    farthest = distance.masked_fill(~positive, -torch.inf).amax(dim=1)
    nearest = distance.masked_fill(~negative, torch.inf).amin(dim=1)
    return _all_chosen(farthest[has_positive], nearest[has_positive])


def mine_semi_hard(distance: torch.Tensor, labels: torch.Tensor) -> Triplets:
    """For every (anchor, positive): the nearest negative that is farther than the positive.

    Where every negative is nearer than the positive, the farthest of them is taken (Schroff et al., 2015,
    section 3.2). Easier than the hardest negatives, which tend to pull an untrained network into a point.
    """
    distance, labels = _distances(distance, labels)
    anchors, positives = positive_pairs(labels)
    to_positive = distance[anchors, positives]
    rows = distance.index_select(0, anchors)
    negative = labels[anchors][:, None] != labels[None, :]
    beyond = negative & (rows > to_positive[:, None])
    nearest_beyond = rows.masked_fill(~beyond, torch.inf).amin(dim=1)
    farthest = rows.masked_fill(~negative, -torch.inf).amax(dim=1)
    return _all_chosen(to_positive, torch.where(beyond.any(dim=1), nearest_beyond, farthest))


MINERS: dict[str, Callable[[torch.Tensor, torch.Tensor], Triplets]] = {
    "random": mine_random,
    "batch_all": mine_batch_all,
    "batch_hard": mine_batch_hard,
    "semi_hard": mine_semi_hard,
}

# --------------------------------------------------------------------------------------- objectives


def triplet_loss(triplets: Triplets, margin: float = 0.2, temperature: float | None = None) -> torch.Tensor:
    r"""Triplet loss of the chosen triplets, a scalar.

    With a hinge, :math:`[d(a,p) - d(a,n) + m]_+`, averaged over the triplets that violate the margin m, so
    that the many easy ones do not dilute the few that teach (Hermans et al., 2017, section 2). With
    ``temperature`` set, the soft margin :math:`\log(1 + e^{(d(a,p) - d(a,n)) / T})` over all of them.

    Raises:
        ShapeError: no triplets of a miner.
        ConfigError: margin or temperature not positive.
    """
    if not isinstance(triplets, Triplets):
        raise ShapeError(f"A triplet loss takes the triplets of a miner, not a {type(triplets).__name__}.")
    margin, temperature = _margin_and_temperature(margin, temperature)
    gap, chosen = triplets.to_positive - triplets.to_negative, triplets.chosen.float()
    if temperature is None:
        violation = F.relu(gap + margin) * chosen
        return violation.sum() / (violation > 0).sum().clamp(min=1)
    return (F.softplus(gap / temperature) * chosen).sum() / chosen.sum().clamp(min=1)


def _margin_and_temperature(margin: float, temperature: float | None) -> tuple[float, float | None]:
    hint = "A triplet loss needs a positive margin and a positive temperature: the"
    return as_positive(f"{hint} margin", margin), None if temperature is None else as_positive(
        f"{hint} temperature", temperature
    )


class TripletObjective(nn.Module):
    """``triplet_loss`` with mining inside the batch.

    Args:
        distance: ``"cosine"`` or ``"euclidean"``.
        mining: a name in ``MINERS``.
        margin: hinge margin, in units of the distance.
        temperature: soft-margin temperature T in the same units; ``None`` for the hinge.

    Raises:
        UnknownNameError: unknown distance or mining.
        ConfigError: margin or temperature not positive.
    """

    def __init__(
        self, distance: str = "cosine", mining: str = "semi_hard", margin: float = 0.2, temperature: float | None = None
    ) -> None:
        super().__init__()
        self.distance, self.mine = look_up("distance", distance, DISTANCES), look_up("mining", mining, MINERS)
        self.margin, self.temperature = _margin_and_temperature(margin, temperature)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> ObjectiveOutput:
        """Loss of a batch: embeddings float (B, D), labels int64 (B,).

        Raises:
            ShapeError: embeddings or labels of another shape or type.
            SamplingError: the batch has no positives or no negatives.
        """
        z, labels = checked_batch(embeddings, labels)
        mined = self.mine(self.distance(z.float()), labels)
        loss = triplet_loss(mined, self.margin, self.temperature)
        return ObjectiveOutput(loss, {"triplet_loss": loss.detach(), **self._stats(mined)})

    @torch.no_grad()
    def _stats(self, mined: Triplets) -> dict[str, torch.Tensor]:
        violated = mined.to_positive - mined.to_negative + (self.margin if self.temperature is None else 0) > 0
        chosen = mined.chosen.float()
        count = chosen.sum().clamp(min=1)
        return {
            "active_share": (violated & mined.chosen).sum() / count,
            "distance_positive": (mined.to_positive * chosen).sum() / count,
            "distance_negative": (mined.to_negative * chosen).sum() / count,
        }


class ProxyObjective(nn.Module):
    """Cosine softmax: cross-entropy over the scaled cosine to one learned proxy a class.

    The proxies stand in for the other members of each class, so every image is compared with all classes
    at every step (Movshovitz-Attias et al., 2017; the normalised form of Zhai & Wu, 2019). The proxies are
    thrown away after training.

    Args:
        num_classes: number of training classes; labels must be 0 .. num_classes-1.
        embedding_dim: D.
        scale: inverse temperature of the softmax.
        smoothing: label smoothing.

    Raises:
        ConfigError: a number out of range.
    """

    kind = "proxy"

    def __init__(self, num_classes: int, embedding_dim: int, scale: float = 16.0, smoothing: float = 0.1) -> None:
        super().__init__()
        num_classes = as_count(f"The number of classes of a {self.kind} objective", num_classes)
        embedding_dim = as_count("The size of an embedding", embedding_dim)
        self.proxies = nn.Parameter(torch.randn(num_classes, embedding_dim) / embedding_dim**0.5)
        self.scale, self.smoothing = as_positive("The scale", scale), as_number("The smoothing", smoothing)
        if not 0 <= self.smoothing < 1:
            raise ConfigError(f"Label smoothing lies in [0, 1), not at {smoothing}.")

    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Scaled cosine of embeddings float (B, D) with every proxy, float32 (B, num_classes).

        Raises:
            ShapeError: no table of finite numbers of this width.
        """
        z = as_embeddings(embeddings, columns=self.proxies.shape[1]).float()
        return self.scale * F.linear(F.normalize(z, dim=1), F.normalize(self.proxies, dim=1))

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> ObjectiveOutput:
        """Loss of a batch: embeddings float (B, D), labels int64 (B,) in 0 .. num_classes-1.

        Raises:
            ShapeError: embeddings or labels of another shape or type, or labels that are out of range.
            SamplingError: the batch is empty.
        """
        z, labels = checked_batch(embeddings, labels, self.proxies.shape[1])
        last = len(self.proxies) - 1
        if not 0 <= int(labels.min()) <= int(labels.max()) <= last:
            raise ShapeError(
                f"Labels of a {self.kind} objective must lie in 0..{last}, but {int(labels.min())}.."
                f"{int(labels.max())} were found; number the training classes from 0."
            )
        logits = self.logits(z)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return ObjectiveOutput(loss, {f"{self.kind}_loss": loss.detach(), f"{self.kind}_accuracy": accuracy.detach()})


class LinearObjective(ProxyObjective):
    """Softmax over a linear layer, as classifiers learn: scaled dot products where ``ProxyObjective`` takes cosines.

    The length of an embedding counts, and so does that of a class's weights. The layer has no bias and is thrown away
    after training.

    Args:
        num_classes: number of training classes; labels must be 0 .. num_classes-1.
        embedding_dim: D.
        scale: factor of the products.
        smoothing: label smoothing.

    Raises:
        ConfigError: a number out of range.
    """

    kind = "linear"

    def __init__(self, num_classes: int, embedding_dim: int, scale: float = 1.0, smoothing: float = 0.1) -> None:
        super().__init__(num_classes, embedding_dim, scale, smoothing)

    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Scaled products of embeddings float (B, D) with every class's weights, float32 (B, num_classes).

        Raises:
            ShapeError: no table of finite numbers of this width.
        """
        z = as_embeddings(embeddings, columns=self.proxies.shape[1]).float()
        return self.scale * F.linear(z, self.proxies)


class SupConObjective(nn.Module):
    r"""Supervised contrastive loss: every positive against all other images of the batch.

    For an anchor i with positives P(i), the mean over p in P(i) of the cross-entropy of picking p among all the
    other images by a softmax of cosine / T: :math:`L^{sup}_{out}` of Khosla et al., 2020, equation 2, averaged
    over the anchors. Anchors without a positive are left out, but stay among the others' negatives.

    Args:
        temperature: T. Low ones weigh the nearest negatives most.

    Raises:
        ConfigError: temperature not positive.
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.temperature = as_positive("A supervised contrastive loss needs a positive temperature: it", temperature)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> ObjectiveOutput:
        """Loss of a batch: embeddings float (B, D), labels int64 (B,).

        Raises:
            ShapeError: embeddings or labels of another shape or type.
            SamplingError: the batch has no positives or no negatives.
        """
        z, labels = checked_batch(embeddings, labels)
        unit = F.normalize(z, dim=1)
        positive, _ = _pair_masks(labels)
        anchors = positive.any(dim=1)
        logits = unit @ unit.T / self.temperature
        others = logits.masked_fill(torch.eye(len(labels), dtype=torch.bool, device=labels.device), -torch.inf)
        log_share = logits - others.logsumexp(dim=1, keepdim=True)
        each = -(log_share * positive).sum(dim=1)[anchors] / positive.sum(dim=1)[anchors]
        loss = each.mean()
        nearest_same = positive.gather(1, others.argmax(dim=1, keepdim=True)).squeeze(1)[anchors]
        return ObjectiveOutput(loss, {"supcon_loss": loss.detach(), "nearest_same_share": nearest_same.float().mean()})


class ContrastiveObjective(nn.Module):
    r"""Contrastive loss over all pairs of the batch: same pairs pulled together, different ones pushed apart.

    :math:`\tfrac12 d^2` for a same pair and :math:`\tfrac12 [m - d]_+^2` for a different one (Hadsell, Chopra &
    LeCun, 2006, equation 4). In a batch of P classes x K images only one pair in about P is a same pair, and
    a mean over all would hardly pull; so the two kinds are averaged separately, and their means added. Different pairs
    beyond the margin count as zeros in their mean: the push fades as it succeeds.

    Args:
        distance: ``"cosine"``, or ``"euclidean"`` between the embeddings as they are, not at unit length.
        margin: m, in units of the distance. At cosine distance 0.5, two directions are 60 degrees apart.

    Raises:
        UnknownNameError: unknown distance.
        ConfigError: margin not positive.
    """

    def __init__(self, distance: str = "cosine", margin: float = 0.5) -> None:
        super().__init__()
        self.distance = look_up("distance", distance, DISTANCES)
        self.margin = as_positive("A contrastive loss needs a positive margin: it", margin)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> ObjectiveOutput:
        """Loss of a batch: embeddings float (B, D), labels int64 (B,).

        Raises:
            ShapeError: embeddings or labels of another shape or type.
            SamplingError: the batch has no same or no different pairs.
        """
        z, labels = checked_batch(embeddings, labels)
        return contrastive(self.distance(z), *_pair_masks(labels), self.margin)


def contrastive(
    distance: torch.Tensor, same: torch.Tensor, different: torch.Tensor, margin: float = 0.5
) -> ObjectiveOutput:
    """The loss of ``ContrastiveObjective`` over the pairs that are named.

    Args:
        distance: float (B, B), of all pairs of a batch.
        same: bool (B, B), pairs to pull together.
        different: bool (B, B), pairs to push apart.
        margin: of the distance.

    Raises:
        ShapeError: not three such tables.
        SamplingError: there are no same or no different pairs.
        ConfigError: margin not positive.
    """
    distance, margin = (
        as_embeddings(distance, "Distances"),
        as_positive("A contrastive loss needs a positive margin: it", margin),
    )
    for pairs in (same, different):
        if not isinstance(pairs, torch.Tensor) or pairs.dtype != torch.bool or pairs.shape != distance.shape:
            raise ShapeError("A contrastive loss takes two tables of flags, of the shape of its distances.")
    count_same, count_different = same.sum(), different.sum()
    if not bool(count_same) or not bool(count_different):
        raise SamplingError("A contrastive loss needs same and different pairs in a batch; add some of the other kind.")
    push = F.relu(margin - distance) * different
    loss = ((distance.square() * same).sum() / count_same + push.square().sum() / count_different) / 2
    stats = {
        "contrastive_loss": loss.detach(),
        "distance_same": (distance * same).sum().detach() / count_same,
        "distance_different": (distance * different).sum().detach() / count_different,
        "pushed_share": (push > 0).sum() / count_different,
    }
    return ObjectiveOutput(loss, stats)


class PairObjective(nn.Module):
    r"""Same or different, by a learned head on two embeddings: |z1 - z2|, one linear layer, sigmoid.

    Binary cross-entropy with 1 for same and 0 for different (Koch, Zemel & Salakhutdinov, 2015, sections 3.1 and
    3.2) over all pairs of the batch, same and different pairs weighing one half each: as if balanced pairs were
    drawn, without the noise of a draw. A probability of 0.5 is thus the threshold for balanced pairs.

    Koch et al. compare the outputs of a sigmoid layer, which are bounded. Encoders here give features of any
    length, and with those the loss could be lowered by longer features alone, while steps of the head would grow with
    their length. So embeddings are scaled to length sqrt(D), where features are of order one whatever D is and only
    the direction counts, as in the evaluation. The head starts as a plain L1 distance: every feature weighs -4/D,
    so that probabilities begin between 0.88 (identical) and about 0.08 (independent), and no feature
    starts with the wrong sign.

    Args:
        embedding_dim: D.

    Raises:
        ConfigError: no size of an embedding.
    """

    def __init__(self, embedding_dim: int) -> None:
        super().__init__()
        embedding_dim = as_count("The size of an embedding", embedding_dim)
        self.head = nn.Linear(embedding_dim, 1)
        nn.init.constant_(self.head.weight, -4 / embedding_dim)
        nn.init.constant_(self.head.bias, 2)

    def _features(self, z: torch.Tensor) -> torch.Tensor:
        return F.normalize(z.to(self.head.weight.dtype), dim=1) * z.shape[1] ** 0.5

    def all_logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Log odds of "same" for all pairs: float (B, D) to (B, B), symmetric.

        A sum of weighted absolute differences is an L1 distance of weighted features, once the features that speak
        for "same" and those that speak against it are kept apart; ``cdist`` needs no (B, B, D) tensor for it.
        A weight of exactly zero would get no gradient this way; none starts there.

        Raises:
            ShapeError: no table of finite numbers of this width.
        """
        z = as_embeddings(embeddings, columns=self.head.in_features)
        features, weight = self._features(z), self.head.weight[0]
        favourable, adverse = weight > 0, weight < 0
        total = self.head.bias
        for chosen, sign in ((favourable, 1), (adverse, -1)):
            weighted = features[:, chosen] * weight[chosen]
            total = total + sign * torch.cdist(weighted, weighted, p=1)
        return total

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> ObjectiveOutput:
        """Loss of a batch: embeddings float (B, D), labels int64 (B,).

        Raises:
            ShapeError: embeddings or labels of another shape or type.
            SamplingError: the batch has no same or no different pairs.
        """
        z, labels = checked_batch(embeddings, labels, self.head.in_features)
        logits = self.all_logits(z)
        same, different = _pair_masks(labels)
        same_share, different_share = (pairs.to(logits.dtype) / pairs.sum() for pairs in (same, different))
        weight = (same_share + different_share) / 2
        loss = F.binary_cross_entropy_with_logits(logits, same.to(logits.dtype), weight=weight, reduction="sum")
        accuracy = (weight * ((logits > 0) == same)).sum()
        return ObjectiveOutput(loss, {"pair_loss": loss.detach(), "pair_accuracy": accuracy.detach()})

    def probability(self, z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
        """Probability that pairs are of one class: embeddings float (N, D) twice to float (N,), for balanced pairs.

        Raises:
            ShapeError: the two are not of one shape (N, D).
        """
        dim = self.head.in_features
        z1, z2 = (as_embeddings(z, f"The pair head compares two tensors (N, {dim}): they") for z in (z1, z2))
        if z1.shape != z2.shape or z1.shape[1] != dim:
            raise ShapeError(
                f"The pair head compares two tensors (N, {dim}), not {tuple(z1.shape)} and {tuple(z2.shape)}."
            )
        return self.head((self._features(z1) - self._features(z2)).abs()).squeeze(1).sigmoid()


class RotationObjective(nn.Module):
    """By which quarter turn was an image turned? The cross-entropy of a linear layer on its embedding.

    It needs no classes, so it stands beside the terms of a recipe rather than among them (Gidaris, Singh & Komodakis,
    2018, section 2; as an auxiliary loss of few-shot training: Gidaris et al., *Boosting few-shot visual learning with
    self-supervision*, 2019).

    Args:
        embedding_dim: D.
        weight: factor of the loss.

    Raises:
        ConfigError: a size or a weight that is not positive.
    """

    def __init__(self, embedding_dim: int, weight: float = 1.0) -> None:
        super().__init__()
        self.head = nn.Linear(as_count("The size of an embedding", embedding_dim), TURNS)
        self.weight = as_positive("The weight", weight)

    def forward(self, embeddings: torch.Tensor, turns: torch.Tensor) -> ObjectiveOutput:
        """Weighted loss of a batch: embeddings float (B, D), quarter turns int64 (B,), 0 to 3.

        Raises:
            ShapeError: embeddings or turns of another shape or type, or other turns.
            SamplingError: the batch is empty.
        """
        z, turns = checked_batch(embeddings, turns, self.head.in_features)
        if not 0 <= int(turns.min()) <= int(turns.max()) < TURNS:
            raise ShapeError(f"Quarter turns are numbered 0 to {TURNS - 1}.")
        logits = self.head(z.to(self.head.weight.dtype))
        loss = F.cross_entropy(logits, turns)
        accuracy = (logits.argmax(dim=1) == turns).float().mean()
        return ObjectiveOutput(self.weight * loss, {"rotation_loss": loss.detach(), "rotation_accuracy": accuracy})


# -------------------------------------------------------------------------------- terms and their sum


# The fields of a Term that each objective reads, beside weight, begin and end.
OBJECTIVE_FIELDS: dict[str, tuple[str, ...]] = {
    "triplet": ("distance", "mining", "margin", "temperature"),
    "proxy": ("scale", "smoothing"),
    "linear": ("scale", "smoothing"),
    "supcon": ("temperature",),
    "contrastive": ("distance", "margin"),
    "pair_bce": (),
}

_DEFAULT_MARGIN = {"contrastive": 0.5}  # of the others: 0.2
_DEFAULT_SCALE = {"linear": 1.0}  # of the others: 16
_DEFAULT_TEMPERATURE = {"supcon": 0.1}  # of the others: None


class Term(Config):
    """One term of a weighted sum of objectives, active during part of the training.

    Which objective reads which of the fields below ``end``, the others being ignored:

    =============== ============================================ ========================
    objective       fields                                       class
    =============== ============================================ ========================
    ``triplet``     ``distance, mining, margin, temperature``    ``TripletObjective``
    ``proxy``       ``scale, smoothing``                         ``ProxyObjective``
    ``linear``      ``scale, smoothing``                         ``LinearObjective``
    ``supcon``      ``temperature``                              ``SupConObjective``
    ``contrastive`` ``distance, margin``                         ``ContrastiveObjective``
    ``pair_bce``    none                                         ``PairObjective``
    =============== ============================================ ========================

    Attributes:
        objective: a name in ``OBJECTIVES``.
        weight: factor of its loss.
        begin: share of the training after which it joins, 0 to 1.
        end: share of the training after which it leaves, 0 to 1.
        distance: a name in ``DISTANCES``.
        mining: a name in ``MINERS``.
        margin: in units of the distance; left out, 0.2, and 0.5 for contrastive pairs.
        temperature: of the soft margin or of the contrast; left out, a hinge for triplets, and 0.1 for supcon.
        scale: inverse temperature of the softmax over proxies, or factor of a linear layer; left out, 16 and 1.
        smoothing: label smoothing.

    Raises:
        ConfigError: a field that is no number or out of range.
        UnknownNameError: an objective, distance or mining that does not exist.
    """

    objective: Annotated[str, one_of("objective", OBJECTIVE_FIELDS)]
    weight: Positive = 1.0
    begin: Share = 0.0
    end: Share = 1.0
    distance: Annotated[str, one_of("distance", DISTANCES)] = "cosine"
    mining: Annotated[str, one_of("mining", MINERS)] = "semi_hard"
    margin: Positive | None = None
    temperature: Positive | None = None
    scale: Positive | None = None
    smoothing: ShareBelowOne = 0.1

    def __post_init__(self) -> None:
        # Defaults that depend on the objective are filled in here, so that a stored term says what was used.
        if self.margin is None:
            object.__setattr__(self, "margin", _DEFAULT_MARGIN.get(self.objective, 0.2))
        if self.scale is None:
            object.__setattr__(self, "scale", _DEFAULT_SCALE.get(self.objective, 16.0))
        if self.temperature is None:
            object.__setattr__(self, "temperature", _DEFAULT_TEMPERATURE.get(self.objective))
        if self.begin >= self.end:
            raise ConfigError(f"Term: begin < end must hold of {self.objective}, not {self.begin} and {self.end}.")

    def active(self, progress: float) -> bool:
        """Whether the term counts at ``progress`` (share of the training done, 0 <= progress < 1)."""
        return self.begin <= progress < self.end

    @property
    def mixes(self) -> bool:
        """Whether its objective can learn from images of two classes at once."""
        return self.objective in ("proxy", "linear")

    def settings(self) -> dict[str, str | float | None]:
        """The fields that its objective reads, by name: what a table or a plot should say of the term."""
        return {name: getattr(self, name) for name in OBJECTIVE_FIELDS[self.objective]}


OBJECTIVES: dict[str, Callable[[Term, int, int], nn.Module]] = {
    "triplet": lambda term, num_classes, dim: TripletObjective(**term.settings()),
    "proxy": lambda term, num_classes, dim: ProxyObjective(num_classes, dim, **term.settings()),
    "linear": lambda term, num_classes, dim: LinearObjective(num_classes, dim, **term.settings()),
    "supcon": lambda term, num_classes, dim: SupConObjective(**term.settings()),
    "contrastive": lambda term, num_classes, dim: ContrastiveObjective(**term.settings()),
    "pair_bce": lambda term, num_classes, dim: PairObjective(dim),
}


class WeightedSum(nn.Module):
    """The terms of a recipe, added up.

    Statistics keep the names that their objectives give them; those of the second term of one kind end in ``_2``
    and so on, counted over all the terms, so that a name means the same term throughout the training.

    Args:
        terms: what to add, at least one.
        num_classes: number of training classes.
        embedding_dim: D.

    Raises:
        ConfigError: no terms, or a moment of the training at which none is active.
    """

    def __init__(self, terms: tuple[Term, ...], num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        terms = tuple(as_list(terms))
        for term in terms:
            if not isinstance(term, Term):
                raise ConfigError(
                    f"A sum of objectives takes terms, such as Term('triplet'), not a {type(term).__name__}."
                )
        moments = {0.0, *(term.end for term in terms if term.end < 1)}
        if not all(any(term.active(moment) for term in terms) for moment in moments):
            raise ConfigError("Some part of the training has no active objective; check begin and end of the terms.")
        self.terms = terms
        kinds: Counter[str] = Counter()
        self._suffixes: list[str] = []
        for term in terms:
            kinds[term.objective] += 1
            self._suffixes.append("" if kinds[term.objective] == 1 else f"_{kinds[term.objective]}")
        self.objectives = nn.ModuleList(OBJECTIVES[t.objective](t, num_classes, embedding_dim) for t in terms)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, progress: float = 0.0) -> ObjectiveOutput:
        """Weighted loss of the active terms; ``progress`` is the share of the training that is done, 0 to 1, but not 1.

        Raises:
            ConfigError: the progress lies outside.
            ShapeError, SamplingError, DivergedError: see the objectives.
        """
        if not 0 <= as_number("The progress", progress) < 1:
            raise ConfigError(f"The progress of a training lies in [0, 1), not at {progress}.")
        losses: list[torch.Tensor] = []
        stats: dict[str, torch.Tensor] = {}
        for term, objective, suffix in zip(self.terms, self.objectives, self._suffixes, strict=True):
            if term.active(progress):
                output = objective(embeddings, labels)
                losses.append(term.weight * output.loss)
                stats.update({name + suffix: value for name, value in output.stats.items()})
        return ObjectiveOutput(torch.stack(losses).sum(), stats)

    def mixed(
        self, embeddings: torch.Tensor, labels: torch.Tensor, others: torch.Tensor, share: float, progress: float = 0.0
    ) -> ObjectiveOutput:
        """Weighted loss of mixed images, by the active terms that can take them.

        By that share the loss is the own label's, by the rest the other's: as cross-entropy is linear in the target,
        this is the loss for a target of both (Zhang et al., *mixup: beyond empirical risk minimization*, 2018).

        Args:
            embeddings: float (B, D).
            labels, others: int64 (B,), of the two images that each was made of.
            share: of the first, 0 to 1.
            progress: as in ``forward``.

        Raises:
            ConfigError: no active term can take them.
            ShapeError, SamplingError, DivergedError: see the objectives.
        """
        losses = [
            term.weight * torch.lerp(objective(embeddings, others).loss, objective(embeddings, labels).loss, share)
            for term, objective in zip(self.terms, self.objectives, strict=True)
            if term.mixes and term.active(progress)
        ]
        if not losses:
            raise ConfigError("Mixed images are learned from by proxies alone; add a proxy term.")
        loss = torch.stack(losses).sum()
        return ObjectiveOutput(loss, {"mixed_loss": loss.detach()})


def embedding_spread(embeddings: torch.Tensor) -> float:
    """How far a batch of directions is from a single point: 0 when all coincide, 1 when they cancel out.

    One minus the squared length of the mean direction. Near zero means collapse: a triplet loss is then
    stuck at its margin, since all distances are equal.

    Raises:
        ShapeError: no table of finite numbers.
        SamplingError: the batch is empty.
    """
    z = as_embeddings(embeddings)
    if not len(z):
        raise SamplingError("The batch is empty, so it has no spread.")
    directions = F.normalize(z.detach().float(), dim=1)
    return float(1 - directions.mean(dim=0).square().sum())
