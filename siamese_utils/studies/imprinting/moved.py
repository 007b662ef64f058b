"""The part of the study of imprinted weights in which the encoder moves with the classifier.

A class is added to the base network from a few shots, and the last stage of the encoder is tuned with all weights;
with all images of the class it is the joint training that the few shots are measured by. Beside every such run stand
two with the same class and shots: one in which only a weight is imprinted, and one whose last stage was tuned as long
for the old classes alone. What is gained beyond that one is owed to the shots.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split, hold_out_images
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.imprinting import Whitening, bias_for_budget, imprinted, leads, overall
from siamese_utils.errors import ResultsError, unknown
from siamese_utils.experiments import store as results
from siamese_utils.studies.imprinting.study import (
    LOSSES,
    TRIAL_COLUMNS,
    TRIAL_SPLIT,
    Embedded,
    ImprintingConfig,
    Space,
    base_fingerprint,
    chosen_classes,
    draw_shots,
    embed_all,
    log_of,
    measure,
    novel_at_losses,
    over_clusters,
    store_trial,
    stored_trials,
    train_base,
    training_rows,
    trial_network,
)
from siamese_utils.studies.imprinting.tuning import Stage, TuningConfig, stage_inputs, tune_encoder
from siamese_utils.system import project, provenance
from siamese_utils.system.config import Config, Count
from siamese_utils.system.files import locked, write_text_atomically

METHODS = {
    "whitened": "a weight imprinted in whitened space; the encoder stays",
    "old only": "the encoder's last stage and the old weights tuned for the old classes alone, then imprinted",
    "moved": "imprinted, then the last stage and all weights tuned with the shots",
}
DIFFERENCES = {"moved - whitened": "whitened", "moved - old only": "old only"}
METRICS = {
    "old_acc": "accuracy on the classes learned before",
    "novel_acc": "accuracy on the added class",
    "old_acc_budget": "the same with the bias that costs old classes the budget on held-out images",
    "novel_acc_budget": "the same for the added class",
    "novel_acc_for_one_point": "accuracy on the added class where old accuracy is one point below the base's",
}
COLUMNS = ("method", "novel", "shots", "shot_set", *METRICS, "seconds")
RECORD = "imprinting-moved"


class MovedConfig(Config):
    """What decides this part of the study, beside the ``ImprintingConfig`` of the whole.

    Attributes:
        classes: how many of the study's novel classes are added, one at a time.
        shot_sets: how often shots are drawn for each.
        few: the tuning with few shots.
        joint: the tuning with all images of the class.
    """

    classes: Count = 20
    shot_sets: Count = 20
    few: TuningConfig = field(default_factory=TuningConfig)
    joint: TuningConfig = field(default_factory=TuningConfig)


def table_path() -> Path:
    """Where the numbers of every run are stored."""
    return project.results_dir() / "imprinting_moved.csv"


def trials_path() -> Path:
    """Where the trials are stored."""
    return project.results_dir() / "imprinting_moved_trials.csv"


# --- one run --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Prepared:
    """All that runs share.

    Attributes:
        spaces: the whitened space of the frozen encoder, by the name that ``measure`` knows.
        stage: the encoder's last stage.
        known, held_out, test: maps (N, 2, C, h, w) of images of old classes and the number of each one's class.
        shots: maps of the novel classes' training images by class.
        novel_test: maps of their test images by class.
        base: accuracy on the old classes before any was added, percent.
        tuned: what ``tuned_for_old`` has made.
    """

    spaces: dict[str, Space]
    stage: Stage
    known: tuple[torch.Tensor, torch.Tensor]
    held_out: tuple[torch.Tensor, torch.Tensor]
    test: tuple[torch.Tensor, torch.Tensor]
    shots: dict[int, torch.Tensor]
    novel_test: dict[int, torch.Tensor]
    base: float
    tuned: dict[TuningConfig, tuple[Stage, torch.Tensor, dict[str, torch.Tensor]]] = field(default_factory=dict)

    def tuned_for_old(self, tuning: TuningConfig, scale: float) -> tuple[Stage, torch.Tensor, dict[str, torch.Tensor]]:
        """Stage and weights tuned for the old classes alone, and embeddings of ``held_out`` and ``test``; made once."""
        if tuning not in self.tuned:
            old = self.spaces["whitened"].old
            stage, weights = tune_encoder(self.stage, old, self.known, None, tuning, scale=scale)
            self.tuned[tuning] = stage, weights, self.embedded_by(stage)
        return self.tuned[tuning]

    def embedded_by(self, stage: Stage) -> dict[str, torch.Tensor]:
        """Embeddings float32 (N, D) of ``held_out`` and of ``test``."""
        return {part: stage.embed(getattr(self, part)[0]) for part in ("held_out", "test")}


def prepare(
    encoder: Encoder,
    data: Embedded,
    shrinkage: float,
    images: Mapping[str, torch.Tensor],
    novel: Sequence[int],
) -> Prepared:
    """Compute what runs share.

    Args:
        encoder: the base network.
        data: embeddings of its study.
        shrinkage: of the whitening.
        images: by the part of ``data`` the images that its rows belong to, uint8 (N, H, W, 3).
        novel: classes that will be added.
    """
    whitening = Whitening.fit(*data.known, shrinkage)
    space = Space.of(data.mapped(whitening))
    maps = {}
    for part in ("known", "held_out"):
        maps[part] = (stage_inputs(encoder, images[part]), getattr(space, part)[1])
    is_old = torch.isin(data.test[1], torch.tensor(data.old))
    maps["test"] = (stage_inputs(encoder, images["test"][is_old]), space.test[1])
    by_class = [
        {label: stage_inputs(encoder, images[part][getattr(data, part)[1] == label]) for label in novel}
        for part in ("shots", "test")
    ]
    base = 100 * float(space.accuracy(space.test).double().mean())
    stage = Stage.of(encoder, whitening)
    return Prepared({"whitened": space}, stage, **maps, shots=by_class[0], novel_test=by_class[1], base=base)


def run(
    method: str, label: int, shots: torch.Tensor, prepared: Prepared, tuning: TuningConfig, study: ImprintingConfig
) -> dict[str, float]:
    """Add one class and judge on the test images.

    Args:
        method: a name in ``METHODS``.
        label: the class.
        shots: int64 (K,), which of the study's ``shots`` are used.
        prepared: from ``prepare``.
        tuning: see ``tune_encoder``.
        study: scale and budget.

    Returns:
        percentages by the names of ``METRICS``.

    Raises:
        UnknownNameError: no such method.
    """
    space = prepared.spaces["whitened"]
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if method == "whitened":
        found = measure(method, prepared.spaces, [(label,)], [shots[None]], study)
        values = {f"{part}_acc{end}": float(getattr(found, part)[bias]) for part, bias, end in _PARTS}
        return {**values, "novel_acc_for_one_point": float(found.curve[0, LOSSES.index(1.0)])}
    within = torch.searchsorted((space.data.shots[1] == label).nonzero().flatten(), shots)
    own = prepared.shots[label][within]
    if method == "old only":
        stage, old, embedded = prepared.tuned_for_old(tuning, study.scale)
        novel = imprinted(stage.embed(own))[None, None]
    else:
        stage, weights = tune_encoder(prepared.stage, space.old, prepared.known, own, tuning, scale=study.scale)
        old, novel = weights[:-1], weights[None, -1:]
        embedded = prepared.embedded_by(stage)
    new = stage.embed(prepared.novel_test[label])
    rows = torch.zeros(len(new), dtype=torch.int64)
    held, found = (
        leads(old, novel, (embedded[part], getattr(prepared, part)[1]), (new, rows), study.scale)
        for part in ("held_out", "test")
    )
    biases = {"none": 0.0, "budget": bias_for_budget(held.old, held.old_right, study.budget)}
    both = {name: dict(zip(("old", "novel"), found.accuracies(bias), strict=True)) for name, bias in biases.items()}
    values = {f"{part}_acc{end}": float(both[bias][part]) for part, bias, end in _PARTS}
    return {**values, "novel_acc_for_one_point": float(novel_at_losses(found, prepared.base, (1.0,)))}


_PARTS = (("old", "none", ""), ("novel", "none", ""), ("old", "budget", "_budget"), ("novel", "budget", "_budget"))


# --- the study ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MovedRun:
    """One class added once by each method.

    Attributes:
        novel: the class.
        shots: how many images it is learned from.
        shot_set: number of the random set.
        joint: whether these are all images of the class.
    """

    novel: int
    shots: int
    shot_set: int
    joint: bool = False


def planned_runs(data: Embedded, config: MovedConfig, study: ImprintingConfig) -> list[MovedRun]:
    """All runs, one set of shots for every class and number of shots before the next set; the joint ones after one."""
    novel = chosen_classes(data, dataclasses.replace(study, novel_classes=config.classes))
    everything = int(torch.bincount(data.shots[1])[list(novel)].min())
    runs = []
    for number in range(config.shot_sets):
        runs += [MovedRun(label, count, number) for count in study.shots for label in novel]
        if number == 0:
            runs += [MovedRun(label, everything, 0, joint=True) for label in novel]
    return runs


def run_moved(
    config: MovedConfig,
    study: ImprintingConfig,
    train_set: ImageSet,
    test_set: ImageSet,
    *,
    only_shots: Sequence[int] = (),
    device: str = "auto",
    progress: bool = True,
) -> pd.DataFrame:
    """Add classes with and without moving the encoder; what is stored already is not run again.

    Args:
        config: of this part.
        study: of the whole; the base network is trained if it is not stored.
        train_set: training images.
        test_set: test images.
        only_shots: run these numbers of shots alone, so that several processes can share the work.
        device: for the base network; the last stage is tuned on the CPU.
        progress: show a progress bar.

    Returns:
        the table as stored, one row a run and method.

    Raises:
        ResultsError: what is stored was run with other settings.
    """
    encoder = train_base(study.base, train_set, device=device, progress=progress)
    tunings = {"few": dataclasses.asdict(config.few), "joint": dataclasses.asdict(config.joint)}
    settings = {"tuning": tunings, "study": study.to_json()}
    done = _stored_runs(settings)
    cache = project.project_root() / "runs" / RECORD / f"embeddings-{base_fingerprint()}.safetensors"
    data = embed_all(encoder, study.base, train_set, test_set, cache)
    runs, names = planned_runs(data, config, study), test_set.class_names
    runs = [one for one in runs if not only_shots or one.shots in only_shots]
    todo = [one for one in runs if (names[one.novel], one.shots, one.shot_set) not in done]
    if not todo:
        return stored_moved()
    images = {part: train_set.images[rows] for part, rows in training_rows(study.base, train_set).items()}
    novel = sorted({one.novel for one in todo})
    prepared = prepare(encoder, data, study.shrinkage, {**images, "test": test_set.images}, novel)
    results.store_json(RECORD, {**settings, "provenance": provenance.provenance("cpu")})
    with tqdm(total=len(runs), initial=len(runs) - len(todo), unit="run", desc="moved", disable=not progress) as bar:
        for one in todo:
            shots = draw_shots(data, one.novel, one.shots, one.shot_set, study.base.seed)
            tuning = dataclasses.replace(config.joint if one.joint else config.few, seed=one.shot_set)
            found = {}
            for method in METHODS:
                begun = time.perf_counter()
                values = run(method, one.novel, shots, prepared, tuning, study)
                found[method] = {**values, "seconds": time.perf_counter() - begun}
            _store(names[one.novel], one, found)
            bar.update()
    return stored_moved()


def _stored_runs(settings: Mapping[str, Any]) -> set[tuple[str, int, int]]:
    """Novel class, shots and shot set of every stored run.

    Raises:
        ResultsError: what is stored was run with other settings.
    """
    if not table_path().exists():
        return set()
    record = results.load_json(RECORD)
    if {key: record.get(key) for key in settings} != json.loads(json.dumps(settings)):
        raise ResultsError(
            f"{table_path()} holds runs with other settings; move it and {RECORD}.json away to start again."
        )
    table = stored_moved()
    return set(zip(table.novel, table.shots, table.shot_set))


def _store(name: str, one: MovedRun, found: Mapping[str, Mapping[str, float]]) -> None:
    """Put all methods' numbers of a run into the table, in one step."""
    key = {"novel": name, "shots": one.shots, "shot_set": one.shot_set}
    rows = [{"method": method, **key, **values} for method, values in found.items()]
    new = pd.DataFrame(rows)[list(COLUMNS)].round(4)
    path = table_path()
    with locked(path.with_name(f".{path.name}.lock")):
        if path.exists():
            new = pd.concat([results.read_table(path, COLUMNS), new], ignore_index=True)
        write_text_atomically(path, new.to_csv(index=False, lineterminator="\n"))


def stored_moved() -> pd.DataFrame:
    """The stored rows of ``results/imprinting_moved.csv``, one a run and method.

    Raises:
        ResultsError: nothing is stored, or the table is damaged.
    """
    return results.read_table(table_path(), COLUMNS)


def moved_summary(table: pd.DataFrame, old_classes: int = 40) -> pd.DataFrame:
    """Means over the runs of each method and number of shots, with 95% intervals over the classes.

    Args:
        table: from ``stored_moved``.
        old_classes: of the base network, for the accuracy over all classes.

    Returns:
        columns ``method, shots, metric, value, ci95, n``; metrics are those of ``METRICS``, ``overall_acc`` and
        ``overall_acc_budget``; the methods in ``DIFFERENCES`` are what moving adds, run by run.
    """
    for end in ("", "_budget"):
        both = overall(table[f"old_acc{end}"], table[f"novel_acc{end}"], old_classes, 1)
        table = table.assign(**{f"overall_acc{end}": both})
    metrics = [*METRICS, "overall_acc", "overall_acc_budget"]
    keyed = table.set_index(["method", "novel", "shots", "shot_set"])[metrics]
    parts = {method: keyed.loc[method] for method in METHODS}
    for name, base in DIFFERENCES.items():
        parts[name] = keyed.loc["moved"] - keyed.loc[base]
    rows = []
    for method, part in parts.items():
        for shots, group in part.groupby(level="shots"):
            clusters = torch.from_numpy(group.index.get_level_values("novel").factorize()[0].astype("int64"))
            for metric in metrics:
                found = over_clusters(torch.tensor(group[metric].to_numpy(), dtype=torch.float64), clusters)
                rows.append((method, shots, metric, found.value, found.ci95, found.n))
    return pd.DataFrame(rows, columns=["method", "shots", "metric", "value", "ci95", "n"])


# --- how the settings were chosen -----------------------------------------------------------------


@dataclass(frozen=True)
class MovedTrial:
    """One setting that was tried before any novel class was looked at.

    Attributes:
        name: short and unique.
        expectation: what was expected before the run.
        shots: numbers of shots it is tried with.
        tuning: ``None`` leaves the encoder as it is.
    """

    name: str
    expectation: str
    shots: tuple[int, ...]
    tuning: TuningConfig | None = None


FEW = (5, 20)
TRIALS: tuple[MovedTrial, ...] = (
    MovedTrial("frozen", "What the others are compared with.", (*FEW, 250)),
    MovedTrial("few", "Better with twenty shots; five are soon known by heart.", FEW, TuningConfig()),
    MovedTrial("few-slowly", "Between the two.", FEW, TuningConfig(rate=3e-5)),
    MovedTrial("few-longer", "The shots are known by heart.", FEW, TuningConfig(steps=60)),
    MovedTrial("few-longest", "Longer was better; by now the shots are known by heart.", FEW, TuningConfig(steps=120)),
    MovedTrial("few-half-frozen", "The seed's schedule; about the same.", FEW,
               TuningConfig(steps=60, frozen_share=0.5)),
    MovedTrial("few-adaptive", "The seed's loss: more novel images named, and more by mistake.", FEW,
               TuningConfig(steps=60, adapt=0.1)),
    MovedTrial("all", "Better by far: with 250 images the encoder can learn the class.", (250,),
               TuningConfig(steps=100, rate=3e-4, batch=128)),
    MovedTrial("all-fast", "Too fast for the old classes.", (250,), TuningConfig(steps=100, rate=1e-3, batch=128)),
)  # fmt: skip


def run_moved_trials(study: ImprintingConfig, train_set: ImageSet, *, progress: bool = True) -> pd.DataFrame:
    """Try every setting of ``TRIALS`` that is not stored yet, without a novel class or a test image.

    As in ``imprinting_study.run_trials`` the encoder is the sweep's 20-80 network, and classes that it has not learned
    take the place of novel ones, every other one here; the weights are tuned on images the network learned from, and
    old classes are judged on those held out.

    Args:
        study: its whitening and scale.
        train_set: training images.
        progress: show a progress bar.

    Returns:
        the table as stored.

    Raises:
        CheckpointError: the sweep's checkpoint is missing.
    """
    encoder, info, others = trial_network(study, train_set)
    old, novel = class_split(TRIAL_SPLIT, 0, train_set.num_classes).seen, others[::2]
    known, held_out = hold_out_images(train_set.labels, old, info["config"]["held_out_images"], info["seed"])
    stand_ins = train_set.indices_of(novel)
    rows = {"known": known, "held_out": held_out, "tuning": held_out, "shots": stand_ins[::2]}
    rows["test"] = torch.cat([held_out, stand_ins[1::2]])
    images = {part: train_set.images[positions] for part, positions in rows.items()}
    parts = {part: (encoder.embed(images[part]), train_set.labels[positions]) for part, positions in rows.items()}
    data = Embedded(**parts, old=old, novel=novel)
    prepared = prepare(encoder, data, study.shrinkage, images, novel)
    stored = stored_trials(trials_path())
    todo = [(trial, count) for trial in TRIALS for count in trial.shots if (trial.name, count) not in stored]
    for trial, count in tqdm(todo, unit="trial", desc="settings", disable=not progress):
        method = "whitened" if trial.tuning is None else "moved"
        found = []
        for label in novel:
            shots = draw_shots(data, label, count, 0, study.base.seed)
            found.append(run(method, label, shots, prepared, trial.tuning or TuningConfig(), study))
        values = torch.tensor([one["novel_acc_for_one_point"] for one in found], dtype=torch.float64)
        store_trial(trial.name, count, values, 1, trials_path())
    return results.read_table(trials_path(), TRIAL_COLUMNS)


def moved_trial_log() -> pd.DataFrame:
    """The stored trials: what was expected, and accuracy for one point of old accuracy by the number of shots.

    Raises:
        ResultsError: no trial is stored.
    """
    return log_of(TRIALS, trials_path()).fillna("")
