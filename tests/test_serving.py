"""How a night is served: on a CPU nobody is in one batch with an adapter that is not theirs."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pantheon.serving import choose

VOICES = st.sets(st.sampled_from(["", "one", "two", "three"]))


@given(VOICES)
def test_a_gpu_never_waits_for_turns_of_adapters(voices: set[str]) -> None:
    assert choose(voices, cpu=False).mode in ("one", "adapters")


@given(VOICES, st.floats(1, 300))
def test_on_a_cpu_adapters_are_never_beside_each_other(voices: set[str], start_s: float) -> None:
    found = choose(voices, cpu=True, start_s=start_s)
    assert found.mode == ("phases" if voices - {""} else "one")
    assert found.why


def test_a_teacher_always_takes_turns() -> None:
    assert choose({""}, cpu=False, models=2).mode == "phases"


def test_the_choice_tells_what_it_costs() -> None:
    assert "2 starts of about 31 s" in choose({"", "one"}, cpu=True, start_s=31.2).why
