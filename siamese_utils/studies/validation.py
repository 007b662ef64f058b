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
from torch.nn import functional as F

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.encoders.backbones import count_macs
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import ConfigError, ResultsError, SplitError, TrainingError, unknown
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.evaluation.pairs import pair_auc
from siamese_utils.experiments import store as results
from siamese_utils.system import project, provenance
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import train
from siamese_utils.training.losses import Term, euclidean_distance
from siamese_utils.training.recipes import DEFAULT_RECIPE, recipe

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
        judged_by_epoch: judge after each epoch too, on a few images. Where a training is short and a network slow,
            this takes longer than it tells.
        plain_distances: judge the features as they are too, neither centred nor mirrored nor scaled, by cosine and by
            Euclidean distance.
    """

    name: str
    config: TrainConfig
    expectation: str = ""
    seeds: tuple[int, ...] = (0,)
    classes: int = 0
    judged_by_epoch: bool = True
    plain_distances: bool = False


def study_path(study: str) -> Path:
    """Table of a study, ``results/<study>.csv``."""
    return project.results_dir() / f"{study}.csv"


def record_path(study: str, trial: str, seed: int) -> Path:
    """Configuration, history and provenance of one run of a study."""
    return project.results_dir() / "studies" / study / f"{trial}-seed{seed}.json"


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
    95% intervals over episodes), images (k, thousands), minutes, images/s.

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
                    "images (k)": round(value.images / 1000),
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


def judge_distances(encoder: Encoder, images: torch.Tensor, labels: torch.Tensor) -> dict[str, Estimate]:
    """5-way 1-shot accuracy by cosine and by Euclidean distance between the features as the network gives them.

    ``embed`` scales to unit length, where the two distances put everything in the same order.

    Args:
        encoder: trained on other classes.
        images: uint8 (N, H, W, 3).
        labels: int64 (N,).
    """
    features = encoder.features(images)
    direction = F.normalize(features, dim=1)
    # With a single support a class only the order of the similarities counts, so one that falls with the distance and
    # is 1 at distance 0 makes the nearest neighbour by that distance the answer.
    falling = 1 / (1 + euclidean_distance(features))
    rng = "acc_5w1s"  # the episodes of ``judge``
    return {
        "acc_5w1s_plain_cosine": few_shot_accuracy(direction, labels, named_rng(0, rng), ways=5, shots=1),
        "acc_5w1s_plain_euclidean": few_shot_accuracy(
            direction, labels, named_rng(0, rng), ways=5, shots=1, gram=falling
        ),
    }


def run_study(
    study: str,
    trials: Iterable[Trial],
    train_set: ImageSet,
    *,
    device: str = "auto",
    progress: bool = True,
    seeds: Sequence[int] | None = None,
) -> pd.DataFrame:
    """Run every trial that is not stored yet and store each as it ends; started again, it goes on.

    Every trial is run with the first seed before any is run with the second, so that a study that is cut short has
    treated all alike. Besides the metrics of ``judge`` each run has rows for ``parameters``, ``macs`` (multiplications
    of one forward pass), ``images`` (shown in training), ``seconds`` (of training) and ``images_per_second``. A run
    that collapses or diverges is stored too, with the single metric ``failed``.

    Args:
        study: names the table.
        trials: what to run, in order.
        train_set: CIFAR-100's training images.
        device: see ``train``.
        progress: show a progress bar.
        seeds: run these seeds alone; ``None`` for all that the trials have.

    Returns:
        the table as stored.

    Raises:
        ConfigError: a seed is asked for that none of the trials has.
        ResultsError: a stored run of the same name was made with another configuration.
    """
    classes = fewshot_split_cifar_fs(train_set.class_names)
    for trial, seed in _in_order(trials, seeds):
        config = dataclasses.replace(trial.config, recipe=f"{study}/{trial.name}", seed=seed)
        learned = learned_classes(trial, classes.train)
        if _is_stored(study, trial, seed, config, len(learned)):
            continue
        run_dir = project.project_root() / "runs" / study / f"{trial.name}-seed{seed}"
        record: dict[str, object] = {
            "expectation": trial.expectation, "config": config.to_json(), "classes": len(learned),
            "provenance": provenance.provenance(device, config.precision),
        }  # fmt: skip
        try:
            result = train(
                config, train_set, learned, validation=classes.val if trial.judged_by_epoch else (), run_dir=run_dir,
                device=device, progress=progress,
            )  # fmt: skip
        except TrainingError as error:
            metrics: Mapping[str, Estimate] = {"failed": exact(1)}
            record["error"] = str(error)
        else:
            history = result.history
            images_shown = float((history.images_per_second * history.seconds).sum())
            metrics = {
                **_judged(trial, result.encoder, train_set, classes.val),
                "parameters": exact(count_parameters(result.encoder)),
                "macs": exact(count_macs(result.encoder.body, train_set.images.shape[1])),
                "images": exact(round(images_shown)),
                "seconds": exact(result.seconds),
                "images_per_second": exact(images_shown / result.seconds),
            }
            record["history"] = history.to_dict(orient="records")
        results.write_record(record_path(study, trial.name, seed), record)
        results.store_run(
            {"trial": trial.name, "seed": seed}, metrics, "", table=study_path(study), columns=STUDY_COLUMNS
        )
        shutil.rmtree(run_dir, ignore_errors=True)
    return read_study(study)


def _in_order(trials: Iterable[Trial], seeds: Sequence[int] | None) -> list[tuple[Trial, int]]:
    """All runs, seed by seed.

    Raises:
        ConfigError: a wanted seed is in no trial.
    """
    trials = tuple(trials)
    planned = sorted({seed for trial in trials for seed in trial.seeds})
    if strange := sorted(set(seeds or ()) - set(planned)):
        raise ConfigError(f"No trial has the seed {strange[0]}; the seeds fixed beforehand are {planned}.")
    wanted = planned if seeds is None else [seed for seed in planned if seed in seeds]
    return [(trial, seed) for seed in wanted for trial in trials if seed in trial.seeds]


def _judged(trial: Trial, encoder: Encoder, train_set: ImageSet, classes: Sequence[int]) -> dict[str, Estimate]:
    """What a trial is judged by, on the first images of each of these classes."""
    positions = torch.cat([train_set.indices_of([label])[:_JUDGED_IMAGES] for label in classes])
    images, labels = train_set.images[positions], train_set.labels[positions]
    distances = judge_distances(encoder, images, labels) if trial.plain_distances else {}
    return {**judge(encoder, images, labels), **distances}


def _is_stored(study: str, trial: Trial, seed: int, config: TrainConfig, learned: int) -> bool:
    """Whether the run is in the table; it must then be the same run."""
    if not results.is_stored({"trial": trial.name, "seed": seed}, study_path(study), STUDY_COLUMNS):
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

# ------------------------------------------------------------------------------------ encoders compared

SEEDS = (0, 1, 2)
# The frozen recipe, chosen on resnet9-32 and so a home game for it, but with fewer images: with its thirteen passes
# some of these encoders would take hours. More of the training happens at small sides, for the same reason.
_COMPARED = dataclasses.replace(
    recipe(DEFAULT_RECIPE), recipe="", epochs=1, resolutions=((0.0, 16), (0.6, 24), (0.9, 32))
)
EQUAL_IMAGES = 30_720  # one pass over the training images
EQUAL_MINUTES = 2.0  # of one core
# What ``encoder_speed.images_in`` gives for so many minutes and the stored speeds. Written down here, so that a run
# stays what it was when speeds are measured again; a test compares the two.
IMAGES_IN_TIME: dict[str, int] = {
    "conv3": 439_040,
    "resnet9-16": 291_584,
    "resnet9-32": 94_976,
    "resnet9-48": 41_472,
    "resnet9-64": 23_296,
    "resnet20": 127_488,
    "resnet32": 81_664,
    "resnet44": 60_416,
    "resnet56": 46_336,
    "resnet12": 11_776,
    "resnet18": 12_288,
    "vgg19bn": 12_288,
    "efficientnet-lite0": 2_304,
}


def _shown(images: int, **changes: object) -> TrainConfig:
    """The compared configuration, shown so many images."""
    return _but(_COMPARED, least_images=images, most_images=images, **changes)


def _compared(name: str, config: TrainConfig, expectation: str, **more: object) -> Trial:
    return Trial(name, config, expectation, SEEDS, judged_by_epoch=False, **more)  # type: ignore[arg-type]


# Cheapest first.
_EQUAL_IMAGES: dict[str, str] = {
    "conv3": "Last by far: three convolutions see little of an image's structure.",
    "resnet9-16": "Ten points above the three convolutions, behind the wider ones.",
    "resnet20": "Level with the narrow ResNet-9: fewer weights, but twice its multiplications.",
    "resnet9-32": "A few points above its narrow brother; the recipe was tuned on it.",
    "resnet32": "A point above ResNet-20: depth pays late, and this is a short training.",
    "resnet44": "No better than ResNet-32, for the same reason.",
    "resnet56": "No better than ResNet-32; the deepest of the thin networks starts slowest.",
    "resnet9-48": "A point or two above the width of 32.",
    "resnet9-64": "Another point; the best of all, together with ResNet-12.",
    "vgg19bn": "Far behind the residual networks: sixteen convolutions without shortcuts start slowly.",
    "resnet12": "Among the best: few-shot papers take it because it is wide.",
    "resnet18": "Near ResNet-12, slightly below, having only 512 features.",
}
_EQUAL_TIME: dict[str, str] = {
    "conv3": "Ahead of what gets a few dozen steps, behind all small residual networks.",
    "resnet9-16": "One of the two best: it sees three times the images of the width of 32 and more.",
    "resnet20": "Between conv3 and the narrow ResNet-9, being slow for its size at full resolution.",
    "resnet9-32": "Level with the width of 16: better for each image, with a third of them.",
    "resnet32": "Below ResNet-20, having two thirds of its images.",
    "resnet44": "Below ResNet-32.",
    "resnet56": "Below ResNet-44, several points behind ResNet-9 of either small width.",
    "resnet9-48": "A few points below the width of 32, which sees twice the images.",
    "resnet9-64": "Several points below the width of 48.",
    "vgg19bn": "Hardly above colour: some fifty steps.",
    "resnet12": "Near ResNet-18, a dozen points below the best: some fifty steps.",
    "resnet18": "A dozen points below the best: some fifty steps.",
}
# Their weights exist already and are to be kept, so they get a fifth of the recipe's rates.
_GENTLE = {"muon_rate": 0.01, "learning_rate": 4e-4}
_STARTED: dict[str, tuple[str, str, str]] = {
    "resnet20-from-cifar10": ("resnet20", "cifar10-resnet20",
                              "Ten points above ResNet-20 from scratch: it knows ten classes of such pictures."),
    "resnet56-from-cifar10": ("resnet56", "cifar10-resnet56",
                              "Above ResNet-20 from CIFAR-10, since depth pays once it is trained."),
    "efficientnet-lite0-from-imagenet": ("efficientnet-lite0", "imagenet-efficientnet-lite0",
                                         "The best of all, because ImageNet has shown it these classes."),
}  # fmt: skip

STUDIES["encoders_equal_images"] = tuple(
    _compared(name, _shown(EQUAL_IMAGES, encoder=name), expectation) for name, expectation in _EQUAL_IMAGES.items()
)
STUDIES["encoders_equal_time"] = (
    *(_compared(name, _shown(IMAGES_IN_TIME[name], encoder=name), text) for name, text in _EQUAL_TIME.items()),
    *(_compared(name, _shown(IMAGES_IN_TIME[encoder], encoder=encoder, pretrained=source, **_GENTLE), expectation)
      for name, (encoder, source, expectation) in _STARTED.items()),
)  # fmt: skip

# On the narrow ResNet-9, whose features are 128, in two passes.
_NARROW = _shown(2 * EQUAL_IMAGES, encoder="resnet9-16")
# Does it matter to the result in which precision a processor multiplies? On the recipe's own network, in four passes.
_LONGER = _shown(4 * EQUAL_IMAGES)
STUDIES["precision"] = (
    _compared("float32", _but(_LONGER, precision="float32"), "The measure."),
    _compared("bfloat16", _but(_LONGER, precision="bfloat16"),
              "Level: the gradient's noise is far larger than the rounding, and weights stay float32."),
)  # fmt: skip

STUDIES["embedding_size"] = (
    _compared("features", _NARROW, "The 128 features as they are; a projection adds nothing to them."),
    _compared("16", _but(_NARROW, embedding_dim=16), "Two or three points less: 64 classes crowd in 16 dimensions."),
    _compared("32", _but(_NARROW, embedding_dim=32), "A point less."),
    _compared("64", _but(_NARROW, embedding_dim=64), "Level with the features themselves."),
    _compared("128", _but(_NARROW, embedding_dim=128), "Level with the features themselves."),
    _compared("256", _but(_NARROW, embedding_dim=256),
              "Level again: more dimensions than features hold nothing more."),
)  # fmt: skip

# The triplet term alone, in which the distance stands; a proxy is a direction and would decide for the cosine.
_COSINE = Term("triplet", mining="batch_all", temperature=0.1)
STUDIES["distances"] = (
    _compared("cosine", _but(_NARROW, terms=(_COSINE,)),
              "The better of the two; judged by Euclidean distance it loses a few points, as lengths were free.",
              plain_distances=True),
    _compared("euclidean", _but(_NARROW, terms=(dataclasses.replace(_COSINE, distance="euclidean", temperature=1.0),)),
              "A few points less by either distance: it can grow instead of turn.", plain_distances=True),
    _compared("cosine-margin", _but(_NARROW, terms=(Term("triplet", mining="semi_hard", margin=0.2),)),
              "A point less than the soft margin, which uses all triplets.", plain_distances=True),
    _compared("euclidean-margin",
              _but(_NARROW, terms=(Term("triplet", distance="euclidean", mining="semi_hard", margin=1.0),)),
              "Near the cosine with a margin: the margin sets a scale that the soft one has to find.",
              plain_distances=True),
    _compared("recipe", _NARROW, "Above all four: proxies show every class at every step.", plain_distances=True),
)  # fmt: skip

# ------------------------------------------------------------------------------------ objectives compared

# As the study of distances, whose trials "cosine" (all triplets, a soft margin), "cosine-margin" (semi-hard triplets)
# and "recipe" belong to this comparison and are not run again.
_RANDOM, _HARD, _SEMI_HARD = (Term("triplet", mining=mining) for mining in ("random", "batch_hard", "semi_hard"))
_FAR = {"distance": "euclidean", "margin": 1.0}


def _by(*terms: Term) -> TrainConfig:
    return _but(_NARROW, terms=terms)


STUDIES["objectives"] = (
    _compared("random", _by(_RANDOM),
              "Ten points below all triplets of the batch: one negative an anchor, and most of them easy."),
    _compared("random-euclidean", _by(dataclasses.replace(_RANDOM, **_FAR)),
              "Level with random triplets by cosine."),
    _compared("batch-hard", _by(_HARD),
              "Collapses in the first steps and stays there, or comes out late and below the semi-hard ones."),
    _compared("batch-hard-soft", _by(dataclasses.replace(_HARD, temperature=0.1)),
              "Does not collapse, as the soft margin never goes silent; a little below all triplets."),
    _compared("batch-hard-euclidean", _by(dataclasses.replace(_HARD, **_FAR)),
              "Collapses more easily than by cosine: lengths can shrink as well."),
    _compared("contrastive", _by(Term("contrastive")),
              "Below the triplets: one margin for all pairs, however alike two classes are."),
    _compared("contrastive-euclidean", _by(Term("contrastive", **_FAR)),
              "Level with its cosine sister."),
    _compared("pair-bce", _by(Term("pair_bce")),
              "Like contrastive pairs: the head learns a threshold instead of being given a margin."),
    _compared("supcon", _by(Term("supcon")),
              "The best of those without proxies: each image is compared with the whole batch at once."),
    _compared("proxy", _by(Term("proxy")), "Level with the recipe, within a point."),
    _compared("proxy-then-triplets",
              _by(Term("proxy", end=0.6), dataclasses.replace(_COSINE, begin=0.6)),
              "A point below the recipe: the triplets take over what the proxies built, and lose some of it."),
    _compared("proxy-and-supcon", _by(Term("proxy"), Term("supcon", weight=0.5)),
              "Level with the recipe."),
)  # fmt: skip
# One margin or rate changed, triplets alone. "-rate-x0.1" is a tenth of both rates of the recipe.
_RATES = (0.1, 0.3, 3.0, 10.0)


def _at_rate(factor: float, term: Term) -> TrainConfig:
    return _but(
        _NARROW, terms=(term,), muon_rate=round(factor * _NARROW.muon_rate, 6),
        learning_rate=round(factor * _NARROW.learning_rate, 6),
    )  # fmt: skip


_RATE_EXPECTED = {
    ("semi-hard", 0.1): "Several points less: too slow for so short a training.",
    ("semi-hard", 0.3): "A point or two less.",
    ("semi-hard", 3.0): "A point or two less, without a collapse.",
    ("semi-hard", 10.0): "Falls apart: near the accuracy of random weights, or the collapse is noticed.",
    ("batch-hard", 0.1): "No collapse: gentle steps give the hard triplets time; the best rate for them.",
    ("batch-hard", 0.3): "No collapse, or a late one.",
    ("batch-hard", 3.0): "Collapses.",
    ("batch-hard", 10.0): "Collapses.",
}
_MARGIN_EXPECTED = {
    0.05: "A few points less: satisfied early, and then silent.",
    0.1: "A point less.",
    0.4: "A point more: with wider margins more triplets teach.",
    0.8: "Level with 0.2: few pairs of classes can be so far apart, so it never goes silent.",
}
STUDIES["triplet_sensitivity"] = (
    *(_compared(f"{mining}-rate-x{factor:g}", _at_rate(factor, term), _RATE_EXPECTED[mining, factor])
      for mining, term in (("semi-hard", _SEMI_HARD), ("batch-hard", _HARD)) for factor in _RATES),
    *(_compared(f"margin-{margin:g}", _by(dataclasses.replace(_SEMI_HARD, margin=margin)), text)
      for margin, text in _MARGIN_EXPECTED.items()),
)  # fmt: skip


def trials_of(study: str) -> tuple[Trial, ...]:
    """The trials of a study.

    Raises:
        UnknownNameError: no such study.
    """
    if study not in STUDIES:
        raise unknown("study", study, STUDIES)
    return STUDIES[study]