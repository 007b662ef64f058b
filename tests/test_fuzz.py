"""A few bad inputs of every family; ``make test-long`` tries many more of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from crashes import TINY
from fuzz import FAMILIES, Bench, attack, make_bench, refused, refused_or, small_cifar100

from siamese_utils.errors import DataError, SiameseError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = make_bench(tmp_path_factory.mktemp("fuzz"), dataclasses.replace(TINY, epochs=1))
    with small_cifar100(made):
        yield made
    torch.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.__name__)
def test_bad_inputs_end_in_one_sentence(family: Callable, bench: Bench) -> None:
    attack(family, bench, inputs=10)


def _raises(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    "call",
    [
        lambda: 1,
        lambda: _raises(ValueError("deep inside")),
        lambda: _raises(DataError("two\nlines.")),
        lambda: _raises(DataError("No stop")),
        lambda: _raises(DataError("Not the name.")),
        lambda: _raises(SiameseError("")),
    ],
)
def test_the_check_itself_can_fail(call: Callable) -> None:
    with pytest.raises((AssertionError, ValueError)):
        refused(call, "file.png")
    with pytest.raises((AssertionError, ValueError)):
        refused_or(lambda answer: answer == 2, call, "file.png")
