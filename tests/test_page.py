"""The page of a night: sound HTML of bounded size, in which nothing that a record holds is more than text."""

from __future__ import annotations

import random
import re
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup, escape
from pydantic import ValidationError
from sample_night import HOSTILE, morning, patch_of, poisoned

from pantheon import page
from pantheon.growth import Learned
from pantheon.morning import templates
from pantheon.records import NightReport, PullState
from pantheon.report import ItemView, Morning, PullView, markdown

TEMPLATES = templates()
VOID = {"meta", "link", "br", "img", "input", "hr"}
SHAPES = {"circle", "rect", "path", "polyline", "polygon"}


class Reader(HTMLParser):
    """Elements, attributes and texts; holds that every element is closed by its own end."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.headings: list[int] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SHAPES
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all_of(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@cache
def few() -> Morning:
    return morning(nights=1, items=6, canaries=4)


@cache
def rendered() -> str:
    return page.html(morning(), TEMPLATES)


def test_a_page_is_sound_named_and_in_order() -> None:
    found = Reader(rendered())
    ids = found.all_of("id")
    assert len(ids) == len(set(ids))
    named = " ".join([*found.all_of("aria-labelledby"), *(a[1:] for a in found.all_of("href") if a.startswith("#"))])
    assert set(named.split()) <= set(ids)
    assert found.headings[0] == 1 and found.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(found.headings, found.headings[1:], strict=False))
    assert [found.tags[name] for name in ("header", "nav", "main", "footer", "title")] == [
        1,
        1,
        1,
        1,
        found.tags["svg"] + 1,
    ]


def test_nothing_in_it_runs_or_comes_from_elsewhere() -> None:
    found = Reader(rendered())
    assert not {"script", "link", "img", "iframe", "object", "form", "base"} & set(found.tags)
    assert not [name for _, name, _ in found.attributes if name == "style" or name.startswith("on")]
    assert all(value.startswith("#") for value in found.all_of("href"))
    assert not re.search(r"url\(|@import|https?:", TEMPLATES[page.STYLE])
    policy = next(value for value in found.all_of("content") if "default-src" in value)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert found.tags["style"] == 1


def test_every_chart_has_a_name_a_description_and_its_numbers_beside_it() -> None:
    figures = re.findall(r"<figure>.*?</figure>", rendered(), re.DOTALL)
    assert len(figures) >= 14
    for figure in figures:
        assert re.search(r'<svg[^>]* role="img" aria-labelledby="\S+-t" aria-describedby="\S+-d"', figure)
        assert "<title id=" in figure and "<desc id=" in figure
        assert re.search(r"<details>\s*<summary>.*<table>.*<th scope=", figure, re.DOTALL)


def test_what_needs_a_person_stands_first() -> None:
    text = Reader(page.html(morning(halted=True), TEMPLATES)).text
    order = [
        *("What needs you", "PR 11: Normalise the notes", "git pantheon accept 11", "git pantheon reject 11 -m WHY"),
        *("The gate of docstrings", "It opens with any of these", "did not pass", "git pantheon replay"),
        *("left out of the queue", "What it was worth", "Pull requests", "What happened", "Trends"),
    ]
    place = text.index("Trends")  # in the list of sections, before them all
    for words in order:
        place = text.index(words, place + 1)


def test_evidence_of_an_item_names_criterion_reviewer_and_how_sure_it_was() -> None:
    text = Reader(rendered()).text
    for words in ("frontmatter", "review.peer-a@2", "sure to 8", "only the front matter differs"):
        assert words in text


def test_without_canaries_it_says_so_plainly() -> None:
    found = morning(canaries=0, nights=0)
    text = Reader(page.html(found, TEMPLATES)).text
    assert "not measured" in text
    assert "no canaries" in text
    assert "A trend needs a second night." in text


def test_a_night_in_which_nothing_ran_is_a_page_too() -> None:
    whole = morning(nights=1)
    bare = whole.report.model_copy(
        update={"runs": (), "canaries": (), "prs": (), "quality": (), "timeline": (), "notes": (), "wall_s": 0.0}
    )
    text = Reader(page.html(Morning(bare), TEMPLATES)).text
    assert "Nothing needs you." in text
    assert "No item ran" in text


# --- what records hold -----------------------------------------------------------------------------------------------


def test_markup_in_every_field_stays_text() -> None:
    text = page.html(poisoned(morning(nights=2, halted=True)), TEMPLATES)
    found = Reader(text)
    assert not {"script", "img", "svg:script", "iframe"} & set(found.tags)
    assert not [name for _, name, _ in found.attributes if name.startswith("on") or name == "style"]
    assert all(value.startswith("#") for value in found.all_of("href"))
    assert found.text.count("<script>") > 100
    for character in "\u202e\u2066\x1b\x00\u200b":
        assert character in HOSTILE
        assert character not in text
    assert "49" not in re.findall(r"\{\{.{0,9}|49 }}", text)
    assert "{{ 7*7 }}" in found.text
    text.encode()


@given(st.integers(0, 2**32), st.sampled_from([0.02, 0.2, 1.0]))
@settings(max_examples=40)
def test_no_number_that_a_record_may_hold_breaks_a_form(seed: int, share: float) -> None:
    dice = random.Random(seed)
    huge = (float("inf"), float("-inf"), float("nan"), 1e308, 5e-324, 0.0, -1.0)

    def odd(value: Any) -> Any:
        match value:
            case dict():
                return {name: one if name == "schema_version" else odd(one) for name, one in value.items()}
            case list():
                return [odd(one) for one in value]
            case float() if dice.random() < share:
                return dice.choice(huge)
            case int() if not isinstance(value, bool) and dice.random() < share:
                return dice.choice((0, -1, 10**30))
        return value

    try:
        report = NightReport.model_validate(odd(few().report.model_dump(mode="json")))
    except ValidationError:
        return  # a record refuses it
    assert Reader(page.html(Morning(report, (report,), few().pulls), TEMPLATES)).tags["h1"] == 1
    assert markdown(report)


def test_paths_that_are_no_text_are_shown_escaped() -> None:
    found = morning(nights=0)
    view = found.pulls[0]
    item = view.items[0]
    odd = ItemView(item.item.model_copy(update={"target": "docs/\udcff.md"}), item.run, "@@ -1 +1 @@\n+\udcfe\n")
    text = page.html(Morning(found.report, (), (PullView(view.pull, (odd,)),)), TEMPLATES)
    assert "docs/\\udcff.md" in text
    assert "+\\udcfe" in text


def test_ids_are_stable_and_take_nothing_from_a_record_but_letters_and_digits() -> None:
    view = morning(nights=0).pulls[0]
    assert page.anchor(view) == "pr-11"
    assert re.fullmatch(r"pr-11-item-[0-9a-f]{16}", page.anchor(view, view.items[0]))
    odd = view.items[0].item.model_copy(update={"item": 'a b"><script>'})
    assert page.anchor(view, ItemView(odd, view.items[0].run, "")) == "pr-11-item-abscript"


# --- for the desk ----------------------------------------------------------------------------------------------------


def test_controls_stand_with_each_pr_and_item_and_the_style_may_be_a_file() -> None:
    found = morning(nights=0)
    asked: list[str] = []

    def controls(view: PullView, item: ItemView | None) -> Markup:
        asked.append(page.anchor(view, item))
        return Markup("<form id='f-{}'></form>").format(asked[-1])

    text = page.html(found, TEMPLATES, controls=controls, head=Markup("<meta name='x'>"), stylesheet="/style.css")
    assert asked == [name for v in found.pulls for name in (page.anchor(v), *(page.anchor(v, i) for i in v.items))]
    assert text.count("<form id=") == len(asked)
    assert '<link rel="stylesheet" href="/style.css">' in text
    assert "<style>" not in text and "Content-Security-Policy" not in text
    assert text.index("<meta name='x'>") < text.index("</head>")
    assert page.style(TEMPLATES) == TEMPLATES["style.css"]


def test_a_decided_pr_needs_nobody_and_offers_no_commands() -> None:
    found = morning(nights=0)
    closed = tuple(PullView(v.pull.model_copy(update={"state": PullState.ACCEPTED}), v.items) for v in found.pulls)
    text = page.html(Morning(found.report, (), closed), TEMPLATES)
    assert "git pantheon accept" not in text
    assert '<span class="tag plain">accepted</span>' in text


# --- diffs and sizes -------------------------------------------------------------------------------------------------


def test_a_diff_is_shown_by_sign_and_element_without_its_headers() -> None:
    diff = page.cut_patch(patch_of(morning(nights=0).report.runs[1]), 10_000, "c" * 40)
    assert [kind for kind, _ in diff.lines] == [
        "at",
        "same",
        "del",
        "del",
        "add",
        "add",
        "add",
        "add",
        "same",
        "same",
        "same",
    ]
    assert (diff.added, diff.deleted, diff.cut) == (4, 2, "")


def test_lines_of_a_hunk_that_look_like_headers_are_lines() -> None:
    patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n--- old\n+++ new\n rename from a\n"
    diff = page.cut_patch(patch, 10_000, "")
    assert diff.lines == (("at", "@@ -1,2 +1,2 @@"), ("del", "--- old"), ("add", "+++ new"), ("same", " rename from a"))
    assert (diff.added, diff.deleted) == (1, 1)


def test_a_rename_and_a_binary_file_are_told() -> None:
    patch = "diff --git a/a b/b\nsimilarity index 100%\nrename from a\nrename to b\n"
    patch += "diff --git a/i b/i\nBinary files differ\n"
    assert [text for _, text in page.cut_patch(patch, 10_000, "").lines] == [
        "rename from a",
        "rename to b",
        "Binary files differ",
    ]


@given(st.text(max_size=400), st.integers(0, 400))
def test_a_cut_diff_is_never_much_longer_than_allowed(body: str, most: int) -> None:
    diff = page.cut_patch(f"@@ -1 +1 @@\n+{body}\n", most, "")
    assert sum(len(str(escape(text)).encode("utf-8", "replace")) for _, text in diff.lines) <= most
    assert diff.added >= 1


def test_a_diff_of_ten_thousand_lines_is_cut_with_the_command_for_the_whole() -> None:
    found = morning(nights=0)
    view = found.pulls[0]
    long = "@@ -1 +1,10000 @@\n" + "".join(f"+line {n} \u202e<b>\n" for n in range(10_000))
    one = Morning(found.report, (), (PullView(view.pull, (ItemView(view.items[0].item, view.items[0].run, long),)),))
    text = page.html(one, TEMPLATES)
    assert len(text) < len(page.html(found, TEMPLATES)) + page.ONE_DIFF
    assert re.search(r"\d{4} lines left out here; the whole: <code class=\"cmd\">git show [0-9a-f]{12}", text)
    assert '<span class="plus">+10000</span>' in text


def test_a_line_without_end_is_cut() -> None:
    diff = page.cut_patch("@@ -1 +1 @@\n+" + "x" * 1_000_000 + "\n", page.ONE_DIFF, "")
    assert max(len(text) for _, text in diff.lines) <= page.LINE


@pytest.mark.parametrize("items", [300, 900])
def test_a_page_of_hundreds_of_large_diffs_stays_under_three_megabytes(items: int) -> None:
    found = morning(nights=2)
    view = found.pulls[0]
    long = "@@ -1 +1,600 @@\n" + "".join(f"+{n} <&> {'é' * 40}\n" for n in range(600))
    many = tuple(ItemView(i.item.model_copy(update={"item": f"{n:016x}"}), i.run, long) for n, i in
                 enumerate(view.items[n % len(view.items)] for n in range(items)))  # fmt: skip
    text = page.html(Morning(found.report, found.past, (PullView(view.pull, many),)), TEMPLATES)
    assert len(text.encode()) < 3_000_000
    assert (f"And {items - page.DETAILED} more items" in text) is (items > page.DETAILED)


def test_a_report_of_thousands_of_causes_and_notes_is_bounded() -> None:
    found = morning(nights=0)
    failing = next(run for run in found.report.runs if run.node)
    runs = tuple(
        failing.model_copy(update={"id": f"{n:032x}", "reason": f"cause {n} {'x' * 9000}"}) for n in range(2000)
    )
    report = found.report.model_copy(update={"runs": runs, "notes": tuple("n" * 5000 for _ in range(300))})
    text = page.html(Morning(NightReport.model_validate(report.model_dump())), TEMPLATES)
    assert len(text) < 400_000
    assert "more causes" in text
    assert "And 280 more" in text


# --- learning --------------------------------------------------------------------------------------------------------


def test_a_learning_curve_has_its_band_its_points_and_its_numbers() -> None:
    (figure,) = [one for one in re.findall(r"<figure>.*?</figure>", rendered(), re.DOTALL) if 'id="growth0-t"' in one]
    assert "What doc.frontmatter learned" in figure and "80 % not with this curve" in figure
    assert figure.count("<polyline") == 1 and figure.count("<polygon") == 1  # the curve and its band
    assert figure.count("whisker") == 5  # four versions, and the new items
    assert re.search(r"doc\.frontmatter@4</th><td[^>]*>1530</td><td[^>]*>85</td><td[^>]*>120</td>", figure)


def test_two_versions_are_drawn_without_a_curve_and_one_is_not_drawn() -> None:
    figures = re.findall(r"<figure>.*?</figure>", rendered(), re.DOTALL)
    (figure,) = [one for one in figures if 'id="growth1-t"' in one]
    assert "No curve yet" in figure and "<polyline" not in figure and figure.count("whisker") == 2
    found = few()
    lone = replace(found.learned.agents[1], points=found.learned.agents[1].points[:1])
    text = page.html(replace(found, learned=Learned((lone,))), TEMPLATES)
    assert "growth0" not in text and "held-out pass, code.docstring@2" in text.lower()


def test_a_first_night_shows_what_was_learned_before_it() -> None:
    found = few()
    text = page.html(Morning(found.report, (), found.pulls, found.learned), TEMPLATES)
    assert "What doc.frontmatter learned" in text and "A trend needs a second night" not in text
