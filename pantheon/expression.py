"""The small language of `when`, `success` and `each` in a flow: it looks at outputs of nodes, no more. Pure.

    validate.choose and not review-a.verdict == "fail"
    len(describe.open) < 3 or "title" in validate.choose

A path is a node's id, then keys, joined by dots; what is not there is null, which is false. There are no calls but
`len`, no loops and no arithmetic, so that every expression ends. `parse` raises ValueError with the column.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MAX_LENGTH = 500  # characters
MAX_DEPTH = 20  # of parentheses and nots
_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>-?\d{1,15}(?:\.\d{1,15})?(?![\w-]))
      | (?P<text>"[^"\\]*"|'[^'\\]*')
      | (?P<path>[A-Za-z][\w-]*(?:\.[A-Za-z0-9][\w-]*)*)
      | (?P<mark>==|!=|<=|>=|<|>|\(|\)|\[|\]|,)
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_WORDS = {"true": True, "false": False, "null": None}
_RESERVED = {"and", "or", "not", "in", "len", *_WORDS}
Outputs = Mapping[str, Mapping[str, Any]]
Value = Callable[[Outputs], Any]


@dataclass(frozen=True)
class Expression:
    """A parsed expression. `paths` are the paths it looks at, in order."""

    text: str
    paths: tuple[tuple[str, ...], ...]
    value: Value

    @property
    def nodes(self) -> tuple[str, ...]:
        """The ids of the nodes it looks at."""
        return tuple(dict.fromkeys(path[0] for path in self.paths))


@lru_cache(256)  # a flow's few expressions are asked after every node of every item
def parse(text: str) -> Expression:
    """Parse an expression. Raises ValueError with what is wrong and where."""
    if len(text) > MAX_LENGTH:
        raise ValueError(f"longer than {MAX_LENGTH} characters")
    parser = _Parser(text)
    value = parser.either()
    parser.expect("end")
    return Expression(text, tuple(dict.fromkeys(parser.paths)), value)


def holds(text: str, outputs: Outputs) -> bool:
    """Whether an expression is true of the outputs of the nodes that ran."""
    return bool(parse(text).value(outputs))


def renamed(text: str, names: Mapping[str, str]) -> str:
    """The expression with nodes' ids replaced. Raises ValueError."""
    parts, at = [], 0
    for kind, word, column in _tokens(text):
        if kind == "path" and word.partition(".")[0] in names and word not in _RESERVED:
            node, dot, rest = word.partition(".")
            parts += [text[at : column - 1], names[node], dot, rest]
            at = column - 1 + len(word)
    return "".join([*parts, text[at:]])


class _Parser:
    """Recursive descent over the tokens; `paths` collects what is looked at."""

    def __init__(self, text: str) -> None:
        self.tokens = list(_tokens(text))
        self.at = 0
        self.depth = 0
        self.paths: list[tuple[str, ...]] = []

    @property
    def token(self) -> tuple[str, str, int]:
        return self.tokens[self.at]

    def take(self, *words: str) -> str | None:
        """The token's text when it is one of `words`, moving on."""
        kind, text, _ = self.token
        if kind in ("mark", "path") and text in words:
            self.at += 1
            return text
        return None

    def expect(self, wanted: str) -> str:
        kind, text, column = self.token
        if wanted not in (kind, text):
            shown = "the end" if kind == "end" else repr(text)
            raise ValueError(f"column {column}: {'the end' if wanted == 'end' else wanted} expected, found {shown}")
        if kind != "end":
            self.at += 1
        return text

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise ValueError(f"column {self.token[2]}: nested deeper than {MAX_DEPTH}")

    def either(self) -> Value:
        values = [self.both()]
        while self.take("or"):
            values.append(self.both())
        return values[0] if len(values) == 1 else lambda outputs: any(value(outputs) for value in values)

    def both(self) -> Value:
        values = [self.negated()]
        while self.take("and"):
            values.append(self.negated())
        return values[0] if len(values) == 1 else lambda outputs: all(value(outputs) for value in values)

    def negated(self) -> Value:
        if not self.take("not"):
            return self.compared()
        self.deeper()
        inner = self.negated()
        self.depth -= 1
        return lambda outputs: not inner(outputs)

    def compared(self) -> Value:
        left = self.term()
        operator = self.take("==", "!=", "<=", ">=", "<", ">", "in", "not")
        if operator is None:
            return left
        if operator == "not":
            self.expect("in")
            operator = "not in"
        right, compare = self.term(), _COMPARE[operator]
        return lambda outputs: compare(left(outputs), right(outputs))

    def term(self) -> Value:
        kind, text, column = self.token
        if kind == "number":
            self.at += 1
            number = float(text) if "." in text else int(text)
            return lambda outputs: number
        if kind == "text":
            self.at += 1
            return lambda outputs: text[1:-1]
        if self.take("("):
            self.deeper()
            inner = self.either()
            self.expect(")")
            self.depth -= 1
            return inner
        if self.take("["):
            return self.items()
        if self.take("len"):
            self.expect("(")
            self.deeper()
            inner = self.term()
            self.expect(")")
            self.depth -= 1
            return lambda outputs: _length(inner(outputs))
        if kind == "path" and text in _WORDS:
            self.at += 1
            return lambda outputs: _WORDS[text]
        if kind == "path" and text not in _RESERVED:
            self.at += 1
            path = tuple(text.split("."))
            self.paths.append(path)
            return lambda outputs: _look(path, outputs)
        raise ValueError(f"column {column}: a value expected, found {'the end' if kind == 'end' else repr(text)}")

    def items(self) -> Value:
        values: list[Value] = []
        while not self.take("]"):
            if values:
                self.expect(",")
            self.deeper()
            values.append(self.term())
            self.depth -= 1
        return lambda outputs: [value(outputs) for value in values]


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """(kind, text, column from 1), ending with the end."""
    at = 0
    while True:
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(
                f"column {len(text) - len(text[at:].lstrip()) + 1}: {text[at:].strip()[:12]!r} is no word here"
            )
        kind = found.lastgroup or "end"
        yield kind, found[kind], found.start(kind) + 1
        if kind == "end":
            return
        at = found.end()


def _look(path: tuple[str, ...], outputs: Outputs) -> Any:
    """The value at a path; None where there is none. A number picks from a list, from 0."""
    value: Any = outputs.get(path[0])
    for key in path[1:]:
        if isinstance(value, Mapping):
            value = value.get(key)
        elif isinstance(value, list | tuple) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def _length(value: Any) -> int:
    return len(value) if isinstance(value, str | list | tuple | Mapping) else 0


def _ordered(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """An order exists between two numbers or two texts only; anything else is false."""

    def compare(left: Any, right: Any) -> bool:
        numbers = all(isinstance(value, int | float) for value in (left, right))
        return (numbers or all(isinstance(value, str) for value in (left, right))) and test(left, right)

    return compare


def _inside(left: Any, right: Any) -> bool:
    if isinstance(right, str):
        return isinstance(left, str) and left in right
    return isinstance(right, list | tuple | Mapping) and left in list(right)


_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": _ordered(lambda a, b: a < b),
    "<=": _ordered(lambda a, b: a <= b),
    ">": _ordered(lambda a, b: a > b),
    ">=": _ordered(lambda a, b: a >= b),
    "in": _inside,
    "not in": lambda a, b: not _inside(a, b),
}
