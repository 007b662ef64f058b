"""Every public function called wrongly a few times; ``make test-long`` does it many times more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from calls import Call, attack, attempt, is_sound, make_calls, public_names

from siamese_utils.errors import ShapeError


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Call]:
    return make_calls(tmp_path_factory.mktemp("calls"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_nothing_public_is_left_out(calls: dict[str, Call]) -> None:
    assert public_names() - set(calls) == set()


def test_right_calls_are_answered(calls: dict[str, Call]) -> None:
    for name, call in calls.items():
        if name not in ("load_cifar10", "load_cifar100", "load_images", "fewshot_split_cifar_fs"):  # no data here
            assert is_sound(call.ask(**call.right())), name


@pytest.mark.filterwarnings("ignore")
def test_wrong_arguments_end_in_one_sentence(calls: dict[str, Call]) -> None:
    for name, call in calls.items():
        try:
            attack(name, call, inputs=5)
        except Exception as error:
            error.add_note(name) if hasattr(error, "add_note") else None
            raise


def _raises(error: Exception) -> Callable[[], None]:
    def call() -> None:
        raise error

    return call


@pytest.mark.parametrize(
    "ask",
    [
        _raises(TypeError("deep inside")),
        _raises(RuntimeError("deep inside")),
        _raises(IndexError("deep inside")),
        _raises(ShapeError("No stop")),
        lambda: float("nan"),
        lambda: {"loss": torch.tensor([1.0, torch.nan])},
        lambda: (np.array([np.nan]), 1),
    ],
)
def test_the_check_itself_can_fail(ask: Callable) -> None:
    with pytest.raises((AssertionError, TypeError, RuntimeError, IndexError)):
        attempt(Call(ask, dict), {})
