"""The tools that turn a spec into code: the skeleton with its tests, one body after the other, and two blind questions.

A body comes into the module only when it parses, holds nothing that the rules forbid, and the examples agree; else the
module is as it was before, and the refusal says why, so that the model can try again. One body is tried at a time.
"""

from __future__ import annotations

import ast
import asyncio
import hashlib
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakValueDictionary

from pydantic import Field

from pantheon.errors import ToolError
from pantheon.records import Offer, Record
from pantheon.tools import bodies, prose, specs
from pantheon.tools.examples import held_out
from pantheon.tools.match import Matched
from pantheon.tools.specs import Function, Spec, SpecRules
from pantheon.tools.tool import Nothing, Tool, Tree
from pantheon.tools.workspace import Workspace

CHECK = "examples"
OTHERS = 2  # values that a proposed one stands among: half a billion parameters tell two from one another, not four
PURPOSE = 160  # characters
# For a repository with too little to compare with.
SPARE_NAMES = ("sort_boats", "count_letters", "first_weekday", "remove_subscriber")
SPARE_PURPOSES = (
    "Sorts the boats of a harbour by their length",
    "Counts how often each letter stands in a text",
    "The day of the week on which a year begins",
    "Removes a user from a list of subscribers",
)

_trials: WeakValueDictionary[Path, asyncio.Lock] = WeakValueDictionary()


class CodeArgs(Record):
    code: str = Field(min_length=1, max_length=8000)


class NameArgs(Record):
    name: str = Field(min_length=1, max_length=200)


class PurposeArgs(Record):
    purpose: str = Field(min_length=1, max_length=400)


class Skeleton(Record):
    """What was laid out. `functions`: those without a body."""

    module: str
    tests: str
    functions: tuple[str, ...]


class Asked(Record):
    """One function as the spec asks for it. `beside`: the signatures of what the module has already."""

    name: str
    signature: str
    about: str
    examples: tuple[str, ...]
    beside: tuple[str, ...]


class Written(Record):
    function: str
    lines: int


class Shown(Record):
    """One new function as a reviewer sees it: without its name, its docstring and its comments."""

    code: str


# --- the spec's work --------------------------------------------------------------------------------------------------


def _base(ws: Workspace) -> Tree:
    return Tree(frozenset(ws.facts.paths), ws.base)


def _spec(ws: Workspace) -> tuple[Spec, SpecRules]:
    rules = ws.ruled(SpecRules)
    raw = ws.base(ws.origin)
    spec = specs.read_spec(ws.origin, raw, rules) if raw is not None else Spec(ws.origin)
    if not spec.module or spec.faults:
        why = spec.faults[0][1] if spec.faults else "it names no module"
        raise ToolError("cannot work on the spec", ascii(ws.origin), why)
    return spec, rules


def _module(ws: Workspace, spec: Spec) -> bytes | None:
    return ws.read(spec.module) if ws.exists(spec.module) else None


def _open(ws: Workspace, spec: Spec) -> list[Function]:
    """The functions in focus that have no body yet."""
    state = bodies.states(_module(ws, spec), [one.signature for one in spec.functions])
    if isinstance(state, str):
        raise ToolError("cannot use the module", ascii(spec.module), state)
    return [one for one in spec.functions if state[one.name] in ("missing", "stub") and ws.focus in ("", one.name)]


def write_skeleton(ws: Workspace, args: Nothing) -> Skeleton:
    """Put in a stub for every function that is missing, and the tests that the examples are."""
    spec, rules = _spec(ws)
    missing = [one.name for one in _open(ws, spec)]
    path, tests = specs.tests_of(spec, rules, _base(ws))
    if missing:
        wanted = [(one.signature, one.about) for one in spec.functions]
        raw = bodies.skeleton(_module(ws, spec), spec.title, wanted, spec.imports)
        if fault := bodies.module_fault(raw):
            raise ToolError("cannot lay out the module", ascii(spec.module), fault)
        ws.write(spec.module, raw)
        ws.write(path, tests)
    return Skeleton(module=spec.module, tests=path, functions=tuple(missing))


def read_function(ws: Workspace, args: Nothing) -> Asked:
    """The function in focus: signature, prose and the examples that are not held out."""
    spec, rules = _spec(ws)
    function = next(iter(_open(ws, spec)), None) or spec.function(ws.focus) or spec.functions[0]
    hidden = held_out(function, rules)
    tree = bodies.parsed(_module(ws, spec) or b"")
    beside = [
        ast.unparse(node).partition("\n")[0]
        for node in (tree.body if tree else [])
        if isinstance(node, ast.FunctionDef) and not bodies.is_stub(node) and node.name != function.name
    ]
    return Asked(
        name=function.name,
        signature=function.signature.text,
        about=function.about,
        examples=tuple(one.text() for one in function.examples if one not in hidden),
        beside=tuple(beside[:8]),
    )


def offer_function(ws: Workspace) -> tuple[Offer, ...]:
    """The body of the first function in focus that has none: free text."""
    spec, rules = _spec(ws)
    wanted = _open(ws, spec)
    return (Offer(tool="write_function", args={"code": None}, max_length=rules.max_chars),) if wanted else ()


async def write_function(ws: Workspace, args: CodeArgs) -> Written:
    """Put in the code of the function in focus, when it is what the spec asks for."""
    spec, rules = _spec(ws)
    async with _trials.setdefault(ws.root, asyncio.Lock()):
        before = _module(ws, spec)
        function = next(iter(_open(ws, spec)), None)
        if function is None or before is None:
            raise ToolError("cannot write the code", ascii(ws.focus), "there is no function without a body")
        body = bodies.body_of(args.code, function.signature)
        if isinstance(body, str):
            raise ToolError("wrong code", function.name, body)
        after = bodies.spliced(before, function.name, body)
        wrong = next(bodies.problems(before, after, [function.signature], (), specs.limits(rules)), None)
        if wrong is not None:
            raise ToolError("wrong code", function.name, wrong[1])
        ws.write(spec.module, after)
        fits = False
        try:
            why = await _tried(ws, function)
            fits = not why
        finally:
            if not fits:
                ws.write(spec.module, before)
        if why:
            raise ToolError("wrong code", function.name, why)
    return Written(function=function.name, lines=len(body.lines))


async def _tried(ws: Workspace, function: Function) -> str:
    """What the examples say of a function that was just put in; "" when they agree. Functions without a body are not
    its fault."""
    if ws.checker is None:
        return ""
    (result,) = await ws.checker((CHECK,))
    name, _, why = result.detail.partition(": ")
    if result.passed or (why == "is not there yet" and name != function.name):
        return ""
    return why if name == function.name else result.detail


# --- blind questions --------------------------------------------------------------------------------------------------


def _new(ws: Workspace, question: str) -> tuple[Function, ast.FunctionDef]:
    """A function that the base does not have, one per question: which one is a matter of a hash."""
    spec, _ = _spec(ws)
    tree = bodies.parsed(_module(ws, spec) or b"")
    there = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)} if tree else {}
    fresh = [spec.function(name) for name in specs.missing(spec, _base(ws)) if name in there]
    found = [one for one in fresh if one is not None]
    if not found:
        raise ToolError("cannot ask", ascii(ws.target), "there is no new function")
    one = min(found, key=lambda function: _hash(question, ws.origin, function.name))
    return one, there[one.name]


def _hash(*words: str) -> bytes:
    return hashlib.sha256("\0".join(words).encode("utf-8", "surrogateescape")).digest()


def show_name(ws: Workspace, args: Nothing) -> Shown:
    """The function whose name is asked for."""
    return Shown(code=_anonymous(_new(ws, "name")[1]))


def show_purpose(ws: Workspace, args: Nothing) -> Shown:
    """The function whose purpose is asked for."""
    return Shown(code=_anonymous(_new(ws, "purpose")[1]))


def _anonymous(node: ast.FunctionDef) -> str:
    body = node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body
    return bodies.unparsed("f", node, body)


def offer_name(ws: Workspace) -> tuple[Offer, ...]:
    """The function's name, among names that other specs give."""
    rules = ws.ruled(SpecRules)
    function, _ = _new(ws, "name")
    every = [one.name for other in specs.specs_of(_base(ws), rules) for one in other.functions]
    return _offer("match_name", "name", function.name, every, SPARE_NAMES, ws.origin)


def offer_purpose(ws: Workspace) -> tuple[Offer, ...]:
    """What the spec says of the function, among what other specs say of theirs."""
    rules = ws.ruled(SpecRules)
    function, _ = _new(ws, "purpose")
    every = [_purpose(one) for other in specs.specs_of(_base(ws), rules) for one in other.functions]
    return _offer("match_purpose", "purpose", _purpose(function), every, SPARE_PURPOSES, ws.origin)


def _purpose(function: Function) -> str:
    said = prose.sentences(function.about.partition("\n")[0])
    return (said[0] if said else function.name.replace("_", " "))[:PURPOSE]


def _offer(
    tool: str, argument: str, true: str, others: Iterable[str], spare: Iterable[str], salt: str
) -> tuple[Offer, ...]:
    """The true value among the least like it, in an order of their own."""
    strange = [*_strangest(true, others, salt)[:OTHERS], *_strangest(true, spare, salt)][:OTHERS]
    values = sorted({true, *strange}, key=lambda value: _hash(salt, value))
    return (Offer(tool=tool, args={argument: tuple(values)}),)


def _strangest(true: str, others: Iterable[str], salt: str) -> list[str]:
    own = _stems(true)

    def shared(value: str) -> float:
        theirs = _stems(value)
        return len(own & theirs) / max(1, min(len(own), len(theirs)))

    found = {value for value in others if value and value != true and shared(value) < 0.4}
    return sorted(found, key=lambda value: (round(shared(value), 1), _hash(salt, true, value)))


def _stems(text: str) -> set[str]:
    return prose.stems(text.replace("_", " "))


def match_name(ws: Workspace, args: NameArgs) -> Matched:
    function, _ = _new(ws, "name")
    return _matched("name", args.name, offer_name(ws), function.name)


def match_purpose(ws: Workspace, args: PurposeArgs) -> Matched:
    function, _ = _new(ws, "purpose")
    return _matched("purpose", args.purpose, offer_purpose(ws), _purpose(function))


def _matched(argument: str, chosen: str, offers: tuple[Offer, ...], true: str) -> Matched:
    if not offers or chosen not in (offers[0].args[argument] or ()):
        raise ToolError("cannot match", ascii(chosen), "it is not among the values")
    # Both reviewers judge one thing, from its two ends: whether the code does what the spec asks for.
    return Matched(field="behaviour", chosen=chosen, proposed=(true,), same=chosen == true)


TOOLS = (
    Tool("write_skeleton", "lay out what the spec asks for, with its tests", Nothing, Skeleton, {}, write_skeleton),
    Tool("read_function", "read what the spec says of a function", Nothing, Asked, {}, read_function),
    Tool(
        "write_function",
        "write the function in Python",
        CodeArgs,
        Written,
        {"code": "def double(number: int) -> int:\n    result = 2 * number\n    return result"},
        write_function,
        offer_function,
        timeout_s=600,
    ),
    Tool("show_name", "read the function whose name is asked for", Nothing, Shown, {}, show_name),
    Tool("show_purpose", "read the function whose purpose is asked for", Nothing, Shown, {}, show_purpose),
    Tool(
        "match_name",
        "give the name that fits the code",
        NameArgs,
        Matched,
        {"name": "days_in_month"},
        match_name,
        offer_name,
    ),
    Tool(
        "match_purpose",
        "give what the code is for",
        PurposeArgs,
        Matched,
        {"purpose": "The number of days in a month"},
        match_purpose,
        offer_purpose,
    ),
)
