"""What encoders of drawings make of letters, from whatever seeds are stored. Missing runs raise ResultsError."""

from __future__ import annotations

import pandas as pd

from siamese_utils.data.emnist import ALIKE_IN_BOTH_CASES
from siamese_utils.errors import ResultsError
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, over_seeds
from siamese_utils.studies.drawing.letters import LEARNED_OF_EACH, LETTERS, TRAINED
from siamese_utils.system.text import listed

NAMES = {
    "mnist": "MNIST's ten digits",
    TRAINED: "MNIST and seven alphabets, no Latin letter",
    "omniglot": "eight alphabets, Latin among them",
    "both": "MNIST and eight alphabets, Latin among them",
}
AIMS = {"acc_5w1s": 85.0, "acc_20w1s": 64.0}  # percent, set beforehand for an encoder without a Latin letter
SLIDES_TOY = 93.65  # percent of held-out training images, of 26 letters, in the slides
TOYS = {
    "toy-62": "62 characters",
    "toy-26": "26 letters, capital and small in one class",
    "toy-official": "EMNIST's official letters",
}


def accuracies() -> pd.DataFrame:
    """One row an encoder that is stored and a metric: ``encoder``, ``metric``, and the columns of ``over_seeds``.

    Raises:
        ResultsError: no encoder was judged.
    """
    table = LETTERS.table()
    found = [
        over_seeds(table, metric, ["system"]).assign(metric=metric) for metric in LETTERS.metrics if metric != "acc"
    ]
    whole = pd.concat(found, ignore_index=True)
    whole = whole[whole.system.isin(list(NAMES))]
    if whole.empty:
        raise ResultsError("No encoder was judged on letters yet; run `python -m siamese_utils study letters`.")
    return whole


def of_metric(metric: str) -> pd.DataFrame:
    """Its rows of ``accuracies`` by encoder, in the order of ``NAMES``."""
    rows = accuracies().query("metric == @metric").set_index("system")
    return rows.loc[[name for name in NAMES if name in rows.index]]


def letters_table() -> Table:
    """Accuracy on the 52 letters, with and without those whose cases look alike."""
    columns = {
        "5-way": "acc_5w1s",
        "20-way": "acc_20w1s",
        "5-way, one case of 15": "acc_5w1s_one_case",
        "20-way, one case of 15": "acc_20w1s_one_case",
        "its case": "acc_2w1s_cases",
    }
    shown = {"learned from": [NAMES[name] for name in of_metric("acc_5w1s").index]}
    for title, metric in columns.items():
        rows = of_metric(metric)
        shown[title] = [cell(value, half) for value, half in zip(rows["mean"], rows.ci95, strict=True)]
    return Table(
        pd.DataFrame(shown),
        "EMNIST's letters named from one example each (percent, 95% intervals over episodes; chance 20, 5 and, for the "
        'case, 50); "one case of 15" leaves out the small letters that look like their capital',
    )


def letters_sentences() -> list[str]:
    """Whether the aim is met without a Latin letter, what alphabets add, and what case costs.

    Raises:
        ResultsError: that encoder is not stored.
    """
    five, twenty, one_case = of_metric("acc_5w1s"), of_metric("acc_20w1s"), of_metric("acc_20w1s_one_case")
    if TRAINED not in five.index:
        raise ResultsError("The encoder without Latin is not stored yet; run `python -m siamese_utils study letters`.")
    best = {"acc_5w1s": five["mean"][TRAINED], "acc_20w1s": twenty["mean"][TRAINED]}
    met = all(best[metric] >= aim for metric, aim in AIMS.items())
    count = int(five.seeds[TRAINED])
    seeds = "one training" if count == 1 else f"mean of {count} trainings"
    sentences = [
        f"Without a single Latin letter, an encoder names **{best['acc_5w1s']:.1f}%** right among five and "
        f"**{best['acc_20w1s']:.1f}%** among twenty ({seeds}); the aim, {AIMS['acc_5w1s']:.0f} and "
        f"{AIMS['acc_20w1s']:.0f}, is {'met' if met else 'missed'}."
    ]
    if {"mnist", "both"} <= set(five.index):
        scripts = best["acc_20w1s"] - twenty["mean"]["mnist"]
        latin = twenty["mean"]["both"] - best["acc_20w1s"]
        sentences.append(
            f"Among twenty, the seven alphabets of other scripts add **{scripts:+.1f}** points to MNIST's digits, and "
            f"the Latin one **{latin:+.1f}** to those. Greek is among the seven; it shares a few forms with Latin."
        )
    cost = one_case["mean"][TRAINED] - best["acc_20w1s"]
    case = of_metric("acc_2w1s_cases")["mean"][TRAINED]
    sentences.append(
        f"Capital and small {listed(ALIKE_IN_BOTH_CASES)} differ in size alone, which the canonical form takes away: "
        f"between the two, {case:.0f}% are named right, where guessing gives 50. Without the fifteen small ones the "
        f"accuracy among twenty is **{cost:+.1f}** points."
    )
    return sentences


def toy_table() -> Table:
    """The toy network on characters that it learned.

    Raises:
        ResultsError: no toy is stored.
    """
    table = LETTERS.table()
    found = over_seeds(table[table.system.isin(list(TOYS))], "acc", ["system"])
    if found.empty:
        raise ResultsError("The toy is not stored yet; run `python -m siamese_utils study letters`.")
    shown = {
        "learned": [TOYS[name] for name in found.system],
        "named right (%)": [cell(value, half) for value, half in zip(found["mean"], found.ci95, strict=True)],
        "trainings": found.seeds,
    }
    return Table(
        pd.DataFrame(shown),
        f"The toy network of the slides on images it did not learn: of the sample, {LEARNED_OF_EACH} images of each "
        f"character are learned. The slides tell {SLIDES_TOY:.2f}% of held-out training images, of far more images",
    )
