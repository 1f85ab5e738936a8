"""The commands `push` and `pull`: what the bot keeps here and what a remote has of it, brought together.

Ring 4: plain values in, text or JSON out, an exit code back. Nothing of the user's moves: no branch, no tag, no
refspec. By day only; while a night runs nothing is merged under it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta

from pantheon import archive, artifacts, keys, nights, prs, remotes, reunion, screen, weave
from pantheon.errors import PantheonError, RefMoved, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.plan import many, printable
from pantheon.weave import Loom, Woven

TRIES = 5
TOLD = timedelta(days=7)  # how long `status` says that people contradicted each other
FIRST_S = 60.0  # that `init` waits for a remote
_KINDS = ((nights.NIGHTS, "night"), (artifacts.RUNS, "run"), (prs.PRS, "PR"))


@contextmanager
def _by_day(repo: Repo) -> Iterator[None]:
    """No night runs here meanwhile."""
    with ExitStack() as held:
        try:
            held.enter_context(nights.alone(repo))
        except RepositoryError as error:
            why = f"a night runs here, and nothing is merged under it ({error.why})"
            raise RepositoryError("cannot merge now", str(repo.root), why, "git pantheon status") from error
        yield


def bring(repo: Repo, theirs: Mapping[str, str], when: datetime) -> Woven:
    """Merge what a remote has into what is here; nothing of either is lost. Raises PantheonError."""
    if all(repo.ref(name) == oid for name, oid in theirs.items()):
        return Woven()
    with _by_day(repo):
        for last in range(TRIES):
            done = Woven()
            loom = Loom(repo, lambda: Signer.load_or_create(keys.directory(repo)), when, done)
            try:
                reunion.Reunion(loom).bring(weave.weave(loom, theirs))
            except RefMoved:
                if last == TRIES - 1:
                    raise
                continue  # somebody decided something meanwhile
            return done
    raise AssertionError("the last try returns or raises")


def pull(repo: Repo, name: str | None, when: datetime, *, as_json: bool) -> int:
    """Fetch what a remote has of the bot's, and merge it."""
    remote = remotes.chosen(repo, name)
    theirs = remotes.fetch(repo, remote)
    done = bring(repo, theirs, when)
    if as_json:
        return screen.print_json(
            {"remote": remote, "refs": len(theirs), "taken": done.taken, "merged": done.merged, "said": done.said}
        )
    for line in _told(repo, remote, theirs, done):
        print(line)
    return 0


def _told(repo: Repo, remote: str, theirs: Mapping[str, str], done: Woven) -> list[str]:
    where = printable(remote)
    if not theirs:
        return [f"{where} has nothing of Pantheon's; to put it there: git pantheon push {where}"]
    if not done.taken and not done.merged:
        lines = [f"nothing new in {where}"]
    else:
        merged = f", {done.merged} merged with what was done here" if done.merged else ""
        lines = [f"from {where}: {many(done.taken, 'ref')} taken{merged}"]
    lines += [f"note: {printable(line)}" for line in done.said]
    if any(key.published and not key.trusted and not key.revoked for key in keys.listed(repo)):
        lines.append("some of it is signed by a key that nobody accepted here: git pantheon keys accept")
    return lines


def push(repo: Repo, name: str | None, when: datetime, *, as_json: bool) -> int:
    """Merge what the remote has, then put there what it lacks, all at once on exactly what was seen."""
    remote = remotes.chosen(repo, name)
    said: list[str] = []
    for _ in range(TRIES):
        theirs = remotes.fetch(repo, remote)
        done = bring(repo, theirs, when)
        said += done.said
        changes = differences(repo, theirs, said, when)
        refused = remotes.push(repo, remote, changes, said.append) if changes else ()
        if not any(one.stale for one in refused):
            break
    else:
        why = f"it was pushed to at the same time, {TRIES} times over"
        raise RepositoryError(f"cannot push to {remote}", str(repo.root), why, f"git pantheon push {remote}")
    if changes:
        remotes.fetch(repo, remote)
    if refused:
        lines = "; ".join(f"{one.name}: {one.why}" for one in refused[:3])
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        why = f"it did not take {many(len(refused), 'ref')}: {lines}{more}"
        raise RepositoryError(f"cannot push to {remote}", str(repo.root), why, f"git pantheon push {remote}")
    if as_json:
        names = sorted(changes)
        return screen.print_json({"remote": remote, "pushed": names, "taken": done.taken, "said": said})
    for line in dict.fromkeys(said):
        print(f"note: {printable(line)}")
    where = printable(remote)
    if not changes:
        print(f"{where} has everything")
        return 0
    print(f"pushed to {where}: {_counted(changes)}")
    if not theirs:
        print("whoever can read it now reads prompts, answers and the parts of files in them")
    return 0


def _counted(changes: remotes.Changes) -> str:
    found: Counter[str] = Counter()
    for name in changes:
        kind = next((word for prefix, word in _KINDS if name.startswith(prefix)), "other ref")
        found["PR" if kind == "PR" and name.endswith("/meta") else "other ref" if kind == "PR" else kind] += 1
    return ", ".join(many(found[word], word) for word in ("night", "run", "PR", "other ref") if found[word])


def differences(repo: Repo, theirs: Mapping[str, str], said: list[str], when: datetime) -> remotes.Changes:
    """What has to change over there, once everything of it was merged here. Deleted is only what has another name now,
    left for the archive or was taken away for good."""
    ours = {name: oid for prefix in remotes.SHARED for name, oid in repo.refs(prefix).items()}
    loom = Loom(repo, lambda: Signer.load_or_create(keys.directory(repo)), when, Woven())
    gone = archive.collected(repo)
    changes: dict[str, tuple[str | None, str | None]] = {}
    for name, oid in ours.items():
        seen = theirs.get(name)
        if seen == oid or (seen is None and name in gone):
            continue
        renamed = name.startswith((prs.PRS, nights.NIGHTS))
        if seen is None or renamed or loom.descends(oid, seen):
            changes[name] = (oid, seen)
        elif not loom.descends(seen, oid):
            said.append(f"{name} was not pushed: both clones wrote to it, and this version does not know what it is")
    held = {*ours.values(), *archive.refs_of(repo, prs.PRS).values()}
    for name, seen in theirs.items():
        if name not in ours and (name in gone or (name.startswith(prs.PRS) and _kept(loom, seen, name, ours, held))):
            changes[name] = (None, seen)
    return changes


def _kept(loom: Loom, oid: str, name: str, ours: Mapping[str, str], held: set[str]) -> bool:
    """Whether what a ref of a PR keeps is kept by another one here."""
    if oid in held:
        return True
    metas = [tip for other, tip in ours.items() if other.startswith(prs.PRS) and other.endswith("/meta")]
    kept = loom.repo.ref(archive.PULLS)
    return name.endswith("/meta") and any(loom.descends(tip, oid) for tip in [*metas, *([kept] if kept else [])])


def first(repo: Repo, when: datetime) -> None:
    """What the remotes of a new clone have: taken, with a line for each. A remote that cannot be reached is no
    failure."""
    for remote in remotes.names(repo):
        try:
            theirs = remotes.fetch(repo, remote, FIRST_S)
            done = bring(repo, theirs, when) if theirs else Woven()
        except PantheonError as error:
            print(f"note: {printable(str(error))}; later: git pantheon pull {printable(remote)}")
            continue
        for line in _told(repo, remote, theirs, done) if theirs else ():
            print(line)


def standing(repo: Repo, now: datetime, seen: prs.Seen) -> list[str]:
    """For `status`: where people contradicted each other of late, and what a remote lacked when it was last looked
    at."""
    numbers = sorted(int(name.split("/")[3]) for name in seen.own if name.endswith("/meta"))
    numbers = [n for n in numbers if n not in seen.damaged]  # `status` names those
    lines = [f"PR {n}: {why}" for n in numbers for why in reunion.contradictions(repo, n, now - TOLD)]
    newer = sorted({*numbers}.intersection(seen.newer))
    lines += [f"PR {n} was written by a newer version: upgrade git-pantheon" for n in newer]
    for remote in remotes.seen(repo):
        new, moved = weave.ahead(repo, remote)
        if new or moved:
            what = " and ".join(filter(None, (f"{new} new" if new else "", f"{moved} changed" if moved else "")))
            lines.append(f"{what} here since {printable(remote)} was last looked at: git pantheon push")
    return lines
