"""`git pantheon new`: a first agent, flow, tool or task, as files in the working tree that work as they are.

Ring 4: fills in the packaged templates below `templates/new/`, writes nothing that is there, and says what to do next.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from slugify import slugify

from pantheon import config
from pantheon.errors import ConfigError, PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.names import name_fault
from pantheon.survey import read_config
from pantheon.tools.registry import TOOLS

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}\Z")
_TOOL = re.compile(r"[a-z][a-z0-9_]{0,59}\Z")
_HOLE = re.compile(r"\{(name|agent|title|slug|uuid|flow|scope|when)\}")


def new(
    repo: Repo, kind: str, name: str, *, agent: str | None, flow: str | None, scope: Sequence[str], when: datetime
) -> int:
    """Write the files of a new agent, flow, tool or task."""
    match kind:
        case "agent":
            written = _agent(repo, name)
        case "flow":
            written = _flow(repo, name, agent)
        case "tool":
            written = _tool(repo, name)
        case _:
            written = _task(repo, name, flow, scope, when)
    for path in written:
        print(f"wrote {path}")
    print("next: edit them, then: git pantheon lint")
    return 0


def _agent(repo: Repo, name: str) -> list[str]:
    """A first agent with its prompt; of a packaged one a copy, to be changed."""
    _must_be(name, _NAME, "agent")
    packaged = config.load(lambda _: None, ())
    if name in packaged.agents:
        prompt = packaged.agents[name].prompt
        return _write(repo, _copies([f"agents/{name}.toml", *([f"prompts/{prompt}"] if prompt else [])]))
    return _write(
        repo,
        {
            f"{config.DIRECTORY}/agents/{name}.toml": _filled("agent/agent.toml", {"name": name}),
            f"{config.DIRECTORY}/prompts/{name}.j2": _filled("agent/prompt.j2", {"name": name}),
        },
    )


def _copies(names: Sequence[str]) -> dict[str, bytes]:
    """Packaged files as they are, by the paths at which they override the packaged ones."""
    return {f"{config.DIRECTORY}/{name}": (config.packaged() / name).read_bytes() for name in names}


def _flow(repo: Repo, name: str, agent: str | None) -> list[str]:
    """A first flow with its rules; of a packaged one a copy, to be changed."""
    _must_be(name, _NAME, "flow")
    packaged = config.load(lambda _: None, ())
    if name in packaged.flows and agent is None:
        one = packaged.flows[name]
        return _write(repo, _copies([f"flows/{name}.toml", *([f"rules/{one.rules}.toml"] if one.whole else [])]))
    if agent is None:
        why = "a flow needs an agent to do the work"
        raise ConfigError("cannot make the flow", name, why, hint=f"git pantheon new flow {name} --agent AGENT")
    known = {path.stem for path in (repo.root / config.DIRECTORY / "agents").glob("*.toml")}
    known |= set(packaged.agents)
    if agent not in known:
        hint = f"git pantheon new agent {agent}"
        raise ConfigError("cannot make the flow", name, f"there is no agent {agent!r}", hint=hint)
    values = {"name": name, "agent": agent}
    return _write(
        repo,
        {
            f"{config.DIRECTORY}/flows/{name}.toml": _filled("flow/flow.toml", values),
            f"{config.DIRECTORY}/rules/{name}.toml": _filled("flow/rules.toml", values),
        },
    )


def _tool(repo: Repo, name: str) -> list[str]:
    _must_be(name, _TOOL, "tool")
    if name in TOOLS:
        raise ConfigError("cannot make the tool", name, "a packaged tool has that name", hint="git pantheon tools")
    folder = f"{config.DIRECTORY}/tools"
    names = {"tool.toml": f"{name}.toml", "tool.py": f"{name}.py", "test_tool.py": f"test_{name}.py"}
    return _write(repo, {f"{folder}/{new}": _filled(f"tool/{old}", {"name": name}) for old, new in names.items()})


def _task(repo: Repo, title: str, flow: str | None, scope: Sequence[str], when: datetime) -> list[str]:
    commit = repo.head().commit
    settings = read_config(repo, commit, repo.entries(commit)).settings.tasks
    slug = slugify(title)[:100]
    if not slug or not title.isprintable():
        raise PantheonError(
            "cannot make the task", repr(title), "its title needs a word", "git pantheon new task TITLE"
        )
    folder = re.match(r"[^*?\[\]!\\]*/", settings.paths[0])
    values = {
        "title": title.replace("\\", "\\\\").replace('"', '\\"'),
        "slug": slug,
        "uuid": str(uuid.uuid4()),
        "flow": flow or "docops",
        "scope": ", ".join(f'"{pattern}"' for pattern in scope or ("docs/**/*.md",)),
        "when": f"{when:%Y-%m-%dT%H:%M:%SZ}",
    }
    return _write(repo, {f"{folder[0] if folder else ''}{slug}.md": _filled("task/task.md", values)})


def _must_be(name: str, pattern: re.Pattern[str], kind: str) -> None:
    fault = name_fault(name)
    if fault or not pattern.match(name):
        marks = "letters, digits and _" if kind == "tool" else "letters, digits, dots, - and _"
        why = fault or f"a name is made of lower-case {marks}, at most 60"
        raise ConfigError(f"cannot make the {kind}", ascii(name)[1:-1], why, hint=f"git pantheon new {kind} NAME")


def _filled(template: str, values: Mapping[str, str]) -> bytes:
    path = config.packaged().parent / "new" / template
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError("cannot read the template", str(path), str(error.strerror), hint="./install.sh") from error
    return _HOLE.sub(lambda hole: values.get(hole[1], hole[0]), text).encode()


def _write(repo: Repo, files: Mapping[str, bytes]) -> list[str]:
    """Put new files into the working tree; all of them or none. Raises RepositoryError when one is there."""
    for path in files:
        if os.path.lexists(repo.root / path):
            raise RepositoryError("cannot write", path, "it is there already", f"$EDITOR {path}")
    for path, data in files.items():
        place = repo.root / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.parent.resolve().is_relative_to(Path(repo.root).resolve()):
                raise RepositoryError("cannot write", path, "a link leads out of the working tree", f"ls -l {path}")
            with place.open("xb") as file:
                file.write(data)
        except OSError as error:
            raise RepositoryError("cannot write", path, str(error.strerror)) from error
    return list(files)
