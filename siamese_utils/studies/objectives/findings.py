"""The stored comparison of objectives, and the sensitivity of triplet training: tables, and sentences made from them.

The runs are the studies ``objectives``, ``triplet_sensitivity`` and three trials of ``distances``, all with one
encoder, the same images and the same number of steps, judged on CIFAR-FS's validation classes. Runs that collapsed
count: they are stored as failed, and tables and sentences say how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.studies.validation import read_study, trials_of

PROXIES, TRIPLETS, PAIRS = "proxies", "triplets", "pairs"


@dataclass(frozen=True)
class Compared:
    """A trial of the comparison.

    Attributes:
        study: where it is stored.
        trial: its name there.
        label: what it is called in figures.
        kind: ``PROXIES`` where they are part of it, else ``TRIPLETS`` or ``PAIRS``.
    """

    study: str
    trial: str
    label: str
    kind: str


OBJECTIVES: tuple[Compared, ...] = (
    Compared("distances", "recipe", "proxies + triplets (the recipe)", PROXIES),
    Compared("objectives", "proxy", "proxies", PROXIES),
    Compared("objectives", "proxy-and-supcon", "proxies + contrast in the batch", PROXIES),
    Compared("objectives", "proxy-then-triplets", "proxies, then triplets", PROXIES),
    Compared("distances", "cosine", "all triplets, soft margin", TRIPLETS),
    Compared("distances", "cosine-margin", "semi-hard triplets", TRIPLETS),
    Compared("objectives", "batch-hard", "batch-hard triplets", TRIPLETS),
    Compared("objectives", "batch-hard-soft", "batch-hard triplets, soft margin", TRIPLETS),
    Compared("objectives", "batch-hard-euclidean", "batch-hard triplets, Euclidean", TRIPLETS),
    Compared("objectives", "random", "random triplets", TRIPLETS),
    Compared("objectives", "random-euclidean", "random triplets, Euclidean", TRIPLETS),
    Compared("objectives", "supcon", "contrast in the batch", PAIRS),
    Compared("objectives", "contrastive", "contrastive pairs", PAIRS),
    Compared("objectives", "contrastive-euclidean", "contrastive pairs, Euclidean", PAIRS),
    Compared("objectives", "pair-bce", "pairs with a head (same or different)", PAIRS),
)
SEMI_HARD, BATCH_HARD = "semi-hard", "batch-hard"
_USUAL = {SEMI_HARD: ("distances", "cosine-margin"), BATCH_HARD: ("objectives", "batch-hard")}
MARGIN = 0.2  # of the usual run


def _outcome(study: str, trial: str) -> dict[str, object] | None:
    """A trial over its stored seeds, or ``None`` if there is none: see ``objective_results`` for the keys."""
    try:
        table = read_study(study)
    except ResultsError:
        return None
    table = table[table.trial == trial]
    if table.empty:
        return None
    found = dict(list(table.groupby("metric")))
    row: dict[str, object] = {"runs": table.seed.nunique(), "collapsed": len(found.get("failed", ()))}
    for column, metric in (("mean", "acc_5w1s"), ("auc", "pair_auc")):
        row[column] = found[metric].value.mean() if metric in found else float("nan")
    if "acc_5w1s" in found:
        accuracy = found["acc_5w1s"]
        row |= {"low": accuracy.value.min(), "high": accuracy.value.max(), "ci95": accuracy.ci95.mean()}
    return row


_NUMBERS = ["mean", "low", "high", "ci95", "auc", "runs", "collapsed"]


def _framed(rows: Sequence[dict[str, object]], columns: list[str], nothing: str) -> pd.DataFrame:
    if not rows:
        raise ResultsError(nothing)
    return pd.DataFrame(rows).reindex(columns=[*columns, *_NUMBERS])


def objective_results() -> pd.DataFrame:
    """One row a stored objective, best first.

    Columns: ``trial, label, kind, expected``; ``mean, low, high`` (5-way 1-shot accuracy in percent over the seeds that
    ended, NaN where none did), ``ci95`` (within a run, the mean over seeds), ``auc``; ``runs`` (seeds stored) and
    ``collapsed`` (how many of them did not end).

    Raises:
        ResultsError: none is stored.
    """
    rows = []
    for one in OBJECTIVES:
        if outcome := _outcome(one.study, one.trial):
            expected = {trial.name: trial.expectation for trial in trials_of(one.study)}[one.trial]
            rows.append({"trial": one.trial, "label": one.label, "kind": one.kind, "expected": expected, **outcome})
    nothing = "No objective is stored; run `python -m siamese_utils study objectives`."
    table = _framed(rows, ["trial", "label", "kind", "expected"], nothing)
    return table.sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def missing_objectives() -> list[str]:
    """Labels of the objectives of which no run is stored."""
    return [one.label for one in OBJECTIVES if not _outcome(one.study, one.trial)]


def objective_table() -> pd.DataFrame:
    """``objective_results`` for display, with what was expected of each before its first run.

    Raises:
        ResultsError: none is stored.
    """
    rows = []
    for row in objective_results().itertuples():
        ended = row.runs - row.collapsed
        rows.append(
            {
                "objective": row.label,
                "5-way 1-shot": f"{row.mean:.1f} ± {row.ci95:.1f}" if ended else "collapsed",
                "lowest to highest seed": f"{row.low:.1f} to {row.high:.1f}" if ended > 1 else "–",
                "pair AUC": f"{row.auc:.1f}" if ended else "–",
                "seeds": f"{row.runs}" + (f", {row.collapsed} collapsed" if row.collapsed else ""),
                "expected beforehand": row.expected,
            }
        )
    return pd.DataFrame(rows)


def sensitivity_results() -> pd.DataFrame:
    """Triplets alone at other learning rates and margins, with the usual setting of each curve among them.

    Columns: ``mining`` (``SEMI_HARD`` or ``BATCH_HARD``), ``parameter`` (``"rate"``, as a multiple of the recipe's
    rates, or ``"margin"``), ``value``, and the numbers of ``objective_results``; sorted by these.

    Raises:
        ResultsError: none of the study is stored.
    """
    rows = []
    for trial in trials_of("triplet_sensitivity"):
        if not (outcome := _outcome("triplet_sensitivity", trial.name)):
            continue
        if trial.name.startswith("margin-"):
            rows.append(
                {"mining": SEMI_HARD, "parameter": "margin", "value": trial.config.terms[0].margin, **outcome}
            )
        else:
            mining, _, factor = trial.name.partition("-rate-x")
            rows.append({"mining": mining, "parameter": "rate", "value": float(factor), **outcome})
    for mining, parameter in {(str(row["mining"]), str(row["parameter"])) for row in rows}:
        if usual := _outcome(*_USUAL[mining]):
            value = 1.0 if parameter == "rate" else MARGIN
            rows.append({"mining": mining, "parameter": parameter, "value": value, **usual})
    nothing = "No sensitivity run is stored; run `python -m siamese_utils study triplet_sensitivity`."
    table = _framed(rows, ["mining", "parameter", "value"], nothing)
    return table.sort_values(["parameter", "mining", "value"], ascending=[False, False, True], ignore_index=True)


def objective_sentence() -> str:
    """What the objectives come to, by kind; Markdown.

    Raises:
        ResultsError: none is stored.
    """
    table = objective_results()
    ended = table[table["mean"].notna()]
    best = ended.groupby("kind", sort=False).first()
    told = "; ".join(
        f"{kind}: **{row.label}** with {row['mean']:.1f} ± {row.ci95:.1f}" for kind, row in best.iterrows()
    )
    sentence = f"The best of each kind, in percent: {told}."
    if len(collapsed := table[table.collapsed > 0]):
        named = ", ".join(f"{row.label} ({row.collapsed} of {row.runs})" for row in collapsed.itertuples())
        sentence += f" Runs that collapsed: {named}."
    if missing := missing_objectives():
        sentence += f" Not stored yet: {', '.join(missing)}."
    return sentence


def sensitivity_sentence() -> str:
    """How far accuracy moves with the rate and with the margin; Markdown.

    Raises:
        ResultsError: none is stored.
    """
    table = sensitivity_results()
    told = []
    for (parameter, mining), rows in table.groupby(["parameter", "mining"], sort=False):
        ended = rows[rows["mean"].notna()]
        parts = []
        if len(ended):
            first, last = ended["mean"].idxmin(), ended["mean"].idxmax()
            times = " times the recipe's" if parameter == "rate" else ""
            parts.append(
                f"from {ended['mean'][first]:.1f} (at {ended.value[first]:g}{times}) to "
                f"**{ended['mean'][last]:.1f}** (at {ended.value[last]:g}{times})"
            )
        if lost := int(rows.collapsed.sum()):
            parts.append(f"{lost} of {int(rows.runs.sum())} runs collapsed")
        told.append(f"{mining.capitalize()} triplets over the {parameter}s tried: {', '.join(parts)}.")
    return f"Five-way one-shot accuracy in percent. {' '.join(told)}"
