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
from siamese_utils.report import answer, readme
from siamese_utils.studies import reference
from siamese_utils.studies.ensembles.draws import CLASS_DRAWS
from siamese_utils.studies.ensembles.draws_findings import WAYS
from siamese_utils.studies.ensembles.study import ENSEMBLES, TOGETHER
from siamese_utils.studies.objectives.findings import reached_sentence
from siamese_utils.studies.objectives.systems import TRIPLET_SYSTEMS
from siamese_utils.studies.splits import findings as splits
from siamese_utils.studies.splits.classes import stored_class_accuracies
from siamese_utils.studies.splits.one_shot import stored_metrics, stored_values
from siamese_utils.studies.splits.study import SPLIT_SWEEP, run_name
from siamese_utils.training import recipes

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
    stored = stored[stored.recipe == recipes.DEFAULT_RECIPE]
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
        key = {"task": "90-10", "seed": seed, "recipe": recipes.DEFAULT_RECIPE}
        keep(ENSEMBLES, Run(key, {}), Outcome({**metrics, **together}), {})
    alone, together = readme._other_systems()
    assert (alone.label, alone.note) == ("90-10, by triplets alone", readme.OTHER_RECIPES["muon-triplet"][1])
    assert alone.rows.value["acc_5w5s"] == 51
    assert together.label == "90-10, three networks together"
    assert together.rows.value.to_dict() == dict.fromkeys(metrics, 62.0)


@pytest.mark.parametrize(
    ("networks", "views", "label"),
    [(*WAYS[1], f"90-10, `{recipes.LONG_RECIPES[0]}`"), (*WAYS[-1], "90-10, both of these")],
)
def test_longer_trainings_have_rows_of_their_own(project: Path, networks: str, views: str, label: str) -> None:
    def put(draw: int, value: float, views: str) -> None:
        rows = [(draw, networks, views, name, value + place, 0.5, 9) for place, name in enumerate(CLASS_DRAWS.metrics)]
        old = [CLASS_DRAWS.table()] if CLASS_DRAWS.path.exists() else []
        pd.concat([*old, pd.DataFrame(rows, columns=CLASS_DRAWS.columns)]).to_csv(CLASS_DRAWS.path, index=False)

    put(1, 60.0, views)
    put(0, 90.0, "other views")
    assert readme._other_systems() == []  # draw 0 is missing
    put(0, 80.0, views)
    (found,) = readme._other_systems()
    assert found.label == label and found.draws == "–"  # one draw of three is missing
    assert found.rows.value["acc_5w5s"] == 81 and found.rows.ci95["acc_5w1s"] == 0.5
    put(2, 70.0, views)
    assert readme._other_systems()[0].draws == "70.0 (60.0 to 80.0)"


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
    for (split, draw, seed, recipe), _ in table.groupby(["split", "draw", "seed", "recipe"]):
        record = json.loads((ROOT / "results" / "runs" / f"{run_name(split, draw, seed, recipe)}.json").read_text())
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
    with pytest.raises(ResultsError, match="No results are stored for split 90-10, draw 0"):
        stored_metrics()
    assert stored_values().empty
    table.assign(recipe="smoke").to_csv(path, index=False)
    for told in (readme.headline_text, readme.headline_figure, stored_metrics, stored_values):
        with pytest.raises(ResultsError, match=r"split_sweep\.csv has no rows by the recipe muon-proxy-triplet"):
            told()


def test_rows_of_another_recipe_change_nothing_that_is_told_of_the_reports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "siamese_utils").mkdir()
    shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("checkpoints"))
    monkeypatch.chdir(tmp_path)

    def told() -> list[str]:
        whole = [
            *(readme.headline_text(), readme.headline_figure()[1], stored_metrics()[1], stored_values()),
            *(splits.sweep_with_growth(), splits.over_draws("acc_5w1s"), stored_class_accuracies(), splits.costs()),
            *(splits.progress()[1], splits.legacy_table().frame, splits.threshold_sentence(), reached_sentence()),
            *(answer.old_metric(), answer.told_apart(), answer.more_classes(), answer.one_example()),
        ]
        return [str(one if isinstance(one, str) else one.to_csv()) for one in whole]

    before = told()
    for name in ("split_sweep", "growth", "class_accuracy"):
        path = tmp_path / "results" / f"{name}.csv"
        table = pd.read_csv(path, keep_default_na=False)
        others = table[table.recipe == recipes.DEFAULT_RECIPE].assign(recipe="smoke", value=1.5)
        pd.concat([others, table]).to_csv(path, index=False)
    assert told() == before
