"""Where the tests of AVA find it: installed from tests/ava, beside the models."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Read before any test seals the environment.
_DATA = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
PLACE = _DATA / "git-pantheon" / "ava" / "node_modules"


def installed() -> Path:
    """The directory of installed packages; the test is skipped, with the reason, where there is none."""
    if shutil.which("node", path="/usr/local/bin:/usr/bin:/bin") is None:
        pytest.skip("node is not installed for the whole machine, so AVA cannot run in the sandbox")
    if not (PLACE / "ava").is_dir():
        pytest.skip(f"AVA is not installed: cp tests/ava/*.json {PLACE.parent} && npm ci --prefix {PLACE.parent}")
    return PLACE
