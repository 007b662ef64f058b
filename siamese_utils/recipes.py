"""Named, frozen training configurations. A number in ``results/`` always names the recipe it came from."""

from __future__ import annotations

from siamese_utils.errors import unknown
from siamese_utils.losses import Term
from siamese_utils.training import TrainConfig

RECIPES: dict[str, TrainConfig] = {
    config.recipe: config
    for config in (
        # Chosen by the trials of the study ``recipe_search``.
        TrainConfig(
            recipe="muon-proxy-triplet",
            terms=(
                Term("proxy"),
                Term("triplet", weight=0.5, mining="batch_all", temperature=0.1),
            ),
            optimizer="muon",
            muon_rate=0.05,
            epochs=13,
            least_images=130_000,
            resolutions=((0.0, 16), (0.3, 24), (0.75, 32)),
        ),
        # For machines without data and for quick checks: seconds on the synthetic set.
        TrainConfig(
            recipe="smoke",
            encoder="resnet9-16",
            terms=(
                Term("proxy"),
                Term("triplet", weight=0.5, mining="batch_all", temperature=0.1),
            ),
            epochs=3,
            batch_size=128,
            learning_rate=4e-3,
            resolutions=((0.0, 24),),
            held_out_images=10,
        ),
    )
}
DEFAULT_RECIPE = "muon-proxy-triplet"


def recipe(name: str) -> TrainConfig:
    """Look up a recipe.

    Raises:
        UnknownNameError: no such recipe.
    """
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES)
    return RECIPES[name]
