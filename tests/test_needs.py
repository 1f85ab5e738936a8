"""What a check needs of the working tree: shown read-only at its place, in the night too, never through a link."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from conftest import MakeRepo, git
from pydantic import ValidationError

from pantheon import desk
from pantheon.checks import CheckRoom, needed
from pantheon.enclosure import night_sandbox
from pantheon.git import Repo
from pantheon.places import places
from pantheon.process import Limits, run
from pantheon.records import Check
from pantheon.survey import read_config

LOOK = """
[check.look]
run = ["/bin/sh", "-c", "cat node_modules/a/index.js && ! echo x > node_modules/a/new && ls -a node_modules"]
needs = ["node_modules"]
[check.other]
run = ["/bin/sh", "-c", "test ! -e node_modules/a"]
"""
FILES = {".pantheon/checks.toml": LOOK, ".gitignore": "node_modules\n", "a.md": "# A\n"}


def room(repo: Repo, tmp_path: Path) -> CheckRoom:
    commit = repo.head().commit
    return CheckRoom.open(repo, read_config(repo, commit, repo.entries(commit)), commit, tmp_path / "work")


def results(repo: Repo, tmp_path: Path, *names: str) -> tuple[dict[str, bool], str]:
    job = room(repo, tmp_path).run(repo.tree_of(repo.head().commit), "tree", names, [])
    found, out, err = asyncio.run(job)
    return {each.name: each.passed for each in found}, (out + err).decode()


@pytest.fixture
def repo(make_repo: MakeRepo) -> Repo:
    root = make_repo(FILES)
    (root / "node_modules/a").mkdir(parents=True)
    (root / "node_modules/a/index.js").write_text("installed\n")
    return Repo.discover(root)


def test_a_check_sees_what_it_needs_and_cannot_write_it(repo: Repo, tmp_path: Path) -> None:
    found, said = results(repo, tmp_path, "look", "other")
    assert found == {"look": True, "other": True}, said
    assert "installed" in said
    assert not (repo.root / "node_modules/a/new").exists()


def test_what_is_not_there_is_not_shown(make_repo: MakeRepo, tmp_path: Path) -> None:
    found, _ = results(Repo.discover(make_repo(FILES)), tmp_path, "look", "other")
    assert found == {"look": False, "other": True}


@pytest.mark.parametrize("where", ["elsewhere", ".git", "inside"])
def test_a_link_is_not_followed(make_repo: MakeRepo, tmp_path: Path, where: str) -> None:
    root = make_repo(FILES)
    target = {"elsewhere": tmp_path / "elsewhere", ".git": root / ".git", "inside": root / "inside"}[where]
    (target / "a").mkdir(parents=True)
    (target / "a/index.js").write_text("secret\n")
    os.symlink(target, root / "node_modules")
    assert needed(root, [Check(name="x", run=("true",), needs=("node_modules", "node_modules/a"))]) == {}
    found, said = results(Repo.discover(root), tmp_path, "look")
    assert (found, "secret" in said) == ({"look": False}, False)


def test_what_the_tree_holds_itself_is_never_hidden(repo: Repo, tmp_path: Path) -> None:
    (repo.root / "node_modules/a/index.js").write_text("committed\n")
    git("add", "-f", "node_modules", cwd=repo.root)
    git("commit", "-q", "-m", "vendored", cwd=repo.root)
    (repo.root / "node_modules/a/index.js").write_text("changed since\n")
    _, said = results(repo, tmp_path, "look")
    assert "committed" in said
    assert "changed since" not in said


def test_a_link_of_the_tree_is_not_followed_to_make_a_place(make_repo: MakeRepo, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = make_repo({**FILES, ".pantheon/checks.toml": LOOK.replace('"node_modules"]', '"web/node_modules"]')})
    os.symlink(outside, root / "web")
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "a link", cwd=root)
    (root / "web").unlink()
    (root / "web/node_modules").mkdir(parents=True)
    results(Repo.discover(root), tmp_path, "look")
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("name", ["", ".", "..", "/etc", "a/../b", ".git", "a/.GIT", "a//b", "a\nb", "..."])
def test_only_a_plain_path_inside_the_working_tree_can_be_needed(name: str) -> None:
    with pytest.raises(ValidationError, match="inside the working tree"):
        Check(name="x", run=("true",), needs=(name,))


def test_the_night_sees_it_read_only(repo: Repo) -> None:
    where = places(os.environ)
    needs = needed(repo.root, [Check(name="x", run=("true",), needs=("node_modules",))])
    sandbox = night_sandbox(repo, where, None, os.environ, needs=needs)
    script = "cat node_modules/a/index.js; ls; ! echo x > node_modules/a/new"
    plain = sandbox.model_copy(update={"nests": False})
    done = run(["/bin/sh", "-c", script], limits=Limits(), sandbox=plain)
    assert (done.returncode, done.stdout) == (0, b"installed\nnode_modules\n"), done.stderr


def test_trust_lists_what_is_shown(repo: Repo, capsys: pytest.CaptureFixture[str]) -> None:
    desk.trust(repo, places(os.environ), yes=True, as_json=False)
    assert "(sees node_modules of your working tree)" in capsys.readouterr().out
