"""The daemon as a person meets it: its commands, a whole night of it, and what it leaves when stopped or killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import TASK, MakeRepo, git, survivors, write_files

from pantheon import cli, doorbell, nights, nightwatch, patrol, roster
from pantheon.errors import PantheonError
from pantheon.git import Repo
from pantheon.places import Places, places

NOTES = {
    "docs/tides.md": "# Tide tables\n\nTide tables are loaded every night from the harbour office. It tries twice.\n",
    "docs/boats.md": "# Boats in the harbour\n\nEvery boat in the harbour has a berth with a number.\n",
}
SETTINGS = 'schema_version = 1\n[engine]\nkind = "scripted"\n'
PATIENCE_S = 900.0  # a machine may be busy; each wait ends as soon as it can
MANY = 40  # notes beside the two of the repository: a night of them lasts long enough to be struck
MODULE = [sys.executable, "-P", "-m", "pantheon.cli"]


@pytest.fixture
def where(sealed: Path) -> Places:
    return places(os.environ)


def typed(root: Path, *args: str, code: int = 0) -> str:
    """What one command, in a process of its own, prints."""
    done = subprocess.run([*MODULE, *args], cwd=root, capture_output=True, timeout=PATIENCE_S, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == code, said
    assert "Traceback" not in said and "bug of ours" not in said
    return said


def until(true: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < deadline, f"nothing came of it: {what}\n{log_of()}"
        time.sleep(0.05)
    return found


def log_of() -> str:
    path = places(os.environ).logs / "daemon.log"
    return path.read_text() if path.exists() else "no log"


def said_in_log(text: str) -> bool:
    return text in log_of()


def settings(where: Places, window: str, **more: str) -> None:
    where.config.mkdir(parents=True, exist_ok=True)
    lines = [f'window = "{window}"', 'zone = "UTC"', "on_battery = true", *(f"{k} = {v}" for k, v in more.items())]
    (where.config / "config.toml").write_text("[daemon]\n" + "\n".join(lines) + "\n")


OPEN = "00:00-00:00"


def shut() -> str:
    """A window that neither holds now nor opens within the hour."""
    hour = time.gmtime().tm_hour
    return f"{(hour + 6) % 24:02}:00-{(hour + 7) % 24:02}:00"


@pytest.fixture
def repository(make_repo: MakeRepo) -> Path:
    """With the scripted engine in force, trusted, and a branch whose name tells its processes from all others."""
    root = make_repo({**NOTES, ".pantheon/pantheon.toml": SETTINGS})
    git("branch", "-q", "-m", f"main-{os.getpid()}", cwd=root)
    typed(root, "trust", "--yes")
    return root


def commit_task(root: Path, files: int = 0) -> None:
    more = {
        f"docs/note{n}.md": f"# Note number {n}\n\nA note about the harbour and its {n} boats.\n" for n in range(files)
    }
    write_files(root, {"docs/tasks/tidy.md": TASK, **more})
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "Ask for tidy notes", cwd=root)


@pytest.fixture
def started(where: Places) -> Iterator[None]:
    """Whatever a test started is ended, by its own pid."""
    yield
    running = roster.running(where)
    if running is not None:
        os.kill(running.pid, signal.SIGKILL)
        until(lambda: roster.running(where) is None, "the end of the daemon")


def state(root: Path) -> dict[str, Any]:
    found = json.loads(typed(root, "daemon", "status", "--json"))
    assert found["answers"]
    (post,) = found["status"]["repositories"]
    assert isinstance(post, dict)
    return post


def of_this_test() -> list[str]:
    return survivors(f"--branch=main-{os.getpid()}") + survivors(f"main-{os.getpid()}/")


def test_from_start_to_a_pull_request_and_a_stop_that_leaves_nothing(
    repository: Path, where: Places, started: None
) -> None:
    settings(where, OPEN, poll='"1h"')
    head = git("rev-parse", "HEAD", cwd=repository)
    said = typed(repository, "daemon", "start")
    assert said.startswith(f"watching {repository} on main-{os.getpid()}: in its window")
    pid = (repository / ".git/pantheon/daemon.pid").read_text()
    running = roster.running(where)
    assert running is not None and pid == f"{running.pid}\n"
    assert Path(running.socket) == doorbell.address(where)
    until(lambda: state(repository)["state"] == "in its window, nothing is queued", "the count of the queue")
    assert git("rev-parse", "HEAD", cwd=repository) == head

    commit_task(repository)
    until(lambda: "task docs/tasks/tidy.md added: Tidy the notes (ready)" in log_of(), "the sight of a commit")
    until(lambda: "night" in log_of() and "ended: 2 accepted, 0 failed" in log_of(), "the night")
    report = nights.load_report(Repo.discover(repository))
    assert (report.ended, report.night.branch) == ("finished", f"main-{os.getpid()}")
    began = report.night.started_at
    left = 24 * 3600 - (3600 * began.hour + 60 * began.minute + began.second)  # of the window
    assert min(6 * 3600, left) <= report.night.budget_s <= min(6 * 3600, left + PATIENCE_S)
    (pull,) = json.loads(typed(repository, "pr", "--json"))
    assert (pull["state"], len(pull["items"])) == ("open", 3)
    until(lambda: "daemon: next night at" in typed(repository), "its word in git pantheon")
    found = json.loads(typed(repository, "status", "--json"))
    assert found["daemon"].startswith("next night at")
    assert len(roster.windows(where).used[str(repository / ".git")]) == 1

    again = typed(repository, "daemon", "start")  # it runs already, and is only told
    assert "watching" in again
    assert roster.running(where) == running
    assert typed(repository, "daemon", "stop") == "the daemon has stopped\n"
    assert typed(repository, "daemon", "stop") == "the daemon does not run\n"
    assert not (repository / ".git/pantheon/daemon.pid").exists()
    assert not doorbell.address(where).exists()
    assert roster.running(where) is None
    assert of_this_test() == []
    assert f"{repository} on main-{os.getpid()} is on its list" in typed(repository, "daemon", "status", code=1)
    assert "stopped" in typed(repository, "daemon", "logs", "-n", "1")
    git("fsck", "--strict", cwd=repository)


def test_a_commit_outside_the_window_is_seen_at_once_and_starts_nothing(
    repository: Path, where: Places, started: None
) -> None:
    settings(where, shut(), poll='"1h"')
    typed(repository, "daemon", "start")
    until(lambda: state(repository)["items"] == 0, "the first count")
    git("switch", "-q", "-c", "elsewhere", cwd=repository)
    linked = repository.parent / "linked"
    git("worktree", "add", "-q", str(linked), f"main-{os.getpid()}", cwd=repository)
    for number, do in enumerate(("added", "edited", "removed")):
        path = linked / "docs/tasks/tidy.md"
        if do == "removed":
            git("pack-refs", "--all", cwd=linked)
            git("rm", "-q", "docs/tasks/tidy.md", cwd=linked)
        else:
            write_files(linked, {"docs/tasks/tidy.md": TASK + number * "More.\n"})
            git("add", "-A", cwd=linked)
        git("commit", "-q", "-m", do, cwd=linked)
        until(partial(said_in_log, f"task docs/tasks/tidy.md {do}"), do)
        assert path.exists() == (do != "removed")
    until(lambda: state(repository)["items"] == 0, "the last count")
    assert [one["what"] for one in state(repository)["changes"]] == ["added", "edited", "removed"]
    assert git("for-each-ref", "refs/pantheon", cwd=repository) == ""


def test_a_window_set_anew_is_taken_up_and_a_night_by_its_own_window(
    repository: Path, where: Places, started: None
) -> None:
    settings(where, shut(), poll='"1s"')
    commit_task(repository)
    typed(repository, "daemon", "start")
    until(lambda: state(repository)["items"] == 2, "the count")
    assert state(repository)["open"] is False
    settings(where, OPEN, poll='"1s"')
    until(lambda: "ended: 2 accepted" in log_of(), "the night")


def test_a_daemon_that_is_killed_takes_its_night_along_and_the_next_one_resumes_it(
    repository: Path, where: Places, started: None
) -> None:
    settings(where, OPEN)
    commit_task(repository, files=MANY)
    typed(repository, "daemon", "start")
    repo = Repo.discover(repository)
    until(lambda: repo.refs("refs/pantheon/runs/"), "the first runs of a night")
    assert of_this_test()
    running = roster.running(where)
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    until(lambda: not of_this_test(), "the end of the orphan")
    done = len(repo.refs("refs/pantheon/runs/"))
    assert nights.unfinished(repo) is not None, "the night was over before it could be killed"
    assert (repository / ".git/pantheon/daemon.pid").read_text() == f"{running.pid}\n"
    assert doorbell.address(where).exists()
    until(lambda: roster.running(where) is None, "the end of the daemon's last thread")

    assert "on its list" in typed(repository, "daemon", "status", code=1)
    typed(repository, "daemon", "start")
    assert roster.running(where) != running
    until(lambda: "goes on" in log_of(), "the resumption")
    until(partial(said_in_log, " ended: "), "the report")
    report = nights.load_report(repo)
    assert len(report.runs) >= MANY + 2 > done
    assert len({run.item.id for run in report.runs}) == len(report.runs)
    typed(repository, "daemon", "stop")
    assert not (repository / ".git/pantheon/daemon.pid").exists()
    git("fsck", "--strict", cwd=repository)


def test_stop_interrupts_a_night_which_goes_on_the_next_time(repository: Path, where: Places, started: None) -> None:
    settings(where, OPEN)
    commit_task(repository, files=MANY)
    typed(repository, "daemon", "start")
    repo = Repo.discover(repository)
    until(lambda: repo.refs("refs/pantheon/runs/"), "the first runs of a night")
    typed(repository, "daemon", "stop")
    assert "the night is interrupted: the daemon stops" in log_of()
    assert of_this_test() == []
    assert nights.unfinished(repo) is not None, "the night was over before it could be stopped"
    assert roster.windows(where).used == {}
    typed(repository, "night", "--now", "--quiet")
    assert len(nights.load_report(repo).runs) >= MANY + 2


def test_run_in_the_foreground_says_what_it_does_and_ends_with_a_signal(
    repository: Path, where: Places, started: None
) -> None:
    settings(where, shut())
    typed(repository, "daemon", "start")
    typed(repository, "daemon", "stop")
    child = subprocess.Popen([*MODULE, "daemon", "run"], cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        until(lambda: roster.running(where), "the lock")
        until(lambda: doorbell.ask(doorbell.address(where), "status"), "an answer")
        second = typed(repository, "daemon", "run", code=1)
        assert f"process {child.pid}: one is running already" in second
        child.send_signal(signal.SIGHUP)
        child.send_signal(signal.SIGTERM)
        said = child.communicate(timeout=PATIENCE_S)[0].decode()
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 0, said
    assert f"{repository}: watching main-{os.getpid()}" in said
    assert said.rstrip().endswith("stopped")
    assert "Traceback" not in said


def test_forget_and_a_second_repository(repository: Path, where: Places, make_repo: MakeRepo, started: None) -> None:
    window = shut()
    settings(where, window)
    other = make_repo({**NOTES, "docs/tasks/t.md": TASK}, name="the other one")
    typed(repository, "daemon", "start")
    typed(other, "daemon", "start", "--window", "12:00-12:00")
    found = json.loads(typed(other, "daemon", "--json"))["status"]["repositories"]
    assert {(one["root"], one["window"]) for one in found} == {
        (str(repository), window),
        (str(other), "12:00-12:00"),
    }
    assert typed(repository, "daemon", "forget") == f"{repository} is no longer watched\n"
    until(lambda: not (repository / ".git/pantheon/daemon.pid").exists(), "the mark's end")
    assert "is not watched" in typed(repository, "daemon", "forget", code=1)
    typed(repository, "daemon", "start")
    assert f"{repository} is no longer watched\n" in typed(repository, "uninstall")
    shutil.rmtree(other)
    assert typed(repository, "daemon", "forget", str(other)) == f"{other} is no longer watched\n"
    until(lambda: "watches no repository" in typed(repository, "daemon", "status"), "an empty list")


# --- commands without a daemon ---------------------------------------------------------------------------------------


class Shell:
    def __init__(self, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, cwd: Path, *args: str, code: int = 0) -> str:
        self.monkeypatch.chdir(cwd)
        got = cli.main(list(args))
        said = self.capfd.readouterr()
        assert got == code, f"{args}: exit {got}\n{said.out}\n{said.err}"
        return said.out + said.err


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    return Shell(capfd, monkeypatch)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        (("start", "--window", "22-6"), "two times of day"),
        (("start", "--branch", "nowhere"), "cannot use the branch: nowhere"),
        (("forget",), "is not on the daemon's list"),
        (("forget", "/nowhere"), "is not on the daemon's list"),
    ],
)
def test_mistakes_are_said_and_nothing_is_started(
    shell: Shell, make_repo: MakeRepo, where: Places, args: tuple[str, ...], why: str
) -> None:
    assert why in shell(make_repo(), "daemon", *args, code=1)
    assert roster.watched(where) == ()
    assert roster.running(where) is None


def test_more_mistakes(shell: Shell, make_repo: MakeRepo, where: Places, tmp_path: Path) -> None:
    root = make_repo()
    assert "not a git repository" in shell(tmp_path, "daemon", "start", code=1)
    git("switch", "-q", "--detach", cwd=root)
    assert "git pantheon daemon start --branch main" in shell(root, "daemon", "start", code=1)
    git("switch", "-q", "main", cwd=root)
    settings(where, "late")
    assert "config.toml" in shell(root, "daemon", "start", code=1)
    assert roster.watched(where) == ()
    (where.state / "daemon").mkdir(parents=True)
    (where.state / "daemon/repositories.json").write_text("{")
    settings(where, OPEN)
    assert "it is damaged" in shell(root, "daemon", "start", code=1)
    assert "it is damaged" in shell(root, "daemon", "status", code=1)
    assert roster.running(where) is None


def test_a_daemon_that_cannot_start_is_an_error_with_the_reason(
    shell: Shell, make_repo: MakeRepo, where: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patrol, "program", lambda *words: ["/bin/sh", "-c", "echo it is broken >&2; exit 1"])
    monkeypatch.setattr(nightwatch, "START_S", 1.0)
    said = shell(make_repo(), "daemon", "start", code=1)
    assert "it is broken" in said and "git pantheon daemon run" in said


def test_without_a_daemon_status_and_logs_say_so(shell: Shell, make_repo: MakeRepo) -> None:
    root = make_repo()
    assert "git pantheon daemon start" in shell(root, "daemon", code=1)
    assert json.loads(shell(root, "daemon", "status", "--json", code=1)) == {
        "answers": False,
        "pid": None,
        "running": False,
        "since": None,
        "status": None,
        "watched": [],
    }
    assert "nothing is in" in shell(root, "daemon", "logs")
    assert json.loads(shell(root, "daemon", "logs", "--json"))["lines"] == []
    assert "daemon" not in shell(root).splitlines()[0]
    (root / ".git/pantheon").mkdir(exist_ok=True)
    (root / ".git/pantheon/daemon.pid").write_text("1\n")  # of one that was killed
    assert "daemon:" not in shell(root)


def test_logs_follow_the_file_also_when_it_is_put_aside(repository: Path, where: Places) -> None:
    where.logs.mkdir(parents=True, exist_ok=True)
    path = where.logs / "daemon.log"
    path.write_text("".join(f"line {number}\n" for number in range(5)))
    child = subprocess.Popen(
        [*MODULE, "daemon", "logs", "-f", "-n", "2"],
        cwd=repository,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a suite in the background ignores it
    )
    assert child.stdout is not None
    try:
        assert [child.stdout.readline() for _ in range(2)] == [b"line 3\n", b"line 4\n"]
        with path.open("a") as file:
            file.write("line 5\nhalf")
            file.flush()
            assert child.stdout.readline() == b"line 5\n"
            file.write(" of it\n")
        assert child.stdout.readline() == b"half of it\n"
        path.rename(path.with_suffix(".log.1"))
        path.write_text("line 7\n")
        assert child.stdout.readline() == b"line 7\n"
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=PATIENCE_S) == 130
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


# --- the service -----------------------------------------------------------------------------------------------------


def test_the_service_file_is_written_read_by_systemd_and_taken_away(
    shell: Shell, tmp_path: Path, where: Places
) -> None:
    said = shell(tmp_path, "daemon", "install")
    path = where.config.parent / "systemd/user/git-pantheon.service"
    assert f"wrote {path}" in said
    assert "systemctl --user enable --now git-pantheon.service" in said
    text = path.read_text()
    assert "Type=notify" in text and "WatchdogSec=" in text
    assert f'"XDG_STATE_HOME={where.state.parent}"' in text
    analyze = shutil.which("systemd-analyze")
    if analyze is not None:
        env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
        done = subprocess.run(
            [analyze, "verify", "--user", "--man=no", str(path)], capture_output=True, env=env, check=False, timeout=60
        )
        assert b"git-pantheon.service" not in done.stderr, done.stderr.decode()
    assert shell(tmp_path, "daemon", "install").startswith("wrote")
    said = shell(tmp_path, "daemon", "install", "--remove")
    assert not path.exists()
    assert "systemctl --user disable --now" in said
    assert shell(tmp_path, "daemon", "install", "--remove") == "no service is installed\n"
    path.write_text("[Unit]\n")
    for words in (("install",), ("install", "--remove")):
        assert "not one that we wrote" in shell(tmp_path, "daemon", *words, code=1)
    assert path.read_text() == "[Unit]\n"


def test_words_of_the_service_file_are_quoted(where: Places) -> None:
    text = nightwatch.unit({"XDG_STATE_HOME": '/a b/50%/"x"/back\\slash'})
    assert 'Environment="XDG_STATE_HOME=/a b/50%%/\\"x\\"/back\\\\slash"' in text
    with pytest.raises(PantheonError, match="systemd cannot be given such a path"):
        nightwatch.unit({"XDG_STATE_HOME": "/a\nExecStartPre=/bin/evil"})


def test_where_the_service_is_installed_systemd_starts_it(
    repository: Path, where: Places, started: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings(where, shut())
    script = tmp_path / "bin/systemctl"
    asked = tmp_path / "asked"
    run = " ".join(f"'{word}'" for word in [*MODULE, "daemon", "run", "--quiet"])
    inherited = " ".join(
        f"'{name}={os.environ[name]}'" for name in os.environ if name.startswith(("XDG_", "PYTHON", "HOME"))
    )
    begun = tmp_path / "begun"  # what has not yet left the session of a command that ended is ended with it
    write_files(
        tmp_path,
        {
            "bin/begin": f"#!/bin/sh\n: >{begun}\nexec env PATH=/usr/bin:/bin {inherited} {run}\n",
            "bin/systemctl": f'#!/bin/sh\necho "$@" >>{asked}\n[ "$2" = start ] || exit 0\n'
            f"setsid --fork sh {tmp_path}/bin/begin >/dev/null 2>&1 </dev/null\n"
            f"while [ ! -e {begun} ]; do sleep 0.01; done\n",
        },
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    typed(repository, "daemon", "install")
    typed(repository, "daemon", "start")
    assert asked.read_text().splitlines() == ["--user show-environment", "--user start git-pantheon.service"]
    assert roster.running(where) is not None
    typed(repository, "daemon", "stop")
    script.write_text(f'#!/bin/sh\necho "$@" >>{asked}\nexit 1\n')  # no systemd of this user runs
    typed(repository, "daemon", "start")
    assert asked.read_text().splitlines()[2:] == ["--user show-environment"]
