"""Bad disks, bad clocks and rude users: each ends in a clear message and a repository that git finds in order."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import full_disk
import pytest
from conftest import git, write_files
from provenance import own_git

from pantheon import artifacts, damage, desk, faults, nights, prdesk, prs, session
from pantheon import night as runner
from pantheon.engine import ScriptedEngine
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.places import places
from pantheon.process import require_sandbox
from pantheon.records import NightReport
from pantheon.survey import survey
from pantheon.verify import load_trust, verify

TESTS = Path(__file__).parent


# --- full disks ------------------------------------------------------------------------------------------------------


def on_a_small_disk(place: Path, script: str, *args: str, size: int = 24 << 20) -> str:
    """What a script of the tests prints on a tmpfs of its own: no root is needed for one."""
    place.mkdir()
    argv = [require_sandbox(), "--dev-bind", "/", "/", "--size", str(size), "--tmpfs", str(place)]
    argv += ["--", sys.executable, str(TESTS / script), *args, str(place)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("phase", ["freeze", "item", "run", "notes", "pr", "seal"])
def test_a_full_disk_pauses_the_night_which_goes_on_when_there_is_room(phase: str, tmp_path: Path) -> None:
    found = json.loads(on_a_small_disk(tmp_path / "disk", "full_disk.py", phase))
    assert "no space left" in found["met"].lower()
    assert (found["after"]["fsck"], found["after"]["locks"]) == ([], [])
    unsaid = ["kind='note'", "kind='statement'"] if phase == "notes" else []  # a run's notes come after its ref
    assert [fault.split()[0] for fault in found["after"]["faults"]] == unsaid
    assert (found["resumed"] is None) == (phase == "freeze"), "what was frozen goes on, and nothing else is there"
    assert {outcome for _, outcome, _ in found["runs"]} == {"accepted"}, found["runs"]
    assert len(found["runs"]) == found["items"] == 2
    assert (found["prs"], found["fsck"], found["faults"]) == ([1], [], [])
    assert (found["worktrees"], found["status"]) == (1, "")


# --- read-only disks -------------------------------------------------------------------------------------------------


def ground(root: Path) -> Repo:
    """A repository with two notes to tidy."""
    root.mkdir(parents=True)
    git("init", "-q", "-b", "main", cwd=root)
    write_files(root, {**full_disk.NOTES, "docs/tasks/tidy.md": full_disk.TASK})
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "first", cwd=root)
    return Repo.discover(root)


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return ground(tmp_path / "repo")


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One night, whose PR is open."""
    with own_git(tmp_path_factory.mktemp("home")):
        found = ground(tmp_path_factory.mktemp("lived") / "repo")
        full_disk.play(found, full_disk.freeze(found), tmp_path_factory.mktemp("work") / "one")
    return found.root


@pytest.fixture
def after(lived: Path, tmp_path: Path) -> Repo:
    shutil.copytree(lived, tmp_path / "repo")
    return Repo.discover(tmp_path / "repo")


def typed(root: Path, *args: str, frozen: Path | None = None) -> tuple[int, str]:
    """What one command prints, where a directory (`frozen`) cannot be written."""
    shown = [
        require_sandbox(),
        "--dev-bind",
        "/",
        "/",
        "--ro-bind",
        str(frozen),
        str(frozen),
        "--chdir",
        str(root),
        "--",
    ]
    argv = [*(shown if frozen else ()), sys.executable, "-P", "-m", "pantheon.cli", *args]
    env = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, timeout=300, check=False, env=env)
    return done.returncode, done.stdout + done.stderr


def homes() -> dict[str, Path]:
    return {
        "cache": Path(os.environ["XDG_CACHE_HOME"], "git-pantheon"),
        "state": Path(os.environ["XDG_STATE_HOME"], "git-pantheon"),
    }


@pytest.mark.parametrize("place", [".git", ".git/objects", ".git/refs", ".git/pantheon", "cache", "state"])
def test_a_disk_that_cannot_be_written_is_named_before_the_night(after: Repo, place: str) -> None:
    for made in homes().values():
        made.mkdir(parents=True)
    (after.root / "docs/sail.md").write_text("# Sails in the harbour\n\nEvery sail in the harbour has a number.\n")
    git("add", "-A", cwd=after.root)
    git("commit", "-q", "-m", "more", cwd=after.root)
    before = git("for-each-ref", cwd=after.root)
    frozen = homes().get(place, after.root / place)
    code, said = typed(after.root, "night", "--now", "--engine", "scripted", "--quiet", frozen=frozen)
    assert code == 1, said
    assert "Read-only file system" in said
    assert str(frozen) in said
    assert "next: " in said
    assert git("for-each-ref", cwd=after.root) == before
    assert after.fsck() == ()
    if place != "state":
        code, said = typed(after.root, "status", frozen=frozen)
        assert (code, said.splitlines()[0]) == (0, "1 PR with 2 items to review: git pantheon pr")


# --- damaged ---------------------------------------------------------------------------------------------------------


def spoil(repo: Repo, oid: str) -> None:
    path = repo.common_dir / "objects" / oid[:2] / oid[2:]
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    data[3:5] = b"xx"
    path.write_bytes(data)


def looked(repo: Repo, capsys: pytest.CaptureFixture[str]) -> str:
    where = places({name: os.environ[name] for name in os.environ if name.startswith(("XDG_", "HOME"))})
    capsys.readouterr()
    assert desk.status(repo, where, as_json=False) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("left", [b"", b"3577a8ff834d51345b25"], ids=["empty", "truncated"])
@pytest.mark.parametrize("ref", ["refs/pantheon/prs/1/meta", "refs/pantheon/runs", "refs/pantheon/nights"])
def test_a_ref_file_that_lost_its_bytes_is_named_and_put_back(
    after: Repo, capsys: pytest.CaptureFixture[str], ref: str, left: bytes
) -> None:
    name, oid = next((name, oid) for name, oid in after.refs("refs/pantheon/").items() if name.startswith(ref))
    path = after.common_dir / name
    path.write_bytes(left)
    said = looked(after, capsys)
    assert f"damaged: {name}: its file " in said
    with pytest.raises(RepositoryError, match="cannot start a night") as caught:
        damage.require_sound(after)
    assert caught.value.thing == name
    hint = next(line for line in said.splitlines() if line.startswith("  next: rm ")).removeprefix("  next: ")
    if "update-ref" not in hint:  # of the last night's own ref no seal says where it was
        assert ref == "refs/pantheon/nights"
        assert "git pantheon pull" in hint
        return
    subprocess.run(["sh", "-c", hint], cwd=after.root, check=True)
    assert after.ref(name) == oid
    assert damage.look(after) == ()
    assert "damaged" not in looked(after, capsys)


def test_the_record_of_a_pr_that_cannot_be_read_stops_no_other(
    after: Repo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (after.root / "docs/sail.md").write_text("# Sails in the harbour\n\nEvery sail in the harbour has a number.\n")
    git("add", "-A", cwd=after.root)
    git("commit", "-q", "-m", "more", cwd=after.root)
    full_disk.play(after, full_disk.freeze(after), tmp_path / "two")
    spoil(after, after.ref("refs/pantheon/prs/1/meta") or "")
    after = Repo.discover(after.root)  # which remembers nothing
    assert [pull.id for pull in prs.load_all(after)] == [2]
    assert [run.item.target for run in artifacts.list_runs(after)]
    said = looked(after, capsys)
    assert "damaged: PR 1: " in said
    assert "git update-ref -d refs/pantheon/prs/1/meta" in said
    with pytest.raises(RepositoryError, match="cannot start a night: PR 1"):
        damage.require_sound(after)
    git("update-ref", "-d", "refs/pantheon/prs/1/meta", cwd=after.root)
    assert damage.look(after) == ()


def test_a_run_that_cannot_be_read_is_named_and_the_others_are_listed(
    after: Repo, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = list(artifacts.list_runs(after))
    spoil(after, runs[0].run_commit or "")
    after = Repo.discover(after.root)
    assert [run.id for run in artifacts.list_runs(after)] == [runs[1].id]
    assert "1 PR with 2 items to review" in looked(after, capsys)
    assert prdesk.pr_show(after, 1, as_json=False) == 0
    found = verify(after.common_dir, load_trust(after.common_dir), "all")
    assert any((runs[0].run_commit or "?") in fault.where for fault in found.faults)


def test_a_file_of_the_user_that_cannot_be_read_is_left_out_by_name(repo: Repo) -> None:
    spoil(repo, git("rev-parse", "HEAD:docs/boat.md", cwd=repo.root).strip())
    fresh = Repo.discover(repo.root)
    planned = desk.make_plan(fresh, survey(fresh, fresh.head().commit))
    assert [item.target for item in planned.items] == ["docs/rope.md"]
    assert any("docs/boat.md" in note and "cannot be read" in note for note in planned.notes)


# --- clocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [12, -12])
def test_a_clock_that_jumps_in_mid_night_moves_neither_budget_nor_order(repo: Repo, tmp_path: Path, hours: int) -> None:
    told: list[datetime] = []

    def clock() -> datetime:
        told.append(full_disk.WHEN + timedelta(seconds=len(told), hours=hours if len(told) > 5 else 0))
        return told[-1]

    frozen = full_disk.freeze(repo)
    now = session._steady(clock, full_disk.WHEN)
    how: dict[str, Any] = {"signer": desk.signer(repo), "now": now, "progress": runner.Progress()}
    report = asyncio.run(runner.run(repo, frozen, ScriptedEngine(), full_disk.CLOSED, work=tmp_path / "work", **how))
    assert len(told) > 10, "the clock jumped while the night ran"
    assert report.ended == "finished", "the budget is that of the monotonic clock"
    assert [run.outcome for run in report.runs] == ["accepted"] * 2
    for name in repo.refs("refs/pantheon/") | repo.refs("refs/notes/"):
        dates = [when for _, when, _ in repo.history(name, 1000)][:-1]
        assert dates == sorted(dates, reverse=True), f"{name} goes back in time"
    assert list(verify(repo.common_dir, load_trust(repo.common_dir), "all").faults) == []
    assert repo.fsck() == ()


def test_after_a_clock_went_back_a_day_the_next_night_is_still_the_latest(after: Repo, tmp_path: Path) -> None:
    (after.root / "docs/sail.md").write_text("# Sails in the harbour\n\nEvery sail in the harbour has a number.\n")
    git("add", "-A", cwd=after.root)
    git("commit", "-q", "-m", "more", cwd=after.root)
    found = survey(after, after.head().commit)
    how: dict[str, Any] = {"budget_s": 300, "engine": "scripted", "model": "scripted", "window": 2}
    early = full_disk.WHEN - timedelta(days=2)
    frozen = nights.freeze(after, found, desk.make_plan(after, found), signer=desk.signer(after), now=early, **how)
    assert frozen.night.id == "2026-03-01-2"
    assert nights.unfinished(after) == frozen.night.id
    full_disk.play(after, frozen, tmp_path / "two")
    assert nights.load_report(after).night.id == frozen.night.id
    assert list(verify(after.common_dir, load_trust(after.common_dir), "all").faults) == []


# --- rude users ------------------------------------------------------------------------------------------------------


def beside(repo: Repo, at: dict[int, Callable[[], object]], work: Path) -> NightReport:
    """A night, at whose n-th commit somebody does something."""
    count = 0

    def strike(name: str) -> None:
        nonlocal count
        count += name == "commit"
        if name == "commit" and count in at:
            at.pop(count)()

    frozen = full_disk.freeze(repo)
    faults.arm(strike)
    try:
        return full_disk.play(repo, frozen, work)
    finally:
        faults.arm(None)


def in_order(repo: Repo) -> None:
    assert repo.fsck() == ()
    assert list(verify(repo.common_dir, load_trust(repo.common_dir), "all").faults) == []
    assert git("worktree", "list", cwd=repo.root).count("\n") == 1


def test_git_at_work_beside_a_night_takes_nothing_from_it(repo: Repo, tmp_path: Path) -> None:
    commands = (("repack", "-adq"), ("pack-refs", "--all"), ("worktree", "prune"), ("gc", "-q"))
    stop, failed, rounds = threading.Event(), list[str](), 0

    def work() -> None:
        nonlocal rounds
        while not stop.is_set():
            for command in commands:
                done = subprocess.run(["git", *command], cwd=repo.root, capture_output=True, text=True, check=False)
                failed.extend([done.stderr] if done.returncode else [])
            rounds += 1

    frozen = full_disk.freeze(repo)
    thread = threading.Thread(target=work)
    thread.start()
    try:
        report = full_disk.play(repo, frozen, tmp_path / "work")
    finally:
        stop.set()
        thread.join()
    assert rounds > 0
    assert failed == []
    assert [(run.outcome, run.reason) for run in report.runs] == [("accepted", "")] * 2
    assert len(report.prs) == 1
    in_order(repo)


@pytest.mark.parametrize("steps", [(3,), (5,), (6,), (8,), (11,)])
def test_a_prune_of_what_nothing_points_to_yet_breaks_no_ref(repo: Repo, tmp_path: Path, steps: Sequence[int]) -> None:
    def prune() -> None:
        git("prune", "--expire=now", cwd=repo.root)

    try:
        report = beside(repo, dict.fromkeys(steps, prune), tmp_path / "one")
    except PantheonError as error:
        assert isinstance(error, RepositoryError) and error.thing
        assert repo.fsck() == ()
        again = nights.thaw(repo, nights.unfinished(repo) or "", lambda base: survey(repo, base))
        report = full_disk.play(repo, again, tmp_path / "two")
    assert len(report.runs) + report.left == 2
    in_order(repo)


@pytest.mark.parametrize(
    "commands",
    [
        (("commit", "-q", "--amend", "-m", "another word"),),
        (("commit", "-q", "--allow-empty", "-m", "more"), ("reset", "-q", "--hard", "HEAD~1")),
        (("branch", "-m", "main", "trunk"),),
        (("switch", "-q", "-c", "other"), ("branch", "-q", "-D", "main")),
    ],
    ids=["amend", "reset", "rename", "delete"],
)
def test_a_branch_that_is_rewritten_during_the_night_keeps_its_pr(
    repo: Repo, tmp_path: Path, commands: Sequence[Sequence[str]]
) -> None:
    base = repo.head().commit

    def rewrite() -> None:
        for command in commands:
            git(*command, cwd=repo.root)

    report = beside(repo, {6: rewrite}, tmp_path / "work")
    assert [(run.outcome, run.reason) for run in report.runs] == [("accepted", "")] * 2
    (pull,) = prs.load_all(repo)
    assert (pull.onto, pull.base, repo.ref(f"refs/heads/{pull.branch}")) == ("main", base, pull.tip)
    assert git("status", "--porcelain", cwd=repo.root) == ""
    in_order(repo)


def test_a_review_branch_that_a_person_works_on_or_deleted_is_left_alone_by_the_next_night(
    after: Repo, tmp_path: Path
) -> None:
    (after.root / "docs/sail.md").write_text("# Sails in the harbour\n\nEvery sail in the harbour has a number.\n")
    git("add", "-A", cwd=after.root)
    git("commit", "-q", "-m", "more", cwd=after.root)
    git("switch", "-q", "pantheon/tidy/1", cwd=after.root)
    (after.root / "mine.txt").write_text("mine\n")
    git("add", "-A", cwd=after.root)
    git("commit", "-q", "-m", "mine", cwd=after.root)
    theirs = git("rev-parse", "HEAD", cwd=after.root).strip()
    git("switch", "-q", "main", cwd=after.root)
    full_disk.play(after, full_disk.freeze(after), tmp_path / "two")
    assert after.ref("refs/heads/pantheon/tidy/1") == theirs, "hands off"
    assert [pull.branch for pull in prs.load_all(after)] == ["pantheon/tidy/1", "pantheon/tidy/2"]
    git("branch", "-q", "-D", "pantheon/tidy/1", cwd=after.root)
    (after.root / "docs/mast.md").write_text("# Masts in the harbour\n\nEvery mast in the harbour has a number.\n")
    git("add", "-A", cwd=after.root)
    git("commit", "-q", "-m", "more", cwd=after.root)
    full_disk.play(after, full_disk.freeze(after), tmp_path / "three")
    assert after.ref("refs/heads/pantheon/tidy/1") is None
    assert [pull.id for pull in prs.load_all(after)] == [1, 2, 3], "and no branch's name is used twice"
    assert after.fsck() == ()


@pytest.mark.parametrize("lock", ["index.lock", "HEAD.lock", "packed-refs.lock", "refs/heads/main.lock"])
def test_locks_that_a_dead_git_left_in_what_is_the_users_stop_no_night(repo: Repo, tmp_path: Path, lock: str) -> None:
    (repo.common_dir / lock).touch()
    report = full_disk.play(repo, full_disk.freeze(repo), tmp_path / "work")
    assert [run.outcome for run in report.runs] == ["accepted"] * 2
    assert (repo.common_dir / lock).exists(), "it is not ours to remove"
    in_order(repo)


def test_a_lock_on_one_of_our_refs_is_named_and_the_night_goes_on_without_it(repo: Repo, tmp_path: Path) -> None:
    frozen = full_disk.freeze(repo)
    left = repo.common_dir / f"{artifacts.NOTES}.lock"
    left.parent.mkdir(parents=True, exist_ok=True)
    left.touch()
    with pytest.raises(RepositoryError) as caught:
        full_disk.play(repo, frozen, tmp_path / "one")
    assert caught.value.hint == f"if no git runs: rm '{left}'"
    left.unlink()
    again = nights.thaw(repo, frozen.night.id, lambda base: survey(repo, base))
    assert [run.outcome for run in full_disk.play(repo, again, tmp_path / "two").runs] == ["accepted"] * 2
    in_order(repo)
