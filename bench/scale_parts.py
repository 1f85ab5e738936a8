"""The parts of a night that bench/scale.py measures, each in a process of its own. Prints one line of JSON: wall and
processor seconds, the peak memory in bytes, and a word where there is one.

    python bench/scale_parts.py {freeze|note|load} REPOSITORY
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pantheon import artifacts, desk, nights
from pantheon.git import Repo
from pantheon.survey import survey

NOTES = 20


def used() -> float:
    return sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in (0, -1))


def peak() -> int:
    """Bytes. Not what getrusage says: that begins with what our parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def freeze(repo: Repo) -> str:
    """Everything that happens before the first item runs; the night's ref is taken away again."""
    found = survey(repo, repo.head().commit)
    with nights.uncollected():
        planned = desk.make_plan(repo, found)
    frozen = nights.freeze(
        repo,
        found,
        planned,
        budget_s=3600,
        engine="scripted",
        model="scripted",
        window=24,
        now=desk.now(),
        signer=desk.signer(repo),
    )
    repo.move_ref(nights.NIGHTS + frozen.night.id, None, frozen.ref_at, "bench")
    return f"{len(frozen.items)} items"


def note(repo: Repo) -> str:
    """One run's artifacts noted, NOTES times over."""
    for _ in range(NOTES):
        commit = hashlib.sha1(os.urandom(8)).hexdigest()
        repo.append_notes(artifacts.NOTES, {commit: ['{"a": 1}']}, "one\n", desk.now(), None)
    return ""


def load(repo: Repo) -> str:
    """The last night's report read again."""
    return f"{len(nights.load_report(repo).runs)} runs"


PARTS: dict[str, tuple[Callable[[Repo], str], int]] = {"freeze": (freeze, 1), "note": (note, NOTES), "load": (load, 1)}


def main() -> int:
    do, times = PARTS[sys.argv[1]]
    repo = Repo.discover(Path(sys.argv[2]))
    started, cpu = time.perf_counter(), used()
    said = do(repo)
    rss = peak()
    wall, cpu = (time.perf_counter() - started) / times, (used() - cpu) / times
    print(json.dumps({"wall": wall, "cpu": cpu, "rss": rss, "said": said}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
