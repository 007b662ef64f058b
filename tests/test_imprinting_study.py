"""The study of imprinted weights: its configuration, what it measures, and that nothing is lost or leaks."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from typer.testing import CliRunner

from siamese_utils import cli
from siamese_utils.data.images import ImageSet
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.imprinting import CosineClassifier, FineTuneConfig, Whitening, load_classifier
from siamese_utils.errors import ConfigError, SamplingError, SplitError
from siamese_utils.experiments import store as results
from siamese_utils.studies.audit import Data, audit
from siamese_utils.studies.imprinting import study
from siamese_utils.studies.splits import stored

CONFIG = Path(__file__).resolve().parents[1] / "siamese_utils" / "studies" / "imprinting" / "imprinting.yaml"
SMALL = study.ImprintingConfig(
    base=study.BaseConfig(split="12-8", recipe="smoke", changes={"epochs": 2, "batch_size": 48, "most_images": 400}),
    shots=(1, 3),
    shot_sets=3,
    novel_classes=4,
    at_once=(1, 2, 8),
    budget=2.0,
    fine_tuning=FineTuneConfig(steps=6),
)


# ------------------------------------------------------------------------------------- configuration


def test_the_stored_configuration_is_that_of_the_published_numbers() -> None:
    config = study.ImprintingConfig.from_yaml(CONFIG)
    assert config.base.training.augment.cutout == 8
    assert config.base.training.augment.flip  # what is not changed stays as the recipe has it
    assert (config.shot_sets, config.novel_classes) >= (20, 20)
    if study.table_path().exists():
        assert results.load_json("imprinting")["config"] == config.to_json()


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(SMALL.to_json()))
    assert study.ImprintingConfig.from_yaml(path) == SMALL
    path.write_text("")
    assert study.ImprintingConfig.from_yaml(path) == study.ImprintingConfig()


# -------------------------------------------------------------------------------------- measurements


@pytest.fixture(scope="module")
def embedded() -> study.Embedded:
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

    return study.Embedded(
        known=rows(old & (part < 2)),
        tuning=rows(old & (part == 2) & (torch.arange(len(labels)) % 8 < 4)),
        held_out=rows(old & (part == 2) & (torch.arange(len(labels)) % 8 >= 4)),
        shots=rows(~old & (part < 3)),
        test=rows(part == 3),
        old=tuple(range(6)),
        novel=(6, 7, 8),
    )


def test_an_imprinted_class_is_judged_like_the_classifier_judges_it(embedded: study.Embedded) -> None:
    config = dataclasses.replace(SMALL, budget=5.0)
    spaces = {"plain": study.Space.of(embedded)}
    spaces["whitened"] = study.Space.of(embedded.mapped(Whitening.fit(*embedded.known)))
    shots = [torch.stack([study.draw_shots(embedded, label, 2, 0, 0) for label in (6, 8)])]
    measured = study.measure("imprinted", spaces, [(6, 8)], shots, config)
    classifier = CosineClassifier.from_means(*embedded.known)
    for label, rows in zip((6, 8), shots[0]):
        classifier = classifier.imprint(embedded.shots[0][rows], label)
    z, labels = embedded.test
    for bias, judge in (
        ("none", classifier),
        ("budget", classifier.within_budget(*embedded.held_out, [6, 8], 5.0)),
    ):
        right = (judge.predict(z) == labels).double()
        old, novel = right[labels < 6].mean(), right[(labels == 6) | (labels == 8)].mean()
        assert float(measured.old[bias]) == pytest.approx(100 * float(old))
        assert float(measured.novel[bias]) == pytest.approx(100 * float(novel))


def test_the_curve_gives_up_no_more_than_it_says(embedded: study.Embedded) -> None:
    space = study.Space.of(embedded)
    found = study.leads(
        space.old, space.old[None, :1] * 0.9 + 0.1, space.test,
        (embedded.test[0][-5:], torch.zeros(5, dtype=torch.int64)),
    )  # fmt: skip
    base = 100 * float(space.accuracy(space.test).double().mean())
    losses = [0.0, 5.0, 20.0, 100.0]
    curve = study.novel_at_losses(found, base, losses)
    for loss, novel in zip(losses, curve):
        biases = torch.cat([found.old[0], torch.tensor([99.0])])
        allowed = [found.accuracies(float(bias)) for bias in biases]
        best = max((float(n) for o, n in allowed if float(o) >= base - loss - 1e-9), default=0.0)
        assert float(novel) == pytest.approx(best, abs=1e-9)
    assert (curve.diff() >= 0).all()


def test_shot_sets_are_nested_and_drawn_from_training_images(embedded: study.Embedded) -> None:
    many = study.draw_shots(embedded, 7, 10, 3, seed=1)
    assert torch.equal(study.draw_shots(embedded, 7, 4, 3, seed=1), many[:4])
    assert len(set(many.tolist())) == 10
    assert (embedded.shots[1][many] == 7).all()
    assert not torch.equal(study.draw_shots(embedded, 7, 10, 4, seed=1), many)
    with pytest.raises(SamplingError, match="not the 31"):
        study.draw_shots(embedded, 7, 31, 0, seed=1)


def test_groups_are_no_larger_than_there_are_classes(embedded: study.Embedded) -> None:
    config = dataclasses.replace(SMALL, at_once=(2,))
    assert all(len(set(group)) == 2 for group in study.groups(embedded, config, 2))
    with pytest.raises(SamplingError, match="3 novel classes, not 4"):
        study.groups(embedded, config, 4)


def test_an_interval_over_classes_knows_no_more_than_there_are_classes() -> None:
    values = torch.tensor([10.0, 10.0, 30.0, 30.0], dtype=torch.float64)
    by_class = study.over_clusters(values, torch.tensor([0, 0, 1, 1]))
    assert by_class.value == 20
    assert by_class.ci95 == pytest.approx(12.7062 * 10, rel=1e-4)  # t with one degree of freedom, error of the mean 10
    assert by_class.n == 4
    assert study.over_clusters(values[:2], torch.zeros(2, dtype=torch.int64)).ci95 == 0


# ------------------------------------------------------------------------------------------ the study


@pytest.fixture
def judged(project: Path, synthetic_train: ImageSet, synthetic_test: ImageSet) -> pd.DataFrame:
    return study.run_study(SMALL, synthetic_train, synthetic_test, device="cpu", progress=False)


def test_the_study_stores_every_method_shot_and_group(judged: pd.DataFrame, project: Path) -> None:
    methods = judged[judged.added > 0]
    assert set(methods.method) == set(study.METHODS)
    assert set(methods.added) == {1, 2, 8}
    assert set(methods[methods.method != "joint"].shots) == {1, 3}
    assert set(methods[methods.method == "joint"].shots) == {30}
    assert judged.value.between(0, 100).all()
    one = methods[(methods.added == 1) & (methods.method == "whitened") & (methods.metric == "novel_acc")]
    assert set(one.n) == {SMALL.novel_classes * SMALL.shot_sets}
    by_class = results.read_table(study.classes_path(), study.CLASS_COLUMNS)
    assert by_class.novel.nunique() == SMALL.novel_classes
    mean = by_class[(by_class.method == "whitened") & (by_class.shots == 3) & (by_class.bias == "none")].value.mean()
    row = results.result(judged, method="whitened", added=1, shots=3, bias="none", metric="novel_acc")
    assert row.value == pytest.approx(mean, abs=1e-3)
    curve = results.read_table(study.curve_path(), study.CURVE_COLUMNS)
    part = curve[(curve.method == "whitened") & (curve.added == 1) & (curve.shots == 3)].sort_values("loss")
    assert part.value.is_monotonic_increasing
    record = results.load_json("imprinting")
    assert record["config"] == SMALL.to_json()
    assert len(record["neighbours"]) == 8
    assert not (project / "runs" / "imprinting").exists()
    classifier, _ = load_classifier(study.classifier_path())
    assert classifier.labels == tuple(range(12))


def test_every_stored_number_is_computed_anew_by_the_audit(
    judged: pd.DataFrame, synthetic_train: ImageSet, synthetic_test: ImageSet
) -> None:
    path = study.table_path()
    whole = path.read_text()
    row = results.result(judged, method="whitened", added=1, shots=3, bias="budget", metric="novel_acc")
    line = "whitened,1,3,budget,novel_acc,"
    changed = whole.replace(f"{line}{row.value}", f"{line}{row.value + 60}")
    assert changed != whole
    path.write_text(changed)
    tables = {"imprinting": path, "imprinting_classes": study.classes_path(), "imprinting_curves": study.curve_path()}
    found = audit(Data(synthetic_train, synthetic_test), [*tables], progress=False)
    assert len(found) == sum(len(pd.read_csv(table)) for table in tables.values())
    wrong = found[found.verdict != "holds"]
    assert wrong.metric.tolist() == ["whitened, 1, 3, budget, novel_acc"]
    assert wrong.verdict.item() == "the checkpoint gives another value"


def test_a_study_that_was_killed_goes_on_and_gives_the_same(
    judged: pd.DataFrame,
    synthetic_train: ImageSet,
    synthetic_test: ImageSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study.table_path().unlink()
    measured, real = [], study.measure

    def dies(method: str, *rest: object) -> study.Measured:
        if len(measured) == 4:
            raise KeyboardInterrupt
        measured.append(method)
        return real(method, *rest)

    monkeypatch.setattr(study, "measure", dies)
    with pytest.raises(KeyboardInterrupt):
        study.run_study(SMALL, synthetic_train, synthetic_test, device="cpu", progress=False)
    assert not study.table_path().exists()
    again = []
    monkeypatch.setattr(study, "measure", lambda method, *rest: again.append(method) or real(method, *rest))
    monkeypatch.setattr(study, "train", lambda *args, **kwargs: pytest.fail("the base network is stored"))
    monkeypatch.setattr(study.Encoder, "embed", lambda *args: pytest.fail("the embeddings are stored"))
    table = study.run_study(SMALL, synthetic_train, synthetic_test, device="cpu", progress=False)
    pd.testing.assert_frame_equal(table, judged)
    # Four classes and two sizes of groups, four methods with two numbers of shots and one with all images.
    assert len(again) == (4 + 2) * (4 * 2 + 1) - 4


def test_the_base_network_learns_the_old_classes_alone(
    project: Path, synthetic_train: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []
    real = study.train

    def watched(config: object, images: ImageSet, classes: tuple[int, ...], **rest: object) -> object:
        learned.append(tuple(classes))
        return real(config, images, classes, **rest)

    monkeypatch.setattr(study, "train", watched)
    study.train_base(SMALL.base, synthetic_train, device="cpu", progress=False)
    assert learned == [tuple(range(12))]
    assert checkpoint_info(study.base_checkpoint())["split"] == "12-8"
    study.train_base(SMALL.base, synthetic_train, device="cpu", progress=False)
    assert len(learned) == 1  # stored
    other = dataclasses.replace(SMALL.base, seed=1)
    study.train_base(other, synthetic_train, device="cpu", progress=False)
    assert len(learned) == 2  # trained otherwise


def test_no_test_image_and_no_novel_image_reaches_what_is_learned(
    project: Path, synthetic_train: ImageSet, synthetic_test: ImageSet
) -> None:
    """Other test images and other images that are no shots change the accuracies, but no weight and no bias."""
    encoder = study.train_base(SMALL.base, synthetic_train, device="cpu", progress=False)
    data = study.embed_all(encoder, SMALL.base, synthetic_train, synthetic_test)
    assert not set(data.known[1].tolist()) & set(data.novel)
    for part in (data.tuning, data.held_out):
        assert torch.bincount(part[1]).tolist() == [5] * 12  # half of the ten held out of each old class
    assert not set(data.shots[1].tolist()) & set(data.old)
    assert data.test[1].equal(synthetic_test.labels)
    scrambled = dataclasses.replace(data, test=(data.test[0].flip(0), data.test[1]))
    for part in (data, scrambled):
        assert torch.equal(Whitening.fit(*part.known).matrix, Whitening.fit(*data.known).matrix)
        assert torch.equal(study.Space.of(part).old, study.Space.of(data).old)


def test_the_command_runs_what_the_file_says(
    project: Path, synthetic_train: ImageSet, synthetic_test: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = {"train": synthetic_train, "test": synthetic_test}
    monkeypatch.setattr(cli, "load_cifar100", sets.__getitem__)
    monkeypatch.setenv("TQDM_DISABLE", "1")
    small = dataclasses.replace(SMALL, shots=(2,), shot_sets=2, novel_classes=2, at_once=(1,))
    path = project / "small.yaml"
    path.write_text(yaml.safe_dump(small.to_json()))
    only_base = CliRunner().invoke(cli.app, ["imprint", "--config", str(path), "--base-only"])
    assert only_base.exit_code == 0 and study.base_checkpoint().exists() and not study.table_path().exists()
    whole = CliRunner().invoke(cli.app, ["imprint", "--config", str(path)])
    assert whole.exit_code == 0
    assert re.search(r"whitened +\+1 +2 shots +budget +novel_acc +\d+\.\d\d ± ", whole.output)
    path.write_text("shotss: [1]")
    wrong = CliRunner().invoke(cli.app, ["imprint", "--config", str(path)])
    assert wrong.exit_code != 0
    assert isinstance(wrong.exception, ConfigError)


# ------------------------------------------------------------------------------- choosing the settings


def test_settings_are_tried_without_a_novel_class_or_a_test_image(
    project: Path, synthetic_train: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "TRIAL_SPLIT", "8-12")
    smaller = dataclasses.replace(SMALL.base, split="8-12")
    encoder = study.train_base(smaller, synthetic_train, device="cpu", progress=False)
    source = {"seed": 0, "config": smaller.training.to_json()}
    study.save_encoder(encoder, stored.checkpoint_path("8-12", 0), source)
    read, real = [], study.measure

    def watched(method: str, spaces: object, added: list[tuple[int, ...]], *rest: object) -> study.Measured:
        read.extend(label for group in added for label in group)
        return real(method, spaces, added, *rest)

    monkeypatch.setattr(study, "measure", watched)
    chosen = tuple(trial for trial in study.TRIALS if trial.name in ("imprinted", "shrinkage-0.3", "tuned"))
    monkeypatch.setattr(study, "TRIALS", chosen)
    table = study.run_trials(SMALL, synthetic_train, progress=False)
    assert set(read) == {8, 9, 10, 11}  # the base network of the study learns 0 to 11
    assert len(table) == 3 * 2
    read.clear()
    pd.testing.assert_frame_equal(study.run_trials(SMALL, synthetic_train, progress=False), table)
    assert not read  # stored
    log = study.trial_log()
    assert list(log.trial) == ["imprinted", "shrinkage-0.3", "tuned"]
    assert list(log.columns[-2:]) == ["1 shots", "3 shots"]


def test_a_class_that_was_learned_cannot_stand_in_for_a_novel_one(
    project: Path, synthetic_train: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "TRIAL_SPLIT", "8-12")
    encoder = study.Encoder("resnet9-16")
    with pytest.raises(SplitError, match="cannot stand in"):
        study.trial_data(encoder, 0, 5, synthetic_train, [7, 8])
    data = study.trial_data(encoder, 0, 6, synthetic_train, [8, 9])
    rows = [len(getattr(data, part)[0]) for part in ("known", "tuning", "shots", "test")]
    assert rows == [8 * 24, 8 * 3, 2 * 15, 8 * 3 + 2 * 15]


# ------------------------------------------------------------------------------------ what is published


@pytest.mark.real_data
def test_the_published_classifier_gives_the_published_accuracies(real_data) -> None:
    """The stored encoder and classifier name the old classes as often right as the table says."""
    table = study.stored_imprinting()
    encoder, (classifier, whitening) = load_encoder(study.base_checkpoint()), load_classifier(study.classifier_path())
    test = real_data("test")
    rows = test.indices_of(classifier.labels)
    right = classifier.predict(whitening(encoder.embed(test.images[rows]))) == test.labels[rows]
    row = results.result(table, method="base, whitened", metric="old_acc")
    assert 100 * float(right.double().mean()) == pytest.approx(row.value, abs=0.06)
    assert len(right) == row.n


def test_the_seed_project_has_a_number_for_every_shot() -> None:
    published = study.seed_imprinting().set_index(["method", "shots"])
    shots = study.ImprintingConfig().shots
    assert sorted(published.index) == [(method, k) for method in ("fine-tuned", "imprinted") for k in shots]
    assert (published.metric == "novel_acc").all() and published.value.between(0, 100).all()
