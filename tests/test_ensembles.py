"""Ensembles: similarities are means, members differ in the seed alone, and what is stored comes back from the files."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from siamese_utils.data.cifar import CIFAR100_CLASSES
from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split, fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import checkpoint_info
from siamese_utils.encoders.classify import OneShotClassifier
from siamese_utils.encoders.encoder import Encoder, Ensemble, joined
from siamese_utils.errors import CheckpointError, ConfigError, ResultsError, ShapeError, UnknownNameError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store as results
from siamese_utils.studies.audit import Data, audit
from siamese_utils.studies.ensembles import cifar_fs as cifarfs
from siamese_utils.studies.ensembles import figures as ensemble_figures
from siamese_utils.studies.ensembles import study as ensembles
from siamese_utils.studies.ensembles.study import TOGETHER, by_members, member_path, run_ensemble
from siamese_utils.studies.splits import stored
from siamese_utils.studies.splits import study as sweep
from siamese_utils.training import recipes
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

TINY = TrainConfig(
    recipe="tiny", terms=(Term("proxy"),), encoder="conv3", embedding_dim=8, epochs=1, batch_size=64,
    held_out_images=3, resolutions=((0.0, 16),),
)  # fmt: skip
Parts = tuple[ImageSet, ImageSet]


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    monkeypatch.setattr(ensembles, "MEMBERS", {"90-10": 3, "cifar-fs": 2})
    return project


def run(task: str, parts: Parts, **more: object) -> pd.DataFrame:
    return run_ensemble(task, *parts, recipe_name="tiny", device="cpu", progress=False, **more)  # type: ignore[arg-type]


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


def test_members_are_trained_once_and_judged_from_their_files(
    hundred: Parts, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(run("90-10", hundred, seeds=[1])) == 0  # seed 0 is missing, so nothing can be judged yet
    table = run("90-10", hundred)
    assert set(table.seed) == {0, 1, 2} and set(table.task) == {"90-10"}
    number = {(row.seed, row.metric): row.value for row in table.itertuples()}
    swept = stored.split_sweep().set_index("metric")["value"]
    for metric in ("acc_5w1s", "acc_5w5s", "acc_allway_1s", "pair_auc_unseen"):
        assert number[0, metric] == number[0, metric + TOGETHER] == swept[metric]
        assert number[1, metric] != number[0, metric]
    unseen = set(class_split("90-10", 0).unseen)
    for seed in range(3):
        info = checkpoint_info(member_path("90-10", seed))
        assert info["seed"] == seed and not unseen & set(info["classes"])
        assert TrainConfig.from_json(info["config"]) == dataclasses.replace(TINY, seed=seed)
    found = audit(Data(*hundred), ["ensembles"], progress=False)
    assert len(found) == len(table) and set(found.verdict) == {"holds"}
    # By hand: the mean of the similarities, through the public class.
    ensemble = Ensemble([ensembles.load_encoder(member_path("90-10", seed)) for seed in range(3)])
    positions = hundred[1].indices_of(sorted(unseen))
    by_hand = ensembles._unseen_metrics(ensemble.embed(hundred[1].images[positions]), hundred[1].labels[positions])
    assert by_hand["acc_5w1s"].value == pytest.approx(number[2, "acc_5w1s" + TOGETHER], abs=1e-3)

    monkeypatch.setattr(ensembles, "train_run", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(sweep, "train_run", lambda *_, **__: pytest.fail("trained again"))
    assert run("90-10", hundred).equals(table)
    rows = by_members("90-10", recipe_name="tiny")
    assert rows.members.tolist() == [1, 2, 3] and rows.together.iloc[2] == number[2, "acc_5w1s" + TOGETHER]
    seconds = [results.load_json(ensembles.record_name("90-10", seed)) for seed in range(3)]
    assert rows.minutes.iloc[2] == pytest.approx(sum(r["seconds"] * r["provenance"]["threads"] for r in seconds) / 60)


def test_cifar_fs_is_judged_on_validation_classes_as_well(hundred: Parts, project: Path) -> None:
    table = run("cifar-fs", hundred)
    number = {(row.seed, row.metric): row.value for row in table.itertuples()}
    alone = cifarfs.stored_cifar_fs()
    for row in alone.itertuples():
        assert number[row.seed, row.metric] == row.value
    assert {metric for _, metric in number} == {
        f"{prefix}acc_5w{shots}s{suffix}"
        for prefix in ("", "validation_") for shots in (1, 5) for suffix in ("", TOGETHER)
    }  # fmt: skip
    split = fewshot_split_cifar_fs(CIFAR100_CLASSES)
    assert tuple(checkpoint_info(member_path("cifar-fs", 1))["classes"]) == split.train
    again = ensembles.reevaluate_member(member_path("cifar-fs", 1), *hundred)
    assert again["validation_acc_5w1s_together"].value == pytest.approx(
        number[1, "validation_acc_5w1s_together"], abs=1e-3
    )


def test_a_member_of_another_recipe_is_trained_anew(
    hundred: Parts, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = run("90-10", hundred, seeds=[0, 1])
    monkeypatch.setitem(recipes.RECIPES, "tiny", dataclasses.replace(TINY, learning_rate=1e-3))
    trained = []
    real = ensembles.train_run
    monkeypatch.setattr(ensembles, "train_run", lambda run, *a, **k: trained.append(run.seed) or real(run, *a, **k))
    run("90-10", hundred, seeds=[1])
    assert trained == [1]
    shutil.rmtree(project / "runs")
    after = run("90-10", hundred, seeds=[0])
    assert trained == [1] and len(after) == len(before) and set(after.seed) == {0, 1}
    assert set(after.value) != set(before.value)
    assert set(audit(Data(*hundred), ["ensembles"], progress=False).verdict) == {"holds"}


def test_unknown_names_and_seeds_are_refused(hundred: Parts, project: Path) -> None:
    for call in (lambda: run("50-50", hundred), lambda: member_path("50-50", 0)):
        with pytest.raises(UnknownNameError, match="90-10"):
            call()
    with pytest.raises(ConfigError, match="seeds 0 to 2, not 3"):
        run("90-10", hundred, seeds=[3])
    path = Path(__file__).resolve().parents[1] / "results" / "checkpoints" / "cifar100-50-50-draw0.safetensors"
    with pytest.raises(CheckpointError, match="no member"):
        ensembles.reevaluate_member(path, *hundred)
    assert not ensembles.table_path().exists()


def store(task: str, seed: int, alone: float, together: float, names: tuple[str, ...]) -> None:
    metrics = {name: Estimate(alone, 0.2, 9) for name in names}
    metrics |= {name + TOGETHER: Estimate(together, 0.3, 9) for name in names}
    key = {"task": task, "seed": seed, "recipe": recipes.DEFAULT_RECIPE}
    results.store_run(key, metrics, "", table=ensembles.table_path(), columns=ensembles.ENSEMBLE_COLUMNS)
    record = {"seconds": 600.0, "provenance": {"threads": 1 + (seed == 0)}, "config": {"encoder": "resnet9-32"}}
    results.store_json(ensembles.record_name(task, seed), record)


def test_figure_and_sentences_say_what_is_stored(project: Path) -> None:
    with pytest.raises(ResultsError):
        ensemble_figures.members_figure()
    cifar_names = tuple(f"{prefix}acc_5w{shots}s" for prefix in ("", "validation_") for shots in (1, 5))
    store("90-10", 0, 76.0, 76.0, ("acc_5w1s", "acc_allway_1s"))
    with pytest.raises(ResultsError, match="No ensemble of 90-10"):
        ensemble_figures.gain_sentence("90-10")
    store("90-10", 1, 75.0, 78.5, ("acc_5w1s", "acc_allway_1s"))
    told = ensemble_figures.gain_sentence("90-10")
    assert "75.0 to 76.0, on average 75.5; 2 together **78.5 ± 0.3**, +3.0 points" in told
    assert "took 15 minutes of two processor cores" in told and "1-shot among all ten" in told.lower()
    for seed, (alone, together) in enumerate([(66.0, 66.0), (67.0, 69.5)]):
        store("cifar-fs", seed, alone, together, cifar_names)
    figure, alt = ensemble_figures.members_figure()
    assert "78.5 percent with 2" in alt and "CIFAR-FS, test classes: 66.0 percent with 1, 69.5 percent with 2" in alt
    assert {text.get_text() for text in figure.axes[0].texts} >= {"78.5", "69.5", "90-10, ten unseen classes"}
    plt.close(figure)

    for seed, value in enumerate([66.0, 67.0]):
        results.store_run(
            {"recipe": recipes.DEFAULT_RECIPE, "seed": seed},
            {"acc_5w1s": Estimate(value, 0.2, 9), "acc_5w5s": Estimate(value + 10, 0.2, 9)}, f"seed{seed}",
            table=cifarfs.table_path(), columns=cifarfs.CIFAR_FS_COLUMNS,
        )  # fmt: skip
    (project / "results" / "cifar_fs_published.csv").write_text(
        "method,encoder,acc_5w1s,acc_5w5s,source\nbetter,big,70,80,\"a, arXiv:1\"\nworse,small,60,71,b\n"
    )
    table = ensemble_figures.field_table()
    ours = ["one resnet9-32, mean of 2 seeds", "2 of these together"]
    assert table.method.tolist() == ["worse, small", *ours, "better, big"]
    assert table["5-way 1-shot"].tolist() == ["60.0", "66.5 ± 0.2", "69.5 ± 0.3", "70.0"]
    assert table.source.tolist() == ["b", "this report", "this report", "a"]
    assert len(ensemble_figures.published()) == 2
