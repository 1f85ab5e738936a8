"""The commands that run things: night, check, doctor. Ring 4: opens the doors, hands them on, prints the result."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pantheon import desk, egress, plan, process, prs, screen
from pantheon import night as nights
from pantheon.checks import CheckRoom
from pantheon.egress import EgressProof
from pantheon.engine import Engine, ScriptedEngine, VllmEngine, expected_window, find_model
from pantheon.errors import PantheonError, RepositoryError
from pantheon.git import Repo
from pantheon.item import kept_paths
from pantheon.places import Places
from pantheon.records import NightReport
from pantheon.survey import Survey, open_count, read_config, survey

MIN_FREE = 512 << 20  # bytes of disk a night wants to begin with


def night(start: Path, where: Places, *, budget: str | None, engine: str | None, quiet: bool) -> int:
    """Run a night, or resume the one that was interrupted."""
    repo = Repo.discover(start)
    process.require_sandbox()
    for directory in (repo.common_dir, _made(where.cache)):
        require_space(directory)
    with nights.alone(repo):
        frozen = _frozen(repo, where, budget, engine, quiet)
        if frozen is None:
            return 0
        work = where.cache / "nights" / hashlib.sha256(bytes(repo.common_dir)).hexdigest()[:12] / frozen.night.id
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True, mode=0o700)
        try:
            found = asyncio.run(_run(repo, frozen, where, work, quiet))
        finally:
            shutil.rmtree(work, ignore_errors=True)
            with contextlib.suppress(OSError):
                work.parent.rmdir()  # unless another night's is there
    if not quiet:
        screen.night_report(found)
    return 0


def _made(directory: Path) -> Path:
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PantheonError("cannot make the cache directory", str(directory), str(error.strerror)) from error
    return directory


def require_space(directory: Path) -> int:
    """The free bytes of the disk that holds `directory`. Raises PantheonError when it is nearly full."""
    free = shutil.disk_usage(directory).free
    if free < MIN_FREE:
        raise PantheonError(
            "cannot start a night",
            str(directory),
            f"{free >> 20} MiB are free, {MIN_FREE >> 20} are needed",
            f"df -h {directory}",
        )
    return free


def _frozen(repo: Repo, where: Places, budget: str | None, engine: str | None, quiet: bool) -> nights.Frozen | None:
    """The interrupted night again, or a new one; None when there is nothing to do."""
    interrupted = nights.unfinished(repo)
    if interrupted:
        frozen = nights.thaw(repo, interrupted, lambda base: survey(repo, base))
        if not quiet:
            print(f"resuming night {interrupted}: {len(frozen.runs)} of {len(frozen.items)} items are done")
        changes = {"budget_s": plan.seconds(budget)} if budget else {}
        frozen.night = frozen.night.model_copy(update=changes)
        return frozen
    found = survey(repo, repo.head().commit)
    settings = found.config.settings
    debt = open_count(prs.load_all(repo))
    if debt >= settings.night.max_open_prs:
        raise RepositoryError(
            "no night",
            f"{debt} PRs are open",
            f"night.max_open_prs is {settings.night.max_open_prs}",
            "git pantheon pr",
        )
    planned = desk.make_plan(repo, found)
    if not planned.items:
        _nothing(planned, found, quiet)
        return None
    kind = engine or settings.engine.kind
    model = "scripted" if kind == "scripted" else find_model(settings.engine.model, where.models).name
    return nights.freeze(
        repo,
        found,
        planned,
        budget_s=plan.seconds(budget or settings.night.budget),
        engine=kind,
        model=model,
        window=settings.night.window or expected_window(kind),
        now=desk.now(),
        signer=desk.signer(repo),
    )


def _nothing(planned: plan.Plan, found: Survey, quiet: bool) -> None:
    if quiet:
        return
    print("nothing to do: no task has an item for tonight")
    for note in planned.notes:
        print(f"note: {plan.printable(note)}")
    if not found.tasks:
        print(f"next: commit a task file under {' or '.join(found.config.settings.tasks.paths)}")


async def _run(repo: Repo, frozen: nights.Frozen, where: Places, work: Path, quiet: bool) -> NightReport:
    """Probe, start the engine, run, stop the engine; SIGINT and SIGTERM end it cleanly."""
    current = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if current is not None:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, current.cancel)
    try:
        with screen.waiting("checking that nothing can leave", quiet):
            proof = await asyncio.to_thread(egress.probe_egress)
        server = await open_engine(frozen, where, quiet)
        try:
            with screen.night_bar(quiet) as progress:
                return await nights.run(
                    repo, frozen, server, proof, work=work, signer=desk.signer(repo), now=desk.now, progress=progress
                )
        finally:
            await server.close()
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error


async def open_engine(frozen: nights.Frozen, where: Places, quiet: bool) -> Engine:
    """The engine the night was frozen with. Raises EngineError."""
    if frozen.night.engine == "scripted":
        return ScriptedEngine(latency_s=0.01)
    model = find_model(frozen.survey.config.settings.engine.model, where.models)
    runtime = where.runtime / f"pantheon-{hashlib.sha256(bytes(where.cache)).hexdigest()[:8]}-{frozen.night.id}"
    with screen.waiting("starting the engine", quiet) as say:
        return await VllmEngine.start(
            model,
            runtime_dir=runtime,
            cache_dir=_made(where.cache / "engine"),
            log_path=_made(where.state) / "engine.log",
            on_progress=say,
        )


# --- checks outside a night ------------------------------------------------------------------------------------------


def check(start: Path, where: Places, names: list[str], *, rev: str, base: str | None, as_json: bool) -> int:
    """Run named checks on what changed from `base` to `rev`. 0: all passed, 1: not."""
    repo = Repo.discover(start)
    commit = repo.resolve(rev)
    parents = repo.commit_info(commit).parents
    before = repo.resolve(base) if base else (parents[0] if parents else commit)
    config = read_config(repo, before, repo.entries(before))
    tasks = {
        task.path for task in survey(repo, commit).tasks if task.spec is not None
    }  # they follow rules of their own
    targets = [path for path in kept_paths(repo.diff(repo.tree_of(before), repo.tree_of(commit))) if path not in tasks]
    work = _made(where.cache) / "checks" / f"{commit[:12]}-{time.monotonic_ns()}"
    work.mkdir(parents=True)
    try:
        room = CheckRoom.open(repo, config, before, work)
        results, out, err = asyncio.run(room.run(repo.tree_of(commit), "tree", names, targets))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if as_json:
        print(json.dumps([result.model_dump(mode="json") for result in results], indent=1))
    else:
        print((out + err).decode("utf-8", "replace"), end="")
        for result in results:
            print(
                f"{result.name}: {'passed' if result.passed else 'FAILED'}"
                f" ({len(targets)} files, {result.seconds:.1f} s)"
            )
    return 0 if all(result.passed for result in results) else 1


# --- doctor ----------------------------------------------------------------------------------------------------------


def doctor(start: Path, where: Places, *, as_json: bool) -> int:
    """Prove, not inspect: a sandbox that runs, a network that cannot be reached, a repository and a model."""
    proof: list[EgressProof] = []

    def reach() -> str:
        proof.append(egress.probe_egress())
        if not proof[0].closed:
            open_ = [attempt.target for attempt in proof[0].attempts if not attempt.error]
            raise PantheonError("the sandbox is not closed", ", ".join(open_), "it was reached from inside")
        return f"{len(proof[0].attempts)} ways out tried, none open"

    trials: dict[str, Callable[[], str]] = {
        "repository": lambda: str(Repo.discover(start).root),
        "sandbox": process.require_sandbox,
        "network": reach,
        "model": lambda: str(find_model("default", where.models)),
        "disk": lambda: f"{require_space(_made(where.cache)) >> 20} MiB free",
        "configuration": lambda: f"{len(survey(*_base(start)).config.agents)} agents",
    }
    results = {}
    for name, trial in trials.items():
        try:
            results[name] = (True, trial())
        except PantheonError as error:
            results[name] = (False, error.render())
    if as_json:
        print(json.dumps({name: {"ok": ok, "detail": text} for name, (ok, text) in results.items()}, indent=1))
    else:
        for name, (ok, text) in results.items():
            print(f"{'ok  ' if ok else 'FAIL'}  {name}: {text}")
    return 0 if all(ok for ok, _ in results.values()) else 1


def _base(start: Path) -> tuple[Repo, str]:
    repo = Repo.discover(start)
    return repo, repo.head().commit
