"""What the comparison of encoders found: equal time, equal images, embedding size, distances.

All is judged on CIFAR-FS's validation classes. What is not stored yet is left out and named by ``progress_table``.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import pandas as pd
import torch
from torch.nn import functional as F

from siamese_utils.encoders.backbones import count_macs
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.encoders.pretrained import PRETRAINED
from siamese_utils.errors import MissingPackageError, ResultsError
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.seeds import cell, over_seeds
from siamese_utils.experiments.store import has_table
from siamese_utils.experiments.study import Study
from siamese_utils.studies.networks.speed import speed_path, stored_speeds, training_rate
from siamese_utils.studies.networks.study import (
    DISTANCES,
    EMBEDDING_SIZE,
    ENCODERS_EQUAL_IMAGES,
    ENCODERS_EQUAL_TIME,
    EQUAL_IMAGES,
    EQUAL_MINUTES,
    IMAGES_IN_TIME,
)
from siamese_utils.studies.validation import trial_runs

COMPARISONS: dict[Study, str] = {
    ENCODERS_EQUAL_TIME: "equal time",
    ENCODERS_EQUAL_IMAGES: "equal images",
    EMBEDDING_SIZE: "embedding size",
    DISTANCES: "distances",
}
"""The studies, and what each is called in tables."""

FAMILIES: dict[str, str] = {
    "conv3": "three convolutions",
    "resnet9": "ResNet-9",
    "resnet20": "thin ResNet",
    "resnet32": "thin ResNet",
    "resnet44": "thin ResNet",
    "resnet56": "thin ResNet",
    "resnet12": "wide and slow",
    "resnet18": "wide and slow",
    "vgg19bn": "wide and slow",
    "efficientnet-lite0": "EfficientNet",
}
"""What kind of network an encoder is, by its name up to the first ``-`` (or whole)."""

SOURCES = {"cifar10": "CIFAR-10", "imagenet": "ImageNet"}
"""Where published weights were learned, by the first part of their name."""


def family(encoder: str) -> str:
    """The kind of network that an encoder of the comparison is."""
    return FAMILIES.get(encoder) or FAMILIES.get(encoder.split("-")[0], "other")


def progress_table() -> Table:
    """One row a study: how many of its runs are stored, which failed, and which are missing, by seed."""
    rows = []
    for study, name in COMPARISONS.items():
        planned = [(str(run.key["trial"]), int(run.key["seed"])) for run in study.runs()]
        table = study.table() if has_table(study.path) else pd.DataFrame(columns=study.all_columns)
        stored = {(row.trial, row.seed) for row in table.itertuples()}
        failed = {(row.trial, row.seed) for row in table[table.metric == "failed"].itertuples()}
        rows.append(
            {
                "study": name,
                "runs": len(planned),
                "stored": len(stored & set(planned)),
                "failed": ", ".join(f"{trial} (seed {seed})" for trial, seed in sorted(failed)) or "–",
                "missing": _missing([run for run in planned if run not in stored], len(planned)),
            }
        )
    return Table(pd.DataFrame(rows), "Runs planned and stored so far")


def _missing(runs: list[tuple[str, int]], planned: int) -> str:
    """The missing runs, seed by seed; whole seeds are not listed trial by trial."""
    if not runs:
        return "–"
    if len(runs) == planned:
        return "all"
    of_seed: dict[int, list[str]] = {}
    for trial, seed in runs:
        of_seed.setdefault(seed, []).append(trial)
    most = max(map(len, of_seed.values()))
    return "; ".join(
        f"seed {seed}: {f'{len(trials)} trials' if len(trials) == most > 4 else ', '.join(trials)}"
        for seed, trials in sorted(of_seed.items())
    )


def by_trial(study: Study, metric: str = "acc_5w1s") -> pd.DataFrame:
    """A metric over the seeds that are stored: one row a trial, in the study's order.

    Columns: ``trial``, those of ``over_seeds``, ``encoder``, ``pretrained``, ``images`` (shown in training). Runs that
    failed are not among them.
    """
    table, runs = study.table(), trial_runs(study)
    found = over_seeds(table, metric, ["trial"]).set_index("trial")
    found = found.loc[[name for name in runs if name in found.index]]
    if found.empty:
        raise ResultsError(
            f"The study {study.name!r} has no finished run with {metric!r}; run `python -m siamese_utils study "
            f"{study.name}`."
        )
    configs = [runs[name].config for name in found.index]
    return found.assign(
        encoder=[config.encoder for config in configs],
        pretrained=[config.pretrained for config in configs],
        images=over_seeds(table, "images", ["trial"]).set_index("trial")["mean"],
    ).reset_index()


def rates() -> pd.Series:
    """Images a second that each encoder learns from on one core, over a whole training; by encoder."""
    speeds = stored_speeds()
    resolutions = ENCODERS_EQUAL_TIME.runs()[0].config.resolutions
    names = speeds.encoder.unique()
    return pd.Series({name: training_rate(speeds, name, resolutions) for name in names}, name="images_per_second")


def encoder_sizes() -> pd.DataFrame:
    """One row an encoder of the comparison: its size and its speed.

    Columns: ``encoder``, ``kind``, ``features``, ``parameters`` and ``macs`` (millions), ``images_per_second``. The
    ``macs`` are the multiplications of one forward pass at 32 x 32 pixels; speeds are NaN while they are not stored.
    An encoder whose package is not installed is left out.
    """
    speeds = rates() if has_table(speed_path()) else pd.Series(dtype=float)
    rows = []
    for name in IMAGES_IN_TIME:
        try:
            features, parameters, macs = _size(name)
        except MissingPackageError:
            continue
        rows.append(
            {
                "encoder": name,
                "kind": family(name),
                "features": features,
                "parameters": parameters / 1e6,
                "macs": macs / 1e6,
                "images_per_second": speeds.get(name, float("nan")),
            }
        )
    return pd.DataFrame(rows)


def encoder_table() -> Table:
    """``encoder_sizes`` for display."""
    names = {"parameters": "parameters (M)", "macs": "MACs (M)", "images_per_second": "images/s"}
    caption = "Millions of parameters and of MACs (a forward pass at 32 × 32 pixels), and training speed of one core"
    return Table(encoder_sizes().rename(columns=names), caption)


@cache
def _size(name: str) -> tuple[int, int, int]:
    """Features, parameters and multiplications of an encoder."""
    with torch.device("meta"):  # no weights are drawn
        encoder = Encoder(name)
    return encoder.embedding_dim, count_parameters(encoder.body), count_macs(encoder.body)


def result_table(study: Study) -> Table:
    """What was expected of each trial and what came out: one row a trial.

    Accuracy and area are means over seeds ± the 95% interval within a run; images are thousands.
    """
    accuracy, auc = by_trial(study), by_trial(study, "pair_auc").set_index("trial")
    runs, rows = trial_runs(study), []
    for row in accuracy.itertuples():
        area = auc.loc[row.trial]
        rows.append(
            {
                "trial": row.trial,
                "expected": runs[row.trial].expectation,
                "images (k)": row.images / 1000,
                "5-way 1-shot": cell(row.mean, row.ci95),
                "lowest to highest seed": f"{row.low:.1f} to {row.high:.1f}" if row.seeds > 1 else "–",
                "pair AUC": cell(area["mean"], area.ci95),
                "seeds": row.seeds,
            }
        )
    seeds = int(accuracy.seeds.max())
    caption = (
        f"{COMPARISONS[study].capitalize()}: percent on CIFAR-FS's validation classes, "
        f"{f'means over up to {seeds} seeds' if seeds > 1 else 'one seed'}, 95% intervals within a run"
    )
    return Table(pd.DataFrame(rows), caption, 1)


def seen_notes() -> list[str]:
    """One sentence for each kind of start from published weights: why it is no one-shot result."""
    used = [run.config.pretrained for run in trial_runs(ENCODERS_EQUAL_TIME).values()]
    notes = [PRETRAINED[name].seen_classes_note for name in used if name]
    return list(dict.fromkeys(notes))


@dataclass(frozen=True)
class Ranking:
    """How the encoders that start from random weights come out in a comparison.

    Attributes:
        best: name of the first.
        second: name of the second.
        lead: points between them, means over seeds.
        spread: points from the lowest to the highest seed of an encoder, the median over encoders; NaN for one seed.
        by_speed: Spearman's rank correlation of accuracy and images a second; NaN while no speeds are stored.
        by_parameters: of accuracy and number of parameters.
        by_macs: of accuracy and multiplications.
        encoders: how many are compared.
    """

    best: str
    second: str
    lead: float
    spread: float
    by_speed: float
    by_parameters: float
    by_macs: float
    encoders: int

    @property
    def is_level(self) -> bool:
        """Whether the lead is no wider than the seeds of an encoder lie apart; not where one seed is stored."""
        return self.lead <= self.spread


def ranking(study: Study) -> Ranking:
    """Order the encoders of a comparison, and say what the order goes with."""
    table = by_trial(study)
    table = table[table.pretrained == ""].sort_values("mean", ascending=False, kind="stable")
    if len(table) < 3:
        raise ResultsError(
            f"Fewer than three encoders of the study {study.name!r} are stored: no order to speak of yet."
        )
    sizes = encoder_sizes().set_index("encoder").loc[table.encoder]
    values = table.set_index("encoder")["mean"]

    def agreement(column: str) -> float:
        return float(values.rank().corr(sizes[column].rank()))  # Spearman's: the correlation of the ranks

    several = table[table.seeds > 1]
    return Ranking(
        best=str(table.trial.iloc[0]),
        second=str(table.trial.iloc[1]),
        lead=float(table["mean"].iloc[0] - table["mean"].iloc[1]),
        spread=float((several.high - several.low).median()),
        by_speed=agreement("images_per_second"),
        by_parameters=agreement("parameters"),
        by_macs=agreement("macs"),
        encoders=len(table),
    )


def side_by_side() -> pd.DataFrame:
    """Encoders that start from random weights in both comparisons: ``encoder``, ``time``, ``images``, ``gain``.

    ``time`` and ``images`` are 5-way 1-shot accuracies, means over seeds; ``gain`` is how many points an encoder has
    more at equal time than at equal images.
    """
    time, images = by_trial(ENCODERS_EQUAL_TIME), by_trial(ENCODERS_EQUAL_IMAGES)
    both = time[time.pretrained == ""].merge(images, on="encoder", suffixes=("_time", "_images"))
    if both.empty:
        raise ResultsError("The two comparisons share no stored encoder yet.")
    table = both.rename(columns={"mean_time": "time", "mean_images": "images"})[["encoder", "time", "images"]]
    return table.assign(gain=table.time - table.images)


def whole_table() -> Table:
    """The one table of the report: every trial of both comparisons.

    A start from published weights is no one-shot result, which a column says. Trials and columns that are not stored
    yet show a dash.
    """
    both, shown = (
        {"time": ENCODERS_EQUAL_TIME, "images": ENCODERS_EQUAL_IMAGES},
        {"acc_5w1s": "1-shot", "pair_auc": "AUC"},
    )
    runs = trial_runs(ENCODERS_EQUAL_TIME)
    columns = {"encoder": list(runs), "one-shot": ["no" if run.config.pretrained else "yes" for run in runs.values()]}
    for metric, name in shown.items():
        for by, study in both.items():
            columns[f"{by}: {name}"] = _cells(study, metric, list(runs))
    caption = "At an equal time and from equal images: percent on validation classes, with 95% intervals within a run"
    return Table(pd.DataFrame(columns), caption)


def _cells(study: Study, metric: str, trials: list[str]) -> list[str]:
    try:
        table = by_trial(study, metric).set_index("trial")
    except ResultsError:
        return ["–"] * len(trials)
    return [cell(table["mean"][name], table.ci95[name]) if name in table.index else "–" for name in trials]


@torch.no_grad()
def neighbour_table(encoder: Encoder, images: torch.Tensor, labels: torch.Tensor) -> Table:
    """Whether cosine and Euclidean distance find the same nearest neighbour, and how often one of the right class.

    Args:
        encoder: whose embeddings and features are compared.
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
    """
    z = encoder.embed(images)
    rows = []
    for name, vectors in (("embeddings of unit length", z), ("features as they are", encoder.features(images))):
        cosine = F.normalize(vectors, dim=1) @ F.normalize(vectors, dim=1).T
        euclidean = -torch.cdist(vectors.double(), vectors.double())
        nearest = [similarity.fill_diagonal_(-torch.inf).argmax(dim=1) for similarity in (cosine, euclidean)]
        same = 100 * (nearest[0] == nearest[1]).double().mean().item()
        rows.append((name, same, *(100 * (labels[one] == labels).double().mean().item() for one in nearest)))
    columns = ["compared", "same nearest neighbour (%)", "neighbour of the right class, cosine (%)", "Euclidean (%)"]
    caption = f"Nearest neighbours among {len(z):,} images of unseen classes"
    return Table(pd.DataFrame(rows, columns=columns), caption, 1)


# ------------------------------------------------------------------------------------------- sentences


def budget_sentence() -> str:
    """What equal time and equal images mean here."""
    speeds, rate = stored_speeds(), rates()
    runs = trial_runs(ENCODERS_EQUAL_IMAGES)
    images = {name: IMAGES_IN_TIME[name] for name in runs}
    minutes = {name: EQUAL_IMAGES / rate[name] / 60 for name in images if name in rate}
    most, fewest = max(images, key=images.__getitem__), min(images, key=images.__getitem__)
    slowest, fastest = max(minutes, key=minutes.__getitem__), min(minutes, key=minutes.__getitem__)
    side = ", ".join(
        f"{side} pixels from {begin:.0%}" for begin, side in ENCODERS_EQUAL_IMAGES.runs()[0].config.resolutions
    )
    return (
        f"**Equal time** is {EQUAL_MINUTES:g} minutes of one core, as images fixed beforehand: "
        f"{images[most]:,} for {most}, {images[fewest]:,} for {fewest}. **Equal images** is {EQUAL_IMAGES:,} "
        f"for each, which takes {fastest} {minutes[fastest]:.1f} minutes and {slowest} {minutes[slowest]:.0f}. Speeds "
        f"are the median of {speeds.rounds.iloc[0]} rounds on one thread of {speeds.processor.iloc[0]}. In both, "
        f"images grow during the training: {side} of it on."
    )


def cost_sentence() -> str:
    """How far the number of multiplications explains the speed."""
    rate = rates()
    table = encoder_sizes().set_index("encoder").assign(rate=rate).dropna(subset=["rate"])
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


def ranking_sentence(study: Study) -> str:
    """Who comes first, whether that is more than chance, and what the order goes with."""
    found = ranking(study)
    table = by_trial(study).set_index("trial")
    best = table.loc[found.best]
    ahead = f"{found.lead:.1f} points before {found.second}" if round(found.lead, 1) else f"level with {found.second}"
    told = (
        f"**{COMPARISONS[study].capitalize()}.** Of {found.encoders} encoders **{found.best}** comes first with "
        f"{best['mean']:.1f} ± {best.ci95:.1f} percent, {ahead}. "
    )
    if math.isnan(found.spread):
        told += "One seed is stored, so how far the seeds of an encoder lie apart is not known. "
    else:
        verdict = "no wider than that" if found.is_level else "wider"
        told += (
            f"The lowest and the highest seed of an encoder lie {found.spread:.1f} points apart (the median over "
            f"encoders); the lead is {verdict}. "
        )
    ties = {"speed": found.by_speed, "parameters": found.by_parameters, "multiplications": found.by_macs}
    known = [f"{value:+.2f} with {what}" for what, value in ties.items() if not math.isnan(value)]
    return told + f"Rank correlation of accuracy: {', '.join(known)}."


def gain_sentence() -> str:
    """Whom equal time helps against equal images, and whom it costs."""
    table = side_by_side().set_index("encoder")
    up, down = table.gain.idxmax(), table.gain.idxmin()
    agreement = float(table.time.rank().corr(table.images.rank()))

    def one(name: str) -> str:
        return f"{name} ({table.gain[name]:+.1f} points, {IMAGES_IN_TIME[name]:,} images instead of {base})"

    base = f"{EQUAL_IMAGES:,}"
    order = "" if math.isnan(agreement) else f" The two orders agree with a rank correlation of {agreement:+.2f}."
    return f"From equal images to equal time {one(up)} gains most, and {one(down)} gains least or loses most.{order}"


def started_sentence() -> str:
    """What published weights bring at equal time, and why that is no one-shot result."""
    table = by_trial(ENCODERS_EQUAL_TIME)
    fresh = table[table.pretrained == ""].set_index("encoder")["mean"]
    told = []
    for row in table[table.pretrained != ""].itertuples():
        beside = f", {row.mean - fresh[row.encoder]:+.1f} against random weights" if row.encoder in fresh.index else ""
        told.append(f"{row.trial} reaches {row.mean:.1f} percent with {row.images:,.0f} images{beside}")
    if not told:
        raise ResultsError("No start from published weights is stored yet.")
    return f"{'; '.join(told)}. " + " ".join(seen_notes())


def size_sentence() -> str:
    """What the size of the embedding changes."""
    table = by_trial(EMBEDDING_SIZE).set_index("trial")
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
    """What the distance of the training is worth, and what that of the judgement."""
    metrics = ("acc_5w1s", "acc_5w1s_plain_cosine", "acc_5w1s_plain_euclidean")
    table = pd.DataFrame({metric: by_trial(DISTANCES, metric).set_index("trial")["mean"] for metric in metrics})
    told = []
    for cosine, euclidean, loss in (
        ("cosine", "euclidean", "a soft margin"),
        ("cosine-margin", "euclidean-margin", "a margin"),
    ):
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
