"""Runs as git keeps them: a run ref per run, and the notes that list its artifacts.

Owns `refs/pantheon/runs/`, the artifact notes and the summary notes. A run's commit has the base and the result as
parents, so that gc keeps both. It does not decide what is an artifact, nor which commit a note belongs on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime

from pantheon import redact
from pantheon.errors import NewerRecord, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.records import Artifact, Run, newer

RUNS = "refs/pantheon/runs/"
NOTES = "refs/notes/pantheon/artifacts"
SUMMARY = "refs/notes/pantheon/summary"
RUN_FILE = "run.json"
INLINE_BYTES = 2048
MAX_BYTES = 1 << 20
_RUN_ID = re.compile(r"[0-9a-f]{8,64}", re.ASCII)


def run_ref(run_id: str) -> str:
    """The ref of a run. RepositoryError when `run_id` is not a string of hexadecimal digits."""
    if not _RUN_ID.fullmatch(run_id):
        raise RepositoryError("not a run id", repr(run_id[:80]), "8 to 64 hexadecimal digits", "git pantheon status")
    return f"{RUNS}{run_id[:2]}/{run_id}"


def clip(data: bytes) -> bytes:
    """`data`, or its head and tail around a line that says what was left out: at most MAX_BYTES."""
    if len(data) <= MAX_BYTES:
        return data
    head = (MAX_BYTES - 200) // 2
    marker = f"\n[pantheon: {len(data) - 2 * head} of {len(data)} bytes left out here]\n".encode("ascii")
    return data[:head] + marker + data[-head:]


def store_run(
    repo: Repo,
    run: Run,
    files: Mapping[str, Mapping[str, bytes]],
    result: str | None,
    when: datetime,
    signer: Signer | None = None,
) -> tuple[Run, list[Artifact]]:
    """Store a finished run: blobs, tree, commit, then its ref, which must not exist yet.

    `files` holds the artifacts by node and name; secrets are hidden in each before anything of it is written, and in
    the run's texts. The run returned names its result and its commit; the one in
    `run.json` cannot name the commit that holds it, so `load_run` fills that in.
    """
    ref = run_ref(run.id)
    contents = [data for named in files.values() for data in named.values()]
    scrubber = redact.Scrubber([repo.read_path(run.base, run.item.target) or b"", *contents])
    stored = redact.clean_run(run, scrubber).model_copy(update={"result": result, "run_commit": None})
    changes = {RUN_FILE: (0o100644, repo.write_blob(stored.to_json().encode("utf-8", "surrogateescape") + b"\n"))}
    artifacts: list[Artifact] = []
    for node, named in sorted(files.items()):
        for name, found in sorted(named.items()):
            data, hidden = scrubber.scrub(found)
            oid = repo.write_blob(clip(data))
            changes[f"{node}/{name}"] = (0o100644, oid)
            artifacts.append(_describe(run.id, node, name, data, oid, hidden))
    parents = list(dict.fromkeys([run.base, result] if result else [run.base]))
    message = f"run {run.id}: {run.outcome}\n\nPantheon-Run: {run.id}\n"
    commit = repo.commit(repo.write_tree(None, changes), parents, message, when, signer)
    repo.move_ref(ref, commit, None, f"run {run.outcome}")
    return stored.model_copy(update={"run_commit": commit}), artifacts


def is_whole(fresh: Repo, run: Run) -> bool:
    """Whether every object that a run brought is on the disk: its own, and what its result changes. `fresh`: as
    `Repo.afresh` gives it, for what this process remembers may be gone."""
    try:
        if run.run_commit:
            for entry in fresh.entries(run.run_commit).values():
                fresh.blob_size(entry.oid)
        if run.result:
            info = fresh.commit_info(run.result)
            for blobs in fresh.changed(info.parents[0], info.tree).values():
                for blob in filter(None, blobs):
                    fresh.blob_size(blob)
    except RepositoryError:
        return False
    return True


def restore_run(repo: Repo, run: Run, when: datetime, signer: Signer | None = None) -> Run:
    """A stored run's record again with another outcome or result: a new commit on its ref, the same artifacts."""
    ref = run_ref(run.id)
    before = _run_commit(repo, run.id)
    stored = redact.clean_run(run).model_copy(update={"run_commit": None})
    blob = repo.write_blob(stored.to_json().encode("utf-8", "surrogateescape") + b"\n")
    tree = repo.write_tree(repo.tree_of(before), {RUN_FILE: (0o100644, blob)})
    parents = list(dict.fromkeys([run.base, run.result] if run.result else [run.base]))
    message = f"run {run.id}: {run.outcome}\n\nPantheon-Run: {run.id}\n"
    commit = repo.commit(tree, [*parents, before], message, when, signer)
    repo.move_ref(ref, commit, before, f"run {run.outcome}")
    return stored.model_copy(update={"run_commit": commit})


def copy_notes(repo: Repo, moved: Mapping[str, str], when: datetime, signer: Signer | None = None) -> None:
    """The artifact and summary notes of rewritten commits (old -> new), also on the new ones."""
    lines = {
        new: (repo.read_note(NOTES, old) or b"").decode("utf-8", "surrogateescape").splitlines()
        for old, new in moved.items()
    }
    if any(lines.values()):
        repo.append_notes(NOTES, lines, f"artifacts of {len(lines)} rewritten commit(s)\n", when, signer)
    texts = {new: text for old, new in moved.items() if (text := repo.read_note(SUMMARY, old)) is not None}
    if texts:
        repo.set_notes(SUMMARY, texts, f"summary of {len(texts)} rewritten commit(s)\n", when, signer)


def carry_notes(
    repo: Repo,
    lines: Mapping[str, Sequence[str]],
    summaries: Mapping[str, str],
    when: datetime,
    signer: Signer | None,
) -> None:
    """Lines of artifact notes, and whole summaries, on commits that lack them."""
    if lines:
        repo.append_notes(NOTES, lines, f"artifacts of {len(lines)} commit(s)\n", when, signer)
    if summaries:
        notes = {commit: text.encode("utf-8", "replace") for commit, text in summaries.items()}
        repo.set_notes(SUMMARY, notes, f"summary of {len(notes)} commit(s)\n", when, signer)


def _describe(run_id: str, node: str, name: str, data: bytes, oid: str, hidden: tuple[str, ...]) -> Artifact:
    """The record of one artifact. `size` and `sha256` are those of the full content without its secrets, `oid` is of
    what was kept of it."""
    content: str | None = None
    if len(data) <= INLINE_BYTES:
        try:
            content = data.decode("utf-8")
        except UnicodeDecodeError:
            content = None
    return Artifact(
        run=run_id,
        node=node,
        name=name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        oid=oid,
        content=content,
        redacted=hidden,
    )


def describe_stored(repo: Repo, run: Run) -> list[Artifact]:
    """The artifacts of a run as its tree has them: what was kept of each, which secrets were hidden is not known."""
    found = []
    for path, entry in repo.entries(run.run_commit or _run_commit(repo, run.id)).items():
        node, slash, name = path.partition("/")
        if slash:
            found.append(_describe(run.id, node, name, repo.read_blob(entry.oid), entry.oid, ()))
    return found


def note_run(
    repo: Repo, artifacts: Sequence[Artifact], on_commit: str, when: datetime, signer: Signer | None = None
) -> str:
    """List a run's artifacts in the note of a commit, one line each; lines that are there already stay as they are."""
    return note_runs(repo, {on_commit: artifacts}, when, signer)


def note_runs(
    repo: Repo, artifacts: Mapping[str, Sequence[Artifact]], when: datetime, signer: Signer | None = None
) -> str:
    """The same for many commits, in one notes commit; the new value of the notes ref."""
    lines = {commit: [artifact.to_json() for artifact in some] for commit, some in artifacts.items()}
    return repo.append_notes(NOTES, lines, f"artifacts of {len(lines)} commit(s)\n", when, signer)


def read_notes(repo: Repo, commit: str) -> list[Artifact]:
    """The artifacts that a commit's note lists; none when it has no note."""
    note = repo.read_note(NOTES, commit) or b""
    try:
        return [Artifact.model_validate(_json(line)) for line in note.splitlines() if line]
    except ValueError as error:
        raise RepositoryError("cannot read the artifact note", commit, str(error), "git pantheon reindex") from error


def summarise(repo: Repo, texts: Mapping[str, str], when: datetime, signer: Signer | None = None) -> str:
    """Set the short text that `git log` shows under each of these commits, in one notes commit."""
    clean = {commit: redact.scrub_text(text).rstrip("\n") + "\n" for commit, text in texts.items()}
    notes = {commit: text.encode("utf-8", "replace") for commit, text in clean.items()}
    return repo.set_notes(SUMMARY, notes, f"summary of {len(notes)} commit(s)\n", when, signer)


def find_secrets(repo: Repo, treeish: str, max_bytes: int = 8 << 20) -> tuple[redact.Finds, bool]:
    """The secrets in a run, a night or the notes, as (path, where), and whether all was read; at most `max_bytes`."""
    entries = repo.entries(treeish).items()
    return redact.scan(((path, repo.read_blob(e.oid)) for path, e in entries if e.mode == 0o100644), max_bytes)


def _json(data: bytes) -> object:
    """Parsed JSON; bytes of a path that are not UTF-8 come back as they went in. ValueError when it is not JSON."""
    parsed: object = json.loads(data.decode("utf-8", "surrogateescape"))
    return parsed


def _run_commit(repo: Repo, run_id: str) -> str:
    commit = repo.ref(run_ref(run_id))
    if commit is None:
        raise RepositoryError("no such run", run_id, "it has no run ref", "git pantheon status")
    return commit


def _load(repo: Repo, name: str, commit: str) -> Run:
    data = repo.read_path(commit, RUN_FILE)
    if data is None:
        raise RepositoryError("cannot read a run", name, f"its tree has no {RUN_FILE}", "git fsck")
    if newer(data):
        raise NewerRecord("cannot read a run", name)
    try:
        return Run.model_validate(_json(data)).model_copy(update={"run_commit": commit})
    except ValueError as error:
        if newer(data, error):
            raise NewerRecord("cannot read a run", name) from error
        raise RepositoryError("cannot read a run", name, str(error), f"git show {commit}:{RUN_FILE}") from error


def load_run(repo: Repo, run_id: str) -> Run:
    return _load(repo, run_id, _run_commit(repo, run_id))


def list_runs(repo: Repo) -> Iterator[Run]:
    """Every stored run, in the order of their ids; left out are those that a newer version wrote and those that cannot
    be read, which `verify` names."""
    for name, commit in repo.refs(RUNS).items():
        with suppress(RepositoryError):
            yield _load(repo, name, commit)


def read_artifact(repo: Repo, run_id: str, node: str, name: str) -> bytes:
    """What was kept of one artifact (see `clip`)."""
    data = repo.read_path(_run_commit(repo, run_id), f"{node}/{name}")
    if data is None:
        raise RepositoryError("no such artifact", f"{node}/{name}", f"not in run {run_id}", "git pantheon status")
    return data


def homes_of(repo: Repo, run: Run) -> tuple[str, ...]:
    """The commits that notes of a run may stand on: its result or its own commit, of every version of its record."""
    homes = [run.noted_on]
    oid, base = run.run_commit, run.base
    while oid is not None:
        info = repo.commit_info(oid)
        stored = _load(repo, run.id, oid)
        homes += [stored.result or oid]
        known = {base, stored.result}
        oid = next((parent for parent in info.parents[1:] if parent not in known), None)
    return tuple(dict.fromkeys(homes))


def forget_notes(repo: Repo, homes: Sequence[str], when: datetime, signer: Signer | None = None) -> None:
    """Take away the artifact and summary notes of these commits: their runs are collected."""
    for ref in (NOTES, SUMMARY):
        if repo.ref(ref) is not None:
            repo.remove_notes(ref, homes, f"collected: notes of {len(homes)} commit(s)\n", when, signer)
