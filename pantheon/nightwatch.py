"""The commands of the daemon: start, stop, status, logs, run, install, forget. Ring 4.

Takes plain values, prints text or JSON, returns an exit code. What the daemon does stands in daemon.py and patrol.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from pantheon import doorbell, patrol, process, roster, screen
from pantheon import window as windowing
from pantheon.daemon import STOP_S, Daemon, Event, PostStatus, Status
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.patrol import LOG, Log, Patrol
from pantheon.places import Places
from pantheon.plan import many, printable
from pantheon.process import Limits
from pantheon.roster import Watched

UNIT = "git-pantheon.service"
_OURS = "# written by git pantheon daemon install"
START_S = 20.0  # until a daemon that was started answers
FOLLOW_S = 0.3
STATUS_HINT = "git pantheon daemon status"


def start(
    repo: Repo, where: Places, environ: Mapping[str, str], *, branch: str | None, window: str | None, now: datetime
) -> int:
    """Put the repository on the list, and have the daemon run."""
    patrol.terms(where, environ)  # what is wrong there is said here, not in a log
    if window:
        windowing.parse(window)
    head = repo.head(branch)
    if head.branch is None:
        why = "it is detached; name the branch that is to be watched"
        raise RepositoryError("cannot watch", "HEAD", why, "git pantheon daemon start --branch main")
    common = str(repo.common_dir.resolve())
    own = windowing.parse(window) if window else ""
    entry = Watched(root=str(repo.root.resolve()), common=common, branch=head.branch, window=str(own), since=now)
    roster.change(where, lambda known: (*(one for one in known if one.common != common), entry))
    if not _told(where, "reload"):
        _launch(where, environ)
    post = _await(where, entry)
    shown = printable(f"{entry.root} on {entry.branch}")
    print(f"watching {shown}: {post.state}" + (f" (window {post.window})" if window else ""))
    return 0


def _told(where: Places, word: str) -> bool:
    """Tell the daemon that runs; False: none does. One that only begins, or is just ending, is waited for. Raises
    PantheonError."""
    deadline = time.monotonic() + START_S
    while (running := roster.running(where)) is not None:
        if doorbell.ask(Path(running.socket), word) is not None:
            return True
        if time.monotonic() > deadline:
            raise _silent(running.pid)
        time.sleep(0.1)
    return False


def _silent(pid: int) -> PantheonError:
    why = "it runs, and does not answer"
    return PantheonError("cannot reach the daemon", f"process {pid}", why, f"kill {pid}; git pantheon daemon start")


def _launch(where: Places, environ: Mapping[str, str]) -> None:
    """The service where there is one, else a process of its own."""
    if _unit(where).exists() and _systemctl(environ, "show-environment"):
        if not _systemctl(environ, "start", UNIT):
            hint = f"systemctl --user status {UNIT}"
            raise PantheonError("cannot start the daemon", UNIT, "systemd did not start it", hint)
        return
    log = where.logs / LOG
    try:
        log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PantheonError("cannot write the log", str(log), str(error.strerror)) from error
    process.detached(
        patrol.program("daemon", "run", "--quiet"), env=patrol.environment(environ), log_path=log.with_suffix(".out")
    )


def _systemctl(environ: Mapping[str, str], *words: str) -> bool:
    env = process.base_env(environ) | {
        name: environ[name] for name in ("DBUS_SESSION_BUS_ADDRESS", "XDG_STATE_HOME") if name in environ
    }
    limits = Limits(wall_s=60.0, cpu_s=None, memory_bytes=None, processes=None, output_bytes=1 << 20, file_bytes=None)
    try:
        return process.run(["systemctl", "--user", *words], limits=limits, env=env).returncode == 0
    except PantheonError:
        return False


def _await(where: Places, entry: Watched) -> PostStatus:
    """The daemon's word that it watches. Raises PantheonError with the end of its log."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        running = roster.running(where)
        found = _ask(Path(running.socket)) if running else None
        for post in found.repositories if found else ():
            if post.common == entry.common and post.branch == entry.branch:
                return post
        time.sleep(0.05)
    out = where.logs / f"{Path(LOG).stem}.out"
    said = [line for path in (where.logs / LOG, out) for line in _tail(path, 3)[0]]
    why = printable(said[-1]) if said else f"it did not answer in {START_S:g} s"
    raise PantheonError("cannot start the daemon", str(where.state), why, "git pantheon daemon run")


def _ask(socket: Path) -> Status | None:
    said = doorbell.ask(socket, "status")
    try:
        return Status.model_validate(json.loads(said)) if said else None
    except (ValueError, ValidationError):
        return None


def stop(where: Places) -> int:
    """End the daemon; a night that runs is interrupted cleanly first."""
    running = roster.running(where)
    if running is None:
        print("the daemon does not run")
        return 0
    if doorbell.ask(Path(running.socket), "stop") is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGTERM)
    deadline, told = time.monotonic() + STOP_S + 30, time.monotonic() + 2
    while roster.running(where) is not None:
        if time.monotonic() > deadline:
            why = f"it did not end in {STOP_S + 30:g} s"
            raise PantheonError("cannot stop the daemon", f"process {running.pid}", why, f"kill -9 {running.pid}")
        if time.monotonic() > told:
            print("waiting for its night to end", file=sys.stderr)
            told = deadline + 1
        time.sleep(0.05)
    print("the daemon has stopped")
    return 0


def status(where: Places, *, as_json: bool) -> int:
    """What it watches, and when the next night is. 1: it does not run."""
    running = roster.running(where)
    found = _ask(Path(running.socket)) if running else None
    known = roster.watched(where)
    if as_json:
        screen.print_json(
            {
                "running": running is not None,
                "answers": found is not None,
                "pid": running.pid if running else None,
                "since": running.since.isoformat() if running else None,
                "watched": [one.model_dump(mode="json") for one in known],
                "status": found.model_dump(mode="json") if found else None,
            }
        )
        return 0 if running else 1
    if running is None:
        print("the daemon does not run")
        for one in known:
            print(printable(f"{one.root} on {one.branch} is on its list"))
        print("next: git pantheon daemon start")
        return 1
    if found is None:
        raise _silent(running.pid)
    battery = ", on battery" if found.battery else ""
    print(f"the daemon runs: process {found.pid} since {found.since.astimezone():%Y-%m-%d %H:%M}{battery}")
    for post in found.repositories:
        _print_post(post, found.zone)
    if not found.repositories:
        print("it watches no repository; next: git pantheon daemon start, in one")
    return 0


def _print_post(post: PostStatus, zone: str) -> None:
    print(printable(f"{post.root} on {post.branch}" + (f" at {post.tip[:12]}" if post.tip else "")))
    print(f"  {post.state} (window {post.window}, {zone})")
    if post.tasks is not None and post.items is not None:
        print(f"  queue: {many(post.tasks, 'task')}, {many(post.items, 'item')}")
    for change in post.changes[-3:]:
        when = f"{change.when.astimezone():%H:%M:%S} " if change.when else ""
        print(printable(f"  {when}task {change.path} {change.what}"))
    if post.trouble:
        print(printable(f"  trouble: {post.trouble}"))


def logs(where: Places, *, follow: bool, count: int, as_json: bool) -> int:
    path = where.logs / LOG
    lines, seen, inode = _tail(path, count)
    if as_json:
        return screen.print_json({"path": str(path), "lines": lines})
    if not lines and not follow:
        print(f"nothing is in {path} yet")
    for text in lines:
        print(printable(text), flush=True)
    while follow:
        time.sleep(FOLLOW_S)
        with contextlib.suppress(OSError), path.open("rb") as file:
            info = os.fstat(file.fileno())
            seen = seen if (info.st_ino, info.st_size >= seen) == (inode, True) else 0
            inode = info.st_ino
            file.seek(seen)
            whole, found, _ = file.read().rpartition(b"\n")
            seen += len(whole) + len(found)
            for text in whole.decode("utf-8", "replace").splitlines() if found else ():
                print(printable(text), flush=True)
    return 0


def _tail(path: Path, count: int) -> tuple[list[str], int, int]:
    """The last whole lines of a file, how many of its bytes were looked at for them, and which file it was."""
    try:
        with path.open("rb") as file:
            whole, found, _ = file.read().rpartition(b"\n")
            lines = whole.decode("utf-8", "replace").split("\n")[-count:] if found else []
            return lines, len(whole) + len(found), os.fstat(file.fileno()).st_ino
    except OSError:
        return [], 0, 0


def run(where: Places, environ: Mapping[str, str], *, quiet: bool) -> int:
    """Be the daemon, on this terminal or of a service, until it is told to stop."""
    socket = doorbell.address(where)
    with roster.alone(where, socket, datetime.now(UTC)), contextlib.ExitStack() as held:
        try:
            log = Log(where.logs / LOG, aloud=not quiet)
        except OSError as error:
            raise PantheonError("cannot write the log", str(where.logs / LOG), str(error.strerror)) from error
        doors = Patrol(where, environ, log)
        held.callback(doors.close)
        held.enter_context(doorbell.listening(socket, doors.answer, os.getuid()))
        daemon = Daemon(doors, os.getpid())
        words = {signal.SIGTERM: "stop", signal.SIGINT: "stop", signal.SIGHUP: "reload"}
        for number, kind in words.items():
            event = Event.model_validate({"kind": kind})
            held.callback(signal.signal, number, signal.signal(number, lambda *_, e=event: doors.events.put(e)))
        doors.say(f"the daemon runs: process {os.getpid()}, window {daemon.terms.window} {daemon.terms.zone_name}")
        daemon.loop()
    return 0


# --- the list and the service ----------------------------------------------------------------------------------------


def forget(start: Path, where: Places, path: str | None) -> int:
    """Take a repository off the list: the one that `start` lies in, or the one of a path that is on it."""
    known = roster.watched(where)
    if path is not None:
        wanted = {path, str(Path(start, path).resolve())}
        gone = [one for one in known if wanted & {one.root, one.common}]
    else:
        common = str(Repo.discover(start).common_dir.resolve())
        gone = [one for one in known if one.common == common]
    if not gone:
        raise RepositoryError("is not watched", path or str(start), "it is not on the daemon's list", STATUS_HINT)
    _drop(where, gone)
    return 0


def forgotten(repo: Repo, where: Places) -> None:
    """Take a repository off the list, if it is on it: Pantheon leaves it."""
    common = str(repo.common_dir.resolve())
    _drop(where, [one for one in roster.watched(where) if one.common == common])


def _drop(where: Places, gone: Sequence[Watched]) -> None:
    names = {one.common for one in gone}
    if not names:
        return
    roster.change(where, lambda now: tuple(one for one in now if one.common not in names))
    running = roster.running(where)
    if running is not None:
        doorbell.ask(Path(running.socket), "reload")
    for one in gone:
        print(printable(f"{one.root} is no longer watched"))


def _unit(where: Places) -> Path:
    return where.config.parent / "systemd" / "user" / UNIT


def unit(environ: Mapping[str, str]) -> str:
    """The service's file, for this Python and these places."""
    own = {name: value for name, value in environ.items() if name.startswith("XDG_") and name.endswith("_HOME")}
    own["PYTHONPATH"] = patrol.environment(environ)["PYTHONPATH"]
    settings = "".join(f"Environment={_word(f'{name}={value}')}\n" for name, value in sorted(own.items()))
    command = " ".join(_word(word.replace("$", "$$")) for word in patrol.program("daemon", "run"))
    return (
        f"{_OURS}\n"
        "[Unit]\nDescription=Pantheon: nights of small local models\n\n"
        f"[Service]\nType=notify\nNotifyAccess=main\nExecStart={command}\n{settings}"
        "Restart=on-failure\nRestartSec=30\nWatchdogSec=180\n"
        f"KillMode=mixed\nTimeoutStopSec={STOP_S + 20:.0f}\nDelegate=yes\n\n"
        "[Install]\nWantedBy=default.target\n"
    )


def _word(text: str) -> str:
    """A word as systemd reads it."""
    if any(not char.isprintable() for char in text):
        raise PantheonError("cannot write the service", printable(text), "systemd cannot be given such a path")
    quoted = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{quoted}"'


def install(where: Places, environ: Mapping[str, str], *, remove: bool) -> int:
    """Write the systemd user service, or take it away; systemctl is for the user to type."""
    path = _unit(where)
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else None
        if before is not None and not before.startswith(_OURS):
            raise PantheonError("will not touch", str(path), "it is not one that we wrote", f"mv {path} {path}.mine")
        if remove:
            if before is None:
                print("no service is installed")
                return 0
            path.unlink()
            print(f"removed {path}")
            print(f"then: systemctl --user disable --now {UNIT}; systemctl --user daemon-reload")
            return 0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit(environ), encoding="utf-8")
    except OSError as error:
        raise PantheonError("cannot write the service", str(path), str(error.strerror)) from error
    print(f"wrote {path}")
    print("then: systemctl --user daemon-reload")
    print(f"      systemctl --user enable --now {UNIT}")
    print("      loginctl enable-linger      # nights also while you are not logged in")
    return 0
