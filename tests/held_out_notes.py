"""A repository of notes of which some are held out, and an engine whose answers depend on the adapter that is asked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from adapter_files import card_of, write_adapter
from conftest import MakeRepo
from test_night import TASK, WHEN

from pantheon import adapters, desk
from pantheon.engine import ScriptedEngine
from pantheon.families import HELD_OUT, place
from pantheon.git import Repo
from pantheon.lessons import Card
from pantheon.records import Runtime

AGENT = "doc.frontmatter"
FILE = f".pantheon/agents/{AGENT}.toml"
SHARE = 0.25  # of targets, by default
THINGS = "anchor buoy cleat dinghy ebb fender gull hull inlet jetty keel ladder mast net oar pier quay rudder sail tide"
HELD = tuple(f"docs/{a}-{b}.md" for a in THINGS.split() for b in ("log", "list", "plan"))
HELD = tuple(path for path in HELD if place(path, HELD_OUT) < SHARE)
TAUGHT = tuple(path for n in range(40) if place(path := f"docs/taught-{n}.md", HELD_OUT) >= SHARE)[:3]


def note(path: str) -> str:
    """A note without front matter, whose words are its own."""
    name = Path(path).stem.replace("-", " ")
    words = " ".join(f"{name.replace(' ', '')}{n}" for n in range(30))
    return f"# The {name}\n\nThe {name} is kept by the harbour office and read every night. {words}.\n"


def build(make_repo: MakeRepo, held: int, **more: str) -> Repo:
    """A repository with so many held-out notes and three others, and a task for all of them."""
    notes = {path: note(path) for path in (*HELD[:held], *TAUGHT)}
    return Repo.discover(make_repo({**notes, "docs/tasks/tidy.md": TASK, **more}))


def add_adapter(repo: Repo, number: int = 1, **changed: Any) -> Card:
    """An adapter that is there with its card; `number` tells it from others."""
    place_ = repo.root.parent / f"made-{number}"
    write_adapter(place_, {"lora_alpha": 8 + number})
    digest, _ = adapters.keep(repo, AGENT, place_)
    shutil.rmtree(place_)
    card = card_of(AGENT, digest, **changed)
    adapters.write_card(repo, card, WHEN, desk.signer(repo))
    return card


class Learned(ScriptedEngine):
    """Answers by adapter: of the notes named in `fails` the voice with that adapter gives no answer that counts.
    `asked`: how often each voice of the agent was asked."""

    def __init__(self, fails: Mapping[str | None, Collection[str]], adapter: str | None = None) -> None:
        super().__init__(self._said)
        self._fails, self._adapter = fails, adapter
        self.asked: dict[str | None, int] = {}

    def of(self, runtime: Runtime) -> ScriptedEngine:
        voice = Learned(self._fails, runtime.adapter)
        voice.asked = self.asked
        return voice

    def _said(self, prompt: str, schema: dict[str, Any]) -> str | None:
        if "set_field" not in json.dumps(schema):
            return None
        self.asked[self._adapter] = self.asked.get(self._adapter, 0) + 1
        user = prompt.rpartition("<user>")[2]
        return "no answer" if any(path in user for path in self._fails.get(self._adapter, ())) else None
