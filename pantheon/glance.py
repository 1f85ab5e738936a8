"""What `status` and `pr list` said last, said again while nothing that they read has changed: a cache of answers.

Ring 4, and only the standard library: a person who asks what needs them waits for Python itself and little else.
Owns `pantheon/glance/` below the common git dir, which can be deleted at any time. An answer is kept with what it was
made from: HEAD, every ref, packed or loose, our own directory in the git dir, the user's settings and trust, the
program, the terminal. Anything of these that is another now, or was touched so lately that another change might not
show, and nothing is said: the command runs as if there were no cache. What objects hold is fixed by the refs that name
them; that an object went bad on the disk shows when anything else changes, when the answer is too old, and in `verify`.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, cast

from pantheon import __version__
from pantheon.places import GLANCE, TRIES, Places

LOOKS = {
    (): "status",
    ("status",): "status",
    ("status", "--json"): "status-json",
    ("pr",): "pr",
    ("pr", "list"): "pr",
    ("pr", "--all"): "pr-all",
    ("pr", "list", "--all"): "pr-all",
    ("pr", "--json"): "pr-json",
    ("pr", "list", "--json"): "pr-json",
    ("pr", "--all", "--json"): "pr-all-json",
}
RACY_S = 2.0  # what changed within this time before it was read may change again without a trace: FAT counts so
LIFE_S = 12 * 3600.0  # how long an answer holds at most
UNDER_WAY, PID = "under-way", "daemon.pid"  # review.py's and roster.py's, below pantheon/ in the git dir
_PASSING = frozenset({GLANCE, TRIES, PID, "doorbell"})  # they change, and no answer with them
_TERMINAL = re.compile(r"TERM|COLORTERM|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|TTY_\w+|JUPYTER\w*|LANG|LC_\w+|PYTHON\w+|TZ")
_DAEMON = {False: re.compile(r"^daemon: .*$", re.M), True: re.compile(r'^ "daemon": .*,$', re.M)}
Stat = tuple[int, int, int] | None  # mtime in ns, size, inode


class Glance:
    """One such command in one repository."""

    def __init__(
        self, name: str, dirs: tuple[Path, Path], where: Places, environ: Mapping[str, str], clock: Callable[[], float]
    ) -> None:
        """Use `of`. `dirs`: the git dir, and the common one."""
        self.name, self.where, self.clock = name, where, clock
        self.git_dir, self.common = dirs
        self.watched = os.path.lexists(self.common / "pantheon" / PID)
        self._environ = environ
        self._place = self.common / "pantheon" / GLANCE / name
        self._until = 0.0

    def again(self, daemon: Callable[[Path], str | None]) -> str | None:
        """The answer of before, if it is that of now. `daemon`: what the user's daemon says of this repository, the
        one line that no file tells."""
        try:
            if self._place.stat().st_uid != os.geteuid():
                return None
            text = self._place.read_text(encoding="utf-8", errors="surrogatepass")
        except (OSError, ValueError):
            return None
        head, _, rest = text.partition("\n")
        seen, _, answer = rest.partition("\n")
        made, _, until = head.partition(" ")
        try:
            if not float(made) <= self.clock() < float(until) or seen != self._seen()[0]:
                return None
        except (OSError, ValueError):
            return None
        return self._told(answer, daemon) if self.watched and self.name.startswith("status") else answer

    def _told(self, answer: str, daemon: Callable[[Path], str | None]) -> str | None:
        as_json, said = self.name.endswith("-json"), daemon(self.common)
        before = _DAEMON[as_json].search(answer)
        if said is None:
            return answer if before is None or "null" in before[0] else None
        if before is None or not (said.isascii() and said.isprintable()) or '"' in said or "\\" in said:
            return None
        line = f' "daemon": "{said}",' if as_json else f"daemon: {said}"
        return answer[: before.start()] + line + answer[before.end() :]

    def until(self, moment: float) -> None:
        """From this time on the answer is another one."""
        self._until = min(self._until, moment)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep what is printed meanwhile, unless what it was made from changed beside it."""
        begun = self.clock()
        self._until = begun + LIFE_S
        seen, newest = self._looked()
        heard = _Heard(sys.stdout)
        with contextlib.redirect_stdout(cast(TextIO, heard)):
            yield
        if seen and newest < begun - RACY_S and seen == self._looked()[0]:
            self._write(f"{begun} {self._until}\n{seen}\n{''.join(heard.said)}")

    def _looked(self) -> tuple[str, float]:
        try:
            return self._seen()
        except (OSError, ValueError):
            return "", 0.0

    def _write(self, text: str) -> None:
        beside = self._place.with_name(f"{self.name}.{os.getpid()}")
        with contextlib.suppress(OSError, ValueError):  # read only, or full: it is asked again next time
            self._place.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb") as file:
                file.write(text.encode("utf-8", "surrogatepass"))
            os.replace(beside, self._place)

    def _seen(self) -> tuple[str, float]:
        """What an answer is made from, on one line, and when the youngest of it was touched. Raises OSError."""
        found: list[tuple[str, Stat]] = []
        home = self._environ.get("HOME", "")
        settings = self._environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
        users = (self._environ.get("GIT_CONFIG_GLOBAL") or f"{home}/.gitconfig", f"{settings}/git/config")
        ours = self.common / "pantheon"
        if os.path.lexists(ours / UNDER_WAY):
            raise OSError("a command was killed: it has to be ended first")
        for path in (
            *(self.git_dir / "HEAD", self.common / "HEAD", self.common / "packed-refs", self.common / "config"),
            *(self.common / "shallow", self.common / "objects" / "pack", self.common / "objects" / "info"),
            *(self.where.config / "config.toml", self.where.state / "trust", *users, "/etc/gitconfig"),
        ):
            found.append((str(path), _stat(path)))
        _files(ours, found, deep=False)
        _files(self.common / "refs", found)
        for folder in _program():
            _files(folder, found)
        newest = max((stat[0] for _, stat in found if stat), default=0) / 1e9
        words = {key: value for key, value in sorted(self._environ.items()) if _TERMINAL.fullmatch(key)}
        head = (__version__, str(self.git_dir), self.watched, sys.stdout.isatty(), _sizes(), words)
        return ascii((head, found)), newest


class _Heard:
    """A stream that also remembers."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.said = stream, list[str]()

    def write(self, text: str) -> int:
        self.said.append(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def of(
    words: Sequence[str], where: Places, environ: Mapping[str, str], clock: Callable[[], float] = time.time
) -> Glance | None:
    """What is known of a command line typed in the current directory; None where it is none that looks, or there is no
    plain repository of this user's that was prepared."""
    name = LOOKS.get(tuple(words))
    if name is None:
        return None
    try:
        dirs = _dirs(Path.cwd())
        if dirs is None or any(os.stat(path).st_uid != os.geteuid() for path in (*dirs, dirs[1] / "pantheon")):
            return None
    except OSError:
        return None
    return Glance(name, dirs, where, environ, clock)


def _dirs(start: Path) -> tuple[Path, Path] | None:
    """The git dir and the common git dir of a working tree, as git finds them. Raises OSError."""
    for folder in (start, *start.parents):
        dot = folder / ".git"
        if dot.is_file():
            line = os.fsdecode(dot.read_bytes()).rstrip("\n")
            git_dir = folder / line.removeprefix("gitdir: ")
            pointer = git_dir / "commondir"
            common = git_dir / os.fsdecode(pointer.read_bytes()).rstrip("\n") if pointer.exists() else git_dir
            return (git_dir, common.resolve()) if line.startswith("gitdir: ") else None
        if (dot / "HEAD").exists():
            return dot, dot
        if (folder / "HEAD").exists() and (folder / "objects").exists():
            return None  # inside of a git dir
    return None


def _stat(path: str | os.PathLike[str]) -> Stat:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _files(folder: str | os.PathLike[str], found: list[tuple[str, Stat]], *, deep: bool = True) -> None:
    """What lies in a directory, and below it: of each file, and of a directory itself, whether it was touched."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    for entry in entries:
        if not deep and (entry.name in _PASSING or entry.name.endswith(".lock")):
            continue
        if deep and entry.is_dir(follow_symlinks=False):
            if entry.name != "__pycache__":
                _files(entry.path, found)
            continue
        found.append((entry.path, _stat(entry.path)))


def _program() -> tuple[Path, ...]:
    """Our own sources and what is packaged with them: another version answers another thing."""
    here = Path(__file__).parent
    return here, here.parent / "templates"


def _sizes() -> tuple[int, int] | None:
    """The terminal's size as rich asks for it: of the first stream that is one."""
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(descriptor)
            return size.columns, size.lines
    return None
