"""Named checks, run in the sandbox on a committed tree, never in a directory an agent edited.

Owns the exports and the number of checks that run at once. The commands and their rules come from the base commit. What
may run code of the repository gets a sandbox of its own and a clean export. The packaged checks run none: inside `warm`
a worker that has the base takes them, with the files that the tree has otherwise, and nothing is exported.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pantheon import faults
from pantheon.config import Config
from pantheon.errors import ConfigError, RepositoryError, SandboxError
from pantheon.git import Repo
from pantheon.limits import Completed
from pantheon.process import Limits, run_async
from pantheon.records import Check, CheckResult
from pantheon.sandbox import MIB, Sandbox
from pantheon.tools.disk import pack
from pantheon.warm import Worker, knows

TREE, BASE, SETTINGS = Path("/check/tree"), Path("/check/base"), Path("/check/config")
AT_ONCE = 2
STARTS = 5  # of a worker, before every check goes to a sandbox of its own
_REGULAR = (0o100644, 0o100755)
_COUNTS = re.compile(rb"tests: ([0-9]{1,6}) broken, ([0-9]{1,6}) fixed")  # as the check `tests` prints it


_WARM: ContextVar[contextlib.ExitStack | None] = ContextVar("warm", default=None)


@contextlib.asynccontextmanager
async def warm() -> AsyncIterator[None]:
    """Let the rooms that are used in this context keep a worker, which ends with it."""
    with contextlib.ExitStack() as held:
        token = _WARM.set(held)
        try:
            yield
        finally:
            _WARM.reset(token)


@dataclass
class CheckRoom:
    """A scratch directory for the checks of one base commit, which is exported, or packed for a worker, when the first
    check needs it. `checked_s` adds up what the checks used."""

    repo: Repo
    config: Config
    work: Path
    base: str = ""
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    checked_s: float = 0.0
    _worker: Worker | None = None
    _starts: int = 0
    _starting: asyncio.Lock = field(default_factory=asyncio.Lock)
    _past_s: float = 0.0  # of workers that ended
    _based: bool = False  # the base is exported
    _last: tuple[str, dict[str, bytes | None]] | None = None  # a tree, and what differs from the base

    @classmethod
    def open(cls, repo: Repo, config: Config, base: str, work: Path) -> CheckRoom:
        rules = work / "config" / "rules"
        rules.mkdir(parents=True, exist_ok=True)
        for name, data in config.rules.items():
            (rules / name).write_bytes(data)
        return cls(repo, config, work, base)

    @property
    def cpu_s(self) -> float:
        """Processor seconds of the checks, and of the workers themselves."""
        return self.checked_s + self._past_s + (self._worker.cpu_s if self._worker else 0.0)

    def named(self, names: Sequence[str]) -> list[Check]:
        """The checks with these names, in order. Raises ConfigError for an unknown one."""
        for name in names:
            if name not in self.config.checks:
                raise ConfigError("no such check", name, f"known: {', '.join(sorted(self.config.checks))}")
        return [self.config.checks[name] for name in dict.fromkeys(names)]

    async def run(
        self,
        tree: str,
        label: str,
        names: Sequence[str],
        targets: Sequence[str],
        confirmed: Sequence[str] = (),
        rules: str = "",
    ) -> tuple[list[CheckResult], bytes, bytes]:
        """Run checks over `targets` of `tree`: (results, stdout, stderr). `confirmed`: the paths that the task names;
        `rules`: the flow's own. Raises ConfigError, SandboxError."""
        checks = self.named(names)
        for check in checks:
            if not rules and any("{rules}" in word for word in check.run):
                why = "it judges by a flow's rules, and no flow is named"
                raise ConfigError("cannot run the check", check.name, why, hint="git pantheon check --flow FLOW")
        place, exported = self.work / "exports" / label, None
        results, out, err = [], [], []
        async with self.slots:
            try:
                for check in checks:
                    words = _fill(check.run, targets, confirmed, rules)
                    done = await self._asked(check, words, tree)
                    if done is None:
                        exported = exported or self._exported(tree, place, checks)
                        done = await self._alone(check, words, *exported)
                    self.checked_s += done.cpu_seconds
                    results.append(_result(check, done))
                    out.append(f"== {check.name}\n".encode() + done.stdout)
                    err.append(done.stderr)
            finally:
                if os.path.lexists(place):
                    await asyncio.to_thread(shutil.rmtree, place, True)
        return results, b"".join(out), b"".join(err)

    # --- by the worker ---

    async def _asked(self, check: Check, words: Sequence[str], tree: str) -> Completed | None:
        """What the worker says; None where the check is not for it, or where it is not to be had. One that dies is
        started again, and asked once more."""
        known = () if check.needs else knows(words)
        if not known or _WARM.get() is None:
            return None
        try:
            changes = self._changes(tree)
        except RepositoryError:  # of what is no file there can only be an export, which leaves it out
            return None
        for _ in range(2):
            worker = await self._ready()
            if worker is None:
                return None
            try:
                return await worker.run(known, changes, self._limits(check))
            except SandboxError:
                self._dismiss(worker)
        return None

    def _changes(self, tree: str) -> dict[str, bytes | None]:
        """The files that a committed tree has otherwise than the base."""
        if self._last is None or self._last[0] != tree:
            changed = self.repo.changed(self.base, tree)
            self._last = tree, {p: self.repo.read_blob(new) if new else None for p, (_, new) in changed.items()}
        return self._last[1]

    async def _ready(self) -> Worker | None:
        """The worker, started where there is none; None where it does not start."""
        async with self._starting:
            held = _WARM.get()
            if self._worker is None and self._starts < STARTS and held is not None:
                self._starts += 1
                memory = self.config.limits.check_memory_mib * MIB * AT_ONCE
                start = partial(Worker.start, self._packed(), self.work / "config" / "rules", self.work / "worker.log")
                job = asyncio.ensure_future(asyncio.to_thread(start, memory))
                try:
                    self._worker = await asyncio.shield(job)
                    held.callback(self._dismiss, self._worker)
                except (SandboxError, OSError):
                    return None
                except asyncio.CancelledError:  # it starts all the same, on its thread
                    await asyncio.wait([job])
                    if job.exception() is None:
                        job.result().close()
                    raise
            return self._worker

    def _dismiss(self, worker: Worker) -> None:
        if worker is self._worker:
            self._past_s += worker.cpu_s
            self._worker = None
        worker.close()

    def _packed(self) -> Path:
        """The base in one file, as `export` would write it: regular files only."""
        place = self.work / "base.packed"
        if not place.exists():
            files = [entry for entry in self.repo.entries(self.base).values() if entry.mode in _REGULAR]
            pack(((one.path, partial(self.repo.read_blob, one.oid)) for one in files), str(place))
            faults.point("base packed")
        return place

    # --- in a sandbox of its own ---

    async def _alone(self, check: Check, words: Sequence[str], place: Path, shown: Mapping[str, Path]) -> Completed:
        sandbox = self._sandbox(place, {name: shown[name] for name in check.needs if name in shown})
        return await run_async(words, limits=self._limits(check), sandbox=sandbox)

    def _exported(self, tree: str, place: Path, checks: Sequence[Check]) -> tuple[Path, Mapping[str, Path]]:
        """A clean export, the base's beside it, and what is shown of the working tree."""
        if not self._based:
            self.repo.export(self.base, self.work / "base", self.work / "store")
            self._based = True
        self.repo.export(tree, place, self.work / "store")
        return place, self._beside(place, checks)

    def _beside(self, place: Path, checks: Sequence[Check]) -> dict[str, Path]:
        """What checks need of the working tree, with a place for it in the export, which is read-only inside. What the
        tree holds itself is never hidden, and no link of the tree is followed."""
        found = {}
        for name, host in needed(self.repo.root, checks).items():
            inside = place / name
            if not os.path.lexists(inside) and inside.resolve() == place.resolve() / name:
                with contextlib.suppress(OSError):
                    inside.mkdir(parents=True)
                    found[name] = host
        return found

    def _sandbox(self, place: Path, shown: Mapping[str, Path]) -> Sandbox:
        """What a check sees: the export, the base, the rules, and what is shown of the working tree."""
        mounts = [(place, TREE), (self.work / "base", BASE), (self.work / "config", SETTINGS)]
        return Sandbox(
            readable=(*mounts, *((host, TREE / name) for name, host in shown.items())),
            cwd=TREE,
            tmp_bytes=self.config.limits.check_disk_mib * MIB,
        )

    def _limits(self, check: Check) -> Limits:
        """The user's, and the check's own time; on every core all of it may be spent computing."""
        most = self.config.limits
        return Limits(
            wall_s=check.timeout_s,
            cpu_s=int(check.timeout_s * (os.cpu_count() or 1)) + 1,
            memory_bytes=most.check_memory_mib * MIB,
            processes=most.check_processes,
        )


def _result(check: Check, done: Completed) -> CheckResult:
    text = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
    passed = done.returncode == 0 and not done.stopped_for
    detail = done.why()
    if not passed and not detail:
        detail = _telling(text) or f"exit status {done.returncode}"
    broken, fixed = _counted(done.stdout)
    return CheckResult(
        name=check.name,
        passed=passed,
        detail=detail,
        seconds=done.seconds,
        cpu_s=done.cpu_seconds,
        memory_bytes=done.peak_memory,
        tests_broken=broken,
        tests_fixed=fixed,
    )


def needed(root: Path, checks: Iterable[Check]) -> dict[str, Path]:
    """The directories of a working tree that checks need and that are there. One that is a link, or lies behind one, is
    left out: it would show something else."""
    top = root.resolve()
    places = {name: top / name for check in checks for name in check.needs}
    return {name: place for name, place in places.items() if place.is_dir() and place.resolve() == place}


def _telling(text: str) -> str:
    """The line that says most of why a check failed: its first, or of a Python traceback the last."""
    lines = text.splitlines() or [""]
    return lines[-1 if lines[0].startswith("Traceback (") else 0][:300]


def _counted(stdout: bytes) -> tuple[int, int]:
    """How many tests a check says that the change broke and fixed, in its last line; of one that counts none: 0, 0."""
    found = _COUNTS.fullmatch(stdout.rstrip(b"\n").rpartition(b"\n")[2])
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _fill(argv: Sequence[str], targets: Sequence[str], confirmed: Sequence[str], rules: str) -> list[str]:
    places = {
        "{python}": sys.executable,
        "{base}": str(BASE),
        "{config}": str(SETTINGS),
        "{rules}": str(SETTINGS / "rules" / f"{rules}.toml"),
    }
    words: list[str] = []
    for word in argv:
        if word == "{targets}":
            words.extend(targets)
        elif word == "{named}":
            words.extend(f"--named={path}" for path in confirmed)
        else:
            for name, value in places.items():
                word = word.replace(name, value)
            words.append(word)
    return words
