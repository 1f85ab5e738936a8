"""Nothing a tool or a process puts into a worktree leads out of it: one escape per test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from note_samples import FACTS, RULES, workspace

from pantheon.errors import ToolError
from pantheon.tools.workspace import MAX_BYTES, Workspace


@pytest.fixture
def ws(tmp_path: Path) -> Workspace:
    root = tmp_path / "tree"
    root.mkdir()
    (root / ".git").write_text("gitdir: /somewhere\n")
    return workspace(root, "docs/keys.md")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x.md",
        "docs/../../x",
        "",
        ".",
        "a//b",
        "a/",
        "a\0b",
        "a\nb",
        ".git",
        "docs/.GIT/config",
        "a/.git./x",
    ],
)
def test_paths_out_of_the_tree_or_into_git_are_refused(ws: Workspace, path: str) -> None:
    with pytest.raises(ToolError):
        ws.write(path, b"x")
    with pytest.raises(ToolError):
        ws.read(path)


def test_files_come_in_when_they_are_used(ws: Workspace) -> None:
    assert not (ws.root / "docs").exists()
    assert ws.read("docs/keys.md").startswith(b"---")
    assert ws.changes() == {}
    ws.write("docs/keys.md", b"new")
    assert ws.changes() == {"docs/keys.md": b"new"}
    with pytest.raises(ToolError, match="no such file"):
        ws.read("docs/none.md")


def test_a_link_in_the_place_of_a_file_is_replaced_and_never_read(ws: Workspace, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    ws.read("docs/keys.md")
    (ws.root / "docs/keys.md").unlink()
    (ws.root / "docs/keys.md").symlink_to(secret)
    with pytest.raises(ToolError, match="not a regular file"):
        ws.read("docs/keys.md")
    with pytest.raises(ToolError, match="not a regular file"):
        ws.changes()
    ws.write("docs/keys.md", b"mine")
    assert secret.read_text() == "secret"
    assert ws.changes() == {"docs/keys.md": b"mine"}


def test_a_linked_directory_is_not_entered(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (ws.root / "docs").symlink_to(tmp_path / "out")
    with pytest.raises(ToolError, match="no directory of ours"):
        ws.read("docs/keys.md")
    with pytest.raises(ToolError):
        ws.changes()
    assert not any((tmp_path / "out").iterdir())


def test_hard_links_pipes_and_large_files_are_refused_by_name(ws: Workspace, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("x")
    os.link(tmp_path / "other", ws.root / "hard.md")
    with pytest.raises(ToolError, match=r"hard\.md.*hard link"):
        ws.changes()
    (ws.root / "hard.md").unlink()
    os.mkfifo(ws.root / "pipe.md")
    with pytest.raises(ToolError, match=r"pipe\.md"):
        ws.changes()
    (ws.root / "pipe.md").unlink()
    (ws.root / "big.md").write_bytes(b"x" * (MAX_BYTES + 1))
    with pytest.raises(ToolError, match=r"big\.md"):
        ws.changes()
    with pytest.raises(ToolError, match="more than"):
        ws.write("big2.md", b"x" * (MAX_BYTES + 1))


def test_a_nested_git_directory_is_refused(ws: Workspace) -> None:
    (ws.root / "docs").mkdir()
    (ws.root / "docs/.git").mkdir()
    with pytest.raises(ToolError):
        ws.changes()


def test_what_another_process_wrote_or_removed_is_seen(ws: Workspace) -> None:
    ws.read("docs/keys.md")
    (ws.root / "docs/keys.md").unlink()
    (ws.root / "docs/other.md").write_text("x")
    assert ws.changes() == {"docs/keys.md": None, "docs/other.md": b"x"}


def test_a_rename_moves_the_target_and_never_onto_a_file(ws: Workspace) -> None:
    with pytest.raises(ToolError, match="taken"):
        ws.rename("docs/keys.md", "docs/BACKUPS.md")
    with pytest.raises(ToolError):
        ws.rename("docs/keys.md", "docs/a\u202eb.md")
    ws.rename("docs/keys.md", "docs/key-rotation.md")
    assert ws.target == "docs/key-rotation.md"
    assert set(ws.changes()) == {"docs/keys.md", "docs/key-rotation.md"}
    assert ws.changes()["docs/keys.md"] is None


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pantheon.tools.workspace.MAX_ENTRIES", 3)
    small = Workspace(tmp_path, "a.md", RULES, FACTS, lambda path: None)
    for n in range(4):
        small.write(f"{n}.md", b"x")
    with pytest.raises(ToolError, match="more than"):
        small.changes()
