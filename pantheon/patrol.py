"""The daemon's doors to the world: clocks, refs, the watches, the queue's count, and the night as a child of ours.

Owns how each thing that daemon.py decides is done. The queue is counted by a child, so that no repository can hold up
or crash the loop; a night is `git pantheon night` as a person would type it, which the kernel kills when we die.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pantheon import config, doorbell, machine, nights, process, prs, report, roster, tasks
from pantheon import window as windowing
from pantheon.daemon import Ended, Event, Queued, Seen, Status, TaskChange, Terms
from pantheon.errors import ConfigError, InputError, PantheonError
from pantheon.git import Repo
from pantheon.places import Places
from pantheon.process import Child, Limits
from pantheon.records import Outcome, seconds
from pantheon.refwatch import RefWatch
from pantheon.roster import Watched, Windows

LOG, NIGHT_LOG = "daemon.log", "daemon-night.log"
LOG_MOST = 1 << 20  # bytes, and as many again in the one before
COUNT_S = 300.0  # for counting one queue
TASKS_MOST = 200  # of one commit that are told one by one
KEPT = ("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "TZ", "LANG", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM")
SETTINGS = f"{config.DIRECTORY}/pantheon.toml"


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What a child of the daemon, and the daemon itself, gets of the environment: enough to find the same places and
    the same code."""
    kept = {name: value for name, value in environ.items() if name in KEPT or name.startswith(("XDG_", "LC_"))}
    return {**kept, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}


def program(*words: str) -> list[str]:
    """`git pantheon` with these words, by the Python that runs us."""
    return [sys.executable, "-P", "-m", "pantheon.cli", *words]


def terms(where: Places, environ: Mapping[str, str]) -> Terms:
    """`[daemon]` of the user's own config.toml. Raises ConfigError."""
    found = config.load_user(where.config).daemon
    try:
        opens = windowing.parse(found.window)
        zone = machine.zone(found.zone, environ)
        poll_s = max(1.0, seconds(found.poll))
    except PantheonError as error:
        raise ConfigError("cannot use", str(where.config / "config.toml"), f"[daemon]: {error}") from error
    name = getattr(zone, "key", None) or str(zone)
    return Terms(opens, zone, name, found.on_battery, found.nice, found.idle_io, poll_s)


class Log:
    """A file with the last lines, and the one before; and whoever looks on."""

    def __init__(self, path: Path, aloud: bool) -> None:
        self.path, self.aloud = path, aloud
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def say(self, when: datetime, text: str) -> None:
        line = f"{when.astimezone():%Y-%m-%d %H:%M:%S%z} {text}\n"
        if self.aloud:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.write(line)
                sys.stdout.flush()
        with contextlib.suppress(OSError):  # a full disk: nothing of ours may end for it
            with contextlib.suppress(FileNotFoundError):
                if self.path.stat().st_size > LOG_MOST:
                    self.path.replace(self.path.with_suffix(".log.1"))
            with self.path.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(line)


class NightChild:
    """A night that runs as a child of ours."""

    def __init__(self, child: Child) -> None:
        self.child = child

    def alive(self) -> bool:
        return self.child.alive()

    def ask(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child.pid, signal.SIGTERM)

    def kill(self) -> None:
        with contextlib.suppress(PantheonError):  # the kernel does not let go of it yet: asked again
            self.child.stop(0)

    def code(self) -> int:
        self.kill()  # it has ended: this takes what it may have left, and our descriptors of it
        return self.child.returncode or 0

    def last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.child.log_path.read_text("utf-8", "replace").splitlines()
            ours = [line for line in lines if line.startswith("git pantheon:")]
            return (ours or lines)[-1].removeprefix("git pantheon: ") if lines else ""
        return ""


class Patrol:
    """The doors of one daemon. `close` takes away the watches."""

    def __init__(self, where: Places, environ: Mapping[str, str], log: Log) -> None:
        self.where, self.environ, self.log = where, environ, log
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.watch = RefWatch(lambda common: self.events.put(Event(kind="rang", about=common)))
        self.repos: dict[str, Repo] = {}
        self.told = ""
        self.notified = ""
        self.address = environ.get("NOTIFY_SOCKET", "")

    def close(self) -> None:
        self.watch.close()

    # --- time and words ---

    def now(self) -> datetime:
        return datetime.now(UTC)

    def ticks(self) -> float:
        return time.monotonic()

    def asleep_s(self) -> float:
        return machine.asleep_s()

    def wait(self, timeout_s: float) -> list[Event]:
        """What came within the time; several at once are told at once, and a bell that rings twice once."""
        found: list[Event] = []
        with contextlib.suppress(queue.Empty):
            found.append(self.events.get(timeout=timeout_s))
            while True:
                event = self.events.get_nowait()
                if event.kind != "rang" or event not in found:
                    found.append(event)
        if any(event.kind == "stop" for event in found):
            doorbell.notify(self.address, STOPPING="1", STATUS="stopping")
        return found

    def say(self, text: str) -> None:
        self.log.say(self.now(), text)

    def tell(self, status: Status) -> None:
        """Let the socket answer with it, and systemd show it; each time a sign of life."""
        self.told = json.dumps(status.model_dump(mode="json"), sort_keys=True)
        words = {"WATCHDOG": "1"} if self.notified else {"READY": "1"}
        states = ", ".join(f"{Path(one.root).name}: {one.state}" for one in status.repositories[:5])
        line = states or "watches no repository"
        if line != self.notified:
            self.notified = words["STATUS"] = line
        doorbell.notify(self.address, **words)

    def answer(self, line: str) -> str:
        """To one line on the socket; called on its thread."""
        word, _, rest = line.partition(" ")
        match word:
            case "status" if self.told:
                return self.told
            case "nudge":
                self.events.put(Event(kind="nudge", about=rest))
            case "reload":
                self.events.put(Event(kind="reload"))
            case "stop":
                self.events.put(Event(kind="stop"))
            case _:
                return "error: nudge PATH, status, reload or stop"
        return "ok"

    # --- what the user keeps ---

    def terms(self) -> Terms:
        return terms(self.where, self.environ)

    def watched(self) -> tuple[Watched, ...]:
        return roster.watched(self.where)

    def windows(self) -> Windows:
        try:
            return roster.windows(self.where)
        except PantheonError as error:
            self.say(str(error))
            return Windows()

    def keep(self, windows: Windows) -> None:
        roster.keep_windows(self.where, windows)

    def on_battery(self) -> bool:
        return machine.on_battery()

    # --- refs ---

    def begin(self, entry: Watched) -> str:
        """Watch, and say in the repository that we do; why some of it cannot be watched. Calling it again mends."""
        try:
            roster.mark(Path(entry.common))
        except OSError as error:
            return f"{entry.common}: {error.strerror}"
        return self.watch.watch(entry.common)

    def leave(self, entry: Watched) -> None:
        self.watch.leave(entry.common)
        self.repos.pop(entry.common, None)
        roster.unmark(Path(entry.common))

    def _repo(self, entry: Watched) -> Repo:
        """Opened once, and anew when it is another."""
        found = self.repos.get(entry.common)
        if found is None or not (found.root / ".git").exists():
            found = self.repos[entry.common] = Repo.discover(Path(entry.root))
        return found

    def look(self, entry: Watched) -> Seen:
        try:
            repo = self._repo(entry)
            tip = repo.ref(f"refs/heads/{entry.branch}")
            marks = hashlib.sha256(repr((tip, repo.ref(prs.DECISIONS), repo.refs(prs.PRS))).encode())
            unfinished = nights.unfinished(repo) or ""
        except PantheonError:
            self.repos.pop(entry.common, None)
            raise
        return Seen(tip=tip, mark=marks.hexdigest(), unfinished=unfinished)

    def changes(self, entry: Watched, old: str, new: str) -> Sequence[TaskChange]:
        repo = self._repo(entry)
        touched = repo.changed(old, new)
        found = []
        for path in tasks.select(sorted(touched), self._settings(repo, new).tasks.paths)[:TASKS_MOST]:
            before, after = touched[path]
            if path.lower().endswith((".md", ".markdown")):
                said = _title(repo.read_blob(after), path) if after else ""
                found.append(
                    TaskChange(path=path, what="added" if not before else "edited" if after else "removed", said=said)
                )
        return found

    def _settings(self, repo: Repo, commit: str) -> config.Settings:
        """The settings of a commit; the defaults where they cannot be used: its count says so."""
        try:
            return config.load(lambda path: repo.read_path(commit, path), (SETTINGS,)).settings
        except ConfigError:
            return config.load(lambda _: None, ()).settings

    def limit_s(self, entry: Watched, tip: str) -> float:
        return seconds(self._settings(self._repo(entry), tip).night.budget)

    def last(self, entry: Watched) -> Ended | None:
        repo = self._repo(entry)
        found = nights.reports(repo, 1)
        if not found:
            return None
        night, tally = found[0].night, report.counts(found[0])
        left = f", {found[0].left} left" if found[0].left else ""
        line = f"night {night.id} ended: {tally[Outcome.ACCEPTED]} accepted, {tally[Outcome.FAILED]} failed{left}"
        return Ended(id=night.id, started_at=night.started_at, line=line)

    # --- children ---

    def survey(self, entry: Watched, mark: str) -> None:
        """Count a queue on a thread of its own; the answer comes as an event."""
        threading.Thread(target=self._survey, args=(entry, mark), daemon=True).start()

    def _survey(self, entry: Watched, mark: str) -> None:
        argv = [*process.attended(), *machine.in_background(machine.COUNT_BEHIND, False)]
        argv += ["env", "-C", entry.root, *program("plan", "--json", f"--branch={entry.branch}")]
        limits = Limits(
            wall_s=COUNT_S, cpu_s=None, memory_bytes=None, processes=None, output_bytes=256 << 20, file_bytes=None
        )
        queued, why = None, ""
        try:
            done = process.run(argv, limits=limits, env=environment(self.environ))
            if done.returncode == 0:
                said = json.loads(done.stdout)
                queued = Queued(mark=mark, tasks=len(said["tasks"]), items=len(said["items"]))
            else:
                lines = os.fsdecode(done.stderr).strip().splitlines()
                why = lines[0].removeprefix("git pantheon: ") if lines else f"plan ended with {done.returncode}"
        except (PantheonError, ValueError, KeyError) as error:
            why = str(error)
        self.events.put(Event(kind="surveyed", about=entry.common, queued=queued, why=why))

    def night(self, entry: Watched, budget_s: float, terms: Terms) -> NightChild:
        log = self.where.logs / NIGHT_LOG
        with contextlib.suppress(OSError):
            log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            log.unlink(missing_ok=True)
        words = ("night", "--now", "--quiet", f"--branch={entry.branch}", f"--budget={int(budget_s)}s")
        argv = [*process.attended(), *machine.in_background(terms.nice, terms.idle_io)]
        argv += ["env", "-C", entry.root, *program(*words)]
        child = process.start(argv, stdout_path=log, env=environment(self.environ))
        threading.Thread(target=self._wake_after, args=(child, entry.common), daemon=True).start()
        return NightChild(child)

    def _wake_after(self, child: Child, common: str) -> None:
        child.wait()
        self.events.put(Event(kind="ended", about=common))


def _title(raw: bytes, path: str) -> str:
    """What a task file is called, or why it cannot be used."""
    try:
        task = tasks.parse(raw, path)
    except InputError as error:
        return f"cannot be used: {error.why}"
    return f"{task.title} ({task.status})" if task else ""
