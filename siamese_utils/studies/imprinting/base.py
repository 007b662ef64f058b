"""The network that is there before a class is added, and the images that classes are added and judged with."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import class_split, hold_out_images
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, SamplingError, SplitError
from siamese_utils.experiments import store
from siamese_utils.experiments.own import tell_place
from siamese_utils.experiments.study import Bench, as_stored, training_record
from siamese_utils.studies.imprinting.settings import WHOLE, BaseConfig, ImprintingConfig
from siamese_utils.studies.splits.study import checkpoint_path
from siamese_utils.system import project
from siamese_utils.system.files import locked, write_bytes_atomically
from siamese_utils.system.project import project_root, results_dir
from siamese_utils.system.provenance import provenance
from siamese_utils.training.config import TrainConfig

TRIAL_SPLIT = "20-80"  # the sweep's network that learned fewer classes than the base network
BASE = "imprinting-base"  # the study's network; others are compared with it


def base_checkpoint(name: str = BASE) -> Path:
    """Where a base network is stored."""
    return results_dir() / "checkpoints" / f"{name}.safetensors"


def base_network(config: BaseConfig, bench: Bench, name: str = BASE) -> Encoder:
    """A base network as it is stored, trained first if it is missing.

    It is no study, since nothing is asked of it; several studies build on it, and each makes it where it is missing.
    Started again after a kill, the training goes on; of several processes, one trains and the others wait.

    Raises:
        ConfigError: see ``BaseConfig.training``.
        SplitError: no such split.
        CheckpointError: the stored one was trained otherwise, or is damaged.
    """
    training, path, train_set = config.training, base_checkpoint(name), bench.train_set
    if not project.is_anew():
        project.bring(path)
    key = {"split": config.split, "draw": config.draw, "seed": config.seed, "recipe": config.recipe}
    source = {**key, "data": train_set.name, "config": training.to_json()}
    folder = project_root() / "runs" / name
    with locked(folder.with_suffix(".lock")):
        if project.is_brought(path) and checkpoint_info(path) != source:
            path.unlink()  # in a folder of one's own, where the published one is of no use
        if not path.is_file():
            _train_base(name, source, training, bench.at(folder))
            bench.made.add(path)
        elif checkpoint_info(path) != source:
            raise CheckpointError(
                f"The base network {path} was trained otherwise than is asked for now; delete it to train another in "
                "its place, and do what was built on it anew with --again."
            )
        return load_encoder(path)


def _train_base(name: str, source: Mapping[str, Any], training: TrainConfig, bench: Bench) -> None:
    computed_with = provenance(bench.device, training.precision)
    seen = class_split(str(source["split"]), int(source["draw"]), bench.train_set.num_classes).seen
    trained = bench.train(training, bench.train_set, seen)
    # The checkpoint comes last: it is what tells that all is there.
    store.store_json(name, {**source, **training_record(trained), "provenance": computed_with})
    _, content = as_stored(trained.encoder, source)
    write_bytes_atomically(base_checkpoint(name), content)
    if bench.folder is not None:
        shutil.rmtree(bench.folder, ignore_errors=True)


def train_base(bench: Bench, config: Path = WHOLE, publish: bool = False) -> None:
    """Train the base network of a configuration, and measure nothing."""
    base = ImprintingConfig.from_yaml(config).base
    home = home_of(base, publish)
    with project.at(home):
        base_network(base, bench)
        tell_place(home, base_checkpoint())


def home_of(config: BaseConfig, publish: bool = False) -> Path | None:
    """Where a base network is stored: as the published one, ``None``, or in the folder of the user's own.

    Raises:
        ConfigError: ``publish`` without a checkout of the project.
    """
    if publish:
        project.checkout("--publish")
        return None
    if not base_checkpoint().exists() and project.is_checkout() and config == ImprintingConfig.from_yaml(WHOLE).base:
        return None
    try:
        same = checkpoint_info(base_checkpoint()).get("config") == config.training.to_json()
    except CheckpointError:
        same = False
    return None if same else project.own_folder()


# --- images ---------------------------------------------------------------------------------------

Labelled = tuple[torch.Tensor, torch.Tensor]
"""Images uint8 (N, H, W, 3), or what was made of them, with class labels int64 (N,)."""


@dataclass(frozen=True, eq=False)
class Parts:
    """All images that the study needs, or their embeddings: rows of unit length.

    Attributes:
        known: training images of the old classes, without those held out.
        tuning: training images of the old classes that the network has not learned from; the weights are tuned on
            them, since of the others the network is surer than of new images.
        held_out: likewise, for the bias.
        shots: training images of the novel classes.
        test: images of all classes, to judge on.
        old: labels of the old classes, ascending.
        novel: labels of the novel classes, ascending.
    """

    known: Labelled
    tuning: Labelled
    held_out: Labelled
    shots: Labelled
    test: Labelled
    old: tuple[int, ...]
    novel: tuple[int, ...]

    def mapped(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Parts:
        """The same with a function applied to all images or embeddings."""
        names = ("known", "tuning", "held_out", "shots", "test")
        parts = {name: (function(getattr(self, name)[0]), getattr(self, name)[1]) for name in names}
        return dataclasses.replace(self, **parts)

    @property
    def images_a_class(self) -> int:
        """How many images each novel class can be learned from, at least."""
        return int(torch.bincount(self.shots[1])[list(self.novel)].min())


def parts_of(base: BaseConfig, train_set: ImageSet, test_set: ImageSet) -> Parts:
    """The images of the study: those held out halve into ``tuning`` and ``held_out``.

    Raises:
        SplitError: no such split.
    """
    classes = class_split(base.split, base.draw, train_set.num_classes)
    known, held_out = hold_out_images(train_set.labels, classes.seen, base.training.held_out_images, base.seed)
    shots = train_set.indices_of(classes.unseen)
    rows = {"known": known, "tuning": held_out[::2], "held_out": held_out[1::2], "shots": shots}
    return Parts(
        **{name: (train_set.images[part], train_set.labels[part]) for name, part in rows.items()},
        test=(test_set.images, test_set.labels),
        old=classes.seen,
        novel=classes.unseen,
    )


# --- what is drawn --------------------------------------------------------------------------------


def draw_shots(data: Parts, label: int, count: int, number: int, seed: int) -> torch.Tensor:
    """Which of ``data.shots`` a run uses for a class: int64 (count,); fewer shots are the first of more.

    Args:
        data: where the shots are.
        label: a novel class.
        count: shots.
        number: number of the shot set.
        seed: of the study.

    Raises:
        SamplingError: the class has fewer images.
    """
    rows = (data.shots[1] == label).nonzero().flatten()
    if len(rows) < count:
        raise SamplingError(f"Class {label} has {len(rows)} training images, not the {count} that are asked for.")
    order = named_rng(seed, f"shots {label} {number}").permutation(len(rows))[:count]
    return rows[torch.from_numpy(order.copy())]


def chosen_classes(novel: Sequence[int], count: int, seed: int) -> tuple[int, ...]:
    """The novel classes that are added one at a time: as many as are asked for, at random, or all."""
    order = named_rng(seed, "novel classes").permutation(len(novel))
    return tuple(sorted(novel[number] for number in order[:count]))


def groups(novel: Sequence[int], config: ImprintingConfig, added: int) -> list[tuple[int, ...]]:
    """The classes that each run of ``added`` classes at once adds: one random group a shot set.

    Raises:
        SamplingError: there are not so many novel classes.
    """
    if added > len(novel):
        raise SamplingError(f"There are {len(novel)} novel classes, not {added}; lower at_once.")
    drawn = []
    for number in range(config.shot_sets):
        order = named_rng(config.base.seed, f"group {added} {number}").permutation(len(novel))[:added]
        drawn.append(tuple(sorted(novel[n] for n in order)))
    return drawn


# --- stand-ins, on which settings are chosen ------------------------------------------------------


def trial_checkpoint() -> Path:
    """The sweep's network, which trials use."""
    return checkpoint_path(TRIAL_SPLIT, 0)


def trial_parts(base: BaseConfig, train_set: ImageSet, *, moved: bool = False) -> Parts:
    """A study in miniature, on training images alone: classes of the base network take the novel ones' place.

    These are the classes that the base network has learned and the trials' network has not. The images held out of its
    training are halved, one half for judging; where the encoder moves, weights are tuned on images that it learned
    from, so all those held out are for judging, and every other stand-in is enough. Of the stand-ins every other image
    is for shots.

    Raises:
        CheckpointError: the sweep's checkpoint is missing.
        SplitError: the base network has not learned more than the trials' network.
    """
    info = checkpoint_info(trial_checkpoint())
    old = class_split(TRIAL_SPLIT, 0, train_set.num_classes).seen
    learned = class_split(base.split, base.draw, train_set.num_classes).seen
    novel = tuple(label for label in learned if label not in old)[:: 2 if moved else 1]
    if not novel:
        raise SplitError(f"Every class of {base.split} is one of {TRIAL_SPLIT}; none can stand in for a novel one.")
    known, held_out = hold_out_images(train_set.labels, old, info["config"]["held_out_images"], info["seed"])
    others = train_set.indices_of(novel)
    tuning, judged = (held_out, held_out) if moved else (held_out[::2], held_out[1::2])
    rows = {"known": known, "tuning": tuning, "held_out": tuning, "shots": others[::2]}
    rows["test"] = torch.cat([judged, others[1::2]])
    parts = {name: (train_set.images[part], train_set.labels[part]) for name, part in rows.items()}
    return Parts(**parts, old=old, novel=novel)
