"""What the leak is worth, and how far the strong training gets, from whatever seeds are stored.

Missing runs raise ResultsError.
"""

from __future__ import annotations

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, over_seeds, seeds_told, signed
from siamese_utils.experiments.store import result
from siamese_utils.studies.cifar10.leak import CIFAR10_LEAK, CONFIG
from siamese_utils.studies.cifar10.strong import (
    CIFAR10_STRONG,
    CIFAR10_STRONG_TRIALS,
    FINAL,
    LONG,
    SHORT,
    TURNING,
    WAYS,
)

BESIDE = {
    "accuracy_same_image": "itself",
    "accuracy_any_image": "any other image",
    "accuracy_same_class": "another of its true class",
}
NETWORKS = {"plain": "one tower, answers averaged", "two-towers": "two towers"}
SLIDES_VGG_EPOCHS = 54
SLIDES_VGG = (84.92, 88.24)  # percent: plain, and Siamese with the leak
TRAININGS = {
    SHORT.epochs: f"{SHORT.epochs} passes",
    LONG.epochs: f"{LONG.epochs} passes, varied more",
    TURNING.epochs: f"{TURNING.epochs} passes, steps that turn",
    FINAL.epochs: f"{FINAL.epochs} passes, linear layer, large batches",
}
AIM, AIM_PAIRS, AIM_F1 = 94.0, 98.5, 93.0  # percent, set beforehand
AIM_CORE_MINUTES = 40.0
_SPREAD = f"sd over seeds, {FINAL.epochs} passes"


# ---------------------------------------------------------------------------------------------------- the leak


def leak() -> pd.DataFrame:
    """Mean accuracy over seeds, in percent: stored networks by what stands beside the image.

    Raises:
        ResultsError: the plain network is not stored.
    """
    table = CIFAR10_LEAK.table()
    found = {beside: over_seeds(table, beside, ["system"]).set_index("system")["mean"] for beside in BESIDE}
    frame = pd.DataFrame(found)
    if "plain" not in frame.index:
        raise ResultsError("The leak is not measured yet; run `python -m siamese_utils study cifar10_leak`.")
    return frame.loc[[name for name in NETWORKS if name in frame.index]]


def leak_table() -> Table:
    """Accuracy by network and by what stands beside the image."""
    table, means = CIFAR10_LEAK.table(), leak()
    shown: dict[str, list[str]] = {"network": [NETWORKS[name] for name in means.index]}
    for metric, title in BESIDE.items():
        rows = over_seeds(table, metric, ["system"]).set_index("system")
        shown[title] = [cell(rows["mean"][name], rows.ci95[name]) for name in means.index]
    return Table(
        pd.DataFrame(shown),
        f"A VGG-19 with batch normalisation, an eighth as wide, from scratch, after {CONFIG.judged[-1]:,} batches of "
        f"{CONFIG.batch} images ({_leak_seeds()}; the slides' learned for {SLIDES_VGG_EPOCHS} passes): percent of test "
        "images named right, by what is shown beside them (95% intervals over test images)",
    )


def _leak_seeds() -> str:
    count = CIFAR10_LEAK.table().seed.nunique()
    return seeds_told(count) if count == 1 else f"mean of {seeds_told(count)}"


def leak_sentences() -> list[str]:
    """What the leak is worth to the networks that are stored, and what is left of the lead without it."""
    means = leak()
    worth = means.accuracy_same_class - means.accuracy_same_image
    told = SLIDES_VGG[1] - SLIDES_VGG[0]
    sentences = [
        "One tower that is asked about a test image and another of the same true class, and averages its answers, "
        f"names **{worth['plain']:+.1f}** points more right than about the image alone. No second tower has earned "
        f"them: they come from the label that chose the image. The slides' lead of {told:.1f} points "
        f"({SLIDES_VGG[0]:.1f} to {SLIDES_VGG[1]:.1f}) was measured so, and cannot be compared."
    ]
    if "two-towers" in means.index:
        lead = means.accuracy_same_image["two-towers"] - means.accuracy_same_image["plain"]
        sentences.append(
            f"To two towers the leak is worth **{worth['two-towers']:+.1f}** points. Asked honestly, they "
            f"{'lead' if lead > 0 else 'trail'} one tower by {abs(lead):.1f} points here ({_leak_seeds()}), which is "
            "within what seeds differ by elsewhere in this notebook."
        )
    return sentences


# ---------------------------------------------------------------------------------------------- the strong one


def strong_table() -> Table:
    """Every metric of each strong training that is stored, beside its aim; the final one's with its spread."""
    table = CIFAR10_STRONG.table()
    told = {passes: title for passes, title in TRAININGS.items() if passes in set(table.passes)}
    aims = {"accuracy": AIM, "core_minutes": AIM_CORE_MINUTES}
    aims |= {f"pair_accuracy_{way}": AIM_PAIRS for way in WAYS} | {f"pair_f1_{way}": AIM_F1 for way in WAYS}
    rows = []
    for metric, meaning in CIFAR10_STRONG.metrics.items():
        found = over_seeds(table, metric, ["passes"]).set_index("passes")
        shown = {"what": meaning}
        for passes, title in told.items():
            shown[title] = cell(found["mean"][passes], found.ci95[passes] or float("nan"), 2)
        spread = found.sd.get(FINAL.epochs, float("nan"))
        aim = aims.get(metric)
        limit = "" if aim is None else f"{'at most' if metric == 'core_minutes' else 'at least'} {aim:g}"
        rows.append(shown | {_SPREAD: "" if pd.isna(spread) else f"{spread:.2f}", "aim": limit})
    seeds = "; ".join(f"{title}: {_seeds(table, passes)}" for passes, title in told.items())
    caption = f"Percent, but for times; {seeds}; 95% intervals over test images"
    return Table(pd.DataFrame(rows), caption)


def _seeds(table: pd.DataFrame, passes: int) -> str:
    count = table[table.passes == passes].seed.nunique()
    planned = sum(run.key["passes"] == passes for run in CIFAR10_STRONG.runs())
    some = seeds_told(count)
    missing = f" of the {planned} planned" if count < planned else ""
    return f"mean of {some}{missing}" if planned > 1 else some


def strong_sentences() -> list[str]:
    """Whether each aim is met by the last training that is stored, by how much, and what blind answers score.

    Raises:
        ResultsError: neither the final one nor the one before it is stored.
    """
    table = CIFAR10_STRONG.table()
    passes = next((each.epochs for each in (FINAL, TURNING) if each.epochs in set(table.passes)), None)
    if passes is None:
        raise ResultsError("The final training is not stored; run `python -m siamese_utils study cifar10_strong`.")
    final = table[table.passes == passes]

    def mean(metric: str, some: pd.DataFrame = final) -> float:
        return float(over_seeds(some, metric, ["metric"])["mean"].iloc[0])

    accuracy, minutes = mean("accuracy"), mean("core_minutes")
    seeds = final[final.metric == "accuracy"]["value"]
    ends = f", {seeds.min():.2f} to {seeds.max():.2f}" if len(seeds) > 1 else ""
    way = "probabilities"  # the others are in the table
    pairs, f1 = mean(f"pair_accuracy_{way}"), mean(f"pair_f1_{way}")
    sentences = [
        f"The project's own training names **{accuracy:.2f}%** of CIFAR-10's test images right after "
        f"**{minutes:.0f} core-minutes** ({_seeds(table, passes)}{ends}); the aim, {AIM:.0f}% in at most "
        f"{AIM_CORE_MINUTES:.0f} ({AIM_CORE_MINUTES / 2:.0f} minutes of both cores, where there are two), is "
        f"{_met(accuracy >= AIM and minutes <= AIM_CORE_MINUTES)}.",
        f"Of pairs, a tenth of which are the same, it calls **{pairs:.2f}%** right with an F1 of **{f1:.1f}**, "
        f"{WAYS[way]}. The aims were {AIM_PAIRS:g} ({_met(pairs >= AIM_PAIRS)}) and {AIM_F1:g} "
        f'({_met(f1 >= AIM_F1)}). Always answering "different" is right in 90% of them, with an F1 of 0.',
    ]
    before = table[table.passes == LONG.epochs]
    if not before.empty:
        sentences.append(
            f"That is **{accuracy - mean('accuracy', before):+.2f}** points beside {LONG.epochs} passes with small "
            f"images first and the steps of the report's other trainings, in {minutes:.0f} core-minutes in place of "
            f"{mean('core_minutes', before):.0f}."
        )
    if passes != FINAL.epochs:
        sentences.append(f"The training that the last trials advise, of {FINAL.epochs} passes, is not stored yet.")
    return sentences


def _met(is_so: bool) -> str:
    return "met" if is_so else "missed"


def trials_table() -> Table:
    """The settings tried on held-out training images: what was expected, and what came out."""
    table = CIFAR10_STRONG_TRIALS.table()
    rows = []
    for run in CIFAR10_STRONG_TRIALS.runs():
        if run.key["trial"] in set(table.trial):
            score = result(table, **run.key, metric="acc_held_out")
            minutes = result(table, **run.key, metric="core_minutes").value
            shown = {"trial": run.key["trial"], "expectation": run.expectation}
            rows.append({**shown, "named right (%)": cell(score.value, score.ci95), "core-minutes": minutes})
    caption = "Short trainings with one change each, judged on 5,000 training images held out"
    return Table(pd.DataFrame(rows), caption, decimals=1)


_STEPS = (  # what is changed, the trial that has it, and the one that has not
    ("steps that turn the kernels", "turning-steps", "base"),
    ("images that vary less", "turning-varied-less", "turning-steps"),
    ("proxies without triplets", "turning-proxies-alone", "turning-varied-less"),
    ("whole images from the first step on", "turning-full-size", "turning-proxies-alone"),
    ("whole images from the first step on, and proxies without triplets", "turning-full-size", "turning-varied-less"),
    ("the published activation", "turning-full-size-gelu", "turning-full-size"),
    ("a larger rate for biases and proxies", "turning-full-size-quick-biases", "turning-full-size"),
    (
        "a linear layer in place of proxies, with smoother targets",
        "turning-full-size-linear",
        "turning-full-size-quick-biases",
    ),
    (
        "larger batches and steps with the linear layer",
        "turning-full-size-linear-large-batches",
        "turning-full-size-linear",
    ),
    ("larger steps", "turning-full-size-larger-steps", "turning-full-size"),
    ("targets that are smoother", "turning-full-size-larger-steps-smoother", "turning-full-size-larger-steps"),
    ("smaller steps", "turning-full-size-smaller-steps", "turning-full-size"),
)


def trials_sentence() -> str:
    """What each change is worth, in points and core-minutes beside the trial without it; Markdown.

    Raises:
        ResultsError: no trial is stored.
    """
    table = CIFAR10_STRONG_TRIALS.table()
    found = {
        metric: table[table.metric == metric].set_index("trial")["value"] for metric in CIFAR10_STRONG_TRIALS.metrics
    }
    hits, minutes = found["acc_held_out"], found["core_minutes"]
    told = [
        f"{what} {signed(hits[new] - hits[old])} points for {signed(minutes[new] - minutes[old])} core-minutes"
        for what, new, old in _STEPS
        if {new, old} <= set(hits.index)
    ]
    base, best = float(hits["base"]), hits.idxmax()
    passes = {str(run.key["trial"]): run.config.epochs for run in CIFAR10_STRONG_TRIALS.runs()}[best]
    return (
        f"In {passes} passes the best of them, *{best}*, names **{hits[best]:.1f}%** of the images held out right, "
        f"where the first names {base:.1f}%. Step by step: " + "; ".join(told) + "."
    )
