"""The adapters in force, as lint, doctor and the start of a night look at them.

Ring 3: brings the question (inforce.py) and what is known here (adapters.py, attic.py) together. Loads no adapter, no
model and none of the heavy packages; whether these are installed, their metadata say.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path

from pantheon import adapters, attic, inforce, nights, tomlfile
from pantheon.config import Config
from pantheon.errors import ConfigError, EngineError
from pantheon.git import Repo
from pantheon.inforce import Doubt
from pantheon.models import DEFAULT_MODEL, INSTALL
from pantheon.places import Places
from pantheon.survey import read_config

TRAINERS = ("torch", "peft", "bitsandbytes")


def look(
    repo: Repo, found: Config, *, taught: bool = False, model: str = "", weights: Mapping[str, str] | None = None
) -> list[Doubt]:
    """What is wrong with the adapters that agents name. `taught`: a teacher answers for those that edit; `model` and
    `weights` (file -> sha256) of the one that is served, where they are known better than from the settings."""
    asking = [agent for agent in found.agents.values() if agent.runtime.engine != "none"]
    speaking = [agent for agent in asking if agent.runtime.adapter and not (taught and agent.output == "edit")]
    if not speaking:
        return []
    named = found.settings.engine.model
    served = model or (DEFAULT_MODEL if named == "default" else Path(named).name)
    known = adapters.known(repo, speaking)
    templates = nights.template_digests(found)
    return inforce.doubts(speaking, known, templates=templates, model=served, weights=weights)


def require(doubts: Sequence[Doubt]) -> list[str]:
    """The notes among the doubts, as lines. Raises EngineError for the first that no night can run with."""
    for doubt in doubts:
        if doubt.grave:
            raise EngineError("cannot use the adapter", doubt.agent, doubt.why, doubt.hint)
    return [f"{doubt}; {doubt.hint}" for doubt in doubts]


def problems(root: Path, found: Config) -> list[tuple[bool, ConfigError]]:
    """The same for a person who edits agents in a working tree: whether it is grave, and where it stands. Raises
    RepositoryError."""
    said = []
    for doubt in look(Repo.discover(root), found):
        name = doubt.agent.rpartition("@")[0]
        path, text = found.sources[f"agents/{name}.toml"], found.texts[f"agents/{name}.toml"]
        line = tomlfile.line_of(text, ("agent", "runtime", "adapter"))
        said.append((doubt.grave, ConfigError("cannot use the agent", path, doubt.why, line, doubt.hint)))
    return said


def said(repo: Repo, where: Places) -> str:
    """The line of the doctor: adapters in force, what could train here, the disk that learning takes. Raises
    EngineError for an adapter that no night can run with."""
    head = repo.head().commit
    found = read_config(repo, head, repo.entries(head))
    notes = require(look(repo, found))
    count = sum(1 for agent in found.agents.values() if agent.runtime.adapter)
    force = f"{count} adapter{'s' * (count != 1)} in force, verified" if count else "no agent has an adapter"
    parts = [force, *notes, _trainers()]
    held = [one for one in attic.taken(repo, where.cache) if one.bytes]
    if held:
        parts.append("on disk: " + ", ".join(f"{attic.shown(one.bytes)} {one.what}" for one in held))
        spare = [one.where for one in held if one.where.name == attic.MERGED]
        parts += [f"merged models can be made again: rm -r {place}" for place in spare]
    return "; ".join(parts)


def _trainers() -> str:
    versions, missing = [], []
    for name in TRAINERS:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return f"nothing can be trained here: {', '.join(missing)} missing, {INSTALL}"
    return ", ".join(versions)
