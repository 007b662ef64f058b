"""What notebook 04 draws and says is what is stored; with little stored, or nothing, it says so."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from test_splits_findings import fill, put

from siamese_utils.data.splits import SPLIT_NAMES
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments.findings import Table
from siamese_utils.studies.splits import figures, findings, two_recipes
from siamese_utils.studies.splits.classes import stored_class_accuracies
from siamese_utils.training.recipes import DEFAULT_RECIPE

RESULTS = Path(__file__).resolve().parents[1] / "results"
LEARNED = list(range(10, 100, 10))
FIGURES = {
    "accuracy": figures.accuracy_figure,
    "growth": figures.growth_figure,
    "legacy": figures.legacy_figure,
    "relatives": figures.relatives_figure,
    "threshold": figures.threshold_figure,
}
SENTENCES = {
    "lead": findings.lead_sentence,
    "ease": findings.ease_sentence,
    "relatives": findings.relatives_sentence,
    "threshold": findings.threshold_sentence,
    "machine": findings.machine_sentence,
}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def stored(metric: str, draw: int = 0) -> list[float]:
    """The stored values of a metric, from the tables as they are, by number of classes learned."""
    table = pd.concat(pd.read_csv(RESULTS / f"{name}.csv") for name in ("split_sweep", "growth"))
    table = table[table.recipe == DEFAULT_RECIPE]
    table = table[(table.metric == metric) & (table.draw == draw)].set_index("split").value
    return [table[split] for split in SPLIT_NAMES if split in table.index]


def of_the_seed(metric: str, source: str) -> list[float]:
    table = pd.read_csv(RESULTS / "seed_reference.csv").query("metric == @metric and source == @source")
    return table.set_index("split").value[list(SPLIT_NAMES[:-1])].tolist()


def drawn(axis: Axes) -> list[tuple[list[float], list[float]]]:
    """x and y of every line with more than two points, in the order drawn."""
    lines = [np.asarray(line.get_xydata(), float) for line in axis.get_lines()]
    return [(line[:, 0].tolist(), line[:, 1].tolist()) for line in lines if len(line) > 2]


def texts(axis: Axes) -> list[str]:
    return [text.get_text() for text in axis.texts]


def overlapping(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts of a panel that cover each other."""
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    found = []
    for axis in figure.axes:
        boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in axis.texts]
        found += [
            (one, other)
            for number, (one, box) in enumerate(boxes)
            for other, second in boxes[:number]
            if box.overlaps(second)
        ]
    return found


# ------------------------------------------------------------------------------------- the stored results


@pytest.mark.parametrize("name", FIGURES)
def test_no_label_covers_another(name: str) -> None:
    assert overlapping(FIGURES[name]().figure) == []


def test_bars_stand_beside_those_of_the_seed() -> None:
    shown = figures.accuracy_figure()
    (axis,) = shown.figure.axes
    seed, ours = (container for container in axis.containers if isinstance(container, BarContainer))
    assert [bar.get_height() for bar in ours] == stored("acc_5w1s")
    assert [bar.get_height() for bar in seed] == of_the_seed("acc_5w1s", "measured")
    for bars, side in ((ours, -1.9), (seed, 1.9)):
        assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == pytest.approx([at + side for at in LEARNED])
    assert set(texts(axis)) >= {f"{bar.get_height():.1f}" for bar in [*ours, *seed]}
    for learned, value in zip(LEARNED, stored("acc_5w1s"), strict=True):
        assert f"{learned} classes {value:.1f} percent" in shown.alt
    assert "the seed from 31.3 percent at 10 classes to 62.2 at 90" in shown.alt


def test_growth_shows_every_draw_and_their_mean() -> None:
    shown = figures.growth_figure()
    for axis, metric in zip(shown.figure.axes, ("acc_5w1s", "acc_5w1s_common"), strict=True):
        draws = np.array([stored(metric, draw) for draw in (0, 1, 2)])
        lines = drawn(axis)
        assert [x for x, _ in lines] == [LEARNED] * 4
        np.testing.assert_allclose([y for _, y in lines], [*draws, draws.mean(axis=0)])
        (band,) = axis.collections
        corners = band.get_paths()[0].vertices
        for place, learned in enumerate(LEARNED):
            there = corners[corners[:, 0] == learned, 1]
            assert (there.min(), there.max()) == pytest.approx((draws[:, place].min(), draws[:, place].max()))
        assert draws.mean(axis=0)[-1] > draws.mean(axis=0)[0] + 20  # "both rise"
    assert "Both rise" in shown.alt and "draw 2" in texts(shown.figure.axes[0])[-1]


def test_the_legacy_metric_stays_below_the_blind_answer() -> None:
    shown = figures.legacy_figure()
    (axis,) = shown.figure.axes
    blind, seed, ours, sound = (y for _, y in drawn(axis))
    assert blind == pytest.approx([100 * (1 - 1 / unseen) for unseen in range(90, 0, -10)])
    assert seed == of_the_seed("legacy_few_shot", "published")
    assert ours == stored("legacy_few_shot")[:9] and sound == stored("acc_5w1s")
    assert f"rises from {seed[0]:.0f} to {seed[-1]:.0f} percent" in shown.alt
    assert f"falls from {blind[0]:.0f} to {blind[-1]:.0f}" in shown.alt
    assert all(blind[k] > max(seed[k], ours[k]) for k in range(9))  # "stays above it throughout"
    ends = {text.get_text(): text.xyann[1] for text in axis.texts}
    assert set(ends) == {
        "always answering “different”",
        "seed's metric, our network",
        "seed's metric, as published",
        "5-way 1-shot, our network",
    }


def test_a_dot_is_a_class_of_a_split() -> None:
    shown = figures.relatives_figure()
    (axis,) = shown.figure.axes
    table = pd.read_csv(RESULTS / "class_accuracy.csv").query("recipe == @DEFAULT_RECIPE")
    by_class = stored_class_accuracies()
    np.testing.assert_array_equal(by_class.value, table.value)
    apart = (table.value - table.groupby(["draw", "split"]).value.transform("mean")).to_numpy()
    dots = np.asarray(axis.collections[0].get_offsets(), float)
    np.testing.assert_allclose(dots[:, 1], apart)
    np.testing.assert_array_equal(np.round(dots[:, 0]), by_class.relatives)
    (bars,) = (container for container in axis.containers if isinstance(container, ErrorbarContainer))
    means = [apart[by_class.relatives == count].mean() for count in range(5)]
    np.testing.assert_allclose(np.asarray(bars.lines[0].get_ydata(), float), means)
    assert texts(axis) == [f"{mean:+.1f}" for mean in means]
    said = [f"{mean:+.1f} points with {count} relative{'' if count == 1 else 's'}" for count, mean in enumerate(means)]
    assert ", ".join(said) in shown.alt


def test_pairs_called_right_at_the_threshold_of_seen_classes() -> None:
    shown = figures.threshold_figure()
    for axis, part in zip(shown.figure.axes, ("seen", "unseen"), strict=True):
        for (x, y), kind in zip(drawn(axis), ("different", "same"), strict=True):
            assert x == (LEARNED if part == "unseen" else [*LEARNED, 100])
            draws = np.array([stored(f"{kind}_right_{part}", draw) for draw in (0, 1, 2)])
            np.testing.assert_allclose(y, draws.mean(axis=0))
        assert texts(axis) == ["different pairs", "same pairs"] and part in axis.get_title()


def test_tables_hold_the_stored_numbers() -> None:
    legacy = findings.legacy_table().frame.set_index("split")
    assert legacy["ours"].tolist() == stored("legacy_few_shot")[:9]
    assert legacy["ours, 5-way 1-shot"].tolist() == stored("acc_5w1s")
    table = findings.threshold_table().frame
    assert table["classes learned"].tolist() == LEARNED
    assert table["threshold from seen classes"].tolist() == stored("threshold_seen")[:9]
    assert table["best for unseen classes"].tolist() == stored("threshold_best_unseen")
    assert table["pair accuracy, unseen (%)"].tolist() == stored("pair_acc_unseen")
    assert table["with the best threshold (%)"].tolist() == stored("pair_acc_unseen_best")
    episodes, pairs, seen, draws = findings.metric_tables()
    assert isinstance(episodes, Table) and episodes.frame.iloc[-1]["5-way 1-shot, ours"].startswith("76.75 ±")
    assert len(pairs.frame) == 9 and len(seen.frame) == 10 and draws.caption.startswith("3 class draws")
    assert list(seen.frame)[1:4:2] == ["triplets seen, ours", "pairs seen, ours"]
    assert "draws" not in draws.frame
    costs = findings.costs_table().frame
    assert costs.minutes.dtype.kind == "i" and costs.runs.sum() == 30
    done, told = findings.progress()
    assert set(done.frame["splits stored"]) == {", ".join(SPLIT_NAMES)} and told.endswith("All runs are done.")


def test_sentences_say_the_stored_numbers() -> None:
    own, common = (np.array([stored(metric, draw) for draw in range(3)]) for metric in ("acc_5w1s", "acc_5w1s_common"))
    lead = own[0] - of_the_seed("acc_5w1s", "measured")
    told = findings.lead_sentence()
    assert f"From 10 to 90 classes learned, accuracy goes from **{own[0][0]:.1f}** to **{own[0][-1]:.1f}**" in told
    assert f"between {lead.min():.1f} and {lead.max():.1f} points. Of the 24 steps of 3 class draws" in told
    knowledge, draws, steps = findings.growth_sentences()
    growth, growth_common = (values.mean(axis=0)[-1] - values.mean(axis=0)[0] for values in (own, common))
    assert f"**{growth_common:.1f} points of the growth are knowledge**" in knowledge
    assert f"the rest, {growth - growth_common:+.1f} points" in knowledge
    width, width_common = np.ptp(own, axis=0), np.ptp(common, axis=0)
    assert f"{width.min():.1f} to {width.max():.1f} points, most at {SPLIT_NAMES[width.argmax()]} (" in draws
    assert f"stay unseen by {width_common.min():.1f} to {width_common.max():.1f}. On the same ten classes, of" in draws
    first, *_, last = (f"{after - before:+.1f}" for before, after in pairwise(own.mean(axis=0)))
    assert f"from 80 to 90, bring {last} points" in steps and f"from 10 to 20, bring {first} and" in steps
    cost = np.array([[stored("pair_acc_unseen_best", d), stored("pair_acc_unseen", d)] for d in range(3)])
    cost = cost[:, 0] - cost[:, 1]
    told = findings.threshold_sentence()
    assert f"between **{cost.min():.1f}** and **{cost.max():.1f}** points" in told
    assert told.endswith("in 27 runs of 3 class draws.")
    assert findings.machine_sentence().count(f"{stored('pair_auc_seen')[-1]:.2f} (draw 0, float32)") == 1
    assert re.search(r"1350 class-split pairs", findings.relatives_sentence())
    assert re.search(
        r"they are \d\.\d points easier \(draw 0\), \d\.\d points harder \(draw 1\)", findings.ease_sentence()
    )


# ------------------------------------------------------------------------------------------ little, or nothing


@pytest.mark.parametrize("make", [*FIGURES.values(), *SENTENCES.values(), findings.progress, findings.metric_tables])
def test_nothing_stored_is_said(make: Callable[[], object], project: Path) -> None:
    with pytest.raises(ResultsError):
        make()


def test_a_beginning_is_drawn_and_told(project: Path) -> None:
    fill(project)
    done, told = findings.progress()
    assert done.frame["splits stored"].tolist() == ["10-90, 90-10"] * 2
    assert "**26 of 30 runs are not done yet**" in told
    assert "; the seed from 31.3 percent at 10 classes" in figures.accuracy_figure().alt  # the split that both have
    assert "from **40.0** to **40.0**" in findings.lead_sentence()
    left, right = figures.growth_figure().figure.axes
    assert np.asarray(right.get_lines()[-2].get_ydata()).tolist() == [37, 54]
    assert len(left.get_lines()) == 4  # two draws, their mean, and chance
    knowledge, draws, _ = findings.growth_sentences()
    assert "**17.0 points of the growth are knowledge**" in knowledge and "most at 10-90 (40.0 to 44.0)" in draws
    with pytest.raises(ResultsError, match="same_right_unseen"):
        findings.threshold_sentence()


def test_one_split_is_no_growth_and_another_draw_no_company_for_the_seed(project: Path) -> None:
    fill(project)
    table = findings.SPLIT_SWEEP.table()
    table[(table.draw == 1) & (table.split == "90-10")].to_csv(findings.SPLIT_SWEEP.path, index=False)
    with pytest.raises(ResultsError, match="two splits"):
        findings.growth_sentences()
    with pytest.raises(ResultsError, match="No split of draw 0"):
        figures.accuracy_figure()


def test_labels_of_equal_ends_are_moved_apart(project: Path) -> None:
    """All four lines of the legacy metric end at 90."""
    (project / "results" / "seed_reference.csv").write_text(
        "split,metric,value,ci95,source\n90-10,legacy_few_shot,90,,published\n"
    )
    put("90-10", 0, {name: Estimate(90.0, 0.1, 9) for name in ("legacy_few_shot", "acc_5w1s")})
    shown = figures.legacy_figure()
    assert overlapping(shown.figure) == []
    heights = sorted(text.xy[1] for text in shown.figure.axes[0].texts)
    assert heights == [90, 96, 102, 108]


# ---------------------------------------------------------------------------------- two recipes


def longer(split: str, own: float, common: float, draw: int = 0) -> None:
    metrics = {"acc_5w1s": Estimate(own, 0.4, 100)}
    put(split, draw, metrics, recipe=two_recipes.LONGER, growth={"acc_5w1s_common": Estimate(common, 1.2, 10)})


def test_a_longer_training_is_compared_split_by_split(project: Path) -> None:
    fill(project)  # 40 and 60 on draw 0, five less on the same ten classes; half widths of 0.5
    with pytest.raises(ResultsError, match="by the recipe muon-manifold-short"):
        two_recipes.level_or_slope_table()
    longer("10-90", 43.0, 36.0)
    with pytest.raises(ResultsError, match=r"two splits; .* --splits 10-90"):
        two_recipes.level_or_slope_sentence()
    longer("90-10", 62.0, 59.0)
    both = two_recipes.both_recipes("acc_5w1s_common")
    assert both.learned.tolist() == [10, 90] and both.gain.tolist() == [1.0, 4.0]
    shown = two_recipes.level_or_slope_table().frame
    assert shown["own unseen classes, gain"].tolist() == ["+3.0", "+2.0"]
    assert shown["the same ten classes, muon-manifold-short"].tolist() == ["36.0 ± 1.2", "59.0 ± 1.2"]
    assert shown["images, millions"].tolist() == ["0.13 / 0.95", "0.56 / 0.95"]
    assert two_recipes.level_or_slope_sentence() == (
        "On each split's own unseen classes the longer training gains **+2.5 points** on average over 2 splits (draw "
        "0), least with 90 classes learned (+2.0) and most with 10 (+3.0); along a straight line -0.12 more with every "
        "ten classes; on the same ten classes for every split the longer training gains **+2.5 points** on average "
        "over 2 splits (draw 0), least with 10 classes learned (+1.0) and most with 90 (+4.0); along a straight line "
        "+0.38 more with every ten classes (least squares; splits share classes and are no independent draws)."
    )
    longer("10-90", 43.5, 37.0, draw=1)
    of_report = {"acc_5w1s_common": Estimate(35.0, 0.5, 10)}
    put("10-90", 1, {"acc_5w1s": Estimate(44.0, 0.5, 100)}, growth=of_report)
    assert two_recipes.level_or_slope_sentence().endswith(
        "independent draws). One split alone is stored of these: -0.5 on each split's own unseen classes with 10 "
        "classes learned (draw 1), +2.0 on the same ten classes for every split with 10 classes learned (draw 1)."
    )


def test_what_is_known_of_the_learned_classes_is_told_of_both_recipes(project: Path) -> None:
    for split, of_report, of_longer in (("10-90", 88.0, 95.25), ("90-10", 85.0, 88.0)):
        put(split, 0, {"pair_acc_seen": Estimate(of_report, 0.2, 100)})
        put(split, 0, {"pair_acc_seen": Estimate(of_longer, 0.2, 100)}, recipe=two_recipes.LONGER)
    assert two_recipes.seen_sentence().endswith(
        "percent: with 10 classes 88.0 and 95.2, with 90 classes 85.0 and 88.0 (draw 0)."
    )


def test_steepness_is_that_of_least_squares() -> None:
    """Against the slope and its error by the sums."""
    rng = np.random.default_rng(2)
    learned = np.arange(10, 100, 10)
    gain = 0.02 * learned + rng.normal(0, 0.3, len(learned))
    x, y = learned / 10 - 5.0, gain - gain.mean()
    slope = (x * y).sum() / (x * x).sum()
    error = np.sqrt(((y - slope * x) ** 2).sum() / 7 / (x * x).sum())
    half = 2.364624 * error  # Student's t with seven degrees of freedom
    assert two_recipes.steepness(pd.DataFrame({"learned": learned, "gain": gain})) == f"{slope:+.2f} ± {half:.2f}"


def curves(figure: Figure, panel: int = 0) -> list[list[float]]:
    """The report's curve and the longer training's, which has a gap where a split is not stored, beside the dotted."""
    report, dotted, longer = (np.asarray(line.get_ydata(), dtype=float) for line in figure.axes[panel].lines[:3])
    assert dotted.tolist() == longer[~np.isnan(longer)].tolist()
    lines = [report, longer]
    assert len(lines[1]) == len(LEARNED)
    return [line[~np.isnan(line)].tolist() for line in lines]


def test_both_curves_are_drawn_over_the_same_draws(project: Path) -> None:
    fill(project)
    longer("10-90", 43.0, 36.0)
    longer("90-10", 62.0, 59.0)
    shown = figures.two_recipes_figure()
    assert curves(shown.figure) == [[40, 60], [43, 62]] and curves(shown.figure, 1) == [[35, 55], [36, 59]]
    assert "own unseen classes (class draw 0) +3.0 at 10, +2.0 at 90; on the same ten" in shown.alt
    longer("90-10", 61.0, 57.0, draw=1)  # a draw that lacks a split is left out
    assert curves(figures.two_recipes_figure().figure) == [[40, 60], [43, 62]]
    longer("10-90", 45.0, 40.0, draw=1)  # the report has 44 and 58 there
    assert curves(figures.two_recipes_figure().figure) == [[42, 59], [44, 61.5]]
    for draw, split in ((0, "20-80"), (1, "30-70")):  # as many splits, and not the same: the first draw
        put(split, draw, {"acc_5w1s": Estimate(50.0, 0.5, 100)}, growth={"acc_5w1s_common": Estimate(45.0, 0.5, 10)})
        longer(split, 51.0, 46.0, draw)
    assert curves(figures.two_recipes_figure().figure) == [[40, 50, 60], [43, 51, 62]]
