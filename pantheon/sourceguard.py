"""What a change's source newly reaches for that ends, steers or detects a test run instead of doing the work. Pure.

Counts uses over the whole change: what the base had may stay or move to another file; only more of it is a reason. It
reads Python as a syntax tree. A determined author can hide from it (text that is decoded and run is refused as such);
the test runner's own runs are the second layer.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

Function = ast.FunctionDef | ast.AsyncFunctionDef
PYTHON = (".py", ".pyw")

RUNNERS = frozenset({"pytest", "_pytest", "pluggy", "unittest", "nose", "conftest", "sitecustomize", "usercustomize"})
NAMES = {  # a name, an attribute or an imported name, and what it does to a test run
    "_exit": "os._exit ends a test run without its result",
    "atexit": "atexit can change the end of a test run",
    "SkipTest": "SkipTest skips the test that calls the code",
    "Skipped": "Skipped skips the test that calls the code",
    "__builtins__": "builtins replaced are replaced for the tests too",
    "builtins": "builtins replaced are replaced for the tests too",
    "get_objects": "gc finds the test runner's own objects",
    "get_referrers": "gc finds the test runner's own objects",
    "alarm": "an alarm can end or interrupt a test run",
    "setitimer": "a timer signal can end or interrupt a test run",
    "ctypes": "ctypes reaches into the test runner's memory",
    "settrace": "a trace function sees and changes the tests",
    "setprofile": "a profile function sees and changes the tests",
    "monitoring": "sys.monitoring sees the tests",
    "meta_path": "an import hook decides what the tests import",
    "path_hooks": "an import hook decides what the tests import",
    "_getframe": "frames show the test that calls the code",
    "currentframe": "frames show the test that calls the code",
    "_current_frames": "frames show the test that calls the code",
    "f_back": "frames show the test that calls the code",
    **dict.fromkeys(
        ("tb_frame", "tb_next", "gi_frame", "cr_frame", "ag_frame"), "frames show the test that calls the code"
    ),
    **dict.fromkeys(("f_globals", "f_locals", "__globals__"), "the names of the calling test are within reach"),
    "__subclasses__": "the classes of the test runner are within reach",
    "__code__": "the code of a test can be replaced",
    **dict.fromkeys(
        ("CodeType", "FunctionType", "marshal", "runpy"), "code is made or run that no reader of the change sees"
    ),
    **dict.fromkeys(
        ("spec_from_file_location", "exec_module", "SourceFileLoader", "SourcelessFileLoader"),
        "code is loaded from a place that no reader of the change sees",
    ),
    "posix": "posix._exit ends a test run without its result",
    "raise_signal": "a signal can end or interrupt a test run",
    "pthread_kill": "a signal can end or interrupt a test run",
    "pytest_plugins": "it loads plugins into the test run",
}
_ENDS = ("abort", "kill", "killpg", "execv", "execve", "execvp", "execvpe", "execl", "execle", "execlp", "fork")
REACH = {  # by module: a name in it, and what it does to a test run
    "os": dict.fromkeys(_ENDS, "os.abort, kill, exec and fork can end or replace the test run"),
    "sys": {
        "modules": "sys.modules lists and replaces what the tests import",
        "__dict__": "sys.modules lists and replaces what the tests import",
    },
    "inspect": dict.fromkeys(("stack", "trace", "getouterframes"), "frames show the test that calls the code"),
}
HARD = {"_exit", "atexit", "__builtins__", "builtins", "pytest_plugins"}  # of no use to a new test either
RUNNING = {"exec", "eval", "__import__"}
WORDS = re.compile(r"PYTEST_|(^|[^a-z])_?pytest([^a-z]|$)|conftest|/proc/|SkipTest|__builtins__|^_exit$|sitecustomize")


def added(files: Iterable[tuple[str, bytes | None, bytes | None]]) -> Iterator[str]:
    """One reason per file and kind of use that the change adds. Files: (path, base, new), Python only."""
    before: Counter[str] = Counter()
    now: list[tuple[str, Counter[str], Counter[str]]] = []
    for path, base, new in files:
        was = uses(base) if base is not None else Counter()
        found = uses(new) if new is not None else Counter()
        if found is None:
            if was is not None:
                yield f"{path} is not Python"
            continue
        now.append((path, was or Counter(), found))
        before.update(was or Counter())
    total: Counter[str] = Counter()
    for _, _, found in now:
        total.update(found)
    for path, was, found in now:
        for why in sorted(found):
            if found[why] > was[why] and total[why] > before[why]:
                yield f"{path} adds a use that a fix does not need: {why}"


def hard_uses(source: bytes) -> Iterator[str]:
    """What even a new test file may not hold."""
    tree = parse(source)
    if tree is None:
        yield "is not Python"
        return
    found = {name for node in ast.walk(tree) for name in _names(node)}
    yield from (NAMES[name] for name in sorted(found & HARD))
    yield from sorted({why for node in ast.walk(tree) for why in _hooks(node)})
    if any(name.split(".")[0] in ("_pytest", "pluggy") for node in ast.walk(tree) for name in _imported(node)):
        yield "it imports the inside of the test runner"


def uses(source: bytes) -> Counter[str] | None:
    """How often a source does each thing of this page; None when it is not Python."""
    tree = parse(source)
    if tree is None:
        return None
    found: Counter[str] = Counter()
    prose, modules = _prose(tree), _modules(tree)
    for node in ast.walk(tree):
        found.update(NAMES[name] for name in _names(node) if name in NAMES)
        found.update(_hooks(node))
        if isinstance(node, ast.ImportFrom) and node.module in REACH:
            found.update(REACH[node.module][alias.name] for alias in node.names if alias.name in REACH[node.module])
        for name in _imported(node):
            if name.split(".")[0] in RUNNERS:
                found[f"it imports {name.split('.')[0]}"] += 1
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in prose:
            text = node.value if isinstance(node.value, str) else node.value.decode("latin-1")
            if WORDS.search(text):
                found["a text names the test runner or its environment"] += 1
        elif isinstance(node, ast.Name) and node.id in RUNNING:
            found[f"{node.id} runs what no reader of the change sees"] += 1
        elif isinstance(node, ast.Attribute):
            found.update(_attribute(node, modules))
        elif isinstance(node, ast.Call):
            found.update(_call(node, modules))
    found["sys.exit while it is imported ends the test run"] += sum(_exits(tree.body))
    return +found


def parse(source: bytes) -> ast.Module | None:
    """The syntax tree; None when it is not Python. What Python would only warn of is not said."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _prose(tree: ast.Module) -> set[int]:
    """Docstrings and other texts that stand alone: nobody reads them at run time."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.Attribute):
        return [node.attr]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.name.split(".")[0] for alias in node.names] + (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    return []


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []


def _modules(tree: ast.Module) -> dict[str, str]:
    """The names that stand for a module of the standard library."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                if top in sys.stdlib_module_names:
                    found[alias.asname or top] = alias.name if alias.asname else top
    return found


def _attribute(node: ast.Attribute, modules: Mapping[str, str]) -> Iterator[str]:
    owner = modules.get(node.value.id, "") if isinstance(node.value, ast.Name) else ""
    if node.attr in REACH.get(owner, {}):
        yield REACH[owner][node.attr]
    root: ast.expr = node
    while isinstance(root, ast.Attribute):
        root = root.value
    if isinstance(node.ctx, ast.Store | ast.Del) and isinstance(root, ast.Name) and root.id in modules:
        yield f"a part of {modules[root.id]} is replaced, for the tests too"


def _call(node: ast.Call, modules: Mapping[str, str]) -> Iterator[str]:
    name = _last(node.func)
    first = modules.get(_last(node.args[0]), "") if node.args and isinstance(node.args[0], ast.Name) else ""
    if isinstance(node.func, ast.Name) and name == "compile":
        yield "compile() makes code that no reader of the change sees"
    elif name in ("import_module", "reload") and not (node.args and isinstance(node.args[0], ast.Constant)):
        yield f"{name}() of a computed name"
    elif name in ("setattr", "delattr") and (
        first or {"__eq__", "__ne__"} & {getattr(e, "value", "") for e in node.args}
    ):
        yield f"a part of {first} is replaced, for the tests too" if first else "equality is replaced"
    elif name in ("getattr", "vars") and first in ("sys", "os", "gc", "inspect"):
        yield f"{name}() of {first} hides what is used of it"


def _hooks(node: ast.AST) -> Iterator[str]:
    """Definitions that take hold of a run: pytest's hooks, the name AssertionError, equality with everything."""
    if isinstance(node, Function) and node.name.startswith("pytest_"):
        yield f"{node.name} is a hook of the test runner"
    stored = isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)
    name = node.name if isinstance(node, Function | ast.ClassDef) else _names(node)[0] if stored else ""
    if name in ("AssertionError", "BaseException", "Exception"):
        yield f"{name} is replaced"
    if isinstance(node, Function) and node.name in ("__eq__", "__ne__") and _always(node):
        yield f"{node.name} answers the same to everything"
    if isinstance(node, ast.Assign) and any(_last(each) in ("__eq__", "__ne__") for each in node.targets):
        yield "equality is replaced"


def _always(function: Function) -> bool:
    returns = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    values = [value.value for value in returns if isinstance(value, ast.Constant)]
    return (
        bool(returns)
        and len(values) == len(returns)
        and set(map(repr, values)) <= {"True", "False", "1", "0"}
        and len(set(map(repr, values))) == 1
    )


def _exits(body: Iterable[ast.stmt]) -> Iterator[bool]:
    """Whether each statement that runs while a module is imported ends the program."""
    for node in body:
        if isinstance(node, ast.If) and "__main__" in ast.dump(node.test):
            continue
        if isinstance(node, Function):
            continue
        if isinstance(node, ast.Raise):
            yield "SystemExit" in ast.dump(node)
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            function = node.value.func
            name = (
                function.id
                if isinstance(function, ast.Name)
                else function.attr
                if isinstance(function, ast.Attribute)
                else ""
            )
            yield name in ("exit", "quit")
        for part in ("body", "orelse", "finalbody"):
            yield from _exits(getattr(node, part, []))
        for handler in getattr(node, "handlers", []):
            yield from _exits(handler.body)


def _last(node: ast.expr) -> str:
    """The last part of a dotted name; "" for anything else."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
