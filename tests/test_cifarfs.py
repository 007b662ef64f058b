"""CIFAR-FS: which classes and images are learned and judged, and what is stored."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from siamese_utils.data.cifar import CIFAR100_CLASSES
from siamese_utils.data.images import ImageSet
from siamese_utils.data.splits import fewshot_split_cifar_fs
from siamese_utils.encoders.checkpoints import checkpoint_info
from siamese_utils.errors import CheckpointError, DataError
from siamese_utils.experiments import store as results
from siamese_utils.studies.ensembles import cifar_fs as cifarfs
from siamese_utils.studies.ensembles.cifar_fs import all_images, reevaluate_cifar_fs, run_cifar_fs, stored_cifar_fs
from siamese_utils.training import recipes
from siamese_utils.training.config import TrainConfig
from siamese_utils.training.losses import Term

TINY = TrainConfig(
    recipe="tiny", terms=(Term("proxy"),), encoder="conv3", embedding_dim=8, epochs=1, batch_size=64,
    resolutions=((0.0, 16),),
)  # fmt: skip


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(recipes.RECIPES, "tiny", TINY)
    return project


def test_run_is_stored_and_reproduced_from_its_checkpoint(hundred: tuple[ImageSet, ImageSet], project: Path) -> None:
    metrics = run_cifar_fs(3, "tiny", *hundred, device="cpu", progress=False)
    table = stored_cifar_fs()
    assert set(table.metric) == {"acc_5w1s", "acc_5w5s"} and set(table.seed) == {3}
    path = project / table.checkpoint.iloc[0]
    again = reevaluate_cifar_fs(path, *hundred)
    for row in table.itertuples():
        assert row.value == pytest.approx(metrics[row.metric].value, abs=1e-3)
        assert again[row.metric].value == pytest.approx(row.value, abs=1e-3)
    record = results.load_json("cifar-fs-seed3")
    assert TrainConfig.from_json(record["config"]) == dataclasses.replace(TINY, seed=3, held_out_images=0)
    assert checkpoint_info(path)["config"] == record["config"]


def test_five_examples_are_judged_beside_one() -> None:
    """Twenty classes of noisy unit vectors: five shots tell them apart better than one, and neither is at chance."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(20).repeat_interleave(25)
    z = torch.nn.functional.one_hot(labels, 32).float() + 0.35 * torch.randn(500, 32, generator=generator)
    found = cifarfs.judge(torch.nn.functional.normalize(z, dim=1), labels)
    assert set(found) == {"acc_5w1s", "acc_5w5s"} and {one.n for one in found.values()} == {10_000}
    assert 100 > found["acc_5w5s"].value > found["acc_5w1s"].value + 5 > 45


def test_test_and_validation_classes_are_never_learned(
    hundred: tuple[ImageSet, ImageSet], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    real = cifarfs.train

    def recording(config: TrainConfig, train_set: ImageSet, classes: tuple[int, ...], **more: object) -> object:
        result = real(config, train_set, classes, **more)  # type: ignore[arg-type]
        seen["classes"], seen["images"] = result.classes, len(train_set)
        return result

    monkeypatch.setattr(cifarfs, "train", recording)
    run_cifar_fs(0, "tiny", *hundred, device="cpu", progress=False)
    split = fewshot_split_cifar_fs(CIFAR100_CLASSES)
    assert seen["classes"] == split.train and seen["images"] == 2900
    assert not set(split.train) & {*split.test, *split.val}


def test_both_parts_are_joined(hundred: tuple[ImageSet, ImageSet]) -> None:
    whole = all_images(*hundred)
    assert torch.equal(torch.bincount(whole.labels), torch.full((100,), 29))
    assert torch.equal(whole.images[:800], hundred[0].images)
    with pytest.raises(DataError, match="one data set"):
        all_images(hundred[0], dataclasses.replace(hundred[1], name="cifar100"))


def test_encoder_of_another_split_is_refused(hundred: tuple[ImageSet, ImageSet]) -> None:
    path = Path(__file__).resolve().parents[1] / "results" / "checkpoints" / "cifar100-90-10-draw0.safetensors"
    with pytest.raises(CheckpointError, match="not trained on CIFAR-FS"):
        reevaluate_cifar_fs(path, *hundred)
