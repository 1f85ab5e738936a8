"""Named checks, run in the sandbox on a clean export of a committed tree, never in a directory an agent edited.

Owns the exports and the number of checks that run at once. The commands and their rules come from the base commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pantheon.config import Config
from pantheon.errors import ConfigError
from pantheon.git import Repo
from pantheon.process import Limits, run_async
from pantheon.records import Check, CheckResult
from pantheon.sandbox import MIB, Sandbox

TREE, BASE, SETTINGS = Path("/check/tree"), Path("/check/base"), Path("/check/config")
AT_ONCE = 2
_COUNTS = re.compile(rb"tests: ([0-9]{1,6}) broken, ([0-9]{1,6}) fixed")  # as the check `tests` prints it


@dataclass
class CheckRoom:
    """A scratch directory with the base commit exported once. `cpu_s` adds up what the checks used."""

    repo: Repo
    config: Config
    work: Path
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))
    cpu_s: float = 0.0

    @classmethod
    def open(cls, repo: Repo, config: Config, base: str, work: Path) -> CheckRoom:
        rules = work / "config" / "rules"
        rules.mkdir(parents=True, exist_ok=True)
        for name, data in config.rules.items():
            (rules / name).write_bytes(data)
        repo.export(base, work / "base", work / "store")
        return cls(repo, config, work)

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
        place = self.work / "exports" / label
        results, out, err = [], [], []
        async with self.slots:
            self.repo.export(tree, place, self.work / "store")
            shown = self._beside(place, checks)
            try:
                for check in checks:
                    words = _fill(check.run, targets, confirmed, rules)
                    sandbox = self._sandbox(place, {name: shown[name] for name in check.needs if name in shown})
                    done = await run_async(words, limits=self._limits(check), sandbox=sandbox)
                    self.cpu_s += done.cpu_seconds
                    text = (done.stdout + done.stderr).decode("utf-8", "replace").strip()
                    passed = done.returncode == 0 and not done.stopped_for
                    detail = done.why()
                    if not passed and not detail:
                        detail = _telling(text) or f"exit status {done.returncode}"
                    broken, fixed = _counted(done.stdout)
                    results.append(
                        CheckResult(
                            name=check.name,
                            passed=passed,
                            detail=detail,
                            seconds=done.seconds,
                            cpu_s=done.cpu_seconds,
                            memory_bytes=done.peak_memory,
                            tests_broken=broken,
                            tests_fixed=fixed,
                        )
                    )
                    out.append(f"== {check.name}\n".encode() + done.stdout)
                    err.append(done.stderr)
            finally:
                await asyncio.to_thread(shutil.rmtree, place, True)
        return results, b"".join(out), b"".join(err)

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
