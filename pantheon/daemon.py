"""The daemon's loop: watches branches, keeps the night window, starts nights and ends them.

Owns what is to be done when; it does none of it: `Doors` does (patrol.py), time and sleep included. One night at a time
on a machine; a window is used up once a night that began in it came to its report. Waits are monotonic and each wake-up
asks the wall clock anew, so that neither a suspend nor a clock that is set counts as progress, and nothing that was
missed is done twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from typing import Literal, Protocol

from pantheon import report
from pantheon import window as windowing
from pantheon.errors import PantheonError
from pantheon.plan import many, printable
from pantheon.records import SCHEMA_VERSION, Record
from pantheon.roster import Begun, Watched, Windows
from pantheon.window import Span, Window

AGAIN_S = 0.2  # after a bell the refs are looked at once more: git rings before it renames
QUIET_S = 1.0  # a branch has to lie still so long before its queue is counted
LEAST_S = 60.0  # of a window that is worth a night
OVERTIME_S = 900.0  # past the end of the window, for the report of a night whose budget ended with it
STOP_S = 130.0  # for a night that was asked to end; it gives its own children 120
BACKOFF_S = (60.0, 300.0, 900.0)  # after a night that failed, until the branch or a decision moves
ASKED_S, LONGEST_S = 0.5, 30.0  # the wait between two looks, at a night that was asked to end and else
SLEPT_S, SET_S = 10.0, 60.0  # what is told
EVENTS = 20  # the last changes of task files that are shown


@dataclass(frozen=True)
class Terms:
    """The user's own settings, read."""

    window: Window
    zone: tzinfo
    zone_name: str
    on_battery: bool
    nice: int
    idle_io: bool
    poll_s: float


class Seen(Record):
    """A repository's refs at one look. `mark` changes with whatever could change the queue. `unfinished`: the id of a
    night that was interrupted."""

    tip: str | None
    mark: str
    unfinished: str = ""


class Queued(Record):
    mark: str
    tasks: int
    items: int


class Ended(Record):
    """The last night that came to its report."""

    id: str
    started_at: datetime
    line: str


class TaskChange(Record):
    """A task file that a commit touched. `said`: its title, or what is wrong with it."""

    path: str
    what: Literal["added", "edited", "removed"]
    said: str = ""
    when: datetime | None = None


class Event(Record):
    """What wakes the loop. `about`: a common git dir, or the path that a nudge names."""

    kind: Literal["rang", "nudge", "reload", "stop", "surveyed", "ended"]
    about: str = ""
    queued: Queued | None = None
    why: str = ""


class PostStatus(Record):
    root: str
    common: str
    branch: str
    tip: str | None
    tasks: int | None  # None: not counted yet
    items: int | None
    window: str
    starts: datetime
    ends: datetime
    open: bool
    state: str  # in words
    trouble: str
    changes: tuple[TaskChange, ...]


class Status(Record):
    schema_version: int = SCHEMA_VERSION
    pid: int
    since: datetime
    zone: str
    battery: bool
    repositories: tuple[PostStatus, ...]


class Running(Protocol):
    """A night that was started."""

    def alive(self) -> bool: ...
    def ask(self) -> None: ...
    def kill(self) -> None: ...
    def code(self) -> int: ...
    def last_words(self) -> str: ...


class Doors(Protocol):
    """Everything outside the loop. What can fail raises PantheonError."""

    def now(self) -> datetime: ...
    def ticks(self) -> float: ...
    def asleep_s(self) -> float: ...
    def wait(self, timeout_s: float) -> list[Event]: ...
    def terms(self) -> Terms: ...
    def watched(self) -> tuple[Watched, ...]: ...
    def windows(self) -> Windows: ...
    def keep(self, windows: Windows) -> None: ...
    def begin(self, entry: Watched) -> str: ...
    def leave(self, entry: Watched) -> None: ...
    def look(self, entry: Watched) -> Seen: ...
    def changes(self, entry: Watched, old: str, new: str) -> Sequence[TaskChange]: ...
    def survey(self, entry: Watched, mark: str) -> None: ...
    def limit_s(self, entry: Watched, tip: str) -> float: ...
    def last(self, entry: Watched) -> Ended | None: ...
    def night(self, entry: Watched, budget_s: float, terms: Terms) -> Running: ...
    def on_battery(self) -> bool: ...
    def say(self, text: str) -> None: ...
    def tell(self, status: Status) -> None: ...


@dataclass
class Post:
    """One repository as the loop sees it."""

    entry: Watched
    seen: Seen | None = None
    queued: Queued | None = None
    moved_at: float = 0.0  # ticks of the last change of the mark
    look_at: float | None = None
    count_at: float = 0.0  # not earlier
    failed: int = 0
    not_before: float = 0.0
    trouble: str = ""
    changes: list[TaskChange] = field(default_factory=list)
    turn: float = 0.0  # ticks of its last night

    @property
    def name(self) -> str:
        return printable(self.entry.root)

    @property
    def counted(self) -> bool:
        """Whether the queue of what is there now is known."""
        return self.seen is not None and self.queued is not None and self.queued.mark == self.seen.mark

    @property
    def work(self) -> bool:
        """Whether a night would have something to do."""
        if self.seen is None or self.seen.tip is None:
            return False
        return bool(self.seen.unfinished) or (self.counted and self.queued is not None and self.queued.items > 0)


@dataclass
class Night:
    """The night that runs."""

    post: Post
    child: Running
    span: Span
    asked_at: float | None = None
    why: str = ""


class Daemon:
    """Loops until it is told to stop. `pid` and `since` are only shown."""

    def __init__(self, doors: Doors, pid: int) -> None:
        self.doors, self.pid, self.since = doors, pid, doors.now()
        self.posts: dict[str, Post] = {}
        self.terms = doors.terms()
        self.windows = doors.windows()
        self.night: Night | None = None
        self.counting: Post | None = None
        self.stopping = False
        self.stops = 0
        self.poll_at = 0.0
        self.clock = (doors.now(), doors.ticks(), doors.asleep_s())
        self.refused: dict[str, str] = {}  # the last word on what cannot be read, so that it is said once

    # --- the loop ---

    def loop(self) -> None:
        self._reload()
        while not self.stopping:
            self.tick()
            for event in self.doors.wait(self.pause()):
                self.heed(event)
        self._end()

    def tick(self) -> None:
        """Everything that is due now."""
        self._time()
        ticks = self.doors.ticks()
        if ticks >= self.poll_at:
            self._settings()
            for post in list(self.posts.values()):
                self._watch(post)
                self._look(post)
            self.poll_at = ticks + self.terms.poll_s
        for post in list(self.posts.values()):
            if post.look_at is not None and ticks >= post.look_at:
                post.look_at = None
                self._look(post)
        self._attend()
        if self.night is None:
            self._begin()
        self._count()
        self.doors.tell(self.status())

    def pause(self) -> float:
        """How long nothing will be due, as far as can be known, in seconds."""
        now, ticks = self.doors.now(), self.doors.ticks()
        waits = [self.poll_at - ticks, LONGEST_S]
        if self.night is not None and self.night.asked_at is not None:
            waits.append(ASKED_S)
        for post in self.posts.values():
            if post.look_at is not None:
                waits.append(post.look_at - ticks)
            if not post.counted and self.counting is None:
                waits.append(max(post.moved_at + QUIET_S, post.count_at) - ticks)
            if post.work and self.night is None:
                waits.append(post.not_before - ticks if post.not_before > ticks else LONGEST_S)
            found = self.span(post, now)
            waits.append(((found.end if found.holds(now) else found.start) - now).total_seconds())
        return max(0.01, min(wait for wait in waits if wait > 0) if any(wait > 0 for wait in waits) else 0.01)

    def heed(self, event: Event) -> None:
        match event.kind:
            case "stop":
                self.stopping = True
                self.stops += 1
            case "reload":
                self._reload()
            case "rang" | "nudge":
                rung = [post for post in self.posts.values() if event.about in (post.entry.common, post.entry.root)]
                for post in rung or list(self.posts.values()):
                    self._look(post)
                    post.look_at = self.doors.ticks() + AGAIN_S
            case "surveyed":
                self._counted(event)
            case "ended":  # a night: the next tick looks at it
                pass

    # --- time ---

    def _time(self) -> None:
        """Say when the machine slept or its clock was set; nothing counts on either."""
        before, self.clock = self.clock, (self.doors.now(), self.doors.ticks(), self.doors.asleep_s())
        slept = self.clock[2] - before[2]
        if slept > SLEPT_S:
            self.doors.say(f"the machine slept {max(1, round(slept / 60))} min; what was missed is not made up for")
            self.poll_at = 0.0
        leap = (self.clock[0] - before[0]).total_seconds() - (self.clock[1] - before[1]) - slept
        if abs(leap) > SET_S:
            self.doors.say(f"the clock was set {'forward' if leap > 0 else 'back'} by {round(abs(leap) / 60)} min")

    def span(self, post: Post, now: datetime) -> Span:
        """The window of a repository that holds `now`, or its next one."""
        try:
            own = windowing.parse(post.entry.window) if post.entry.window else self.terms.window
        except PantheonError:  # a list that somebody wrote by hand
            own = self.terms.window
        return windowing.upcoming(own, self.terms.zone, now, self.windows.used.get(post.entry.common, ()))

    # --- what is watched ---

    def _settings(self) -> None:
        try:
            self.terms = self.doors.terms()
            self.refused.pop("settings", None)
        except PantheonError as error:
            self._refused("settings", f"{error}; the settings before stay in force")

    def _refused(self, what: str, why: str) -> None:
        if self.refused.get(what) != why:
            self.refused[what] = why
            self.doors.say(printable(why))

    def _reload(self) -> None:
        """Read the settings and the list again."""
        self._settings()
        try:
            entries = {entry.common: entry for entry in self.doors.watched()}
            self.refused.pop("list", None)
        except PantheonError as error:
            self._refused("list", str(error))
            return
        for common in [name for name in self.posts if name not in entries]:
            gone = self.posts.pop(common)
            if self.night is not None and self.night.post is gone:
                self._ask(self.night, "its repository is no longer watched")
            self.doors.leave(gone.entry)
            self.doors.say(f"{gone.name}: no longer watched")
        for common, entry in entries.items():
            post = self.posts.get(common)
            if post is None or post.entry.branch != entry.branch:
                self.posts[common] = post = Post(entry)
                self.doors.say(f"{post.name}: watching {printable(entry.branch)}")
                self._watch(post)
                self._settle(post)
                self._look(post)
            post.entry = entry

    def _watch(self, post: Post) -> None:
        why = self.doors.begin(post.entry)
        if why:
            self._refused(f"watch {post.entry.common}", f"{post.name}: only looked at now and then: {why}")

    def _look(self, post: Post) -> None:
        """Read the refs; tell what changed, and have the queue counted anew."""
        try:
            seen = self.doors.look(post.entry)
        except PantheonError as error:
            self._refused(f"look {post.entry.common}", f"{post.name}: {error}")
            post.seen, post.trouble = None, str(error)
            return
        if self.refused.pop(f"look {post.entry.common}", None) is not None:
            post.trouble = ""
        before, post.seen = post.seen, seen
        if before is not None and before.mark == seen.mark and before.unfinished == seen.unfinished:
            return
        if before is None or before.mark != seen.mark:
            post.moved_at, post.count_at, post.not_before, post.failed = self.doors.ticks(), 0.0, 0.0, 0
        if seen.tip is None:
            self.doors.say(f"{post.name}: there is no branch {printable(post.entry.branch)}")
        elif before is not None and before.tip != seen.tip:
            self._moved(post, before.tip, seen.tip)

    def _moved(self, post: Post, old: str | None, new: str) -> None:
        try:
            found = self.doors.changes(post.entry, old, new) if old else ()
        except PantheonError as error:
            self.doors.say(printable(f"{post.entry.root}: {error}"))
            return
        self.doors.say(f"{post.name}: {printable(post.entry.branch)} is at {new[:12]}")
        for change in found:
            said = f": {change.said}" if change.said else ""
            self.doors.say(printable(f"{post.entry.root}: task {change.path} {change.what}{said}"))
            post.changes.append(change.model_copy(update={"when": self.doors.now()}))
        del post.changes[:-EVENTS]

    # --- the queue ---

    def _count(self) -> None:
        """Have one queue counted, of a branch that lies still."""
        ticks = self.doors.ticks()
        if self.counting is not None:
            return
        for post in self.posts.values():
            seen = post.seen
            if seen is None or seen.tip is None or post.counted or ticks < max(post.moved_at + QUIET_S, post.count_at):
                continue
            self.counting = post
            self.doors.survey(post.entry, seen.mark)
            return

    def _counted(self, event: Event) -> None:
        post, self.counting = self.counting, None
        if post is None or self.posts.get(event.about) is not post:
            return
        if event.queued is None:
            post.trouble = event.why
            post.count_at = self.doors.ticks() + BACKOFF_S[1]
            self._refused(f"count {event.about}", f"{post.name}: {event.why}")
            return
        if self.refused.pop(f"count {event.about}", None) is not None:
            post.trouble = ""
        before = (post.queued.tasks, post.queued.items) if post.queued else None
        post.queued = event.queued
        if before != (post.queued.tasks, post.queued.items):
            count = f"{many(post.queued.tasks, 'task')}, {many(post.queued.items, 'item')}"
            self.doors.say(f"{post.name}: {count} queued")

    # --- nights ---

    def _ready(self, post: Post, now: datetime) -> Span | None:
        """The window in which this repository's night could start right now."""
        found = self.span(post, now)
        if not post.work or not found.holds(now) or (found.end - now).total_seconds() < LEAST_S:
            return None
        return None if self.doors.ticks() < post.not_before else found

    def _begin(self) -> None:
        """Start the night of the repository that waited longest, with its share of what is left of the window."""
        now = self.doors.now()
        waiting = [(post, found) for post in self.posts.values() if (found := self._ready(post, now)) is not None]
        if not waiting or (self.doors.on_battery() and not self.terms.on_battery):
            return
        post, span = min(waiting, key=lambda one: one[0].turn)
        assert post.seen is not None and post.seen.tip is not None
        try:
            limit_s = self.doors.limit_s(post.entry, post.seen.tip)
            last = self.doors.last(post.entry)
            budget_s = max(1.0, min(limit_s, windowing.share_s(span, now, len(waiting))))
            begun = Begun(key=span.key, start=span.start, before=last.id if last else "")
            self._keep(self.windows.with_begun(post.entry.common, begun))
            child = self.doors.night(post.entry, budget_s, self.terms)
        except PantheonError as error:
            self._failed(post, str(error))
            return
        post.turn = self.doors.ticks()
        self.night = Night(post, child, span)
        verb = f"night {post.seen.unfinished} goes on" if post.seen.unfinished else "a night begins"
        self.doors.say(f"{post.name}: {verb} on {printable(post.entry.branch)}, for {report.span(budget_s)} at most")

    def _attend(self) -> None:
        """The night that runs: did it end, or should it?"""
        night = self.night
        if night is None:
            return
        if not night.child.alive():
            self.night = None
            self._ended(night)
            return
        if night.asked_at is not None:
            if self.doors.ticks() - night.asked_at > STOP_S:
                night.child.kill()
        elif self.doors.now() > night.span.end + timedelta(seconds=OVERTIME_S):
            self._ask(night, "its window is over")
        elif self.doors.on_battery() and not self.terms.on_battery:
            self._ask(night, "the machine went on battery")

    def _ask(self, night: Night, why: str) -> None:
        if night.asked_at is None:
            night.asked_at, night.why = self.doors.ticks(), why
            night.child.ask()
            self.doors.say(f"{night.post.name}: the night is interrupted: {why}")

    def _ended(self, night: Night) -> None:
        post, code = night.post, night.child.code()
        done = self._settle(post)
        if done is not None:
            post.failed, post.trouble = 0, ""
            self.doors.say(f"{post.name}: {done.line}")
        elif night.asked_at is not None:
            self.doors.say(f"{post.name}: the night was interrupted; it goes on in the next window")
        elif code == 0 and post.seen is not None and not post.seen.unfinished:
            self.doors.say(f"{post.name}: there was nothing to do")
            post.queued = Queued(mark=post.seen.mark, tasks=0, items=0)
        else:
            self._failed(post, night.child.last_words() or f"it ended with {code}")
        self._look(post)

    def _failed(self, post: Post, why: str) -> None:
        wait = BACKOFF_S[min(post.failed, len(BACKOFF_S) - 1)]
        post.failed += 1
        post.not_before, post.trouble = self.doors.ticks() + wait, why
        self.doors.say(printable(f"{post.entry.root}: the night failed: {why}; tried again in {round(wait / 60)} min"))

    def _settle(self, post: Post) -> Ended | None:
        """What came of the night that was begun last: its report, which uses up its window if it began in there."""
        begun = self.windows.begun.get(post.entry.common)
        if begun is None:
            return None
        try:
            last = self.doors.last(post.entry)
        except PantheonError as error:
            self.doors.say(printable(f"{post.entry.root}: {error}"))
            return None
        found = self.windows.with_begun(post.entry.common, None)
        ended = last if last is not None and last.id != begun.before else None
        if ended is not None and ended.started_at >= begun.start.replace(microsecond=0):
            found = found.with_used(post.entry.common, begun.key)
        self._keep(found)
        return ended

    def _keep(self, windows: Windows) -> None:
        self.windows = windows
        try:
            self.doors.keep(windows)
        except PantheonError as error:  # it is known as long as we live
            self._refused("keep", str(error))

    # --- the end, and what is told ---

    def _end(self) -> None:
        """Have the night end cleanly; a second word to stop kills it."""
        night = self.night
        if night is not None:
            self._ask(night, "the daemon stops")
            deadline = self.doors.ticks() + STOP_S
            while night.child.alive():
                if self.stops > 1 or self.doors.ticks() > deadline:
                    night.child.kill()
                for event in self.doors.wait(ASKED_S):
                    self.stops += event.kind == "stop"
            self._settle(night.post)
        for post in self.posts.values():
            self.doors.leave(post.entry)
        self.doors.say("stopped")

    def status(self) -> Status:
        battery = self.doors.on_battery()
        return Status(
            pid=self.pid,
            since=self.since,
            zone=self.terms.zone_name,
            battery=battery,
            repositories=tuple(self._post_status(post, battery) for post in self.posts.values()),
        )

    def _post_status(self, post: Post, battery: bool) -> PostStatus:
        now = self.doors.now()
        found = self.span(post, now)
        counted = post.queued if post.counted else None
        return PostStatus(
            root=post.entry.root,
            common=post.entry.common,
            branch=post.entry.branch,
            tip=post.seen.tip if post.seen else None,
            tasks=counted.tasks if counted else None,
            items=counted.items if counted else None,
            window=f"{found.key.split(' ', 1)[1]}",
            starts=found.start,
            ends=found.end,
            open=found.holds(now),
            state=self._state(post, found, now, battery),
            trouble=post.trouble,
            changes=tuple(post.changes),
        )

    def _state(self, post: Post, found: Span, now: datetime, battery: bool) -> str:
        night = self.night
        if night is not None and night.post is post:
            return f"a night runs{', and is ending: ' + night.why if night.why else ''}"
        if post.seen is None or post.seen.tip is None:
            return "cannot be read" if post.seen is None else "its branch is not there"
        start = found.start.astimezone(self.terms.zone)
        if not found.holds(now):
            return f"next night at {start:%Y-%m-%d %H:%M}"
        if battery and not self.terms.on_battery:
            return "in its window, waits for mains power"
        if post.work:
            after = self.doors.ticks() < post.not_before
            return "in its window, tried again later" if after else "in its window, waits for its turn"
        return "in its window, nothing is queued" if post.counted else "in its window, the queue is being counted"
