"""The syntax of source files: whether one parses, what it declares, and what a declaration is built like.

The only module that imports tree-sitter. Everything it is given is hostile: files above a size are not parsed, nothing
recurses, and what is known to take a parser more than linear time is refused before it sees it. Grammars are loaded
when a language is first met. Pure.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
import tomllib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import yaml
from tree_sitter import Language, Parser, Tree
from tree_sitter import Node as Node

MAX_CODE = 512 * 1024  # bytes of a source that is parsed; the worst found takes 4 s for so much
MAX_DATA = 256 * 1024  # bytes of JSON, TOML or YAML
MAX_SYMBOLS = 5_000
MAX_SHAPE = 2_000  # nodes
_MAX_NESTING = 1_000  # of YAML's brackets: libyaml takes quadratic time for them
_MAX_DOTS = 1_000  # in a line of TOML: tomllib takes quadratic time for a key of many parts

_SUFFIXES = {
    **dict.fromkeys((".py", ".pyi"), "python"),
    **dict.fromkeys((".js", ".mjs", ".cjs", ".jsx"), "javascript"),
    **dict.fromkeys((".ts", ".mts", ".cts"), "typescript"),
    ".tsx": "tsx",
    ".json": "json",
    ".toml": "toml",
    **dict.fromkeys((".yaml", ".yml"), "yaml"),
}
_GRAMMARS = {
    "python": ("tree_sitter_python", "language"),
    "javascript": ("tree_sitter_javascript", "language"),
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
}
_NAME = re.compile(r"#?[\w$]{1,200}")
_CALLABLES = frozenset({"arrow_function", "function_expression", "generator_function", "function_declaration"})
_CALLABLES |= {"generator_function_declaration", "function"}
_CLASSES = frozenset({"class", "class_declaration", "abstract_class_declaration"})
_BLOCKS = frozenset({"if_statement", "elif_clause", "else_clause", "try_statement", "except_clause"})
_BLOCKS |= {"except_group_clause", "finally_clause", "with_statement", "block"}


@dataclass(frozen=True, slots=True)
class Symbol:
    """A function, class or method. `name` is dotted within its file. It is the bytes `start`..`end` on the lines
    `line`..`end_line`, decorators and `export` counted in. `exported` is the name that others get it by, "" when they
    do not: in JavaScript "default" for a default export and "module.exports" where it is the whole module. `parameters`
    are names, with their stars or dots, without `self` and `cls`. `documented`: a docstring, or a `/** */` above."""

    name: str
    kind: Literal["function", "class", "method"]
    line: int
    end_line: int
    parent: str
    exported: str
    parameters: tuple[str, ...]
    documented: bool
    start: int
    end: int


def language_of(path: str) -> str | None:
    """The language of a file by its ending, in lower case; None: none that is known here."""
    dot = path.rfind(".")
    return _SUFFIXES.get(path[dot:].lower()) if dot > path.rfind("/") + 1 else None


def has_symbols(path: str) -> bool:
    """Whether a file is in a language whose declarations can be listed."""
    return language_of(path) in _GRAMMARS


def fault(path: str, raw: bytes) -> str:
    """Why a file does not parse, with its line; "" when it does, or when its language is not known here.

    Python is what this Python takes for it. A file that is too large, or built to be slow, has a fault of its own.
    """
    language = language_of(path)
    if language is None:
        return ""
    most = MAX_CODE if language in _GRAMMARS else MAX_DATA
    if len(raw) > most:
        return f"line 1: {len(raw)} bytes, more than the {most} that are parsed"
    if language == "python":
        return _python_fault(raw)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"line {raw[: error.start].count(10) + 1}: not UTF-8 text"
    if language in _GRAMMARS:
        return _tree_fault(_tree(language, raw).root_node)
    return _DATA[language](text)


def _said(line: int | None, why: str) -> str:
    return f"line {max(line or 1, 1)}: {why[:200]}"


def _python_fault(raw: bytes) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(raw)
    except SyntaxError as error:
        return _said(error.lineno, error.msg or "not Python")
    except (ValueError, RecursionError, MemoryError) as error:
        return _said(1, str(error) or "nested too deeply")
    return ""


def _json_fault(text: str) -> str:
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        return _said(error.lineno, error.msg)
    except (ValueError, RecursionError):
        return _said(1, "nested too deeply, or a number too long")
    return ""


def _toml_fault(text: str) -> str:
    for number, line in enumerate(text.split("\n"), 1):
        if line.count(".") > _MAX_DOTS:
            return _said(number, "more dots than are read here")
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"at line (\d+)", str(error))
        return _said(int(at[1]) if at else text.count("\n") + 1, str(error))
    except (ValueError, RecursionError):
        return _said(1, "nested too deeply, or a number too long")
    return ""


def _yaml_fault(text: str) -> str:
    depth = 0
    for mark in re.finditer(r"[\[\]{}]", text):
        depth = max(0, depth + (1 if mark[0] in "[{" else -1))
        if depth > _MAX_NESTING:
            return _said(text.count("\n", 0, mark.start()) + 1, "nested too deeply")
    try:
        for _ in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            pass
    except yaml.MarkedYAMLError as error:
        mark_ = error.problem_mark or error.context_mark
        return _said(mark_.line + 1 if mark_ else 1, error.problem or "not YAML")
    except (yaml.YAMLError, RecursionError) as error:
        return _said(1, str(error).split("\n")[0])
    return ""


_DATA: dict[str, Callable[[str], str]] = {"json": _json_fault, "toml": _toml_fault, "yaml": _yaml_fault}


@lru_cache(maxsize=len(_GRAMMARS))
def _grammar(language: str) -> Language:
    module, function = _GRAMMARS[language]
    return Language(getattr(importlib.import_module(module), function)())


@lru_cache(maxsize=8)
def _tree(language: str, raw: bytes) -> Tree:
    return Parser(_grammar(language)).parse(raw)


def root(path: str, raw: bytes) -> Node | None:
    """The syntax tree of a source; None for another language, a file that is too large or one that does not parse."""
    language = language_of(path)
    if language not in _GRAMMARS or len(raw) > MAX_CODE:
        return None
    found = _tree(language, raw).root_node
    return None if found.has_error else found


def _tree_fault(node: Node) -> str:
    """The first thing in a tree that the grammar could not place."""
    if not node.has_error:
        return ""
    while not (node.is_error or node.is_missing):
        inner = next((child for child in node.children if child.has_error or child.is_missing), None)
        if inner is None:
            break
        node = inner
    why = f"missing {node.type!r}" if node.is_missing else "syntax error"
    return _said(node.start_point[0] + 1, why)


def symbols(path: str, raw: bytes) -> tuple[Symbol, ...]:
    """The functions, classes and methods of a file, from its top; those inside a function are its own affair. None of
    another language or of a file that is too large; what can be told of one that does not parse."""
    language = language_of(path)
    if language not in _GRAMMARS or len(raw) > MAX_CODE:
        return ()
    return _symbols(language, raw)


@lru_cache(maxsize=64)
def _symbols(language: str, raw: bytes) -> tuple[Symbol, ...]:
    root = _tree(language, raw).root_node
    found = _in_python(root) if language == "python" else _in_javascript(root)
    return tuple(found[:MAX_SYMBOLS])


def shape(path: str, raw: bytes, symbol: Symbol) -> tuple[str, ...]:
    """What a symbol is built of: the types of its syntax nodes in their order, no names and no values. Two symbols of
    the same shape do the same to other things."""
    language = language_of(path)
    if language not in _GRAMMARS or len(raw) > MAX_CODE:
        return ()
    node = _tree(language, raw).root_node.descendant_for_byte_range(symbol.start, symbol.end)
    found: list[str] = []
    stack = [node] if node is not None else []
    while stack and len(found) < MAX_SHAPE:
        node = stack.pop()
        if node.type != "comment":
            found.append(node.type)
            stack += reversed(node.named_children)
    return tuple(found)


def _text(node: Node | None) -> str:
    raw = node.text if node is not None else None
    return raw.decode("utf-8", "replace") if raw else ""


def _symbol(
    whole: Node,
    head: Node,
    name: str,
    kind: Literal["function", "class", "method"],
    parent: str = "",
    exported: str = "",
    parameters: tuple[str, ...] = (),
    documented: bool = False,
) -> Symbol:
    """`head` is the first decorator of `whole`, or itself."""
    last = whole.end_point[0] + (1 if whole.end_point[1] else 0)
    line = head.start_point[0] + 1
    dotted = f"{parent}.{name}" if parent else name
    return Symbol(
        dotted,
        kind,
        line,
        max(line, last),
        parent,
        exported,
        parameters,
        documented,
        head.start_byte,
        whole.end_byte,
    )


# --- Python ----------------------------------------------------------------------------------------------------------


def _in_python(root: Node) -> list[Symbol]:
    named = _dunder_all(root)
    found: list[Symbol] = []
    stack = [(node, "", True) for node in reversed(root.named_children)]  # a node, its class, whether that is public
    while stack and len(found) < MAX_SYMBOLS:
        whole, parent, public = stack.pop()
        node = whole
        if whole.type == "decorated_definition":
            node = whole.child_by_field_name("definition") or whole
        if node.type in _BLOCKS:
            stack += [(child, parent, public) for child in reversed(node.named_children)]
        if node.type not in ("function_definition", "class_definition"):
            continue
        name, body = _text(node.child_by_field_name("name")), node.child_by_field_name("body")
        if not _NAME.fullmatch(name):
            continue
        shown = public and (not name.startswith("_") if parent or named is None else name in named)
        exported, documented = name if shown else "", _has_docstring(body)
        if node.type == "class_definition":
            made = _symbol(whole, whole, name, "class", parent, exported, (), documented)
            if body is not None:
                stack += [(child, made.name, shown) for child in reversed(body.named_children)]
        else:
            taken = _python_parameters(node.child_by_field_name("parameters"))
            if parent and taken[:1] in (("self",), ("cls",)):
                taken = taken[1:]
            made = _symbol(whole, whole, name, "method" if parent else "function", parent, exported, taken, documented)
        found.append(made)
    return found


def _dunder_all(root: Node) -> frozenset[str] | None:
    """The names in a literal `__all__`; None where there is none."""
    for statement in root.named_children:
        node = statement.named_children[0] if statement.type == "expression_statement" else None
        if node is None or node.type != "assignment" or _text(node.child_by_field_name("left")) != "__all__":
            continue
        value = node.child_by_field_name("right")
        if value is not None and value.type in ("list", "tuple"):
            return frozenset(_text(each).strip("\"'") for each in value.named_children)
    return None


def _python_parameters(node: Node | None) -> tuple[str, ...]:
    names = []
    for each in node.named_children if node is not None else ():
        inner = each.child_by_field_name("name") or (each.named_children[0] if each.type == "typed_parameter" else each)
        if inner.type in ("identifier", "list_splat_pattern", "dictionary_splat_pattern"):
            names.append(_text(inner)[:60])
    return tuple(names)


def _has_docstring(body: Node | None) -> bool:
    first = next((each for each in body.named_children if each.type != "comment"), None) if body is not None else None
    if first is None or first.type != "expression_statement":
        return False
    node = first.named_children[0] if first.named_children else first
    return node.type in ("string", "concatenated_string") and _text(node)[:1] in "\"'rRuU"


# --- JavaScript and TypeScript ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Declared:
    """A declaration at the top of a file: the statement it is all of, what it declares, and its names."""

    whole: Node
    head: Node
    node: Node
    name: str
    exported: str
    documented: bool


def _in_javascript(root: Node) -> list[Symbol]:
    given = _given_away(root)
    found: list[Symbol] = []
    for one in _declared(root):
        exported = one.exported or given.get(one.name, "")
        if one.node.type in _CALLABLES or one.node.type == "method_definition":
            taken = _javascript_parameters(one.node)
            found.append(_symbol(one.whole, one.head, one.name, "function", "", exported, taken, one.documented))
        elif one.node.type in _CLASSES:
            made = _symbol(one.whole, one.head, one.name, "class", "", exported, (), one.documented)
            found += [made, *_methods(one.node, made)]
        if len(found) >= MAX_SYMBOLS:
            break
    return found


def _declared(root: Node) -> Iterator[_Declared]:
    """Every function and class that a statement at the top of a file declares, exports or assigns."""
    for statement, head, documented in _with_comments(root):
        node, exported = statement, ""
        if statement.type == "export_statement":
            default = any(child.type == "default" for child in statement.children)
            inner = statement.child_by_field_name("declaration") or statement.child_by_field_name("value")
            if inner is None:
                continue
            node, exported = inner, "default" if default else "?"
        for name, value in _values(node):
            name = name or ("default" if exported == "default" else "")
            if _NAME.fullmatch(name):
                yield _Declared(statement, head, value, name, name if exported == "?" else exported, documented)
        if node.type == "expression_statement" and node.named_children:
            yield from _assigned(statement, node.named_children[0], documented)


def _with_comments(parent: Node) -> Iterator[tuple[Node, Node, bool]]:
    """The named children but comments and decorators; of each, its first decorator or itself, and whether a `/** */`
    stands right above that."""
    above: Node | None = None
    head: Node | None = None
    for node in parent.named_children:
        if node.type == "comment":
            above = node if head is None else above
            continue
        head = head or node
        if node.type == "decorator":
            continue
        close = above is not None and head.start_point[0] - above.end_point[0] <= 1
        yield node, head, close and _text(above).startswith("/**")
        above = head = None


def _values(node: Node) -> Iterator[tuple[str, Node]]:
    """(name, function or class) of a declaration or an expression."""
    if node.type in _CALLABLES or node.type in _CLASSES:
        yield _text(node.child_by_field_name("name")), node
    elif node.type in ("lexical_declaration", "variable_declaration"):
        for each in node.named_children:
            value = each.child_by_field_name("value")
            if value is not None and (value.type in _CALLABLES or value.type in _CLASSES):
                yield _text(each.child_by_field_name("name")), value


def _assigned(statement: Node, node: Node, documented: bool) -> Iterator[_Declared]:
    """What `module.exports = ...`, `module.exports.name = ...` and `exports.name = ...` define in place."""
    target = _export_target(node)
    right = node.child_by_field_name("right")
    if not target or right is None:
        return
    for name, value in _values(right):
        known = target if target != "module.exports" else name or "default"
        yield _Declared(statement, statement, value, known, target, documented)
    if target == "module.exports" and right.type == "object":
        for each, head, documented in _with_comments(right):
            inner = each.child_by_field_name("value") if each.type == "pair" else each
            name = _text(each.child_by_field_name("key" if each.type == "pair" else "name"))
            if inner is not None and _NAME.fullmatch(name):
                yield _Declared(each, head, inner, name, name, documented)


def _export_target(node: Node) -> str:
    """The name that an assignment exports: "module.exports" for all of it, "" for none."""
    left = node.child_by_field_name("left") if node.type == "assignment_expression" else None
    name = re.sub(r"\s", "", _text(left)[:300])
    if name == "module.exports":
        return name
    for front in ("module.exports.", "exports."):
        if name.startswith(front) and _NAME.fullmatch(name[len(front) :]):
            return name[len(front) :]
    return ""


def _given_away(root: Node) -> dict[str, str]:
    """The names a file exports apart from their declarations: local name, and the name others get it by."""
    found: dict[str, str] = {}
    for statement in root.named_children:
        if statement.type == "export_statement" and statement.child_by_field_name("source") is None:
            value = statement.child_by_field_name("value")
            if value is not None and value.type == "identifier":
                found.setdefault(_text(value), "default")
            for node in statement.named_children:
                if node.type == "identifier":  # export = name
                    found.setdefault(_text(node), "module.exports")
                for each in node.named_children if node.type == "export_clause" else ():
                    name = _text(each.child_by_field_name("name"))
                    found.setdefault(name, _text(each.child_by_field_name("alias")) or name)
        elif statement.type == "expression_statement" and statement.named_children:
            found = _assigned_names(statement.named_children[0]) | found
    return found


def _assigned_names(node: Node) -> dict[str, str]:
    target, right = _export_target(node), node.child_by_field_name("right")
    if not target or right is None:
        return {}
    if right.type == "identifier":
        return {_text(right): target}
    found = {}
    for each in right.named_children if target == "module.exports" and right.type == "object" else ():
        value = each.child_by_field_name("value") if each.type == "pair" else each
        if value is not None and value.type in ("identifier", "shorthand_property_identifier"):
            found[_text(value)] = _text(each.child_by_field_name("key")) or _text(value)
    return found


def _methods(node: Node, owner: Symbol) -> Iterator[Symbol]:
    body = node.child_by_field_name("body")
    for each, head, documented in _with_comments(body) if body is not None else ():
        value = each
        if each.type in ("field_definition", "public_field_definition"):
            value = each.child_by_field_name("value") or each
            if value.type not in _CALLABLES:
                continue
        elif each.type != "method_definition":
            continue
        name = _text(each.child_by_field_name("name") or each.child_by_field_name("property"))
        if not _NAME.fullmatch(name):
            continue
        access = next((_text(child) for child in each.children if child.type == "accessibility_modifier"), "public")
        shown = bool(owner.exported) and access == "public" and not name.startswith(("#", "_"))
        taken = _javascript_parameters(value)
        yield _symbol(each, head, name, "method", owner.name, name if shown else "", taken, documented)


def _javascript_parameters(node: Node) -> tuple[str, ...]:
    single = node.child_by_field_name("parameter")
    if single is not None:
        return (_text(single)[:60],)
    names = []
    for each in (node.child_by_field_name("parameters") or node).named_children:
        inner = each.child_by_field_name("pattern") or each.child_by_field_name("left") or each
        if each.type != "comment" and inner.type != "this":
            names.append(re.sub(r"\s+", " ", _text(inner)[:60]))
    return tuple(names)
