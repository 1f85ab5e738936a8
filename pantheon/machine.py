"""What the daemon asks the machine: its zone, its power, how long it slept, and how a child keeps out of the way.

Owns no state. Starts no process: `in_background` gives the words in front of a command.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, tzinfo
from difflib import get_close_matches
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from pantheon.errors import PantheonError

SUPPLIES = Path("/sys/class/power_supply")
LOCALTIME = Path("/etc/localtime")
BEHIND = 10  # niceness of a night's event loop to its engine's


def zone(name: str, environ: Mapping[str, str], localtime: Path = LOCALTIME) -> tzinfo:
    """The zone of a name; without one the machine's (TZ, else the system's, else UTC). Raises PantheonError."""
    given = name or environ.get("TZ", "").removeprefix(":")
    if given:
        try:
            return ZoneInfo(given)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            if name:
                near = get_close_matches(name, available_timezones(), n=1, cutoff=0.4)
                meant = f"; did you mean {near[0]!r}?" if near else ", such as 'Europe/Berlin'"
                raise PantheonError(
                    "no such time zone", repr(name), f"it is no name of the tz database{meant}"
                ) from error
    try:
        with localtime.open("rb") as data:
            return ZoneInfo.from_file(data, key=_name(localtime))
    except (OSError, ValueError):
        return UTC


def _name(localtime: Path) -> str:
    _, found, name = str(localtime.resolve()).partition("/zoneinfo/")
    return name if found else "local"


def on_battery(supplies: Path = SUPPLIES) -> bool:
    """Whether this machine lives off a battery now. A supply that says nothing usable counts as none."""
    batteries, discharging, mains = 0, False, []
    for supply in sorted(supplies.glob("*")):
        kind = _line(supply / "type")
        if kind in ("Mains", "USB", "Wireless"):
            mains.append(_line(supply / "online") == "1")
        elif kind == "Battery" and _line(supply / "scope") != "Device":  # that of a mouse is none
            batteries += 1
            discharging |= _line(supply / "status") == "Discharging"
    if not batteries or any(mains):
        return False
    return discharging or bool(mains)


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def asleep_s() -> float:
    """Seconds since boot in which the machine slept: what monotonic time leaves out."""
    before = time.monotonic()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - before


def in_background(nice: int, idle_io: bool) -> list[str]:
    """What to put in front of a command so that it yields to everything else; where a program is missing, less.

    The kernel shares the processors out among sessions first (sched(7), autogroup), and a niceness counts only within
    one: so the session is made nice as well.
    """
    words = []
    if nice and shutil.which("nice"):
        group = '{ echo "$1" >/proc/self/autogroup; } 2>/dev/null; shift; exec "$@"'
        words += ["/bin/sh", "-c", group, "sh", str(nice), "nice", "-n", str(nice)]
    return words + (["ionice", "-c", "3"] if idle_io and shutil.which("ionice") else [])


def give_way() -> None:
    """Let the children of the running event loop have the processors before it. A model computes in step with all of
    its threads: when the loop keeps one of them from a processor, the others wait with it.

    A niceness is a thread's, its children inherit it, and nothing takes it back: so the executor's threads, which start
    them, are made first. And the session is made nice as well (see above), unless it is that of a terminal: a child in
    a sandbox has one of its own.
    """
    count = min(32, (os.cpu_count() or 1) + 4)  # as asyncio's own executor has
    pool, met = ThreadPoolExecutor(count), threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(met.wait)
    met.wait()
    asyncio.get_running_loop().set_default_executor(pool)
    nice = min(19, os.getpriority(os.PRIO_PROCESS, 0) + BEHIND)
    os.setpriority(os.PRIO_PROCESS, 0, nice)  # of this thread
    if not os.isatty(0):
        with contextlib.suppress(OSError):  # a kernel that groups no sessions
            Path("/proc/self/autogroup").write_text(str(nice))
