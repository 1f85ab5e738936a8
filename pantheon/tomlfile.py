"""TOML files of ours as records: read, validated, and every error with its line and what would be accepted.

Ring 0: takes bytes, returns values. The one place that finds a key's line; writing keeps comments and is tomlkit's.
"""

from __future__ import annotations

import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar, Union, get_args, get_origin

from pydantic import AliasChoices, ValidationError
from pydantic.fields import FieldInfo

from pantheon.errors import ConfigError
from pantheon.records import Record

R = TypeVar("R", bound=Record)
_HEADER = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")


def read(raw: bytes, path: str, what: str = "cannot read") -> tuple[str, dict[str, Any]]:
    """The text of a file and its values. Raises ConfigError for what is not UTF-8 or not TOML."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(what, path, "not UTF-8", raw[: error.start].count(b"\n") + 1) from error
    try:
        return text, tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        line = int(at[1]) if at else text.count("\n") + 1
        raise ConfigError(what, path, f"not TOML: {str(error).partition(' (at ')[0]}", line) from error
    except RecursionError as error:
        raise ConfigError(what, path, "nested too deeply", 1) from error


def validated(
    kind: type[R],
    values: Mapping[str, Any],
    text: str,
    path: str,
    where: Sequence[str | int] = (),
    what: str = "cannot use",
) -> R:
    """`values`, found at `where` in the file, as a record. Raises ConfigError: file, line, accepted values."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _refusal(kind, error, text, path, where, what) from error


def _refusal(
    kind: type[Record], error: ValidationError, text: str, path: str, where: Sequence[str | int], what: str
) -> ConfigError:
    every = error.errors(include_url=False)
    first = next(
        (one for one in every if one["type"] == "extra_forbidden"), every[0]
    )  # a slip explains what is missing
    inner = [part for part in first["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    why = (
        f"{shown(inner)}: {first['msg'].removeprefix('Value error, ')}"
        if inner
        else first["msg"].removeprefix("Value error, ")
    )
    if first["type"] == "extra_forbidden":
        known = _known(kind, inner[:-1])
        near = get_close_matches(str(inner[-1]), known, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        why = f"unknown key {inner[-1]!r}; known here: {', '.join(known)}{meant}"
    return ConfigError(what, path, why, line_of(text, (*where, *inner)))


def shown(place: Sequence[str | int]) -> str:
    """A place as people write it: `node[2].retries`, numbers from 1."""
    parts = [f"[{part + 1}]" if isinstance(part, int) else f".{part}" for part in place]
    return "".join(parts).removeprefix(".")


def _known(kind: type[Record], keys: Sequence[str | int]) -> list[str]:
    """The keys that a record accepts at a nested place."""
    found: Any = kind
    for key in keys:
        found = (
            _record_in(found.model_fields[key].annotation)
            if isinstance(key, str) and key in getattr(found, "model_fields", {})
            else found
        )
        if found is None:
            return ["see the documentation"]
    return sorted(_key(name, field) for name, field in found.model_fields.items())


def _key(name: str, field: FieldInfo) -> str:
    """The key of a field in a file."""
    alias = field.validation_alias
    return str(alias.choices[0]) if isinstance(alias, AliasChoices) else field.alias or name


def _record_in(annotation: Any) -> Any:
    """The record type inside `tuple[X, ...]`, `dict[str, X]` or `X | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return annotation
    if get_origin(annotation) in (tuple, list, dict, Union, types.UnionType):
        return next((found for part in get_args(annotation) if (found := _record_in(part)) is not None), None)
    return None


def line_of(text: str, place: Sequence[str | int]) -> int:
    """The line (from 1) of the innermost part of a place that can be found; 0 when none can.

    A number picks one of an array's tables, or of a list's values the line of its key.
    """
    lines = text.splitlines()
    tables, last = _tables(lines), 0
    start, end = 0, next((n for n, line in enumerate(lines) if _HEADER.match(line)), len(lines))
    name: list[str] = []
    in_table = False
    for part in place:
        if isinstance(part, int):
            if not in_table:  # of a list within a line
                continue
            at = [span for key, span in tables if key == name]
            if part < len(at):
                start, end = at[part]
                last = start
            continue
        deeper = [*name, part]
        inside = [span for key, span in tables if key == deeper]
        if inside or any(key[: len(deeper)] == deeper for key, _ in tables):
            name.append(part)
            in_table = True
            if inside:
                start, end = inside[0]
                last = start
            continue
        in_table = False
        found = _key_line(lines, part, start, end)
        if not found:
            break
        last, start = found, found - 1
        end = next((n for n in range(found, end) if _is_entry(lines[n])), end)
    return last


def _tables(lines: Sequence[str]) -> list[tuple[list[str], tuple[int, int]]]:
    """Every table header: its dotted name, the line it is on (from 1) and the index behind its last line."""
    heads = [(n, found[1]) for n, line in enumerate(lines) if (found := _HEADER.match(line))]
    ends = [*(n for n, _ in heads[1:]), len(lines)][: len(heads)]
    names = [[part.strip().strip("\"'") for part in name.strip("[] ").split(".")] for _, name in heads]
    return [(name, (n + 1, end)) for name, (n, _), end in zip(names, heads, ends, strict=True)]


def _is_entry(line: str) -> bool:
    return re.match(r"\s*[\w\"'.-]+\s*=", line) is not None


def _key_line(lines: Sequence[str], key: str, start: int, end: int) -> int:
    """The line of `key =` among lines `start`..`end` (indices), also inside an inline table."""
    entry = re.compile(rf"(^|[{{,.\s\"']){re.escape(key)}[\"']?\s*[=.]")
    for n in range(max(0, start), min(end, len(lines))):
        if not lines[n].lstrip().startswith("#") and entry.search(lines[n]):
            return n + 1
    return 0
