"""Tables, sentences and figures of one tower and two, made from stored rows that the test invents."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from siamese_utils.data.cifar import CIFAR10_CLASSES
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.findings import Illustration, Table
from siamese_utils.experiments.seeds import Paired
from siamese_utils.experiments.store import metric_rows
from siamese_utils.experiments.study import Run
from siamese_utils.studies.cifar10 import figures, findings, pair_findings
from siamese_utils.studies.cifar10.findings import by_seed
from siamese_utils.studies.cifar10.judging import RECALLS
from siamese_utils.studies.cifar10.new_classes import CIFAR10_NEW_CLASSES
from siamese_utils.studies.cifar10.study import CIFAR10, CLASSIFIERS, OWN, UPDATES, pair_updates

LEADS = {"plain": 0.0, "siamese": 1.0, "wide": 1.5, "shared": 0.2, "same-image": 0.9, "other-image": -3.0}
SHOWN: dict[str, Callable] = {
    "gains": findings.gains_table,
    "slides": findings.slides_table,
    "setting": findings.setting_table,
    "parts": findings.parts_table,
    "classes": findings.class_table,
    "f1": findings.f1_table,
    "seeds": findings.seeds_table,
    "pairs": pair_findings.pairs_table,
    "new classes": pair_findings.new_classes_table,
    "gain": findings.gain_sentence,
    "long": findings.long_sentence,
    "data": findings.data_sentence,
    "shifted": findings.shifted_sentence,
    "parts told": findings.parts_sentence,
    "halves": findings.halves_sentence,
    "pairs told": pair_findings.pairs_sentence,
    "exactness": pair_findings.exactness_sentence,
    "long pairs": pair_findings.long_pairs_sentence,
    "new classes told": pair_findings.new_classes_sentence,
    "gains shown": figures.gains_figure,
    "parts shown": figures.parts_figure,
    "confusion shown": figures.confusion_figure,
    "pairs shown": figures.pairs_figure,
    "new classes shown": figures.new_classes_figure,
}


def accuracy(run: Run, updates: int) -> float:
    """Two points for each doubling of the updates, a lead of the system, and something of the seed."""
    key = run.key
    return (
        50
        + 2 * np.log2(updates / 1_000)
        + LEADS[str(key["system"])]
        + 0.1 * (int(key["seed"]) * len(str(key["system"])) % 3)
    )


def rows(run: Run) -> pd.DataFrame:
    found = []
    for updates in run.config.judged:
        value = accuracy(run, updates)
        names = {"accuracy": value, "f1_macro": value - 0.5, "f1_weighted": value + 0.5}
        names |= {"ensemble_accuracy": value + 2} if run.key["system"] == "plain" else {}
        names |= {f"{side}_half_accuracy": value - 4 for side in ("left", "right")}
        found.append(metric_rows({name: Estimate(v, 0.8, 10_000) for name, v in names.items()}).assign(updates=updates))
    return pd.concat(found, ignore_index=True)


def pairs(ways: tuple[str, ...], lift: float) -> pd.DataFrame:
    metrics = {"accuracy": 91 + lift, "f1": 55 + lift, "balanced_accuracy": 75 + lift, "auc": 80 + lift}
    metrics |= {"all_pairs_accuracy": 91.02 + lift, "all_pairs_f1": 55.1 + lift, "average_precision": 50.0}
    metrics |= {f"precision_at_{recall}": 95.0 - 0.8 * recall + lift for recall in RECALLS}
    return pd.concat(
        [metric_rows({k: Estimate(v, 0.2, 200_000) for k, v in metrics.items()}).assign(by=by) for by in ways]
    )


def ways(system: str) -> tuple[str, ...]:
    return ("classes", "cosine") if system in CLASSIFIERS else ("head",) if system == "pair-head" else ("cosine",)


def store(folder: Path, seeds: tuple[int, ...], trainings: tuple[str, ...] = ("short", "shifted", "long")) -> None:
    tables: dict[str, list[pd.DataFrame]] = {"cifar10": [], "cifar10_pairs": [], "cifar10_confusion": []}
    for run in CIFAR10.runs():
        system = str(run.key["system"])
        if run.key["seed"] not in seeds or run.key["training"] not in trainings:
            continue
        main = rows(run) if system in CLASSIFIERS else metric_rows({"seconds": Estimate(1, 0, 1)}).assign(updates=1)
        tables["cifar10"].append(main.assign(**run.key))
        if run.key["share"] == 100 and run.key["training"] != "shifted":
            short = run.key["training"] == "short"
            scored = pairs(ways(system), len(system) / 9 + (0 if short else 1))
            at = pair_updates(system) if short else run.config.judged[-1]
            tables["cifar10_pairs"].append(scored.assign(**run.key, updates=at))
            if system in CLASSIFIERS and short:
                counts = pd.DataFrame(900 * np.eye(10, dtype=int) + 10, columns=list(CIFAR10_CLASSES))
                tables["cifar10_confusion"].append(counts.assign(shown=list(CIFAR10_CLASSES), updates=9_800, **run.key))
    kinds = (("learned", 9), ("new", 0))
    tables["cifar10_new_classes"] = [
        pairs(ways(str(run.key["system"])), lift).assign(classes=kind, **run.key)
        for run in CIFAR10_NEW_CLASSES.runs()
        if run.key["seed"] in seeds
        for kind, lift in kinds
    ]
    for study in (CIFAR10, CIFAR10_NEW_CLASSES):
        tables[study.name] = [pd.concat(tables[study.name])[list(study.all_columns)]]
    for name, frames in tables.items():
        pd.concat(frames).to_csv(folder / "results" / f"{name}.csv", index=False)


@pytest.fixture(autouse=True)
def no_figure_stays() -> Iterator[None]:
    yield
    plt.close("all")


def test_two_towers_are_held_against_two_separate_ones_too(project: Path) -> None:
    store(project, (0, 1))
    for told in (findings.long_sentence(), findings.shifted_sentence()):
        assert re.search(r"; over two separate towers, averaged, it is -1\.[01] ± \d\.\d \(2 seeds\)\.$", told)
    path = CIFAR10.path
    table = pd.read_csv(path)
    table[~table.metric.str.startswith("ensemble")].to_csv(path, index=False)
    assert "separate" not in findings.long_sentence() + findings.shifted_sentence()


def test_a_difference_of_nothing_has_no_minus() -> None:
    assert str(Paired(-0.04, 0.5, 5)) == "+0.0 ± 0.5" and str(Paired(-0.06, 0.5, 5)) == "-0.1 ± 0.5"


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_everything_is_shown_with_one_seed_and_with_more(seeds: tuple[int, ...], project: Path) -> None:
    store(project, seeds)
    for name, finding in SHOWN.items():
        found = finding()
        text = found.frame.to_string() + found.caption if isinstance(found, Table) else found
        text = found.alt if isinstance(found, Illustration) else text
        assert "nan" not in str(text).lower(), name
    told = findings.gain_sentence()
    assert ("one seed" in told) == (len(seeds) == 1) and ("±" in told) == (len(seeds) > 1)


def test_nothing_stored_ends_in_one_sentence(project: Path) -> None:
    for name, finding in SHOWN.items():
        if name not in ("setting", "slides", "f1", "seeds"):
            with pytest.raises(ResultsError):
                finding()
    assert set(findings.slides_table().frame.iloc[-1, 1:]) == {"78.9", "81.3", "–"}


def test_what_is_missing_is_left_out_and_the_rest_is_told(project: Path) -> None:
    store(project, (0,), ("short",))
    assert findings.gain_sentence() and len(findings.gains_table().frame) == len(UPDATES)
    with pytest.raises(ResultsError, match="slides' number of updates are not stored yet; run"):
        findings.long_sentence()
    with pytest.raises(ResultsError, match="shifted and mirrored images are not stored yet; run"):
        findings.shifted_sentence()


def test_a_paired_difference_is_the_paired_t_test(project: Path) -> None:
    one, other = pd.Series([3.0, 4.5, 4.0], index=[0, 1, 2]), pd.Series([1.0, 2.0, 2.5, 9.0], index=[0, 1, 2, 3])
    found = findings.difference(one, other)
    interval = ttest_rel(one, other[:3]).confidence_interval()
    assert found.mean == pytest.approx(2.0) and found.seeds == 3
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx(interval)
    assert found.is_clear and not findings.difference(one[:1], other).is_clear
    with pytest.raises(ResultsError, match="No seed"):
        findings.difference(one, other[3:])


def test_the_lead_is_taken_apart(project: Path) -> None:
    store(project, (0, 1))
    table = findings.parts().set_index(["system", "updates"])
    ours, last = OWN[100]
    assert table.gain[("plain", last)].mean == pytest.approx(2.0)
    assert table.gain[("ensemble", last)].mean == pytest.approx(4.0)
    left = table.left[("wide", last)]
    assert left.mean == pytest.approx(-0.5, abs=0.11) and table.left[("siamese", last)].mean == 0
    told = findings.parts_sentence()
    assert "twice the updates alone bring +2.0" in told
    assert f"the lead is, over one tower as large as two **{left}**, over two separate towers" in told
    assert "from nothing" not in told
    assert table.accuracy[("plain", ours)].mean == pytest.approx(50 + 2 * np.log2(ours / 1_000), abs=0.11)
    gain = findings.gain_sentence()
    leads = table.gain[("siamese", last)], findings.difference(by_seed("siamese", last), by_seed("plain", last))
    assert "Twice the updates alone bring one tower +2.0 ± 0.0." in gain
    assert f"lead one by **{leads[0]}** points" in gain and f"as many updates for both it is **{leads[1]}**" in gain


def test_a_lead_that_may_be_nothing_is_said_to_be_so(project: Path) -> None:
    store(project, (0, 1))
    table = pd.read_csv(CIFAR10.path)
    table.loc[(table.system == "wide") & (table.seed == 0), "value"] += 3
    table.to_csv(CIFAR10.path, index=False)
    told = findings.parts_sentence()
    assert told.endswith("; these seeds do not tell from nothing the lead over one tower as large as two.")


def test_the_blind_answer_stands_beside_every_way_to_tell_pairs(project: Path) -> None:
    store(project, (0,))
    frame = pair_findings.pairs_table().frame
    assert frame.way[0] == "always “different”" and frame.accuracy[0] == "90.0" and frame.F1[0] == "0.0"
    assert list(frame.way[1:]) == list(pair_findings.WAYS.values())
    assert pair_findings.pairs_sentence().endswith("has 90.0.")
    accuracy = frame.set_index("way").slides["two towers, classes compared"]
    assert accuracy == "93.5 / 68.8"


def test_pairs_after_as_many_updates_are_told_apart_from_those_after_as_many_images(project: Path) -> None:
    store(project, (0,))
    told = pair_findings.long_pairs_sentence()
    assert "one tower, classes compared, accuracy 92.6 and F1 56.6 (in the slides 92.8 and 65.2)" in told
    assert "(one seed)" in told and "two towers, classes compared, accuracy 92.8 and F1 56.8 (in the slides" in told
    assert pair_findings.pairs_table().frame.accuracy[1] == "91.6"
    store(project, (0,), ("short",))
    with pytest.raises(ResultsError, match="long runs are not stored"):
        pair_findings.long_pairs_sentence()


def test_operating_points_come_back_from_accuracy_and_f1() -> None:
    recall, precision, share = 0.7, 0.6, pair_findings.SAME_SHARE
    hits = share * recall
    wrong = share - hits + hits / precision - hits
    point = pair_findings._operating_point(1 - wrong, 2 * hits / (2 * hits + wrong))
    assert point == pytest.approx((recall, precision))


def test_of_classes_never_learned_the_lead_is_that_of_the_same_choices(project: Path) -> None:
    store(project, (0, 1, 2))
    table = pd.read_csv(CIFAR10_NEW_CLASSES.path)
    new = (table.classes == "new") & (table.metric == "auc")
    choices = list(dict.fromkeys(table.left_out))
    for name, low, high in zip(choices, (51.0, 52.0, 53.0), (90.0, 60.0, 61.0), strict=True):
        chosen = new & (table.left_out == name)
        table.loc[chosen, "value"] = low
        table.loc[chosen & (table.system == "contrastive"), "value"] = high
    table.to_csv(CIFAR10_NEW_CLASSES.path, index=False)
    told = pair_findings.new_classes_sentence()
    lead = Paired.of(pd.Series([39.0, 8.0, 8.0]))
    assert "of **52.0%** at best" in told and "to **70.3%** (contrastive loss; 3 choices of classes)" in told
    assert f"ahead in 3 of 3 choices by its area, on average by **{lead}** points, and in 0 by balanced" in told
    assert told.endswith(
        f"is 60% for {choices[1].replace('-', ' and ')} and 90% for {choices[0].replace('-', ' and ')}."
    )


def test_figures_leave_out_the_interval_of_two_seeds() -> None:
    two, three = (Paired.of(pd.Series(values)) for values in ([1.0, 4.0], [1.0, 4.0, 2.0]))
    assert two.half > 15 and two.drawn is None and three.drawn == three.half
    assert Paired.of(pd.Series([1.0])).drawn is None
