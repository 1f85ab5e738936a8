"""The daemon's socket, and its line to systemd.

A Unix socket of the user's own, mode 0600: one line in, one line out, and only for processes of the same user, as the
kernel names them. `notify` speaks the protocol of sd_notify, one datagram per message. Owns the conversations, not what
is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pantheon.errors import PantheonError
from pantheon.places import Places

LINE_MOST = 4096 + 64  # bytes of a request: a path and a word
ANSWER_MOST = 16 << 20
ASK_S = 5.0
HEAR_S = 2.0  # how long one that rings may take
PATH_MOST = 100  # bytes: a Unix socket's path has 108
_PEER = struct.Struct("3i")  # pid, uid, gid


def address(where: Places) -> Path:
    """Where this user's daemon listens."""
    return where.runtime / f"pantheon-daemon-{hashlib.sha256(bytes(where.state)).hexdigest()[:8]}.sock"


@contextlib.contextmanager
def listening(path: Path, answer: Callable[[str], str], uid: int) -> Iterator[None]:
    """Answer on `path` while the context lasts, on a thread of its own; what lies there is replaced. `uid`: the one
    user who is heard. Raises PantheonError."""
    if len(bytes(path)) > PATH_MOST:
        why = f"its path has more than {PATH_MOST} bytes"
        raise PantheonError("cannot listen", str(path), why, "set XDG_RUNTIME_DIR to a shorter one")
    line = socket.socket(socket.AF_UNIX)
    try:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            line.bind(str(path))
            path.chmod(0o600)
            line.listen(64)
        except OSError as error:
            raise PantheonError("cannot listen", str(path), str(error.strerror)) from error
        mine = path.lstat().st_ino
        thread = threading.Thread(target=_serve, args=(line, answer, uid), daemon=True)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == mine:
                    path.unlink()
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)  # wakes the thread
            thread.join(HEAR_S * 2)
    finally:
        line.close()


def _serve(line: socket.socket, answer: Callable[[str], str], uid: int) -> None:
    while True:
        try:
            caller, _ = line.accept()
        except OSError:
            return
        with caller, contextlib.suppress(OSError):
            if _PEER.unpack(caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1] == uid:
                caller.settimeout(HEAR_S)
                asked = _line(caller, LINE_MOST, time.monotonic() + HEAR_S)
                caller.sendall(os.fsencode(answer(os.fsdecode(asked))) + b"\n")


def _line(line: socket.socket, most: int, deadline: float) -> bytes:
    """What comes before a line break, the end, `most` bytes or the deadline. Raises OSError."""
    data = b""
    while b"\n" not in data and len(data) < most and time.monotonic() < deadline:
        part = line.recv(1 << 16)
        if not part:
            break
        data += part
    return data.partition(b"\n")[0]


def ask(path: Path, request: str, wait_s: float = ASK_S) -> str | None:
    """What the daemon there answers to one line; None: none answers."""
    try:
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(wait_s)
            line.connect(str(path))
            line.sendall(os.fsencode(request) + b"\n")
            return os.fsdecode(_line(line, ANSWER_MOST, time.monotonic() + wait_s)) or None
    except (OSError, ValueError):
        return None


def standing(path: Path, common: Path, wait_s: float = 1.0) -> str | None:
    """What the daemon that listens there is up to in the repository of this common git dir; None: it watches it not."""
    said = ask(path, "status", wait_s)
    posts = json.loads(said)["repositories"] if said and said.startswith("{") else []
    wanted = str(common.resolve())
    return next((str(post["state"]) for post in posts if post["common"] == wanted), None)


def notify(address: str, **words: str) -> bool:
    """Tell who started us (`NOTIFY_SOCKET`): READY="1", STATUS="...". Whether it was sent; a daemon goes on without."""
    if not address.startswith(("/", "@")):
        return False
    text = "\n".join(f"{name}={value.splitlines()[0] if value else ''}" for name, value in words.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.settimeout(1.0)
        line.sendto(text.encode("utf-8", "replace"), address.replace("@", "\0", 1) if address[0] == "@" else address)
        return True
    return False
