"""The agent's finite state machine: PROMPT -> {TOOL | FINAL}, pure.

`advance(state, event)` gives the next state and one action for the runner. Every path ends: steps, failures and
repetitions are counted here, deadlines arrive as events. A call that leaves nothing to choose is taken by the host
without asking the model. The runner (agent.py) executes actions and makes no choices of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal

from pantheon.records import AgentLimits, Completion, Offer, ToolCall

FINALIZE = "finalize"
MAX_ANSWER = 16_384  # characters: an agent may generate 4096 tokens, and asks for a few hundred
SHORT = 400  # characters: a longer free text may hold quotes and line breaks
CALLS_PER_STEP = 8  # forced moves cost no model call, but they end too: at most this many calls per allowed step
REFUSED = frozenset({"schema", "length", "not-offered"})  # the causes of answers that the schema does not allow


class Phase(StrEnum):
    PROMPT = "prompt"
    TOOL = "tool"
    FINAL = "final"
    FAILED = "failed"


@dataclass(frozen=True)
class Loop:
    """The whole state of one agent on one item. `calls` only grows; it is the transcript."""

    limits: AgentLimits
    phase: Phase = Phase.PROMPT
    offers: tuple[Offer, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    failures: int = 0
    asked: int = 0  # model calls made


# events


@dataclass(frozen=True)
class Offered:
    """The tools' offers, at the start and after every call; `cause` tells what kind of error there was."""

    offers: tuple[Offer, ...]
    result: Mapping[str, Any] | None = None
    error: str | None = None
    cause: str = ""


@dataclass(frozen=True)
class Answered:
    """The engine's answer to the last Ask."""

    completion: Completion
    prompt_sha256: str


@dataclass(frozen=True)
class TimedOut:
    """The agent's deadline passed."""

    after_s: float


Event = Offered | Answered | TimedOut

# actions


@dataclass(frozen=True)
class Ask:
    """Ask the model under this JSON schema."""

    schema: dict[str, Any]


@dataclass(frozen=True)
class CallTool:
    tool: str
    args: dict[str, str]


@dataclass(frozen=True)
class Finish:
    output: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fail:
    """`cause`, in one word: deadline, failures, steps, offers."""

    reason: str
    cause: str = "failed"


Action = Ask | CallTool | Finish | Fail


def advance(state: Loop, event: Event) -> tuple[Loop, Action]:
    """One transition. FINAL and FAILED are absorbing: any further event is a programming error (ValueError)."""
    if state.phase in (Phase.FINAL, Phase.FAILED):
        raise ValueError(f"the loop is over ({state.phase})")
    match event:
        case TimedOut(after_s):
            return _fail(state, f"deadline of {after_s:g} s passed", "deadline")
        case Offered() as offered:
            return _next(_record_result(state, offered), offered.offers)
        case Answered(completion, prompt_sha256):
            return _answer(state, completion, prompt_sha256)


def _record_result(state: Loop, event: Offered) -> Loop:
    if state.phase is not Phase.TOOL:
        return state
    done = state.calls[-1].model_copy(
        update={
            "result": dict(event.result) if event.result is not None else None,
            "error": event.error,
            "cause": event.cause,
        }
    )
    failures = state.failures + (1 if event.error else 0)
    return replace(state, calls=(*state.calls[:-1], done), failures=failures)


def _next(state: Loop, offers: tuple[Offer, ...]) -> tuple[Loop, Action]:
    """Ask, take the forced move, or stop."""
    if state.failures > state.limits.max_failures:
        return _fail(state, f"{state.failures} calls failed; the last one: {_last_error(state)}", "failures")
    if not offers:
        return _fail(state, "no tool offers a next call", "offers")
    forced = offers[0].single() if len(offers) == 1 else None
    state = replace(state, offers=offers, phase=Phase.PROMPT)
    if len(state.calls) >= CALLS_PER_STEP * state.limits.max_steps:
        return _fail(state, f"no end after {len(state.calls)} calls", "steps")
    if forced is not None:
        return _take(state, offers[0].tool, forced, "host", None, None)
    if state.asked >= state.limits.max_steps:
        return _fail(state, f"no end after {state.asked} model calls (max_steps)", "steps")
    return state, Ask(schema_of(offers))


def _answer(state: Loop, completion: Completion, prompt_sha256: str) -> tuple[Loop, Action]:
    state = replace(state, asked=state.asked + 1)
    tool, args, cause, problem = _parse(completion, state.offers)
    if not problem and _repeats(state, tool, args):
        cause, problem = "repeat", "the same call was made before"
    if problem:
        call = _call(state, tool or "?", args, "model", completion, prompt_sha256, error=problem, cause=cause)
        state = replace(state, calls=(*state.calls, call), failures=state.failures + 1)
        return _next(state, state.offers)
    return _take(state, tool, args, "model", completion, prompt_sha256)


def _repeats(state: Loop, tool: str, args: Mapping[str, str]) -> bool:
    """Whether the model made this very call before; of one that may be made again, whether nothing happened since."""
    again = any(offer.tool == tool and offer.again for offer in state.offers)
    mine = [call for call in state.calls if call.by == "model"]
    return any(call.tool == tool and call.args == args for call in (mine[-1:] if again else mine))


def _take(
    state: Loop,
    tool: str,
    args: dict[str, str],
    by: Literal["host", "model"],
    completion: Completion | None,
    prompt_sha256: str | None,
) -> tuple[Loop, Action]:
    call = _call(state, tool, args, by, completion, prompt_sha256)
    state = replace(state, calls=(*state.calls, call))
    if tool == FINALIZE:
        return replace(state, phase=Phase.FINAL), Finish(args)
    return replace(state, phase=Phase.TOOL), CallTool(tool, args)


def _call(
    state: Loop,
    tool: str,
    args: dict[str, str],
    by: Literal["host", "model"],
    completion: Completion | None,
    prompt_sha256: str | None,
    error: str | None = None,
    cause: str = "",
) -> ToolCall:
    usage: dict[str, Any] = {}
    if completion is not None:
        usage = {
            "answer": completion.text[:MAX_ANSWER],  # a longer one was refused unread
            "prompt_tokens": completion.prompt_tokens,
            "cached_tokens": completion.cached_tokens,
            "completion_tokens": completion.completion_tokens,
            "seconds": completion.seconds,
            "queue_s": completion.queue_s,
            "prefill_s": completion.prefill_s,
            "engine_s": completion.engine_s,
            "confidence": completion.confidence,
        }
    return ToolCall(
        step=len(state.calls) + 1,
        by=by,
        tool=tool,
        args=args,
        error=error,
        cause=cause,
        prompt_sha256=prompt_sha256,
        **usage,
    )


def _fail(state: Loop, reason: str, cause: str) -> tuple[Loop, Action]:
    return replace(state, phase=Phase.FAILED), Fail(reason, cause)


def _last_error(state: Loop) -> str:
    return next((call.error for call in reversed(state.calls) if call.error), "unknown")


def _parse(completion: Completion, offers: Sequence[Offer]) -> tuple[str, dict[str, str], str, str]:
    """(tool, args, cause, problem): the answer checked against the offers, so that no engine has to be believed."""
    if completion.finish_reason == "length":
        return "", {}, "length", "the answer was cut at max_tokens"
    if len(completion.text) > MAX_ANSWER:
        return "", {}, "length", f"the answer is longer than {MAX_ANSWER} characters"
    try:
        value = json.loads(completion.text, object_pairs_hook=_unique)
        json.dumps(value, ensure_ascii=False).encode()  # a lone surrogate is JSON, but no text
    except (ValueError, RecursionError):
        return "", {}, "schema", "the answer is not JSON, or names a key twice"
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        return "", {}, "schema", "the answer is not an object of strings"
    tool = value.pop("tool", "")
    candidates = [offer for offer in offers if offer.tool == tool]
    if not candidates:
        return tool[:80], value, "not-offered", f"tool {tool[:80]!r} is not offered now"
    if not any(_allowed(offer, value) for offer in candidates):
        return tool, value, "schema", "the arguments are not among those offered"
    return tool, value, "", ""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's pairs, each key once: readers differ in which of two they believe."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _allowed(offer: Offer, args: Mapping[str, str]) -> bool:
    if set(args) != set(offer.args):
        return False
    return all(
        args[name] in choices if choices is not None else 0 < len(args[name]) <= offer.max_length
        for name, choices in offer.args.items()
    )


def schema_of(offers: Sequence[Offer]) -> dict[str, Any]:
    """The JSON schema of the next answer: one flat object of strings per offer, properties in a fixed order."""
    shapes = [_shape(offer) for offer in offers]
    return shapes[0] if len(shapes) == 1 else {"anyOf": shapes}


def _shape(offer: Offer) -> dict[str, Any]:
    properties: dict[str, Any] = {"tool": {"const": offer.tool}}
    for name, choices in offer.args.items():
        if choices is None and offer.max_length > SHORT:
            # In the grammar that xgrammar makes of a string with bounds there is no escape, and code is all escapes.
            # max_tokens ends the answer, and its length is checked when it is here.
            properties[name] = {"type": "string"}
        elif choices is None:
            properties[name] = {"type": "string", "minLength": 1, "maxLength": offer.max_length}
        elif len(choices) == 1:
            properties[name] = {"const": choices[0]}
        else:
            properties[name] = {"enum": list(choices)}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
