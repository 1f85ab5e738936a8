"""The night window: which hours of the user's wall clock a night may take, as instants. Pure.

A window is two wall times. One that does not come on a day, because the clocks are put forward over it, means the
instant of that change; one that comes twice means its first coming. The window that ends where it begins lasts a whole
day. Nothing here counts time: it is asked with the time that it is now, so neither a suspended machine nor a clock that
was set can make a window come twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from pantheon.errors import ConfigError
from pantheon.records import Record

_FORM = re.compile(r"\s*(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)\s*", re.ASCII)
_BACK, _LOOK = 2, 4  # days: a zone has skipped a whole one


class Window(Record):
    """From one wall time to the next coming of another."""

    begins: time
    ends: time

    def __str__(self) -> str:
        return f"{self.begins:%H:%M}-{self.ends:%H:%M}"


class Span(Record):
    """One coming of a window: from `start` to before `end`, both UTC. `key` names it: the day it begins on there, and
    the window's words, so that another window of the same day is another."""

    key: str
    start: datetime
    end: datetime

    def holds(self, now: datetime) -> bool:
        return self.start <= now < self.end


def parse(text: str) -> Window:
    """`22:00-06:00`. Raises ConfigError."""
    found = _FORM.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        hours = [int(part) for part in found.groups()]
        return Window(begins=time(hours[0], hours[1]), ends=time(hours[2], hours[3]))
    except ValueError as error:
        raise ConfigError("cannot read the window", repr(text), "give two times of day, such as 22:00-06:00") from error


def instant(day: date, wall: time, zone: tzinfo) -> datetime:
    """When the clocks of a zone show a time on a day, in UTC."""
    naive = datetime.combine(day, wall)
    first, second = (naive.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:
        return first
    # The clocks skip it: before the change `second` is not there yet, after it `first` is past.
    before, after = int(second.timestamp()), int(first.timestamp())
    offset = second.astimezone(zone).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if datetime.fromtimestamp(middle, UTC).astimezone(zone).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return datetime.fromtimestamp(after, UTC)


def span(window: Window, zone: tzinfo, day: date) -> Span:
    """The window that begins on a day of the zone. It may be empty, where the clocks skip all of it."""
    until = day if window.begins < window.ends else day + timedelta(days=1)
    start, end = instant(day, window.begins, zone), instant(until, window.ends, zone)
    return Span(key=f"{day.isoformat()} {window}", start=start, end=end)


def upcoming(window: Window, zone: tzinfo, now: datetime, used: Collection[str] = ()) -> Span:
    """The window that holds `now`, else the next one; those whose key is in `used` are past."""
    today = now.astimezone(zone).date()
    for ahead in range(-_BACK, _LOOK + len(used)):
        found = span(window, zone, today + timedelta(days=ahead))
        if found.end > now and found.start < found.end and found.key not in used:
            return found
    raise ConfigError("cannot find the window", str(window), "no day has it")


def share_s(found: Span, now: datetime, waiting: int) -> float:
    """Seconds that a night may take now, where `waiting` repositories share what is left of the window."""
    return (found.end - now).total_seconds() / max(1, waiting)
