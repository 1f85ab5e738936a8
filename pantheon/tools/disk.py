"""Reading an exported tree on disk, for the programs that run as checks: regular files only, links never followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator


def walk(root: str) -> Iterator[str]:
    """Every path beneath `root` but git's own."""
    for folder, names, files in os.walk(root):
        below = os.path.relpath(folder, root)
        if below == ".":
            names[:] = [name for name in names if name != ".git"]
        for name in files:
            if name != ".git":
                yield name if below == "." else f"{below}/{name}"


def read(root: str, path: str) -> bytes | None:
    """A regular file beneath the root; links are not followed."""
    try:
        descriptor = os.open(f"{root}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read() if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def shown(text: str) -> str:
    """Text that cannot drive a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
