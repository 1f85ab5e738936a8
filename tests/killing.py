"""Kills a night, or a person's decision, at one of its steps or at a moment of chance, goes on as a user would, and
says what is wrong with what is there then. Shared by test_kill.py and bench/faults.py.

A trial runs in a forked child, so that a kill takes nothing else with it; every repository is a copy of one that was
made once. Needs an environment of its own (`sealed`): HOME and the XDG directories.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from conftest import git, survivors, write_files

from pantheon import artifacts, cgroup, desk, faults, lease, leftovers, nights, notary, owner, prdesk, process, prs
from pantheon import night as runner
from pantheon.egress import EgressProof
from pantheon.engine import Engine, ScriptedEngine
from pantheon.errors import EngineError, PantheonError
from pantheon.git import Repo
from pantheon.places import places
from pantheon.records import Completion, Outcome, PullState
from pantheon.revive import Lives, open_revived
from pantheon.survey import survey
from pantheon.verify import load_trust, verify

WHEN = datetime(2026, 3, 1, tzinfo=UTC)
CLOSED = EgressProof(attempts=(), interfaces=("lo",), closed=True)
SUBJECTS = ("tides", "boats", "ropes", "ovens", "lamps", "nets")
TASK = """---
uuid: "0f0e8a52-8a3e-4a7e-9a37-0f3b1f2f7c11"
title: "Tidy the notes"
slug: "tidy"
status: "ready"
labels: ["docops"]
pantheon:
  scope: ["docs/*.md"]
  acceptance:
    - run: "frontmatter"
    - run: "links"
---
"""
END_S = 20.0  # how long what a killed process started may take to be gone
NIGHT = [sys.executable, "-P", "-m", "pantheon.cli", "night", "--now", "--engine", "scripted", "--quiet"]


# --- repositories ----------------------------------------------------------------------------------------------------


def build(root: Path, notes: int) -> Repo:
    """A repository with one task over some notes, a hook and a change that is not committed."""
    texts = {
        f"docs/{name}.md": f"# Care of the {name}\n\nThe {name} of the harbour are looked at every spring. "
        f"What is wrong with the {name} is written down by the harbour master.\n"
        for name in SUBJECTS[:notes]
    }
    root.mkdir(parents=True)
    git("init", "-q", "-b", "main", cwd=root)
    write_files(root, {"README.md": "# Harbour\n", "docs/tasks/tidy.md": TASK, **texts})
    git("add", "-A", cwd=root)
    git("commit", "-q", "-m", "first", cwd=root)
    hook = root / ".git/hooks/post-merge"
    hook.write_text("#!/bin/sh\nexit 0\n")
    hook.chmod(0o755)
    (root / "README.md").write_text("# Harbour\n\nhalf-finished\n")
    (root / "new.txt").write_text("untracked\n")
    repo = Repo.discover(root)
    desk.signer(repo)
    return repo


def copied(template: Path, place: Path) -> Repo:
    shutil.copytree(template, place, symlinks=True)
    return Repo.discover(place)


# --- what is done, and killed ----------------------------------------------------------------------------------------


def start(repo: Repo, engine: Engine | None = None, told: Callable[[], tuple[str, ...]] = tuple) -> None:
    """What a start of a night does, without its enclosure: sweep, resume or freeze, run to the report."""
    where = places(os.environ)
    with nights.alone(repo):
        leftovers.sweep(repo, where)
        left = nights.unfinished(repo)
        found = survey(repo, repo.head().commit)
        if left:
            frozen = nights.thaw(repo, left, lambda base: survey(repo, base))
        else:
            planned = desk.make_plan(repo, found)
            if not planned.items:
                return
            frozen = nights.freeze(
                repo, found, planned, budget_s=300, engine="scripted", model="scripted", window=4, now=WHEN,
                signer=desk.signer(repo), sowing=False,
            )  # fmt: skip
        work = leftovers.scratch(repo, where) / frozen.night.id
        work.mkdir(parents=True)
        run = runner.run(
            repo, frozen, engine or ScriptedEngine(), CLOSED, work=work, signer=desk.signer(repo), now=lambda: WHEN,
            progress=runner.Progress(), told=told,
        )  # fmt: skip
        asyncio.run(run)
        leftovers.sweep(repo, where)


@dataclass(frozen=True)
class Act:
    """Something that changes state. `before`: acts that the template has behind it; `notes`: of its repository; `done`:
    whether a record says that it happened, so that nobody does it a second time."""

    name: str
    do: Callable[[Repo], None]
    done: Callable[[Repo], bool]
    before: tuple[Callable[[Repo], None], ...] = ()
    notes: int = 2


def decide(verb: str, *items: str, text: str = "") -> Callable[[Repo], None]:
    def go(repo: Repo) -> None:
        prdesk.decide(repo, 1, prdesk.Wish(verb, [f"docs/{name}.md" for name in items], text))

    return go


def state_of(repo: Repo) -> PullState:
    return prs.load(repo, 1).state


def _verdict(name: str, verdict: str) -> Callable[[Repo], bool]:
    return lambda repo: any(i.target == f"docs/{name}.md" and i.verdict == verdict for i in prs.load(repo, 1).items)


def _opened(repo: Repo) -> bool:
    return state_of(repo) is PullState.OPEN


ACTS = {
    act.name: act
    for act in (
        Act("night", start, lambda repo: not nights.unfinished(repo) and bool(repo.refs(nights.NIGHTS)), notes=1),
        Act("accept", decide("accept"), lambda repo: state_of(repo) is PullState.ACCEPTED, (start,)),
        Act(
            "accept --drop",
            decide("accept", "tides"),
            lambda repo: state_of(repo) is PullState.ACCEPTED,
            (start,),
        ),
        Act("reject", decide("reject", text="no"), lambda repo: state_of(repo) is PullState.REJECTED, (start,)),
        Act("reject ITEM", decide("reject", "tides", text="no"), _verdict("tides", "rejected"), (start,)),
        Act("retry ITEM", decide("retry", "tides", text="say more"), _verdict("tides", "retry"), (start,)),
        Act("never ITEM", decide("never", "tides"), _verdict("tides", "never"), (start,)),
        Act("undo of accept", decide("undo"), _opened, (start, decide("accept"))),
        Act("undo of reject", decide("undo"), _opened, (start, decide("reject", text="no"))),
        Act(
            "undo of ITEM",
            decide("undo"),
            lambda repo: not _verdict("tides", "rejected")(repo),
            (start, decide("reject", "tides", text="no")),
        ),
        Act("keys rotate", lambda repo: void(notary.rotate(repo, WHEN + timedelta(days=1))), lambda _: False, (start,)),
    )
}


def void(_: object) -> None:
    """For what is done for its effect."""


def forked(job: Callable[[], None], log: Path, strike: Callable[[str], None] | None = None) -> int:
    """Do it in a child; its wait status. Where it fails its words are at the end of `log`."""
    pid = os.fork()
    if pid:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        words = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(words, 1)
        os.dup2(words, 2)
        process._groups.cache_clear()  # a killed process leaves a parent of control groups of its own
        faults.arm(strike)
        job()
        faults.arm(None)
        if (groups := process.groups()) is not None:
            groups.close()
        code = 0
    except PantheonError as error:
        os.write(2, f"{error.render()}\n".encode())
    except BaseException as error:  # noqa: BLE001 - the child ends here, whatever it was
        import traceback

        os.write(2, "".join(traceback.format_exception(error)).encode("utf-8", "replace"))
    finally:
        os._exit(code)
    return code


@dataclass
class Trial:
    """What came of one kill. `where`: the point, or the moment and what was killed; `wrong`: empty if all is well."""

    act: str
    where: str
    wrong: list[str] = field(default_factory=list)
    killed: bool = True


def points(act: Act, template: Path, place: Path) -> list[str]:
    """The names of the points that an undisturbed act passes, in order; `place` is what it makes of the template."""
    repo = copied(template, place)
    names = place.parent / f"{place.name}.points"
    with names.open("ab", buffering=0) as file:
        code = forked(lambda: act.do(repo), place.parent / "log", lambda name: _note(file.fileno(), name))
    assert code == 0, (place.parent / "log").read_text()[-2000:]
    failed = [run.reason for run in artifacts.list_runs(repo) if run.outcome is not Outcome.ACCEPTED]
    assert not failed, f"undisturbed, every item is accepted; this machine is too busy: {failed}"
    return names.read_text().splitlines()


def _note(file: int, name: str) -> None:
    os.write(file, f"{name}\n".encode())


def kill_at(act: Act, number: int, template: Path, place: Path, wanted: Look) -> Trial:
    """SIGKILL at the `number`-th point, then go on as a user would: look, and do it (again) where it was not done."""
    repo = copied(template, place)
    kept = users_own(repo)
    log, note = place.parent / "log", place.parent / f"{place.name}.point"
    left = number

    def strike(name: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            note.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    code = forked(lambda: act.do(repo), log, strike)
    trial = Trial(act.name, note.read_text() if note.exists() else "end", killed=code == -signal.SIGKILL)
    if not trial.killed and code != 0:
        trial.wrong.append(f"it failed by itself: {log.read_text()[-500:]}")

    def again() -> None:
        desk.mended(repo)  # what status, and every command on PRs, begins with
        if act.name == "night":
            leftovers.sweep(repo, places(os.environ))  # what every start of a night begins with
        if not act.done(repo):
            act.do(repo)

    if forked(again, log) != 0:
        trial.wrong.append(f"it cannot go on: {log.read_text()[-700:]}")
    trial.wrong += judge(repo, wanted, kept if act.name == "night" else None)
    if not trial.wrong:
        shutil.rmtree(place)
    return trial


# --- the real command ------------------------------------------------------------------------------------------------

MODES = ("tree", "outer", "inner", "sandbox", "stopped")


def run_night(root: Path, log: Path) -> int:
    with log.open("ab") as words:
        done = subprocess.run(NIGHT, cwd=root, stdout=words, stderr=words, check=False, timeout=600)
    return done.returncode


def kill_sometime(chance: random.Random, usual_s: float, template: Path, place: Path, wanted: Look, mode: str) -> Trial:
    """Start a real night, kill some of its processes at a moment of chance, start it again until it is done."""
    repo = copied(template, place)
    kept, log = users_own(repo), place.parent / f"{place.name}.log"
    moment_s = chance.uniform(0.0, usual_s)
    with log.open("ab") as words:
        outer = subprocess.Popen(NIGHT, cwd=repo.root, stdout=words, stderr=words, start_new_session=True)
    began = time.monotonic()
    with contextlib.suppress(subprocess.TimeoutExpired):
        outer.wait(moment_s)
    killed = _strike(outer.pid, mode, chance) if outer.poll() is None else ""
    trial = Trial(f"night, {mode}", f"{time.monotonic() - began:.2f} s {killed}", killed=bool(killed))
    if mode == "stopped":
        trial.wrong += _succeed(repo, outer, log)
    with contextlib.suppress(subprocess.TimeoutExpired):
        outer.wait(600)
    if outer.poll() is None:
        trial.wrong.append("it neither ended nor went on")
        outer.kill()
    if ended := _until_done(repo, log):
        trial.wrong.append(ended)
    trial.wrong += judge(repo, wanted, kept, mode == "sandbox")
    if not trial.wrong:
        shutil.rmtree(place)
        log.unlink()
    return trial


def _until_done(repo: Repo, log: Path) -> str:
    """Start the night until one has its report; what is wrong where that never comes."""
    for _ in range(3):
        code = run_night(repo.root, log)
        if code == 0 and not nights.unfinished(repo) and repo.refs(nights.NIGHTS):
            return ""
    return f"three more starts did not end it: {log.read_text()[-700:]}"


def _succeed(repo: Repo, outer: subprocess.Popen[bytes], log: Path) -> list[str]:
    """Let the lease of a stopped night grow old and another one take its place, then let the first one go on."""
    lock, wrong = repo.common_dir / "pantheon/night.lock", []
    held = lease.read(lock)
    if held is not None and held.owner.pid == outer.pid:
        old = held.model_copy(update={"beat_s": held.beat_s - 2 * lease.LEASE_S})
        lock.write_text(old.to_json().ljust(lease.SIZE))
    if ended := _until_done(repo, log):
        wrong.append(ended)
    for pid in (outer.pid, *below(outer.pid)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    if held is not None and outer.wait(600) != -signal.SIGKILL:
        wrong.append("it cannot be ended: the late one went on")
    return wrong


def _strike(outer: int, mode: str, chance: random.Random) -> str:
    """SIGKILL by mode: the whole tree in an order of chance, the outer process, the one in the enclosure, or what runs
    in a sandbox of it; or SIGSTOP to the tree. What was struck; "" where there was none of it in time."""
    until = time.monotonic() + 5.0
    while time.monotonic() < until and started(outer):
        tree = [outer, *below(outer)]
        inner = [pid for pid in tree if "--enclosed" in words_of(pid) and "bwrap" not in words_of(pid)]
        inside = [pid for one in inner[-1:] for pid in below(one)]
        chosen = {"outer": [outer], "inner": inner[-1:], "sandbox": inside[:1]}.get(mode, tree)
        chance.shuffle(chosen)
        if chosen:
            for pid in chosen:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP if mode == "stopped" else signal.SIGKILL)
            return f"{len(chosen)} of {len(tree)} processes"
        time.sleep(0.005)
    return ""


def started(pid: int) -> bool:
    return owner.started(pid) != -1


def below(pid: int) -> list[int]:
    """The processes that this one started, and those that they did."""
    return list(owner.below(pid))


def words_of(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
    return ""


# --- an engine that dies ---------------------------------------------------------------------------------------------


class Dying(ScriptedEngine):
    """A scripted server that dies under the requests it is told: by their numbers, over all lives."""

    def __init__(self, deadly: set[int], asked: list[str]) -> None:
        super().__init__(latency_s=0.01)
        self._deadly, self._asked, self._dead = deadly, asked, False

    def alive(self) -> bool:
        return not self._dead and super().alive()

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        self._asked.append(prompt)
        if len(self._asked) in self._deadly:
            self._dead = True
        done = await super().complete(
            prompt, schema=schema, max_tokens=max_tokens, deadline_s=deadline_s, logprobs=logprobs
        )
        if self._dead:
            raise EngineError("no answer", self.model, "ReadError")
        return done


def dying_night(chance: random.Random, template: Path, place: Path, wanted: Look) -> Trial:
    """A night whose engine dies one to five times; more than three of them end it, and the next start resumes."""
    repo = copied(template, place)
    kept, log = users_own(repo), place.parent / "log"
    deadly = set(chance.sample(range(1, 60), chance.randint(1, 5)))

    def mortal() -> None:
        asked: list[str] = []
        lives = Lives((0.0, 0.0, 0.0))

        async def born() -> Engine:
            return Dying(deadly, asked)

        def night() -> Engine:
            return asyncio.run(open_revived(born, lives))

        try:
            start(repo, night(), lives.told)
        except EngineError:
            os.write(2, b"the night ended without its engine\n")
        again = Counter(asked)
        if max(again.values()) > 2 + len(lives.lost):
            raise AssertionError(f"a request was asked {max(again.values())} times")

    trial = Trial("engine", f"{len(deadly)} deaths", killed=True)
    if forked(mortal, log) != 0:
        trial.wrong.append(f"it failed by itself: {log.read_text()[-700:]}")
    if nights.unfinished(repo) and forked(lambda: start(repo), log) != 0:
        trial.wrong.append(f"it cannot go on: {log.read_text()[-700:]}")
    trial.wrong += judge(repo, wanted, kept, may_fail=len(deadly) > 1)  # two may meet in one request
    if not trial.wrong:
        shutil.rmtree(place)
    return trial


# --- what is there afterwards ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """What a repository holds, as far as it must not depend on a kill."""

    outcomes: tuple[tuple[str, str], ...]  # target, outcome; of all runs
    pulls: tuple[tuple[str, str, tuple[tuple[str, str, bool], ...]], ...]  # task, state, (target, verdict, dropped)
    tree: str  # of HEAD
    decided: tuple[tuple[str, str], ...]  # target, verdict; every one that stands in a note


def look(repo: Repo) -> Look:
    pulls = [
        (pull.task, pull.state.value, tuple(sorted((i.target, i.verdict or "", i.dropped) for i in pull.items)))
        for pull in prs.load_all(repo)
    ]
    return Look(
        tuple(sorted((run.item.target, run.outcome.value) for run in artifacts.list_runs(repo))),
        tuple(sorted(pulls)),
        repo.tree_of(repo.head().commit),
        tuple(sorted(_decided(repo))),
    )


def _decided(repo: Repo) -> Iterator[tuple[str, str]]:
    for pull in prs.load_all(repo):
        for item in pull.items:
            note = repo.read_note(prs.DECISIONS, item.commit) or b""
            yield from {(item.target, str(json.loads(line)["verdict"])) for line in note.splitlines()}


def users_own(repo: Repo) -> dict[str, bytes]:
    """Every byte that is the user's."""
    names = ["HEAD", "config", "index", "refs/heads/main", "info/exclude"]
    names += [f"hooks/{path.name}" for path in (repo.common_dir / "hooks").iterdir()]
    kept = {name: (repo.common_dir / name).read_bytes() for name in names}
    files = [path for path in repo.root.rglob("*") if path.is_file() and ".git" not in path.parts]
    return kept | {str(path.relative_to(repo.root)): path.read_bytes() for path in files}


def judge(repo: Repo, wanted: Look, kept: dict[str, bytes] | None, may_fail: bool = False) -> list[str]:
    """What is wrong with a repository after a kill and all that followed. `may_fail`: an item may have failed, since
    its check was killed under it; the next night may have tried it again."""
    wrong: list[str] = []
    found = look(repo)
    if may_fail:
        accepted = [target for target, outcome in found.outcomes if outcome == Outcome.ACCEPTED]
        if {one for one, _ in found.outcomes} != {one for one, _ in wanted.outcomes} or len({*accepted}) != len(
            accepted
        ):
            wrong.append(f"outcomes: {found.outcomes}, not {wanted.outcomes}")
    else:
        for name in ("outcomes", "pulls", "tree", "decided"):
            if getattr(found, name) != getattr(wanted, name):
                wrong.append(f"{name}: {getattr(found, name)}, not {getattr(wanted, name)}")
    offered = Counter(i.item for p in prs.load_all(repo) for i in p.live if i.run and p.state is not PullState.REJECTED)
    wrong += [f"item {item} is offered {count} times" for item, count in offered.items() if count > 1]
    wrong += _orphans(repo) + _left(repo)
    wrong += [f"fsck: {line}" for line in repo.fsck()]
    if kept is not None and users_own(repo) != kept:
        wrong.append("something of the user's changed")
    verified = verify(repo.common_dir, load_trust(repo.common_dir, None), None, lambda _: None)
    wrong += [f"verify: {fault.kind} {fault.where}: {fault.why}" for fault in verified.faults]
    return wrong


def _orphans(repo: Repo) -> list[str]:
    """Refs that nobody owns."""
    pulls = prs.load_all(repo)
    branches = set(repo.refs("refs/heads/pantheon/"))
    standing = {f"refs/heads/{pull.branch}" for pull in pulls if pull.state is PullState.OPEN}
    wrong = [f"a branch without an open PR: {name}" for name in branches - standing]
    wrong += [f"an open PR without its branch: {name}" for name in standing - branches]
    for pull in pulls:
        at = repo.ref(f"refs/heads/{pull.branch}")
        if pull.state is PullState.OPEN and at != pull.tip:
            wrong.append(f"PR {pull.id} is at {pull.tip[:8]}, its branch at {at}")
    numbers = {name.removeprefix("refs/pantheon/prs/").split("/")[0] for name in repo.refs("refs/pantheon/prs/")}
    return wrong + [f"a revision without a PR: {n}" for n in numbers - {str(pull.id) for pull in pulls}]


def _left(repo: Repo) -> list[str]:
    """What a killed one left: worktrees, locks, directories, sockets, processes, control groups."""
    where = places(os.environ)
    wrong = []
    if git("worktree", "list", cwd=repo.root).count("\n") != 1 or any((repo.common_dir / "worktrees").glob("*")):
        wrong.append("a worktree is left")
    flocks = repo.common_dir / "pantheon"  # those die with their holder
    locks = [path for path in repo.common_dir.rglob("*.lock") if path.parent != flocks]
    wrong += [f"a lock is left: {path.relative_to(repo.common_dir)}" for path in locks]
    if (place := leftovers.scratch(repo, where)).exists():
        wrong.append(f"{place} is left")
    wrong += [f"{path} is left" for path in where.runtime.glob("*")]
    wrong += [f"{path} is left" for path in (repo.common_dir / "pantheon").rglob("*.new*")]
    until = time.monotonic() + END_S
    while (alive := _alive(str(place), str(repo.root))) and time.monotonic() < until:
        time.sleep(0.05)
    wrong += [f"a process is left: {line[:200]}" for line in alive]
    while (groups := _groups_left()) and time.monotonic() < until:  # of another trial, whose next start sweeps it
        time.sleep(0.05)
    return wrong + groups


def _alive(*places: str) -> list[str]:
    """The processes that name one of these directories, or are in it."""
    found = [line for place in places for line in survivors(place)]
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            pid = int(entry.name)
            if pid != os.getpid() and os.readlink(entry / "cwd").startswith(places):
                found.append(f"{pid} {words_of(pid)}")
    return found


def _groups_left() -> list[str]:
    """Control groups of processes that are dead."""
    proc = Path("/proc/self")
    found = []
    for _, memory, pids, _ in (*cgroup._places_v2(proc), *cgroup._places_v1(proc)):
        for path in {*memory.glob("pantheon-*"), *pids.glob("pantheon-*")}:
            holder = owner.read_mark(path.name)
            if holder is not None and not holder.alive():
                found.append(path)
    return [f"a control group is left: {path}" for path in found]
