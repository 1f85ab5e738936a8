"""What `git pantheon lint` costs for a thousand files, beside its anchors (a bare Python, and its own start on none).

    python bench/lint.py [--files 1000] [--rounds 5]

Interleaved rounds in one run; the least of each, since everything else on the machine only adds. Prints a table.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-{number:012}"
title: "Normalise the notes of part {number}"
slug: "normalise-{number}"
status: "ready"
priority: "P2"
labels: ["docops"]
pantheon:
  flow: docops
  scope: ["docs/part-{number}/**/*.md", "spec/*.md"]
  exclude: ["docs/inbox/**"]
  max_diff_lines: 200
  acceptance:
    - run: "frontmatter"
    - run: "links"
---
Why, and anything a reviewer should know.
"""


def seconds(argv: list[str], place: Path) -> tuple[float, float]:
    """Wall and processor time of one child."""
    before, started = os.times(), time.monotonic()
    subprocess.run(argv, cwd=place, check=True, capture_output=True)
    wall, after = time.monotonic() - started, os.times()
    return wall, after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        empty, full = Path(scratch, "empty"), Path(scratch, "full")
        for place in (empty, full):
            subprocess.run(["git", "init", "-q", str(place)], check=True)
        (full / "tasks").mkdir()
        for number in range(options.files):
            (full / f"tasks/{number}.md").write_text(TASK.format(number=number))
        lint = [sys.executable, "-m", "pantheon.cli", "lint"]
        rows = {
            "a bare Python": ([sys.executable, "-I", "-S", "-c", ""], empty),
            "lint, no files": (lint, empty),
            f"lint, {options.files:,} files": (lint, full),
        }
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
        for _ in range(options.rounds):
            for name, (argv, place) in rows.items():
                times[name].append(seconds(argv, place))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | wall | processor | beside a bare Python |\n| --- | --- | --- | --- |")
    anchor = min(times["a bare Python"])[0]
    for name, found in times.items():
        wall, used = min(found)[0], min(cpu for _, cpu in found)
        print(f"| {name} | {wall * 1000:.0f} ms | {used * 1000:.0f} ms | {wall / anchor:.0f} x |")


if __name__ == "__main__":
    main()
