"""TOML files as records: the line of every mistake, and what would have been accepted."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from pantheon import tomlfile
from pantheon.errors import ConfigError
from pantheon.records import Record


class Inner(Record):
    kind: Literal["one", "two"] = "one"
    size: int = Field(default=0, ge=0)


class Outer(Record):
    name: str
    inner: Inner = Inner()
    node: tuple[Inner, ...] = ()


TEXT = """# size = 3 in a comment is no key
name = "x"
inner = {kind = "one", size = 2}

[[node]]
kind = "one"
size = 1

[[node]]
# a comment
kind = "two"
size = 4

[table.deep]
size = 9
"""


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("name",), 2),
        (("inner", "size"), 3),
        (("inner", "nothing"), 3),
        (("node",), 5),
        (("node", 0, "size"), 7),
        (("node", 1), 9),
        (("node", 1, "size"), 12),
        (("node", 1, "nothing"), 9),
        (("table", "deep", "size"), 15),
        (("nothing",), 0),
    ],
)
def test_a_place_has_its_line(place: tuple[str | int, ...], line: int) -> None:
    assert tomlfile.line_of(TEXT, place) == line


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ('name = "x"\n[[node]]\nkind = "one"\n[[node]]\nkind = "tow"\n', 5, r"node\[2\].kind: .*'one' or 'two'"),
        ('name = "x"\n[[node]]\nsiez = 3\n', 3, "unknown key 'siez'; known here: kind, size; did you mean 'size'"),
        ('name = "x"\ninner = {size = -1}\n', 2, "inner.size: .*greater than or equal to 0"),
        ("nome = 1\n", 1, "known here: inner, name, node"),
        ("[inner]\nsize = 1\n", 1, "name: Field required"),
        ('name = "x\n', 1, "not TOML"),
        ('name = "x"\nname = "y"\n', 2, "not TOML"),
    ],
)
def test_a_mistake_has_its_line_and_what_is_accepted(text: str, line: int, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        source, values = tomlfile.read(text.encode(), "f.toml")
        tomlfile.validated(Outer, values, source, "f.toml")
    assert caught.value.path == "f.toml"
    assert caught.value.line in ((0, line) if "required" in why else (line,))


@given(st.binary(max_size=60))
def test_any_bytes_are_values_or_an_error_with_a_line(raw: bytes) -> None:
    try:
        tomlfile.read(raw, "f.toml")
    except ConfigError as error:
        assert error.line >= 1


@given(st.text(max_size=80), st.lists(st.one_of(st.sampled_from(["a", "node"]), st.integers(0, 3)), max_size=4))
def test_looking_for_a_line_never_fails(text: str, place: list[str | int]) -> None:
    assert 0 <= tomlfile.line_of(text, place) <= len(text.splitlines())
