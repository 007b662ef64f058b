"""The study of imprinted weights: its configuration, what it measures, and that nothing is lost or leaks."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from tiny_imprinting import STUDY as SMALL
from typer.testing import CliRunner

from siamese_utils import cli
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.imprinting import CosineClassifier, Whitening, leads, load_classifier
from siamese_utils.errors import CheckpointError, ConfigError, SamplingError, SplitError
from siamese_utils.experiments import store
from siamese_utils.experiments.audit import audit
from siamese_utils.experiments.study import Bench, complete, run_study, stored
from siamese_utils.studies import commands
from siamese_utils.studies.imprinting import base, findings, methods, settings, study
from siamese_utils.studies.imprinting.base import Parts, base_checkpoint, base_network, draw_shots, groups, parts_of
from siamese_utils.studies.imprinting.methods import Space, measure, novel_at_losses, over_clusters, spaces_of
from siamese_utils.studies.imprinting.settings import ImprintingConfig
from siamese_utils.studies.imprinting.study import IMPRINTING, IMPRINTING_TRIALS
from siamese_utils.system import project as places
from siamese_utils.system.provenance import provenance

# ------------------------------------------------------------------------------------- configuration


def test_the_stored_configuration_is_that_of_the_published_numbers() -> None:
    config = ImprintingConfig.from_yaml(settings.WHOLE)
    assert config.base.training.augment.cutout == 8
    assert config.base.training.augment.flip  # what is not changed stays as the recipe has it
    assert (config.shot_sets, config.novel_classes) >= (20, 20)
    if IMPRINTING.path.exists():
        assert store.load_json("imprinting")["config"] == config.to_json()


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL.to_json()))
    assert ImprintingConfig.from_yaml(path) == SMALL
    path.write_text("")
    assert ImprintingConfig.from_yaml(path) == ImprintingConfig()


# -------------------------------------------------------------------------------------- measurements


@pytest.fixture(scope="module")
def embedded() -> Parts:
    """Made-up embeddings of six old and three novel classes, 40 images each."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(9, 16, generator=generator)
    labels = torch.arange(9).repeat_interleave(40)
    z = centres[labels] + 1.3 * torch.randn(len(labels), 16, generator=generator)
    z = torch.nn.functional.normalize(z, dim=1)
    part = torch.arange(len(labels)) % 4
    old = labels < 6

    def rows(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return z[mask], labels[mask]

    return Parts(
        known=rows(old & (part < 2)),
        tuning=rows(old & (part == 2) & (torch.arange(len(labels)) % 8 < 4)),
        held_out=rows(old & (part == 2) & (torch.arange(len(labels)) % 8 >= 4)),
        shots=rows(~old & (part < 3)),
        test=rows(part == 3),
        old=tuple(range(6)),
        novel=(6, 7, 8),
    )


def test_an_imprinted_class_is_judged_like_the_classifier_judges_it(embedded: Parts) -> None:
    config = dataclasses.replace(SMALL, budget=5.0)
    spaces = spaces_of(embedded, 0.3)
    shots = [torch.stack([draw_shots(embedded, label, 2, 0, 0) for label in (6, 8)])]
    measured = measure("imprinted", spaces, [(6, 8)], shots, config)
    classifier = CosineClassifier.from_means(*embedded.known)
    for label, rows in zip((6, 8), shots[0]):
        classifier = classifier.imprint(embedded.shots[0][rows], label)
    z, labels = embedded.test
    for bias, judge in (("none", classifier), ("budget", classifier.within_budget(*embedded.held_out, [6, 8], 5.0))):
        right = (judge.predict(z) == labels).double()
        old, novel = right[labels < 6].mean(), right[(labels == 6) | (labels == 8)].mean()
        assert float(measured.old[bias]) == pytest.approx(100 * float(old))
        assert float(measured.novel[bias]) == pytest.approx(100 * float(novel))


def test_the_curve_gives_up_no_more_than_it_says(embedded: Parts) -> None:
    space = Space.of(embedded)
    found = leads(
        space.old,
        space.old[None, :1] * 0.9 + 0.1,
        space.test,
        (embedded.test[0][-5:], torch.zeros(5, dtype=torch.int64)),
    )
    base = 100 * float(space.right().double().mean())
    losses = [0.0, 5.0, 20.0, 100.0]
    curve = novel_at_losses(found, base, losses)
    for loss, novel in zip(losses, curve):
        biases = torch.cat([found.old[0], torch.tensor([99.0])])
        allowed = [found.accuracies(float(bias)) for bias in biases]
        best = max((float(n) for o, n in allowed if float(o) >= base - loss - 1e-9), default=0.0)
        assert float(novel) == pytest.approx(best, abs=1e-9)
    assert (curve.diff() >= 0).all()


def test_shot_sets_are_nested_and_drawn_from_training_images(embedded: Parts) -> None:
    many = draw_shots(embedded, 7, 10, 3, seed=1)
    assert torch.equal(draw_shots(embedded, 7, 4, 3, seed=1), many[:4])
    assert len(set(many.tolist())) == 10
    assert (embedded.shots[1][many] == 7).all()
    assert not torch.equal(draw_shots(embedded, 7, 10, 4, seed=1), many)
    with pytest.raises(SamplingError, match="not the 31"):
        draw_shots(embedded, 7, 31, 0, seed=1)


def test_groups_are_no_larger_than_there_are_classes(embedded: Parts) -> None:
    config = dataclasses.replace(SMALL, at_once=(2,))
    assert all(len(set(group)) == 2 for group in groups(embedded.novel, config, 2))
    with pytest.raises(SamplingError, match="3 novel classes, not 4"):
        groups(embedded.novel, config, 4)


def test_an_interval_over_classes_knows_no_more_than_there_are_classes() -> None:
    values = torch.tensor([10.0, 10.0, 30.0, 30.0], dtype=torch.float64)
    by_class = over_clusters(values, torch.tensor([0, 0, 1, 1]))
    assert by_class.value == 20
    assert by_class.ci95 == pytest.approx(12.7062 * 10, rel=1e-4)  # t with one degree of freedom, error of the mean 10
    assert by_class.n == 4
    assert over_clusters(values[:2], torch.zeros(2, dtype=torch.int64)).ci95 == 0


# ------------------------------------------------------------------------------------------ the study


@pytest.fixture(scope="module")
def bench(synthetic_train: ImageSet, synthetic_test: ImageSet) -> Bench:
    return Bench.of(synthetic_train, synthetic_test, device="cpu", progress=False)


@pytest.fixture(scope="module")
def done(tiny_imprinting: Path, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the small study is stored."""
    folder = tmp_path_factory.mktemp("done") / "project"
    shutil.copytree(tiny_imprinting, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        list(run_study(IMPRINTING, [study.whole_run(SMALL)], bench))
    return folder


@pytest.fixture
def judged(project: Path, done: Path) -> pd.DataFrame:
    shutil.copytree(done, project, dirs_exist_ok=True)
    return IMPRINTING.table()


def test_the_study_stores_every_method_shot_and_group(judged: pd.DataFrame, project: Path) -> None:
    assert stored(IMPRINTING, study.whole_run(SMALL)) == "yes"
    rows = judged[judged.added > 0]
    assert set(rows.method) == set(methods.METHODS)
    assert set(rows.added) == {1, 2, 8}
    assert set(rows[rows.method != "joint"].shots) == {1, 3}
    assert set(rows[rows.method == "joint"].shots) == {30}
    assert judged.value.between(0, 100).all()
    one = rows[(rows.added == 1) & (rows.method == "whitened") & (rows.metric == "novel_acc")]
    assert set(one.n) == {SMALL.novel_classes * SMALL.shot_sets}
    by_class = findings.stored_classes()
    assert by_class.novel.nunique() == SMALL.novel_classes
    mean = by_class[(by_class.method == "whitened") & (by_class.shots == 3) & (by_class.bias == "none")].value.mean()
    row = store.result(judged, method="whitened", added=1, shots=3, bias="none", metric="novel_acc")
    assert row.value == pytest.approx(mean, abs=1e-3)
    curve = findings.stored_curves()
    part = curve[(curve.method == "whitened") & (curve.added == 1) & (curve.shots == 3)].sort_values("loss")
    assert part.value.is_monotonic_increasing
    record = store.load_json("imprinting")
    assert record["config"] == SMALL.to_json()
    assert len(record["neighbours"]) == 8
    assert not (project / "runs" / "imprinting" / "whole").exists()
    classifier, _ = load_classifier(project / "results" / "checkpoints" / "imprinting-classifier.safetensors")
    assert classifier.labels == tuple(range(12))


def test_a_price_is_read_off_the_curve(project: Path) -> None:
    rows = [
        ("whitened", 1, 5, loss, "novel_acc", value, 1.0, 60, "base")
        for loss, value in ((0.0, 10.0), (1.0, 50.0), (2.0, 70.0))
    ]
    others = [
        ("imprinted", 1, 5, 1.0, "novel_acc", 99.0, 1.0, 60, "base"),
        ("whitened", 10, 5, 1.0, "x", 99.0, 1, 60, ""),
    ]
    table = pd.DataFrame([*rows[::-1], *others], columns=findings.CURVE_COLUMNS)
    table.to_csv(IMPRINTING.path.with_name("imprinting_curves.csv"), index=False)
    assert [findings.price_of(accuracy, 5) for accuracy in (5.0, 10.0, 30.0, 65.0)] == [0.0, 0.0, 0.5, 1.75]
    assert np.isnan(findings.price_of(70.1, 5))
    assert findings.price_of(31.0, 5, deviations=1.0) == 0.5 and findings.price_of(29.0, 5, deviations=-1.0) == 0.5


def test_the_price_of_the_seed_projects_accuracies_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def price(accuracy: float, shots: int, deviations: float = 0.0) -> float:
        return shots / 10 - 0.1 * deviations if accuracy < 79 - 5 * (deviations < 0) else np.nan

    monkeypatch.setattr(findings, "price_of", price)
    told = findings.price_sentence()
    assert "13, 33, 43 and 78 percent after imprinting would cost 0.1 (0.0 to 0.2), 0.5 (0.4 to 0.6), 1.0 (0.9" in told
    assert " and 2.0 (1.9 to more) points of old accuracy here" in told
    assert "after fine-tuning 0.1 (0.0 to 0.2), more than was tried, more than was tried and more than was" in told


def test_every_stored_number_is_computed_anew_by_the_audit(judged: pd.DataFrame, bench: Bench) -> None:
    whole = IMPRINTING.path.read_text()
    row = store.result(judged, method="whitened", added=1, shots=3, bias="budget", metric="novel_acc")
    line = "whitened,1,3,budget,novel_acc,"
    changed = whole.replace(f"{line}{row.value}", f"{line}{row.value + 60}")
    assert changed != whole
    IMPRINTING.path.write_text(changed)
    found = audit([IMPRINTING], bench)
    tables = (IMPRINTING.name, *IMPRINTING.tables)
    assert len(found) == sum(len(pd.read_csv(IMPRINTING.path.with_name(f"{name}.csv"))) for name in tables)
    wrong = found[found.verdict != "holds"]
    assert wrong.metric.tolist() == ["whitened, 1, 3, budget, novel_acc"]
    assert wrong.verdict.item() == "the checkpoint gives another value"


def test_another_base_network_or_other_settings_are_another_study(judged: pd.DataFrame) -> None:
    assert stored(IMPRINTING, study.whole_run(dataclasses.replace(SMALL, budget=1.0))) == "other"
    save_encoder(Encoder("resnet9-16"), base_checkpoint(), checkpoint_info(base_checkpoint()))
    assert stored(IMPRINTING, study.whole_run(SMALL)) == "other"


def test_the_base_network_learns_the_old_classes_alone(
    project: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned, real = [], Bench.train

    def watched(self: Bench, config: object, images: ImageSet, classes: tuple[int, ...]) -> object:
        learned.append(tuple(classes))
        return real(self, config, images, classes)

    monkeypatch.setattr(Bench, "train", watched)
    quick = dataclasses.replace(SMALL.base, changes={**SMALL.base.changes, "epochs": 1, "most_images": 96})
    base_network(quick, bench)
    assert learned == [tuple(range(12))]
    assert checkpoint_info(base_checkpoint())["split"] == "12-8"
    precision = store.load_json("imprinting-base")["provenance"]["precision"]
    assert precision == provenance("cpu", quick.training.precision)["precision"]
    assert not (project / "runs" / "imprinting-base").exists()
    base_network(quick, bench)
    assert len(learned) == 1  # stored
    with pytest.raises(CheckpointError, match=r"trained otherwise.*delete it.*--again"):
        base_network(dataclasses.replace(quick, seed=1), bench)
    assert len(learned) == 1 and checkpoint_info(base_checkpoint())["seed"] == 0
    base_checkpoint().unlink()
    base_network(dataclasses.replace(quick, seed=1), bench)
    assert len(learned) == 2 and checkpoint_info(base_checkpoint())["seed"] == 1


def test_no_test_image_and_no_novel_image_reaches_what_is_learned(
    judged: pd.DataFrame, synthetic_train: ImageSet, synthetic_test: ImageSet
) -> None:
    """Other test images and other images that are no shots change the accuracies, but no weight and no bias."""
    data = parts_of(SMALL.base, synthetic_train, synthetic_test).mapped(load_encoder(base_checkpoint()).embed)
    assert not set(data.known[1].tolist()) & set(data.novel)
    for part in (data.tuning, data.held_out):
        assert torch.bincount(part[1]).tolist() == [5] * 12  # half of the ten held out of each old class
    assert not set(data.shots[1].tolist()) & set(data.old)
    assert data.test[1].equal(synthetic_test.labels)
    scrambled = dataclasses.replace(data, test=(data.test[0].flip(0), data.test[1]))
    for part in (data, scrambled):
        assert torch.equal(Whitening.fit(*part.known).matrix, Whitening.fit(*data.known).matrix)
        assert torch.equal(Space.of(part).old, Space.of(data).old)


def test_the_command_runs_what_the_file_says(
    project: Path, tiny_imprinting: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_imprinting, project, dirs_exist_ok=True)
    monkeypatch.setattr(commands, "Bench", lambda device: bench)
    commands.add_commands(cli.app, "imprint")
    small = dataclasses.replace(SMALL, shots=(2,), shot_sets=2, novel_classes=2, at_once=(1,))
    path = project / "small.yaml"
    path.write_text(yaml.safe_dump(small.to_json()))
    only_base = CliRunner().invoke(cli.app, ["imprint", "--config", str(path), "--base-only"])
    assert only_base.exit_code == 0 and base_checkpoint().exists() and not IMPRINTING.path.exists()
    whole = CliRunner().invoke(cli.app, ["imprint", "--config", str(path)])
    assert whole.exit_code == 0, whole.exception
    assert not IMPRINTING.path.exists()  # another configuration than the report's
    with places.at(places.own_folder()):
        assert set(IMPRINTING.table().shots) == {0, 2, 30} and "harmonic_mean" in whole.output
    published = base_checkpoint().read_bytes()
    path.write_text(yaml.safe_dump(dataclasses.replace(small, base=dataclasses.replace(SMALL.base, seed=3)).to_json()))
    other = [CliRunner().invoke(cli.app, ["imprint", "--config", str(path), "--again"]) for _ in range(2)]
    assert [one.exit_code for one in other] == [0, 0], other[0].exception  # on a base network of its own
    assert base_checkpoint().read_bytes() == published
    assert "whole: stored" in CliRunner().invoke(cli.app, ["imprint", "--config", str(path)]).output
    strange = CliRunner().invoke(cli.app, ["imprint", "--only-shots", "5"])
    assert "--only-shots does not go with imprinting" in str(strange.exception)
    path.write_text("shotss: [1]")
    wrong = CliRunner().invoke(cli.app, ["imprint", "--config", str(path)])
    assert wrong.exit_code != 0
    assert isinstance(wrong.exception, ConfigError)


def test_the_base_is_trained_again_where_all_is_made_anew(
    project: Path, tiny_imprinting: Path, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_imprinting, project, dirs_exist_ok=True)
    published, trained, train_base = base_checkpoint(), [], base._train_base

    def watched(name: str, *arguments: Any) -> None:
        trained.append(name)
        train_base(name, *arguments)

    monkeypatch.setattr(base, "_train_base", watched)
    before = published.stat().st_mtime_ns
    with places.at(places.own_folder(), anew=True):
        (run,) = IMPRINTING.runs()
        small = dataclasses.replace(SMALL, shots=(2,), shot_sets=2, novel_classes=2, at_once=(1,))
        run = dataclasses.replace(run, settings={"config": small})
        complete(IMPRINTING, bench, [run])
        assert trained == ["imprinting-base"] and stored(IMPRINTING, run) == "yes"
        base_network(SMALL.base, bench)  # for another study of the page
        assert trained == ["imprinting-base"] and stored(IMPRINTING, run) == "yes"
        assert base_checkpoint() != published and base_checkpoint().is_file()
    assert published.stat().st_mtime_ns == before


# ------------------------------------------------------------------------------- choosing the settings


@pytest.fixture
def trial_network(project: Path, tiny_imprinting: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small base network in the place of the sweep's, as if it had learned eight classes."""
    monkeypatch.setattr(base, "TRIAL_SPLIT", "8-12")
    encoder = load_encoder(tiny_imprinting / "results" / "checkpoints" / "imprinting-base.safetensors")
    save_encoder(encoder, base.trial_checkpoint(), {"seed": 0, "config": SMALL.base.training.to_json()})


def test_settings_are_tried_without_a_novel_class_or_a_test_image(
    trial_network: None, synthetic_train: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, real = [], methods.measure

    def watched(method: str, spaces: object, added: list[tuple[int, ...]], *rest: object) -> methods.Measured:
        read.extend(label for group in added for label in group)
        return real(method, spaces, added, *rest)

    monkeypatch.setattr(methods, "measure", watched)
    chosen = tuple(trial for trial in study.TRIALS if trial.name in ("imprinted", "shrinkage-0.3", "tuned"))
    trials = dataclasses.replace(IMPRINTING_TRIALS, runs=lambda: [study.trial_run(trial, SMALL) for trial in chosen])
    table = complete(trials, Bench.of(synthetic_train, None, device="cpu", progress=False))
    assert set(read) == {8, 9, 10, 11}  # the base network of the study learns 0 to 11
    assert len(table) == 3 * 2
    assert set(table.n) == {4 * 2}
    log = findings.trial_log(trials)
    assert list(log.trial) == ["imprinted", "shrinkage-0.3", "tuned"]
    assert list(log.columns[-2:]) == ["1 shots", "3 shots"]


def test_a_class_that_was_learned_cannot_stand_in_for_a_novel_one(
    trial_network: None, synthetic_train: ImageSet
) -> None:
    with pytest.raises(SplitError, match="none can stand in"):
        base.trial_parts(dataclasses.replace(SMALL.base, split="8-12"), synthetic_train)
    data = base.trial_parts(SMALL.base, synthetic_train)
    assert not set(data.old) & set(data.novel)
    rows = [len(getattr(data, part)[0]) for part in ("known", "tuning", "shots", "test")]
    assert rows == [8 * 20, 8 * 5, 4 * 15, 8 * 5 + 4 * 15]


# ------------------------------------------------------------------------------------ what is published


@pytest.mark.real_data
def test_the_published_classifier_gives_the_published_accuracies(real_data) -> None:
    """The stored encoder and classifier name the old classes as often right as the table says."""
    encoder = load_encoder(base_checkpoint())
    classifier, whitening = load_classifier(base_checkpoint().with_name("imprinting-classifier.safetensors"))
    test = real_data("test")
    rows = test.indices_of(classifier.labels)
    right = classifier.predict(whitening(encoder.embed(test.images[rows]))) == test.labels[rows]
    row = findings.Numbers.stored().base()
    assert 100 * float(right.double().mean()) == pytest.approx(row.value, abs=0.06)
    assert len(right) == row.n


def test_the_seed_project_has_a_number_for_every_shot() -> None:
    published = findings.seed_imprinting().set_index(["method", "shots"])
    shots = ImprintingConfig().shots
    assert sorted(published.index) == [(method, k) for method in ("fine-tuned", "imprinted") for k in shots]
    assert (published.metric == "novel_acc").all() and published.value.between(0, 100).all()
