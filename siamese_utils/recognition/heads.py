"""From support embeddings to scores of classes: prototypes and a regularised linear head, and the choice of one.

The choice is made by leave-one-out on the user's own support: each support image is classified by all the others.
Only a head that is better by more than chance explains takes the place of plain prototypes, since differences on a few
images mean little.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from siamese_utils.data.arrays import labelled
from siamese_utils.data.sampling import ClassIndex
from siamese_utils.errors import SamplingError, look_up

RIDGE = 1.0
"""Strength of the linear head's regularisation, chosen on one half of the classes of photographs."""

MOST_TURNS = 20
"""Heads that are fitted at most to judge a support by itself."""

_DEVIATIONS = 2.0  # by which a head must be better to be chosen
_MOST_SCORES = 20_000_000  # images times classes up to which heads are compared
_SAME = 1 - 1e-5  # cosine above which two embeddings differ in nothing but rounding
_BLOCK = 1_024  # embeddings compared with all earlier ones at once


@dataclass(frozen=True, eq=False)
class Head:
    """Scores of C classes: ``u @ weights.T + bias``, where u is an embedding minus ``centre``.

    Attributes:
        name: in ``HEADS``.
        weights: float32 (C, D).
        bias: float32 (C,).
        centre: float32 (D,).
        unit: whether u is brought to unit length.
    """

    name: str
    weights: torch.Tensor
    bias: torch.Tensor
    centre: torch.Tensor
    unit: bool

    def scores(self, z: torch.Tensor) -> torch.Tensor:
        """Scores of embeddings: float32 (N, D) to (N, C); cosine similarities if the head is one of prototypes."""
        u = z.float() - self.centre
        u = F.normalize(u, dim=1) if self.unit else u
        return u @ self.weights.T + self.bias


def fit_head(z: torch.Tensor, labels: torch.Tensor, head: str = "auto") -> Head:
    """Learn classes from support embeddings.

    Args:
        z: float32 (N, D), rows of unit length.
        labels: int64 (N,), 0 to C - 1, each with one row or more.
        head: a name in ``HEADS``, or ``"auto"`` for the one that ``choose_head`` finds.

    Raises:
        UnknownNameError: no such head.
        ShapeError: embeddings and labels do not fit each other.
        SamplingError: fewer than two classes, or a class without an embedding.
    """
    z, labels = _checked(z, labels)
    name = choose_head(z, labels) if head == "auto" else head
    return look_up("head", name, HEADS).fit(z, labels)


def leave_one_out_scores(z: torch.Tensor, labels: torch.Tensor, head: str = "prototype") -> torch.Tensor:
    """Scores that each support image gets from a head that was fitted without it.

    Nothing is fitted N times: prototypes without an image are sums without it, and a ridge regression's have a closed
    form (the residual over one minus the leverage).

    Args:
        z: float32 (N, D), rows of unit length.
        labels: int64 (N,), 0 to C - 1.
        head: a name in ``HEADS``.

    Returns:
        float32 (N, C); not a number for the own class of an image that is its only example.

    Raises:
        UnknownNameError, ShapeError, SamplingError: see ``fit_head``.
    """
    z, labels = _checked(z, labels)
    scores = look_up("head", head, HEADS).leave_one_out(z, labels)
    alone = torch.bincount(labels)[labels] == 1
    scores[alone, labels[alone]] = torch.nan
    return scores


def leave_one_out(z: torch.Tensor, labels: torch.Tensor, head: str = "prototype") -> torch.Tensor:
    """Predictions for each support image by all the others, int64 (N,); -1 for the only example of its class.

    Args:
        z, labels, head: see ``leave_one_out_scores``; ``"auto"`` for the head that would be chosen.

    Raises:
        UnknownNameError, ShapeError, SamplingError: see ``fit_head``.
    """
    z, labels = _checked(z, labels)
    scores = leave_one_out_scores(z, labels, choose_head(z, labels) if head == "auto" else head)
    return torch.where(scores.isnan().any(dim=1), -1, scores.nan_to_num(-torch.inf).argmax(dim=1))


def left_out_in_turn(z: torch.Tensor, labels: torch.Tensor, head: str = "auto") -> torch.Tensor:
    """Predictions for each support image by a head that was fitted without it and without as many of every class.

    Leaving out one image alone is unfair to its class: that one is then known by fewer examples than all others, and
    with two or three of each this costs more than the missing example does. So the images of a class are left out in
    turn, one of each class at a time, or a ``MOST_TURNS``-th of each; a class with fewer images than another begins
    anew, and its images are not judged again.

    Args:
        z: float32 (N, D), rows of unit length.
        labels: int64 (N,), 0 to C - 1.
        head: a name in ``HEADS``, or ``"auto"`` for the one that ``choose_head`` finds among all.

    Returns:
        int64 (N,); -1 for the only example of its class, which is never left out.

    Raises:
        UnknownNameError, ShapeError, SamplingError: see ``fit_head``.
    """
    z, labels = _checked(z, labels)
    name = choose_head(z, labels) if head == "auto" else head
    sizes = torch.bincount(labels)
    turns = sizes.clamp(max=MOST_TURNS)[labels]
    place, predicted = torch.from_numpy(ClassIndex(labels).rank), torch.full_like(labels, -1)
    for turn in range(int(turns.max()) if bool((turns > 1).any()) else 0):
        left = (turns > 1) & (place % turns == turn % turns)
        judged = left & (turn < turns)
        scores = fit_head(z[~left], labels[~left], name).scores(z[judged])
        predicted[judged] = scores.argmax(dim=1)
    return predicted


def without_doubles(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Positions of embeddings of which no earlier one of the same class is a copy, int64 (M,), ascending.

    Copies are rows of the same direction but for rounding: the same image twice, or it and its mirror image.

    Args:
        z: float32 (N, D), rows of unit length.
        labels: int64 (N,), 0 to C - 1.
    """
    kept = torch.ones(len(z), dtype=torch.bool)
    for label in torch.bincount(labels).gt(1).nonzero()[:, 0].tolist():
        rows = (labels == label).nonzero()[:, 0]
        own = z[rows].float()
        for start in range(0, len(rows), _BLOCK):
            block = own[start : start + _BLOCK]
            alike = block @ own[: start + len(block)].T > _SAME
            kept[rows[start : start + len(block)]] = ~alike.tril(start - 1).any(dim=1)
    return kept.nonzero()[:, 0]


def choose_head(z: torch.Tensor, labels: torch.Tensor) -> str:
    """Name of the head to use: prototypes, unless leave-one-out finds another clearly better.

    Better by more than two standard deviations of the difference that chance makes: with w images that the other head
    alone names right and l that prototypes alone do, w - l > 2 sqrt(w + l) (McNemar, 1947).

    Args:
        z, labels: see ``fit_head``.
    """
    z, labels = _checked(z, labels)
    sizes, best, lead = torch.bincount(labels), "prototype", 0.0
    if bool((sizes > 1).any()) and len(z) * len(sizes) <= _MOST_SCORES:
        plain = leave_one_out(z, labels, "prototype") == labels
        for name in HEADS:
            right = leave_one_out(z, labels, name) == labels
            won, lost = int((right & ~plain).sum()), int((plain & ~right).sum())
            if won - lost > max(lead, _DEVIATIONS * (won + lost) ** 0.5):
                best, lead = name, won - lost
    return best


# --- prototypes -----------------------------------------------------------------------------------


def prototypes(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean embedding of each class, scaled to unit length (Snell et al., 2017): float32 (C, D)."""
    return F.normalize(_sums(z, labels), dim=1)


def _sums(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return torch.zeros(int(labels.max()) + 1, z.shape[1]).index_add_(0, labels, z.float())


def _means(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return _sums(z, labels) / torch.bincount(labels)[:, None]


def _prototype(z: torch.Tensor, labels: torch.Tensor) -> Head:
    weights = prototypes(z, labels)
    return Head("prototype", weights, torch.zeros(len(weights)), torch.zeros(z.shape[1]), False)


def prototype_left_out(z: torch.Tensor, labels: torch.Tensor, every: int = 1) -> torch.Tensor:
    """``leave_one_out_scores`` of prototypes for every n-th image, float32 (ceil(N / n), C)."""
    sums, some, of = _sums(z, labels), z[::every].float(), labels[::every]
    scores, row = some @ F.normalize(sums, dim=1).T, torch.arange(len(some))
    scores[row, of] = (some * F.normalize(sums[of] - some, dim=1)).sum(dim=1)
    scores[row, of] = torch.where(torch.bincount(labels)[of] > 1, scores[row, of], torch.nan)
    return scores


def _centred(z: torch.Tensor, labels: torch.Tensor) -> Head:
    """Prototypes after the mean of the classes' means is taken away, which all have in common."""
    means = _means(z, labels)
    centre = means.mean(dim=0)
    weights = F.normalize(means - centre, dim=1)
    return Head("centred", weights, torch.zeros(len(weights)), centre, True)


def _centred_left_out(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    means, sizes = _means(z, labels), torch.bincount(labels)
    others = (sizes[labels, None] * means[labels] - z) / (sizes[labels, None] - 1).clamp(min=1)
    centres = means.mean(dim=0) + (others - means[labels]) / len(means)
    u = F.normalize(z - centres, dim=1)
    # |mean - centre| for all pairs, from dot products.
    dots = u @ means.T - (u * centres).sum(dim=1, keepdim=True)
    lengths = torch.cdist(centres, means).clamp(min=1e-12)
    scores = dots / lengths
    scores[torch.arange(len(z)), labels] = (u * F.normalize(others - centres, dim=1)).sum(dim=1)
    return scores


# --- ridge regression -----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Ridge:
    """Weighted least squares on indicators of the classes, which count alike however many images they have.

    Solved in the space that the embeddings span. The intercept is not penalised.

    Attributes:
        x: float64 (N, r + 1), coordinates and a one.
        weight: float64 (N,), of each row.
        inverse: float64 (r + 1, r + 1), of the normal equations' matrix.
        solution: float64 (r + 1, C).
        basis: float64 (D, r).
    """

    x: torch.Tensor
    weight: torch.Tensor
    inverse: torch.Tensor
    solution: torch.Tensor
    basis: torch.Tensor

    @classmethod
    def of(cls, z: torch.Tensor, labels: torch.Tensor) -> _Ridge:
        z, sizes = z.double(), torch.bincount(labels)
        few = len(z) < z.shape[1]
        basis = torch.linalg.qr(z.T)[0] if few else torch.eye(z.shape[1], dtype=z.dtype)
        x = torch.cat([z @ basis if few else z, torch.ones(len(z), 1, dtype=z.dtype)], dim=1)
        weight = len(z) / (len(sizes) * sizes[labels].double())
        penalty = torch.full((x.shape[1],), RIDGE, dtype=z.dtype)
        penalty[-1] = 0
        inverse = torch.linalg.inv(x.T @ (weight[:, None] * x) + penalty.diag())
        solution = inverse @ (x.T @ (weight[:, None] * F.one_hot(labels).double()))
        return cls(x, weight, inverse, solution, basis)


def _ridge(z: torch.Tensor, labels: torch.Tensor) -> Head:
    fit = _Ridge.of(z, labels)
    weights, bias = (fit.basis @ fit.solution[:-1]).T, fit.solution[-1]
    return Head("ridge", weights.float(), bias.float(), torch.zeros(z.shape[1]), False)


def _ridge_left_out(z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    fit = _Ridge.of(z, labels)
    leverage = fit.weight * ((fit.x @ fit.inverse) * fit.x).sum(dim=1)
    target = F.one_hot(labels).double()
    residual = (target - fit.x @ fit.solution) / (1 - leverage[:, None])
    return (target - residual).float()


# --- by name --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Way:
    fit: Callable[[torch.Tensor, torch.Tensor], Head]
    leave_one_out: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


HEADS = {
    "prototype": _Way(_prototype, prototype_left_out),
    "centred": _Way(_centred, _centred_left_out),
    "ridge": _Way(_ridge, _ridge_left_out),
}


def _checked(z: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    z, labels = labelled("A head", z, labels)
    if int(labels.min()) < 0 or int(labels.max()) < 1 or bool((torch.bincount(labels) == 0).any()):
        raise SamplingError(
            "Labels of a support are whole numbers from 0 on, of two classes or more and none left out; number them so."
        )
    return z.float(), labels
