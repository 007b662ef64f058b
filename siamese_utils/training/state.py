"""What an interrupted training goes on from, kept in its run folder after each epoch, and when to stop early."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from siamese_utils.errors import CheckpointError, reason
from siamese_utils.system.files import atomic_path, is_whole_archive

History = list[dict[str, float]]


def load_state(
    run_dir: str | Path | None, belongs_to: Mapping[str, Any], put_back: Callable[[Mapping[str, Any]], None]
) -> History:
    """Put back what an interrupted training left, and make its run folder if it left nothing.

    Args:
        run_dir: the run folder; ``None`` for a training that keeps nothing.
        belongs_to: what the state must have been saved for.
        put_back: takes the state that was saved; whatever it raises says that the state is damaged.

    Returns:
        one row an epoch that is done.

    Raises:
        CheckpointError: the state is damaged or that of another training, or the folder cannot be written to.
    """
    if run_dir is None:
        return []
    path = Path(run_dir) / "state.pt"
    history: History = []
    if path.exists():
        try:
            if not is_whole_archive(path):
                raise ValueError("a checksum is wrong")
            state = torch.load(path, map_location="cpu", weights_only=True)
            state = {"content": belongs_to.get("content"), **state}  # which older states do not say
            same = all(state[name] == value for name, value in belongs_to.items())
            if same:
                put_back(state)
                history = json.loads(state["history"])
        except Exception as error:  # torch.load raises many types for a damaged file
            raise CheckpointError(
                f"The training state {path} is damaged or of another version; delete it to start again."
            ) from error
        if not same:
            raise CheckpointError(
                f"{path} belongs to a run with another configuration, other classes, images or teachers; choose "
                "another run folder or delete it."
            )
    _write_history(Path(run_dir), history)  # who cannot write here should know before an epoch is trained
    return history


def save_state(
    run_dir: str | Path | None, belongs_to: Mapping[str, Any], state: Mapping[str, Any], history: History
) -> None:
    """Save a training after an epoch: ``state.pt`` to go on from, in one step, and ``history.csv`` to watch it by.

    Args:
        run_dir: the run folder; ``None`` keeps nothing.
        belongs_to: plain data that say whose state it is.
        state: plain data and tensors, for ``torch.load(weights_only=True)``.
        history: one row an epoch.

    Raises:
        CheckpointError: the folder cannot be written to; the state before is kept.
    """
    if run_dir is None:
        return
    try:
        with atomic_path(Path(run_dir) / "state.pt") as temporary:
            torch.save({**belongs_to, **state, "history": json.dumps(history)}, temporary)
    except (OSError, RuntimeError) as error:
        raise _unwritable(run_dir, error) from error
    _write_history(Path(run_dir), history)


def since_best(scores: Iterable[float], min_delta: float) -> int:
    """Epochs since a score, the higher the better, last rose by more than ``min_delta`` over its best."""
    best, since = -math.inf, 0
    for score in scores:
        best, since = (score, 0) if score > best + min_delta else (best, since + 1)
    return since


def _write_history(run_dir: Path, history: History) -> None:
    # Written whole and anew each time; no program reads it.
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(history).to_csv(run_dir / "history.csv", index=False, lineterminator="\n")
    except OSError as error:
        raise _unwritable(run_dir, error) from error


def _unwritable(run_dir: str | Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"Cannot write to the run folder {run_dir} ({reason(error)}); make room there or choose another run folder. "
        "What was written before is kept."
    )
