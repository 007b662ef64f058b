"""What the search for the recipe found: what helped, and what did not. What is not stored yet raises ResultsError."""

from __future__ import annotations

import numpy as np
import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.study import Run, Study
from siamese_utils.studies.recipe.study import FEW_CLASSES, PRECISION, RECIPE_SEARCH
from siamese_utils.studies.validation import study_log, trial_runs


def search_table() -> Table:
    """Every trial of the search: what was changed, expected and found."""
    log = study_log(RECIPE_SEARCH, _short_trials()).drop(columns=["5-way 5-shot", "minutes", "images/s"])
    caption = "The search for the recipe: percent on CIFAR-FS's validation classes, 95% intervals over episodes"
    return Table(log, caption, 1)


def half_hour_table() -> Table:
    """Every trial of half an hour of one core that is stored: what was changed, expected and found, seed by seed."""
    values = _half_hour_values()
    log = study_log(RECIPE_SEARCH, _half_hours()).drop(columns=["images (k)", "minutes", "images/s"])
    log.insert(1, "seed", values.index.get_level_values("seed"))
    log["core-minutes"] = values.core_minutes.round().astype("Int64").to_numpy()
    caption = "The long trials: percent on CIFAR-FS's validation classes, 95% intervals over episodes"
    return Table(log, caption, 1)


_CHANGES = {
    "half-hour-rotation": "a rotation head",
    "half-hour-jitter": "colour jitter",
    "half-hour-rotation-jitter": "a rotation head and jitter",
    "half-hour-rotation-cutmix": "a rotation head and mixed images",
    "half-hour-rotation-manifold": "a rotation head and mixed features",
    "half-hour-rotation-jitter-48": "rotation head, jitter and half as much width again with half of the images",
    "half-hour-rotation-jitter-turning-steps": "rotation head, jitter and large steps that turn the kernels",
    "half-hour-rotation-jitter-airbench": "rotation head, jitter, such steps and the network quickest on CIFAR-10",
    "half-hour-taught": "rotation head, jitter and three teachers",
    "half-hour-average": "averaged weights",
    "half-hour-manifold": "mixed features",
    "half-hour-cutmix": "mixed images",
    "half-hour-crops": "crops",
    "half-hour-wide": "twice the width with a quarter of the images",
    "half-hour-turning-steps": "large steps that turn the kernels",
}


def half_hour_reading() -> str:
    """What half an hour of one core reaches, and what each change brought, as far as it is stored; Markdown."""
    values = _half_hour_values()
    plain = values[values.index.get_level_values("trial") == "half-hour"].droplevel("trial")
    if plain.empty:
        raise _no_half_hour()
    short = FEW_CLASSES.table()
    short = short[short.trial == "all"].pivot_table(index="seed", columns="metric", values="value")
    run = next(run for run in _half_hours() if run.key["trial"] == "half-hour" and run.key["seed"] in plain.index)
    known = 100 * RECIPE_SEARCH.read_record(run)["history"][-1]["proxy_accuracy"]
    told = (
        f"{plain.core_minutes.mean():.0f} minutes of one core with the recipe as it is, "
        f"{plain.images.mean() / 1e6:.2f} million images, reach {_both(plain)} percent at one and five shots "
        f"({_seeds(plain)}); the trial *all* below, shown {short.images.mean() / 1e6:.2f} million of the same images, "
        f"has {_both(short)}. In the end {known:.0f}% of the training images are assigned to their own class: they are "
        "known by heart by then."
    )
    gains = []
    for trial, said in _CHANGES.items():
        changed = values[values.index.get_level_values("trial") == trial].droplevel("trial")
        difference = (changed - plain).dropna(subset=["acc_5w1s", "acc_5w5s"])
        if len(difference):
            gains.append(f"{said} {_both(difference, '+')} ({_seeds(difference)})")
    if gains:
        told += f" Against the plain recipe from the same seeds: {', '.join(gains)}."
    return (
        f"{told} Of {len(_half_hours())} such trainings that were planned {len(values)} are stored. Seeds may differ "
        "by as much as most of these changes do among each other; the report's recipe is as it was."
    )


def _both(values: pd.DataFrame, sign: str = "") -> str:
    return f"{values.acc_5w1s.mean():{sign}.1f} / {values.acc_5w5s.mean():{sign}.1f}"


def _seeds(values: pd.DataFrame) -> str:
    return "one seed" if len(values) == 1 else f"mean of {len(values)} seeds"


def _half_hour_values() -> pd.DataFrame:
    """Values of the half-hour trials that are stored, by trial and seed and in the study's order."""
    table = RECIPE_SEARCH.table()
    stored = table.pivot_table(index=["trial", "seed"], columns="metric", values="value")
    keys = [key for run in _half_hours() if (key := (run.key["trial"], run.key["seed"])) in stored.index]
    if not keys:
        raise _no_half_hour()
    return stored.loc[keys]


def _no_half_hour() -> ResultsError:
    return ResultsError("None of the long trials is stored; run `python -m siamese_utils study recipe_search`.")


def _half_hours() -> list[Run]:
    return [run for run in RECIPE_SEARCH.runs() if run.key["trial"].startswith("half-hour")]


def _short_trials() -> list[Run]:
    return [run for run in RECIPE_SEARCH.runs() if not run.key["trial"].startswith("half-hour")]


def few_classes_table() -> Table:
    """Every trial with few classes."""
    log = study_log(FEW_CLASSES).drop(columns=["5-way 5-shot", "images (k)", "minutes", "images/s"])
    return Table(log, "Few classes: percent on CIFAR-FS's validation classes, 95% intervals over episodes", 1)


def _values(study: Study, metric: str = "acc_5w1s") -> pd.Series:
    """A metric by trial; both studies have one seed."""
    table = study.table()
    return table[table.metric == metric].set_index("trial").value


def search_gains() -> pd.DataFrame:
    """What every trial of the search gains against the one that it was changed from, largest first.

    Columns: ``trial``, ``base`` (``long`` for what was changed in it, otherwise ``muon``), ``gain`` and ``ci95``
    (points of 5-way 1-shot accuracy; of two independent measurements).
    """
    table = RECIPE_SEARCH.table()
    stored = table[table.metric == "acc_5w1s"].set_index("trial")
    rows = []
    for run in _short_trials():
        trial = str(run.key["trial"])
        base = "long" if trial.startswith("long-") else "muon"
        if trial != base and {trial, base} <= set(stored.index):
            new, old = stored.loc[trial], stored.loc[base]
            rows.append((trial, base, new.value - old.value, float(np.hypot(new.ci95, old.ci95))))
    found = pd.DataFrame(rows, columns=["trial", "base", "gain", "ci95"])
    return found.sort_values("gain", ascending=False, kind="stable", ignore_index=True)


def search_reading() -> str:
    """What each change brought, as a list; Markdown."""
    acc, minutes = _values(RECIPE_SEARCH), _values(RECIPE_SEARCH, "seconds") / 60
    slow, fast = (trial_runs(RECIPE_SEARCH)[name].config.muon_rate for name in ("muon", "muon-rate-0.05"))
    return (
        f"- **The optimiser matters.** Muon instead of AdamW gained {acc['muon'] - acc['adamw']:.1f} points "
        f"for the same images, and a rate {fast / slow:g} times as high another "
        f"{acc['muon-rate-0.05'] - acc['muon']:.1f}.\n"
        "- **Small images first.** Starting at 16 × 16 pixels lets half as many images again be seen in "
        f"{minutes['start-at-16px']:.1f} instead of {minutes['muon']:.1f} minutes: "
        f"{acc['start-at-16px'] - acc['muon']:+.1f} points.\n"
        f"- **Triplets beside the proxies** changed nothing measurable in a short run ({acc['proxy-only']:.1f} "
        f"without, {acc['muon']:.1f} with them); they are kept because distances between pairs are what the report is "
        "about.\n"
        "- **A head between embedding and loss**, thrown away afterwards, was expected to help and cost "
        f"{acc['long'] - acc['long-head']:.1f} points at five epochs. In self-supervised learning such a head protects "
        "the features from a task that is not the one they are wanted for; here the two tasks are the same.\n"
        f"- **Longer is better, still.** Five epochs instead of two: {acc['long'] - acc['muon']:+.1f} points.\n"
        f"- **Objectives by themselves.** Triplets alone reach {acc['triplet-only']:.1f} and contrast in the batch "
        f"{acc['supcon']:.1f}, against {acc['proxy-only']:.1f} for proxies.\n"
        f"- **Harder images.** Crops cost {acc['muon'] - acc['crops']:.1f} points in two epochs and "
        f"{acc['long'] - acc['long-crops']:.1f} in five, a square cut out {acc['muon'] - acc['cutout']:.1f}: neither "
        "pays in trainings of minutes.\n"
        "- **Averaged weights**, expected to smooth the last steps, change the accuracy by "
        f"{acc['average'] - acc['muon']:+.1f} points: the rate has fallen to nothing by then.\n"
        f"- **Batches of half the size**, with twice the updates: {acc['batch-128'] - acc['muon']:+.1f} points. **No "
        f"smoothing** of the proxies' targets, over five epochs: {acc['long-no-smoothing'] - acc['long']:+.1f}."
    )


def turning_sentence() -> str:
    """What turned classes bring by the number of classes; Markdown."""
    acc = _values(FEW_CLASSES)
    words = {"ten": "ten classes", "twenty": "twenty", "thirty": "thirty", "all": "all 64"}
    gains = [
        f"{said} {acc[f'{name}-turned'] - acc[name]:+.1f}"
        for name, said in words.items()
        if {name, f"{name}-turned"} <= set(acc.index)
    ]
    return f"Points gained by turning: {', '.join(gains)}."


def precision_results() -> pd.DataFrame:
    """The study ``precision``, one row a seed that is stored in both precisions.

    Columns: ``seed``, ``float32`` and ``bfloat16`` (5-way 1-shot accuracy on validation classes, percent) and ``ci95``
    (of a run over its episodes, the larger of the two). Speeds are compared by ``benchmarks.training``, side by side.
    """
    table = PRECISION.table()
    value = table.pivot_table(index=["seed", "trial"], columns="metric", values="value")
    half = table[table.metric == "acc_5w1s"].groupby("seed").ci95.max()
    rows = []
    for seed, of_seed in value.groupby(level="seed"):
        runs = of_seed.droplevel("seed")
        if not {"float32", "bfloat16"} <= set(runs.index):
            continue
        accuracy = runs.acc_5w1s
        rows.append({"seed": seed, "float32": accuracy.float32, "bfloat16": accuracy.bfloat16, "ci95": half[seed]})
    if not rows:
        raise ResultsError("No training is stored in both precisions; run `python -m siamese_utils study precision`.")
    return pd.DataFrame(rows)


def precision_sentence() -> str:
    """Whether bfloat16 changes the result; Markdown."""
    table = precision_results()
    change = table.bfloat16 - table.float32
    pairs = ", ".join(f"{row.float32:.1f} and {row.bfloat16:.1f}" for row in table.itertuples())
    return (
        f"The same training with the same seed in float32 and in bfloat16 reaches {pairs} percent on validation "
        f"classes (± {table.ci95.max():.1f} over episodes): bfloat16 changes it by **{change.mean():+.1f}** points on "
        f"average, between {change.min():+.1f} and {change.max():+.1f}."
    )
