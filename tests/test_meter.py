"""`pantheon.meter` on real directories and processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pantheon import meter
from pantheon.meter import Growth, Scan

MIB = 1 << 20


def counted(*roots: Path) -> Scan:
    scan = Scan(roots)
    while not scan.step(1.0):
        pass
    return scan


def test_a_scan_counts_blocks_and_names_and_follows_no_link(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    (outside / "big").write_bytes(b"x" * (4 * MIB))
    empty = counted(inside).bytes
    (inside / "a" / "b" / "f").write_bytes(b"x" * MIB)
    (inside / "link").symlink_to(outside)
    (inside / "a" / "file").symlink_to(outside / "big")
    assert MIB <= counted(inside).bytes - empty < MIB + 32 * 1024
    assert counted(inside / "a" / "b" / "f").bytes >= MIB  # a root may be a file
    assert counted(inside / "missing").bytes == 0


def test_a_file_with_many_names_counts_once_and_a_hole_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * MIB)
    one = counted(tmp_path).bytes
    for n in range(10):
        os.link(tmp_path / "f", tmp_path / f"f{n}")
    with (tmp_path / "hole").open("wb") as file:
        file.truncate(1 << 30)
    assert counted(tmp_path).bytes - one < 64 * 1024


def test_a_scan_goes_on_where_it_stopped_and_can_be_given_up(tmp_path: Path) -> None:
    for n in range(300):
        (tmp_path / f"f{n}").write_bytes(b"x")
    scan = Scan([tmp_path])
    steps = 1
    while not scan.step(0.0):
        steps += 1
    assert steps > 300
    assert scan.bytes == counted(tmp_path).bytes
    before = len(os.listdir("/proc/self/fd"))
    given_up = Scan([tmp_path])
    assert not given_up.step(0.0)
    given_up.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_directory_replaced_by_a_link_during_a_scan_is_not_followed(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    (inside / "d").mkdir(parents=True)
    outside.mkdir()
    (outside / "big").write_bytes(b"x" * (4 * MIB))
    scan = Scan([inside])
    assert not scan.step(0.0)  # `d` was seen
    (inside / "d").rmdir()
    (inside / "d").symlink_to(outside)
    while not scan.step(1.0):
        pass
    assert scan.bytes < MIB


def test_growth_is_seen_while_it_happens_and_at_the_end(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"x" * (2 * MIB))
    growth = Growth([tmp_path, tmp_path / "old"], MIB)  # the second lies in the first
    assert growth.roots == [tmp_path]
    assert not growth.look([])
    assert not growth.last()
    (tmp_path / "new").write_bytes(b"x" * (2 * MIB))
    assert growth.last()
    growth._next = 0.0
    assert growth.look([])
    growth.close()


def test_a_file_without_a_name_counts_as_long_as_it_is_open(tmp_path: Path) -> None:
    growth = Growth([tmp_path], MIB)
    with (tmp_path / "gone").open("wb") as file:
        (tmp_path / "gone").unlink()
        file.write(b"x" * (2 * MIB))
        file.flush()
        assert growth.look([os.getpid()])
    growth._next = 0.0
    growth.close()
    assert not growth.look([os.getpid()])


def test_a_nearly_full_disk_counts_whoever_filled_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = tmp_path / "in"
    inside.mkdir()
    growth = Growth([inside], 8 * MIB)
    with (tmp_path / "other").open("wb") as file:
        file.write(os.urandom(MIB) * 128)
        file.flush()
        os.fsync(file.fileno())
        assert not growth.look([])  # there is room
        monkeypatch.setattr(meter, "FLOOR", 1 << 62)
        assert growth._filled()
    growth.close()


def test_a_tree_holds_the_process_and_what_it_started_and_no_more_than_asked() -> None:
    script = (
        "import subprocess, sys\nfor _ in range(3): subprocess.Popen(['sleep', '30'])\nprint('up', flush=True)\ninput()"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        members = list(meter.tree(child.pid, 100))
        assert members[0] == child.pid
        assert len(members) == 4
        assert len(list(meter.tree(child.pid, 1))) == 2
        threads, memory, cpu = meter.usage(child.pid, 100)
        assert threads >= 4
        assert memory > MIB
        assert cpu >= 0
        for member in members:
            os.kill(member, 9)
    assert meter.usage(child.pid, 100) == (0, 0, 0.0)
