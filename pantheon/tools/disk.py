"""Reading a committed tree, for the programs that run as checks: exported on disk, or packed in one file with what a
change makes of it. Regular files only, links never followed.
"""

from __future__ import annotations

import json
import mmap
import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol


class View(Protocol):
    """A tree as a check sees it: the paths of its regular files, and what they hold (None: no such file)."""

    @property
    def paths(self) -> frozenset[str]: ...

    def read(self, path: str) -> bytes | None: ...


@dataclass(frozen=True)
class Exported:
    """A tree that was exported to a directory."""

    root: str

    @cached_property
    def paths(self) -> frozenset[str]:
        return frozenset(walk(self.root))

    def read(self, path: str) -> bytes | None:
        return read(self.root, path)


class Packed:
    """A tree in one file, as `pack` writes it: mapped, so that nothing is read before it is asked for."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        (size,) = _HEAD.unpack(self._data[: _HEAD.size])
        self._places: dict[str, list[int]] = json.loads(self._data[_HEAD.size : _HEAD.size + size])
        self._from = _HEAD.size + size
        self.paths = frozenset(self._places)

    def read(self, path: str) -> bytes | None:
        place = self._places.get(path)
        return self._data[self._from + place[0] : self._from + place[0] + place[1]] if place else None


@dataclass(frozen=True)
class Changed:
    """A tree with some files put or, with None, taken away. Where no path came or went, it has the paths of the old."""

    base: View
    changes: Mapping[str, bytes | None]

    @cached_property
    def paths(self) -> frozenset[str]:
        gone = {path for path, data in self.changes.items() if data is None} & self.base.paths
        fresh = {path for path, data in self.changes.items() if data is not None} - self.base.paths
        return (self.base.paths - gone) | fresh if gone or fresh else self.base.paths

    def read(self, path: str) -> bytes | None:
        return self.changes[path] if path in self.changes else self.base.read(path)


_HEAD = struct.Struct(">Q")  # the size of the index: JSON, path -> where its bytes begin behind it, and how many


def pack(files: Iterable[tuple[str, Callable[[], bytes]]], path: str) -> None:
    """Write a tree as `Packed` reads it. The file is there when all of it is."""
    places: dict[str, tuple[int, int]] = {}
    parts: list[bytes] = []
    size = 0
    for name, content in files:
        data = content()
        places[name] = size, len(data)
        parts.append(data)
        size += len(data)
    index = json.dumps(places, separators=(",", ":")).encode("ascii")
    with open(f"{path}.new", "wb") as file:
        file.write(_HEAD.pack(len(index)) + index)
        file.writelines(parts)
    os.rename(f"{path}.new", path)


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
