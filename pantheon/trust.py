"""Trust in what a repository's `.pantheon/` says: asked for once per content, given by a person, kept outside of git.

Owns the records in the user's state directory, one file per repository path, which no repository and no night can
write. A `.pantheon/` that holds nothing but files as this version packages them needs no word: it is the program's own.
Does not cover what a trusted command does in its sandbox, nor who may write to the state directory.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, ValidationError

from pantheon import config
from pantheon.errors import TrustError
from pantheon.git import Entry, Repo
from pantheon.plan import printable
from pantheon.records import SCHEMA_VERSION, Record

HINT = "git pantheon trust"
MOST_BYTES = 16 << 20  # of a `.pantheon/` that a person could be asked to read
_FILES = (0o100644, 0o100755)


class Trusted(Record):
    """What a person trusted: the digest and the files it stands for, kept to show what changed since."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
    schema_version: int = SCHEMA_VERSION
    repository: str
    digest: str
    files: dict[str, bytes]
    when: datetime


class Look(Record):
    """One commit's `.pantheon/` beside what was trusted. `files` maps paths to bytes (after their mode, where that is
    not a file's); `foreign` names those that are not as packaged."""

    repository: str
    digest: str
    files: dict[str, bytes]
    foreign: tuple[str, ...]
    before: Trusted | None

    @property
    def trusted(self) -> bool:
        return not self.foreign or (self.before is not None and self.before.digest == self.digest)


def _record_path(repository: str, state: Path) -> Path:
    return state / "trust" / f"{hashlib.sha256(os.fsencode(repository)).hexdigest()[:32]}.json"


def look(repo: Repo, entries: Mapping[str, Entry], state: Path) -> Look:
    """Compare a commit's `.pantheon/` (its `entries`) with what was trusted for this repository. Raises TrustError."""
    files: dict[str, bytes] = {}
    foreign: list[str] = []
    digest = hashlib.sha256()
    total = 0
    for path, entry in sorted(entries.items()):
        inside = path.removeprefix(config.DIRECTORY + "/")
        if inside == path:
            continue
        gitlink = entry.mode == 0o160000
        total += 0 if gitlink else repo.blob_size(entry.oid)
        if total > MOST_BYTES:
            why = f"it holds more than {MOST_BYTES >> 20} MiB, which nobody can read"
            raise TrustError(
                "cannot trust", f"{repo.root}/{config.DIRECTORY}", why, f"git rm files of {config.DIRECTORY}"
            )
        data = entry.oid.encode() if gitlink else repo.read_blob(entry.oid)
        if entry.mode not in _FILES:
            data = f"mode {entry.mode:o}: ".encode() + data
        files[path] = data
        digest.update(b"%s\0%o\0%d\0" % (os.fsencode(path), entry.mode, len(data)) + data)
        if entry.mode not in _FILES or not _as_packaged(inside, data):
            foreign.append(path)
    repository = os.fspath(repo.common_dir.resolve())
    before = _read(repository, state)
    return Look(repository=repository, digest=digest.hexdigest(), files=files, foreign=tuple(foreign), before=before)


def _as_packaged(inside: str, data: bytes) -> bool:
    path = config.packaged(*inside.split("/"))
    return path.is_relative_to(config.packaged()) and path.is_file() and path.read_bytes() == data


def _read(repository: str, state: Path) -> Trusted | None:
    path = _record_path(repository, state)
    try:
        found = Trusted.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        raise TrustError("cannot read what was trusted", str(path), str(error).splitlines()[0], f"rm {path}") from error
    return found if found.repository == repository else None


def require(found: Look) -> None:
    """Raise TrustError when nobody trusted this content."""
    if found.trusted:
        return
    why = "nobody trusted it yet" if found.before is None else "it changed since it was trusted"
    thing = f"{config.DIRECTORY}/ of this commit ({', '.join(map(printable, found.foreign[:3]))})"
    raise TrustError("nothing of this repository is run", thing, why, HINT)


def record(found: Look, state: Path, when: datetime) -> None:
    """Keep that a person trusts this content. Raises TrustError when it cannot be written (so at night)."""
    path = _record_path(found.repository, state)
    kept = Trusted(repository=found.repository, digest=found.digest, files=found.files, when=when)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor, scratch = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        with os.fdopen(descriptor, "w") as file:
            file.write(kept.to_json() + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(scratch).replace(path)
    except OSError as error:
        raise TrustError("cannot keep the trust", str(path), str(error.strerror), f"ls -ld {path.parent}") from error


def carry(repo: Repo, before: str, after: str, path: str, state: Path, when: datetime) -> bool:
    """Whether the `.pantheon/` of a commit is trusted, or is now: where that of the commit before was, and nothing of
    it became another but the version and the adapter in the agent's file at `path`. Raises TrustError."""
    old, new = (look(repo, repo.entries(commit), state) for commit in (before, after))
    if new.trusted:
        return True
    if not old.trusted or not _same_but_adapter(old.files, new.files, path):
        return False
    record(new, state, when)
    return True


def _same_but_adapter(old: Mapping[str, bytes], new: Mapping[str, bytes], path: str) -> bool:
    """Whether two contents are the same but for that one agent's version and adapter. A file that is not there is the
    packaged one."""
    for name in old.keys() | new.keys():
        one, other = (files[name] if name in files else _packaged_bytes(name) for files in (old, new))
        if one != other and (name != path or (kept := _kept(one)) is None or kept != _kept(other)):
            return False
    return True


def _kept(data: bytes) -> dict[str, Any] | None:
    """What an agent's file says besides its version and adapter; None for what is none."""
    try:
        found = tomllib.loads(data.decode())
        found["agent"].pop("version")
        found["agent"]["runtime"].pop("adapter", None)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, KeyError, AttributeError, TypeError):
        return None
    return found


def changes(found: Look) -> Iterator[str]:
    """What differs from what was trusted last, or from what is packaged: a unified diff, printable line by line."""
    before = found.before.files if found.before else {name: _packaged_bytes(name) for name in found.foreign}
    for name in sorted({*before, *found.files}):
        old, new = before.get(name, b""), found.files.get(name, b"")
        if old == new or (found.before is None and name not in found.foreign):
            continue
        left, right = (data.decode("utf-8", "backslashreplace").splitlines() for data in (old, new))
        shown = difflib.unified_diff(left, right, f"a/{name}", f"b/{name}", lineterm="")
        yield from (printable(line) for line in shown)


def _packaged_bytes(name: str) -> bytes:
    path = config.packaged(*name.removeprefix(config.DIRECTORY + "/").split("/"))
    return path.read_bytes() if path.is_relative_to(config.packaged()) and path.is_file() else b""
