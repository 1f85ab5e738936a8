"""Watches a repository's refs: inotify on the directories where git moves them.

Owns the watches, on `refs/heads` and below, on `packed-refs` and `HEAD`, on reftables and on the doorbell of our hooks.
It only says that something may have moved; whether it did is for who reads the refs. A watch can be silent (a network
file system, a limit of the kernel), so nobody may rely on it alone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import ObservedWatch

_KINDS: list[type[FileSystemEvent]] = [
    *(FileCreatedEvent, FileClosedEvent, FileMovedEvent, FileDeletedEvent),
    *(DirCreatedEvent, DirMovedEvent, DirDeletedEvent),
]
_PLACES = (("", False), ("refs/heads", True), ("reftable", False), ("pantheon", False))
_NAMES = {  # in those that hold more than refs; git writes `X.lock` and renames it
    "": frozenset({"HEAD", "HEAD.lock", "packed-refs", "packed-refs.lock", "reftable", "pantheon"}),
    "pantheon": frozenset({"doorbell"}),
}


class _Handler(FileSystemEventHandler):
    def __init__(self, names: frozenset[str] | None, rang: Callable[[], None]) -> None:
        self.names, self.rang = names, rang

    def on_any_event(self, event: FileSystemEvent) -> None:
        touched = {os.path.basename(os.fsdecode(path)) for path in (event.src_path, event.dest_path) if path}
        if self.names is None or touched & self.names:
            self.rang()


class RefWatch:
    """All watches of one daemon. `rang` is called on a thread of the observer's, with the common git dir."""

    def __init__(self, rang: Callable[[str], None]) -> None:
        self._rang = rang
        self._observer = Observer()
        self._observer.start()
        self._held: dict[str, dict[str, tuple[ObservedWatch, int]]] = {}

    def watch(self, common: str) -> str:
        """Watch a repository, or what of it came or was replaced since; why some of it cannot be watched, or ""."""
        held = self._held.setdefault(common, {})
        why = ""
        for place, deep in _PLACES:
            path = Path(common, place)
            inode = _inode(path)
            if place in held and held[place][1] != inode:
                self._drop(held.pop(place)[0])
            if place not in held and inode:
                handler = _Handler(_NAMES.get(place), lambda: self._rang(common))
                try:
                    watch = self._observer.schedule(handler, str(path), recursive=deep, event_filter=_KINDS)
                except OSError as error:
                    why = f"{path}: {error.strerror or error}"
                else:
                    held[place] = (watch, inode)
        return why

    def leave(self, common: str) -> None:
        for watch, _ in self._held.pop(common, {}).values():
            self._drop(watch)

    def _drop(self, watch: ObservedWatch) -> None:
        with contextlib.suppress(KeyError, OSError):
            self._observer.unschedule(watch)

    def close(self) -> None:
        self._observer.stop()
        self._observer.join(5.0)


def _inode(path: Path) -> int:
    """0: no such directory."""
    try:
        return path.stat().st_ino if path.is_dir() else 0
    except OSError:
        return 0
