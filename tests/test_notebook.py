"""What every notebook starts with: profiles, the banner, and where figures go."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
import pytest
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from siamese_utils.data.images import ImageSet
from siamese_utils.data.load import SyntheticDataWarning
from siamese_utils.data.splits import class_split
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.checkpoints import save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, DataError, ResultsError, SplitError, UnknownNameError
from siamese_utils.evaluation.protocol import METRICS
from siamese_utils.experiments import store as results
from siamese_utils.report import page as notebook
from siamese_utils.studies.splits import stored
from siamese_utils.studies.splits.study import SplitRun
from siamese_utils.training.recipes import recipe

ALT = "A line that rises from one to three, as a figure for a test."


@pytest.fixture(scope="module")
def sets() -> dict[str, ImageSet]:
    """Twenty classes, just enough images for five-shot episodes with 15 queries."""
    return {
        "train": make_synthetic("train", num_classes=20, per_class=16),
        "test": make_synthetic("test", num_classes=20, per_class=20),
    }


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a notebook would display."""
    objects: list[Any] = []
    monkeypatch.setattr(notebook, "display", lambda *things: objects.extend(things))
    return objects


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: dict[str, ImageSet], shown: list[Any]
) -> Path:
    """An empty project folder, the small synthetic set, and a clean environment."""
    for folder in ("results", "siamese_utils"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIAMESE_PROFILE", raising=False)
    monkeypatch.setenv("SIAMESE_SYNTHETIC", "")  # so that what `start` sets is taken back afterwards

    def load(part: str) -> ImageSet:
        warnings.warn("a stand-in", SyntheticDataWarning, stacklevel=2)
        return sets[part]

    monkeypatch.setattr(notebook, "load_images", load)
    return tmp_path


@pytest.fixture
def real(project: Path, monkeypatch: pytest.MonkeyPatch, sets: dict[str, ImageSet]) -> None:
    """The same, with a set that says it is CIFAR-100."""
    monkeypatch.setattr(notebook, "load_images", lambda part: dataclasses.replace(sets[part], name="cifar100"))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe for the synthetic encoder that takes a second."""
    small = dataclasses.replace(
        recipe("smoke"), encoder="conv3", epochs=1, batch_size=32, held_out_images=3, images_per_class=2
    )
    monkeypatch.setattr(notebook, "recipe", lambda name: {"smoke": small}[name])


def start() -> notebook.Study:
    return notebook.start("18-2")  # 90-10 of twenty classes


# --------------------------------------------------------------------------------- profile and banner


def test_smoke_says_that_it_is_synthetic(project: Path, monkeypatch: pytest.MonkeyPatch, shown: list[Any]) -> None:
    monkeypatch.setenv("SIAMESE_PROFILE", "smoke")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the banner takes the warning's place
        study = start()
    assert study.is_synthetic and study.profile == "smoke"
    assert os.environ["SIAMESE_SYNTHETIC"] == "1"
    (banner,) = shown
    assert "<strong>Synthetic data.</strong>" in banner.data and 'data-siamese-source="synthetic"' in banner.data
    assert "CIFAR-100 is not in use" in banner.data


def test_smoke_forces_the_synthetic_set(
    monkeypatch: pytest.MonkeyPatch, shown: list[Any], sets: dict[str, ImageSet]
) -> None:
    # Through the real loader and the real environment variable; only the drawing is cut short.
    monkeypatch.setattr("siamese_utils.data.load.make_synthetic", lambda part: sets[part])
    monkeypatch.setenv("SIAMESE_PROFILE", "smoke")
    monkeypatch.setenv("SIAMESE_SYNTHETIC", "0")
    study = start()
    assert study.train_set is sets["train"] and study.test_set is sets["test"]
    assert study.split == class_split("18-2", num_classes=20)


def test_report_is_the_default(real: None, shown: list[Any]) -> None:
    study = start()
    assert study.profile == "report" and not study.is_synthetic
    (banner,) = shown
    assert 'data-siamese-source="cifar100"' in banner.data and "Synthetic" not in banner.data
    assert "320 training and 400 test images of CIFAR-100" in banner.data
    assert os.environ["SIAMESE_SYNTHETIC"] == ""


def test_without_data_the_report_says_synthetic(project: Path, shown: list[Any]) -> None:
    study = start()
    assert study.profile == "report" and study.is_synthetic and "Synthetic data" in shown[0].data


def test_unknown_profile(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_PROFILE", "smoek")
    with pytest.raises(UnknownNameError, match=r"SIAMESE_PROFILE 'smoek'.*'smoke'"):
        start()


def test_empty_profile_is_the_default(real: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_PROFILE", "")
    assert start().profile == "report"


def test_unknown_split(project: Path) -> None:
    with pytest.raises(SplitError):
        notebook.start("91-9")


def test_damaged_data_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(part: str) -> ImageSet:
        raise DataError("The file x is damaged; fetch it again.")

    monkeypatch.setattr(notebook, "load_images", damaged)
    with pytest.raises(DataError, match="fetch it again"):
        start()


# --------------------------------------------------------------------------------- figures and tables


def draw(study: notebook.Study, alt: str = ALT) -> None:
    figure, axis = plt.subplots()
    axis.plot([1, 2, 3])
    study.show_figure(figure, "line", alt)


def test_figures_of_synthetic_data_never_take_the_place_of_real_ones(project: Path, shown: list[Any]) -> None:
    (project / "figures").mkdir()
    (project / "figures" / "line.png").write_bytes(b"the real one")
    study = start()
    draw(study)
    assert (project / "figures" / "line.png").read_bytes() == b"the real one"
    assert list((project / "figures").iterdir()) == [project / "figures" / "line.png"]
    assert {path.name for path in study.figures.iterdir()} == {"line.svg", "line.png", "line.alt.txt"}
    assert study.figures.resolve().is_relative_to((project / "build").resolve())  # which git ignores


def test_real_figures_go_to_figures(project: Path, real: None, shown: list[Any]) -> None:
    draw(start())
    assert (project / "figures" / "line.svg").exists()
    picture = shown[-1]
    assert picture.data.startswith(b"\x89PNG") and picture.alt == ALT


def test_figure_without_alternative_text_is_refused(real: None, shown: list[Any]) -> None:
    with pytest.raises(ValueError, match="alternative text"):
        draw(start(), "")
    assert len(shown) == 1  # the banner alone


def test_table_is_shown_with_its_caption(real: None, shown: list[Any]) -> None:
    study = start()
    table = pd.DataFrame({"split": ["90-10"], "accuracy": [70.12345], "note": [float("nan")]})
    for _ in range(2):
        study.show_table(table, "Accuracy of a test")
    first, second = shown[1].data, shown[2].data
    assert first == second  # so that stored outputs change only when the table does
    assert "Accuracy of a test" in first and "70.12" in first and "70.123" not in first and "–" in first


# -------------------------------------------------------------------------------------------- encoder


def test_synthetic_encoder_is_trained_once_and_then_kept(
    project: Path, fast: None, monkeypatch: pytest.MonkeyPatch, sets: dict[str, ImageSet]
) -> None:
    study = start()
    first = study.encoder
    assert study.encoder is first and study.config == notebook.recipe("smoke")
    assert study.history["epoch"].tolist() == [1]
    kept = list(notebook.cache_folder().glob("synthetic-*.safetensors"))
    assert len(kept) == 1
    with monkeypatch.context() as patch:
        patch.setattr(notebook, "train", lambda *_, **__: pytest.fail("trained again"))
        again = start()
        assert torch.equal(again.encoder.embed(sets["test"].images[:4]), first.embed(sets["test"].images[:4]))
    assert not (project / "results").exists() or list((project / "results").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"half of it"])
def test_damaged_cached_encoder_is_made_again(content: bytes, project: Path, fast: None) -> None:
    study = start()
    kept = study._synthetic_checkpoint()
    kept.write_bytes(content)
    assert start().encoder.embed(study.test_set.images[:2]).shape[0] == 2


def test_synthetic_evaluation_has_every_metric(project: Path, fast: None) -> None:
    study = notebook.start("15-5")
    assert set(study.evaluation.metrics) == set(METRICS)
    assert all(0 <= estimate.value <= 100 for estimate in study.evaluation.metrics.values())


def test_report_uses_what_is_stored(real: None, sets: dict[str, ImageSet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notebook, "train", lambda *_, **__: pytest.fail("the report retrains nothing"))
    monkeypatch.setattr(notebook, "run_split", lambda *_, **__: pytest.fail("the report retrains nothing"))
    torch.manual_seed(0)
    encoder, config = Encoder("conv3").eval(), recipe("smoke")
    save_encoder(encoder, stored.checkpoint_path("18-2", 0), {"config": config.to_json()})
    results.store_json("cifar100-18-2-draw0", {"history": [{"epoch": 1, "loss": 0.5}]})
    study = start()
    cosine = (study.encoder.embed(sets["test"].images[:4]) * encoder.embed(sets["test"].images[:4])).sum(dim=1)
    assert cosine.min() > 0.999
    assert study.config == config
    assert study.history.to_dict(orient="records") == [{"epoch": 1, "loss": 0.5}]


def test_report_without_a_checkpoint(real: None) -> None:
    study = start()
    with pytest.raises(CheckpointError, match=r"cifar100-18-2-draw0\.safetensors"):
        _ = study.encoder


def test_report_without_a_run_record(real: None) -> None:
    save_encoder(Encoder("conv3"), stored.checkpoint_path("18-2", 0), {"config": recipe("smoke").to_json()})
    with pytest.raises(ResultsError, match=r"cifar100-18-2-draw0\.json"):
        _ = start().history


def test_full_retrains_and_stores(real: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def retrain(run: SplitRun, *more: Any) -> None:
        calls.append((run.split, run.draw))
        save_encoder(Encoder("conv3"), stored.checkpoint_path(run.split, run.draw), {})

    monkeypatch.setattr(notebook, "run_split", retrain)
    monkeypatch.setenv("SIAMESE_PROFILE", "full")
    study = start()
    _ = study.encoder, study.encoder
    assert calls == [("18-2", 0)]


def test_full_without_data_does_not_store_synthetic_numbers(
    project: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Callable[..., None] = lambda *_, **__: pytest.fail("synthetic numbers must not be stored")  # noqa: E731
    monkeypatch.setattr(notebook, "run_split", run)
    monkeypatch.setenv("SIAMESE_PROFILE", "full")
    assert start().encoder.name == "conv3"
    assert json.dumps([path.name for path in (project / "results").rglob("*")]) == "[]"
