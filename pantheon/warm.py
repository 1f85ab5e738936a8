"""The warm check worker from outside: starts it, asks it, holds each of its children to the limits of a check.

What runs inside is tools/worker.py. Owns the socket to it, the descriptors of each child, and its end. It decides
nothing about a check; where the worker dies or breaks the form of an answer the caller hears a SandboxError, and asks
again or elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from pantheon import faults, process
from pantheon.errors import SandboxError
from pantheon.limits import Completed, Limits
from pantheon.sandbox import MIB, Sandbox
from pantheon.tools.worker import MESSAGE, MODULES, Answer, Ask, order
from pantheon.watch import GRACE_S, Stream

START_S = 60.0  # until it is ready
SLACK = 16  # processes: more than ever run at once
PACKED, RULES = Path("/check/base.packed"), Path("/check/config/rules")
_COUNTER = itertools.count(1)


def knows(words: Sequence[str]) -> tuple[str, ...]:
    """A filled-in command as the worker takes it: the module and its arguments; () for one that it does not run. A
    command that names anything but a packaged check, or another Python or option, may run code of the repository."""
    head, module = tuple(words[:3]), words[3] if len(words) > 3 else ""
    return (module, *words[4:]) if head == (sys.executable, "-P", "-m") and module in MODULES else ()


class _Heard:
    """One stream of a child until its end."""

    def __init__(self, descriptor: int, most: int) -> None:
        self.descriptor, self.stream = descriptor, Stream(most)
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self.loop.create_future()
        self.full: Callable[[int], None] = lambda _: None
        self.loop.add_reader(descriptor, self._take)

    def _take(self) -> None:
        part = os.read(self.descriptor, 1 << 16)
        self.stream.take(part)
        self.full(len(part))
        if not part:
            self.close()

    def close(self) -> None:
        if self.descriptor >= 0:
            self.loop.remove_reader(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = -1
        if not self.ended.done():
            self.ended.set_result(None)


class Worker:
    """A running worker. `cpu_s` is what it used itself, besides its children."""

    def __init__(self, child: process.Child, line: socket.socket) -> None:
        self.child, self.line, self.cpu_s = child, line, 0.0
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    @classmethod
    def start(cls, packed: Path, rules: Path, log: Path, memory_bytes: int, tmp_bytes: int = MIB) -> Worker:
        """Start one and wait until it is ready. Raises SandboxError. `memory_bytes`: for all of it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sandbox = Sandbox(readable=((packed, PACKED), (rules.parent, RULES.parent)), tmp_bytes=tmp_bytes)
        limits = Limits(cpu_s=None, memory_bytes=memory_bytes, address_space=False, processes=SLACK, file_bytes=MIB)
        argv = [sys.executable, "-P", "-m", "pantheon.tools.worker", str(PACKED), str(RULES)]
        with theirs:
            child = process.start(argv, stdout_path=log, sandbox=sandbox, limits=limits, stdin=theirs.fileno())
        worker = cls(child, ours)
        try:
            ours.settimeout(START_S)
            worker._told(ours.recv(MESSAGE))
        except (OSError, ValidationError) as error:
            worker.close()
            why = (log.read_text("utf-8", "replace").strip().splitlines() or [str(error)])[-1][:300]
            raise SandboxError("cannot start the check worker", str(packed), why) from error
        ours.setblocking(False)
        return worker

    def close(self) -> None:
        """End it and all of its children; those who wait for an answer are told. Calling it again is harmless."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self.line)
        self._loop = None
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(SandboxError("the check worker ended", str(self.child.pid)))
        self._waiting.clear()
        self.line.close()
        self.child.stop(0)

    async def run(self, words: Sequence[str], changes: Mapping[str, bytes | None], limits: Limits) -> Completed:
        """One check, as `process.run_async` runs it in a sandbox of its own. Raises SandboxError when the worker, or
        something besides its limits, ended it. Cancelling ends the child and waits for that."""
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            loop.add_reader(self.line, self._hear)
        number, started, stopped = next(_COUNTER), time.monotonic(), ""
        answer = self._waiting[number] = loop.create_future()
        printed = 0
        with contextlib.ExitStack() as held:
            heard = self._ask(held, number, order(words, dict(changes)), limits)
            faults.point("check asked")

            def full(size: int) -> None:
                nonlocal printed, stopped
                printed += size
                if printed > limits.printed_bytes and not stopped:
                    stopped = "output"
                    self._stop(number)

            for one in heard:
                one.full = full
            done = asyncio.gather(answer, *(one.ended for one in heard))
            try:
                await asyncio.wait_for(asyncio.shield(done), limits.wall_s)
            except TimeoutError:
                stopped = stopped or "wall"
                await self._end(number, done)
            except asyncio.CancelledError:
                await self._end(number, done)
                raise
            finally:
                self._waiting.pop(number, None)
        faults.point("check answered")
        return self._completed(words, answer.result(), stopped, time.monotonic() - started, heard, limits)

    def _ask(self, held: contextlib.ExitStack, number: int, body: bytes, limits: Limits) -> list[_Heard]:
        """Send a request with the descriptors of its child; the child's streams."""
        content = os.memfd_create("order", os.MFD_CLOEXEC)
        theirs, heard = [content], []
        try:
            with open(content, "wb", closefd=False) as file:
                file.write(body)
            os.lseek(content, 0, os.SEEK_SET)
            for _ in range(2):
                ours, other = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
                os.set_blocking(other, True)
                theirs.append(other)
                heard.append(_Heard(ours, limits.output_bytes))
                held.callback(heard[-1].close)
            ask = Ask(number=number, cpu_s=limits.cpu_s or 1, memory_bytes=limits.memory_bytes or 1)
            socket.send_fds(self.line, [ask.to_json().encode("ascii")], theirs)
        except OSError as error:
            raise SandboxError("cannot ask the check worker", str(self.child.pid), str(error)) from error
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        return heard

    def _stop(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self.line.send(Ask(number=number, stop=True).to_json().encode("ascii"))

    async def _end(self, number: int, done: asyncio.Future[list[object]]) -> None:
        """Have a child killed; where that takes long all of the worker is."""
        self._stop(number)
        await asyncio.wait([done], timeout=GRACE_S)
        if not done.done():
            self.close()
            await asyncio.wait([done], timeout=GRACE_S)
        done.exception() if not done.cancelled() else None

    def _hear(self) -> None:
        try:
            data = self.line.recv(MESSAGE)
            answer = self._told(data)
        except BlockingIOError:
            return
        except (OSError, ValidationError):
            self.close()
            return
        waiting = self._waiting.get(answer.number)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    def _told(self, data: bytes) -> Answer:
        answer = Answer.model_validate_json(data)
        self.cpu_s = max(self.cpu_s, answer.own_cpu_s)
        return answer

    def _completed(
        self, words: Sequence[str], answer: Answer, stopped: str, seconds: float, heard: list[_Heard], limits: Limits
    ) -> Completed:
        code = os.waitstatus_to_exitcode(answer.status)
        if not stopped and code == -signal.SIGXCPU:
            stopped = "cpu"
        if code < 0 and not stopped:
            why = f"signal {-code} came from elsewhere"
            raise SandboxError("a check was ended", words[0], why)
        process.count(answer.cpu_s, answer.memory_bytes)
        return Completed(
            argv=tuple(words),
            returncode=code if code >= 0 else 128 - code,
            stdout=heard[0].stream.kept(),
            stderr=heard[1].stream.kept(),
            timed_out=stopped == "wall",
            truncated=any(one.stream.cut for one in heard),
            stopped_for=stopped,
            seconds=seconds,
            cpu_seconds=answer.cpu_s,
            peak_memory=answer.memory_bytes,
            limits=limits,
            limited_by="rlimit",
        )
