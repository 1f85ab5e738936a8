"""What the capacity model costs beside its anchor: reading the reports that it is made from.

    python bench/capacity.py [--nights 10] [--runs 300] [--rounds 7]

Made-up nights with the metrics of five nodes per run. Interleaved rounds in one run; the least of each, since
everything else on the machine only adds. Prints a table.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pantheon import capacity, measured
from pantheon.records import CheckResult, Item, Night, NightReport, NodeMetrics, Outcome, Run

NODES = ("frontmatter", "rename", "validate", "review-a", "review-b")


def night(number: int, runs: int) -> NightReport:
    """A night of 40 in flight with 12 s of the engine's slots per item."""
    chance, began = random.Random(number), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
    name = f"{began:%Y-%m-%d}-1"
    ran = []
    for n in range(runs):
        metrics = {}
        for node in NODES:
            busy, met = chance.uniform(1, 4), chance.uniform(4, 30)
            metrics[node] = NodeMetrics(
                seconds=busy + 1, decode_s=busy, engine_s=busy / met, tool_s=1, model_calls=2, completion_tokens=50
            )
        ran.append(
            Run(
                id=f"{n:032x}", night=name, base="0" * 40, metrics=metrics, seconds=chance.uniform(15, 25),
                item=Item(id=f"{n:016x}", task="t", flow="docops", target=f"docs/{n}.md", blob="1" * 40, findings=()),
                outcome=Outcome.ACCEPTED if chance.random() < 0.6 else Outcome.FAILED,
                checks=(CheckResult(name="links", passed=True, seconds=0.5),),
                agents=tuple(f"{node}@1" for node in NODES), node_agents={node: f"{node}@1" for node in NODES},
            )
        )  # fmt: skip
    frozen = Night(
        id=name, started_at=began, base="0" * 40, branch="main", budget_s=3600, window=40, engine="vllm", model="m",
        items=runs,
    )  # fmt: skip
    wall = runs * 0.6
    return NightReport(
        night=frozen,
        finished_at=began + timedelta(seconds=wall),
        ended="finished",
        runs=tuple(ran),
        left=0,
        wall_s=wall,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=10)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    reports = [night(n, options.runs) for n in range(options.nights)]
    stored = [report.model_dump_json() for report in reports]
    found = measured.measure(reports, check_slots=2)
    queue = {"docops": options.runs}
    jobs: dict[str, Callable[[], object]] = {
        "parse the reports": lambda: [NightReport.model_validate_json(text) for text in stored],
        "measure": lambda: measured.measure(reports, check_slots=2),
        "forecast": lambda: capacity.forecast(queue, 30, 21_600, found, 40),
        "one what-if": lambda: capacity.what_if("twice", queue, 30, 21_600, found, window=80, slots=64),
    }
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(options.rounds):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            times[name].append(time.perf_counter() - started)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{options.nights} nights of {options.runs} runs, {sum(map(len, stored)) / 1e6:.1f} MB\n")
    print("| what | time | beside parsing |\n| --- | --- | --- |")
    anchor = min(times["parse the reports"])
    for name, taken in times.items():
        print(f"| {name} | {min(taken) * 1000:.1f} ms | {min(taken) / anchor:.2f} |")


if __name__ == "__main__":
    main()
