"""Ensembles and CIFAR-FS: similarities are means, members differ in the seed alone, numbers are those of the files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import TINY
from torch.nn import functional as F

from siamese_utils.data.cifar import CIFAR100_CLASSES
from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split, fewshot_split_cifar_fs
from siamese_utils.encoders.backbones import count_macs
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder, Ensemble, joined
from siamese_utils.errors import CheckpointError, ConfigError, DataError, ResultsError, ShapeError, UnknownNameError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store
from siamese_utils.experiments import study as experiments
from siamese_utils.experiments.audit import audit
from siamese_utils.experiments.study import Bench, Outcome, Run, keep, run_study, stored
from siamese_utils.recognition.classifier import OneShotClassifier
from siamese_utils.studies.ensembles import cifar_fs, figures, findings
from siamese_utils.studies.ensembles import study as ensembles
from siamese_utils.studies.ensembles.cifar_fs import CIFAR_FS, cifar_fs_run, whole_set
from siamese_utils.studies.ensembles.findings import by_members
from siamese_utils.studies.ensembles.study import ENSEMBLES, TOGETHER, ensemble_run, member_path
from siamese_utils.studies.splits.study import SPLIT_SWEEP
from siamese_utils.training import recipes
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import TrainResult

RESULTS = Path(__file__).resolve().parents[1] / "results"
Parts = tuple[ImageSet, ImageSet]


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    return project


def bench_of(parts: Parts) -> Bench:
    return Bench.of(*parts, device="cpu", progress=False)


def done(task: str, seeds: tuple[int, ...], parts: Parts, **options: bool) -> list[int]:
    """Carry out ensembles and give the seeds of those that were not stored."""
    runs = [ensemble_run(task, seed, "tiny") for seed in seeds]
    return [run.key["seed"] for run, _ in run_study(ENSEMBLES, runs, bench_of(parts), **options)]


def numbers() -> dict[tuple[int, str], float]:
    return {(row.seed, row.metric): row.value for row in ENSEMBLES.table().itertuples()}


def test_similarity_is_the_mean_of_the_members() -> None:
    generator = torch.Generator().manual_seed(0)

    @given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(1, 6))
    def check(sizes: list[int], images: int) -> None:
        each = [F.normalize(torch.randn(images, size, generator=generator), dim=1) for size in sizes]
        z = joined(each)
        assert z.shape == (images, sum(sizes))
        for a in range(images):
            for b in range(images):
                mean = sum(float(member[a].double() @ member[b].double()) for member in each) / len(each)
                assert float(z[a] @ z[b]) == pytest.approx(mean, abs=1e-5)

    check()


def test_ensemble_is_used_like_an_encoder(synthetic_train: ImageSet) -> None:
    torch.manual_seed(0)
    first, second = Encoder("conv3", 8), Encoder("conv3", 5)
    images = synthetic_train.images[:40]
    assert torch.allclose(Ensemble([first]).embed(images), first.embed(images))
    both = Ensemble([first, second])
    z = both.embed(images)
    assert torch.allclose(z.norm(dim=1), torch.ones(40), atol=1e-5) and z.shape == (40, both.embedding_dim)
    mean = (first.embed(images) @ first.embed(images).T + second.embed(images) @ second.embed(images).T) / 2
    assert torch.allclose(z @ z.T, mean, atol=1e-5)
    classifier = OneShotClassifier(both).fit({"a": images[:1], "b": images[-1:]})
    assert torch.allclose(classifier.similarities(images[:3]), (z @ z.T)[:3][:, [0, -1]], atol=1e-5)


def test_what_cannot_be_joined_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one encoder"):
        Ensemble([])
    with pytest.raises(ConfigError, match="the same size"):
        Ensemble([Encoder("conv3"), Encoder("conv3", image_size=28)])
    with pytest.raises(ShapeError, match="the same images"):
        joined([torch.ones(2, 3), torch.ones(3, 3)])
    with pytest.raises(ShapeError, match="at least one"):
        joined([])


def test_members_are_judged_alone_and_together_from_their_files(hundred: Parts, project: Path) -> None:
    assert done("90-10", (2,), hundred) == [2]  # and before it those on which it rests
    assert done("90-10", (0, 1, 2), hundred) == []
    table, number = ENSEMBLES.table(), numbers()
    assert set(table.seed) == {0, 1, 2} and set(table.task) == {"90-10"}
    swept = SPLIT_SWEEP.table().set_index("metric")["value"]
    for metric in ("acc_5w1s", "acc_5w5s", "acc_allway_1s", "pair_auc_unseen"):
        assert number[0, metric] == number[0, metric + TOGETHER] == swept[metric]
        assert number[1, metric] != number[0, metric]
    unseen = set(class_split("90-10", 0).unseen)
    for seed in range(3):
        info = checkpoint_info(member_path("90-10", seed, "tiny"))
        assert info["seed"] == seed and not unseen & set(info["classes"])
        assert TrainConfig.from_json(info["config"]) == dataclasses.replace(TINY, seed=seed)
        if seed:
            record = store.load_json(findings.record_name("90-10", seed, "tiny"))
            assert (record["split"], record["draw"], record["task"]) == ("90-10", 0, "90-10")
            assert list(record["built_on"]) == [
                member_path("90-10", other, "tiny").relative_to(project).as_posix() for other in range(seed)
            ]
    found = audit([ENSEMBLES], bench_of(hundred))
    assert len(found) == len(table) and set(found.verdict) == {"holds"}
    # By hand: the mean of the similarities, through the public class.
    ensemble = Ensemble([load_encoder(member_path("90-10", seed, "tiny")) for seed in range(3)])
    positions = hundred[1].indices_of(sorted(unseen))
    by_hand = ensembles.unseen_metrics(ensemble.embed(hundred[1].images[positions]), hundred[1].labels[positions])
    assert by_hand["acc_5w1s"].value == pytest.approx(number[2, "acc_5w1s" + TOGETHER], abs=1e-3)
    rows = by_members("90-10", recipe_name="tiny")
    assert rows.members.tolist() == [1, 2, 3] and rows.together.iloc[2] == number[2, "acc_5w1s" + TOGETHER]
    records = [store.load_json(findings.record_name("90-10", seed, "tiny")) for seed in range(3)]
    busy = [sum(epoch["cpu_seconds"] for epoch in record["history"]) for record in records]
    assert rows.minutes.iloc[2] == pytest.approx(sum(busy) / 60)
    older = {**records[0], "history": [{"epoch": 1}], "seconds": 90, "provenance": {"threads": 2}}
    assert experiments.recorded_core_minutes(older) == 3


def test_a_member_trained_anew_makes_its_ensembles_others(
    hundred: Parts, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("90-10", (0, 1, 2), hundred)
    before = numbers()
    monkeypatch.setitem(recipes.RECIPES, "tiny", dataclasses.replace(TINY, learning_rate=1e-3))
    with pytest.raises(ResultsError, match=r"90-10-seed1-tiny was made with other settings.*--again"):
        done("90-10", (1,), hundred)
    with pytest.raises(ResultsError, match="split_sweep as 90-10-draw0-seed0-tiny"):
        done("90-10", (0,), hundred, again=True)  # the sweep's own network is replaced by the sweep alone
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    member_path("90-10", 1, "tiny").unlink()
    monkeypatch.setattr(experiments, "train", other_weights(experiments.train))
    assert done("90-10", (1,), hundred) == [1]
    assert stored(ENSEMBLES, ensemble_run("90-10", 2, "tiny")) == "other"
    assert stored(ENSEMBLES, ensemble_run("90-10", 0, "tiny")) == "yes"
    assert done("90-10", (0, 1, 2), hundred, again=True) == [2]
    after = numbers()
    assert after.keys() == before.keys() and after[0, "acc_5w1s"] == before[0, "acc_5w1s"]
    assert all(after[seed, "acc_5w1s" + TOGETHER] != before[seed, "acc_5w1s" + TOGETHER] for seed in (1, 2))
    assert set(audit([ENSEMBLES], bench_of(hundred)).verdict) == {"holds"}


def other_weights(train: Callable[..., TrainResult]) -> Callable[..., TrainResult]:
    """Training as on a processor that rounds otherwise."""

    def trained(*given: object, **more: object) -> TrainResult:
        result = train(*given, **more)
        with torch.no_grad():
            for weight in result.encoder.parameters():
                weight += 0.05 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
        return result

    return trained


def test_cifar_fs_is_judged_on_validation_classes_as_well(
    hundred: Parts, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained_on: list[int] = []
    real = experiments.train
    monkeypatch.setattr(
        experiments,
        "train",
        lambda config, images, *rest, **more: (trained_on.append(len(images)), real(config, images, *rest, **more))[1],
    )
    assert done("cifar-fs", (0, 1), hundred) == [0, 1]
    assert trained_on == [2900, 2900]
    number, alone, split = numbers(), CIFAR_FS.table(), fewshot_split_cifar_fs(CIFAR100_CLASSES)
    assert set(alone.metric) == {"acc_5w1s", "acc_5w5s"} and set(alone.seed) == {0, 1}
    for row in alone.itertuples():
        assert number[row.seed, row.metric] == row.value
    assert {metric for _, metric in number} == {
        f"{prefix}acc_5w{shots}s{suffix}"
        for prefix in ("", "validation_")
        for shots in (1, 5)
        for suffix in ("", TOGETHER)
    }
    assert not set(split.train) & {*split.test, *split.val}
    for seed in (0, 1):
        record, info = (
            CIFAR_FS.read_record(cifar_fs_run(seed, "tiny")),
            checkpoint_info(member_path("cifar-fs", seed, "tiny")),
        )
        assert tuple(info["classes"]) == split.train and info["config"] == record["config"]
        assert TrainConfig.from_json(record["config"]) == dataclasses.replace(TINY, seed=seed, held_out_images=0)
    assert set(audit([CIFAR_FS, ENSEMBLES], bench_of(hundred)).verdict) == {"holds"}
    assert {stored(CIFAR_FS, cifar_fs_run(seed, "tiny")) for seed in (0, 1)} == {"yes"}


def test_what_is_no_member_is_refused(hundred: Parts) -> None:
    with pytest.raises(UnknownNameError, match="90-10"):
        member_path("50-50", 0)
    with pytest.raises(CheckpointError, match="no member"):
        ENSEMBLES.again(RESULTS / "checkpoints" / "cifar100-50-50-draw0.safetensors", bench_of(hundred))
    with pytest.raises(CheckpointError, match="not trained on CIFAR-FS"):
        CIFAR_FS.again(RESULTS / "checkpoints" / "cifar100-90-10-draw0.safetensors", bench_of(hundred))


def test_planned_are_the_members_that_were_fixed_beforehand() -> None:
    runs = ENSEMBLES.runs()
    assert [run.key["seed"] for run in runs] == [0, 1, 2, 3, 0, 1, 2]
    for run in runs:
        assert run.config.seed == run.key["seed"] and len(run.built_on) >= run.key["seed"]
    planned = [(run.key["recipe"], run.key["seed"]) for run in CIFAR_FS.runs()]
    names = (recipes.DEFAULT_RECIPE, recipes.HALF_HOUR_RECIPE, *recipes.LONG_RECIPES)
    assert planned == [(name, seed) for name in names for seed in (0, 1, 2)]
    assert [run.key["recipe"] for run in CIFAR_FS.runs(recipe="smoke")] == ["smoke"] * 3


def test_five_examples_are_judged_beside_one() -> None:
    """Twenty classes of noisy unit vectors: five shots tell them apart better than one, and neither is at chance."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20).repeat_interleave(25)
    z = torch.nn.functional.one_hot(labels, 32).float() + 0.35 * torch.randn(500, 32, generator=generator)
    found = cifar_fs.judge(torch.nn.functional.normalize(z, dim=1), labels)
    assert set(found) == {"acc_5w1s", "acc_5w5s"} and {one.n for one in found.values()} == {10_000}
    assert 100 > found["acc_5w5s"].value > found["acc_5w1s"].value + 5 > 45


def test_both_parts_are_joined(hundred: tuple[ImageSet, ImageSet]) -> None:
    whole = whole_set(*hundred)
    assert torch.equal(torch.bincount(whole.labels), torch.full((100,), 29))
    assert torch.equal(whole.images[:800], hundred[0].images)
    with pytest.raises(DataError, match="one data set"):
        whole_set(hundred[0], dataclasses.replace(hundred[1], name="cifar100"))


def put(task: str, seed: int, alone: float, together: float, names: tuple[str, ...]) -> None:
    metrics = {name: Estimate(alone, 0.2, 9) for name in names}
    metrics |= {name + TOGETHER: Estimate(together, 0.3, 9) for name in names}
    record = {
        "seconds": 600.0,
        "provenance": {"threads": 1 + (seed == 0)},
        "config": recipes.recipe(recipes.DEFAULT_RECIPE).to_json(),
    }
    keep(ENSEMBLES, Run({"task": task, "seed": seed, "recipe": recipes.DEFAULT_RECIPE}, {}), Outcome(metrics), {})
    store.store_json(findings.record_name(task, seed), record)


def test_figure_and_sentences_say_what_is_stored(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ResultsError):
        figures.members_figure()
    cifar_names = tuple(f"{prefix}acc_5w{shots}s" for prefix in ("", "validation_") for shots in (1, 5))
    put("90-10", 0, 76.0, 76.0, ("acc_5w1s", "acc_allway_1s"))
    with pytest.raises(ResultsError, match="No ensemble of 90-10"):
        findings.gain_sentence("90-10")
    put("90-10", 1, 75.0, 78.5, ("acc_5w1s", "acc_allway_1s"))
    told = findings.gain_sentence("90-10")
    assert "75.0 to 76.0, on average 75.5; 2 together **78.5 ± 0.3**, +3.0 points" in told
    assert "took 15 minutes of two processor cores" in told and "1-shot among all ten" in told.lower()
    for seed, (alone, together) in enumerate([(66.0, 66.0), (67.0, 69.5)]):
        put("cifar-fs", seed, alone, together, cifar_names)
    shown = figures.members_figure()
    figure, alt = shown.figure, shown.alt
    assert "78.5 percent with 2" in alt and "CIFAR-FS, test classes: 66.0 percent with 1, 69.5 percent with 2" in alt
    assert {text.get_text() for text in figure.axes[0].texts} >= {"78.5", "69.5", "90-10, ten unseen classes"}
    plt.close(figure)

    for seed, value in enumerate([66.0, 67.0]):
        metrics = {"acc_5w1s": Estimate(value, 0.2, 9), "acc_5w5s": Estimate(value + 10, 0.2, 9)}
        record = store.load_json(findings.record_name("cifar-fs", seed))
        keep(CIFAR_FS, Run({"recipe": recipes.DEFAULT_RECIPE, "seed": seed}, {}), Outcome(metrics, record=record), {})
    (project / "results" / "cifar_fs_published.csv").write_text(
        'method,encoder,acc_5w1s,acc_5w5s,source\nbetter,big,70,80,"a, arXiv:1"\nworse,small,60,71,b\n'
    )
    table = findings.field_table().frame
    ours = ["one resnet9-32, mean of 2 seeds", "2 resnet9-32 together"]
    assert table.method.tolist() == ["worse, small", *ours, "better, big"]
    assert table["5-way 1-shot"].tolist() == ["60.0", "66.5 ± 0.2", "69.5 ± 0.3", "70.0"]
    alone = table.set_index("method")["core-minutes"][ours]

    monkeypatch.setattr(findings, "_members_of", lambda *_: [(recipes.DEFAULT_RECIPE, seed) for seed in (0, 1)])
    best = findings.Way("some", 2, "its own", "shifted", (69.8, 0.2), (79.5, 0.1), findings.Cost(30.0, 1e6, 2e15), 30.0)
    monkeypatch.setattr(findings.Way, "best", lambda *_: best)
    monkeypatch.setattr(findings, "_kinds_stored", lambda: [best.features])
    more = findings.field_table().frame.set_index("method")
    assert more.index.tolist() == ["worse, small", *ours, "some, shifted", "better, big"]
    assert more.loc["some, shifted", ["5-way 1-shot", "5-way 5-shot"]].tolist() == ["69.8 ± 0.2", "79.5 ± 0.1"]
    assert more["core-minutes"]["some, shifted"] == alone.iloc[1] != alone.iloc[0]
    assert table.source.tolist() == ["b", "this report", "this report", "a"]
    assert table["core-minutes"].tolist() == ["–", "15", "30", "–"]  # two threads, and one
    images = 13 * 150 * 256 / 1e6  # thirteen passes of 64 x 600 images, in batches of 256
    macs = count_macs(Encoder("resnet9-32").body, 32) * (0.3 / 4 + 0.45 * 9 / 16 + 0.25)  # nearly: by area
    assert table.images.tolist() == ["–", f"{images:.2f}", f"{2 * images:.2f}", "–"]
    assert float(table.operations[1]) == pytest.approx(3 * macs * images / 1e9, rel=0.05, abs=0.005)
    assert len(findings.published()) == 2
