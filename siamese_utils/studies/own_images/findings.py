"""What the study of own images has found. What is not stored yet raises ResultsError."""

from __future__ import annotations

import pandas as pd

from siamese_utils.encoders.named import PHOTOS
from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.studies.own_images.study import HALVES, LONGER, OWN_IMAGES, SHOTS, STEPS


def value(step: str, metric: str, ways: int = 5, shots: int = 1, half: str = "reporting") -> pd.Series:
    """A stored row.

    Raises:
        ResultsError: it is not stored.
    """
    return store.result(OWN_IMAGES.table(), step=step, half=half, ways=ways, shots=shots, metric=metric)


def _told(row: pd.Series) -> str:
    return f"{row.value:.1f} ± {row.ci95:.1f}"


def steps_table(half: str = "reporting") -> Table:
    """One row a step: accuracy by examples a class, five classes at a time and all of a half at once."""
    rows = []
    for step, told in STEPS.items():
        row = {"step": told}
        for ways, shots in ((5, 1), (5, 2), (5, 5), (5, 10), (0, 1), (0, 5)):
            row[f"{ways or 'all'} classes, {shots}"] = _told(value(step, "acc", ways, shots, half))
        rows.append(row)
    return Table(
        pd.DataFrame(rows),
        f"Photographs of the {half} half of the classes: accuracy in percent by classes and examples of each, with 95% "
        "intervals over episodes; each step of EfficientNet-Lite0 with those before it",
        1,
    )


def unknown_table() -> Table:
    """One row a number of examples: how well unknown images are told, and how well probabilities are calibrated."""
    rows = [
        {
            "examples a class": shots,
            "AUROC": _told(value("head", "auroc", shots=shots)),
            "known, called unknown": _told(value("head", "refused", shots=shots)),
            "unknown, taken for a class": _told(value("head", "accepted", shots=shots)),
            "calibration error": value("head", "ece", shots=shots).value,
        }
        for shots in SHOTS
    ]
    return Table(
        pd.DataFrame(rows),
        "Five classes of the reporting half against photographs of none of them, percent, with 95% intervals over "
        "episodes; thresholds and probabilities come from the support alone",
        1,
    )


def accuracy_sentence() -> str:
    """What the best way gains over plain features and over the report's networks; Markdown."""
    one, five = value("head", "acc"), value("head", "acc", shots=5)
    plain = value("plain", "acc"), value("plain", "acc", shots=5)
    own, longer = ([value(step, "acc", shots=shots) for shots in (1, 5)] for step in ("report", "photos"))
    return (
        f"Of five classes of photographs, **{_told(one)}** percent are recognised from one example each and "
        f"**{_told(five)}** from five; plain features of the same network give {_told(plain[0])} and "
        f"{_told(plain[1])}, the report's network of 90-10 {_told(own[0])} and {_told(own[1])}, and its own for "
        f"photographs, `{PHOTOS}`, {_told(longer[0])} and {_told(longer[1])}."
    )


def readme_text() -> str:
    """A row an encoder for the README, and what it says of images of none of the classes; Markdown."""
    rows = {
        "report": "`90-10`, the network of the table above",
        "photos": f"`{PHOTOS}`, the same classes learned for an hour, features of two stages",
        "plain": "EfficientNet-Lite0, plain cosine",
        "head": "EfficientNet-Lite0, as `OneShotClassifier` asks it",
    }
    lines = ["| percent on photographs, from few examples | 1 of 5, from 1 | 1 of 5, from 5 | 1 of 15, from 1 |"]
    lines.append("|---|---|---|---|")
    for step, label in rows.items():
        cells = (value(step, "acc", ways, shots) for ways, shots in ((5, 1), (5, 5), (0, 1)))
        lines.append(f"| {label} | {' | '.join(map(_told, cells))} |")
    own, best = (_told(value(step, "auroc", shots=5)) for step in ("photos", "head"))
    lines += [
        "",
        "With 95% intervals over episodes. With five examples a class, EfficientNet-Lite0 tells photographs of none of "
        f"the classes from them with an AUROC of {best}, `{PHOTOS}` with {own} (50 is chance).",
    ]
    return "\n".join(lines)


def own_sentence() -> str:
    """What a longer training and two depths bring the report's own network on photographs, on either half; Markdown."""
    told = []
    for half in HALVES:
        reached = []
        for step, by in (("report", "by the recipe"), ("longer", f"by `{LONGER}`"), ("photos", "at two depths")):
            one, five = (value(step, "acc", shots=shots, half=half).value for shots in (1, 5))
            unknown = value(step, "auroc", shots=5, half=half).value
            reached.append(f"{one:.1f}, {five:.1f} and {unknown:.1f} {by}")
        told.append(f"on the {half} half {'; '.join(reached)}")
    return (
        "Networks that know CIFAR-100 alone: accuracy with one example and with five, and AUROC against photographs of "
        f"none of the classes with five, percent. {'. '.join(text[0].upper() + text[1:] for text in told)}."
    )


def unknown_sentence() -> str:
    """How well unknown images are told with five examples a class; Markdown."""
    auroc, refused, accepted = (value("head", name, shots=5) for name in ("auroc", "refused", "accepted"))
    return (
        f"With five examples a class, the AUROC of known against unknown photographs is **{_told(auroc)}**; at the "
        f"threshold that the support gives, {_told(refused)} percent of the known are called unknown, and "
        f"{_told(accepted)} percent of the unknown are taken for one of the classes."
    )


def calibration_sentence() -> str:
    """How far probabilities are from the shares that are right; Markdown."""
    one, five = value("head", "ece"), value("head", "ece", shots=5)
    return (
        f"On average, the probability of an answer differs from the share that is right by **{one.value:.1f}** points "
        f"with one example a class and by {five.value:.1f} with five."
    )


def reliability(shots: int, step: str = "head", ways: int = 5) -> pd.DataFrame:
    """Answers of the reporting half by their probability: ``probability``, ``right`` (percent) and ``count``.

    Raises:
        ResultsError: they are not stored.
    """
    path = OWN_IMAGES.path.with_name("own_images_reliability.csv")
    table = store.read_table(path, key=OWN_IMAGES.key)
    chosen = (table.step == step) & (table.half == "reporting") & (table.ways == ways) & (table.shots == shots)
    return table[chosen].sort_values("bin")
