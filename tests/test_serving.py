"""How a night is served: what a choice costs decides, and the choice says its figures."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pantheon.serving import CALL_S, SLOW_ADAPTER, SLOW_OTHERS, START_S, choose

CALLS = st.dictionaries(st.sampled_from(["", "one", "two", "three"]), st.floats(0, 1e5), max_size=4)


@given(CALLS)
def test_a_gpu_never_waits_for_turns_of_adapters(calls: dict[str, float]) -> None:
    assert choose(calls, cpu=False).mode in ("one", "adapters")


@given(CALLS, st.floats(1, 300), st.floats(0.01, 10))
def test_on_a_cpu_turns_are_taken_exactly_where_they_cost_less(
    calls: dict[str, float], start_s: float, call_s: float
) -> None:
    found = choose(calls, cpu=True, start_s=start_s, call_s=call_s)
    used = [name for name, count in calls.items() if name and count > 0]
    others = calls.get("", 0.0)
    lost = call_s * (sum(calls[n] for n in used) * (SLOW_ADAPTER - 1) + others * (SLOW_OTHERS - 1))
    starts = start_s * (len(used) + (others > 0) - 1)
    assert found.mode == ("one" if not used else "phases" if starts < lost else "adapters")
    assert found.why


def test_a_teacher_always_takes_turns() -> None:
    assert choose({"": 1.0}, cpu=False, models=2).mode == "phases"


def test_about_seventy_calls_pay_for_a_start() -> None:
    few, many = {"": 10.0, "one": 10.0}, {"": 200.0, "one": 200.0}
    assert choose(few, cpu=True, start_s=START_S, call_s=CALL_S).mode == "adapters"
    assert choose(many, cpu=True, start_s=START_S, call_s=CALL_S).mode == "phases"
