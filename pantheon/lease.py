"""A lock that a dead or a stopped holder does not keep: a flock with an owner and a heartbeat in its file.

The flock is the lock; it dies with its last holder. The file says who holds it and when that process last was alive, by
the monotonic clock, which neither a changed wall clock nor a suspended machine moves. Whoever finds it held by a
process that said nothing for longer than the lease ends that process, with all that it started, and takes its place.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import ValidationError

from pantheon import faults, owner
from pantheon.errors import Busy
from pantheon.records import Record

LEASE_S = 120.0
BEAT_S = 5.0
END_S = 10.0  # how long a holder that died may take to be gone with all that it started
SIZE = 512  # bytes of the file: it is written whole, in one write
_POLL_S = 0.02


class Lease(Record):
    """What the file of a held lock says."""

    owner: owner.Owner
    beat_s: float  # of the monotonic clock


@contextlib.contextmanager
def hold(
    path: Path,
    *,
    lease_s: float = LEASE_S,
    beat_s: float = BEAT_S,
    told: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[int]:
    """Hold the lock at `path`; its descriptor. `told` hears of a holder that was ended. Raises Busy, OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not _taken(descriptor):
            _succeed(descriptor, lease_s, told, clock)
        try:
            with _beating(descriptor, beat_s, clock):
                yield descriptor
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def read(path: Path) -> Lease | None:
    """Who holds the lock at `path`, or did last; None where nobody does or it cannot be told."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return _read(descriptor)
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> Lease | None:
    with contextlib.suppress(OSError, ValidationError):
        return Lease.model_validate_json(os.pread(descriptor, SIZE, 0).rstrip(b" \n"))
    return None


def _taken(descriptor: int) -> bool:
    with contextlib.suppress(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        faults.point("lease taken")
        return True
    return False


def _succeed(descriptor: int, lease_s: float, told: Callable[[str], None], clock: Callable[[], float]) -> None:
    """Take the lock of a holder that is dead, or that is silent for longer than the lease and is ended for it."""
    until: float | None = None
    while not _taken(descriptor):
        lease = _read(descriptor)
        if lease is None or not lease.owner.known:
            raise Busy("the lock is held", "", "by a process that does not say who it is")
        silent_s = clock() - lease.beat_s
        if lease.owner.alive():
            if silent_s <= lease_s:
                raise Busy("the lock is held", str(lease.owner.pid), f"by process {lease.owner.pid}")
            if not lease.owner.end(END_S):
                why = f"by process {lease.owner.pid}, which is silent for {silent_s:.0f} s and cannot be ended"
                raise Busy("the lock is held", str(lease.owner.pid), why, f"kill -9 {lease.owner.pid}")
            told(f"process {lease.owner.pid} held the lock and was silent for {silent_s:.0f} s: it was ended")
        if until is None:
            until = clock() + END_S
        elif clock() > until:
            raise Busy("the lock is held", "", f"by what process {lease.owner.pid} started before it died")
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _beating(descriptor: int, beat_s: float, clock: Callable[[], float]) -> Iterator[None]:
    """Say that we are alive, now and every few seconds, until the context ends."""
    mine, ended = owner.me(), threading.Event()

    def beat() -> None:
        text = Lease(owner=mine, beat_s=clock()).to_json().encode()
        os.pwrite(descriptor, text.ljust(SIZE - 1) + b"\n", 0)

    def beats() -> None:
        while not ended.wait(beat_s):
            with contextlib.suppress(OSError):  # a full disk: the file has its size already, the next beat may do
                beat()

    beat()
    thread = threading.Thread(target=beats, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
