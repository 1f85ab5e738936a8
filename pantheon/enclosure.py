"""What the night itself sees: a sandbox around the orchestrator, made from one repository and one user's places.

Owns the mounts. Of the repository the night gets what it must write (objects, worktree entries, its own refs) and the
rest of the git dir read-only: the kernel keeps configuration, hooks, index, HEAD, the user's branches and the bot's key
as they are. The user's files, home directory and sockets are not there at all, but for the directories of installed
packages that checks need, read-only. process.py starts it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from pantheon import config, process, relay
from pantheon.errors import RepositoryError, SandboxError
from pantheon.git import NAMESPACES, Repo
from pantheon.places import Places
from pantheon.sandbox import HOME_INSIDE, MIB, PACKAGE_INSIDE, Sandbox

LOCKS = (
    "refs.lock",
    "notes.lock",
    "prs.lock",
)  # below `pantheon/` in the common git dir: the only files there the night writes
TERMINAL = ("TERM", "COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR")
SHARED_BYTES = 4096 * MIB  # of /tmp and /dev/shm, which the night's children share memory through
_REFS = tuple(name.rstrip("/") for name in NAMESPACES)
_WRITTEN = (*_REFS, *(f"logs/{name}" for name in _REFS), "worktrees", "pantheon/placed")
_MADE = (*_WRITTEN, "refs/notes", "logs/refs/notes")
_DEPTH = 8  # of alternates that borrow from alternates, as git counts


def night_sandbox(
    repo: Repo,
    where: Places,
    model: Path | None,
    environ: Mapping[str, str],
    way: Path | None = None,
    needs: Mapping[str, Path] = MappingProxyType({}),
    shown: Sequence[Path] = (),
) -> Sandbox:
    """The sandbox of one night. Makes the directories that it needs where they are missing. Raises RepositoryError.

    `way`: the directory of a relay's socket, for a night whose model server is outside. `needs`: directories of a
    working tree that checks need, by their place in it. `shown`: further directories, read-only.
    """
    common = repo.common_dir.resolve()
    _must_be_ours(common)
    for place in (where.cache, where.logs):
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            why = str(error.strerror)
            raise RepositoryError("cannot start a night", str(place), why, f"findmnt -T {place.parent}") from error
    groups = process.groups()
    written = [common / "objects", *_own_directories(common), *_lock_files(common), where.cache, where.logs]
    written += groups.paths if groups else ()
    seen = [common, *alternates(common / "objects"), Path("/sys")]
    pointer = repo.root / ".git"
    if pointer.resolve() != common:  # a linked worktree, a submodule, a git dir elsewhere
        seen.append(pointer)
    readable = [(path, path) for path in seen]
    readable += [(path, repo.root.resolve() / name) for name, path in needs.items()]
    readable += [(path, path) for path in shown]
    readable.append((config.packaged().parent, Path(PACKAGE_INSIDE, "templates")))
    if model is not None:
        readable.append((model, model))
    if way is not None:
        readable.append((way, relay.INSIDE))
    return Sandbox(
        readable=tuple(readable),
        writable=tuple((path, path) for path in written),
        devices=tuple(sorted(Path("/dev").glob("nvidia*"))),
        cwd=repo.root,
        home=where.home if len(where.home.parts) > 1 else Path(HOME_INSIDE),
        env=_environment(where, environ) | ({process.GROUPS: ":".join(map(str, groups.paths))} if groups else {}),
        hostname="night",
        tmp_bytes=SHARED_BYTES,
        nests=True,
    )


def _must_be_ours(common: Path) -> None:
    owner = common.stat().st_uid
    if owner != os.geteuid():
        raise RepositoryError(
            "cannot start a night",
            str(common),
            f"it belongs to user {owner}, and you are user {os.geteuid()}; a sandbox cannot write what is another's",
            f"run it as that user: sudo -u '#{owner}' git pantheon night --now",
        )


def _own_directories(common: Path) -> list[Path]:
    """Our ref namespaces with their logs, and the linked worktrees, made where they are missing."""
    found = [common / name for name in _WRITTEN]
    for path in found:
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            branch = path.relative_to(common).as_posix().removeprefix("refs/heads/")
            hint = f"git branch -m {branch} old-{branch}" if path.name == "pantheon" else f"ls -ld {path}"
            raise RepositoryError("cannot start a night", str(path), str(error.strerror), hint) from error
    return found


def _lock_files(common: Path) -> list[Path]:
    (common / "pantheon").mkdir(mode=0o700, exist_ok=True)
    found = [common / "pantheon" / name for name in LOCKS]
    for path in found:
        try:
            path.touch(mode=0o600)
        except OSError as error:
            why = str(error.strerror)
            raise RepositoryError("cannot start a night", str(path), why, f"findmnt -T {path}") from error
    return found


def alternates(objects: Path) -> list[Path]:
    """Object directories that a repository borrows from. Raises SandboxError when the chain does not end."""
    found: list[Path] = []
    waiting = [(objects, 0)]
    while waiting:
        place, depth = waiting.pop()
        try:
            lines = (place / "info" / "alternates").read_bytes().splitlines()
        except OSError:
            continue
        if depth >= _DEPTH:
            raise SandboxError(
                "cannot show the objects to the night", str(place), f"more than {_DEPTH} alternates deep"
            )
        for line in lines:
            path = (place / os.fsdecode(line)).resolve() if line and not line.startswith(b"#") else None
            if path is not None and path.is_dir() and path not in found:
                found.append(path)
                waiting.append((path, depth + 1))
    return found


def tidy(repo: Repo) -> None:
    """Remove the directories that `night_sandbox` made and the night left empty."""
    common = repo.common_dir.resolve()
    for name in _MADE:
        with contextlib.suppress(OSError):  # not empty, or not there
            (common / name).rmdir()


def _environment(where: Places, environ: Mapping[str, str]) -> dict[str, str]:
    """An allow-list: our directories, and how the terminal looks."""
    own = {
        "XDG_CACHE_HOME": where.cache.parent,
        "XDG_CONFIG_HOME": where.config.parent,
        "XDG_DATA_HOME": where.data.parent,
        "XDG_STATE_HOME": where.state.parent,
    }
    shown = {name: environ[name] for name in TERMINAL if name in environ}
    return {**{name: str(path) for name, path in own.items()}, **shown, "PYTHONUNBUFFERED": "1"}
