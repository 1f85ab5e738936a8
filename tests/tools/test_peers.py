"""The blind reviewers of any change: what is asked, what it is compared with, and that the answer does not show."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.errors import ToolError
from pantheon.records import Record
from pantheon.tools import peers
from pantheon.tools.facts import Facts
from pantheon.tools.peers import PlaceArgs, TextArgs
from pantheon.tools.tool import Nothing
from pantheon.tools.workspace import Workspace

TIDES = b"""class Harbour:
    def load_tides(self, name):
        table = read_table(name)
        return [tide for tide in table if tide.height]

    def close(self):
        self.gate.shut()


def count_boats(quay):
    return len(quay.boats)
"""
OTHERS = {
    "src/garden.py": b'def water_roses(can):\n    """Water the roses before the sun is high."""\n    can.empty()\n\n\n'
    b'def cut_hedge(hedge):\n    """Cut the hedge in autumn."""\n    hedge.cut()\n',
    "src/oven.py": b'def bake_bread(dough):\n    """Bake the bread until its crust is brown."""\n    dough.bake()\n',
    "src/votes.py": b'def count_ballots(box):\n    """Every ballot counts exactly once."""\n    return len(box)\n',
    "docs/oven.md": b"# Care of the oven\n\nClean it every Friday.\n",
    "docs/garden.md": b"Roses\n=====\n\nThey need water in the evening.\n",
}


def change(
    root: Path, path: str, before: bytes | None, after: bytes | None, **more: tuple[bytes | None, bytes]
) -> Workspace:
    """A worktree in which a file, and perhaps others beside it, changed."""
    base = {**OTHERS, **({path: before} if before is not None else {})}
    base |= {name: old for name, (old, _) in more.items() if old is not None}
    ws = Workspace(root, path, Record(), Facts(paths=tuple(sorted(base))), base.get)
    if after is not None and after != before:
        ws.write(path, after)
    for name, (_, new) in more.items():
        ws.write(name, new)
    return ws


def asked(ws: Workspace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The values of both questions."""
    (text,), (place,) = peers.offer_change(ws), peers.offer_place(ws)
    return text.args["text"] or (), place.args["place"] or ()


def with_line(raw: bytes, above: bytes, line: bytes) -> bytes:
    return raw.replace(above, above + line, 1)


DOC = b'        """Load the tide tables of a harbour."""\n'


def test_a_docstring_is_asked_for_with_its_function(tmp_path: Path) -> None:
    ws = change(tmp_path, "src/tides.py", TIDES, with_line(TIDES, b"def load_tides(self, name):\n", DOC))
    texts, places = asked(ws)
    assert len(texts) == len(places) == 4
    right = next(text for text in texts if text.endswith(": Load the tide tables of a harbour."))
    there = next(place for place in places if place.endswith(": Harbour.load_tides"))
    assert peers.match_change(ws, TextArgs(text=right)).same
    assert peers.match_place(ws, PlaceArgs(place=there)).same
    assert not peers.match_change(ws, TextArgs(text=next(t for t in texts if t != right))).same
    assert not peers.match_place(ws, PlaceArgs(place=next(p for p in places if p != there))).same
    shown = peers.read_around(ws, Nothing())
    assert "tide tables" not in shown.text
    assert "read_table" in shown.text
    assert shown.place == "Harbour.load_tides"
    assert peers.read_written(ws, Nothing()).text == "Load the tide tables of a harbour."


def test_decoys_look_like_the_text_and_share_no_word_with_the_place(tmp_path: Path) -> None:
    ws = change(tmp_path, "src/tides.py", TIDES, with_line(TIDES, b"def load_tides(self, name):\n", DOC))
    texts, _ = asked(ws)
    others = {text.partition(": ")[2] for text in texts} - {"Load the tide tables of a harbour."}
    docstrings = {line.strip(b' "').decode() for raw in OTHERS.values() for line in raw.splitlines() if b'"""' in line}
    assert others <= docstrings


@pytest.mark.parametrize(
    ("path", "before", "after", "place"),
    [
        ("a.py", TIDES, TIDES.replace(b"def count", b"# Boats at the quay\ndef count"), "count_boats"),
        ("a.js", b"function tie(rope) {\n}\n", b"function tie(rope) {\n  // ropes hold boats\n}\n", "tie"),
        ("a.js", b"class Boat {\n}\n", b"/** A boat at the quay. */\nclass Boat {\n}\n", "Boat"),
        ("a.go", b"func (b *Boat) Tie() {\n}\n", b"// Tie holds the boat.\nfunc (b *Boat) Tie() {\n}\n", "Tie"),
        ("a.md", b"# Boats\n\n## Ropes\n\nOld.\n", b"# Boats\n\n## Ropes\n\nOld.\nA rope holds a boat.\n", "Ropes"),
        ("a.rst", b"Boats\n=====\n\nOld.\n", b"Boats\n=====\n\nOld.\n\nA rope holds a boat.\n", "Boats"),
        ("a.toml", b"[rope]\n", b"[rope]\nlength = 'of the long rope'\n", "a.toml"),
        ("a.py", b"import os\n", b"import os\n\nROPES = 'the long ones'\n", "a.py"),
    ],
)
def test_a_line_belongs_to_its_symbol_heading_or_file(
    tmp_path: Path, path: str, before: bytes, after: bytes, place: str
) -> None:
    ws = change(tmp_path, path, before, after)
    assert peers.read_around(ws, Nothing()).place == place
    assert any(value.rpartition(": ")[2] == place for value in asked(ws)[1])


def test_a_new_file_beside_the_target_belongs_to_the_target(tmp_path: Path) -> None:
    test = b"def test_boats():\n    assert count_boats(quay) == 7, 'boats at the quay'\n"
    ws = change(tmp_path, "src/tides.py", TIDES, None, **{"tests/test_tides.py": (None, test)})
    shown = peers.read_around(ws, Nothing())
    assert shown.place == "src/tides.py"
    assert "def count_boats(quay):" in shown.text
    assert "boats at the quay" in peers.read_written(ws, Nothing()).text


def test_of_what_was_taken_away_the_file_is_shown_without_it(tmp_path: Path) -> None:
    ws = change(tmp_path, "src/tides.py", with_line(TIDES, b"def load_tides(self, name):\n", DOC), TIDES)
    assert peers.read_written(ws, Nothing()).text == "Load the tide tables of a harbour."
    assert "Load" not in peers.read_around(ws, Nothing()).text


def test_of_a_new_name_the_name_is_asked_for(tmp_path: Path) -> None:
    base = {**OTHERS, "docs/x.md": b"# Ropes\n\nThey hold boats.\n"}
    ws = Workspace(tmp_path, "docs/x.md", Record(), Facts(paths=tuple(base)), base.get)
    ws.rename("docs/x.md", "docs/ropes.md")
    texts, places = asked(ws)
    assert any(text.endswith("docs/ropes.md") for text in texts)
    assert any(place.endswith("Ropes") for place in places)


def test_where_nothing_changed_nothing_is_asked(tmp_path: Path) -> None:
    ws = change(tmp_path, "src/tides.py", TIDES, None)
    assert peers.offer_change(ws) == peers.offer_place(ws) == ()
    with pytest.raises(ToolError, match="not among"):
        peers.match_change(ws, TextArgs(text="x"))
    with pytest.raises(ToolError, match="not among"):
        peers.match_place(ws, PlaceArgs(place="x"))


def test_in_a_repository_of_one_file_there_is_still_something_to_compare_with(tmp_path: Path) -> None:
    base = {"a.py": b"def f(x):\n    return x\n"}
    ws = Workspace(tmp_path, "a.py", Record(), Facts(paths=("a.py",)), base.get)
    ws.write("a.py", b'def f(x):\n    """Give back the rope."""\n    return x\n')
    texts, places = asked(ws)
    assert len(texts) == len(places) == 4


def test_the_place_of_the_answer_gives_nothing_away(tmp_path: Path) -> None:
    found: Counter[tuple[str, int]] = Counter()
    for n in range(120):
        path = f"src/tides{n}.py"
        (tmp_path / str(n)).mkdir()
        ws = change(tmp_path / str(n), path, TIDES, with_line(TIDES, b"def load_tides(self, name):\n", DOC))
        texts, places = asked(ws)
        found["text", next(i for i, text in enumerate(texts) if "tide tables" in text)] += 1
        found["place", next(i for i, place in enumerate(places) if "load_tides" in place)] += 1
    assert len(found) == 8
    assert min(found.values()) > 12, found


def test_the_same_change_is_asked_the_same_way(tmp_path: Path) -> None:
    after = with_line(TIDES, b"def load_tides(self, name):\n", DOC)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert asked(change(tmp_path / "a", "src/t.py", TIDES, after)) == asked(
        change(tmp_path / "b", "src/t.py", TIDES, after)
    )


TEXT = st.lists(
    st.sampled_from(["def f(x):", "    return tide", "# Boats", "", "class A:", "\t\x00", "é - rope", '"""', "a" * 300])
)


@given(TEXT, TEXT, st.sampled_from(["a.py", "a.md", "a.bin"]))
def test_no_change_makes_a_question_fail(
    tmp_path_factory: pytest.TempPathFactory, before: list[str], after: list[str], path: str
) -> None:
    ws = change(tmp_path_factory.mktemp("ws"), path, "\n".join(before).encode(), "\n".join(after).encode("utf-16"))
    for offer in peers.offer_change(ws):
        for text in offer.args["text"] or ():
            assert peers.match_change(ws, TextArgs(text=text)).field == "place"
            assert len(text) <= 200
    for offer in peers.offer_place(ws):
        for place in offer.args["place"] or ():
            assert peers.match_place(ws, PlaceArgs(place=place)).field == "place"


def test_names_that_no_prompt_can_hold_are_shown_plainly(tmp_path: Path) -> None:
    path = "a/" + "b" * 200 + "/\udce9\u202e.toml"
    ws = change(tmp_path, path, b"[rope]\n", b"[rope]\nlength = 'long \x1b[31m rope'\n")
    for value in (*asked(ws)[0], *asked(ws)[1], peers.read_around(ws, Nothing()).text):
        value.encode()
        assert value.replace("\n", "").isprintable()
        assert len(value) <= 200


def test_a_large_hostile_file_is_read_in_bounded_time(tmp_path: Path) -> None:
    for n, line in enumerate((b"def f" + b"(" * 100, b"    " * 60 + b"# x", b"a=" * 200, b"export " * 60)):
        (tmp_path / str(n)).mkdir()
        raw = (line + b"\n") * (900_000 // (len(line) + 1))
        ws = change(
            tmp_path / str(n), "a.py", raw, raw[: len(raw) // 2] + b"\nropes hold boats\n" + raw[len(raw) // 2 :]
        )
        asked(ws)
