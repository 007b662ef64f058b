"""The stored comparison of objectives, and the sensitivity of triplet training: tables, and sentences made from them.

The runs are the studies ``objectives``, ``triplet_sensitivity`` and three trials of ``distances``, all with one
encoder, the same images and the same number of steps, judged on CIFAR-FS's validation classes. Runs that collapsed
count: they are stored as failed, and tables and sentences say how many there are.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import ResultsError
from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, over_seeds
from siamese_utils.experiments.study import Study
from siamese_utils.studies.networks.study import DISTANCES
from siamese_utils.studies.objectives.study import OBJECTIVES, TRIPLET_SENSITIVITY
from siamese_utils.studies.objectives.systems import systems_table
from siamese_utils.studies.reference import seed_reference
from siamese_utils.studies.splits.findings import swept
from siamese_utils.studies.validation import trial_runs
from siamese_utils.training.config import TrainConfig

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

    study: Study
    trial: str
    label: str
    kind: str


COMPARED: tuple[Compared, ...] = (
    Compared(DISTANCES, "recipe", "proxies + triplets (the recipe)", PROXIES),
    Compared(OBJECTIVES, "proxy", "proxies", PROXIES),
    Compared(OBJECTIVES, "proxy-and-supcon", "proxies + contrast in the batch", PROXIES),
    Compared(OBJECTIVES, "proxy-then-triplets", "proxies, then triplets", PROXIES),
    Compared(DISTANCES, "cosine", "all triplets, soft margin", TRIPLETS),
    Compared(DISTANCES, "cosine-margin", "semi-hard triplets", TRIPLETS),
    Compared(OBJECTIVES, "batch-hard", "batch-hard triplets", TRIPLETS),
    Compared(OBJECTIVES, "batch-hard-soft", "batch-hard triplets, soft margin", TRIPLETS),
    Compared(OBJECTIVES, "batch-hard-euclidean", "batch-hard triplets, Euclidean", TRIPLETS),
    Compared(OBJECTIVES, "random", "random triplets", TRIPLETS),
    Compared(OBJECTIVES, "random-euclidean", "random triplets, Euclidean", TRIPLETS),
    Compared(OBJECTIVES, "supcon", "contrast in the batch", PAIRS),
    Compared(OBJECTIVES, "contrastive", "contrastive pairs", PAIRS),
    Compared(OBJECTIVES, "contrastive-euclidean", "contrastive pairs, Euclidean", PAIRS),
    Compared(OBJECTIVES, "pair-bce", "pairs with a head (same or different)", PAIRS),
)
SEMI_HARD, BATCH_HARD = "semi-hard", "batch-hard"
_USUAL = {SEMI_HARD: (DISTANCES, "cosine-margin"), BATCH_HARD: (OBJECTIVES, "batch-hard")}
MARGIN = 0.2  # of the usual run


def _outcome(study: Study, trial: str) -> dict[str, object] | None:
    """A trial over its stored seeds, or ``None`` if there is none: see ``objective_results`` for the keys."""
    table = study.table() if store.has_table(study.path) else pd.DataFrame(columns=study.all_columns)
    table = table[table.trial == trial]
    if table.empty:
        return None
    row: dict[str, object] = {"runs": table.seed.nunique(), "collapsed": int((table.metric == "failed").sum())}
    ended = over_seeds(table, "acc_5w1s", ["trial"])
    if len(ended):
        row |= ended.loc[0, ["mean", "low", "high", "ci95"]].to_dict()
        row["auc"] = over_seeds(table, "pair_auc", ["trial"])["mean"][0]
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
    """
    rows = []
    for one in COMPARED:
        if outcome := _outcome(one.study, one.trial):
            expected = trial_runs(one.study)[one.trial].expectation
            rows.append({"trial": one.trial, "label": one.label, "kind": one.kind, "expected": expected, **outcome})
    nothing = "No objective is stored; run `python -m siamese_utils study objectives`."
    table = _framed(rows, ["trial", "label", "kind", "expected"], nothing)
    return table.sort_values("mean", ascending=False, kind="stable", ignore_index=True)


def missing_objectives() -> list[str]:
    """Labels of the objectives of which no run is stored."""
    return [one.label for one in COMPARED if not _outcome(one.study, one.trial)]


def objective_table() -> Table:
    """``objective_results`` for display, with what was expected of each before its first run."""
    rows = []
    for row in objective_results().itertuples():
        rows.append(
            {
                "objective": row.label,
                "5-way 1-shot": cell(row.mean, row.ci95) if row.runs > row.collapsed else "collapsed",
                "seeds": f"{row.runs}" + (f", {row.collapsed} collapsed" if row.collapsed else ""),
                "expected beforehand": row.expected,
            }
        )
    caption = "Percent on CIFAR-FS's validation classes; the interval is one run's, over its episodes"
    return Table(pd.DataFrame(rows), caption)


def sensitivity_results() -> pd.DataFrame:
    """Triplets alone at other learning rates and margins, with the usual setting of each curve among them.

    Columns: ``mining`` (``SEMI_HARD`` or ``BATCH_HARD``), ``parameter`` (``"rate"``, as a multiple of the recipe's
    rates, or ``"margin"``), ``value``, and the numbers of ``objective_results``; sorted by these.
    """
    rows = []
    for name, run in trial_runs(TRIPLET_SENSITIVITY).items():
        if not (outcome := _outcome(TRIPLET_SENSITIVITY, name)):
            continue
        if name.startswith("margin-"):
            rows.append({"mining": SEMI_HARD, "parameter": "margin", "value": run.config.terms[0].margin, **outcome})
        else:
            mining, _, factor = name.partition("-rate-x")
            rows.append({"mining": mining, "parameter": "rate", "value": float(factor), **outcome})
    for mining, parameter in {(str(row["mining"]), str(row["parameter"])) for row in rows}:
        if usual := _outcome(*_USUAL[mining]):
            value = 1.0 if parameter == "rate" else MARGIN
            rows.append({"mining": mining, "parameter": parameter, "value": value, **usual})
    nothing = "No sensitivity run is stored; run `python -m siamese_utils study triplet_sensitivity`."
    table = _framed(rows, ["mining", "parameter", "value"], nothing)
    return table.sort_values(["parameter", "mining", "value"], ascending=[False, False, True], ignore_index=True)


def objective_sentence() -> str:
    """What the objectives come to, by kind; Markdown."""
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
    """How far accuracy moves with the rate and with the margin; Markdown."""
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


def systems_shown() -> Table:
    """What is trained by triplets to the end, beside the recipe and the seed project's weights."""
    names = {
        "acc_5w1s": "5-way 1-shot",
        "acc_5w5s": "5-way 5-shot",
        "acc_allway_1s": "10-way 1-shot",
        "pair_auc_unseen": "pair AUC",
        "triplet_acc_unseen": "triplets right",
    }
    caption = "CIFAR-100, split 90-10, draw 0: percent on unseen test classes with 95% intervals, one training each"
    return Table(systems_table().rename(columns=names), caption)


# -------------------------------------------------------------------------------- the whole training of the report


def recipe_table(config: TrainConfig, encoder: Encoder) -> Table:
    """The recipe of a training, a row a choice."""
    terms = " + ".join(
        f"{term.weight:g} × {term.objective}"
        + (f" ({term.distance}, {term.mining}, T = {term.temperature})" if term.objective == "triplet" else "")
        for term in config.terms
    )
    sides = " → ".join(f"{side}×{side} px from {begin:.0%}" for begin, side in config.resolutions) or "full size"
    kernels = f"Muon for the kernels, peak rate {config.muon_rate}; AdamW for the rest"
    size = f"{count_parameters(encoder):,} parameters, {encoder.embedding_dim}-d embedding"
    rows = {
        "recipe": config.recipe,
        "objective": terms,
        "encoder": f"{config.encoder}, {size}",
        "batches": f"{config.batch_size} images, {config.images_per_class} a class",
        "epochs": str(config.epochs),
        "image size while training": sides,
        "optimiser": f"{kernels if config.optimizer == 'muon' else config.optimizer}, peak rate {config.learning_rate}",
        "schedule": f"warm-up {config.warmup:.0%}, then a cosine; weight decay {config.weight_decay}",
        "augmentation": f"shift ±{config.augment.translate} px, mirror",
        "held out for the threshold": f"{config.held_out_images} training images a class",
    }
    return Table(pd.DataFrame({"what": rows.keys(), "value": rows.values()}), "The recipe")


def reached_sentence() -> str:
    """What the stored training on 90 classes reaches, beside the seed project's weights; Markdown."""
    ours = store.result(swept(), split="90-10", draw=0, seed=0, metric="acc_5w1s")
    seed = store.result(seed_reference(), split="90-10", metric="acc_5w1s")
    run = store.load_json("cifar100-90-10-draw0")
    where = run["provenance"]
    return (
        f"On CIFAR-100, 5-way 1-shot accuracy on unseen classes is **{ours.value:.1f} ± {ours.ci95:.1f}**, against "
        f"{seed.value:.1f} ± {seed.ci95:.1f} for the seed's weights: {ours.value - seed.value:.1f} points more, after "
        f"{run['seconds'] / 60:.0f} minutes of training on {where['threads']} cores ({where['processor']}, "
        f"{where['precision']})."
    )
