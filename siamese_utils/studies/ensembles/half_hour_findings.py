"""Networks of half an hour on CIFAR-FS: their table, and what each gains over the one that learns by the recipe alone.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from siamese_utils.experiments import store
from siamese_utils.experiments.seeds import Paired, cell
from siamese_utils.experiments.study import Run, Study
from siamese_utils.studies.ensembles.cifar_fs import record_name


def half_hour_table(study: Study, names: Mapping[str, str]) -> pd.DataFrame:
    """One row a network that is stored: what its training took and came to, and accuracy on the validation classes.

    Args:
        study: of such networks.
        names: of its trials, as a reader is told of them.

    Columns: network, seed, core-minutes, images (millions), classes / turns told right (percent of the training images
    as they were shown in the last epoch), 5-way 1-shot and 5-way 5-shot (percent, with 95% intervals over episodes).
    Networks that answer together have no seed and no one record of a training: a dash.
    """
    table, rows = study.table(), []
    for run in study.runs():
        trial, seed = run.key["trial"], run.key["seed"]
        found = table[(table.trial == trial) & (table.seed == seed)].set_index("metric")
        if found.empty:
            continue
        several = len(run.settings.get("networks", ())) > 1
        rows.append(
            {
                "network": names[trial],
                "seed": "–" if several else str(seed),
                "core-minutes": f"{found.value.core_minutes:.0f}",
                "images": f"{found.value.images / 1e6:.2f}",
                "classes / turns told right": "–" if several else _told_right(study, run),
                **{
                    f"5-way {shots}-shot": cell(found.value[f"acc_5w{shots}s"], found.ci95[f"acc_5w{shots}s"])
                    for shots in (1, 5)
                },
            }
        )
    return pd.DataFrame(rows)


def _told_right(study: Study, run: Run) -> str:
    """How well a network came to tell classes and turns of what it learns from, by the record of its training."""
    if "networks" in run.settings:
        ((name, seed),) = run.settings["networks"]
        record = store.load_json(record_name(seed, name))
    else:
        record = study.read_record(run)
    last = record["history"][-1]
    classes = next(last[name] for name in ("proxy_accuracy", "linear_accuracy") if name in last)
    return f"{100 * classes:.0f} / {100 * last['rotation_accuracy']:.0f}"


def accuracies(study: Study) -> pd.DataFrame:
    """Accuracies that are stored: a row a trial and seed, columns ``acc_5w1s`` and ``acc_5w5s``."""
    values = study.table().pivot_table(index=["trial", "seed"], columns="metric", values="value")
    return values[["acc_5w1s", "acc_5w5s"]]


def gains(values: pd.DataFrame, alone: str, told: Mapping[str, str]) -> list[str]:
    """What trials gain over the plain network of the same seed, one clause each that is stored.

    Args:
        values: of ``accuracies``.
        alone: the trial that is compared with.
        told: how a clause names a trial, in the order of the clauses.
    """
    clauses, stored = [], set(values.index.unique("trial"))
    for trial, words in told.items():
        if {trial, alone} <= stored and len(gain := (values.loc[trial] - values.loc[alone]).dropna()):
            one, five = (Paired.of(gain[metric]) for metric in values.columns)
            clauses.append(f"{words} {one} and {five} ({one.seeds_told})")
    return clauses
