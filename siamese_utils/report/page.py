"""What every notebook starts with: the profile, the data, the encoder, and a place to show findings.

The profile comes from the environment variable ``SIAMESE_PROFILE``:

========  ==========================================================================================
smoke     the synthetic set and a small encoder trained on it: checks that every cell runs
report    the default: CIFAR-100 and the stored checkpoints and results; nothing is retrained
full      the same, and what is not stored yet is trained and stored, which may take hours
anew      what the notebook's studies make is trained again, which takes hours, stored in the user's own folder
          (``siamese_runs``) and shown in place of what is published; after a kill it goes on
========  ==========================================================================================
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import HTML, Image, Markdown, display

from siamese_utils.data.images import ImageSet
from siamese_utils.data.load import SyntheticDataWarning, load_images
from siamese_utils.data.sources import MissingDataError, cache_folder, flag
from siamese_utils.data.splits import ClassSplit, class_split
from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import CheckpointError, ResultsError, unknown
from siamese_utils.evaluation.protocol import SplitEvaluation
from siamese_utils.experiments import plotting
from siamese_utils.experiments import store as results
from siamese_utils.experiments.findings import Finding, Illustration, Shown, Table
from siamese_utils.experiments.study import Bench, run_study
from siamese_utils.report import IN_PLACE, PROFILES, RETRAINING
from siamese_utils.studies.splits.study import SPLIT_SWEEP, checkpoint_path, evaluate_encoder, split_run
from siamese_utils.system import project
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.loop import train
from siamese_utils.training.recipes import recipe

if TYPE_CHECKING:
    from siamese_utils.data.faces import FaceSet, PairList


@dataclass(eq=False)
class Page:
    """The profile, the data and the encoder of one notebook; shows findings.

    Attributes:
        profile: ``smoke``, ``report``, ``full`` or ``anew``.
        train_set: training images.
        test_set: test images.
        split: seen and unseen classes.
    """

    profile: str
    train_set: ImageSet
    test_set: ImageSet
    split: ClassSplit
    _missing: set[str] = field(default_factory=set, repr=False)

    @property
    def is_synthetic(self) -> bool:
        """Whether the images are the synthetic stand-in rather than CIFAR-100."""
        return self.test_set.is_synthetic

    @property
    def full(self) -> bool:
        """Whether what is not stored yet is to be computed here, which takes hours, from real data.

        So in the profile ``full``, and in ``anew``, where nothing that is published counts as stored.
        """
        return self.profile in RETRAINING and not self.is_synthetic

    @property
    def run_name(self) -> str:
        """Name under which the split's run is stored."""
        return f"cifar100-{self.split.name}-draw{self.split.draw}"

    @property
    def figures(self) -> Path:
        """Where figures go: to ``figures/``, which git follows, only where outputs are stored in the notebooks.

        Those of synthetic data never take the place of real ones.
        """
        kept = "figures" if flag(IN_PLACE) and not project.is_anew() else "build/figures"
        return project.published_root() / ("build/synthetic-figures" if self.is_synthetic else kept)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the split: stored, or trained if it is not (see ``full``); small for synthetic data."""
        if self.is_synthetic:
            return load_encoder(self._synthetic_checkpoint())
        if self.full:
            run = split_run(self.split.name, self.split.draw, num_classes=self.train_set.num_classes)
            for _ in run_study(SPLIT_SWEEP, [run], Bench.of(self.train_set, self.test_set)):
                pass
        return load_encoder(checkpoint_path(self.split.name, self.split.draw))

    @cached_property
    def config(self) -> TrainConfig:
        """The configuration that ``encoder`` was trained with."""
        if self.is_synthetic:
            return recipe("smoke")
        path = project.shown(checkpoint_path(self.split.name, self.split.draw))
        if not path.is_file():
            _ = self.encoder
        return TrainConfig.from_json(checkpoint_info(path)["config"])

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row an epoch of the training of ``encoder``."""
        _ = self.encoder
        if self.is_synthetic:
            return pd.DataFrame(checkpoint_info(self._synthetic_checkpoint())["history"])
        return pd.DataFrame(results.load_json(self.run_name)["history"])

    @cached_property
    def evaluation(self) -> SplitEvaluation:
        """Every metric of the protocol, computed here and now for ``encoder``."""
        return evaluate_encoder(
            self.encoder, self.config, self.train_set, self.test_set, self.split.name, self.split.draw
        )

    def _synthetic_checkpoint(self) -> Path:
        """A small encoder for the synthetic set, trained once (under a minute) and then kept in the cache."""
        config = recipe("smoke")
        digest = hashlib.blake2b(json.dumps(config.to_json(), sort_keys=True).encode(), digest_size=6)
        digest.update(np.asarray(self.split.seen).tobytes())
        digest.update(self.train_set.images.numpy())  # another version may draw other images
        name = f"synthetic-{self.split.name}-{digest.hexdigest()}.safetensors"
        cache = cache_folder()
        # The second is for a cache that cannot be written.
        places = [folder / name for folder in (cache, Path(_for_this_process().name)) if folder is not None]
        for path in places:
            with contextlib.suppress(CheckpointError):  # missing, or damaged by a full disk
                load_encoder(path)
                return path
        trained = train(config, self.train_set, self.split.seen, device="cpu", progress=False)
        info = {"history": trained.history.to_dict(orient="records")}
        try:
            save_encoder(trained.encoder, places[0], info)
        except CheckpointError:
            save_encoder(trained.encoder, places[-1], info)
            return places[-1]
        return places[0]

    def show(self, finding: Finding | Shown | Sequence[Shown], *args: Any, **kwargs: Any) -> None:
        """Display a finding; where its numbers are not stored yet, say once on this page how to make them.

        Args:
            finding: a function that makes it, or what such a function returns.
            args: for the function.
            kwargs: for the function.

        Raises:
            ConfigError: a figure without an alternative text.
        """
        drawn = set(plt.get_fignums())
        try:
            found = finding(*args, **kwargs) if callable(finding) else finding
        except ResultsError as error:
            for number in set(plt.get_fignums()) - drawn:  # begun before its numbers were found missing
                plt.close(number)
            if str(error) not in self._missing:
                self._missing.add(str(error))
                display(Markdown(f"*Not stored yet.* {error}"))
            return
        for thing in [found] if isinstance(found, Illustration | Table | str) else found:
            if isinstance(thing, Illustration):
                self._show_illustration(thing)
            elif isinstance(thing, Table):
                _show_table(thing)
            else:
                display(Markdown(thing))

    def show_source(self, *functions: Callable[..., Any]) -> None:
        """Display the code of functions as it runs, highlighted."""
        for function in functions:
            display(Markdown(f"```python\n{inspect.getsource(function).rstrip()}\n```"))

    def _show_illustration(self, shown: Illustration) -> None:
        """Save a figure under its name (SVG, PNG, alternative text) and display it."""
        png = plotting.save_figure(shown.figure, shown.name, shown.alt, self.figures)
        display(Image(data=png, format="png", alt=" ".join(shown.alt.split())))


@lru_cache(maxsize=1)
def _for_this_process() -> tempfile.TemporaryDirectory[str]:
    """A folder that goes when the process ends."""
    return tempfile.TemporaryDirectory(prefix="siamese-")


def _show_table(shown: Table) -> None:
    """Display a table with its caption; the stored output is the same from run to run."""
    numbers = f"{{:.{shown.decimals}f}}".format
    html = shown.frame.to_html(index=False, border=0, na_rep="–", float_format=numbers)
    head, rest = html.split(">", 1)
    display(HTML(f"{head}><caption>{escape(shown.caption)}</caption>{rest}"))


def _profile() -> str:
    profile = os.environ.get("SIAMESE_PROFILE") or "report"
    if profile not in PROFILES:
        raise unknown("SIAMESE_PROFILE", profile, PROFILES)
    return profile


def _page(profile: str, train_set: ImageSet, test_set: ImageSet, split: ClassSplit) -> Page:
    """The page; in the profile ``anew``, results are from now on those of the user's own folder, where they are."""
    page = Page(profile, train_set, test_set, split)
    if page.full and profile == "anew":
        project.move_to(project.own_folder())
    elif project.is_anew():  # an earlier page of this kernel
        project.move_to(None)
    return page


def _profile_told(profile: str) -> str:
    """What the banner says of the profile, before the data."""
    if profile != "anew":
        return f"Profile <code>{escape(profile)}</code>:"
    folder = escape(str(project.own_folder()))
    return (
        "Profile <code>anew</code>: what the studies of this page make is trained again, which takes hours, kept in "
        f"<code>{folder}</code> and shown in place of what is published. The text tells of what is published."
    )


def start(split: str = "90-10", draw: int = 0, about: str = "CIFAR-100") -> Page:
    """Begin a notebook: choose the profile, load the data, set the look, and say what is used.

    Args:
        split: the class split whose encoder the notebook looks at.
        draw: class draw.
        about: the data that the page's tables and figures are about.

    Raises:
        UnknownNameError: ``SIAMESE_PROFILE`` names no profile.
        DataError: a data set was found and is damaged.
    """
    profile = _profile()
    if profile == "smoke":
        os.environ["SIAMESE_SYNTHETIC"] = "1"
    plotting.set_style()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntheticDataWarning)  # the banner says it better
        train_set, test_set = load_images("train"), load_images("test")
    page = _page(profile, train_set, test_set, class_split(split, draw, train_set.num_classes))
    text = (
        "CIFAR-100 is not in use here, so the live cells below show drawn shapes and a small encoder trained on them "
        "within a minute. Their numbers say nothing about CIFAR-100. Tables that are read from <code>results/</code> "
        f"are about {escape(about)} and say so."
    )
    source = test_set.name
    if not page.is_synthetic:
        text = f"{_profile_told(profile)} {len(train_set):,} training and {len(test_set):,} test images of CIFAR-100."
        if about != "CIFAR-100":
            told = _profile_told(profile)
            tables = "Tables" if told.endswith(".") else "tables"
            source, text = about, f"{told} {tables} and figures are about {escape(about)}."
    _announce(text, source, page.is_synthetic)
    return page


def start_symbols() -> Page:
    """Begin the notebook on drawings: the training set is Omniglot's background set, the test set MNIST's.

    Where the data cannot be reached, and in the profile ``smoke``, made-up symbols stand in for both.

    Raises:
        UnknownNameError: ``SIAMESE_PROFILE`` names no profile.
        DataError: a data set was found and is damaged.
    """
    # The other notebooks do without what these need.
    from siamese_utils.data.symbols import load_mnist, load_omniglot_background
    from siamese_utils.studies.drawing.data import synthetic_symbol_data

    profile = _profile()
    plotting.set_style()
    try:
        if profile == "smoke":
            raise MissingDataError("The profile smoke asks for no data.")
        characters, digits = load_omniglot_background(), load_mnist("test")
        text = (
            f"{_profile_told(profile)} {len(characters):,} drawings of Omniglot's letters and "
            f"{len(digits):,} test images of MNIST."
        )
    except MissingDataError:
        made_up = synthetic_symbol_data()
        characters, digits = made_up.characters, made_up.test_digits
        text = (
            "MNIST and Omniglot are not in use here, so the live cells below show made-up symbols and a small encoder "
            "trained on them within seconds. Tables that are read from <code>results/</code> are about MNIST and "
            "Omniglot."
        )
    _announce(text, "MNIST and Omniglot", digits.is_synthetic)
    return _page(profile, characters, digits, class_split("5-5", 0, digits.num_classes))


def start_faces() -> tuple[Page, FaceSet, dict[str, PairList]]:
    """Begin the notebook on faces: LFW's development training set, and its two lists of pairs.

    Where the data cannot be reached, and in the profile ``smoke``, made-up faces stand in for them. No test photograph
    is read.

    Raises:
        UnknownNameError: ``SIAMESE_PROFILE`` names no profile.
        DataError: a data set was found and is damaged.
    """
    # The other notebooks do without what these need.
    from siamese_utils.data.faces import ALIGNMENTS, load_pair_lists, load_training_faces, synthetic_faces
    from siamese_utils.studies.faces.demonstrations import people_as_classes

    profile = _profile()
    plotting.set_style()
    try:
        if profile == "smoke":
            raise MissingDataError("The profile smoke asks for no data.")
        faces, lists = load_training_faces(), load_pair_lists()
        text = (
            f"{_profile_told(profile)} {len(faces):,} photographs of Labeled Faces in the Wild "
            f"({escape(ALIGNMENTS[faces.alignment])})."
        )
    except MissingDataError:
        faces = synthetic_faces()
        lists = {"train": faces, "test": synthetic_faces(part="test")}
        text = (
            "LFW is not in use here, so the live cells below show made-up faces and a small encoder trained on them "
            "within seconds. Tables that are read from <code>results/</code> are about LFW."
        )
    _announce(text, "LFW", faces.is_synthetic)
    images = people_as_classes(faces)
    split = ClassSplit(f"{images.num_classes}-0", 0, tuple(range(images.num_classes)), ())
    return _page(profile, images, images, split), faces, lists


def _announce(text: str, source: str, is_synthetic: bool) -> None:
    """Display what the notebook's data are; made-up data are marked in another colour and in words."""
    style = "background:#FFF3CD;color:#533F03;border-left:6px solid #D55E00;padding:.7em 1em"
    if is_synthetic:
        text = f"<strong>Synthetic data.</strong> {text}"
    else:
        style = "background:#EAF4FB;color:#123;border-left:6px solid #0072B2;padding:.7em 1em"
    source = "synthetic" if is_synthetic else escape(source)
    display(HTML(f'<div class="siamese-banner" data-siamese-source="{source}" style="{style}">{text}</div>'))
