"""Does a specialist get better by what is accepted? Nights over a real corpus, training, and held-out files after each.

    python bench/learn.py [--corpus DIR] [--rounds 2] [--budget 30m] [--keep DIR]

The corpus is a directory with `make-repo`, a program that builds a git repository. The first night takes the notes
below docs/ and goes by the packaged rules: tools offer sentences of the note, the model chooses one as its description.
Then the rail is taken away: the rules of the repository let the specialist write the description itself, and refuse one
that is not about the note. The base model cannot do that; the held-out files of the whole repository say what it learns
from the work that was accepted, and from nothing else. The second night takes what is left, without the rail. All of it
is done by the commands that a person types, and what passes the gate is accepted, all of it. With `--plain` the rules
stay as they are packaged, where every candidate is right: it shows how much there is to learn then.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pantheon import adapters, config, nights, prs
from pantheon.git import Repo
from pantheon.lessons import Card
from pantheon.promotion import mcnemar
from pantheon.quality import share
from pantheon.records import PullState, Share
from pantheon.training import trials

HERE = Path(__file__).resolve().parent
CORPUS = HERE.parent.parent / "shared" / "corpus"
AGENT = "doc.frontmatter"
TASK = """---
uuid: "2f6f5f0e-53c1-4f0b-9d3e-0a4c0d5c7a31"
title: "Normalise the notes"
slug: "normalise-the-notes"
status: "ready"
labels: ["docops"]
pantheon:
  flow: docops
  scope: {scope}
  exclude: ["tasks/**", ".pantheon/**"]
  max_diff_lines: 2000
  standing: true
  acceptance:
    - run: "frontmatter"
    - run: "links"
---
Every note gets the front matter that the rules ask for.
"""
SETTINGS = """schema_version = 1

[training]
held_out = {held_out}
dev = 0.1
unjudged = 0.0

[night]
max_open_prs = 100
"""
FIRST, THEN = '["docs/**/*.md"]', '["**/*.md"]'
TUNING = "training = {rate = 1e-3, epochs = 4}\n"  # a small model takes a higher rate than the usual 2e-4
DESCRIPTION = """[field.description]
required = true
type = "string"
also = ["summary"]
min_length = 20
max_length = 200
from = []
free_text = true
"""


def git(root: Path, *args: str) -> str:
    done = subprocess.run(["git", *args], cwd=root, capture_output=True, check=True)
    return os.fsdecode(done.stdout)


def pantheon(root: Path, *args: str) -> None:
    """A command as a person types it; its output is shown."""
    print(f"\n$ git pantheon {' '.join(args)}", flush=True)
    subprocess.run([sys.executable, "-P", "-m", "pantheon.cli", *args], cwd=root, check=True)


def build(root: Path, corpus: Path, held_out: float) -> None:
    """The repository: the corpus, its task and its settings."""
    subprocess.run([sys.executable, corpus / "make-repo", root, "--damaged"], check=True)
    git(root, "config", "user.name", "Bench")
    git(root, "config", "user.email", "bench@example.org")
    (root / ".pantheon").mkdir()
    (root / "tasks").mkdir()
    (root / "tasks" / "normalise.md").write_text(TASK.replace("{scope}", FIRST))
    (root / ".pantheon" / "agents").mkdir()
    learner = config.packaged("agents", f"{AGENT}.toml").read_text()
    (root / ".pantheon" / "agents" / f"{AGENT}.toml").write_text(learner + TUNING)
    (root / ".pantheon" / "pantheon.toml").write_text(SETTINGS.format(held_out=held_out))
    commit(root, "Ask for the notes to be normalised")


def open_up(root: Path, plain: bool) -> None:
    """From now on the task is about all notes and, unless all stays `plain`, the specialist writes the description."""
    (root / "tasks" / "normalise.md").write_text(TASK.replace("{scope}", THEN))
    if not plain:
        rules = config.packaged("rules", "frontmatter.toml").read_text()
        packaged = rules[rules.index("[field.description]") : rules.index("# The file's own name.")]
        (root / ".pantheon" / "rules").mkdir()
        (root / ".pantheon" / "rules" / "frontmatter.toml").write_text(rules.replace(packaged, DESCRIPTION + "\n"))
    commit(root, "All notes, and descriptions are written, not chosen")


def commit(root: Path, message: str) -> None:
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)
    pantheon(root, "trust", "--yes")


# --- what a round gives ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """After so many trainings: how that version does on the held-out notes."""

    number: int
    label: str
    passed: Share
    errors: Share
    rate: float  # items per hour of the bench
    note: str = ""
    seconds: float = 0.0


def accept_all(root: Path) -> int:
    """Accept every open PR of a night; how many items that were."""
    repo = Repo.discover(root)
    pulls = [pull for pull in prs.load_all(repo) if pull.state is PullState.OPEN]
    for pull in pulls:
        pantheon(root, "accept", str(pull.id))
    return sum(len(pull.live) for pull in pulls)


def newest(root: Path) -> Card:
    return adapters.cards(Repo.discover(root), AGENT)[-1]


def sides(root: Path, card: Card, side: str) -> dict[str, bool]:
    """Family -> whether the version on one side of a comparison passed."""
    repo = Repo.discover(root)
    at = repo.ref(adapters.CARDS + AGENT) or ""
    data = repo.read_path(at, f"{card.adapter.removeprefix('sha256:')}/trials.jsonl") or b""
    return {one.trial.family: one.trial.passed for one in trials.read_outcomes(data) if one.side == side}


def over_all(root: Path) -> str:
    """The base model against the last version, on the files that both were run on."""
    cards = [card for card in adapters.cards(Repo.discover(root), AGENT) if card.comparison]
    first, last = sides(root, cards[0], "before"), sides(root, cards[-1], "after")
    both = sorted(first.keys() & last.keys())
    gained = sum(last[name] and not first[name] for name in both)
    lost = sum(first[name] and not last[name] for name in both)
    passed = f"{sum(last[name] for name in both)} instead of {sum(first[name] for name in both)} of {len(both)}"
    return f"last against base: {passed}; {gained} gained, {lost} lost, p = {mcnemar(lost, gained):.2g} (exact McNemar)"


def rounds(root: Path, count: int, budget: str, training: str, plain: bool) -> list[Round]:
    """The base model, then `count` trainings, each with a night before it whose work is accepted."""
    found: list[Round] = []
    for number in range(1, count + 1):
        started = time.monotonic()
        pantheon(root, "night", "--now", "--budget", budget)
        accepted = accept_all(root)
        if number == 1:
            open_up(root, plain)
        pantheon(root, "train", AGENT, "--budget", training)
        card = newest(root)
        seen = card.comparison
        if seen is None:
            raise SystemExit("the training was not compared: too few held-out items, or it learned nothing")
        if number == 1:
            found.append(Round(0, seen.before, seen.before_pass, seen.before_errors, seen.before_rate))
        note = f"{accepted} items accepted before it, {card.dataset.rows} rows; "
        note += f"{seen.only_after} only now, {seen.only_before} only before, p = {seen.p_value:.2g}"
        seconds = time.monotonic() - started
        found.append(Round(number, seen.after, seen.after_pass, seen.after_errors, seen.after_rate, note, seconds))
        accept_all(root)  # its promotion, if it was offered
    return found


def table(found: Sequence[Round]) -> Table:
    out = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("round", "version", "held-out pass", "95 % interval", "tool errors", "items/h", "minutes", ""):
        out.add_column(name, overflow="fold", justify="right" if name in ("items/h", "minutes") else "left")
    for one in found:
        out.add_row(
            str(one.number),
            one.label,
            f"{one.passed.hits} of {one.passed.of} ({100 * (one.passed.value or 0):.0f} %)",
            f"{100 * one.passed.low:.0f} to {100 * one.passed.high:.0f} %",
            f"{one.errors.hits} of {one.errors.of} (to {100 * one.errors.high:.1f} %)",
            f"{one.rate:.0f}",
            f"{one.seconds / 60:.0f}",
            one.note,
        )
    return out


def live(root: Path) -> list[str]:
    """The nights themselves: what the gate accepted of their own items, by the version in force."""
    lines = []
    for report in nights.reports(Repo.discover(root), 100):
        passed = share(sum(run.passed for run in report.runs), len(report.runs))
        rate = 3600 * len(report.runs) / max(1.0, report.wall_s)
        of = f"{passed.hits} of {passed.of} accepted ({100 * (passed.value or 0):.0f} %, {100 * passed.low:.0f} to"
        how = f"{rate:.0f} items/h, served: {report.night.serving.mode}"
        lines.append(f"night {report.night.id}: {of} {100 * passed.high:.0f}), {how}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--budget", default="30m", help="of each night")
    parser.add_argument("--training", default="15m", help="of each training")
    parser.add_argument("--held-out", type=float, default=0.5)
    parser.add_argument("--plain", action="store_true", help="with the packaged rules")
    parser.add_argument("--keep", type=Path, help="build the repository here and keep it")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="pantheon-learn-"))
    root = options.keep or place / "repo"
    started = time.monotonic()
    try:
        build(root, options.corpus, options.held_out)
        found = rounds(root, options.rounds, options.budget, options.training, options.plain)
        print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
        Console(width=150, highlight=False).print(table(found))
        print("\n".join((*live(root), over_all(root))))
        first, last = found[0].passed, found[-1].passed
        rises = last.low > (first.value or 0.0)
        print("rises beyond chance" if rises else "does not rise beyond chance", end="; ")
        print(f"{time.monotonic() - started:.0f} s in all")
        return 0 if rises else 1
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
