"""Tables, sentences and figures of the comparison of objectives, from made-up results: whole, partial and none."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import ResultsError
from siamese_utils.studies import study
from siamese_utils.studies.networks.study import DISTANCES
from siamese_utils.studies.objectives import figures, findings
from siamese_utils.studies.objectives.study import OBJECTIVES, TRIPLET_SENSITIVITY
from siamese_utils.studies.validation import trial_runs

# 5-way 1-shot accuracy with seed 0; further seeds are half a point better each.
MADE_UP = {
    "distances": {"recipe": 46.0, "cosine": 40.0, "cosine-margin": 39.0, "euclidean": 38.0},
    "objectives": {"proxy": 47.0, "supcon": 41.0, "random": 30.0, "batch-hard": None},
    "triplet_sensitivity": {
        "semi-hard-rate-x0.1": 33.0,
        "semi-hard-rate-x3": 36.0,
        "batch-hard-rate-x0.1": 34.0,
        "batch-hard-rate-x3": None,
        "margin-0.05": 35.0,
        "margin-0.4": 42.0,
    },
}


def store(name: str, seeds: int = 2, lost: tuple[str, int] | None = None) -> None:
    """Write made-up rows of a study; ``None`` stands for a collapse, as does the run ``lost`` (trial and seed)."""
    rows = []
    for trial, value in MADE_UP[name].items():
        for seed in range(seeds):
            if value is None or (trial, seed) == lost:
                rows.append((trial, seed, "failed", 1.0, 0.0, 1))
            else:
                rows.append((trial, seed, "acc_5w1s", value + 0.5 * seed, 0.25, 10_000))
                rows.append((trial, seed, "pair_auc", value + 30, 0.3, 10_000))
    one = study(name)
    one.path.write_text(pd.DataFrame(rows, columns=list(one.all_columns)).to_csv(index=False), encoding="utf-8")


def test_every_compared_trial_exists() -> None:
    for one in findings.COMPARED:
        assert one.trial in trial_runs(one.study)
    compared = {one.trial for one in findings.COMPARED if one.study is OBJECTIVES}
    assert compared == set(trial_runs(OBJECTIVES))
    labels = [one.label for one in findings.COMPARED]
    assert len(set(labels)) == len(labels)


def test_trials_share_everything_but_what_is_compared() -> None:
    base = trial_runs(DISTANCES)["recipe"].config.to_json()
    free = {"terms", "recipe"}
    for one in findings.COMPARED:
        config = trial_runs(one.study)[one.trial].config.to_json()
        changed = {key for key, value in config.items() if value != base[key]}
        assert changed <= free, one.trial
    usual = trial_runs(DISTANCES)["cosine-margin"].config
    assert usual.terms[0].margin == findings.MARGIN
    for name, run in trial_runs(TRIPLET_SENSITIVITY).items():
        factor = run.config.muon_rate / usual.muon_rate
        assert run.config.learning_rate / usual.learning_rate == pytest.approx(factor)
        assert name.endswith(f"x{factor:g}") or (factor == 1 and name.startswith("margin-"))


def test_objectives_best_first_with_their_collapses(project: Path) -> None:
    store("distances")
    store("objectives", lost=("random", 1))
    table = findings.objective_results().set_index("trial")
    assert list(table.index) == ["proxy", "recipe", "supcon", "cosine", "cosine-margin", "random", "batch-hard"]
    row = table.loc["proxy"]
    assert (row["mean"], row.low, row.high, row.ci95, row.auc) == (47.25, 47.0, 47.5, 0.25, 77.0)
    assert (table.runs == 2).all() and table.collapsed.to_dict()["batch-hard"] == 2
    assert table.collapsed["random"] == 1 and table["mean"]["random"] == 30.0
    shown = findings.objective_table().frame.set_index("objective")
    assert shown["5-way 1-shot"]["batch-hard triplets"] == "collapsed"
    assert shown["seeds"]["random triplets"] == "2, 1 collapsed" and shown["5-way 1-shot"]["proxies"] == "47.2 ± 0.2"
    told = findings.objective_sentence()
    assert "**proxies** with 47.2" in told and "random triplets (1 of 2)" in told
    assert "Not stored yet: proxies + contrast in the batch" in told


def test_sensitivity_holds_the_usual_setting(project: Path) -> None:
    for name in MADE_UP:
        store(name)
    table = findings.sensitivity_results()
    curves = {key: rows.value.tolist() for key, rows in table.groupby(["parameter", "mining"])}
    assert curves == {
        ("rate", "semi-hard"): [0.1, 1.0, 3.0],
        ("rate", "batch-hard"): [0.1, 1.0, 3.0],
        ("margin", "semi-hard"): [0.05, 0.2, 0.4],
    }
    usual = table[(table.mining == "semi-hard") & (table.value.isin([1.0, 0.2]))]
    assert usual["mean"].tolist() == [39.25, 39.25]
    told = findings.sensitivity_sentence()
    assert "**42.2** (at 0.4)" in told and "4 of 6 runs collapsed" in told


def test_a_curve_that_collapsed_throughout_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MADE_UP, "triplet_sensitivity", {"batch-hard-rate-x3": None})
    store("triplet_sensitivity")
    assert "2 of 2 runs collapsed" in findings.sensitivity_sentence()
    shown = figures.sensitivity_figure()
    alt = shown.alt
    assert "3: collapsed" in alt
    plt.close(shown.figure)


@pytest.mark.parametrize(
    "make",
    [findings.objective_results, findings.objective_table, findings.objective_sentence, figures.objectives_figure],
)
def test_nothing_stored(make: object, project: Path) -> None:
    with pytest.raises(ResultsError, match="study objectives"):
        make()  # type: ignore[operator]
    with pytest.raises(ResultsError, match="study triplet_sensitivity"):
        findings.sensitivity_results()


def test_figures_show_every_row(project: Path) -> None:
    for name in MADE_UP:
        store(name)
    shown = figures.objectives_figure()
    alt = shown.alt
    labels = [label.get_text() for label in shown.figure.axes[0].get_yticklabels()]
    assert labels == findings.objective_results().label.tolist()[::-1]
    assert "batch-hard triplets collapsed" in alt and "proxies 47.2" in alt
    plt.close(shown.figure)
    shown = figures.sensitivity_figure()
    alt = shown.alt
    assert len(shown.figure.axes) == 2 and "0.4: 42.2" in alt and "3: collapsed" in alt
    plt.close(shown.figure)


def test_toy_figure_counts_its_points() -> None:
    shown = figures.toy_figure()
    points = [sum(len(dots.get_offsets()) for dots in axis.collections) for axis in shown.figure.axes[:3]]
    assert points == [36, 36, 36] and "36 points of three colours" in shown.alt
    assert shown.figure.axes[1].get_title() == "after 50 steps" and "after 50 steps of" in shown.alt
    plt.close(shown.figure)


def test_similarity_figure_says_how_many_classes_were_learned(synthetic_test: ImageSet) -> None:
    encoders = (Encoder("conv3", embedding_dim=4), Encoder("conv3", embedding_dim=4))
    _, told = figures.similarity_figure(*encoders, synthetic_test, class_split("12-8", 0, 20))
    assert "learned on 12 classes" in told
    plt.close("all")


def test_collapse_figure_tells_the_ends() -> None:
    starts = {"a": 0.5, "b": 0.4}
    rows = [(name, step, 0.2, 0.2, spread / (1 + step)) for name, spread in starts.items() for step in range(5)]
    shown = figures.collapse_figure(pd.DataFrame(rows, columns=["objective", "step", "loss", "margin", "spread"]))
    alt = shown.alt
    assert "a: spread from 0.50 to 0.10;" in alt and "b: spread from 0.40 to 0.080" in alt
    plt.close(shown.figure)
