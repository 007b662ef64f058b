"""Studies beside the split sweep: named lists of trials, each judged on validation classes and stored as it ends.

Every trial learns the 64 training classes of CIFAR-FS, or some of them, and is judged on its 16 validation classes,
never on a test class. What a study shows can therefore be used to choose a recipe.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from siamese_utils import results
from siamese_utils.augment import AugmentConfig
from siamese_utils.backbones import count_macs
from siamese_utils.data import ImageSet
from siamese_utils.encoders import Encoder, count_parameters
from siamese_utils.errors import ResultsError, SplitError, TrainingError, unknown
from siamese_utils.evaluation import Estimate, few_shot_accuracy, pair_auc
from siamese_utils.losses import Term
from siamese_utils.sampling import named_rng
from siamese_utils.splits import fewshot_split_cifar_fs
from siamese_utils.training import TrainConfig, train

STUDY_COLUMNS = ("trial", "seed", "metric", "value", "ci95", "n")
_JUDGED_IMAGES = 300  # of each validation class


@dataclass(frozen=True)
class Trial:
    """One training run of a study.

    Attributes:
        name: short and unique within the study.
        config: what to train; its ``recipe`` and ``seed`` are set by the study.
        expectation: what was expected before the run, in a sentence.
        seeds: every seed that is run.
        classes: how many of the 64 training classes are learned, the same ones in every trial; 0 for all.
    """

    name: str
    config: TrainConfig
    expectation: str = ""
    seeds: tuple[int, ...] = (0,)
    classes: int = 0


def study_path(study: str) -> Path:
    """Table of a study, ``results/<study>.csv``."""
    return results.results_dir() / f"{study}.csv"


def record_path(study: str, trial: str, seed: int) -> Path:
    """Configuration, history and provenance of one run of a study."""
    return results.results_dir() / "studies" / study / f"{trial}-seed{seed}.json"


def read_study(study: str) -> pd.DataFrame:
    """The stored rows of a study.

    Raises:
        ResultsError: the table is missing or damaged.
    """
    return results.read_table(study_path(study), STUDY_COLUMNS)


def read_record(study: str, trial: str, seed: int = 0) -> dict:
    """What ``run_study`` wrote beside a run's rows.

    Raises:
        ResultsError: it is missing or damaged.
    """
    return results.read_record(record_path(study, trial, seed))


def study_log(study: str) -> pd.DataFrame:
    """One row a stored run: what was changed, what was expected, and what came out.

    Columns: trial, change (against the study's first trial), expected, 5-way 1-shot and 5-way 5-shot (percent, with
    95% intervals over episodes), images (thousands), minutes, images/s.

    Raises:
        ResultsError: nothing is stored.
        UnknownNameError: no such study.
    """
    trials = trials_of(study)
    table = read_study(study)
    rows = []
    for trial in trials:
        for seed in trial.seeds:
            run = table[(table.trial == trial.name) & (table.seed == seed)].set_index("metric")
            if run.empty:
                continue
            row = {"trial": trial.name, "change": _describe_trial(trial, trials[0])}
            row["expected"] = trial.expectation
            if "failed" in run.index:
                rows.append({**row, "5-way 1-shot": "failed"})
                continue
            value, half = run.value, run.ci95
            rows.append(
                {
                    **row,
                    "5-way 1-shot": f"{value.acc_5w1s:.1f} ± {half.acc_5w1s:.1f}",
                    "5-way 5-shot": f"{value.acc_5w5s:.1f} ± {half.acc_5w5s:.1f}",
                    "images, thousands": round(value.images / 1000),
                    "minutes": round(value.seconds / 60, 1),
                    "images/s": round(value.images_per_second),
                }
            )
    return pd.DataFrame(rows)


def _describe_trial(trial: Trial, base: Trial) -> str:
    change = describe_change(trial.config, base.config)
    if trial.classes == base.classes:
        return change
    return f"{trial.classes or 'all'} classes" + ("" if change == "–" else f"; {change}")


def describe_change(config: TrainConfig, base: TrainConfig) -> str:
    """The fields in which a configuration differs from another, as ``field = value``, or a dash."""
    changes = []
    for field in dataclasses.fields(TrainConfig):
        new, old = getattr(config, field.name), getattr(base, field.name)
        if new == old or field.name == "recipe":
            continue
        if field.name == "terms":
            changes.append(" + ".join(_describe_term(term) for term in new))
        elif field.name == "augment":
            parts = dataclasses.asdict(new).items()
            changes += [f"{key} = {value}" for key, value in parts if value != getattr(old, key)]
        elif field.name == "resolutions":
            changes.append("sides " + ", ".join(f"{side} from {begin:.0%}" for begin, side in new))
        else:
            changes.append(f"{field.name} = {new}")
    return "; ".join(changes).replace("_", " ") or "–"


def _describe_term(term: Term) -> str:
    default = Term(term.objective)
    parts = dataclasses.asdict(term).items()
    settings = [f"{key} {value}" for key, value in parts if value != getattr(default, key)]
    return f"{term.objective} ({', '.join(settings)})" if settings else term.objective


def learned_classes(trial: Trial, classes: Sequence[int]) -> tuple[int, ...]:
    """The classes that a trial learns out of those it may learn: with fewer classes always the same few.

    Raises:
        SplitError: there are not so many.
    """
    if trial.classes > len(classes):
        raise SplitError(f"The trial {trial.name!r} learns {trial.classes} classes, but there are only {len(classes)}.")
    if not trial.classes:
        return tuple(classes)
    chosen = named_rng(0, "classes of a study").permutation(len(classes))[: trial.classes]
    return tuple(sorted(classes[number] for number in chosen))


def judge(encoder: Encoder, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Estimate]:
    """Few-shot accuracies and pair AUC on classes that the encoder has not learned.

    Args:
        encoder: trained on other classes.
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
    """
    z = encoder.embed(images)
    return {
        "acc_5w1s": few_shot_accuracy(z, labels, named_rng(0, "acc_5w1s"), ways=5, shots=1),
        "acc_5w5s": few_shot_accuracy(z, labels, named_rng(0, "acc_5w5s"), ways=5, shots=5),
        "pair_auc": pair_auc(z, labels, named_rng(0, "pair_auc")),
    }


def run_study(
    study: str,
    trials: Iterable[Trial],
    train_set: ImageSet,
    *,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Run every trial that is not stored yet and store each as it ends; started again, it goes on.

    Besides the metrics of ``judge`` each run has rows for ``parameters``, ``macs`` (multiplications of one forward
    pass), ``images`` (shown in training), ``seconds`` (of training) and ``images_per_second``. A run that collapses
    or diverges is stored too, with the single metric ``failed``.

    Args:
        study: names the table.
        trials: what to run, in order.
        train_set: CIFAR-100's training images.
        device: see ``train``.
        progress: show a progress bar.

    Returns:
        the table as stored.

    Raises:
        ResultsError: a stored run of the same name was made with another configuration.
    """
    classes = fewshot_split_cifar_fs(train_set.class_names)
    positions = torch.cat([train_set.indices_of([label])[:_JUDGED_IMAGES] for label in classes.val])
    images, labels = train_set.images[positions], train_set.labels[positions]
    for trial in trials:
        for seed in trial.seeds:
            config = dataclasses.replace(trial.config, recipe=f"{study}/{trial.name}", seed=seed)
            learned = learned_classes(trial, classes.train)
            if _is_stored(study, trial, seed, config, len(learned)):
                continue
            run_dir = results.project_root() / "runs" / study / f"{trial.name}-seed{seed}"
            computed_with = results.provenance(device)
            record: dict[str, object] = {
                "expectation": trial.expectation, "config": config.to_json(), "classes": len(learned)
            }  # fmt: skip
            try:
                result = train(
                    config, train_set, learned, validation=classes.val, run_dir=run_dir, device=device,
                    progress=progress,
                )  # fmt: skip
            except TrainingError as error:
                metrics: Mapping[str, Estimate] = {"failed": exact(1)}
                record["error"] = str(error)
            else:
                history = result.history
                images_shown = float((history.images_per_second * history.seconds).sum())
                metrics = {
                    **judge(result.encoder, images, labels),
                    "parameters": exact(count_parameters(result.encoder)),
                    "macs": exact(count_macs(result.encoder.body, train_set.images.shape[1])),
                    "images": exact(round(images_shown)),
                    "seconds": exact(result.seconds),
                    "images_per_second": exact(images_shown / result.seconds),
                }
                record["history"] = history.to_dict(orient="records")
            record["provenance"] = computed_with
            path = record_path(study, trial.name, seed)
            results.write_record(path, record)
            results.store_run(
                {"trial": trial.name, "seed": seed}, metrics, "", table=study_path(study), columns=STUDY_COLUMNS
            )
            shutil.rmtree(run_dir, ignore_errors=True)
    return read_study(study)


def exact(value: float) -> Estimate:
    """A number that is no sample, such as a count or a time, in the form in which tables take it."""
    return Estimate(float(value), 0.0, 1)


def _is_stored(study: str, trial: Trial, seed: int, config: TrainConfig, learned: int) -> bool:
    """Whether the run is in the table; it must then be the same run."""
    if not study_path(study).exists():
        return False
    table = read_study(study)
    if not ((table.trial == trial.name) & (table.seed == seed)).any():
        return False
    record = read_record(study, trial.name, seed)
    if TrainConfig.from_json(record["config"]) != config or record.get("classes", learned) != learned:
        raise ResultsError(
            f"The stored run {trial.name!r} of study {study!r} (seed {seed}) had another configuration; give the new "
            "trial another name, or delete the stored rows and record."
        )
    return True


# --------------------------------------------------------------------------------- the studies themselves

_PROXY_AND_TRIPLETS = (Term("proxy"), Term("triplet", weight=0.5, mining="batch_all", temperature=0.1))
# Two passes over the training classes: a few minutes a trial on two cores.
_SHORT = TrainConfig(
    recipe="", terms=_PROXY_AND_TRIPLETS, epochs=2, optimizer="muon", resolutions=((0.0, 24), (0.6, 32))
)


# Shown 130,000 images, which is what the recipe gives a split of few classes.
_FEW = dataclasses.replace(
    _SHORT, epochs=1, least_images=130_000, muon_rate=0.05, resolutions=((0.0, 16), (0.3, 24), (0.75, 32))
)
_CROPS = AugmentConfig(smallest_crop=0.4)


def _but(base: TrainConfig = _SHORT, **changes: object) -> TrainConfig:
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


STUDIES: dict[str, tuple[Trial, ...]] = {
    # One change each to the first trial.
    "recipe_search": (
        Trial("muon", _SHORT, "The starting point of the comparisons below."),
        Trial("adamw", _but(optimizer="adamw"), "A few points less: orthogonalised updates learn faster on CIFAR-10."),
        Trial("muon-rate-0.05", _but(muon_rate=0.05), "About the same; Muon is said to forgive its rate."),
        Trial("batch-128", _but(batch_size=128), "Better in so short a run, with twice the updates."),
        Trial("start-at-16px", _but(resolutions=((0.0, 16), (0.3, 24), (0.75, 32)), epochs=3),
              "Half as many images again in about the same time, so better for the time spent."),
        Trial("crops", _but(augment=AugmentConfig(smallest_crop=0.4)),
              "Worse after two epochs, as any harder augmentation is in a short run; may turn in a long one."),
        Trial("cutout", _but(augment=AugmentConfig(cutout=8)), "Slightly worse, for the same reason."),
        Trial("average", _but(average_decay=0.98), "Slightly better: the average smooths the last steps."),
        Trial("proxy-only", _but(terms=(Term("proxy"),)), "One or two points less than with triplets beside it."),
        Trial("triplet-only", _but(terms=(Term("triplet", mining="batch_all", temperature=0.1),)),
              "Several points less: it sees the classes of a batch only, a proxy all of them."),
        Trial("supcon", _but(terms=(Term("supcon"),)), "Between the triplets alone and the proxies."),
        # Longer, since what helps a short run need not help a long one.
        Trial("long", _but(epochs=5), "Several points more than two epochs."),
        Trial("long-head", _but(epochs=5, head_width=512),
              "Better: the head takes up what only the training classes need, the features below it stay general."),
        Trial("long-crops", _but(epochs=5, augment=AugmentConfig(smallest_crop=0.4)),
              "Nearer to the plain long run than after two epochs."),
        Trial("long-no-smoothing", _but(epochs=5, terms=(Term("proxy", smoothing=0.0), _PROXY_AND_TRIPLETS[1])),
              "Slightly better: smoothing draws classes together into points, which transfers worse."),
    ),
    # What helps where there are few classes to learn from, and whether it hurts where there are many.
    "few_classes": (
        Trial("ten", _FEW, "Fits its ten classes in the first third of the training and then gains nothing.",
              classes=10),
        Trial("ten-turned", _but(_FEW, turned_classes=True),
              "A few points more: forty classes to tell apart instead of ten.", classes=10),
        Trial("ten-turned-crops", _but(_FEW, turned_classes=True, augment=_CROPS),
              "Better still: ten classes are learned by heart, and crops are harder to learn by heart.", classes=10),
        Trial("ten-turned-twice", _but(_FEW, turned_classes=True, least_images=260_000),
              "A point more, now that the task is not used up so soon.", classes=10),
        Trial("all", _but(_FEW, least_images=153_600), "As the trial `long` of the recipe's search, in less time."),
        Trial("all-turned", _but(_FEW, least_images=153_600, turned_classes=True),
              "Slightly worse: with 64 classes so short a training has no room for the harder task."),
        Trial("twenty", _but(_FEW, least_images=125_000), "As many passes over twenty classes.", classes=20),
        Trial("twenty-turned", _but(_FEW, least_images=125_000, turned_classes=True),
              "One or two points more: with ten classes it is more, with thirty it is nothing.", classes=20),
        Trial("thirty", _but(_FEW, least_images=187_000), "Thirteen passes over thirty classes, as in the recipe.",
              classes=30),
        Trial("thirty-turned", _but(_FEW, least_images=187_000, turned_classes=True),
              "Level with the plain training: between ten classes, where turning helps, and 64, where it hurts.",
              classes=30),
    ),
}  # fmt: skip


def trials_of(study: str) -> tuple[Trial, ...]:
    """The trials of a study.

    Raises:
        UnknownNameError: no such study.
    """
    if study not in STUDIES:
        raise unknown("study", study, STUDIES)
    return STUDIES[study]