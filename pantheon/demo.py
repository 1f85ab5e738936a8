"""`git pantheon demo`: builds a small repository from the notes the project ships and walks a user's first night in it.

Ring 4: types the same commands a user would, in the same order, and shows each of them. Everything it makes lies in the
directory it names; it never touches another repository.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime
from itertools import groupby
from pathlib import Path

from pantheon import children, desk, session
from pantheon.errors import PantheonError
from pantheon.git import Repo
from pantheon.places import Places
from pantheon.process import Limits, base_env
from pantheon.process import run as run_process

TASK = "docs/tasks/normalise-the-notes.md"
LIMITS = Limits(wall_s=120, cpu_s=None, memory_bytes=None, processes=None, file_bytes=None)


def content() -> Path:
    """The shipped notes: beside the package in a clone, inside it in a wheel."""
    here = Path(__file__).resolve().parent
    for place in (here.parent / "demo", here / "demo_notes"):
        if (place / "dates.tsv").is_file():
            return place
    raise PantheonError(
        "cannot find the demo's notes", str(here.parent / "demo"), "the installation is incomplete", "./install.sh"
    )


def run(
    where: Places, environ: Mapping[str, str], target: Path | None, program: str, *, budget: str, engine: str
) -> int:
    """Build the repository, initialise it, commit a task, run the night, say what to do next."""
    place = _free(where, target)
    build(place)
    print(f"a repository with a small project's notes: {place}")
    _typed("git pantheon init")
    desk.init(Repo.discover(place), program, dry_run=False)
    _git(place, program, "add", ".pantheon")
    _git(place, program, "commit", "-q", "-m", "Add Pantheon: agents, flows and rules")
    (place / TASK).parent.mkdir(parents=True, exist_ok=True)
    (place / TASK).write_bytes((content() / "task.md").read_bytes())
    _git(place, program, "add", TASK)
    _git(place, program, "commit", "-q", "-m", "Ask for the notes to be normalised")
    _typed("git pantheon status")
    desk.status(Repo.discover(place), where, as_json=False)
    _typed(f"git pantheon night --now --budget {budget}")
    code = session.night(place, where, environ, budget=budget, engine=engine, quiet=False)
    print(f"\nnow you: cd {shlex.quote(str(place))}")
    print("  git pantheon pr show 1; git pantheon pr diff 1; git pantheon accept 1")
    return code


def _free(where: Places, target: Path | None) -> Path:
    if target is not None:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise PantheonError(
                "cannot build the demo", str(target), "it is there and not empty", "name another directory"
            )
        return target.resolve()
    for number in range(1, 1000):
        place = where.home / ("pantheon-demo" if number == 1 else f"pantheon-demo-{number}")
        if not place.exists():
            return place
    raise PantheonError("cannot build the demo", str(where.home), "there are 999 of them", "remove the old ones")


def build(place: Path) -> None:
    """A git repository with the demo's notes, committed at their dates."""
    place.mkdir(parents=True, exist_ok=True)
    source = content()
    _quiet(place, "init", "-q", "-b", "main")
    stream = bytearray()
    rows = [line.split("\t") for line in (source / "dates.tsv").read_text("utf-8").splitlines() if line]
    for date, group in groupby(rows, key=lambda row: row[0]):
        paths = [path for _, path in group]
        when = datetime.fromisoformat(date)
        message = f"docs: add {len(paths)} note{'s' if len(paths) > 1 else ''}".encode()
        stream += f"commit refs/heads/main\ncommitter Halyard <halyard@example.org> {int(when.timestamp())} ".encode()
        stream += f"{when.strftime('%z') or '+0000'}\ndata {len(message)}\n".encode() + message + b"\n"
        for path in paths:
            data = (source / "notes" / path).read_bytes()
            quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"') + '"'
            stream += f"M 100644 inline {quoted}\ndata {len(data)}\n".encode() + data + b"\n"
    done = run_process(["git", "fast-import", "--quiet"], limits=LIMITS, env=base_env(), cwd=place, stdin=bytes(stream))
    if done.returncode != 0:
        raise PantheonError("cannot build the demo", str(place), done.stderr.decode("utf-8", "replace").strip())
    _quiet(place, "reset", "-q", "--hard", "main")
    if not children.users_own(place, "config", "user.email").stdout.strip():
        _quiet(place, "config", "user.name", "Demo")
        _quiet(place, "config", "user.email", "demo@example.org")


def _quiet(place: Path, *args: str) -> None:
    children.quiet(place, *args)


def _git(place: Path, program: str, *args: str) -> None:
    """The user's own git, hooks included, shown as it would be typed; git-pantheon is on its PATH."""
    _typed(shlex.join(["git", *args]))
    done = children.users_own(place, *args)
    for line in (done.stdout + done.stderr).decode("utf-8", "replace").splitlines():
        print(line)
    if done.returncode != 0:
        raise PantheonError("the demo stopped", shlex.join(["git", *args]), f"it ended with {done.returncode}")


def _typed(line: str) -> None:
    print(f"\n$ {line}", flush=True)
