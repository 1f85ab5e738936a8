"""What a JavaScript or TypeScript module offers and borrows, read from its syntax tree: exports with what holds for
them by construction, imports, and what it passes on from others. Nothing is run.

What is left to run time (a computed value, a decorated class, a variable) is not said. Types are no exports: nothing of
them is there when the module runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from pantheon.tools import syntax
from pantheon.tools.interfaces import MAX_FACTS, MAX_SYMBOLS, Public, sentence

DEFAULT = "default"
_FUNCTIONS = frozenset(
    {
        *("function_declaration", "generator_function_declaration", "arrow_function", "function_expression"),
        "generator_function",
    }
)
_CLASSES = frozenset({"class_declaration", "class"})
_VALUES = frozenset({"number", "string", "template_string", "array", "object", "regex", "true", "false"})
_PARENTS = frozenset({"Error", "TypeError", "RangeError", "SyntaxError", "EventTarget", "Map", "Set", "Array"})
_WRAPPED = frozenset({"as_expression", "satisfies_expression", "parenthesized_expression"})
_NAME = re.compile(r"[A-Za-z_$][\w$]{0,79}", re.ASCII)
_CALLED = re.compile(rb"\b(?:require|import)\s{0,4}\(\s{0,4}(['\"])([^'\"\n\\]{1,300})\1")
_RESERVED = frozenset(
    {
        *("arguments", "await", "break", "case", "catch", "class", "const", "continue", "debugger", "default"),
        *("delete", "do", "else", "enum", "eval", "export", "extends", "false", "finally", "for", "function"),
        *("if", "implements", "import", "in", "instanceof", "interface", "let", "new", "null", "package"),
        *("private", "protected", "public", "return", "static", "super", "switch", "test", "this", "throw"),
        *("true", "try", "typeof", "undefined", "var", "void", "while", "with", "yield", "t"),
    }
)


class Borrowed(NamedTuple):
    """A name that comes from another module: what it is called here ("" where it has no name), where it comes from,
    and what it is called there ("*": all of it)."""

    name: str
    source: str
    original: str


@dataclass(frozen=True)
class Script:
    """One module. `esm`: it has import or export statements; `commonjs`: it assigns its exports."""

    public: tuple[Public, ...] = ()
    imports: tuple[Borrowed, ...] = ()
    passed_on: tuple[Borrowed, ...] = ()
    esm: bool = False
    commonjs: bool = False


@lru_cache(maxsize=128)
def read_script(path: str, raw: bytes) -> Script:
    """What a source offers and borrows; nothing for one that does not parse."""
    root = syntax.root(path, raw)
    if root is None:
        return Script()
    known = dict(_declared(root))
    imports = tuple(_imports(root))
    found: list[Public] = []
    passed: list[Borrowed] = []
    esm = commonjs = False
    for node, doc in _statements(root):
        if node.type == "import_statement":
            esm = True
        elif node.type == "export_statement":
            esm = True
            found += _exports(node, doc, known)
            passed += _passed_on(node, imports)
        elif node.type == "expression_statement" and node.named_children:
            target, value = _assigned(node.named_children[0])
            if target and value is not None:
                commonjs = True
                found += _from_assignment(target, value, doc, known)
    called = tuple(Borrowed("", match[2].decode("utf-8", "replace"), "*") for match in _CALLED.finditer(raw))
    usable = {each.name: each for each in found if _NAME.fullmatch(each.name)}
    return Script(tuple(usable.values())[:MAX_SYMBOLS], (*imports, *called), tuple(passed), esm, commonjs)


def _text(node: syntax.Node | None) -> str:
    return (node.text or b"").decode("utf-8", "replace") if node is not None else ""


def _statements(root: syntax.Node) -> Iterator[tuple[syntax.Node, str]]:
    """The statements at the top, each with the first sentence of the `/** */` right above it."""
    above: syntax.Node | None = None
    for node in root.named_children:
        if node.type == "comment":
            above = node
            continue
        close = above is not None and node.start_point[0] - above.end_point[0] <= 1
        yield node, _comment(_text(above)) if close else ""
        above = None


def _comment(text: str) -> str:
    """What a `/** */` says before its first tag."""
    if not text.startswith("/**"):
        return ""
    lines = [line.strip().lstrip("*").strip() for line in text[3:-2].splitlines()[:20]]
    end = next((n for n, line in enumerate(lines) if line.startswith("@")), len(lines))
    return sentence("\n".join(lines[:end]))


def _declared(root: syntax.Node) -> Iterator[tuple[str, tuple[syntax.Node, str]]]:
    """Functions, classes, enumerations and constants at the top, by name, with their comment."""
    for node, doc in _statements(root):
        inner = node.child_by_field_name("declaration") if node.type == "export_statement" else node
        if inner is None:
            continue
        if inner.type == "lexical_declaration" and inner.children[0].type == "const":
            for each in inner.named_children:
                value = _unwrapped(each.child_by_field_name("value"))
                if value is not None and each.type == "variable_declarator":
                    yield _text(each.child_by_field_name("name")), (value, doc)
        elif inner.type in _FUNCTIONS | _CLASSES or _is_enum(inner):
            yield _text(inner.child_by_field_name("name")), (inner, doc)


def _is_enum(node: syntax.Node) -> bool:
    return node.type == "enum_declaration" and node.children[0].type == "enum"  # a const one is not there at run time


def _unwrapped(node: syntax.Node | None) -> syntax.Node | None:
    for _ in range(4):
        if node is not None and node.type in _WRAPPED and node.named_children:
            node = node.named_children[0]
    return node


# --- ECMAScript modules ----------------------------------------------------------------------------------------------


def _imports(root: syntax.Node) -> Iterator[Borrowed]:
    for node in root.named_children:
        if node.type != "import_statement":
            continue
        source = _source(node)
        clause = next((each for each in node.named_children if each.type == "import_clause"), None)
        if clause is None:
            yield Borrowed("", source, "*")
        for each in clause.named_children if clause is not None else ():
            if each.type == "identifier":
                yield Borrowed(_text(each), source, DEFAULT)
            elif each.type == "namespace_import":
                yield Borrowed(_text(each.named_children[0]), source, "*")
            for one in each.named_children if each.type == "named_imports" else ():
                name = _text(one.child_by_field_name("name"))
                yield Borrowed(_text(one.child_by_field_name("alias")) or name, source, name)


def _source(node: syntax.Node) -> str:
    return _text(node.child_by_field_name("source"))[1:-1][:300]


def _is_type(node: syntax.Node) -> bool:
    return any(child.type == "type" for child in node.children)


def _specifiers(node: syntax.Node) -> Iterator[tuple[str, str]]:
    """(local name, exported name) of an export clause."""
    for clause in node.named_children:
        for each in clause.named_children if clause.type == "export_clause" else ():
            name = _text(each.child_by_field_name("name"))
            if not _is_type(each):
                yield name, _text(each.child_by_field_name("alias")) or name


def _exports(node: syntax.Node, doc: str, known: dict[str, tuple[syntax.Node, str]]) -> Iterator[Public]:
    """What an export statement offers that is defined here."""
    if node.child_by_field_name("source") is not None or _is_type(node):
        return
    default = any(child.type == DEFAULT for child in node.children)
    inner = node.child_by_field_name("declaration")
    value = _unwrapped(node.child_by_field_name("value"))
    if inner is not None and not default:
        for name, (definition, _) in _declared_by(inner, known):
            yield from _public(name, definition, doc)
    elif inner is not None:
        yield from _public(DEFAULT, inner, doc)
    elif value is not None:
        definition, said = known.get(_text(value), (value, doc))
        yield from _public(DEFAULT, definition, said)
    for name, exported in _specifiers(node):
        if name in known:
            yield from _public(exported, *known[name])


def _declared_by(
    node: syntax.Node, known: dict[str, tuple[syntax.Node, str]]
) -> Iterator[tuple[str, tuple[syntax.Node, str]]]:
    names = [node] if node.type not in ("lexical_declaration", "variable_declaration") else node.named_children
    for each in names:
        name = _text(each.child_by_field_name("name"))
        if name in known and each.type != "function_signature":
            yield name, known[name]


def _passed_on(node: syntax.Node, imports: tuple[Borrowed, ...]) -> Iterator[Borrowed]:
    """What an export statement passes on from another module."""
    if node.child_by_field_name("source") is None:
        borrowed = {each.name: each for each in imports if each.name}
        pairs = list(_specifiers(node))
        value = node.child_by_field_name("value")
        pairs += [(_text(value), DEFAULT)] if value is not None and value.type == "identifier" else []
        for name, exported in pairs:
            if name in borrowed:
                yield borrowed[name]._replace(name=exported)
        return
    source = _source(node)
    names = list(_specifiers(node))
    for name, exported in names:
        yield Borrowed(exported, source, name)
    if not any(each.type == "export_clause" for each in node.named_children):
        space = next((each for each in node.named_children if each.type == "namespace_export"), None)
        yield Borrowed(_text(space.named_children[0]) if space is not None else "*", source, "*")


# --- CommonJS --------------------------------------------------------------------------------------------------------


def _assigned(node: syntax.Node) -> tuple[str, syntax.Node | None]:
    """What an assignment exports, and the value: "default" for `module.exports` itself, "" for nothing."""
    if node.type != "assignment_expression":
        return "", None
    left = re.sub(r"\s", "", _text(node.child_by_field_name("left"))[:200])
    right = node.child_by_field_name("right")
    for front in ("module.exports", "exports"):
        if left == front:
            return (DEFAULT if front == "module.exports" else ""), right
        if left.startswith(front + ".") and _NAME.fullmatch(left[len(front) + 1 :]):
            return left[len(front) + 1 :], right
    return "", None


def _from_assignment(
    target: str, value: syntax.Node, doc: str, known: dict[str, tuple[syntax.Node, str]]
) -> Iterator[Public]:
    if target == DEFAULT and value.type == "object":
        for each in value.named_children:
            if each.type == "shorthand_property_identifier" and _text(each) in known:
                yield from _public(_text(each), *known[_text(each)])
            elif each.type == "method_definition" and not {child.type for child in each.children} & {"get", "set"}:
                yield from _public(_text(each.child_by_field_name("name")), each, "")
            elif each.type == "pair" and (inner := _unwrapped(each.child_by_field_name("value"))) is not None:
                yield from _public(_text(each.child_by_field_name("key")), *known.get(_text(inner), (inner, "")))
    else:
        definition, said = known.get(_text(value), (value, doc))
        yield from _public(target, definition, said or doc)


# --- what holds for a definition -------------------------------------------------------------------------------------


def _public(name: str, node: syntax.Node, doc: str) -> Iterator[Public]:
    """One export, where its definition says that it is there."""
    if node.type in _FUNCTIONS or node.type == "method_definition":
        arity, parameters = _parameters(node)
        yield Public(name, "function", doc, parameters, arity)
    elif node.type in _CLASSES:
        yield replace(_class(node), name=name, doc=doc)
    elif _is_enum(node):
        body = node.child_by_field_name("body")
        names = [_text(each) for each in (body.named_children if body is not None else ())]
        members = tuple(each for each in names if _NAME.fullmatch(each))[:MAX_FACTS]
        yield Public(name, "value", doc, members=members)
    elif node.type in _VALUES:
        yield Public(name, "value", doc)


def _parameters(node: syntax.Node) -> tuple[int, tuple[str, ...] | None]:
    """A function's length, which is the parameters before the first with a default, and the names of those."""
    single = node.child_by_field_name("parameter")
    if single is not None:
        return 1, (_text(single),)
    names: list[str] = []
    listed = node.child_by_field_name("parameters")
    for each in listed.named_children if listed is not None else ():
        inner = each.child_by_field_name("pattern") or each
        if each.type == "comment" or inner.type == "this":
            continue
        if "rest_pattern" in (each.type, inner.type) or each.type == "assignment_pattern":
            break
        if each.child_by_field_name("value") is not None:
            break
        names.append(_text(inner))
    plain = all(_NAME.fullmatch(name) for name in names)
    return len(names), tuple(names) if plain else None


def _class(node: syntax.Node) -> Public:
    body = node.child_by_field_name("body")
    methods, arity = [], None
    for each in body.named_children if body is not None else ():
        name = _text(each.child_by_field_name("name"))
        marks = {child.type for child in each.children}
        access = next((_text(child) for child in each.children if child.type == "accessibility_modifier"), "public")
        if each.type != "method_definition" or not _NAME.fullmatch(name):
            continue
        if name == "constructor":
            arity = _parameters(each)[0]
        elif access == "public" and not marks & {"static", "get", "set"} and not name.startswith("_"):
            methods.append(name)
    heritage = next((each for each in node.named_children if each.type == "class_heritage"), None)
    parent = re.sub(r"^extends\s+", "", _text(heritage)[:200]).split()[:1]
    known = parent[0] if parent and parent[0] in _PARENTS else ""
    decorated = any(each.type == "decorator" for each in (*node.named_children, *_siblings(node)))
    if decorated:
        return Public("", "class")
    return Public("", "class", arity=arity, parent=known, methods=tuple(sorted(set(methods)))[:MAX_FACTS])


def _siblings(node: syntax.Node) -> list[syntax.Node]:
    return node.parent.named_children if node.parent is not None and node.parent.type == "export_statement" else []


def is_free(name: str) -> bool:
    """Whether an export's name can be the name of a variable in a test."""
    return _NAME.fullmatch(name) is not None and name not in _RESERVED
