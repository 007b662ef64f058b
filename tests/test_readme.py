"""The README, the headline figure and the stored results say the same."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.protocol import METRICS
from siamese_utils.experiments.study import Outcome, Run, keep
from siamese_utils.report import readme
from siamese_utils.studies import reference
from siamese_utils.studies.ensembles.study import ENSEMBLES, TOGETHER
from siamese_utils.studies.objectives.systems import TRIPLET_SYSTEMS
from siamese_utils.studies.splits.one_shot import stored_metrics, stored_values
from siamese_utils.studies.splits.study import SPLIT_SWEEP

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def in_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("in_project")
def test_readme_headline_is_what_the_results_give() -> None:
    for page, block, expected in (
        ("README.md", "headline", readme.headline_text()),
        ("docs/numbers.md", "speed", readme.speed_text()),
    ):
        text = (ROOT / page).read_text(encoding="utf-8")
        begin, end = readme._marks(block)
        assert text.split(begin)[1].split(end)[0].strip() == expected, "run `python -m siamese_utils readme`"


@pytest.mark.usefixtures("in_project")
def test_headline_numbers_are_rows_of_the_results() -> None:
    stored = pd.read_csv(ROOT / "results" / "split_sweep.csv")
    row = stored[(stored.split == "90-10") & (stored.draw == 0) & (stored.seed == 0) & (stored.metric == "acc_5w1s")]
    assert len(row) == 1
    assert f"**{row.value.iloc[0]:.1f}** ± {row.ci95.iloc[0]:.1f} (62.2)" in readme.headline_table()


def test_other_systems_have_rows_of_their_own(project: Path) -> None:
    assert readme._other_systems() == []
    metrics = {metric: Estimate(50.0 + place, 0.5, 9) for place, metric in enumerate(readme.HEADLINE_METRICS)}
    key = {"split": "90-10", "draw": 0, "seed": 0, "recipe": "muon-triplet"}
    keep(TRIPLET_SYSTEMS, Run(key, {}), Outcome(metrics), {})
    for seed in range(3):
        together = {f"{name}{TOGETHER}": Estimate(60.0 + seed, 0.5, 9) for name in metrics}
        key = {"task": "90-10", "seed": seed, "recipe": "any"}
        keep(ENSEMBLES, Run(key, {}), Outcome({**metrics, **together}), {})
    alone, together = readme._other_systems()
    assert (alone.label, alone.note) == ("90-10, by triplets alone", readme.OTHER_RECIPES["muon-triplet"][1])
    assert alone.rows.value["acc_5w5s"] == 51
    assert together.label == "90-10, three networks together"
    assert together.rows.value.to_dict() == dict.fromkeys(metrics, 62.0)


@pytest.mark.usefixtures("in_project")
def test_headline_figure_description_is_current() -> None:
    _, alt = readme.headline_figure()
    assert (ROOT / "figures" / "headline.alt.txt").read_text(encoding="utf-8").strip() == alt
    assert (ROOT / "figures" / "headline.svg").is_file()


def test_readme_update_changes_a_wrong_number_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "docs").mkdir()
    right = {}
    for page, names in (("README.md", ("headline", "photographs")), ("docs/numbers.md", ("speed",))):
        text = right[page] = (ROOT / page).read_text(encoding="utf-8")
        for name in names:
            begin, end = readme._marks(name)
            head, rest = text.split(begin)
            block, tail = rest.split(end)
            text = head + begin + re.sub(r"\d", "7", block) + end + tail
            assert text != right[page]
        (tmp_path / page).write_text(text, encoding="utf-8")
    assert readme.update_readme(tmp_path / "README.md") is True
    assert {page: (tmp_path / page).read_text(encoding="utf-8") for page in right} == right
    assert readme.update_readme(tmp_path / "README.md") is False


def test_readme_without_markers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (tmp_path / "README.md").write_text("# nothing here\n")
    with pytest.raises(ResultsError, match="no headline markers"):
        readme.update_readme(tmp_path / "README.md")


@pytest.mark.usefixtures("in_project")
def test_benchmark_table_is_of_one_processor() -> None:
    stored = pd.read_csv(ROOT / "results" / "benchmarks.csv")
    latest = stored[stored.benchmark == "training_options"].sort_values("date", kind="stable").processor.iloc[-1]
    stored = stored[(stored.benchmark == "training_options") & (stored.processor == latest)]
    table = readme.benchmark_table("training_options", "Steps").frame
    assert table.side.tolist() == stored.side.tolist() and table.side.is_unique
    assert table.ratio.iloc[1] == f"{stored.ratio.iloc[1]:.2f} ± {stored.ratio_spread.iloc[1]:.2f}"
    with pytest.raises(ResultsError, match="make bench"):
        readme.benchmark_table("nothing", "Steps")


@pytest.mark.usefixtures("in_project")
def test_speeds_are_those_of_the_benchmarks() -> None:
    stored = pd.read_csv(ROOT / "results" / "benchmarks.csv")
    latest = stored[stored.benchmark == "evaluation_5w1s"].sort_values("date", kind="stable").processor.iloc[-1]
    stored = stored[stored.processor == latest].set_index(["benchmark", "side"])
    for side, against in (
        ("siamese_utils, episodes given", "easyfsl, the same accuracies for the same episodes"),
        ("siamese_utils, with drawing the episodes", "easyfsl, which is given the episodes"),
    ):
        ours = stored.loc[("evaluation_5w1s", side)]
        assert f"{against} | **{ours.ratio:.0f}** ({ours.value:,.0f} : " in readme.speed_text()


@pytest.mark.usefixtures("in_project")
def test_every_stored_row_is_sound() -> None:
    table = SPLIT_SWEEP.table()
    assert set(table.metric) <= set(METRICS)
    assert not table.duplicated(["split", "draw", "seed", "recipe", "metric"]).any()
    assert table.value.between(0, 100).all()
    assert (table.ci95 >= 0).all()
    assert (table.n > 0).all()
    for checkpoint in table.checkpoint.unique():
        if checkpoint:
            file = ROOT / checkpoint
            assert file.is_file()
            assert file.stat().st_size <= 8 * 2**20


@pytest.mark.usefixtures("in_project")
def test_every_run_has_its_record() -> None:
    table = SPLIT_SWEEP.table()
    for (split, draw, recipe), _ in table.groupby(["split", "draw", "recipe"]):
        record = json.loads((ROOT / "results" / "runs" / f"cifar100-{split}-draw{draw}.json").read_text())
        assert record["recipe"] == recipe
        assert record["config"]["recipe"] == recipe
        assert record["seconds"] == pytest.approx(sum(row["seconds"] for row in record["history"]))
        assert record["provenance"]["commit"]
        assert "+changes" not in record["provenance"]["commit"], "numbers must come from committed code"


def test_seed_reference_has_no_row_twice() -> None:
    seed = reference.seed_reference()
    assert not seed.duplicated(["split", "metric", "source"]).any()
    assert (seed.source.isin(["published", "measured"])).all()


# --- one recipe -------------------------------------------------------------------------------------


def test_recipes_are_not_mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another recipe's numbers had taken the place of those of one split."""
    (tmp_path / "siamese_utils").mkdir()
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("checkpoints", "studies"))
    monkeypatch.chdir(tmp_path)
    assert readme.headline_text()
    record = tmp_path / "results" / "runs" / "cifar100-90-10-draw0.json"
    whole = record.read_text()
    record.write_text(whole.replace('"recipe": "muon-proxy-triplet"', '"recipe": "smoke"'))
    with pytest.raises(ResultsError, match="names the recipe smoke"):
        readme.headline_text()
    record.write_text(whole)
    path = tmp_path / "results" / "split_sweep.csv"
    table = pd.read_csv(path, keep_default_na=False)
    table.loc[(table.split == "90-10") & (table.draw == 0), "recipe"] = "smoke"
    table.to_csv(path, index=False)
    for told in (readme.headline_text, readme.headline_figure, stored_metrics, stored_values):
        with pytest.raises(ResultsError, match=r"split_sweep\.csv mixes the recipes muon-proxy-triplet and smoke"):
            told()
