"""How much of its engine a night uses: its tokens per second over those of the same requests without us.

    python bench/saturation.py [--items 142] [--pairs 5] [--corpus DIR] [--busy] [--json FILE]
    python bench/saturation.py --items 12 --pairs 1 --busy         (a look, in two or three minutes)

A night over the corpus (see bench/night.py) is frozen and run on a copy of the repository, its reviewers' canaries
included, and every request that it makes is recorded: prompt, schema, tokens, voice. Then the same requests are sent to
the same server by as many workers as keep its batch full, in the order in which the night sent them, with no flow,
tool, check or git between them: what waited for an answer waits no more. U is the night's generated tokens per second
over the replay's. Both are counted from the first request to the last answer: checks that a later request waited for
are the night's cost, also those of its last items; what comes after the last answer (the gate, the check of each stack,
the report) is not, since no engine waits for it: it is in the column `after`.

One server answers all of it. Before each leg its prefix cache is emptied and then holds what a night begins with:
nothing. Legs come as night, replay, replay, night; a replay has the requests of the night before it. A first night and
a first replay, which warm the machine up and are not counted, come before the pairs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import os
import platform
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent))

from night import CORPUS, build

from pantheon import desk, engines, flight, machine, nights
from pantheon import engine as servers
from pantheon import night as runner
from pantheon.egress import EgressProof
from pantheon.engine import Engine, VllmEngine, expected_window
from pantheon.git import Repo
from pantheon.models import find_model
from pantheon.places import Places, places
from pantheon.records import Completion, EngineMetrics, NightReport, Runtime
from pantheon.survey import survey

IDLE = 0.10  # of the processors' time that others may use
LOOK_S = 4.0
CLOSED = EgressProof(attempts=(), interfaces=("lo",), closed=True)  # the proof of a bench: nothing here tests walls
RESAMPLES = 10_000
TICK_S, HELD_S = 0.01, 0.05
SPARE = 1.25  # workers of a replay for each slot of the server: there is always one that waits


# --- what is asked ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Asked:
    """One request that was answered. `began`: when it entered the server, `sent`: when it was made."""

    runtime: Runtime | None
    prompt: str
    schema: dict[str, Any]
    max_tokens: int
    logprobs: bool
    sent: float
    began: float
    ended: float
    tokens: int
    cached: int


@dataclass
class Log:
    """All requests of a leg, in the order in which they were made; of those without an answer the number."""

    asked: list[Asked] = field(default_factory=list)
    unanswered: int = 0
    progressed: Callable[[int], None] = lambda _: None

    def add(self, one: Asked) -> None:
        self.asked.append(one)
        self.progressed(len(self.asked))


class Recording:
    """An engine that writes down what it is asked, and passes it on as it is."""

    def __init__(self, inner: Engine, log: Log, runtime: Runtime | None = None) -> None:
        self._inner, self._log, self._runtime = inner, log, runtime
        self.name, self.window = inner.name, inner.window

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def model(self) -> str:
        return self._inner.model

    @property
    def max_model_len(self) -> int:
        return self._inner.max_model_len

    def alive(self) -> bool:
        return self._inner.alive()

    def of(self, runtime: Runtime) -> Engine:
        return Recording(self._inner.of(runtime), self._log, runtime)

    def turn(self) -> contextlib.AbstractAsyncContextManager[None]:
        return self._inner.turn()

    def render(self, system: str, user: str) -> str:
        return self._inner.render(system, user)

    async def complete(
        self, prompt: str, *, schema: dict[str, Any], max_tokens: int, deadline_s: float, logprobs: bool = False
    ) -> Completion:
        sent = time.monotonic()
        try:
            done = await self._inner.complete(
                prompt, schema=schema, max_tokens=max_tokens, deadline_s=deadline_s, logprobs=logprobs
            )
        except BaseException:
            self._log.unanswered += 1
            raise
        ended = time.monotonic()
        began = ended - (done.seconds - done.queue_s)
        numbers = {"sent": sent, "began": began, "ended": ended}
        self._log.add(
            Asked(
                runtime=self._runtime,
                prompt=prompt,
                schema=schema,
                max_tokens=max_tokens,
                logprobs=logprobs,
                tokens=done.completion_tokens,
                cached=done.cached_tokens,
                **numbers,
            )
        )
        return done

    async def metrics(self) -> EngineMetrics:
        return await self._inner.metrics()

    async def close(self) -> None:
        raise AssertionError("a night does not end its engine")


# --- legs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Leg:
    """What one night or one replay did. Seconds are from the first request to the last answer, `after_s` beyond them;
    `idle_s`: of them those without any request in the server; `flying`: requests in it on average; `tail_s`: since nine
    tenths of the requests were answered, `items_tail_s`: since nine tenths of the items had ended, to the last one."""

    kind: str
    requests: int
    unanswered: int
    tokens: int
    seconds: float
    after_s: float
    batch: float
    flying: float
    hits: float
    tail_s: float
    idle_s: float
    items: int = 0
    items_tail_s: float = 0.0
    host_cpu_s: float = 0.0
    held_s: float = 0.0  # in which our event loop did not turn, HELD_S or more at a time: nothing was read or sent
    others: float = 0.0  # the share of the processors' time in use just before it

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def idle(spans: Iterable[tuple[float, float]], start: float, end: float) -> float:
    """Seconds between `start` and `end` that no span covers."""
    free, at = 0.0, start
    for began, ended in sorted(spans):
        free += max(0.0, began - at)
        at = max(at, ended)
    return free + max(0.0, end - at)


def tail(ends: Sequence[float]) -> float:
    """From when nine tenths have ended to the end."""
    known = sorted(ends)
    return known[-1] - known[max(0, math.ceil(0.9 * len(known)) - 1)] if known else 0.0


def leg(kind: str, log: Log, ended: float, before: EngineMetrics, after: EngineMetrics, **more: Any) -> Leg:
    """A leg from its requests and the server's counters; `ended`: when all of it was over."""
    asked = log.asked
    start, end = min(one.sent for one in asked), max(one.ended for one in asked)
    steps = after.engine_steps - before.engine_steps
    queries = after.prefix_cache_queries - before.prefix_cache_queries
    return Leg(
        kind=kind,
        requests=len(asked),
        unanswered=log.unanswered,
        tokens=sum(one.tokens for one in asked),
        seconds=end - start,
        after_s=ended - end,
        batch=(after.generation_tokens - before.generation_tokens) / steps if steps else 0.0,
        flying=sum(one.ended - one.began for one in asked) / (end - start),
        hits=(after.prefix_cache_hits - before.prefix_cache_hits) / queries if queries else 0.0,
        tail_s=tail([one.ended for one in asked]),
        idle_s=idle(((one.began, one.ended) for one in asked), start, end),
        **more,
    )


@contextlib.asynccontextmanager
async def turning() -> AsyncIterator[list[float]]:
    """How long the event loop was held at a time, while the context lasts."""
    held: list[float] = []

    async def tick() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(TICK_S)
            late = time.monotonic() - began - TICK_S
            if late >= HELD_S:
                held.append(late)

    ticking = asyncio.create_task(tick())
    try:
        yield held
    finally:
        ticking.cancel()
        await asyncio.gather(ticking, return_exceptions=True)


def cpu_s() -> float:
    """Of this process; what a night's checks used is in its report."""
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return spent.ru_utime + spent.ru_stime


@dataclass
class Stand:
    """The server that answers, the repository as it is copied for each night, and how much of its queue is run."""

    engine: Engine
    template: Path
    place: Path
    items: int
    bar: Progress
    count: int = 0

    async def emptied(self) -> None:
        """The server's prefix cache without anything in it. Raises SystemExit where it refuses."""
        if not isinstance(self.engine, VllmEngine):
            return  # it keeps nothing
        status, said = await self.engine._lines.ask("POST", "/reset_prefix_cache", most=1 << 20, within_s=60)
        if status != 200 or b"false" in said:
            raise SystemExit(f"cannot empty the prefix cache: {status} {said.decode()}")

    async def night(self) -> tuple[Leg, Log]:
        """A whole night on a fresh copy of the repository."""
        self.count += 1
        place = self.place / f"night-{self.count}"
        shutil.copytree(self.template, place / "repo", symlinks=True)
        repo = Repo.discover(place / "repo")
        found = survey(repo, repo.head().commit)
        planned = desk.make_plan(repo, found)
        planned = dataclasses.replace(planned, items=planned.items[: self.items])
        frozen = nights.freeze(
            repo,
            found,
            planned,
            budget_s=6 * 3600.0,
            engine="vllm",
            model=self.engine.model,
            window=expected_window("vllm"),
            widest=flight.WIDEST * expected_window("vllm"),
            now=desk.now(),
            signer=desk.signer(repo),
        )
        log, others, show = Log(), busy(), self._shown("night", len(frozen.items))
        await self.emptied()
        before = await self.engine.metrics()
        async with turning() as held:
            report = await runner.run(
                repo,
                frozen,
                Recording(self.engine, log),
                CLOSED,
                work=place / "work",
                signer=desk.signer(repo),
                now=desk.now,
                progress=runner.Progress(changed=lambda state: show(state.done)),
            )
        ended = time.monotonic()
        ends = [run.started_s + run.seconds for run in (*report.runs, *report.canaries)]
        more = {"items": len(ends), "items_tail_s": tail(ends), "host_cpu_s": report.host_cpu_s, "others": others}
        more["held_s"] = sum(held)
        done = leg("night", log, ended, before, await self.engine.metrics(), **more)
        _sound(report, len(frozen.items))
        shutil.rmtree(place, ignore_errors=True)
        return done, log

    async def replay(self, recorded: Log) -> Leg:
        """The same requests with nothing between them."""
        log, others = Log(), busy()
        await self.emptied()
        queue = iter(sorted(recorded.asked, key=lambda one: one.sent))
        before, cpu = await self.engine.metrics(), cpu_s()
        async with turning() as held:
            log.progressed = self._shown("replay", len(recorded.asked))

            async def worker() -> None:
                for one in queue:
                    voice = self.engine.of(one.runtime) if one.runtime else self.engine
                    await Recording(voice, log, one.runtime).complete(
                        one.prompt,
                        schema=one.schema,
                        max_tokens=one.max_tokens,
                        deadline_s=3600.0,
                        logprobs=one.logprobs,
                    )

            async with asyncio.TaskGroup() as group:
                for _ in range(math.ceil(SPARE * self.engine.window)):
                    group.create_task(worker())
        more = {"host_cpu_s": cpu_s() - cpu, "others": others, "held_s": sum(held)}
        return leg("replay", log, time.monotonic(), before, await self.engine.metrics(), **more)

    def _shown(self, what: str, total: int) -> Callable[[int], None]:
        """How far a leg is, under the bar of all legs; the bar of the leg before goes."""
        for number in self.bar.task_ids[1:]:
            self.bar.remove_task(number)
        job = self.bar.add_task(f"  {what}", total=total)
        return lambda done: self.bar.update(job, completed=done)


def _sound(report: NightReport, items: int) -> None:
    ran = len(report.runs) + len(report.canaries)
    if report.ended != "finished" or ran != items:
        raise SystemExit(f"the night is no measurement: it ended as {report.ended}, {ran} of {items} items ran")


# --- the machine -----------------------------------------------------------------------------------------------------


def _jiffies() -> tuple[int, int]:
    """(in use, all) of the processors' time since the machine started."""
    numbers = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(numbers) - numbers[3] - numbers[4], sum(numbers)


def busy(seconds: float = 1.0) -> float:
    """The share of the processors' time that is in use while we do nothing."""
    used, whole = _jiffies()
    time.sleep(seconds)
    used_then, whole_then = _jiffies()
    return (used_then - used) / max(1, whole_then - whole)


def require_idle(anyway: bool) -> None:
    """Refuse a machine on which others work: a ratio of two legs that others disturb says nothing."""
    share, load = busy(LOOK_S), os.getloadavg()[0]
    if share > IDLE and not anyway:
        seen = f"{100 * share:.0f} % of the processors' time in {LOOK_S:.0f} s, load {load:.1f}"
        raise SystemExit(
            f"cannot measure on this machine: others use it ({seen}; at most {100 * IDLE:.0f} % may be in use); "
            "wait until they are done, or go on all the same with --busy"
        )


# --- figures ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    night: Leg
    replay: Leg

    @property
    def u(self) -> float:
        return self.night.rate / self.replay.rate


def middle(values: Sequence[float]) -> float:
    """Of ratios: the geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def interval(values: Sequence[float], seed: int = 1) -> tuple[float, float]:
    """The 95 % interval of their mean, by the percentiles of resampled pairs."""
    chance = random.Random(seed)
    means = sorted(middle(chance.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return means[int(0.025 * RESAMPLES)], means[int(0.975 * RESAMPLES) - 1]


COLUMNS: tuple[tuple[str, Callable[[Leg], str]], ...] = (
    ("requests", lambda one: f"{one.requests}" + (f" (+{one.unanswered} unanswered)" if one.unanswered else "")),
    ("tokens", lambda one: f"{one.tokens}"),
    ("seconds", lambda one: f"{one.seconds:.1f}"),
    ("tokens/s", lambda one: f"{one.rate:.1f}"),
    ("batch", lambda one: f"{one.batch:.1f}"),
    ("in flight", lambda one: f"{one.flying:.1f}"),
    ("prefix hits", lambda one: f"{100 * one.hits:.1f} %"),
    ("tail s", lambda one: f"{one.tail_s:.1f}" + (f" ({one.items_tail_s:.1f})" if one.items else "")),
    ("idle s", lambda one: f"{one.idle_s:.1f}"),
    ("after s", lambda one: f"{one.after_s:.1f}"),
    ("held s", lambda one: f"{one.held_s:.1f}"),
    ("host CPU s", lambda one: f"{one.host_cpu_s:.1f}"),
    ("others", lambda one: f"{100 * one.others:.0f} %"),
)


def show(pairs: Sequence[Pair], out: Console) -> None:
    table = Table(title="a night beside its own requests", box=None, pad_edge=False)
    for name in ("pair", "", *(name for name, _ in COLUMNS), "U"):
        table.add_column(name, justify="left" if name in ("pair", "") else "right")
    for number, pair in enumerate(pairs, 1):
        for one in (pair.night, pair.replay):
            u = f"{pair.u:.3f}" if one is pair.night else ""
            table.add_row(str(number), one.kind, *(cell(one) for _, cell in COLUMNS), u)
    out.print(table)
    values = [pair.u for pair in pairs]
    low, high = interval(values) if len(values) > 1 else (math.nan, math.nan)
    said = f"95 % {low:.3f} to {high:.3f}" if len(values) > 1 else "one pair has no interval"
    out.print(f"\nU = {middle(values):.3f} ({said}; {len(values)} pair(s), resampled)")
    out.print("tail: since 90 % of the requests were answered (since 90 % of the items had ended)")
    out.print("held: our event loop did not turn for 50 ms or more; prefix cache: emptied before every leg")
    out.print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()}"
    )


async def measured(options: argparse.Namespace, where: Places, place: Path, out: Console) -> list[Pair]:
    template = place / "template"
    build(template, options.corpus)
    pairs: list[Pair] = []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    environ = servers._server_env  # with the one endpoint that empties its cache: no server of a night has it

    def opened(cpu: bool) -> dict[str, str]:
        return {**environ(cpu), "VLLM_SERVER_DEV_MODE": "1"}

    machine.give_way()  # as in a night
    with mock.patch("pantheon.engine._server_env", opened):
        model = find_model("default", where.models)
        async with engines.engine_by_day("vllm", model, where, quiet=False) as engine:
            with Progress(*columns, console=out) as bar:
                job = bar.add_task("legs", total=2 * options.pairs + 2 * (not options.cold))
                stand = Stand(engine, template, place, options.items, bar)

                def told(one: Leg) -> Leg:
                    bar.advance(job)
                    bar.console.print(
                        f"{one.kind}: {one.tokens} tokens in {one.seconds:.1f} s, {one.rate:.1f} a second"
                    )
                    return one

                recorded: Log | None = None
                if not options.cold:
                    warm, recorded = await stand.night()
                    told(warm)
                    told(await stand.replay(recorded))
                for number in range(options.pairs):
                    if number % 2 and recorded is not None:
                        beside = told(await stand.replay(recorded))
                        night, recorded = await stand.night()
                        told(night)
                    else:
                        night, recorded = await stand.night()
                        told(night)
                        beside = told(await stand.replay(recorded))
                    pairs.append(Pair(night, beside))
    return pairs


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--items", type=int, default=1_000_000, help="at most so many of the corpus (default: all)")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--cold", action="store_true", help="leave out the first night and replay, which warm up")
    parser.add_argument("--busy", action="store_true", help="measure although others use the machine")
    parser.add_argument("--json", type=Path, help="write the legs here as well")
    options = parser.parse_args()
    require_idle(options.busy)
    place = Path(tempfile.mkdtemp(prefix="pantheon-bench-"))
    known = places(os.environ)
    where = known._replace(state=place / "state")  # its log; what was compiled before is used again
    out = Console(width=None if sys.stdout.isatty() else 180)
    try:
        pairs = asyncio.run(measured(options, where, place, out))
        show(pairs, out)
        if options.json:
            rows = [{"u": one.u, "legs": [vars(one.night), vars(one.replay)]} for one in pairs]
            options.json.write_text(json.dumps(rows, indent=1) + "\n")
        return 0
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
