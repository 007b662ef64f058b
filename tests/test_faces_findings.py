"""What the face study found, in numbers, sentences and figures; and how its notebook starts."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binomtest
from tiny_faces import people, strangers

import siamese_utils
from siamese_utils.data.faces import shared_people
from siamese_utils.errors import ResultsError, SamplingError, ShapeError, UnknownNameError
from siamese_utils.evaluation import estimates
from siamese_utils.evaluation.estimates import Estimate, exact
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Table
from siamese_utils.experiments.study import Outcome, keep
from siamese_utils.report import page
from siamese_utils.studies.faces import demonstrations, figures, findings
from siamese_utils.studies.faces.study import FACES, METRICS
from siamese_utils.studies.faces.systems import KOCH, NAMES
from siamese_utils.studies.faces.trials import FACE_GRID, FACE_TRIALS
from siamese_utils.studies.faces.verification import auc, equal_error_rate

ROOT = Path(siamese_utils.__file__).resolve().parents[1]


def test_only_clear_differences_are_called_so() -> None:
    usual = {"learning_rate": 5e-5, "epochs": 10, "framing": "photo"}
    rows = [
        ("learning_rate", 5e-6, 52.0),
        ("learning_rate", 5e-5, 67.0),
        ("learning_rate", 1e-3, 62.0),
        ("epochs", 1, 64.0),
        ("epochs", 10, 66.0),
        ("framing", "photo", 66.0),
    ]
    table = pd.DataFrame(rows, columns=["parameter", "value", "accuracy"]).assign(ci95=4.4)
    assert {name: getattr(KOCH, name) for name in usual} == usual
    rate, epochs = findings.sensitivity_sentences(table).splitlines()  # a single framing: nothing to compare
    assert "from 52.0% (at 5e-06) to 67.0% (at 5e-05)" in rate and "Clearly different from it: 5e-06." in rate
    assert "gives 66.0 ± 4.4%" in epochs and "None is clearly different" in epochs
    wide = findings.sensitivity_sentences(table.assign(ci95=20.0))
    assert "Clearly" not in wide


def test_ensemble_is_the_mean_of_log_odds() -> None:
    log_odds = {0: [2.0, -3.0, 0.4, -0.2], 1: [1.0, 1.0, -1.0, 0.0]}
    rows = [
        ("koch", seed, pair, int(pair in (0, 2)), 1 / (1 + np.exp(-value)))
        for seed, values in log_odds.items()
        for pair, value in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=list(findings.PAIR_COLUMNS))
    # Means: 1.5 (same), -1 (different), -0.3 (same), -0.1 (different): one of four is wrong.
    found = findings.ensemble("koch", table.sample(frac=1, random_state=0))
    assert found["acc_test_half"].value == 75 and found["acc_test_half"].n == 4
    assert found["auc_test"].value == pytest.approx(75)
    for incomplete in (table[:-1], table[:0]):
        with pytest.raises(ResultsError, match="koch"):
            findings.ensemble("koch", incomplete)


def test_the_table_of_seeds_gives_the_mean_and_both_ends() -> None:
    rows = [
        ("koch", 0, "acc_test", 70.0),
        ("koch", 1, "acc_test", 73.26),
        ("embedding", 0, "acc_test", 86.0),
        ("koch", 0, "seconds", 99.7),
        ("koch", 1, "seconds", 102.0),
        ("koch", 0, "loss_test", 1.234),
    ]
    stored = pd.DataFrame(rows, columns=["system", "seed", "metric", "value"]).assign(ci95=2.0)
    table = findings.seeds_table(["acc_test", "seconds", "loss_test"], ["embedding", "koch"], stored)
    assert table.columns.tolist() == ["measure", NAMES["embedding"], NAMES["koch"]]
    assert table.iloc[:, 0].tolist() == [METRICS[name] for name in ("acc_test", "seconds", "loss_test")]
    assert table.iloc[:, 1].tolist() == ["86.0", "–", "–"]
    assert table.iloc[:, 2].tolist() == ["71.6, 70.0 to 73.3", "101, 100 to 102", "1.23"]
    for metrics, systems in ((["acc"], ["koch"]), (["acc_test"], ["kuch"])):
        with pytest.raises(UnknownNameError):
            findings.seeds_table(metrics, systems, stored)


def keep_faces(system: str, seed: int, right: float, probability: list[float]) -> None:
    """Store a network of which little is known; two of its four pairs are the same."""
    run = next(run for run in FACES.runs() if dict(run.key) == {"system": system, "seed": seed})
    pairs = pd.DataFrame({"pair": range(4), "same": [1, 1, 0, 0], "probability": probability})
    metrics = {name: exact(right) for name in ("acc_test", "acc_test_half")}
    record = {"parameters": {"total": 12_345, "trainable": 12_000}, "history": [{"epoch": 1, "loss": right}]}
    keep(FACES, run, Outcome(metrics, b"", record, {"face_pairs": pairs}), {})


def test_the_page_says_how_the_networks_compare(project: Path) -> None:
    keep_faces("embedding", 0, 80.0, [0.9, 0.8, 0.2, 0.6])
    with pytest.raises(ResultsError, match="faces --only koch"):
        findings.assignment()
    keep_faces("koch", 0, 70.0, [0.9, 0.2, 0.2, 0.6])
    table, told = findings.assignment()
    assert isinstance(table, Table) and "1 of 5" in table.caption and "Here it is **70.0%**; the 95%" in told
    keep_faces("koch", 1, 72.0, [0.9, 0.9, 0.2, 0.3])
    table, told = findings.assignment()
    assert "2 of 5" in table.caption and "**71.0%** on average over 2 seeds, from 70.0 to 72.0; the 95%" in told
    table, interval, together = findings.comparison()  # one network of the other system has no company
    assert list(table.frame.columns) == ["measure", NAMES["embedding"], NAMES["koch"]]
    assert table.caption.endswith("people: 1, the assignment's network, on the training pairs: 2)")
    assert f"± 0.0 ({NAMES['koch']})" in interval
    assert together.startswith("The 2 networks of *the assignment's network") and "71.0% on average" in together
    # Means of the log odds: the second pair is same by a little, the fourth different.
    assert "**100.0 ± " in together and "AUC 100.0" in together and "equal error rate 0.0%" in together
    assert "**12,345** in all, 12,000 of them trainable" in findings.layers()[1]
    histories = findings.koch_histories()
    assert list(histories) == [0, 1] and histories[1].loss.tolist() == [72.0]


# --- trials and sensitivity -----------------------------------------------------------------------


def test_trial_log_gives_what_was_expected(project: Path) -> None:
    base, *_, last = FACE_TRIALS.runs()
    for run, value in ((last, 80.0), (base, 70.0)):
        keep(FACE_TRIALS, run, Outcome({name: Estimate(value, 1.23, 9) for name in FACE_TRIALS.metrics}), {})
    log = findings.trial_log()
    assert log.trial.tolist() == ["base", "pairs-unvaried"]  # in the order in which they were thought of
    assert log["AUC"].tolist() == ["70.0 ± 1.2", "80.0 ± 1.2"] and log["accuracy"][1] == "80.0 ± 1.2"
    assert log["expected beforehand"][0] == base.expectation
    assert findings.trials().caption.startswith("One change each, 50,000 images shown")


def test_sensitivity_is_read_from_the_histories(project: Path) -> None:
    runs = {str(run.key["trial"]): run for run in FACE_GRID.runs()}
    with pytest.raises(ResultsError):
        findings.sensitivity_table()
    for name, first in (("epochs=30", 50.0), ("batch_size=8", 60.0), ("learning_rate=0.001", 40.0)):
        epochs = range(runs[name].config.epochs)
        history = [{"validation_accuracy": first + epoch, "validation_loss": float(epoch)} for epoch in epochs]
        outcome = Outcome({"acc_validation": exact(first)}, record={"history": history, "validation_pairs": 400})
        keep(FACE_GRID, runs[name], outcome, {})
    table = findings.sensitivity_table()
    curves = dict(iter(table.groupby("parameter", sort=False)))
    assert list(curves) == ["epochs", "learning_rate", "batch_size", "framing", "pixel_scale"]
    epochs, sizes = curves["epochs"], curves["batch_size"]
    assert epochs.value.tolist() == epochs.epochs.tolist() == [1, 2, 3, 5, 10, 15, 20, 30]
    assert epochs.accuracy.tolist() == [49.0 + epoch for epoch in epochs.value]
    # The assignment's own setting is the longest run, read after as many epochs as the others take.
    assert sizes.value.tolist() == [8, 32] and sizes.accuracy.tolist() == [64.0, 54.0]
    assert set(sizes.epochs) == {5} and sizes.loss.tolist() == [4.0, 4.0]
    assert curves["learning_rate"].value.tolist() == [5e-5, 1e-3]
    interval = binomtest(200, 400).proportion_ci(method="wilson")
    assert epochs.ci95.iloc[0] == pytest.approx(50 * (interval.high - interval.low))
    drawn, sentences = figures.sensitivity()  # of framing and scale there is nothing to compare
    plt.close(drawn.figure)
    assert sentences == findings.sensitivity_sentences(table)
    window = Outcome({"acc_validation": exact(1)}, record={"history": history, "validation_pairs": 400})
    keep(FACE_GRID, runs["framing=window"], window, {})
    drawn, others, _ = figures.sensitivity()
    plt.close(drawn.figure)
    assert others.frame.value.tolist() == ["photo", "window", 1.0]


def test_missing_results_say_so(project: Path) -> None:
    read: tuple[Callable[[], Any], ...] = (
        FACES.table,
        findings.stored_pairs,
        findings.koch_histories,
        findings.layers,
        findings.assignment,
        findings.comparison,
        findings.trials,
        figures.sensitivity,
    )
    for finding in read:
        with pytest.raises(ResultsError):
            finding()


# --- made-up faces and figures --------------------------------------------------------------------


def test_demo_learns_made_up_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "RESAMPLES", 20)
    answers, verdict = demonstrations.demo_answers(people(), strangers())
    assert answers.metrics(verdict)["auc_test"].value > 65 and verdict.slope > 0
    with pytest.raises(ShapeError):
        demonstrations.demo_answers(dataclasses.replace(people(), alignment="funneled"), strangers())
    assert demonstrations.people_as_classes(strangers()).num_classes == 20


FIGURES = ("pairs", "photographs", "curves", "sensitivity", "roc", "accuracy", "extremes", "calibration")


def test_figures_say_what_they_show() -> None:
    plotting.set_style()
    rng = np.random.default_rng(0)
    same = strangers().pairs.same.numpy()
    probability = np.clip(rng.normal(0.35 + 0.3 * same, 0.2), 0.01, 0.99)
    rows = [
        (system, seed, pair, int(same[pair]), probability[pair])
        for system in ("koch", "embedding")
        for seed in (0, 1)
        for pair in range(len(same))
    ]
    pairs = pd.DataFrame(rows, columns=list(findings.PAIR_COLUMNS))
    history = pd.DataFrame(
        {
            "epoch": [1, 2],
            "loss": [5.0, 4],
            "validation_loss": [5.0, 4.5],
            "accuracy": [50.0, 60],
            "validation_accuracy": [50.0, 55],
        }
    )
    grid = [
        ("epochs", 1, 60.0),
        ("epochs", 2, 65.0),
        ("learning_rate", 1e-5, 60.0),
        ("learning_rate", 5e-5, 65.0),
        ("batch_size", 8, 60.0),
        ("batch_size", 32, 65.0),
    ]
    table = pd.DataFrame(
        [(p, v, 5, a, 4.0, 1.0) for p, v, a in grid],
        columns=["parameter", "value", "epochs", "accuracy", "ci95", "loss"],
    )
    found = [("koch", 0, "acc_test", 73.0, 2.7, 1000, ""), ("embedding", 0, "acc_test", 84.0, 2.3, 1000, "")]
    scores = pd.DataFrame(found, columns=list(FACES.all_columns))
    drawn = [
        (figures.pairs_figure(people()), "two people each"),
        (figures.photos_figure({"training": people(), "test": strangers()}), "of the people in test"),
        (figures.curves_figure({0: history, 1: history}), "loss is 4.00 in training and 4.50"),
        (figures.sensitivity_figure(table), "epochs from 1 to 2: 60.0 to 65.0 percent"),
        (figures.roc_figure(pairs), f"network {equal_error_rate(probability, same):.1f} percent"),
        (figures.accuracy_figure(scores), "84.0 percent over 1 seed."),
        (figures.extremes_figure(strangers(), probability), "different, wrong, probability"),
        (figures.calibration_figure(pairs), "percentage points"),
    ]
    assert [shown.name for shown, _ in drawn] == [f"07_{name}" for name in FIGURES]
    for shown, words in drawn:
        assert words in shown.alt and len(shown.alt.split()) > 10 and "nan" not in shown.alt, shown.alt
        shown.figure.savefig(io.BytesIO(), dpi=20)  # draws everything; plotting's own tests save
        plt.close(shown.figure)
    with pytest.raises(SamplingError):
        figures.curves_figure({})
    with pytest.raises(SamplingError):
        figures.calibration_figure(pairs, "pretrained")


def test_extreme_pairs() -> None:
    same = torch.tensor([True, True, True, False, False, False])
    chosen = figures.extreme_pairs([0.9, 0.4, 0.1, 0.8, 0.2, 0.05], same)
    assert chosen == {"same, right": 0, "same, wrong": 2, "different, right": 5, "different, wrong": 3}
    with pytest.raises(SamplingError):
        figures.extreme_pairs([0.5], same[:1])


# --- the stored networks --------------------------------------------------------------------------


def test_stored_numbers_agree_with_stored_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    if not FACES.path.is_file():
        pytest.skip("no stored run")
    table, pairs = FACES.table(), findings.stored_pairs()
    for (system, seed), run in pairs.groupby(["system", "seed"]):
        assert len(run) == 1000 and int(run.same.sum()) == 500
        rows = table[(table.system == system) & (table.seed == seed)].set_index("metric").value
        score, same = run.probability.to_numpy(), run.same.to_numpy() == 1
        assert rows["auc_test"] == pytest.approx(auc(score, same), abs=0.05)  # four digits of a probability
        assert rows["eer_test"] == pytest.approx(equal_error_rate(score, same), abs=0.15)


# --- the notebook ---------------------------------------------------------------------------------


@pytest.mark.parametrize("profile", ["smoke", "report"])
def test_notebook_starts_without_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    shown: list[object] = []
    monkeypatch.setattr(page, "display", shown.append)
    monkeypatch.setenv("SIAMESE_PROFILE", profile)
    monkeypatch.setenv("SIAMESE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("SIAMESE_OFFLINE", "1")
    monkeypatch.setattr("siamese_utils.data.sources.search_folders", lambda root=None: [(tmp_path, "./data")])
    started, faces, lists = page.start_faces()
    assert started.is_synthetic and faces.is_synthetic and set(lists) == {"train", "test"}
    assert not shared_people(lists["train"], lists["test"])
    assert 'data-siamese-source="synthetic"' in shown[0].data  # type: ignore[attr-defined]
