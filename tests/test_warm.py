"""The warm check worker: it says what a check in a sandbox of its own says, its children can do nothing but read, and
whatever ends it the check is made all the same."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MakeRepo

from pantheon import checks, process
from pantheon.checks import CheckRoom
from pantheon.errors import SandboxError
from pantheon.git import Repo
from pantheon.limits import Completed, Limits
from pantheon.records import CheckResult
from pantheon.survey import read_config
from pantheon.tools.disk import pack
from pantheon.tools.worker import Answer, Ask
from pantheon.warm import Worker, knows

NAMES = ("frontmatter", "links", "body")
FILES = {"docs/a.md": "# Boats\n\nBoats, see [ropes](b.md).\n", "docs/b.md": "# Ropes\n\nRopes of the harbour.\n"}
FIXED = (
    '---\nuuid: "11111111-0000-4000-8000-000000000000"\ntitle: "Boats"\nslug: "boats"\nstatus: "done"\npriority: "P3"\n'
    'tags: ["boats"]\ncreated_at: "2026-01-01"\ndescription: "Boats of the harbour and their ropes."\n---\n'
)


@pytest.fixture
def room(make_repo: MakeRepo, tmp_path: Path) -> CheckRoom:
    repo = Repo.discover(make_repo(FILES))
    base = repo.head().commit
    return CheckRoom.open(repo, read_config(repo, base, repo.entries(base)), base, tmp_path / "work")


def tree(room: CheckRoom, changes: dict[str, str | None]) -> str:
    blobs = {path: text and (0o100644, room.repo.write_blob(text.encode())) for path, text in changes.items()}
    return room.repo.write_tree(room.repo.tree_of(room.base), {k: v or None for k, v in blobs.items()})


async def checked(room: CheckRoom, made: str, *targets: str) -> list[CheckResult]:
    return (await room.run(made, "one", NAMES, targets))[0]


def told(results: list[CheckResult]) -> list[tuple[str, bool, str]]:
    return [(one.name, one.passed, one.detail) for one in results]


def processes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The programs that are started from now on, in sandboxes or not."""
    started: list[str] = []
    launch = process._Launch.__init__

    def counted(self: process._Launch, argv: list[str], **named: object) -> None:
        started.append(" ".join(argv[3:5]))
        launch(self, argv, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(process._Launch, "__init__", counted)
    return started


CHANGES: tuple[tuple[dict[str, str | None], tuple[str, ...]], ...] = (
    ({"docs/a.md": FIXED + FILES["docs/a.md"]}, ("docs/a.md",)),
    ({"docs/a.md": "---\nslug: 12\n---\nother\n"}, ("docs/a.md",)),
    ({"docs/b.md": None, "docs/c.md": FILES["docs/b.md"]}, ("docs/c.md",)),
    ({"docs/b.md": None}, ()),
    ({"docs/a.md": "# Boats\n\n[gone](nowhere.md)\n", "docs/new.md": "---\n"}, ("docs/a.md", "docs/new.md")),
    ({"docs/a.md": FIXED}, ("docs/a.md", "docs/none.md")),
)


@pytest.mark.parametrize(("changes", "targets"), CHANGES)
def test_it_says_what_a_sandbox_of_its_own_says(
    room: CheckRoom, changes: dict[str, str | None], targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tree(room, changes)
    alone = asyncio.run(room.run(made, "alone", NAMES, targets))
    started = processes(monkeypatch)

    @checks.warm()
    async def warmly() -> tuple[list[CheckResult], bytes, bytes]:
        return await room.run(made, "warm", NAMES, targets)

    found = asyncio.run(warmly())
    assert (told(found[0]), found[1:]) == (told(alone[0]), alone[1:])
    assert started == ["pantheon.tools.worker /check/base.packed"]
    assert not (room.work / "exports" / "warm").exists()
    assert all(one.cpu_s > 0 and one.memory_bytes > 1 << 20 for one in found[0])


def test_one_process_serves_all_checks_of_a_night_and_ends_with_it(
    room: CheckRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, made, held = processes(monkeypatch), tree(room, {"docs/a.md": FIXED}), []

    @checks.warm()
    async def warmly() -> None:
        await asyncio.gather(*(checked(room, made, "docs/a.md") for _ in range(8)))
        held.append(room._worker)

    asyncio.run(warmly())
    assert len(started) == 1
    assert held[0] is not None and held[0].child.returncode is not None
    assert room.cpu_s > room.checked_s > 0


def test_without_a_night_nothing_is_kept(room: CheckRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    started = processes(monkeypatch)
    asyncio.run(checked(room, tree(room, {"docs/a.md": FIXED}), "docs/a.md"))
    assert [name.split()[0] for name in started] == ["pantheon.tools.check"] * 3


def test_a_worker_that_dies_is_started_again(room: CheckRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    started, made = processes(monkeypatch), tree(room, {"docs/a.md": FIXED + FILES["docs/a.md"]})

    @checks.warm()
    async def warmly() -> tuple[list[CheckResult], list[CheckResult]]:
        before = await checked(room, made, "docs/a.md")
        assert room._worker is not None
        room._worker.child.stop(0)
        return before, await checked(room, made, "docs/a.md")

    before, after = asyncio.run(warmly())
    assert told(before) == told(after)
    assert len(started) == 2


def test_where_none_starts_each_check_has_its_own_sandbox(room: CheckRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> Worker:
        raise SandboxError("cannot start the check worker")

    monkeypatch.setattr(Worker, "start", never)
    started, made = processes(monkeypatch), tree(room, {"docs/a.md": FIXED + FILES["docs/a.md"]})

    @checks.warm()
    async def warmly() -> list[CheckResult]:
        return await checked(room, made, "docs/a.md")

    assert [one.passed for one in asyncio.run(warmly())] == [True] * 3
    assert [name.split()[0] for name in started] == ["pantheon.tools.check"] * 3


@pytest.mark.parametrize(
    "words",
    [
        [sys.executable, "-P", "-m", "pantheon.tools.suite", "--base", "/check/base"],
        [sys.executable, "-P", "-m", "pantheon.tools.check_", "body"],
        [sys.executable, "-m", "pantheon.tools.check", "body"],
        [sys.executable, "-P", "-c", "pantheon.tools.check"],
        ["/usr/bin/python3", "-P", "-m", "pantheon.tools.check", "body"],
        ["pytest"],
        [],
    ],
)
def test_only_the_packaged_checks_go_there(words: list[str]) -> None:
    assert knows(words) == ()
    assert knows([sys.executable, "-P", "-m", "pantheon.tools.judge", "--"]) == ("pantheon.tools.judge", "--")


# --- what a child of it can do: a worker whose one check is what a captured check would try ---------------------------

LIMITS = Limits(wall_s=20, cpu_s=5, memory_bytes=512 << 20)
STAND_IN = """
import os, sys
from pantheon.tools import check, worker
def tried(words, trees):
    exec(words[0], {"trees": trees})
    return 0
worker.MODULES["pantheon.tools.check"] = tried
sys.exit(worker.main(sys.argv[1:]))
"""


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    pack([("a.md", lambda: b"# A\n")], str(tmp_path / "packed"))
    (tmp_path / "config" / "rules").mkdir(parents=True)
    start = process.start

    def other(argv: list[str], **named: object) -> process.Child:
        return start([argv[0], "-P", "-c", STAND_IN, *argv[4:]], **named)  # type: ignore[arg-type]

    monkeypatch.setattr(process, "start", other)
    found = Worker.start(tmp_path / "packed", tmp_path / "config" / "rules", tmp_path / "log", 1 << 30)
    yield found
    found.close()


def tried(worker: Worker, *codes: str, limits: Limits = LIMITS) -> list[Completed]:
    async def all_of_them() -> list[Completed]:
        return await asyncio.gather(*(worker.run(["pantheon.tools.check", code], {}, limits) for code in codes))

    return asyncio.run(all_of_them())


ESCAPES = {
    "write a file": "open('/tmp/x', 'w')",
    "make a file": "import os; os.open('/tmp/x', os.O_CREAT)",
    "make a directory": "import os; os.mkdir('/tmp/x')",
    "link": "import os; os.symlink('/etc', '/tmp/x')",
    "write into the tree": "open('/check/base.packed', 'r+b')",
    "fork": "import os; os.fork()",
    "a thread": "import _thread, time; _thread.start_new_thread(print, ())",
    "a program": "import os; os.execv('/bin/true', ['true'])",
    "a socket": "import socket; socket.socket(socket.AF_UNIX)",
    "the network": "import socket; socket.socket(socket.AF_INET)",
    "kill the worker": "import os; os.kill(os.getppid(), 9)",
    "kill all": "import os; os.kill(-1, 9)",
    "signal by descriptor": "import os, signal; signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 9)",
    "the worker's memory": "open('/proc/%d/mem' % __import__('os').getppid(), 'rb').read(1)",
    "the worker's descriptors": "import os; print(os.listdir('/proc/%d/fd' % os.getppid()))",
    "more memory": "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))",
    "a namespace": "import ctypes; assert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "trace": "import ctypes, os; assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
}


def test_no_escape_from_a_child(worker: Worker) -> None:
    found = dict(zip(ESCAPES, tried(worker, *ESCAPES.values()), strict=True))
    assert [name for name, done in found.items() if done.returncode != 1 or done.stdout] == []
    good = tried(worker, "print(trees[1].read('a.md'), sorted(trees[0].paths))")[0]
    assert good.stdout == b"b'# A\\n' ['a.md']\n"
    assert (good.returncode, good.stopped_for) == (0, "")


def test_a_child_holds_nothing_but_its_three_streams(worker: Worker) -> None:
    code = """
import os
open_ = []
for fd in range(256):
    try: os.fstat(fd); open_.append(fd)
    except OSError: pass
print(open_)
"""
    assert tried(worker, code)[0].stdout == b"[0, 1, 2]\n"


def test_limits_end_a_child_alone(worker: Worker) -> None:
    short = Limits(wall_s=1, cpu_s=60, memory_bytes=512 << 20)
    slow, busy = "import time; time.sleep(60)", "while True: pass"
    wall = tried(worker, slow, "print(1)", limits=short)
    assert [(one.stopped_for, one.returncode, one.timed_out) for one in wall] == [("wall", 137, True), ("", 0, False)]
    cpu = tried(worker, busy, limits=Limits(wall_s=60, cpu_s=1, memory_bytes=512 << 20))[0]
    assert (cpu.stopped_for, cpu.why()) == ("cpu", "ended: it used more than 1 s of processor time")
    memory = tried(worker, "bytearray(600 << 20)")[0]
    assert memory.returncode == 1 and b"MemoryError" in memory.stderr
    loud = tried(worker, "print('x' * (200 << 20))", limits=LIMITS)[0]
    assert loud.stopped_for == "output" and loud.truncated and len(loud.stdout) <= LIMITS.output_bytes
    assert tried(worker, "print(2)")[0].stdout == b"2\n"


def test_a_cancelled_check_is_ended(worker: Worker) -> None:
    async def cancelled() -> Completed:
        job = asyncio.create_task(worker.run(["pantheon.tools.check", "import time; time.sleep(60)"], {}, LIMITS))
        await asyncio.sleep(0.2)
        job.cancel()
        with pytest.raises(asyncio.CancelledError):
            await job
        return await worker.run(["pantheon.tools.check", "print(3)"], {}, LIMITS)

    assert asyncio.run(cancelled()).stdout == b"3\n"


def test_an_end_from_elsewhere_is_no_verdict(worker: Worker) -> None:
    code = "import ctypes; ctypes.string_at(0)"
    with pytest.raises(SandboxError, match=f"signal {int(signal.SIGSEGV)} came from elsewhere"):
        tried(worker, code)
    assert tried(worker, "print(4)")[0].stdout == b"4\n"


def test_the_worker_ends_with_its_line(tmp_path: Path) -> None:
    pack([("a.md", lambda: b"# A\n")], str(tmp_path / "packed"))
    (tmp_path / "config" / "rules").mkdir(parents=True)
    found = Worker.start(tmp_path / "packed", tmp_path / "config" / "rules", tmp_path / "log", 1 << 30)
    found.line.shutdown(socket.SHUT_RDWR)
    found.child.wait()
    assert found.child.returncode == 0
    found.close()
    assert not os.path.exists(f"/proc/{found.child.pid}")


@pytest.mark.parametrize("text", ['{"number": 0}', '{"number": 1, "more": 2}', '{"number": "x"}', "[]", ""])
def test_a_message_of_another_form_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Ask.model_validate_json(text)
    with pytest.raises(ValueError, match="validation error"):
        Answer.model_validate_json(json.dumps({"number": 1, "cpu_s": -1}))
