"""Taking turns: a lock that dies with its holder, and a wait for it that ends. Ring 2; owns no file of its own."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pantheon.errors import DiskFull, RepositoryError, is_full

_PAUSE_S = 0.02


@contextmanager
def hold(path: Path, what: str, wait_s: float) -> Iterator[int]:
    """Hold the lock at `path`; its descriptor. Raises RepositoryError when somebody else holds it for longer than
    `wait_s`, or when the file cannot be made (DiskFull for want of room); `what` says what then could not be done."""
    until = time.monotonic() + wait_s
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        kind = DiskFull if is_full(error) else RepositoryError
        raise kind(what, str(path), str(error.strerror), f"ls -ld {path.parent}") from error
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= until:
                    why = "another git pantheon is at work on it"
                    raise RepositoryError(what, str(path), why, "run it again when the other one is done") from error
                time.sleep(_PAUSE_S)
        yield descriptor
    finally:
        os.close(descriptor)
