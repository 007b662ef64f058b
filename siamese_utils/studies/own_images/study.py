"""How well are photographs of a user's own classes recognised from a few examples, and how surely?

Pooling, centring and the constants of ``recognition.unknown`` were chosen on one half of the classes of photographs.
Both halves are measured, and the other half is reported. Images of none of the classes judge thresholds that were
found without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from siamese_utils.data.images import ImageSet
from siamese_utils.data.photos import Photos, find_photos
from siamese_utils.data.sampling import Episodes, named_rng, sample_episodes
from siamese_utils.data.splits import class_split
from siamese_utils.encoders.base import ImageEncoder
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.depths import SHARE, TwoDepths
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.named import PHOTOS
from siamese_utils.evaluation.estimates import Estimate, mean_estimate
from siamese_utils.experiments.store import metric_rows
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, as_stored, complete
from siamese_utils.recognition.embedding import embed_files
from siamese_utils.recognition.heads import fit_head
from siamese_utils.recognition.unknown import fit_reading
from siamese_utils.studies.ensembles import draws
from siamese_utils.studies.ensembles.depths import OF_A_CLASS, examples_of
from siamese_utils.studies.ensembles.draws import SPLIT
from siamese_utils.studies.splits.study import SPLIT_SWEEP, split_run
from siamese_utils.system.project import results_dir

LITE = "efficientnet-lite0"
LONGER = "muon-manifold"
STEPS = {
    "report": f"the report's network of {SPLIT}, 32 pixels",
    "longer": f"that of an hour, by {LONGER}, 32 pixels",
    "photos": f"{PHOTOS}: the latter at two depths",
    "plain": f"{LITE}, plain means, cosine",
    "mirrored": "with mirror images",
    "pooled": "strong positions count more",
    "centred": "what all images share is taken away",
    "head": "the head that leave-one-out chooses",
}
"""What is done: two networks of the report's and one of these at two depths; then, step by step, another network."""
EXPECTATIONS = {
    "longer": "Three and a half points more at one example and two at five, as in a first look at the choosing half.",
    "photos": "One point more at one example and one and a half at five, as in a first look at the choosing half.",
}
"""Of the steps that were added after that look."""
HALVES = ("choosing", "reporting")
SHOTS = (1, 2, 5, 10)
WAYS = (5, 0)
"""Classes in an episode; 0 is all of a half."""
EPISODES, QUERIES, BINS = 600, 6, 10


def _runs() -> list[Run]:
    return [_run(step) for step in STEPS]


def _run(step: str) -> Run:
    settings: dict[str, Any] = {"episodes": EPISODES, "queries": QUERIES, "shots": list(SHOTS), "ways": list(WAYS)}
    if step not in EXPECTATIONS:
        return Run({"step": step}, settings, f"Each step is as good as the one before, or better: {STEPS[step]}.")
    if step == "photos":
        settings |= {"share": SHARE, "images": OF_A_CLASS}
    # What is trained for the first step is there for the second.
    missing = 0 if step == "photos" else draws.images_missing(0, [LONGER])
    return Run({"step": step}, settings, EXPECTATIONS[step], missing, draws.paths(0, [LONGER]))


class Eyes(NamedTuple):
    """What a step sees with.

    Attributes:
        encoder: that embeds.
        views: of an image.
        checkpoint: content of the encoder's file, where the step makes one.
    """

    encoder: ImageEncoder
    views: str
    checkpoint: bytes | None = None


def eyes_of(step: str, bench: Bench) -> Eyes:
    """The encoder of a step, and its views; a network of the report that is not stored is trained first."""
    if step == "report":
        return Eyes(load_encoder(SPLIT), "mirror")
    if step in EXPECTATIONS:
        complete(SPLIT_SWEEP, bench, [split_run(SPLIT, recipe=LONGER)])
        encoder = load_encoder(*draws.paths(0, [LONGER]))
        return Eyes(encoder, "mirror") if step == "longer" else photos_eyes(encoder, bench.train_set)
    encoder = load_encoder(LITE)
    if step in ("plain", "mirrored"):
        encoder.body.power = 1
    if step not in ("centred", "head"):
        encoder.centre.zero_()
    return Eyes(encoder, "none" if step == "plain" else "mirror")


def photos_eyes(encoder: Encoder, train_set: ImageSet) -> Eyes:
    """Two depths of a network of the split, centred by images of the classes that it has learned.

    Args:
        encoder: the network.
        train_set: where these images are.

    Returns:
        with what is stored, as it is loaded again.
    """
    seen = class_split(SPLIT, num_classes=train_set.num_classes).seen
    examples = examples_of(train_set, seen, OF_A_CLASS)
    source = {"split": SPLIT, "draw": 0, "seed": 0, "recipe": LONGER, "data": train_set.name, "classes": list(seen)}
    stored, content = as_stored(TwoDepths(encoder, examples), source)
    return Eyes(stored, stored.views, content)


def embedded(photos: Photos, eyes: Eyes) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the images of all classes, and of those of none."""
    z = embed_files(eyes.encoder, [*photos.files, *photos.unknown], views=eyes.views, cache=False).z
    return z[: len(photos.files)], z[len(photos.files) :]


def carry_out(run: Run, bench: Bench) -> Outcome:
    """Measure one step on both halves of the classes."""
    photos, step, settings = bench.load(find_photos), str(run.key["step"]), run.settings
    eyes = eyes_of(step, bench)
    z, strange = embedded(photos, eyes)
    rows, reliability = [], []
    for name in HALVES:
        half = photos.half(name)
        kept = [photos.files.index(file) for file in half.files]
        for ways in settings["ways"]:
            for shots in settings["shots"]:
                count = ways or len(half.class_names)
                rng = named_rng(0, f"own_images {name} {ways} {shots}")
                episodes = sample_episodes(half.labels, count, shots, settings["queries"], settings["episodes"], rng)
                metrics, sure, right = judged(z[kept], strange, episodes, "auto" if step == "head" else "prototype")
                place = {"half": name, "ways": ways, "shots": shots}
                rows.append(metric_rows(metrics).assign(**place))
                reliability.append(binned(sure, right).assign(**place))
    columns = ["half", "ways", "shots", "metric", "value", "ci95", "n"]
    tables = {"own_images_reliability": pd.concat(reliability, ignore_index=True).assign(step=step)}
    return Outcome(pd.concat(rows, ignore_index=True)[columns], eyes.checkpoint, tables=tables)


def judged(
    z: torch.Tensor, strange: torch.Tensor, episodes: Episodes, head: str
) -> tuple[dict[str, Estimate], np.ndarray, np.ndarray]:
    """Metrics of episodes; and of each query the probability of its answer, and whether it was right.

    Args:
        z: float32 (N, D), images of the classes.
        strange: float32 (M, D), images of none of them.
        episodes: of the former.
        head: see ``fit_head``.
    """
    ways, shots = episodes.support.shape[1:]
    labels, truth = (torch.arange(ways).repeat_interleave(n) for n in (shots, episodes.query.shape[2]))
    shares: dict[str, list[float]] = {name: [] for name in METRICS if name != "ece"}
    sure, right = [], []
    for support, query in zip(episodes.support, episodes.query):
        examples, queries = z[support.flatten()], z[query.flatten()]
        fitted = fit_head(examples, labels, head)
        reading = fit_reading(fitted, examples, labels)
        highest, said = reading.probabilities(fitted.scores(queries)).max(dim=1)
        sure.append(highest)
        right.append(said == truth)
        cosine = fit_head(examples, labels, "prototype")
        known, unknown = (cosine.scores(some).amax(dim=1) for some in (queries, strange))
        flags = np.arange(len(known) + len(unknown)) < len(known)
        shares["acc"].append(float(right[-1].float().mean()))
        shares["auroc"].append(float(roc_auc_score(flags, torch.cat([known, unknown]).numpy())))
        shares["refused"].append(float(reading.is_unknown(known).float().mean()))
        shares["accepted"].append(float((~reading.is_unknown(unknown)).float().mean()))
    metrics = {name: mean_estimate(torch.tensor(values)) for name, values in shares.items()}
    all_sure, all_right = torch.cat(sure).numpy(), torch.cat(right).numpy()
    bins = binned(all_sure, all_right)
    error = float((bins["count"] * (bins.probability - bins.right).abs()).sum() / bins["count"].sum())
    return {**metrics, "ece": Estimate(error, 0.0, len(all_sure))}, all_sure, all_right


def binned(sure: np.ndarray, right: np.ndarray) -> pd.DataFrame:
    """Answers in bins of their probability: ``bin``, ``probability`` and ``right`` (means, percent), ``count``."""
    table = pd.DataFrame({"bin": np.minimum((sure * BINS).astype(int), BINS - 1), "probability": sure, "right": right})
    means = 100 * table.groupby("bin")[["probability", "right"]].mean()
    return means.assign(count=table.groupby("bin").size()).round(3).reset_index()


def _checkpoint_path(run: Run) -> Path | None:
    return results_dir() / "checkpoints" / f"{PHOTOS}.safetensors" if run.key["step"] == "photos" else None


METRICS = {
    "acc": "accuracy, mean over episodes",
    "auroc": "AUROC of images of the classes against images of none",
    "refused": "images of the classes called unknown, at the threshold found in the support",
    "accepted": "images of none of the classes taken for one, at the same threshold",
    "ece": "expected calibration error of the probabilities",
}
OWN_IMAGES = Study(
    "own_images",
    "How well are photographs of one's own classes recognised, and how surely?",
    _runs,
    carry_out,
    key=("step",),
    metrics=METRICS,
    columns=("step", "half", "ways", "shots", "metric", "value", "ci95", "n"),
    tables=("own_images_reliability",),
    checkpoint=_checkpoint_path,
)
