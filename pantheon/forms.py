"""What all records have in common: they are frozen, refuse unknown keys and have one JSON form; and words in them that
have a form of their own. Ring 0.
"""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from pantheon.errors import ConfigError
from pantheon.names import pattern_fault


def _glob(pattern: str) -> str:
    fault = pattern_fault(pattern.removeprefix("!"))
    if fault:
        raise ValueError(f"{pattern[:80]!r} {fault}")
    return pattern


SCHEMA_VERSION = 1  # of stored records
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Glob = Annotated[str, AfterValidator(_glob)]  # a gitignore pattern that chooses paths


class Record(BaseModel):
    """A frozen value. `to_json()` is its canonical form: one line of JSON, sorted keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, separators=(",", ":"))


TEXTS_AT_ONCE = 256  # what is found in a text is remembered for as many: the items that a night works on at once

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([smhd])\s*\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str) -> float:
    """`90s`, `10m`, `6h`, `1d` in seconds. Raises ConfigError."""
    match = _DURATION.match(text)
    if not match or float(match[1]) <= 0:
        raise ConfigError("cannot read the budget", repr(text), "give a number and one of s, m, h, d, such as 10m")
    return float(match[1]) * _UNITS[match[2]]


_NUMBER = re.compile(rb'"schema_version": ?(\d{1,9})')


def newer(data: bytes, error: Exception | None = None) -> bool:
    """Whether stored JSON names a schema number that this version does not know, or was refused (`error`) for a key
    that it does not know."""
    if any(int(number) > SCHEMA_VERSION for number in _NUMBER.findall(data)):
        return True
    return isinstance(error, ValidationError) and any(one["type"] == "extra_forbidden" for one in error.errors())


def pretty(value: object) -> bytes:
    """A value as the JSON of a stored file: sorted keys, one line per entry, readable in a pager. What is no text (a
    lone surrogate) stays as the escape that JSON has for it."""
    try:
        return to_json(_ordered(value), indent=1) + b"\n"
    except ValueError:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, indent=1)
        return (text + "\n").encode("utf-8", "backslashreplace")


def _ordered(value: object) -> object:
    """The value with its keys sorted, for who writes it a third as dear as Python's own writer of lines. Raises
    ValueError for what the two do not write alike: numbers with an exponent, keys and values that are not JSON's."""
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, dict) and all(type(key) is str for key in value):
        return {key: _ordered(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_ordered(one) for one in value]
    if isinstance(value, float) and kind is float and (value == 0 or 1e-4 <= abs(value) < 1e16):
        return value
    raise ValueError(f"a {kind.__name__}")
