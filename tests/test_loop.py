"""The agent's state machine: every path ends, nothing outside the offers is ever called."""

from __future__ import annotations

import json

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pantheon import loop
from pantheon.records import AgentLimits, Completion, Offer

TITLE = Offer(tool="set_field", args={"field": ("title",), "value": ("Tides", "Boats")})
TAGS = Offer(tool="set_field", args={"field": ("tags",), "value": ("tide", "boat", "rope")})
DONE = Offer(tool="finalize", args={})
LIMITS = AgentLimits(max_steps=4, max_failures=2, deadline_s=10)


def answer(text: str, finish_reason: str = "stop") -> loop.Answered:
    completion = Completion(text=text, finish_reason=finish_reason, prompt_tokens=10, completion_tokens=5, seconds=0.1)
    return loop.Answered(completion, "0" * 64)


def asked(*offers: Offer) -> loop.Loop:
    state, action = loop.advance(loop.Loop(limits=LIMITS), loop.Offered(offers))
    assert isinstance(action, loop.Ask)
    return state


def test_a_choice_is_asked_and_the_answer_becomes_a_call() -> None:
    state, action = loop.advance(asked(TITLE), answer('{"tool":"set_field","field":"title","value":"Boats"}'))
    assert action == loop.CallTool("set_field", {"field": "title", "value": "Boats"})
    state, action = loop.advance(state, loop.Offered((DONE,), result={"ok": True}))
    assert action == loop.Finish({})
    assert [call.by for call in state.calls] == ["model", "host"]
    assert state.phase is loop.Phase.FINAL


def test_a_forced_move_costs_no_model_call() -> None:
    only = Offer(tool="set_field", args={"field": ("title",), "value": ("Tides",)})
    state, action = loop.advance(loop.Loop(limits=LIMITS), loop.Offered((only,)))
    assert action == loop.CallTool("set_field", {"field": "title", "value": "Tides"})
    assert state.asked == 0


@pytest.mark.parametrize(
    ("text", "cause", "why"),
    [
        ("", "schema", "not JSON"),
        ("[]", "schema", "not an object"),
        ('{"tool":"set_field","field":"title","value":7}', "schema", "not an object of strings"),
        ('{"tool":"rm","path":"/"}', "not-offered", "not offered"),
        ('{"tool":"set_field","field":"title","value":"invented"}', "schema", "not among those offered"),
        ('{"tool":"set_field","field":"title","value":"Tides","more":"x"}', "schema", "not among those offered"),
        ('{"tool":"set_field","field":"tags","value":"tide"}', "schema", "not among those offered"),
        ("x" * 20_000, "length", "longer than"),
    ],
    ids=lambda text: text[:20],
)
def test_an_answer_outside_the_offers_is_counted_and_never_called(text: str, cause: str, why: str) -> None:
    state, action = loop.advance(asked(TITLE), answer(text))
    assert isinstance(action, loop.Ask)
    assert state.failures == 1
    assert why in (state.calls[-1].error or "")
    assert state.calls[-1].cause == cause
    assert cause in loop.REFUSED


def test_an_answer_cut_at_the_token_limit_is_a_failure() -> None:
    state, _ = loop.advance(asked(TITLE), answer('{"tool":"set_f', finish_reason="length"))
    assert "cut" in (state.calls[-1].error or "")
    assert state.calls[-1].cause == "length"


def test_the_same_call_twice_is_a_repetition() -> None:
    state = asked(TAGS)
    text = '{"tool":"set_field","field":"tags","value":"tide"}'
    state, _ = loop.advance(state, answer(text))
    state, _ = loop.advance(state, loop.Offered((TAGS,), result={}))
    state, action = loop.advance(state, answer(text))
    assert isinstance(action, loop.Ask)
    assert "before" in (state.calls[-1].error or "")
    assert state.calls[-1].cause == "repeat"


def test_a_refused_tool_call_counts_and_the_deadline_ends_it() -> None:
    state, _ = loop.advance(asked(TITLE), answer('{"tool":"set_field","field":"title","value":"Boats"}'))
    state, action = loop.advance(state, loop.Offered((TITLE,), error="no", cause="tool"))
    assert isinstance(action, loop.Ask)
    assert (state.failures, state.calls[-1].cause) == (1, "tool")
    state, action = loop.advance(state, loop.TimedOut(10))
    assert action == loop.Fail("deadline of 10 s passed", "deadline")
    with pytest.raises(ValueError, match="over"):
        loop.advance(state, loop.TimedOut(10))


def test_no_offer_at_all_fails() -> None:
    _, action = loop.advance(loop.Loop(limits=LIMITS), loop.Offered(()))
    assert isinstance(action, loop.Fail)
    assert action.cause == "offers"


def test_a_call_keeps_what_its_answer_cost_and_how_sure_it_was() -> None:
    text = '{"tool":"set_field","field":"title","value":"Boats"}'
    times = {"queue_s": 0.25, "prefill_s": 0.5, "engine_s": 0.125, "confidence": 0.75}
    event = answer(text)
    state, _ = loop.advance(
        asked(TITLE), loop.Answered(event.completion.model_copy(update={**times, "seconds": 1.0}), "0" * 64)
    )
    call = state.calls[-1]
    assert {name: getattr(call, name) for name in times} == times
    assert call.seconds == 1.0


offers = st.lists(
    st.builds(
        Offer,
        tool=st.sampled_from(["set_field", "rename_note", "finalize"]),
        args=st.dictionaries(
            st.sampled_from(["field", "value", "name"]),
            st.none() | st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3, unique=True).map(tuple),
            max_size=3,
        ),
    ),
    max_size=3,
).map(tuple)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.booleans(), offers, st.text(max_size=40)), min_size=90, max_size=90))
def test_every_path_ends_and_only_offered_calls_are_made(script: list[tuple[bool, tuple[Offer, ...], str]]) -> None:
    state: loop.Loop = loop.Loop(limits=LIMITS)
    action: loop.Action
    state, action = loop.advance(state, loop.Offered(script[0][1]))
    for good, nxt, noise in script[1:]:
        if isinstance(action, loop.Finish | loop.Fail):
            break
        if isinstance(action, loop.Ask):
            state, action = loop.advance(state, answer(valid(state.offers) if good else noise))
        else:
            called = action
            assert any(
                offer.tool == called.tool
                and set(offer.args) == set(called.args)
                and all(v is None or called.args[k] in v for k, v in offer.args.items())
                for offer in state.offers
            )
            state, action = loop.advance(
                state, loop.Offered(nxt, result={} if good else None, error=None if good else "x")
            )
        assert state.asked <= LIMITS.max_steps
    else:
        pytest.fail("the loop did not end")


def valid(offered: tuple[Offer, ...]) -> str:
    first = offered[0]
    return json.dumps({"tool": first.tool, **{k: (v[0] if v else "text") for k, v in first.args.items()}})


@settings(deadline=None)  # it asserts a relation, not a time
@given(offers.filter(bool))
def test_the_schema_admits_exactly_what_the_loop_accepts(offered: tuple[Offer, ...]) -> None:
    schema = loop.schema_of(offered)
    value = json.loads(valid(offered))
    jsonschema.validate(value, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**value, "tool": "no such tool"}, schema)


CHECK = Offer(tool="run_check", args={"name": ("links", "tests")}, again=True)


def test_a_call_that_reads_may_be_made_again_once_something_happened_since() -> None:
    check, title = '{"tool":"run_check","name":"links"}', '{"tool":"set_field","field":"title","value":"Boats"}'
    state, action = loop.advance(asked(CHECK, TITLE), answer(check))
    for text in (title, check):
        state, _ = loop.advance(state, loop.Offered((CHECK, TITLE), result={"ok": True}))
        state, action = loop.advance(state, answer(text))
        assert isinstance(action, loop.CallTool)
    state, _ = loop.advance(state, loop.Offered((CHECK, TITLE), result={"ok": True}))
    state, _ = loop.advance(state, answer(check))
    assert state.calls[-1].error == "the same call was made before"
