"""Classes or images: what is learned, what is judged on, and that nothing is done twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import class_split
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.errors import SplitError
from siamese_utils.studies.budgets import classes_or_images as class_budget
from siamese_utils.studies.budgets.classes_or_images import over_seeds, run_class_budget, stored_class_budget, thinned
from siamese_utils.studies.splits.growth import common_classes
from siamese_utils.training import recipes
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

TINY = TrainConfig(
    recipe="tiny", terms=(Term("proxy"),), encoder="conv3", embedding_dim=8, epochs=9, batch_size=16,
    images_per_class=2, held_out_images=4, resolutions=((0.0, 16),),
)  # fmt: skip


@pytest.fixture(scope="module")
def parts() -> tuple[ImageSet, ImageSet]:
    return make_synthetic("train", num_classes=20, per_class=24), make_synthetic("test", num_classes=20, per_class=24)


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    monkeypatch.setattr(class_budget, "IMAGES_SHOWN", 96)
    return project


def run(parts: tuple[ImageSet, ImageSet], seeds: tuple[int, ...] = (0,), counts: tuple[int, ...] = (4, 12)) -> None:
    run_class_budget(
        *parts, recipe_name="tiny", total=48, counts=counts, seeds=seeds, device="cpu", progress=False
    )


def test_thinning_takes_an_even_random_share(parts: tuple[ImageSet, ImageSet]) -> None:
    train_set = parts[0]
    some = thinned(train_set, (1, 4, 6), 31, seed=0)
    assert torch.bincount(some.labels).tolist() == [0, 10, 0, 0, 10, 0, 10]
    originals = {(image.numpy().tobytes(), int(y)) for image, y in zip(train_set.images, train_set.labels, strict=True)}
    kept = [(image.numpy().tobytes(), int(y)) for image, y in zip(some.images, some.labels, strict=True)]
    assert set(kept) <= originals and len(set(kept)) == 30
    assert not torch.equal(thinned(train_set, (1, 4, 6), 31, seed=1).images, some.images)
    # A class keeps its images whatever other classes are learned, and fewer images are some of the more.
    again = thinned(train_set, (1, 7), 12, seed=0)
    assert {(i.numpy().tobytes(), 1) for i in again.images[again.labels == 1]} <= set(kept)
    with pytest.raises(SplitError, match="24 images, not the 25"):
        thinned(train_set, (1, 4), 50, seed=0)


def test_same_images_and_steps_for_every_number_of_classes(
    parts: tuple[ImageSet, ImageSet], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = class_budget.train, []

    def recording(config: TrainConfig, images: ImageSet, classes: tuple[int, ...], **more: object) -> object:
        asked.append((config, images, classes))
        return real(config, images, classes, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(class_budget, "train", recording)
    run(parts, seeds=(0, 1))
    assert [(len(images), len(classes)) for _, images, classes in asked] == [(48, 4), (48, 12)] * 2
    judged = set(common_classes(0, 20))
    for config, images, classes in asked:
        assert set(images.labels.tolist()) == set(classes) and not judged & set(classes)
        assert config.held_out_images == 0
    assert asked[0][2] == class_split("4-16", 0, 20).seen
    for count in (4, 12):
        record = json.loads((project / "results" / "runs" / f"classes-or-images-{count}-seed1.json").read_text())
        shown = sum(row["images_per_second"] * row["seconds"] for row in record["history"])
        assert shown == pytest.approx(96) and record["provenance"]["processor"]

    table = stored_class_budget()
    assert len(table) == 2 * 2 * 3 and set(table.metric) == {"acc_5w1s", "acc_5w5s", "pair_auc"}
    assert table[table.classes == 12].images_per_class.eq(4).all()
    summary = over_seeds()
    assert summary.classes.tolist() == [4, 12] and summary.seeds.tolist() == [2, 2]
    assert (summary.low <= summary["mean"]).all() and (summary["mean"] <= summary.high).all()

    asked.clear()
    before = class_budget.table_path().read_bytes()
    run(parts, seeds=(0, 1))
    assert not asked and class_budget.table_path().read_bytes() == before
    run(parts, seeds=(0, 1, 2))
    assert [config.seed for config, _, _ in asked] == [2, 2]


def test_other_test_images_change_nothing(parts: tuple[ImageSet, ImageSet], project: Path) -> None:
    """Only the test images of classes that no split learns are looked at."""
    import dataclasses

    train_set, test_set = parts
    images = test_set.images.clone()
    learned = test_set.indices_of(class_split("18-2", 0, 20).seen)
    images[learned] = 255 - images[learned]
    run(parts, counts=(4,))
    first = stored_class_budget().value.tolist()
    class_budget.table_path().unlink()
    run((train_set, dataclasses.replace(test_set, images=images)), counts=(4,))
    assert stored_class_budget().value.tolist() == first


def test_no_class_left_to_judge_on(parts: tuple[ImageSet, ImageSet], project: Path) -> None:
    with pytest.raises(SplitError, match="leave none to judge on"):
        run(parts, counts=(19,))
