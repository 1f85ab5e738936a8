"""{name} on its own example, the way it is run at night but without the sandbox: pytest .pantheon/tools"""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

PROGRAM = Path(__file__).with_name("{name}.py")
TOOL = tomllib.loads(PROGRAM.with_suffix(".toml").read_text(encoding="utf-8"))["tool"]
TEXT = "# Contact\n\nEmail us, or write an Email to the desk.\n"


def ask(kind, text, args):
    question = {"ask": kind, "args": args, "path": "docs/contact.md", "text": text, "focus": ""}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], input=json.dumps(question).encode(), capture_output=True, timeout=30, check=True
    )
    return json.loads(done.stdout)


def test_its_example_is_among_what_it_offers():
    assert TOOL["example"]["word"] in ask("offer", TEXT, {})["offers"]["word"]


def test_its_example_gives_the_declared_result():
    answer = ask("run", TEXT, TOOL["example"])
    assert set(answer["result"]) == set(TOOL["result"])
    assert answer["text"] == "# Contact\n\ne-mail us, or write an e-mail to the desk.\n"


def test_the_same_call_again_changes_nothing():
    once = ask("run", TEXT, TOOL["example"])["text"]
    assert ask("run", once, TOOL["example"])["text"] == once
    assert ask("offer", once, {})["offers"] == {}
