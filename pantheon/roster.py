"""The daemon's files in the user's state directory: its lock, the repositories it watches, the windows that are used.

Owns `daemon/` below the state directory and `daemon.pid` in a repository's common git dir. Every file is written whole,
beside its place, and then put there, so that a kill leaves the old one or the new one. Decides nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from pydantic import Field, ValidationError

from pantheon import turns
from pantheon.errors import PantheonError
from pantheon.places import Places
from pantheon.records import SCHEMA_VERSION, Record, pretty

DIRECTORY, LOCK, REPOSITORIES, WINDOWS = "daemon", "lock", "repositories.json", "windows.json"
TURN_S = 60.0  # for who else changes the list
PID = "daemon.pid"  # below `pantheon/` in the common git dir
TAKE_S = 2.0  # how long a lock may be held by somebody who only looks at it
KEPT = 60  # used windows of one repository
R = TypeVar("R", bound=Record)


class Watched(Record):
    """A repository on the list. `root`: the worktree it was put there from; `common` names it. `window`: its own."""

    root: str
    common: str
    branch: str
    window: str = ""
    since: datetime


class Repositories(Record):
    schema_version: int = SCHEMA_VERSION
    watched: tuple[Watched, ...] = ()


class Begun(Record):
    """A night that was started in a window, and the last one that had a report before it: with that the next daemon can
    tell whether it came to its own, when this one is killed."""

    key: str
    start: datetime
    before: str


class Windows(Record):
    """By the common git dir: the windows that had their night, and the one whose night is under way."""

    schema_version: int = SCHEMA_VERSION
    used: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    begun: dict[str, Begun] = Field(default_factory=dict)

    def with_begun(self, common: str, begun: Begun | None) -> Windows:
        others = {name: one for name, one in self.begun.items() if name != common}
        return self.model_copy(update={"begun": {**others, common: begun} if begun else others})

    def with_used(self, common: str, key: str) -> Windows:
        keys = [one for one in self.used.get(common, ()) if one != key]
        return self.model_copy(update={"used": {**self.used, common: (*keys, key)[-KEPT:]}})


class Running(Record):
    """The daemon that runs: what its lock says."""

    pid: int
    since: datetime
    socket: str


def _place(state: Path) -> Path:
    place = state / DIRECTORY
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise PantheonError("cannot make the daemon's directory", str(place), str(error.strerror)) from error
    return place


def _write(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise PantheonError("cannot write", str(path), str(error.strerror), f"df -h {path.parent}") from error


def _read(path: Path, kind: type[R]) -> R:
    try:
        return kind.model_validate(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return kind()
    except OSError as error:
        raise PantheonError("cannot read", str(path), str(error.strerror)) from error
    except (ValueError, ValidationError, RecursionError) as error:
        why = "it is damaged; without it the daemon starts with an empty one"
        raise PantheonError("cannot read", str(path), why, f"mv {path} {path}.damaged") from error


# --- the list --------------------------------------------------------------------------------------------------------


def watched(where: Places) -> tuple[Watched, ...]:
    """The list. Raises PantheonError."""
    return _read(where.state / DIRECTORY / REPOSITORIES, Repositories).watched


def change(where: Places, edit: Callable[[tuple[Watched, ...]], tuple[Watched, ...]]) -> None:
    """Change the list; who else changes it waits."""
    place = _place(where.state)
    with turns.hold(place / f".{REPOSITORIES}.lock", "cannot change the list", TURN_S):
        path = place / REPOSITORIES
        found = Repositories(watched=edit(_read(path, Repositories).watched))
        _write(path, pretty(found.model_dump(mode="json")))


def windows(where: Places) -> Windows:
    """What is used up. Raises PantheonError."""
    return _read(where.state / DIRECTORY / WINDOWS, Windows)


def keep_windows(where: Places, found: Windows) -> None:
    _write(_place(where.state) / WINDOWS, pretty(found.model_dump(mode="json")))


# --- one daemon per user ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def alone(where: Places, socket: Path, now: datetime) -> Iterator[None]:
    """Be the user's one daemon. The kernel lets go of the lock when we die, however we die. Raises PantheonError."""
    path = _place(where.state) / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        deadline = time.monotonic() + TAKE_S
        while not _take(descriptor, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                found = _said(path)
                thing = f"process {found.pid}" if found else str(path)
                raise PantheonError(
                    "cannot start the daemon", thing, "one is running already", "git pantheon daemon status"
                )
            time.sleep(0.05)
        said = Running(pid=os.getpid(), since=now, socket=str(socket))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, pretty(said.model_dump(mode="json")), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def running(where: Places) -> Running | None:
    """The daemon that holds the lock now."""
    path = where.state / DIRECTORY / LOCK
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        return None if _take(descriptor, fcntl.LOCK_SH) else _said(path)
    finally:
        os.close(descriptor)


def _take(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _said(path: Path) -> Running | None:
    try:
        return Running.model_validate(json.loads(path.read_bytes()))
    except (OSError, ValueError, ValidationError):
        return None


# --- in a repository -------------------------------------------------------------------------------------------------


def mark(common: Path) -> None:
    """Say in a repository that we watch it, for hooks. Raises OSError."""
    (common / "pantheon").mkdir(mode=0o700, exist_ok=True)
    path = common / "pantheon" / PID
    beside = path.with_name(f".{PID}.{os.getpid()}")
    beside.write_text(f"{os.getpid()}\n")
    beside.replace(path)


def unmark(common: Path) -> None:
    """Take it back, unless another says it."""
    path = common / "pantheon" / PID
    with contextlib.suppress(OSError):
        if path.read_text().strip() == str(os.getpid()):
            path.unlink()
