"""A missing docstring comes in, and nothing else changes: over generated sources, our own, and hostile ones."""

from __future__ import annotations

import ast
import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.errors import ConfigError, ToolError
from pantheon.records import Finding, Repair
from pantheon.tools import docstrings, docstyle, pysource
from pantheon.tools.docstrings import DocArgs, DocRules, parse
from pantheon.tools.facts import Facts
from pantheon.tools.pysource import MODULE, Source
from pantheon.tools.tool import Change, Nothing, Tree
from pantheon.tools.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
RULES = parse((ROOT / "templates/pantheon/rules/docstrings.toml").read_bytes(), "docstrings.toml")
ALL = RULES.model_copy(
    update={"objects": ("module", "class", "function", "method"), "min_lines": 1, "most": 50, "line_length": 110}
)
NONE = Tree(frozenset(), lambda path: None)
PATH = "harbour/boats.py"
OURS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "pantheon").rglob("*.py"))


def workspace(root: Path, source: str | bytes, rules: DocRules = ALL, beside: str = "") -> Workspace:
    raw = source.encode() if isinstance(source, str) else source
    files = {PATH: raw, "harbour/a.py": beside.encode()}
    return Workspace(root, PATH, rules, Facts(paths=tuple(files)), files.get)


def found(source: str, rules: DocRules = ALL, path: str = PATH) -> list[Finding]:
    return list(docstrings.check(path, source.encode(), rules, NONE)) if docstrings.KIND.about(path, rules) else []


def names(source: str, rules: DocRules = ALL) -> list[str]:
    return [finding.field for finding in found(source, rules) if finding.rule != "unparsable"]


def candidates(source: str, name: str, path: str = PATH) -> set[str]:
    parsed = pysource.parse(source.encode())
    return set(docstrings.choices(path, parsed, pysource.define(parsed, name), ALL.model_copy(update={"choose": 8})))


def problems(before: str | bytes, after: str | bytes | None, rules: DocRules = ALL, path: str = PATH) -> list[str]:
    old, new = (text.encode() if isinstance(text, str) else text for text in (before, after))
    return [problem.message for problem in docstrings.verify(Change(path, old, new, NONE, NONE), rules)]


def add(source: str, name: str = "f", text: str = "Say a word.") -> str:
    return pysource.with_docstring(pysource.parse(source.encode()), name, text).decode()


def stripped(source: Source) -> str:
    """The tree without docstrings, as an independent reader sees it."""
    tree = ast.parse(source.text)
    for node in ast.walk(tree):
        if isinstance(node, pysource.Described) and pysource.doc_of(node) is not None:
            del node.body[0]
    return ast.dump(tree)


# --- where it comes in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("def f():\n    return 1\n", 'def f():\n    """Say a word."""\n    return 1\n'),
        ("def f(): return 1\n", 'def f():\n    """Say a word."""\n    return 1\n'),
        ("def f(): a = 1; return a  # why\n", 'def f():\n    """Say a word."""\n    a = 1; return a  # why\n'),
        ("def f(): return [\n  1,\n]\n", 'def f():\n    """Say a word."""\n    return [\n  1,\n]\n'),
        ("def f():  # noqa\n\treturn 1\n", 'def f():  # noqa\n\t"""Say a word."""\n\treturn 1\n'),
        ("def f():\r\n  return 1\r\n", 'def f():\r\n  """Say a word."""\r\n  return 1\r\n'),
        ("def f(): return 1\r\n", 'def f():\r\n    """Say a word."""\r\n    return 1\r\n'),
        ("class f: ...\n", 'class f:\n    """Say a word."""\n\n    ...\n'),
        ("class f:\n    x = 1\n", 'class f:\n    """Say a word."""\n\n    x = 1\n'),
        ("class f:\n\n    x = 1\n", 'class f:\n    """Say a word."""\n\n    x = 1\n'),
        ("def f(x=lambda a: a): return x\n", 'def f(x=lambda a: a):\n    """Say a word."""\n    return x\n'),
        ("def f() -> lambda: 0: return 1\n", 'def f() -> lambda: 0:\n    """Say a word."""\n    return 1\n'),
        (
            "async  def f(\n    a, b={1: 2}\n): return 1",
            'async  def f(\n    a, b={1: 2}\n):\n    """Say a word."""\n    return 1',
        ),
        ("@g\n@h(1)\ndef f():\n    return 1\n", '@g\n@h(1)\ndef f():\n    """Say a word."""\n    return 1\n'),
        ("def f():\n    @g\n    def h(): ...\n", 'def f():\n    """Say a word."""\n    @g\n    def h(): ...\n'),
        (
            "def f(a):\n    # type: (int) -> int\n    return a\n",
            'def f(a):\n    # type: (int) -> int\n    """Say a word."""\n    return a\n',
        ),
        ("def f():\n    # a word\n    return 1\n", 'def f():\n    """Say a word."""\n    # a word\n    return 1\n'),
        ("if x:\n  def f(): return 1\n", 'if x:\n  def f():\n    """Say a word."""\n    return 1\n'),
        ("try:\n    import f\nexcept E:\n    def f(): pass\n", None),
        ("\f\ndef f():\n    return 1\n", '\f\ndef f():\n    """Say a word."""\n    return 1\n'),
        ("def g():\n    '''Go.'''\ndef f(): 1\n", "def g():\n    '''Go.'''\ndef f():\n    '''Say a word.'''\n    1\n"),
        ("def f():\n    f'{1}'\n", 'def f():\n    """Say a word."""\n    f\'{1}\'\n'),
        ("def f(): return \\\n    1\n", 'def f():\n    """Say a word."""\n    return \\\n    1\n'),
    ],
)
def test_a_docstring_comes_in_behind_the_header(before: str, after: str | None) -> None:
    found = add(before)
    assert found == after or (after is None and '"""Say a word."""' in found)
    assert stripped(pysource.parse(found.encode())) == stripped(pysource.parse(before.encode()))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import a\n", '"""Say a word."""\n\nimport a\n'),
        ("#!/bin/python\nimport a\n", '#!/bin/python\n"""Say a word."""\n\nimport a\n'),
        ("# (c) Ann\n\nimport a\n", '# (c) Ann\n\n"""Say a word."""\n\nimport a\n'),
        ("# (c) Ann\nimport a\n", '# (c) Ann\n"""Say a word."""\n\nimport a\n'),
        ("from __future__ import annotations\n", '"""Say a word."""\n\nfrom __future__ import annotations\n'),
        ("def f(): ...\n", '"""Say a word."""\n\n\ndef f(): ...\n'),
        ("\ufeffimport a\r\n", '\ufeff"""Say a word."""\r\n\r\nimport a\r\n'),
    ],
)
def test_a_module_is_described_behind_its_first_comments(before: str, after: str) -> None:
    assert add(before, MODULE) == after


def test_an_encoding_cookie_holds_for_what_comes_in() -> None:
    raw = "# -*- coding: latin-1 -*-\ndef f():\n    return 'é'\n".encode("latin-1")
    source = pysource.parse(raw)
    assert pysource.with_docstring(source, "f", "Call é.").decode("latin-1").count("é") == 2
    with pytest.raises(ToolError, match="does not fit the encoding"):
        pysource.with_docstring(source, "f", "Call \u0142.")


@pytest.mark.parametrize(
    "raw",
    [
        b"\0",
        b"def f():\n    return 1\rx = 2\n",
        b"# coding: rot13\nqrs s(): 1\n",
        b"# coding: utf-7\nx = 1\n",
        b"# coding: no-such\n",
        b"x = '\xff'\n",
        b"def f(:\n",
        b"print 'two'\n",
        b"(" * 3_000 + b")" * 3_000,
        b"-" * 200_000 + b"1",
        b"x = " + b"1 + " * 60_000 + b"1\n",
        b"x = " + b"f(" * 80 + b")" * 80 + b"\n" + b"a.b" * 50_000,
        b"".join(b" " * n + b"if 1:\n" for n in range(99)) + b" " * 99 + b"x",
        b"x = " + b"9" * 5_000 + b"\n",
        b"#" * 400_000,
    ],
    ids=lambda raw: f"{raw[:12]!r}-{len(raw)}",
)
def test_hostile_sources_are_a_finding_or_nothing_but_never_a_crash(raw: bytes) -> None:
    found = docstrings.check(PATH, raw, ALL, NONE)
    assert all(finding.repair is Repair.REPORT for finding in found)
    assert list(docstrings.verify(Change(PATH, raw, raw + b"\n", NONE, NONE), ALL))


def test_definitions_nested_without_end_are_left_alone() -> None:
    deep = "".join(" " * n + f"class A{n}:\n" for n in range(60)) + " " * 60 + "x = 1\n"
    parts = [definition.name for definition in pysource.parse(deep.encode()).definitions]
    assert len(parts) == pysource.MAX_NESTED + 1
    assert all(name.count(".") < pysource.MAX_NESTED for name in parts)


# --- texts that attack -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        'Say it."""; import os; """',
        'Say it"""',
        'Say "it"',
        "Say it\\",
        "Say it\\nand go.",
        "Say\nit.",
        "Say\rit.",
        "Say\u2028it.",
        "Say\u0085it.",
        "Say\x0cit.",
        "Say\0it.",
        "Say \u202eit.",
        "Say i\u200bt.",
        "Say \ud800.",
        "Say '''it'''.",
        "Say >>> 1 / 0.",
        "",
        " Say it.",
        "Say it. ",
        "say it.",
        "Say it",
        "Say  it.",
        "Say...",
        "# Say it.",
        "x" * 300 + " y.",
    ],
)
def test_a_text_that_is_no_plain_sentence_is_refused(tmp_path: Path, text: str) -> None:
    assert docstrings.fault(text, 80)
    free = workspace(tmp_path, "def f(a):\n    b = a\n    return b\n", ALL.model_copy(update={"free_text": True}))
    with pytest.raises(ToolError):
        docstrings.add_docstring(free, DocArgs.model_construct(name="f", text=text))
    assert free.changes() == {}


@given(text=st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_whatever_is_written_is_the_docstring_or_refused(text: str) -> None:
    before = "def f():\n    return 1\n"
    try:
        after = add(before, "f", text)
    except ToolError:
        return
    node = ast.parse(after).body[0]
    assert isinstance(node, ast.FunctionDef)
    assert ast.get_docstring(node) == text
    assert ast.unparse(node.body[1]) == "return 1"
    assert len(node.body) == 2


def test_braces_and_apostrophes_are_only_text(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "def f(a):\n    b = a\n    return b\n", ALL.model_copy(update={"free_text": True}))
    docstrings.add_docstring(ws, DocArgs(name="f", text="Return {a}'s %s value."))
    assert '"""Return {a}\'s %s value."""' in ws.read(PATH).decode()


# --- what is asked for -----------------------------------------------------------------------------------------------

MANY = '''
import typing

class Boat:
    def __init__(self, name):
        self.name = name

    @property
    def long_name(self):
        return self.name * 2

    @long_name.setter
    def long_name(self, name):
        self.name = name

    @typing.overload
    def load(self, path: str): ...

    @typing.overload
    def load(self, path: bytes): ...

    def load(self, path):
        def inner():
            pass
        return inner

    def _hidden(self):
        return 1

if typing:
    def sail(boat): return boat
else:
    def row(boat): return boat

try:
    def twice(boat): return boat
except ImportError:
    def twice(boat): return None

def known():
    """Return what is known."""

def set_later():
    return 1

set_later.__doc__ = "Set later."
'''


def test_public_definitions_are_found_wherever_they_stand() -> None:
    assert names(MANY) == ["Boat", "Boat.long_name", "Boat.load", "sail", "row"] or names(MANY)[0] == MODULE


def test_options_widen_and_narrow_what_is_asked_for() -> None:
    def only(**more: object) -> set[str]:
        return set(names(MANY, ALL.model_copy(update={"objects": ("class", "function", "method"), **more})))

    plain = only()
    assert plain == {"Boat", "Boat.long_name", "Boat.load", "sail", "row"}
    assert only(magic=True) - plain == {"Boat.__init__"}
    assert only(private=True) - plain == {"Boat._hidden"}
    assert only(nested=True) - plain == {"Boat.load.inner"}
    assert only(objects=("class",)) == {"Boat"}
    assert only(min_lines=3) == {"Boat", "Boat.load"}


def test_at_most_so_many_are_to_be_chosen_at_once() -> None:
    source = "".join(f"def get_name_{word}(path):\n    return path\n" for word in ("one", "two", "three", "four"))
    rules = ALL.model_copy(update={"most": 2, "objects": ("function",)})
    assert names(source, rules) == ["get_name_one", "get_name_two"]


@pytest.mark.parametrize(
    "more",
    [
        "import argparse\nargparse.ArgumentParser(description=get_name.__doc__)\n",
        "import inspect\ninspect.getdoc(get_name)\n",
        "getattr(get_name, '__doc__')\n",
        "from docopt import docopt\n",
        "import fire\n",
        "import ply.yacc\n",
        "# This file was generated by the harbour. DO NOT EDIT\n",
    ],
)
def test_where_docstrings_are_read_none_is_added(more: str) -> None:
    plain = "def get_name(boat):\n    name = boat.name\n    more = 1\n    return name\n"
    assert names(plain, RULES) == ["get_name"]
    assert names(more + plain, RULES) == []
    assert problems(more + plain, more + add(plain, "get_name", "Return the name."), RULES)


@pytest.mark.parametrize(
    "head",
    ["@app.command()\n", "@click.command\n", "@router.get('/x')\n", "@mcp.tool\n", "@pytest.fixture\n", "@override\n"],
)
def test_commands_routes_and_overrides_are_left_alone(head: str) -> None:
    assert names(f"{head}def get_name(boat):\n    name = boat.name\n    more = 1\n    return name\n", RULES) == []


def test_a_schema_is_left_alone_with_all_in_it() -> None:
    source = (
        "class Boat(pydantic.BaseModel):\n    def get_name(self):\n        a = 1\n        b = 2\n        return a\n"
    )
    assert names(source, RULES) == []
    assert names(source.replace("BaseModel", "Thing"), RULES) == ["Boat", "Boat.get_name"]


def test_a_module_that_uses_its_docstring_gets_none() -> None:
    assert MODULE in names("class Boat:\n    pass\nclass Oar:\n    pass\n")
    assert MODULE not in names("class Boat:\n    pass\nclass Oar:\n    pass\nprint(__doc__)\n")


@pytest.mark.parametrize(
    "path",
    ["tests/test_a.py", "a/tests/b.py", "conftest/_a.py", "a.pyi", "a.md", "setup.py", "docs/conf.py", "_x/a.py"],
)
def test_tests_stubs_and_private_files_are_not_its_business(path: str) -> None:
    assert not docstrings.KIND.about(path, RULES)
    assert problems("def f(): 1\n", add("def f(): 1\n"), path=path) == ["no rule asks for a change of this file"]


def test_the_packaged_rules_and_a_wrong_key_with_its_line() -> None:
    assert RULES.kind == "docstrings"
    with pytest.raises(ConfigError, match=r"x\.toml:2"):
        parse(b'kind = "docstrings"\nmoist = 3\n', "x.toml")


# --- what is said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        ("def get_user_name(user): return user.name", "get_user_name", "Return the user name."),
        ("def get_color(boat): return 1", "get_color", "Return the color for the given boat."),
        ("def load_config(path): return open(path)", "load_config", "Load the configuration."),
        ("def is_url(text): return 1", "is_url", "Return whether the text is a URL."),
        ("class Boat:\n def has_oars(self): return 1", "Boat.has_oars", "Return whether the boat has oars."),
        ("class Boat:\n def to_dict(self): return {}", "Boat.to_dict", "Return the boat as a dictionary."),
        ("class Boat:\n @classmethod\n def from_json(cls, a): return 1", "Boat.from_json", "Create a boat from JSON."),
        ("class Boat:\n @property\n def name(self): return self._n", "Boat.name", "Return the name of the boat."),
        ("def iter_lines(path):\n yield 1", "iter_lines", "Iterate over the lines."),
        ("def get_lines(path):\n yield 1", "get_lines", "Yield the lines."),
        ("def bytes_to_str(data): return 1", "bytes_to_str", "Convert bytes to a string."),
        ("def check_name(name):\n if 1: raise OSError", "check_name", "Check the name; raise OSError on failure."),
        ("class Boat:\n def add_oar(self, oar): self.x = 1", "Boat.add_oar", "Add an oar to the boat."),
        ("class Boat:\n def close(self): self.x = 1", "Boat.close", "Close the boat."),
        ("class Base:\n def sail(self, to): raise NotImplementedError", "Base.sail", None),
        ("def main(argv): return 1", "main", "Run the program with the given arguments."),
        ("# Returns the depth of the sea.\ndef zzz(): return 1", "zzz", "Return the depth of the sea."),
        ("class A:\n def go(self):\n  '''Go to sea.'''\nclass B(A):\n def go(self): pass", "B.go", "Go to sea."),
        ("class HarbourNotFound(Exception): pass", "HarbourNotFound", "Raised when a harbour is not found."),
        ("class BoatKind(enum.Enum):\n A = 1", "BoatKind", "Enumeration of boat kinds."),
        ("@dataclass\nclass Boat:\n name: str\n length: int", "Boat", "A boat with its name and length."),
        ("class BaseReader:\n x = 1", "BaseReader", "Base class for readers."),
        ("def load(path) -> Config: return 1", "load", "Load from the path and return a Config."),
        ("@contextmanager\ndef open_sea(): yield", "open_sea", "Open the sea while a with block runs."),
        ("def x1(a): return a", "x1", None),
        ("def frobnicate(): pass", "frobnicate", None),
        ("def get(x): return x", "get", None),
    ],
)  # fmt: skip
def test_sentences_come_from_what_the_code_says(source: str, name: str, said: str | None) -> None:
    texts = candidates(source + "\n", name)
    assert said in texts if said else not texts


def test_a_comment_that_is_no_prose_is_no_sentence() -> None:
    for comment in (
        "# TODO: give this a better name",
        "# noqa: E501 is off here",
        "# x = compute(y) was here",
        "# -----",
    ):
        assert not candidates(f"{comment}\ndef zzz(): pass\n", "zzz")
    assert not candidates('# Close it """ and go on from there.\ndef zzz(): pass\n', "zzz")


@pytest.mark.parametrize("path", [path for path in OURS if "__init__" not in path])
def test_every_candidate_over_our_own_sources_is_a_plain_sentence(path: str) -> None:
    source = pysource.parse((ROOT / path).read_bytes())
    for definition in source.definitions:
        for text in docstrings.choices(path, source, definition, ALL):
            assert not docstrings.fault(text, 110)
            assert text.isascii()


# --- adding and checking ---------------------------------------------------------------------------------------------


def bare(raw: bytes) -> bytes:
    """The source without its docstrings, where that leaves a body."""
    source = pysource.parse(raw)
    lines = list(source.lines)
    for definition in reversed(source.definitions):
        body = definition.node.body
        if (
            pysource.doc_of(definition.node) is not None
            and len(body) > 1
            and body[1].lineno > (body[0].end_lineno or 0)
        ):
            del lines[body[0].lineno - 1 : body[0].end_lineno]
    return "\n".join(lines).encode()


@pytest.mark.parametrize("path", OURS)
def test_our_own_sources_get_docstrings_again_and_keep_their_trees(path: str, tmp_path: Path) -> None:
    raw = bare((ROOT / path).read_bytes())
    files = {PATH: raw}
    ws = Workspace(tmp_path, PATH, ALL, Facts(paths=(PATH,)), files.get)
    found = [f.field for f in docstrings.check(PATH, raw, ALL, NONE) if f.repair is Repair.CHOOSE][:2]
    for name in reversed(found):
        (offer,) = docstrings.offer_docstrings(ws.focused(name))
        texts = offer.args["text"]
        assert texts
        docstrings.add_docstring(ws.focused(name), DocArgs(name=name, text=texts[0]))
    after = ws.read(PATH)
    if found:
        assert problems(raw, after) == []
        assert stripped(pysource.parse(after)) == stripped(pysource.parse(raw))
    elif raw.strip():
        assert problems(raw, after) == ["no docstring was added"]


IDS = st.sampled_from(["get_name", "load_boat", "is_open", "close", "Boat", "to_text", "x", "_y", "größe"])


@st.composite
def blocks(draw: st.DrawFn, depth: int = 0) -> str:
    """Lines of a body, without indentation."""
    kind = draw(
        st.sampled_from(["pass", "def", "class", "if", "line", "try", "one"] if depth < 3 else ["pass", "line"])
    )
    name = draw(IDS)
    pad = draw(st.sampled_from(["    ", "  ", "\t"]))
    comment = draw(st.sampled_from(["", "  # why", " #:"]))

    def inner() -> str:
        text = draw(blocks(depth + 1)) + ("\n" + draw(blocks(depth + 1)) if draw(st.booleans()) else "")
        lead = draw(st.sampled_from(["", "# said\n", "\n", "'''Known.'''\n", '"Known."\n']))
        return "\n".join(pad + line if line else line for line in (lead + text).split("\n"))

    if kind == "def":
        head = draw(st.sampled_from(["def", "async def", "@wraps(x)\ndef"]))
        args = draw(st.sampled_from(["", "self, path", "a, b=lambda q: {1: q}", "*, k: int = 3", "a,\n  b"]))
        end = draw(st.sampled_from(["", " -> int", " -> 'x:y'", " -> lambda: 0"]))
        return f"{head} {name}({args}){end}:{comment}\n{inner()}"
    if kind == "class":
        return f"class {name}{draw(st.sampled_from(['', '()', '(Exception)']))}:{comment}\n{inner()}"
    if kind == "if":
        return f"if {name}:{comment}\n{inner()}"
    if kind == "try":
        return f"try:{comment}\n{inner()}\nexcept E:{comment}\n{inner()}"
    if kind == "one":
        return draw(st.sampled_from([f"def {name}(a): return a; pass{comment}", f"class {name}: ..."]))
    return draw(st.sampled_from([f"{name} = 'é\\\\' + '''\n a'''", "pass", "return_ = [\n1]", f"{name} = \\\n  1"]))


@given(parts=st.lists(blocks(), min_size=1, max_size=4), end=st.sampled_from(["\n", "\r\n"]), last=st.booleans())
@settings(max_examples=150, deadline=None)
def test_generated_sources_keep_everything_but_what_was_added(parts: list[str], end: str, last: bool) -> None:
    raw = ("\n".join(parts) + ("\n" if last else "")).replace("\n", end).encode()
    with contextlib.suppress(ToolError):
        source = pysource.parse(raw)
        rules = ALL.model_copy(update={"free_text": True, "private": True, "nested": True})
        wanted = docstrings.undocumented(source, rules)
        now = raw
        for definition in wanted:
            try:
                now = pysource.with_docstring(pysource.parse(now), definition.name, "Say a word.")
            except ToolError as error:
                assert "continued line" in error.why
        if now != raw:
            assert problems(raw, now, rules) == []
            assert stripped(pysource.parse(now)) == stripped(source)
            one_line = any(b"): return" in line or b": ..." in line for line in raw.split(b"\n"))
            left = iter(now.split(b"\n"))
            assert one_line or all(line in left for line in raw.split(b"\n"))


def test_calls_for_several_names_compose_in_any_order(tmp_path: Path) -> None:
    source = "class Boat:\n    def close(self): self.x = 1\n\n    def open(self):\n        self.x = 0\n"
    results = set()
    for number, order in enumerate((["Boat.open", "Boat.close"], ["Boat.close", "Boat.open"])):
        (tmp_path / str(number)).mkdir()
        ws = workspace(tmp_path / str(number), source)
        for name in order:
            (offer,) = docstrings.offer_docstrings(ws.focused(name))
            assert offer.args["name"] == (name,)
            text = (offer.args["text"] or ("",))[0]
            args = DocArgs(name=name, text=text)
            assert docstrings.add_docstring(ws.focused(name), args).changed
            assert not docstrings.add_docstring(ws.focused(name), args).changed
            assert docstrings.offer_docstrings(ws.focused(name)) == ()
        results.add(ws.read(PATH))
        assert problems(source, ws.read(PATH)) == []
    assert len(results) == 1


def test_what_nobody_asked_for_is_refused(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "def get_name(boat):\n    return boat\n\ndef get_size(boat):\n    '''Big.'''\n")
    for focus, name, text, why in (
        ("", "get_name", "Delete the boat.", "not among the candidates"),
        ("", "get_size", "Return the size.", "no rule asks"),
        ("", "get_depth", "Return the depth.", "no such name"),
        ("get_size", "get_name", "Return the name.", "the work is on"),
    ):
        with pytest.raises(ToolError, match=why):
            docstrings.add_docstring(ws.focused(focus), DocArgs(name=name, text=text))
    assert ws.changes() == {}


def test_the_prompt_sees_the_definition_as_it_was(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "def get_name(boat):\n    name = boat\x0c\n    return name\n")
    shown = docstrings.read_definition(ws.focused("get_name"), Nothing())
    assert (shown.name, shown.kind, shown.signature) == ("get_name", "function", "def get_name(boat):")
    assert shown.text == "def get_name(boat):\n    name = boat\n    return name"
    assert "Return the name." in shown.choices


GOOD = add("def get_name(boat):\n    return boat\n", "get_name", "Return the name.")


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (GOOD.replace("return boat", "return 1"), "changes more than"),
        (GOOD.replace("return boat", "return boat  # so"), "changes more than"),
        (GOOD.replace("boat\n", "boat\n\n"), "the lines differ"),
        (GOOD.replace('"""', "'''"), "the lines differ"),
        (GOOD.replace('"""Return', 'r"""Return'), "the lines differ"),
        (GOOD.replace('name."""', 'name.""" "More."'), "changes more than"),
        (GOOD.replace("Return the name.", "Return the name.\n    "), "printable"),
        (GOOD.replace("Return the name.", "Return nothing."), "not among the candidates"),
        (GOOD.replace("Return the name.", "Return the name.\n\n    Note: buy.\n    "), "more than a sentence"),
        (GOOD.replace('"""Return the name."""', '"Return the name."'), "the lines differ"),
        (GOOD.replace('"""\n', '"""; import os\n'), "changes more than"),
        (GOOD.replace("def get_name(boat):", "def get_name(boat) :"), "the lines differ"),
        (GOOD + "def f(): ...\n", "changes more than"),
        ("def get_name(boat):\n    return boat\n", "no docstring was added"),
        ("def get_name(boat:\n", "not Python here"),
        (None, "no rule asks for a change"),
    ],
)
def test_a_change_beyond_docstrings_does_not_pass(after: str | None, why: str) -> None:
    before = "def get_name(boat):\n    return boat\n"
    rules = ALL.model_copy(update={"objects": ("function",)})
    assert problems(before, GOOD, rules) == []
    assert any(why in message for message in problems(before, after, rules))


def test_a_docstring_that_was_there_may_not_change_nor_go() -> None:
    before = "def get_size(boat):\n    '''Big.'''\n    return 1\ndef get_name(boat):\n    return boat\n"
    good = add(before, "get_name", "Return the name.")
    assert problems(before, good) == []
    assert problems(before, good.replace("Big", "Bigger"))
    assert problems(before, good.replace("    '''Big.'''\n", ""))
    assert problems(before, good.replace("'''Big.'''", '"""Big."""'))


def test_too_many_at_once_do_not_pass() -> None:
    before = "def get_name(boat): return 1\ndef get_size(boat): return 1\n"
    after = add(add(before, "get_name", "Return the name."), "get_size", "Return the size.")
    assert problems(before, after, ALL.model_copy(update={"most": 1}))


# --- sections --------------------------------------------------------------------------------------------------------

GOOGLE = '''
def known(boat, speed=3):
    """Return what is known.

    Args:
        boat (Boat): The boat that is asked for.
        speed: Knots at sea.
    """

def get_course(boat: Boat, speed: int = 3):
    course = boat
    return course
'''


def test_a_section_on_arguments_says_what_the_file_says_elsewhere(tmp_path: Path) -> None:
    ws = workspace(tmp_path, GOOGLE)
    docstrings.add_docstring(ws, DocArgs(name="get_course", text="Return the course for the given boat."))
    after = ws.read(PATH).decode()
    assert (
        '    """Return the course for the given boat.\n\n    Args:\n        boat (Boat): The boat that is asked for.\n'
        '        speed (int): Knots at sea.\n    """\n' in after
    )
    assert problems(GOOGLE, after) == []
    assert problems(GOOGLE, after.replace("speed (int): Knots at sea", "speed (int): Knots at pub"))
    assert not docstrings.add_docstring(
        ws, DocArgs(name="get_course", text="Return the course for the given boat.")
    ).changed


def test_of_arguments_that_nothing_is_known_of_nothing_is_said(tmp_path: Path) -> None:
    ws = workspace(tmp_path, GOOGLE.replace("get_course(boat: Boat", "get_course(tide, boat: Boat"))
    docstrings.add_docstring(ws, DocArgs(name="get_course", text="Return the course."))
    assert '    """Return the course."""\n' in ws.read(PATH).decode()


def test_the_style_is_that_of_the_files_beside(tmp_path: Path) -> None:
    numpy = "def a(b):\n    '''Go.\n\n    Parameters\n    ----------\n    b : int\n        Width.\n    '''\n"
    ws = workspace(tmp_path, "def get_course(b: int, c: str = 'x'):\n    return b\n", beside=numpy)
    docstrings.add_docstring(ws, DocArgs(name="get_course", text="Return the course."))
    text = ws.read(PATH).decode()
    assert "    Parameters\n    ----------\n    b : int\n    c : str, default 'x'\n" in text
    assert docstyle.style_of([numpy]) == "numpy"
    assert problems("def get_course(b: int, c: str = 'x'):\n    return b\n", text) == []
