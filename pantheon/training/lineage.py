"""What the history says of targets: the names and the versions that each had, and so which are held out.

Reads git's history once, with one child process, and the commits of the bot's own items, which may rename as well.
families.py decides; this hands it what it goes by. Writes nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pantheon import children
from pantheon.config import TrainingSettings
from pantheon.errors import RepositoryError
from pantheon.families import Common, Families, Likeness
from pantheon.git import Repo

MOST_BYTES = 256 << 10  # of a text that is compared
AT_ONCE = 2_000  # commits that one child is asked for by name
RENAMES = 1_000  # files that left and came in one commit, beyond which only exact renames are looked for
_LOG = (
    *("--raw", "-z", "--no-abbrev", "--find-renames=40%", "--find-copies=40%", "--no-rename-empty", f"-l{RENAMES}"),
    *("--no-ext-diff", "--no-textconv", "--diff-merges=first-parent", "--root", "--format=%x01%H"),
)
_COMMIT = re.compile(rb"\n?\x01[0-9a-f]{40}")
_STATUS = re.compile(rb"\n?:(\d{6}) (\d{6}) ([0-9a-f]{40}) ([0-9a-f]{40}) ([A-Z])\d*")
_FILES = (b"100644", b"100755")


@dataclass(frozen=True)
class Touch:
    """One file in one commit: its name, the one before where it was renamed or copied, its content (None: deleted)."""

    path: str
    old: str | None
    blob: str | None


@dataclass(frozen=True)
class Lineage:
    """The targets of a repository as its history knows them. `versions`: path -> its contents, oldest first; `now`:
    those of the commit that it was read at."""

    repo: Repo
    families: Families
    versions: Mapping[str, tuple[str, ...]]
    now: Mapping[str, str]
    settings: TrainingSettings

    def held_out(self, path: str) -> bool:
        """Whether nothing may be learned from the target, by its names."""
        return self.families.held_out(path, self.settings.held_out)

    def likeness(self, suffixes: Collection[str], of: Collection[str] | None = None) -> Likeness:
        """Every version of the held-out targets whose names end so, to compare with; or of the families `of`, such as
        those that an adapter learned from, and so cannot be measured on what reads like them."""
        here = [path for path in self.now if suffix(path) in suffixes]
        found = Likeness(Common(self.texts(self.now[path] for path in here)))
        roots = {self.families.family(name) for name in of or ()}
        for path, blobs in sorted(self.versions.items()):
            if suffix(path) not in suffixes:
                continue
            if self.held_out(path) if of is None else self.families.family(path) in roots:
                for text in self.texts(reversed(blobs)):
                    found.add(text)
        return found

    def texts(self, blobs: Iterable[str]) -> Iterator[str]:
        """The contents that are texts of a size to compare."""
        for blob in blobs:
            if blob and self.repo.blob_size(blob) <= MOST_BYTES:
                data = self.repo.read_blob(blob)
                if b"\0" not in data:
                    yield data.decode("utf-8", "replace")


def suffix(path: str) -> str:
    return os.path.splitext(path)[1].casefold()


def read(repo: Repo, commit: str, settings: TrainingSettings, results: Iterable[str] = ()) -> Lineage:
    """The lineage of every file that `commit` or a local branch ever had. `results`: commits of the bot's items, of
    which each is looked at alone. A shallow clone tells only what it has. Raises RepositoryError."""
    tips = [commit, *repo.refs("refs/heads/").values()]
    whole = history(repo, ("--topo-order", "--reverse"), tips)
    own: list[Touch] = []
    left = sorted({one for one in results if repo.knows(one)})
    for start in range(0, len(left), AT_ONCE):
        own += history(repo, ("--no-walk=unsorted",), left[start : start + AT_ONCE])
    versions: dict[str, dict[str, None]] = {}
    for touch in (*whole, *own):
        if touch.blob is not None:
            versions.setdefault(touch.path, {}).setdefault(touch.blob)
    now = {path: entry.oid for path, entry in repo.entries(commit).items() if entry.mode in (0o100644, 0o100755)}
    for path, blob in now.items():
        versions.setdefault(path, {}).setdefault(blob)
    edges = [(touch.old, touch.path) for touch in (*whole, *own) if touch.old is not None]
    return Lineage(repo, Families(edges), {path: tuple(blobs) for path, blobs in versions.items()}, now, settings)


def history(repo: Repo, options: Sequence[str], tips: Sequence[str]) -> list[Touch]:
    """Every file that these commits touch, as `git log` walks them. A merge is compared with its first parent, so that
    what was renamed while merging is seen."""
    log = children.quiet(repo.root, "log", *options, *_LOG, "--end-of-options", *dict.fromkeys(tips), "--")
    return list(parse(log.stdout))


def parse(data: bytes) -> Iterator[Touch]:
    """What `git log --raw -z` prints, whose headers begin with a byte of 1. Raises RepositoryError for another form."""
    tokens = iter(data.split(b"\0"))
    for token in tokens:
        if not token.strip(b"\n") or _COMMIT.fullmatch(token):
            continue
        found = _STATUS.fullmatch(token)
        first = next(tokens, b"")
        if found is None or not first:
            raise RepositoryError("cannot read the history", "git log", f"it printed {token[:80]!r}")
        second = next(tokens, b"") if found[5] in b"RC" else b""
        path = os.fsdecode(second or first)
        blob = found[4].decode() if found[2] in _FILES else None
        yield Touch(path, os.fsdecode(first) if second else None, blob)
