"""`git pantheon verify`: everything recomputed, by code that did not write it, for someone who trusts neither the
machine nor the bot. The trust root is an argument; nothing in the repository can add to it.

Owns what must be true of nights, seals, PRs and the set of refs; evidence.py has the runs, ledger.py what all share,
reader.py the bytes. It imports none of the writers. It answers with a list of faults and never raises for the bytes it
meets. It stops at a night's base: what lies below is the user's history and no matter of ours.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from pantheon.cards import CARDS, NAME, Cards
from pantheon.entwined import RENUMBER, check_notes, check_step, renamed, words
from pantheon.errors import RepositoryError
from pantheon.evidence import (
    RUNS,
    NightFacts,
    Proof,
    check_change,
    check_decisions,
    check_run,
    read_run,
)
from pantheon.ledger import NOTES, Ledger, lines_of, merges
from pantheon.names import NIGHT, night_tag
from pantheon.names import night_order as _order
from pantheon.reader import Commit, Fault, Unreadable
from pantheon.records import Night, PullRequest, PullState, Record
from pantheon.remains import read_remains
from pantheon.signers import SignatureFault, Trust, open_envelope, parse_allowed, parse_revoked

NIGHTS, PRS, KEYS, BRANCHES = (
    "refs/pantheon/nights/",
    "refs/pantheon/prs/",
    "refs/pantheon/keys",
    "refs/heads/pantheon/",
)
SEAL = "application/vnd.git-pantheon.seal+json"
SEAL_FILES = ("seal.json", "seal.dsse.json")
GROWING = ("artifacts", "attestations", "decisions", "summary")
_KNOWN = re.compile(
    rf"refs/pantheon/(nights/{NIGHT}|runs/([0-9a-f]{{2}})/\2[0-9a-f]{{6,62}}|keys"
    r"|prs/[1-9]\d*/(meta|r[1-9]\d*(-[0-9a-f]{8})?)"
    r"|archive/(prs|collected))"
    rf"|{CARDS}{NAME}|{NOTES}({'|'.join(GROWING)})|{BRANCHES}.+"
)


class Verdict(Record):
    """What a verification found. `said` is what a person should know that is no fault."""

    faults: tuple[Fault, ...]
    said: tuple[str, ...]
    nights: int
    runs: int
    prs: int
    cards: int = 0  # of adapters
    commits: int  # with a signature that holds
    notes: int
    objects: int  # read and hashed
    signers: tuple[str, ...]

    @property
    def summary(self) -> str:
        counts = f"{self.nights} nights, {self.runs} runs, {self.prs} PRs, {self.commits} commits, {self.notes} notes"
        counts += f", {self.cards} adapter cards" if self.cards else ""
        signed = f"signed by {', '.join(self.signers)}" if self.signers else "nothing signed"
        head = f"{len(self.faults)} faults in" if self.faults else "verified"
        return f"{head} {counts}, {self.objects} objects; {signed}"


def load_trust(common_dir: Path, signers: Path | None = None) -> Trust:
    """The trust root of this repository, or that of a third party (`signers`). Raises RepositoryError without one."""
    allowed = signers or common_dir / "pantheon" / "allowed_signers"
    revoked = common_dir / "pantheon" / "revoked_keys"
    hint = "git pantheon keys accept"
    try:
        keys = parse_allowed(allowed.read_bytes(), str(allowed))
        gone = parse_revoked(revoked.read_bytes(), str(revoked)) if revoked.exists() else frozenset[bytes]()
    except FileNotFoundError as error:
        why = "there is no trust root here: accept the bot's published keys once, by hand, or bring your own file"
        raise RepositoryError("cannot verify", str(allowed), why, hint) from error
    except (OSError, ValueError) as error:
        raise RepositoryError("cannot read the trust root", str(allowed), str(error), hint) from error
    if not keys:
        raise RepositoryError("cannot verify", str(allowed), "it names no key", hint)
    return Trust(keys, gone)


def verify(
    common_dir: Path, trust: Trust, what: str | None = None, step: Callable[[str], None] = lambda _: None
) -> Verdict:
    """Verify a PR (its number), a night (its id), `all`, or with None the latest night and the open PRs.

    Raises RepositoryError when there is no such thing; whatever is wrong with it is a fault of the verdict.
    """
    ledger = Ledger(common_dir, trust, step)
    hall = _Hall(ledger, Cards(ledger, common_dir))
    try:
        hall.hear(what)
        return hall.verdict()
    finally:
        hall.ledger.store.close()


@dataclass
class _Operation:
    """One commit of a PR's record."""

    commit: Commit
    pull: PullRequest

    @property
    def undoes(self) -> bool:
        return self.commit.message.startswith("undo: ")

    @property
    def stays(self) -> bool:
        """Whether it decides nothing, so that an `undo` leaves it as it is."""
        return self.commit.message.startswith(("refresh: ", "push: ")) or self.entwined

    @property
    def entwined(self) -> bool:
        """Whether it comes of two clones: it merges their records, or gives the PR another number."""
        return merges(self.commit) or self.commit.message.startswith(RENUMBER)


@dataclass
class _Hall:
    """One verification: what was read so far, by name."""

    ledger: Ledger
    cards: Cards
    nights: dict[str, NightFacts | None] = field(default_factory=dict)
    pulls: dict[int, list[_Operation]] = field(default_factory=dict)
    sides: dict[int, list[_Operation]] = field(default_factory=dict)  # what merges of clones brought into a PR
    runs: dict[str, Proof] = field(default_factory=dict)

    def hear(self, what: str | None) -> None:
        ledger = self.ledger
        read_remains(ledger, PRS)
        night_ids = sorted((n.removeprefix(NIGHTS) for n in ledger.refs if n.startswith(NIGHTS)), key=_order)
        numbers = sorted({int(m[1]) for n in ledger.refs if (m := re.match(rf"{PRS}([1-9]\d*)/meta\Z", n))})
        if what == "all":
            chosen_nights, chosen_pulls = night_ids, numbers
        elif what is None:
            chosen_nights = night_ids[-1:]
            chosen_pulls = [n for n in numbers if self._open(n)]
        elif what.isdigit():
            chosen_nights, chosen_pulls = [], [int(what)]
            if f"{PRS}{what}/meta" not in ledger.refs:
                raise RepositoryError("no such PR", what, hint="git pantheon pr --all")
        else:
            chosen_nights, chosen_pulls = [what], []
            if NIGHTS + what not in ledger.refs:
                why = "git pantheon gc took it away" if NIGHTS + what in ledger.taken else ""
                raise RepositoryError("no such night", what, why, hint="git pantheon report")
        for number in chosen_pulls:
            self.read_pull(number)
        for night in chosen_nights:
            facts = self.night(night)
            if facts is not None:
                self._runs_of(facts)
                for number in numbers:
                    if self.read_pull(number) and self.pulls[number][0].pull.night != night and what != "all":
                        del self.pulls[number]
        if what == "all":
            for name in ledger.refs:
                if name.startswith(RUNS):
                    self.run(name.rpartition("/")[2])
        self._judge(set(chosen_nights), everything=what == "all")

    def _open(self, number: int) -> bool:
        operations = self.read_pull(number)
        if operations and operations[0].pull.state is PullState.OPEN:
            return True
        self.pulls.pop(number, None)
        return not operations

    def _judge(self, chosen: set[str], everything: bool) -> None:
        """Everything that was chosen was read; hold it together."""
        said: dict[str, set[tuple[int, str, str]]] = {}
        for number, operations in self.pulls.items():
            for operation in (*operations, *self.sides.get(number, ())):
                for item in operation.pull.items:
                    if item.run:
                        proof = self.run(item.run)
                        if proof is not None:
                            proof.homes.setdefault(item.commit)
                        said.setdefault(item.commit, set()).add((operation.pull.id, item.item, item.run))
        for proof in self.runs.values():
            check_run(self.ledger, proof, self.night(proof.run.night))
        decided = {commit: check_decisions(self.ledger, commit, items) for commit, items in said.items()}
        for number, operations in self.pulls.items():
            self._check_pull(number, operations)
            if operations:
                self._check_decided(number, operations, decided)
        for night, facts in list(self.nights.items()):
            self._check_seal(night)
            if facts is not None:
                self.cards.check_night(facts.night)
        if everything:
            self.cards.all()
        if everything or chosen:
            self._check_keys()
            for name in GROWING:
                until = None if everything else self._sealed_before(chosen, NOTES + name)
                self.ledger.grown(name, until, partial(check_notes, self.ledger, name=name))
        if everything:
            self._check_notes()
        self._check_refs()
        odd, of = self.ledger.store.odd_files()
        if odd:
            self.ledger.said.append(
                f"{odd} of {of} loose objects were compressed by another zlib or at another level: bytes of their "
                "files that leave the content equal cannot be judged"
            )

    def verdict(self) -> Verdict:
        ledger = self.ledger
        return Verdict(
            faults=tuple(ledger.faults),
            said=tuple(ledger.said),
            nights=sum(1 for facts in self.nights.values() if facts),
            runs=len(self.runs),
            prs=len(self.pulls),
            cards=sum(map(len, self.cards.read.values())),
            commits=ledger.commits,
            notes=len([1 for name, commit in ledger.noted if commit in ledger.notes(name)]),
            objects=ledger.store.objects,
            signers=tuple(sorted(ledger.signers)),
        )

    # --- nights -------------------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> Proof | None:
        if run_id not in self.runs:
            proof = read_run(self.ledger, run_id)
            if proof is None:
                return None
            self.runs[run_id] = proof
        return self.runs[run_id]

    def _runs_of(self, facts: NightFacts) -> None:
        """Read the runs of a night: those its journal names and those its queue can have made."""
        for item in facts.items:
            name = hashlib.sha256(f"{facts.night.id}\0{item}".encode("utf-8", "surrogateescape")).hexdigest()[:32]
            if f"{RUNS}{name[:2]}/{name}" in self.ledger.refs or name in facts.journal:
                self.run(name)

    def night(self, night_id: str) -> NightFacts | None:
        """A night's record from its ref, its line of checkpoints checked; None, told, when it cannot be read."""
        if night_id not in self.nights:
            self.nights[night_id] = None
            self.ledger.step(f"night {night_id}")
            if NIGHTS + night_id not in self.ledger.refs:
                if NIGHTS + night_id not in self.ledger.taken:
                    self.ledger.fault("ref", NIGHTS + night_id, "is missing")
            else:
                self.nights[night_id] = self._read_night(night_id)
        return self.nights[night_id]

    def _read_night(self, night_id: str) -> NightFacts | None:
        ledger, ref, where = self.ledger, NIGHTS + night_id, f"night {night_id}"
        facts: NightFacts | None = None
        frozen: dict[str, Any] = {}
        egress: dict[str, bool] = {}
        line = ledger.line(ref)
        for oid in line:
            try:
                files = ledger.store.files(ledger.store.commit(oid, ref).tree, where)
                data = {path: ledger.store.read(blob, "blob", f"{where}, {path}") for path, blob in files.items()}
            except Unreadable:
                continue
            raw = ledger.one_file(data.get("night.json", b""), "night", f"{where}, night.json")
            same = {k: v for k, v in raw.items() if k != "budget_s"}  # a resumed night may get another budget
            same |= {path: files.get(path) for path in ("queue.jsonl", "tasks.jsonl", "notes.json")}
            if facts is None:
                facts = self._facts(night_id, data)
                frozen = same
            ledger.differs(frozen, same, "night", f"{where}, checkpoint {oid}")
            if "egress.json" in data:
                proof = ledger.one_file(data["egress.json"], "night", f"{where}, egress.json")
                egress[hashlib.sha256(data["egress.json"]).hexdigest()] = proof.get("closed") is True
                if proof.get("closed") is not True:
                    ledger.fault("night", f"{where}, egress.json", f"field closed: found {proof.get('closed')!r}")
        if facts is None:
            return None
        facts.egress = egress
        self._check_start(facts, line)
        return facts

    def _facts(self, night_id: str, data: dict[str, bytes]) -> NightFacts | None:
        ledger, where = self.ledger, f"night {night_id}"
        night = ledger.record(Night, data.get("night.json", b""), "night", f"{where}, night.json")
        if night is None:
            return None
        facts = NightFacts(night, sealed=SEAL_FILES[0] in data)
        for name, into in (("queue.jsonl", facts.items), ("journal.jsonl", facts.journal)):
            for number, line in enumerate(lines_of(data.get(name, b"")), 1):
                place = f"{where}, {name}, line {number}"
                raw = ledger.one_line(line.encode("utf-8", "surrogateescape"), "night", place)
                if str(raw.get("id")) in into:
                    ledger.fault("night", place, f"{raw.get('id')} stands there twice")
                into[str(raw.get("id"))] = raw
        if "report.json" in data:
            said = ledger.one_file(data["report.json"], "night", f"{where}, report.json")
            ran = list(facts.journal.values())
            for name, some in (("runs", [r for r in ran if not _sown(r)]), ("canaries", [r for r in ran if _sown(r)])):
                ledger.differs(some, said.get(name, []), "night", f"{where}, report.json, {name}")
        if night.id != night_id and night.id == night_id[:-5] and _order(night_id)[2]:
            ledger.said.append(
                f"{night_id} is the second of two nights that called themselves {night.id}, in two clones"
            )
        elif night.id != night_id:
            ledger.fault("night", f"{where}, night.json", f"field id: expected {night_id}, found {night.id}")
        counts = Counter("canaries" if _sown({"item": item}) else "items" for item in facts.items.values())
        for name, told in (("items", night.items), ("canaries", night.canaries)):
            if told != counts[name]:
                why = f"field {name}: expected {counts[name]}, as the queue has them, found {told}"
                ledger.fault("night", f"{where}, night.json", why)
        return facts

    def _check_start(self, facts: NightFacts, line: tuple[str, ...]) -> None:
        """The oldest commit of a night freezes it, and stands on its base."""
        where = f"night {facts.night.id}"
        with suppress(Unreadable, IndexError):
            first = self.ledger.store.commit(line[-1], where)
            if first.message != f"{where}: freeze\n" or first.parents != (facts.night.base,):
                why = f"its line ends in {first.oid} ({first.message.strip()[:60]!r}) on {', '.join(first.parents)}"
                self.ledger.fault("night", where, f"{why}, not in its freeze on base {facts.night.base}")
        with suppress(Unreadable):
            self.ledger.store.commit(facts.night.base, f"{where}, its base")

    # --- seals --------------------------------------------------------------------------------------------------------

    def _check_seal(self, night_id: str) -> None:
        """The seal of a night, if it has one: its envelope, its files, the refs it lists, the seal before it."""
        ledger, where = self.ledger, f"seal of night {night_id}"
        seal = self._seal(night_id)
        if seal is None:
            return
        for name, oid in seal["refs"].items():
            self._check_sealed_ref(name, str(oid), where)
        known = {**ledger.taken, **ledger.refs}
        earlier = [n for n in known if n.startswith(NIGHTS) and _order(n[len(NIGHTS) :]) < _order(night_id)]
        before = sorted(earlier, key=lambda n: _order(n[len(NIGHTS) :]))[-1:]
        if len({night_tag(n[len(NIGHTS) :]) for n in known if n.startswith(NIGHTS)}) > 1:  # clones do not wait
            before = [n for n in known if n.startswith(NIGHTS) and n != NIGHTS + night_id]
        if seal["previous"] is None:
            sealed_others = [name for name in seal["refs"] if name.startswith(NIGHTS) and name != NIGHTS + night_id]
            if sealed_others:
                ledger.fault("seal", where, f"field previous: nothing, but it lists {', '.join(sealed_others)}")
        elif not any(
            known[name] == seal["previous"]  # of one that was collected the objects may be gone
            or (name in ledger.refs and ledger.reaches(known[name], str(seal["previous"])))
            for name in before
        ):
            names = ", ".join(before) or "there is none"
            why = f"field previous: {seal['previous']} is not of the night before ({names})"
            ledger.fault("seal", where, why)

    def _seal(self, night_id: str) -> dict[str, Any] | None:
        """The seal of a night whose envelope and files hold; None when it has none, or when that was told."""
        ledger, where, ref = self.ledger, f"seal of night {night_id}", NIGHTS + night_id
        if self.nights.get(night_id) is None:
            return None
        try:
            tip = ledger.signed(ledger.refs[ref], ref)
            files = ledger.store.files(tip.tree, f"night {night_id}")
            data = {path: ledger.store.read(blob, "blob", f"night {night_id}, {path}") for path, blob in files.items()}
        except Unreadable:
            return None
        if SEAL_FILES[0] not in data:
            ids = (n[len(NIGHTS) :] for n in ledger.refs if n.startswith(NIGHTS))
            latest = max((n for n in ids if night_tag(n) == night_tag(night_id)), key=_order)
            if night_id == latest:
                ledger.said.append(f"night {night_id} has no seal yet: it runs, or was interrupted and will be resumed")
            else:
                ledger.fault("seal", where, "it is missing, and the night is not the latest")
            return None
        envelope = data.get(SEAL_FILES[1], b"")
        opened = ledger.envelope(envelope.decode("utf-8", "replace").removesuffix("\n"), SEAL, where)
        seal = ledger.one_file(data[SEAL_FILES[0]], "seal", f"{where}, {SEAL_FILES[0]}")
        if opened is not None and (opened[0] != data[SEAL_FILES[0]] or not envelope.endswith(b"}\n")):
            ledger.fault("seal", where, f"{SEAL_FILES[0]} is not what was signed in {SEAL_FILES[1]}")
        try:
            when = datetime.strptime(seal["sealed_at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
            shape = (dict(seal["refs"]), dict(seal["files"]), seal["previous"], seal["night"])
        except (KeyError, TypeError, ValueError) as error:
            ledger.fault("seal", where, f"not a seal: {type(error).__name__}: {error}")
            return None
        if opened is not None:
            ledger.in_time(opened[1], int(when.timestamp()), where)
        if shape[3] != night_id:
            ledger.fault("seal", where, f"field night: expected {night_id}, found {shape[3]!r}")
        digests = {path: hashlib.sha256(d).hexdigest() for path, d in data.items() if path not in SEAL_FILES}
        ledger.differs(digests, shape[1], "seal", f"{where}, files")
        return seal

    def _check_sealed_ref(self, name: str, sealed: str, where: str) -> None:
        """A sealed ref is where it was or further on. Revisions never move; the branch of a closed PR may be gone."""
        present = self.ledger.refs.get(name)
        if name.startswith(BRANCHES):
            return  # held against the PR's record, which only grows
        if name.startswith(PRS) and present != sealed and self._renumbered(name, sealed):
            return
        if present == sealed or (present is None and self.ledger.taken.get(name) == sealed):
            return
        if present is None and name in self.ledger.taken:
            why = f"was collected at {self.ledger.taken[name]}; the {where} has it at {sealed}"
            self.ledger.fault("ref", name, why)
        elif present is None:
            self.ledger.fault("ref", name, f"is missing; the {where} has it at {sealed}")
        elif re.fullmatch(rf"{PRS}\d+/r\d+", name):
            self.ledger.fault("ref", name, f"a revision never moves: sealed at {sealed}, found at {present}")
        elif name.startswith(NOTES) and sealed not in self._held(name) and not self.ledger.store.has(sealed):
            self.ledger.said.append(f"{name} was built anew after the {where}: what it held then is gone")
        elif not (sealed in self._held(name) if name.startswith(NOTES) else self.ledger.reaches(present, sealed)):
            self.ledger.fault("ref", name, f"is at {present}, which does not descend from {sealed} of the {where}")

    def _held(self, name: str) -> tuple[str, ...]:
        return self.ledger.line(name) + self.ledger.strands(name)

    def _renumbered(self, name: str, sealed: str) -> bool:
        """Whether another number of a PR keeps what this ref of a PR kept when it was sealed."""
        pulls = {ref: oid for ref, oid in self.ledger.refs.items() if ref.startswith(PRS)}
        others = {ref: oid for ref, oid in pulls.items() if ref.split("/")[3] != name.split("/")[3]}
        if not name.endswith("/meta"):
            lost = f"{name}-{sealed[:8]}"
            return sealed in others.values() or pulls.get(lost) == sealed
        return any(ref.endswith("/meta") and self.ledger.reaches(oid, sealed) for ref, oid in others.items())

    def _sealed_before(self, chosen: set[str], ref: str) -> str | None:
        """Where a notes ref was when the night before the chosen one was sealed: what is older was checked with it."""
        earlier = [n[len(NIGHTS) :] for n in self.ledger.refs if n.startswith(NIGHTS)]
        for night in sorted((n for n in earlier if _order(n) < min(map(_order, chosen))), key=_order, reverse=True):
            with suppress(Unreadable, KeyError, SignatureFault):
                tip = self.ledger.store.commit(self.ledger.refs[NIGHTS + night], night)
                blob = self.ledger.store.files(tip.tree, night)[SEAL_FILES[1]]
                text = self.ledger.store.read(blob, "blob", f"night {night}").decode("utf-8", "replace")
                payload, _ = open_envelope(text.removesuffix("\n"), SEAL, self.ledger.trust)
                sealed = self.ledger.one_file(payload, "seal", f"seal of night {night}")["refs"].get(ref)
                return str(sealed) if sealed else None
        return None

    # --- PRs ----------------------------------------------------------------------------------------------------------

    def read_pull(self, number: int) -> list[_Operation]:
        """The operations of a PR, newest first; `sides` has those that merges brought in."""
        if number not in self.pulls:
            ref = f"{PRS}{number}/meta"
            self.pulls[number] = [one for oid in self.ledger.line(ref) if (one := self._operation(number, ref, oid))]
            self.sides[number] = [one for oid in self.ledger.strands(ref) if (one := self._operation(number, ref, oid))]
        return self.pulls[number]

    def _operation(self, number: int, ref: str, oid: str) -> _Operation | None:
        ledger = self.ledger
        with suppress(Unreadable):
            commit = ledger.store.commit(oid, ref)
            files = ledger.store.files(commit.tree, f"PR {number}")
            if list(files) != ["pr.json"]:
                ledger.fault("pr", f"PR {number}, commit {oid}", f"its files are {', '.join(files)[:120]}")
            data = ledger.store.read(files.get("pr.json", ""), "blob", f"PR {number}, pr.json")
            pull = ledger.record(PullRequest, data, "pr", f"PR {number}, pr.json")
            ledger.one_file(data, "pr", f"PR {number}, pr.json")
            return _Operation(commit, pull) if pull is not None else None
        return None

    def _check_pull(self, number: int, operations: list[_Operation]) -> None:
        ledger, where = self.ledger, f"PR {number}"
        ledger.step(where)
        if not operations:
            ledger.fault("pr", where, "its record cannot be read")
            return
        now = operations[0].pull
        revisions: dict[int, PullRequest] = {}
        self._check_undone(where, operations)
        every = [*operations, *self.sides.get(number, ())]
        by_oid = {one.commit.oid: one for one in every}
        for newer in every:
            older = [by_oid[oid] for oid in newer.commit.parents if oid in by_oid]
            if older and newer.entwined:
                check_step(ledger, where, newer.commit, newer.pull, [one.pull for one in older])
            elif older:
                self._check_step(where, newer, older[0])
        for operation in operations:
            revisions.setdefault(operation.pull.revision, operation.pull)
        if now.id != number or operations[-1].pull.revision != 1:
            why = f"field id: {now.id}, first revision {operations[-1].pull.revision}"
            ledger.fault("pr", where, f"{why}; expected {number} and 1")
        facts = self.night(now.night) if now.night else None  # of a promotion there is none
        if now.promotes:
            self.cards.check_promotion(now)
        elif not now.night:
            ledger.fault("pr", where, "field night: nothing; only a version of an agent is of no night")
        first = operations[-1].pull
        if facts is not None and first.base != facts.night.base:
            ledger.fault("pr", where, f"field base: expected {facts.night.base} of its night, found {first.base}")
        for revision, pull in revisions.items():
            name = f"{PRS}{number}/r{revision}"
            if ledger.refs.get(name) != pull.tip:
                ledger.fault("ref", name, f"expected {pull.tip} of the PR's record, found {ledger.refs.get(name)}")
            self._check_stack(where, pull)
        self._check_lost(number, {pull.tip for pull in revisions.values()})
        branch = ledger.refs.get(f"refs/heads/{now.branch}")
        if branch is None and now.tip in ledger.store.tracked(now.branch):
            branch = now.tip  # a clone: there it is
        if branch in {pull.tip for pull in revisions.values()} - {now.tip} and now.state is PullState.OPEN:
            ledger.said.append(f"{now.branch} is at an older revision of {where}: an operation was killed")
        elif branch != now.tip and now.state is PullState.OPEN:  # a closed one's name is free for the next
            why = f"expected {now.tip}, the tip of {where}, found {branch}"
            ledger.fault("ref", f"refs/heads/{now.branch}", why)

    def _check_lost(self, number: int, kept: set[str]) -> None:
        """The stacks that another clone had of a PR, and that gave way when both came together: refs keep them."""
        for pull in {one.pull.tip: one.pull for one in self.sides.get(number, ())}.values():
            name = f"{PRS}{number}/r{pull.revision}-{pull.tip[:8]}"
            if pull.tip not in kept and self.ledger.refs.get(name) != pull.tip:
                why = f"expected {pull.tip}, which another clone had, found {self.ledger.refs.get(name)}"
                self.ledger.fault("ref", name, why)
            self._check_stack(f"PR {number}", pull)

    def _check_step(self, where: str, newer: _Operation, older: _Operation) -> None:
        """One operation against the one before it."""
        ledger, place = self.ledger, f"{where}, commit {newer.commit.oid}"
        if older.pull.state is not PullState.OPEN and not newer.undoes:
            ledger.fault("pr", where, f"commit {newer.commit.oid} goes on after it was {older.pull.state}")
        if newer.pull.revision - older.pull.revision not in (0, 1):
            ledger.fault("pr", place, f"field revision: {newer.pull.revision} follows {older.pull.revision}")
        fixed = ("id", "task", "title", "night", "branch", "onto", "created_at")
        rebuilt = newer.undoes or newer.commit.message.startswith("refresh: ")
        for name in fixed if rebuilt else (*fixed, "base"):
            if getattr(newer.pull, name) != getattr(older.pull, name):
                why = f"field {name}: expected {getattr(older.pull, name)!s}, found {getattr(newer.pull, name)!s}"
                ledger.fault("pr", place, why)

    def _check_undone(self, where: str, operations: list[_Operation]) -> None:
        """Each `undo` puts the record back that stood before the decision it takes away."""
        left: list[PullRequest] = []
        for operation in reversed(operations):
            pull = operation.pull
            if operation.undoes:
                before = left[-2] if len(left) > 1 else None
                del left[-2:]
                if before is None or before.model_copy(update={"revision": pull.revision}) != pull:
                    why = f"commit {operation.commit.oid} undoes what was not done, or leaves another record"
                    self.ledger.fault("pr", where, why)
            elif operation.stays:
                left = renamed(left[:-1], pull)
            left.append(pull)

    def _check_decided(self, number: int, operations: list[_Operation], decided: dict[str, dict[int, str]]) -> None:
        """A closed PR has a person's word on each of its items, an open one on those that were taken off: it was
        written first. There is none on those that are left, unless the last step was lost. Where two clones decided,
        one of the words is the one that counts."""
        pull, every = operations[0].pull, [*operations, *self.sides.get(number, ())]
        entwined, numbers = any(one.entwined for one in every), {one.pull.id for one in every}
        for item in pull.items:
            verdict = decided.get(item.commit, {}).get(pull.id, "")
            if entwined:
                homes = {old.commit for one in every for old in one.pull.items if old.run == item.run}
                said = words(self.ledger, homes, numbers, item.run)
                verdict = next((one for one in (item.verdict or str(pull.state), "dropped") if one in said), "")
            where = f"{NOTES}decisions on {item.commit}"
            if not item.run or (item.dropped and not item.verdict and pull.state is not PullState.ACCEPTED):
                continue  # older versions wrote the word on a dropped item when the PR was closed
            if item.dropped or pull.state is not PullState.OPEN:
                wanted = {item.verdict or str(pull.state)}
                if item.dropped and not item.verdict:
                    wanted = {"dropped", "rejected"}
                if verdict not in wanted:
                    why = f"PR {pull.id} was {pull.state}: {' or '.join(sorted(wanted))} is not said of {item.target}"
                    self.ledger.fault("note", where, why)
            elif verdict:
                why = "its closing was killed, or its record was put back"
                self.ledger.said.append(f"PR {pull.id} is open, but {verdict} is said of {item.target}: {why}")

    def _check_stack(self, where: str, pull: PullRequest) -> None:
        """The commits from the base to a revision's tip are the items of that revision, in order."""
        ledger, place = self.ledger, f"{where}, revision {pull.revision}"
        wanted = [item.commit for item in pull.items if not item.dropped]
        found: list[str] = []
        oid = pull.tip
        while oid != pull.base and len(found) <= len(wanted):
            found.insert(0, oid)
            try:
                commit = ledger.signed(oid, place)
                if len(commit.parents) != 1:
                    ledger.fault("pr", place, f"commit {oid} has {len(commit.parents)} parents")
                    return
                if oid not in {item.commit for item in pull.items if item.run in self.runs}:
                    check_change(ledger, commit)  # the others are looked at with their runs
            except Unreadable:
                return
            oid = commit.parents[0]
        if found != wanted:
            why = f"its branch holds {', '.join(c[:12] for c in found)}, its record {', '.join(c[:12] for c in wanted)}"
            ledger.fault("pr", place, why)
        for item in pull.items:
            proof = self.runs.get(item.run)
            if item.run and proof is None and f"{RUNS}{item.run[:2]}/{item.run}" not in ledger.taken:
                ledger.fault("pr", place, f"run {item.run} of {item.target} cannot be read")
            if proof is None:
                continue
            if pull.revision == 1 and proof.run.result != item.commit:
                ledger.fault("pr", place, f"{item.target} is {item.commit}, its run made {proof.run.result}")
            if proof.run.item.id != item.item or proof.run.night != pull.night:
                ledger.fault("pr", place, f"run {item.run} is of item {proof.run.item.id}, not of {item.item}")

    # --- keys, notes, refs --------------------------------------------------------------------------------------------

    def _check_keys(self) -> None:
        """The published keys: signed, readable, and no reason to trust anything."""
        ledger = self.ledger
        for oid in (*ledger.line(KEYS), *ledger.strands(KEYS)):
            with suppress(Unreadable):
                files = ledger.store.files(ledger.store.commit(oid, KEYS).tree, KEYS)
                for name, parse in (("allowed_signers", parse_allowed), ("revoked_keys", parse_revoked)):
                    data = ledger.store.read(files.pop(name, ""), "blob", f"{KEYS}, {name}")
                    try:
                        parse(data)
                    except ValueError as error:
                        ledger.fault("key", f"{KEYS} {oid}", str(error))
                if files:
                    ledger.fault("key", f"{KEYS} {oid}", f"unknown files: {', '.join(files)[:120]}")

    def _check_notes(self) -> None:
        """No note on a commit that no run and no PR of ours made."""
        for name in GROWING:
            for commit in self.ledger.strangers(name):
                why = f"{commit} is no commit of a run or a PR of Pantheon's"
                self.ledger.fault("note", f"{NOTES}{name} {self.ledger.notes(name)[commit][0]}", why)

    def _check_refs(self) -> None:
        """Every ref in our namespaces is of a kind we know, and none of our objects is shown as another."""
        ledger = self.ledger
        branches = {f"refs/heads/{ops[0].pull.branch}": ops[0].pull.tip for ops in self.pulls.values() if ops}
        for name, oid in ledger.refs.items():
            ledger.store.require(oid, name)
            if not _KNOWN.fullmatch(name):
                ledger.fault("ref", name, "Pantheon knows no such ref")
            elif (match := re.fullmatch(rf"{PRS}(\d+)/r(\d+)", name)) and int(match[1]) in self.pulls:
                if all(op.pull.revision != int(match[2]) for op in self.pulls[int(match[1])]):
                    ledger.said.append(f"{name} is not in the record of its PR: an operation was killed")
            elif match and f"{PRS}{match[1]}/meta" not in ledger.refs:
                ledger.said.append(f"{name} has no record: the opening of its PR was killed")
            elif name.startswith(BRANCHES) and name not in branches and len(self.pulls) and self._all_read():
                ledger.said.append(f"{name} belongs to no PR")
        if gone := len(ledger.taken.keys() - ledger.refs.keys()):
            ledger.said.append(f"{gone} refs were taken away by `git pantheon gc`, as refs/pantheon/archive/ tells")
        ledger.store.check_derived()
        for oid in sorted(ledger.store.replaced()):
            ledger.fault("ref", f"refs/replace/{oid}", "it shows another object in the place of one of ours")

    def _all_read(self) -> bool:
        return all(int(m[1]) in self.pulls for n in self.ledger.refs if (m := re.fullmatch(rf"{PRS}(\d+)/meta", n)))


def _sown(run: dict[str, Any]) -> bool:
    """Whether a stored run is that of a canary."""
    item = run.get("item")
    return isinstance(item, dict) and item.get("canary") is not None
