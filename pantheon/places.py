"""Where things live outside the repository, by the XDG base directories. Reads nothing by itself: the environment is an
argument. Ring 0, and a tuple, no record: every command begins here, and some must answer before pydantic is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

NAME = "git-pantheon"
TRIES = "tries"  # below pantheon/ of the common git dir: past.py's cache, which uninstall takes away
GLANCE = "glance"  # and glance.py's


class Places(NamedTuple):
    """`data` holds models, `cache` worktrees and compiled kernels (can be deleted), `state` what was trusted and logs,
    `config` the user's own limits, `runtime` sockets (mode 0700). The night writes to `cache` and `logs` only."""

    home: Path
    config: Path
    data: Path
    cache: Path
    state: Path
    session: Path | None  # the user's runtime directory, if there is one

    @property
    def runtime(self) -> Path:
        if self.session is not None:
            return self.session
        import tempfile  # it brings shutil and random, and is seldom needed

        return Path(tempfile.gettempdir())

    @property
    def logs(self) -> Path:
        return self.state / "log"

    @property
    def models(self) -> Path:
        return self.data / "models"


def places(environ: Mapping[str, str]) -> Places:
    """The directories for this user; none of them is made here."""
    home = Path(environ.get("HOME") or Path.home())

    def base(variable: str, default: str) -> Path:
        value = environ.get(variable, "")
        return (Path(value) if value.startswith("/") else home / default) / NAME

    runtime = environ.get("XDG_RUNTIME_DIR", "")
    fits = runtime.startswith("/") and len(runtime) < 60
    return Places(
        home=home,
        config=base("XDG_CONFIG_HOME", ".config"),
        data=base("XDG_DATA_HOME", ".local/share"),
        cache=base("XDG_CACHE_HOME", ".cache"),
        state=base("XDG_STATE_HOME", ".local/state"),
        session=Path(runtime) / NAME if fits else None,
    )
