"""The warm check worker: a sandboxed process that holds the packaged checks and one base, and forks a child for each
check.

    python -m pantheon.tools.worker PACKED RULES

Its standard input is a socket of whole messages (SOCK_SEQPACKET). An `Ask` comes with three descriptors: what to check,
where the child prints, where it complains; an `Answer` tells how the child ended. The worker reads no content that an
item brought: the child does, which can read, compute, print and end, and nothing else. What a check says is what the
same check says as a program on exports of both trees.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import gc
import json
import os
import resource
import selectors
import signal
import socket
import sys
import traceback
from collections.abc import Sequence

from pydantic import Field, ValidationError

from pantheon import machine
from pantheon.records import Record
from pantheon.sandbox import reading_only
from pantheon.tools import check, judge
from pantheon.tools.disk import Changed, Packed

MODULES = {"pantheon.tools.check": check.main, "pantheon.tools.judge": judge.main}
MESSAGE = 4096  # bytes at most
_DUMPABLE, _SECCOMP, _FILTER = 4, 22, 2


class Ask(Record):
    """A check to run, its descriptors beside it; with `stop`, the child of that number is to be ended."""

    number: int = Field(ge=1)
    cpu_s: int = Field(default=1, ge=1)
    memory_bytes: int = Field(default=1, ge=1)
    stop: bool = False


class Answer(Record):
    """How a child ended: its wait status and what it used. Number 0: the worker is ready."""

    number: int = Field(ge=0)
    status: int = 0
    cpu_s: float = Field(default=0.0, ge=0)
    memory_bytes: int = Field(default=0, ge=0)
    own_cpu_s: float = Field(default=0.0, ge=0)  # of the worker itself, since it began


def order(words: Sequence[str], changes: dict[str, bytes | None]) -> bytes:
    """What a child reads: the module with its arguments, and the files that differ from the base."""
    files = {path: None if data is None else base64.b64encode(data).decode("ascii") for path, data in changes.items()}
    return json.dumps({"words": list(words), "changes": files}, separators=(",", ":")).encode("ascii")


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


class _Worker:
    def __init__(self, line: socket.socket, base: Packed) -> None:
        self.line, self.base = line, base
        self.libc = ctypes.CDLL(None, use_errno=True)
        code = reading_only()
        self.program = _Program(len(code) // 8, code)
        self.children: dict[int, tuple[int, int]] = {}  # number -> (pid, pidfd)
        self.selector = selectors.DefaultSelector()
        self.selector.register(line, selectors.EVENT_READ, 0)
        self._prctl(_DUMPABLE, 0)  # no child can look into us, nor into another

    def _prctl(self, option: int, *values: int | ctypes._Pointer[_Program]) -> None:
        if self.libc.prctl(option, *values, *[0] * (4 - len(values))) != 0:
            raise OSError(ctypes.get_errno(), "prctl")

    def serve(self) -> None:
        """Until the other end closes, whose end is ours."""
        self._tell(0, 0, 0.0, 0)
        while True:
            for key, _ in self.selector.select():
                if key.data:
                    self._ended(key.data)
                elif not self._hear():
                    return

    def _hear(self) -> bool:
        data, descriptors, _, _ = socket.recv_fds(self.line, MESSAGE, 3)
        if not data:
            return False
        try:
            ask = Ask.model_validate_json(data)
            if ask.stop and ask.number in self.children:
                signal.pidfd_send_signal(self.children[ask.number][1], signal.SIGKILL)
            elif not ask.stop and len(descriptors) == 3 and ask.number not in self.children:
                self._start(ask, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        return True

    def _start(self, ask: Ask, descriptors: Sequence[int]) -> None:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                code = self._child(ask, descriptors)
            finally:  # as an interpreter ends a program
                with contextlib.suppress(BaseException):
                    if sys.exc_info()[0] is not None:
                        traceback.print_exc()
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(code)
        self.children[ask.number] = pid, os.pidfd_open(pid)
        self.selector.register(self.children[ask.number][1], selectors.EVENT_READ, ask.number)

    def _child(self, ask: Ask, descriptors: Sequence[int]) -> int:
        for there, here in zip(descriptors, (0, 1, 2), strict=True):
            os.dup2(there, here)
        os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        resource.setrlimit(resource.RLIMIT_CPU, (ask.cpu_s, ask.cpu_s + 1))
        resource.setrlimit(resource.RLIMIT_AS, (ask.memory_bytes, ask.memory_bytes))
        self._prctl(_SECCOMP, _FILTER, ctypes.pointer(self.program))
        with open(0, "rb", closefd=False) as file:
            asked = json.load(file)
        files = {
            path: None if text is None else base64.b64decode(text, validate=True)
            for path, text in asked["changes"].items()
        }
        module, *words = asked["words"]
        return MODULES[module](words, (self.base, Changed(self.base, files)))

    def _ended(self, number: int) -> None:
        pid, descriptor = self.children.pop(number)
        self.selector.unregister(descriptor)
        os.close(descriptor)
        _, status, used = os.wait4(pid, 0)
        self._tell(number, status, used.ru_utime + used.ru_stime, used.ru_maxrss << 10)

    def _tell(self, number: int, status: int, cpu_s: float, memory: int) -> None:
        own = resource.getrusage(resource.RUSAGE_SELF)
        said = Answer(
            number=number, status=status, cpu_s=cpu_s, memory_bytes=memory, own_cpu_s=own.ru_utime + own.ru_stime
        )
        self.line.send(said.to_json().encode("ascii"))


def main(arguments: Sequence[str]) -> int:
    """Serve; the exit code."""
    if len(arguments) != 2:
        print((__doc__ or "").split("\n\n")[1].strip(), file=sys.stderr)
        return 2
    packed, rules = arguments
    base = Packed(packed)
    for name in sorted(os.listdir(rules)):
        check.warm(base, os.path.join(rules, name))
        judge.warm(os.path.join(rules, name))
    gc.collect()
    gc.freeze()  # a child that collects would copy every page it looks at
    os.nice(machine.CHECKS_BEHIND)
    with socket.socket(fileno=0) as line, contextlib.suppress(BrokenPipeError, ConnectionResetError, ValidationError):
        _Worker(line, base).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
