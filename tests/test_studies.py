"""Studies: what is learned, what is judged, what is stored, and that a killed study goes on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from siamese_utils.data.cifar import CIFAR100_CLASSES
from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.pretrained import PRETRAINED
from siamese_utils.errors import CollapseError, ConfigError, ResultsError, SplitError, UnknownNameError
from siamese_utils.experiments import store as results
from siamese_utils.studies import validation as studies
from siamese_utils.studies.networks import speed as encoder_speed
from siamese_utils.studies.validation import STUDIES, Trial, read_record, read_study, run_study, trials_of
from siamese_utils.training.augment import AugmentConfig
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

TINY = TrainConfig(
    recipe="", terms=(Term("proxy"),), encoder="conv3", embedding_dim=8, epochs=1, batch_size=64, held_out_images=2,
    resolutions=((0.0, 16),), most_images=256,
)  # fmt: skip


@pytest.fixture(scope="module")
def train_set() -> ImageSet:
    """A hundred synthetic classes under CIFAR-100's names, with just enough images for 5-shot episodes."""
    synthetic = make_synthetic("train", num_classes=100, per_class=21)
    return dataclasses.replace(synthetic, class_names=CIFAR100_CLASSES)


def test_every_trial_is_stored_with_what_it_came_from(train_set: ImageSet, project: Path) -> None:
    trials = (
        Trial("one", TINY, "works", seeds=(0, 1)),
        Trial("two", dataclasses.replace(TINY, encoder="resnet9-16", embedding_dim=None, most_images=128)),
    )
    table = run_study("toy", trials, train_set, device="cpu", progress=False)
    assert set(zip(table.trial, table.seed, strict=True)) == {("one", 0), ("one", 1), ("two", 0)}
    value = table.set_index(["trial", "seed", "metric"]).value
    assert value["one", 0, "images"] == 256 and value["two", 0, "images"] == 128
    assert value["two", 0, "parameters"] > value["one", 0, "parameters"]
    assert value["two", 0, "macs"] > 1e6 and value["one", 0, "seconds"] > 0
    assert value["one", 0, "acc_5w1s"] != value["one", 1, "acc_5w1s"]  # another seed, another network
    accuracy = table[table.metric == "acc_5w1s"]
    assert accuracy.value.between(15, 100).all() and accuracy.ci95.gt(0).all() and (accuracy.n == 10_000).all()
    record = read_record("toy", "one", 1)
    assert TrainConfig.from_json(record["config"]) == dataclasses.replace(TINY, recipe="toy/one", seed=1)
    assert record["expectation"] == "works" and len(record["history"]) == 1 and record["provenance"]["processor"]
    assert not (project / "runs" / "toy" / "one-seed0").exists()  # the state is of no more use


def test_only_training_and_validation_classes_are_touched(
    train_set: ImageSet, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other pixels in the test classes change nothing; other pixels in either of the rest change the result."""

    def accuracy(changed: tuple[int, ...]) -> float:
        images = train_set.images.clone()
        positions = train_set.indices_of(changed)
        images[positions] = images[positions.flip(0)].roll(5, dims=1)
        study = f"poisoned{len(changed)}"
        table = run_study(study, [Trial("t", TINY)], dataclasses.replace(train_set, images=images), progress=False)
        return float(results.result(table, metric="acc_5w1s").value)

    split = fewshot_split_cifar_fs(CIFAR100_CLASSES)
    clean = accuracy(())
    assert accuracy(split.test) == clean
    assert accuracy(split.train) != clean
    assert accuracy(split.val) != clean


def test_stored_trials_are_not_run_again(
    train_set: ImageSet, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study("toy", [Trial("one", TINY)], train_set, progress=False)
    before = (project / "results" / "toy.csv").read_bytes()
    real = studies.train
    asked: list[str] = []

    def recording(config: TrainConfig, *arguments: object, **more: object) -> object:
        asked.append(config.recipe)
        return real(config, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(studies, "train", recording)
    run_study("toy", [Trial("one", TINY)], train_set, progress=False)
    assert not asked and (project / "results" / "toy.csv").read_bytes() == before
    run_study("toy", [Trial("one", TINY), Trial("new", TINY)], train_set, progress=False)
    assert asked == ["toy/new"]
    with pytest.raises(ResultsError, match="another configuration"):
        run_study("toy", [Trial("one", dataclasses.replace(TINY, learning_rate=0.1))], train_set, progress=False)


def test_log_says_what_was_changed_and_what_came_out(
    train_set: ImageSet, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = (
        Trial("base", TINY, "works"),
        Trial(
            "other",
            dataclasses.replace(
                TINY, optimizer="muon", terms=(Term("proxy", smoothing=0.0), Term("supcon")),
                augment=AugmentConfig(cutout=4), resolutions=((0.0, 16), (0.5, 24)),
            ),
            "differs",
        ),
        Trial("later", TINY, "not run yet"),
    )  # fmt: skip
    monkeypatch.setitem(STUDIES, "toy", trials)
    table = run_study("toy", trials[:2], train_set, progress=False)
    log = studies.study_log("toy")
    assert list(log.trial) == ["base", "other"] and list(log.expected) == ["works", "differs"]
    assert log.change[0] == "–"
    assert log.change[1] == (
        "proxy (smoothing 0.0) + supcon; optimizer = muon; sides 16 from 0%, 24 from 50%; cutout = 4"
    )
    stored = results.result(table, trial="other", metric="acc_5w1s")
    assert log["5-way 1-shot"][1] == f"{stored.value:.1f} ± {stored.ci95:.1f}"


def test_trials_may_learn_fewer_classes(
    train_set: ImageSet, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = fewshot_split_cifar_fs(CIFAR100_CLASSES)
    few, fewer = Trial("few", TINY, classes=12), Trial("fewer", TINY, classes=5)
    assert studies.learned_classes(Trial("all", TINY), split.train) == tuple(split.train)
    chosen = studies.learned_classes(few, split.train)
    assert len(set(chosen)) == 12 and set(chosen) <= set(split.train)
    assert chosen == studies.learned_classes(Trial("same", TINY, classes=12), split.train)
    assert set(studies.learned_classes(fewer, split.train)) <= set(chosen)  # so that trials differ by more classes only
    with pytest.raises(SplitError, match=r"70 classes.*only 64"):
        studies.learned_classes(Trial("many", TINY, classes=70), split.train)

    real, learned = studies.train, []

    def recording(config: TrainConfig, images: ImageSet, classes: tuple[int, ...], **more: object) -> object:
        learned.append(classes)
        return real(config, images, classes, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(studies, "train", recording)
    trials = (Trial("base", TINY, "is the base"), few)
    monkeypatch.setitem(STUDIES, "toy", trials)
    run_study("toy", trials, train_set, progress=False)
    assert learned == [tuple(split.train), chosen] and read_record("toy", "few")["classes"] == 12
    assert list(studies.study_log("toy").change) == ["–", "12 classes"]
    with pytest.raises(ResultsError, match="another configuration"):
        run_study("toy", [dataclasses.replace(few, classes=13)], train_set, progress=False)


def test_first_seed_of_all_comes_before_second_of_any(
    train_set: ImageSet, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def refuse(config: TrainConfig, *_: object, **__: object) -> None:
        asked.append((config.recipe, config.seed))
        raise CollapseError("all the same")

    monkeypatch.setattr(studies, "train", refuse)
    trials = (Trial("a", TINY, seeds=(0, 1)), Trial("b", TINY), Trial("c", TINY, seeds=(1, 0)))
    run_study("toy", trials, train_set, progress=False, seeds=[1])
    assert asked == [("toy/a", 1), ("toy/c", 1)]
    run_study("all", trials, train_set, progress=False)
    assert asked[2:] == [("all/a", 0), ("all/b", 0), ("all/c", 0), ("all/a", 1), ("all/c", 1)]
    with pytest.raises(ConfigError, match=r"seed 7.*\[0, 1\]"):
        run_study("toy", trials, train_set, progress=False, seeds=[7])


def test_trials_may_go_without_a_verdict_after_each_epoch(
    train_set: ImageSet, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They then learn the same, and are judged in the end all the same."""
    with_it, without = Trial("with", TINY), Trial("without", TINY, judged_by_epoch=False)
    table = run_study("toy", [with_it, without], train_set, device="cpu", progress=False)
    assert "validation_acc_5w1s" in read_record("toy", "with")["history"][0]
    assert "validation_acc_5w1s" not in read_record("toy", "without")["history"][0]
    value = table.set_index(["trial", "metric"]).value
    assert value["with", "acc_5w1s"] == value["without", "acc_5w1s"]


def test_plain_distances_are_judged_where_asked_for(train_set: ImageSet, project: Path) -> None:
    table = run_study("toy", [Trial("t", TINY, plain_distances=True)], train_set, device="cpu", progress=False)
    assert {"acc_5w1s", "acc_5w1s_plain_cosine", "acc_5w1s_plain_euclidean"} <= set(table.metric)


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
    found = studies.judge_distances(Fixed(), features, labels)  # type: ignore[arg-type]
    assert found["acc_5w1s_plain_euclidean"].value == 100
    # Of the four other classes of an episode one or more point the same way; the choice among those is a guess.
    assert 45 < found["acc_5w1s_plain_cosine"].value < 75


@pytest.mark.parametrize(
    "study", ["encoders_equal_time", "encoders_equal_images", "embedding_size", "distances", "precision"]
)
def test_compared_runs_differ_in_what_is_compared_alone(study: str) -> None:
    """Whole batches, three seeds, and one and the same recipe but for the field that the study is about."""
    trials = trials_of(study)
    free = {
        "encoders_equal_time": {"encoder", "least_images", "most_images"}, "encoders_equal_images": {"encoder"},
        "embedding_size": {"embedding_dim"}, "distances": {"terms"}, "precision": {"precision"},
    }[study]  # fmt: skip
    for trial in trials:
        config = trial.config
        assert trial.seeds == (0, 1, 2) and not trial.judged_by_epoch
        assert config.least_images == config.most_images > 0 and config.most_images % config.batch_size == 0
        more = {"pretrained", "muon_rate", "learning_rate"} if config.pretrained else set()
        changed = {
            field.name
            for field in dataclasses.fields(TrainConfig)
            if getattr(config, field.name) != getattr(trials[0].config, field.name)
        }
        assert changed <= free | more
        if config.pretrained:
            assert PRETRAINED[config.pretrained].backbone == config.encoder
    if study == "encoders_equal_time":
        fresh = [trial for trial in trials if not trial.config.pretrained]
        assert [t.name for t in fresh] == [t.name for t in trials_of("encoders_equal_images")]
        assert all(t.config.encoder == t.name for t in fresh)
        assert {t.config.encoder for t in trials} == set(studies.IMAGES_IN_TIME)


def test_equal_time_is_what_the_stored_speeds_say() -> None:
    """The numbers written down in the code follow from ``results/encoder_speed.csv``."""
    path = Path(__file__).resolve().parents[1] / "results" / "encoder_speed.csv"
    if not path.exists():
        pytest.skip("no speeds are stored yet")
    config = trials_of("encoders_equal_time")[0].config
    speeds = results.read_table(path, encoder_speed.SPEED_COLUMNS)
    found = encoder_speed.images_in(speeds, studies.EQUAL_MINUTES, config, list(studies.IMAGES_IN_TIME))
    assert found == studies.IMAGES_IN_TIME
    assert (speeds.threads == 1).all() and speeds.processor.nunique() == 1 and (speeds.rounds > 2).all()


def test_failed_run_is_reported_not_lost(
    train_set: ImageSet, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collapse(*_: object, **__: object) -> None:
        raise CollapseError("all the same")

    monkeypatch.setattr(studies, "train", collapse)
    table = run_study("toy", [Trial("bad", TINY)], train_set, progress=False)
    assert list(table.metric) == ["failed"]
    assert read_record("toy", "bad")["error"] == "all the same"


def test_missing_and_unknown(project: Path) -> None:
    with pytest.raises(ResultsError, match="no results table"):
        read_study("toy")
    with pytest.raises(ResultsError, match="missing or damaged"):
        read_record("toy", "one")
    with pytest.raises(UnknownNameError, match="recipe_search"):
        trials_of("recipe_serch")


@pytest.mark.parametrize("study", STUDIES)
def test_trials_have_names_of_their_own_and_configurations_that_can_be_stored(study: str) -> None:
    names = [trial.name for trial in STUDIES[study]]
    assert len(set(names)) == len(names)
    for trial in STUDIES[study]:
        assert TrainConfig.from_json(json.loads(json.dumps(trial.config.to_json()))) == trial.config
        assert trial.expectation and not trial.config.validation_classes


def test_stored_studies_are_those_of_the_code() -> None:
    """Every row has its record, every record its rows, and both the configuration that the code names."""
    root = Path(__file__).resolve().parents[1] / "results"
    for study, trials in STUDIES.items():
        path = root / f"{study}.csv"
        if not path.exists():
            continue
        table = results.read_table(path, studies.STUDY_COLUMNS)
        configs = {trial.name: trial.config for trial in trials}
        stored = {(row.trial, row.seed) for row in table.itertuples()}
        records = {p.stem for p in (root / "studies" / study).glob("*.json")}
        assert records == {f"{trial}-seed{seed}" for trial, seed in stored}
        for trial, seed in stored:
            record = json.loads((root / "studies" / study / f"{trial}-seed{seed}.json").read_text())
            expected = dataclasses.replace(configs[trial], recipe=f"{study}/{trial}", seed=seed)
            assert TrainConfig.from_json(record["config"]) == expected
            learned = next(one.classes for one in trials if one.name == trial)
            assert record.get("classes", 64) == (learned or 64)
            assert not record["provenance"]["commit"].endswith("+changes")


def test_judging_is_on_the_given_images_alone(train_set: ImageSet) -> None:
    torch.manual_seed(0)
    from siamese_utils.encoders.encoder import Encoder

    encoder = Encoder("conv3")
    positions = train_set.indices_of(range(6))
    found = studies.judge(encoder, train_set.images[positions], train_set.labels[positions])
    assert set(found) == {"acc_5w1s", "acc_5w5s", "pair_auc"}
    assert found["acc_5w5s"].value > found["acc_5w1s"].value
