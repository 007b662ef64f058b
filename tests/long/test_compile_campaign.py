"""Training with code that torch's own compiler generates; the quick tests use a backend that generates none."""

from __future__ import annotations

import pytest
import test_training

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("one_thread")]
small_set = test_training.small_set


def test_training_with_generated_code_learns_the_same(small_set: test_training.ImageSet) -> None:
    try:
        test_training.check_compiled_training_learns_the_same(small_set)
    except RuntimeError as error:  # torch._inductor raises its own kinds where there is no C++ compiler
        pytest.skip(f"this machine cannot compile: {error}")
