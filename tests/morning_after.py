"""One night's repository, made once per test run and copied for each test: PR 1 with four items, nothing decided."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import provenance
import pytest
from conftest import git
from provenance import DAYS, NOTES, TASK, play, write_and_commit

from pantheon.engine import ScriptedEngine
from pantheon.git import Repo

TARGETS = sorted(NOTES)
TITLES = {"oven": "Care of the oven", "rope": "Ropes and knots", "tide": "Tide tables", "boat": "Boats in the harbour"}
_BUILT: list[Path] = []


def right_title(prompt: str, schema: dict[str, Any]) -> str | None:
    """What a reviewer who read the note answers when it is asked for the title."""
    asked, properties = prompt.rpartition("<user>")[2], schema.get("properties", {})
    for field, rule in properties.items() if len(properties) == 2 else ():
        for word, title in TITLES.items():
            found = [option for option in rule.get("enum", ()) if title in str(option)]
            if word in asked.lower() and found:
                return json.dumps({"tool": properties["tool"]["const"], field: found[0]})
    return None


def copy(factory: pytest.TempPathFactory) -> Repo:
    """A copy of the repository. Its reviewers found nothing wrong."""
    if not _BUILT:
        place = factory.mktemp("night")
        root = place / "repo"
        root.mkdir()
        with provenance.own_git(place):
            git("init", "-q", "-b", "main", cwd=root)
            write_and_commit(root, {**NOTES, "docs/tasks/tidy.md": TASK, ".gitignore": "*.o\n"}, "first")
            play(Repo.discover(root), place / "work", DAYS[0], ScriptedEngine(right_title))
        _BUILT.append(root)
    target = factory.mktemp("copy") / "repo"
    shutil.copytree(_BUILT[0], target, symlinks=True)
    return Repo.discover(target)


@contextmanager
def served(repo: Repo, *options: str, opened: bool = False, env: Mapping[str, str] | None = None) -> Iterator[str]:
    """The desk as a person starts it; the link that it prints. Ctrl-C ends it, and it says so."""
    argv = [sys.executable, "-m", "pantheon.cli", "desk", *([] if opened else ["--no-open"]), *options]
    with subprocess.Popen(
        argv, cwd=repo.root, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        try:
            assert "http://127.0.0.1:" in line, f"{line}{running.stderr.read() if running.stderr else ''}"
            yield line.rpartition(" ")[2].strip()
        finally:
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (0, ""), err
    assert out.endswith("the desk is closed\n")
