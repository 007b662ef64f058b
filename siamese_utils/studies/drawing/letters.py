"""EMNIST: letters named from one example each by encoders that never learned one, and a network that learned them all.

*One example each.* Nothing is chosen by these letters. Three encoders are those of the drawing study, as stored; two of
them know Omniglot's Latin alphabet. A fourth learned what the one behind the demo did, in the same way, but for the
Latin alphabet. Fifteen letters look alike in both cases, and the canonical form takes away their size, so nobody could
tell them apart. They count as different all the same; what they cost is told beside it.

*All learned.* The toy network of the slides: three convolutions and two dense layers, as many classes as are learned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn
from torch.nn import functional as F

from siamese_utils.data.emnist import case_pairs, load_characters, load_letters
from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.encoder import Encoder, count_parameters
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.evaluation.estimates import Estimate, mean_estimate, share_estimate
from siamese_utils.experiments.study import Bench, Outcome, Run, Study, as_stored, complete, training_record
from siamese_utils.studies.cifar10.fit import FitConfig, fit, outputs
from siamese_utils.studies.drawing.data import images_to_learn, load_symbol_data
from siamese_utils.studies.drawing.study import CHARACTERS, DRAWING, checkpoint_path
from siamese_utils.system.devices import pick_device
from siamese_utils.system.project import results_dir

WITHHELD = "Latin"
STORED = ("mnist", "omniglot", "both")
TRAINED = "without-latin"
CONFIG = dataclasses.replace(CHARACTERS, recipe="letters")
SEEDS = (0, 1, 2)
LEARNED_OF_EACH = 250  # characters that the toy learns; the other 67 are its test
TOY = FitConfig(judged=(1_000,))


# ------------------------------------------------------------------------------------------ one example each


def letter_metrics(encoder: Encoder, characters: ImageSet) -> dict[str, Estimate]:
    """One-shot metrics of an encoder on the 52 letters.

    Args:
        encoder: to judge.
        characters: as ``load_characters`` gives them.
    """
    rows = characters.indices_of(_letters(characters))
    z, labels = encoder.embed(characters.images[rows]), characters.labels[rows]
    alike = torch.tensor([small for _, small in case_pairs()])
    metrics = {}
    for suffix, part in (("", slice(None)), ("_one_case", ~torch.isin(labels, alike))):
        for ways in (5, 20):
            name = f"acc_{ways}w1s{suffix}"
            metrics[name] = few_shot_accuracy(z[part], labels[part], named_rng(0, name), ways=ways)
    return {**metrics, "acc_2w1s_cases": _between_cases(z, labels)}


def _letters(characters: ImageSet) -> list[int]:
    digits = characters.superclass_names.index("digits")
    return [label for label, group in enumerate(characters.superclass_of) if group != digits]


def _between_cases(z: torch.Tensor, labels: torch.Tensor) -> Estimate:
    """How often a letter is nearer to its own case than to the other one; the interval is over the fifteen letters."""
    shares = []
    for pair in case_pairs():
        part = torch.isin(labels, torch.tensor(pair))
        rng = named_rng(0, f"cases {pair[0]}")
        shares.append(few_shot_accuracy(z[part], labels[part], rng, ways=2, episodes=2_000).value / 100)
    return mean_estimate(torch.tensor(shares))


def _one_shot(run: Run, bench: Bench) -> Outcome:
    if (learned_from := run.settings["encoder"]) != TRAINED:
        # The validation run says how to read what an encoder of drawings makes; digits do that themselves.
        sources = (learned_from,) if learned_from == "mnist" else ("validation", learned_from)
        complete(DRAWING, bench, [one for one in DRAWING.runs() if one.key["train_on"] in sources])
        return Outcome(letter_metrics(load_encoder(run.built_on[0]), bench.load(load_characters)))
    data = bench.load(load_symbol_data)
    alphabets = data.characters.superclass_names
    withheld = [number for number, alphabet in enumerate(alphabets) if alphabet == WITHHELD]
    images, classes = images_to_learn(data, "both", without=withheld)
    trained = bench.train(run.config, images, classes)
    encoder, checkpoint = as_stored(trained.encoder, {"train_on": TRAINED, "config": run.config.to_json()})
    record = {
        **training_record(trained),
        "classes": len(classes),
        "images": len(images),
        "alphabets": [alphabet for alphabet in alphabets if alphabet != WITHHELD],
    }
    metrics = letter_metrics(encoder, bench.load(load_characters))
    return Outcome(metrics, checkpoint if _checkpoint(run) else None, record)


# ------------------------------------------------------------------------------------------------ all learned


def toy_network(classes: int) -> nn.Sequential:
    """The toy network, from float (N, 1, 28, 28) to logits (N, classes)."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * 9 * 9, 512),
        nn.ReLU(),
        nn.Linear(512, classes),
    )


def load_characters_as_written() -> ImageSet:
    """The characters in the pen, size and place of whoever wrote them.

    Raises:
        DataError: EMNIST cannot be reached or is damaged.
    """
    return load_characters(canonical=False)


def toy_sets(system: str, bench: Bench) -> tuple[ImageSet, ImageSet]:
    """What a toy learns, and the images that it is judged by.

    The first images of each character are learned. Where letters are 26 classes, both cases of one are the same.

    Raises:
        DataError: EMNIST cannot be reached or is damaged.
    """
    if system == "toy-official":
        return bench.load(load_letters, "train"), bench.load(load_letters, "test")
    characters = bench.load(load_characters_as_written)
    place = torch.arange(len(characters)) - torch.searchsorted(characters.labels, characters.labels)
    sets = [characters.subset(rows.nonzero().flatten()) for rows in (place < LEARNED_OF_EACH, place >= LEARNED_OF_EACH)]
    if system == "toy-26":
        sets = [_without_case(images) for images in sets]
    return sets[0], sets[1]


def _without_case(characters: ImageSet) -> ImageSet:
    """The letters alone, 26 classes."""
    letters = characters.subset(characters.indices_of(_letters(characters)))
    names = sorted({characters.class_names[label].lower() for label in letters.labels.unique().tolist()})
    number = torch.tensor([names.index(name.lower()) if name.lower() in names else -1 for name in letters.class_names])
    return dataclasses.replace(
        letters,
        labels=number[letters.labels],
        class_names=tuple(names),
        superclass_names=("letters",),
        superclass_of=(0,) * len(names),
    )


def _toy(run: Run, bench: Bench) -> Outcome:
    name, seed, where = str(run.key["system"]), int(run.key["seed"]), pick_device(bench.device)
    learned, judged = toy_sets(name, bench)

    def make() -> nn.Module:
        return toy_network(learned.num_classes)

    def grey(images: ImageSet, rows: torch.Tensor) -> torch.Tensor:
        return (images.images[rows, :, :, :1].permute(0, 3, 1, 2) / 255).to(where)

    def loss(network: nn.Module, rows: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(network(grey(learned, rows)).float(), learned.labels[rows].to(where))

    given: dict[str, Any] = {"device": bench.device, "folder": bench.folder, "progress": bench.progress}
    fitted = fit(make, loss, len(learned), run.config, seed, name=name, **given)
    network, weights = make().to(where), fitted.weights[run.config.judged[-1]]
    logits = outputs(network, weights, lambda net, rows: net(grey(judged, rows)), len(judged))
    hits = logits.argmax(dim=1).cpu() == judged.labels
    record = {"parameters": count_parameters(network), "images": len(learned), "seconds": fitted.seconds}
    return Outcome({"acc": share_estimate(hits)}, record=record)


# ------------------------------------------------------------------------------------------------------- runs


def _path(system: str) -> Path:
    if system in STORED:
        return checkpoint_path(system)
    return results_dir() / "checkpoints" / f"drawing-{system}.safetensors"


def _checkpoint(run: Run) -> Path | None:
    """One training of the three is kept as a file."""
    return _path(str(run.key["system"])) if "encoder" in run.settings and run.key["seed"] == 0 else None


def _runs(
    official: Annotated[bool, typer.Option(help="The toy on the official letters too, a download of 561 MB.")] = False,
) -> list[Run]:
    runs = [
        Run(
            {"system": name, "seed": 0},
            {"encoder": name},
            "As on Omniglot's runs, in the same order.",
            0,
            (_path(name),),
        )
        for name in STORED
    ]
    toys = ("toy-62", "toy-26", "toy-official") if official else ("toy-62", "toy-26")
    for seed in SEEDS:
        config = dataclasses.replace(CONFIG, seed=seed)
        settings: dict[str, Any] = {"encoder": TRAINED, "config": config, "withheld": WITHHELD}
        runs.append(Run({"system": TRAINED, "seed": seed}, settings, _WITHOUT_LATIN, config.most_images))
        runs += [Run({"system": toy, "seed": seed}, {"config": TOY}, _TOYS, TOY.judged[-1] * TOY.batch) for toy in toys]
    return runs


_WITHOUT_LATIN = "A few points below the demo's encoder, far above the one that learned digits alone."
_TOYS = "Some 80% of 62 characters, of which fifteen pairs look alike; about 90% of 26 letters."


def _carry_out(run: Run, bench: Bench) -> Outcome:
    return _one_shot(run, bench) if "encoder" in run.settings else _toy(run, bench)


def _again(path: Path, bench: Bench) -> Mapping[str, Mapping[str, Estimate]]:
    return {"letters": letter_metrics(load_encoder(path), bench.load(load_characters))}


LETTERS = Study(
    "letters",
    "Does an encoder of drawings name letters that it never learned?",
    _runs,
    _carry_out,
    key=("system", "seed"),
    metrics={
        "acc_5w1s": "EMNIST's 52 letters: 5-way 1-shot accuracy",
        "acc_20w1s": "EMNIST's 52 letters: 20-way 1-shot accuracy",
        "acc_5w1s_one_case": "the same without the 15 small letters that look like their capital",
        "acc_20w1s_one_case": "the same without the 15 small letters that look like their capital",
        "acc_2w1s_cases": "a letter's own case against the other, where both look alike; chance is 50",
        "acc": "characters that were learned, other images of them: share named right",
    },
    checkpoint=_checkpoint,
    again=_again,
)
