"""What a change does to the tests that are to judge it. Pure: contents in, reasons out.

A test may not vanish, be skipped, lose an assertion or be made to assert nothing; settings of test runs may not change;
source may not newly reach for the test runner. A task can name test files that may be edited; they may not be weakened
either, and source files, which a person then reads. Files that steer test runs as a whole are the gate's to hold.
Python is read as a syntax tree, JavaScript and TypeScript by careful rules on text. It does not see a changed expected
value in a file that the task names, nor code that is right only for the inputs of the tests.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from pantheon import sourceguard
from pantheon.sourceguard import PYTHON, Function, parse
from pantheon.testpaths import is_mixed, is_plain_test, is_test, settings, shadow, steering

SCRIPT = (".js", ".jsx", ".ts", ".tsx", ".mjs", ".cjs", ".mts", ".cts")
BROAD = frozenset({"Exception", "BaseException"})
SWALLOWS = BROAD | {"AssertionError", "Failed", "Error"}
SKIPS = frozenset(
    {
        *("skip", "skipif", "skipIf", "skipUnless", "skipTest", "SkipTest", "xfail", "importorskip", "expectedFailure"),
        *("pytestmark", "__test__", "collect_ignore", "collect_ignore_glob", "load_tests", "pytest_plugins"),
        *("exit", "_exit"),
    }
)
MOCKS = frozenset({"monkeypatch", "patch", "mocker", "mock", "Mock", "MagicMock", "AsyncMock", "create_autospec"})


@dataclass(frozen=True)
class Edit:
    """One changed file. `base` or `new` is None where there is no regular file; `old_path` is set for a rename."""

    path: str
    base: bytes | None
    new: bytes | None
    old_path: str | None = None


def allowed(edits: Iterable[Edit], named: Collection[str] = ()) -> tuple[str, ...]:
    """The tests that may change: new files that hold tests and steer nothing, and those that the task names."""
    fresh = [e.path for e in edits if e.base is None and e.new is not None and is_plain_test(e.path)]
    return (*(path for path in fresh if not steering(path)), *named)


def findings(edits: Sequence[Edit], named: Collection[str] = ()) -> tuple[str, ...]:
    """Every reason against the change. `named`: the exact paths of tests that the task lets be edited."""
    reasons: list[str] = []
    tests = [edit for edit in edits if is_test(edit.path) or (edit.old_path is not None and is_test(edit.old_path))]
    new = allowed(edits)  # what only adds tests makes none pass that was there
    known = all(edit.path in named for edit in tests) or all(edit.path in new for edit in tests)
    if edits and len(tests) == len(edits) and not known:
        reasons.append("only tests change: an edit that makes tests pass is no fix")
    for edit in edits:
        if is_mixed(edit.path) and settings(edit.path, edit.base) != settings(edit.path, edit.new):
            reasons.append(f"{edit.path}: its test settings change")
        fresh = edit.base is None or edit.old_path not in (None, edit.path)
        if fresh and edit.new is not None and (hidden := shadow(edit.path)):
            reasons.append(f"{edit.path} hides the module {hidden!r}, which the tests may import")
        if edit in tests:
            reasons.extend(f"{edit.old_path or edit.path}: {why}" for why in _test(edit))
    sources = [edit for edit in edits if edit not in tests and edit.path.endswith(PYTHON)]
    sources = [edit for edit in sources if edit.path not in named or steering(edit.path)]
    reasons.extend(sourceguard.added((edit.path, edit.base, edit.new) for edit in sources))
    return tuple(dict.fromkeys(reasons))


def _test(edit: Edit) -> Iterator[str]:
    """What is wrong with one changed test file."""
    if edit.base is None and edit.new is not None:
        if edit.path.endswith(PYTHON):
            yield from sourceguard.hard_uses(edit.new)
        return
    if edit.new is None or not is_test(edit.path):
        yield "the test file is deleted"
        return
    if edit.old_path not in (None, edit.path):
        if edit.old_path is not None and is_plain_test(edit.old_path) and not is_plain_test(edit.path):
            yield f"renamed to {edit.path}, which no test run collects"
        else:
            yield f"renamed to {edit.path}: its tests are gone under the names they had"
    if edit.base is None:
        return
    if edit.path.endswith(PYTHON):
        yield from _python(edit.base, edit.new)
    elif edit.path.endswith(SCRIPT):
        yield from _script(edit.base.decode("utf-8", "replace"), edit.new.decode("utf-8", "replace"))


# --- Python tests ----------------------------------------------------------------------------------------------------


@dataclass
class _Strength:
    """What one test asserts, in numbers that may not fall or may not rise."""

    asserts: int = 0  # assertions that can be reached and can fail
    always: int = 0  # of those, the ones under no condition
    exact: int = 0  # of those, comparisons for equality
    cases: int = 0  # literal parametrize cases
    matches: int = 0  # raises(..., match=...)
    broad: int = 0  # raises(Exception) and tuples
    loose: list[float] = field(default_factory=list)  # tolerances, largest first
    returns: int = 0
    mocks: int = 0
    decorators: int = 0


def _python(base: bytes, new: bytes) -> Iterator[str]:
    old, now = parse(base), parse(new)
    if old is None:
        return
    if now is None:
        yield "it is not Python any more"
        return
    before, after = _tests(old), _tests(now)
    for name in before:
        if name not in after:
            yield f"test {name} is removed or renamed"
    for name, nodes in after.items():
        if len(nodes) > len(before.get(name, [None])):
            yield f"{name} is defined twice: the later hides the earlier"
    words, had = _words(now), _words(old)
    for word in sorted(SKIPS):
        if words[word] > had[word]:
            yield f"adds {word}"
    if any(words[word] for word in MOCKS) and not any(had[word] for word in MOCKS):
        yield "replaces what it tests by a mock"
    for name in sorted(_bound(now, before) - _bound(old, before)):
        yield f"{name} is assigned or deleted: the test of that name is not run"
    yield from _classes(old, now)
    for name, nodes in before.items():
        if name in after:
            yield from (f"test {name} {why}" for why in _weaker(nodes[-1], after[name][-1]))
    outside = sum(_is_assertion(each) for each in ast.walk(old)), sum(_is_assertion(each) for each in ast.walk(now))
    if outside[1] < outside[0]:
        yield f"has {outside[1]} assertions, {outside[0]} before"


def _tests(tree: ast.AST, prefix: str = "") -> dict[str, list[Function]]:
    """Test functions by qualified name, every definition of each, in order."""
    found: dict[str, list[Function]] = {}
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            if node.name.startswith("test"):
                found.setdefault(prefix + node.name, []).append(node)
        elif isinstance(node, ast.stmt | ast.ExceptHandler):
            inner = f"{prefix}{node.name}." if isinstance(node, ast.ClassDef) else prefix
            for name, nodes in _tests(node, inner).items():
                found.setdefault(name, []).extend(nodes)
    return found


def _words(tree: ast.AST) -> Counter[str]:
    """Every name that is used, called, assigned, imported or an argument."""
    found: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            found[node.id] += 1
        elif isinstance(node, ast.Attribute):
            found[node.attr] += 1
        elif isinstance(node, ast.alias):
            found[node.name.rpartition(".")[2]] += 1
        elif isinstance(node, Function):
            found[node.name] += 1
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in SKIPS:
            found[node.value] += 1
    return found


def _bound(tree: ast.AST, tests: Collection[str]) -> set[str]:
    """Names of tests and test classes that a statement assigns, deletes or sets as an attribute."""
    known = {part for name in tests for part in name.split(".")}
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store | ast.Del):
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            found.add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("setattr", "delattr"):
            found |= {
                each.value for each in node.args if isinstance(each, ast.Constant) and isinstance(each.value, str)
            }
    return found & known


def _classes(old: ast.Module, now: ast.Module) -> Iterator[str]:
    """Test classes that a run would not collect any more."""
    before = {node.name: node for node in ast.walk(old) if isinstance(node, ast.ClassDef)}
    for node in ast.walk(now):
        if not (isinstance(node, ast.ClassDef) and node.name in before):
            continue
        was = before[node.name]
        bases, kept = ([ast.dump(each) for each in one.bases] for one in (was, node))
        if [each for each in bases if each not in kept]:
            yield f"class {node.name} has other base classes"
        for special in ("__init__", "__new__", "setUp", "setup_method", "setUpClass", "setup_class"):
            had, has = (any(isinstance(e, Function) and e.name == special for e in one.body) for one in (was, node))
            if has and not had:
                yield f"class {node.name} gains {special}"
        if len(node.decorator_list) > len(was.decorator_list):
            yield f"class {node.name} gains a decorator"


def _weaker(base: Function, new: Function) -> Iterator[str]:
    """In what a test asserts less than it did."""
    was, now = _strength(base), _strength(new)
    if type(base) is not type(new):
        yield "changes between def and async def"
    if _yields(new) and not _yields(base):
        yield "becomes a generator, whose body is not run"
    if now.asserts < was.asserts:
        yield f"asserts less: {now.asserts} assertions that can fail, {was.asserts} before"
    elif now.always < was.always:
        yield f"asserts less without a condition: {now.always} assertions, {was.always} before"
    elif now.exact < was.exact:
        yield f"compares less for equality: {now.exact} times, {was.exact} before"
    for name, words in (
        ("cases", "has fewer cases: {now}, {was} before"),
        ("matches", "looks at fewer messages of what is raised"),
    ):
        if getattr(now, name) < getattr(was, name):
            yield words.format(now=getattr(now, name), was=getattr(was, name))
    for name, words in (
        ("broad", "accepts a broader exception"),
        ("returns", "returns early"),
        ("decorators", "gains a decorator"),
    ):
        if getattr(now, name) > getattr(was, name):
            yield words
    if now.mocks and not was.mocks:
        yield "replaces what it tests by a mock"
    if len(now.loose) > len(was.loose) or any(a > b for a, b in zip(now.loose, was.loose, strict=False)):
        yield "accepts a bigger tolerance"


def _yields(function: Function) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _inside(function))


def _inside(function: Function) -> Iterator[ast.AST]:
    """Everything in a function's body but not in a function, class or lambda within it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def _strength(function: Function) -> _Strength:
    found = _Strength()
    _count(function.body, found, conditional=False)
    for node in _inside(function):
        found.returns += isinstance(node, ast.Return)
        if isinstance(node, ast.Call):
            _call(node, found)
        found.mocks += isinstance(node, ast.Name | ast.Attribute) and _last(node) in MOCKS
    for each in function.decorator_list:
        call = each if isinstance(each, ast.Call) else None
        name = _last(call.func if call else each)
        if call and name == "parametrize":
            values = (
                call.args[1]
                if len(call.args) > 1
                else next((k.value for k in call.keywords if k.arg == "argvalues"), None)
            )
            found.cases += len(values.elts) if isinstance(values, ast.List | ast.Tuple | ast.Set) else 0
        elif name in ("patch", "object", "dict"):
            found.mocks += 1
        else:
            found.decorators += 1
    found.loose.sort(reverse=True)
    return found


def _count(body: Sequence[ast.stmt], found: _Strength, conditional: bool) -> None:
    """Assertions on the paths that can be taken; what stands behind a return or in `if False` is none."""
    for node in body:
        if isinstance(node, ast.Assert | ast.Expr) and _is_assertion(node):
            found.asserts += 1
            found.always += not conditional
            found.exact += _is_exact(node)
        elif isinstance(node, ast.Return | ast.Raise | ast.Break | ast.Continue):
            return
        elif isinstance(node, ast.If):
            if not _never(node.test):
                _count(node.body, found, conditional or not _certain(node.test))
            _count(node.orelse, found, True)
        elif isinstance(node, ast.For | ast.AsyncFor | ast.While):
            if not (isinstance(node, ast.While) and _never(node.test)):
                _count(node.body, found, True)
        elif isinstance(node, ast.With | ast.AsyncWith):
            calls = [item.context_expr for item in node.items]
            found.asserts += sum(_raises(each) for each in calls)
            found.always += 0 if conditional else sum(_raises(each) for each in calls)
            if not any(_suppresses(each) for each in calls):
                _count(node.body, found, conditional)
        elif isinstance(node, ast.Try | ast.TryStar):
            if not any(_swallows(handler) for handler in node.handlers):
                _count(node.body, found, conditional)
            _count(node.finalbody, found, conditional)
            for handler in node.handlers:
                _count(handler.body, found, True)
        elif isinstance(node, ast.Match):
            for case in node.cases:
                _count(case.body, found, True)


def _is_assertion(node: ast.AST) -> bool:
    """An `assert` that can fail, or a call that asserts: self.assertX, pytest.raises, mock.assert_called."""
    if isinstance(node, ast.Assert):
        return not _trivial(node.test)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Await):
        return isinstance(node.value.value, ast.Call) and _asserts(node.value.value)
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and _asserts(node.value)


def _asserts(call: ast.Call) -> bool:
    name = _last(call.func).lower()
    if not name.startswith(("assert", "fail", "expect", "check", "verify", "raises", "warns", "deprecated_call")):
        return False
    values = call.args
    if name in ("assertequal", "assertis", "assertalmostequal", "assertin") and len(values) > 1:
        return ast.dump(values[0]) != ast.dump(values[1])
    return not (name in ("asserttrue", "asserttruthy") and values and _trivial(values[0]))


def _is_exact(node: ast.stmt) -> bool:
    if isinstance(node, ast.Assert):
        for each in ast.walk(node.test):
            if isinstance(each, ast.Compare) and any(isinstance(op, ast.Eq | ast.Is) for op in each.ops):
                right = each.comparators[-1]
                if not (
                    isinstance(right, ast.Constant) and right.value is None and isinstance(each.ops[-1], ast.IsNot)
                ):
                    return True
        return False
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and _last(call.func).lower().endswith(
        ("equal", "equals", "is", "called_once_with")
    )


def _trivial(test: ast.expr) -> bool:
    """Whether a condition holds whatever the code does."""
    if isinstance(test, ast.Constant):
        return bool(test.value)
    if isinstance(test, ast.Tuple | ast.List | ast.Set):
        return bool(test.elts)
    if isinstance(test, ast.Dict):
        return bool(test.keys)
    if isinstance(test, ast.JoinedStr | ast.Lambda):
        return True
    if isinstance(test, ast.BoolOp):
        return (any if isinstance(test.op, ast.Or) else all)(map(_trivial, test.values)) or _excluded_middle(test)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _never(test.operand)
    if isinstance(test, ast.NamedExpr):
        return _trivial(test.value)
    if isinstance(test, ast.Call) and _last(test.func) in ("bool", "any", "all") and len(test.args) == 1:
        return _trivial(test.args[0]) and _last(test.func) == "bool"
    if isinstance(test, ast.Compare):
        sides = [test.left, *test.comparators]
        if all(isinstance(op, ast.Eq | ast.Is | ast.LtE | ast.GtE) for op in test.ops):
            return len({ast.dump(side) for side in sides}) == 1
        return all(isinstance(side, ast.Constant) for side in sides)
    return False


def _excluded_middle(test: ast.BoolOp) -> bool:
    """`x == y or x != y`, `x or not x`."""
    if not isinstance(test.op, ast.Or):
        return False
    parts = {ast.dump(each) for each in test.values}
    negated = {ast.dump(e.operand) for e in test.values if isinstance(e, ast.UnaryOp) and isinstance(e.op, ast.Not)}
    pairs = [(ast.dump(e.left), ast.dump(e.comparators[0])) for e in test.values if isinstance(e, ast.Compare)]
    return bool(parts & negated) or len(pairs) != len(set(pairs))


def _never(test: ast.expr) -> bool:
    if isinstance(test, ast.Constant):
        return not test.value
    if isinstance(test, ast.Name | ast.Attribute):
        return _last(test) == "TYPE_CHECKING"
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _trivial(test.operand)
    if isinstance(test, ast.Tuple | ast.List):
        return not test.elts
    return isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And) and any(map(_never, test.values))


def _certain(test: ast.expr) -> bool:
    return isinstance(test, ast.Constant) and bool(test.value)


def _raises(call: ast.expr) -> bool:
    return isinstance(call, ast.Call) and _last(call.func) in (
        "raises",
        "warns",
        "assertRaises",
        "assertRaisesRegex",
        "assertWarns",
        "assertLogs",
    )


def _suppresses(call: ast.expr) -> bool:
    """Whether a with-statement hides a failing assertion within it."""
    if not isinstance(call, ast.Call) or _last(call.func) not in ("suppress", "raises", "assertRaises"):
        return False
    return any(
        _last(each) in SWALLOWS for arg in call.args for each in (arg.elts if isinstance(arg, ast.Tuple) else [arg])
    )


def _swallows(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type] if handler.type else []
    broad = not kinds or any(_last(kind) in SWALLOWS for kind in kinds)
    return broad and not any(isinstance(node, ast.Raise) for node in ast.walk(handler))


def _call(call: ast.Call, found: _Strength) -> None:
    name = _last(call.func)
    if name in ("raises", "warns", "assertRaises", "assertRaisesRegex"):
        kinds = [e for arg in call.args[:1] for e in (arg.elts if isinstance(arg, ast.Tuple) else [arg])]
        found.broad += (len(kinds) > 1) + sum(_last(kind) in BROAD for kind in kinds)
        found.matches += any(keyword.arg == "match" for keyword in call.keywords) or name.endswith("Regex")
    elif name in ("approx", "isclose", "assertAlmostEqual", "allclose", "assert_allclose"):
        given = {k.arg: k.value.value for k in call.keywords if isinstance(k.value, ast.Constant)}
        extra = [e.value for e in call.args[1 if name == "approx" else 2 :] if isinstance(e, ast.Constant)]
        places = given.pop("places", None)
        values = [float(each) for each in (*given.values(), *extra) if isinstance(each, int | float)]
        values += [10.0**-places] if isinstance(places, int) and 0 <= places < 300 else []
        found.loose.append(max(values, default=1e-6))


def _last(node: ast.expr | None) -> str:
    """The last part of a dotted name; "" for anything else."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


# --- JavaScript and TypeScript tests ---------------------------------------------------------------------------------

_TOKEN = re.compile(r"//[^\n]*|/\*.*?\*/|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\"|`(?:\\.|[^`\\])*`", re.DOTALL)
_TITLE = re.compile(
    r"\b(?:it|test|describe|specify|suite|context)\b(?:\.\w+)*\s*(?:\([^()]*\)\s*)?\(\s*(['\"`])(.*?)\1", re.DOTALL
)
_FEWER = {
    "assertions": re.compile(r"\b(?:expect|assert|should)\b\s*[.(]"),
    "exact comparisons": re.compile(
        r"\.(?:toBe|toEqual|toStrictEqual|equal|strictEqual|deepEqual|deepStrictEqual|eql)\s*\("
    ),
}
_MORE = {
    "a skip": re.compile(
        r"\.(?:skip|todo|fails|failing|skipIf|runIf)\b|\b(?:xit|xtest|xdescribe|xcontext|pending)\s*\("
    ),
    "a test that runs alone": re.compile(r"\.only\b|\b(?:fit|fdescribe)\s*\("),
    "an assertion that cannot fail": re.compile(
        r"\b(?:expect|assert(?:\.ok)?)\s*\(\s*(?:true|1|!0|!false|\[\]|\{\})\s*\)|\|\|\s*(?:true|1|!0)\b"
        r"|expect\s*\(\s*([^()]+?)\s*\)\s*\.(?:toBe|toEqual|toStrictEqual)\s*\(\s*\1\s*\)"
    ),
    "an early return": re.compile(r"\breturn\b"),
    "code that is not run": re.compile(r"\bif\s*\(\s*(?:false|0|!1|!true)\b"),
    "an end of the process": re.compile(r"\bprocess\s*\.\s*(?:exit|abort|kill)\b"),
    "a catch around what it asserts": re.compile(r"\bcatch\b"),
}
_MOCK = re.compile(r"\b(?:jest|vi)\s*\.\s*(?:mock|doMock|spyOn|fn)\b|\.mock(?:Implementation|ReturnValue)|\bsinon\b")


def _script(base: str, new: str) -> Iterator[str]:
    """The rules for a changed test file in JavaScript or TypeScript, comments left out."""
    old, now = _bare(base), _bare(new)
    titles, kept = Counter(m[2] for m in _TITLE.finditer(old)), Counter(m[2] for m in _TITLE.finditer(now))
    for title in sorted((titles - kept).keys()):
        yield f"test {title!r} is removed or renamed"
    for what, pattern in _FEWER.items():
        was, is_ = _hits(pattern, old), _hits(pattern, now)
        if is_ < was:
            yield f"has {is_} {what}, {was} before"
    for what, pattern in _MORE.items():
        if _hits(pattern, now) > _hits(pattern, old):
            yield f"adds {what}"
    if _hits(_MOCK, now) and not _hits(_MOCK, old):
        yield "replaces what it tests by a mock"


def _hits(pattern: re.Pattern[str], text: str) -> int:
    return sum(1 for _ in pattern.finditer(text))


def _bare(text: str) -> str:
    return _TOKEN.sub(lambda match: " " if match[0].startswith(("//", "/*")) else match[0], text)
