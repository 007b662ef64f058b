"""The published numbers hold: anyone who loads the stored checkpoint gets the rows of the table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from siamese_utils import load_encoder
from siamese_utils.data.images import ImageSet
from siamese_utils.data.sampling import named_rng
from siamese_utils.data.splits import class_split
from siamese_utils.encoders.checkpoints import checkpoint_info, save_encoder
from siamese_utils.evaluation.episodes import few_shot_accuracy
from siamese_utils.experiments import store
from siamese_utils.experiments.audit import audit
from siamese_utils.experiments.study import Bench
from siamese_utils.studies import all_studies

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINT = ROOT / "results" / "checkpoints" / "cifar100-90-10-draw0.safetensors"


@pytest.fixture
def cifar100(real_data: Callable[[str], ImageSet], monkeypatch: pytest.MonkeyPatch) -> tuple[ImageSet, ImageSet]:
    monkeypatch.chdir(ROOT)
    return real_data("train"), real_data("test")


@pytest.mark.real_data
def test_every_row_of_the_headlines_checkpoint_is_reproduced(cifar100: tuple[ImageSet, ImageSet]) -> None:
    """A checkpoint takes half a minute; `make verify` goes through all of them."""
    named = [CHECKPOINT.relative_to(ROOT).as_posix()]
    found = audit(all_studies(), Bench.of(*cifar100, progress=False), checkpoints=named)
    assert {"split_sweep", "growth"} <= set(found.table)
    assert set(found.verdict) == {"holds"}, found[found.verdict != "holds"].to_string()


@pytest.mark.parametrize("path", sorted((ROOT / "results").glob("*.csv")), ids=lambda path: path.stem)
def test_every_row_names_a_checkpoint_that_is_there_or_none(path: Path) -> None:
    named = set(store.read_table(path).get("checkpoint", ())) - {""}
    assert all((ROOT / name).is_file() for name in named), named
    assert not named or path.stem in audited(), f"no study computes the numbers of {path.name} anew"


def audited() -> set[str]:
    """The tables that `make verify` goes through."""
    again = [one for one in all_studies() if one.again is not None]
    return {name for one in again for name in (one.name, *one.tables)}


@pytest.mark.real_data
def test_public_calls_alone_pass_the_seed_by_eight_points(cifar100: tuple[ImageSet, ImageSet]) -> None:
    _, test_set = cifar100
    unseen = test_set.indices_of(class_split("90-10").unseen)
    z = load_encoder(CHECKPOINT).embed(test_set.images[unseen])
    assert z.dtype == torch.float32
    assert z.norm(dim=1).sub(1).abs().max() < 1e-5
    # Another seed than the table's: the margin does not hang on one draw of episodes.
    accuracy = few_shot_accuracy(z, test_set.labels[unseen], named_rng(1, "acc_5w1s"))
    assert accuracy.value - accuracy.ci95 > 62.18 + 8


def test_checkpoint_says_what_it_was_trained_on() -> None:
    info = checkpoint_info(CHECKPOINT)
    assert (info["split"], info["draw"], info["data"]) == ("90-10", 0, "cifar100")
    assert info["config"]["validation_classes"] == 0
    encoder = load_encoder(CHECKPOINT)
    assert not encoder.training
    assert encoder.embed(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape == (2, encoder.embedding_dim)


@pytest.mark.real_data
def test_8_bits_a_weight_keep_the_headline_within_a_tenth_of_a_point(
    cifar100: tuple[ImageSet, ImageSet], tmp_path: Path
) -> None:
    _, test_set = cifar100
    encoder = load_encoder(CHECKPOINT)
    save_encoder(encoder, tmp_path / "small.safetensors", bits=8)
    assert (tmp_path / "small.safetensors").stat().st_size < 0.52 * CHECKPOINT.stat().st_size
    positions = test_set.indices_of(class_split("90-10").unseen)
    labels = test_set.labels[positions]
    for shots in (1, 5):
        whole, small = (
            few_shot_accuracy(each.embed(test_set.images[positions]), labels, named_rng(0, f"{shots}"), shots=shots)
            for each in (encoder, load_encoder(tmp_path / "small.safetensors"))
        )
        assert small.value == pytest.approx(whole.value, abs=0.1)
