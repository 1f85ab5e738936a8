"""What the registry says of one tool in the forms that others read: the schema that guides a model's answer, a function
of the OpenAI interface, the card in a prompt.

Ring 3: the tool's own schemas meet the loop's and the prompt's one implementation. Pure.
"""

from __future__ import annotations

from typing import Any

from pantheon import loop, prompt
from pantheon.records import Offer, Record
from pantheon.tools.tool import Tool

MAX_ANSWER = 4_000  # characters of a text whose argument has no bound of its own
MAX_DIGITS = 20
_SAID = frozenset({"title", "default"})  # of a schema: what the names say already


def general(tool: Tool) -> Offer:
    """The offer that nothing has narrowed yet, with every argument: a list of values where its schema knows one, else a
    text."""
    properties = parameters(tool.args)["properties"]
    args = {name: _values(schema) for name, schema in properties.items()}
    longest = [_longest(schema) for name, schema in properties.items() if args[name] is None]
    return Offer(tool=tool.name, args=args, max_length=max(longest, default=1))


def _longest(schema: dict[str, Any]) -> int:
    return MAX_DIGITS if schema.get("type") == "integer" else int(schema.get("maxLength", MAX_ANSWER))


def _values(schema: dict[str, Any]) -> tuple[str, ...] | None:
    if schema.get("type") == "boolean":
        return ("true", "false")
    values = schema.get("enum", [schema["const"]] if "const" in schema else None)
    return None if values is None else tuple(str(value) for value in values)


def guided(tool: Tool) -> dict[str, Any]:
    """The JSON schema of an answer that calls the tool, as guided decoding gets it: flat, all values texts."""
    return loop.schema_of((general(tool),))


def openai(tool: Tool) -> dict[str, Any]:
    """The tool as a function of the OpenAI interface."""
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.summary, "parameters": parameters(tool.args)},
    }


def card(tool: Tool) -> str:
    """The schema card of the tool in a prompt."""
    return prompt.card(tool.name, tool.summary, tool.example)


def parameters(kind: type[Record]) -> dict[str, Any]:
    """The JSON schema of a record, in one piece: what is defined apart stands where it is used."""
    schema = kind.model_json_schema()
    defined = schema.pop("$defs", {})
    found = _inlined(schema, defined)
    assert isinstance(found, dict)
    return {"type": "object", "properties": found.get("properties", {}), "additionalProperties": False} | (
        {"required": found["required"]} if found.get("required") else {}
    )


def _inlined(value: Any, defined: dict[str, Any]) -> Any:
    """A schema without references and titles. Records of ours do not hold themselves."""
    if isinstance(value, list):
        return [_inlined(each, defined) for each in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        return _inlined(defined[value["$ref"].rpartition("/")[2]], defined)
    return {
        key: {name: _inlined(each, defined) for name, each in inner.items()}
        if key == "properties"
        else _inlined(inner, defined)
        for key, inner in value.items()
        if key not in _SAID and (key != "description" or "properties" not in value)
    }


def describe(tool: Tool) -> dict[str, Any]:
    """Everything about a tool, for a listing."""
    return {
        "name": tool.name,
        "summary": tool.summary,
        "timeout_s": tool.timeout_s,
        "example": {"tool": tool.name, **tool.example},
        "args": parameters(tool.args),
        "result": parameters(tool.result),
        "guided": guided(tool),
        "openai": openai(tool),
        "card": card(tool),
    }
