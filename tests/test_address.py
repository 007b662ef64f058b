"""The repository's address stands in one place, and all that follows from it agrees."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from alone import ROOT
from typer.testing import CliRunner

from siamese_utils import cli
from siamese_utils.errors import ConfigError
from siamese_utils.experiments import plotting
from siamese_utils.report import address
from siamese_utils.report.address import Repository
from siamese_utils.report.execute import numbered_notebooks

HERE = Repository.of(ROOT)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout's files that name the repository."""
    for name in ("pyproject.toml", *address.PAGES):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks", ignore=shutil.ignore_patterns(".*"))
    return tmp_path


def texts(root: Path) -> dict[str, str]:
    files = [*map(root.joinpath, ("pyproject.toml", *address.PAGES)), *numbered_notebooks(root / "notebooks")]
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def test_every_link_agrees_with_the_address(copy: Path) -> None:
    assert address.update_links(copy) == [], "run `python -m siamese_utils readme`"


def test_all_moves_to_another_address_and_back(copy: Path) -> None:
    before = texts(copy)
    address.set_address(copy, "https://github.com/someone/else.git")
    changed = {file.name for file in address.update_links(copy)}
    assert changed == set(before) - {"pyproject.toml", "CHANGELOG.md"}
    for name, text in texts(copy).items():
        assert f"{HERE.owner}/{HERE.name}" not in text and f"{HERE.owner}.github.io" not in text, name
        assert "someone" in text or name == "CHANGELOG.md"
    notebook = texts(copy)["05_one_shot_evaluation.ipynb"]
    assert "git clone -q --depth=1 https://github.com/someone/else\\n" in notebook
    assert "colab.research.google.com/github/someone/else/blob/main/notebooks/05_one_shot" in notebook
    assert "[Read the report](https://someone.github.io/else/)" in texts(copy)["README.md"]
    assert address.update_links(copy) == []
    address.set_address(copy, HERE.url)
    address.update_links(copy)
    assert texts(copy) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("CITATION.cff", "repository-code: https://github.com/", "repository-code: https://example.org/"),
        ("CITATION.cff", "\nurl: https://", "\nurl: http://"),
        ("CONTRIBUTING.md", f"{HERE.owner}/{HERE.name}/issues", "other/place/issues"),
        (
            "README.md",
            f"github/{HERE.owner}/{HERE.name}/blob/main/notebooks/08",
            "github/other/x/blob/main/notebooks/08",
        ),
        ("README.md", f"{HERE.url} && cd {HERE.name}", "https://github.com/other/x && cd x"),
        ("README.md", f"git+{HERE.url}", "git+https://github.com/other/x"),
        ("notebooks/07_face_verification.ipynb", "git clone -q --depth=1", "git clone --depth=1"),
    ],
)
def test_a_link_that_differs_is_mended(copy: Path, name: str, old: str, new: str) -> None:
    right = (copy / name).read_text(encoding="utf-8")
    assert old in right
    (copy / name).write_text(right.replace(old, new), encoding="utf-8")
    assert address.update_links(copy) == [copy / name]
    assert (copy / name).read_text(encoding="utf-8") == right


@pytest.mark.parametrize(
    "wrong", ["", "owner/name", "https://gitlab.com/a/b", "https://github.com/a", "https://github.com/a/b/c"]
)
def test_what_is_no_address_is_refused(copy: Path, wrong: str) -> None:
    before = texts(copy)
    with pytest.raises(ConfigError, match="no repository; write it as"):
        address.set_address(copy, wrong)
    assert texts(copy) == before
    (copy / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(ConfigError, match="names no repository"):
        address.update_links(copy)


def test_the_command_moves_all(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (copy / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "numbers.md", copy / "docs")
    monkeypatch.chdir(ROOT)  # where the results are
    monkeypatch.setattr(plotting, "save_figure", lambda *_: b"")
    answer = CliRunner().invoke(
        cli.app, ["readme", str(copy / "README.md"), "--address", "https://github.com/some/one"]
    )
    assert answer.exit_code == 0, answer.output
    assert "Links lead to https://github.com/some/one; " in answer.output
    assert Repository.of(copy) == Repository("some", "one") and address.update_links(copy) == []


def test_a_repository_named_as_its_pages_is_published_at_their_root() -> None:
    assert Repository("Some", "some.github.io").report == "https://some.github.io/"


def test_the_citation_is_that_of_the_package() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert cited["cff-version"] == "1.2.0" and cited["message"] and cited["authors"]
    assert f'version = "{cited["version"]}"' in project and f'license = "{cited["license"]}"' in project
    assert "keywords = " + json.dumps(cited["keywords"]) in project
    title = re.match("# (.+)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert title is not None and cited["title"] == title[1]
    assert f"\n## {cited['version']}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_report_is_published_after_ci() -> None:
    ci, pages = (
        yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
        for name in ("ci.yml", "pages.yml")
    )
    after = pages[True]["workflow_run"]  # YAML 1.1 reads the key `on` as true
    assert after == {"workflows": [ci["name"]], "types": ["completed"], "branches": ["main"]}
    build, publish = pages["jobs"]["build"], pages["jobs"]["publish"]
    assert "conclusion == 'success'" in build["if"]
    assert publish["needs"] == "build" and publish["permissions"] == {"pages": "write", "id-token": "write"}
    commands = " ".join(step.get("run", "") for step in build["steps"])
    uploaded = next(step["with"]["path"] for step in build["steps"] if "pages-artifact" in step.get("uses", ""))
    assert f"siamese_utils report --stored --out {uploaded}" in commands


def test_readme_leads_to_the_published_report_first() -> None:
    links = re.findall(r"\]\((https?://[^)]+)\)", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert links[0] == HERE.report
