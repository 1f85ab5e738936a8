"""`pantheon.cgroup` on the machine's own control groups: they are made, hold, tell what happened, and are gone after.

Skipped with its reason where this process may make none; the fallback is tested in test_process.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pantheon import cgroup, owner
from pantheon.cgroup import Group, Parent

MIB = 1 << 20


def enters(prefix: Sequence[str]) -> bool:
    return subprocess.run([*prefix, "true"], check=False).returncode == 0


def inside(group: Group, script: str) -> subprocess.CompletedProcess[bytes]:
    argv = [*group.prefix(), sys.executable, "-c", script]
    return subprocess.run(argv, capture_output=True, check=False, timeout=30)


@pytest.fixture(scope="module")
def parent() -> Iterator[Parent]:
    made = cgroup.make_parent(enters)
    if made is None:
        pytest.skip("this process may make no control groups with memory and pids")
    yield made
    made.close()


@pytest.fixture
def group(parent: Parent) -> Iterator[Group]:
    opened = parent.open_group(memory_bytes=64 * MIB, processes=8)
    yield opened
    opened.kill()
    assert opened.close()
    assert not any(path.exists() for path in opened.paths)


def test_the_child_is_in_its_group_from_its_first_instruction(group: Group) -> None:
    done = inside(group, "print(open('/proc/self/cgroup').read())")
    assert done.stdout.decode().count(group.pids.name) == len(group.paths), done.stderr


def test_memory_above_the_limit_kills_and_is_counted(group: Group) -> None:
    assert group.events().oom_kills == 0
    done = inside(group, "x = bytearray(b'x' * (100 << 20))")
    assert done.returncode == -9
    assert group.events().oom_kills >= 1
    assert 60 * MIB < group.usage().peak_memory <= 64 * MIB


def test_memory_that_no_process_maps_counts_too(group: Group) -> None:
    done = inside(group, "import os; f = os.memfd_create('x'); [os.write(f, b'x' * (1 << 20)) for _ in range(100)]")
    assert done.returncode == -9
    assert group.events().oom_kills >= 1


def test_a_fork_above_the_limit_is_refused_and_counted(group: Group) -> None:
    done = inside(group, "import os, time\nos.close(1), os.close(2)\nfor n in range(20):\n os.fork() or time.sleep(9)")
    assert done.returncode == 1
    assert group.events().refused_forks >= 1
    assert len(group.members()) == 7  # what the first process left behind
    group.kill()
    deadline = time.monotonic() + 2
    while group.members() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert group.members() == []


def test_the_processor_time_of_what_has_ended_is_kept(group: Group) -> None:
    busy = "import time\nwhile time.process_time() < 0.2: pass"
    inside(group, busy)
    inside(group, busy)
    used = group.usage().cpu_seconds
    if used is None:
        pytest.skip("no cpuacct controller here")
    assert 0.4 <= used < 5


def test_a_group_with_processes_is_not_removed_and_says_so(parent: Parent) -> None:
    opened = parent.open_group(memory_bytes=None, processes=None)
    with subprocess.Popen([*opened.prefix(), "sleep", "30"]) as child:
        while not opened.members():
            time.sleep(0.01)
        began = time.monotonic()
        assert not opened.close(wait_s=0.2)
        assert time.monotonic() - began < 1
        child.kill()
    assert opened.close()


def test_a_command_that_cannot_enter_does_not_run(parent: Parent, tmp_path: Path) -> None:
    gone = parent.open_group(memory_bytes=None, processes=4)
    assert gone.close()
    done = subprocess.run([*gone.prefix(), "touch", str(tmp_path / "ran")], capture_output=True, check=False)
    assert done.returncode == 125
    assert not (tmp_path / "ran").exists()


def test_the_parent_is_found_by_its_paths_and_nothing_else_passes_for_one(parent: Parent, tmp_path: Path) -> None:
    assert cgroup.parent_at(parent.paths, enters) == parent
    assert cgroup.parent_at(parent.paths, lambda _: False) is None
    assert cgroup.parent_at([tmp_path], enters) is None
    for name in ("memory.limit_in_bytes", "pids.max", "cgroup.procs"):
        (tmp_path / name).write_text("")
    assert cgroup.parent_at([tmp_path], enters) is None
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_a_killed_process_left_is_removed_at_the_next_start_and_nothing_else(parent: Parent) -> None:
    script = (
        "import os, subprocess, sys\nfrom pantheon import cgroup\n"
        "made = cgroup.make_parent(lambda prefix: subprocess.run([*prefix, 'true']).returncode == 0)\n"
        "made.open_group(memory_bytes=None, processes=4)\n"
        "print(*made.paths, flush=True)\nos.kill(os.getpid(), 9)"
    )
    root = str(Path(cgroup.__file__).parent.parent)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env={"PYTHONPATH": root}, check=False)
    left = [Path(word) for word in done.stdout.decode().split()]
    assert left, done.stderr
    more = cgroup.make_parent(enters)  # ours is alive: kept, and not this one
    assert more is not None
    more.close()
    assert all(path.is_dir() for path in parent.paths)
    assert not any(path.exists() for path in more.paths)
    assert not any(path.exists() for path in left)
    assert all(path.exists() for path in parent.paths)


def test_version_2_holds_with_whatever_controllers_it_has(parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where memory and pids are in version 1, version 2 has others: a group is made, entered, killed, removed alike."""
    own = cgroup._own(Path("/proc/self"), "")
    if parent.version == 2 or own is None or not os.access(own[1] / "cgroup.subtree_control", os.W_OK):
        pytest.skip("version 2 is what every test here used, or there is none that we may write")
    spare = (own[1] / "cgroup.controllers").read_text().split()[:1]
    before = (own[1] / "cgroup.subtree_control").read_text().split()
    if not spare:
        pytest.skip("version 2 has no controller")
    monkeypatch.setattr(cgroup, "NEEDED", tuple(spare))
    (place,) = cgroup._places_v2(Path("/proc/self"))
    top = place[1] / f"{cgroup.NAME}-{owner.me().mark}"
    top.mkdir()
    made = Parent(version=2, memory=top, pids=top)
    try:
        assert made.paths == (top,)
        assert cgroup._control(top)
        group = made.open_group(memory_bytes=None, processes=None)
        script = "import os, time\nos.close(1), os.close(2)\nfor n in range(5):\n os.fork() or time.sleep(30)\n"
        inside(group, script + "while time.process_time() < 0.2: pass")
        assert len(group.members()) == 5
        used = group.usage().cpu_seconds
        assert used is not None
        assert used > 0.2
        group.kill()
        assert group.close()
    finally:
        made.close()
        if spare[0] not in before:
            (own[1] / "cgroup.subtree_control").write_text(f"-{spare[0]}")
    assert not top.exists()


def test_our_own_group_is_found_in_every_kind_of_hierarchy(tmp_path: Path) -> None:
    """The kernel's own lines: version 2, version 1, and a version 1 mount whose root is not the hierarchy's."""
    cases = (
        ("", "0::/user.slice/a.scope", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate"),
        ("pids", "8:pids:/a\n0::/x", r"39 31 0:36 / /sys/fs/cg\040s/pids rw,relatime - cgroup cgroup rw,pids"),
        ("memory", "4:memory:/docker/ab/c", "35 31 0:32 /docker/ab /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory"),
    )
    wanted = ("/sys/fs/cgroup/user.slice/a.scope", "/sys/fs/cg s/pids/a", "/sys/fs/cgroup/memory/c")
    for (controller, groups, mounts), path in zip(cases, wanted, strict=True):
        (tmp_path / "cgroup").write_text(groups + "\n")
        (tmp_path / "mountinfo").write_text(mounts + "\n")
        found = cgroup._own(tmp_path, controller)
        assert found is not None
        assert found[1] == Path(path)
    assert cgroup._own(tmp_path, "pids") is None
    (tmp_path / "cgroup").write_text("4:memory:/../other\n")
    assert cgroup._own(tmp_path, "memory") is None


def test_a_name_belongs_to_one_process_for_ever() -> None:
    assert owner.started(os.getpid()) > 0
    assert owner.started(1 << 22) == -1
    assert owner.read_mark(f"{cgroup.NAME}-{owner.me().mark}-1") == owner.me().model_copy(update={"boot": ""})
