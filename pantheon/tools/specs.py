"""The kind of rules `spec`: what a specification in Markdown says, and which of its functions are not there yet.

    ---
    implements: src/harbour/tides.py
    ---
    # Tides
    The height in metres, half way between two readings.
    ```python
    def between(low: float, high: float) -> float: ...
    ```
    ```python
    >>> between(1.0, 3.0)
    2.0
    ```

Owns the parsing of specs and of their rules file, and the judgement on a change; bodies.py owns the Python. Signatures
are those of module functions. Examples are doctests, in fences or in the signature's docstring, or tables with the
heads `call` and `result` (`raises ValueError` for an error). A spec that is not sound is a person's: nothing of it is
worked on.
"""

from __future__ import annotations

import ast
import doctest
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markdown_it import MarkdownIt
from markdown_it.token import Token
from pydantic import Field

from pantheon import frontmatter, testpaths, tomlfile
from pantheon.errors import ConfigError, InputError
from pantheon.names import name_fault, path_spec
from pantheon.records import Finding, Record, Repair
from pantheon.tools import bodies, prose
from pantheon.tools.bodies import Example, Signature
from pantheon.tools.tool import Change, Kind, Problem, Tree

MAX_BYTES = 128 * 1024  # of a spec
MAX_FUNCTIONS = 40
MAX_EXAMPLES = 60  # of one function
MAX_SOURCE = 2_000  # characters of one example
_RAISES = re.compile(r"raises\s+([A-Za-z_]\w*)\Z")
_CODE = re.compile(r"`+ ?(.+?) ?`+\Z")
_DEFINES = re.compile(r"^(async )?(def|class) ", re.MULTILINE)


class SpecRules(Record):
    """A rules file of the kind `spec`."""

    kind: Literal["spec"]
    files: tuple[str, ...] = ("spec/**/*.md", "specs/**/*.md")
    roots: tuple[str, ...] = ("src", "")  # directories that modules are imported from, the first that fits
    tests: str = "tests"  # where tests are written that a spec gives no path for
    imports: tuple[str, ...] = bodies.IMPORTS  # what a body may import
    max_chars: int = Field(default=1500, ge=40, le=8000)  # of one answer
    max_lines: int = Field(default=60, ge=1, le=400)  # of one body
    held_out: int = Field(default=1, ge=0, le=20)  # examples of each function that the model never sees


@dataclass(frozen=True)
class Function:
    """A function that a spec asks for. `about` is the prose around its signature."""

    signature: Signature
    about: str
    line: int
    examples: tuple[Example, ...] = ()

    @property
    def name(self) -> str:
        return self.signature.name


@dataclass(frozen=True)
class Spec:
    """A spec as parsed. `faults`: (line, what is wrong); with any of them the spec is not sound. `tests` is where its
    examples go, when nothing is there yet."""

    path: str
    title: str = ""
    module: str = ""
    tests: str = ""
    imports: tuple[str, ...] = ()
    functions: tuple[Function, ...] = ()
    faults: tuple[tuple[int, str], ...] = ()

    @property
    def asked(self) -> bool:
        """Whether this is a spec that names a module, and not prose in the same directory."""
        return bool(self.module or self.faults)

    def function(self, name: str) -> Function | None:
        return next((one for one in self.functions if one.name == name), None)


def parse(raw: bytes, path: str) -> SpecRules:
    """Read a rules file of this kind. Raises ConfigError with the line of what is wrong."""
    text, values = tomlfile.read(raw, path, "cannot use the rules")
    rules = tomlfile.validated(SpecRules, values, text, path, what="cannot use the rules")
    for key, folder in (("tests", rules.tests), *(("roots", root) for root in rules.roots)):
        if folder and _path_fault(folder):
            why = f"{key}: {folder!r} is no directory of a repository: {_path_fault(folder)}"
            raise ConfigError("cannot use the rules", path, why, tomlfile.line_of(text, (key,)))
    return rules


def about(path: str, rules: SpecRules) -> bool:
    return path.endswith(".md") and path_spec(rules.files).match_file(path)


# --- reading a spec --------------------------------------------------------------------------------------------------


def read_spec(path: str, raw: bytes, rules: SpecRules) -> Spec:
    """What a spec says. Never raises: what is wrong stands in its `faults`, with the line."""
    if len(raw) > MAX_BYTES:
        return Spec(path, faults=((0, f"{len(raw)} bytes, more than the {MAX_BYTES} allowed"),))
    try:
        doc = frontmatter.parse(raw, path)
    except InputError as error:
        return Spec(path, faults=((error.line, error.why),))
    named = doc.field("implements")
    if named is None:
        return Spec(path)
    tests, reader = doc.field("tests"), _Reader(doc.body_line)
    reader.read(doc.body.decode("utf-8"))
    module = named.value if isinstance(named.value, str) else ""
    wanted = tests.value if tests and isinstance(tests.value, str) and tests.value else _tests_path(path, rules)
    faults = [(named.line, f"implements: {why}") for why in _module_faults(module, rules)]
    faults += [(tests.line if tests else 0, f"tests: {why}") for why in _tests_faults(wanted)]
    faults += reader.faults
    faults += [] if faults or reader.functions else [(0, "has no signature: write one in a fence, ```python")]
    faults += [(one.line, f"{name} has no examples") for name, one in reader.functions.items() if not one.examples]
    functions = tuple(
        Function(one.signature, one.about, one.line, tuple(one.examples)) for one in reader.functions.values()
    )
    title = reader.title or path.rpartition("/")[2].removesuffix(".md")
    return Spec(path, title, module, wanted, tuple(reader.imports), functions, tuple(faults))


def _path_fault(path: str) -> str:
    parts = path.split("/")
    return next((why for part in parts if (why := name_fault(part))), "")


def _module_faults(module: str, rules: SpecRules) -> Iterable[str]:
    if not module.endswith(".py"):
        yield "give the path of a Python module, such as src/harbour/tides.py"
    elif why := _path_fault(module):
        yield f"{module}: {why}"
    elif not all(part.isidentifier() for part in dotted(module, rules).split(".")):
        yield f"{module} cannot be imported: a part of its path is no identifier"
    elif testpaths.is_test(module) or testpaths.steering(module):
        yield f"{module} is a test or steers tests"
    elif hidden := testpaths.shadow(module, tuple(rules.roots)):
        yield f"{module} would hide the module {hidden!r}"


def _tests_faults(path: str) -> Iterable[str]:
    if why := _path_fault(path):
        yield f"{path}: {why}"
    elif not (path.endswith(".py") and testpaths.is_plain_test(path)) or testpaths.steering(path):
        yield f"{path} is not the path of a test file, such as tests/test_tides.py"


def _tests_path(path: str, rules: SpecRules) -> str:
    stem = re.sub(r"\W+", "_", path.rpartition("/")[2].removesuffix(".md"), flags=re.ASCII).strip("_").lower()
    name = f"test_{stem or 'it'}_spec.py"
    return f"{rules.tests}/{name}" if rules.tests else name


def dotted(module: str, rules: SpecRules) -> str:
    """The name that a module is imported by."""
    path = module.removesuffix(".py").removesuffix("/__init__")
    root = next((f"{root}/" for root in rules.roots if root and path.startswith(f"{root}/")), "")
    return path.removeprefix(root).replace("/", ".")


@dataclass
class _Draft:
    signature: Signature
    about: str
    line: int
    examples: list[Example] = field(default_factory=list)


class _Reader:
    """Goes over the blocks of one spec. `offset` is the line of the file at which its text begins."""

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.title = ""
        self.imports: list[str] = []
        self.functions: dict[str, _Draft] = {}
        self.faults: list[tuple[int, str]] = []
        self._said: list[str] = []  # paragraphs since the last heading or signature
        self._late: list[tuple[int, list[Example]]] = []  # examples, which may stand before their signature

    def read(self, text: str) -> None:
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
        last: _Draft | None = None
        for at, token in enumerate(tokens):
            line = self.offset + (token.map[0] if token.map else 0)
            if token.type == "heading_open":
                self.title = self.title or prose.trimmed(prose.plain(tokens[at + 1].content))
                self._said, last = [], None
            elif token.type == "inline" and tokens[at - 1].type == "paragraph_open":
                said = prose.plain(token.content)
                if last is None:
                    self._said.append(said)
                else:
                    last.about = f"{last.about}\n{said}".strip()
            elif token.type == "fence":
                last = self._fence(token, line) or last
            elif token.type == "table_open":
                self._table(tokens[at:], line)
        for line, examples in self._late:
            self._file(line, examples)

    def _fence(self, token: Token, line: int) -> _Draft | None:
        kind = token.info.split()[0].lower() if token.info.split() else ""
        if kind not in ("python", "py", "python3", "pycon", "doctest", ""):
            return None
        tree = None if token.content.lstrip().startswith(">>>") else bodies.parsed(token.content)
        if tree is not None and any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in tree.body):
            return self._signatures(tree, line)
        if ">>>" in token.content:
            self._late.append((line, self._doctests(token.content, line + 1)))
        elif kind and tree is None and _DEFINES.search(token.content):
            self.faults.append((line, "the signature is not Python"))
        return None

    def _signatures(self, tree: ast.Module, line: int) -> _Draft | None:
        draft = None
        for node in tree.body:
            where = line + node.lineno
            if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
                self.imports.append(ast.unparse(node))
                continue
            if not isinstance(node, ast.FunctionDef):
                self.faults.append((where, "a signature is a plain function: def name(...) -> ...: ..."))
                continue
            signature = Signature.of(node)
            if isinstance(signature, str):
                self.faults.append((where, signature))
            elif node.name in self.functions:
                self.faults.append((where, f"{node.name} has two signatures"))
            elif len(self.functions) >= MAX_FUNCTIONS:
                self.faults.append((where, f"more than {MAX_FUNCTIONS} functions: make several specs of it"))
            else:
                said = ast.get_docstring(node) or ""
                told = doctest.DocTestParser().parse(said) if ">>>" not in said else [said.partition(">>>")[0]]
                own = " ".join(part for part in told if isinstance(part, str)).strip()
                draft = _Draft(signature, "\n".join([*([own] if own else []), *self._said]), where)
                self.functions[node.name] = draft
                self._said = []
                if ">>>" in said:
                    self._late.append((where, self._doctests(said, where + 1)))
        return draft

    def _doctests(self, text: str, line: int) -> list[Example]:
        try:
            found = doctest.DocTestParser().get_examples(text)
        except ValueError as error:
            self.faults.append((line, f"not a doctest: {str(error)[:200]}"))
            return []
        examples = []
        for one in found:
            raised = (one.exc_msg or "").partition(":")[0].strip()
            examples.append(Example(one.source.strip(), one.want.strip(), raised, line + one.lineno))
        return examples

    def _table(self, tokens: Sequence[Token], line: int) -> None:
        rows: list[list[str]] = []
        for token in tokens:
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "inline" and rows:
                found = _CODE.match(token.content.strip())
                rows[-1].append(found[1] if found else token.content.strip())
            elif token.type == "table_close":
                break
        if not rows or [head.lower() for head in rows[0]] not in (["call", "result"], ["example", "result"]):
            return
        for number, row in enumerate(rows[1:], 2):
            if len(row) == 2 and row[0]:
                raises = _RAISES.match(row[1])
                want, raised = ("", raises[1]) if raises else (row[1], "")
                self._late.append((line + number, [Example(row[0], want, raised, line + number)]))

    def _file(self, line: int, examples: list[Example]) -> None:
        """Give examples to the function that they call; what comes before a call that tells goes along with it."""
        before: list[str] = []
        for one in examples:
            source = "\n".join([*before, one.source])
            called = bodies.calls(source) if len(source) <= MAX_SOURCE else None
            if called is None:
                self.faults.append((one.line, f"the example is not Python, or longer than {MAX_SOURCE} characters"))
                return
            if not one.want and not one.raised:
                before.append(one.source)
                continue
            asked = [name for name in self.functions if name in called]
            told = bodies.calls(one.source) or frozenset()
            owner = next((name for name in asked if name in told), asked[0] if asked else "")
            whole = Example(source, one.want, one.raised, one.line)
            if why := whole.fault():
                self.faults.append((one.line, why))
            elif not owner:
                self.faults.append((one.line, "the example calls no function that this spec has a signature for"))
            elif len(self.functions[owner].examples) >= MAX_EXAMPLES:
                self.faults.append((one.line, f"more than {MAX_EXAMPLES} examples of {owner}"))
            else:
                self.functions[owner].examples.append(whole)


# --- what is missing, and what a change may be ------------------------------------------------------------------------


def check(path: str, raw: bytes, rules: SpecRules, tree: Tree) -> tuple[Finding, ...]:
    """Every function that the spec asks for and the tree does not have, or what is wrong with the spec."""
    spec = read_spec(path, raw, rules)
    faults = list(spec.faults)
    if spec.module and not faults:
        faults += _clashes(spec, rules, tree)
    if faults or not spec.module:
        return tuple(Finding(rule="malformed", message=why, line=line) for line, why in faults)
    state = bodies.states(tree.read(spec.module), [one.signature for one in spec.functions])
    if isinstance(state, str):
        return (Finding(rule="malformed", message=f"{spec.module}: {state}"),)
    found = []
    for one in spec.functions:
        now = state[one.name]
        if now in ("missing", "stub"):
            message = f"{one.name} is not in {spec.module}" if now == "missing" else f"{one.name} has no body yet"
            found.append(
                Finding(rule="unimplemented", message=message, field=one.name, line=one.line, repair=Repair.CHOOSE)
            )
        elif now:
            found.append(Finding(rule="differs", message=now, field=one.name, line=one.line))
    return tuple(found)


def _clashes(spec: Spec, rules: SpecRules, tree: Tree) -> Iterable[tuple[int, str]]:
    """What another spec of the same tree asks for as well."""
    for other in specs_of(tree, rules):
        if other.path != spec.path and other.tests == spec.tests:
            yield 0, f"{spec.tests} is where the examples of {other.path} go too; name another path in `tests`"
        same = {one.name for one in other.functions} & {one.name for one in spec.functions}
        if other.path != spec.path and other.module == spec.module and same:
            yield 0, f"{other.path} asks for {', '.join(sorted(same))} as well"


def specs_of(tree: Tree, rules: SpecRules) -> tuple[Spec, ...]:
    """Every sound spec of a tree that names a module, in the order of their paths."""

    def every() -> tuple[Spec, ...]:
        paths = sorted(path for path in tree.paths if about(path, rules))
        read = ((path, tree.read(path)) for path in paths)
        found = (read_spec(path, raw, rules) for path, raw in read if raw is not None)
        return tuple(spec for spec in found if spec.module and not spec.faults)

    found: tuple[Spec, ...] = tree.once(("specs", rules), every)
    return found


def companions(path: str, rules: SpecRules, tree: Tree) -> tuple[str, ...]:
    """The module, and the tests that are written from the spec."""
    raw = tree.read(path)
    spec = read_spec(path, raw, rules) if raw is not None else Spec(path)
    return (spec.module, *_test_paths(spec, tree.paths)) if spec.module and not spec.faults else ()


def _test_paths(spec: Spec, there: Collection[str]) -> Iterator[str]:
    """The spec's own test file, and numbered ones up to the first that is free."""
    stem, number, path = spec.tests.removesuffix(".py"), 1, spec.tests
    yield path
    while path in there:
        number += 1
        path = f"{stem}_{number}.py"
        yield path


def tests_of(spec: Spec, rules: SpecRules, base: Tree) -> tuple[str, bytes]:
    """The test file that comes with a change: the examples of what the base does not have. No test that is there is
    touched: they go into a new file."""
    *_, path = _test_paths(spec, base.paths)
    fresh = missing(spec, base)
    grouped = {one.name: one.examples for one in spec.functions if one.name in fresh}
    return path, bodies.tests(spec.path, dotted(spec.module, rules), grouped).encode()


def missing(spec: Spec, tree: Tree) -> tuple[str, ...]:
    """The functions of a sound spec that a tree does not have."""
    state = bodies.states(tree.read(spec.module), [one.signature for one in spec.functions])
    return () if isinstance(state, str) else tuple(name for name, now in state.items() if now in ("missing", "stub"))


def verify(change: Change, rules: SpecRules) -> Iterable[Problem]:
    """A module changes by the bodies that specs of the base ask for, a test file to what those specs say, and nothing
    else changes."""
    specs = specs_of(change.base, rules)
    ours = [spec for spec in specs if spec.module == change.path]
    written = dict(tests_of(spec, rules, change.base) for spec in specs if missing(spec, change.base))
    if change.path in written:
        if change.after != written[change.path]:
            yield Problem(change.path, 0, "tests", "is not what its spec says")
    elif ours and change.after is not None:
        wanted = [one.signature for spec in ours for one in spec.functions]
        imports = [line for spec in ours for line in spec.imports]
        for line, why in bodies.problems(change.before, change.after, wanted, imports, limits(rules)):
            yield Problem(change.path, line, "body", why)
    else:
        yield Problem(change.path, 0, "spec", "is neither a module nor a new test file of a sound spec")


def limits(rules: SpecRules) -> bodies.Limits:
    return bodies.Limits(rules.imports, rules.max_lines)


KIND = Kind("spec", parse, about, check, verify, companions)
