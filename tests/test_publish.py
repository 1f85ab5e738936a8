"""What a push may take along: nothing of the bot's, and no unaccepted work of it on a protected branch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TASK, MakeRepo, git

from pantheon import publish
from pantheon.git import Repo

A, ZERO = "a" * 40, "0" * 40
FILES = {
    "docs/oven.md": "# Care of the oven\n\nThe oven is cleaned every Friday after the last loaf. It is not hot then.\n",
    "docs/tides.md": "# Tide tables\n\nTide tables are loaded every night from the harbour office. It tries twice.\n",
    "docs/tasks/tidy.md": TASK,
}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (f"refs/heads/pantheon/notes/1 {A} refs/heads/pantheon/notes/1 {ZERO}", "refs/heads/pantheon/notes/1"),
        (f"HEAD {A} refs/heads/pantheon/notes/1 {ZERO}", "refs/heads/pantheon/notes/1"),
        (f"refs/pantheon/runs/ab/1 {A} refs/heads/x {ZERO}", "refs/pantheon/runs/ab/1"),
        (f"refs/pantheon/adapters/doc.x {A} refs/pantheon/adapters/doc.x {ZERO}", "refs/pantheon/adapters/doc.x"),
        (f"refs/notes/pantheon/summary {A} refs/notes/pantheon/summary {A}", "refs/notes/pantheon/summary"),
    ],
)
def test_what_is_the_bots_stays_here(line: str, name: str) -> None:
    (said,) = publish.private(publish.updates([f"refs/heads/main {A} refs/heads/main {ZERO}", line]))
    assert name in said


@pytest.mark.parametrize(
    "line",
    [
        "",
        "nonsense",
        f"refs/heads/main {A} refs/heads/main {A}",
        f"refs/heads/pantheonic {A} refs/heads/pantheonic {A}",
        f"(delete) {ZERO} refs/heads/pantheon/notes/1 {A}",
    ],
)
def test_the_rest_is_none_of_our_business(line: str) -> None:
    assert publish.private(publish.updates([line])) == []


def typed(root: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "pantheon.cli", *args]
    return subprocess.run(argv, cwd=root, capture_output=True, check=False, timeout=120)


def push(root: Path, *refs: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(["git", "push", "-q", "origin", *refs], cwd=root, capture_output=True, check=False, env=env)
    return done.returncode, done.stderr.decode()


@pytest.fixture
def reviewed(make_repo: MakeRepo, tmp_path: Path) -> Path:
    """A repository with our hooks, a bare remote, and a PR of two items from a real night."""
    root = make_repo(FILES)
    git("init", "-q", "--bare", str(tmp_path / "remote.git"), cwd=tmp_path)
    git("remote", "add", "origin", str(tmp_path / "remote.git"), cwd=root)
    assert typed(root, "init").returncode == 0
    done = typed(root, "night", "--now", "--engine", "scripted", "--quiet")
    assert done.returncode == 0, done.stderr
    assert git("for-each-ref", "refs/pantheon/prs", cwd=root) != ""
    return root


def test_unaccepted_work_does_not_leave_on_a_protected_branch(reviewed: Path) -> None:
    root = reviewed
    assert push(root, "main")[0] == 0  # there is a PR, but nothing of it is on the branch
    git("merge", "-q", "--no-edit", "pantheon/tidy/1", cwd=root)  # by hand, past `accept`
    code, said = push(root, "main")
    assert code != 0
    assert "pantheon: not pushed: refs/heads/main holds" in said
    assert "which nobody accepted (open): PR 1" in said
    assert "git pantheon accept N" in said
    assert push(root, "main:refs/heads/topic")[0] == 0  # not protected
    code, said = push(root, "topic-is-not-here:main")
    assert code != 0
    git("switch", "-q", "-c", "release/1", cwd=root)
    assert push(root, "release/1")[0] != 0
    git("switch", "-q", "main", cwd=root)
    git("reset", "-q", "--hard", "origin/main", cwd=root)
    assert typed(root, "accept", "1", "--drop", "docs/oven.md").returncode == 0
    assert push(root, "main") == (0, "")


def test_a_picked_item_of_a_rejected_pr_is_found_by_its_trailer(reviewed: Path) -> None:
    root = reviewed
    item = git("rev-list", "--reverse", "main..pantheon/tidy/1", cwd=root).split()[0]
    assert typed(root, "reject", "1", "-m", "no").returncode == 0
    git("commit", "-q", "--allow-empty", "-m", "mine", cwd=root)
    git("cherry-pick", item, cwd=root)
    code, said = push(root, "HEAD:main")
    assert code != 0
    assert "which nobody accepted (rejected): PR 1" in said


def test_publishing_on_purpose_warns_of_secrets_that_an_older_version_stored(reviewed: Path, tmp_path: Path) -> None:
    root = reviewed
    repo = Repo.discover(root)
    secret = "AKIA" + "IOSFODNN7EXAMPLF"
    blob = repo.write_blob(f"key: {secret}\n".encode())
    tree = repo.write_tree(None, {"node/stdout.log": (0o100644, blob)})
    commit = git("commit-tree", "-m", "old", tree, cwd=root).strip()
    git("update-ref", "refs/pantheon/runs/ab/abcdef01", commit, cwd=root)
    ref = "refs/pantheon/runs/ab/abcdef01:refs/pantheon/runs/ab/abcdef01"
    assert "is the bot's and stays local" in push(root, ref)[1]

    code, said = push(root, ref, env={**os.environ, "PANTHEON_PUSH": "1"})
    assert code == 0
    assert "warning: node/stdout.log of refs/pantheon/runs/ab/abcdef01 holds what looks like" in said
    assert secret not in said
