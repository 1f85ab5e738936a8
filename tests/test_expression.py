"""The language of conditions: what it says, that it always ends, and that it can reach nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pantheon import expression

OUTPUTS: dict[str, dict[str, Any]] = {
    "plan": {"choose": ["title", "tags"], "rename": False, "count": 3, "results": {"read": {"lines": 12}}},
    "review-a": {"verdict": "pass", "reason": "it fits"},
    "skipped": {},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("plan.choose", True),
        ("plan.rename", False),
        ("not plan.rename", True),
        ("plan.count > 2 and plan.count <= 3", True),
        ("plan.count > 2 and plan.rename or plan.choose", True),
        ("(plan.rename or plan.choose) and not plan.rename", True),
        ('review-a.verdict == "pass"', True),
        ("review-a.verdict != 'pass'", False),
        ('"title" in plan.choose', True),
        ('"body" not in plan.choose', True),
        ("len(plan.choose) == 2", True),
        ("len(plan.nothing) == 0", True),
        ("plan.choose.1 == 'tags'", True),
        ("plan.choose.7", False),
        ("plan.results.read.lines >= 12", True),
        ("plan.count in [1, 3]", True),
        ("skipped.anything.at.all", False),
        ("nobody", False),
        ("null == skipped.x", True),
        ("plan.count < 'a'", False),
        ("not not true", True),
        ("-1 < 0.5", True),
    ],
)
def test_a_condition_says_what_it_looks_like(text: str, value: bool) -> None:
    assert expression.holds(text, OUTPUTS) is value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "column 1: a value expected"),
        ("plan.choose and", "a value expected, found the end"),
        ("plan.choose plan", "the end expected"),
        ("(plan", r"\) expected"),
        ("plan.count ==", "a value expected"),
        ("open('x')", "the end expected"),
        ("plan.__class__", "column"),
        ("__import__('os')", "column 1"),
        ("plan.count + 1", "column 12"),
        ("1" * 20, "column 1"),
        ("not " * 30 + "x", "nested deeper"),
        ("(" * 30 + "x" + ")" * 30, "nested deeper"),
        ("x or " * 200 + "x", "longer than"),
    ],
)
def test_anything_else_is_refused_with_the_column(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        expression.parse(text)


def test_what_it_looks_at_is_known_before_it_runs() -> None:
    found = expression.parse("review-a.verdict == 'x' and len(plan.choose) > 1 or plan.rename")
    assert found.nodes == ("review-a", "plan")
    assert found.paths == (("review-a", "verdict"), ("plan", "choose"), ("plan", "rename"))


def test_renaming_touches_nodes_only() -> None:
    text = "a.b == 'a.b' and not (a or ab.a) and \"a\" in a.list"
    assert expression.renamed(text, {"a": "z-a"}) == "z-a.b == 'a.b' and not (z-a or ab.a) and \"a\" in z-a.list"


WORDS = [
    "plan",
    ".",
    "choose",
    "and",
    "or",
    "not",
    "in",
    "len",
    "(",
    ")",
    "[",
    "]",
    ",",
    "==",
    "<",
    "'x'",
    "3",
    "-",
    " ",
]


@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)))
@example("plan.choose.")
def test_every_text_is_refused_or_has_a_value(text: str) -> None:
    try:
        found = expression.parse(text)
    except ValueError:
        return
    assert expression.holds(text, OUTPUTS) in (True, False)
    assert expression.parse(expression.renamed(text, {})).paths == found.paths
