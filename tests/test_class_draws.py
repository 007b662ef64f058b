"""Longer trainings on 90-10, draw by draw: what is judged, and what is told of it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import TINY
from torch.nn import functional as F

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split
from siamese_utils.encoders.checkpoints import load_encoder
from siamese_utils.encoders.views import FIVE_SHIFTS, shifted
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Bench, complete, stored
from siamese_utils.studies.ensembles import draws, draws_findings, figures
from siamese_utils.studies.ensembles.draws import CLASS_DRAWS
from siamese_utils.studies.ensembles.draws_findings import BASIS, WAYS, OverDraws
from siamese_utils.studies.ensembles.study import unseen_metrics
from siamese_utils.studies.splits.study import SPLIT_SWEEP, checkpoint_path
from siamese_utils.training import recipes


def test_networks_of_a_draw_are_judged_on_its_unseen_classes(
    hundred: tuple[ImageSet, ImageSet], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing networks are trained by the sweep, whose numbers those of one image as it is must be."""
    for name, rate in (("tiny", TINY.learning_rate), ("small", TINY.learning_rate / 2)):
        monkeypatch.setitem(recipes.RECIPES, name, dataclasses.replace(TINY, recipe=name, learning_rate=rate))
    monkeypatch.setattr(draws, "NETWORKS", {"first": ("tiny",), "both": ("tiny", "small")})
    monkeypatch.setattr(draws, "DRAWS", (0, 2))
    bench = Bench.of(*hundred, device="cpu", progress=False)
    runs = CLASS_DRAWS.runs()
    assert [run.label for run in runs] == ["draw0-first", "draw0-both", "draw2-first", "draw2-both"]
    assert runs[0].images > 0 and runs[1].images == 0  # each of two networks is planned as a run of its own
    table = complete(CLASS_DRAWS, bench)
    assert all(stored(CLASS_DRAWS, run) == "yes" and run.images == 0 for run in CLASS_DRAWS.runs())
    key = ["draw", "networks", "views", "metric"]
    assert len(table) == 2 * 2 * 2 * 4 and not table.duplicated(key).any()
    values, swept = table.set_index(key).value, SPLIT_SWEEP.table()
    assert set(swept.split) == {"90-10"} and set(swept.recipe) == {"tiny", "small"}
    for metric in CLASS_DRAWS.metrics:
        for draw in (0, 2):
            alone = store.result(swept, draw=draw, recipe="tiny", metric=metric).value
            assert values[draw, "first", "as it is", metric] == pytest.approx(alone, abs=2e-3)
    # By hand: both networks, and images moved by each of the shifts.
    unseen = hundred[1].indices_of(class_split("90-10", 2).unseen)
    images, labels = hundred[1].images[unseen], hundred[1].labels[unseen]
    both = [load_encoder(checkpoint_path("90-10", 2, recipe=name)) for name in ("tiny", "small")]
    for view, shifts in {"as it is": [(0, 0)], "shifted": FIVE_SHIFTS}.items():
        summed = [sum(one.embed(shifted(images, *shift)) for shift in shifts) for one in both]
        z = torch.cat([F.normalize(parts, dim=1) for parts in summed], dim=1) / 2**0.5
        for metric, estimate in unseen_metrics(z, labels).items():
            assert values[2, "both", view, metric] == pytest.approx(estimate.value, abs=0.02)
    by_view = values.unstack("views")
    assert (by_view["as it is"] != by_view["shifted"]).all()
    by_networks = values.unstack("networks")
    assert (by_networks["first"] - by_networks["both"]).abs().min() > 0.01


def test_networks_are_those_of_the_benchmark() -> None:
    assert len(CLASS_DRAWS.runs()) == 12 and all(run.expectation for run in CLASS_DRAWS.runs())
    assert draws.NETWORKS[BASIS] == (recipes.DEFAULT_RECIPE,)
    assert draws.NETWORKS["both-long"] == recipes.LONG_RECIPES


def put(draw: int, networks: str, views: str, value: float) -> None:
    rows = [(draw, networks, views, name, value + place, 0.3, 100) for place, name in enumerate(CLASS_DRAWS.metrics)]
    new = pd.DataFrame(rows, columns=CLASS_DRAWS.columns)
    old = [CLASS_DRAWS.table()] if CLASS_DRAWS.path.exists() else []
    pd.concat([*old, new]).to_csv(CLASS_DRAWS.path, index=False)


def test_draws_are_told_with_gains_and_a_mean_once_all_are_stored(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draws_findings, "_minutes", lambda draw, recipe: 10.0 + draw)
    for told in (draws_findings.draws_table, draws_findings.draws_sentence, figures.draws_figure):
        with pytest.raises(ResultsError, match="class_draws"):
            told()
    (_, long, *_, together) = (networks for networks, _ in WAYS)
    for draw, value in enumerate((70.0, 60.0, 65.0)):
        put(draw, BASIS, "as it is", value)
    put(0, long, "as it is", 74.0)
    put(2, long, "as it is", 66.5)
    assert OverDraws.read(long, "as it is", "acc_5w1s").mean is None  # draw 1 is missing
    assert draws_findings.draws_sentence() == (
        f"Points gained over the report's training, 5-way 1-shot on 90-10: *{long}* +4.0 on draw 0, +1.5 on draw 2."
    )
    put(1, long, "as it is", 63.5)
    put(1, together, "shifted", 64.0)
    half = 0.3 / math.sqrt(3)
    assert OverDraws.read(long, "as it is", "acc_5w1s").mean == Estimate(68.0, pytest.approx(half), 300)
    assert draws_findings.draws_sentence().endswith(
        "+3.5 on draw 1, +1.5 on draw 2, on average **68.0 ± 0.2** (the report's 65.0 ± 0.2); "
        "*one of each, shifted* +4.0 on draw 1."
    )
    table = draws_findings.draws_table().frame
    assert table.networks.tolist() == ["the report's", long, "one of each"]
    assert table["mean"].tolist() == ["65.0 ± 0.2", "68.0 ± 0.2", "–"] and table["draw 0"].tolist()[2] == "–"
    assert table["mean, 5-shot"].tolist()[:2] == ["66.0 ± 0.2", "69.0 ± 0.2"]
    assert table["core-minutes"].tolist() == ["11", "11", "22"]


def test_a_figure_of_draws_has_every_number_in_its_text(project: Path) -> None:
    for draw in draws.DRAWS:
        for step, (networks, views) in enumerate(WAYS):
            put(draw, networks, views, 60.0 + 5 * draw + 2 * step)
    shown = figures.draws_figure()
    (axis,) = shown.figure.axes
    assert [text.get_text() for text in axis.get_yticklabels()] == ["draw 0", "draw 1", "draw 2", "mean"]
    assert [text.get_text() for text in axis.texts] == ["60.0", "66.0", "65.0", "71.0", "70.0", "76.0", "65.0", "71.0"]
    assert "the report's: 60.0 on draw 0, 65.0 on draw 1, 70.0 on draw 2, 65.0 on average" in shown.alt
    assert "one of each, shifted: 66.0 on draw 0" in shown.alt
