"""The stored comparison of encoders as tables and numbers: equal time, equal images, embedding size, distances.

The runs are the studies ``COMPARISONS`` of ``studies.validation``, judged on CIFAR-FS's validation classes. What is
not stored yet is left out and named by ``progress_table``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import pandas as pd
import torch

from siamese_utils.encoders.backbones import count_macs
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.encoders.pretrained import PRETRAINED
from siamese_utils.errors import MissingPackageError, ResultsError
from siamese_utils.studies import validation as studies
from siamese_utils.studies.networks.speed import speed_path, stored_speeds, training_rate

COMPARISONS: dict[str, str] = {
    "encoders_equal_time": "equal time",
    "encoders_equal_images": "equal images",
    "embedding_size": "embedding size",
    "distances": "distances",
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


def stored_runs(study: str) -> pd.DataFrame:
    """One row a finished run: ``trial``, ``seed``, ``encoder``, ``pretrained``, and each metric with its ``ci95_…``.

    A run that failed is not among them.

    Raises:
        ResultsError: no run is stored, or the table is damaged.
    """
    table = studies.read_study(study)
    configs = {trial.name: trial.config for trial in studies.trials_of(study)}
    values = table.pivot(index=["trial", "seed"], columns="metric", values="value")
    halves = table.pivot(index=["trial", "seed"], columns="metric", values="ci95").add_prefix("ci95_")
    runs = values.join(halves)
    if "acc_5w1s" not in runs:
        raise ResultsError(f"The study {study!r} has no finished run; run `python -m siamese_utils study {study}`.")
    runs = runs[runs.acc_5w1s.notna()].reset_index()
    runs = runs[runs.trial.isin(configs)]
    return runs.assign(
        encoder=[configs[trial].encoder for trial in runs.trial],
        pretrained=[configs[trial].pretrained for trial in runs.trial],
    )


def progress_table() -> pd.DataFrame:
    """One row a study: how many of its runs are stored, and which are not.

    Columns: ``study``, ``runs``, ``stored``, ``failed``, ``missing`` (by seed).
    """
    rows = []
    for study, name in COMPARISONS.items():
        planned = [(trial.name, seed) for trial in studies.trials_of(study) for seed in trial.seeds]
        stored: set[tuple[str, int]] = set()
        failed: set[tuple[str, int]] = set()
        if studies.study_path(study).exists():
            table = studies.read_study(study)
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
    return pd.DataFrame(rows)


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


def over_seeds(study: str, metric: str = "acc_5w1s") -> pd.DataFrame:
    """A metric over the seeds that are stored: one row a trial, in the study's order.

    Columns: ``trial``, ``encoder``, ``pretrained``, ``seeds`` (how many), ``mean``, ``low`` and ``high`` (smallest and
    largest seed), ``ci95`` (half width within a run, the mean over seeds), ``images`` (shown in training).

    Raises:
        ResultsError: no run is stored, or none has this metric.
    """
    runs = stored_runs(study)
    runs = runs[runs[metric].notna()] if metric in runs else runs[:0]
    if runs.empty:
        raise ResultsError(f"No run of the study {study!r} has the metric {metric!r}.")
    grouped = runs.groupby("trial", sort=False)
    table = grouped[metric].agg(seeds="count", mean="mean", low="min", high="max")
    for column in ("encoder", "pretrained", "images"):
        table[column] = grouped[column].first()
    table["ci95"] = grouped[f"ci95_{metric}"].mean()
    order = [trial.name for trial in studies.trials_of(study) if trial.name in table.index]
    columns = ["trial", "encoder", "pretrained", "seeds", "mean", "low", "high", "ci95", "images"]
    return table.loc[order].reset_index()[columns]


def rates() -> pd.Series:
    """Images a second that each encoder learns from on one core, over a whole training; by encoder.

    Raises:
        ResultsError: no speeds are stored, or not at every side of the training.
    """
    speeds = stored_speeds()
    resolutions = studies.trials_of("encoders_equal_time")[0].config.resolutions
    names = speeds.encoder.unique()
    return pd.Series({name: training_rate(speeds, name, resolutions) for name in names}, name="images_per_second")


def encoder_table() -> pd.DataFrame:
    """One row an encoder of the comparison: its size and its speed.

    Columns: ``encoder``, ``kind``, ``features``, ``parameters`` and ``macs`` (millions), ``images_per_second``. The
    ``macs`` are the multiplications of one forward pass at 32 x 32 pixels; speeds are NaN while they are not stored.
    An encoder whose package is not installed is left out.
    """
    speeds = rates() if speed_path().exists() else pd.Series(dtype=float)
    rows = []
    for name in studies.IMAGES_IN_TIME:
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


@cache
def _size(name: str) -> tuple[int, int, int]:
    """Features, parameters and multiplications of an encoder."""
    with torch.device("meta"):  # no weights are drawn
        encoder = Encoder(name)
    return encoder.embedding_dim, count_parameters(encoder.body), count_macs(encoder.body)


def result_table(study: str) -> pd.DataFrame:
    """What was expected of each trial and what came out, for display: one row a trial.

    Columns: trial, expected, images (thousands), 5-way 1-shot (mean over seeds ± 95% interval within a run), lowest to
    highest seed, pair AUC (likewise), seeds.

    Raises:
        ResultsError: no run is stored.
    """
    accuracy = over_seeds(study)
    auc = over_seeds(study, "pair_auc").set_index("trial")
    expected = {trial.name: trial.expectation for trial in studies.trials_of(study)}
    rows = []
    for row in accuracy.itertuples():
        area = auc.loc[row.trial]
        rows.append(
            {
                "trial": row.trial,
                "expected": expected[row.trial],
                "images (k)": row.images / 1000,
                "5-way 1-shot": f"{row.mean:.1f} ± {row.ci95:.1f}",
                "lowest to highest seed": f"{row.low:.1f} to {row.high:.1f}" if row.seeds > 1 else "–",
                "pair AUC": f"{area['mean']:.1f} ± {area.ci95:.1f}",
                "seeds": row.seeds,
            }
        )
    return pd.DataFrame(rows)


def seen_notes() -> list[str]:
    """One sentence for each kind of start from published weights: why it is no one-shot result."""
    used = [trial.config.pretrained for trial in studies.trials_of("encoders_equal_time")]
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


def ranking(study: str) -> Ranking:
    """Order the encoders of a comparison, and say what the order goes with.

    Raises:
        ResultsError: fewer than three encoders are stored.
    """
    table = over_seeds(study)
    table = table[table.pretrained == ""].sort_values("mean", ascending=False, kind="stable")
    if len(table) < 3:
        raise ResultsError(f"Fewer than three encoders of the study {study!r} are stored: no order to speak of yet.")
    sizes = encoder_table().set_index("encoder").loc[table.encoder]
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

    Raises:
        ResultsError: one of the comparisons is not stored, or they share no encoder.
    """
    time, images = over_seeds("encoders_equal_time"), over_seeds("encoders_equal_images")
    both = time[time.pretrained == ""].merge(images, on="encoder", suffixes=("_time", "_images"))
    if both.empty:
        raise ResultsError("The two comparisons share no stored encoder yet.")
    table = both.rename(columns={"mean_time": "time", "mean_images": "images"})[["encoder", "time", "images"]]
    return table.assign(gain=table.time - table.images)


def whole_table() -> pd.DataFrame:
    """The one table of the report: every trial of both comparisons, for display.

    A start from published weights is no one-shot result, which a column says. Trials and columns that are not stored
    yet show a dash.
    """
    rows = []
    stored = {}
    for study in ("encoders_equal_time", "encoders_equal_images"):
        for metric in ("acc_5w1s", "pair_auc"):
            try:
                stored[study, metric] = over_seeds(study, metric).set_index("trial")
            except ResultsError:
                stored[study, metric] = pd.DataFrame()

    def cell(study: str, metric: str, trial: str) -> str:
        table = stored[study, metric]
        return f"{table['mean'][trial]:.1f} ± {table.ci95[trial]:.1f}" if trial in table.index else "–"

    for trial in studies.trials_of("encoders_equal_time"):
        rows.append(
            {
                "encoder": trial.name,
                "one-shot": "no" if trial.config.pretrained else "yes",
                "time: 1-shot": cell("encoders_equal_time", "acc_5w1s", trial.name),
                "images: 1-shot": cell("encoders_equal_images", "acc_5w1s", trial.name),
                "time: AUC": cell("encoders_equal_time", "pair_auc", trial.name),
                "images: AUC": cell("encoders_equal_images", "pair_auc", trial.name),
            }
        )
    return pd.DataFrame(rows)


def stored_seeds(study: str) -> int:
    """How many seeds a study has of the trials of which it has most; 0 while nothing is stored."""
    try:
        return int(over_seeds(study).seeds.max())
    except ResultsError:
        return 0


def table_caption(study: str) -> str:
    """What a table of a study shows, in a line."""
    seeds = stored_seeds(study)
    return (
        f"{COMPARISONS[study].capitalize()}: percent on CIFAR-FS's validation classes, "
        f"{f'means over up to {seeds} seeds' if seeds > 1 else 'one seed'}, 95% intervals within a run"
    )

