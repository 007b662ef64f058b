"""The search for a quick recipe: what learns most from so few images that a training takes half a minute?

The recipe of the report was chosen by trials of minutes and used for trainings of many. For a first answer, or for own
images, less must do. Each trial is a whole training of equally many images.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from siamese_utils.studies.networks.study import compared
from siamese_utils.studies.validation import Trial, validation_study
from siamese_utils.training.losses import Term
from siamese_utils.training.recipes import DEFAULT_RECIPE, TURNING_STEPS, recipe

IMAGES = 51_200
BASE = dataclasses.replace(recipe(DEFAULT_RECIPE), epochs=1, least_images=IMAGES, most_images=IMAGES)
# Rates of steps that turn kernels: the published one of batches of 2,000 images, by the root of the batch's size.
TURNING: dict[str, Any] = {**TURNING_STEPS, "muon_rate": 0.09}


def _turning(name: str, expectation: str, **changes: Any) -> Trial:
    return compared(name, dataclasses.replace(BASE, **(TURNING | changes)), expectation)


QUICK_SEARCH = validation_study(
    "quick_search",
    "Which recipe learns most from 51,200 images?",
    [
        compared("quick", BASE, "The recipe as it is, in whole trainings of this length: the measure."),
        compared(
            "quick-no-warmup",
            dataclasses.replace(BASE, warmup=0.0),
            "Half a point better: a fifth of the images is spent on rising rates.",
        ),
        _turning("turning", "Three points better: on CIFAR-10 these steps learn fastest at the beginning."),
        _turning("turning-quick-biases", "Half a point more, as little as on CIFAR-10.", learning_rate=1e-2),
        _turning("turning-larger-steps", "Level: the rate is forgiving.", muon_rate=0.15),
        # Thought of after the first seed of the others: its larger steps were worth more than any other change.
        _turning("turning-largest-steps", "Level with the larger steps: there must be an end to it.", muon_rate=0.25),
        _turning(
            "turning-larger-steps-quick-biases",
            "The sum of both, half a point more than the larger steps.",
            muon_rate=0.15,
            learning_rate=1e-2,
        ),
        _turning(
            "turning-small-batches",
            "A point better: twice as many steps, and few there are.",
            batch_size=128,
            muon_rate=0.065,
        ),
        _turning("turning-proxies", "Level, as in the recipe's own search.", terms=(Term("proxy"),)),
        # For classes that are learned, a linear layer turned out to be far better than proxies (notebook 09).
        _turning(
            "turning-linear",
            "Worse: it is judged by cosines, and proxies learn by them.",
            muon_rate=0.25,
            terms=(Term("linear", scale=1 / 9, smoothing=0.2), *BASE.terms[1:]),
        ),
        _turning(
            "turning-small-images",
            "A point worse for a fifth less time: the last quarter at full size is where details are learned.",
            resolutions=((0.0, 16), (0.5, 24)),
        ),
    ],
)
