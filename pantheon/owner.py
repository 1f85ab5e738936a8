"""Which process a file or a directory belongs to, told apart from every other that runs or ever ran on this machine.

Owns the mark (pid namespace, pid, start time) and the two things that may be done with it: ask whether that process is
still there, and end it. Where nobody can tell (another pid namespace, another boot) the answer is that it lives.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
from pathlib import Path

from pantheon.records import Record

BOOT = Path("/proc/sys/kernel/random/boot_id")
MARK = r"(\d+)-(\d+)-(\d+)"  # how `Owner.mark` looks


class Owner(Record):
    """A process. `space`: the inode of its pid namespace; `started`: clock ticks from boot to its start."""

    space: int
    pid: int
    started: int
    boot: str = ""

    @property
    def mark(self) -> str:
        """For names of files and directories."""
        return f"{self.space}-{self.pid}-{self.started}"

    @property
    def known(self) -> bool:
        """Whether we can tell what became of it."""
        return self.space == _space() and self.boot in ("", _boot())

    def alive(self) -> bool:
        return not self.known or started(self.pid) == self.started

    def end(self, wait_s: float) -> bool:
        """SIGKILL, also where it is stopped; whether it is gone in time. Never another process that has its pid now,
        and never ourselves. What it had started and was stopped with it goes on, to its own end."""
        if not self.known or self.pid == os.getpid():
            return False
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if started(self.pid) != self.started:  # looked at after the descriptor is ours, so it is the same process
                return True
            family = below(self.pid)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            gone = bool(select.select([descriptor], [], [], wait_s)[0])
            for child, began in family.items():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if began and started(child) == began:
                        os.kill(child, signal.SIGCONT)
            return gone
        finally:
            os.close(descriptor)


def below(pid: int) -> dict[int, int]:
    """The processes that this one started, and those that they did, each with when it began."""
    found: dict[int, int] = {}
    waiting = [pid]
    while waiting:
        with contextlib.suppress(OSError, ValueError):
            for task in Path(f"/proc/{waiting.pop()}/task").iterdir():
                fresh = [int(child) for child in (task / "children").read_text().split()]
                found |= {child: started(child) for child in fresh}
                waiting += fresh
    return found


def me() -> Owner:
    return Owner(space=_space(), pid=os.getpid(), started=started(os.getpid()), boot=_boot())


def read_mark(text: str) -> Owner | None:
    """The owner in a name that has a mark in it; None: there is none."""
    found = re.search(MARK, text)
    return Owner(space=int(found[1]), pid=int(found[2]), started=int(found[3])) if found else None


def started(pid: int) -> int:
    """Clock ticks from boot to a process's start; -1: no such process, or one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return -1 if fields[0] in ("Z", "X") else int(fields[19])
    except (OSError, ValueError, IndexError):
        return -1


def _space() -> int:
    return os.stat("/proc/self/ns/pid").st_ino


def _boot() -> str:
    with contextlib.suppress(OSError):
        return BOOT.read_text().strip()
    return ""
