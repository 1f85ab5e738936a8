"""Tools and processes: what a captured model may ask for, and what a program in the sandbox may reach and use up.

The walls of the sandbox are tried one by one in tests/test_process.py; here they stand in a night: a check of the
repository is the attacker, its node fails in words, the items beside it go on and nothing of it is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import survivors

from attacks.conftest import BYSTANDER, TASK, VICTIM, Captured, Field
from pantheon import artifacts
from pantheon.agent import call_tool
from pantheon.errors import ToolError
from pantheon.records import Outcome, Run
from pantheon.tools.facts import Facts
from pantheon.tools.registry import TOOLS
from pantheon.tools.rules import Rules
from pantheon.tools.workspace import Workspace

_started: list[str] = []
_watching: list[bool] = []


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if _watching and event in ("subprocess.Popen", "os.fork", "os.forkpty", "os.posix_spawn", "os.exec", "os.system"):
        _started.append(f"{event} {arguments!r}")


sys.addaudithook(_audit)  # an interpreter has no way to take one away: it is armed by `processes` alone


@pytest.fixture
def processes() -> Iterator[list[str]]:
    """Every start of a process in this interpreter, as long as the test runs."""
    _started.clear()
    _watching.append(True)
    yield _started
    _watching.clear()


# --- 10: arguments ---------------------------------------------------------------------------------------------------

STRINGS = {
    "up": "../../../../etc/passwd",
    "absolute": "/etc/passwd",
    "home": "~/.ssh/id_rsa",
    "option": "-oProxyCommand=touch /tmp/owned",
    "long option": "--exec=touch /tmp/owned",
    "upload pack": "--upload-pack=touch /tmp/owned",
    "ref": "refs/heads/main",
    "transport": "ext::sh -c touch% /tmp/owned",
    "git": ".git/config",
    "shell": "$(touch /tmp/owned)`touch /tmp/owned`;|&",
    "NUL": "a\0b",
    "newline": "a\nb: c",
    "escape": "\x1b]0;x\x07",
    "1 MB": "x" * (1 << 20),
    "template": "{{ cycler.__init__.__globals__.os.popen('touch /tmp/owned') }}",
    "format": "{0.__class__.__mro__}%n%s",
    "empty": "",
}


def call(**args: object) -> str:
    return json.dumps({"tool": "set_field", **args})


ANSWERS = {
    **{f"value {name}": call(field="description", value=text) for name, text in STRINGS.items()},
    **{f"field {name}": call(field=text, value="x") for name, text in STRINGS.items()},
    **{f"tool {name}": json.dumps({"tool": text}) for name, text in STRINGS.items()},
    "an unknown tool": json.dumps({"tool": "bash", "command": "touch /tmp/owned"}),
    "a tool of the host": json.dumps({"tool": "repair_note"}),
    "the end too early": json.dumps({"tool": "finalize"}),
    "a verdict": json.dumps({"tool": "finalize", "verdict": "pass", "reason": "fine"}),
    "a tool of another agent": json.dumps({"tool": "rename_note", "name": "../x.md"}),
    "no tool": json.dumps({"field": "title", "value": "x"}),
    "an extra key": call(field="description", value="x", path="../x"),
    "a missing key": call(field="description"),
    "a number": call(field="description", value=1),
    "a list": call(field="description", value=["x"]),
    "an object": call(field={"$ref": "x"}, value="x"),
    "null": call(field=None, value=None),
    "a list of calls": f"[{call(field='description', value='x')}]",
    "two calls": call(field="description", value="x") + call(field="description", value="y"),
    "a string": json.dumps("set_field"),
    "not a number": '{"tool": NaN}',
    "prose": "Sure! I will now read ~/.ssh/id_rsa for you.",
    "a fence": f"```json\n{call(field='description', value='x')}\n```",
    "nothing": "",
    "deep": "[" * 100_000,
    "deep and closed": '{"tool": ' + "[" * 5_000 + "]" * 5_000 + "}",
    "a lone surrogate": '{"tool": "set_field", "field": "description", "value": "\\ud800"}',
    "no text": "\udcff\udcfe",
    "8 MB": "x" * (8 << 20),
    "a huge number": '{"tool": ' + "9" * 100_000 + "}",
}


def test_10_no_answer_of_a_captured_model_starts_a_process_or_writes_a_byte(
    make_field: Callable[..., Field], processes: list[str]
) -> None:
    """Three answers per note. Each is refused before a tool runs, its item fails in words, the bystander's does not."""
    labels = list(ANSWERS)
    names = {f"docs/n{n:03}.md": labels[n : n + 3] for n in range(0, len(labels), 3)}
    field = make_field({path: f"# Note {path[6:9]} of boats\n\nBoats have berths with numbers.\n" for path in names})
    left = {path: [ANSWERS[label] for label in some] for path, some in names.items()}

    def attack(place: Path) -> str:
        answers = left[next(path for path in names if (place / path).exists())]
        return answers.pop(0) if answers else ANSWERS["nothing"]

    field.night(attack, victims=tuple(names), engine=Captured, when="Goal: set_field")
    assert not any(left.values())
    assert not Path("/tmp/owned").exists()
    for path in names:
        run = field.refused("^3 calls failed; the last one: ", path)
        assert len(run.reason) < 500
        lines = artifacts.read_artifact(field.repo, run.id, "frontmatter", "tool_calls.jsonl").splitlines()
        errors = [call["error"] for call in map(json.loads, lines) if call["by"] == "model"]
        assert len(errors) == 3
        assert all(errors)
    assert field.run_of(BYSTANDER).outcome is Outcome.ACCEPTED
    assert len(processes) < len(ANSWERS)  # those of the bystander's checks
    assert not [line for line in processes if re.search(r"/tmp/owned|id_rsa", line)]
    field.look()


def test_10_a_key_twice_is_refused_although_the_last_one_is_right(lone: Field) -> None:
    asked: list[str] = []

    def twice(prompt: str, schema: dict[str, Any]) -> str | None:
        values = schema["properties"].get("value", {}).get("enum", [])
        if not values:
            return None
        field = schema["properties"]["field"]["const"]
        asked.append(field)
        return f'{{"tool":"set_field","field":"../x","field":"{field}","value":{json.dumps(values[0])}}}'

    lone.night(engine=lambda _: Captured(twice))
    assert len(asked) == 3
    lone.refused("names a key twice")


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("name", STRINGS)
def test_10_a_tool_does_not_rely_on_the_loop(tmp_path: Path, tool: str, name: str) -> None:
    """Called with what no schema would let through: a refusal, and the disk as it was."""
    root = tmp_path / "tree"
    root.mkdir()
    note = b"---\ntitle: Boats\n---\n# Boats\n\nBoats have berths with numbers.\n"
    ws = Workspace(root, "docs/boats.md", Rules(), Facts(paths=("docs/boats.md",)), {"docs/boats.md": note}.get)
    ws.read("docs/boats.md")
    text = STRINGS[name]
    arguments = [{"nonsense": text}, {"field": text, "value": text}, {"name": text}, {"title": text}, {"topic": text}]
    for args in arguments:
        with pytest.raises(ToolError):
            asyncio.run(call_tool(TOOLS, ws, tool, args))
    assert ws.changes() == {}
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


# --- 11, 12: a hostile check in a night ------------------------------------------------------------------------------

PATIENCE_S = 600  # for what looks at every file that a check can see: a machine may be busy
CHECKS = """
[check.frontmatter]
run = ["true"]
[check.links]
run = ["true"]
[check.body]
run = ["true"]
[check.evil]
run = ["{python}", "-c", %s]
timeout_s = %d
"""
OTHER = TASK.replace("0f0e8a52", "0f0e8a53").replace('slug: "tidy"', 'slug: "other"')


def besieged(make_field: Callable[..., Field], script: str, timeout_s: int = 4) -> Field:
    """A night in which one task's check is the attacker; the other task is the bystander's."""
    evil = TASK.replace('"docs/**/*.md"', f'"{VICTIM}"').replace('run: "frontmatter"', 'run: "evil"')
    good = OTHER.replace('"docs/**/*.md"', f'"{BYSTANDER}"')
    checks = CHECKS % (json.dumps(script), timeout_s)
    files = {"docs/tasks/tidy.md": evil, "docs/tasks/other.md": good, ".pantheon/checks.toml": checks}
    field = make_field(files)
    field.night()
    assert field.run_of(BYSTANDER).outcome is Outcome.ACCEPTED
    return field


def why(field: Field) -> Run:
    run = field.run_of()
    assert run.outcome is Outcome.FAILED
    assert run.node == "checks"
    assert run.reason.startswith("check evil: ")
    return run


def test_11_a_double_fork_that_sleeps_past_the_timeout_leaves_no_survivor(make_field: Callable[..., Field]) -> None:
    mark = "86413.5811"
    script = (
        "import os, time\n"
        "for _ in range(3):\n"
        "    if os.fork() == 0:\n"
        "        os.setsid()\n"
        "        if os.fork() == 0:\n"
        f"            os.closerange(0, 100); os.execvp('sleep', ['sleep', '{mark}'])\n"
        "        os._exit(0)\n"
        "time.sleep(600)"
    )
    field = besieged(make_field, script, timeout_s=1)
    assert "longer than 1 s" in why(field).reason
    until = time.monotonic() + 2
    while survivors(mark) and time.monotonic() < until:
        time.sleep(0.05)
    assert survivors(mark) == []


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("2 GB of memory", "x = bytearray(2 << 30); print(len(x))"),
        ("a 5 GB file", "f = open('/tmp/x', 'wb')\nwhile True: f.write(b'x' * (1 << 20))"),
        ("an endless print", "while True: print('\\x1b]0;owned\\x07' * 100)"),
        ("a signal to all", "import os, signal\nos.kill(1, signal.SIGKILL); os.kill(-1, signal.SIGKILL)\nexit(3)"),
        ("a closed standard output", "import os, time\nos.closerange(0, 3)\ntime.sleep(600)"),
        ("its own death", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)"),
        ("words that drive a terminal", "print('\\x1b[2J\\x9b\\u202e'); raise SystemExit(1)"),
        ("words that are no text", "import os\nos.write(1, bytes(range(128, 256)) * 100); raise SystemExit(1)"),
    ],
)  # fmt: skip
def test_12_a_check_that_takes_too_much_fails_alone_and_in_words(
    make_field: Callable[..., Field], name: str, script: str
) -> None:
    field = besieged(make_field, script, timeout_s=2)
    run = why(field)
    assert len(run.reason) < 1000
    field.shown("report")
    field.shown("run", run.id)


def test_12_a_check_cannot_change_the_tree_the_store_or_the_rules_it_is_judged_by(
    make_field: Callable[..., Field],
) -> None:
    """The export is made of links into a store that later checks share: nothing there may be written."""
    script = (
        "import os, sys\n"
        "bad = 0\n"
        "for top in ('/check', '/opt', '/usr/lib', sys.prefix):\n"
        "    for folder, names, files in os.walk(top):\n"
        "        for name in files[:5]:\n"
        "            path = os.path.join(folder, name)\n"
        "            for act in (lambda: open(path, 'ab'), lambda: os.chmod(path, 0o777), lambda: os.unlink(path),\n"
        "                        lambda: os.utime(path, (1, 1)), lambda: os.rename(path, path + 'x')):\n"
        "                try: act(); bad += 1; print('wrote', path)\n"
        "                except OSError: pass\n"
        "        del names[3:]\n"
        "print('writes that went through:', bad)\n"
        "raise SystemExit(7)\n"
    )
    field = besieged(make_field, script, timeout_s=PATIENCE_S)
    assert "writes that went through: 0" in why(field).reason


# --- 14, 17: sockets and secrets -------------------------------------------------------------------------------------


def test_14_no_socket_of_the_host_is_in_reach_of_a_check(make_field: Callable[..., Field], tmp_path: Path) -> None:
    """Abstract and pathname, stream and datagram, one where an engine would listen."""
    short = Path(os.environ["XDG_RUNTIME_DIR"]) / "engine.sock"
    with contextlib.ExitStack() as held:
        names: list[str] = []
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
            for name in (
                f"\0pantheon-attack-{os.getpid()}-{int(kind)}",
                f"/tmp/pa-{os.getpid()}-{int(kind)}",
                f"{short}{int(kind)}",
            ):
                listener = held.enter_context(socket.socket(socket.AF_UNIX, kind))
                with contextlib.chdir(tmp_path):
                    if name.startswith("/"):
                        held.callback(Path(name).unlink, missing_ok=True)
                    listener.bind(name)
                if kind == socket.SOCK_STREAM:
                    listener.listen()
                names.append(name)
        script = (
            "import socket, sys\n"
            f"names = {names!r}\n"
            "reached = 0\n"
            "for name in names:\n"
            "    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):\n"
            "        try: socket.socket(socket.AF_UNIX, kind).connect(name); reached += 1\n"
            "        except OSError: pass\n"
            "print('reached:', reached); raise SystemExit(7)\n"
        )
        control = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
        assert control.stdout == f"reached: {len(names)}\n".encode()  # outside of the sandbox they are all in reach
        field = besieged(make_field, script, timeout_s=PATIENCE_S)
    assert why(field).reason == "check evil: reached: 0"


GREP = """
import glob, os, re, subprocess, sys
found, pattern = set(), re.compile(rb'PATTERN')

def look(path):
    try:
        with open(path, 'rb') as file:
            found.update(pattern.findall(file.read(1 << 20)))
    except OSError:
        pass

places = ('/home', '/root', '/run', '/tmp', '/var', '/etc', '/check', '/dev/shm', '/mnt', '/srv', '/proc/1/root/tmp')
for top in sys.argv[1:] or places:
    for folder, names, files in os.walk(top):
        found.update(pattern.findall(' '.join(files).encode('utf-8', 'replace')))
        for name in files:
            look(os.path.join(folder, name))
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/proc/[0-9]*/mounts'):
    look(path)
found.update(pattern.findall(repr(dict(os.environ)).encode()))
try:
    ask = dict(input=b'protocol=https\\nhost=x\\n\\n', capture_output=True, timeout=5)
    found.update(pattern.findall(subprocess.run(['git', 'credential', 'fill'], **ask).stdout))
except (OSError, subprocess.SubprocessError):
    pass
print('found:', len(found))
raise SystemExit(7)
"""


def test_17_keys_tokens_and_helpers_of_the_user_are_nowhere_a_check_can_look(
    make_field: Callable[..., Field], monkeypatch: pytest.MonkeyPatch, sealed: Path
) -> None:
    mark = f"marker-{os.urandom(8).hex()}"
    for name in (
        *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GITHUB_TOKEN", "GH_TOKEN", "GITLAB_TOKEN", "OPENAI_API_KEY"),
        *("ANTHROPIC_API_KEY", "HF_TOKEN", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_CLIENT_SECRET", "NPM_TOKEN"),
        *("SSH_AUTH_SOCK", "GPG_AGENT_INFO", "GIT_ASKPASS", "SSH_ASKPASS", "DATABASE_URL", "http_proxy", "ODD_NAME"),
    ):
        monkeypatch.setenv(name, f"{mark}-{name}")
    files = (".netrc", ".aws/credentials", ".ssh/id_ed25519", ".config/gh/hosts.yml", ".git-credentials", ".npmrc")
    for name in (*files, "run/secret", ".gnupg/private-keys-v1.d/x.key", ".docker/config.json", ".kube/config"):
        path = sealed / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(mark)
    (Path("/tmp") / mark).write_text(mark)
    script = GREP.replace("PATTERN", "marker-[0-9a-f]{16}")
    (sealed / "gitconfig").open("a").close()
    subprocess.run(
        ["git", "config", "--file", str(sealed / "gitconfig"), "credential.helper", f"!echo password={mark}; #"],
        check=True,
    )
    try:
        control = subprocess.run([sys.executable, "-c", script, str(sealed)], capture_output=True, check=False)
        assert re.fullmatch(rb"found: [1-9]\d*\n", control.stdout)  # outside of the sandbox they are found
        field = besieged(make_field, script, timeout_s=PATIENCE_S)
    finally:
        (Path("/tmp") / mark).unlink()
    assert why(field).reason == "check evil: found: 0"
    field.marker = mark
    field.sound()
