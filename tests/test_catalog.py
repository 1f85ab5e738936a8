"""What is in force and why; what was just written, checked; first files that work as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeRepo, git, write_files
from hypothesis import given
from hypothesis import strategies as st

from pantheon import cli, config, drawing
from pantheon.records import Flow, FlowNode

NOTE = "# Boats\n\nBoats sail at dawn.\n"
OWN = '[agent]\nname = "plan.lines"\nversion = 7\nsummary = "s"\nruntime = {engine = "none", origin = "local"}\n'


@pytest.fixture
def root(make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = make_repo({"docs/a.md": NOTE})
    monkeypatch.chdir(found)
    monkeypatch.setenv("COLUMNS", "200")
    return found


def said(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    got = cli.main(words)
    shown = capsys.readouterr()
    assert got == code, shown.out + shown.err
    return shown.out + shown.err


def data(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    return json.loads(said(capsys, *words, "--json"))


def commit(root: Path, files: dict[str, str] | None = None) -> None:
    write_files(root, files or {})
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "more", cwd=root)


# --- agents, flows, tools, explain -----------------------------------------------------------------------------------


def test_agents_says_which_file_is_in_force_and_why(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit(
        root, {".pantheon/agents/plan.lines.toml": OWN, ".pantheon/agents/mine.toml": OWN.replace("plan.lines", "mine")}
    )
    found = {row["agent"]: row for row in data(capsys, "agents")}
    assert found["plan.lines@7"]["why"] == "this repository's, in place of plan.lines@1"
    assert found["plan.lines@7"]["file"] == ".pantheon/agents/plan.lines.toml"
    assert found["mine@7"]["why"] == "this repository's own"
    assert found["plan.validate@1"]["why"] == "packaged"
    assert found["plan.validate@1"]["flows"] == ["docops"]
    assert "in place of plan.lines@1" in " ".join(said(capsys, "agents").split())


def test_every_packaged_flow_is_drawn(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in data(capsys, "flow"):
        text = said(capsys, "flow", "show", name)
        graph = said(capsys, "flow", "show", name, "--mermaid", "--whole")
        for node in data(capsys, "flow", "show", name)["nodes"]:
            assert f"─ {node['id']} ─" in text
        assert graph.startswith("flowchart TD\n")
        for node in data(capsys, "flow", "show", name, "--whole")["nodes"]:
            assert f"<b>{node['id']}</b>" in graph


def test_a_flow_that_is_not_there_is_said_with_those_that_are(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "known: docops" in said(capsys, "flow", "show", "dokops", code=1)


def test_a_tool_shows_its_schemas(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "set_line" in said(capsys, "tools")
    found = data(capsys, "tools", "set_line")
    assert found["name"] == "set_line"
    assert "no such tool: nothing" in said(capsys, "tools", "nothing", code=1)


def test_explain_says_flow_items_and_agents(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "new", "task", "Tidy the notes", "--scope", "docs/*.md")
    commit(root)
    found = data(capsys, "explain", "tidy-the-notes")
    assert (found["flow"], found["items"]) == ("docops", 1)
    assert found["nodes"][0] == {
        "node": "validate",
        "agents": {"plan.validate@1": 1},
        "why": ["plan.validate@1: fits everything; not measured yet"],
    }
    assert "the task names flow docops" in said(capsys, "explain", "tidy-the-notes")
    assert "no task of HEAD" in said(capsys, "explain", "nothing", code=1)


def node(name: str, *inputs: str, **more: object) -> FlowNode:
    return FlowNode.model_validate({"id": name, "agent": "a", "inputs": inputs, **more})


def test_what_runs_side_by_side_stands_side_by_side() -> None:
    flow = Flow(name="f", nodes=(node("one"), node("left", "one"), node("right", "one"), node("end", "left", "right")))
    assert drawing.boxes(flow, 80) == [
        "┌─ one ─┐",
        "│ a     │",
        "└───────┘",
        "    │",
        "    ▼",
        "┌─ left ─┐   ┌─ right ─┐",
        "│ a      │   │ a       │",
        "└────────┘   └─────────┘",
        "    │",
        "    ▼",
        "┌─ end ─┐",
        "│ a     │",
        "└───────┘",
    ]


@given(st.integers(20, 120), st.lists(st.text("ab -", min_size=1, max_size=60), min_size=1, max_size=6))
def test_no_picture_is_wider_than_the_terminal(width: int, conditions: list[str]) -> None:
    nodes = [node("start")]
    nodes += [
        node(f"n{i}", "start", when="start.open", success=f"'{c}' in n{i}.open") for i, c in enumerate(conditions)
    ]
    assert all(len(line) <= width for line in drawing.boxes(Flow(name="f", nodes=tuple(nodes)), width))


# --- new and lint ----------------------------------------------------------------------------------------------------


def test_what_new_writes_passes_lint_and_makes_items(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "new", "agent", "doc.kind")
    said(capsys, "new", "flow", "kinds", "--agent", "doc.kind")
    said(capsys, "new", "tool", "one_spelling")
    said(capsys, "new", "task", 'Say "what kind" each is \\ now', "--flow", "kinds", "--scope", "docs/*.md")
    assert said(capsys, "lint") == "8 files: no problems\n"
    commit(root)
    found = data(capsys, "explain", "say-what-kind-each-is-now")
    assert found["items"] == 1
    assert {row["node"]: list(row["agents"]) for row in found["nodes"]}["choose"] == ["doc.kind@1"]
    assert "one_spelling" in said(capsys, "tools")


def test_new_with_a_packaged_name_copies_it_to_be_changed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "new", "agent", "doc.frontmatter")
    said(capsys, "new", "flow", "docops")
    for name in ("agents/doc.frontmatter.toml", "prompts/doc.frontmatter.j2", "flows/docops.toml"):
        assert (root / ".pantheon" / name).read_bytes() == (config.packaged() / name).read_bytes()
    assert (root / ".pantheon/rules/frontmatter.toml").is_file()
    commit(root)
    assert {r["agent"]: r["why"] for r in data(capsys, "agents")}["doc.frontmatter@1"] == "packaged, with a copy here"


def test_new_overwrites_nothing_and_leaves_nothing_half_done(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(root, {".pantheon/prompts/doc.kind.j2": "mine"})
    assert "it is there already" in said(capsys, "new", "agent", "doc.kind", code=1)
    assert (root / ".pantheon/prompts/doc.kind.j2").read_text() == "mine"
    assert not (root / ".pantheon/agents").exists()


@pytest.mark.parametrize("name", ["../x", "A", ".git", "a/b", "-x", "x" * 61, "\x1b[2J"])
def test_a_name_that_could_leave_its_place_is_refused(
    root: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for kind in ("agent", "flow", "tool"):
        capsys.readouterr()
        try:
            assert cli.main(["new", kind, "--", name]) in (1, 2)
        except SystemExit as stop:
            assert stop.code == 2
        assert "\x1b" not in capsys.readouterr().err
    assert not (root / ".pantheon").exists()


def test_new_does_not_write_through_a_link(root: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (root / ".pantheon").symlink_to(tmp_path / "outside")
    assert "a link leads out" in said(capsys, "new", "agent", "x", code=1)
    assert not list((tmp_path / "outside").rglob("*.toml"))


TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "T"
slug: "t"
status: "ready"
pantheon:
  flow: docops
  scope: ["docs/*.md"]
  depends_on: []
  acceptance:
    - run: "links"
---
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "why"),
    [
        ("flow: docops", "flow: dokops", 7, "there is no flow 'dokops'"),
        ("flow: docops", "folw: docops", 7, "unknown key 'folw'"),
        ('run: "links"', 'run: "lnks"', 11, "there is no check 'lnks'"),
        ("depends_on: []", 'depends_on: ["x"]', 9, "it depends on 'x'"),
        ('title: "T"', 'title: "T', 0, ""),
        ('scope: ["docs/*.md"]', 'scope: ["../*.md"]', 8, "leaves the repository"),
        ('scope: ["docs/*.md"]', 'scope: ["docs/[z-a].md"]', 8, "is no pattern"),
        ('scope: ["docs/*.md"]', 'scope: ["docs/[[]a"]', 8, ""),
    ],
)
def test_lint_names_a_task_s_mistake_with_its_line(
    root: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, line: int, why: str
) -> None:
    write_files(root, {"docs/tasks/t.md": TASK.replace(old, new, 1)})
    capsys.readouterr()
    assert cli.main(["lint", "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert problem["path"] == "docs/tasks/t.md"
    assert why in problem["why"]
    assert line in (0, problem["line"])


def test_lint_reads_the_working_tree_and_only_what_was_asked_for(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(root, {"docs/tasks/t.md": TASK.replace("docops", "nope"), ".pantheon/agents/x.toml": "[agent]\n"})
    assert "there is no flow 'nope'" in said(capsys, "lint", code=1)
    assert ".pantheon" not in said(capsys, "lint", "docs", code=1)
    assert "docs" not in said(capsys, "lint", ".pantheon/agents", code=1)
    assert said(capsys, "lint", "docs/a.md").endswith("no problems\n")
    assert "is not in" in said(capsys, "lint", "/etc", code=1)


def test_two_tasks_with_one_uuid_are_both_named(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(root, {"docs/tasks/t.md": TASK, "docs/tasks/u.md": TASK})
    text = said(capsys, "lint", code=1)
    assert "docs/tasks/t.md:2: its uuid is used by" in text
    assert "docs/tasks/u.md:2: its uuid is used by" in text


def test_lint_survives_what_a_working_tree_can_hold(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = root / ".pantheon/agents"
    place.mkdir(parents=True)
    (place / "link.toml").symlink_to("/etc/passwd")
    (place / "loop").symlink_to(place)
    (place / "bytes.toml").write_bytes(b"\xff\x00")
    (root / "docs/tasks").mkdir()
    (root / "docs/tasks/b.md").write_bytes(b"---\n\xff\n---\n")
    text = said(capsys, "lint", code=1)
    assert ".pantheon/agents/bytes.toml:1: not UTF-8" in text
    assert "passwd" not in text


def test_the_packaged_scaffolds_are_all_there() -> None:
    new = config.packaged().parent / "new"
    assert sorted(path.relative_to(new).as_posix() for path in new.rglob("*.*")) == [
        "agent/agent.toml",
        "agent/prompt.j2",
        "flow/flow.toml",
        "flow/rules.toml",
        "task/task.md",
        "tool/test_tool.py",
        "tool/tool.py",
        "tool/tool.toml",
    ]
