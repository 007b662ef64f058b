"""Configurations hold what their fields say: whole numbers, finite numbers, texts and flags."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from siamese_utils.errors import ConfigError

_KINDS = {
    "int": ("a whole number", lambda value: isinstance(value, int) and not isinstance(value, bool)),
    "float": ("a finite number", lambda value: _is_number(value) and math.isfinite(value)),
    "bool": ("true or false", lambda value: isinstance(value, bool)),
    "str": ("a text", lambda value: isinstance(value, str)),
}


def check_fields(config: Any) -> None:
    """Check the plain fields of a configuration dataclass, whose annotations are texts; others are passed over.

    A wrong type would otherwise be found after hours, or change a run without a word.

    Raises:
        ConfigError: a field holds something else than its annotation says.
    """
    for field in dataclasses.fields(config):
        kind, _, optional = str(field.type).partition(" | ")
        value = getattr(config, field.name)
        if kind not in _KINDS or (optional == "None" and value is None):
            continue
        wanted, fits = _KINDS[kind]
        if not fits(value):
            raise ConfigError(f"{type(config).__name__}: {field.name} must be {wanted}, not {value!r}.")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
