"""What the daemon stands on: watches of real refs, the socket, systemd's line, its files, the machine."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import TASK, MakeRepo, git, write_files

from pantheon import doorbell, machine, patrol, roster
from pantheon.daemon import Event, Seen, Status
from pantheon.errors import ConfigError, PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.patrol import Log, Patrol
from pantheon.places import Places, places
from pantheon.refwatch import RefWatch
from pantheon.roster import Begun, Watched, Windows

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
PATIENCE_S = 60.0  # a machine may be busy


@pytest.fixture
def where(sealed: Path) -> Places:
    return places(os.environ)


def entry_of(root: Path, branch: str = "main") -> Watched:
    common = Path(git("rev-parse", "--path-format=absolute", "--git-common-dir", cwd=root).strip())
    return Watched(root=str(root), common=str(common.resolve()), branch=branch, since=NOW)


def until(true: Callable[[], Any], what: str = "") -> Any:
    """What `true` says, once it says something; AssertionError when it takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < deadline, f"nothing came of it: {what}"
        time.sleep(0.01)
    return found


# --- refs ------------------------------------------------------------------------------------------------------------


class Bells:
    def __init__(self) -> None:
        self.rung: list[str] = []
        self.watch = RefWatch(self.rung.append)

    def after(self, *words: str, cwd: Path) -> None:
        """A git command has to ring."""
        time.sleep(0.2)
        self.rung.clear()
        git(*words, cwd=cwd)
        until(lambda: self.rung, " ".join(words))


@pytest.fixture
def bells() -> Iterator[Bells]:
    found = Bells()
    yield found
    found.watch.close()


def test_whatever_moves_a_branch_rings(bells: Bells, make_repo: MakeRepo, tmp_path: Path) -> None:
    root = make_repo()
    entry = entry_of(root)
    roster.mark(Path(entry.common))
    assert bells.watch.watch(entry.common) == ""
    bells.after("commit", "-q", "--allow-empty", "-m", "one", cwd=root)
    assert set(bells.rung) == {entry.common}
    bells.after("pack-refs", "--all", cwd=root)
    bells.after("commit", "-q", "--allow-empty", "-m", "two", cwd=root)
    bells.after("update-ref", "refs/heads/deep/er/branch", "HEAD", cwd=root)
    bells.after("update-ref", "refs/heads/deep/er/branch", "HEAD~1", cwd=root)
    bells.after("switch", "-q", "-c", "other", cwd=root)
    git("worktree", "add", "-q", str(tmp_path / "linked"), "main", cwd=root)
    bells.after("commit", "-q", "--allow-empty", "-m", "three", cwd=tmp_path / "linked")
    bells.after("reset", "-q", "--hard", "HEAD~1", cwd=tmp_path / "linked")
    bells.after("branch", "-D", "deep/er/branch", cwd=root)
    time.sleep(0.2)
    bells.rung.clear()
    (Path(entry.common) / "pantheon/doorbell").write_text("post-commit\n")
    until(lambda: bells.rung, "the doorbell")


def test_what_is_no_ref_does_not_ring(bells: Bells, make_repo: MakeRepo) -> None:
    root = make_repo()
    entry = entry_of(root)
    bells.watch.watch(entry.common)
    time.sleep(0.3)
    bells.rung.clear()
    (root / "new.md").write_text("x")
    git("add", "-A", cwd=root)
    git("config", "pantheon.test", "yes", cwd=root)
    (Path(entry.common) / "pantheon").mkdir(exist_ok=True)
    git("update-ref", "refs/pantheon/x", "HEAD", cwd=root)
    (root / "README.md").write_text("y")
    git("commit", "-q", "-am", "and this does", cwd=root)
    until(lambda: bells.rung)
    before = len(bells.rung)
    time.sleep(0.5)
    bells.rung.clear()
    git("status", cwd=root)
    time.sleep(0.5)
    assert before and bells.rung == []


def test_a_repository_made_anew_at_the_same_place_is_watched_again(bells: Bells, make_repo: MakeRepo) -> None:
    root = make_repo()
    entry = entry_of(root)
    assert bells.watch.watch(entry.common) == ""
    (root / ".git").rename(root / "old")
    assert bells.watch.watch(entry.common) == ""
    git("init", "-q", cwd=root)
    assert bells.watch.watch(entry.common) == ""
    bells.after("commit", "-q", "--allow-empty", "-m", "first", cwd=root)
    bells.watch.leave(entry.common)
    bells.watch.leave(entry.common)
    time.sleep(0.2)
    bells.rung.clear()
    git("commit", "-q", "--allow-empty", "-m", "second", cwd=root)
    time.sleep(0.5)
    assert bells.rung == []


@pytest.fixture
def doors(where: Places) -> Iterator[Patrol]:
    found = Patrol(where, dict(os.environ), Log(where.logs / patrol.LOG, aloud=False))
    yield found
    found.close()


def told(doors: Patrol, kind: str) -> Event:
    """The next event of a kind."""

    def look() -> Event | None:
        return next((event for event in doors.wait(1.0) if event.kind == kind), None)

    found = until(look, kind)
    assert isinstance(found, Event)
    return found


def test_a_look_sees_what_could_change_the_queue(doors: Patrol, make_repo: MakeRepo) -> None:
    root = make_repo()
    entry = entry_of(root)
    first = doors.look(entry)
    assert first.tip == git("rev-parse", "main", cwd=root).strip()
    assert doors.look(entry) == first
    git("update-ref", "refs/pantheon/prs/1/meta", "HEAD", cwd=root)
    second = doors.look(entry)
    assert second.tip == first.tip and second.mark != first.mark
    git("notes", "--ref=pantheon/decisions", "add", "-m", "{}", cwd=root)
    assert doors.look(entry).mark not in (first.mark, second.mark)
    git("pack-refs", "--all", "--prune", cwd=root)
    git("commit", "-q", "--allow-empty", "-m", "x", cwd=root)
    assert doors.look(entry).tip == git("rev-parse", "main", cwd=root).strip()
    assert doors.look(entry.model_copy(update={"branch": "nowhere"})).tip is None


def test_a_repository_that_is_gone_is_an_error_and_comes_back(doors: Patrol, make_repo: MakeRepo) -> None:
    root = make_repo()
    entry = entry_of(root)
    doors.look(entry)
    (root / ".git").rename(root / "away")
    with pytest.raises(RepositoryError):
        doors.look(entry)
    (root / "away").rename(root / ".git")
    assert isinstance(doors.look(entry), Seen)


def test_the_task_files_of_a_move_are_told_and_nothing_else(doors: Patrol, make_repo: MakeRepo) -> None:
    kept, gone = TASK.replace("0f0e8a52", "1f0e8a52"), TASK.replace("0f0e8a52", "2f0e8a52")
    root = make_repo(
        {"docs/a.md": "# A\n", "docs/tasks/kept.md": kept, "docs/tasks/gone.md": gone, "src/x/y.py": "1\n"}
    )
    entry = entry_of(root)
    old = git("rev-parse", "HEAD", cwd=root).strip()
    write_files(
        root,
        {
            **{"docs/tasks/new.md": TASK, "docs/tasks/kept.md": kept + "more\n", "docs/a.md": "# B\n"},
            **{"docs/tasks/deep/bad.md": "---\ntitle: x\n", "docs/tasks/note.md": "# No task\n", "src/x/y.py": "2\n"},
        },
    )
    git("rm", "-q", "docs/tasks/gone.md", cwd=root)
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "tasks", cwd=root)
    new = git("rev-parse", "HEAD", cwd=root).strip()
    assert {(one.path, one.what, one.said) for one in doors.changes(entry, old, new)} == {
        ("docs/tasks/new.md", "added", "Tidy the notes (ready)"),
        ("docs/tasks/kept.md", "edited", "Tidy the notes (ready)"),
        ("docs/tasks/gone.md", "removed", ""),
        ("docs/tasks/deep/bad.md", "added", "cannot be used: front matter opened with --- is never closed"),
        ("docs/tasks/note.md", "added", ""),
    }
    assert {one.what for one in doors.changes(entry, new, old)} == {"added", "edited", "removed"}


def test_where_tasks_live_is_read_from_the_new_commit(doors: Patrol, make_repo: MakeRepo) -> None:
    root = make_repo({"work/a.md": TASK})
    entry = entry_of(root)
    old = git("rev-parse", "HEAD", cwd=root).strip()
    write_files(
        root,
        {".pantheon/pantheon.toml": 'schema_version = 1\n[tasks]\npaths = ["work/*.md"]\n', "work/a.md": TASK + "x\n"},
    )
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "move", cwd=root)
    new = git("rev-parse", "HEAD", cwd=root).strip()
    assert [one.path for one in doors.changes(entry, old, new)] == ["work/a.md"]


def test_differences_are_those_of_git(make_repo: MakeRepo) -> None:
    root = make_repo({"a/b/c.md": "1", "a/x": "2", "d": "3", "e/f": "4", "same/z": "5"})
    git("rm", "-q", "-r", "d", "e", cwd=root)
    write_files(root, {"a/b/c.md": "other", "d/now/a/folder": "6", "e": "a file now", "\u00fc \n.md": "7"})
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "second", cwd=root)
    lines = git("diff-tree", "-r", "-z", "--no-renames", "HEAD~1", "HEAD", cwd=root).split("\0")[:-1]
    none = "0" * 40
    expected = {}
    for head, path in zip(lines[::2], lines[1::2], strict=True):
        before, after = head.split()[2:4]
        expected[path] = tuple(None if oid == none else oid for oid in (before, after))
    old, new = git("rev-parse", "HEAD~1", "HEAD", cwd=root).split()
    assert Repo.discover(root).changed(old, new) == expected
    assert len(expected) == 6


def test_a_queue_is_counted_by_a_child_on_a_branch_that_is_not_checked_out(doors: Patrol, make_repo: MakeRepo) -> None:
    root = make_repo({"docs/a.md": "# A\n\nOne note about the harbour.\n", "docs/tasks/t.md": TASK})
    git("switch", "-q", "--orphan", "empty", cwd=root)
    doors.survey(entry_of(root), "mark 1")
    found = told(doors, "surveyed")
    assert found.queued is not None, found.why
    assert (found.queued.mark, found.queued.tasks, found.queued.items) == ("mark 1", 1, 1)
    doors.survey(entry_of(root, "nowhere"), "mark 2")
    found = told(doors, "surveyed")
    assert found.queued is None
    assert "cannot use the branch: nowhere" in found.why


# --- the socket and systemd ------------------------------------------------------------------------------------------


def test_the_socket_answers_its_user_and_is_gone_at_the_end(where: Places, doors: Patrol) -> None:
    path = doorbell.address(where)
    with doorbell.listening(path, doors.answer, os.getuid()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert doorbell.ask(path, "status") == "error: nudge PATH, status, reload or stop"  # nothing is known yet
        doors.tell(Status(pid=7, since=NOW, zone="UTC", battery=False, repositories=()))
        assert '"pid": 7' in (doorbell.ask(path, "status") or "")
        for line in ("nudge /a b/\udcff", "reload", "stop"):
            assert doorbell.ask(path, line) == "ok"
        found = doors.wait(1.0)
        assert [(one.kind, one.about) for one in found] == [("nudge", "/a b/\udcff"), ("reload", ""), ("stop", "")]
        assert (doorbell.ask(path, "shutdown") or "").startswith("error")
        with socket.socket(socket.AF_UNIX) as rude:  # rings and does not wait
            rude.connect(str(path))
            rude.sendall(b"nudge /x\n")
        with socket.socket(socket.AF_UNIX) as silent:
            silent.connect(str(path))
            assert doorbell.ask(path, "nudge /y") == "ok"  # heard when the silent one's time is over
        until(lambda: "/y" in [one.about for one in doors.wait(1.0)])
    assert not path.exists()
    assert doorbell.ask(path, "status") is None


def test_another_user_is_not_heard(where: Places) -> None:
    path = doorbell.address(where)
    heard: list[str] = []

    def answer(line: str) -> str:
        heard.append(line)
        return "ok"

    with doorbell.listening(path, answer, os.getuid() + 1):
        assert doorbell.ask(path, "stop") is None
    assert heard == []


def test_a_socket_that_a_killed_daemon_left_is_replaced(where: Places) -> None:
    path = doorbell.address(where)
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    assert doorbell.ask(path, "status") is None
    with doorbell.listening(path, lambda line: "ok", os.getuid()):
        assert doorbell.ask(path, "nudge") == "ok"


def test_a_socket_with_too_long_a_path_is_refused_with_the_cure(tmp_path: Path) -> None:
    with (
        pytest.raises(PantheonError, match="more than 100 bytes"),
        doorbell.listening(tmp_path / ("x" * 120), lambda line: "", os.getuid()),
    ):
        pass


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_hears_ready_then_signs_of_life_then_stopping(
    where: Places, tmp_path: Path, abstract: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"@pantheon-test-{os.getpid()}" if abstract else str(Path(os.environ["XDG_RUNTIME_DIR"], "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.bind(name.replace("@", "\0", 1))
        line.settimeout(PATIENCE_S)
        doors = Patrol(where, {**os.environ, "NOTIFY_SOCKET": name}, Log(where.logs / patrol.LOG, aloud=False))
        try:
            status = Status(pid=7, since=NOW, zone="UTC", battery=False, repositories=())
            doors.tell(status)
            doors.tell(status)
            doors.events.put(Event(kind="stop"))
            doors.wait(1.0)
            said = [line.recv(4096).decode().split("\n") for _ in range(3)]
        finally:
            doors.close()
    assert said == [["READY=1", "STATUS=watches no repository"], ["WATCHDOG=1"], ["STOPPING=1", "STATUS=stopping"]]


def test_without_systemd_nothing_is_sent() -> None:
    assert not doorbell.notify("", READY="1")
    assert not doorbell.notify("/nowhere/at/all", READY="1")


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_list_is_changed_by_many_at_once_without_loss(where: Places) -> None:
    def add(number: int) -> None:
        entry = Watched(root=f"/r{number}/\udcff", common=f"/r{number}/.git", branch="main", since=NOW)
        roster.change(where, lambda known: (*known, entry))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.root for one in roster.watched(where)} == {f"/r{number}/\udcff" for number in range(12)}
    left = {path.name for path in (where.state / "daemon").iterdir()}
    assert left == {"repositories.json", ".repositories.json.lock"}


@pytest.mark.parametrize(
    "damage", [b"{", b"[]", b'{"watched": [{"root": 3}]}', b"\xff", b'{"schema_version": 1, "x": 1}']
)
def test_a_damaged_file_is_named_with_the_cure(where: Places, damage: bytes) -> None:
    (where.state / "daemon").mkdir(parents=True)
    for name, read in (("repositories.json", roster.watched), ("windows.json", roster.windows)):
        (where.state / "daemon" / name).write_bytes(damage)
        with pytest.raises(PantheonError, match="damaged") as caught:
            read(where)
        assert caught.value.hint.startswith("mv ")


def test_what_is_used_up_is_kept_and_bounded(where: Places) -> None:
    found = Windows()
    for number in range(roster.KEPT + 10):
        found = found.with_used("/a", f"key {number}")
    found = found.with_used("/a", f"key {number}").with_begun("/a", Begun(key="k", start=NOW, before="n1"))
    roster.keep_windows(where, found)
    again = roster.windows(where)
    assert again == found
    assert len(again.used["/a"]) == roster.KEPT == len(set(again.used["/a"]))
    assert again.with_begun("/a", None).begun == {}


def test_one_daemon_at_a_time_and_a_lock_that_was_left_is_none(where: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roster, "TAKE_S", 0.1)
    assert roster.running(where) is None
    path = doorbell.address(where)
    with roster.alone(where, path, NOW):
        found = roster.running(where)
        assert found is not None
        assert (found.pid, found.since, found.socket) == (os.getpid(), NOW, str(path))
        with (
            pytest.raises(PantheonError, match=f"process {os.getpid()}: one is running already"),
            roster.alone(where, path, NOW),
        ):
            pass
    assert roster.running(where) is None
    lock = where.state / "daemon" / "lock"
    lock.write_text('{"pid": 1, "since": "2026-06-01T12:00:00Z", "socket": "/x"}')  # of one that was killed
    assert roster.running(where) is None
    with roster.alone(where, path, NOW):
        assert roster.running(where) is not None


def test_who_only_looks_does_not_keep_a_daemon_from_starting(where: Places) -> None:
    (where.state / "daemon").mkdir(parents=True)
    with (where.state / "daemon" / "lock").open("w") as looks:
        fcntl.flock(looks, fcntl.LOCK_SH)
        threading.Timer(0.3, fcntl.flock, (looks, fcntl.LOCK_UN)).start()
        with roster.alone(where, Path("/x"), NOW):
            assert roster.running(where) is not None
        time.sleep(0.3)


def test_the_mark_in_a_repository_is_ours_to_take_away_and_no_one_elses(tmp_path: Path) -> None:
    roster.mark(tmp_path)
    path = tmp_path / "pantheon/daemon.pid"
    assert path.read_text() == f"{os.getpid()}\n"
    path.write_text("1\n")
    roster.unmark(tmp_path)
    assert path.exists()
    roster.mark(tmp_path)
    roster.unmark(tmp_path)
    roster.unmark(tmp_path)
    assert not path.exists()


def test_the_log_is_bounded_and_a_full_disk_ends_nobody(where: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patrol, "LOG_MOST", 2000)
    log = Log(where.logs / patrol.LOG, aloud=False)
    for number in range(200):
        log.say(NOW, f"line {number} \udcff")
    held = [path.stat().st_size for path in where.logs.iterdir()]
    assert len(held) == 2 and max(held) < 2200
    assert "line 199" in log.path.read_text()
    log.path = Path("/proc/nowhere/daemon.log")
    log.say(NOW, "not written")


# --- settings and the machine ----------------------------------------------------------------------------------------


def write_settings(where: Places, text: str) -> None:
    where.config.mkdir(parents=True, exist_ok=True)
    (where.config / "config.toml").write_text(text)


def test_settings_of_the_user(where: Places) -> None:
    found = patrol.terms(where, {})
    assert (str(found.window), found.on_battery, found.nice, found.idle_io, found.poll_s) == (
        "22:00-06:00",
        False,
        10,
        True,
        30.0,
    )
    write_settings(
        where,
        '[daemon]\nwindow = "1:30-5:00"\nzone = "Asia/Kolkata"\non_battery = true\n'
        'nice = 0\nidle_io = false\npoll = "2m"\n',
    )
    found = patrol.terms(where, {"TZ": "Europe/Berlin"})
    assert (str(found.window), found.zone, found.zone_name) == ("01:30-05:00", ZoneInfo("Asia/Kolkata"), "Asia/Kolkata")
    assert (found.on_battery, found.nice, found.idle_io, found.poll_s) == (True, 0, False, 120.0)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('window = "22-6"', "two times of day"),
        ('zone = "Europe/Berlni"', "did you mean 'Europe/Berlin'"),
        ('zone = "../../etc/passwd"', "no such time zone"),
        ('poll = "often"', "a number and one of"),
        ("nice = 20", "less than or equal to 19"),
        ("windwo = 3", "did you mean 'window'"),
    ],
)
def test_wrong_settings_are_named_with_their_file(where: Places, line: str, why: str) -> None:
    write_settings(where, f"[daemon]\n{line}\n")
    with pytest.raises(ConfigError, match=r"config\.toml") as caught:
        patrol.terms(where, {})
    assert why in str(caught.value)


def test_the_zone_of_the_machine(tmp_path: Path) -> None:
    berlin = tmp_path / "zoneinfo/Europe/Berlin"
    berlin.parent.mkdir(parents=True)
    source = next((Path(folder, "Europe/Berlin") for folder in ("/usr/share/zoneinfo",) if Path(folder).is_dir()), None)
    assert machine.zone("", {"TZ": "Asia/Tehran"}) == ZoneInfo("Asia/Tehran")
    assert machine.zone("", {"TZ": ":Asia/Tehran"}) == ZoneInfo("Asia/Tehran")
    assert machine.zone("", {}, tmp_path / "none") is UTC
    (tmp_path / "damaged").write_bytes(b"no zone")
    assert machine.zone("", {"TZ": "nonsense"}, tmp_path / "damaged") is UTC
    if source is not None:
        berlin.write_bytes(source.read_bytes())
        (tmp_path / "localtime").symlink_to(berlin)
        found = machine.zone("", {}, tmp_path / "localtime")
        assert str(found) == "Europe/Berlin"
        for month, hours in ((1, 1), (7, 2)):
            offset = datetime(2026, month, 1, tzinfo=UTC).astimezone(found).utcoffset()
            assert offset is not None and offset.total_seconds() == hours * 3600


@pytest.mark.parametrize(
    ("supplies", "battery"),
    [
        ({}, False),
        ({"AC": {"type": "Mains", "online": "1"}}, False),
        ({"AC": {"type": "Mains", "online": "0"}}, False),  # a desktop whose supply says nothing useful
        ({"BAT0": {"type": "Battery", "status": "Discharging"}}, True),
        ({"BAT0": {"type": "Battery", "status": "Full"}}, False),
        ({"AC": {"type": "Mains", "online": "0"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, True),
        ({"AC": {"type": "Mains", "online": "0"}, "BAT0": {"type": "Battery", "status": "Unknown"}}, True),
        ({"AC": {"type": "Mains", "online": "1"}, "BAT0": {"type": "Battery", "status": "Discharging"}}, False),
        (
            {
                "AC": {"type": "Mains", "online": "0"},
                "usb": {"type": "USB", "online": "1"},
                "BAT0": {"type": "Battery", "status": "Charging"},
            },
            False,
        ),
        ({"hid": {"type": "Battery", "scope": "Device", "status": "Discharging"}}, False),
    ],
)
def test_on_battery(tmp_path: Path, supplies: dict[str, dict[str, str]], battery: bool) -> None:
    for name, values in supplies.items():
        write_files(tmp_path / name, {key: value + "\n" for key, value in values.items()})
    assert machine.on_battery(tmp_path) is battery


def test_a_child_in_the_background_yields() -> None:
    assert machine.in_background(10, True)[-6:] == ["nice", "-n", "10", "ionice", "-c", "3"]
    assert machine.in_background(0, False) == []
    assert machine.asleep_s() >= 0


AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
grouped = pytest.mark.skipif(
    not AUTOGROUP.exists() or AUTOGROUP.read_text().strip() != "1", reason="this kernel groups no sessions"
)


@grouped
def test_the_whole_session_of_a_night_is_nice() -> None:
    argv = [*machine.in_background(10, False), "sh", "-c", "cat /proc/self/autogroup; nice"]
    done = subprocess.run(argv, capture_output=True, start_new_session=True, check=True)
    _, word, session, own = done.stdout.split()
    assert (word, session) == (b"nice", b"10") and int(own) >= 10


LOOP = """
import asyncio, os, subprocess
from pantheon import machine

async def main():
    machine.give_way()
    child = await asyncio.to_thread(subprocess.check_output, ["nice"])
    print(os.getpriority(os.PRIO_PROCESS, 0), int(child))

asyncio.run(main())
"""


def test_an_event_loop_lets_its_children_go_first() -> None:
    argv = [sys.executable, "-c", LOOP]
    done = subprocess.run(argv, capture_output=True, start_new_session=True, check=True, text=True)
    own, child = map(int, done.stdout.split())
    before = os.getpriority(os.PRIO_PROCESS, 0)
    assert (own, child) == (min(19, before + machine.LOOP_BEHIND), before)


NIGHT = """
import asyncio, sys
from functools import partial
from pathlib import Path
from pantheon import machine, process
from pantheon.sandbox import Sandbox

WAIT = ["sh", "-c", "until grep ' nice [^0]' /proc/self/autogroup; do sleep 0.05; done"]

async def main():
    machine.give_way()
    log, limits = Path(sys.argv[1]), process.Limits(wall_s=60)
    print(machine.GROUP.read_text())
    for sandbox in (Sandbox(), None):
        engine = await asyncio.to_thread(process.start, WAIT, stdout_path=log, sandbox=sandbox)
        await asyncio.to_thread(engine.wait)
        print((await process.run_async(WAIT, limits=limits, sandbox=sandbox)).stdout.decode())
    print(log.read_text())

asyncio.run(main())
"""


@grouped
def test_the_sessions_of_a_nice_nights_children_are_nice_and_go_before_its_loop(tmp_path: Path) -> None:
    argv = [*machine.in_background(4, False), sys.executable, "-c", NIGHT, str(tmp_path / "log")]
    done = subprocess.run(
        argv, capture_output=True, stdin=subprocess.DEVNULL, start_new_session=True, check=True, timeout=120
    )
    loop, *children = [int(line.split()[-1]) for line in done.stdout.splitlines() if line]
    nice = os.getpriority(os.PRIO_PROCESS, 0) + 4
    assert loop == min(19, nice + machine.LOOP_BEHIND)
    assert children == [nice] * 4


@grouped
def test_a_nice_that_was_typed_speaks_of_its_own_session_only() -> None:
    script = "from pantheon import machine; print(machine.nice_of_children())"
    argv = ["nice", "-n", "4", sys.executable, "-c", script]
    assert subprocess.check_output(argv, start_new_session=True) == b"0\n"
