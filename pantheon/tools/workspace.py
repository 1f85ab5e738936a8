"""One item's worktree on disk, and the only way a tool reaches a disk: confined beneath it, links never followed.

Files come into the directory when they are first used. What changed is found by looking at the disk, never by asking a
tool. It knows nothing of git but that a file `.git` may lie at the root and must stay as it was. Whatever the disk does
meanwhile (a file is swapped, grows, vanishes) ends in a ToolError.
"""

from __future__ import annotations

import copy
import errno
import os
import stat
from collections.abc import Awaitable, Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pantheon.errors import ToolError
from pantheon.names import is_git_name, name_fault
from pantheon.records import CheckResult, Record
from pantheon.tools.facts import Facts

MAX_BYTES = 1024 * 1024  # of one file
MAX_TOTAL = 16 * 1024 * 1024
MAX_ENTRIES = 2_000  # files and directories
MAX_DEPTH = 48
_REPOSITORY = frozenset({"head", "objects", "refs"})
_SCRATCH = ".pantheon-write"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

R = TypeVar("R", bound=Record)
T = TypeVar("T")
Checker = Callable[[Sequence[str]], Awaitable[tuple[CheckResult, ...]]]


class Workspace:
    """The worktree of one item. `origin` is the target's path in the base tree, `target` its path now, `focus` the part
    of it that a node of a fan-out works on ("": all of it).

    `rules` are those of the item's flow, `base_reader` gives a file of the base tree or None, `checker` runs named
    checks on what the worktree holds now, `checks` are the names it knows. Every refusal is a ToolError.
    """

    def __init__(
        self,
        root: Path,
        target: str,
        rules: Record,
        facts: Facts,
        base_reader: Callable[[str], bytes | None],
        checker: Checker | None = None,
        checks: Sequence[str] = (),
    ) -> None:
        self.root, self.target, self.origin = root, target, target
        self.rules, self.facts, self.checker, self.checks = rules, facts, checker, tuple(checks)
        self.focus = ""
        self._base_reader = base_reader
        self._base: dict[str, bytes | None] = {}
        self._pointer = self._read_pointer()
        self._known: dict[Hashable, Any] = {}

    def focused(self, focus: str) -> Workspace:
        """The same worktree, for the work on one part of the target."""
        other = copy.copy(self)
        other.focus = focus
        return other

    def ruled(self, kind: type[R]) -> R:
        """The flow's rules, which a tool for another kind of rules cannot use."""
        if not isinstance(self.rules, kind):
            raise ToolError("cannot use the tool", ascii(self.target), f"its flow has no rules for {kind.__name__}")
        return self.rules

    def once(self, key: Hashable, work: Callable[[], T]) -> T:
        """What `work` gives, computed once for the item. `key` holds all that it reads but for what a worktree never
        changes: its rules, its facts, its base tree and its origin."""
        if key not in self._known:
            self._known[key] = work()
        found: T = self._known[key]
        return found

    def base(self, path: str) -> bytes | None:
        """The file as it is in the base tree."""
        if path not in self._base:
            return self._base_reader(path)
        return self._base[path]

    def read(self, path: str) -> bytes:
        """The file as it is now."""
        parts = _parts(path)
        self._materialise(path)
        with self._folder(parts[:-1], path) as folder:
            data = None if folder is None else _read(folder, parts[-1], path)
        if data is None:
            raise ToolError("cannot read", ascii(path), "no such file")
        return data

    def look(self, path: str) -> bytes | None:
        """The file as it is now, without bringing it into the directory; None where there is none."""
        parts = _parts(path)
        if path not in self._base:
            data = self._base_reader(path)
            if data is not None:
                return data
        with self._folder(parts[:-1], path) as folder:
            return None if folder is None else _read(folder, parts[-1], path)

    def exists(self, path: str) -> bool:
        """Whether there is such a file now."""
        try:
            self.read(path)
        except ToolError as error:
            if error.why == "no such file":
                return False
            raise
        return True

    def write(self, path: str, data: bytes) -> None:
        """Put the file; atomic, and a link in its place is replaced, not followed."""
        parts = _parts(path)
        self._materialise(path)
        self._put(parts, path, data)

    def remove(self, path: str) -> None:
        """Take the file away; where there is none nothing happens."""
        parts = _parts(path)
        self._materialise(path)
        with self._folder(parts[:-1], path) as folder:
            if folder is not None:
                _forget(parts[-1], folder)

    def rename(self, old: str, new: str) -> None:
        """Move a file to a name that is free, also for a disk that ignores case; `target` follows."""
        before, after = _parts(old), _parts(new)
        fault = name_fault(after[-1])
        if fault:
            raise ToolError("cannot rename", ascii(new), fault)
        data = self.read(old)
        taken = new.casefold() in self.facts.tree.lower and new.casefold() != old.casefold()
        if new != old and (taken or self.exists(new)):
            raise ToolError("cannot rename", ascii(new), "the name is taken")
        if new == old:
            return
        if self.focus:
            raise ToolError("cannot rename", ascii(old), "other parts of it are being worked on")
        self._put(after, new, data)
        with self._folder(before[:-1], old) as folder:
            if folder is not None:
                os.unlink(before[-1], dir_fd=folder)
        if self.target == old:
            self.target = new

    def changes(self) -> dict[str, bytes | None]:
        """What the disk holds that differs from the base tree: path and bytes; None for a file that is gone."""
        if self._read_pointer() != self._pointer:
            raise ToolError("refused worktree", "'.git'", "it was tampered with: no longer the file that was put there")
        found = dict(self._harvest())
        changed: dict[str, bytes | None] = {path: data for path, data in found.items() if self.base(path) != data}
        changed.update((path, None) for path, data in self._base.items() if data is not None and path not in found)
        return dict(sorted(changed.items()))

    # --- beneath the root ---

    def _materialise(self, path: str) -> None:
        if path in self._base:
            return
        data = self._base_reader(path)
        if data is not None and len(data) > MAX_BYTES:
            raise ToolError("cannot use", ascii(path), f"{len(data)} bytes, more than the {MAX_BYTES} allowed")
        if data is not None:
            self._put(_parts(path), path, data)
        self._base[path] = data

    def _put(self, parts: tuple[str, ...], path: str, data: bytes) -> None:
        if len(data) > MAX_BYTES:
            raise ToolError("cannot write", ascii(path), f"{len(data)} bytes, more than the {MAX_BYTES} allowed")
        with self._folder(parts[:-1], path, create=True) as folder:
            assert folder is not None
            try:
                if stat.S_ISDIR(os.stat(parts[-1], dir_fd=folder, follow_symlinks=False).st_mode):
                    raise ToolError("cannot write", ascii(path), "is a directory")
            except FileNotFoundError:
                pass
            try:
                with os.fdopen(os.open(_SCRATCH, _CREATE, 0o600, dir_fd=folder), "wb") as file:
                    file.write(data)
                os.rename(_SCRATCH, parts[-1], src_dir_fd=folder, dst_dir_fd=folder)
            except OSError as cause:
                if cause.errno != errno.EEXIST:
                    _forget(_SCRATCH, folder)
                raise ToolError("cannot write", ascii(path), cause.strerror or str(cause)) from cause

    def _read_pointer(self) -> bytes | None:
        """The bytes of `.git` at the root; None where there is none or it is no plain file."""
        with self._folder((), ".git") as root, suppress(ToolError):
            return None if root is None else _read(root, ".git", ".git")
        return None

    @contextmanager
    def _folder(self, parts: tuple[str, ...], path: str, create: bool = False) -> Iterator[int | None]:
        """A descriptor of the directory beneath the root; None where there is none. Disk errors become ToolErrors."""
        with _disk(path):
            try:
                descriptor = os.open(self.root, _DIRECTORY)
            except OSError as cause:
                raise ToolError("cannot reach", ascii(path), "the worktree is gone or no directory any more") from cause
            missing = False
            try:
                for part in parts:
                    try:
                        if create:
                            _make(part, descriptor)
                        inner = os.open(part, _DIRECTORY, dir_fd=descriptor)
                    except FileNotFoundError:
                        missing = True
                        break
                    except OSError as cause:
                        raise ToolError("cannot reach", ascii(path), f"{part!a} is no directory of ours") from cause
                    os.close(descriptor)
                    descriptor = inner
                yield None if missing else descriptor
            finally:
                os.close(descriptor)

    def _harvest(self) -> Iterator[tuple[str, bytes]]:
        """Every regular file beneath the root, with caps; anything else is refused by name."""
        count = total = 0
        stack: list[tuple[str, ...]] = [()]
        while stack:
            parts = stack.pop()
            if len(parts) > MAX_DEPTH:
                raise ToolError("cannot harvest", ascii("/".join(parts)), f"nested deeper than {MAX_DEPTH}")
            with self._folder(parts, "/".join(parts)) as folder:
                names = [] if folder is None else _names(folder, MAX_ENTRIES + 2 - count)
                if {name.casefold() for name in names} >= _REPOSITORY:
                    raise ToolError("refused directory", ascii("/".join(parts)), "an embedded git repository")
                for name in names:
                    assert folder is not None
                    path = "/".join([*parts, name])
                    mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
                    if path == ".git" and stat.S_ISREG(mode):
                        continue
                    _parts(path)
                    count += 1
                    if count > MAX_ENTRIES:
                        raise ToolError("cannot harvest", ascii(path), f"more than {MAX_ENTRIES} entries")
                    if stat.S_ISDIR(mode):
                        stack.append((*parts, name))
                        continue
                    data = _read(folder, name, path) or b""
                    total += len(data)
                    if total > MAX_TOTAL:
                        raise ToolError("cannot harvest", ascii(path), f"more than {MAX_TOTAL} bytes in all")
                    yield path, data


@contextmanager
def _disk(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as cause:
        raise ToolError("cannot use", ascii(path), cause.strerror or str(cause)) from cause


def _names(folder: int, limit: int) -> list[str]:
    """The names in a directory, sorted; at most `limit` of them are looked at."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in islice(entries, limit))


@lru_cache(1 << 12)
def _parts(path: str) -> tuple[str, ...]:
    """The components of a path beneath the root, or a refusal."""
    parts = tuple(path.split("/"))
    why = ""
    if not path or path.startswith("/"):
        why = "not a path beneath the worktree"
    elif any(part in ("", ".", "..") for part in parts):
        why = "has an empty or dot component"
    elif any(c < " " or "\x7f" <= c <= "\x9f" for c in path):
        why = "holds a control character"
    elif any(is_git_name(part) for part in parts):
        why = "names git's own directory"
    elif _SCRATCH in parts:
        why = "is a reserved name"
    if why:
        raise ToolError("refused path", ascii(path), why)
    return parts


def _read(folder: int, name: str, path: str) -> bytes | None:
    """A regular file with one name and a bounded size; None where there is none. Nothing else is ever opened."""
    try:
        place = os.open(name, _LOOK, dir_fd=folder)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(place)
        if not stat.S_ISREG(status.st_mode):
            raise ToolError("refused file", ascii(path), "not a regular file")
        if status.st_nlink > 1:
            raise ToolError("refused file", ascii(path), "a hard link")
        data = _content(os.open(f"/proc/self/fd/{place}", _READ), status.st_size)
    finally:
        os.close(place)
    if len(data) > MAX_BYTES:
        raise ToolError("refused file", ascii(path), f"more than the {MAX_BYTES} bytes allowed")
    return data


def _content(file: int, size: int) -> bytes:
    """What a file holds, up to a byte more than is allowed; `size`: what it seems to hold. Closes it. To ask for the
    most at once takes that much memory, which is four times the work."""
    try:
        data = part = os.read(file, min(size, MAX_BYTES) + 1)
        while part and len(data) <= MAX_BYTES:
            part = os.read(file, MAX_BYTES + 1 - len(data) if len(data) > size else 1)
            data += part
    finally:
        os.close(file)
    return data


def _make(name: str, folder: int) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=folder)


def _forget(name: str, folder: int) -> None:
    with suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
