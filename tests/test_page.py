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
from siamese_utils.experiments.findings import Illustration, Table
from siamese_utils.experiments.study import Bench, Run, Study
from siamese_utils.report import page as report_page
from siamese_utils.report.page import Page
from siamese_utils.studies.reference import seed_reference
from siamese_utils.studies.splits.study import checkpoint_path
from siamese_utils.system import project as places
from siamese_utils.training.losses import triplet_loss
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
    monkeypatch.setattr(report_page, "display", lambda *things: objects.extend(things))
    return objects


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sets: dict[str, ImageSet], shown: list[Any]) -> Path:
    """An empty project folder, the small synthetic set, and a clean environment."""
    for folder in ("results", "siamese_utils"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIAMESE_PROFILE", raising=False)
    monkeypatch.setenv("SIAMESE_SYNTHETIC", "")  # so that what `start` sets is taken back afterwards

    def load(part: str) -> ImageSet:
        warnings.warn("a stand-in", SyntheticDataWarning, stacklevel=2)
        return sets[part]

    monkeypatch.setattr(report_page, "load_images", load)
    return tmp_path


@pytest.fixture
def real(project: Path, monkeypatch: pytest.MonkeyPatch, sets: dict[str, ImageSet]) -> None:
    """The same, with a set that says it is CIFAR-100."""
    monkeypatch.setattr(report_page, "load_images", lambda part: dataclasses.replace(sets[part], name="cifar100"))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe for the synthetic encoder that takes a second."""
    small = dataclasses.replace(
        recipe("smoke"), encoder="conv3", epochs=1, batch_size=32, held_out_images=3, images_per_class=2
    )
    monkeypatch.setattr(report_page, "recipe", lambda name: {"smoke": small}[name])


def start(**options: str) -> Page:
    return report_page.start("18-2", **options)  # 90-10 of twenty classes


# --------------------------------------------------------------------------------- profile and banner


def test_smoke_says_that_it_is_synthetic(project: Path, monkeypatch: pytest.MonkeyPatch, shown: list[Any]) -> None:
    monkeypatch.setenv("SIAMESE_PROFILE", "smoke")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the banner takes the warning's place
        page = start()
    assert page.is_synthetic and page.profile == "smoke"
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
    page = start()
    assert page.train_set is sets["train"] and page.test_set is sets["test"]
    assert page.split == class_split("18-2", num_classes=20)


def test_report_is_the_default(real: None, shown: list[Any]) -> None:
    page = start()
    assert page.profile == "report" and not page.is_synthetic
    (banner,) = shown
    assert 'data-siamese-source="cifar100"' in banner.data and "Synthetic" not in banner.data
    assert "320 training and 400 test images of CIFAR-100" in banner.data
    assert os.environ["SIAMESE_SYNTHETIC"] == ""


def test_a_page_about_other_data_says_so(real: None, shown: list[Any]) -> None:
    start(about="faces & places")
    (banner,) = shown
    assert 'data-siamese-source="faces &amp; places"' in banner.data
    assert banner.data.endswith("tables and figures are about faces &amp; places.</div>")


def test_without_data_the_report_says_synthetic(project: Path, shown: list[Any]) -> None:
    page = start()
    assert page.profile == "report" and page.is_synthetic and "Synthetic data" in shown[0].data


def test_unknown_profile(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_PROFILE", "smoek")
    with pytest.raises(UnknownNameError, match=r"SIAMESE_PROFILE 'smoek'.*'smoke'"):
        start()


def test_empty_profile_is_the_default(real: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIAMESE_PROFILE", "")
    assert start().profile == "report"


def test_unknown_split(project: Path) -> None:
    with pytest.raises(SplitError):
        report_page.start("91-9")


def test_damaged_data_is_an_error(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(part: str) -> ImageSet:
        raise DataError("The file x is damaged; fetch it again.")

    monkeypatch.setattr(report_page, "load_images", damaged)
    with pytest.raises(DataError, match="fetch it again"):
        start()


# --------------------------------------------------------------------------------- figures and tables


def draw(page: Page, alt: str = ALT) -> None:
    figure, axis = plt.subplots()
    axis.plot([1, 2, 3])
    page.show(Illustration(figure, "line", alt))


def test_figures_of_synthetic_data_never_take_the_place_of_real_ones(project: Path, shown: list[Any]) -> None:
    (project / "figures").mkdir()
    (project / "figures" / "line.png").write_bytes(b"the real one")
    page = start()
    draw(page)
    assert (project / "figures" / "line.png").read_bytes() == b"the real one"
    assert list((project / "figures").iterdir()) == [project / "figures" / "line.png"]
    assert {path.name for path in page.figures.iterdir()} == {"line.svg", "line.png", "line.alt.txt"}
    assert page.figures.resolve().is_relative_to((project / "build").resolve())  # which git ignores


def test_real_figures_take_the_place_of_those_in_git_where_they_are_meant_to(
    project: Path, real: None, shown: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    draw(start())
    assert (project / "build" / "figures" / "line.svg").exists() and not (project / "figures").exists()
    monkeypatch.setenv("SIAMESE_IN_PLACE", "1")
    draw(start())
    assert (project / "figures" / "line.svg").exists()
    picture = shown[-1]
    assert picture.data.startswith(b"\x89PNG") and picture.alt == ALT


def test_figure_without_alternative_text_is_refused(real: None, shown: list[Any]) -> None:
    with pytest.raises(ValueError, match="alternative text"):
        draw(start(), "")
    assert len(shown) == 1  # the banner alone


def test_table_is_shown_with_its_caption(real: None, shown: list[Any]) -> None:
    page = start()
    table = pd.DataFrame({"split": ["90-10"], "accuracy": [70.12345], "note": [float("nan")]})
    for _ in range(2):
        page.show(Table(table, "Accuracy of a test"))
    first, second = shown[1].data, shown[2].data
    assert first == second  # so that stored outputs change only when the table does
    assert "Accuracy of a test" in first and "70.12" in first and "70.123" not in first and "–" in first


# ------------------------------------------------------------------------------------------- findings


def line_and_words(title: str, *, stored: bool = True) -> tuple[Illustration, str]:
    if not stored:
        raise ResultsError(f"{title} is not stored; run `python -m siamese_utils sweep`.")
    return Illustration(plt.figure(), "line", ALT), f"**{title}** rises."


def test_a_finding_is_shown_part_by_part(real: None, shown: list[Any]) -> None:
    page = start()
    page.show(line_and_words, "Accuracy", stored=True)
    page.show("More *words*.")
    picture, words, more = shown[1:]
    assert picture.alt == ALT and words.data == "**Accuracy** rises." and more.data == "More *words*."
    assert (page.figures / "line.svg").exists()


def test_source_is_that_of_the_code_that_runs(real: None, shown: list[Any]) -> None:
    page = start()
    shown.clear()
    page.show_source(triplet_loss)
    (text,) = [one.data for one in shown]
    assert text.startswith("```python\ndef triplet_loss(") and "F.relu(gap + margin)" in text and text.endswith("```")


def test_what_is_not_stored_yet_is_said_once(real: None, shown: list[Any]) -> None:
    page = start()
    for title in ("Accuracy", "Accuracy", "Speed"):
        page.show(line_and_words, title, stored=False)
    first, second = shown[1:]
    assert "Accuracy is not stored; run `python -m siamese_utils sweep`" in first.data and "Speed" in second.data


def test_a_figure_whose_numbers_are_missing_leaves_no_empty_one(real: None, shown: list[Any]) -> None:
    page, open_before = start(), [plt.figure().number, *plt.get_fignums()]
    page.show(begun_too_early)
    assert set(plt.get_fignums()) == set(open_before)
    plt.close(open_before[0])


def begun_too_early() -> Illustration:
    plt.figure()
    raise ResultsError("Accuracy is not stored.")


def test_other_errors_of_a_finding_come_through(real: None, shown: list[Any]) -> None:
    with pytest.raises(DataError):
        start().show(load_nothing)


def load_nothing() -> str:
    raise DataError("The file x is damaged; fetch it again.")


def test_only_the_full_profile_on_real_data_is_full(real: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not start().full
    monkeypatch.setenv("SIAMESE_PROFILE", "full")
    assert start().full


# -------------------------------------------------------------------------------------------- encoder


def test_synthetic_encoder_is_trained_once_and_then_kept(
    project: Path, fast: None, monkeypatch: pytest.MonkeyPatch, sets: dict[str, ImageSet]
) -> None:
    page = start()
    first = page.encoder
    assert page.encoder is first and page.config == report_page.recipe("smoke")
    assert page.history["epoch"].tolist() == [1]
    kept = list(report_page.cache_folder().glob("synthetic-*.safetensors"))
    assert len(kept) == 1
    with monkeypatch.context() as patch:
        patch.setattr(report_page, "train", lambda *_, **__: pytest.fail("trained again"))
        again = start()
        assert torch.equal(again.encoder.embed(sets["test"].images[:4]), first.embed(sets["test"].images[:4]))
    assert not (project / "results").exists() or list((project / "results").iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"half of it"])
def test_damaged_cached_encoder_is_made_again(content: bytes, project: Path, fast: None) -> None:
    page = start()
    kept = page._synthetic_checkpoint()
    kept.write_bytes(content)
    assert start().encoder.embed(page.test_set.images[:2]).shape[0] == 2


def test_synthetic_encoder_without_a_cache_that_can_be_written(
    project: Path, fast: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SIAMESE_CACHE", str(tmp_path / "file" / "cache"))
    page = start()
    assert page.encoder.embed(page.test_set.images[:2]).shape[0] == 2
    monkeypatch.setattr(report_page, "train", lambda *_, **__: pytest.fail("trained again"))
    assert page.history["epoch"].tolist() == [1]


def test_synthetic_evaluation_has_every_metric(project: Path, fast: None) -> None:
    page = report_page.start("15-5")
    assert set(page.evaluation.metrics) == set(METRICS)
    assert all(0 <= estimate.value <= 100 for estimate in page.evaluation.metrics.values())


def test_report_uses_what_is_stored(real: None, sets: dict[str, ImageSet], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_page, "train", lambda *_, **__: pytest.fail("the report retrains nothing"))
    monkeypatch.setattr(report_page, "run_study", lambda *_, **__: pytest.fail("the report retrains nothing"))
    torch.manual_seed(0)
    kept, config = Encoder("conv3").eval(), recipe("smoke")
    save_encoder(kept, checkpoint_path("18-2", 0), {"config": config.to_json()})
    results.store_json("cifar100-18-2-draw0", {"history": [{"epoch": 1, "loss": 0.5}]})
    page = start()
    cosine = (page.encoder.embed(sets["test"].images[:4]) * kept.embed(sets["test"].images[:4])).sum(dim=1)
    assert cosine.min() > 0.999
    assert page.config == config
    assert page.history.to_dict(orient="records") == [{"epoch": 1, "loss": 0.5}]


def test_report_without_a_checkpoint(real: None) -> None:
    page = start()
    with pytest.raises(CheckpointError, match=r"cifar100-18-2-draw0\.safetensors"):
        _ = page.encoder


def test_report_without_a_run_record(real: None) -> None:
    save_encoder(Encoder("conv3"), checkpoint_path("18-2", 0), {"config": recipe("smoke").to_json()})
    with pytest.raises(ResultsError, match=r"cifar100-18-2-draw0\.json"):
        _ = start().history


def test_full_computes_and_stores(real: None, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def retrain(study: Study, runs: list[Run], bench: Bench) -> list[Any]:
        calls.extend((study.name, run.key["split"], run.key["draw"]) for run in runs)
        assert not bench.test_set.is_synthetic
        save_encoder(Encoder("conv3"), checkpoint_path("18-2", 0), {})
        return []

    monkeypatch.setattr(report_page, "run_study", retrain)
    monkeypatch.setenv("SIAMESE_PROFILE", "full")
    page = start()
    _ = page.encoder, page.encoder
    assert calls == [("split_sweep", "18-2", 0)]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_anew_trains_again_in_ones_own_folder_what_is_published(
    real: None, project: Path, monkeypatch: pytest.MonkeyPatch, shown: list[Any]
) -> None:
    published = checkpoint_path("18-2", 0)
    save_encoder(Encoder("conv3"), published, {"config": recipe("smoke").to_json()})
    results.store_json("cifar100-18-2-draw0", {"history": [{"epoch": 1, "loss": 0.5}]})
    before, trained = files(project / "results"), []

    def retrain(study: Study, runs: list[Run], bench: Bench) -> list[Any]:
        trained.extend(study.checkpoint_path(run) for run in runs)
        save_encoder(
            Encoder("conv3"), checkpoint_path("18-2", 0), {"config": {**recipe("smoke").to_json(), "epochs": 7}}
        )
        results.store_json("cifar100-18-2-draw0", {"history": [{"epoch": 1, "loss": 7.0}]})
        return []

    monkeypatch.setattr(report_page, "run_study", retrain)
    monkeypatch.setenv("SIAMESE_PROFILE", "anew")
    page = start(about="places")
    assert "is published. Tables and figures are about places." in shown[0].data
    assert page.full and page.config == recipe("smoke") and not trained  # to show a setting, nothing is trained
    assert report_page.start("18-2").history.loss.tolist() == [7.0]
    assert trained == [places.own_folder() / published.relative_to(project)]
    assert report_page.start("18-2").config.epochs == 7
    assert files(project / "results") == before
    assert "trained again" in shown[0].data and str(places.own_folder()) in shown[0].data


def test_anew_shows_as_published_what_no_run_has_made_again(
    real: None, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = "split,metric,value,ci95,source\n90-10,acc_5w1s,62.18,,published\n"
    (project / "results" / "seed_reference.csv").write_text(numbers)
    monkeypatch.setenv("SIAMESE_PROFILE", "anew")
    monkeypatch.setenv("SIAMESE_IN_PLACE", "1")
    page = start()
    assert places.results_dir() == places.own_folder() / "results"
    assert seed_reference().value.tolist() == [62.18]
    assert page.figures == project / "build" / "figures"


@pytest.mark.parametrize("profile", ["report", "full", "anew"])
def test_only_anew_moves_to_the_folder_of_ones_own_and_others_back(
    profile: str, real: None, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIAMESE_PROFILE", profile)
    start()
    assert places.project_root() == (places.own_folder() if profile == "anew" else project)
    monkeypatch.setenv("SIAMESE_PROFILE", "report")
    start()
    assert places.project_root() == project


def test_anew_without_data_stays_with_what_is_published(
    project: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIAMESE_PROFILE", "anew")
    assert not start().full and places.project_root() == project


def test_anew_goes_for_drawings_and_faces_too(project: Path, monkeypatch: pytest.MonkeyPatch, shown: list[Any]) -> None:
    from siamese_utils.data import faces, symbols
    from siamese_utils.studies.drawing.data import synthetic_symbol_data

    def real(images: ImageSet) -> ImageSet:
        return dataclasses.replace(images, name="real")

    drawn, photographs = (
        synthetic_symbol_data(),
        dataclasses.replace(faces.synthetic_faces(), alignment="deep-funneled"),
    )
    monkeypatch.setattr(symbols, "load_omniglot_background", lambda: real(drawn.characters))
    monkeypatch.setattr(symbols, "load_mnist", lambda part: real(drawn.test_digits))
    monkeypatch.setattr(faces, "load_training_faces", lambda: photographs)
    monkeypatch.setattr(faces, "load_pair_lists", dict)
    monkeypatch.setenv("SIAMESE_PROFILE", "anew")
    for begin in (report_page.start_symbols, lambda: report_page.start_faces()[0]):
        places.move_to(None)
        assert begin().full and places.project_root() == places.own_folder()
        assert "trained again" in shown[-1].data


def test_full_without_data_does_not_store_synthetic_numbers(
    project: Path, fast: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Callable[..., None] = lambda *_, **__: pytest.fail("synthetic numbers must not be stored")  # noqa: E731
    monkeypatch.setattr(report_page, "run_study", run)
    monkeypatch.setenv("SIAMESE_PROFILE", "full")
    page = start()
    assert page.encoder.name == "conv3" and not page.full
    assert json.dumps([path.name for path in (project / "results").rglob("*")]) == "[]"
