"""Finds an agent at a version: as HEAD has it, or as an earlier commit had it.

Reads the history of the agent's file along first parents, newest first. A commit without such a file has the packaged
agent. Runs nothing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

from pantheon import config, flow
from pantheon.config import Config
from pantheon.errors import RepositoryError
from pantheon.git import Repo
from pantheon.survey import read_config

MAX_COMMITS = 20_000
MAX_BYTES = 1 << 20  # of an agent's file
_SHOWN = 8


def find_agent(repo: Repo, text: str) -> tuple[str, str, Config]:
    """For `name`, `name@3` or `name >= 3`: the agent's name, the newest commit of HEAD's history that has it so, and
    that commit's configuration. Raises RepositoryError when none has, ConfigError for what cannot be used."""
    try:
        name, operator, wanted = flow.wanted_agent(text)
    except ValueError as error:
        raise RepositoryError("no such agent", text, str(error), "git pantheon agents") from error
    known: list[str] = []
    for commit, version in _versions(repo, name):
        fits = not operator or version == wanted or (operator == ">=" and version > wanted)
        if fits:
            found = read_config(repo, commit, repo.entries(commit))
            if name in found.agents and found.agents[name].version == version:
                return name, commit, found
        label = f"{name}@{version}"
        if label not in known:
            known.append(label)
    path = f"{config.DIRECTORY}/agents/{name}.toml"
    if not known:
        raise RepositoryError("no such agent", text, f"HEAD's history has no {path}", "git pantheon agents")
    listed = ", ".join(known[:_SHOWN])
    raise RepositoryError("no such version", text, f"HEAD's history has {listed}", f"git log --oneline -- {path}")


def _versions(repo: Repo, name: str) -> Iterator[tuple[str, int]]:
    """(commit, version) wherever the agent's file changes, newest first."""
    packaged = config.packaged("agents", f"{name}.toml")
    own = packaged.read_bytes() if packaged.is_file() else None
    path = f"{config.DIRECTORY}/agents/{name}.toml"
    last: bytes | None = b""
    step: str | None = repo.head().commit
    for _ in range(MAX_COMMITS):
        if step is None:
            return
        data = repo.read_path(step, path)
        if data != last:
            last = data
            version = _version(data if data is not None else own)
            if version:
                yield step, version
        parents = repo.commit_info(step).parents
        step = parents[0] if parents and repo.knows(parents[0]) else None  # a shallow clone ends before its history


def _version(data: bytes | None) -> int:
    """What an agent's file says; 0 for nothing that can be read."""
    if data is None or len(data) > MAX_BYTES:
        return 0
    try:
        table = tomllib.loads(data.decode()).get("agent")
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError):
        return 0
    version = table.get("version") if isinstance(table, dict) else None
    return version if isinstance(version, int) else 0
