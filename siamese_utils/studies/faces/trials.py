"""Trials by which the face study was set up, and the sensitivity of the assignment's network to its settings.

Both are judged on validation people alone; neither opens the test set. Results are in ``results/face_trials.csv`` and
``results/face_grid.csv``, with a record of each run beside them.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pandas as pd

from siamese_utils.data.faces import FaceSet, load_training_faces, split_by_person
from siamese_utils.encoders.encoder import count_parameters
from siamese_utils.errors import ResultsError, unknown
from siamese_utils.evaluation import estimates
from siamese_utils.evaluation.estimates import Estimate, wilson
from siamese_utils.experiments import store as results
from siamese_utils.studies import validation as studies
from siamese_utils.studies.faces import study as face_study
from siamese_utils.studies.faces.koch import KochConfig
from siamese_utils.studies.faces.study import FaceConfig, train_embedding, train_pairs
from siamese_utils.studies.faces.verification import judge_embeddings, koch_score
from siamese_utils.system import project, provenance
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.losses import Term

TRIAL_STUDY, GRID_STUDY = "face_trials", "face_grid"
TRIAL_IMAGES = 50_000  # shown in a trial: some four minutes on two cores
GRID_EPOCHS = 5  # of the sensitivity runs; the assignment's own curves are flat from the second epoch on


# --- what is run ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class FaceTrial:
    """A short training with one change, judged on the validation people.

    Attributes:
        name: short and unique.
        expectation: what was expected before the run.
        changes: fields of ``face_study.EMBEDDING.train`` that are different.
        looks: fields of ``face_study.EMBEDDING`` that are different; the trials began with all people.
    """

    name: str
    expectation: str
    changes: tuple[tuple[str, object], ...] = ()
    looks: tuple[tuple[str, object], ...] = ()

    @property
    def config(self) -> FaceConfig:
        """What is trained: a fraction of the images that ``face_study.EMBEDDING`` shows."""
        short = {"least_images": TRIAL_IMAGES, "most_images": TRIAL_IMAGES, **dict(self.changes)}
        config = dataclasses.replace(face_study.EMBEDDING.train, recipe=f"{TRIAL_STUDY}/{self.name}", **short)  # type: ignore[arg-type]
        return dataclasses.replace(face_study.EMBEDDING, train=config, **{"repeat": True, **dict(self.looks)})  # type: ignore[arg-type]


# Three rounds of one change each: the objective; all else from the best of them, ``supcon``; and what is left from the
# best of these, ``supcon-no-singles``. Each is judged with one crop and with two.
_SUPCON = (Term("supcon"),)
_PROXY_AND_TRIPLET = (Term("proxy"), Term("triplet", weight=0.5, mining="batch_all", temperature=0.1))
TRIALS: tuple[FaceTrial, ...] = (
    FaceTrial("base", "What the next four are compared with: proxies and triplets, strong augmentation, all people.",
              changes=(("terms", _PROXY_AND_TRIPLET),)),
    FaceTrial("proxy", "About the same: with two photographs a person there are few triplets.",
              changes=(("terms", (Term("proxy"),)),)),
    FaceTrial("triplet", "Worse: without proxies a step sees 64 of some 1,700 people.",
              changes=(("terms", (Term("triplet", mining="batch_all", temperature=0.1),)),)),
    FaceTrial("supcon", "Better than triplets alone, as all strangers of a batch count at once.",
              changes=(("terms", _SUPCON),)),
    FaceTrial("pair-bce", "Worse: the assignment's loss, on all pairs of a batch.",
              changes=(("terms", (Term("pair_bce"),)),)),
    FaceTrial("supcon-grid", "Better: faces are aligned, so it matters in which part of the image a feature lies.",
              changes=(("terms", _SUPCON), ("encoder", "resnet9-16-grid4"))),
    FaceTrial("supcon-batch-256", "Better: more strangers a step, and with them more that look alike.",
              changes=(("terms", _SUPCON), ("batch_size", 256))),
    FaceTrial("supcon-sharp", "A little better: a lower temperature counts the strangers that look most alike.",
              changes=(("terms", (Term("supcon", temperature=0.05),)),)),
    FaceTrial("supcon-no-singles", "A little worse: half of the people are left out, but every pair is a real one.",
              changes=(("terms", _SUPCON),), looks=(("repeat", False),)),
    FaceTrial("pairs-wide", "Better for each image, but four times as slow: half the images take twice as long.",
              changes=(("terms", _SUPCON), ("encoder", "resnet9-32"), ("least_images", TRIAL_IMAGES // 2),
                       ("most_images", TRIAL_IMAGES // 2)), looks=(("repeat", False),)),
    FaceTrial("pairs-tight", "A little worse: hair and outline of the head, which tell people apart, are cut off.",
              changes=(("terms", _SUPCON),),
              looks=(("repeat", False), ("crop", 104), ("judged_crops", (104, 92)))),
    FaceTrial("pairs-unvaried", "Clearly worse: two photographs of a person do not show all that may change.",
              changes=(("terms", _SUPCON), ("augment", AugmentConfig(translate=2))), looks=(("repeat", False),)),
)  # fmt: skip


@dataclass(frozen=True)
class GridRun:
    """A run of the assignment's network with one setting changed, judged on the validation pairs alone.

    Attributes:
        parameter: what is changed: a field of ``KochConfig``.
        value: its value.
    """

    parameter: str
    value: float | str

    @property
    def name(self) -> str:
        """Name of the run in the study's table."""
        return f"{self.parameter}={self.value}"

    @property
    def config(self) -> KochConfig:
        """What is trained; a run over more epochs never stops early, for its history is read at each of them."""
        if self.parameter == "epochs":
            return dataclasses.replace(face_study.KOCH, epochs=int(self.value), patience=0)
        return dataclasses.replace(face_study.KOCH, epochs=GRID_EPOCHS, patience=0, **{self.parameter: self.value})  # type: ignore[arg-type]


READ_EPOCHS = (1, 2, 3, 5, 10, 15, 20, 30)
# The assignment's own setting stands in every curve, from the history of its run of 30 epochs.
GRID: tuple[GridRun, ...] = (
    GridRun("epochs", READ_EPOCHS[-1]),
    *(GridRun("learning_rate", rate) for rate in (5e-6, 1e-5, 3e-5, 7e-5, 1e-4, 1e-3)),
    *(GridRun("batch_size", size) for size in (8, 16, 48, 64)),
    GridRun("framing", "window"),
    GridRun("pixel_scale", round(1 / 255, 6)),
)


# --- running --------------------------------------------------------------------------------------


class _Planned(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def config(self) -> FaceConfig | KochConfig: ...


_Run = TypeVar("_Run", bound=_Planned)
_Outcome = tuple[dict[str, Estimate], dict[str, Any]]  # metrics; what the record holds beside configuration and origin


def _is_stored(study: str, trial: str, config: dict[str, Any]) -> bool:
    try:
        record, table = studies.read_record(study, trial), studies.read_study(study)
    except ResultsError:
        return False
    return record.get("config") == config and bool((table.trial == trial).any())


def _run_missing(
    study: str,
    planned: Sequence[_Run],
    only: Iterable[str],
    faces: FaceSet | None,
    device: str,
    carry_out: Callable[[_Run, FaceSet, FaceSet], _Outcome],
) -> Iterator[tuple[_Run, dict[str, Estimate]]]:
    """Carry out what is wanted and not stored, on training and validation people, and store each as it ends."""
    wanted, names = set(only), [run.name for run in planned]
    if strange := wanted - set(names):
        raise unknown("trial" if study == TRIAL_STUDY else "sensitivity run", min(strange), names)
    for run in planned:
        if wanted and run.name not in wanted:
            continue
        config = run.config.to_json()
        if _is_stored(study, run.name, config):
            yield run, {}
            continue
        faces = faces or load_training_faces()
        training, validation = split_by_person(faces, face_study.VALIDATION_SHARE)
        computed_with = provenance.provenance(device)
        metrics, record = carry_out(run, training, validation)
        results.write_record(
            studies.record_path(study, run.name, 0), {"config": config, **record, "provenance": computed_with}
        )
        results.store_run(
            {"trial": run.name, "seed": 0}, metrics, "", table=studies.study_path(study), columns=studies.STUDY_COLUMNS
        )
        yield run, metrics


def run_trials(
    faces: FaceSet | None = None, *, only: Iterable[str] = (), device: str = "auto", progress: bool = True
) -> Iterator[tuple[FaceTrial, dict[str, Estimate]]]:
    """Run the trials that are not stored yet; each is judged on validation people, never on test pairs.

    Args:
        faces: LFW's development training set; loaded if left out.
        only: names of trials; all if empty.
        device: see ``train``.
        progress: show a progress bar.

    Yields:
        each trial and its metrics, which are empty where it was stored already.

    Raises:
        UnknownNameError: ``only`` names no trial.
    """

    def carry_out(trial: FaceTrial, training: FaceSet, validation: FaceSet) -> _Outcome:
        config = trial.config
        trained = train_embedding(config, training, device=device, progress=progress)
        metrics, _ = judge_embeddings(trained.encoder, config.judged_crops, validation)
        alone, _ = judge_embeddings(trained.encoder, config.judged_crops[:1], validation)
        metrics |= {f"{name}_one_crop": estimate for name, estimate in alone.items()}
        metrics["seconds"] = estimates.exact(trained.seconds)
        return metrics, {
            "expectation": trial.expectation,
            "parameters": count_parameters(trained.encoder),
            "history": trained.history.to_dict(orient="records"),
        }

    yield from _run_missing(TRIAL_STUDY, TRIALS, only, faces, device, carry_out)


def run_grid(
    faces: FaceSet | None = None, *, only: Iterable[str] = (), device: str = "auto", progress: bool = True
) -> Iterator[tuple[GridRun, dict[str, Estimate]]]:
    """Run the sensitivity runs of the assignment's network that are not stored yet; arguments as ``run_trials``.

    A run that is killed goes on at its last epoch.

    Yields:
        each run and its metrics, which are empty where it was stored already.

    Raises:
        UnknownNameError: ``only`` names no run.
    """

    def folder(run: GridRun) -> Path:
        return project.project_root() / "runs" / f"{GRID_STUDY}-{run.name}"

    def carry_out(run: GridRun, training: FaceSet, validation: FaceSet) -> _Outcome:
        result = train_pairs(run.config, training, validation, run_dir=folder(run), device=device, progress=progress)
        metrics = {
            **face_study.judge_koch(koch_score(result)(validation), validation.pairs.same),
            "loss_validation": estimates.exact(result.history.validation_loss.iloc[-1]),
            "loss_train": estimates.exact(result.history.loss.iloc[-1]),
            "seconds": estimates.exact(result.seconds),
        }
        return metrics, {
            "history": result.history.to_dict(orient="records"), "validation_pairs": len(validation.pairs.same)
        }  # fmt: skip

    for run, metrics in _run_missing(GRID_STUDY, GRID, only, faces, device, carry_out):
        shutil.rmtree(folder(run), ignore_errors=True)  # all is stored
        yield run, metrics


# --- what came out --------------------------------------------------------------------------------


def trial_log() -> pd.DataFrame:
    """The stored trials: percent on validation people with 95% intervals, and what was expected.

    The area under the curve is over all pairs of photographs, the accuracy over the pairs of LFW's list alone.

    Raises:
        ResultsError: no trial is stored.
    """
    table = studies.read_study(TRIAL_STUDY)
    rows = []
    for trial in TRIALS:
        run = table[table.trial == trial.name].set_index("metric")
        if run.empty:
            continue
        row = {"trial": trial.name}
        for metric, heading in (
            ("auc_validation_all", "AUC"),
            ("auc_validation_all_one_crop", "AUC, one crop"),
            ("acc_validation", "accuracy"),
        ):
            row[heading] = f"{run.value[metric]:.1f} ± {run.ci95[metric]:.1f}"
        rows.append({**row, "expected beforehand": trial.expectation})
    return pd.DataFrame(rows)


def sensitivity_table() -> pd.DataFrame:
    """Validation accuracy and loss by setting: ``parameter, value, epochs, accuracy, ci95, loss``, sorted.

    The assignment's setting is the run over 30 epochs, read after as many epochs as the others take.

    Raises:
        ResultsError: the run over 30 epochs is not stored.
    """
    long = studies.read_record(GRID_STUDY, GRID[0].name)
    history, pairs = long["history"], long["validation_pairs"]

    def row(parameter: str, value: object, epochs: int, entry: dict[str, float]) -> dict[str, object]:
        share = entry["validation_accuracy"]
        low, high = wilson(round(share * pairs / 100), pairs)
        return {
            "parameter": parameter, "value": value, "epochs": epochs, "accuracy": share,
            "ci95": (high - low) / 2, "loss": entry["validation_loss"],
        }  # fmt: skip

    rows = [row("epochs", epochs, epochs, history[epochs - 1]) for epochs in READ_EPOCHS if epochs <= len(history)]
    for parameter in dict.fromkeys(run.parameter for run in GRID[1:]):
        own = [row(parameter, getattr(face_study.KOCH, parameter), GRID_EPOCHS, history[GRID_EPOCHS - 1])]
        for run in GRID[1:]:
            if run.parameter == parameter and _is_stored(GRID_STUDY, run.name, run.config.to_json()):
                entries = studies.read_record(GRID_STUDY, run.name)["history"]
                own.append(row(parameter, run.value, len(entries), entries[-1]))
        rows += sorted(own, key=lambda one: one["value"])
    return pd.DataFrame(rows)


_SETTINGS = {
    "learning_rate": "Learning rate", "epochs": "Epochs", "batch_size": "Batch size", "framing": "Framing",
    "pixel_scale": "Scale of the pixels",
}  # fmt: skip


def sensitivity_sentences(table: pd.DataFrame) -> str:
    """What the settings come to, one line each in Markdown: where accuracy is lowest, highest, and clearly different.

    Two accuracies count as different when they lie further apart than the 95% interval of a difference between two
    independent samples of this size. Both rest on the same pairs here, so that is careful.

    Args:
        table: of ``sensitivity_table``.
    """
    lines = []
    for parameter, rows in table.groupby("parameter", sort=False):
        usual = rows[rows.value == getattr(face_study.KOCH, parameter)].iloc[0]
        if len(rows) < 2:
            continue
        low, high = rows.loc[rows.accuracy.idxmin()], rows.loc[rows.accuracy.idxmax()]
        apart = (rows.ci95**2 + usual.ci95**2) ** 0.5
        clear = [f"{value:g}" if isinstance(value, (int, float)) else str(value)
                 for value in rows.value[(rows.accuracy - usual.accuracy).abs() > apart]]  # fmt: skip
        lines.append(
            f"- **{_SETTINGS[parameter]}**: from {low.accuracy:.1f}% (at {low.value}) to {high.accuracy:.1f}% (at "
            f"{high.value}); the assignment's {usual.value} gives {usual.accuracy:.1f} ± {usual.ci95:.1f}%. "
            + (f"Clearly different from it: {', '.join(clear)}." if clear else "None is clearly different from it.")
        )
    return "\n".join(lines)
