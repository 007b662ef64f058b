"""Trials on validation classes: what is learned, what is judged, and what the log says of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny
import torch

from siamese_utils.data.cifar import CIFAR100_CLASSES
from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.backbones import ENCODERS, count_macs
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.encoders.pretrained import PRETRAINED
from siamese_utils.errors import SplitError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.study import Bench, Outcome, complete
from siamese_utils.studies import all_studies, study
from siamese_utils.studies.networks.study import IMAGES_IN_TIME
from siamese_utils.studies.validation import (
    Trial,
    judge,
    judge_distances,
    learned_classes,
    operations,
    study_log,
    trial_runs,
    validation_study,
)
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

SPLIT = fewshot_split_cifar_fs(CIFAR100_CLASSES)
TINY = dataclasses.replace(tiny.TINY, recipe="", held_out_images=2, most_images=256)


@pytest.fixture(scope="module")
def train_set() -> ImageSet:
    """A hundred synthetic classes under CIFAR-100's names, with just enough images for 5-shot episodes."""
    synthetic = make_synthetic("train", num_classes=100, per_class=21)
    return dataclasses.replace(synthetic, class_names=CIFAR100_CLASSES)


def outcomes(train_set: ImageSet, *trials: Trial) -> dict[str, Outcome]:
    """What the first run of each trial gives, without storing it."""
    toy = validation_study("toy", "Works?", trials)
    bench = Bench.of(train_set, train_set, device="cpu", progress=False)
    return {name: toy.carry_out(run, bench) for name, run in trial_runs(toy).items()}


def metrics(train_set: ImageSet, **options: object) -> Mapping[str, Estimate]:
    found = outcomes(train_set, Trial("one", TINY, **options))["one"].metrics  # type: ignore[arg-type]
    assert isinstance(found, Mapping)
    return found


def test_a_trial_is_judged_measured_and_recorded(train_set: ImageSet, one_thread: None) -> None:
    wide = dataclasses.replace(TINY, encoder="resnet9-16", embedding_dim=None, most_images=128)
    found = outcomes(train_set, Trial("one", TINY), Trial("two", wide, judged_by_epoch=False))
    one, two = (found[name].metrics for name in ("one", "two"))
    assert one["images"].value == 256 and two["images"].value == 128
    assert two["parameters"].value > one["parameters"].value
    assert two["macs"].value > 1e6 and one["seconds"].value > 0
    assert one["operations"].value == 3 * 256 * count_macs(ENCODERS["conv3"]()[0], 16)
    minutes = sum(row["cpu_seconds"] for row in found["one"].record["history"]) / 60
    assert one["core_minutes"].value == pytest.approx(minutes) and minutes > 0
    accuracy = one["acc_5w1s"]
    assert 15 < accuracy.value < 100 and accuracy.ci95 > 0 and accuracy.n == 10_000
    assert set(one) <= set(validation_study("toy", "Works?", ()).metrics)
    histories = [found[name].record["history"] for name in ("one", "two")]
    assert len(histories[0]) == 1
    assert "validation_acc_5w1s" in histories[0][0] and "validation_acc_5w1s" not in histories[1][0]


def test_operations_are_weighed_by_how_long_each_side_is_shown() -> None:
    encoder = Encoder("conv3")
    at = {side: count_macs(encoder.body, side) for side in (16, 24, 32)}
    for resolutions, expected in {
        (): at[32],
        ((0.0, 16), (0.75, 32)): 0.75 * at[16] + 0.25 * at[32],
        ((0.5, 16), (0.6, 24)): 0.5 * at[32] + 0.1 * at[16] + 0.4 * at[24],
    }.items():
        config = dataclasses.replace(TINY, resolutions=resolutions)
        assert operations(config, encoder) == pytest.approx(3 * expected)


def test_runs_are_ordered_by_seed_and_named_by_their_study() -> None:
    toy = validation_study(
        "toy", "Works?", (Trial("a", TINY, "well", (0, 1)), Trial("b", TINY), Trial("c", TINY, "", (1, 0)))
    )
    assert [run.label for run in toy.runs()] == ["a-seed0", "b-seed0", "c-seed0", "a-seed1", "c-seed1"]
    run = toy.runs()[3]
    assert run.config == dataclasses.replace(TINY, recipe="toy/a", seed=1) and run.expectation == "well"
    assert run.images == 256 and run.settings["classes"] == 64 and toy.files_failures


def test_only_training_and_validation_classes_are_touched(train_set: ImageSet, one_thread: None) -> None:
    """Other pixels in the test classes change nothing; other pixels in either of the rest change the result."""

    def accuracy(changed: tuple[int, ...]) -> float:
        images = train_set.images.clone()
        positions = train_set.indices_of(changed)
        images[positions] = images[positions.flip(0)].roll(5, dims=1)
        return metrics(dataclasses.replace(train_set, images=images))["acc_5w1s"].value

    clean = accuracy(())
    assert accuracy(SPLIT.test) == clean
    assert accuracy(SPLIT.train) != clean
    assert accuracy(SPLIT.val) != clean


def test_a_verdict_after_each_epoch_changes_nothing(train_set: ImageSet, one_thread: None) -> None:
    assert metrics(train_set)["acc_5w1s"] == metrics(train_set, judged_by_epoch=False)["acc_5w1s"]


def test_plain_distances_are_judged_where_asked_for(train_set: ImageSet, one_thread: None) -> None:
    found = metrics(train_set, plain_distances=True)
    assert {"acc_5w1s", "acc_5w1s_plain_cosine", "acc_5w1s_plain_euclidean"} <= set(found)


def test_log_says_what_was_changed_and_what_came_out(train_set: ImageSet, project: Path, one_thread: None) -> None:
    other = dataclasses.replace(
        TINY,
        optimizer="muon",
        terms=(Term("proxy", smoothing=0.0), Term("supcon")),
        augment=AugmentConfig(cutout=4),
        resolutions=((0.0, 16), (0.5, 24)),
    )
    trials = (Trial("base", TINY, "works"), Trial("other", other, "differs"), Trial("few", TINY, classes=12))
    bench = Bench.of(train_set, train_set, device="cpu", progress=False)
    table = complete(validation_study("toy", "Works?", trials), bench)
    log = study_log(validation_study("toy", "Works?", (*trials, Trial("later", TINY, "not run yet"))))
    assert list(log.trial) == ["base", "other", "few"] and list(log.expected) == ["works", "differs", ""]
    assert log.change[0] == "–" and log.change[2] == "12 classes"
    assert log.change[1] == (
        "proxy (smoothing 0) + supcon; optimizer = muon; sides 16 from 0%, 24 from 50%; cutout = 4"
    )
    stored = table[table.trial == "other"].set_index("metric").loc["acc_5w1s"]
    assert log["5-way 1-shot"][1] == f"{stored.value:.1f} ± {stored.ci95:.1f}"
    record = json.loads((project / "results" / "studies" / "toy" / "few-seed0.json").read_text())
    assert record["classes"] == 12


def test_trials_may_learn_fewer_classes(train_set: ImageSet, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    chosen = learned_classes(12, SPLIT.train)
    assert learned_classes(64, SPLIT.train) == tuple(SPLIT.train)
    assert len(set(chosen)) == 12 and set(chosen) <= set(SPLIT.train) and chosen == learned_classes(12, SPLIT.train)
    assert set(learned_classes(5, SPLIT.train)) <= set(chosen)  # so that trials differ by more classes only
    with pytest.raises(SplitError, match=r"70 classes.*only 64"):
        learned_classes(70, SPLIT.train)
    learned, real = [], Bench.train

    def recording(
        bench: Bench, config: TrainConfig, images: ImageSet, classes: tuple[int, ...], *more: object
    ) -> object:
        learned.append(classes)
        return real(bench, config, images, classes, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Bench, "train", recording)
    outcomes(train_set, Trial("all", TINY), Trial("few", TINY, classes=12))
    assert learned == [tuple(SPLIT.train), chosen]


def test_distances_are_those_of_the_features_as_they_are() -> None:
    """Two directions and two lengths: the cosine sees the one, the Euclidean distance both."""

    class Fixed:
        def features(self, images: torch.Tensor) -> torch.Tensor:
            return images

    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(6).repeat_interleave(20)
    angle, length = 2.1 * (labels % 3), 1.0 + 20 * (labels // 3)
    features = torch.stack([angle.cos() * length, angle.sin() * length], dim=1)
    features = features + 0.01 * torch.randn(features.shape, generator=generator)
    found = judge_distances(Fixed(), features, labels)  # type: ignore[arg-type]
    assert found["acc_5w1s_plain_euclidean"].value == 100
    # Of the four other classes of an episode one or more point the same way; the choice among those is a guess.
    assert 45 < found["acc_5w1s_plain_cosine"].value < 75


def test_judging_is_on_the_given_images_alone(train_set: ImageSet) -> None:
    torch.manual_seed(0)
    encoder = Encoder("conv3")
    positions = train_set.indices_of(range(6))
    found = judge(encoder, train_set.images[positions], train_set.labels[positions])
    assert set(found) == {"acc_5w1s", "acc_5w5s", "pair_auc"}
    assert found["acc_5w5s"].value > found["acc_5w1s"].value


# ------------------------------------------------------------------------------------------ the studies

ON_VALIDATION_CLASSES = [
    one
    for one in all_studies()
    if "classes" in one.runs()[0].settings and isinstance(one.runs()[0].settings.get("config"), TrainConfig)
]
names = [one.name for one in ON_VALIDATION_CLASSES]


@pytest.mark.parametrize("name", names)
def test_every_trial_has_an_expectation_and_every_record_its_rows(name: str) -> None:
    one = study(name)
    runs = one.runs()
    assert len({run.label for run in runs}) == len(runs)
    assert all(run.expectation and not run.config.validation_classes for run in runs)
    stored = {f"{row.trial}-seed{row.seed}" for row in one.table().itertuples()}
    records = {path.stem: json.loads(path.read_text()) for path in one.record_path(runs[0]).parent.glob("*.json")}
    assert set(records) == stored
    assert not any(record["provenance"]["commit"].endswith("+changes") for record in records.values())


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("encoders_equal_time", {"encoder", "least_images", "most_images"}),
        ("encoders_equal_images", {"encoder"}),
        ("embedding_size", {"embedding_dim"}),
        ("distances", {"terms"}),
        ("precision", {"precision"}),
    ],
)
def test_compared_runs_differ_in_what_is_compared_alone(name: str, free: set[str]) -> None:
    """Whole batches, three seeds, and one and the same recipe but for the field that the study is about."""
    one, trials = study(name), trial_runs(study(name))
    assert {(run.key["trial"], run.key["seed"]) for run in one.runs()} == {
        (t, seed) for t in trials for seed in (0, 1, 2)
    }
    first = one.runs()[0].config
    for run in trials.values():
        config = run.config
        assert config.least_images == config.most_images == run.images and config.most_images % config.batch_size == 0
        more = {"pretrained", "muon_rate", "learning_rate"} if config.pretrained else set()
        assert {key for key in config.to_json() if getattr(config, key) != getattr(first, key)} <= free | more | {
            "recipe"
        }
        if config.pretrained:
            assert PRETRAINED[config.pretrained].backbone == config.encoder


def test_both_comparisons_are_of_the_same_encoders() -> None:
    trials = trial_runs(study("encoders_equal_time"))
    fresh = {name: run for name, run in trials.items() if not run.config.pretrained}
    assert list(fresh) == list(trial_runs(study("encoders_equal_images")))
    assert all(run.config.encoder == name for name, run in fresh.items())
    assert {run.config.encoder for run in trials.values()} == set(IMAGES_IN_TIME)


def test_every_run_of_every_study_has_a_record_of_its_own() -> None:
    """Else the record of a run that was done anew would speak for others that were not."""
    for one in all_studies():
        runs = one.runs()
        assert len({one.record_path(run) for run in runs}) == len(runs), one.name
