"""The command line: ``python -m siamese_utils COMMAND``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from siamese_utils.errors import ConfigError, SiameseError
from siamese_utils.evaluation.protocol import METRICS, SplitEvaluation
from siamese_utils.experiments.own import homes, tell_place
from siamese_utils.experiments.study import Bench, run_study
from siamese_utils.recognition import commands as own_images
from siamese_utils.studies import all_studies, commands
from siamese_utils.studies.splits.findings import stored_evaluation
from siamese_utils.studies.splits.study import SPLIT_SWEEP, reevaluate, split_run
from siamese_utils.system import project
from siamese_utils.system.text import never_refuse, say
from siamese_utils.training.recipes import DEFAULT_RECIPE

app = typer.Typer(
    help="One-shot learning with Siamese networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; an error the user can act on is one sentence and exit code 1."""
    never_refuse(sys.stdout, sys.stderr)
    try:
        commands.add_commands(app, next((word for word in sys.argv[1:] if not word.startswith("-")), ""))
        app()
    except SiameseError as error:
        say(f"Error: {error}", err=True)
        sys.exit(1)


@app.command()
def report(
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the HTML pages; build/report, or build/report-anew of that profile, if left out."
        ),
    ] = None,
    profile: Annotated[str, typer.Option(help="smoke, report, full or anew.")] = "report",
    in_place: Annotated[bool, typer.Option(help="Store the outputs in the notebooks instead of rendering.")] = False,
    stored: Annotated[bool, typer.Option("--stored", help="Render the outputs in the notebooks as they are.")] = False,
    notebooks: Annotated[Path | None, typer.Option(help="Folder of the notebooks.")] = None,
) -> None:
    """Execute the notebooks and render the report as a web site that needs no network."""
    folder = notebooks or project.checkout("`report`") / "notebooks"
    from siamese_utils.report.site import build_report, execute_in_place  # slow to import, needed here alone

    if in_place and stored:
        raise ConfigError("--in-place makes new outputs and --stored keeps the old ones; choose one.")
    if in_place:
        execute_in_place(folder, profile)
    else:
        out = out or project.project_root() / "build" / ("report-anew" if profile == "anew" else "report")
        build_report(folder, out, profile, execute=not stored)


@app.command()
def train(
    context: typer.Context,
    split: Annotated[str, typer.Option(help="Class split, for example 90-10.")] = "90-10",
    draw: Annotated[int, typer.Option(help="Class draw; 0 is the alphabetical one.")] = 0,
    seed: Annotated[int, typer.Option(help="Seeds weights, batches and augmentation.")] = 0,
    recipe: Annotated[str, typer.Option(help="A name in siamese_utils.training.recipes.")] = DEFAULT_RECIPE,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    again: Annotated[bool, typer.Option("--again", help="Replace what other settings have made.")] = False,
    anew: Annotated[bool, typer.Option("--anew", help="Train what is published too, in siamese_runs.")] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Store among the results of the report.")] = False,
    images: Annotated[Path | None, typer.Option(help="Your own images: a folder with one sub-folder a class.")] = None,
    pairs: Annotated[Path | None, typer.Option(help="Or a CSV of pairs: image_a, image_b, same (1 or 0).")] = None,
    out: Annotated[Path, typer.Option(help="The checkpoint of your own encoder.")] = Path("my_encoder.safetensors"),
    size: Annotated[int, typer.Option(help="Side in pixels; the middle square of each image is scaled to it.")] = 64,
    epochs: Annotated[
        int | None, typer.Option(help="Passes over your images; as many as suit them if left out.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Or about how long to train.")] = None,
    encoder: Annotated[str, typer.Option(help="Network, such as resnet9-16; that of the recipe if left out.")] = "",
    pretrained: Annotated[str, typer.Option(help="Weights to start from, such as imagenet-resnet18.")] = "",
    mirror: Annotated[bool, typer.Option(help="Whether a mirrored image means the same; not so for writing.")] = True,
    against: Annotated[str, typer.Option(help="Encoder to compare with; the best installed if left out.")] = "",
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Leave out images that cannot be read, and list them.")
    ] = False,
) -> None:
    """Train one split, or an encoder on your own images (--images or --pairs); after a kill, it goes on.

    Of a split, checkpoint and metrics are stored. On your own images, some classes are set aside, and in the end the
    encoder is compared on them with one that was trained before, so that you see whether it was worth it.
    """
    _check_options(context, images, pairs)
    if images or pairs:
        from siamese_utils.training.own import OwnSettings, train_own  # brings scikit-learn, needed here alone

        settings = OwnSettings(size, encoder, pretrained, recipe, epochs, minutes, mirror, seed)
        options = {"skip_unreadable": skip_unreadable, "again": again, "device": device, "against": against}
        done = train_own(images, pairs, out, settings, project.own_folder() / "runs", tell=_tell, **options)
        say(f"{done.sentence}\nStored in {done.path}; load_encoder({str(done.path)!r}) loads it.")
        return
    ((home, (run,)),) = homes(SPLIT_SWEEP, lambda: [split_run(split, draw, seed, recipe)], publish, anew)
    with project.at(home, anew):
        for _ in run_study(SPLIT_SWEEP, [run], Bench(device), again=again):
            pass
        _print(stored_evaluation(run))
        tell_place(home, SPLIT_SWEEP.checkpoint_path(run))


_OF_SPLITS = {"split", "draw", "anew", "publish"}
_OF_OWN = {"out", "size", "epochs", "minutes", "encoder", "pretrained", "mirror", "against", "skip_unreadable"}


def _check_options(context: typer.Context, images: Path | None, pairs: Path | None) -> None:
    """Refuse options that would be passed over without a word."""
    if images and pairs:
        raise ConfigError("--images and --pairs are two ways to say what is learned; choose one.")
    strange, of = (_OF_SPLITS, "a split") if images or pairs else (_OF_OWN, "your own images (--images or --pairs)")
    for name in sorted(strange):
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"--{name.replace('_', '-')} is for a training on {of}; leave it out.")


def _tell(text: str) -> None:
    say(text, err=True)


@app.command()
def verify(
    first: Annotated[Path, typer.Argument(help="A photograph of a face, framed like LFW's.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Encoder to use; the stored one if left out.")] = None,
) -> None:
    """Do two photographs show the same person?

    Faces are expected aligned and centred as in LFW: the middle square of a photograph is used, with the face upright
    in its middle third. Not for decisions about people.
    """
    from siamese_utils.studies.faces.verification import verify_photos  # brings scikit-learn, needed here alone

    answer = verify_photos(first, second, checkpoint)
    say(
        f"{'same' if answer.same else 'different'} (probability of the same person {answer.probability:.2f}, "
        f"similarity {answer.similarity:.2f}, threshold {answer.threshold:.2f})"
    )


@app.command()
def evaluate(checkpoint: Annotated[Path, typer.Argument(help="A stored checkpoint of a split.")]) -> None:
    """Compute every metric of a stored checkpoint anew."""
    _print(reevaluate(checkpoint, Bench()))


@app.command()
def audit(
    only: Annotated[list[str] | None, typer.Option(help="A table alone, such as growth; may be repeated.")] = None,
) -> None:
    """Compute every stored number that has a checkpoint anew, and fail where one does not hold."""
    project.checkout("`audit`")
    from siamese_utils.experiments.audit import audit as audit_studies  # brings what every study needs

    found = audit_studies(all_studies(), Bench(), only or (), processes=2)
    wrong = found[found.verdict != "holds"]
    for row in wrong.itertuples():
        say(f"{row.table}, {row.checkpoint}, {row.metric}: {row.stored} stored, {row.again} now: {row.verdict}")
    held, files = len(found) - len(wrong), found.checkpoint.nunique()
    say(f"{held} of {len(found)} stored numbers of {files} checkpoints hold.")
    if len(wrong):
        raise typer.Exit(1)


own_images.add_commands(app)


@app.command()
def draw(
    checkpoint: Annotated[Path | None, typer.Option(help="Encoder to use; the stored one if left out.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; a free one is found if left out.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; this machine alone if left out.")] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open a browser at the page.")] = True,
    any_name: Annotated[
        bool, typer.Option("--any-name", help="Answer requests to a host of any name, as behind a proxy (JupyterHub).")
    ] = False,
) -> None:
    """Draw symbols in the browser: are they the same, and which of your own is it?"""
    from siamese_utils.app.server import run  # the web server is needed here alone

    run(checkpoint, host, port, browser, any_name, say)


@app.command()
def readme(
    path: Annotated[Path | None, typer.Argument(help="The README to update, with docs/ beside it.")] = None,
    address: Annotated[str | None, typer.Option(help="Move to this repository, https://github.com/owner/name.")] = None,
) -> None:
    """Write what follows from results/ and pyproject.toml: headline, speeds, and links to the repository."""
    root = path.resolve().parent if path else project.checkout("`readme`")
    from siamese_utils.experiments import plotting  # all of these are slow to import, and needed here alone
    from siamese_utils.report import address as links
    from siamese_utils.report import readme as summary

    if address:
        links.set_address(root, address)

    plotting.set_style()
    figure, alt = summary.headline_figure()
    plotting.save_figure(figure, "headline", alt, project.project_root() / "figures")
    changed = summary.update_readme(path or root / "README.md")
    say("The headline figure is written; the text " + ("has changed." if changed else "was up to date."))
    if address or (root / "pyproject.toml").is_file():
        linked = links.update_links(root)
        say(f"Links lead to {links.Repository.of(root).url}; {len(linked)} files have changed.")


app.command("study")(commands.run_by_name)


@app.command()
def studies() -> None:
    """List the studies, and the question that each answers."""
    for one in all_studies():
        say(f"{one.name:<24} {one.question}")


def _print(evaluation: SplitEvaluation) -> None:
    for name, estimate in evaluation.metrics.items():
        say(f"{name:<24} {estimate!s:>15}   {METRICS[name]}")
    say(f"threshold on the cosine similarity: {evaluation.threshold:.3f}")
