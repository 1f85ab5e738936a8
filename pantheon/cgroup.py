"""Control groups: limits that the kernel holds for a child and everything it starts, in version 2 or version 1.

Owns the groups' directories: where this process may make them (proved by making one), one parent for a run of
Pantheon, one group for each child, and the removal of all of it. Starts nothing: a child enters its group by the
command line of `Group.prefix`, before it becomes the program. Where nothing can be made the answer is None, and
process.py falls back on rlimits and its watchdog. Does not cover: a group's disk and network use.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from pantheon import owner
from pantheon.records import Record

NAME = "pantheon"
NEEDED = ("memory", "pids")
CLOSE_S = 2.0  # how long the kernel may take to let go of an empty group
_ENTER = 'while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"'
_COUNTER = itertools.count(1)


class Events(Record):
    """What a group's limits have done so far."""

    oom_kills: int = 0
    refused_forks: int = 0


class Usage(Record):
    """What a group has used so far. The peak counts the page cache and private tmpfs of the group, too."""

    peak_memory: int = 0  # bytes
    cpu_seconds: float | None = None  # None: this group cannot tell


class Parent(Record):
    """The directories below which the children's groups are made. Limits nothing itself."""

    version: Literal[1, 2]
    memory: Path
    pids: Path
    cpu: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """The directories, to be bound read-write where children are to be started from inside a sandbox."""
        return tuple(dict.fromkeys(path for path in (self.memory, self.pids, self.cpu) if path is not None))

    def open_group(self, *, memory_bytes: int | None, processes: int | None) -> Group:
        """A group for one child. Raises OSError when the kernel refuses."""
        name = f"{owner.me().mark}-{next(_COUNTER)}"
        group = Group(self.version, self.memory / name, self.pids / name, self.cpu / name if self.cpu else None)
        try:
            group.limit(memory_bytes, processes)
        except OSError:
            group.close()
            raise
        return group

    def close(self) -> None:
        """Remove it and the groups below it, as far as nothing runs in them; the kernel may need a moment."""
        deadline = time.monotonic() + CLOSE_S
        for path in self.paths:
            _remove(path)
            while path.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
                _remove(path)


class Group:
    """One child's group: up to three directories in version 1, one in version 2."""

    def __init__(self, version: Literal[1, 2], memory: Path, pids: Path, cpu: Path | None) -> None:
        self.version, self.memory, self.pids, self.cpu = version, memory, pids, cpu
        self.paths = tuple(dict.fromkeys(path for path in (memory, pids, cpu) if path is not None))
        for path in self.paths:
            path.mkdir()

    def limit(self, memory_bytes: int | None, processes: int | None) -> None:
        """Set the limits; None: none. Swap counts as memory."""
        if processes is not None:
            _write(self.pids / "pids.max", str(processes))
        if memory_bytes is None:
            return
        if self.version == 1:
            _write(self.memory / "memory.limit_in_bytes", str(memory_bytes))
            _write_if_there(self.memory / "memory.memsw.limit_in_bytes", str(memory_bytes))
        else:
            _write(self.memory / "memory.max", str(memory_bytes))
            _write_if_there(self.memory / "memory.swap.max", "0")
            _write_if_there(self.memory / "memory.oom.group", "1")

    def prefix(self) -> list[str]:
        """Put before a command: a shell enters the group and becomes the command. Exit status 125: it could not."""
        return ["/bin/sh", "-c", _ENTER, "sh", *map(str, self.paths), "--"]

    def events(self) -> Events:
        memory = self.memory / ("memory.oom_control" if self.version == 1 else "memory.events")
        return Events(
            oom_kills=_table(memory).get("oom_kill", 0), refused_forks=_table(self.pids / "pids.events").get("max", 0)
        )

    def usage(self) -> Usage:
        if self.version == 2:
            micro = _table(self.pids / "cpu.stat").get("usage_usec")
            return Usage(
                peak_memory=_number(self.memory / "memory.peak") or _number(self.memory / "memory.current") or 0,
                cpu_seconds=None if micro is None else micro / 1e6,
            )
        nano = None if self.cpu is None else _number(self.cpu / "cpuacct.usage")
        return Usage(
            peak_memory=_number(self.memory / "memory.max_usage_in_bytes") or 0,
            cpu_seconds=None if nano is None else nano / 1e9,
        )

    def members(self) -> list[int]:
        """The processes in it, as far as this process's namespace has numbers for them."""
        with contextlib.suppress(OSError, ValueError):
            return [pid for pid in map(int, (self.pids / "cgroup.procs").read_text().split()) if pid > 0]
        return []

    def kill(self) -> None:
        """SIGKILL to everything in it: at once in version 2, one after the other, a few times, in version 1."""
        if self.version == 2 and _write_if_there(self.pids / "cgroup.kill", "1"):
            return
        for _ in range(8):
            members = self.members()
            for pid in members:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            if not members:
                return

    def close(self, wait_s: float = CLOSE_S) -> bool:
        """Remove it once it is empty; False when it was not in time, and stays for the next start to remove."""
        deadline = time.monotonic() + wait_s
        left = [path for path in self.paths if not _rmdir(path, deadline)]
        return not left


# --- where groups can be made ----------------------------------------------------------------------------------------


Proof = Callable[[Sequence[str]], bool]  # given a prefix, starts something behind it; whether that ended well


def make_parent(proof: Proof, proc: Path = Path("/proc/self")) -> Parent | None:
    """A parent in the nearest place where this process may limit memory and processes; None: nowhere.

    Version 2 comes first. There a group with processes cannot give controllers to groups below it, so the parent
    usually stands beside our own group, below the first ancestor that lets us. What dead processes of ours left behind
    is removed.
    """
    places = itertools.chain(_places_v2(proc), _places_v1(proc))
    for version, memory, pids, cpu in places:
        for place in filter(None, {memory, pids, cpu}):
            _sweep(place)
        name = f"{NAME}-{owner.me().mark}-{next(_COUNTER)}"
        parent = Parent(version=version, memory=memory / name, pids=pids / name, cpu=cpu / name if cpu else None)
        try:
            for path in parent.paths:
                path.mkdir(exist_ok=True)
            if version == 2:
                _control(parent.memory)
        except OSError:
            parent.close()
            continue
        if _works(parent, proof):
            return parent
        parent.close()
    return None


def parent_at(paths: Sequence[Path], proof: Proof) -> Parent | None:
    """The parent with these directories, made by another process of ours; None when groups cannot be made there."""
    found: dict[str, Path] = {}
    for path in paths:
        files = {"memory": "memory.limit_in_bytes", "pids": "pids.max", "cpu": "cpuacct.usage"}
        if (path / "cgroup.controllers").exists():
            files = {"memory": "memory.max", "pids": "pids.max"}
        found |= {name: path for name, file in files.items() if (path / file).exists()}
    if not {*NEEDED} <= found.keys():
        return None
    version: Literal[1, 2] = 2 if (found["pids"] / "cgroup.controllers").exists() else 1
    parent = Parent(version=version, memory=found["memory"], pids=found["pids"], cpu=found.get("cpu"))
    return parent if _works(parent, proof) else None


def _works(parent: Parent, proof: Proof) -> bool:
    """Whether a group with limits can be made, entered and removed."""
    try:
        group = parent.open_group(memory_bytes=64 << 20, processes=8)
    except OSError:
        return False
    entered = proof(group.prefix())
    return group.close() and entered


_Place = tuple[Literal[1, 2], Path, Path, Path | None]


def _places_v2(proc: Path) -> Iterator[_Place]:
    own = _own(proc, "")
    if own is None:
        return
    mount, current = own
    while True:
        if _control(current):
            yield 2, current, current, None
        limit = current / "memory.max"
        if current == mount or (limit.exists() and limit.read_text().strip() != "max"):
            return  # beside a limited group our children would be free of its limit
        current = current.parent


def _places_v1(proc: Path) -> Iterator[_Place]:
    memory, pids, cpu = (_own(proc, name) for name in (*NEEDED, "cpuacct"))
    if memory is not None and pids is not None:
        yield 1, memory[1], pids[1], cpu[1] if cpu is not None and os.access(cpu[1], os.W_OK) else None


def _own(proc: Path, controller: str) -> tuple[Path, Path] | None:
    """(mount point, our group's directory) of a version 1 controller, or with "" of version 2; None: not mounted."""
    try:
        groups, mounts = (proc / "cgroup").read_text(), (proc / "mountinfo").read_text()
    except OSError:
        return None
    lines = (line.split(":", 2) for line in groups.splitlines())
    inside = next((path for _, names, path in lines if controller in names.split(",")), None)
    for line in mounts.splitlines():
        front, _, back = line.partition(" - ")
        root, mount = (_plain(field) for field in front.split()[3:5])
        kind, _, options = back.split(" ", 2)
        right = kind == "cgroup2" if not controller else kind == "cgroup" and controller in options.split(",")
        if right and inside is not None and ".." not in inside and Path(inside).is_relative_to(root):
            return Path(mount), Path(mount, Path(inside).relative_to(root))
    return None


def _plain(field: str) -> str:
    """A field of mountinfo without its octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _control(group: Path) -> bool:
    """Let a version 2 group give its children the controllers we need; whether it does."""
    file = group / "cgroup.subtree_control"
    try:
        missing = [name for name in NEEDED if name not in file.read_text().split()]
        if missing:
            if not {*missing} <= {*(group / "cgroup.controllers").read_text().split()}:
                return False
            _write(file, " ".join(f"+{name}" for name in missing))
    except OSError:
        return False
    return True


# --- directories and files -------------------------------------------------------------------------------------------


def _sweep(place: Path) -> None:
    """Remove the parents whose processes have ended. Those of another pid namespace are left: who can tell?"""
    with contextlib.suppress(OSError):
        for path in place.glob(f"{NAME}-*"):
            holder = owner.read_mark(path.name)
            if holder is not None and not holder.alive():
                _end(path)
                _remove(path)


def _end(path: Path) -> None:
    """Kill what is left in the groups of a dead process: a bubblewrap whose first half died waits for it for ever."""
    until = time.monotonic() + CLOSE_S
    while time.monotonic() < until:
        members = [int(pid) for file in path.rglob("cgroup.procs") for pid in file.read_text().split()]
        if not members:
            return
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if pid > 0:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _remove(path: Path) -> None:
    """Remove a group and those below it; what still has processes stays."""
    with contextlib.suppress(OSError):
        for below in path.iterdir():
            if below.is_dir():
                _remove(below)
        path.rmdir()


def _rmdir(path: Path, deadline: float) -> bool:
    pause = 0.001
    while True:
        try:
            path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:  # processes that have not quite ended
            if time.monotonic() + pause > deadline:
                return False
            time.sleep(pause)
            pause = min(2 * pause, 0.05)
        else:
            return True


def _write(path: Path, text: str) -> None:
    """Write to a file of the kernel's; never make one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _write_if_there(path: Path, text: str) -> bool:
    """Write to a file that not every kernel has."""
    try:
        _write(path, text)
    except FileNotFoundError:
        return False
    return True


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _table(path: Path) -> dict[str, int]:
    """A file of `name number` lines; empty when it cannot be read."""
    with contextlib.suppress(OSError, ValueError):
        return {name: int(value) for name, value in (line.split() for line in path.read_text().splitlines())}
    return {}
