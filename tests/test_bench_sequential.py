"""bench/sequential.py: what an answer may look like, what is the item's own change, what the figures add up to."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import sample_night

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "bench"))

import sequential
import sequential_inside as inside

from pantheon import config
from pantheon.records import Outcome
from pantheon.tools.rules import Rules, parse_rules

NOTE = b"# Care of the oven\n\nThe oven is cleaned every Friday after the last loaf. See [it](oven.md).\n"
ANSWER = (
    'note --title "Care of the oven" --tags "oven, cleaning" '
    '--description "The oven is cleaned every Friday after the last loaf."'
)


@pytest.fixture
def rules() -> Rules:
    return parse_rules(config.packaged("rules", "frontmatter.toml").read_bytes())


# --- the loop's answers ----------------------------------------------------------------------------------------------


def test_an_answer_is_one_command_with_what_is_missing(rules: Rules) -> None:
    shape = sequential.shape(["title", "tags", "description"], rules, {})
    assert re.fullmatch(shape, ANSWER)
    assert re.fullmatch(sequential.ORDERS["model"]["action_regex"], ANSWER + "\n")
    assert not re.fullmatch(shape, 'note --title "Oven"')
    assert re.fullmatch(sequential.shape(["name"], rules, {}), 'note --name "care-of-the-oven.md"')
    assert not re.fullmatch(sequential.shape(["name"], rules, {}), 'note --name "../oven.md"')


def test_offered_values_are_the_only_ones_and_none_that_a_shell_reads(rules: Rules) -> None:
    offered = {"title": ["Care of the oven", 'The "oven"'], "tags": ["oven", "c++"]}
    shape = sequential.shape(["title", "tags"], rules, offered)
    assert re.fullmatch(shape, 'note --title "Care of the oven" --tags "c++, oven"')
    assert not re.fullmatch(shape, 'note --title "The "oven"" --tags "oven"')
    assert not re.fullmatch(shape, 'note --title "Care of the oven" --tags "bread"')


@pytest.mark.parametrize("bad", ['a" ; touch x; "aaa', "$(touch x) aaa", "`touch x` aaa", "aaa\\", "a\nb c"])
def test_no_answer_says_anything_else_to_a_shell(bad: str, rules: Rules) -> None:
    assert not re.fullmatch(sequential.shape(["title"], rules, {}), f'note --title "{bad}"')


def test_the_example_of_the_prompt_has_the_form_that_is_enforced(rules: Rules) -> None:
    line = sequential.SYSTEM.strip().splitlines()[-1]
    assert re.fullmatch(sequential.shape(["title", "tags", "description"], rules, {}), line)


def test_a_conversation_is_counted() -> None:
    said: list[dict[str, Any]] = [
        {"role": "system"},
        {"role": "assistant", "extra": {"actions": []}},
        {"role": "user", "extra": {"returncode": 1}},
        {"role": "user", "extra": {"interrupt_type": "FormatError"}},
        {"role": "assistant", "extra": {}},
        {"role": "exit", "extra": {"exit_status": "Submitted"}},
    ]
    assert inside.told(said) == {"steps": 3, "malformed": 1, "failed": 1}


def test_a_line_of_results_that_is_not_whole_is_not_read(tmp_path: Path) -> None:
    assert sequential.results(tmp_path, {"form-0"}) == []
    (tmp_path / "results.jsonl").write_text('{"name": "form-0"}\n{"name": "offered-0"}\n{"na')
    assert sequential.results(tmp_path, {"form-0"}) == [{"name": "form-0"}]


# --- its command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An item's directory with two notes, one of which links to the other."""
    for root in ("base", "item/tree"):
        (tmp_path / root).mkdir(parents=True)
        (tmp_path / root / "The oven!.md").write_bytes(NOTE)
        (tmp_path / root / "other.md").write_bytes(b"See [the oven](<The oven!.md>).\n")
    (tmp_path / "base" / "oven.md").write_bytes(NOTE)
    (tmp_path / "item" / "tree" / "oven.md").write_bytes(NOTE)
    monkeypatch.setattr(inside, "BASE", tmp_path / "base")
    monkeypatch.setattr(inside, "RULES", config.packaged("rules", "frontmatter.toml"))
    monkeypatch.setenv("NOTE", str(tmp_path / "item"))
    return tmp_path / "item"


def start(place: Path, target: str, inbound: tuple[str, ...] = ()) -> None:
    state = {"target": target, "now": target, "inbound": inbound}
    (place / "state.json").write_text(json.dumps(state))


WHOLE = (
    *("--uuid", "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11", "--created_at", "2026-03-01T09:00:00Z"),
    *("--title", "Care of the oven", "--tags", "oven, cleaning", "--description", "The oven is cleaned every Friday."),
)


def test_the_command_says_what_is_missing_and_ends_when_nothing_is(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start(place, "oven.md")
    assert inside.note(["--title", "Care of the oven"]) == 1
    assert "description is missing" in capsys.readouterr().out
    assert inside.note(WHOLE) == 0
    assert capsys.readouterr().out.strip() == inside.DONE
    text = (place / "tree" / "oven.md").read_text()
    assert "slug: " in text and "status: " in text, "what follows from the others is put in"
    assert text.endswith(NOTE.decode())
    assert sequential.harvested(place / "tree", place.parent / "base").keys() == {"oven.md"}


def test_the_command_renames_and_links_follow(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    start(place, "The oven!.md", ("other.md",))
    assert inside.note([*WHOLE, "--name", "care-of-the-oven.md"]) == 0, capsys.readouterr().out
    assert b"care-of-the-oven.md" in (place / "tree" / "other.md").read_bytes()
    changed = sequential.harvested(place / "tree", place.parent / "base")
    assert sequential.is_own(changed, "The oven!.md", ["other.md"])


@pytest.mark.parametrize("words", [["--title"], ["--nonsense", "x"], ["--name", "../x.md"], ["--name", "other.md"]])
def test_the_command_refuses(place: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    start(place, "oven.md")
    assert inside.note(words) == 1
    assert capsys.readouterr().out
    assert sequential.harvested(place / "tree", place.parent / "base").keys() <= {"oven.md"}


# --- judging ---------------------------------------------------------------------------------------------------------


def test_what_is_harvested_follows_no_link(tmp_path: Path) -> None:
    base, tree = tmp_path / "base", tmp_path / "tree"
    for root in (base, tree):
        root.mkdir()
        for name in ("same.md", "changed.md", "gone.md", "linked.md"):
            (root / name).write_bytes(b"as it was")
    (tree / "changed.md").write_bytes(b"another")
    (tree / "gone.md").unlink()
    (tree / "linked.md").unlink()
    (tree / "linked.md").symlink_to(tmp_path / "secret")
    (tree / "new").mkdir()
    (tree / "new" / "file").write_bytes(b"x")
    found = sequential.harvested(tree, base)
    assert found == {"changed.md": b"another", "gone.md": None, "linked.md": None, "new/file": b"x"}


@pytest.mark.parametrize(
    ("changed", "own"),
    [
        ({}, False),
        ({"a.md": b"x"}, True),
        ({"a.md": b"x", "b.md": b"x"}, False),
        ({"a.md": b"x", "c.md": b"x"}, False),  # it links to the note, which was not renamed
        ({"a.md": None, "b.md": b"x"}, True),
        ({"a.md": None, "b.md": b"x", "c.md": b"x"}, True),
        ({"a.md": None}, False),
        ({"a.md": b"x", "c.md": None}, False),
    ],
)
def test_an_item_changes_its_own_file(changed: dict[str, bytes | None], own: bool) -> None:
    assert sequential.is_own(changed, "a.md", ["c.md"]) is own


# --- figures ---------------------------------------------------------------------------------------------------------


def test_items_are_spread_over_the_plan() -> None:
    every = [str(n) for n in range(10)]
    assert sequential.spread(every, 5) == ["0", "2", "4", "6", "8"]
    assert sequential.spread(every, 0) == sequential.spread(every, 99) == every


def test_a_nights_figures_are_its_reports() -> None:
    report = sample_night.morning().report
    found = sequential.of_night(report, 100.0)
    assert found.items == len(report.runs)
    assert found.accepted == sum(run.outcome is Outcome.ACCEPTED for run in report.runs) <= found.passed
    assert found.tokens == pytest.approx(report.tokens_per_s * report.wall_s)
    assert found.tokens / found.engine_steps == pytest.approx(report.mean_batch)
    assert sum(found.ends.values()) == found.items


def test_parts_add_up_and_are_compared_by_the_hour() -> None:
    one = sequential.Figures(items=2, passed=2, accepted=1, seconds=1800, tokens=10)
    both = one + one
    assert (both.items, both.accepted, both.seconds, both.tokens) == (4, 2, 3600, 20)
    fast = sequential.Figures(items=4, passed=4, accepted=4, seconds=720)
    nothing = sequential.Figures(items=4, seconds=10)
    said = sequential.ratios({"loop": nothing, "one": both, "night": fast})
    assert said == [
        "night against loop: nothing to compare with, it had none accepted",
        "night against one: 10.0 times the accepted items per hour",
    ]
    assert sequential.table({"loop": nothing, "one": both, "night": fast}).row_count == 12
