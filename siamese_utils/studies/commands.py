"""Commands of studies: one that runs any of them by name, and those that have a name of their own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Annotated, Any

import pandas as pd
import typer

from siamese_utils import studies
from siamese_utils.errors import ConfigError
from siamese_utils.experiments import plan as planning
from siamese_utils.experiments.own import Home, homes, tell_place
from siamese_utils.experiments.study import Bench, Rows, Run, Study, run_study, select
from siamese_utils.system import project
from siamese_utils.system.text import say

Only = Annotated[list[str] | None, typer.Option(help="A run alone, by a value of its key; may be repeated.")]
Seed = Annotated[list[int] | None, typer.Option(help="A seed alone; may be repeated.")]
Plan = Annotated[bool, typer.Option("--plan", help="Print what would be done, with minutes, and stop.")]
Again = Annotated[bool, typer.Option("--again", help="Replace what other settings have made.")]
Anew = Annotated[bool, typer.Option("--anew", help="Carry out what is published too, in siamese_runs.")]
Publish = Annotated[bool, typer.Option("--publish", help="Store among the results of the report, not in siamese_runs.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a Dask scheduler, tcp://…")]


@dataclass(frozen=True)
class Command:
    """A study's own command.

    Attributes:
        study: its name; or, with a colon, a function below this package that is the command itself.
        parts: flags that choose another study instead, such as ``{"trials": "drawing_trials"}``; several of them
            together, in the order in which they stand here, are divided by a space.
        instead: flags that call a function below this package with a ``Bench`` and ``publish``, and carry out nothing.
        argument: name of a positional argument that chooses runs as ``--only`` does; empty for none.
    """

    study: str
    parts: Mapping[str, str] = field(default_factory=dict)
    instead: Mapping[str, str] = field(default_factory=dict)
    argument: str = ""


COMMANDS: dict[str, Command] = {
    "sweep": Command("split_sweep"),
    "cifar-fs": Command("cifar_fs"),
    "ensemble": Command("ensembles", argument="task"),
    "triplet-systems": Command("triplet_systems"),
    "training-time": Command("training_time"),
    "classes-or-images": Command("classes_or_images"),
    "encoder-speed": Command("networks.speed:encoder_speed"),
    "drawing": Command("drawing", {"trials": "drawing_trials"}),
    "faces": Command("faces", {"trials": "face_trials", "grid": "face_grid"}),
    "imprint": Command(
        "imprinting",
        {"trials": "imprinting_trials", "moved": "imprinting_moved", "trials moved": "imprinting_moved_trials"},
        {"base_only": "imprinting.base:train_base"},
    ),
}


def run_by_name(
    name: Annotated[str, typer.Argument(help="A name that `studies` lists, for example recipe_search.")],
    only: Only = None,
    seed: Seed = None,
    plan: Plan = False,
    again: Again = False,
    anew: Anew = False,
    publish: Publish = False,
    device: Device = "auto",
    scheduler: Scheduler = None,
) -> None:
    """Carry out the runs of a study that are not stored yet; started again after a kill, it goes on."""
    _run(studies.study(name), {}, only, seed, plan, again, anew, publish, device, scheduler)


def add_commands(app: typer.Typer, asked: str = "") -> None:
    """Make the command that is asked for, or all of them for the help: making one imports its study."""
    known = {one.name or one.callback.__name__ for one in app.registered_commands if one.callback}
    for name in COMMANDS if asked not in {*COMMANDS, *known} else {asked} & set(COMMANDS):
        if name not in known:
            command = COMMANDS[name]
            app.command(name)(studies.load(command.study) if ":" in command.study else _made(command))


def _made(command: Command) -> Callable[..., None]:
    """A command whose options are those of every study, its flags, and the parameters of its ``runs``."""
    own = {flags: studies.study(name) for flags, name in {"": command.study, **command.parts}.items()}
    instead = {flag: studies.load(place) for flag, place in command.instead.items()}
    options = {key: value for one in own.values() for key, value in _parameters(one.runs).items()}
    told = {flag: own[flag].question for flag in command.parts if " " not in flag}
    told |= {flag: str(function.__doc__).partition("\n")[0] for flag, function in instead.items()}

    def call(**given: Any) -> None:
        chosen = [flag for flag in told if given.pop(flag)]
        spoken = [f"--{flag}".replace("_", "-") for flag in chosen]
        changed = {key: value for key in options if (value := given.pop(key)) != options[key].default}
        if command.argument:
            given["only"] = [given.pop(command.argument)]
        if chosen and chosen[-1] in instead:
            function, asked_for = instead[chosen[-1]], ("only", "seed", "plan", "again", "anew", "scheduler")
            ignored = {key: True for key in asked_for if given.get(key)}
            if len(chosen) > 1:
                raise ConfigError(f"{spoken[0]} does not go with {spoken[-1]}; leave one of them out.")
            _refuse_strange(changed | ignored, function, spoken[-1])
            function(Bench(given["device"]), publish=given["publish"], **changed)
        elif (asked := own.get(" ".join(chosen))) is not None:
            _refuse_strange(changed, asked.runs, asked.name)
            _run(asked, changed, **{"seed": None, **given})
        else:
            raise ConfigError(f"Choose {spoken[0]} or {spoken[1]}; each is a study of its own.")

    argument = {command.argument: Annotated[str, typer.Argument(help="Which of them.")]} if command.argument else {}
    hidden = {"name", *options, *(["only"] if argument else [])}
    parameters = [
        *(Parameter(name, Parameter.KEYWORD_ONLY, annotation=kind) for name, kind in argument.items()),
        *(value for key, value in _parameters(run_by_name).items() if key not in hidden),
        *(_flag(name, text) for name, text in told.items()),
        *options.values(),
    ]
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [one.replace(kind=Parameter.KEYWORD_ONLY) for one in parameters]
    )
    call.__doc__ = f"{own[''].question}\n\nStarted again after a kill, it goes on."
    return call


def _parameters(function: Callable[..., Any]) -> Mapping[str, Parameter]:
    return inspect.signature(function, eval_str=True).parameters


def _flag(name: str, text: str) -> Parameter:
    option = typer.Option(f"--{name.replace('_', '-')}", help=text)
    return Parameter(name, Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])


def _refuse_strange(options: Mapping[str, Any], function: Callable[..., Any], name: str) -> None:
    if strange := sorted(set(options) - set(_parameters(function))):
        raise ConfigError(f"--{strange[0].replace('_', '-')} does not go with {name}; leave it out.")


def _run(
    asked: Study,
    options: Mapping[str, Any],
    only: list[str] | None,
    seed: list[int] | None,
    plan: bool,
    again: bool,
    anew: bool,
    publish: bool,
    device: str,
    scheduler: str | None,
) -> None:
    def choose() -> list[Run]:
        return select(asked, only or (), seed or (), **options)

    runs, divided, done = choose(), homes(asked, choose, publish, anew), set()
    if plan:
        _tell_plan(asked, runs, divided, device, anew)
        return
    for home, some in divided:
        with project.at(home, anew):
            for run, rows in run_study(asked, some, Bench(device), again=again, scheduler=scheduler):
                done.add(run.label)
                _tell(asked, run, rows)
            tell_place(home, asked.path)
    for run in runs:
        if run.label not in done:
            say(f"{run.label}: stored")


def _tell_plan(asked: Study, runs: Sequence[Run], divided: Sequence[Home], device: str, anew: bool) -> None:
    def planned(rate: float | None = None) -> pd.DataFrame:
        parts = []
        for home, some in divided:
            with project.at(home):
                parts.append(planning.plan(asked, some, rate))
        return pd.concat(parts, ignore_index=True)

    table = planned()
    if (table.minutes.isna() & (table.stored != "yes")).any():  # of what is stored already, nobody needs to know
        table = planned(planning.rate(asked, runs, say, device))
    left = table[table.stored != "yes"]
    say(table.to_string(index=False, formatters={"minutes": "{:.0f}".format}))
    untimed = int(left.minutes.isna().sum())
    told = [f"about {left.minutes.sum() / 60:.1f} hours"] if untimed < len(left) or left.empty else []
    if untimed:
        told.append(f"{untimed} of unknown length, since none was timed on a machine such as this")
    say(f"{len(left)} of {len(runs)} runs to do, {' and '.join(told)}.")
    for home, some in divided:
        if home is not None:
            why = "they are asked for anew" if anew else "the report has none such, or has others there"
            say(f"{len(some)} of them would be stored in {home}: {why}.")


def _tell(asked: Study, run: Run, rows: Rows) -> None:
    if not isinstance(rows, Mapping):
        say(rows.to_string(index=False))
        return
    for name, estimate in rows.items():
        say(f"{run.label:<24} {name:<28} {estimate!s:>15}   {asked.metrics.get(name, '')}")
