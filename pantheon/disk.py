"""What a disk gives and takes: room, and the lock files that the dead left."""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

LEAST = 64 << 10  # bytes that a disk has to have free, or what cannot be written was too much for it


def is_full(place: Path) -> bool:
    """Whether a disk has no bytes or no files left to give."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize < LEAST or (found.f_files > 0 and found.f_favail == 0)


class Flushed:
    """The directories below which nothing is written that is not on its disk. Objects come by the dozen before each ref
    that leads to them: one flush before the ref is moved costs a tenth of one for each of them."""

    def __init__(self) -> None:
        self._clean: set[Path] = set()
        self._turn = threading.Lock()

    def soil(self, place: Path) -> None:
        """Something was written below `place`: told after it was, or a flush in between would count it as its own."""
        self._clean.discard(place)

    def flush(self, place: Path) -> None:
        """All that was written below `place` is on the disk when this returns, by us or by who died before. Raises
        OSError."""
        with self._turn:  # to the end of the flush: who comes meanwhile may have written what it is for
            if place in self._clean:
                return
            self._clean.add(place)  # first: what is written meanwhile waits for the next flush
            descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
                    self.soil(place)
                    raise OSError(ctypes.get_errno(), "the disk could not be flushed", str(place))
            finally:
                os.close(descriptor)


def clear_locks(locks: Sequence[Path], stale_s: float) -> None:
    """Remove lock files that nobody has touched for `stale_s`; a living git changes or drops its own in that time."""
    seen: dict[Path, tuple[tuple[int, int], float]] = {}
    while found := [(lock, info) for lock in locks if (info := _info_of(lock)) is not None]:
        for lock, info in found:
            mark = (info.st_ino, info.st_mtime_ns)
            if lock not in seen or seen[lock][0] != mark:
                seen[lock] = (mark, time.monotonic())
            elif time.monotonic() - seen[lock][1] >= stale_s:
                lock.unlink(missing_ok=True)
        time.sleep(0.05)


def _info_of(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
