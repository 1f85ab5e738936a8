"""Linked worktrees and clean exports as files on disk.

Owns the bytes of a linked worktree's administrative directory, its removal, and the export of a list of blobs through
a store of hard links. It runs no program, reads no object and follows no link; `git.py` hands it values.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pantheon import faults
from pantheon.errors import DiskFull, RepositoryError, is_full
from pantheon.names import is_git_name

REMOVE_S = 60.0  # how long the removal of one tree may take
NAME_TRIES = 100
ROOM = ".pantheon"  # in `worktrees/`: where an entry is written before it has its name. Git names none of its own so,
# and as it is locked git prunes nothing that is half made in it, nor `worktrees/` itself, as it does with an empty one.
LOCKED = b"pantheon works here\n"
_ADMIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


def _admin(common_dir: Path, name: str) -> Path:
    if not _ADMIN_NAME.fullmatch(name):
        raise RepositoryError("cannot use this worktree name", repr(name), "letters, digits, '.', '_' and '-' only")
    return common_dir / "worktrees" / name


def _owner(admin: Path) -> str | None:
    """The `.git` file that an administrative directory points to; None when it points nowhere: who made or removed it
    was killed at that."""
    try:
        return os.fsdecode((admin / "gitdir").read_bytes().rstrip(b"\n")) or None
    except FileNotFoundError:
        return None


def add(common_dir: Path, path: Path, commit: str, name: str) -> None:
    """What `git worktree add --no-checkout --detach` makes, under a name of our choice, with no child process.

    The administrative directory appears whole by one rename, so a kill leaves either nothing of it or all of it.
    """
    admin = _admin(common_dir, name)
    path = path.absolute()
    try:
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
            raise FileExistsError(f"{path} is there and is not an empty directory")
        for left in reversed(range(NAME_TRIES)):
            try:
                _name(admin, path, commit)
                break
            except FileNotFoundError:  # git pruned `worktrees/`, or our room before it was locked
                if not left:
                    raise
        faults.point("worktree named")
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        (path / ".git").write_bytes(b"gitdir: " + os.fsencode(admin) + b"\n")
    except OSError as error:
        if is_full(error):
            raise DiskFull("cannot add a worktree", str(path), str(error), "free some disk space") from error
        raise RepositoryError(
            "cannot add a worktree", str(path), str(error), "git worktree list; then remove the stale one"
        ) from error


def _room(place: Path) -> Path:
    room = place / ROOM
    room.mkdir(parents=True, exist_ok=True)
    (room / "locked").write_bytes(LOCKED)
    return room


def _name(admin: Path, path: Path, commit: str) -> None:
    scratch = _room(admin.parent) / admin.name
    _remove_tree(scratch)
    scratch.mkdir()
    try:
        (scratch / "gitdir").write_bytes(os.fsencode(path / ".git") + b"\n")
        (scratch / "commondir").write_bytes(b"../..\n")
        (scratch / "HEAD").write_bytes(commit.encode("ascii") + b"\n")
        (scratch / "locked").write_bytes(LOCKED)  # or git prunes it until `path` is there
        faults.point("worktree written")
        scratch.rename(admin)  # fails on a directory that is there, since that is never empty
    except OSError:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def remove(common_dir: Path, path: Path, name: str) -> None:
    """Remove the tree at `path` and our administrative directory `name`; either may be missing or half-made.

    The tree is hostile: nothing in it is read or run. An administrative directory that points elsewhere is not ours.
    """
    admin = _admin(common_dir, name)
    path = path.absolute()
    try:
        _remove_tree(path)
        faults.point("worktree emptied")
        for found in (admin, admin.parent / ROOM / name):
            if found.is_dir() and not found.is_symlink() and _owner(found) in (None, os.fspath(path / ".git")):
                _remove_tree(found)
        with _raced():
            if not any(each.startswith("pantheon-") for each in os.listdir(admin.parent)):
                _remove_tree(admin.parent / ROOM)
    except OSError as error:
        raise RepositoryError("cannot remove a worktree", str(path), str(error), f"rm -r {path}") from error


def clear(path: Path) -> None:
    """Remove a hostile tree, whatever it holds; nothing in it is followed. Raises RepositoryError."""
    try:
        _remove_tree(path)
    except OSError as error:
        raise RepositoryError("cannot remove", str(path), str(error), f"rm -r {path}") from error


def _remove_tree(path: Path) -> None:
    """Remove what is at `path`: a tree of any depth and width, with or without permissions. Nothing is followed."""
    if not os.path.lexists(path):
        return
    with _held(path.parent) as parent:
        until = time.monotonic() + REMOVE_S
        while _kind(path.name, parent):
            _removed(path.name, parent)
            if time.monotonic() > until:
                raise OSError(errno.ENOTEMPTY, f"something keeps writing there; given up after {REMOVE_S:g} s")


def _removed(name: str, folder: int) -> None:
    """One pass over a directory: its files go, and what its directories hold moves up to it, so that two descriptors
    do for any depth. What a racing process swapped in between is met again by the next pass."""
    if _kind(name, folder) != stat.S_IFDIR:
        with _raced():
            os.unlink(name, dir_fd=folder)
        return
    with _raced(), _opened(name, folder) as top:
        for each in os.listdir(top):
            with _raced():
                if _kind(each, top) != stat.S_IFDIR:
                    os.unlink(each, dir_fd=top)
                    continue
                with _opened(each, top) as inner:
                    for below in os.listdir(inner):
                        with _raced():
                            if _kind(below, inner) != stat.S_IFDIR:
                                os.unlink(below, dir_fd=inner)
                                continue
                            with _opened(below, inner):  # moving a directory takes the right to write in it
                                os.rename(below, secrets.token_hex(12), src_dir_fd=inner, dst_dir_fd=top)
                os.rmdir(each, dir_fd=top)
        os.rmdir(name, dir_fd=folder)


def _kind(name: str, folder: int) -> int:
    """The type bits of what has this name; 0 when nothing has."""
    try:
        return stat.S_IFMT(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return 0


@contextmanager
def _held(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _opened(name: str, folder: int) -> Iterator[int]:
    """A directory below another, made ours to read, write and search."""
    place = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        if stat.S_IMODE(os.fstat(place).st_mode) & 0o700 != 0o700:
            os.chmod(f"/proc/self/fd/{place}", 0o700)
        descriptor = os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(place)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _raced() -> Iterator[None]:
    """Pass over what became something else between a look and the act."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR, errno.ELOOP):
            raise


def _safe(name: str) -> bool:
    return name not in ("", ".", "..") and "\\" not in name and not is_git_name(name)


def export(
    entries: Iterable[tuple[str, int, str]], read: Callable[[str], bytes], target: Path, store: Path
) -> tuple[str, ...]:
    """Write regular files (path, mode, oid) below `target`, a directory that is new or empty; the rest is returned.

    Files are hard links into `store/<oid>-<mode>`, read-only and dated by their content, so a second export of a nearly
    equal tree costs links only. Whoever runs programs on the export must mount it read-only: a program that writes
    through a link would change the store (an entry whose mode or date differs is written anew).
    """
    skipped: list[str] = []
    known: set[str] = set()
    try:
        store.mkdir(mode=0o700, parents=True, exist_ok=True)
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        if target.is_symlink() or any(target.iterdir()):
            raise FileExistsError(f"{target} is not an empty directory")
        for path, mode, oid in entries:
            if stat.S_IFMT(mode) != stat.S_IFREG or not all(_safe(part) for part in path.split("/")):
                skipped.append(path)
                continue
            folder = path.rpartition("/")[0]
            if folder not in known:
                (target / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
                known.add(folder)
            executable = bool(mode & 0o100)
            _place(target / path, store / f"{oid}-{'755' if executable else '644'}", oid, read)
    except OSError as error:
        if is_full(error):
            raise DiskFull("cannot export a tree", str(target), str(error), "free some disk space") from error
        raise RepositoryError("cannot export a tree", str(target), str(error), f"ls -ld {target.parent}") from error
    return tuple(skipped)


def _date(oid: str) -> int:
    """A modification time in seconds that differs with the content, so that caches keyed on it do not go stale."""
    return 1_000_000_000 + int(oid[:7], 16)


def _place(path: Path, stored: Path, oid: str, read: Callable[[str], bytes]) -> None:
    permissions = 0o555 if stored.name.endswith("755") else 0o444
    try:
        info = stored.lstat()
        fresh = info.st_mode == stat.S_IFREG | permissions and info.st_mtime == _date(oid)
    except FileNotFoundError:
        fresh = False
    if not fresh:
        _write_file(stored, read(oid), permissions, _date(oid))
    try:
        os.link(stored, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # another file system, or too many links
        _write_file(path, read(oid), permissions, _date(oid))


def _write_file(path: Path, data: bytes, permissions: int, date: int) -> None:
    descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(descriptor, permissions)
        os.utime(descriptor, (date, date))
    Path(scratch).rename(path)
