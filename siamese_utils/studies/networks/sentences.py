"""What the comparison of encoders says, in sentences made from the stored results; none is written by hand.

Each function gives Markdown, and raises ``ResultsError`` while what it speaks of is not stored.
"""

from __future__ import annotations

import math

import pandas as pd

from siamese_utils.errors import ResultsError
from siamese_utils.studies import validation as studies
from siamese_utils.studies.networks.findings import (
    COMPARISONS,
    encoder_table,
    over_seeds,
    ranking,
    rates,
    seen_notes,
    side_by_side,
)
from siamese_utils.studies.networks.speed import stored_speeds


def budget_sentence() -> str:
    """What equal time and equal images mean here.

    Raises:
        ResultsError: no speeds are stored.
    """
    speeds, rate = stored_speeds(), rates()
    trials = studies.trials_of("encoders_equal_images")
    images = {name: studies.IMAGES_IN_TIME[name] for name in (trial.config.encoder for trial in trials)}
    minutes = {name: studies.EQUAL_IMAGES / rate[name] / 60 for name in images if name in rate}
    most, fewest = max(images, key=images.__getitem__), min(images, key=images.__getitem__)
    slowest, fastest = max(minutes, key=minutes.__getitem__), min(minutes, key=minutes.__getitem__)
    side = ", ".join(f"{side} pixels from {begin:.0%}" for begin, side in trials[0].config.resolutions)
    return (
        f"**Equal time** is {studies.EQUAL_MINUTES:g} minutes of one core, as images fixed beforehand: "
        f"{images[most]:,} for {most}, {images[fewest]:,} for {fewest}. **Equal images** is {studies.EQUAL_IMAGES:,} "
        f"for each, which takes {fastest} {minutes[fastest]:.1f} minutes and {slowest} {minutes[slowest]:.0f}. Speeds "
        f"are the median of {speeds.rounds.iloc[0]} rounds on one thread of {speeds.processor.iloc[0]}. In both, "
        f"images grow during the training: {side} of it on."
    )


def cost_sentence() -> str:
    """How far the number of multiplications explains the speed.

    Raises:
        ResultsError: no speeds are stored.
    """
    rate = rates()
    table = encoder_table().set_index("encoder").assign(rate=rate).dropna(subset=["rate"])
    product = table.macs * table.rate
    usual = product[table.kind != "EfficientNet"]
    speed = table.rate[usual.index]
    told = (
        f"The fastest network learns {speed.max() / speed.min():.0f} times as many images a second as the slowest, and "
        f"multiplications explain most of it: multiplications times speed differ by a factor of "
        f"{usual.max() / usual.min():.1f}, from {usual.idxmin()} to {usual.idxmax()}."
    )
    other = product[table.kind == "EfficientNet"]
    if len(other):
        told += (
            f" The exception is {other.index[0]}, {usual.median() / other.iloc[0]:.0f} times below the median: it "
            "works on enlarged images throughout, and its convolutions of single channels wait for memory."
        )
    return told


def ranking_sentence(study: str) -> str:
    """Who comes first, whether that is more than chance, and what the order goes with.

    Raises:
        ResultsError: fewer than three encoders are stored.
    """
    found = ranking(study)
    table = over_seeds(study).set_index("trial")
    best = table.loc[found.best]
    ahead = f"{found.lead:.1f} points before {found.second}" if round(found.lead, 1) else f"level with {found.second}"
    told = (
        f"**{COMPARISONS[study].capitalize()}.** Of {found.encoders} encoders **{found.best}** comes first with "
        f"{best['mean']:.1f} ± {best.ci95:.1f} percent, {ahead}. "
    )
    if math.isnan(found.spread):
        told += "One seed is stored, so how far the seeds of an encoder lie apart is not known. "
    else:
        verdict = "no wider than that" if found.lead <= found.spread else "wider"
        told += (
            f"The lowest and the highest seed of an encoder lie {found.spread:.1f} points apart (the median over "
            f"encoders); the lead is {verdict}. "
        )
    ties = {"speed": found.by_speed, "parameters": found.by_parameters, "multiplications": found.by_macs}
    known = [f"{value:+.2f} with {what}" for what, value in ties.items() if not math.isnan(value)]
    return told + f"Rank correlation of accuracy: {', '.join(known)}."


def gain_sentence() -> str:
    """Whom equal time helps against equal images, and whom it costs.

    Raises:
        ResultsError: the comparisons are not both stored.
    """
    table = side_by_side().set_index("encoder")
    up, down = table.gain.idxmax(), table.gain.idxmin()
    agreement = float(table.time.rank().corr(table.images.rank()))

    def one(name: str) -> str:
        return f"{name} ({table.gain[name]:+.1f} points, {studies.IMAGES_IN_TIME[name]:,} images instead of {base})"

    base = f"{studies.EQUAL_IMAGES:,}"
    order = "" if math.isnan(agreement) else f" The two orders agree with a rank correlation of {agreement:+.2f}."
    return f"From equal images to equal time {one(up)} gains most, and {one(down)} gains least or loses most.{order}"


def started_sentence() -> str:
    """What published weights bring at equal time, and why that is no one-shot result.

    Raises:
        ResultsError: no start from published weights is stored.
    """
    table = over_seeds("encoders_equal_time")
    fresh = table[table.pretrained == ""].set_index("encoder")["mean"]
    told = []
    for row in table[table.pretrained != ""].itertuples():
        beside = f", {row.mean - fresh[row.encoder]:+.1f} against random weights" if row.encoder in fresh.index else ""
        told.append(f"{row.trial} reaches {row.mean:.1f} percent with {row.images:,.0f} images{beside}")
    if not told:
        raise ResultsError("No start from published weights is stored yet.")
    return f"{'; '.join(told)}. " + " ".join(seen_notes())


def size_sentence() -> str:
    """What the size of the embedding changes.

    Raises:
        ResultsError: no size is stored.
    """
    table = over_seeds("embedding_size").set_index("trial")
    sizes = table.drop(index="features", errors="ignore")
    if sizes.empty:
        raise ResultsError("No size of an embedding is stored yet.")
    first, best, last = sizes.iloc[0], sizes.loc[sizes["mean"].idxmax()], sizes.iloc[-1]
    told = (
        f"From {first.name} to {last.name} dimensions accuracy goes from {first['mean']:.1f} to {last['mean']:.1f} "
        f"percent; {best.name} dimensions are best with {best['mean']:.1f} ± {best.ci95:.1f}."
    )
    if "features" in table.index:
        plain = table.loc["features"]
        told += (
            f" The features without a projection reach {plain['mean']:.1f} ± {plain.ci95:.1f}, "
            f"{plain['mean'] - best['mean']:+.1f} points against that."
        )
    return told


def distance_sentence() -> str:
    """What the distance of the training is worth, and what that of the judgement.

    Raises:
        ResultsError: nothing is stored.
    """
    metrics = ("acc_5w1s", "acc_5w1s_plain_cosine", "acc_5w1s_plain_euclidean")
    table = pd.DataFrame({metric: over_seeds("distances", metric).set_index("trial")["mean"] for metric in metrics})
    told = []
    for cosine, euclidean, loss in (
        ("cosine", "euclidean", "a soft margin"), ("cosine-margin", "euclidean-margin", "a margin")
    ):  # fmt: skip
        if {cosine, euclidean} <= set(table.index):
            gain = table.acc_5w1s[cosine] - table.acc_5w1s[euclidean]
            told.append(f"{round(gain, 1) or 0.0:+.1f} points with {loss}")  # no minus before a zero
    worth = f"**In training**, the cosine is worth {' and '.join(told)} against the Euclidean distance. "
    start = worth if told else ""
    cost = table.acc_5w1s_plain_cosine - table.acc_5w1s_plain_euclidean
    polish = table.acc_5w1s - table.acc_5w1s_plain_cosine
    return start + (
        f"**In judging** the same features, the cosine is worth between {cost.min():+.1f} ({cost.idxmin()}) and "
        f"{cost.max():+.1f} ({cost.idxmax()}) points; centring and averaging with the mirror image bring between "
        f"{polish.min():+.1f} and {polish.max():+.1f} more."
    )
