"""An external planner: a program of the user's own that proposes how to split a task. By day only.

Owns what it is told (the task and its items as JSON on its stdin; no file of the repository) and what is taken from it:
its answer is a stranger's until it is proved to be a partition of the items. It is named in the user's own
configuration, which no repository and no night can read; the variables it is given are named there as well.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from pantheon import nights, process
from pantheon.config import PlannerSettings
from pantheon.drafts import MAX_TITLE, Part
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.process import Limits
from pantheon.records import Item, Record, Task

WHAT = "cannot use the planner"
MAX_ANSWER = 1 << 20  # bytes
MOST_PARTS = 1000


class Proposed(Record):
    """One part as a planner proposes it: ids of items, and the numbers (from 0) of earlier parts it must wait for."""

    title: str = Field(min_length=1, max_length=MAX_TITLE)
    items: tuple[str, ...] = Field(min_length=1)
    after: tuple[int, ...] = Field(default=(), max_length=MOST_PARTS)


class Proposal(Record):
    """What a planner prints."""

    children: tuple[Proposed, ...] = Field(min_length=1, max_length=MOST_PARTS)


def ask(
    repo: Repo,
    settings: PlannerSettings,
    task: Task,
    items: Sequence[Item],
    most: int,
    *,
    environ: Mapping[str, str],
    directory: Path,
) -> tuple[Part, ...]:
    """What the planner makes of a task's items, in parts of at most `most`. It runs in `directory` (the one of its
    configuration). Raises PantheonError when it is night, when it fails, and when its answer is no partition."""
    name = shlex.join(settings.command) or "[planner]"
    with _by_day(repo, name):
        done = _run(settings, name, task, items, most, environ, directory)
    if done.stopped_for or done.truncated:
        raise PantheonError(WHAT, name, done.why() or f"it printed more than {MAX_ANSWER >> 20} MiB")
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
        raise PantheonError(WHAT, name, f"it ended with {done.returncode}: {said or 'and said nothing'}")
    return read(done.stdout, items, most, name)


def _run(
    settings: PlannerSettings,
    name: str,
    task: Task,
    items: Sequence[Item],
    most: int,
    environ: Mapping[str, str],
    directory: Path,
) -> process.Completed:
    """Ask, within the limits of time and of output."""
    if not settings.command:
        hint = f'{directory / "config.toml"}: [planner] command = ["my-planner"]'
        raise PantheonError(WHAT, name, "none is configured", hint)
    missing = [variable for variable in settings.env if variable not in environ]
    if missing:
        raise PantheonError(WHAT, name, f"{', '.join(missing)} is not set", f"export {missing[0]}=...")
    question = {
        "schema_version": 1,
        "task": task.model_dump(mode="json"),
        "items": [item.model_dump(mode="json") for item in items],
        "max_items": most,
    }
    limits = Limits(
        wall_s=settings.timeout_s,
        cpu_s=None,
        memory_bytes=None,
        processes=None,
        output_bytes=MAX_ANSWER,
        file_bytes=None,
        disk_bytes=None,
    )
    env = process.base_env(environ) | {variable: environ[variable] for variable in settings.env}
    stdin = json.dumps(question).encode() + b"\n"
    return process.run(settings.command, limits=limits, env=env, cwd=directory, stdin=stdin)


@contextlib.contextmanager
def _by_day(repo: Repo, name: str) -> Iterator[None]:
    """Hold the night's lock: no planner runs beside a night, and no night starts beside a planner. In a night's own
    enclosure it can neither be had nor made."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(nights.alone(repo))
        except (RepositoryError, OSError) as error:
            why = "it is for the day only, and a night runs here"
            raise PantheonError(WHAT, name, why, "git pantheon status") from error
        yield


def read(answer: bytes, items: Sequence[Item], most: int, name: str) -> tuple[Part, ...]:
    """A planner's answer as parts. Raises PantheonError unless each item is in exactly one part, none is unknown, no
    part is too large, parts wait for earlier ones only, and titles are a line of printable text."""
    try:
        proposal = Proposal.model_validate_json(answer)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"][:4]))
        raise PantheonError(WHAT, name, f"its answer is refused: {where or 'JSON'}: {first['msg']}") from error
    why = _fault(proposal, {item.id for item in items}, most)
    if why:
        raise PantheonError(WHAT, name, f"its answer is refused: {why}")
    return tuple(Part(title=each.title, items=each.items, after=each.after) for each in proposal.children)


def _fault(proposal: Proposal, known: set[str], most: int) -> str:
    seen: set[str] = set()
    for number, part in enumerate(proposal.children):
        if not part.title.isprintable() or not part.title.strip():
            return f"the title of part {number} is not a line of printable text"
        if len(part.items) > most:
            return f"part {number} has {len(part.items)} items, allowed are {most}"
        for item in part.items:
            if item not in known:
                return f"part {number} names {item[:40]!r}, which is no item of the task"
            if item in seen:
                return f"item {item} is in two parts"
            seen.add(item)
        if not all(0 <= each < number for each in part.after):
            return f"part {number} waits for one that does not come before it"
    return f"{len(known - seen)} items are in no part" if known - seen else ""
