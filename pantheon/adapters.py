"""Adapters on disk and their cards in git: content-addressed, and verified by their digest before anything loads them.

Owns `pantheon/adapters/<agent>/<sha256>/` below the common git dir (safetensors and their configuration, nothing that
runs) and `refs/pantheon/adapters/<agent>`, a line of commits whose tree holds one card per adapter. Trains nothing and
decides nothing.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from pantheon import attest, children, lora
from pantheon.errors import EngineError, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.lessons import Card, Known
from pantheon.lora import CONFIG, FILES, WEIGHTS
from pantheon.reader import parse_commit
from pantheon.records import Agent, pretty
from pantheon.signers import NAMESPACE, SignatureFault, Trust, check_ssh

CARDS = "refs/pantheon/adapters/"
MOST = 1000  # trainings of one agent
PLACE = "adapters"  # below `pantheon/` in the common git dir
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def place(repo: Repo, agent: str, digest: str) -> Path:
    """Where an adapter of an agent lies. Raises RepositoryError for a name or a digest that is none."""
    if not _NAME.fullmatch(agent) or not _DIGEST.fullmatch(digest):
        raise RepositoryError("no such adapter", f"{agent[:80]} {digest[:80]}", "it is not a name and a sha256 digest")
    return repo.common_dir / "pantheon" / PLACE / agent / digest.removeprefix("sha256:")


def verified(repo: Repo, agent: str, digest: str) -> Path:
    """The directory of an adapter that may be loaded: the one gate. It holds a LoRA's two files, nothing else, and they
    have the digest that the adapter is named by. Raises EngineError."""
    directory = place(repo, agent, digest)
    if not os.path.lexists(directory):
        why = f"it is not in {directory.parent}: it was trained in another clone, or deleted"
        hint = f"git pantheon agents rollback {agent}"
        raise EngineError("cannot use the adapter", f"{agent} {digest[:19]}", why, hint)
    lora.examine(directory, digest)
    return directory


def keep(repo: Repo, agent: str, made: Path) -> tuple[str, Path]:
    """Copy the two files of a new adapter to its place: (digest, directory). Complete or not there at all. What names
    the machine that trained it is left out of its configuration. Raises EngineError for what could not be loaded."""
    parent = place(repo, agent, f"sha256:{'0' * 64}").parent
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".new-", dir=parent))
    try:
        try:
            with lora.opened(made, CONFIG) as config, lora.opened(made, WEIGHTS) as weights:
                (partial / CONFIG).write_bytes(lora.plain(config.read()))
                with (partial / WEIGHTS).open("wb") as copy:
                    shutil.copyfileobj(weights, copy)
        except (OSError, ValueError) as error:
            hint = f"git pantheon train {agent}"
            raise EngineError("cannot keep the adapter", str(made), str(error), hint) from error
        for name in FILES:
            with (partial / name).open("rb") as stream:
                os.fsync(stream.fileno())
        digest = lora.examine(partial).digest
        target = place(repo, agent, digest)
        if not _sound(target, digest):
            shutil.rmtree(target, ignore_errors=True)  # of our own, and damaged
            partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return digest, target


def _sound(directory: Path, digest: str) -> bool:
    try:
        lora.examine(directory, digest)
    except EngineError:
        return False
    return True


# --- cards -----------------------------------------------------------------------------------------------------------


def _file(digest: str) -> str:
    return f"{digest.removeprefix('sha256:')}.json"


def cards(repo: Repo, agent: str) -> list[Card]:
    """The cards of an agent that count here, oldest first; what a later version wrote is left out. Raises
    RepositoryError where the trust root cannot be read."""
    found = trusted_cards(repo, agent, attest.trust_root(repo.common_dir))
    return sorted(found.values(), key=lambda card: (card.created_at, card.adapter))


def listed(repo: Repo, agent: str) -> dict[str, Card]:
    """adapter -> card, of every card that is there, whoever signed it: whose things are not to be deleted."""
    at = repo.ref(CARDS + agent)
    return _read(repo, agent, at) if at else {}


def _read(repo: Repo, agent: str, commit: str) -> dict[str, Card]:
    """adapter -> card, as one commit of an agent's ref has them."""
    found: dict[str, Card] = {}
    for path, entry in repo.entries(commit).items():
        if "/" not in path and path.endswith(".json"):
            try:
                card = Card.model_validate_json(repo.read_blob(entry.oid))
            except ValidationError:
                continue
            if card.agent == agent and path == _file(card.adapter):
                found[card.adapter] = card
    return found


def trusted_cards(repo: Repo, agent: str, trust: Trust) -> dict[str, Card]:
    """adapter -> card, as the latest commit left it whose signature holds now: what a key signed that was revoked since
    counts no more, nor what nobody signed, whoever signed what came after."""
    found: dict[str, Card] = {}
    line = [oid for oid, _, _ in repo.history(CARDS + agent, MOST)]
    for oid, before in zip(line, (*line[1:], None), strict=False):
        try:
            signed = parse_commit(oid, _raw(repo.root, oid))
            check_ssh(signed.signature, signed.payload, NAMESPACE, signed.when, trust)
        except (ValueError, SignatureFault):
            continue
        old = _read(repo, agent, before) if before else {}
        own = {adapter: card for adapter, card in _read(repo, agent, oid).items() if old.get(adapter) != card}
        found = own | found
    return found


@lru_cache(maxsize=1024)
def _raw(root: Path, commit: str) -> bytes:
    """A commit's own bytes, which never change."""
    return children.quiet(root, "cat-file", "commit", commit).stdout


def known(repo: Repo, agents: Iterable[Agent]) -> dict[str, Known]:
    """What is known here of each adapter that one of these agents names: its card, and whether its files may be loaded.
    Raises RepositoryError where the trust root cannot be read."""
    found: dict[str, Known] = {}
    trust: Trust | None = None
    for agent in agents:
        digest = agent.runtime.adapter
        if digest is None:
            continue
        trust = trust or attest.trust_root(repo.common_dir)
        why = ""
        try:
            verified(repo, agent.name, digest)
        except EngineError as error:
            why = f"{error.thing}: {error.why}"
        found[agent.label] = Known(card=trusted_cards(repo, agent.name, trust).get(digest), files=why)
    return found


def card(repo: Repo, agent: str, digest: str) -> Card:
    """The card of one adapter. Raises RepositoryError."""
    for one in cards(repo, agent):
        if one.adapter == digest:
            return one
    raise RepositoryError(
        "no such adapter", f"{agent} {digest[:19]}", "it has no card", f"git pantheon agents show {agent}"
    )


def write_card(
    repo: Repo, card: Card, when: datetime, signer: Signer | None, extra: Mapping[str, bytes] | None = None
) -> str:
    """Add a card, or put a newer one in its place (with its comparison): one signed commit on the agent's ref. `extra`:
    files beside it, such as the datasheet and the trials."""
    name = CARDS + card.agent
    before = repo.ref(name)
    stem = card.adapter.removeprefix("sha256:")
    files = {_file(card.adapter): pretty(card.model_dump(mode="json"))}
    files |= {f"{stem}/{other}": data for other, data in (extra or {}).items()}
    tree = repo.write_tree(
        repo.tree_of(before) if before else None,
        {path: (0o100644, repo.write_blob(data)) for path, data in files.items()},
    )
    what = "compared" if card.comparison else "trained"
    commit = repo.commit(tree, [before] if before else [], f"adapter {card.agent}: {what} {stem[:12]}\n", when, signer)
    repo.move_ref(name, commit, before, f"pantheon: adapter {what}")
    return commit
