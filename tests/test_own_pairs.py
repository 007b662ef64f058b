"""Pairs of one's own images: how a CSV is read, what follows from its lines, what is set aside, and the training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from siamese_utils.encoders.checkpoints import checkpoint_info, load_encoder
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import DataError, DivergedError, ImageError, SamplingError, SplitError, TrainingError
from siamese_utils.training import own_pair_training, own_run
from siamese_utils.training.losses import ContrastiveObjective
from siamese_utils.training.own_pair_training import PairBatches, StatedPairs, train_pairs
from siamese_utils.training.own_pairs import PairList, part_pairs, read_pairs
from siamese_utils.training.own_run import OwnTraining
from siamese_utils.training.own_settings import OwnSettings
from siamese_utils.training.recipes import RECIPES

SETTINGS = OwnSettings(size=16, encoder="conv3", epochs=3)
PEOPLE, EACH = 14, 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five images of each of fourteen people: a pattern under noise."""
    folder, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    for person in range(PEOPLE):
        pattern = rng.integers(0, 256, (3, 3, 3))
        for number in range(EACH):
            pixels = np.kron(pattern, np.ones((6, 6, 1))) + rng.normal(0, 30, (18, 18, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{person}-{number}.png")
    return folder


def table(folder: Path, lines: Sequence[str], header: str = "image_a,image_b,same", name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


def lines_of(teams: int = 7) -> list[str]:
    """All pairs of one person are the same; those of two are different where both are of one team."""
    of_team = PEOPLE // teams
    found = []
    for a in range(PEOPLE * EACH):
        for b in range(a + 1, PEOPLE * EACH):
            first, second = a // EACH, b // EACH
            if first == second or (first // of_team == second // of_team and (a + b) % 2):
                found.append(f"{first}-{a % EACH}.png,{second}-{b % EACH}.png,{int(first == second)}")
    return found


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., OwnTraining]:
    monkeypatch.setattr(own_run, "measured_rate", lambda *_: 50.0)
    torch.manual_seed(0)
    other = Encoder("conv3", 4, image_size=24).eval()

    def call(path: Path, out: str = "own.safetensors", **more: Any) -> OwnTraining:
        given = {"runs": tmp_path / "runs", "other": other, "other_name": "another", "device": "cpu", "progress": False}
        return train_pairs(path, tmp_path / out, SETTINGS, **given, **more)

    return call


# -------------------------------------------------------------------------------------------- the table


def test_a_table_is_read_as_people_write_it(folder: Path) -> None:
    lines = ["0-0.png, 0-1.png ,TRUE,x", "", "0-0.png,1-0.png,different,y", '"0-1.png","0-2.png",Same,z']
    pairs = read_pairs(table(folder, lines, "\ufeffimage_a,Image_B, same,remark"))
    assert [file.name for file in pairs.files] == ["0-0.png", "0-1.png", "1-0.png", "0-2.png"]
    assert pairs.same.tolist() == [True, False, True] and pairs.lines.tolist() == [2, 4, 5]
    assert pairs.groups.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["0-0.png,0-1.png,1", "0-0.png,none.png,1"], r"line 3, names an image 'none.png'"),
        (["0-0.png,,1"], r"line 2, names an image ''"),
        (["0-0.png,0-1.png,perhaps"], r"line 2, has 'perhaps' as 'same'"),
        (["0-0.png,0-1.png,1", "", "0-0.png,0-1.png"], r"line 4, has 2 of 3 fields"),
        (["0-0.png,0-0.png,1"], r"line 2, pairs 0-0.png with itself"),
        ([], "lists no pair"),
    ],
)
def test_a_line_that_cannot_be_meant_is_named(folder: Path, lines: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_pairs(table(folder, lines))


def test_a_table_of_another_kind_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="lacks the column 'same'"):
        read_pairs(table(folder, [], "image_a,image_b,label"))
    with pytest.raises(DataError, match="no table of pairs"):
        read_pairs(folder / "nowhere.csv")
    (folder / "latin.csv").write_bytes("image_a,image_b,same\né.png,b.png,1\n".encode("latin-1"))
    with pytest.raises(DataError, match="CSV in UTF-8"):
        read_pairs(folder / "latin.csv")


def test_lines_that_contradict_each_other_are_named(folder: Path) -> None:
    lines = ["0-0.png,0-1.png,1", "0-1.png,0-2.png,1", "0-2.png,0-3.png,1", "0-0.png,0-2.png,0", "0-0.png,1-0.png,0"]
    with pytest.raises(DataError, match=r"line 5, calls 0-0.png and 0-2.png different, but .* by line 2, 3; correct"):
        read_pairs(table(folder, lines))


# ------------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize(("teams", "across"), [(7, False), (1, True)])
def test_no_image_and_no_person_is_in_two_parts(folder: Path, teams: int, across: bool) -> None:
    pairs = read_pairs(table(folder, lines_of(teams)))
    parts = part_pairs(pairs)
    assert parts.independent and bool(parts.across) == across
    seen = [set(pairs.groups[pairs.first[part]]) | set(pairs.groups[pairs.second[part]]) for part in _parts(parts)]
    assert not seen[0] & seen[1] and not seen[0] & seen[2] and not seen[1] & seen[2]
    assert sum(map(len, _parts(parts))) + parts.across == len(pairs)
    assert min(int((pairs.same[part] == kind).sum()) for part in _parts(parts) for kind in (True, False)) >= 5


def _parts(parts: Any) -> list[np.ndarray]:
    return [parts.learned, parts.validation, parts.report]


def test_few_pairs_are_parted_in_two_and_too_few_refused(folder: Path) -> None:
    lines = [line for line in lines_of(1) if all(int(name.split("-")[0]) < 7 for name in line.split(",")[:2])]
    parts = part_pairs(read_pairs(table(folder, lines)))
    assert not parts.independent and not set(parts.learned) & set(parts.report)
    with pytest.raises(SplitError, match="10 same and 0 different pairs"):
        part_pairs(read_pairs(table(folder, [line for line in lines if line.endswith("1")][:10])))


# -------------------------------------------------------------------------------------------- the training


def test_nothing_is_learned_of_pairs_that_no_line_tells_of() -> None:
    z = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    every = StatedPairs(np.array([[0, 1], [2, 1], [0, 2]]), 3)(z, groups).loss
    assert float(every) == pytest.approx(float(ContrastiveObjective()(z, groups).loss), rel=1e-6)
    moved = z.clone().requires_grad_()
    StatedPairs(np.array([[0, 1]]), 3)(moved[:5], groups[:5]).loss.backward()
    assert moved.grad is not None and bool((moved.grad[4] == 0).all()) and bool((moved.grad[0] != 0).any())
    with pytest.raises(SamplingError, match="same and different"):
        StatedPairs(np.array([[0, 1]]), 3)(z[[0, 4, 5]], groups[[0, 4, 5]])


def test_embeddings_that_are_not_finite_have_diverged() -> None:
    objective = StatedPairs(np.array([[0, 1]]), 2)
    with pytest.raises(DivergedError):
        objective(torch.full((4, 3), torch.nan), torch.tensor([0, 0, 1, 1]))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_learn_from_pairs(folder: Path, name: str) -> None:
    pairs = read_pairs(table(folder, lines_of()))
    parts, count = part_pairs(pairs, 0), len(pairs.files)
    images = torch.zeros(count, 16, 16, 3, dtype=torch.uint8)
    learned = own_pair_training._Learned(pairs, parts, images, np.arange(count))
    config = learned.config(OwnSettings(size=16, recipe=name))
    assert [term.objective for term in config.terms] == ["contrastive"] and config.recipe == f"{name}-pairs"


def test_batches_hold_as_many_same_as_different_pairs_and_repeat_themselves() -> None:
    pairs, same = np.arange(40).reshape(20, 2), np.arange(20) < 15
    batches = PairBatches(pairs, same, 16, seed=0, least=100)
    epoch = batches.epoch(1)
    assert epoch.shape == (batches.steps, 16) and batches.steps == 7
    assert torch.equal(epoch, batches.epoch(1)) and not torch.equal(epoch, batches.epoch(2))
    assert bool((epoch[:, :8] < 30).all()) and bool((epoch[:, 8:] >= 30).all())
    assert set(epoch.flatten().tolist()) == set(range(40))


def test_pairs_become_a_checkpoint_with_its_threshold(train: Callable, folder: Path) -> None:
    done = train(table(folder, lines_of()))
    encoder, info = load_encoder(done.path), checkpoint_info(done.path)
    assert encoder.image_size == 16 and -1 < info["threshold"] < 1 and info["calibration"]["slope"] > 0
    assert [each["metric"] for each in info["results"]] == ["accuracy", "area under the ROC curve"]
    accuracy, auc = done.results
    for each in done.results:
        assert each.difference.value == pytest.approx(each.trained.value - each.other.value)
    assert accuracy.trained.value > 80 and auc.trained.value > 80  # patterns that differ in colour are easily told
    assert "pairs of images that it has not learned: accuracy" in done.sentence


def test_a_killed_training_on_pairs_goes_on_to_the_same_weights(train: Callable, folder: Path, tmp_path: Path) -> None:
    path = table(folder, lines_of())
    whole = train(path, "whole.safetensors")
    with pytest.raises(TrainingError, match="as asked"):
        train(path, stop_after=1)
    assert not (tmp_path / "own.safetensors").exists()
    parts = train(path)
    weights = [one.encoder.state_dict() for one in (whole, parts)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_unreadable_images_take_their_pairs_with_them(train: Callable, folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no image")
    path = table(folder, ["broken.png,0-0.png,1", *lines_of()])  # every file behind the first moves up
    with pytest.raises(ImageError, match=r"broken\.png"):
        train(path)
    done = train(path, skip_unreadable=True)
    assert sum(done.info["pairs"].values()) <= len(lines_of())
    without = train(table(folder, lines_of()), "without.safetensors")
    assert done.info["pairs"] == without.info["pairs"] and done.results == without.results
    weights, others = done.encoder.state_dict(), without.encoder.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert done.info["threshold"] == without.info["threshold"]


@pytest.mark.parametrize("part", ["report", "validation"])
def test_pairs_of_the_report_decide_nothing_and_those_of_the_validation_are_not_reported(
    part: str, train: Callable, folder: Path, tmp_path: Path
) -> None:
    """Noise takes the place of the images of one part, and all that must not look at them stays as it was."""
    rng = np.random.default_rng(1)
    changed = Path(shutil.copytree(folder, tmp_path / "changed"))
    pairs = read_pairs(table(changed, lines_of()))
    rows = getattr(part_pairs(pairs, SETTINGS.seed), part)
    for position in {*pairs.first[rows].tolist(), *pairs.second[rows].tolist()}:
        Image.fromarray(rng.integers(0, 256, (18, 18, 3), dtype=np.uint8)).save(pairs.files[position])
    before, after = train(table(folder, lines_of()), "before.safetensors"), train(changed / "pairs.csv")
    others = [[each.other.value for each in done.results] for done in (before, after)]
    for each in after.results:
        assert each.difference.value == pytest.approx(each.trained.value - each.other.value)
    assert part != "report" or any(each.difference.value for each in after.results)
    if part == "report":
        weights, same = before.encoder.state_dict(), after.encoder.state_dict()
        assert all(torch.equal(weights[name], same[name]) for name in weights)
        assert all(before.info[name] == after.info[name] for name in ("threshold", "calibration", "epochs"))
        assert others[0] != others[1]
    else:
        # The other's accuracy is at its own threshold, which is chosen on the validation pairs.
        assert others[0][1] == others[1][1] and before.info["calibration"] != after.info["calibration"]


def test_a_list_without_some_files_keeps_their_numbers(folder: Path) -> None:
    pairs = read_pairs(table(folder, lines_of()))
    fewer = pairs.without([0])
    assert isinstance(fewer, PairList) and len(fewer) < len(pairs) and 0 not in {*fewer.first, *fewer.second}
    assert fewer.files == pairs.files
