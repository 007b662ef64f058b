"""The command line: ``python -m siamese_utils COMMAND``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.classify import classify_folder
from siamese_utils.errors import ConfigError, SiameseError
from siamese_utils.evaluation.protocol import METRICS, SplitEvaluation
from siamese_utils.experiments import plan as planning
from siamese_utils.experiments.study import Bench, Rows, Run, Study, run_study, select
from siamese_utils.studies import STUDIES, all_studies, study
from siamese_utils.studies.splits.findings import stored_evaluation
from siamese_utils.studies.splits.study import SPLIT_SWEEP, checkpoint_path, reevaluate, split_run
from siamese_utils.system import project
from siamese_utils.system.text import never_refuse, printable, say
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
        _add_commands(next((word for word in sys.argv[1:] if not word.startswith("-")), ""))
        app()
    except SiameseError as error:
        say(f"Error: {printable(error)}", err=True)
        sys.exit(1)


@app.command()
def report(
    out: Annotated[Path | None, typer.Option(help="Folder for the HTML pages; build/report if left out.")] = None,
    profile: Annotated[str, typer.Option(help="smoke, report or full.")] = "report",
    in_place: Annotated[bool, typer.Option(help="Store the outputs in the notebooks instead of rendering.")] = False,
    stored: Annotated[bool, typer.Option("--stored", help="Render the outputs in the notebooks as they are.")] = False,
    notebooks: Annotated[Path | None, typer.Option(help="Folder of the notebooks.")] = None,
) -> None:
    """Execute the notebooks and render the report as a web site that needs no network."""
    from siamese_utils.report.site import build_report, execute_in_place  # slow to import, needed here alone

    folder = notebooks or project.project_root() / "notebooks"
    if in_place and stored:
        raise ConfigError("--in-place makes new outputs and --stored keeps the old ones; choose one.")
    if in_place:
        execute_in_place(folder, profile)
    else:
        build_report(folder, out or project.project_root() / "build" / "report", profile, execute=not stored)


@app.command()
def train(
    split: Annotated[str, typer.Option(help="Class split, for example 90-10.")] = "90-10",
    draw: Annotated[int, typer.Option(help="Class draw; 0 is the alphabetical one.")] = 0,
    seed: Annotated[int, typer.Option(help="Seeds weights, batches and augmentation.")] = 0,
    recipe: Annotated[str, typer.Option(help="A name in siamese_utils.training.recipes.")] = DEFAULT_RECIPE,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    again: Annotated[bool, typer.Option("--again", help="Replace what other settings have made.")] = False,
) -> None:
    """Train one split, store its checkpoint and metrics; started again after a kill, it goes on."""
    run = split_run(split, draw, seed, recipe)
    for _ in run_study(SPLIT_SWEEP, [run], Bench(device), again=again):
        pass
    _print(stored_evaluation(run))


@app.command("encoder-speed")
def encoder_speed(
    rounds: Annotated[int, typer.Option(help="How often every encoder is timed; the median counts.")] = 3,
) -> None:
    """Measure how fast every encoder learns on one core, and what it could learn from in the minutes of the study."""
    from siamese_utils.studies.networks import speed as module
    from siamese_utils.studies.networks import study as compared

    config = compared.ENCODERS_EQUAL_TIME.runs()[0].config
    speeds = module.measure_speeds(list(compared.IMAGES_IN_TIME), config, rounds=rounds)
    module.store_speeds(speeds)
    say(speeds[["encoder", "side", "images_per_second", "spread"]].to_string(index=False))
    images = module.images_in(speeds, compared.EQUAL_MINUTES, config, list(compared.IMAGES_IN_TIME))
    say(f"Images in {compared.EQUAL_MINUTES:g} minutes:\n{module.written_down(images)}")


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
    from siamese_utils.experiments.audit import audit as audit_studies  # brings what every study needs

    found = audit_studies(all_studies(), Bench(), only or (), processes=2)
    wrong = found[found.verdict != "holds"]
    for row in wrong.itertuples():
        say(f"{row.table}, {row.checkpoint}, {row.metric}: {row.stored} stored, {row.again} now: {row.verdict}")
    held, files = len(found) - len(wrong), found.checkpoint.nunique()
    say(f"{held} of {len(found)} stored numbers of {files} checkpoints hold.")
    if len(wrong):
        raise typer.Exit(1)


@app.command()
def classify(
    support: Annotated[Path, typer.Argument(help="Folder with one sub-folder a class, one image or more each.")],
    queries: Annotated[list[Path], typer.Argument(help="Images to classify, or folders of images.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Encoder to use; the stored 90-10 one if left out.")] = None,
    csv: Annotated[bool, typer.Option(help="Print all similarities as CSV.")] = False,
) -> None:
    """Recognise your own classes from one example each."""
    encoder = load_encoder(checkpoint or checkpoint_path("90-10", 0))
    table = classify_folder(encoder, support, queries)
    if csv:
        say(table.to_csv(index=False, float_format="%.4f", lineterminator="\n"), nl=False)
        return
    for row in table.itertuples():
        say(f"{row.query}: {row.prediction} (similarity {row.similarity:.2f}, lead {row.margin:.2f})")


@app.command()
def draw(
    checkpoint: Annotated[Path | None, typer.Option(help="Encoder to use; the stored one if left out.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; a free one is found if left out.")] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; this machine alone if left out.")] = "127.0.0.1",
    browser: Annotated[bool, typer.Option(help="Open a browser at the page.")] = True,
) -> None:
    """Draw symbols in the browser: are they the same, and which of your own is it?"""
    from siamese_utils.app.server import run  # the web server is needed here alone

    run(checkpoint, host, port, browser, say=say)


@app.command()
def readme(
    path: Annotated[Path | None, typer.Argument(help="The README to update, with docs/ beside it.")] = None,
    address: Annotated[str | None, typer.Option(help="Move to this repository, https://github.com/owner/name.")] = None,
) -> None:
    """Write what follows from results/ and pyproject.toml: headline, speeds, and links to the repository."""
    from siamese_utils.experiments import plotting  # all of these are slow to import, and needed here alone
    from siamese_utils.report import address as links
    from siamese_utils.report import readme as summary

    root = path.resolve().parent if path else project.project_root()
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


def _print(evaluation: SplitEvaluation) -> None:
    for name, estimate in evaluation.metrics.items():
        say(f"{name:<24} {estimate!s:>15}   {METRICS[name]}")
    say(f"threshold on the cosine similarity: {evaluation.threshold:.3f}")


# ------------------------------------------------------------------------------------- commands of studies

Only = Annotated[list[str] | None, typer.Option(help="A run alone, by a value of its key; may be repeated.")]
Seed = Annotated[list[int] | None, typer.Option(help="A seed alone; may be repeated.")]
Plan = Annotated[bool, typer.Option("--plan", help="Print what would be done, with minutes, and stop.")]
Again = Annotated[bool, typer.Option("--again", help="Replace what other settings have made.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask scheduler, tcp://…")]


@app.command("study")
def run_by_name(
    name: Annotated[str, typer.Argument(help="A name that `studies` lists, for example recipe_search.")],
    only: Only = None,
    seed: Seed = None,
    plan: Plan = False,
    again: Again = False,
    device: Device = "auto",
    scheduler: Scheduler = None,
) -> None:
    """Carry out the runs of a study that are not stored yet; started again after a kill, it goes on."""
    _run(study(name), only, seed, plan, again, device, scheduler)


@app.command()
def studies() -> None:
    """List the studies, and the question that each answers."""
    for name in STUDIES:
        say(f"{name:<24} {study(name).question}")


@app.command()
def imprint(
    config: Annotated[Path | None, typer.Option(help="The configuration, YAML; the stored one if left out.")] = None,
    base_only: Annotated[bool, typer.Option("--base-only", help="Train the base network, measure nothing.")] = False,
    trials: Annotated[bool, typer.Option("--trials", help="The trials by which the settings were chosen.")] = False,
    moved: Annotated[bool, typer.Option("--moved", help="The part in which the encoder moves.")] = False,
    moved_config: Annotated[Path | None, typer.Option(help="Its configuration.")] = None,
    only_shots: Annotated[list[int] | None, typer.Option(help="With --moved: these shots alone; repeat.")] = None,
    only: Only = None,
    plan: Plan = False,
    again: Again = False,
    device: Device = "auto",
    scheduler: Scheduler = None,
) -> None:
    """Teach a trained network more classes from a few shots; started again after a kill, it goes on."""
    from siamese_utils.studies.imprinting import base, settings  # needed here alone

    if base_only:
        base.base_network(settings.ImprintingConfig.from_yaml(config or settings.WHOLE).base, Bench(device))
        return
    asked = study("imprinting" + "_moved" * moved + "_trials" * trials)
    given = {"config": config, "moved_config": moved_config, "only_shots": only_shots}
    options = {name: value for name, value in given.items() if value}
    if strange := sorted(set(options) - set(inspect.signature(asked.runs).parameters)):
        raise ConfigError(f"--{strange[0].replace('_', '-')} does not go with {asked.name}; leave it out.")
    _run(asked, only, None, plan, again, device, scheduler, options)


def _run(
    asked: Study,
    only: list[str] | None,
    seed: list[int] | None,
    plan: bool,
    again: bool,
    device: str,
    scheduler: str | None,
    options: Mapping[str, Any] | None = None,
) -> None:
    runs = select(asked, only or (), seed or (), **(options or {}))
    if plan:
        table = planning.plan(asked, runs, planning.rate(asked, runs, typer.echo))
        left = table[table.stored != "yes"]
        say(table.to_string(index=False, formatters={"minutes": "{:.0f}".format}))
        say(f"{len(left)} of {len(runs)} runs to do, about {left.minutes.sum() / 60:.1f} hours.")
        return
    done: dict[str, Rows] = {}
    for run, rows in run_study(asked, runs, Bench(device), again=again, scheduler=scheduler):
        done[run.label] = rows
        _tell(asked, run, rows)
    for run in runs:
        if run.label not in done:
            say(f"{run.label}: stored")


def _tell(asked: Study, run: Run, rows: Rows) -> None:
    if not isinstance(rows, Mapping):
        say(rows.to_string(index=False))
        return
    for name, estimate in rows.items():
        say(f"{run.label:<24} {name:<28} {estimate!s:>15}   {asked.metrics.get(name, '')}")


@dataclass(frozen=True)
class Command:
    """A study's own command.

    Attributes:
        study: its name.
        parts: flags that choose another study instead, such as ``{"trials": "drawing_trials"}``.
        argument: name of a positional argument that chooses runs as ``--only`` does; empty for none.
    """

    study: str
    parts: Mapping[str, str] = field(default_factory=dict)
    argument: str = ""


COMMANDS: dict[str, Command] = {
    "sweep": Command("split_sweep"),
    "cifar-fs": Command("cifar_fs"),
    "ensemble": Command("ensembles", argument="task"),
    "triplet-systems": Command("triplet_systems"),
    "training-time": Command("training_time"),
    "classes-or-images": Command("classes_or_images"),
    "drawing": Command("drawing", parts={"trials": "drawing_trials"}),
    "faces": Command("faces", {"trials": "face_trials", "grid": "face_grid"}),
}


def _add(name: str, command: Command) -> None:
    """Make a command whose options are those of every study, its parts, and the parameters of its ``runs``."""
    own = [study(command.study), *map(study, command.parts.values())]
    signatures = [inspect.signature(one.runs, eval_str=True) for one in own]
    options = {key: value for signature in signatures for key, value in signature.parameters.items()}

    def call(**given: Any) -> None:
        chosen = [part for part in command.parts if given.pop(part)]
        if len(chosen) > 1:
            raise ConfigError(f"Choose --{chosen[0]} or --{chosen[1]}; each is a study of its own.")
        asked = study(command.parts[chosen[0]]) if chosen else study(command.study)
        if command.argument:
            given["only"] = [given.pop(command.argument)]
        taken = inspect.signature(asked.runs).parameters
        asked_for = {key: given.pop(key) for key in options}
        changed = {key: value for key, value in asked_for.items() if value != options[key].default}
        if strange := sorted(set(changed) - set(taken)):
            raise ConfigError(f"--{strange[0].replace('_', '-')} does not go with {asked.name}; leave it out.")
        seed = None if "seed" in options else given.pop("seed")
        _run(asked, seed=seed, **given, options=changed)

    common = inspect.signature(run_by_name, eval_str=True).parameters
    parameters = [value for key, value in common.items() if key != "name" and key not in options]
    parameters += [
        inspect.Parameter(
            part,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(f"--{part}", help=study(other).question)],
        )
        for part, other in command.parts.items()
    ]
    if command.argument:
        kind = Annotated[str, typer.Argument(help="Which of them.")]
        parameters = [value for value in parameters if value.name != "only"]
        parameters.append(inspect.Parameter(command.argument, inspect.Parameter.KEYWORD_ONLY, annotation=kind))
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [value.replace(kind=inspect.Parameter.KEYWORD_ONLY) for value in (*parameters, *options.values())]
    )
    call.__doc__ = f"{own[0].question}\n\nStarted again after a kill, it goes on."
    app.command(name)(call)


def _add_commands(asked: str) -> None:
    """Make the command that is asked for, or all of them for the help: making one imports its study."""
    known = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    for name in COMMANDS if asked not in {*COMMANDS, *known} else {asked} & set(COMMANDS):
        if name not in known:
            _add(name, COMMANDS[name])
