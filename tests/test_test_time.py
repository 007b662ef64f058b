"""What is done on CIFAR-FS with networks that are trained: views, several of them, and a regression on the examples."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import TINY
from torch.nn import functional as F

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import sample_episodes
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.episodes import episode_accuracies
from siamese_utils.experiments.study import Bench, run_study, stored
from siamese_utils.studies.ensembles import cifar_fs, findings, test_time
from siamese_utils.studies.ensembles.test_time import CIFAR_FS_TEST_TIME, logistic_accuracies
from siamese_utils.training import recipes


def clusters(spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator, labels = torch.Generator().manual_seed(0), torch.arange(120) % 6
    centres = torch.randn(6, 8, generator=generator)
    return F.normalize(centres[labels] + spread * torch.randn(120, 8, generator=generator), dim=1), labels


def fitted_slowly(z: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and biases of a logistic regression with penalty 1 on the weights, in float64 by many small steps."""
    weights = torch.zeros(int(labels.max()) + 1, z.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(len(weights), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights, bias], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        wrong = F.cross_entropy(z.double() @ weights.T + bias, labels, reduction="sum")
        total = wrong + weights.square().sum() / 2
        total.backward()
        return total

    optimizer.step(loss)
    return weights.detach(), bias.detach()


@pytest.mark.parametrize("shots", [1, 5])
def test_a_regression_is_the_one_written_out(shots: int) -> None:
    z, labels = clusters(1.2)
    episodes = sample_episodes(labels, 4, shots, 6, 20, 0)
    expected = []
    for support, query in zip(episodes.support, episodes.query, strict=True):
        weights, bias = fitted_slowly(z[support.flatten()], torch.arange(4).repeat_interleave(shots))
        said = (z[query.flatten()].double() @ weights.T + bias).argmax(dim=1)
        expected.append(float((said == torch.arange(4).repeat_interleave(6)).double().mean()))
    found = logistic_accuracies(z, episodes)
    assert found.tolist() == pytest.approx(expected, abs=1 / 24 + 1e-9)  # an answer may hang on the last digit
    assert float(found.mean()) == pytest.approx(sum(expected) / 20, abs=0.005) and 0.3 < found.mean() < 0.98
    if shots == 1:  # with one example a class the nearest example wins, by symmetry nearly
        assert float(found.mean()) == pytest.approx(float(episode_accuracies(z, episodes).mean()), abs=0.05)


def test_every_way_is_judged_on_both_parts(
    hundred: tuple[ImageSet, ImageSet], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    bench = Bench.of(*hundred, device="cpu", progress=False)
    groups = {"first": (("tiny", 0),), "both": (("tiny", 0), ("tiny", 1))}
    monkeypatch.setattr(test_time, "NETWORKS", groups)
    monkeypatch.setattr(test_time, "FITTED", 20)
    with pytest.raises(ResultsError):
        findings.ways_table()
    runs = CIFAR_FS_TEST_TIME.runs()
    run = runs[0]
    assert [len(one.built_on) for one in runs] == [2, 2]  # and what is trained for one part is not for the other
    assert [one.images for one in runs] == [2 * cifar_fs.cifar_fs_run(0, "tiny").images, 0]
    for _ in run_study(CIFAR_FS_TEST_TIME, runs, bench):
        pass
    assert all(stored(CIFAR_FS_TEST_TIME, one) == "yes" for one in runs)
    assert CIFAR_FS_TEST_TIME.runs()[0].images == 0
    table = CIFAR_FS_TEST_TIME.table()
    key = ["networks", "part", "views", "metric"]
    assert len(table) == 2 * 2 * 2 * 6 and not table.duplicated(key).any()
    assert set(table.metric) == set(CIFAR_FS_TEST_TIME.metrics)
    values = table.set_index(key).value
    whole = cifar_fs.whole_set(*hundred)
    for metric, estimate in cifar_fs.evaluate_cifar_fs(load_encoder(run.built_on[0]), whole).items():
        assert values["first", "test", "as it is", metric] == pytest.approx(estimate.value, abs=2e-3)
    assert set(table[table.metric.str.contains("logistic")].n) == {20}
    told = findings.ways_table().frame
    assert len(told) == 2 * 2 and set(told.networks) == {"first", "both"}


def test_the_fastest_training_of_a_recipe_says_how_long_all_would_take(monkeypatch: pytest.MonkeyPatch) -> None:
    took = {("a", 0): 10.0, ("a", 1): 30.0, ("b", 0): 70.0, ("b", 1): 50.0}
    monkeypatch.setattr(findings, "cost", lambda seed, name: findings.Cost(took[name, seed], 1, 1))
    assert (findings._cost_of([*took]).core_minutes, findings._fastest_minutes([*took])) == (160, 120)


def test_pairs_of_either_kind_share_their_networks() -> None:
    def members(groups: dict[str, test_time.Members]) -> list[tuple[str, int]]:
        return sorted(member for some in groups.values() for member in some)

    assert members(test_time.ONE_RECIPE) == members(test_time.TWO_RECIPES) == members(test_time.ALL_LONG)
    assert members(test_time.ALONE) == sorted(test_time.LONG)
    assert all(len({recipe for recipe, _ in pair}) == 1 < len(pair) for pair in test_time.ONE_RECIPE.values())
    assert all(len({recipe for recipe, _ in pair}) == 2 == len(pair) for pair in test_time.TWO_RECIPES.values())


def test_company_is_told_by_its_kind(project: Path) -> None:
    reached = {
        **dict(zip(test_time.ALONE, (60.0, 61.0, 62.0, 64.0), strict=True)),
        **dict(zip(test_time.ONE_RECIPE, (65.0, 66.0), strict=True)),
        **dict(zip(test_time.TWO_RECIPES, (67.0, 67.5), strict=True)),
        **dict.fromkeys(test_time.ALL_LONG, 69.0),
    }
    rows = [
        (name, part, view, f"acc_5w{shots}s", value + more + change + 2 * shots, 0.25, 100)
        for name, value in reached.items()
        for part, more in (("validation", 0.0), ("test", 10.0))
        for view, change in (("as it is", 0.0), ("shifted", 5.0))
        for shots in (1, 5)
    ]
    pd.DataFrame(rows, columns=CIFAR_FS_TEST_TIME.columns).to_csv(CIFAR_FS_TEST_TIME.path, index=False)
    told = findings.company_sentence()
    assert (
        "on the validation classes alone 63.8 and 71.8, two of one recipe 67.5 and 75.5, two of different recipes "
        "69.2 and 77.2, all four 71.0 and 79.0; on the test classes alone 73.8 and 81.8,"
    ) in told
    assert told.endswith("all four 81.0 and 89.0. Each of the four is in one pair of either kind.")


def test_the_way_is_chosen_by_the_validation_classes(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        (name, part, view, f"{what}_5w{shots}s{end}", value + change + shots * (what == "acc"), 0.25, 100)
        for name, part, value in (
            ("a", "validation", 62),
            ("b", "validation", 61),
            ("a", "test", 68),
            ("b", "test", 70),
        )
        for view, change in (("as it is", 0.0), ("shifted", 0.5))
        for shots in (1, 5)
        for what, end in (("acc", ""), ("acc", "_logistic"))
    ]
    rows += [
        (name, part, view, f"gain_5w{shots}s_logistic", (shots - 2) / 4, 0.1, 100)
        for name in "ab"
        for part in ("validation", "test")
        for view in ("as it is", "shifted")
        for shots in (1, 5)
    ]
    table = pd.DataFrame(rows, columns=test_time.CIFAR_FS_TEST_TIME.columns)
    table.to_csv(CIFAR_FS_TEST_TIME.path, index=False)
    members = {"a": [("tiny", 0)], "b": [("tiny", 0), ("tiny", 1)]}
    monkeypatch.setattr(findings, "_members_of", lambda networks, features="its own": members[networks])
    monkeypatch.setattr(findings, "_cost_of", lambda some: findings.Cost({1: 60.4, 2: 90.0}[len(some)], 1e6, 1e15))
    monkeypatch.setattr(findings, "_fastest_minutes", lambda some: {1: 58.0, 2: 60.0}[len(some)])
    told = findings.ways_sentence()
    assert "shifted views bring +0.5 and +0.5 points, a regression in place of means -0.2 and +0.8." in told
    assert "*a*, views *shifted*: **69.5 ± 0.2** and **73.5 ± 0.2** on the test classes" in told
    assert told.endswith("from trainings of 60 core-minutes.")
    monkeypatch.setattr(findings, "_fastest_minutes", lambda some: {1: 40.2, 2: 60.0}[len(some)])
    assert findings.ways_sentence().endswith(
        "60 core-minutes; the processor was not always as fast, and had it been, they would have taken 40."
    )
    best = findings.Way.best()
    assert (best.networks, best.count, best.one_shot) == ("a", 1, (69.5, 0.25))
    shown = findings.ways_table().frame
    assert shown.networks.tolist() == ["b", "b", "a", "a"] and shown["core-minutes"].tolist() == [
        "90",
        "90",
        "60",
        "60",
    ]
    assert shown["validation, 1-shot"].tolist()[0] == "62.0 ± 0.2" and shown["test, 5-shot"].tolist()[3] == "73.5 ± 0.2"
    assert set(shown["regression ahead, 5-shot"]) == {"+0.8 / +0.8"}
