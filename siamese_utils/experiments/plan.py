"""What a study would take: images, minutes on a machine such as this, and what is stored already."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pandas as pd

from siamese_utils.experiments.store import read_record
from siamese_utils.experiments.study import Run, Study, precision_of, stored
from siamese_utils.system.provenance import provenance
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.rate import measured_rate

_ALIKE = ("processor", "precision", "device", "threads")


def plan(study: Study, runs: Sequence[Run], rate: float | None = None) -> pd.DataFrame:
    """One row a run: the key, ``images`` to show, ``minutes``, and ``stored`` (yes, no, or other: by other settings).

    Minutes are those at ``rate`` images a second; without one, or where nothing is trained, those of the study's stored
    runs on a machine such as this, on average, and missing where there are none.
    """
    records = list(_stored_here(study, runs))
    spent = [record["seconds"] for record in records if "seconds" in record]
    usual = sum(spent) / len(spent) / 60 if spent else float("nan")
    rate = rate or stored_rate(study, runs)
    rows = []
    for run in runs:
        minutes = run.images / rate / 60 if rate and run.images else usual
        rows.append({**run.key, "images": run.images, "minutes": minutes, "stored": stored(study, run)})
    return pd.DataFrame(rows)


def stored_rate(study: Study, runs: Iterable[Run]) -> float | None:
    """Images a second of a study's stored trainings on a machine such as this, or ``None`` if there are none.

    Processors of one name may differ in what they compute with, and by far in speed, so the precision must be the same.
    """
    rows = [row for record in _stored_here(study, runs) for row in record.get("history", ())]
    timed = [row for row in rows if "images_per_second" in row]
    seconds = sum(row["seconds"] for row in timed)
    return sum(row["images_per_second"] * row["seconds"] for row in timed) / seconds if seconds else None


def _stored_here(study: Study, runs: Iterable[Run]) -> Iterable[dict]:
    here: dict[str, dict] = {}
    for run in runs:
        if study.record_path(run).is_file():
            record, precision = read_record(study.record_path(run)), precision_of(run)
            if precision not in here:
                here[precision] = provenance(precision=precision)
            if all(record["provenance"].get(key) == here[precision][key] for key in _ALIKE):
                yield record


def rate(
    study: Study, runs: Sequence[Run], say: Callable[[str], object] = lambda _: None, device: str = "auto"
) -> float | None:
    """Images a second: of stored runs, or else measured here; ``None`` where the project's loop trains nothing.

    Args:
        study: which one.
        runs: of which the first is measured.
        say: is told, before a measurement, that it takes some seconds.
        device: that is measured; see ``pick_device``.
    """
    config = runs[0].settings.get("config") if runs else None
    if (stored_before := stored_rate(study, runs)) or not isinstance(config, TrainConfig) or not runs[0].images:
        return stored_before
    say("No stored run comes from a processor such as this: measuring some steps of the training, which takes seconds.")
    return measured_rate(config, device=device)
