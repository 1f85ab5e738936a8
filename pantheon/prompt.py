"""The thick prompt, strictly templated. Pure.

A template has two blocks, `system` and `user`. The system block holds what all items of an agent share (role, schema
cards, conventions, acceptance), so that the engine's prefix cache serves it; nothing volatile may stand in it. The
user block holds the target, the last three tool results and the goals that are still open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import StrictUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pantheon.errors import ConfigError
from pantheon.records import Offer, ToolCall

BLOCKS = ("system", "user")
LAST_RESULTS = 3
RESULT = 3_000  # characters of one result in a prompt: a window of about 100 lines


class Template:
    """A compiled prompt template. `digest` is the sha256 of its source."""

    def __init__(self, source: str, path: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
        )
        self.path, self._source, self._environment = path, source, environment
        self.digest = hashlib.sha256(source.encode()).hexdigest()
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ConfigError("cannot use the prompt", path, str(error), getattr(error, "lineno", 0) or 0) from error
        missing = [name for name in BLOCKS if name not in self._template.blocks]
        if missing:
            raise ConfigError("cannot use the prompt", path, f"block {missing[0]!r} is missing; a prompt has {BLOCKS}")

    def looks(self, block: str) -> list[tuple[int, tuple[str, ...]]]:
        """What a block looks at: the line, and the dotted path of a variable that is not its own."""
        tree = self._environment.parse(self._source)
        found = next(node for node in tree.find_all(nodes.Block) if node.name == block)
        return sorted(set(_looks(found, frozenset())))

    def render(self, shared: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[str, str]:
        """(system, user). The system block sees only `shared`. Raises ConfigError for an unknown variable."""
        try:
            parts = []
            for name, values in (("system", shared), ("user", {**shared, **own})):
                context = self._template.new_context(dict(values))
                parts.append("".join(self._template.blocks[name](context)).strip())
        except TemplateError as error:
            raise ConfigError("cannot use the prompt", self.path, str(error)) from error
        return parts[0], parts[1]


def _looks(node: nodes.Node, own: frozenset[str]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Names and chains of attributes below a node, but for what loops and assignments in it bring in (`own`)."""
    if isinstance(node, nodes.Name):
        if node.ctx == "load" and node.name not in own:
            yield node.lineno, (node.name,)
        return
    chain = _chain(node)
    if chain is not None:
        if chain[0] not in own:
            yield node.lineno, chain
        for item in node.find_all(nodes.Getitem):
            yield from _looks(item.arg, own)
        return
    if isinstance(node, nodes.For):
        yield from _looks(node.iter, own)
        inner = own | {"loop"} | {name.name for name in _names(node.target)}
        for part in (*node.body, *node.else_, *([node.test] if node.test else [])):
            yield from _looks(part, inner)
        return
    targets = [
        *(one.target for one in node.find_all(nodes.Assign)),
        *(b.target for b in node.find_all(nodes.AssignBlock)),
    ]
    bound = own | {name.name for target in targets for name in _names(target)}
    for part in node.iter_child_nodes():
        yield from _looks(part, bound)


def _names(node: nodes.Node) -> list[nodes.Name]:
    return [node] if isinstance(node, nodes.Name) else list(node.find_all(nodes.Name))


def _chain(node: nodes.Node) -> tuple[str, ...] | None:
    """`a.b["c"]` as its parts; None for anything else."""
    parts: list[str] = []
    while isinstance(node, nodes.Getattr | nodes.Getitem):
        if isinstance(node, nodes.Getattr):
            parts.append(node.attr)
        elif isinstance(node.arg, nodes.Const) and isinstance(node.arg.value, str):
            parts.append(node.arg.value)
        else:
            parts.clear()  # an index or a slice: what lies before it is looked at
        node = node.node
    return (node.name, *reversed(parts)) if isinstance(node, nodes.Name) and parts else None


def card(name: str, summary: str, example: Mapping[str, str]) -> str:
    """The schema card of a tool: one line of purpose and one example call."""
    text = json.dumps({"tool": name, **example}, ensure_ascii=False, separators=(",", ":"))
    return f"{name}: {summary}\n{text}"


def recent(calls: Sequence[ToolCall]) -> list[str]:
    """The last three results, oldest first, as the model sees them."""
    lines = []
    for call in [c for c in calls if c.by == "model" or c.result is not None][-LAST_RESULTS:]:
        args = " ".join(f"{k}={json.dumps(v, ensure_ascii=False)}" for k, v in call.args.items())
        outcome = f"refused: {call.error}" if call.error else "done"
        lines.append(f"{call.tool} {args} -> {outcome}".replace("  ", " "))
    return lines


def results(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """The last three calls with what they gave, oldest first: `tool`, `args`, and `text`, cut to a size."""
    found = []
    for call in [c for c in calls if c.result is not None or c.error][-LAST_RESULTS:]:
        text = f"refused: {call.error}" if call.error else json.dumps(call.result, ensure_ascii=False, sort_keys=True)
        cut = text if len(text) <= RESULT else text[: RESULT - 1] + "…"
        found.append({"tool": call.tool, "args": call.args, "text": cut})
    return found


def goals(offers: Sequence[Offer]) -> list[str]:
    """The open goals: what each offer lets the model choose among."""
    lines = []
    for offer in offers:
        fixed = [v[0] for v in offer.args.values() if v is not None and len(v) == 1]
        free = [k for k, v in offer.args.items() if v is None or len(v) != 1]
        lines.append(" ".join([offer.tool, *fixed, "- choose " + ", ".join(free)] if free else [offer.tool, *fixed]))
    return lines


def record(prompts: Sequence[str]) -> bytes:
    """`llm_prompt.txt`: every prompt of a node, byte for byte, each behind a header with its length and digest."""
    parts = []
    for number, prompt in enumerate(prompts, 1):
        data = prompt.encode()
        header = f"prompt {number} bytes={len(data)} sha256={hashlib.sha256(data).hexdigest()}\n"
        parts.append(header.encode() + data + b"\n")
    return b"".join(parts)


def read_record(data: bytes) -> list[str]:
    """The prompts back from `llm_prompt.txt`. Raises ValueError when a length or digest does not fit."""
    prompts: list[str] = []
    position = 0
    while position < len(data):
        end = data.index(b"\n", position)
        fields = dict(part.split(b"=", 1) for part in data[position:end].split() if b"=" in part)
        size = int(fields[b"bytes"])
        body = data[end + 1 : end + 1 + size]
        if len(body) != size or hashlib.sha256(body).hexdigest().encode() != fields[b"sha256"]:
            raise ValueError(f"prompt {len(prompts) + 1} does not match its header")
        prompts.append(body.decode())
        position = end + 1 + size + 1
    return prompts
