"""How the cost of each operation grows with what is there: 100 to 100,000 items, files, notes; 10,000 PRs and runs.

    python bench/scale.py [--sizes 100 1000 10000 100000] [--only NAME ...] [--keep DIR] [--rounds 20]

One repository for each size holds as many notes that break a rule (each an item), open PRs with their runs, artifact
notes, and a night's report; of PRs and of runs in a report 10,000 at most. It is written through git fast-import in the
form that Pantheon stores, from its own records. Every operation is a process of its own: wall and processor seconds,
peak memory; beside it what git itself takes for something like it. The exponent is that of the least squares line
through the processor seconds on a log-log scale: 1 grows with the number, 0 not at all. Fails nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pantheon import artifacts, nights, prs
from pantheon.git import Repo
from pantheon.records import (
    Artifact,
    CheckResult,
    Criterion,
    Finding,
    Item,
    Night,
    NightReport,
    NodeMetrics,
    Outcome,
    PullItem,
    PullRequest,
    Repair,
    Run,
    Verdict,
    pretty,
)

HERE = Path(__file__).resolve().parent
SIZES = (100, 1000, 10_000, 100_000)
MOST = 10_000  # PRs, and runs of one report
UUID = "7c1f1f0e-0d53-4d0e-9f1b-6a4f7f5a2a10"
WHEN = datetime(2026, 11, 26, 6, 0, tzinfo=UTC)
NIGHT = "2026-11-26-1"
TASK = f"""---
uuid: "{UUID}"
title: "Normalise the notes"
slug: "tidy"
status: "ready"
pantheon:
  flow: docops
  scope: ["docs/**/*.md"]
  max_diff_lines: 2000
---
"""
SETTINGS = '[night]\nmax_open_prs = 10000\nmax_items_per_pr = 1000\n\n[engine]\nkind = "scripted"\n'
WORDS = ("budget", "harbour", "retro", "release", "router", "garden", "survey", "parser", "handover", "cache", "ledger")
NODES = ("validate", "frontmatter", "rename", "checks", "review-a", "review-b", "merge")


# --- what is there ---------------------------------------------------------------------------------------------------


def path_of(number: int) -> str:
    return f"docs/{number // 100:04}/note-{number:06}.md"


def text_of(number: int) -> str:
    one, other = WORDS[number % len(WORDS)], WORDS[number // len(WORDS) % len(WORDS)]
    return f"# The {one} and the {other}, part {number}\n\nWhat the {one} of {number} has to do with every {other}.\n"


def item_of(number: int, blob: str) -> Item:
    target = path_of(number)
    digest = hashlib.sha256("\0".join((UUID, "docops", target)).encode()).hexdigest()[:16]
    found = Finding(rule="title", message="title is missing", field="title", line=1, repair=Repair.CHOOSE)
    agents = {"frontmatter": "doc.frontmatter@1", "review-a": "review.peer-a@1", "review-b": "review.peer-b@1"}
    return Item(id=digest, task=UUID, flow="docops", target=target, blob=blob, findings=(found,) * 6, agents=agents)


def run_of(number: int, item: Item, base: str, result: str | None) -> Run:
    """A run as a night with a model leaves it, in size and shape."""
    asked = tuple(Criterion(name=name, verdict="pass", reason=f"it named the {name}") for name in ("title", "tags"))
    bad = number % 3 == 0
    metrics = NodeMetrics(
        seconds=2.5, queue_s=0.1, prefill_s=0.4, decode_s=1.9, prompt_tokens=1400, cached_tokens=1200,
        completion_tokens=61, model_calls=3, tool_calls={"set_field": 3}, exit="passed",
    )  # fmt: skip
    return Run(
        id=nights.run_name(NIGHT, item.id),
        night=NIGHT,
        item=item,
        base=base,
        outcome=Outcome.FAILED if bad else Outcome.ACCEPTED,
        node="review-a" if bad else "",
        reason=f"title: it named another note's, {WORDS[number % 11]}" if bad else "",
        result=None if bad else result,
        run_commit=base,
        nodes=dict.fromkeys(NODES, "passed"),
        agents=("doc.frontmatter@1", "review.peer-a@1", "review.peer-b@1"),
        node_agents={"frontmatter": "doc.frontmatter@1", "review-a": "review.peer-a@1", "review-b": "review.peer-b@1"},
        seconds=9.1 + number % 7,
        prompt_tokens=4200,
        completion_tokens=183,
        started_s=float(number),
        verdicts=tuple(
            Verdict(
                node=f"review-{one}", agent=f"review.peer-{one}@1", verdict="pass", reason="", criteria=tuple(asked)
            )
            for one in "ab"
        ),
        checks=tuple(CheckResult(name=name, passed=True, seconds=0.2) for name in ("frontmatter", "links", "body")),
        metrics=dict.fromkeys(NODES[:6], metrics),
    )


class Stream:
    """The input of git fast-import. Marks: 1 the base, others as they come."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.marks = 1

    def data(self, text: str | bytes) -> None:
        raw = text.encode() if isinstance(text, str) else text
        self.parts.append(b"data %d\n%s\n" % (len(raw), raw))

    def commit(self, ref: str, message: str, files: Iterator[tuple[str, str | bytes]], onto: int | None = None) -> int:
        self.marks += 1
        self.parts.append(
            f"commit {ref}\nmark :{self.marks}\ncommitter Pantheon <p@localhost> 1000000000 +0000\n".encode()
        )
        self.data(message)
        if onto is not None:
            self.parts.append(f"from :{onto}\n".encode())
        for path, text in files:
            self.parts.append(f"M 100644 inline {path}\n".encode())
            self.data(text)
        self.parts.append(b"\n")
        return self.marks

    def load(self, root: Path) -> dict[int, str]:
        """mark -> object id."""
        marks = root / ".git" / "marks"
        old = [f"--import-marks={marks}"] if marks.exists() else []
        argv = ["git", "fast-import", "--quiet", "--force", *old, f"--export-marks={marks}"]
        subprocess.run(argv, cwd=root, input=b"".join(self.parts), check=True)
        self.parts = []
        lines = (line.split() for line in marks.read_text().splitlines())
        return {int(mark[1:]): oid for mark, oid in lines}


def git(root: Path, *args: str, stdin: bytes = b"") -> str:
    return (
        subprocess.run(["git", *args], cwd=root, input=stdin, capture_output=True, check=True).stdout.decode().strip()
    )


def blob_id(text: str) -> str:
    raw = text.encode()
    return hashlib.sha1(b"blob %d\0%s" % (len(raw), raw)).hexdigest()


def build(root: Path, size: int, past: bool) -> None:
    """A repository with `size` notes, and a night's report over as many; with a `past`, a PR for each and its artifact
    notes, else only the PRs that a night may open by itself: 20 of 25 items."""
    git(root.parent, "init", "-q", "-b", "main", str(root))
    git(root, "config", "user.name", "Ann")
    git(root, "config", "user.email", "ann@example.org")
    stream = Stream()
    files = ((path_of(n), text_of(n)) for n in range(size))
    stream.commit("refs/heads/main", "notes\n", files)
    stream.load(root)
    git(root, "reset", "-q", "--hard", "main")
    (root / "docs" / "tasks").mkdir()
    subprocess.run(cli("init", "--no-fetch"), cwd=root, check=True, capture_output=True, env=environment())
    (root / ".pantheon" / "pantheon.toml").write_text(SETTINGS)
    (root / "docs" / "tasks" / "tidy.md").write_text(TASK)
    git(root, "add", "-A")
    git(root, "-c", "core.hooksPath=/dev/null", "commit", "-qm", "ask for tidy notes")
    base = git(root, "rev-parse", "HEAD")
    _pulls(root, base, min(size, MOST) if past else min(size // 2, 500), 1 if past else 25)
    if past:
        _notes(root, size)
    _night(root, base, min(size, MOST))
    subprocess.run(cli("gc"), cwd=root, check=True, capture_output=True, env=environment())
    git(root, "repack", "-adq")


def _pulls(root: Path, base: str, items: int, per: int) -> None:
    """PRs of `per` items with their runs, revisions and branches, and where their branches were put."""
    stream = Stream()
    marks = root / ".git" / "marks"
    marks.write_text(f":1 {base}\n")
    tips: list[list[int]] = []
    for n in range(items):
        files = iter([(path_of(n), f"---\ntitle: Part {n}\n---\n{text_of(n)}")])
        tips += [[]] if n % per == 0 else []
        branch = f"refs/heads/pantheon/tidy/{len(tips)}"
        tips[-1].append(stream.commit(branch, f"docs: tidy note {n}\n", files, tips[-1][-1] if tips[-1] else 1))
    oids = stream.load(root)
    placed = root / ".git" / "pantheon" / prs.PLACED
    placed.mkdir(parents=True, exist_ok=True)
    lines, n = [], 0
    for number, commits in enumerate(tips, 1):
        parts = []
        for mark in commits:
            item, commit = item_of(n, blob_id(text_of(n))), oids[mark]
            run = run_of(n, item, base, commit)
            stream.commit(artifacts.run_ref(run.id), "run\n", iter([(artifacts.RUN_FILE, run.to_json())]), 1)
            parts.append(PullItem(item=item.id, run=run.id, target=item.target, commit=commit, summary="tidy"))
            n += 1
        pull = PullRequest(
            id=number, task=UUID, title="Normalise the notes", night=NIGHT, branch=f"pantheon/tidy/{number}",
            onto="main", base=base, tip=parts[-1].commit, created_at=WHEN, items=tuple(parts),
        )  # fmt: skip
        record = pretty(pull.model_dump(mode="json"))
        stream.commit(f"{prs.PRS}{number}/meta", f"open: PR {number} Normalise\n", iter([("pr.json", record)]))
        lines.append(f"create {prs.PRS}{number}/r1 {pull.tip}\n")
        (placed / str(number)).write_text(f"{pull.tip}\n")
    stream.load(root)
    git(root, "update-ref", "--stdin", stdin="".join(lines).encode())
    git(root, "pack-refs", "--all")


def _notes(root: Path, count: int) -> None:
    """Artifact notes in the stored form: two hex digits of fan-out, a line per artifact."""
    stream = Stream()

    def notes() -> Iterator[tuple[str, str]]:
        for n in range(count):
            name = hashlib.sha1(b"%d" % n).hexdigest()
            lines = [
                Artifact(run=name[:32], node=node, name="output.json", size=99, sha256=name + name[:24], oid=name)
                for node in NODES[:3]
            ]
            yield f"{name[:2]}/{name[2:]}", "".join(line.to_json() + "\n" for line in lines)

    stream.commit(artifacts.NOTES, "notes\n", notes())
    stream.load(root)


def _night(root: Path, base: str, count: int) -> None:
    """A night that ended, its report with one run per item."""
    repo = Repo.discover(root)
    runs = tuple(run_of(n, item_of(n, blob_id(text_of(n))), base, base) for n in range(count))
    night = Night(
        id=NIGHT, started_at=WHEN, base=base, branch="main", budget_s=36_000, window=24, engine="scripted",
        model="scripted", agents=("doc.frontmatter@1",), tasks=(UUID,), items=count,
    )  # fmt: skip
    report = NightReport(night=night, finished_at=WHEN, ended="finished", runs=runs, left=0, wall_s=9000.0)
    files = {"night.json": pretty(night.model_dump(mode="json")), "report.json": pretty(report.model_dump(mode="json"))}
    tree = repo.write_tree(None, {name: (0o100644, repo.write_blob(data)) for name, data in files.items()})
    repo.move_ref(nights.NIGHTS + NIGHT, repo.commit(tree, [base], "night\n", WHEN), None, "bench")


# --- what it costs ---------------------------------------------------------------------------------------------------


@dataclass
class Cost:
    """Of one operation at one size: medians; `slow` is the 95th percentile of the wall time."""

    wall: float
    cpu: float
    rss: int = 0
    slow: float = 0.0
    note: str = ""


@dataclass
class Operation:
    """`anchor`: git's own way to do something alike. `past`: where there are PRs and a night, and no items are left."""

    title: str
    measure: Callable[[Path, int, int], Cost]
    anchor: Callable[[Path], Sequence[str]] | None = None
    past: bool = True
    costs: dict[int, Cost] = field(default_factory=dict)
    beside: dict[int, Cost] = field(default_factory=dict)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(HERE.parent), "NO_COLOR": "1", "COLUMNS": "120"}


def cli(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "pantheon.cli", *words]


def once(argv: Sequence[str], root: Path) -> tuple[Cost, bytes]:
    """One process: its wall and processor seconds with all its children, its peak memory, its output."""
    with tempfile.TemporaryFile() as out:
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        child = subprocess.Popen(argv, cwd=root, env=environment(), stdout=out, stderr=subprocess.PIPE)
        _, error = child.communicate()
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        out.seek(0)
        said = out.read()
    note = "" if child.returncode == 0 else f"ended with {child.returncode}: {error.decode()[-200:]}"
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, note=note), said


def often(argv: Sequence[str], root: Path, rounds: int) -> Cost:
    costs = [once(argv, root)[0] for _ in range(rounds)]
    walls = sorted(cost.wall for cost in costs)
    note = next((cost.note for cost in costs if cost.note), "")
    slow = walls[min(len(walls) - 1, math.ceil(0.95 * len(walls)) - 1)]
    return Cost(statistics.median(walls), statistics.median(cost.cpu for cost in costs), slow=slow, note=note)


def part(name: str, root: Path) -> Cost:
    """A part of the product in a process of its own, which tells its own peak."""
    cost, said = once([sys.executable, "-P", str(HERE / "scale_parts.py"), name, str(root)], root)
    found = json.loads(said) if not cost.note else {}
    return Cost(found.get("wall", cost.wall), found.get("cpu", cost.cpu), found.get("rss", 0), note=cost.note or "")


def looked(*words: str) -> Callable[[Path, int, int], Cost]:
    """A command that only looks, once nothing changes any more."""

    def measure(root: Path, size: int, rounds: int) -> Cost:
        time.sleep(2.5)  # what changed a moment ago is not believed yet
        once(cli(*words), root)
        return often(cli(*words), root, rounds)

    return measure


def cold(*words: str) -> Callable[[Path, int, int], Cost]:
    """The same with nothing known from before."""

    def measure(root: Path, size: int, rounds: int) -> Cost:
        shutil.rmtree(root / ".git" / "pantheon" / "glance", ignore_errors=True)
        return often(cli(*words), root, 1)

    return measure


def hook(daemon: bool, *, task: bool = False) -> Callable[[Path, int, int], Cost]:
    """The post-commit hook by itself, after a commit of a note, or of a `task`."""

    def measure(root: Path, size: int, rounds: int) -> Cost:
        pid, head = root / ".git" / "pantheon" / "daemon.pid", git(root, "rev-parse", "HEAD").strip()
        note = root / ("tasks/hook.md" if task else "hook.md")
        try:
            if daemon:
                pid.write_text(f"{os.getpid()}\n")
            note.parent.mkdir(exist_ok=True)
            note.write_text("---\ntitle: x\npantheon: {flow: docops}\n---\n" if task else "# A note\n")
            git(root, "add", "--", str(note))
            git(root, "-c", "core.hooksPath=/dev/null", "commit", "-qm", "one more")
            return often([str(root / ".git" / "hooks" / "post-commit")], root, 1 if task else rounds)
        finally:
            pid.unlink(missing_ok=True)
            git(root, "reset", "-q", "--hard", head)

    return measure


def operations() -> dict[str, Operation]:
    return {
        "status": Operation("status, again", looked("status"), lambda _: ["git", "status"]),
        "status-cold": Operation("status, for the first time", cold("status"), lambda _: ["git", "status"]),
        "pr": Operation("pr list, again", looked("pr"), lambda _: ["git", "for-each-ref"]),
        "pr-cold": Operation("pr list, for the first time", cold("pr"), lambda _: ["git", "for-each-ref"]),
        "hook": Operation("post-commit hook, a daemon watches", hook(True), lambda _: ["git", "diff-tree", "HEAD"]),
        "hook-alone": Operation("... without one, after a note", hook(False), lambda _: ["git", "diff-tree", "HEAD"]),
        "hook-task": Operation(
            "... and after a task file", hook(False, task=True), lambda _: ["git", "diff-tree", "HEAD"]
        ),
        "freeze": Operation(
            "freeze: survey, plan, queue", lambda root, *_: part("freeze", root),
            lambda _: ["git", "ls-tree", "-r", "HEAD"], past=False,
        ),
        "report": Operation(
            "report, Markdown", lambda root, *_: often(cli("report", "--markdown"), root, 1),
            lambda _: ["git", "cat-file", "blob", f"{nights.NIGHTS}{NIGHT}:report.json"], past=False,
        ),
        "page": Operation(
            "report, HTML page", lambda root, *_: often(cli("report", "--html", "-"), root, 1), past=False
        ),
        "note": Operation(
            "one more note", lambda root, *_: part("note", root),
            lambda _: ["git", "notes", "--ref=bench-anchor", "add", "-f", "-m", "x", "HEAD"],
        ),
        "load": Operation("the report's record alone", lambda root, *_: part("load", root), past=False),
    }  # fmt: skip


def exponent(costs: dict[int, Cost]) -> float | None:
    """The slope of log(cpu) over log(size), by least squares."""
    points = [(math.log(size), math.log(max(cost.cpu, 1e-6))) for size, cost in costs.items() if not cost.note]
    if len(points) < 2:
        return None
    mean_x, mean_y = (statistics.mean(values) for values in zip(*points, strict=True))
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else None


# --- the table -------------------------------------------------------------------------------------------------------


def shown(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def cell(cost: Cost | None) -> str:
    if cost is None:
        return ""
    if cost.note:
        return cost.note.strip().splitlines()[-1][:60]
    slow = f", p95 {shown(cost.slow)}" if cost.slow > cost.wall else ""
    peak = f", {cost.rss >> 20} MiB" if cost.rss else ""
    return f"{shown(cost.wall)} ({shown(cost.cpu)} cpu{slow}{peak})"


def table(found: dict[str, Operation], sizes: Sequence[int]) -> Iterator[list[str]]:
    yield ["what", *(f"{size:,}" for size in sizes), "exponent", "git beside it, at the largest"]
    for one in found.values():
        grown = exponent(one.costs)
        git_cost = one.beside.get(max(one.beside, default=0))
        name = " ".join(one.anchor(Path())[:3]) if one.anchor else ""
        yield [
            one.title,
            *(cell(one.costs.get(size)) for size in sizes),
            "" if grown is None else f"{grown:.2f}",
            f"{name}: {shown(git_cost.wall)}" if git_cost else "",
        ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--only", nargs="+", choices=list(operations()), metavar="NAME", help=", ".join(operations()))
    parser.add_argument("--rounds", type=int, default=20, help="of what is quick")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="build the repositories here, or use those that are")
    options = parser.parse_args()
    found = {name: one for name, one in operations().items() if not options.only or name in options.only}
    place = options.keep or Path(tempfile.mkdtemp(prefix="pantheon-scale-"))
    place.mkdir(parents=True, exist_ok=True)
    os.environ |= {"HOME": str(place), "GIT_CONFIG_NOSYSTEM": "1", "XDG_RUNTIME_DIR": str(place)}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    try:
        with Progress(*columns, console=Console(stderr=True)) as bar:
            job = bar.add_task("scale", total=len(options.sizes) * (len(found) + 1))
            for size in options.sizes:
                roots = {past: place / f"{'old' if past else 'new'}-{size}" for past in (True, False)}
                bar.update(job, description=f"{size:,}: building")
                for past, root in roots.items():
                    if not root.exists():
                        build(root, size, past)
                bar.advance(job)
                for one in found.values():
                    root = roots[one.past]
                    bar.update(job, description=f"{size:,}: {one.title}")
                    one.costs[size] = one.measure(root, size, options.rounds)
                    if one.anchor:
                        one.beside[size] = often(one.anchor(root), root, 5)
                    bar.advance(job)
    finally:
        if not options.keep:
            shutil.rmtree(place, ignore_errors=True)
    show(found, options.sizes)
    return 0


def show(found: dict[str, Operation], sizes: Sequence[int]) -> None:
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    rows = list(table(found, sizes))
    if sys.stdout.isatty():
        drawn = Table(*rows[0], box=None)
        for row in rows[1:]:
            drawn.add_row(*row)
        Console().print(drawn)
        return
    print(f"| {' | '.join(rows[0])} |\n|{' --- |' * len(rows[0])}")
    for row in rows[1:]:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    sys.exit(main())
