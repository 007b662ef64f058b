"""Fixtures that every test file shares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import settings

from siamese_utils import cli
from siamese_utils.data.cifar import CIFAR100_CLASSES, find_cifar100, load_cifar100
from siamese_utils.data.images import ImageSet
from siamese_utils.data.sources import cache_folder
from siamese_utils.data.synthetic import make_synthetic
from siamese_utils.system import project as places

# The same examples every time and no time limit: a slow or busy machine must not fail a test at random.
settings.register_profile("siamese", deadline=None, derandomize=True, database=None, max_examples=50)
settings.load_profile("siamese")


USERS_CACHE = cache_folder()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave long campaigns out unless asked for; skip ``real_data`` where it cannot be found: no test downloads it."""
    if "long" not in config.option.markexpr:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("long")])
        items[:] = [item for item in items if not item.get_closest_marker("long")]
    needy = [item for item in items if item.get_closest_marker("real_data")]
    if needy and find_cifar100() is None:
        for item in needy:
            item.add_marker(pytest.mark.skip(reason="CIFAR-100 is not on this machine"))


@pytest.fixture(autouse=True)
def isolated_data(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep every test away from the user's cache and from the network."""
    monkeypatch.setenv("SIAMESE_CACHE", str(tmp_path / "siamese-cache"))
    monkeypatch.setenv("SIAMESE_OFFLINE", "1")
    monkeypatch.delenv("SIAMESE_SYNTHETIC", raising=False)
    monkeypatch.delenv("SIAMESE_RUNS", raising=False)


@pytest.fixture(autouse=True)
def back_home() -> Iterator[None]:
    """After a test that makes all anew, results are those of the project again."""
    yield
    places.move_to(None)


@pytest.fixture
def users_cache(isolated_data: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the user's cache after all: for real data, which take seconds to read without."""
    monkeypatch.setenv("SIAMESE_CACHE", str(USERS_CACHE))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project in a folder of its own, where results are then stored."""
    (tmp_path / "results").mkdir()
    (tmp_path / "siamese_utils").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process: exit code, standard output, standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["siamese_utils", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """So that sums are taken in one order, and small batches waste no time on threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def hundred() -> tuple[ImageSet, ImageSet]:
    """Synthetic images under CIFAR-100's names, 8 to train and 21 to test a class: 5 shots and 15 queries fit."""
    train_set, test_set = (
        dataclasses.replace(make_synthetic(part, num_classes=100, per_class=count), class_names=CIFAR100_CLASSES)
        for part, count in (("train", 8), ("test", 21))
    )
    return train_set, test_set


@pytest.fixture(autouse=True)
def usual_style() -> Iterator[None]:
    """What a test makes of the style of figures is gone with it, so that none depends on those before it."""
    with matplotlib.rc_context():
        yield


@pytest.fixture(scope="session")
def synthetic_train() -> ImageSet:
    """Twenty synthetic classes of 30 training images."""
    return make_synthetic("train", num_classes=20, per_class=30)


@pytest.fixture(scope="session")
def synthetic_test() -> ImageSet:
    """The same twenty classes, 20 test images each."""
    return make_synthetic("test", num_classes=20, per_class=20)


@pytest.fixture(scope="session")
def tiny_imprinting(synthetic_train: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which the small base network of the studies of imprinted weights is stored; to be copied."""
    from tiny_imprinting import STUDY

    from siamese_utils.experiments.study import Bench
    from siamese_utils.studies.imprinting.base import base_network

    folder = tmp_path_factory.mktemp("imprinting")
    for name in ("results", "siamese_utils"):
        (folder / name).mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        base_network(STUDY.base, Bench.of(synthetic_train, synthetic_train, device="cpu", progress=False))
    return folder


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], ImageSet]:
    """Return a loader of real CIFAR-100, ``real_data("test")``; skips where it is not on this machine."""
    source = find_cifar100()
    if source is None:
        pytest.skip("CIFAR-100 is not on this machine")
    folder = source.path.resolve()

    @lru_cache
    def load(part: str) -> ImageSet:
        with pytest.MonkeyPatch.context() as patch:  # the user's cache, which `isolated_data` hides from tests
            patch.setenv("SIAMESE_CACHE", str(USERS_CACHE))
            return load_cifar100(part, root=folder, download=False)

    return load
