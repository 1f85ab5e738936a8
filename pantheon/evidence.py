"""The evidence of one run: its ref, its artifacts, the notes that list and attest them, the commits they are about.

Owns what must be true of a run: the statement is computed again from the night's record and the stored bytes and held
field by field against the one that was signed; every line of the artifact note is held against the blob it names. The
writers (artifacts.py, attest.py) are not asked.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pantheon import __version__
from pantheon.ledger import MANY, NOTES, Ledger, lines_of, parse_json
from pantheon.reader import TREE_MODE, Commit, Unreadable
from pantheon.records import Artifact, HumanDecision, Night, Run
from pantheon.report import summary_note

RUNS = "refs/pantheon/runs/"
RUN_FILE = "run.json"
KEPT = 1 << 20  # bytes of an artifact that are stored; of a longer one its head and tail
IN_TOTO = "application/vnd.in-toto+json"
_CUT = re.compile(rb"\n\[pantheon: \d+ of (\d{1,18}) bytes left out here\]\n")
_INSTANT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass
class NightFacts:
    """What the runs of a night are held against. `journal` and `items` are the stored JSON, by id."""

    night: Night
    items: dict[str, Any] = field(default_factory=dict)
    journal: dict[str, Any] = field(default_factory=dict)
    egress: dict[str, bool] = field(default_factory=dict)  # sha256 of egress.json -> closed
    sealed: bool = False


@dataclass
class Version:
    """One state of a run's ref: the record, its JSON as stored, and the blobs by path."""

    commit: str
    run: Run
    raw: dict[str, Any]
    files: dict[str, str]


@dataclass
class Proof:
    """A run that could be read; `homes` are the commits that its notes stand on, the present one first."""

    ref: str
    versions: list[Version]
    sha256: dict[str, str] = field(default_factory=dict)  # by blob
    homes: dict[str, None] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)  # by blob, while the run is looked at

    @property
    def run(self) -> Run:
        return self.versions[0].run


# --- the run's own ref ------------------------------------------------------------------------------------------------


def read_run(ledger: Ledger, run_id: str) -> Proof | None:
    """A run as its ref holds it, every version of it; None, told, when there is nothing to go on and it was not
    collected."""
    ref = f"{RUNS}{run_id[:2]}/{run_id}"
    proof = Proof(ref, [])
    oid: str | None = ledger.refs.get(ref)
    if oid is None and ref not in ledger.taken:
        ledger.fault("ref", ref, "is missing")
    waiting, seen = [oid] if oid else [], set[str]()
    while waiting:
        oid = waiting.pop(0)
        if oid in seen:
            continue
        seen.add(oid)
        try:
            commit = ledger.signed(oid, ref)
            files = ledger.store.files(commit.tree, f"run {run_id}")
            data = ledger.store.read(files[RUN_FILE], "blob", f"run {run_id}, {RUN_FILE}")
        except Unreadable:
            break
        except KeyError:
            ledger.fault("run", f"run {run_id}", f"its tree has no {RUN_FILE}")
            break
        run = ledger.record(Run, data, "run", f"run {run_id}, {RUN_FILE}")
        if run is None:
            break
        if commit.message.startswith("merge: "):
            waiting += _sides(ledger, run_id, commit, run)
            continue
        raw = ledger.one_line(data.removesuffix(b"\n"), "run", f"run {run_id}, {RUN_FILE}")
        proof.versions.append(Version(oid, run, raw, files))
        proof.homes.setdefault(run.result or oid)
        before = _check_version(ledger, run_id, commit, run)
        waiting += [before] if before else []
    return proof if proof.versions else None


def _sides(ledger: Ledger, run_id: str, commit: Commit, run: Run) -> tuple[str, ...]:
    """The two records that a merge of clones keeps of one run: the first is the one that stands, as it was. The commit
    is no version of its own: nothing is said of it."""
    where, named = f"run {run_id}, commit {commit.oid}", {run.base, run.result}
    sides = commit.parents[len(commit.parents) - 2 :]
    message = f"merge: run {run_id}\n\nPantheon-Run: {run_id}\n"
    if set(commit.parents[:-2]) != named - {None} or commit.message != message:
        ledger.fault("run", where, "it is no merge of two records of this run")
    elif ledger.store.commit(sides[0], where).tree != commit.tree:
        ledger.fault("run", where, f"it is not what the record in {sides[0]} was")
    return sides


def _check_version(ledger: Ledger, run_id: str, commit: Commit, run: Run) -> str | None:
    """Hold a run's commit against its record; the version before it, if there was one."""
    where = f"run {run_id}"
    if run.id != run_id:
        ledger.fault("run", f"{where}, {RUN_FILE}", f"field id: expected {run_id}, found {run.id}")
    message = f"run {run.id}: {run.outcome}\n\nPantheon-Run: {run.id}\n"
    if commit.message != message:
        ledger.fault("run", f"{where}, commit {commit.oid}", f"its message is {commit.message[:80]!r}")
    parents = tuple(dict.fromkeys([run.base, run.result] if run.result else [run.base]))
    more = commit.parents[len(parents) :]
    if commit.parents[: len(parents)] != parents or len(more) > 1:
        why = f"its parents are {', '.join(commit.parents)}, its record names {', '.join(parents)}"
        ledger.fault("run", f"{where}, commit {commit.oid}", why)
    return more[0] if len(more) == 1 else None


def check_run(ledger: Ledger, proof: Proof, facts: NightFacts | None) -> None:
    """Everything about a run but the PR it went into."""
    run = proof.run
    where = f"run {run.id}"
    ledger.step(where)
    now = proof.versions[0]
    for version in proof.versions:
        own = {path: blob for path, blob in version.files.items() if path != RUN_FILE}
        if own != {path: blob for path, blob in now.files.items() if path != RUN_FILE}:
            ledger.fault("artifact", where, f"its artifacts are others in its earlier commit {version.commit}")
        for path, blob in version.files.items():
            with suppress(Unreadable):
                data = ledger.store.read(blob, "blob", f"{where}, {path}")
                proof.contents[blob] = data
                proof.sha256[blob] = hashlib.sha256(data).hexdigest()
    if facts is None:
        ledger.fault("run", where, f"its night {run.night} cannot be read")
    else:
        _check_against_night(ledger, now, facts)
        _check_answers(ledger, proof, facts.night)
    for home in proof.homes:
        check_home(ledger, proof, home, facts)
    proof.contents.clear()


def _check_against_night(ledger: Ledger, version: Version, facts: NightFacts) -> None:
    run, night = version.run, facts.night
    where = f"run {run.id}"
    name = hashlib.sha256(f"{night.id}\0{run.item.id}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
    if run.id != name or run.night != night.id:
        ledger.fault("run", where, f"its night and item give {name}: it is the record of something else")
    item = facts.items.get(run.item.id)
    if item is None:
        ledger.fault("run", where, f"its item {run.item.id} is not in the queue of night {night.id}")
    else:
        ledger.differs(item, version.raw.get("item"), "run", f"{where}, item")
    base = night.seeded_base if run.item.canary is not None else night.base
    if run.base != base:
        ledger.fault("run", where, f"field base: expected {base}, found {run.base}")
    if strangers := sorted(set(run.agents) - set(night.agents)):
        ledger.fault("run", where, f"field agents: {', '.join(strangers)} not among those of night {night.id}")
    if facts.sealed:
        stored = {**version.raw, "run_commit": version.commit}
        line = facts.journal.get(run.id)
        if line is None:
            ledger.fault("night", f"night {night.id}, journal.jsonl", f"run {run.id} is missing")
        else:
            ledger.differs(stored, line, "night", f"night {night.id}, journal.jsonl, {where}")


# --- who answered -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """That a model answered an agent in a node, by what the node was given. `judge`: it was asked for a verdict."""

    path: str
    agent: str
    model: str
    judge: bool


def answers(version: Version, contents: Mapping[str, bytes]) -> list[Answer]:
    """Who answered in a run: the nodes that a prompt was written in. A node that says of itself what is no record of
    ours answers for nobody, which its statement then does not fit."""
    found = []
    for path, blob in sorted(version.files.items()):
        folder, _, name = path.rpartition("/")
        stem = name.removesuffix("input.json")
        if stem == name or f"{folder}/{stem}llm_prompt.txt" not in version.files:
            continue
        with suppress(ValueError, KeyError, TypeError):
            said = parse_json(contents[blob])
            judge = f"{folder}/review.json" in version.files
            found.append(Answer(path, str(said["agent"]), str(said["model"]), judge))
    return found


def _check_answers(ledger: Ledger, proof: Proof, night: Night) -> None:
    """The night's model answered, and where there was a teacher, that one answered everybody but those who judge."""
    for one in answers(proof.versions[0], proof.contents):
        expected = night.teacher if night.teacher and not one.judge else night.model
        expected = "scripted" if one.agent in night.scripted else expected
        if one.model != expected:
            why = f"{one.agent} was answered by {one.model!r}; in night {night.id} {expected!r} answers it"
            ledger.fault("run", f"run {proof.run.id}, {one.path}", why)


# --- a commit that carries a run's notes ------------------------------------------------------------------------------


def check_home(ledger: Ledger, proof: Proof, home: str, facts: NightFacts | None) -> None:
    """The commit itself, its artifact note, its attestations and its summary."""
    run = proof.run
    if home not in {version.commit for version in proof.versions}:
        with suppress(Unreadable):
            check_result(ledger, home, run.item.task, run.id, run.agents)
    check_artifacts(ledger, proof, home)
    if facts is not None:
        check_statements(ledger, proof, home, facts)
    text = ledger.note("summary", home)
    if text is None:
        if facts is not None and facts.sealed and home == next(iter(proof.homes)):
            ledger.fault("note", f"{NOTES}summary on {home}", "the summary is missing")
    elif _ours(ledger, home) and text != summary_note(_in_order(run, text)).encode("utf-8", "replace"):
        ledger.fault("note", f"{NOTES}summary on {home}", f"it is not what run {run.id} gives: {text[:80]!r}")


def _in_order(run: Run, text: bytes) -> Run:
    """The run with its nodes in the order in which they ran, which only the summary knows: a record sorts its keys."""
    said = next((line for line in text.decode("utf-8", "replace").split("\n") if line.startswith("nodes: ")), "")
    names = [part.partition("=")[0] for part in said.split()[1:]]
    nodes = {name: run.nodes[name] for name in names if name in run.nodes}
    return run.model_copy(update={"nodes": nodes | run.nodes})


def _ours(ledger: Ledger, home: str) -> bool:
    """Whether the version that ran was this one: another one may have put its summary in other words."""
    for line in lines_of(ledger.note("attestations", home) or b""):
        with suppress(ValueError, KeyError, TypeError):
            said = parse_json(base64.b64decode(parse_json(line.encode("utf-8", "surrogateescape"))["payload"]))
            return bool(said["predicate"]["runDetails"]["builder"]["version"]["git-pantheon"] == __version__)
    return False


def check_result(ledger: Ledger, oid: str, task: str, run_id: str, agents: Iterable[str]) -> Commit:
    """An item's commit: signed, on one parent, with its trailers, and every object that it brings in is whole."""
    commit = ledger.signed(oid, f"the result of run {run_id}")
    trailers = [f"Pantheon-Task: {task}", f"Pantheon-Run: {run_id}", *(f"Pantheon-Agent: {name}" for name in agents)]
    found = commit.message.rstrip("\n").rpartition("\n\n")[2].split("\n")
    for want, have in zip(trailers, found, strict=False):
        if want != have:
            ledger.fault("run", f"commit {oid}", f"its trailer is {have!r}, run {run_id} gives {want!r}")
    if len(found) != len(trailers):
        ledger.fault("run", f"commit {oid}", f"it has {len(found)} trailers, run {run_id} gives {len(trailers)}")
    check_change(ledger, commit)
    return commit


def check_change(ledger: Ledger, commit: Commit) -> None:
    """Read what a commit brings in against its parent: all below that is the user's own and was there before."""
    if len(commit.parents) != 1:
        ledger.fault("run", f"commit {commit.oid}", f"it has {len(commit.parents)} parents, an item's commit has one")
        return
    before = ledger.store.commit(commit.parents[0], f"the parent of {commit.oid}")
    waiting, seen = [("", before.tree, commit.tree)], 0
    while waiting:
        above, old, new = waiting.pop()
        seen += 1
        if seen > MANY:
            ledger.fault("run", f"commit {commit.oid}", f"it changes more than {MANY} directories")
            return
        if old == new:
            continue
        had = ledger.store.tree(old, f"commit {before.oid}, {above}") if old else {}
        for name, (mode, oid) in ledger.store.tree(new, f"commit {commit.oid}, {above}").items():
            was = had.get(name, (0, ""))
            path = above + name.decode("utf-8", "backslashreplace")
            if mode == TREE_MODE:
                waiting.append((path + "/", was[1] if was[0] == TREE_MODE else "", oid))
            elif was[1] != oid and mode != 0o160000:
                with suppress(Unreadable):
                    ledger.store.read(oid, "blob", f"commit {commit.oid}, {path}")


# --- the artifact note ------------------------------------------------------------------------------------------------


def check_artifacts(ledger: Ledger, proof: Proof, home: str) -> None:
    """Each artifact of the run listed once, as it is; nothing else listed."""
    where = f"{NOTES}artifacts on {home}"
    note = ledger.note("artifacts", home)
    files = {path: blob for path, blob in proof.versions[0].files.items() if path != RUN_FILE}
    if note is None:
        if files:
            ledger.fault("note", where, f"run {proof.run.id} has no note here")
        return
    listed: set[str] = set()
    for number, line in enumerate(lines_of(note), 1):
        found = ledger.record(Artifact, line.encode("utf-8", "surrogateescape"), "note", f"{where}, line {number}")
        if found is None:
            continue
        path = f"{found.node}/{found.name}"
        name = f"{where}, {path}"
        ledger.one_line(line.encode("utf-8", "surrogateescape"), "note", name)
        if found.run != proof.run.id:
            ledger.fault("note", name, f"it is the record of run {found.run}; this commit is of run {proof.run.id}")
        elif path not in files:
            ledger.fault("artifact", name, "it is listed, but not in the tree of the run")
        elif path in listed:
            ledger.fault("artifact", name, "it is listed twice")
        else:
            listed.add(path)
            _check_artifact(ledger, proof, found, files[path], name)
    for path in sorted(files.keys() - listed):
        ledger.fault("artifact", f"{where}, {path}", "it is in the tree of the run, but not listed")
    if not note.endswith(b"\n"):
        ledger.fault("note", where, "its last line has no end")


def _check_artifact(ledger: Ledger, proof: Proof, found: Artifact, blob: str, name: str) -> None:
    data = proof.contents.get(blob)
    if found.oid != blob:
        ledger.fault("artifact", name, f"field oid: expected {blob}, found {found.oid}")
    if data is None:
        return  # the object was told of
    cut = _CUT.search(data) if found.size > KEPT else None
    if cut is not None and int(cut[1]) == found.size and len(data) <= KEPT:
        return  # the digest is of the whole, which is not kept
    if found.size != len(data):
        ledger.fault("artifact", name, f"field size: expected {len(data)}, found {found.size}")
    if found.sha256 != proof.sha256[blob]:
        ledger.fault("artifact", name, f"field sha256: expected {proof.sha256[blob]}, found {found.sha256}")
    if found.content is not None:
        inline = found.content.encode("utf-8", "surrogatepass")
        if inline != data:
            short = min(len(inline), len(data))
            at = next((n for n, (a, b) in enumerate(zip(inline, data, strict=False)) if a != b), short)
            ledger.fault("artifact", name, f"field content: it differs from the artifact at byte {at}")


# --- statements -------------------------------------------------------------------------------------------------------


def check_statements(ledger: Ledger, proof: Proof, home: str, facts: NightFacts) -> None:
    """Every envelope on this commit holds, is about this commit and this run, and says what is stored."""
    where = f"{NOTES}attestations on {home}"
    note = ledger.note("attestations", home)
    present = 0
    for number, line in enumerate(lines_of(note or b""), 1):
        name = f"{where}, line {number}"
        opened = ledger.envelope(line, IN_TOTO, name)
        if opened is None:
            continue
        payload, key = opened
        try:
            said = parse_json(payload)
            about = {one["name"]: one["digest"].get("gitCommit") for one in said["subject"]}
            done = said["predicate"]["runDetails"]["metadata"]["finishedOn"]
            when = datetime.strptime(done, _INSTANT).replace(tzinfo=UTC)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            ledger.fault("statement", name, f"not a statement of ours: {type(error).__name__}: {error}")
            continue
        ledger.in_time(key, int(when.timestamp()), name)
        version = next((one for one in proof.versions if one.commit == about.get("run")), None)
        subject = about.get("result") or about.get("run")
        if subject != home or version is None:
            why = f"it is the record of commit {subject} and run commit {about.get('run')}, not of this commit"
            ledger.fault("statement", name, why)
            continue
        present += version is proof.versions[0]
        expected = expect(proof, version, home, facts)
        _adopt(ledger, expected, said, facts, name)
        ledger.differs(expected, said, "statement", name)
    if not present:
        ledger.fault("statement", where, f"no statement about run {proof.run.id} as it is now")


def expect(proof: Proof, version: Version, home: str, facts: NightFacts) -> dict[str, Any]:
    """The statement that the night's record and the stored bytes give, without what only the moment knew."""
    run, night = version.run, facts.night
    subject: list[dict[str, Any]] = [{"name": "result", "digest": {"gitCommit": home}}] if run.result else []
    subject.append({"name": "run", "digest": {"gitCommit": version.commit}})
    for path, blob in sorted(version.files.items()):
        subject.append({"name": path, "digest": {"sha256": proof.sha256.get(blob, ""), "gitBlob": blob}})
    needs: list[dict[str, Any]] = [
        {"name": "base", "digest": {"gitCommit": run.base}},
        {"name": ".pantheon", "digest": {"sha256": night.config_sha256}},
    ]
    agents: list[dict[str, Any]] = [{"name": name, "template": night.templates.get(name)} for name in run.agents]
    speakers = [(night.model, night.model_sha256)]
    if night.teacher:
        spoke = {(one.agent, one.model) for one in answers(version, proof.contents)}
        speakers = [*speakers, (night.teacher, night.teacher_sha256)]
        speakers = [one for one in speakers if any(model == one[0] for _, model in spoke)]
        for one in agents:
            one["models"] = sorted(model for agent, model in spoke if agent == one["name"])
    for one in agents:
        if one["name"] in night.scripted:
            one["models"] = ["scripted"]
    for model, weights in speakers:
        for name, digest in sorted(weights.items()):
            needs.append({"name": f"model/{model}/{name}", "digest": {"sha256": digest}})
        if not weights:
            needs.append({"name": f"model/{model}", "uri": f"urn:git-pantheon:engine:{night.engine}"})
    for agent in run.agents:
        if agent in night.adapters:
            digest = night.adapters[agent].removeprefix("sha256:")
            needs.append({"name": f"adapter/{agent}", "digest": {"sha256": digest}})
    item = run.item
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "urn:git-pantheon:item:v1",
                "externalParameters": {"task": item.task, "item": item.id, "flow": item.flow, "target": item.target},
                "internalParameters": {
                    "night": night.id,
                    "engine": night.engine,
                    "window": night.window,
                    "agents": agents,
                },
                "resolvedDependencies": needs,
            },
            "runDetails": {
                "builder": {"id": "urn:git-pantheon:night"},
                "metadata": {"invocationId": run.id},
                "byproducts": [],
            },
        },
    }


def _adopt(ledger: Ledger, expected: dict[str, Any], said: dict[str, Any], facts: NightFacts, name: str) -> None:
    """Put what only the moment knew (times, version, which proof of the closed network) from the statement into what
    is expected, where it is of the right form and fits the night."""
    details = expected["predicate"]["runDetails"]
    try:
        found = said["predicate"]["runDetails"]
        version = found["builder"]["version"]
        if isinstance(version, dict) and list(version) == ["git-pantheon"] and isinstance(version["git-pantheon"], str):
            details["builder"]["version"] = version
        started, finished = found["metadata"]["startedOn"], found["metadata"]["finishedOn"]
        datetime.strptime(started, _INSTANT).replace(tzinfo=UTC)
        details["metadata"] |= {"startedOn": started, "finishedOn": finished}
        if started > finished:
            ledger.fault("statement", name, f"it started at {started}, after it finished at {finished}")
        digest = str(found["byproducts"][0]["digest"]["sha256"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError):
        return  # told as a field that differs
    if digest in facts.egress:
        closed = {"closed": facts.egress[digest]}
        details["byproducts"] = [{"name": "egress.json", "digest": {"sha256": digest}, "annotations": closed}]
    else:
        ledger.fault("statement", name, f"night {facts.night.id} has no egress.json with sha256 {digest}")


# --- decisions --------------------------------------------------------------------------------------------------------


def check_decisions(ledger: Ledger, commit: str, items: set[tuple[int, str, str]]) -> dict[int, str]:
    """What a person said of a commit: well-formed, and of an item (PR, item, run) that this commit was.

    PR -> the last word; what was undone is none.
    """
    where = f"{NOTES}decisions on {commit}"
    decided: dict[int, tuple[int, datetime, str]] = {}
    for number, line in enumerate(lines_of(ledger.note("decisions", commit) or b""), 1):
        data = line.encode("utf-8", "surrogateescape")
        found = ledger.record(HumanDecision, data, "note", f"{where}, line {number}")
        if found is None:
            continue
        ledger.one_line(data, "note", f"{where}, line {number}")
        before = decided.get(found.pr)
        if before is None or (found.step, found.when) >= before[:2]:  # not the last line: merges sort them
            decided[found.pr] = (found.step, found.when, found.verdict)
        if (found.pr, found.item, found.run) not in items:
            why = f"it is about run {found.run} in PR {found.pr}, which this commit is not"
            ledger.fault("note", f"{where}, line {number}", why)
    return {pull: verdict for pull, (_, _, verdict) in decided.items() if verdict != "undone"}
