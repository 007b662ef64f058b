"""Answers as a table: one row a query."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch

from siamese_utils.errors import printable
from siamese_utils.recognition.index import nearest

# Columns that this table or ``answer_table`` has for something else than a class
_RESERVED = re.compile(
    r"query|prediction|similarity|margin|probability|unknown|in_support|(class|similarity|nearest)_\d+(_similarity)?"
)
_NEAREST = 3  # support images that are shown with an answer


def shown_names(names: Sequence[object]) -> list[object]:
    """Names of classes as a table can hold them."""
    return [printable(name) if isinstance(name, str) else name for name in names]


def similarity_table(
    files: Sequence[Path],
    names: Sequence[object],
    similarity: torch.Tensor,
    probability: torch.Tensor,
    unknown: torch.Tensor,
) -> pd.DataFrame:
    """One row a query: the first six columns of ``answer_table``, then one column a class with its similarity.

    Args:
        files, names, similarity, probability, unknown: see ``answer_table``.
    """
    shown = shown_names(names)
    table = _answers(files, shown, similarity, probability, unknown)
    columns = [f"{name} (class)" if _RESERVED.fullmatch(str(name)) else name for name in shown]
    return pd.concat([table, pd.DataFrame(similarity.numpy(), columns=columns)], axis=1)


def answer_table(
    files: Sequence[Path],
    names: Sequence[object],
    similarity: torch.Tensor,
    probability: torch.Tensor,
    unknown: torch.Tensor,
    top: int,
) -> pd.DataFrame:
    """One row a query, of a width that does not grow with the classes.

    Args:
        files: the queries.
        names: of the classes.
        similarity: float32 (N, C).
        probability: float32 (N, C).
        unknown: bool (N,).
        top: classes to list.

    Returns:
        ``query``, ``prediction``, ``similarity`` (to it), ``margin`` (lead over the next), ``probability`` (of the
        prediction, if the image is of one of the classes) and ``unknown``; then ``class_1``, ``similarity_1`` and so
        on, the likeliest first.
    """
    shown = shown_names(names)
    table = _answers(files, shown, similarity, probability, unknown)
    order = probability.topk(min(top, len(shown)), dim=1).indices
    for place in range(order.shape[1]):
        table[f"class_{place + 1}"] = [shown[index] for index in order[:, place].tolist()]
        table[f"similarity_{place + 1}"] = similarity.gather(1, order[:, place : place + 1])[:, 0].numpy()
    return table


def add_nearest(table: pd.DataFrame, queries: torch.Tensor, support: torch.Tensor, files: Sequence[str]) -> None:
    """Add the nearest support images: ``nearest_1`` (its path), ``nearest_1_similarity`` and so on.

    Args:
        table: a row a query; changed in place.
        queries: float32 (N, D).
        support: float32 (M, D).
        files: of the support.
    """
    values, indices = nearest(queries, support, _NEAREST)
    for place in range(indices.shape[1]):
        table[f"nearest_{place + 1}"] = [printable(files[index]) for index in indices[:, place].tolist()]
        table[f"nearest_{place + 1}_similarity"] = values[:, place].clamp(-1, 1).numpy()


def _answers(
    files: Sequence[Path],
    names: Sequence[object],
    similarity: torch.Tensor,
    probability: torch.Tensor,
    unknown: torch.Tensor,
) -> pd.DataFrame:
    likeliest, said = probability.max(dim=1)
    own = similarity.gather(1, said[:, None])[:, 0]
    rest = similarity.scatter(1, said[:, None], -torch.inf).amax(dim=1)
    return pd.DataFrame(
        {
            "query": [printable(file) for file in files],
            "prediction": [names[index] for index in said.tolist()],
            "similarity": own.numpy(),
            "margin": (own - rest).numpy(),
            "probability": likeliest.numpy(),
            "unknown": unknown.numpy(),
        }
    )
