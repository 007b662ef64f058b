"""What would let five examples tell more: a table and a sentence.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from siamese_utils.errors import ResultsError
from siamese_utils.experiments.findings import Table
from siamese_utils.studies.ensembles.five_shots import FIVE_SHOTS, TRIALS
from siamese_utils.studies.ensembles.half_hour import ALONE
from siamese_utils.studies.ensembles.half_hour_findings import accuracies, gains, half_hour_table

_NAMES = {ALONE: "muon-manifold-short", **{name: trial.what for name, trial in TRIALS.items()}}


def five_shots_table() -> Table:
    """One row a network that is stored: what its training took and came to, and accuracy on the validation classes."""
    frame = half_hour_table(FIVE_SHOTS, _NAMES)
    caption = (
        "CIFAR-FS: accuracy on the validation classes in percent, 95% intervals over episodes. Images in millions; "
        "the processor is not always as fast. Told right: percent of the training images as they were shown in the "
        "last epoch, by class and by turn"
    )
    return Table(frame, caption)


def five_shots_sentence() -> str:
    """What each change brings, against the network by the recipe that starts from the same seed; Markdown."""
    values = accuracies(FIVE_SHOTS)
    told = gains(values, ALONE, {name: f"{trial.what}:" for name, trial in TRIALS.items()})
    if not told:
        raise ResultsError("Nothing to compare is stored yet; run `python -m siamese_utils study five_shots`.")
    return f"Points at one shot and at five: **{'; '.join(told)}**."
