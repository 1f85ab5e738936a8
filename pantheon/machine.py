"""What the daemon asks the machine: its zone, its power, how long it slept, and who goes behind whom.

Owns no state. Starts no process: `in_background` gives the words in front of a command.
"""

from __future__ import annotations

import asyncio
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

# How far something goes behind, in steps of niceness.
LOOP_BEHIND = 10  # a night's event loop, behind its engine
CHECKS_BEHIND = 5  # a worker's checks, behind the engine
CHILD_BEHIND = 5  # a child in a sandbox: with 0 a fork bomb of root's reached 3000 processes, with 5 it never did
COUNT_BEHIND = 10  # the count of a queue by day, behind all else

# The niceness of our session. The kernel shares the processors out among sessions first (sched(7), autogroup), and a
# process's own niceness counts only within one: whoever shall yield to other sessions has to have a nice one.
GROUP = Path("/proc/self/autogroup")


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
    """What to put in front of a command so that it and its session yield to everything else; where a program is
    missing, less."""
    words = []
    if nice and shutil.which("nice"):
        group = '{ echo "$1" >' + str(GROUP) + '; } 2>/dev/null; shift; exec "$@"'
        words += ["/bin/sh", "-c", group, "sh", str(nice), "nice", "-n", str(nice)]
    return words + (["ionice", "-c", "3"] if idle_io and shutil.which("ionice") else [])


def nice_session(nice: int, child: int = 0) -> bool:
    """Make our session nice, or the one that a child leads; False: it leads none yet, or another try is needed."""
    try:
        if child and os.getsid(child) != child:
            return False
        (Path("/proc", str(child), GROUP.name) if child else GROUP).write_text(str(nice))
    except BlockingIOError:  # of ordinary users the kernel takes ten a second
        return False
    except OSError:
        pass  # the child has ended, or the kernel groups no sessions
    return True


def nice_of_children() -> int:
    """How nice the sessions of children shall be that this thread starts: as it is itself, where our session is nice
    too. A `nice` that was typed speaks of its own session only."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    try:
        return min(nice, int(GROUP.read_text().split()[-1])) if nice > 0 else 0
    except (OSError, IndexError):
        return 0


def give_way() -> None:
    """Let the children of the running event loop have the processors before it. A model computes in step with all of
    its threads: when the loop keeps one of them from a processor, the others wait with it.

    Nothing takes a niceness back: so the executor's threads, which start the children, are made first. And the session
    is made nice as well, unless it is that of a terminal: a child in a sandbox has one of its own.
    """
    count = min(32, (os.cpu_count() or 1) + 4)  # as asyncio's own executor has
    pool, met = ThreadPoolExecutor(count), threading.Barrier(count + 1)
    for _ in range(count):
        pool.submit(met.wait)
    met.wait()
    asyncio.get_running_loop().set_default_executor(pool)
    nice = os.nice(LOOP_BEHIND)  # of this thread
    while not os.isatty(0) and not nice_session(nice):
        time.sleep(0.05)
