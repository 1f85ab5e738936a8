"""Values computed from a text, and the blind question whether the one that was chosen belongs to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pantheon.errors import ConfigError, ToolError
from pantheon.records import Offer
from pantheon.tools import labels, pattern
from pantheon.tools.facts import build_facts
from pantheon.tools.labels import LabelArgs
from pantheon.tools.match import Matched
from pantheon.tools.pattern import LineArgs
from pantheon.tools.tool import Change, Nothing, Tree
from pantheon.tools.workspace import Workspace

RULES = """
kind = "pattern"
[[rule]]
name = "topic"
missing = 'Topic: [a-z-]+'
message = "does not say its topic"
insert = "Topic: {value}"
at = "heading"
from = "topics"
[[rule]]
name = "tabs"
present = '\\t+'
message = "has a line of tabs"
replace = ""
"""
NOTE = b"# The harbour crane\n\nThe crane lifts boats. Every crane of the harbour is greased in spring.\n\t\n"
OTHERS = {f"docs/n{i}.md": f"# The {w}\n\nA {w} is a thing.\n".encode() for i, w in enumerate(["oven", "tax", "rope"])}


def workspace(root: Path, raw: bytes = NOTE, rules: str = RULES) -> Workspace:
    root.mkdir(exist_ok=True)
    files = {"docs/a.md": raw, **OTHERS}
    parsed = pattern.parse(rules.encode(), "rules.toml")
    return Workspace(root, "docs/a.md", parsed, build_facts(files, tuple(files), {}), files.get)


def choose(ws: Workspace) -> str:
    pattern.repair_lines(ws, Nothing())
    values = pattern.offer_lines(ws)[0].args["value"] or ()
    pattern.set_line(ws, LineArgs(rule="topic", value="crane"))
    assert "crane" in values
    return "crane"


def test_the_topics_of_the_text_are_offered_and_stay_the_same_when_one_is_taken(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "tree")
    before = pattern.choices(ws, ws.ruled(pattern.LineRules).rule[0])
    choose(ws)
    assert pattern.choices(ws, ws.ruled(pattern.LineRules).rule[0]) == before
    assert not pattern.set_line(ws, LineArgs(rule="topic", value="crane")).changed
    assert b"\n\nTopic: crane\n\nThe crane" in ws.read("docs/a.md")


def test_the_check_takes_a_topic_of_which_the_text_speaks_and_no_other(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "tree")
    choose(ws)
    after = ws.read("docs/a.md")
    tree = Tree(frozenset(), lambda _: None)

    def problems(raw: bytes) -> list[str]:
        change = Change("docs/a.md", NOTE, raw, tree, tree)
        return [problem.rule for problem in pattern.KIND.problems(change, ws.ruled(pattern.LineRules))]

    assert problems(after) == []
    assert problems(after.replace(b"Topic: crane", b"Topic: opera")) == ["topic"]
    assert problems(after + b"more\n") == ["pattern"]


@pytest.mark.parametrize(
    ("offer", "match"), [(labels.offer_label, labels.match_label), (labels.offer_shelf, labels.match_shelf)]
)
def test_a_reviewer_sees_the_text_as_it_was_and_the_value_among_others(
    tmp_path: Path, offer: Callable[[Workspace], tuple[Offer, ...]], match: Callable[[Workspace, LabelArgs], Matched]
) -> None:
    ws = workspace(tmp_path / "tree")
    true = choose(ws)
    assert "Topic" not in labels.read_before(ws, Nothing()).text
    values = offer(ws)[0].args["label"] or ()
    assert true in values and len(values) == 1 + labels.OTHERS
    assert match(ws, LabelArgs(label=true)).same
    assert not match(ws, LabelArgs(label=next(v for v in values if v != true))).same
    with pytest.raises(ToolError):
        match(ws, LabelArgs(label="nothing of the kind"))


def test_where_nothing_was_chosen_the_reviewer_is_asked_what_was_wrong(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "tree", b"# A\n\nTopic: crane\n\t\n")
    pattern.repair_lines(ws, Nothing())
    values = labels.offer_label(ws)[0].args["label"] or ()
    assert "has a line of tabs" in values
    assert labels.match_label(ws, LabelArgs(label="has a line of tabs")).same


def test_a_change_of_nothing_is_no_question(tmp_path: Path) -> None:
    assert labels.offer_label(workspace(tmp_path / "tree")) == ()


def test_values_and_where_they_come_from_are_not_both_given() -> None:
    with pytest.raises(ConfigError, match="give values, or where they come from"):
        pattern.parse(RULES.replace('from = "topics"', 'from = "topics"\nvalues = ["a"]').encode(), "r.toml")
