"""The daemon's loop, on a clock of its own: what is started when, and what is not started twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pantheon import window as windowing
from pantheon.daemon import (
    BACKOFF_S,
    OVERTIME_S,
    STOP_S,
    Daemon,
    Ended,
    Event,
    Queued,
    Seen,
    Status,
    TaskChange,
    Terms,
)
from pantheon.errors import ConfigError, PantheonError, RepositoryError
from pantheon.roster import Watched, Windows

BERLIN = ZoneInfo("Europe/Berlin")
HOUR = 3600.0


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=BERLIN).astimezone(UTC)


class FakeNight:
    """A night that takes `lasts_s`, and then left a report, failed, or found nothing."""

    def __init__(self, world: World, entry: Watched, lasts_s: float, result: str) -> None:
        self.world, self.entry, self.result = world, entry, result
        self.ends = world.mono + lasts_s
        self.asked = self.killed = self.settled = False
        self.deaf = False
        self.began = world.wall

    def alive(self) -> bool:
        if self.killed or (self.asked and not self.deaf):
            return False
        if self.world.mono < self.ends:
            return True
        if not self.settled and self.result in ("report", "resumed"):
            self.settled = True
            self.world.report(self.entry, self.began if self.result == "report" else self.began - timedelta(days=1))
        return False

    def ask(self) -> None:
        self.asked = True
        if not self.deaf:
            self.world.unfinished[self.entry.common] = "2026-06-01-1"

    def kill(self) -> None:
        self.killed = True

    def code(self) -> int:
        return 0 if self.result in ("report", "resumed", "nothing") else 1

    def last_words(self) -> str:
        return "no sandbox, no night"


class World:
    """Doors to nothing: time goes by only in `wait`."""

    def __init__(self, now: str, window: str = "22:00-06:00", **options: object) -> None:
        self.wall, self.mono, self.slept = at(now), 1000.0, 0.0
        self.window, self.options = window, options
        self.entries: list[Watched] = []
        self.tips: dict[str, str | None] = {}
        self.items: dict[str, int] = {}
        self.unfinished: dict[str, str] = {}
        self.reports: dict[str, list[Ended]] = {}
        self.kept = Windows()
        self.script: list[tuple[float, Callable[[], Sequence[Event] | None]]] = []
        self.until = float("inf")
        self.nights: list[FakeNight] = []
        self.started: list[tuple[str, str, float]] = []  # (wall time, root, budget)
        self.said: list[str] = []
        self.counted: list[str] = []
        self.begun: list[str] = []
        self.battery = False
        self.lasts_s, self.result, self.deaf = HOUR, "report", False
        self.told: Status | None = None
        self.broken: PantheonError | None = None
        self.waits: list[float] = []

    # --- what a test does ---

    def repository(self, name: str = "a", items: int = 3, window: str = "") -> Watched:
        entry = Watched(root=f"/{name}", common=f"/{name}/.git", branch="main", window=window, since=self.wall)
        self.entries.append(entry)
        self.tips[entry.common], self.items[entry.common] = f"{name}{'0' * 39}", items
        return entry

    def when(self, text: str, do: Callable[[], Sequence[Event] | None]) -> None:
        """Have something happen at a wall time, on the clock as it is now."""
        self.script.append((self.mono + (at(text) - self.wall).total_seconds(), do))
        self.script.sort(key=lambda one: one[0])

    def commit(self, entry: Watched, tip: str, items: int) -> Callable[[], Sequence[Event]]:
        def do() -> Sequence[Event]:
            self.tips[entry.common], self.items[entry.common] = tip + "0" * (40 - len(tip)), items
            return [Event(kind="rang", about=entry.common)]

        return do

    def report(self, entry: Watched, began: datetime) -> None:
        found = self.reports.setdefault(entry.common, [])
        found.append(Ended(id=f"n{len(found) + 1}", started_at=began, line=f"night n{len(found) + 1} ended"))
        self.items[entry.common] = 0
        self.unfinished.pop(entry.common, None)
        self.tips[entry.common] = str(self.tips[entry.common])[:-1] + "1"  # a PR is there now: the mark moves

    def run(self, until: str) -> Daemon:
        self.until = self.mono + (at(until) - self.wall).total_seconds()
        daemon = Daemon(self, 7)
        daemon.loop()
        return daemon

    def starts(self) -> list[str]:
        return [when for when, _, _ in self.started]

    # --- the doors ---

    def now(self) -> datetime:
        return self.wall

    def ticks(self) -> float:
        return self.mono

    def asleep_s(self) -> float:
        return self.slept

    def sleep(self, seconds: float) -> None:
        self.wall, self.slept = self.wall + timedelta(seconds=seconds), self.slept + seconds

    def wait(self, timeout_s: float) -> list[Event]:
        assert timeout_s > 0
        self.waits.append(timeout_s)
        assert len(self.waits) < 200_000, "the loop spins"
        target = min(self.mono + timeout_s, self.until)
        if self.script and self.script[0][0] <= target:
            target, do = self.script.pop(0)
            self._pass(target)
            return list(do() or ())
        self._pass(target)
        return [Event(kind="stop")] if target == self.until else []

    def _pass(self, target: float) -> None:
        step = max(0.0, target - self.mono)
        self.mono, self.wall = self.mono + step, self.wall + timedelta(seconds=step)

    def terms(self) -> Terms:
        if self.broken is not None:
            raise self.broken
        values = {"on_battery": False, "nice": 10, "idle_io": True, "poll_s": 30.0} | self.options
        return Terms(windowing.parse(self.window), BERLIN, "Europe/Berlin", **values)  # type: ignore[arg-type]

    def watched(self) -> tuple[Watched, ...]:
        return tuple(self.entries)

    def windows(self) -> Windows:
        return self.kept

    def keep(self, windows: Windows) -> None:
        self.kept = windows

    def begin(self, entry: Watched) -> str:
        self.begun.append(entry.root)
        return ""

    def leave(self, entry: Watched) -> None:
        self.begun = [root for root in self.begun if root != entry.root]

    def look(self, entry: Watched) -> Seen:
        tip = self.tips[entry.common]
        if tip == "gone":
            raise RepositoryError("not a git repository", entry.root)
        return Seen(
            tip=tip, mark=f"{tip} {self.unfinished.get(entry.common)}", unfinished=self.unfinished.get(entry.common, "")
        )

    def changes(self, entry: Watched, old: str, new: str) -> Sequence[TaskChange]:
        return [TaskChange(path=f"tasks/{new[0]}.md", what="added")]

    def survey(self, entry: Watched, mark: str) -> None:
        self.counted.append(f"{self.wall.astimezone(BERLIN):%H:%M} {entry.root}")
        count = self.items[entry.common]
        queued = Queued(mark=mark, tasks=min(1, count), items=count) if count >= 0 else None
        event = Event(kind="surveyed", about=entry.common, queued=queued, why="" if queued else "cannot use the task")
        self.script.insert(0, (self.mono, lambda: [event]))

    def limit_s(self, entry: Watched, tip: str) -> float:
        return 6 * HOUR

    def last(self, entry: Watched) -> Ended | None:
        found = self.reports.get(entry.common)
        return found[-1] if found else None

    def night(self, entry: Watched, budget_s: float, terms: Terms) -> FakeNight:
        assert all(not night.alive() for night in self.nights), "two nights at once"
        self.started.append((f"{self.wall.astimezone(BERLIN):%d %H:%M}", entry.root, budget_s))
        night = FakeNight(self, entry, min(self.lasts_s, budget_s), self.result)
        night.deaf = self.deaf
        self.script.append((night.ends, lambda: [Event(kind="ended", about=entry.common)]))
        self.script.sort(key=lambda one: one[0])
        self.nights.append(night)
        return night

    def on_battery(self) -> bool:
        return self.battery

    def say(self, text: str) -> None:
        self.said.append(text)

    def tell(self, status: Status) -> None:
        self.told = status


def test_one_night_per_window_and_one_window_per_day() -> None:
    world = World("2026-06-01T12:00")
    entry = world.repository()
    world.when("2026-06-02T12:00", world.commit(entry, "b", 5))
    world.run("2026-06-04T12:00")
    assert world.starts() == ["01 22:00", "02 22:00"]
    assert world.kept.used == {entry.common: ("2026-06-01 22:00-06:00", "2026-06-02 22:00-06:00")}
    assert world.kept.begun == {}


def test_the_budget_is_what_is_left_of_the_window_and_no_more_than_the_repository_wants() -> None:
    world = World("2026-06-01T12:00")
    world.repository()
    world.run("2026-06-02T00:00")
    assert world.started == [("01 22:00", "/a", 6 * HOUR)]
    late = World("2026-06-02T05:00")
    late.repository()
    late.run("2026-06-02T05:30")
    ((_, _, budget),) = late.started
    assert HOUR - 5 < budget < HOUR


def test_nothing_is_started_outside_the_window_or_without_work() -> None:
    world = World("2026-06-01T06:00")
    world.repository("a", items=4)
    world.repository("b", items=0)
    world.run("2026-06-01T21:59")
    assert world.started == []
    world = World("2026-06-01T22:30")
    world.repository("b", items=0)
    world.run("2026-06-02T07:00")
    assert world.started == []
    assert len(world.counted) == 1


def test_the_last_minute_of_a_window_is_not_worth_a_night() -> None:
    world = World("2026-06-02T05:59:10")
    world.repository()
    world.run("2026-06-02T06:30")
    assert world.started == []


def test_a_task_committed_inside_the_window_starts_a_night_when_nothing_was_queued() -> None:
    world = World("2026-06-01T21:00")
    entry = world.repository(items=0)
    world.when("2026-06-01T23:10", world.commit(entry, "b", 2))
    world.run("2026-06-02T12:00")
    assert world.starts() == ["01 23:10"]
    assert any("task tasks/b.md added" in line for line in world.said)


def test_a_commit_during_the_night_waits_for_the_next_one() -> None:
    world = World("2026-06-01T21:00")
    entry = world.repository()
    world.lasts_s = 2 * HOUR
    world.when("2026-06-01T23:00", world.commit(entry, "b", 9))
    world.when("2026-06-02T00:30", world.commit(entry, "c", 9))
    world.run("2026-06-02T23:00")
    assert world.starts() == ["01 22:00", "02 22:00"]


def test_a_commit_is_told_at_once_and_its_queue_is_counted_when_the_branch_lies_still() -> None:
    world = World("2026-06-01T12:00")
    entry = world.repository()
    for second in range(10):
        world.when(f"2026-06-01T13:00:0{second}", world.commit(entry, f"b{second}", second))
    world.run("2026-06-01T14:00")
    assert sum("task tasks/b.md added" in line for line in world.said) == 10
    assert world.counted == ["12:00 /a", "13:00 /a"]
    assert any("9 items queued" in line for line in world.said)


def test_a_silent_watch_is_made_good_by_the_poll() -> None:
    world = World("2026-06-01T12:00")
    entry = world.repository()
    world.when("2026-06-01T13:00:05", lambda: world.commit(entry, "b", 2)() and None)  # nothing rings
    world.when("2026-06-01T13:00:40", lambda: [])
    world.run("2026-06-01T13:00:45")
    assert any("task tasks/b.md added" in line for line in world.said)


def test_an_interrupted_night_resumes_within_its_window() -> None:
    world = World("2026-06-01T21:00")
    entry = world.repository()
    world.result = "failed"

    def killed() -> None:
        world.unfinished[entry.common] = "2026-06-01-1"
        world.nights[-1].ends = world.mono
        world.result = "report"

    world.when("2026-06-01T23:00", killed)
    world.lasts_s = 3 * HOUR
    world.run("2026-06-02T12:00")
    assert [root for _, root, _ in world.started] == ["/a", "/a"]
    assert world.starts()[0] == "01 22:00" and world.starts()[1].startswith("01 23:0")
    assert any("goes on" in line for line in world.said)


def test_what_is_left_of_yesterdays_night_does_not_use_up_tonight() -> None:
    world = World("2026-06-02T21:00")
    entry = world.repository()
    world.unfinished[entry.common] = "2026-06-01-1"
    world.result, world.lasts_s = "resumed", HOUR

    def more() -> Sequence[Event]:
        world.result = "report"
        return world.commit(entry, "c", 4)()

    world.when("2026-06-02T23:10", more)
    world.run("2026-06-03T12:00")
    assert world.starts() == ["02 22:00", "02 23:10"]
    assert world.kept.used == {entry.common: ("2026-06-02 22:00-06:00",)}


def test_a_restart_does_not_run_a_second_night() -> None:
    world = World("2026-06-01T21:00")
    entry = world.repository()
    world.run("2026-06-02T01:00")
    world.items[entry.common] = 5
    world.until = float("inf")
    world.run("2026-06-02T12:00")
    assert world.starts() == ["01 22:00"]


@pytest.mark.parametrize(("reported", "starts"), [(True, ["01 22:00"]), (False, ["01 22:00", "01 23:00"])])
def test_a_daemon_that_was_killed_is_told_by_git_whether_the_night_came_to_its_report(
    reported: bool, starts: list[str]
) -> None:
    world = World("2026-06-01T21:00")
    entry = world.repository()
    world.lasts_s = 5 * HOUR
    world.until = float("inf")

    class Killed(Exception):
        pass

    def kill() -> None:
        raise Killed

    world.when("2026-06-01T23:00", kill)
    with pytest.raises(Killed):
        world.run("2026-06-02T12:00")
    assert world.kept.begun[entry.common].key == "2026-06-01 22:00-06:00"
    world.nights[-1].killed = True  # it dies with the daemon
    if reported:
        world.report(entry, at("2026-06-01T22:00"))
        world.items[entry.common] = 7
    world.run("2026-06-02T12:00")
    assert world.starts() == starts
    assert world.kept.begun == {}


def test_after_a_suspend_nothing_is_made_up_for() -> None:
    world = World("2026-06-01T21:00")
    world.repository()
    world.when("2026-06-01T21:30", lambda: world.sleep(3 * 24 * HOUR))  # three windows pass
    world.run("2026-06-01T21:45")  # on the clock of those who were awake
    assert world.started == []
    assert any("the machine slept 4320 min" in line for line in world.said)
    assert f"{world.wall.astimezone(BERLIN):%d %H:%M}" == "04 21:45"


def test_a_night_that_slept_through_the_end_of_its_window_is_interrupted() -> None:
    world = World("2026-06-01T21:00")
    world.repository()
    world.lasts_s = 6 * HOUR
    world.when("2026-06-01T23:00", lambda: world.sleep(9 * HOUR))
    world.run("2026-06-01T23:30")
    assert world.nights[0].asked
    assert any("its window is over" in line for line in world.said)
    assert world.starts() == ["01 22:00"]


def test_a_night_may_write_its_report_after_the_window() -> None:
    world = World("2026-06-02T04:00")
    world.repository()
    daemon_end = at("2026-06-02T06:00") + timedelta(seconds=OVERTIME_S)
    world.lasts_s = 2 * HOUR
    world.run("2026-06-02T07:00")
    assert not world.nights[0].asked and world.reports
    slow = World("2026-06-02T04:00")
    slow.repository()
    slow.when("2026-06-02T04:30", lambda: setattr(slow.nights[0], "ends", slow.mono + 9 * HOUR))
    slow.run("2026-06-02T07:00")
    assert slow.nights[0].asked
    assert daemon_end < slow.wall


@pytest.mark.parametrize("hours", [-30, -2, 2, 30])
def test_a_clock_that_is_set_brings_no_second_night(hours: int) -> None:
    world = World("2026-06-01T21:00")
    entry = world.repository()

    def jump() -> None:
        world.wall += timedelta(hours=hours)
        world.items[entry.common] = 5
        world.tips[entry.common] = "d" * 40

    world.when("2026-06-02T00:00", jump)
    world.run("2026-06-02T08:30")
    assert any("the clock was set" in line for line in world.said)
    keys = world.kept.used[entry.common]
    assert len(keys) == len(set(keys)) == len(world.started)


def test_daylight_saving_gives_the_night_what_the_wall_clock_says() -> None:
    world = World("2026-03-28T21:00", window="01:00-04:00")
    world.repository()
    world.run("2026-03-29T12:00")
    assert world.started == [("29 01:00", "/a", 2 * HOUR)]


def test_on_battery_no_night_begins_and_one_that_runs_is_interrupted_and_goes_on() -> None:
    world = World("2026-06-01T21:00")
    world.repository()
    world.battery, world.lasts_s = True, 3 * HOUR
    world.when("2026-06-01T23:00", lambda: setattr(world, "battery", False))
    world.when("2026-06-02T00:00", lambda: setattr(world, "battery", True))
    world.when("2026-06-02T01:00", lambda: setattr(world, "battery", False))
    world.run("2026-06-02T05:00")
    assert world.starts() == ["01 23:00", "02 01:00"]
    assert any("went on battery" in line for line in world.said)
    anyway = World("2026-06-01T21:00", on_battery=True)
    anyway.repository()
    anyway.battery = True
    anyway.run("2026-06-02T05:00")
    assert anyway.starts() == ["01 22:00"]


def test_several_repositories_take_turns_and_share_the_window() -> None:
    world = World("2026-06-01T21:00")
    for name in "abc":
        world.repository(name)
    world.lasts_s = 9 * HOUR
    world.run("2026-06-02T12:00")
    assert [root for _, root, _ in world.started] == ["/a", "/b", "/c"]
    first, second, third = (budget for _, _, budget in world.started)
    assert abs(first - 8 * HOUR / 3) < 60 and abs(second - first) < 60 and abs(third - first) < 60


def test_a_repository_may_have_a_window_of_its_own() -> None:
    world = World("2026-06-01T09:00")
    world.repository("a", window="12:00-13:00")
    world.repository("b")
    world.run("2026-06-02T00:00")
    assert [(when, root) for when, root, _ in world.started] == [("01 12:00", "/a"), ("01 22:00", "/b")]


def test_a_night_that_fails_is_tried_again_more_and_more_seldom_and_says_why() -> None:
    world = World("2026-06-01T21:59:55")
    world.repository()
    world.result, world.lasts_s = "failed", 1.0
    world.run("2026-06-01T23:00")
    expected = [0.0]
    while expected[-1] < HOUR:
        expected.append(expected[-1] + 2 + BACKOFF_S[min(len(expected) - 1, len(BACKOFF_S) - 1)])
    assert len(world.started) == len(expected) - 1
    assert any("no sandbox, no night; tried again in 5 min" in line for line in world.said)
    assert world.told is not None
    assert world.told.repositories[0].trouble == "no sandbox, no night"


def test_a_commit_ends_the_wait_after_a_failure_and_other_repositories_do_not_wait() -> None:
    world = World("2026-06-01T22:00")
    entry = world.repository("a")
    world.result, world.lasts_s = "failed", 1.0
    for minute in (1, 8):
        world.when(f"2026-06-01T22:{minute:02}:30", lambda: [])
    world.when("2026-06-01T22:10", lambda: setattr(world, "result", "report"))
    world.when("2026-06-01T22:11", world.commit(entry, "b", 2))
    world.run("2026-06-01T22:12")
    assert world.starts()[-1] == "01 22:11"
    assert len(world.kept.used[entry.common]) == 1


def test_a_night_that_found_nothing_leaves_the_window_open() -> None:
    world = World("2026-06-01T21:00")
    entry = world.repository()
    world.result, world.lasts_s = "nothing", 5.0

    def commit() -> Sequence[Event]:
        world.result = "report"
        return world.commit(entry, "b", 1)()

    world.when("2026-06-02T02:00", commit)
    world.run("2026-06-02T12:00")
    assert world.starts() == ["01 22:00", "02 02:00"]


def test_stop_interrupts_the_night_and_leaves_the_repositories() -> None:
    world = World("2026-06-01T21:00")
    world.repository("a")
    world.repository("b", items=0)
    world.lasts_s = 5 * HOUR
    world.run("2026-06-01T23:00")
    assert world.nights[0].asked and not world.nights[0].killed
    assert world.begun == []
    assert world.kept.begun == {} and world.kept.used == {}
    assert world.said[-1] == "stopped"


def test_a_night_that_does_not_end_is_killed_in_the_end() -> None:
    world = World("2026-06-01T21:00")
    world.repository()
    world.lasts_s, world.deaf = 5 * HOUR, True
    world.run("2026-06-01T23:00")
    assert world.nights[0].killed
    assert world.wall - at("2026-06-01T23:00") < timedelta(seconds=STOP_S + 5)


def test_a_repository_that_is_gone_or_without_its_branch_holds_up_nobody() -> None:
    world = World("2026-06-01T21:00")
    gone, other = world.repository("gone"), world.repository("b")
    bare = world.repository("c")
    world.tips[gone.common], world.tips[bare.common] = "gone", None
    world.run("2026-06-02T12:00")
    assert [root for _, root, _ in world.started] == [other.root]
    assert sum("not a git repository" in line for line in world.said) == 1
    assert sum("there is no branch main" in line for line in world.said) == 1


def test_a_repository_that_comes_back_is_taken_up_again() -> None:
    world = World("2026-06-01T21:00")
    entry = world.repository()
    tip, world.tips[entry.common] = world.tips[entry.common], "gone"
    world.when("2026-06-01T23:00", lambda: world.tips.update({entry.common: tip}))
    world.run("2026-06-02T01:00")
    assert len(world.started) == 1
    assert world.told is not None and world.told.repositories[0].trouble == ""


def test_reload_takes_up_new_repositories_and_lets_go_of_others() -> None:
    world = World("2026-06-01T12:00")
    world.repository("a")

    def change() -> Sequence[Event]:
        world.entries.clear()
        world.repository("b")
        return [Event(kind="reload")]

    world.when("2026-06-01T13:00", change)
    world.when("2026-06-01T14:00", lambda: setattr(world, "seen", list(world.begun)))
    world.run("2026-06-01T23:30")
    assert [root for _, root, _ in world.started] == ["/b"]
    assert "/a: no longer watched" in world.said


def test_settings_are_taken_up_without_a_restart_and_broken_ones_are_said_once() -> None:
    world = World("2026-06-01T12:00")
    world.repository()

    def broken() -> None:
        world.broken = ConfigError("cannot use", "config.toml", "unknown key 'windwo'", 2)

    def mended() -> None:
        world.broken, world.window = None, "15:00-16:00"

    world.when("2026-06-01T13:00", broken)
    world.when("2026-06-01T14:00", mended)
    world.run("2026-06-01T18:00")
    assert world.starts() == ["01 15:00"]
    assert sum("windwo" in line for line in world.said) == 1


def test_a_queue_that_cannot_be_counted_is_trouble_until_it_can() -> None:
    world = World("2026-06-01T12:00")
    entry = world.repository(items=-1)
    seen: list[str] = []
    world.when("2026-06-01T13:00", lambda: seen.append(world.told.repositories[0].trouble if world.told else ""))
    world.when("2026-06-01T13:01", world.commit(entry, "b", 2))
    world.run("2026-06-01T14:00")
    assert seen == ["cannot use the task"]
    assert world.told is not None
    assert (world.told.repositories[0].trouble, world.told.repositories[0].items) == ("", 2)
    assert sum("cannot use the task" in line for line in world.said) == 1


def test_the_loop_rests_when_there_is_nothing_to_do() -> None:
    world = World("2026-06-01T06:30", poll_s=600.0)
    world.repository()
    world.run("2026-06-01T21:30")
    assert len(world.waits) < 15 * 120 + 50


def test_a_nudge_with_a_path_that_nobody_knows_looks_at_all() -> None:
    world = World("2026-06-01T12:00", poll_s=100_000.0)
    entry = world.repository()
    world.when("2026-06-01T13:00", lambda: world.commit(entry, "b", 1)() and [Event(kind="nudge", about="/elsewhere")])
    world.run("2026-06-01T13:01")
    assert any("task tasks/b.md added" in line for line in world.said)
