"""A night on a disk of its own that fills at one phase, is freed, and goes on. Run inside a small tmpfs; prints what it
met as JSON. `python full_disk.py PHASE DIRECTORY`.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from conftest import git, write_files

from pantheon import artifacts, desk, nights, prs
from pantheon import night as runner
from pantheon.egress import EgressProof
from pantheon.engine import ScriptedEngine
from pantheon.errors import DiskFull
from pantheon.git import Repo
from pantheon.records import NightReport
from pantheon.survey import survey
from pantheon.verify import load_trust, verify

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
CLOSED = EgressProof(attempts=(), interfaces=("lo",), closed=True)
NOTES = {
    f"docs/{name}.md": f"# {name} in the harbour\n\nEvery {name} in the harbour has a berth with a number.\n"
    for name in ("boat", "rope")
}
TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Tidy the notes"
slug: "tidy"
status: "ready"
labels: ["docops"]
pantheon:
  scope: ["docs/*.md"]
---
"""
PHASES: dict[str, tuple[Any, str]] = {
    "freeze": (nights, "checkpoint"),
    "run": (artifacts, "store_run"),
    "notes": (artifacts, "note_runs"),
    "pr": (prs, "open_pull"),
    "seal": (nights, "seal"),
    "item": (runner, "run_item"),
}


class Filler:
    """Takes the whole disk once, at the first call of what it stands before; `free` gives it back."""

    def __init__(self, place: Path) -> None:
        self.place, self.armed = place, True

    def fill(self) -> None:
        if self.armed:
            self.armed = False
            with self.place.open("wb", buffering=0) as file:
                for size in (1 << 16, 512):
                    try:
                        while True:
                            file.write(b"x" * size)
                    except OSError as error:
                        assert error.errno == errno.ENOSPC

    def before(self, what: Callable[..., Any]) -> Callable[..., Any]:
        def filled(*args: Any, **more: Any) -> Any:
            self.fill()
            return what(*args, **more)

        return filled

    def free(self) -> None:
        self.place.unlink(missing_ok=True)


def freeze(repo: Repo) -> nights.Frozen:
    found = survey(repo, repo.head().commit)
    planned = desk.make_plan(repo, found)
    settings: dict[str, Any] = {"budget_s": 300, "engine": "scripted", "model": "scripted", "window": 2, "now": WHEN}
    return nights.freeze(repo, found, planned, signer=desk.signer(repo), **settings)


def play(repo: Repo, frozen: nights.Frozen, work: Path) -> NightReport:
    how: dict[str, Any] = {"signer": desk.signer(repo), "now": lambda: WHEN, "progress": runner.Progress()}
    return asyncio.run(runner.run(repo, frozen, ScriptedEngine(), CLOSED, work=work, **how))


def main(phase: str, place: Path) -> dict[str, Any]:
    root, filler = place / "repo", Filler(place / "filler")
    root.mkdir()
    git("init", "-q", cwd=root)
    write_files(root, {**NOTES, "docs/tasks/tidy.md": TASK})
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "first", cwd=root)
    repo = Repo.discover(root)
    desk.signer(repo)
    module, name = PHASES[phase]
    real = getattr(module, name)
    setattr(module, name, filler.before(real))
    met, after = "", {}
    try:
        play(repo, freeze(repo), place / "work")
    except DiskFull as error:
        met = str(error)
        after = {
            "fsck": repo.fsck(),
            "locks": [str(path) for path in repo.common_dir.rglob("*.lock") if path.parent.name != "pantheon"],
            "faults": [] if phase == "freeze" else [str(f) for f in checked(repo)],
        }
    filler.free()
    interrupted = nights.unfinished(repo)
    again = nights.thaw(repo, interrupted, lambda base: survey(repo, base)) if interrupted else freeze(repo)
    report = play(repo, again, place / "again")
    return {
        "met": met,
        "after": after,
        "resumed": interrupted,
        "runs": [[run.item.target, run.outcome, run.reason] for run in report.runs],
        "prs": [pull.id for pull in prs.load_all(repo)],
        "items": sum(bool(item.run) for pull in prs.load_all(repo) for item in pull.items),
        "fsck": repo.fsck(),
        "faults": [str(fault) for fault in checked(repo)],
        "worktrees": git("worktree", "list", cwd=root).count("\n"),
        "status": git("status", "--porcelain", cwd=root),
    }


def checked(repo: Repo) -> list[Any]:
    return list(verify(repo.common_dir, load_trust(repo.common_dir), "all").faults)


if __name__ == "__main__":
    os.umask(0o077)
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
