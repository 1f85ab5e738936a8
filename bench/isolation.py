"""What the walls cost: starting a child in each of them, beside the anchors (a bare child, a bare bubblewrap).

    python bench/isolation.py [--rounds 30]

Medians over interleaved rounds, in one run, so that the ratios hold although the machine's speed does not. Prints a
table; fails nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pantheon import egress, enclosure, process, redact
from pantheon.git import Repo
from pantheon.places import places
from pantheon.process import Limits
from pantheon.sandbox import Sandbox

PYTHON = [sys.executable, "-I", "-S", "-c", ""]
INNER = [sys.executable, "-I", "-S", "-c", "import socket, os; socket.socket(fileno=os.dup(0)).sendall(b'h')"]
TEXT = (
    "A line of prose as notes have them, with a link [there](../docs/there.md) and nothing to hide in it.\n" * 10_000
).encode()


def bare(argv: list[str]) -> None:
    subprocess.run(argv, check=True, capture_output=True, env={})


def repository(place: Path) -> Repo:
    for args in (
        ["init", "-q"],
        ["-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", *args], cwd=place, check=True)
    return Repo.discover(place)


def table(repo: Repo) -> dict[str, tuple[str, Callable[[], object]]]:
    """name -> (its anchor, the thing to time)."""
    where = places(os.environ)
    walls = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--proc", "/proc", "--dev", "/dev"]
    ungrouped = Limits(memory_bytes=None, processes=None)
    night = enclosure.night_sandbox(repo, where, None, os.environ)

    def enclosed() -> None:
        process.enclosed(INNER, sandbox=night, order=b"", keep=(), on_ready=lambda: None)

    def probe() -> None:
        with egress.listening(os.environ) as targets:
            egress.attempts(targets, "tool")

    return {
        "a bare child (Python without site)": ("", lambda: bare(PYTHON)),
        "in a bare bubblewrap": ("a bare child (Python without site)", lambda: bare([*walls, *PYTHON])),
        "in a tool's sandbox": (
            "in a bare bubblewrap",
            lambda: process.run(PYTHON, limits=ungrouped, sandbox=Sandbox()),
        ),
        "... with limits": ("in a tool's sandbox", lambda: process.run(PYTHON, limits=Limits(), sandbox=Sandbox())),
        "in the night's enclosure": ("in a bare bubblewrap", enclosed),
        "the probe of one place": ("in a tool's sandbox", probe),
        "the secret scan of 1 MB of prose": ("a bare child (Python without site)", lambda: redact.scrub(TEXT)),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pantheon-bench-") as place:
        rows = table(repository(Path(place)))
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        for number in range(options.rounds + 1):
            for name, (_, thing) in rows.items():
                started = time.perf_counter()
                thing()
                if number:  # the first round warms caches
                    seconds[name].append(time.perf_counter() - started)
    groups = process.groups()
    version = groups.version if groups else "none"
    print(f"{platform.machine()}, {os.cpu_count()} cores, uid {os.geteuid()}, control groups: {version}")
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    print("| what | median | beside |\n| --- | --- | --- |")
    for name, (anchor, _) in rows.items():
        beside = f"{medians[name] / medians[anchor]:.1f} x {anchor}" if anchor else ""
        print(f"| {name} | {1000 * medians[name]:.1f} ms | {beside} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
