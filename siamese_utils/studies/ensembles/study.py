"""Ensembles: encoders of one recipe that differ in nothing but the seed, judged together.

Networks that start from other weights and see other batches err on other images, so the mean of their similarities is
steadier than each of them (Lakshminarayanan et al., 2017, https://arxiv.org/abs/1612.01474); for few shots, where one
example decides, by more than usual (Dvornik et al., 2019, https://arxiv.org/abs/1903.11341). Training stays as it is
and takes as many times as long as there are members, or as many machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import Episodes, named_rng, sample_episodes
from siamese_utils.data.splits import class_split, fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder, joined
from siamese_utils.errors import CheckpointError, unknown
from siamese_utils.evaluation.episodes import all_way_accuracy, episode_accuracies
from siamese_utils.evaluation.estimates import Estimate, mean_estimate
from siamese_utils.evaluation.pairs import pair_auc
from siamese_utils.evaluation.protocol import EVALUATION_SEED
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, as_stored, complete, training_record
from siamese_utils.studies.ensembles import cifar_fs
from siamese_utils.studies.splits.study import SPLIT_SWEEP, checkpoint_path, run_name, split_run, train_split
from siamese_utils.system.project import results_dir
from siamese_utils.training.recipes import DEFAULT_RECIPE

# How many members, seeds from 0, was fixed beforehand: four of the sweep's trainings take less than an hour on two
# cores, and so do three on CIFAR-FS.
MEMBERS: dict[str, int] = {"90-10": 4, "cifar-fs": 3}
TOGETHER, VALIDATION = "_together", "validation_"
DRAW = 0


def member_path(task: str, seed: int, recipe: str = DEFAULT_RECIPE) -> Path:
    """Where a member's checkpoint is stored; the first of a split is the sweep's own.

    Raises:
        UnknownNameError: no such task.
    """
    if task not in MEMBERS:
        raise unknown("task", task, MEMBERS)
    if task == "cifar-fs":
        return cifar_fs.checkpoint_path(seed, recipe)
    if seed == 0:
        return checkpoint_path(task, DRAW, recipe=recipe)
    return results_dir() / "checkpoints" / f"{record_name(task, seed, recipe)}.safetensors"


def record_name(task: str, seed: int, recipe: str = DEFAULT_RECIPE) -> str:
    """Under which name ``store.load_json`` finds what a member was trained with."""
    if task == "cifar-fs":
        return cifar_fs.record_name(seed, recipe)
    if seed == 0:
        return run_name(task, DRAW, recipe=recipe)
    return f"ensemble-{task}-draw{DRAW}-seed{seed}{_of(recipe)}"


def _of(recipe: str) -> str:
    """What another recipe than the usual one adds to names."""
    return "" if recipe == DEFAULT_RECIPE else f"-{recipe}"


def member_run(task: str, seed: int, recipe: str = DEFAULT_RECIPE) -> tuple[Study, Run]:
    """The training of a member, and the study that stores it; for a split's first member that is the sweep."""
    if task == "cifar-fs":
        return cifar_fs.CIFAR_FS, cifar_fs.cifar_fs_run(seed, recipe)
    return (SPLIT_SWEEP if seed == 0 else ENSEMBLES), split_run(task, DRAW, seed, recipe)


def ensemble_run(task: str, seed: int, recipe: str = DEFAULT_RECIPE) -> Run:
    """One member, alone and together with all of smaller seeds, on whose checkpoints it rests."""
    trained_by, member = member_run(task, seed, recipe)
    smaller = tuple(member_path(task, other, recipe) for other in range(seed))
    own = () if trained_by is ENSEMBLES else (member_path(task, seed, recipe),)
    images = member.images if trained_by is ENSEMBLES else 0
    key = {"task": task, "seed": seed, "recipe": recipe}
    return Run(key, member.settings, images=images, built_on=(*smaller, *own))


def _runs(
    recipe: Annotated[str, typer.Option(help="A name in siamese_utils.training.recipes.")] = DEFAULT_RECIPE,
) -> list[Run]:
    return [ensemble_run(task, seed, recipe) for task, count in MEMBERS.items() for seed in range(count)]


def _carry_out(run: Run, bench: Bench) -> Outcome:
    """What it rests on is done first where it is not stored: the members of smaller seeds, or the study of its own."""
    task, seed, recipe = (run.key[name] for name in ENSEMBLES.key)
    for other in range(seed):
        complete(ENSEMBLES, bench, [ensemble_run(task, other, recipe)])
    trained_by, member = member_run(task, seed, recipe)
    content, record = None, {}
    if trained_by is ENSEMBLES:
        trained, origin = train_split(member, bench)
        encoder, content = as_stored(trained.encoder, origin)
        record = {**training_record(trained), **{name: origin[name] for name in ("split", "draw", "data")}}
    else:
        complete(trained_by, bench, [member])
        encoder = load_encoder(member_path(task, seed, recipe))
    return Outcome(_metrics(task, seed, recipe, encoder, bench), content, record)


def _metrics(task: str, seed: int, recipe: str, encoder: Encoder, bench: Bench) -> dict[str, Estimate]:
    """Metrics of a member, and of it together with the stored ones of smaller seeds."""
    parts = _judged_on(task, bench.train_set, bench.test_set)
    members = [*(load_encoder(member_path(task, other, recipe)) for other in range(seed)), encoder]
    return _judge(parts, [[member.embed(part.images) for part in parts] for member in members])


def _again(path: Path, bench: Bench) -> dict[str, dict[str, Estimate]]:
    """Compute the rows of a stored member anew, from the checkpoints of the seeds from 0 to its own.

    Raises:
        CheckpointError: the file is no member of an ensemble, or a smaller seed's is missing.
    """
    info = checkpoint_info(path)
    task, seed = info.get("split"), info.get("seed")
    if task not in MEMBERS or not isinstance(seed, int) or info.get("draw", DRAW) != DRAW:
        raise CheckpointError(f"{path} is no member of an ensemble of {' or '.join(MEMBERS)}.")
    recipe = str(info.get("recipe", DEFAULT_RECIPE))
    return {"ensembles": _metrics(task, seed, recipe, load_encoder(path), bench)}


# -------------------------------------------------------------------------------------------- judging


@dataclass(frozen=True, eq=False)
class _Part:
    """Images of classes that no member has learned, how they are judged on, and what the metrics' names begin with."""

    images: torch.Tensor
    labels: torch.Tensor
    judge: Callable[[torch.Tensor, torch.Tensor], dict[str, Estimate]]
    prefix: str = ""


def _judged_on(task: str, train_set: ImageSet, test_set: ImageSet) -> list[_Part]:
    """The parts that a task is judged on: test images of unseen classes, or the test and validation classes."""
    if task == "cifar-fs":
        whole = cifar_fs.whole_set(train_set, test_set)
        split = fewshot_split_cifar_fs(whole.class_names)
        test, validation = whole.indices_of(split.test), whole.indices_of(split.val)
        return [
            _Part(whole.images[test], whole.labels[test], cifar_fs.judge),
            _Part(whole.images[validation], whole.labels[validation], cifar_fs.judge, VALIDATION),
        ]
    positions = test_set.indices_of(class_split(task, DRAW, test_set.num_classes).unseen)
    return [_Part(test_set.images[positions], test_set.labels[positions], unseen_metrics)]


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


def unseen_metrics(z: torch.Tensor, labels: torch.Tensor) -> dict[str, Estimate]:
    """The protocol's metrics that need no threshold, with its episodes, supports and pairs: ``METRICS``.

    Args:
        z: embeddings of test images of unseen classes, float32 (N, D), rows of unit length.
        labels: their classes, int64 (N,).
    """
    return {
        **{
            f"acc_5w{shots}s": mean_estimate(episode_accuracies(z, episodes_of_unseen(labels, shots)))
            for shots in (1, 5)
        },
        "acc_allway_1s": all_way_accuracy(z, labels, named_rng(EVALUATION_SEED, "acc_allway_1s")),
        "pair_auc_unseen": pair_auc(z, labels, named_rng(EVALUATION_SEED, "pair_auc_unseen")),
    }


def episodes_of_unseen(labels: torch.Tensor, shots: int) -> Episodes:
    """The protocol's 10,000 episodes of 5 ways over test images of unseen classes, labels int64 (N,)."""
    return sample_episodes(labels, 5, shots, 15, 10_000, named_rng(EVALUATION_SEED, f"acc_5w{shots}s"))


METRICS = {
    "acc_5w1s": "classes that no member learned: 5-way 1-shot accuracy",
    "acc_5w5s": "classes that no member learned: 5-way 5-shot accuracy",
    "acc_allway_1s": "unseen classes: 1-shot accuracy among all of them",
    "pair_auc_unseen": "unseen classes: area under the ROC curve of the similarity, over all pairs",
}

ENSEMBLES = Study(
    "ensembles",
    "What do several networks bring together that differ in nothing but the seed?",
    _runs,
    _carry_out,
    key=("task", "seed", "recipe"),
    metrics={
        f"{prefix}{name}{suffix}": f"{what}{of}"
        for name, what in METRICS.items()
        for prefix in ("", VALIDATION)
        for suffix, of in (("", ""), (TOGETHER, ", of all seeds so far together"))
    },
    checkpoint=lambda run: member_path(*(run.key[name] for name in ENSEMBLES.key)),
    record=lambda run: _record_path(*(run.key[name] for name in ENSEMBLES.key)),
    again=_again,
)


def _record_path(task: str, seed: int, recipe: str) -> Path:
    """Members that other studies train have records there; here is what their ensembles rest on."""
    if task != "cifar-fs" and seed > 0:
        return results_dir() / "runs" / f"{record_name(task, seed, recipe)}.json"
    return results_dir() / "studies" / "ensembles" / f"{task}-seed{seed}{_of(recipe)}.json"
