"""Canaries of notes: the right one passes every check, each wrong one is wrong as it says, nothing is ever raised."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from note_samples import RULES, RULES_FILE, WHEN

from pantheon.frontmatter import parse
from pantheon.records import Repair
from pantheon.tools import check, match
from pantheon.tools.facts import Facts, build_facts
from pantheon.tools.note_seeds import seeds
from pantheon.tools.rules import RULES_PATH, check_note
from pantheon.tools.tool import Seed, Tree
from pantheon.tools.workspace import Workspace

HARBOUR = b"""---
created_at: "2026-03-05T10:00:00Z"
mine: 4930e12   # kept
---
# Tide tables of the harbour

Tide tables are loaded every night from the harbour office. The loader tries twice and then waits for the morning.

Each of the 12 tables names the hour at which the harbour is deep enough for the ferry. See [the oven](oven.md).
"""
OVEN = b"""# Care of the oven

The oven in the boathouse is cleaned every Friday. Bread is baked in the oven on Saturday morning for the crew.

Let the oven cool for two hours first, and keep the door open while it is swept with a brush.
"""
VIOLIN = b"""---
title: Tuning a violin
tags: [violin, strings]
description: How the four strings of a violin are tuned with a fork.
---
# Tuning a violin

A violin is tuned from its lowest string. Each of the strings is compared with a fork before the violin is played.
"""
NOTES = {"docs/tides.md": HARBOUR, "docs/oven.md": OVEN, "docs/violin.md": VIOLIN}
REVIEWED = {"wrong-title", "wrong-topics", "plausible-nonsense"}


def world(notes: dict[str, bytes]) -> tuple[Tree, Facts]:
    facts = build_facts(notes, notes, dict.fromkeys(notes, WHEN))
    return Tree(frozenset(notes), lambda path: notes.get(path)), facts


def sown(path: str, notes: dict[str, bytes] | None = None) -> dict[str, Seed]:
    found = {**NOTES, **(notes or {})}
    tree, facts = world(found)
    return {seed.kind: seed for seed in seeds(path, found[path], RULES, tree, facts)}


def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: Seed) -> dict[str, int]:
    """What the packaged checks say of a seed, as programs: name -> exit status."""
    for name, change in (("base", {}), ("tree", seed.after)):
        for path, data in {**NOTES, **seed.before, **change, RULES_PATH: RULES_FILE.read_bytes()}.items():
            place = tmp_path / name / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data or b"")
    monkeypatch.chdir(tmp_path / "tree")
    return {name: check.main([name, "--base", str(tmp_path / "base"), "--", *seed.after]) for name in check.CHECKS}


@pytest.mark.parametrize("path", sorted(NOTES))
def test_the_right_change_passes_every_check_and_its_base_breaks_the_rules(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = sown(path)["restored"]
    assert good.good
    before = good.before[path] or b""
    assert any(f.repair is not Repair.REPORT for f in check_note(path, before, RULES))
    assert "title" not in parse(before, path).mapping()
    assert judged(tmp_path, monkeypatch, good) == dict.fromkeys(check.CHECKS, 0)


def test_what_a_person_wrote_comes_back_as_it_was() -> None:
    after = parse(sown("docs/violin.md")["restored"].after["docs/violin.md"] or b"", "docs/violin.md")
    assert (after.get("title"), after.get("tags")) == ("Tuning a violin", ["violin", "strings"])
    assert after.get("description") == "How the four strings of a violin are tuned with a fork."


def test_wrong_changes_are_wrong_as_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "docs/tides.md"
    found = sown(path)
    good = parse(found.pop("restored").after[path] or b"", path)
    assert found.keys() == {*REVIEWED, "lost-paragraph", "changed-body", "broken-link", "swapped-dates"}
    changed = {
        kind: {key for key, value in parse(seed.after[path] or b"", path).mapping().items() if good.get(key) != value}
        for kind, seed in found.items()
    }
    assert changed["wrong-title"] == {"title", "slug"}
    assert changed["wrong-topics"] == {"tags"}
    assert changed["plausible-nonsense"] == {"title", "slug", "tags", "description"}
    assert parse(found["swapped-dates"].after[path] or b"", path).get("created_at") == "2026-05-03T10:00:00Z"
    assert b"13 tables" in (found["changed-body"].after[path] or b"")
    assert b"](oven-gone.md)" in (found["broken-link"].after[path] or b"")
    assert len(parse(found["lost-paragraph"].after[path] or b"", path).body) < len(good.body) - 60
    for kind, seed in found.items():
        said = judged(tmp_path / kind, monkeypatch, seed)
        assert (not any(said.values())) == (kind in REVIEWED), (kind, said)


def test_of_a_wrong_value_the_note_s_own_word_stands_among_the_answers(tmp_path: Path) -> None:
    path = "docs/tides.md"
    tree, facts = world(NOTES)
    for kind, own in (("wrong-title", "Tide tables of the harbour"), ("wrong-topics", "harbour")):
        seed = sown(path)[kind]
        place = tmp_path / kind
        place.mkdir()
        ws = Workspace(place, path, RULES, facts, lambda name, seed=seed: seed.before.get(name) or tree.read(name))  # type: ignore[misc]
        ws.write(path, seed.after[path] or b"")
        field = "title" if kind == "wrong-title" else "topic"
        offers = (match.offer_title if field == "title" else match.offer_topic)(ws)
        seconds = (match.offer_second_title if field == "title" else match.offer_second_topic)(ws)
        assert own in (offers[0].args[field] or ())
        assert any(value.endswith(own) for value in seconds[0].args[field] or ())


def test_both_reviewers_are_asked_for_the_same_value_among_others(tmp_path: Path) -> None:
    many = {f"docs/n{n}.md": f"# Note {word} of the {n}\n\nAbout {word}.\n".encode() for n, word in enumerate(WORDS)}
    tree, facts = world({**NOTES, **many})
    ws = Workspace(tmp_path, "docs/violin.md", RULES, facts, tree.read)
    first, second = match.offer_title(ws)[0].args["title"] or (), match.offer_second_title(ws)[0].args["title"] or ()
    assert "Tuning a violin" in first
    assert "violin: Tuning a violin" in second
    assert {value.partition(": ")[2] for value in second} & set(first) == {"Tuning a violin"}


WORDS = ("garden", "opera", "volcano", "chess", "pottery", "cheese", "ferry", "lantern", "mustard", "saddle")


def test_a_note_that_says_too_little_or_is_damaged_gives_nothing() -> None:
    assert sown("docs/x.md", {"docs/x.md": b"Just a line.\n"}) == {}
    assert sown("docs/x.md", {"docs/x.md": b"---\ntitle: [\n---\n# Odd\n\nOdd odd.\n"}) == {}
    assert sown("docs/x.md", {"docs/x.md": b"\xff\xfe# Odd\n"}) == {}


texts = st.text(alphabet=st.sampled_from("---\n# :[]()ab\u00e9\u200b12 \t\"'-"), max_size=300)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(st.one_of(texts.map(lambda text: text.encode()), st.binary(max_size=200)))
def test_whatever_a_file_holds_nothing_is_raised_and_the_same_comes_again(raw: bytes) -> None:
    notes = {**NOTES, "docs/x.md": raw}
    tree, facts = world(notes)
    once = list(seeds("docs/x.md", raw, RULES, tree, facts))
    assert once == list(seeds("docs/x.md", raw, RULES, tree, facts))
    for seed in once:
        assert seed.after["docs/x.md"] != seed.before["docs/x.md"]
