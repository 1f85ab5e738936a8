"""Task files: strict in our block, untouched elsewhere, typed errors with lines, never a crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon import tasks
from pantheon.errors import TaskError
from pantheon.records import Task

GOOD = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Normalise the notes"
slug: "normalise-the-notes"
status: "ready"   # now
priority: "P2"
labels: ["docops"]
created_at: "2026-03-01T09:00:00Z"
lastCommitSha: 4930e12
estimates: {complexity: "", scale: ""}
pantheon:
  flow: docops
  scope: ["docs/**/*.md", "spec/*.md"]
  exclude: ["docs/inbox/**"]
  depends_on: []
  max_diff_lines: 200
  standing: false
  acceptance:
    - run: "frontmatter"
    - run: "links"
---
Why, and anything a reviewer should know.
"""


def parse(text: str) -> Task:
    found = tasks.parse(text.encode(), "docs/tasks/t.md")
    assert found is not None
    return found


def test_a_whole_task_is_read() -> None:
    task = parse(GOOD)
    assert task.spec is not None
    assert (task.status, task.priority, task.labels) == ("ready", "P2", ("docops",))
    assert task.spec.scope == ("docs/**/*.md", "spec/*.md")
    assert task.spec.max_diff_lines == 200
    assert task.spec.standing is False
    assert [criterion.run for criterion in task.spec.acceptance] == ["frontmatter", "links"]


def test_a_file_without_front_matter_is_a_note_not_a_task() -> None:
    assert tasks.parse(b"# Just a note\n", "docs/tasks/n.md") is None


def test_a_board_task_without_our_block_is_left_alone() -> None:
    task = parse('---\nuuid: x\ntitle: "T"\nstatus: incoming\ncommitHistory: [1e5]\n---\n')
    assert task.spec is None
    assert task.status == "incoming"


@pytest.mark.parametrize(
    ("old", "new", "why", "line"),
    [
        ("  standing: false", "  standing: perhaps", "standing", 17),
        ("  max_diff_lines: 200", "  max_diff_lines: many", "max_diff_lines", 16),
        ("  max_diff_lines: 200", "  max_dif_lines: 200", "unknown key 'max_dif_lines'", 16),
        ('uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"', 'uuid: "../../etc"', "is not an id", 2),
        ('slug: "normalise-the-notes"', 'slug: "a/b"', "slug", 4),
        ('title: "Normalise the notes"', "other: 1", "title is missing", 1),
        ('"spec/*.md"]', '"/**"]', "leaves the repository", 13),
        ('"spec/*.md"]', '"../x/*.md"]', "leaves the repository", 13),
        ('"spec/*.md"]', '"~/notes"]', "leaves the repository", 13),
        ('["docs/**/*.md", "spec/*.md"]', "[]", "scope is missing", 11),
        ("  standing: false", "  standing: false\n  standing: true", "standing", 18),
        ("title:", "title: &a", "anchor", 3),
    ],
)
def test_bad_input_names_the_line(old: str, new: str, why: str, line: int) -> None:
    assert old in GOOD
    with pytest.raises(TaskError, match=why) as caught:
        parse(GOOD.replace(old, new))
    assert caught.value.line == line


@pytest.mark.parametrize(
    "raw",
    [
        b"---\ntitle: x\n",
        b"---\ntitle: \xff\xfe\n---\n",
        b"---\n- a\n- b\n---\n",
        b"---\na: [\n---\n",
        b"---\na: *b\n---\n",
    ],
    ids=["no end", "not UTF-8", "a list", "not YAML", "alias"],
)
def test_damage_is_a_typed_error(raw: bytes) -> None:
    with pytest.raises(TaskError):
        tasks.parse(raw, "t.md")


def test_a_large_file_is_refused_quickly() -> None:
    with pytest.raises(TaskError, match=r"large|bytes"):
        tasks.parse(b"---\ntitle: x\n---\n" + b"x" * (50 << 20), "t.md")


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_parser(noise: bytes) -> None:
    for raw in (noise, b"---\n" + noise, b"---\n" + noise + b"\n---\n"):
        try:
            tasks.parse(raw, "t.md")
        except TaskError:
            continue


def test_the_status_changes_and_nothing_else() -> None:
    assert tasks.with_status(GOOD.encode(), "t.md", "done") == GOOD.replace('"ready"', '"done"').encode()


def test_scope_patterns_are_those_of_gitignore() -> None:
    paths = ["docs/a.md", "docs/x/b.md", "spec/c.md", "spec/x/d.md", "readme.md", "docs/inbox/e.md"]
    assert tasks.select(paths, ["docs/**/*.md", "spec/*.md"], ["docs/inbox/**"]) == (
        "docs/a.md",
        "docs/x/b.md",
        "spec/c.md",
    )


def test_one_id_used_twice_is_found() -> None:
    first = parse(GOOD)
    assert tasks.duplicates([first, first.model_copy(update={"path": "other.md"})]) == {
        first.uuid: ("docs/tasks/t.md", "other.md")
    }
