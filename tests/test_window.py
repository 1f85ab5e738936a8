"""The night window, across midnight, daylight saving and clocks that are set: properties over real zones."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pantheon.errors import ConfigError
from pantheon.window import Window, instant, parse, share_s, span, upcoming

NAMES = (
    *("UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "America/St_Johns"),
    *("Africa/Casablanca", "America/Sao_Paulo", "Asia/Tehran", "Pacific/Apia", "Pacific/Kiritimati"),
)
zones = st.sampled_from(NAMES).map(ZoneInfo)
walls = st.times(min_value=time(0), max_value=time(23, 59)).map(lambda t: t.replace(second=0, microsecond=0))
windows = st.builds(Window, begins=walls, ends=walls)
seconds = st.integers(1_199_145_600, 2_082_758_400)  # 2008 to 2035
moments = seconds.map(lambda s: datetime.fromtimestamp(s, UTC))
BERLIN = ZoneInfo("Europe/Berlin")


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@given(windows, zones, moments)
def test_the_window_that_is_found_has_not_ended_and_is_the_first(window: Window, zone: ZoneInfo, now: datetime) -> None:
    found = upcoming(window, zone, now)
    assert now < found.end and found.start < found.end
    day = date.fromisoformat(found.key.split()[0])
    for back in range(1, 6):
        earlier = span(window, zone, day - timedelta(days=back))
        assert earlier.end <= now or earlier.start >= earlier.end


@given(windows, zones, moments)
def test_every_instant_inside_finds_the_same_window(window: Window, zone: ZoneInfo, now: datetime) -> None:
    found = upcoming(window, zone, now)
    inside = (found.end - found.start).total_seconds()
    for part in (0.0, 0.25, 0.5, 0.999):
        assert upcoming(window, zone, found.start + timedelta(seconds=inside * part)) == found
    assert upcoming(window, zone, found.end).start >= found.end


@given(windows, zones, moments)
def test_windows_never_overlap_and_none_is_longer_than_it_says(window: Window, zone: ZoneInfo, now: datetime) -> None:
    first = upcoming(window, zone, now)
    second = upcoming(window, zone, first.end)
    third = upcoming(window, zone, now, {first.key})
    assert second.start >= first.end
    assert third == second and third.key != first.key
    longest = timedelta(days=1, hours=25) if zone.key == "Pacific/Apia" else timedelta(hours=27)
    assert first.end - first.start <= longest


@given(windows, zones, moments, st.integers(-400, 400))
def test_a_used_window_is_used_whatever_the_clock_says(
    window: Window, zone: ZoneInfo, now: datetime, hours: int
) -> None:
    used = upcoming(window, zone, now)
    later = now + timedelta(hours=hours)  # the clock was set, or the machine slept
    assert upcoming(window, zone, later, [used.key]).key != used.key


@given(walls, zones, st.dates(date(2008, 1, 1), date(2036, 1, 1)))
@example(time(2, 30), BERLIN, date(2026, 3, 29))
@example(time(2, 30), BERLIN, date(2026, 10, 25))
@example(time(12, 0), ZoneInfo("Pacific/Apia"), date(2011, 12, 30))
def test_a_wall_time_is_its_first_coming_or_the_change_that_skips_it(wall: time, zone: ZoneInfo, day: date) -> None:
    found = instant(day, wall, zone)
    local = found.astimezone(zone)
    if local.replace(tzinfo=None) == datetime.combine(day, wall):
        assert local.fold == 0
    else:  # skipped: a second earlier the clock had not come to it, now it is past
        before = (found - timedelta(seconds=1)).astimezone(zone).replace(tzinfo=None)
        assert before < datetime.combine(day, wall) < local.replace(tzinfo=None)


@given(walls, walls, zones, st.dates(date(2008, 1, 1), date(2036, 1, 1)))
def test_wall_times_keep_their_order(one: time, other: time, zone: ZoneInfo, day: date) -> None:
    first, last = sorted((one, other))
    assert instant(day, first, zone) <= instant(day, last, zone) <= instant(day + timedelta(days=1), first, zone)


@pytest.mark.parametrize(
    ("now", "start", "end", "key"),
    [
        ("2026-06-01T12:00+02:00", "2026-06-01T22:00+02:00", "2026-06-02T06:00+02:00", "2026-06-01 22:00-06:00"),
        ("2026-06-02T05:59+02:00", "2026-06-01T22:00+02:00", "2026-06-02T06:00+02:00", "2026-06-01 22:00-06:00"),
        ("2026-06-02T06:00+02:00", "2026-06-02T22:00+02:00", "2026-06-03T06:00+02:00", "2026-06-02 22:00-06:00"),
        # seven hours when the clocks go forward, nine when they go back
        ("2026-03-28T23:00+01:00", "2026-03-28T22:00+01:00", "2026-03-29T06:00+02:00", "2026-03-28 22:00-06:00"),
        ("2026-10-24T23:00+02:00", "2026-10-24T22:00+02:00", "2026-10-25T06:00+01:00", "2026-10-24 22:00-06:00"),
    ],
)
def test_nights_of_berlin(now: str, start: str, end: str, key: str) -> None:
    found = upcoming(parse("22:00-06:00"), BERLIN, at(now))
    assert (found.start, found.end, found.key) == (at(start), at(end), key)
    assert found.holds(at(now)) == (at(start) <= at(now))


def test_a_window_inside_the_gap_is_skipped_that_day() -> None:
    found = upcoming(parse("02:10-02:50"), BERLIN, at("2026-03-28T12:00+01:00"))
    assert found.start == at("2026-03-30T02:10+02:00")


def test_a_window_in_the_hour_that_comes_twice_comes_once() -> None:
    first = upcoming(parse("02:10-02:50"), BERLIN, at("2026-10-25T01:00+02:00"))
    assert (first.start, first.end) == (at("2026-10-25T02:10+02:00"), at("2026-10-25T02:50+02:00"))
    assert upcoming(parse("02:10-02:50"), BERLIN, first.end).start == at("2026-10-26T02:10+01:00")


def test_the_same_time_twice_is_the_whole_day() -> None:
    found = upcoming(parse("00:00-00:00"), ZoneInfo("UTC"), at("2026-06-01T12:00+00:00"))
    assert found.end - found.start == timedelta(days=1)
    assert found.holds(at("2026-06-01T23:59+00:00"))


@given(windows)
def test_a_window_is_read_as_it_is_written(window: Window) -> None:
    assert parse(str(window)) == window
    assert parse(f"  {window.begins:%H:%M} - {window.ends:%H:%M} ") == window


@given(st.text(max_size=20))
def test_what_is_no_window_is_refused_with_an_example(text: str) -> None:
    try:
        parse(text)
    except ConfigError as error:
        assert "22:00-06:00" in str(error)


@pytest.mark.parametrize(
    "text", ["", "22-6", "24:00-06:00", "22:60-06:00", "22:00", "22:00-06:00-07:00", "٢٢:00-06:00"]
)
def test_these_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="two times of day"):
        parse(text)


def test_what_is_left_is_shared() -> None:
    found = upcoming(parse("22:00-06:00"), ZoneInfo("UTC"), at("2026-06-01T23:00+00:00"))
    assert share_s(found, at("2026-06-02T02:00+00:00"), 2) == 2 * 3600
    assert share_s(found, at("2026-06-02T05:00+00:00"), 1) == 3600
