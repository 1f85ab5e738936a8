"""git's own garbage collection, kept from running while a night does, by git's own means.

Owns `gc.pid` in the common git dir for as long as a night runs. git believes the file while it is younger than 12 hours
and its process lives, so a killed night's is harmless. What a real gc holds is never overwritten. It stops neither
`git gc --force` nor `git prune`, which do not ask.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

FILE = "gc.pid"
BELIEVED_S = 12 * 3600.0  # as git does, by the file's time of change
REFRESH_S = 600.0
WAIT_S = 10.0  # for a gc that is about to end
_CONTENT = re.compile(rb"([0-9]{1,10}) (\S{1,255})\s*")


@contextlib.contextmanager
def held(
    common_dir: Path,
    say: Callable[[str], None] = lambda _: None,
    wait_s: float = WAIT_S,
    refresh_s: float = REFRESH_S,
) -> Iterator[bool]:
    """Hold `gc.pid`, and give whether it is ours. Where a gc runs it is told to `say`, and the file is taken as soon as
    that one ends: what the night needs is reached by its refs or younger than what a gc takes by itself."""
    path = common_dir / FILE
    mine = f"{os.getpid()} {socket.gethostname()}\n".encode()
    deadline = time.monotonic() + wait_s
    while not (ours := _take(path, mine)) and time.monotonic() < deadline:
        time.sleep(0.1)
    if not ours:
        say(f"git gc runs here ({_holder(path)}); the night starts beside it")
    done = threading.Event()
    keeper = threading.Thread(target=_keep, args=(path, mine, done, refresh_s), daemon=True)
    keeper.start()
    try:
        yield ours
    finally:
        done.set()
        keeper.join()
        with contextlib.suppress(OSError):
            if path.read_bytes() == mine:
                path.unlink()


def _keep(path: Path, mine: bytes, done: threading.Event, refresh_s: float) -> None:
    """Keep the file young while it is ours; take it where it is free."""
    while not done.wait(refresh_s):
        with contextlib.suppress(OSError):
            if path.read_bytes() == mine:
                os.utime(path)
                continue
        _take(path, mine)


def _take(path: Path, mine: bytes) -> bool:
    """Write the file as git does, lock file first, unless somebody holds it."""
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except OSError:
        return False  # a gc begins or ends at this moment, or the disk is read-only: what writes next will say so
    try:
        with os.fdopen(descriptor, "wb") as file:
            if _believed(path):
                return False
            file.write(mine)
        os.replace(lock, path)
        return True
    except OSError:
        return False
    finally:
        lock.unlink(missing_ok=True)


def _believed(path: Path) -> bool:
    """Whether git would believe that a gc runs. What has the form of none counts for nothing."""
    try:
        age = time.time() - path.stat().st_mtime
        found = _CONTENT.match(path.read_bytes())
    except OSError:
        return False
    if found is None or age > BELIEVED_S:
        return False
    if os.fsdecode(found[2]) != socket.gethostname():
        return True
    try:
        os.kill(int(found[1]), 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        found = _CONTENT.match(path.read_bytes())
        if found is not None:
            return f"process {int(found[1])}"
    return "it begins or ends just now"
