"""What a disk gives and takes: room, and the lock files that the dead left."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

LEAST = 64 << 10  # bytes that a disk has to have free, or what cannot be written was too much for it


def is_full(place: Path) -> bool:
    """Whether a disk has no bytes or no files left to give."""
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize < LEAST or (found.f_files > 0 and found.f_favail == 0)


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
