"""What the sweep took, on made-up records whose answer is known."""

from __future__ import annotations

from pathlib import Path

import pytest

from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.experiments import store as results
from siamese_utils.studies.splits import findings as sweep_costs


def store(split: str, draw: int, minutes: float, precision: str = "float32", processor: str = "one") -> None:
    key = {"split": split, "draw": draw, "seed": 0, "recipe": "r"}
    results.store_run(key, {"acc_5w1s": Estimate(50, 1, 9), "pair_auc_seen": Estimate(90, 1, 9)}, "")
    where = {"processor": processor, "precision": precision, "threads": 1}
    results.store_json(f"cifar100-{split}-draw{draw}", {"seconds": 60 * minutes, "provenance": where})


def test_costs_are_those_of_the_records(project: Path) -> None:
    store("10-90", 0, 5)
    store("90-10", 0, 20)
    store("10-90", 1, 6)
    store("90-10", 1, 7, "bfloat16")
    store("50-50", 1, 8, processor="another")
    table = sweep_costs.costs()
    assert table[["draw", "runs", "processor", "precision", "minutes"]].to_numpy().tolist() == [
        [0, 2, "one", "float32", 25],
        [1, 1, "another", "float32", 8],
        [1, 1, "one", "bfloat16", 7],
        [1, 1, "one", "float32", 6],
    ]
    (project / "results" / "runs" / "cifar100-50-50-draw1.json").unlink()
    with pytest.raises(ResultsError, match="50-50"):
        sweep_costs.costs()
