"""What runs inside the sandbox of bench/sequential.py: the agent loop, and the one command that its model can give.

    python sequential_inside.py drive      with the agent's own Python: mini-swe-agent over the jobs, one by one
    python sequential_inside.py note ...   with the project's Python, for the model: set fields, say what is still wrong

There is no network: the model is reached over a Unix socket, which a small bridge offers to the agent on loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ENGINE, BASE, ROOM, WORK = Path("/run/engine/engine.sock"), Path("/base"), Path("/room"), Path("/work")
JOBS, RULES, RESULTS = ROOM / "jobs.json", ROOM / "rules.toml", WORK / "results.jsonl"
DONE = "COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT"  # mini-swe-agent's word: an output that begins with it ends the item
PORT = 8000


# --- the loop --------------------------------------------------------------------------------------------------------


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    with contextlib.suppress(OSError):
        writer.close()


async def _bridged(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    there, here = await asyncio.open_unix_connection(str(ENGINE))
    await asyncio.gather(_pipe(reader, here), _pipe(there, writer))


def bridge() -> None:
    """Offer the engine's socket on loopback, which only this sandbox has."""

    async def serve(ready: threading.Event) -> None:
        server = await asyncio.start_server(_bridged, "127.0.0.1", PORT)
        ready.set()
        await server.serve_forever()

    ready = threading.Event()
    threading.Thread(target=lambda: asyncio.run(serve(ready)), daemon=True).start()
    ready.wait()


def drive() -> None:
    """Every job through a fresh agent, one after the other; a line of results after each."""
    orders = json.loads(JOBS.read_text())
    if orders["packaged"]:
        orders = _as_packaged(orders)
    model_of = importlib.import_module("minisweagent.models.litellm_textbased_model").LitellmTextbasedModel
    room_of = importlib.import_module("minisweagent.environments.local").LocalEnvironment
    agent_of = importlib.import_module("minisweagent.agents.default").DefaultAgent
    bridge()
    for job in orders["jobs"]:
        place = WORK / job["name"]
        began = time.monotonic()
        shape = {"structured_outputs": {"regex": job["regex"]}} if job["regex"] else {}
        more = {"api_base": f"http://127.0.0.1:{PORT}/v1", "api_key": "none", "extra_body": shape}
        asked = {"model_name": "hosted_vllm/default", "cost_tracking": "ignore_errors"}
        model = model_of(**asked, model_kwargs=orders["asked"] | more, **orders["model"])
        seen = {"NOTE": str(place), "PATH": f"{ROOM}:{os.environ['PATH']}", "PAGER": "cat"}
        room = room_of(cwd=str(place / "tree"), env=seen)
        agent = agent_of(model, room, output_path=place / "trajectory.json", **orders["agent"])
        try:
            why = agent.run(job["prompt"]).get("exit_status", "")
        except Exception as error:  # noqa: BLE001 - whatever stops one item must not stop the others
            why = type(error).__name__
        line = {"name": job["name"], "ended": why, "seconds": time.monotonic() - began, **told(agent.messages)}
        with RESULTS.open("a") as out:
            out.write(json.dumps(line) + "\n")


def _as_packaged(orders: dict[str, Any]) -> dict[str, Any]:
    """The orders with the templates that the agent brings for models that are asked for plain text."""
    package = Path(str(importlib.import_module("minisweagent").__file__)).parent
    found = importlib.import_module("yaml").safe_load((package / "config" / "mini_textbased.yaml").read_text())
    names = ("system_template", "instance_template")
    agent = orders["agent"] | {name: found["agent"][name] for name in names}
    model = {name: value for name, value in found["model"].items() if name != "model_kwargs"}
    return orders | {"agent": agent, "model": model}


def told(messages: Sequence[dict[str, Any]]) -> dict[str, int]:
    """What a conversation says of itself: steps (answers of the model), answers in no form, commands that failed."""
    extras = [one.get("extra", {}) for one in messages]
    malformed = sum(extra.get("interrupt_type") == "FormatError" for extra in extras)
    answers = sum(one.get("role") == "assistant" for one in messages)
    failed = sum(extra.get("returncode", 0) not in (0, None) for extra in extras)
    return {"steps": answers + malformed, "malformed": malformed, "failed": failed}


# --- the model's command ---------------------------------------------------------------------------------------------


def note(words: Sequence[str]) -> int:
    """`note --FIELD VALUE ... [--name FILE]`: set fields of the item's note, then say what the checks say of it.
    Without anything it only says that."""
    place = Path(os.environ["NOTE"])
    state = json.loads((place / "state.json").read_text())
    tools = _Tools(place / "tree", state["target"], state["now"], tuple(state["inbound"]))
    values = dict(zip(words[0::2], words[1::2], strict=False))
    problems = (tools.set(values) if words else []) if len(words) % 2 == 0 else ["usage: note --FIELD VALUE ..."]
    (place / "state.json").write_text(json.dumps({**state, "now": tools.now}))
    problems = problems or tools.problems()
    print("\n".join(problems) or DONE)
    return 1 if problems else 0


class _Tools:
    """One note on disk: `target` in the base tree, `now` where it lies now, `inbound` the files that link to it."""

    def __init__(self, tree: Path, target: str, now: str, inbound: Sequence[str]) -> None:
        from pantheon.tools.rules import parse_rules  # the loop's own Python has no pantheon

        self.tree, self.target, self.now, self.inbound = tree, target, now, inbound
        self.rules = parse_rules(RULES.read_bytes())

    def set(self, values: dict[str, str]) -> list[str]:
        """Put the fields in, the certain ones that follow from them too, and rename the note; what was refused."""
        from pantheon.errors import InputError
        from pantheon.frontmatter import parse, set_field
        from pantheon.tools.facts import Facts
        from pantheon.tools.repair import repair

        path = self.tree / self.now
        raw = path.read_bytes()
        try:
            for option, value in values.items():
                field = option.removeprefix("--")
                rule = self.rules.field.get(field)
                if option == "--name":
                    continue
                if rule is None:
                    return [f"{option}: there is no such field"]
                listed = [part.strip() for part in value.split(",") if part.strip()]
                doc = parse(raw, self.now)
                raw = set_field(doc, field, listed if rule.type == "list" else value, order=self.rules.order)
            raw, _ = repair(self.target, raw, self.rules, Facts())
        except InputError as error:
            return [error.why]
        path.write_bytes(raw)
        return self._rename(values["--name"]) if "--name" in values else []

    def _rename(self, name: str) -> list[str]:
        from pantheon.tools import links
        from pantheon.tools.disk import walk

        new = str(Path(self.now).parent / name)
        if "/" in name or (self.tree / new).exists():
            return [f"--name: {name} is taken"] if new != self.now else []
        tree, moved = links.Tree(tuple(walk(str(self.tree)))), {self.now: new}
        for path in {self.now, *self.inbound}:
            file = self.tree / path
            file.write_bytes(links.rewrite(file.read_bytes(), path, moved, tree))
        (self.tree / self.now).rename(self.tree / new)
        self.now = new
        return []

    def problems(self) -> list[str]:
        """What the checks say, without their paths and lines: `description is missing`."""
        from pantheon.tools.check import CHECKS, Trees
        from pantheon.tools.disk import Exported

        if not (self.tree / self.now).is_file():
            return [f"{self.now} is gone"]
        trees = Trees(Exported(str(BASE)), self.rules, Exported(str(self.tree)))
        targets = [self.now, *(self.inbound if self.now != self.target else ())]
        return [what for check in CHECKS.values() for _, _, _, what in check(trees, targets)]


if __name__ == "__main__":
    if sys.argv[1] == "drive":
        drive()
    else:
        sys.exit(note(sys.argv[2:]))
