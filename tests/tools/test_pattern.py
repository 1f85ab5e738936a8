"""Rules that need no code: lines that must be there, lines that must not, and a change that is exactly their repair."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.errors import ConfigError, ToolError
from pantheon.records import Repair
from pantheon.tools import pattern
from pantheon.tools.facts import Facts
from pantheon.tools.pattern import LineArgs, LineRules
from pantheon.tools.tool import Change, Nothing, Tree
from pantheon.tools.workspace import Workspace

RULES = b"""
kind = "pattern"
files = ["docs/**/*.md"]
[[rule]]
name = "area"
missing = 'Area: (storage|radio)'
message = "says no area"
insert = "Area: {value}"
at = "heading"
values = ["storage", "radio"]
[[rule]]
name = "licence"
missing = 'Licence: CC0'
insert = "Licence: CC0"
at = "end"
[[rule]]
name = "tabs"
present = '\\t+'
replace = ""
[[rule]]
name = "todo"
present = 'TODO.*'
message = "something is to do"
"""
RULED = pattern.parse(RULES, "rules.toml")
NOTE = b"# Boats\n\nBoats have berths.\n\t\n"
TREE = Tree(frozenset({"docs/a.md"}), {"docs/a.md": NOTE}.get)


def workspace(root: Path, raw: bytes = NOTE, rules: LineRules = RULED) -> Workspace:
    root.mkdir(exist_ok=True)
    return Workspace(root, "docs/a.md", rules, Facts(paths=("docs/a.md",)), {"docs/a.md": raw}.get)


def found(raw: bytes) -> dict[str, Repair]:
    return {finding.rule: finding.repair for finding in pattern.check("docs/a.md", raw, RULED, TREE)}


def test_what_is_broken_says_how_it_can_be_repaired() -> None:
    assert found(NOTE) == {"area": Repair.CHOOSE, "licence": Repair.CERTAIN, "tabs": Repair.CERTAIN}
    assert found(b"Area: radio\nLicence: CC0\nTODO: all\n") == {"todo": Repair.REPORT}


def test_certain_repairs_need_no_model_and_the_choice_is_offered(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "tree")
    assert set(pattern.repair_lines(ws, Nothing()).done) == {"licence", "tabs"}
    (offer,) = pattern.offer_lines(ws)
    assert offer.args == {"rule": ("area",), "value": ("storage", "radio")}
    assert pattern.set_line(ws, LineArgs(rule="area", value="radio")).changed
    assert ws.read("docs/a.md") == b"# Boats\n\nArea: radio\n\nBoats have berths.\n\nLicence: CC0\n"
    assert pattern.offer_lines(ws) == ()


def test_a_line_comes_in_behind_front_matter(tmp_path: Path) -> None:
    rules = LineRules.model_validate(
        {"kind": "pattern", "rule": [{"name": "x", "missing": "X", "insert": "X", "at": "top"}]}
    )
    ws = workspace(tmp_path / "tree", b"---\ntitle: a\n---\nText\n", rules)
    pattern.repair_lines(ws, Nothing())
    assert ws.read("docs/a.md") == b"---\ntitle: a\n---\nX\nText\n"


@pytest.mark.parametrize("args", [("area", "opera"), ("nothing", "radio"), ("todo", "x"), ("licence", "CC0")])
def test_a_value_that_no_rule_has_is_refused(tmp_path: Path, args: tuple[str, str]) -> None:
    ws = workspace(tmp_path / "tree")
    with pytest.raises(ToolError):
        pattern.set_line(ws, LineArgs(rule=args[0], value=args[1]))
    assert ws.changes() == {}


def problems(after: bytes, before: bytes = NOTE) -> list[str]:
    now = Tree(TREE.paths, {"docs/a.md": after}.get)
    return [p.rule for p in pattern.KIND.problems(Change("docs/a.md", before, after, TREE, now), RULED)]


def test_the_check_takes_exactly_the_repairs() -> None:
    right = b"# Boats\n\nArea: radio\n\nBoats have berths.\n\nLicence: CC0\n"
    assert problems(right) == []
    assert problems(right.replace(b"have", b"had")) == ["pattern"]
    assert problems(right.replace(b"radio", b"opera")) == ["area"]
    assert problems(right + b"more\n") == ["pattern"]
    assert problems(NOTE) == ["area"]


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ('kind = "pattern"\n[[rule]]\nname = "a"\n', 2, "exactly one of missing and present"),
        ('kind = "pattern"\n[[rule]]\nname = "a"\nmissing = "("\n', 2, "not a regular expression"),
        ('kind = "pattern"\n[[rule]]\nname = "a"\nmissing = "b"\ninsert = "c"\n', 2, "would not satisfy"),
        (
            'kind = "pattern"\n[[rule]]\nname = "a"\nmissing = "b"\n[[rule]]\nname = "a"\nmissing = "c"\n',
            5,
            "same name",
        ),
        ('kind = "pattern"\n[[rule]]\nname = "a"\npresent = "b"\nreplace = "b"\n', 2, "matches 'b' again"),
        ('kind = "pattern"\n[[rule]]\nname = "a"\nmising = "b"\n', 4, "mising"),
        ('kind = "pattern"\n', 0, "rule"),
    ],
)
def test_rules_that_contradict_themselves_are_refused_with_the_line(text: str, line: int, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        pattern.parse(text.encode(), "r.toml")
    assert caught.value.line == line


LINES = st.lists(
    st.sampled_from(["# Head", "", "Area: radio", "Area: x", "\t", "TODO", "Licence: CC0", "---", "text\r", "## Two"]),
    max_size=8,
)


@settings(deadline=None)
@given(LINES, st.sampled_from(["storage", "radio"]))
def test_what_the_tools_do_is_what_the_check_takes_and_doing_it_again_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], value: str
) -> None:
    raw = "\n".join(lines).encode()
    ws = workspace(tmp_path_factory.mktemp("tree"), raw)
    pattern.repair_lines(ws, Nothing())
    if pattern.offer_lines(ws):
        pattern.set_line(ws, LineArgs(rule="area", value=value))
    once = ws.read("docs/a.md")
    assert {rule for rule, repair in found(once).items() if repair is not Repair.REPORT} == set()
    assert problems(once, raw) == []
    assert pattern.repair_lines(ws, Nothing()).done == ()
    assert not pattern.set_line(ws, LineArgs(rule="area", value="radio")).changed if b"Area: radio" in once else True
    assert ws.read("docs/a.md") == once
