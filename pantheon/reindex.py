"""`git pantheon reindex`: notes found again. Runs are kept in refs; what hangs on commits is rebuilt from them.

Owns which commits carry a run after the user rewrote history (kinship.py decides), and what a notes ref is put together
from when it is gone or damaged: the seal of a night says where it was, the run refs say what it listed. What is written
on a rewritten commit are the lines of the original: they speak of that one, and prove nothing of the new one. A commit
of a run whose statement is lost gets a new one. Nothing is taken away, and nothing of the user's is touched.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from pantheon import archive, artifacts, attest, children, kinship, nights, prs, report
from pantheon.errors import RepositoryError
from pantheon.git import Repo, Signer
from pantheon.names import night_order
from pantheon.records import HumanDecision, PullRequest, PullState, Record, Run

GROWING = (artifacts.NOTES, artifacts.SUMMARY, attest.ATTESTATIONS, prs.DECISIONS)
NOT_KNOWN = "not known: rebuilt from the record of the PR"
DAMAGED = "damaged"  # below `pantheon/` in the common git dir: files of objects that nobody could read
AT_ONCE = 200  # commits or paths in one argument list
LARGE = 4 << 20  # bytes of a file that is compared as a whole
OURS = ("refs/pantheon/*", "refs/pantheon-remotes/*", "refs/notes/*", "refs/stash")  # no history of the user's
HISTORY = 1_000_000  # commits of a notes ref
_OID = re.compile(r"[0-9a-f]{40}", re.ASCII)
Lines = dict[str, list[str]]  # commit -> lines of its note


class Carrier(Record):
    """A commit of the user's that carries runs. `written`: the notes that it lacked something of."""

    commit: str
    subject: str
    runs: dict[str, Literal["trailer", "change"]]
    written: tuple[str, ...] = ()


class Mended(Record):
    """A notes ref that was gone or damaged: where it was put back to ("": built anew)."""

    ref: str
    why: str
    back_to: str = ""


class Lost(Record):
    """A run that was accepted and is in no branch: its commit is kept by its run ref."""

    run: str
    pr: int
    target: str
    commit: str


class Found(Record):
    """What a reindex found, wrote (or would write), and could not find."""

    dry_run: bool
    runs: int
    mended: tuple[Mended, ...]
    own: tuple[str, ...]  # commits of runs whose own notes lacked something
    decisions: int  # that were written again
    carriers: tuple[Carrier, ...]
    lost: tuple[Lost, ...]
    unknown: dict[str, tuple[str, ...]]  # commit -> runs it names that are not here
    unreadable: tuple[str, ...]

    @property
    def wrote(self) -> bool:
        return bool(self.mended or self.own or self.decisions or any(one.written for one in self.carriers))


@dataclass
class _Sheets:
    """What is to be written, by notes ref."""

    repo: Repo
    artifacts: Lines = field(default_factory=dict)
    statements: Lines = field(default_factory=dict)
    summaries: dict[str, str] = field(default_factory=dict)
    saved: dict[str, Lines] = field(default_factory=dict)  # notes ref -> what could be read of it before it was mended

    def add(self, ref: str, into: Lines, commit: str, lines: Iterable[str]) -> bool:
        """Put down the lines that a note lacks; whether there are any."""
        have = {*_lines(self.repo, ref, commit), *into.get(commit, ())}
        new = [line for line in dict.fromkeys(lines) if line not in have]
        if new:
            into.setdefault(commit, []).extend(new)
        return bool(new)

    def lines(self, ref: str, into: Lines, commit: str) -> list[str]:
        """What a note holds, held before it was damaged, or will hold."""
        saved = self.saved.get(ref, {}).get(commit, ())
        return list(dict.fromkeys([*_lines(self.repo, ref, commit), *saved, *into.get(commit, ())]))

    def summarise(self, commit: str, texts: Sequence[str]) -> bool:
        """Put down a summary of these texts, where what stands there is none, or git's own sorting of such texts."""
        wanted = "".join(texts)
        now = _note(self.repo, artifacts.SUMMARY, commit).decode("utf-8", "replace")
        if not wanted or all(text in now for text in texts):
            return False
        own = set(now.splitlines()) <= set(wanted.splitlines())
        self.summaries[commit] = wanted if own else now.rstrip("\n") + "\n" + wanted
        return True

    def write(self, when: datetime, signer: Signer) -> None:
        artifacts.carry_notes(self.repo, self.artifacts, self.summaries, when, signer)
        attest.carry(self.repo, self.statements, when, signer)


def _note(repo: Repo, ref: str, commit: str) -> bytes:
    """A note, as far as it can be read."""
    with suppress(RepositoryError):
        return repo.read_note(ref, commit) or b""
    return b""


def _lines(repo: Repo, ref: str, commit: str) -> list[str]:
    text = _note(repo, ref, commit).decode("utf-8", "surrogateescape")
    return [line for line in text.split("\n") if line]


# --- the whole -------------------------------------------------------------------------------------------------------


def reindex(repo: Repo, when: datetime, signer: Signer, *, dry_run: bool = False) -> Found:
    """Find every run again and complete the notes. Raises RepositoryError where a notes ref cannot be read at all."""
    runs, unreadable = _runs(repo)
    pulls = _pulls(repo)
    homes, at = _homes(runs.values(), pulls), _present(pulls)
    carriers, unknown = _carriers(repo, runs, pulls, _everywhere(repo, runs.values()))
    carriers = [one for one in carriers if one.commit not in homes]
    sheets = _Sheets(repo)
    mended = _mend(sheets, homes, runs, carriers, when, signer, dry_run)
    own = _complete(sheets, homes, runs, unreadable, signer, when)
    carriers = [_carry(sheets, one, runs, at) for one in carriers]
    decided = _decisions(sheets, pulls, mended, when)
    if not dry_run:
        sheets.write(when, signer)
        prs.decide(repo, decided, when, signer)
    return Found(
        dry_run=dry_run,
        runs=len(runs),
        mended=tuple(mended),
        own=tuple(own),
        decisions=len(decided),
        carriers=tuple(carriers),
        lost=tuple(_lost(repo, runs.values(), pulls, carriers)),
        unknown=_strangers(repo, unknown),
        unreadable=tuple(unreadable),
    )


def _strangers(repo: Repo, unknown: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """commit -> the runs it names that are not here, without those that `git pantheon gc` took away."""
    gone = {ref.rpartition("/")[2] for ref in archive.collected(repo)}
    left = {commit: tuple(run for run in runs if run not in gone) for commit, runs in unknown.items()}
    return {commit: runs for commit, runs in left.items() if runs}


def follow(repo: Repo, tip: str, excluded: Sequence[str], when: datetime, signer: Signer) -> int:
    """The notes of runs on those commits that carry them among what `tip` reaches and `excluded` does not; how many
    commits got some. For commits that were made just now from those of a PR."""
    runs, _ = _runs(repo)
    pulls = _pulls(repo)
    homes, at = _homes(runs.values(), pulls), _present(pulls)
    found, _ = _carriers(repo, runs, pulls, [tip, "--not", *excluded])
    sheets = _Sheets(repo)
    done = [_carry(sheets, one, runs, at) for one in found if one.commit not in homes]
    sheets.write(when, signer)
    return sum(1 for one in done if one.written)


def runs_of(repo: Repo, commit: str) -> dict[str, str]:
    """run -> how it was found ("note", "trailer" or "change"), of the runs that a commit carries."""
    runs, _ = _runs(repo)
    found: dict[str, str] = {}
    with suppress(RepositoryError):  # a damaged note: the others tell
        found = {one.run: "note" for one in artifacts.read_notes(repo, commit) if one.run in runs}
    for run in runs.values():
        if commit in (run.result, run.run_commit):
            found.setdefault(run.id, "note")
    carriers, _ = _carriers(repo, runs, _pulls(repo), ["--no-walk", commit])
    for one in carriers:
        found = {**one.runs, **found}
    return found


# --- what is kept in refs --------------------------------------------------------------------------------------------


def _runs(repo: Repo) -> tuple[dict[str, Run], list[str]]:
    """Every run that can be read, by id; the refs of those that cannot."""
    found, damaged = {}, []
    for name in repo.refs(artifacts.RUNS):
        run_id = name.rpartition("/")[2]
        try:
            found[run_id] = artifacts.load_run(repo, run_id)
        except RepositoryError as error:
            damaged.append(f"{name}: {error}")
    return found, damaged


def _pulls(repo: Repo) -> dict[int, list[PullRequest]]:
    """The records that every PR had, newest first."""
    found = {}
    for pull in prs.load_all(repo):
        with suppress(RepositoryError):
            found[pull.id] = [one for _, one in reversed(prs.history(repo, pull.id))]
    return found


def _homes(runs: Iterable[Run], pulls: Mapping[int, Sequence[PullRequest]]) -> dict[str, str]:
    """commit -> run, of the commits that we made: the runs' own, and those of every revision of a PR."""
    found = {run.noted_on: run.id for run in runs}
    for records in pulls.values():
        for pull in records:
            found |= {item.commit: item.run for item in pull.items if item.run}
    return found


def _present(pulls: Mapping[int, Sequence[PullRequest]]) -> dict[str, str]:
    """run -> its commit in the last revision of its PR."""
    return {item.run: item.commit for records in pulls.values() for item in records[0].items if item.run}


def _complete(
    sheets: _Sheets,
    homes: Mapping[str, str],
    runs: Mapping[str, Run],
    unreadable: list[str],
    signer: Signer,
    when: datetime,
) -> list[str]:
    """Put down what our own commits lack: artifacts, statement, summary. The commits that lacked something."""
    repo, lacking = sheets.repo, []
    for commit, run_id in homes.items():
        run = runs.get(run_id)
        if run is None:
            continue
        statements = sheets.lines(attest.ATTESTATIONS, sheets.statements, commit)
        try:
            statements += _stated(repo, run, commit, statements, signer, when)
            done = [
                sheets.add(artifacts.NOTES, sheets.artifacts, commit, _listed(sheets, run, commit)),
                sheets.summarise(commit, [_summary(sheets, run, commit)]),
                sheets.add(attest.ATTESTATIONS, sheets.statements, commit, statements),
            ]
        except RepositoryError as error:
            unreadable.append(f"run {run_id}: {error}")
            continue
        if any(done):
            lacking.append(commit)
    return lacking


def _listed(sheets: _Sheets, run: Run, commit: str) -> list[str]:
    """The lines of a run's artifacts for a commit: as it has them, as the run's own has them, or as the run gives
    them."""
    repo = sheets.repo
    wanted = {path.partition("/")[::2] for path in repo.entries(run.run_commit or "") if "/" in path}
    lines = [
        *sheets.lines(artifacts.NOTES, sheets.artifacts, commit),
        *sheets.lines(artifacts.NOTES, sheets.artifacts, run.noted_on),
    ]
    have = {key: line for line in reversed(lines) if (key := _artifact(line, run.id)) is not None}
    if wanted - have.keys():
        have = {(one.node, one.name): one.to_json() for one in artifacts.describe_stored(repo, run)} | have
    return [have[key] for key in sorted(wanted)]


def _artifact(line: str, run: str) -> tuple[str, str] | None:
    """The (node, name) that a line of an artifact note is about; None when it is no line of this run."""
    with suppress(ValueError, KeyError, TypeError):
        said = json.loads(line)
        if said["run"] == run:
            return str(said["node"]), str(said["name"])
    return None


def _summary(sheets: _Sheets, run: Run, home: str) -> str:
    """The summary as a commit of the run has it, else as its record gives it."""
    for commit in (home, run.noted_on):
        lines = sheets.saved.get(artifacts.SUMMARY, {}).get(commit) or _lines(sheets.repo, artifacts.SUMMARY, commit)
        if lines and lines[0].startswith("pantheon: "):
            return "\n".join(lines) + "\n"
    return report.summary_note(run)


def _stated(repo: Repo, run: Run, commit: str, statements: Sequence[str], signer: Signer, when: datetime) -> list[str]:
    """A statement about a run on one of its commits, where there is none: a new one, made from what is stored."""
    if attest.tells(statements, run.run_commit or ""):
        return []
    at = repo.ref(nights.NIGHTS + run.night)
    proof = (repo.read_path(at, "egress.json") if at else None) or b""
    if not at or not proof:
        raise RepositoryError("cannot state again", run.id, f"night {run.night} keeps no proof of the network here")
    egress = attest.Egress(sha256=hashlib.sha256(proof).hexdigest(), closed=json.loads(proof).get("closed") is True)
    about = run.model_copy(update={"result": commit}) if run.result else run
    return [
        signer.envelope(attest.state(repo, about, nights.load_night(repo, run.night), egress, when), attest.IN_TOTO)
    ]


# --- rewritten commits -----------------------------------------------------------------------------------------------


def _everywhere(repo: Repo, runs: Iterable[Run], *hidden: str) -> list[str]:
    """Revisions: all that a branch, a tag or a worktree reaches, from the base of the first night on."""
    first = min(runs, key=lambda run: night_order(run.night), default=None)
    since = ["--not", first.base] if first and repo.knows(first.base) else []
    return [*(f"--exclude={one}" for one in (*OURS, *hidden)), "--all", *since]


def _carriers(
    repo: Repo, runs: Mapping[str, Run], pulls: Mapping[int, Sequence[PullRequest]], revisions: Sequence[str]
) -> tuple[list[Carrier], dict[str, tuple[str, ...]]]:
    """The commits among `revisions` that carry runs, oldest last; and the runs that some name and that are not here."""
    said = _messages(repo, revisions)
    known = _changes_of_runs(repo, runs, pulls)
    paths = {path for change in known.values() for path in change}
    done = _changes(repo, revisions, paths) if paths else {}
    found: list[Carrier] = []
    unknown: dict[str, tuple[str, ...]] = {}
    for commit in dict.fromkeys([*said, *done]):
        names = said.get(commit, ())
        if strangers := tuple(one for one in names if one not in runs):
            unknown[commit] = strangers
        here = {**{run: {} for run in names if run in runs and run not in known}, **known}
        carried = kinship.carried(names, done.get(commit, {}), here)
        if carried:
            subject = repo.commit_info(commit).message.partition("\n")[0]
            found.append(Carrier.model_validate({"commit": commit, "subject": subject, "runs": carried}))
    return found, unknown


def _carry(sheets: _Sheets, one: Carrier, runs: Mapping[str, Run], at: Mapping[str, str]) -> Carrier:
    """Put down on a commit what hangs on the commits of the runs that it carries; what it lacked of it. `at`: run ->
    its commit."""
    mine = [(runs[run], at.get(run, runs[run].noted_on)) for run in one.runs]
    listed = [line for _, home in mine for line in sheets.lines(artifacts.NOTES, sheets.artifacts, home)]
    stated = [line for _, home in mine for line in sheets.lines(attest.ATTESTATIONS, sheets.statements, home)]
    lacked = {
        artifacts.NOTES: sheets.add(artifacts.NOTES, sheets.artifacts, one.commit, listed),
        artifacts.SUMMARY: sheets.summarise(one.commit, [_summary(sheets, run, home) for run, home in mine]),
        attest.ATTESTATIONS: sheets.add(attest.ATTESTATIONS, sheets.statements, one.commit, stated),
    }
    return one.model_copy(update={"written": tuple(ref for ref, new in lacked.items() if new)})


def _messages(repo: Repo, revisions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """commit -> the runs that its message names, newest first."""
    log = children.quiet(
        repo.root, "log", "-z", "--no-merges", "--format=%H%n%B", "--grep=Pantheon-Run: ", *revisions, "--"
    )
    found = {}
    for entry in os.fsdecode(log.stdout).split("\0"):
        commit, _, message = entry.partition("\n")
        if names := kinship.named(message):
            found[commit] = names
    return found


def _changes_of_runs(
    repo: Repo, runs: Mapping[str, Run], pulls: Mapping[int, Sequence[PullRequest]]
) -> dict[str, kinship.Change]:
    """What every run with a commit did; of two that did the same, the one that a person took first."""
    results = {run.result: run.id for run in runs.values() if run.result and repo.knows(run.result)}
    liking = {}
    for records in pulls.values():
        for item in records[0].items:
            taken = records[0].state is PullState.ACCEPTED and not item.dropped
            liking[item.run] = 0 if taken else 1 if records[0].state is PullState.OPEN else 2
    commits = sorted(results, key=lambda commit: (liking.get(results[commit], 3), results[commit]))
    found: dict[str, kinship.Change] = {}
    for start in range(0, len(commits), AT_ONCE):
        some = commits[start : start + AT_ONCE]
        done = _changes(repo, ["--no-walk=unsorted", *some], set())
        found |= {results[commit]: done[commit] for commit in some if commit in done}
    return found


def _changes(repo: Repo, revisions: Sequence[str], paths: set[str]) -> dict[str, kinship.Change]:
    """commit -> what it does, of every commit that has one parent; of these paths, where it is not all."""
    told = ("--raw", "-z", "--no-abbrev", "--no-renames", "--no-merges", "--full-history", "--format=%x01%H")
    only = sorted(paths) if len(paths) <= AT_ONCE else []
    log = children.quiet(repo.root, "--literal-pathspecs", "log", *told, *revisions, "--", *only)
    found: dict[str, dict[str, str]] = {}
    seen: dict[tuple[str, ...], str] = {}
    commit = ""
    tokens = iter(log.stdout.split(b"\0"))
    for token in tokens:
        word = token.removeprefix(b"\n")
        if word.startswith(b"\x01"):
            commit = word[1:].decode("ascii")
        elif word.startswith(b":"):
            old_mode, new_mode, old, new, _ = word[1:].decode("ascii").split()
            path = os.fsdecode(next(tokens, b""))
            if paths and path not in paths:
                continue
            key = (old_mode, new_mode, old, new)
            if key not in seen:
                seen[key] = _fingerprint(repo, old, new, (int(old_mode, 8), int(new_mode, 8)))
            found.setdefault(commit, {})[path] = seen[key]
    return dict(found)


def _fingerprint(repo: Repo, old: str, new: str, modes: tuple[int, int]) -> str:
    sides: list[bytes | None] = []
    for oid, mode in ((old, modes[0]), (new, modes[1])):
        if not mode:
            sides.append(None)
        elif mode == 0o160000 or repo.blob_size(oid) > LARGE:
            sides.append(b"\0" + oid.encode("ascii"))
        else:
            sides.append(repo.read_blob(oid))
    return kinship.fingerprint(sides[0], sides[1], modes)


def _lost(
    repo: Repo, runs: Iterable[Run], pulls: Mapping[int, Sequence[PullRequest]], carriers: Sequence[Carrier]
) -> list[Lost]:
    """The accepted items that no branch, tag or worktree holds, neither as they were nor rewritten."""
    taken = [
        Lost(run=item.run, pr=records[0].id, target=item.target, commit=item.commit)
        for records in pulls.values()
        if records[0].state is PullState.ACCEPTED
        for item in records[0].live
    ]
    if not taken:
        return []
    there = children.quiet(repo.root, "rev-list", *_everywhere(repo, runs, "refs/heads/pantheon/*"))
    reached = set(there.stdout.decode("ascii").split())
    carried = {run for one in carriers if one.commit in reached for run in one.runs}
    return [one for one in taken if one.commit not in reached and one.run not in carried]


# --- a notes ref that is gone or damaged ------------------------------------------------------------------------------


def _mend(
    sheets: _Sheets,
    homes: Mapping[str, str],
    runs: Mapping[str, Run],
    carriers: Sequence[Carrier],
    when: datetime,
    signer: Signer,
    dry_run: bool,
) -> list[Mended]:
    """Have every notes ref in a state that can be added to: one of which only notes are damaged goes on without them,
    one that is gone or damaged otherwise goes back to where it was last known to be whole. What can still be read is
    put down, to be written again."""
    repo = sheets.repo
    sealed = _sealed(repo)
    done = []
    for ref in GROWING:
        at = repo.ref(ref)
        if at is None and ref not in sealed:
            continue
        harm = _Harm("it is gone") if at is None else _harm(repo, at)
        if not harm.why:
            continue
        for oid in () if dry_run else harm.objects:
            _set_aside(repo, oid)
        back = at if at and harm.notes else ""
        if at and back:
            left = [
                path for path in harm.notes if dry_run or not _healed(sheets, ref, path, harm.notes[path], homes, runs)
            ]
            if left and not dry_run:
                _blank(repo, ref, at, left, when, signer)
        else:
            for commit in [*homes, *(one.commit for one in carriers)] if at else ():
                sheets.saved.setdefault(ref, {})[commit] = _lines(repo, ref, commit)
            back = next(_whole(repo, sealed.get(ref, []), at), "")
            if not dry_run and (back or at):
                repo.move_ref(ref, back or None, at, "pantheon: reindex")
        done.append(Mended(ref=ref, why=harm.why, back_to=back or ""))
    return done


def _healed(sheets: _Sheets, ref: str, path: str, oid: str, homes: Mapping[str, str], runs: Mapping[str, Run]) -> bool:
    """Whether the run gives the very note that cannot be read, and it could be written again."""
    commit = path.replace("/", "")
    run = runs.get(homes.get(commit, ""))
    text = ""
    with suppress(RepositoryError):
        if run is not None and ref == artifacts.NOTES:
            text = "".join(f"{line}\n" for line in _listed(sheets, run, commit))
        elif run is not None and ref == artifacts.SUMMARY:
            text = _summary(sheets, run, commit)
    data = text.encode("utf-8", "surrogateescape")
    if hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() != oid:
        return False
    return sheets.repo.write_blob(data) == oid


def _blank(repo: Repo, ref: str, at: str, paths: Sequence[str], when: datetime, signer: Signer) -> None:
    """A notes ref with nothing in those notes that cannot be read."""
    empty = (0o100644, repo.write_blob(b""))
    tree = repo.write_tree(repo.tree_of(at), dict.fromkeys(paths, empty))
    message = f"{len(paths)} notes that could not be read\n"
    repo.move_ref(ref, repo.commit(tree, [at], message, when, signer), at, "pantheon: reindex")


def _sealed(repo: Repo) -> dict[str, list[str]]:
    """notes ref -> where the seals of nights have it, the newest first."""
    found: dict[str, list[str]] = {}
    for commit in nights.latest(repo):
        with suppress(RepositoryError, ValueError, KeyError, AttributeError):
            refs = json.loads(repo.read_path(commit, attest.SEAL_FILE) or b"")["refs"]
            for ref in GROWING:
                if ref in refs:
                    found.setdefault(ref, []).append(str(refs[ref]))
    return found


@dataclass
class _Harm:
    """Why a notes ref cannot be used ("": it can), the objects of it that cannot be read, and where nothing but notes
    is amiss, these: path -> blob."""

    why: str = ""
    objects: list[str] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)


def _harm(repo: Repo, at: str) -> _Harm:
    try:
        repo.history(at, HISTORY)
        notes = repo.entries(at).values()
    except RepositoryError as error:
        return _Harm(str(error), [error.thing])
    harm = _Harm()
    for note in notes:
        try:
            repo.read_blob(note.oid)
        except RepositoryError as error:
            harm.why = harm.why or str(error)
            harm.objects.append(note.oid)
            harm.notes[note.path] = note.oid
    return harm


def _set_aside(repo: Repo, oid: str) -> None:
    """Move the file of an object that cannot be read out of the way: while it is there, nobody can write it again."""
    path = repo.common_dir / "objects" / oid[:2] / oid[2:]
    if _OID.fullmatch(oid) and path.is_file():
        place = repo.common_dir / "pantheon" / DAMAGED
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.replace(place / oid)


def _whole(repo: Repo, sealed: Sequence[str], at: str | None) -> Iterator[str]:
    """The values of a notes ref that are whole: what followed its last seal and hangs on nothing now, then seals."""
    after = []
    for oid in _dangling(repo) if sealed else ():
        with suppress(RepositoryError):
            line = [one for one, _, _ in repo.history(oid, HISTORY)]
            if sealed[0] in line and oid != at:
                after.append((len(line), oid))
    yield from (oid for oid in (*(oid for _, oid in sorted(after, reverse=True)), *sealed) if not _harm(repo, oid).why)


def _dangling(repo: Repo) -> list[str]:
    told = children.quiet(repo.root, "fsck", "--connectivity-only", "--dangling", "--no-progress", check=False)
    words = (os.fsdecode(line).split() for line in told.stdout.splitlines())
    return [said[2] for said in words if said[:2] == ["dangling", "commit"] and len(said) == 3]


def _decisions(
    sheets: _Sheets, pulls: Mapping[int, Sequence[PullRequest]], mended: Sequence[Mended], when: datetime
) -> list[tuple[str, HumanDecision]]:
    """What people said, where the notes of it were lost: as it can still be read, else as the PRs' records have it."""
    repo, found = sheets.repo, []
    have: dict[str, list[HumanDecision]] = {}
    for commit, lines in sheets.saved.get(prs.DECISIONS, {}).items():
        kept = set(_lines(repo, prs.DECISIONS, commit))
        for line in lines:
            with suppress(ValueError):
                one = HumanDecision.model_validate_json(line)
                have.setdefault(commit, []).append(one)
                found += [(commit, one)] if line not in kept else []
    if repo.ref(prs.DECISIONS) is not None and all(one.ref != prs.DECISIONS for one in mended):
        return found
    for records in pulls.values():
        pull = records[0]
        for item in pull.items:
            verdict: str = item.verdict or ("dropped" if item.dropped else "")
            verdict = verdict or (str(pull.state) if pull.state in (PullState.ACCEPTED, PullState.REJECTED) else "")
            said = [*have.get(item.commit, ()), *_said(repo, item.commit)]
            if item.run and verdict and not any(one.pr == pull.id for one in said):
                word = {"pr": pull.id, "item": item.item, "run": item.run, "verdict": verdict, "who": NOT_KNOWN}
                word |= {"reason": item.reason or pull.reason, "when": when, "step": len(records)}
                found.append((item.commit, HumanDecision.model_validate(word)))
    return found


def _said(repo: Repo, commit: str) -> list[HumanDecision]:
    try:
        return prs.decided(repo, commit)
    except (RepositoryError, ValueError):
        return []
