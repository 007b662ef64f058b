"""What every judgement is given: embeddings of unit length with their labels, checked once."""

from __future__ import annotations

from typing import Any

import torch

from siamese_utils.data.arrays import as_embeddings, as_labels
from siamese_utils.errors import ShapeError

CELLS_AT_ONCE = 500_000  # of a gathered table, so that it stays in the processor cache


def checked(z: Any, labels: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings as contiguous float32 and labels as int64, on the CPU, from arrays, tensors or lists of them.

    Raises:
        ShapeError: of the wrong shape or type, not of unit length, or labels that do not fit them.
    """
    z = checked_embeddings(z)
    return z, as_labels(labels, len(z)).detach().cpu()


def checked_embeddings(z: Any) -> torch.Tensor:
    """The same of embeddings alone."""
    z = as_embeddings(z, finite=False).detach().cpu().float().contiguous()
    if not len(z):
        raise ShapeError("There are no embeddings; give those of one image or more.")
    lengths = z.norm(dim=1)
    if not bool(((lengths - 1).abs() < 1e-3).all()):  # also false where an embedding is not a number
        worst = int((lengths - 1).abs().nan_to_num(torch.inf).argmax())
        raise ShapeError(
            f"Embeddings must have unit length, but row {worst} has length {lengths[worst].item():.4g}; "
            f"normalise them (torch.nn.functional.normalize), or take them from encoder.embed."
        )
    return z


def checked_gram(gram: Any, count: int) -> torch.Tensor | None:
    """The table of all similarities if it is at hand, float32 (count, count).

    Raises:
        ShapeError: it is one of other images.
    """
    if gram is None:
        return None
    gram = as_embeddings(gram, "The table of similarities").detach().cpu().float().contiguous()
    if gram.shape != (count, count):
        raise ShapeError(
            f"The table of similarities of {count} embeddings is {count} by {count}, but got {tuple(gram.shape)}; give "
            "z @ z.T or leave it out."
        )
    return gram
