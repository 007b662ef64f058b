"""What checks of folders have found among photographs. What is not stored yet raises ResultsError."""

from __future__ import annotations

import pandas as pd

from siamese_utils.experiments import store
from siamese_utils.experiments.findings import Table
from siamese_utils.studies.own_images.checks import COPIED, COPIES, EXAMPLES, FOLDER_CHECKS


def _told(metric: str, examples: int, half: str = "reporting") -> str:
    row = store.result(FOLDER_CHECKS.table(), half=half, examples=examples, metric=metric)
    return f"{row.value:.1f} ± {row.ci95:.1f}"


def wrong_labels_table() -> Table:
    """One row a number of examples: how many wrong labels are named, and how many of those named are wrong."""
    rows = []
    for examples in EXAMPLES:
        row = {"examples a class": str(examples)}
        row["wrong labels that are named"] = _told("wrong_recall", examples)
        row["of those named, wrong"] = _told("wrong_precision", examples)
        left = examples < max(EXAMPLES)  # or there are no other images to compare with
        row["accuracy by itself minus that on others"] = _told("too_high", examples) if left else "–"
        row["the same, one image left out at a time"] = _told("too_high_alone", examples) if left else "–"
        row["folders where chance explains the first"] = _told("covered", examples) if left else "–"
        rows.append(row)
    return Table(
        pd.DataFrame(rows),
        "A check of folders of photographs with 5% of labels planted wrong, classes of the reporting half: "
        "percent and points, with 95% intervals; the threshold was chosen on some of these classes and others",
        1,
    )


def doubles_table() -> Table:
    """One row a kind of double: how many of those planted are found."""
    found = {kind: _told(f"doubles_{kind.replace(' ', '_')}", max(EXAMPLES)) for kind in COPIES}
    return Table(
        pd.DataFrame({"double": [*found], "found": [*found.values()]}),
        f"Of {COPIED} doubles of each kind that were planted among photographs, percent found, with 95% "
        "intervals; the threshold was chosen with a look at all classes",
        1,
    )
