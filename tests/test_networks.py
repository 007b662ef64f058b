"""Tables and figures of the comparison of encoders, from made-up results: whole, partial, failed and none."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from siamese_utils.encoders.backbones import ENCODERS
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import ResultsError
from siamese_utils.experiments import plotting
from siamese_utils.experiments.study import Study
from siamese_utils.studies.networks import figures, findings
from siamese_utils.studies.networks.speed import SPEED_COLUMNS, store_speeds
from siamese_utils.studies.networks.study import DISTANCES, EMBEDDING_SIZE, EQUAL_IMAGES, IMAGES_IN_TIME
from siamese_utils.studies.networks.study import ENCODERS_EQUAL_IMAGES as IMAGES
from siamese_utils.studies.networks.study import ENCODERS_EQUAL_TIME as TIME
from siamese_utils.studies.validation import trial_runs

FIGURES = {
    "speed": figures.speed_figure,
    "both": figures.both_ways_figure,
    "size": figures.size_figure,
    "distance": figures.distance_figure,
}


def accuracy(study: Study, number: int, seed: int) -> float:
    """Made-up: falls by a point from trial to trial at equal time, rises at equal images; seeds half a point apart."""
    return (30.0 + number if study == IMAGES else 60.0 - number) + 0.5 * seed


def store(study: Study, seeds: tuple[int, ...] = (0, 1, 2), only: int | None = None, failed: str = "") -> None:
    """Write results of a study for some seeds, of its first trials alone if wanted."""
    rows = []
    for seed in seeds:
        for number, (trial, run) in enumerate(list(trial_runs(study).items())[:only]):
            if trial == failed:
                rows.append((trial, seed, "failed", 1.0, 0.0, 1))
                continue
            value = accuracy(study, number, seed)
            metrics = {"acc_5w1s": value, "acc_5w5s": value + 10, "pair_auc": value + 20}
            if study is DISTANCES:
                metrics |= {"acc_5w1s_plain_cosine": value - 1, "acc_5w1s_plain_euclidean": value - 2}
            rows += [(trial, seed, name, one, 0.25, 10_000) for name, one in metrics.items()]
            rows.append((trial, seed, "images", float(run.images), 0.0, 1))
    study.path.write_text(pd.DataFrame(rows, columns=list(study.all_columns)).to_csv(index=False), encoding="utf-8")


def store_made_up_speeds() -> None:
    """Encoder by encoder half as fast, at any side."""
    rows = [
        (encoder, side, 1024.0 / 2**number, 0.1, 3, 1, "any", "2", "2026-01-01", "c")
        for number, encoder in enumerate(IMAGES_IN_TIME)
        for side in (16, 24, 32)
    ]
    store_speeds(pd.DataFrame(rows, columns=list(SPEED_COLUMNS)))


@pytest.fixture
def whole(project: Path) -> Path:
    """A project in which every study is stored with three seeds, and the speeds."""
    for study in findings.COMPARISONS:
        store(study)
    store_made_up_speeds()
    return project


def test_seeds_are_summed_up(whole: Path) -> None:
    table = findings.by_trial(TIME).set_index("trial")
    assert list(table.index) == list(trial_runs(TIME))
    row = table.loc["resnet20"]
    place = list(table.index).index("resnet20")
    assert (row.seeds, row["mean"], row.low, row.high) == (3, 60.5 - place, 60.0 - place, 61.0 - place)
    assert row.ci95 == 0.25 and row.images == IMAGES_IN_TIME["resnet20"]
    assert table.pretrained["resnet20-from-cifar10"] == "cifar10-resnet20"
    assert table.encoder["resnet20-from-cifar10"] == "resnet20"


def test_progress_names_what_is_missing(project: Path) -> None:
    store(TIME, seeds=(0,))
    store(IMAGES, seeds=(0, 1, 2), failed="vgg19bn")
    store(DISTANCES, seeds=(0, 1, 2), only=3)
    table = findings.progress_table().frame.set_index("study")
    trials = len(trial_runs(TIME))
    assert (table.runs["equal time"], table.stored["equal time"]) == (3 * trials, trials)
    assert table.missing["equal time"] == f"seed 1: {trials} trials; seed 2: {trials} trials"
    assert table.missing["equal images"] == "–" and table.missing["embedding size"] == "all"
    assert table.failed["equal images"] == "vgg19bn (seed 0), vgg19bn (seed 1), vgg19bn (seed 2)"
    rest = "euclidean-margin, recipe"
    assert table.missing["distances"] == f"seed 0: {rest}; seed 1: {rest}; seed 2: {rest}"


def test_failed_runs_are_left_out_of_the_means(project: Path) -> None:
    store(IMAGES, failed="vgg19bn")
    assert "vgg19bn" not in set(findings.by_trial(IMAGES).trial)
    store(IMAGES, only=1, failed="conv3")
    with pytest.raises(ResultsError, match="no finished run"):
        findings.by_trial(IMAGES)


def test_sizes_are_those_of_the_encoders(whole: Path) -> None:
    table = findings.encoder_sizes().set_index("encoder")
    assert set(table.index) >= set(IMAGES_IN_TIME) - {"efficientnet-lite0"}
    assert set(IMAGES_IN_TIME) <= set(ENCODERS)
    encoder = Encoder("resnet9-16")
    assert table.parameters["resnet9-16"] == pytest.approx(count_parameters(encoder) / 1e6)
    assert table.features["resnet9-16"] == encoder.embedding_dim
    assert table.macs["resnet56"] == pytest.approx(125.5, abs=0.1)  # He et al. give 0.85 M parameters, 126 M MACs
    assert table.images_per_second["conv3"] == pytest.approx(1024)
    assert all(findings.family(name) != "other" for name in IMAGES_IN_TIME)


def test_one_table_for_all(whole: Path) -> None:
    table = findings.whole_table().frame.set_index("encoder")
    assert table["one-shot"]["resnet20"] == "yes"
    assert table["one-shot"]["resnet56-from-cifar10"] == table["one-shot"]["efficientnet-lite0-from-imagenet"] == "no"
    assert table["time: 1-shot"]["conv3"] == "60.5 ± 0.2" and table["images: AUC"]["conv3"] == "50.5 ± 0.2"
    assert table["images: 1-shot"]["resnet20-from-cifar10"] == "–"
    notes = findings.seen_notes()
    assert len(notes) == 2 and all("no one-shot result" in note for note in notes)


def test_expectation_stands_beside_the_result(whole: Path) -> None:
    table = findings.result_table(DISTANCES).frame.set_index("trial")
    assert table.expected["cosine"] == DISTANCES.runs()[0].expectation
    assert table["5-way 1-shot"]["cosine"] == "60.5 ± 0.2"
    assert table["lowest to highest seed"]["cosine"] == "60.0 to 61.0"
    assert "means over up to 3 seeds" in findings.result_table(DISTANCES).caption
    store(DISTANCES, seeds=(0,))
    assert set(findings.result_table(DISTANCES).frame["lowest to highest seed"]) == {"–"}
    assert "one seed" in findings.result_table(DISTANCES).caption


def test_ranking_leaves_started_networks_out(whole: Path) -> None:
    """At equal time the made-up accuracies fall in the order of the trials, at equal images they rise."""
    found = findings.ranking(TIME)
    names = [name for name, run in trial_runs(TIME).items() if not run.config.pretrained]
    assert (found.best, found.second) == (names[0], names[1]) and found.encoders == len(names)
    assert found.lead == pytest.approx(1) and found.spread == pytest.approx(1)
    assert findings.ranking(IMAGES).best == names[-1]
    assert findings.ranking(IMAGES).by_macs == pytest.approx(-found.by_macs)
    assert found.by_macs < -0.8 < 0.5 < found.by_speed
    store(TIME, only=2)
    with pytest.raises(ResultsError, match="no order"):
        findings.ranking(TIME)


def test_both_ways_side_by_side(whole: Path) -> None:
    table = findings.side_by_side().set_index("encoder")
    assert table.gain["conv3"] == pytest.approx(30) and len(table) == 12
    assert table.time["resnet20"] == pytest.approx(58.5) and table.images["resnet20"] == pytest.approx(32.5)


@pytest.mark.parametrize("name", FIGURES)
def test_figures_say_what_they_show(name: str, whole: Path, tmp_path: Path) -> None:
    shown = FIGURES[name]()
    alt = shown.alt
    wanted = {
        "speed": ("conv3 60.5", "resnet20-from-cifar10 48.5", "30,720"),
        "both": ("conv3 60.5 and 30.5",),
        "size": ("16 dimensions 59.5", "without a projection 60.5"),
        "distance": ("58.5 by Euclidean distance",),
    }[name]
    assert all(words in alt for words in wanted), alt
    assert plotting.save_figure(shown.figure, shown.name, alt, tmp_path / "figures").startswith(b"\x89PNG")


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_a_single_seed_and_few_trials(name: str, project: Path) -> None:
    for study in findings.COMPARISONS:
        store(study, seeds=(0,), only=2)
    store_made_up_speeds()
    assert "nan" not in FIGURES[name]().alt
    plt.close("all")


def test_every_encoder_has_its_name_beside_it(whole: Path) -> None:
    figure = figures.speed_figure().figure
    texts = [{text.get_text() for text in axis.texts} for axis in figure.axes]
    assert set(findings.by_trial(IMAGES).trial) <= texts[1]
    assert {"resnet20 (CIFAR-10)", "efficientnet-lite0 (ImageNet)"} <= texts[0]
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    for axis in figure.axes:
        boxes = [text.get_window_extent(renderer) for text in axis.texts if text.get_text() in set(ENCODERS)]
        hidden = sum(a.overlaps(b) for number, a in enumerate(boxes) for b in boxes[:number])
        assert hidden == 0
    plt.close(figure)


def test_nothing_stored_is_one_clear_sentence(project: Path) -> None:
    for make in FIGURES.values():
        with pytest.raises(ResultsError):
            make()
    assert set(findings.whole_table().frame["time: 1-shot"]) == {"–"}
    assert set(findings.progress_table().frame.missing) == {"all"}
    store_made_up_speeds()
    with pytest.raises(ResultsError, match="Neither comparison"):
        figures.speed_figure()


# ------------------------------------------------------------------------------------- sentences


def test_sentences_give_the_stored_numbers(whole: Path) -> None:
    names = list(trial_runs(IMAGES))
    said = findings.ranking_sentence(TIME)
    assert f"**{names[0]}** comes first with 60.5 ± 0.2 percent, 1.0 points before {names[1]}" in said
    assert "lie 1.0 points apart" in said and "the lead is no wider than that." in said and "with speed" in said
    gain = findings.gain_sentence()
    assert f"time {names[0]} (+30.0 points, {IMAGES_IN_TIME[names[0]]:,} images" in gain
    assert f"and {names[-1]} (+8.0 points" in gain and "correlation of -1.00" in gain
    started = findings.started_sentence()
    assert "resnet20-from-cifar10 reaches 48.5 percent" in started and "-10.0 against random weights" in started
    assert started.count("no one-shot result") == 2
    size = findings.size_sentence()
    assert "From 16 to 256 dimensions accuracy goes from 59.5 to 55.5 percent; 16 dimensions are best" in size
    assert "reach 60.5 ± 0.2, +1.0 points" in size
    distance = findings.distance_sentence()
    assert "the cosine is worth +1.0 points with a soft margin" in distance and "between +1.0 (" in distance
    budget = findings.budget_sentence()
    assert f"{IMAGES_IN_TIME['conv3']:,} for conv3" in budget and f"{EQUAL_IMAGES:,} for each" in budget
    assert "rounds on one thread of any" in budget
    cost = findings.cost_sentence()
    assert f"learns {2**11} times as many" in cost  # twelve encoders, each half as fast as the one before
    product = findings.encoder_sizes().set_index("encoder").eval("macs * images_per_second")
    assert f"from vgg19bn to {product.idxmax()}." in cost  # each step halves the speed and does not double the work


def test_a_lead_beyond_the_seeds_is_called_so(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(TIME, seeds=(0,))
    assert "One seed is stored" in findings.ranking_sentence(TIME) and "speed" not in findings.ranking_sentence(TIME)
    original = accuracy
    monkeypatch.setitem(globals(), "accuracy", lambda *key: original(*key) + (7 if key[1] == 3 else 0))
    store(TIME)
    said = findings.ranking_sentence(TIME)
    assert "**resnet9-32** comes first" in said and "4.0 points before conv3" in said and "the lead is wider." in said
    monkeypatch.setitem(globals(), "accuracy", lambda *key: original(*key) + (3 if key[1] == 3 else 0))
    store(TIME)
    assert "percent, level with " in findings.ranking_sentence(TIME)


SENTENCES = {
    "budget": findings.budget_sentence,
    "cost": findings.cost_sentence,
    "gain": findings.gain_sentence,
    "ranking": lambda: findings.ranking_sentence(TIME),
    "started": findings.started_sentence,
    "size": findings.size_sentence,
    "distance": findings.distance_sentence,
}


@pytest.mark.parametrize("name", SENTENCES)
def test_no_sentence_without_results(name: str, project: Path) -> None:
    with pytest.raises(ResultsError):
        SENTENCES[name]()
    store(TIME, seeds=(0,), only=3)
    store(EMBEDDING_SIZE, seeds=(0,), only=1)
    if name in ("started", "size"):
        with pytest.raises(ResultsError, match="stored yet"):
            SENTENCES[name]()


@pytest.mark.parametrize("name", SENTENCES)
def test_sentences_of_a_beginning_are_whole(name: str, project: Path) -> None:
    """One seed and a few trials: no gap, and no number that is none."""
    for study in findings.COMPARISONS:
        store(study, seeds=(0,), only=None if name == "started" else 3)
    store_made_up_speeds()
    said = SENTENCES[name]()
    assert "nan" not in said and "  " not in said and said.endswith(".")
