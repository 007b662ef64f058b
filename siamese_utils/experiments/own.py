"""Which runs may be stored among the published results, and which go to a folder of the user's own.

Published are the runs that a study plans by itself. What the report stands on is replaced only when told to: a run that
the study does not plan, and one in whose place something is stored already, go to the user's folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from siamese_utils.errors import ConfigError
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Run, Study, stored
from siamese_utils.system import project
from siamese_utils.system.text import say

Home = tuple[Path | None, list[Run]]
"""A folder, or ``None`` for that of the published results, and the runs that are stored there."""


def homes(study: Study, choose: Callable[[], Sequence[Run]], publish: bool = False, anew: bool = False) -> list[Home]:
    """Where each run is stored.

    Args:
        study: of the runs.
        choose: gives the runs; asked again for those of the user's own, which rest on files in his folder.
        publish: store all among the published results, whatever is there.
        anew: carry out all in the user's folder, also what is published, to see whether it comes out again.

    Returns:
        The folders with at least one run each; ``project.at`` leads there.

    Raises:
        ConfigError: ``publish`` without a checkout of the project, or together with ``anew``.
        ResultsError: a stored table is damaged.
    """
    if publish and anew:
        raise ConfigError(
            "--anew carries out in a folder of your own what is published already, and --publish stores among what is "
            "published; choose one, or --publish --again to replace what is published."
        )
    runs, folder = list(choose()), project.own_folder()
    if publish:
        project.checkout("--publish")
        return [(None, runs)]
    planned = {run.label: run.plain() for run in study.runs()}
    own = {run.label for run in runs if anew or not _is_published(study, run, planned.get(run.label))}
    with project.at(folder):
        of_ones_own = [run for run in choose() if run.label in own]
    found: list[Home] = [(None, [run for run in runs if run.label not in own]), (folder, of_ones_own)]
    return [(home, runs) for home, runs in found if runs]


def _is_published(study: Study, run: Run, planned: dict | None) -> bool:
    """Whether a run is stored among the published results, or may be since its place there is empty."""
    state = stored(study, run)
    if state == "yes":
        return True
    empty = state == "no" and not store.has_rows(study.path, run.key, study.all_columns)
    return empty and run.plain() == planned and project.is_checkout()


def tell_place(home: Path | None, path: Path) -> None:
    """Say where something of the user's own is stored; on the error stream, since it is no part of the answer."""
    if home is not None:
        say(f"Stored in {path}; the results of the report stay as they are.", err=True)
