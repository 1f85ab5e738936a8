"""The command line as a user meets it: every bad input is one clear error with a next step, and loses nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import TASK, MakeRepo, git

from pantheon import cli, usage
from pantheon.cli import main
from pantheon.screen import print_json

NOTES = {
    "docs/tides.md": "# Tide tables\n\nTide tables are loaded every night from the harbour office. It tries twice.\n",
    "docs/boats.md": "# Boats in the harbour\n\nEvery boat in the harbour has a berth with a number.\n",
}


def run(
    capfd: pytest.CaptureFixture[str], cwd: Path, monkeypatch: pytest.MonkeyPatch, *args: str
) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of one command typed in `cwd`."""
    monkeypatch.chdir(cwd)
    code = main(list(args))
    said = capfd.readouterr()
    return code, said.out, said.err


class Shell:
    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, cwd: Path, *args: str, code: int = 0) -> str:
        got, out, err = run(self.capfd, cwd, self.monkeypatch, *args)
        assert got == code, f"{args}: exit {got}\n{out}\n{err}"
        assert "Traceback" not in err
        return out + err


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capfd, monkeypatch)


def test_every_command_of_the_usage_is_one_that_is_there() -> None:
    named = set(re.findall(r'"([a-z_]+)"', Path(usage.__file__).read_text()))
    found = {name for name, one in vars(cli).items() if "where" in getattr(one, "__annotations__", {})}
    there = {name for name in found if not name.startswith("_")}
    assert len(there) > 40 and there <= named


def test_a_day_from_init_to_accept_and_uninstall(shell: Shell, make_repo: MakeRepo) -> None:
    root = make_repo(NOTES)
    config = (root / ".git/config").read_bytes()
    hooks = sorted(path.name for path in (root / ".git/hooks").iterdir())
    said = shell(root, "init")
    assert ".pantheon/pantheon.toml" in said
    assert "post-commit" in said
    assert "nothing is written" in shell(root, "init")
    (root / "docs/tasks").mkdir()
    (root / "docs/tasks/tidy.md").write_text(TASK)
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "tasks", cwd=root)
    assert shell(root, "hook", "post-commit") == "pantheon: 1 task, 2 items for tonight\n"
    assert shell(root).splitlines()[:2] == ["nothing needs you", "queue: 1 task, 2 items for tonight"]
    assert "docs/tides.md" in shell(root, "plan")
    assert shell(root, "night", "--now", "--budget", "2m", "--engine", "scripted", "--quiet") == ""
    assert "1 PR with 2 items to review" in shell(root, "status")
    assert "2 accepted" in shell(root, "report").replace("\n", " ")
    assert "# Night" in shell(root, "report", "--markdown")
    assert "pantheon/tidy/1" in shell(root, "pr")
    assert "docs/tides.md" in shell(root, "pr", "show", "1")
    assert "+description: " in shell(root, "pr", "diff", "1")
    assert json.loads(shell(root, "pr", "--json"))[0]["state"] == "open"
    assert json.loads(shell(root, "status", "--json"))["queued_items"] == 0
    run_id = json.loads(shell(root, "pr", "show", "1", "--json"))["items"][0]["run"]
    assert "accepted" in shell(root, "run", run_id[:12])
    assert "set_field" in shell(root, "run", run_id[:12], "frontmatter/tool_calls.jsonl")
    tip = json.loads(shell(root, "pr", "show", "1", "--json"))["tip"]
    assert "links: passed" in shell(root, "check", "frontmatter", "links", "body", "--rev", tip, "--base", "main")
    assert "2 items are on main" in shell(root, "accept", "1")
    assert "description" in (root / "docs/tides.md").read_text()
    assert "nothing to do" in shell(root, "night", "--now", "--engine", "scripted")
    git("rm", "-rq", ".pantheon", cwd=root)
    git("commit", "-q", "-m", "without", cwd=root)
    shell(root, "uninstall", "--purge")
    assert (root / ".git/config").read_bytes() == config
    assert sorted(path.name for path in (root / ".git/hooks").iterdir()) == hooks
    assert git("for-each-ref", "refs/pantheon", "refs/notes", cwd=root) == ""


def test_outside_a_repository(shell: Shell, tmp_path: Path) -> None:
    assert "git init" in shell(tmp_path, "status", code=1)


def test_in_a_repository_without_a_commit(shell: Shell, tmp_path: Path) -> None:
    git("init", "-q", cwd=tmp_path)
    for command in (["status"], ["plan"], ["night", "--now"]):
        assert "commit" in shell(tmp_path, *command, code=1)


def test_in_a_bare_repository(shell: Shell, tmp_path: Path) -> None:
    git("init", "-q", "--bare", cwd=tmp_path)
    assert "bare" in shell(tmp_path, "status", code=1)


def test_on_a_detached_head(shell: Shell, make_repo: MakeRepo) -> None:
    root = make_repo({**NOTES, "docs/tasks/t.md": TASK})
    git("checkout", "-q", "--detach", cwd=root)
    assert "git switch" in shell(root, "night", "--now", "--engine", "scripted", code=1)
    assert git("for-each-ref", "refs/pantheon", cwd=root) == ""


def test_in_a_linked_worktree(shell: Shell, make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo({**NOTES, "docs/tasks/t.md": TASK})
    git("worktree", "add", "-q", "-b", "side", str(tmp_path / "side"), cwd=root)
    shell(tmp_path / "side", "night", "--now", "--engine", "scripted", "--quiet")
    assert json.loads(shell(tmp_path / "side", "pr", "show", "1", "--json"))["onto"] == "side"
    shell(tmp_path / "side", "accept", "1")
    assert git("status", "--porcelain", cwd=tmp_path / "side") == ""


@pytest.mark.parametrize("aside", [("switch", "-q", "-c", "aside"), ("checkout", "-q", "--detach")])
def test_a_night_on_a_branch_that_is_not_checked_out(shell: Shell, make_repo: MakeRepo, aside: tuple[str, ...]) -> None:
    root = make_repo({**NOTES, "docs/tasks/t.md": TASK})
    main = git("rev-parse", "main", cwd=root).strip()
    git(*aside, cwd=root)
    git("rm", "-q", "-r", "docs", cwd=root)
    git("commit", "-q", "-m", "nothing to do here", cwd=root)
    head = git("rev-parse", "HEAD", cwd=root)
    assert "for tonight" not in shell(root, "night", "--dry-run", "--branch", "main")
    shell(root, "night", "--now", "--engine", "scripted", "--quiet", "--branch", "main")
    found = json.loads(shell(root, "pr", "show", "1", "--json"))
    assert (found["onto"], found["base"], len(found["items"])) == ("main", main, 3)
    assert git("rev-parse", "HEAD", cwd=root) == head
    assert not (root / "docs").exists()
    assert "main" in shell(root, "accept", "1", code=1)
    git("switch", "-q", "main", cwd=root)
    shell(root, "accept", "1")
    assert "uuid" in (root / "docs/tides.md").read_text()


@pytest.mark.parametrize("name", ["nowhere", "pantheon/tidy/1", "a..b", "", "--all"])
def test_a_night_needs_a_branch_of_the_users(shell: Shell, make_repo: MakeRepo, name: str) -> None:
    root = make_repo({**NOTES, "docs/tasks/t.md": TASK})
    git("branch", "pantheon/tidy/1", cwd=root)
    said = shell(root, "night", "--now", "--engine", "scripted", f"--branch={name}", code=1)
    assert "cannot use the branch" in said
    assert "git branch --list" in said


@pytest.mark.parametrize("name", ["with space", "a'quote\"", "new\nline", "naïve ☂", "-dash", "$(touch x)"])
def test_under_an_odd_path(shell: Shell, make_repo: MakeRepo, name: str) -> None:
    root = make_repo({**NOTES, "docs/tasks/t.md": TASK}, name=name)
    shell(root, "init")
    shell(root, "night", "--now", "--engine", "scripted", "--quiet")
    shell(root, "accept", "1")
    assert git("status", "--porcelain", "--untracked-files=no", cwd=root) == ""
    assert "uuid" in (root / "docs/tides.md").read_text()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"---\ntitle: \xff\n---\n", "UTF-8"),
        (b"---\ntitle: x\n", "never closed"),
        (TASK.replace("flow:", "flwo:").encode(), "unknown key 'flwo'"),
        (TASK.replace("docs/*.md", "/**").encode(), "leaves the repository"),
    ],
)
def test_a_damaged_task_is_named_and_the_others_run(
    shell: Shell, make_repo: MakeRepo, content: bytes, why: str
) -> None:
    root = make_repo({**NOTES, "docs/tasks/good.md": TASK, "docs/tasks/bad.md": content})
    said = shell(root, "status")
    assert "1 task file cannot be used" in said
    assert why in said
    assert "docs/tasks/bad.md" in said
    assert "2 items for tonight" in said


def test_a_scope_that_matches_nothing_and_a_uuid_used_twice_are_said(shell: Shell, make_repo: MakeRepo) -> None:
    nothing = TASK.replace("docs/*.md", "nowhere/*.md").replace("0f0e8a52", "11111111")
    root = make_repo({**NOTES, "docs/tasks/a.md": nothing})
    assert "matches no file" in shell(root, "plan")
    root = make_repo({**NOTES, "docs/tasks/a.md": TASK, "docs/tasks/b.md": TASK}, name="twice")
    assert "give each task its own" in shell(root, "plan")


def test_broken_configuration_names_file_line_and_keys(shell: Shell, make_repo: MakeRepo) -> None:
    root = make_repo({**NOTES, ".pantheon/pantheon.toml": "schema_version = 1\n[night]\nwindwo = 3\n"})
    said = shell(root, "status", code=1)
    assert ".pantheon/pantheon.toml:3" in said
    assert "windwo" in said
    assert "window" in said


def test_an_agent_that_is_not_local_is_refused(shell: Shell, make_repo: MakeRepo) -> None:
    agent = '[agent]\nname = "spy"\nversion = 1\nsummary = "x"\nruntime = {origin = "cloud"}\n'
    root = make_repo({**NOTES, "docs/tasks/t.md": TASK, ".pantheon/agents/spy.toml": agent})
    assert "only 'local'" in shell(root, "night", "--now", "--engine", "scripted", code=1)


def test_without_a_model_the_night_says_how_to_get_one(shell: Shell, make_repo: MakeRepo) -> None:
    root = make_repo({**NOTES, "docs/tasks/t.md": TASK})
    assert "./install.sh" in shell(root, "night", "--now", code=1)
    assert git("for-each-ref", "refs/pantheon", cwd=root) == ""


def test_without_disk_space_there_is_no_night(
    shell: Shell, make_repo: MakeRepo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pantheon.session.MIN_FREE", 1 << 60)
    root = make_repo({**NOTES, "docs/tasks/t.md": TASK})
    assert "MiB are free" in shell(root, "night", "--now", "--engine", "scripted", code=1)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("pr", "show", "7"), "no such PR"),
        (("accept", "7"), "no such PR"),
        (("reject", "7", "-m", "x"), "no such PR"),
        (("run", "abc"), "no run has that id"),
        (("report",), "no night has ended"),
        (("check", "nonsense"), "no such check"),
        (("check", "links", "--rev", "nowhere"), "nowhere"),
    ],
)
def test_what_is_not_there_is_said(shell: Shell, make_repo: MakeRepo, args: tuple[str, ...], why: str) -> None:
    assert why in shell(make_repo(NOTES), *args, code=1)


def test_a_bad_budget_is_refused(shell: Shell, make_repo: MakeRepo) -> None:
    root = make_repo({**NOTES, "docs/tasks/t.md": TASK})
    assert "10m" in shell(root, "night", "--now", "--engine", "scripted", "--budget", "soon", code=1)


def test_the_pre_commit_hook_refuses_a_task_that_cannot_be_used(shell: Shell, make_repo: MakeRepo) -> None:
    root = make_repo(NOTES)
    (root / "docs/tasks").mkdir()
    (root / "docs/tasks/t.md").write_text(TASK.replace("scope", "scoop"))
    git("add", "-A", cwd=root)
    assert "scoop" in shell(root, "hook", "pre-commit", code=64)


def test_the_core_imports_without_the_heavy_stack() -> None:
    script = (
        "import sys, pantheon.cli, pantheon.session, pantheon.desk\n"
        "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes', 'vllm'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], check=True, env={**os.environ})


def test_json_is_ascii_whatever_a_name_holds(capfd: pytest.CaptureFixture[str]) -> None:
    assert print_json({"name": "\udcff\x9b2J\u202e"}) == 0
    out = capfd.readouterr().out
    assert out.isascii()
    assert json.loads(out) == {"name": "\udcff\x9b2J\u202e"}
