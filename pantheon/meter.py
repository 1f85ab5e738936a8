"""What a child uses, seen from outside: threads, memory and CPU time of a process tree, and the growth of directories.

Owns the counting only; process.py decides what is too much. Nothing here follows a link, waits or raises for what
vanishes while it is counted. Does not cover: files that nothing but a memory map or a message in flight still holds
(the guard on free space is for those).
"""

from __future__ import annotations

import contextlib
import os
import resource
import stat
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

ENTRY = 1024  # bytes charged for any directory entry, so that empty files are not free
DEPTH = 128  # directories below a root; what lies deeper counts as hidden
SLICE_S = 0.02  # of one look, so that the child's output is drained meanwhile
PAUSE = (0.2, 10.0)  # seconds between two scans: at least this, and at least this many times what the last one took
FLOOR = 256 << 20  # bytes of free space below which growth that no scan finds counts as the child's


def tree(pid: int, most: int) -> Iterator[int]:
    """Process ids of a process and everything below it, at most `most` + 1 of them."""
    queue, seen = [pid], 0
    while queue and seen <= most:
        current = queue.pop()
        seen += 1
        yield current
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{current}/task").iterdir():
                queue += map(int, (task / "children").read_text().split())


def usage(pid: int, most: int) -> tuple[int, int, float]:
    """(threads, bytes of private resident memory, CPU seconds so far) of a tree right now."""
    threads = memory = ticks = 0
    page = resource.getpagesize()
    for member in tree(pid, most):
        with contextlib.suppress(OSError, IndexError, ValueError):
            fields = Path(f"/proc/{member}/statm").read_text().split()
            memory += (int(fields[1]) - int(fields[2])) * page
            fields = Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # of the process and of the children it has waited for
            threads += int(fields[17])
    return threads, memory, ticks / os.sysconf("SC_CLK_TCK")


# --- disk ------------------------------------------------------------------------------------------------------------


class Scan:
    """One count of everything below some directories, in slices. Two descriptors at a time, however deep it goes."""

    def __init__(self, roots: Sequence[Path], pids: Iterable[int] = ()) -> None:
        self.bytes = self.hidden = 0  # hidden: directories that could not be counted
        self.cost_s = 0.0
        self._linked: set[tuple[int, int]] = set()  # files with several names, or none, are counted once
        self._steps = self._all(roots, pids)

    def step(self, most_s: float) -> bool:
        """Go on counting for about this long; True when everything is counted."""
        began = time.monotonic()
        try:
            return all(time.monotonic() - began < most_s for _ in self._steps)
        finally:
            self.cost_s += time.monotonic() - began

    def close(self) -> None:
        """Give up; harmless when it is complete."""
        self._steps.close()

    def _all(self, roots: Sequence[Path], pids: Iterable[int]) -> Generator[None, None, None]:
        devices: set[int] = set()
        for root in roots:
            with contextlib.suppress(OSError):
                found = root.lstat()
                devices.add(found.st_dev)
                self._charge(found)
                if stat.S_ISDIR(found.st_mode):
                    yield from self._below(root)
        for pid in pids:
            yield
            self._deleted(pid, devices)

    def _below(self, root: Path) -> Iterator[None]:
        waiting: list[tuple[str, ...]] = [()]
        while waiting:
            names = waiting.pop()
            descriptor = self._open(root, names)
            if descriptor is None:
                continue
            try:
                with os.scandir(descriptor) as entries:
                    for entry in entries:
                        with contextlib.suppress(OSError):  # it vanished
                            self._charge(entry.stat(follow_symlinks=False))
                            if entry.is_dir(follow_symlinks=False):
                                waiting.append((*names, entry.name))
                        yield
            except OSError:  # a disk that fails is no reason to stop counting the rest
                self.hidden += 1
            finally:
                os.close(descriptor)

    def _open(self, root: Path, names: tuple[str, ...]) -> int | None:
        """A directory, reached name by name without a link; None when it is gone, or hidden."""
        if len(names) > DEPTH:
            self.hidden += 1
            return None
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        current: int | None = None
        try:
            for name in (str(root), *names):
                inner = os.open(name, flags, dir_fd=current)
                if current is not None:
                    os.close(current)
                current = inner
        except PermissionError:
            self.hidden += 1
        except OSError:
            pass  # it was removed or replaced meanwhile: the next scan sees what is there then
        else:
            return current
        if current is not None:
            os.close(current)
        return None

    def _charge(self, found: os.stat_result) -> None:
        if found.st_nlink != 1 and not stat.S_ISDIR(found.st_mode):
            key = found.st_dev, found.st_ino
            if key in self._linked:
                self.bytes += ENTRY
                return
            self._linked.add(key)
        self.bytes += found.st_blocks * 512 + ENTRY

    def _deleted(self, pid: int, devices: set[int]) -> None:
        """Files without a name that a process still holds open."""
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    found = os.stat(f"/proc/{pid}/fd/{name}")  # through the kernel's link: never opens, never blocks
                    if found.st_nlink == 0 and found.st_dev in devices and stat.S_ISREG(found.st_mode):
                        self._charge(found)


class Growth:
    """How much directories grew since this was made: a scan now, and one after the other while `look` is called."""

    def __init__(self, roots: Iterable[Path], most: int) -> None:
        paths = sorted({Path(os.path.realpath(root)) for root in roots})
        self.roots = [
            path for path in paths if not any(path != other and path.is_relative_to(other) for other in paths)
        ]
        self.most = most
        self._base = Scan(self.roots)
        while not self._base.step(SLICE_S):
            pass
        self._free = {root: _free(root) for root in self.roots}
        self._scan: Scan | None = None
        self._next = 0.0

    def look(self, pids: Iterable[int]) -> bool:
        """A slice of a scan; True when it shows more growth than allowed. `pids`: who may hold files without a name."""
        now = time.monotonic()
        if self._scan is None:
            if now < self._next:
                return False
            self._scan = Scan(self.roots, pids)
        complete = self._scan.step(SLICE_S)
        over = self._over(self._scan) or self._filled()
        if complete:
            self._next = time.monotonic() + max(PAUSE[0], PAUSE[1] * self._scan.cost_s)
            self._scan = None
        return over

    def last(self) -> bool:
        """The verdict at the end, from a scan of everything that is left."""
        self.close()
        scan = Scan(self.roots)
        try:
            while not scan.step(SLICE_S) and not self._over(scan):
                pass
        finally:
            scan.close()
        return self._over(scan)

    def close(self) -> None:
        if self._scan is not None:
            self._scan.close()
            self._scan = None

    def _over(self, scan: Scan) -> bool:
        return scan.bytes > self._base.bytes + self.most or scan.hidden > self._base.hidden

    def _filled(self) -> bool:
        """Whether a file system is nearly full and lost more than the child may take, whoever took it."""
        return any(
            free < FLOOR and before - free > self.most for root, before in self._free.items() for free in (_free(root),)
        )


def _free(path: Path) -> int:
    try:
        found = os.statvfs(path)
    except OSError:
        return FLOOR
    return found.f_bavail * found.f_frsize
