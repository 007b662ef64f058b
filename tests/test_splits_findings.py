"""The measurements beside the protocol, against slow obvious versions and worlds whose answer is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import SPLIT_NAMES, class_split
from siamese_utils.errors import ResultsError
from siamese_utils.evaluation.estimates import Estimate
from siamese_utils.evaluation.protocol import METRICS
from siamese_utils.experiments import store
from siamese_utils.experiments.study import Outcome, Run, keep
from siamese_utils.studies.splits import classes, findings, growth
from siamese_utils.studies.splits.study import SPLIT_SWEEP
from siamese_utils.training.recipes import DEFAULT_RECIPE

CLASSES, EACH = 20, 24
SUPERCLASS_OF = tuple(label % 5 for label in range(CLASSES))


def world(spread: float = 0.6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings scattered around one direction a class."""
    generator = torch.Generator().manual_seed(seed)
    centres = F.normalize(torch.randn(CLASSES, 16, generator=generator), dim=1)
    labels = torch.arange(CLASSES).repeat_interleave(EACH)
    noise = torch.randn(len(labels), 16, generator=generator) / 4
    return F.normalize(centres[labels] + spread * noise, dim=1), labels


# ---------------------------------------------------------------------------------- measurements


@pytest.mark.parametrize("draw", [0, 1, 2])
def test_common_classes_are_unseen_in_every_split(draw: int) -> None:
    common = growth.common_classes(draw)
    assert len(common) == 10
    for name in SPLIT_NAMES[:-1]:
        assert set(common) <= set(class_split(name, draw).unseen)
    assert growth.common_classes(draw, 12) == class_split("10-2", draw, 12).unseen


def test_measurements_agree_with_all_pairs_in_float64() -> None:
    z, labels = world()
    split, threshold = class_split("12-8", 0, CLASSES), 0.3
    measured = growth.measure_growth(z, labels, split, threshold)
    assert set(measured) == set(growth.GROWTH_METRICS)
    for part, labels_of_part in (("seen", split.seen), ("unseen", split.unseen)):
        inside = np.isin(labels.numpy(), labels_of_part)
        some, y = z[inside].double().numpy(), labels[inside].numpy()
        first, second = np.triu_indices(len(y), 1)
        similarity, same = (some @ some.T)[first, second], y[first] == y[second]
        for key, right in (("same", similarity[same] > threshold), ("different", similarity[~same] <= threshold)):
            estimate = measured[f"{key}_right_{part}"]
            assert estimate.value == pytest.approx(100 * right.mean(), abs=2.5 * estimate.ci95 + 0.01)
            assert estimate.n == 25_000
    accuracies = [
        ((similarity[same] > cut).mean() + (similarity[~same] <= cut).mean()) / 2 for cut in np.linspace(-0.5, 1, 301)
    ]
    assert measured["pair_acc_unseen_best"].value == pytest.approx(100 * max(accuracies), abs=0.7)
    balanced = (measured["same_right_unseen"].value + measured["different_right_unseen"].value) / 2
    assert measured["pair_acc_unseen_best"].value >= balanced
    assert measured["threshold_seen"] == Estimate(threshold, 0.0, 1)


def test_common_accuracy_is_about_the_common_classes_alone() -> None:
    z, labels = world()
    split = class_split("12-8", 0, CLASSES)
    before = growth.measure_growth(z, labels, split, 0.3)["acc_5w1s_common"]
    common = torch.tensor(growth.common_classes(0, CLASSES))
    others = ~torch.isin(labels, common)
    changed = z.clone()
    changed[others] = changed[others].flip(0)
    assert growth.measure_growth(changed, labels, split, 0.3)["acc_5w1s_common"] == before
    assert growth.measure_growth(world(2.0)[0], labels, split, 0.3)["acc_5w1s_common"].value < before.value


def test_splits_that_leave_too_little_unseen() -> None:
    z, labels = world()
    everything = growth.measure_growth(z, labels, class_split("20-0", 0, CLASSES), 0.3)
    assert set(everything) == {"threshold_seen", "same_right_seen", "different_right_seen"}
    z, labels = z[: 10 * EACH], labels[: 10 * EACH]
    assert "acc_5w1s_common" not in growth.measure_growth(z[: 10 * EACH], labels, class_split("10-0", 0, 10), 0.3)


def slow_class_accuracy(z: torch.Tensor, labels: torch.Tensor, label: int, classes: tuple[int, ...]) -> float:
    """Task by task in float64."""
    rng = np.random.default_rng(99)
    rows = {c: np.flatnonzero(labels.numpy() == c) for c in classes}
    table = z.double().numpy()
    rivals = [c for c in classes if SUPERCLASS_OF[c] != SUPERCLASS_OF[label]]
    right = []
    for _ in range(3_000):
        own = rng.permutation(rows[label])[:16]
        support = [own[0]] + [rng.choice(rows[c]) for c in rng.permutation(rivals)[:4]]
        right += [int(np.argmax(table[support] @ table[query]) == 0) for query in own[1:]]
    return 100 * float(np.mean(right))


def test_class_accuracies_agree_with_a_slow_loop() -> None:
    z, labels = world(1.2)
    unseen = class_split("8-12", 0, CLASSES).unseen
    found = growth.class_accuracies(z, labels, unseen, SUPERCLASS_OF, named_rng(0, "x"))
    assert set(found) == set(unseen)
    for label in unseen[:3]:
        assert found[label].value == pytest.approx(slow_class_accuracy(z, labels, label, unseen), abs=2.0)
        assert 20 < found[label].value < 99 and found[label].n == 1_000


def test_siblings_are_never_rivals() -> None:
    """Two classes of one superclass that share one embedding: as rivals they would halve each other's accuracy."""
    z, labels = world(0.0)
    z[labels == 19] = z[labels == 14][:1]  # 14 and 19 are siblings
    unseen = class_split("8-12", 0, CLASSES).unseen
    found = growth.class_accuracies(z, labels, unseen, SUPERCLASS_OF, named_rng(0, "x"))
    assert all(estimate.value == 100 for estimate in found.values())
    everything_alike = growth.class_accuracies(z, labels, unseen, (0,) * CLASSES, named_rng(0, "x"))
    assert everything_alike == {}


# ------------------------------------------------------------------------------------ known relatives


def class_table(effect: float, noise: float = 0.0, seed: int = 0) -> pd.DataFrame:
    """Accuracies of the unseen classes of CIFAR-like splits, made of a class, a split and a relatives part."""
    rng = np.random.default_rng(seed)
    superclass_of = np.arange(100) // 5
    rows = []
    for draw in (1, 2):
        ease = rng.normal(60, 10, 100)
        for name in SPLIT_NAMES[:-1]:
            split = class_split(name, draw)
            known = np.bincount(superclass_of[list(split.seen)], minlength=20)
            for label in split.unseen:
                relatives = known[superclass_of[label]]
                value = ease[label] + 0.2 * len(split.seen) + effect * relatives + noise * rng.normal()
                rows.append((name, draw, len(split.seen), label, superclass_of[label], relatives, value, 1.0))
    columns = ["split", "draw", "learned", "label", "superclass", "relatives", "value", "ci95"]
    return pd.DataFrame(rows, columns=columns)


@pytest.mark.parametrize("effect", [0.0, 1.7, -2.0])
def test_effect_of_relatives_is_found_among_other_effects(effect: float) -> None:
    clean = classes.relative_effect(class_table(effect), resamples=5)
    assert clean.value == pytest.approx(effect, abs=1e-6) and clean.ci95 < 1e-5
    noisy = classes.relative_effect(class_table(effect, noise=3.0), resamples=100)
    assert 0 < noisy.ci95 < 1 and abs(noisy.value - effect) < 2 * noisy.ci95


def test_effect_agrees_with_least_squares_on_dummies() -> None:
    table = class_table(1.0, noise=5.0)
    dummies = pd.get_dummies(
        pd.DataFrame(
            {
                "c": table.draw.astype(str) + "/" + table.label.astype(str),
                "s": table.draw.astype(str) + "/" + table.split,
            }
        )
    ).to_numpy(dtype=np.float64)
    design = np.column_stack([table.relatives.to_numpy(dtype=np.float64), dummies])
    expected = np.linalg.lstsq(design, table.value.to_numpy(), rcond=None)[0][0]
    assert classes.relative_effect(table, resamples=1).value == pytest.approx(expected, abs=1e-6)


def test_effect_of_relatives_needs_something_to_compare() -> None:
    table = class_table(1.0)
    with pytest.raises(ResultsError, match="store more splits"):
        classes.relative_effect(table[table.split == "50-50"])


def test_class_effects_are_found_though_hard_splits_ask_other_classes() -> None:
    rng = np.random.default_rng(0)
    easy = rng.normal(0, 8, 100)
    easy -= easy.mean()
    rows = []
    for draw in (0, 1):
        for split in SPLIT_NAMES[:-1]:
            level = rng.normal(60, 10)
            for label in class_split(split, draw).unseen:
                rows.append((draw, split, label, level + easy[label]))
    table = pd.DataFrame(rows, columns=["draw", "split", "label", "value"])
    found = classes.class_effects(table)
    assert found.is_monotonic_increasing
    never = set(range(100)) - set(table.label)  # learned by every split, so nothing is known of them
    known = [label for label in range(100) if label not in never]
    expected = easy[known] - easy[known].mean()
    assert found.sort_index().index.tolist() == known
    np.testing.assert_allclose(found.sort_index(), expected, atol=1e-5)
    with pytest.raises(ResultsError, match="sweep"):
        classes.class_effects(table[:0])


# ------------------------------------------------------------------------------------- stored tables


def put(
    split: str,
    draw: int,
    metrics: dict[str, Estimate],
    *,
    recipe: str = DEFAULT_RECIPE,
    record: dict[str, Any] | None = None,
    **tables: dict[str, Estimate],
) -> None:
    run = Run({"split": split, "draw": draw, "seed": 0, "recipe": recipe}, {})
    keep(SPLIT_SWEEP, run, Outcome(metrics, record=record or {}, tables=tables), {})


def fill(project: Path) -> None:
    for draw, values in ((0, (40.0, 60.0)), (1, (44.0, 58.0))):
        for split, value in zip(("10-90", "90-10"), values, strict=True):
            by_class = {f"class {label}": Estimate(value, 1.0, 10) for label in class_split(split, draw).unseen}
            put(
                split,
                draw,
                {metric: Estimate(value, 0.5, 100) for metric in METRICS},
                growth={"acc_5w1s_common": Estimate(value - 5, 0.5, 10)},
                class_accuracy=by_class,
            )
    (project / "results" / "seed_reference.csv").write_text(
        "split,metric,value,ci95,source\n10-90,acc_5w1s,31.3,0.27,measured\n10-90,triplet_acc_seen,86.9,,published\n"
    )


def test_over_draws(project: Path) -> None:
    fill(project)
    table = findings.over_draws("acc_5w1s")
    assert table.split.tolist() == ["10-90", "90-10"] and table.learned.tolist() == [10, 90]
    assert table["mean"].tolist() == [42, 59] and table.low.tolist() == [40, 58] and table.high.tolist() == [44, 60]
    assert table.draws.tolist() == [2, 2] and table.sd[0] == pytest.approx(8**0.5)
    assert findings.over_draws("acc_5w1s_common")["mean"].tolist() == [37, 54]
    with pytest.raises(ResultsError, match="'acc_6w1s'"):
        findings.over_draws("acc_6w1s")
    put("10-90", 2, {"acc_5w1s": Estimate(90.0, 0.5, 100)})
    assert findings.over_draws("acc_5w1s").equals(table)  # a draw with one split of two
    rows = SPLIT_SWEEP.table()
    rows[~((rows.draw == 1) & (rows.split == "90-10"))].query("draw > 0").to_csv(SPLIT_SWEEP.path, index=False)
    assert findings.over_draws("acc_5w1s")["mean"].tolist() == [67]  # no draw is whole: one split of draws 1 and 2


def test_table_over_draws(project: Path) -> None:
    fill(project)
    table = findings.table_over_draws({"acc_5w1s": "5-way", "acc_5w1s_common": "the same ten"})
    assert table.to_dict("records") == [
        {"split": "10-90", "draws": 2, "5-way": "42.0 (40.0–44.0)", "the same ten": "37.0 (35.0–39.0)"},
        {"split": "90-10", "draws": 2, "5-way": "59.0 (58.0–60.0)", "the same ten": "54.0 (53.0–55.0)"},
    ]
    put("100-0", 0, {"pair_auc_seen": Estimate(95, 1, 9)})
    table = findings.table_over_draws({"acc_5w1s": "5-way", "pair_auc_seen": "AUC"})
    assert table.iloc[-1].tolist() == ["100-0", 1, "–", "95.0 (95.0–95.0)"]


def test_steps_of_every_draw(project: Path) -> None:
    fill(project)
    table = findings.steps("acc_5w1s")
    assert table[["draw", "learned", "next", "change"]].to_numpy().tolist() == [[0, 10, 90, 20], [1, 10, 90, 14]]
    assert table.ci95.tolist() == pytest.approx([0.5 * 2**0.5] * 2)
    with pytest.raises(ResultsError, match="'acc_6w1s'"):
        findings.steps("acc_6w1s")


def test_growth_sentence_tells_steps_up_level_and_down(project: Path) -> None:
    fill(project)
    told = findings.growth_sentence("acc_5w1s")
    assert told == (
        "Of the 2 steps of 2 class draws, every one leads up; the smallest, from 10 to 90 classes of draw 1, by "
        "14.0 ± 0.7 points."
    )
    for split, value in (("20-80", 39.0), ("30-70", 39.2)):
        put(split, 0, {"acc_5w1s": Estimate(value, 0.5, 100)})
    assert findings.growth_sentence("acc_5w1s") == (
        "Of the 4 steps of 2 class draws, 2 lead clearly up, 1 clearly down and 1 neither: "
        "10 to 20 in draw 0 (-1.0 ± 0.7), 20 to 30 in draw 0 (+0.2 ± 0.7)."
    )


def test_side_by_side(project: Path) -> None:
    fill(project)
    table = findings.side_by_side({"acc_5w1s": "5-way", "triplet_acc_seen": "triplets"})
    assert list(table) == ["split", "5-way, ours", "5-way, seed measured", "triplets, ours", "triplets, seed published"]
    assert table.iloc[0].tolist() == ["10-90", "40.00 ± 0.50", "31.30 ± 0.27", "40.00 ± 0.50", "86.90"]
    assert table.iloc[1].tolist() == ["90-10", "60.00 ± 0.50", "–", "60.00 ± 0.50", "–"]
    assert list(findings.side_by_side({"acc_5w1s": "5-way"}, draw=1)) == ["split", "5-way, ours"]
    assert findings.side_by_side({"acc_9w1s": "a metric that no split has"}).empty


def test_class_accuracies_come_back_with_their_relatives(project: Path) -> None:
    fill(project)
    names, superclass_of = [f"class {label}" for label in range(100)], [label // 5 for label in range(100)]
    table = classes.stored_class_accuracies(names, superclass_of)
    assert len(table) == 2 * (90 + 10)
    first = table[(table.draw == 0) & (table.learned == 90)]
    assert first.label.tolist() == list(range(90, 100)) and (first.relatives == 0).all()
    for row in table[table.draw == 1].itertuples():
        seen = class_split(row.split, 1).seen
        assert row.relatives == sum(label // 5 == row.label // 5 for label in seen)


def test_a_rerun_leaves_no_row_of_the_old_checkpoint(project: Path) -> None:
    fill(project)
    estimate = Estimate(0.2, 0.0, 1)
    put("10-90", 0, {"acc_5w1s": estimate}, growth={"threshold_seen": estimate}, class_accuracy={"class 5": estimate})
    name = "results/checkpoints/cifar100-10-90-draw0.safetensors"
    for table, metric in (("growth", "threshold_seen"), ("class_accuracy", "class 5")):
        rows = store.read_table(project / "results" / f"{table}.csv", SPLIT_SWEEP.all_columns)
        assert rows[rows.checkpoint == name].metric.tolist() == [metric]


def test_another_recipe_has_rows_and_a_record_of_its_own(project: Path) -> None:
    fill(project)
    put("10-90", 0, {"acc_5w1s": Estimate(0.2, 0.0, 1)}, recipe="another")
    table = SPLIT_SWEEP.table()
    assert set(table[table.recipe == "another"].checkpoint) == {
        "results/checkpoints/cifar100-10-90-draw0-seed0-another.safetensors"
    }
    assert (table.checkpoint == "results/checkpoints/cifar100-10-90-draw0.safetensors").sum() == len(METRICS)
    assert findings.over_draws("acc_5w1s")["mean"].tolist() == [42, 59]
    assert findings.swept("another").value.tolist() == [0.2]
    with pytest.raises(ResultsError, match="no rows by the recipe a third"):
        findings.swept("a third")


# ------------------------------------------------------------------------------------------- what it took


def test_costs_are_those_of_the_records(project: Path) -> None:
    def took(split: str, draw: int, minutes: float, precision: str = "float32", processor: str = "one") -> None:
        where = {"processor": processor, "precision": precision, "threads": 1}
        metrics = {"acc_5w1s": Estimate(50, 1, 9), "pair_auc_seen": Estimate(90, 1, 9)}
        put(split, draw, metrics, record={"seconds": 60 * minutes, "provenance": where})

    took("10-90", 0, 5)
    took("90-10", 0, 20)
    took("10-90", 1, 6)
    took("90-10", 1, 7, "bfloat16")
    took("50-50", 1, 8, processor="another")
    table = findings.costs()
    assert table[["draw", "runs", "processor", "precision", "minutes"]].to_numpy().tolist() == [
        [0, 2, "one", "float32", 25],
        [1, 1, "another", "float32", 8],
        [1, 1, "one", "bfloat16", 7],
        [1, 1, "one", "float32", 6],
    ]
    (project / "results" / "runs" / "cifar100-50-50-draw1.json").unlink()
    with pytest.raises(ResultsError, match="50-50"):
        findings.costs()


def test_runs_of_ones_own_with_another_seed_are_not_counted_as_draws(project: Path) -> None:
    for seed in (0, 1):
        for table in ("split_sweep", "growth", "class_accuracy"):
            key = {"split": "90-10", "draw": 0, "seed": seed, "recipe": DEFAULT_RECIPE}
            rows = {"acc_5w1s" if table != "class_accuracy" else "apple": Estimate(70.0 + seed, 0.2, 100)}
            store.store_rows(project / "results" / f"{table}.csv", key, rows, f"{seed}", SPLIT_SWEEP.all_columns)
    assert findings.swept().value.tolist() == [70.0]
    assert findings.sweep_with_growth().value.tolist() == [70.0, 70.0]
    assert classes.stored_class_accuracies().value.tolist() == [70.0]
