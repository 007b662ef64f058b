"""What the figures, tables and sentences of notebook 05 show, on embeddings whose answers can be told by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from torch.nn import functional as F

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng, sample_episodes
from siamese_utils.evaluation import episodes
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.protocol import METRICS
from siamese_utils.experiments import plotting
from siamese_utils.studies.exploration.findings import plain
from siamese_utils.studies.splits import one_shot

CLASSES = range(12, 20)


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def unseen(synthetic_test: ImageSet) -> ImageSet:
    """Eight classes; their labels do not begin at 0."""
    return synthetic_test.subset(synthetic_test.indices_of(CLASSES))


@pytest.fixture(scope="module")
def z(unseen: ImageSet) -> torch.Tensor:
    """Embeddings that tell classes apart, but for about every fifth image."""
    noise = torch.randn(len(unseen), 24, generator=torch.Generator().manual_seed(0))
    return F.normalize(F.one_hot(unseen.labels, 24) + 0.28 * noise, dim=1)


def names(unseen: ImageSet, labels: Iterable[int]) -> list[str]:
    return [plain(unseen.class_names[int(label)]) for label in labels]


def picture(axis: Axes) -> np.ndarray:
    return np.asarray(axis.get_images()[0].get_array())


def frame(axis: Axes) -> str:
    return to_hex(axis.spines["left"].get_edgecolor()).upper()


def bold(told: str) -> list[str]:
    return re.findall(r"\*\*(.+?)\*\*", told)


def test_episode_frames_every_query_by_its_answer(unseen: ImageSet, z: torch.Tensor) -> None:
    episode = sample_episodes(unseen.labels, 5, 1, 5, 1, named_rng(0, "an episode"))
    shown, told = one_shot.episode_answers(unseen, z, episode)
    axes = np.reshape(shown.figure.axes, (5, 6))
    labels, right = names(unseen, episode.classes[0]), 0
    for own in range(5):
        assert axes[own, 0].get_title() == labels[own]
        np.testing.assert_array_equal(picture(axes[own, 0]), unseen.images[episode.support[0, own, 0]])
        for axis, position in zip(axes[own, 1:], episode.query[0, own]):
            similarity = [float(z[position] @ z[support]) for support in episode.support[0, :, 0]]
            answer = int(np.argmax(similarity))
            right += answer == own
            assert axis.get_title() == f"{labels[answer]} {similarity[answer]:.2f}"
            assert frame(axis) == (plotting.GREEN if answer == own else plotting.RED).upper()
            np.testing.assert_array_equal(picture(axis), unseen.images[position])
    assert 5 < right < 25, "an episode with wrong answers is needed to test their frames"
    assert bold(told) == [f"{right} of 25"] and told.endswith("chance is 5 of 25.")


def test_episode_spread_holds_every_episode() -> None:
    accuracies = torch.linspace(0, 1, 1001, dtype=torch.float64)
    shown, told = one_shot.episode_spread(accuracies)
    assert sum(bar.get_height() for bar in shown.figure.axes[0].patches) == len(accuracies)
    assert bold(told) == ["5", "95", "201"]
    lines = [line.get_xdata()[0] for line in shown.figure.axes[0].get_lines()]
    assert lines == [20, pytest.approx(50)]
    assert shown.figure.axes[0].get_title() == "1,001 five-way one-shot episodes"
    assert "1,001 five-way one-shot episodes:" in shown.alt


def test_stored_metrics_are_the_headline_split() -> None:
    table, told = one_shot.stored_metrics()
    values = one_shot.stored_values()
    ours = dict(zip(table.frame.metric, table.frame.ours))
    assert ours == {key: text for key, text in ours.items() if text.startswith(f"{values[key]:.2f} ± ")}
    assert set(ours) == set(METRICS)
    assert re.findall(r"(\d\d\.\d) ± \d\.\d \(draw (\d)\)", told)[0] == (f"{values.acc_5w1s:.1f}", "0")


def test_metrics_table_keeps_value_interval_and_sample() -> None:
    table = one_shot.metrics_table({"acc_5w1s": Estimate(76.5, 0.25, 10_000)})
    assert table.iloc[0].tolist() == ["acc_5w1s", 76.5, 0.25, "10,000"]


def test_legacy_metric_ends_at_the_blind_answer(unseen: ImageSet, z: torch.Tensor) -> None:
    shown, told = one_shot.legacy_metric(unseen, z)
    legacy, balanced, blind, seeds = shown.figure.axes[0].get_lines()
    assert blind.get_ydata()[0] == legacy.get_ydata()[-1] == pytest.approx(100 * 7 / 8)
    assert balanced.get_ydata()[-1] == pytest.approx(50)
    assert max(balanced.get_ydata()) > 80 and seeds.get_xdata()[0] == 0.2
    assert bold(told)[1] == "87.5"


def test_ways_and_shots_draw_the_estimates(unseen: ImageSet, z: torch.Tensor) -> None:
    more = one_shot_set(unseen, 2)
    shown, told = one_shot.ways_and_shots(more, z.repeat(2, 1))
    left, right = shown.figure.axes
    ways, shots = (axis.containers[0].lines[0] for axis in (left, right))
    assert ways.get_xdata().tolist() == [2, 3, 5, 7]  # not ten of eight classes
    assert shots.get_xdata().tolist() == [1, 2, 3, 5, 10, 20]
    asked = episodes.few_shot_accuracy(z.repeat(2, 1), more.labels, named_rng(0, "3 shots"), shots=3, episodes=4_000)
    assert shots.get_ydata()[2] == asked.value
    one, five, twenty = (shots.get_ydata()[place] for place in (0, 3, 5))
    assert bold(told) == [f"{five - one:.1f}", f"{twenty - five:.1f}"]


def one_shot_set(images: ImageSet, times: int) -> ImageSet:
    """Every image several times, for more shots than there are images of a class."""
    return images.subset(torch.arange(len(images)).repeat(times))


def test_surest_answers_stand_above_the_support_they_were_matched_to(unseen: ImageSet, z: torch.Tensor) -> None:
    task = episodes.few_shot_predictions(z, unseen.labels, named_rng(0, "a task"))
    shown, told = one_shot.surest_answers(unseen, task)
    axes = np.reshape(shown.figure.axes, (4, 6))
    support = dict(zip(task.classes.tolist(), task.support[:, 0].tolist()))
    by_lead = task.margin.argsort(descending=True).tolist()
    for rows, right, colour in ((axes[:2], True, plotting.GREEN), (axes[2:], False, plotting.RED)):
        chosen = [place for place in by_lead if bool(task.correct[place]) is right][:6]
        assert len(chosen) == 6
        for above, below, place in zip(*rows, chosen):
            answer = int(task.predicted[place])
            assert above.get_title() == f"{names(unseen, [task.true[place]])[0]}\nlead {task.margin[place]:.2f}"
            assert frame(above) == colour.upper()
            np.testing.assert_array_equal(picture(above), unseen.images[task.query[place]])
            np.testing.assert_array_equal(picture(below), unseen.images[support[answer]])
    mistakes = zip(names(unseen, task.true[chosen]), names(unseen, task.predicted[chosen]))
    assert told.endswith("mistakes: " + "; ".join(f"{true} called {called}" for true, called in mistakes) + ".")


def test_confusion_is_sorted_and_names_its_extremes(unseen: ImageSet) -> None:
    shares = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.9, 0.0], [0.0, 0.4, 0.6]], dtype=torch.float64)
    shown, told = one_shot.confusion(unseen, torch.tensor([13, 15, 18]), shares)
    hardest, easiest, middle = names(unseen, (13, 15, 18))
    (axis,) = shown.figure.axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [easiest, middle, hardest]
    np.testing.assert_allclose(picture(axis), [[90, 0, 10], [40, 60, 0], [50, 30, 20]])
    assert [text.get_text() for text in axis.texts] == ["90", "0", "10", "40", "60", "0", "50", "30", "20"]
    assert bold(told) == [easiest, hardest, hardest, easiest] and told.endswith("(50%).")


def test_class_difficulty_draws_a_box_a_class_by_its_median(unseen: ImageSet) -> None:
    recalls = torch.tensor([[0.9, 0.1, 0.5], [1.0, 0.3, 0.5], [0.8, 0.2, 0.5]], dtype=torch.float64)
    shown, told = one_shot.class_difficulty(unseen, torch.tensor([12, 14, 16]), recalls)
    easiest, hardest, middle = names(unseen, (12, 14, 16))
    (axis,) = shown.figure.axes
    assert [tick.get_text() for tick in axis.get_yticklabels()] == [hardest, middle, easiest]
    assert f"hardest is {hardest}, the easiest {easiest}" in shown.alt and "over 3 random supports" in shown.alt
    within, between = recalls.numpy().std(axis=0).mean(), recalls.numpy().mean(axis=0).std()
    assert bold(told) == [f"{100 * within:.1f}", f"{100 * between:.1f}"]


def test_all_classes_shows_both_ends() -> None:
    shown, told = one_shot.all_classes()
    (axis,) = shown.figure.axes
    heights = [bar.get_width() for bar in axis.patches]
    assert len(heights) == 24 and heights == sorted(heights, reverse=True)
    ticks = [tick.get_text() for tick in axis.get_yticklabels()]
    assert bold(told) == [ticks[0], ticks[1], ticks[-1], ticks[-2]]
    assert f"Easiest: {ticks[0]} {heights[0]:+.0f}, {ticks[1]} {heights[1]:+.0f}, " in shown.alt
    assert f"hardest: {ticks[-1]} {heights[-1]:+.0f}, " in shown.alt


def test_task_map_marks_supports_and_wrong_answers(unseen: ImageSet, z: torch.Tensor) -> None:
    task = episodes.few_shot_predictions(z, unseen.labels, named_rng(0, "a task"))
    flat = np.random.default_rng(0).normal(size=(len(z), 2)) + 9 * np.eye(24, 2)[unseen.labels % 2]
    flat[task.support[3, 0]] = (99, 99)
    shown, told = one_shot.task_map(unseen, flat, task)
    points = [np.asarray(drawn.get_offsets()) for drawn in shown.figure.axes[0].collections]
    assert len(points) == 3 * len(task.classes)
    assert sum(len(drawn) for drawn in points[1::3]) == int((~task.correct).sum())
    assert sum(map(len, points[0::3])) + sum(map(len, points[1::3])) == len(unseen)
    np.testing.assert_allclose(np.concatenate(points[2::3]), flat[task.support[:, 0]])
    # A name that would lie on its star is moved.
    at = shown.figure.axes[0].texts[3]
    assert at.xyann == (0, 0)
    flat[task.support[3, 0]] = at.xy + np.array((0, 1e-3))
    assert one_shot.task_map(unseen, flat, task)[0].figure.axes[0].texts[3].xyann == (0, -26)
    label = int(task.classes[3])
    recall = 100 * float(task.correct[task.true == label].float().mean())
    assert bold(told)[0] == names(unseen, [label])[0] and f"of which {recall:.0f}% are named right" in told
