"""A tool that a repository brings along: a declaration and a program beside it, run as a filter in the sandbox.

    [tool]
    name = "next_heading"                 # of the file, too: .pantheon/tools/next_heading.toml
    summary = "put a heading over a paragraph"
    run = ["{python}", "{tool}"]          # {tool}: the program, next_heading.py unless `program` names another file
    edits = true                          # it may give the target new text
    example = {text = "Backups"}
    [tool.args.text]
    offered = true                        # the program says what there is to choose from; or choices = ["a", "b"]
    [tool.result.heading]
    type = "string"

The program gets one JSON object, `{"ask": "run" or "offer", "args", "path", "text", "focus"}`, and prints one:
`{"result": {...}, "text": "..."}`, `{"offers": {"text": ["Backups", "Restores"]}}`, or `{"error": "why"}`. What it
prints is as little trusted as a model's answer. It has no network and sees no other file of the repository.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints, ValidationError, create_model

from pantheon import tomlfile
from pantheon.errors import ConfigError, ToolError
from pantheon.limits import Limits
from pantheon.process import run_async
from pantheon.records import Offer, Record
from pantheon.sandbox import MIB, Sandbox
from pantheon.tools.edits import put
from pantheon.tools.files import text_of
from pantheon.tools.tool import Nothing, Tool
from pantheon.tools.workspace import MAX_BYTES, Workspace

FOLDER = ".pantheon/tools/"
INSIDE = Path("/tool")
WHAT = "cannot use the tool"
MAX_PROGRAM = MIB
MAX_OFFERED = 200  # values of one argument
MAX_TEXT = 4_000  # characters of a text in a result
MAX_TEXTS = 200
TRIES = 3
MEMORY = 512 * MIB
_KEY = r"^[a-z][a-z0-9_]{0,39}$"
_WHOLE = 2**53  # the integers that every reader of JSON keeps


class Argument(Record):
    """What a call gives: a value of `choices`, one that the program offers, or what a model writes."""

    type: Literal["string", "integer"] = "string"
    choices: tuple[str | int, ...] = Field(default=(), max_length=MAX_OFFERED)
    offered: bool = False
    max_length: int = Field(default=160, ge=1, le=2000)


class Part(Record):
    """One value of a result."""

    type: Literal["string", "integer", "boolean", "strings"] = "string"


class Declaration(Record):
    """The table `[tool]` of `.pantheon/tools/NAME.toml`."""

    name: str = Field(pattern=_KEY)
    summary: str = Field(min_length=1, max_length=200)
    program: str = Field(default="", pattern=r"^([A-Za-z0-9][A-Za-z0-9._-]{0,99})?$")
    run: tuple[str, ...] = Field(default=("{python}", "{tool}"), min_length=1, max_length=32)
    args: dict[Annotated[str, Field(pattern=_KEY)], Argument] = Field(default_factory=dict, max_length=8)
    result: dict[Annotated[str, Field(pattern=_KEY)], Part] = Field(min_length=1, max_length=20)
    example: dict[str, str | int] = Field(default_factory=dict)
    edits: bool = False
    timeout_s: float = Field(default=10.0, gt=0, le=300)

    @property
    def file(self) -> str:
        """The name of the program's file, beside the declaration's."""
        return self.program or f"{self.name}.py"


class Reply(Record):
    """What a program printed. `error` refuses the call."""

    result: dict[str, Any] | None = None
    text: str | None = None
    offers: dict[str, tuple[str | int, ...]] | None = None
    error: str | None = None


def load_all(files: Mapping[str, bytes], taken: Collection[str] = (), folder: str = FOLDER) -> dict[str, Tool]:
    """The tools among a commit's files below `folder`, by name. Raises ConfigError with file and line."""
    found = {}
    for name in sorted(files):
        if name.endswith(".toml"):
            path = folder + name
            declared, text = declaration(files[name], path)
            if declared.name in taken:
                why = f"{declared.name!r} is the name of a tool that is there already"
                raise ConfigError(WHAT, path, why, tomlfile.line_of(text, ("tool", "name")))
            program = files.get(name.rpartition("/")[0] + declared.file)
            if program is None:
                key = "program" if declared.program else "name"
                why = f"there is no program {declared.file!r} beside it"
                raise ConfigError(WHAT, path, why, tomlfile.line_of(text, ("tool", key)))
            found[declared.name] = load(files[name], program, path)
    return found


def declaration(raw: bytes, path: str) -> tuple[Declaration, str]:
    """A declaration and its text. Raises ConfigError with the line of what is wrong."""
    text, values = tomlfile.read(raw, path, WHAT)
    if set(values) != {"tool"} or not isinstance(values["tool"], dict):
        line = next((tomlfile.line_of(text, (key,)) for key in values if key != "tool"), 1)
        raise ConfigError(WHAT, path, "the file has one table, [tool]", line)
    found = tomlfile.validated(Declaration, values["tool"], text, path, ("tool",), WHAT)
    stem = path.rpartition("/")[2].removesuffix(".toml")
    for place, why in _contradictions(found, stem):
        raise ConfigError(WHAT, path, why, tomlfile.line_of(text, ("tool", *place)))
    return found, text


def _contradictions(found: Declaration, stem: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """What one key alone does not tell: where, and why. The example is tried last, when its record can be made."""
    if found.name != stem:
        yield ("name",), f"it is named {found.name!r}, and the file {stem!r}: they must be the same"
    if not any("{tool}" in word for word in found.run):
        yield ("run",), "no word of run is {tool}, the program"
    for table, names in (("args", found.args), ("result", found.result)):
        for name in names:
            if hasattr(Record, name) or (table == "args" and name == "tool"):
                yield (table, name), f"{name!r} cannot be a name here: it means something already"
    for name, argument in found.args.items():
        kind = int if argument.type == "integer" else str
        if argument.choices and argument.offered:
            yield ("args", name, "offered"), "give choices, or let the program offer them"
        if not all(type(value) is kind and _fits(str(value), argument) for value in argument.choices):
            why = f"each choice is {argument.type}, of one line and at most {argument.max_length} characters"
            yield ("args", name, "choices"), why
    try:
        arguments(found).model_validate(found.example)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        yield ("example",), f"{tomlfile.shown(first['loc'])}: {first['msg']}"


def _fits(value: str, argument: Argument) -> bool:
    return 0 < len(value) <= argument.max_length and value.isprintable()


# --- its schemas -----------------------------------------------------------------------------------------------------


def arguments(found: Declaration) -> type[Record]:
    """The record of its arguments."""
    if not found.args:
        return Nothing
    fields: dict[str, Any] = {name: (_argument_type(argument), ...) for name, argument in found.args.items()}
    return create_model(f"{found.name}_args", __base__=Record, __doc__=found.summary, **fields)


def _argument_type(argument: Argument) -> Any:
    if argument.type == "string":
        if argument.choices:
            return Literal[argument.choices]
        return Annotated[str, StringConstraints(min_length=1, max_length=argument.max_length)]
    whole = Annotated[int, Field(ge=-_WHOLE, le=_WHOLE)]
    if argument.choices:
        one_of = AfterValidator(partial(_among, argument.choices))
        return Annotated[whole, one_of, Field(json_schema_extra={"enum": list(argument.choices)})]
    return whole


def _among(choices: tuple[str | int, ...], value: int) -> int:
    if value not in choices:
        raise ValueError(f"not one of {', '.join(map(str, choices))}")
    return value


def results(found: Declaration) -> type[Record]:
    """The record of its result."""
    text = Annotated[str, StringConstraints(max_length=MAX_TEXT)]
    kinds: dict[str, Any] = {
        "string": text,
        "integer": Annotated[int, Field(ge=-_WHOLE, le=_WHOLE, strict=True)],
        "boolean": Annotated[bool, Field(strict=True)],
        "strings": Annotated[tuple[text, ...], Field(max_length=MAX_TEXTS)],
    }
    fields: dict[str, Any] = {name: (kinds[part.type], ...) for name, part in found.result.items()}
    return create_model(f"{found.name}_result", __base__=Record, __doc__=found.summary, **fields)


# --- the tool --------------------------------------------------------------------------------------------------------


def load(raw: bytes, program: bytes, path: str) -> Tool:
    """The tool that a declaration and its program make. Raises ConfigError with file and line."""
    found, _ = declaration(raw, path)
    if len(program) > MAX_PROGRAM:
        raise ConfigError(WHAT, path, f"its program has {len(program)} bytes, more than {MAX_PROGRAM}")
    ask = partial(_ask, found, program)
    result = results(found)
    return Tool(
        found.name,
        found.summary,
        arguments(found),
        result,
        {name: str(value) for name, value in found.example.items()},
        partial(_run, found, ask, result),
        partial(_offer, found, ask),
        timeout_s=found.timeout_s * (2 * TRIES if found.edits else 1) + 5,
    )


Asker = Callable[[Workspace, str, str, Mapping[str, Any]], Awaitable[Reply]]


async def _run(found: Declaration, ask: Asker, kind: type[Record], ws: Workspace, args: Record) -> Record:
    """One call. New text is taken only when the program leaves it as it is the next time, and when the file is still
    the one it was made from: other parts of it may be worked on meanwhile."""
    given = args.model_dump(mode="json")
    for _ in range(TRIES):
        before = text_of(ws, ws.target)
        reply = await ask(ws, "run", before, given)
        result = _result(found, kind, reply)
        if reply.text is None or reply.text == before:
            return result
        if not found.edits:
            raise ToolError("cannot use the answer", found.name, "it gave new text, and its declaration says no edits")
        again = await ask(ws, "run", reply.text, given)
        if again.text not in (None, reply.text):
            raise ToolError("cannot use the answer", found.name, "the same call changes its own text once more")
        if text_of(ws, ws.target) == before:
            put(ws, reply.text)
            return result
    raise ToolError("cannot use the answer", found.name, "the file was changed while it ran")


def _result(found: Declaration, kind: type[Record], reply: Reply) -> Record:
    if reply.error is not None:
        raise ToolError("refused by", found.name, ascii(reply.error[:300])[1:-1])
    try:
        return kind.model_validate(reply.result)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"its result does not fit: {tomlfile.shown(first['loc'])}: {first['msg']}"
        raise ToolError("cannot use the answer", found.name, ascii(why)[1:-1]) from error


async def _offer(found: Declaration, ask: Asker, ws: Workspace) -> tuple[Offer, ...]:
    """The next call: what is declared, and what the program offers for the rest. A tool without arguments is only ever
    called by the host."""
    if not found.args:
        return ()
    values: dict[str, tuple[str, ...] | None] = {}
    offered = {}
    if any(argument.offered for argument in found.args.values()):
        reply = await ask(ws, "offer", text_of(ws, ws.target), {})
        offered = reply.offers or {}
        if reply.error is not None or not offered:
            return ()
    for name, argument in found.args.items():
        chosen = offered.get(name, ()) if argument.offered else argument.choices
        values[name] = tuple(dict.fromkeys(str(value) for value in chosen[:MAX_OFFERED] if _fits(str(value), argument)))
        if not values[name]:
            if argument.offered:
                return ()
            values[name] = None
    return (Offer(tool=found.name, args=values, max_length=max(each.max_length for each in found.args.values())),)


async def _ask(
    found: Declaration, program: bytes, ws: Workspace, ask: str, text: str, args: Mapping[str, Any]
) -> Reply:
    """Run the program once on one question. ToolError for whatever it does but answer."""
    question = {"ask": ask, "args": args, "path": ws.target, "text": text, "focus": ws.focus}
    inside = INSIDE / found.file
    limits = Limits(
        wall_s=found.timeout_s,
        cpu_s=math.ceil(found.timeout_s) + 1,
        memory_bytes=MEMORY,
        processes=32,
        output_bytes=8 * MAX_BYTES,
    )
    with tempfile.TemporaryDirectory(prefix="pantheon-tool-") as place:
        file = Path(place, found.file)
        file.write_bytes(program)
        file.chmod(0o555)
        done = await run_async(
            [word.replace("{python}", sys.executable).replace("{tool}", str(inside)) for word in found.run],
            limits=limits,
            stdin=json.dumps(question).encode(),
            sandbox=Sandbox(readable=((file, inside),)),
        )
    if done.stopped_for or done.returncode != 0 or done.truncated:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit status {done.returncode}"]
        why = done.why() or ("it printed too much" if done.truncated and not done.returncode else said[-1][:300])
        raise ToolError("cannot use the answer", found.name, ascii(why)[1:-1])
    return _reply(found, done.stdout)


def _reply(found: Declaration, printed: bytes) -> Reply:
    try:
        return Reply.model_validate_json(printed)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        why = f"it printed no answer: {tomlfile.shown(first['loc'])} {first['msg']}"
        raise ToolError("cannot use the answer", found.name, ascii(why[:300])[1:-1]) from error
