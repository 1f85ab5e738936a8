"""The commands that run things: night, check, doctor. Ring 4: opens the doors, hands them on, prints the result."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pantheon import (
    attest,
    beacon,
    config,
    damage,
    desk,
    egress,
    enclosure,
    engines,
    firing,
    flight,
    gcpid,
    hooks,
    learned,
    leftovers,
    machine,
    morning,
    nights,
    owner,
    past,
    plan,
    process,
    prs,
    relay,
    screen,
    telemetry,
    trust,
)
from pantheon import cast as casting
from pantheon import night as runner
from pantheon.cast import Cast
from pantheon.checks import CheckRoom, needed
from pantheon.config import Config, UserLimits
from pantheon.egress import Attempt, EgressProof, Targets
from pantheon.engine import expected_window
from pantheon.errors import (
    ConfigError,
    DiskFull,
    EngineError,
    PantheonError,
    RepositoryError,
    SandboxError,
    TrustError,
    is_full,
)
from pantheon.git import Repo
from pantheon.item import kept_paths
from pantheon.models import find_model
from pantheon.places import Places
from pantheon.records import Night, NightReport, seconds
from pantheon.revive import Lives
from pantheon.survey import Survey, open_count, read_config, survey

METRICS = "metrics.sock"  # of a running night
MIN_FREE = 512 << 20  # bytes of disk a night wants to begin with


class Order(engines.EngineOrder):
    """What the night is told from outside: it sees neither the user's environment nor what was trusted."""

    start: str
    budget: str | None
    engine: str | None
    branch: str | None = None  # None: what is checked out
    rehearsed: bool = False  # a dry run: it prints no report, and has no reviewers to be measured
    trusted: str  # the digest of `.pantheon/`: what HEAD says meanwhile may be another
    limits: UserLimits
    protected: tuple[str, ...]  # where the user's configuration lets hooks run from
    targets: Targets
    controls: tuple[Attempt, ...]
    stripped: tuple[str, ...]


def night(
    start: Path,
    where: Places,
    environ: Mapping[str, str],
    *,
    budget: str | None,
    engine: str | None,
    quiet: bool,
    teacher: str | None = None,
    branch: str | None = None,
) -> int:
    """Run a night, or resume the one that was interrupted, in an enclosure that has no network. `teacher`: a larger
    local model, which answers for the agents that edit. `branch`: its tip is the base, whatever is checked out."""
    repo = Repo.discover(start)
    return start_night(
        repo, repo, where, environ, budget=budget, engine=engine, quiet=quiet, teacher=teacher, branch=branch
    )


def start_night(
    repo: Repo,
    own: Repo,
    where: Places,
    environ: Mapping[str, str],
    *,
    budget: str | None,
    engine: str | None,
    quiet: bool,
    rehearsed: bool = False,
    teacher: str | None = None,
    branch: str | None = None,
) -> int:
    """A night in `repo` under the trust and the settings of `own`: the same repository, or a dry run's shadow of it
    (`rehearsed`), which prints no report and measures nobody."""
    process.require_sandbox()
    for directory in (repo.common_dir, engines.made(where.cache)):
        require_space(directory)
    with _held(repo, where, quiet) as lock:
        interrupted = nights.unfinished(repo)
        frozen = nights.load_night(repo, interrupted) if interrupted else None
        base = frozen.base if frozen else repo.head(branch).commit
        entries = repo.entries(base)
        loaded = read_config(repo, base, entries)  # first: it names what is wrong, and runs nothing
        settings, needs = loaded.settings, needed(own.root, loaded.checks.values())
        found = trust.look(own, entries, where.state)
        trust.require(found)
        user = config.load_user(where.config)
        kind = frozen.engine if frozen else engine or settings.engine.kind
        model = find_model(settings.engine.model, where.models) if kind == "vllm" else None
        teaching = _teacher(frozen.teacher if frozen else teacher or "", kind, where)
        cast = _cast(repo, loaded, model, where, teaching, quiet)
        desk.signer(repo)  # made here: the night cannot write it
        desk.mended(repo)  # nor end what was killed between a user's branch and its record
        with contextlib.ExitStack() as reached, contextlib.ExitStack() as listening:
            server, way = engines.reached(reached, user.engine, where) if kind == "openai" else (None, None)
            shown = cast.shown if cast else ()
            sandbox = enclosure.night_sandbox(repo, where, model, environ, way, needs, shown)
            others = [str(way / relay.SOCKET)] if way else []
            targets = listening.enter_context(egress.listening(environ, others))
            order = Order(
                start=str(repo.root),
                budget=budget,
                engine=engine,
                quiet=quiet,
                branch=branch,
                rehearsed=rehearsed,
                model=model,
                server=server,
                cast=cast,
                trusted=found.digest,
                limits=user.limits,
                protected=hooks.inside(own),
                targets=targets,
                controls=egress.attempts(targets, "host")[0],
                stripped=egress.stripped_names(environ),
            )
            return process.enclosed(
                [sys.executable, "-P", "-m", "pantheon.cli", "night", "--enclosed", str(lock)],
                sandbox=sandbox,
                order=order.to_json().encode("utf-8", "surrogateescape"),
                keep=(lock,),
                on_ready=listening.close,
            )


@contextlib.contextmanager
def _held(repo: Repo, where: Places, quiet: bool) -> Iterator[int]:
    """The repository for one night: its lock, without git's own gc, and with nothing that a killed night left."""

    def told(line: str) -> None:
        _say(f"note: {line}", quiet)

    with nights.alone(repo, told=told) as lock, gcpid.held(repo.common_dir, told):
        damage.require_sound(repo)
        leftovers.sweep(repo, where)
        try:
            yield lock
        finally:
            with contextlib.suppress(RepositoryError):
                leftovers.sweep(repo, where)  # it may have been killed inside its enclosure
            enclosure.tidy(repo)


def _teacher(name: str, kind: str, where: Places) -> Path | None:
    """The directory of the model that teaches. Raises EngineError."""
    if not name:
        return None
    if kind != "vllm":
        raise EngineError("no teacher", name, f"this night's engine is {kind}; a teacher is a local model of vLLM's")
    return find_model(name, where.models)


def _cast(
    repo: Repo, found: Config, model: Path | None, where: Places, teacher: Path | None, quiet: bool
) -> Cast | None:
    """Who speaks in a night with a model."""
    if model is None:
        return None
    if any(agent.runtime.adapter for agent in found.agents.values()):
        doubts = learned.look(repo, found, taught=teacher is not None, model=model.name, weights=weights(model))
        for note in learned.require(doubts):
            _say(f"note: {note}", quiet)
    if teacher is not None and teacher.name == model.name:
        why = "the night's own model has that name, and its statements could not tell who answered"
        raise EngineError("no teacher", str(teacher), why, f"mv {teacher} {teacher.parent}/ANOTHER-NAME")
    return casting.prepare(repo, found.agents.values(), model, engines.made(where.cache), teacher=teacher, quiet=quiet)


def _say(line: str, quiet: bool) -> None:
    if not quiet:
        print(plan.printable(line))


def enclosed_night(where: Places, lock: int) -> int:
    """The other end of `night`, inside: reads the order on stdin and says what `process.enclosed` expects."""
    try:
        line = socket.socket(fileno=os.dup(0))
        line.sendall(process.HELLO)
    except OSError as error:
        why = "this is how the night starts itself in its enclosure; a person cannot"
        raise PantheonError("cannot start a night", "--enclosed", why, "git pantheon night --now") from error
    if lock < 0:  # a trial: the doctor wants to know whether we got here, and further
        process.require_sandbox()
        return 0
    os.set_inheritable(lock, False)  # kept open: the repository stays ours as long as we live
    data = b""
    while not data.endswith(b"\n"):
        part = line.recv(1 << 16)
        if not part:
            raise KeyboardInterrupt
        data += part
    order = Order.model_validate_json(data)
    return _night_inside(order, where, line)


def _night_inside(order: Order, where: Places, line: socket.socket) -> int:
    repo = Repo.discover(Path(order.start))
    with screen.waiting("checking that nothing can leave", order.quiet):
        proof = egress.prove(order.targets, order.controls, order.stripped, inside=True)
    line.sendall(process.READY)
    if not proof.closed:
        raise SandboxError("no night", "the network", "; ".join(proof.ways), "git pantheon doctor")
    if order.server is not None:
        led = f"{order.server.url} at {order.server.to}, model {order.server.model}"
        proof = proof.model_copy(update={"relay": led})
    with _pausing(repo.common_dir, where.cache):
        found = _play(repo, where, order, proof, line)
    if found is not None and not order.rehearsed and not order.quiet:
        screen.night_report(found, morning.learned(repo, found))
    return 0


@contextlib.contextmanager
def _pausing(*places: Path) -> Iterator[None]:
    """Say of a full disk what it means for a night: nothing is lost, and it goes on once there is room."""
    try:
        yield
    except (PantheonError, OSError) as error:
        if not is_full(error):
            raise
        place = min(places, key=lambda one: shutil.disk_usage(one).free)
        why = f"disk is full, {shutil.disk_usage(place).free >> 20} MiB free ({error})"
        hint = "free some disk space, then: git pantheon night --now"
        raise DiskFull("the night pauses", str(place), why, hint) from error


def _steady(clock: Callable[[], datetime], since: datetime) -> Callable[[], datetime]:
    """A clock that never goes back, so that no commit of a night is older than the one before it."""
    latest = since

    def told() -> datetime:
        nonlocal latest
        latest = max(latest, clock())
        return latest

    return told


def _play(repo: Repo, where: Places, order: Order, proof: EgressProof, line: socket.socket) -> NightReport | None:
    """Freeze a night or take up the one that was interrupted, and run it; None when there is nothing to do."""
    engines.made(leftovers.scratch(repo, where))  # before anything is frozen: a disk may be read-only
    frozen = _frozen(repo, where, order)
    if frozen is None:
        return None
    work = leftovers.scratch(repo, where) / frozen.night.id
    shutil.rmtree(work, ignore_errors=True)
    engines.made(work).chmod(0o700)
    try:
        return asyncio.run(_run(repo, frozen, where, work, order, proof, line))
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with contextlib.suppress(OSError):
            work.parent.rmdir()  # unless another night's is there


def metrics(repo: Repo, where: Places) -> int:
    """The running night as Prometheus text, else the last one that ended."""
    page = beacon.ask(leftovers.scratch(repo, where) / METRICS)
    if page is None:
        found = nights.load_report(repo)
        page = telemetry.exposition(found, morning.learned(repo, found))
    sys.stdout.buffer.write(page)
    return 0


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


def _frozen(repo: Repo, where: Places, order: Order) -> nights.Frozen | None:
    """The interrupted night again, or a new one; None when there is nothing to do."""

    def survey_trusted(base: str) -> Survey:
        entries = repo.entries(base)
        if trust.look(repo, entries, where.state).digest != order.trusted:
            why = "the branch moved while the night started, to another .pantheon/"
            raise TrustError("no night", base[:12], why, "git pantheon night --now")
        found = survey(repo, base, order.limits, order.protected)
        return dataclasses.replace(found, config=casting.taught(found.config, order.cast)) if order.cast else found

    most_s = seconds(order.limits.budget)
    interrupted = nights.unfinished(repo)
    if interrupted:
        frozen = nights.thaw(repo, interrupted, survey_trusted)
        if not order.quiet:
            print(f"resuming night {interrupted}: {len(frozen.runs)} of {len(frozen.items)} items are done")
        _same_voices(frozen.night, order)
        budget_s = seconds(order.budget) if order.budget else frozen.night.budget_s
        frozen.night = frozen.night.model_copy(update={"budget_s": min(budget_s, most_s)})
        return frozen
    found = survey_trusted(repo.head(order.branch).commit)
    settings = found.config.settings
    debt = open_count(prs.load_all(repo))
    if debt >= settings.night.max_open_prs:
        raise RepositoryError(
            "no night",
            f"{debt} PRs are open",
            f"night.max_open_prs is {settings.night.max_open_prs}",
            "git pantheon pr",
        )
    with nights.uncollected():
        planned = desk.make_plan(repo, found, order.cast.teacher.name if order.cast and order.cast.teacher else "")
    if not planned.items:
        _nothing(planned, found, order.quiet)
        return None
    kind = order.engine or settings.engine.kind
    model = order.server.model if order.server else order.model.name if order.model else kind
    window = settings.night.window or expected_window(kind, order.model)
    budget_s = min(seconds(order.budget or settings.night.budget), most_s)
    share = 0.0 if order.rehearsed else settings.gate.canaries
    expected = past.expected(repo, planned.items, share, budget_s=budget_s, engine=kind, model=model, window=window)
    with screen.waiting("freezing the queue", order.quiet):
        return nights.freeze(
            repo,
            found,
            planned,
            budget_s=budget_s,
            engine=kind,
            model=model,
            window=window,
            widest=0 if settings.night.window or kind == "scripted" else flight.WIDEST * window,
            forecast=expected,
            sowing=not order.rehearsed,
            now=desk.now(),
            signer=desk.signer(repo),
            model_sha256=weights(order.model),
            branch=order.branch,
            **_spoken(repo, order.cast, found, planned),
        )


def _same_voices(night: Night, order: Order) -> None:
    """Raise EngineError where a night that goes on would be answered by others than it was frozen with."""
    if night.model_sha256 and night.model_sha256 != weights(order.model):
        why = f"its weights are not those that night {night.id} was frozen with"
        raise EngineError("cannot resume the night", night.model, why, "put the model back as it was")
    if night.teacher_sha256 != weights(order.cast.teacher if order.cast else None):
        why = f"its weights are not those that taught when night {night.id} was frozen"
        raise EngineError("cannot resume the night", night.teacher, why, "put the teacher back as it was")
    if order.server is not None and night.model != order.server.model:
        why = f"night {night.id} was frozen with it, and your config.toml names {order.server.model}"
        raise EngineError("cannot resume the night", night.model, why, "put the model back as it was")


def _spoken(repo: Repo, cast: Cast | None, found: Survey, planned: plan.Plan) -> dict[str, Any]:
    """What a night with a model is frozen with beside it: how it is served, and who teaches."""
    if cast is None:
        return {}
    chosen = casting.choose(cast, found.config, planned.items, nights.reports(repo, nights.RATED_NIGHTS))
    teacher = cast.teacher.name if cast.teacher else ""
    return {"serving": chosen, "teacher": teacher, "teacher_sha256": weights(cast.teacher)}


def weights(model: Path | None) -> dict[str, str]:
    """The sha256 of each file of a model's weights. Raises EngineError."""
    try:
        return attest.digest_files(list(model.glob("*.safetensors"))) if model else {}
    except OSError as error:
        raise EngineError("cannot read the model", str(model), str(error), "./install.sh") from error


def _nothing(planned: plan.Plan, found: Survey, quiet: bool) -> None:
    if quiet:
        return
    print("nothing to do: no task has an item for tonight")
    for note in planned.notes:
        print(f"note: {plan.printable(note)}")
    if not found.tasks:
        print(f"next: commit a task file under {' or '.join(found.config.settings.tasks.paths)}")


async def _run(
    repo: Repo,
    frozen: nights.Frozen,
    where: Places,
    work: Path,
    order: Order,
    proof: EgressProof,
    line: socket.socket,
) -> NightReport:
    """Start the engine, run, stop the engine. The end of `line`, SIGINT and SIGTERM end it cleanly."""
    current = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert current is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, current.cancel)

    def asked_to_stop() -> None:
        loop.remove_reader(line)
        current.cancel()

    loop.add_reader(line, asked_to_stop)
    machine.give_way()
    held, lives = contextlib.AsyncExitStack(), Lives()
    try:
        server = await engines.open_engine(
            order, where, frozen.night.id, relay.INSIDE, chosen=frozen.night.serving, lives=lives
        )
        try:
            with screen.night_bar(order.quiet) as progress:

                def told() -> bytes:
                    return telemetry.live(frozen.night, frozen.own, frozen.sown, progress.sample)

                await held.enter_async_context(beacon.serving(leftovers.scratch(repo, where) / METRICS, told))
                return await runner.run(
                    repo,
                    frozen,
                    server,
                    proof,
                    work=work,
                    signer=desk.signer(repo),
                    now=_steady(desk.now, repo.commit_info(frozen.ref_at or frozen.night.base).when),
                    progress=progress,
                    page=lambda found: morning.written(repo, found),
                    told=lives.told,
                )
        finally:
            await held.aclose()
            await server.close()
    except asyncio.CancelledError as error:
        raise KeyboardInterrupt from error
    finally:
        loop.remove_reader(line)


# --- checks outside a night ------------------------------------------------------------------------------------------


def check(
    start: Path, where: Places, names: list[str], *, rev: str, base: str | None, flow: str | None = None, as_json: bool
) -> int:
    """Run named checks on what changed from `base` to `rev`, by the rules of `flow` where they ask for some. 0: all
    passed, 1: not."""
    repo = Repo.discover(start)
    commit = repo.resolve(rev)
    parents = repo.commit_info(commit).parents
    before = repo.resolve(base) if base else (parents[0] if parents else commit)
    entries = repo.entries(before)
    trust.require(trust.look(repo, entries, where.state))
    found = config.within(read_config(repo, before, entries), config.load_user(where.config).limits)
    if flow is not None and flow not in found.flows:
        raise ConfigError("no such flow", flow, f"known: {', '.join(sorted(found.flows))}", hint="git pantheon flow")
    rules = found.flows[flow].rules if flow else ""
    tasks = {
        task.path for task in survey(repo, commit).tasks if task.spec is not None
    }  # they follow rules of their own
    targets = [path for path in kept_paths(repo.diff(repo.tree_of(before), repo.tree_of(commit))) if path not in tasks]
    work = engines.made(where.cache) / "checks" / f"{commit[:12]}-{owner.me().mark}-{time.monotonic_ns()}"
    work.mkdir(parents=True)
    try:
        room = CheckRoom.open(repo, found, before, work)
        results, out, err = asyncio.run(room.run(repo.tree_of(commit), "tree", names, targets, rules=rules))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if as_json:
        print(json.dumps([result.model_dump(mode="json") for result in results], indent=1))
    else:
        for line in (out + err).decode("utf-8", "replace").splitlines():
            print(plan.printable(line))
        for result in results:
            print(
                f"{result.name}: {'passed' if result.passed else 'FAILED'}"
                f" ({len(targets)} files, {result.seconds:.1f} s)"
            )
    return 0 if all(result.passed for result in results) else 1


# --- doctor ----------------------------------------------------------------------------------------------------------


def doctor(start: Path, where: Places, environ: Mapping[str, str], *, as_json: bool) -> int:
    """Prove, not inspect: hooks fire, an enclosure runs, no network can be reached, a repository, a model."""

    def reach() -> str:
        proof = egress.probe_egress(environ)
        if not proof.closed:
            raise PantheonError("the sandbox is not closed", "; ".join(proof.ways), "it was reached from inside")
        return f"{len(proof.attempts)} ways out tried, none open"

    trials: dict[str, Callable[[], str]] = {
        "repository": lambda: str(Repo.discover(start).root),
        "hooks": lambda: firing.fire(Repo.discover(start)),
        "sandbox": process.require_sandbox,
        "network": reach,
        "limits": _limits_said,
        "night": lambda: _enclosure_proof(start, where, environ),
        "trust": lambda: _trust_said(start, where),
        "model": lambda: _model_said(start, where),
        "disk": lambda: f"{require_space(engines.made(where.cache)) >> 20} MiB free",
        "leftovers": lambda: _left_said(start, where),
        "learning": lambda: learned.said(Repo.discover(start), where),
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


def _enclosure_proof(start: Path, where: Places, environ: Mapping[str, str]) -> str:
    """Start the night's enclosure around a child that starts a sandbox of its own."""
    repo = Repo.discover(start)
    sandbox = enclosure.night_sandbox(repo, where, None, environ)
    try:
        code = process.enclosed(
            [sys.executable, "-P", "-m", "pantheon.cli", "night", "--enclosed", "-1"],
            sandbox=sandbox,
            order=b"",
            keep=(),
            on_ready=lambda: None,
        )
    finally:
        enclosure.tidy(repo)
    if code != 0:
        raise SandboxError("no sandbox in the sandbox, no night", "bwrap", f"it ended with {code}")
    return "an enclosure without network runs, and a tool's sandbox inside it"


def _limits_said() -> str:
    groups = process.groups()
    held = f"control groups (version {groups.version})" if groups else "rlimits and a watchdog: no control group here"
    root = "" if os.geteuid() else "; you are root: an ordinary user's night can do less, see SECURITY.md"
    return f"children are held by {held}{root}"


def _left_said(start: Path, where: Places) -> str:
    """What killed nights left, which is removed where no night runs."""
    repo = Repo.discover(start)
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(nights.alone(repo))
        except RepositoryError as error:
            return f"not looked for: {error.why}"
        gone = leftovers.sweep(repo, where)
    return f"removed: {', '.join(map(plan.printable, gone))}" if gone else "none of a killed night"


def _trust_said(start: Path, where: Places) -> str:
    repo = Repo.discover(start)
    found = trust.look(repo, repo.entries(repo.head().commit), where.state)
    trust.require(found)
    return f"{config.DIRECTORY}/ is as packaged" if not found.foreign else f"{config.DIRECTORY}/ was trusted by you"


def _model_said(start: Path, where: Places) -> str:
    """The model of this repository's nights; where it is a server's, its answer through a relay."""
    repo, base = _base(start)
    settings = read_config(repo, base, repo.entries(base)).settings.engine
    if settings.kind == "scripted":
        return "none: this repository's nights are dry runs"
    if settings.kind == "vllm":
        return str(find_model(settings.model, where.models))

    async def ask(server: engines.Server, way: Path) -> int:
        engine = await engines.ask(server, way)
        await engine.close()
        return engine.max_model_len

    with contextlib.ExitStack() as held:
        server, way = engines.reached(held, config.load_user(where.config).engine, where)
        context = asyncio.run(ask(server, way))
    return f"{plan.printable(server.model)} at {server.url} ({server.to}) answers, {context} tokens of context"


def _base(start: Path) -> tuple[Repo, str]:
    repo = Repo.discover(start)
    return repo, repo.head().commit
