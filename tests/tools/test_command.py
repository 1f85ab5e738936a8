"""A repository's own tool, in the real sandbox: what it is given and gives, and what it cannot do."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from note_samples import RULES

from pantheon import schemas
from pantheon.errors import ConfigError, ToolError
from pantheon.records import Offer, Record
from pantheon.tools.command import load, load_all
from pantheon.tools.facts import Facts
from pantheon.tools.registry import TOOLS
from pantheon.tools.tool import Tool
from pantheon.tools.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
PATH = ".pantheon/tools/probe.toml"
DECLARED = """[tool]
name = "probe"
summary = "say what the probe says"
edits = true
timeout_s = 5
example = { word = "a", count = 2 }
[tool.args.word]
offered = true
[tool.args.count]
type = "integer"
choices = [1, 2, 3]
[tool.result.said]
type = "string"
"""
HEAD = "import json, sys\nq = json.load(sys.stdin)\ndef say(**answer): print(json.dumps(answer)); sys.exit()\n"
OFFERS = "if q['ask'] == 'offer': say(offers={'word': ['a', 'b']})\n"
PAGE = "# Contact\n\nEmail us.\n"


def probe(script: str, declared: str = DECLARED) -> Tool:
    return load(declared.encode(), (HEAD + script).encode(), PATH)


def workspace(root: Path, text: str = PAGE, target: str = "docs/contact.md") -> Workspace:
    return Workspace(root, target, RULES, Facts(), {target: text.encode()}.get)


def call(tool: Tool, ws: Workspace, **args: str) -> dict[str, Any]:
    async def run() -> Record:
        result = tool.run(ws, tool.args.model_validate(args or dict(tool.example)))
        assert inspect.isawaitable(result)
        return await result

    return asyncio.run(run()).model_dump(mode="json")


def offers(tool: Tool, ws: Workspace) -> tuple[Offer, ...]:
    async def ask() -> tuple[Offer, ...]:
        found = tool.offer(ws)
        assert inspect.isawaitable(found)
        return await found

    return asyncio.run(ask())


def test_a_program_gets_the_question_and_its_answer_is_typed(tmp_path: Path) -> None:
    tool = probe("say(result={'said': json.dumps(q, sort_keys=True)})")
    said = json.loads(call(tool, workspace(tmp_path).focused("us"), word="b", count="3")["said"])
    assert said == {
        **{"ask": "run", "args": {"word": "b", "count": 3}, "focus": "us", "path": "docs/contact.md", "text": PAGE}
    }
    assert tool.timeout_s > 5


def test_it_offers_what_it_finds_and_what_is_declared(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    (offer,) = offers(probe(OFFERS), ws)
    assert offer == Offer(tool="probe", args={"word": ("a", "b"), "count": ("1", "2", "3")}, max_length=160)
    assert offers(probe("say(offers={})"), ws) == ()
    assert offers(probe("say(offers={'word': []})"), ws) == ()
    assert offers(probe("say(offers={'word': ['', 'x\\ny', 'z' * 161]})"), ws) == (), "nothing that may be said"
    assert offers(probe("say(error='not now')"), ws) == ()
    (many,) = offers(probe("say(offers={'word': [str(n % 500) for n in range(1000)]})"), ws)
    assert len(many.args["word"] or ()) == 200
    free = DECLARED.replace("offered = true", "max_length = 40")
    assert offers(probe("say()", free), ws)[0].args["word"] is None
    nothing = '[tool]\nname = "probe"\nsummary = "count"\n[tool.result.n]\ntype = "integer"\n'
    assert offers(probe("say()", nothing), ws) == (), "a tool without arguments is the host's to call"


def test_new_text_is_written_once(tmp_path: Path) -> None:
    tool = probe("say(result={'said': 'x'}, text=q['text'].replace('Email', 'e-mail'))")
    ws = workspace(tmp_path)
    assert call(tool, ws) == {"said": "x"}
    assert ws.changes() == {"docs/contact.md": b"# Contact\n\ne-mail us.\n"}
    call(tool, ws)
    assert ws.changes() == {"docs/contact.md": b"# Contact\n\ne-mail us.\n"}


REFUSED = {
    "grows": ("say(result={'said': 'x'}, text=q['text'] + '!')", "once more"),
    "control": ("say(result={'said': 'x'}, text='a\\x1bb')", "x1b"),
    "surrogate": ('print(\'{"result": {"said": "x"}, "text": "\\\\ud800"}\')', "no answer"),
    "large": ("say(result={'said': 'x'}, text='x' * 2_000_000)", "more than"),
    "no json": ("print('done')", "no answer"),
    "two": ("print('{}{}')", "no answer"),
    "deep": ("print('[' * 100_000)", "no answer"),
    "array": ("print('[]')", "no answer"),
    "unknown key": ("say(result={'said': 'x'}, shell='rm')", "no answer: shell"),
    "nothing": ("", "no answer"),
    "no result": ("say()", "does not fit"),
    "wrong type": ("say(result={'said': 1})", "does not fit: said"),
    "more": ("say(result={'said': 'x', 'more': 1})", "does not fit: more"),
    "long": ("say(result={'said': 'x' * 4001})", "does not fit: said"),
    "refusal": ("say(error='no such\\nword \\x1b')", r"refused by: probe: no such\\nword \\x1b"),
    "exit": ("print('gone wrong', file=sys.stderr); sys.exit(3)", "gone wrong"),
    "raise": ("raise KeyError('word')", "KeyError: 'word'"),
    "flood": ("while True: print('x' * 65536)", "ended|printed too much"),
    "memory": ("x = bytearray(2 << 30)", "MemoryError|memory"),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_whatever_else_it_does_is_refused_and_changes_nothing(tmp_path: Path, name: str) -> None:
    script, why = REFUSED[name]
    ws = workspace(tmp_path)
    with pytest.raises(ToolError, match=why) as caught:
        call(probe(script), ws)
    assert caught.value.render().isprintable() or "\n" not in str(caught.value)
    assert ws.changes() == {}


def test_a_call_ends_in_time(tmp_path: Path) -> None:
    slow = DECLARED.replace("timeout_s = 5", "timeout_s = 0.5")
    with pytest.raises(ToolError, match="longer than"):
        call(probe("import time\ntime.sleep(60)", slow), workspace(tmp_path))


def test_text_of_a_tool_that_does_not_edit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no edits"):
        call(
            probe("say(result={'said': 'x'}, text='new')", DECLARED.replace("edits = true\n", "")), workspace(tmp_path)
        )


def test_a_file_that_parsed_still_parses(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "x = 1\n", "a.py")
    with pytest.raises(ToolError, match="does not parse"):
        call(probe("say(result={'said': 'x'}, text='x = (')"), ws)
    assert ws.changes() == {}


def test_it_sees_no_network_no_repository_and_no_home(tmp_path: Path) -> None:
    script = f"""
import os, socket
found = []
for path in ({str(ROOT)!r} + '/pyproject.toml', {str(tmp_path)!r}, os.path.expanduser('~/.gitconfig'), '/etc/shadow'):
    found += [path] if os.path.exists(path) else []
for path in ('/tool/probe.py', '/usr/x', '/x'):
    try: open(path, 'a'); found.append(path)
    except OSError: pass
try: socket.create_connection(('192.0.2.1', 80), 1); found.append('net')
except OSError as error: found.append(type(error).__name__)
say(result={{'said': ' '.join(found)}})
"""
    assert call(probe(script), workspace(tmp_path))["said"] == "OSError"


def test_a_file_that_was_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    tool = probe("import time\ntime.sleep(0.5)\nsay(result={'said': 'x'}, text=q['text'].replace('Email', 'e-mail'))")
    ws = workspace(tmp_path)

    async def both() -> None:
        running = tool.run(ws, tool.args.model_validate(dict(tool.example)))
        assert inspect.isawaitable(running)
        task = asyncio.ensure_future(running)
        await asyncio.sleep(0.3)
        ws.write(ws.target, PAGE.replace("us.", "them.").encode())
        await task

    asyncio.run(both())
    assert ws.read(ws.target) == b"# Contact\n\ne-mail them.\n"


def test_any_program_will_do(tmp_path: Path) -> None:
    declared = DECLARED.replace("edits = true", 'run = ["{tool}", "x"]\nprogram = "probe.sh"')
    script = b'#!/bin/sh\ncat >/dev/null\necho \'{"result": {"said": "\'$1\'"}}\'\n'
    files = {"probe.toml": declared.encode(), "probe.sh": script}
    assert call(load_all(files)["probe"], workspace(tmp_path)) == {"said": "x"}


BAD = {
    "no toml": ("[tool\n", ":1: not TOML"),
    "no table": ('name = "probe"\n', ":1: the file has one table"),
    "a table more": (DECLARED + "[other]\n", ":14: the file has one table"),
    "key": (DECLARED.replace("timeout_s", "timeout"), ":5: unknown key 'timeout'; .*did you mean 'timeout_s'"),
    "type": (DECLARED.replace('"string"', '"text"'), ":13: .*'string', 'integer', 'boolean' or 'strings'"),
    "name": (DECLARED.replace('"probe"', '"other"'), ":2: it is named 'other', and the file 'probe'"),
    "no name": (DECLARED.replace('"probe"', '"a b"'), ":2: name"),
    "run": (DECLARED.replace("edits = true", 'run = ["cat"]'), r":4: no word of run is \{tool\}"),
    "both": (DECLARED.replace("offered = true", 'offered = true\nchoices = ["a"]'), ":8: give choices, or"),
    "choices": (DECLARED.replace("[1, 2, 3]", '["one", 2]'), ":11: each choice is integer"),
    "example": (DECLARED.replace("count = 2 }", "count = 9 }"), ":6: count: .*not one of 1, 2, 3"),
    "example's key": (DECLARED.replace('word = "a", ', ""), ":6: word: Field required"),
    "argument tool": (DECLARED.replace("args.word", "args.tool").replace("word =", "tool ="), "'tool' cannot be"),
    "argument json": (DECLARED.replace("args.word", "args.json").replace("word =", "json ="), "'json' cannot be"),
    "no result": (DECLARED.partition("[tool.result")[0], ": result: Field required"),
    "timeout": (DECLARED.replace("timeout_s = 5", "timeout_s = 5000"), ":5: timeout_s: .*300"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_declaration_is_told_with_its_line(name: str) -> None:
    declared, why = BAD[name]
    with pytest.raises(ConfigError, match=why) as caught:
        load(declared.encode(), b"", PATH)
    assert caught.value.path == PATH


def test_a_tool_needs_its_program_and_a_name_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"probe.toml:2: there is no program 'probe.py' beside it"):
        load_all({"probe.toml": DECLARED.encode()})
    with pytest.raises(ConfigError, match="is there already"):
        load_all({"search.toml": DECLARED.replace("probe", "search").encode(), "search.py": b""}, TOOLS)
    assert list(load_all({"probe.toml": DECLARED.encode(), "probe.py": b"", "other.py": b"", "README": b""})) == [
        "probe"
    ]


def test_its_schemas_are_like_those_of_any_tool() -> None:
    told = schemas.describe(probe(""))
    assert told["guided"]["properties"] == {
        "tool": {"const": "probe"},
        "word": {"type": "string", "minLength": 1, "maxLength": 160},
        "count": {"enum": ["1", "2", "3"]},
    }
    jsonschema.validate({"word": "a", "count": 2}, told["openai"]["function"]["parameters"])
    assert told["card"].endswith('{"tool":"probe","word":"a","count":"2"}')


# --- the scaffold ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scaffold(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`templates/new/tool` as a repository gets it."""
    folder = tmp_path_factory.mktemp("repository") / ".pantheon/tools"
    folder.mkdir(parents=True)
    for file in (ROOT / "templates/new/tool").iterdir():
        text = file.read_text(encoding="utf-8").replace("{name}", "tidy_word")
        (folder / file.name.replace("tool.", "tidy_word.")).write_text(text, encoding="utf-8")
    return folder


def test_the_scaffold_passes_its_own_tests(scaffold: Path) -> None:
    assert sorted(file.name for file in scaffold.iterdir()) == ["test_tidy_word.py", "tidy_word.py", "tidy_word.toml"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ".pantheon/tools"],
        cwd=scaffold.parents[1],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


WORDS = st.sampled_from(["Email", "EMAIL", "e-mail", "emails", "E-Mails", "mail", "us", "\n", "{x}"])


@settings(deadline=None, max_examples=8, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=st.lists(WORDS, min_size=1, max_size=8).map(" ".join), pick=st.data())
def test_the_scaffold_holds_for_any_text(
    scaffold: Path, tmp_path_factory: pytest.TempPathFactory, text: str, pick: st.DataObject
) -> None:
    files = {file.name: file.read_bytes() for file in scaffold.iterdir() if file.is_file()}
    tool = load_all(files)["tidy_word"]
    ws = workspace(tmp_path_factory.mktemp("work"), text)
    for offer in offers(tool, ws):
        args = {name: pick.draw(st.sampled_from(values or ("x",))) for name, values in offer.args.items()}
        assert call(tool, ws, **args)["changed"] > 0
        after = ws.read(ws.target)
        assert after != text.encode()
        assert call(tool, ws, **args)["changed"] == 0
        assert ws.read(ws.target) == after
