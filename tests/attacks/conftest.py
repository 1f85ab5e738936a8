"""The field of the attacks: a real repository, a hostile agent, and what must be the same after any night.

`field` makes a repository whose night is attacked from within: at a prompt about the victim note the attack gets the
item's worktree directory and does to it what any program run there could do. Afterwards `night` asserts for every
attack alike: nothing of the user changed by a byte, no program of theirs ran, git is sound, every item of the queue has
exactly one run, the bystander's item is accepted, and the marker is in no object of the repository.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import re
import secrets
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeRepo, git

from pantheon import cli, desk, nights, prs
from pantheon import night as runner
from pantheon.egress import EgressProof
from pantheon.engine import ScriptedEngine
from pantheon.git import Repo
from pantheon.records import Completion, NightReport, Outcome, Run
from pantheon.survey import survey

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
Typed = Callable[..., tuple[int, str]]
CLOSED = EgressProof(attempts=(), interfaces=("lo",), closed=True)
VICTIM, BYSTANDER = "docs/oven.md", "docs/tides.md"
TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Tidy the notes"
slug: "tidy"
status: "ready"
labels: ["docops"]
pantheon:
  scope: ["docs/**/*.md"]
  exclude: ["docs/tasks/**"]
  acceptance:
    - run: "frontmatter"
---
Please.
"""
NOTES = {
    VICTIM: "# Care of the oven\n\nThe oven in the boathouse is cleaned every Friday. "
    "Bread is baked there on Saturday morning for the crew.\n",
    BYSTANDER: "# Tide tables\n\nTide tables are loaded every night from the harbour office. "
    "The loader tries twice and then waits for the morning.\n",
}
OURS = re.compile(
    r"\.git/(objects|pantheon|worktrees|(logs/)?refs/(pantheon|notes/pantheon|heads/pantheon))(/|$)|\.git/logs/refs/notes$"
    r"|\.git/(logs/)?refs/notes$"
)
Attack = Callable[[Path], Any]  # given the worktree; an answer when it returns text
Picture = dict[str, tuple[int, bytes]]

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="root only: an ordinary user cannot even set this trap")


def picture(root: Path) -> Picture:
    """Every path beneath `root` with its mode and bytes (a link's target); of a git dir only what is the user's."""
    found: Picture = {}
    for folder, names, files in os.walk(root):
        for name in [*names, *files]:
            path = Path(folder, name)
            below = os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")
            info = path.lstat()
            if OURS.match(below):
                continue
            data = b""
            if stat.S_ISLNK(info.st_mode):
                data = os.fsencode(path.readlink())
            elif stat.S_ISREG(info.st_mode):
                data = path.read_bytes()
            found[below] = info.st_mode, data
        names[:] = [name for name in names if not OURS.match(str(Path(folder, name).relative_to(root)))]
    return found


class Captured(ScriptedEngine):
    """A model in the hands of the attacker: its answers are not cut, not checked, and end as it says."""

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        answer = self._answer(prompt, schema)
        return Completion(text=answer, finish_reason="stop", prompt_tokens=1, completion_tokens=1, seconds=0.0)


@dataclass
class Field:
    """One attacked repository. `marker` must never get into it; `canary` is a program that must never run."""

    repo: Repo
    home: Path
    tmp: Path
    marker: str
    report: NightReport | None = None
    frozen: nights.Frozen | None = field(default=None, repr=False)

    @property
    def root(self) -> Path:
        return self.repo.root

    @property
    def work(self) -> Path:
        """The scratch directory of its night."""
        return self.tmp / f"work-{self.root.name}"

    @property
    def canary(self) -> Path:
        """A program that leaves a trace when it is started, and passes its input on as a filter would."""
        path = self.tmp / "canary"
        if not path.exists():
            path.write_text(f"#!/bin/sh\necho ran >> '{self.tmp}/ran'\ncat\n")
            path.chmod(0o755)
        return path

    @property
    def ran(self) -> bool:
        return (self.tmp / "ran").exists()

    @property
    def secret(self) -> Path:
        """A file of the host that holds the marker."""
        path = self.tmp / "secret"
        path.write_text(f"{self.marker}\n")
        return path

    def config(self, *pairs: str) -> None:
        """Traps in the user's own configuration: `key=value`, in the repository and in their home."""
        for pair in pairs:
            key, _, value = pair.partition("=")
            for where in (self.root / ".git/config", self.home / "gitconfig"):
                git("config", "--file", str(where), "--add", key, value, cwd=self.tmp)

    def commit(self, files: Mapping[str, bytes | str], message: str = "more") -> None:
        """The user commits more files."""
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        quiet = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false")
        git(*quiet, "add", "-A", cwd=self.root)
        git(*quiet, "commit", "-q", "-m", message, cwd=self.root)

    def freeze(self) -> nights.Frozen:
        found = survey(self.repo, self.repo.head().commit)
        return nights.freeze(
            self.repo,
            found,
            desk.make_plan(self.repo, found),
            budget_s=300,
            engine="scripted",
            model="scripted",
            window=4,
            now=WHEN,
            signer=desk.signer(self.repo),
        )

    def night(
        self,
        attack: Attack | None = None,
        *,
        victims: tuple[str, ...] = (VICTIM,),
        engine: Callable[[Callable[[str, dict[str, Any]], str | None]], ScriptedEngine] = ScriptedEngine,
        when: str = "Note: ",
        others: bool = True,
    ) -> NightReport:
        """A whole night; `attack` gets the worktree of each victim at every prompt of it that holds `when`.

        With `others` every item that is no victim must end accepted.
        """
        before = picture(self.root), picture(self.home), self.foreign_refs()
        frozen = self.freeze()
        trees = self.work / "worktrees"
        places = {item.target: trees / nights.run_name(frozen.night.id, item.id)[:16] for item in frozen.items}

        def script(prompt: str, schema: dict[str, Any]) -> str | None:
            user = prompt.rpartition("<user>")[2]
            hit = next((target for target in victims if f"Note: {target}\n" in user), None)
            answer = attack(places[hit]) if attack is not None and hit is not None and when in user else None
            return answer if isinstance(answer, str) else None

        self.frozen, self.report = frozen, self.play(frozen, engine(script), self.work)
        assert (picture(self.root), picture(self.home), self.foreign_refs()) == before
        self.sound()
        assert not [path for path in places.values() if os.path.lexists(path)]
        if others:
            odd = {r.item.target: r.reason for r in self.report.runs if r.item.target not in victims and not r.result}
            assert not odd
        return self.report

    def play(self, frozen: nights.Frozen, engine: ScriptedEngine, work: Path) -> NightReport:
        return asyncio.run(
            runner.run(
                self.repo,
                frozen,
                engine,
                CLOSED,
                work=work,
                signer=desk.signer(self.repo),
                now=lambda: WHEN,
                progress=runner.Progress(),
            )
        )

    def foreign_refs(self) -> str:
        lines = git("for-each-ref", cwd=self.root).splitlines()
        return "\n".join(line for line in lines if "refs/pantheon" not in line and "/pantheon/" not in line)

    def sound(self) -> None:
        """Git is well, the queue is whole, no program ran and the marker is nowhere."""
        quiet = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
        assert git(*quiet, "fsck", "--strict", "--no-dangling", cwd=self.root) == ""
        everything = subprocess.run(
            ["git", "cat-file", "--batch-all-objects", "--batch", "--buffer"],
            cwd=self.root,
            capture_output=True,
            check=True,
        )
        assert self.marker.encode() not in everything.stdout
        assert not self.ran, "a program of the attacker was started"
        if self.frozen is not None:
            again = nights.thaw(self.repo, self.frozen.night.id, lambda base: survey(self.repo, base))
            assert [item.id for item in again.items] == [item.id for item in self.frozen.items]
            assert sorted(run.item.id for run in again.runs) == sorted(item.id for item in again.items)
            for pull in prs.load_all(self.repo):
                assert self.repo.ref(f"refs/heads/{pull.branch}") == pull.tip

    def run_of(self, target: str = VICTIM) -> Run:
        assert self.report is not None
        (found,) = [run for run in self.report.runs if run.item.target == target]
        return found

    def refused(self, why: str, target: str = VICTIM) -> Run:
        """The victim's item failed or is held by a rule that says so, not by a bug."""
        run = self.run_of(target)
        assert run.outcome is not Outcome.ACCEPTED, "it was accepted"
        assert run.result is None
        assert re.search(why, run.reason), run.reason
        assert "bug:" not in run.reason
        return run

    def shown(self, *args: str, ok: tuple[int, ...] = (0,)) -> str:
        """What `git pantheon` prints, asserted to hold nothing that drives a terminal and not the marker."""
        code, text = said(self.root, *args)
        assert code in ok, (args, text)
        self.harmless(text)
        return text

    def harmless(self, text: str) -> None:
        odd = [c for c in text if c != "\n" and not c.isprintable()]
        assert not odd, (odd[:5], text)
        assert self.marker not in text
        assert not self.ran

    def program(self, *args: str) -> str:
        """The same as a program of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "pantheon.cli", *args],
            cwd=self.root,
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        text = (done.stdout + done.stderr).decode("utf-8", "surrogateescape")
        assert done.returncode == 0, text
        self.harmless(text)
        return text

    def look(self) -> None:
        """Every command with which a person looks at the night."""
        for words in ("status", "status --json", "plan", "plan --json", "report", "report --json", "report --markdown"):
            self.shown(*words.split())
        for words in ("pr", "pr --json", "pr show 1", "pr show 1 --json", "pr diff 1"):
            self.shown(*words.split(), ok=(0,) if self.report and self.report.prs else (0, 1))
        for run in self.report.runs[:3] if self.report else ():
            self.shown("run", run.id)
            self.shown("run", run.id, "--json")


def said(root: Path, *args: str) -> tuple[int, str]:
    """Exit code and output of the command line in this process; bytes that are not UTF-8 are kept."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True)
    with contextlib.chdir(root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = cli.main(args)
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
    buffer = out.buffer
    assert isinstance(buffer, io.BytesIO)
    return code, buffer.getvalue().decode("utf-8", "surrogateescape")


@pytest.fixture
def make_field(make_repo: MakeRepo, sealed: Path, tmp_path: Path) -> Callable[..., Field]:
    """`make_field(more_files, alone=...)`: a repository with two notes (or the victim), a task and more files."""

    def make(more: Mapping[str, bytes | str] | None = None, name: str = "repo", alone: bool = False) -> Field:
        notes = {VICTIM: NOTES[VICTIM]} if alone else NOTES
        root = make_repo({**notes, "docs/tasks/tidy.md": TASK, **(more or {})}, name)
        return Field(Repo.discover(root), sealed, tmp_path, f"marker-{secrets.token_hex(8)}")

    return make


@pytest.fixture
def arena(make_field: Callable[..., Field]) -> Field:
    """The victim and a bystander."""
    return make_field()


@pytest.fixture
def lone(make_field: Callable[..., Field]) -> Field:
    """The victim alone: a quick night."""
    return make_field(alone=True)


@pytest.fixture
def typed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Typed]:
    """`typed(root, *args)`: (exit code, everything said) of one command typed there, without a terminal."""
    with open(os.devnull) as nobody:

        def go(root: Path, *args: str) -> tuple[int, str]:
            monkeypatch.chdir(root)
            monkeypatch.setattr(sys, "stdin", nobody)
            code = cli.main(list(args))
            said = capfd.readouterr()
            return code, said.out + said.err

        yield go
