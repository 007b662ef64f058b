"""The report's first page says what the stored results give, and its claims hold for them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from siamese_utils.report import answer
from siamese_utils.report.execute import numbered_notebooks, read
from siamese_utils.report.render import FINDING
from siamese_utils.studies.budgets.findings import accuracy_by_classes
from siamese_utils.studies.drawing import findings as drawing
from siamese_utils.studies.objectives.findings import objective_results
from siamese_utils.studies.splits.findings import over_draws
from siamese_utils.training.recipes import DEFAULT_RECIPE

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = [path.stem for path in numbered_notebooks(ROOT / "notebooks")]


@pytest.fixture
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def stored(table: str, metric: str, **key: object) -> float:
    rows = pd.read_csv(ROOT / "results" / f"{table}.csv")
    for column, value in {"metric": metric, **key}.items():
        rows = rows[rows[column] == value]
    (value,) = rows.value
    return float(value)


@pytest.mark.usefixtures("in_project")
def test_five_findings_with_their_numbers() -> None:
    found = answer.answer()
    assert len(found.findings) == 5 and len(found.cost) == 2 and len(found.limits) == 5
    sweep = {"split": "90-10", "draw": 0, "seed": 0, "recipe": DEFAULT_RECIPE}
    expected = (
        (stored("split_sweep", "acc_5w1s", **sweep), stored("split_sweep", "acc_5w5s", **sweep)),
        (over_draws("acc_5w1s")["mean"].iloc[-1], accuracy_by_classes()["mean"].iloc[-1]),
        (objective_results()["mean"].iloc[0], stored("triplet_systems", "acc_5w1s", recipe="muon-triplet")),
        (),
        (stored("drawing", "acc_20w1s_runs", train_on="both"), drawing.PUBLISHED[0].accuracy),
    )
    for finding, numbers in zip(found.findings, expected):
        assert all(f"{number:.1f}" in finding.text for number in numbers), finding
        assert re.search(r"\*\*[\d.]+( ± [\d.]+)?%\*\*", finding.text), "one number stands out"
        assert set(finding.pages) <= set(NOTEBOOKS)
    everything = " ".join([*found.cost, *found.limits, *(one.text for one in found.findings)])
    assert "Not stored" not in everything and "nan" not in everything.lower()
    assert f"{stored('split_sweep', 'legacy_always_different', **sweep):.1f}" in found.limits[-1]


@pytest.mark.usefixtures("in_project")
def test_claims_hold() -> None:
    """Words that no number is put into: where results turn, the words have to."""
    draws, spread = over_draws("acc_5w1s")["mean"], accuracy_by_classes()
    assert draws.iloc[-1] - draws.iloc[0] > 5 and spread["mean"].iloc[-1] - spread["mean"].iloc[0] > 5
    kinds = objective_results().groupby("kind")["mean"].max()
    assert kinds["proxies"] - 2 > kinds["pairs"] > kinds["triplets"]
    key = {"split": "90-10", "draw": 0, "seed": 0, "recipe": DEFAULT_RECIPE}
    sweep = stored("split_sweep", "acc_5w1s", **key)
    assert abs(sweep - stored("triplet_systems", "acc_5w1s", recipe="muon-triplet")) < 2
    assert stored("split_sweep", "legacy_always_different", **key) > stored(
        "seed_reference", "legacy_few_shot", split="90-10", source="published"
    )


@pytest.mark.usefixtures("in_project")
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_page_has_a_finding_and_a_picture(name: str) -> None:
    notebook = read(ROOT / "notebooks" / f"{name}.ipynb")
    told = [cell for cell in notebook.cells if FINDING in cell.metadata.get("tags", ())]
    sentence = answer.page_finding(name)
    assert (sentence is None) == (len(told) == 1), "a sentence of its own, or one that its text tells"
    if sentence is not None:
        assert re.search(r"\d", sentence) and sentence.endswith(".") and len(sentence) < 220
    pictured = any(
        "image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ())
    )
    assert answer.page_picture(name, ROOT / "figures") is not None or pictured, "a figure for the first page"


def test_pictures_are_those_of_their_page() -> None:
    for name, shown in answer.ON_PAGE.items():
        assert shown.picture[:2] == name[:2] and (ROOT / "figures" / f"{shown.picture}.png").is_file()


def test_what_is_not_stored_is_said(project: Path) -> None:
    found = answer.answer()
    assert [one.claim for one in found.findings] == ["Not stored yet."] * 5
    assert all(one.text.endswith(".") for one in found.findings)
    assert "*Not stored yet.*" in found.limits[0]
    assert {name: answer.page_finding(name) for name in answer.ON_PAGE} == dict.fromkeys(answer.ON_PAGE)
    assert answer.page_picture("04_split_sweep", project / "figures") is None


@pytest.mark.usefixtures("in_project")
def test_the_whole_cost_counts_every_second_once() -> None:
    """The records alone tell it too, with those of the classes that are added in seconds."""
    seconds, added = 0.0, 0
    for file in (ROOT / "results").glob("**/*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        own = record.get("seconds", sum(row.get("seconds", 0) for row in record.get("history", [])))
        seconds += own * record["provenance"].get("threads", 1)
        added += file.parent.name == "imprinting_moved"
    spent = answer.seconds_spent()
    assert sum(spent) == pytest.approx(seconds, abs=1.0) and added == 100
    assert f"**{seconds / 3600:.0f} hours**" in answer.whole_cost()
