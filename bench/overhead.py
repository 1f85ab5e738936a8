"""Our own cost: what an item takes from its lease to its PR besides the engine, and where that goes.

    python bench/overhead.py [--files 10000] [--items 100] [--profile FILE] [--keep DIR]

A night with the scripted engine over a generated repository: `--items` of its `--files` notes break a rule. Processor
seconds per item, our own process and its children apart, split by what they were spent on; counts per item; and as an
anchor what git itself takes for `git worktree add`, the same change and a commit, in the same repository. The engine's
enclosure is left out: it starts once a night.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pygit2

from pantheon import agent, artifacts, children, desk, item, night, nights, process, prs, report, stack
from pantheon.checks import CheckRoom
from pantheon.engine import ScriptedEngine
from pantheon.git import Repo
from pantheon.survey import survey

sys.path.insert(0, str(Path(__file__).resolve().parent))

from faults import sealed
from killing import CLOSED, WHEN
from killing import TASK as FLAT

FOLDER = 100  # notes in one
SPREAD = ("tides", "boats", "ropes", "ovens", "lamps", "nets", "sails", "piers", "winds", "maps")
TASK = FLAT.replace("docs/*.md", "docs/**")

PHASES: tuple[tuple[str, Any, tuple[str, ...]], ...] = (
    ("worktree", Repo, ("add_worktree", "remove_worktree")),
    ("harvest", item, ("harvest", "open_workspace")),
    ("judge", item, ("judge",)),
    ("gate", item, ("_gate",)),
    ("agent and tools", agent, ("edit_output",)),
    ("checks", Repo, ("export",)),
    ("checks", process, ("_run",)),
    ("checks", CheckRoom, ("open",)),
    ("stack", stack.Stacks, ("push",)),
    ("stack", night._Runner, ("_sound",)),
    ("store", artifacts, ("store_run",)),
    ("notes", artifacts, ("note_runs",)),
    ("attest", night._Runner, ("_attest",)),
    ("losses", night._Runner, ("drop_lost",)),
    ("PR", prs, ("open_pull",)),
    ("PR", stack, ("pull_item",)),
    ("report", artifacts, ("summarise",)),
    ("report", nights, ("checkpoint", "seal")),
    ("report", report, ("markdown",)),
)
COUNTED: tuple[tuple[str, Any, str], ...] = (
    ("processes started", subprocess.Popen, "__init__"),
    ("git processes", children, "run"),
    ("trees written", Repo, "_write_items"),
    ("blobs written", Repo, "write_blob"),
    ("commits written", Repo, "commit"),
    ("refs written", Repo, "_swap"),
    ("repositories opened", pygit2.Repository, "__init__"),
)


class Meter:
    """Processor seconds of our own threads by phase, each second counted once, and how often things were done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()
        self._local = threading.local()

    def timed(self, phase: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **named: Any) -> Any:
            inner, began = getattr(self._local, "inner", 0.0), time.thread_time()
            self._local.inner = 0.0
            try:
                return work(*args, **named)
            finally:
                spent = time.thread_time() - began
                self.seconds[phase] += spent - self._local.inner
                self._local.inner = inner + spent

        return measured

    def counted(self, name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def measured(*args: Any, **named: Any) -> Any:
            self.counts[name] += 1
            if name == "refs written" and "refs/notes/" in args[1]:
                self.counts["of these notes"] += 1
            return work(*args, **named)

        return measured

    def attach(self) -> None:
        """Put the wrappers on. The bench ends with the process, so that they are never taken off."""
        for phase, owner, names in PHASES:
            for name in names:
                held = vars(owner)[name]
                if isinstance(held, classmethod):
                    setattr(owner, name, classmethod(self.timed(phase, held.__func__)))
                else:
                    setattr(owner, name, self.timed(phase, held))
        for name, owner, method in COUNTED:
            setattr(owner, method, self.counted(name, getattr(owner, method)))


def text(number: int, whole: bool) -> str:
    """A note; one that is not whole lacks its front matter."""
    subject = f"{SPREAD[number % 10]} {SPREAD[number // 10 % 10]} {number}"
    head = f'---\ntitle: "Care of the {subject}"\ndescription: "The {subject} are looked at every spring."\n'
    head += f'uuid: "{number:08x}-0000-4000-8000-000000000000"\nslug: "care-of-the-{subject.replace(" ", "-")}"\n'
    head += f'created_at: "2026-01-01"\nstatus: "done"\npriority: "P3"\ntags: ["{SPREAD[number % 10]}"]\n---\n'
    lines = "".join(f"What is wrong with the {subject} is written down on day {day}.\n\n" for day in range(1, 15))
    near = f"note-{number - number % FOLDER:05}.md"
    body = f"# Care of the {subject}\n\nThe {subject} are looked at every spring, see [there]({near}).\n\n{lines}"
    return head + body if whole else body


def build(root: Path, files: int, items: int) -> Repo:
    """The repository: `files` notes, of which `items`, evenly spread, lack what the rules ask for."""
    broken = {files * number // items for number in range(items)}
    stream = [
        b"feature done\ncommit refs/heads/main\ncommitter Ann <ann@example.org> 1767225600 +0000\ndata 5\nfirst\n"
    ]
    texts = {f"docs/{n // FOLDER:03}/note-{n:05}.md": text(n, n not in broken).encode() for n in range(files)}
    for path, data in {**texts, "docs/tasks/tidy.md": TASK.encode()}.items():
        stream.append(b"M 100644 inline %s\ndata %d\n%s\n" % (path.encode(), len(data), data))
    git(root.parent, "init", "-q", "-b", "main", str(root))
    subprocess.run(["git", "fast-import", "--quiet"], cwd=root, input=b"".join([*stream, b"done\n"]), check=True)
    git(root, "reset", "-q", "--hard")
    repo = Repo.discover(root)
    desk.signer(repo)
    return repo


def git(root: Path, *words: str) -> None:
    subprocess.run(["git", *words], cwd=root, check=True, capture_output=True)


def used(who: int) -> float:
    found = resource.getrusage(who)
    return found.ru_utime + found.ru_stime


def anchor(repo: Repo, place: Path, rounds: int, *options: str) -> float:
    """Processor seconds of git for a worktree, one changed file and a commit."""
    before = used(resource.RUSAGE_CHILDREN)
    for number in range(rounds):
        tree = place / f"anchor-{number}"
        path = f"docs/000/note-{number:05}.md"
        git(repo.root, "worktree", "add", "--detach", *options, str(tree))
        if options:
            git(tree, "reset", "-q")
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(text(number, True) + "\nMore.\n")
        git(tree, "add", path)
        git(tree, "commit", "-q", "-m", "a change")
        git(repo.root, "worktree", "remove", "--force", str(tree))
    return (used(resource.RUSAGE_CHILDREN) - before) / rounds


def figures(meter: Meter, own: float, below: float, count: int) -> list[tuple[str, str]]:
    """The rows of the table, by item."""
    ms = 1000 / count
    rows = [("all", f"{ms * (own + below):.1f} ms"), ("our own process", f"{ms * own:.1f} ms")]
    known = sorted(meter.seconds.items(), key=lambda one: -one[1])
    rows += [(f"... {phase}", f"{ms * seconds:.2f} ms") for phase, seconds in known]
    rows += [("... agents, tools, the loop", f"{ms * (own - sum(meter.seconds.values())):.2f} ms")]
    rows += [("children (checks)", f"{ms * below:.1f} ms")]
    return rows + [(name, f"{meter.counts[name] / count:.2f}") for name in sorted(meter.counts)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5, help="of the anchor")
    parser.add_argument("--profile", type=Path, help="write what cProfile says of our own process here")
    parser.add_argument("--keep", type=Path, help="build the repository here and keep it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overhead-", ignore_cleanup_errors=True) as short, sealed(Path(short)):
        place = Path(short)
        repo = build(options.keep or place / "repo", options.files, options.items)
        found = survey(repo, repo.head().commit)
        frozen = nights.freeze(
            repo, found, desk.make_plan(repo, found), budget_s=3600, engine="scripted", model="scripted", window=8,
            now=WHEN, signer=desk.signer(repo), sowing=False,
        )  # fmt: skip
        _ = found.facts, process.groups()  # once a night: not an item's
        meter, work, profile = Meter(), place / "work", cProfile.Profile()
        work.mkdir()
        meter.attach()
        began = time.monotonic(), used(resource.RUSAGE_SELF)
        if options.profile:
            profile.enable()
        ended = asyncio.run(
            night.run(
                repo,
                frozen,
                ScriptedEngine(),
                CLOSED,
                work=work,
                signer=desk.signer(repo),
                now=lambda: WHEN,
                progress=night.Progress(),
            )
        )
        profile.disable()
        own = used(resource.RUSAGE_SELF) - began[1]
        below = ended.host_cpu_s - own  # what sandboxes used is their control groups' to tell: nobody waits for them
        wall, count = time.monotonic() - began[0], len(ended.runs)
        if options.profile:
            profile.dump_stats(options.profile)
        groups = process.groups()
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}", end=", ")
        print(f"control groups: {groups.version if groups else 'none'}")
        accepted = sum(run.outcome == "accepted" for run in ended.runs)
        print(f"{options.files} files, {count} items, {accepted} accepted, {wall:.1f} s\n")
        print("| per item | |\n| --- | --- |")
        for name, value in figures(meter, own, below, max(1, count)):
            print(f"| {name} | {value} |")
        if options.rounds:
            for name, words in (("git worktree add", ()), ("git worktree add --no-checkout", ("--no-checkout",))):
                print(f"| anchor: {name}, commit | {1000 * anchor(repo, place, options.rounds, *words):.1f} ms |")
    return 0 if count == options.items else 1


if __name__ == "__main__":
    sys.exit(main())
