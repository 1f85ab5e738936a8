"""Adapters on disk and their cards in git: content-addressed, and verified by their digest before anything loads them.

Owns `pantheon/adapters/<agent>/<sha256>/` below the common git dir (safetensors and their configuration, nothing that
runs) and `refs/pantheon/adapters/<agent>`, a line of commits whose tree holds one card per adapter. Trains nothing and
decides nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from pydantic import ValidationError

from pantheon.errors import EngineError, RepositoryError
from pantheon.git import Repo, Signer
from pantheon.lessons import Card
from pantheon.records import pretty

CARDS = "refs/pantheon/adapters/"
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
FILES = (CONFIG, WEIGHTS)
MAX_CONFIG = 1 << 20
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,59}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def digest_of(directory: Path) -> str:
    """The digest of an adapter: sha256 over the names and bytes of its two files. Raises EngineError when one is
    missing or is no regular file."""
    whole = hashlib.sha256()
    for name in FILES:
        path = directory / name
        try:
            if path.is_symlink() or not path.is_file():
                raise EngineError(
                    "cannot use the adapter", str(path), "there is no such regular file", _hint(directory)
                )
            with path.open("rb") as stream:
                own = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise EngineError("cannot use the adapter", str(path), str(error.strerror), _hint(directory)) from error
        whole.update(f"{name}\0{own}\0".encode())
    return f"sha256:{whole.hexdigest()}"


def _hint(directory: Path) -> str:
    return f"git pantheon agents rollback {directory.parent.name}"


def place(repo: Repo, agent: str, digest: str) -> Path:
    """Where an adapter of an agent lies. Raises RepositoryError for a name or a digest that is none."""
    if not _NAME.fullmatch(agent) or not _DIGEST.fullmatch(digest):
        raise RepositoryError("no such adapter", f"{agent[:80]} {digest[:80]}", "it is not a name and a sha256 digest")
    return repo.common_dir / "pantheon" / "adapters" / agent / digest.removeprefix("sha256:")


def verified(repo: Repo, agent: str, digest: str) -> Path:
    """The directory of an adapter whose files have the digest that it is named by. Raises EngineError."""
    directory = place(repo, agent, digest)
    if not directory.is_dir():
        why = f"it is not in {directory.parent}: it was trained in another clone, or deleted"
        raise EngineError("cannot use the adapter", f"{agent} {digest[:19]}", why, _hint(directory))
    found = digest_of(directory)
    if found != digest:
        why = f"its files have the digest {found[:19]}: somebody changed them"
        raise EngineError("cannot use the adapter", f"{agent} {digest[:19]}", why, _hint(directory))
    try:
        shape = json.loads((directory / CONFIG).read_bytes()[:MAX_CONFIG])
        fits = isinstance(shape, dict) and shape.get("peft_type") == "LORA" and not shape.get("auto_mapping")
    except (OSError, ValueError):
        fits = False
    if not fits:
        raise EngineError("cannot use the adapter", str(directory / CONFIG), "it is not a LoRA's", _hint(directory))
    return directory


def keep(repo: Repo, agent: str, made: Path) -> tuple[str, Path]:
    """Copy the two files of a new adapter to its place: (digest, directory). Complete or not there at all."""
    digest = digest_of(made)
    target = place(repo, agent, digest)
    if target.is_dir() and digest_of(target) == digest:
        return digest, target
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
    try:
        for name in FILES:
            shutil.copyfile(made / name, partial / name)
            with (partial / name).open("rb") as stream:
                os.fsync(stream.fileno())
        if target.exists():
            shutil.rmtree(target)  # of our own, and damaged
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return digest, target


# --- cards -----------------------------------------------------------------------------------------------------------


def _file(digest: str) -> str:
    return f"{digest.removeprefix('sha256:')}.json"


def cards(repo: Repo, agent: str) -> list[Card]:
    """The cards of an agent, oldest first; what a later version wrote is left out."""
    at = repo.ref(CARDS + agent)
    found: list[Card] = []
    for path, entry in repo.entries(at).items() if at else ():
        if path.endswith(".json"):
            try:
                found.append(Card.model_validate_json(repo.read_blob(entry.oid)))
            except ValidationError:
                continue
    return sorted(found, key=lambda card: (card.created_at, card.adapter))


def card(repo: Repo, agent: str, digest: str) -> Card:
    """The card of one adapter. Raises RepositoryError."""
    for one in cards(repo, agent):
        if one.adapter == digest:
            return one
    raise RepositoryError("no such adapter", f"{agent} {digest[:19]}", "it has no card", f"git pantheon agents {agent}")


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
