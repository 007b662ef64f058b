"""Objectives compared, and how sensitive triplet training is to its rate and its margin.

One encoder, the same images and the same number of steps throughout. The trials "cosine" (all triplets, a soft margin),
"cosine-margin" (semi-hard triplets) and "recipe" of the study ``distances`` belong to the comparison and are not run
again.
"""

from __future__ import annotations

import dataclasses

from siamese_utils.studies.networks.study import ALL_TRIPLETS, NARROW, compared, narrow
from siamese_utils.studies.validation import validation_study
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

_RANDOM, _HARD, _SEMI_HARD = (Term("triplet", mining=mining) for mining in ("random", "batch_hard", "semi_hard"))
_FAR = {"distance": "euclidean", "margin": 1.0}

OBJECTIVES = validation_study(
    "objectives",
    "Which objective teaches a network to recognise what it never saw?",
    [
        compared(
            "random",
            narrow(_RANDOM),
            "Ten points below all triplets of the batch: one negative an anchor, and most of them easy.",
        ),
        compared(
            "random-euclidean", narrow(dataclasses.replace(_RANDOM, **_FAR)), "Level with random triplets by cosine."
        ),
        compared(
            "batch-hard",
            narrow(_HARD),
            "Collapses in the first steps and stays there, or comes out late and below the semi-hard ones.",
        ),
        compared(
            "batch-hard-soft",
            narrow(dataclasses.replace(_HARD, temperature=0.1)),
            "Does not collapse, as the soft margin never goes silent; a little below all triplets.",
        ),
        compared(
            "batch-hard-euclidean",
            narrow(dataclasses.replace(_HARD, **_FAR)),
            "Collapses more easily than by cosine: lengths can shrink as well.",
        ),
        compared(
            "contrastive",
            narrow(Term("contrastive")),
            "Below the triplets: one margin for all pairs, however alike two classes are.",
        ),
        compared("contrastive-euclidean", narrow(Term("contrastive", **_FAR)), "Level with its cosine sister."),
        compared(
            "pair-bce",
            narrow(Term("pair_bce")),
            "Like contrastive pairs: the head learns a threshold instead of being given a margin.",
        ),
        compared(
            "supcon",
            narrow(Term("supcon")),
            "The best of those without proxies: each image is compared with the whole batch at once.",
        ),
        compared("proxy", narrow(Term("proxy")), "Level with the recipe, within a point."),
        compared(
            "proxy-then-triplets",
            narrow(Term("proxy", end=0.6), dataclasses.replace(ALL_TRIPLETS, begin=0.6)),
            "A point below the recipe: the triplets take over what the proxies built, and lose some of it.",
        ),
        compared("proxy-and-supcon", narrow(Term("proxy"), Term("supcon", weight=0.5)), "Level with the recipe."),
    ],
)

# One margin or rate changed, triplets alone. "-rate-x0.1" is a tenth of both rates of the recipe.
_RATES = (0.1, 0.3, 3.0, 10.0)


def _at_rate(factor: float, term: Term) -> TrainConfig:
    rates = {name: round(factor * getattr(NARROW, name), 6) for name in ("muon_rate", "learning_rate")}
    return dataclasses.replace(narrow(term), **rates)


_RATE_EXPECTED = {
    ("semi-hard", 0.1): "Several points less: too slow for so short a training.",
    ("semi-hard", 0.3): "A point or two less.",
    ("semi-hard", 3.0): "A point or two less, without a collapse.",
    ("semi-hard", 10.0): "Falls apart: near the accuracy of random weights, or the collapse is noticed.",
    ("batch-hard", 0.1): "No collapse: gentle steps give the hard triplets time; the best rate for them.",
    ("batch-hard", 0.3): "No collapse, or a late one.",
    ("batch-hard", 3.0): "Collapses.",
    ("batch-hard", 10.0): "Collapses.",
}
_MARGIN_EXPECTED = {
    0.05: "A few points less: satisfied early, and then silent.",
    0.1: "A point less.",
    0.4: "A point more: with wider margins more triplets teach.",
    0.8: "Level with 0.2: few pairs of classes can be so far apart, so it never goes silent.",
}
TRIPLET_SENSITIVITY = validation_study(
    "triplet_sensitivity",
    "How much do rate and margin matter to triplets?",
    [
        *(
            compared(f"{mining}-rate-x{factor:g}", _at_rate(factor, term), _RATE_EXPECTED[mining, factor])
            for mining, term in (("semi-hard", _SEMI_HARD), ("batch-hard", _HARD))
            for factor in _RATES
        ),
        *(
            compared(f"margin-{margin:g}", narrow(dataclasses.replace(_SEMI_HARD, margin=margin)), text)
            for margin, text in _MARGIN_EXPECTED.items()
        ),
    ],
)
