"""The commands of the day: survey finds where repetition is highest, breakdown splits a task.

Ring 4. Both read HEAD and the task files of the working tree, show what they would write, and write to the working tree
only when asked to: new files, never over one that is there, never through a link. The user commits. No model is asked.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from pantheon import clusters, config, desk, drafts, frontmatter, plan, planner, screen, tasks
from pantheon.clusters import Cluster
from pantheon.drafts import Draft, Part
from pantheon.errors import InputError, PantheonError, RepositoryError, TaskError
from pantheon.git import Repo
from pantheon.places import Places
from pantheon.plan import printable
from pantheon.records import Finding, Item, Task
from pantheon.survey import Survey
from pantheon.survey import survey as read_commit
from pantheon.tools import syntax

WIDE = 110  # columns of a terminal that has room for examples
SHOWN = 20  # clusters in the table
MIN_LINES = 6  # of a function that may be repetition
MOST_SOURCE = 64 << 20  # bytes of source that is looked at for functions that are alike
FILES = (0o100644, 0o100755)
MOST_TASKS = 10_000  # files among the task files of the working tree that are read
Findings = dict[str, dict[str, tuple[Finding, ...]]]  # flow -> path -> what it breaks


# --- survey ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A cluster as it is shown: with the task file that would repair it, where one can."""

    cluster: Cluster
    draft: Draft | None

    def for_json(self) -> dict[str, object]:
        draft = {"path": self.draft.path, "uuid": self.draft.uuid, "title": self.draft.title} if self.draft else None
        return {**self.cluster.model_dump(mode="json"), "draft": draft}


def survey(repo: Repo, where: Places, *, write: bool, limit: int | None, as_json: bool) -> int:
    """Clusters of near-identical defects, largest first; at most `limit` of them; with `write` a task file for each."""
    head = repo.head().commit
    found = read_commit(repo, head, config.load_user(where.config).limits)
    existing = _existing(repo, found)
    broken = judged(found, existing)
    covered = _covered(found, existing, broken)
    repeated = _repeated(found)
    left: list[Cluster] = []
    skipped = 0
    for cluster in clusters.group(broken):
        paths = [path for path in cluster.paths if path not in covered[cluster.flow]]
        skipped += len(cluster.paths) - len(paths)
        if paths:
            left.append(cluster if len(paths) == len(cluster.paths) else clusters.narrowed(cluster, paths))
    every = clusters.ordered([*left, *repeated])
    most = limit if limit is not None else None if as_json and not write else SHOWN
    rows = _rows(found, every[:most], broken, write)
    written = [row.draft for row in rows if row.draft and write and _write_new(repo.root, row.draft)]
    more = len(every) - len(rows)
    if as_json:
        return screen.print_json(
            {
                "commit": head,
                "clusters": [row.for_json() for row in rows],
                "left_out": more,
                "covered_files": skipped,
                "written": [draft.path for draft in written],
                "problems": list(found.problems),
            }
        )
    _show_rows(rows, more, skipped)
    for draft in written:
        print(f"wrote {printable(draft.path)}")
    if written:
        folder = written[0].path.rpartition("/")[0]
        print(f"next: read them, set status to ready, then: git add {folder} && git commit")
    elif any(row.draft for row in rows):
        print("next: git pantheon survey --write")
    return 0


def judged(found: Survey, existing: Collection[Task], only: str = "") -> Findings:
    """What every file breaks of every flow that can run by itself, or `only` of one; of flows with the same rules the
    first that is for the file."""
    own = {task.path for task in existing if task.spec is not None}
    files = [
        path
        for path, entry in sorted(found.entries.items())
        if entry.mode in FILES and path not in own and not path.startswith(config.DIRECTORY + "/")
    ]
    flows = {name: flow for name, flow in sorted(found.config.flows.items()) if flow.whole and only in ("", name)}
    claimed: set[tuple[str, str]] = set()
    broken: Findings = {name: {} for name in flows}
    with _bar("judging", len(files) * len(flows)) as step:
        for name, flow in flows.items():
            inside = set(tasks.select(files, flow.match.paths or ("**",)))
            for path in files:
                step()
                if path in inside and (flow.rules, path) not in claimed:
                    claimed.add((flow.rules, path))
                    findings = found.judge(name, path)
                    if findings:
                        broken[name][path] = findings
    return broken


def _covered(found: Survey, existing: Iterable[Task], broken: Findings) -> dict[str, set[str]]:
    """For each flow the files that a task has in its scope already, whatever its status."""
    covered: dict[str, set[str]] = {flow: set() for flow in broken}
    for task in existing:
        flow = found.flow_of(task) if task.spec is not None else ""
        if flow in broken and task.spec is not None:
            left = [path for path in broken[flow] if path not in covered[flow]]
            covered[flow].update(tasks.select(left, task.spec.scope, task.spec.exclude))
    return covered


def _repeated(found: Survey) -> tuple[Cluster, ...]:
    """Functions that are alike, in the languages that can be read, up to a bound on all sources."""
    paths = [path for path in sorted(found.entries) if syntax.has_symbols(path)]
    shapes = []
    budget = MOST_SOURCE
    with _bar("comparing functions", len(paths)) as step:
        for path in paths:
            step()
            raw = found.read(path) or b""
            budget -= len(raw)
            if budget < 0:
                break
            for symbol in syntax.symbols(path, raw):
                if symbol.kind != "class" and symbol.end_line - symbol.line >= MIN_LINES:
                    shapes.append((path, symbol.line, symbol.name, syntax.shape(path, raw, symbol)))
    return clusters.repetitions(shapes)


def _rows(found: Survey, left: Sequence[Cluster], broken: Findings, write: bool) -> list[Row]:
    """The clusters with their drafts. Raises RepositoryError when drafts are wanted and there is no place for them."""
    folder = draft_folder(found.config.settings.tasks.paths)
    if write and not folder:
        why = "none of tasks.paths begins with a directory"
        raise RepositoryError("cannot write drafts", f"{config.DIRECTORY}/pantheon.toml", why, 'paths = ["tasks/*.md"]')
    rows = []
    for cluster in left:
        draft = None
        if cluster.flow and not cluster.by_hand and folder:
            inside = set(cluster.paths)
            others = [path for path in broken[cluster.flow] if path not in inside]
            draft = drafts.draft(cluster, found.config.flows[cluster.flow], others, folder, desk.now())
        rows.append(Row(cluster, draft))
    return rows


def draft_folder(patterns: Sequence[str]) -> str:
    """The directory that the first pattern of task files begins with, if a new file right in it would be one."""
    for pattern in patterns:
        parts = pattern.strip("/").split("/")[:-1]
        plain = [part for part in parts if not any(c in part for c in "*?[\\!#")]
        folder = "/".join(parts[: len(plain)]) if parts[: len(plain)] == plain else ""
        if folder and tasks.select([f"{folder}/a.md"], patterns):
            return folder
    return ""


def _show_rows(rows: Sequence[Row], more: int, skipped: int) -> None:
    if not rows:
        print("nothing is repeated that no task covers")
    else:
        shown = Console(highlight=False)
        wide = shown.width >= WIDE
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("count", justify="right", no_wrap=True)
        table.add_column("flow", no_wrap=True)
        table.add_column("what", overflow="fold")
        table.add_column("where", overflow="fold")
        if wide:
            table.add_column("for example", overflow="ellipsis", no_wrap=True, max_width=shown.width // 3)
        for row in rows:
            one = row.cluster
            rules = ", ".join(one.rules[:3]) + (f" +{len(one.rules) - 3}" if len(one.rules) > 3 else "")
            flow = "none yet" if not one.flow else f"{one.flow}: a person" if one.by_hand else one.flow
            example = one.examples[0] if one.examples else ""
            if one.rules == (clusters.REPETITION,):
                rules = f"{clusters.REPETITION}, as {example}"
            cells = (flow, rules, clusters.place_of(one.paths), *((example,) if wide else ()))
            table.add_row(str(one.count), *(escape(printable(cell)) for cell in cells))
        shown.print(table)
    if more:
        print(f"and {more} smaller: git pantheon survey --limit {len(rows) + more}")
    if skipped:
        print(f"{skipped} files are left out: a task covers them")


# --- breakdown -------------------------------------------------------------------------------------------------------


def breakdown(
    repo: Repo,
    where: Places,
    name: str,
    environ: Mapping[str, str],
    *,
    into: str,
    use_planner: bool,
    yes: bool,
    as_json: bool,
) -> int:
    """Show the items of a task and the parts it could be split into; write them when confirmed."""
    user = config.load_user(where.config)
    found = read_commit(repo, repo.head().commit, user.limits)
    existing = _existing(repo, found)
    task, raw = _find(repo, existing, name)
    items, notes = items_of(found, existing, task)
    most = found.config.settings.night.max_items_per_pr
    parts: tuple[Part, ...] = ()
    children: tuple[Draft, ...] = ()
    if items and into == "tasks":
        if use_planner:
            parts = planner.ask(repo, user.planner, task, items, most, environ=environ, directory=where.config)
        else:
            parts = drafts.split(task, items, most)
        if len(parts) > 1:
            flow = items[0].flow
            children = drafts.children(task, raw, items, parts, judged(found, existing, flow)[flow])
            notes = (*notes, *_faults(found, items, children))
    if as_json and not yes:
        return screen.print_json(_breakdown_json(task, items, children, notes, ()))
    if not as_json:
        _show_breakdown(task, items, children, notes, into)
    if not items or (into == "tasks" and len(parts) < 2):
        return screen.print_json(_breakdown_json(task, items, (), notes, ())) if as_json else 0
    if not (yes or _confirmed(name, into, use_planner)):
        print("nothing was written")
        return 1
    new = drafts.parent(task, raw, children) if into == "tasks" else drafts.with_items(task, raw, items)
    written = [child.path for child in children if _write_new(repo.root, child)]
    if _replace(repo.root, task.path, raw, new):
        written.append(task.path)
    if as_json:
        return screen.print_json(_breakdown_json(task, items, children, notes, written))
    for path in written:
        print(f"wrote {printable(path)}")
    print("next: git diff, then git add and git commit them")
    return 0


def items_of(found: Survey, existing: Sequence[Task], task: Task) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """What a night would make of a task that it takes, alone and whole; and what a person should know. Raises TaskError
    when it has no scope, or is split already."""
    if task.spec is None:
        raise TaskError("cannot split the task", task.path, "it has no pantheon block", 1)
    alone = task.model_copy(update={"status": "ready", "spec": task.spec.model_copy(update={"depends_on": ()})})
    others = [one.model_copy(update={"status": "draft"}) for one in existing if one.path != task.path]
    planned = plan.freeze(
        [alone, *others],
        {path: entry.oid for path, entry in found.entries.items()},
        found.judge,
        found.config.flows,
        found.config.agents,
        ready=("ready",),
        model=found.config.settings.engine.model,
    )
    targets = [item.target for item in planned.items]
    waits = set(task.spec.depends_on)
    parts = [one for one in existing if one.spec and one.status != "done" and {one.uuid, one.slug} & waits]
    for part in parts:
        if part.spec and tasks.select(targets, part.spec.scope, part.spec.exclude):
            why = f"it waits for {part.slug}, which has some of its items: it is split already"
            raise TaskError("cannot split the task", task.path, why, hint=f"git pantheon breakdown {part.slug}")
    return planned.items, planned.notes


def _faults(found: Survey, items: Sequence[Item], children: Sequence[Draft]) -> Iterator[str]:
    """What a person should know of the parts. Raises TaskError for one that would be no task."""
    for child in children:
        tasks.parse(child.raw, child.path)
        if not tasks.select([child.path], found.config.settings.tasks.paths):
            why = "no pattern of tasks.paths would find it"
            raise TaskError("cannot write the part", child.path, why, hint=f"edit {config.DIRECTORY}/pantheon.toml")
    left = {item.target for item in items}.difference(*(child.targets for child in children))
    for path in sorted(left):
        yield f"{printable(path)}: stays with the task itself: no pattern can name it"


def _breakdown_json(
    task: Task, items: Sequence[Item], children: Sequence[Draft], notes: Sequence[str], written: Sequence[str]
) -> dict[str, object]:
    return {
        "task": task.path,
        "items": [item.model_dump(mode="json") for item in items],
        "children": [child.model_dump(mode="json", exclude={"raw"}) for child in children],
        "notes": list(notes),
        "written": list(written),
    }


def _show_breakdown(
    task: Task, items: Sequence[Item], children: Sequence[Draft], notes: Sequence[str], into: str
) -> None:
    print(f"{printable(task.path)}: {len(items)} items")
    for item in items:
        rules = ", ".join(dict.fromkeys(finding.rule for finding in item.findings))
        print(f"  {printable(item.target)}  ({printable(rules)})")
    for note in notes:
        print(f"note: {printable(note)}")
    for number, child in enumerate(children, 1):
        print(f"{number:3}  {printable(child.path)}: {len(child.targets)} items: {child.title}")
    if items and into == "tasks" and not children:
        print("nothing to split: they are one part")


def _confirmed(name: str, into: str, use_planner: bool) -> bool:
    if not sys.stdin.isatty():
        more = ("--planner",) if use_planner else ()
        hint = f"git pantheon breakdown {shlex.join((name, '--into', into, *more, '--yes'))}"
        raise PantheonError("nothing was written", name, "there is no terminal to ask on", hint)
    return input("write this to the working tree? [y/N] ").strip().lower() in ("y", "yes")


# --- the working tree ------------------------------------------------------------------------------------------------


def _existing(repo: Repo, found: Survey) -> tuple[Task, ...]:
    """The task files of HEAD, and in their place or beside them those of the working tree that lie in a directory that
    a pattern names; one that moved is where it is now. What cannot be read is left out."""
    here: dict[str, Task] = {}
    patterns = found.config.settings.tasks.paths
    folders = dict.fromkeys(folder for pattern in patterns if (folder := draft_folder([pattern])))
    paths = [path for folder in folders for path in _markdown_below(repo.root, folder)]
    for path in tasks.select(paths[:MOST_TASKS], patterns):
        with contextlib.suppress(InputError):
            raw = _read(repo.root, path)
            task = tasks.parse(raw, path) if raw is not None else None
            if task is not None:
                here[path] = task
    moved = {task.uuid for path, task in here.items() if path not in found.entries}
    stayed = {
        task.path: task for task in found.tasks if task.uuid not in moved or os.path.lexists(repo.root / task.path)
    }
    known = {**stayed, **here}
    return tuple(known[path] for path in sorted(known))


def _markdown_below(root: Path, folder: str) -> Iterator[str]:
    if not _real(root, f"{folder}/a"):
        return
    for at, names, files in os.walk(root / folder):
        names.sort()
        for name in sorted(files):
            if name.lower().endswith(".md"):
                yield Path(at, name).relative_to(root).as_posix()


def _find(repo: Repo, existing: Sequence[Task], name: str) -> tuple[Task, bytes]:
    """The task that a path, a slug or a uuid names, with its file in the working tree. Raises TaskError."""
    typed = Path(os.path.abspath(name))
    here = typed.relative_to(repo.root).as_posix() if typed.is_relative_to(repo.root) else ""
    hits = [task for task in existing if here == task.path] or [
        task for task in existing if name in (task.path, task.uuid, task.slug)
    ]
    if len(hits) != 1:
        why = "no task has that path, slug or uuid" if not hits else "several tasks have it; give a path"
        raise TaskError("no such task", name, why, hint="git pantheon plan")
    raw = _read(repo.root, hits[0].path)
    if raw is None:
        why = "it is not a regular file in the working tree"
        raise TaskError("cannot split the task", hits[0].path, why, hint=f"git restore {hits[0].path}")
    task = tasks.parse(raw, hits[0].path)
    if task is None:
        raise TaskError("cannot split the task", hits[0].path, "it has no front matter", 1)
    return task, raw


def _real(root: Path, path: str) -> bool:
    """Whether no directory above a file of the working tree is a link or something else."""
    place = root
    for part in path.split("/")[:-1]:
        place = place / part
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            return False
    return True


def _read(root: Path, path: str) -> bytes | None:
    """A regular file of the working tree; None for anything else. A file too large to be a task is cut, so that the
    parser refuses it."""
    if not _real(root, path):
        return None
    try:
        with os.fdopen(
            os.open(root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb"
        ) as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                return None
            return stream.read(frontmatter.MAX_FILE + 1)
    except OSError:
        return None


def _write_new(root: Path, draft: Draft) -> bool:
    """Write a new file; False when something has that name: it is never written over. Raises RepositoryError."""
    target = root / draft.path
    if not _real(root, draft.path):
        why = "a directory above it is a link or a file"
        raise RepositoryError("cannot write the task", draft.path, why, f"ls -ld {draft.path.rpartition('/')[0]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as stream:
            stream.write(draft.raw)
    except FileExistsError:
        return False
    except OSError as error:
        raise RepositoryError("cannot write the task", draft.path, str(error.strerror)) from error
    return True


def _replace(root: Path, path: str, old: bytes, new: bytes) -> bool:
    """Put `new` in the place of `old`; False when it is the same. Raises RepositoryError when the file changed."""
    if new == old:
        return False
    target, beside = root / path, root / f"{path}.new"
    if _read(root, path) != old:
        raise RepositoryError("cannot write the task", path, "it changed meanwhile", "git diff")
    try:
        with beside.open("xb") as stream:
            stream.write(new)
        beside.chmod(stat.S_IMODE(target.stat().st_mode))
        beside.replace(target)
    except OSError as error:
        raise RepositoryError("cannot write the task", f"{path}.new", str(error.strerror)) from error
    return True


@contextlib.contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal; yields a function that counts one step."""
    shown = screen.console(stderr=True)
    if not shown.is_terminal:
        yield lambda: None
        return
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=shown, transient=True
    ) as bar:
        job = bar.add_task(what, total=total)
        yield lambda: bar.advance(job)
