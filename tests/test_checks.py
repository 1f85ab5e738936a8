"""What a check's result tells beside its word: what its process used, and how many tests the change broke and fixed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from conftest import MakeRepo

from pantheon.checks import CheckRoom
from pantheon.git import Repo
from pantheon.records import CheckResult
from pantheon.survey import read_config


def checked(make_repo: MakeRepo, tmp_path: Path, script: str) -> CheckResult:
    words = ["{python}", "-c", script]
    repo = Repo.discover(make_repo({".pantheon/checks.toml": f"[check.count]\nrun = {json.dumps(words)}\n"}))
    commit = repo.head().commit
    room = CheckRoom.open(repo, read_config(repo, commit, repo.entries(commit)), commit, tmp_path / "work")
    (result,), _, _ = asyncio.run(room.run(repo.tree_of(commit), "tree", ["count"], []))
    assert room.cpu_s == pytest.approx(result.cpu_s)
    return result


def test_a_result_holds_what_the_process_used(make_repo: MakeRepo, tmp_path: Path) -> None:
    script = (
        "import time; x = bytearray(64 << 20); end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    )
    result = checked(make_repo, tmp_path, script)
    assert result.passed
    assert 0.3 <= result.cpu_s < 30
    assert result.memory_bytes > 16 << 20
    assert (result.tests_broken, result.tests_fixed) == (0, 0)


@pytest.mark.parametrize(
    ("printed", "counts"),
    [
        ("2 tests fail\ntests: 2 broken, 13 fixed\n", (2, 13)),
        ("tests: 2 broken, 13 fixed", (2, 13)),
        ("tests: 2 broken, 13 fixed\nand more\n", (0, 0)),
        (" tests: 2 broken, 13 fixed\n", (0, 0)),
        ("tests: 2 broken, 13 fixed.\n", (0, 0)),
        ("tests: -2 broken, 13 fixed\n", (0, 0)),
        ("tests: 2 broken, 9999999 fixed\n", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_tests_are_counted_by_the_last_line_alone(
    make_repo: MakeRepo, tmp_path: Path, printed: str, counts: tuple[int, int]
) -> None:
    result = checked(make_repo, tmp_path, f"print({printed!r}, end='')")
    assert (result.tests_broken, result.tests_fixed) == counts
