"""Links are found, resolved, rewritten and judged; code is no link."""

from __future__ import annotations

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.tools import links

TREE = links.Tree(("a/one.md", "a/two words.md", "b/one.md", "b/only.md", "img/x(1).png", "top.md"))


def targets(path: str, text: str) -> list[str | None]:
    return [links.resolve(path, link, TREE) for link in links.find(text.encode())]


def test_every_way_to_name_a_file_is_understood() -> None:
    assert targets("a/one.md", "[x](two%20words.md#h)") == ["a/two words.md"]
    assert targets("a/one.md", '[x](<two words.md> "t")') == ["a/two words.md"]
    assert targets("a/one.md", "![x](../img/x(1).png)") == ["img/x(1).png"]
    assert targets("a/one.md", "[x](/b/only.md)") == ["b/only.md"]
    assert targets("a/one.md", "[d]: ../b/only.md 'T'") == ["b/only.md"]
    assert targets("a/one.md", "[[only]] [[Only#h|text]] [[b/one]] [[one]]") == [
        "b/only.md", "b/only.md", "b/one.md", None,
    ]  # fmt: skip


def test_code_web_addresses_and_anchors_are_no_links() -> None:
    text = "`[x](gone.md)` ``a ` [x](gone.md)`` [a](https://x.y/z.md) [b](#h) [c](mailto:x@y)\n"
    text += "```\n[x](gone.md)\n```\n"
    assert links.broken("a/one.md", text.encode(), TREE) == ()


def test_broken_links_have_their_line() -> None:
    text = b"ok [x](two%20words.md)\n[y](gone.md) [[nowhere]] [[one]] [z](../b) [[only]]\n"
    assert links.broken("a/one.md", text, TREE) == ((2, "gone.md"), (2, "nowhere"))


def test_a_rename_changes_link_targets_only() -> None:
    raw = b"x [t](two%20words.md#h 'T') <b> [[two words|t]] `[t](two%20words.md)`\r\n[d]: <two words.md>\r\n[o](one.md)"
    after = links.rewrite(raw, "a/one.md", {"a/two words.md": "a/two-words.md"}, TREE)
    assert after == (
        b"x [t](two-words.md#h 'T') <b> [[two-words|t]] `[t](two%20words.md)`\r\n[d]: <two-words.md>\r\n[o](one.md)"
    )


def test_the_links_of_a_file_that_moves_follow() -> None:
    raw = b"[a](two%20words.md) [b](../b/only.md) [c](/top.md)"
    after = links.rewrite(raw, "a/one.md", {"a/one.md": "one.md"}, TREE)
    assert after == b"[a](a/two%20words.md) [b](b/only.md) [c](/top.md)"


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("[]()<>|`#!:.\\ ab\n"), max_size=60))
def test_what_is_whole_is_whole_after_a_rename(text: str) -> None:
    raw = (text + "\n[t](two%20words.md) [[only]]\n").encode()
    moved = {"a/two words.md": "a/2.md", "b/only.md": "b/new-only.md"}
    after = links.rewrite(raw, "a/one.md", moved, TREE)
    now = links.Tree(tuple(moved.get(p, p) for p in TREE.paths))
    assert links.broken("a/one.md", after, now) == links.broken("a/one.md", raw, TREE)
    assert links.rewrite(raw, "a/one.md", {}, TREE) == raw


def test_hostile_lines_take_linear_time() -> None:
    start = time.perf_counter()
    for unit in (b"[", b"](", b"[[a", b"`", b"](a", b'](a "', b"](<a", b"![](((", b"``` `"):
        list(links.find(unit * 15_000 + b"\n" + (unit * 3_000 + b"\n") * 20))
    assert time.perf_counter() - start < 5
