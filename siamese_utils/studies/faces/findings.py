"""What the face study, its trials and the assignment's network at other settings have found.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from siamese_utils.errors import ResultsError, unknown
from siamese_utils.evaluation.calibration import Verdict
from siamese_utils.evaluation.estimates import Estimate, wilson
from siamese_utils.experiments.findings import Shown, Table
from siamese_utils.experiments.seeds import cell, over_seeds
from siamese_utils.experiments.store import read_table
from siamese_utils.studies.faces.koch import PUBLISHED_ACCURACY, PUBLISHED_PARAMETERS, layer_table
from siamese_utils.studies.faces.study import FACES, METRICS, SEEDS
from siamese_utils.studies.faces.systems import KOCH, NAMES, SYSTEMS
from siamese_utils.studies.faces.trials import FACE_GRID, FACE_TRIALS, GRID_EPOCHS, READ_EPOCHS, TRIAL_IMAGES
from siamese_utils.studies.faces.verification import TestAnswers
from siamese_utils.system.project import results_dir

PAIR_COLUMNS = ("system", "seed", "pair", "same", "probability")

# ------------------------------------------------------------------------------------------- the networks


def stored_pairs() -> pd.DataFrame:
    """The stored rows of ``results/face_pairs.csv``: probability of "same" by system, seed and test pair."""
    return read_table(results_dir() / "face_pairs.csv", PAIR_COLUMNS, FACES.key)


def stored_answers(seed: int = 0) -> torch.Tensor:
    """P("same") of the test pairs by the embedding network of a seed, float64 (P,), in their order."""
    pairs = stored_pairs()
    rows = pairs[(pairs.system == "embedding") & (pairs.seed == seed)].sort_values("pair")
    return torch.tensor(rows.probability.to_numpy())


def koch_histories() -> dict[int, pd.DataFrame]:
    """By seed, the history of the assignment's network, one row an epoch; see ``KochResult``."""
    table = FACES.table()
    done = set(table.seed[table.system == "koch"])
    runs = [run for run in FACES.runs() if run.key["system"] == "koch" and run.key["seed"] in done]
    return {int(run.key["seed"]): pd.DataFrame(FACES.read_record(run)["history"]) for run in runs}


def seeds_table(metrics: Sequence[str], systems: Sequence[str], table: pd.DataFrame | None = None) -> pd.DataFrame:
    """One row a metric, in words, and one column a system: mean over its seeds, lowest and highest of them.

    A metric that a system does not have is left out of its column.

    Raises:
        ResultsError: nothing is stored.
        UnknownNameError: there is no such metric or system.
    """
    for kind, names, known in (("metric", metrics, METRICS), ("system", systems, SYSTEMS)):
        if strange := set(names) - set(known):
            raise unknown(kind, min(strange), known)
    rows = []
    for metric in metrics:
        spread = _alone(metric, table)
        decimals = 2 if metric.startswith("loss") else 0 if metric == "seconds" else 1
        cells = {system: _range(row, decimals) for system, row in spread.iterrows()}
        rows.append({"measure": METRICS[metric], **{NAMES[system]: cells.get(system, "–") for system in systems}})
    return pd.DataFrame(rows)


def _alone(metric: str, table: pd.DataFrame | None = None) -> pd.DataFrame:
    """By system, the columns of ``over_seeds``."""
    return over_seeds(FACES.table() if table is None else table, metric, ["system"]).set_index("system")


def _range(row: pd.Series, decimals: int) -> str:
    several = f", {row.low:.{decimals}f} to {row.high:.{decimals}f}" if row.seeds > 1 else ""
    return f"{row['mean']:.{decimals}f}{several}"


def ensemble(system: str, pairs: pd.DataFrame | None = None) -> dict[str, Estimate]:
    """What the networks of all seeds say together: the mean of their calibrated log odds, from the stored answers.

    Each network's calibration comes from validation people, so nothing is fitted here.

    Args:
        system: a name in ``SYSTEMS``.
        pairs: see ``stored_pairs``, which is read if it is left out.

    Returns:
        ``acc_test_half``, ``auc_test`` and ``eer_test``.
    """
    table = stored_pairs() if pairs is None else pairs
    table = table[table.system == system].pivot(index="pair", columns="seed", values=["probability", "same"])
    if table.empty or table.isna().to_numpy().any():
        raise ResultsError(f"The answers of {system!r} are missing or incomplete; run 'python -m siamese_utils faces'.")
    score = torch.logit(torch.tensor(table.probability.to_numpy(float)), eps=1e-6).mean(dim=1)
    answers = TestAnswers(score, torch.tensor(table.same.to_numpy()[:, 0] == 1))
    metrics = answers.metrics(Verdict(0.0, 1.0, 0.0))
    return {name: metrics[name] for name in ("acc_test_half", "auc_test", "eer_test")}


def layers() -> list[Shown]:
    """The layers of the assignment's network, and its parameters beside those that the assignment reports."""
    counts = FACES.read_record(next(run for run in FACES.runs() if run.key["system"] == "koch"))["parameters"]
    return [
        Table(layer_table(), "One branch and the head"),
        f"Parameters: **{counts['total']:,}** in all, {counts['trainable']:,} of them trainable; the assignment's "
        f"report: {PUBLISHED_PARAMETERS['total']:,} and {PUBLISHED_PARAMETERS['trainable']:,}.",
    ]


_ASSIGNMENT = ["acc_test_half", "acc_validation_half", "acc_test", "auc_test", "eer_test", "acc_train"]
_ASSIGNMENT += ["loss_train", "loss_validation", "loss_test", "seconds"]


def assignment() -> list[Shown]:
    """What the assignment's network comes to over its seeds, beside what its report says."""
    table = _alone("acc_test_half")
    if "koch" not in table.index:
        raise ResultsError("The assignment's network is not stored; run 'python -m siamese_utils faces --only koch'.")
    found, pairs = table.loc["koch"], stored_pairs().pair.nunique()
    seeds = int(found.seeds)
    several = f" on average over {seeds} seeds, from {found.low:.1f} to {found.high:.1f}" if seeds > 1 else ""
    return [
        Table(
            seeds_table(_ASSIGNMENT, ["koch"]),
            f"Percent, losses and seconds: mean, lowest and highest; seeds trained so far: {seeds} of {len(SEEDS)}",
        ),
        f"The assignment reports **{PUBLISHED_ACCURACY['test']}%** on the test pairs and "
        f"{PUBLISHED_ACCURACY['holdout']}% on its holdout, from one training. Here it is **{found['mean']:.1f}%**"
        f"{several}; the 95% interval of one training over the {pairs:,} pairs is ± {found.ci95:.1f}.",
    ]


_COMPARISON = ["acc_test", "acc_test_half", "auc_test", "eer_test"]
_COMPARISON += ["acc_validation", "auc_validation", "auc_validation_all", "seconds"]


def comparison() -> list[Shown]:
    """All systems on the test pairs, alone and the networks of all seeds together."""
    found = _alone("acc_test")
    systems = [system for system in NAMES if system in found.index]
    told = ", ".join(f"{SYSTEMS[system]}: {found.seeds[system]}" for system in systems)
    halves = ", ".join(f"± {found.ci95[system]:.1f} ({NAMES[system]})" for system in systems)
    return [
        Table(
            seeds_table(_COMPARISON, systems).rename(columns={NAMES["pretrained"]: "ImageNet"}),
            f"Percent and seconds: mean over seeds, lowest and highest ({told})",
        ),
        f"The 95% interval of one network over the {stored_pairs().pair.nunique():,} test pairs is {halves}.",
        *(_together(system) for system in ("embedding", "koch") if found.seeds.get(system, 0) > 1),
    ]


def _together(system: str) -> str:
    alone, together = _alone("acc_test_half").loc[system], ensemble(system)
    right, area = (cell(together[name].value, together[name].ci95) for name in ("acc_test_half", "auc_test"))
    return (
        f"The {alone.seeds:.0f} networks of *{SYSTEMS[system]}* together, their log odds averaged: **{right}%** called "
        f"right, AUC {area}, equal error rate {together['eer_test'].value:.1f}%; alone, at the same threshold of one "
        f"half, they have {alone['mean']:.1f}% on average."
    )


# ------------------------------------------------------------------------------- trials and the sensitivity


def trial_log() -> pd.DataFrame:
    """The stored trials: percent on validation people with 95% intervals, and what was expected.

    The area under the curve is over all pairs of photographs, the accuracy over the pairs of LFW's list alone.
    """
    table = FACE_TRIALS.table()
    headings = {
        "auc_validation_all": "AUC",
        "auc_validation_all_one_crop": "AUC, one crop",
        "acc_validation": "accuracy",
    }
    rows = []
    for run in FACE_TRIALS.runs():
        found = table[table.trial == run.key["trial"]].set_index("metric")
        if len(found):
            cells = {name: cell(*found.loc[metric, ["value", "ci95"]]) for metric, name in headings.items()}
            rows.append({"trial": run.key["trial"], **cells, "expected beforehand": run.expectation})
    return pd.DataFrame(rows)


def trials() -> Table:
    """``trial_log`` with its caption; errors as there."""
    return Table(trial_log(), f"One change each, {TRIAL_IMAGES:,} images shown: percent on validation people")


def sensitivity_table() -> pd.DataFrame:
    """Validation accuracy and loss by setting: ``parameter, value, epochs, accuracy, ci95, loss``, sorted.

    The assignment's setting is the run over 30 epochs, read after as many epochs as the others take.
    """
    longest, *others = FACE_GRID.runs()
    record = FACE_GRID.read_record(longest)
    history, pairs = record["history"], record["validation_pairs"]

    def row(parameter: str, value: object, epochs: int, entry: dict[str, float]) -> dict[str, object]:
        share = entry["validation_accuracy"]
        low, high = wilson(round(share * pairs / 100), pairs)
        return {
            "parameter": parameter,
            "value": value,
            "epochs": epochs,
            "accuracy": share,
            "ci95": (high - low) / 2,
            "loss": entry["validation_loss"],
        }

    rows = [row("epochs", epochs, epochs, history[epochs - 1]) for epochs in READ_EPOCHS if epochs <= len(history)]
    curves: dict[str, list[dict[str, object]]] = {}
    for run in others:
        parameter = str(run.key["trial"]).partition("=")[0]
        usual = row(parameter, getattr(KOCH, parameter), GRID_EPOCHS, history[GRID_EPOCHS - 1])
        own = curves.setdefault(parameter, [usual])
        if FACE_GRID.shows(run):
            entries = FACE_GRID.read_record(run)["history"]
            own.append(row(parameter, getattr(run.config, parameter), len(entries), entries[-1]))
    for own in curves.values():
        rows += sorted(own, key=lambda one: one["value"])
    return pd.DataFrame(rows)


_SETTINGS = {
    "learning_rate": "Learning rate",
    "epochs": "Epochs",
    "batch_size": "Batch size",
    "framing": "Framing",
    "pixel_scale": "Scale of the pixels",
}


def sensitivity_sentences(table: pd.DataFrame) -> str:
    """What the settings come to, one line each in Markdown: where accuracy is lowest, highest, and clearly different.

    Two accuracies count as different when they lie further apart than the 95% interval of a difference between two
    independent samples of this size. Both rest on the same pairs here, so that is careful.

    Args:
        table: of ``sensitivity_table``.
    """
    lines = []
    for parameter, rows in table.groupby("parameter", sort=False):
        usual = rows[rows.value == getattr(KOCH, parameter)].iloc[0]
        if len(rows) < 2:
            continue
        low, high = rows.loc[rows.accuracy.idxmin()], rows.loc[rows.accuracy.idxmax()]
        apart = (rows.ci95**2 + usual.ci95**2) ** 0.5
        clear = [
            f"{value:g}" if isinstance(value, (int, float)) else str(value)
            for value in rows.value[(rows.accuracy - usual.accuracy).abs() > apart]
        ]
        lines.append(
            f"- **{_SETTINGS[parameter]}**: from {low.accuracy:.1f}% (at {low.value}) to {high.accuracy:.1f}% (at "
            f"{high.value}); the assignment's {usual.value} gives {cell(usual.accuracy, usual.ci95)}%. "
            + (f"Clearly different from it: {', '.join(clear)}." if clear else "None is clearly different from it.")
        )
    return "\n".join(lines)
