"""What holds for every tool of the registry: its schemas, its example, its offers, and that the same call again changes
nothing. A tool that joins the registry is tested here without another line."""

from __future__ import annotations

import asyncio
import inspect
import string
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from note_samples import NOTES, ROOT, WHEN
from pydantic import ValidationError

from pantheon import loop, schemas
from pantheon.errors import ToolError
from pantheon.records import CheckResult, Offer, Record
from pantheon.tools.facts import build_facts
from pantheon.tools.registry import KINDS, TOOLS, parse_rules
from pantheon.tools.tool import Tool
from pantheon.tools.workspace import Workspace

CODE: dict[str, bytes] = {
    "src/backup.py": b'"""Backups."""\n\nimport os\n\n\nclass Backup:\n    made = 0\n\n    def age(self, now):\n'
    b"        return now - self.made\n\n\ndef load(path, *, strict=False):\n    return os.stat(path)\n",
    "src/broken.py": b"def half(:\n    pass\n",
    "web/sum.js": b"/** Adds. */\nexport function sum(a, b) {\n  return a + b;\n}\nexport default (x) => x * 2;\n",
    "web/shape.ts": b"export class Shape {\r\n  constructor(private side: number) {}\r\n  area() { return 1 }\r\n}\r\n",
    "data/long.txt": b"".join(b"line %d of the log\n" % number for number in range(350)),
    "data/latin.txt": b"caf\xe9\n",
    "data/set.json": b'{"level": 3, "names": ["a", "b"]}\n',
    "docs/level.md": b"# Level\n\n\tSee [the rotation](keys.md) and `load`.\n",
}
FILES = {**NOTES, **CODE}
FACTS = build_facts(
    {path: raw for path, raw in FILES.items() if path.endswith(".md")}, FILES, dict.fromkeys(FILES, WHEN)
)
PATTERN = b"""kind = "pattern"
files = ["docs/**/*.md"]
[[rule]]
name = "area"
missing = 'Area: \\w+'
insert = "Area: {value}"
at = "heading"
values = ["storage", "radio"]
[[rule]]
name = "tabs"
present = '\\t.*'
replace = ""
"""
RULES: Sequence[Record] = [
    parse_rules(raw, "rules.toml")[1]
    for raw in (PATTERN, *(path.read_bytes() for path in sorted(ROOT.glob("templates/pantheon/rules/*.toml"))))
]
every_tool = pytest.mark.parametrize("name", sorted(TOOLS))
few = settings(deadline=None, max_examples=30, suppress_health_check=list(HealthCheck), derandomize=True)


async def said(names: Sequence[str]) -> tuple[CheckResult, ...]:
    return tuple(CheckResult(name=name, passed=True, detail="") for name in names)


def workspace(root: Path, target: str, rules: Record, focus: str = "") -> Workspace:
    made = Workspace(root, target, rules, FACTS, FILES.get, said, ("tests", "rules"))
    return made.focused(focus) if focus else made


def done(value: Any) -> Any:
    """What a call gives, awaited where it has to be."""

    async def wait() -> Any:
        return await value

    return asyncio.run(wait()) if inspect.isawaitable(value) else value


def called(tool: Tool, ws: Workspace, args: Record) -> Record | None:
    """The result of a call; None when it was refused."""
    try:
        result = done(tool.run(ws, args))
    except ToolError as error:
        assert error.what and error.thing
        return None
    assert isinstance(result, tool.result)
    return result


def offers_of(tool: Tool, ws: Workspace) -> tuple[Offer, ...]:
    try:
        return tuple(done(tool.offer(ws)))
    except ToolError:
        return ()


def texts(ws: Workspace) -> st.SearchStrategy[str]:
    """Texts that a call may give: parts of the target, names and paths around it, and anything."""
    raw = ws.look(ws.target) or b""
    lines = [line for line in raw.decode("utf-8", "replace").splitlines() if line.strip()]
    known = [*lines, *(line.strip() for line in lines), *FILES, *ws.checks, "Backup.age", "load", "sum", "title"]
    code = ["def load(path):\n    return path", "function sum(a) { return a }", "x.md", "backup.py", "1", "true"]
    plain = st.text(string.printable, min_size=1, max_size=40)
    return st.one_of(st.sampled_from(known), st.sampled_from(code), plain, st.text(min_size=1, max_size=20))


@st.composite
def calls(draw: st.DrawFn, tool: Tool, ws: Workspace) -> Mapping[str, str]:
    """Arguments that were offered, or any that fit the schema."""
    offers = offers_of(tool, ws)
    if draw(st.booleans()) and offers:
        offer = offers[draw(st.integers(0, len(offers) - 1))]
        free = texts(ws).map(lambda text: text[: offer.max_length])
        return {name: draw(free if values is None else st.sampled_from(values)) for name, values in offer.args.items()}
    names = [name for name, field in tool.args.model_fields.items() if field.is_required() or draw(st.booleans())]
    return {name: draw(texts(ws)) for name in names}


@every_tool
@few
@given(data=st.data())
def test_the_same_call_again_changes_nothing_and_a_refusal_changes_nothing(name: str, data: st.DataObject) -> None:
    tool = TOOLS[name]
    target = data.draw(st.sampled_from(sorted(FILES)))
    rules = data.draw(st.sampled_from(RULES))
    with TemporaryDirectory() as place:
        ws = workspace(Path(place), target, rules, data.draw(st.sampled_from(("", "", "load", "Backup.age"))))
        for _ in range(2):  # the second call meets what the first one left
            try:
                args = tool.args.model_validate(data.draw(calls(tool, ws)))
            except ValidationError:
                return
            before = (ws.target, ws.changes())
            result = called(tool, ws, args)
            after = (ws.target, ws.changes())
            if result is None:
                assert after == before, "a refused call changed something"
                continue
            jsonschema.validate(result.model_dump(mode="json"), schemas.parameters(tool.result))
            called(tool, ws, args)
            assert (ws.target, ws.changes()) == after, "the same call changed something again"


@every_tool
def test_offers_name_arguments_that_the_schema_takes(name: str, tmp_path: Path) -> None:
    tool = TOOLS[name]
    needed = {key for key, field in tool.args.model_fields.items() if field.is_required()}
    for number, (target, rules) in enumerate(product(sorted(FILES), RULES)):
        place = tmp_path / str(number)
        place.mkdir()
        ws = workspace(place, target, rules)
        for offer in offers_of(tool, ws):
            assert offer.tool == name
            assert needed <= offer.args.keys() <= tool.args.model_fields.keys()
            for values in offer.args.values():
                assert values is None or (values and len(set(values)) == len(values) and all(values))
            jsonschema.Draft202012Validator.check_schema(loop.schema_of((offer,)))
            for pick in (0, -1):
                tool.args.model_validate({key: values[pick] if values else "x" for key, values in offer.args.items()})
        assert ws.changes() == {}, "an offer changed something"


@every_tool
def test_a_tool_says_what_it_takes_and_gives(name: str) -> None:
    tool = TOOLS[name]
    assert tool.name == name
    assert 5 <= len(tool.summary) <= 200
    assert "\n" not in tool.summary
    assert 0 < tool.timeout_s <= 3600
    args = tool.args.model_validate(dict(tool.example))
    assert all(isinstance(value, str) for value in tool.example.values()), "a call holds texts"
    assert set(tool.example) <= set(tool.args.model_fields)
    assert args.model_dump(mode="json") is not None


@every_tool
def test_one_registry_gives_the_three_schemas(name: str) -> None:
    tool = TOOLS[name]
    told = schemas.describe(tool)
    for key in ("args", "result", "guided"):
        jsonschema.Draft202012Validator.check_schema(told[key])
        assert "$ref" not in str(told[key])
    assert told["guided"] == loop.schema_of((schemas.general(tool),))
    assert list(told["guided"]["properties"]) == ["tool", *tool.args.model_fields]
    function = told["openai"]["function"]
    assert (function["name"], function["parameters"]) == (name, told["args"])
    assert set(function["parameters"]["properties"]) == set(tool.args.model_fields)
    assert told["card"].startswith(f"{name}: ")


def test_every_kind_of_rules_is_listed_under_its_name() -> None:
    assert all(kind.name == name for name, kind in KINDS.items())
