"""Two real nights with everything that happens to them, made once per test run and copied for each test.

Night one: three items accepted, one refused by a reviewer; its PR is accepted without one item. Night two: two items
more, one failed again; one item of its PR is rejected, so that the stack is built anew, and the PR stays open.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import pytest

from pantheon import desk, nights, prs, review
from pantheon import night as runner
from pantheon.egress import EgressProof
from pantheon.engine import ScriptedEngine
from pantheon.git import Repo, Signer
from pantheon.records import NightReport, Outcome
from pantheon.survey import survey
from pantheon.verify import Verdict, load_trust, verify

DAYS = [datetime(2026, 3, day, 2, 30, tzinfo=UTC) for day in range(1, 8)]
TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Tidy the notes"
slug: "tidy"
status: "ready"
labels: ["docops"]
pantheon:
  scope: ["docs/*.md"]
  standing: true
  acceptance:
    - run: "frontmatter"
---
Please.
"""
NOTES = {
    "docs/tides.md": "# Tide tables\n\nTide tables are loaded every night from the harbour office. "
    "The loader tries twice and then waits for the morning.\n",
    "docs/boats.md": "# Boats in the harbour\n\nEvery boat in the harbour has a berth with a number. "
    "The berth is painted on the quay.\n",
    "docs/ropes.md": "---\ntitle: 'Ropes and knots'\nmine: 4930e12   # kept\n---\n# Ropes and knots\n\n"
    "A rope that holds a boat is looked at every spring. A worn rope is cut and thrown away.\n",
    "docs/oven.md": "# Care of the oven\n\nThe oven in the boathouse is cleaned every Friday. "
    "Bread is baked there on Saturday morning for the crew.\n",
}
MORE = {
    "docs/nets.md": "# Nets on the pier\n\nA net is dried on the pier before it is mended. "
    "Two people mend a net in one morning.\n",
    "docs/lamps.md": "# Lamps of the pier\n\nThe lamps of the pier burn from dusk to dawn. "
    "A broken lamp is replaced before the next night.\n",
}


def wrong_title(prompt: str, schema: dict[str, object]) -> str | None:
    """One reviewer that finds another title for the oven: that item is refused."""
    properties = schema["properties"]
    assert isinstance(properties, dict)
    if "Heading: Care of the oven" not in prompt.rpartition("<user>")[2]:
        return None
    if properties["tool"] != {"const": "match_title"}:
        return None
    other = next(title for title in properties["title"]["enum"] if title != "Care of the oven")
    return json.dumps({"tool": "match_title", "title": other})


@contextmanager
def own_git(home: Path) -> Iterator[None]:
    """A git that knows nothing but `home`, also outside a test's own seal."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("GIT_", "SSH_", "GPG_")):
                patch.delenv(name)
        config = home / "gitconfig"
        config.write_text(
            "[user]\n\tname = Ann Author\n\temail = ann@example.org\n[gc]\n\tauto = 0\n",
            encoding="utf-8",
        )
        patch.setenv("HOME", str(home))
        patch.setenv("GIT_CONFIG_GLOBAL", str(config))
        patch.setenv("GIT_CONFIG_NOSYSTEM", "1")
        patch.setenv("TZ", "UTC")
        yield


def git(*args: str, cwd: Path, stdin: bytes = b"", ok: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(["git", *args], cwd=cwd, input=stdin, capture_output=True, check=False, timeout=120)
    assert done.returncode in ok, f"git {args!r} ended with {done.returncode}: {os.fsdecode(done.stderr)}"
    return os.fsdecode(done.stdout)


def write_and_commit(root: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", message, cwd=root)


def play(repo: Repo, work: Path, when: datetime, engine: ScriptedEngine) -> NightReport:
    """One whole night with the scripted engine."""
    found = survey(repo, repo.head().commit)
    frozen = nights.freeze(
        repo,
        found,
        desk.make_plan(repo, found),
        budget_s=300,
        engine="scripted",
        model="scripted",
        window=1,  # one after the other: the stacks are the same each time
        now=when,
        signer=desk.signer(repo),
    )
    proof = EgressProof(attempts=(), interfaces=("lo",), closed=True)
    job = runner.run(
        repo,
        frozen,
        engine,
        proof,
        work=work,
        signer=desk.signer(repo),
        now=lambda: when,
        progress=runner.Progress(),
    )
    return asyncio.run(job)


@dataclass
class Copy:
    """One copy of the scenario."""

    root: Path

    @cached_property
    def repo(self) -> Repo:
        return Repo.discover(self.root)

    @property
    def common(self) -> Path:
        return self.root / ".git"

    def git(self, *args: str, stdin: bytes = b"", ok: tuple[int, ...] = (0,)) -> str:
        return git(*args, cwd=self.root, stdin=stdin, ok=ok)

    def ref(self, name: str) -> str:
        return self.git("rev-parse", name).strip()

    def verify(self, what: str | None = "all") -> Verdict:
        return verify(self.common, load_trust(self.common), what)

    def lines(self, what: str | None = "all") -> list[str]:
        """The faults as they are printed."""
        return [f"{fault.kind}: {fault.where}: {fault.why}" for fault in self.verify(what).faults]


_BUILT: list[Path] = []


def scenario(factory: pytest.TempPathFactory) -> Path:
    """The repository of the two nights, made once; copy it before you touch it."""
    if not _BUILT:
        place = factory.mktemp("provenance")
        root = place / "repo"
        root.mkdir()
        with own_git(place):
            git("init", "-q", "-b", "main", cwd=root)
            write_and_commit(root, {**NOTES, "docs/tasks/tidy.md": TASK}, "first")
            repo = Repo.discover(root)
            first = play(repo, place / "one", DAYS[0], ScriptedEngine(wrong_title))
            assert sorted(run.outcome for run in first.runs) == [Outcome.ACCEPTED] * 3 + [Outcome.FAILED], first
            signer = desk.signer(repo)
            lowest = first.prs[0].items[0].target  # what stands on it is built anew without it
            review.accept(repo, first.prs[0], drop=[lowest], strategy="merge", when=DAYS[0], signer=signer)
            write_and_commit(root, MORE, "second")
            second = play(repo, place / "two", DAYS[1], ScriptedEngine(wrong_title))
            assert sorted(run.outcome for run in second.runs) == [Outcome.ACCEPTED] * 2 + [Outcome.FAILED], second
            pull = second.prs[0]
            lowest = pull.items[0].target
            review.reject(repo, prs.load(repo, pull.id), items=[lowest], reason="no", when=DAYS[1], signer=signer)
        _BUILT.append(root)
    return _BUILT[0]


def copy(factory: pytest.TempPathFactory, target: Path) -> Copy:
    shutil.copytree(scenario(factory), target, symlinks=True)
    return Copy(target)


# --- an attacker without the key --------------------------------------------------------------------------------------

_HEX = re.compile(rb"(?<![0-9a-f])[0-9a-f]{40}(?![0-9a-f])")
Object = tuple[str, bytes]


def name_of(kind: str, data: bytes) -> str:
    whole = b"%s %d\0" % (kind.encode(), len(data)) + data
    return hashlib.sha1(whole, usedforsecurity=False).hexdigest()


def loose(kind: str, data: bytes) -> bytes:
    """An object's file as git would write it."""
    return zlib.compress(b"%s %d\0" % (kind.encode(), len(data)) + data, 1)


def object_path(common: Path, oid: str) -> Path:
    return common / "objects" / oid[:2] / oid[2:]


def put(common: Path, kind: str, data: bytes) -> str:
    oid = name_of(kind, data)
    path = object_path(common, oid)
    path.parent.mkdir(exist_ok=True)
    if not path.exists():
        path.write_bytes(loose(kind, data))
    return oid


def parse(path: Path) -> Object:
    head, _, data = zlib.decompress(path.read_bytes()).partition(b"\0")
    return head.split()[0].decode(), data


class Forger:
    """Changes one object and rebuilds everything above it so that every hash fits: trees, commits, notes, the ids in
    records, refs. What it cannot make is a signature."""

    def __init__(self, copy: Copy, signer: Signer | None = None) -> None:
        """With a `signer` every commit that has to change is signed with that key: the bot's, or the attacker's own."""
        self.copy, self.signer = copy, signer
        mine = ("--glob=refs/pantheon", "--glob=refs/notes/pantheon", "--glob=refs/heads/pantheon")
        root = copy.git("rev-list", "--max-parents=0", "main").strip()
        stack = copy.git("rev-list", "--objects", "--glob=refs/pantheon/prs/1/r*", "--not", root).splitlines()
        users = set(copy.git("rev-list", "--author=Ann", "main", "--not", root).split())
        trees = [copy.git("ls-tree", "-r", "-t", "--format=%(objectname)", commit).split() for commit in users]
        users |= {oid for tree in trees for oid in tree} | {copy.ref(f"{commit}^{{tree}}") for commit in users}
        found = copy.git("rev-list", "--objects", *mine, "--not", root).splitlines()
        self.paths = {line[:40]: line[41:] for line in [*(f for f in found if f[:40] not in users), *stack]}
        self.objects = {oid: parse(object_path(copy.common, oid)) for oid in self.paths}
        listed = copy.git(
            "for-each-ref", "--format=%(refname) %(objectname)", "refs/pantheon", "refs/notes", "refs/heads"
        )
        self.refs = dict(line.split() for line in listed.splitlines() if "pantheon" in line)
        self.noted = {
            oid for name in self.refs if name.startswith("refs/notes/") for oid in copy.git("rev-list", name).split()
        }
        self._kept = {name: (copy.common / name).read_bytes() for name in self.refs}
        self._made: list[Path] = []

    def forge(self, oid: str, kind: str, data: bytes) -> dict[str, str]:
        """Put `data` in the place of an object; old -> new of everything that had to change."""
        self._target, self._content = oid, (kind, data)
        self._map: dict[str, str] = {}
        for name, tip in self.refs.items():
            (self.copy.common / name).write_text(self._new(tip) + "\n")
        return {old: new for old, new in self._map.items() if old != new}

    def restore(self) -> None:
        for path in self._made:
            path.unlink(missing_ok=True)
        self._made.clear()
        for name, raw in self._kept.items():
            (self.copy.common / name).write_bytes(raw)

    def _new(self, oid: str) -> str:
        if oid not in self.objects:
            return oid
        if oid not in self._map:
            if oid == self._target:
                self._map[oid] = self._put(*self._content)
            else:
                kind, data = self.objects[oid]
                if oid in self.noted:
                    tree = data[5:45].decode()
                    data = self._commit(data.replace(tree.encode(), self._notes(tree).encode(), 1))
                elif kind == "tree":
                    data = b"".join(b"%o %s\0" % (m, n) + bytes.fromhex(self._new(o)) for n, m, o in entries(data))
                elif kind == "commit":
                    data = self._commit(data)
                else:
                    data = _HEX.sub(lambda match: self._new(match[0].decode()).encode(), data)
                self._map[oid] = oid if data == self.objects[oid][1] else self._put(kind, data)
        return self._map[oid]

    def _commit(self, data: bytes) -> bytes:
        changed = b"".join(self._line(line) for line in data.splitlines(keepends=True))
        if self.signer is None or changed == data:
            return changed
        return signed(changed, self.signer)

    def _line(self, line: bytes) -> bytes:
        if not line.startswith((b"tree ", b"parent ")):
            return line
        return _HEX.sub(lambda match: self._new(match[0].decode()).encode(), line)

    def _notes(self, tree: str) -> str:
        """A notes tree again, each note under the new id of its commit."""
        if tree == self._target:
            return self._new(tree)
        fans: dict[bytes, list[tuple[bytes, str]]] = {}
        for fan, _, below in entries(self.objects[tree][1]):
            if below == self._target:
                return self._put(
                    "tree", self.objects[tree][1].replace(bytes.fromhex(below), bytes.fromhex(self._new(below)))
                )
            for rest, _, blob in entries(self.objects[below][1]):
                commit = self._new((fan + rest).decode()).encode()
                fans.setdefault(commit[:2], []).append((commit[2:], self._new(blob)))
        made = b""
        for fan, notes in sorted(fans.items()):
            inner = b"".join(b"100644 %s\0" % rest + bytes.fromhex(blob) for rest, blob in sorted(notes))
            made += b"40000 %s\0" % fan + bytes.fromhex(self._put("tree", inner))
        return self._put("tree", made)

    def _put(self, kind: str, data: bytes) -> str:
        oid = name_of(kind, data)
        if oid not in self.objects and not object_path(self.copy.common, oid).exists():
            put(self.copy.common, kind, data)
            self._made.append(object_path(self.copy.common, oid))
        return oid


def signed(commit: bytes, signer: Signer) -> bytes:
    """A commit's bytes with another signature in the place of its own."""
    start, end = commit.index(b"gpgsig "), commit.index(b"-----END SSH SIGNATURE-----\n \n")
    payload = commit[:start] + commit[end + len(b"-----END SSH SIGNATURE-----\n \n") :]
    lines = signer.sign(payload).encode().replace(b"\n", b"\n ")
    return commit[:start] + b"gpgsig " + lines + b"\n" + payload[start:]


def entries(data: bytes) -> list[tuple[bytes, int, str]]:
    """(name, mode, id) of a tree's bytes."""
    found = []
    while data:
        head, _, rest = data.partition(b"\0")
        mode, _, name = head.partition(b" ")
        found.append((name, int(mode, 8), rest[:20].hex()))
        data = rest[20:]
    return found
