"""Bad disks, bad clocks and rude users: each ends in a clear message and a repository that git finds in order."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pantheon.process import require_sandbox

TESTS = Path(__file__).parent


# --- full disks ------------------------------------------------------------------------------------------------------


def on_a_small_disk(place: Path, script: str, *args: str, size: int = 24 << 20) -> str:
    """What a script of the tests prints on a tmpfs of its own: no root is needed for one."""
    place.mkdir()
    argv = [require_sandbox(), "--dev-bind", "/", "/", "--size", str(size), "--tmpfs", str(place)]
    argv += ["--", sys.executable, str(TESTS / script), *args, str(place)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("phase", ["freeze", "item", "run", "notes", "pr", "seal"])
def test_a_full_disk_pauses_the_night_which_goes_on_when_there_is_room(phase: str, tmp_path: Path) -> None:
    found = json.loads(on_a_small_disk(tmp_path / "disk", "full_disk.py", phase))
    assert "no space left" in found["met"].lower()
    assert (found["after"]["fsck"], found["after"]["locks"]) == ([], [])
    unsaid = ["kind='note'", "kind='statement'"] if phase == "notes" else []  # a run's notes come after its ref
    assert [fault.split()[0] for fault in found["after"]["faults"]] == unsaid
    assert (found["resumed"] is None) == (phase == "freeze"), "what was frozen goes on, and nothing else is there"
    assert {outcome for _, outcome, _ in found["runs"]} == {"accepted"}, found["runs"]
    assert len(found["runs"]) == found["items"] == 2
    assert (found["prs"], found["fsck"], found["faults"]) == ([1], [], [])
    assert (found["worktrees"], found["status"]) == (1, "")
