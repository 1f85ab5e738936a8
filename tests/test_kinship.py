"""Which runs a commit carries: names in messages, changes that are the same wherever their lines stand."""

from __future__ import annotations

import pytest

from pantheon import kinship

PLAIN = (0o100644, 0o100644)
A, B = "aa" * 16, "bb" * 16


@pytest.mark.parametrize(
    ("message", "runs"),
    [
        (f"x\n\nPantheon-Run: {A}\n", (A,)),
        (f"Squashed\n\n    Pantheon-Run: {A}\n\n\tPantheon-Run: {B}\r\n    Pantheon-Run: {A}\n", (A, B)),
        (f"about Pantheon-Run: {A}\n", ()),
        ("Pantheon-Run: nothing\nPantheon-Run: ABCDEF12\n", ()),
    ],
)
def test_names_in_a_message(message: str, runs: tuple[str, ...]) -> None:
    assert kinship.named(message) == runs


def test_a_change_is_the_same_in_another_place_and_context() -> None:
    one = kinship.fingerprint(b"a\nb\nc\n", b"a\nB\nc\n", PLAIN)
    assert kinship.fingerprint(b"x\ny\nb\n", b"x\ny\nB\n", PLAIN) == one
    others = [
        kinship.fingerprint(b"a\nb\nc\n", b"a\nB \nc\n", PLAIN),
        kinship.fingerprint(b"a\nb\nc\n", b"a\nc\n", PLAIN),
        kinship.fingerprint(b"a\nb\nc\n", b"a\nB\nc\n", (0o100644, 0o100755)),
        kinship.fingerprint(None, b"a\nB\nc\n", (0, 0o100644)),
        kinship.fingerprint(b"", b"a\nB\nc\n", PLAIN),
    ]
    assert len({one, *others}) == 1 + len(others)


def test_binary_files_and_lines_that_change_places_count_as_a_whole() -> None:
    assert kinship.fingerprint(b"\0a", b"\0b", PLAIN) != kinship.fingerprint(b"\0a\n", b"\0b\n", PLAIN)
    assert kinship.fingerprint(b"a\nb\n", b"b\na\n", PLAIN) != kinship.fingerprint(b"c\nd\n", b"d\nc\n", PLAIN)


def test_a_squash_carries_what_is_in_it_and_nothing_twice() -> None:
    known = {A: {"a": "1"}, B: {"b": "2"}, "cc": {"b": "2"}, "dd": {"c": "3", "d": "4"}, "ee": {}}
    assert kinship.carried((), {"a": "1", "b": "2", "c": "3", "x": "9"}, known) == {A: "change", B: "change"}
    assert kinship.carried((B,), {"a": "1", "b": "other"}, known) == {B: "trailer", A: "change"}
    assert kinship.carried((A, "unknown"), {"a": "1"}, known) == {A: "trailer"}
    assert kinship.carried((), {}, known) == {}
