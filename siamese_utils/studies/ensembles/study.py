"""Ensembles: encoders of one recipe that differ in nothing but the seed, judged together.

Networks that start from other weights and see other batches err on other images, so the mean of their similarities is
steadier than each of them (Lakshminarayanan et al., 2017, https://arxiv.org/abs/1612.01474); for few shots, where one
example decides, by more than usual (Dvornik et al., 2019, https://arxiv.org/abs/1903.11341). Training stays as it is
and takes as many times as long as there are members, or as many machines.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pandas as pd
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import class_split, fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import joined
from siamese_utils.errors import CheckpointError, ConfigError, unknown
from siamese_utils.evaluation.episodes import all_way_accuracy, few_shot_accuracy
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.pairs import pair_auc
from siamese_utils.evaluation.protocol import EVALUATION_SEED
from siamese_utils.experiments import store as results
from siamese_utils.studies.ensembles import cifar_fs as cifarfs
from siamese_utils.studies.splits import stored
from siamese_utils.studies.splits.study import SplitRun, is_stored, run_split, store_files, train_run
from siamese_utils.system import project
from siamese_utils.training.recipes import DEFAULT_RECIPE

# How many members, seeds from 0, was fixed beforehand: four of the sweep's trainings take less than an hour on two
# cores, and so do three on CIFAR-FS.
MEMBERS: dict[str, int] = {"90-10": 4, "cifar-fs": 3}
ENSEMBLE_COLUMNS = ("task", "seed", "recipe", "metric", "value", "ci95", "n", "checkpoint")
TOGETHER, VALIDATION = "_together", "validation_"
_DRAW = 0


@dataclass(frozen=True, eq=False)
class _Part:
    """Images of classes that no member has learned, how they are judged on, and what the metrics' names begin with."""

    images: torch.Tensor
    labels: torch.Tensor
    judge: Callable[[torch.Tensor, torch.Tensor], dict[str, Estimate]]
    prefix: str = ""


def table_path() -> Path:
    """Where the results of this study are stored."""
    return project.results_dir() / "ensembles.csv"


def member_path(task: str, seed: int) -> Path:
    """Where a member's checkpoint is stored; the first of a split is the sweep's own.

    Raises:
        UnknownNameError: no such task.
    """
    if task not in MEMBERS:
        raise unknown("task", task, MEMBERS)
    if task == "cifar-fs":
        return cifarfs.checkpoint_path(seed)
    if seed == 0:
        return stored.checkpoint_path(task, _DRAW)
    return project.results_dir() / "checkpoints" / f"ensemble-{task}-draw{_DRAW}-seed{seed}.safetensors"


def record_name(task: str, seed: int) -> str:
    """Under which name ``results.load_json`` finds what a member was trained with."""
    if task == "cifar-fs":
        return cifarfs.record_name(seed)
    return SplitRun(task, _DRAW).name if seed == 0 else f"ensemble-{task}-draw{_DRAW}-seed{seed}"


def run_ensemble(
    task: str,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    seeds: Sequence[int] | None = None,
    recipe_name: str = DEFAULT_RECIPE,
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Train the members that are not stored, then judge each alone and together with all of smaller seeds.

    Started again, it goes on. Each member has rows for the metrics of its task, once for itself and once, with
    ``_together`` behind the name, for the ensemble of the seeds from 0 to its own. On CIFAR-FS there are rows for the
    validation classes too (``validation_…``).

    Args:
        task: a name in ``MEMBERS``.
        train_set: CIFAR-100's training images.
        test_set: CIFAR-100's test images.
        seeds: members to train; ``None`` for all. Those are judged whose smaller seeds are stored.
        recipe_name: a name in ``RECIPES``.
        device: see ``train``.
        progress: show a progress bar.

    Returns:
        the table as stored.

    Raises:
        UnknownNameError: no such task or recipe.
        ConfigError: a seed below 0 or beyond the task's members.
        ResultsError: the stored table is damaged.
    """
    if task not in MEMBERS:
        raise unknown("task", task, MEMBERS)
    everyone = range(MEMBERS[task])
    wanted = list(everyone) if seeds is None else list(seeds)
    if strange := [seed for seed in wanted if seed not in everyone]:
        raise ConfigError(f"The ensemble of {task} has the seeds 0 to {everyone[-1]}, not {strange[0]}.")
    new = [seed for seed in wanted if not _has_member(task, seed, recipe_name)]
    for seed in new:
        _train_member(task, seed, recipe_name, train_set, test_set, device, progress)
    have = list(takewhile(lambda seed: _has_member(task, seed, recipe_name), everyone))
    keys = {seed: {"task": task, "seed": seed, "recipe": recipe_name} for seed in have}
    # Rows of members that are no more do not count as stored.
    to_judge = [
        seed for seed in have
        if any(other <= seed for other in new) or not results.is_stored(keys[seed], table_path(), ENSEMBLE_COLUMNS)
    ]  # fmt: skip
    parts = _judged_on(task, train_set, test_set) if to_judge else []
    embedded: list[list[torch.Tensor]] = []
    for seed in range(max(to_judge, default=-1) + 1):
        encoder = load_encoder(member_path(task, seed))
        embedded.append([encoder.embed(part.images) for part in parts])
        if seed in to_judge:
            checkpoint = member_path(task, seed).relative_to(project.project_root()).as_posix()
            metrics = _judge(parts, embedded)
            results.store_run(keys[seed], metrics, checkpoint, table=table_path(), columns=ENSEMBLE_COLUMNS)
    if not table_path().exists():  # only members of larger seeds were asked for
        return pd.DataFrame(columns=list(ENSEMBLE_COLUMNS))
    return stored_ensembles(task)


def _has_member(task: str, seed: int, recipe_name: str) -> bool:
    if task == "cifar-fs":
        return cifarfs.is_stored(seed, recipe_name)
    run = SplitRun(task, _DRAW, seed, recipe_name)
    if seed == 0:
        return is_stored(run)
    path = member_path(task, seed)
    return path.is_file() and checkpoint_info(path).get("config") == run.config.to_json()


def _train_member(
    task: str, seed: int, recipe_name: str, train_set: ImageSet, test_set: ImageSet, device: str, progress: bool
) -> None:
    if task == "cifar-fs":
        cifarfs.run_cifar_fs(seed, recipe_name, train_set, test_set, device=device, progress=progress)
        return
    run = SplitRun(task, _DRAW, seed, recipe_name)
    if seed == 0:
        run_split(run, train_set, test_set, device=device, progress=progress)
        return
    finished = train_run(run, train_set, test_set, device=device, progress=progress)
    store_files(finished, member_path(task, seed), record_name(task, seed))
    shutil.rmtree(run.folder, ignore_errors=True)


def _judged_on(task: str, train_set: ImageSet, test_set: ImageSet) -> list[_Part]:
    """The parts that a task is judged on: test images of unseen classes, or the test and validation classes."""
    if task == "cifar-fs":
        whole = cifarfs.all_images(train_set, test_set)
        split = fewshot_split_cifar_fs(whole.class_names)
        test, validation = whole.indices_of(split.test), whole.indices_of(split.val)
        return [
            _Part(whole.images[test], whole.labels[test], cifarfs.judge),
            _Part(whole.images[validation], whole.labels[validation], cifarfs.judge, VALIDATION),
        ]
    positions = test_set.indices_of(class_split(task, _DRAW, test_set.num_classes).unseen)
    return [_Part(test_set.images[positions], test_set.labels[positions], _unseen_metrics)]


def _judge(parts: Sequence[_Part], embedded: Sequence[Sequence[torch.Tensor]]) -> dict[str, Estimate]:
    """Metrics of the last member and of all together.

    Args:
        parts: what they are judged on.
        embedded: for each member and part float32 (N, D).
    """
    metrics: dict[str, Estimate] = {}
    for number, part in enumerate(parts):
        alone, together = embedded[-1][number], joined([member[number] for member in embedded])
        for suffix, z in (("", alone), (TOGETHER, together)):
            for name, estimate in part.judge(z, part.labels).items():
                metrics[f"{part.prefix}{name}{suffix}"] = estimate
    return metrics


def _unseen_metrics(z: torch.Tensor, labels: torch.Tensor) -> dict[str, Estimate]:
    """The protocol's metrics that need no threshold, with its episodes, supports and pairs."""
    rng = {name: named_rng(EVALUATION_SEED, name) for name in ("acc_5w1s", "acc_5w5s", "acc_allway_1s")}
    return {
        "acc_5w1s": few_shot_accuracy(z, labels, rng["acc_5w1s"], ways=5, shots=1),
        "acc_5w5s": few_shot_accuracy(z, labels, rng["acc_5w5s"], ways=5, shots=5),
        "acc_allway_1s": all_way_accuracy(z, labels, rng["acc_allway_1s"]),
        "pair_auc_unseen": pair_auc(z, labels, named_rng(EVALUATION_SEED, "pair_auc_unseen")),
    }


def reevaluate_member(path: Path, train_set: ImageSet, test_set: ImageSet) -> dict[str, Estimate]:
    """Compute the rows of a stored member anew, from the checkpoints of the seeds from 0 to its own.

    Raises:
        CheckpointError: the file is no member of an ensemble, or a smaller seed's is missing.
    """
    info = checkpoint_info(path)
    task, seed = info.get("split"), info.get("seed")
    if task not in MEMBERS or not isinstance(seed, int) or info.get("draw", _DRAW) != _DRAW:
        raise CheckpointError(f"{path} is no member of an ensemble of {' or '.join(MEMBERS)}.")
    parts = _judged_on(task, train_set, test_set)
    members = [load_encoder(member_path(task, other)) for other in range(seed)] + [load_encoder(path)]
    return _judge(parts, [[member.embed(part.images) for part in parts] for member in members])


# ---------------------------------------------------------------------------------- what is stored


def stored_ensembles(task: str | None = None) -> pd.DataFrame:
    """The stored rows, of one task or of all, with the columns ``ENSEMBLE_COLUMNS``.

    Raises:
        ResultsError: nothing is stored, or the table is damaged.
    """
    table = results.read_table(table_path(), ENSEMBLE_COLUMNS)
    return table if task is None else table[table.task == task].reset_index(drop=True)


def by_members(task: str, metric: str = "acc_5w1s", recipe_name: str = DEFAULT_RECIPE) -> pd.DataFrame:
    """One row a number of members: ``members``, ``together``, ``ci95``, ``alone`` (the last) and ``minutes``.

    ``minutes`` are those of all trainings so far, on one thread: a training on two threads counts twice.

    Raises:
        ResultsError: nothing is stored.
    """
    table = stored_ensembles(task)
    table = table[table.recipe == recipe_name]
    rows, minutes = [], 0.0
    for seed in sorted(table.seed.unique()):
        record = results.load_json(record_name(task, seed))
        minutes += record["seconds"] * record["provenance"]["threads"] / 60
        together = results.result(table, seed=seed, metric=metric + TOGETHER)
        alone = results.result(table, seed=seed, metric=metric)
        rows.append({
            "members": seed + 1, "together": together.value, "ci95": together.ci95, "alone": alone.value,
            "minutes": minutes,
        })  # fmt: skip
    return pd.DataFrame(rows)
