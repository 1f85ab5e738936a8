"""Sealed tests on real git: a fresh home, fixed dates and locale, an editor that fails, nothing of the caller's git.

`git` runs the real program in a directory and returns its output; `make_repo` makes a repository with one commit.
"""

from __future__ import annotations

import asyncio
import fcntl
import importlib
import os
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

import hypothesis
import pytest
from dulwich.notes import Notes
from dulwich.objects import ObjectID
from dulwich.refs import Ref
from dulwich.repo import Repo as DulwichRepo

from pantheon import engine as engines
from pantheon.engine import Engine, VllmEngine
from pantheon.errors import EngineError
from pantheon.git import Repo
from pantheon.models import find_model

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MakeRepo = Callable[..., Path]
T = TypeVar("T")

TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Tidy the notes"
slug: "tidy"
status: "ready"
pantheon:
  flow: docops
  scope: ["docs/*.md"]
---
"""

hypothesis.settings.register_profile("sealed", deadline=None)  # tests count, they do not measure: a machine may be busy
hypothesis.settings.load_profile("sealed")

# Read before any test seals the environment.
DATA = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share")
NAMED_MODEL = os.environ.get("PANTHEON_MODEL_DIR")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test marked `serial` has the machine to itself: it waits for the tests of the other workers, and they for it.
    Its time is measured from when its turn has come."""
    cache = getattr(item.config, "cache", None)
    if cache is None:  # -p no:cacheprovider
        return (yield)
    directory = cache.mkdir("serial")
    mode = fcntl.LOCK_SH if item.get_closest_marker("serial") is None else fcntl.LOCK_EX
    with (directory / "turn").open("w+") as turn, (directory / "running").open("w+") as running:
        fcntl.lockf(turn, fcntl.LOCK_EX)  # else tests that follow each other would keep a serial one waiting for ever
        fcntl.lockf(running, mode)
        fcntl.lockf(turn, fcntl.LOCK_UN)
        return (yield)


def dulwich_note(repo: Repo, ref: str, commit: str) -> bytes | None:
    """A note as dulwich reads it, from the ref to the blob: other code than what wrote it."""
    with DulwichRepo(str(repo.common_dir), bare=True) as other:
        name = Ref(os.fsencode(ref))
        if name not in other.refs.allkeys():
            return None
        return Notes(other.object_store, other.refs).get_note(ObjectID(commit.encode("ascii")), name)


def git(*args: str | bytes, cwd: Path, stdin: bytes = b"", ok: tuple[int, ...] = (0,)) -> str:
    """Standard output of a real git, undecodable bytes kept. AssertionError with its words when it fails."""
    done = subprocess.run(["git", *args], cwd=cwd, input=stdin, capture_output=True, check=False, timeout=60)
    assert done.returncode in ok, f"git {args!r} ended with {done.returncode}: {os.fsdecode(done.stderr)}"
    return os.fsdecode(done.stdout)


@pytest.fixture(autouse=True)
def sealed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test its own home and a git that knows nothing else; the home."""
    home = tmp_path_factory.mktemp("home")
    for name in list(os.environ):
        if name.startswith(("GIT_", "XDG_", "LC_", "PANTHEON_", "SSH_", "GPG_")) or name in ("LANGUAGE", "EMAIL"):
            monkeypatch.delenv(name)
    config = home / "gitconfig"
    config.write_text(
        "[user]\n\tname = Ann Author\n\temail = ann@example.org\n[init]\n\tdefaultBranch = main\n"
        "[core]\n\teditor = false\n[gc]\n\tauto = 0\n",
        encoding="utf-8",
    )
    values = {
        "HOME": home,
        "XDG_CONFIG_HOME": home / "config",
        "XDG_CACHE_HOME": home / "cache",
        "XDG_DATA_HOME": home / "data",
        "XDG_STATE_HOME": home / "state",
        "XDG_RUNTIME_DIR": home / "run",
        "GIT_CONFIG_GLOBAL": config,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_DATE": "2026-03-01T09:00:00+0000",
        "GIT_COMMITTER_DATE": "2026-03-01T09:00:00+0000",
        "GIT_CEILING_DIRECTORIES": tmp_path_factory.getbasetemp(),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_EDITOR": "false",
        "EDITOR": "false",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, str(value))
    (home / "run").mkdir(mode=0o700)
    return home


def write_files(root: Path, files: Mapping[str, bytes | str]) -> None:
    """Write files below `root`; text as UTF-8."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@pytest.fixture
def make_repo(tmp_path: Path) -> MakeRepo:
    """`make_repo(files, name="repo")`: a repository with one commit of these files on `main`."""

    def make(files: Mapping[str, bytes | str] | None = None, name: str = "repo") -> Path:
        root = tmp_path / name
        root.mkdir(parents=True)
        git("init", "-q", cwd=root)
        write_files(root, files if files is not None else {"README.md": "# Hello\n"})
        git("add", "-A", cwd=root)
        git("commit", "-q", "--allow-empty", "-m", "first", cwd=root)
        return root

    return make


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """The system's own Chromium, headless, with a home of its own. It resolves no name. While it runs, its thread has
    an event loop: a module that uses it starts none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on PATH for the tests of pages: apt-get install chromium")
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -r requirements/test.txt")
    args = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    args += ["--no-sandbox"] if os.geteuid() == 0 else []  # Chromium's own sandbox refuses root
    home = {**os.environ, "HOME": str(tmp_path_factory.mktemp("chromium"))}
    with driver.sync_playwright() as play:
        running = play.chromium.launch(executable_path=chromium, args=args, env=home)
        yield running
        running.close()


class Bench:
    """An engine with the event loop it lives on: its client must not change loops between tests."""

    def __init__(self, engine: Engine, runner: asyncio.Runner) -> None:
        self.engine, self._runner = engine, runner

    def run(self, job: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(job)


def survivors(marker: str) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if marker in line:
                found.append(line)
    return found


@pytest.fixture(scope="session")
def model_dir() -> Path:
    try:
        return find_model(NAMED_MODEL or "default", DATA / "git-pantheon" / "models")
    except EngineError as error:
        pytest.skip(f"no model for the live tests: {error}; run ./install.sh or set PANTHEON_MODEL_DIR")


@pytest.fixture(scope="session")
def live(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One real server for all live tests. Ends with its own test: nothing of it may be left."""
    with asyncio.Runner() as runner, tempfile.TemporaryDirectory(prefix="pantheon-test-") as short:
        logs: list[str] = []
        running = runner.run(
            VllmEngine.start(
                model_dir,
                runtime_dir=Path(short),
                cache_dir=tmp_path_factory.mktemp("cache"),
                eager=True,
                log_path=tmp_path_factory.mktemp("log") / "engine.log",
                on_progress=logs.append,
            )
        )
        socket = Path(short, engines.SOCKET)
        try:
            assert logs
            assert stat.S_IMODE(socket.stat().st_mode) == 0o600
            yield Bench(running, runner)
        finally:
            runner.run(running.close())
        assert not running.alive()
        assert not socket.exists()
        assert not survivors(short)
        with pytest.raises(EngineError):
            runner.run(running.complete("x", schema={}, max_tokens=8, deadline_s=5))


@pytest.fixture(scope="module")
def weights() -> ModuleType:
    """The one module with torch in it: imported here, because that takes seconds and may warn on the way."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module("pantheon.training.weights")
    found.torch.set_num_threads(1)  # more only get in each other's way on so small a model
    return found
