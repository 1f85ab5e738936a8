"""Damage is put right where the repair is certain, and nothing else changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from note_samples import FLOODED, MOJIBAKE, STAMPED, damaged

from pantheon.frontmatter import parse
from pantheon.tools import damage


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_text_read_as_mac_roman_comes_back_exactly(layers: int) -> None:
    raw = damaged(MOJIBAKE, layers).encode()
    assert damage.fix_mojibake(raw) == MOJIBAKE.encode()
    assert damage.mojibake_lines(raw) == ([1, 3, 5], [])


def test_right_text_is_left_alone() -> None:
    text = "«École» — naïve “Größe” \u2018ok\u2019 Ünïcödé 日本語 \U0001f5c2 √© ¬© ≈ ∆\n" + MOJIBAKE
    assert damage.fix_mojibake(text.encode()) == text.encode()


def test_a_line_that_does_not_round_trip_is_doubtful() -> None:
    raw = ("Here" + damaged("\u2019", 1) + "s a \u65e5 line with " + damaged("\u201cquotes\u201d", 1) + "\n").encode()
    assert damage.fix_mojibake(raw) == raw
    assert damage.mojibake_lines(raw) == ([], [1])


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_fixing_is_idempotent(text: str) -> None:
    once = damage.fix_mojibake(text.encode())
    assert damage.fix_mojibake(once) == once


def test_floods_of_blank_lines_become_one_outside_code() -> None:
    assert damage.blank_runs(FLOODED.encode(), 4) == [(4, 399)]
    assert damage.cut_blank_runs(FLOODED.encode(), 4) == FLOODED.replace("\n" * 400, "\n\n").encode()
    code = b"```\nx" + b"\n" * 9 + b"y\n```\n"
    assert damage.cut_blank_runs(code, 4) == code
    assert damage.cut_blank_runs(b"```\nx" + b"\n" * 9 + b"never closed\n", 4) == b"```\nx\n\nnever closed\n"
    assert damage.cut_blank_runs(b"a\r\n" + b"\r\n" * 9 + b"b\r\n", 4) == b"a\r\n\r\nb\r\n"


def test_a_diff_in_a_timestamp_is_cut_away() -> None:
    doc = parse(STAMPED.encode(), "a.md")
    assert damage.overlong_stamps(doc.get("commitHistory") or "", "timestamp")
    fixed = damage.cut_history(doc, "commitHistory", "timestamp")
    assert fixed is not None
    after = parse(fixed, "a.md")
    assert after.get("commitHistory") == [{"sha": "4930e12", "timestamp": "2025-10-19 17:08:36 -0500", "message": "m"}]
    assert after.body == doc.body


def test_a_stamp_that_cannot_be_cut_for_certain_stays() -> None:
    raw = b'---\nh:\n  - timestamp: "2025-10-19 17:08:36 and then some"\n---\n'
    assert damage.cut_history(parse(raw, "a.md"), "h", "timestamp") is None
