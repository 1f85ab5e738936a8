"""Candidates are acceptable as they stand: real sentences, real titles, topics."""

from __future__ import annotations

import time

import pytest
from note_samples import FACTS, FLAGGED_PATH, NOTES, RULES

from pantheon.frontmatter import parse
from pantheon.tools import prose
from pantheon.tools.candidates import candidates, filename_title, names, overlap, slug_of
from pantheon.tools.facts import build_facts, build_inbound, build_vocabulary
from pantheon.tools.rules import is_right
from pantheon.tools.words import is_topic


def choices(field: str, path: str) -> tuple[str, ...]:
    return candidates(field, path, parse(NOTES[path], path), FACTS, RULES)


def test_titles_come_from_the_heading_without_its_date() -> None:
    assert choices("title", "docs/backups.md") == ("Nightly backups of the mail server",)


def test_flags_leave_a_title() -> None:
    assert choices("title", FLAGGED_PATH) == ("Phase 1 — Restore drills",)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("--title Setup basic kanban --debug.md", "Setup basic kanban"),
        ("2025-11-16-top-level-sync.md", "Top level sync"),
        ("review-fixes-2026-03-14.md", "Review fixes"),
        ("0002-citations-first.md", "Citations first"),
        ("test_hygiene.md", "Test hygiene"),
        ("github-cli-notes.md", "GitHub CLI notes"),
    ],
)
def test_titles_from_file_names(name: str, title: str) -> None:
    assert filename_title(f"docs/{name}", parse(b"GitHub has a CLI. GitHub works.\n", name)) == title


def test_descriptions_are_sentences_of_the_text() -> None:
    found = choices("description", "docs/backups.md")
    assert "Back up the mail server every night with restic and prove each week that a restore works." in found
    body = prose.folded(" ".join(b.text for b in prose.blocks(parse(NOTES["docs/backups.md"], "x").body)))
    for text in found:
        assert prose.folded(text) in body
        assert is_right(text, RULES.field["description"])
        assert "](" not in text and "`" not in text


@pytest.mark.parametrize("path", sorted(NOTES))
def test_every_note_has_a_candidate_for_every_open_field(path: str) -> None:
    for field in ("title", "description", "tags"):
        found = choices(field, path)
        assert found or path == "docs/2025-11-05_empty.md"
        assert len(found) <= RULES.field[field].choose
        assert len(set(found)) == len(found)
        if field != "tags":
            assert all(is_right(value, RULES.field[field]) for value in found)
    assert choices("title", path) and choices("description", path)


def test_tags_are_topics_and_never_those_that_are_there() -> None:
    found = choices("tags", "docs/backups.md")
    assert "backup" in found or "backups" in found
    assert not {"the", "phase", "goal", "every"} & set(found)
    doc = parse(b"---\ntags: [" + found[0].encode() + b"]\n---\n" + NOTES["docs/backups.md"], "docs/backups.md")
    assert found[0] not in candidates("tags", "docs/backups.md", doc, FACTS, RULES)
    assert not is_topic("phase") and not is_topic("2025-11-05") and is_topic("knowledge-graph")


def test_names_are_free_slugs_in_the_same_directory() -> None:
    doc = parse(NOTES[FLAGGED_PATH], FLAGGED_PATH)
    assert names(FLAGGED_PATH, doc, FACTS, RULES) == ("phase-1-restore-drills.md",)
    taken = build_facts(NOTES, (*FACTS.paths, "docs/Phase-1-Restore-drills.md"), {})
    assert names(FLAGGED_PATH, doc, taken, RULES) == ("phase-1-restore-drills-2.md",)


def test_slugs_are_cut_at_a_word() -> None:
    assert slug_of("Größe & Maß — 日本") != ""
    assert not slug_of("developer experience " * 9 + "and").endswith("-")


def test_the_order_of_candidates_is_stable_and_varies_by_path() -> None:
    doc = parse(NOTES["docs/backups.md"], "x")
    firsts = {candidates("tags", f"n{n}.md", doc, FACTS, RULES)[0] for n in range(20)}
    assert len(firsts) > 2
    assert choices("tags", "docs/backups.md") == choices("tags", "docs/backups.md")


def test_the_vocabulary_weighs_the_tags_people_used() -> None:
    words = build_vocabulary(NOTES.items())
    assert words["backup"] >= 2
    assert "the" not in words


def test_inbound_links_name_their_files() -> None:
    assert build_inbound(NOTES.items(), NOTES)["docs/keys.md"] == ("docs/backups.md", "docs/bom.md", "notes/board.md")


def test_sentences_end_where_a_reader_ends_them() -> None:
    text = "Use it, e.g. Nightly. See v1.2 of it! Really? Yes."
    assert prose.sentences(text) == ["Use it, e.g. Nightly.", "See v1.2 of it!", "Really?", "Yes."]
    assert prose.plain("**Bold** [link](x.md) `a_b` [[t|wiki]] ([src][1]) &amp; <b>x</b>") == "Bold link a_b wiki & x"


def test_large_and_hostile_notes_are_read_in_time() -> None:
    start = time.perf_counter()
    for unit in ("[", "[a](", "`", "*", "_a", "<a", "<!--", "- x\n", "# h\n", "a. ", "A! ", "](", "&amp;", "\u2500"):
        raw = (unit * 50_000).encode()
        doc = parse(raw, "a.md")
        facts = build_facts({"a.md": raw}, ("a.md",), {})
        for field in ("title", "description", "tags"):
            candidates(field, "a.md", doc, facts, RULES)
    assert time.perf_counter() - start < 12


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("calibrating", "calibrate", True),
        ("fit", "fitting", True),
        ("records", "record", True),
        ("graph", "knowledge-graph", True),
        ("tide", "tidy", False),
        ("sensor", "sense", False),
        ("pass", "passing", True),
    ],
)
def test_forms_of_one_word_are_one_tag(one: str, other: str, same: bool) -> None:
    assert overlap(one, other) is same
