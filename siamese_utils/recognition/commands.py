"""Commands for a user's own images; what is slow to import is imported by the command that needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.recognition.classifier import classify_folder
from siamese_utils.system.project import results_dir
from siamese_utils.system.text import say

Support = Annotated[Path, typer.Argument(help="Folder with one sub-folder a class, one image or more each.")]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and list them.")
]


def add_commands(app: typer.Typer) -> None:
    """Make the commands of this module those of the command line, in this order."""
    for command in (classify,):
        app.command()(command)


def classify(
    support: Support,
    queries: Annotated[list[Path], typer.Argument(help="Images to classify, or folders of images.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Encoder to use; the stored 90-10 one if left out.")] = None,
    csv: Annotated[bool, typer.Option(help="Print all similarities as CSV.")] = False,
    skip_unreadable: SkipUnreadable = False,
) -> None:
    """Recognise your own classes from one example each."""
    encoder = load_encoder(checkpoint or results_dir() / "checkpoints" / "cifar100-90-10-draw0.safetensors")
    table = classify_folder(encoder, support, queries, skip_unreadable)
    if csv:
        say(table.to_csv(index=False, float_format="%.4f", lineterminator="\n"), nl=False)
        return
    for row in table.itertuples():
        say(f"{row.query}: {row.prediction} (similarity {row.similarity:.2f}, lead {row.margin:.2f})")
