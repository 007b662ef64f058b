"""Commands of studies: made from the registry, with the options of every study, its parts, and its own parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from fake_study import FAKE, log

from siamese_utils import cli, studies
from siamese_utils.experiments.study import Bench, Study
from siamese_utils.studies import STUDIES, commands
from siamese_utils.studies.commands import COMMANDS, Command
from siamese_utils.system import project as places

OTHER = dataclasses.replace(FAKE, name="other", question="And a second one?", runs=lambda: FAKE.runs(sides="3"))


INSTEAD = {"only_ground": "here:level"}


def level(bench: Bench, publish: bool, shape: str = "square") -> None:
    """Level the ground."""
    print(f"levelled for {shape} on {bench.device}{', published' if publish else ''}")


def ruler(centimetres: int = 30) -> None:
    """Draw a line."""
    print(f"{centimetres} cm")


@pytest.fixture
def run(
    project: Path, monkeypatch: pytest.MonkeyPatch, command_line: Callable[..., tuple[int, str, str]]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """A command line that knows two fake studies; gives exit code and all that was printed."""
    (project / "results" / "ground.txt").write_text("firm")
    known: dict[str, Study] = {"fake": FAKE, "other": OTHER}
    monkeypatch.setattr(studies, "study", known.__getitem__)
    monkeypatch.setattr(studies, "STUDIES", dict.fromkeys(known))
    monkeypatch.setattr(studies, "load", {"here:level": level, "here:ruler": ruler}.__getitem__)
    monkeypatch.setattr(
        commands,
        "COMMANDS",
        {
            "squares": Command("fake", {"second": "other", "third": "other", "second third": "fake"}, INSTEAD),
            "circles": Command("fake", {"second": "other", "third": "other"}),
            "square-of": Command("fake", argument="which"),
            "ruler": Command("here:ruler"),
        },
    )
    before = list(cli.app.registered_commands)

    def call(*words: str) -> tuple[int, str]:
        code, out, err = command_line(*words)
        return code, out + err

    yield call
    cli.app.registered_commands[:] = before


def test_a_study_by_its_name(run: Callable[..., tuple[int, str]]) -> None:
    code, printed = run("study", "fake", "--only", "1", "--seed", "1")
    assert code == 0 and log() == ["side1-seed1"]
    assert "1.00 ± 0.00   of the square" in printed
    assert "side1-seed1: stored" in run("study", "fake", "--only", "1")[1] and len(log()) == 2


def test_plan_says_what_is_left_and_does_nothing(run: Callable[..., tuple[int, str]]) -> None:
    run("study", "fake", "--only", "1")
    code, printed = run("study", "fake", "--plan")
    assert code == 0 and "2 of 4 runs to do, about " in printed and len(log()) == 2
    assert printed.count(" yes") == 2 and printed.count(" no") == 2


def test_a_plan_without_a_timed_run_names_no_hours(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands.planning, "_stored_here", lambda study, runs: ())
    monkeypatch.setattr(commands.planning, "rate", lambda *given: None)
    printed = run("study", "fake", "--plan")[1]
    assert "4 of 4 runs to do, 4 of unknown length" in printed and "hours" not in printed


def test_plan_measures_nothing_where_all_is_stored(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(commands.planning, "rate", lambda study, *_: asked.append(study.name))
    monkeypatch.setattr(commands.planning, "stored_rate", lambda *_: None)
    assert run("study", "fake", "--plan")[0] == 0 and asked == ["fake"]
    assert run("study", "fake")[0] == 0 and run("study", "fake", "--plan")[0] == 0 and asked == ["fake"]


def test_parameters_of_the_runs_are_options(run: Callable[..., tuple[int, str]]) -> None:
    assert run("squares", "--sides", "5", "--draws", "0", "--publish")[0] == 0 and log() == ["side5-seed0"]
    _, printed = run("squares", "--help")
    for option in (
        "--sides",
        "--collapse",
        "--only",
        "--seed",
        "--plan",
        "--again",
        "--publish",
        "--scheduler",
        "--second",
    ):
        assert option in printed
    assert "How large is a square?" in printed


def test_a_part_is_a_study_of_its_own(run: Callable[..., tuple[int, str]]) -> None:
    assert run("squares", "--second", "--seed", "0")[0] == 0 and log() == ["side3-seed0"]
    code, printed = run("squares", "--second", "--sides", "4")
    assert code == 1 and "--sides does not go with other; leave it out." in printed


def test_flags_go_together_where_a_study_is_named_for_them(run: Callable[..., tuple[int, str]]) -> None:
    assert run("squares", "--third", "--second", "--sides", "4", "--draws", "0", "--publish")[0] == 0
    assert log() == ["side4-seed0"]
    code, printed = run("circles", "--second", "--third")
    assert code == 1 and "Choose --second or --third; each is a study of its own." in printed


def test_a_flag_or_a_command_may_be_a_function(run: Callable[..., tuple[int, str]]) -> None:
    assert run("squares", "--only-ground", "--shape", "round", "--device", "cpu") == (0, "levelled for round on cpu\n")
    code, printed = run("squares", "--only-ground", "--sides", "4")
    assert code == 1 and "--sides does not go with --only-ground; leave it out." in printed and not log()
    assert "Level the ground." in run("squares", "--help")[1]
    assert run("ruler", "--centimetres", "20") == (0, "20 cm\n")


def test_an_argument_chooses_runs(run: Callable[..., tuple[int, str]]) -> None:
    assert run("square-of", "2")[0] == 0 and log() == ["side2-seed0", "side2-seed1"]
    code, printed = run("square-of", "7")
    assert code == 1 and "Unknown run of fake '7'" in printed


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_other_settings_never_touch_the_published_results_unasked(
    run: Callable[..., tuple[int, str]], project: Path
) -> None:
    run("squares")
    before = everything(project / "results")
    code, printed = run("squares", "--shape", "round", "--plan")
    assert code == 0 and "4 of 4 runs to do" in printed and "4 of them would be stored in" in printed
    code, printed = run("squares", "--shape", "round")
    assert code == 0 and "siamese_runs" in printed and everything(project / "results") == before
    with places.at(places.own_folder()):
        assert len(log()) == 4 and len(FAKE.table()) == 8
    assert run("squares", "--shape", "round")[0] == 0  # they are stored there
    code, printed = run("squares", "--shape", "oval")
    assert code == 1 and "add --again to replace it" in printed and "Traceback" not in printed
    assert run("squares", "--shape", "oval", "--again")[0] == 0 and everything(project / "results") == before
    with places.at(places.own_folder()):
        assert len(log()) == 8
    code, printed = run("squares", "--shape", "round", "--publish")
    assert code == 1 and "add --again to replace it" in printed and everything(project / "results") == before
    assert run("squares", "--shape", "round", "--publish", "--again")[0] == 0 and len(log()) == 8


def test_what_is_published_is_carried_out_anew_in_ones_own_folder(
    run: Callable[..., tuple[int, str]], project: Path
) -> None:
    run("squares")
    before = everything(project / "results")
    assert "0 of 4 runs to do" in run("squares", "--plan")[1]
    code, printed = run("squares", "--anew", "--plan")
    assert code == 0 and "4 of 4 runs to do" in printed and "they are asked for anew" in printed
    code, printed = run("squares", "--anew")
    assert code == 0 and "siamese_runs" in printed and everything(project / "results") == before
    published = FAKE.table()
    with places.at(places.own_folder()):
        assert len(log()) == 4
        pd.testing.assert_frame_equal(FAKE.table(), published)
    assert run("study", "fake", "--anew")[0] == 0  # it goes on, and nothing is left
    with places.at(places.own_folder()):
        assert len(log()) == 4
    code, printed = run("squares", "--anew", "--publish")
    assert code == 1 and "choose one, or --publish --again" in printed and everything(project / "results") == before
    for words, name in ((("--anew",), "--anew"), (("--seed", "1"), "--seed"), (("--second",), "--second")):
        code, printed = run("squares", "--only-ground", *words)
        assert code == 1 and f"{name} does not go with --only-ground" in printed


def test_what_the_study_does_not_plan_is_ones_own_and_the_rest_is_found(
    run: Callable[..., tuple[int, str]], project: Path
) -> None:
    run("squares", "--draws", "0")
    before = everything(project / "results")
    code, printed = run("squares", "--sides", "1,3", "--draws", "0")
    assert code == 0 and "side1-seed0: stored" in printed and everything(project / "results") == before
    with places.at(places.own_folder()):
        assert log() == ["side3-seed0"]


def test_rows_that_are_there_are_not_replaced_unasked_where_a_checkpoint_is_missing(
    run: Callable[..., tuple[int, str]], project: Path
) -> None:
    run("squares")
    (project / "results" / "checkpoints" / "side2-seed1.bin").unlink()
    before = everything(project / "results")
    assert run("squares")[0] == 0 and everything(project / "results") == before
    assert run("squares", "--publish")[0] == 0 and log()[4:] == ["side2-seed1"]
    assert (project / "results" / "checkpoints" / "side2-seed1.bin").is_file()


def test_ones_own_folder_has_a_name(
    run: Callable[..., tuple[int, str]], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIAMESE_RUNS", str(tmp_path / "mine"))
    monkeypatch.chdir(project / "results")
    assert run("squares", "--sides", "3", "--draws", "0")[0] == 0
    assert (tmp_path / "mine" / "results" / "fake.csv").is_file()
    assert (tmp_path / "mine" / "results" / "ground.txt").read_text() == "firm"  # what it rests on


def test_without_a_checkout_all_is_ones_own(
    run: Callable[..., tuple[int, str]], tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, empty = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("empty")
    monkeypatch.setattr(places, "_PACKAGE", package)
    monkeypatch.chdir(empty)
    for command in (("report",), ("readme",), ("audit",), ("squares", "--publish")):
        code, printed = run(*command)
        assert code == 1 and "needs a checkout of the project" in printed and "Traceback" not in printed, command
    assert run("squares")[0] == 0 and list(package.iterdir()) == []
    assert (empty / "siamese_runs" / "results" / "fake.csv").is_file()


def test_no_run_that_fits_is_said(run: Callable[..., tuple[int, str]]) -> None:
    code, printed = run("study", "fake", "--only", "side1-seed0", "--seed", "1", "--plan")
    assert code == 1 and "No run of fake fits --only and --seed together" in printed


def test_studies_are_listed_with_their_questions(run: Callable[..., tuple[int, str]]) -> None:
    code, printed = run("studies")
    assert code == 0 and "How large is a square?" in printed and "And a second one?" in printed


def test_every_command_names_studies_of_the_registry() -> None:
    for command in COMMANDS.values():
        named = {command.study, *command.parts.values(), *command.instead.values()}
        assert {name for name in named if ":" not in name} <= set(STUDIES)
        assert all(callable(studies.load(name)) for name in named if ":" in name)
