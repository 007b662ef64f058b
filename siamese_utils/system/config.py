"""Configurations: frozen dataclasses whose rules stand at their fields, and that JSON and YAML give back as equals.

A class that inherits ``Config`` is such a dataclass, checked by pydantic whenever one is made::

    class Walk(Config):
        steps: Count = 100
        share: Share = 0.5

Types are taken by their word: 2.0 and true are no whole numbers, and a number is finite. A wrong value would
otherwise be found after hours, or change a run without a word. A rule between fields is checked in ``__post_init__``.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import reprlib
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from typing_extensions import dataclass_transform

from siamese_utils.errors import ConfigError, SiameseError, unknown

Natural = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
ShareBelowOne = Annotated[float, Field(ge=0, lt=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]

_Some = TypeVar("_Some", bound="Config")
_Value = TypeVar("_Value")


def one_of(kind: str, known: Iterable[str], *, or_empty: bool = False) -> AfterValidator:
    """The rule that a text names something in a registry, else ``UnknownNameError``.

    Args:
        kind: what is looked up, for example ``"optimizer"``.
        known: the names that exist.
        or_empty: an empty text says that nothing is named.
    """

    def check(name: str) -> str:
        if name not in known and not (or_empty and not name):
            raise unknown(kind, name, known)
        return name

    return AfterValidator(check)


def younger(default: _Value) -> _Value:
    """The default of a field that is younger than stored runs: ``to_json`` leaves it out where it has this value.

    So their configurations, and whatever is derived from these, stay the same.
    """
    return dataclasses.field(default=default, metadata={"younger": True})


@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field, younger))
class Config:
    """Base of every configuration; a class that inherits it becomes a frozen dataclass.

    Raises:
        ConfigError: a value that its field does not take, a field that is missing or not known.
        UnknownNameError: a name that its registry does not know.
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False))(cls)
        make = cls.__init__

        @functools.wraps(make)
        def __init__(self: Any, *values: Any, **named: Any) -> None:
            try:
                make(self, *values, **named)
            except ValidationError as error:
                raise _in_one_sentence(cls, error) from None

        cls.__init__ = __init__

    def to_json(self) -> dict[str, Any]:
        """Plain data that JSON and YAML can hold; ``from_json`` reads it back."""
        return json.loads(json.dumps(_plain(self)))

    @classmethod
    def from_json(cls: type[_Some], data: Any) -> _Some:
        """Rebuild a configuration, with those in it and lists as tuples.

        Raises:
            ConfigError: the data hold an unknown or a wrong value, or lack one.
            UnknownNameError: see the class.
        """
        try:
            return TypeAdapter(cls).validate_json(json.dumps(data))
        except ValidationError as error:
            raise _in_one_sentence(cls, error) from None
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{cls.__name__} is made from plain data only ({error}).") from error

    @classmethod
    def from_yaml(cls: type[_Some], path: str | Path) -> _Some:
        """Read a configuration from a YAML file; what is left out keeps its default.

        Raises:
            ConfigError: the file is missing or no YAML, or as ``from_json``.
            UnknownNameError: see the class.
        """
        path = Path(path)
        if not path.is_file():
            raise ConfigError(f"There is no configuration {path.resolve()}; check the path.")
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} cannot be read as YAML ({' '.join(str(error).split())}).") from error
        try:
            return cls.from_json({} if content is None else content)
        except ConfigError as error:
            raise ConfigError(f"{path.name}: {error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        fields = [(field, getattr(value, field.name)) for field in dataclasses.fields(value)]
        return {f.name: _plain(v) for f, v in fields if not (f.metadata.get("younger") and v == f.default)}
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


def _in_one_sentence(kind: type[Config], error: ValidationError) -> SiameseError:
    """What pydantic found first, as the sentence that this package would write."""
    first = error.errors(include_url=False)[0]
    if isinstance(own := first.get("ctx", {}).get("error"), SiameseError):
        return own
    fields = [field.name for field in dataclasses.fields(kind)]
    where = [
        fields[part] if not place and isinstance(part, int) and part < len(fields) else part
        for place, part in enumerate(first["loc"])
    ]
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in where).removeprefix(".")
    subject = f"{kind.__name__}: {name}" if where else kind.__name__
    if first["type"] == "missing":
        return ConfigError(f"{subject} is missing; give it a value.")
    if first["type"] == "unexpected_keyword_argument":
        known = dataclasses.fields(_owner(kind, where))
        return ConfigError(f"{subject} is not known; choose from {', '.join(field.name for field in known)}.")
    takes = _WORDS.get(first["type"]) or first["msg"].removeprefix("Input should be ")
    if takes != first["msg"]:
        return ConfigError(f"{subject} must be {takes}, not {reprlib.repr(first['input'])}.")
    return ConfigError(f"{subject} does not fit: {takes[0].lower()}{takes[1:]}.")


_WORDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a text",
    "bool_type": "true or false",
    "tuple_type": "a list or tuple of values",
    "dict_type": "keys with values",
    "dataclass_type": "keys with values",
}


def _owner(kind: type[Config], where: list[str | int]) -> type[Config]:
    """The configuration in which the last name of a path stands."""
    for name in where[:-1]:
        if isinstance(name, str):
            hint = typing.get_type_hints(kind)[name]
            kind = next(each for each in (hint, *typing.get_args(hint)) if issubclass(each, Config))
    return kind
