"""SECURITY.md names tests: they exist, every file of attacks is named, and there are at least forty attacks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "SECURITY.md").read_text("utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def functions(path: Path) -> list[str]:
    """The test functions of a file."""
    tree = ast.parse(path.read_text("utf-8"))
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


def test_every_test_that_the_page_names_exists() -> None:
    assert len(NAMED) > 20
    missing = [f"{file}::{name}" for file, name in NAMED if not _found(TESTS / file, name)]
    assert missing == []


def _found(path: Path, name: str) -> bool:
    return path.is_file() and any(test.startswith(name) for test in functions(path))


def test_every_file_of_attacks_is_named_on_the_page() -> None:
    files = {f"attacks/{path.name}" for path in (TESTS / "attacks").glob("test_*.py")}
    assert files - {file for file, _ in NAMED} == {"attacks/test_ordinary_user.py"}  # runs all of them once more
    assert "test_ordinary_user.py" in PAGE


def test_there_are_at_least_forty_attacks() -> None:
    assert sum(len(functions(path)) for path in (TESTS / "attacks").glob("test_*.py")) >= 40
