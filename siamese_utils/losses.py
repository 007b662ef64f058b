"""Training objectives on one batch of embeddings: distances, triplet mining, and proxies.

An objective sees the embeddings of a whole batch with their labels and finds its pairs or triplets inside
it. One forward pass of B images thus supplies up to B * (K-1) * (B-K) triplets, where drawing anchor,
positive and negative separately would take three passes for B of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from siamese_utils.errors import ConfigError, SamplingError, unknown


@dataclass
class ObjectiveOutput:
    """What an objective says of a batch.

    Attributes:
        loss: scalar tensor to minimise.
        stats: detached scalar tensors worth logging, by name.
    """

    loss: torch.Tensor
    stats: dict[str, torch.Tensor]


# ---------------------------------------------------------------------------------------- distances


def cosine_distance(z: torch.Tensor) -> torch.Tensor:
    """One minus the cosine similarity of all pairs: float (B, D) to (B, B), in [0, 2]."""
    z = F.normalize(z, dim=1)
    return 1 - z @ z.T


def euclidean_distance(z: torch.Tensor) -> torch.Tensor:
    """Euclidean distance of all pairs: float (B, D) to (B, B), >= 0.

    Computed from differences rather than from dot products, whose rounding hides small distances; the
    gradient at distance zero is zero instead of undefined.
    """
    squared = (z[:, None, :] - z[None, :, :]).square().sum(dim=2)
    apart = squared > 0
    return torch.where(apart, squared, 1.0).sqrt() * apart


DISTANCES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cosine": cosine_distance,
    "euclidean": euclidean_distance,
}

# ------------------------------------------------------------------------------------------- mining


def positive_pairs(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """All ordered (anchor, positive) pairs of a batch, an image never paired with itself; int64 (M,) each.

    Raises:
        SamplingError: no image has a partner of its class, or all are of one class.
    """
    same = labels[:, None] == labels[None, :]
    if bool(same.all()):
        raise SamplingError("A batch of a single class has no negatives; draw P classes x K images a batch.")
    anchors, positives = (same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)).nonzero(as_tuple=True)
    if not len(anchors):
        raise SamplingError("No class occurs twice in the batch, so it has no positives; draw K >= 2 images a class.")
    return anchors, positives


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
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    anchors = positive.any(dim=1).nonzero().squeeze(1)
    chosen_positive = positive[anchors].to(torch.float32).multinomial(1)
    chosen_negative = (~same[anchors]).to(torch.float32).multinomial(1)
    rows = distance.index_select(0, anchors)
    return _all_chosen(rows.gather(1, chosen_positive).squeeze(1), rows.gather(1, chosen_negative).squeeze(1))


def mine_batch_all(distance: torch.Tensor, labels: torch.Tensor) -> Triplets:
    """Every triplet of the batch: one row for each (anchor, positive), one column for each image."""
    anchors, positives = positive_pairs(labels)
    to_positive = distance[anchors, positives].unsqueeze(1)
    return Triplets(to_positive, distance.index_select(0, anchors), labels[anchors][:, None] != labels[None, :])


def mine_batch_hard(distance: torch.Tensor, labels: torch.Tensor) -> Triplets:
    """Farthest positive and nearest negative of every anchor (Hermans et al., 2017, equation 5)."""
    same = labels[:, None] == labels[None, :]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    has_positive = positive.any(dim=1)
    farthest = distance.masked_fill(~positive, -torch.inf).amax(dim=1)
    nearest = distance.masked_fill(same, torch.inf).amin(dim=1)
    return _all_chosen(farthest[has_positive], nearest[has_positive])


def mine_semi_hard(distance: torch.Tensor, labels: torch.Tensor) -> Triplets:
    """For every (anchor, positive): the nearest negative that is farther than the positive.

    Where every negative is nearer than the positive, the farthest of them is taken (Schroff et al., 2015,
    section 3.2). Easier than the hardest negatives, which tend to pull an untrained network into a point.
    """
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


class TripletObjective(nn.Module):
    r"""Triplet loss with mining inside the batch.

    With a hinge, :math:`[d(a,p) - d(a,n) + m]_+`, averaged over the triplets that violate the margin m, so
    that the many easy ones do not dilute the few that teach (Hermans et al., 2017, section 2). With
    ``temperature`` set, the soft margin :math:`\log(1 + e^{(d(a,p) - d(a,n)) / T})` over all mined triplets.

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
        self,
        distance: str = "cosine",
        mining: str = "semi_hard",
        margin: float = 0.2,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        if distance not in DISTANCES:
            raise unknown("distance", distance, DISTANCES)
        if mining not in MINERS:
            raise unknown("mining", mining, MINERS)
        if margin <= 0 or (temperature is not None and temperature <= 0):
            raise ConfigError("A triplet loss needs a positive margin and a positive temperature.")
        self.distance, self.mine = DISTANCES[distance], MINERS[mining]
        self.margin, self.temperature = margin, temperature

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> ObjectiveOutput:
        """Loss of a batch: embeddings float (B, D), labels int64 (B,).

        Raises:
            SamplingError: the batch has no positives or no negatives.
        """
        positive_pairs(labels)  # one clear error for a batch that holds no triplet
        distance = self.distance(embeddings.float())
        mined = self.mine(distance, labels)
        gap, chosen = mined.to_positive - mined.to_negative, mined.chosen.float()
        count = chosen.sum().clamp(min=1)
        if self.temperature is None:
            violation = F.relu(gap + self.margin) * chosen
            active = (violation > 0).float()
            loss = violation.sum() / active.sum().clamp(min=1)
        else:
            active = (gap > 0).float() * chosen
            loss = (F.softplus(gap / self.temperature) * chosen).sum() / count
        stats = {
            "triplet_loss": loss.detach(),
            "active_share": (active.sum() / count).detach(),
            "distance_positive": ((mined.to_positive * chosen).sum() / count).detach(),
            "distance_negative": ((mined.to_negative * chosen).sum() / count).detach(),
        }
        return ObjectiveOutput(loss, stats)


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
    """

    def __init__(self, num_classes: int, embedding_dim: int, scale: float = 16.0, smoothing: float = 0.1) -> None:
        super().__init__()
        self.proxies = nn.Parameter(torch.randn(num_classes, embedding_dim) / embedding_dim**0.5)
        self.scale, self.smoothing = scale, smoothing

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor) -> ObjectiveOutput:
        """Loss of a batch: embeddings float (B, D), labels int64 (B,) in 0 .. num_classes-1."""
        logits = self.scale * F.linear(F.normalize(embeddings.float(), dim=1), F.normalize(self.proxies, dim=1))
        loss = F.cross_entropy(logits, labels, label_smoothing=self.smoothing)
        accuracy = (logits.argmax(dim=1) == labels).float().mean()
        return ObjectiveOutput(loss, {"proxy_loss": loss.detach(), "proxy_accuracy": accuracy.detach()})


@dataclass(frozen=True)
class Term:
    """One term of a weighted sum of objectives, active during part of the training.

    Attributes:
        objective: ``"triplet"`` or ``"proxy"``.
        weight: factor of its loss.
        begin: share of the training after which it joins, 0 to 1.
        end: share of the training after which it leaves, 0 to 1.
        distance, mining, margin, temperature: see ``TripletObjective``.
        scale, smoothing: see ``ProxyObjective``.
    """

    objective: str
    weight: float = 1.0
    begin: float = 0.0
    end: float = 1.0
    distance: str = "cosine"
    mining: str = "semi_hard"
    margin: float = 0.2
    temperature: float | None = None
    scale: float = 16.0
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.begin < self.end <= 1:
            raise ConfigError(
                f"The {self.objective} term runs from {self.begin} to {self.end}; both are shares of the "
                "training and must satisfy 0 <= begin < end <= 1."
            )
        if self.weight <= 0:
            raise ConfigError(f"The {self.objective} term has weight {self.weight}; leave it out or weigh it above 0.")
        if self.scale <= 0 or not 0 <= self.smoothing < 1:
            raise ConfigError(
                f"The {self.objective} term needs a positive scale and a label smoothing in [0, 1), not {self.scale} "
                f"and {self.smoothing}."
            )

    def active(self, progress: float) -> bool:
        """Whether the term counts at ``progress`` (share of the training done, 0 <= progress < 1)."""
        return self.begin <= progress < self.end


def _make_triplet(term: Term, num_classes: int, embedding_dim: int) -> nn.Module:
    return TripletObjective(term.distance, term.mining, term.margin, term.temperature)


def _make_proxy(term: Term, num_classes: int, embedding_dim: int) -> nn.Module:
    return ProxyObjective(num_classes, embedding_dim, term.scale, term.smoothing)


OBJECTIVES: dict[str, Callable[[Term, int, int], nn.Module]] = {"triplet": _make_triplet, "proxy": _make_proxy}


class WeightedSum(nn.Module):
    """The terms of a recipe, added up.

    Args:
        terms: what to add, at least one.
        num_classes: number of training classes.
        embedding_dim: D.

    Raises:
        ConfigError: no terms, or a moment of the training at which none is active.
        UnknownNameError: an objective that does not exist.
    """

    def __init__(self, terms: tuple[Term, ...], num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        for term in terms:
            if term.objective not in OBJECTIVES:
                raise unknown("objective", term.objective, OBJECTIVES)
        moments = {0.0, *(term.end for term in terms if term.end < 1)}
        if not all(any(term.active(moment) for term in terms) for moment in moments):
            raise ConfigError("Some part of the training has no active objective; check begin and end of the terms.")
        self.terms = terms
        self.objectives = nn.ModuleList(OBJECTIVES[t.objective](t, num_classes, embedding_dim) for t in terms)

    def forward(self, embeddings: torch.Tensor, labels: torch.Tensor, progress: float = 0.0) -> ObjectiveOutput:
        """Weighted loss of the active terms; ``progress`` is the share of the training that is done."""
        losses: list[torch.Tensor] = []
        stats: dict[str, torch.Tensor] = {}
        for term, objective in zip(self.terms, self.objectives, strict=True):
            if term.active(progress):
                output = objective(embeddings, labels)
                losses.append(term.weight * output.loss)
                stats.update(output.stats)
        return ObjectiveOutput(torch.stack(losses).sum(), stats)


def embedding_spread(embeddings: torch.Tensor) -> float:
    """How far a batch of directions is from a single point: 0 when all coincide, 1 when they cancel out.

    One minus the squared length of the mean direction. Near zero means collapse: a triplet loss is then
    stuck at its margin, since all distances are equal.
    """
    directions = F.normalize(embeddings.detach().float(), dim=1)
    return float(1 - directions.mean(dim=0).square().sum())
