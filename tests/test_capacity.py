"""Capacity: formulas against published tables and simulations, figures against reports, forecasts against nights."""

from __future__ import annotations

import math
import random
from collections.abc import Generator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import mean

import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon import capacity, measured, queueing
from pantheon.records import (
    Canary,
    CheckResult,
    FlowQuality,
    Forecast,
    Item,
    Night,
    NightReport,
    NodeMetrics,
    Outcome,
    ReviewerFigures,
    Run,
    Share,
)

# --- formulas --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("servers", "load", "waits"),
    [
        # Dunlop, Girma and Irvine, Digital Mobile Communications and the TETRA System (1999), A.4, the table of
        (8, 3.87, 0.05),  # Erlang C: offered traffic at 5%
        (10, 4.08, 0.01),  # and at 1% delayed
        (55, 48.0, 0.239),  # Mitan, The Erlang-C formula: 360 calls in half an hour, 240 s each, 55 agents
        (3, 2.0, 4 / 9),  # Gross and Harris, Fundamentals of Queueing Theory: the eye clinic
        (2, 2 / 3, 1 / 6),  # Hillier and Lieberman, Introduction to Operations Research: the county hospital, s = 2
        (1, 2 / 3, 2 / 3),  # and s = 1
    ],
)
def test_erlang_c_agrees_with_published_tables(servers: int, load: float, waits: float) -> None:
    assert queueing.erlang_c(servers, load) == pytest.approx(waits, abs=5e-4)


@pytest.mark.parametrize(
    ("arrivals", "service", "servers", "wait"),
    [
        (0.2, 1 / 240, 55, 8.2),  # Mitan: seconds
        (6.0, 3.0, 3, 4 / 27),  # Gross and Harris: hours; 8/9 of a patient waits
        (2.0, 3.0, 2, 1 / 24),  # Hillier and Lieberman: hours
        (2.0, 3.0, 1, 2 / 3),
    ],
)
def test_the_mean_wait_agrees_with_published_examples(
    arrivals: float, service: float, servers: int, wait: float
) -> None:
    assert queueing.mean_wait(arrivals, service, servers) == pytest.approx(wait, rel=5e-3)


def test_the_eye_clinic_waits_as_littles_law_says() -> None:
    assert queueing.in_system(6, queueing.mean_wait(6, 3, 3)) == pytest.approx(8 / 9)


@given(st.floats(0.01, 0.99))
def test_one_server_is_the_queue_of_the_textbook(rho: float) -> None:
    assert queueing.erlang_c(1, rho) == pytest.approx(rho)
    assert queueing.mean_wait(rho, 1, 1) == pytest.approx(rho / (1 - rho))


@given(st.integers(1, 300), st.floats(0.01, 0.98), st.floats(0.001, 0.019))
def test_the_wait_rises_with_the_load_and_falls_with_servers(servers: int, rho: float, more: float) -> None:
    now = queueing.mean_wait(rho * servers, 1, servers)
    assert 0 <= now <= queueing.mean_wait((rho + more) * servers, 1, servers)
    assert queueing.mean_wait(rho * servers, 1, servers + 1) <= now
    assert queueing.erlang_b(servers, rho * servers) <= queueing.erlang_c(servers, rho * servers) <= 1


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 10_000), st.floats(0, 2))
def test_ten_thousand_servers_overflow_nothing(servers: int, rho: float) -> None:
    assert 0 <= queueing.erlang_c(servers, rho * servers) <= 1
    assert queueing.mean_wait(rho * servers + 1e-9, 1, servers) >= 0


def test_from_full_use_on_the_wait_has_no_end() -> None:
    assert queueing.utilisation(40, 1, 40) == 1
    assert math.isinf(queueing.mean_wait(40, 1, 40))
    assert queueing.erlang_c(40, 41) == 1


def test_the_window_hides_the_tools_behind_the_engine() -> None:
    assert queueing.window(32, 0, 4) == 32
    assert queueing.window(32, 1, 4) == 40
    assert queueing.amortised_latency(2, 8, 3, 16) == 5.5


def test_a_joint_false_pass_rate_is_not_a_square() -> None:
    found = queueing.accepted_work(100, 0.5, 0.9, 0.2)
    assert (found.accepted, found.right) == pytest.approx((55, 45))
    assert found.precision == pytest.approx(45 / 55)
    assert queueing.right_share(0.55, 0.9, 0.2) == pytest.approx(0.5)
    assert queueing.right_share(0.5, 0.3, 0.3) is None
    assert queueing.accepted_work(10, 0.0, 0.9, 0.0).precision is None


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_what_is_right_before_the_gate_is_found_again_behind_it(right: float, one: float, other: float) -> None:
    false, true = sorted((one, other))
    if true - false > 0.01:
        passed = queueing.accepted_work(1, right, true, false).accepted
        assert queueing.right_share(passed, true, false) == pytest.approx(right, abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.floats(0, 0.6), st.floats(0.05, 0.4), st.floats(0.5, 8))
def test_a_learning_curve_is_found_again(p0: float, gain: float, bend: float) -> None:
    curve = queueing.Learning(p0, p0 + gain, bend / 800, 0)
    found = queueing.fit_learning([(n, curve.at(n), 200) for n in (0, 25, 50, 100, 200, 400, 800)])
    assert found is not None
    assert [found.at(n) for n in (10, 150, 600)] == pytest.approx([curve.at(n) for n in (10, 150, 600)], abs=0.01)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 1), st.integers(0, 500)), max_size=12))
def test_a_learning_curve_never_leaves_what_a_rate_can_be(points: list[tuple[int, float, int]]) -> None:
    found = queueing.fit_learning(points)
    if len({n for n, _, w in points if w}) >= 3:
        assert found is not None
        assert 0 <= found.p0 <= found.pmax <= 1 + 1e-9
        assert found.alpha > 0
    else:
        assert found is None


# --- simulations -----------------------------------------------------------------------------------------------------


def open_queue(arrivals: float, service: float, servers: int, count: int, seed: int) -> list[float]:
    """The waits of an M/M/c queue, its first tenth left out."""
    chance, world = random.Random(seed), simpy.Environment()
    desk, waits = simpy.Resource(world, servers), list[float]()

    def visit() -> Generator[simpy.Event, object]:
        came = world.now
        with desk.request() as turn:
            yield turn
            waits.append(world.now - came)
            yield world.timeout(chance.expovariate(service))

    def street() -> Generator[simpy.Event, object]:
        for _ in range(count):
            yield world.timeout(chance.expovariate(arrivals))
            world.process(visit())

    world.process(street())
    world.run()
    return waits[count // 10 :]


@pytest.mark.parametrize(("arrivals", "servers"), [(1.5, 2), (2.1, 3), (24.0, 32)])
def test_erlang_c_agrees_with_a_simulation(arrivals: float, servers: int) -> None:
    waits = open_queue(arrivals, 1.0, servers, 20_000, seed=7)
    assert mean(wait > 0 for wait in waits) == pytest.approx(queueing.erlang_c(servers, arrivals), abs=0.03)
    assert mean(waits) == pytest.approx(queueing.mean_wait(arrivals, 1.0, servers), rel=0.12, abs=0.003)


@dataclass
class Engine:
    """An engine that batches as ours does: a step costs fixed + each * batch and gives every request one token."""

    world: simpy.Environment
    fixed: float
    each: float
    slots: int
    left: dict[simpy.Event, int] = field(default_factory=dict)
    used: dict[simpy.Event, float] = field(default_factory=dict)
    free: simpy.Resource = field(init=False)
    awake: simpy.Event = field(init=False)

    def __post_init__(self) -> None:
        self.free, self.awake = simpy.Resource(self.world, self.slots), self.world.event()
        self.world.process(self.steps())

    def steps(self) -> Generator[simpy.Event, object]:
        while True:
            if not self.left:
                self.awake = self.world.event()
                yield self.awake
            batch = list(self.left)
            cost = self.fixed + self.each * len(batch)
            yield self.world.timeout(cost)
            for answer in batch:
                self.used[answer] += cost / len(batch)
                self.left[answer] -= 1
                if not self.left[answer]:
                    del self.left[answer]
                    answer.succeed()

    def ask(self, tokens: int) -> Generator[simpy.Event, object, tuple[float, float, float]]:
        """(seconds until a slot was free, seconds in it, share of the engine's time) of one answer."""
        came = self.world.now
        with self.free.request() as turn:
            yield turn
            began, answer = self.world.now, self.world.event()
            self.left[answer], self.used[answer] = tokens, 0.0
            if not self.awake.triggered:
                self.awake.succeed()
            yield answer
            return began - came, self.world.now - began, self.used.pop(answer)


CHECKS = 2  # at once


@dataclass(frozen=True)
class Shape:
    """What a simulated night is made of; seconds."""

    fixed: float = 0.08
    each: float = 0.0075
    slots: int = 32
    window: int = 40
    calls: int = 4
    tokens: int = 29
    tool_s: float = 1.0
    check_s: float = 0.0
    told: bool = False  # whether the checks' node measures its wait
    right: float = 0.6
    engine: str = "vllm"
    speed: float = 1.0


def night(shape: Shape, count: int, seed: int, budget_s: float = 1e9, flow: str = "docops") -> NightReport:
    """A whole night in simulation, with the metrics that a real one writes."""
    chance, world = random.Random(seed), simpy.Environment()
    engine = Engine(world, shape.fixed / shape.speed, shape.each / shape.speed, shape.slots)
    room = simpy.Resource(world, CHECKS)
    runs, queue = list[Run](), list(range(count))

    def item(number: int) -> Generator[simpy.Event, object]:
        began = world.now
        waited = inside = shared = tools = 0.0
        words = 0
        calls = chance.choice((shape.calls - 1, shape.calls, shape.calls + 1))
        for _ in range(calls):
            tokens = max(1, round(chance.gauss(shape.tokens, shape.tokens / 4)))
            queue_s, busy_s, engine_s = yield from engine.ask(tokens)
            tool_s = chance.expovariate(1 / shape.tool_s)
            yield world.timeout(tool_s)
            waited, inside, shared, tools = waited + queue_s, inside + busy_s, shared + engine_s, tools + tool_s
            words += tokens
        checks = list[CheckResult]()
        room_s = NodeMetrics()
        if shape.check_s:
            came = world.now
            with room.request() as turn:
                yield turn
                check_s = chance.gauss(shape.check_s, shape.check_s / 5)
                yield world.timeout(check_s)
                checks.append(CheckResult(name="tests", passed=True, seconds=check_s / 1.1))
                room_s = NodeMetrics(seconds=world.now - came, tool_s=check_s / 1.1)
        runs.append(
            run(
                number,
                flow=flow,
                outcome=Outcome.ACCEPTED if chance.random() < shape.right else Outcome.FAILED,
                seconds=world.now - began,
                checks=tuple(checks),
                metrics={
                    "edit": NodeMetrics(
                        seconds=world.now - began, queue_s=waited, decode_s=inside, engine_s=shared, tool_s=tools,
                        model_calls=calls, completion_tokens=words,
                    ),
                    **({"checks": room_s} if shape.told else {}),
                },
            )
        )  # fmt: skip

    def hand() -> Generator[simpy.Event, object]:
        while queue and world.now < budget_s:
            yield world.process(item(queue.pop()))

    hands = [world.process(hand()) for _ in range(min(shape.window, count))]
    world.run(world.all_of(hands) | world.timeout(budget_s + capacity.GRACE_S))
    return report(
        runs, number=seed, wall_s=world.now, window=shape.window, engine=shape.engine, items=count,
        ended="budget" if queue else "finished",
    )  # fmt: skip


def run(number: int, *, flow: str = "docops", outcome: Outcome = Outcome.ACCEPTED, **more: object) -> Run:
    item = Item(id=f"{number:016x}", task="t", flow=flow, target=f"docs/{number}.md", blob="1" * 40, findings=())
    base = Run(
        id=f"{number:032x}", night="n", item=item, base="0" * 40, outcome=outcome, nodes={"edit": "passed"},
        agents=("doc.edit@1",), node_agents={"edit": "doc.edit@1"},
    )  # fmt: skip
    return base.model_copy(update=more)


def report(
    runs: list[Run],
    *,
    number: int = 1,
    wall_s: float,
    window: int = 40,
    engine: str = "vllm",
    model: str = "small",
    items: int = 0,
    **more: object,
) -> NightReport:
    began = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number)
    frozen = Night(
        id=f"{began:%Y-%m-%d}-1", started_at=began, base="0" * 40, branch="main", budget_s=3600, window=window,
        engine=engine, model=model, items=items or len(runs),
    )  # fmt: skip
    base = NightReport(
        night=frozen, finished_at=began + timedelta(seconds=wall_s), ended="finished", runs=tuple(runs), left=0,
        wall_s=wall_s,
    )  # fmt: skip
    return base.model_copy(update=more)


@pytest.mark.parametrize(("population", "slots", "outside"), [(40, 32, 2.0), (40, 32, 40.0), (12, 8, 3.0), (5, 8, 1.0)])
def test_the_closed_model_agrees_with_a_simulation_within_five_percent(
    population: int, slots: int, outside: float
) -> None:
    """W items that go between c slots and a tool stage: throughput by the machine-repair model."""
    chance, world = random.Random(3), simpy.Environment()
    engine, done = simpy.Resource(world, slots), list[float]()

    def item() -> Generator[simpy.Event, object]:
        while True:
            with engine.request() as turn:
                yield turn
                yield world.timeout(chance.expovariate(1.0))
            done.append(world.now)
            yield world.timeout(chance.expovariate(1 / outside))

    for _ in range(population):
        world.process(item())
    stage = queueing.closed(population, lambda m: m / outside, float, slots)
    until = 12_000 / stage.rate
    world.run(until=until)
    assert len([at for at in done if at > until / 10]) / (0.9 * until) == pytest.approx(stage.rate, rel=0.05)
    assert stage.inside + stage.rate * outside == pytest.approx(population)  # Little's law on both stages


def test_a_closed_model_of_a_thousand_items_overflows_nothing() -> None:
    stage = queueing.Stations(1, 32, check_s=0.01, check_slots=2, outside_s=0.001).stage(4096)
    assert stage.rate == pytest.approx(32, rel=1e-6)
    assert queueing.Stations(1, 4).stage(10) == queueing.Stage(4, 10, 6)


# --- forecasts -------------------------------------------------------------------------------------------------------


def measure(*reports: NightReport, engine: str = "", model: str = "", slots: int = 0) -> measured.Measured:
    return measured.measure(reports, engine, model, slots, CHECKS)


def test_an_agent_is_measured_by_its_requests() -> None:
    one = NodeMetrics(seconds=9, queue_s=1, prefill_s=1, decode_s=3, engine_s=0.5, model_calls=2, completion_tokens=60)
    found = measure(report([run(n, seconds=10.0, metrics={"edit": one}) for n in range(10)], wall_s=40), slots=2)
    (agent,) = found.agents
    assert (agent.agent, agent.nodes, agent.calls) == ("doc.edit@1", 10, 20)
    assert (agent.mu, agent.engine_s, agent.tau, agent.batch) == (0.5, 0.25, 4.0, 8.0)
    assert (agent.calls_per_item, agent.tokens_per_call) == (2.0, 30.0)
    assert (agent.passed.hits, agent.passed.of) == (10, 10)
    (flow,) = found.flows
    assert (flow.items, flow.busy_s, flow.engine_s, flow.outside_s, flow.wall_s) == (10, 4.0, 0.5, 5.0, 4.0)
    queue = measured.load(found)
    assert queue is not None
    assert (queue.arrivals, queue.mu, queue.rho, queue.measured_wait_s) == (0.5, 0.5, 0.5, 0.5)
    assert queue.waits == pytest.approx(queueing.erlang_c(2, 1.0))


def test_the_batch_of_a_simulated_night_is_the_engines() -> None:
    found = measure(night(Shape(), 200, seed=1))
    assert found.batch == pytest.approx(30, abs=2)
    assert found.rise_measured
    assert found.rise == pytest.approx(0.0075 * 30 / (0.08 + 0.0075 * 30), abs=0.25)
    rho = measured.load(found)
    assert rho is not None
    assert rho.rho == pytest.approx(0.85, abs=0.1)


def test_a_dry_run_is_no_evidence_and_neither_is_another_model() -> None:
    scripted = report([run(1)] * 5, number=9, wall_s=1, engine="scripted")
    large = report([run(2)] * 5, number=2, wall_s=90, model="large")
    small = report([run(3)] * 5, number=3, wall_s=50)
    assert [n.wall_s for n in measure(scripted, large, small).nights] == [50]
    assert [n.wall_s for n in measure(scripted, large, small, engine="vllm", model="large").nights] == [90]
    assert [n.wall_s for n in measure(scripted, large, small, engine="scripted").nights] == [1]
    assert [n.wall_s for n in measure(scripted, small, large, engine="vllm").nights] == [50]
    assert measure(scripted, small, engine="vllm", model="never").nights == ()
    assert measure(small, engine="openai").nights == ()
    assert measure(scripted).nights == ()
    assert capacity.forecast({"docops": 5}, 0, 600, measure(scripted)) is None
    assert measure() == measured.Measured()


def test_nights_from_before_there_were_metrics_give_their_wall_time() -> None:
    found = measure(report([run(n, seconds=40.0) for n in range(50)], wall_s=100))
    assert "1 night measured no engine time: wall time per item is used" in found.notes
    assert found.batch is None
    assert measured.load(found) is None
    assert found.agents[0].mu is None
    expected = capacity.forecast({"docops": 100}, 0, 3600, found)
    assert expected is not None
    assert expected.seconds[0] < 200 < expected.seconds[1]
    assert capacity.what_if("twice", {"docops": 100}, 0, 3600, found, speed=2) is None


def test_a_resumed_night_is_not_timed() -> None:
    """Its report has all the runs and the wall time of its last part."""
    found = measure(report([run(n, seconds=40.0) for n in range(100)], wall_s=10))
    assert not found.nights[0].timed
    assert found.notes[-1] == "1 night resumed after an interruption: not timed"
    assert capacity.forecast({"docops": 10}, 0, 600, found) is None


def test_a_night_whose_window_grew_is_timed_by_how_far_it_might_grow() -> None:
    many = report([run(n, seconds=90.0) for n in range(100)], wall_s=100)
    assert not measure(many).nights[0].timed, "90 at once do not fit into a window of 40"
    grown = many.model_copy(update={"night": many.night.model_copy(update={"widest": 120})})
    assert measure(grown).nights[0].timed


def test_canaries_cost_time_and_are_accepted_nowhere() -> None:
    seed = Canary(good=False, kind="wrong-title", tree="0" * 40)
    own = [run(n, seconds=20.0) for n in range(40)]
    seeded = [
        run(100 + n, outcome=Outcome.SEEDED, seconds=10.0, item=run(100 + n).item.model_copy(update={"canary": seed}))
        for n in range(20)
    ]
    found = measure(report(own, wall_s=100, canaries=tuple(seeded)))
    assert {one.seeded: (one.items, one.wall_s, one.passed.of) for one in found.flows} == {
        False: (40, 2.0, 40),
        True: (20, 1.0, 0),
    }
    without, with_ = (capacity.forecast({"docops": 40}, count, 3600, found) for count in (0, 20))
    assert without is not None
    assert with_ is not None
    assert math.prod(without.seconds) ** 0.5 == pytest.approx(80, rel=0.01)
    assert math.prod(with_.seconds) ** 0.5 == pytest.approx(100, rel=0.01)
    assert with_.accepted == without.accepted
    tight = capacity.forecast({"docops": 40}, 20, 50, found)
    assert tight is not None
    assert tight.items == pytest.approx(20, abs=1)
    assert tight.seconds[1] <= 80


@pytest.mark.parametrize(
    ("shape", "before", "now"),
    [
        (Shape(), 60, 300),
        (Shape(), 200, 20),
        (Shape(), 20, 200),
        (Shape(tool_s=10), 60, 150),
        (Shape(each=0), 60, 300),
        (Shape(slots=8, window=10), 20, 100),
        (Shape(check_s=3), 60, 300),
        (Shape(check_s=3), 300, 10),
        (Shape(check_s=1), 20, 200),
        (Shape(check_s=3, told=True), 300, 10),
        (Shape(check_s=3, told=True), 20, 200),
    ],
)
def test_the_night_after_one_night_falls_into_its_forecast(shape: Shape, before: int, now: int) -> None:
    """Other sizes, engines, tools and checks; the middle of the seconds within 30%."""
    expected = capacity.forecast({"docops": now}, 0, 1e9, measure(night(shape, before, seed=1)))
    assert expected is not None
    found = capacity.error(expected, night(shape, now, seed=2))
    assert found.seconds.inside
    if now > 10:
        assert found.seconds.error == pytest.approx(0, abs=0.3)
    assert found.accepted.inside
    assert expected.seconds[1] / expected.seconds[0] < 6


def test_ninety_percent_of_nights_fall_into_their_forecast() -> None:
    """A machine that is a tenth faster or slower from night to night: over 24 nights, 80 to 100% inside."""
    chance, seconds, accepted = random.Random(5), [], []
    for seed in range(24):
        past = [night(Shape(speed=math.exp(chance.gauss(0, 0.1))), 50, seed=100 * seed + n) for n in (1, 2)]
        expected = capacity.forecast({"docops": 80}, 0, 1e9, measure(*past))
        assert expected is not None
        came = capacity.error(expected, night(Shape(speed=math.exp(chance.gauss(0, 0.1))), 80, seed=100 * seed + 9))
        seconds.append(came.seconds.inside)
        accepted.append(came.accepted.inside)
    assert mean(seconds) >= 0.8
    assert mean(accepted) >= 0.8


def test_a_budget_ends_the_night_where_the_forecast_says() -> None:
    found = measure(night(Shape(), 60, seed=1))
    expected = capacity.forecast({"docops": 600}, 0, 300, found)
    assert expected is not None
    came = night(Shape(), 600, seed=2, budget_s=300)
    assert expected.items == pytest.approx(len(came.runs), rel=0.15)
    assert expected.seconds[0] <= came.wall_s <= expected.seconds[1] <= 330
    later = capacity.forecast({"docops": 600}, 0, 1e9, measure(came))
    assert later is not None
    assert capacity.error(later, night(Shape(), 600, seed=3)).seconds.inside


def test_more_nights_make_a_narrower_range() -> None:
    def width(count: int) -> float:
        found = capacity.forecast({"docops": 60}, 0, 1e9, measure(*(night(Shape(), 60, seed=n) for n in range(count))))
        assert found is not None
        assert found.nights == count
        return found.seconds[1] / found.seconds[0]

    assert width(6) < width(2) < width(1)


def test_a_flow_that_never_ran_costs_what_others_cost_and_promises_nothing() -> None:
    found = measure(night(Shape(), 60, seed=1))
    known, unknown = (capacity.forecast({flow: 40}, 0, 1e9, found) for flow in ("docops", "never"))
    assert known is not None
    assert unknown is not None
    assert unknown.seconds == known.seconds
    assert unknown.accepted == (0, 40)


ANY = st.one_of(st.floats(), st.just(0.0), st.floats(0, 100))
COUNT = st.one_of(st.integers(), st.integers(0, 50))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_report_that_holds_anything_breaks_nothing(data: st.DataObject) -> None:
    def figures() -> NodeMetrics:
        names = ("seconds", "queue_s", "prefill_s", "decode_s", "tool_s", "engine_s")
        counts = {"model_calls": data.draw(COUNT), "completion_tokens": data.draw(COUNT)}
        return NodeMetrics().model_copy(update={name: data.draw(ANY) for name in names} | counts)

    runs = [
        run(
            n, seconds=data.draw(ANY), metrics={"edit": figures(), "checks": figures()},
            checks=(CheckResult(name="t", passed=True).model_copy(update={"seconds": data.draw(ANY)}),),
        )
        for n in range(data.draw(st.integers(0, 6)))
    ]  # fmt: skip
    odd = report(runs, wall_s=0.0, window=data.draw(COUNT)).model_copy(
        update={"wall_s": data.draw(ANY), "mean_batch": data.draw(ANY)}
    )
    found = measure(odd, report([run(n, seconds=9.0) for n in range(4)], number=2, wall_s=20))
    expected = capacity.forecast({"docops": data.draw(st.integers(0, 500))}, 3, 3600, found)
    assert expected is not None
    assert all(math.isfinite(value) and value >= 0 for value in (*expected.seconds, *expected.accepted))
    capacity.what_if("x", {"docops": 10}, 0, 3600, found, speed=2)
    capacity.error(expected, odd)
    span = (data.draw(ANY), data.draw(ANY))
    capacity.error(Forecast(items=1, seconds=span, accepted=span, nights=1), odd)
    measured.load(found)
    for one in found.nights:
        capacity.batch_advice(one)


def test_how_wrong_a_forecast_was() -> None:
    expected = Forecast(items=10, seconds=(50, 200), accepted=(2, 6), nights=1)
    found = capacity.error(expected, report([run(n) for n in range(8)], wall_s=250))
    assert (found.items.actual, found.items.error) == (8, 0.25)
    assert (found.seconds.inside, found.seconds.error) == (False, -0.6)
    assert (found.accepted.actual, found.accepted.inside, found.accepted.error) == (8, False, -0.5)
    assert capacity.error(expected, report([], wall_s=1)).accepted.error is None


QUEUE = {"docops": 400}


def test_another_engine_gives_what_its_simulation_gives() -> None:
    """Speed and slots of an engine that nobody ran, within 20% of that engine's own night."""
    found = measure(night(Shape(), 200, seed=1))

    def seconds(**other: float) -> float:
        scenario = capacity.what_if("other", QUEUE, 0, 1e9, found, **other)  # type: ignore[arg-type]
        assert scenario is not None
        return scenario.seconds

    assert seconds() == pytest.approx(night(Shape(), 400, seed=2).wall_s, rel=0.1)
    assert seconds(speed=3) == pytest.approx(night(Shape(speed=3), 400, seed=2).wall_s, rel=0.2)
    assert seconds(slots=16) == pytest.approx(night(Shape(slots=16), 400, seed=2).wall_s, rel=0.2)
    wide = night(Shape(slots=64, window=80), 400, seed=2)
    assert seconds(slots=64, window=80) == pytest.approx(wide.wall_s, rel=0.2)


def test_a_faster_engine_does_not_make_the_checks_faster() -> None:
    """Two checks at once of 3 s each: 200 items take 300 s, whatever the engine."""
    found = measure(night(Shape(check_s=3), 200, seed=1))
    assert found.nights[0].checks > 0.85
    fast = capacity.what_if("fast", {"docops": 200}, 0, 1e9, found, speed=3)
    wide = capacity.what_if("wide", {"docops": 200}, 0, 1e9, found, slots=64, window=80)
    for scenario in (fast, wide):
        assert scenario is not None
        assert scenario.seconds == pytest.approx(night(Shape(check_s=3, speed=3), 200, seed=2).wall_s, rel=0.15)
        assert scenario.checks > 0.95


def test_what_more_of_the_engine_gives() -> None:
    found = measure(night(Shape(), 200, seed=1))
    now = capacity.what_if("now", QUEUE, 0, 120, found)
    fast = capacity.what_if("fast", QUEUE, 0, 120, found, speed=2)
    narrow = capacity.what_if("narrow", QUEUE, 0, 120, found, slots=8)
    assert now is not None
    assert fast is not None
    assert narrow is not None
    assert narrow.items < now.items < fast.items
    assert narrow.accepted < now.accepted < fast.accepted
    assert narrow.wait_s > now.wait_s >= 0
    assert now.batch == pytest.approx(now.rho * 32)
    assert narrow.rho > 0.99


@pytest.mark.parametrize(
    ("night", "said"),
    [
        ({"batch": 3.2, "queued": 12, "window": 40}, "too few items in the queue to fill the batch (12 for a window"),
        ({"batch": 3.2, "queued": 90, "window": 40}, "items are cut too coarse"),
        ({"batch": 3.2, "queued": 90, "window": 4}, "the window is 4"),
        ({"batch": 3.2, "queued": 90, "window": 40, "checks": 0.93}, "the checks hold it back"),
        ({"batch": 3.2, "queued": 12, "window": 40, "checks": 0.93}, "the checks hold it back"),
        ({"batch": 9.0, "queued": 90, "window": 40}, ""),
        ({"batch": None, "queued": 90, "window": 40}, ""),
    ],
)
def test_a_small_batch_is_blamed_on_its_cause(night: dict[str, object], said: str) -> None:
    figures = measured.NightFigures(night="n", items={}).model_copy(update=night)
    advice = capacity.batch_advice(figures)
    assert said in advice
    assert bool(said) == bool(advice)


def test_the_gates_rates_say_how_many_accepted_changes_are_right() -> None:
    judged = FlowQuality(
        flow="docops",
        reviewers=(
            ReviewerFigures(
                node="review-a", agent="review.a@1", sensitivity=Share(hits=9, of=10), specificity=Share(),
                passed=Share(),
            ),
        ),
        true_pass=Share(hits=9, of=10),
        false_pass=Share(hits=1, of=10),
    )  # fmt: skip
    runs = [run(n, outcome=Outcome.ACCEPTED if n < 5 else Outcome.FAILED) for n in range(10)]
    (flow,) = measure(report(runs, wall_s=50, quality=(judged,))).flows
    assert flow.sensitivity["review-a"].hits == 9
    assert capacity.right_of(flow).value == pytest.approx(0.9)
    assert capacity.right_of(measured.FlowFigures(flow="docops")).value is None
