"""Git as a child process: the two ways we ever call it.

Owns the arguments and the environment of a git child. `quiet` is ours: no hooks, no monitor, no pager, no optional
locks, no prompt, no garbage collection. `users_own` is the merge a person asked for: their configuration, hooks,
filters, signing and identity, and nothing that a hook may have leaked to us.
"""

from __future__ import annotations

import getpass
import os
import re
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from pantheon.errors import RepositoryError
from pantheon.process import Completed, Limits, foreground, run

_QUIET = (
    *("--no-pager", "--no-optional-locks", "-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false"),
    *("-c", "core.pager=cat", "-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "log.showSignature=false"),
    *("-c", "log.showRoot=true", "-c", "color.ui=false", "-c", "core.quotePath=false"),
)
_KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|TMPDIR|TZ|LANG|LANGUAGE|LC_\w+|XDG_\w+|GIT_CONFIG_(GLOBAL|SYSTEM|NOSYSTEM)", re.ASCII
)
_KEPT_FOR_USER = re.compile(
    r"SSH_\w+|GNUPGHOME|GPG_\w+|DISPLAY|WAYLAND_DISPLAY|DBUS_SESSION_BUS_ADDRESS|TERM|SHELL", re.ASCII
)
_KEPT_FOR_REMOTES = re.compile(
    r"GIT_SSH(_COMMAND|_VARIANT)?|GIT_ASKPASS|GIT_SSL_\w+|GIT_PROXY_COMMAND|KRB5\w+|(https?|all|no)_proxy",
    re.ASCII | re.IGNORECASE,
)

_LOG_HEADER = re.compile(rb"\x01[0-9a-f]{40} (\S+)")
_PAGERS = re.compile(r"PAGER|GIT_PAGER|LESS|LESSCHARSET|COLUMNS|NO_COLOR", re.ASCII)


def _limits(wall_s: float) -> Limits:
    return Limits(wall_s=wall_s, cpu_s=None, memory_bytes=None, processes=None, output_bytes=256 << 20, file_bytes=None)


def _environment(pattern: re.Pattern[str]) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if pattern.fullmatch(key)}


def quiet(root: Path, *args: str, check: bool = True, stdin: bytes = b"") -> Completed:
    """One neutralised git child in `root`. With `check`, anything but success is a RepositoryError."""
    env = _environment(_KEPT) | {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "LC_ALL": "C.UTF-8",
    }
    done = run(["git", *_QUIET, *args], limits=_limits(600.0), env=env, cwd=root, stdin=stdin)
    if check and (done.timed_out or done.truncated or done.returncode != 0):
        why = os.fsdecode(done.stderr).strip()
        if done.timed_out or done.truncated:
            why = "no answer in 600 s" if done.timed_out else "it printed more than 256 MiB"
        raise RepositoryError(f"git {args[0]} failed", str(root), why)
    return done


def first_dates(root: Path, commit: str) -> dict[str, datetime]:
    """path -> author date of the oldest commit that added it, for every path ever added before `commit`."""
    log = quiet(
        root,
        *("log", "--diff-filter=A", "--no-renames", "--no-ext-diff", "--name-only", "-z"),
        *("--format=%x01%H %aI", "--end-of-options", commit),
    )
    dates: dict[str, datetime] = {}
    when: datetime | None = None
    fresh = False
    for token in log.stdout.split(b"\0"):
        header = _LOG_HEADER.fullmatch(token.removeprefix(b"\n"))
        if header is not None:
            with suppress(ValueError):  # a broken date in the history: the file keeps its other dates
                when = datetime.fromisoformat(header[1].decode("ascii"))
            fresh = True
        elif token and when is not None:  # newest first: the oldest addition is written last
            dates[os.fsdecode(token.removeprefix(b"\n") if fresh else token)] = when
            fresh = False
    return dates


def identity(root: Path) -> str:
    """Name <email> as the user's git would write it; the login where git has none."""
    done = quiet(root, "var", "GIT_AUTHOR_IDENT", check=False)
    if done.returncode == 0 and done.stdout.strip():
        return os.fsdecode(done.stdout).strip().rsplit(" ", 2)[0]
    with suppress(KeyError, OSError):
        login = getpass.getuser()
        return f"{login} <{login}@localhost>"
    return f"{os.getuid()} <{os.getuid()}@localhost>"


def fsck(root: Path) -> tuple[str, ...]:
    """What `git fsck --strict` complains about; empty when clean."""
    done = quiet(root, "fsck", "--strict", "--no-dangling", "--no-progress", check=False)
    lines = os.fsdecode(done.stdout + done.stderr).splitlines()
    if (done.returncode != 0 or done.timed_out) and not lines:
        lines = [f"git fsck ended with {done.returncode}"]
    return tuple(lines)


def users_own(root: Path, *args: str) -> Completed:
    """The user's own git in their worktree, never with an editor or a prompt; the caller reads how it ended."""
    env = _environment(_KEPT) | _environment(_KEPT_FOR_USER)
    env |= {"GIT_TERMINAL_PROMPT": "0", "GIT_EDITOR": "true", "GIT_MERGE_AUTOEDIT": "no"}
    return run(["git", *args], limits=_limits(1800.0), env=env, cwd=root)


def to_remote(root: Path, *args: str, wall_s: float, publish: bool = False) -> Completed:
    """The user's own git towards one of their remotes: their configuration, keys and proxies, never a prompt. The
    caller reads how it ended. `publish`: our own hook hears that a person wants this pushed."""
    env = _environment(_KEPT) | _environment(_KEPT_FOR_USER) | _environment(_KEPT_FOR_REMOTES)
    env |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C.UTF-8"} | ({"PANTHEON_PUSH": "1"} if publish else {})
    return run(["git", *args], limits=_limits(wall_s), env=env, cwd=root)


def shown(root: Path, *args: str) -> int:
    """The user's own git on their own terminal, pager and all; its exit status."""
    return foreground(
        ["git", *args], env=_environment(_KEPT) | _environment(_KEPT_FOR_USER) | _environment(_PAGERS), cwd=root
    )
