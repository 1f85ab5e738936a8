"""What learning leaves on this disk: how much it is, and which of it nobody needs any more.

Owns no format: datasets, adapters and trainings are whole directories here, below `pantheon/` in the common git dir,
and merged models lie in the cache. It deletes what a training left and no card, no agent and no person asks for.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from pantheon import adapters
from pantheon.git import Repo
from pantheon.records import Record

DATASETS, ADAPTERS = "datasets", adapters.PLACE
TRAININGS = ("training", "trained")  # checkpoints, and what was not kept yet
PLACES = (DATASETS, ADAPTERS, *TRAININGS)  # below `pantheon/` in the common git dir
MERGED = "merged"  # below the cache: each can be made again
PARTIAL_S = 3600.0  # what was begun so long ago and has no name yet, a kill left


class Taken(Record):
    """Bytes on disk, and how many directories hold them."""

    what: str
    where: Path
    bytes: int
    count: int


def taken(repo: Repo, cache: Path) -> tuple[Taken, ...]:
    """What learning takes, in the order in which a person might want it back."""
    state = repo.common_dir / "pantheon"
    return (
        _taken("merged models", cache / MERGED, 1),
        *(_taken("trainings", state / name, 1) for name in TRAININGS),
        _taken("datasets", state / DATASETS, 2),
        _taken("adapters", state / ADAPTERS, 2),
    )


def _taken(what: str, where: Path, depth: int) -> Taken:
    count = sum(1 for path in where.glob("/".join("*" * depth)) if path.is_dir() and not path.name.startswith("."))
    return Taken(what=what, where=where, bytes=held(where), count=count)


def held(directory: Path) -> int:
    """Bytes of the regular files below a directory; links are not followed."""
    whole = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                info = os.lstat(os.path.join(folder, name))
            except OSError:
                continue
            whole += info.st_blocks * 512
    return whole


def sweep(repo: Repo, agent: str, in_force: Collection[str], now: float | None = None) -> int:
    """Delete of one agent's what nobody asks for any more, and say how many bytes that were: datasets that no card
    names, but for the newest, which a training may go on with; adapters without a card that no agent names
    (`in_force`, digests); what a kill left half made. Never while a training runs. `now`: seconds since the epoch."""
    state, at = repo.common_dir / "pantheon", time.time() if now is None else now
    cards = adapters.listed(repo, agent)
    named = {card.dataset.digest for card in cards.values()}
    datasets = sorted(_directories(state / DATASETS / agent), key=lambda path: (path.stat().st_mtime, path.name))
    gone = [path for path in datasets[:-1] if path.name not in named]
    wanted = {digest.removeprefix("sha256:") for digest in (*cards, *in_force)}
    gone += [path for path in _directories(state / ADAPTERS / agent) if path.name not in wanted]
    for place in (DATASETS, ADAPTERS):
        gone += [path for path in _partials(state / place / agent) if at - path.stat().st_mtime > PARTIAL_S]
    freed = sum(map(held, gone))
    for path in gone:
        shutil.rmtree(path, ignore_errors=True)
    return freed


def _directories(place: Path) -> Iterator[Path]:
    """Finished directories; a link is none."""
    yield from (path for path in _entries(place) if not path.name.startswith("."))


def _partials(place: Path) -> Iterator[Path]:
    yield from (path for path in _entries(place) if path.name.startswith(".new-"))


def _entries(place: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(place) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def shown(count: int) -> str:
    """Bytes as a person reads them."""
    if count >= 1 << 30:
        return f"{count / (1 << 30):.1f} GiB"
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{-(-count >> 10)} KiB"
