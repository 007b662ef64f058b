"""What every judgement is given: embeddings of unit length with their labels, checked once."""

from __future__ import annotations

import torch

from siamese_utils.errors import ShapeError

CELLS_AT_ONCE = 500_000  # of a gathered table, so that it stays in the processor cache


def checked(z: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings as contiguous float32 and labels as int64, on the CPU, or a ShapeError."""
    try:
        z, labels = torch.as_tensor(z).detach().cpu(), torch.as_tensor(labels).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:  # no numbers, or rows of different lengths
        raise ShapeError(
            f"Embeddings and labels must be arrays of numbers, not {type(z).__name__} and {type(labels).__name__}; "
            "take them from encoder.embed and an image set."
        ) from error
    if z.ndim != 2 or len(z) == 0 or not z.is_floating_point():
        raise ShapeError(
            f"Embeddings must be a table of floating-point numbers, one row an image, but got shape "
            f"{tuple(z.shape)} and type {z.dtype}."
        )
    if labels.shape != z.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ShapeError(
            f"Labels must be {len(z)} whole numbers, one for each embedding, but got shape "
            f"{tuple(labels.shape)} and type {labels.dtype}."
        )
    z = z.float().contiguous()
    lengths = z.norm(dim=1)
    if not bool(((lengths - 1).abs() < 1e-3).all()):  # also false where an embedding is not a number
        worst = int((lengths - 1).abs().nan_to_num(torch.inf).argmax())
        raise ShapeError(
            f"Embeddings must have unit length, but row {worst} has length {lengths[worst].item():.4g}; "
            f"normalise them (torch.nn.functional.normalize), or take them from encoder.embed."
        )
    return z, labels.long()
