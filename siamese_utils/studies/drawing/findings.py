"""What the drawing study found: its tables and sentences, beside published numbers.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.evaluation.calibration import Verdict, fit_verdict
from siamese_utils.evaluation.estimates import wilson
from siamese_utils.evaluation.pairs import sample_similarities
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell
from siamese_utils.experiments.store import result
from siamese_utils.experiments.study import Run, select
from siamese_utils.studies.drawing.judging import RunAnswers
from siamese_utils.studies.drawing.study import DRAWING, DRAWING_TRIALS, TRIAL_IMAGES

NAMES = {
    "mnist": "this network, MNIST alone",
    "omniglot": "this network, 8 alphabets",
    "both": "this network, 8 alphabets + MNIST",
}


@dataclass(frozen=True)
class Published:
    """A published accuracy on the official runs, in percent.

    Attributes:
        name: of the model, or people.
        accuracy: percent of 400 trials.
        alphabets: learned from; 0 for people.
    """

    name: str
    accuracy: float
    alphabets: int


# B. Lake, R. Salakhutdinov, J. Tenenbaum, "The Omniglot challenge: a 3-year progress report", 2019, table 1; Koch et
# al. 2015 for the Siamese network. Thirty alphabets are the whole background set, five one of its two small parts.
PUBLISHED: tuple[Published, ...] = (
    Published("people", 95.5, 0),
    Published("Bayesian program learning", 96.7, 30),
    Published("Siamese network (Koch)", 92.0, 30),
    Published("simple convolutional network", 76.8, 5),
    Published("prototypical network", 69.9, 5),
)


# --------------------------------------------------------------------------------------- digits learned, and not


def mnist_table() -> Table:
    """Every metric on digits of the encoder that learned all ten."""
    table = DRAWING.table()
    rows = table[(table.train_on == "mnist") & table.metric.str.endswith("_digits")]
    shown = {
        "metric": rows.metric,
        "percent": [cell(row.value, row.ci95, 2) for row in rows.itertuples()],
        "meaning": [DRAWING.metrics[metric] for metric in rows.metric],
    }
    return Table(
        pd.DataFrame(shown), "MNIST, all ten digits learned: percent with 95% intervals, from results/drawing.csv"
    )


def mnist_sentence() -> str:
    """How long all ten digits took, and how many pairs of them are called right."""
    accuracy = result(DRAWING.table(), train_on="mnist", metric="pair_acc_digits")
    record = DRAWING.read_record(_run("mnist"))
    threads = record["provenance"]["threads"]
    return (
        f"Training took **{record['seconds'] / 60:.1f} minutes** on {threads} thread{'s' * (threads > 1)} of an "
        f"{record['provenance']['processor']}; the network has {record['parameters']:,} weights. Of balanced test "
        f"pairs, **{accuracy.value:.2f} ± {accuracy.ci95:.2f}%** are called right; the aim was 99%."
    )


def _run(train_on: str) -> Run:
    return select(DRAWING, [train_on])[0]


def digit_splits() -> pd.DataFrame:
    """The stored rows of divisions of the digits, with the column ``learned``, how many were."""
    table = DRAWING.table()
    splits = table[table.train_on.str.contains("-")]
    return splits.assign(learned=splits.train_on.str.split("-").str[0].astype(int))


def unseen_sentence() -> str:
    """What more digits learned do for those never seen, and how far draws of the digits lie apart."""
    splits = digit_splits()
    rows = splits[splits.metric == "pair_auc_unseen_digits"]
    by_learned = rows.groupby("learned").value.agg(["mean", "min", "max"])
    first, last = by_learned.index[0], by_learned.index[-1]
    return (
        f"With {first} digits learned, the AUC on unseen digits is **{by_learned['mean'][first]:.1f}** on average; "
        f"with {last} it is **{by_learned['mean'][last]:.1f}**. The widest range between draws is "
        f"**{(by_learned['max'] - by_learned['min']).max():.1f}** points."
    )


def _fives() -> pd.DataFrame:
    splits = digit_splits()
    return splits[(splits.train_on == "5-5") & (splits.metric == "acc_5w1s_unseen_digits")].sort_values("draw")


def five_digits() -> Table:
    """Which five digits were learned in each draw, and how well the other five are named."""
    fives = _fives()
    records = {run.key["draw"]: DRAWING.read_record(run) for run in select(DRAWING, ["5-5"], fives.draw)}
    learned = ["".join(map(str, records[draw]["learned"])) for draw in fives.draw]
    shown = {
        "draw": fives.draw,
        "learned": learned,
        "never seen": ["".join(digit for digit in "0123456789" if digit not in some) for some in learned],
        "5-way 1-shot (%)": [cell(row.value, row.ci95) for row in fives.itertuples()],
    }
    return Table(pd.DataFrame(shown), "Five digits learned, the other five named from one example each (chance 20)")


# --------------------------------------------------------------------------------------------------- characters


def validation_sentence() -> str:
    """Which alphabets are held out for choices, and how well their letters are told apart."""
    score = result(DRAWING.table(), train_on="validation", metric="acc_20w1s_validation")
    held_out = DRAWING.read_record(_run("validation"))["held_out"]
    return (
        f"Held out for choices: **{' and '.join(held_out)}**. An encoder that learned the other six and MNIST names "
        f"**{score.value:.1f} ± {score.ci95:.1f}%** of their letters right among twenty."
    )


def trials_table() -> Table:
    """The trials that are stored: what was expected and what came out."""
    scores = _trial_scores()
    rows = [
        {
            "trial": run.key["trial"],
            "expectation": run.expectation,
            "result": cell(*scores.loc[run.key["trial"], ["value", "ci95"]]),
        }
        for run in DRAWING_TRIALS.runs()
        if run.key["trial"] in scores.index
    ]
    return Table(
        pd.DataFrame(rows), f"One change each, {TRIAL_IMAGES:,} images shown: percent on the alphabets held out"
    )


def _trial_scores() -> pd.DataFrame:
    return DRAWING_TRIALS.table().query("metric == 'acc_20w1s_validation'").set_index("trial")


def trials_sentence() -> str:
    """What each part of the training on letters is worth, once all trials are stored."""
    found = _trial_scores().value
    if missing := {str(run.key["trial"]) for run in DRAWING_TRIALS.runs()} - set(found.index):
        return f"Not stored yet: {', '.join(sorted(missing))}."
    lost = found["base"] - found
    return (
        f"Letters learned upright only cost **{lost['upright']:.1f}** points, letters not bent "
        f"**{lost['unbent']:.1f}**, large batches **{lost['large-batches']:.1f}**. MNIST beside the letters changes "
        f"the accuracy on these alphabets by **{-lost['mnist-too']:+.1f}**; the demo learns it all the same, since it "
        "is to know digits. The intervals cover the choice of tasks, not another training run."
    )


def official_accuracy() -> pd.DataFrame:
    """One row a source that is stored, by its name: percent of the official runs' trials.

    Returns:
        the columns ``name``, ``value``, ``low`` and ``high`` (95%, over trials), and ``by_run`` (half an interval).
    """
    table = DRAWING.table()
    rows = []
    for source in [source for source in NAMES if source in set(table.train_on)]:
        row = result(table, train_on=source, metric="acc_20w1s_runs")
        low, high = wilson(round(row.value * row.n / 100), int(row.n))
        by_run = result(table, train_on=source, metric="acc_20w1s_by_run").ci95
        rows.append((source, NAMES[source], row.value, low, high, by_run))
    return pd.DataFrame(rows, columns=["source", "name", "value", "low", "high", "by_run"]).set_index("source")


def official_runs() -> list[Table | str]:
    """Accuracy on the official runs with both intervals, and what each source adds."""
    found = official_accuracy()
    shown = {
        "learned from": found.name,
        "accuracy (%)": [f"{value:.1f}" for value in found.value],
        "95%, over trials": [f"{row.low:.1f} to {row.high:.1f}" for row in found.itertuples()],
        "95%, over runs": [f"± {half:.1f}" for half in found.by_run],
    }
    table = Table(pd.DataFrame(shown), "The 20 official runs, 400 trials")
    if not set(NAMES) <= set(found.index):
        return [table]
    value, fives = found.value, _fives().value
    overlap = found.low.loc[["both", "omniglot"]].max() < found.high.loc[["both", "omniglot"]].min()
    letters = result(DRAWING.table(), train_on="omniglot", metric="acc_5w1s_unseen_digits")
    return [
        table,
        f"MNIST beside the alphabets changes the accuracy by **{value['both'] - value['omniglot']:+.1f}** points "
        f"({'the intervals overlap' if overlap else 'the intervals are apart'}), the alphabets beside MNIST by "
        f"**{value['both'] - value['mnist']:+.1f}**.",
        f"The encoder of the eight alphabets has never seen a digit. It names one of five *digits* from one example "
        f"each **{letters.value:.1f} ± {letters.ci95:.1f}%** of the time; those that learned five digits to name the "
        f"other five: {fives.min():.1f} to {fives.max():.1f}%.",
    ]


# --------------------------------------------------------------------------------------- the demo's encoder, live


def is_as_stored(answers: RunAnswers) -> bool:
    """Whether the demo's encoder answers as many queries right as was stored; rounding may decide a tie or two."""
    stored = result(DRAWING.table(), train_on="both", metric="acc_20w1s_runs").value
    return abs(stored - answers.metrics["acc_20w1s_runs"].value) < 0.51


def recomputed_sentence(answers: RunAnswers) -> str:
    """How many queries of the official runs the demo's encoder names right."""
    return (
        f"Recomputed here, the demo's encoder names **{int(answers.hits.sum())} of {answers.hits.numel()}** queries "
        "right."
    )


def similarities_of_digits(encoder: Encoder, digits: ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities of pairs of test digits: of the same digit, and of two; float32 (10,000,) each."""
    positions = digits.indices_of(range(digits.num_classes))[:: max(1, len(digits) // 2_000)]
    z, labels = encoder.embed(digits.images[positions]), digits.labels[positions]
    return sample_similarities(z, labels, named_rng(0, "similarities to show"), 20_000)


def threshold_sentence(same: torch.Tensor, different: torch.Tensor, verdict: Verdict) -> str:
    """How many pairs of digits the demo's threshold calls right, and the threshold that would be best for them."""

    def right(threshold: float) -> torch.Tensor:
        return 50 * ((same > threshold).float().mean() + (different <= threshold).float().mean())

    best = fit_verdict(same, different).threshold
    return (
        f"At the demo's threshold of {verdict.threshold:.2f}, **{right(verdict.threshold):.1f}%** of these pairs are "
        f"called right; at {best:.2f}, the best for these very pairs, it would be {right(best):.1f}%."
    )
