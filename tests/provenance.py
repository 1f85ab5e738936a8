"""Two real nights with everything that happens to them, made once per test run and copied for each test.

Night one: three items accepted, one refused by a reviewer; its PR is accepted without one item. Night two: two items
more, one failed again; one item of its PR is rejected, so that the stack is built anew, and the PR stays open.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import pytest

from pantheon import desk, prs, review
from pantheon import night as nights
from pantheon.egress import EgressProof
from pantheon.engine import ScriptedEngine
from pantheon.git import Repo
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
        window=4,
        now=when,
        signer=desk.signer(repo),
    )
    proof = EgressProof(attempts=(), interfaces=("lo",), closed=True)
    job = nights.run(
        repo,
        frozen,
        engine,
        proof,
        work=work,
        signer=desk.signer(repo),
        now=lambda: when,
        progress=nights.Progress(),
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
            review.accept(repo, first.prs[0], drop=["docs/ropes.md"], strategy="merge", when=DAYS[0], signer=signer)
            write_and_commit(root, MORE, "second")
            second = play(repo, place / "two", DAYS[1], ScriptedEngine(wrong_title))
            assert sorted(run.outcome for run in second.runs) == [Outcome.ACCEPTED] * 2 + [Outcome.FAILED], second
            pull = second.prs[0]
            review.reject(
                repo, prs.load(repo, pull.id), items=["docs/lamps.md"], reason="no", when=DAYS[1], signer=signer
            )
        _BUILT.append(root)
    return _BUILT[0]


def copy(factory: pytest.TempPathFactory, target: Path) -> Copy:
    shutil.copytree(scenario(factory), target, symlinks=True)
    return Copy(target)
