"""The lock that a dead or stopped holder does not keep: who gets it, who is refused, who is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import MakeRepo

from pantheon import lease, nights, owner
from pantheon.errors import Busy, RepositoryError
from pantheon.git import Repo

HOLDS = """
import os, sys, time
from pathlib import Path
from pantheon import lease
from pantheon.errors import Busy
path, mode = Path(sys.argv[1]), sys.argv[2]
try:
    with lease.hold(path, beat_s=0.05) as descriptor:
        if mode == "leaves a child":
            if os.fork() == 0:
                time.sleep(1.0)
                os._exit(0)
        print("held", flush=True)
        sys.stdin.read()
        print("left", flush=True)
except Busy as error:
    print(error, flush=True)
"""
Holder = subprocess.Popen[str]
Start = Callable[..., Holder]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "night.lock"


@pytest.fixture
def holder(path: Path) -> Iterator[Start]:
    """`holder()`: another process that holds the lock until its stdin ends."""
    with ExitStack() as ended:

        def go(mode: str = "") -> Holder:
            argv = [sys.executable, "-P", "-c", HOLDS, str(path), mode]
            child = ended.enter_context(
                subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            ended.callback(child.kill)
            return child

        yield go


def said(child: Holder) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def test_of_two_starts_at_once_one_runs_and_the_other_is_told_by_whom(holder: Start) -> None:
    children = [holder(), holder()]
    words = {said(child): child for child in children}
    first = words.pop("held")
    (refused,) = words
    assert refused == f"the lock is held: {first.pid}: by process {first.pid}"


def test_the_file_says_who_holds_it_and_nobody_when_it_is_free(path: Path, holder: Start) -> None:
    child = holder()
    assert said(child) == "held"
    found = lease.read(path)
    assert found is not None
    assert (found.owner.pid, found.owner.alive()) == (child.pid, True)
    until, beat_s = time.monotonic() + 20, found.beat_s
    while (now := lease.read(path)) is not None and now.beat_s <= beat_s and time.monotonic() < until:
        time.sleep(0.02)
    assert now is not None
    assert now.beat_s > beat_s, "its heart beats"
    with lease_free(path, child):
        pass


def test_who_fails_while_it_holds_the_lock_is_its_holder_no_more(path: Path) -> None:
    with pytest.raises(ZeroDivisionError), lease.hold(path):
        assert lease.read(path) is not None
        _ = 1 // 0
    assert lease.read(path) is None
    with lease.hold(path):
        pass


def lease_free(path: Path, child: Holder) -> ExitStack:
    """The lock, once its holder has let go of it."""
    child.communicate()
    assert lease.read(path) is None
    held = ExitStack()
    held.enter_context(lease.hold(path))
    return held


def test_a_holder_that_is_stopped_past_its_lease_is_ended_and_never_comes_back(path: Path, holder: Start) -> None:
    child, told = holder(), list[str]()
    assert said(child) == "held"
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(0.3)
    with lease.hold(path, lease_s=0.2, told=told.append):
        os.kill(child.pid, signal.SIGCONT)  # it is a zombie: nothing of it goes on
        assert child.wait(20) == -signal.SIGKILL
        assert said(child) == "", "it did nothing more"
        found = lease.read(path)
        assert found is not None
        assert found.owner.pid == os.getpid()
    assert len(told) == 1
    assert told[0].startswith(f"process {child.pid} held the lock and was silent for ")


def test_a_stopped_holder_keeps_the_lock_within_its_lease(path: Path, holder: Start) -> None:
    child = holder()
    assert said(child) == "held"
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(Busy, match=f"by process {child.pid}"), lease.hold(path):
        pass
    assert owner.started(child.pid) > 0, "and is not touched"


def test_the_lock_of_a_killed_holder_is_free_as_soon_as_what_it_started_is_gone(path: Path, holder: Start) -> None:
    child = holder("leaves a child")
    assert said(child) == "held"
    child.kill()
    child.wait()
    began = time.monotonic()
    with lease.hold(path):
        assert time.monotonic() - began > 0.1, "its child had the lock for a while"


def test_who_only_has_the_pid_of_a_dead_holder_is_spared(holder: Start) -> None:
    child = holder()
    assert said(child) == "held"
    other = owner.me().model_copy(update={"pid": child.pid, "started": owner.started(child.pid) - 1})
    assert not other.alive()
    assert other.end(5.0)
    assert owner.started(child.pid) > 0


@pytest.mark.parametrize("change", [{"boot": "another"}, {"space": 1}])
def test_nobody_is_ended_of_whom_we_cannot_tell(path: Path, holder: Start, change: dict[str, object]) -> None:
    child = holder()
    assert said(child) == "held"
    os.kill(child.pid, signal.SIGSTOP)
    time.sleep(0.1)
    found = lease.read(path)
    assert found is not None
    stranger = found.owner.model_copy(update=change)
    assert stranger.alive()
    assert not stranger.end(1.0)
    path.write_text(found.model_copy(update={"owner": stranger, "beat_s": -1e9}).to_json())
    with pytest.raises(Busy), lease.hold(path, lease_s=0.1):
        pass
    assert owner.started(child.pid) > 0


def test_a_lease_grows_old_by_the_monotonic_clock_alone(path: Path, holder: Start) -> None:
    """It stands still while a machine sleeps; what a file's dates say of it moves with the wall clock."""
    child = holder()
    assert said(child) == "held"
    os.kill(child.pid, signal.SIGSTOP)
    os.utime(path, (0, 0))
    with pytest.raises(Busy), lease.hold(path, clock=lambda: time.monotonic() + lease.LEASE_S / 2):
        pass
    with lease.hold(path, clock=lambda: time.monotonic() + 2 * lease.LEASE_S):
        assert child.wait(20) == -signal.SIGKILL


def test_who_wants_the_nights_lock_twice_is_told_who_has_it(make_repo: MakeRepo) -> None:
    repo = Repo.discover(make_repo())
    busy = pytest.raises(RepositoryError, match=f"another one is running here.*{os.getpid()}")
    with nights.alone(repo), busy, nights.alone(repo):
        pass


FAMILY = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "print('up', flush=True); input(); print('ended', flush=True)"],
                         stdin=subprocess.PIPE, start_new_session=True)
print(child.pid, flush=True)
child.wait()
"""


def test_what_a_stopped_process_had_started_is_not_left_stopped() -> None:
    """Its child, stopped with it, in a session of its own: it goes on when the one that started it is ended."""
    with subprocess.Popen([sys.executable, "-c", FAMILY], stdout=subprocess.PIPE, text=True) as one:
        assert one.stdout is not None
        said = {one.stdout.readline().strip(), one.stdout.readline().strip()}
        (child,) = (int(word) for word in said - {"up"})
        for pid in (one.pid, child):
            os.kill(pid, signal.SIGSTOP)
        whose = owner.me().model_copy(update={"pid": one.pid, "started": owner.started(one.pid)})
        assert whose.end(20.0)
        assert one.wait(20) == -signal.SIGKILL
        assert one.stdout.read() == "", "the child met the end of its input, and ended"
    until = time.monotonic() + 20.0
    while owner.started(child) != -1 and time.monotonic() < until:
        time.sleep(0.01)
    assert owner.started(child) == -1
