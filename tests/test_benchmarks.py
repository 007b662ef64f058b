"""The benchmark scripts: both sides do the same work, and the table keeps what it should. Never a time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
from torch import nn
from torch.utils.data import DataLoader
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the scripts are no part of the installed package

pytest.importorskip("easyfsl")
from benchmarks import augmentation, common, evaluation, optimizer, own_images, pair_network, training
from siamese_utils.data.image_files import load_image
from siamese_utils.data.images import ImageSet
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.encoders.encoder import Encoder
from siamese_utils.errors import ConfigError, ResultsError
from siamese_utils.studies.faces.fourier import FourierConv2d
from siamese_utils.studies.faces.koch import KochConfig
from siamese_utils.training.augment import AugmentConfig


def run(script: object, *arguments: str) -> str:
    app = typer.Typer()
    app.command()(script.main)
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


STORED = common.RESULTS


@pytest.fixture(autouse=True)
def stored_results_are_safe(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(common, "RESULTS", tmp_path / "stored.csv")


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return make_synthetic("train", num_classes=4, per_class=8)


# --- timing and the table ------------------------------------------------------------------------------


def test_sides_take_turns_after_one_round_to_warm_up() -> None:
    order: list[str] = []
    numbers = iter(range(100))

    def side(name: str) -> common.Side:
        return common.Side(name, lambda: order.append(name) or float(next(numbers)))

    rates = common.rates_in_turn([side("a"), side("b")], repeats=3)
    assert order == ["a", "b"] * 4
    assert rates == {"a": [2.0, 4.0, 6.0], "b": [3.0, 5.0, 7.0]}


def test_ratio_is_taken_within_a_round() -> None:
    table = common.summarise("x", "images/s", {"base": [10.0, 1.0, 4.0], "ours": [20.0, 5.0, 12.0]}).set_index("side")
    assert table.loc["base", ["value", "ratio", "spread", "ratio_spread"]].tolist() == [4, 1, 4.5, 0]
    assert table.loc["ours", ["value", "ratio", "spread", "ratio_spread"]].tolist() == [12, 3, 7.5, 1.5]
    assert (table["repeats"] == 3).all() and (table["threads"] == torch.get_num_threads()).all()
    assert table["processor"].ne("").all() and (table["torch"] == torch.__version__).all()


def test_a_later_run_replaces_its_own_rows_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "benchmarks.csv"
    first = common.summarise("x", "images/s", {"base": [1.0], "ours": [2.0]})
    other = common.summarise("y", "images/s", {"base": [7.0]})
    elsewhere = first.assign(processor="Other CPU", value=99.0)
    for table in (first, other, elsewhere, common.summarise("x", "images/s", {"base": [3.0], "ours": [9.0]})):
        common.store(table, path)
    stored = pd.read_csv(path)
    assert list(stored.columns) == list(common.COLUMNS) and len(stored) == 5
    here = stored[stored["processor"] != "Other CPU"].set_index(["benchmark", "side"])
    assert here["value"].to_dict() == {("x", "base"): 3, ("x", "ours"): 9, ("y", "base"): 7}
    assert (stored[stored["processor"] == "Other CPU"]["value"] == 99).all()


def test_a_foreign_table_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "foreign.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ResultsError, match="does not have the columns"):
        common.store(common.summarise("x", "images/s", {"base": [1.0]}), path)
    assert path.read_text() == "a,b\n1,2\n"


def test_senseless_settings_are_errors() -> None:
    side = common.Side("a", lambda: 1.0)
    for sides, repeats in (([side], 0), ([], 1), ([side, side], 1)):
        with pytest.raises(ConfigError, match="1 repeat or more"):
            common.rates_in_turn(sides, repeats)
    with pytest.raises(ConfigError, match="threads"):
        common.use_threads(-1)


def test_quick_numbers_are_stored_only_where_asked(tmp_path: Path) -> None:
    assert common.output_path(None, quick=False) == common.RESULTS
    assert common.ROOT / "results" not in STORED.parents  # what is published is replaced when told to
    assert common.output_path(None, quick=True) is None
    assert common.output_path(tmp_path, quick=True) == tmp_path


# --- training ------------------------------------------------------------------------------------------


@contextmanager
def images_through_encoders() -> Iterator[dict[str, list]]:
    """Count the images of every forward pass in training mode, and of every backward pass that reaches the pixels'
    convolution."""
    seen: dict[str, list] = {"forward": [], "backward": [], "sides": [], "channels_last": []}

    def note(module: nn.Module, arguments: tuple, output: torch.Tensor) -> None:
        if isinstance(module, Encoder) and module.training:
            pixels = arguments[0]
            seen["forward"].append(len(pixels))
            seen["sides"].append(tuple(pixels.shape[2:]))
            seen["channels_last"].append(module.body[0][0].weight.is_contiguous(memory_format=torch.channels_last))
            output.register_hook(lambda gradient: seen["backward"].append(len(gradient)))

    handle = nn.modules.module.register_module_forward_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


def fake_clock(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    """Every look at the clock is one second later, so that a rate is a count."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(ticks)))


def test_both_loops_train_on_the_images_they_count(data: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_clock(monkeypatch, training)
    with images_through_encoders() as seed:
        rate = training.seed_loop(data, "resnet20", batch_size=8)
    assert seed["forward"] == [8] * 12 == seed["backward"]  # 32 anchors in 4 steps, three passes each
    assert rate == 96 and set(seed["sides"]) == {(32, 32)} and not any(seed["channels_last"])
    with images_through_encoders() as ours:
        training.engine(data, "resnet20", batch_size=16)
    assert ours["forward"] == [16] * 2 == ours["backward"]
    assert set(ours["sides"]) == {(32, 32)} and all(ours["channels_last"])
    with images_through_encoders() as small:
        training.engine(data, "resnet20", batch_size=16, side=training.SMALL_SIDE)
    assert set(small["sides"]) == {(24, 24)}


def test_random_triplets_are_triplets(data: ImageSet) -> None:
    triplets = training.RandomTriplets(data)
    taken: list[int] = []
    triplets.transform = lambda image: taken.append(image) or torch.zeros(1)
    position = {image.tobytes(): i for i, image in enumerate(data.images.numpy())}
    positives, negatives = set(), set()
    torch.manual_seed(0)
    for _ in range(30):
        for anchor in range(len(triplets)):
            taken.clear()
            triplets[anchor]
            a, p, n = (position[image.tobytes()] for image in taken)
            assert a == anchor != p and data.labels[a] == data.labels[p] != data.labels[n]
            positives.add(p)
            negatives.add(n)
    assert len(positives) == len(negatives) == len(data)


def test_triplet_loss_agrees_with_a_loop() -> None:
    a, p, n = np.random.default_rng(0).normal(size=(3, 10, 5))

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        return 1 - float(x @ y) / (np.linalg.norm(x) * np.linalg.norm(y))

    expected = np.mean([max(0, distance(x, y) - distance(x, z) + 0.2) for x, y, z in zip(a, p, n)])
    assert training.cosine_triplet_loss(*map(torch.tensor, (a, p, n))).item() == pytest.approx(expected)


def test_operations_of_resnet20() -> None:
    # Multiply-adds of the forward pass, 40.6 million; the backward pass does each twice, save the gradient by the
    # pixels of the first convolution, which nobody asks for.
    first = 32**2 * 16 * 27
    stages = [32**2 * 16 * 6 * 144, 16**2 * 32 * (144 + 5 * 288), 8**2 * 64 * (288 + 5 * 576)]
    forward = first + sum(stages)
    assert forward == 40_550_400
    assert training.flops_per_image("resnet20") == 2 * (3 * forward - first)


def test_training_script_runs(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    text = run(training, "--quick", "--out", str(out))
    table = pd.read_csv(out)
    assert set(table["benchmark"]) == {"training_throughput", "training_throughput_24px", "float32_arithmetic"}
    assert (table.groupby("benchmark")["ratio"].first() == 1).all() and (table["value"] > 0).all()
    assert "GFLOP forward and backward" in text and not common.RESULTS.exists()


# --- augmentation --------------------------------------------------------------------------------------


def variants(image: torch.Tensor) -> set[bytes]:
    """All shifts with reflection, plain and mirrored, by numpy; float32 (3, 32, 32), rounded to whole pixel values."""
    t, side = augmentation.SHIFT, augmentation.SIDE
    padded = np.pad(image.numpy(), ((t, t), (t, t), (0, 0)), mode="reflect")
    windows = [padded[y : y + side, x : x + side] for y in range(2 * t + 1) for x in range(2 * t + 1)]
    return {w.tobytes() for w in windows} | {w[:, ::-1].tobytes() for w in windows}


@pytest.mark.parametrize("side", ["pillow", "tensor", "ours"])
def test_every_side_augments_every_image_alike(side: str) -> None:
    images = augmentation.make_images(80)
    batches = {
        "pillow": lambda: augmentation.pillow_loader(images, 0),
        "tensor": lambda: augmentation.tensor_loader(images, 0),
        "ours": lambda: augmentation.our_batches(images),
    }[side]
    possible = {key: i for i, image in enumerate(images) for key in variants(image)}
    out = torch.cat(list(batches()))
    assert out.shape == (80, 3, 32, 32) and out.dtype == torch.float32
    pixels = out.permute(0, 2, 3, 1) * augmentation.STD + augmentation.MEAN
    assert (pixels - pixels.round()).abs().max() < 1e-2
    found = [possible.get(image.round().to(torch.uint8).numpy().tobytes()) for image in pixels]
    assert sorted(found) == list(range(80))  # every image once, each one of its own variants
    plain = {image.tobytes() for image in images.numpy()}
    kept = sum(image.round().to(torch.uint8).numpy().tobytes() in plain for image in pixels)
    assert kept < 10  # one in 162 is left as it was


def test_fastest_of_the_peers_is_compared_with() -> None:
    rates = {"peer a": [1.0, 5.0, 1.0], "peer b": [2.0, 2.0, 2.0], "ours": [9.0, 9.0, 9.0]}
    assert list(augmentation.fastest_first(rates, "peer")) == ["peer b", "peer a", "ours"]


def test_augmentation_script_runs(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    run(augmentation, "--quick", "--out", str(out))
    table = pd.read_csv(out).set_index("side")
    assert table.loc["torchvision on PIL images, 0 workers", "ratio"] == 1
    assert len(table) == 3 and (table["value"] > 0).all() and not common.RESULTS.exists()


def test_rates_count_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_clock(monkeypatch, augmentation)
    images = augmentation.make_images(20)
    rates = {side.name: side.run() for side in augmentation.sides(images, passes=3, workers=(0,))}
    assert list(rates.values()) == [20, 20, 60]
    assert isinstance(augmentation.pillow_loader(images, 2), DataLoader)
    assert AugmentConfig(translate=augmentation.SHIFT, flip=True) == AugmentConfig()  # what recipes use by default


# --- evaluation ----------------------------------------------------------------------------------------


def test_easyfsl_and_ours_answer_alike() -> None:
    task = evaluation.make_task(40)
    assert task.z.shape == (1_000, 256) and task.episodes.query.shape == (40, 5, 15)
    assert 50 < evaluation.check_equal(task) < 90  # neither hopeless nor easy, where every answer would agree


def test_another_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    task = evaluation.make_task(10)
    right = evaluation.our_accuracies(task)
    wrong = right.clone()
    wrong[7] -= 1 / 75
    monkeypatch.setattr(evaluation, "our_accuracies", lambda _: wrong)
    with pytest.raises(AssertionError, match=r"Episodes \[7\]"):
        evaluation.check_equal(task)


def test_the_timed_run_answers_the_same_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    task = evaluation.make_task(30)
    given = []
    original = evaluation.few_shot_accuracy
    monkeypatch.setattr(evaluation, "few_shot_accuracy", lambda *a, **k: given.append(original(*a, **k)) or given[-1])
    fake_clock(monkeypatch, evaluation)
    assert [side.run() for side in evaluation.sides(task)] == [30, 30, 30]
    assert given[0].value == pytest.approx(100 * evaluation.our_accuracies(task).mean().item())


def test_evaluation_script_runs(tmp_path: Path) -> None:
    out = tmp_path / "table.csv"
    assert "same accuracy on both sides" in run(evaluation, "--quick", "--out", str(out))
    table = pd.read_csv(out)
    assert table["ratio"].iloc[0] == 1 and len(table) == 3 and not common.RESULTS.exists()


# --- the assignment's network --------------------------------------------------------------------------


def test_both_pair_networks_take_the_same_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    config = KochConfig(side=65, channels=(2, 3, 4, 5), features=6, batch_size=4)
    plain = pair_network.plain_network(config)
    assert not any(isinstance(module, FourierConv2d) for module in plain.modules())
    assert [type(module) for module in plain.twin[:4]] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]
    assert pair_network.check_equal(config) <= pair_network.TOLERANCE
    right, wrong = pair_network.koch_optimizer, KochConfig(dense_penalty=0.5)
    monkeypatch.setattr(pair_network, "koch_optimizer", lambda network, _: right(network, wrong))
    with pytest.raises(AssertionError, match="differ"):
        pair_network.check_equal(config)


def test_pair_network_benchmark_runs() -> None:
    output = run(pair_network, "--quick")
    assert pair_network.PLAIN in output and pair_network.OURS in output and "differ by at most" in output


def test_all_optimizers_make_the_same_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    assert optimizer.check_equal("conv3") <= optimizer.TOLERANCE
    made = optimizer.make_optimizers("conv3")
    for group in made[optimizer.BFLOAT16].param_groups:
        group["lr"] *= 1.2
    monkeypatch.setattr(optimizer, "make_optimizers", lambda _: made)
    with pytest.raises(AssertionError, match="bfloat16 ends"):
        optimizer.check_equal("conv3")


def test_optimizer_benchmark_runs() -> None:
    output = run(optimizer, "--quick")
    assert optimizer.FLOAT32 in output and optimizer.BFLOAT16 in output and "differ by at most" in output


# --- own images ----------------------------------------------------------------------------------------


def test_images_of_a_folder_all_differ_and_can_be_read(tmp_path: Path) -> None:
    files = own_images.make_images(tmp_path, 210)
    assert len({file.read_bytes() for file in files}) == len(files) == 210
    assert load_image(files[209], 32).shape == (32, 32, 3)
    assert np.array_equal(load_image(files[0]), load_image(files[200]))  # another comment alone


def test_sides_of_a_folder_embed_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_clock(monkeypatch, own_images)
    files = own_images.make_images(tmp_path, 8)
    encoder = Encoder("conv3", 4).eval()
    tables = own_images.embedding_tables("x", encoder, files, (4, 8))
    assert [table["value"].tolist()[0] for table in tables[:2]] == [4, 4]
    assert [table["value"].tolist()[1:] for table in tables[:2]] == [[4, 4], [8, 8]]
    monkeypatch.setattr(own_images, "one_by_one", lambda encoder, files: torch.zeros(len(files), 4))
    with pytest.raises(AssertionError):
        own_images.embedding_tables("x", encoder, files, (4,))


def test_a_search_that_answers_otherwise_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_images.search_table(200, 8, 2)["unit"].eq("queries/s").all()
    monkeypatch.setattr(own_images, "nearest", lambda z, table, k: (torch.zeros(len(z), k), None))
    with pytest.raises(AssertionError):
        own_images.search_table(200, 8, 2)


def test_own_images_benchmark_runs() -> None:
    output = run(own_images, "--quick")
    assert own_images.TOGETHER in output and "ms a query" in output
