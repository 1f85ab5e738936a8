"""Prompts taken apart: from the bytes that a model got back to the messages that they were rendered from.

A form renders messages and takes a prompt apart so that rendering gives the same bytes again, or not at all. It knows
nothing of runs and rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pantheon.errors import EngineError
from pantheon.models import ChatTemplate, disarmed
from pantheon.relay import Message, messages_json

Parts = tuple[str, str]  # system, user
_SYSTEM, _USER = "pantheonSystem7f3a91", "pantheonUser7f3a91"  # stand in for messages; no template changes them
MOST_PLACES = 64  # where the user's message may begin, that are tried


@dataclass(frozen=True)
class Form:
    """How a model's prompts look. `split` gives messages that `render` makes the very prompt of, or None."""

    render: Callable[[str, str], str]
    split: Callable[[str], Parts | None]


def chat_form(model_dir: Path) -> Form:
    """The form of a model's own chat template. Raises EngineError when it has none, or loses a message."""
    render = ChatTemplate(model_dir).render
    try:
        before, system, rest = render(_SYSTEM, _USER).partition(_SYSTEM)
    except EngineError as error:
        why = "its chat template takes no system message"
        raise EngineError("cannot read its prompts", str(model_dir), why) from error
    between, user, after = rest.partition(_USER)
    if not (system and user and between):
        raise EngineError("cannot read its prompts", str(model_dir), "its chat template leaves messages out")

    def split(prompt: str) -> Parts | None:
        if not (prompt.startswith(before) and prompt.endswith(after)) or len(prompt) < len(before) + len(after):
            return None
        inner = prompt[len(before) : len(prompt) - len(after)]
        at = inner.find(between)
        for _ in range(MOST_PLACES):
            if at < 0:
                return None
            parts = inner[:at], inner[at + len(between) :]
            if render(*parts) == prompt:
                return parts
            at = inner.find(between, at + 1)
        return None

    return Form(render, split)


def _served(system: str, user: str) -> str:
    texts = (("system", system), ("user", user))
    return messages_json([Message.model_validate({"role": role, "content": disarmed(text)}) for role, text in texts])


def _split_served(prompt: str) -> Parts | None:
    try:
        first, second = (str(one["content"]) for one in json.loads(prompt))
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return (first, second) if _served(first, second) == prompt else None


SERVED = Form(_served, _split_served)  # of a server of the user's, which gets messages
