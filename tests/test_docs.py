"""README and docs name what is there: links, files, commands, code that runs."""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from siamese_utils import cli
from siamese_utils.data.images import ImageSet
from siamese_utils.experiments.study import Bench, run_study, stored
from siamese_utils.studies import STUDIES
from siamese_utils.studies.commands import add_commands

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "results/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
ROOMS = {path.stem for path in (ROOT / "siamese_utils").iterdir() if not path.name.startswith("__")}


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def code(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", read(page), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", read(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture(scope="module")
def commands() -> Iterator[dict[str, Any]]:
    """What the command line knows, by name."""
    before = list(cli.app.registered_commands)
    add_commands(cli.app)
    group: Any = typer.main.get_command(cli.app)
    yield group.commands
    cli.app.registered_commands[:] = before


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", read(page)) + re.findall(r"^\[[^\]]+\]: (\S+)$", read(page), re.MULTILINE)
    for target in targets:
        file, _, anchor = target.partition("#")
        if file.startswith("https://"):
            continue
        there = page.parent / file if file else page
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_file_and_target_that_is_named_is_there(page: Path) -> None:
    for named in re.findall(r"(?:siamese_utils|tests|benchmarks|notebooks)/[\w/]+\.(?:py|yaml|ipynb|md)", read(page)):
        assert (ROOT / named).is_file(), named
    targets = set(re.findall(r"^([a-z-]+):", read(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z-]+)", read(page))) <= targets | {"help"}


def test_the_readme_reads_at_one_sitting() -> None:
    assert len(read(ROOT / "README.md").splitlines()) <= 150


def test_every_command_is_described_and_every_one_described_exists(commands: dict[str, Any]) -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", read(ROOT / "docs" / "commands.md"), re.MULTILINE)
    assert {call.split()[0] for call, _ in rows} == set(commands)
    for call, text in rows:
        name, *words = call.split()
        known = {option for one in commands[name].params for option in (*one.opts, *one.secondary_opts)}
        assert {word for word in words + re.findall(r"--[a-z-]+", text) if word.startswith("--")} <= known, call
        if name == "study" and words[0] != "NAME":
            assert {words[0], *re.findall(r"`(\w+)`", text)} <= set(STUDIES), call


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_in_the_text_exist(page: Path, commands: dict[str, Any]) -> None:
    assert set(re.findall(r"python -m siamese_utils ([a-z][a-z-]*)", read(page))) <= set(commands)


def test_code_of_the_readme_compiles_and_finds_what_it_imports() -> None:
    blocks = code(ROOT / "README.md", "python")
    assert blocks
    for block in blocks:
        tree = ast.parse(block)
        tree.body = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert tree.body
        exec(compile(tree, "README.md", "exec"), {})


def test_the_smallest_study_runs(project: Path, hundred: tuple[ImageSet, ImageSet]) -> None:
    checkpoint = project / "results" / "checkpoints" / "cifar100-90-10-draw0.safetensors"
    checkpoint.parent.mkdir()
    shutil.copy(ROOT / "results" / "checkpoints" / checkpoint.name, checkpoint)
    (block,) = code(ROOT / "docs" / "architecture.md", "python")
    names: dict[str, Any] = {}
    exec(compile(block, "architecture.md", "exec"), names)
    study = names["DARKNESS"]
    first = study.runs()[:1]
    done = list(run_study(study, first, Bench.of(*hundred, device="cpu", progress=False)))
    assert len(done) == 1 and stored(study, first[0]) == "yes"
    assert set(study.table().metric) == set(study.metrics)


def test_every_room_is_in_the_table_and_in_the_picture() -> None:
    page, picture = read(ROOT / "docs" / "architecture.md"), read(ROOT / "docs" / "architecture.svg")
    assert set(re.findall(r"^\| `(\w+)(?:/|\.py)` \|", page, re.MULTILINE)) == ROOMS
    assert {word for text in re.findall(r"<text[^>]*>([^<]+)", picture) for word in text.split(", ")} >= ROOMS


def test_every_table_of_results_is_described() -> None:
    described = set(re.findall(r"`(\w+\.csv)`", read(ROOT / "results" / "README.md")))
    assert {path.name for path in (ROOT / "results").glob("*.csv")} == described
