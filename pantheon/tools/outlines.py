"""First sentences for the docstrings of classes and modules: what they are, from names, bases and what they define.

Pure. Functions are in sentences.py.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from pantheon.tools import english, pyfacts
from pantheon.tools.english import a, sentence, spoken
from pantheon.tools.pysource import Function, Source

_FURNITURE = frozenset({"abstract", "base", "default", "generic", "mixin", "my", "simple", "standard", "meta"})


def class_noun(name: str) -> str:
    """A class's name as a noun, without what only says that it is a class."""
    parts = [part for part in english.words(name) if part not in _FURNITURE]
    return "" if any(part.isdigit() or len(part) == 1 for part in parts) else spoken(parts)


def names_itself(order: str, owner: str) -> bool:
    """Whether a class is named by what it does: a parser parses, and is not what is parsed."""
    if order.split()[0] in owner.split():
        return True
    return re.search(rf"\b{re.escape(order.rstrip('e')[:5])}\w*(?:er|or)\b", owner) is not None


def of_class(source: Source, node: ast.ClassDef) -> Iterator[str]:
    parts = english.words(node.name)
    if not parts or any(part.isdigit() or len(part) == 1 for part in parts):
        return
    if len(parts) > 1 and len(parts[0]) == 2 and spoken(parts[:1]) == parts[0]:
        return  # a prefix of the project's own
    above = pyfacts.bases(node)
    marks = pyfacts.decorators(node)
    if any(name.endswith(("Error", "Exception", "Warning")) for name in above):
        yield from _of_exception(source, node.name, parts)
    elif any(name.endswith(("Enum", "Flag")) for name in above):
        yield f"Enumeration of {english.plural(spoken(parts))}."
        yield f"The possible {english.plural(spoken(parts))}."
    elif "Protocol" in above:
        methods = [n.name for n in node.body if isinstance(n, Function) and not n.name.startswith("_")]
        if 0 < len(methods) < 4:
            yield f"Protocol for objects with {a(english.listed(methods))} {'methods' if methods[1:] else 'method'}."
    elif "NamedTuple" in above or "TypedDict" in above or "dataclass" in marks:
        yield from _of_fields(node, parts)
    elif parts[-1] == "mixin" and len(parts) > 1:
        yield f"Mixin for {spoken(parts[:-1])} classes."
    elif parts[0] in ("base", "abstract") or "ABC" in above:
        noun = class_noun(node.name)
        if noun and noun != "class":
            yield f"Base class for {english.plural(noun)}."
            yield f"Abstract {noun}." if "ABC" in above else f"Common base of {english.plural(noun)}."
    else:
        yield from _of_plain_class(node, parts, above)


def _of_exception(source: Source, name: str, parts: list[str]) -> Iterator[str]:
    kind = parts[-1] if parts[-1] in ("error", "exception", "warning") else ""
    rest = parts[:-1] if kind else parts
    if not rest:
        return
    noun = spoken(rest)
    raised = "Issued" if kind == "warning" else "Raised"
    state = rest[-1]
    if rest[-2:] == ["not", "found"] and rest[:-2]:
        yield f"{raised} when {a(spoken(rest[:-2]))} is not found."
    elif state in ("exists", "failed") and len(rest) > 1:
        thing = a(spoken([part for part in rest[:-1] if part != "already"]))
        yield f"{raised} when {thing} {'already exists' if state == 'exists' else 'failed'}."
    elif rest[0] in ("invalid", "missing", "unknown", "unsupported", "duplicate", "unexpected", "bad") and rest[1:]:
        adjective = "invalid" if rest[0] == "bad" else rest[0]
        yield f"{raised} for {a(f'{adjective} {spoken(rest[1:])}')}."
    elif rest[:2] == ["too", "many"] and rest[2:]:
        yield f"{raised} when there are too many {spoken(rest[2:])}."
    elif len(rest) > 1 and re.fullmatch(r".+(?:ed)", state):
        yield f"{raised} when {a(spoken(rest[:-1]))} is {state}."
    elif kind and english.is_verb(rest[0]) and len(rest) == 1:
        yield f"{raised} when {_gerund(english.verb(rest[0]))} fails."
    raisers = list(pyfacts.raisers(source).get(name, ()))
    if 0 < len(raisers) < 4:
        yield f"{raised} by {english.listed(raisers)}."
    if kind:
        yield sentence(a(f"{noun} {kind}"))


def _gerund(word: str) -> str:
    if word.endswith("e") and not word.endswith(("ee", "ye", "oe")):
        return word[:-1] + "ing"
    doubled = re.fullmatch(r"[^aeiou]*[aeiou][bdgmnprt]", word) is not None
    return f"{word}{word[-1]}ing" if doubled else f"{word}ing"


def _of_fields(node: ast.ClassDef, parts: list[str]) -> Iterator[str]:
    """A class that is its fields."""
    fields = [n.target.id for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    names = [spoken(english.words(name)) for name in fields if not name.startswith("_")]
    noun = spoken(parts)
    if 0 < len(names) < 5:
        yield sentence(f"{a(noun)} with its {english.listed(names)}")
    kind = "named tuple" if "NamedTuple" in pyfacts.bases(node) else "record"
    yield sentence(f"The {kind} of {a(noun)}")


def _of_plain_class(node: ast.ClassDef, parts: list[str], above: list[str]) -> Iterator[str]:
    noun = spoken(parts)
    if parts[-1] in ("config", "settings", "options", "configuration") and len(parts) > 1:
        yield f"Settings for {spoken(parts[:-1])}."
    elif (
        parts[0] not in ("null", "no", "dummy")
        and parts[-1] in ("handler", "factory", "manager", "registry")
        and len(parts) > 1
    ):
        thing = spoken(parts[:-1])
        yield f"{parts[-1].capitalize()} for {english.plural(thing)}."
    if english.is_plural(noun):
        return
    deeds = _deeds(node)
    if 0 < len(deeds) < 4 and not any(names_itself(deed.split()[0], noun) for deed in deeds):
        yield sentence(f"{a(noun)} that can {english.listed(deeds)}")
    kin = english.words(above[0])[-1:] if above else []
    if kin and kin[0] not in parts and above[0] != "object" and not above[0].startswith("_"):
        yield sentence(f"{a(noun)}, a kind of {above[0]}")


def _deeds(node: ast.ClassDef) -> list[str]:
    """What the public methods of a class do, if all are named by verbs."""
    found: dict[str, None] = {}
    for method in node.body:
        parts = english.words(method.name) if isinstance(method, Function) and method.name[:1] != "_" else []
        if not parts:
            continue
        if not english.is_verb(parts[0]) or parts[0] in ("get", "set", *english.WITH, *english.ALONE):
            return []
        rest = parts[1:]
        if not rest:
            found[english.verb(parts[0])] = None
        elif not set(rest) & (english.PREPOSITIONS | english.ADVERBS | english.PARTICLES) and not english.is_verb(
            rest[0]
        ):
            found[f"{english.verb(parts[0])} {english.plural(spoken(rest))}"] = None
        else:
            return []
    return list(found) if len(found) > 1 or any(" " in deed for deed in found) else []


def of_module(path: str, source: Source) -> Iterator[str]:
    """What a module is for, from what it defines in public."""
    folder, _, name = path.rpartition("/")
    stem = name.rpartition(".")[0]
    public = [d for d in source.definitions if len(d.parents) == 1 and not d.name.startswith("_")]
    classes = list(dict.fromkeys(d.name for d in public if isinstance(d.node, ast.ClassDef)))
    functions = list(dict.fromkeys(d.name for d in public if isinstance(d.node, Function)))
    if stem == "__init__":
        return
    if stem == "__main__":
        yield "Run the package as a program."
        return
    bad = [c for c in classes if c.endswith(("Error", "Exception", "Warning"))]
    if classes and not functions and len(bad) == len(classes) > 1:
        yield f"Exceptions of the {folder.rpartition('/')[2]} package." if "/" in path else "Exceptions."
    names = [*classes, *(name for name in functions if name != "main")]
    if 1 < len(names) < 4:
        yield f"Provide {english.listed(names)}."
    if 0 < len(classes) < 4:
        more = " and helper functions" if functions else ""
        yield f"The {english.listed(classes)} {'classes' if classes[1:] else 'class'}{more}."
    yield from _of_functions(functions, classes)
    words = english.words(stem)
    if words[-1:] in (["utils"], ["util"], ["helpers"]) and len(words) > 1:
        yield f"Utilities for {english.plural(spoken(words[:-1]))}."


def _of_functions(functions: list[str], classes: list[str]) -> Iterator[str]:
    """A module of functions that all begin with verbs."""
    orders = []
    for name in functions:
        parts = english.words(name)
        if len(parts) < 2 or not english.is_verb(parts[0]) or parts[1] in english.PREPOSITIONS:
            return
        orders.append(f"{english.verb(parts[0])} {english.plural(english.noun_phrase(parts[1:]))}")
    if not classes and 1 < len(orders) < 5:
        yield f"Functions that {english.listed(orders)}."
