"""git's garbage collection and a running night, held against the real `git gc`."""

from __future__ import annotations

import hashlib
import itertools
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from conftest import MakeRepo, git

from pantheon import gcpid


def packed(root: Path) -> int:
    lines = dict(line.split(": ") for line in git("count-objects", "-v", cwd=root).splitlines())
    return int(lines["in-pack"])


def auto(root: Path) -> None:
    """git as it collects by itself, with enough in the one directory of 256 by which it guesses the whole."""
    blobs = (f"{number}\n".encode() for number in range(10_000))
    seen = (data for data in blobs if hashlib.sha1(b"blob %d\0%s" % (len(data), data)).hexdigest()[:2] == "17")
    for data in itertools.islice(seen, 3):
        git("hash-object", "-w", "--stdin", cwd=root, stdin=data)
    git("-c", "gc.auto=1", "-c", "gc.autoDetach=false", "gc", "--auto", "--quiet", cwd=root)


def test_gits_own_collections_keep_away_while_it_is_held(make_repo: MakeRepo) -> None:
    root = make_repo()
    with gcpid.held(root / ".git") as ours:
        assert ours
        auto(root)
        assert "already running" in refused(root)
        assert packed(root) == 0
    assert not (root / ".git/gc.pid").exists()
    assert not (root / ".git/gc.pid.lock").exists()
    auto(root)
    assert packed(root) > 0


def refused(root: Path) -> str:
    done = subprocess.run(["git", "gc"], cwd=root, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode != 0
    return done.stderr


def test_what_a_killed_night_left_stops_nobody(make_repo: MakeRepo) -> None:
    root = make_repo()
    code = "import os, pathlib, signal; from pantheon import gcpid\n"
    code += f"with gcpid.held(pathlib.Path({str(root / '.git')!r})): os.kill(os.getpid(), signal.SIGKILL)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == -9
    assert (root / ".git/gc.pid").exists()
    auto(root)
    assert packed(root) > 0
    git("gc", "--quiet", cwd=root)
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == -9
    with gcpid.held(root / ".git", wait_s=0) as ours:
        assert ours


def test_a_real_gc_is_never_overwritten(make_repo: MakeRepo) -> None:
    root, said = make_repo(), list[str]()
    path = root / ".git/gc.pid"
    with subprocess.Popen(["sleep", "600"]) as other:
        theirs = f"{other.pid} {socket.gethostname()}\n"
        path.write_text(theirs)
        with gcpid.held(root / ".git", said.append, wait_s=0.2) as ours:
            assert not ours
            assert said == [f"git gc runs here (process {other.pid}); the night starts beside it"]
            assert path.read_text() == theirs
        assert path.read_text() == theirs
        with gcpid.held(root / ".git", said.append, wait_s=0, refresh_s=0.05):
            other.kill()
            other.wait()
            until = time.monotonic() + 30
            while path.read_text() == theirs and time.monotonic() < until:
                time.sleep(0.05)
            assert path.read_text() == f"{os.getpid()} {socket.gethostname()}\n", "taken once the other one ended"
    assert not path.exists()


def test_another_machines_gc_is_believed_for_twelve_hours(make_repo: MakeRepo) -> None:
    root = make_repo()
    path = root / ".git/gc.pid"
    path.write_text("1 another.example\n")
    with gcpid.held(root / ".git", wait_s=0) as ours:
        assert not ours
    old = time.time() - gcpid.BELIEVED_S - 60
    os.utime(path, (old, old))
    with gcpid.held(root / ".git", wait_s=0) as ours:
        assert ours


def test_it_stays_young_through_a_long_night_and_a_clock_that_jumps(make_repo: MakeRepo) -> None:
    root = make_repo()
    path = root / ".git/gc.pid"
    with gcpid.held(root / ".git", refresh_s=0.05):
        os.utime(path, (0, 0))
        until = time.monotonic() + 30
        while path.stat().st_mtime < 1 and time.monotonic() < until:
            time.sleep(0.05)
        assert "already running" in refused(root)


def test_it_needs_nothing_that_can_be_written(tmp_path: Path) -> None:
    with gcpid.held(tmp_path / "missing", wait_s=0) as ours:
        assert not ours
