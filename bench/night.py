"""A night over a real corpus with the real engine, and its figures.

    python bench/night.py [--corpus DIR] [--engine vllm|scripted] [--budget 60m] [--keep DIR]

The corpus is a directory with `make-repo`, a program that builds a git repository; without one, the demo's notes. The
user's files, index, branches and stash are compared before and after; every accepted item is checked again outside the
bot; the artifact notes are read back by git and by dulwich.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from dulwich.notes import Notes
from dulwich.objects import ObjectID
from dulwich.refs import Ref
from dulwich.repo import Repo as DulwichRepo

from pantheon import artifacts, demo, desk, nights, report, session
from pantheon.git import Repo
from pantheon.places import places
from pantheon.records import NightReport, Outcome
from pantheon.survey import survey

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parent.parent / "shared" / "corpus"
TASK = """---
uuid: "7c1f1f0e-0d53-4d0e-9f1b-6a4f7f5a2a10"
title: "Normalise the notes"
slug: "normalise-the-notes"
status: "ready"
labels: ["docops"]
pantheon:
  flow: docops
  scope: ["**/*.md"]
  exclude: ["tasks/**", ".pantheon/**"]
  max_diff_lines: 2000
  acceptance:
    - run: "frontmatter"
    - run: "links"
---
Every note gets the front matter that the rules ask for.
"""


def dulwich_note(repo: Repo, commit: str) -> bytes | None:
    """An artifact note as dulwich reads it."""
    with DulwichRepo(str(repo.common_dir), bare=True) as other:
        notes = Notes(other.object_store, other.refs)
        return notes.get_note(ObjectID(commit.encode()), Ref(artifacts.NOTES.encode()))


def git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=root, capture_output=True, check=True)
    return os.fsdecode(done.stdout)


def build(root: Path, corpus: Path) -> None:
    """The repository, with one committed task over all of its notes."""
    maker = corpus / "make-repo"
    if maker.is_file():
        subprocess.run([sys.executable, maker, root, "--damaged"], check=True)
    else:
        demo.build(root)
    git(root, "config", "user.name", "Bench")
    git(root, "config", "user.email", "bench@example.org")
    (root / "tasks").mkdir()
    (root / "tasks" / "normalise.md").write_text(TASK)
    git(root, "add", "tasks")
    git(root, "commit", "-q", "-m", "Ask for the notes to be normalised")
    (root / "unfinished.txt").write_text("work in progress\n")


def users_state(root: Path) -> str:
    """A digest of everything that is the user's: HEAD, index, files, branches, stash."""
    digest = hashlib.sha256()
    looks = [
        ("rev-parse", "HEAD"),
        ("status", "--porcelain"),
        ("diff", "HEAD"),
        ("stash", "list"),
        ("for-each-ref", "--exclude=refs/heads/pantheon/", "refs/heads", "refs/tags")
        if git(root, "version") >= "git version 2.42"
        else ("show-ref", "--verify", "refs/heads/main"),
    ]
    for look in looks:
        digest.update(git(root, *look).encode("utf-8", "surrogateescape"))
    digest.update((root / ".git" / "index").read_bytes())
    return digest.hexdigest()


def recheck(repo: Repo, found: NightReport) -> list[str]:
    """What fails when every PR's checks and notes are looked at again, outside the bot."""
    problems: list[str] = []
    where = places(os.environ)
    for pull in found.prs:
        names = ["frontmatter", "links", "body"]
        if session.check(repo.root, where, names, rev=pull.tip, base=pull.base, as_json=False) != 0:
            problems.append(f"PR {pull.id}: a check failed")
        for item in pull.items:
            if not item.run:
                continue
            note = git(repo.root, "notes", f"--ref={artifacts.NOTES}", "show", item.commit)
            if dulwich_note(repo, item.commit) != os.fsencode(note):
                problems.append(f"{item.commit[:12]}: dulwich reads another note than git")
            if "llm_prompt.txt" not in note and "tool_calls.jsonl" not in note:
                problems.append(f"{item.commit[:12]}: its note lists no artifacts")
    problems += [f"fsck: {line}" for line in repo.fsck()]
    return problems


def table(found: NightReport) -> list[tuple[str, str]]:
    tally = report.counts(found)
    by_node = ", ".join(f"{node} ({why}) {len(runs)}" for node, why, runs in report.failures(found.runs))
    rows = [
        ("items", str(found.night.items)),
        ("accepted", f"{tally[Outcome.ACCEPTED]} ({100 * tally[Outcome.ACCEPTED] / max(1, len(found.runs)):.0f} %)"),
        ("failed by node", by_node or "none"),
        ("parked, not started", f"{tally[Outcome.PARKED]}, {found.left}"),
        ("items per hour", f"{3600 * len(found.runs) / max(1.0, found.wall_s):.0f}"),
    ]
    rows += [(figure.name, f"{figure.value} ({figure.note})") for figure in report.worth(found)]
    return rows + report.figures(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--engine", choices=("vllm", "scripted"), default="vllm")
    parser.add_argument("--budget", default="60m")
    parser.add_argument("--keep", type=Path, help="build the repository here and keep it")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="pantheon-bench-"))
    root = options.keep or place / "repo"
    try:
        build(root, options.corpus)
        before = users_state(root)
        where, environ = places(os.environ), dict(os.environ)
        session.night(root, where, environ, budget=options.budget, engine=options.engine, quiet=False)
        untouched = users_state(root) == before
        repo = Repo.discover(root)
        found = nights.load_report(repo)
        problems = recheck(repo, found)
        print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        for name, value in table(found):
            print(f"{name:24} {value}")
        print(f"{'queue afterwards':24} {len(desk.make_plan(repo, survey(repo, repo.head().commit)).items)} items")
        print(f"{'the user untouched':24} {'yes' if untouched else 'NO'}")
        print(f"{'checked again':24} {'; '.join(problems) or 'all in order, fsck clean'}")
        return 0 if untouched and not problems else 1
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
