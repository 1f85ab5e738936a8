"""`verify` on learning: the cards of adapters, the files that are here, and what a night says of both.

Owns what must be true of `refs/pantheon/adapters/<agent>`: each commit signed like all of ours, one card a commit, no
card changed but by a comparison. It spells names and digests itself: adapters.py, which writes them,
is not asked. Weights stay where they were trained: that they are not here is no fault.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pantheon.ledger import Ledger, merges
from pantheon.lessons import Card
from pantheon.reader import TREE_MODE, Commit, Unreadable
from pantheon.records import Night, PullRequest

CARDS = "refs/pantheon/adapters/"
NAME = r"[a-z0-9][a-z0-9._-]{0,59}"  # of an agent
FILES = ("adapter_config.json", "adapter_model.safetensors")
PROMPTS = ".pantheon/prompts"
MOST = 100  # changed paths: more are not told one by one
TRIALS = "trials.jsonl"  # of a comparison
_CARD = re.compile(r"([0-9a-f]{64})\.json", re.ASCII)
_EXTRA = re.compile(r"([0-9a-f]{64})/[^/]+", re.ASCII)


@dataclass
class Cards:
    """What the cards of a repository say, read once per agent. Give it the ledger of the verification."""

    ledger: Ledger
    common_dir: Path
    read: dict[str, dict[str, Card]] = field(default_factory=dict)
    hashed: set[tuple[str, str]] = field(default_factory=set)

    def all(self) -> None:
        """Every agent's cards, and the files of every adapter that has one."""
        for name in self.ledger.refs:
            if name.startswith(CARDS):
                agent = name.removeprefix(CARDS)
                for adapter in self.of(agent):
                    self.check_files(agent, adapter)

    def of(self, agent: str) -> dict[str, Card]:
        """adapter -> card, of the commits whose signature holds; the line of commits is checked on the way."""
        if agent not in self.read:
            self.read[agent] = {}
            ref = CARDS + agent
            line = (*self.ledger.line(ref), *self.ledger.strands(ref)) if ref in self.ledger.refs else ()
            for newer in line:
                self.ledger.step(f"{ref} {newer[:12]}")
                with suppress(Unreadable):
                    commit = self.ledger.store.commit(newer, ref)
                    if merges(commit):
                        self._check_joined(commit, f"{ref} in {newer}")
                        continue
                    counted = self._check(agent, newer, commit.parents[0] if commit.parents else None)
                    if self.ledger.holds(newer):
                        self.read[agent] = counted | self.read[agent]
            for adapter, card in self.read[agent].items():
                if card.parent is not None and card.parent not in self.read[agent]:
                    why = f"field parent: {card.parent[:19]} has no card that counts"
                    self.ledger.fault("card", f"{ref}, {_file(adapter)}", why)
        return self.read[agent]

    def _check_joined(self, commit: Commit, where: str) -> None:
        """A merge of what two clones added: each file as one of them had it, and none is gone."""
        store = self.ledger.store
        files = store.files(commit.tree, where)
        sides = [store.files(store.commit(parent, where).tree, where) for parent in commit.parents]
        for name in sorted({*files, *sides[0], *sides[1]}):
            if files.get(name) not in [side[name] for side in sides if name in side]:
                self.ledger.fault("card", f"{where}, {name}", "it is not what one of both sides had")

    def _check(self, agent: str, commit: str, before: str | None) -> dict[str, Card]:
        """One commit of an agent's line: it added or compared one card. What it changed counts where it is signed: a
        later signature does not cover what was there before."""
        ledger, ref = self.ledger, CARDS + agent
        found = ledger.store.commit(commit, ref)
        where = f"{ref} in {commit}"
        files = ledger.store.files(found.tree, where)
        older = ledger.store.files(ledger.store.commit(before, ref).tree, where) if before else {}
        changed = [name for name in files if files[name] != older.get(name)]
        cards = {name: card for name in changed if (card := self._card(agent, name, files, where)) is not None}
        for name in changed:
            if not _CARD.fullmatch(name) and not ((own := _EXTRA.fullmatch(name)) and f"{own[1]}.json" in files):
                ledger.fault("card", f"{where}, {name}", "it is no card, and stands beside none")
        for name in older.keys() - files.keys():
            ledger.fault("card", f"{where}, {name}", "it was taken away; cards are only added")
        touched = sorted(name for name in changed if _CARD.fullmatch(name))
        for name in changed:
            if name in older:
                self._check_change(agent, name, older, cards, where)
        if len(touched) == 1 and touched[0] in cards:
            card = cards[touched[0]]
            what = "compared" if card.comparison else "trained"
            message = f"adapter {agent}: {what} {touched[0][:12]}\n"
            if found.message != message:
                ledger.fault("card", where, f"its message is {found.message[:80]!r}, it {what} {touched[0][:12]}")
        elif len(touched) != 1:
            ledger.fault("card", where, f"it touches {len(touched)} cards, not one")
        return {card.adapter: card for card in cards.values()}

    def _card(self, agent: str, name: str, files: Mapping[str, str], where: str) -> Card | None:
        named = _CARD.fullmatch(name)
        if named is None:
            return None
        data = self.ledger.store.read(files[name], "blob", f"{where}, {name}")
        card = self.ledger.record(Card, data, "card", f"{where}, {name}")
        if card is None:
            return None
        self.ledger.one_file(data, "card", f"{where}, {name}")
        for said, expected, found in (
            ("agent", agent, card.agent),
            ("adapter", f"sha256:{named[1]}", card.adapter),
            ("dataset.agent", agent, card.dataset.agent.partition("@")[0]),
        ):
            if expected != found:
                self.ledger.fault("card", f"{where}, {name}", f"field {said}: expected {expected}, found {found}")
        return card

    def _check_change(
        self, agent: str, name: str, older: Mapping[str, str], cards: Mapping[str, Card], where: str
    ) -> None:
        """A file that was there before: a card may only get a comparison, its trials go with it, all else stays."""
        ledger, card = self.ledger, cards.get(name)
        if _CARD.fullmatch(name) is None:
            stem, _, rest = name.partition("/")
            if rest != TRIALS or f"{stem}.json" not in cards:
                ledger.fault("card", f"{where}, {name}", "it was changed; what stands beside a card stays")
            return
        was = ledger.record(Card, ledger.store.read(older[name], "blob", f"{where}, {name}"), "card", where)
        if was is None or card is None:
            return
        if was.comparison is not None and card.comparison is not None:
            ledger.said.append(f"adapter {agent} {name[:12]} was compared again ({where.rpartition(' ')[2][:12]})")
        elif card.comparison is None:
            ledger.fault("card", f"{where}, {name}", "field comparison: it was there, or nothing became another")
        gained = was.model_copy(update={"comparison": card.comparison})
        ledger.differs(gained.model_dump(mode="json"), card.model_dump(mode="json"), "card", f"{where}, {name}")

    # --- files --------------------------------------------------------------------------------------------------------

    def check_files(self, agent: str, adapter: str) -> None:
        """The files of an adapter, where they are here, have the digest that it is named by."""
        if (agent, adapter) in self.hashed:
            return
        self.hashed.add((agent, adapter))
        place = self.common_dir / "pantheon" / "adapters" / agent / adapter.removeprefix("sha256:")
        if not os.path.lexists(place):
            return
        self.ledger.step(f"adapter {agent} {adapter[:19]}")
        whole = hashlib.sha256()
        try:
            for name in FILES:
                descriptor = os.open(place / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
                with os.fdopen(descriptor, "rb") as file:
                    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                        raise OSError(f"{name} is no regular file")
                    whole.update(f"{name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\0".encode())
        except OSError as error:
            self.ledger.fault("adapter", str(place), f"cannot be read: {error.strerror or error}")
            return
        if f"sha256:{whole.hexdigest()}" != adapter:
            why = f"its files have the digest sha256:{whole.hexdigest()[:12]}, not that which they are named by"
            self.ledger.fault("adapter", str(place), why)

    # --- nights -------------------------------------------------------------------------------------------------------

    def check_night(self, night: Night) -> None:
        """What a night says of adapters: its base's agents name them, they have cards, they were of its own model."""
        where = f"night {night.id}, night.json"
        named = self._agents_at(night.base)
        for label, adapter in sorted(night.adapters.items()):
            agent = label.partition("@")[0]
            if named is not None and named.get(label) != adapter:
                why = f"{label} of its base names {named.get(label, 'none')}, the night {adapter}"
                self.ledger.fault("night", where, f"field adapters: {why}")
            card = self.of(agent).get(adapter)
            if card is None:
                why = f"{label} had {adapter[:19]}, which has no card that counts"
                self.ledger.fault("card", where, f"field adapters: {why}")
                continue
            if night.model_sha256 and card.base_sha256 != night.model_sha256:
                why = f"{label} had {adapter[:19]}, which was trained on other weights than those of {night.model}"
                self.ledger.fault("card", where, f"field adapters: {why}")
            self.check_files(agent, adapter)
        for label in sorted((named or {}).keys() - night.adapters.keys()):
            if not night.teacher and label in night.agents:  # a teacher answers without anybody's adapter
                why = f"{label} of its base names {(named or {})[label]}, the night none"
                self.ledger.fault("night", where, f"field adapters: {why}")
        if night.teacher and night.model_sha256 and not night.teacher_sha256:
            self.ledger.fault("night", where, f"field teacher_sha256: nothing, but {night.teacher} taught")
        if night.teacher and night.teacher == night.model:
            self.ledger.fault("night", where, f"field teacher: {night.teacher} is the night's own model")

    # --- promotions ---------------------------------------------------------------------------------------------------

    def check_promotion(self, pull: PullRequest) -> None:
        """A PR that puts a version of an agent in force changes that agent's file and nothing else, and the adapter
        that it names has a card that counts."""
        ledger, where = self.ledger, f"PR {pull.id}"
        item = pull.items[0]
        agent = item.item.partition("@")[0]
        path = f".pantheon/agents/{agent}.toml"
        if len(pull.items) != 1 or item.target != path:
            ledger.fault("pr", where, f"it puts {item.item} in force, and its items are not {path} alone")
        with suppress(Unreadable):
            before = ledger.store.commit(pull.base, where).tree
            after = ledger.store.commit(item.commit, where).tree
            for changed in self._changed(before, after, where):
                if changed != path and not re.fullmatch(r"\.pantheon/prompts/[^/]+", changed):
                    ledger.fault("pr", where, f"it puts {item.item} in force, and changes {changed} as well")
        adapter = (self._agents_at(item.commit) or {}).get(item.item)
        if adapter is None:
            return
        card = self.of(agent).get(adapter)
        if card is None:
            ledger.fault("card", where, f"{item.item} would have {adapter[:19]}, which has no card that counts")
        elif card.comparison is None or not card.comparison.promote:
            ledger.said.append(f"{where} puts an adapter in force that no comparison found better: {adapter[:19]}")

    def _changed(self, old: str, new: str, where: str) -> list[str]:
        """The paths in which two trees differ, a whole directory by its own."""
        found: list[str] = []
        waiting = [("", old, new)]
        while waiting and len(found) < MOST:
            above, one, other = waiting.pop()
            had, has = self.ledger.store.tree(one, where), self.ledger.store.tree(other, where)
            for name in sorted(had.keys() | has.keys()):
                was, now = had.get(name, (0, "")), has.get(name, (0, ""))
                path = above + name.decode("utf-8", "backslashreplace")
                if was != now and (was[0], now[0]) == (TREE_MODE, TREE_MODE):
                    waiting.append((f"{path}/", was[1], now[1]))
                elif was != now and now[0] == TREE_MODE and path in (".pantheon", ".pantheon/agents", PROMPTS):
                    found += (f"{path}/{inner}" for inner in self.ledger.store.files(now[1], where))
                elif was != now:
                    found.append(path)
        return found

    def _agents_at(self, base: str) -> dict[str, str] | None:
        """name@version -> adapter, of the agent files of a commit; None, told, where it cannot be read. What the user
        wrote is not judged here."""
        store, where = self.ledger.store, f"the agents of {base}"
        found: dict[str, str] = {}
        try:
            tree = store.commit(base, "the base of a night").tree
            for part in (b".pantheon", b"agents"):
                mode, tree = store.tree(tree, where).get(part, (0, ""))
                if mode != TREE_MODE:
                    return {}
            texts = [
                store.read(blob, "blob", where)
                for name, (mode, blob) in store.tree(tree, where).items()
                if name.endswith(b".toml") and mode in (0o100644, 0o100755)
            ]
        except Unreadable:
            return None
        for text in texts:
            with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                agent: dict[str, Any] = tomllib.loads(text.decode("utf-8"))["agent"]
                if agent["runtime"].get("adapter"):
                    found[f"{agent['name']}@{agent['version']}"] = str(agent["runtime"]["adapter"])
        return found


def _file(adapter: str) -> str:
    return f"{adapter.removeprefix('sha256:')}.json"
