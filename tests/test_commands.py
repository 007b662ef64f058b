"""Commands of studies: made from the registry, with the options of every study, its parts, and its own parameters."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_study import FAKE, log

from siamese_utils import cli
from siamese_utils.cli import COMMANDS, Command
from siamese_utils.experiments.study import Study
from siamese_utils.studies import STUDIES

OTHER = dataclasses.replace(FAKE, name="other", question="And a second one?", runs=lambda: FAKE.runs(sides="3"))


@pytest.fixture
def run(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str]]]:
    """A command line that knows two fake studies; gives exit code and all that was printed."""
    (project / "results" / "ground.txt").write_text("firm")
    known: dict[str, Study] = {"fake": FAKE, "other": OTHER}
    monkeypatch.setattr(cli, "study", known.__getitem__)
    monkeypatch.setattr(cli, "STUDIES", dict.fromkeys(known))
    monkeypatch.setattr(
        cli,
        "COMMANDS",
        {"squares": Command("fake", parts={"second": "other"}), "square-of": Command("fake", argument="which")},
    )
    before = list(cli.app.registered_commands)

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["siamese_utils", *words])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out + printed.err

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
    assert code == 0 and "2 of 4 runs to do" in printed and len(log()) == 2
    assert printed.count(" yes") == 2 and printed.count(" no") == 2


def test_parameters_of_the_runs_are_options(run: Callable[..., tuple[int, str]]) -> None:
    assert run("squares", "--sides", "5", "--draws", "0")[0] == 0 and log() == ["side5-seed0"]
    _, printed = run("squares", "--help")
    for option in ("--sides", "--collapse", "--only", "--seed", "--plan", "--again", "--scheduler", "--second"):
        assert option in printed
    assert "How large is a square?" in printed


def test_a_part_is_a_study_of_its_own(run: Callable[..., tuple[int, str]]) -> None:
    assert run("squares", "--second", "--seed", "0")[0] == 0 and log() == ["side3-seed0"]
    code, printed = run("squares", "--second", "--sides", "4")
    assert code == 1 and "--sides does not go with other; leave it out." in printed


def test_an_argument_chooses_runs(run: Callable[..., tuple[int, str]]) -> None:
    assert run("square-of", "2")[0] == 0 and log() == ["side2-seed0", "side2-seed1"]
    code, printed = run("square-of", "7")
    assert code == 1 and "Unknown run of fake '7'" in printed


def test_other_settings_are_refused_in_a_sentence(run: Callable[..., tuple[int, str]]) -> None:
    run("squares")
    code, printed = run("squares", "--shape", "round")
    assert code == 1 and "add --again to replace it" in printed and "Traceback" not in printed and len(log()) == 4
    assert run("squares", "--shape", "round", "--again")[0] == 0 and len(log()) == 8


def test_studies_are_listed_with_their_questions(run: Callable[..., tuple[int, str]]) -> None:
    code, printed = run("studies")
    assert code == 0 and "How large is a square?" in printed and "And a second one?" in printed


def test_every_command_names_studies_of_the_registry() -> None:
    for command in COMMANDS.values():
        assert {command.study, *command.parts.values()} <= set(STUDIES)
