"""Calling a tool: its arguments are checked, and its time is bounded whatever it does."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from pantheon.agent import call_tool
from pantheon.errors import ToolError
from pantheon.records import Record
from pantheon.tools.facts import Facts
from pantheon.tools.tool import Nothing, Tool
from pantheon.tools.workspace import Workspace


class Said(Record):
    text: str


def spin(ws: Workspace, args: Nothing) -> Said:
    while True:
        pass


def backtrack(ws: Workspace, args: Nothing) -> Said:
    re.fullmatch("(a|aa)+b", "a" * 60)
    return Said(text="done")


async def wait(ws: Workspace, args: Nothing) -> Said:
    await asyncio.sleep(60)
    return Said(text="done")


async def answer(ws: Workspace, args: Nothing) -> Said:
    await asyncio.sleep(0)
    return Said(text="done")


def call(run: Callable[[Workspace, Any], Record | Awaitable[Record]], place: Path) -> dict[str, Any]:
    tool = Tool("t", "a tool", Nothing, Said, {}, run, timeout_s=0.3)
    ws = Workspace(place, "a.md", Said(text=""), Facts(), lambda _: None)
    return asyncio.run(call_tool({"t": tool}, ws, "t", {}))


@pytest.mark.parametrize("run", [spin, backtrack, wait], ids=["a loop", "a regular expression", "a wait"])
def test_a_tool_that_does_not_end_is_stopped_in_words(
    run: Callable[[Workspace, Any], Record | Awaitable[Record]], tmp_path: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(ToolError, match=r"its timeout of 0.3 s passed"):
        call(run, tmp_path)
    assert time.monotonic() - started < 30


def test_a_tool_may_wait_for_what_it_does(tmp_path: Path) -> None:
    assert call(answer, tmp_path) == {"text": "done"}
