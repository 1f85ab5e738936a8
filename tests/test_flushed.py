"""Objects are on the disk before the ref that leads to them: which flush counts for what was written when."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from pantheon import disk


@pytest.fixture
def syncs(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], int]]:
    """What the next flushes do in the place of syncfs, the last of them again and again."""
    found: list[Callable[[], int]] = [lambda: 0]

    def syncfs(_: int) -> int:
        return (found.pop(0) if len(found) > 1 else found[0])()

    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: SimpleNamespace(syncfs=syncfs))
    return found


def test_nothing_new_needs_no_flush(tmp_path: Path, syncs: list[Callable[[], int]]) -> None:
    done: list[int] = []
    syncs[:] = [lambda: done.append(1) or 0]  # type: ignore[func-returns-value]
    flushed = disk.Flushed()
    flushed.flush(tmp_path)
    flushed.flush(tmp_path)
    assert len(done) == 1, "the first one is for what a process that died had written"
    flushed.soil(tmp_path)
    flushed.flush(tmp_path)
    assert len(done) == 2


def test_what_was_written_during_a_flush_waits_for_its_own(tmp_path: Path, syncs: list[Callable[[], int]]) -> None:
    flushed, done = disk.Flushed(), list[str]()

    def while_others_write() -> int:
        flushed.soil(tmp_path)
        done.append("first")
        return 0

    syncs[:] = [while_others_write, lambda: done.append("second") or 0]  # type: ignore[func-returns-value]
    flushed.flush(tmp_path)
    flushed.flush(tmp_path)
    assert done == ["first", "second"]


def test_who_comes_while_another_flushes_waits_for_it(tmp_path: Path, syncs: list[Callable[[], int]]) -> None:
    flushed, begun, go = disk.Flushed(), threading.Event(), threading.Event()

    def slow() -> int:
        begun.set()
        go.wait(20)
        return 0

    syncs[:] = [slow]
    one = threading.Thread(target=flushed.flush, args=(tmp_path,))
    other = threading.Thread(target=flushed.flush, args=(tmp_path,))
    one.start()
    assert begun.wait(20)
    other.start()
    other.join(0.1)
    assert other.is_alive(), "the ref would be moved before its objects are on the disk"
    go.set()
    one.join(20)
    other.join(20)
    assert not other.is_alive()


def test_a_flush_that_fails_is_told_and_done_again(tmp_path: Path, syncs: list[Callable[[], int]]) -> None:
    flushed = disk.Flushed()
    syncs[:] = [lambda: -1, lambda: 0]
    with pytest.raises(OSError, match="could not be flushed"):
        flushed.flush(tmp_path)
    flushed.flush(tmp_path)
    assert len(syncs) == 1
