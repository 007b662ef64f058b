"""Freed memory that a training keeps: counted in page faults, which tell when the system hands memory out anew."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from siamese_utils.system import memory
from siamese_utils.system.memory import freed_memory_kept

# A fresh process, for what an allocator does with a block depends on what was freed before.
COUNT_FAULTS = """
import resource
import torch
from siamese_utils.system.memory import freed_memory_kept

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5):
        torch.ones(64 * 2**20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

counts = [faults()]
with freed_memory_kept() as works:
    assert works
    faults()  # takes the memory
    counts.append(faults())
    with freed_memory_kept():
        pass
    counts.append(faults())
counts.append(faults())
print(*counts)
"""


@pytest.fixture
def glibc() -> None:
    if memory._allocator() is None:
        pytest.skip("the allocator is not glibc's")


@pytest.mark.usefixtures("glibc")
def test_blocks_are_used_again_inside_and_given_back_outside() -> None:
    run = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    before, inside, after_an_inner_use, after = map(int, run.stdout.split())
    assert inside < before / 10
    assert after_an_inner_use < before / 10
    assert after > before / 10  # the first round at least: all was given back at the end


@pytest.mark.usefixtures("glibc")
def test_an_error_inside_ends_it() -> None:
    with pytest.raises(ValueError, match="inside"), freed_memory_kept():
        raise ValueError("inside")
    assert memory._users == 0


@pytest.mark.usefixtures("glibc")
def test_overlapping_uses_end_with_the_last() -> None:
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with freed_memory_kept():
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with freed_memory_kept():
        thread.start()
        assert entered.wait(10)
    assert memory._users == 1
    leave.set()
    thread.join(10)
    assert memory._users == 0


def test_other_allocators_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_allocator", lambda: None)
    with freed_memory_kept() as works:
        assert not works
    assert memory._users == 0


def test_free_memory_is_more_than_this_test_and_less_than_there_could_be(monkeypatch: pytest.MonkeyPatch) -> None:
    free = memory.free_memory()
    assert free is None or 2**20 < free < 2**50
    monkeypatch.setattr(memory.Path, "read_text", lambda *_, **__: "MemAvailable:  2048 kB\n")
    assert memory.free_memory() == 2**21
    monkeypatch.setattr(memory.Path, "read_text", lambda *_, **__: "nothing of it\n")
    assert memory.free_memory() is None
