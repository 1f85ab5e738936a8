"""`git pantheon lint`: tasks, agents, flows, rules, prompts and tools of the working tree, as they were just written.

Ring 4: reads regular files only, follows no link, imports little, since it must answer at once.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from pantheon import config, registry, route, tasks
from pantheon.config import Config
from pantheon.errors import InputError, RepositoryError, TaskError
from pantheon.plan import printable
from pantheon.records import Task

MAX_FILE = 4 * 1024 * 1024
_FIXED = re.compile(r"[^*?\[\]!\\]*/")


def root_of(start: Path) -> Path:
    """The working tree that holds a directory, found without opening a repository: that alone would take as long as
    two hundred files. Raises RepositoryError."""
    for place in (start, *start.parents):
        if os.path.lexists(place / ".git"):
            return place
    raise RepositoryError("no git repository", str(start), "there is no .git here or above", "git init")


Learned = Callable[[Path, Config], Sequence[tuple[bool, InputError]]]


def lint(root: Path, paths: Sequence[str], *, as_json: bool, learned: Learned = lambda _, __: ()) -> int:
    """Check tasks, agents, flows, rules, prompts and tools of the working tree. 0: all is well, 1: it is not.
    `learned`: looks at the adapters that agents name, which takes longer: what is said, and whether it is grave."""
    names = tuple(_files(root, config.DIRECTORY))
    found, problems = registry.inspect(lambda path: _bytes(root, path), names)
    listed = _task_files(root, found.settings.tasks.paths) if found else []
    problems += _task_problems(root, listed, found) if found else []
    adapted = found is not None and any(agent.runtime.adapter for agent in found.agents.values())
    of_adapters = learned(root, found) if found is not None and adapted else ()
    warnings = [problem for grave, problem in of_adapters if not grave]
    problems = _asked(root, paths, [*problems, *(problem for grave, problem in of_adapters if grave)])
    warnings = _asked(root, paths, warnings)
    count = len(names) + len(listed)
    if as_json:
        print(json.dumps({"files": count, "problems": _as_json(problems), "warnings": _as_json(warnings)}, indent=1))
    else:
        for kind, some in (("", problems), ("warning: ", warnings)):
            for problem in some:
                where = f"{problem.path}:{problem.line}" if problem.line else problem.path
                print(printable(f"{where}: {kind}{problem.why}"))
        print(f"{_counted(count, 'file')}: {_counted(len(problems), 'problem')}")
    return 1 if problems else 0


def _asked(root: Path, paths: Sequence[str], problems: Iterable[InputError]) -> list[InputError]:
    """Those of the paths that were asked about, in order."""
    wanted = [_relative(root, path) for path in paths] or [""]
    found = [p for p in problems if any(f"{p.path}/".startswith(f"{w}/") or w == "" for w in wanted)]
    return sorted(found, key=lambda problem: (problem.path, problem.line))


def _as_json(problems: Iterable[InputError]) -> list[dict[str, object]]:
    return [{"path": p.path, "line": p.line, "why": p.why, "next": p.hint} for p in problems]


def _counted(count: int, word: str) -> str:
    return f"{count or 'no'} {word}{'' if count == 1 else 's'}"


def _relative(root: Path, path: str) -> str:
    full = Path(os.path.abspath(path))
    if not full.is_relative_to(root):
        raise RepositoryError("cannot check", path, f"it is not in {root}", "git pantheon lint")
    return "" if full == root else full.relative_to(root).as_posix()


def _files(root: Path, folder: str) -> Iterator[str]:
    """Every regular file below a folder of the working tree; links are not followed."""
    waiting = [folder] if folder else [""]
    while waiting:
        inside = waiting.pop()
        try:
            entries = sorted(os.scandir(root / inside), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in (".git", "node_modules", ".venv"):
                    waiting.append(path)
            elif entry.is_file(follow_symlinks=False):
                yield path


def _bytes(root: Path, path: str) -> bytes | None:
    """A regular file of the working tree, up to a size."""
    try:
        descriptor = os.open(root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read(MAX_FILE) if stat.S_ISREG(os.fstat(descriptor).st_mode) else None


def _task_files(root: Path, patterns: Sequence[str]) -> list[str]:
    """The files of the working tree that the patterns match: only the folders that they name are looked into."""
    folders = {(match[0].strip("/") if (match := _FIXED.match(pattern)) else "") for pattern in patterns}
    outer = [one for one in folders if not any(one != other and f"{one}/".startswith(f"{other}/") for other in folders)]
    if "" in folders:
        outer = [""]
    paths = [path for folder in sorted(outer) for path in _files(root, folder)]
    return [path for path in tasks.select(paths, patterns) if path.lower().endswith((".md", ".markdown"))]


def _task_problems(root: Path, paths: Sequence[str], found: Config) -> list[InputError]:
    said: list[InputError] = []
    parsed: list[tuple[Task, bytes]] = []
    for path in paths:
        raw = _bytes(root, path) or b""
        try:
            task = tasks.parse(raw, path)
        except InputError as error:
            said.append(error)
            continue
        if task is not None and task.spec is not None:
            parsed.append((task, raw))
    known = {name for task, _ in parsed for name in (task.slug, task.uuid)}
    doubled = tasks.duplicates([task for task, _ in parsed])
    for task, raw in parsed:
        for key, why in _task_faults(task, found, known, doubled):
            line = next(
                (n for n, text in enumerate(raw.splitlines(), 1) if text.strip(b" -").startswith(key.encode())), 1
            )
            said.append(TaskError("cannot use the task", task.path, why, line))
    return said


def _task_faults(
    task: Task, found: Config, known: set[str], doubled: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, str]]:
    """What in a task names something that is not there: the key, and why."""
    assert task.spec is not None
    choice = route.flow_of(task, found.flows)
    if not choice.name:
        yield ("flow:" if task.spec.flow else "labels:"), choice.why[0]
    for criterion in task.spec.acceptance:
        if criterion.run not in found.checks:
            yield "run:", f"there is no check {criterion.run!r}; known: {', '.join(sorted(found.checks))}"
    for name in task.spec.depends_on:
        if name not in known:
            yield "depends_on:", f"it depends on {name!r}, which is no task here"
    if task.uuid.lower() in doubled:
        yield "uuid:", f"its uuid is used by {', '.join(doubled[task.uuid.lower()])}; give each task its own"
