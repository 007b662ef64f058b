"""What does a check of a folder find? Photographs among which wrong labels and doubles were planted.

The thresholds were not chosen on one half alone: that of wrong labels on another random half of the classes, which
overlaps with both, and those of doubles with a look at pairs of all classes. So neither half is wholly new to them.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from siamese_utils.data.photos import Half, Photos, find_photos
from siamese_utils.data.sampling import named_rng
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.evaluation.estimates import Estimate, difference_of_shares, exact, mean_estimate, share_estimate
from siamese_utils.experiments.study import Bench, Outcome, Run, Study
from siamese_utils.recognition.check import judge
from siamese_utils.recognition.doubles import Double, find_doubles
from siamese_utils.recognition.embedding import embed_files
from siamese_utils.recognition.heads import MOST_TURNS, fit_head, leave_one_out
from siamese_utils.recognition.support import Support, content_digest

ENCODER = "efficientnet-lite0"
WRONG = 0.05
"""Share of labels that are planted wrong."""
REPEATS = 40
"""Folders that are made for each run."""
EXAMPLES = (3, 5, 8, 16)
COPIED = 30
"""Images of which doubles are planted, of each kind."""

COPIES: dict[str, tuple[str, Callable[[Image.Image], Image.Image], dict[str, Any]]] = {
    "saved again": (".jpg", lambda image: image, {"quality": 60}),
    "half as large": (".jpg", lambda image: image.resize((image.width // 2, image.height // 2)), {"quality": 90}),
    "mirrored": (".png", ImageOps.mirror, {}),
    "brighter": (".jpg", lambda image: ImageEnhance.Brightness(image).enhance(1.2), {"quality": 90}),
    "grey": (".png", lambda image: image.convert("L"), {}),
    "cropped": (".png", lambda image: ImageOps.crop(image, round(0.05 * min(image.size))), {}),
}
"""Kinds of doubles that are planted: ending, change, and how it is saved."""


def runs() -> list[Run]:
    """One half of the classes, then the other, with more and more examples of each class."""
    settings = {"encoder": ENCODER, "wrong": WRONG, "repeats": REPEATS, "copied": COPIED, "turns": MOST_TURNS}
    return [
        Run({"half": half, "examples": examples}, {**settings, "half": half, "examples": examples})
        for half in ("choosing", "reporting")
        for examples in EXAMPLES
    ]


def carry_out(run: Run, bench: Bench) -> Outcome:
    """Plant and look: wrong labels in many folders, and doubles where all the examples are in one."""
    half, examples = run.key["half"], run.key["examples"]
    metrics = wrong_labels(half, examples)
    if examples == max(EXAMPLES):
        metrics |= planted_doubles(half)
    return Outcome(metrics)


@lru_cache
def _embedded(half: Half) -> tuple[Photos, torch.Tensor, tuple[str, ...], list[Double]]:
    """Photographs of a half of the classes, their embeddings, digests and doubles."""
    photos = find_photos().half(half)
    z, contents = embed_files(load_encoder(ENCODER), photos.files).z, tuple(map(content_digest, photos.files))
    return photos, z, contents, find_doubles(photos.files, contents, z)


def wrong_labels(half: Half, examples: int) -> dict[str, Estimate]:
    """How many wrong labels a check finds, and how near its accuracy is to that on images outside the folder."""
    photos, z, contents, doubles = _embedded(half)
    rng = named_rng(0, f"folder checks, {half}, {examples}")
    counts: Counter[str] = Counter()
    shares: dict[str, list[float]] = defaultdict(list)
    for _ in range(REPEATS):
        rows, others = _drawn(photos.labels, examples, rng)
        support = Support(photos.class_names, tuple(photos.files[row] for row in rows), photos.labels[rows], ())
        support = dataclasses.replace(support, contents=tuple(contents[row] for row in rows))
        pairs = _among(doubles, rows)
        sound = _report(support, z[rows], pairs)
        if len(others):
            predicted = fit_head(z[rows], support.labels).scores(z[others]).argmax(dim=1)
            hits = int((predicted == photos.labels[others]).sum())
            by_itself, truth = round(sound.accuracy * sound.judged / 100), hits / len(others)
            alone = leave_one_out(z[rows], support.labels, "auto") == support.labels
            low, high = difference_of_shares(by_itself, sound.judged, hits, len(others))
            shares["too_high"].append(sound.accuracy / 100 - truth)
            shares["too_high_alone"].append(float(alone.double().mean()) - truth)
            shares["covered"].append(float(low <= 0 <= high))
        labels, planted = _mislabelled(support.labels, rng)
        found = set(_report(dataclasses.replace(support, labels=labels), z[rows], pairs).suspects.file)
        wrong = {str(support.files[row]) for row in planted}
        counts.update(planted=len(wrong), named=len(found), found=len(wrong & found))
    flags = torch.arange(counts["planted"]) < counts["found"]
    metrics = {"wrong_recall": share_estimate(flags)}
    if counts["named"]:
        metrics["wrong_precision"] = share_estimate(torch.arange(counts["named"]) < counts["found"])
    return metrics | {name: mean_estimate(torch.tensor(values)) for name, values in shares.items()}


def _report(support: Support, z: torch.Tensor, doubles: Sequence[Double] = ()) -> Any:
    return judge(support, z, range(len(z)), {}, Path("photos"), _Named(), doubles)


def _among(doubles: Sequence[Double], rows: Sequence[int]) -> list[Double]:
    """Those of which both images are in the drawn rows, with their positions there."""
    place = {row: position for position, row in enumerate(rows)}
    both = (one for one in doubles if one.first in place and one.second in place)
    return [dataclasses.replace(one, first=place[one.first], second=place[one.second]) for one in both]


class _Named:
    name, note = ENCODER, ""


def _drawn(labels: torch.Tensor, examples: int, rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """Rows of so many random images of each class, class after class, and all other rows."""
    rows: list[int] = []
    for label in labels.unique().tolist():
        of_class = torch.nonzero(labels == label).flatten().numpy()
        rows += sorted(rng.permutation(of_class)[:examples].tolist())
    chosen = set(rows)
    return rows, [row for row in range(len(labels)) if row not in chosen]


def _mislabelled(labels: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, list[int]]:
    """Labels of which some are those of another class, and where."""
    count = max(1, round(WRONG * len(labels)))
    rows = rng.choice(len(labels), count, replace=False).tolist()
    changed, classes = labels.clone(), int(labels.max()) + 1
    for row in rows:
        changed[row] = (int(labels[row]) + int(rng.integers(1, classes))) % classes
    return changed, rows


def planted_doubles(half: Half) -> dict[str, Estimate]:
    """How many changed copies are found, by kind, and how many other pairs are named."""
    photos, z, contents, in_data = _embedded(half)
    rows = named_rng(0, f"planted doubles, {half}").choice(len(z), COPIED, replace=False).tolist()
    metrics: dict[str, Estimate] = {}
    own = {(one.first, one.second) for one in in_data}
    twin = {second: first for first, second in own} | dict(own)
    others = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, made in COPIES.items():
            copies = [_copied(photos.files[row], Path(folder) / kind / str(row), made) for row in rows]
            more = embed_files(load_encoder(ENCODER), copies).z
            digests = (*contents, *map(content_digest, copies))
            named = find_doubles((*photos.files, *copies), digests, torch.cat([z, more]))
            found = {(one.first, one.second) for one in named} - own
            # A copy of an image that has a double in the data is named with either of the two.
            planted = {(one, len(z) + i) for i, row in enumerate(rows) for one in (row, twin.get(row, row))}
            metrics[f"doubles_{kind.replace(' ', '_')}"] = share_estimate(torch.arange(COPIED) < len(planted & found))
            others += len(found - planted)
    return metrics | {"doubles_in_the_data": exact(len(own)), "doubles_wrong": exact(others)}


def _copied(
    file: Path, target: Path, made: tuple[str, Callable[[Image.Image], Image.Image], Mapping[str, Any]]
) -> Path:
    ending, change, options = made
    target = target.with_suffix(ending)
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(file) as image:
        change(image.convert("RGB")).save(target, **options)
    return target


FOLDER_CHECKS = Study(
    "folder_checks",
    "What does a check of a folder of examples find?",
    runs,
    carry_out,
    key=("half", "examples"),
    metrics={
        "wrong_recall": "of the labels planted wrong, how many are named",
        "wrong_precision": "of the examples named as mislabelled, how many are planted",
        "too_high": "the folder's accuracy by itself minus that on other images of its classes, points",
        "too_high_alone": "the same if one image were left out at a time, and none of the other classes",
        "covered": "how often the 95% interval of that difference holds zero, from the number of images on either side",
        **{f"doubles_{kind.replace(' ', '_')}": f"of doubles that are {kind}, how many are found" for kind in COPIES},
        "doubles_in_the_data": "pairs found before any were planted",
        "doubles_wrong": "pairs named that are neither planted nor among those",
    },
)
