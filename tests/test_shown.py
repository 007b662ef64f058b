"""Figures, tables and sentences that pages show, each held against the stored rows or the arrays that it tells of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split
from siamese_utils.data.symbols import OneShotRun, synthetic_symbols
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.calibration import Verdict
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.experiments.seeds import cell
from siamese_utils.experiments.store import load_json, read_table, result
from siamese_utils.studies.budgets import figures as budget_figures
from siamese_utils.studies.budgets import findings as budgets
from siamese_utils.studies.budgets.study import CLASSES_OR_IMAGES, TRAINING_TIME
from siamese_utils.studies.drawing import figures as drawing_figures
from siamese_utils.studies.drawing import findings as drawing
from siamese_utils.studies.drawing.judging import RunAnswers
from siamese_utils.studies.drawing.study import DRAWING
from siamese_utils.studies.ensembles import findings as ensembles
from siamese_utils.studies.imprinting import figures as imprinting_figures
from siamese_utils.studies.imprinting import findings as imprinting
from siamese_utils.studies.imprinting.study import IMPRINTING, IMPRINTING_MOVED, IMPRINTING_MOVED_TRIALS
from siamese_utils.studies.networks import findings as networks
from siamese_utils.studies.objectives import demonstrations
from siamese_utils.studies.objectives import figures as objective_figures
from siamese_utils.studies.objectives import findings as objectives
from siamese_utils.studies.reference import seed_reference
from siamese_utils.studies.splits.study import SPLIT_SWEEP
from siamese_utils.system.project import results_dir
from siamese_utils.training.recipes import recipe


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def encoder(synthetic_train: ImageSet) -> Encoder:
    """Untrained, as the demonstration makes it."""
    return demonstrations.untrained_encoder(recipe("smoke"), synthetic_train.images[::20], 32)


def line(figure: Illustration, axis: int = 0, number: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The points of a line of a figure."""
    shown = figure.figure.axes[axis].get_lines()[number]
    return np.asarray(shown.get_xdata(), float), np.asarray(shown.get_ydata(), float)


def points(figure: Illustration, axis: int) -> list[np.ndarray]:
    """The points of every scatter of a panel."""
    return [np.asarray(one.get_offsets()) for one in figure.figure.axes[axis].collections]


# --- objectives -----------------------------------------------------------------------------------


def test_toy_points_stand_where_the_descent_puts_them() -> None:
    path, labels, losses = demonstrations.toy_triplet_descent()
    shown = objective_figures.toy_figure()
    for panel, step in enumerate((0, 50, len(path) - 1)):
        assert shown.figure.axes[panel].get_title() == f"after {step} steps"
        for label, there in enumerate(points(shown, panel)):
            assert np.allclose(there, path[step][labels == label])
    assert np.allclose(line(shown, 3)[1], losses)
    assert f"{len(labels)} points" in shown.alt


def test_mining_tells_the_share_of_violated_triplets(synthetic_test: ImageSet, encoder: Encoder) -> None:
    z, labels = encoder.embed(synthetic_test.images[:400]), synthetic_test.labels[:400]
    shown, told = objective_figures.mining_figure(z, labels)
    wrong = {
        kind: 100 * float((demonstrations.mined_gaps(z, labels, kind, batches=4) < 0).mean())
        for kind in objective_figures.MINING_NAMES
    }
    titles = [axis.get_title() for axis in shown.figure.axes]
    names = objective_figures.MINING_NAMES.items()
    assert titles == [f"{name}: {wrong[kind]:.0f}% in the wrong order" for kind, name in names]
    assert f"**{wrong['random']:.0f}%** of random triplets" in told and f"**{wrong['batch_hard']:.0f}%**" in told
    assert max(wrong, key=wrong.get) == "batch_hard"


def test_curves_are_those_of_the_history() -> None:
    history = pd.DataFrame(
        {
            "epoch": [1, 2],
            "loss": [0.6, 0.4],
            "distance_negative": [0.9, 1.0],
            "distance_positive": [0.5, 0.3],
            "active_share": [0.5, 0.125],
            "seconds": [30.0, 60.0],
            "images_per_second": [100.0, 200.0],
        }
    )
    shown, told = objective_figures.curves_figure(history)
    for panel, number, expected in ((0, 0, [0.6, 0.4]), (1, 0, [0.9, 1.0]), (1, 1, [0.5, 0.3]), (2, 0, [50, 12.5])):
        assert line(shown, panel, number)[1].tolist() == expected
    assert "**15,000** forward" in told and "**1.5 minutes** (167 images a second)" in told
    assert "**12.5%** of the triplets were still violated, in the first **50.0%**" in told


def test_similarities_tell_what_training_gained(synthetic_test: ImageSet, encoder: Encoder) -> None:
    """The same encoder before and after: nothing is gained."""
    split = class_split("12-8", 0, 20)
    shown, told = objective_figures.similarity_figure(encoder, encoder, synthetic_test, split)
    titles = [axis.get_title() for axis in shown.figure.axes]
    assert [title.split(":")[0] for title in titles] == [
        f"{part} classes, {when} training" for when in ("before", "after") for part in ("seen", "unseen")
    ]
    unseen = titles[1].split("AUC ")[1]
    assert titles[3].endswith(unseen) and f"rises from **{unseen}** to **{unseen}**" in told
    assert told.endswith("and 0.0 points were gained.")


def test_the_map_names_its_classes(synthetic_test: ImageSet, encoder: Encoder) -> None:
    classes = (3, 5, 8)
    shown = objective_figures.map_figure(encoder, synthetic_test, classes)
    names = [synthetic_test.class_names[label].replace("_", " ") for label in classes]
    assert [text.get_text() for text in shown.figure.axes[0].texts] == names
    for text, there, label in zip(shown.figure.axes[0].texts, points(shown, 0), classes, strict=True):
        assert len(there) == (synthetic_test.labels == label).sum()
        assert np.allclose(text.xy, np.median(there, axis=0))


def test_an_untrained_encoder_is_fitted_to_the_images_alone(synthetic_train: ImageSet) -> None:
    images = synthetic_train.images[::20]
    one, again = (demonstrations.untrained_encoder(recipe("smoke"), images, 32) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.allclose(one.pixel_mean.flatten(), images.float().mean((0, 1, 2)), atol=1e-3)
    assert torch.allclose(one.centre, one._directions(images[::4], 100).mean(dim=0), atol=1e-6)


def test_the_recipe_is_told_choice_by_choice(encoder: Encoder) -> None:
    config = recipe("muon-proxy-triplet")
    told = objectives.recipe_table(config, encoder).frame.set_index("what").value
    assert told["recipe"] == config.recipe and told["epochs"] == str(config.epochs)
    assert f"{count_parameters(encoder):,} parameters" in told["encoder"]
    assert "proxy" in told["objective"] and "triplet (" in told["objective"]
    assert told["optimiser"].startswith(f"Muon for the kernels, peak rate {config.muon_rate}")
    assert f"{config.batch_size} images" in told["batches"] and "px from" in told["image size while training"]


def test_what_the_whole_training_reached_is_the_stored_number() -> None:
    row = result(SPLIT_SWEEP.table(), split="90-10", draw=0, seed=0, recipe="muon-proxy-triplet", metric="acc_5w1s")
    seed = result(seed_reference(), split="90-10", metric="acc_5w1s")
    told = objectives.reached_sentence()
    assert f"**{row.value:.1f} ± {row.ci95:.1f}**, against {seed.value:.1f}" in told
    assert f"{load_json('cifar100-90-10-draw0')['seconds'] / 60:.0f} minutes" in told
    shown = objectives.systems_shown().frame
    assert cell(row.value, row.ci95) in shown["5-way 1-shot"].tolist() and len(shown) == 4
    assert cell(seed.value, seed.ci95) == shown["5-way 1-shot"].iloc[-1]


# --- budgets, ensembles, networks -----------------------------------------------------------------


def test_times_are_drawn_and_told_as_stored() -> None:
    table = TRAINING_TIME.table().query("recipe == 'muon-proxy-triplet'")
    means = table[table.metric == "acc_5w1s"].groupby("images").value.mean()
    seconds = table[table.metric == "seconds"].groupby("images").value.mean()
    shown = budget_figures.time_figure()
    aim = result(seed_reference(), split="90-10", metric="acc_5w1s", source="measured").value
    assert line(shown, 0, 0)[1].tolist() == [aim, aim]
    assert np.allclose(np.stack(line(shown, 0, 1)), np.stack([means.index, means]))
    assert all(
        f"{means[n]:.1f} percent with {n:,} images in {seconds[n]:.0f} seconds" in shown.alt for n in means.index
    )
    assert shown.alt.endswith(f"reach {aim:.1f}.")


def test_accuracy_by_classes_is_the_mean_over_seeds() -> None:
    found = budgets.accuracy_by_classes().set_index("classes")
    table = CLASSES_OR_IMAGES.table()
    rows = table[table.metric == "acc_5w1s"].groupby("classes").value
    assert np.allclose(found["mean"], rows.mean()) and (found.seeds == rows.count()).all()
    assert found.index.is_monotonic_increasing


def test_every_task_has_its_paragraph() -> None:
    parts = ensembles.gain_sentences().split("\n\n")
    assert parts == [ensembles.gain_sentence(task) for task in ("90-10", "cifar-fs")]


def test_encoders_are_told_as_they_are_counted() -> None:
    table, sizes = networks.encoder_table().frame, networks.encoder_sizes()
    assert table["parameters (M)"].tolist() == sizes.parameters.tolist() and "images/s" in table and "MACs (M)" in table


def test_neighbours_of_unit_vectors_are_the_same_by_both_distances(synthetic_test: ImageSet, encoder: Encoder) -> None:
    images, labels = synthetic_test.images[:120], synthetic_test.labels[:120]
    table = networks.neighbour_table(encoder, images, labels)
    unit, raw = table.frame.to_numpy()[:, 1:].astype(float)
    z = encoder.embed(images)
    nearest = (z @ z.T).fill_diagonal_(-2).argmax(dim=1)
    assert unit[0] == 100 and unit[1] == unit[2] == pytest.approx(
        100 * float((labels[nearest] == labels).float().mean())
    )
    assert raw[0] < 100 and "120 images" in table.caption


# --- drawing --------------------------------------------------------------------------------------


def test_digits_are_told_as_stored() -> None:
    rows = DRAWING.table().query("train_on == 'mnist' and metric.str.endswith('_digits')")
    table = drawing.mnist_table().frame
    assert table.metric.tolist() == rows.metric.tolist()
    assert table.percent.tolist() == [cell(row.value, row.ci95, 2) for row in rows.itertuples()]
    accuracy = result(rows, metric="pair_acc_digits")
    record = load_json("drawing-mnist")
    told = drawing.mnist_sentence()
    assert f"**{accuracy.value:.2f} ± {accuracy.ci95:.2f}%**" in told and f"{record['parameters']:,} weights" in told
    score, told = (
        result(DRAWING.table(), train_on="validation", metric="acc_20w1s_validation"),
        drawing.validation_sentence(),
    )
    assert f"**{score.value:.1f} ± {score.ci95:.1f}%**" in told
    assert " and ".join(load_json("drawing-validation")["held_out"]) in told


def test_every_run_on_digits_is_a_point() -> None:
    splits = drawing.digit_splits()
    shown = drawing_figures.unseen_digits()
    for panel, metric in enumerate(("pair_acc", "pair_auc")):
        axis = shown.figure.axes[panel]
        drawn = [np.asarray(one[0].get_ydata()) for one in axis.containers]
        for values, kind in zip(drawn, ("digits", "unseen_digits"), strict=True):
            assert sorted(values) == sorted(splits[splits.metric == f"{metric}_{kind}"].value)


def test_symbols_are_shown_as_they_come_and_redrawn() -> None:
    shown = drawing_figures.canonical_form(synthetic_symbols(3, 4), synthetic_symbols(4, 3))
    assert len(shown.figure.axes) == 24
    titles = [axis.get_title(loc="left") for axis in shown.figure.axes]
    assert [title for title in titles if title] == ["MNIST", "Omniglot", "one drawing, four pens"]
    pens = [np.asarray(axis.images[0].get_array()).astype(float) for axis in shown.figure.axes[20:]]
    assert all(np.abs(one - pens[0]).mean() < 30 for one in pens)  # redrawn, the four are nearly alike


@pytest.fixture
def answers() -> RunAnswers:
    """A run of four letters in which one query is mistaken for the next letter."""
    letters = synthetic_symbols(1, 4).images[:4]
    similarity = torch.eye(4)[None] * 0.9
    similarity[0, 2, 3] = 0.95
    run = OneShotRun(letters, letters, torch.arange(4))
    return RunAnswers((run,), similarity, torch.tensor([[True, True, False, True]]))


def test_the_surest_mistake_stands_between_query_and_right_answer(answers: RunAnswers) -> None:
    shown = drawing_figures.surest_mistakes(answers)
    titles = [axis.get_title() for axis in shown.figure.axes if axis.get_title()]
    assert titles == ["query, run 1", "answer 0.95", "right 0.90"]


def test_answers_as_stored_may_differ_by_a_tie_or_two(answers: RunAnswers) -> None:
    stored = result(DRAWING.table(), train_on="both", metric="acc_20w1s_runs").value
    hits = torch.zeros(1, 400, dtype=torch.bool)
    for right, same in ((round(4 * stored), True), (round(4 * stored) - 2, True), (round(4 * stored) - 3, False)):
        hits[:] = torch.arange(400) < right
        assert drawing.is_as_stored(RunAnswers(answers.runs, answers.similarity, hits)) == same


def test_the_verdict_is_drawn_where_it_falls() -> None:
    same, different = torch.linspace(0.4, 0.9, 50), torch.linspace(-0.4, 0.5, 50)
    shown = drawing_figures.verdict_on_digits(same, different, Verdict(0.45, 10.0, -4.5))
    axis, curve = shown.figure.axes
    assert axis.get_lines()[0].get_xdata()[0] == 0.45
    x, probability = (np.asarray(one, float) for one in curve.get_lines()[0].get_data())
    assert probability[np.abs(x - 0.45).argmin()] == pytest.approx(0.5, abs=0.02)
    assert sum(bar.get_height() for bar in axis.patches) == pytest.approx(200)  # percent, of both kinds


# --- imprinting -----------------------------------------------------------------------------------


def number(method: str, shots: int, metric: str = "novel_acc", added: int = 1, bias: str = "none") -> pd.Series:
    keys = {"method": method, "shots": shots, "metric": metric, "added": added, "bias": bias}
    return result(IMPRINTING.table(), **keys)


def curve(shots: int, loss: float) -> float:
    table = read_table(results_dir() / "imprinting_curves.csv")
    return float(result(table, method="whitened", added=1, shots=shots, loss=loss).value)


def test_one_class_is_shown_before_and_after(synthetic_test: ImageSet) -> None:
    queries = int((synthetic_test.labels == 2).sum())
    before = torch.arange(queries) % 2
    after = torch.where(torch.arange(queries) < 12, 2, 0)
    shown, told = imprinting_figures.one_class(synthetic_test, 2, synthetic_test.images[:5], before, after, 0.6)
    titles = [axis.get_title() for axis in shown.figure.axes]
    assert titles[:5] == [f"shot {n}" for n in range(1, 6)]
    names = [name.replace("_", " ") for name in synthetic_test.class_names]
    assert titles[8] == f"{names[0]}\n→ {names[2]}" and titles[23] == f"{names[1]}\n→ {names[0]}"
    edges = [to_rgb(axis.spines["left"].get_edgecolor()) for axis in shown.figure.axes[8:]]
    assert edges == [to_rgb(plotting.GREEN)] * 12 + [to_rgb(plotting.RED)] * 4
    assert "12 of 16 are named" in shown.alt and f"{100 * 12 / queries:.0f}% of them are named right" in told


def test_lines_of_one_added_class_are_the_stored_numbers() -> None:
    shown = imprinting_figures.by_shots()
    for drawn, (method, bias) in zip(
        shown.figure.axes[0].containers,
        [*((method, "budget") for method in ("whitened", "fine-tuned", "random", "imprinted")), ("imprinted", "none")],
        strict=True,
    ):
        values = [number(method, k, bias=bias).value for k in imprinting.SHOTS]
        assert np.asarray(drawn[0].get_ydata()).tolist() == values
    assert f"{number('whitened', 5, bias='budget').value:.0f} percent at 5" in shown.alt


def test_the_bargain_is_told_as_stored() -> None:
    shown, told = imprinting_figures.bargain(), "\n".join(imprinting.bargain_sentences())
    for k in imprinting.SHOTS:
        assert f"{curve(k, 1.0):.0f} percent with {k}" in shown.alt and f"{curve(k, 1.0):.0f}% with {k}" in told
        assert f"{curve(k, 4.0):.0f}%" in told.split("four points")[1]
    assert len(shown.figure.axes) == len(imprinting.SHOTS)
    asked = imprinting.seed_imprinting().set_index(["method", "shots"]).value["fine-tuned"]
    for axis, k in zip(shown.figure.axes, imprinting.SHOTS, strict=True):
        rings = [one.get_xydata()[0].tolist() for one in axis.get_lines() if one.get_marker() == "o"]
        assert rings == [[imprinting.price_of(asked[k], k), asked[k]]]
        assert f"{asked[k]:.0f} percent with {k} for {rings[0][0]:.1f} points" in shown.alt


def test_no_ring_is_drawn_beyond_the_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imprinting_figures, "price_of", lambda accuracy, shots: np.nan if shots > 1 else 9.0)
    shown = imprinting_figures.bargain()
    assert not [one for axis in shown.figure.axes for one in axis.get_lines() if one.get_marker() == "o"]
    assert "nowhere within them" in shown.alt


def test_dots_of_many_classes_are_scores_as_they_are() -> None:
    shown = imprinting_figures.many()
    base = number("base, whitened", 0, "old_acc", added=0).value
    for axis, added in zip(shown.figure.axes, imprinting.AT_ONCE, strict=True):
        dots = [one.get_xydata()[0].tolist() for one in axis.get_lines() if one.get_marker() == "o"]
        assert dots == [
            [base - number("whitened", k, "old_acc", added).value, number("whitened", k, added=added).value]
            for k in imprinting.SHOTS
        ]


def test_tables_of_added_classes_hold_the_stored_numbers() -> None:
    table, told = imprinting.one_class_table()
    row = number("fine-tuned", 5, bias="budget")
    assert table.frame.set_index("")["5 shots"]["fine-tuned, within budget"] == cell(row.value, row.ci95)
    base = number("base, whitened", 0, "old_acc", added=0)
    assert f"and {cell(base.value, base.ci95)}% after whitening" in told
    many = imprinting.many_table().frame.set_index(["added", "method", "shots"])
    row = number("whitened", 10, "harmonic_mean", added=60)
    assert many["harmonic mean"][60, "whitened", 10] == cell(row.value, row.ci95)


def test_classes_are_told_from_the_hardest_to_the_easiest() -> None:
    table = read_table(results_dir() / "imprinting_classes.csv").query(
        "method == 'whitened' and shots == 5 and bias == 'budget'"
    )
    order = table.sort_values("value")
    spread, told = imprinting.class_findings()
    hardest, easiest = order.novel.iloc[0].replace("_", " "), order.novel.iloc[-1].replace("_", " ")
    assert told.startswith(f"Hardest: *{hardest}* ({order.value.iloc[0]:.0f}%")
    assert f"Easiest: *{easiest}* ({order.value.iloc[-1]:.0f}%)" in told
    between = spread.frame.set_index("shots")["between classes"]
    assert between[5] == pytest.approx(table.value.std())
    nearest = load_json("imprinting")["neighbours"]
    correlation = np.corrcoef(table.value, [nearest[name][0][1] for name in table.novel])[0, 1]
    assert f"**{correlation:.2f}**" in told


def test_moving_is_told_as_stored() -> None:
    table = IMPRINTING_MOVED.table()
    means = table.groupby(["method", "shots"]).novel_acc_for_one_point.mean()
    shown, told = imprinting_figures.moving(), imprinting.moved_sentence()
    for k in sorted(table.shots.unique()):
        assert f"{means['moved', k]:.0f} percent with {k}" in shown.alt
        (gain,) = re.findall(rf"([+-][\d.]+) ± [\d.]+ points with {k}\b", told)
        assert float(gain) == pytest.approx(means["moved", k] - means["whitened", k], abs=0.06)
    rows = imprinting.moved_table().frame.set_index(["shots", "encoder"])
    assert all(
        rows["new, one point"][k, name].startswith(f"{means[method, k]:.1f} ± ")
        for k in sorted(table.shots.unique())
        for method, name in (("whitened", "stays"), ("old only", "tuned for old"), ("moved", "moves"))
    )
    tried = imprinting.moved_trials_table().frame
    assert tried.trial.tolist() == list(dict.fromkeys(IMPRINTING_MOVED_TRIALS.table().trial))


@pytest.mark.parametrize(
    "finding",
    [
        objectives.reached_sentence,
        objectives.systems_shown,
        budget_figures.time_figure,
        drawing.mnist_table,
        drawing_figures.unseen_digits,
        imprinting_figures.by_shots,
        imprinting_figures.moving,
        imprinting.one_class_table,
    ],
)
def test_nothing_stored_is_told(finding: Callable[[], object], project: object) -> None:
    with pytest.raises(ResultsError):
        finding()
