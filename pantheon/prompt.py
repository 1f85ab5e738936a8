"""The thick prompt, strictly templated. Pure.

A template has two blocks, `system` and `user`. The system block holds what all items of an agent share (role, schema
cards, conventions, acceptance), so that the engine's prefix cache serves it; nothing volatile may stand in it. The
user block holds the target, the last three tool results and the goals that are still open.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from pantheon.errors import ConfigError
from pantheon.records import Offer, ToolCall

BLOCKS = ("system", "user")
LAST_RESULTS = 3


class Template:
    """A compiled prompt template. `digest` is the sha256 of its source."""

    def __init__(self, source: str, path: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            undefined=StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True
        )
        self.path = path
        self.digest = hashlib.sha256(source.encode()).hexdigest()
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ConfigError("cannot use the prompt", path, str(error), getattr(error, "lineno", 0) or 0) from error
        missing = [name for name in BLOCKS if name not in self._template.blocks]
        if missing:
            raise ConfigError("cannot use the prompt", path, f"block {missing[0]!r} is missing; a prompt has {BLOCKS}")

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
