"""The wire: the bot's refs of a remote, fetched and pushed by the user's own git.

Owns the refspecs and `refs/pantheon-remotes/<remote>/`, where what a remote has lies beside what we have, until
weave.py brings both together. No branch, no tag and no refspec of the user's has a part in it; review branches are made
again from the revisions. Decides nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping

from pantheon import children
from pantheon.errors import RepositoryError
from pantheon.git import Repo
from pantheon.process import Completed
from pantheon.records import Record

TRACKING = "refs/pantheon-remotes/"
SHARED = ("refs/pantheon/", "refs/notes/pantheon/")
WALL_S = 1800.0
HOOK = "pantheon:"  # begins a line of our hook's
AT_ONCE = 500  # refs of one push
EARLY = tuple(f"{SHARED[0]}{kind}/" for kind in ("runs", "nights"))
Changes = Mapping[str, tuple[str | None, str | None]]
_COPY = re.compile(re.escape(TRACKING) + r"(.+?)/(?:pantheon|notes)/")
_REFUSED = re.compile(r"!\t(\S*):(\S+)\t\[?(.*?)\]?(?: \((.*)\))?")
_UNREACHABLE = re.compile(r"could not resolve|unable to (connect|access|look up)|connection|network|timed out", re.I)
_DENIED = re.compile(
    r"denied|authentication|could not read (username|password)|publickey|\b40[13]\b|terminal prompts", re.I
)


class Refusal(Record):
    """One ref that the other side did not take. `stale`: it has moved there since we looked."""

    name: str
    why: str
    stale: bool


def names(repo: Repo) -> tuple[str, ...]:
    """The remotes of the user's configuration."""
    return tuple(os.fsdecode(line) for line in children.quiet(repo.root, "remote").stdout.splitlines())


def chosen(repo: Repo, name: str | None) -> str:
    """The remote that a person named; else that of the branch, `origin`, or the only one. Raises RepositoryError."""
    known = names(repo)
    if name is not None:
        if name not in known:
            why = f"there are: {', '.join(known)}" if known else "this repository has no remote"
            raise RepositoryError("no such remote", name, why, "git remote add NAME URL")
        return name
    if not known:
        raise RepositoryError("no remote", str(repo.root), "this repository has none", "git remote add origin URL")
    upstream = children.quiet(repo.root, "for-each-ref", "--format=%(upstream:remotename)", _branch(repo), check=False)
    wanted = os.fsdecode(upstream.stdout).strip()
    for one in (wanted, "origin"):
        if one in known:
            return one
    if len(known) == 1:
        return known[0]
    raise RepositoryError("which remote?", ", ".join(known), "no branch says it", f"git pantheon pull {known[0]}")


def _branch(repo: Repo) -> str:
    """The ref that HEAD names; one that is not there when it names none."""
    done = children.quiet(repo.root, "symbolic-ref", "-q", "HEAD", check=False)
    return os.fsdecode(done.stdout).strip() or "refs/heads/ no branch"


# --- what the other side has ------------------------------------------------------------------------------------------


def _places(remote: str) -> tuple[tuple[str, str], ...]:
    """(prefix there and here, prefix of the copy)."""
    return tuple((own, f"{TRACKING}{remote}/{kind}/") for own, kind in zip(SHARED, ("pantheon", "notes"), strict=True))


def tracked(repo: Repo, remote: str) -> dict[str, str]:
    """What the remote had when we last looked: name -> object, by the names that they have there."""
    found: dict[str, str] = {}
    for own, copy in _places(remote):
        found |= {own + name.removeprefix(copy): oid for name, oid in repo.refs(copy).items()}
    return found


def seen(repo: Repo) -> tuple[str, ...]:
    """The remotes that were looked at and had something."""
    found = (_COPY.match(name) for name in repo.refs(TRACKING))
    return tuple(dict.fromkeys(match[1] for match in found if match))


def forget(repo: Repo, name: str, oid: str) -> None:
    """Delete one ref of the copy. Raises RepositoryError when it is none, or has moved."""
    if not name.startswith(TRACKING):
        raise RepositoryError("will not delete a ref that is no copy of a remote's", name)
    children.quiet(repo.root, "update-ref", "-d", name, oid)


def fetch(repo: Repo, remote: str, wall_s: float = WALL_S) -> dict[str, str]:
    """Bring what the remote has into the copy beside ours, and forget what it has no more; the copy. Objects come
    before refs, and none of ours moves. Raises RepositoryError in git's own words."""
    specs = [f"+{own}*:{copy}*" for own, copy in _places(remote)]
    options = ("--quiet", "--prune", "--no-tags", "--no-recurse-submodules", "--no-write-fetch-head", "--no-auto-gc")
    done = children.to_remote(repo.root, "fetch", *options, "--refmap=", "--", remote, *specs, wall_s=wall_s)
    if done.returncode != 0 or done.timed_out:
        raise _failed(f"cannot fetch from {remote}", repo, remote, done, wall_s)
    return tracked(repo, remote)


def push(
    repo: Repo, remote: str, changes: Changes, told: Callable[[str], None], wall_s: float = WALL_S
) -> tuple[Refusal, ...]:
    """Set refs there (name -> what it is to be, None to delete it; what it must be now, None: not there), some hundreds
    at once and of these all or none; what was refused. `told` hears what our own hook warns of. Raises RepositoryError
    when nothing could be asked."""
    refused: list[Refusal] = []
    for some in _batches(changes):
        leases = [f"--force-with-lease={name}:{seen or ''}" for name, (_, seen) in some.items()]
        specs = [f"{new or ''}:{name}" for name, (new, _) in some.items()]
        options = ("--porcelain", "--atomic", "--no-follow-tags", "--recurse-submodules=no", "--no-signed")
        argv = ("push", *options, *leases, "--", remote, *specs)
        done = children.to_remote(repo.root, *argv, wall_s=wall_s, publish=True)
        for line in _text(done.stderr).splitlines():
            if line.startswith(HOOK):
                told(line.removeprefix(HOOK).strip())
        found = [match for line in _text(done.stdout).splitlines() if (match := _REFUSED.fullmatch(line))]
        refused += [
            Refusal(name=m[2], why=m[4] or m[3], stale="stale info" in line or "fetch first" in line)
            for m in found
            if (line := m[0]) and "atomic push failed" not in line
        ]
        if found and not refused:
            refused.append(Refusal(name=found[0][2], why=_last_words(done) or found[0][3], stale=False))
        if (done.returncode != 0 or done.timed_out) and not refused:
            raise _failed(f"cannot push to {remote}", repo, remote, done, wall_s)
        if refused:
            break
    return tuple(refused)


def _batches(changes: Changes) -> Iterator[Changes]:
    """What others are about goes first: runs and nights before the PRs and the notes that name them."""
    ordered = sorted(changes, key=lambda name: (not name.startswith(EARLY), name))
    for start in range(0, len(ordered), AT_ONCE):
        yield {name: changes[name] for name in ordered[start : start + AT_ONCE]}


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _last_words(done: Completed) -> str:
    lines = [line.strip() for line in _text(done.stderr).splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("remote:", "fatal:", "error:", "ERROR", "ssh:"))]
    return "; ".join((told or lines)[:3])[:400]


def _failed(what: str, repo: Repo, remote: str, done: Completed, wall_s: float) -> RepositoryError:
    why = f"no answer in {wall_s:.0f} s" if done.timed_out else _last_words(done) or f"git ended with {done.returncode}"
    hint = f"git ls-remote {remote}"
    if _DENIED.search(why):
        hint = f"{hint}   (your own git has to get in without a prompt: an agent for the key, a credential helper)"
    elif done.timed_out or _UNREACHABLE.search(why):
        hint = f"{hint}   (when it can be reached again; nothing here was changed)"
    return RepositoryError(what, str(repo.root), why, hint)
