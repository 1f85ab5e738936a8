"""One started child, from outside: its descriptors, its end, its streams, and the limits it is held to.

Owns what happens between a child's start and its end; starts nothing (process.py does). Limits that the kernel holds
are read back from the control group; the others are looked at every `POLL_S`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import selectors
import signal
import time
from typing import IO

from pantheon import machine, meter
from pantheon.cgroup import Group
from pantheon.limits import Limits

POLL_S = 0.05  # how often the watchdog looks
GRACE_S = 2.0  # how long a kill may take to be complete
CUT_BYTES = 200  # for the line where something of an output is left out


class Started:
    """One started child: the process itself and, in a sandbox, the first process of its namespace (`inner`).

    Killing `inner` kills everything in the namespace, and it ends only when all of it is gone: waiting for its
    descriptor is the proof that nothing survived.
    """

    def __init__(self) -> None:
        self.pid = self.inner_pid = 0
        self.outer: int | None = None  # pidfd
        self.inner: int | None = None  # pidfd
        self.status: int | None = None  # where bwrap reports; None: no sandbox
        self.report = b""
        self.nice = 0  # what its session shall be yet
        self.group: Group | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self.stderr: IO[bytes] | None = None

    def began(self, pid: int, stdin: IO[bytes] | None, stdout: IO[bytes] | None, stderr: IO[bytes] | None) -> None:
        self.pid, self.stdin, self.stdout, self.stderr = pid, stdin, stdout, stderr
        self.outer = os.pidfd_open(pid)
        self.nice = machine.nice_of_children()

    def evened(self) -> bool:
        """Make its session as nice as it shall be; False: try again. A sandbox has one when all is mounted."""
        pid = self.pid if self.status is None else self.inner_pid
        if self.nice and pid and machine.nice_session(self.nice, pid):
            self.nice = 0
        return not self.nice or not pid

    def read_status(self) -> bool:
        """Take what bwrap reported; False at its end."""
        assert self.status is not None
        part = os.read(self.status, 4096)
        self.report += part
        if self.inner is None and (found := re.search(rb'"child-pid": (\d+)', self.report)):
            self.inner_pid = int(found[1])
            with contextlib.suppress(ProcessLookupError):
                self.inner = os.pidfd_open(self.inner_pid)
        return bool(part)

    def ran(self) -> bool:
        """Whether the sandboxed program was reached at all."""
        return self.status is None or b'"exit-code"' in self.report

    def members(self) -> list[int]:
        """Its processes, as far as they can be found."""
        if self.group is not None:
            return self.group.members()
        root = self.pid if self.status is None else self.inner_pid
        return list(meter.tree(root, 1 << 12)) if root else []

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.inner is not None:
                signal.pidfd_send_signal(self.inner, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.outer is not None:
                signal.pidfd_send_signal(self.outer, signal.SIGKILL)
        if self.group is not None:
            self.group.kill()

    def gone(self, wait_s: float) -> bool:
        """Wait until the child, and in a sandbox every process of it, has ended."""
        deadline = time.monotonic() + wait_s
        for descriptor in filter(None, (self.outer, self.inner)):
            with selectors.DefaultSelector() as selector:
                selector.register(descriptor, selectors.EVENT_READ)
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    return False
        return True

    def close_streams(self) -> None:
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None and not pipe.closed:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def close(self) -> None:
        for descriptor in filter(None, (self.inner, self.status, self.outer)):
            os.close(descriptor)
        self.inner = self.status = self.outer = None
        if self.group is not None:
            self.group.close()
            self.group = None


class Stream:
    """What a child prints on one stream. Up to `most` bytes all of it is kept; of more the head and the tail, around a
    line that tells how much there was and the sha256 of all of it."""

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self._head, self._tail, self._sha256 = bytearray(), bytearray(), hashlib.sha256()

    def take(self, part: bytes) -> None:
        self.size += len(part)
        self._sha256.update(part)
        room = self.most - len(self._head)
        self._head += part[:room]
        self._tail += part[room:]
        if len(self._tail) > self.most:
            del self._tail[: -self.most // 2]

    @property
    def cut(self) -> bool:
        return self.size > self.most

    def kept(self) -> bytes:
        if not self.cut:
            return bytes(self._head)
        half = max(0, self.most - CUT_BYTES) // 2
        tail = (self._head[half:] + self._tail)[-half:] if half else b""
        said = f"\n[pantheon: {self.size - 2 * half} of {self.size} bytes left out here; sha256 of all: "
        return bytes(self._head[:half]) + f"{said}{self._sha256.hexdigest()}]\n".encode() + bytes(tail)


class Capture:
    """The loop of one bounded run: feeds stdin, keeps what it prints (see `Stream`), watches the limits."""

    def __init__(
        self, launch: Started, limits: Limits, stdin: bytes, cancel: int | None, disk: meter.Growth | None
    ) -> None:
        self.launch, self.limits, self.stdin, self.cancel = launch, limits, memoryview(stdin), cancel
        self.disk, self.printed = disk, 0
        self.streams = {name: Stream(limits.output_bytes) for name in ("stdout", "stderr")}
        self.stopped_for, self.peak, self.cpu = "", 0, 0.0
        self.selector = selectors.DefaultSelector()

    def loop(self) -> None:
        launch, deadline = self.launch, time.monotonic() + self.limits.wall_s
        for pipe, name in ((launch.stdout, "stdout"), (launch.stderr, "stderr")):
            assert pipe is not None
            self.selector.register(pipe, selectors.EVENT_READ, name)
        assert launch.stdin is not None
        os.set_blocking(launch.stdin.fileno(), False)
        self.selector.register(launch.stdin, selectors.EVENT_WRITE, "stdin")
        assert launch.outer is not None
        self.selector.register(launch.outer, selectors.EVENT_READ, "exit")
        for descriptor, name in ((self.launch.status, "status"), (self.cancel, "cancel")):
            if descriptor is not None:
                self.selector.register(descriptor, selectors.EVENT_READ, name)
        watched = time.monotonic()
        running = True
        while running or {"stdout", "stderr", "status"} & {str(k.data) for k in self.selector.get_map().values()}:
            now = time.monotonic()
            if now >= deadline:
                if not running:  # a process that left the group holds a pipe open
                    return
                self._stop("wall")
                running, deadline = False, now + GRACE_S
            if running and now - watched >= POLL_S:
                watched = now
                self._watch()
            for key, _ in self.selector.select(min(POLL_S, max(0.0, deadline - now))):
                if key.data == "exit":
                    self.selector.unregister(key.fileobj)
                    running, deadline = False, time.monotonic() + GRACE_S
                    self.launch.kill()  # what is left of its group, so that the pipes end
                else:
                    self._take(key)

    def _take(self, key: selectors.SelectorKey) -> None:
        if key.data == "stdin":
            self._feed()
        elif key.data == "status":
            if not self.launch.read_status():
                self.selector.unregister(key.fileobj)
            self._watch()  # at its end: the last look at what the tree used
        elif key.data == "cancel":
            self.selector.unregister(key.fileobj)
            self._stop("cancel")
        else:
            part = os.read(key.fd, 1 << 16)
            if not part:
                self.selector.unregister(key.fileobj)
                return
            self.streams[key.data].take(part)
            self.printed += len(part)
            if self.printed > self.limits.printed_bytes:
                self._stop("output")

    def _feed(self) -> None:
        pipe = self.launch.stdin
        assert pipe is not None
        try:
            self.stdin = self.stdin[os.write(pipe.fileno(), self.stdin[: 1 << 16]) :] if self.stdin else self.stdin
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.stdin = self.stdin[:0]
        if not self.stdin:
            self.selector.unregister(pipe)
            pipe.close()

    def _watch(self) -> None:
        self.launch.evened()
        if not self.counted():
            self._sample()
        if self.limits.cpu_s is not None and self.cpu > self.limits.cpu_s:
            self._stop("cpu")
        if self.disk is not None and self.disk.look(self.launch.members()):
            self._stop("disk")

    def counted(self) -> bool:
        """Take what the control group counted; False when it does not tell everything."""
        if self.launch.group is None:
            return False
        used, events = self.launch.group.usage(), self.launch.group.events()
        self.peak, self.cpu = max(self.peak, used.peak_memory), max(self.cpu, used.cpu_seconds or 0.0)
        if events.oom_kills:
            self._stop("memory")
        if events.refused_forks:
            self._stop("processes")
        return used.cpu_seconds is not None

    def _sample(self) -> None:
        """Look at the tree in /proc; without a control group its memory and processes are judged by that."""
        root = self.launch.inner_pid if self.launch.status is not None else self.launch.pid
        if not root:
            return
        most = self.limits.processes if self.limits.processes is not None else 1 << 16
        threads, memory, cpu = meter.usage(root, most + 1)
        self.cpu = max(self.cpu, cpu)
        if self.launch.group is not None:
            return
        self.peak = max(self.peak, memory)
        if self.limits.memory_bytes is not None and memory > self.limits.memory_bytes:
            self._stop("memory")
        if self.launch.status is not None and threads > most + 1:  # the sandbox's own first process does not count
            self._stop("processes")

    def settle(self, returncode: int) -> None:
        """What came too fast for the watchdog, and rlimits that killed."""
        for number, reason in ((signal.SIGXCPU, "cpu"), (signal.SIGXFSZ, "file")):
            if returncode in (-number, 128 + number):
                self.stopped_for = self.stopped_for or reason
        if self.disk is not None:
            if not self.stopped_for and self.disk.last():
                self.stopped_for = "disk"
            self.disk.close()

    def _stop(self, reason: str) -> None:
        self.stopped_for = self.stopped_for or reason
        self.launch.kill()
