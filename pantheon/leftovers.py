"""What killed nights and commands left behind, and its removal: worktrees, scratch directories, sockets, locks.

Ring 3. A night sweeps when it has the night's lock, and so does the doctor when no night runs. Only what is ours goes,
and only what belongs to this repository or to a process that is dead: another repository's night may be running.
Control groups are swept where they are made (cgroup.py), half-written objects by git's own gc.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from pantheon import owner, relay, worktrees
from pantheon.errors import RepositoryError
from pantheon.git import Repo
from pantheon.places import Places

ADMIN = re.compile(r"pantheon-[0-9a-f]{16}[A-Za-z0-9._-]*", re.ASCII)  # our entries of `worktrees/`
MARKED = ("shadow-*", "checks/*")  # below the cache; the name of each has its owner's mark
_PID = re.compile(r"-day-(\d+)\Z")
_WRITING = re.compile(r"\.(\d+)\.new\Z")  # files that are written beside their place
YOUNG_S = 60.0  # what has no owner in its name and no socket yet may be somebody's at work


def scratch(repo: Repo, where: Places) -> Path:
    """Where the nights of a repository keep what they need while they run."""
    return where.cache / "nights" / hashlib.sha256(bytes(repo.common_dir)).hexdigest()[:12]


def sweep(repo: Repo, where: Places) -> tuple[str, ...]:
    """Remove it all; what was removed, as paths. To be called by who holds the night's lock of `repo`. What cannot be
    removed stays: a night goes on beside it."""
    repo.recover()
    gone: list[str] = []
    for path, name in _worktrees(repo, scratch(repo, where)):
        with contextlib.suppress(RepositoryError):
            repo.remove_worktree(path, name)
            gone.append(str(path))
    for path in (*_scratch(repo, where), *_of_the_dead(where), *_sockets(where), *_half_written(repo)):
        with contextlib.suppress(RepositoryError):
            worktrees.clear(path)
            gone.append(str(path))
    with contextlib.suppress(OSError):
        scratch(repo, where).rmdir()
    return tuple(gone)


def _worktrees(repo: Repo, own: Path) -> Iterator[tuple[Path, str]]:
    """(path, name) of the worktrees of items: those below our scratch directory, and those that are no more there."""
    for admin in sorted((repo.common_dir / "worktrees").glob("*")):
        if not ADMIN.fullmatch(admin.name) or admin.is_symlink():
            continue
        with contextlib.suppress(OSError):
            if line := (admin / "gitdir").read_bytes().rstrip(b"\n"):
                path = Path(os.fsdecode(line)).parent
                if path.is_relative_to(own) or not os.path.lexists(path):
                    yield path, admin.name
                continue
        yield own / admin.name, admin.name  # killed before it said where, or when it no more did


def _scratch(repo: Repo, where: Places) -> Iterator[Path]:
    with contextlib.suppress(OSError):
        yield from sorted(scratch(repo, where).iterdir())


def _of_the_dead(where: Places) -> Iterator[Path]:
    """Directories in the cache whose name says that a process which is no more made them."""
    for pattern in MARKED:
        for path in sorted(where.cache.glob(pattern)):
            holder = owner.read_mark(path.name)
            if holder is not None and not holder.alive():
                yield path


def _sockets(where: Places) -> Iterator[Path]:
    """Directories of relays and of engines by day that nobody listens in."""
    for path in sorted(where.runtime.glob("relay-*")):
        if _ours(path) and _old(path) and not _heard(path / relay.SOCKET):
            yield path
    for path in sorted(where.runtime.glob("pantheon-*-day-*")):
        found = _PID.search(path.name)
        if found and _ours(path) and owner.started(int(found[1])) == -1:
            yield path
    for path in sorted(Path("/tmp").glob("pantheon-probe-*")):  # egress.py listens there
        if _ours(path) and _old(path) and not _heard(path / "socket"):
            yield path


def _half_written(repo: Repo) -> Iterator[Path]:
    """What was written beside its place by who died before the rename: keys, the trust root, worktrees, adapters."""
    place = repo.common_dir / "pantheon"
    for path in sorted((*place.glob("*.new"), *place.glob("keys/*.new"))):
        found = _WRITING.search(path.name)
        if found and owner.started(int(found[1])) == -1:
            yield path
    yield from repo.common_dir.glob(f"worktrees/{worktrees.ROOM}")
    yield from sorted(place.glob("adapters/*/.new-*"))  # a training holds the night's lock, too


def _ours(path: Path) -> bool:
    with contextlib.suppress(OSError):
        info = path.lstat()
        return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()
    return False


def _old(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - path.lstat().st_mtime > YOUNG_S
    return False


def _heard(path: Path) -> bool:
    """Whether somebody listens on a socket."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(1.0)
            line.connect(str(path))
    except (ConnectionRefusedError, FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # its path is too long, or its listener is busy: who can tell
        return True
    return True
