"""Trials by which the face study was set up, and the sensitivity of the assignment's network to its settings.

Both are judged on validation people alone; neither opens the test set.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from siamese_utils.data.faces import FaceSet, load_training_faces, split_by_person
from siamese_utils.evaluation.estimates import exact
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, training_record
from siamese_utils.studies.faces.study import METRICS
from siamese_utils.studies.faces.systems import EMBEDDING, KOCH, train_embedding, train_pairs
from siamese_utils.studies.faces.verification import judge_embeddings, judge_log_odds, koch_score
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.losses import Term

TRIAL_IMAGES = 50_000  # shown in a trial: some four minutes on two cores
GRID_EPOCHS = 5  # of the sensitivity runs; the assignment's own curves are flat from the second epoch on
READ_EPOCHS = (1, 2, 3, 5, 10, 15, 20, 30)


def _people(bench: Bench) -> tuple[FaceSet, FaceSet]:
    return split_by_person(bench.load(load_training_faces))


# ---------------------------------------------------------------------------------------------- the trials


def _trial(name: str, expectation: str, looks: Mapping[str, Any] | None = None, **changes: Any) -> Run:
    """A short training with one change: of the training, or of how the network looks at a photograph.

    The trials began with all people, those with a single photograph among them.
    """
    short = {"least_images": TRIAL_IMAGES, "most_images": TRIAL_IMAGES, **changes}
    train = dataclasses.replace(EMBEDDING.train, recipe=f"face_trials/{name}", **short)
    config = dataclasses.replace(EMBEDDING, train=train, **{"repeat": True, **(looks or {})})
    return Run({"trial": name, "seed": 0}, {"config": config}, expectation, images=train.most_images)


def _trial_runs() -> list[Run]:
    """Three rounds of one change each, judged with one crop and with two.

    What is changed is the objective; all else from the best of them, ``supcon``; and what is left from the best of
    these, ``supcon-no-singles``.
    """
    proxy, supcon, pairs = Term("proxy"), (Term("supcon"),), {"repeat": False}
    triplet = Term("triplet", mining="batch_all", temperature=0.1)
    return [
        _trial(
            "base",
            "What the next four are compared with: proxies and triplets, strong augmentation, all people.",
            terms=(proxy, dataclasses.replace(triplet, weight=0.5)),
        ),
        _trial("proxy", "About the same: with two photographs a person there are few triplets.", terms=(proxy,)),
        _trial("triplet", "Worse: without proxies a step sees 64 of some 1,700 people.", terms=(triplet,)),
        _trial("supcon", "Better than triplets alone, as all strangers of a batch count at once.", terms=supcon),
        _trial("pair-bce", "Worse: the assignment's loss, on all pairs of a batch.", terms=(Term("pair_bce"),)),
        _trial(
            "supcon-grid",
            "Better: faces are aligned, so it matters in which part of the image a feature lies.",
            terms=supcon,
            encoder="resnet9-16-grid4",
        ),
        _trial(
            "supcon-batch-256",
            "Better: more strangers a step, and with them more that look alike.",
            terms=supcon,
            batch_size=256,
        ),
        _trial(
            "supcon-sharp",
            "A little better: a lower temperature counts the strangers that look most alike.",
            terms=(Term("supcon", temperature=0.05),),
        ),
        _trial(
            "supcon-no-singles",
            "A little worse: half of the people are left out, but every pair is a real one.",
            pairs,
            terms=supcon,
        ),
        _trial(
            "pairs-wide",
            "Better for each image, but four times as slow: half the images take twice as long.",
            pairs,
            terms=supcon,
            encoder="resnet9-32",
            least_images=TRIAL_IMAGES // 2,
            most_images=TRIAL_IMAGES // 2,
        ),
        _trial(
            "pairs-tight",
            "A little worse: hair and outline of the head, which tell people apart, are cut off.",
            {**pairs, "crop": 104, "judged_crops": (104, 92)},
            terms=supcon,
        ),
        _trial(
            "pairs-unvaried",
            "Clearly worse: two photographs of a person do not show all that may change.",
            pairs,
            terms=supcon,
            augment=AugmentConfig(translate=2),
        ),
    ]


def _try(run: Run, bench: Bench) -> Outcome:
    training, validation = _people(bench)
    trained, crops = train_embedding(run.config, training, bench), run.config.judged_crops
    metrics, _ = judge_embeddings(trained.encoder, crops, validation)
    alone, _ = judge_embeddings(trained.encoder, crops[:1], validation)
    metrics |= {f"{name}_one_crop": estimate for name, estimate in alone.items()}
    return Outcome({**metrics, "seconds": exact(trained.seconds)}, record=training_record(trained))


_JUDGED = ("acc_validation", "auc_validation", "auc_validation_all")
FACE_TRIALS = Study(
    "face_trials",
    "From whom, and by which objective, does a small network learn to tell strangers apart?",
    _trial_runs,
    _try,
    key=("trial", "seed"),
    metrics={
        **{name: METRICS[name] for name in (*_JUDGED, "seconds")},
        **{f"{name}_one_crop": f"{METRICS[name]}, one crop a photograph" for name in _JUDGED},
    },
)


# ---------------------------------------------------------------------------------------- the sensitivity


def _setting(parameter: str, value: float | str) -> Run:
    """The assignment's network with one field of its configuration changed.

    A run over more epochs never stops early, for its history is read at each of them.
    """
    changed = {"epochs": GRID_EPOCHS, "patience": 0, parameter: value}
    return Run({"trial": f"{parameter}={value}", "seed": 0}, {"config": dataclasses.replace(KOCH, **changed)})


def _grid_runs() -> list[Run]:
    """The assignment's own setting stands in every curve, from the history of the first run, over most epochs."""
    return [
        _setting("epochs", READ_EPOCHS[-1]),
        *(_setting("learning_rate", rate) for rate in (5e-6, 1e-5, 3e-5, 7e-5, 1e-4, 1e-3)),
        *(_setting("batch_size", size) for size in (8, 16, 48, 64)),
        _setting("framing", "window"),
        _setting("pixel_scale", round(1 / 255, 6)),
    ]


def _train_setting(run: Run, bench: Bench) -> Outcome:
    training, validation = _people(bench)
    trained = train_pairs(run.config, training, validation, bench)
    last, same = trained.history.iloc[-1], validation.pairs.same
    metrics = {
        **judge_log_odds(koch_score(trained)(validation), same),
        "loss_validation": exact(last.validation_loss),
        "loss_train": exact(last.loss),
        "seconds": exact(trained.seconds),
    }
    history = trained.history.to_dict(orient="records")
    return Outcome(metrics, record={"history": history, "validation_pairs": len(same), "seconds": trained.seconds})


FACE_GRID = Study(
    "face_grid",
    "How sensitive is the assignment's network to its settings?",
    _grid_runs,
    _train_setting,
    key=("trial", "seed"),
    metrics={name: METRICS[name] for name in METRICS if "test" not in name},
)
