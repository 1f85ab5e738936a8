"""The proof that hooks fire, for `doctor`: git is made to run the ones that are installed, and a commit is made.

Two things are proved. Here, each hook that git runs leads to our stub: git itself fires it, told by the environment to
skip every hook of the user's and to do nothing but ring and answer. And in a repository made for it and taken away
again, a commit rings the doorbell, and the stubs ask the program, whose no stops a commit. Hooks of other tools are
never run: where they stand in front of ours, they are read.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from pantheon import children, hooks, stubs
from pantheon.errors import RepositoryError
from pantheon.git import Repo
from pantheon.process import Completed, Limits, base_env, run
from pantheon.stubs import NAMES, look

FIRES = "PANTHEON_FIRES"  # in a stub's environment: answer, and do nothing else
RUNS_HOOKS = (2, 36)  # the first git that has `git hook run`
TASK = "docs/tasks/trial.md"
_LIMITS = Limits(wall_s=60.0)


def fire(repo: Repo, version: stubs.Version | None = None) -> str:
    """What fired. Raises RepositoryError with the name of each hook that did not, and why."""
    journal = hooks.read_journal(repo)
    if journal is None:
        return "none here: git pantheon init installs them"
    common = repo.common_dir.resolve()
    placed = {Path(target).name: common / target for target in journal.hooks}
    version = version or hooks.git_version(repo)
    faults = {name: why for name in NAMES if (why := _fault(repo, name, placed.get(name), version))}
    if faults:
        told = "; ".join(f"{name}: {why}" for name, why in faults.items())
        raise RepositoryError("hooks do not fire", ", ".join(faults), told, "git pantheon init")
    _trial({name: placed[name] for name in NAMES})
    return f"{len(NAMES)} fire here; a commit in a trial repository rang, and a task that cannot be used was refused"


def _fault(repo: Repo, name: str, path: Path | None, version: stubs.Version) -> str:
    """Why a hook does not lead to ours, or ours does not answer; "" when it fires."""
    if path is None:
        return "it was never installed"
    stub = stubs.beside(path, stubs.LEGACY) if _is_ours(stubs.beside(path, stubs.LEGACY)) else path
    if not _is_ours(stub):
        return f"{path} is not ours any more" if look(path) else f"{path} is gone"
    bell = hooks.doorbell(repo.common_dir)
    before = _rung(bell)
    argv, why = _way(repo, name, path, stub, version)
    if why:
        return why
    done = _run(repo, argv, {FIRES: "1"})
    said = os.fsdecode(done.stdout + done.stderr).strip()
    if f"pantheon: {name} fires" not in said:
        return f"{stub} does not answer: {said[:200] or f'it ended with {done.returncode}'}"
    if name.startswith("post-") and (_rung(bell) == before or bell.read_text("utf-8") != f"{name}\n"):
        return f"it does not ring: {bell} is as it was"
    return ""


def _way(repo: Repo, name: str, path: Path, stub: Path, version: stubs.Version) -> tuple[list[str], str]:
    """The command that has a hook fired and runs nothing of the user's; or why git would never come to it."""
    scope, folder = hooks.in_force(repo)
    front = folder / name
    if version >= stubs.IN_CONFIGURATION and (named := hooks.configured(repo, name)):
        return ["sh", "-c", f'{named} "$@"', named], ""
    if stub != path:
        runs = stubs.tool_of(look(front)) == "pre-commit" and os.access(front, os.X_OK) and front == path
        return [str(stub)], "" if runs else f"it lies at {stub}, and nothing runs it"
    if front == path:
        return (["git", "hook", "run", name] if version >= RUNS_HOOKS else [str(path)]), ""
    if any(_calls_ours(place) for place in (front, folder.parent / name)):
        return [str(path)], ""
    where = f"core.hooksPath, {scope} configuration" if scope else "it is a link"
    return (
        [],
        f"hooks run from {folder} ({where}), and {name} there does not call ours; add this line: {stubs.ONE_LINE}",
    )


def _is_ours(path: Path) -> bool:
    there = look(path)
    return there is not None and there.kind == "file" and stubs.MARK in there.content


def _calls_ours(path: Path) -> bool:
    """Whether a hook of another tool's has the line that calls ours."""
    try:
        return stubs.CALLS_OURS in path.read_bytes()
    except OSError:
        return False


def _rung(bell: Path) -> tuple[int, int]:
    try:
        info = bell.stat()
    except OSError:
        return 0, 0
    return info.st_ino, info.st_mtime_ns


def _run(repo: Repo, argv: list[str], more: Mapping[str, str]) -> Completed:
    names = ("HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_CONFIG_NOSYSTEM")
    env = base_env() | {name: os.environ[name] for name in names if name in os.environ}
    return run(argv, limits=_LIMITS, cwd=repo.root, env=env | dict(more))


# --- a trial ---------------------------------------------------------------------------------------------------------

_TASK = """---
uuid: "0b8f6c1e-5d3a-4c83-9a55-6d1f0a3c2b47"
title: "Trial"
slug: "trial"
status: "draft"
pantheon:
  flow: docops
  scope: ["docs/*.md"]
---
"""


def _trial(placed: Mapping[str, Path]) -> None:
    """A commit in a repository of its own, with the stubs as they lie here. On the same disk: one that runs no programs
    runs no hooks."""
    state = next(iter(placed.values())).parent
    with tempfile.TemporaryDirectory(prefix="pantheon-trial-", dir=state) as name:
        root = Path(name)
        children.quiet(root, "init", "-q", str(root))
        (root / ".git" / hooks.STATE).mkdir(exist_ok=True)
        (root / ".git" / hooks.STATE / hooks.JOURNAL).touch()
        folder = root / ".git" / "hooks"
        folder.mkdir(exist_ok=True)
        for hook, path in placed.items():
            stub = stubs.beside(path, stubs.LEGACY) if not _is_ours(path) else path
            (folder / hook).write_bytes(stub.read_bytes())
            (folder / hook).chmod(0o755)
        done = _commit(root, folder, _TASK)
        said = os.fsdecode(done.stdout + done.stderr).strip()
        rung = root / ".git" / hooks.STATE / hooks.DOORBELL
        if done.returncode != 0 or "skipped" in said:
            raise RepositoryError("hooks do not fire", "pre-commit, post-commit", said[-300:], "git pantheon init")
        if not rung.is_file() or rung.read_text("utf-8") != "post-commit\n":
            raise RepositoryError("hooks do not fire", "post-commit", "a commit did not ring", "git pantheon init")
        refused = _commit(root, folder, "---\nuuid: 1\nuuid: 2\n---\n")
        if refused.returncode == 0:
            why = "a task file that cannot be used was let through"
            raise RepositoryError("hooks do not fire", "pre-commit", why, "git pantheon init")


def _commit(root: Path, folder: Path, text: str) -> Completed:
    path = root / TASK
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    children.quiet(root, "add", TASK)
    mine = ("user.name=Pantheon", "user.email=pantheon@localhost", "commit.gpgSign=false", f"core.hooksPath={folder}")
    settings = [word for one in mine for word in ("-c", one)]
    return children.quiet(root, *settings, "commit", "-q", "-m", "trial", check=False)
