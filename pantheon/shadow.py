"""A repository's shadow: a git dir of its own that borrows the repository's objects and is thrown away.

What a replay or a dry run writes (objects, worktrees, refs, a key) goes there, so that the repository itself is only
read. Owns the bytes of that git dir; it has the refs that it is given, and none of the repository's configuration.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from pantheon import owner
from pantheon.enclosure import alternates
from pantheon.errors import RepositoryError
from pantheon.git import Repo

_CONFIG = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n[gc]\n\tauto = 0\n"
_SORTED = "# pack-refs with: peeled fully-peeled sorted \n"


@contextmanager
def shadow_of(
    own: Repo, cache: Path, refs: Mapping[str, str] = MappingProxyType({}), branch: str = "main"
) -> Iterator[Repo]:
    """A repository in a new directory below `cache`, with `refs` (of commits) and HEAD on `branch`; gone at the end.

    Raises RepositoryError.
    """
    try:
        cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f"shadow-{owner.me().mark}-", dir=cache)).resolve()
    except OSError as error:
        raise RepositoryError("cannot make a directory", str(cache), str(error.strerror), f"df -h {cache}") from error
    try:
        _make(own, place / ".git", refs, branch)
        yield Repo.discover(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _make(own: Repo, git_dir: Path, refs: Mapping[str, str], branch: str) -> None:
    objects = (own.common_dir / "objects").resolve()
    borrowed = [os.fsencode(path) for path in (objects, *alternates(objects))]
    if any(b"\n" in path for path in borrowed):
        raise RepositoryError("cannot borrow its objects", str(own.root), "a line break stands in its path")
    lines = b"".join(b"%s %s\n" % (oid.encode(), os.fsencode(name)) for name, oid in sorted(refs.items()))
    for folder in ("objects/info", "objects/pack", "refs"):
        (git_dir / folder).mkdir(parents=True)
    (git_dir / "objects/info/alternates").write_bytes(b"".join(path + b"\n" for path in borrowed))
    (git_dir / "packed-refs").write_bytes(_SORTED.encode() + lines)
    (git_dir / "config").write_text(_CONFIG)
    (git_dir / "HEAD").write_bytes(b"ref: refs/heads/%s\n" % os.fsencode(branch))
    shallow = own.common_dir / "shallow"
    if shallow.is_file():
        (git_dir / "shallow").write_bytes(shallow.read_bytes())
