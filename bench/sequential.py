"""Against what a user would do instead: the same notes through a sequential agent loop, and through a night.

    python bench/sequential.py [--items 40] [--documented 4] [--corpus DIR] [--budget 60m] [--keep DIR]

The same items several ways, in one run, with the same model on the same engine with the same settings. *The loop* is
mini-swe-agent, installed from the package index into an environment of its own, one item after the other. For all of
its columns every certain repair is made before it starts, its prompt holds the rules and the note's beginning, a
command runs the checks, and what passes them ends the item. *documented*: with the templates it comes with and a shell,
over a few items. *form*: one command sets the fields, and the engine enforces its form. *offered*: and of each value
the model chooses among the candidates that a night's agents are offered. *one at a time* is the project's own flow with
one item in flight; *night* is a night as users run it, and the time of these two has canaries, checks and reviewers in
it. The order is loop, one, night, one, loop, where loop and one do half of their items each time, so that a machine
that grows slower or faster favours nobody.

All results go through the same gate: the checks on a clean export of the tree, the rules of what may change, and both
reviewers; the loop's are judged after its clock was stopped.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from night import CORPUS, TASK, build, git

from pantheon import desk, flow, nights, process, screen, session
from pantheon import night as runner
from pantheon.checks import CheckRoom
from pantheon.engine import VllmEngine
from pantheon.errors import ToolError
from pantheon.git import Repo
from pantheon.item import FILE, Shop, Trip, run_item
from pantheon.models import find_model
from pantheon.places import Places, places
from pantheon.plan import printable
from pantheon.process import Limits
from pantheon.records import Canary, Item, NightReport, NodeMetrics, Outcome, Run
from pantheon.sandbox import Sandbox
from pantheon.survey import Survey, survey
from pantheon.tools import notes
from pantheon.tools.rules import Rules, name_is_right
from pantheon.tools.tool import Nothing
from pantheon.tools.workspace import Workspace

AGENT, VERSION = "mini-swe-agent", "2.4.6"
WITH = "litellm==1.110.2"  # what it asks a model with
INSIDE = Path(__file__).resolve().parent / "sequential_inside.py"
HELP = ("documented", "form", "offered")
STEPS, ITEM_S = 8, 300  # of one item: answers, seconds
REPLY, THOUGHTS = 200, 500  # tokens of an answer that is a command, and of one that may think first
REASONS = 5  # that are printed of each way
FILE_MOST = 1 << 20  # bytes of a file that an agent may leave

# --- what the loop is told -------------------------------------------------------------------------------------------

SYSTEM = """You are a librarian. You fill in the front matter of one note. You see the beginning of the note and what \
is missing, and answer with one command and nothing else.

note --title "TITLE" --tags "TAG, TAG" --description "SENTENCE"

- title: names the subject of the note in a few words, as its first heading does.
- tags: one to three topics of the note, lower case, with commas between.
- description: one sentence from the note that says what the note is about.
- name: only where it is asked for, the note's new file name: --name "nightly-backups.md"

Example:
Note: docs/oven.md
Text: Care of the oven. The oven is cleaned every Friday after the last loaf. Let it cool for two hours first.
Missing: title, tags, description
note --title "Care of the oven" --tags "oven, cleaning" \
--description "The oven is cleaned every Friday after the last loaf."
"""
PROMPT = "Note: {target}\nText: {text}\nMissing: {missing}"
DOCUMENTED = """Fill in the YAML front matter at the top of the note {target}, and change nothing else. \
Missing: {missing}.

- title: names the subject of the note in a few words, as its first heading does.
- tags: a list of one to three topics of the note, lower case.
- description: one sentence from the note that says what the note is about, 20 to 200 characters.
- name: the file's own name, lower case with hyphens and the ending .md; links to it must follow.

`note` says what is still wrong. The note begins: {text}"""
AGAIN = "{{ output.output }}\nThe command did not do. Answer with a better one."
MALFORMED = "That is not the command. Answer with one line that begins with: note --"
TEXT, TAG = r'[^"\\$`\n]', r"[a-z0-9][a-z0-9-]{1,24}"  # nothing that a shell would read in double quotes
SPECIAL = r"([.^$*+?{}\[\]|()])"  # and no more: engines know fewer escapes than re.escape makes
NAME = r"[a-z0-9][a-z0-9-]{2,60}\.md"


def shape(missing: Sequence[str], rules: Rules, offered: Mapping[str, Sequence[str]]) -> str:
    """The regular expression that an answer follows: one command with the options that are missing, in their order.
    `offered`: the values of an option, where it is not the model's to invent."""
    words = ["note"]
    for name in missing:
        rule = rules.field.get(name)
        values = [re.sub(SPECIAL, r"\\\1", value) for value in offered.get(name, ()) if re.fullmatch(f"{TEXT}+", value)]
        one = f"({'|'.join(values)})"
        if name == "name" or rule is None:
            words.append(f'--name "{one if values else NAME}"')
        elif rule.type == "list":
            one = one if values else TAG
            words.append(f'--{name} "{one}(, {one}){{0,2}}"')
        else:
            free = f"{TEXT}{{{max(1, rule.min_length)},{min(190, rule.max_length)}}}"
            words.append(f'--{name} "{one if values else free}"')
    return " ".join(words)


ORDERS: dict[str, Any] = {
    "asked": {"temperature": 0, "max_tokens": REPLY, "timeout": ITEM_S},
    "model": {
        "action_regex": r"\A\s*(note --.+?)\s*\Z",
        "observation_template": AGAIN,
        "format_error_template": MALFORMED,
    },
    "agent": {
        "system_template": SYSTEM,
        "instance_template": "{{ task }}",
        "step_limit": STEPS,
        "cost_limit": 0.0,
        "wall_time_limit_seconds": ITEM_S,
    },
}


# --- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figures:
    """What one way gave: `passed` the checks, changed only what is the item's; `accepted` by the whole gate."""

    items: int = 0
    passed: int = 0
    accepted: int = 0
    seconds: float = 0.0  # of work, without the engine's start
    tokens: float = 0.0  # generated
    engine_steps: float = 0.0
    calls: int = 0  # answers of the model
    errors: int = 0  # of its answers: in no form, or a command that failed
    ends: Counter[str] = field(default_factory=Counter)  # how the work on its items ended
    why: Counter[str] = field(default_factory=Counter)  # what refused them

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    def hourly(self, count: int) -> float:
        return 3600 * count / self.seconds if self.seconds else 0.0


def of_night(found: NightReport, seconds: float) -> Figures:
    """The figures of a night. Its canaries cost time and tokens, and are no items."""
    metrics = [one for run in (*found.runs, *found.canaries) for one in run.metrics.values()]
    generated = found.tokens_per_s * found.wall_s
    return Figures(
        items=len(found.runs),
        passed=sum(passes(run) for run in found.runs),
        accepted=sum(run.outcome is Outcome.ACCEPTED for run in found.runs),
        seconds=seconds,
        tokens=generated,
        engine_steps=generated / found.mean_batch if found.mean_batch else 0.0,
        calls=sum(one.model_calls for one in metrics),
        errors=sum(map(errors, metrics)),
        ends=Counter(run.outcome.value for run in found.runs),
        why=Counter(f"{run.node}: {run.reason[:100]}" for run in found.runs if run.outcome is not Outcome.ACCEPTED),
    )


def passes(run: Run) -> bool:
    """Whether the checks passed, whatever reviewers said then."""
    return bool(run.checks) and all(check.passed for check in run.checks)


def errors(spent: NodeMetrics) -> int:
    return spent.schema_errors + sum(sum(causes.values()) for causes in spent.tool_errors.values())


def table(ways: Mapping[str, Figures]) -> Table:
    out = Table(box=None, pad_edge=False, header_style="bold")
    out.add_column("")
    for name in ways:
        out.add_column(name, justify="right")
    rows: list[tuple[str, Callable[[Figures], str]]] = [
        ("items", lambda f: f"{f.items}"),
        ("pass the checks", lambda f: _of(f.passed, f.items)),
        ("... items per hour", lambda f: f"{f.hourly(f.passed):.0f}"),
        ("accepted (reviewers too)", lambda f: _of(f.accepted, f.items)),
        ("... items per hour", lambda f: f"{f.hourly(f.accepted):.0f}"),
        ("seconds", lambda f: f"{f.seconds:.0f}"),
        ("seconds per item", lambda f: f"{f.seconds / max(1, f.items):.1f}"),
        ("tokens generated", lambda f: f"{f.tokens:.0f}"),
        ("tokens per second", lambda f: f"{f.tokens / f.seconds if f.seconds else 0:.1f}"),
        ("mean batch", lambda f: f"{f.tokens / f.engine_steps if f.engine_steps else 0:.1f}"),
        ("answers of the model", lambda f: f"{f.calls}"),
        ("of them errors", lambda f: _of(f.errors, f.calls)),
    ]
    for name, cell in rows:
        out.add_row(name, *map(cell, ways.values()))
    return out


def _of(count: int, whole: int) -> str:
    return f"{count} ({100 * count / max(1, whole):.0f} %)"


def ratios(ways: Mapping[str, Figures]) -> list[str]:
    """The last way against each of the others, in accepted items per hour."""
    *others, (name, best) = ways.items()
    lines = []
    for other, found in others:
        slower = found.hourly(found.accepted)
        times = f"{best.hourly(best.accepted) / slower:.1f} times the accepted items per hour" if slower else ""
        lines.append(f"{name} against {other}: {times or 'nothing to compare with, it had none accepted'}")
    return lines


# --- the repository --------------------------------------------------------------------------------------------------


def chosen(root: Path, count: int) -> list[str]:
    """`count` of a plan's items, evenly spread over it. Only below a directory: a scope cannot name a file at the top
    without its namesakes below."""
    repo = Repo.discover(root)
    every = [item.target for item in desk.make_plan(repo, survey(repo, repo.head().commit)).items]
    return spread([target for target in every if "/" in target], count)


def spread(every: Sequence[str], count: int) -> list[str]:
    return [every[n * len(every) // count] for n in range(count)] if 0 < count < len(every) else list(every)


def narrow(root: Path, targets: Sequence[str], window: int = 0) -> None:
    """The repository's task from now on: exactly these notes. `window`: items in flight, 0: as packaged."""
    scope = json.dumps([re.sub(r"([\\*?\[\]!# ])", r"\\\1", path) for path in targets], ensure_ascii=False)
    (root / "tasks" / "normalise.md").write_text(TASK.replace('["**/*.md"]', scope))
    git(root, "add", "tasks")
    if window:
        (root / ".pantheon").mkdir()
        (root / ".pantheon" / "pantheon.toml").write_text(f"schema_version = 1\n\n[night]\nwindow = {window}\n")
        git(root, "add", ".pantheon")
    git(root, "commit", "-q", "-m", f"Only {len(targets)} notes")
    if window:
        trust = [sys.executable, "-P", "-m", "pantheon.cli", "trust", "--yes"]
        subprocess.run(trust, cwd=root, check=True, stdout=subprocess.DEVNULL)


def by_night(root: Path, where: Places, budget: str) -> Figures:
    """A night as a person starts it. Its clock runs from the engine's first answer to the sealed report, which is when
    its pull requests are there."""
    session.night(root, where, dict(os.environ), budget=budget, engine="vllm", quiet=False)
    found = nights.load_report(Repo.discover(root))
    log = git(root, "log", "--format=%ct %s", f"refs/pantheon/nights/{found.night.id}")
    began = next(int(line.split()[0]) for line in log.splitlines() if line.endswith(": probe"))
    return of_night(found, max(found.wall_s, found.finished_at.timestamp() - began))


# --- the loop --------------------------------------------------------------------------------------------------------


def agent_python(where: Places) -> Path:
    """The Python of an environment that holds the agent and nothing of ours; made once, kept in the cache."""
    place = where.cache / "bench" / f"{AGENT}-{VERSION}"
    ready = place / "ready"
    if not ready.exists():
        shutil.rmtree(place, ignore_errors=True)
        with screen.waiting(f"installing {AGENT} {VERSION}", False):
            subprocess.run([sys.executable, "-m", "venv", place], check=True)
            pip = [str(place / "bin" / "pip"), "install", "-qq", "--disable-pip-version-check"]
            subprocess.run([*pip, f"{AGENT}=={VERSION}", WITH], check=True)
        ready.touch()
    return place / "bin" / "python"


@dataclass(frozen=True)
class Bench:
    """Where the loop works: the shop whose gate judges it, what its commit holds, and a scratch directory."""

    shop: Shop
    found: Survey
    place: Path

    def at(self, help: str, number: int) -> Path:
        return self.place / "work" / f"{help}-{number}"

    def job(self, help: str, number: int, item: Item) -> dict[str, Any] | None:
        """A copy of the repository with the note's certain repairs made, and what its agent is told; None where nothing
        is left for a model."""
        place, rules = self.at(help, number), self.shop.ruled(item).rules
        assert isinstance(rules, Rules)
        shutil.copytree(self.shop.room.work / "base", place / "tree", copy_function=shutil.copyfile)
        ws = Workspace(place / "tree", item.target, rules, self.shop.facts, self.shop.read_base)
        missing, offered = ["title", "tags", "description"], {}
        try:
            notes.repair_note(ws, Nothing())
            excerpt = notes.read_note(ws, Nothing())
            missing, text = (
                [name for name, _ in notes.open_fields(ws, notes.document(ws))],
                f"{excerpt.title}. {excerpt.text}",
            )
            offered = {**notes.suggest_fields(ws, Nothing()).fields, "name": notes.suggest_names(ws, Nothing()).names}
        except ToolError:  # front matter that cannot be parsed: the model sees the note as it is
            text = ws.read(item.target).decode("utf-8", "replace")[: notes.EXCERPT]
        if not name_is_right(item.target, rules):
            missing.append("name")
        inbound = [path for path in self.shop.facts.inbound.get(item.target, ()) if path != item.target]
        state = {"target": item.target, "now": item.target, "inbound": inbound}
        (place / "state.json").write_text(json.dumps(state))
        if not missing:
            return None
        asked = DOCUMENTED if help == "documented" else PROMPT
        prompt = asked.format(target=item.target, text=text, missing=", ".join(missing))
        form = "" if help == "documented" else shape(missing, rules, offered if help == "offered" else {})
        return {"name": place.name, "prompt": prompt, "regex": form}

    def room(self, help: str, jobs: Sequence[Mapping[str, Any]]) -> Path:
        """The read-only directory with the agent's orders and the command of its model."""
        room = self.place / f"room-{help}"
        room.mkdir()
        orders = {**ORDERS, "packaged": help == "documented", "jobs": jobs}
        if help == "documented":
            orders["asked"] = {**ORDERS["asked"], "max_tokens": THOUGHTS}
        (room / "jobs.json").write_text(json.dumps(orders))
        shutil.copyfile(INSIDE, room / INSIDE.name)
        shutil.copyfile(self.shop.room.work / "config" / "rules" / "frontmatter.toml", room / "rules.toml")
        command = room / "note"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P /room/{INSIDE.name} note "$@"\n')
        command.chmod(0o755)
        return room


async def by_loop(root: Path, where: Places, model: Path, place: Path, documented: int) -> dict[str, Figures]:
    """The loop over the items of a repository with each kind of help, over `documented` of them with the first."""
    python = agent_python(where)
    repo = Repo.discover(root)
    base = repo.head().commit
    found = survey(repo, base)
    items = desk.make_plan(repo, found).items
    with screen.waiting("starting the engine", False) as say:
        engine = await VllmEngine.start(
            model, runtime_dir=place / "engine", cache_dir=where.cache / "engine", log_path=place / "engine.log",
            on_progress=say,
        )  # fmt: skip
    try:
        room = CheckRoom.open(repo, found.config, base, place / "gate")
        seats = runner.seats(found.config, engine, found)
        shop = Shop(repo, found.config, base, found.entries, found.rules, found.facts, seats, room)
        bench = Bench(shop, found, place)
        return {
            help: await helped(bench, engine, python, help, items[:documented] if help == "documented" else items)
            for help in HELP
        }
    finally:
        await engine.close()


async def helped(bench: Bench, engine: VllmEngine, python: Path, help: str, items: Sequence[Item]) -> Figures:
    """The loop with one kind of help, then the gate over what it left."""
    jobs = [job for number, item in enumerate(items) if (job := bench.job(help, number, item)) is not None]
    if not items:
        return Figures()
    before = await engine.metrics()
    done = await asyncio.to_thread(drive, python, bench, help, jobs)
    after = await engine.metrics()
    with screen.counting(f"judging loop, {help}", len(items), False) as step:
        verdicts = await asyncio.gather(*(judge(bench, help, n, item, step) for n, item in enumerate(items)))
    return Figures(
        items=len(items),
        passed=sum(passed for passed, _ in verdicts),
        accepted=sum(not why for _, why in verdicts),
        seconds=sum(one["seconds"] for one in done),
        tokens=after.generation_tokens - before.generation_tokens,
        engine_steps=after.engine_steps - before.engine_steps,
        calls=sum(one["steps"] for one in done),
        errors=sum(one["malformed"] + one["failed"] for one in done),
        ends=Counter([*(one["ended"] for one in done), *["without a model"] * (len(items) - len(jobs))]),
        why=Counter(why for _, why in verdicts if why),
    )


def drive(python: Path, bench: Bench, help: str, jobs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Run the agent over its jobs in a sandbox: no network but the engine's socket, nothing to write but its copies."""
    work, venv = bench.place / "work", python.parent.parent
    work.mkdir(exist_ok=True)
    env = {
        "MSWEA_SILENT_STARTUP": "1",
        "MSWEA_MODEL_RETRY_STOP_AFTER_ATTEMPT": "2",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    sandbox = Sandbox(
        readable=(
            (venv, venv),
            (bench.place / "engine", Path("/run/engine")),
            (bench.shop.room.work / "base", Path("/base")),
            (bench.room(help, jobs), Path("/room")),
        ),
        writable=((work, Path("/work")),),
        cwd=Path("/work"),
        env=env,
        hostname="loop",
    )
    limits = Limits(cpu_s=None, memory_bytes=2 << 30, address_space=False, processes=128)
    argv = [str(python), f"/room/{INSIDE.name}", "drive"]
    child = process.start(argv, stdout_path=bench.place / "loop.log", sandbox=sandbox, limits=limits)
    until, seen, mine = time.monotonic() + ITEM_S * (len(jobs) + 1), 0, {job["name"] for job in jobs}
    try:
        with screen.counting(f"loop, {help}", len(jobs), False) as step:
            while child.alive() and time.monotonic() < until:
                time.sleep(0.5)
                for _ in results(work, mine)[seen:]:
                    seen += 1
                    step()
    finally:
        child.stop(0.0)
    found = results(work, mine)
    if not found and jobs:
        raise SystemExit(f"the loop did nothing: less {bench.place / 'loop.log'}")
    return found


def results(work: Path, mine: Container[str]) -> list[dict[str, Any]]:
    """What the loop has written so far of some jobs; a line that is not whole yet is not read."""
    try:
        text = (work / "results.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [one for line in text.split("\n")[:-1] if (one := json.loads(line))["name"] in mine]


# --- judging the loop ------------------------------------------------------------------------------------------------


def harvested(tree: Path, base: Path) -> dict[str, bytes | None]:
    """What a directory holds that its base does not: path -> bytes; None for what is gone, no regular file, or too
    large. No link is followed: who wrote it is not to be trusted."""
    now, was = _files(tree), _files(base)
    found = {path: data for path, data in now.items() if path not in was or data != was[path]}
    return found | {path: None for path in was if path not in now}


def _files(root: Path) -> dict[str, bytes | None]:
    found: dict[str, bytes | None] = {}
    for folder, _, names in os.walk(root):  # which does not go through links
        for name in names:
            path = Path(folder, name)
            about = path.lstat()
            regular = stat.S_ISREG(about.st_mode) and about.st_size <= FILE_MOST
            found[path.relative_to(root).as_posix()] = path.read_bytes() if regular else None
    return found


def is_own(changed: Mapping[str, bytes | None], target: str, inbound: Sequence[str]) -> bool:
    """Whether a change is the item's alone: its note, under another name where it was renamed (then with the files that
    link to it)."""
    gone = changed.get(target, b"") is None
    new = {path for path, data in changed.items() if path != target and path not in inbound and data is not None}
    lost = {path for path, data in changed.items() if path != target and data is None}
    return bool(changed) and not lost and (len(new) == 1 if gone else changed.keys() == {target})


async def judge(bench: Bench, help: str, number: int, item: Item, step: Callable[[], None]) -> tuple[bool, str]:
    """(the checks pass and only the item's file changed, why the whole gate does not accept), by the gate of the night:
    what the loop left goes the way of a change that is given, as canaries do."""
    shop, repo = bench.shop, bench.shop.repo
    changed = harvested(bench.at(help, number) / "tree", shop.room.work / "base")
    own = is_own(changed, item.target, shop.facts.inbound.get(item.target, ()))
    entries = {path: None if data is None else (FILE, repo.write_blob(data)) for path, data in changed.items()}
    tree = repo.write_tree(repo.tree_of(shop.base), entries)
    given = item.model_copy(update={"canary": Canary(good=True, kind="loop", tree=tree)})
    task = next(task for task in bench.found.tasks if task.uuid == item.task)
    trip: Trip = await run_item(shop, given, task, hashlib.sha256(f"{help} {item.id}".encode()).hexdigest()[:32])
    step()
    broken = flow.failed(trip.done)
    why = "other files changed" if not own else f"{broken.node}: {broken.reason[:100]}" if broken else ""
    passed = bool(trip.checks) and all(one.passed for one in trip.checks)
    return own and passed, why or ("" if trip.decision.accepted else "the flow did not end")


# --- all of it -------------------------------------------------------------------------------------------------------


def run(place: Path, corpus: Path, count: int, documented: int, budget: str) -> dict[str, Figures]:
    """All ways, in the order that the head of this file gives."""
    where = places(os.environ)
    model = find_model("default", where.models)
    agent_python(where)
    build(place / "whole", corpus)
    targets = chosen(place / "whole", count)
    halves = [targets[0::2], targets[1::2]]
    for n, half in enumerate(halves):
        for name, window in ((f"loop-{n}", 0), (f"one-{n}", 1)):
            build(place / name, corpus)
            narrow(place / name, half, window)
    build(place / "night", corpus)
    narrow(place / "night", targets)

    def loop(number: int, documented: int) -> dict[str, Figures]:
        with tempfile.TemporaryDirectory(
            prefix="loop-", ignore_cleanup_errors=True
        ) as name:  # a socket's path is short
            short = Path(name)
            try:
                return asyncio.run(by_loop(place / f"loop-{number}", where, model, short, documented))
            finally:
                if (short / "work").is_dir():
                    shutil.copytree(short / "work", place / f"loop-{number}-left", symlinks=True)

    before = loop(0, documented)
    single = by_night(place / "one-0", where, budget)
    whole = by_night(place / "night", where, budget)
    single += by_night(place / "one-1", where, budget)
    after = loop(1, 0)
    loops = {f"loop, {help}": before[help] + after[help] for help in HELP}
    return {**loops, "one at a time": single, "night": whole}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=40, help="evenly spread over the corpus; 0: all")
    parser.add_argument("--documented", type=int, default=4, help="items of the loop without its own form; 0: none")
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--budget", default="60m", help="of each night")
    parser.add_argument("--keep", type=Path, help="build the repositories here and keep them")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pantheon-bench-", ignore_cleanup_errors=True) as short:
        place = options.keep or Path(short)
        place.mkdir(parents=True, exist_ok=True)
        ways = run(place, options.corpus, options.items, options.documented, options.budget)
    print(f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {AGENT} {VERSION}")
    Console(width=120, highlight=False).print(table(ways))
    for name, found in ways.items():
        print(f"{name}: {', '.join(f'{count} {end}' for end, count in found.ends.most_common())}")
        for why, count in found.why.most_common(REASONS):
            print(f"    {count} refused: {printable(why)}")
    print("\n".join(ratios(ways)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
