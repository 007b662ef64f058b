"""The study of own images: carried out on a few made-up photographs, and told from what is stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import TINY
from torch.nn import functional as F

from siamese_utils.data.cifar import load_cifar100
from siamese_utils.data.images import ImageSet
from siamese_utils.data.photos import UNKNOWN, Photos, find_photos
from siamese_utils.data.sampling import sample_episodes
from siamese_utils.data.splits import class_split
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.depths import TwoDepths
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import ResultsError
from siamese_utils.experiments.study import Bench, Run, complete, keep, select, stored
from siamese_utils.studies.own_images import figures, findings, study
from siamese_utils.studies.own_images.study import OWN_IMAGES
from siamese_utils.studies.splits.study import split_run
from siamese_utils.system.project import results_dir
from siamese_utils.training import recipes

SETTINGS = {"episodes": 4, "queries": 2, "shots": list(study.SHOTS), "ways": [5, 0]}


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Twelve classes of one colour each, twelve images in each, and five of noise."""
    rng = np.random.default_rng(0)
    for label in range(12):
        colour = rng.integers(0, 256, 3)
        for number in range(12):
            pixels = np.clip(colour + rng.normal(0, 30, (8, 8, 3)), 0, 255).astype(np.uint8)
            path = tmp_path / "photos" / f"kind {label:02d}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
    (tmp_path / "photos" / UNKNOWN).mkdir()
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            tmp_path / "photos" / UNKNOWN / f"{number}.png"
        )
    return find_photos(tmp_path)


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = Encoder("conv3", 16, 32).eval()
    monkeypatch.setattr(study, "eyes_of", lambda step, bench: study.Eyes(encoder, "none"))


def test_each_step_is_measured_on_both_halves(photos: Photos, no_weights: None) -> None:
    bench = Bench("cpu", progress=False, given={(find_photos,): photos})
    outcome = study.carry_out(Run({"step": "head"}, SETTINGS), bench)
    rows = outcome.metrics
    assert set(rows.metric) == set(study.METRICS) and set(rows.half) == set(study.HALVES)
    assert len(rows) == len(study.METRICS) * 2 * 2 * len(study.SHOTS)
    assert rows.value.between(0, 100).all() and (rows.ci95 >= 0).all()
    bins = outcome.tables["own_images_reliability"]
    # five classes, or the six of a half, in both halves
    assert bins["count"].sum() == 4 * 2 * (5 + 6) * 2 * len(study.SHOTS)


def test_the_encoder_for_photographs_is_two_depths_of_a_network_of_the_report(
    photos: Photos, hundred: tuple[ImageSet, ImageSet], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", dataclasses.replace(TINY, encoder="resnet9-16", embedding_dim=None))
    monkeypatch.setattr(study, "LONGER", "tiny")
    planned = {run.key["step"]: run.images for run in OWN_IMAGES.runs()}
    assert planned["longer"] == split_run("90-10", recipe="tiny").images > 0 == planned["photos"]  # once
    given = {(find_photos,): photos, (load_cifar100, "train"): hundred[0], (load_cifar100, "test"): hundred[1]}
    bench = Bench("cpu", progress=False, given=given)
    runs = [dataclasses.replace(run, settings=run.settings | SETTINGS) for run in select(OWN_IMAGES, only=["photos"])]
    complete(OWN_IMAGES, bench, runs)
    assert [stored(OWN_IMAGES, run) for run in runs] == ["yes"]
    kept = load_encoder("siamese-photos")
    assert isinstance(kept, TwoDepths) and kept.source == "siamese-photos"
    assert kept.encoder.fingerprint == load_encoder("90-10:tiny").fingerprint
    # Its parts are centred by images of learned classes, of which the tiny set has eight each.
    seen = hundred[0].images[hundred[0].indices_of(class_split("90-10").seen)]
    assert len(seen) == 90 * 8
    expected = TwoDepths(load_encoder("90-10:tiny"), seen)
    torch.testing.assert_close(kept.embed(seen[:20]), expected.embed(seen[:20]), atol=1e-3, rtol=0)
    info = checkpoint_info(results_dir() / "checkpoints" / "siamese-photos.safetensors")
    assert (info["split"], info["recipe"], len(info["classes"])) == ("90-10", "tiny", 90)


def test_the_other_steps_make_no_checkpoint() -> None:
    kept = {run.key["step"] for run in OWN_IMAGES.runs() if OWN_IMAGES.checkpoint_path(run) is not None}
    assert kept == {"photos"}


def test_classes_far_apart_are_told_and_others_are_not() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(5).repeat_interleave(8)
    z = F.normalize(5 * torch.eye(20)[labels] + 0.2 * torch.randn(40, 20, generator=generator), dim=1)
    strange = torch.eye(20)[10:14]
    episodes = sample_episodes(labels, 5, 3, 4, 10, np.random.default_rng(0))
    metrics, sure, right = study.judged(z, strange, episodes, "prototype")
    assert metrics["acc"].value == metrics["auroc"].value == 100 and metrics["accepted"].value == 0
    assert right.all() and sure.mean() > 0.8
    shuffled = labels[torch.randperm(40, generator=generator)]
    episodes = sample_episodes(shuffled, 5, 3, 4, 10, np.random.default_rng(0))
    assert study.judged(z, strange, episodes, "prototype")[0]["acc"].value < 50


def test_calibration_error_is_the_mean_distance_in_bins() -> None:
    bins = study.binned(np.array([0.95, 0.96, 0.97, 1.0, 0.55, 0.55]), np.array([1, 1, 1, 0, 1, 0], dtype=bool))
    assert bins.bin.tolist() == [5, 9] and bins["count"].tolist() == [2, 4]
    assert bins.right.tolist() == [50, 75] and bins.probability.tolist() == pytest.approx([55, 97])


def test_findings_and_figures_are_told_from_what_is_stored(photos: Photos, no_weights: None, project: Path) -> None:
    told = [
        findings.steps_table,
        findings.unknown_table,
        findings.accuracy_sentence,
        findings.own_sentence,
        findings.unknown_sentence,
        findings.calibration_sentence,
        figures.shots_figure,
        figures.reliability_figure,
        figures.unknown_figure,
    ]
    for finding in told:
        with pytest.raises(ResultsError):
            finding()
    bench = Bench("cpu", progress=False, given={(find_photos,): photos})
    for step in study.STEPS:
        run = Run({"step": step}, SETTINGS)
        keep(study.OWN_IMAGES, run, study.carry_out(run, bench), {})
    accuracy = f"{findings.value('head', 'acc').value:.1f}"
    assert accuracy in findings.accuracy_sentence() and "five classes of" in findings.accuracy_sentence()
    one, five, unknown = (
        findings.value("photos", metric, shots=shots, half="choosing").value
        for metric, shots in (("acc", 1), ("acc", 5), ("auroc", 5))
    )
    own = findings.own_sentence()
    assert own.index("by the recipe") < own.index(
        f"{one:.1f}, {five:.1f} and {unknown:.1f} at two depths. On the repor"
    )
    assert len(findings.steps_table().frame) == len(study.STEPS) and len(findings.unknown_table().frame) == 4
    for finding in told[-3:]:
        shown = finding()
        assert shown.name.startswith("10_") and "," in shown.alt
        plt.close(shown.figure)
    assert "AUROC" in findings.unknown_sentence() and "points" in findings.calibration_sentence()
