"""A kill at any step, and at any moment: the next start goes on, nothing is lost, nothing is done twice, nothing stays.

The short form; `bench/faults.py` has the long one. killing.py says what is looked at after each kill.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import survivors
from killing import (
    ACTS,
    MODES,
    NIGHT,
    Act,
    Dying,
    Trial,
    build,
    copied,
    dying_night,
    forked,
    judge,
    kill_at,
    kill_sometime,
    look,
    points,
    run_night,
    start,
    users_own,
)

from pantheon import lease, leftovers, nights, owner, process, shadow, worktrees
from pantheon.engine import Engine
from pantheon.git import Repo
from pantheon.lease import Lease
from pantheon.places import places
from pantheon.process import Limits
from pantheon.revive import Lives, open_revived
from pantheon.sandbox import Sandbox


def template_of(act: Act, place: Path) -> Path:
    repo = build(place, act.notes)
    for before in act.before:
        code = forked(lambda before=before: before(repo), place.parent / "log")  # type: ignore[misc]
        assert code == 0, (place.parent / "log").read_text()
    return place


@pytest.mark.parametrize(
    ("name", "kills"), [("night", 7), ("accept --drop", 4), ("reject ITEM", 3), ("undo of accept", 3)]
)
def test_killed_at_a_step_it_is_finished_or_was_never_begun(name: str, kills: int, tmp_path: Path) -> None:
    act = ACTS[name]
    template = template_of(act, tmp_path / "template")
    names = points(act, template, tmp_path / "whole")
    wanted = look(Repo.discover(tmp_path / "whole"))
    assert len(names) > 2 * kills
    chosen = range(1, len(names) + 1, -(-len(names) // kills))
    trials = [kill_at(act, number, template, tmp_path / f"k{number}", wanted) for number in chosen]
    assert all(trial.killed for trial in trials)
    assert [(trial.where, trial.wrong) for trial in trials if trial.wrong] == []


def test_every_door_has_its_points(tmp_path: Path) -> None:
    """A step without one would never be killed at."""
    act = ACTS["night"]
    names = set(points(act, template_of(act, tmp_path / "template"), tmp_path / "whole"))
    assert names >= {
        *("lease taken", "blob", "tree", "commit", "ref locked", "ref moved", "ref left", "notes locked"),
        *("base packed", "check asked", "check answered"),
        *("worktree to add", "worktree written", "worktree named", "worktree added", "worktree to remove"),
        *("worktree emptied", "worktree removed", "child to start", "child started", "child ended", "child closed"),
    }


def test_a_real_night_killed_at_moments_of_chance_is_finished_by_the_next_start(tmp_path: Path) -> None:
    template = tmp_path / "template"
    build(template, 1)
    whole = copied(template, tmp_path / "whole")
    began = time.monotonic()
    assert run_night(whole.root, tmp_path / "log") == 0, (tmp_path / "log").read_text()
    usual_s, wanted = time.monotonic() - began, look(whole)

    def one(number: int) -> Trial:
        place, mode = tmp_path / f"m{number}", MODES[number % len(MODES)]
        return kill_sometime(random.Random(number), usual_s, template, place, wanted, mode)

    with ThreadPoolExecutor(2) as pool:
        trials = list(pool.map(one, range(6)))
    assert [(trial.act, trial.where, trial.wrong) for trial in trials if trial.wrong] == []
    assert sum(trial.killed for trial in trials) >= 3


def test_a_night_that_is_stopped_past_its_lease_is_ended_and_its_successor_accepts_once(tmp_path: Path) -> None:
    """The kernel stops it, its heartbeat grows old, the next start takes over; what wakes then is dead."""
    template, log = tmp_path / "template", tmp_path / "log"
    build(template, 1)
    whole = copied(template, tmp_path / "whole")
    assert run_night(whole.root, log) == 0
    repo = copied(template, tmp_path / "stopped")
    kept, lock = users_own(repo), repo.common_dir / "pantheon/night.lock"
    with log.open("ab") as words, subprocess.Popen(NIGHT, cwd=repo.root, stdout=words, stderr=words) as late:
        try:
            while not nights.unfinished(repo) and late.poll() is None:
                time.sleep(0.01)
            os.kill(late.pid, signal.SIGSTOP)
            held = lease.read(lock)
            assert held is not None
            assert held.owner.pid == late.pid
            again = subprocess.run(NIGHT, cwd=repo.root, capture_output=True, check=False)
            assert again.returncode == 1, "it may be at work, and is not touched"
            assert f"the lock is held by process {late.pid}" in again.stderr.decode()
            old = Lease(owner=held.owner, beat_s=held.beat_s - 2 * lease.LEASE_S)
            lock.write_text(old.to_json().ljust(lease.SIZE))
            assert run_night(repo.root, log) == 0, log.read_text()
            os.kill(late.pid, signal.SIGCONT)
            assert late.wait(60) == -signal.SIGKILL
        finally:
            late.kill()
    assert judge(repo, look(whole), kept) == []


@pytest.mark.parametrize("seed", range(3))
def test_a_night_whose_engine_dies_ends_as_if_it_had_not_or_is_resumed(seed: int, tmp_path: Path) -> None:
    template = tmp_path / "template"
    build(template, 1)
    whole = copied(template, tmp_path / "whole")
    assert forked(lambda: start(whole), tmp_path / "log") == 0, (tmp_path / "log").read_text()
    trial = dying_night(random.Random(seed), template, tmp_path / "dying", look(whole))
    assert trial.wrong == []


def test_the_report_tells_of_an_engine_that_died(tmp_path: Path) -> None:
    repo, lives, asked = build(tmp_path / "repo", 1), Lives((0.0,)), list[str]()

    async def born() -> Engine:
        return Dying({3}, asked)

    start(repo, asyncio.run(open_revived(born, lives)), lives.told)
    report = nights.load_report(repo)
    assert [run.outcome for run in report.runs] == ["accepted"]
    assert [note for note in report.notes if note.startswith("the engine died once in mid-night")] == [*lives.told()]
    assert report.ended == "finished"


def test_what_others_left_goes_only_when_they_are_dead(tmp_path: Path) -> None:
    repo, where = build(tmp_path / "repo", 1), places(os.environ)
    dead = subprocess.Popen(["/bin/true"])
    mine = owner.me()
    gone = mine.model_copy(update={"pid": dead.pid, "started": 1})
    dead.wait()
    other = leftovers.scratch(build(tmp_path / "other", 1), where)
    stays = [
        other / "2026-03-01-1" / "work",
        where.cache / f"shadow-{mine.mark}-abc",
        where.cache / "engine" / "compiled",
    ]
    stays += [where.cache / "checks" / f"abc-{mine.mark}-1", where.runtime / f"pantheon-12345678-day-{os.getpid()}"]
    stays += [where.runtime / "relay-young"]
    goes = [leftovers.scratch(repo, where) / "2026-03-01-1" / "worktrees", where.cache / f"shadow-{gone.mark}-abc"]
    goes += [where.cache / "checks" / f"abc-{gone.mark}-1", where.runtime / f"pantheon-12345678-day-{dead.pid}"]
    goes += [where.runtime / "relay-old"]
    for path in (*stays, *goes):
        path.mkdir(parents=True)
        (path / "file").write_text("x")
    (goes[0] / "closed").mkdir()
    (goes[0] / "closed").chmod(0)
    os.utime(goes[-1], (0, 0))
    key = repo.common_dir / "pantheon" / "keys" / f"pantheon_ed25519.{dead.pid}.new"
    key.write_text("half a key")
    repo.add_worktree(
        leftovers.scratch(repo, where) / "x" / "worktrees" / "y", repo.head().commit, f"pantheon-{'0' * 16}"
    )
    users = tmp_path / "users"
    subprocess.run(["git", "worktree", "add", "-q", "--detach", str(users)], cwd=repo.root, check=True)
    found = leftovers.sweep(repo, where)
    assert found
    assert all((path / "file").exists() for path in stays)
    assert not any(path.exists() for path in (*goes, key))
    assert not leftovers.scratch(repo, where).exists()
    assert [path.name for path in (repo.common_dir / "worktrees").iterdir()] == ["users"]
    assert leftovers.sweep(repo, where) == ()


ADMIN = ("gitdir", "commondir", "HEAD", "locked")
HALF: list[tuple[str, ...]] = [ADMIN[:n] for n in range(4)] + [ADMIN[n:] for n in range(1, 4)] + [("HEAD", "locked")]


@pytest.mark.parametrize("empty", [False, True], ids=["whole", "empty"])
@pytest.mark.parametrize("left", HALF, ids="-".join)
@pytest.mark.parametrize("scratch", [False, True], ids=["named", "scratch"])
def test_a_worktree_killed_at_any_file_of_it_is_swept_and_can_be_made_again(
    tmp_path: Path, scratch: bool, left: tuple[str, ...], empty: bool
) -> None:
    """While it was made or removed: its files come and go one by one, and each is empty before it is full."""
    repo, where = build(tmp_path / "repo", 1), places(os.environ)
    name = f"pantheon-{'0' * 16}"
    place, admin = leftovers.scratch(repo, where) / "x" / "worktrees" / "y", repo.common_dir / "worktrees" / name
    room = admin.with_name(worktrees.ROOM)
    whole = {"gitdir": f"{place}/.git\n", "commondir": "../..\n", "HEAD": repo.head().commit + "\n", "locked": "us\n"}

    def killed() -> None:
        half = room / name if scratch else admin
        half.mkdir(parents=True)
        if scratch:
            (room / "locked").write_text("us\n")
        for file in left:
            (half / file).write_text("" if empty and file == left[-1] else whole[file])

    killed()
    assert leftovers.sweep(repo, where)
    assert not list(admin.parent.glob("*"))
    killed()
    repo.remove_worktree(place, name)
    repo.add_worktree(place, repo.head().commit, name)
    repo.remove_worktree(place, name)
    assert not list(admin.parent.glob("*"))


def test_a_sandbox_that_was_only_just_started_ends_with_who_started_it(tmp_path: Path) -> None:
    """Before bubblewrap has told the kernel so. Its second half may wait for the first for ever: the next start ends
    what is in the control group of a dead process."""
    if process.groups() is None:
        pytest.skip("no control group can be made here: what bubblewrap leaves then is nobody's")
    marker = "97531.25"

    def strike(name: str) -> None:
        if name == "child started":
            os.kill(os.getpid(), signal.SIGKILL)

    def job() -> None:
        process.run(["/bin/sleep", marker], limits=Limits(), sandbox=Sandbox())

    assert [forked(job, tmp_path / "log", strike) for _ in range(5)] == [-signal.SIGKILL] * 5
    assert forked(lambda: None, tmp_path / "log") == 0
    until = time.monotonic() + 30
    while (left := survivors(marker)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def test_a_shadow_names_its_owner(tmp_path: Path) -> None:
    repo = build(tmp_path / "repo", 1)
    with shadow.shadow_of(repo, tmp_path / "cache") as made:
        holder = owner.read_mark(made.root.name)
        assert holder is not None
        assert holder.alive()
    shutil.rmtree(tmp_path / "cache")


def test_a_stale_lock_of_ours_goes_and_a_users_stays(tmp_path: Path) -> None:
    """The file of intent names the ref that was moving; what it does not name is not ours to remove."""
    repo = build(tmp_path / "repo", 1)
    place = repo.common_dir / "refs" / "pantheon" / "nights"
    place.mkdir(parents=True)
    ours, theirs = place / "2026-03-01-1.lock", repo.common_dir / "refs/heads/main.lock"
    ours.write_text("")
    theirs.write_text("")
    (repo.common_dir / "pantheon" / "refs.lock").write_text("refs/pantheon/nights/2026-03-01-1")
    leftovers.sweep(repo, places(os.environ))
    assert (ours.exists(), theirs.exists()) == (False, True)
