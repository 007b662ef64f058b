"""Tables, sentences and figures of the comparison of objectives, from made-up results: whole, partial and none."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from siamese_utils.errors import ResultsError
from siamese_utils.studies import validation as studies
from siamese_utils.studies.objectives import figures
from siamese_utils.studies.objectives import findings as comparison

# 5-way 1-shot accuracy with seed 0; further seeds are half a point better each.
MADE_UP = {
    "distances": {"recipe": 46.0, "cosine": 40.0, "cosine-margin": 39.0, "euclidean": 38.0},
    "objectives": {"proxy": 47.0, "supcon": 41.0, "random": 30.0, "batch-hard": None},
    "triplet_sensitivity": {
        "semi-hard-rate-x0.1": 33.0, "semi-hard-rate-x3": 36.0, "batch-hard-rate-x0.1": 34.0,
        "batch-hard-rate-x3": None, "margin-0.05": 35.0, "margin-0.4": 42.0,
    },
}  # fmt: skip


def store(study: str, seeds: int = 2, lost: tuple[str, int] | None = None) -> None:
    """Write made-up rows of a study; ``None`` stands for a collapse, as does the run ``lost`` (trial and seed)."""
    rows = []
    for trial, value in MADE_UP[study].items():
        for seed in range(seeds):
            if value is None or (trial, seed) == lost:
                rows.append((trial, seed, "failed", 1.0, 0.0, 1))
            else:
                rows.append((trial, seed, "acc_5w1s", value + 0.5 * seed, 0.25, 10_000))
                rows.append((trial, seed, "pair_auc", value + 30, 0.3, 10_000))
    studies.study_path(study).write_text(
        pd.DataFrame(rows, columns=list(studies.STUDY_COLUMNS)).to_csv(index=False), encoding="utf-8"
    )


def test_every_compared_trial_exists() -> None:
    for one in comparison.OBJECTIVES:
        assert one.trial in {trial.name for trial in studies.trials_of(one.study)}
    compared = {one.trial for one in comparison.OBJECTIVES if one.study == "objectives"}
    assert compared == {trial.name for trial in studies.trials_of("objectives")}
    labels = [one.label for one in comparison.OBJECTIVES]
    assert len(set(labels)) == len(labels)


def test_trials_share_everything_but_what_is_compared() -> None:
    base = {trial.name: trial.config for trial in studies.trials_of("distances")}["recipe"]
    free = {"terms"}
    for one in comparison.OBJECTIVES:
        config = {trial.name: trial.config for trial in studies.trials_of(one.study)}[one.trial]
        changed = {key for key, value in config.to_json().items() if value != base.to_json()[key]}
        assert changed <= free, one.trial
    usual = {trial.name: trial.config for trial in studies.trials_of("distances")}["cosine-margin"]
    assert usual.terms[0].margin == comparison.MARGIN
    for trial in studies.trials_of("triplet_sensitivity"):
        factor = trial.config.muon_rate / usual.muon_rate
        assert trial.config.learning_rate / usual.learning_rate == pytest.approx(factor)
        assert trial.name.endswith(f"x{factor:g}") or (factor == 1 and trial.name.startswith("margin-"))


def test_objectives_best_first_with_their_collapses(project: Path) -> None:
    store("distances")
    store("objectives", lost=("random", 1))
    table = comparison.objective_results().set_index("trial")
    assert list(table.index) == ["proxy", "recipe", "supcon", "cosine", "cosine-margin", "random", "batch-hard"]
    row = table.loc["proxy"]
    assert (row["mean"], row.low, row.high, row.ci95, row.auc) == (47.25, 47.0, 47.5, 0.25, 77.0)
    assert (table.runs == 2).all() and table.collapsed.to_dict()["batch-hard"] == 2
    assert table.collapsed["random"] == 1 and table["mean"]["random"] == 30.0
    shown = comparison.objective_table().set_index("objective")
    assert shown["5-way 1-shot"]["batch-hard triplets"] == "collapsed"
    assert shown["seeds"]["random triplets"] == "2, 1 collapsed" and shown["5-way 1-shot"]["proxies"] == "47.2 ± 0.2"
    told = comparison.objective_sentence()
    assert "**proxies** with 47.2" in told and "random triplets (1 of 2)" in told
    assert "Not stored yet: proxies + contrast in the batch" in told


def test_sensitivity_holds_the_usual_setting(project: Path) -> None:
    for study in MADE_UP:
        store(study)
    table = comparison.sensitivity_results()
    curves = {key: rows.value.tolist() for key, rows in table.groupby(["parameter", "mining"])}
    assert curves == {
        ("rate", "semi-hard"): [0.1, 1.0, 3.0], ("rate", "batch-hard"): [0.1, 1.0, 3.0],
        ("margin", "semi-hard"): [0.05, 0.2, 0.4],
    }  # fmt: skip
    usual = table[(table.mining == "semi-hard") & (table.value.isin([1.0, 0.2]))]
    assert usual["mean"].tolist() == [39.25, 39.25]
    told = comparison.sensitivity_sentence()
    assert "**42.2** (at 0.4)" in told and "4 of 6 runs collapsed" in told


def test_a_curve_that_collapsed_throughout_is_told(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MADE_UP, "triplet_sensitivity", {"batch-hard-rate-x3": None})
    store("triplet_sensitivity")
    assert "2 of 2 runs collapsed" in comparison.sensitivity_sentence()
    figure, alt = figures.sensitivity_figure()
    assert "3: collapsed" in alt
    plt.close(figure)


@pytest.mark.parametrize("make", [comparison.objective_results, comparison.objective_table,
                                  comparison.objective_sentence, figures.objectives_figure])  # fmt: skip
def test_nothing_stored(make: object, project: Path) -> None:
    with pytest.raises(ResultsError, match="study objectives"):
        make()  # type: ignore[operator]
    with pytest.raises(ResultsError, match="study triplet_sensitivity"):
        comparison.sensitivity_results()


def test_figures_show_every_row(project: Path) -> None:
    for study in MADE_UP:
        store(study)
    figure, alt = figures.objectives_figure()
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert shown == comparison.objective_results().label.tolist()[::-1]
    assert "batch-hard triplets collapsed" in alt and "proxies 47.2" in alt
    plt.close(figure)
    figure, alt = figures.sensitivity_figure()
    assert len(figure.axes) == 2 and "0.4: 42.2" in alt and "3: collapsed" in alt
    plt.close(figure)


def test_collapse_figure_tells_the_ends() -> None:
    starts = {"a": 0.5, "b": 0.4}
    rows = [(name, step, 0.2, 0.2, spread / (1 + step)) for name, spread in starts.items() for step in range(5)]
    figure, alt = figures.collapse_figure(pd.DataFrame(rows, columns=["objective", "step", "loss", "margin", "spread"]))
    assert "a: spread from 0.50 to 0.100" in alt and "b: spread from 0.40 to 0.080" in alt
    plt.close(figure)
