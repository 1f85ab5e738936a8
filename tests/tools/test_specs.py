"""Specs: what is read out of Markdown, what becomes of it, and which bodies come into a module."""

from __future__ import annotations

import ast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.errors import ConfigError
from pantheon.records import Repair
from pantheon.tools import bodies, specs
from pantheon.tools.bodies import Body, Signature
from pantheon.tools.tool import Change, Tree

RULES = specs.parse(b'kind = "spec"\n', "spec.toml")
LIMITS = specs.limits(RULES)
HEAD = "---\nimplements: src/harbour/tides.py\n---\n"
SPEC = (
    HEAD
    + '''# Tides

## Between

Half way between two readings. Say it "twice".

```python
from collections.abc import Sequence

def between(low: float, high: float = 2.0) -> float: ...
```

```python
>>> between(1.0, 3.0)
2.0
>>> low = 3.0
>>> between(low, high=3.0)
3.0
```

## Highest

```python
def highest(heights: Sequence[float]) -> float:
    """The highest of all readings.

    >>> highest([1.0, 2.5])
    2.5
    """
```

| call | result |
|---|---|
| `highest([3, 1])` | `3` |
| `highest([])` | raises ValueError |
'''
)


def of(files: dict[str, str]) -> Tree:
    return Tree(frozenset(files), lambda path: files[path].encode() if path in files else None)


def read(text: str, path: str = "spec/tides.md") -> specs.Spec:
    return specs.read_spec(path, text.encode(), RULES)


def signature(text: str) -> Signature:
    node = ast.parse(f"{text}\n    ...").body[0]
    assert isinstance(node, ast.FunctionDef)
    found = Signature.of(node)
    assert isinstance(found, Signature), found
    return found


ROPES = signature("def ropes(distance: int, length: int) -> int:")


# --- reading ----------------------------------------------------------------------------------------------------------


def test_a_spec_names_its_module_and_holds_signatures_prose_and_examples() -> None:
    spec = read(SPEC)
    assert spec.faults == ()
    assert (spec.title, spec.module, spec.tests) == ("Tides", "src/harbour/tides.py", "tests/test_tides_spec.py")
    assert spec.imports == ("from collections.abc import Sequence",)
    between, highest = spec.functions
    assert between.signature.text == "def between(low: float, high: float=2.0) -> float:"
    assert between.about == 'Half way between two readings. Say it "twice".'
    assert [one.text() for one in between.examples] == [
        "between(1.0, 3.0) -> 2.0",
        "low = 3.0; between(low, high=3.0) -> 3.0",
    ]
    assert highest.about == "The highest of all readings."
    assert [one.text() for one in highest.examples] == [
        "highest([1.0, 2.5]) -> 2.5",
        "highest([3, 1]) -> 3",
        "highest([]) -> raises ValueError",
    ]


def test_prose_without_a_module_is_no_spec() -> None:
    assert not read("# Only words\n\n```python\ndef f(): ...\n```\n").asked


FENCE = "```python\ndef f(a: int) -> int: ...\n```\n"
SHOWN = "```python\n>>> f(1)\n2\n```\n"


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        (HEAD + "# No signature\n", 0, "no signature"),
        (HEAD + FENCE, 5, "f has no examples"),
        (HEAD + "```python\ndef f(a: int -> int\n```\n", 4, "not Python"),
        (HEAD + "```python\ndef f(a: int) -> int:\n    return a\n```\n" + SHOWN, 5, "a signature has no body"),
        (HEAD + "```python\n@wild\ndef f(): ...\n```\n", 6, "no decorator"),
        (HEAD + "```python\nasync def f(): ...\n```\n", 5, "plain function"),
        (HEAD + "```python\ndef f(a=print()): ...\n```\n", 5, "a default is a plain value"),
        (HEAD + FENCE + FENCE + SHOWN, 8, "two signatures"),
        (HEAD + FENCE + "```python\n>>> g(1)\n2\n```\n", 8, "calls no function"),
        (HEAD + FENCE + "```python\n>>> f(1)\nabout two\n```\n", 8, "not a literal"),
        (HEAD + FENCE + "```python\n>>> print(f(1))\n2\n```\n", 8, "prints"),
        (HEAD + FENCE + "```python\n>>> f(\n2\n```\n", 8, "not Python"),
        (HEAD + FENCE + "```python\n  >>>f(1)\n```\n", 8, "not a doctest"),
        (HEAD + FENCE + "| call | result |\n|---|---|\n| `f(1)` | raises Wild |\n", 9, "no error of Python's own"),
        ("---\nimplements: ../out.py\n---\n" + FENCE + SHOWN, 2, "implements"),
        ("---\nimplements: src/a.txt\n---\n" + FENCE + SHOWN, 2, "path of a Python module"),
        ("---\nimplements: src/not-a-name.py\n---\n" + FENCE + SHOWN, 2, "cannot be imported"),
        ("---\nimplements: src/re.py\n---\n" + FENCE + SHOWN, 2, "would hide the module 're'"),
        ("---\nimplements: tests/test_a.py\n---\n" + FENCE + SHOWN, 2, "is a test"),
        ("---\nimplements: .git/hooks/a.py\n---\n" + FENCE + SHOWN, 2, "implements"),
        (HEAD.replace("---\n", "---\ntests: src/a.py\n", 1) + FENCE + SHOWN, 2, "not the path of a test file"),
        ("---\nimplements: [a\n---\n", 3, "not YAML"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said_with_its_line(text: str, line: int, why: str) -> None:
    findings = specs.check("spec/tides.md", text.encode(), RULES, of({"spec/tides.md": text}))
    assert all(one.repair is Repair.REPORT and one.rule == "malformed" for one in findings)
    assert any(why in one.message and one.line == line for one in findings), findings


def test_what_the_module_lacks_is_missing_and_what_differs_is_a_persons() -> None:
    def found(module: str | None) -> list[tuple[str, str]]:
        files = {"spec/tides.md": SPEC} | ({"src/harbour/tides.py": module} if module is not None else {})
        return [(f.rule, f.field) for f in specs.check("spec/tides.md", SPEC.encode(), RULES, of(files))]

    both = [("unimplemented", "between"), ("unimplemented", "highest")]
    assert found(None) == both
    assert found('"""Tides."""\n') == both
    stub = "def between(low: float, high: float = 2.0) -> float:\n    raise NotImplementedError\n"
    assert found(stub) == both
    assert found(stub.replace("raise NotImplementedError", "return low")) == both[1:]
    assert found("between = 1\nhighest = 2\n") == [("differs", "between"), ("differs", "highest")]
    assert found("def between(a):\n    return a\n")[0] == ("differs", "between")
    assert found("def between(\n") == [("malformed", "")]
    assert found("x = 1\r\n") == [("malformed", "")]


def test_two_specs_may_not_ask_for_the_same() -> None:
    files = {"spec/tides.md": SPEC, "spec/more.md": SPEC}
    findings = specs.check("spec/tides.md", SPEC.encode(), RULES, of(files))
    assert any("spec/more.md asks for between, highest as well" in one.message for one in findings)


@settings(deadline=None)
@given(st.text(max_size=400), st.text(alphabet="`>|-#d ef():.\n\t", max_size=300))
def test_no_text_makes_the_reader_fail(wild: str, marks: str) -> None:
    for text in (HEAD + wild, HEAD + marks + SPEC[len(HEAD) :], wild):
        raw = text.encode("utf-8", "surrogatepass")
        findings = specs.check("spec/tides.md", raw, RULES, of({}))
        assert all(one.line >= 0 for one in findings)


@pytest.mark.parametrize(
    "bomb",
    [
        "```python\n" + "def f(a=" + "(" * 5000 + ")" * 5000 + "): ...\n```\n",
        "```python\n>>> f(" + "[" * 3000 + "\n1\n```\n",
        "|" * 20_000 + "\n" + "|-" * 10_000 + "\n",
        ">>> " * 20_000,
        "- " * 5_000 + "x\n",
        "```python\n" + "def f(): ...\n" * 3_000 + "```\n",
        "x" * 200_000,
        "```python\ndef f(a: int) -> int: ...\n```\n```python\n>>> f(1)\n" + "9" * 5000 + "\n```\n",
    ],
)
def test_bombs_end(bomb: str) -> None:
    findings = specs.check("spec/tides.md", (HEAD + bomb).encode(), RULES, of({}))
    assert findings


def test_rules_say_the_line_of_what_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"spec\.toml:2: max_chars"):
        specs.parse(b'kind = "spec"\nmax_chars = 0\n', "spec.toml")
    with pytest.raises(ConfigError, match=r"tests: '\.\./x' is no directory"):
        specs.parse(b'kind = "spec"\ntests = "../x"\n', "spec.toml")


# --- skeleton and tests -----------------------------------------------------------------------------------------------


def test_the_skeleton_adds_stubs_and_nothing_else() -> None:
    spec = read(SPEC)
    wanted = [(one.signature, one.about) for one in spec.functions]
    fresh = bodies.skeleton(None, spec.title, wanted, spec.imports).decode()
    assert fresh.startswith('"""Tides"""\n\nfrom collections.abc import Sequence\n\n\ndef between(')
    assert '    """Half way between two readings. Say it "twice"."""\n    raise NotImplementedError\n' in fresh
    compile(fresh, "tides.py", "exec")
    old = '#!/bin/python\n"""Old."""\n\nimport re  # kept\n\nX = re.compile("a")\n\nif __name__ == "__main__":\n    X\n'
    new = bodies.skeleton(old.encode(), spec.title, wanted, spec.imports).decode()
    assert new.startswith('#!/bin/python\n"""Old."""\n\nimport re  # kept\nfrom collections.abc import Sequence\n\nX =')
    assert new.endswith('\n\n\nif __name__ == "__main__":\n    X\n')
    assert bodies.skeleton(new.encode(), spec.title, wanted, spec.imports).decode() == new


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=80))
def test_any_prose_can_stand_in_a_docstring(about: str, title: str) -> None:
    raw = bodies.skeleton(None, title, [(ROPES, about)], ())
    assert bodies.module_fault(raw) == ""
    assert bodies.states(raw, [ROPES]) == {"ropes": "stub"}


def test_tests_are_the_examples_in_a_file_that_is_free() -> None:
    spec = read(SPEC)
    path, raw = specs.tests_of(spec, RULES, of({"spec/tides.md": SPEC}))
    assert path == "tests/test_tides_spec.py"
    assert raw.decode() == (
        '"""The examples of spec/tides.md: change them there."""\n\nimport pytest\n\n'
        "from harbour.tides import between, highest\n\n\n"
        "def test_between() -> None:\n    assert between(1.0, 3.0) == 2.0\n    low = 3.0\n"
        "    assert between(low, high=3.0) == 3.0\n\n\n"
        "def test_highest() -> None:\n    assert highest([1.0, 2.5]) == 2.5\n    assert highest([3, 1]) == 3\n"
        "    with pytest.raises(ValueError):\n        highest([])\n"
    )
    half = "def between(low: float, high: float=2.0) -> float:\n    return low\n"
    there = of({"spec/tides.md": SPEC, path: "old", "src/harbour/tides.py": half})
    path, raw = specs.tests_of(spec, RULES, there)
    assert path == "tests/test_tides_spec_2.py"
    assert b"test_between" not in raw


# --- bodies -----------------------------------------------------------------------------------------------------------

SAME = "if length:\n    return distance // length\nreturn 0"


@pytest.mark.parametrize(
    "answer",
    [
        SAME,
        "\n".join("    " + line for line in SAME.split("\n")),
        "\n".join("\t" + line for line in SAME.split("\n")),
        "if length:\n        return distance // length\n    return 0",
        f"```python\n{SAME}\n```",
        "def ropes(distance, length):\n    if length:\n        return distance // length\n    return 0\n",
        'def ropes(distance, length) -> int:\n  """Doc."""\n  if length:\n    return distance // length\n  return 0',
        "  def ropes(distance, length):\n    if length:\n      return distance // length\n    return 0\n",
        SAME.replace("\n", "\r\n"),
    ],
)
def test_a_body_is_found_at_any_depth_and_in_any_dress(answer: str) -> None:
    found = bodies.body_of(answer, ROPES)
    assert isinstance(found, Body), found
    skeleton = bodies.skeleton(None, "Ropes", [(ROPES, "How many.")], ())
    after = bodies.spliced(skeleton, "ropes", found)
    assert list(bodies.problems(None, after, [ROPES], (), LIMITS)) == []
    scope: dict[str, object] = {}
    exec(after, scope)
    assert scope["ropes"](7, 2) == 3  # type: ignore[operator]
    assert b'    """How many."""\n' in after


def test_imports_come_to_the_top_of_the_module() -> None:
    found = bodies.body_of("import math\n\ndef ropes(distance, length):\n    import re\n    return math.ceil(1)", ROPES)
    assert isinstance(found, Body)
    assert found.imports == ("import math", "import re")
    after = bodies.spliced(bodies.skeleton(None, "Ropes", [(ROPES, "")], ()), "ropes", found).decode()
    assert after.startswith('"""Ropes"""\n\nimport math\nimport re\n\n\ndef ropes')


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("return (", "not Python"),
        ("", "not Python"),
        ('"""Only words."""', "no statement"),
        ("def ropes(a, b):\n    return 1", "arguments"),
        ("async def ropes(distance, length):\n    return 1", "plain function"),
        ("@cache\ndef ropes(distance, length):\n    return 1", "plain function"),
        ("X = 1\ndef ropes(distance, length):\n    return X", "defines more"),
        ("return 1\nX = 2\r", "carriage returns"),
    ],
)
def test_an_answer_without_a_body_is_refused(answer: str, why: str) -> None:
    found = bodies.body_of(answer, ROPES)
    assert isinstance(found, str)
    assert why in found


@pytest.mark.parametrize(
    ("body", "unknown"),
    [
        ("return distance // lenght", "lenght"),
        ("if length:\n        return 1\n    return [gauge(x) for x in range(distance)]", "gauge"),
        ("def inner(a):\n        return a + b + LIMIT\n    return inner(length)", "b"),
        ("import math\n    return max(math.inf, LIMIT, *[len(str(x)) for x in range(distance)])", ""),
        ("found: Sequence[int] = []\n    return found", ""),
        ("try:\n        return Counter(distance)\n    except ValueError as error:\n        return error", ""),
        ("return known", ""),
    ],
)
def test_a_name_that_nobody_gives_is_found_before_anything_runs(body: str, unknown: str) -> None:
    text = (
        f"from collections import Counter\n\nLIMIT = 3\n\n\ndef ropes(distance: int, length: int) -> int:\n    {body}\n"
    )
    text += "\n\ndef sets():\n    global known\n    known = 1\n"
    assert [name for _, name in bodies.unknown_names(text, ["ropes"])] == ([unknown] if unknown else [])
    assert list(bodies.unknown_names(f"from other import *\n{text}", ["ropes"])) == []
    limits = bodies.Limits((*bodies.IMPORTS, "collections"))
    said = [why for _, why in bodies.problems(None, text.partition("\n\ndef sets")[0].encode(), [ROPES], (), limits)]
    assert (f"it names {unknown}, which is not there" in said) == bool(unknown)


@pytest.mark.parametrize(
    "answer",
    [
        "import os\nreturn os.getpid()",
        "from os import *\nreturn 1",
        "from .. import secrets\nreturn 1",
        "from re import sys\nreturn 1",
        "import re\nreturn re.sys.exit()",
        "return __import__('os').getpid()",
        "return eval('1')",
        "return exec('1')",
        "return open('/etc/passwd').read()",
        "return ropes.__globals__",
        "return ().__class__.__bases__[0].__subclasses__()",
        "return getattr(distance, 'real')",
        "class A:\n    pass\nreturn A()",
        "return type('A', (), {'x': 1})()",
        "global X\nX = 1\nreturn X",
        "def __eq__(a, b):\n    return True\nreturn 1",
        "print(distance)\nreturn 1",
        "raise SystemExit",
        "raise NotImplementedError",
        "\n".join(["distance += 1"] * 70) + "\nreturn 1",
    ],
)
def test_what_reaches_beyond_the_arguments_is_guarded_against(answer: str) -> None:
    found = bodies.body_of(answer, ROPES)
    assert isinstance(found, Body), found
    after = bodies.spliced(bodies.skeleton(None, "Ropes", [(ROPES, "")], ()), "ropes", found)
    assert list(bodies.problems(None, after, [ROPES], (), LIMITS))


@settings(deadline=None)
@given(st.text(max_size=300))
def test_no_answer_changes_more_than_the_body(answer: str) -> None:
    base = b'"""Ropes."""\n\nimport re\n\n\ndef knot() -> str:\n    return "reef"  # kept\n'
    skeleton = bodies.skeleton(base, "", [(ROPES, "How many.")], ())
    found = bodies.body_of(answer, ROPES)
    if isinstance(found, Body):
        after = bodies.spliced(skeleton, "ropes", found)
        if not list(bodies.problems(base, after, [ROPES], (), LIMITS)):
            assert b'def knot() -> str:\n    return "reef"  # kept\n' in after
            assert bodies.states(after, [ROPES]) == {"ropes": ""}


BASE = '"""Ropes."""\n\nimport re\n\n\ndef knot() -> str:\n    return "reef"  # kept\n'
BODY = "\n\ndef ropes(distance: int, length: int) -> int:\n    return 1\n"


@pytest.mark.parametrize(
    "after",
    [
        BASE.replace("reef", "granny") + BODY,
        BASE.replace("  # kept", "") + BODY,
        BASE.replace("import re\n", "") + BODY,
        BASE + BODY + "\n\nX = 1\n",
        BASE + BODY + BODY,
        BASE.replace("import re\n", "import re\nimport socket\n") + BODY,
        BASE + BODY.replace("distance: int, length", "distance: int, width"),
        BASE,
        BODY.lstrip(),
    ],
)
def test_a_change_beyond_the_bodies_is_a_problem(after: str) -> None:
    assert list(bodies.problems(BASE.encode(), (BASE + BODY).encode(), [ROPES], (), LIMITS)) == []
    assert list(bodies.problems(BASE.encode(), after.encode(), [ROPES], (), LIMITS))


def test_the_judgement_knows_the_module_the_tests_and_nothing_else() -> None:
    base = of({"spec/tides.md": SPEC})
    spec = read(SPEC)
    module = bodies.skeleton(None, spec.title, [(one.signature, one.about) for one in spec.functions], spec.imports)
    for name, text in (("between", "return (low + high) / 2"), ("highest", "return max(heights)")):
        module = bodies.spliced(module, name, Body((text,)))
    path, tests = specs.tests_of(spec, RULES, base)

    def said(where: str, before: bytes | None, after: bytes | None) -> list[str]:
        return [one.message for one in specs.verify(Change(where, before, after, base, base), RULES)]

    assert said("src/harbour/tides.py", None, module) == []
    assert said(path, None, tests) == []
    assert said(path, None, tests.replace(b"== 2.0", b"== 3.0")) == ["is not what its spec says"]
    assert said("spec/tides.md", SPEC.encode(), b"") == ["is neither a module nor a new test file of a sound spec"]
    assert said("src/harbour/boats.py", b"", b"x = 1\n")
    assert said("src/harbour/tides.py", None, None)
    assert specs.companions("spec/tides.md", RULES, base) == ("src/harbour/tides.py", path)
