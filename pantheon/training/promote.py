"""Puts another version of an agent in force as everything else gets in: a signed commit on a review branch, offered as
a local PR.

Ring 3. Owns the edit of the agent's file (its version and its adapter, nothing else; where the repository has none, the
packaged file is copied first) and the words of the commit. Whether a version is better is promotion.py's matter, and
who accepts is the person's.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from datetime import datetime

import tomlkit
from tomlkit.exceptions import TOMLKitError

from pantheon import adapters, config, prs, redact
from pantheon.config import Config
from pantheon.errors import ConfigError, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.records import Agent, PullItem, PullRequest, PullState
from pantheon.survey import EXECUTABLE, FILE, read_config

BASE = "none"  # the name of no adapter
_WIDTH = 100  # characters of a line of a commit's message


def named(adapter: str | None) -> str:
    """An adapter as people read it."""
    return f"adapter {adapter.removeprefix('sha256:')[:12]}" if adapter else "no adapter"


def agent_of(found: Config, name: str) -> Agent:
    """The agent in force. Raises ConfigError where there is none of that name."""
    if name not in found.agents:
        known = ", ".join(sorted(found.agents))
        raise ConfigError("no such agent", name, f"known: {known}", hint="git pantheon agents")
    return found.agents[name]


def successor(agent: Agent, adapter: str | None) -> Agent:
    """The agent's next version, with this adapter: a version is never given twice, so that no record confuses them."""
    runtime = agent.runtime.model_copy(update={"adapter": adapter})
    return agent.model_copy(update={"version": agent.version + 1, "runtime": runtime})


def offer(
    repo: Repo, name: str, adapter: str | None, *, title: str, why: Sequence[str], when: datetime, signer: Signer | None
) -> PullRequest:
    """Offer an agent with this adapter as a PR onto the branch of HEAD; an older offer of the same agent is closed.
    `title` goes after the version, `why` is what a person should know. Raises ConfigError where the flows of HEAD do
    not allow another version, RepositoryError, and EngineError for an adapter that may not be loaded."""
    head = repo.head()
    if head.branch is None:
        raise RepositoryError(
            "cannot offer it", "HEAD", "it is detached; PRs need a branch to go to", "git switch main"
        )
    found = read_config(repo, head.commit, repo.entries(head.commit))
    agent = agent_of(found, name)
    if agent.runtime.adapter == adapter:
        why_not = f"it is in force already, as {agent.label}"
        raise RepositoryError("nothing to change", f"{name} with {named(adapter)}", why_not, "git pantheon agents")
    if adapter is not None:
        adapters.verified(repo, name, adapter)
    after = successor(agent, adapter)
    title = f"{after.label}: {title}"
    tree = repo.write_tree(repo.tree_of(head.commit), _edits(repo, head.commit, agent, after))
    message = redact.scrub_text(_message(after, title, why))
    commit = repo.commit(tree, [head.commit], message, when, signer)
    if read_config(repo, commit, repo.entries(commit)).agents != {**found.agents, name: after}:
        raise ConfigError(
            "cannot change", _path(name), "its version and its adapter are not what the file says they are"
        )
    older = [pull for pull in prs.load_all(repo) if pull.promotes and pull.items[0].target == _path(name)]
    item = PullItem(item=after.label, run="", target=_path(name), commit=commit, summary=title)
    pull = prs.open_pull(
        repo,
        task="",
        slug=f"agents-{name}",
        title=title,
        night="",
        onto=head.branch,
        base=head.commit,
        tip=commit,
        items=(item,),
        when=when,
        signer=signer,
        text="\n".join(why),
    )
    for one in older:
        if one.state is PullState.OPEN:
            gone = one.model_copy(update={"state": PullState.SUPERSEDED, "reason": f"PR {pull.id} takes its place"})
            prs.update(repo, gone, "supersede", when, signer)
    return pull


def roll_back(repo: Repo, name: str, to: str | None, *, when: datetime, signer: Signer | None) -> PullRequest:
    """Offer the adapter that was in force before the present one; or `to`: one by its digest or the beginning of it, or
    `none` for the model without one. Raises RepositoryError, and what `offer` does."""
    head = repo.head().commit
    agent = agent_of(read_config(repo, head, repo.entries(head)), name)
    current = agent.runtime.adapter
    if to is not None:
        target = None if to == BASE else find(repo, name, to)
    elif current is None:
        hint = f"git pantheon agents show {name}"
        raise RepositoryError("nothing to roll back", agent.label, "it has no adapter", hint)
    else:
        target = adapters.card(repo, name, current).parent
    why = [f"back from {named(current)}, which {agent.label} has, by your word"]
    return offer(
        repo,
        name,
        target,
        title=f"back to {named(target) if target else 'the base model'}",
        why=why,
        when=when,
        signer=signer,
    )


def find(repo: Repo, name: str, text: str) -> str:
    """The digest of the agent's adapter that is meant by it, or by its beginning. Raises RepositoryError."""
    wanted = text.removeprefix("sha256:")
    known = [card.adapter for card in adapters.cards(repo, name)]
    hits = [digest for digest in known if wanted and digest.removeprefix("sha256:").startswith(wanted)]
    if len(hits) != 1:
        why = f"{len(hits)} of its {len(known)} adapters have a digest that begins so"
        raise RepositoryError("no such adapter", f"{name} {text[:80]}", why, f"git pantheon agents show {name}")
    return hits[0]


# --- the edit --------------------------------------------------------------------------------------------------------


def _path(name: str) -> str:
    return f"{config.DIRECTORY}/agents/{name}.toml"


def _edits(repo: Repo, commit: str, agent: Agent, after: Agent) -> dict[str, tuple[int, str]]:
    """The files that change: the agent's, and where it is packaged a copy of it and of its prompt, which the adapter
    was trained with."""
    entries = repo.entries(commit)
    path = _path(agent.name)
    files: dict[str, tuple[int, bytes]] = {}
    if path in entries:
        entry = entries[path]
        if entry.mode not in (FILE, EXECUTABLE):
            raise ConfigError("cannot change", path, "it is no regular file")
        mode, data = entry.mode, repo.read_blob(entry.oid)
    else:
        mode, data = FILE, config.packaged("agents", f"{agent.name}.toml").read_bytes()
        prompt = f"prompts/{agent.prompt}"
        if agent.prompt and f"{config.DIRECTORY}/{prompt}" not in entries:
            files[f"{config.DIRECTORY}/{prompt}"] = (FILE, config.packaged(prompt).read_bytes())
    files[path] = (mode, _changed(data, path, after))
    return {name: (mode, repo.write_blob(data)) for name, (mode, data) in files.items()}


def _changed(data: bytes, path: str, after: Agent) -> bytes:
    """An agent's file with this version and adapter, everything else in it as it was."""
    try:
        document = tomlkit.parse(data)
        table = document["agent"]
        table["version"] = after.version
        runtime = table["runtime"]
        if after.runtime.adapter is not None:
            runtime["adapter"] = after.runtime.adapter
        elif "adapter" in runtime:
            del runtime["adapter"]
    except (TOMLKitError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ConfigError("cannot change", path, str(error)) from error
    return tomlkit.dumps(document).encode()


def _message(after: Agent, title: str, why: Sequence[str]) -> str:
    body = "\n".join(textwrap.fill(line, _WIDTH) for line in why)
    trailers = f"{prs.PROMOTES}: {after.label}\nPantheon-Adapter: {after.runtime.adapter or BASE}\n"
    return f"agents: {title}\n\n{body}\n\n{trailers}"
