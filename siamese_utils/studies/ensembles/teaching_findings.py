"""What the four long networks of CIFAR-FS teach another: a table and a sentence.

What is not stored yet raises ResultsError.
"""

from __future__ import annotations

from siamese_utils.errors import ResultsError
from siamese_utils.experiments.findings import Table
from siamese_utils.studies.ensembles.half_hour import ALONE
from siamese_utils.studies.ensembles.half_hour_findings import accuracies, gains, half_hour_table
from siamese_utils.studies.ensembles.teaching import TEACHERS, TEACHING, TRIALS

_NAMES = {
    TEACHERS: "the four teachers together",
    ALONE: "half an hour of one core, not taught",
    **{name: f"the same, {trial.what}" for name, trial in TRIALS.items()},
}


def teaching_table() -> Table:
    """One row a network that is stored: what its training took and came to, and accuracy on the validation classes."""
    caption = (
        "CIFAR-FS: accuracy on the validation classes in percent, 95% intervals over episodes. Images in millions; "
        "core-minutes of a taught network are its own, without its teachers', on a processor that is not always as "
        "fast. Told right: percent of the training images as they were shown in the last epoch, by class and by turn"
    )
    return Table(half_hour_table(TEACHING, _NAMES), caption)


def teaching_sentence() -> str:
    """What the lesson brings, against the network that is not taught and starts from the same seed; Markdown."""
    values = accuracies(TEACHING)
    if not {TEACHERS, ALONE} <= set(values.index.unique("trial")):
        raise ResultsError("Nothing to compare with is stored yet; run `python -m siamese_utils study teaching`.")
    told = gains(values, ALONE, {name: trial.what.removeprefix("taught ") + ":" for name, trial in TRIALS.items()})
    ahead = (values.loc[TEACHERS].iloc[0] - values.loc[ALONE]).mean()
    lead = (
        f"The teachers are {ahead.acc_5w1s:.1f} points ahead of the network that is not taught at one shot and "
        f"{ahead.acc_5w5s:.1f} at five."
    )
    return f"{lead} Points that the lesson brings: **{'; '.join(told)}**." if told else lead
