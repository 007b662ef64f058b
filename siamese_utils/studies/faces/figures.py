"""Figures of the face study. What is not stored yet raises ResultsError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from siamese_utils.data.faces import FaceSet, PairList, photos_per_person
from siamese_utils.data.sampling import named_rng
from siamese_utils.errors import SamplingError
from siamese_utils.experiments import plotting
from siamese_utils.experiments.findings import Illustration, Shown, Table
from siamese_utils.studies.faces.findings import koch_histories, sensitivity_sentences, sensitivity_table, stored_pairs
from siamese_utils.studies.faces.koch import PUBLISHED_ACCURACY
from siamese_utils.studies.faces.study import FACES
from siamese_utils.studies.faces.systems import KOCH, NAMES
from siamese_utils.studies.faces.trials import GRID_EPOCHS
from siamese_utils.studies.faces.verification import equal_error_rate

COLOURS = {"embedding": plotting.BLUE, "koch": plotting.RED, "pretrained": plotting.PURPLE}

_ON_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # a label that lies over a line


def pairs_figure(faces: FaceSet, seed: int = 0, count: int = 6) -> Illustration:
    """Random pairs: ``count`` of one person above, ``count`` of two people below."""
    rng = named_rng(seed, "pairs to show")
    figure, axes = plt.subplots(2, 2 * count, figsize=(12, 3.1), gridspec_kw={"wspace": 0.05, "hspace": 0.35})
    for row, (flags, word) in enumerate(((faces.pairs.same, "same person"), (~faces.pairs.same, "two people"))):
        chosen = rng.choice(flags.nonzero().flatten().numpy(), min(count, int(flags.sum())), replace=False)
        for column, pair in enumerate(chosen.tolist()):
            photos = [int(faces.pairs.first[pair]), int(faces.pairs.second[pair])]
            plotting.show_images(faces.images[photos], axes[row, 2 * column : 2 * column + 2])
        axes[row, 0].set_title(word, loc="left", fontsize=12)
        for axis in axes[row, 2 * len(chosen) :]:
            axis.axis("off")
    _push_pairs_together(figure, axes)
    alt = (
        f"Two rows of {count} pairs of photographs of faces, drawn at random: above, two of one person each; below, of "
        "two people each. Light, pose, expression and age of a person differ from photograph to photograph."
    )
    return Illustration(figure, "07_pairs", alt)


def _push_pairs_together(figure: Figure, axes: NDArray[np.object_]) -> None:
    """Leave a wider gap after every second column, so that pairs are seen as pairs."""
    figure.canvas.draw()
    for row in axes:
        for column, axis in enumerate(row):
            box = axis.get_position()
            shift = 0.12 * box.width * (1 if column % 2 == 0 else -1)
            axis.set_position([box.x0 + shift, box.y0, box.width, box.height])


def photos_figure(parts: Mapping[str, PairList]) -> Illustration:
    """How many people have 1, 2, 3 … photographs, in each part, on a logarithmic axis."""
    table = photos_per_person(dict(parts))
    names = [name for name in table.columns if name != "photographs"]
    figure, axis = plt.subplots(figsize=(8, 3.6))
    width = 0.8 / len(names)
    for number, (name, colour) in enumerate(zip(names, plotting.PALETTE)):
        place = table.photographs + (number - (len(names) - 1) / 2) * width
        axis.bar(place, table[name], width, color=colour, label=name)
    axis.set(
        yscale="log",
        xlabel="photographs of a person",
        ylabel="people",
        xticks=table.photographs,
        title="Of most people there is one photograph",
    )
    axis.grid(axis="x", visible=False)
    axis.legend()
    figure.tight_layout()
    shares = [100 * table[name][0] / table[name].sum() for name in names]
    told = ", ".join(f"{share:.0f} percent of the people in {name}" for name, share in zip(names, shares))
    alt = f"Bars: people by number of photographs of them. Of {told} there is a single photograph."
    return Illustration(figure, "07_photographs", alt)


def curves_figure(histories: Mapping[int, pd.DataFrame] | None = None) -> Illustration:
    """Loss and accuracy of the assignment's network by epoch, one thin line a seed and a thick one for the mean.

    Args:
        histories: see ``findings.koch_histories``, which are read if they are left out.
    """
    histories = koch_histories() if histories is None else histories
    if not histories:
        raise SamplingError("There is no history to draw; train the assignment's network first.")
    figure, axes = plt.subplots(1, 2, figsize=(11.5, 3.9))
    whole = pd.concat([history.assign(seed=seed) for seed, history in histories.items()])
    ends = {}
    for axis, what, title in ((axes[0], "loss", "Loss, with the penalty"), (axes[1], "accuracy", "Accuracy (%)")):
        columns = ((what, plotting.BLUE, "training"), (f"validation_{what}", plotting.RED, "validation people"))
        for column, colour, label in columns:
            for history in histories.values():
                axis.plot(history.epoch, history[column], color=colour, alpha=0.25, lw=1)
            mean = whole.groupby("epoch")[column].mean()
            axis.plot(mean.index, mean, color=colour)
            axis.annotate(
                label,
                (mean.index[-1], mean.iloc[-1]),
                (6, 0),
                textcoords="offset points",
                color=colour,
                fontweight="bold",
                va="center",
            )
            ends[column] = mean.iloc[-1]
        axis.set(title=title, xlabel="epoch", xlim=(1, whole.epoch.max() * 1.35))
        axis.xaxis.set_major_locator(FixedLocator(range(1, int(whole.epoch.max()) + 1)))
    axes[1].axhline(50, ls="--", color=plotting.GREY)
    figure.tight_layout()
    alt = (
        f"Loss and accuracy over the epochs for {len(histories)} seeds and their mean. At the end the mean loss is "
        f"{ends['loss']:.2f} in training and {ends['validation_loss']:.2f} on validation people, the mean accuracy "
        f"{ends['accuracy']:.1f} and {ends['validation_accuracy']:.1f} percent."
    )
    return Illustration(figure, "07_curves", alt)


def sensitivity_figure(table: pd.DataFrame) -> Illustration:
    """Validation accuracy of the assignment's network against learning rate, epochs and batch size.

    Args:
        table: see ``findings.sensitivity_table``.
    """
    panels = (("learning_rate", "learning rate"), ("epochs", "epochs"), ("batch_size", "batch size"))
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), sharey=True)
    told = []
    for axis, (parameter, label) in zip(axes, panels):
        part = table[table.parameter == parameter]
        value = part.value.astype(float).to_numpy()
        axis.errorbar(value, part.accuracy, part.ci95, color=plotting.RED, marker="o", capsize=3, lw=1.5)
        own = value == float(getattr(KOCH, parameter))
        axis.plot(value[own], part.accuracy[own], "o", ms=11, mfc="none", mec="black")
        axis.axhline(50, ls="--", color=plotting.GREY)
        after = "" if parameter == "epochs" else f", after {GRID_EPOCHS} epochs"
        axis.set(title=label + after, xlabel=label, xscale="linear" if parameter == "epochs" else "log")
        if parameter == "batch_size":
            axis.xaxis.set_major_locator(FixedLocator(value))
            axis.xaxis.set_major_formatter("{x:g}")
            axis.xaxis.set_minor_locator(NullLocator())
            axis.xaxis.set_minor_formatter(NullFormatter())
        told.append(
            f"{label} from {value.min():g} to {value.max():g}: "
            f"{part.accuracy.min():.1f} to {part.accuracy.max():.1f} percent"
        )
    axes[0].set_ylabel("validation pairs called right (%)")
    figure.tight_layout()
    alt = (
        "Three panels of validation accuracy with 95 percent intervals, one training a point; a circle marks the "
        "assignment's setting. " + "; ".join(told) + "."
    )
    return Illustration(figure, "07_sensitivity", alt)


def sensitivity() -> list[Shown]:
    """How sensitive the assignment's network is to its settings: curves, a table of two more of them, and sentences."""
    table = sensitivity_table()
    others = table[table.parameter.isin(["framing", "pixel_scale"])]
    caption = "Framing of the face and scale of the pixels"
    # More than the assignment's own.
    more = [Table(others, caption, decimals=3)] if others.parameter.duplicated().any() else []
    return [sensitivity_figure(table), *more, sensitivity_sentences(table)]


def roc_figure(pairs: pd.DataFrame | None = None) -> Illustration:
    """ROC curves on the test pairs, one thin line a seed, with each system's mean equal error rate.

    Args:
        pairs: see ``findings.stored_pairs``, which are read if they are left out.
    """
    pairs = stored_pairs() if pairs is None else pairs
    figure, axis = plt.subplots(figsize=(6.4, 5.6))
    grid = np.linspace(0, 1, 501)
    told = []
    for number, system in enumerate(name for name in COLOURS if name in set(pairs.system)):
        curves, errors = [], []
        for _, run in pairs[pairs.system == system].groupby("seed"):
            same, score = run.same.to_numpy().astype(bool), run.probability.to_numpy()
            wrong, right, _ = roc_curve(same, score)
            axis.plot(100 * wrong, 100 * right, color=COLOURS[system], alpha=0.25, lw=1)
            curves.append(np.interp(grid, wrong, right))
            errors.append(equal_error_rate(score, same))
        mean, error = np.mean(curves, axis=0), float(np.mean(errors))
        axis.plot(100 * grid, 100 * mean, color=COLOURS[system])
        axis.plot(error, 100 - error, "o", color=COLOURS[system], ms=8)
        axis.text(
            97,
            24 - 8 * number,
            f"{NAMES[system]}: {error:.1f}",
            ha="right",
            color=COLOURS[system],
            fontweight="bold",
            bbox=_ON_WHITE,
        )
        told.append(f"{NAMES[system]} {error:.1f} percent")
    axis.plot([0, 100], [100, 0], ls=":", color=plotting.GREY, lw=1)
    axis.plot([0, 100], [0, 100], ls="--", color=plotting.GREY, lw=1)
    axis.set(
        xlabel="different people called the same (%)",
        ylabel="same people called the same (%)",
        xlim=(0, 100),
        ylim=(0, 101),
        title="ROC on the test pairs; points: equal error rate (%)",
    )
    axis.set_aspect("equal")
    figure.tight_layout()
    alt = f"ROC curves on LFW's test pairs, a thin line a seed. Mean equal error rates: {'; '.join(told)}."
    return Illustration(figure, "07_roc", alt)


def accuracy_figure(table: pd.DataFrame | None = None) -> Illustration:
    """Test accuracy of every system and seed with its 95% interval, beside what the assignment reports.

    Args:
        table: of the study, which is read if it is left out.
    """
    table = FACES.table() if table is None else table
    rows = table[table.metric == "acc_test"]
    figure, axis = plt.subplots(figsize=(8.5, 3.4))
    systems = [name for name in COLOURS if name in set(rows.system)]
    told = []
    for place, system in enumerate(reversed(systems)):
        part = rows[rows.system == system].sort_values("seed")
        offsets = np.linspace(-0.25, 0.25, len(part)) if len(part) > 1 else np.zeros(1)
        axis.errorbar(part.value, place + offsets, xerr=part.ci95, fmt="o", ms=5, capsize=2, color=COLOURS[system])
        mean = f"{'mean ' if len(part) > 1 else ''}{part.value.mean():.1f}"
        axis.annotate(
            mean,
            (part.value.mean(), place + 0.36),
            ha="center",
            va="bottom",
            color=COLOURS[system],
            fontweight="bold",
            bbox=_ON_WHITE,
        )
        runs = f"{len(part)} {'seeds' if len(part) > 1 else 'seed'}"
        told.append(f"{NAMES[system]} {part.value.mean():.1f} percent over {runs}")
    published = PUBLISHED_ACCURACY["test"]
    axis.axvline(published, ls="--", color=plotting.GREY)
    axis.annotate(
        f"the assignment's report: {published}",
        (published, -0.45),
        (4, 0),
        textcoords="offset points",
        color=plotting.GREY,
        fontweight="bold",
        va="center",
    )
    axis.set_yticks(range(len(systems)), [NAMES[system] for system in reversed(systems)])
    axis.set(xlabel="test pairs called right (%)", ylim=(-0.6, len(systems) - 0.25))
    axis.grid(axis="y", visible=False)
    figure.tight_layout()
    alt = (
        "Test accuracy by system, a point a seed with its 95 percent interval over pairs: "
        + "; ".join(told)
        + f". The assignment reports {published} percent."
    )
    return Illustration(figure, "07_accuracy", alt)


def extreme_pairs(probability: Sequence[float] | NDArray[np.float64], same: torch.Tensor) -> dict[str, int]:
    """The best and the worst answers: positions of four pairs.

    Keys: ``"same, right"`` (highest probability), ``"different, right"`` (lowest), ``"same, wrong"`` (lowest) and
    ``"different, wrong"`` (highest).

    Raises:
        SamplingError: no same or no different pair.
    """
    values, flags = np.asarray(probability, dtype=float), same.numpy()
    if flags.all() or not flags.any():
        raise SamplingError("The best and worst answers need both same and different pairs; give pairs of both kinds.")
    kinds = {"same": np.flatnonzero(flags), "different": np.flatnonzero(~flags)}
    return {
        f"{kind}, {answer}": int(rows[(np.argmax if high else np.argmin)(values[rows])])
        for kind, rows in kinds.items()
        for answer, high in (("right", kind == "same"), ("wrong", kind == "different"))
    }


def extremes_figure(faces: FaceSet, probability: Sequence[float] | NDArray[np.float64]) -> Illustration:
    """The best and worst right and wrong answers with their photographs, names and probabilities.

    Args:
        faces: the test set.
        probability: of "same", one a pair, in the set's order.
    """
    chosen = extreme_pairs(probability, faces.pairs.same)
    figure, axes = plt.subplots(2, 4, figsize=(11, 6), gridspec_kw={"wspace": 0.08, "hspace": 0.5})
    told = []
    order = (("same, right", "same, wrong"), ("different, right", "different, wrong"))
    for row, kinds in enumerate(order):
        for half, kind in enumerate(kinds):
            pair = chosen[kind]
            photos = [int(faces.pairs.first[pair]), int(faces.pairs.second[pair])]
            colour = plotting.BLUE if kind.endswith("right") else plotting.RED
            cells = axes[row, 2 * half : 2 * half + 2]
            plotting.show_images(faces.images[photos], cells, [faces.title(p) for p in photos], [colour] * 2)
            value = float(np.asarray(probability, dtype=float)[pair])
            cells[0].text(
                0,
                1.14,
                f"{kind}: P(same) = {value:.2g}",
                transform=cells[0].transAxes,
                color=colour,
                fontsize=10,
                fontweight="bold",
            )
            told.append(f"{kind}, probability {value:.2g}: {' and '.join(faces.title(photo) for photo in photos)}")
    alt = "Four pairs of test photographs, the surest right and wrong answers. " + "; ".join(told) + "."
    return Illustration(figure, "07_extremes", alt)


def calibration_figure(pairs: pd.DataFrame | None = None, system: str = "embedding", bins: int = 10) -> Illustration:
    """How often test pairs are the same against the probability that a system gives them, over all its seeds.

    Args:
        pairs: see ``findings.stored_pairs``, which are read if they are left out.
        system: which one.
        bins: groups of equally many pairs.
    """
    pairs = stored_pairs() if pairs is None else pairs
    part = pairs[pairs.system == system].sort_values("probability")
    if len(part) < bins:
        raise SamplingError(f"There are {len(part)} probabilities of {system!r}, too few for {bins} groups; train it.")
    groups = np.array_split(np.arange(len(part)), bins)
    told = np.array([part.probability.to_numpy()[rows].mean() for rows in groups])
    found = np.array([part.same.to_numpy()[rows].mean() for rows in groups])
    half = 1.96 * np.sqrt(found * (1 - found) / (len(part) / part.seed.nunique() / bins))
    figure, axis = plt.subplots(figsize=(5, 4.6))
    axis.plot([0, 100], [0, 100], ls="--", color=plotting.GREY)
    axis.errorbar(100 * told, 100 * found, 100 * half, fmt="o", color=COLOURS[system], capsize=3)
    axis.set(xlabel="probability given (%)", ylabel="pairs that are the same (%)", title="Probability against truth")
    figure.tight_layout()
    alt = (
        f"Share of test pairs that are the same against the probability given, in {bins} groups. The largest gap is "
        f"{100 * np.abs(told - found).max():.0f} percentage points."
    )
    return Illustration(figure, "07_calibration", alt)
