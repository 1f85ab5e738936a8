"""Rules as data, and what they find in notes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from note_samples import BROKEN, FLAGGED_PATH, NOTES, RULES

from pantheon.errors import ConfigError
from pantheon.records import Repair
from pantheon.tools.rules import check_note, is_date, parse_rules


def found(path: str) -> dict[str, Repair]:
    return {f.rule: f.repair for f in check_note(path, NOTES[path], RULES)}


def test_a_note_that_is_right_has_no_findings() -> None:
    assert found("docs/keys.md") == {}


def test_a_bare_note_lacks_every_required_field() -> None:
    assert found("docs/backups.md") == {
        "missing:uuid": Repair.CERTAIN,
        "missing:title": Repair.CHOOSE,
        "missing:slug": Repair.CERTAIN,
        "missing:status": Repair.CERTAIN,
        "missing:priority": Repair.CERTAIN,
        "missing:tags": Repair.CHOOSE,
        "missing:created_at": Repair.CERTAIN,
        "missing:description": Repair.CHOOSE,
    }


def test_flags_in_title_slug_and_name_and_an_empty_list_break_the_rules() -> None:
    rules = found(FLAGGED_PATH)
    assert rules["pattern:title"] is Repair.CHOOSE
    assert rules["type:slug"] is Repair.CERTAIN
    assert rules["enum:priority"] is Repair.CERTAIN
    assert rules["missing:tags"] is Repair.CHOOSE
    assert rules["name"] is Repair.CHOOSE
    line = next(f.line for f in check_note(FLAGGED_PATH, NOTES[FLAGGED_PATH], RULES) if f.rule == "enum:priority")
    assert line == 6


@pytest.mark.parametrize("path", sorted(BROKEN))
def test_front_matter_that_cannot_be_read_is_for_a_person(path: str) -> None:
    findings = check_note(path, BROKEN[path], RULES)
    assert [(f.rule, f.repair) for f in findings] == [("unparsable", Repair.REPORT)]
    assert findings[0].line > 0


def test_values_of_a_person_are_reported_not_replaced() -> None:
    raw = b"---\nuuid: abc\nstatus: whatever\ncreated_at: yesterday\npriority: [P1]\n---\n# T\n"
    rules = {f.rule: f.repair for f in check_note("a.md", raw, RULES)}
    for rule in ("type:uuid", "enum:status", "type:created_at", "type:priority"):
        assert rules[rule] is Repair.REPORT


def test_a_text_for_a_list_is_split() -> None:
    rules = {f.rule: f.repair for f in check_note("a.md", b"---\ntags: a, b\n---\n", RULES)}
    assert rules["type:tags"] is Repair.CERTAIN


@pytest.mark.parametrize(
    ("value", "right"),
    [
        ("2026-01-31", True),
        ("2026-01-31T12:00:00Z", True),
        ("2025-10-19 17:08:36 -0500", True),
        ("2025-11-05T16:52:57.837Z", True),
        ("2026-02-30", False),
        ("2026-1-1", False),
        ("2026-01-31 and more", False),
        ("2026-01-31T25:00:00Z", False),
    ],
)
def test_dates(value: str, right: bool) -> None:
    assert is_date(value) is right


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("order = [\n", 0, "not TOML"),
        ("[name]\npattern = '('\n", 2, "regular expression"),
        ("[field.a]\ntype = 'text'\n", 2, "field.a.type"),
        ("[field.a]\nrequired = true\ncolour = 'red'\n", 3, "unknown key 'colour'"),
        ("[field.a]\nfrom = ['default']\n", 2, "needs a default"),
        ("[field.a]\nenum = ['x']\naliases = {y = 'z'}\n", 3, "alias"),
        ("[field.a]\nenum = ['x']\ndefault = 'y'\n", 3, "default is not an allowed value"),
        ("[field.a]\npattern = '*'\n", 2, "regular expression"),
    ],
)
def test_bad_rules_are_refused_with_their_line(text: str, line: int, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_rules(text.encode(), ".pantheon/rules/frontmatter.toml")
    assert why in caught.value.why
    assert caught.value.line == line or line == 0


@settings(max_examples=150, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(str.encode)))
def test_any_bytes_are_checked_without_an_error(tail: bytes) -> None:
    for raw in (tail, b"---\n" + tail + b"\n---\n", b"---\ncommitHistory:\n- timestamp: " + tail + b"\n---\n"):
        check_note("notes/a.md", raw, RULES)


@pytest.mark.parametrize(
    "unit", [b"a" * 12_000, b"- [ ](" * 2_000, b"\xef\xa3\xbf" * 4_000, b"`[[" * 4_000, b"<" * 9_000]
)
def test_long_lines_do_not_hang(unit: bytes) -> None:
    start = time.perf_counter()
    check_note("a.md", b"---\ntitle: x\n---\n" + (unit + b"\n") * 20, RULES)
    assert time.perf_counter() - start < 3
