"""Commands for a user's own images; what is slow to import is imported by the command that needs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.named import best_encoder, called
from siamese_utils.errors import ConfigError, StorageError
from siamese_utils.recognition.classifier import OneShotClassifier
from siamese_utils.system.text import say

# No Path, which takes an empty name, as of a variable that is not set, for the folder one is in.
Support = Annotated[str, typer.Argument(help="Folder with one sub-folder a class, one image or more each.")]
EncoderName = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        "--checkpoint",
        help="A name, such as siamese-photos, or a checkpoint; the best one installed if left out.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="File to write instead of printing: .html for a page of pictures, .csv, .json or .parquet."),
]
SkipUnreadable = Annotated[
    bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and list them.")
]

_LISTED = 5  # classes that are listed with an answer


def add_commands(app: typer.Typer) -> None:
    """Make the commands of this module those of the command line, in this order."""
    for command in (classify, check, search, export):
        app.command()(command)


def classify(
    support: Support,
    queries: Annotated[list[Path], typer.Argument(help="Images to classify, or folders of images.")],
    encoder: EncoderName = None,
    csv: Annotated[bool, typer.Option(help="Print all similarities as CSV.")] = False,
    out: Out = None,
    skip_unreadable: SkipUnreadable = False,
    unknown_rate: Annotated[
        float | None,
        typer.Option(help="Share of images of your classes that may be called none of these, such as 0.05."),
    ] = None,
) -> None:
    """Recognise your own classes from one example each."""
    _check_output(out)
    eyes = _loaded(encoder)
    wide = csv and (out is None or out.suffix.lower() != ".html")  # a page shows what only the list has
    learned = OneShotClassifier(eyes, unknown_rate=unknown_rate).fit_folder(support, skip_unreadable)
    table = learned.predict_files(queries, skip_unreadable, None if wide else _LISTED)
    if out is not None:
        from siamese_utils.recognition.answers import write_answers

        say(f"{len(table):,} answers are in {write_answers(table, out, called(eyes), eyes.note)}.")
        return
    if csv:
        say(table.to_csv(index=False, float_format="%.4f", lineterminator="\n"), nl=False)
        return
    for row in table.itertuples():
        measured = f"similarity {row.similarity:.2f}, lead {row.margin:.2f}"
        if row.unknown:  # its probability, if it were of one of the classes, would read as the opposite
            say(f"{row.query}: none of these (most like {row.prediction}: {measured})")
        else:
            say(f"{row.query}: {row.prediction} (probability {row.probability:.2f}, {measured})")


def check(
    support: Support, encoder: EncoderName = None, out: Out = None, skip_unreadable: SkipUnreadable = False
) -> None:
    """How well will a folder of examples work? Accuracy on itself, wrong labels, doubles, classes that get mixed up."""
    from siamese_utils.recognition.check import check_folder

    _check_output(out)
    report = check_folder(support, _loaded(encoder), skip_unreadable)
    say("\n".join(report.sentences()) if out else report)
    if out is not None:
        say(f"What was found is in {report.save(out)}.")


def search(
    images: Annotated[Path, typer.Argument(help="Folder of images to search among, or an index that was stored.")],
    queries: Annotated[list[Path], typer.Argument(help="Images to search with, or folders of images.")],
    encoder: EncoderName = None,
    top: Annotated[int, typer.Option(help="How many of the nearest images are listed.")] = 5,
    index: Annotated[Path | None, typer.Option(help="File to store the index in, to be searched again.")] = None,
    out: Out = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Dask scheduler, tcp://…, whose workers read and embed the images.")
    ] = None,
    skip_unreadable: SkipUnreadable = False,
) -> None:
    """Find the images of a folder that are most like others."""
    from siamese_utils.data.image_files import images_below
    from siamese_utils.recognition.answers import write_found
    from siamese_utils.recognition.index import EmbeddingIndex, free_path, search_files

    _check_output(out)
    if index is not None:
        _check_writable(free_path(index))
    if images.is_file() and scheduler is not None:
        raise ConfigError(f"{images} is a stored index, whose images are embedded already; leave --scheduler out.")
    eyes = _loaded(encoder)
    if images.is_file():
        among = EmbeddingIndex.load(images)
    else:
        found = (images_below(images, skip_unreadable) if images.is_dir() else []) or [images]
        found = [file.absolute() for file in found] if index is not None else found  # to be found from elsewhere too
        among = EmbeddingIndex.build(eyes, found, scheduler=scheduler, skip_unreadable=skip_unreadable)
    table = search_files(among, eyes, queries, top, skip_unreadable)
    if out is not None:
        say(f"{len(table):,} answers are in {write_found(table, out, called(eyes))}.")
    else:
        for query, rows in table.groupby("query", sort=False):
            say(f"{query}: " + ", ".join(f"{row.image} ({row.similarity:.2f})" for row in rows.itertuples()))
    if index is not None:
        among.save(index)


def export(
    path: Annotated[Path, typer.Argument(help="File to write, which ends in .onnx.")],
    encoder: EncoderName = None,
    views: Annotated[
        str | None, typer.Option(help="Views that are averaged: none, mirror or shifts; the encoder's own if left out.")
    ] = None,
) -> None:
    """Write an encoder as ONNX, from raw pixels to unit vectors, for programs without torch."""
    from siamese_utils.encoders.export import export_onnx

    eyes = _loaded(encoder)
    side = eyes.input_side(views)
    export_onnx(eyes, path, views)
    say(f"{called(eyes)} is in {path}: images, uint8 (N, {side}, {side}, 3), to embeddings, (N, {eyes.embedding_dim}).")


def _loaded(name: str | None) -> Any:
    """The encoder that is asked for, or the best one that is installed, which is named."""
    if name is not None:
        return load_encoder(name)
    encoder = load_encoder(best_encoder())
    say(" ".join(filter(None, [f"Encoder: {called(encoder)}.", encoder.note])), err=True)
    return encoder


def _check_output(out: Path | None) -> None:
    """Refuse a file that could not be written before the work is done."""
    if out is not None:
        from siamese_utils.recognition.answers import output_path

        _check_writable(output_path(out))


def _check_writable(path: Path) -> None:
    """Refuse a file whose folder takes none before the work is done."""
    place = next((above for above in path.absolute().parents if above.is_dir()), Path())
    if not os.access(place, os.W_OK):
        raise StorageError(f"Cannot write {path}, since nothing may be written in {place}; choose another folder.")
