"""What the drawing study draws."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.symbols import canonical_symbol, load_mnist, load_omniglot_background, symbol_images
from siamese_utils.evaluation.calibration import Verdict
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration
from siamese_utils.studies.drawing.findings import PUBLISHED, digit_splits, official_accuracy
from siamese_utils.studies.drawing.judging import RunAnswers
from siamese_utils.studies.drawing.letter_findings import AIMS, NAMES, of_metric
from siamese_utils.studies.drawing.letters import TRAINED


def canonical_form(characters: ImageSet, digits: ImageSet) -> Illustration:
    """Digits, letters and one drawing by four pens, as they come and redrawn."""
    rng = named_rng(0, "symbols to show")
    pick = [rng.permutation(len(part))[:4].tolist() for part in (digits, characters)]
    parts = [digits, characters]
    if not digits.is_synthetic:
        parts = [load_mnist("test", canonical=False), load_omniglot_background(canonical=False)]
    before = [part.images[chosen].numpy()[..., 0] for part, chosen in zip(parts, pick, strict=True)]
    before.append(np.stack([_zigzag(width) for width in (4, 10, 20, 34)]))
    figure, axes = plt.subplots(2, 12, figsize=(12, 2.2), gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    for block, (inks, title) in enumerate(zip(before, ("MNIST", "Omniglot", "one drawing, four pens"), strict=True)):
        columns = slice(4 * block, 4 * block + 4)
        plotting.show_images(np.repeat(inks[..., None], 3, axis=-1), axes[0, columns])
        plotting.show_images(symbol_images(np.stack([canonical_symbol(ink) for ink in inks])), axes[1, columns])
        axes[0, 4 * block].set_title(title, loc="left", fontsize=12)
    return Illustration(
        figure,
        "08_canonical",
        alt=(
            "Twelve symbols in two rows, as they come above and redrawn below: four digits of MNIST, four letters of "
            "Omniglot, and a zigzag drawn with four pens. Below, all strokes have one width and all symbols one size; "
            "the four zigzags are alike."
        ),
    )


def _zigzag(width: int) -> NDArray[np.uint8]:
    paper = Image.new("L", (280, 280))
    points = [(70, 60), (200, 75), (95, 160), (210, 215)]
    ImageDraw.Draw(paper).line(points, fill=255, width=width, joint="curve")
    return np.asarray(paper)


def unseen_digits() -> Illustration:
    """Pairs of digits learned and never seen, over how many were learned."""
    splits = digit_splits()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11.5, 4.2))
    _draw_by_learned(left, splits, "pair_acc", "Pairs: same or different?")
    _draw_by_learned(right, splits, "pair_auc", "The same without a threshold (AUC)")
    figure.tight_layout()
    return Illustration(
        figure,
        "08_unseen_digits",
        alt=(
            "Two panels over the number of digits learned, one point a run and a line through the means. For digits "
            "learned, pairs are called right nearly always. For digits never seen, accuracy starts little above chance "
            "with two digits learned and rises with their number, far apart from draw to draw."
        ),
    )


def _draw_by_learned(axis: Axes, splits: pd.DataFrame, metric: str, title: str) -> None:
    kinds = (
        ("digits", plotting.SEEN, "digits learned", 102.5),
        ("unseen_digits", plotting.UNSEEN, "digits never seen", 56.5),
    )
    for kind, colour, label, height in kinds:
        part = splits[splits.metric == f"{metric}_{kind}"].sort_values(["learned", "draw"])
        axis.errorbar(part.learned, part.value, part.ci95, fmt="o", ms=5, color=colour, alpha=0.65, capsize=2)
        mean = part.groupby("learned").value.mean()
        axis.plot(mean.index, mean, color=colour)
        axis.annotate(label, (8, height), color=colour, fontweight="bold", ha="right")
    axis.axhline(50, ls="--", color=plotting.GREY)
    axis.annotate(
        "chance", (8, 50), (0, -14), textcoords="offset points", color=plotting.GREY, fontweight="bold", ha="right"
    )
    axis.set(title=title, xlabel="digits learned", ylabel="percent", ylim=(45, 107))


def omniglot() -> Illustration:
    """Accuracy on the official runs beside published numbers."""
    ours = official_accuracy()
    bars = [(row.name, row.value, (row.low, row.high), plotting.RED) for row in ours.itertuples(index=False)]
    for item in PUBLISHED:
        taught = f" ({item.alphabets} alphabets)" if item.alphabets else ""
        bars.append((item.name + taught, item.accuracy, (item.accuracy, item.accuracy), plotting.GREY))
    bars.sort(key=lambda bar: bar[1])
    figure, axis = plt.subplots(figsize=(9.5, 4.4))
    for row, (_, value, (low, high), colour) in enumerate(bars):
        axis.barh(row, value, color=colour, alpha=0.85, height=0.7)
        if low < high:
            axis.errorbar(value, row, xerr=[[value - low], [high - value]], color="black", capsize=3, lw=1.5)
        axis.annotate(f"{value:.1f}", (high, row), (6, 0), textcoords="offset points", va="center", fontweight="bold")
    axis.axvline(5, color=plotting.GREY, ls="--", lw=1.5)
    axis.annotate(
        "chance", (5, -0.75), (4, 0), textcoords="offset points", color=plotting.GREY, va="center", fontsize=10
    )
    axis.set_yticks(range(len(bars)), [bar[0] for bar in bars])
    axis.grid(axis="y", visible=False)
    axis.set(
        xlim=(0, 106),
        ylim=(-1.05, len(bars) - 0.5),
        xlabel="one-shot accuracy on the 20 official runs (%)",
        title="Omniglot: one letter in twenty, from one example",
    )
    figure.tight_layout()
    published = ", ".join(f"{item.name} {item.accuracy}" for item in PUBLISHED)
    return Illustration(
        figure,
        "08_omniglot",
        alt=(
            "Bars of one-shot accuracy on Omniglot's official runs. Ours, learned from MNIST alone, from eight "
            f"alphabets, and from both, with 95 percent intervals, beside published numbers: {published} percent."
        ),
    )


def surest_mistakes(answers: RunAnswers) -> Illustration:
    """The wrong answers that are most similar, each between its query and the right example."""
    true = torch.stack([run.true for run in answers.runs])
    best = answers.similarity.argmax(dim=2)
    lead = answers.similarity.amax(dim=2) - answers.similarity.gather(2, true[..., None])[..., 0]
    worst = lead.flatten().argsort(descending=True)[: min(6, int((~answers.hits).sum()))].tolist()
    figure, axes = plt.subplots(3, 6, figsize=(9.5, 5.4))
    for axis in axes.flat:
        axis.axis("off")
    for column, index in enumerate(worst):
        number, trial = divmod(index, answers.hits.shape[1])
        run, similarity = answers.runs[number], answers.similarity[number, trial]
        answer, right = int(best[number, trial]), int(true[number, trial])
        plotting.show_images(
            torch.stack([run.query[trial], run.support[answer], run.support[right]]),
            axes[:, column],
            titles=[f"query, run {number + 1}", f"answer {similarity.max():.2f}", f"right {similarity[right]:.2f}"],
            colours=[plotting.GREY, plotting.RED, plotting.GREEN],
        )
    figure.tight_layout()
    return Illustration(
        figure,
        "08_surest_mistakes",
        alt=(
            "Six columns of three symbols: a query, the wrong example that it was matched to with the similarity, and "
            "the right example with its lower similarity. In most columns the wrong example is as near in shape as the "
            "right one."
        ),
    )


def verdict_on_digits(same: torch.Tensor, different: torch.Tensor, verdict: Verdict) -> Illustration:
    """Similarities of pairs of test digits, the demo's threshold, and its probability of *same*."""
    figure, axis = plt.subplots(figsize=(9, 3.8))
    bins = np.linspace(-0.6, 1, 65)
    kinds = ((different, plotting.ORANGE, "different digits"), (same, plotting.BLUE, "same digit"))
    for values, colour, label in kinds:
        axis.hist(values.numpy(), bins=bins, color=colour, alpha=0.65, weights=np.full(len(values), 100 / len(values)))
        shares, _ = np.histogram(values.numpy(), bins=bins)
        # Inside the hill, since the curve of P(same) runs above it.
        inside = (float(values.median()), 40 * shares.max() / len(values))
        axis.annotate(label, inside, color="black", fontweight="bold", ha="center")
    axis.set_ylim(0, 1.15 * axis.get_ylim()[1])
    axis.axvline(verdict.threshold, color=plotting.GREY, lw=2)
    axis.annotate(
        "threshold ", (verdict.threshold, axis.get_ylim()[1] * 0.55), color=plotting.GREY, fontweight="bold", ha="right"
    )
    curve = axis.twinx()
    cosine = np.linspace(-0.6, 1, 200)
    curve.plot(cosine, 1 / (1 + np.exp(-(verdict.slope * cosine + verdict.intercept))), color=plotting.GREEN)
    at = -(np.log(3) + verdict.intercept) / verdict.slope  # where the probability is a quarter
    curve.annotate(
        "P(same)", (at, 0.25), (-8, 4), textcoords="offset points", color=plotting.GREEN, fontweight="bold", ha="right"
    )
    curve.set(ylim=(0, 1.08), ylabel="P(same)")
    curve.grid(False)
    axis.set(xlabel="cosine similarity", ylabel="% of pairs", title="Test digits through the demo's encoder")
    return Illustration(
        figure,
        "08_verdict",
        alt=(
            "Histograms of the cosine similarity of pairs of test digits: different digits on the left, the same digit "
            "on the right, with some overlap. A vertical line marks the threshold, and a rising curve the probability "
            "of same."
        ),
    )


def letters() -> Illustration:
    """Letters of EMNIST named from one example each, by what the encoder learned from; the aims as lines."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 3), sharey=True)
    told = []
    for axis, ways in zip(axes, (5, 20), strict=True):
        rows, one_case = of_metric(f"acc_{ways}w1s"), of_metric(f"acc_{ways}w1s_one_case")
        colours = [plotting.UNSEEN if name in ("mnist", TRAINED) else plotting.SEEN for name in rows.index]
        places = range(len(rows))
        axis.barh(places, rows["mean"], color=colours, height=0.6)
        axis.plot(one_case["mean"], places, "D", color="black", ms=6, label="one case of 15 letters")
        axis.axvline(AIMS[f"acc_{ways}w1s"], color=plotting.GREY, ls="--", label="the aim without Latin")
        for place, value in zip(places, rows["mean"], strict=True):
            axis.text(1.5, place, f"{value:.1f}", va="center", color="white", fontweight="bold")
        axis.set_yticks(places, [NAMES[name] for name in rows.index])
        axis.set(xlim=(0, 100), xlabel="percent named right", title=f"Among {ways} letters")
        axis.grid(False, axis="y")
        named = [f"{NAMES[name]} {value:.1f}%" for name, value in rows["mean"].items()]
        told.append(f"Among {ways} letters: {', '.join(named)}")
    axes[0].invert_yaxis()
    handles = dict(zip(*reversed(axes[1].get_legend_handles_labels()), strict=True))
    figure.legend(handles.values(), handles.keys(), loc="lower right", ncols=2)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    return Illustration(
        figure,
        "09_letters",
        f"Letters of EMNIST named right from one example each, by what the encoder learned from. {'. '.join(told)}. "
        "The encoder without a Latin letter is near those that know the Latin alphabet.",
    )
