"""Which calls helped: Toolformer's filter, by what became of each call, or by the loss on what follows it.

A call that changed something helped when what it chose stands in the final change; one that looked something up, when
something of its result stands in a later call or in the change. (Schick et al., Toolformer, 2023: keep a call when the
loss on what follows falls with its result.) Decides by texts alone; asks no model itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pantheon import prompt
from pantheon.git import Diff
from pantheon.loop import FINALIZE
from pantheon.records import ToolCall
from pantheon.tools import files

READING = frozenset(tool.name for tool in files.TOOLS)  # what they are called with is not what they leave behind
SAID = 2  # words that a piece of a result has in common with what came later
LETTERS = 8  # or letters of one word
MOST_PIECES = 4_000  # of one result
Helped = Literal["yes", "no", "unknown"]
_WORD = re.compile(r"\w+")
_HEADER = re.compile(rb'\+\+\+ (?:"?b/|/dev/null)')


@dataclass(frozen=True)
class Question:
    """What the model's loss can tell of a call: the next completion, behind its prompt with and without the result."""

    completion: str
    with_result: str
    without: str


def written(diff: Diff) -> str:
    """The words that a change adds, new names included, in their order."""
    lines = [line[1:] for line in diff.patch.split(b"\n") if line.startswith(b"+") and not _HEADER.match(line)]
    names = [change.path for change in diff.files if change.status in ("added", "renamed")]
    return words("\n".join((*(line.decode("utf-8", "replace") for line in lines), *names)))


def words(text: str) -> str:
    """The words of a text, between blanks: one that holds another's in a row holds it as a text."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


def chosen(call: ToolCall, schema: Mapping[str, Any]) -> dict[str, str]:
    """The arguments that the model chose: those that its schema did not fix."""
    found: dict[str, str] = {}
    for shape in shapes(schema):
        properties = shape.get("properties", {})
        if properties.get("tool") == {"const": call.tool} and set(properties) - {"tool"} == set(call.args):
            found |= {name: str(value) for name, value in call.args.items() if "const" not in properties[name]}
    return found


def shapes(schema: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The calls that a schema allows, each as an object's schema."""
    several = schema.get("anyOf")
    return several if isinstance(several, list) else [schema]


def helped(call: ToolCall, free: Mapping[str, str], later: Sequence[ToolCall], change: str) -> Helped:
    """Whether a call of a run that passed helped. `free`: what the model chose in it; `later`: the calls behind it;
    `change`: what `written` gives of the run's change."""
    if call.tool == FINALIZE:
        return "yes"  # it ended a run that passed
    if call.error is not None:
        return "no"
    good = [one for one in later if one.error is None and one.tool != FINALIZE]
    if call.tool not in READING and free:
        left = change
        replaced = False
        for other in good:
            if other.tool == call.tool and _instead(call, other, free):
                replaced = True
                for name in free:
                    left = left.replace(words(str(other.args[name])), " | ")
        values = [words(value) for value in free.values()]
        if all(value.strip() and value in left for value in values):
            return "yes"
        return "no" if replaced else "unknown"
    return "yes" if _used(call, good, change) else "unknown"


def _instead(call: ToolCall, other: ToolCall, free: Mapping[str, str]) -> bool:
    """Whether the other call sets the same thing to something else."""
    fixed = set(call.args) - set(free)
    return set(other.args) == set(call.args) and all(other.args[name] == call.args[name] for name in fixed)


def _used(call: ToolCall, later: Sequence[ToolCall], change: str) -> bool:
    """Whether something of a call's result stands in a later call's arguments or in the change."""
    given = words(" | ".join(str(value) for value in call.args.values()))  # what it was asked for is no news
    known = [words(str(value)) for other in later for value in other.args.values()]
    for piece in _pieces(call.result):
        text = words(piece)
        if not _telling(text) or text in given:
            continue
        if text in change or any(text in value or (_telling(value) and value in text) for value in known):
            return True
    return False


def _telling(text: str) -> bool:
    return text.count(" ") > SAID or len(text) >= LETTERS + 2


def _pieces(value: Any) -> Iterator[str]:
    """The texts of a result, line by line too."""
    waiting = [value]
    for _ in range(MOST_PIECES):
        if not waiting:
            return
        one = waiting.pop()
        if isinstance(one, Mapping):
            waiting += one.values()
        elif isinstance(one, list | tuple):
            waiting += one
        elif isinstance(one, str):
            yield one
            if "\n" in one:
                waiting += one.splitlines()


def question(call: ToolCall, prompts: Sequence[tuple[str, str]]) -> Question | None:
    """What to ask the model of a call. `prompts`: those behind it, each with the answer that the model gave. None when
    no later prompt shows what the call gave, so that there is nothing to take away."""
    shown = [prompt.recent([call])[0]] if call.by == "model" or call.result is not None else []
    shown += [one["text"] for one in prompt.results([call])]
    for text, answer in prompts[:1]:
        lines = text.splitlines(keepends=True)
        left = [line for line in lines if not any(one and one in line for one in shown)]
        if len(left) < len(lines):
            return Question(completion=answer, with_result=text, without="".join(left))
    return None
