"""The process that runs a project's tests once and reports what became of each; started by suite.py, a program.

It reads one order (JSON) from standard input, imports pytest before any directory of the project can be imported from,
and writes its report to a place that only the order names, marked with the order's nonce. Needs pytest and the
standard library. Does not judge. Code under test lives in this process and can reach everything in it: what such code
may have done to the report is for suite.py to find out, by runs that must fail.
"""

from __future__ import annotations

import json
import os
import sys
from types import FrameType
from typing import Any

import pytest


class Witness:
    """A pytest plugin: per node id the worst of its phases, and every collection error."""

    def __init__(self, marker: str, tree: str) -> None:
        self.marker, self.tree = marker, os.path.join(tree, "")
        self.outcomes: dict[str, str] = {}
        self.marked: list[str] = []  # ids whose failure carries the marker
        self.errors: dict[str, str] = {}
        self.read: dict[tuple[str, str], None] = {}
        sys.addaudithook(self.see)

    def see(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note a file of the tree that is opened to be read, and the file of the nearest code of the tree."""
        if event != "open" or not isinstance(arguments[0], str) or not isinstance(arguments[1], str | None):
            return
        path = os.path.join(os.getcwd(), arguments[0])
        if not path.startswith(self.tree) or set(arguments[1] or "r") & set("wax+"):
            return
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not frame.f_code.co_filename.startswith(self.tree):
            frame = frame.f_back
        if frame is not None:
            opener = frame.f_code.co_filename.removeprefix(self.tree)
            self.read[os.path.normpath(path).removeprefix(self.tree), opener] = None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        outcome = str(report.outcome)
        if hasattr(report, "wasxfail"):
            outcome = "xfailed" if outcome == "skipped" else "xpassed"
        if report.when != "call" and outcome == "passed":
            self.outcomes.setdefault(report.nodeid, "not called")
            return
        before = self.outcomes.get(report.nodeid)
        if before in (None, "not called", "passed"):
            self.outcomes[report.nodeid] = outcome
        if report.failed and self.marker and self.marker in str(report.longrepr):
            self.marked.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            lines = [line for line in str(report.longrepr).splitlines() if line.strip()]
            said = [line for line in lines if line.startswith("E ")] or lines or ["no reason given"]
            self.errors[report.nodeid] = said[-1].removeprefix("E").strip()[:300]


def main() -> int:
    """Run the order; the exit status is pytest's."""
    order: dict[str, Any] = json.loads(sys.stdin.buffer.read())
    witness = Witness(order["marker"], order["tree"])
    sys.path[:0] = order["import_roots"]
    sys.argv[:] = ["pytest", *order["arguments"]]
    code = int(pytest.main(order["arguments"], plugins=[witness]))
    report = {
        "nonce": order["nonce"],
        "code": code,
        "outcomes": witness.outcomes,
        "marked": witness.marked,
        "errors": witness.errors,
        "read": list(witness.read),
    }
    place = os.open(order["report"], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(place, "w", encoding="utf-8", errors="surrogateescape") as file:
        json.dump(report, file)
    return code


if __name__ == "__main__":
    sys.exit(main())
